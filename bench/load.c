/* load: orders against a server, as many as it takes, on the client's asynchronous channel. One thread; a worker is one call in flight.
 *
 * Closed loop (default): each worker sends its next call when the last one is answered. Open loop (--rate): calls are due at fixed times whatever the
 * server does, and latency counts from when a call was due, so that a stall is seen by all calls that it delays.
 *
 * Every request follows from its request id alone (and the user and, for transitions, order and event): `--mode replay --from LEDGER` sends the same
 * requests again, which is how crash tests ask what became of an unanswered one. The ledger has one line per settled write,
 *
 *   A create|pay|ship|deliver|confirm ORDER_ID USER REQUEST_ID VERSION     acknowledged
 *   U create|pay|ship|deliver|confirm ORDER_ID USER REQUEST_ID 0           sent, outcome unknown (ORDER_ID 0 for create)
 *
 * written before the write is counted. A replay writes the answers to its own ledger; refused ones (an id whose write never took effect and now cannot)
 * are counted under their reason. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bench/histogram.h"
#include "bench/number.h"
#include "client/fleet.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "proto/details.h"
#include "proto/tls.h"

enum { ITEMS_MAX = 20, REASONS_MAX = 64, NAME_BYTES = 64, ID_BYTES = 33, KNOWN_MAX = 1 << 20, TENTHS = 10, RETRY_MS = 100 };

enum mode { MODE_CREATE, MODE_TRANSITION, MODE_GET, MODE_LIST, MODE_MIXED, MODE_REPLAY, MODE_COUNT };
static const char *const mode_names[MODE_COUNT] = {"create", "transition", "get", "list", "mixed", "replay"};
enum kind { KIND_CREATE, KIND_TRANSITION, KIND_GET, KIND_LIST, KIND_COUNT };
static const char *const kind_names[KIND_COUNT] = {"create", "transition", "get", "list"};
static const char *const paths[KIND_COUNT] = {
    "/orderdb.v1.OrderService/CreateOrder", "/orderdb.v1.OrderService/TransitionOrder", "/orderdb.v1.OrderService/GetOrder",
    "/orderdb.v1.OrderService/ListOrders",
};
static const char *const events[] = {"pay", "ship", "deliver", "confirm"}; /* an order's life, step by step */

static struct {
    const char *server, *ledger, *from, *tls_ca;
    enum mode mode;
    uint64_t connections, inflight, orders, seconds, users, items, prefill, timeout_ms, seed;
    double rate;
    bool reconnect, progress, all, routed;
} opt = {.server = "127.0.0.1:7400", .connections = 4, .inflight = 16, .users = 100000, .timeout_ms = 10000, .prefill = 10000};

/* ---- the run */

struct worker {
    struct channel *channel; /* routed: NULL */
    struct fleet_seat *seat; /* routed: of the call under way */
    int slot;                /* its */
    struct list node;     /* in idle or paused */
    uint64_t due_ns;      /* latency counts from here; paused: until here */
    enum kind kind;
    bool setup;           /* prepares an order and is not measured */
    bool again;           /* replay: the same request once more */
    unsigned step;        /* events[step] comes next for order_id */
    int64_t order_id;     /* 0: none of its own */
    char user[24], request_id[ID_BYTES + 1];
    char event[16];
    uint64_t draw;        /* its random numbers */
};
struct known {
    int64_t order_id;
};
struct reason {
    char name[NAME_BYTES];
    uint64_t count;
};
static struct {
    struct tls_source *tls; /* NULL: cleartext */
    struct channel_loop *loop;
    struct fleet *fleet; /* routed */
    struct worker *workers;
    uint64_t worker_count;
    struct list idle, paused;
    struct known *known; /* orders to read; a ring */
    uint64_t known_count;
    uint64_t started_ns, sent, settled, acked, failed, unknown, in_flight, sequence, next_due_ns, bytes_sent;
    uint64_t until_ns;   /* --seconds */
    uint64_t tenth_ns[TENTHS + 1], tenth_acked[TENTHS + 1];
    unsigned tenth;
    bool prefilling, stopping, broken;
    struct histogram latency[KIND_COUNT];
    struct reason reasons[REASONS_MAX];
    unsigned reason_count;
    int ledger_fd;
    struct buf ledger, request;
    FILE *from;
} run;

static volatile sig_atomic_t interrupted;
static void signal_cb(int number) { interrupted = 1; }

/* splitmix64: https://prng.di.unimi.it/splitmix64.c is the constants' origin */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* ---- ledger */

static void ledger_flush(void) {
    size_t at = 0;
    while (at < run.ledger.len) {
        ssize_t n = write(run.ledger_fd, run.ledger.data + at, run.ledger.len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) panic_now("ledger: %s", strerror(errno));
        at += (size_t)n;
    }
    run.ledger.len = 0;
}

static void ledger_line(char what, const struct worker *w, int64_t order_id, int64_t version) {
    char line[256];
    if (run.ledger_fd < 0) return;
    int n = snprintf(line, sizeof(line), "%c %s %lld %s %s %lld\n", what, w->kind == KIND_CREATE ? "create" : w->event, (long long)order_id, w->user,
                     w->request_id, (long long)version);
    check(buf_append(&run.ledger, slice_of(line, (size_t)n)));
    ledger_flush();
}

/* ---- requests */

static void request_pack(const ProtobufCMessage *m) {
    run.request.len = 0;
    check(buf_reserve(&run.request, protobuf_c_message_get_packed_size(m)));
    run.request.len = protobuf_c_message_pack(m, run.request.data);
}

struct order_parts {
    Orderdb__V1__Order order;
    Orderdb__V1__OrderItem items[ITEMS_MAX], *item_ptrs[ITEMS_MAX];
    Orderdb__V1__Money prices[ITEMS_MAX], totals[3];
    Orderdb__V1__Address address;
    char texts[ITEMS_MAX][2][64], merchant[24], phone[24], line[64];
};

/* 300 to 700 bytes with one to three items, the same for the same request id. */
static void order_build(struct order_parts *p, const struct worker *w) {
    static const char *const words[] = {"umbrella", "kettle", "lamp", "notebook", "cable", "jacket", "backpack", "tea", "keyboard", "mug"};
    uint64_t d = hash64(slice_str(w->request_id));
    size_t n = opt.items ? opt.items : 1 + draw(&d) % 3;
    int64_t total = 0;
    orderdb__v1__order__init(&p->order);
    for (size_t i = 0; i < n; i++) {
        uint64_t r = draw(&d);
        orderdb__v1__order_item__init(&p->items[i]);
        orderdb__v1__money__init(&p->prices[i]);
        snprintf(p->texts[i][0], 64, "sku-%08x", (unsigned)(r % 1000000));
        unsigned model = (unsigned)(r >> 20 & 0xfff), colour = (unsigned)(r >> 40 & 15);
        snprintf(p->texts[i][1], 64, "%s %s, model %u, colour %u", words[r % 10], words[r / 10 % 10], model, colour);
        p->prices[i].currency_code = (char *)(uintptr_t)"CNY";
        p->prices[i].minor_units = (int64_t)(r >> 32 & 0xffff) + 1;
        p->items[i].sku_id = p->texts[i][0], p->items[i].title = p->texts[i][1];
        p->items[i].quantity = 1 + (int32_t)(r >> 8 & 3);
        p->items[i].unit_price = &p->prices[i];
        total += p->items[i].quantity * p->prices[i].minor_units;
        p->item_ptrs[i] = &p->items[i];
    }
    for (int i = 0; i < 3; i++) orderdb__v1__money__init(&p->totals[i]), p->totals[i].currency_code = (char *)(uintptr_t)"CNY";
    p->totals[0].minor_units = total, p->totals[1].minor_units = 800, p->totals[2].minor_units = total + 800;
    orderdb__v1__address__init(&p->address);
    snprintf(p->merchant, sizeof(p->merchant), "merchant-%05u", (unsigned)(draw(&d) % 20000));
    snprintf(p->phone, sizeof(p->phone), "138%08u", (unsigned)(draw(&d) % 100000000));
    snprintf(p->line, sizeof(p->line), "%u Harbour Road, building %u, room %u", (unsigned)(d % 900), (unsigned)(d >> 16 & 63), (unsigned)(d >> 24 & 1023));
    p->address.recipient = (char *)(uintptr_t)"Chen Wei", p->address.phone = p->phone, p->address.region_code = (char *)(uintptr_t)"CN-31";
    p->address.line = p->line;
    p->order.user_id = (char *)(uintptr_t)w->user, p->order.merchant_id = p->merchant;
    p->order.n_items = n, p->order.items = p->item_ptrs, p->order.address = &p->address;
    p->order.items_total = &p->totals[0], p->order.freight = &p->totals[1], p->order.payable = &p->totals[2];
}

static void create_pack(struct worker *w) {
    struct order_parts p;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    order_build(&p, w);
    options.request_id = w->request_id;
    r.order = &p.order, r.options = &options;
    request_pack(&r.base);
}

static void transition_pack(struct worker *w) {
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__TransitionOrderRequest r = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    options.request_id = w->request_id;
    r.order_id = w->order_id, r.event = w->event, r.options = &options;
    request_pack(&r.base);
}

static void get_pack(struct worker *w) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    r.order_id = run.known[draw(&w->draw) % MIN_OF(run.known_count, (uint64_t)KNOWN_MAX)].order_id;
    request_pack(&r.base);
}

static void list_pack(struct worker *w) {
    Orderdb__V1__ListOrdersRequest r = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    r.user_id = w->user;
    request_pack(&r.base);
}

/* ---- what comes next */

static void worker_new_id(struct worker *w) {
    snprintf(w->request_id, sizeof(w->request_id), "L%016llx%016llx", (unsigned long long)opt.seed, (unsigned long long)run.sequence++);
}
static void worker_new_user(struct worker *w) { snprintf(w->user, sizeof(w->user), "u%07llu", (unsigned long long)(draw(&w->draw) % opt.users)); }

static void choose_create(struct worker *w, bool setup) {
    w->kind = KIND_CREATE, w->setup = setup;
    worker_new_user(w);
    worker_new_id(w);
}

static void choose_transition(struct worker *w) {
    if (!w->order_id) return choose_create(w, opt.mode == MODE_TRANSITION);
    w->kind = KIND_TRANSITION, w->setup = false;
    snprintf(w->event, sizeof(w->event), "%s", events[w->step]);
    worker_new_id(w);
}

static void choose_read(struct worker *w, enum kind kind) {
    w->kind = kind, w->setup = false;
    if (kind == KIND_LIST) worker_new_user(w);
}

/* The next line to send again: unanswered ones, or with --all every one. false: the end. */
static bool choose_replay(struct worker *w) {
    if (w->again) return w->again = false, true;
    char what, method[16], user[24], id[ID_BYTES + 1];
    long long order_id, version;
    while (fscanf(run.from, " %c %15s %lld %23s %33s %lld", &what, method, &order_id, user, id, &version) == 6) {
        if (what != 'U' && !opt.all) continue;
        w->kind = strcmp(method, "create") == 0 ? KIND_CREATE : KIND_TRANSITION;
        w->setup = false;
        w->order_id = w->kind == KIND_CREATE ? 0 : order_id;
        memcpy(w->event, method, sizeof(method)), memcpy(w->user, user, sizeof(user)), memcpy(w->request_id, id, sizeof(id));
        return true;
    }
    return false;
}

static bool choose(struct worker *w) {
    if (run.prefilling) return choose_create(w, true), true;
    unsigned dice = (unsigned)(draw(&w->draw) % 100);
    switch (opt.mode) {
    case MODE_CREATE: choose_create(w, false); return true;
    case MODE_TRANSITION: choose_transition(w); return true;
    case MODE_GET: choose_read(w, KIND_GET); return true;
    case MODE_LIST: choose_read(w, KIND_LIST); return true;
    case MODE_REPLAY: return choose_replay(w);
    default: break;
    }
    if (dice < 30) choose_create(w, false);
    else if (dice < 60) choose_transition(w);
    else if (dice < 90) choose_read(w, KIND_GET);
    else choose_read(w, KIND_LIST);
    return true;
}

/* ---- answers */

static void count_reason(const struct channel_answer *a) {
    char text[NAME_BYTES];
    struct arena arena;
    struct details d = {.reason = ""};
    arena_init(&arena, 64 * KIB);
    if (a->details.len && !details_decode(a->details, &arena, &d)) d.reason = "";
    const char *fate = a->fate == CHANNEL_NOT_SENT ? "(not sent)" : a->fate == CHANNEL_UNKNOWN ? "(no answer)" : "";
    snprintf(text, sizeof(text), "%d %s", (int)a->code, *d.reason ? d.reason : fate);
    arena_fini(&arena);
    unsigned i = 0;
    while (i < run.reason_count && strcmp(run.reasons[i].name, text) != 0) i++;
    if (i == REASONS_MAX) i--;
    if (i == run.reason_count) memcpy(run.reasons[run.reason_count++].name, text, sizeof(text));
    run.reasons[i].count++;
}

static void order_known(int64_t order_id) {
    if (run.known) run.known[run.known_count++ % KNOWN_MAX].order_id = order_id;
}

/* Order id and version of the answer, read from its wire bytes: field 1 is the order, its fields 1 and 8 the numbers. */
static void answer_numbers(struct slice response, int64_t *order_id, int64_t *version) {
    struct reader r = reader_of(response);
    *order_id = *version = 0;
    if (read_varint(&r) != (1 << 3 | 2)) return;
    r = reader_of(read_counted(&r));
    while (reader_left(&r) && !r.bad) {
        uint64_t tag = read_varint(&r), v = 0;
        if ((tag & 7) == 0) v = read_varint(&r);
        else if ((tag & 7) == 2) (void)read_counted(&r);
        else return;
        if (tag == (1 << 3)) *order_id = (int64_t)v;
        if (tag == (8 << 3)) *version = (int64_t)v;
    }
}

static void worker_took(struct worker *w, const struct channel_answer *a) {
    int64_t order_id, version;
    if (w->kind == KIND_GET || w->kind == KIND_LIST) return;
    answer_numbers(a->response, &order_id, &version);
    if (order_id <= 0 || version <= 0) {
        fprintf(stderr, "load: an answer without order id or version\n");
        run.broken = true;
        return;
    }
    ledger_line('A', w, order_id, version);
    if (w->kind == KIND_CREATE) {
        order_known(order_id);
        w->order_id = order_id, w->step = 0;
    } else if (++w->step == ARRAY_LEN(events)) {
        w->order_id = 0;
    }
}

static void tenths_note(uint64_t now) {
    if (run.prefilling) return;
    for (;;) {
        bool by_time = opt.seconds > 0;
        uint64_t span = run.until_ns - run.started_ns;
        if (run.tenth == TENTHS) return;
        uint64_t at_ns = run.started_ns + span * (run.tenth + 1) / TENTHS, at_acked = opt.orders * (run.tenth + 1) / TENTHS;
        if (by_time ? now < at_ns : run.acked < at_acked) return;
        run.tenth++;
        run.tenth_ns[run.tenth] = now, run.tenth_acked[run.tenth] = run.acked;
    }
}

static bool enough(uint64_t now) {
    if (interrupted || run.broken) return true;
    if (run.prefilling) return run.settled + run.in_flight >= opt.prefill;
    if (opt.mode == MODE_REPLAY) return false;
    return opt.seconds ? now >= run.until_ns : run.acked + run.in_flight >= opt.orders;
}

static void worker_pause(struct worker *w, uint64_t now, int64_t pushback_ms) {
    w->due_ns = now + (uint64_t)MAX_OF(pushback_ms, (int64_t)RETRY_MS) * NS_PER_MS;
    list_push_back(&run.paused, &w->node);
}

static void answer_cb(void *user, const struct channel_answer *a) {
    struct worker *w = user;
    uint64_t now = channel_now_ns();
    if (run.fleet) fleet_seat_leave(run.fleet, w->seat, w->slot, a, a->code == GRPC_UNAVAILABLE);
    run.in_flight--;
    run.settled++;
    if (a->code == GRPC_OK) {
        worker_took(w, a);
        if (!w->setup || run.prefilling) run.acked++;
        if (!w->setup) histogram_add(&run.latency[w->kind], now - w->due_ns);
        tenths_note(now);
        list_push_back(&run.idle, &w->node);
        return;
    }
    bool write = w->kind == KIND_CREATE || w->kind == KIND_TRANSITION, lost = a->fate == CHANNEL_UNKNOWN || a->code == GRPC_DEADLINE_EXCEEDED;
    run.failed++;
    count_reason(a);
    if (write && lost && opt.mode != MODE_REPLAY) {
        ledger_line('U', w, w->kind == KIND_CREATE ? 0 : w->order_id, 0);
        run.unknown++;
    }
    bool passing = a->code == GRPC_UNAVAILABLE || a->code == GRPC_RESOURCE_EXHAUSTED || a->code == GRPC_DEADLINE_EXCEEDED;
    w->again = opt.mode == MODE_REPLAY && opt.reconnect && passing;
    if (!w->again && (lost || !passing)) w->order_id = 0; /* where it stands is not known */
    if (a->code == GRPC_UNAVAILABLE && !opt.reconnect) run.broken = true;
    worker_pause(w, now, a->pushback_ms);
}

/* ---- the loop */

static void worker_send(struct worker *w, uint64_t due_ns) {
    static void (*const pack[KIND_COUNT])(struct worker *) = {create_pack, transition_pack, get_pack, list_pack};
    pack[w->kind](w);
    uint64_t now = channel_now_ns();
    w->due_ns = due_ns ? due_ns : now;
    struct channel_request r = {.path = paths[w->kind], .message = buf_slice(&run.request), .on_answer = answer_cb, .user = w};
    r.deadline_ns = now + opt.timeout_ms * NS_PER_MS;
    if (run.fleet) {
        w->slot = routes_slot_of(r.path, r.message);
        w->seat = fleet_pick_any(run.fleet, w->slot);
    }
    if ((run.fleet && !w->seat) || !channel_start(run.fleet ? w->seat->channel : w->channel, &r)) panic_now("out of memory");
    if (run.fleet) fleet_seat_take(run.fleet, w->seat);
    run.in_flight++;
    run.sent++;
    run.bytes_sent += run.request.len;
}

/* Gives idle workers what is due. Returns until when to wait. */
static uint64_t dispatch(uint64_t now) {
    list_each(it, &run.paused) {
        struct worker *w = list_entry(it, struct worker, node);
        if (w->due_ns > now && !run.stopping) continue;
        list_remove(it);
        list_push_back(&run.idle, it);
    }
    uint64_t gap = opt.rate > 0 && !run.prefilling ? (uint64_t)(1e9 / opt.rate) : 0;
    while (!list_empty(&run.idle) && !run.stopping) {
        if (enough(now)) {
            run.stopping = opt.seconds || interrupted || run.broken || run.prefilling || (opt.orders && run.acked >= opt.orders);
            break;
        }
        if (gap && run.next_due_ns > now) return run.next_due_ns;
        struct worker *w = list_entry(list_pop_front(&run.idle), struct worker, node);
        if (!choose(w)) {
            list_push_back(&run.idle, &w->node);
            run.stopping = list_empty(&run.paused) && run.in_flight == 0;
            break;
        }
        worker_send(w, gap ? run.next_due_ns : 0);
        if (gap) run.next_due_ns += gap;
    }
    return now + (list_empty(&run.paused) ? 100 : 10) * NS_PER_MS;
}

static void progress_print(uint64_t now) {
    static uint64_t last_ns, last_acked;
    if (!opt.progress || now - last_ns < NS_PER_S) return;
    if (last_ns) {
        fprintf(stderr, "%6.1f s  %llu acked  %.0f/s  %llu failed  %llu in flight\n", (double)(now - run.started_ns) / 1e9, (unsigned long long)run.acked,
                (double)(run.acked - last_acked) * 1e9 / (double)(now - last_ns), (unsigned long long)run.failed, (unsigned long long)run.in_flight);
    }
    last_ns = now, last_acked = run.acked;
}

static void phase_run(bool prefill) {
    uint64_t now = channel_now_ns();
    run.prefilling = prefill;
    run.stopping = false;
    run.started_ns = run.next_due_ns = run.tenth_ns[0] = now;
    run.until_ns = now + opt.seconds * NS_PER_S;
    run.acked = run.settled = run.sent = run.bytes_sent = run.failed = run.unknown = 0;
    for (;;) {
        uint64_t until = dispatch(now);
        if (run.stopping && run.in_flight == 0) break;
        channel_loop_turn(run.loop, until > now ? until - now : 0);
        now = channel_now_ns();
        if (opt.seconds) tenths_note(now);
        progress_print(now);
    }
}

/* ---- report */

static double cpu_seconds(void) {
    struct rusage u;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double tenth_rate(unsigned i) {
    uint64_t ns = run.tenth_ns[i] - run.tenth_ns[i - 1];
    return ns ? (double)(run.tenth_acked[i] - run.tenth_acked[i - 1]) * 1e9 / (double)ns : 0;
}

static void report(double cpu) {
    double elapsed = (double)(channel_now_ns() - run.started_ns) / 1e9;
    printf("%s: %llu acknowledged in %.2f s, %.0f/s; %llu failed, of them %llu unknown; %.0f bytes a request; %.2f us of generator CPU per call\n",
           mode_names[opt.mode], (unsigned long long)run.acked, elapsed, (double)run.acked / elapsed,
           (unsigned long long)run.failed, (unsigned long long)run.unknown,
           run.sent ? (double)run.bytes_sent / (double)run.sent : 0, run.sent ? cpu * 1e6 / (double)run.sent : 0);
    for (int k = 0; k < KIND_COUNT; k++) {
        const struct histogram *h = &run.latency[k];
        if (!h->count) continue;
        printf("  %-10s %10llu  p50 %.3f ms  p99 %.3f ms  p99.9 %.3f ms  max %.3f ms\n", kind_names[k], (unsigned long long)h->count, histogram_ms(h, 0.5),
               histogram_ms(h, 0.99), histogram_ms(h, 0.999), (double)h->max / 1e6);
    }
    if (run.tenth == TENTHS) {
        printf("  tenths:");
        for (unsigned i = 1; i <= TENTHS; i++) printf(" %.0f", tenth_rate(i));
        printf(" /s; last / first = %.1f %%\n", 100 * tenth_rate(TENTHS) / MAX_OF(tenth_rate(1), 1e-9));
    }
    struct fleet_stats s = run.fleet ? fleet_stats(run.fleet) : (struct fleet_stats){0};
    if (run.fleet) printf("  routed: %llu answers by way of another node, %llu times a node was left alone\n", (unsigned long long)s.forwarded, (unsigned long long)s.ejections);
    for (unsigned i = 0; i < run.reason_count; i++) printf("  error %s: %llu\n", run.reasons[i].name, (unsigned long long)run.reasons[i].count);
}

/* ---- start */

static const char help[] =
    "load: orders against an OrderDB server\n\n"
    "  --server HOST:PORT    default 127.0.0.1:7400; of a cluster's nodes several, with commas: calls go to the leaders\n"
    "  --routed              so, too, with one address: the others are learnt\n"
    "  --tls-ca FILE         TLS; who signs the server's certificate (PEM)\n"
    "  --mode M              create, transition, get, list, mixed (30 % create, 30 % transition, 30 % get, 10 % list), replay\n"
    "  --connections C       default 4; routed: to each node\n"
    "  --inflight N          calls in flight per connection, default 16\n"
    "  --orders N            until N calls are acknowledged, or\n"
    "  --seconds S           for S seconds (default 10)\n"
    "  --rate R              open loop: R calls a second\n"
    "  --users U             default 100000\n"
    "  --items K             items per order; default 1 to 3\n"
    "  --prefill N           orders made before reads are measured, default 10000\n"
    "  --timeout-ms MS       deadline of a call, default 10000\n"
    "  --seed S              request ids start from it; default: random\n"
    "  --ledger FILE         append a line per acknowledged write and per unknown outcome (bench/load.c says how)\n"
    "  --reconnect           go on when the server goes away; without it the first lost connection ends the run; a replay\n"
    "                        then repeats what was not answered until it is\n"
    "  --from FILE           --mode replay: send the unknown writes of this ledger again; --all: every write\n"
    "  --progress            a line per second on stderr\n\n"
    "Exit code 0: done; 1: something failed (with --reconnect: nothing was acknowledged); 2: usage.\n";

static bool mode_read(const char *text) {
    for (int i = 0; i < MODE_COUNT; i++) {
        if (strcmp(mode_names[i], text) == 0) return opt.mode = (enum mode)i, true;
    }
    return false;
}

static bool flag_read(int flag, const char *text) {
    switch (flag) {
    case 's': opt.server = text; return true;
    case 'T': opt.tls_ca = text; return true;
    case 'm': return mode_read(text);
    case 'c': return number_read(text, 0, 1, 10000, &opt.connections);
    case 'i': return number_read(text, 0, 1, 10000, &opt.inflight);
    case 'n': return number_read(text, 0, 1, UINT64_MAX / TENTHS / 2, &opt.orders);
    case 't': return number_read(text, 0, 1, 1000000, &opt.seconds);
    case 'r': return (opt.rate = strtod(text, NULL)) > 0;
    case 'u': return number_read(text, 0, 1, 9999999, &opt.users);
    case 'k': return number_read(text, 0, 1, ITEMS_MAX, &opt.items);
    case 'p': return number_read(text, 0, 1, KNOWN_MAX, &opt.prefill);
    case 'd': return number_read(text, 0, 1, 3600000, &opt.timeout_ms);
    case 'e': return number_read(text, 0, 0, UINT64_MAX, &opt.seed);
    case 'l': opt.ledger = text; return true;
    case 'f': opt.from = text; return true;
    case 'R': return opt.reconnect = true;
    case 'O': return opt.routed = true;
    case 'P': return opt.progress = true;
    case 'A': return opt.all = true;
    default: return false;
    }
}

static bool flags_read(int argc, char **argv) {
    static const struct option options[] = {
        {"server", 1, 0, 's'},  {"mode", 1, 0, 'm'},  {"connections", 1, 0, 'c'}, {"inflight", 1, 0, 'i'}, {"orders", 1, 0, 'n'},     {"seconds", 1, 0, 't'},
        {"rate", 1, 0, 'r'},    {"users", 1, 0, 'u'}, {"items", 1, 0, 'k'},       {"prefill", 1, 0, 'p'},  {"timeout-ms", 1, 0, 'd'}, {"seed", 1, 0, 'e'},
        {"ledger", 1, 0, 'l'},  {"from", 1, 0, 'f'},  {"reconnect", 0, 0, 'R'},   {"progress", 0, 0, 'P'}, {"all", 0, 0, 'A'},        {"help", 0, 0, 'h'},
        {"tls-ca", 1, 0, 'T'},  {"routed", 0, 0, 'O'},
        {0},
    };
    random_bytes(&opt.seed, sizeof(opt.seed));
    for (int flag; (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (flag == 'h') {
            fputs(help, stdout);
            exit(0);
        }
        if (!flag_read(flag, optarg)) return fprintf(stderr, "load: a bad flag or value; see --help\n"), false;
    }
    if (optind < argc) return fprintf(stderr, "load: no operands; see --help\n"), false;
    if (opt.orders && opt.seconds) return fprintf(stderr, "load: --orders or --seconds\n"), false;
    if ((opt.mode == MODE_REPLAY) != (opt.from != NULL)) return fprintf(stderr, "load: --mode replay goes with --from LEDGER\n"), false;
    if (!opt.orders && opt.mode != MODE_REPLAY && !opt.seconds) opt.seconds = 10;
    if (opt.mode == MODE_REPLAY) opt.orders = UINT64_MAX / TENTHS / 2, opt.seconds = 0;
    return true;
}

static bool setup(void) {
    list_init(&run.idle), list_init(&run.paused);
    run.ledger_fd = opt.ledger ? open(opt.ledger, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (opt.ledger && run.ledger_fd < 0) return fprintf(stderr, "load: %s: %s\n", opt.ledger, strerror(errno)), false;
    run.from = opt.from ? fopen(opt.from, "r") : NULL;
    if (opt.from && !run.from) return fprintf(stderr, "load: %s: %s\n", opt.from, strerror(errno)), false;
    run.loop = channel_loop_new();
    run.worker_count = opt.connections * opt.inflight;
    run.workers = mem_zalloc(run.worker_count * sizeof(struct worker));
    run.known = opt.mode == MODE_GET || opt.mode == MODE_MIXED ? mem_zalloc(KNOWN_MAX * sizeof(struct known)) : NULL;
    if (!run.loop || !run.workers) return fprintf(stderr, "load: out of memory\n"), false;
    char error[256];
    const struct tls_files files = {.ca = opt.tls_ca};
    if (opt.tls_ca && !(run.tls = tls_source_new_client(&files, error))) return fprintf(stderr, "load: --tls-ca: %s\n", error), false;
    const struct fleet_options fo = {.seats = (uint32_t)MIN_OF(opt.connections, (uint64_t)FLEET_SEATS_MAX), .routed = opt.routed, .tls = run.tls};
    bool routed = opt.routed || strchr(opt.server, ',');
    if (routed && !(run.fleet = fleet_open(run.loop, opt.server, &fo))) return fprintf(stderr, "load: --server %s: %s\n", opt.server, strerror(errno)), false;
    struct channel *channel = NULL;
    for (uint64_t i = 0; i < run.worker_count; i++) {
        if (!routed && i % opt.inflight == 0) channel = channel_open(run.loop, opt.server);
        if (!routed && !channel) return fprintf(stderr, "load: --server %s: %s\n", opt.server, strerror(errno)), false;
        if (channel && i % opt.inflight == 0 && run.tls && !channel_use_tls(channel, run.tls, NULL)) return fprintf(stderr, "load: out of memory\n"), false;
        run.workers[i].channel = channel;
        run.workers[i].draw = opt.seed ^ (i + 1) * 0x9e3779b97f4a7c15ull;
        list_push_back(&run.idle, &run.workers[i].node);
    }
    return true;
}

int main(int argc, char **argv) {
    if (!flags_read(argc, argv) || !setup()) return 2;
    struct sigaction stop = {.sa_handler = signal_cb};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    if (opt.mode == MODE_GET || opt.mode == MODE_MIXED || opt.mode == MODE_LIST) phase_run(true);
    double cpu = cpu_seconds();
    if (!run.broken && !interrupted) phase_run(false);
    report(cpu_seconds() - cpu);
    bool ok = opt.reconnect ? run.acked > 0 || opt.mode == MODE_REPLAY : run.failed == 0 && !run.broken;
    for (uint64_t i = 0; i < run.worker_count; i += opt.inflight) channel_close(run.workers[i].channel);
    if (run.fleet) fleet_close(run.fleet);
    channel_loop_free(run.loop);
    fleet_free(run.fleet);
    tls_source_free(run.tls);
    buf_fini(&run.ledger), buf_fini(&run.request);
    mem_free(run.workers), mem_free(run.known);
    return ok ? 0 : 1;
}
