/* engine/brake.h: a store that takes so many bytes a second for good, fed as much as it will take, in simulated time. */
#include "tests/lib/test.h"

#include "engine/brake.h"

enum { ROOM_BYTES = 64 << 20, COMMAND_BYTES = 300 };

/* Behind it is by what waits in it: not at all below a third of its room, fully when that is used up. */
struct sink {
    struct brake p;
    uint64_t now_ns, written;
    double waiting;
    uint32_t behind_most, behind;
};

static void sink_open(struct sink *s) {
    *s = (struct sink){.now_ns = NS_PER_S};
    brake_init(&s->p, s->now_ns);
}

static uint32_t sink_behind(const struct sink *s) {
    double from = ROOM_BYTES / 3.0, share = (s->waiting - from) / (ROOM_BYTES - from);
    return share < 0 ? 0 : (uint32_t)MIN_OF(1 + share * BRAKE_BEHIND_FULL, (double)BRAKE_BEHIND_FULL);
}

/* wanted, digested: bytes a second. */
static void sink_run(struct sink *s, unsigned ms, double wanted, double digested) {
    double due = 0;
    for (unsigned i = 0; i < ms; i++, s->now_ns += NS_PER_MS) {
        if (i % 20 == 0) brake_tick(&s->p, s->now_ns, s->behind = sink_behind(s));
        for (due += wanted / 1000; due >= COMMAND_BYTES && brake_room(&s->p, s->now_ns); due -= COMMAND_BYTES) {
            brake_wrote(&s->p, COMMAND_BYTES);
            s->written += COMMAND_BYTES, s->waiting += COMMAND_BYTES;
        }
        due = MIN_OF(due, wanted / 10); /* the rest is refused */
        s->waiting = MAX_OF(s->waiting - digested / 1000, 0.0);
        s->behind_most = MAX_OF(s->behind_most, s->behind);
    }
}

static void test_a_store_that_keeps_up_is_not_paced(void **state) {
    struct sink s;
    sink_open(&s);
    sink_run(&s, 5000, 20e6, 21e6);
    assert_int_equal(s.behind_most, 0);
    assert_int_equal(s.p.bytes_per_s, 0);
    assert_in_range(s.written, 99000000, 100000000);
}

/* Whatever it can digest, that is what is written, it is never closed, and the rate stays what it is. */
static void test_what_is_written_comes_to_what_can_be_digested(void **state) {
    static const double digested[] = {15e6, 10e6, 4e6, 1e6};
    for (size_t i = 0; i < ARRAY_LEN(digested); i++) {
        struct sink s;
        sink_open(&s);
        sink_run(&s, 120000, 20e6, digested[i]);
        assert_true(s.behind_most > 0);
        assert_true(s.behind_most < BRAKE_BEHIND_FULL);
        for (unsigned k = 0; k < 5; k++) {
            uint64_t before = s.written;
            sink_run(&s, 1000, 20e6, digested[i]);
            assert_in_range(s.written - before, (uint64_t)(digested[i] * 0.9), (uint64_t)(digested[i] * 1.1));
        }
    }
}

static void test_what_was_written_while_it_was_paced_is_no_peak(void **state) {
    struct sink s;
    sink_open(&s);
    sink_run(&s, 60000, 20e6, 4e6);
    assert_in_range((uint64_t)s.p.peak, 19000000, 21000000);
    sink_run(&s, 60000, 0, 4e6);
    assert_int_equal(s.p.bytes_per_s, 0);
    assert_in_range((uint64_t)s.p.peak, 19000000, 21000000); /* nor is what nobody wanted to write */
}

static void test_fully_behind_a_little_goes_on(void **state) {
    struct brake p;
    brake_init(&p, NS_PER_S);
    brake_tick(&p, NS_PER_S, BRAKE_BEHIND_FULL);
    assert_int_equal(p.bytes_per_s, BRAKE_PEAK_LEAST / BRAKE_SHARE_LEAST);
    assert_int_equal(brake_room(&p, NS_PER_S), 0);
    uint64_t from_ns = brake_from_ns(&p);
    assert_in_range(from_ns, NS_PER_S + NS_PER_MS, NS_PER_S + 3 * NS_PER_MS);
    assert_true(brake_room(&p, from_ns) > 0);
    brake_wrote(&p, 1 * MIB); /* one command may be that long, and is made up for */
    assert_int_equal(brake_room(&p, from_ns + 10 * NS_PER_S), 0);
    assert_true(brake_from_ns(&p) > from_ns + 30 * NS_PER_S);
    assert_true(brake_room(&p, brake_from_ns(&p)) > 0);
    brake_tick(&p, from_ns + 20 * NS_PER_S, 0); /* it has caught up: the debt is forgotten */
    assert_true(brake_room(&p, from_ns + 20 * NS_PER_S) == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_store_that_keeps_up_is_not_paced),
        cmocka_unit_test(test_what_is_written_comes_to_what_can_be_digested),
        cmocka_unit_test(test_what_was_written_while_it_was_paced_is_no_peak),
        cmocka_unit_test(test_fully_behind_a_little_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
