/* Members of consumer groups on an engine_rig: what a subscription would do, op by op. */
#ifndef TESTS_LIB_GROUP_RIG_H
#define TESTS_LIB_GROUP_RIG_H

#include "tests/lib/engine_rig.h"
#include "tests/lib/group_event.h"

enum { GROUP = 7 };

static inline void until_done(struct engine_rig *r, struct job *j)
{
    for (unsigned i = 0; !j->done && i < 100000; i++) rig_run(r, NS_PER_MS);
    assert_int_equal(j->done, 1);
}

/* An order of this user; its id. */
static inline int64_t create_by(struct engine_rig *r, const char *user)
{
    struct job *j = create_send_of(r, user, 1, 1 << 20);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    int64_t id = j->op.outcome.head.order_id;
    job_free(j);
    return id;
}

static inline struct job *write_command(struct engine_rig *r, const struct command *c, uint16_t slot)
{
    struct job *j = job_new(OP_WRITE, 8 << 20);
    j->op.slot = slot;
    j->op.command = command_encode(c, &j->arena);
    assert_non_null(j->op.command.data);
    engine_submit(r->engine, &j->op);
    until_done(r, j);
    return j;
}

static inline void bring(struct engine_rig *r, uint32_t group_id, uint64_t revision, const struct consumer_definition *d)
{
    struct arena arena;
    arena_init(&arena, 64 << 10);
    struct command c = {.type = COMMAND_GROUP_BRING, .bring = {.group_id = group_id, .revision = revision, .remove = !d}};
    if (d) c.bring.definition = consumer_definition_encode(d, &arena);
    struct job *j = write_command(r, &c, 0);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    job_free(j);
    arena_fini(&arena);
}

/* The order that create_command makes, of somebody else's time; untold: the change stream does not hear of it. */
static inline struct job *import_of(struct engine_rig *r, const char *user, unsigned lines, bool untold)
{
    char number[32];
    struct command create, import = {.type = untold ? COMMAND_IMPORT_UNTOLD : COMMAND_IMPORT};
    struct history_entry past = {.version = 1, .time_us = 1000, .to = machines_status_id(r->machines, SLICE_LIT("PENDING_PAYMENT")), .event = SLICE_LIT("import")};
    assert_int_equal(command_decode(create_command(r, user, lines), &r->commands, &create), STATUS_OK);
    snprintf(number, sizeof number, "no-%u", r->requests);
    import.import = (struct command_import){create.create.user_id, slice_str(number), SLICE_LIT("retail@1"), create.create.summary, create.create.detail, 1, &past};
    return write_command(r, &import, slot_of_user(slice_str(user)));
}

struct member {
    struct engine_rig *rig;
    uint32_t group_id;
    struct consumer_session session;
    struct job *poll; /* NULL: none is under way */
};

static inline struct job *member_op(struct member *m, enum op_kind kind)
{
    struct job *j = job_new(kind, 4 << 20);
    j->op.slot = 0;
    j->op.consumer = (struct consumer_request){.group_id = m->group_id, .session = &m->session};
    return j;
}

static inline enum status member_do(struct member *m, struct job *j)
{
    engine_submit(m->rig->engine, &j->op);
    until_done(m->rig, j);
    enum status st = j->op.failure.status;
    job_free(j);
    return st;
}

static inline enum status member_join_group(struct member *m, struct engine_rig *r, uint32_t group_id, const char *name, int64_t credit)
{
    static uint64_t sessions;
    *m = (struct member){.rig = r, .group_id = group_id, .session = {.id = ++sessions, .member_id = slice_str(name), .credit = credit}};
    return member_do(m, member_op(m, OP_GROUP_ATTACH));
}
static inline enum status member_join(struct member *m, struct engine_rig *r, const char *name, int64_t credit) { return member_join_group(m, r, GROUP, name, credit); }

static inline void member_poll(struct member *m, uint64_t wait_ns)
{
    check(!m->poll);
    m->poll = member_op(m, OP_GROUP_POLL);
    m->poll->op.consumer.bytes_max = 64 << 10;
    m->poll->op.consumer.wait_until_ns = sim_world_now_ns(m->rig->world) + wait_ns;
    engine_submit(m->rig->engine, &m->poll->op);
}

struct got {
    unsigned n;
    struct got_event at[4096];
    enum status status;
    uint64_t complete_to_us;
};

/* What the poll that is under way came to. */
static inline void member_take(struct member *m, struct got *g)
{
    until_done(m->rig, m->poll);
    struct op *op = &m->poll->op;
    *g = (struct got){.status = op->failure.status, .complete_to_us = op->consumer.complete_to_us};
    Orderdb__V1__ReadChangesResponse *b = orderdb__v1__read_changes_response__unpack(NULL, op->answer.len, op->answer.data);
    assert_non_null(b);
    assert_int_equal(b->n_events, op->failure.status ? 0 : op->consumer.events);
    for (size_t i = 0; i < b->n_events; i++) g->at[g->n++] = got_event_of(b->events[i]);
    orderdb__v1__read_changes_response__free_unpacked(b, NULL);
    job_free(m->poll);
    m->poll = NULL;
}

/* Polls once, and takes what comes within wait_ns. */
static inline void member_get(struct member *m, uint64_t wait_ns, struct got *g)
{
    member_poll(m, wait_ns);
    member_take(m, g);
}

/* true: it was not stale. */
static inline bool member_settle(struct member *m, enum consumer_settle_kind kind, uint16_t slot, int64_t seq, uint64_t delay_us)
{
    struct consumer_settle s = {.kind = kind, .slot = slot, .seq = seq, .delay_us = delay_us, .error = SLICE_LIT("no luck")};
    struct job *j = member_op(m, OP_GROUP_SETTLE);
    j->op.consumer.settles = &s;
    j->op.consumer.settle_count = 1;
    engine_submit(m->rig->engine, &j->op);
    until_done(m->rig, j);
    bool good = !j->op.failure.status && !s.stale;
    job_free(j);
    return good;
}
static inline bool member_ack(struct member *m, const struct got_event *e) { return member_settle(m, CONSUMER_ACK, e->slot, e->seq, 0); }
static inline bool member_nack(struct member *m, const struct got_event *e) { return member_settle(m, CONSUMER_NACK, e->slot, e->seq, CONSUMER_NO_DELAY); }

static inline void member_leave(struct member *m)
{
    struct job *poll = m->poll;
    assert_int_equal(member_do(m, member_op(m, OP_GROUP_DETACH)), STATUS_OK);
    if (poll) until_done(m->rig, poll), job_free(poll);
    m->poll = NULL;
}

/* The same disk and stores, another engine: what is in memory alone is gone. Members, too. */
static inline void rig_restart(struct engine_rig *r)
{
    static const uint32_t partitions[PARTITIONS_MAX] = {0, 1};
    char error[256] = "";
    while (r->engine->partitions[0].reads_away || r->engine->partitions[0].flushing) rig_run(r, NS_PER_MS / 10); /* an engine is closed when its jobs are home */
    sim_disk_crash(r->disk);
    engine_close(r->engine);
    sim_world_settle(r->world);
    sim_env_close(r->env);
    r->env = sim_env_open(r->world, r->disk);
    struct engine_config config = {.node_id = 1, .partition_count = 1, .partitions = partitions, .owned_count = 1, .machines = r->machines, .log_live_bytes_max = 1 << 20, .log_segment_bytes = 64 << 10,
                                   .memtable_bytes = 1 << 20, .queue_ops_max = 100, .queue_target_ns = 20 * NS_PER_MS, .queue_bytes_max = 4 << 20, .feed_tail_bytes = r->tail_bytes,
                                   .feed_retention_us = r->retention_us, .snapshot_orders_max = r->snapshot_orders, .store_open = open_store, .store_ctx = r, .election_ms = 1000, .heartbeat_ms = 100};
    assert_int_equal(engine_open(&r->engine, r->env, &config, error), STATUS_OK);
    while (!engine_ready(r->engine)) rig_run(r, NS_PER_MS);
}

static inline void job_succeeds(struct engine_rig *r, struct job *j)
{
    engine_submit(r->engine, &j->op);
    until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
}

/* asked_max: of consumer_lag; 0: as many as there are by default */
static inline struct consumer_lag group_lag_of(struct engine_rig *r, uint32_t group_id, uint64_t asked_max)
{
    struct job *j = job_new(OP_GROUP_LAG, 1 << 20);
    j->op.lag = (struct consumer_lag){.group_id = group_id, .asked_max = asked_max};
    job_succeeds(r, j);
    struct consumer_lag lag = j->op.lag;
    job_free(j);
    return lag;
}

static inline struct consumer_lag group_lag_asking(struct engine_rig *r, uint64_t asked_max) { return group_lag_of(r, GROUP, asked_max); }
static inline struct consumer_lag group_lag(struct engine_rig *r) { return group_lag_asking(r, 0); }

static inline struct job *letters_of(struct engine_rig *r, bool dead_only)
{
    struct job *j = job_new(OP_GROUP_LETTERS, 16 << 20);
    j->op.letters = (struct consumer_letters){.group_id = GROUP, .count_max = 100, .dead_only = dead_only};
    job_succeeds(r, j);
    return j;
}

/* Of all letters that are dead: how many it was done to. milli: of a redrive. */
static inline unsigned letters_do(struct engine_rig *r, enum letters_action action, uint32_t milli)
{
    struct job *j = letters_of(r, true);
    uint8_t packed[1024];
    struct writer w = writer_of(packed, sizeof packed);
    for (unsigned i = 0; i < j->op.letters.count; i++) write_be16(&w, j->op.letters.refs[i].slot), write_be64(&w, (uint64_t)j->op.letters.refs[i].seq);
    struct command c = {.type = COMMAND_GROUP_REDRIVE, .redrive = {.group_id = GROUP, .action = action, .milli = milli, .count = j->op.letters.count, .packed = writer_slice(&w)}};
    struct job *write = write_command(r, &c, 0);
    assert_int_equal(write->op.failure.status, STATUS_OK);
    unsigned n = write->op.outcome.group.count;
    job_free(write);
    job_free(j);
    return n;
}

#endif
