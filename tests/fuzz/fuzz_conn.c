/* HTTP/2 frames through a whole connection: socket, conn, h2, call and test handlers. The input is a program, an operation a byte with its operands behind it: well-formed frames of every kind with
 * what may be wrong in them wrong, on streams of which some are open, bytes as they are, and what happens beside them: ops come home, time passes, the client reads or does not, the server
 * drains. At every step the memory of the connection and of its calls is within its limits; whatever came, nothing is left at the end (conn_world_close). */
#include "tests/lib/test.h"

#include "tests/lib/conn_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPS_MAX = 400, STREAMS_MAX = 16 };
enum { DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION };

static struct world w;
static int client_fd;
static uint32_t next_stream;
static struct program {
    const uint8_t *at, *end;
} in;

static uint8_t take(void) { return in.at < in.end ? *in.at++ : 0; }

static void feed(const void *bytes, size_t n) {
    if (client_fd >= 0) (void)send(client_fd, bytes, n, MSG_NOSIGNAL); /* what does not fit is lost: frames that end in the middle */
}
static void frame(uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t n) {
    uint8_t head[9] = {(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, type, flags};
    put_be32(head + 5, stream);
    feed(head, sizeof head);
    feed(payload, n);
}
/* One of the streams that were opened, or a new one, or none. */
static uint32_t some_stream(uint8_t b) {
    if (b == 255) return 0;
    if (b == 254 || next_stream == 1) return next_stream;
    uint32_t opened = (next_stream - 1) / 2;
    return 1 + 2 * (opened - 1 - b % MIN_OF(opened, (uint32_t)STREAMS_MAX));
}

static const char *const paths[] = {"CreateOrder", "GetOrder", "ListOrders", "TransitionOrder", "ListOrderHistory", "ImportOrders", "BatchGetOrders", "Nothing"};
static size_t field(uint8_t *out, const char *name, const char *value) {
    size_t n = 0, name_len = strlen(name), value_len = strlen(value);
    out[n++] = 0; /* literal, not indexed, new name */
    out[n++] = (uint8_t)name_len;
    memcpy(out + n, name, name_len), n += name_len;
    out[n++] = (uint8_t)value_len;
    memcpy(out + n, value, value_len), n += value_len;
    return n;
}
static size_t header_block(uint8_t *out, uint8_t how) {
    char path[100];
    size_t n = 0;
    snprintf(path, sizeof path, SVC "%s", paths[how % ARRAY_LEN(paths)]);
    n += field(out + n, ":method", how & 64 ? "GET" : "POST");
    n += field(out + n, ":scheme", "http");
    n += field(out + n, ":path", path);
    n += field(out + n, ":authority", "t");
    n += field(out + n, "te", "trailers");
    if (!(how & 32)) n += field(out + n, "content-type", "application/grpc");
    if (how & 16) n += field(out + n, "grpc-timeout", "1S");
    if ((how & 0x8c) == 0x8c) memset(out + n, 0xbe, 1000), n += 1000; /* what was indexed, if anything: else broken */
    if (how & 8) {
        size_t at = n;
        n += field(out + n, "x", "a value that is worth a place in the table");
        out[at] = 0x40; /* indexed */
    }
    return n;
}

static void open_stream(uint8_t how, uint8_t flags) {
    uint8_t block[1500];
    size_t n = header_block(block, how);
    frame(HEADERS, flags, next_stream, block, n);
    next_stream += 2;
}
static void send_message(uint32_t stream, uint8_t how, uint8_t len) {
    uint8_t body[GRPC_FRAME_HEAD + 256] = {how & 1 && how & 128, 0, 0, 0, len};
    if (how & 2) body[1] = 0x7f; /* too long */
    if (how & 4) body[2] = 0x10; /* a promise of a MiB */
    snprintf((char *)body + GRPC_FRAME_HEAD, 8, "%06u", len * 1000u);
    frame(DATA, how & 8 ? 0 : 1, stream, body, how & 16 ? how % GRPC_FRAME_HEAD : GRPC_FRAME_HEAD + (size_t)len);
}

static void client_reads(void) {
    static uint8_t buf[64 << 10];
    while (client_fd >= 0 && recv(client_fd, buf, sizeof buf, 0) > 0) {}
}

/* Operations by their weight: what a connection survives is frequent, what ends it is rare, or hardly a program would come to its second half. */
enum operation { CALL, OPEN, MESSAGE, WINDOW, SETTING, RESET, PINGS, TIME, HOME, READ, PRIO, FLOOD, MORE_HEADERS, RAW, ANY_FRAME, LEAVE, DRAIN, SHUT };
static const uint8_t operations[] = {
    CALL, CALL, CALL, CALL, OPEN, OPEN, OPEN, OPEN, MESSAGE, MESSAGE, MESSAGE, MESSAGE, WINDOW, WINDOW, WINDOW, SETTING, SETTING, RESET, RESET, PINGS, TIME, TIME, TIME, TIME, HOME, HOME, HOME,
    HOME, READ, READ, READ, READ, PRIO, FLOOD, FLOOD, MORE_HEADERS, RAW, ANY_FRAME, LEAVE, DRAIN, SHUT,
};

static void step(uint8_t op) {
    uint8_t payload[32];
    uint8_t a = take(), b = take();
    switch ((enum operation)operations[op % 128 % ARRAY_LEN(operations)]) {
    case CALL: open_stream(a, 4), send_message(next_stream - 2, b & 8, b); break;
    case OPEN: open_stream(a, b & 128 ? b & 0x2d : 4 | (b & 1)); break;
    case MESSAGE: send_message(some_stream(a), b, take()); break;
    case WINDOW:
        put_be32(payload, b & 128 ? 0x7fffffffu : b);
        frame(WINDOW_UPDATE, 0, some_stream(a), payload, 4);
        break;
    case SETTING:
        payload[0] = 0, payload[1] = a % 8;
        put_be32(payload + 2, b & 128 ? 0xffffffffu : b & 64 ? 0x7fffffffu : b & 32 ? 0 : b * 1000u);
        frame(SETTINGS, 0, 0, payload, 6);
        break;
    case RESET:
        put_be32(payload, b);
        frame(RST_STREAM, 0, some_stream(a), payload, 4);
        break;
    case PINGS: frame(PING, a & 1, 0, payload, memset(payload, b, 8) ? 8 : 0); break;
    case MORE_HEADERS: {
        size_t n = MIN_OF((size_t)b, (size_t)(in.end - in.at));
        frame(CONTINUATION, a & 4, some_stream(a >> 3), in.at, n);
        in.at += n;
        break;
    }
    case RAW: {
        size_t n = MIN_OF((size_t)a, (size_t)(in.end - in.at));
        feed(in.at, n);
        in.at += n;
        break;
    }
    case ANY_FRAME: frame(a, b, some_stream(take()), payload, memset(payload, b, sizeof payload) ? take() % sizeof payload : 0); break;
    case TIME: w.core.now_ns += a * 100 * NS_PER_MS; break;
    case HOME:
        if (!list_empty(&w.away)) world_home(&w);
        break;
    case READ: client_reads(); break;
    case PRIO: frame(PRIORITY, 0, some_stream(a), payload, memset(payload, b, 5) ? 5 : 0); break;
    case LEAVE: frame(GOAWAY, 0, 0, payload, memset(payload, 0, 8) ? 8 : 0); break;
    case DRAIN:
        if (a == 0) conn_drain(&w.core);
        break;
    case SHUT:
        if (client_fd >= 0 && a % 16 == 0) shutdown(client_fd, b & 1 ? SHUT_WR : SHUT_RD);
        break;
    case FLOOD: {
        static const struct {
            uint8_t type, len;
        } floods[] = {{PING, 8}, {SETTINGS, 0}, {PRIORITY, 5}, {WINDOW_UPDATE, 4}, {DATA, 0}, {RST_STREAM, 4}, {200, 3}};
        size_t which = b % ARRAY_LEN(floods);
        memset(payload, 0, sizeof payload), payload[3] = 1;
        bool whole = floods[which].type == PING || floods[which].type == SETTINGS || (floods[which].type == WINDOW_UPDATE && b & 64);
        for (unsigned n = a; n; n--) frame(floods[which].type, 0, whole ? 0 : some_stream((uint8_t)n), payload, floods[which].len);
        break;
    }
    }
}

static void check_memory(const struct conn_limits *l) {
    enum { OUTPUT_BYTES = 64 << 10, STATE_BYTES = 4096 };
    check(conn_memory_bytes(&w.core) <= l->h2.memory_bytes_max + 2 * OUTPUT_BYTES + STATE_BYTES);
    check(calls_memory_bytes(w.core.calls) <= l->call.memory_bytes_max);
    check(w.core.calls_live <= l->call.live_max);
    check(w.core.connection_count <= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    if (size < 2) return 0;
    struct conn_limits l = conn_limits_default;
    l.call.memory_bytes_max = data[0] & 1 ? 256 * KIB : 8 * MIB;
    l.call.idle_max = 4;
    l.h2.memory_bytes_max = data[0] & 2 ? 64 * KIB : l.h2.memory_bytes_max;
    l.h2.streams_max = data[0] & 4 ? 4 : 64;
    if (data[0] & 16) l.h2.calm.reset_burst = 10, l.h2.calm.control_burst = 50;
    check(conn_world_open(&w, &l));
    in = (struct program){data + 1, data + size};
    next_stream = 1;
    client_fd = conn_world_connect(&w, 1);
    if (!(data[0] & 8)) feed(preface, sizeof preface - 1);
    for (unsigned i = 0; i < OPS_MAX && in.at < in.end; i++) {
        uint8_t op = take();
        step(op);
        if (op & 128 && in.at < in.end) continue; /* several frames to a turn */
        conn_world_turn(&w, 0);
        conn_world_turn(&w, 0);
        check_memory(&l);
    }
    for (unsigned i = 0; i < 4; i++) client_reads(), conn_world_turn(&w, 0);
    check_memory(&l);
    close(client_fd);
    conn_world_close(&w);
    return 0;
}
