/* Calls, links, loop.
 *
 *   channel ---- active ----> link (one TCP connection, one HTTP/2 session) ---- calls (streams)
 *           \--- links ----->  older links that got a GOAWAY and finish their calls
 *
 * Happy path: channel_start() submits the stream to the active link's session, which is made (and starts to connect) when there is none;
 * nothing is written yet. channel_loop_turn() lets the session serialize what is queued, sends it, polls, feeds what arrived to the session,
 * whose callbacks only record what they saw in the call. A call that ended waits in loop->done until the turn's last step runs its callback:
 * no user code runs below nghttp2, so it may do what it likes.
 *
 * Between session and socket is the wire (client/wire.h), with TLS where told. It pulls nothing before a handshake has ended, so a call on a link that
 * never got there was not sent.
 *
 * Streams of answers (on_message): whole messages wait in call->in and are handed over in the turn's last step. Window: the connection's is given back at once, so
 * a reader that rests holds up nobody else; the stream's only as messages are released, but for a message that comes in while none waits: it must be able to become
 * whole, however large. So a stream holds one message and WINDOW_BYTES at most. A call that ends with messages waiting lingers until they are released.
 *
 * Failure: a link that cannot connect, loses its connection or breaks the protocol ends all its calls with UNAVAILABLE. What was handed to
 * the kernel may have taken effect (CHANNEL_UNKNOWN); streams that never left the session, and those that the server refused or excluded by
 * its GOAWAY, did not (CHANNEL_NOT_SENT). A connection that died silently shows when deadlines pass: a call that expires on a link which has
 * heard nothing for LINK_SILENCE_NS takes the link with it, so that the next call gets a new one; TCP_USER_TIMEOUT covers what is unsent.
 * A stream may have no deadline and nothing to send: a link with calls that has heard nothing for `ping_after_ns` asks by a ping, and is given up without an answer. A server of
 * ours pings by itself after a minute, so that this one is rare. */
#include "client/channel.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "client/deadlines.h"
#include "client/inflow.h"
#include "client/target.h"
#include "client/wire.h"
#include "proto/base/buf.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"

enum {
    CALL_MAGIC = 0x43414c4c,
    RECEIVE_BYTES = 256 << 10,  /* one recv(); the loop's buffer */
    WINDOW_BYTES = CHANNEL_STREAM_BYTES_MAX, /* per stream and per connection: what may be on its way unread */
    RECEIVES_PER_TURN = 16,     /* one busy link must not starve the others */
};
#define LINK_SILENCE_NS (2 * NS_PER_S)
#define PING_AFTER_NS (75 * NS_PER_S)
#define PING_ANSWER_NS (20 * NS_PER_S)

struct channel_call {
    uint32_t magic;
    struct channel_loop *loop;
    struct channel *channel;
    struct link *link;  /* NULL: ended */
    struct list node;   /* in link->calls, then (with messages that wait) in loop->lingering, then in loop->done */
    int32_t stream_id;  /* 0: the stream is closed */
    bool sent;          /* HEADERS were serialized */
    bool sending_done;  /* no message follows */
    bool lasts;
    bool content_type_ok;
    int http_status, grpc_status; /* -1: none came */
    int64_t pushback_ms;
    uint64_t leader;
    size_t metadata_bytes, out_at;
    struct buf out, response, message, details;
    struct deadline deadline; /* in loop->deadlines, when there is one */
    enum grpc_code code;
    enum channel_fate fate;
    char note[200]; /* what went wrong on this side */
    channel_answer_cb *on_answer;
    channel_message_cb *on_message; /* NULL: the answer is one message, in response */
    void *user;
    struct inflow in;
    struct list ready; /* in loop->ready: a message can be handed over */
    size_t held_bytes; /* of the stream's window, not given back yet */
    bool held;         /* the first message is with the user */
    bool dropped;      /* no message is handed over any more */
};

struct link {
    struct channel *channel;
    struct list node;
    bool draining, failed;
    nghttp2_session *session;
    struct wire wire;
    struct list calls;
    uint32_t hurried;   /* of the calls, those that do not last */
    uint64_t pinged_ns; /* of the ping that is not answered yet; 0: there is none */
    uint64_t ping_ns;   /* of the last one; 0: there was none */
};

struct channel {
    struct channel_loop *loop;
    struct list node, links;
    struct link *active;
    struct target target;
    struct tls_source *tls;
    char *server_name;
    bool was_connected;
    uint64_t ping_after_ns, ping_answer_ns, ping_pause_ns;
};

struct channel_loop {
    struct list channels, done, ready, lingering;
    struct deadlines deadlines;
    struct pollfd *polls;
    struct link **polled;
    size_t poll_cap;
    nghttp2_session_callbacks *callbacks;
    uint8_t *receive;
};

uint64_t channel_now_ns(void) {
    struct timespec t;
    check(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- the end of a call */

static void call_free(struct channel_call *call) {
    deadlines_remove(&call->loop->deadlines, &call->deadline);
    list_remove(&call->ready);
    inflow_fini(&call->in);
    buf_fini(&call->out), buf_fini(&call->response), buf_fini(&call->message), buf_fini(&call->details);
    call->magic = 0;
    mem_free(call);
}

static bool call_has_message(const struct channel_call *call) {
    struct slice m;
    return call->on_message && !call->dropped && inflow_first(&call->in, &m);
}

static void call_end(struct channel_call *call, enum grpc_code code, enum channel_fate fate, const char *format, ...) PRINTF_LIKE(4, 5);
static void call_end(struct channel_call *call, enum grpc_code code, enum channel_fate fate, const char *format, ...) {
    check(call->link);
    call->link->hurried -= !call->lasts;
    call->code = code, call->fate = fate;
    va_list args;
    va_start(args, format);
    vsnprintf(call->note, sizeof(call->note), format, args);
    va_end(args);
    if (call->stream_id && !call->link->failed) {
        /* No memory here means that the server goes on with a call that nobody waits for: harmless, and the link notices. */
        (void)nghttp2_session_set_stream_user_data(call->link->session, call->stream_id, NULL);
        (void)nghttp2_submit_rst_stream(call->link->session, NGHTTP2_FLAG_NONE, call->stream_id, NGHTTP2_CANCEL);
    }
    call->stream_id = 0;
    call->link = NULL;
    deadlines_remove(&call->loop->deadlines, &call->deadline);
    list_remove(&call->node);
    list_push_back(call_has_message(call) ? &call->loop->lingering : &call->loop->done, &call->node);
}

static enum channel_fate call_fate_lost(const struct channel_call *call) { return call->sent ? CHANNEL_UNKNOWN : CHANNEL_NOT_SENT; }

/* On this side's own account: messages that wait are nobody's any more. One that has ended keeps its status. */
static void call_end_here(struct channel_call *call, enum grpc_code code, const char *why) {
    call->dropped = true;
    list_remove(&call->ready);
    if (call->link) return call_end(call, code, call_fate_lost(call), "%s", why);
    list_remove(&call->node);
    list_push_back(&call->loop->done, &call->node);
}

/* https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md */
static enum grpc_code code_of_http(int status) {
    switch (status) {
    case 400: return GRPC_INTERNAL;
    case 401: return GRPC_UNAUTHENTICATED;
    case 403: return GRPC_PERMISSION_DENIED;
    case 404: return GRPC_UNIMPLEMENTED;
    case 429: case 502: case 503: case 504: return GRPC_UNAVAILABLE;
    default: return GRPC_UNKNOWN;
    }
}

/* PROTOCOL-HTTP2.md, "Errors": the code of RST_STREAM where no grpc-status came. */
static enum grpc_code code_of_reset(uint32_t h2_error) {
    switch (h2_error) {
    case NGHTTP2_REFUSED_STREAM: return GRPC_UNAVAILABLE;
    case NGHTTP2_CANCEL: return GRPC_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM: return GRPC_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY: return GRPC_PERMISSION_DENIED;
    default: return GRPC_INTERNAL;
    }
}

/* The one message of a unary answer is there, whole and not compressed; a stream's last one has ended. */
static bool call_response_whole(const struct channel_call *call) {
    bool compressed;
    if (call->on_message) return inflow_is_between(&call->in);
    uint32_t len;
    return call->response.len >= GRPC_FRAME_HEAD && grpc_frame_parse(call->response.data, &compressed, &len) && !compressed &&
           call->response.len - GRPC_FRAME_HEAD == len;
}

static void call_end_closed(struct channel_call *call, uint32_t h2_error) {
    if (call->grpc_status > 0) {
        call_end(call, (enum grpc_code)call->grpc_status, CHANNEL_ANSWERED, "%s", "");
    } else if (call->grpc_status == 0 && call_response_whole(call)) {
        call_end(call, GRPC_OK, CHANNEL_ANSWERED, "%s", "");
    } else if (call->grpc_status == 0 && call->on_message) {
        call_end(call, GRPC_INTERNAL, CHANNEL_UNKNOWN, "the stream ended within a message");
    } else if (call->grpc_status == 0) {
        call_end(call, GRPC_INTERNAL, CHANNEL_UNKNOWN, "the answer is not one whole message (%zu bytes)", call->response.len);
    } else if (call->http_status > 0 && (call->http_status != 200 || !call->content_type_ok)) {
        call_end(call, code_of_http(call->http_status), CHANNEL_UNKNOWN, "not a gRPC answer: HTTP status %d", call->http_status);
    } else if (h2_error == NGHTTP2_REFUSED_STREAM) {
        call_end(call, GRPC_UNAVAILABLE, CHANNEL_NOT_SENT, "the server takes no more calls on this connection");
    } else {
        call_end(call, code_of_reset(h2_error), call_fate_lost(call), "stream closed without a status (%s)", nghttp2_http2_strerror(h2_error));
    }
}

/* ---- nghttp2's callbacks: they record */

static struct channel_call *call_of_stream(nghttp2_session *session, int32_t stream_id) {
    struct channel_call *call = nghttp2_session_get_stream_user_data(session, stream_id);
    check(!call || call->magic == CALL_MAGIC);
    return call;
}

/* Leading zeros aside, a number of at most nine digits; -1: not one. */
static int number_parse(const uint8_t *s, size_t n) {
    int v = 0;
    if (n == 0 || n > 9) return -1;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9') return -1;
        v = v * 10 + (s[i] - '0');
    }
    return v;
}

static bool call_take_message(struct channel_call *call, struct slice v) {
    call->message.len = 0;
    if (!buf_reserve(&call->message, v.len + 1)) return false;
    call->message.len = grpc_percent_decode(v, (char *)call->message.data);
    return true;
}

static bool call_take_details(struct channel_call *call, struct slice v) {
    call->details.len = 0;
    if (!buf_reserve(&call->details, v.len + 4)) return false;
    size_t n = base64_decode(v, call->details.data);
    call->details.len = n == SIZE_MAX ? 0 : n; /* malformed details: the code alone has to do */
    return true;
}

static bool call_take_header(struct channel_call *call, struct slice name, struct slice v) {
    if (slice_equal(name, SLICE_LIT(":status"))) {
        call->http_status = number_parse(v.data, v.len);
    } else if (slice_equal(name, SLICE_LIT("content-type"))) {
        call->content_type_ok = slice_starts_with(v, SLICE_LIT("application/grpc"));
    } else if (slice_equal(name, SLICE_LIT("grpc-status"))) {
        int status = number_parse(v.data, v.len);
        call->grpc_status = status < 0 || status > GRPC_UNAUTHENTICATED ? GRPC_UNKNOWN : status;
    } else if (slice_equal(name, SLICE_LIT("grpc-message"))) {
        return call_take_message(call, v);
    } else if (slice_equal(name, SLICE_LIT("grpc-status-details-bin"))) {
        return call_take_details(call, v);
    } else if (slice_equal(name, SLICE_LIT("orderdb-leader"))) {
        call->leader = (uint64_t)MAX_OF(number_parse(v.data, v.len), 0);
    } else if (slice_equal(name, SLICE_LIT("grpc-retry-pushback-ms"))) {
        int ms = number_parse(v.data, v.len);
        call->pushback_ms = ms < 0 ? CHANNEL_PUSHBACK_STOP : ms; /* negative or unreadable: do not retry (gRFC A6) */
    }
    return true;
}

static int header_cb(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value,
                     size_t value_len, uint8_t flags, void *user) {
    struct channel_call *call = call_of_stream(session, frame->hd.stream_id);
    if (!call) return 0;
    call->metadata_bytes += name_len + value_len;
    if (call->metadata_bytes > CHANNEL_METADATA_BYTES_MAX) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "the answer's metadata is larger than %d bytes", CHANNEL_METADATA_BYTES_MAX);
    } else if (!call_take_header(call, slice_of(name, name_len), slice_of(value, value_len))) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "no memory for the answer");
    }
    return 0;
}

static void window_give_back(struct channel_call *call, size_t n) {
    call->held_bytes -= n;
    /* No memory: the window stays smaller, and the link's next step fails for the same reason. */
    if (call->stream_id && call->link && !call->link->failed) (void)nghttp2_session_consume_stream(call->link->session, call->stream_id, n);
}

static void call_take_bytes(struct channel_call *call, struct slice bytes) {
    call->held_bytes += bytes.len;
    enum inflow_result r = inflow_feed(&call->in, bytes, CHANNEL_MESSAGE_BYTES_MAX);
    bool waits = call_has_message(call);
    if (!waits) window_give_back(call, call->held_bytes);
    if (waits && !call->held && list_empty(&call->ready)) list_push_back(&call->loop->ready, &call->ready);
    if (r == INFLOW_TOO_LARGE) call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "a message of the stream is larger than %d bytes", CHANNEL_MESSAGE_BYTES_MAX);
    else if (r == INFLOW_MEMORY) call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "no memory for a message of the stream");
    else if (r == INFLOW_COMPRESSED) call_end(call, GRPC_INTERNAL, CHANNEL_UNKNOWN, "a message of the stream is compressed");
}

static int data_cb(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t len, void *user) {
    struct channel_call *call = call_of_stream(session, stream_id);
    if (nghttp2_session_consume_connection(session, len)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!call) return 0;
    if (call->on_message) return call_take_bytes(call, slice_of(data, len)), 0;
    if (nghttp2_session_consume_stream(session, stream_id, len)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (len > CHANNEL_MESSAGE_BYTES_MAX + GRPC_FRAME_HEAD - call->response.len) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "the answer is larger than %d bytes", CHANNEL_MESSAGE_BYTES_MAX);
    } else if (!buf_append(&call->response, slice_of(data, len))) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CHANNEL_UNKNOWN, "no memory for the answer");
    }
    return 0;
}

static int frame_received_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct link *k = user;
    if (frame->hd.type == NGHTTP2_GOAWAY) {
        k->draining = true;
        if (k->channel->active == k) k->channel->active = NULL;
        return 0;
    }
    bool ends = (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM);
    struct channel_call *call = ends ? call_of_stream(session, frame->hd.stream_id) : NULL;
    /* An answer before we have sent all: nobody wants the rest. call_end_closed() resets the stream, as RFC 9113 8.1 allows. */
    if (call && !call->sending_done) call_end_closed(call, NGHTTP2_NO_ERROR);
    return 0;
}

static int frame_sent_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct channel_call *call = frame->hd.type == NGHTTP2_HEADERS ? call_of_stream(session, frame->hd.stream_id) : NULL;
    if (call) call->sent = true;
    return 0;
}

static int stream_closed_cb(nghttp2_session *session, int32_t stream_id, uint32_t h2_error, void *user) {
    struct channel_call *call = call_of_stream(session, stream_id);
    if (!call) return 0;
    call->stream_id = 0;
    call_end_closed(call, h2_error);
    return 0;
}

static ssize_t body_cb(nghttp2_session *session, int32_t stream_id, uint8_t *out, size_t cap, uint32_t *flags, nghttp2_data_source *source,
                       void *user) {
    struct channel_call *call = call_of_stream(session, stream_id);
    if (!call) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* ended meanwhile; its reset is queued */
    size_t n = MIN_OF(call->out.len - call->out_at, cap);
    if (n) memcpy(out, call->out.data + call->out_at, n);
    call->out_at += n;
    bool empty = call->out_at == call->out.len;
    if (empty) call->out.len = call->out_at = 0;
    if (empty && call->sending_done) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return n == 0 && !call->sending_done ? NGHTTP2_ERR_DEFERRED : (ssize_t)n;
}

static void *heap_malloc_cb(size_t n, void *user) { return mem_alloc(n); }
static void heap_free_cb(void *p, void *user) { mem_free(p); }
static void *heap_calloc_cb(size_t n, size_t size, void *user) { return size && n > SIZE_MAX / size ? NULL : mem_zalloc(n * size); }
static void *heap_realloc_cb(void *p, size_t n, void *user) { return mem_realloc(p, n); }
static nghttp2_mem heap = {NULL, heap_malloc_cb, heap_free_cb, heap_calloc_cb, heap_realloc_cb};

/* ---- links */

static void link_free(struct link *k) {
    if (k->channel->active == k) k->channel->active = NULL;
    check(list_empty(&k->calls));
    list_remove(&k->node);
    nghttp2_session_del(k->session);
    wire_fini(&k->wire);
    mem_free(k);
}

/* Ends the link and all its calls; the wire's note says why. */
static void link_fail(struct link *k) {
    k->failed = true;
    /* A server that ends the handshake by an alert has looked at nothing behind it, although our side of TLS 1.3 was through, and has sent. */
    bool refused = !k->wire.heard && wire_tls_error(&k->wire);
    list_each(it, &k->calls) {
        struct channel_call *call = list_entry(it, struct channel_call, node);
        call_end(call, GRPC_UNAVAILABLE, refused ? CHANNEL_NOT_SENT : call_fate_lost(call), "%s", k->wire.note);
    }
    link_free(k);
}

/* ---- between session and wire */

static ssize_t pull_cb(void *user, const uint8_t **data) { return nghttp2_session_mem_send(((struct link *)user)->session, data); }

static bool feed_cb(void *user, struct slice plain) {
    struct link *k = user;
    k->channel->was_connected = true;
    ssize_t used = nghttp2_session_mem_recv(k->session, plain.data, plain.len);
    if (used < 0) wire_note(&k->wire, "lost the connection to", nghttp2_strerror((int)used));
    return used >= 0;
}

static bool link_session(struct link *k) {
    nghttp2_option *o = NULL;
    if (nghttp2_option_new(&o)) return false;
    nghttp2_option_set_max_reserved_remote_streams(o, 0);
    nghttp2_option_set_no_auto_window_update(o, 1);
    int e = nghttp2_session_client_new3(&k->session, k->channel->loop->callbacks, k, o, &heap);
    nghttp2_option_del(o);
    if (e) return false;
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, CHANNEL_METADATA_BYTES_MAX},
    };
    return nghttp2_submit_settings(k->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) == 0 &&
           nghttp2_session_set_local_window_size(k->session, NGHTTP2_FLAG_NONE, 0, WINDOW_BYTES) == 0;
}

/* The channel's new active link, connecting or, with `failed` set and a note, already lost. NULL: no memory. */
static struct link *link_open(struct channel *c) {
    struct link *k = mem_new(struct link);
    if (!k) return NULL;
    k->channel = c;
    list_init(&k->calls);
    list_push_back(&c->links, &k->node);
    const struct wire_above above = {pull_cb, feed_cb, k};
    if (!wire_init(&k->wire, &above, &c->target, c->tls, c->server_name) || !link_session(k)) {
        link_free(k);
        return NULL;
    }
    k->failed = !wire_start(&k->wire);
    c->active = k;
    return k;
}

static bool link_read(struct link *k) { return wire_read(&k->wire, k->channel->loop->receive, RECEIVE_BYTES, RECEIVES_PER_TURN); }

/* Sending failed. What the server said before it went away may still wait to be read: answers, and the GOAWAY that tells which calls it
 * has not processed. */
static void link_fail_write(struct link *k) {
    char note[sizeof(k->wire.note)];
    memcpy(note, k->wire.note, sizeof(note));
    for (int i = 0; i < RECEIVES_PER_TURN && link_read(k); i++) {}
    if (!wire_tls_error(&k->wire)) memcpy(k->wire.note, note, sizeof(note));
    link_fail(k);
}

static void link_on_poll(struct link *k, short events) {
    struct wire *w = &k->wire;
    if (!w->connected && (events & (POLLOUT | POLLERR | POLLHUP))) {
        if (!wire_connected(w)) return link_fail(k);
        k->channel->was_connected |= w->heard;
    }
    if (w->connected && (events & (POLLIN | POLLERR | POLLHUP)) && !link_read(k)) return link_fail(k);
    if (w->connected && !wire_write(w)) return link_fail_write(k);
}

/* When silence is to be looked into. */
static uint64_t link_silence_due(const struct link *k) {
    if (!k->wire.connected || list_empty(&k->calls)) return CHANNEL_FOREVER;
    if (k->pinged_ns) return k->pinged_ns + k->channel->ping_answer_ns;
    uint64_t due = k->wire.heard_ns + (k->hurried ? k->channel->ping_after_ns : MAX_OF(k->channel->ping_after_ns, PING_AFTER_NS));
    return k->ping_ns ? MAX_OF(due, k->ping_ns + k->channel->ping_pause_ns) : due;
}

/* false: it is dead. */
static bool link_ask(struct link *k, uint64_t now) {
    if (k->pinged_ns && k->wire.heard_ns >= k->pinged_ns) k->pinged_ns = 0;
    if (now < link_silence_due(k)) return true;
    if (k->pinged_ns) return wire_note(&k->wire, "lost the connection to", "the server is silent"), false;
    k->pinged_ns = k->ping_ns = now;
    if (nghttp2_submit_ping(k->session, NGHTTP2_FLAG_NONE, NULL) == 0) return true;
    return wire_note(&k->wire, "lost", "no memory to send"), false;
}

/* What is due without an event. */
static void link_on_turn(struct link *k, uint64_t now) {
    struct wire *w = &k->wire;
    if (k->failed || !link_ask(k, now)) return link_fail(k);
    if (!w->connected && now >= w->connect_deadline_ns) {
        if (!wire_connect_next(w, ETIMEDOUT)) link_fail(k);
        return;
    }
    if (w->connected && !w->want_write && !wire_write(w)) return link_fail_write(k);
    bool over = w->connected && !nghttp2_session_want_read(k->session) && !nghttp2_session_want_write(k->session) && wire_is_flushed(w);
    if ((k->draining && list_empty(&k->calls)) || over) {
        wire_note(w, "lost the connection to", "closed");
        link_fail(k);
    }
}

/* ---- the loop */

static bool loop_callbacks(struct channel_loop *l) {
    if (nghttp2_session_callbacks_new(&l->callbacks)) return false;
    nghttp2_session_callbacks_set_on_header_callback(l->callbacks, header_cb);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(l->callbacks, data_cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(l->callbacks, frame_received_cb);
    nghttp2_session_callbacks_set_on_frame_send_callback(l->callbacks, frame_sent_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(l->callbacks, stream_closed_cb);
    return true;
}

struct channel_loop *channel_loop_new(void) {
    struct channel_loop *l = mem_new(struct channel_loop);
    if (!l) return NULL;
    list_init(&l->channels);
    list_init(&l->done), list_init(&l->ready), list_init(&l->lingering);
    l->receive = mem_alloc(RECEIVE_BYTES);
    if (l->receive && loop_callbacks(l)) return l;
    channel_loop_free(l);
    return NULL;
}

void channel_loop_free(struct channel_loop *l) {
    if (!l) return;
    check(list_empty(&l->channels));
    list_splice_back(&l->done, &l->lingering);
    list_each(it, &l->done) {
        list_remove(it);
        call_free(list_entry(it, struct channel_call, node));
    }
    deadlines_fini(&l->deadlines);
    if (l->callbacks) nghttp2_session_callbacks_del(l->callbacks);
    mem_free(l->polls), mem_free(l->polled), mem_free(l->receive);
    mem_free(l);
}

/* Gives each link what is due and fills the poll table. Returns its size. */
static size_t loop_prepare(struct channel_loop *l, uint64_t now, uint64_t *until_ns) {
    size_t n = 0;
    list_each(ci, &l->channels) {
        struct channel *c = list_entry(ci, struct channel, node);
        list_each(ki, &c->links) link_on_turn(list_entry(ki, struct link, node), now);
        list_each(ki, &c->links) {
            struct link *k = list_entry(ki, struct link, node);
            if (n == l->poll_cap) {
                size_t cap = MAX_OF(l->poll_cap * 2, (size_t)16);
                struct pollfd *polls = mem_realloc(l->polls, cap * sizeof(*polls));
                if (polls) l->polls = polls;
                struct link **polled = mem_realloc(l->polled, cap * sizeof(*polled));
                if (polled) l->polled = polled;
                if (!polls || !polled) return *until_ns = MIN_OF(*until_ns, now + NS_PER_MS), n; /* the others first; this one next turn */
                l->poll_cap = cap;
            }
            l->polled[n] = k;
            l->polls[n++] = (struct pollfd){.fd = k->wire.fd, .events = (short)(k->wire.connected ? POLLIN | (k->wire.want_write ? POLLOUT : 0) : POLLOUT)};
            *until_ns = MIN_OF(*until_ns, k->wire.connected ? link_silence_due(k) : k->wire.connect_deadline_ns);
        }
    }
    return n;
}

static void loop_expire(struct channel_loop *l, uint64_t now) {
    for (struct deadline *d; (d = deadlines_first(&l->deadlines)) && d->at_ns <= now;) {
        struct channel_call *call = container_of(d, struct channel_call, deadline);
        struct link *k = call->link;
        const char *why = k->wire.connected ? "no answer before the deadline" : "not connected before the deadline";
        call_end_here(call, GRPC_DEADLINE_EXCEEDED, why);
        if (k->wire.connected && now - k->wire.heard_ns > LINK_SILENCE_NS) {
            wire_note(&k->wire, "lost the connection to", "the server is silent");
            link_fail(k);
        }
    }
}

/* Hands over what is whole, until the user keeps one. */
static unsigned call_hand_over(struct channel_call *call) {
    unsigned n = 0;
    for (struct slice m; !call->held && call_has_message(call); n++) {
        check(inflow_first(&call->in, &m));
        call->held = true;
        if (call->on_message(call->user, m)) channel_release(call);
    }
    list_remove(&call->ready);
    return n;
}

static unsigned loop_run_ready(struct channel_loop *l) {
    struct list batch;
    list_init(&batch);
    list_splice_back(&batch, &l->ready);
    unsigned n = 0;
    for (struct list *it; (it = list_pop_front(&batch));) n += call_hand_over(list_entry(it, struct channel_call, ready));
    return n;
}

static unsigned loop_run_done(struct channel_loop *l) {
    struct list batch; /* calls that callbacks end wait for the next turn */
    list_init(&batch);
    list_splice_back(&batch, &l->done);
    unsigned n = 0;
    for (struct list *it; (it = list_pop_front(&batch)); n++) {
        struct channel_call *call = list_entry(it, struct channel_call, node);
        struct channel_answer a = {.code = call->code, .fate = call->fate, .pushback_ms = call->pushback_ms, .leader = call->leader};
        if (call->code == GRPC_OK && !call->on_message) a.response = slice_of(call->response.data + GRPC_FRAME_HEAD, call->response.len - GRPC_FRAME_HEAD);
        a.message = call->note[0] ? slice_str(call->note) : buf_slice(&call->message);
        if (call->fate == CHANNEL_ANSWERED) a.details = buf_slice(&call->details);
        call->on_answer(call->user, &a);
        call_free(call);
    }
    return n;
}

static size_t loop_polls(struct channel_loop *l, uint64_t now, uint64_t *until) {
    size_t n = loop_prepare(l, now, until);
    struct deadline *next = deadlines_first(&l->deadlines);
    if (next) *until = MIN_OF(*until, next->at_ns);
    if (!list_empty(&l->done) || !list_empty(&l->ready)) *until = now;
    return n;
}

size_t channel_loop_polls(struct channel_loop *l, const struct pollfd **polls, uint64_t *until_ns) {
    *until_ns = CHANNEL_FOREVER;
    size_t n = loop_polls(l, channel_now_ns(), until_ns);
    *polls = l->polls;
    return n;
}

unsigned channel_loop_turn(struct channel_loop *l, uint64_t wait_ns) {
    uint64_t now = channel_now_ns(), until = wait_ns > UINT64_MAX - now ? UINT64_MAX : now + wait_ns;
    size_t n = loop_polls(l, now, &until);
    uint64_t left = until > now ? until - now : 0;
    struct timespec t = {(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)};
    int ready = ppoll(l->polls, n, until == UINT64_MAX ? NULL : &t, NULL);
    check(ready >= 0 || errno == EINTR || errno == ENOMEM);
    for (size_t i = 0; ready > 0 && i < n; i++) {
        if (l->polls[i].revents) link_on_poll(l->polled[i], l->polls[i].revents);
    }
    loop_expire(l, channel_now_ns());
    unsigned n_run = loop_run_ready(l);
    return n_run + loop_run_done(l);
}

/* ---- channels */

struct channel *channel_open(struct channel_loop *l, const char *text) {
    struct channel *c = mem_new(struct channel);
    static_assert(CHANNEL_PORT_DEFAULT == 7400, "the text below");
    int error = c ? target_parse(&c->target, text, "7400") : ENOMEM;
    if (error) {
        mem_free(c);
        errno = error;
        return NULL;
    }
    list_init(&c->links);
    c->ping_after_ns = PING_AFTER_NS, c->ping_answer_ns = PING_ANSWER_NS;
    c->loop = l;
    list_push_back(&l->channels, &c->node);
    return c;
}

void channel_close(struct channel *c) {
    if (!c) return;
    list_each(ki, &c->links) {
        struct link *k = list_entry(ki, struct link, node);
        list_each(it, &k->calls) {
            call_end_here(list_entry(it, struct channel_call, node), GRPC_CANCELLED, "the channel was closed");
        }
        wire_say_farewell(&k->wire);
        link_free(k);
    }
    list_each(it, &c->loop->lingering) {
        struct channel_call *call = list_entry(it, struct channel_call, node);
        if (call->channel == c) call_end_here(call, GRPC_CANCELLED, "the channel was closed");
    }
    list_remove(&c->node);
    target_fini(&c->target);
    mem_free(c->server_name);
    mem_free(c);
}

bool channel_use_tls(struct channel *c, struct tls_source *source, const char *server_name) {
    check(list_empty(&c->links));
    c->server_name = mem_strdup(server_name && *server_name ? server_name : c->target.host);
    c->tls = source;
    return c->server_name != NULL;
}

void channel_ping(struct channel *c, uint64_t after_ns, uint64_t answer_ns, uint64_t pause_ns) {
    c->ping_after_ns = after_ns, c->ping_answer_ns = answer_ns, c->ping_pause_ns = pause_ns;
}

bool channel_was_connected(const struct channel *c) { return c->was_connected; }

/* ---- calls */

static bool call_append(struct channel_call *call, struct slice message) {
    uint8_t head[GRPC_FRAME_HEAD];
    if (message.len > UINT32_MAX || !buf_reserve(&call->out, GRPC_FRAME_HEAD + message.len)) return false;
    grpc_frame_head(head, (uint32_t)message.len);
    return buf_append(&call->out, slice_of(head, sizeof(head))) && buf_append(&call->out, message);
}

#define NV(n, v, vlen) ((nghttp2_nv){(uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, (vlen), NGHTTP2_NV_FLAG_NONE})

static bool call_submit(struct channel_call *call, const char *path) {
    struct link *k = call->link;
    char timeout[16];
    size_t timeout_len = 0;
    if (call->deadline.at_ns) {
        uint64_t now = channel_now_ns();
        timeout_len = grpc_timeout_format(call->deadline.at_ns > now ? call->deadline.at_ns - now : 1, timeout);
    }
    nghttp2_nv headers[] = {
        NV(":method", "POST", 4), NV(":scheme", k->channel->tls ? "https" : "http", k->channel->tls ? 5 : 4), NV(":path", path, strlen(path)),
        NV(":authority", k->channel->target.authority, strlen(k->channel->target.authority)), NV("te", "trailers", 8),
        NV("content-type", "application/grpc", 16), NV("user-agent", "orderdb-c/1", 11), NV("grpc-timeout", timeout, timeout_len),
    };
    size_t count = ARRAY_LEN(headers) - (timeout_len == 0);
    nghttp2_data_provider body = {.source.ptr = call, .read_callback = body_cb};
    int32_t id = nghttp2_submit_request(k->session, NULL, headers, count, &body, call);
    if (id < 0) return false;
    call->stream_id = id;
    return true;
}

struct channel_call *channel_start(struct channel *c, const struct channel_request *r) {
    struct channel_call *call = mem_new(struct channel_call);
    if (!call) return NULL;
    *call = (struct channel_call){.magic = CALL_MAGIC, .loop = c->loop, .http_status = -1, .grpc_status = -1, .deadline.at_ns = r->deadline_ns,
                                  .pushback_ms = CHANNEL_PUSHBACK_NONE, .sending_done = !r->stream, .on_answer = r->on_answer, .on_message = r->on_message, .user = r->user,
                                  .channel = c, .lasts = r->lasts};
    list_init(&call->node), list_init(&call->ready);
    inflow_init(&call->in);
    /* Stream ids of a connection are used up after 2^30 calls: then, too, the next one gets a new link. */
    if (c->active && nghttp2_session_check_request_allowed(c->active->session) == 0) {
        c->active->draining = true;
        c->active = NULL;
    }
    call->link = c->active ? c->active : link_open(c);
    bool ok = call->link && (r->stream || call_append(call, r->message));
    ok = ok && (!r->deadline_ns || deadlines_add(&c->loop->deadlines, &call->deadline));
    if (!ok || !call_submit(call, r->path)) {
        call_free(call);
        return NULL;
    }
    list_push_back(&call->link->calls, &call->node);
    call->link->hurried += !call->lasts;
    return call;
}

bool channel_send(struct channel_call *call, struct slice message) {
    check(call->magic == CALL_MAGIC);
    if (!call->link) return false;
    check(!call->sending_done);
    if (call->out_at) { /* what was taken needs no room */
        memmove(call->out.data, call->out.data + call->out_at, call->out.len - call->out_at);
        call->out.len -= call->out_at;
        call->out_at = 0;
    }
    if (!call_append(call, message)) return false;
    (void)nghttp2_session_resume_data(call->link->session, call->stream_id); /* fails when it is not deferred: it will be read anyway */
    return true;
}

void channel_send_end(struct channel_call *call) {
    check(call->magic == CALL_MAGIC);
    if (!call->link || call->sending_done) return;
    call->sending_done = true;
    (void)nghttp2_session_resume_data(call->link->session, call->stream_id);
}

size_t channel_unsent_bytes(const struct channel_call *call) { return call->out.len - call->out_at; }

void channel_release(struct channel_call *call) {
    check(call->magic == CALL_MAGIC);
    check(call->held);
    call->held = false;
    size_t n = inflow_release(&call->in);
    if (call->dropped) return;
    bool waits = call_has_message(call);
    window_give_back(call, waits ? MIN_OF(n, call->held_bytes) : call->held_bytes);
    if (waits && list_empty(&call->ready)) list_push_back(&call->loop->ready, &call->ready);
    if (waits || call->link) return;
    list_remove(&call->node);
    list_push_back(&call->loop->done, &call->node); /* it lingered for this */
}

void channel_cancel(struct channel_call *call) {
    check(call->magic == CALL_MAGIC);
    call_end_here(call, GRPC_CANCELLED, "cancelled by the caller");
}
