/* call: one RPC, from its headers to the end of its stream.
 *
 *                  refused (method, encoding, timeout)      too long, two messages, compressed,
 *            .-------------------------------------.        deadline, no memory
 *            |                                     v
 *   CALL_HEAD ---> CALL_MESSAGE -----------------> CALL_SEND ---> CALL_LEAVING ---> (freed)
 *                    |  ^ client stream: handler       ^             ^   ^   stream closed and
 *                    |  '-' per message                |             |   |   every op home
 *                    |                                 |             |   |
 *                    '--> CALL_SERVE ------------------'             |   |
 *                         handler runs; its op is away               |   |
 *                         answered, or deadline                      |   |
 *            any state: stream reset, connection gone ---------------'---'
 *
 *   CALL_HEAD     headers arrive                         CALL_SEND     answered; h2 is sending
 *   CALL_MESSAGE  message bytes arrive                   CALL_LEAVING  no stream any more; waits for ops
 *   CALL_SERVE    the whole request is with the handler
 *
 * Answers of many messages are sent from CALL_MESSAGE (bidirectional) or CALL_SERVE: one is on its way at a time (sending); the end waits for it (ends).
 *
 * h2's callbacks, the timer and the mail only record what happened and tick; the tick decides. Handlers run from the tick or from an op's way home, never
 * inside one another.
 *
 * Memory. What a request takes is charged to one budget of the core: the arena's chunks (also those that an op's results take on another core), and
 * bytes of a client stream that wait. The call is kept until its last op is home, because the op points into it: a reset stream still counts.
 * While an op of a unary call is away, the arena is the op's, perhaps on another thread: an answer at the deadline takes nothing from it. The ops of a batch
 * have arenas of their own (call_arena_take): then the call's stays at home. */
#include "server/call_local.h"

#include "proto/base/mem.h"
#include "proto/scan.h"
#include "server/serve_common.h"
#include "server/shed.h"

enum {
    ARENA_BASE_BYTES = 64 << 10,  /* beside 24 x message */
    PENDING_STEP_BYTES = 16 << 10, PROMISED_BYTES_MAX = 4 << 10, LOOK_BYTES_MIN = 256 << 10,
};
#define LINGER_NS NS_PER_S /* between the deadline and the reset of an answer that is not taken */

static const uint8_t allowed_moves[] = {
    [CALL_HEAD] = 1 << CALL_MESSAGE | 1 << CALL_SEND | 1 << CALL_LEAVING,
    [CALL_MESSAGE] = 1 << CALL_SERVE | 1 << CALL_SEND | 1 << CALL_LEAVING,
    [CALL_SERVE] = 1 << CALL_SEND | 1 << CALL_LEAVING,
    [CALL_SEND] = 1 << CALL_LEAVING,
    [CALL_LEAVING] = 0,
};

static void call_tick(struct call *call);

static struct call *call_of(struct h2_stream *s) {
    struct call *call = container_of(s, struct call, stream);
    check(call->magic == CALL_MAGIC);
    return call;
}

static void call_check(const struct call *call) {
    check(call->magic == CALL_MAGIC);
    check(call->state >= CALL_SEND || !call->answered);
    check(call->state <= CALL_HEAD || call->state >= CALL_SEND || call->method);
    check(call->state != CALL_LEAVING || call->gone);
}

void call_move(struct call *call, enum call_state to) {
    check(allowed_moves[call->state] & 1 << to);
    call->state = to;
}

/* ---- the calls of a core */
struct calls *calls_new(struct core *core, const struct call_limits *limits) {
    struct calls *cs = mem_new(struct calls);
    if (!cs) return NULL;
    uint64_t reserve = MIN_OF((uint64_t)CALLS_RESERVED_MEMORY, limits->memory_bytes_max / 8);
    *cs = (struct calls){.core = core, .limits = *limits, .budget.bytes_max = limits->memory_bytes_max - reserve, .reserve.bytes_max = reserve};
    if (!(cs->shed = shed_new(core))) return mem_free(cs), NULL;
    arena_init(&cs->scratch, 4 * ARENA_BASE_BYTES);
    arena_init(&cs->words, ARENA_BASE_BYTES);
    list_init(&cs->idle);
    list_init(&cs->idle_arenas);
    list_init(&cs->watching);
    return cs;
}

static void call_delete(struct call *call) {
    arena_fini(&call->arena);
    mem_free(call);
}

void calls_free(struct calls *cs) {
    if (!cs) return;
    check(cs->live_count == 0);
    for (struct list *l; (l = list_pop_front(&cs->idle));) call_delete(list_entry(l, struct call, link));
    for (struct list *l; (l = list_pop_front(&cs->idle_arenas));) {
        struct call_memory *m = list_entry(l, struct call_memory, link);
        arena_fini(&m->arena);
        mem_free(m);
    }
    arena_fini(&cs->scratch);
    arena_fini(&cs->words);
    check(calls_memory_bytes(cs) == 0);
    shed_free(cs->shed);
    mem_free(cs);
}

size_t calls_memory_bytes(const struct calls *cs) { return arena_budget_used(&cs->budget) + arena_budget_used(&cs->reserve); }
size_t calls_memory_idle_bytes(const struct calls *cs) {
    size_t n = 0;
    for (const struct list *l = cs->idle.next; l != &cs->idle; l = l->next) n += container_of(l, const struct call, link)->arena.bytes_used;
    for (const struct list *l = cs->idle_arenas.next; l != &cs->idle_arenas; l = l->next) n += container_of(l, const struct call_memory, link)->arena.bytes_used;
    return n;
}

static void on_deadline(struct timer *t) {
    struct call *call = container_of(t, struct call, deadline);
    check(call->magic == CALL_MAGIC);
    call->expired = true;
    call_tick(call);
}

struct h2_stream *call_begin(struct core *core) {
    struct calls *cs = core->calls;
    struct call *call = NULL;
    if (cs->live_count < cs->limits.live_max + CALLS_RESERVED) { /* the reserve: whose it is, the headers will say */
        struct list *l = list_pop_front(&cs->idle);
        if (l) call = list_entry(l, struct call, link), cs->idle_count--;
        else if ((call = mem_new(struct call))) arena_init_charged(&call->arena, ARENA_BASE_BYTES, &cs->budget);
    }
    if (!call) return metric_add(&core->metrics, METRIC_CALLS_REFUSED, 1), NULL;
    struct arena arena = call->arena;
    *call = (struct call){.magic = CALL_MAGIC, .core = core, .calls = cs, .arena = arena, .begun_ns = core->now_ns, .deadline.fire = on_deadline};
    call->arena.bytes_max = ARENA_BASE_BYTES;
    list_init(&call->link);
    list_init(&call->arenas);
    list_init(&call->stream.link);
    list_init(&call->stream.sent_link);
    failure_init(&call->failure, &call->arena);
    cs->live_count++;
    core->calls_live++;
    return &call->stream;
}

static void pending_free(struct call *call) {
    buf_fini(&call->pending);
    arena_budget_give(&call->calls->budget, call->pending_charged);
    call->pending_charged = 0;
}

/* A write that was answered and is out of the engines makes room for another one; before the peer has taken the answer, for it may be slow. */
void call_leave_queue(struct call *call) {
    if (!call->inside || call->ops_away) return;
    call->inside = false;
    shed_leave(call->calls->shed);
}

static void call_end(struct call *call) {
    struct calls *cs = call->calls;
    check(call->state == CALL_LEAVING);
    check(call->ops_away == 0);
    if (call->end) call->end(call);
    call_leave_queue(call);
    timer_clear(&call->core->timers, &call->deadline);
    list_remove(&call->link);
    h2_stream_end(&call->stream);
    while (!list_empty(&call->arenas)) call_arena_give(call, &list_entry(call->arenas.next, struct call_memory, link)->arena);
    pending_free(call);
    check(cs->live_count > 0);
    cs->live_count--;
    call->core->calls_live--;
    call->magic = 0;
    if (cs->idle_count >= cs->limits.idle_max || call->arena.budget == &cs->reserve) return call_delete(call);
    arena_reset(&call->arena);
    list_push_front(&cs->idle, &call->link); /* the warmest first */
    cs->idle_count++;
}

/* ---- request headers */

/* The first of what is wrong is told. */
static void read_head(struct call *call, const struct head *h) {
    const struct call_limits *l = &call->calls->limits;
    struct failure *f = &call->failure;
    call->method = h->method;
    call->is_post = h->is_post, call->has_content_type = h->has_content_type, call->has_te = h->has_te;
    if (h->has_timeout) call->deadline_ns = call->core->now_ns + MIN_OF(h->timeout_ns, l->timeout_ns_max);
    if (h->has_traceparent) memcpy(call->traceparent, h->traceparent, sizeof call->traceparent), call->has_traceparent = true;
    if (h->bytes > l->header_bytes_max) {
        failure_set(f, STATUS_MESSAGE_TOO_LARGE, "headers are longer than %u bytes", l->header_bytes_max);
    } else if (!h->method) {
        struct slice shown = slice_of(h->path, h->path_len);
        if (!utf8_valid(shown)) shown = SLICE_LIT("of that name"); /* the details are a message of texts: it would not parse */
        failure_set(f, STATUS_METHOD_UNKNOWN, "no method %.*s", (int)shown.len, (const char *)shown.data);
    } else if (h->encoding_is_unknown) {
        failure_set(f, STATUS_ENCODING_UNKNOWN, "grpc-encoding: messages are taken uncompressed (identity) only");
    } else if (h->timeout_is_bad) {
        failure_set(f, STATUS_FIELD_INVALID, "grpc-timeout is malformed: 1 to 8 digits and one of H M S m u n");
    }
}

struct slice call_refuse(struct core *core, const struct head *h) {
    struct calls *cs = core->calls;
    const struct call_limits *l = &cs->limits;
    if (!head_is_plain(h) || h->bytes > l->header_bytes_max) return (struct slice){0}; /* it has other words coming */
    uint64_t deadline_ns = h->has_timeout ? core->now_ns + MIN_OF(h->timeout_ns, l->timeout_ns_max) : 0;
    enum shed_reason why = shed_judge(cs->shed, shed_class_of(h->method), deadline_ns, cs->live_count >= l->live_max);
    if (!why) return (struct slice){0};
    metric_call(&core->metrics, h->method->row, GRPC_RESOURCE_EXHAUSTED, 0);
    return shed_answer(cs->shed, why);
}

/* ---- messages */

/* The length prefix: refuses what will not be taken, before anything is buffered. */
static bool check_prefix(struct call *call, const uint8_t *head, uint32_t *len) {
    bool compressed;
    uint32_t max = call->calls->limits.message_bytes_max;
    if (!grpc_frame_parse(head, &compressed, len)) return failure_set(&call->failure, STATUS_FIELD_INVALID, "a message starts with flag byte %u", head[0]), false;
    if (compressed) return failure_set(&call->failure, STATUS_ENCODING_UNKNOWN, "a compressed message: messages are taken uncompressed only"), false;
    if (*len > max) return failure_set(&call->failure, STATUS_MESSAGE_TOO_LARGE, "a message of %u bytes; the limit is %u", *len, max), false;
    return true;
}

/* Orders of many small parts unpack to 19 times their wire (test_scan, the_heaviest_legal_orders...), the message itself and its command come beside. */
static size_t arena_cap(const struct call *call, size_t message_len) {
    return MIN_OF((size_t)24 * message_len + ARENA_BASE_BYTES, (size_t)call->calls->limits.arena_bytes_max);
}

static bool pending_append(struct call *call, struct slice bytes) {
    size_t need = call->pending.len + bytes.len;
    if (need > call->pending_charged) {
        size_t more = need - call->pending_charged + PENDING_STEP_BYTES;
        if (!arena_budget_take(&call->calls->budget, more)) return false;
        call->pending_charged += more;
    }
    return buf_append(&call->pending, bytes);
}

/* A large message is looked at before half of it has come: one that can't be read (millions of empty parts) takes the time and memory of its first part alone, and costs its peer tokens for the
 * whole. Each look is at four times as much as the last one: together they are a third of what is read when it is whole. */
static void look_at_begun(struct call *call) {
    struct slice begun = buf_slice(&call->pending);
    if (!call->method->input || begun.len > call->message_len / 2 || begun.len < MAX_OF((size_t)LOOK_BYTES_MIN, (size_t)4 * call->looked_at)) return;
    call->looked_at = (uint32_t)begun.len;
    if (scan_begun(call->method->input, begun, &scan_limits_default, &call->failure)) h2_on_unreadable(&call->stream, call->message_len);
}

/* Unary: exactly one message. A small one has its place at once; for a large one memory is taken as its bytes come: what a peer promises costs it nothing. */
static void collect(struct call *call, struct slice in) {
    if (call->failure.status) return;
    if (call->head_len < GRPC_FRAME_HEAD) {
        size_t n = MIN_OF(in.len, (size_t)GRPC_FRAME_HEAD - call->head_len);
        memcpy(call->head + call->head_len, in.data, n);
        call->head_len += (uint32_t)n;
        in = slice_of(in.data + n, in.len - n);
        if (call->head_len < GRPC_FRAME_HEAD) return;
        if (!check_prefix(call, call->head, &call->message_len)) return h2_on_unreadable(&call->stream, 0);
        call->arena.bytes_max = arena_cap(call, call->message_len);
        if (call->message_len <= PROMISED_BYTES_MAX && !(call->message_data = arena_alloc(&call->arena, call->message_len))) return call_fail_memory(call);
    }
    size_t n = MIN_OF(in.len, (size_t)call->message_len - call->message_got);
    if (call->message_data) memcpy(call->message_data + call->message_got, in.data, n);
    else if (!pending_append(call, slice_of(in.data, n))) return call_fail_memory(call);
    call->message_got += (uint32_t)n;
    if (!call->message_data) look_at_begun(call);
    call->message_whole = call->message_got == call->message_len;
    call->message = slice_of(call->message_data ? call->message_data : call->pending.data, call->message_len);
    if (n < in.len) failure_set(&call->failure, STATUS_FIELD_INVALID, "more than one message for a call that takes one");
}

/* Client stream: the next whole message of what is there. */
static bool take_message(struct call *call) {
    uint32_t len;
    if (call->input.len < GRPC_FRAME_HEAD || !check_prefix(call, call->input.data, &len)) return false;
    if (call->input.len - GRPC_FRAME_HEAD < len) return false;
    call->message = slice_of(call->input.data + GRPC_FRAME_HEAD, len);
    call->input = slice_of(call->message.data + len, call->input.len - GRPC_FRAME_HEAD - len);
    return true;
}

/* Puts away what the tick left of the input, and opens the window for what need not be held back. */
static void put_input_away(struct call *call) {
    struct slice left = call->input;
    call->input = (struct slice){0};
    if (call->state != CALL_MESSAGE) left.len = 0;
    bool is_pending = call->pending.len && left.len && left.data >= call->pending.data && left.data < call->pending.data + call->pending.len;
    if (left.len == 0) {
        pending_free(call);
    } else if (is_pending) {
        memmove(call->pending.data, left.data, left.len);
        call->pending.len = left.len;
    } else {
        check(call->pending.len == 0);
        if (!pending_append(call, left)) call_fail_memory(call);
    }
    uint64_t consumed = call->bytes_in - (call->held ? left.len : 0);
    if (call->state == CALL_MESSAGE && consumed > call->bytes_consumed) {
        h2_consume(&call->stream, consumed - call->bytes_consumed);
        call->bytes_consumed = consumed;
    }
}

/* ---- the tick */
static void run_handler(struct call *call) {
    h2_wait(&call->stream, H2_WAIT_NOT); /* it is our turn: the peer does not stall */
    call->method->handler(call);
}

static enum call_state after_head(struct call *call) {
    if (call->failure.status) return CALL_SEND;
    if (call->deadline_ns && !timer_set(&call->core->timers, &call->deadline, call->deadline_ns)) call_fail_memory(call);
    return call->failure.status ? CALL_SEND : CALL_MESSAGE;
}

/* The answer needs nothing of the call, which ends now; what the peer has yet to send goes nowhere. */
static void end_at_door(struct call *call) {
    h2_forget(&call->stream);
    call->gone = true;
}

bool call_take_tokens(struct call *call, unsigned scopes, uint64_t n, struct slice user_id, struct slice merchant_id, struct failure *f) {
    struct core *core = call->core;
    if (!limits_apply_to(core->limits, call->method->row, scopes)) return true;
    const struct limits_subject who = {.row = call->method->row, .scopes = scopes, .principal = call->stream.h2 ? h2_principal(call->stream.h2) : 0,
                                       .user_id = user_id, .merchant_id = merchant_id};
    struct limits_refusal refusal;
    if (n ? limits_take(core->limits, &who, n, core->now_ns, &refusal) : limits_peek(core->limits, &who, core->now_ns, &refusal)) return true;
    metric_add(&core->metrics, METRIC_RATE_LIMITED, 1);
    limits_failure(&refusal, f);
    return false;
}

static bool is_rate_limited(struct call *call) {
    if (call->method->kind == METHOD_CLIENT_STREAM) return false; /* each of its messages asks, and waits */
    struct failure f;
    failure_init(&f, &call->calls->words);
    if (call_take_tokens(call, CALL_LIMITS_DOOR, !shed_is_batch(call->method) /* else a look: the handler knows how many */, (struct slice){0}, (struct slice){0}, &f)) return false;
    call_send_failure(call, &f);
    arena_reset(&call->calls->words);
    end_at_door(call);
    return true;
}

/* It is let in (call_refuse): counted where its kind is, unless a rate says no. Before a byte of its message is looked at. */
static bool enters(struct call *call) {
    struct calls *cs = call->calls;
    enum shed_class class = shed_class_of(call->method);
    if (class != SHED_RESERVED && is_rate_limited(call)) return false;
    if (class == SHED_WRITE && call->method->kind == METHOD_UNARY) call->inside = true, shed_enter(cs->shed); /* streams wait at the engine's door */
    if (class == SHED_RESERVED) {
        arena_fini(&call->arena);
        arena_init_charged(&call->arena, ARENA_BASE_BYTES, &cs->reserve);
    }
    return true;
}

static void tick_head(struct call *call) {
    if (!call->is_post) return call_refuse_http(call, "405");
    if (!call->has_content_type) return call_refuse_http(call, "415");
    if (!call->failure.status && !enters(call)) return;
    if (!call->has_te) failure_set(&call->failure, STATUS_FIELD_INVALID, "te: trailers is missing; a proxy on the way does not speak HTTP/2");
    if (after_head(call) == CALL_SEND) return call_send_failure(call, &call->failure);
    call_move(call, CALL_MESSAGE);
    if (call->method->kind != METHOD_UNARY) h2_lasts(&call->stream);
}

/* false: nothing to do until more happens. */
static bool tick_unary(struct call *call) {
    if (!call->peer_closed) return false;
    if (call->deadline_ns && call->deadline_ns <= call->core->now_ns) return call_expire(call), true; /* not worth decoding */
    if (!call->message_whole) {
        failure_set(&call->failure, STATUS_FIELD_INVALID, "the request ended before its message was whole");
        return call_send_failure(call, &call->failure), true;
    }
    call_move(call, CALL_SERVE);
    run_handler(call);
    return true;
}

static bool tick_stream(struct call *call) {
    if (call->held) return false;
    if (take_message(call)) return run_handler(call), true;
    if (call->failure.status) return true; /* a bad prefix: the tick answers */
    /* Between the messages of a bidirectional stream a peer may be silent as long as it likes. */
    if (call->input.len) h2_wait(&call->stream, H2_WAIT_BYTES);
    else if (call->method->kind == METHOD_CLIENT_STREAM) h2_wait(&call->stream, H2_WAIT_PEER);
    if (!call->peer_closed) return false;
    if (call->input.len) return failure_set(&call->failure, STATUS_FIELD_INVALID, "the stream ended in the middle of a message"), true;
    call_move(call, CALL_SERVE);
    call->message = (struct slice){0};
    run_handler(call);
    return true;
}

/* The deadline passed and the answer is not all gone: it may wait for this cycle's flush, or for a peer that does not take it. */
static void expire_answer(struct call *call) {
    call->expired = false;
    if (call->lingers) return h2_reset(&call->stream, H2_RESET_CANCEL);
    call->lingers = true;
    if (!timer_set(&call->core->timers, &call->deadline, call->core->now_ns + LINGER_NS)) h2_reset(&call->stream, H2_RESET_CANCEL);
}

static void call_tick(struct call *call) {
    check(!call->ticking);
    call->ticking = true;
    for (bool more = true; more;) {
        call_check(call);
        if (call->gone && call->state != CALL_LEAVING) call_move(call, CALL_LEAVING);
        if (call->expired && call->state < CALL_SEND) call_expire(call);
        switch (call->state) {
        case CALL_HEAD:
            more = call->head_whole;
            if (more) tick_head(call);
            break;
        case CALL_MESSAGE:
            if (call->sending && call->failure.status) call->ends = true, more = false;
            else if (call->failure.status) call_send_failure(call, &call->failure);
            else more = call_is_stream(call) ? tick_stream(call) : tick_unary(call);
            break;
        case CALL_SERVE: more = false; break;
        case CALL_SEND:
            if (call->expired) expire_answer(call);
            more = false;
            break;
        case CALL_LEAVING:
            if (call->ops_away == 0) return call_end(call);
            more = false;
            break;
        }
    }
    call->ticking = false;
}

/* ---- what h2 tells */
void call_on_head(struct h2_stream *s, const struct head *head) {
    struct call *call = call_of(s);
    read_head(call, head);
    call->head_whole = true;
    call_tick(call);
}

void call_on_data(struct h2_stream *s, struct slice bytes) {
    struct call *call = call_of(s);
    if (call->state != CALL_MESSAGE || call->ends) return; /* refused already; the window stays shut */
    call->bytes_in += bytes.len;
    if (!call_is_stream(call)) {
        collect(call, bytes);
        if (call->failure.status) return call_tick(call);
        return h2_consume(s, bytes.len); /* its memory is charged */
    }
    call->input = bytes;
    if (call->pending.len) {
        if (!pending_append(call, bytes)) call_fail_memory(call);
        call->input = buf_slice(&call->pending);
    }
    call_tick(call);
    put_input_away(call);
    if (call->failure.status && call->state == CALL_MESSAGE) call_tick(call);
}

/* Streams: goes on with what waits. */
static void tick_pending(struct call *call) {
    call->input = buf_slice(&call->pending);
    call_tick(call);
    put_input_away(call);
}

void call_on_half_close(struct h2_stream *s) {
    struct call *call = call_of(s);
    call->peer_closed = true;
    if (call_is_stream(call)) tick_pending(call); else call_tick(call);
}

void call_on_sent(struct h2_stream *s) {
    struct call *call = call_of(s);
    check(call->sending);
    call->sending = false;
    if (call->answered) return; /* reset at its deadline */
    call->in_next = true;
    if (call->sent) call->sent(call);
    call->in_next = false;
    if (!call->answered && call->ends && !call->sending) call_send_end(call);
    if (call->state == CALL_MESSAGE && !call->held) tick_pending(call);
}

void call_on_gone(struct h2_stream *s) {
    struct call *call = call_of(s);
    call->sending = false;
    if (!call->answered) {
        metric_add(&call->core->metrics, METRIC_CALLS_CANCELLED, 1);
        call_count_answer(call, GRPC_CANCELLED);
    }
    call->gone = true;
    timer_clear(&call->core->timers, &call->deadline);
    if (call->leave) call->leave(call);
    call_tick(call);
}

/* ---- ops */
static void on_op_home(struct mail_hop *hop) {
    struct call_op *op = container_of(hop, struct call_op, hop);
    struct call *call = op->call;
    check(call->magic == CALL_MAGIC);
    check(call->ops_away > 0);
    call->ops_away--;
    if (op->op.kind == OP_WRITE && op->op.failure.status == STATUS_OVERLOADED) call->core->decoded_count++, metric_add(&call->core->metrics, METRIC_REFUSED_DECODED, 1);
    if (op->op.asked_node) call->leader = op->op.asked_node;
    call->in_next = true;
    if (!call->gone && !call->answered) op->next(call, op);
    else if (op->drop) op->drop(op);
    call->in_next = false;
    if (call->gone || call->answered) call_leave_queue(call);
    if (call->held || call->state != CALL_MESSAGE || !call_is_stream(call)) return call_tick(call);
    tick_pending(call); /* next released the stream */
}

void call_submit(struct call *call, struct call_op *op, void (*next)(struct call *call, struct call_op *op)) {
    check(call->magic == CALL_MAGIC);
    op->call = call;
    if (call->answered || call->gone) { /* a handler's own timer came late */
        if (op->drop) op->drop(op);
        return;
    }
    check(call->state == CALL_SERVE || (call->state == CALL_MESSAGE && call_is_stream(call)));
    bool own_arena = op->op.arena && op->op.arena != &call->arena;
    check(own_arena || !call_is_stream(call));
    if (!own_arena) {
        check(call->ops_away == 0);
        op->op.arena = &call->arena;
    }
    if (!call_is_stream(call)) call->arena.bytes_max = call->calls->limits.arena_bytes_max; /* decoded: the results may be larger than the request */
    op->next = next;
    op->op.deadline_ns = call->deadline_ns;
    failure_init(&op->op.failure, op->op.arena);
    call->ops_away++;
    mail_send_op(call->core, &op->hop, &op->op, on_op_home);
}

/* ---- what handlers ask */
void call_unreadable(struct call *call) { h2_on_unreadable(&call->stream, call->message.len); }
struct arena *call_arena(struct call *call) { return &call->arena; }
struct core *call_core(struct call *call) { return call->core; }
struct failure *call_failure(struct call *call) { return &call->failure; }
struct slice call_message(const struct call *call) { return call->message; }
bool call_half_closed(const struct call *call) { return call->state == CALL_SERVE; }
uint64_t call_deadline_ns(const struct call *call) { return call->deadline_ns; }
struct slice call_traceparent(const struct call *call) { return call->has_traceparent ? slice_of(call->traceparent, HEADER_TRACEPARENT_LEN) : (struct slice){0}; }
void **call_state(struct call *call) { return &call->handler_state; }
const char *call_method_name(const struct call *call) { return call->method->name; }
void call_set_request_id(struct call *call, struct slice request_id) { call->request_id = arena_copy(&call->arena, request_id); }
void call_on_end(struct call *call, void (*end)(struct call *call)) { call->end = end; }
void call_on_leave(struct call *call, void (*leave)(struct call *call)) { call->leave = leave; }
void call_watch_peer(struct call *call, unsigned timeout_ms) {
    if (call->stream.h2) h2_watch_peer(call->stream.h2, timeout_ms);
}

void call_watch_core(struct call *call, void (*on_change)(struct call *call)) {
    check(call->magic == CALL_MAGIC);
    if (!call->on_change) list_push_back(&call->calls->watching, &call->link);
    call->on_change = on_change;
}

void calls_core_changed(struct calls *cs) {
    list_each(l, &cs->watching) {
        struct call *call = list_entry(l, struct call, link);
        check(call->magic == CALL_MAGIC);
        if (!call->gone && !call->answered) call->on_change(call);
    }
}

void call_hold(struct call *call) { call->held = true; }
/* Inside a handler or an op's next, the waiting bytes are handed over when that has returned. */
void call_release(struct call *call) {
    bool was_held = call->held;
    call->held = false;
    if (was_held && !call->ticking && !call->in_next && call->state == CALL_MESSAGE) tick_pending(call);
}

struct arena *call_arena_take(struct call *call) {
    struct calls *cs = call->calls;
    struct list *l = list_pop_front(&cs->idle_arenas);
    struct call_memory *m = l ? list_entry(l, struct call_memory, link) : mem_new(struct call_memory);
    if (!m) return NULL;
    if (l) cs->idle_arena_count--;
    else arena_init_charged(&m->arena, 0, &cs->budget);
    m->arena.bytes_max = cs->limits.arena_bytes_max;
    list_push_back(&call->arenas, &m->link);
    return &m->arena;
}

void call_arena_give(struct call *call, struct arena *arena) {
    struct calls *cs = call->calls;
    struct call_memory *m = container_of(arena, struct call_memory, arena);
    list_remove(&m->link);
    if (cs->idle_arena_count >= cs->limits.idle_max) {
        arena_fini(&m->arena);
        return mem_free(m);
    }
    arena_reset(&m->arena);
    list_push_front(&cs->idle_arenas, &m->link);
    cs->idle_arena_count++;
}
