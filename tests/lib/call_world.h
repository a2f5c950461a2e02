/* A whole server in one thread, without sockets: a client session in memory (h2_world.h), the server's calls and handlers, and an engine on a simulated clock, disk and
 * store (sim_env.h), which may lose its power and come back. Static, as h2_world.h is: for one program, one server at a time. */
#ifndef TESTS_LIB_CALL_WORLD_H
#define TESTS_LIB_CALL_WORLD_H

#define WORLD_REAL_HANDLERS
#include "tests/lib/h2_world.h"

#include "engine/keys.h"
#include "engine/order.h"
#include "engine/partition.h"
#include "engine/userlist.h"
#include "server/groups.h"
#include "server/leads.h"
#include "server/node.h"
#include "server/resources.h"
#include "tests/lib/sim_env.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

enum { PARTITIONS = 2, STORES = PARTITIONS + 1 /* the meta partition's is the last */, CALL_WORLD_TURNS_MAX = 200000 };

static struct {
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine;
    struct store_mem_disk *disks[STORES];
    struct store *stores[STORES];
    struct machines *machines;
} server;
static struct config config;
static struct node node;
static struct list finished; /* mail_hop.link: ops on their way home */

#ifndef WORLD_FILTER_BYTES
#define WORLD_FILTER_BYTES 0
#endif
#ifndef WORLD_ROW_CACHE_BYTES
#define WORLD_ROW_CACHE_BYTES 0
#endif
/* The including program may stand between the calls and the engine. */
#ifndef WORLD_SUBMIT
#define WORLD_SUBMIT engine_submit
#endif
#ifndef WORLD_MEMTABLE_BYTES
#define WORLD_MEMTABLE_BYTES (16 << 20)
#endif

/* WORLD_OWN_STORE: the including program opens the stores; partition: PARTITION_META for the meta partition's. */
static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256])
#ifdef WORLD_OWN_STORE
    ;
#else
{
    uint32_t i = MIN_OF(partition, (uint32_t)PARTITIONS);
    enum status st = store_open_mem(out, server.disks[i]);
    server.stores[i] = *out;
    return st;
}
#endif

static void engine_start(void) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    char error[256] = "";
    server.env = sim_env_open(server.world, server.disk);
    struct engine_config ec = {
        .node_id = 1, .partition_count = PARTITIONS, .partitions = partitions, .owned_count = PARTITIONS, .meta = true, .machines = server.machines, .log_live_bytes_max = 32 << 20,
        .log_segment_bytes = 8 << 20, .memtable_bytes = WORLD_MEMTABLE_BYTES, .row_cache_bytes = WORLD_ROW_CACHE_BYTES, .filter_bytes = WORLD_FILTER_BYTES, .queue_ops_max = 2000, .queue_bytes_max = 8 << 20, .store_open = open_store, .election_ms = 1000, .heartbeat_ms = 100,
    };
    check(engine_open(&server.engine, server.env, &ec, error) == STATUS_OK);
    while (!engine_ready(server.engine)) {
        engine_tick(server.engine);
        sim_world_run(server.world, NS_PER_MS);
    }
}

/* An engine that is closed has no job away (its own too: looks at timers and retention, flushes); a real power cut takes its memory with it. */
static bool jobs_away(void) {
    for (uint32_t i = 0; i < server.engine->held_count; i++)
        if (server.engine->partitions[i].reads_away || server.engine->partitions[i].flushing) return true;
    return false;
}
static void jobs_home(void) {
    while (jobs_away()) check(sim_world_step(server.world));
}

/* The power goes, and comes again: what was not synced or flushed is lost. */
static void engine_restart(void) {
    jobs_home();
    sim_disk_crash(server.disk);
    engine_close(server.engine);
    sim_env_close(server.env);
    engine_start();
}

/* machines: the server's from now on. */
static void server_open(struct machines *machines, uint64_t seed) {
    server.world = sim_world_new(seed);
    server.machines = machines;
    for (unsigned i = 0; i < STORES; i++) server.disks[i] = store_mem_disk_new();
    server.disk = sim_disk_new(server.world);
    engine_start();
    config_defaults(&config);
    node = (struct node){.config = &config, .core_count = 1, .partition_count = PARTITIONS, .machines = server.machines, .limits = {.requests_bytes_max = 64 << 20, .streams_max = 4}};
    node.identity.node_id = 1;
    check((node.leads = leads_new(PARTITIONS)));
    list_init(&finished);
}

static void server_close(void) {
    jobs_home();
    engine_close(server.engine);
    sim_world_settle(server.world);
    sim_env_close(server.env);
    sim_disk_free(server.disk);
    sim_world_free(server.world);
    for (unsigned i = 0; i < STORES; i++) store_mem_disk_free(server.disks[i]);
    machines_free(server.machines);
    leads_free(node.leads);
    memset(&server, 0, sizeof server);
}

static void on_op_done(struct op *op) { list_push_back(&finished, &((struct mail_hop *)op->owner)->link); }

/* In place of resources.c's: handlers bring machines to the partitions themselves. */
void resources_changed(struct core *core) { check(core->engine == server.engine); }

#ifdef WORLD_REAL_GROUPS /* groups.c's, for the including program to begin */
void mail_send_task(struct core *from, uint32_t to, struct mail_task *task) { task->run(task, from); }
#else
/* In place of groups.c's: nothing is remembered, so the meta partition is asked each time. */
void groups_changing(struct core *core) { check(core->engine == server.engine); }
void groups_changed(struct core *core) { check(core->engine == server.engine); }
uint32_t groups_find(struct core *core, struct slice name) { return 0; }
uint64_t groups_generation(const struct core *core) { return 0; }
void groups_learn(struct core *core, struct slice name, uint32_t group_id, uint64_t generation) { check(group_id); }
#endif

/* In place of mail.c's: one core. */
void mail_send_op(struct core *from, struct mail_hop *hop, struct op *op, void (*home)(struct mail_hop *hop)) {
    hop->op = op;
    hop->home = home;
    op->owner = hop;
    op->done = on_op_done;
    world->away_count++;
    WORLD_SUBMIT(server.engine, op);
}

/* One turn of the core (core.c). */
static void turn(struct world *w) {
    engine_tick(server.engine);
    uint64_t now = sim_world_now_ns(server.world), deadline = engine_deadline_ns(server.engine);
    sim_world_run(server.world, deadline <= now ? 2000 : MIN_OF(deadline - now, 200000ull));
    w->core.now_ns = sim_world_now_ns(server.world);
    timers_run(&w->core.timers, w->core.now_ns);
    w->core.engine = server.engine;
    for (struct list *l; (l = list_pop_front(&finished)); w->away_count--) {
        struct mail_hop *hop = list_entry(l, struct mail_hop, link);
        hop->home(hop);
    }
    check(calls_memory_bytes(w->core.calls) <= node.limits.requests_bytes_max);
    world_pump(w);
}

/* ---- the stores */
static void walk_store(struct store *store) {
    static struct arena arena;
    char error[256] = "";
    int64_t heads = 0, listed = 0;
    struct store_view view = {.store = store};
    arena_init(&arena, 64 << 20);
    struct store_iter *it = store_iter_open(&view, SLICE_LIT(""), SLICE_LIT("\xff\xff\xff\xff"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) {
        struct slice key = store_iter_key(it), value = store_iter_value(it);
        struct key body;
        struct slice row;
        arena_reset(&arena);
        if (key.data[2] == KEY_HEAD) {
            struct order_head head;
            check(order_head_decode(value, &head) == STATUS_OK);
            key_body(&body, head.order_id);
            check(store_get(&view, key_slice(&body), &arena, &row) == STATUS_OK);
            heads++;
        } else if (key.data[2] == KEY_COUNTS && key.data[4 + key.data[3]] == 0) { /* the root of a user */
            struct userlist_range range = {.slot = get_be16(key.data), .user_id = slice_of(key.data + 4, key.data[3]), .from_us = INT64_MIN, .to_us = INT64_MAX};
            struct status_counts counts;
            check(userlist_verify(&view, &arena, range.slot, range.user_id, error) == STATUS_OK);
            check(userlist_count(&view, &arena, &range, &counts) == STATUS_OK);
            for (unsigned i = 0; i < counts.n; i++) listed += counts.at[i].count;
        }
    }
    check(store_iter_status(it) == STATUS_OK);
    store_iter_close(it);
    check(heads == listed);
    arena_fini(&arena);
}

/* ---- calls */
/* A world whose core is the server's. */
static void call_world_open(struct world *w, const struct call_limits *limits) {
    node.limits.requests_bytes_max = limits->memory_bytes_max;
    check(world_open_with(w, &world_h2_limits, limits, 0));
    w->core.node = &node;
    w->core.engine = server.engine;
    w->core.ready = true;
    w->core.now_ns = sim_world_now_ns(server.world);
    core_self = &w->core;
}

/* A request and its answer. keep_open: the client says no more, and leaves its half of the stream open. timeout: grpc-timeout, or NULL. cut: the power goes after so many turns, and what was under way is refused; 0: it does not. endless: a
 * stream that goes on until its client goes; NULL once it has been told something. */
static const struct answer *call_world_exchange(struct world *w, const char *path, struct slice body, bool keep_open, const char *timeout, unsigned cut, bool endless) {
    struct answer *a = world_request(w, path, body, keep_open, timeout ? "grpc-timeout" : NULL, timeout);
    world_pump(w);
    for (unsigned i = 0; i < CALL_WORLD_TURNS_MAX && !a->closed; i++) {
        if (cut && i + 1 == cut) engine_restart();
        turn(w);
        if (endless && w->away_count == 0 && a->body_len) return NULL;
    }
    check(a->closed);
    check(strcmp(a->http_status, "200") == 0);
    check(a->grpc_status[0]);
    while (w->away_count) turn(w); /* of calls that were answered by their deadline */
    check(w->core.calls_live == 0);
    check(calls_memory_bytes(w->core.calls) == calls_memory_idle_bytes(w->core.calls));
    return a;
}

#pragma GCC diagnostic pop
#endif
