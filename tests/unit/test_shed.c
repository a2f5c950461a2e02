/* server/shed.h over HTTP/2 from memory: who is refused at the door, with which words, and that it costs nothing to keep. */
#include "tests/lib/test.h"

#include "tests/lib/h2_world.h"

#include "server/methods.h"
#include "server/shed.h"

#define TOPOLOGY "/orderdb.v1.AdminService/GetTopology"

static struct world w;

static int open_world(void **state) {
    world_open(&w);
    return 0;
}
static int close_world(void **state) {
    world_close(&w);
    return 0;
}

static uint64_t count(enum metric m) { return metric_load(&w.core.metrics.values[m]); }

static void assert_exhausted(const struct answer *a, const char *reason, uint32_t least_ms, uint32_t most_ms) {
    struct arena arena;
    struct details d;
    uint8_t raw[4096];
    arena_init(&arena, 64 * KIB);
    assert_true(a->closed);
    assert_int_equal(atoi(a->grpc_status), GRPC_RESOURCE_EXHAUSTED);
    ssize_t n = base64_decode(slice_str(a->details), raw);
    assert_true(n > 0);
    assert_true(details_decode(slice_of(raw, (size_t)n), &arena, &d));
    assert_string_equal(d.reason, reason);
    assert_in_range(d.retry_delay_ms, least_ms, most_ms);
    assert_int_equal(d.retry_delay_ms, atoi(a->pushback));
    arena_fini(&arena);
}

static void assert_overloaded(const struct answer *a) { assert_exhausted(a, "OVERLOADED", 100, 275); }

static enum shed_class class_of(const char *path) { return shed_class_of(method_find(slice_str(path))); }

static void test_what_a_method_is_to_the_door(void **state) {
    static const char *const writes[] = {SVC "CreateOrder", SVC "BatchCreateOrders", SVC "TransitionOrder", SVC "BatchTransitionOrders", SVC "UpdateOrder", SVC "GetRequestOutcome",
                                         SVC "ImportOrders"};
    static const char *const reserved[] = {TOPOLOGY, "/orderdb.v1.AdminService/ApplyResource", "/orderdb.v1.AdminService/ListResources", "/grpc.health.v1.Health/Check",
                                           "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"};
    static const char *const others[] = {SVC "GetOrder", SVC "BatchGetOrders", SVC "ListOrders", SVC "ListOrderHistory", "/orderdb.v1.StreamService/Subscribe"};
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) assert_int_equal(class_of(writes[i]), SHED_WRITE);
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) assert_int_equal(class_of(reserved[i]), SHED_RESERVED);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) assert_int_equal(class_of(others[i]), SHED_OTHER);
}

static void test_writes_beyond_the_limit_are_refused_until_one_is_done(void **state) {
    w.core.write_limit_all = 2;
    world_call(&w, SVC "TransitionOrder", "a");
    world_call(&w, SVC "TransitionOrder", "b");
    assert_int_equal(w.away_count, 2);
    assert_overloaded(world_call(&w, SVC "TransitionOrder", "c"));
    assert_overloaded(world_call(&w, SVC "CreateOrder", "d"));
    assert_int_equal(count(METRIC_SHED_QUEUE), 2);
    world_call(&w, SVC "GetOrder", "reads go on");
    assert_int_equal(w.away_count, 3);
    assert_true(answer_is(world_call(&w, TOPOLOGY, "operators get in"), "operators get in"));
    world_home(&w);
    world_pump(&w);
    assert_true(answer_is(&w.answers[0], "home"));
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "e"), "e"));
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "f"), "f"));
}

static void test_while_no_partition_takes_writes_they_are_refused_for_longer(void **state) {
    w.core.write_limit_all = 100;
    w.core.writes_closed = true;
    assert_exhausted(world_call(&w, SVC "CreateOrder", "a"), "OVERLOADED", 500, 1375);
    assert_int_equal(count(METRIC_SHED_TABLES), 1);
    assert_true(answer_is(world_call(&w, TOPOLOGY, "operators get in"), "operators get in"));
    world_call(&w, SVC "GetOrder", "reads go on");
    assert_int_equal(w.away_count, 1);
    w.core.writes_closed = false;
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "b"), "b"));
}

static void test_when_enough_were_decoded_to_be_refused_the_door_does_it(void **state) {
    w.core.write_limit_all = 100;
    w.core.decoded_left = -1;
    assert_overloaded(world_call(&w, SVC "CreateOrder", "a"));
    assert_int_equal(count(METRIC_SHED_REFUSING), 1);
    world_call(&w, SVC "GetOrder", "reads go on");
    assert_int_equal(w.away_count, 1);
    w.core.decoded_left = 0;
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "b"), "b"));
}

/* It leaves the queue when it is out of the engine, not when somebody stopped waiting for it. */
static void test_a_write_that_was_abandoned_still_stands_in_the_queue(void **state) {
    w.core.write_limit_all = 1;
    struct answer *a = world_call(&w, SVC "TransitionOrder", "a");
    assert_int_equal(nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL), 0);
    world_pump(&w);
    assert_overloaded(world_call(&w, SVC "TransitionOrder", "b"));
    world_home(&w);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "c"), "c"));
}

static void test_a_refusal_takes_no_message_and_no_call(void **state) {
    w.core.write_limit_all = 1;
    world_call(&w, SVC "TransitionOrder", "a");
    uint32_t live = w.core.calls_live;
    size_t bytes = calls_memory_bytes(w.core.calls);
    struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("half of a"), true, NULL, NULL);
    const uint8_t *data;
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) world_feed(&w, data, (size_t)n);
    assert_int_equal(w.core.calls_live, live); /* before the peer has taken the refusal */
    assert_int_equal(calls_memory_bytes(w.core.calls) - calls_memory_idle_bytes(w.core.calls), bytes);
    world_pump(&w);
    assert_overloaded(a);
    assert_int_equal(a->error_code, NGHTTP2_NO_ERROR); /* and told to stop sending */
    assert_false(w.dead);
    assert_false(w.goaway_seen);
}

/* What follows a refusal on its stream goes nowhere, and the connection's window is given back: 6 MB through one of 1 MiB. */
static void test_bodies_of_the_refused_are_left_out(void **state) {
    static uint8_t body[60000];
    w.core.write_limit_all = 1;
    world_call(&w, SVC "TransitionOrder", "a");
    grpc_frame_head(body, sizeof body - GRPC_FRAME_HEAD);
    for (unsigned i = 0; i < 100; i++) {
        struct answer *a = world_request(&w, SVC "CreateOrder", slice_of(body, sizeof body), i % 2, NULL, NULL);
        world_pump(&w);
        assert_overloaded(a);
        assert_int_equal(a->request_at, sizeof body);
        w.answer_count--;
    }
    assert_true(answer_is(world_call(&w, TOPOLOGY, "in"), "in"));
    assert_false(w.dead || w.goaway_seen);
    assert_int_equal(w.core.calls_live, 1);
    h2_rest(w.h2);
}

/* Frames that cross the refusal on the wire: cancelled, more windows, trailers, in whatever order with calls that are served. */
static void test_late_frames_for_the_refused(void **state) {
    w.core.write_limit_all = 1;
    world_call(&w, SVC "TransitionOrder", "a");
    static const uint8_t late[] = {0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8, /* RST_STREAM */ 0, 0, 4, 8, 0, 0, 0, 0, 3, 0, 0, 1, 0, /* WINDOW_UPDATE */
                                   0, 0, 0, 0, 0, 0, 0, 0, 3, /* DATA */ 0, 0, 1, 1, 5, 0, 0, 0, 3, 0x90 /* trailers */};
    for (unsigned i = 0; i < 2; i++) {
        struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("b"), true, NULL, NULL);
        const uint8_t *data;
        for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) world_feed(&w, data, (size_t)n);
        assert_int_equal(a->id, 3 + 4 * (int)i);
        uint8_t mine[sizeof late];
        memcpy(mine, late, sizeof late);
        mine[8] = mine[21] = mine[34] = mine[43] = (uint8_t)a->id;
        world_feed(&w, mine, 13); /* cancelled before the refusal has left */
        world_feed(&w, mine + 13, 22); /* and more of it */
        world_pump(&w);
        assert_true(answer_is(world_call(&w, TOPOLOGY, "in"), "in")); /* a higher stream that the session knows */
        world_feed(&w, mine, sizeof mine);
        world_pump(&w);
    }
    assert_false(w.dead || w.goaway_seen);
}

/* An honest peer has no more open than it was told; who has twice as many waiting does not read. */
static void test_refusals_that_nobody_takes_end_the_connection(void **state) {
    w.core.write_limit_all = 1;
    world_call(&w, SVC "TransitionOrder", "a");
    static const uint8_t block[] = {0x83, 0x86, 0x04, 33, '/', 'o', 'r', 'd', 'e', 'r', 'd', 'b', '.', 'v', '1', '.', 'O', 'r', 'd', 'e', 'r', 'S', 'e', 'r', 'v', 'i', 'c', 'e', '/', 'G', 'e', 't', 'O', 'r', 'd', 'e', 'r', 0x01, 1, 't',
                                    0x0f, 16, 16, 'a', 'p', 'p', 'l', 'i', 'c', 'a', 't', 'i', 'o', 'n', '/', 'g', 'r', 'p', 'c', 0, 2, 't', 'e', 8, 't', 'r', 'a', 'i', 'l', 'e', 'r', 's'};
    struct call_limits l = world_call_limits;
    world_close(&w);
    l.live_max = 0; /* all that is not reserved */
    assert_true(world_open_with(&w, &world_h2_limits, &l, 0));
    world_pump(&w);
    for (uint32_t i = 0; i <= 2 * world_h2_limits.streams_max; i++) {
        uint8_t frame[9 + sizeof block] = {0, 0, sizeof block, 1, 5};
        put_be32(frame + 5, 2 * i + 1);
        memcpy(frame + 9, block, sizeof block);
        assert_true(world_feed(&w, frame, sizeof frame) == (i < 2 * world_h2_limits.streams_max));
    }
    assert_int_equal(h2_fault(w.h2), CUT_CONNECTION_MEMORY);
    assert_int_equal(h2_refused(w.h2), 2 * world_h2_limits.streams_max);
    assert_int_equal(w.core.calls_live, 0);
    w.deaf = true;
    world_pump(&w);
}

static void test_a_deadline_that_cannot_be_met_is_not_waited_for(void **state) {
    w.core.write_limit_all = 100;
    w.core.write_target_ns = 20 * NS_PER_MS;
    w.core.write_delay_least_ns = 30 * NS_PER_MS;
    struct answer *hasty = world_request(&w, SVC "CreateOrder", framed_text("a"), false, "grpc-timeout", "25m");
    struct answer *patient = world_request(&w, SVC "CreateOrder", framed_text("b"), false, "grpc-timeout", "35m");
    world_pump(&w);
    assert_overloaded(hasty);
    assert_true(answer_is(patient, "b"));
    assert_int_equal(count(METRIC_SHED_DEADLINE), 1);
    w.core.write_delay_least_ns = 5 * NS_PER_MS; /* no overload: who knows */
    hasty = world_request(&w, SVC "CreateOrder", framed_text("c"), false, "grpc-timeout", "4m");
    world_pump(&w);
    assert_true(answer_is(hasty, "c"));
}

static void test_a_message_behind_its_deadline_is_not_decoded(void **state) {
    struct answer *a = world_request(&w, SVC "TransitionOrder", framed_text("a"), true, "grpc-timeout", "5m");
    world_pump(&w);
    w.core.now_ns += 6 * NS_PER_MS; /* the timer has not run yet */
    world_more(&w, a, (struct slice){0}, false);
    world_pump(&w);
    assert_int_equal(atoi(a->grpc_status), GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(w.away_count, 0);
}

static void test_the_reserve_of_calls_is_for_operators(void **state) {
    world_close(&w);
    struct call_limits l = world_call_limits;
    l.live_max = 3;
    assert_true(world_open_with(&w, &world_h2_limits, &l, 0));
    for (unsigned i = 0; i < 3; i++) world_call(&w, SVC "GetOrder", "x");
    for (unsigned i = 0; i < 2 * CALLS_RESERVED; i++) assert_overloaded(world_call(&w, SVC "GetOrder", "x"));
    assert_int_equal(count(METRIC_SHED_CALLS), 2 * CALLS_RESERVED);
    assert_true(answer_is(world_call(&w, TOPOLOGY, "in"), "in"));
    world_home(&w);
    world_pump(&w);
    world_call(&w, SVC "GetOrder", "x");
    assert_int_equal(w.away_count, 3);
}

static void test_the_reserve_of_memory_is_for_operators(void **state) {
    world_close(&w);
    struct call_limits l = world_call_limits;
    l.memory_bytes_max = 64 * KIB;
    l.idle_max = 0;
    assert_true(world_open_with(&w, &world_h2_limits, &l, 0));
    while (!world_call(&w, SVC "GetOrder", "x")->closed) continue;
    assert_true(answer_is(world_call(&w, TOPOLOGY, "in"), "in"));
}

static void test_those_refused_together_do_not_come_back_together(void **state) {
    w.core.write_limit_all = 1;
    world_call(&w, SVC "TransitionOrder", "a");
    unsigned seen = 0;
    for (unsigned i = 0; i < 100; i++) {
        struct answer *a = world_call(&w, SVC "CreateOrder", "b");
        assert_overloaded(a);
        seen |= 1u << (atoi(a->pushback) - 100) / 25;
    }
    assert_int_equal(seen, 0xff);
}

/* Ten a second, two at once, for all callers together: asked from the headers. */
static void test_rate_limits_of_node_and_caller_are_asked_at_the_door(void **state) {
    struct limits_share *share = limits_share_new(1);
    struct limit_spec specs[] = {{.name = "reads", .scope = LIMIT_GLOBAL, .methods = limit_method_rows("OrderService/GetOrder", LIMIT_GLOBAL), .per_second = 10, .burst = 2},
                                 {.name = "app", .scope = LIMIT_PRINCIPAL, .methods = limit_method_rows("OrderService/CreateOrder", LIMIT_PRINCIPAL), .per_second = 4, .burst = 1}};
    unsigned left_out;
    w.core.limits = limits_new(share, specs, ARRAY_LEN(specs), &left_out);
    world_call(&w, SVC "GetOrder", "x");
    world_call(&w, SVC "GetOrder", "x");
    uint32_t live = w.core.calls_live;
    assert_exhausted(world_call(&w, SVC "GetOrder", "x"), "RATE_LIMITED", 100, 100);
    assert_int_equal(w.core.calls_live, live);
    h2_set_principal(w.h2, 7);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "a"), "a"));
    assert_exhausted(world_call(&w, SVC "CreateOrder", "b"), "RATE_LIMITED", 250, 250);
    h2_set_principal(w.h2, 8);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "c"), "c"));
    assert_true(answer_is(world_call(&w, TOPOLOGY, "in"), "in"));
    assert_int_equal(count(METRIC_RATE_LIMITED), 2);
    w.core.now_ns += 100 * NS_PER_MS; /* the delay that was told */
    assert_false(world_call(&w, SVC "GetOrder", "x")->closed);
    limits_free(w.core.limits);
    w.core.limits = NULL;
    limits_share_free(share);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
    const struct CMUnitTest tests[] = {
        T(test_what_a_method_is_to_the_door), T(test_writes_beyond_the_limit_are_refused_until_one_is_done), T(test_while_no_partition_takes_writes_they_are_refused_for_longer), T(test_when_enough_were_decoded_to_be_refused_the_door_does_it),
        T(test_a_write_that_was_abandoned_still_stands_in_the_queue),
        T(test_a_refusal_takes_no_message_and_no_call), T(test_bodies_of_the_refused_are_left_out),
        T(test_late_frames_for_the_refused), T(test_refusals_that_nobody_takes_end_the_connection), T(test_a_deadline_that_cannot_be_met_is_not_waited_for), T(test_a_message_behind_its_deadline_is_not_decoded),
        T(test_the_reserve_of_calls_is_for_operators), T(test_the_reserve_of_memory_is_for_operators), T(test_those_refused_together_do_not_come_back_together),
        T(test_rate_limits_of_node_and_caller_are_asked_at_the_door),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
