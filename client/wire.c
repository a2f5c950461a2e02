#include "client/wire.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/channel.h"
#include "proto/tls.h"

enum {
    SEND_BYTES = 64 << 10,  /* gathered before one send() */
    RECORD_BYTES = 4 << 10, /* of TLS's own words at a time */
    TCP_UNSENT_TIMEOUT_MS = 10000,
};
#define CONNECT_NS (3 * NS_PER_S) /* per address, before the next one is tried */

bool wire_init(struct wire *w, const struct wire_above *above, const struct target *target, struct tls_source *source, const char *server_name) {
    *w = (struct wire){.fd = -1, .above = *above, .target = target, .heard_ns = channel_now_ns()};
    if (source) w->tls = tls_new(source, server_name);
    return !source || w->tls;
}

void wire_fini(struct wire *w) {
    if (w->fd >= 0) close(w->fd);
    if (w->addresses) freeaddrinfo(w->addresses);
    tls_free(w->tls);
    buf_fini(&w->plain), buf_fini(&w->out);
}

void wire_note(struct wire *w, const char *what, const char *why) { snprintf(w->note, sizeof(w->note), "%s %s: %s", what, w->target->authority, why); }

static bool wire_lost(struct wire *w, const char *why) { return wire_note(w, "lost the connection to", why), false; }

/* ---- connecting */

/* Starts to connect to w->address or, where that fails at once, to one after it. */
static bool wire_connect(struct wire *w) {
    int error = EADDRNOTAVAIL;
    for (; w->address; w->address = w->address->ai_next) {
        w->fd = socket(w->address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (w->fd < 0) {
            error = errno;
            continue;
        }
        int on = 1, unsent_ms = TCP_UNSENT_TIMEOUT_MS;
        (void)setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        (void)setsockopt(w->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unsent_ms, sizeof(unsent_ms));
        w->connect_deadline_ns = channel_now_ns() + CONNECT_NS;
        if (connect(w->fd, w->address->ai_addr, w->address->ai_addrlen) == 0 || errno == EINPROGRESS) return true;
        error = errno;
        close(w->fd);
        w->fd = -1;
    }
    wire_note(w, "cannot connect to", strerror(error));
    return false;
}

bool wire_start(struct wire *w) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    int e = getaddrinfo(w->target->host, w->target->port, &hints, &w->addresses);
    if (e) return wire_note(w, "cannot look up", gai_strerror(e)), false;
    w->address = w->addresses;
    return wire_connect(w);
}

bool wire_connect_next(struct wire *w, int error) {
    close(w->fd);
    w->fd = -1;
    w->address = w->address->ai_next;
    if (w->address && wire_connect(w)) return true;
    wire_note(w, "cannot connect to", strerror(error));
    return false;
}

static bool wire_feed(struct wire *w, struct slice bytes);

bool wire_connected(struct wire *w) {
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0) error = errno;
    if (error) return wire_connect_next(w, error);
    w->connected = true;
    w->heard_ns = channel_now_ns();
    if (w->tls) return wire_feed(w, (struct slice){0}); /* the client speaks first */
    w->heard = true;
    return true;
}

/* ---- out */

/* What TLS has to say, then what was pulled, as records. false: no memory. */
static bool wire_encrypt(struct wire *w) {
    while (tls_wants_output(w->tls)) {
        if (!buf_reserve(&w->out, RECORD_BYTES)) return false;
        struct writer o = writer_of(w->out.data + w->out.len, RECORD_BYTES);
        tls_output(w->tls, &o);
        w->out.len += o.len;
    }
    if (w->plain.len == 0) return true;
    size_t room = tls_room(w->plain.len);
    if (!buf_reserve(&w->out, room)) return false;
    struct writer o = writer_of(w->out.data + w->out.len, room);
    if (!tls_encrypt(w->tls, buf_slice(&w->plain), &o)) return false;
    w->out.len += o.len;
    w->plain.len = 0;
    return true;
}

/* Lets the session serialize until there is enough for one send. false: no memory. */
static bool wire_gather(struct wire *w) {
    struct buf *to = w->tls ? &w->plain : &w->out;
    bool may_talk = !w->tls || tls_established(w->tls);
    while (may_talk && w->out.len - w->out_at + w->plain.len < SEND_BYTES) {
        const uint8_t *data;
        ssize_t n = w->above.pull(w->above.user, &data);
        if (n < 0 || (n > 0 && !buf_append(to, slice_of(data, (size_t)n)))) return false;
        if (n == 0) break;
    }
    return !w->tls || wire_encrypt(w);
}

bool wire_write(struct wire *w) {
    w->want_write = false;
    if (!w->connected) return true;
    for (;;) {
        if (!wire_gather(w)) return wire_note(w, "lost", "no memory to send"), false;
        if (w->out_at == w->out.len) {
            w->out.len = w->out_at = 0;
            return true;
        }
        ssize_t n = send(w->fd, w->out.data + w->out_at, w->out.len - w->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return w->want_write = true;
        if (n < 0) return wire_lost(w, strerror(errno));
        w->out_at += (size_t)n;
        if (w->out_at == w->out.len) w->out.len = w->out_at = 0;
    }
}

const char *wire_tls_error(const struct wire *w) { return w->tls ? tls_error(w->tls) : NULL; }
bool wire_is_flushed(const struct wire *w) { return w->out.len == 0; }

void wire_say_farewell(struct wire *w) {
    if (!w->connected) return;
    if (w->tls && wire_write(w)) tls_close(w->tls);
    (void)!wire_write(w);
}

/* ---- in */

static bool wire_feed_plain_cb(void *user, struct slice plain) {
    struct wire *w = user;
    w->heard = true;
    if (!w->above.feed(w->above.user, plain)) w->broken = true;
    return !w->broken;
}

static bool wire_feed(struct wire *w, struct slice bytes) {
    if (!w->tls) return wire_feed_plain_cb(w, bytes);
    bool goes_on = tls_feed(w->tls, bytes, wire_feed_plain_cb, w);
    if (w->broken || goes_on) return !w->broken;
    wire_note(w, w->heard ? "lost the connection to" : "cannot connect to", tls_error(w->tls) ? tls_error(w->tls) : "closed by the server");
    if (wire_encrypt(w) && w->out.len > w->out_at) (void)!send(w->fd, w->out.data + w->out_at, w->out.len - w->out_at, MSG_NOSIGNAL); /* the alert, if it goes */
    return false;
}

bool wire_read(struct wire *w, uint8_t *into, size_t cap, unsigned reads) {
    for (unsigned i = 0; i < reads; i++) {
        ssize_t n = recv(w->fd, into, cap, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return true;
        if (n < 0) return wire_lost(w, strerror(errno));
        if (n == 0) return wire_lost(w, "closed by the server");
        w->heard_ns = channel_now_ns();
        if (!wire_feed(w, slice_of(into, (size_t)n))) return false;
        if ((size_t)n < cap) return true;
    }
    return true;
}
