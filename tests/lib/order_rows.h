/* Orders as rows in a store, without the log: what reads find. */
#ifndef TESTS_LIB_ORDER_ROWS_H
#define TESTS_LIB_ORDER_ROWS_H

#include "engine/order.h"
#include "engine/store.h"

struct order_rows {
    struct slice user_id;
    int64_t order_id, create_us;
    uint16_t machine, status;
    int64_t version;          /* history rows 2 .. version come too, a second apart */
    struct slice summary, detail; /* wire bytes; empty summary: user_id alone */
    bool no_card;             /* in the list row: as it was before there were cards */
};
/* Into the batch: head, body, history, list and counts. Fails the test where the store does. */
void order_rows_put(struct store_batch *batch, struct store *store, const struct machines *ms, const struct order_rows *o);

#endif
