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
    } sent[FRAMES_MAX];
    unsigned count, served;
    bool silent;                   /* the others answer nothing */
    uint64_t deaf;                 /* nor does this one */
};

static void on_send(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame) {
    struct role_rig *x = ctx;
    struct peer_entry entries[PEER_ENTRIES_MAX];
    assert_true(x->count < FRAMES_MAX);
    assert_int_equal(group_id, GROUP);
    struct sent *s = &x->sent[x->count++];
    assert_int_equal(peer_decode(frame, &s->m, entries), STATUS_OK);
    s->to = node_id;
    if (s->m.kind == PEER_APPEND && s->m.append.count) s->last = entries[s->m.append.count - 1];
}

static void role_open(struct role_rig *x) {
    static const uint32_t partitions[] = {0};
    static const struct group_members three = {.member = {{1, GROUP_VOTER}, {2, GROUP_VOTER}, {3, GROUP_VOTER}}, .count = 3};
    char error[256] = "";
    struct engine_rig *r = &x->rig;
    struct engine_config config = {.node_id = SELF, .members = &three, .send = on_send, .send_ctx = x, .partition_count = 1, .partitions = partitions, .owned_count = 1, .machines = r->machines,
                                   .log_live_bytes_max = 1 << 20, .log_segment_bytes = 64 << 10, .memtable_bytes = 1 << 20, .queue_ops_max = 100, .queue_bytes_max = 1 << 20, .store_open = open_store,
                                   .store_ctx = r, .election_ms = 300, .heartbeat_ms = 50};
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
    m.group = GROUP, m.from = from, m.to = SELF;
    assert_true(peer_encode(&m, &w));
    return engine_receive(x->rig.engine, GROUP, from, writer_slice(&w));
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

static void test_a_read_waits_until_a_majority_has_confirmed_the_lead(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->silent = true;
    struct job *j = job_new(OP_GET, 1 << 16);
    j->op.get.order_id = 12345ll << 22;
    engine_submit(x->rig.engine, &j->op);
    run(x, 60 * NS_PER_MS);
    assert_int_equal(j->done, 0);
    x->silent = false, x->served = 0; /* what was not heard is said again */
    run(x, 60 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_not_equal(j->op.failure.status, STATUS_NOT_LEADER);
    job_free(j);
}

/* ---- frames in */

static void test_damaged_and_misdirected_frames_change_nothing(void **state) {
    struct role_rig *x = *state;
    uint8_t bytes[PEER_HEAD_BYTES + 8] = "ODPM";
    found_group(x);
    for (unsigned kind = 0; kind < 12; kind++) {
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
    sim_disk_crash(r->disk);
    engine_close(r->engine);
    sim_world_settle(r->world);
    sim_env_close(r->env);
    role_open(x);
    struct group_entry e;
    assert_int_equal(group_last_index(partition(x)->group), 4);
    assert_true(group_entry(partition(x)->group, 4, &e) && e.term == 3);
    assert_null(partition(x)->returning);
    append(x, 3, 3, 4, 3, 1, 5);
    assert_int_equal(partition(x)->record.applied_index, 5);
}

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
    tell(x, 2, m);
    rig_run(&x->rig, 50 * NS_PER_MS);
    assert_true(last_sent(x, PEER_FETCH)->fetch.session == 7 && last_sent(x, PEER_FETCH)->fetch.offset == 4);
    m.chunk.offset = 2;
    tell(x, 2, m); /* said twice, or late */
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
    engine_want(x->rig.engine, &(struct engine_wanted){3, {1, 2, 3}});
    run(x, NS_PER_S);
    assert_int_equal(partition(x)->record.members.index, GROUP_FIRST_INDEX); /* they are */
    engine_want(x->rig.engine, &(struct engine_wanted){3, {1, 2, 4}});
    for (unsigned i = 0; i < 100 && kind_of(x, 4) != GROUP_LEARNER; i++) run(x, 20 * NS_PER_MS);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    assert_int_equal(kind_of(x, 3), GROUP_VOTER); /* not before the other votes */
    for (unsigned i = 0; i < 200 && kind_of(x, 3); i++) run(x, 20 * NS_PER_MS);
    assert_int_equal(kind_of(x, 3), 0);
    assert_int_equal(kind_of(x, 4), GROUP_VOTER);
    assert_int_equal(sent_since(x, 0, PEER_TIMEOUT_NOW), 0);
    engine_want(x->rig.engine, &(struct engine_wanted){2, {2, 4}});
    run(x, NS_PER_S);
    assert_true(sent_since(x, 0, PEER_TIMEOUT_NOW) > 0); /* it does not remove itself */
    assert_int_equal(kind_of(x, SELF), GROUP_VOTER);
}

static void test_a_learner_that_does_not_catch_up_gets_no_vote_and_can_be_taken_back(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->deaf = 4;
    engine_want(x->rig.engine, &(struct engine_wanted){4, {1, 2, 3, 4}});
    run(x, 3 * NS_PER_S);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    engine_want(x->rig.engine, &(struct engine_wanted){3, {1, 2, 3}});
    run(x, NS_PER_S);
    assert_int_equal(kind_of(x, 4), 0);
}

static void test_a_dead_voter_goes_before_another_comes(void **state) {
    struct role_rig *x = *state;
    lead(x);
    x->deaf = 3;
    engine_want(x->rig.engine, &(struct engine_wanted){4, {1, 2, 3, 4}}); /* the step that adds 4 is not stored by 3: nothing goes on */
    run(x, 3 * NS_PER_S);
    assert_int_equal(kind_of(x, 4), GROUP_LEARNER);
    engine_want(x->rig.engine, &(struct engine_wanted){3, {1, 2, 4}});
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_a_new_group_begins_when_all_have_said_so),
        TEST(test_answers_of_another_life_count_nothing),
        TEST(test_a_wiped_one_follows_and_does_not_vote_until_it_holds_what_the_leader_held),
        TEST(test_a_follower_names_the_leader),
        TEST(test_votes_are_durable_before_frames_leave),
        TEST(test_what_was_logged_when_the_lead_was_lost_may_have_been_done),
        TEST(test_a_read_waits_until_a_majority_has_confirmed_the_lead),
        TEST(test_damaged_and_misdirected_frames_change_nothing),
        TEST(test_a_superseded_tail_stays_gone_though_the_store_holds_what_superseded_it),
        TEST(test_an_offer_is_asked_for_and_given_up),
        TEST(test_a_stream_that_makes_no_sense_is_thrown_away),
        TEST(test_a_leader_gives_its_state_piece_by_piece),
        TEST(test_a_lead_is_given_to_a_voter_that_has_the_log),
        TEST(test_a_leader_knows_how_far_the_others_are),
        TEST(test_members_become_those_that_are_wanted_step_by_step),
        TEST(test_a_learner_that_does_not_catch_up_gets_no_vote_and_can_be_taken_back),
        TEST(test_a_dead_voter_goes_before_another_comes),
        TEST(test_who_remembers_nothing_stays_out_once_the_members_are_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
