/* A client and a server session in one memory: an nghttp2 client talks to an h2 of the server with test handlers; ops that handlers submit wait in `away`
 * until the test brings them home; time is a number. Everything here is static, and the doubles stand in the including program itself: it defines
 * mail_send_op and the serve_* handlers in place of the server's, which the linker then leaves in their archive. */
#ifndef TESTS_LIB_H2_WORLD_H
#define TESTS_LIB_H2_WORLD_H

#include <nghttp2/nghttp2.h>
#include <stdlib.h>

#include "proto/base/mem.h"
#include "proto/details.h"
#include "proto/grpc.h"
#include "server/call.h"
#include "server/core.h"
#include "server/h2.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

enum { ANSWERS_MAX = 512 };

/* What the client saw of one stream. */
struct answer {
    int32_t id;
    bool closed;
    uint32_t error_code; /* of the stream's close */
    char http_status[8], grpc_status[8], grpc_message[2048], details[12288], pushback[16], accept_encoding[32];
    uint8_t *body;
    size_t body_len;
    /* request on its way */
    const uint8_t *request;
    size_t request_len, request_at;
    bool keep_open; /* no END_STREAM after these bytes */
};

struct world {
    struct core core;
    struct h2 *h2;
    nghttp2_session *client;
    bool dead;           /* h2_feed said so */
    bool deaf;           /* the client does not hear: what the server says is thrown away */
    bool goaway_seen;
    int32_t goaway_last;
    uint32_t goaway_code;
    size_t feed_bytes;   /* per h2_feed; 0: all */
    size_t output_bytes; /* per h2_output; 0: 64 KiB */
    uint64_t output_calls;
    struct list away;    /* mail_hop.link */
    uint32_t away_count, dropped, nexts;
    unsigned answer_count;
    struct answer answers[ANSWERS_MAX]; /* last: cleared one by one */
};
static struct world *world; /* the one that runs; handlers find it here */

static const struct h2_limits world_h2_limits = {
    .streams_max = 128,
    .stream_window_bytes = 65536,
    .connection_window_bytes = 1 << 20,
    .header_bytes_max = 16384,
    .memory_bytes_max = 176 << 10,
    .calm = {.reset_burst = 1000, .reset_per_s = 33, .control_burst = 2000, .control_per_s = 100, .ping_interval_ns = 10 * NS_PER_S, .continuations_max = 8},
    .bytes_per_s_min = 4096,
    .grace_ns = 10 * NS_PER_S,
    .transfer_ns = 120 * NS_PER_S,
    .stall_ns = 30 * NS_PER_S,
};
static const struct call_limits world_call_limits = {4 << 20, 16384, 3600 * NS_PER_S, 16 << 20, 64 << 20, 1000, 8};

#ifndef WORLD_REAL_HANDLERS /* the including program has an engine of its own: it defines mail_send_op alone */
/* ---- doubles */
void mail_send_op(struct core *from, struct mail_hop *hop, struct op *op, void (*home)(struct mail_hop *hop)) {
    hop->op = op;
    hop->home = home;
    list_push_back(&world->away, &hop->link);
    world->away_count++;
}

#endif

/* Brings the oldest op home. */
static void world_home(struct world *w) {
    struct list *l = list_pop_front(&w->away);
    check(l);
    w->away_count--;
    struct mail_hop *hop = list_entry(l, struct mail_hop, link);
    hop->home(hop);
}

static call_handler world_create, world_get, world_list, world_transition, world_history, world_import, world_topology, world_batch;
#ifndef WORLD_REAL_HANDLERS
#define WORLD_HANDLER(name, handler) \
    __attribute__((weak)) void name(struct call *call) { handler(call); }
WORLD_HANDLER(serve_create_order, world_create)
WORLD_HANDLER(serve_get_order, world_get)
WORLD_HANDLER(serve_list_orders, world_list)
WORLD_HANDLER(serve_transition_order, world_transition)
WORLD_HANDLER(serve_list_order_history, world_history)
WORLD_HANDLER(serve_import_orders, world_import)
WORLD_HANDLER(serve_get_topology, world_topology)
WORLD_HANDLER(serve_update_order, world_batch)
WORLD_HANDLER(serve_get_request_outcome, world_batch)
WORLD_HANDLER(serve_batch_get_orders, world_batch)
WORLD_HANDLER(serve_batch_create_orders, world_batch)
WORLD_HANDLER(serve_batch_transition_orders, world_batch)
WORLD_HANDLER(serve_add_node, world_batch)
WORLD_HANDLER(serve_drain_node, world_batch)
WORLD_HANDLER(serve_remove_node, world_batch)
WORLD_HANDLER(serve_transfer_leader, world_batch)
WORLD_HANDLER(serve_check_indexes, world_batch)
WORLD_HANDLER(serve_apply_resource, world_batch)
WORLD_HANDLER(serve_list_resources, world_batch)
WORLD_HANDLER(serve_set_order_timer, world_batch)
WORLD_HANDLER(serve_cancel_order_timer, world_batch)
WORLD_HANDLER(serve_create_consumer_group, world_batch)
WORLD_HANDLER(serve_update_consumer_group, world_batch)
WORLD_HANDLER(serve_get_consumer_group, world_batch)
WORLD_HANDLER(serve_list_consumer_groups, world_batch)
WORLD_HANDLER(serve_delete_consumer_group, world_batch)
WORLD_HANDLER(serve_get_group_lag, world_batch)
WORLD_HANDLER(serve_seek_consumer_group, world_batch)
WORLD_HANDLER(serve_list_dead_letters, world_batch)
WORLD_HANDLER(serve_redrive_dead_letters, world_batch)
WORLD_HANDLER(serve_purge_dead_letters, world_batch)
WORLD_HANDLER(serve_subscribe, world_batch)
#endif

/* create: says what it was told. */
static void handler_echo(struct call *call) {
    struct slice m = call_message(call);
    call_reply(call, &m, 1);
}
/* get: an op, then its slot in text. */
static void next_home(struct call *call, struct call_op *op) {
    world->nexts++;
    char *text = arena_printf(call_arena(call), "home");
    struct slice s = slice_str(text ? text : "");
    call_reply(call, &s, 1);
}
static void drop_op(struct call_op *op) { world->dropped++; }
static void handler_op(struct call *call) {
    struct call_op *op = arena_new(call_arena(call), struct call_op);
    if (!op) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory");
        return call_fail(call);
    }
    op->drop = drop_op;
    call_set_request_id(call, SLICE_LIT("request-0123456789"));
    call_submit(call, op, next_home);
}
/* list: as many bytes as the message says in text, each part 1,000 bytes. */
static void handler_large(struct call *call) {
    struct slice m = call_message(call);
    size_t bytes = 0;
    for (size_t i = 0; i < m.len && i < 7; i++) bytes = bytes * 10 + (size_t)(m.data[i] - '0') % 10;
    size_t n = (bytes + 999) / 1000;
    static uint8_t pattern[1000 + 250];
    for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)(i % 250);
    struct slice *parts = arena_array(call_arena(call), struct slice, n + 1);
    if (!parts) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory");
        return call_fail(call);
    }
    for (size_t i = 0; i < n; i++) parts[i] = slice_of(pattern + i * 1000 % 250, MIN_OF((size_t)1000, bytes - i * 1000));
    call_reply(call, parts, n);
}
/* history: refuses, with everything that a failure can carry. */
static void handler_fail(struct call *call) {
    struct failure *f = call_failure(call);
    failure_violation(f, STATUS_LIMIT_EXCEEDED, "order.items[3].quantity", "at most 1000000, not 2000000");
    failure_meta(f, "order_id", "%d", 42);
    f->message = "two\nlines, 100%";
    f->retry_delay_ms = 1500;
    call_fail(call);
}
/* import: counts messages and bytes. */
static void handler_count(struct call *call) {
    uintptr_t *n = (uintptr_t *)call_state(call);
    if (!call_half_closed(call)) {
        *n += 1;
        return;
    }
    char *text = arena_printf(call_arena(call), "%zu", (size_t)*n);
    struct slice s = slice_str(text);
    call_reply(call, &s, 1);
}
/* batch: three ops at once, each with an arena of its own. */
static void next_of_batch(struct call *call, struct call_op *op) {
    uintptr_t *left = (uintptr_t *)call_state(call);
    struct slice s = SLICE_LIT("all home");
    world->nexts++;
    if (--*left == 0) call_reply(call, &s, 1);
}
static void handler_batch(struct call *call) {
    uintptr_t *left = (uintptr_t *)call_state(call);
    for (*left = 0; *left < 3; *left += 1) {
        struct call_op *op = arena_new(call_arena(call), struct call_op);
        if (!op || !(op->op.arena = call_arena_take(call))) {
            failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory");
            return call_fail(call);
        }
        op->drop = drop_op;
        call_submit(call, op, next_of_batch);
    }
}
static void handlers_default(void) {
    world_batch = handler_batch;
    world_create = handler_echo;
    world_get = world_transition = handler_op;
    world_list = handler_large;
    world_history = handler_fail;
    world_import = handler_count;
    world_topology = handler_echo;
}

/* ---- the client */
static struct answer *answer_of(struct world *w, int32_t id) {
    for (unsigned i = 0; i < w->answer_count; i++)
        if (w->answers[i].id == id) return &w->answers[i];
    return NULL;
}
static void field_copy(char *out, size_t cap, const uint8_t *v, size_t len) {
    len = MIN_OF(len, cap - 1);
    memcpy(out, v, len);
    out[len] = 0;
}
static int client_header_cb(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *v, size_t len, uint8_t flags, void *user) {
    struct answer *a = answer_of(user, frame->hd.stream_id);
    if (!a) return 0;
    struct slice n = slice_of(name, name_len);
#define TAKE(text, field) if (slice_equal(n, SLICE_LIT(text))) field_copy(a->field, sizeof a->field, v, len)
    TAKE(":status", http_status);
    TAKE("grpc-status", grpc_status);
    TAKE("grpc-message", grpc_message);
    TAKE("grpc-status-details-bin", details);
    TAKE("grpc-retry-pushback-ms", pushback);
    TAKE("grpc-accept-encoding", accept_encoding);
#undef TAKE
    return 0;
}
static int client_data_cb(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user) {
    struct answer *a = answer_of(user, id);
    if (!a) return 0;
    a->body = realloc(a->body, a->body_len + len);
    memcpy(a->body + a->body_len, data, len);
    a->body_len += len;
    return 0;
}
static int client_close_cb(nghttp2_session *s, int32_t id, uint32_t code, void *user) {
    struct answer *a = answer_of(user, id);
    if (a) a->closed = true, a->error_code = code;
    return 0;
}
static int client_frame_cb(nghttp2_session *s, const nghttp2_frame *frame, void *user) {
    struct world *w = user;
    if (frame->hd.type == NGHTTP2_GOAWAY) w->goaway_seen = true, w->goaway_last = frame->goaway.last_stream_id, w->goaway_code = frame->goaway.error_code;
    return 0;
}
static ssize_t client_read_cb(nghttp2_session *s, int32_t id, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *source, void *user) {
    struct answer *a = source->ptr;
    size_t n = MIN_OF(len, a->request_len - a->request_at);
    if (n == 0 && a->keep_open) return NGHTTP2_ERR_DEFERRED;
    if (n) memcpy(buf, a->request + a->request_at, n);
    a->request_at += n;
    if (a->request_at == a->request_len && !a->keep_open) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static void world_wants_output(void *owner) {}

static nghttp2_session *client_new(struct world *w, uint32_t window, bool manual_window) {
    nghttp2_session_callbacks *cbs;
    nghttp2_option *option;
    nghttp2_session *s;
    check(nghttp2_session_callbacks_new(&cbs) == 0);
    check(nghttp2_option_new(&option) == 0);
    nghttp2_option_set_no_auto_window_update(option, manual_window);
    nghttp2_session_callbacks_set_on_header_callback(cbs, client_header_cb);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, client_data_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(cbs, client_close_cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, client_frame_cb);
    check(nghttp2_session_client_new2(&s, cbs, w, option) == 0);
    nghttp2_session_callbacks_del(cbs);
    nghttp2_option_del(option);
    nghttp2_settings_entry e = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window};
    check(nghttp2_submit_settings(s, NGHTTP2_FLAG_NONE, &e, window ? 1 : 0) == 0);
    return s;
}

/* window: the client's for answers; 0: the default, updated by itself. false: no memory for the server's side. */
static bool world_open_with(struct world *w, const struct h2_limits *hl, const struct call_limits *cl, uint32_t window) {
    memset(w, 0, offsetof(struct world, answers));
    world = w;
    list_init(&w->away);
    handlers_default();
    w->core.now_ns = 1000 * NS_PER_S;
    list_init(&w->core.connections);
    list_init(&w->core.flush);
    w->core.calls = calls_new(&w->core, cl);
    if (!w->core.calls) return false;
    w->h2 = h2_new(&w->core, hl, world_wants_output, w);
    if (!w->h2) return false;
    w->client = client_new(w, window, window != 0);
    return true;
}
static void world_open(struct world *w) { check(world_open_with(w, &world_h2_limits, &world_call_limits, 0)); }

/* Ends with zero live calls and zero charged memory. */
static void world_close(struct world *w) {
    h2_free(w->h2);
    while (!list_empty(&w->away)) world_home(w);
    check(w->core.calls_live == 0);
    if (w->core.calls) check(calls_memory_bytes(w->core.calls) == calls_memory_idle_bytes(w->core.calls));
    calls_free(w->core.calls);
    check(timers_next_ns(&w->core.timers) == UINT64_MAX);
    timers_fini(&w->core.timers);
    if (w->client) nghttp2_session_del(w->client);
    for (unsigned i = 0; i < w->answer_count; i++) free(w->answers[i].body);
    world = NULL;
}

/* Server to client. */
static bool world_output(struct world *w) {
    static uint8_t buf[64 << 10];
    struct writer out = writer_of(buf, w->output_bytes ? w->output_bytes : sizeof buf);
    h2_output(w->h2, &out);
    w->output_calls++;
    if (out.len && w->client && !w->deaf) {
        ssize_t n = nghttp2_session_mem_recv(w->client, buf, out.len);
        check(n == (ssize_t)out.len);
    }
    return out.len > 0;
}
static bool world_feed(struct world *w, const void *data, size_t len) {
    for (size_t at = 0, n; at < len && !w->dead; at += n) {
        n = w->feed_bytes ? MIN_OF(w->feed_bytes, len - at) : len - at;
        w->dead = !h2_feed(w->h2, slice_of((const uint8_t *)data + at, n));
    }
    return !w->dead;
}
/* Bytes go both ways until nothing moves. */
static void world_pump(struct world *w) {
    for (bool moved = true; moved;) {
        moved = false;
        const uint8_t *data;
        for (ssize_t n; !w->dead && (n = nghttp2_session_mem_send(w->client, &data)) > 0; moved = true) world_feed(w, data, (size_t)n);
        while (world_output(w)) moved = true;
        if (w->dead && !moved) return;
    }
}
static void world_time(struct world *w, uint64_t ns) {
    w->core.now_ns += ns;
    timers_run(&w->core.timers, w->core.now_ns);
}

/* ---- requests */
#define NV(n, v) {(uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE}
static struct answer *world_request_with(struct world *w, const nghttp2_nv *nv, size_t n, struct slice body, bool keep_open) {
    check(w->answer_count < ANSWERS_MAX);
    struct answer *a = &w->answers[w->answer_count++];
    *a = (struct answer){.request = body.data, .request_len = body.len, .keep_open = keep_open};
    nghttp2_data_provider p = {.source.ptr = a, .read_callback = client_read_cb};
    a->id = nghttp2_submit_request(w->client, NULL, nv, n, &p, a);
    check(a->id > 0);
    return a;
}
/* extra: a header "name", "value", or NULL. */
static struct answer *world_request(struct world *w, const char *path, struct slice body, bool keep_open, const char *extra, const char *extra_value) {
    nghttp2_nv nv[] = {NV(":method", "POST"), NV(":scheme", "http"), NV(":path", path), NV(":authority", "t"), NV("te", "trailers"),
                       NV("content-type", "application/grpc"), NV(extra ? extra : "x", extra ? extra_value : "y")};
    return world_request_with(w, nv, ARRAY_LEN(nv), body, keep_open);
}
/* More bytes on a request that was kept open. */
static void world_more(struct world *w, struct answer *a, struct slice bytes, bool keep_open) {
    check(a->request_at == a->request_len);
    a->request = bytes.data, a->request_len = bytes.len, a->request_at = 0;
    a->keep_open = keep_open;
    nghttp2_session_resume_data(w->client, a->id);
}
/* A framed message in memory that lives as long as the program. */
static struct slice framed(const void *data, size_t len) {
    static uint8_t ring[64][4096];
    static unsigned at;
    check(len + GRPC_FRAME_HEAD <= sizeof ring[0]);
    uint8_t *p = ring[at++ % ARRAY_LEN(ring)];
    grpc_frame_head(p, (uint32_t)len);
    memcpy(p + GRPC_FRAME_HEAD, data, len);
    return slice_of(p, len + GRPC_FRAME_HEAD);
}
static struct slice framed_text(const char *s) { return framed(s, strlen(s)); }
#define SVC "/orderdb.v1.OrderService/"
/* One unary call from begin to end. */
static struct answer *world_call(struct world *w, const char *path, const char *message) {
    struct answer *a = world_request(w, path, framed_text(message), false, NULL, NULL);
    world_pump(w);
    return a;
}
static bool answer_is(const struct answer *a, const char *text) {
    return strcmp(a->grpc_status, "0") == 0 && a->body_len == strlen(text) + GRPC_FRAME_HEAD && memcmp(a->body + GRPC_FRAME_HEAD, text, strlen(text)) == 0;
}

#pragma GCC diagnostic pop
#endif
