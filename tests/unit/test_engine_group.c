/* Consumer groups through the engine's door (consumer_op.h), a test for each promise. Random lives: sim_groups. */
#include "tests/lib/group_rig.h"

#include "engine/filter.h"

static struct got got;

static void open_group(struct engine_rig *r, uint64_t tail_bytes, const struct consumer_definition *d)
{
    *r = (struct engine_rig){.tail_bytes = tail_bytes};
    rig_open_with(r, 1, 1 << 20);
    bring(r, GROUP, 1, d);
}

static void an_event_goes_to_a_member_and_is_gone_when_acked(void **state)
{
    const uint64_t tails[] = {0, 1 << 20}; /* from the store, from the tail */
    for (unsigned i = 0; i < ARRAY_LEN(tails); i++) {
        struct engine_rig r;
        struct member m;
        struct consumer_definition d = definition_of("");
        open_group(&r, tails[i], &d);
        int64_t first = create_by(&r, "alice");
        assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].order_id, first);
        assert_int_equal(got.at[0].attempt, 1);
        assert_true(got.at[0].items);
        struct got_event one = got.at[0];
        member_poll(&m, 10 * NS_PER_S); /* who waits is woken */
        int64_t second = create_by(&r, "bob");
        member_take(&m, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].order_id, second);
        assert_true(member_ack(&m, &one));
        assert_false(member_ack(&m, &one)); /* stale */
        assert_true(member_ack(&m, &got.at[0]));
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.status, STATUS_OK);
        assert_int_equal(got.n, 0);
        assert_int_equal(m.session.credit, 8);
        rig_run(&r, 2 * NS_PER_S);
        rig_restart(&r);
        assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 0); /* an ack is durable within a second */
        member_leave(&m);
        rig_close(&r);
    }
}

static void a_key_waits_for_its_event_in_front(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 3; i++) create_by(&r, "alice");
    create_by(&r, "bob");
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    for (int64_t seq = 1; seq <= 3; seq++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, seq == 1 ? 2 : 1); /* bob does not wait */
        assert_string_equal(got.at[0].user, "alice");
        assert_int_equal(got.at[0].seq, seq);
        assert_true(member_ack(&m, &got.at[0]));
    }
    rig_close(&r);
}

static void a_nack_delays_its_key_and_counts(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    create_by(&r, "alice");
    create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    struct got_event e = got.at[0];
    assert_true(member_settle(&m, CONSUMER_NACK, e.slot, e.seq, 300000));
    assert_int_equal(group_lag(&r).blocked_keys, 1);
    member_get(&m, 200 * NS_PER_MS, &got);
    assert_int_equal(got.n, 0);
    create_by(&r, "bob"); /* nobody else waits */
    member_get(&m, 10 * NS_PER_MS, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "bob");
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, e.seq);
    assert_int_equal(got.at[0].attempt, 2);
    rig_run(&r, NS_PER_S); /* attempts survive */
    rig_restart(&r);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    for (unsigned i = 0; i < got.n; i++) assert_int_equal(got.at[i].attempt, strcmp(got.at[i].user, "alice") == 0 ? 2 : 1);
    rig_close(&r);
}

static void a_time_out_is_a_nack_and_a_lost_member_is_not(void **state)
{
    struct engine_rig r;
    struct member a, b;
    struct consumer_definition d = definition_of("");
    d.ack_timeout_us = 1000000;
    open_group(&r, 1 << 20, &d);
    create_by(&r, "alice");
    assert_int_equal(member_join(&a, &r, "a", 10), STATUS_OK);
    member_get(&a, NS_PER_S, &got);
    assert_int_equal(got.at[0].attempt, 1);
    rig_run(&r, 700 * NS_PER_MS);
    assert_true(member_settle(&a, CONSUMER_EXTEND, got.at[0].slot, got.at[0].seq, 0));
    rig_run(&r, 700 * NS_PER_MS); /* it would be over without */
    assert_int_equal(group_lag(&r).in_flight, 1);
    rig_run(&r, 400 * NS_PER_MS);
    struct got_event e = got.at[0];
    assert_false(member_ack(&a, &e));
    member_get(&a, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].attempt, 2);
    member_leave(&a);
    assert_int_equal(member_join(&b, &r, "b", 10), STATUS_OK);
    member_get(&b, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].attempt, 2);
    assert_true(member_ack(&b, &got.at[0]));
    rig_close(&r);
}

/* A lease of days, and behind it what was given out since: neither keeps a group that was given a short one waiting. */
static void a_shorter_ack_timeout_is_for_what_is_given_out_already(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.ack_timeout_us = (uint64_t)86400 * 1000000;
    open_group(&r, 1 << 20, &d);
    create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    d.ack_timeout_us = 1000000;
    bring(&r, GROUP, 2, &d);
    create_by(&r, "bob");
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(group_lag(&r).in_flight, 2);
    rig_run(&r, 1200 * NS_PER_MS);
    assert_int_equal(group_lag(&r).in_flight, 0);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.at[0].attempt, 2);
    member_leave(&m);
    rig_close(&r);
}

static void a_group_that_is_paused_keeps_those_waiting_who_wait(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_poll(&m, 600 * NS_PER_S);
    rig_run(&r, 100 * NS_PER_MS);
    d.paused = true;
    bring(&r, GROUP, 2, &d);
    create_by(&r, "alice");
    rig_run(&r, NS_PER_S);
    assert_false(m.poll->done);
    assert_int_equal(group_lag(&r).in_flight, 0);
    d.paused = false;
    bring(&r, GROUP, 3, &d);
    member_take(&m, &got);
    assert_int_equal(got.n, 1);
    member_leave(&m);
    rig_close(&r);
}

static void key_window_may_change_while_members_hold_events(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.key_window = 4;
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 8; i++) create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 2), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2); /* a third is ready, and has no credit yet */
    struct got first = got;
    d.key_window = 1;
    bring(&r, GROUP, 2, &d);
    consumer_credit_add(&m.session, 10);
    member_get(&m, 200 * NS_PER_MS, &got);
    assert_int_equal(got.n, 0);
    assert_true(member_ack(&m, &first.at[0]));
    member_get(&m, 200 * NS_PER_MS, &got);
    assert_int_equal(got.n, 0);
    d.key_window = 3;
    bring(&r, GROUP, 3, &d);
    member_get(&m, 200 * NS_PER_MS, &got);
    assert_int_equal(got.n, 2);
    assert_int_equal(got.at[0].attempt, 1);
    member_leave(&m);
    rig_close(&r);
}

static void a_member_that_comes_again_replaces_itself(void **state)
{
    struct engine_rig r;
    struct member a, again;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    assert_int_equal(member_join(&a, &r, "a", 10), STATUS_OK);
    member_poll(&a, 60 * NS_PER_S);
    assert_int_equal(member_join(&again, &r, "a", 10), STATUS_OK);
    member_take(&a, &got);
    assert_int_equal(got.status, STATUS_MEMBER_REPLACED);
    member_get(&a, NS_PER_S, &got);
    assert_int_equal(got.status, STATUS_MEMBER_REPLACED);
    create_by(&r, "alice");
    member_get(&again, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    member_leave(&a);
    member_leave(&again);
    rig_close(&r);
}

/* One that hung, and has not been told: the dispatcher that knew that it was replaced is gone. */
static void a_later_member_stays_whoever_comes_first(void **state)
{
    struct engine_rig r;
    struct member old, new;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    assert_int_equal(member_join(&old, &r, "a", 10), STATUS_OK);
    assert_int_equal(member_join(&new, &r, "a", 10), STATUS_OK);
    for (uint64_t revision = 2; revision <= 3; revision++) {
        d.ordering = revision == 2 ? ORDERING_ORDER : ORDERING_USER; /* all begin anew */
        bring(&r, GROUP, revision, &d);
        bool first = revision == 2; /* the older one attaches first, or last */
        if (first) assert_int_equal(member_do(&old, member_op(&old, OP_GROUP_ATTACH)), STATUS_OK);
        assert_int_equal(member_do(&new, member_op(&new, OP_GROUP_ATTACH)), STATUS_OK);
        if (!first) assert_int_equal(member_do(&old, member_op(&old, OP_GROUP_ATTACH)), STATUS_MEMBER_REPLACED);
        member_get(&old, NS_PER_S, &got);
        assert_int_equal(got.status, first ? STATUS_MEMBER_REPLACED : STATUS_NOT_LEADER);
        create_by(&r, "alice");
        member_get(&new, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_true(member_ack(&new, &got.at[0]));
    }
    member_leave(&old);
    member_leave(&new);
    rig_close(&r);
}

static void a_shorter_backoff_counts_for_who_waits(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.min_backoff_us = d.max_backoff_us = 60000000;
    open_group(&r, 1 << 20, &d);
    create_by(&r, "alice");
    create_by(&r, "bob");
    assert_int_equal(member_join(&m, &r, "a", 10), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    for (unsigned i = 0; i < 2; i++) /* alice's backs off, bob's has a delay of its own */
        assert_true(member_settle(&m, CONSUMER_NACK, got.at[i].slot, got.at[i].seq, strcmp(got.at[i].user, "alice") == 0 ? CONSUMER_NO_DELAY : 20000000));
    d.min_backoff_us = 100000, d.max_backoff_us = 1000000;
    bring(&r, GROUP, 2, &d);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "alice");
    d.min_backoff_us = d.max_backoff_us = 60000000; /* a longer one is for what is nacked from now on */
    bring(&r, GROUP, 3, &d);
    member_get(&m, 10 * NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    member_get(&m, 12 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "bob");
    member_leave(&m);
    rig_close(&r);
}

/* alice's first event is refused until it is dead. */
static void poison(struct engine_rig *r, struct member *m)
{
    for (int attempt = 1; attempt <= 3; attempt++) {
        member_get(m, 2 * NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_int_equal(got.at[0].seq, 1);
        assert_int_equal(got.at[0].attempt, attempt);
        assert_true(member_nack(m, &got.at[0]));
    }
}

static void what_is_refused_too_often_is_a_dead_letter(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    int64_t first = create_by(&r, "alice");
    create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    poison(&r, &m);
    member_get(&m, 2 * NS_PER_S, &got); /* the key goes on */
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, 2);
    assert_true(member_ack(&m, &got.at[0]));
    struct job *j = letters_of(&r, false);
    assert_int_equal(j->op.letters.count, 1);
    Orderdb__V1__ListDeadLettersResponse *list = orderdb__v1__list_dead_letters_response__unpack(NULL, j->op.answer.len, j->op.answer.data);
    assert_non_null(list);
    assert_int_equal(list->n_letters, 1);
    assert_int_equal(list->letters[0]->attempts, 3);
    assert_string_equal(list->letters[0]->error, "no luck");
    assert_int_equal(list->letters[0]->event->order_id, first);
    assert_false(list->letters[0]->key_parked);
    assert_true(list->letters[0]->dead_time->seconds > 0);
    orderdb__v1__list_dead_letters_response__free_unpacked(list, NULL);
    job_free(j);
    rig_run(&r, NS_PER_S);
    struct consumer_lag lag = group_lag(&r);
    assert_int_equal(lag.dead_letters, 1);
    assert_int_equal(lag.events, 0);
    rig_restart(&r);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    assert_int_equal(letters_do(&r, LETTERS_REDRIVE, 0), 1);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].order_id, first);
    assert_int_equal(got.at[0].attempt, 1);
    assert_true(got.at[0].items);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, NS_PER_S);
    j = letters_of(&r, false);
    assert_int_equal(j->op.letters.count, 0);
    job_free(j);
    member_leave(&m);
    rig_close(&r);
}

static void a_parked_key_waits_for_its_redrive(void **state)
{
    for (int purge = 0; purge < 2; purge++) {
        struct engine_rig r;
        struct member m;
        struct consumer_definition d = definition_of("");
        d.on_exhausted = EXHAUSTED_PARK;
        open_group(&r, 1 << 20, &d);
        for (int i = 0; i < 3; i++) create_by(&r, "alice");
        assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
        poison(&r, &m);
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 0);
        create_by(&r, "bob");
        create_by(&r, "alice");
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_string_equal(got.at[0].user, "bob");
        assert_true(member_ack(&m, &got.at[0]));
        rig_run(&r, NS_PER_S);
        struct job *j = letters_of(&r, false);
        assert_int_equal(j->op.letters.count, 4);
        job_free(j);
        if (!purge) { /* and it survives */
            rig_restart(&r);
            assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
            create_by(&r, "alice");
            member_get(&m, NS_PER_S, &got);
            assert_int_equal(got.n, 0);
        }
        assert_int_equal(letters_do(&r, purge ? LETTERS_PURGE : LETTERS_REDRIVE, 0), 1);
        for (int64_t seq = purge ? 2 : 1; seq <= (purge ? 4 : 5); seq++) {
            member_get(&m, 2 * NS_PER_S, &got);
            assert_int_equal(got.n, 1);
            assert_int_equal(got.at[0].seq, seq);
            assert_int_equal(got.at[0].attempt, 1);
            assert_true(member_ack(&m, &got.at[0]));
        }
        rig_run(&r, NS_PER_S);
        create_by(&r, "alice"); /* its letters are gone: the stream goes on */
        member_get(&m, 2 * NS_PER_S, &got);
        assert_int_equal(got.n, 1);
        assert_true(member_ack(&m, &got.at[0]));
        rig_run(&r, NS_PER_S);
        j = letters_of(&r, false);
        assert_int_equal(j->op.letters.count, 0);
        job_free(j);
        assert_int_equal(group_lag(&r).blocked_keys, 0);
        member_leave(&m);
        rig_close(&r);
    }
}

static struct job *blocked_of(struct engine_rig *r, const char *filter)
{
    struct job *j = job_new(OP_GROUP_LETTERS, 16 << 20);
    struct failure f;
    failure_init(&f, &j->arena);
    const struct filter *parsed = NULL;
    if (*filter) assert_int_equal(filter_parse(&parsed, slice_str(filter), &filter_events, "filter", &j->arena, &f), STATUS_OK);
    j->op.letters = (struct consumer_letters){.group_id = GROUP, .count_max = 100, .filter = parsed, .blocked = true};
    engine_submit(r->engine, &j->op);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_false(j->op.letters.more);
    return j;
}

static unsigned unblock(struct engine_rig *r, const char *filter, bool skip)
{
    struct job *found = blocked_of(r, filter), *j = job_new(OP_GROUP_UNBLOCK, 1 << 20);
    j->op.letters = (struct consumer_letters){.group_id = GROUP, .refs = found->op.letters.refs, .count = found->op.letters.count, .skip = skip};
    engine_submit(r->engine, &j->op);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    unsigned n = j->op.letters.count;
    job_free(found);
    job_free(j);
    return n;
}

/* Everything that comes is nacked for good; how many that were. */
static unsigned kill_all(struct member *m)
{
    unsigned n = 0;
    for (;; n += got.n) {
        member_get(m, NS_PER_S, &got);
        if (!got.n) return n;
        for (unsigned i = 0; i < got.n; i++) assert_true(member_settle(m, CONSUMER_DEAD, got.at[i].slot, got.at[i].seq, 0));
    }
}

static void one_blocked_key_goes_on_by_itself(void **state)
{
    const char *users[] = {"alice", "bob", "carol"};
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.on_exhausted = EXHAUSTED_BLOCK;
    open_group(&r, 1 << 20, &d);
    for (unsigned i = 0; i < 6; i++) create_by(&r, users[i % 3]);
    assert_int_equal(unblock(&r, "", false), 0); /* nobody reads: nothing is */
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    assert_int_equal(kill_all(&m), 3);
    assert_int_equal(group_lag(&r).blocked_keys, 3);
    struct job *j = blocked_of(&r, "");
    assert_int_equal(j->op.letters.count, 3);
    Orderdb__V1__ListDeadLettersResponse *list = orderdb__v1__list_dead_letters_response__unpack(NULL, j->op.answer.len, j->op.answer.data);
    assert_non_null(list);
    assert_int_equal(list->n_letters, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(list->letters[i]->blocked);
        assert_int_equal(list->letters[i]->attempts, 1);
        assert_string_equal(list->letters[i]->error, "no luck");
        assert_null(list->letters[i]->dead_time);
        assert_non_null(list->letters[i]->event->after);
    }
    orderdb__v1__list_dead_letters_response__free_unpacked(list, NULL);
    job_free(j);
    assert_int_equal(unblock(&r, "user_id = \"bob\"", false), 1); /* another try */
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "bob");
    assert_int_equal(got.at[0].attempt, 1);
    struct got_event again = got.at[0];
    assert_true(member_ack(&m, &again));
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1); /* his next one */
    assert_true(member_ack(&m, &got.at[0]));
    assert_int_equal(unblock(&r, "user_id = \"carol\"", true), 1); /* without it */
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "carol");
    assert_int_equal(got.at[0].seq, 2);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, 2 * NS_PER_S);
    struct consumer_lag lag = group_lag(&r);
    assert_int_equal(lag.blocked_keys, 1);
    assert_int_equal(lag.events, 2); /* alice's */
    rig_restart(&r);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1); /* what was left out is settled; what was not is tried anew */
    assert_string_equal(got.at[0].user, "alice");
    assert_int_equal(unblock(&r, "", true), 0);
    member_leave(&m);
    rig_close(&r);
}

static void a_blocked_key_goes_on_when_the_group_is_changed(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.on_exhausted = EXHAUSTED_BLOCK;
    open_group(&r, 1 << 20, &d);
    create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    poison(&r, &m);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 0);
    assert_int_equal(group_lag(&r).blocked_keys, 1);
    d.max_attempts = 5;
    bring(&r, GROUP, 2, &d);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].attempt, 4);
    member_leave(&m);
    rig_close(&r);
}

static void what_the_filter_leaves_out_is_settled(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("user_id = \"bob\"");
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 5; i++) create_by(&r, "alice");
    create_by(&r, "bob");
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.at[0].user, "bob");
    assert_int_equal(m.session.credit, 99);
    rig_run(&r, NS_PER_S);
    struct consumer_lag lag = group_lag(&r);
    assert_int_equal(lag.events, 1);
    assert_int_equal(lag.in_flight, 1);
    assert_int_equal(lag.members, 1);
    assert_true(lag.oldest_us > 0);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, NS_PER_S);
    assert_int_equal(group_lag(&r).events, 0);
    assert_int_equal(group_lag(&r).oldest_us, 0);
    member_leave(&m);
    rig_close(&r);
}

static void without_credit_nothing_goes_out(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    d.ordering = ORDERING_NONE;
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 5; i++) create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 2), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    assert_int_equal(m.session.credit, 0);
    member_poll(&m, 10 * NS_PER_S);
    rig_run(&r, NS_PER_S);
    assert_int_equal(m.poll->done, 0);
    assert_true(m.poll->op.consumer.starved);
    consumer_credit_add(&m.session, 2);
    assert_int_equal(member_do(&m, member_op(&m, OP_GROUP_WAKE)), STATUS_OK);
    member_take(&m, &got);
    assert_int_equal(got.n, 2);
    member_leave(&m);
    rig_close(&r);
}

static struct job *positions_of(struct engine_rig *r, int64_t *behind, const int64_t *target)
{
    struct job *j = job_new(OP_GROUP_POSITIONS, 1 << 20);
    j->op.positions = (struct consumer_positions){.group_id = GROUP, .behind = behind, .target = target};
    engine_submit(r->engine, &j->op);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    return j;
}

static void seek(struct engine_rig *r, const int64_t *target, uint64_t epoch, enum status expected)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    uint8_t *packed = arena_alloc(&arena, 200000);
    struct writer w = writer_of(packed, 200000);
    struct command c = {.type = COMMAND_GROUP_SEEK_YIELD, .seek = {.group_id = GROUP, .epoch = epoch}};
    for (unsigned s = 0; s < SLOT_COUNT; s++)
        if (target[s] > 0) write_be16(&w, (uint16_t)s), write_varint(&w, (uint64_t)target[s]), c.seek.count++;
    c.seek.packed = writer_slice(&w);
    struct job *j = write_command(r, &c, 0);
    assert_int_equal(j->op.failure.status, expected);
    job_free(j);
    arena_fini(&arena);
}

static void a_seek_does_what_its_dry_run_says_and_can_be_undone(void **state)
{
    static int64_t before[SLOT_COUNT], zero[SLOT_COUNT], now[SLOT_COUNT];
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 6; i++) create_by(&r, i % 2 ? "alice" : "bob");
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        member_get(&m, NS_PER_S, &got);
        assert_int_equal(got.n, 2);
        for (unsigned k = 0; k < got.n; k++) assert_true(member_ack(&m, &got.at[k]));
    }
    rig_run(&r, NS_PER_S);
    struct job *j = positions_of(&r, before, zero);
    assert_int_equal(before[slot_of_user(SLICE_LIT("alice"))], 2);
    assert_int_equal(j->op.positions.redelivered, 4);
    assert_int_equal(j->op.positions.skipped, 0);
    uint64_t epoch = j->op.positions.epoch;
    job_free(j);
    member_poll(&m, 60 * NS_PER_S);
    seek(&r, zero, epoch, STATUS_OK);
    seek(&r, zero, epoch, STATUS_VERSION_MISMATCH); /* of two, one */
    do {
        member_take(&m, &got);
        if (got.status) break;
        member_poll(&m, 60 * NS_PER_S);
    } while (true);
    assert_int_equal(got.status, STATUS_NOT_LEADER);
    assert_int_equal(member_do(&m, member_op(&m, OP_GROUP_ATTACH)), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    assert_int_equal(got.at[0].seq, 1);
    j = positions_of(&r, now, before);
    assert_int_equal(j->op.positions.skipped, 4);
    job_free(j);
    seek(&r, before, 0, STATUS_OK);
    assert_int_equal(member_do(&m, member_op(&m, OP_GROUP_ATTACH)), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 2);
    assert_int_equal(got.at[0].seq, 3);
    member_leave(&m);
    rig_close(&r);
}

static void a_transition_with_an_ack_is_both_or_neither(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    int64_t id = create_by(&r, "alice");
    uint16_t slot = slot_of_user(SLICE_LIT("alice"));
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    struct command c = {.type = COMMAND_TRANSITION, .ack = {.group_id = GROUP, .slot = slot, .seq = 1},
                        .origin = {.request_id = SLICE_LIT("request-of-an-ack-1"), .ttl_us = 1000000000}, .transition = {.order_id = id, .event = SLICE_LIT("pay")}};
    struct job *j = write_command(&r, &c, slot);
    assert_int_equal(j->op.failure.status, STATUS_ACK_NOT_IN_FLIGHT);
    job_free(j);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    c.transition.event = SLICE_LIT("deliver"); /* refused: the event stays */
    j = write_command(&r, &c, slot);
    assert_int_equal(j->op.failure.status, STATUS_STATUS_MISMATCH);
    job_free(j);
    assert_int_equal(group_lag(&r).in_flight, 1);
    c.transition.event = SLICE_LIT("pay");
    j = write_command(&r, &c, slot);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
    assert_false(member_ack(&m, &got.at[0]));
    j = write_command(&r, &c, slot); /* a retry is answered, though nothing is in flight */
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_true(j->op.outcome.replayed);
    job_free(j);
    rig_restart(&r); /* at once: it was one commit */
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    member_get(&m, NS_PER_S, &got);
    assert_int_equal(got.n, 1);
    assert_int_equal(got.at[0].seq, 2);
    member_leave(&m);
    rig_close(&r);
}

static void progress_is_what_is_settled_and_written(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    create_by(&r, "alice");
    member_get(&m, NS_PER_S, &got);
    struct got_event e = got.at[0];
    rig_run(&r, 3 * NS_PER_S);
    member_get(&m, 10 * NS_PER_MS, &got);
    uint64_t held = got.complete_to_us; /* in front of what is in flight, however long that takes */
    rig_run(&r, 1 * NS_PER_S);
    member_get(&m, 10 * NS_PER_MS, &got);
    assert_int_equal(got.complete_to_us, held);
    assert_true(member_ack(&m, &e));
    rig_run(&r, 4 * NS_PER_S);
    member_get(&m, 10 * NS_PER_MS, &got);
    assert_true(got.complete_to_us > held + 2000000); /* an idle stream moves on */
    member_leave(&m);
    rig_close(&r);
}

static void a_deleted_group_leaves_nothing(void **state)
{
    struct engine_rig r;
    struct member m;
    struct consumer_definition d = definition_of("");
    open_group(&r, 1 << 20, &d);
    for (int i = 0; i < 3; i++) create_by(&r, "alice");
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_OK);
    poison(&r, &m);
    member_get(&m, 2 * NS_PER_S, &got);
    assert_true(member_ack(&m, &got.at[0]));
    rig_run(&r, NS_PER_S);
    member_poll(&m, 60 * NS_PER_S);
    bring(&r, GROUP, 2, NULL);
    do {
        member_take(&m, &got);
        if (got.status) break;
        member_poll(&m, 60 * NS_PER_S);
    } while (true);
    assert_true(got.status == STATUS_GROUP_NOT_FOUND || got.status == STATUS_NOT_LEADER); /* the latter: attach again, and hear it */
    assert_int_equal(member_join(&m, &r, "a", 100), STATUS_GROUP_NOT_FOUND);
    rig_run(&r, 2 * NS_PER_S);
    struct partition *p = &r.engine->partitions[0];
    struct store_view view = {.store = p->store};
    uint8_t kinds[] = {KEY_GROUP, KEY_LETTER, KEY_PROGRESS};
    struct store_iter *it = store_iter_open(&view, (struct slice){0}, (struct slice){0});
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it))
        for (unsigned i = 0; i < sizeof kinds; i++) assert_int_not_equal(store_iter_key(it).data[2], kinds[i]);
    store_iter_close(it);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_goes_to_a_member_and_is_gone_when_acked),
        cmocka_unit_test(a_key_waits_for_its_event_in_front),
        cmocka_unit_test(a_nack_delays_its_key_and_counts),
        cmocka_unit_test(a_time_out_is_a_nack_and_a_lost_member_is_not),
        cmocka_unit_test(a_shorter_ack_timeout_is_for_what_is_given_out_already),
        cmocka_unit_test(a_group_that_is_paused_keeps_those_waiting_who_wait),
        cmocka_unit_test(key_window_may_change_while_members_hold_events),
        cmocka_unit_test(a_member_that_comes_again_replaces_itself),
        cmocka_unit_test(a_later_member_stays_whoever_comes_first),
        cmocka_unit_test(a_shorter_backoff_counts_for_who_waits),
        cmocka_unit_test(what_is_refused_too_often_is_a_dead_letter),
        cmocka_unit_test(a_parked_key_waits_for_its_redrive),
        cmocka_unit_test(one_blocked_key_goes_on_by_itself),
        cmocka_unit_test(a_blocked_key_goes_on_when_the_group_is_changed),
        cmocka_unit_test(what_the_filter_leaves_out_is_settled),
        cmocka_unit_test(without_credit_nothing_goes_out),
        cmocka_unit_test(a_seek_does_what_its_dry_run_says_and_can_be_undone),
        cmocka_unit_test(a_transition_with_an_ack_is_both_or_neither),
        cmocka_unit_test(progress_is_what_is_settled_and_written),
        cmocka_unit_test(a_deleted_group_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
