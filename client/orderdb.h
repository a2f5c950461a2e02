/* The C client of OrderDB: blocking calls with deadlines, retries that keep their request id, and decoded refusals. Manual: docs/CLIENT.md.
 *
 *   struct orderdb_client *db = orderdb_open("127.0.0.1:7400", NULL);
 *   Orderdb__V1__CreateOrderResponse *r = orderdb_create_order(db, &request, NULL);
 *   if (!r) fprintf(stderr, "%s\n", orderdb_error_message(orderdb_error(db)));
 *   orderdb_message_free(r);
 *   orderdb_close(db);
 *
 * Threads: a handle belongs to one thread at a time; open one per thread. There is no global state. Many calls at a time: orderdb_async_*.
 * Memory: requests stay the caller's and are only read. An answer is the caller's: orderdb_message_free() it (not the generated *_free_unpacked).
 * What orderdb_error(), orderdb_request_id() and orderdb_call() point to is the handle's, until its next call. */
#ifndef ORDERDB_H
#define ORDERDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"

#ifdef __cplusplus
extern "C" {
#endif

struct orderdb_client;
struct orderdb_error;
struct orderdb_import;

/* Zero everywhere is the default. */
struct orderdb_options {
    uint32_t timeout_ms;    /* of a whole call, retries included; 0: 10 s */
    uint32_t retries_max;   /* per call; 0: as many as deadline and budget allow */
    bool no_retries;
    bool wait_for_server;   /* also retry while no connection has ever been made; else the first refusal is reported at once */
    bool routed;            /* learn the cluster's nodes and leaders, and go to them; several addresses mean it too */
    bool tls;               /* TLS, with the system's CAs; any of the files below means it too. PEM */
    const char *tls_ca;           /* who signs servers */
    const char *tls_cert, *tls_key; /* ours, for mutual TLS */
    const char *tls_server_name;  /* who the server's certificate must name; NULL: the target's host */
    char *tls_error;              /* 256 bytes of the caller's: why a file was refused; NULL: not wanted */
};
struct orderdb_call_options {
    uint32_t timeout_ms; /* 0: the handle's */
    bool repeatable;     /* orderdb_call() alone: it only reads or carries a request id, so it may be sent again when the outcome is unknown */
};

/* target: "host:port", "[::1]:port", port 7400 unless told; of a cluster several nodes, at most 16, with commas between: calls go to the leader of their partition, as the cluster's topology
 * (WatchTopology) and answers tell, or to any node, which passes them on; a node that fails is left alone for a while, and its calls go to others. Connects with the first call.
 * NULL: errno is EINVAL (target), EKEYREJECTED (a file of TLS: options' tls_error) or ENOMEM. */
struct orderdb_client *orderdb_open(const char *target, const struct orderdb_options *options);
/* Imports are to be finished and streams of changes closed first. NULL is fine. */
void orderdb_close(struct orderdb_client *db);

/* The calls. NULL: refused or failed, orderdb_error() says why. Writes without a request_id get one (32 hex characters from the kernel), the
 * same one for every attempt. Reads and writes alike are sent again after UNAVAILABLE, after RESOURCE_EXHAUSTED with a delay, and after a lost
 * connection, with growing random pauses inside the deadline. Retries are bounded by a budget: 1 per 10 calls, at most 10 saved up. */
Orderdb__V1__CreateOrderResponse *orderdb_create_order(struct orderdb_client *db, const Orderdb__V1__CreateOrderRequest *request,
                                                       const struct orderdb_call_options *options);
Orderdb__V1__TransitionOrderResponse *orderdb_transition_order(struct orderdb_client *db, const Orderdb__V1__TransitionOrderRequest *request,
                                                               const struct orderdb_call_options *options);
Orderdb__V1__UpdateOrderResponse *orderdb_update_order(struct orderdb_client *db, const Orderdb__V1__UpdateOrderRequest *request,
                                                       const struct orderdb_call_options *options);
Orderdb__V1__SetOrderTimerResponse *orderdb_set_order_timer(struct orderdb_client *db, const Orderdb__V1__SetOrderTimerRequest *request,
                                                            const struct orderdb_call_options *options);
Orderdb__V1__CancelOrderTimerResponse *orderdb_cancel_order_timer(struct orderdb_client *db, const Orderdb__V1__CancelOrderTimerRequest *request,
                                                                  const struct orderdb_call_options *options);
Orderdb__V1__Order *orderdb_get_order(struct orderdb_client *db, const Orderdb__V1__GetOrderRequest *request,
                                      const struct orderdb_call_options *options);
Orderdb__V1__ListOrdersResponse *orderdb_list_orders(struct orderdb_client *db, const Orderdb__V1__ListOrdersRequest *request,
                                                     const struct orderdb_call_options *options);
Orderdb__V1__ListOrderHistoryResponse *orderdb_list_order_history(struct orderdb_client *db, const Orderdb__V1__ListOrderHistoryRequest *request,
                                                                  const struct orderdb_call_options *options);
Orderdb__V1__BatchGetOrdersResponse *orderdb_batch_get_orders(struct orderdb_client *db, const Orderdb__V1__BatchGetOrdersRequest *request,
                                                              const struct orderdb_call_options *options);
/* Each request that has no request_id gets one, the same for every attempt; the answer's results are in the order of the requests, refused ones as a
 * google.rpc.Status. Choose the ids yourself if you may want to send the batch again after orderdb_error_outcome_unknown(). */
Orderdb__V1__BatchCreateOrdersResponse *orderdb_batch_create_orders(struct orderdb_client *db, const Orderdb__V1__BatchCreateOrdersRequest *request,
                                                                    const struct orderdb_call_options *options);
Orderdb__V1__BatchTransitionOrdersResponse *orderdb_batch_transition_orders(struct orderdb_client *db, const Orderdb__V1__BatchTransitionOrdersRequest *request,
                                                                            const struct orderdb_call_options *options);
/* NOT_APPLIED is final: the server then refuses that request id for ever. */
Orderdb__V1__RequestOutcome *orderdb_get_request_outcome(struct orderdb_client *db, const Orderdb__V1__GetRequestOutcomeRequest *request,
                                                         const struct orderdb_call_options *options);
Orderdb__V1__Topology *orderdb_get_topology(struct orderdb_client *db, const Orderdb__V1__GetTopologyRequest *request,
                                            const struct orderdb_call_options *options);
Orderdb__V1__ApplyResourceResponse *orderdb_apply_resource(struct orderdb_client *db, const Orderdb__V1__ApplyResourceRequest *request,
                                                           const struct orderdb_call_options *options);
Orderdb__V1__ListResourcesResponse *orderdb_list_resources(struct orderdb_client *db, const Orderdb__V1__ListResourcesRequest *request,
                                                           const struct orderdb_call_options *options);
void orderdb_message_free(void *message); /* an answer of the above; NULL is fine */

/* Any unary method by its path, "/orderdb.v1.OrderService/GetOrder", request and answer as protobuf bytes. */
bool orderdb_call(struct orderdb_client *db, const char *path, const void *request, size_t request_bytes, const struct orderdb_call_options *options,
                  const uint8_t **answer, size_t *answer_bytes);

/* A stream of orders into ImportOrders. Several may be open on one handle. Not retried: import again, what is there stays as it is. */
struct orderdb_import *orderdb_import_begin(struct orderdb_client *db, uint32_t timeout_ms); /* 0: 10 minutes. NULL: orderdb_error() */
/* Waits while much is unsent. false: the stream has ended or memory has run out; orderdb_import_finish() says why. */
bool orderdb_import_send(struct orderdb_import *i, const Orderdb__V1__ImportOrdersRequest *order);
bool orderdb_import_send_bytes(struct orderdb_import *i, const void *order, size_t order_bytes); /* the same, packed already */
void orderdb_import_end(struct orderdb_import *i); /* no more orders; does not wait */
/* Ends, waits for the server's count and frees the handle. NULL: orderdb_error() says why. */
Orderdb__V1__ImportOrdersResponse *orderdb_import_finish(struct orderdb_import *i);

const char *orderdb_request_id(const struct orderdb_client *db); /* of the last write, given or made; "": there was none */
unsigned orderdb_attempts(const struct orderdb_client *db);       /* of the last call; 1: no retry */

/* Why the last call failed; NULL: it did not. Texts are never NULL. */
const struct orderdb_error *orderdb_error(const struct orderdb_client *db);
int orderdb_error_code(const struct orderdb_error *e);              /* gRPC's number, 5 */
const char *orderdb_error_code_name(const struct orderdb_error *e); /* "NOT_FOUND" */
const char *orderdb_error_reason(const struct orderdb_error *e);    /* "ORDER_NOT_FOUND"; "": none, as when the server was not reached */
const char *orderdb_error_message(const struct orderdb_error *e);   /* a sentence for people */
const char *orderdb_error_request_id(const struct orderdb_error *e);
int64_t orderdb_error_retry_delay_ms(const struct orderdb_error *e); /* -1: the server named none */
/* A write that may have taken effect: repeat it with the same request id to know. */
bool orderdb_error_outcome_unknown(const struct orderdb_error *e);
size_t orderdb_error_meta_count(const struct orderdb_error *e);
void orderdb_error_meta_at(const struct orderdb_error *e, size_t i, const char **key, const char **value);
const char *orderdb_error_meta(const struct orderdb_error *e, const char *key); /* "status", "winner_request_id", ...; NULL: not there */
size_t orderdb_error_violation_count(const struct orderdb_error *e);
void orderdb_error_violation_at(const struct orderdb_error *e, size_t i, const char **field, const char **description);

/* ---- Asynchronous calls: many under way, over a pool of connections, answers by callback.
 *
 * Threads: all of a handle's functions on one thread at a time. Callbacks run inside orderdb_async_run(), orderdb_async_drain() and
 * orderdb_async_close(), on the thread that called it, never inside submit; they may submit, and must not run, drain or close. Each submitted
 * call gets its callback exactly once. Deadlines, request ids, retries and their budget (one for the handle) are those of the blocking calls. */
struct orderdb_async;
struct pollfd;

/* Zero everywhere is the default. */
struct orderdb_pool_options {
    uint32_t connections;   /* 2; at most 64; with several nodes, to each. A call takes the one with the fewest under way. A lost one is made again after a random pause */
    uint32_t in_flight_max; /* 1000 calls under way, those that wait to be sent again included */
};
struct orderdb_async_stats {
    uint64_t calls, attempts; /* since the handle was opened */
    uint32_t in_flight;
    uint64_t forwarded, ejections; /* routed: answers that came by way of another node; how often a node was left alone for a while */
    int64_t topology_epoch;        /* routed: 0: none is known yet */
};
/* answer: what the blocking call returns, now the callback's: orderdb_message_free() it. NULL: e tells why, until the callback returns. */
typedef void orderdb_async_cb(void *user, void *answer, const struct orderdb_error *e);

/* As orderdb_open(). */
struct orderdb_async *orderdb_async_open(const char *target, const struct orderdb_options *options, const struct orderdb_pool_options *pool);
void orderdb_async_close(struct orderdb_async *a); /* calls under way end with CANCELLED, their callbacks run first; NULL is fine */
/* request: one of those of the blocking calls, &r.base; its type says which call it is. Only read, and not after the return. false, and no
 * callback: errno is EAGAIN (in_flight_max), ENOMEM, EINVAL (a type that is no such request), ECANCELED (closing). */
bool orderdb_async_submit(struct orderdb_async *a, const ProtobufCMessage *request, const struct orderdb_call_options *options, orderdb_async_cb *cb,
                          void *user);
/* Sends and receives what there is, waits at most so long for more, runs callbacks. Returns how many calls ended. */
uint32_t orderdb_async_run(struct orderdb_async *a, uint32_t wait_ms);
bool orderdb_async_drain(struct orderdb_async *a, uint32_t wait_ms); /* runs until no call is under way; false: some still are after so long */
/* For an event loop of your own: what to poll for, at most so long (-1: for ever), before orderdb_async_run(a, 0). Returns how many there are;
 * more than cap: call again with room for them. Ask before each poll, after all submits: this writes what is queued. */
size_t orderdb_async_polls(struct orderdb_async *a, struct pollfd *polls, size_t cap, int *timeout_ms);
struct orderdb_async_stats orderdb_async_stats(const struct orderdb_async *a);

/* ---- Changes: the change stream without a group. Whoever reads keeps the cursor.
 *
 * A stream belongs to its handle and so to the handle's thread. Other calls may be made on the handle meanwhile; several streams may be open. A lost connection,
 * UNAVAILABLE (a server that drains) and RESOURCE_EXHAUSTED with a delay are ridden out: the stream begins again behind the last message that was given out, so nothing is
 * skipped and nothing comes twice. Memory: one message (at most 64 MiB, a server sends 4) and 8 MiB that are on their way; a caller that rests makes the server wait. */
struct orderdb_changes;
#define ORDERDB_FOREVER UINT32_MAX

/* Zero everywhere is the default. */
struct orderdb_changes_options {
    uint32_t outage_ms_max; /* so long without a message is tried again before it fails; 0: 60 s; ORDERDB_FOREVER: some 49 days */
};
enum orderdb_changes_result {
    ORDERDB_CHANGES_EVENTS,  /* a message; it may hold no event: then the cursor alone has moved */
    ORDERDB_CHANGES_TIMEOUT, /* none came in time; call again. orderdb_changes_error() tells whether the server is away */
    ORDERDB_CHANGES_END,     /* stop_at_end, and all that was there is read */
    ORDERDB_CHANGES_FAILED,  /* for good: orderdb_changes_error() */
};
/* Sends nothing yet. NULL: no memory. request: only read, and not after the return; its cursor: where to begin. */
struct orderdb_changes *orderdb_read_changes(struct orderdb_client *db, const Orderdb__V1__ReadChangesRequest *request,
                                             const struct orderdb_changes_options *options);
/* The next message, at the latest after timeout_ms (0: only what is there). It is the stream's, and valid until the next call of next, next_bytes or close. */
enum orderdb_changes_result orderdb_changes_next(struct orderdb_changes *c, uint32_t timeout_ms, const Orderdb__V1__ReadChangesResponse **events);
/* The same as the bytes of a ReadChangesResponse, as they came: for those who pass them on or look at a few fields. */
enum orderdb_changes_result orderdb_changes_next_bytes(struct orderdb_changes *c, uint32_t timeout_ms, const uint8_t **message, size_t *message_bytes);
/* Where to resume after all messages that were given out: keep it (as bytes, some 16 KB) with what was made of them. Valid until the next call of next. */
const uint8_t *orderdb_changes_cursor(const struct orderdb_changes *c, size_t *bytes);
/* Why it failed, or why nothing comes just now; NULL: all is well. Valid until the next call of next. */
const struct orderdb_error *orderdb_changes_error(const struct orderdb_changes *c);
void orderdb_changes_close(struct orderdb_changes *c); /* NULL is fine */

/* ---- Consumers: a member of a consumer group. Events come to a handler, one at a time for each key of the group (user, order or event), many keys at once.
 *
 * Threads: open, run, stats, error and close on one thread at a time; that thread speaks with the server. Handlers run on threads of the consumer's, or, with `on_run`, within
 * orderdb_consumer_run(); one handler function, so it must be fit to run on several threads at once. orderdb_consumer_stop() and the functions of a delivery: from any thread.
 *
 * Events are acknowledged in batches as their handlers end, which earns the right to be given more; at most in_flight_max are here. The lease of one that is not settled by half of
 * the group's ack_timeout is extended. A lost connection is made again after pauses; what was given by it and not settled comes again, perhaps to another member, so a handler must
 * bear repetitions (event_id tells). What a handler answers afterwards for an event of a lost connection is not sent. */
struct orderdb_consumer;
struct orderdb_delivery; /* one event that was given, and what is to become of it */

enum orderdb_verdict {
    ORDERDB_ACK,   /* done with it */
    ORDERDB_NACK,  /* again, after the delay of orderdb_delivery_note() (at most a day), else after the group's backoff; later events of its key wait */
    ORDERDB_DEAD,  /* never again: a dead letter, with the note's error */
    ORDERDB_LATER, /* not settled yet: orderdb_delivery_done() will tell, and its key waits until then */
};
typedef enum orderdb_verdict orderdb_handler(void *user, struct orderdb_delivery *d);
const Orderdb__V1__ChangeEvent *orderdb_delivery_event(const struct orderdb_delivery *d); /* valid until the delivery is settled */
/* What a NACK or DEAD goes with, said before it: delay_ms 0: the group's backoff; error: for people, copied, its first 1,024 bytes; NULL: none. */
void orderdb_delivery_note(struct orderdb_delivery *d, uint32_t delay_ms, const char *error);
/* Settles one whose handler answered (or is about to answer) LATER, once; d is gone then. Not after orderdb_consumer_close() has begun. */
void orderdb_delivery_done(struct orderdb_delivery *d, enum orderdb_verdict verdict);

/* Zero everywhere is the default. */
struct orderdb_consumer_options {
    const char *member_id;    /* of all members of the group one alone may have it: the newest replaces the others. NULL: 32 hex characters from the kernel */
    const char *zone;
    uint32_t in_flight_max;   /* 256; at most 65,536: events given and not settled */
    uint32_t threads;         /* 4; at most 256: handlers at a time */
    bool on_run;              /* handlers run within orderdb_consumer_run() instead; while one runs nothing is sent, so it must be shorter than the ack_timeout, or answer LATER */
    uint32_t extend_ms_max;   /* an event is held so long and no longer, then it runs into the group's ack_timeout; 0: as long as its handler needs */
    uint32_t outage_ms_max;   /* so long without the server is tried again before the consumer fails; 0: 10 minutes; ORDERDB_FOREVER: some 49 days */
    uint32_t close_ms_max;    /* how long a stop waits for handlers; 0: 30 s */
};
struct orderdb_consumer_stats {
    uint64_t given, acked, nacked, dead; /* events, and what was said of them */
    uint64_t stale;                      /* acks that came too late: the event was with another member by then */
    uint64_t lost;                       /* settled here, but by then their connection was lost: they come again */
    uint64_t connections;                /* how often the group was joined */
    int64_t complete_to_us;              /* all that was committed by then is settled, by the server's word (microseconds since 1970); 0: not told */
    uint32_t in_flight;                  /* here, not settled */
};
enum orderdb_consumer_result {
    ORDERDB_CONSUMER_RUNS,    /* wait_ms have passed; call again. orderdb_consumer_error() tells whether the server is away */
    ORDERDB_CONSUMER_STOPPED, /* as it was told to: nothing is left to do but close */
    ORDERDB_CONSUMER_FAILED,  /* for good: orderdb_consumer_error(). MEMBER_REPLACED: another one came with the same member_id */
};
/* A connection of its own; target, options and errno as for orderdb_open(): of several nodes one that is well, and another one when it fails. The group must exist. Nothing is sent before the first run. */
struct orderdb_consumer *orderdb_consumer_open(const char *target, const struct orderdb_options *options, const char *group,
                                               const struct orderdb_consumer_options *consumer_options, orderdb_handler *handler, void *user);
/* Everything happens in here (but handlers on threads). ORDERDB_FOREVER: until it is stopped or has failed. Not called, it extends no lease and sends no ack. */
enum orderdb_consumer_result orderdb_consumer_run(struct orderdb_consumer *c, uint32_t wait_ms);
/* Takes nothing more, lets handlers that run end, sends what they said, leaves the group; what no handler has begun with goes back to it. Any thread; a signal handler, too. */
void orderdb_consumer_stop(struct orderdb_consumer *c);
struct orderdb_consumer_stats orderdb_consumer_stats(const struct orderdb_consumer *c);
const struct orderdb_error *orderdb_consumer_error(const struct orderdb_consumer *c); /* NULL: all is well; valid until the next run */
/* Waits for handlers that run on threads. Without a stop that has ended, events not settled come to other members at once. NULL is fine. */
void orderdb_consumer_close(struct orderdb_consumer *c);

#ifdef __cplusplus
}
#endif
#endif
