/* tools/olist.h and docs/OLIST.md: each rule of the mapping, on tables small enough to read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "proto/base/mem.h"
#include "proto/timetext.h"
#include "tools/olist.h"

#define ORDERS "order_id,customer_id,order_status,order_purchase_timestamp,order_approved_at,order_delivered_carrier_date,order_delivered_customer_date,order_estimated_delivery_date\n"
#define CUSTOMERS "customer_id,customer_unique_id,customer_zip_code_prefix,customer_city,customer_state\nc1,ann,01046,sao paulo,SP\n"
#define ITEMS "order_id,order_item_id,product_id,seller_id,shipping_limit_date,price,freight_value\n"
#define PAYMENTS "order_id,payment_sequential,payment_type,payment_installments,payment_value\n"
#define PRODUCTS "product_id,product_category_name,product_name_lenght\np1,beleza,1\np2,sem_traducao,1\np3,,1\n"
#define CATEGORIES "product_category_name,product_category_name_english\nbeleza,health_beauty\n"

struct world {
    struct olist *olist;
    struct arena arena;
    struct olist_order order;
    char error[OLIST_ERROR_BYTES];
};

static bool load(struct world *w, const char *orders, const char *items, const char *payments) {
    struct slice texts[OLIST_FILES] = {slice_str(orders), SLICE_LIT(CUSTOMERS), slice_str(items), slice_str(payments), SLICE_LIT(PRODUCTS), SLICE_LIT(CATEGORIES)};
    arena_init(&w->arena, MIB);
    w->olist = olist_new(texts, w->error);
    return w->olist != NULL;
}
static void unload(struct world *w) {
    olist_free(w->olist);
    arena_fini(&w->arena);
}
static enum olist_verdict get(struct world *w, size_t i) { return olist_get(w->olist, i, &w->arena, &w->order); }

static int64_t at(const char *text) {
    int64_t s;
    int32_t n;
    assert_true(time_parse(slice_str(text), &s, &n));
    return s;
}

static void test_an_order_field_by_field(void **state) {
    struct world w;
    assert_true(load(&w, ORDERS "o1,c1,delivered,2017-07-09 21:57:05,2017-07-09 22:10:13,2017-07-11 14:58:04,2017-07-26 10:57:55,2017-08-01 00:00:00\n",
                     ITEMS "o1,10,p3,s2,x,1.05,0.1\no1,2,p2,s2,x,0.29,2\no1,1,p1,s1,x,99.9,27.65\n", PAYMENTS "o1,2,voucher,1,10.0\no1,1,credit_card,3,100.5\n"));
    assert_int_equal(olist_count(w.olist), 1);
    assert_int_equal(get(&w, 0), OLIST_TAKEN);
    assert_string_equal(w.order.order_no, "o1");
    assert_string_equal(w.order.status, "DELIVERED");
    const Orderdb__V1__Order *o = w.order.request->order;
    assert_string_equal(o->client_order_no, "o1");
    assert_string_equal(o->user_id, "ann");
    assert_string_equal(o->merchant_id, "s1");
    assert_string_equal(o->machine, "retail@1");
    assert_string_equal(o->status, "DELIVERED");
    assert_int_equal(o->n_items, 3); /* in the order of their numbers, 1 2 10 */
    assert_string_equal(o->items[0]->sku_id, "p1");
    assert_string_equal(o->items[0]->title, "health_beauty");
    assert_string_equal(o->items[1]->title, "sem_traducao"); /* no translation */
    assert_string_equal(o->items[2]->title, "p3");           /* no category */
    assert_string_equal(o->items[2]->merchant_id, "s2");
    assert_int_equal(o->items[0]->quantity, 1);
    assert_int_equal(o->items[0]->unit_price->minor_units, 9990);
    assert_string_equal(o->items[0]->unit_price->currency_code, "BRL");
    assert_int_equal(o->items_total->minor_units, 9990 + 29 + 105);
    assert_int_equal(o->freight->minor_units, 2765 + 200 + 10);
    assert_int_equal(o->discount_total->minor_units, 0);
    assert_int_equal(o->payable->minor_units, o->items_total->minor_units + o->freight->minor_units);
    assert_int_equal(o->n_payments, 2); /* kept though they are not what was payable */
    assert_string_equal(o->payments[0]->payment_no, "o1-1");
    assert_string_equal(o->payments[0]->channel, "credit_card");
    assert_int_equal(o->payments[0]->amount->minor_units, 10050);
    assert_true(o->payments[0]->pay_time->seconds == at("2017-07-09 22:10:13"));
    assert_string_equal(o->payments[1]->payment_no, "o1-2");
    assert_string_equal(o->address->region_code, "BR-SP");
    assert_string_equal(o->address->line, "01046 sao paulo, SP");
    assert_string_equal(o->attributes[0]->key, "olist_status");
    assert_string_equal(o->attributes[0]->value, "delivered");
    assert_true(o->create_time->seconds == at("2017-07-09 21:57:05"));
    assert_true(o->update_time->seconds == at("2017-07-26 10:57:55"));
    unload(&w);
}

static void expect(const char *line, const char *status, const char *events) {
    struct world w;
    char orders[512], got[128] = "";
    snprintf(orders, sizeof(orders), ORDERS "o1,c1,%s,\n", line);
    assert_true(load(&w, orders, ITEMS "o1,1,p1,s1,x,1.0,0.0\n", PAYMENTS));
    enum olist_verdict v = get(&w, 0);
    if (v != OLIST_TAKEN) fail_msg("%s: %s", line, olist_verdict_text(v));
    assert_string_equal(w.order.status, status);
    const Orderdb__V1__ImportOrdersRequest *r = w.order.request;
    for (size_t i = 0; i < r->n_history; i++) {
        snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s@%lld", i ? " " : "", r->history[i]->event, (long long)(r->history[i]->time->seconds % 86400 / 3600));
        assert_int_equal(r->history[i]->version, i + 1);
        assert_string_equal(r->history[i]->from_status, i ? r->history[i - 1]->to_status : "");
    }
    assert_string_equal(got, events);
    assert_string_equal(r->history[r->n_history - 1]->to_status, status);
    unload(&w);
}

#define P "2018-01-01 01:00:00"
#define A "2018-01-01 02:00:00"
#define C "2018-01-01 03:00:00"
#define D "2018-01-01 04:00:00"

static void test_statuses_become_histories(void **state) {
    expect("created," P ",,,", "PENDING_PAYMENT", "import@1");
    expect("approved," P "," A ",,", "PAID", "import@1 pay@2");
    expect("invoiced," P "," A ",,", "PAID", "import@1 pay@2");
    expect("processing," P "," A ",,", "PAID", "import@1 pay@2");
    expect("shipped," P "," A "," C ",", "SHIPPED", "import@1 pay@2 ship@3");
    expect("delivered," P "," A "," C "," D, "DELIVERED", "import@1 pay@2 ship@3 deliver@4");
    expect("canceled," P ",,,", "CANCELLED", "import@1 cancel@1");
    expect("unavailable," P ",,,", "CANCELLED", "import@1 cancel@1");
    expect("unavailable," P "," A ",,", "REFUNDED", "import@1 pay@2 refund_request@2 refund@2");
    expect("canceled," P "," A "," C ",", "REFUNDED", "import@1 pay@2 ship@3 refund_request@3 refund@3");
    expect("canceled," P "," A "," C "," D, "REFUNDED", "import@1 pay@2 ship@3 deliver@4 refund_request@4 refund@4");
    expect("delivered," P "," A ",,", "DELIVERED", "import@1 pay@2 ship@2 deliver@2"); /* the last known time */
    expect("delivered," P ",," C ",", "DELIVERED", "import@1 pay@1 ship@3 deliver@3");
    expect("shipped," P ",,,", "SHIPPED", "import@1 pay@1 ship@1");
    expect("approved," P "," P ",,", "PAID", "import@1 pay@1"); /* at the same second */
}

static void refuse(const char *order, const char *items, const char *payments, enum olist_verdict want, const char *status) {
    struct world w;
    char orders[512];
    snprintf(orders, sizeof(orders), ORDERS "%s,\n", order);
    assert_true(load(&w, orders, items, payments));
    assert_int_equal(get(&w, 0), want);
    assert_null(w.order.request);
    assert_string_equal(w.order.order_no, "o1");
    assert_string_equal(w.order.status, status);
    unload(&w);
}
#define ITEM ITEMS "o1,1,p1,s1,x,1.0,0.0\n"

static void test_what_is_rejected(void **state) {
    refuse("o1,c1,delivered," P "," A "," C "," D, ITEMS, PAYMENTS, OLIST_NO_ITEMS, "DELIVERED");
    refuse("o1,c1,shipped," P "," C "," A ",", ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "SHIPPED");
    refuse("o1,c1,approved," A "," P ",,", ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "PAID");
    refuse("o1,c1,delivered," P "," A "," D "," C, ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "DELIVERED");
    refuse("o1,c1,delivered," C "," A ",," D, ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "DELIVERED");
    refuse("o1,c1,approved," P "," A "," C ",", ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "PAID"); /* shipped, says the time */
    refuse("o1,c1,canceled," P ",," C ",", ITEM, PAYMENTS, OLIST_TIMES_CONTRADICT, "CANCELLED"); /* shipped, never paid */
    refuse("o1,c1,lost," P ",,,", ITEM, PAYMENTS, OLIST_STATUS_UNKNOWN, "");
    refuse("o1,c2,created," P ",,,", ITEM, PAYMENTS, OLIST_CUSTOMER_UNKNOWN, "PENDING_PAYMENT");
    refuse("o1,c1,created,,,,", ITEM, PAYMENTS, OLIST_TIME_UNREADABLE, "PENDING_PAYMENT");
    refuse("o1,c1,created,2018-13-01 00:00:00,,,", ITEM, PAYMENTS, OLIST_TIME_UNREADABLE, "PENDING_PAYMENT");
    refuse("o1,c1,created," P ",,,", ITEMS "o1,1,p1,s1,x,1.005,0\n", PAYMENTS, OLIST_AMOUNT_UNREADABLE, "PENDING_PAYMENT");
    refuse("o1,c1,created," P ",,,", ITEMS "o1,1,p1,s1,x,1,-1\n", PAYMENTS, OLIST_AMOUNT_UNREADABLE, "PENDING_PAYMENT");
    refuse("o1,c1,created," P ",,,", ITEMS "o1,1,p1,s1,x,92233720368547758.07,0\no1,2,p1,s1,x,1,0\n", PAYMENTS, OLIST_AMOUNT_UNREADABLE, "PENDING_PAYMENT");
    refuse("o1,c1,created," P ",,,", ITEM, PAYMENTS "o1,1,card,1,free\n", OLIST_AMOUNT_UNREADABLE, "PENDING_PAYMENT");
}

static void no_load(const char *orders, const char *items, const char *want) {
    struct world w;
    assert_false(load(&w, orders, items, PAYMENTS));
    if (!strstr(w.error, want)) fail_msg("\"%s\", not \"%s\"", w.error, want);
    arena_fini(&w.arena);
}
static void test_files_that_cannot_be_read(void **state) {
    no_load("", ITEM, "orders.csv, line 0: the file is empty");
    no_load("order_id\n", ITEM, "orders.csv, line 1: no column customer_id");
    no_load(ORDERS "o1,c1\n", ITEM, "orders.csv, line 2: another number of fields");
    no_load(ORDERS, ITEMS "\"o1\n", "order_items.csv, line 2: a quote is not closed");
}

static void test_memory_may_run_out(void **state) {
    for (uint64_t n = 1;; n++) {
        struct world w;
        uint64_t before = mem_count();
        mem_fail_nth(n);
        bool loaded = load(&w, ORDERS "o1,c1,delivered," P "," A "," C "," D ",\n", ITEM, PAYMENTS "o1,1,card,1,1.0\n");
        enum olist_verdict v = loaded ? get(&w, 0) : OLIST_NO_MEMORY;
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        assert_true(v == OLIST_TAKEN || v == OLIST_NO_MEMORY);
        if (loaded) unload(&w);
        else arena_fini(&w.arena);
        if (!reached) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_order_field_by_field), cmocka_unit_test(test_statuses_become_histories), cmocka_unit_test(test_what_is_rejected),
        cmocka_unit_test(test_files_that_cannot_be_read), cmocka_unit_test(test_memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
