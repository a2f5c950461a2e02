/* The blocking face: one attempt is a channel call and turns of the loop until its callback; this file adds request ids, retries and their
 * budget, and the decoding of errors.
 *
 * A call: pack -> attempt -> OK: unpack. Refused for a passing reason: pause, and the same bytes again, so that the request id, and with it the
 * effect, stays one. When the deadline or the budget leaves no further attempt, the last answer is the caller's.
 *
 * The budget keeps an outage from being multiplied by its clients: a call earns a tenth of a token, a retry that reached the server costs one,
 * at most BUDGET_MAX are saved. Attempts <= 1.1 x calls + 10. Attempts that found no server at all cost nothing: pauses alone bound them. */
#include "client/orderdb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/channel.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "proto/details.h"
#include "proto/tls.h"

enum {
    TIMEOUT_MS = 10000,
    IMPORT_TIMEOUT_MS = 600000,
    PAUSE_MS_MIN = 20,           /* the first pause is up to twice this */
    PAUSE_MS_MAX = 2000,
    BUDGET_PER_CALL = 100,       /* thousandths of a retry */
    BUDGET_PER_RETRY = 1000,
    BUDGET_MAX = 10 * BUDGET_PER_RETRY,
    REQUEST_ID_BYTES_MAX = 128,
    REQUEST_ID_RANDOM_BYTES = 16,
    IMPORT_UNSENT_BYTES_MAX = 256 << 10,
};
#define ERROR_BYTES_MAX (256 * KIB)

struct orderdb_error {
    enum grpc_code code;
    bool outcome_unknown;
    int64_t retry_delay_ms;
    const char *reason, *message, *request_id;
    struct failure_meta *metas;
    struct failure_violation *violations;
};

struct orderdb_client {
    struct channel_loop *loop;
    struct channel *channel;
    struct tls_source *tls; /* NULL: cleartext */
    struct orderdb_options options;
    struct arena error_arena;
    struct orderdb_error error;
    bool failed;
    unsigned attempts;
    int budget;
    struct buf request, response;
    struct list imports;
    char request_id[REQUEST_ID_BYTES_MAX + 1];
};

/* ---- errors */

static const char *const code_names[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
};
static_assert(ARRAY_LEN(code_names) == GRPC_UNAUTHENTICATED + 1, "a name per code");

const struct orderdb_error *orderdb_error(const struct orderdb_client *db) { return db->failed ? &db->error : NULL; }
int orderdb_error_code(const struct orderdb_error *e) { return (int)e->code; }
const char *orderdb_error_code_name(const struct orderdb_error *e) { return code_names[e->code]; }
const char *orderdb_error_reason(const struct orderdb_error *e) { return e->reason; }
const char *orderdb_error_message(const struct orderdb_error *e) { return e->message; }
const char *orderdb_error_request_id(const struct orderdb_error *e) { return e->request_id; }
int64_t orderdb_error_retry_delay_ms(const struct orderdb_error *e) { return e->retry_delay_ms; }
bool orderdb_error_outcome_unknown(const struct orderdb_error *e) { return e->outcome_unknown; }
const char *orderdb_request_id(const struct orderdb_client *db) { return db->request_id; }
unsigned orderdb_attempts(const struct orderdb_client *db) { return db->attempts; }

size_t orderdb_error_meta_count(const struct orderdb_error *e) {
    size_t n = 0;
    for (const struct failure_meta *m = e->metas; m; m = m->next) n++;
    return n;
}

void orderdb_error_meta_at(const struct orderdb_error *e, size_t i, const char **key, const char **value) {
    const struct failure_meta *m = e->metas;
    for (; m && i > 0; i--) m = m->next;
    *key = m ? m->key : "";
    *value = m ? (const char *)m->value.data : "";
}

const char *orderdb_error_meta(const struct orderdb_error *e, const char *key) {
    for (const struct failure_meta *m = e->metas; m; m = m->next) {
        if (strcmp(m->key, key) == 0) return (const char *)m->value.data;
    }
    return NULL;
}

size_t orderdb_error_violation_count(const struct orderdb_error *e) {
    size_t n = 0;
    for (const struct failure_violation *v = e->violations; v; v = v->next) n++;
    return n;
}

void orderdb_error_violation_at(const struct orderdb_error *e, size_t i, const char **field, const char **description) {
    const struct failure_violation *v = e->violations;
    for (; v && i > 0; i--) v = v->next;
    *field = v ? v->field : "";
    *description = v ? v->description : "";
}

static void error_reset(struct orderdb_client *db) {
    arena_reset(&db->error_arena);
    db->failed = false;
    db->error = (struct orderdb_error){.reason = "", .message = "", .request_id = db->request_id, .retry_delay_ms = -1};
}

/* message: static, or in the arena. */
static void error_set(struct orderdb_client *db, enum grpc_code code, const char *message) {
    error_reset(db);
    db->failed = true;
    db->error.code = code;
    db->error.message = message;
}

static void error_from_answer(struct orderdb_client *db, const struct channel_answer *a) {
    error_set(db, a->code, "");
    struct orderdb_error *e = &db->error;
    struct slice message = arena_copy(&db->error_arena, a->message);
    if (message.data) e->message = (const char *)message.data;
    /* A write under way when its deadline passed, here or at the server, may have happened. */
    e->outcome_unknown = a->fate == CHANNEL_UNKNOWN || (a->fate == CHANNEL_ANSWERED && a->code == GRPC_DEADLINE_EXCEEDED);
    struct details d;
    if (a->details.len > 0 && details_decode(a->details, &db->error_arena, &d)) {
        e->reason = d.reason;
        e->metas = d.metas;
        e->violations = d.violations;
        if (d.message[0]) e->message = d.message;
        if (d.has_retry_delay) e->retry_delay_ms = d.retry_delay_ms;
    }
    if (a->pushback_ms >= 0) e->retry_delay_ms = a->pushback_ms;
}

/* ---- handles */

/* 0, or the errno. */
static int open_tls(struct orderdb_client *db, const struct orderdb_options *o) {
    const struct tls_files files = {.cert = o->tls_cert, .key = o->tls_key, .ca = o->tls_ca};
    char error[256];
    if (!o->tls && !o->tls_ca && !o->tls_cert && !o->tls_key) return 0;
    db->tls = tls_source_new_client(&files, error);
    if (db->tls) return channel_use_tls(db->channel, db->tls, o->tls_server_name) ? 0 : ENOMEM;
    if (o->tls_error) memcpy(o->tls_error, error, sizeof(error));
    return EKEYREJECTED;
}

struct orderdb_client *orderdb_open(const char *target, const struct orderdb_options *options) {
    struct orderdb_client *db = mem_new(struct orderdb_client);
    int error = ENOMEM;
    if (!db) goto failed;
    list_init(&db->imports);
    if (options) db->options = *options;
    if (!db->options.timeout_ms) db->options.timeout_ms = TIMEOUT_MS;
    db->budget = BUDGET_MAX;
    arena_init(&db->error_arena, ERROR_BYTES_MAX);
    error_reset(db);
    db->loop = channel_loop_new();
    if (!db->loop) goto failed;
    db->channel = channel_open(db->loop, target);
    error = db->channel ? options ? open_tls(db, options) : 0 : errno;
    if (!error) return db;
failed:
    orderdb_close(db);
    errno = error;
    return NULL;
}

void orderdb_close(struct orderdb_client *db) {
    if (!db) return;
    check(list_empty(&db->imports));
    channel_close(db->channel);
    channel_loop_free(db->loop);
    tls_source_free(db->tls);
    arena_fini(&db->error_arena);
    buf_fini(&db->request), buf_fini(&db->response);
    mem_free(db);
}

/* ---- one attempt */

struct attempt {
    struct orderdb_client *db;
    bool done, ok, may_repeat_never; /* may_repeat_never: the server said so */
    enum channel_fate fate;
};

static void attempt_answer_cb(void *user, const struct channel_answer *a) {
    struct attempt *t = user;
    struct orderdb_client *db = t->db;
    t->done = true;
    t->fate = a->fate;
    t->may_repeat_never = a->pushback_ms == CHANNEL_PUSHBACK_STOP;
    if (a->code != GRPC_OK) {
        error_from_answer(db, a);
        return;
    }
    db->response.len = 0;
    t->ok = buf_append(&db->response, a->response);
    if (!t->ok) error_set(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
}

static void attempt_run(struct attempt *t, const char *path, struct slice request, uint64_t deadline_ns) {
    struct channel_request r = {.path = path, .message = request, .deadline_ns = deadline_ns, .on_answer = attempt_answer_cb, .user = t};
    t->db->attempts++;
    if (!channel_start(t->db->channel, &r)) {
        error_set(t->db, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
        t->fate = CHANNEL_NOT_SENT;
        t->may_repeat_never = true;
        return;
    }
    while (!t->done) channel_loop_turn(t->db->loop, CHANNEL_FOREVER);
}

/* ---- retries */

/* Full jitter: anything from half to all of a pause that doubles with each attempt. */
static uint64_t pause_ns(unsigned attempt) {
    uint64_t random, ms = MIN_OF((uint64_t)PAUSE_MS_MIN << MIN_OF(attempt, 10u), (uint64_t)PAUSE_MS_MAX);
    random_bytes(&random, sizeof(random));
    return (ms / 2 + random % (ms / 2 + 1)) * NS_PER_MS;
}

/* Whether the failed attempt may be followed by another, and after which pause. */
static bool retry_allowed(struct orderdb_client *db, const struct attempt *t, bool repeatable, uint64_t deadline_ns, uint64_t *delay_ns) {
    const struct orderdb_error *e = &db->error;
    if (db->options.no_retries || t->may_repeat_never) return false;
    if (db->options.retries_max && db->attempts > db->options.retries_max) return false;
    bool passing = e->code == GRPC_UNAVAILABLE || (e->code == GRPC_RESOURCE_EXHAUSTED && e->retry_delay_ms >= 0);
    if (!passing || (!repeatable && t->fate == CHANNEL_UNKNOWN)) return false;
    if (t->fate == CHANNEL_NOT_SENT && !db->options.wait_for_server && !channel_was_connected(db->channel)) return false;
    *delay_ns = pause_ns(db->attempts);
    if (e->retry_delay_ms > 0) *delay_ns += (uint64_t)e->retry_delay_ms * NS_PER_MS;
    if (channel_now_ns() + *delay_ns >= deadline_ns) return false;
    if (t->fate == CHANNEL_NOT_SENT) return true;
    if (db->budget < BUDGET_PER_RETRY) return false;
    db->budget -= BUDGET_PER_RETRY;
    return true;
}

static void client_pause(struct orderdb_client *db, uint64_t ns) {
    uint64_t now = channel_now_ns();
    for (uint64_t until = now + ns; now < until; now = channel_now_ns()) channel_loop_turn(db->loop, until - now);
}

/* true: the answer is in db->response. */
static bool client_run(struct orderdb_client *db, const char *path, struct slice request, uint32_t timeout_ms, bool repeatable) {
    uint64_t deadline_ns = channel_now_ns() + (timeout_ms ? timeout_ms : db->options.timeout_ms) * NS_PER_MS;
    db->attempts = 0;
    db->budget = MIN_OF(db->budget + BUDGET_PER_CALL, BUDGET_MAX);
    bool maybe_done = false; /* an earlier attempt may have taken effect */
    for (;;) {
        uint64_t delay_ns;
        error_reset(db);
        struct attempt t = {.db = db};
        attempt_run(&t, path, request, deadline_ns);
        if (t.ok) return true;
        if (!retry_allowed(db, &t, repeatable, deadline_ns, &delay_ns)) break;
        maybe_done |= db->error.outcome_unknown;
        client_pause(db, delay_ns);
    }
    /* A refusal settles what became of the earlier attempts; no answer does not. */
    if (maybe_done && (db->error.code == GRPC_UNAVAILABLE || db->error.code == GRPC_DEADLINE_EXCEEDED || db->error.code == GRPC_RESOURCE_EXHAUSTED)) {
        db->error.outcome_unknown = true;
    }
    return false;
}

/* ---- messages */

static void *message_alloc_cb(void *user, size_t n) { return mem_alloc(n); }
static void message_free_cb(void *user, void *p) { mem_free(p); }
static ProtobufCAllocator message_allocator = {message_alloc_cb, message_free_cb, NULL};

void orderdb_message_free(void *message) {
    if (message) protobuf_c_message_free_unpacked(message, &message_allocator);
}

static bool message_pack(struct buf *b, const ProtobufCMessage *m) {
    b->len = 0;
    size_t n = protobuf_c_message_get_packed_size(m);
    if (!buf_reserve(b, n)) return false;
    b->len = protobuf_c_message_pack(m, b->data);
    return true;
}

static void *message_unpack(struct orderdb_client *db, const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *m = protobuf_c_message_unpack(type, &message_allocator, db->response.len, db->response.data);
    if (!m) error_set(db, GRPC_INTERNAL, "the answer cannot be read, or no memory for it");
    return m;
}

static void *client_call(struct orderdb_client *db, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer,
                         const struct orderdb_call_options *options) {
    if (!message_pack(&db->request, request)) {
        error_set(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the request");
        return NULL;
    }
    bool ok = client_run(db, path, buf_slice(&db->request), options ? options->timeout_ms : 0, true);
    return ok ? message_unpack(db, answer) : NULL;
}

/* The options that a write is sent with: the caller's, and a request id if there is none. */
static void write_options(struct orderdb_client *db, const Orderdb__V1__WriteOptions *given, Orderdb__V1__WriteOptions *out) {
    *out = given ? *given : (Orderdb__V1__WriteOptions)ORDERDB__V1__WRITE_OPTIONS__INIT;
    if (out->request_id && out->request_id[0]) {
        snprintf(db->request_id, sizeof(db->request_id), "%s", out->request_id);
        return;
    }
    uint8_t random[REQUEST_ID_RANDOM_BYTES];
    random_bytes(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++) snprintf(db->request_id + 2 * i, 3, "%02x", random[i]);
    out->request_id = db->request_id;
}

Orderdb__V1__CreateOrderResponse *orderdb_create_order(struct orderdb_client *db, const Orderdb__V1__CreateOrderRequest *request,
                                                       const struct orderdb_call_options *options) {
    Orderdb__V1__CreateOrderRequest r = *request;
    Orderdb__V1__WriteOptions w;
    write_options(db, request->options, &w);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/CreateOrder", &r.base, &orderdb__v1__create_order_response__descriptor, options);
}

Orderdb__V1__TransitionOrderResponse *orderdb_transition_order(struct orderdb_client *db, const Orderdb__V1__TransitionOrderRequest *request,
                                                               const struct orderdb_call_options *options) {
    Orderdb__V1__TransitionOrderRequest r = *request;
    Orderdb__V1__WriteOptions w;
    write_options(db, request->options, &w);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/TransitionOrder", &r.base, &orderdb__v1__transition_order_response__descriptor, options);
}

Orderdb__V1__Order *orderdb_get_order(struct orderdb_client *db, const Orderdb__V1__GetOrderRequest *request,
                                      const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.OrderService/GetOrder", &request->base, &orderdb__v1__order__descriptor, options);
}

Orderdb__V1__ListOrdersResponse *orderdb_list_orders(struct orderdb_client *db, const Orderdb__V1__ListOrdersRequest *request,
                                                     const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.OrderService/ListOrders", &request->base, &orderdb__v1__list_orders_response__descriptor, options);
}

Orderdb__V1__ListOrderHistoryResponse *orderdb_list_order_history(struct orderdb_client *db, const Orderdb__V1__ListOrderHistoryRequest *request,
                                                                  const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.OrderService/ListOrderHistory", &request->base, &orderdb__v1__list_order_history_response__descriptor, options);
}

Orderdb__V1__Topology *orderdb_get_topology(struct orderdb_client *db, const Orderdb__V1__GetTopologyRequest *request,
                                            const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.AdminService/GetTopology", &request->base, &orderdb__v1__topology__descriptor, options);
}

bool orderdb_call(struct orderdb_client *db, const char *path, const void *request, size_t request_bytes, const struct orderdb_call_options *options,
                  const uint8_t **answer, size_t *answer_bytes) {
    db->request_id[0] = 0;
    bool ok = client_run(db, path, slice_of(request, request_bytes), options ? options->timeout_ms : 0, options && options->repeatable);
    *answer = ok ? db->response.data : NULL;
    *answer_bytes = ok ? db->response.len : 0;
    return ok;
}

/* ---- imports */

struct orderdb_import {
    struct orderdb_client *db;
    struct list node;
    struct channel_call *call; /* NULL: ended, by an answer or for want of memory */
    bool ok, no_memory;
    struct buf answer;
    struct {
        enum grpc_code code;
        enum channel_fate fate;
        int64_t pushback_ms;
        struct buf message, details;
    } failure;
};

static void import_answer_cb(void *user, const struct channel_answer *a) {
    struct orderdb_import *i = user;
    i->call = NULL;
    i->ok = a->code == GRPC_OK;
    i->failure.code = a->code, i->failure.fate = a->fate, i->failure.pushback_ms = a->pushback_ms;
    i->answer.len = 0;
    bool kept = i->ok ? buf_append(&i->answer, a->response) : buf_append(&i->failure.message, a->message) && buf_append(&i->failure.details, a->details);
    if (!kept) i->no_memory = true;
}

struct orderdb_import *orderdb_import_begin(struct orderdb_client *db, uint32_t timeout_ms) {
    db->request_id[0] = 0;
    error_reset(db);
    struct orderdb_import *i = mem_new(struct orderdb_import);
    struct channel_request r = {.path = "/orderdb.v1.OrderService/ImportOrders", .stream = true, .on_answer = import_answer_cb, .user = i};
    r.deadline_ns = channel_now_ns() + (timeout_ms ? timeout_ms : IMPORT_TIMEOUT_MS) * NS_PER_MS;
    if (i) i->call = channel_start(db->channel, &r);
    if (!i || !i->call) {
        mem_free(i);
        error_set(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
        return NULL;
    }
    i->db = db;
    list_push_back(&db->imports, &i->node);
    return i;
}

bool orderdb_import_send_bytes(struct orderdb_import *i, const void *order, size_t order_bytes) {
    while (i->call && channel_unsent_bytes(i->call) > IMPORT_UNSENT_BYTES_MAX) channel_loop_turn(i->db->loop, CHANNEL_FOREVER);
    if (!i->call || i->no_memory) return false;
    if (channel_send(i->call, slice_of(order, order_bytes))) return true;
    if (i->call) i->no_memory = true; /* an order is missing: the rest must not look like the whole */
    return false;
}

bool orderdb_import_send(struct orderdb_import *i, const Orderdb__V1__ImportOrdersRequest *order) {
    if (!i->call || i->no_memory) return false;
    if (!message_pack(&i->db->request, &order->base)) return i->no_memory = true, false;
    return orderdb_import_send_bytes(i, i->db->request.data, i->db->request.len);
}

void orderdb_import_end(struct orderdb_import *i) {
    if (i->call && !i->no_memory) channel_send_end(i->call);
}

Orderdb__V1__ImportOrdersResponse *orderdb_import_finish(struct orderdb_import *i) {
    struct orderdb_client *db = i->db;
    Orderdb__V1__ImportOrdersResponse *answer = NULL;
    orderdb_import_end(i);
    if (i->call && i->no_memory) channel_cancel(i->call);
    while (i->call) channel_loop_turn(db->loop, CHANNEL_FOREVER);
    error_reset(db);
    if (i->no_memory) {
        error_set(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the import");
    } else if (!i->ok) {
        struct channel_answer a = {.code = i->failure.code, .fate = i->failure.fate, .message = buf_slice(&i->failure.message),
                                   .details = buf_slice(&i->failure.details), .pushback_ms = i->failure.pushback_ms};
        error_from_answer(db, &a);
    } else {
        db->response.len = 0;
        if (buf_append(&db->response, buf_slice(&i->answer))) answer = message_unpack(db, &orderdb__v1__import_orders_response__descriptor);
        else error_set(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
    }
    list_remove(&i->node);
    buf_fini(&i->answer), buf_fini(&i->failure.message), buf_fini(&i->failure.details);
    mem_free(i);
    return answer;
}
