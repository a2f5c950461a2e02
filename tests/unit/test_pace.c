/* engine/pace.h: batches of timers of one core, in simulated time, beside callers that wait or do not. */
#include "tests/lib/test.h"

#include "engine/pace.h"

/* For a second: batches that take 0.5 ms of the core and 0.2 ms more of the log, while a caller's write ends each millisecond, having waited so long. How much of the second they took, in percent. */
static unsigned share(struct pace *p, uint64_t *now_ns, bool callers, uint64_t waited_ns) {
    uint64_t spent_ns = 0, begun_ns = *now_ns, until_ns = begun_ns + NS_PER_S, ends_ns = 0;
    for (; *now_ns < until_ns; *now_ns += 100000) {
        if (callers && (*now_ns - begun_ns) % NS_PER_MS == 0) pace_called(p, *now_ns), pace_waited(p, *now_ns, waited_ns, 200000);
        if (ends_ns && *now_ns >= ends_ns) ends_ns = 0, pace_ended(p, *now_ns);
        if (pace_pauses(p, *now_ns)) assert_true(pace_deadline_ns(p) > *now_ns && pace_deadline_ns(p) < until_ns + NS_PER_S);
        (void)pace_due(p, *now_ns);
        if (ends_ns || pace_pauses(p, *now_ns)) continue;
        pace_begun(p, *now_ns);
        pace_spent(p, 500000);
        spent_ns += 500000;
        ends_ns = *now_ns + 700000;
    }
    return (unsigned)(spent_ns / (NS_PER_S / 100));
}

static void test_without_callers_nothing_pauses(void **state) {
    struct pace p;
    uint64_t now_ns = NS_PER_S;
    pace_init(&p);
    assert_in_range(share(&p, &now_ns, false, 0), 70, 72); /* the log's part aside */
    assert_false(pace_due(&p, now_ns));
}

static void test_callers_that_do_not_wait_leave_them_their_share(void **state) {
    struct pace p;
    uint64_t now_ns = NS_PER_S;
    pace_init(&p);
    assert_in_range(share(&p, &now_ns, true, 100000), 20, 32); /* slow start: it grows by a hundredth every 20 ms */
    assert_in_range(share(&p, &now_ns, true, 100000), 40, 46);
    now_ns += PACE_SLOW_START_NS / 2; /* a pause of theirs changes nothing */
    assert_in_range(share(&p, &now_ns, true, 100000), 40, 46);
    now_ns += 2 * PACE_SLOW_START_NS; /* they come anew */
    assert_in_range(share(&p, &now_ns, true, 100000), 20, 32);
}

static void test_callers_that_wait_have_their_way_and_are_forgotten(void **state) {
    struct pace p;
    uint64_t now_ns = NS_PER_S;
    pace_init(&p);
    (void)share(&p, &now_ns, true, 0);
    assert_in_range(share(&p, &now_ns, true, 5 * NS_PER_MS), 5, 25); /* it falls by a tenth every 20 ms */
    assert_in_range(share(&p, &now_ns, true, 5 * NS_PER_MS), 4, 6);  /* and no further than this */
    (void)share(&p, &now_ns, true, 0);
    assert_in_range(share(&p, &now_ns, true, 0), 40, 46);            /* in a second it has what it had */
    assert_true(pace_callers(&p, now_ns));
    assert_in_range(share(&p, &now_ns, false, 0), 69, 72);
    assert_false(pace_callers(&p, now_ns));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_callers_nothing_pauses),
        cmocka_unit_test(test_callers_that_do_not_wait_leave_them_their_share),
        cmocka_unit_test(test_callers_that_wait_have_their_way_and_are_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
