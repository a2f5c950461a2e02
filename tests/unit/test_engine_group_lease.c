/* When leases of a consumer group end, as members see it. The rest of its promises: test_engine_group.c. */
#include "tests/lib/group_rig.h"

static struct got got;

static void open_group(struct engine_rig *r, const struct consumer_definition *d)
{
    *r = (struct engine_rig){.tail_bytes = 1 << 20};
    rig_open_with(r, 1, 1 << 20);
    bring(r, GROUP, 1, d);
}

/* That a time is over is seen every 20 ms: until then the key goes on with the member that lets it pass. Then all of that goes back, too. */
static void a_time_out_takes_back_what_was_given_out_behind_it_until_it_was_seen(void **state)
{
    struct engine_rig r;
    struct member a, b;
    struct consumer_definition d = definition_of("");
    unsigned unseen = 0;
    d.ack_timeout_us = 1000000;
    d.key_window = 2;
    for (unsigned shift_ms = 0; shift_ms < 20; shift_ms += 5) {
        open_group(&r, &d);
        for (int i = 0; i < 3; i++) create_by(&r, "alice");
        rig_run(&r, shift_ms * NS_PER_MS);
        assert_int_equal(member_join(&a, &r, "a", 10), STATUS_OK);
        member_get(&a, NS_PER_S, &got);
        uint64_t given_ns = sim_world_now_ns(r.world);
        assert_int_equal(got.n, 2);
        struct got_event second = got.at[1];
        rig_run(&r, 900 * NS_PER_MS);
        assert_true(member_settle(&a, CONSUMER_EXTEND, second.slot, second.seq, 0));
        while (sim_world_now_ns(r.world) < given_ns + NS_PER_S) rig_run(&r, NS_PER_MS);
        if (member_ack(&a, &second)) {
            unseen++;
            member_get(&a, 0, &got);
            assert_int_equal(got.n, 1);
            assert_int_equal(got.at[0].seq, 3);
            struct got_event third = got.at[0];
            rig_run(&r, 25 * NS_PER_MS);
            assert_int_equal(group_lag(&r).in_flight, 0);
            assert_false(member_ack(&a, &third));
            assert_int_equal(member_join(&b, &r, "b", 10), STATUS_OK);
            member_get(&b, NS_PER_S, &got);
            assert_int_equal(got.n, 2);
            assert_int_equal(got.at[0].seq, 1);
            assert_int_equal(got.at[0].attempt, 2);
            assert_int_equal(got.at[1].seq, 3);
            assert_int_equal(got.at[1].attempt, 1);
            member_leave(&b);
        }
        member_leave(&a);
        rig_close(&r);
    }
    assert_true(unseen);
}

/* One of a key with a window blocks it while one in front is still out. When that comes back and has attempts left, it is that one's turn: then the key is blocked where it was. */
static void a_key_that_is_blocked_goes_on_for_what_comes_back_in_front(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.key_window = 2;
    d.on_exhausted = EXHAUSTED_BLOCK;
    open_group(&r, &d);
    for (int i = 0; i < 3; i++) create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    struct got_event first = got.at[0];
    assert_true(member_settle(&m, CONSUMER_DEAD, got.at[1].slot, got.at[1].seq, 0));
    assert_int_equal(group_lag(&r).blocked_keys, 1);
    assert_true(member_settle(&m, CONSUMER_NACK, first.slot, first.seq, 0));
    assert_int_equal(group_lag(&r).blocked_keys, 0);
    for (int i = 0; i < 2; i++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1); /* not the second, which was nacked as dead, nor what is behind it */
        assert_int_equal(got.at[0].seq, 1);
        assert_int_equal(got.at[0].attempt, 2);
        assert_int_equal(group_lag(&r).blocked_keys, 1);
        if (i) break;
        member_leave(&m); /* so it comes back once more */
        assert_int_equal(group_lag(&r).blocked_keys, 0);
        assert_int_equal(member_join(&m, &r, "b", 10), STATUS_OK);
    }
    assert_true(member_ack(&m, &got.at[0]));
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    assert_int_equal(group_lag(&r).blocked_keys, 1);
    member_leave(&m);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_time_out_takes_back_what_was_given_out_behind_it_until_it_was_seen),
        cmocka_unit_test(a_key_that_is_blocked_goes_on_for_what_comes_back_in_front),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
