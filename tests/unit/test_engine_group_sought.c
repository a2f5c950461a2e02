/* Letters of a group that is sought (CONSUMER_YIELD, docs/STREAM.md): those that are to go out yield to their events, which come by themselves, once and in their turn; in front of the place, and behind a seek
 * that takes it back, they go out as ever. DEAD ones stay. */
#include "engine/partition_group.h"
#include "tests/lib/group_rig.h"

static struct got got;

static void open_group(struct engine_rig *r, struct member *m, enum consumer_exhausted how, uint64_t retention_us)
{
    struct consumer_definition d = definition_of("");
    d.on_exhausted = how;
    *r = (struct engine_rig){.tail_bytes = 1 << 20, .retention_us = retention_us};
    rig_open_with(r, 1, 1 << 20);
    bring(r, GROUP, 1, &d);
    assert_int_equal(member_join(m, r, "a", 100), STATUS_OK);
}

static void pay(struct engine_rig *r, int64_t id, const struct got_event *ack)
{
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = id, .event = SLICE_LIT("pay")}};
    if (ack) c.ack = (struct command_ack){.group_id = GROUP, .slot = ack->slot, .seq = ack->seq};
    struct job *j = write_command(r, &c, order_id_slot(id));
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
}

static struct got_event comes(struct member *m, int64_t seq)
{
    member_get(m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, seq);
    assert_int_equal(got.at[0].attempt, 1);
    return got.at[0];
}

/* Each alone and for the first time, and acked. */
static void come(struct member *m, int64_t from, int64_t to)
{
    for (int64_t seq = from; seq <= to; seq++) {
        struct got_event e = comes(m, seq);
        assert_true(member_ack(m, &e));
    }
}

static void nothing_comes(struct member *m)
{
    member_get(m, 2 * NS_PER_S, &got);
    assert_int_equal(got.status, STATUS_OK);
    assert_int_equal(got.n, 0);
}

static void dies(struct engine_rig *r, struct member *m, int64_t seq)
{
    struct got_event e = comes(m, seq);
    assert_true(member_settle(m, CONSUMER_DEAD, e.slot, e.seq, 0));
    rig_run(r, NS_PER_S);
}

static void letters_are(struct engine_rig *r, unsigned dead, unsigned others)
{
    rig_run(r, NS_PER_S);
    for (int dead_only = 0; dead_only < 2; dead_only++) {
        struct job *j = letters_of(r, dead_only);
        assert_int_equal(j->op.letters.count, dead + (dead_only ? 0 : others));
        job_free(j);
    }
}

/* Behind that seq of alice's slot; the member attaches again. */
static void sought(struct engine_rig *r, struct member *m, enum command_type type, int64_t behind)
{
    uint8_t packed[16];
    struct writer w = writer_of(packed, sizeof packed);
    write_be16(&w, slot_of_user(SLICE_LIT("alice"))), write_varint(&w, (uint64_t)behind);
    struct command c = {.type = type, .seek = {.group_id = GROUP, .count = 1, .packed = writer_slice(&w)}};
    struct job *j = write_command(r, &c, 0);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
    assert_int_equal(member_join(m, r, "a", 100), STATUS_OK);
}

/* 1 is a dead letter, 2 to 4 wait behind it. */
static void four_of_a_key(struct engine_rig *r, struct member *m, uint64_t retention_us)
{
    open_group(r, m, EXHAUSTED_PARK, retention_us);
    for (int i = 0; i < 4; i++) create_by(r, "alice");
    dies(r, m, 1);
    letters_are(r, 1, 3);
}

static void end(struct engine_rig *r, struct member *m)
{
    nothing_comes(m);
    letters_are(r, 0, 0);
    assert_int_equal(group_lag(r).events, 0);
    member_leave(m);
    rig_close(r);
}

static void behind_a_seek_back_a_key_comes_in_order_and_once(void **state)
{
    for (int redriven = 0; redriven < 4; redriven++) { /* so many were acked when it is sought; 0: none was redriven */
        struct engine_rig r;
        struct member m;
        four_of_a_key(&r, &m, 0);
        if (redriven) assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
        come(&m, 1, redriven);
        if (redriven) (void)comes(&m, redriven + 1); /* and is taken back */
        sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
        come(&m, 1, 4);
        end(&r, &m);
    }
}

static void a_seek_that_is_taken_back_loses_no_letter(void **state)
{
    struct engine_rig r;
    struct member m;
    four_of_a_key(&r, &m, 0);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 1);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
    come(&m, 1, 2);
    rig_run(&r, NS_PER_S);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 4); /* where it was */
    come(&m, 3, 4);
    end(&r, &m);
}

static void what_is_settled_with_its_letter_stays_so_in_a_crash(void **state)
{
    struct engine_rig r;
    struct member m;
    four_of_a_key(&r, &m, 0);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 1);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
    come(&m, 1, 2);
    rig_run(&r, 2 * NS_PER_S);
    rig_restart(&r);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    come(&m, 3, 4);
    end(&r, &m);
}

static void letters_in_front_of_the_place_stay(void **state)
{
    struct engine_rig r;
    struct member m;
    four_of_a_key(&r, &m, 0);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 2);
    nothing_comes(&m); /* 3 and 4 wait, as they did */
    letters_are(&r, 1, 3);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 4);
    end(&r, &m);
}

static void a_dead_letter_stays_until_it_is_redriven(void **state)
{
    for (int early = 0; early < 2; early++) { /* redriven before its event has come again: then it yields */
        struct engine_rig r;
        struct member m;
        open_group(&r, &m, EXHAUSTED_LETTER, 0);
        for (int i = 0; i < 3; i++) create_by(&r, "alice");
        come(&m, 1, 1);
        dies(&r, &m, 2);
        come(&m, 3, 3);
        rig_run(&r, NS_PER_S);
        sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
        come(&m, 1, 1);
        if (early) assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
        come(&m, 2, 3);
        letters_are(&r, !early, 0);
        if (!early) assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1), come(&m, 2, 2);
        end(&r, &m);
    }
}

static void an_ack_with_a_transition_takes_the_letter_along(void **state)
{
    struct engine_rig r;
    struct member m;
    open_group(&r, &m, EXHAUSTED_LETTER, 0);
    int64_t id = create_by(&r, "alice");
    dies(&r, &m, 1);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    struct got_event e = comes(&m, 1);
    pay(&r, id, &e);
    come(&m, 2, 2);
    end(&r, &m);
}

/* Their events do not come again. */
static void letters_of_events_that_were_let_go_go_out(void **state)
{
    struct engine_rig r;
    struct member m;
    four_of_a_key(&r, &m, 60 * 1000000ull);
    rig_run(&r, 120 * NS_PER_S);
    create_by(&r, "alice");
    rig_run(&r, 30 * NS_PER_S);
    assert_true(r.engine->partitions[0].kept.first_place > 0);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 5);
    end(&r, &m);
}

/* Nor do they go when what comes behind them is settled. */
static void letters_of_events_that_were_let_go_outlive_what_comes_behind_them(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, &m, EXHAUSTED_PARK, 60 * 1000000ull);
    d.on_exhausted = EXHAUSTED_PARK;
    d.ordering = ORDERING_ORDER;
    bring(&r, GROUP, 2, &d);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    int64_t id = create_by(&r, "alice");
    dies(&r, &m, 1);
    pay(&r, id, NULL);
    nothing_comes(&m);
    letters_are(&r, 1, 1);
    rig_run(&r, 120 * NS_PER_S);
    create_by(&r, "alice"); /* another key of the slot */
    rig_run(&r, 30 * NS_PER_S);
    sought(&r, &m, COMMAND_GROUP_SEEK_YIELD, 0);
    come(&m, 3, 3);
    letters_are(&r, 1, 1);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 2);
    end(&r, &m);
}

/* Beside each other, as by the seek of before there was COMMAND_GROUP_SEEK_YIELD: the letter is acked, its row not gone yet; then the event dies, and is the letter that is there. */
static void an_acked_letter_does_not_take_along_the_one_that_follows(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, &m, EXHAUSTED_LETTER, 0);
    d.key_window = 2;
    bring(&r, GROUP, 2, &d);
    create_by(&r, "alice");
    dies(&r, &m, 1);
    sought(&r, &m, COMMAND_GROUP_SEEK, 0);
    struct got_event e = comes(&m, 1);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    (void)comes(&m, 1);
    struct dispatcher *dispatcher = dispatcher_running(&r.engine->partitions[0], GROUP);
    dispatcher->acked.retry_ns = sim_world_now_ns(r.world) + NS_PER_S; /* the write was refused a moment ago */
    assert_true(member_ack(&m, &e));
    assert_true(member_settle(&m, CONSUMER_DEAD, e.slot, e.seq, 0));
    letters_are(&r, 0, 1);
    rig_run(&r, NS_PER_S);
    letters_are(&r, 1, 0);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    come(&m, 1, 1);
    end(&r, &m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behind_a_seek_back_a_key_comes_in_order_and_once),
        cmocka_unit_test(a_seek_that_is_taken_back_loses_no_letter),
        cmocka_unit_test(what_is_settled_with_its_letter_stays_so_in_a_crash),
        cmocka_unit_test(letters_in_front_of_the_place_stay),
        cmocka_unit_test(a_dead_letter_stays_until_it_is_redriven),
        cmocka_unit_test(an_ack_with_a_transition_takes_the_letter_along),
        cmocka_unit_test(letters_of_events_that_were_let_go_go_out),
        cmocka_unit_test(letters_of_events_that_were_let_go_outlive_what_comes_behind_them),
        cmocka_unit_test(an_acked_letter_does_not_take_along_the_one_that_follows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
