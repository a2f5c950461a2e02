#include "tests/lib/fake_grpc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/channel.h"
#include "client/inflow.h"
#include "proto/base/buf.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"

struct fake_stream {
    struct list node;
    struct peer *peer;
    int32_t id;
    char path[128], timeout[16];
    struct buf body, out;
    size_t out_at;
    struct fake_reply reply;
    bool handled;
    bool streams, ended; /* streams: FAKE_STREAM; ended: fake_stream_end() */
    struct inflow in;
    void *user; /* fake_stream_user() */
};
struct peer {
    struct list node, streams;
    struct fake_grpc *server;
    int fd;
    bool drop;
    nghttp2_session *session;
};
struct fake_grpc {
    fake_handler *handler;
    void *user;
    bool early;
    int listener, stop_pipe[2];
    uint16_t port;
    pthread_t thread;
    struct list peers;
    nghttp2_session_callbacks *callbacks;
    fake_stream_handler *stream_handler;
    atomic_uint max_streams, connections, resets, pings;
    atomic_ullong streamed_bytes;
};

#define FAKE_NV(n, v) ((nghttp2_nv){(uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE})

static size_t fake_trailers(const struct fake_reply *r, nghttp2_nv *out, char *texts) {
    size_t n = 0;
    int used = snprintf(texts, 16, "%d", r->grpc_status);
    out[n++] = FAKE_NV("grpc-status", texts);
    char *at = texts + used + 1;
    if (r->message[0]) {
        at[grpc_percent_encode(slice_str(r->message), at)] = 0;
        out[n++] = FAKE_NV("grpc-message", at);
        at += strlen(at) + 1;
    }
    if (r->pushback[0]) out[n++] = FAKE_NV("grpc-retry-pushback-ms", r->pushback);
    if (r->details_len) {
        at[base64_encode(slice_of(r->details, r->details_len), at)] = 0;
        out[n++] = FAKE_NV("grpc-status-details-bin", at);
    }
    return n;
}

static ssize_t fake_read_cb(nghttp2_session *session, int32_t id, uint8_t *out, size_t cap, uint32_t *flags, nghttp2_data_source *source, void *user) {
    struct fake_stream *s = source->ptr;
    size_t n = MIN_OF(cap, s->out.len - s->out_at);
    if (n) memcpy(out, s->out.data + s->out_at, n);
    s->out_at += n;
    if (s->streams) s->peer->server->streamed_bytes += n;
    if (s->out_at < s->out.len) return (ssize_t)n;
    if (s->streams && !s->ended) return n ? (ssize_t)n : NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    char texts[4096];
    nghttp2_nv trailers[4]; /* submitted here and not earlier: nghttp2 sends HEADERS before DATA that waits */
    nghttp2_submit_trailer(session, id, trailers, fake_trailers(&s->reply, trailers, texts));
    return (ssize_t)n;
}

static void fake_reply_send(struct fake_stream *s) {
    struct peer *p = s->peer;
    const struct fake_reply *r = &s->reply;
    char texts[4096], status[16];
    nghttp2_nv nv[8] = {FAKE_NV(":status", "200"), FAKE_NV("content-type", "application/grpc")};
    nghttp2_data_provider body = {.source.ptr = s, .read_callback = fake_read_cb};
    switch (r->action) {
    case FAKE_SILENCE: return;
    case FAKE_DROP: p->drop = true; return;
    case FAKE_RESET: nghttp2_submit_rst_stream(p->session, 0, s->id, r->reset_code); return;
    case FAKE_HTTP:
        snprintf(status, sizeof(status), "%d", r->http_status);
        nv[0] = FAKE_NV(":status", status), nv[1] = FAKE_NV("content-type", "text/html");
        nghttp2_submit_response(p->session, s->id, nv, 2, NULL);
        return;
    case FAKE_STATUS_ONLY:
        nghttp2_submit_response(p->session, s->id, nv, 2 + fake_trailers(r, nv + 2, texts), NULL);
        return;
    case FAKE_GOAWAY: nghttp2_submit_goaway(p->session, 0, s->id, NGHTTP2_NO_ERROR, NULL, 0); break;
    case FAKE_STREAM:
        s->streams = true;
        nghttp2_submit_response(p->session, s->id, nv, 2, &body);
        return;
    case FAKE_ANSWER: case FAKE_RAW: break;
    }
    uint8_t head[GRPC_FRAME_HEAD];
    grpc_frame_head(head, (uint32_t)r->body_len);
    bool framed = r->action != FAKE_RAW && r->grpc_status == 0;
    check(!framed || buf_append(&s->out, slice_of(head, sizeof(head))));
    check(buf_append(&s->out, slice_of(r->body, r->body_len)));
    nghttp2_submit_response(p->session, s->id, nv, 2, &body);
}

void fake_stream_send_bytes(struct fake_stream *s, struct slice bytes) {
    check(s->streams && !s->ended && buf_append(&s->out, bytes));
    nghttp2_session_resume_data(s->peer->session, s->id);
}
void fake_stream_send(struct fake_stream *s, struct slice message) {
    uint8_t head[GRPC_FRAME_HEAD];
    grpc_frame_head(head, (uint32_t)message.len);
    fake_stream_send_bytes(s, slice_of(head, sizeof(head)));
    fake_stream_send_bytes(s, message);
}
void fake_stream_end(struct fake_stream *s, int grpc_status, const char *message) {
    s->reply.grpc_status = grpc_status;
    snprintf(s->reply.message, sizeof(s->reply.message), "%s", message);
    s->ended = true;
    nghttp2_session_resume_data(s->peer->session, s->id);
}
void fake_stream_reset(struct fake_stream *s, uint32_t h2_error) { nghttp2_submit_rst_stream(s->peer->session, 0, s->id, h2_error); }
void fake_stream_drop(struct fake_stream *s) { s->peer->drop = true; }
const char *fake_stream_path(const struct fake_stream *s) { return s->path; }
void **fake_stream_user(struct fake_stream *s) { return &s->user; }

/* Whole messages of a stream go to its handler as they come, then the client's half-close (NULL). */
static void fake_stream_feed(struct fake_stream *s, bool half_closed) {
    struct fake_grpc *f = s->peer->server;
    check(inflow_feed(&s->in, buf_slice(&s->body), CHANNEL_MESSAGE_BYTES_MAX) == INFLOW_OK);
    s->body.len = 0;
    for (struct slice m; inflow_first(&s->in, &m); inflow_release(&s->in)) {
        if (!s->ended) f->stream_handler(f->user, s, &m);
    }
    if (half_closed && !s->ended) f->stream_handler(f->user, s, NULL);
}

static void fake_handle(struct fake_stream *s, bool early) {
    if (s->handled) return;
    s->handled = true;
    s->reply = (struct fake_reply){.action = FAKE_ANSWER, .http_status = 200};
    struct fake_request r = {.path = s->path, .timeout = s->timeout, .body = buf_slice(&s->body), .early = early};
    s->peer->server->handler(s->peer->server->user, &r, &s->reply);
    fake_reply_send(s);
}

static int fake_begin_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct peer *p = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct fake_stream *s = mem_new(struct fake_stream);
    check(s);
    s->peer = p, s->id = frame->hd.stream_id;
    inflow_init(&s->in);
    list_push_back(&p->streams, &s->node);
    return nghttp2_session_set_stream_user_data(session, s->id, s);
}

static int fake_header_cb(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_len, const uint8_t *value,
                          size_t value_len, uint8_t flags, void *user) {
    struct fake_stream *s = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (slice_equal(slice_of(name, name_len), SLICE_LIT(":path"))) snprintf(s->path, sizeof(s->path), "%.*s", (int)value_len, (const char *)value);
    if (slice_equal(slice_of(name, name_len), SLICE_LIT("grpc-timeout"))) {
        snprintf(s->timeout, sizeof(s->timeout), "%.*s", (int)value_len, (const char *)value);
    }
    return 0;
}

static int fake_data_cb(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user) {
    struct fake_stream *s = nghttp2_session_get_stream_user_data(session, id);
    check(buf_append(&s->body, slice_of(data, len)));
    return 0;
}

static int fake_frame_cb(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct peer *p = user;
    if (frame->hd.type == NGHTTP2_RST_STREAM) p->server->resets++;
    if (frame->hd.type == NGHTTP2_PING) p->server->pings++;
    struct fake_stream *s = frame->hd.stream_id ? nghttp2_session_get_stream_user_data(session, frame->hd.stream_id) : NULL;
    if (!s) return 0;
    bool half_closed = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (s->streams && !s->ended) fake_stream_feed(s, half_closed);
    else if (half_closed && !s->handled) {
        fake_handle(s, false);
        if (s->streams) fake_stream_feed(s, true);
    }
    else if (frame->hd.type == NGHTTP2_HEADERS && p->server->early) fake_handle(s, true);
    return 0;
}

static int fake_close_cb(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
    struct fake_stream *s = nghttp2_session_get_stream_user_data(session, id);
    if (!s) return 0;
    list_remove(&s->node);
    buf_fini(&s->body), buf_fini(&s->out), inflow_fini(&s->in);
    mem_free(s);
    return 0;
}

static void peer_free(struct peer *p) {
    list_each(it, &p->streams) {
        struct fake_stream *s = list_entry(it, struct fake_stream, node);
        list_remove(it);
        buf_fini(&s->body), buf_fini(&s->out), inflow_fini(&s->in);
        mem_free(s);
    }
    nghttp2_session_del(p->session);
    close(p->fd);
    list_remove(&p->node);
    mem_free(p);
}

static void peer_accept(struct fake_grpc *f) {
    int fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct peer *p = mem_new(struct peer);
    check(p);
    p->server = f, p->fd = fd;
    list_init(&p->streams);
    list_push_back(&f->peers, &p->node);
    check(nghttp2_session_server_new(&p->session, f->callbacks, p) == 0);
    nghttp2_settings_entry max = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, f->max_streams};
    nghttp2_submit_settings(p->session, 0, &max, 1);
    f->connections++;
}

static bool peer_write(struct peer *p) {
    const uint8_t *data;
    for (ssize_t n; (n = nghttp2_session_mem_send(p->session, &data)) != 0;) {
        if (n < 0) return false;
        for (ssize_t at = 0; at < n;) {
            ssize_t w = send(p->fd, data + at, (size_t)(n - at), MSG_NOSIGNAL);
            if (w <= 0) return false;
            at += w;
        }
    }
    return !p->drop;
}

static bool peer_turn(struct peer *p, short events) {
    uint8_t bytes[16384];
    if (!(events & (POLLIN | POLLHUP | POLLERR))) return true;
    ssize_t n = recv(p->fd, bytes, sizeof(bytes), 0);
    return n > 0 && nghttp2_session_mem_recv(p->session, bytes, (size_t)n) == n && peer_write(p);
}

static void *fake_thread(void *arg) {
    struct fake_grpc *f = arg;
    for (;;) {
        struct pollfd polls[66] = {{.fd = f->stop_pipe[0], .events = POLLIN}, {.fd = f->listener, .events = POLLIN}};
        struct peer *peers[66];
        nfds_t n = 2;
        list_each(it, &f->peers) {
            check(n < ARRAY_LEN(polls));
            peers[n] = list_entry(it, struct peer, node);
            polls[n] = (struct pollfd){.fd = peers[n]->fd, .events = POLLIN};
            n++;
        }
        if (poll(polls, n, -1) < 0) continue;
        if (polls[0].revents) break;
        for (nfds_t i = 2; i < n; i++) {
            if (polls[i].revents && !peer_turn(peers[i], polls[i].revents)) peer_free(peers[i]);
        }
        if (polls[1].revents) peer_accept(f);
    }
    list_each(it, &f->peers) peer_free(list_entry(it, struct peer, node));
    return NULL;
}

struct fake_grpc *fake_grpc_start(fake_handler *handler, void *user, bool early, uint16_t port) {
    struct fake_grpc *f = mem_new(struct fake_grpc);
    check(f);
    f->handler = handler, f->user = user, f->early = early, f->max_streams = 100;
    list_init(&f->peers);
    check(nghttp2_session_callbacks_new(&f->callbacks) == 0);
    nghttp2_session_callbacks_set_on_begin_headers_callback(f->callbacks, fake_begin_cb);
    nghttp2_session_callbacks_set_on_header_callback(f->callbacks, fake_header_cb);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(f->callbacks, fake_data_cb);
    nghttp2_session_callbacks_set_on_frame_recv_callback(f->callbacks, fake_frame_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(f->callbacks, fake_close_cb);
    f->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    check(setsockopt(f->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    socklen_t len = sizeof(a);
    check(bind(f->listener, (struct sockaddr *)&a, sizeof(a)) == 0);
    check(listen(f->listener, 64) == 0);
    check(getsockname(f->listener, (struct sockaddr *)&a, &len) == 0);
    f->port = ntohs(a.sin_port);
    check(pipe(f->stop_pipe) == 0);
    check(pthread_create(&f->thread, NULL, fake_thread, f) == 0);
    return f;
}

uint16_t fake_grpc_port(const struct fake_grpc *f) { return f->port; }
void fake_grpc_set_max_streams(struct fake_grpc *f, uint32_t n) { f->max_streams = n; }
unsigned fake_grpc_connections(const struct fake_grpc *f) { return f->connections; }
void fake_grpc_on_stream(struct fake_grpc *f, fake_stream_handler *handler) { f->stream_handler = handler; }
uint64_t fake_grpc_streamed_bytes(const struct fake_grpc *f) { return f->streamed_bytes; }
unsigned fake_grpc_pings(const struct fake_grpc *f) { return f->pings; }
unsigned fake_grpc_resets(const struct fake_grpc *f) { return f->resets; }

void fake_grpc_stop(struct fake_grpc *f) {
    check(write(f->stop_pipe[1], "x", 1) == 1);
    pthread_join(f->thread, NULL);
    close(f->stop_pipe[0]), close(f->stop_pipe[1]), close(f->listener);
    nghttp2_session_callbacks_del(f->callbacks);
    mem_free(f);
}
