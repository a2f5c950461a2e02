/* One call, from inside: shared by call.c (its life: headers, messages, the tick, ops) and call_answer.c (what goes out). Nobody else includes it. */
#ifndef SERVER_CALL_LOCAL_H
#define SERVER_CALL_LOCAL_H

#include "proto/base/buf.h"
#include "proto/grpc.h"
#include "server/call.h"
#include "server/core.h"
#include "server/h2.h"
#include "server/headers.h"
#include "server/methods.h"

enum { CALL_MAGIC = 0x43414c4c };

enum call_state { CALL_HEAD, CALL_MESSAGE, CALL_SERVE, CALL_SEND, CALL_LEAVING };

struct calls {
    struct core *core;
    struct call_limits limits;
    struct shed *shed;
    struct arena_budget budget, reserve; /* the reserve: of calls that are SHED_RESERVED */
    struct arena scratch; /* one failure's details */
    struct arena words;   /* and one's words, where there is no call's arena to take */
    struct list idle, idle_arenas; /* call.link, call_memory.link */
    struct list watching;          /* call.link */
    uint32_t idle_count, idle_arena_count, live_count;
};

/* An arena beside the call's own. */
struct call_memory {
    struct list link;
    struct arena arena;
};

struct call {
    uint32_t magic;
    enum call_state state;
    struct core *core;
    struct calls *calls;
    struct list link; /* among the idle, or those that watch the core */
    struct h2_stream stream;
    struct arena arena;
    struct list arenas; /* taken for messages */
    struct failure failure;
    const struct method *method;
    void *handler_state;
    void (*end)(struct call *call), (*leave)(struct call *call);
    uint64_t begun_ns, deadline_ns;
    struct timer deadline;
    uint32_t ops_away;
    uint64_t leader; /* the node that was asked for an op last, since it leads the partition; 0: none was */
    /* what happened, for the tick */
    bool head_whole, peer_closed, gone, expired, held, ticking, in_next, answered, lingers;
    bool inside; /* counted among the writes that were let in (shed_enter) */
    bool sending, ends, begun; /* answers of many messages: one is on its way; the end is due behind it; the answer's head is out */
    /* what the headers said */
    bool is_post, has_content_type, has_te;
    char traceparent[HEADER_TRACEPARENT_LEN];
    bool has_traceparent;
    struct slice request_id;
    /* the message */
    uint8_t head[GRPC_FRAME_HEAD];
    uint32_t head_len, message_len, message_got, looked_at; /* the last: bytes of it, when it was looked at before it was whole */
    bool message_whole;
    uint8_t *message_data;
    struct slice message;
    /* client streams: bytes that came and are not handed over; unary calls: a message that is not small */
    struct slice input;   /* while ticking: what is there */
    struct buf pending;   /* between ticks */
    size_t pending_charged;
    uint64_t bytes_in, bytes_consumed;
    /* answers of many messages */
    uint8_t out_head[GRPC_FRAME_HEAD];
    void (*sent)(struct call *call);
    void (*on_change)(struct call *call);
};

static inline bool call_is_stream(const struct call *call) { return call->method && (call->method->kind == METHOD_CLIENT_STREAM || call->method->kind == METHOD_BIDI); }

/* call.c's */
void call_move(struct call *call, enum call_state to);
void call_leave_queue(struct call *call); /* it is no longer among the writes that were let in */

/* call_answer.c's. All take nothing from the failure's arena. */
void call_refuse_http(struct call *call, const char *status);               /* for what is not gRPC at all */
void call_count_answer(struct call *call, enum grpc_code code);
void call_send_failure(struct call *call, const struct failure *failure);   /* trailers, alone or behind messages */
void call_fail_memory(struct call *call);                                   /* sets the failure; does not send it */
void call_send_end(struct call *call);                                      /* the end that waited for a message */
void call_expire(struct call *call);                                        /* the deadline has come */

#endif
