/* Batches as clients send them, against the reference model (tests/lib/model.h): BatchCreateOrders, atomic or not, and BatchTransitionOrders, through the server's calls
 * and handlers and a whole engine with two partitions on a simulated disk.
 *
 * A seed draws batches of creates and of steps along the machine, with requests twice in one batch, the last batch once more, in part or reordered, ids that are used
 * for something else, and power cuts while a batch is under way, after which it is sent again. The model is told of each request in the order in which it must have
 * been done, at the time that the answer names. Shown:
 *   - each result is the model's: order, version, status, token, replayed; or the reason, and whose fault it is in an atomic batch;
 *   - a batch that was cut off and sent again was done once: what it wrote is what the model writes when it does it once;
 *   - at the end orders, histories and totals are the model's, so nothing else was written.
 *
 *   sim_batch [--seed N] [--seeds N] [--seconds N]      --seed: that one alone */
#include "tests/lib/call_world.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "engine/check.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/log.h"
#include "proto/scan.h"
#include "tests/lib/model.h"
#include "tests/lib/test.h"

enum { USERS = 6, REQUESTS_MAX = 24, IDS = 4000, BATCHES = 40, WIRE_BYTES_MAX = 256 << 10 };
enum kind { CREATES, ATOMIC, STEPS };

/* A request of a batch: enough to write it down again, byte for byte. */
struct ask {
    unsigned user, id, lines, number; /* id: of the request_id; number: of the client_order_no, 0: none */
    const char *machine;
    int64_t order_id, expected_version;
    const char *event;
};
struct batch {
    enum kind kind;
    unsigned count;
    struct ask asks[REQUESTS_MAX];
};
/* What came of one request. */
struct result {
    bool ok, replayed;
    const char *reason; /* refused */
    const char *index;  /* in its metadata: an atomic batch */
    int64_t order_id, version, seq, time_us;
    const char *status;
    bool told; /* to the model */
};
static struct {
    struct test_random random;
    struct model model;
    struct arena arena, model_arena; /* of one batch; of the commands that the model borrows from */
    struct batch last;
    unsigned next_id;
} sim;
static struct {
    uint64_t batches, ok, replayed, refused, cut, cut_done, atomic_refused;
} seen;
static uint64_t seed_now;

static uint64_t below(uint64_t n) { return test_random_below(&sim.random, n); }
static bool chance(unsigned percent) { return below(100) < percent; }

static void on_abort(int sig) {
    char line[80];
    int n = snprintf(line, sizeof line, "not ok sim_batch: repeat with --seed %llu\n", (unsigned long long)seed_now);
    if (write(STDOUT_FILENO, line, (size_t)n) < 0) _exit(1);
    signal(sig, SIG_DFL);
}

/* ---- drawing */
static const struct model_order *any_order(void) { return sim.model.order_count ? &sim.model.orders[below(sim.model.order_count)] : NULL; }

static struct ask draw_create(unsigned user) {
    static const char *const machines[] = {"", "retail", "retail@1"};
    return (struct ask){.user = user, .id = sim.next_id++, .lines = 1 + (unsigned)below(3), .number = chance(25) ? 1 + (unsigned)below(30) : 0,
                        .machine = chance(4) ? "nothing" : machines[below(ARRAY_LEN(machines))]};
}

static struct ask draw_step(const struct model_order *o, unsigned ahead) {
    const char *status = o->entries[o->count - 1].to;
    struct ask a = {.id = sim.next_id++, .order_id = o->id, .event = "pay", .expected_version = chance(15) ? (int64_t)(o->count + ahead) : 0};
    unsigned fit = 0;
    for (unsigned i = 0; model_edges[i][0]; i++)
        if (strcmp(model_edges[i][0], o->machine) == 0 && (strcmp(model_edges[i][2], status) == 0 || chance(20)) && below(++fit) == 0) a.event = model_edges[i][1];
    if (chance(2)) a.event = "teleport";
    if (chance(2)) a.order_id = (int64_t)(test_random_next(&sim.random) >> 2) | 1;
    return a;
}

static struct batch draw_batch(void) {
    struct batch b = {.kind = sim.model.order_count < 3 ? CREATES : (enum kind)below(3)};
    if (sim.last.count && chance(25)) { /* once more; but for an atomic one, with holes and in another order */
        b = sim.last;
        for (unsigned i = 0; b.kind != ATOMIC && i < b.count && b.count > 1; i++) {
            if (chance(10)) b.asks[i] = b.asks[--b.count];
            if (chance(10)) {
                unsigned k = (unsigned)below(b.count);
                struct ask a = b.asks[i];
                b.asks[i] = b.asks[k], b.asks[k] = a;
            }
        }
        return b;
    }
    unsigned wanted = 1 + (unsigned)below(chance(70) ? 6 : REQUESTS_MAX), user = (unsigned)below(USERS);
    const struct model_order *few[2] = {any_order(), any_order()};
    for (; b.count < wanted; b.count++) {
        struct ask *a = &b.asks[b.count];
        if (b.count && b.kind != ATOMIC && chance(10)) *a = b.asks[below(b.count)]; /* twice in one batch */
        else if (b.kind == STEPS) *a = draw_step(few[below(2)], b.count);
        else *a = draw_create(b.kind == ATOMIC ? user : (unsigned)below(USERS));
        if (b.kind == ATOMIC && chance(80)) a->number = 0, a->machine = "retail";
        for (unsigned i = 0; b.kind == ATOMIC && i < b.count; i++) /* the shape of an atomic batch forbids it (test_batch.c) */
            if (b.asks[i].number == a->number) a->number = 0;
        if (sim.last.count && chance(3)) a->id = sim.last.asks[below(sim.last.count)].id; /* used, perhaps for something else */
        for (unsigned i = 0; b.kind == ATOMIC && i < b.count; i++)
            if (b.asks[i].id == a->id) a->id = sim.next_id++;
    }
    return sim.last = b;
}

/* ---- requests as messages */
static char *kept(char *p) {
    check(p);
    return p;
}
#define text(format, n) kept(arena_printf(&sim.arena, format, (unsigned long long)(n)))
#define MESSAGE(type, prefix)                                         \
    static type *prefix##_new(void) {                                 \
        type *m = arena_new(&sim.arena, type);                        \
        check(m);                                                     \
        prefix##__init(m);                                            \
        return m;                                                     \
    }
MESSAGE(Orderdb__V1__CreateOrderRequest, orderdb__v1__create_order_request)
MESSAGE(Orderdb__V1__TransitionOrderRequest, orderdb__v1__transition_order_request)
MESSAGE(Orderdb__V1__Order, orderdb__v1__order)
MESSAGE(Orderdb__V1__OrderItem, orderdb__v1__order_item)
MESSAGE(Orderdb__V1__Money, orderdb__v1__money)
MESSAGE(Orderdb__V1__WriteOptions, orderdb__v1__write_options)
#undef MESSAGE

static Orderdb__V1__WriteOptions *options_of(const struct ask *a) {
    Orderdb__V1__WriteOptions *o = orderdb__v1__write_options_new();
    o->request_id = text("request-%016llu", a->id);
    return o;
}

static Orderdb__V1__CreateOrderRequest *create_of(const struct ask *a) {
    Orderdb__V1__CreateOrderRequest *m = orderdb__v1__create_order_request_new();
    Orderdb__V1__Order *o = m->order = orderdb__v1__order_new();
    m->options = options_of(a);
    o->user_id = text("user-%llu", a->user);
    o->machine = (char *)(uintptr_t)a->machine;
    if (a->number) o->client_order_no = text("no-%llu", a->number);
    o->n_items = a->lines;
    o->items = arena_array(&sim.arena, Orderdb__V1__OrderItem *, a->lines);
    check(o->items);
    for (unsigned i = 0; i < a->lines; i++) {
        Orderdb__V1__OrderItem *item = o->items[i] = orderdb__v1__order_item_new();
        item->sku_id = text("sku-%llu", i), item->quantity = 1 + (int)i;
        item->unit_price = orderdb__v1__money_new();
        item->unit_price->currency_code = (char *)(uintptr_t) "CNY", item->unit_price->minor_units = 100 + a->id % 10;
    }
    return m;
}

static Orderdb__V1__TransitionOrderRequest *step_of(const struct ask *a) {
    Orderdb__V1__TransitionOrderRequest *m = orderdb__v1__transition_order_request_new();
    m->options = options_of(a);
    m->order_id = a->order_id;
    m->event = (char *)(uintptr_t)a->event;
    m->expected_version = a->expected_version;
    return m;
}

/* The batch as a framed message. */
static struct slice wire_of(const struct batch *b) {
    static uint8_t bytes[WIRE_BYTES_MAX];
    Orderdb__V1__BatchCreateOrdersRequest creates = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
    Orderdb__V1__BatchTransitionOrdersRequest steps = ORDERDB__V1__BATCH_TRANSITION_ORDERS_REQUEST__INIT;
    Orderdb__V1__CreateOrderRequest *c[REQUESTS_MAX];
    Orderdb__V1__TransitionOrderRequest *t[REQUESTS_MAX];
    creates.requests = c, steps.requests = t;
    creates.atomic = b->kind == ATOMIC;
    creates.n_requests = steps.n_requests = b->count;
    for (unsigned i = 0; i < b->count; i++)
        if (b->kind == STEPS) t[i] = step_of(&b->asks[i]);
        else c[i] = create_of(&b->asks[i]);
    const ProtobufCMessage *m = b->kind == STEPS ? &steps.base : &creates.base;
    size_t n = protobuf_c_message_get_packed_size(m);
    check(n + GRPC_FRAME_HEAD <= sizeof bytes);
    grpc_frame_head(bytes, (uint32_t)n);
    protobuf_c_message_pack(m, bytes + GRPC_FRAME_HEAD);
    return slice_of(bytes, n + GRPC_FRAME_HEAD);
}

/* The command that a handler makes of it, for the model. i: the request; an atomic batch is one. */
static struct command command_of(const struct batch *b, unsigned i) {
    struct checked checked;
    struct failure f;
    struct command c;
    bool ok;
    failure_init(&f, &sim.model_arena);
    if (b->kind == STEPS) ok = check_transition(step_of(&b->asks[i]), (struct slice){0}, &sim.model_arena, &checked, &f);
    else if (b->kind == CREATES) ok = check_create(create_of(&b->asks[i]), (struct slice){0}, &sim.model_arena, &checked, &f);
    else {
        Orderdb__V1__BatchCreateOrdersRequest m = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
        Orderdb__V1__CreateOrderRequest *all[REQUESTS_MAX];
        for (unsigned k = 0; k < b->count; k++) all[k] = create_of(&b->asks[k]);
        m.n_requests = b->count, m.requests = all;
        ok = check_batch(&m, (struct slice){0}, &sim.model_arena, &checked, &f);
    }
    check(ok);
    check(command_decode(checked.command, &sim.model_arena, &c) == STATUS_OK);
    return c;
}

/* ---- answers */
static int64_t time_of(const Google__Protobuf__Timestamp *t) { return t->seconds * US_PER_S + t->nanos / 1000; }

static struct result done_of(const Orderdb__V1__Order *o, bool replayed, const Orderdb__V1__CommitToken *token) {
    check(o);
    check(token);
    check(token->slot == order_id_slot(o->order_id));
    return (struct result){.ok = true, .replayed = replayed, .order_id = o->order_id, .version = o->version, .status = o->status, .time_us = time_of(o->update_time), .seq = token->seq};
}

static struct result refused_of(struct slice status) {
    struct details d;
    check(details_decode(status, &sim.arena, &d));
    struct slice index = details_meta(&d, "index");
    return (struct result){.reason = d.reason, .index = index.len ? (const char *)index.data : NULL};
}

static struct result error_of(const Google__Rpc__Status *s) {
    size_t n = google__rpc__status__get_packed_size(s);
    uint8_t *bytes = arena_alloc(&sim.arena, n + 1);
    check(bytes);
    google__rpc__status__pack(s, bytes);
    return refused_of(slice_of(bytes, n));
}

static void results_of(const struct batch *b, const struct answer *a, struct result *out) {
    struct failure f;
    if (atoi(a->grpc_status)) {
        uint8_t *raw = arena_alloc(&sim.arena, sizeof a->details);
        check(raw);
        size_t n = base64_decode(slice_str(a->details), raw);
        check(n != SIZE_MAX);
        for (unsigned i = 0; i < b->count; i++) out[i] = refused_of(slice_of(raw, n));
        check(b->kind == ATOMIC);
        return;
    }
    failure_init(&f, &sim.arena);
    struct slice wire = slice_of(a->body + GRPC_FRAME_HEAD, a->body_len - GRPC_FRAME_HEAD);
    if (b->kind == STEPS) {
        const Orderdb__V1__BatchTransitionOrdersResponse *m = (void *)scan_unpack(&orderdb__v1__batch_transition_orders_response__descriptor, wire, &scan_limits_default, &f);
        check(m);
        check(m->n_results == b->count);
        for (unsigned i = 0; i < b->count; i++) {
            const Orderdb__V1__BatchTransitionOrdersResponse__Result *r = m->results[i];
            out[i] = r->result_case == ORDERDB__V1__BATCH_TRANSITION_ORDERS_RESPONSE__RESULT__RESULT_OK ? done_of(r->ok->order, r->ok->replayed, r->ok->token) : error_of(r->error);
        }
    } else {
        const Orderdb__V1__BatchCreateOrdersResponse *m = (void *)scan_unpack(&orderdb__v1__batch_create_orders_response__descriptor, wire, &scan_limits_default, &f);
        check(m);
        check(m->n_results == b->count);
        for (unsigned i = 0; i < b->count; i++) {
            const Orderdb__V1__BatchCreateOrdersResponse__Result *r = m->results[i];
            out[i] = r->result_case == ORDERDB__V1__BATCH_CREATE_ORDERS_RESPONSE__RESULT__RESULT_OK ? done_of(r->ok->order, r->ok->replayed, r->ok->token) : error_of(r->error);
        }
    }
}

/* ---- against the model */
static void check_done(const struct model_outcome *x, const struct result *r) {
    const struct model_order *o = &sim.model.orders[x->order];
    check(x->status == STATUS_OK);
    check(r->order_id == o->id);
    check(r->version == (int64_t)x->version);
    check(strcmp(r->status, o->entries[x->version - 1].to) == 0);
    check(r->time_us == o->entries[x->version - 1].time_us);
    check(r->seq == x->seq);
}

/* One that was done now, or before, or refused: what the model makes of it too. */
static void tell(const struct batch *b, unsigned i, struct result *r, bool was_cut) {
    struct command c = command_of(b, i);
    if (r->ok && !r->replayed) sim.model.now_us = (uint64_t)r->time_us; /* the time of its entry; partitions have their own */
    if (r->ok && was_cut) sim.model.now_us = (uint64_t)r->time_us;
    struct model_outcome x = model_apply(&sim.model, &c);
    r->told = true;
    if (!r->ok) {
        check(x.status != STATUS_OK);
        check(strcmp(r->reason, status_reason(x.status)) == 0);
        return;
    }
    check_done(&x, r);
    if (!was_cut) check(r->replayed == x.replayed);
}

static void tell_atomic(const struct batch *b, struct result *results, bool was_cut) {
    struct command c = command_of(b, 0);
    bool ok = results[0].ok;
    if (ok && (!results[0].replayed || was_cut)) sim.model.now_us = (uint64_t)results[0].time_us;
    if (!ok && was_cut) return; /* nothing was written, as the end will show */
    struct model_outcome x = model_apply(&sim.model, &c);
    for (unsigned i = 0; i < b->count; i++) {
        check(results[i].ok == (x.status == STATUS_OK));
        if (ok) {
            check_done(&x.items[i], &results[i]);
            if (!was_cut) check(results[i].replayed == x.replayed);
        } else {
            check(strcmp(results[i].reason, status_reason(x.status)) == 0);
            check((unsigned)atoi(results[i].index) == x.item);
            seen.atomic_refused++;
        }
    }
}

/* The slot's next one that was done and is not yet told; of two answers to one request the first. NULL: all are told. */
static struct result *next_done(const struct batch *b, struct result *results) {
    struct result *next = NULL;
    for (unsigned i = 0; i < b->count; i++)
        if (results[i].ok && !results[i].told && (!next || results[i].seq < next->seq)) next = &results[i];
    return next;
}

static void compare(const struct batch *b, struct result *results, bool was_cut) {
    if (b->kind == ATOMIC) {
        tell_atomic(b, results, was_cut);
        return;
    }
    if (!was_cut)
        for (unsigned i = 0; i < b->count; i++) tell(b, i, &results[i], false);
    /* Some were done the first time, some the second: the tokens tell in which order. What was refused left no trace, as the end will show. */
    for (struct result *r; was_cut && (r = next_done(b, results)); seen.cut_done += r->replayed) tell(b, (unsigned)(r - results), r, true);
}

/* ---- running */
static void step(void) {
    static struct world w;
    static struct result results[REQUESTS_MAX];
    arena_reset(&sim.arena);
    struct batch b = draw_batch();
    struct slice wire = wire_of(&b);
    const char *path = b.kind == STEPS ? SVC "BatchTransitionOrders" : SVC "BatchCreateOrders";
    bool cut = chance(15);
    call_world_open(&w, &world_call_limits);
    if (cut) call_world_exchange(&w, path, wire, false, NULL, 1 + (unsigned)below(20), false);
    results_of(&b, call_world_exchange(&w, path, wire, false, NULL, 0, false), results);
    world_close(&w);
    for (unsigned i = 0; i < b.count; i++) {
        seen.ok += results[i].ok, seen.refused += !results[i].ok, seen.replayed += results[i].replayed;
        check(results[i].ok || strcmp(results[i].reason, "INTERNAL") != 0);
    }
    seen.batches++, seen.cut += cut;
    compare(&b, results, cut);
}

static const ProtobufCMessage *ask(struct world *w, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type) {
    static uint8_t bytes[4096];
    struct failure f;
    size_t n = protobuf_c_message_get_packed_size(request);
    check(n + GRPC_FRAME_HEAD <= sizeof bytes);
    grpc_frame_head(bytes, (uint32_t)n);
    protobuf_c_message_pack(request, bytes + GRPC_FRAME_HEAD);
    const struct answer *a = call_world_exchange(w, path, slice_of(bytes, n + GRPC_FRAME_HEAD), false, NULL, 0, false);
    check(strcmp(a->grpc_status, "0") == 0);
    failure_init(&f, &sim.arena);
    const ProtobufCMessage *m = scan_unpack(type, slice_of(a->body + GRPC_FRAME_HEAD, a->body_len - GRPC_FRAME_HEAD), &scan_limits_default, &f);
    check(m);
    return m;
}

static void check_order(const struct model_order *o) {
    static struct world w;
    Orderdb__V1__ListOrderHistoryRequest q = ORDERDB__V1__LIST_ORDER_HISTORY_REQUEST__INIT;
    Orderdb__V1__GetOrderRequest g = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    q.order_id = g.order_id = o->id, q.page_size = 1000;
    arena_reset(&sim.arena);
    call_world_open(&w, &world_call_limits);
    const Orderdb__V1__Order *order = (const void *)ask(&w, SVC "GetOrder", &g.base, &orderdb__v1__order__descriptor);
    const Orderdb__V1__ListOrderHistoryResponse *h = (const void *)ask(&w, SVC "ListOrderHistory", &q.base, &orderdb__v1__list_order_history_response__descriptor);
    check(order->version == (int64_t)o->count);
    check(strcmp(order->status, o->entries[o->count - 1].to) == 0);
    check(slice_equal(slice_str(order->user_id), o->user_id));
    check(h->n_entries == o->count);
    for (unsigned i = 0; i < o->count; i++) {
        check(strcmp(h->entries[i]->event, o->entries[i].event) == 0);
        check(slice_equal(slice_str(h->entries[i]->request_id), o->entries[i].request_id));
        check(memcmp(h->entries[i]->chain_hash.data, o->entries[i].chain_hash, SHA256_BYTES) == 0);
    }
    world_close(&w);
}

static void check_end(void) {
    static struct world w;
    for (unsigned i = 0; i < sim.model.order_count; i++) check_order(&sim.model.orders[i]);
    arena_reset(&sim.arena);
    call_world_open(&w, &world_call_limits);
    for (unsigned user = 0; user < USERS; user++) {
        Orderdb__V1__ListOrdersRequest q = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
        int64_t orders = 0;
        q.user_id = text("user-%llu", user);
        for (unsigned i = 0; i < sim.model.order_count; i++) orders += slice_equal(sim.model.orders[i].user_id, slice_str(q.user_id));
        check(((const Orderdb__V1__ListOrdersResponse *)ask(&w, SVC "ListOrders", &q.base, &orderdb__v1__list_orders_response__descriptor))->total_size == orders);
    }
    world_close(&w);
}

static void run(uint64_t seed) {
    memset(&sim, 0, sizeof sim);
    sim.random.state = seed * 0x9e3779b97f4a7c15ull | 1;
    arena_init(&sim.arena, 64 << 20);
    arena_init(&sim.model_arena, 256 << 20);
    model_init(&sim.model);
    server_open(machines_new(), seed);
    for (unsigned i = 0; i < BATCHES; i++) step();
    check_end();
    for (unsigned i = 0; i < STORES; i++) walk_store(server.stores[i]);
    server_close();
    model_fini(&sim.model);
    arena_fini(&sim.model_arena);
    arena_fini(&sim.arena);
}

int main(int argc, char **argv) {
    uint64_t first = 1, seeds = 1000, done = 0;
    double seconds = 10;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
        else if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seconds") == 0) seconds = atof(argv[i + 1]);
        else return fprintf(stderr, "sim_batch [--seed N] [--seeds N] [--seconds N]\n"), 2;
    }
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    log_set_level(LOG_OFF);
    signal(SIGABRT, on_abort);
    for (; done < seeds; done++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 > seconds) break;
        run(seed_now = first + done);
    }
    check(done > 0);
    printf("# %llu batches: %llu requests done, %llu of them replayed, %llu refused; %llu batches cut off, %llu of their requests done before; refused in atomic batches: %llu\n",
           (unsigned long long)seen.batches, (unsigned long long)seen.ok, (unsigned long long)seen.replayed, (unsigned long long)seen.refused, (unsigned long long)seen.cut,
           (unsigned long long)seen.cut_done, (unsigned long long)seen.atomic_refused);
    if (done > 20) {
        check(seen.replayed > 0);
        check(seen.cut_done > 0);
        check(seen.atomic_refused > 0);
    }
    printf("ok sim_batch # %llu seeds from %llu\n", (unsigned long long)done, (unsigned long long)first);
    return 0;
}
