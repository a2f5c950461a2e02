/* Three engines as replicas of the same partitions, in one thread under a seed: log, votes, groups, apply and reads are real; clock, network, disks and stores are simulated.
 *
 * A seed draws a mix of faults: frames lost, doubled, delayed and so reordered; links cut one way; nodes killed or cut off from power, also while they start, fetch a snapshot or
 * install it; nodes stopped for a while, or without any network; stores that are full for a while; clocks that leap; logs trimmed so hard that replicas need snapshots. Clients create orders, pay them and set timers, each request tried
 * at one node after another with one request_id until it is answered for good; an attempt that takes long is left behind and may still be answered. Others read what was acknowledged.
 * Members of consumer groups take events from whoever leads and settle them (cluster_groups.h; --plain: none of them, as in plans of before).
 * Checked while it runs
 *   - one leader a term;
 *   - replicas of a partition that have applied as much are equal, row by row;
 *   - a read shows at least what was acknowledged before it began, less the age that it allows, or its token's commit; a request has one order and one answer, whoever answers, and is done once;
 *   - of groups: what cluster_group_model.h says.
 * Then health for all, until every request has its answer, every timer is due, and all replicas have applied the same:
 *   - what clients saw of each order is linearizable (cluster_history.h), and the totals of lists are in between;
 *   - they are equal; each acknowledged order is on each of them with at least its acknowledged version; its history is gapless, and its times do not go back;
 *   - each timer that was set fired once, not before its time;
 *   - the stream is dense by slot, its events are the versions of the histories, in order, none left out; the indexes are what the orders ask for;
 *   - everything that a group wants was acked or is a letter; letters are redriven and acked; after a power cut nothing comes again.
 * One seed is one bug report: sim_cluster --seed N [--plain] [--trace]. Mutants, each to be caught. */
#include <setjmp.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/lib/cluster_groups.h"
#include "tests/lib/cluster_history.h"

enum mutant { MUTANT_NONE, MUTANT_LEADER_EARLY, MUTANT_FOLLOWER_EARLY, MUTANT_NO_RESTART, MUTANT_WIPED_VOTES, MUTANT_UNCONFIRMED, MUTANT_ANY_AGE, MUTANT_NOTHING_NOTED,
              MUTANT_GROUPS, MUTANT_TOLD_AHEAD = MUTANT_GROUPS, MUTANT_NOT_WRITTEN, MUTANT_UNORDERED, MUTANT_OUTLIVES, MUTANT_TAKES_ANY, MUTANT_ACK_DROPPED, MUTANTS };
static const char *const mutant_names[MUTANTS] = {"", "a leader applies and answers what is not committed", "a follower applies what is not committed", "the log is not told that it begins anew behind a snapshot", "a wiped disk votes when it returns",
                                                   "a leader answers reads without asking who follows it", "a follower answers whatever its age", "a round does not note what is committed",
                                                   "a position says that what is under way is settled", "positions are not written", "a group's keys have no order", "a dispatcher outlives its lead", "an ack is taken from anybody", "an ack that comes with a transition settles nothing"};
static enum mutant mutant;
static bool plain; /* plans without consumer groups, as seeds of before had */

uint64_t __real_group_applicable(const struct group *g);
uint64_t __wrap_group_applicable(const struct group *g);
uint64_t __wrap_group_applicable(const struct group *g) {
    bool leads = group_role(g) == GROUP_LEADER;
    if ((mutant == MUTANT_LEADER_EARLY && leads) || (mutant == MUTANT_FOLLOWER_EARLY && !leads)) return group_last_index(g);
    return __real_group_applicable(g);
}

bool __real_partition_read_waits(struct partition *p, struct op *op);
bool __wrap_partition_read_waits(struct partition *p, struct op *op);
bool __wrap_partition_read_waits(struct partition *p, struct op *op) {
    if (mutant == MUTANT_UNCONFIRMED && p->state == PARTITION_READY) return false;
    if (mutant == MUTANT_ANY_AGE && op->bound.stale && group_role(p->group) != GROUP_LEADER) return op->shown = true, false;
    return __real_partition_read_waits(p, op);
}

uint64_t __real_group_commit_index(const struct group *g);
uint64_t __wrap_group_commit_index(const struct group *g);
uint64_t __wrap_group_commit_index(const struct group *g) { return mutant == MUTANT_NOTHING_NOTED ? GROUP_FIRST_INDEX : __real_group_commit_index(g); }


enum status __real_wal_append(struct wal *w, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n);
enum status __wrap_wal_append(struct wal *w, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n);
enum status __wrap_wal_append(struct wal *w, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n) {
    if (mutant == MUTANT_NO_RESTART && type == ENTRY_RESTART) type = GROUP_BARRIER;
    return __real_wal_append(w, group, index, term, type, parts, n);
}

bool __real_partition_return_due(const struct partition *p, bool has_vote, uint64_t voted_for);
bool __wrap_partition_return_due(const struct partition *p, bool has_vote, uint64_t voted_for);
bool __wrap_partition_return_due(const struct partition *p, bool has_vote, uint64_t voted_for) {
    return mutant != MUTANT_WIPED_VOTES && __real_partition_return_due(p, has_vote, voted_for);
}

/* ---- a log that can't be written: the process says so, and stops */

static jmp_buf turn;
static bool in_turn;

_Noreturn void __wrap_panic_now(const char *format, ...) PRINTF_LIKE(1, 2);
_Noreturn void __wrap_panic_now(const char *format, ...) {
    struct sim *s = clocks_of;
    char words[400];
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    for (unsigned i = 0; i < NODES && in_turn; i++) {
        if (!io_has_failed(&s->nodes[i])) continue;
        tell(s, "node %u stops: %.100s", i + 1, words);
        s->nodes[i].stops = true;
        longjmp(turn, 1);
    }
    fprintf(stderr, "%s\n", words), abort();
}

static void crash_who_stopped(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        if (s->nodes[i].stops) s->io_stops++, node_crash(&s->nodes[i]);
}

static void engine_turn(struct sim *s, struct node *n) {
    in_turn = true;
    if (setjmp(turn) == 0) engine_tick(n->engine);
    else crash_who_stopped(s);
    in_turn = false;
}

static void world_turn(struct sim *s, uint64_t ns) {
    in_turn = true;
    if (setjmp(turn) == 0) sim_world_run(s->world, ns);
    else crash_who_stopped(s);
    in_turn = false;
}

/* ---- consumer groups */

enum status __real_consumer_init(struct consumer *c, const struct consumer_config *config, const struct consumer_group_row *row);
enum status __wrap_consumer_init(struct consumer *c, const struct consumer_config *config, const struct consumer_group_row *row);
enum status __wrap_consumer_init(struct consumer *c, const struct consumer_config *config, const struct consumer_group_row *row) {
    struct consumer_config small = *config;
    small.partition_count = gw.window_parts; /* a window that fills up */
    return __real_consumer_init(c, &small, row);
}

void __real_dispatcher_begin(struct dispatcher *d, enum dispatcher_job kind);
void __wrap_dispatcher_begin(struct dispatcher *d, enum dispatcher_job kind);
void __wrap_dispatcher_begin(struct dispatcher *d, enum dispatcher_job kind) {
    __real_dispatcher_begin(d, kind);
    if (kind == JOB_LOAD) dispatcher_reads(d);
}

void __real_dispatcher_loaded(struct dispatcher *d);
void __wrap_dispatcher_loaded(struct dispatcher *d);
void __wrap_dispatcher_loaded(struct dispatcher *d) {
    dispatcher_begins(d);
    __real_dispatcher_loaded(d);
}

enum status __real_consumer_position_now(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out);
enum status __wrap_consumer_position_now(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out);
enum status __wrap_consumer_position_now(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out) {
    enum status st = __real_consumer_position_now(c, slot, arena, out);
    if (mutant == MUTANT_TOLD_AHEAD) out->count = 0;
    return st;
}

void __real_dispatcher_writes(struct dispatcher *d);
void __wrap_dispatcher_writes(struct dispatcher *d);
void __wrap_dispatcher_writes(struct dispatcher *d) {
    if (mutant != MUTANT_NOT_WRITTEN) __real_dispatcher_writes(d);
}

struct consumer_key *__real_window_key(struct consumer *c, uint64_t hash);
struct consumer_key *__wrap_window_key(struct consumer *c, uint64_t hash);
struct consumer_key *__wrap_window_key(struct consumer *c, uint64_t hash) {
    static uint64_t other;
    return __real_window_key(c, mutant == MUTANT_UNORDERED ? ++other : hash);
}

void __real_partition_group_close(struct partition *p, enum status st, const char *why);
void __wrap_partition_group_close(struct partition *p, enum status st, const char *why);
void __wrap_partition_group_close(struct partition *p, enum status st, const char *why) {
    if (mutant != MUTANT_OUTLIVES) __real_partition_group_close(p, st, why);
}

bool __real_consumer_settle(struct consumer *c, struct consumer_member *m, const struct consumer_settle *settle, uint64_t now_ns);
bool __wrap_consumer_settle(struct consumer *c, struct consumer_member *m, const struct consumer_settle *settle, uint64_t now_ns);
bool __wrap_consumer_settle(struct consumer *c, struct consumer_member *m, const struct consumer_settle *settle, uint64_t now_ns) {
    if (mutant == MUTANT_TAKES_ANY && settle->kind == CONSUMER_ACK) return consumer_acked(c, settle->slot, settle->seq), true;
    return __real_consumer_settle(c, m, settle, now_ns);
}

struct applying;
enum status __real_apply_ack_settle(struct applying *x);
enum status __wrap_apply_ack_settle(struct applying *x);
enum status __wrap_apply_ack_settle(struct applying *x) { return mutant == MUTANT_ACK_DROPPED ? STATUS_OK : __real_apply_ack_settle(x); }

/* ---- clients */

static void user_name(unsigned user, char name[32]) { snprintf(name, 32, "user-%u", user); }

static struct slice timer_command(const struct request *r, Orderdb__V1__WriteOptions *options, struct arena *arena) {
    struct sim *s = clocks_of;
    struct checked checked;
    struct failure f;
    char id[40];
    Orderdb__V1__SetOrderTimerRequest m = ORDERDB__V1__SET_ORDER_TIMER_REQUEST__INIT;
    Orderdb__V1__Timer timer = ORDERDB__V1__TIMER__INIT;
    Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    timer_name(r, id);
    failure_init(&f, arena);
    at.seconds = r->fire_us / US_PER_S, at.nanos = (int32_t)(r->fire_us % US_PER_S) * 1000;
    timer.timer_id = id, timer.fire_time = &at;
    m.order_id = r->create->order_id, m.timer = &timer, m.options = options;
    REQUIRE(check_set_timer(&m, (struct slice){0}, arena, &checked, &f), "a timer: %s", f.violations ? f.violations->description : "?");
    return checked.command;
}

static struct slice request_command(struct sim *s, const struct request *r, struct arena *arena) {
    char id[40], user[32];
    struct checked checked;
    struct failure f;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    snprintf(id, sizeof id, "request-%016llu", (unsigned long long)r->number);
    user_name(r->user, user);
    options.request_id = id;
    failure_init(&f, arena);
    if (r->kind == SET_TIMER) return timer_command(r, &options, arena);
    if (r->kind == PAY) {
        Orderdb__V1__TransitionOrderRequest m = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
        Orderdb__V1__AckRef ack = ORDERDB__V1__ACK_REF__INIT;
        char event_id[40];
        m.order_id = r->create->order_id, m.event = (char *)"pay", m.options = &options;
        if (r->ack) snprintf(event_id, sizeof event_id, "%u:%lld", r->ack->slot, (long long)r->ack->seq), ack.group = (char *)"payments", ack.event_id = event_id, m.ack = &ack;
        REQUIRE(check_transition(&m, (struct slice){0}, arena, &checked, &f), "a transition: %s", f.violations ? f.violations->description : "?");
        if (r->ack) command_ack_set_group(checked.command, r->ack_session->group_id);
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

/* version 0: it was not found. */
static void order_seen(struct sim *s, const struct attempt *a, const struct request *r, int64_t version) {
    const struct read_bound *b = &a->op.bound;
    uint64_t now = sim_world_now_ns(s->world), age = b->stale ? b->stale_ns : b->token ? UINT64_MAX : 0;
    if (r == a->request) REQUIRE(version >= a->version, "order %lld was read at version %lld, acknowledged before: %lld", (long long)r->order_id, (long long)version, (long long)a->version);
    history_add(s, r, 2 * version + 1, a->begun_ns > age ? a->begun_ns - age : 0, now);
}

static int64_t version_of(struct sim *s, struct slice answer) {
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, answer.len, answer.data);
    REQUIRE(m, "an order that does not unpack");
    int64_t version = m->version;
    orderdb__v1__order__free_unpacked(m, NULL);
    return version;
}

/* One of the field `orders` of an answer. */
static int64_t version_of_field(struct sim *s, struct slice field) {
    Orderdb__V1__BatchGetOrdersResponse *m = field.data ? orderdb__v1__batch_get_orders_response__unpack(NULL, field.len, field.data) : NULL;
    REQUIRE(!field.data || (m && m->n_orders == 1), "an order that does not unpack");
    int64_t version = m ? m->orders[0]->version : 0;
    if (m) orderdb__v1__batch_get_orders_response__free_unpacked(m, NULL);
    return version;
}

static void list_seen(struct sim *s, const struct attempt *a) {
    const struct read_bound *b = &a->op.bound;
    uint64_t age = b->stale ? b->stale_ns : b->token ? UINT64_MAX : 0;
    Orderdb__V1__ListOrdersResponse *m = orderdb__v1__list_orders_response__unpack(NULL, a->op.answer.len, a->op.answer.data);
    REQUIRE(m && s->listed_count < LISTED_MAX, "a list that does not unpack");
    s->listed[s->listed_count++] = (struct listed){a->request->user, m->total_size, a->begun_ns > age ? a->begun_ns - age : 0, sim_world_now_ns(s->world)};
    orderdb__v1__list_orders_response__free_unpacked(m, NULL);
}

static void read_ended(struct sim *s, struct attempt *a) {
    enum status st = a->op.failure.status;
    a->node->reads_away--;
    bool found = st == STATUS_OK || st == STATUS_ORDER_NOT_FOUND, again = st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED || st == STATUS_DEADLINE_EXCEEDED;
    REQUIRE(found || again, "a read is refused with %s: %s", status_name(st), a->op.failure.message);
    if (!found) return;
    s->reads++, s->stale_reads += a->op.bound.stale, s->token_reads += a->op.bound.token;
    if (a->op.kind == OP_LIST) return list_seen(s, a);
    if (a->op.kind == OP_GET) return order_seen(s, a, a->request, st ? 0 : version_of(s, a->op.answer));
    for (unsigned i = 0; i < a->op.get_many.count; i++) order_seen(s, a, a->many[i], version_of_field(s, a->op.orders[i]));
}

/* What the answer says of it is what counts: a time that had passed is set to that of the entry. */
static void timer_acked(struct sim *s, struct request *r, const struct outcome *o) {
    struct order_timers timers;
    char id[40];
    timer_name(r, id);
    REQUIRE(timers_decode(o->entry.timers, &timers) == STATUS_OK, "the answer's timers");
    struct order_timer *t = timers_find(&timers, slice_str(id));
    REQUIRE(t && t->fire_us >= r->fire_us, "the timer is not as it was set");
    r->fire_us = t->fire_us;
}

static void attempt_ended(struct sim *s, struct attempt *a) {
    struct request *r = a->request;
    enum status st = a->op.failure.status;
    tell(s, "request %llu: %s %s", (unsigned long long)r->number, status_name(st), st && a->op.failure.message ? a->op.failure.message : "");
    r->busy = false;
    s->not_leader += st == STATUS_NOT_LEADER;
    bool retried = st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED || st == STATUS_DEADLINE_EXCEEDED || st == STATUS_DISK_FULL;
    REQUIRE(st == STATUS_OK || retried || (r->create && st == STATUS_STATUS_MISMATCH) || (r->ack && st == STATUS_ACK_NOT_IN_FLIGHT), "refused with %s: %s", status_name(st), a->op.failure.message);
    if (st == STATUS_OK) {
        bool replayed = a->op.outcome.replayed;
        REQUIRE(replayed || !r->fresh, "request %llu was done twice", (unsigned long long)r->number);
        REQUIRE(replayed || !r->acked || a->begun_ns <= r->answered_ns, "request %llu was done after it had been answered", (unsigned long long)r->number);
        REQUIRE(!r->acked || r->own_version == a->op.outcome.head.version, "request %llu has two answers", (unsigned long long)r->number);
        if (r->ack) ack_taken(s, a->node, r);
        if (!r->acked) r->answered_ns = sim_world_now_ns(s->world);
        r->fresh |= !replayed, r->own_version = a->op.outcome.head.version;
        REQUIRE(!r->refused, "request %llu was refused, and is done", (unsigned long long)r->number);
        REQUIRE(!r->acked || r->order_id == a->op.outcome.head.order_id, "request %llu has two orders", (unsigned long long)r->number);
        r->acked = true, r->order_id = a->op.outcome.head.order_id;
        struct request *order = r->create ? r->create : r;
        order->version = MAX_OF(order->version, a->op.outcome.head.version);
        if (a->op.outcome.seq > order->token_seq) order->token_seq = a->op.outcome.seq, order->token_version = a->op.outcome.head.version;
        if (r->kind == SET_TIMER) timer_acked(s, r, &a->op.outcome);
    } else if (!retried) {
        REQUIRE(!r->acked, "request %llu is done, and was refused", (unsigned long long)r->number);
        if (r->ack && !r->refused) ack_refused(s, a->node, r, st, a->ack_given_ns);
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
    a->sim = s, a->request = r, a->read = kind != OP_WRITE, a->begun_ns = sim_world_now_ns(s->world);
    arena_init(&a->arena, 1 << 20);
    a->op = (struct op){.kind = kind, .slot = slot_of_user(slice_str(user)), .arena = &a->arena, .done = attempt_done};
    return a;
}

static void client_run(struct sim *s, struct request **at) {
    struct request *r = *at;
    struct node *n = &s->nodes[chance(s, NODES)];
    if (!r || r->acked || r->refused) {
        *at = NULL;
        if (s->healthy || s->request_count == REQUESTS_MAX || chance(s, 50)) return;
        r = *at = &s->requests[s->request_count];
        *r = (struct request){.number = ++s->request_count, .user = (unsigned)chance(s, 12)};
        struct request *other = &s->requests[chance(s, s->request_count)];
        if (chance(s, 3) && other->acked && !other->create) r->create = other, r->user = other->user, r->kind = chance(s, 2) ? PAY : SET_TIMER;
        if (r->kind == SET_TIMER) r->fire_us = 1735689600000000ll + (int64_t)(sim_world_now_ns(s->world) / 1000) + (int64_t)chance(s, 4 * US_PER_S);
    }
    if (r->ack && chance(s, 4)) n = &s->nodes[r->ack_session->node];
    if ((r->busy && sim_world_now_ns(s->world) < r->give_up_ns) || !node_runs(n) || chance(s, 4)) return;
    struct attempt *a = attempt_new(s, r, OP_WRITE);
    a->op.command = request_command(s, r, &a->arena);
    if (!r->asked_ns) r->asked_ns = a->begun_ns;
    a->node = n, a->ack_given_ns = r->ack ? ack_held_ns(s, r, (unsigned)n->id - 1) : 0;
    r->busy = true, r->give_up_ns = sim_world_now_ns(s->world) + (200 + chance(s, 1500)) * NS_PER_MS;
    engine_submit(n->engine, &a->op);
}

static struct read_bound some_bound(struct sim *s, const struct request *r) {
    static const uint64_t ages_ms[] = {0, 20, 300, 2000};
    struct read_bound b = {0};
    char user[32];
    unsigned which = (unsigned)chance(s, mutant == MUTANT_UNCONFIRMED ? 2 : 4); /* 0, 1: of the present */
    user_name(r->user, user);
    if (which == 2 || (mutant != MUTANT_UNCONFIRMED && chance(s, 8) == 0)) b.stale = true, b.stale_ns = ages_ms[chance(s, ARRAY_LEN(ages_ms))] * NS_PER_MS;
    if (which == 3) b.token = true, b.slot = slot_of_user(slice_str(user)), b.seq = r->token_seq;
    return b;
}

/* Others of the same user, and so of the same partition. */
static void many_fill(struct sim *s, struct attempt *a) {
    unsigned n = 0;
    a->many[n++] = a->request;
    for (unsigned i = 0; i < s->request_count && n < MANY_MAX; i++)
        if (&s->requests[i] != a->request && !s->requests[i].create && s->requests[i].acked && s->requests[i].user == a->request->user) a->many[n++] = &s->requests[i];
    for (unsigned i = 0; i < n; i++) a->ids[i] = a->many[i]->order_id;
    a->op.get_many.order_ids = a->ids, a->op.get_many.count = n;
}

static void read_at(struct sim *s, struct node *n, struct request *r) {
    static const enum op_kind kinds[] = {OP_GET, OP_GET, OP_GET_MANY, OP_LIST};
    if (r->create) r = r->create;
    if (!r->acked || s->seen_count + MANY_MAX + 2 * REQUESTS_MAX > SEEN_MAX || s->listed_count + 100 > LISTED_MAX) return;
    struct attempt *a = attempt_new(s, r, kinds[chance(s, ARRAY_LEN(kinds))]);
    static char users[12][32];
    a->op.bound = some_bound(s, r);
    if (a->op.kind == OP_GET) a->op.get.order_id = r->order_id, a->op.get.full = true;
    if (a->op.kind == OP_GET_MANY) many_fill(s, a);
    if (a->op.kind == OP_LIST) user_name(r->user, users[r->user]), a->op.list = (struct list_request){.user_id = slice_str(users[r->user]), .page_size = 1};
    a->version = a->op.bound.token ? r->token_version : a->op.bound.stale ? 0 : r->version;
    if (chance(s, 4) == 0) a->op.deadline_ns = a->begun_ns + (5 + chance(s, 500)) * NS_PER_MS;
    a->node = n, n->reads_away++;
    engine_submit(n->engine, &a->op);
}

/* One of the newest more often: whatever is behind lacks those. */
static void reader_run(struct sim *s) {
    struct node *n = &s->nodes[chance(s, NODES)];
    for (unsigned i = 0; i < NODES; i++)
        if (s->nodes[i].woke) n = &s->nodes[i];
    unsigned reads = n->woke ? 6 : chance(s, 4) == 0; /* a node that goes on finds calls in its sockets, and reads those before it hears of others */
    n->woke = false;
    if (!node_runs(n) || !s->request_count) return;
    while (reads--) {
        uint64_t newest = MIN_OF(s->request_count, 12u);
        read_at(s, n, &s->requests[chance(s, 2) ? chance(s, s->request_count) : s->request_count - 1 - chance(s, newest)]);
    }
}

/* ---- a run */

/* However long its tables can't be written. Two more segments: a batch was under way, and what is staged with one look at the figures. */
static void check_logs(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++) {
        struct wal_stats stats = {0};
        if (s->nodes[i].engine) wal_get_stats(s->nodes[i].engine->wal, &stats);
        REQUIRE(stats.live_bytes <= stats.live_bytes_max + 128 * KIB, "node %u: its log holds %llu bytes, %llu it may", i + 1, (unsigned long long)stats.live_bytes, (unsigned long long)stats.live_bytes_max);
        s->fullest = MAX_OF(s->fullest, stats.live_bytes_max ? stats.live_bytes * 100 / stats.live_bytes_max : 0);
    }
}

static void run_once(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world), deadline = now + 2 * NS_PER_MS;
    groups_note_leads(s);
    for (unsigned i = 0; i < NODES; i++) {
        if (!node_runs(&s->nodes[i])) continue;
        engine_turn(s, &s->nodes[i]);
        if (s->nodes[i].engine) deadline = MIN_OF(deadline, engine_deadline_ns(s->nodes[i].engine));
    }
    groups_note_leads(s);
    check_leaders(s);
    check_logs(s);
    world_turn(s, deadline <= now ? 1000 + chance(s, 20000) : MIN_OF(deadline - now, 1 + chance(s, 2 * NS_PER_MS)));
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

/* The last timer is due, and has fired. */
static bool timers_settled(struct sim *s) {
    int64_t last_us = 0;
    for (unsigned i = 0; i < s->request_count; i++) last_us = MAX_OF(last_us, s->requests[i].fire_us);
    if (last_us + 7 * US_PER_S > 1735689600000000ll + (int64_t)(sim_world_now_ns(s->world) / 1000)) return false; /* clocks are off by 3 s at most, and the leader's may be behind the log's time by 10 */
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++) {
            const struct partition *x = s->nodes[i].engine ? replica(&s->nodes[i], p) : NULL;
            if (!x || (group_role(x->group) == GROUP_LEADER && (x->state != PARTITION_READY || partition_timers_lag_us(x) > 0))) return false;
        }
    return true;
}

static bool all_settled(struct sim *s) {
    if (!timers_settled(s)) return false;
    for (unsigned i = 0; i < s->request_count; i++)
        if (!s->requests[i].acked && !s->requests[i].refused) return false;
    if (gw.count && gw.stage != GROUPS_DONE) return groups_end(s), false;
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned i = 0; i < NODES; i++) {
            const struct partition *x = s->nodes[i].engine ? replica(&s->nodes[i], p) : NULL;
            if (!x || x->record.applied_index != replica(&s->nodes[0], p)->record.applied_index || x->record.applied_index != group_last_index(x->group)) return false;
        }
    return true;
}

/* For a second: timers may be looked for and not be found yet, and a store that failed be opened again. */
static bool stays_settled(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world);
    if (!s->healthy || !all_settled(s)) return s->settled_ns = 0, false;
    if (!s->settled_ns) s->settled_ns = now;
    return now >= s->settled_ns + NS_PER_S;
}

static int run_seed(uint64_t seed, bool trace) {
    struct sim *s = mem_new(struct sim);
    s->seed = seed, s->trace = trace;
    s->world = sim_world_new(seed);
    s->members.count = NODES;
    s->loss = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->duplicates = chance(s, 2) ? (unsigned)chance(s, 20) : 0, s->slow = chance(s, 2) ? (unsigned)chance(s, 20) : 0;
    s->fulls_in = chance(s, 4) ? 0 : 500 + (unsigned)chance(s, 2000), s->leaps_in = chance(s, 3) ? 0 : 300 + (unsigned)chance(s, 1500);
    s->wipes_in = chance(s, 3) ? 0 : 300 + (unsigned)chance(s, 2000);
    s->crash_at_in = chance(s, 3) ? 0 : 1 + (unsigned)chance(s, 3), s->crash_fetching_in = chance(s, 2) ? 0 : 100 + (unsigned)chance(s, 1000);
    if (mutant == MUTANT_NO_RESTART) s->crash_fetching_in = 100;
    if (mutant == MUTANT_WIPED_VOTES) s->wipes_in = 500;
    s->crashes_in = chance(s, 3) ? 500 + (unsigned)chance(s, 3000) : 0, s->cuts_in = chance(s, 3) ? 300 + (unsigned)chance(s, 2000) : 0;
    s->pauses_in = chance(s, 3) ? 800 + (unsigned)chance(s, 4000) : 0, s->isolates_in = chance(s, 3) ? 500 + (unsigned)chance(s, 3000) : 0;
    if (mutant == MUTANT_UNCONFIRMED || mutant == MUTANT_ANY_AGE) s->pauses_in = 600, s->isolates_in = 0, s->crashes_in = s->fulls_in = 0;
    s->flips_in = chance(s, 3) ? 0 : 1 + (unsigned)chance(s, 4);
    s->transfers_in = seed % 3 == 1 ? 400 + (unsigned)(seed % 7) * 200 : 0; /* not drawn: other seeds stay what they were */
    bool hard = chance(s, 3) || mutant == MUTANT_NO_RESTART; /* the log is trimmed at once: replicas need snapshots */
    s->trailing = hard ? 1 + (unsigned)chance(s, 20) : 0, s->live_bytes_max = chance(s, 3) ? 16 * MIB : 192 * KIB, s->memtable = hard ? 6 * KIB : 128 * KIB, s->chunk = 512 + (unsigned)chance(s, 8192);
    if (!plain) groups_draw(s, mutant >= MUTANT_GROUPS), s->io_fails_in = chance(s, 3) ? 400 + (unsigned)chance(s, 3000) : 0;
    for (unsigned i = 0; i < NODES; i++) {
        const struct node *n = &s->nodes[i];
        node_init(s, i);
        s->members.member[i] = (struct group_member){.node_id = n->id, .kind = GROUP_VOTER};
    }
    uint64_t end_ns = sim_world_now_ns(s->world) + 8 * NS_PER_S, last_ns = end_ns + (plain ? 40 : 70) * NS_PER_S;
    for (unsigned steps = 0; !stays_settled(s); steps++) {
        uint64_t now = sim_world_now_ns(s->world);
        if (now >= last_ns) tell_groups(s), tell_replicas(s);
        REQUIRE(now < last_ns, "healthy for 40 seconds, or with groups for 70, and not all is answered and applied");
        if (now >= end_ns && !s->healthy) health_for_all(s);
        faults(s);
        for (unsigned i = 0; i < CLIENTS; i++) client_run(s, &s->client[i]);
        if (!s->healthy) reader_run(s);
        groups_run(s);
        run_once(s);
        if (steps % 200 == 0) check_replicas(s), check_groups(s);
    }
    check_replicas(s), check_groups(s);
    unsigned acked = 0;
    for (unsigned i = 0; i < s->request_count; i++) {
        const struct request *r = &s->requests[i];
        acked += r->acked;
        for (unsigned k = 0; !r->create && r->acked && k < NODES; k++) check_order(s, &s->nodes[k], r);
    }
    for (unsigned i = 0; i < NODES; i++) node_count(s, &s->nodes[i]);
    check_histories(s);
    for (unsigned i = 0; i < NODES; i++) REQUIRE(s->nodes[i].reads_away == 0, "node %u has %u reads that were never answered", i + 1, s->nodes[i].reads_away);
    for (unsigned p = 0; p < PARTITIONS; p++) check_stream(s, &s->nodes[p % NODES], p), check_index(s, &s->nodes[(p + 1) % NODES], p);
    REQUIRE(acked > 0, "nothing was acknowledged");
    printf("# seed %llu: %u requests, %u acknowledged, %llu reads, %llu answers NOT_LEADER, %llu leaders, %llu crashes, %llu cuts, %llu comparisons, %llu snapshots given, %llu taken (%llu at a start, %llu crashes in between), %llu bytes; %llu nodes left, %llu full disks, %llu leaps, log %llu %%, %llu disks lost, %llu of them back; %llu timers fired, %llu events; %llu pauses, %llu isolated, %llu reads bounded by age, %llu by token, %llu answered by followers; %llu bits flipped, %llu of them refused; %.1f s\n", (unsigned long long)seed, s->request_count, acked,
           (unsigned long long)s->reads, (unsigned long long)s->not_leader, (unsigned long long)s->elections, (unsigned long long)s->crashes, (unsigned long long)s->cuts, (unsigned long long)s->compared,
           (unsigned long long)s->given, (unsigned long long)s->taken, (unsigned long long)s->recovered, (unsigned long long)s->crashed_fetching, (unsigned long long)s->bytes,
           (unsigned long long)s->transfers, (unsigned long long)s->fulls, (unsigned long long)s->leaps, (unsigned long long)s->fullest, (unsigned long long)s->wipes, (unsigned long long)s->returns, (unsigned long long)s->timers_fired, (unsigned long long)s->events,
           (unsigned long long)s->pauses, (unsigned long long)s->isolations, (unsigned long long)s->stale_reads, (unsigned long long)s->token_reads, (unsigned long long)s->followed, (unsigned long long)s->flips, (unsigned long long)s->refusals, (double)sim_world_now_ns(s->world) / 1e9);
    if (gw.count)
        printf("#    %u groups, %llu members attached, %u dispatchers, %llu events given, %llu again, %llu acks, %llu nacks, %llu stale, %llu letters redriven, %llu orders told; %llu acks with writes, %llu refused, %llu redefined, %llu pauses, %llu keys unblocked, %llu seeks, %llu given that may be letters of before one, %llu deleted; %llu nodes stopped by a write that failed\n", gw.count, (unsigned long long)gw.sessions, gw.dispatcher_count,
               (unsigned long long)gw.given, (unsigned long long)gw.again, (unsigned long long)gw.acked, (unsigned long long)gw.nacked, (unsigned long long)gw.stale, (unsigned long long)gw.letters, (unsigned long long)gw.told,
               (unsigned long long)gw.refs, (unsigned long long)gw.refs_refused, (unsigned long long)gw.redefined, (unsigned long long)gw.pauses, (unsigned long long)gw.unblocked, (unsigned long long)gw.seeks, (unsigned long long)gw.haunted, (unsigned long long)gw.deletions,
               (unsigned long long)s->io_stops);
    fflush(stdout);
    return 0;
}

/* What found something once (docs/CLUSTER.md). */
static const uint64_t kept[] = {5, 1498, 2674, 2003, 2147, 2469};

static bool seed_passes(uint64_t seed, enum mutant which, bool without_groups) {
    bool quiet = which != MUTANT_NONE;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (quiet && (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))) _exit(9);
        alarm(60);
        mutant = which, plain |= without_groups;
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
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--mutant") == 0 && i + 1 < argc) mutant = (enum mutant)(strtoul(argv[++i], NULL, 10) % MUTANTS);
        else if (strcmp(argv[i], "--plain") == 0) plain = true;
        else if (strcmp(argv[i], "--trace") == 0) trace = true, log_set_level(LOG_INFO);
    }
    if (one) return run_seed(first, trace);
    time_t until = time(NULL) + (count > 40 ? 3600 : 20); /* on a slow machine fewer seeds, never an endless test */
    for (size_t i = 0; i < ARRAY_LEN(kept) && first == 1; i++)
        if (!seed_passes(kept[i], MUTANT_NONE, true)) printf("not ok sim_cluster --plain seed=%llu\n", (unsigned long long)kept[i]), failed++;
    for (; ran < count && time(NULL) < until; ran++)
        if (!seed_passes(first + ran, MUTANT_NONE, false)) printf("not ok sim_cluster seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    if (!failed) printf("ok sim_cluster %llu seeds\n", (unsigned long long)ran);
    for (int m = 1; m < MUTANTS && first == 1; m++) {
        uint64_t seed = first;
        while (seed < first + 30 && seed_passes(seed, (enum mutant)m, m < MUTANT_GROUPS)) seed++;
        bool caught = seed < first + 30;
        missed += !caught;
        printf("%s sim_cluster mutant, %s: %s by seed %llu\n", caught ? "ok" : "not ok", mutant_names[m], caught ? "caught" : "not caught", (unsigned long long)seed);
    }
    return failed || missed;
}
