/* ReadChanges: the stream without a group; the caller keeps the cursor.
 *
 *   each partition:  SEEK --> READ <--> (has events: READY --> gathered into a message)
 *                      |       |
 *                      |       '--> ENDED (stop_at_end, and it is at its end)
 *                      '--> EXPIRED (retention has overtaken the cursor: when every partition has sought, the call fails with what is missing in any of them)
 *
 * One op is away for each partition, with an arena of its own; a read waits at the end of the stream for a second at most, so that a call that has gone does not hold its op for
 * long. Answers of several partitions make one message. HTTP/2's windows are the only queue: while a message is on its way nothing more is gathered, and partitions that are
 * READY do not read on, so a slow reader costs a run for each partition and no more.
 *
 * `behind` is what has been read, `told` what has been handed to the stream: a cursor is made of the latter, or a caller that resumes would miss what was read and not yet sent.
 *
 * A cursor of all slots is some 27 KB and 60 us, so messages are not made of single events when there are many: PACE_NS pass between two, unless there is much to send. */
#include <string.h>

#include "engine/check.h"
#include "engine/cursor.h"
#include "engine/filter.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"
#include "server/core.h"
#include "server/expired.h"
#include "server/node.h"
#include "server/serve_common.h"

enum {
    RUN_BYTES = 512 << 10,       /* of one partition's read */
    RUN_EVENTS_MAX = 16384,      /* looked at by one read: a filter that wants nothing is no endless op */
    MESSAGE_BYTES_FULL = 64 << 10, /* so much is sent without waiting for company */
    MESSAGE_PARTS_MAX = CALL_PARTS_MAX - 2, /* cursor: its head and itself */
    CURSOR_FIELD_HEAD = 1 + 5,
    CURSOR_ROOM = CURSOR_FIELD_HEAD + CURSOR_BYTES_MAX,
};
#define WAIT_NS NS_PER_S
#define PACE_NS (5 * NS_PER_MS)

enum feeder_state { FEEDER_SEEK, FEEDER_READ, FEEDER_READY, FEEDER_ENDED, FEEDER_EXPIRED };

struct changes;
struct feeder {
    struct call_op op;
    struct changes *changes;
    uint32_t partition;
    enum feeder_state state;
    struct arena *arena; /* the op's, alone */
};
struct changes {
    struct call *call;
    uint32_t count, ended, ready, seeking, expired; /* feeders: all; in these states */
    const struct filter *filter;
    struct slice user_id;
    enum feed_payload payload;
    bool stop_at_end, at_end_told;
    uint64_t from_us;
    struct cursor *behind, *told;
    uint8_t *cursor;        /* [CURSOR_ROOM]: of the message on its way, with its field's head */
    struct feeder *sending[MESSAGE_PARTS_MAX];
    unsigned sending_count;
    bool moved;             /* told has moved since the last cursor */
    uint64_t sent_ns;
    uint32_t turn;          /* whose answer goes first */
    struct timer pace;
    struct feeder feeders[];
};

static void changes_pump(struct changes *c);
static void feeder_read(struct feeder *f);

/* ---- where a partition's slots lie; one user's stream has one slot */

static uint16_t first_slot(const struct changes *c, const struct feeder *f) {
    return c->user_id.len ? slot_of_user(c->user_id) : partition_first_slot(f->partition, call_core(c->call)->node->partition_count);
}
static uint16_t last_slot(const struct changes *c, const struct feeder *f) {
    return c->user_id.len ? slot_of_user(c->user_id) : partition_last_slot(f->partition, call_core(c->call)->node->partition_count);
}

static void tell_behind(struct changes *c, const struct feeder *f) {
    uint16_t first = first_slot(c, f), n = (uint16_t)(last_slot(c, f) - first + 1);
    int64_t *told = &c->told->seq[first];
    const int64_t *behind = &c->behind->seq[first];
    c->moved |= memcmp(told, behind, n * sizeof *told) != 0;
    memcpy(told, behind, n * sizeof *told);
}

/* ---- messages */

static void on_sent(struct call *call) {
    struct changes *c = *call_state(call);
    for (unsigned i = 0; i < c->sending_count; i++) feeder_read(c->sending[i]);
    c->sending_count = 0;
    changes_pump(c);
}

static struct slice token_key(const struct changes *c) {
    const struct node *node = call_core(c->call)->node;
    return slice_of(node->identity.token_key, sizeof node->identity.token_key);
}

static void send_message(struct changes *c, const struct slice *answers, unsigned n) {
    struct slice parts[MESSAGE_PARTS_MAX + 2];
    size_t bytes = cursor_encode(c->told, c->user_id, token_key(c), c->cursor + CURSOR_FIELD_HEAD);
    struct writer w = writer_of(c->cursor, CURSOR_FIELD_HEAD);
    pb_tag(&w, 2, PB_LEN);
    write_varint(&w, bytes);
    if (n) memcpy(parts, answers, n * sizeof *parts);
    parts[n] = writer_slice(&w);
    parts[n + 1] = slice_of(c->cursor + CURSOR_FIELD_HEAD, bytes);
    c->moved = false;
    c->sent_ns = call_core(c->call)->now_ns;
    call_send_parts(c->call, parts, n + 2, on_sent);
}

static size_t ready_bytes(const struct changes *c) {
    size_t n = 0;
    for (uint32_t i = 0; i < c->count; i++)
        if (c->feeders[i].state == FEEDER_READY) n += c->feeders[i].op.op.answer.len;
    return n;
}

/* Takes what is ready, the one whose turn it is first. */
static unsigned gather(struct changes *c, struct slice answers[MESSAGE_PARTS_MAX]) {
    size_t bytes = 0;
    unsigned n = 0;
    for (uint32_t i = 0; i < c->count && n < MESSAGE_PARTS_MAX; i++) {
        struct feeder *f = &c->feeders[(c->turn + i) % c->count];
        if (f->state != FEEDER_READY) continue;
        size_t more = f->op.op.answer.len;
        if (n && bytes + more > GRPC_MESSAGE_BYTES_MAX - CURSOR_BYTES_MAX - 64) break;
        bytes += more;
        answers[n] = f->op.op.answer;
        c->sending[n++] = f;
        tell_behind(c, f);
        f->state = FEEDER_READ; /* goes on when this is sent */
        c->ready--;
    }
    if (n) c->turn = c->sending[n - 1]->partition + 1;
    return n;
}

/* The end, or a cursor that has moved although there was nothing to tell. */
static void changes_rest(struct changes *c) {
    bool ended = c->ended == c->count;
    if (!ended && (!c->moved || call_core(c->call)->now_ns - c->sent_ns < NS_PER_S)) return;
    if (ended && !c->moved && c->at_end_told) return call_finish(c->call);
    c->at_end_told = ended;
    send_message(c, NULL, 0);
    if (ended) call_finish(c->call); /* behind the message */
}

static void changes_pump(struct changes *c) {
    struct slice answers[MESSAGE_PARTS_MAX];
    struct core *core = call_core(c->call);
    if (call_sending(c->call) || c->sending_count) return;
    if (!c->ready) return changes_rest(c);
    uint64_t due_ns = c->sent_ns + PACE_NS;
    bool whole = c->ready + c->ended == c->count; /* nobody is left to wait for */
    if (core->now_ns < due_ns && !whole && ready_bytes(c) < MESSAGE_BYTES_FULL) {
        if (!timer_set(&core->timers, &c->pace, due_ns)) serve_fail_memory(c->call);
        return;
    }
    timer_clear(&core->timers, &c->pace);
    c->sending_count = gather(c, answers);
    send_message(c, answers, c->sending_count);
}

static void on_pace(struct timer *t) { changes_pump(container_of(t, struct changes, pace)); }

/* ---- a partition's ops */

static void fail_expired(struct changes *c) {
    struct expired x = {0};
    for (uint32_t i = 0; i < c->count; i++)
        if (c->feeders[i].state == FEEDER_EXPIRED) expired_add(&x, &c->feeders[i].op.op.failure);
    expired_fail(&x, call_failure(c->call), "behind this cursor are no longer kept");
    call_fail(c->call);
}

/* true: the call goes on, and this partition with it. */
static bool sought(struct changes *c, struct feeder *f) {
    enum status st = f->op.op.failure.status;
    c->seeking--;
    if (st == STATUS_CURSOR_EXPIRED) f->state = FEEDER_EXPIRED, c->expired++;
    else if (st) return serve_fail_with(c->call, &f->op.op.failure), false;
    if (c->expired && !c->seeking) fail_expired(c);
    return !c->expired;
}

static void feeder_home(struct call *call, struct call_op *o) {
    struct feeder *f = container_of(o, struct feeder, op);
    struct changes *c = f->changes;
    struct op *op = &o->op;
    if (f->state == FEEDER_SEEK && !sought(c, f)) return;
    if (c->expired) return; /* the others are waited for */
    if (op->failure.status) return serve_fail_with(call, &op->failure);
    if (f->state == FEEDER_SEEK) {
        op->feed = (struct feed_request){.at = op->seek.at};
        f->state = FEEDER_READ;
        tell_behind(c, f);
        return feeder_read(f);
    }
    if (op->feed.events) {
        f->state = FEEDER_READY;
        c->ready++;
        return changes_pump(c);
    }
    tell_behind(c, f); /* what the filter left out is behind the reader too */
    if (op->feed.at_end && c->stop_at_end) {
        f->state = FEEDER_ENDED;
        c->ended++;
    } else {
        feeder_read(f);
    }
    changes_pump(c);
}

static void feeder_submit(struct feeder *f) {
    struct op *op = &f->op.op;
    arena_reset(f->arena);
    op->arena = f->arena;
    op->slot = first_slot(f->changes, f);
    op->any_replica = true; /* what is applied here is committed */
    call_submit(f->changes->call, &f->op, feeder_home);
}

static void feeder_read(struct feeder *f) {
    struct changes *c = f->changes;
    struct op *op = &f->op.op;
    struct feed_position at = op->feed.at;
    op->kind = OP_FEED_READ;
    op->feed = (struct feed_request){
        .at = at,
        .payload = c->payload,
        .filter = c->filter,
        .user_id = c->user_id,
        .slot = first_slot(c, f),
        .behind = c->behind->seq,
        .from_us = c->from_us,
        .bytes_max = RUN_BYTES,
        .events_max = RUN_EVENTS_MAX,
    };
    op->wait_until_ns = c->stop_at_end ? 0 : call_core(c->call)->now_ns + WAIT_NS;
    feeder_submit(f);
}

/* ---- the request */

static bool read_payload(struct changes *c, Orderdb__V1__OrderView payload, struct failure *f) {
    switch (payload) {
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_UNSPECIFIED:
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY: return c->payload = FEED_SUMMARY, true;
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL: return c->payload = FEED_FULL, true;
    default: return failure_violation(f, STATUS_FIELD_INVALID, "payload", "must be 0 (default: SUMMARY), 1 (SUMMARY) or 2 (FULL), not %d", (int)payload), false;
    }
}

static void read_from_time(struct changes *c, const Google__Protobuf__Timestamp *t, struct failure *f) {
    int64_t us;
    if (t && check_timestamp(t, "from_time", &us, f)) c->from_us = (uint64_t)MAX_OF(us, (int64_t)1);
}

/* false: *f says why. */
static bool changes_read(struct changes *c, const Orderdb__V1__ReadChangesRequest *m, struct slice cursor, struct failure *f) {
    size_t user_bytes = strlen(m->user_id);
    read_payload(c, m->payload, f);
    if (user_bytes > CHECK_USER_ID_BYTES_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "user_id", "%zu bytes; at most %d", user_bytes, CHECK_USER_ID_BYTES_MAX);
    read_from_time(c, m->from_time, f);
    c->user_id = slice_str(m->user_id);
    c->stop_at_end = m->stop_at_end;
    if (m->filter[0] && filter_parse(&c->filter, slice_str(m->filter), &filter_events, "filter", call_arena(c->call), f)) return false;
    if (c->filter && filter_is_empty(c->filter)) c->filter = NULL;
    if (f->status) return false;
    cursor_init(c->behind);
    if (!cursor.len) return true;
    c->from_us = 0; /* the cursor knows better */
    return cursor_decode(c->behind, cursor, c->user_id, token_key(c), "cursor", f) == STATUS_OK;
}

static void changes_end(struct call *call) {
    struct changes *c = *call_state(call);
    timer_clear(&call_core(call)->timers, &c->pace);
    call_core(call)->streams_live--;
}

static void on_core_change(struct call *call) {
    if (!call_core(call)->draining) return;
    failure_set(call_failure(call), STATUS_DRAINING, "this node is shutting down: resume with the last cursor");
    call_fail(call);
}

static struct changes *changes_new(struct call *call, uint32_t partitions) {
    struct arena *a = call_arena_take(call);
    struct changes *c = a ? arena_zalloc(a, sizeof *c + partitions * sizeof c->feeders[0]) : NULL;
    if (!c || !(c->behind = arena_new(a, struct cursor)) || !(c->told = arena_new(a, struct cursor)) || !(c->cursor = arena_alloc(a, CURSOR_ROOM))) return NULL;
    c->call = call;
    c->count = c->seeking = partitions;
    c->pace.fire = on_pace;
    for (uint32_t i = 0; i < partitions; i++) {
        struct feeder *f = &c->feeders[i];
        f->changes = c;
        f->partition = i;
        if (!(f->arena = call_arena_take(call))) return NULL;
    }
    return c;
}

void serve_read_changes(struct call *call) {
    Orderdb__V1__ReadChangesRequest *m = (void *)serve_decode(call, &orderdb__v1__read_changes_request__descriptor);
    if (!m) return;
    struct core *core = call_core(call);
    if (core->streams_live >= core->node->limits.streams_max) {
        failure_set(call_failure(call), STATUS_OVERLOADED, "this node serves as many change streams as it may (%u a core)", core->node->limits.streams_max);
        return call_fail(call);
    }
    struct changes *c = changes_new(call, m->user_id[0] ? 1 : core->node->partition_count);
    if (!c) return serve_fail_memory(call);
    if (!changes_read(c, m, slice_of(m->cursor.data, m->cursor.len), call_failure(call))) return call_fail(call);
    *c->told = *c->behind;
    core->streams_live++;
    *call_state(call) = c;
    call_on_end(call, changes_end);
    call_watch_core(call, on_core_change);
    if (core->draining) return on_core_change(call);
    for (uint32_t i = 0; i < c->count; i++) {
        struct op *op = &c->feeders[i].op.op;
        op->kind = OP_FEED_SEEK;
        op->seek = (struct feed_seek){.from = m->cursor.len ? FEED_CURSOR : c->from_us ? FEED_TIME : FEED_EARLIEST, .time_us = c->from_us,
                                      .one_slot = c->user_id.len > 0, .loose = true, .behind = c->behind->seq};
        feeder_submit(&c->feeders[i]);
    }
}
