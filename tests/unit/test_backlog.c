/* engine/backlog.h: a queue with one server, in simulated time, fed more than it can do. */
#include "tests/lib/test.h"

#include "engine/backlog.h"

enum { TARGET_MS = 20, QUEUE_MAX = 10000 };

/* Serves `rate` a second in steps of a millisecond; `offered` a second arrive. */
struct queue {
    struct backlog b;
    uint64_t now_ns, queued, arrivals_ns[QUEUE_MAX + 1], head, admitted, refused, served;
    double due_in, due_out;
};

static void queue_open(struct queue *q, uint64_t target_ns) {
    *q = (struct queue){.now_ns = NS_PER_S};
    backlog_init(&q->b, target_ns, QUEUE_MAX, q->now_ns);
}

static void queue_run(struct queue *q, unsigned ms, double offered, double rate) {
    for (unsigned i = 0; i < ms; i++, q->now_ns += NS_PER_MS) {
        for (q->due_in += offered / 1000; q->due_in >= 1; q->due_in--) {
            if (q->queued >= q->b.limit) {
                q->refused++;
                continue;
            }
            q->arrivals_ns[(q->head + q->queued++) % ARRAY_LEN(q->arrivals_ns)] = q->now_ns;
            q->admitted++;
        }
        for (q->due_out = MIN_OF(q->due_out + rate / 1000, MAX_OF(rate / 100, 1.0)); q->due_out >= 1 && q->queued; q->due_out--, q->queued--, q->served++)
            backlog_served(&q->b, q->now_ns - q->arrivals_ns[q->head++ % ARRAY_LEN(q->arrivals_ns)]);
        backlog_tick(&q->b, q->now_ns, q->queued);
    }
}

static void count_again(struct queue *q) { q->admitted = q->refused = q->served = 0; }

static void test_nothing_is_refused_below_what_can_be_done(void **state) {
    static struct queue q;
    queue_open(&q, TARGET_MS * NS_PER_MS);
    queue_run(&q, 3000, 14000, 15000);
    assert_int_equal(q.refused, 0);
    assert_int_equal(q.b.limit, QUEUE_MAX);
}

static void test_whatever_is_offered_the_peak_is_served_and_the_wait_is_about_the_target(void **state) {
    static const double times[] = {1.5, 2, 5, 10, 100};
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        static struct queue q;
        queue_open(&q, TARGET_MS * NS_PER_MS);
        queue_run(&q, 1000, 15000 * times[i], 15000);
        count_again(&q);
        queue_run(&q, 2000, 15000 * times[i], 15000);
        assert_true(q.served >= 29900);
        assert_true(q.b.delay_ns < 2 * TARGET_MS * NS_PER_MS);
        assert_true(q.b.delay_ns > TARGET_MS * NS_PER_MS / 4);
    }
}

static void test_a_slow_second_does_not_starve_the_next(void **state) {
    static struct queue q;
    queue_open(&q, TARGET_MS * NS_PER_MS);
    queue_run(&q, 2000, 50000, 15000);
    queue_run(&q, 300, 50000, 300);
    queue_run(&q, 500, 50000, 0); /* stands still: no interval ends */
    count_again(&q);
    queue_run(&q, 1000, 50000, 15000);
    assert_true(q.served >= 14500);
}

static void test_when_the_load_is_gone_nothing_is_refused(void **state) {
    static struct queue q;
    queue_open(&q, TARGET_MS * NS_PER_MS);
    queue_run(&q, 2000, 150000, 15000);
    assert_true(q.refused > 0);
    queue_run(&q, 100, 0, 15000);
    count_again(&q);
    queue_run(&q, 2000, 10000, 15000);
    assert_int_equal(q.refused, 0);
    queue_run(&q, 3000, 0, 15000);
    assert_int_equal(q.b.limit, QUEUE_MAX); /* a burst after it is taken whole */
}

static void test_the_limit_has_a_floor_and_a_ceiling(void **state) {
    static struct queue q;
    queue_open(&q, TARGET_MS * NS_PER_MS);
    queue_run(&q, 10000, 1000, 20); /* 20 a second: a fifth of one within the target */
    assert_in_range(q.b.limit, BACKLOG_LIMIT_MIN, 2 * BACKLOG_LIMIT_MIN);
}

static void test_without_a_target_the_limit_stays(void **state) {
    static struct queue q;
    queue_open(&q, 0);
    queue_run(&q, 1000, 30000, 15000);
    assert_int_equal(q.b.limit, QUEUE_MAX);
    assert_true(q.b.delay_ns > TARGET_MS * NS_PER_MS); /* measured all the same */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_refused_below_what_can_be_done),
        cmocka_unit_test(test_whatever_is_offered_the_peak_is_served_and_the_wait_is_about_the_target),
        cmocka_unit_test(test_a_slow_second_does_not_starve_the_next),
        cmocka_unit_test(test_when_the_load_is_gone_nothing_is_refused),
        cmocka_unit_test(test_the_limit_has_a_floor_and_a_ceiling),
        cmocka_unit_test(test_without_a_target_the_limit_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
