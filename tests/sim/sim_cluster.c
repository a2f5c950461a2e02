/* Three engines as replicas of the same partitions, in one thread under a seed: log, votes, groups, apply and reads are real; clock, network, disks and stores are simulated.
 *
 * A seed draws a mix of faults: frames lost, doubled, delayed and so reordered; links cut one way; nodes killed or cut off from power, one or two at a time, and started again.
 * Clients create orders and pay them, each request tried at one node after another with one request_id until it is answered for good; an attempt that takes long is left behind
 * and may still be answered. Others read what was acknowledged. Checked while it runs
 *   - one leader a term;
 *   - replicas of a partition that have applied as much are equal, row by row;
 *   - a read shows at least what was acknowledged before it began; a request has one order, whoever answers.
 * Then health for all, until every request has its answer and all replicas have applied the same:
 *   - they are equal; each acknowledged order is on each of them with at least its acknowledged version; its history is gapless.
 * One seed is one bug report: sim_cluster --seed N [--trace]. Mutants, each to be caught: a leader, a follower that applies what is not committed. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/keys.h"
#include "engine/partition.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/sim_env.h"

enum { NODES = 3, PARTITIONS = 2, REQUESTS_MAX = 250, CLIENTS = 6, TERMS_MAX = 4096, STORY_LINES = 80 };
enum mutant { MUTANT_NONE, MUTANT_LEADER_EARLY, MUTANT_FOLLOWER_EARLY, MUTANTS };
static const char *const mutant_names[MUTANTS] = {"", "a leader applies and answers what is not committed", "a follower applies what is not committed"};
static enum mutant mutant;

struct node {
    struct sim *sim;
    uint64_t id;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine; /* NULL: down */
    struct store_mem_disk *stores[PARTITIONS];
    struct machines *machines;
    uint64_t up_at_ns;
};
struct request {
    uint64_t number;
    unsigned user;
    struct request *create; /* NULL: it is one; else the order that is paid */
    int64_t order_id, version; /* as acknowledged */
    bool acked, refused, busy;
    uint64_t give_up_ns;
};
/* One try of a request, or a read of a request's order. Its memory is the process's that it was given to. */
struct attempt {
    struct op op;
    struct arena arena;
    struct sim *sim;
    struct request *request;
    int64_t version; /* of a read: what was acknowledged when it began */
    bool read;
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
    unsigned memtable;
    unsigned loss, duplicates, slow, crashes_in, cuts_in, trailing, chunk;
    uint64_t given, taken, bytes; /* snapshots */
    uint64_t crashes, cuts, elections, reads, compared, not_leader;
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

uint64_t __real_group_applicable(const struct group *g);
uint64_t __wrap_group_applicable(const struct group *g);
uint64_t __wrap_group_applicable(const struct group *g) {
    bool leads = group_role(g) == GROUP_LEADER;
    if ((mutant == MUTANT_LEADER_EARLY && leads) || (mutant == MUTANT_FOLLOWER_EARLY && !leads)) return group_last_index(g);
    return __real_group_applicable(g);
}

static uint64_t chance(struct sim *s, uint64_t n) { return sim_world_below(s->world, n); }
static struct partition *replica(struct node *n, unsigned partition) { return n->engine->by_id[partition]; }

/* ---- the network */

static void deliver(void *ctx) {
    struct packet *k = ctx;
    struct sim *s = k->sim;
    struct node *to = &s->nodes[k->to - 1];
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

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    struct node *n = ctx;
    return store_open_mem(out, n->stores[partition]);
}

static void node_start(struct node *n) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    struct sim *s = n->sim;
    char error[256] = "";
    struct engine_config config = {
        .node_id = n->id, .members = &s->members, .send = send_frame, .send_ctx = n, .partition_count = PARTITIONS, .partitions = partitions, .owned_count = PARTITIONS,
        .machines = n->machines, .log_live_bytes_max = 16 * MIB, .log_segment_bytes = 256 * KIB, .memtable_bytes = s->memtable, .queue_ops_max = 100, .queue_bytes_max = 1 << 20,
        .store_open = open_store, .store_ctx = n, .election_ms = 300, .heartbeat_ms = 50, .trailing_entries = s->trailing, .snapshot_chunk_bytes = s->chunk, .snapshot_bytes_per_s = 256 * KIB,
    };
    n->env = sim_env_open(s->world, n->disk);
    enum status st = engine_open(&n->engine, n->env, &config, error);
    REQUIRE(st == STATUS_OK, "node %llu does not open: %s: %s", (unsigned long long)n->id, status_name(st), error);
    tell(s, "node %llu started", (unsigned long long)n->id);
}

static void node_count(struct sim *s, struct node *n) {
    struct engine_stats stats;
    engine_get_stats(n->engine, &stats);
    s->given += stats.snapshots_given, s->taken += stats.snapshots_taken, s->bytes += stats.snapshot_bytes;
}

static void node_crash(struct node *n) {
    struct sim *s = n->sim;
    bool power = chance(s, 2);
    s->crashes++;
    node_count(s, n);
    tell(s, "node %llu %s", (unsigned long long)n->id, power ? "lost power" : "was killed");
    if (power) sim_disk_crash(n->disk);
    else sim_disk_kill(n->disk);
    sim_env_abandon(n->env);
    n->engine = NULL; /* its memory goes with the process: each seed is one */
    n->up_at_ns = sim_world_now_ns(s->world) + (50 + chance(s, 1500)) * NS_PER_MS;
}

static void faults(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world);
    for (unsigned i = 0; i < NODES; i++)
        if (!s->nodes[i].engine && (s->healthy || now >= s->nodes[i].up_at_ns)) node_start(&s->nodes[i]);
    if (s->healthy) return;
    if (s->crashes_in && chance(s, s->crashes_in) == 0) {
        struct node *n = &s->nodes[chance(s, NODES)];
        if (n->engine) node_crash(n);
    }
    if (s->cuts_in && chance(s, s->cuts_in) == 0) {
        unsigned a = (unsigned)chance(s, NODES), b = (unsigned)chance(s, NODES), both = (unsigned)chance(s, 2);
        uint64_t until = now + (100 + chance(s, 1500)) * NS_PER_MS;
        s->cuts++;
        tell(s, "node %u is not heard by %u%s", a + 1, b + 1, both ? ", nor the other way" : "");
        s->cut_until_ns[a][b] = until;
        if (both) s->cut_until_ns[b][a] = until;
    }
}

/* ---- clients */

static void user_name(unsigned user, char name[32]) { snprintf(name, 32, "user-%u", user); }

static struct slice request_command(struct sim *s, const struct request *r, struct arena *arena) {
    char id[40], user[32];
    struct checked checked;
    struct failure f;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    snprintf(id, sizeof id, "request-%016llu", (unsigned long long)r->number);
    user_name(r->user, user);
    options.request_id = id;
    failure_init(&f, arena);
    if (r->create) {
        Orderdb__V1__TransitionOrderRequest m = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
        m.order_id = r->create->order_id, m.event = (char *)"pay", m.options = &options;
        REQUIRE(check_transition(&m, (struct slice){0}, arena, &checked, &f), "a transition");
        return checked.command;
    }
    Orderdb__V1__CreateOrderRequest m = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__OrderItem item = ORDERDB__V1__ORDER_ITEM__INIT, *items[] = {&item};
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT;
    price.currency_code = (char *)"CNY", price.minor_units = 199;
    item.sku_id = (char *)"sku-1", item.title = (char *)"umbrella", item.quantity = 1, item.unit_price = &price;
    order.user_id = user, order.n_items = 1, order.items = items, order.items_total = &price, order.payable = &price;
    m.order = &order, m.options = &options;
    REQUIRE(check_create(&m, (struct slice){0}, arena, &checked, &f), "%s", f.violations ? f.violations->description : "?");
    return checked.command;
}

static void read_ended(struct sim *s, struct attempt *a) {
    if (a->op.failure.status) return;
    s->reads++;
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, a->op.answer.len, a->op.answer.data);
    REQUIRE(m && m->version >= a->version, "order %lld was read at version %lld, acknowledged before: %lld", (long long)a->request->order_id, m ? (long long)m->version : -1, (long long)a->version);
    orderdb__v1__order__free_unpacked(m, NULL);
}

static void attempt_ended(struct sim *s, struct attempt *a) {
    struct request *r = a->request;
    enum status st = a->op.failure.status;
    tell(s, "request %llu: %s %s", (unsigned long long)r->number, status_name(st), st && a->op.failure.message ? a->op.failure.message : "");
    r->busy = false;
    s->not_leader += st == STATUS_NOT_LEADER;
    bool retried = st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED || st == STATUS_DEADLINE_EXCEEDED;
    REQUIRE(st == STATUS_OK || retried || (r->create && st == STATUS_STATUS_MISMATCH), "refused with %s: %s", status_name(st), a->op.failure.message);
    if (st == STATUS_OK) {
        REQUIRE(!r->refused, "request %llu was refused, and is done", (unsigned long long)r->number);
        REQUIRE(!r->acked || r->order_id == a->op.outcome.head.order_id, "request %llu has two orders", (unsigned long long)r->number);
        r->acked = true, r->order_id = a->op.outcome.head.order_id;
        struct request *order = r->create ? r->create : r;
        order->version = MAX_OF(order->version, a->op.outcome.head.version);
    } else if (!retried) {
        REQUIRE(!r->acked, "request %llu is done, and was refused", (unsigned long long)r->number);
        r->refused = true;
    }
}

static void attempt_done(struct op *op) {
    struct attempt *a = container_of(op, struct attempt, op);
    if (a->read) read_ended(a->sim, a);
    else attempt_ended(a->sim, a);
    arena_fini(&a->arena);
    mem_free(a);
}

static struct attempt *attempt_new(struct sim *s, struct request *r, enum op_kind kind) {
    char user[32];
    user_name(r->user, user);
    struct attempt *a = mem_new(struct attempt);
    a->sim = s, a->request = r, a->read = kind == OP_GET;
    arena_init(&a->arena, 1 << 20);
    a->op = (struct op){.kind = kind, .slot = slot_of_user(slice_str(user)), .arena = &a->arena, .done = attempt_done};
    return a;
}

static void client_run(struct sim *s, struct request **at) {
    struct request *r = *at;
    struct node *n = &s->nodes[chance(s, NODES)];
    if (!r || r->acked || r->refused) {
        *at = NULL;
        if (s->healthy || s->request_count == REQUESTS_MAX || chance(s, 20)) return;
        r = *at = &s->requests[s->request_count];
        *r = (struct request){.number = ++s->request_count, .user = (unsigned)chance(s, 12)};
        struct request *other = &s->requests[chance(s, s->request_count)];
        if (chance(s, 2) && other->acked && !other->create) r->create = other, r->user = other->user;
    }
    if ((r->busy && sim_world_now_ns(s->world) < r->give_up_ns) || !n->engine || chance(s, 4)) return;
    struct attempt *a = attempt_new(s, r, OP_WRITE);
    a->op.command = request_command(s, r, &a->arena);
    r->busy = true, r->give_up_ns = sim_world_now_ns(s->world) + (200 + chance(s, 1500)) * NS_PER_MS;
    engine_submit(n->engine, &a->op);
}

static void reader_run(struct sim *s) {
    struct request *r = s->request_count && chance(s, 10) == 0 ? &s->requests[chance(s, s->request_count)] : NULL;
    struct node *n = &s->nodes[chance(s, NODES)];
    if (!r || r->create || !r->acked || !n->engine) return;
    struct attempt *a = attempt_new(s, r, OP_GET);
    a->op.get.order_id = r->order_id, a->op.get.full = true;
    a->version = r->version;
    engine_submit(n->engine, &a->op);
}

/* ---- checks */

static void check_equal(struct sim *s, unsigned partition, struct node *x, struct node *y) {
    struct store_view vx = {.store = replica(x, partition)->store}, vy = {.store = replica(y, partition)->store};
    struct key all = {0};
    struct slice lower = slice_of(key_slice(&all).data, 0), upper = slice_str("\xff\xff\xff\xff\xff\xff\xff\xff");
    struct store_iter *ix = store_iter_open(&vx, lower, upper), *iy = store_iter_open(&vy, lower, upper);
    unsigned long long rows = 0;
    for (store_iter_first(ix), store_iter_first(iy); store_iter_valid(ix) && store_iter_valid(iy); store_iter_next(ix), store_iter_next(iy), rows++) {
        REQUIRE(slice_equal(store_iter_key(ix), store_iter_key(iy)), "partition %u, row %llu: nodes %llu and %llu have different keys", partition, rows, (unsigned long long)x->id, (unsigned long long)y->id);
        REQUIRE(slice_equal(store_iter_value(ix), store_iter_value(iy)), "partition %u, row %llu: nodes %llu and %llu differ", partition, rows, (unsigned long long)x->id, (unsigned long long)y->id);
    }
    REQUIRE(!store_iter_valid(ix) && !store_iter_valid(iy), "partition %u: nodes %llu and %llu differ in their number of rows", partition, (unsigned long long)x->id, (unsigned long long)y->id);
    REQUIRE(rows > 0, "partition %u has no rows", partition);
    store_iter_close(ix), store_iter_close(iy);
    s->compared++;
}

static void check_replicas(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++)
            for (unsigned k = 0; k < i; k++) {
                struct node *x = &s->nodes[i], *y = &s->nodes[k];
                if (x->engine && y->engine && replica(x, p)->record.applied_index == replica(y, p)->record.applied_index) check_equal(s, p, x, y);
            }
}

static void check_leaders(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned p = 0; s->nodes[i].engine && p < PARTITIONS; p++) {
            const struct group *g = replica(&s->nodes[i], p)->group;
            if (group_role(g) != GROUP_LEADER) continue;
            REQUIRE(group_term(g) < TERMS_MAX, "too many terms");
            uint64_t *leader = &s->leaders[p][group_term(g)];
            if (!*leader) *leader = s->nodes[i].id, s->elections++, tell(s, "node %u leads partition %u in term %llu", i + 1, p, (unsigned long long)group_term(g));
            REQUIRE(*leader == s->nodes[i].id, "partition %u: nodes %llu and %u lead term %llu", p, (unsigned long long)*leader, i + 1, (unsigned long long)group_term(g));
        }
}

static void check_order(struct sim *s, struct node *n, const struct request *r) {
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct store_view view = {.store = replica(n, partition_of_slot(order_id_slot(r->order_id), PARTITIONS))->store};
    struct query q = {.view = view, .machines = n->machines, .arena = &arena};
    struct history_request request = {.order_id = r->order_id, .page_size = 1000};
    struct failure f;
    struct slice answer;
    failure_init(&f, &arena);
    q.failure = &f;
    REQUIRE(query_history(&q, &request, &answer) == STATUS_OK, "acknowledged order %lld is not on node %llu", (long long)r->order_id, (unsigned long long)n->id);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, answer.len, answer.data);
    REQUIRE(m && (int64_t)m->n_entries >= r->version, "order %lld on node %llu: %zu versions, acknowledged %lld", (long long)r->order_id, (unsigned long long)n->id, m ? m->n_entries : 0, (long long)r->version);
    for (size_t i = 0; i < m->n_entries; i++) REQUIRE(m->entries[i]->version == (int64_t)i + 1, "order %lld: its history has a gap", (long long)r->order_id);
    orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
    arena_fini(&arena);
}

/* ---- a run */

static void run_once(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world), deadline = now + 2 * NS_PER_MS;
    for (unsigned i = 0; i < NODES; i++) {
        if (!s->nodes[i].engine) continue;
        engine_tick(s->nodes[i].engine);
        deadline = MIN_OF(deadline, engine_deadline_ns(s->nodes[i].engine));
    }
    check_leaders(s);
    sim_world_run(s->world, deadline <= now ? 1000 + chance(s, 20000) : MIN_OF(deadline - now, 1 + chance(s, 2 * NS_PER_MS)));
}

static void tell_replicas(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned p = 0; s->nodes[i].engine && p < PARTITIONS; p++) {
            const struct partition *x = replica(&s->nodes[i], p);
            tell(s, "node %u, partition %u: state %d, role %d, term %llu, leader %llu, applied %llu, applicable %llu, last %llu", i + 1, p, (int)x->state, (int)group_role(x->group),
                 (unsigned long long)group_term(x->group), (unsigned long long)group_leader(x->group), (unsigned long long)x->record.applied_index,
                 (unsigned long long)group_applicable(x->group), (unsigned long long)group_last_index(x->group));
        }
}

static bool all_settled(struct sim *s) {
    for (unsigned i = 0; i < s->request_count; i++)
        if (!s->requests[i].acked && !s->requests[i].refused) return false;
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++) {
            const struct partition *x = s->nodes[i].engine ? replica(&s->nodes[i], p) : NULL;
            if (!x || x->record.applied_index != replica(&s->nodes[0], p)->record.applied_index || x->record.applied_index != group_last_index(x->group)) return false;
        }
    return true;
}

static int run_seed(uint64_t seed, bool trace) {
    struct sim *s = mem_new(struct sim);
    s->seed = seed, s->trace = trace;
    s->world = sim_world_new(seed);
    s->members.count = NODES;
    s->loss = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->duplicates = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->slow = chance(s, 2) ? (unsigned)chance(s, 20) : 0;
    s->crashes_in = chance(s, 3) ? 500 + (unsigned)chance(s, 3000) : 0, s->cuts_in = chance(s, 3) ? 300 + (unsigned)chance(s, 2000) : 0;
    bool hard = chance(s, 3); /* the log is trimmed at once: replicas need snapshots */
    s->trailing = hard ? 1 + (unsigned)chance(s, 20) : 0, s->memtable = hard ? 6 * KIB : 128 * KIB, s->chunk = 512 + (unsigned)chance(s, 8192);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->nodes[i];
        *n = (struct node){.sim = s, .id = i + 1, .disk = sim_disk_new(s->world), .machines = machines_new()};
        for (unsigned p = 0; p < PARTITIONS; p++) n->stores[p] = store_mem_disk_new();
        s->members.member[i] = (struct group_member){.node_id = n->id, .kind = GROUP_VOTER};
    }
    uint64_t end_ns = sim_world_now_ns(s->world) + 8 * NS_PER_S, last_ns = end_ns + 40 * NS_PER_S;
    for (unsigned steps = 0; !s->healthy || !all_settled(s); steps++) {
        uint64_t now = sim_world_now_ns(s->world);
        if (now >= last_ns) tell_replicas(s);
        REQUIRE(now < last_ns, "healthy for 40 seconds, and not all is answered and applied");
        if (now >= end_ns && !s->healthy) {
            tell(s, "health for all");
            s->healthy = true;
            memset(s->cut_until_ns, 0, sizeof s->cut_until_ns);
        }
        faults(s);
        for (unsigned i = 0; i < CLIENTS; i++) client_run(s, &s->client[i]);
        if (!s->healthy) reader_run(s);
        run_once(s);
        if (steps % 200 == 0) check_replicas(s);
    }
    check_replicas(s);
    unsigned acked = 0;
    for (unsigned i = 0; i < s->request_count; i++) {
        const struct request *r = &s->requests[i];
        acked += r->acked;
        for (unsigned k = 0; !r->create && r->acked && k < NODES; k++) check_order(s, &s->nodes[k], r);
    }
    for (unsigned i = 0; i < NODES; i++) node_count(s, &s->nodes[i]);
    REQUIRE(acked > 0, "nothing was acknowledged");
    printf("# seed %llu: %u requests, %u acknowledged, %llu reads, %llu answers NOT_LEADER, %llu leaders, %llu crashes, %llu cuts, %llu comparisons, %llu snapshots given, %llu taken, %llu bytes\n", (unsigned long long)seed, s->request_count, acked,
           (unsigned long long)s->reads, (unsigned long long)s->not_leader, (unsigned long long)s->elections, (unsigned long long)s->crashes, (unsigned long long)s->cuts, (unsigned long long)s->compared,
           (unsigned long long)s->given, (unsigned long long)s->taken, (unsigned long long)s->bytes);
    fflush(stdout);
    return 0;
}

static bool seed_passes(uint64_t seed, enum mutant which, bool quiet) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (quiet && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))) _exit(9);
        alarm(60);
        mutant = which;
        _exit(run_seed(seed, false));
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, count = 40, ran = 0, failed = 0, missed = 0;
    bool trace = false, one = false;
    log_set_level(LOG_OFF);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10), one = true;
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--mutant") == 0 && i + 1 < argc) mutant = (enum mutant)(strtoul(argv[++i], NULL, 10) % MUTANTS);
        else if (strcmp(argv[i], "--trace") == 0) trace = true, log_set_level(LOG_INFO);
    }
    if (one) return run_seed(first, trace);
    time_t until = time(NULL) + (count > 40 ? 3600 : 20); /* on a slow machine fewer seeds, never an endless test */
    for (; ran < count && time(NULL) < until; ran++)
        if (!seed_passes(first + ran, MUTANT_NONE, false)) printf("not ok sim_cluster seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    if (!failed) printf("ok sim_cluster %llu seeds\n", (unsigned long long)ran);
    for (int m = 1; m < MUTANTS; m++) {
        uint64_t seed = first;
        while (seed < first + 30 && seed_passes(seed, (enum mutant)m, true)) seed++;
        bool caught = seed < first + 30;
        missed += !caught;
        printf("%s sim_cluster mutant, %s: %s by seed %llu\n", caught ? "ok" : "not ok", mutant_names[m], caught ? "caught" : "not caught", (unsigned long long)seed);
    }
    return failed || missed;
}
