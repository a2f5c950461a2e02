#include "server/join.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/peer_tls.h"

/* connect -> [TLS] -> HELLO -> WELCOME (proven: id, cores, partitions) -> PROOF, JOIN -> JOINED (a verdict, the nodes)
 *
 * The answer waits for a commit of the meta partition: JOIN_MS. What does not answer in time, or can't be read, is one that does not answer; so is one that says it is not ready, or of another
 * cluster, which is what a node says that is not ready. TLS that fails, cleartext where there should be TLS, and a certificate of another node end the start: asking again would not mend them. */
enum { CONNECT_MS = 3000, HELLO_MS = 3000, JOIN_MS = 20000, ROUND_PAUSE_MS = 500, LOG_ROUNDS = 20 };

struct talk {
    int fd;
    struct tls *tls; /* NULL: cleartext */
    bool heard, ended; /* ended: by its TLS */
    struct buf in, out, records;
    uint8_t hello[LINK_HELLO_BYTES];
};

static bool wait_for(int fd, short events, int timeout_ms) {
    struct pollfd p = {.fd = fd, .events = events};
    return poll(&p, 1, timeout_ms) == 1;
}

static bool dial(struct talk *t, const struct address *a) {
    int on = 1, err = 0;
    socklen_t len = sizeof err;
    t->fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (t->fd < 0) return false;
    (void)setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(t->fd, (const struct sockaddr *)&a->sa, a->len) == 0) return true;
    if (errno != EINPROGRESS || !wait_for(t->fd, POLLOUT, CONNECT_MS)) return false;
    return getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err == 0;
}

static bool send_all(struct talk *t, struct buf *b) {
    for (size_t at = 0; at < b->len;) {
        ssize_t n = send(t->fd, b->data + at, b->len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN && wait_for(t->fd, POLLOUT, HELLO_MS)) continue;
        if (n <= 0) return false;
        at += (size_t)n;
    }
    b->len = 0;
    return true;
}

static bool say(struct talk *t, enum link_kind kind, struct slice body) {
    t->out.len = 0;
    if (t->ended || !link_write(&t->out, kind, body, false)) return false;
    if (!t->tls) return send_all(t, &t->out);
    return tls_write(t->tls, buf_slice(&t->out), &t->records) && send_all(t, &t->records);
}

static bool on_plain(void *owner, struct slice bytes) { return buf_append(&((struct talk *)owner)->in, bytes); }

/* More of what it says, into `in`. */
static bool take(struct talk *t, int timeout_ms) {
    uint8_t bytes[4096];
    ssize_t n = wait_for(t->fd, POLLIN, timeout_ms) ? recv(t->fd, bytes, sizeof bytes, 0) : 0;
    struct slice got = slice_of(bytes, n > 0 ? (size_t)n : 0);
    if (n <= 0) return false;
    if (t->tls && !t->heard && !link_looks_like_tls(got)) tls_free(t->tls), t->tls = NULL; /* it refuses us in cleartext */
    t->heard = true;
    if (!t->tls) return buf_append(&t->in, got);
    t->ended = !tls_feed(t->tls, got, on_plain, t);
    return tls_write(t->tls, (struct slice){0}, &t->records) && (send_all(t, &t->records) || t->ended);
}

/* The next frame; it lives until the next one is heard. */
static bool hear(struct talk *t, struct link_frame *f, int timeout_ms) {
    t->in.len = 0;
    for (;;) {
        enum status st = link_read(buf_slice(&t->in), f);
        if (st != STATUS_WOULD_BLOCK) return st == STATUS_OK && !f->packed;
        if (t->ended || !take(t, timeout_ms)) return false;
    }
}

/* It is asked again, or, if that would not help, not: then error[] says why. f: what it said in the place of what was expected; NULL: nothing. */
static enum status failed(const struct talk *t, const struct link_frame *f, const char *who, char error[512]) {
    const char *tls = t->tls ? tls_error(t->tls) : NULL;
    uint8_t why = f && f->kind == LINK_REFUSED && f->body.len == 1 ? f->body.data[0] : LINK_TAKEN;
    if (why == LINK_WANTS_TLS || why == LINK_WANTS_CLEARTEXT || why == LINK_OTHER_CERTIFICATE || why == LINK_OTHER_REPLICAS) tls = link_refusal_text((enum link_refusal)why);
    return tls ? (snprintf(error, 512, "--join %.150s: %.300s", who, tls), STATUS_FIELD_INVALID) : STATUS_NO_QUORUM;
}

/* Its certificate has to be of one of our nodes; of which, its WELCOME says. */
static enum status secure(struct talk *t, const struct cluster *c, const char *who, char error[512]) {
    struct link_frame f = {0};
    if (!c->tls) return STATUS_OK;
    if (!(t->tls = peer_tls_new(c->tls, LINK_TO_ANY))) return STATUS_NO_QUORUM;
    if (!tls_feed(t->tls, (struct slice){0}, on_plain, t) || !tls_write(t->tls, (struct slice){0}, &t->records) || !send_all(t, &t->records)) return failed(t, NULL, who, error);
    while (t->tls && !tls_established(t->tls))
        if (t->ended || !take(t, HELLO_MS)) return failed(t, NULL, who, error);
    if (t->tls) return STATUS_OK;
    bool told = link_read(buf_slice(&t->in), &f) == STATUS_OK;
    return failed(t, told ? &f : NULL, who, error);
}

static enum status greet(struct talk *t, struct cluster *c, struct join_shape *shape, const struct config *config, const char *who, char error[512]) {
    struct link_hello own = {.cores = 1, .from = c->identity.node_id, .to = LINK_TO_ANY}, theirs;
    uint8_t proof[LINK_PROOF_BYTES], welcome[LINK_HELLO_BYTES], bound[LINK_PROOF_BYTES];
    struct slice key = slice_of(t->tls ? bound : c->link_key, sizeof bound);
    struct link_frame f;
    if (t->tls && !peer_tls_key(t->tls, c->link_key, bound)) return STATUS_NO_QUORUM;
    random_bytes(own.nonce, sizeof own.nonce);
    memcpy(own.zone, config->zone, strlen(config->zone));
    own.replicas = c->replicas, own.replace_after_ms = (uint32_t)config->replace_after;
    link_hello_encode(&own, t->hello);
    if (!say(t, LINK_HELLO, slice_of(t->hello, sizeof t->hello)) || !hear(t, &f, HELLO_MS)) return failed(t, NULL, who, error);
    if (f.kind == LINK_REFUSED) return failed(t, &f, who, error);
    if (f.kind != LINK_WELCOME || f.body.len != LINK_HELLO_BYTES + LINK_PROOF_BYTES || link_hello_decode(slice_of(f.body.data, LINK_HELLO_BYTES), &theirs)) return STATUS_NO_QUORUM;
    memcpy(welcome, f.body.data, sizeof welcome);
    link_proof(proof, key, LINK_WELCOME, t->hello, welcome);
    if (!bytes_equal_constant_time(proof, f.body.data + LINK_HELLO_BYTES, sizeof proof))
        return snprintf(error, 512, "--join: node %llu has another --cluster-key-file", (unsigned long long)theirs.from), STATUS_FIELD_INVALID;
    if (t->tls && !peer_tls_is(t->tls, theirs.from)) return snprintf(error, 512, "--join %.150s says that it is node %llu, and its certificate is not that node's", who, (unsigned long long)theirs.from), STATUS_FIELD_INVALID;
    link_proof(proof, key, LINK_PROOF, t->hello, welcome);
    if (!say(t, LINK_PROOF, slice_of(proof, sizeof proof))) return STATUS_NO_QUORUM;
    memcpy(c->identity.cluster_id, theirs.cluster_id, sizeof c->identity.cluster_id);
    *shape = (struct join_shape){theirs.cores, theirs.partitions};
    return STATUS_OK;
}

static enum status ask(struct talk *t, struct cluster *c, const struct config *config, const char *address, bool known, char error[512]) {
    uint8_t bytes[2 + LINK_ZONE_BYTES + 2 + NODE_ADDRESS_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct link_frame f;
    write_counted(&w, slice_str(config->zone)), write_counted(&w, slice_str(address));
    check(!w.full);
    if (!say(t, LINK_JOIN, writer_slice(&w)) || !hear(t, &f, JOIN_MS) || f.kind != LINK_JOINED) return STATUS_NO_QUORUM;
    struct reader r = reader_of(f.body);
    uint8_t verdict = read_u8(&r);
    struct slice text = read_counted(&r);
    if (r.bad || (verdict != LINK_JOINED_NOW && !text.len)) return STATUS_NO_QUORUM;
    if (verdict != LINK_JOINED_NOW && !(verdict == LINK_JOINED_BEFORE && known)) return snprintf(error, 512, "--join: %.*s", (int)MIN_OF(text.len, 400), (const char *)text.data), STATUS_NODE_STATE;
    for (struct node_row row; node_founder_next(&r, &row);) cluster_learn_node(c, row.node_id, 0, row.zone, row.address);
    return r.bad ? STATUS_NO_QUORUM : STATUS_OK;
}

static enum status ask_one(struct cluster *c, struct join_shape *shape, const struct config *config, const char *who, const char *address, bool known, char error[512]) {
    struct talk t = {.fd = -1};
    struct address to;
    char why[256];
    enum status st = address_parse(&to, who, why);
    if (st) return snprintf(error, 512, "--join: %s", why), STATUS_FIELD_INVALID;
    st = dial(&t, &to) ? secure(&t, c, who, error) : STATUS_NO_QUORUM;
    if (!st) st = greet(&t, c, shape, config, who, error);
    if (!st) st = ask(&t, c, config, address, known, error);
    if (t.fd >= 0) close(t.fd);
    tls_free(t.tls);
    buf_fini(&t.in), buf_fini(&t.out), buf_fini(&t.records);
    return st;
}

/* All of them, until one answers for good. */
static enum status round_of(struct cluster *c, struct join_shape *shape, const struct config *config, const char *address, bool known, char error[512]) {
    char list[sizeof config->join], *rest = list;
    enum status st = STATUS_NO_QUORUM;
    memcpy(list, config->join, sizeof list);
    for (char *one; st == STATUS_NO_QUORUM && (one = strsep(&rest, ","));) st = ask_one(c, shape, config, one, address, known, error);
    return st;
}

/* The main thread takes signals by waiting for them: none is lost here, but somebody has to look. */
static bool is_told_to_end(void) {
    sigset_t pending;
    return sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1);
}

enum status join_ask(struct cluster *c, struct join_shape *shape, const struct config *config, const char *address, bool known, char error[512]) {
    for (unsigned rounds = 0;; rounds++) {
        enum status st = round_of(c, shape, config, address, known, error);
        if (st == STATUS_OK) log_info("joined", "cores=%u partitions=%u nodes=%u", shape->cores, shape->partitions, cluster_count(c));
        if (st != STATUS_NO_QUORUM || known) return st;
        if (is_told_to_end()) return snprintf(error, 512, "--join: no node has answered, and this one is told to end"), STATUS_CANCELLED;
        if (rounds % LOG_ROUNDS == 0) log_warn("no node answers: asked again", "join=%s", config->join);
        struct timespec pause = {.tv_nsec = ROUND_PAUSE_MS * 1000000l};
        nanosleep(&pause, NULL);
    }
}
