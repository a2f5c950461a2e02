/* flood: CreateOrder at a rate that the server can't take, from a generator that costs next to nothing.
 *
 * The machine is shared: what the generator burns the server lacks. So nothing is packed, compressed or decoded here: HEADERS and DATA frames are made once and
 * two places in them are written anew (user and request id, both of fixed width); of an answer only the frames' heads are read. A stream with a DATA frame was
 * served, one that ends with its first HEADERS was refused, RST_STREAM without an answer is a refused stream. load.c is the generator with a real client.
 *
 * Closed loop (no --rate): C connections x F calls, each slot sends again when it is answered: the peak. Open loop (--rate R): calls are due at fixed times; one
 * that is due while every connection has as many under way as --inflight and the server (SETTINGS_MAX_CONCURRENT_STREAMS, which it may change) allow is not offered, and counted: a client that
 * holds to the limit, as all do, and gives up at once what does not fit. Latency counts from when a call was due, of those that were offered. A call without an answer --timeout-ms after it
 * was sent, which is the deadline that it states, is reset, as clients do, and is late.
 *
 * One line per second on stdout: second, due, sent, served, refused, late, p50 and p99 in ms of the served; then totals. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/number.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"

enum {
    CONNECTIONS_MAX = 1024, SLOTS_MAX = 256, IN_BYTES = 64 << 10, OUT_BYTES = 256 << 10, HEAD_BYTES = 9, USER_WIDTH = 8, ID_WIDTH = 24, TEMPLATE_BYTES_MAX = 2048,
    FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_RST = 3, FRAME_SETTINGS = 4, FRAME_PING = 6, FRAME_GOAWAY = 7, FRAME_WINDOW = 8, FLAG_END = 1, FLAG_ACK = 1, FLAG_END_HEADERS = 4,
    MAX_CONCURRENT_STREAMS = 3, STEPS = 64, BUCKETS = 59 * STEPS,
};

static struct {
    uint64_t port, connections, inflight, seconds, timeout_ms, users;
    double rate;
} opt = {.port = 7400, .connections = 8, .inflight = 256, .seconds = 10, .timeout_ms = 1000, .users = 100000};

struct slot {
    uint64_t due_ns; /* 0: free */
    uint64_t late_ns;
    uint32_t stream;
    bool data_seen;
};
struct connection {
    int fd;
    uint32_t next_stream;
    uint16_t free_slots[SLOTS_MAX];
    uint32_t free_count, streams_max; /* of the slots; as the server says, and it may say otherwise later */
    struct slot slots[SLOTS_MAX];
    uint16_t by_stream[4096]; /* (stream / 2) mod 4096 -> slot */
    int64_t window;           /* of the connection, for DATA */
    uint64_t received;        /* DATA since the last WINDOW_UPDATE of ours */
    size_t in_len, out_len, out_at;
    uint8_t in[IN_BYTES], out[OUT_BYTES];
};

struct figures {
    uint64_t due, sent, not_offered, served, refused, late, max_ns, buckets[BUCKETS];
};
static struct {
    struct connection *connections;
    struct pollfd polls[CONNECTIONS_MAX];
    uint8_t template[TEMPLATE_BYTES_MAX]; /* HEADERS, DATA */
    size_t template_len, headers_len, user_at, id_at, data_len;
    uint64_t sequence, draw;
    struct figures second, all;
    uint32_t turn; /* connections in turn */
} run;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- latencies: 64 linear steps per power of two */
static unsigned bucket_of(uint64_t ns) {
    if (ns < STEPS) return (unsigned)ns;
    unsigned shift = 57u - (unsigned)__builtin_clzll(ns);
    return (shift + 1) * STEPS + (unsigned)(ns >> shift) - STEPS;
}
static double percentile_ms(const struct figures *f, double share) {
    uint64_t want = (uint64_t)((double)f->served * share + 0.5), seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += f->buckets[b];
        if (seen < MAX_OF(want, (uint64_t)1)) continue;
        unsigned shift = b < STEPS ? 0 : b / STEPS - 1;
        return (double)(b < STEPS ? b : ((uint64_t)(b % STEPS + STEPS + 1) << shift) - 1) / 1e6;
    }
    return 0;
}

/* ---- the request, once */
static void put_frame_head(uint8_t *p, size_t len, uint8_t type, uint8_t flags, uint32_t stream) {
    p[0] = (uint8_t)(len >> 16), p[1] = (uint8_t)(len >> 8), p[2] = (uint8_t)len, p[3] = type, p[4] = flags;
    put_be32(p + 5, stream);
}

/* HPACK, literal without indexing (RFC 7541 section 6.2.2), lengths under 127: nothing that the peer's table remembers, so the same bytes every time. */
static void put_header(struct writer *w, const char *name, const char *value) {
    write_u8(w, 0);
    write_u8(w, (uint8_t)strlen(name)), write_bytes(w, name, strlen(name));
    write_u8(w, (uint8_t)strlen(value)), write_bytes(w, value, strlen(value));
}

static size_t find(const uint8_t *in, size_t len, const char *text) {
    const uint8_t *at = memmem(in, len, text, strlen(text));
    check(at);
    return (size_t)(at - in);
}

static void template_make(void) {
    char user[USER_WIDTH + 1] = "UUUUUUUU", id[ID_WIDTH + 1] = "RRRRRRRRRRRRRRRRRRRRRRRR", timeout[24], currency[] = "CNY";
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT, freight = ORDERDB__V1__MONEY__INIT;
    Orderdb__V1__OrderItem items[2] = {ORDERDB__V1__ORDER_ITEM__INIT, ORDERDB__V1__ORDER_ITEM__INIT}, *item_ptrs[] = {&items[0], &items[1]};
    Orderdb__V1__Address address = ORDERDB__V1__ADDRESS__INIT;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest request = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
#define TEXT(s) ((char *)(uintptr_t)(s))
    price.currency_code = freight.currency_code = currency, price.minor_units = 19900, freight.minor_units = 800;
    items[0].sku_id = TEXT("sku-00012345"), items[0].title = TEXT("kettle umbrella, model 1204, colour 7"), items[0].quantity = 2, items[0].unit_price = &price;
    items[1].sku_id = TEXT("sku-00054321"), items[1].title = TEXT("jacket, model 77, colour 3"), items[1].quantity = 1, items[1].unit_price = &price;
    address.recipient = TEXT("Chen Wei"), address.phone = TEXT("13800000000"), address.region_code = TEXT("CN-31"), address.line = TEXT("12 Harbour Road, building 3, room 501");
    order.user_id = user, order.merchant_id = TEXT("merchant-00017"), order.n_items = 2, order.items = item_ptrs, order.address = &address, order.freight = &freight;
    options.request_id = id, request.order = &order, request.options = &options;
#undef TEXT
    snprintf(timeout, sizeof timeout, "%llum", (unsigned long long)opt.timeout_ms);
    struct writer w = writer_of(run.template, sizeof run.template);
    uint8_t zero[HEAD_BYTES + GRPC_FRAME_HEAD] = {0};
    write_bytes(&w, zero, HEAD_BYTES);
    put_header(&w, ":method", "POST"), put_header(&w, ":scheme", "http"), put_header(&w, ":path", "/orderdb.v1.OrderService/CreateOrder"), put_header(&w, ":authority", "flood");
    put_header(&w, "te", "trailers"), put_header(&w, "content-type", "application/grpc"), put_header(&w, "grpc-timeout", timeout);
    run.headers_len = w.len;
    write_bytes(&w, zero, HEAD_BYTES + GRPC_FRAME_HEAD);
    size_t len = protobuf_c_message_get_packed_size(&request.base);
    check(w.len + len <= w.cap);
    grpc_frame_head(run.template + run.headers_len + HEAD_BYTES, (uint32_t)len);
    protobuf_c_message_pack(&request.base, run.template + w.len);
    run.template_len = w.len + len;
    run.data_len = GRPC_FRAME_HEAD + len;
    run.user_at = find(run.template, run.template_len, user), run.id_at = find(run.template, run.template_len, id);
    put_frame_head(run.template, run.headers_len - HEAD_BYTES, FRAME_HEADERS, FLAG_END_HEADERS, 0);
    put_frame_head(run.template + run.headers_len, run.data_len, FRAME_DATA, FLAG_END, 0);
}

static void put_digits(uint8_t *at, size_t width, uint64_t n) {
    for (size_t i = width; i-- > 0; n /= 10) at[i] = (uint8_t)('0' + n % 10);
}

/* ---- one connection */
static void out_bytes(struct connection *c, const void *data, size_t len) {
    check(c->out_len + len <= OUT_BYTES);
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void connection_open(struct connection *c) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&a, sizeof a) != 0) panic_now("flood: 127.0.0.1:%llu: %s", (unsigned long long)opt.port, strerror(errno));
    check(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    check(fcntl(c->fd, F_SETFL, O_NONBLOCK) == 0);
    c->next_stream = 1;
    c->window = 65535;
    c->streams_max = SLOTS_MAX;
    for (uint64_t i = 0; i < opt.inflight; i++) c->free_slots[c->free_count++] = (uint16_t)i;
    /* Nothing that we have to give back soon: the largest windows there are. */
    uint8_t frames[HEAD_BYTES + 6 + HEAD_BYTES + 4];
    put_frame_head(frames, 6, FRAME_SETTINGS, 0, 0);
    frames[9] = 0, frames[10] = 4, put_be32(frames + 11, INT32_MAX); /* INITIAL_WINDOW_SIZE */
    put_frame_head(frames + 15, 4, FRAME_WINDOW, 0, 0);
    put_be32(frames + 24, INT32_MAX - 65535);
    out_bytes(c, preface, sizeof preface - 1);
    out_bytes(c, frames, sizeof frames);
}

static bool connection_send(struct connection *c, uint64_t due_ns, uint64_t now) {
    if (!c->free_count || opt.inflight - c->free_count >= c->streams_max || c->window < (int64_t)run.data_len || c->out_len + run.template_len + 1024 > OUT_BYTES) return false;
    uint16_t at = c->free_slots[--c->free_count];
    uint8_t *p = c->out + c->out_len;
    memcpy(p, run.template, run.template_len);
    put_be32(p + 5, c->next_stream);
    put_be32(p + run.headers_len + 5, c->next_stream);
    run.draw = run.draw * 6364136223846793005ull + 1442695040888963407ull;
    put_digits(p + run.user_at, USER_WIDTH, (run.draw >> 33) % opt.users);
    put_digits(p + run.id_at, ID_WIDTH, run.sequence++);
    c->slots[at] = (struct slot){.due_ns = due_ns, .late_ns = now + opt.timeout_ms * NS_PER_MS, .stream = c->next_stream};
    c->by_stream[c->next_stream / 2 % ARRAY_LEN(c->by_stream)] = at;
    c->next_stream += 2;
    c->out_len += run.template_len;
    c->window -= (int64_t)run.data_len;
    run.second.sent++;
    return true;
}

static struct slot *slot_of(struct connection *c, uint32_t stream) {
    struct slot *s = &c->slots[c->by_stream[stream / 2 % ARRAY_LEN(c->by_stream)]];
    return s->due_ns && s->stream == stream ? s : NULL;
}
static void slot_free(struct connection *c, struct slot *s) {
    s->due_ns = 0;
    c->free_slots[c->free_count++] = (uint16_t)(s - c->slots);
}

static void on_end(struct connection *c, struct slot *s, uint64_t now) {
    if (s->data_seen) {
        uint64_t ns = now - s->due_ns;
        run.second.served++;
        run.second.buckets[bucket_of(ns)]++;
        run.second.max_ns = MAX_OF(run.second.max_ns, ns);
    } else {
        run.second.refused++;
    }
    slot_free(c, s);
}

static void on_frame(struct connection *c, const uint8_t *p, size_t len, uint64_t now) {
    uint32_t stream = get_be32(p + 5) & INT32_MAX;
    struct slot *s = stream ? slot_of(c, stream) : NULL;
    uint8_t ack[HEAD_BYTES + 8];
    switch (p[3]) {
    case FRAME_DATA:
        c->received += len;
        if (s) s->data_seen = true;
        if (c->received < (1u << 29)) break;
        put_frame_head(ack, 4, FRAME_WINDOW, 0, 0);
        put_be32(ack + 9, (uint32_t)c->received);
        out_bytes(c, ack, 13);
        c->received = 0;
        break;
    case FRAME_HEADERS: if (s && (p[4] & FLAG_END)) on_end(c, s, now); break;
    case FRAME_RST: if (s) on_end(c, s, now); break;
    case FRAME_WINDOW: if (!stream) c->window += get_be32(p + 9); break;
    case FRAME_SETTINGS:
        if (p[4] & FLAG_ACK) break;
        for (size_t i = 0; i + 6 <= len; i += 6)
            if (p[HEAD_BYTES + i + 1] == MAX_CONCURRENT_STREAMS) c->streams_max = get_be32(p + HEAD_BYTES + i + 2);
        put_frame_head(ack, 0, FRAME_SETTINGS, FLAG_ACK, 0);
        out_bytes(c, ack, HEAD_BYTES);
        break;
    case FRAME_PING:
        if (p[4] & FLAG_ACK) break;
        put_frame_head(ack, 8, FRAME_PING, FLAG_ACK, 0);
        memcpy(ack + 9, p + 9, 8);
        out_bytes(c, ack, sizeof ack);
        break;
    case FRAME_GOAWAY: panic_now("flood: the server ended a connection, error %u", get_be32(p + 13));
    default: break;
    }
}

static void connection_read(struct connection *c) {
    ssize_t n = read(c->fd, c->in + c->in_len, IN_BYTES - c->in_len);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) panic_now("flood: a connection is gone: %s", n ? strerror(errno) : "closed");
    c->in_len += (size_t)n;
    uint64_t now = now_ns();
    size_t at = 0;
    while (c->in_len - at >= HEAD_BYTES) {
        size_t len = get_be32(c->in + at) >> 8;
        if (c->in_len - at < HEAD_BYTES + len) break;
        on_frame(c, c->in + at, len, now);
        at += HEAD_BYTES + len;
    }
    memmove(c->in, c->in + at, c->in_len - at);
    c->in_len -= at;
}

static void connection_write(struct connection *c) {
    if (c->out_at == c->out_len) return;
    ssize_t n = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
    if (n < 0 && errno != EAGAIN && errno != EINTR) panic_now("flood: write: %s", strerror(errno));
    if (n > 0) c->out_at += (size_t)n;
    if (c->out_at < c->out_len && c->out_at < OUT_BYTES / 2) return;
    memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
    c->out_len -= c->out_at;
    c->out_at = 0;
}

/* Looked at ten times a second. */
static void connection_expire(struct connection *c, uint64_t now) {
    for (uint64_t i = 0; i < opt.inflight; i++) {
        struct slot *s = &c->slots[i];
        if (!s->due_ns || now < s->late_ns || c->out_len + 64 > OUT_BYTES) continue;
        uint8_t reset[HEAD_BYTES + 4];
        put_frame_head(reset, 4, FRAME_RST, 0, s->stream);
        put_be32(reset + 9, 8); /* CANCEL */
        out_bytes(c, reset, sizeof reset);
        run.second.late++;
        slot_free(c, s);
    }
}

/* ---- the run */
static void second_end(uint64_t second) {
    struct figures *f = &run.second, *a = &run.all;
    printf("%llu due %llu sent %llu served %llu refused %llu late %llu p50 %.3f p99 %.3f\n", (unsigned long long)second, (unsigned long long)f->due,
           (unsigned long long)f->sent, (unsigned long long)f->served, (unsigned long long)f->refused, (unsigned long long)f->late, percentile_ms(f, 0.5), percentile_ms(f, 0.99));
    fflush(stdout);
    a->due += f->due, a->sent += f->sent, a->not_offered += f->not_offered, a->served += f->served, a->refused += f->refused, a->late += f->late;
    a->max_ns = MAX_OF(a->max_ns, f->max_ns);
    for (unsigned i = 0; i < BUCKETS; i++) a->buckets[i] += f->buckets[i];
    *f = (struct figures){0};
}

static void offer(uint64_t due_ns, uint64_t now) {
    run.second.due++;
    for (uint64_t i = 0; i < opt.connections; i++)
        if (connection_send(&run.connections[run.turn++ % opt.connections], due_ns, now)) return;
    run.second.not_offered++;
}

static double cpu_seconds(void) {
    struct rusage u;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void flood(void) {
    uint64_t begun = now_ns(), until = begun + opt.seconds * NS_PER_S, second = 1, expire_ns = begun;
    double gap = opt.rate > 0 ? 1e9 / opt.rate : 0, due = (double)begun;
    for (uint64_t now = begun; now < until; now = now_ns()) {
        if (gap > 0) {
            for (; due <= (double)now; due += gap) offer((uint64_t)due, now);
        } else {
            for (uint64_t i = 0; i < opt.connections; i++)
                while (connection_send(&run.connections[i], now, now)) run.second.due++;
        }
        if (now >= expire_ns) {
            for (uint64_t i = 0; i < opt.connections; i++) connection_expire(&run.connections[i], now);
            expire_ns = now + NS_PER_S / 10;
        }
        for (uint64_t i = 0; i < opt.connections; i++) {
            struct connection *c = &run.connections[i];
            connection_write(c);
            run.polls[i] = (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | (c->out_at < c->out_len ? POLLOUT : 0))};
        }
        /* A millisecond of calls at a time: who sends each one as it falls due pays a system call for each. */
        struct timespec nap = {.tv_nsec = NS_PER_MS};
        if (gap > 0) nanosleep(&nap, NULL);
        if (poll(run.polls, opt.connections, gap > 0 ? 0 : 10) > 0) {
            for (uint64_t i = 0; i < opt.connections; i++)
                if (run.polls[i].revents) connection_read(&run.connections[i]);
        }
        if (now >= begun + second * NS_PER_S) second_end(second++);
    }
    if (run.second.due) second_end(second);
}

static void report(void) {
    const struct figures *f = &run.all;
    double seconds = (double)opt.seconds, cpu = cpu_seconds();
    printf("total due %.0f/s sent %.0f/s not-offered %.0f/s served %.0f/s refused %.0f/s late %.0f/s p50 %.3f ms p99 %.3f ms max %.3f ms generator-cpu %.2f cores, %.2f us a call\n",
           (double)f->due / seconds, (double)f->sent / seconds, (double)f->not_offered / seconds, (double)f->served / seconds, (double)f->refused / seconds,
           (double)f->late / seconds, percentile_ms(f, 0.5), percentile_ms(f, 0.99), (double)f->max_ns / 1e6, cpu / seconds, f->sent ? cpu * 1e6 / (double)f->sent : 0);
}

static const char help[] =
    "flood: CreateOrder at a rate that a server can't take (cleartext, 127.0.0.1)\n\n"
    "  --port P              default 7400\n"
    "  --rate R              open loop: R calls a second; without it a closed loop, which measures the peak\n"
    "  --connections C       default 8\n"
    "  --inflight F          calls in flight per connection, default 256\n"
    "  --seconds S           default 10\n"
    "  --timeout-ms MS       deadline of a call, default 1000\n"
    "  --users U             default 100000\n";

static bool flag_read(int flag, const char *text) {
    switch (flag) {
    case 'p': return number_read(text, 10, 1, 65535, &opt.port);
    case 'r': return (opt.rate = strtod(text, NULL)) > 0;
    case 'c': return number_read(text, 10, 1, CONNECTIONS_MAX, &opt.connections);
    case 'i': return number_read(text, 10, 1, SLOTS_MAX, &opt.inflight);
    case 't': return number_read(text, 10, 1, 100000, &opt.seconds);
    case 'd': return number_read(text, 10, 1, 99999, &opt.timeout_ms);
    case 'u': return number_read(text, 10, 1, 99999999, &opt.users);
    default: return false;
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", 1, 0, 'p'},    {"rate", 1, 0, 'r'},       {"connections", 1, 0, 'c'}, {"inflight", 1, 0, 'i'},
                                            {"seconds", 1, 0, 't'}, {"timeout-ms", 1, 0, 'd'}, {"users", 1, 0, 'u'},       {"help", 0, 0, 'h'},
                                            {0}};
    for (int flag; (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (flag == 'h') return fputs(help, stdout), 0;
        if (!flag_read(flag, optarg)) return fprintf(stderr, "flood: a bad flag or value; see --help\n"), 2;
    }
    run.sequence = (uint64_t)time(NULL) % 1000000000 * 1000000000000ull;
    run.draw = now_ns();
    template_make();
    run.connections = mem_zalloc(opt.connections * sizeof *run.connections);
    check(run.connections);
    for (uint64_t i = 0; i < opt.connections; i++) connection_open(&run.connections[i]);
    flood();
    report();
    for (uint64_t i = 0; i < opt.connections; i++) close(run.connections[i].fd);
    mem_free(run.connections);
    return run.all.served ? 0 : 1;
}
