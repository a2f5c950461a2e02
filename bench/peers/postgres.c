/* PostgreSQL by libpq, without blocking: prepared statements, a connection a call, one thread that polls them all. */
#include <endian.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gen/order_text.h"
#include "bench/peers/peer.h"

enum { ARGUMENTS_MAX = 6 + 4 * ORDER_ITEMS, ARGUMENT_BYTES = 192 };

struct statement {
    const char *name, *sql;
};
/* Order, items and history in one statement: no row is repeated, and there is one plan to run. */
static const struct statement statements[WORK_COUNT] = {
    {"create", "SELECT order_create($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18)"},
    {"transition", "SELECT order_transition($1)"},
    {"get", "SELECT 0::smallint,order_id,user_id,merchant_id::bigint,status::bigint,version::bigint,created_us,updated_us,items_total,freight,payable,recipient FROM orders WHERE order_id=$1 "
            "UNION ALL SELECT 1::smallint,line,sku,quantity,price,NULL,NULL,NULL,NULL,NULL,NULL,title FROM items WHERE order_id=$1 "
            "UNION ALL SELECT 2::smallint,version,from_status,to_status,at_us,NULL,NULL,NULL,NULL,NULL,NULL,event FROM history WHERE order_id=$1"},
    {"list", "SELECT * FROM orders WHERE user_id=$1 ORDER BY created_us DESC LIMIT 20"},
};

static struct {
    const struct drive_options *o;
    PGconn **connections;
    struct operation **at; /* NULL: nothing is under way on it */
    struct pollfd *polls;
} d;

static const char *text_put(char (*texts)[ARGUMENT_BYTES], const char *arguments[], int *n, const char *format, ...) PRINTF_LIKE(4, 5);
static const char *text_put(char (*texts)[ARGUMENT_BYTES], const char *arguments[], int *n, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(texts[*n], ARGUMENT_BYTES, format, ap);
    va_end(ap);
    arguments[*n] = texts[*n];
    return arguments[(*n)++];
}

static void driver_start(struct operation *op) {
    char texts[ARGUMENTS_MAX][ARGUMENT_BYTES], key[40];
    const char *arguments[ARGUMENTS_MAX];
    int n = 0;
#define PUT(...) text_put(texts, arguments, &n, __VA_ARGS__)
    if (op->work == WORK_CREATE) {
        struct order_text t;
        order_text_make(&t, op->draw);
        peer_key(key, d.o, op);
        PUT("%s", key), PUT("%llu", (unsigned long long)op->user), PUT("%u", t.merchant), PUT("%lld", (long long)t.freight), PUT("%lld", (long long)t.payable);
        order_text_recipient(&t, texts[n]), arguments[n] = texts[n], n++;
        for (unsigned i = 0; i < ORDER_ITEMS; i++) PUT("%u", t.items[i].sku), PUT("%u", t.items[i].quantity), PUT("%lld", (long long)t.items[i].price), PUT("%s", t.items[i].title);
    } else {
        PUT("%llu", op->work == WORK_LIST ? (unsigned long long)op->user : (unsigned long long)op->order_id);
    }
#undef PUT
    PGconn *c = d.connections[op->connection];
    if (!PQsendQueryPrepared(c, statements[op->work].name, n, arguments, NULL, NULL, 1)) peer_panic("send", PQerrorMessage(c));
    d.at[op->connection] = op;
    d.polls[op->connection].events = (short)(PQflush(c) ? POLLIN | POLLOUT : POLLIN);
}

static void finish(uint32_t i) {
    struct operation *op = d.at[i];
    static char text[DRIVE_REASON_BYTES];
    const char *trouble = NULL;
    int64_t order_id = 0;
    for (PGresult *r; (r = PQgetResult(d.connections[i])); PQclear(r)) {
        if (PQresultStatus(r) != PGRES_TUPLES_OK) snprintf(text, sizeof text, "%s", PQresultErrorMessage(r)), trouble = text;
        else trouble = peer_rows_check(op, (uint64_t)PQntuples(r));
        if (!trouble && op->work == WORK_CREATE) order_id = (int64_t)be64toh(*(const uint64_t *)(const void *)PQgetvalue(r, 0, 0));
        if (!trouble && op->work == WORK_TRANSITION && be32toh(*(const uint32_t *)(const void *)PQgetvalue(r, 0, 0)) == 0) trouble = "another changed the order meanwhile";
    }
    d.at[i] = NULL;
    d.polls[i].events = POLLIN;
    drive_done(op, trouble, order_id);
}

static void driver_turn(uint64_t wait_ns) {
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / NS_PER_S), .tv_nsec = (long)(wait_ns % NS_PER_S)};
    if (ppoll(d.polls, d.o->connections, &wait, NULL) <= 0) return;
    for (uint32_t i = 0; i < d.o->connections; i++) {
        PGconn *c = d.connections[i];
        if (!d.polls[i].revents) continue;
        if ((d.polls[i].revents & POLLOUT) && PQflush(c) == 0) d.polls[i].events = POLLIN;
        if (!(d.polls[i].revents & ~POLLOUT)) continue;
        if (!PQconsumeInput(c)) peer_panic("receive", PQerrorMessage(c));
        if (d.at[i] && !PQisBusy(c)) finish(i);
    }
}

/* socket: its directory. */
static bool open_all(const struct drive_options *o, const char *socket) {
    d.o = o;
    d.connections = calloc(o->connections, sizeof *d.connections), d.at = calloc(o->connections, sizeof *d.at), d.polls = calloc(o->connections, sizeof *d.polls);
    if (!d.connections || !d.at || !d.polls) peer_panic("open", "out of memory");
    for (uint64_t i = 0; i < o->connections; i++) {
        const char *const words[] = {"host", "dbname", "user", NULL}, *const values[] = {socket, "bench", "bench", NULL};
        PGconn *c = d.connections[i] = PQconnectdbParams(words, values, 0);
        if (PQstatus(c) != CONNECTION_OK) peer_panic("connect", PQerrorMessage(c));
        for (unsigned k = 0; k < WORK_COUNT; k++) {
            PGresult *r = PQprepare(c, statements[k].name, statements[k].sql, 0, NULL);
            if (PQresultStatus(r) != PGRES_COMMAND_OK) peer_panic(statements[k].name, PQresultErrorMessage(r));
            PQclear(r);
        }
        if (PQsetnonblocking(c, 1)) peer_panic("connect", PQerrorMessage(c));
        d.polls[i] = (struct pollfd){.fd = PQsocket(c), .events = POLLIN};
    }
    return true;
}

static void close_all(void) {
    for (uint64_t i = 0; i < d.o->connections; i++) PQfinish(d.connections[i]);
    free(d.connections), free(d.at), free(d.polls);
}

const struct peer peer = {.driver = {.name = "PostgreSQL", .dense_ids = true, .start = driver_start, .turn = driver_turn}, .inflight_max = 1, .open = open_all, .close = close_all};
