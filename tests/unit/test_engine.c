/* The engine's door where things go wrong: what sim_engine meets rarely or never. Clock, disk and stores are simulated. */
#include "tests/lib/engine_rig.h"

#include "proto/base/log.h"

/* Segments of 64 KiB: the command passes every check and fits nowhere. */
static void a_command_that_no_segment_holds_is_refused_and_holds_up_nobody(void **state) {
    struct engine_rig r;
    rig_open(&r);
    struct job *large = job_new(OP_WRITE, 1 << 20);
    large->op.slot = slot_of_user(slice_str("somebody"));
    large->op.command = slice_of(arena_zalloc(&large->arena, 100000), 100000);
    engine_submit(r.engine, &large->op);
    struct job *behind = create_send(&r, 1, 1 << 20);
    rig_run(&r, 200 * NS_PER_MS);
    assert_int_equal(large->done, 1);
    assert_int_equal(large->op.failure.status, STATUS_LIMIT_EXCEEDED);
    assert_int_equal(behind->done, 1);
    assert_int_equal(behind->op.failure.status, STATUS_OK);
    job_free(large), job_free(behind);
    rig_close(&r);
}

/* RESOURCE_EXHAUSTED would say "nothing was done". */
static void a_write_whose_answer_finds_no_memory_is_of_unknown_outcome(void **state) {
    struct engine_rig r;
    rig_open(&r);
    struct job *j = create_send(&r, 50, 16 << 10);
    rig_run(&r, 200 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_DEADLINE_EXCEEDED);
    struct engine_stats stats;
    engine_get_stats(r.engine, &stats);
    assert_int_equal(stats.creates, 1); /* done it was */
    job_free(j);
    rig_close(&r);
}

/* A drained engine is closed when all cores are: nothing may begin in between. */
static void a_drained_engine_stays_drained_though_its_failed_store_could_be_reopened(void **state) {
    struct engine_rig r;
    rig_open(&r);
    create(&r);
    char waits[ENGINE_WAITS_BYTES];
    store_mem_disk_set_full(r.store, true);
    engine_drain(r.engine);
    engine_drain_waits(r.engine, waits);
    assert_string_equal(waits, "what is applied is not flushed, partition 0");
    for (unsigned i = 0; !engine_drained(r.engine); i++) {
        assert_true(i < 1000);
        rig_run(&r, NS_PER_MS);
    }
    engine_drain_waits(r.engine, waits);
    assert_string_equal(waits, "");
    assert_int_equal(r.engine->partitions[0].state, PARTITION_FAILED);
    store_mem_disk_set_full(r.store, false);
    for (uint64_t until = sim_world_now_ns(r.world) + 5 * NS_PER_S; sim_world_now_ns(r.world) < until;) {
        rig_run(&r, 10000);
        assert_true(engine_drained(r.engine));
    }
    rig_close(&r);
}

/* The store was reopened, and its disk fails again before the log is read back: an acknowledged order must not seem lost. */
static void a_read_never_tells_less_than_was_acknowledged(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t order_id = create(&r);
    store_mem_disk_set_full(r.store, true);
    struct job *stuck = create_send(&r, 1, 1 << 20);
    unsigned answered = 0, refused = 0;
    for (unsigned i = 0; i < 100; i++) {
        if (i == 50) store_mem_disk_set_full(r.store, false);
        rig_run(&r, 100 * NS_PER_MS);
        struct job *j = job_new(OP_GET, 1 << 20);
        j->op.slot = order_id_slot(order_id);
        j->op.get.order_id = order_id;
        engine_submit(r.engine, &j->op);
        rig_run(&r, NS_PER_MS);
        assert_int_equal(j->done, 1);
        if (j->op.failure.status) assert_int_equal(j->op.failure.status, STATUS_NOT_LEADER), refused++;
        else answered++;
        if (i == 99) assert_int_equal(j->op.failure.status, STATUS_OK);
        job_free(j);
    }
    assert_true(answered > 0);
    assert_true(refused > 0);
    assert_int_equal(stuck->done, 1);
    assert_int_equal(stuck->op.failure.status, STATUS_OK);
    job_free(stuck);
    rig_close(&r);
}

/* Reads that miss the cache keep the store open; there is always one under way. */
static void a_failed_store_is_reopened_though_it_is_read_all_the_time(void **state) {
    struct engine_rig r;
    rig_open(&r);
    int64_t order_id = create(&r);
    store_mem_disk_set_full(r.store, true);
    struct job *stuck = create_send(&r, 1, 1 << 20), *reads[OPS_MAX] = {0};
    rig_run(&r, 200 * NS_PER_MS);
    assert_int_equal(stuck->done, 0);
    store_mem_disk_set_cold(r.store, true);
    store_mem_disk_set_full(r.store, false);
    uint64_t answered = 0;
    for (uint64_t until = sim_world_now_ns(r.world) + 20 * NS_PER_S; sim_world_now_ns(r.world) < until && !stuck->done;) {
        for (unsigned i = 0; i < OPS_MAX; i++) {
            if (reads[i] && !reads[i]->done) continue;
            if (reads[i]) assert_int_equal(reads[i]->op.failure.status, STATUS_OK), answered++, job_free(reads[i]);
            reads[i] = job_new(OP_GET, 1 << 20);
            reads[i]->op.slot = order_id_slot(order_id);
            reads[i]->op.get.order_id = order_id;
            engine_submit(r.engine, &reads[i]->op);
        }
        rig_run(&r, 50000);
    }
    assert_int_equal(stuck->done, 1);
    assert_int_equal(stuck->op.failure.status, STATUS_OK);
    assert_true(answered > 1000);
    rig_run(&r, NS_PER_S);
    for (unsigned i = 0; i < OPS_MAX; i++) assert_int_equal(reads[i]->done, 1), job_free(reads[i]);
    job_free(stuck);
    rig_close(&r);
}

static void writes_that_met_damage_are_answered(void **state) {
    struct engine_rig r;
    rig_open(&r);
    create(&r);
    struct job *first = create_send(&r, 1, 1 << 20), *second = create_send(&r, 1, 1 << 20);
    store_mem_disk_set_read_fault(r.store, STATUS_CHECKSUM_MISMATCH);
    rig_run(&r, NS_PER_S);
    assert_int_equal(first->done, 1);
    assert_int_equal(second->done, 1);
    assert_int_equal(first->op.failure.status, STATUS_CHECKSUM_MISMATCH);
    store_mem_disk_set_read_fault(r.store, STATUS_OK);
    job_free(first), job_free(second);
    engine_drain(r.engine);
    rig_run(&r, NS_PER_S);
    assert_true(engine_drained(r.engine));
    rig_close(&r);
}

/* A user of each partition. */
static void users_find(char users[PARTITIONS_MAX][32]) {
    unsigned found = 0;
    for (unsigned i = 0; found != 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "user-%u", i);
        uint32_t p = partition_of_slot(slot_of_user(slice_str(name)), PARTITIONS_MAX);
        if (!(found & 1u << p)) memcpy(users[p], name, sizeof name), found |= 1u << p;
    }
}

/* What a restart replays is bounded by flushing whoever has most of it; a partition that can't must not keep the others from it. */
static void a_failed_partition_keeps_no_other_from_its_flush(void **state) {
    struct engine_rig r = {0};
    char users[PARTITIONS_MAX][32];
    rig_open_with(&r, PARTITIONS_MAX, 64 << 20);
    users_find(users);
    for (unsigned i = 0; i < 9; i++) { /* some 200 KiB: below the quarter at which it would be flushed */
        struct job *j = create_send_of(&r, users[0], 50, 1 << 20);
        rig_run(&r, 10 * NS_PER_MS);
        assert_int_equal(j->op.failure.status, STATUS_OK);
        job_free(j);
    }
    assert_true(r.engine->partitions[0].log_bytes_unflushed > 150 << 10);
    store_mem_disk_set_full(r.stores[0], true);
    struct job *stuck = create_send_of(&r, users[0], 1, 1 << 20);
    uint64_t before = r.engine->partitions[1].flushed.applied_index;
    for (unsigned i = 0; i < 6; i++) {
        struct job *j = create_send_of(&r, users[1], 50, 1 << 20);
        rig_run(&r, 100 * NS_PER_MS);
        assert_int_equal(j->op.failure.status, STATUS_OK);
        job_free(j);
    }
    assert_int_equal(r.engine->partitions[0].state, PARTITION_FAILED);
    assert_true(r.engine->partitions[1].flushed.applied_index > before);
    store_mem_disk_set_full(r.stores[0], false);
    rig_run(&r, 10 * NS_PER_S);
    assert_int_equal(stuck->done, 1);
    job_free(stuck);
    rig_close(&r);
}

static void writes_beyond_the_limit_are_refused_with_a_delay(void **state) {
    enum { COUNT = 5, LIMIT = 2 };
    struct engine_rig r;
    struct job *jobs[COUNT];
    rig_open(&r);
    r.engine->writes.limit = LIMIT;
    for (unsigned i = 0; i < COUNT; i++) jobs[i] = create_send(&r, 1, 1 << 20);
    rig_run(&r, 50 * NS_PER_MS);
    for (unsigned i = 0; i < COUNT; i++) {
        bool refused = i >= LIMIT + LIMIT / 2; /* behind the server's door by half */
        assert_int_equal(jobs[i]->done, 1);
        assert_int_equal(jobs[i]->op.failure.status, refused ? STATUS_OVERLOADED : STATUS_OK);
        assert_int_equal(jobs[i]->op.failure.retry_delay_ms, refused ? RETRY_DELAY_MS : 0);
        job_free(jobs[i]);
    }
    struct engine_stats stats;
    engine_get_stats(r.engine, &stats);
    assert_int_equal(stats.refused_overload, COUNT - LIMIT - LIMIT / 2);
    rig_run(&r, NS_PER_S);
    assert_int_equal(engine_write_queue(r.engine).limit, 100); /* nobody waits: it has grown again */
    rig_close(&r);
}

/* 50 lines are some 20 KiB; 900 of 1000 leaves a tenth of 1 MiB a second: the first goes after 2 ms, the next one a fifth of a second later. What is more than it has room for is refused. */
static void a_partition_that_is_behind_writes_slowly_and_the_other_one_does_not(void **state) {
    enum { COUNT = 4, TAKEN = 2 };
    struct engine_rig r = {0};
    struct job *jobs[COUNT];
    char users[PARTITIONS_MAX][32];
    rig_open_with(&r, PARTITIONS_MAX, 64 << 20);
    users_find(users);
    store_mem_disk_set_behind(r.stores[0], 900);
    rig_run(&r, 50 * NS_PER_MS);
    for (unsigned i = 0; i < COUNT; i++) jobs[i] = create_send_of(&r, users[0], 50, 1 << 20);
    rig_run(&r, 60 * NS_PER_MS);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(jobs[i]->done, i != 1);
        if (i >= TAKEN) assert_int_equal(jobs[i]->op.failure.status, STATUS_OVERLOADED);
        if (i >= TAKEN) assert_int_equal(jobs[i]->op.failure.retry_delay_ms, RETRY_DELAY_BEHIND_MS);
    }
    for (unsigned i = 0; i < COUNT; i++) { /* it has the core to itself meanwhile */
        struct job *j = create_send_of(&r, users[1], 50, 1 << 20);
        rig_run(&r, 5 * NS_PER_MS);
        assert_int_equal(j->done, 1);
        assert_int_equal(j->op.failure.status, STATUS_OK);
        job_free(j);
    }
    assert_int_equal(jobs[1]->done, 0);
    rig_run(&r, 300 * NS_PER_MS);
    for (unsigned i = 0; i < TAKEN; i++) assert_int_equal(jobs[i]->op.failure.status, STATUS_OK);
    for (unsigned i = 0; i < COUNT; i++) job_free(jobs[i]);
    assert_int_equal(r.engine->partitions[0].queue_bytes, 0);
    rig_close(&r);
}

static void the_engine_is_closed_when_all_its_partitions_are(void **state) {
    struct engine_rig r = {0};
    char users[PARTITIONS_MAX][32];
    rig_open_with(&r, PARTITIONS_MAX, 64 << 20);
    users_find(users);
    static const struct { uint32_t behind[PARTITIONS_MAX]; bool closed; } cases[] = {{{0, 0}, false}, {{1000, 0}, false}, {{999, 1000}, false}, {{1000, 1000}, true}, {{0, 1000}, false}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (unsigned p = 0; p < PARTITIONS_MAX; p++) store_mem_disk_set_behind(r.stores[p], cases[i].behind[p]);
        rig_run(&r, 50 * NS_PER_MS);
        assert_int_equal(engine_write_queue(r.engine).closed, cases[i].closed);
        for (unsigned p = 0; p < PARTITIONS_MAX; p++) {
            struct job *j = create_send_of(&r, users[p], 1, 1 << 20);
            rig_run(&r, 500 * NS_PER_MS);
            assert_int_equal(j->done, 1);
            assert_int_equal(j->op.failure.status, cases[i].behind[p] == STORE_BEHIND_FULL ? STATUS_OVERLOADED : STATUS_OK);
            job_free(j);
        }
    }
    rig_close(&r);
}

static void a_write_that_would_wait_beyond_its_deadline_is_refused_at_once(void **state) {
    struct engine_rig r;
    rig_open(&r);
    r.engine->writes.delay_ns = 50 * NS_PER_MS;
    struct job *hasty = job_new(OP_WRITE, 1 << 20), *patient = job_new(OP_WRITE, 1 << 20), *past = job_new(OP_WRITE, 1 << 20), *jobs[] = {hasty, patient, past};
    static const int64_t allowed_ms[] = {40, 60, 0};
    static const enum status expected[] = {STATUS_OVERLOADED, STATUS_OK, STATUS_DEADLINE_EXCEEDED};
    for (unsigned i = 0; i < ARRAY_LEN(jobs); i++) {
        jobs[i]->op.slot = slot_of_user(slice_str("somebody"));
        jobs[i]->op.command = create_command(&r, "somebody", 1);
        jobs[i]->op.deadline_ns = sim_world_now_ns(r.world) + (uint64_t)allowed_ms[i] * NS_PER_MS;
        engine_submit(r.engine, &jobs[i]->op);
    }
    rig_run(&r, 50 * NS_PER_MS);
    for (unsigned i = 0; i < ARRAY_LEN(jobs); i++) {
        assert_int_equal(jobs[i]->done, 1);
        assert_int_equal(jobs[i]->op.failure.status, expected[i]);
        job_free(jobs[i]);
    }
    struct engine_stats stats;
    engine_get_stats(r.engine, &stats);
    assert_int_equal(stats.refused_late, 2);
    rig_close(&r);
}

static struct job *get_send(struct engine_rig *r, int64_t order_id, uint64_t deadline_ns) {
    struct job *j = job_new(OP_GET, 1 << 20);
    j->op.slot = order_id_slot(order_id);
    j->op.get.order_id = order_id;
    j->op.deadline_ns = deadline_ns;
    engine_submit(r->engine, &j->op);
    return j;
}

static void reads_from_disk_have_a_limit_of_their_own_and_are_dropped_behind_their_deadline(void **state) {
    enum { COUNT = 3 };
    struct engine_rig r;
    rig_open(&r);
    int64_t order_id = create(&r);
    store_mem_disk_set_cold(r.store, true);
    r.engine->disk_reads.limit = COUNT - 1;
    struct job *jobs[COUNT];
    for (unsigned i = 0; i < COUNT; i++) jobs[i] = get_send(&r, order_id, i == 0 ? sim_world_now_ns(r.world) + 1 : 0); /* no thread is so fast */
    rig_run(&r, 50 * NS_PER_MS);
    static const enum status expected[COUNT] = {STATUS_DEADLINE_EXCEEDED, STATUS_OK, STATUS_OVERLOADED};
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(jobs[i]->done, 1);
        assert_int_equal(jobs[i]->op.failure.status, expected[i]);
        job_free(jobs[i]);
    }
    rig_close(&r);
}

/* A clock that is years ahead. */
static const struct env_ops *plain;
static int64_t ahead_us;
static int64_t ahead_wall_us(struct env *env) { return plain->wall_us(env) + ahead_us; }

static void outcome_ask(struct engine_rig *r, const char *request_id, bool applied) {
    struct job *j = job_new(OP_WRITE, 1 << 20);
    Orderdb__V1__GetRequestOutcomeRequest m = ORDERDB__V1__GET_REQUEST_OUTCOME_REQUEST__INIT;
    struct checked checked;
    struct failure f;
    m.user_id = (char *)"somebody", m.request_id = (char *)request_id;
    failure_init(&f, &j->arena);
    assert_true(check_outcome(&m, &j->arena, &checked, &f));
    j->op.slot = slot_of_user(slice_str("somebody")), j->op.command = checked.command;
    engine_submit(r->engine, &j->op);
    rig_run(r, 100 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_int_equal(j->op.outcome.applied, applied);
    job_free(j);
}

static enum status create_under(struct engine_rig *r, unsigned request) {
    r->requests = request - 1;
    struct job *j = create_send(r, 1, 1 << 20);
    rig_run(r, 100 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    enum status st = j->op.failure.status;
    job_free(j);
    return st;
}

/* Starts with 400 days more each, each with all of it flushed before: rows are dropped that have expired, the filter is read from what is left. */
static void a_fence_stands_over_years_and_starts(void **state) {
    struct engine_rig r = {.filter_bytes = 64 << 10}; /* the meta partition has a share that it does not use */
    rig_open_with(&r, 1, 1 << 20);
    outcome_ask(&r, "request-0000000000000007", false);
    for (unsigned life = 0; life < 5; life++) {
        struct env_ops ops = *(plain = r.env->ops);
        struct engine_stats before, after;
        ops.wall_us = ahead_wall_us;
        r.env->ops = &ops;
        rig_run(&r, NS_PER_S); /* the filter is whole, and used: */
        engine_get_stats(r.engine, &before);
        assert_int_equal(create_under(&r, 100), STATUS_OK); /* its record of the life before has expired */
        assert_int_equal(create_under(&r, 200 + life), STATUS_OK);
        engine_get_stats(r.engine, &after);
        assert_true(after.filter_absent > before.filter_absent);
        assert_int_equal(create_under(&r, 7), STATUS_REQUEST_FENCED);
        outcome_ask(&r, "request-0000000000000007", false);
        outcome_ask(&r, "request-0000000000000100", true);
        engine_drain(r.engine);
        for (unsigned i = 0; !engine_drained(r.engine); i++) {
            assert_true(i < 1000);
            rig_run(&r, NS_PER_MS);
        }
        r.env->ops = plain;
        rig_stop(&r);
        rig_start(&r);
        ahead_us += 400 * 86400ll * 1000000;
    }
    rig_close(&r);
}

int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_command_that_no_segment_holds_is_refused_and_holds_up_nobody),
        cmocka_unit_test(a_fence_stands_over_years_and_starts),
        cmocka_unit_test(a_write_whose_answer_finds_no_memory_is_of_unknown_outcome),
        cmocka_unit_test(a_drained_engine_stays_drained_though_its_failed_store_could_be_reopened),
        cmocka_unit_test(a_read_never_tells_less_than_was_acknowledged),
        cmocka_unit_test(a_failed_store_is_reopened_though_it_is_read_all_the_time),
        cmocka_unit_test(writes_that_met_damage_are_answered),
        cmocka_unit_test(a_failed_partition_keeps_no_other_from_its_flush),
        cmocka_unit_test(writes_beyond_the_limit_are_refused_with_a_delay),
        cmocka_unit_test(a_partition_that_is_behind_writes_slowly_and_the_other_one_does_not),
        cmocka_unit_test(the_engine_is_closed_when_all_its_partitions_are),
        cmocka_unit_test(a_write_that_would_wait_beyond_its_deadline_is_refused_at_once),
        cmocka_unit_test(reads_from_disk_have_a_limit_of_their_own_and_are_dropped_behind_their_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
