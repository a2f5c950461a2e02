/* One RPC: from its headers to its trailers. Arena, deadline, state table (diagram in call.c). Lives on the core of its connection; h2 feeds it, a
 * serve_* handler answers it.
 *
 * A handler runs on CALL_READY for unary calls (the whole message is there), and for CLIENT_STREAM once per message and once at the half-close
 * (call_half_closed). It answers with exactly one call_reply or call_fail, now or later (after call_submit's next). */
#ifndef SERVER_CALL_H
#define SERVER_CALL_H

#include "engine/engine.h"
#include "proto/status.h"
#include "server/limits.h"
#include "server/mail.h"

struct call;
struct calls;
struct core;

struct call_limits {
    uint32_t message_bytes_max;   /* checked on the length prefix, before a byte is buffered */
    uint32_t header_bytes_max;    /* names, values and 32 each (RFC 9113 section 6.5.2) */
    uint64_t timeout_ns_max;      /* longer grpc-timeouts are cut to this */
    uint32_t arena_bytes_max;     /* of one call; while it decodes: 24 x message + 64 KiB */
    uint64_t memory_bytes_max;    /* requests of this core together */
    uint32_t live_max, idle_max;  /* calls of this core; idle ones kept with their first arena chunk. CALLS_RESERVED more for health, administration and reflection */
};
enum { CALLS_RESERVED = 64, CALLS_RESERVED_MEMORY = 4 << 20 }; /* of a core; an eighth of memory_bytes_max at most */
/* The calls of a core; core->calls. calls_free: none lives. */
struct calls *calls_new(struct core *core, const struct call_limits *limits);
void calls_free(struct calls *cs);
size_t calls_memory_bytes(const struct calls *cs); /* charged now, idle calls' first chunks among it */
size_t calls_memory_idle_bytes(const struct calls *cs);

struct arena *call_arena(struct call *call);
struct core *call_core(struct call *call);
struct failure *call_failure(struct call *call); /* initialised; fill it, then call_fail */
struct slice call_message(const struct call *call); /* the message being handled; wire bytes; until the handler returns, or for unary until the end */
void call_unreadable(struct call *call); /* its message is none: beside the answer it counts against the connection */
bool call_half_closed(const struct call *call);
uint64_t call_deadline_ns(const struct call *call);   /* monotonic; clamped; 0: none */
struct slice call_traceparent(const struct call *call); /* W3C trace context, validated; empty: none */
void **call_state(struct call *call);                 /* the handler's own, for streams */
/* Rate limits (limits.h). Those of the node and of the caller are asked before anything is decoded, but for batches and imports, which count what is in them. */
enum { CALL_LIMITS_DOOR = 1 << LIMIT_GLOBAL | 1 << LIMIT_PRINCIPAL, CALL_LIMITS_CONTENT = 1 << LIMIT_USER | 1 << LIMIT_MERCHANT };
/* Takes n tokens of each limit of these scopes, or none. false: f says which and for how long. */
bool call_take_tokens(struct call *call, unsigned scopes, uint64_t n, struct slice user_id, struct slice merchant_id, struct failure *f);
/* Runs once when the call is freed, after its last op is home: for what call_state holds outside the arena. */
void call_on_end(struct call *call, void (*end)(struct call *call));
/* Runs once when nothing can be sent any more: the peer has the end, or is gone. Before the ops that are away come home. */
void call_on_leave(struct call *call, void (*leave)(struct call *call));
/* A peer that is lost without a word (no reset: its machine or the network is down) is to be noticed in about this time, by TCP; for the rest of the connection. */
void call_watch_peer(struct call *call, unsigned timeout_ms);
/* For writes: OUTCOME_UNKNOWN (the deadline passed while the op was away) then names it. Copied into the call's arena. */
void call_set_request_id(struct call *call, struct slice request_id);
const char *call_method_name(const struct call *call); /* "OrderService/CreateOrder" */
/* Memory beside the call's, charged like it; given back before the call ends, or with it once all ops are home. NULL: no memory. For one message of a
 * client stream and its op, or for the ops of a batch to one partition: these are the same thread's. An op that does not travel alone needs such an arena
 * (op.arena); the call's then stays with the handler. */
struct arena *call_arena_take(struct call *call);
void call_arena_give(struct call *call, struct arena *arena);

/* Sends the op to its partition (deadline and, for unary calls, arena are filled in); next runs on the call's core when it is home. The call is kept
 * until then even if the peer has gone; a deadline passed meanwhile is answered by call itself and next is then not run. One op at a time with
 * the call's arena; those with an arena of their own may be several (each with its own struct). */
struct call_op {
    struct op op;
    struct mail_hop hop;
    struct call *call;
    void (*next)(struct call *call, struct call_op *op);
    /* Runs instead of next when the call was answered or abandoned while the op was away; frees what the op holds outside the call's arena. NULL: nothing. */
    void (*drop)(struct call_op *op);
};
void call_submit(struct call *call, struct call_op *op, void (*next)(struct call *call, struct call_op *op));

/* Flow control for client streams: while held, no further message is handed over and the window stays shut. */
void call_hold(struct call *call);
void call_release(struct call *call);

/* One message, then OK. The parts live in the call's arena (or longer) until it is sent. */
void call_reply(struct call *call, const struct slice *parts, size_t n);
/* Answers of many messages (SERVER_STREAM, BIDI): call_send each, then call_finish for OK, or call_fail. One message is on its way at a time: sent runs when
 * the connection has taken it, and frees its bytes or sends the next; not when the call ends before that. The first call_send may come with the first message of the request; a
 * bidirectional handler holds the stream while it answers, so that a peer which does not read is not read either. call_finish and call_fail wait for the
 * message that is on its way. */
/* A message is given in parts, which follow one another in it. The array is copied. */
enum { CALL_PARTS_MAX = 6 };
void call_send_parts(struct call *call, const struct slice *parts, size_t n, void (*sent)(struct call *call));
static inline void call_send(struct call *call, struct slice message, void (*sent)(struct call *call)) { call_send_parts(call, &message, 1, sent); }
bool call_sending(const struct call *call);
void call_finish(struct call *call);
/* on_change runs when what the core says of itself may have changed (it drains): on its thread, until the call ends. */
void call_watch_core(struct call *call, void (*on_change)(struct call *call));
void calls_core_changed(struct calls *cs);
/* Trailers with call_failure(): grpc-status, grpc-message, grpc-status-details-bin, grpc-retry-pushback-ms where it helps. */
void call_fail(struct call *call);

typedef void (*call_handler)(struct call *call);
#define METHOD(service, method, kind, handler) void handler(struct call *call);
#define METHOD_IN(row, package, service, method, kind, handler) void handler(struct call *call);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wredundant-decls"
#include "proto/methods.tbl"
#pragma GCC diagnostic pop
#undef METHOD
#undef METHOD_IN

#endif
