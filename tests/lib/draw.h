/* Requests by chance, from the descriptors: any message of the contract, in values that belong to its fields (users, orders that exist, events, tokens that were
 * answered), so that many get through and meet one another; and in others now and then. Wire bytes, which need not be valid. */
#ifndef TESTS_LIB_DRAW_H
#define TESTS_LIB_DRAW_H

#include <protobuf-c/protobuf-c.h>

#include "tests/lib/test.h"

enum { DRAW_ORDERS = 64, DRAW_USERS = 5, DRAW_TOKEN_BYTES = 256 };

struct draw {
    struct test_random random;
    unsigned wild;                 /* percent of the values that are of no sense to their field */
    int64_t orders[DRAW_ORDERS];   /* ids that were answered */
    unsigned order_count;
    char token[DRAW_TOKEN_BYTES];  /* the last page token */
    /* private: of the message under way */
    const char *root;
    unsigned user;
};

void draw_order_seen(struct draw *d, int64_t order_id);
/* A message of that type; its length. What does not fit cap is left out. */
size_t draw_message(struct draw *d, const ProtobufCMessageDescriptor *type, uint8_t *out, size_t cap);

#endif
