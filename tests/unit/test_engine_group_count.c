/* What a lag and a seek's dry run count of a group with a filter: only what it wants, whether somebody has looked at it or not; and, beyond a bound, an estimate that says so. */
#include "tests/lib/group_rig.h"

static struct got got;

static void create_of(struct engine_rig *r, const char *user, unsigned lines)
{
    struct job *j = create_send_of(r, user, lines, 4 << 20);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
}

static void open_group(struct engine_rig *r, const char *filter)
{
    struct consumer_definition d = definition_of(filter);
    rig_open(r);
    bring(r, GROUP, 1, &d);
}

static struct consumer_positions positions_of(struct engine_rig *r, const int64_t *target, uint64_t asked_max)
{
    static int64_t behind[SLOT_COUNT];
    struct job *j = job_new(OP_GROUP_POSITIONS, 1 << 20);
    j->op.positions = (struct consumer_positions){.group_id = GROUP, .behind = behind, .target = target, .asked_max = asked_max};
    job_succeeds(r, j);
    struct consumer_positions p = j->op.positions;
    job_free(j);
    return p;
}

static void a_lag_has_what_the_filter_wants_of_what_nobody_has_looked_at(void **state)
{
    struct engine_rig r;
    open_group(&r, "user_id = \"bob\"");
    for (int i = 0; i < 5; i++) create_by(&r, "alice");
    assert_int_equal(group_lag_asking(&r, 0).events, 0);
    assert_int_equal(group_lag_asking(&r, 0).oldest_us, 0);
    assert_false(group_lag_asking(&r, 0).estimated);
    rig_run(&r, NS_PER_S);
    uint64_t before_us = (uint64_t)r.env->ops->wall_us(r.env);
    create_by(&r, "bob");
    for (int i = 0; i < 3; i++) create_by(&r, "alice");
    create_by(&r, "bob");
    struct consumer_lag lag = group_lag_asking(&r, 0);
    assert_int_equal(lag.events, 2);
    assert_true(lag.oldest_us >= before_us); /* not that of alice's, a second ago */
    assert_false(lag.estimated);
    rig_close(&r);
}

static void what_a_member_holds_counts_and_what_lies_behind_it_is_asked(void **state)
{
    struct engine_rig r;
    struct member m;
    open_group(&r, "user_id = \"bob\"");
    create_by(&r, "alice");
    create_by(&r, "bob");
    assert_int_equal(member_join(&m, &r, "a", 1), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    struct got_event first = got.at[0];
    for (int i = 0; i < 3; i++) create_by(&r, "alice"), create_by(&r, "bob"); /* no credit: nobody looks */
    struct consumer_lag lag = group_lag_asking(&r, 0);
    assert_int_equal(lag.events, 4);
    assert_int_equal(lag.in_flight, 1);
    uint64_t oldest_us = lag.oldest_us;
    assert_true(oldest_us > 0);
    assert_true(member_ack(&m, &first));
    lag = group_lag_asking(&r, 0);
    assert_int_equal(lag.events, 3);
    assert_true(lag.oldest_us > oldest_us);
    member_leave(&m);
    rig_run(&r, 15 * NS_PER_S); /* its dispatcher has gone */
    lag = group_lag_asking(&r, 0);
    assert_int_equal(lag.events, 3);
    assert_int_equal(lag.in_flight, 0);
    rig_close(&r);
}

static void a_seek_counts_what_the_filter_wants(void **state)
{
    static int64_t zero[SLOT_COUNT], end[SLOT_COUNT];
    struct engine_rig r;
    struct member m;
    open_group(&r, "user_id = \"bob\"");
    for (int i = 0; i < 3; i++) create_by(&r, "alice"), create_by(&r, "bob");
    for (unsigned s = 0; s < SLOT_COUNT; s++) end[s] = INT64_MAX;
    struct consumer_positions p = positions_of(&r, end, 0);
    assert_int_equal(p.skipped, 3);
    assert_int_equal(p.redelivered, 0);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_true(member_ack(&m, &got.at[0]));
    }
    member_leave(&m);
    rig_run(&r, NS_PER_S);
    p = positions_of(&r, zero, 0);
    assert_int_equal(p.redelivered, 2);
    assert_int_equal(p.skipped, 0);
    p = positions_of(&r, end, 0);
    assert_int_equal(p.redelivered, 0);
    assert_int_equal(p.skipped, 1);
    assert_false(p.estimated);
    rig_close(&r);
}

static void beyond_the_bound_it_is_an_estimate_that_says_so(void **state)
{
    static int64_t end[SLOT_COUNT];
    struct engine_rig r;
    open_group(&r, "user_id = \"bob\"");
    for (int i = 0; i < 40; i++) create_by(&r, i % 2 ? "bob" : "alice");
    for (unsigned s = 0; s < SLOT_COUNT; s++) end[s] = INT64_MAX;
    struct consumer_lag lag = group_lag_asking(&r, 10);
    assert_true(lag.estimated);
    assert_int_equal(lag.events, 20); /* 5 of 10, and half of the 30 others */
    assert_true(lag.oldest_us > 0);
    lag = group_lag_asking(&r, 40);
    assert_false(lag.estimated);
    assert_int_equal(lag.events, 20);
    struct consumer_positions p = positions_of(&r, end, 10);
    assert_true(p.estimated);
    assert_int_equal(p.skipped, 20);
    struct consumer_definition none = definition_of("user_id = \"carol\"");
    bring(&r, GROUP, 2, &none);
    lag = group_lag_asking(&r, 10);
    assert_true(lag.estimated);
    assert_true(lag.events >= 1); /* never "nothing" of what was not looked at */
    assert_true(lag.events <= 4);
    assert_true(lag.oldest_us > 0);
    lag = group_lag_asking(&r, 0);
    assert_false(lag.estimated);
    assert_int_equal(lag.events, 0);
    assert_int_equal(lag.oldest_us, 0);
    rig_close(&r);
}

static void events_by_reference_are_asked_with_their_content(void **state)
{
    struct engine_rig r;
    open_group(&r, "items.sku_id = \"sku\" AND user_id = \"bob\"");
    create_of(&r, "bob", 40); /* 16 KiB: its items are not in the event */
    create_of(&r, "alice", 40);
    assert_int_equal(group_lag_asking(&r, 0).events, 1);
    rig_close(&r);
}

static void a_seek_that_could_not_be_written_is_refused_when_it_looks(void **state)
{
    static int64_t behind[SLOT_COUNT];
    struct engine_rig r;
    open_group(&r, "");
    create_by(&r, "bob");
    r.engine->partitions[0].damaged = true;
    for (int writable = 0; writable < 2; writable++) {
        struct job *j = job_new(OP_GROUP_POSITIONS, 1 << 20);
        j->op.positions = (struct consumer_positions){.group_id = GROUP, .behind = behind, .target = behind, .writable = writable};
        engine_submit(r.engine, &j->op);
        until_done(&r, j);
        assert_int_equal(j->op.failure.status, writable ? STATUS_CHECKSUM_MISMATCH : STATUS_OK);
        job_free(j);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lag_has_what_the_filter_wants_of_what_nobody_has_looked_at),
        cmocka_unit_test(what_a_member_holds_counts_and_what_lies_behind_it_is_asked),
        cmocka_unit_test(a_seek_counts_what_the_filter_wants),
        cmocka_unit_test(beyond_the_bound_it_is_an_estimate_that_says_so),
        cmocka_unit_test(a_seek_that_could_not_be_written_is_refused_when_it_looks),
        cmocka_unit_test(events_by_reference_are_asked_with_their_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
