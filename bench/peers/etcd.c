/* etcd by its own gRPC interface, over the HTTP/2 of our client library: a create is one Put of 600 bytes under a new key, some 30 bytes long. The "socket" is host:port[,host:port ...], connections by turns.
 * A PutRequest's two fields are written by hand (etcd/api/etcdserverpb/rpc.proto: key = 1, value = 2). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/peers/peer.h"
#include "client/channel.h"

enum { VALUE_BYTES = 600, KEY_BYTES = 40, TARGETS_MAX = 8, INFLIGHT_MAX = 256 };

static struct {
    const struct drive_options *o;
    struct channel_loop *loop;
    struct channel **channels;
} d;

static void on_answer(void *user, const struct channel_answer *a) {
    struct operation *op = user;
    static char text[DRIVE_REASON_BYTES];
    const char *trouble = a->code == GRPC_OK ? a->response.len ? NULL : "an empty answer" : text;
    if (trouble == text) snprintf(text, sizeof text, "%.*s", (int)MIN_OF(a->message.len, sizeof text - 1), (const char *)a->message.data);
    drive_done(op, trouble, 1);
}

static void driver_start(struct operation *op) {
    uint8_t m[2 + KEY_BYTES + 3 + VALUE_BYTES];
    char key[KEY_BYTES];
    uint64_t draw = op->draw;
    peer_key(key, d.o, op);
    size_t n = strlen(key), at = 0;
    m[at++] = 1 << 3 | 2, m[at++] = (uint8_t)n;
    memcpy(m + at, key, n), at += n;
    m[at++] = 2 << 3 | 2, m[at++] = VALUE_BYTES % 128 | 128, m[at++] = VALUE_BYTES / 128;
    for (unsigned i = 0; i < VALUE_BYTES; i++, draw = draw * 6364136223846793005u + 1442695040888963407u) m[at++] = (uint8_t)('a' + (draw >> 33) % 26);
    struct channel_request r = {.path = "/etcdserverpb.KV/Put", .message = slice_of(m, at), .deadline_ns = channel_now_ns() + d.o->timeout_ms * NS_PER_MS, .on_answer = on_answer, .user = op};
    if (op->work != WORK_CREATE) peer_panic("start", "creates alone");
    if (!channel_start(d.channels[op->connection], &r)) peer_panic("start", "out of memory");
}

static void driver_turn(uint64_t wait_ns) { channel_loop_turn(d.loop, wait_ns); }

static bool open_all(const struct drive_options *o, const char *socket) {
    char *targets[TARGETS_MAX], *rest = strdup(socket);
    unsigned count = 0;
    d.o = o, d.loop = channel_loop_new(), d.channels = calloc(o->connections, sizeof *d.channels);
    if (!d.loop || !d.channels || !rest) peer_panic("open", "out of memory");
    for (char *t; count < TARGETS_MAX && (t = strsep(&rest, ","));) targets[count++] = t;
    for (uint64_t i = 0; i < o->connections; i++)
        if (!(d.channels[i] = channel_open(d.loop, targets[i % count]))) peer_panic("connect", targets[i % count]);
    return true;
}

static void close_all(void) {
    for (uint64_t i = 0; i < d.o->connections; i++) channel_close(d.channels[i]);
    channel_loop_free(d.loop);
    free(d.channels);
}

const struct peer peer = {.driver = {.name = "etcd", .dense_ids = true, .start = driver_start, .turn = driver_turn}, .inflight_max = INFLIGHT_MAX, .open = open_all, .close = close_all};
