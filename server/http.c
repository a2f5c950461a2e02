#include "server/http.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "server/core.h"

/* One connection:
 *
 *   READ --head complete--> HANDLE --http_respond--> SEND --> CLOSE --> free
 *     |  bad head: 400, too long: 431, other methods: 405 ----^
 *     '--end of input, error, timeout: CLOSE
 *
 * The memory goes when no ring request and no handler holds the connection any more: x->holds counts them. */

enum http_state { HTTP_READ, HTTP_HANDLE, HTTP_SEND, HTTP_CLOSE };

struct http_exchange {
    struct list link;
    struct http *http;
    enum http_state state;
    int fd;
    unsigned holds;
    bool receiving, head_only, closing;
    struct ring_op receive, send, close;
    struct timer timer;
    struct buf out;
    size_t in_len;
    uint8_t in[HTTP_REQUEST_BYTES_MAX];
};

struct http {
    struct core *core;
    void (*handle)(void *ctx, struct http_exchange *x, struct slice path);
    void *ctx;
    struct list exchanges;
    unsigned count;
    bool stopping;
};

/* ---- the parser */

static bool token(struct slice s) {
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] <= ' ' || s.data[i] >= 0x7f) return false;
    return s.len > 0;
}

static struct slice until(struct slice *s, uint8_t c) {
    const uint8_t *p = s->len ? memchr(s->data, c, s->len) : NULL;
    size_t n = p ? (size_t)(p - s->data) : s->len;
    struct slice head = slice_of(s->data, n);
    n += p != NULL;
    *s = slice_of(s->data + n, s->len - n);
    return head;
}

enum http_parse http_parse(struct slice in, struct http_request *out) {
    *out = (struct http_request){0};
    const uint8_t *end = in.len ? memmem(in.data, in.len, "\r\n\r\n", 4) : NULL;
    /* A first byte that begins no method: say so before 8 KiB of it came. */
    if (in.len && (in.data[0] < 'A' || in.data[0] > 'Z')) return HTTP_PARSE_BAD;
    if (!end) return HTTP_PARSE_MORE;
    out->bytes = (size_t)(end - in.data) + 4;
    struct slice line = slice_of(in.data, (size_t)((const uint8_t *)memchr(in.data, '\r', in.len) - in.data));
    out->method = until(&line, ' ');
    struct slice target = until(&line, ' ');
    out->path = until(&target, '?');
    if (!token(out->method) || !token(out->path) || out->path.data[0] != '/') return HTTP_PARSE_BAD;
    bool known = slice_equal(line, SLICE_LIT("HTTP/1.1")) || slice_equal(line, SLICE_LIT("HTTP/1.0"));
    return known ? HTTP_PARSE_OK : HTTP_PARSE_BAD;
}

/* ---- connections */

static void drop(struct http_exchange *x) {
    if (x->holds) return;
    timer_clear(&x->http->core->timers, &x->timer);
    list_remove(&x->link);
    x->http->count--;
    buf_fini(&x->out);
    mem_free(x);
}

static void on_closed(struct ring_op *op, int32_t result, bool more) {
    struct http_exchange *x = container_of(op, struct http_exchange, close);
    x->holds--;
    drop(x);
}

static void close_it(struct http_exchange *x) {
    if (x->closing) return;
    x->closing = true;
    x->state = HTTP_CLOSE;
    if (x->receiving) ring_cancel(x->http->core->ring, &x->receive);
    x->holds++;
    x->close.done = on_closed;
    ring_shutdown_close(x->http->core->ring, &x->close, x->fd);
}

static void on_timer(struct timer *t) { close_it(container_of(t, struct http_exchange, timer)); }

static void on_sent(struct ring_op *op, int32_t result, bool more) {
    struct http_exchange *x = container_of(op, struct http_exchange, send);
    x->holds--;
    close_it(x);
    drop(x);
}

static const char *reason(unsigned code) {
    switch (code) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Internal Server Error";
    }
}

void http_respond(struct http_exchange *x, unsigned code, const char *content_type, struct buf *body) {
    check(x->state == HTTP_HANDLE || x->state == HTTP_CLOSE);
    x->holds--; /* the handler's */
    struct buf taken = *body;
    *body = (struct buf){0};
    if (code >= 400 && code < 500) metric_add(&x->http->core->metrics, METRIC_HTTP_REFUSED, 1);
    char head[256];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n%s\r\n", code, reason(code), content_type,
                     taken.len, code == 405 ? "Allow: GET, HEAD\r\n" : "");
    bool ok = x->state == HTTP_HANDLE && buf_append(&x->out, slice_of(head, (size_t)n)) && (x->head_only || buf_append(&x->out, buf_slice(&taken)));
    buf_fini(&taken);
    if (!ok) {
        close_it(x);
        drop(x);
        return;
    }
    x->state = HTTP_SEND;
    x->holds++;
    x->send.done = on_sent;
    ring_send(x->http->core->ring, &x->send, x->fd, x->out.data, x->out.len);
}

void http_respond_text(struct http_exchange *x, unsigned code, const char *text) {
    struct buf body = {0};
    if (!buf_append(&body, slice_str(text))) code = 503;
    http_respond(x, code, "text/plain; charset=utf-8", &body);
}

static void refuse(struct http_exchange *x, unsigned code, const char *text) {
    x->state = HTTP_HANDLE;
    x->holds++;
    http_respond_text(x, code, text);
}

static void handle(struct http_exchange *x, const struct http_request *rq) {
    x->state = HTTP_HANDLE;
    x->holds++;
    x->http->handle(x->http->ctx, x, rq->path);
}

static void on_input(struct http_exchange *x) {
    struct http_request rq;
    enum http_parse p = http_parse(slice_of(x->in, x->in_len), &rq);
    if (p == HTTP_PARSE_MORE && x->in_len < sizeof x->in) return;
    metric_add(&x->http->core->metrics, METRIC_HTTP_REQUESTS, 1);
    if (p == HTTP_PARSE_MORE) return refuse(x, 431, "request head too large\n");
    if (p == HTTP_PARSE_BAD) return refuse(x, 400, "not an HTTP/1.1 request\n");
    x->head_only = slice_equal(rq.method, SLICE_LIT("HEAD"));
    if (!x->head_only && !slice_equal(rq.method, SLICE_LIT("GET"))) return refuse(x, 405, "GET and HEAD only\n");
    handle(x, &rq);
}

static void on_received(struct ring_op *op, int32_t result, bool more) {
    struct http_exchange *x = container_of(op, struct http_exchange, receive);
    struct ring *ring = x->http->core->ring;
    x->holds++; /* ours, until the end of this function */
    if (!more) x->receiving = false, x->holds--;
    if (result > 0) {
        uint16_t id;
        struct slice s = ring_buffer(ring, op, result, &id);
        size_t n = MIN_OF(s.len, sizeof x->in - x->in_len);
        if (x->state == HTTP_READ) memcpy(x->in + x->in_len, s.data, n), x->in_len += n;
        ring_buffer_put(ring, id);
        if (x->state == HTTP_READ) on_input(x);
    }
    if (!more && x->state == HTTP_READ && (result > 0 || result == -ENOBUFS)) {
        x->receiving = true, x->holds++;
        ring_receive(ring, &x->receive, x->fd);
    } else if (!more && x->state == HTTP_READ) {
        close_it(x);
    }
    x->holds--;
    drop(x);
}

void http_accept(struct http *h, int fd) {
    struct http_exchange *x = h->count < HTTP_CONNECTIONS_MAX && !h->stopping ? mem_new(struct http_exchange) : NULL;
    if (!x || !(x->timer.fire = on_timer, timer_set(&h->core->timers, &x->timer, h->core->now_ns + HTTP_TIMEOUT_S * NS_PER_S))) {
        mem_free(x);
        metric_add(&h->core->metrics, METRIC_HTTP_REFUSED, 1);
        close(fd);
        return;
    }
    x->http = h;
    x->fd = fd;
    x->state = HTTP_READ;
    x->receive.done = on_received;
    x->receive.urgent = true; /* operators look in when all is full */
    list_push_back(&h->exchanges, &x->link);
    h->count++;
    x->receiving = true, x->holds++;
    ring_receive(h->core->ring, &x->receive, fd);
}

/* ---- the server */

struct http *http_new(struct core *core, void (*handler)(void *ctx, struct http_exchange *x, struct slice path), void *ctx) {
    struct http *h = mem_new(struct http);
    if (!h) return NULL;
    h->core = core, h->handle = handler, h->ctx = ctx;
    list_init(&h->exchanges);
    return h;
}

void http_stop(struct http *h) {
    h->stopping = true;
    list_each(l, &h->exchanges) {
        struct http_exchange *x = list_entry(l, struct http_exchange, link);
        if (x->state == HTTP_READ) close_it(x); /* answers under way may finish */
    }
}

bool http_idle(const struct http *h) { return h->count == 0; }

void http_free(struct http *h) {
    if (!h) return;
    check(h->count == 0);
    mem_free(h);
}
