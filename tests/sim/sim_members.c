/* Replicas whose members change, in one thread under a seed: five engines, of which three are the members of all partitions at first; log, votes, groups, apply and snapshots are real.
 *
 * A seed draws the faults of sim_cluster.c but lost disks, and from time to time another set of nodes that are wanted, one node more or less, of which each engine hears a while later, or after
 * the next change. In every second seed the five are the members of all partitions at first, and wanted are sets of three by placement.h, of which each partition has its own: nodes are lost, and come
 * back. What is no longer wanted is emptied (partition_away.c), and may be wanted again at any time. Clients create orders, each request tried at one node after another with one request_id until it is answered. Checked while it runs
 *   - one leader a term; replicas that have applied as much are equal, row by row;
 *   - members differ by one voter at most from one entry that sets them to the next, and a leader is one of its voters.
 * Then health for all, until each partition's members are those that are wanted, all voters, and have applied the same:
 *   - each acknowledged order is on each of them, its history gapless; the stream is dense, the indexes are right;
 *   - the other nodes have nothing of it.
 * A mutant that drops the rule that the last members are stored first is tried by sim_group.c. sim_members --seed N [--trace], --first N --count M. */
#define CLUSTER_NODES 5
#include "engine/placement.h"
#include "tests/lib/cluster_check.h"
#include "tests/lib/node_rows.h"

enum { BEGIN_MEMBERS = 3, WANTED_LEAST = 2, REPLICAS = 3 };

struct wanted_sets {
    struct engine_wanted of[PARTITIONS];
};
struct wanting {
    struct wanted_sets now, told[NODES];
    bool placed;       /* by placement.h; else all partitions have one set */
    bool lost[NODES];
    uint64_t tell_at_ns[NODES], next_ns;
    struct group_members seen[PARTITIONS]; /* the newest that were applied anywhere */
    uint64_t changes, steps;
};
static struct wanting wanting;

/* ---- who is wanted */

static bool is_wanted(unsigned partition, uint64_t id) {
    const struct engine_wanted *w = &wanting.now.of[partition];
    for (uint32_t i = 0; i < w->count; i++)
        if (w->node_id[i] == id) return true;
    return false;
}

static void place(void) {
    static const char *const zones[NODES] = {"a", "a", "b", "b", "c"};
    uint8_t bytes[NODES * (8 + 3 + NODE_ROW_BYTES_MAX)];
    struct node_row rows[NODES];
    struct placement map[PARTITIONS + 1];
    for (unsigned i = 0; i < NODES; i++) rows[i] = (struct node_row){.node_id = i + 1, .state = wanting.lost[i] ? NODE_STATE_LOST : NODE_STATE_UP, .revision = 1, .zone = slice_str(zones[i])};
    placement_make(node_rows_list(bytes, sizeof bytes, rows, NODES), REPLICAS, (struct slice){0}, PARTITIONS, map);
    for (unsigned p = 0; p < PARTITIONS; p++) wanting.now.of[p] = map[p].members;
}

/* false: it stays as it is. */
static bool lose(uint64_t id) {
    unsigned there = 0;
    for (unsigned i = 0; i < NODES; i++) there += !wanting.lost[i];
    if (!wanting.lost[id - 1] && there == REPLICAS) return false;
    wanting.lost[id - 1] = !wanting.lost[id - 1];
    place();
    return true;
}

static bool toggle_one(uint64_t id) {
    struct engine_wanted *w = &wanting.now.of[0], to = {0};
    bool was = is_wanted(0, id);
    if (was && w->count == WANTED_LEAST) return false;
    for (uint32_t i = 0; i < w->count; i++)
        if (w->node_id[i] != id) to.node_id[to.count++] = w->node_id[i];
    if (!was) to.node_id[to.count++] = id;
    for (unsigned p = 0; p < PARTITIONS; p++) wanting.now.of[p] = to;
    return true;
}

static void toggle(struct sim *s, uint64_t id) {
    bool was = wanting.placed ? !wanting.lost[id - 1] : is_wanted(0, id);
    if (wanting.placed ? !lose(id) : !toggle_one(id)) return;
    wanting.changes++;
    tell(s, "node %llu is %s wanted", (unsigned long long)id, was ? "no longer" : "now");
    for (unsigned i = 0; i < NODES; i++) wanting.tell_at_ns[i] = sim_world_now_ns(s->world) + chance(s, 800) * NS_PER_MS;
    struct node *n = &s->nodes[id - 1];
    if (was && n->engine && chance(s, 3) == 0) { /* it is removed because it is dead */
        node_crash(n);
        n->up_at_ns += 5 * NS_PER_S;
    }
}

static void want(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world);
    if (!s->healthy && now >= wanting.next_ns) {
        wanting.next_ns = now + (300 + chance(s, 2000)) * NS_PER_MS;
        toggle(s, 1 + chance(s, NODES));
    }
    for (unsigned i = 0; i < NODES; i++) {
        if (s->healthy || now >= wanting.tell_at_ns[i]) wanting.told[i] = wanting.now;
        for (uint32_t p = 0; s->nodes[i].engine && p < PARTITIONS; p++) engine_want(s->nodes[i].engine, p, &wanting.told[i].of[p]);
    }
}

/* ---- what must hold of members */

static unsigned voters_apart(const struct group_members *a, const struct group_members *b) {
    unsigned n = 0;
    for (uint32_t i = 0; i < a->count; i++) {
        bool both = a->member[i].kind != GROUP_VOTER;
        for (uint32_t k = 0; k < b->count; k++) both |= b->member[k].node_id == a->member[i].node_id && b->member[k].kind == GROUP_VOTER;
        n += !both;
    }
    return n;
}

static void check_members(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++) {
            if (!s->nodes[i].engine) continue;
            const struct group_members *m = &replica(&s->nodes[i], p)->record.members;
            struct group_members *seen = &wanting.seen[p];
            if (m->index <= seen->index) continue;
            if (seen->index) wanting.steps++;
            *seen = *m;
            tell(s, "partition %u has %u members since entry %llu", p, m->count, (unsigned long long)m->index);
        }
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++) {
            const struct partition *x = s->nodes[i].engine ? replica(&s->nodes[i], p) : NULL;
            if (!x || x->state != PARTITION_READY) continue; /* its members are those that were applied: all of earlier terms, from here on */
            const struct group_members *m = group_members(x->group);
            bool votes = false;
            for (uint32_t k = 0; k < m->count; k++) votes |= m->member[k].node_id == s->nodes[i].id && m->member[k].kind == GROUP_VOTER;
            REQUIRE(votes, "node %u leads partition %u without a vote", i + 1, p);
        }
}

/* Each that was applied, against the one before it in the same engine's log. */
void __real_group_members_applied(struct group *g, uint64_t now_ms, uint64_t index);
void __wrap_group_members_applied(struct group *g, uint64_t now_ms, uint64_t index);
void __wrap_group_members_applied(struct group *g, uint64_t now_ms, uint64_t index) {
    struct sim *s = clocks_of;
    struct group_members before = *group_members(g);
    __real_group_members_applied(g, now_ms, index);
    const struct group_members *after = group_members(g);
    if (after->index <= before.index || before.index == GROUP_FIRST_INDEX) return; /* a node that joined late counts from those of the beginning */
    unsigned apart = MAX_OF(voters_apart(&before, after), voters_apart(after, &before));
    REQUIRE(apart <= 1, "members at %llu differ by %u voters from those before", (unsigned long long)index, apart);
}

/* ---- clients */

static void attempt_done(struct op *op) {
    struct attempt *a = container_of(op, struct attempt, op);
    struct request *r = a->request;
    struct sim *s = a->sim;
    enum status st = op->failure.status;
    bool retried = st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED || st == STATUS_DEADLINE_EXCEEDED || st == STATUS_DISK_FULL;
    r->busy = false;
    s->not_leader += st == STATUS_NOT_LEADER;
    REQUIRE(st == STATUS_OK || retried, "refused with %s: %s", status_name(st), op->failure.message);
    if (st == STATUS_OK) {
        REQUIRE(!r->acked || r->order_id == op->outcome.head.order_id, "request %llu has two orders", (unsigned long long)r->number);
        r->acked = true, r->order_id = op->outcome.head.order_id, r->version = 1;
    }
    arena_fini(&a->arena);
    mem_free(a);
}

static struct slice create_command(const struct request *r, const char *user, struct arena *arena) {
    struct sim *s = clocks_of;
    struct checked checked;
    struct failure f;
    char id[40];
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest m = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__OrderItem item = ORDERDB__V1__ORDER_ITEM__INIT, *items[] = {&item};
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT;
    snprintf(id, sizeof id, "request-%016llu", (unsigned long long)r->number);
    options.request_id = id;
    failure_init(&f, arena);
    price.currency_code = (char *)"CNY", price.minor_units = 199;
    item.sku_id = (char *)"sku-1", item.title = (char *)"umbrella", item.quantity = 1, item.unit_price = &price;
    order.user_id = (char *)(uintptr_t)user, order.n_items = 1, order.items = items, order.items_total = &price, order.payable = &price;
    m.order = &order, m.options = &options;
    REQUIRE(check_create(&m, (struct slice){0}, arena, &checked, &f), "%s", f.violations ? f.violations->description : "?");
    return checked.command;
}

static void client_run(struct sim *s, struct request **at) {
    struct request *r = *at;
    struct node *n = &s->nodes[chance(s, NODES)];
    if (!r || r->acked) {
        *at = NULL;
        if (s->healthy || s->request_count == REQUESTS_MAX || chance(s, 50)) return;
        r = *at = &s->requests[s->request_count];
        *r = (struct request){.number = ++s->request_count, .user = (unsigned)chance(s, 12)};
    }
    if ((r->busy && sim_world_now_ns(s->world) < r->give_up_ns) || !n->engine || chance(s, 4)) return;
    char user[32];
    snprintf(user, sizeof user, "user-%u", r->user);
    struct attempt *a = mem_new(struct attempt);
    a->sim = s, a->request = r;
    arena_init(&a->arena, 1 << 20);
    a->op = (struct op){.kind = OP_WRITE, .slot = slot_of_user(slice_str(user)), .arena = &a->arena, .done = attempt_done};
    a->op.command = create_command(r, user, &a->arena);
    r->busy = true, r->give_up_ns = sim_world_now_ns(s->world) + (200 + chance(s, 1500)) * NS_PER_MS;
    engine_submit(n->engine, &a->op);
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
    check_members(s);
    sim_world_run(s->world, deadline <= now ? 1000 + chance(s, 20000) : MIN_OF(deadline - now, 1 + chance(s, 2 * NS_PER_MS)));
}

static bool members_are_wanted(unsigned partition, const struct group_members *m) {
    if (m->count != wanting.now.of[partition].count) return false;
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].kind != GROUP_VOTER || !is_wanted(partition, m->member[i].node_id)) return false;
    return true;
}

static bool has_something(const struct partition *p) { return p->record.applied_index > GROUP_FIRST_INDEX || group_last_index(p->group) > GROUP_FIRST_INDEX || p->record.order_count; }

static bool all_settled(struct sim *s) {
    for (unsigned i = 0; i < s->request_count; i++)
        if (!s->requests[i].acked) return false;
    for (unsigned p = 0; p < PARTITIONS; p++) {
        const struct partition *first = NULL;
        for (unsigned i = 0; i < NODES; i++) {
            if (!is_wanted(p, i + 1) && s->nodes[i].engine && has_something(replica(&s->nodes[i], p))) return false;
            if (s->nodes[i].aside[p]) return false; /* what was emptied is swept too */
            if (!is_wanted(p, i + 1)) continue;
            const struct partition *x = s->nodes[i].engine ? replica(&s->nodes[i], p) : NULL;
            if (!first) first = x;
            if (!x || !members_are_wanted(p, &x->record.members) || x->record.applied_index != first->record.applied_index || x->record.applied_index != group_last_index(x->group)) return false;
        }
    }
    return true;
}

static void tell_replicas(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned p = 0; s->nodes[i].engine && p < PARTITIONS; p++) {
            const struct partition *x = replica(&s->nodes[i], p);
            char members[128] = "";
            for (uint32_t k = 0, n = 0; k < x->record.members.count; k++)
                n += (uint32_t)snprintf(members + n, sizeof members - n, " %llu/%u", (unsigned long long)x->record.members.member[k].node_id, x->record.members.member[k].kind);
            tell(s, "node %u%s, partition %u: state %d, role %d, term %llu, leader %llu, applied %llu, applicable %llu, last %llu, members%s", i + 1, is_wanted(p, i + 1) ? "" : " (not wanted)", p, (int)x->state,
                 (int)group_role(x->group), (unsigned long long)group_term(x->group), (unsigned long long)group_leader(x->group), (unsigned long long)x->record.applied_index,
                 (unsigned long long)group_applicable(x->group), (unsigned long long)group_last_index(x->group), members);
        }
}

static void draw(struct sim *s) {
    s->loss = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->duplicates = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->slow = chance(s, 2) ? (unsigned)chance(s, 20) : 0;
    s->fulls_in = chance(s, 4) ? 0 : 500 + (unsigned)chance(s, 2000), s->leaps_in = chance(s, 3) ? 0 : 300 + (unsigned)chance(s, 1500);
    s->crash_at_in = chance(s, 3) ? 0 : 1 + (unsigned)chance(s, 3), s->crash_fetching_in = chance(s, 2) ? 0 : 100 + (unsigned)chance(s, 1000);
    s->crashes_in = chance(s, 3) ? 500 + (unsigned)chance(s, 3000) : 0, s->cuts_in = chance(s, 3) ? 300 + (unsigned)chance(s, 2000) : 0;
    s->transfers_in = chance(s, 3) ? 0 : 400 + (unsigned)chance(s, 1500);
    bool hard = chance(s, 2); /* the log is trimmed at once: who joins needs a snapshot */
    s->trailing = hard ? 1 + (unsigned)chance(s, 20) : 0, s->live_bytes_max = 16 * MIB, s->memtable = hard ? 6 * KIB : 128 * KIB, s->chunk = 512 + (unsigned)chance(s, 8192);
}

static int run_seed(uint64_t seed, bool trace) {
    struct sim *s = mem_new(struct sim);
    s->seed = seed, s->trace = trace;
    s->world = sim_world_new(seed);
    draw(s);
    wanting.placed = chance(s, 2);
    s->members.count = wanting.placed ? NODES : BEGIN_MEMBERS;
    if (wanting.placed) place();
    for (unsigned i = 0; i < NODES; i++) {
        const struct node *n = &s->nodes[i];
        node_init(s, i);
        if (i < s->members.count) s->members.member[i] = (struct group_member){.node_id = n->id, .kind = GROUP_VOTER};
        for (unsigned p = 0; p < PARTITIONS && i < BEGIN_MEMBERS && !wanting.placed; p++) wanting.now.of[p].node_id[wanting.now.of[p].count++] = n->id;
    }
    wanting.next_ns = sim_world_now_ns(s->world) + 2 * NS_PER_S;
    uint64_t end_ns = sim_world_now_ns(s->world) + 15 * NS_PER_S, last_ns = end_ns + 60 * NS_PER_S;
    for (unsigned steps = 0; !s->healthy || !all_settled(s); steps++) {
        uint64_t now = sim_world_now_ns(s->world);
        if (now >= last_ns) tell_replicas(s);
        REQUIRE(now < last_ns, "healthy for 60 seconds, and not all is answered and as it is wanted");
        if (now >= end_ns && !s->healthy) health_for_all(s);
        faults(s);
        want(s);
        for (unsigned i = 0; i < CLIENTS; i++) client_run(s, &s->client[i]);
        run_once(s);
        if (steps % 400 == 0) check_replicas(s);
    }
    check_replicas(s);
    unsigned acked = 0;
    for (unsigned i = 0; i < s->request_count; i++) {
        acked += s->requests[i].acked;
        unsigned partition = partition_of_slot(order_id_slot(s->requests[i].order_id), PARTITIONS);
        for (unsigned k = 0; k < NODES; k++)
            if (is_wanted(partition, k + 1)) check_order(s, &s->nodes[k], &s->requests[i]);
    }
    for (unsigned i = 0; i < NODES; i++) node_count(s, &s->nodes[i]);
    for (unsigned p = 0; p < PARTITIONS; p++) {
        struct node *first = &s->nodes[wanting.now.of[p].node_id[0] - 1];
        check_stream(s, first, p), check_index(s, first, p);
    }
    REQUIRE(acked > 0, "nothing was acknowledged");
    printf("# seed %llu: %u acknowledged, %llu sets%s wanted, %llu steps, %llu leaders, %llu crashes, %llu cuts, %llu comparisons, %llu snapshots taken, %llu nodes left\n", (unsigned long long)seed, acked,
           (unsigned long long)wanting.changes, wanting.placed ? " of places" : "", (unsigned long long)wanting.steps, (unsigned long long)s->elections, (unsigned long long)s->crashes, (unsigned long long)s->cuts, (unsigned long long)s->compared,
           (unsigned long long)s->taken, (unsigned long long)s->transfers);
    fflush(stdout);
    return 0;
}

static bool seed_passes(uint64_t seed) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        _exit(run_seed(seed, false));
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, count = 30, ran = 0, failed = 0;
    bool trace = false, one = false;
    log_set_level(LOG_OFF);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10), one = true;
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--trace") == 0) trace = true, log_set_level(LOG_INFO);
    }
    if (one) return run_seed(first, trace);
    static const uint64_t found[] = {203}; /* docs/CLUSTER.md */
    for (size_t i = 0; first == 1 && i < sizeof found / sizeof found[0]; i++)
        if (!seed_passes(found[i])) printf("not ok sim_members seed=%llu\n", (unsigned long long)found[i]), failed++;
    time_t until = time(NULL) + (count > 30 ? 3600 : 20); /* on a slow machine fewer seeds, never an endless test */
    for (; ran < count && time(NULL) < until; ran++)
        if (!seed_passes(first + ran)) printf("not ok sim_members seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    if (!failed) printf("ok sim_members %llu seeds\n", (unsigned long long)ran);
    return failed != 0;
}
