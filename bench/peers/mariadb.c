/* MariaDB by its client library, without blocking: prepared statements, a connection a call, one thread that polls them all. The library's suspended calls
 * (mysql_stmt_execute_start and _cont) wait for the first result; the rest of an answer is behind it in the same packets. */
#include <mysql.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gen/order_text.h"
#include "bench/peers/peer.h"

enum { ARGUMENTS_MAX = 6 + 4 * ORDER_ITEMS, TEXT_BYTES = 192, COLUMNS_MAX = 12 };

/* Order, items and history in one statement: no row is repeated. */
static const char *const statements[WORK_COUNT] = {
    "CALL order_create(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "CALL order_transition(?)",
    "SELECT 0,order_id,user_id,merchant_id,status,version,created_us,updated_us,items_total,freight,payable,recipient FROM orders WHERE order_id=? "
    "UNION ALL SELECT 1,line,sku,quantity,price,NULL,NULL,NULL,NULL,NULL,NULL,title FROM items WHERE order_id=? "
    "UNION ALL SELECT 2,version,from_status,to_status,at_us,NULL,NULL,NULL,NULL,NULL,NULL,event FROM history WHERE order_id=?",
    "SELECT * FROM orders WHERE user_id=? ORDER BY created_us DESC LIMIT 20",
};

struct connection {
    MYSQL *mysql;
    MYSQL_STMT *prepared[WORK_COUNT];
    MYSQL_BIND binds[WORK_COUNT][ARGUMENTS_MAX];
    long long numbers[ARGUMENTS_MAX];
    char texts[ARGUMENTS_MAX][TEXT_BYTES];
    unsigned long lengths[ARGUMENTS_MAX];
    struct operation *at;   /* NULL: nothing is under way */
    int waits;              /* MYSQL_WAIT_* */
};
static struct {
    const struct drive_options *o;
    struct connection *connections;
    struct pollfd *polls;
} d;

/* ---- answers */

/* Reads every result of the answer; the first one's rows are counted, and its first number is told. */
static const char *results_read(struct connection *c, MYSQL_STMT *s, int64_t *number) {
    uint64_t rows = 0;
    bool first = true;
    for (;;) {
        if (mysql_stmt_field_count(s)) {
            long long value = 0;
            MYSQL_BIND out[COLUMNS_MAX] = {{.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &value}};
            bool writes = c->at->work == WORK_CREATE || c->at->work == WORK_TRANSITION;
            if (writes && first && mysql_stmt_bind_result(s, out)) return mysql_stmt_error(s);
            if (mysql_stmt_store_result(s)) return mysql_stmt_error(s);
            if (first) rows = mysql_stmt_num_rows(s);
            if (writes && first && rows && mysql_stmt_fetch(s)) return "an answer that can't be read";
            if (first) *number = value;
            first = false;
            mysql_stmt_free_result(s);
        }
        int more = mysql_stmt_next_result(s);
        if (more > 0) return mysql_stmt_error(s);
        if (more < 0) break;
    }
    if (c->at->work == WORK_TRANSITION && !*number) return "another changed the order meanwhile";
    return peer_rows_check(c->at, rows);
}

static void executed(struct connection *c, int bad) {
    struct operation *op = c->at;
    MYSQL_STMT *s = c->prepared[op->work];
    static char text[DRIVE_REASON_BYTES];
    int64_t number = 0;
    const char *trouble = bad ? mysql_stmt_error(s) : results_read(c, s, &number);
    if (trouble) snprintf(text, sizeof text, "%s", trouble), trouble = text;
    c->at = NULL;
    d.polls[op->connection].events = 0;
    drive_done(op, trouble, op->work == WORK_CREATE ? number : 0);
}

static void wait_for(struct connection *c) {
    d.polls[c - d.connections].events = (short)((c->waits & MYSQL_WAIT_READ ? POLLIN : 0) | (c->waits & MYSQL_WAIT_WRITE ? POLLOUT : 0));
}

/* ---- requests */

static void number_put(struct connection *c, MYSQL_BIND *b, unsigned i, long long v) {
    c->numbers[i] = v;
    b[i] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_LONGLONG, .buffer = &c->numbers[i]};
}
static void text_bind(struct connection *c, MYSQL_BIND *b, unsigned i) {
    c->lengths[i] = strlen(c->texts[i]);
    b[i] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_STRING, .buffer = c->texts[i], .buffer_length = TEXT_BYTES, .length = &c->lengths[i]};
}

static void create_bind(struct connection *c, const struct operation *op) {
    struct order_text t;
    MYSQL_BIND *b = c->binds[WORK_CREATE];
    order_text_make(&t, op->draw);
    peer_key(c->texts[0], d.o, op), text_bind(c, b, 0);
    number_put(c, b, 1, (long long)op->user), number_put(c, b, 2, t.merchant), number_put(c, b, 3, t.freight), number_put(c, b, 4, t.payable);
    order_text_recipient(&t, c->texts[5]), text_bind(c, b, 5);
    for (unsigned i = 0, n = 6; i < ORDER_ITEMS; i++, n += 4) {
        number_put(c, b, n, t.items[i].sku), number_put(c, b, n + 1, t.items[i].quantity), number_put(c, b, n + 2, t.items[i].price);
        snprintf(c->texts[n + 3], TEXT_BYTES, "%s", t.items[i].title), text_bind(c, b, n + 3);
    }
}

static void driver_start(struct operation *op) {
    struct connection *c = &d.connections[op->connection];
    MYSQL_STMT *s = c->prepared[op->work];
    MYSQL_BIND *b = c->binds[op->work];
    c->at = op;
    if (op->work == WORK_CREATE) create_bind(c, op);
    else
        for (unsigned i = 0; i < mysql_stmt_param_count(s); i++) number_put(c, b, i, op->work == WORK_LIST ? (long long)op->user : (long long)op->order_id);
    if (mysql_stmt_bind_param(s, b)) peer_panic("bind", mysql_stmt_error(s));
    int bad = 0;
    c->waits = mysql_stmt_execute_start(&bad, s);
    if (!c->waits) executed(c, bad);
    else wait_for(c);
}

static void driver_turn(uint64_t wait_ns) {
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / NS_PER_S), .tv_nsec = (long)(wait_ns % NS_PER_S)};
    if (ppoll(d.polls, d.o->connections, &wait, NULL) <= 0) return;
    for (uint32_t i = 0; i < d.o->connections; i++) {
        struct connection *c = &d.connections[i];
        short seen = d.polls[i].revents;
        if (!seen) continue;
        if (!c->at) peer_panic("connection", "closed by the server");
        int bad = 0, ready = (seen & (POLLIN | POLLHUP | POLLERR) ? MYSQL_WAIT_READ : 0) | (seen & POLLOUT ? MYSQL_WAIT_WRITE : 0);
        c->waits = mysql_stmt_execute_cont(&bad, c->prepared[c->at->work], ready);
        if (!c->waits) executed(c, bad);
        else wait_for(c);
    }
}

static bool open_all(const struct drive_options *o, const char *socket) {
    d.o = o;
    d.connections = calloc(o->connections, sizeof *d.connections), d.polls = calloc(o->connections, sizeof *d.polls);
    if (!d.connections || !d.polls) peer_panic("open", "out of memory");
    for (uint64_t i = 0; i < o->connections; i++) {
        struct connection *c = &d.connections[i];
        c->mysql = mysql_init(NULL);
        if (!c->mysql || mysql_options(c->mysql, MYSQL_OPT_NONBLOCK, 0)) peer_panic("open", "out of memory");
        if (!mysql_real_connect(c->mysql, NULL, "bench", "", "bench", 0, socket, CLIENT_MULTI_RESULTS)) peer_panic("connect", mysql_error(c->mysql));
        for (unsigned k = 0; k < WORK_COUNT; k++) {
            c->prepared[k] = mysql_stmt_init(c->mysql);
            if (!c->prepared[k] || mysql_stmt_prepare(c->prepared[k], statements[k], strlen(statements[k]))) peer_panic(statements[k], mysql_error(c->mysql));
        }
        d.polls[i] = (struct pollfd){.fd = mysql_get_socket(c->mysql)};
    }
    return true;
}

static void close_all(void) {
    for (uint64_t i = 0; i < d.o->connections; i++) {
        for (unsigned k = 0; k < WORK_COUNT; k++) mysql_stmt_close(d.connections[i].prepared[k]);
        mysql_close(d.connections[i].mysql);
    }
    free(d.connections), free(d.polls);
}

const struct peer peer = {.driver = {.name = "MariaDB", .dense_ids = true, .start = driver_start, .turn = driver_turn}, .inflight_max = 1, .open = open_all, .close = close_all};
