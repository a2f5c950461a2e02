/* The promises of server/calm.h. */
#include "tests/lib/test.h"

#include "server/calm.h"

enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, UNKNOWN = 200 };
static const struct calm_limits limits = {
    .streams_max = 4, .reset_burst = 10, .reset_per_s = 2, .control_burst = 20, .control_per_s = 4, .ping_interval_ns = 10 * NS_PER_S, .continuations_max = 3};
static struct calm calm;
static uint64_t now_ns;

static int setup(void **state) {
    now_ns = 1000 * NS_PER_S;
    calm_init(&calm, &limits, now_ns);
    return 0;
}
static enum cut frame(uint8_t type, uint8_t flags, uint32_t length) { return calm_on_frame(&calm, &limits, now_ns, type, flags, length); }
/* How many of these go through at this moment. */
static unsigned count(uint8_t type, uint8_t flags, uint32_t length, enum cut expected) {
    for (unsigned n = 0; n < 1000; n++) {
        enum cut why = frame(type, flags, length);
        if (why == CUT_NONE) continue;
        assert_int_equal(why, expected);
        return n;
    }
    return 1000;
}

/* How many resets of streams that were open for so long, of calls with this deadline, go through at this moment. */
static unsigned resets(uint64_t lived_ns, uint64_t timeout_ns) {
    for (unsigned n = 0; n < 1000; n++) {
        enum cut why = calm_on_reset(&calm, &limits, now_ns, lived_ns, timeout_ns);
        if (why == CUT_NONE) continue;
        assert_int_equal(why, CUT_RESETS);
        return n;
    }
    return 1000;
}

static void test_resets_have_a_bucket_that_time_fills(void **state) {
    assert_int_equal(resets(0, 0), 10);
    now_ns += 3 * NS_PER_S;
    assert_int_equal(resets(24 * NS_PER_MS, 0), 6);
    now_ns += 3600 * NS_PER_S;
    assert_int_equal(resets(0, 0), 10);
}

static void test_a_call_that_was_waited_for_is_given_up_for_nothing(void **state) {
    assert_int_equal(resets(25 * NS_PER_MS, 0), 1000);
    assert_int_equal(resets(3600 * NS_PER_S, 0), 1000);
    assert_int_equal(resets(0, 0), 10);
}

/* 4 streams: 16 seconds' worth at once, and 4 a second. */
static void test_as_many_are_given_up_at_their_deadline_as_can_have_waited_for_it(void **state) {
    assert_int_equal(resets(0, NS_PER_S), 16 + 10);
    now_ns += 2 * NS_PER_S;
    assert_int_equal(resets(0, NS_PER_S / 2), 16 + 4);
    now_ns += 2 * NS_PER_S;
    assert_int_equal(resets(0, 10 * NS_PER_S), 8 + 4); /* none of them can be met more often than one of a second */
    now_ns += 2 * NS_PER_S;
    assert_int_equal(resets(0, NS_PER_MS), 320 + 4); /* those of less than 25 ms are resets at once */
    now_ns += 3600 * NS_PER_S;
    assert_int_equal(resets(0, NS_PER_S), 16 + 10);
}

/* A client that gives up all it has at each deadline, and begins as many anew; the server reads nothing for three seconds and then all of it. */
static void test_a_stall_cuts_nobody_off_who_keeps_to_deadlines(void **state) {
    for (uint64_t timeout_ns = 25 * NS_PER_MS; timeout_ns <= 8 * NS_PER_S; timeout_ns *= 2) {
        setup(NULL);
        for (unsigned stall = 0; stall < 100; stall++) {
            now_ns += 3 * NS_PER_S;
            for (uint64_t n = 0; n < 4 * (3 * NS_PER_S / timeout_ns); n++) assert_int_equal(calm_on_reset(&calm, &limits, now_ns, 0, timeout_ns), CUT_NONE);
        }
        assert_int_equal(resets(0, 0), 10);
    }
}

static void test_resets_of_what_is_no_stream_any_more_bring_no_work(void **state) {
    for (unsigned i = 0; i < 20; i++) assert_int_equal(calm_on_late_reset(&calm, &limits, now_ns), CUT_NONE);
    assert_int_equal(calm_on_late_reset(&calm, &limits, now_ns), CUT_CONTROL_FRAMES);
    assert_int_equal(resets(0, 0), 10);
    for (unsigned i = 0; i < 10000; i++) {
        assert_int_equal(frame(HEADERS, 4, 60), CUT_NONE);
        assert_int_equal(calm_on_late_reset(&calm, &limits, now_ns), CUT_NONE);
    }
}

static void test_resets_that_we_make_are_in_the_same_bucket(void **state) {
    for (unsigned i = 0; i < 5; i++) assert_int_equal(calm_on_fault(&calm, &limits, now_ns), CUT_NONE);
    assert_int_equal(resets(0, 0), 5);
    assert_int_equal(calm_on_fault(&calm, &limits, now_ns), CUT_RESETS);
}

static void test_what_brings_no_work_is_counted_together(void **state) {
    const struct {
        uint8_t type, flags;
        uint32_t length;
    } idle[] = {{SETTINGS, 0, 6}, {SETTINGS, 1, 0}, {PRIORITY, 0, 5}, {WINDOW_UPDATE, 0, 4}, {DATA, 0, 0}, {DATA, 0, 1}, {DATA, 8, 256}, {PING, 1, 8}, {GOAWAY, 0, 8}, {UNKNOWN, 0, 100}};
    for (size_t i = 0; i < ARRAY_LEN(idle); i++) {
        setup(NULL);
        assert_int_equal(count(idle[i].type, idle[i].flags, idle[i].length, CUT_CONTROL_FRAMES), 20);
        now_ns += 2 * NS_PER_S;
        assert_int_equal(count(idle[i].type, idle[i].flags, idle[i].length, CUT_CONTROL_FRAMES), 8);
    }
    setup(NULL);
    for (size_t i = 0; i < 2 * ARRAY_LEN(idle); i++) assert_int_equal(frame(idle[i % ARRAY_LEN(idle)].type, idle[i % ARRAY_LEN(idle)].flags, idle[i % ARRAY_LEN(idle)].length), CUT_NONE);
    assert_int_equal(frame(SETTINGS, 0, 0), CUT_CONTROL_FRAMES);
}

static void test_work_gives_tokens_back(void **state) {
    /* A client that reads a long answer: two window updates and a ping for each frame of it. */
    for (unsigned i = 0; i < 10000; i++) {
        calm_on_answer(&calm, &limits);
        assert_int_equal(frame(WINDOW_UPDATE, 0, 4), CUT_NONE);
        assert_int_equal(frame(WINDOW_UPDATE, 0, 4), CUT_NONE);
        assert_int_equal(frame(PING, 0, 8), CUT_NONE);
    }
    /* One that sends small requests, each ended by an empty frame or a tiny one. */
    for (unsigned i = 0; i < 10000; i++) {
        assert_int_equal(frame(HEADERS, 4, 60), CUT_NONE);
        assert_int_equal(frame(DATA, 0, 12), CUT_NONE);
        assert_int_equal(frame(DATA, 1, 0), CUT_NONE);
    }
}

static void test_what_work_gives_is_bounded(void **state) {
    for (unsigned i = 0; i < 10000; i++) calm_on_answer(&calm, &limits);
    assert_int_equal(count(SETTINGS, 0, 0, CUT_CONTROL_FRAMES), 80); /* four bursts */
}

static void test_pings_without_work_are_to_keep_their_distance(void **state) {
    for (unsigned i = 0; i < 100; i++, now_ns += 10 * NS_PER_S) assert_int_equal(frame(PING, 0, 8), CUT_NONE);
    now_ns -= 9 * NS_PER_S; /* one second after the last */
    for (unsigned i = 0; i < 2; i++) now_ns += NS_PER_S / 2, assert_int_equal(frame(PING, 0, 8), CUT_NONE);
    assert_int_equal(frame(PING, 0, 8), CUT_PINGS);
    assert_string_equal(calm_text(CUT_PINGS), "too_many_pings");
}

static void test_an_answer_forgives_pings(void **state) {
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(frame(PING, 0, 8), CUT_NONE);
        if (i % 2) calm_on_answer(&calm, &limits);
    }
}

static void test_continuations_of_one_block_are_few(void **state) {
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(frame(HEADERS, 0, 100), CUT_NONE);
        for (unsigned k = 0; k < 3; k++) assert_int_equal(frame(CONTINUATION, 0, 100), CUT_NONE);
    }
    assert_int_equal(frame(CONTINUATION, 0, 0), CUT_CONTINUATIONS);
}

/* The burst is 10: a message of 4 MiB takes all of it. */
static void test_unreadable_messages_cost_by_their_bytes(void **state) {
    for (unsigned i = 0; i < 1000; i++) assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 100), CUT_NONE); /* a client with a bug */
    for (unsigned i = 0; i < 4; i++) assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, i % 2 ? 0 : 8 << 10), CUT_NONE); /* 4 and 1: some kilobytes can nest a thousand deep */
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 2 << 10), CUT_UNREADABLE);
    now_ns += 4 * NS_PER_S;
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 31 << 10), CUT_NONE); /* 8 of 8: less than twice 16 KiB costs no more than once */
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 2 << 10), CUT_UNREADABLE);
    now_ns += 10 * NS_PER_S;
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 4 << 20), CUT_NONE);
    assert_int_equal(calm_on_fault(&calm, &limits, now_ns), CUT_RESETS); /* the same bucket */
    now_ns += NS_PER_S;
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 100), CUT_NONE);
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 4 << 20), CUT_UNREADABLE); /* what a second brings does not pay for it */
    assert_int_equal(calm_on_unreadable(&calm, &limits, now_ns, 4 << 10), CUT_NONE);
}

int main(void) {
#define T(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        T(test_resets_have_a_bucket_that_time_fills), T(test_a_call_that_was_waited_for_is_given_up_for_nothing),
        T(test_as_many_are_given_up_at_their_deadline_as_can_have_waited_for_it), T(test_a_stall_cuts_nobody_off_who_keeps_to_deadlines),
        T(test_resets_of_what_is_no_stream_any_more_bring_no_work), T(test_resets_that_we_make_are_in_the_same_bucket), T(test_what_brings_no_work_is_counted_together),
        T(test_work_gives_tokens_back), T(test_what_work_gives_is_bounded), T(test_pings_without_work_are_to_keep_their_distance), T(test_an_answer_forgives_pings),
        T(test_continuations_of_one_block_are_few),
        cmocka_unit_test_setup_teardown(test_unreadable_messages_cost_by_their_bytes, setup, NULL),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
