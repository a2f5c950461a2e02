/* The Olist reader: six files in one input, cut at the lines "====". Whatever they hold, loading fails with a place or every order is taken or
 * rejected; what is taken adds up and has a history without gaps that never goes back in time. */
#include "tools/olist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request_check(const struct olist_order *o) {
    const Orderdb__V1__ImportOrdersRequest *r = o->request;
    int64_t total = 0;
    check(r->n_history > 0);
    check(strcmp(r->history[r->n_history - 1]->to_status, o->status) == 0);
    for (size_t i = 1; i < r->n_history; i++) {
        check(r->history[i]->time->seconds >= r->history[i - 1]->time->seconds);
        check(strcmp(r->history[i]->from_status, r->history[i - 1]->to_status) == 0);
    }
    check(r->order->n_items > 0);
    for (size_t i = 0; i < r->order->n_items; i++) total += r->order->items[i]->unit_price->minor_units;
    check(total == r->order->items_total->minor_units);
    check(total + r->order->freight->minor_units == r->order->payable->minor_units);
    check(orderdb__v1__import_orders_request__get_packed_size(r) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice texts[OLIST_FILES] = {0};
    char error[OLIST_ERROR_BYTES] = "";
    for (int f = 0; f < OLIST_FILES; f++) {
        const uint8_t *cut = size ? memmem(data, size, "====\n", 5) : NULL;
        size_t n = cut ? (size_t)(cut - data) : size;
        texts[f] = slice_of(data, n);
        data += cut ? n + 5 : n, size -= cut ? n + 5 : n;
    }
    struct olist *o = olist_new(texts, error);
    check((o != NULL) == (error[0] == 0));
    for (size_t i = 0; o && i < olist_count(o); i++) {
        struct arena a;
        struct olist_order order;
        arena_init(&a, 16 * MIB);
        enum olist_verdict v = olist_get(o, i, &a, &order);
        check(order.order_no);
        check((v == OLIST_TAKEN) == (order.request != NULL));
        if (v == OLIST_TAKEN) request_check(&order);
        arena_fini(&a);
    }
    olist_free(o);
    return 0;
}
