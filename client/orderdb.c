/* The blocking face: one attempt is a channel call and turns of the loop until its callback; this file adds request ids, retries and their
 * budget, and the decoding of errors.
 *
 * A call: pack -> attempt -> OK: unpack. Refused for a passing reason: pause, and the same bytes again, so that the request id, and with it the
 * effect, stays one. When the deadline or the budget leaves no further attempt, the last answer is the caller's. The budget: client/retry.h. */
#include "client/orderdb.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "client/handle.h"
#include "proto/base/mem.h"

enum {
    TIMEOUT_MS = 10000,
    IMPORT_TIMEOUT_MS = 600000,
    IMPORT_UNSENT_BYTES_MAX = 256 << 10,
};

/* ---- what the last call left */

const struct orderdb_error *orderdb_error(const struct orderdb_client *db) { return db->failed ? &db->error : NULL; }
const char *orderdb_request_id(const struct orderdb_client *db) { return db->request_id; }
unsigned orderdb_attempts(const struct orderdb_client *db) { return db->attempts; }

void handle_clear(struct orderdb_client *db) {
    error_reset(&db->error);
    db->failed = false;
}

void handle_fail(struct orderdb_client *db, enum grpc_code code, const char *message) {
    error_set(&db->error, code, message);
    db->failed = true;
}

static void client_fail_by_answer(struct orderdb_client *db, const struct channel_answer *a) {
    error_from_answer(&db->error, a);
    db->failed = true;
}

/* ---- handles */

struct orderdb_client *orderdb_open(const char *target, const struct orderdb_options *options) {
    struct orderdb_client *db = mem_new(struct orderdb_client);
    int error = ENOMEM;
    if (!db) goto failed;
    list_init(&db->imports), list_init(&db->streams);
    if (options) db->options = *options;
    if (!db->options.timeout_ms) db->options.timeout_ms = TIMEOUT_MS;
    retry_budget_init(&db->budget, 0);
    error_init(&db->error, db->request_id);
    db->loop = channel_loop_new();
    if (!db->loop) goto failed;
    error = security_open(options, &db->tls);
    const struct fleet_options o = {.seats = 1, .routed = db->options.routed, .tls = db->tls, .server_name = db->options.tls_server_name};
    if (!error) error = (db->fleet = fleet_open(db->loop, target, &o)) ? 0 : errno;
    if (!error) return db;
failed:
    orderdb_close(db);
    errno = error;
    return NULL;
}

void orderdb_close(struct orderdb_client *db) {
    if (!db) return;
    check(list_empty(&db->imports));
    check(list_empty(&db->streams));
    if (db->fleet) fleet_close(db->fleet);
    channel_loop_free(db->loop);
    fleet_free(db->fleet);
    tls_source_free(db->tls);
    error_fini(&db->error);
    buf_fini(&db->request), buf_fini(&db->response);
    mem_free(db);
}

/* ---- one attempt */

struct attempt {
    struct orderdb_client *db;
    struct fleet_seat *seat;
    int slot;
    bool done, ok, may_repeat_never, elsewhere, astray; /* may_repeat_never: the server said so. astray: cancelled for that */
    enum channel_fate fate;
};

static void attempt_answer_cb(void *user, const struct channel_answer *a) {
    struct attempt *t = user;
    struct orderdb_client *db = t->db;
    struct channel_answer moved;
    if (t->astray) moved = fleet_astray(a), a = &moved;
    t->done = true;
    t->fate = a->fate;
    t->may_repeat_never = a->pushback_ms == CHANNEL_PUSHBACK_STOP;
    if (a->code != GRPC_OK) client_fail_by_answer(db, a);
    bool drains = db->failed && error_says_drain(&db->error);
    fleet_seat_leave(db->fleet, t->seat, t->slot, a, drains);
    t->elsewhere = fleet_elsewhere(db->fleet, a, drains);
    if (a->code != GRPC_OK) return;
    db->response.len = 0;
    t->ok = buf_append(&db->response, a->response);
    if (!t->ok) handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
}

static void attempt_run(struct attempt *t, const char *path, struct slice request, uint64_t deadline_ns) {
    struct channel_request r = {.path = path, .message = request, .deadline_ns = deadline_ns, .on_answer = attempt_answer_cb, .user = t};
    t->db->attempts++;
    t->seat = fleet_pick_any(t->db->fleet, t->slot);
    struct channel_call *call = t->seat ? channel_start(t->seat->channel, &r) : NULL;
    if (!call) {
        handle_fail(t->db, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
        t->fate = CHANNEL_NOT_SENT;
        t->may_repeat_never = true;
        return;
    }
    fleet_seat_take(t->db->fleet, t->seat);
    uint64_t begun = channel_now_ns();
    while (!t->done) {
        channel_loop_turn(t->db->loop, fleet_routed(t->db->fleet) ? FLEET_LOOK_NS : CHANNEL_FOREVER);
        if (t->done || t->astray || !fleet_is_astray(t->db->fleet, t->seat, t->slot, begun, channel_now_ns())) continue;
        t->astray = true;
        channel_cancel(call);
    }
}

/* ---- retries */

static bool client_retry_allowed(struct orderdb_client *db, const struct attempt *t, bool repeatable, uint64_t deadline_ns, uint64_t *delay_ns) {
    struct retry_question q = {.code = db->error.code, .fate = t->fate, .delay_ms = db->error.retry_delay_ms, .stop = db->options.no_retries || t->may_repeat_never,
                               .repeatable = repeatable, .elsewhere = t->elsewhere, .wait_for_server = db->options.wait_for_server || fleet_was_connected(db->fleet),
                               .attempts = db->attempts, .retries_max = db->options.retries_max, .deadline_ns = deadline_ns};
    return retry_allowed(&db->budget, &q, delay_ns);
}

static void client_pause(struct orderdb_client *db, uint64_t ns) {
    uint64_t now = channel_now_ns();
    for (uint64_t until = now + ns; now < until; now = channel_now_ns()) channel_loop_turn(db->loop, until - now);
}

/* true: the answer is in db->response. */
static bool client_run(struct orderdb_client *db, const char *path, struct slice request, uint32_t timeout_ms, bool repeatable) {
    uint64_t deadline_ns = channel_now_ns() + (timeout_ms ? timeout_ms : db->options.timeout_ms) * NS_PER_MS;
    db->attempts = 0;
    retry_budget_call(&db->budget);
    int slot = fleet_routed(db->fleet) ? routes_slot_of(path, request) : ROUTES_SLOT_NONE;
    bool maybe_done = false; /* an earlier attempt may have taken effect */
    for (;;) {
        uint64_t delay_ns;
        handle_clear(db);
        struct attempt t = {.db = db, .slot = slot};
        attempt_run(&t, path, request, deadline_ns);
        if (t.ok) return true;
        if (!client_retry_allowed(db, &t, repeatable, deadline_ns, &delay_ns)) break;
        maybe_done |= db->error.outcome_unknown;
        client_pause(db, delay_ns);
    }
    if (maybe_done) error_after_unknown(&db->error);
    return false;
}

/* ---- messages */

static void *client_unpack(struct orderdb_client *db, const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *m = message_unpack(type, buf_slice(&db->response));
    if (!m) handle_fail(db, GRPC_INTERNAL, "the answer cannot be read, or no memory for it");
    return m;
}

static void *client_call(struct orderdb_client *db, const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer,
                         const struct orderdb_call_options *options) {
    if (!message_pack(&db->request, request)) {
        handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the request");
        return NULL;
    }
    bool ok = client_run(db, path, buf_slice(&db->request), options ? options->timeout_ms : 0, true);
    return ok ? client_unpack(db, answer) : NULL;
}

Orderdb__V1__CreateOrderResponse *orderdb_create_order(struct orderdb_client *db, const Orderdb__V1__CreateOrderRequest *request,
                                                       const struct orderdb_call_options *options) {
    Orderdb__V1__CreateOrderRequest r = *request;
    Orderdb__V1__WriteOptions w;
    message_write_options(request->options, &w, db->request_id);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/CreateOrder", &r.base, &orderdb__v1__create_order_response__descriptor, options);
}

Orderdb__V1__TransitionOrderResponse *orderdb_transition_order(struct orderdb_client *db, const Orderdb__V1__TransitionOrderRequest *request,
                                                               const struct orderdb_call_options *options) {
    Orderdb__V1__TransitionOrderRequest r = *request;
    Orderdb__V1__WriteOptions w;
    message_write_options(request->options, &w, db->request_id);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/TransitionOrder", &r.base, &orderdb__v1__transition_order_response__descriptor, options);
}

Orderdb__V1__UpdateOrderResponse *orderdb_update_order(struct orderdb_client *db, const Orderdb__V1__UpdateOrderRequest *request,
                                                       const struct orderdb_call_options *options) {
    Orderdb__V1__UpdateOrderRequest r = *request;
    Orderdb__V1__WriteOptions w;
    message_write_options(request->options, &w, db->request_id);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/UpdateOrder", &r.base, &orderdb__v1__update_order_response__descriptor, options);
}

Orderdb__V1__SetOrderTimerResponse *orderdb_set_order_timer(struct orderdb_client *db, const Orderdb__V1__SetOrderTimerRequest *request,
                                                            const struct orderdb_call_options *options) {
    Orderdb__V1__SetOrderTimerRequest r = *request;
    Orderdb__V1__WriteOptions w;
    message_write_options(request->options, &w, db->request_id);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/SetOrderTimer", &r.base, &orderdb__v1__set_order_timer_response__descriptor, options);
}

Orderdb__V1__CancelOrderTimerResponse *orderdb_cancel_order_timer(struct orderdb_client *db, const Orderdb__V1__CancelOrderTimerRequest *request,
                                                                  const struct orderdb_call_options *options) {
    Orderdb__V1__CancelOrderTimerRequest r = *request;
    Orderdb__V1__WriteOptions w;
    message_write_options(request->options, &w, db->request_id);
    r.options = &w;
    return client_call(db, "/orderdb.v1.OrderService/CancelOrderTimer", &r.base, &orderdb__v1__cancel_order_timer_response__descriptor, options);
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

Orderdb__V1__BatchGetOrdersResponse *orderdb_batch_get_orders(struct orderdb_client *db, const Orderdb__V1__BatchGetOrdersRequest *request,
                                                              const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.OrderService/BatchGetOrders", &request->base, &orderdb__v1__batch_get_orders_response__descriptor, options);
}

Orderdb__V1__BatchCreateOrdersResponse *orderdb_batch_create_orders(struct orderdb_client *db, const Orderdb__V1__BatchCreateOrdersRequest *request,
                                                                    const struct orderdb_call_options *options) {
    Orderdb__V1__BatchCreateOrdersRequest r = *request;
    db->request_id[0] = 0;
    void *copies = message_write_creates(&r);
    if (!copies) return handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the request"), NULL;
    void *answer = client_call(db, "/orderdb.v1.OrderService/BatchCreateOrders", &r.base, &orderdb__v1__batch_create_orders_response__descriptor, options);
    mem_free(copies);
    return answer;
}

Orderdb__V1__BatchTransitionOrdersResponse *orderdb_batch_transition_orders(struct orderdb_client *db, const Orderdb__V1__BatchTransitionOrdersRequest *request,
                                                                            const struct orderdb_call_options *options) {
    Orderdb__V1__BatchTransitionOrdersRequest r = *request;
    db->request_id[0] = 0;
    void *copies = message_write_transitions(&r);
    if (!copies) return handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the request"), NULL;
    void *answer = client_call(db, "/orderdb.v1.OrderService/BatchTransitionOrders", &r.base, &orderdb__v1__batch_transition_orders_response__descriptor, options);
    mem_free(copies);
    return answer;
}

Orderdb__V1__RequestOutcome *orderdb_get_request_outcome(struct orderdb_client *db, const Orderdb__V1__GetRequestOutcomeRequest *request,
                                                         const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.OrderService/GetRequestOutcome", &request->base, &orderdb__v1__request_outcome__descriptor, options);
}

Orderdb__V1__Topology *orderdb_get_topology(struct orderdb_client *db, const Orderdb__V1__GetTopologyRequest *request,
                                            const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.AdminService/GetTopology", &request->base, &orderdb__v1__topology__descriptor, options);
}

Orderdb__V1__ApplyResourceResponse *orderdb_apply_resource(struct orderdb_client *db, const Orderdb__V1__ApplyResourceRequest *request,
                                                           const struct orderdb_call_options *options) {
    db->request_id[0] = 0; /* applied again it changes nothing */
    return client_call(db, "/orderdb.v1.AdminService/ApplyResource", &request->base, &orderdb__v1__apply_resource_response__descriptor, options);
}

Orderdb__V1__ListResourcesResponse *orderdb_list_resources(struct orderdb_client *db, const Orderdb__V1__ListResourcesRequest *request,
                                                           const struct orderdb_call_options *options) {
    db->request_id[0] = 0;
    return client_call(db, "/orderdb.v1.AdminService/ListResources", &request->base, &orderdb__v1__list_resources_response__descriptor, options);
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
    struct fleet_seat *seat;
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
    fleet_seat_leave(i->db->fleet, i->seat, ROUTES_SLOT_NONE, a, false);
    i->ok = a->code == GRPC_OK;
    i->failure.code = a->code, i->failure.fate = a->fate, i->failure.pushback_ms = a->pushback_ms;
    i->answer.len = 0;
    bool kept = i->ok ? buf_append(&i->answer, a->response) : buf_append(&i->failure.message, a->message) && buf_append(&i->failure.details, a->details);
    if (!kept) i->no_memory = true;
}

struct orderdb_import *orderdb_import_begin(struct orderdb_client *db, uint32_t timeout_ms) {
    db->request_id[0] = 0;
    handle_clear(db);
    struct orderdb_import *i = mem_new(struct orderdb_import);
    struct channel_request r = {.path = "/orderdb.v1.OrderService/ImportOrders", .stream = true, .lasts = true, .on_answer = import_answer_cb, .user = i};
    r.deadline_ns = channel_now_ns() + (timeout_ms ? timeout_ms : IMPORT_TIMEOUT_MS) * NS_PER_MS;
    if (i) i->seat = fleet_pick_any(db->fleet, ROUTES_SLOT_NONE);
    if (i && i->seat) i->call = channel_start(i->seat->channel, &r);
    if (!i || !i->call) {
        mem_free(i);
        handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
        return NULL;
    }
    i->db = db;
    fleet_seat_take(db->fleet, i->seat);
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
    handle_clear(db);
    if (i->no_memory) {
        handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the import");
    } else if (!i->ok) {
        struct channel_answer a = {.code = i->failure.code, .fate = i->failure.fate, .message = buf_slice(&i->failure.message),
                                   .details = buf_slice(&i->failure.details), .pushback_ms = i->failure.pushback_ms};
        client_fail_by_answer(db, &a);
    } else {
        db->response.len = 0;
        if (buf_append(&db->response, buf_slice(&i->answer))) answer = client_unpack(db, &orderdb__v1__import_orders_response__descriptor);
        else handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the answer");
    }
    list_remove(&i->node);
    buf_fini(&i->answer), buf_fini(&i->failure.message), buf_fini(&i->failure.details);
    mem_free(i);
    return answer;
}
