/* Consumer groups that begin with a snapshot, through the engine's door: every live order once, then its changes. Random lives: sim_groups. */
#include "tests/lib/group_rig.h"

static struct got got;

static void open_rig(struct engine_rig *r, uint32_t orders_at_once, uint64_t retention_us)
{
    *r = (struct engine_rig){.tail_bytes = 1 << 20, .snapshot_orders = orders_at_once, .retention_us = retention_us};
    rig_open_with(r, 1, 1 << 20);
}

static struct consumer_definition snapshot_of(const char *filter)
{
    struct consumer_definition d = definition_of(filter);
    d.start = START_SNAPSHOT;
    return d;
}

/* untold: there is no event of it, and no seq. */
static int64_t order_by(struct engine_rig *r, const char *user, bool untold)
{
    if (!untold) return create_by(r, user);
    struct job *j = import_of(r, user, 1, true);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_int_equal(j->op.outcome.seq, 0);
    int64_t id = j->op.outcome.head.order_id;
    job_free(j);
    return id;
}

static enum status move(struct engine_rig *r, int64_t id, const char *event, const struct got_event *ack)
{
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = id, .event = slice_str(event)}};
    if (ack) c.ack = (struct command_ack){.group_id = GROUP, .slot = ack->slot, .seq = ack->seq};
    struct job *j = write_command(r, &c, order_id_slot(id));
    enum status st = j->op.failure.status;
    job_free(j);
    return st;
}

/* untold: each how many-th order; 0: none. */
static void all_are_told_once_then_their_changes(int untold)
{
    enum { ORDERS = 23, USERS = 4 };
    static const char *const users[USERS] = {"alice", "bob", "carol", "dave"};
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    int64_t ids[ORDERS + 1], told[ORDERS + 1] = {0};
    open_rig(&r, 3, 0);
    for (int i = 0; i < ORDERS; i++) ids[i] = order_by(&r, users[i % USERS], untold && i % untold == 0);
    for (int i = 0; i < ORDERS; i += 2) assert_int_equal(move(&r, ids[i], "pay", NULL), STATUS_OK);
    bring(&r, GROUP, 1, &d);
    assert_int_equal(group_lag(&r).orders_left, ORDERS);
    assert_int_equal(group_lag(&r).events, ORDERS);
    assert_true(group_lag(&r).oldest_us > 0); /* since the group is there, however old the orders are */
    ids[ORDERS] = 0;
    assert_int_equal(member_join(&m, &r, "a", 1000), STATUS_OK);
    for (int quiet = 0, step = 0; quiet < 5; step++) {
        member_get(&m, 100 * NS_PER_MS, &got);
        if (got.status == STATUS_NOT_LEADER) assert_int_equal(member_join(&m, &r, "a", 1000), STATUS_OK);
        quiet = got.n ? 0 : quiet + 1;
        assert_true(ids[ORDERS] == 0 || got.complete_to_us == 0 || !group_lag(&r).orders_left);
        for (unsigned k = 0; k < got.n; k++) {
            const struct got_event *e = &got.at[k];
            int i = 0;
            while (i <= ORDERS && ids[i] != e->order_id) i++;
            assert_true(i <= ORDERS);
            assert_true(e->items);
            if (i < ORDERS) assert_int_equal(e->snapshot, told[i] == 0); /* one that was created meanwhile may come either way */
            if (!e->snapshot) assert_int_equal(e->version, told[i] + 1); /* no gap, nothing twice */
            told[i] = e->version;
            assert_true(member_ack(&m, e));
        }
        if (step == 2) assert_int_equal(move(&r, ids[1], "pay", NULL), STATUS_OK);
        if (step == 3) assert_int_equal(move(&r, ids[ORDERS - 1], "ship", NULL), STATUS_OK);
        if (step == 12) ids[ORDERS] = create_by(&r, users[0]);
        if (step == 5) rig_run(&r, 2 * NS_PER_S), rig_restart(&r), assert_int_equal(member_join(&m, &r, "a", 1000), STATUS_OK);
    }
    for (int i = 0; i < ORDERS; i++) assert_int_equal(told[i], i == ORDERS - 1 ? 3 : i % 2 == 0 || i == 1 ? 2 : 1);
    assert_int_equal(told[ORDERS], 1);
    rig_run(&r, 2 * NS_PER_S);
    assert_int_equal(group_lag(&r).events, 0);
    assert_int_equal(group_lag(&r).orders_left, 0);
    assert_int_equal(group_lag(&r).oldest_us, 0);
    member_leave(&m);
    rig_close(&r);
}

static void every_order_is_told_once_then_its_changes(void **state) { all_are_told_once_then_their_changes(0); }

static void orders_that_had_no_event_are_told_as_well(void **state)
{
    all_are_told_once_then_their_changes(3); /* moved ones, unmoved ones; beside others in their slots */
    all_are_told_once_then_their_changes(1);
}

static void comes_again_as_it_was_told(bool untold)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    open_rig(&r, 0, 0);
    int64_t id = order_by(&r, "alice", untold);
    int64_t seqs[] = {untold ? EVENT_NUMBER_UNTOLD | id : 1, untold ? 1 : 2, untold ? 2 : 3};
    bring(&r, GROUP, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_true(got.at[0].snapshot);
    assert_int_equal(got.at[0].version, 1);
    assert_int_equal(got.at[0].seq, seqs[0]);
    assert_int_equal(move(&r, id, "pay", NULL), STATUS_OK);
    rig_restart(&r); /* at once: it was stored before it was given out */
    assert_int_equal(move(&r, id, "ship", NULL), STATUS_OK);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    for (int version = 1; version <= 3; version++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].snapshot, version == 1);
        assert_int_equal(got.at[0].version, version);
        assert_int_equal(got.at[0].seq, seqs[version - 1]);
        assert_true(member_ack(&m, &got.at[0]));
    }
    member_leave(&m);
    rig_close(&r);
}

static void an_order_comes_again_as_it_was_told(void **state)
{
    comes_again_as_it_was_told(false);
    comes_again_as_it_was_told(true);
}

static void is_acked_by_a_transition(bool untold)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    open_rig(&r, 0, 0);
    int64_t id = order_by(&r, "alice", untold);
    bring(&r, GROUP, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    struct got_event e = got.at[0];
    assert_int_equal(move(&r, id, "deliver", &e), STATUS_STATUS_MISMATCH);
    assert_int_equal(move(&r, id, "pay", &e), STATUS_OK);
    assert_int_equal(move(&r, id, "ship", &e), STATUS_ACK_NOT_IN_FLIGHT);
    assert_false(member_ack(&m, &e));
    rig_restart(&r); /* at once: it was one commit */
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_false(got.at[0].snapshot);
    assert_int_equal(got.at[0].version, 2);
    member_leave(&m);
    rig_close(&r);
}

static void a_told_order_is_acked_by_a_transition(void **state)
{
    is_acked_by_a_transition(false);
    is_acked_by_a_transition(true);
}

static void dies_and_is_redriven(bool untold)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    d.on_exhausted = EXHAUSTED_PARK;
    open_rig(&r, 0, 0);
    int64_t id = order_by(&r, "alice", untold);
    bring(&r, GROUP, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    for (int attempt = 1; attempt <= 3; attempt++) {
        member_get(&m, 2 * NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].attempt, attempt);
        assert_true(member_nack(&m, &got.at[0]));
    }
    assert_int_equal(move(&r, id, "pay", NULL), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0); /* the change waits behind it */
    rig_run(&r, 2 * NS_PER_S);
    assert_int_equal(group_lag(&r).dead_letters, 1);
    assert_int_equal(group_lag(&r).events, 0);
    rig_restart(&r);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 1000 /* one by one: their rows are in the order of their turns */), 1);
    for (int version = 1; version <= 2; version++) {
        member_get(&m, 2 * NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].snapshot, version == 1);
        assert_int_equal(got.at[0].version, version);
        assert_true(member_ack(&m, &got.at[0]));
    }
    rig_run(&r, 2 * NS_PER_S);
    assert_int_equal(group_lag(&r).dead_letters, 0);
    member_leave(&m);
    rig_close(&r);
}

static void a_told_order_can_die_and_be_redriven(void **state)
{
    dies_and_is_redriven(false);
    dies_and_is_redriven(true);
}

/* A letter whose number is above every seq: it dies again, is acked by a transition, is purged. */
static void a_letter_without_a_seq_is_one_like_any(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    d.max_attempts = 1;
    open_rig(&r, 0, 0);
    int64_t id = order_by(&r, "alice", true);
    bring(&r, GROUP, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    for (int life = 0; life < 3; life++) {
        member_get(&m, 2 * NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].seq, EVENT_NUMBER_UNTOLD | id);
        assert_true(member_nack(&m, &got.at[0]));
        rig_run(&r, NS_PER_S);
        assert_int_equal(group_lag(&r).dead_letters, 1);
        if (life == 1) rig_restart(&r), assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
        if (life < 2) assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    }
    assert_int_equal(letters_do(&r, LETTERS_PURGE, 0), 1);
    struct command c = {.type = COMMAND_GROUP_SNAPSHOT, .snapshot = {.group_id = GROUP, .restart = true}};
    struct job *j = write_command(&r, &c, 0);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_true(member_nack(&m, &got.at[0]));
    rig_run(&r, NS_PER_S);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    struct got_event e = got.at[0];
    assert_int_equal(move(&r, id, "pay", &e), STATUS_OK);
    assert_int_equal(move(&r, id, "ship", &e), STATUS_ACK_NOT_IN_FLIGHT);
    rig_run(&r, NS_PER_S);
    assert_int_equal(group_lag(&r).dead_letters, 0);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_false(got.at[0].snapshot);
    assert_int_equal(got.at[0].seq, 1);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, 2 * NS_PER_S);
    assert_int_equal(group_lag(&r).events, 0);
    member_leave(&m);
    rig_close(&r);
}

/* Who begins with the stream hears of it with its first change; so does who has been told the rest of the orders. */
static void an_untold_order_comes_with_its_first_change(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition stream = definition_of(""), d = snapshot_of("");
    open_rig(&r, 0, 0);
    int64_t id = order_by(&r, "alice", true);
    bring(&r, GROUP, 1, &stream);
    bring(&r, GROUP + 1, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    assert_int_equal(move(&r, id, "pay", NULL), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, 1);
    assert_int_equal(got.at[0].version, 2);
    assert_true(got.at[0].items);
    member_leave(&m);
    assert_int_equal(member_join_group(&m, &r, GROUP + 1, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_true(got.at[0].snapshot);
    assert_int_equal(got.at[0].seq, 1); /* by then it has one */
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, 2 * NS_PER_S);
    int64_t late = order_by(&r, "alice", true);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    assert_int_equal(move(&r, late, "pay", NULL), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].version, 2);
    assert_false(got.at[0].snapshot);
    member_leave(&m);
    rig_close(&r);
}

static void the_filter_is_asked_about_orders_too(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("type = \"SNAPSHOT\" AND user_id = \"bob\"");
    open_rig(&r, 1, 0);
    for (int i = 0; i < 4; i++) create_by(&r, i % 2 ? "alice" : "bob");
    bring(&r, GROUP, 1, &d);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    for (int n = 0; n < 2; n++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_string_equal(got.at[0].user, "bob");
        assert_true(got.at[0].snapshot);
        assert_true(member_ack(&m, &got.at[0]));
    }
    assert_int_equal(m.session.credit, 98);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    create_by(&r, "bob"); /* behind the snapshot */
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    member_leave(&m);
    rig_close(&r);
}

static void who_was_told_nothing_yet_misses_nothing(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = snapshot_of("");
    open_rig(&r, 0, 60 * US_PER_S);
    int64_t id = create_by(&r, "alice");
    bring(&r, GROUP, 1, &d);
    assert_int_equal(move(&r, id, "pay", NULL), STATUS_OK);
    rig_run(&r, 100 * NS_PER_S); /* retention lets all of it go */
    assert_int_equal(move(&r, id, "ship", NULL), STATUS_OK);
    rig_run(&r, 30 * NS_PER_S);
    assert_true(r.engine->partitions[0].kept.first_place > 0);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].version, 3);
    assert_true(member_ack(&m, &got.at[0]));
    member_leave(&m);
    rig_run(&r, 20 * NS_PER_S);
    assert_int_equal(move(&r, id, "deliver", NULL), STATUS_OK); /* a change of an order that was told can be missed, and is announced */
    rig_run(&r, 100 * NS_PER_S);
    create_by(&r, "bob");
    rig_run(&r, 30 * NS_PER_S);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_CURSOR_EXPIRED);
    struct command c = {.type = COMMAND_GROUP_SNAPSHOT, .snapshot = {.group_id = GROUP, .restart = true}}; /* the way out: all of it again */
    struct job *j = write_command(&r, &c, 0);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
    assert_int_equal(group_lag(&r).orders_left, 2);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    for (unsigned i = 0; i < got.n; i++) assert_int_equal(got.at[i].version, got.at[i].order_id == id ? 4 : 1);
    member_leave(&m);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order_is_told_once_then_its_changes),
        cmocka_unit_test(orders_that_had_no_event_are_told_as_well),
        cmocka_unit_test(an_order_comes_again_as_it_was_told),
        cmocka_unit_test(a_told_order_is_acked_by_a_transition),
        cmocka_unit_test(a_told_order_can_die_and_be_redriven),
        cmocka_unit_test(a_letter_without_a_seq_is_one_like_any),
        cmocka_unit_test(an_untold_order_comes_with_its_first_change),
        cmocka_unit_test(the_filter_is_asked_about_orders_too),
        cmocka_unit_test(who_was_told_nothing_yet_misses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
