/* What becomes of a key that dead letters parked (DEAD_LETTER_AND_PARK_KEY) once they are redriven: still one by one, and nothing of it stays behind. Its first redrive: test_engine_group.c. */
#include "tests/lib/group_rig.h"

static struct got got;

static void open_group(struct engine_rig *r, struct member *m, uint32_t key_window)
{
    struct consumer_definition d = definition_of("");
    d.key_window = key_window;
    d.on_exhausted = EXHAUSTED_PARK;
    *r = (struct engine_rig){.tail_bytes = 1 << 20};
    rig_open_with(r, 1, 1 << 20);
    bring(r, GROUP, 1, &d);
    assert_int_equal(member_join(m, r, "a", 100), STATUS_OK);
}

/* Alone, and for the first time: since it was redriven, or ever. */
static struct got_event comes(struct member *m, int64_t seq)
{
    member_get(m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, seq);
    assert_int_equal(got.at[0].attempt, 1);
    return got.at[0];
}

static void dies(struct engine_rig *r, struct member *m, int64_t seq)
{
    struct got_event e = comes(m, seq);
    assert_true(member_settle(m, CONSUMER_DEAD, e.slot, e.seq, 0));
    rig_run(r, NS_PER_S);
}

static void are(struct engine_rig *r, unsigned dead, unsigned waiting)
{
    for (int dead_only = 0; dead_only < 2; dead_only++) {
        struct job *j = letters_of(r, dead_only);
        assert_int_equal(j->op.letters.count, dead + (dead_only ? 0 : waiting));
        job_free(j);
    }
    assert_int_equal(group_lag(r).blocked_keys, dead);
}

static void a_letter_that_dies_again_parks_those_behind_it(void **state)
{
    for (int64_t again = 1; again <= 3; again++) {
        for (int purge = 0; purge < 2; purge++) {
            struct engine_rig r;
            struct member m;
            open_group(&r, &m, 1);
            for (int i = 0; i < 3; i++) create_by(&r, "alice");
            dies(&r, &m, 1);
            are(&r, 1, 2);
            assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
            for (int64_t seq = 1; seq < again; seq++) {
                struct got_event e = comes(&m, seq);
                assert_true(member_ack(&m, &e));
            }
            dies(&r, &m, again);
            member_get(&m, NS_PER_S, &got);
            assert_int_equal(got.n, 0);
            are(&r, 1, (unsigned)(3 - again));
            assert_int_equal(letters_do(&r, purge ? LETTERS_PURGE : LETTERS_REDRIVE, 0), 1);
            for (int64_t seq = again + purge; seq <= 3; seq++) {
                struct got_event e = comes(&m, seq);
                assert_true(member_ack(&m, &e));
            }
            rig_run(&r, NS_PER_S);
            are(&r, 0, 0);
            member_leave(&m);
            rig_close(&r);
        }
    }
}

/* Two were redriven, and the first dies again: the second comes all the same, what waits does not. */
static void a_letter_that_was_redriven_too_comes_all_the_same(void **state)
{
    struct engine_rig r;
    struct member m;
    open_group(&r, &m, 2);
    for (int i = 0; i < 3; i++) create_by(&r, "alice");
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    struct got_event first = got.at[0], second = got.at[1];
    assert_true(member_settle(&m, CONSUMER_DEAD, second.slot, second.seq, 0));
    assert_true(member_settle(&m, CONSUMER_DEAD, first.slot, first.seq, 0));
    rig_run(&r, NS_PER_S);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 2);
    first = comes(&m, 1);
    second = comes(&m, 2);
    assert_true(member_settle(&m, CONSUMER_DEAD, first.slot, first.seq, 0));
    assert_false(member_ack(&m, &second)); /* it was taken back */
    rig_run(&r, NS_PER_S);
    second = comes(&m, 2);
    assert_true(member_ack(&m, &second));
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    are(&r, 1, 1);
    member_leave(&m);
    rig_close(&r);
}

/* The key is parked until the letter's row is gone; what is looked at between its ack and that becomes a letter, which nobody redrives. */
static void what_comes_while_the_last_letter_goes_does_not_wait_for_ever(void **state)
{
    struct engine_rig r;
    struct member m;
    open_group(&r, &m, 1);
    create_by(&r, "alice");
    dies(&r, &m, 1);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    struct got_event e = comes(&m, 1);
    create_by(&r, "alice");
    struct consumer_settle ack = {.kind = CONSUMER_ACK, .slot = e.slot, .seq = e.seq};
    struct job *j = member_op(&m, OP_GROUP_SETTLE);
    j->op.consumer.settles = &ack;
    j->op.consumer.settle_count = 1;
    engine_submit(r.engine, &j->op);
    member_poll(&m, 2 * NS_PER_S);
    until_done(&r, j);
    assert_false(ack.stale);
    job_free(j);
    member_take(&m, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, 2);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, NS_PER_S);
    are(&r, 0, 0);
    member_leave(&m);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_letter_that_dies_again_parks_those_behind_it),
        cmocka_unit_test(a_letter_that_was_redriven_too_comes_all_the_same),
        cmocka_unit_test(what_comes_while_the_last_letter_goes_does_not_wait_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
