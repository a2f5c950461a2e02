/* guard DIRECTORY: what tests/perf/guard.py counts the instructions of. The server's work for CREATE, TRANSITION, GET (order and history) and LIST, what writing an
 * order's rows into files takes later, and a timer that fires when they are there (with a row cache that begins empty, then with a warm one), from HTTP/2 bytes to HTTP/2 bytes: sessions, calls, checks, log, apply, and the store that the server uses, in a directory of its own. One thread, a simulated clock and disk for
 * the log (call_world.h), requests drawn from a fixed seed, IN_FLIGHT at a time so that entries are batches as they are under load.
 *
 * Each guard_<work>() is a function of its own, so that callgrind can write its counters when one returns; counted is only what runs inside the server's entry points
 * (guard.py names them), not this client. Whatever is answered is checked, so that a cheap error isn't taken for progress. */
#define WORLD_OWN_STORE
#define WORLD_MEMTABLE_BYTES (96 << 20) /* so that nothing is flushed before it is told */
#define WORLD_ROW_CACHE_BYTES (16 << 20)        /* all rows that are kept have room */
#define WORLD_FILTER_BYTES (256 << 10)
#include "tests/lib/call_world.h"

#include "orderdb/v1/order.pb-c.h"
#include "proto/scan.h"

#define EXPIRY_NS (31 * 60 * NS_PER_S) /* retail@1: orders that were not paid */
enum { USERS = 20, ORDERS_PER_USER = 48, LISTED_ORDERS = 200, LISTED_CHANGED = 192, WARM_CHANGED = 192, IN_FLIGHT = 32, WRITES = 512, READS = 512, LISTS = 256, ITEMS = 3, REQUEST_BYTES_MAX = 2048, LISTS_BYTES = 4 << 20 };

static const char *directory;
static struct world w;
static struct store_shared *shared;
static int64_t orders[USERS * ORDERS_PER_USER + LISTED_ORDERS + WRITES];
static unsigned order_count, requests;
static uint8_t wires[IN_FLIGHT][REQUEST_BYTES_MAX];
static struct arena unpacked;

void guard_create(void);
void guard_transition(void);
void guard_get(void);
void guard_list(void);
void guard_flush(void);
void guard_get_flushed(void);
void guard_list_flushed(void);
void guard_list_warm(void);
void guard_transition_flushed(void);
void guard_restart(void);
void guard_warm(void);
void guard_get_warm(void);
void guard_transition_warm(void);
void guard_fire(void);

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    char path[512];
    snprintf(path, sizeof path, "%s/part-%u", directory, (unsigned)MIN_OF(partition, (uint32_t)PARTITIONS));
    const struct store_config sc = {.memtable_bytes = memtable_bytes, .block_cache_bytes = 64 << 20, .shared = shared, ENGINE_STORE_KEYS};
    enum status st = store_open_rocks(out, path, &sc, error);
    server.stores[MIN_OF(partition, (uint32_t)PARTITIONS)] = *out;
    return st;
}

/* ---- requests */
struct sent {
    const char *path;
    const ProtobufCMessageDescriptor *answer;
    struct slice wire;
};

static struct sent pack(unsigned i, const char *path, const ProtobufCMessage *m, const ProtobufCMessageDescriptor *answer) {
    size_t n = protobuf_c_message_get_packed_size(m);
    check(n + GRPC_FRAME_HEAD <= REQUEST_BYTES_MAX);
    grpc_frame_head(wires[i], (uint32_t)n);
    protobuf_c_message_pack(m, wires[i] + GRPC_FRAME_HEAD);
    return (struct sent){path, answer, slice_of(wires[i], n + GRPC_FRAME_HEAD)};
}

static void request_id_make(char out[33]) { snprintf(out, 33, "guard-%026u", requests++); }

static struct sent create_make(unsigned i, const char *user) {
    static char currency[] = "CNY", titles[ITEMS][64], skus[ITEMS][24], request_id[33];
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT, freight = ORDERDB__V1__MONEY__INIT;
    Orderdb__V1__OrderItem items[ITEMS], *item_ptrs[ITEMS];
    Orderdb__V1__Address address = ORDERDB__V1__ADDRESS__INIT;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest m = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    price.currency_code = freight.currency_code = currency, price.minor_units = 1990, freight.minor_units = 800;
    for (unsigned k = 0; k < ITEMS; k++) {
        uint64_t sku = sim_world_below(server.world, 100000);
        orderdb__v1__order_item__init(item_ptrs[k] = &items[k]);
        snprintf(skus[k], sizeof skus[k], "sku-%08u", (unsigned)sku), snprintf(titles[k], sizeof titles[k], "umbrella, model %05u, colour %u", (unsigned)(sku % 9973), (unsigned)(sku % 7));
        items[k].sku_id = skus[k], items[k].title = titles[k], items[k].quantity = 1, items[k].unit_price = &price;
    }
    address.recipient = (char *)"Chen Wei", address.phone = (char *)"13800000000", address.region_code = (char *)"CN-31";
    address.line = (char *)"12 Harbour Road, building 3, room 501, a door without a name";
    request_id_make(request_id);
    order.user_id = (char *)(uintptr_t)user, order.merchant_id = (char *)"merchant-00017", order.n_items = ITEMS, order.items = item_ptrs, order.address = &address;
    order.freight = &freight;
    options.request_id = request_id, m.order = &order, m.options = &options;
    return pack(i, SVC "CreateOrder", &m.base, &orderdb__v1__create_order_response__descriptor);
}

static struct sent transition_make(unsigned i, int64_t order_id, const char *event) {
    char request_id[33];
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__TransitionOrderRequest m = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    request_id_make(request_id);
    options.request_id = request_id, m.order_id = order_id, m.event = (char *)(uintptr_t)event, m.options = &options;
    return pack(i, SVC "TransitionOrder", &m.base, &orderdb__v1__transition_order_response__descriptor);
}

static struct sent get_make(unsigned i, int64_t order_id) {
    Orderdb__V1__GetOrderRequest m = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    m.order_id = order_id, m.history_entries = 100;
    return pack(i, SVC "GetOrder", &m.base, &orderdb__v1__order__descriptor);
}

static struct sent list_make(unsigned i, const char *user) {
    Orderdb__V1__ListOrdersRequest m = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    m.user_id = (char *)(uintptr_t)user, m.page_size = 20;
    return pack(i, SVC "ListOrders", &m.base, &orderdb__v1__list_orders_response__descriptor);
}

static const char *user_name(char out[24], unsigned n) { return snprintf(out, 24, "user-%05u", n), out; }

/* ---- answers */
static const ProtobufCMessage *answer_message(const struct answer *a, const ProtobufCMessageDescriptor *type) {
    struct failure f;
    failure_init(&f, &unpacked);
    check(a->closed);
    check(strcmp(a->grpc_status, "0") == 0);
    check(a->body_len > GRPC_FRAME_HEAD);
    const ProtobufCMessage *m = scan_unpack(type, slice_of(a->body + GRPC_FRAME_HEAD, a->body_len - GRPC_FRAME_HEAD), &scan_limits_default, &f);
    check(m);
    return m;
}

static void answer_check(const struct answer *a, const struct sent *s) {
    const ProtobufCMessage *m = answer_message(a, s->answer);
    if (s->answer == &orderdb__v1__create_order_response__descriptor) {
        check(order_count < ARRAY_LEN(orders));
        orders[order_count++] = ((const Orderdb__V1__CreateOrderResponse *)m)->order->order_id;
    } else if (s->answer == &orderdb__v1__order__descriptor) {
        const Orderdb__V1__Order *o = (const Orderdb__V1__Order *)m;
        check(o->n_items == ITEMS && (int64_t)o->n_history == o->version);
    } else if (s->answer == &orderdb__v1__list_orders_response__descriptor) check(((const Orderdb__V1__ListOrdersResponse *)m)->n_orders == 20);
}

/* Sends them all, turns until each is answered. */
static void exchange(const struct sent *sent, unsigned n) {
    unsigned open = n;
    for (unsigned i = 0; i < n; i++) world_request(&w, sent[i].path, sent[i].wire, false, NULL, NULL);
    world_pump(&w);
    for (unsigned turns = 0; open; turns++) {
        check(turns < CALL_WORLD_TURNS_MAX);
        turn(&w);
        open = 0;
        for (unsigned i = 0; i < n; i++) open += !w.answers[i].closed;
    }
    arena_reset(&unpacked);
    for (unsigned i = 0; i < n; i++) answer_check(&w.answers[i], &sent[i]), free(w.answers[i].body);
    w.answer_count = 0;
}

/* ---- work */
static void creates(unsigned count, unsigned users, unsigned first_user) {
    struct sent sent[IN_FLIGHT];
    char user[24];
    for (unsigned done = 0; done < count; done += IN_FLIGHT) {
        for (unsigned i = 0; i < IN_FLIGHT; i++) sent[i] = create_make(i, user_name(user, first_user + (done + i) % users));
        exchange(sent, IN_FLIGHT);
    }
}

__attribute__((noinline)) void guard_create(void) { creates(WRITES, 1000, 1000); }

/* `count` orders from `first` on, each taken two steps. */
static void transitions(unsigned first, unsigned count) {
    static const char *const events[] = {"pay", "ship"};
    struct sent sent[IN_FLIGHT];
    for (unsigned done = 0; done < 2 * count; done += IN_FLIGHT) {
        for (unsigned i = 0; i < IN_FLIGHT; i++) sent[i] = transition_make(i, orders[first + (done + i) % count], events[(done + i) / count]);
        exchange(sent, IN_FLIGHT);
    }
}

/* Of orders that were made before those of guard_create(). */
__attribute__((noinline)) void guard_transition(void) { transitions(0, WRITES / 2); }

/* As make bench counts it: the order with its items and its history, one call. */
static void gets(void) {
    struct sent sent[IN_FLIGHT];
    for (unsigned done = 0; done < READS; done += IN_FLIGHT) {
        for (unsigned i = 0; i < IN_FLIGHT; i++) sent[i] = get_make(i, orders[sim_world_below(server.world, order_count)]);
        exchange(sent, IN_FLIGHT);
    }
}

static void lists(void) {
    struct sent sent[IN_FLIGHT];
    char user[24];
    for (unsigned done = 0; done < LISTS; done += IN_FLIGHT) {
        for (unsigned i = 0; i < IN_FLIGHT; i++) sent[i] = list_make(i, user_name(user, USERS));
        exchange(sent, IN_FLIGHT);
    }
}

/* First all rows are in memory, not in any file yet; then none is. */
__attribute__((noinline)) void guard_get(void) { gets(); }
__attribute__((noinline)) void guard_list(void) { lists(); }
/* The store's own thread does it: guard.py counts what is behind its first function. */
__attribute__((noinline)) void guard_flush(void) {
    for (unsigned i = 0; i < STORES; i++) check(store_flush(server.stores[i]) == STATUS_OK);
}
__attribute__((noinline)) void guard_get_flushed(void) { gets(); }
__attribute__((noinline)) void guard_list_flushed(void) { lists(); }
/* Of a user whose newest rows are in memory, as one is who has been asked for before; commits on his orders then keep them up to date. */
__attribute__((noinline)) void guard_list_warm(void) {
    check((server.engine->lists = list_cache_new(LISTS_BYTES)) != NULL);
    lists();
}
/* Of the user with many orders, whose rows are in files before the first step. */
__attribute__((noinline)) void guard_transition_flushed(void) { transitions(USERS * ORDERS_PER_USER, LISTED_CHANGED); }

/* The engine forgets what it held in memory, and reads its idempotency keys. */
__attribute__((noinline)) void guard_restart(void) {
    engine_restart();
    for (unsigned i = 0; i < PARTITIONS; i++)
        while (server.engine->partitions[i].filter) engine_tick(server.engine), sim_world_run(server.world, 20000);
}
/* All orders are read once. */
__attribute__((noinline)) void guard_warm(void) {
    struct sent sent[IN_FLIGHT];
    for (unsigned done = 0; done < order_count; done += IN_FLIGHT) {
        for (unsigned i = 0; i < IN_FLIGHT; i++) sent[i] = get_make(i, orders[MIN_OF(done + i, order_count - 1)]);
        exchange(sent, IN_FLIGHT);
    }
}
__attribute__((noinline)) void guard_get_warm(void) { gets(); }
__attribute__((noinline)) void guard_transition_warm(void) { transitions(WRITES / 2, WARM_CHANGED); }

static unsigned fired(void) {
    struct engine_stats stats;
    engine_get_stats(server.engine, &stats);
    return (unsigned)stats.timers_fired;
}
/* All orders that were not paid expire at once, their rows in files. */
__attribute__((noinline)) void guard_fire(void) {
    unsigned due = order_count - WRITES / 2 - LISTED_CHANGED - WARM_CHANGED; /* those that were shipped have other timers */
    while (fired() < due) engine_tick(server.engine), sim_world_run(server.world, 20000);
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: guard DIRECTORY\n"), 2;
    directory = argv[1];
    shared = store_shared_new(64 << 20, 1);
    check(shared);
    arena_init(&unpacked, 64 << 20);
    server_open(machines_new(), 1);
    call_world_open(&w, &world_call_limits);
    creates(USERS * ORDERS_PER_USER / IN_FLIGHT * IN_FLIGHT, USERS, 0);
    creates(LISTED_ORDERS / IN_FLIGHT * IN_FLIGHT, 1, USERS);
    guard_create();
    guard_transition();
    guard_get();
    guard_list();
    jobs_home();
    guard_flush();
    guard_restart();
    guard_get_flushed();
    guard_list_flushed();
    guard_list_warm();
    guard_transition_flushed();
    guard_warm();
    guard_get_warm();
    guard_transition_warm();
    sim_world_run(server.world, EXPIRY_NS);
    guard_fire();
    printf("operations create %d transition %d get %d list %d flush %u get_flushed %d list_flushed %d list_warm %d transition_flushed %d get_warm %d transition_warm %d fire %u\n", WRITES, WRITES, READS, LISTS, order_count, READS, LISTS, LISTS, 2 * LISTED_CHANGED, READS, 2 * WARM_CHANGED, fired());
    world_close(&w);
    server_close();
    store_shared_free(shared);
    arena_fini(&unpacked);
    return 0;
}
