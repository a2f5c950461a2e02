/* orderdb_async_*'s promises, and client/retry.h's budget, against a server in a thread that is told how often to fail. */
#include "tests/lib/test.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>

#include "client/channel.h"
#include "client/orderdb.h"
#include "client/retry.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"

static struct {
    atomic_uint requests, failures_left, silent;
    enum fake_action action; /* of a failure */
    char ids[8][64]; /* of the n-th request; a batch's in a row, with spaces */
} plan;

#define JOIN_IDS(q, out) \
    for (size_t i_ = 0; i_ < (q)->n_requests; i_++) snprintf((out) + strlen(out), 64 - strlen(out), "%s%.30s", i_ ? " " : "", (q)->requests[i_]->options->request_id)

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    unsigned n = plan.requests++;
    struct slice m = slice_of(r->body.data + GRPC_FRAME_HEAD, r->body.len - GRPC_FRAME_HEAD);
    if (strstr(r->path, "/CreateOrder") && n < ARRAY_LEN(plan.ids)) {
        Orderdb__V1__CreateOrderRequest *q = orderdb__v1__create_order_request__unpack(NULL, m.len, m.data);
        snprintf(plan.ids[n], sizeof(plan.ids[n]), "%s", q->options->request_id);
        orderdb__v1__create_order_request__free_unpacked(q, NULL);
    }
    if (strstr(r->path, "/UpdateOrder") && n < ARRAY_LEN(plan.ids)) {
        Orderdb__V1__UpdateOrderRequest *q = orderdb__v1__update_order_request__unpack(NULL, m.len, m.data);
        snprintf(plan.ids[n], sizeof(plan.ids[n]), "%s", q->options->request_id);
        orderdb__v1__update_order_request__free_unpacked(q, NULL);
    }
    if (strstr(r->path, "/BatchCreateOrders") && n < ARRAY_LEN(plan.ids)) {
        Orderdb__V1__BatchCreateOrdersRequest *q = orderdb__v1__batch_create_orders_request__unpack(NULL, m.len, m.data);
        JOIN_IDS(q, plan.ids[n]);
        orderdb__v1__batch_create_orders_request__free_unpacked(q, NULL);
    }
    if (strstr(r->path, "/BatchTransitionOrders") && n < ARRAY_LEN(plan.ids)) {
        Orderdb__V1__BatchTransitionOrdersRequest *q = orderdb__v1__batch_transition_orders_request__unpack(NULL, m.len, m.data);
        JOIN_IDS(q, plan.ids[n]);
        orderdb__v1__batch_transition_orders_request__free_unpacked(q, NULL);
    }
    if (plan.silent) {
        out->action = FAKE_SILENCE;
    } else if (plan.failures_left) {
        plan.failures_left--;
        out->action = plan.action, out->grpc_status = GRPC_UNAVAILABLE;
    } else if (strstr(r->path, "/GetOrder")) {
        Orderdb__V1__GetOrderRequest *q = orderdb__v1__get_order_request__unpack(NULL, m.len, m.data);
        Orderdb__V1__Order o = ORDERDB__V1__ORDER__INIT;
        o.order_id = q->order_id;
        out->body_len = orderdb__v1__order__pack(&o, out->body);
        orderdb__v1__get_order_request__free_unpacked(q, NULL);
    }
}

struct world {
    struct fake_grpc *server;
    struct orderdb_async *a;
    char target[32];
    unsigned answers, failures, submit_again;
    int64_t sum; /* of the ids answered */
    int code;
    bool unknown;
    char request_id[64];
};

static void world_open(struct world *w, const struct orderdb_options *o, const struct orderdb_pool_options *p) {
    *w = (struct world){0};
    plan.requests = plan.failures_left = plan.silent = 0;
    plan.action = FAKE_STATUS_ONLY;
    memset(plan.ids, 0, sizeof(plan.ids));
    w->server = fake_grpc_start(handler, NULL, false, 0);
    snprintf(w->target, sizeof(w->target), "127.0.0.1:%u", fake_grpc_port(w->server));
    w->a = orderdb_async_open(w->target, o, p);
    assert_non_null(w->a);
}

static void world_close(struct world *w) {
    orderdb_async_close(w->a);
    fake_grpc_stop(w->server);
}

static bool get(struct world *w, int64_t id, uint32_t timeout_ms);

static void answered_cb(void *user, void *answer, const struct orderdb_error *e) {
    struct world *w = user;
    assert_true((answer == NULL) == (e != NULL));
    if (answer) {
        w->answers++;
        const ProtobufCMessage *m = answer;
        if (m->descriptor == &orderdb__v1__order__descriptor) w->sum += ((Orderdb__V1__Order *)answer)->order_id;
    } else {
        w->failures++;
        w->code = orderdb_error_code(e);
        w->unknown = orderdb_error_outcome_unknown(e);
        snprintf(w->request_id, sizeof(w->request_id), "%s", orderdb_error_request_id(e));
    }
    orderdb_message_free(answer);
    if (w->submit_again) {
        w->submit_again--;
        assert_true(get(w, 1, 0));
    }
}

static bool get(struct world *w, int64_t id, uint32_t timeout_ms) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    struct orderdb_call_options o = {.timeout_ms = timeout_ms};
    r.order_id = id;
    return orderdb_async_submit(w->a, &r.base, &o, answered_cb, w);
}

static bool update(struct world *w) {
    Orderdb__V1__UpdateOrderRequest r = ORDERDB__V1__UPDATE_ORDER_REQUEST__INIT;
    return orderdb_async_submit(w->a, &r.base, NULL, answered_cb, w);
}

static bool create(struct world *w) {
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    r.order = &order;
    return orderdb_async_submit(w->a, &r.base, NULL, answered_cb, w);
}

/* ---- the tests */

static void each_call_is_answered_once_over_all_connections(void **state) {
    struct world w;
    struct orderdb_pool_options p = {.connections = 4};
    world_open(&w, NULL, &p);
    for (int i = 1; i <= 200; i++) assert_true(get(&w, i, 0));
    assert_int_equal(w.answers, 0); /* never inside submit */
    assert_int_equal(orderdb_async_stats(w.a).in_flight, 200);
    assert_true(orderdb_async_drain(w.a, 10000));
    assert_int_equal(w.answers, 200);
    assert_int_equal(w.sum, 200 * 201 / 2);
    assert_int_equal(fake_grpc_connections(w.server), 4);
    struct orderdb_async_stats s = orderdb_async_stats(w.a);
    assert_int_equal(s.calls, 200);
    assert_int_equal(s.attempts, 200);
    assert_int_equal(s.in_flight, 0);
    world_close(&w);
}

static void calls_under_way_are_bounded(void **state) {
    struct world w;
    struct orderdb_pool_options p = {.in_flight_max = 3};
    world_open(&w, NULL, &p);
    for (int i = 0; i < 3; i++) assert_true(get(&w, 1, 0));
    assert_false(get(&w, 1, 0));
    assert_int_equal(errno, EAGAIN);
    w.submit_again = 5; /* each answer makes room for one more, inside its callback */
    assert_true(orderdb_async_drain(w.a, 10000));
    assert_int_equal(w.answers, 8);
    world_close(&w);
}

static void other_messages_targets_and_files_are_refused(void **state) {
    struct world w;
    world_open(&w, NULL, NULL);
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    assert_false(orderdb_async_submit(w.a, &order.base, NULL, answered_cb, &w));
    assert_int_equal(errno, EINVAL);
    world_close(&w);
    assert_null(orderdb_async_open("host:x", NULL, NULL));
    assert_int_equal(errno, EINVAL);
    char why[256];
    struct orderdb_options tls = {.tls_ca = "there-is-no-such.pem", .tls_error = why};
    assert_null(orderdb_async_open("127.0.0.1:1", &tls, NULL));
    assert_int_equal(errno, EKEYREJECTED);
    assert_non_null(strstr(why, "there-is-no-such.pem"));
}

static void retries_keep_the_request_id(void **state) {
    static const enum fake_action actions[] = {FAKE_STATUS_ONLY, FAKE_DROP};
    for (size_t i = 0; i < 2 * ARRAY_LEN(actions); i++) {
        struct world w;
        world_open(&w, NULL, NULL);
        plan.action = actions[i / 2];
        plan.failures_left = 3;
        assert_true(i % 2 ? update(&w) : create(&w));
        assert_true(orderdb_async_drain(w.a, 10000));
        assert_int_equal(w.answers, 1);
        assert_int_equal(plan.requests, 4);
        assert_int_equal(strlen(plan.ids[0]), 32);
        for (int n = 1; n < 4; n++) assert_string_equal(plan.ids[0], plan.ids[n]);
        world_close(&w);
    }
}

/* Each request of a batch that has no id gets one of its own; the caller's requests stay as they are. */
static void retries_keep_the_request_ids_of_batches(void **state) {
    Orderdb__V1__WriteOptions own = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest create_a = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT, create_b = create_a, *creates[] = {&create_a, &create_b};
    Orderdb__V1__TransitionOrderRequest pay_a = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT, pay_b = pay_a, *pays[] = {&pay_a, &pay_b};
    Orderdb__V1__BatchCreateOrdersRequest creating = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
    Orderdb__V1__BatchTransitionOrdersRequest paying = ORDERDB__V1__BATCH_TRANSITION_ORDERS_REQUEST__INIT;
    own.request_id = "an-id-of-my-own";
    create_b.options = pay_b.options = &own;
    creating.n_requests = paying.n_requests = 2, creating.requests = creates, paying.requests = pays;
    for (int i = 0; i < 4; i++) {
        struct world w;
        world_open(&w, NULL, NULL);
        plan.failures_left = 3;
        if (i < 2) { /* asynchronous */
            assert_true(orderdb_async_submit(w.a, i ? &paying.base : &creating.base, NULL, answered_cb, &w));
            assert_true(orderdb_async_drain(w.a, 10000));
            assert_int_equal(w.answers, 1);
        } else { /* blocking */
            struct orderdb_client *db = orderdb_open(w.target, NULL);
            void *answer = i == 2 ? (void *)orderdb_batch_create_orders(db, &creating, NULL) : (void *)orderdb_batch_transition_orders(db, &paying, NULL);
            assert_non_null(answer);
            orderdb_message_free(answer);
            orderdb_close(db);
        }
        assert_int_equal(plan.requests, 4);
        assert_int_equal(strlen(plan.ids[0]), 30 + 1 + 15);
        assert_string_equal(plan.ids[0] + 31, "an-id-of-my-own");
        for (int n = 1; n < 4; n++) assert_string_equal(plan.ids[0], plan.ids[n]);
        assert_null(create_a.options);
        assert_null(pay_a.options);
        assert_ptr_equal(creates[0], &create_a);
        world_close(&w);
    }
}

/* The figure: a server that refuses everything sees at most 1.1 attempts for each call. */
static void a_failing_server_sees_at_most_a_tenth_more(void **state) {
    struct world w;
    struct orderdb_pool_options p = {.in_flight_max = 100};
    world_open(&w, NULL, &p);
    plan.failures_left = 1000000;
    for (unsigned i = 0; i < 1000;) {
        if (create(&w)) i++;
        else orderdb_async_run(w.a, 100);
    }
    assert_true(orderdb_async_drain(w.a, 20000));
    assert_int_equal(w.failures, 1000);
    assert_int_equal(w.code, GRPC_UNAVAILABLE);
    assert_int_equal(strlen(w.request_id), 32);
    assert_in_range(plan.requests, 1010, 1100);
    assert_int_equal(orderdb_async_stats(w.a).attempts, plan.requests);
    plan.failures_left = 0;
    assert_true(get(&w, 7, 0));
    assert_true(orderdb_async_drain(w.a, 10000));
    assert_int_equal(w.sum, 7);
    world_close(&w);
}

static void the_budget_is_lent_earned_and_bounded(void **state) {
    struct retry_budget b;
    unsigned taken = 0;
    retry_budget_init(&b, 0);
    for (int i = 1; i <= 5000; i++) {
        retry_budget_call(&b);
        while (retry_budget_take(&b)) taken++;
        assert_true(taken <= RETRY_SAVED_MAX || taken * 10 <= (unsigned)i);
    }
    assert_int_equal(taken, 500);
    for (int i = 0; i < 5000; i++) retry_budget_call(&b); /* what is saved is bounded */
    for (taken = 0; retry_budget_take(&b);) taken++;
    assert_int_equal(taken, RETRY_SAVED_MAX);
    for (unsigned n = 0; n < 40; n++) assert_in_range(retry_pause_ns(n), 10 * NS_PER_MS, 2000 * NS_PER_MS);
}

static void deadlines_end_calls_and_writes_are_then_unknown(void **state) {
    struct world w;
    world_open(&w, NULL, NULL);
    plan.silent = 1;
    assert_true(get(&w, 1, 50));
    uint64_t start = channel_now_ns();
    assert_int_equal(orderdb_async_run(w.a, 10000), 1);
    assert_true(channel_now_ns() - start < 5 * NS_PER_S);
    assert_int_equal(w.code, GRPC_DEADLINE_EXCEEDED);
    assert_true(w.unknown);
    assert_true(get(&w, 1, 10000));
    assert_false(orderdb_async_drain(w.a, 20));
    assert_int_equal(orderdb_async_run(w.a, 0), 0);
    world_close(&w);
    assert_int_equal(w.failures, 2);
    assert_int_equal(w.code, GRPC_CANCELLED);
}

static void close_ends_calls_that_wait_and_calls_under_way(void **state) {
    struct world w;
    world_open(&w, NULL, NULL);
    plan.silent = 1;
    for (int i = 0; i < 5; i++) assert_true(get(&w, 1, 0));
    orderdb_async_run(w.a, 20);
    plan.silent = 0;
    plan.failures_left = 1000;
    assert_true(get(&w, 1, 0));
    for (uint64_t end = channel_now_ns() + 5 * NS_PER_S; plan.requests < 6 && channel_now_ns() < end;) orderdb_async_run(w.a, 1);
    orderdb_async_close(w.a);
    assert_int_equal(w.failures + w.answers, 6);
    fake_grpc_stop(w.server);
}

static void without_a_server_it_is_told_at_once_or_waited_for(void **state) {
    struct world w;
    world_open(&w, NULL, NULL);
    uint16_t port = fake_grpc_port(w.server);
    orderdb_async_close(w.a);
    fake_grpc_stop(w.server);
    w.a = orderdb_async_open(w.target, NULL, NULL);
    for (int i = 0; i < 3; i++) assert_true(get(&w, 1, 0));
    assert_true(orderdb_async_drain(w.a, 5000));
    assert_int_equal(w.failures, 3);
    assert_int_equal(w.code, GRPC_UNAVAILABLE);
    assert_false(w.unknown);
    orderdb_async_close(w.a);
    struct orderdb_options o = {.wait_for_server = true};
    w.a = orderdb_async_open(w.target, &o, NULL);
    for (int i = 0; i < 3; i++) assert_true(get(&w, 1, 0));
    assert_true(get(&w, 1, 100)); /* its time is over before */
    assert_false(orderdb_async_drain(w.a, 200));
    assert_int_equal(w.failures, 4);
    w.server = fake_grpc_start(handler, NULL, false, port);
    assert_true(orderdb_async_drain(w.a, 8000));
    assert_int_equal(w.answers, 3);
    world_close(&w);
}

static void an_event_loop_of_the_callers_turns_it(void **state) {
    struct world w;
    struct orderdb_pool_options p = {.connections = 3};
    struct pollfd polls[8];
    int timeout_ms;
    world_open(&w, NULL, &p);
    assert_int_equal(orderdb_async_polls(w.a, polls, ARRAY_LEN(polls), &timeout_ms), 0);
    assert_int_equal(timeout_ms, -1);
    for (int i = 0; i < 50; i++) assert_true(get(&w, 1, 0));
    plan.failures_left = 2; /* pauses show in the timeout */
    assert_int_equal(orderdb_async_polls(w.a, polls, 1, &timeout_ms), 3);
    for (int turns = 0; orderdb_async_stats(w.a).in_flight; turns++) {
        size_t n = orderdb_async_polls(w.a, polls, ARRAY_LEN(polls), &timeout_ms);
        assert_in_range(n, 1, 3);
        assert_in_range(timeout_ms, 0, 10000);
        assert_true(poll(polls, (nfds_t)n, timeout_ms) >= 0);
        orderdb_async_run(w.a, 0);
        assert_true(turns < 10000);
    }
    assert_int_equal(w.answers, 50);
    world_close(&w);
}

static void every_allocation_may_fail(void **state) {
    struct orderdb_options o = {.no_retries = true};
    for (uint64_t n = 1;; n++) {
        struct world w;
        world_open(&w, &o, NULL);
        uint64_t before = mem_count();
        mem_fail_nth(n);
        unsigned submitted = 0;
        for (int i = 0; i < 3; i++) submitted += i ? get(&w, 1, 0) : create(&w);
        assert_true(orderdb_async_drain(w.a, 5000));
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        assert_int_equal(w.answers + w.failures, submitted);
        world_close(&w);
        if (!reached) break;
    }
    for (uint64_t n = 1; n < 40; n++) {
        mem_fail_nth(n);
        struct orderdb_async *a = orderdb_async_open("127.0.0.1:1", NULL, NULL);
        mem_fail_nth(0);
        if (!a) assert_int_equal(errno, ENOMEM);
        orderdb_async_close(a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_is_answered_once_over_all_connections),
        cmocka_unit_test(calls_under_way_are_bounded),
        cmocka_unit_test(other_messages_targets_and_files_are_refused),
        cmocka_unit_test(retries_keep_the_request_id),
        cmocka_unit_test(retries_keep_the_request_ids_of_batches),
        cmocka_unit_test(a_failing_server_sees_at_most_a_tenth_more),
        cmocka_unit_test(the_budget_is_lent_earned_and_bounded),
        cmocka_unit_test(deadlines_end_calls_and_writes_are_then_unknown),
        cmocka_unit_test(close_ends_calls_that_wait_and_calls_under_way),
        cmocka_unit_test(without_a_server_it_is_told_at_once_or_waited_for),
        cmocka_unit_test(an_event_loop_of_the_callers_turns_it),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
