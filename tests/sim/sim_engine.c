/* The whole engine of one core under a seed: log, votes, groups, partitions, apply and queries are real; clock, disk and stores are simulated.
 *
 * A seed draws the sizes (segments of 64 KiB, a log of a few of them, queues of a few ops), the users, and the faults: crashes at any event (unsynced sectors
 * survive, vanish or tear), crashes while recovering, full disks, drains under load. Creates, transitions and imports into the past (with ties) are written, some
 * with a deadline that may pass in the queue; meanwhile orders are read, some from "disk" by reader threads, and a user's list is walked by token. The ledger knows every answer: OK, REFUSED (no effect) or UNKNOWN (in flight at a crash). After each restart
 *   - every UNKNOWN request is sent again with its request_id and must come to exactly one order or transition;
 *   - every acknowledged order is there, with at least its acknowledged version, under its id, once in its user's list;
 *   - counts equal lists; histories are gapless, end in the order's status, and hold nothing of a request that was refused;
 *   - a walk saw every order that existed throughout exactly once; a read saw all that was acknowledged before it began.
 * One seed is one bug report: sim_engine --seed N [--trace].  --mutant: a disk that says "synced" and has not; must be caught. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/engine.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/sim_env.h"

enum { USERS_MAX = 40, ORDERS_MAX = 3000, IN_FLIGHT_MAX = 64, PARTITIONS = 2, ROUNDS = 5, STEPS_MAX = 1000000, READS_MAX = 8, REQUESTS_MAX = 100000, LINES_MAX = 30 };

enum answer_kind { ANSWER_NONE, ANSWER_OK, ANSWER_REFUSED, ANSWER_UNKNOWN };

struct known_order {
    int64_t order_id, version; /* acknowledged */
    unsigned user;
    uint64_t number; /* imported with this client_order_no; 0: no */
};
struct request {
    struct op op;
    struct arena arena;
    struct sim *sim;
    enum answer_kind answer;
    unsigned user, order; /* order: index into sim.orders */
    char request_id[40];
    uint64_t number;      /* in request_id */
    const char *event;    /* NULL: a create or an import */
    uint64_t import;      /* client_order_no; 0: no import */
    unsigned lines, steps, second; /* what the order looks like */
    bool live, hurried;
};
/* A read while writes go on. */
struct background {
    struct op op;
    struct arena arena;
    struct sim *sim;
    unsigned order;
    int64_t version; /* acknowledged when it began */
    bool live;
};
/* GetRequestOutcome of a request that may be under way; or a dry run of a create that is never sent. */
struct probe {
    struct op op;
    struct arena arena;
    struct sim *sim;
    uint64_t number;
    bool live;
};
enum verdict { VERDICT_NONE, VERDICT_APPLIED, VERDICT_NOT_APPLIED };
/* A user's list, page by page. */
struct walk {
    struct op op;
    struct arena arena, kept; /* kept: the token */
    struct sim *sim;
    char name[32];
    unsigned user, existed; /* orders [0, existed) were there when it began */
    int64_t seen[ORDERS_MAX];
    unsigned seen_count;
    struct slice token;
    bool running, live;
};
struct sim {
    uint64_t seed;
    bool trace;
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine;
    struct store_mem_disk *stores[PARTITIONS];
    struct machines *machines;
    struct known_order orders[ORDERS_MAX];
    unsigned order_count, user_count, users_orders[USERS_MAX];
    struct request requests[IN_FLIGHT_MAX];
    struct background reads[READS_MAX];
    struct walk walk;
    struct probe fence, dry_run;
    uint8_t verdicts[REQUESTS_MAX], acknowledged_requests[REQUESTS_MAX];
    uint64_t fences, fenced, dry_runs, patched;
    uint8_t refused_requests[REQUESTS_MAX];
    bool draining;
    uint64_t imports, expired, reads_done, walks, drains, log_full, offloaded, next_import;
    uint64_t next_request, acknowledged, replayed, refused, unknown, crashes, disk_fulls, segment_bytes, live_bytes;
};

#define REQUIRE(x, ...)                                                                                                                            \
    do {                                                                                                                                           \
        if (!(x)) {                                                                                                                                \
            printf("# seed=%llu line %d: %s: ", (unsigned long long)s->seed, __LINE__, #x), printf(__VA_ARGS__), printf("\n"), fflush(stdout);     \
            _exit(1);                                                                                                                              \
        }                                                                                                                                          \
    } while (0)

static uint64_t chance(struct sim *s, uint64_t n) { return sim_world_below(s->world, n); }

static uint16_t user_slot(unsigned user, char name[32]) {
    snprintf(name, 32, "user-%u", user);
    return slot_of_user(slice_str(name));
}

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    struct sim *s = ctx;
    return store_open_mem(out, s->stores[partition]);
}

/* ---- requests */

/* Which transitions bring a patch: the extension becomes their request id. */
static bool patches(uint64_t number) { return number % 3 == 0; }

/* The answer is of the version that this request made, also when it is replayed and others have patched since. */
static void check_patched(struct sim *s, const struct request *r) {
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, r->op.answer.len, r->op.answer.data);
    REQUIRE(m, "the order does not unpack");
    REQUIRE(m->extension.len == strlen(r->request_id) && memcmp(m->extension.data, r->request_id, m->extension.len) == 0, "%s: answered without its patch", r->request_id);
    s->patched++;
    orderdb__v1__order__free_unpacked(m, NULL);
}

static void acknowledged(struct sim *s, struct request *r) {
    const struct outcome *o = &r->op.outcome;
    s->acknowledged++;
    s->replayed += o->replayed;
    s->refused_requests[r->number] = false;
    s->acknowledged_requests[r->number] = true;
    REQUIRE(s->verdicts[r->number] != VERDICT_NOT_APPLIED, "%s: NOT_APPLIED, and then it was", r->request_id);
    r->answer = ANSWER_OK;
    REQUIRE(r->import || r->op.answer.len > 0, "an answer without an order");
    if (r->event) {
        s->orders[r->order].version = MAX_OF(s->orders[r->order].version, o->head.version);
        if (patches(r->number)) check_patched(s, r);
        return;
    }
    REQUIRE(s->order_count < ORDERS_MAX, "too many orders");
    for (unsigned i = 0; i < s->order_count; i++) {
        if (r->import && s->orders[i].number == r->import) {
            REQUIRE(o->already_there && s->orders[i].order_id == o->head.order_id, "import %llu came to two orders", (unsigned long long)r->import);
            return;
        }
        REQUIRE(s->orders[i].order_id != o->head.order_id, "order id %lld given twice", (long long)o->head.order_id);
    }
    s->imports += r->import != 0;
    s->orders[s->order_count++] = (struct known_order){.order_id = o->head.order_id, .version = o->head.version, .user = r->user, .number = r->import};
    s->users_orders[r->user]++;
}

static void request_done(struct op *op) {
    struct request *r = container_of(op, struct request, op);
    struct sim *s = r->sim;
    enum status st = op->failure.status;
    r->live = false;
    if (s->trace) printf("%llu %s %s -> %s\n", (unsigned long long)sim_world_now_ns(s->world), r->request_id, r->event ? r->event : "create", status_name(st));
    if (st == STATUS_OK) {
        acknowledged(s, r);
        return;
    }
    s->refused++;
    s->refused_requests[r->number] = true;
    s->expired += st == STATUS_DEADLINE_EXCEEDED;
    s->log_full += st == STATUS_OVERLOADED && op->failure.message && strncmp(op->failure.message, "the log", 7) == 0;
    r->answer = ANSWER_REFUSED;
    bool expected = st == STATUS_OVERLOADED || st == STATUS_STATUS_MISMATCH || (st == STATUS_DISK_FULL && s->disk_fulls) || (st == STATUS_DEADLINE_EXCEEDED && r->hurried) ||
                    (st == STATUS_DRAINING && s->draining) || (st == STATUS_REQUEST_FENCED && s->verdicts[r->number] != VERDICT_APPLIED);
    s->fenced += st == STATUS_REQUEST_FENCED;
    REQUIRE(st != STATUS_STATUS_MISMATCH || s->verdicts[r->number] != VERDICT_APPLIED, "%s: APPLIED, and refused", r->request_id);
    REQUIRE(expected, "refused with %s: %s", status_name(st), op->failure.message ? op->failure.message : "");
}

/* An order as a request describes it: the same at every attempt. */
struct parts {
    char user[32], number[32], title[512];
    Orderdb__V1__Money price, total;
    Orderdb__V1__OrderItem item, *items[LINES_MAX];
    Orderdb__V1__Order order;
};
static Orderdb__V1__Order *order_of(struct request *r, struct parts *p) {
    user_slot(r->user, p->user);
    memset(p->title, 'u', sizeof p->title);
    p->title[r->lines > 1 ? 500 : 8] = 0;
    orderdb__v1__money__init(&p->price), orderdb__v1__money__init(&p->total);
    p->price.currency_code = p->total.currency_code = (char *)"CNY";
    p->price.minor_units = 199, p->total.minor_units = 398 * (int64_t)r->lines;
    orderdb__v1__order_item__init(&p->item);
    p->item.sku_id = (char *)"sku-1", p->item.title = p->title, p->item.quantity = 2, p->item.unit_price = &p->price;
    for (unsigned i = 0; i < r->lines; i++) p->items[i] = &p->item;
    orderdb__v1__order__init(&p->order);
    p->order.user_id = p->user, p->order.n_items = r->lines, p->order.items = p->items, p->order.items_total = &p->total, p->order.payable = &p->total;
    return &p->order;
}

static struct slice create_command(struct sim *s, struct request *r) {
    struct parts parts;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    options.request_id = r->request_id;
    Orderdb__V1__CreateOrderRequest m = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    m.order = order_of(r, &parts), m.options = &options;
    struct checked checked;
    struct failure f;
    failure_init(&f, &r->arena);
    REQUIRE(check_create(&m, (struct slice){0}, &r->arena, &checked, &f), "%s", f.violations ? f.violations->description : "?");
    return checked.command;
}

/* Into the past, a few seconds that many orders share; all its steps at once. */
static struct slice import_command(struct sim *s, struct request *r) {
    static const char *const path[][2] = {{"create", "PENDING_PAYMENT"}, {"pay", "PAID"}, {"ship", "SHIPPED"}, {"deliver", "DELIVERED"}};
    struct parts parts;
    Orderdb__V1__HistoryEntry entry[ARRAY_LEN(path)], *entries[ARRAY_LEN(path)];
    Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    time.seconds = 1700000000 + r->second;
    for (unsigned i = 0; i < r->steps; i++) {
        orderdb__v1__history_entry__init(entries[i] = &entry[i]);
        entry[i].event = (char *)path[i][0], entry[i].to_status = (char *)path[i][1], entry[i].time = &time;
    }
    Orderdb__V1__ImportOrdersRequest m = ORDERDB__V1__IMPORT_ORDERS_REQUEST__INIT;
    m.order = order_of(r, &parts), m.n_history = r->steps, m.history = entries;
    snprintf(parts.number, sizeof parts.number, "no-%llu", (unsigned long long)r->import);
    m.order->client_order_no = parts.number;
    struct checked checked;
    struct failure f;
    failure_init(&f, &r->arena);
    REQUIRE(check_import(&m, s->machines, &r->arena, &checked, &f), "%s", f.violations ? f.violations->description : "?");
    return checked.command;
}

static struct slice transition_command(struct sim *s, struct request *r) {
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    options.request_id = r->request_id;
    Orderdb__V1__TransitionOrderRequest m = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    m.order_id = s->orders[r->order].order_id, m.event = (char *)r->event, m.options = &options;
    Orderdb__V1__Order patch = ORDERDB__V1__ORDER__INIT;
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    char *paths[] = {(char *)"extension"};
    patch.extension = (ProtobufCBinaryData){strlen(r->request_id), (uint8_t *)r->request_id};
    mask.paths = paths, mask.n_paths = 1;
    if (patches(r->number)) m.patch = &patch, m.update_mask = &mask;
    struct checked checked;
    struct failure f;
    failure_init(&f, &r->arena);
    REQUIRE(check_transition(&m, (struct slice){0}, &r->arena, &checked, &f), "%s", f.violations ? f.violations->description : "?");
    return checked.command;
}

static void request_send(struct sim *s, struct request *r) {
    char name[32];
    arena_fini(&r->arena);
    arena_init(&r->arena, 1 << 20);
    r->op = (struct op){.kind = OP_WRITE, .slot = user_slot(r->user, name), .arena = &r->arena, .done = request_done};
    r->op.command = r->import ? import_command(s, r) : r->event ? transition_command(s, r) : create_command(s, r);
    r->op.deadline_ns = r->hurried ? sim_world_now_ns(s->world) + chance(s, 5 * NS_PER_MS) : 0;
    r->answer = ANSWER_NONE;
    r->live = true;
    engine_submit(s->engine, &r->op);
}

/* A small create of user 0, to be changed. */
static void request_begin(struct sim *s, struct request *r) {
    r->number = ++s->next_request;
    REQUIRE(r->number < REQUESTS_MAX, "too many requests");
    snprintf(r->request_id, sizeof r->request_id, "request-%016llu", (unsigned long long)r->number);
    r->event = NULL, r->import = 0, r->user = 0, r->lines = 1, r->hurried = false;
}

static void request_new(struct sim *s, struct request *r) {
    static const char *const events[] = {"pay", "cancel", "ship", "deliver", "confirm", "refund_request"};
    request_begin(s, r);
    r->hurried = chance(s, 4) == 0;
    r->lines = chance(s, 8) ? 1 : 1 + (unsigned)chance(s, LINES_MAX);
    r->user = (unsigned)chance(s, s->user_count);
    if (chance(s, 6) == 0 && s->order_count + IN_FLIGHT_MAX < ORDERS_MAX) {
        const struct known_order *again = s->order_count ? &s->orders[chance(s, s->order_count)] : NULL;
        r->steps = 1 + (unsigned)chance(s, 4), r->second = (unsigned)chance(s, 5);
        r->import = again && again->number ? again->number : ++s->next_import;
        if (again && again->number) r->user = again->user;
    } else if (s->order_count + IN_FLIGHT_MAX >= ORDERS_MAX || (s->order_count && chance(s, 3))) {
        r->order = (unsigned)chance(s, s->order_count);
        r->user = s->orders[r->order].user;
        r->event = events[chance(s, ARRAY_LEN(events))];
    }
    request_send(s, r);
}

/* ---- reads, for the checks */

struct read {
    struct op op;
    struct arena arena;
    bool done;
};
static void read_done(struct op *op) { container_of(op, struct read, op)->done = true; }

static void run_once(struct sim *s) {
    engine_tick(s->engine);
    uint64_t now = sim_world_now_ns(s->world), deadline = engine_deadline_ns(s->engine);
    if (deadline <= now) sim_world_run(s->world, 1000 + chance(s, 20000)); /* a cycle takes its time */
    else if (chance(s, 4) == 0 || !sim_world_step(s->world)) sim_world_run(s->world, MIN_OF(deadline - now, 1 + chance(s, 3000000)));
}

static struct read *read_new(enum op_kind kind, uint16_t slot) {
    struct read *r = mem_new(struct read);
    arena_init(&r->arena, 16 << 20);
    r->op = (struct op){.kind = kind, .slot = slot, .arena = &r->arena, .done = read_done};
    return r;
}
static void read_wait(struct sim *s, struct read *r) {
    engine_submit(s->engine, &r->op);
    for (unsigned i = 0; !r->done; i++) {
        REQUIRE(i < STEPS_MAX, "a read never ended");
        run_once(s);
    }
    REQUIRE(r->op.failure.status == STATUS_OK, "a read was refused: %s %s", status_name(r->op.failure.status), r->op.failure.message ? r->op.failure.message : "");
}
static void read_free(struct read *r) {
    arena_fini(&r->arena);
    mem_free(r);
}

static void check_history(struct sim *s, const Orderdb__V1__Order *order) {
    struct read *r = read_new(OP_HISTORY, order_id_slot(order->order_id));
    r->op.history = (struct history_request){.order_id = order->order_id, .page_size = 1000};
    const char *patched = "";
    read_wait(s, r);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, r->op.answer.len, r->op.answer.data);
    REQUIRE(m && m->n_entries == (size_t)order->version, "%zu history entries at version %lld", m ? m->n_entries : 0, (long long)order->version);
    for (size_t i = 0; i < m->n_entries; i++) {
        REQUIRE(m->entries[i]->version == (int64_t)i + 1, "history has a gap");
        uint64_t number = strncmp(m->entries[i]->request_id, "request-", 8) == 0 ? strtoull(m->entries[i]->request_id + 8, NULL, 10) : 0;
        REQUIRE(number <= s->next_request && !s->refused_requests[number], "%s was refused and took effect", m->entries[i]->request_id);
        REQUIRE(i == 0 || strcmp(m->entries[i]->from_status, m->entries[i - 1]->to_status) == 0, "history does not chain");
        if (i && number && patches(number)) patched = m->entries[i]->request_id;
    }
    REQUIRE(order->extension.len == strlen(patched) && memcmp(order->extension.data ? order->extension.data : (const uint8_t *)"", patched, order->extension.len) == 0,
            "the extension is \"%.*s\", the last patch was of \"%s\"", (int)order->extension.len, (const char *)order->extension.data, patched);
    REQUIRE(strcmp(m->entries[m->n_entries - 1]->to_status, order->status) == 0, "history ends in another status");
    orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
    read_free(r);
}

static void check_order(struct sim *s, struct known_order *o) {
    struct read *r = read_new(OP_GET, order_id_slot(o->order_id));
    r->op.get.order_id = o->order_id, r->op.get.full = true;
    read_wait(s, r);
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, r->op.answer.len, r->op.answer.data);
    REQUIRE(m, "the order does not unpack");
    REQUIRE(m->order_id == o->order_id && m->version >= o->version, "version %lld, acknowledged %lld", (long long)m->version, (long long)o->version);
    check_history(s, m);
    o->version = m->version;
    orderdb__v1__order__free_unpacked(m, NULL);
    read_free(r);
}

/* A dry run answers what would come, and changes nothing. */
static void check_dry_run(struct sim *s, unsigned order) {
    struct request *r = mem_new(struct request);
    char name[32];
    *r = (struct request){.user = s->orders[order].user, .order = order, .lines = 1, .event = chance(s, 3) ? "pay" : NULL};
    snprintf(r->request_id, sizeof r->request_id, "dry-run-%016llu", (unsigned long long)chance(s, 1000));
    arena_init(&r->arena, 1 << 20);
    struct read *read = read_new(OP_VALIDATE, user_slot(r->user, name));
    read->op.command = r->event ? transition_command(s, r) : create_command(s, r);
    engine_submit(s->engine, &read->op);
    for (unsigned i = 0; !read->done; i++) {
        REQUIRE(i < STEPS_MAX, "a dry run never ended");
        run_once(s);
    }
    enum status st = read->op.failure.status;
    REQUIRE(st == STATUS_OK || (r->event && st == STATUS_STATUS_MISMATCH), "a dry run was refused: %s", status_name(st));
    if (!st) {
        Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, read->op.answer.len, read->op.answer.data);
        REQUIRE(m, "the order does not unpack");
        REQUIRE(m->order_id == (r->event ? s->orders[order].order_id : 0), "order id %lld", (long long)m->order_id);
        REQUIRE(m->version == (r->event ? s->orders[order].version + 1 : 1), "version %lld", (long long)m->version);
        orderdb__v1__order__free_unpacked(m, NULL);
    }
    read_free(read);
    arena_fini(&r->arena);
    mem_free(r);
}

static void check_user(struct sim *s, unsigned user) {
    char name[32];
    uint16_t slot = user_slot(user, name);
    size_t listed = 0, n = 100;
    for (int32_t page = 1; n == 100; page++) {
        struct read *r = read_new(OP_LIST, slot);
        r->op.list = (struct list_request){.user_id = slice_str(name), .page_size = 100, .page_number = page};
        read_wait(s, r);
        Orderdb__V1__ListOrdersResponse *m = orderdb__v1__list_orders_response__unpack(NULL, r->op.answer.len, r->op.answer.data);
        REQUIRE(m, "the list does not unpack");
        int64_t sum = 0;
        for (size_t i = 0; i < m->n_status_counts; i++) sum += m->status_counts[i]->value;
        REQUIRE(m->total_size == (int64_t)s->users_orders[user] && sum == m->total_size, "user %u: total %lld, counts %lld, ledger %u", user, (long long)m->total_size,
                (long long)sum, s->users_orders[user]);
        listed += n = m->n_orders;
        orderdb__v1__list_orders_response__free_unpacked(m, NULL);
        read_free(r);
    }
    REQUIRE(listed == s->users_orders[user], "user %u: %zu listed, %u acknowledged", user, listed, s->users_orders[user]);
}

/* ---- reads while writes go on */

static void background_done(struct op *op) {
    struct background *b = container_of(op, struct background, op);
    struct sim *s = b->sim;
    b->live = false;
    s->reads_done++;
    if (op->failure.status == STATUS_OVERLOADED) return;
    REQUIRE(op->failure.status == STATUS_OK, "a read was refused: %s %s", status_name(op->failure.status), op->failure.message ? op->failure.message : "");
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, op->answer.len, op->answer.data);
    struct known_order *o = &s->orders[b->order];
    REQUIRE(m && m->order_id == o->order_id && m->version >= b->version, "read version %lld, acknowledged before it began: %lld", m ? (long long)m->version : -1, (long long)b->version);
    o->version = MAX_OF(o->version, m->version); /* what was read once is there for ever */
    orderdb__v1__order__free_unpacked(m, NULL);
}

static void background_send(struct sim *s, struct background *b) {
    arena_fini(&b->arena);
    arena_init(&b->arena, 1 << 20);
    b->order = (unsigned)chance(s, s->order_count);
    b->version = s->orders[b->order].version;
    b->live = true;
    b->op = (struct op){.kind = OP_GET, .slot = order_id_slot(s->orders[b->order].order_id), .arena = &b->arena, .done = background_done};
    b->op.get.order_id = s->orders[b->order].order_id, b->op.get.full = true;
    engine_submit(s->engine, &b->op);
}

static void walk_end(struct sim *s, struct walk *w) {
    w->running = false;
    s->walks++;
    for (unsigned i = 0; i < w->existed; i++) {
        unsigned times = 0;
        for (unsigned k = 0; s->orders[i].user == w->user && k < w->seen_count; k++) times += w->seen[k] == s->orders[i].order_id;
        REQUIRE(s->orders[i].user != w->user || times == 1, "a walk saw order %lld %u times", (long long)s->orders[i].order_id, times);
    }
}

static void walk_done(struct op *op) {
    struct walk *w = container_of(op, struct walk, op);
    struct sim *s = w->sim;
    w->live = false;
    if (op->failure.status == STATUS_OVERLOADED) return; /* the page is asked for again */
    REQUIRE(op->failure.status == STATUS_OK, "a page was refused: %s %s", status_name(op->failure.status), op->failure.message ? op->failure.message : "");
    Orderdb__V1__ListOrdersResponse *m = orderdb__v1__list_orders_response__unpack(NULL, op->answer.len, op->answer.data);
    REQUIRE(m, "the page does not unpack");
    int64_t sum = 0;
    for (size_t i = 0; i < m->n_status_counts; i++) sum += m->status_counts[i]->value;
    REQUIRE(sum == m->total_size, "total %lld, counts %lld", (long long)m->total_size, (long long)sum);
    for (size_t i = 0; i < m->n_orders; i++) {
        for (unsigned k = 0; k < w->seen_count; k++) REQUIRE(w->seen[k] != m->orders[i]->order_id, "a walk saw order %lld again", (long long)w->seen[k]);
        REQUIRE(w->seen_count < ORDERS_MAX, "a walk without an end");
        w->seen[w->seen_count++] = m->orders[i]->order_id;
    }
    arena_reset(&w->kept);
    w->token = arena_copy(&w->kept, slice_str(m->next_page_token));
    if (!w->token.len) walk_end(s, w);
    orderdb__v1__list_orders_response__free_unpacked(m, NULL);
}

static void walk_send(struct sim *s, struct walk *w) {
    if (!w->running) {
        w->running = true, w->existed = s->order_count, w->seen_count = 0, w->token = (struct slice){0};
        w->user = (unsigned)chance(s, s->user_count);
    }
    arena_fini(&w->arena);
    arena_init(&w->arena, 16 << 20);
    w->live = true;
    w->op = (struct op){.kind = OP_LIST, .slot = user_slot(w->user, w->name), .arena = &w->arena, .done = walk_done};
    w->op.list = (struct list_request){.user_id = slice_str(w->name), .page_size = 1 + (int32_t)chance(s, 9), .page_token = w->token};
    engine_submit(s->engine, &w->op);
}

static void read_along(struct sim *s) {
    for (unsigned i = 0; i < READS_MAX; i++)
        if (!s->reads[i].live && s->order_count && chance(s, 8) == 0) background_send(s, &s->reads[i]);
    if (!s->walk.live && chance(s, 2)) walk_send(s, &s->walk);
}

static void set_cold(struct sim *s, bool cold) {
    for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_cold(s->stores[i], cold);
}

/* ---- questions while writes go on */

static void fence_done(struct op *op) {
    struct probe *f = container_of(op, struct probe, op);
    struct sim *s = f->sim;
    f->live = false;
    if (op->failure.status) return;
    s->fences++;
    enum verdict v = op->outcome.applied ? VERDICT_APPLIED : VERDICT_NOT_APPLIED;
    REQUIRE(s->verdicts[f->number] == VERDICT_NONE || s->verdicts[f->number] == v, "request %llu: two verdicts", (unsigned long long)f->number);
    REQUIRE(v == VERDICT_APPLIED || !s->acknowledged_requests[f->number], "request %llu: acknowledged, and NOT_APPLIED", (unsigned long long)f->number);
    s->verdicts[f->number] = (uint8_t)v;
}

static void fence_send(struct sim *s, struct probe *f, const struct request *r) {
    char user[32];
    struct checked checked;
    struct failure failure;
    Orderdb__V1__GetRequestOutcomeRequest m = ORDERDB__V1__GET_REQUEST_OUTCOME_REQUEST__INIT;
    arena_fini(&f->arena);
    arena_init(&f->arena, 1 << 16);
    f->op = (struct op){.kind = OP_WRITE, .slot = user_slot(r->user, user), .arena = &f->arena, .done = fence_done};
    m.user_id = user, m.request_id = (char *)r->request_id;
    failure_init(&failure, &f->arena);
    REQUIRE(check_outcome(&m, &f->arena, &checked, &failure), "an outcome's question");
    f->op.command = checked.command;
    f->number = r->number;
    f->live = true;
    engine_submit(s->engine, &f->op);
}

static void dry_run_done(struct op *op) {
    struct probe *d = container_of(op, struct probe, op);
    struct sim *s = d->sim;
    d->live = false;
    s->dry_runs++;
    REQUIRE(op->failure.status == STATUS_OK || op->failure.status == STATUS_OVERLOADED, "a dry run was refused: %s", status_name(op->failure.status));
    REQUIRE(op->failure.status || op->outcome.head.order_id == 0, "a dry run gave an order id");
}

static void dry_run_send(struct sim *s, struct probe *d) {
    struct request r = {.user = (unsigned)chance(s, s->user_count), .lines = 1};
    char user[32];
    snprintf(r.request_id, sizeof r.request_id, "dry-run-%016llu", (unsigned long long)s->dry_runs);
    arena_init(&r.arena, 1 << 16);
    arena_fini(&d->arena);
    arena_init(&d->arena, 1 << 16);
    d->op = (struct op){.kind = OP_VALIDATE, .slot = user_slot(r.user, user), .arena = &d->arena, .done = dry_run_done};
    d->op.command = arena_copy(&d->arena, create_command(s, &r));
    arena_fini(&r.arena);
    d->live = true;
    engine_submit(s->engine, &d->op);
}

static void ask_along(struct sim *s) {
    const struct request *r = &s->requests[chance(s, IN_FLIGHT_MAX)];
    if (!s->fence.live && r->live && !r->import && chance(s, 8) == 0) fence_send(s, &s->fence, r);
    if (!s->dry_run.live && chance(s, 8) == 0) dry_run_send(s, &s->dry_run);
}

/* ---- the life of a node */

static void open_engine(struct sim *s) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    char error[256] = "";
    struct engine_config config = {
        .node_id = 1,
        .partition_count = PARTITIONS,
        .partitions = partitions,
        .owned_count = PARTITIONS,
        .machines = s->machines,
        .log_live_bytes_max = s->live_bytes,
        .log_segment_bytes = (uint32_t)s->segment_bytes,
        .memtable_bytes = 256 * KIB,
        .row_cache_bytes = PARTITIONS * 16 * KIB, /* full all the time */
        .queue_ops_max = 16 + (uint32_t)chance(s, 100),
        .queue_target_ns = chance(s, 3) * 5 * NS_PER_MS, /* 0: without */
        .queue_bytes_max = 1 << 20,
        .list_cache_bytes = s->seed % 4 * 6 * KIB, /* none, or so little that users go all the time */
        .lists_proved = true,
        .filter_bytes = 16 * KIB,
        .filter_proved = true,
        .store_open = open_store,
        .store_ctx = s,
        .election_ms = 1000,
        .heartbeat_ms = 100,
    };
    s->env = sim_env_open(s->world, s->disk);
    enum status st = engine_open(&s->engine, s->env, &config, error);
    REQUIRE(st == STATUS_OK, "open: %s: %s", status_name(st), error);
}

static void wait_ready(struct sim *s) {
    for (unsigned i = 0; !engine_ready(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never ready");
        run_once(s);
    }
}

static void crash(struct sim *s) {
    s->crashes++;
    if (s->trace) printf("%llu crash\n", (unsigned long long)sim_world_now_ns(s->world));
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++)
        if (s->requests[i].live) s->requests[i].live = false, s->requests[i].answer = ANSWER_UNKNOWN, s->unknown++;
    for (unsigned i = 0; i < READS_MAX; i++)
        if (s->reads[i].live) s->reads[i].live = false, arena_init(&s->reads[i].arena, 0); /* its memory is the dead process's */
    if (s->walk.live) arena_init(&s->walk.arena, 0);
    s->walk.live = s->walk.running = false;
    if (s->fence.live) arena_init(&s->fence.arena, 0);
    if (s->dry_run.live) arena_init(&s->dry_run.arena, 0);
    s->fence.live = s->dry_run.live = false;
    if (chance(s, 4)) sim_disk_crash(s->disk);
    else sim_disk_kill(s->disk);
    sim_env_abandon(s->env);
    s->engine = NULL; /* its memory goes with the process: each seed is one */
}

/* What was in flight is asked again, with the same request_id, until there is an answer. */
static void settle(struct sim *s) {
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) {
        struct request *r = &s->requests[i];
        if (r->answer != ANSWER_UNKNOWN) continue;
        for (unsigned tries = 0; r->answer == ANSWER_UNKNOWN || (r->answer == ANSWER_REFUSED && r->op.failure.retry_delay_ms); tries++) {
            REQUIRE(tries < 10000, "%s is refused for ever: %s", r->request_id, r->op.failure.message);
            if (!r->import && chance(s, 3) == 0) { /* the question instead of a retry; the retry then comes to what it said */
                fence_send(s, &s->fence, r);
                for (unsigned k = 0; s->fence.live; k++) {
                    REQUIRE(k < STEPS_MAX, "the outcome of %s was never told", r->request_id);
                    run_once(s);
                }
            }
            r->hurried = false;
            request_send(s, r);
            for (unsigned k = 0; r->live; k++) {
                REQUIRE(k < STEPS_MAX, "%s never ended", r->request_id);
                run_once(s);
            }
        }
    }
}

static void verify(struct sim *s) {
    for (unsigned i = 0; i < s->order_count; i++) check_order(s, &s->orders[i]);
    for (unsigned i = 0; i < s->order_count; i += 1 + (unsigned)chance(s, 40)) check_dry_run(s, i), check_order(s, &s->orders[i]);
    for (unsigned u = 0; u < s->user_count; u++) check_user(s, u);
}

static void load(struct sim *s, unsigned steps) {
    unsigned width = 1 + (unsigned)chance(s, IN_FLIGHT_MAX);
    for (unsigned i = 0; i < steps; i++) {
        for (unsigned k = 0; k < width; k++)
            if (!s->requests[k].live && chance(s, 4) == 0) request_new(s, &s->requests[k]);
        read_along(s);
        ask_along(s);
        if (chance(s, 50) == 0) set_cold(s, chance(s, 2));
        run_once(s);
    }
}

static void set_full(struct sim *s, bool full) {
    if (s->trace) printf("%llu disk full: %d\n", (unsigned long long)sim_world_now_ns(s->world), full);
    sim_disk_faults(s->disk)->space_bytes = full ? sim_disk_bytes(s->disk) : 0;
    for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_full(s->stores[i], full);
}

/* The disk fills under load: whatever is acknowledged stays, reads go on; with room again writes are taken, without a restart. */
static void full_disk(struct sim *s) {
    s->disk_fulls++;
    set_full(s, true);
    load(s, 20 + (unsigned)chance(s, 300));
    if (s->order_count) check_order(s, &s->orders[chance(s, s->order_count)]);
    set_full(s, false);
    for (uint64_t until = sim_world_now_ns(s->world) + 5 * NS_PER_S; sim_world_now_ns(s->world) < until;) run_once(s);
    struct request *r = &s->requests[0];
    for (unsigned k = 0; r->live; k++) {
        REQUIRE(k < STEPS_MAX, "%s never ended", r->request_id);
        run_once(s);
    }
    if (s->order_count + IN_FLIGHT_MAX >= ORDERS_MAX) return;
    request_begin(s, r);
    r->answer = ANSWER_UNKNOWN;
    settle(s);
    REQUIRE(r->answer == ANSWER_OK || r->op.failure.status == STATUS_REQUEST_FENCED, "no write is taken after the disk has room: %s", r->op.failure.message);
}

/* Under load, when there is some: all that was taken in is answered, and all is flushed: the next start replays nothing but its barriers. */
static void drain(struct sim *s) {
    s->drains++;
    s->draining = true;
    engine_drain(s->engine);
    load(s, (unsigned)chance(s, 30));
    for (unsigned i = 0; !engine_drained(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never drained");
        run_once(s);
    }
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) REQUIRE(!s->requests[i].live, "drained, and %s has no answer", s->requests[i].request_id);
    REQUIRE(!s->fence.live && !s->dry_run.live, "drained, and a question has no answer");
    for (unsigned i = 0; i < READS_MAX; i++) REQUIRE(!s->reads[i].live, "drained, and a read has no answer");
    for (uint64_t until = sim_world_now_ns(s->world) + chance(s, 3) * NS_PER_S; sim_world_now_ns(s->world) < until;) {
        run_once(s); /* until the other cores are drained too */
        REQUIRE(engine_drained(s->engine), "drained, and not any more");
    }
    struct engine_stats stats;
    engine_get_stats(s->engine, &stats);
    s->offloaded += stats.reads_offloaded;
    engine_close(s->engine);
    sim_env_close(s->env);
    s->draining = false;
    s->walk.running = false;
}

static int run_seed(uint64_t seed, bool trace, bool mutant) {
    struct sim *s = mem_new(struct sim);
    s->seed = seed, s->trace = trace;
    s->world = sim_world_new(seed);
    s->disk = sim_disk_new(s->world);
    if (mutant) sim_disk_faults(s->disk)->sync_lies = true;
    s->machines = machines_new();
    for (unsigned i = 0; i < PARTITIONS; i++) s->stores[i] = store_mem_disk_new();
    for (unsigned i = 0; i < IN_FLIGHT_MAX; i++) s->requests[i].sim = s;
    s->user_count = 1 + (unsigned)chance(s, USERS_MAX);
    s->segment_bytes = (64u << chance(s, 3)) * KIB;
    s->live_bytes = s->segment_bytes * (4 + chance(s, 6));
    for (unsigned i = 0; i < READS_MAX; i++) s->reads[i].sim = s;
    s->walk.sim = s->fence.sim = s->dry_run.sim = s;
    arena_init(&s->walk.kept, 1 << 16);
    for (unsigned round = 0; round < ROUNDS; round++) {
        open_engine(s);
        if (chance(s, 4) == 0) { /* cut again while recovering */
            for (uint64_t n = chance(s, 40); n; n--) run_once(s);
            crash(s);
            open_engine(s);
        }
        wait_ready(s);
        settle(s);
        verify(s);
        load(s, 50 + (unsigned)chance(s, 1000));
        if (chance(s, 3) == 0) full_disk(s);
        if (chance(s, 2)) load(s, (unsigned)chance(s, 300));
        if (chance(s, 4)) crash(s);
        else drain(s);
    }
    open_engine(s);
    wait_ready(s);
    settle(s);
    verify(s);
    drain(s);
    printf("# seed %llu: %llu imports, %llu expired, %llu reads (%llu offloaded in drained runs), %llu walks, %llu drains, %llu refused by a full log, %llu disk-fulls\n", (unsigned long long)seed, (unsigned long long)s->imports,
           (unsigned long long)s->expired, (unsigned long long)s->reads_done, (unsigned long long)s->offloaded, (unsigned long long)s->walks, (unsigned long long)s->drains,
           (unsigned long long)s->log_full, (unsigned long long)s->disk_fulls);
    printf("# seed %llu: %llu outcomes asked for, %llu fenced, %llu dry runs, %llu patched\n", (unsigned long long)seed, (unsigned long long)s->fences, (unsigned long long)s->fenced,
           (unsigned long long)s->dry_runs, (unsigned long long)s->patched);
    printf("# seed %llu: %u orders, %llu acknowledged (%llu replayed), %llu refused, %llu unknown, %llu crashes\n", (unsigned long long)seed, s->order_count,
           (unsigned long long)s->acknowledged, (unsigned long long)s->replayed, (unsigned long long)s->refused, (unsigned long long)s->unknown,
           (unsigned long long)s->crashes);
    fflush(stdout);
    return 0;
}

static bool seed_passes(uint64_t seed, bool mutant, bool quiet) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (quiet && !freopen("/dev/null", "w", stdout)) _exit(9);
        alarm(60);
        _exit(run_seed(seed, false, mutant));
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, count = 150, ran = 0, failed = 0, caught = 0;
    bool trace = false, mutant = false, one = false;
    log_set_level(LOG_OFF);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) first = strtoull(argv[++i], NULL, 10), one = true;
        else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc) count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--trace") == 0) trace = true, log_set_level(LOG_INFO);
        else if (strcmp(argv[i], "--mutant") == 0) mutant = true;
    }
    if (one) return run_seed(first, trace, mutant);
    time_t until = time(NULL) + 90; /* on a slow machine fewer seeds, never an endless test */
    for (; ran < count && time(NULL) < until; ran++)
        if (!seed_passes(first + ran, false, ran % 50 != 0)) printf("not ok sim_engine seed=%llu\n", (unsigned long long)(first + ran)), failed++;
    if (!failed) printf("ok sim_engine %llu seeds\n", (unsigned long long)ran);
    uint64_t mutants = MIN_OF(count, (uint64_t)20);
    for (uint64_t i = 0; i < mutants && time(NULL) < until + 30; i++) caught += !seed_passes(first + i, true, true);
    printf("%s sim_engine mutant, a disk that lies about syncs: caught in %llu of %llu seeds\n", caught ? "ok" : "not ok", (unsigned long long)caught, (unsigned long long)mutants);
    return failed || !caught;
}
