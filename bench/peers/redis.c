/* Redis by hiredis, without blocking: one script a write, several calls in flight on a connection. GET is three commands sent at once. The SHAs of the scripts, and whether
 * they keep all indexes, are in keys of the server's, where bench/peers/peers.py put them. */
#include <hiredis.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gen/order_text.h"
#include "bench/peers/peer.h"

enum { FIELDS = 11, ARGUMENTS_MAX = 8 + 2 * FIELDS, TEXT_BYTES = 192, SHA_BYTES = 41, INFLIGHT_MAX = 256 };

struct connection {
    redisContext *redis;
    struct list sent; /* operations in the order of their answers */
};
static struct {
    const struct drive_options *o;
    struct connection *connections;
    struct pollfd *polls;
    char shas[WORK_COUNT][SHA_BYTES], indexes[2];
} d;

/* ---- requests */
struct command {
    int n;
    const char *words[ARGUMENTS_MAX];
    char texts[ARGUMENTS_MAX][TEXT_BYTES];
};
static void put(struct command *c, const char *format, ...) PRINTF_LIKE(2, 3);
static void put(struct command *c, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->texts[c->n], TEXT_BYTES, format, ap);
    va_end(ap);
    c->words[c->n] = c->texts[c->n], c->n++;
}
static void send_command(struct operation *op, struct command *c) {
    if (redisAppendCommandArgv(d.connections[op->connection].redis, c->n, c->words, NULL) != REDIS_OK) peer_panic("send", "out of memory");
    op->parts++;
}

static void create_send(struct operation *op, struct command *c) {
    struct order_text t;
    char key[40], recipient[192];
    order_text_make(&t, op->draw);
    order_text_recipient(&t, recipient);
    peer_key(key, d.o, op);
    put(c, "%s", key), put(c, "%llu", (unsigned long long)op->user), put(c, "%u", t.merchant), put(c, "%lld", (long long)t.freight), put(c, "%lld", (long long)t.payable);
    put(c, "%s", recipient);
    for (unsigned i = 0; i < ORDER_ITEMS; i++)
        put(c, "%u", t.items[i].sku), put(c, "%u", t.items[i].quantity), put(c, "%lld", (long long)t.items[i].price), put(c, "%s", t.items[i].title);
}

/* One command of Redis' own, which a script that reads the same fields does not come near. */
static void list_send(struct operation *op, struct command *c) {
    static const char *const fields[FIELDS] = {"order_id", "user_id", "merchant_id", "status", "version", "created_us", "updated_us", "items_total", "freight", "payable", "recipient"};
    put(c, "SORT"), put(c, "user:%llu", (unsigned long long)op->user), put(c, "BY"), put(c, "nosort"), put(c, "DESC"), put(c, "LIMIT"), put(c, "0"), put(c, "%d", PEER_ORDERS_LISTED);
    for (unsigned i = 0; i < FIELDS; i++) put(c, "GET"), put(c, "order:*->%s", fields[i]);
    send_command(op, c);
}

static void driver_start(struct operation *op) {
    struct command c = {0};
    struct connection *at = &d.connections[op->connection];
    if (op->work == WORK_GET) {
        static const char *const words[][4] = {{"HGETALL", "order"}, {"LRANGE", "items", "0", "-1"}, {"LRANGE", "history", "0", "-1"}};
        for (unsigned i = 0; i < ARRAY_LEN(words); i++) {
            c.n = 0;
            put(&c, "%s", words[i][0]), put(&c, "%s:%lld", words[i][1], (long long)op->order_id);
            for (unsigned k = 2; k < 4 && words[i][k]; k++) put(&c, "%s", words[i][k]);
            send_command(op, &c);
        }
    } else if (op->work == WORK_LIST) {
        list_send(op, &c);
    } else {
        put(&c, "EVALSHA"), put(&c, "%s", d.shas[op->work]), put(&c, "0"), put(&c, "%s", d.indexes);
        if (op->work == WORK_CREATE) create_send(op, &c);
        else put(&c, "%lld", (long long)op->order_id);
        send_command(op, &c);
    }
    list_push_back(&at->sent, &op->node);
    d.polls[op->connection].events = POLLIN | POLLOUT;
}

/* ---- answers */
static const char *reply_check(const struct operation *op, const redisReply *r, int64_t *number) {
    if (r->type == REDIS_REPLY_ERROR) return r->str;
    if (op->work == WORK_LIST) return r->elements % FIELDS == 0 && r->element[0]->type == REDIS_REPLY_STRING ? peer_rows_check(op, r->elements / FIELDS) : "a list without its orders";
    if (op->work == WORK_GET) { /* 11 fields with their names, then items, then history */
        static const size_t least[] = {1, ORDER_ITEMS, 2 * FIELDS};
        return r->elements >= least[op->parts - 1] ? NULL : "an order without items or history";
    }
    *number = r->type == REDIS_REPLY_STRING ? strtoll(r->str, NULL, 10) : r->integer;
    return *number > 0 ? NULL : "no answer to a write";
}

static void receive(struct connection *c) {
    static char text[DRIVE_REASON_BYTES];
    if (redisBufferRead(c->redis) != REDIS_OK) peer_panic("receive", c->redis->errstr);
    for (void *reply; redisGetReplyFromReader(c->redis, &reply) == REDIS_OK && reply; freeReplyObject(reply)) {
        struct operation *op = list_entry(c->sent.next, struct operation, node);
        int64_t number = 0;
        if (list_empty(&c->sent)) peer_panic("receive", "an answer that nobody asked for");
        const char *trouble = reply_check(op, reply, &number);
        if (trouble) snprintf(text, sizeof text, "%s", trouble), op->trouble = text;
        if (--op->parts) continue;
        list_remove(&op->node);
        drive_done(op, op->trouble, op->work == WORK_CREATE ? number : 0);
    }
}

static void driver_turn(uint64_t wait_ns) {
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / NS_PER_S), .tv_nsec = (long)(wait_ns % NS_PER_S)};
    for (uint32_t i = 0; i < d.o->connections; i++) { /* what the last turn began, all of a connection in one write */
        int done = 1;
        if (!(d.polls[i].events & POLLOUT)) continue;
        if (redisBufferWrite(d.connections[i].redis, &done) != REDIS_OK) peer_panic("send", d.connections[i].redis->errstr);
        if (done) d.polls[i].events = POLLIN;
    }
    if (ppoll(d.polls, d.o->connections, &wait, NULL) <= 0) return;
    for (uint32_t i = 0; i < d.o->connections; i++)
        if (d.polls[i].revents & ~POLLOUT) receive(&d.connections[i]);
}

/* ---- open and close */
static void setting_read(redisContext *c, const char *name, char *out, size_t cap) {
    redisReply *r = redisCommand(c, "GET bench:%s", name);
    if (!r || r->type != REDIS_REPLY_STRING) peer_panic(name, "not set up");
    snprintf(out, cap, "%s", r->str);
    freeReplyObject(r);
}

static bool open_all(const struct drive_options *o, const char *socket) {
    d.o = o;
    d.connections = calloc(o->connections, sizeof *d.connections), d.polls = calloc(o->connections, sizeof *d.polls);
    if (!d.connections || !d.polls) peer_panic("open", "out of memory");
    redisContext *c = redisConnectUnix(socket);
    if (!c || c->err) peer_panic("connect", c ? c->errstr : "out of memory");
    for (unsigned i = 0; i < WORK_COUNT; i++)
        if (i == WORK_CREATE || i == WORK_TRANSITION) setting_read(c, work_names[i], d.shas[i], SHA_BYTES);
    setting_read(c, "indexes", d.indexes, sizeof d.indexes);
    redisFree(c);
    for (uint64_t i = 0; i < o->connections; i++) {
        list_init(&d.connections[i].sent);
        d.connections[i].redis = redisConnectUnixNonBlock(socket);
        if (!d.connections[i].redis || d.connections[i].redis->err) peer_panic("connect", "refused");
        d.polls[i] = (struct pollfd){.fd = d.connections[i].redis->fd, .events = POLLIN};
    }
    return true;
}

static void close_all(void) {
    for (uint64_t i = 0; i < d.o->connections; i++) redisFree(d.connections[i].redis);
    free(d.connections), free(d.polls);
}

const struct peer peer = {.driver = {.name = "Redis", .dense_ids = true, .start = driver_start, .turn = driver_turn}, .inflight_max = INFLIGHT_MAX, .open = open_all, .close = close_all};
