/* A member of a consumer group, on one thread.
 *
 *   AWAY --(retry_ns)--> LOOKUP (GetConsumerGroup: which key, how long a lease) --> OPEN (Subscribe) --(stop: handlers ended, acks sent)--> CLOSING --> OVER
 *    ^                     |                                                         |
 *    '--- pause <----------+------------- lost, UNAVAILABLE, ... <-------------------'            any other refusal: OVER
 *
 * Credit: `granted` events may still come, deliveries.count are here; together never more than in_flight_max. Acks, nacks and extensions are written by hand as SubscribeRequest's
 * fields and lie in the channel until they are sent: bounded by what is in flight.
 *
 * A connection is a generation. What was given in an older one is nobody's lease any more: not begun, it is dropped; begun, its verdict is counted and not sent. The table of
 * keys outlives connections, so that an event that comes again does not run beside its first handler. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "client/deliveries.h"
#include "client/error.h"
#include "client/fleet.h"
#include "client/message.h"
#include "client/retry.h"
#include "client/security.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

enum {
    IN_FLIGHT = 256, IN_FLIGHT_MAX = 65536, THREADS = 4, THREADS_MAX = 256,
    OUTAGE_MS = 600000, CLOSE_MS = 30000, ACK_TIMEOUT_S = 30, ATTEMPTS_MAX = 16,
    IDS_MAX = 256, /* of events in one message */
    EVENT_ID_BYTES_MAX = 64,
    ACK_FIELD = 3, NACK_FIELD = 4, EXTEND_FIELD = 5,
};
#define LOOKUP_NS (10 * NS_PER_S)
#define FAREWELL_NS (5 * NS_PER_S)  /* the server's answer to our half-close */
#define STEADY_NS (10 * NS_PER_S)   /* a connection that held so long has nothing to do with the failures before it */
#define FENCE_NS (5 * NS_PER_S)     /* a nack is with the server long before that */
#define ACK_PAUSE_NS NS_PER_MS      /* an ack waits so long for company while others are worked on; its key waits with it */

enum consumer_state { CONSUMER_AWAY, CONSUMER_LOOKUP, CONSUMER_OPEN, CONSUMER_CLOSING, CONSUMER_OVER };

/* Event ids on their way into one message. */
struct ids {
    struct buf bytes; /* field 1 of Ack, again and again */
    uint32_t count;
};

struct orderdb_consumer {
    struct channel_loop *loop;
    struct fleet *fleet;
    struct tls_source *tls;
    struct orderdb_options options;
    struct orderdb_consumer_options own;
    char *group, *zone, *member_id;
    enum consumer_state state;
    bool failed, troubled, on_run; /* troubled: error says why nothing comes just now */
    struct orderdb_error error;
    struct retry_budget budget;
    unsigned attempts; /* since the last sign of life */
    uint64_t outage_ns, retry_ns, opened_ns, stop_until_ns, farewell_until_ns;
    struct channel_call *call; /* of LOOKUP, OPEN, CLOSING */
    struct fleet_seat *seat;   /* that it is on */
    /* the group */
    Orderdb__V1__ConsumerGroup__OrderingKey key;
    Orderdb__V1__RetryPolicy__OnExhausted on_exhausted;
    int32_t attempts_max, key_window;
    uint64_t lease_half_ns;
    /* this connection */
    uint64_t generation;
    uint32_t granted;
    struct ids acks, extends;
    uint64_t acks_ns; /* of the oldest one */
    struct list leases; /* by extend_ns */
    struct deliveries deliveries;
    struct pollfd *polls;
    size_t poll_cap;
    struct buf out;
    struct orderdb_consumer_stats stats;
};

static void consumer_fail(struct orderdb_consumer *c, enum grpc_code code, const char *message) {
    if (c->failed) return; /* the first cause is the one to tell */
    error_set(&c->error, code, message);
    c->troubled = c->failed = true;
    c->state = CONSUMER_OVER;
    if (c->call) channel_cancel(c->call);
}

static void consumer_no_memory(struct orderdb_consumer *c) { consumer_fail(c, GRPC_RESOURCE_EXHAUSTED, "no memory for the consumer"); }

/* ---- what is said to the server */

/* Not taken: there is no memory, or the call has ended and its callback is about to tell. A word that is lost must not look like one that was said. */
static void consumer_send(struct orderdb_consumer *c, struct slice message) {
    if (c->call && !channel_send(c->call, message)) channel_cancel(c->call);
}

static void consumer_send_packed(struct orderdb_consumer *c, const Orderdb__V1__SubscribeRequest *r) {
    if (!message_pack(&c->out, &r->base)) return consumer_no_memory(c);
    consumer_send(c, buf_slice(&c->out));
}

static void send_open(struct orderdb_consumer *c) {
    Orderdb__V1__SubscribeRequest r = ORDERDB__V1__SUBSCRIBE_REQUEST__INIT;
    Orderdb__V1__SubscribeRequest__Open open = ORDERDB__V1__SUBSCRIBE_REQUEST__OPEN__INIT;
    open.group = c->group, open.member_id = c->member_id;
    if (c->zone) open.zone = c->zone;
    r.msg_case = ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN, r.open = &open;
    consumer_send_packed(c, &r);
}

static void send_ids(struct orderdb_consumer *c, struct ids *ids, uint32_t field) {
    if (ids->count == 0) return;
    c->out.len = 0;
    if (!buf_reserve(&c->out, ids->bytes.len + 16)) return consumer_no_memory(c);
    struct writer w = writer_of(c->out.data, c->out.cap);
    struct slice part = buf_slice(&ids->bytes);
    pb_message(&w, field, &part, 1);
    ids->bytes.len = 0, ids->count = 0;
    consumer_send(c, writer_slice(&w));
}

static void send_credit(struct orderdb_consumer *c) {
    uint32_t used = c->granted + c->deliveries.count, free_count = used < c->own.in_flight_max ? c->own.in_flight_max - used : 0;
    /* Not one by one, but before the server has none left. */
    if (free_count == 0 || (free_count < (c->own.in_flight_max + 3) / 4 && c->granted > c->own.in_flight_max / 2)) return;
    Orderdb__V1__SubscribeRequest r = ORDERDB__V1__SUBSCRIBE_REQUEST__INIT;
    Orderdb__V1__SubscribeRequest__Credit credit = ORDERDB__V1__SUBSCRIBE_REQUEST__CREDIT__INIT;
    credit.events = (int32_t)free_count;
    r.msg_case = ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_CREDIT, r.credit = &credit;
    c->granted += free_count;
    send_ids(c, &c->acks, ACK_FIELD); /* first, or the server would have more of ours than in_flight_max */
    consumer_send_packed(c, &r);
}

static void ids_add(struct orderdb_consumer *c, struct ids *ids, uint32_t field, const char *event_id) {
    struct slice id = slice_str(event_id);
    if (!buf_reserve(&ids->bytes, pb_bytes_max(id))) return consumer_no_memory(c);
    struct writer w = writer_of(ids->bytes.data + ids->bytes.len, ids->bytes.cap - ids->bytes.len);
    pb_bytes(&w, 1, id);
    ids->bytes.len += w.len;
    if (++ids->count == IDS_MAX) send_ids(c, ids, field);
}

static void send_nack(struct orderdb_consumer *c, const struct orderdb_delivery *x) {
    Orderdb__V1__SubscribeRequest r = ORDERDB__V1__SUBSCRIBE_REQUEST__INIT;
    Orderdb__V1__SubscribeRequest__Nack nack = ORDERDB__V1__SUBSCRIBE_REQUEST__NACK__INIT;
    Google__Protobuf__Duration delay = GOOGLE__PROTOBUF__DURATION__INIT;
    delay.seconds = x->delay_ms / 1000, delay.nanos = (int32_t)(x->delay_ms % 1000) * 1000000;
    nack.event_id = x->event->event_id;
    if (x->delay_ms) nack.delay = &delay;
    if (x->error) nack.error = x->error;
    nack.dead = x->verdict == ORDERDB_DEAD;
    r.msg_case = ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_NACK, r.nack = &nack;
    send_ids(c, &c->acks, ACK_FIELD); /* of earlier events of the same key, perhaps */
    consumer_send_packed(c, &r);
}

/* ---- deliveries */

static uint64_t key_of(const struct orderdb_consumer *c, const Orderdb__V1__ChangeEvent *e) {
    switch (c->key) {
    case ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__ORDER: return hash64(slice_of(&e->order_id, sizeof(e->order_id)));
    case ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__NONE: return hash64(slice_str(e->event_id));
    default: return hash64(slice_str(e->user_id));
    }
}

static void take_batch(struct orderdb_consumer *c, Orderdb__V1__SubscribeResponse__Batch *batch) {
    uint64_t now = channel_now_ns();
    if (batch->n_events > c->granted) return consumer_fail(c, GRPC_INTERNAL, "the server sent more events than it was asked for");
    for (size_t i = 0; i < batch->n_events; i++) {
        Orderdb__V1__ChangeEvent *e = batch->events[i];
        if (strlen(e->event_id) > EVENT_ID_BYTES_MAX) return consumer_fail(c, GRPC_INTERNAL, "the server sent an event id of more than 64 bytes");
        uint64_t key = key_of(c, e);
        if (deliveries_are_fenced(&c->deliveries, e, key)) { /* the credit is ours again, the event the server's */
            c->granted--;
            continue;
        }
        struct orderdb_delivery *x = deliveries_add(&c->deliveries, e, key, c->generation);
        if (!x) return consumer_no_memory(c);
        x->given_ns = now, x->extend_ns = now + c->lease_half_ns;
        list_push_back(&c->leases, &x->lease);
        batch->events[i] = NULL; /* the delivery's */
        c->granted--;
        c->stats.given++;
    }
}

/* Whether its key waits behind it: it comes again, or a letter parks the key. Else it is a dead letter, and the key goes on with what is here. */
static bool key_waits(const struct orderdb_consumer *c, const struct orderdb_delivery *x) {
    if (c->on_exhausted == ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__DEAD_LETTER_AND_PARK_KEY) return true;
    if (x->verdict == ORDERDB_DEAD) return false;
    return x->event->delivery_attempt < c->attempts_max || c->on_exhausted == ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__BLOCK;
}

/* What a finished one means for the server. */
static void settle(struct orderdb_consumer *c, struct orderdb_delivery *x, uint64_t now) {
    bool leased = c->state == CONSUMER_OPEN && x->generation == c->generation;
    if (!leased) {
        c->stats.lost++;
    } else if (x->verdict == ORDERDB_ACK) {
        if (c->acks.count == 0) c->acks_ns = now;
        ids_add(c, &c->acks, ACK_FIELD, x->event->event_id);
        c->stats.acked++;
    } else {
        bool dead = x->verdict == ORDERDB_DEAD;
        send_nack(c, x);
        if (dead) c->stats.dead++;
        else c->stats.nacked++;
        /* The server takes back what it gave behind it, which comes again, and in order. With a window of one there is nothing behind it. */
        if (c->key_window > 1 && key_waits(c, x)) deliveries_fence(&c->deliveries, x, now + FENCE_NS);
    }
}

static void consumer_collect(struct orderdb_consumer *c, uint64_t now) {
    for (struct orderdb_delivery *x; (x = deliveries_take_finished(&c->deliveries));) {
        settle(c, x, now);
        deliveries_remove(&c->deliveries, x);
    }
}

static void extend_leases(struct orderdb_consumer *c, uint64_t now) {
    while (!list_empty(&c->leases) && c->state == CONSUMER_OPEN) {
        struct orderdb_delivery *x = list_entry(c->leases.next, struct orderdb_delivery, lease);
        if (x->extend_ns > now) break;
        list_remove(&x->lease);
        if (c->own.extend_ms_max && now - x->given_ns >= c->own.extend_ms_max * NS_PER_MS) continue;
        x->extend_ns = now + c->lease_half_ns;
        list_push_back(&c->leases, &x->lease);
        ids_add(c, &c->extends, EXTEND_FIELD, x->event->event_id);
    }
    if (c->state == CONSUMER_OPEN) send_ids(c, &c->extends, EXTEND_FIELD);
}

/* ---- the connection */

/* What it brought is nobody's any more. */
static void connection_over(struct orderdb_consumer *c) {
    c->call = NULL;
    c->generation++;
    c->granted = 0;
    c->acks.bytes.len = c->extends.bytes.len = 0, c->acks.count = c->extends.count = 0;
    deliveries_drop_unstarted(&c->deliveries);
    deliveries_end_fences(&c->deliveries, UINT64_MAX);
    while (!list_empty(&c->leases)) list_remove(c->leases.next);
}

/* A call on whichever node is well, or on that of the last one, which has just answered. false: no memory, and the consumer has failed. */
static bool consumer_call(struct orderdb_consumer *c, const struct channel_request *r, bool same) {
    if (!same) c->seat = fleet_pick_any(c->fleet, ROUTES_SLOT_NONE);
    c->call = c->seat ? channel_start(c->seat->channel, r) : NULL;
    if (!c->call) return consumer_no_memory(c), false;
    fleet_seat_take(c->fleet, c->seat);
    return true;
}

/* Its end; whether another node can be asked at once. */
static bool consumer_call_over(struct orderdb_consumer *c, const struct channel_answer *a) {
    bool asked = a->code != GRPC_OK && (c->state == CONSUMER_LOOKUP || c->state == CONSUMER_OPEN); /* else the error is of another cause */
    if (asked) error_from_answer(&c->error, a);
    bool drains = asked && error_says_drain(&c->error);
    c->call = NULL;
    fleet_seat_leave(c->fleet, c->seat, ROUTES_SLOT_NONE, a, drains);
    return fleet_elsewhere(c->fleet, a, drains);
}

/* An attempt has ended: AWAY until the next one, or for good. */
static void consumer_lost(struct orderdb_consumer *c, const struct channel_answer *a, bool elsewhere) {
    uint64_t now = channel_now_ns(), pause_ns;
    if (c->state == CONSUMER_OVER) return;
    if (atomic_load(&c->deliveries.stop)) {
        c->state = CONSUMER_AWAY; /* handlers may still run: the next step decides */
        return;
    }
    struct channel_answer closed = *a;
    if (a->code == GRPC_OK) closed.code = GRPC_UNAVAILABLE, closed.message = SLICE_LIT("the server ended the subscription");
    error_from_answer(&c->error, &closed);
    c->error.outcome_unknown = false;
    c->troubled = true;
    if (!c->outage_ns) c->outage_ns = now;
    struct retry_question q = {.code = closed.code, .fate = a->fate, .delay_ms = c->error.retry_delay_ms, .stop = c->options.no_retries || a->pushback_ms == CHANNEL_PUSHBACK_STOP,
                               .repeatable = true, .elsewhere = elsewhere, .wait_for_server = c->options.wait_for_server || fleet_was_connected(c->fleet), .attempts = c->attempts,
                               .retries_max = c->options.retries_max, .deadline_ns = c->outage_ns + c->own.outage_ms_max * NS_PER_MS};
    bool again = retry_stream_allowed(&c->budget, &q, &pause_ns);
    c->failed = !again;
    c->state = again ? CONSUMER_AWAY : CONSUMER_OVER;
    if (again) c->retry_ns = now + pause_ns;
}

static void subscribe_answer_cb(void *user, const struct channel_answer *a) {
    struct orderdb_consumer *c = user;
    bool closing = c->state == CONSUMER_CLOSING, elsewhere = consumer_call_over(c, a);
    if (channel_now_ns() - c->opened_ns >= STEADY_NS) c->attempts = 0, c->outage_ns = 0;
    connection_over(c);
    if (closing) c->state = CONSUMER_OVER;
    else if (a->code == GRPC_CANCELLED && a->fate != CHANNEL_ANSWERED) consumer_no_memory(c); /* by consumer_send() */
    else consumer_lost(c, a, elsewhere);
}

static bool subscribe_message_cb(void *user, struct slice message) {
    struct orderdb_consumer *c = user;
    if (c->state != CONSUMER_OPEN) return true; /* closing: it goes back to the group by itself */
    Orderdb__V1__SubscribeResponse *m = message_unpack(&orderdb__v1__subscribe_response__descriptor, message);
    if (!m) return consumer_fail(c, GRPC_INTERNAL, "a message of the subscription cannot be read, or no memory for it"), true;
    c->attempts = 0, c->outage_ns = 0, c->troubled = false;
    retry_budget_call(&c->budget);
    if (m->msg_case == ORDERDB__V1__SUBSCRIBE_RESPONSE__MSG_BATCH) take_batch(c, m->batch);
    if (m->msg_case == ORDERDB__V1__SUBSCRIBE_RESPONSE__MSG_STALE) c->stats.stale += m->stale->n_event_ids;
    if (m->msg_case == ORDERDB__V1__SUBSCRIBE_RESPONSE__MSG_PROGRESS && m->progress->complete_to)
        c->stats.complete_to_us = m->progress->complete_to->seconds * 1000000 + m->progress->complete_to->nanos / 1000;
    orderdb_message_free(m);
    return true;
}

static void subscribe(struct orderdb_consumer *c) {
    struct channel_request r = {.path = "/orderdb.v1.StreamService/Subscribe", .stream = true, .lasts = true, .on_message = subscribe_message_cb, .on_answer = subscribe_answer_cb, .user = c};
    if (!consumer_call(c, &r, true)) return;
    c->state = CONSUMER_OPEN;
    c->opened_ns = channel_now_ns();
    c->troubled = false;
    c->stats.connections++;
    send_open(c);
}

static void lookup_answer_cb(void *user, const struct channel_answer *a) {
    struct orderdb_consumer *c = user;
    bool elsewhere = consumer_call_over(c, a);
    if (c->state != CONSUMER_LOOKUP) return;
    if (a->code != GRPC_OK) return consumer_lost(c, a, elsewhere);
    Orderdb__V1__ConsumerGroup *g = message_unpack(&orderdb__v1__consumer_group__descriptor, a->response);
    if (!g) return consumer_fail(c, GRPC_INTERNAL, "the group's definition cannot be read, or no memory for it");
    int64_t s = g->ack_timeout ? g->ack_timeout->seconds : 0;
    int32_t nanos = g->ack_timeout ? g->ack_timeout->nanos : 0;
    if (s <= 0 && nanos <= 0) s = ACK_TIMEOUT_S;
    c->lease_half_ns = ((uint64_t)s * NS_PER_S + (uint64_t)nanos) / 2;
    c->key = g->ordering_key;
    c->key_window = g->key_window;
    c->on_exhausted = g->retry ? g->retry->on_exhausted : ORDERDB__V1__RETRY_POLICY__ON_EXHAUSTED__ON_EXHAUSTED_UNSPECIFIED;
    c->attempts_max = g->retry && g->retry->max_attempts > 0 ? g->retry->max_attempts : ATTEMPTS_MAX;
    orderdb_message_free(g);
    subscribe(c);
}

static void lookup(struct orderdb_consumer *c) {
    Orderdb__V1__GetConsumerGroupRequest g = ORDERDB__V1__GET_CONSUMER_GROUP_REQUEST__INIT;
    g.group = c->group;
    if (!message_pack(&c->out, &g.base)) return consumer_no_memory(c);
    struct channel_request r = {.path = "/orderdb.v1.StreamService/GetConsumerGroup", .message = buf_slice(&c->out), .deadline_ns = channel_now_ns() + LOOKUP_NS,
                                .on_answer = lookup_answer_cb, .user = c};
    c->attempts++;
    if (consumer_call(c, &r, false)) c->state = CONSUMER_LOOKUP;
}

/* ---- one step */

static void flush_acks(struct orderdb_consumer *c, uint64_t now) {
    if (c->acks.count && (now - c->acks_ns >= ACK_PAUSE_NS || deliveries_are_idle(&c->deliveries))) send_ids(c, &c->acks, ACK_FIELD);
}

/* Towards the end: nothing new begins, what runs may end, then the farewell. */
static void step_stop(struct orderdb_consumer *c, uint64_t now) {
    if (!c->stop_until_ns) c->stop_until_ns = now + c->own.close_ms_max * NS_PER_MS;
    if (c->state == CONSUMER_LOOKUP) channel_cancel(c->call); /* its callback leads to AWAY */
    deliveries_drop_unstarted(&c->deliveries);
    bool waits = deliveries_running(&c->deliveries) > 0 && now < c->stop_until_ns;
    if (c->state == CONSUMER_AWAY && !waits) c->state = CONSUMER_OVER;
    if (c->state != CONSUMER_OPEN) return;
    extend_leases(c, now);
    flush_acks(c, now);
    if (waits || c->state != CONSUMER_OPEN) return;
    send_ids(c, &c->acks, ACK_FIELD);
    if (c->state != CONSUMER_OPEN) return;
    channel_send_end(c->call);
    c->state = CONSUMER_CLOSING;
    c->farewell_until_ns = now + FAREWELL_NS;
}

static void consumer_step(struct orderdb_consumer *c, uint64_t now) {
    consumer_collect(c, now);
    deliveries_end_fences(&c->deliveries, now);
    if (c->state == CONSUMER_CLOSING && now >= c->farewell_until_ns && c->call) channel_cancel(c->call);
    if (c->state == CONSUMER_OVER || c->state == CONSUMER_CLOSING) return;
    if (atomic_load(&c->deliveries.stop)) return step_stop(c, now);
    if (c->state == CONSUMER_AWAY && now >= c->retry_ns) lookup(c);
    if (c->state == CONSUMER_OPEN) extend_leases(c, now);
    if (c->state == CONSUMER_OPEN) send_credit(c);
    if (c->state == CONSUMER_OPEN) flush_acks(c, now);
}

/* When there is something to do without news. */
static uint64_t consumer_due(const struct orderdb_consumer *c) {
    uint64_t due = CHANNEL_FOREVER;
    bool stops = atomic_load(&c->deliveries.stop);
    if (c->state == CONSUMER_AWAY) due = stops ? c->stop_until_ns : c->retry_ns;
    if (c->state == CONSUMER_CLOSING) due = c->farewell_until_ns;
    if (c->state == CONSUMER_OPEN) {
        if (c->acks.count) due = c->acks_ns + ACK_PAUSE_NS;
        if (!list_empty(&c->leases)) due = MIN_OF(due, list_entry(c->leases.next, struct orderdb_delivery, lease)->extend_ns);
        if (stops) due = MIN_OF(due, c->stop_until_ns);
    }
    return due;
}

/* For the network, a handler that ended, a stop, or something due. */
static void consumer_wait(struct orderdb_consumer *c, uint64_t until) {
    const struct pollfd *theirs;
    uint64_t loop_until, now = channel_now_ns();
    size_t n = channel_loop_polls(c->loop, &theirs, &loop_until);
    if (n + 1 > c->poll_cap) {
        struct pollfd *more = mem_realloc(c->polls, (n + 8) * sizeof(*more));
        if (!more) return (void)channel_loop_turn(c->loop, NS_PER_MS); /* without an ear for handlers: look again soon */
        c->polls = more;
        c->poll_cap = n + 8;
    }
    if (n) memcpy(c->polls, theirs, n * sizeof(*theirs));
    c->polls[n] = (struct pollfd){.fd = c->deliveries.wake_fd, .events = POLLIN};
    until = MIN_OF(MIN_OF(until, loop_until), consumer_due(c));
    uint64_t left = until > now ? until - now : 0;
    struct timespec t = {(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)};
    int ready = ppoll(c->polls, n + 1, until == CHANNEL_FOREVER ? NULL : &t, NULL);
    check(ready >= 0 || errno == EINTR || errno == ENOMEM);
    eventfd_t ignored;
    if (ready > 0 && c->polls[n].revents) (void)eventfd_read(c->deliveries.wake_fd, &ignored);
    channel_loop_turn(c->loop, 0);
}

enum orderdb_consumer_result orderdb_consumer_run(struct orderdb_consumer *c, uint32_t wait_ms) {
    uint64_t now = channel_now_ns(), until = wait_ms == ORDERDB_FOREVER ? CHANNEL_FOREVER : now + wait_ms * NS_PER_MS;
    for (bool turned = false;; turned = true, now = channel_now_ns()) {
        consumer_step(c, now);
        if (c->state == CONSUMER_OVER) return c->failed ? ORDERDB_CONSUMER_FAILED : ORDERDB_CONSUMER_STOPPED;
        if (turned && now >= until) return ORDERDB_CONSUMER_RUNS;
        bool ran = c->on_run && deliveries_run_one(&c->deliveries);
        consumer_wait(c, ran ? now : until);
    }
}

void orderdb_consumer_stop(struct orderdb_consumer *c) {
    int error = errno;
    atomic_store(&c->deliveries.stop, true);
    (void)eventfd_write(c->deliveries.wake_fd, 1);
    errno = error;
}

struct orderdb_consumer_stats orderdb_consumer_stats(const struct orderdb_consumer *c) {
    struct orderdb_consumer_stats s = c->stats;
    s.in_flight = c->deliveries.count;
    return s;
}

const struct orderdb_error *orderdb_consumer_error(const struct orderdb_consumer *c) { return c->troubled ? &c->error : NULL; }

/* ---- begin and end */

static bool consumer_texts(struct orderdb_consumer *c, const char *group, const struct orderdb_consumer_options *o) {
    char id[MESSAGE_REQUEST_ID_BYTES];
    Orderdb__V1__WriteOptions w;
    message_write_options(NULL, &w, id); /* as good an id as a request's */
    c->group = mem_strdup(group);
    c->member_id = mem_strdup(o && o->member_id && *o->member_id ? o->member_id : id);
    c->zone = mem_strdup(o && o->zone ? o->zone : "");
    return c->group && c->member_id && c->zone;
}

static void consumer_limits(struct orderdb_consumer *c) {
    struct orderdb_consumer_options *o = &c->own;
    o->in_flight_max = o->in_flight_max ? MIN_OF(o->in_flight_max, (uint32_t)IN_FLIGHT_MAX) : IN_FLIGHT;
    o->threads = o->threads ? MIN_OF(o->threads, (uint32_t)THREADS_MAX) : THREADS;
    if (!o->outage_ms_max) o->outage_ms_max = OUTAGE_MS;
    if (!o->close_ms_max) o->close_ms_max = CLOSE_MS;
    c->on_run = o->on_run;
}

struct orderdb_consumer *orderdb_consumer_open(const char *target, const struct orderdb_options *options, const char *group,
                                               const struct orderdb_consumer_options *consumer_options, orderdb_handler *handler, void *user) {
    struct orderdb_consumer *c = mem_new(struct orderdb_consumer);
    if (!c) return errno = ENOMEM, NULL;
    if (options) c->options = *options;
    if (consumer_options) c->own = *consumer_options;
    consumer_limits(c);
    list_init(&c->leases);
    error_init(&c->error, "");
    retry_budget_init(&c->budget, 0);
    int error = deliveries_init(&c->deliveries, c->own.in_flight_max, c->on_run ? 0 : c->own.threads, handler, user) ? 0 : ENOMEM;
    bool begun = !error;
    if (!error && (!consumer_texts(c, group, consumer_options) || !(c->loop = channel_loop_new()))) error = ENOMEM;
    if (!error) error = security_open(options, &c->tls);
    const struct fleet_options o = {.seats = 1, .unwatched = true, .tls = c->tls, .server_name = c->options.tls_server_name};
    if (!error && !(c->fleet = fleet_open(c->loop, target, &o))) error = errno;
    if (!error) return c;
    if (!begun) { /* deliveries were cleaned up already */
        error_fini(&c->error);
        mem_free(c);
    } else {
        orderdb_consumer_close(c);
    }
    errno = error;
    return NULL;
}

void orderdb_consumer_close(struct orderdb_consumer *c) {
    if (!c) return;
    c->state = CONSUMER_OVER;
    if (c->fleet) fleet_close(c->fleet);
    if (c->loop) channel_loop_turn(c->loop, 0); /* the callback of the call under way */
    deliveries_fini(&c->deliveries);
    channel_loop_free(c->loop);
    fleet_free(c->fleet);
    tls_source_free(c->tls);
    error_fini(&c->error);
    buf_fini(&c->acks.bytes), buf_fini(&c->extends.bytes), buf_fini(&c->out);
    mem_free(c->group), mem_free(c->zone), mem_free(c->member_id), mem_free(c->polls);
    mem_free(c);
}
