/* server/throttle.h: a server with a queue and a socket in front of it, in simulated time; then the frames. */
#include "tests/lib/test.h"

#include "server/throttle.h"

enum { TARGET_MS = 20, STREAMS_MAX = 256, CONNECTIONS = 8, RATE = 50000, INSIDE_MIN = 256 };

/* Clients keep as many calls in flight as they may, of `wanted`; half of them wait in sockets, and RATE a second are served. */
static void run(struct throttle *t, uint64_t *now_ns, unsigned ms, uint64_t wanted, uint64_t rate) {
    for (unsigned i = 0; i < ms; i++, *now_ns += NS_PER_MS) {
        uint64_t inside = MIN_OF(wanted, (uint64_t)CONNECTIONS * t->streams) / 2;
        throttle_tick(t, *now_ns, &(struct throttle_load){.wait_ns = inside * NS_PER_S / rate, .inside = inside, .rate = RATE, .inside_min = INSIDE_MIN});
    }
}

static void test_in_overload_what_is_inside_is_done_within_the_target(void **state) {
    struct throttle t;
    uint64_t now_ns = NS_PER_S;
    throttle_init(&t, STREAMS_MAX, TARGET_MS * NS_PER_MS, now_ns);
    run(&t, &now_ns, 2000, UINT32_MAX, RATE);
    uint64_t enough = RATE * TARGET_MS / 3000;
    assert_in_range((uint64_t)CONNECTIONS * t.streams / 2, enough * 7 / 10, enough);
    uint32_t before = t.streams;
    run(&t, &now_ns, 2000, UINT32_MAX, RATE);
    assert_int_equal(t.streams, before); /* it stays there */
    run(&t, &now_ns, 5000, 100, RATE);
    assert_int_equal(t.streams, STREAMS_MAX); /* the load is gone */
}

static void test_without_overload_nothing_is_lowered(void **state) {
    struct throttle t;
    uint64_t now_ns = NS_PER_S;
    throttle_init(&t, STREAMS_MAX, TARGET_MS * NS_PER_MS, now_ns);
    run(&t, &now_ns, 3000, INSIDE_MIN, RATE);
    assert_int_equal(t.streams, STREAMS_MAX);
    throttle_init(&t, STREAMS_MAX, 0, now_ns); /* no target, no throttle */
    run(&t, &now_ns, 3000, UINT32_MAX, RATE);
    assert_int_equal(t.streams, STREAMS_MAX);
}

/* Writes wait because something else has the CPU, not because there are too many: fewer would be done if fewer came. */
static void test_a_stall_takes_nothing_below_what_keeps_the_server_busy(void **state) {
    struct throttle t;
    uint64_t now_ns = NS_PER_S;
    throttle_init(&t, STREAMS_MAX, TARGET_MS * NS_PER_MS, now_ns);
    run(&t, &now_ns, 5000, UINT32_MAX, RATE / 20);
    assert_true((uint64_t)CONNECTIONS * t.streams / 2 >= INSIDE_MIN * 3 / 4);
}

/* Nothing is inside because nothing is let in. */
static void test_while_no_write_is_taken_nothing_is_raised(void **state) {
    struct throttle t;
    uint64_t now_ns = NS_PER_S;
    throttle_init(&t, STREAMS_MAX, TARGET_MS * NS_PER_MS, now_ns);
    run(&t, &now_ns, 2000, UINT32_MAX, RATE);
    uint32_t before = t.streams;
    for (unsigned i = 0; i < 3000; i++, now_ns += NS_PER_MS) throttle_tick(&t, now_ns, &(struct throttle_load){.rate = RATE, .inside_min = INSIDE_MIN, .closed = true});
    assert_int_equal(t.streams, before);
    run(&t, &now_ns, 5000, 0, RATE);
    assert_int_equal(t.streams, STREAMS_MAX);
}

static void test_never_fewer_than_the_least(void **state) {
    struct throttle t;
    uint64_t now_ns = NS_PER_S;
    throttle_init(&t, STREAMS_MAX, TARGET_MS * NS_PER_MS, now_ns);
    for (unsigned i = 0; i < 5000; i++, now_ns += NS_PER_MS) /* thousands of connections */
        throttle_tick(&t, now_ns, &(struct throttle_load){.wait_ns = NS_PER_S, .inside = 1000000, .rate = RATE, .inside_min = INSIDE_MIN});
    assert_int_equal(t.streams, THROTTLE_STREAMS_MIN);
    throttle_init(&t, 3, TARGET_MS * NS_PER_MS, now_ns); /* calls-per-connection may be less than that */
    run(&t, &now_ns, 1000, UINT32_MAX, RATE);
    assert_int_equal(t.streams, 3);
}

static void test_what_is_told_and_when(void **state) {
    static const uint8_t frame[] = {0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 64};
    struct throttle_peer p = {0};
    uint8_t out[64];
    struct writer w = writer_of(out, sizeof out);
    throttle_write(&p, STREAMS_MAX, STREAMS_MAX, 200, &w);
    throttle_write(&p, 240, STREAMS_MAX, 200, &w); /* hardly another */
    throttle_write(&p, 64, STREAMS_MAX, 10, &w);   /* it has few */
    assert_int_equal(w.len, 0);
    struct writer narrow = writer_of(out, sizeof frame - 1);
    throttle_write(&p, 64, STREAMS_MAX, 200, &narrow); /* another time */
    assert_int_equal(narrow.len, 0);
    throttle_write(&p, 64, STREAMS_MAX, 200, &w);
    assert_int_equal(w.len, sizeof frame);
    assert_memory_equal(out, frame, sizeof frame);
    throttle_write(&p, 16, STREAMS_MAX, 200, &w); /* one at a time */
    assert_int_equal(w.len, sizeof frame);
    assert_false(throttle_on_ack(&p)); /* of the session's own SETTINGS, which went first */
    assert_true(throttle_on_ack(&p));
    assert_false(throttle_on_ack(&p)); /* of nothing: the session says so */
    throttle_write(&p, 70, STREAMS_MAX, 64, &w);
    assert_int_equal(w.len, sizeof frame);
    throttle_write(&p, STREAMS_MAX, STREAMS_MAX, 0, &w); /* raised whatever it has */
    assert_int_equal(w.len, 2 * sizeof frame);
    assert_int_equal(p.told, STREAMS_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_overload_what_is_inside_is_done_within_the_target),
        cmocka_unit_test(test_without_overload_nothing_is_lowered),
        cmocka_unit_test(test_a_stall_takes_nothing_below_what_keeps_the_server_busy),
        cmocka_unit_test(test_while_no_write_is_taken_nothing_is_raised),
        cmocka_unit_test(test_never_fewer_than_the_least),
        cmocka_unit_test(test_what_is_told_and_when),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
