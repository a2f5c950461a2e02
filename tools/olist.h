/* Real orders of a Brazilian marketplace (Olist's public data set) as requests of ImportOrders. The mapping, and what is rejected and why: docs/OLIST.md.
 * Pure: files come as texts. */
#ifndef TOOLS_OLIST_H
#define TOOLS_OLIST_H

#include "orderdb/v1/order.pb-c.h"
#include "proto/base/arena.h"

enum olist_file { OLIST_ORDERS, OLIST_CUSTOMERS, OLIST_ITEMS, OLIST_PAYMENTS, OLIST_PRODUCTS, OLIST_CATEGORIES, OLIST_FILES };
enum { OLIST_ERROR_BYTES = 200 };
extern const char *const olist_file_names[OLIST_FILES]; /* "orders.csv", ... */

enum olist_verdict {
    OLIST_TAKEN,
    OLIST_NO_ITEMS,
    OLIST_TIMES_CONTRADICT,
    OLIST_STATUS_UNKNOWN,
    OLIST_CUSTOMER_UNKNOWN,
    OLIST_TIME_UNREADABLE,
    OLIST_AMOUNT_UNREADABLE,
    OLIST_NO_MEMORY,
    OLIST_VERDICTS,
};
const char *olist_verdict_text(enum olist_verdict v); /* "no items" */

struct olist;
struct olist_order {
    const char *order_no; /* Olist's order_id; never NULL */
    const char *status;   /* the status that it would have here; "": unknown */
    Orderdb__V1__ImportOrdersRequest *request; /* OLIST_TAKEN alone; in the arena and in the olist */
};

/* NULL: error names file, line and what is wrong. The texts are not needed afterwards. */
struct olist *olist_new(const struct slice texts[OLIST_FILES], char error[OLIST_ERROR_BYTES]);
void olist_free(struct olist *o);
size_t olist_count(const struct olist *o);
/* The i-th order of orders.csv. */
enum olist_verdict olist_get(const struct olist *o, size_t i, struct arena *arena, struct olist_order *out);

#endif
