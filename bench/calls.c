/* calls: orders by the client library's asynchronous calls, as an application makes them: it retries, and of a cluster's nodes it asks the leaders. One thread; a worker creates an order, pays
 * it, reads it, and begins anew. A call that the library gives up counts as failed, and ends that order.
 *
 * At the end each order that was acknowledged is read again, and must have the version that was told last: `wrong` counts those that have not. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/histogram.h"
#include "bench/number.h"
#include "client/channel.h"
#include "client/orderdb.h"
#include "proto/base/mem.h"

enum { INFLIGHT_MAX = 1000, ACKED_MAX = 1 << 20, FAILURES_SHOWN = 20, USERS = 100000 };

static struct {
    const char *server;
    struct orderdb_options options;
    uint64_t connections, inflight, seconds;
} opt = {.server = "127.0.0.1:7400", .connections = 2, .inflight = 16, .seconds = 5};

struct acked {
    int64_t order_id, version;
};
enum step { STEP_CREATE, STEP_PAY, STEP_READ };
struct worker {
    enum step step;
    struct acked order;
    uint64_t sent_ns;
};
static struct {
    struct orderdb_async *a;
    struct worker workers[INFLIGHT_MAX];
    struct acked *acked;
    uint64_t acked_count, verified, user, failed, wrong, until_ns;
    struct histogram latency;
} run;

static void fail(const char *what, const struct orderdb_error *e) {
    if (run.failed++ < FAILURES_SHOWN) fprintf(stderr, "calls: %s: %s %s: %s\n", what, orderdb_error_code_name(e), orderdb_error_reason(e), orderdb_error_message(e));
}

static void submit(const ProtobufCMessage *m, orderdb_async_cb *cb, void *user) {
    if (orderdb_async_submit(run.a, m, NULL, cb, user)) return;
    fprintf(stderr, "calls: %s\n", strerror(errno));
    exit(1);
}

/* ---- a worker */

static void answered_cb(void *user, void *answer, const struct orderdb_error *e);

static void send_create(struct worker *w) {
    char user[32];
    snprintf(user, sizeof user, "calls-%llu", (unsigned long long)(run.user++ % USERS));
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT;
    price.currency_code = "CNY", price.minor_units = 1999;
    Orderdb__V1__OrderItem item = ORDERDB__V1__ORDER_ITEM__INIT, *items[] = {&item};
    item.sku_id = "u1", item.title = "Umbrella", item.quantity = 1, item.unit_price = &price;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    order.user_id = user, order.n_items = 1, order.items = items, order.items_total = order.payable = &price;
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    r.order = &order;
    submit(&r.base, answered_cb, w);
}

static void send_read(int64_t order_id, orderdb_async_cb *cb, void *user) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    r.order_id = order_id;
    submit(&r.base, cb, user);
}

static void worker_send(struct worker *w) {
    w->sent_ns = channel_now_ns();
    if (w->step == STEP_CREATE) return send_create(w);
    if (w->step == STEP_READ) return send_read(w->order.order_id, answered_cb, w);
    Orderdb__V1__TransitionOrderRequest r = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    r.order_id = w->order.order_id, r.event = "pay";
    submit(&r.base, answered_cb, w);
}

/* What it was told of its order, last. */
static void worker_note(struct worker *w) {
    if (run.acked_count < ACKED_MAX) run.acked[run.acked_count++] = w->order;
    w->step = STEP_CREATE;
}

static void worker_took(struct worker *w, const void *answer) {
    if (w->step == STEP_CREATE) {
        const Orderdb__V1__CreateOrderResponse *m = answer;
        w->order = (struct acked){m->order->order_id, m->order->version};
        w->step = STEP_PAY;
    } else if (w->step == STEP_PAY) {
        w->order.version = ((const Orderdb__V1__TransitionOrderResponse *)answer)->order->version;
        w->step = STEP_READ;
    } else {
        run.wrong += ((const Orderdb__V1__Order *)answer)->version != w->order.version;
        worker_note(w);
    }
}

static void answered_cb(void *user, void *answer, const struct orderdb_error *e) {
    static const char *const names[] = {"create", "pay", "read"};
    struct worker *w = user;
    uint64_t now = channel_now_ns();
    histogram_add(&run.latency, now - w->sent_ns);
    if (answer) {
        worker_took(w, answer);
    } else {
        fail(names[w->step], e);
        w->step = STEP_CREATE;
    }
    orderdb_message_free(answer);
    if (now < run.until_ns) worker_send(w);
    else if (w->step != STEP_CREATE) worker_note(w);
}

/* ---- the end */

static void verified_cb(void *user, void *answer, const struct orderdb_error *e) {
    const struct acked *order = user;
    const Orderdb__V1__Order *m = answer;
    if (!answer) fail("read at the end", e);
    else if (m->version != order->version) fprintf(stderr, "calls: order %lld has version %lld, %lld was acknowledged\n", (long long)order->order_id, (long long)m->version, (long long)order->version);
    run.wrong += !answer || m->version != order->version;
    orderdb_message_free(answer);
    if (run.verified < run.acked_count) run.verified++, send_read(run.acked[run.verified - 1].order_id, verified_cb, &run.acked[run.verified - 1]);
}

static void verify(void) {
    for (uint64_t i = 0; i < opt.inflight && run.verified < run.acked_count; i++) run.verified++, send_read(run.acked[run.verified - 1].order_id, verified_cb, &run.acked[run.verified - 1]);
    orderdb_async_drain(run.a, 60000);
}

/* ---- start */

static const char help[] =
    "calls: orders by the client library's asynchronous calls; every order is read again at the end\n\n"
    "  --server HOST:PORT,...  default 127.0.0.1:7400; of several nodes calls go to the leaders\n"
    "  --routed                so, too, with one address: the others are learnt\n"
    "  --tls-ca FILE           TLS; who signs the servers' certificates (PEM)\n"
    "  --connections C         to each node, default 2\n"
    "  --inflight N            calls in flight, default 16, at most 1000\n"
    "  --seconds S             default 5\n\n"
    "Exit code 0: no call failed and every order is as it was acknowledged; 1: else; 2: usage.\n";

static bool flags_read(int argc, char **argv) {
    static const struct option options[] = {
        {"server", 1, 0, 's'}, {"routed", 0, 0, 'r'}, {"tls-ca", 1, 0, 'T'}, {"connections", 1, 0, 'c'}, {"inflight", 1, 0, 'i'}, {"seconds", 1, 0, 't'}, {"help", 0, 0, 'h'}, {0},
    };
    bool ok = true;
    for (int flag; ok && (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (flag) {
        case 's': opt.server = optarg; break;
        case 'r': opt.options.routed = true; break;
        case 'T': opt.options.tls_ca = optarg; break;
        case 'c': ok = count_read(optarg, 64, &opt.connections); break;
        case 'i': ok = count_read(optarg, INFLIGHT_MAX, &opt.inflight); break;
        case 't': ok = count_read(optarg, 86400, &opt.seconds); break;
        case 'h': fputs(help, stdout); exit(0);
        default: ok = false;
        }
    }
    if (ok && optind == argc) return true;
    return fprintf(stderr, "calls: a bad flag or value; see --help\n"), false;
}

int main(int argc, char **argv) {
    if (!flags_read(argc, argv)) return 2;
    const struct orderdb_pool_options pool = {.connections = (uint32_t)opt.connections, .in_flight_max = INFLIGHT_MAX};
    run.acked = mem_zalloc(ACKED_MAX * sizeof *run.acked);
    run.a = orderdb_async_open(opt.server, &opt.options, &pool);
    if (!run.acked || !run.a) return fprintf(stderr, "calls: --server %s: %s\n", opt.server, strerror(errno)), 2;
    run.until_ns = channel_now_ns() + opt.seconds * NS_PER_S;
    for (uint64_t i = 0; i < opt.inflight; i++) worker_send(&run.workers[i]);
    while (channel_now_ns() < run.until_ns) orderdb_async_run(run.a, 100);
    bool drained = orderdb_async_drain(run.a, 60000);
    struct orderdb_async_stats s = orderdb_async_stats(run.a);
    verify();
    printf("calls: calls=%llu attempts=%llu failed=%llu wrong=%llu orders=%llu forwarded=%llu ejections=%llu epoch=%lld p50_ms=%.3f p99_ms=%.3f max_ms=%.1f\n", (unsigned long long)s.calls,
           (unsigned long long)s.attempts, (unsigned long long)run.failed, (unsigned long long)run.wrong, (unsigned long long)run.acked_count, (unsigned long long)s.forwarded,
           (unsigned long long)s.ejections, (long long)s.topology_epoch, histogram_ms(&run.latency, 0.5), histogram_ms(&run.latency, 0.99), (double)run.latency.max / 1e6);
    orderdb_async_close(run.a);
    mem_free(run.acked);
    return drained && !run.failed && !run.wrong && run.acked_count ? 0 : 1;
}
