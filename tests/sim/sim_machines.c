/* Status machines applied while the power goes: the meta partition decides, partitions are told one by one, crashes come in between.
 *
 * A run applies versions of a few machines, brings them to two partitions at its own pace (as server/resources.c does), creates orders of them, and crashes the engine at any moment; each start has a registry of its own, as a process has. Shown:
 *   - what was answered stays: a version has the id and the definition that it had, in whatever process;
 *   - no partition knows a machine that the meta partition lacks, and after the reconciliation all know the same;
 *   - an order is created of the newest version that its partition knows, and reads back with that version and its status after any crash.
 *
 *   sim_machines [--seed N] [--count N] */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/engine.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/definition.h"
#include "tests/lib/sim_env.h"
#include "tests/lib/test.h"

enum { PARTITIONS = 2, META = PARTITIONS, NAMES = 3, VERSIONS_MAX = 60, ORDERS_MAX = 400, ROUNDS = 6, STEPS_MAX = 400000 };

struct known_machine {
    char reference[32];
    uint16_t id; /* as it was answered */
    char text[64];
};
struct known_order {
    int64_t id;
    char machine[32], status[32];
};
struct sim {
    struct test_random random;
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine;
    struct store_mem_disk *stores[PARTITIONS + 1];
    struct machines *machines;
    struct op op;
    struct arena arena;
    bool live, down;
    struct known_machine known[VERSIONS_MAX];
    struct known_order orders[ORDERS_MAX];
    unsigned known_count, order_count, requests, crashes, told;
};

static uint64_t seed_now;
#define REQUIRE(x, ...) \
    do { \
        if (!(x)) printf("# %s:%d: ", __FILE__, __LINE__), printf(__VA_ARGS__), printf("\nnot ok sim_machines: repeat with --seed %llu\n", (unsigned long long)seed_now), fflush(stdout), _exit(1); \
    } while (0)

static uint64_t below(struct sim *s, uint64_t n) { return test_random_below(&s->random, n); }

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    return store_open_mem(out, ((struct sim *)ctx)->stores[MIN_OF(partition, (uint32_t)META)]);
}

static void run_once(struct sim *s) {
    engine_tick(s->engine);
    uint64_t now = sim_world_now_ns(s->world), deadline = engine_deadline_ns(s->engine);
    if (deadline <= now) sim_world_run(s->world, 1000 + below(s, 20000));
    else if (below(s, 4) == 0 || !sim_world_step(s->world)) sim_world_run(s->world, MIN_OF(deadline - now, 1 + below(s, 3000000)));
}

static void start(struct sim *s) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    char error[256] = "";
    s->machines = machines_new(); /* the dead process's is gone */
    struct engine_config config = {
        .node_id = 1, .partition_count = PARTITIONS, .partitions = partitions, .owned_count = PARTITIONS, .meta = true, .machines = s->machines,
        .log_live_bytes_max = 1 << 20, .log_segment_bytes = 64 << 10, .memtable_bytes = 64 << 10, .row_cache_bytes = PARTITIONS * 16 << 10, .queue_ops_max = 100, .queue_bytes_max = 1 << 20,
        .store_open = open_store, .store_ctx = s, .election_ms = 1000, .heartbeat_ms = 100,
    };
    s->env = sim_env_open(s->world, s->disk);
    enum status st = engine_open(&s->engine, s->env, &config, error);
    REQUIRE(st == STATUS_OK, "open: %s: %s", status_name(st), error);
    s->down = s->live = false;
    for (unsigned i = 0; !engine_ready(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never ready");
        run_once(s);
    }
}

static void crash(struct sim *s) {
    if (below(s, 2)) sim_disk_crash(s->disk);
    else sim_disk_kill(s->disk);
    sim_env_abandon(s->env);
    if (s->live) arena_init(&s->arena, 0); /* its memory is the dead process's */
    s->engine = NULL;
    s->down = true;
    s->crashes++;
}

static void op_done(struct op *op) { container_of(op, struct sim, op)->live = false; }

/* Sends the op and waits; false: the power went first. */
static bool ask(struct sim *s, struct op op, bool may_crash) {
    uint64_t crash_at = may_crash && below(s, 12) == 0 ? below(s, 30) : UINT64_MAX;
    op.arena = &s->arena, op.done = op_done;
    s->op = op;
    s->live = true;
    engine_submit(s->engine, &s->op);
    for (uint64_t i = 0; s->live; i++) {
        REQUIRE(i < STEPS_MAX, "an op without an end");
        if (i == crash_at) return crash(s), false;
        run_once(s);
    }
    return true;
}

static void op_begin(struct sim *s) {
    arena_fini(&s->arena);
    arena_init(&s->arena, 4 << 20);
}

static uint16_t slot_of(unsigned partition) { return partition == META ? SLOT_META : partition_first_slot(partition, PARTITIONS); }

static uint16_t known_of(struct sim *s, unsigned partition) {
    op_begin(s);
    REQUIRE(ask(s, (struct op){.kind = OP_STATS, .slot = slot_of(partition)}, false), "stats");
    return s->op.stats.machines_known;
}

/* A next version: mostly another definition. */
static void apply_machine(struct sim *s) {
    static struct definition d;
    char text[64];
    unsigned n = (unsigned)below(s, NAMES);
    if (s->known_count == VERSIONS_MAX) return;
    unsigned target = (unsigned)below(s, 40);
    snprintf(text, sizeof text, "m%u@0 A! S%u. T%u. go:A>S%u end:A>T%u", n, target, n, target, n);
    op_begin(s);
    struct command c = {.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_MACHINE, .bytes = define(&d, text)}};
    c.resource.name = arena_copy(&s->arena, slice_str(d.m.name));
    if (!ask(s, (struct op){.kind = OP_WRITE, .slot = SLOT_META, .command = command_encode(&c, &s->arena)}, true)) return;
    REQUIRE(s->op.failure.status == STATUS_OK, "apply: %s", s->op.failure.message);
    const struct resource_outcome *o = &s->op.outcome.resource;
    struct known_machine k = {.id = o->machine};
    snprintf(k.reference, sizeof k.reference, "m%u@%d", n, o->version);
    snprintf(k.text, sizeof k.text, "%s", text);
    for (unsigned i = 0; i < s->known_count; i++)
        if (strcmp(s->known[i].reference, k.reference) == 0) return; /* unchanged, or answered before */
    s->known[s->known_count++] = k;
}

/* The next machine that this partition lacks. */
static bool bring_one(struct sim *s, unsigned partition, bool may_crash) {
    uint16_t target = known_of(s, META), known = known_of(s, partition);
    REQUIRE(known <= target, "partition %u knows %u machines, the meta partition %u", partition, known, target);
    if (known == target) return false;
    op_begin(s);
    struct command c = {.type = COMMAND_MACHINE, .machine.row = machine_row_of(machines_by_id(s->machines, (uint16_t)(known + 1)), &s->arena)};
    s->told++;
    return ask(s, (struct op){.kind = OP_WRITE, .slot = slot_of(partition), .command = command_encode(&c, &s->arena)}, may_crash);
}

static void create(struct sim *s) {
    char user[32], machine[8];
    if (s->order_count == ORDERS_MAX) return;
    snprintf(user, sizeof user, "user-%u", (unsigned)below(s, 50));
    snprintf(machine, sizeof machine, "m%u", (unsigned)below(s, NAMES));
    uint16_t slot = slot_of_user(slice_str(user)), known = known_of(s, partition_of_slot(slot, PARTITIONS));
    const struct machine *newest = machines_find_known(s->machines, known, slice_str(machine));
    op_begin(s);
    struct command c = {.type = COMMAND_CREATE, .create = {.user_id = slice_str(user), .machine = slice_str(machine)}};
    c.origin = (struct command_origin){.request_id = slice_str(arena_printf(&s->arena, "request-%016u", ++s->requests)), .ttl_us = CHECK_TTL_US_MAX};
    if (!ask(s, (struct op){.kind = OP_WRITE, .slot = slot, .command = command_encode(&c, &s->arena)}, true)) return;
    REQUIRE(s->op.failure.status == (newest ? STATUS_OK : STATUS_MACHINE_NOT_FOUND), "create: %s", status_name(s->op.failure.status));
    if (!newest) return;
    struct known_order *o = &s->orders[s->order_count];
    const struct order_head *h = &s->op.outcome.head;
    REQUIRE(h->machine == machine_id(newest), "an order of machine %u, not of the newest that is known, %u", h->machine, machine_id(newest));
    *o = (struct known_order){.id = h->order_id, .status = "A"};
    snprintf(o->machine, sizeof o->machine, "%.*s", (int)machine_reference(newest).len, (const char *)machine_reference(newest).data);
    s->order_count++;
}

static void verify(struct sim *s) {
    for (unsigned i = 0; i < s->known_count; i++) {
        const struct known_machine *k = &s->known[i];
        const struct machine *m = machines_find(s->machines, slice_str(k->reference));
        REQUIRE(m && machine_id(m) == k->id, "%s was answered with id %u and is %u", k->reference, k->id, m ? machine_id(m) : 0);
        char target[16];
        snprintf(target, sizeof target, "%.*s", (int)strcspn(strstr(k->text, " S") + 1, "."), strstr(k->text, " S") + 1);
        REQUIRE(machine_has_state(m, machines_status_id(s->machines, slice_str(target))), "%s lacks %s", k->reference, target);
    }
    for (unsigned i = 0; i < s->order_count; i++) {
        const struct known_order *o = &s->orders[i];
        op_begin(s);
        s->op = (struct op){0};
        struct op get = {.kind = OP_GET, .slot = order_id_slot(o->id)};
        get.get.order_id = o->id;
        REQUIRE(ask(s, get, false) && !s->op.failure.status, "order %lld: %s", (long long)o->id, status_name(s->op.failure.status));
        Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, s->op.answer.len, s->op.answer.data);
        REQUIRE(m && strcmp(m->machine, o->machine) == 0 && strcmp(m->status, o->status) == 0, "order %lld is %s %s, was %s %s", (long long)o->id, m->machine, m->status, o->machine, o->status);
        orderdb__v1__order__free_unpacked(m, NULL);
    }
}

static int run_seed(uint64_t seed) {
    struct sim *s = mem_new(struct sim);
    seed_now = seed;
    s->random.state = seed * 0x9e3779b97f4a7c15ull + 1;
    s->world = sim_world_new(seed);
    s->disk = sim_disk_new(s->world);
    for (unsigned i = 0; i <= PARTITIONS; i++) s->stores[i] = store_mem_disk_new();
    for (unsigned round = 0; round < ROUNDS; round++) {
        start(s);
        verify(s);
        for (unsigned i = 0; i < 60 && !s->down; i++) {
            if (below(s, 6) == 0) apply_machine(s);
            else if (below(s, 3) == 0) (void)bring_one(s, (unsigned)below(s, PARTITIONS), true);
            else create(s);
        }
        if (!s->down) crash(s);
    }
    start(s);
    for (unsigned p = 0; p < PARTITIONS; p++)
        while (bring_one(s, p, false)) REQUIRE(s->op.failure.status == STATUS_OK, "bring: %s", s->op.failure.message);
    for (unsigned p = 0; p < PARTITIONS; p++) REQUIRE(known_of(s, p) == machines_count(s->machines), "partition %u knows fewer", p);
    verify(s);
    printf("# seed %llu: %u machines, %u told, %u orders, %u crashes\n", (unsigned long long)seed, machines_count(s->machines), s->told, s->order_count, s->crashes);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, count = 150, ran = 0, failed = 0;
    log_set_level(LOG_OFF);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) return run_seed(strtoull(argv[++i], NULL, 10));
        if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
    }
    for (time_t until = time(NULL) + 20; ran < count && time(NULL) < until; ran++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            if (ran % 50 && !freopen("/dev/null", "w", stdout)) _exit(9);
            alarm(30);
            _exit(run_seed(first + ran));
        }
        int status;
        waitpid(pid, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status)) printf("not ok sim_machines seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    }
    if (!failed) printf("ok sim_machines %llu seeds\n", (unsigned long long)ran);
    return failed != 0;
}
