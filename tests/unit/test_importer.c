/* tools/importer.h's promises: exact books per status and reason, batches, a lost stream is sent again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"
#include "tools/importer.h"

static struct {
    atomic_uint streams, orders, failures_left;
    enum fake_action action; /* of a failure */
    int code;
} plan;

/* Imports all, but orders numbered "there..." are there and "bad..." are rejected. */
static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    Orderdb__V1__ImportOrdersResponse a = ORDERDB__V1__IMPORT_ORDERS_RESPONSE__INIT;
    Orderdb__V1__ImportOrdersResponse__Rejected rejected[8], *rejected_ptrs[8];
    Google__Rpc__Status error = GOOGLE__RPC__STATUS__INIT;
    char numbers[8][32];
    plan.streams++;
    if (plan.failures_left) {
        plan.failures_left--;
        out->action = plan.action, out->grpc_status = plan.code;
        return;
    }
    error.code = GRPC_INVALID_ARGUMENT, error.message = (char *)"a rule is broken";
    for (struct reader b = reader_of(r->body); reader_left(&b);) {
        (void)read_u8(&b);
        struct slice m = read_bytes(&b, read_be32(&b));
        Orderdb__V1__ImportOrdersRequest *q = orderdb__v1__import_orders_request__unpack(NULL, m.len, m.data);
        plan.orders++;
        if (strncmp(q->order->client_order_no, "there", 5) == 0) {
            a.already_there++;
        } else if (strncmp(q->order->client_order_no, "bad", 3) == 0) {
            size_t i = a.n_rejected++;
            snprintf(numbers[i], sizeof(numbers[i]), "%s", q->order->client_order_no);
            orderdb__v1__import_orders_response__rejected__init(&rejected[i]);
            rejected[i].client_order_no = numbers[i], rejected[i].error = &error;
            rejected_ptrs[i] = &rejected[i];
            a.rejected_count++;
        } else {
            a.imported++;
        }
        orderdb__v1__import_orders_request__free_unpacked(q, NULL);
    }
    a.rejected = rejected_ptrs;
    out->body_len = orderdb__v1__import_orders_response__pack(&a, out->body);
}

struct world {
    struct fake_grpc *server;
    struct orderdb_client *db;
    struct importer *importer;
    FILE *rejects;
    char *told;
    size_t told_len;
};
static void world_open(struct world *w) {
    char target[32];
    plan.streams = plan.orders = plan.failures_left = 0;
    plan.action = FAKE_DROP, plan.code = 0;
    w->server = fake_grpc_start(handler, NULL, false, 0);
    snprintf(target, sizeof(target), "127.0.0.1:%u", fake_grpc_port(w->server));
    w->db = orderdb_open(target, NULL);
    w->rejects = open_memstream(&w->told, &w->told_len);
    w->importer = importer_new(w->db, w->rejects);
    assert_non_null(w->importer);
}
static void world_close(struct world *w) {
    importer_free(w->importer);
    orderdb_close(w->db);
    fake_grpc_stop(w->server);
    fclose(w->rejects);
    free(w->told);
}
static bool add(struct world *w, const char *no, const char *status) {
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__ImportOrdersRequest r = ORDERDB__V1__IMPORT_ORDERS_REQUEST__INIT;
    order.client_order_no = (char *)(uintptr_t)no;
    if (status) order.status = (char *)(uintptr_t)status;
    r.order = &order;
    return importer_add(w->importer, &r);
}
static void row(const struct importer_status *s, const char *name, int64_t imported, int64_t there, int64_t rejected) {
    assert_string_equal(s->name, name);
    assert_int_equal(s->imported, imported);
    assert_int_equal(s->already_there, there);
    assert_int_equal(s->rejected, rejected);
}

static void test_the_books_are_exact(void **state) {
    struct world w;
    char no[16];
    world_open(&w);
    for (int i = 0; i < 250; i++) {
        snprintf(no, sizeof(no), "n%d", i);
        assert_true(add(&w, no, i % 2 ? "PAID" : "SHIPPED"));
    }
    assert_true(add(&w, "there1", "PAID"));
    assert_true(add(&w, "bad\"1", "PAID"));
    assert_true(add(&w, "n", NULL));
    importer_reject(w.importer, "x1", "PAID", "no items", "");
    importer_reject(w.importer, "x2", "", "line cannot be read", "why");
    assert_true(importer_finish(w.importer));
    const struct importer_books *b = importer_books(w.importer);
    assert_int_equal(b->status_count, 4);
    row(&b->statuses[0], "SHIPPED", 125, 0, 0);
    row(&b->statuses[1], "PAID", 125, 1, 2);
    row(&b->statuses[2], "(not said)", 1, 0, 0);
    row(&b->statuses[3], "(unknown)", 0, 0, 1);
    row(&b->total, "total", 251, 1, 3);
    assert_int_equal(b->refused, 1);
    assert_int_equal(importer_done(w.importer), 255);
    assert_int_equal(b->reason_count, 3);
    assert_string_equal(b->reasons[0].text, "no items");
    assert_string_equal(b->reasons[0].first, "x1");
    assert_string_equal(b->reasons[1].first, "x2: why");
    assert_int_equal(plan.streams, 5); /* batches of 100: SHIPPED 2, PAID 2, one more */
    fflush(w.rejects);
    assert_string_equal(w.told, "{\"client_order_no\":\"x1\",\"status\":\"PAID\",\"reason\":\"no items\",\"message\":\"\"}\n"
                                "{\"client_order_no\":\"x2\",\"status\":\"(unknown)\",\"reason\":\"line cannot be read\",\"message\":\"why\"}\n"
                                "{\"client_order_no\":\"bad\\\"1\",\"status\":\"PAID\",\"reason\":\"refused without a reason\",\"message\":\"a rule is broken\"}\n");
    world_close(&w);
}

static void test_more_statuses_and_reasons_than_rows(void **state) {
    struct world w;
    char text[16];
    world_open(&w);
    for (int i = 0; i < 100; i++) {
        snprintf(text, sizeof(text), "S%d", i);
        importer_reject(w.importer, "x", text, text, "");
    }
    const struct importer_books *b = importer_books(w.importer);
    assert_int_equal(b->status_count, IMPORTER_STATUSES_MAX);
    row(&b->statuses[IMPORTER_STATUSES_MAX - 1], "(other)", 0, 0, 100 - (IMPORTER_STATUSES_MAX - 1));
    assert_int_equal(b->reason_count, IMPORTER_REASONS_MAX);
    assert_string_equal(b->reasons[IMPORTER_REASONS_MAX - 1].text, "(other)");
    assert_int_equal(b->reasons[IMPORTER_REASONS_MAX - 1].count, 100 - (IMPORTER_REASONS_MAX - 1));
    world_close(&w);
}

static void test_a_lost_stream_is_sent_again(void **state) {
    struct world w;
    world_open(&w);
    plan.failures_left = 1;
    for (int i = 0; i < 30; i++) assert_true(add(&w, "n", "PAID"));
    assert_true(importer_finish(w.importer));
    row(&importer_books(w.importer)->total, "total", 30, 0, 0);
    assert_int_equal(plan.streams, 2);
    world_close(&w);
}

static void test_a_refused_stream_stops_the_import(void **state) {
    struct world w;
    world_open(&w);
    plan.action = FAKE_STATUS_ONLY, plan.code = GRPC_PERMISSION_DENIED, plan.failures_left = 1;
    assert_true(add(&w, "n", "PAID"));
    assert_false(importer_finish(w.importer));
    assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_PERMISSION_DENIED);
    row(&importer_books(w.importer)->total, "total", 0, 0, 0);
    world_close(&w);
}

static void test_every_allocation_may_fail(void **state) {
    for (uint64_t n = 1;; n += 7) { /* 7: what fails is what matters, not each of a thousand */
        struct world w;
        world_open(&w);
        uint64_t before = mem_count();
        mem_fail_nth(n);
        bool ok = add(&w, "n1", "PAID") && add(&w, "bad1", "PAID") && importer_finish(w.importer);
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        if (ok) assert_int_equal(importer_done(w.importer), 2);
        world_close(&w);
        if (!reached) break;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_books_are_exact),           cmocka_unit_test(test_more_statuses_and_reasons_than_rows),
        cmocka_unit_test(test_a_lost_stream_is_sent_again),   cmocka_unit_test(test_a_refused_stream_stops_the_import),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
