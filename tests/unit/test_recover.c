/* The promises of engine/recover.h: a replica that has lost the majority of its voters, made by hand from votes and log, goes on alone. */
#include <setjmp.h>

#include "tests/lib/engine_rig.h"

#include "engine/node_row.h"
#include "engine/recover.h"

enum { SELF = 1, ORDERS = 5, GROUP = 1, TERM = 7 };

struct lost {
    struct engine_rig rig; /* stores: [0] the partition's, [1] the meta partition's */
    jmp_buf died;
    bool joined; /* it has only joined: nobody votes in what is made new */
};

static enum status open_any_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    return store_open_mem(out, ((struct lost *)ctx)->rig.stores[partition == PARTITION_META]);
}

static void nobody(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame) {}

static void lost_open(struct lost *x) {
    static const uint32_t partitions[] = {0};
    static const struct group_members three = {.member = {{1, GROUP_VOTER}, {2, GROUP_VOTER}, {3, GROUP_VOTER}}, .count = 3};
    static const struct group_members nobody_votes = {.member = {{NODE_ID_MAX + 1, GROUP_VOTER}}, .count = 1};
    char error[256] = "";
    struct engine_rig *r = &x->rig;
    struct engine_config config = {.node_id = SELF, .members = x->joined ? &nobody_votes : &three, .send = nobody, .partition_count = 1, .partitions = partitions, .owned_count = 1, .meta = true, .machines = r->machines, .log_live_bytes_max = 1 << 20,
                                   .log_segment_bytes = 64 << 10, .memtable_bytes = 1 << 20, .queue_ops_max = 100, .queue_bytes_max = 1 << 20, .store_open = open_any_store, .store_ctx = x,
                                   .election_ms = 300, .heartbeat_ms = 50};
    r->env = sim_env_open(r->world, r->disk);
    if (engine_open(&r->engine, r->env, &config, error)) fail_msg("%s", error);
}

static void lost_close(struct lost *x) { rig_stop(&x->rig); }

/* The next start: it leads alone, and has applied all. */
static void lost_lead(struct lost *x) {
    lost_open(x);
    for (unsigned i = 0; i < 1000 && !engine_ready(x->rig.engine); i++) rig_run(&x->rig, NS_PER_MS);
    assert_true(engine_ready(x->rig.engine));
}

/* ---- what is found on the disk */

static void nothing(void *ctx) {}
static enum status no_record(void *ctx, const struct wal_record *r) { return STATUS_OK; }
static void synced(void *ctx, uint64_t batch) {}

struct written {
    struct lost *x;
    struct wal *wal;
    uint64_t index[2]; /* last, by group: the partition's, meta's */
};

static void put(struct written *w, bool meta, uint64_t term, enum group_entry_type type, struct slice data) {
    assert_int_equal(wal_append(w->wal, meta ? PARTITION_META_GROUP : GROUP, ++w->index[meta], term, (uint8_t)type, &data, 1), STATUS_OK);
}
static void put_command(struct written *w, bool meta, uint64_t term, struct slice command) {
    uint8_t *bytes = arena_alloc(&w->x->rig.commands, command.len + 64);
    struct writer out = writer_of(bytes, command.len + 64);
    entry_head_encode(&out, 1767225600000000, 1);
    write_counted(&out, command);
    put(w, meta, term, GROUP_COMMAND, writer_slice(&out));
}
static void put_members(struct written *w, uint64_t term, struct group_members members) {
    uint8_t bytes[128];
    members.index = w->index[0] + 1;
    size_t n = group_members_encode(&members, bytes, sizeof bytes);
    put(w, false, term, GROUP_CHANGE, slice_of(bytes, n));
}

/* Five orders, none of which this replica has applied, and the rows of three nodes; votes for node 2 in term 7. */
static int setup(void **state) {
    struct lost *x = *state = mem_new(struct lost);
    struct engine_rig *r = &x->rig;
    r->world = sim_world_new(1), r->machines = machines_new(), r->disk = sim_disk_new(r->world);
    for (unsigned i = 0; i < PARTITIONS_MAX; i++) r->stores[i] = store_mem_disk_new();
    arena_init(&r->commands, 16 << 20);
    r->env = sim_env_open(r->world, r->disk);
    struct written w = {.x = x, .index = {GROUP_FIRST_INDEX, GROUP_FIRST_INDEX}};
    struct votes *votes;
    struct wal_config config = {.dir = "log", .segment_bytes = 64 << 10, .live_bytes_max = 1 << 20, .synced = synced};
    char error[256] = "";
    assert_int_equal(votes_open(&votes, r->env, "votes", error), STATUS_OK);
    assert_int_equal(votes_set(votes, GROUP, TERM, 2), STATUS_OK);
    assert_int_equal(votes_set(votes, PARTITION_META_GROUP, TERM, 2), STATUS_OK);
    votes_commit(votes, nothing, NULL);
    assert_int_equal(wal_open(&w.wal, r->env, &config, no_record, error), STATUS_OK);
    put(&w, false, 5, GROUP_BARRIER, (struct slice){0});
    for (unsigned i = 0; i < ORDERS; i++) put_command(&w, false, 5, create_command(r, "somebody", 1));
    uint8_t founders[512];
    struct writer f = writer_of(founders, sizeof founders);
    for (uint64_t id = 1; id <= 3; id++) node_founder_encode(&(struct node_row){.node_id = id, .zone = SLICE_LIT("z"), .address = SLICE_LIT("10.0.0.1:1")}, &f);
    put_command(&w, true, 6, command_encode(&(struct command){.type = COMMAND_NODE, .node = {.action = NODE_FOUND, .founders = writer_slice(&f)}}, &r->commands));
    (void)wal_commit(w.wal);
    sim_world_settle(r->world);
    wal_close(w.wal), votes_close(votes);
    sim_env_close(r->env);
    return 0;
}
static int teardown(void **state) {
    struct lost *x = *state;
    struct engine_rig *r = &x->rig;
    sim_disk_free(r->disk);
    sim_world_free(r->world);
    for (unsigned i = 0; i < PARTITIONS_MAX; i++) store_mem_disk_free(r->stores[i]);
    machines_free(r->machines);
    arena_fini(&r->commands);
    mem_free(x);
    return 0;
}

static void turn(void *ctx) {
    struct lost *x = ctx;
    if (sim_disk_dead(x->rig.disk)) longjmp(x->died, 1);
    assert_true(sim_world_step(x->rig.world));
}

static void recover(struct lost *x) {
    char error[256];
    lost_open(x);
    if (recover_alone(x->rig.engine, turn, x, error)) fail_msg("%s", error);
    lost_close(x);
}

static struct recover_replica look_at(struct lost *x, bool meta) {
    struct recover_replica r[3];
    assert_int_equal(recover_look(x->rig.engine, r, 3), 2);
    assert_int_equal(r[1].partition, PARTITION_META);
    return r[meta];
}

static enum node_row_state row_of(struct lost *x, uint64_t id) {
    struct slice list;
    assert_int_equal(engine_read_nodes(x->rig.engine, &x->rig.commands, &list), STATUS_OK);
    struct reader r = reader_of(list);
    for (struct node_row row; node_list_next(&r, &row);)
        if (row.node_id == id) return row.state;
    return 0;
}

/* It serves all that it had, alone, and takes more. */
static void serves_alone(struct lost *x) {
    struct partition_stats s;
    lost_lead(x);
    assert_true(engine_stats_of(x->rig.engine, 0, &s));
    assert_int_equal(s.orders, ORDERS);
    assert_int_equal(s.replica_count, 1);
    assert_int_equal(s.replicas[0].node_id, SELF);
    assert_true(s.term > TERM + 1);
    assert_int_equal(row_of(x, SELF), NODE_STATE_UP);
    assert_int_equal(row_of(x, 2), NODE_STATE_LEAVING);
    assert_int_equal(row_of(x, 3), NODE_STATE_LEAVING);
    (void)create(&x->rig);
    lost_close(x);
}

/* ---- promises */

static void a_look_tells_what_there_is_and_changes_nothing(void **state) {
    struct lost *x = *state;
    for (unsigned i = 0; i < 2; i++) {
        lost_open(x);
        struct recover_replica r = look_at(x, false);
        assert_int_equal(r.applied_index, GROUP_FIRST_INDEX);
        assert_int_equal(r.last_index, GROUP_FIRST_INDEX + 1 + ORDERS);
        assert_int_equal(r.last_term, 5);
        assert_int_equal(r.term, TERM);
        assert_int_equal(r.members.count, 3);
        assert_true(r.holds && r.votes && !r.alone && !r.forgot);
        assert_int_equal(look_at(x, true).last_term, 6);
        lost_close(x);
    }
    lost_open(x); /* no majority: nobody leads */
    rig_run(&x->rig, 5 * NS_PER_S);
    assert_false(engine_ready(x->rig.engine));
    lost_close(x);
}

static void it_goes_on_alone_with_all_that_its_log_holds(void **state) {
    struct lost *x = *state;
    recover(x);
    lost_open(x);
    for (unsigned meta = 0; meta < 2; meta++) {
        struct recover_replica r = look_at(x, meta);
        assert_true(r.alone);
        assert_int_equal(r.last_term, TERM + 1);
        assert_int_equal(r.term, TERM + 1);
    }
    assert_int_equal(look_at(x, false).last_index, GROUP_FIRST_INDEX + 1 + ORDERS + 1);
    lost_close(x);
    serves_alone(x);
}

static void again_changes_nothing(void **state) {
    struct lost *x = *state;
    recover(x);
    lost_open(x);
    struct recover_replica before = look_at(x, true);
    lost_close(x);
    recover(x);
    lost_open(x);
    assert_int_equal(look_at(x, true).last_index, before.last_index);
    assert_int_equal(look_at(x, true).term, before.term);
    lost_close(x);
    serves_alone(x);
}

/* Newest members that were never committed count as any: here node 4 had been added, and would have a say. */
static void members_of_the_log_are_overruled(void **state) {
    struct lost *x = *state;
    struct engine_rig *r = &x->rig;
    char error[256] = "";
    struct written w = {.x = x, .index = {GROUP_FIRST_INDEX + 1 + ORDERS}};
    struct wal_config config = {.dir = "log", .segment_bytes = 64 << 10, .live_bytes_max = 1 << 20, .synced = synced};
    r->env = sim_env_open(r->world, r->disk);
    assert_int_equal(wal_open(&w.wal, r->env, &config, no_record, error), STATUS_OK);
    put_members(&w, TERM, (struct group_members){.member = {{2, GROUP_VOTER}, {3, GROUP_VOTER}, {4, GROUP_VOTER}}, .count = 3});
    put_members(&w, TERM + 2, (struct group_members){.member = {{1, GROUP_LEARNER}, {3, GROUP_VOTER}, {4, GROUP_VOTER}}, .count = 3}); /* the log knows a later term than the votes */
    (void)wal_commit(w.wal);
    sim_world_settle(r->world);
    wal_close(w.wal);
    sim_env_close(r->env);
    lost_open(x);
    struct recover_replica is = look_at(x, false);
    assert_int_equal(is.members.member[2].node_id, 4);
    assert_int_equal(is.term, TERM + 2);
    assert_false(is.votes);
    lost_close(x);
    recover(x);
    serves_alone(x);
}

/* false: the power went before it was through. */
static bool recover_or_die(struct lost *x, uint64_t crash_at) {
    char error[256];
    lost_open(x);
    sim_disk_faults(x->rig.disk)->crash_at = crash_at;
    if (setjmp(x->died)) return false;
    assert_int_equal(recover_alone(x->rig.engine, turn, x, error), STATUS_OK);
    return !sim_disk_dead(x->rig.disk);
}

/* The power goes at every change that the recovery makes; run again, it ends as if nothing had been. */
static void it_may_be_killed_anywhere_and_run_again(void **state) {
    struct lost *x = *state;
    struct sim_disk *found = x->rig.disk, *disk;
    unsigned n = 0;
    for (bool whole = false; !whole; n++) {
        x->rig.disk = disk = sim_disk_copy(found);
        for (unsigned i = 0; i < PARTITIONS_MAX; i++) store_mem_disk_free(x->rig.stores[i]), x->rig.stores[i] = store_mem_disk_new();
        whole = recover_or_die(x, n + 1);
        sim_disk_faults(disk)->crash_at = 0;
        lost_close(x);
        if (!whole) recover(x);
        serves_alone(x);
        sim_disk_free(disk);
    }
    assert_true(n > 5); /* two copies of the votes with their syncs, a batch and its sync */
    x->rig.disk = found;
}

static void a_disk_that_forgot_is_told(void **state) {
    struct lost *x = *state;
    struct engine_rig *r = &x->rig;
    struct votes *votes;
    char error[256] = "";
    r->env = sim_env_open(r->world, r->disk);
    assert_int_equal(votes_open(&votes, r->env, "votes", error), STATUS_OK);
    assert_int_equal(votes_set(votes, GROUP, TERM, VOTE_MAY_NOT), STATUS_OK);
    votes_commit(votes, nothing, NULL);
    sim_world_settle(r->world);
    votes_close(votes);
    sim_env_close(r->env);
    lost_open(x);
    assert_true(look_at(x, false).forgot);
    assert_false(look_at(x, true).forgot);
    lost_close(x);
    recover(x);
    serves_alone(x);
}

/* Of a partition whose replicas were on other nodes there is nothing; the caller has it begin anew. */
static void what_it_does_not_hold_begins_empty(void **state) {
    struct lost *x = *state;
    struct sim_disk *found = x->rig.disk, *disk = x->rig.disk = sim_disk_new(x->rig.world);
    struct partition_stats s;
    x->joined = true;
    lost_open(x);
    struct recover_replica r = look_at(x, false);
    assert_true(!r.holds && !r.votes && !r.alone && !r.forgot);
    lost_close(x);
    recover(x);
    lost_open(x);
    assert_true(look_at(x, false).holds && look_at(x, false).alone);
    lost_close(x);
    lost_lead(x);
    assert_true(engine_stats_of(x->rig.engine, 0, &s));
    assert_int_equal(s.orders, 0);
    assert_int_equal(s.replica_count, 1);
    assert_int_equal(s.replicas[0].node_id, SELF);
    (void)create(&x->rig);
    lost_close(x);
    sim_disk_free(disk);
    x->rig.disk = found;
}

int main(void) {
#define EACH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {EACH(a_look_tells_what_there_is_and_changes_nothing), EACH(it_goes_on_alone_with_all_that_its_log_holds), EACH(again_changes_nothing),
                                       EACH(members_of_the_log_are_overruled), EACH(it_may_be_killed_anywhere_and_run_again), EACH(a_disk_that_forgot_is_told), EACH(what_it_does_not_hold_begins_empty)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
