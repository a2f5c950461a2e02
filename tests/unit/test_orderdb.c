/* client/orderdb.h's promises, against a server in a thread that is told how often to fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <cmocka.h>

#include "client/channel.h"
#include "client/orderdb.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"

static struct {
    atomic_uint requests, failures_left;
    enum fake_action action; /* of a failure */
    int code;
    char pushback[16];
    bool details;
    char ids[64][160]; /* request ids as they came */
    atomic_uint imported;
} plan;

static void answer(struct fake_reply *out, const ProtobufCMessage *m) { out->body_len = protobuf_c_message_pack(m, out->body); }

static void refuse(struct fake_reply *out) {
    out->action = plan.action, out->grpc_status = plan.code;
    snprintf(out->pushback, sizeof(out->pushback), "%s", plan.pushback);
    if (!plan.details) return;
    struct arena a;
    struct failure f;
    arena_init(&a, 65536);
    failure_init(&f, &a);
    failure_set(&f, STATUS_STATUS_MISMATCH, "order 7 is PAID");
    failure_meta(&f, "status", "PAID");
    failure_meta(&f, "version", "2");
    failure_violation(&f, STATUS_FIELD_INVALID, "order.items[3].quantity", "at most 1000000, is 1000001");
    f.retry_delay_ms = 5;
    struct slice wire = failure_encode(&f);
    memcpy(out->details, wire.data, wire.len);
    out->details_len = wire.len;
    arena_fini(&a);
}

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    unsigned n = plan.requests++;
    struct slice m = r->body.len >= GRPC_FRAME_HEAD ? slice_of(r->body.data + GRPC_FRAME_HEAD, r->body.len - GRPC_FRAME_HEAD) : (struct slice){0};
    bool create = strstr(r->path, "/CreateOrder") != NULL;
    if (create && n < ARRAY_LEN(plan.ids)) {
        Orderdb__V1__CreateOrderRequest *q = orderdb__v1__create_order_request__unpack(NULL, m.len, m.data);
        snprintf(plan.ids[n], sizeof(plan.ids[n]), "%s", q->options->request_id);
        orderdb__v1__create_order_request__free_unpacked(q, NULL);
    }
    if (plan.failures_left) {
        plan.failures_left--;
        refuse(out);
    } else if (create) {
        Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
        order.order_id = 77;
        Orderdb__V1__CreateOrderResponse a = ORDERDB__V1__CREATE_ORDER_RESPONSE__INIT;
        a.order = &order;
        answer(out, &a.base);
    } else if (strstr(r->path, "/ImportOrders")) {
        Orderdb__V1__ImportOrdersResponse a = ORDERDB__V1__IMPORT_ORDERS_RESPONSE__INIT;
        for (size_t at = 0; at + GRPC_FRAME_HEAD <= r->body.len; at += GRPC_FRAME_HEAD + get_be32(r->body.data + at + 1)) a.imported++;
        answer(out, &a.base);
    } else if (strstr(r->path, "/GetOrder")) {
        out->action = FAKE_RAW; /* a message that is no Order */
        memcpy(out->body, "\0\0\0\0\x01\xff", 6), out->body_len = 6;
    } else if (strstr(r->path, "/Silent")) {
        out->action = FAKE_SILENCE;
    } else if (strstr(r->path, "/Raw")) {
        memcpy(out->body, m.data, m.len), out->body_len = m.len;
    }
}

struct world {
    struct fake_grpc *server;
    struct orderdb_client *db;
};
static void world_open(struct world *w, const struct orderdb_options *o) {
    char target[32];
    plan.requests = plan.failures_left = plan.imported = 0;
    plan.action = FAKE_STATUS_ONLY, plan.code = GRPC_UNAVAILABLE, plan.details = false, plan.pushback[0] = 0;
    memset(plan.ids, 0, sizeof(plan.ids));
    w->server = fake_grpc_start(handler, NULL, false, 0);
    snprintf(target, sizeof(target), "localhost:%u", fake_grpc_port(w->server));
    w->db = orderdb_open(target, o);
    assert_non_null(w->db);
    assert_null(orderdb_error(w->db));
}
static void world_close(struct world *w) {
    orderdb_close(w->db);
    fake_grpc_stop(w->server);
}
static bool create(struct world *w, const char *request_id, uint32_t timeout_ms) {
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    r.order = &order;
    options.request_id = (char *)request_id;
    if (request_id) r.options = &options;
    struct orderdb_call_options o = {.timeout_ms = timeout_ms};
    Orderdb__V1__CreateOrderResponse *a = orderdb_create_order(w->db, &r, &o);
    assert_true((a == NULL) == (orderdb_error(w->db) != NULL));
    if (a) assert_int_equal(a->order->order_id, 77);
    orderdb_message_free(a);
    return a != NULL;
}

static void test_a_write_gets_a_request_id(void **state) {
    struct world w;
    world_open(&w, NULL);
    assert_true(create(&w, NULL, 0));
    assert_int_equal(strlen(plan.ids[0]), 32);
    assert_int_equal(strspn(plan.ids[0], "0123456789abcdef"), 32);
    assert_string_equal(orderdb_request_id(w.db), plan.ids[0]);
    assert_true(create(&w, NULL, 0));
    assert_string_not_equal(plan.ids[0], plan.ids[1]);
    assert_true(create(&w, "the-callers-own-id", 0));
    assert_string_equal(plan.ids[2], "the-callers-own-id");
    assert_int_equal(orderdb_attempts(w.db), 1);
    world_close(&w);
}

static void test_retries_keep_the_request_id(void **state) {
    struct world w;
    static const enum fake_action actions[] = {FAKE_STATUS_ONLY, FAKE_DROP};
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        world_open(&w, NULL);
        plan.action = actions[i];
        plan.failures_left = 3;
        assert_true(create(&w, NULL, 0));
        assert_int_equal(orderdb_attempts(w.db), 4);
        assert_int_equal(plan.requests, 4);
        for (int n = 1; n < 4; n++) assert_string_equal(plan.ids[0], plan.ids[n]);
        world_close(&w);
    }
}

static void test_exhausted_is_retried_only_with_a_delay(void **state) {
    struct world w;
    world_open(&w, NULL);
    plan.code = GRPC_RESOURCE_EXHAUSTED;
    plan.failures_left = 1;
    assert_false(create(&w, NULL, 0));
    assert_int_equal(plan.requests, 1);
    strcpy(plan.pushback, "30");
    plan.failures_left = 1;
    uint64_t start = channel_now_ns();
    assert_true(create(&w, NULL, 0));
    assert_true(channel_now_ns() - start >= 30 * NS_PER_MS);
    plan.failures_left = 1;
    plan.details = true; /* the delay may come as RetryInfo */
    plan.pushback[0] = 0;
    assert_true(create(&w, NULL, 0));
    plan.failures_left = 1;
    strcpy(plan.pushback, "-1"); /* the server says: do not */
    assert_false(create(&w, NULL, 0));
    world_close(&w);
}

static void test_refusals_are_decoded_and_not_retried(void **state) {
    struct world w;
    world_open(&w, NULL);
    plan.code = GRPC_FAILED_PRECONDITION;
    plan.details = true;
    plan.failures_left = 1;
    assert_false(create(&w, "an-id-of-the-caller", 0));
    assert_int_equal(plan.requests, 1);
    const struct orderdb_error *e = orderdb_error(w.db);
    assert_int_equal(orderdb_error_code(e), GRPC_FAILED_PRECONDITION);
    assert_string_equal(orderdb_error_code_name(e), "FAILED_PRECONDITION");
    assert_string_equal(orderdb_error_reason(e), "STATUS_MISMATCH");
    assert_string_equal(orderdb_error_message(e), "order 7 is PAID");
    assert_string_equal(orderdb_error_request_id(e), "an-id-of-the-caller");
    assert_string_equal(orderdb_error_meta(e, "status"), "PAID");
    assert_null(orderdb_error_meta(e, "nothing"));
    assert_int_equal(orderdb_error_meta_count(e), 2);
    const char *k, *v;
    orderdb_error_meta_at(e, 1, &k, &v);
    assert_string_equal(k, "version");
    assert_string_equal(v, "2");
    orderdb_error_meta_at(e, 9, &k, &v);
    assert_string_equal(k, "");
    assert_int_equal(orderdb_error_violation_count(e), 1);
    orderdb_error_violation_at(e, 0, &k, &v);
    assert_string_equal(k, "order.items[3].quantity");
    assert_string_equal(v, "at most 1000000, is 1000001");
    assert_int_equal(orderdb_error_retry_delay_ms(e), 5);
    assert_false(orderdb_error_outcome_unknown(e));
    assert_true(create(&w, NULL, 0)); /* and the next call starts clean */
    world_close(&w);
}

static void test_the_budget_bounds_retries(void **state) {
    struct world w;
    struct orderdb_options o = {.retries_max = 1};
    world_open(&w, &o);
    plan.failures_left = 1000000;
    for (int i = 0; i < 50; i++) assert_false(create(&w, NULL, 0));
    assert_in_range(plan.requests, 60, 65); /* 50 calls, 10 saved up, 50 / 10 earned */
    world_close(&w);
    struct orderdb_options none = {.no_retries = true};
    world_open(&w, &none);
    plan.failures_left = 1;
    assert_false(create(&w, NULL, 0));
    assert_int_equal(plan.requests, 1);
    world_close(&w);
}

static void test_the_deadline_covers_the_retries(void **state) {
    struct world w;
    world_open(&w, NULL);
    plan.failures_left = 1000000;
    uint64_t start = channel_now_ns();
    assert_false(create(&w, NULL, 1000)); /* enough for a second attempt on a busy machine */
    assert_true(channel_now_ns() - start < 30 * NS_PER_S); /* not for ever */
    assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_UNAVAILABLE); /* the last answer, not a deadline */
    assert_true(orderdb_attempts(w.db) > 1);
    plan.failures_left = 0;
    const uint8_t *answer;
    size_t len;
    struct orderdb_call_options options = {.timeout_ms = 30};
    assert_false(orderdb_call(w.db, "/x/Silent", "", 0, &options, &answer, &len));
    assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_DEADLINE_EXCEEDED);
    assert_true(orderdb_error_outcome_unknown(orderdb_error(w.db)));
    assert_null(answer);
    world_close(&w);
}

static void test_generic_calls_repeat_only_what_is_safe(void **state) {
    struct world w;
    const uint8_t *answer;
    size_t len;
    world_open(&w, NULL);
    plan.action = FAKE_DROP;
    plan.failures_left = 1;
    assert_false(orderdb_call(w.db, "/x/Raw", "abc", 3, NULL, &answer, &len));
    assert_true(orderdb_error_outcome_unknown(orderdb_error(w.db)));
    plan.failures_left = 1;
    struct orderdb_call_options repeatable = {.repeatable = true};
    assert_true(orderdb_call(w.db, "/x/Raw", "abc", 3, &repeatable, &answer, &len));
    assert_int_equal(len, 3);
    assert_memory_equal(answer, "abc", 3);
    plan.action = FAKE_STATUS_ONLY; /* UNAVAILABLE as an answer: nothing happened */
    plan.failures_left = 1;
    assert_true(orderdb_call(w.db, "/x/Raw", "abc", 3, NULL, &answer, &len));
    world_close(&w);
}

static void test_no_server(void **state) {
    struct world w;
    world_open(&w, NULL);
    uint16_t port = fake_grpc_port(w.server);
    fake_grpc_stop(w.server);
    assert_false(create(&w, NULL, 0)); /* at once: never connected */
    assert_int_equal(orderdb_attempts(w.db), 1);
    assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_UNAVAILABLE);
    assert_false(orderdb_error_outcome_unknown(orderdb_error(w.db)));
    assert_string_equal(orderdb_error_reason(orderdb_error(w.db)), "");
    orderdb_close(w.db);
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%u", port);
    struct orderdb_options o = {.wait_for_server = true};
    w.db = orderdb_open(target, &o);
    assert_false(create(&w, NULL, 150)); /* told to wait: tried until the deadline left no room */
    assert_true(orderdb_attempts(w.db) > 1);
    w.server = fake_grpc_start(handler, NULL, false, port);
    assert_true(create(&w, NULL, 0));
    world_close(&w);
    errno = 0;
    assert_null(orderdb_open(":1", NULL));
    assert_int_equal(errno, EINVAL);
    orderdb_close(NULL);
    orderdb_message_free(NULL);
}

static void test_an_answer_that_cannot_be_read(void **state) {
    struct world w;
    world_open(&w, NULL);
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    assert_null(orderdb_get_order(w.db, &r, NULL));
    assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_INTERNAL);
    assert_string_equal(orderdb_request_id(w.db), "");
    world_close(&w);
}

static void test_imports_stream_orders(void **state) {
    struct world w;
    world_open(&w, NULL);
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__ImportOrdersRequest r = ORDERDB__V1__IMPORT_ORDERS_REQUEST__INIT;
    r.order = &order;
    static char text[2000];
    memset(text, 'x', sizeof(text) - 1);
    order.user_id = text;
    struct orderdb_import *a = orderdb_import_begin(w.db, 0), *b = orderdb_import_begin(w.db, 0);
    for (int i = 0; i < 500; i++) { /* 1 MB: more than may wait unsent */
        assert_true(orderdb_import_send(a, &r));
        if (i % 2) assert_true(orderdb_import_send(b, &r));
    }
    orderdb_import_end(a);
    Orderdb__V1__ImportOrdersResponse *rb = orderdb_import_finish(b), *ra = orderdb_import_finish(a);
    assert_non_null(ra);
    assert_non_null(rb);
    assert_int_equal(ra->imported, 500);
    assert_int_equal(rb->imported, 250);
    orderdb_message_free(ra), orderdb_message_free(rb);
    plan.code = GRPC_RESOURCE_EXHAUSTED, plan.details = true, plan.failures_left = 1;
    a = orderdb_import_begin(w.db, 0);
    assert_null(orderdb_import_finish(a));
    assert_string_equal(orderdb_error_message(orderdb_error(w.db)), "order 7 is PAID");
    world_close(&w);
}

static void test_every_allocation_may_fail(void **state) {
    struct world w;
    struct orderdb_options o = {.no_retries = true};
    world_open(&w, &o);
    for (uint64_t n = 1;; n++) {
        uint64_t before = mem_count();
        mem_fail_nth(n);
        create(&w, NULL, 0);
        struct orderdb_import *i = orderdb_import_begin(w.db, 0);
        Orderdb__V1__ImportOrdersRequest r = ORDERDB__V1__IMPORT_ORDERS_REQUEST__INIT;
        bool sent = i && orderdb_import_send(i, &r);
        Orderdb__V1__ImportOrdersResponse *a = i ? orderdb_import_finish(i) : NULL;
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        if (a) assert_int_equal(a->imported, sent ? 1 : 0);
        orderdb_message_free(a);
        if (!reached) break;
    }
    for (uint64_t n = 1; n < 40; n++) {
        mem_fail_nth(n);
        struct orderdb_client *db = orderdb_open("127.0.0.1:1", NULL);
        mem_fail_nth(0);
        if (!db) assert_int_equal(errno, ENOMEM);
        orderdb_close(db);
    }
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_gets_a_request_id),
        cmocka_unit_test(test_retries_keep_the_request_id),
        cmocka_unit_test(test_exhausted_is_retried_only_with_a_delay),
        cmocka_unit_test(test_refusals_are_decoded_and_not_retried),
        cmocka_unit_test(test_the_budget_bounds_retries),
        cmocka_unit_test(test_the_deadline_covers_the_retries),
        cmocka_unit_test(test_generic_calls_repeat_only_what_is_safe),
        cmocka_unit_test(test_no_server),
        cmocka_unit_test(test_an_answer_that_cannot_be_read),
        cmocka_unit_test(test_imports_stream_orders),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
