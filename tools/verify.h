/* Whether an order's history is the one that was written: versions without a gap, each entry starting where the one before ended, and every
 * chain hash what SHA-256 makes of the public answer (docs/API.md, "History"). Computed here again, with nothing of the server's code.
 * Pure: entries come from the caller, oldest first. */
#ifndef TOOLS_VERIFY_H
#define TOOLS_VERIFY_H

#include "orderdb/v1/order.pb-c.h"
#include "proto/base/hash.h"

enum { VERIFY_ERROR_BYTES = 320, VERIFY_STATUS_BYTES = 128 };

struct verify {
    int64_t version;            /* of the last entry; 0: none yet */
    uint8_t hash[SHA256_BYTES]; /* its chain hash; zeros: none yet */
    /* private */
    const Orderdb__V1__Order *order;
    char status[VERIFY_STATUS_BYTES];
};

/* The order is borrowed until the end. It is to be read before its history: what is committed in between then only makes the history longer. */
void verify_begin(struct verify *v, const Orderdb__V1__Order *order);
/* false: the link to this entry is broken, error says how. */
bool verify_entry(struct verify *v, const Orderdb__V1__HistoryEntry *e, char error[VERIFY_ERROR_BYTES]);
bool verify_end(const struct verify *v, char error[VERIFY_ERROR_BYTES]); /* false: the history ends before the order's version */
/* The hash of one entry behind `previous`. false: its time is none that can have been written. */
bool verify_chain_hash(int64_t order_id, const uint8_t previous[SHA256_BYTES], const Orderdb__V1__HistoryEntry *e, uint8_t out[SHA256_BYTES]);

#endif
