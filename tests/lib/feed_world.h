/* The world of sim_feed.c: its ledger of orders and events, and the writes that it makes. */
#ifndef TESTS_LIB_FEED_WORLD_H
#define TESTS_LIB_FEED_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/engine.h"
#include "engine/filter.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"
#include "tests/lib/sim_env.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

enum { USERS = 8, ORDERS_MAX = 1500, SEQ_MAX = 8000, IN_FLIGHT_MAX = 32, PARTITIONS = 2, ROUNDS = 5, STEPS_MAX = 1000000, READERS = 8, REQUESTS_MAX = 40000, BATCH_MAX = 6,
       EXTENSION_MAX = 24000, HASH_SLOTS = 4096, MUTANTS = 2, MUTANT_SEEDS = 6, SEEKS = 3 };

enum request_kind { CREATE, IMPORT, BATCH, TRANSITION, UPDATE };
enum answer_kind { ANSWER_NONE, ANSWER_OK, ANSWER_REFUSED, ANSWER_UNKNOWN };

/* What is known of an event (slot, seq): from an acknowledgement, from the stream. Hashes are of bytes. */
struct known_event {
    bool acked, seen, summed, joined;
    int64_t order_id, version, commit_us;
    unsigned user;
    int type;
    uint64_t raw, brief, entry, after; /* FULL as told; without the detail; its history entry; its order, as the write's answer showed it */
    uint8_t unwanted_users, unwanted_types; /* left out for readers of these, */
    uint64_t before_us;                     /* and for one from this time on; 0: none */
};
struct slot {
    uint16_t slot;
    int64_t last, first; /* as of the last verification: newest seq, first one kept */
    struct known_event events[SEQ_MAX];
};
struct known_order {
    int64_t order_id, version;
    unsigned user, steps; /* steps: of an import */
    uint64_t import;
};
struct request {
    struct op op;
    struct arena arena;
    struct sim *sim;
    enum request_kind kind;
    enum answer_kind answer;
    unsigned user, order, count;
    uint64_t number, import; /* number: of the first, in a batch */
    const char *event;
    bool live;
};
struct reader_of_feed {
    struct op op;
    struct arena arena;
    struct sim *sim;
    unsigned name, partition;
    int user;             /* -1: all */
    int type;             /* 0: all */
    enum feed_payload payload;
    enum feed_from from;
    uint64_t from_us;
    bool began, placed, live, slow; /* began: it holds a vector; placed: and a position */
    struct feed_position at;
    int64_t behind[SLOT_COUNT], told[SLOT_COUNT];
    uint64_t rests_until_ns, last_us;
};
struct sim {
    uint64_t seed;
    bool trace, draining;
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct engine *engine;
    struct store_mem_disk *stores[PARTITIONS];
    struct machines *machines;
    char names[USERS][32];
    unsigned users_slot[USERS], slot_count; /* index into slots */
    struct slot *slots[USERS];
    struct known_order orders[ORDERS_MAX];
    unsigned order_count, order_at[HASH_SLOTS];
    struct request requests[IN_FLIGHT_MAX];
    struct reader_of_feed readers[READERS];
    const struct filter *filter;
    struct arena filters;
    uint64_t segment_bytes, live_bytes, tail_bytes, retention_us, retention_bytes;
    uint64_t next_request, next_import, acknowledged, refused, unknown, crashes, drains, disk_fulls, told, expired, missed, seeks, expired_seeks, as_of;
};

#define REQUIRE(x, ...)                                                                                                                            \
    do {                                                                                                                                           \
        if (!(x)) {                                                                                                                                \
            printf("# seed=%llu line %d: %s: ", (unsigned long long)s->seed, __LINE__, #x), printf(__VA_ARGS__), printf("\n"), fflush(stdout);     \
            _exit(1);                                                                                                                              \
        }                                                                                                                                          \
    } while (0)
#define LL(x) ((long long)(x))

static uint64_t chance(struct sim *s, uint64_t n) { return sim_world_below(s->world, n); }

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    return store_open_mem(out, ((struct sim *)ctx)->stores[partition]);
}

static void run_once(struct sim *s) {
    engine_tick(s->engine);
    uint64_t now = sim_world_now_ns(s->world), deadline = engine_deadline_ns(s->engine);
    if (deadline <= now) sim_world_run(s->world, 1000 + chance(s, 20000)); /* a cycle takes its time */
    else if (chance(s, 4) == 0 || !sim_world_step(s->world)) sim_world_run(s->world, MIN_OF(deadline - now, 1 + chance(s, 3000000)));
}

static struct slot *slot_of(struct sim *s, int64_t slot) {
    for (unsigned i = 0; i < s->slot_count; i++)
        if (s->slots[i]->slot == slot) return s->slots[i];
    REQUIRE(false, "slot %lld has no user", LL(slot));
    return NULL;
}
static struct known_event *event_at(struct sim *s, int64_t slot, int64_t seq) {
    REQUIRE(seq >= 1 && seq < SEQ_MAX, "seq %lld of slot %lld", LL(seq), LL(slot));
    return &slot_of(s, slot)->events[seq];
}

/* ---- orders that are known */

static unsigned *order_place(struct sim *s, int64_t order_id) {
    unsigned i = (unsigned)((uint64_t)order_id * 0x9e3779b97f4a7c15ull >> 52);
    while (s->order_at[i] && s->orders[s->order_at[i] - 1].order_id != order_id) i = (i + 1) % HASH_SLOTS;
    return &s->order_at[i];
}
static void order_known(struct sim *s, const struct order_head *head, unsigned user, uint64_t import, unsigned steps) {
    unsigned *place = order_place(s, head->order_id);
    if (!*place) {
        REQUIRE(s->order_count < ORDERS_MAX, "too many orders");
        s->orders[s->order_count] = (struct known_order){.order_id = head->order_id, .user = user, .import = import, .steps = steps};
        *place = ++s->order_count;
    }
    struct known_order *o = &s->orders[*place - 1];
    o->version = MAX_OF(o->version, head->version);
}

static uint64_t packed_hash(const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = mem_alloc(n + 1);
    protobuf_c_message_pack(m, bytes);
    uint64_t h = hash64(slice_of(bytes, n));
    mem_free(bytes);
    return h;
}
static uint64_t order_hash(struct sim *s, struct slice wire) {
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, wire.len, wire.data);
    REQUIRE(m, "the order does not unpack");
    uint64_t h = packed_hash(&m->base);
    orderdb__v1__order__free_unpacked(m, NULL);
    return h;
}

/* ---- writes */

static size_t extension_bytes(uint64_t number) { return number % 5 ? 8 + number % 50 : 9000 + number * 977 % (EXTENSION_MAX - 9000); }
static bool import_untold(uint64_t import) { return import % 3 == 0; }
static unsigned import_steps(uint64_t import) { return 1 + (unsigned)(import % 4); }

/* An order, and what comes with it, as a request's number describes them: the same at every attempt. */
struct parts {
    char request_id[40], number[32];
    uint8_t extension[EXTENSION_MAX];
    Orderdb__V1__Money price, total;
    Orderdb__V1__OrderItem item, *items[1];
    Orderdb__V1__Order order;
    Orderdb__V1__WriteOptions options;
    Orderdb__V1__CreateOrderRequest create;
};
static void parts_init(struct sim *s, struct parts *p, uint64_t number, unsigned user) {
    snprintf(p->request_id, sizeof p->request_id, "request-%016llu", (unsigned long long)number);
    memset(p->extension, 'a' + (int)(number % 26), sizeof p->extension);
    memcpy(p->extension, p->request_id + 16, 8);
    orderdb__v1__money__init(&p->price), orderdb__v1__money__init(&p->total);
    p->price.currency_code = p->total.currency_code = (char *)"CNY";
    p->price.minor_units = 199, p->total.minor_units = 398;
    orderdb__v1__order_item__init(&p->item);
    p->item.sku_id = (char *)"sku-1", p->item.title = (char *)"a thing", p->item.quantity = 2, p->item.unit_price = &p->price;
    p->items[0] = &p->item;
    orderdb__v1__order__init(&p->order);
    p->order.user_id = s->names[user], p->order.n_items = 1, p->order.items = p->items, p->order.items_total = p->order.payable = &p->total;
    p->order.merchant_id = (char *)(number % 2 ? "odd" : "even");
    p->order.extension = (ProtobufCBinaryData){extension_bytes(number), p->extension};
    orderdb__v1__write_options__init(&p->options);
    p->options.request_id = p->request_id;
    orderdb__v1__create_order_request__init(&p->create);
    p->create.order = &p->order, p->create.options = &p->options;
}

static struct slice command_of(struct sim *s, struct request *r) {
    static const char *const path[][2] = {{"create", "PENDING_PAYMENT"}, {"pay", "PAID"}, {"ship", "SHIPPED"}, {"deliver", "DELIVERED"}};
    static struct parts parts[BATCH_MAX];
    struct parts *p = &parts[0];
    struct checked checked;
    struct failure f;
    bool ok = false;
    failure_init(&f, &r->arena);
    parts_init(s, p, r->number, r->user);
    Google__Protobuf__FieldMask mask = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    char *paths[] = {(char *)"extension"};
    mask.paths = paths, mask.n_paths = 1;
    Orderdb__V1__Order patch = ORDERDB__V1__ORDER__INIT;
    patch.extension = p->order.extension;
    switch (r->kind) {
    case CREATE: ok = check_create(&p->create, (struct slice){0}, &r->arena, &checked, &f); break;
    case BATCH: {
        Orderdb__V1__BatchCreateOrdersRequest m = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
        Orderdb__V1__CreateOrderRequest *creates[BATCH_MAX];
        for (unsigned i = 0; i < r->count; i++) parts_init(s, &parts[i], r->number + i, r->user), creates[i] = &parts[i].create;
        m.requests = creates, m.n_requests = r->count, m.atomic = true;
        ok = check_batch(&m, (struct slice){0}, &r->arena, &checked, &f);
        break;
    }
    case IMPORT: {
        Orderdb__V1__HistoryEntry entry[ARRAY_LEN(path)], *entries[ARRAY_LEN(path)];
        Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
        Orderdb__V1__ImportOrdersRequest m = ORDERDB__V1__IMPORT_ORDERS_REQUEST__INIT;
        time.seconds = 1700000000 + (int64_t)(r->import % 5);
        for (unsigned i = 0; i < import_steps(r->import); i++) {
            orderdb__v1__history_entry__init(entries[i] = &entry[i]);
            entry[i].event = (char *)path[i][0], entry[i].to_status = (char *)path[i][1], entry[i].time = &time;
        }
        snprintf(p->number, sizeof p->number, "no-%llu", (unsigned long long)r->import);
        p->order.client_order_no = p->number;
        m.no_event = import_untold(r->import);
        m.order = &p->order, m.n_history = import_steps(r->import), m.history = entries;
        ok = check_import(&m, s->machines, &r->arena, &checked, &f);
        break;
    }
    case TRANSITION: {
        Orderdb__V1__TransitionOrderRequest m = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
        m.order_id = s->orders[r->order].order_id, m.event = (char *)r->event, m.options = &p->options;
        if (r->number % 3 == 0) m.patch = &patch, m.update_mask = &mask;
        ok = check_transition(&m, (struct slice){0}, &r->arena, &checked, &f);
        break;
    }
    case UPDATE: {
        Orderdb__V1__UpdateOrderRequest m = ORDERDB__V1__UPDATE_ORDER_REQUEST__INIT;
        patch.order_id = s->orders[r->order].order_id;
        m.order = &patch, m.update_mask = &mask, m.options = &p->options;
        ok = check_update(&m, (struct slice){0}, &r->arena, &checked, &f);
        break;
    }
    }
    REQUIRE(ok, "%s: %s", f.violations ? f.violations->field : "?", f.violations ? f.violations->description : "?");
    return checked.command;
}

/* A commit was acknowledged: its event must say the same, whenever it is told. */
static void acknowledged(struct sim *s, const struct request *r, const struct outcome *o, struct slice answer) {
    order_known(s, &o->head, r->user, r->kind == IMPORT ? r->import : 0, r->kind == IMPORT ? import_steps(r->import) : 0);
    s->acknowledged++;
    if (o->already_there || r->kind == IMPORT) return; /* has no order for an answer, or is another's commit */
    uint64_t after = order_hash(s, answer);
    struct known_event *e = event_at(s, s->slots[s->users_slot[r->user]]->slot, o->seq);
    REQUIRE(!(e->acked || e->seen) || (e->order_id == o->head.order_id && e->version == o->head.version), "slot %u seq %lld is order %lld version %lld, and %lld version %lld",
            s->slots[s->users_slot[r->user]]->slot, LL(o->seq), LL(e->order_id), LL(e->version), LL(o->head.order_id), LL(o->head.version));
    REQUIRE(!(e->acked || e->seen) || e->after == after, "seq %lld: the order is another than the event told", LL(o->seq));
    e->acked = true, e->order_id = o->head.order_id, e->version = o->head.version, e->after = after, e->user = r->user;
}

static void request_done(struct op *op) {
    struct request *r = container_of(op, struct request, op);
    struct sim *s = r->sim;
    enum status st = op->failure.status;
    r->live = false;
    if (s->trace) printf("%llu request %llu, kind %d: %s\n", (unsigned long long)sim_world_now_ns(s->world), (unsigned long long)r->number, r->kind, status_name(st));
    r->answer = st ? ANSWER_REFUSED : ANSWER_OK;
    if (st) {
        s->refused++;
        REQUIRE(st == STATUS_OVERLOADED || st == STATUS_STATUS_MISMATCH || (st == STATUS_DISK_FULL && s->disk_fulls) || (st == STATUS_DRAINING && s->draining), "refused with %s: %s",
                status_name(st), op->failure.message ? op->failure.message : "");
    } else if (r->kind == BATCH) {
        /* seq is the last one's: a batch's creates stand in a row. Of a replay it is that of the first time too. */
        REQUIRE(op->outcome.item_count == r->count, "%u of %u", op->outcome.item_count, r->count);
        for (unsigned i = 0; i < r->count; i++) acknowledged(s, r, &op->outcome.items[i], op->orders[i]);
    } else {
        acknowledged(s, r, &op->outcome, op->answer);
    }
}

static void request_send(struct sim *s, struct request *r) {
    arena_fini(&r->arena);
    arena_init(&r->arena, 2 << 20);
    r->op = (struct op){.kind = OP_WRITE, .slot = s->slots[s->users_slot[r->user]]->slot, .arena = &r->arena, .done = request_done};
    r->op.command = command_of(s, r);
    r->answer = ANSWER_NONE;
    r->live = true;
    engine_submit(s->engine, &r->op);
}

static void request_new(struct sim *s, struct request *r) {
    static const char *const events[] = {"pay", "cancel", "ship", "deliver", "confirm", "refund_request"};
    bool more = s->order_count + IN_FLIGHT_MAX * BATCH_MAX < ORDERS_MAX;
    *r = (struct request){.sim = s, .arena = r->arena, .kind = CREATE, .user = (unsigned)chance(s, USERS), .count = 1};
    if (s->order_count && (!more || chance(s, 3))) {
        r->kind = chance(s, 3) ? TRANSITION : UPDATE;
        r->order = (unsigned)chance(s, s->order_count);
        r->user = s->orders[r->order].user;
        r->event = events[chance(s, ARRAY_LEN(events))];
    } else if (!more) {
        return;
    } else if (chance(s, 5) == 0) {
        const struct known_order *again = s->order_count ? &s->orders[chance(s, s->order_count)] : NULL;
        r->kind = IMPORT;
        r->import = again && again->import ? again->import : ++s->next_import;
        if (again && again->import) r->user = again->user;
    } else if (chance(s, 5) == 0) {
        r->kind = BATCH;
        r->count = 2 + (unsigned)chance(s, BATCH_MAX - 1);
    }
    r->number = s->next_request + 1;
    s->next_request += r->count;
    REQUIRE(s->next_request < REQUESTS_MAX, "too many requests");
    request_send(s, r);
}

#pragma GCC diagnostic pop
#endif
