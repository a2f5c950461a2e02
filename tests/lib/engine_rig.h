/* One engine on a simulated clock, disk and stores, for the tests of its door. */
#ifndef TESTS_LIB_ENGINE_RIG_H
#define TESTS_LIB_ENGINE_RIG_H

#include "tests/lib/test.h"

#include "engine/check.h"
#include "engine/partition.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"
#include "tests/lib/sim_env.h"

enum { OPS_MAX = 16, LINES_MAX = 60, PARTITIONS_MAX = 2 };

struct job {
    struct op op;
    struct arena arena;
    unsigned done;
};
struct engine_rig {
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine;
    struct store_mem_disk *store, *stores[PARTITIONS_MAX]; /* store: the first one */
    struct machines *machines;
    struct arena commands;
    unsigned requests;
    uint32_t partition_count;
    uint64_t memtable_bytes;
    uint64_t tail_bytes, retention_us; /* of the change stream; set before it is opened */
    uint32_t snapshot_orders;          /* told at once by a group; likewise */
    uint64_t filter_bytes;             /* idempotency keys known in memory; likewise */
};

static inline enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    return store_open_mem(out, ((struct engine_rig *)ctx)->stores[partition]);
}

static inline void rig_run(struct engine_rig *r, uint64_t ns) {
    for (uint64_t until = sim_world_now_ns(r->world) + ns; sim_world_now_ns(r->world) < until;) {
        engine_tick(r->engine);
        uint64_t now = sim_world_now_ns(r->world), deadline = engine_deadline_ns(r->engine);
        sim_world_run(r->world, deadline <= now ? 5000 : MIN_OF(deadline - now, 100000ull));
    }
}

/* The process on its disks, which are empty or what it left; it has not found its way yet. */
static inline void rig_begin(struct engine_rig *r) {
    static const uint32_t partitions[PARTITIONS_MAX] = {0, 1};
    char error[256] = "";
    r->env = sim_env_open(r->world, r->disk);
    struct engine_config config = {
        .node_id = 1,
        .partition_count = r->partition_count,
        .partitions = partitions,
        .owned_count = r->partition_count,
        .machines = r->machines,
        .log_live_bytes_max = 1 << 20,
        .log_segment_bytes = 64 << 10,
        .memtable_bytes = r->memtable_bytes,
        .queue_ops_max = 100,
        .queue_target_ns = 20 * NS_PER_MS,
        .queue_bytes_max = 4 << 20,
        .filter_bytes = r->filter_bytes,
        .filter_proved = true,
        .feed_tail_bytes = r->tail_bytes,
        .feed_retention_us = r->retention_us,
        .snapshot_orders_max = r->snapshot_orders,
        .store_open = open_store,
        .store_ctx = r,
        .election_ms = 1000,
        .heartbeat_ms = 100,
    };
    assert_int_equal(engine_open(&r->engine, r->env, &config, error), STATUS_OK);
}
static inline void rig_start(struct engine_rig *r) {
    rig_begin(r);
    while (!engine_ready(r->engine)) rig_run(r, NS_PER_MS);
}

/* Ends it: what was flushed stays in the stores, the log whole. */
static inline void rig_stop(struct engine_rig *r) {
    engine_close(r->engine);
    sim_world_settle(r->world);
    sim_env_close(r->env);
}

static inline void rig_open_with(struct engine_rig *r, uint32_t partition_count, uint64_t memtable_bytes) {
    *r = (struct engine_rig){.world = sim_world_new(1), .machines = machines_new(), .tail_bytes = r->tail_bytes, .retention_us = r->retention_us, .snapshot_orders = r->snapshot_orders,
                             .filter_bytes = r->filter_bytes, .partition_count = partition_count, .memtable_bytes = memtable_bytes};
    for (unsigned i = 0; i < PARTITIONS_MAX; i++) r->stores[i] = store_mem_disk_new();
    r->store = r->stores[0];
    arena_init(&r->commands, 16 << 20);
    r->disk = sim_disk_new(r->world);
    rig_start(r);
}

/* One partition; *r need not be initialised. */
static inline void rig_open(struct engine_rig *r) {
    r->tail_bytes = r->retention_us = r->snapshot_orders = r->filter_bytes = 0;
    rig_open_with(r, 1, 1 << 20);
}

static inline void rig_close(struct engine_rig *r) {
    rig_stop(r);
    sim_disk_free(r->disk);
    sim_world_free(r->world);
    for (unsigned i = 0; i < PARTITIONS_MAX; i++) store_mem_disk_free(r->stores[i]);
    machines_free(r->machines);
    arena_fini(&r->commands);
}

static inline void job_done(struct op *op) { container_of(op, struct job, op)->done++; }

static inline struct job *job_new(enum op_kind kind, size_t arena_bytes) {
    struct job *j = mem_new(struct job);
    arena_init(&j->arena, arena_bytes);
    j->op = (struct op){.kind = kind, .arena = &j->arena, .done = job_done};
    return j;
}

static inline void job_free(struct job *j) {
    arena_fini(&j->arena);
    mem_free(j);
}

static inline struct slice create_command(struct engine_rig *r, const char *user, unsigned lines) {
    char request_id[32], title[400];
    memset(title, 'x', sizeof title - 1), title[sizeof title - 1] = 0;
    snprintf(request_id, sizeof request_id, "request-%016u", ++r->requests);
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT, total = ORDERDB__V1__MONEY__INIT;
    Orderdb__V1__OrderItem item[LINES_MAX], *items[LINES_MAX];
    price.currency_code = total.currency_code = (char *)"CNY";
    price.minor_units = 10, total.minor_units = 10 * (int64_t)lines;
    for (unsigned i = 0; i < lines; i++) {
        orderdb__v1__order_item__init(items[i] = &item[i]);
        item[i].sku_id = (char *)"sku", item[i].title = title, item[i].quantity = 1, item[i].unit_price = &price;
    }
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    order.user_id = (char *)user, order.n_items = lines, order.items = items, order.items_total = &total, order.payable = &total;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    options.request_id = request_id;
    Orderdb__V1__CreateOrderRequest m = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    m.order = &order, m.options = &options;
    struct checked checked;
    struct failure f;
    failure_init(&f, &r->commands);
    assert_true(check_create(&m, (struct slice){0}, &r->commands, &checked, &f));
    return checked.command;
}

static inline struct job *create_send_of(struct engine_rig *r, const char *user, unsigned lines, size_t arena_bytes) {
    struct job *j = job_new(OP_WRITE, arena_bytes);
    j->op.slot = slot_of_user(slice_str(user));
    j->op.command = create_command(r, user, lines);
    engine_submit(r->engine, &j->op);
    return j;
}
static inline struct job *create_send(struct engine_rig *r, unsigned lines, size_t arena_bytes) { return create_send_of(r, "somebody", lines, arena_bytes); }

static inline int64_t create(struct engine_rig *r) {
    struct job *j = create_send(r, 1, 1 << 20);
    rig_run(r, 100 * NS_PER_MS);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    int64_t id = j->op.outcome.head.order_id;
    job_free(j);
    return id;
}

#endif
