/* ReadChanges with a memory: where the caller is.
 *
 *   (no call) --start--> call under way --message--> kept in the channel, with the caller until its next next() --released--> ...
 *       ^                     |
 *       '--- pause <--- lost, UNAVAILABLE         any other refusal: failed; OK: the end
 *
 * The cursor moves when a message is given to the caller, not when it arrives. A call that is begun again carries the cursor of what was given last, so that what
 * was on its way when the connection was lost comes again, once, and nothing is skipped. While the caller rests, the kept message holds the stream's window. */
#include <stdlib.h>

#include "client/handle.h"
#include "proto/base/arena.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

enum { OUTAGE_MS = 60000, CURSOR_FIELD = 1, RESPONSE_CURSOR_FIELD = 2 };
#define UNPACKED_BYTES_MAX (512 * MIB) /* a message of 64 MiB of the smallest fields does not reach that; a larger one is refused, not taken in */

struct orderdb_changes {
    struct orderdb_client *db;
    struct list node;
    uint32_t outage_ms_max;
    struct buf request, cursor; /* request: packed, without a cursor of ours */
    size_t request_bytes;
    struct channel_call *call;  /* NULL: none is under way */
    struct fleet_seat *seat;    /* that it is on */
    struct slice message;       /* kept in the channel; data NULL: there is none */
    bool given;                 /* it is with the caller */
    bool over, failed, troubled; /* troubled: error says why nothing comes just now */
    struct orderdb_error error;
    enum channel_fate fate;
    bool may_repeat_never;
    unsigned attempts;          /* since the last message */
    uint64_t outage_ns, retry_ns; /* when that began; when the next one is due */
    struct arena arena;         /* of the message with the caller, unpacked */
};

static void changes_fail(struct orderdb_changes *c, enum grpc_code code, const char *message) {
    error_set(&c->error, code, message);
    c->troubled = c->over = c->failed = true;
}

/* ---- calls */

static bool message_cb(void *user, struct slice message) {
    struct orderdb_changes *c = user;
    c->message = message;
    c->attempts = 0, c->outage_ns = 0;
    c->troubled = false;
    retry_budget_call(&c->db->budget); /* a stream that works for days has earned its retries as many calls have */
    return false;
}

/* The call has ended: for good, or until retry_ns. */
static void answer_cb(void *user, const struct channel_answer *a) {
    struct orderdb_changes *c = user;
    struct orderdb_client *db = c->db;
    c->call = NULL;
    c->message = (struct slice){0};
    if (a->code != GRPC_OK) error_from_answer(&c->error, a);
    bool drains = a->code != GRPC_OK && error_says_drain(&c->error);
    fleet_seat_leave(db->fleet, c->seat, ROUTES_SLOT_NONE, a, drains);
    if (a->code == GRPC_OK) {
        c->over = true;
        return;
    }
    c->error.outcome_unknown = false; /* it reads */
    c->troubled = true;
    uint64_t now = channel_now_ns(), pause_ns;
    if (!c->outage_ns) c->outage_ns = now;
    struct retry_question q = {.code = a->code, .fate = a->fate, .delay_ms = c->error.retry_delay_ms, .stop = db->options.no_retries || a->pushback_ms == CHANNEL_PUSHBACK_STOP,
                               .repeatable = true, .elsewhere = fleet_elsewhere(db->fleet, a, drains), .wait_for_server = db->options.wait_for_server || fleet_was_connected(db->fleet), .attempts = c->attempts,
                               .retries_max = db->options.retries_max, .deadline_ns = c->outage_ns + c->outage_ms_max * NS_PER_MS};
    if (retry_stream_allowed(&db->budget, &q, &pause_ns)) c->retry_ns = now + pause_ns;
    else c->over = c->failed = true;
}

static void changes_start(struct orderdb_changes *c) {
    c->request.len = c->request_bytes;
    struct writer w = writer_of(c->request.data + c->request_bytes, c->request.cap - c->request_bytes);
    if (c->cursor.len) pb_bytes(&w, CURSOR_FIELD, buf_slice(&c->cursor)); /* the last one of a field that is there twice counts */
    c->request.len += w.len;
    struct channel_request r = {.path = "/orderdb.v1.StreamService/ReadChanges", .message = buf_slice(&c->request), .lasts = true, .on_message = message_cb, .on_answer = answer_cb, .user = c};
    c->attempts++;
    c->seat = fleet_pick_any(c->db->fleet, ROUTES_SLOT_NONE);
    if (c->seat) c->call = channel_start(c->seat->channel, &r);
    if (!c->call) return changes_fail(c, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
    fleet_seat_take(c->db->fleet, c->seat);
}

/* ---- messages */

/* The caller is done with the one it has. */
static void changes_release(struct orderdb_changes *c) {
    if (!c->given) return;
    c->given = false;
    c->message = (struct slice){0};
    if (c->call) channel_release(c->call);
}

/* The message goes to the caller, and the cursor with it. false: no memory, or it is malformed. */
static bool changes_give(struct orderdb_changes *c) {
    struct reader r = reader_of(c->message);
    struct slice cursor = {0};
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.number == RESPONSE_CURSOR_FIELD && f.wire_type == PB_LEN) cursor = f.bytes;
    }
    if (r.bad) return changes_fail(c, GRPC_INTERNAL, "a message of the stream cannot be read"), false;
    c->given = true;
    if (!cursor.len) return true;
    c->request.len = c->request_bytes;
    c->cursor.len = 0;
    if (buf_reserve(&c->request, pb_bytes_max(cursor)) && buf_append(&c->cursor, cursor)) return true;
    return changes_fail(c, GRPC_RESOURCE_EXHAUSTED, "no memory for the cursor"), false;
}

enum orderdb_changes_result orderdb_changes_next_bytes(struct orderdb_changes *c, uint32_t timeout_ms, const uint8_t **message, size_t *message_bytes) {
    uint64_t now = channel_now_ns(), until = timeout_ms == ORDERDB_FOREVER ? CHANNEL_FOREVER : now + timeout_ms * NS_PER_MS;
    *message = NULL, *message_bytes = 0;
    changes_release(c);
    for (bool turned = false;; now = channel_now_ns(), turned = true) {
        if (c->message.data && !changes_give(c)) break;
        if (c->given) return *message = c->message.data, *message_bytes = c->message.len, ORDERDB_CHANGES_EVENTS;
        if (c->over) break;
        if (turned && now >= until) return ORDERDB_CHANGES_TIMEOUT;
        if (!c->call && now >= c->retry_ns) changes_start(c);
        if (c->over) break;
        uint64_t wake = c->call ? until : MIN_OF(until, c->retry_ns);
        channel_loop_turn(c->db->loop, wake > now ? wake - now : 0);
    }
    return c->failed ? ORDERDB_CHANGES_FAILED : ORDERDB_CHANGES_END;
}

static void *unpack_alloc_cb(void *user, size_t n) { return arena_alloc(user, n); }
static void unpack_free_cb(void *user, void *p) {}

enum orderdb_changes_result orderdb_changes_next(struct orderdb_changes *c, uint32_t timeout_ms, const Orderdb__V1__ReadChangesResponse **events) {
    const uint8_t *message;
    size_t bytes;
    enum orderdb_changes_result r = orderdb_changes_next_bytes(c, timeout_ms, &message, &bytes);
    *events = NULL;
    if (r != ORDERDB_CHANGES_EVENTS) return r;
    ProtobufCAllocator allocator = {unpack_alloc_cb, unpack_free_cb, &c->arena};
    arena_reset(&c->arena);
    *events = orderdb__v1__read_changes_response__unpack(&allocator, bytes, message);
    if (*events) return r;
    changes_fail(c, GRPC_INTERNAL, "a message of the stream cannot be read, or no memory for it");
    return ORDERDB_CHANGES_FAILED;
}

const uint8_t *orderdb_changes_cursor(const struct orderdb_changes *c, size_t *bytes) {
    *bytes = c->cursor.len;
    return c->cursor.data;
}

const struct orderdb_error *orderdb_changes_error(const struct orderdb_changes *c) { return c->troubled ? &c->error : NULL; }

/* ---- begin and end */

struct orderdb_changes *orderdb_read_changes(struct orderdb_client *db, const Orderdb__V1__ReadChangesRequest *request, const struct orderdb_changes_options *options) {
    db->request_id[0] = 0;
    handle_clear(db);
    struct orderdb_changes *c = mem_new(struct orderdb_changes);
    if (!c) goto failed;
    c->db = db;
    list_init(&c->node);
    error_init(&c->error, db->request_id);
    arena_init(&c->arena, UNPACKED_BYTES_MAX);
    c->outage_ms_max = options && options->outage_ms_max ? options->outage_ms_max : OUTAGE_MS;
    /* What the caller has is where it stands until something comes. */
    if (!message_pack(&c->request, &request->base) || !buf_append(&c->cursor, slice_of(request->cursor.data, request->cursor.len))) goto failed;
    c->request_bytes = c->request.len;
    if (!buf_reserve(&c->request, pb_bytes_max(buf_slice(&c->cursor)))) goto failed;
    list_push_back(&db->streams, &c->node);
    return c;
failed:
    orderdb_changes_close(c);
    handle_fail(db, GRPC_RESOURCE_EXHAUSTED, "no memory for the call");
    return NULL;
}

void orderdb_changes_close(struct orderdb_changes *c) {
    if (!c) return;
    if (c->call) channel_cancel(c->call);
    while (c->call) channel_loop_turn(c->db->loop, 0);
    list_remove(&c->node);
    error_fini(&c->error);
    arena_fini(&c->arena);
    buf_fini(&c->request), buf_fini(&c->cursor);
    mem_free(c);
}
