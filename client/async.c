/* Asynchronous calls: channels on one loop (client/fleet.h), and retries on top.
 *
 *   submit -> call_begin -> on a seat -> attempt_answer_cb -> call_end (callback)
 *                 |  ^                        |
 *                 v  |                        v
 *               waiting: no seat is open, or the pause before a retry
 *
 * A call takes the open seat with the fewest calls, of a cluster's nodes one of its leader's. A seat whose connection was lost or could not be made is closed for a random pause that doubles
 * from failure to failure, so that the clients of a server that went down do not come back all at once. The calls of a lost connection end one after another: only the first of them
 * lengthens the pause. With several nodes a call that its node has failed goes to another one at once; the budget then saves as many retries as calls may be in flight, for that
 * is what a node may take along.
 *
 * A call is owned by the handle's list from submit to the end of its callback. While it waits it is in the heap of waiting calls; else the
 * channel holds it, and calls back exactly once. */
#include <errno.h>
#include <limits.h>
#include <poll.h>

#include "client/deadlines.h"
#include "client/error.h"
#include "client/fleet.h"
#include "client/message.h"
#include "client/orderdb.h"
#include "client/retry.h"
#include "client/security.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"

enum { TIMEOUT_MS = 10000, CONNECTIONS = 2, IN_FLIGHT_MAX = 1000 };

struct orderdb_async {
    struct channel_loop *loop;
    struct tls_source *tls; /* NULL: cleartext */
    struct orderdb_options options;
    uint32_t in_flight_max;
    struct retry_budget budget;
    struct deadlines waiting;
    struct list calls;
    struct orderdb_async_stats stats;
    uint32_t ended; /* in this run */
    bool closing;
    struct orderdb_error error; /* of the callback that runs */
    uint64_t look_ns;           /* when calls that are astray are looked for */
    struct fleet *fleet;
};

struct async_method {
    const char *path;
    const ProtobufCMessageDescriptor *request, *answer;
};

struct async_call {
    struct orderdb_async *a;
    struct list node;
    const struct async_method *method;
    struct buf request;
    uint64_t deadline_ns;
    struct deadline wake; /* in a->waiting, while no channel holds it */
    int slot; /* ROUTES_SLOT_NONE: any node will do */
    struct fleet_seat *seat;
    struct channel_call *attempt; /* on that */
    uint64_t attempt_ns;          /* since when */
    bool astray;                  /* it was cancelled for that */
    unsigned attempts;
    bool maybe_done; /* an earlier attempt may have taken effect */
    orderdb_async_cb *cb;
    void *user;
    char request_id[MESSAGE_REQUEST_ID_BYTES];
};

#define METHOD(service, name, request_, answer_) \
    {"/orderdb.v1." service "/" name, &orderdb__v1__##request_##__descriptor, &orderdb__v1__##answer_##__descriptor}
static const struct async_method methods[] = {
    METHOD("OrderService", "CreateOrder", create_order_request, create_order_response),
    METHOD("OrderService", "TransitionOrder", transition_order_request, transition_order_response),
    METHOD("OrderService", "UpdateOrder", update_order_request, update_order_response),
    METHOD("OrderService", "SetOrderTimer", set_order_timer_request, set_order_timer_response),
    METHOD("OrderService", "CancelOrderTimer", cancel_order_timer_request, cancel_order_timer_response),
    METHOD("OrderService", "GetOrder", get_order_request, order),
    METHOD("OrderService", "ListOrders", list_orders_request, list_orders_response),
    METHOD("OrderService", "ListOrderHistory", list_order_history_request, list_order_history_response),
    METHOD("OrderService", "BatchGetOrders", batch_get_orders_request, batch_get_orders_response),
    METHOD("OrderService", "BatchCreateOrders", batch_create_orders_request, batch_create_orders_response),
    METHOD("OrderService", "BatchTransitionOrders", batch_transition_orders_request, batch_transition_orders_response),
    METHOD("OrderService", "GetRequestOutcome", get_request_outcome_request, request_outcome),
    METHOD("AdminService", "GetTopology", get_topology_request, topology),
    METHOD("AdminService", "ApplyResource", apply_resource_request, apply_resource_response),
    METHOD("AdminService", "ListResources", list_resources_request, list_resources_response),
};

static const struct async_method *method_of(const ProtobufCMessage *request) {
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (methods[i].request == request->descriptor) return &methods[i];
    }
    return NULL;
}

/* ---- a call's way */

static void call_free(struct async_call *c) {
    buf_fini(&c->request);
    mem_free(c);
}

/* answer NULL: a->error tells why. */
static void call_end(struct async_call *c, void *answer) {
    struct orderdb_async *a = c->a;
    list_remove(&c->node);
    check(a->stats.in_flight > 0);
    a->stats.in_flight--; /* before the callback, which may submit the next one */
    a->ended++;
    a->error.request_id = c->request_id;
    if (!answer && c->maybe_done) error_after_unknown(&a->error);
    c->cb(c->user, answer, answer ? NULL : &a->error);
    call_free(c);
}

static void call_fail(struct async_call *c, enum grpc_code code, const char *message) {
    error_set(&c->a->error, code, message);
    call_end(c, NULL);
}

static bool call_wait(struct async_call *c, uint64_t until_ns) {
    c->wake.at_ns = MIN_OF(until_ns, c->deadline_ns);
    return deadlines_add(&c->a->waiting, &c->wake);
}

static bool call_retry(struct async_call *c, const struct channel_answer *answer, bool elsewhere) {
    struct orderdb_async *a = c->a;
    uint64_t pause_ns;
    bool stop = a->options.no_retries || a->closing || answer->pushback_ms == CHANNEL_PUSHBACK_STOP;
    struct retry_question q = {.code = answer->code, .fate = answer->fate, .delay_ms = a->error.retry_delay_ms, .stop = stop, .repeatable = true, .elsewhere = elsewhere,
                               .wait_for_server = a->options.wait_for_server || fleet_was_connected(a->fleet), .attempts = c->attempts,
                               .retries_max = a->options.retries_max, .deadline_ns = c->deadline_ns};
    if (!retry_allowed(&a->budget, &q, &pause_ns) || !call_wait(c, channel_now_ns() + pause_ns)) return false;
    c->maybe_done |= a->error.outcome_unknown;
    return true;
}

static void attempt_answer_cb(void *user, const struct channel_answer *answer) {
    struct async_call *c = user;
    struct orderdb_async *a = c->a;
    struct channel_answer moved;
    if (c->astray) moved = fleet_astray(answer), answer = &moved;
    if (answer->code != GRPC_OK) error_from_answer(&a->error, answer);
    bool drains = answer->code != GRPC_OK && error_says_drain(&a->error);
    fleet_seat_leave(a->fleet, c->seat, c->slot, answer, drains);
    c->seat = NULL;
    if (answer->code == GRPC_OK) {
        void *m = message_unpack(c->method->answer, answer->response);
        if (!m) error_set(&a->error, GRPC_INTERNAL, "the answer cannot be read, or no memory for it");
        call_end(c, m);
        return;
    }
    if (!call_retry(c, answer, fleet_elsewhere(a->fleet, answer, drains))) call_end(c, NULL);
}

/* On its way, or waiting for a seat to open. false: no memory. */
static bool call_begin(struct async_call *c, uint64_t now) {
    struct orderdb_async *a = c->a;
    uint64_t open_ns;
    struct fleet_seat *s = fleet_pick(a->fleet, c->slot, now, &open_ns);
    if (!s) return call_wait(c, open_ns);
    struct channel_request r = {.path = c->method->path, .message = buf_slice(&c->request), .deadline_ns = c->deadline_ns, .on_answer = attempt_answer_cb, .user = c};
    c->attempt = channel_start(s->channel, &r);
    if (!c->attempt) return false;
    c->seat = s, c->attempt_ns = now, c->astray = false;
    fleet_seat_take(a->fleet, s);
    c->attempts++;
    a->stats.attempts++;
    return true;
}

static void calls_wake(struct orderdb_async *a, uint64_t now) {
    for (struct deadline *d; (d = deadlines_first(&a->waiting)) && d->at_ns <= now;) {
        struct async_call *c = container_of(d, struct async_call, wake);
        deadlines_remove(&a->waiting, d);
        if (now >= c->deadline_ns) call_fail(c, GRPC_DEADLINE_EXCEEDED, "no connection to the server before the deadline");
        else if (!call_begin(c, now)) call_fail(c, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
    }
}

/* ---- submit */

/* The request as bytes; a write gets its id. */
static bool call_pack(struct async_call *c, const ProtobufCMessage *request) {
    Orderdb__V1__WriteOptions w;
    if (request->descriptor == &orderdb__v1__create_order_request__descriptor) {
        Orderdb__V1__CreateOrderRequest r = *(const Orderdb__V1__CreateOrderRequest *)request;
        message_write_options(r.options, &w, c->request_id);
        r.options = &w;
        return message_pack(&c->request, &r.base);
    }
    if (request->descriptor == &orderdb__v1__transition_order_request__descriptor) {
        Orderdb__V1__TransitionOrderRequest r = *(const Orderdb__V1__TransitionOrderRequest *)request;
        message_write_options(r.options, &w, c->request_id);
        r.options = &w;
        return message_pack(&c->request, &r.base);
    }
    if (request->descriptor == &orderdb__v1__update_order_request__descriptor) {
        Orderdb__V1__UpdateOrderRequest r = *(const Orderdb__V1__UpdateOrderRequest *)request;
        message_write_options(r.options, &w, c->request_id);
        r.options = &w;
        return message_pack(&c->request, &r.base);
    }
    if (request->descriptor == &orderdb__v1__set_order_timer_request__descriptor) {
        Orderdb__V1__SetOrderTimerRequest r = *(const Orderdb__V1__SetOrderTimerRequest *)request;
        message_write_options(r.options, &w, c->request_id);
        r.options = &w;
        return message_pack(&c->request, &r.base);
    }
    if (request->descriptor == &orderdb__v1__cancel_order_timer_request__descriptor) {
        Orderdb__V1__CancelOrderTimerRequest r = *(const Orderdb__V1__CancelOrderTimerRequest *)request;
        message_write_options(r.options, &w, c->request_id);
        r.options = &w;
        return message_pack(&c->request, &r.base);
    }
    if (request->descriptor == &orderdb__v1__batch_create_orders_request__descriptor) {
        Orderdb__V1__BatchCreateOrdersRequest r = *(const Orderdb__V1__BatchCreateOrdersRequest *)request;
        void *copies = message_write_creates(&r);
        bool packed = copies && message_pack(&c->request, &r.base);
        return mem_free(copies), packed;
    }
    if (request->descriptor == &orderdb__v1__batch_transition_orders_request__descriptor) {
        Orderdb__V1__BatchTransitionOrdersRequest r = *(const Orderdb__V1__BatchTransitionOrdersRequest *)request;
        void *copies = message_write_transitions(&r);
        bool packed = copies && message_pack(&c->request, &r.base);
        return mem_free(copies), packed;
    }
    return message_pack(&c->request, request);
}

static bool refused(int error) {
    errno = error;
    return false;
}

bool orderdb_async_submit(struct orderdb_async *a, const ProtobufCMessage *request, const struct orderdb_call_options *options, orderdb_async_cb *cb,
                          void *user) {
    const struct async_method *method = method_of(request);
    if (!method) return refused(EINVAL);
    if (a->closing) return refused(ECANCELED);
    if (a->stats.in_flight >= a->in_flight_max) return refused(EAGAIN);
    struct async_call *c = mem_new(struct async_call);
    if (!c) return refused(ENOMEM);
    uint64_t now = channel_now_ns();
    c->a = a, c->method = method, c->cb = cb, c->user = user;
    c->deadline_ns = now + (options && options->timeout_ms ? options->timeout_ms : a->options.timeout_ms) * NS_PER_MS;
    bool packed = call_pack(c, request);
    c->slot = packed && fleet_routed(a->fleet) ? routes_slot_of(method->path, buf_slice(&c->request)) : ROUTES_SLOT_NONE;
    if (!packed || !call_begin(c, now)) {
        call_free(c);
        return refused(ENOMEM);
    }
    list_push_back(&a->calls, &c->node);
    retry_budget_call(&a->budget);
    a->stats.calls++;
    a->stats.in_flight++;
    return true;
}

/* ---- running */

/* At most so long may be waited. */
static uint64_t find_astray(struct orderdb_async *a, uint64_t now) {
    if (!fleet_routed(a->fleet) || a->stats.in_flight == 0) return UINT64_MAX;
    if (now < a->look_ns) return a->look_ns - now;
    list_each(it, &a->calls) {
        struct async_call *c = list_entry(it, struct async_call, node);
        if (!c->seat || c->astray || !fleet_is_astray(a->fleet, c->seat, c->slot, c->attempt_ns, now)) continue;
        c->astray = true;
        channel_cancel(c->attempt);
    }
    a->look_ns = now + FLEET_LOOK_NS;
    return FLEET_LOOK_NS;
}

static uint32_t async_turn(struct orderdb_async *a, uint64_t wait_ns) {
    uint64_t now = channel_now_ns();
    a->ended = 0;
    calls_wake(a, now);
    wait_ns = MIN_OF(wait_ns, find_astray(a, now));
    struct deadline *next = deadlines_first(&a->waiting);
    if (next) wait_ns = MIN_OF(wait_ns, next->at_ns > now ? next->at_ns - now : 0);
    channel_loop_turn(a->loop, a->ended ? 0 : wait_ns);
    return a->ended;
}

/* A turn may end with nothing to tell (a window opened, a connection was made): then the rest of the time is waited too. */
uint32_t orderdb_async_run(struct orderdb_async *a, uint32_t wait_ms) {
    uint64_t now = channel_now_ns(), until = now + wait_ms * NS_PER_MS;
    uint32_t ended;
    do {
        ended = async_turn(a, until - now);
        now = channel_now_ns();
    } while (!ended && now < until && a->stats.in_flight > 0);
    return ended;
}

bool orderdb_async_drain(struct orderdb_async *a, uint32_t wait_ms) {
    uint64_t now = channel_now_ns(), until = now + wait_ms * NS_PER_MS;
    for (; a->stats.in_flight > 0 && now < until; now = channel_now_ns()) async_turn(a, until - now);
    return a->stats.in_flight == 0;
}

size_t orderdb_async_polls(struct orderdb_async *a, struct pollfd *polls, size_t cap, int *timeout_ms) {
    const struct pollfd *table;
    uint64_t until, now = channel_now_ns();
    size_t n = channel_loop_polls(a->loop, &table, &until);
    struct deadline *next = deadlines_first(&a->waiting);
    if (next) until = MIN_OF(until, next->at_ns);
    if (fleet_routed(a->fleet) && a->stats.in_flight > 0) until = MIN_OF(until, MAX_OF(a->look_ns, now));
    for (size_t i = 0; i < MIN_OF(n, cap); i++) polls[i] = table[i];
    /* Rounded up: woken early, a caller would turn for nothing. */
    uint64_t ms = until <= now ? 0 : (until - now + NS_PER_MS - 1) / NS_PER_MS;
    *timeout_ms = until == CHANNEL_FOREVER ? -1 : (int)MIN_OF(ms, (uint64_t)INT_MAX);
    return n;
}

struct orderdb_async_stats orderdb_async_stats(const struct orderdb_async *a) {
    struct orderdb_async_stats s = a->stats;
    struct fleet_stats f = fleet_stats(a->fleet);
    s.forwarded = f.forwarded, s.ejections = f.ejections, s.topology_epoch = f.epoch;
    return s;
}

/* ---- handles */

struct orderdb_async *orderdb_async_open(const char *target, const struct orderdb_options *options, const struct orderdb_pool_options *pool) {
    struct orderdb_async *a = mem_new(struct orderdb_async);
    int error = ENOMEM;
    if (!a) goto failed;
    list_init(&a->calls);
    error_init(&a->error, "");
    if (options) a->options = *options;
    if (!a->options.timeout_ms) a->options.timeout_ms = TIMEOUT_MS;
    a->in_flight_max = pool && pool->in_flight_max ? pool->in_flight_max : IN_FLIGHT_MAX;
    a->loop = channel_loop_new();
    if (!a->loop) goto failed;
    error = security_open(options, &a->tls);
    const struct fleet_options o = {.seats = pool && pool->connections ? pool->connections : CONNECTIONS, .routed = a->options.routed, .tls = a->tls, .server_name = a->options.tls_server_name};
    if (!error) error = (a->fleet = fleet_open(a->loop, target, &o)) ? 0 : errno;
    if (error) goto failed;
    retry_budget_init(&a->budget, fleet_routed(a->fleet) ? a->in_flight_max : 0);
    return a;
failed:
    orderdb_async_close(a);
    errno = error;
    return NULL;
}

void orderdb_async_close(struct orderdb_async *a) {
    if (!a) return;
    a->closing = true;
    for (struct deadline *d; (d = deadlines_first(&a->waiting));) {
        deadlines_remove(&a->waiting, d);
        call_fail(container_of(d, struct async_call, wake), GRPC_CANCELLED, "the handle was closed");
    }
    if (a->fleet) fleet_close(a->fleet);
    while (a->stats.in_flight > 0) channel_loop_turn(a->loop, 0);
    check(list_empty(&a->calls));
    deadlines_fini(&a->waiting);
    channel_loop_free(a->loop);
    fleet_free(a->fleet);
    tls_source_free(a->tls);
    error_fini(&a->error);
    mem_free(a);
}
