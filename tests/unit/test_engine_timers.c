/* The leader's half of timers (engine/partition_timers.c) through the engine's door, on a simulated clock. With crashes, full disks and clocks that leap: tests/sim/sim_timers.c. */
#include "tests/lib/engine_rig.h"

#include "engine/keys.h"
#include "proto/base/log.h"

static struct job *write_of(struct engine_rig *r, const struct command *c, int64_t order_id) {
    struct job *j = job_new(OP_WRITE, 1 << 20);
    j->op.slot = order_id_slot(order_id);
    j->op.command = command_encode(c, &r->commands);
    engine_submit(r->engine, &j->op);
    return j;
}

static void write_done(struct engine_rig *r, const struct command *c, int64_t order_id) {
    struct job *j = write_of(r, c, order_id);
    rig_run(r, 50 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
}

static int64_t wall_us(struct engine_rig *r) { return r->env->ops->wall_us(r->env); }

/* The order's pay_timeout, in so long instead of half an hour. Answers when. */
static int64_t hurry(struct engine_rig *r, int64_t order_id, int64_t in_us) {
    int64_t at_us = wall_us(r) + in_us;
    struct command c = {.type = COMMAND_SET_TIMER, .set_timer = {.order_id = order_id, .fire_us = at_us, .timer_id = SLICE_LIT("pay_timeout"), .event = SLICE_LIT("pay_timeout")}};
    write_done(r, &c, order_id);
    return at_us;
}

static bool status_is(struct engine_rig *r, int64_t order_id, const char *name) {
    struct job *j = job_new(OP_GET, 1 << 20);
    j->op.slot = order_id_slot(order_id);
    j->op.get.order_id = order_id;
    engine_submit(r->engine, &j->op);
    while (!j->done) rig_run(r, NS_PER_MS);
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, j->op.answer.len, j->op.answer.data);
    assert_non_null(m);
    bool is = strcmp(m->status, name) == 0;
    orderdb__v1__order__free_unpacked(m, NULL);
    job_free(j);
    return is;
}

static struct engine_stats stats(struct engine_rig *r) {
    struct engine_stats s;
    engine_get_stats(r->engine, &s);
    return s;
}

/* A clock that is set forward, and back when the next job is given away: the look for due timers. */
static const struct env_ops *plain;
static int64_t step_us;
static int64_t stepped_wall_us(struct env *env) { return plain->wall_us(env) + step_us; }
static void stepped_offload(struct env *env, struct env_job *job) {
    step_us = 0;
    plain->offload(env, job);
}

/* sim_cluster seed 2469 (third plans): it was found due, proposed at a log time before that, and was never looked for again. */
static void a_clock_set_back_between_look_and_entry_loses_no_timer(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r);
    hurry(&r, id, 1000000);
    struct env_ops ops = *(plain = r.env->ops);
    ops.wall_us = stepped_wall_us, ops.offload = stepped_offload;
    r.env->ops = &ops;
    step_us = 3000000;
    rig_run(&r, 200 * NS_PER_MS);
    assert_int_equal(step_us, 0);
    assert_int_equal(stats(&r).timers_fired, 1);
    assert_true(status_is(&r, id, "CANCELLED"));
    r.env->ops = plain;
    rig_close(&r);
}

static void a_timer_fires_by_itself_and_not_early(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 1000000);
    assert_int_equal(stats(&r).timers_pending, 1);
    while (wall_us(&r) < at_us - 2000) rig_run(&r, NS_PER_MS);
    assert_true(status_is(&r, id, "PENDING_PAYMENT"));
    assert_int_equal(stats(&r).timers_fired, 0);
    rig_run(&r, 60 * NS_PER_MS);
    assert_true(status_is(&r, id, "CANCELLED"));
    assert_int_equal(stats(&r).timers_fired, 1);
    assert_int_equal(stats(&r).timers_pending, 0);
    assert_int_equal(stats(&r).timers_lag_us, 0);
    rig_run(&r, 2 * NS_PER_S);
    assert_int_equal(stats(&r).timers_fired, 1);
    rig_close(&r);
}

/* What is set behind a later one is found too: nothing is looked for but by its time. */
static void an_earlier_timer_that_is_set_later_fires_first(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t late = create(&r), early = create(&r);
    hurry(&r, late, 1500000);
    rig_run(&r, 100 * NS_PER_MS);
    int64_t at_us = hurry(&r, early, 300000);
    while (wall_us(&r) < at_us + 40000) rig_run(&r, NS_PER_MS);
    assert_true(status_is(&r, early, "CANCELLED"));
    assert_true(status_is(&r, late, "PENDING_PAYMENT"));
    rig_run(&r, 2 * NS_PER_S);
    assert_true(status_is(&r, late, "CANCELLED"));
    rig_close(&r);
}

enum { MANY = 700 };

static void many_that_are_due_at_once_all_fire(void **state) {
    struct engine_rig r = {0};
    struct job *jobs[MANY];
    int64_t ids[MANY], at_us;
    rig_open_with(&r, 2, 4 << 20);
    for (unsigned i = 0; i < MANY; i += 50) {
        for (unsigned k = i; k < i + 50; k++) jobs[k] = create_send_of(&r, k % 2 ? "somebody" : "another", 1, 1 << 16);
        rig_run(&r, 100 * NS_PER_MS);
        for (unsigned k = i; k < i + 50; k++) assert_int_equal(jobs[k]->op.failure.status, STATUS_OK), ids[k] = jobs[k]->op.outcome.head.order_id, job_free(jobs[k]);
    }
    at_us = wall_us(&r) + 3000000;
    for (unsigned i = 0; i < MANY; i += 50) {
        struct command c = {.type = COMMAND_SET_TIMER, .set_timer = {.fire_us = at_us, .timer_id = SLICE_LIT("pay_timeout"), .event = SLICE_LIT("pay_timeout")}};
        for (unsigned k = i; k < i + 50; k++) c.set_timer.order_id = ids[k], jobs[k] = write_of(&r, &c, ids[k]);
        rig_run(&r, 100 * NS_PER_MS);
        for (unsigned k = i; k < i + 50; k++) assert_int_equal(jobs[k]->op.failure.status, STATUS_OK), job_free(jobs[k]);
    }
    assert_int_equal(stats(&r).timers_pending, MANY);
    assert_true(wall_us(&r) < at_us);
    while (wall_us(&r) < at_us + 500000) rig_run(&r, NS_PER_MS);
    assert_int_equal(stats(&r).timers_fired, MANY);
    assert_int_equal(stats(&r).timers_pending, 0);
    for (unsigned i = 0; i < MANY; i += 97) assert_true(status_is(&r, ids[i], "CANCELLED"));
    rig_close(&r);
}

/* A full disk is a pause, no more. */
static void timers_wait_while_the_disk_is_full(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 500000);
    store_mem_disk_set_full(r.store, true);
    while (wall_us(&r) < at_us + 500000) rig_run(&r, NS_PER_MS);
    assert_true(status_is(&r, id, "PENDING_PAYMENT"));
    assert_true(stats(&r).timers_lag_us >= 400000);
    store_mem_disk_set_full(r.store, false);
    rig_run(&r, 6 * NS_PER_S);
    assert_true(status_is(&r, id, "CANCELLED"));
    rig_close(&r);
}

/* What is overdue at a start is not called 0 before it has been looked for. */
static void a_start_does_not_say_0_of_what_is_overdue(void **state) {
    struct engine_rig r;
    unsigned unknown = 0, known = 0;
    rig_open(&r);
    int64_t at_us = hurry(&r, create(&r), 1000000);
    rig_stop(&r);
    sim_world_run(r.world, 3 * NS_PER_S);
    for (rig_begin(&r); stats(&r).timers_fired == 0; rig_run(&r, 20 * NS_PER_US)) {
        struct engine_stats s = stats(&r);
        if (!s.timers_pending) continue; /* the log has not been applied */
        if (s.timers_lag_us == TIMERS_LAG_UNKNOWN) unknown++;
        else if (group_role(r.engine->partitions[0].group) == GROUP_LEADER) known++, assert_int_equal(s.timers_lag_us, wall_us(&r) - at_us);
    }
    assert_true(unknown > 0);
    assert_true(known > 0);
    assert_int_equal(stats(&r).timers_lag_us, 0);
    rig_close(&r);
}

static void a_start_on_a_full_disk_knows_the_lag(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 1000000);
    rig_stop(&r);
    sim_world_run(r.world, 3 * NS_PER_S);
    rig_begin(&r);
    r.engine->config.disk_reserve_bytes = 1ull << 60;
    rig_run(&r, NS_PER_S);
    assert_true(r.engine->disk_full);
    assert_int_equal(stats(&r).timers_fired, 0);
    assert_int_equal(stats(&r).timers_lag_us, wall_us(&r) - at_us);
    r.engine->config.disk_reserve_bytes = 0;
    rig_run(&r, NS_PER_S);
    assert_true(status_is(&r, id, "CANCELLED"));
    assert_int_equal(stats(&r).timers_lag_us, 0);
    rig_close(&r);
}

/* The first of them has been known before. */
static void the_lag_of_timers_that_cannot_be_read_grows(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 1000000);
    rig_run(&r, 100 * NS_PER_MS);
    store_mem_disk_set_read_fault(r.store, STATUS_CHECKSUM_MISMATCH);
    while (wall_us(&r) < at_us + 2500000) rig_run(&r, NS_PER_MS);
    assert_int_equal(stats(&r).timers_fired, 0);
    assert_int_equal(stats(&r).timers_lag_us, wall_us(&r) - at_us);
    store_mem_disk_set_read_fault(r.store, STATUS_OK);
    rig_run(&r, 2 * NS_PER_S);
    assert_true(status_is(&r, id, "CANCELLED"));
    assert_int_equal(stats(&r).timers_lag_us, 0);
    rig_close(&r);
}

/* Nothing is proposed any more, and what was is waited for. */
static void a_drain_leaves_timers_to_the_next_start(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 200000);
    engine_drain(r.engine);
    while (wall_us(&r) < at_us + 200000) rig_run(&r, NS_PER_MS);
    assert_true(engine_drained(r.engine));
    assert_true(status_is(&r, id, "PENDING_PAYMENT"));
    rig_close(&r);
}

/* A row without a timer behind it (none should be there) is passed once, and moves nothing. */
static void a_row_that_no_order_knows_is_passed(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t id = create(&r), at_us = hurry(&r, id, 400000);
    struct partition *p = &r.engine->partitions[0];
    struct key k;
    struct store_batch *batch = store_batch_new(p->store);
    key_timer(&k, at_us - 1, id, 3);
    store_batch_put(batch, key_slice(&k), (struct slice){0});
    key_timer(&k, at_us - 1, order_id_make(ORDER_EPOCH_MS + 5, 77, 1), 0);
    store_batch_put(batch, key_slice(&k), (struct slice){0});
    assert_int_equal(store_apply(p->store, batch), STATUS_OK);
    store_batch_free(batch);
    rig_run(&r, NS_PER_S);
    assert_true(status_is(&r, id, "CANCELLED"));
    assert_int_equal(stats(&r).timers_fired, 1);
    assert_int_equal(stats(&r).timers_lag_us, 0);
    rig_close(&r);
}

int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timer_fires_by_itself_and_not_early),
        cmocka_unit_test(a_clock_set_back_between_look_and_entry_loses_no_timer),    cmocka_unit_test(an_earlier_timer_that_is_set_later_fires_first),
        cmocka_unit_test(many_that_are_due_at_once_all_fire),       cmocka_unit_test(timers_wait_while_the_disk_is_full),
        cmocka_unit_test(a_start_does_not_say_0_of_what_is_overdue), cmocka_unit_test(a_start_on_a_full_disk_knows_the_lag),
        cmocka_unit_test(the_lag_of_timers_that_cannot_be_read_grows), cmocka_unit_test(a_drain_leaves_timers_to_the_next_start),
        cmocka_unit_test(a_row_that_no_order_knows_is_passed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
