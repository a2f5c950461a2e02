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

/* connect -> HELLO -> WELCOME (proven: id, cores, partitions) -> PROOF, JOIN -> JOINED (a verdict, the nodes)
 *
 * The answer waits for a commit of the meta partition: JOIN_MS. What does not answer in time, or can't be read, is one that does not answer. */
enum { CONNECT_MS = 3000, HELLO_MS = 3000, JOIN_MS = 20000, ROUND_PAUSE_MS = 500, LOG_ROUNDS = 20 };

struct talk {
    int fd;
    struct buf in, out;
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

static bool say(struct talk *t, enum link_kind kind, struct slice body) {
    t->out.len = 0;
    if (!link_write(&t->out, kind, body, false)) return false;
    for (size_t at = 0; at < t->out.len;) {
        ssize_t n = send(t->fd, t->out.data + at, t->out.len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN && wait_for(t->fd, POLLOUT, HELLO_MS)) continue;
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

/* The next frame; it lives until the next one is heard. */
static bool hear(struct talk *t, struct link_frame *f, int timeout_ms) {
    t->in.len = 0;
    for (;;) {
        enum status st = link_read(buf_slice(&t->in), f);
        if (st != STATUS_WOULD_BLOCK) return st == STATUS_OK && !f->packed;
        if (!buf_reserve(&t->in, 4096) || !wait_for(t->fd, POLLIN, timeout_ms)) return false;
        ssize_t n = recv(t->fd, t->in.data + t->in.len, 4096, 0);
        if (n <= 0) return false;
        t->in.len += (size_t)n;
    }
}

static enum status greet(struct talk *t, struct cluster *c, struct join_shape *shape, const struct config *config, char error[512]) {
    struct link_hello own = {.cores = 1, .from = c->identity.node_id, .to = LINK_TO_ANY}, theirs;
    struct slice key = slice_of(c->link_key, sizeof c->link_key);
    uint8_t proof[LINK_PROOF_BYTES], welcome[LINK_HELLO_BYTES];
    struct link_frame f;
    random_bytes(own.nonce, sizeof own.nonce);
    memcpy(own.zone, config->zone, strlen(config->zone));
    link_hello_encode(&own, t->hello);
    if (!say(t, LINK_HELLO, slice_of(t->hello, sizeof t->hello)) || !hear(t, &f, HELLO_MS)) return STATUS_NO_QUORUM;
    if (f.kind != LINK_WELCOME || f.body.len != LINK_HELLO_BYTES + LINK_PROOF_BYTES || link_hello_decode(slice_of(f.body.data, LINK_HELLO_BYTES), &theirs)) return STATUS_NO_QUORUM;
    memcpy(welcome, f.body.data, sizeof welcome);
    link_proof(proof, key, LINK_WELCOME, t->hello, welcome);
    if (!bytes_equal_constant_time(proof, f.body.data + LINK_HELLO_BYTES, sizeof proof))
        return snprintf(error, 512, "--join: node %llu has another --cluster-key-file", (unsigned long long)theirs.from), STATUS_FIELD_INVALID;
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
    st = dial(&t, &to) ? greet(&t, c, shape, config, error) : STATUS_NO_QUORUM;
    if (!st) st = ask(&t, c, config, address, known, error);
    if (t.fd >= 0) close(t.fd);
    buf_fini(&t.in), buf_fini(&t.out);
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
