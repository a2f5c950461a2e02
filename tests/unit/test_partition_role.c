/* A partition as one of three replicas: one engine, and a test that plays the other two by frames. Whole clusters: tests/sim/sim_cluster.c. */
#include "tests/lib/engine_rig.h"

#include "proto/peer.h"

enum { FRAMES_MAX = 4096, SELF = 1, GROUP = 1 };

struct role_rig {
    struct engine_rig rig;
    struct sent {
        uint64_t to;
        struct peer_message m;     /* without data */
        struct peer_entry last;    /* of an append: its last entry, without data */
        struct peer_place place;   /* of a round: its only one */
    } sent[FRAMES_MAX];
    unsigned count, served;
    uint32_t trailing;             /* engine_config's, from the next start on */
    bool silent;                   /* the others answer nothing */
    uint64_t deaf;                 /* nor does this one */
};

static void on_send(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame) {
    struct role_rig *x = ctx;
    struct peer_entry entries[PEER_ENTRIES_MAX];
    assert_true(x->count < FRAMES_MAX);
    assert_int_equal(group_id, peer_frame_kind(frame) >= PEER_CONFIRM ? 0 : GROUP);
    struct sent *s = &x->sent[x->count++];
    assert_int_equal(peer_decode(frame, &s->m, entries), STATUS_OK);
    s->to = node_id;
    if (s->m.kind == PEER_APPEND && s->m.append.count) s->last = entries[s->m.append.count - 1];
    if (s->m.kind >= PEER_CONFIRM) assert_int_equal(peer_places_count(&s->m), 1), s->place = peer_place_at(&s->m, 0), assert_int_equal(s->place.group, GROUP);
}

static void role_open(struct role_rig *x) {
    static const uint32_t partitions[] = {0};
    static const struct group_members three = {.member = {{1, GROUP_VOTER}, {2, GROUP_VOTER}, {3, GROUP_VOTER}}, .count = 3};
    char error[256] = "";
    struct engine_rig *r = &x->rig;
    struct engine_config config = {.node_id = SELF, .members = &three, .send = on_send, .send_ctx = x, .partition_count = 1, .partitions = partitions, .owned_count = 1, .machines = r->machines,
                                   .log_live_bytes_max = 1 << 20, .log_segment_bytes = 64 << 10, .memtable_bytes = 1 << 20, .queue_ops_max = 100, .queue_bytes_max = 1 << 20, .store_open = open_store,
                                   .store_ctx = r, .election_ms = 300, .heartbeat_ms = 50, .trailing_entries = x->trailing};
    r->env = sim_env_open(r->world, r->disk);
    assert_int_equal(engine_open(&r->engine, r->env, &config, error), STATUS_OK);
}

static int setup(void **state) {
    struct role_rig *x = *state = mem_new(struct role_rig);
    struct engine_rig *r = &x->rig;
    r->world = sim_world_new(1), r->machines = machines_new(), r->disk = sim_disk_new(r->world);
    for (unsigned i = 0; i < PARTITIONS_MAX; i++) r->stores[i] = store_mem_disk_new();
    arena_init(&r->commands, 16 << 20);
    role_open(x);
    return 0;
}
static int teardown(void **state) {
    struct role_rig *x = *state;
    rig_close(&x->rig);
    mem_free(x);
    return 0;
}

static struct partition *partition(struct role_rig *x) { return x->rig.engine->by_id[0]; }

static enum status receive(struct role_rig *x, uint64_t from, struct peer_message m) {
    static uint8_t bytes[1 << 16];
    struct writer w = writer_of(bytes, sizeof bytes);
    m.group = m.kind >= PEER_CONFIRM ? 0 : GROUP, m.from = from, m.to = SELF;
    assert_true(peer_encode(&m, &w));
    return engine_receive(x->rig.engine, m.group, from, writer_slice(&w));
}
static void tell(struct role_rig *x, uint64_t from, struct peer_message m) { assert_int_equal(receive(x, from, m), STATUS_OK); }

static unsigned sent_since(const struct role_rig *x, unsigned from, enum peer_kind kind) {
    unsigned n = 0;
    for (unsigned i = from; i < x->count; i++) n += x->sent[i].m.kind == kind;
    return n;
}
static const struct peer_message *last_sent(const struct role_rig *x, enum peer_kind kind) {
    for (unsigned i = x->count; i-- > 0;)
        if (x->sent[i].m.kind == kind) return &x->sent[i].m;
    fail_msg("no frame of kind %d was sent", kind);
    return NULL;
}

static const struct sent *last_round(const struct role_rig *x, enum peer_kind kind) {
    (void)last_sent(x, kind);
    for (unsigned i = x->count; i-- > 0;)
        if (x->sent[i].m.kind == kind) return &x->sent[i];
    return NULL;
}
static void tell_round(struct role_rig *x, uint64_t from, enum peer_kind kind, uint64_t round, struct peer_place place) {
    uint8_t bytes[PEER_PLACE_BYTES];
    peer_place_put(bytes, place);
    struct peer_message m = {.kind = kind, .round = {round, slice_of(bytes, sizeof bytes)}};
    tell(x, from, m);
}

/* ---- the others */

static void say_phase(struct role_rig *x, uint64_t from, enum peer_phase phase) {
    struct peer_message m = {.kind = PEER_RETURNED, .term = 1, .returned = {.nonce = last_sent(x, PEER_RETURN)->back.nonce, .phase = phase, .members_index = GROUP_FIRST_INDEX}};
    tell(x, from, m);
}

static void found_group(struct role_rig *x) {
    rig_run(&x->rig, 10 * NS_PER_MS);
    say_phase(x, 2, PEER_AGREED), say_phase(x, 3, PEER_AGREED);
    rig_run(&x->rig, 10 * NS_PER_MS);
    assert_null(partition(x)->returning);
}

/* What two well-behaved followers say to what was sent since the last time. */
static void serve(struct role_rig *x) {
    for (; x->served < x->count; x->served++) {
        const struct sent *s = &x->sent[x->served];
        struct peer_message m = {.term = s->m.term};
        if (x->silent || s->to == x->deaf) continue;
        if (s->m.kind == PEER_VOTE) {
            m.kind = PEER_VOTE_RESULT, m.vote_result.granted = true, m.vote_result.pre_vote = s->m.vote.pre_vote;
            tell(x, s->to, m);
        } else if (s->m.kind == PEER_APPEND) {
            m.kind = PEER_APPEND_RESULT, m.append_result.last_index = s->m.append.prev_index + s->m.append.count;
            tell(x, s->to, m);
        } else if (s->m.kind == PEER_CONFIRM) {
            tell_round(x, s->to, PEER_CONFIRMED, s->m.round.round, s->place);
        }
    }
}
static void run(struct role_rig *x, uint64_t ns) {
    for (uint64_t until = sim_world_now_ns(x->rig.world) + ns; sim_world_now_ns(x->rig.world) < until;) {
        rig_run(&x->rig, NS_PER_MS / 2);
        serve(x);
    }
}
static void lead(struct role_rig *x) {
    found_group(x);
    for (unsigned i = 0; i < 100 && partition(x)->state != PARTITION_READY; i++) run(x, 20 * NS_PER_MS);
    assert_int_equal(partition(x)->state, PARTITION_READY);
}

/* Entries without data from `first` on, all of one term. */
static void append(struct role_rig *x, uint64_t from, uint64_t term, uint64_t prev_index, uint64_t prev_term, unsigned count, uint64_t commit) {
    struct peer_entry entries[8];
    assert_true(count <= ARRAY_LEN(entries));
    for (unsigned i = 0; i < count; i++) entries[i] = (struct peer_entry){.term = term, .type = GROUP_BARRIER};
    struct peer_message m = {.kind = PEER_APPEND, .term = term, .append = {prev_index, prev_term, commit, entries, count}};
    tell(x, from, m);
    rig_run(&x->rig, 20 * NS_PER_MS);
}

static void power_cut(struct role_rig *x) {
    struct engine_rig *r = &x->rig;
    sim_disk_crash(r->disk);
    engine_close(r->engine);
    sim_world_settle(r->world);
    sim_env_close(r->env);
    role_open(x);
}

/* ---- a replica that remembers nothing */

static void test_a_new_group_begins_when_all_have_said_so(void **state) {
    struct role_rig *x = *state;
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_true(sent_since(x, 0, PEER_RETURN) > 10);
    say_phase(x, 2, PEER_FRESH);
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_int_equal(sent_since(x, 0, PEER_VOTE), 0);
    say_phase(x, 3, PEER_FRESH);
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_int_equal(sent_since(x, 0, PEER_VOTE), 0); /* who has not agreed may still find that it was left out */
    say_phase(x, 2, PEER_AGREED), say_phase(x, 3, PEER_AGREED);
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_true(sent_since(x, 0, PEER_VOTE) > 0);
}

/* sim_cluster seed 5 (third plans): the first that acted was left alone with two that had forgotten that they had agreed. */
static void test_who_agreed_to_a_new_group_knows_it_after_a_crash(void **state) {
    struct role_rig *x = *state;
    struct peer_message ask = {.kind = PEER_RETURN, .term = 1, .back = {.nonce = 5, .last_index = 2}};
    rig_run(&x->rig, 10 * NS_PER_MS);
    say_phase(x, 2, PEER_FRESH), say_phase(x, 3, PEER_AGREED);
    tell(x, 2, ask);
    assert_int_equal(last_sent(x, PEER_RETURNED)->returned.phase, PEER_FRESH); /* not before it is on the disk */
    rig_run(&x->rig, 50 * NS_PER_MS);
    tell(x, 2, ask);
    assert_int_equal(last_sent(x, PEER_RETURNED)->returned.phase, PEER_AGREED);
    power_cut(x);
    rig_run(&x->rig, 10 * NS_PER_MS);
    tell(x, 2, ask);
    assert_int_equal(last_sent(x, PEER_RETURNED)->returned.phase, PEER_AGREED);
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_int_equal(sent_since(x, 0, PEER_VOTE), 0);
    tell(x, 3, (struct peer_message){.kind = PEER_RETURNED, .term = 1, .returned = {.nonce = last_sent(x, PEER_RETURN)->back.nonce, .phase = PEER_ACTING, .members_index = 9}}); /* they are others by now */
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_true(sent_since(x, 0, PEER_VOTE) > 0);
    assert_null(partition(x)->returning);
}

static void test_answers_of_another_life_count_nothing(void **state) {
    struct role_rig *x = *state;
    rig_run(&x->rig, 10 * NS_PER_MS);
    struct peer_message m = {.kind = PEER_RETURNED, .term = 1, .returned = {.nonce = last_sent(x, PEER_RETURN)->back.nonce + 1, .phase = PEER_AGREED, .members_index = GROUP_FIRST_INDEX}};
    tell(x, 2, m), tell(x, 3, m), tell(x, 2, m);
    rig_run(&x->rig, NS_PER_S);
    assert_non_null(partition(x)->returning);
    assert_int_equal(sent_since(x, 0, PEER_VOTE), 0);
}

static void test_a_wiped_one_follows_and_does_not_vote_until_it_holds_what_the_leader_held(void **state) {
    struct role_rig *x = *state;
    struct peer_message leads = {.kind = PEER_RETURNED, .term = 5}, acts = {.kind = PEER_RETURNED, .term = 5};
    struct peer_message vote = {.kind = PEER_VOTE, .term = 6, .vote = {.last_index = 9, .last_term = 5, .disrupt = true}};
    rig_run(&x->rig, 10 * NS_PER_MS);
    append(x, 3, 4, 2, 1, 1, 3); /* a leader that was deposed, for all that it knows */
    assert_int_equal(sent_since(x, 0, PEER_APPEND_RESULT), 0);
    leads.returned = (__typeof__(leads.returned)){last_sent(x, PEER_RETURN)->back.nonce, 4, PEER_ACTING, true, GROUP_FIRST_INDEX};
    acts.returned = (__typeof__(leads.returned)){leads.returned.nonce, 3, PEER_ACTING, false, GROUP_FIRST_INDEX};
    tell(x, 2, leads);
    rig_run(&x->rig, 50 * NS_PER_MS);
    append(x, 2, 5, 2, 1, 1, 2);
    assert_int_equal(sent_since(x, 0, PEER_APPEND_RESULT), 0); /* one of two others may not know of the newest term */
    tell(x, 3, acts);
    append(x, 2, 5, 2, 1, 1, 2);
    assert_int_equal(last_sent(x, PEER_APPEND_RESULT)->append_result.last_index, 3);
    assert_int_equal(partition(x)->record.applied_index, 2);
    tell(x, 3, vote);
    rig_run(&x->rig, 50 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_VOTE_RESULT), 0);
    uint64_t term, voted_for;
    assert_true(votes_get(x->rig.engine->votes, GROUP, &term, &voted_for));
    assert_true(term == 5 && voted_for == VOTE_MAY_NOT);
    append(x, 2, 5, 3, 5, 1, 4);
    assert_null(partition(x)->returning);
    assert_true(votes_get(x->rig.engine->votes, GROUP, &term, &voted_for));
    assert_true(term == 5 && voted_for == 2);
    tell(x, 3, vote);
    rig_run(&x->rig, 50 * NS_PER_MS);
    assert_true(last_sent(x, PEER_VOTE_RESULT)->vote_result.granted && last_sent(x, PEER_VOTE_RESULT)->term == 6);
}

/* ---- who leads */

static void test_a_follower_names_the_leader(void **state) {
    struct role_rig *x = *state;
    found_group(x);
    append(x, 2, 1, 2, 1, 0, 2);
    struct job *j = create_send(&x->rig, 1, 1 << 20);
    rig_run(&x->rig, 20 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_NOT_LEADER);
    assert_non_null(strstr(j->op.failure.message, "led by node 2"));
    job_free(j);
}

static void test_votes_are_durable_before_frames_leave(void **state) {
    struct role_rig *x = *state;
    struct peer_message vote = {.kind = PEER_VOTE, .term = 7, .vote = {.last_index = 9, .last_term = 6, .disrupt = true}};
    found_group(x);
    tell(x, 2, vote);
    assert_int_equal(sent_since(x, 0, PEER_VOTE_RESULT), 0);
    engine_tick(x->rig.engine);
    assert_int_equal(sent_since(x, 0, PEER_VOTE_RESULT), 0); /* the write is under way */
    rig_run(&x->rig, 50 * NS_PER_MS);
    assert_true(last_sent(x, PEER_VOTE_RESULT)->vote_result.granted);
}

static void test_what_was_logged_when_the_lead_was_lost_may_have_been_done(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    struct job *j = create_send(&x->rig, 1, 1 << 20);
    run(x, 30 * NS_PER_MS);
    assert_int_equal(j->done, 0);
    append(x, 2, group_term(partition(x)->group) + 1, 2, 1, 0, 2);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_NOT_LEADER);
    assert_non_null(strstr(j->op.failure.message, "may have been logged"));
    assert_int_equal(partition(x)->state, PARTITION_OPENING);
    job_free(j);
}

static void expect_attach(struct role_rig *x, enum status st) {
    static struct consumer_session session = {.id = 1, .member_id = SLICE_LIT("one")};
    struct job *j = job_new(OP_GROUP_ATTACH, 1 << 20);
    j->op.consumer = (struct consumer_request){.group_id = 1, .session = &session};
    engine_submit(x->rig.engine, &j->op), run(x, 30 * NS_PER_MS);
    assert_int_equal(j->done ? j->op.failure.status : STATUS_OK, st);
    job_free(j);
}
static void test_a_store_that_fails_gives_members_no_leader_that_is_none(void **state) {
    struct role_rig *x = *state;
    lead(x);
    store_mem_disk_set_full(x->rig.stores[0], true);
    struct job *j = create_send(&x->rig, 1, 1 << 20);
    for (unsigned i = 0; i < 100 && partition(x)->state != PARTITION_FAILED; i++) run(x, 10 * NS_PER_MS);
    assert_int_equal(partition(x)->state, PARTITION_FAILED);
    expect_attach(x, STATUS_GROUP_NOT_FOUND); /* it leads, and knows: reads go on */
    append(x, 2, group_term(partition(x)->group) + 1, 2, 1, 0, 2);
    assert_int_equal(partition(x)->state, PARTITION_FAILED);
    expect_attach(x, STATUS_NOT_LEADER);
    job_free(j);
}

/* ---- reads */

static struct job *get_send(struct role_rig *x, struct read_bound bound, uint64_t deadline_ns) {
    struct job *j = job_new(OP_GET, 1 << 16);
    j->op.get.order_id = 12345ll << 22;
    j->op.bound = bound;
    j->op.deadline_ns = deadline_ns;
    engine_submit(x->rig.engine, &j->op);
    run(x, 5 * NS_PER_MS);
    return j;
}
static struct job *present_send(struct role_rig *x) { return get_send(x, (struct read_bound){0}, 0); }
static void expect_job(struct job *j, enum status st) {
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, st);
    job_free(j);
}
static void expect_read(struct job *j) { expect_job(j, STATUS_ORDER_NOT_FOUND); } /* it looked */

static void test_a_read_waits_until_a_majority_has_confirmed_the_lead(void **state) {
    struct role_rig *x = *state;
    lead(x);
    uint64_t last = group_last_index(partition(x)->group);
    x->silent = true;
    struct job *j = present_send(x);
    assert_int_equal(j->done, 0);
    struct sent s = *last_round(x, PEER_CONFIRM);
    struct peer_place other = s.place;
    other.term++;
    tell_round(x, 2, PEER_CONFIRMED, s.m.round.round, other); /* another term's */
    tell_round(x, 2, PEER_CONFIRMED, s.m.round.round - 1, s.place);
    tell_round(x, 2, PEER_CONFIRMED, s.m.round.round + 1, s.place);
    run(x, 10 * NS_PER_MS);
    assert_int_equal(j->done, 0);
    tell_round(x, 3, PEER_CONFIRMED, s.m.round.round, s.place);
    run(x, 10 * NS_PER_MS);
    expect_read(j);
    assert_int_equal(group_last_index(partition(x)->group), last); /* no entry of the log */
}

static void test_reads_that_come_during_a_round_wait_for_the_next(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    struct job *a = present_send(x), *b = present_send(x), *c = present_send(x);
    struct sent first = *last_round(x, PEER_CONFIRM);
    tell_round(x, 2, PEER_CONFIRMED, first.m.round.round, first.place);
    run(x, 5 * NS_PER_MS);
    expect_read(a);
    assert_int_equal(b->done + c->done, 0);
    struct sent second = *last_round(x, PEER_CONFIRM);
    assert_true(second.m.round.round > first.m.round.round);
    tell_round(x, 2, PEER_CONFIRMED, first.m.round.round, first.place); /* again */
    run(x, 5 * NS_PER_MS);
    assert_int_equal(b->done + c->done, 0);
    tell_round(x, 2, PEER_CONFIRMED, second.m.round.round, second.place);
    run(x, 5 * NS_PER_MS);
    expect_read(b), expect_read(c);
}

static void test_a_round_without_answers_is_said_again_and_ends_with_the_lead(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    unsigned from = x->count;
    struct job *j = present_send(x);
    uint64_t round = last_sent(x, PEER_CONFIRM)->round.round;
    run(x, 120 * NS_PER_MS);
    assert_in_range(sent_since(x, from, PEER_CONFIRM), 4, 6); /* to two nodes, each 50 ms */
    assert_int_equal(last_sent(x, PEER_CONFIRM)->round.round, round);
    run(x, 600 * NS_PER_MS); /* without a majority it does not lead any more */
    expect_job(j, STATUS_NOT_LEADER);
}

static void test_a_read_past_its_deadline_is_not_confirmed(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    struct job *j = get_send(x, (struct read_bound){0}, sim_world_now_ns(x->rig.world) + 30 * NS_PER_MS);
    run(x, 60 * NS_PER_MS);
    expect_job(j, STATUS_DEADLINE_EXCEEDED);
}

static void test_a_leader_tells_how_far_it_is_when_its_lead_is_confirmed(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    struct peer_place place = {.group = GROUP, .term = group_term(partition(x)->group)}, old = place;
    old.term--;
    tell_round(x, 2, PEER_HOW_FAR, 70, old);
    run(x, 5 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_CONFIRM), 0);
    tell_round(x, 2, PEER_HOW_FAR, 71, place);
    run(x, 5 * NS_PER_MS);
    struct sent s = *last_round(x, PEER_CONFIRM);
    tell_round(x, 2, PEER_HOW_FAR, 72, place); /* for the next one */
    assert_int_equal(sent_since(x, 0, PEER_SO_FAR), 0);
    tell_round(x, 3, PEER_CONFIRMED, s.m.round.round, s.place);
    run(x, 5 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_SO_FAR), 1);
    const struct sent *answer = last_round(x, PEER_SO_FAR);
    assert_true(answer->m.round.round == 71 && answer->to == 2);
    assert_int_equal(answer->place.index, group_commit_index(partition(x)->group));
}

static void test_a_follower_confirms_its_own_term_alone(void **state) {
    struct role_rig *x = *state;
    tell_round(x, 2, PEER_CONFIRM, 9, (struct peer_place){GROUP, 1, 0}); /* remembers nothing yet */
    found_group(x);
    append(x, 2, 5, 2, 1, 1, 2);
    tell_round(x, 2, PEER_CONFIRM, 10, (struct peer_place){GROUP, 4, 0});
    tell_round(x, 2, PEER_CONFIRM, 11, (struct peer_place){GROUP, 6, 0});
    tell_round(x, 2, PEER_CONFIRM, 12, (struct peer_place){GROUP + 7, 5, 0}); /* not here */
    assert_int_equal(sent_since(x, 0, PEER_CONFIRMED), 0);
    tell_round(x, 2, PEER_CONFIRM, 13, (struct peer_place){GROUP, 5, 0});
    assert_int_equal(sent_since(x, 0, PEER_CONFIRMED), 1);
    assert_int_equal(last_round(x, PEER_CONFIRMED)->m.round.round, 13);
}

static const struct read_bound second_old = {.stale = true, .stale_ns = NS_PER_S};

static void test_a_follower_reads_when_it_has_applied_what_the_leader_tells(void **state) {
    struct role_rig *x = *state;
    found_group(x);
    append(x, 2, 5, 2, 1, 2, 3); /* 3 and 4; 3 is committed */
    expect_job(present_send(x), STATUS_NOT_LEADER); /* without a bound the leader's alone */
    struct job *j = get_send(x, second_old, 0);
    struct sent s = *last_round(x, PEER_HOW_FAR);
    assert_int_equal(s.to, 2);
    tell_round(x, 3, PEER_SO_FAR, s.m.round.round, (struct peer_place){GROUP, 5, 3}); /* not the leader's */
    tell_round(x, 2, PEER_SO_FAR, s.m.round.round - 1, (struct peer_place){GROUP, 5, 3});
    run(x, 5 * NS_PER_MS);
    assert_int_equal(j->done, 0);
    tell_round(x, 2, PEER_SO_FAR, s.m.round.round, (struct peer_place){GROUP, 5, 4});
    run(x, 5 * NS_PER_MS);
    assert_int_equal(j->done, 0); /* 4 is not known to be committed here */
    append(x, 2, 5, 4, 5, 0, 4);
    run(x, 5 * NS_PER_MS);
    expect_read(j);
    unsigned asked = sent_since(x, 0, PEER_HOW_FAR);
    expect_read(get_send(x, second_old, 0)); /* young enough */
    assert_int_equal(sent_since(x, 0, PEER_HOW_FAR), asked);
    j = get_send(x, (struct read_bound){.stale = true}, 0); /* as of now */
    assert_int_equal(sent_since(x, 0, PEER_HOW_FAR), asked + 1);
    assert_int_equal(j->done, 0);
    s = *last_round(x, PEER_HOW_FAR);
    tell_round(x, 2, PEER_SO_FAR, s.m.round.round, (struct peer_place){GROUP, 5, 4});
    run(x, 5 * NS_PER_MS);
    expect_read(j);
}

static void test_a_follower_that_is_not_answered_leaves_time_to_ask_the_leader(void **state) {
    struct role_rig *x = *state;
    found_group(x);
    append(x, 2, 5, 2, 1, 1, 3);
    struct job *j = get_send(x, second_old, sim_world_now_ns(x->rig.world) + 200 * NS_PER_MS), *k = get_send(x, second_old, 0);
    for (unsigned i = 0; i < 7; i++) append(x, 2, 5, 3, 5, 0, 3); /* the leader's heartbeats come */
    expect_job(j, STATUS_NOT_LEADER);
    assert_int_equal(k->done, 0);
    for (unsigned i = 0; i < 12; i++) append(x, 2, 5, 3, 5, 0, 3);
    expect_job(k, STATUS_NOT_LEADER); /* an election timeout */
}

static void test_a_token_is_waited_for_and_one_of_no_commit_refused(void **state) {
    struct role_rig *x = *state;
    lead(x);
    struct job *j = create_send(&x->rig, 1, 1 << 20);
    run(x, 60 * NS_PER_MS);
    struct read_bound bound = {.token = true, .slot = j->op.outcome.slot, .seq = j->op.outcome.seq};
    assert_true(bound.seq > 0);
    expect_job(j, STATUS_OK);
    expect_read(get_send(x, bound, 0)); /* it is here: nobody is asked */
    assert_int_equal(sent_since(x, 0, PEER_CONFIRM), 0);
    bound.seq++;
    j = get_send(x, bound, 0);
    run(x, 20 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_CONFIRM), 2); /* no later commit was acknowledged, or the leader has it now */
    assert_non_null(j->op.failure.violations);
    assert_string_equal(j->op.failure.violations->field, "read.at_least.seq");
    expect_job(j, STATUS_FIELD_INVALID);
}

/* ---- frames in */

static void test_damaged_and_misdirected_frames_change_nothing(void **state) {
    struct role_rig *x = *state;
    uint8_t bytes[PEER_HEAD_BYTES + 8] = "ODPM";
    found_group(x);
    for (unsigned kind = 0; kind < 17; kind++) {
        bytes[5] = (uint8_t)kind;
        assert_int_equal(engine_receive(x->rig.engine, GROUP, 2, slice_of(bytes, sizeof bytes)), STATUS_FIELD_INVALID);
    }
    assert_int_equal(engine_receive(x->rig.engine, 2, 2, slice_of(bytes, sizeof bytes)), STATUS_FIELD_INVALID);
    struct peer_message m = {.kind = PEER_FETCH, .term = 1, .fetch = {.bytes = 100}};
    static uint8_t other[256];
    struct writer w = writer_of(other, sizeof other);
    m.group = GROUP, m.from = 2, m.to = 3;
    assert_true(peer_encode(&m, &w));
    assert_int_equal(engine_receive(x->rig.engine, GROUP, 2, writer_slice(&w)), STATUS_FIELD_INVALID);
}

/* ---- the log at a start */

static void test_a_superseded_tail_stays_gone_though_the_store_holds_what_superseded_it(void **state) {
    struct role_rig *x = *state;
    struct engine_rig *r = &x->rig;
    found_group(x);
    append(x, 2, 2, 2, 1, 4, 2); /* 3, 4, 5, 6 of term 2 */
    assert_int_equal(group_last_index(partition(x)->group), 6);
    append(x, 3, 3, 3, 2, 1, 4); /* another leader: 4 of term 3, committed */
    assert_int_equal(partition(x)->record.applied_index, 4);
    partition_flush(partition(x));
    rig_run(r, 50 * NS_PER_MS);
    assert_int_equal(partition(x)->flushed.applied_index, 4);
    power_cut(x);
    struct group_entry e;
    assert_int_equal(group_last_index(partition(x)->group), 4);
    assert_true(group_entry(partition(x)->group, 4, &e) && e.term == 3);
    assert_null(partition(x)->returning);
    append(x, 3, 3, 4, 3, 1, 5);
    assert_int_equal(partition(x)->record.applied_index, 5);
}

/* sim_cluster seed 1498 (third plans): 4 to 17 of term 2 were superseded by 4 of term 3, the first segment of them let go, and the rest was taken for damage. */
static void half_gone(struct role_rig *x, uint64_t bytes) {
    found_group(x);
    x->trailing = 1;
    power_cut(x);
    append(x, 2, 2, 2, 1, 1, 3);
    uint64_t index = 3;
    struct wal_stats stats;
    do append(x, 2, 2, index, index == 2 ? 1 : 2, 1, 3), index++, wal_get_stats(x->rig.engine->wal, &stats); /* a block of the log each */
    while (stats.live_bytes < bytes);
    rig_run(&x->rig, 40 * NS_PER_MS), append(x, 3, 3, 3, 2, 1, 4); /* the engine knows by then how full its log is */
    partition_flush(partition(x)), rig_run(&x->rig, 100 * NS_PER_MS);
    assert_int_equal(partition(x)->flushed.applied_index, 4);
    wal_get_stats(x->rig.engine->wal, &stats);
    assert_true(stats.live_bytes < 64 << 10); /* a segment is gone */
    power_cut(x);
    assert_int_equal(group_last_index(partition(x)->group), 4), append(x, 3, 3, 4, 3, 1, 5);
    assert_int_equal(partition(x)->record.applied_index, 5);
}
static void test_what_was_superseded_may_be_half_gone(void **state) { half_gone(*state, 80 << 10); }
/* sim_cluster seed 7094: a follower's log was over its limit, and what stood first in it was superseded by what the follower did not store, as its log was over its limit. */
static void test_a_full_log_takes_what_supersedes_it(void **state) { half_gone(*state, (1 << 20) + 1); }

/* ---- snapshots */

static void offer(struct role_rig *x) {
    static uint8_t bytes[PEER_MEMBERS_BYTES_MAX];
    struct peer_message m = {.kind = PEER_SNAPSHOT, .term = 2, .snapshot = {.index = 50, .index_term = 2, .members_index = 2}};
    m.snapshot.members = slice_of(bytes, group_members_encode(&partition(x)->record.members, bytes, sizeof bytes));
    tell(x, 2, m);
    rig_run(&x->rig, 20 * NS_PER_MS);
}

static void test_an_offer_is_asked_for_and_given_up(void **state) {
    struct role_rig *x = *state;
    found_group(x);
    append(x, 2, 2, 2, 1, 0, 2);
    offer(x);
    assert_true(last_sent(x, PEER_FETCH)->fetch.session == 0 && last_sent(x, PEER_FETCH)->fetch.offset == 2);
    assert_false(group_installing(partition(x)->group)); /* the log is what it was */
    offer(x), offer(x);
    assert_int_equal(sent_since(x, 0, PEER_FETCH), 1);
    rig_run(&x->rig, 1500 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_FETCH), 2);
    rig_run(&x->rig, 6 * NS_PER_S);
    unsigned asked = x->count;
    assert_null(partition(x)->fetch);
    rig_run(&x->rig, 2 * NS_PER_S);
    assert_int_equal(sent_since(x, asked, PEER_FETCH), 0);
    append(x, 2, 9, 2, 1, 0, 2);
    struct peer_message gone = {.kind = PEER_CHUNK, .term = 9, .chunk = {.state = PEER_CHUNK_GONE}};
    offer(x);
    tell(x, 3, gone); /* not who was asked */
    assert_null(partition(x)->fetch); /* an offer of an old term is none */
}

static void test_a_stream_that_makes_no_sense_is_thrown_away(void **state) {
    struct role_rig *x = *state;
    found_group(x);
    append(x, 2, 2, 2, 1, 0, 2);
    offer(x);
    struct peer_message m = {.kind = PEER_CHUNK, .term = 2, .chunk = {.session = 7, .total = 20, .offset = 0, .state = PEER_CHUNK_DATA, .data = SLICE_LIT("rows")}};
    x->rig.engine->config.snapshot_bytes_per_s = 10, x->rig.engine->fetch_due_ns = sim_world_now_ns(x->rig.world) + 300 * NS_PER_MS; /* another partition has had its piece */
    tell(x, 2, m), rig_run(&x->rig, 600 * NS_PER_MS);
    assert_int_equal(last_sent(x, PEER_FETCH)->fetch.session, 0), rig_run(&x->rig, 200 * NS_PER_MS); /* not yet: at 700 ms */
    assert_true(last_sent(x, PEER_FETCH)->fetch.session == 7 && last_sent(x, PEER_FETCH)->fetch.offset == 4);
    m.chunk.offset = 2, tell(x, 2, m); /* said twice, or late */
    m.chunk.offset = 4, m.chunk.data = SLICE_LIT("0123456789abcdef");
    tell(x, 2, m);
    rig_run(&x->rig, 100 * NS_PER_MS);
    assert_null(partition(x)->fetch);
    assert_int_equal(partition(x)->record.applied_index, 2);
    append(x, 2, 2, 2, 1, 1, 3);
    assert_int_equal(partition(x)->record.applied_index, 3);
}

static void test_a_leader_gives_its_state_piece_by_piece(void **state) {
    struct role_rig *x = *state;
    lead(x);
    struct peer_message m = {.kind = PEER_FETCH, .term = 1, .fetch = {.offset = 2, .bytes = 100}};
    tell(x, 3, m);
    assert_int_equal(last_sent(x, PEER_CHUNK)->chunk.state, PEER_CHUNK_WAIT);
    run(x, 200 * NS_PER_MS);
    const struct peer_message *c = last_sent(x, PEER_CHUNK);
    assert_true(c->chunk.state == PEER_CHUNK_DATA && c->chunk.offset == 0 && c->chunk.data.len == 100 && c->chunk.total > 100);
    m.fetch.session = c->chunk.session, m.fetch.offset = 100, m.fetch.bytes = 100000;
    uint64_t total = c->chunk.total;
    tell(x, 3, m);
    run(x, 50 * NS_PER_MS);
    c = last_sent(x, PEER_CHUNK);
    assert_true(c->chunk.offset == 100 && c->chunk.data.len == total - 100);
    unsigned before = x->count;
    m.fetch.offset = total + 1000; /* beyond what was read */
    tell(x, 3, m);
    m.fetch.session++, m.fetch.offset = 0; /* another source's */
    tell(x, 3, m);
    run(x, 50 * NS_PER_MS);
    assert_int_equal(sent_since(x, before, PEER_CHUNK), 1);
    assert_int_equal(last_sent(x, PEER_CHUNK)->chunk.state, PEER_CHUNK_GONE);
    run(x, 20 * NS_PER_S);
    assert_null(partition(x)->source);
}

/* ---- leads that move */

static enum status transfer(struct role_rig *x, uint64_t to) { return engine_transfer(x->rig.engine, 0, to); }

static void test_a_lead_is_given_to_a_voter_that_has_the_log(void **state) {
    struct role_rig *x = *state;
    assert_int_equal(transfer(x, 2), STATUS_NOT_LEADER);
    lead(x);
    run(x, 100 * NS_PER_MS);
    assert_int_equal(transfer(x, 4), STATUS_FIELD_INVALID);
    assert_int_equal(transfer(x, SELF), STATUS_OK); /* it leads */
    assert_int_equal(sent_since(x, 0, PEER_TIMEOUT_NOW), 0);
    assert_int_equal(transfer(x, 2), STATUS_OK);
    run(x, 20 * NS_PER_MS);
    assert_int_equal(sent_since(x, 0, PEER_TIMEOUT_NOW), 1);
    assert_int_equal(transfer(x, 3), STATUS_OVERLOADED); /* one at a time */
    run(x, NS_PER_S);                                    /* the other did not take it */
    assert_int_equal(transfer(x, 3), STATUS_OK);
}

static void test_a_leader_knows_how_far_the_others_are(void **state) {
    struct role_rig *x = *state;
    struct partition_stats s;
    lead(x);
    run(x, 100 * NS_PER_MS);
    assert_true(engine_stats_of(x->rig.engine, 0, &s));
    assert_int_equal(s.replica_count, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(s.replicas[i].node_id, i + 1);
        assert_int_equal(s.replicas[i].kind, GROUP_VOTER);
        assert_int_equal(s.replicas[i].stored, s.applied_index);
    }
    append(x, 2, s.term + 1, s.applied_index, s.term, 1, s.applied_index);
    assert_true(engine_stats_of(x->rig.engine, 0, &s));
    assert_false(s.leader);
    assert_int_equal(s.leader_node, 2);
    assert_int_equal(s.replicas[1].stored, 0); /* that is its leader's to know */
}

/* ---- members that are wanted */

static uint8_t kind_of(struct role_rig *x, uint64_t node_id) {
    const struct group_members *m = &partition(x)->record.members;
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return m->member[i].kind;
    return 0;
}

static void test_members_become_those_that_are_wanted_step_by_step(void **state) {
    struct role_rig *x = *state;
    lead(x);
    engine_want(x->rig.engine, 0, &(struct engine_wanted){3, {1, 2, 3}});
    run(x, NS_PER_S);
    assert_int_equal(partition(x)->record.members.index, GROUP_FIRST_INDEX); /* they are */
    engine_want(x->rig.engine, 0, &(struct engine_wanted){3, {1, 2, 4}});
    for (unsigned i = 0; i < 100 && kind_of(x, 4) != GROUP_LEARNER; i++) run(x, 20 * NS_PER_MS);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    assert_int_equal(kind_of(x, 3), GROUP_VOTER); /* not before the other votes */
    for (unsigned i = 0; i < 200 && kind_of(x, 3); i++) run(x, 20 * NS_PER_MS);
    assert_int_equal(kind_of(x, 3), 0);
    assert_int_equal(kind_of(x, 4), GROUP_VOTER);
    assert_int_equal(sent_since(x, 0, PEER_TIMEOUT_NOW), 0);
    engine_want(x->rig.engine, 0, &(struct engine_wanted){2, {2, 4}});
    run(x, NS_PER_S);
    assert_true(sent_since(x, 0, PEER_TIMEOUT_NOW) > 0); /* it does not remove itself */
    assert_int_equal(kind_of(x, SELF), GROUP_VOTER);
}

static void test_a_learner_that_does_not_catch_up_gets_no_vote_and_can_be_taken_back(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->deaf = 4;
    engine_want(x->rig.engine, 0, &(struct engine_wanted){4, {1, 2, 3, 4}});
    run(x, 3 * NS_PER_S);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    engine_want(x->rig.engine, 0, &(struct engine_wanted){3, {1, 2, 3}});
    run(x, NS_PER_S);
    assert_int_equal(kind_of(x, 4), 0);
}

static void test_a_dead_voter_goes_before_another_comes(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->deaf = 3;
    engine_want(x->rig.engine, 0, &(struct engine_wanted){4, {1, 2, 3, 4}}); /* the step that adds 4 is not stored by 3: nothing goes on */
    run(x, 3 * NS_PER_S);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    engine_want(x->rig.engine, 0, &(struct engine_wanted){3, {1, 2, 4}});
    run(x, NS_PER_S);
    assert_int_equal(kind_of(x, 3), GROUP_VOTER); /* it may only be slow */
    run(x, 4 * NS_PER_S);
    assert_int_equal(kind_of(x, 3), 0);
    assert_int_equal(kind_of(x, 4), GROUP_VOTER);
}

static void test_who_remembers_nothing_stays_out_once_the_members_are_others(void **state) {
    struct role_rig *x = *state;
    rig_run(&x->rig, 50 * NS_PER_MS);
    struct peer_message m = {.kind = PEER_RETURNED, .term = 2};
    for (unsigned i = 0; i < 20; i++)
        for (uint64_t from = 2; from <= 3; from++) {
            m.returned = (__typeof__(m.returned)){last_sent(x, PEER_RETURN)->back.nonce, 9, PEER_ACTING, from == 2, 7};
            tell(x, from, m);
            rig_run(&x->rig, 50 * NS_PER_MS);
        }
    append(x, 2, 2, 2, 1, 1, 3);
    assert_non_null(partition(x)->returning);
    assert_int_equal(partition(x)->record.applied_index, 2);
    assert_int_equal(sent_since(x, 0, PEER_APPEND_RESULT), 0);
}

/* Others write on: it flushes once, stores nothing more, and is done. */
static void test_a_follower_drains_while_others_write(void **state) {
    struct role_rig *x = *state;
    uint64_t last = GROUP_FIRST_INDEX;
    found_group(x);
    for (unsigned i = 0; i < 5; i++, last++) append(x, 2, 2, last, i ? 2 : 1, 1, last);
    struct partition *p = partition(x);
    uint64_t applied = p->record.applied_index;
    assert_true(applied > GROUP_FIRST_INDEX);
    uint64_t flushes = x->rig.engine->stats.flushes;
    engine_drain(x->rig.engine);
    unsigned came = 0;
    for (; came < 50 && !engine_drained(x->rig.engine); came++, last++) append(x, 2, 2, last, 2, 1, last);
    assert_true(engine_drained(x->rig.engine));
    assert_true(came < 10);
    assert_int_equal(x->rig.engine->stats.flushes, flushes + 1);
    assert_true(p->flushed.applied_index >= applied);
    for (unsigned i = 0; i < 5; i++, last++) append(x, 2, 2, last, 2, 1, last);
    assert_true(engine_drained(x->rig.engine));
    assert_int_equal(x->rig.engine->stats.flushes, flushes + 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_a_new_group_begins_when_all_have_said_so),
        TEST(test_who_agreed_to_a_new_group_knows_it_after_a_crash),
        TEST(test_answers_of_another_life_count_nothing),
        TEST(test_a_wiped_one_follows_and_does_not_vote_until_it_holds_what_the_leader_held),
        TEST(test_a_follower_names_the_leader),
        TEST(test_votes_are_durable_before_frames_leave),
        TEST(test_what_was_logged_when_the_lead_was_lost_may_have_been_done),
        TEST(test_a_store_that_fails_gives_members_no_leader_that_is_none),
        TEST(test_a_read_waits_until_a_majority_has_confirmed_the_lead),
        TEST(test_reads_that_come_during_a_round_wait_for_the_next),
        TEST(test_a_round_without_answers_is_said_again_and_ends_with_the_lead),
        TEST(test_a_read_past_its_deadline_is_not_confirmed),
        TEST(test_a_leader_tells_how_far_it_is_when_its_lead_is_confirmed),
        TEST(test_a_follower_confirms_its_own_term_alone),
        TEST(test_a_follower_reads_when_it_has_applied_what_the_leader_tells),
        TEST(test_a_follower_that_is_not_answered_leaves_time_to_ask_the_leader),
        TEST(test_a_token_is_waited_for_and_one_of_no_commit_refused),
        TEST(test_damaged_and_misdirected_frames_change_nothing),
        TEST(test_a_superseded_tail_stays_gone_though_the_store_holds_what_superseded_it),
        TEST(test_what_was_superseded_may_be_half_gone), TEST(test_a_full_log_takes_what_supersedes_it),
        TEST(test_an_offer_is_asked_for_and_given_up),
        TEST(test_a_stream_that_makes_no_sense_is_thrown_away),
        TEST(test_a_leader_gives_its_state_piece_by_piece),
        TEST(test_a_lead_is_given_to_a_voter_that_has_the_log),
        TEST(test_a_leader_knows_how_far_the_others_are),
        TEST(test_members_become_those_that_are_wanted_step_by_step),
        TEST(test_a_learner_that_does_not_catch_up_gets_no_vote_and_can_be_taken_back),
        TEST(test_a_dead_voter_goes_before_another_comes),
        TEST(test_a_follower_drains_while_others_write),
        TEST(test_who_remembers_nothing_stays_out_once_the_members_are_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
