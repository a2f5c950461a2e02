/* The shape of requests: every rule that can be decided without the store. Takes an unpacked message, adds a violation per broken rule
 * to the failure (path, limit, actual), and on success yields the encoded command. Pure; runs on the core that took the request. Unpack
 * only after scan.h has passed the bytes. The message is put into canonical form in place: maps sorted by key, unknown fields dropped.
 * Limits: docs/API.md, and here. */
#ifndef ENGINE_CHECK_H
#define ENGINE_CHECK_H

#include "engine/command.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/status.h"

enum {
    CHECK_ITEMS_MAX = 500,
    CHECK_ORDER_BYTES_MAX = 1 << 20,
    CHECK_USER_ID_BYTES_MAX = 64,
    CHECK_REQUEST_ID_BYTES_MIN = 16,
    CHECK_REQUEST_ID_BYTES_MAX = 128,
    CHECK_TITLE_BYTES_MAX = 512,
    CHECK_ATTRIBUTES_MAX = 64,
    CHECK_QUANTITY_MAX = 1000000,
    CHECK_NAME_BYTES_MAX = 128, /* sku_id, merchant_id, client_order_no, order_type, operator, channel, carrier, ... */
    CHECK_TEXT_BYTES_MAX = 1024, /* reason, attribute value, address.line */
    CHECK_ATTRIBUTE_KEY_BYTES_MAX = 64,
    CHECK_REFS_MAX = 100,        /* payments; shipments */
    CHECK_HISTORY_MAX = 1000,    /* entries of an imported order */
};
#define CHECK_TTL_US_MIN US_PER_S
#define CHECK_TTL_US_DEFAULT (7ll * 86400 * US_PER_S)
#define CHECK_TTL_US_MAX (30ll * 86400 * US_PER_S)

/* A Timestamp as Unix microseconds (nanos are cut); a violation of `field` when it is not within 0001-01-01..9999-12-31 or nanos not 0..999,999,999. */
bool check_timestamp(const Google__Protobuf__Timestamp *t, const char *field, int64_t *unix_us, struct failure *f);

struct checked {
    struct slice user_id; /* create, import, outcome: decides the slot */
    int64_t order_id;     /* transition, update, timers: decides the slot */
    bool validate_only;   /* create, transition, update, batch, timers: to be tried, not written */
    struct slice ack_group; /* transition: not empty: the name of the group whose event it acks; its id goes into the command before that is sent (command_ack_set_group) */
    struct slice command; /* encoded, in the arena */
};
/* false: f says why. traceparent: from the call's metadata, or empty. */
bool check_create(Orderdb__V1__CreateOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
bool check_transition(Orderdb__V1__TransitionOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
/* Fields of `order` that the mask does not name are not looked at. */
bool check_update(Orderdb__V1__UpdateOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
/* BatchCreateOrders with atomic, at least one request: one command of all. Violations name requests[i]. */
bool check_batch(Orderdb__V1__BatchCreateOrdersRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
bool check_set_timer(const Orderdb__V1__SetOrderTimerRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
bool check_cancel_timer(const Orderdb__V1__CancelOrderTimerRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f);
/* The fence behind GetRequestOutcome. */
bool check_outcome(const Orderdb__V1__GetRequestOutcomeRequest *m, struct arena *arena, struct checked *out, struct failure *f);
/* History needs the machine: legal edges, versions 1..n, times not going back, last status = order.status. */
bool check_import(Orderdb__V1__ImportOrdersRequest *m, const struct machines *ms, struct arena *arena, struct checked *out, struct failure *f);

#endif
