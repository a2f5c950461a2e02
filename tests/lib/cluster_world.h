/* The world of sim_cluster.c and sim_members.c: nodes, their network and disks, what clients asked for; and the checks of what stands in the stores (cluster_check.h). */
#ifndef TESTS_LIB_CLUSTER_WORLD_H
#define TESTS_LIB_CLUSTER_WORLD_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/feed.h"
#include "engine/index.h"
#include "engine/keys.h"
#include "engine/partition.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/sim_env.h"

#ifndef CLUSTER_NODES
#define CLUSTER_NODES 3
#endif
enum { NODES = CLUSTER_NODES, PARTITIONS = 2, REQUESTS_MAX = 300, CLIENTS = 6, SEEN_MAX = 1 << 14, LISTED_MAX = 1 << 12, MANY_MAX = 4, TERMS_MAX = 4096, STORY_LINES = 80 };
enum request_kind { CREATE, PAY, SET_TIMER };
struct cluster_event;
struct group_session;
struct node {
    struct sim *sim;
    uint64_t id;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine; /* NULL: down */
    struct store_mem_disk *stores[PARTITIONS];
    bool aside[PARTITIONS]; /* a store was dropped, and not swept yet */
    struct machines *machines;
    uint64_t up_at_ns, full_until_ns, leaves_at_ns; /* leaves: it hands over what it leads, and is killed then; 0: it does not */
    bool wiped, acts; /* wiped: it has not its place again yet; acts: and that is on its disk */
    int64_t leap_us; /* of its wall clock */
    uint64_t paused_until_ns; /* stopped as by SIGSTOP: it does nothing, and what comes waits for it */
    bool woke;
    uint64_t resumed_ns;
    bool io_fails, stops; /* a write or a sync of it fails soon, or has just failed; and the process has stopped. One node at a time: who says that it stops does not say who it is */
    uint64_t io_failed_ns;
    unsigned reads_away, life; /* life: processes of it that have ended */
};
struct request {
    uint64_t number;
    enum request_kind kind;
    unsigned user;
    struct request *create; /* NULL: it is one; else the order that is paid, or gets a timer */
    int64_t fire_us; /* as asked for; as acknowledged */
    int64_t order_id, version; /* as acknowledged; of the order */
    int64_t own_version; /* that it made */
    int64_t token_seq, token_version; /* of an order: what its newest acknowledged write was answered */
    uint64_t asked_ns, answered_ns; /* first */
    bool fresh; /* an answer said that it was done then */
    bool acked, refused, busy;
    uint64_t give_up_ns;
    struct cluster_event *ack; /* of a PAY: with the ack of this one, which the session holds; NULL: with none */
    struct group_session *ack_session;
};
/* One try of a request, or a read of a request's order. Its memory is the process's that it was given to. */
struct attempt {
    struct op op;
    struct arena arena;
    struct sim *sim;
    struct request *request;
    struct node *node;
    uint64_t begun_ns;
    int64_t version; /* of a read: what it must show at least */
    bool read;
    uint64_t ack_given_ns; /* the session held it there when this was asked, since then; 0: it did not */
    struct request *many[MANY_MAX]; /* OP_GET_MANY */
    int64_t ids[MANY_MAX];
};
/* An operation on an order: place 2 v for the write of version v, 2 v + 1 for a read of it (cluster_history.h). */
struct seen {
    const struct request *order;
    int64_t place;
    uint64_t from_ns, to_ns;
};
struct listed {
    unsigned user;
    int64_t total;
    uint64_t from_ns, to_ns;
};
struct packet {
    struct sim *sim;
    uint64_t group_id, from, to;
    size_t len;
    uint8_t bytes[];
};
struct sim {
    uint64_t seed;
    bool trace, healthy;
    struct sim_world *world;
    struct node nodes[NODES];
    struct group_members members;
    struct request requests[REQUESTS_MAX], *client[CLIENTS];
    unsigned request_count;
    uint64_t leaders[PARTITIONS][TERMS_MAX], cut_until_ns[NODES][NODES];
    unsigned memtable, snapshot_orders;
    uint64_t live_bytes_max;
    unsigned io_fails_in, loss, duplicates, slow, crashes_in, cuts_in, fulls_in, leaps_in, transfers_in, wipes_in, pauses_in, isolates_in, flips_in, crash_at_in, crash_fetching_in, trailing, chunk;
    uint64_t given, taken, bytes; /* snapshots */
    uint64_t crashes, cuts, elections, reads, compared, not_leader, fulls, leaps, transfers, recovered, crashed_fetching, fullest, wipes, returns, timers_fired, events;
    uint64_t io_stops, flips, refusals, pauses, isolations, followed, stale_reads, token_reads;
    struct seen seen[SEEN_MAX];
    struct listed listed[LISTED_MAX];
    unsigned seen_count, listed_count;
    uint64_t settled_ns;
    char story[STORY_LINES][160];
    uint64_t lines;
};

static PRINTF_LIKE(2, 3) void tell(struct sim *s, const char *format, ...) {
    char *line = s->story[s->lines++ % STORY_LINES];
    int n = snprintf(line, sizeof s->story[0], "%10.3f ms ", (double)sim_world_now_ns(s->world) / 1e6);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, sizeof s->story[0] - (size_t)n, format, args);
    va_end(args);
    if (s->trace) puts(line);
}

#define REQUIRE(x, ...)                                                                                                                            \
    do {                                                                                                                                           \
        if (!(x)) {                                                                                                                                \
            for (uint64_t l_ = s->lines > STORY_LINES ? s->lines - STORY_LINES : 0; l_ < s->lines && !s->trace; l_++) puts(s->story[l_ % STORY_LINES]); \
            printf("# seed=%llu line %d: %s: ", (unsigned long long)s->seed, __LINE__, #x), printf(__VA_ARGS__), printf("\n"), fflush(stdout);     \
            _exit(1);                                                                                                                              \
        }                                                                                                                                          \
    } while (0)

static uint64_t chance(struct sim *s, uint64_t n) { return sim_world_below(s->world, n); }
static struct partition *replica(struct node *n, unsigned partition) { return n->engine->by_id[partition]; }

/* ---- the network */

static void deliver(void *ctx) {
    struct packet *k = ctx;
    struct sim *s = k->sim;
    struct node *to = &s->nodes[k->to - 1];
    if (to->paused_until_ns > sim_world_now_ns(s->world)) { /* until it reads its sockets again */
        sim_world_at(s->world, to->paused_until_ns - sim_world_now_ns(s->world) + 1 + chance(s, 5 * NS_PER_MS), deliver, k);
        return;
    }
    bool cut = s->cut_until_ns[k->from - 1][k->to - 1] > sim_world_now_ns(s->world);
    if (to->engine && !cut) REQUIRE(engine_receive(to->engine, k->group_id, k->from, slice_of(k->bytes, k->len)) == STATUS_OK, "node %llu refuses a frame", (unsigned long long)k->to);
    mem_free(k);
}

static void send_frame(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame) {
    struct node *n = ctx;
    struct sim *s = n->sim;
    unsigned copies = !s->healthy && chance(s, 100) < s->loss ? 0 : 1 + (!s->healthy && chance(s, 100) < s->duplicates);
    while (copies--) {
        struct packet *k = mem_alloc(sizeof *k + frame.len);
        *k = (struct packet){.sim = s, .group_id = group_id, .from = n->id, .to = node_id, .len = frame.len};
        memcpy(k->bytes, frame.data, frame.len);
        sim_world_at(s->world, 50000 + chance(s, !s->healthy && chance(s, 100) < s->slow ? 400 * NS_PER_MS : NS_PER_MS), deliver, k);
    }
}

/* ---- nodes */

/* One process for each seed: the nodes' clocks. */
static struct sim *clocks_of;
static const struct env_ops *world_ops;
static int64_t leaping_wall_us(struct env *env) {
    for (unsigned i = 0; i < NODES; i++)
        if (clocks_of->nodes[i].env == env) return world_ops->wall_us(env) + clocks_of->nodes[i].leap_us;
    return world_ops->wall_us(env);
}

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    struct node *n = ctx;
    return store_open_mem(out, n->stores[partition]);
}

static enum status drop_store(void *ctx, uint32_t partition, char error[256]) {
    struct node *n = ctx;
    store_mem_disk_free(n->stores[partition]);
    n->stores[partition] = store_mem_disk_new();
    n->aside[partition] = true;
    return STATUS_OK;
}
static void sweep_store(void *ctx, uint32_t partition) { ((struct node *)ctx)->aside[partition] = false; }

/* One at a time: with two of three disks gone nobody knows what was acknowledged. */
static bool may_wipe(const struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        if (s->nodes[i].wiped || !s->nodes[i].acts) return false;
    return true;
}

static void disk_replace(struct node *n) {
    n->wiped = true, n->acts = false;
    n->disk = sim_disk_new(n->sim->world);
    for (unsigned p = 0; p < PARTITIONS; p++) n->stores[p] = store_mem_disk_new();
}

struct segments {
    unsigned count;
    char oldest[64];
};
static void segment_seen(void *ctx, const char *name) {
    struct segments *x = ctx;
    size_t n = strlen(name);
    if (strncmp(name, "log/", 4) != 0 || n < 4 || strcmp(name + n - 4, ".seg") != 0) return;
    if (!x->count++) snprintf(x->oldest, sizeof x->oldest, "%s", name);
}

/* A bit of the log's oldest segment, if there are others behind it: damage there is no torn tail. */
static bool disk_rots(struct node *n) {
    struct segments x = {0};
    sim_disk_each(n->disk, segment_seen, &x);
    if (x.count < 3) return false;
    sim_disk_flip(n->disk, x.oldest, chance(n->sim, 32 * KIB * 8));
    tell(n->sim, "node %llu: a bit of %s flips", (unsigned long long)n->id, x.oldest);
    n->sim->flips++;
    return true;
}

static void node_start(struct node *n) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    struct sim *s = n->sim;
    char error[256] = "";
    struct engine_config config = {
        .node_id = n->id, .members = &s->members, .send = send_frame, .send_ctx = n, .partition_count = PARTITIONS, .partitions = partitions, .owned_count = PARTITIONS,
        .machines = n->machines, .log_live_bytes_max = s->live_bytes_max, .log_segment_bytes = (uint32_t)MAX_OF(s->live_bytes_max / 64, 64 * KIB), .memtable_bytes = s->memtable, .row_cache_bytes = PARTITIONS * 16 * KIB, .queue_ops_max = 100, .queue_bytes_max = 1 << 20,
        .list_cache_bytes = s->seed % 4 * 6 * KIB, .lists_proved = true, .filter_bytes = s->seed % 3 * 32 * KIB, .filter_proved = true,
        .store_open = open_store, .store_drop = drop_store, .store_sweep = sweep_store, .store_ctx = n, .election_ms = 300, .heartbeat_ms = 50, .trailing_entries = s->trailing, .snapshot_chunk_bytes = s->chunk, .snapshot_orders_max = s->snapshot_orders, .snapshot_bytes_per_s = 256 * KIB,
    };
    static struct env_ops ops;
    n->env = sim_env_open(s->world, n->disk);
    if (!world_ops) world_ops = n->env->ops, ops = *world_ops, ops.wall_us = leaping_wall_us;
    clocks_of = s;
    n->env->ops = &ops;
    if (!s->healthy && s->crash_at_in && chance(s, s->crash_at_in) == 0) sim_disk_faults(n->disk)->crash_at = 1 + chance(s, 400);
    bool rotten = !s->healthy && s->flips_in && chance(s, s->flips_in) == 0 && may_wipe(s) && disk_rots(n);
    enum status st = engine_open(&n->engine, n->env, &config, error);
    if (rotten && st == STATUS_CHECKSUM_MISMATCH) { /* it says so, and gets another disk */
        tell(s, "node %llu does not open: %.100s", (unsigned long long)n->id, error);
        s->refusals++;
        sim_disk_kill(n->disk);
        n->engine = NULL;
        n->env->ops = world_ops;
        sim_env_abandon(n->env);
        disk_replace(n);
        n->up_at_ns = sim_world_now_ns(s->world) + (50 + chance(s, 500)) * NS_PER_MS;
        return;
    }
    if (st && sim_disk_dead(n->disk)) { /* the power went while it started */
        tell(s, "node %llu lost power while it started", (unsigned long long)n->id);
        n->engine = NULL;
        n->env->ops = world_ops;
        sim_env_abandon(n->env);
        sim_disk_faults(n->disk)->crash_at = 0;
        n->up_at_ns = sim_world_now_ns(s->world) + (50 + chance(s, 500)) * NS_PER_MS;
        return;
    }
    REQUIRE(st == STATUS_OK, "node %llu does not open: %s: %s", (unsigned long long)n->id, status_name(st), error);
    s->recovered += n->engine->stats.snapshots_taken;
    tell(s, "node %llu started", (unsigned long long)n->id);
}

static void node_init(struct sim *s, unsigned at) {
    struct node *n = &s->nodes[at];
    *n = (struct node){.sim = s, .id = at + 1, .disk = sim_disk_new(s->world), .machines = machines_new()};
    for (unsigned p = 0; p < PARTITIONS; p++) n->stores[p] = store_mem_disk_new();
}

/* A write, a sync of a file or of a directory, of log or votes: -EIO, once. */
static void node_io_fails(struct node *n) {
    struct sim_faults *f = sim_disk_faults(n->disk);
    uint64_t *which[] = {&f->write_fails_at, &f->sync_fails_at, &f->dir_sync_fails_at};
    *which[chance(n->sim, 8) ? chance(n->sim, 2) : 2] = 1 + chance(n->sim, 10);
    n->io_fails = true;
}
static bool io_has_failed(const struct node *n) {
    const struct sim_faults *f = sim_disk_faults(n->disk);
    return n->io_fails && !f->write_fails_at && !f->sync_fails_at && !f->dir_sync_fails_at;
}
static void node_io_is_sound(struct node *n) {
    struct sim_faults *f = sim_disk_faults(n->disk);
    f->write_fails_at = f->sync_fails_at = f->dir_sync_fails_at = 0;
    n->io_fails = n->stops = false, n->io_failed_ns = 0;
}

/* Where the process can go on it does. One that was stopped meanwhile hears of it when it goes on. */
static bool io_of_any_fails(struct sim *s) {
    bool fails = false;
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->nodes[i];
        uint64_t now = sim_world_now_ns(s->world);
        if (io_has_failed(n) && !n->io_failed_ns) n->io_failed_ns = now;
        if (n->io_failed_ns && now > MAX_OF(n->io_failed_ns, MAX_OF(n->paused_until_ns, n->resumed_ns)) + 200 * NS_PER_MS) node_io_is_sound(n);
        fails |= n->io_fails;
    }
    return fails;
}

static void health_for_all(struct sim *s) {
    tell(s, "health for all");
    s->healthy = true;
    memset(s->cut_until_ns, 0, sizeof s->cut_until_ns);
    for (unsigned i = 0; i < NODES; i++)
        if (!io_has_failed(&s->nodes[i])) node_io_is_sound(&s->nodes[i]);
}

/* Of one that is gone there is nothing. */
static void node_count(struct sim *s, struct node *n) {
    struct engine_stats stats;
    if (!n->engine) return;
    engine_get_stats(n->engine, &stats);
    s->followed += stats.reads_followed;
    s->given += stats.snapshots_given, s->taken += stats.snapshots_taken, s->bytes += stats.snapshot_bytes;
}

static bool fetching(const struct node *n) {
    for (unsigned p = 0; n->engine && p < PARTITIONS; p++)
        if (n->engine->by_id[p]->fetch) return true;
    return false;
}

/* Between its log's end and its store's. */
static bool installing(const struct node *n) {
    for (unsigned p = 0; n->engine && p < PARTITIONS; p++)
        if (group_installing(n->engine->by_id[p]->group)) return true;
    return false;
}

static void node_full(struct node *n, bool full) {
    for (unsigned p = 0; p < PARTITIONS; p++) store_mem_disk_set_full(n->stores[p], full);
    bool moment = n->sim->io_fails_in && chance(n->sim, 2); /* one write of a store fails */
    n->full_until_ns = full ? sim_world_now_ns(n->sim->world) + (moment ? 1 + chance(n->sim, 10) : 200 + chance(n->sim, 4000)) * NS_PER_MS : 0;
    tell(n->sim, "node %llu: %s", (unsigned long long)n->id, full ? "its disk is full" : "there is room again");
}

static void node_crash(struct node *n) {
    struct sim *s = n->sim;
    bool power = chance(s, 2) || sim_disk_dead(n->disk);
    s->crashes++, n->life++;
    node_count(s, n);
    tell(s, "node %llu %s", (unsigned long long)n->id, power ? "lost power" : "was killed");
    s->crashed_fetching += fetching(n);
    sim_disk_faults(n->disk)->crash_at = 0;
    node_io_is_sound(n);
    if (!sim_disk_dead(n->disk) && power) sim_disk_crash(n->disk);
    else if (!sim_disk_dead(n->disk)) sim_disk_kill(n->disk);
    n->env->ops = world_ops;
    sim_env_abandon(n->env);
    n->engine = NULL; /* its memory goes with the process: each seed is one */
    n->leaves_at_ns = n->paused_until_ns = n->reads_away = 0;
    n->up_at_ns = sim_world_now_ns(s->world) + (50 + chance(s, 1500)) * NS_PER_MS;
}

static void node_wipe(struct node *n) {
    struct sim *s = n->sim;
    if (n->engine) node_crash(n);
    s->wipes++;
    disk_replace(n);
    tell(s, "node %llu lost its disk", (unsigned long long)n->id);
}

static void node_returned(struct node *n) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        if (!n->engine || n->engine->by_id[p]->returning) return;
    n->acts |= !votes_dirty(n->engine->votes) && !votes_busy(n->engine->votes);
    if (!n->wiped || !n->acts) return;
    n->wiped = false;
    n->sim->returns++;
    tell(n->sim, "node %llu has its place again", (unsigned long long)n->id);
}

static void node_pause(struct node *n) {
    struct sim *s = n->sim;
    n->paused_until_ns = sim_world_now_ns(s->world) + (50 + chance(s, chance(s, 2) ? 400 : 2500)) * NS_PER_MS;
    sim_env_pause(n->env, n->paused_until_ns);
    s->pauses++;
    tell(s, "node %llu is stopped for %llu ms", (unsigned long long)n->id, (unsigned long long)((n->paused_until_ns - sim_world_now_ns(s->world)) / NS_PER_MS));
}

static bool node_runs(const struct node *n) { return n->engine && n->paused_until_ns <= sim_world_now_ns(n->sim->world); }

/* One that leads, if there is one, half the time: those are who may show what is old. */
static void node_pause_some(struct sim *s) {
    struct node *n = &s->nodes[chance(s, NODES)];
    unsigned p = (unsigned)chance(s, PARTITIONS);
    for (unsigned i = 0; i < NODES && chance(s, 2); i++)
        if (node_runs(&s->nodes[i]) && group_role(replica(&s->nodes[i], p)->group) == GROUP_LEADER) n = &s->nodes[i];
    if (node_runs(n)) node_pause(n);
}

static void node_isolate(struct sim *s, unsigned at) {
    uint64_t until = sim_world_now_ns(s->world) + (100 + chance(s, 2000)) * NS_PER_MS;
    for (unsigned i = 0; i < NODES; i++) s->cut_until_ns[at][i] = s->cut_until_ns[i][at] = until;
    s->isolations++;
    tell(s, "node %u hears nobody, and is not heard", at + 1);
}

static void faults(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world);
    bool io_fails = io_of_any_fails(s);
    for (unsigned i = 0; i < NODES; i++)
        if (!s->nodes[i].engine && (s->healthy || now >= s->nodes[i].up_at_ns)) node_start(&s->nodes[i]);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->nodes[i];
        if (n->engine && sim_disk_dead(n->disk)) node_crash(n);
        if (n->engine && n->leaves_at_ns && (s->healthy || now >= n->leaves_at_ns)) node_crash(n);
        if (n->full_until_ns && (s->healthy || now >= n->full_until_ns)) node_full(n, false);
        if (n->paused_until_ns && node_runs(n)) n->paused_until_ns = 0, n->woke = true, n->resumed_ns = now, tell(s, "node %llu goes on", (unsigned long long)n->id);
        if (!s->healthy && s->crash_fetching_in && fetching(n) && chance(s, installing(n) ? 3 : s->crash_fetching_in) == 0) node_crash(n);
    }
    for (unsigned i = 0; i < NODES; i++)
        node_returned(&s->nodes[i]);
    if (s->healthy) return;
    struct node *some = &s->nodes[chance(s, NODES)];
    if (s->crashes_in && chance(s, s->crashes_in) == 0 && some->engine) node_crash(some);
    if (s->transfers_in && chance(s, s->transfers_in) == 0 && some->engine && !some->leaves_at_ns) {
        s->transfers++;
        some->leaves_at_ns = now + (10 + chance(s, 500)) * NS_PER_MS;
        tell(s, "node %llu hands over what it leads", (unsigned long long)some->id);
        engine_yield(some->engine, 0);
    }
    some = &s->nodes[chance(s, NODES)];
    if (s->fulls_in && chance(s, s->fulls_in) == 0 && some->engine && !some->full_until_ns) s->fulls++, node_full(some, true);
    if (s->wipes_in && chance(s, s->wipes_in) == 0 && may_wipe(s)) node_wipe(&s->nodes[chance(s, NODES)]);
    if (s->leaps_in && chance(s, s->leaps_in) == 0) {
        s->leaps++;
        some->leap_us = (int64_t)chance(s, 10 * US_PER_S) - 3 * US_PER_S; /* against the true time, not for ever further */
        tell(s, "node %llu: its clock is off by %lld us", (unsigned long long)some->id, (long long)some->leap_us);
    }
    if (s->io_fails_in && chance(s, s->io_fails_in) == 0 && some->engine && !io_fails) node_io_fails(some);
    if (s->pauses_in && chance(s, s->pauses_in) == 0) node_pause_some(s);
    if (s->isolates_in && chance(s, s->isolates_in) == 0) node_isolate(s, (unsigned)chance(s, NODES));
    if (s->cuts_in && chance(s, s->cuts_in) == 0) {
        unsigned a = (unsigned)chance(s, NODES), b = (unsigned)chance(s, NODES), both = (unsigned)chance(s, 2);
        uint64_t until = now + (100 + chance(s, 1500)) * NS_PER_MS;
        s->cuts++;
        tell(s, "node %u is not heard by %u%s", a + 1, b + 1, both ? ", nor the other way" : "");
        s->cut_until_ns[a][b] = until;
        if (both) s->cut_until_ns[b][a] = until;
    }
}

#endif
