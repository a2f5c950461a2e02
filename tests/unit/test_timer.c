/* The promises of server/timer.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "proto/base/mem.h"
#include "server/timer.h"

struct rig {
    struct timer t;
    struct timers *ts;
    uint64_t again_ns;
    unsigned fired, order;
};
static unsigned turn;

static void fire(struct timer *t) {
    struct rig *r = container_of(t, struct rig, t);
    r->fired++;
    r->order = ++turn;
    if (r->again_ns) assert_true(timer_set(r->ts, t, r->again_ns));
}

static void fires_in_order_and_once(void **state) {
    struct timers ts = {0};
    struct rig r[3] = {{.t.fire = fire}, {.t.fire = fire}, {.t.fire = fire}};
    turn = 0;
    assert_int_equal(timers_next_ns(&ts), UINT64_MAX);
    assert_true(timer_set(&ts, &r[0].t, 30));
    assert_true(timer_set(&ts, &r[1].t, 10));
    assert_true(timer_set(&ts, &r[2].t, 20));
    assert_int_equal(timers_next_ns(&ts), 10);
    timers_run(&ts, 9);
    assert_int_equal(turn, 0);
    timers_run(&ts, 20);
    assert_int_equal(r[1].order, 1);
    assert_int_equal(r[2].order, 2);
    assert_int_equal(r[0].fired, 0);
    timers_run(&ts, 100);
    timers_run(&ts, 200);
    assert_int_equal(r[0].fired, 1);
    assert_int_equal(r[1].fired, 1);
    timers_fini(&ts);
}

static void set_again_moves_and_clear_forgets(void **state) {
    struct timers ts = {0};
    struct rig a = {.t.fire = fire}, b = {.t.fire = fire};
    assert_true(timer_set(&ts, &a.t, 10));
    assert_true(timer_set(&ts, &b.t, 20));
    assert_true(timer_set(&ts, &a.t, 50));
    assert_int_equal(timers_next_ns(&ts), 20);
    timer_clear(&ts, &b.t);
    timer_clear(&ts, &b.t);
    assert_int_equal(timers_next_ns(&ts), 50);
    timers_run(&ts, 60);
    assert_int_equal(a.fired, 1);
    assert_int_equal(b.fired, 0);
    timers_fini(&ts);
}

static void set_from_fire_runs_in_a_later_turn(void **state) {
    struct timers ts = {0};
    struct rig a = {.t.fire = fire, .ts = &ts, .again_ns = 1};
    assert_true(timer_set(&ts, &a.t, 5));
    timers_run(&ts, 10); /* sets itself in the past: must not spin */
    assert_int_equal(a.fired, 1);
    timers_run(&ts, 10);
    assert_int_equal(a.fired, 2);
    timer_clear(&ts, &a.t);
    timers_fini(&ts);
}

static void no_memory_is_told(void **state) {
    struct timers ts = {0};
    struct rig a = {.t.fire = fire};
    mem_fail_nth(1);
    assert_false(timer_set(&ts, &a.t, 5));
    assert_int_equal(a.t.place, 0);
    assert_true(timer_set(&ts, &a.t, 5));
    timers_fini(&ts);
}

/* Against the obvious model: random sets, clears and runs. */
static void random_against_model(void **state) {
    enum { N = 300 };
    static struct rig r[N];
    struct timers ts = {0};
    uint64_t due[N] = {0}, now = 1;
    srand(7);
    for (unsigned i = 0; i < N; i++) r[i] = (struct rig){.t.fire = fire};
    for (unsigned step = 0; step < 20000; step++) {
        unsigned i = (unsigned)rand() % N;
        switch (rand() % 4) {
        case 0:
        case 1:
            due[i] = now + 1 + (uint64_t)rand() % 1000;
            assert_true(timer_set(&ts, &r[i].t, due[i]));
            break;
        case 2:
            due[i] = 0;
            timer_clear(&ts, &r[i].t);
            break;
        default:
            now += (uint64_t)rand() % 50;
            for (unsigned k = 0; k < N; k++) r[k].fired = 0;
            timers_run(&ts, now);
            for (unsigned k = 0; k < N; k++) {
                assert_int_equal(r[k].fired, due[k] && due[k] <= now);
                if (r[k].fired) due[k] = 0;
            }
        }
        uint64_t next = UINT64_MAX;
        for (unsigned k = 0; k < N; k++)
            if (due[k] && due[k] < next) next = due[k];
        assert_int_equal(timers_next_ns(&ts), next);
    }
    timers_fini(&ts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fires_in_order_and_once), cmocka_unit_test(set_again_moves_and_clear_forgets), cmocka_unit_test(set_from_fire_runs_in_a_later_turn),
        cmocka_unit_test(no_memory_is_told),       cmocka_unit_test(random_against_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
