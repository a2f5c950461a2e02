/* conn: a socket between the ring and h2.
 *
 *   ring_receive (multishot) --> on_received --> conn_input  --> [tls_feed] ----> h2_feed
 *   ring_send    <-- conn_flush  <------------- conn_output <-- [tls_encrypt] <-- h2_output
 *
 * Output. Whoever has something to say puts the connection on core->flush; conn_flush_all, at the end of the cycle, fills one buffer and sends it. One send is
 * in flight per connection; what comes meanwhile waits in h2 (streams and control frames are bounded there) for the completion. Buffers come from a pool and
 * go back with the completion, so an idle connection holds none.
 *
 * Life. CONN_OPEN -> CONN_CLOSING (no more input, no more h2; its calls are told) -> freed when receive, send and close have all completed.
 * Closing is shutdown + close, which ends the receive and a stuck send. Nothing closes a connection from inside h2 or a call: they set an error that the flush finds.
 *
 * One timer. It looks at everything that can be late: handshake, first request, idle, keepalive, a send, half a frame; slow streams through h2_sweep. While calls are open it
 * runs every TICK; else at the one deadline that is next.
 *
 * What a limit ends is counted by its reason (cuts.tbl) and logged with the peer's address: conn_tell.
 *
 * TLS. Both ends of it are memory (proto/tls.h): what comes in is fed and its plain text goes on to h2; going out, h2 fills the core's one scratch buffer, which is
 * encrypted into the connection's output. h2 is not asked before the handshake has ended, which has its own time-out and its own limit.
 *
 * Memory of a connection: struct conn + h2's counted heap (176 KiB at most) + one output buffer (64 KiB) < 256 KiB; with TLS 33 KiB more, and 64 KiB of answers
 * to a handshake that the peer does not read, at most. */
#include "server/conn.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <errno.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/tls.h"
#include "server/door.h"
#include "server/limits.h"
#include "server/listen.h"
#include "server/node.h"

/* Bytes that the kernel takes for us and has not sent: beyond it a send waits. Without it a peer that does not read has megabytes of answers made for it, and kernel memory to hold them, before
 * anybody sees that it is slow. What is on its way to a distant peer is not meant, so this costs no throughput. */
enum { UNSENT_BYTES_MAX = 128 << 10 };
enum { CONN_MAGIC = 0x434f4e4e, OUTPUT_BYTES = 64 << 10, PLAIN_BYTES = 60 << 10, OUTPUT_IDLE_MAX = 64, STREAM_BYTES = 1024, FRAME_BYTES_MAX = 16384 };
static_assert(PLAIN_BYTES >= (int)H2_OUTPUT_BYTES_MIN, "h2 can always make a frame");
static_assert(PLAIN_BYTES + (PLAIN_BYTES / 16384 + 2) * 64 <= OUTPUT_BYTES, "what h2 fills fits when it is encrypted (tls_room)");
#define TICK_NS (2 * NS_PER_S)
#define WARN_NS (10 * NS_PER_S)

const struct conn_limits conn_limits_default = {
    .connections_max = 10000,
    .first_request_ns = 5 * NS_PER_S,
    .idle_ns = 600 * NS_PER_S,
    .keepalive_ns = 60 * NS_PER_S,
    .drain_notice_ns = 500 * NS_PER_MS,
    .handshake_ns = 5 * NS_PER_S,
    .handshakes_max = 1000,
    .h2 = {
        .streams_max = 128,
        .stream_window_bytes = 256 * KIB,
        .connection_window_bytes = 1 * MIB,
        .header_bytes_max = 16 * KIB,
        .memory_bytes_max = 176 * KIB,
        .calm = {.reset_burst = 1000, .reset_per_s = 33, .control_burst = 2000, .control_per_s = 100, .ping_interval_ns = 10 * NS_PER_S, .continuations_max = 8},
        .bytes_per_s_min = 4 * KIB,
        .grace_ns = 10 * NS_PER_S,
        .transfer_ns = 120 * NS_PER_S,
        .stall_ns = 30 * NS_PER_S,
    },
    .call = {
        .message_bytes_max = 4 << 20,
        .header_bytes_max = 16 * KIB,
        .timeout_ns_max = 3600 * NS_PER_S,
        .arena_bytes_max = 16 * MIB,
        .memory_bytes_max = 128 * MIB,
        .live_max = 16384,
        .idle_max = 512,
    },
};

static const struct {
    const char *action, *reason, *help;
    bool hostile;
} cuts[CUT_COUNT] = {
#define CUT(id, action, reason, hostile, help) [CUT_##id] = {action, reason, help, hostile},
#include "server/cuts.tbl"
#undef CUT
};

struct output {
    struct list link; /* among the idle */
    uint8_t data[OUTPUT_BYTES];
};

struct conns {
    struct conn_limits limits;
    struct list idle_outputs;
    uint32_t idle_output_count, output_count, handshake_count;
    uint8_t *plain; /* PLAIN_BYTES, with TLS: on the way from h2 to encryption */
    uint64_t warned_ns; /* when a line at warn was last written; 0: never */
    uint32_t untold;    /* hostile cuts since then */
};

enum conn_state { CONN_OPEN, CONN_CLOSING };

struct conn {
    uint32_t magic;
    enum conn_state state;
    struct core *core;
    struct list link;       /* core->connections */
    struct list flush_link; /* core->flush, when there may be output */
    struct h2 *h2;          /* NULL when closing */
    struct tls *tls;        /* NULL: cleartext, or closing */
    bool in_handshake;      /* counted in handshake_count */
    struct visitor *visitor; /* NULL: no door */
    bool worked;             /* the door knows that it has had a call served */
    union {
        _Alignas(struct sockaddr_storage) struct sockaddr any; /* address_format reads it as one */
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } peer;
    int fd;
    struct ring_op receive, send, close;
    bool receiving, sending, close_pending;
    bool pinged, rested, ending, told; /* ending: close once what h2 has is sent; told: why, already */
    struct output *output; /* while sending */
    struct timer timer;
    uint64_t accepted_ns, received_ns, send_begun_ns;
    uint64_t busy_ns;  /* when a call was last open */
    uint64_t final_ns; /* when the second GOAWAY is due; 0: none */
};

static struct conn *conn_checked(struct conn *c) {
    check(c->magic == CONN_MAGIC);
    return c;
}

/* ---- pools */
bool conn_open_with(struct core *core, const struct conn_limits *limits) {
    check(!core->conns);
    struct conns *cs = mem_new(struct conns);
    struct calls *calls = cs ? calls_new(core, &limits->call) : NULL;
    uint8_t *plain = calls && limits->tls ? mem_alloc(PLAIN_BYTES) : NULL;
    if (!calls || (limits->tls && !plain)) return calls_free(calls), mem_free(cs), false;
    cs->plain = plain;
    cs->limits = *limits;
    list_init(&cs->idle_outputs);
    core->conns = cs;
    core->calls = calls;
    return true;
}

enum { RESET_BURST_S = 10, CONTROL_BURST_S = 20 }; /* what a peer may do at once, in seconds' worth */

bool conn_open(struct core *core) {
    const struct limits *l = &core->node->limits;
    struct conn_limits limits = conn_limits_default;
    limits.connections_max = l->connections_max;
    limits.first_request_ns = l->first_request_ns;
    limits.idle_ns = l->idle_ns;
    limits.keepalive_ns = l->keepalive_ns;
    limits.door = core->node->door;
    limits.tls = core->node->tls;
    limits.handshake_ns = l->handshake_ns;
    limits.handshakes_max = l->handshakes_max;
    limits.h2.streams_max = l->calls_per_connection_max;
    /* As many streams may be answered at once and wait behind a send. */
    limits.h2.memory_bytes_max = MAX_OF(limits.h2.memory_bytes_max, 128 * KIB + l->calls_per_connection_max * STREAM_BYTES);
    limits.h2.calm.reset_per_s = l->resets_per_s;
    limits.h2.calm.reset_burst = RESET_BURST_S * l->resets_per_s;
    limits.h2.calm.control_per_s = l->control_frames_per_s;
    limits.h2.calm.control_burst = CONTROL_BURST_S * l->control_frames_per_s;
    limits.h2.calm.ping_interval_ns = l->ping_interval_ns;
    limits.h2.bytes_per_s_min = l->bytes_per_s_min;
    limits.h2.grace_ns = l->grace_ns;
    limits.h2.transfer_ns = l->transfer_ns;
    limits.call.live_max = l->calls_max;
    limits.call.arena_bytes_max = (uint32_t)MIN_OF(l->request_bytes_max, (size_t)UINT32_MAX);
    limits.call.memory_bytes_max = l->requests_bytes_max;
    limits.call.timeout_ns_max = l->deadline_ns_max;
    return conn_open_with(core, &limits);
}

void conn_fini(struct core *core) {
    struct conns *cs = core->conns;
    if (!cs) return;
    check(list_empty(&core->connections));
    for (struct list *l; (l = list_pop_front(&cs->idle_outputs));) mem_free(list_entry(l, struct output, link)), cs->output_count--;
    check(cs->output_count == 0);
    calls_free(core->calls);
    check(cs->handshake_count == 0);
    mem_free(cs->plain);
    mem_free(cs);
    core->conns = NULL;
    core->calls = NULL;
}

static struct output *output_get(struct conns *cs) {
    struct list *l = list_pop_front(&cs->idle_outputs);
    if (l) return cs->idle_output_count--, list_entry(l, struct output, link);
    struct output *o = mem_alloc(sizeof *o);
    if (o) cs->output_count++;
    return o;
}

static void output_put(struct conns *cs, struct output *o) {
    if (!o) return;
    if (cs->idle_output_count >= OUTPUT_IDLE_MAX) {
        cs->output_count--;
        return mem_free(o);
    }
    list_push_front(&cs->idle_outputs, &o->link);
    cs->idle_output_count++;
}

/* ---- what limits end */

/* One line for many: what is said at warn, an attacker can't write the log full with. */
static void tell_hostile(struct core *core, enum cut why, const char *address) {
    struct conns *cs = core->conns;
    cs->untold++;
    if (cs->warned_ns && core->now_ns - cs->warned_ns < WARN_NS) return;
    log_warn("peers broke limits", "core=%u count=%u last=%s action=%s reason=%s what=\"%s\"", core->id, cs->untold, address, cuts[why].action, cuts[why].reason, cuts[why].help);
    cs->warned_ns = core->now_ns;
    cs->untold = 0;
}

static void tell_of(struct core *core, enum cut why, const struct sockaddr *peer) {
    char address[ADDRESS_TEXT_BYTES];
    address_format((const struct sockaddr_storage *)peer, address);
    log_debug("peer broke a limit", "core=%u peer=%s action=%s reason=%s", core->id, address, cuts[why].action, cuts[why].reason);
    if (cuts[why].hostile) tell_hostile(core, why, address);
}

/* What costs us CPU, as against what merely takes its time; a handshake that fails is a client with a wrong certificate more often than not, and has limits of its own. */
static bool is_strike(enum cut why) {
    switch (why) {
    case CUT_PINGS:
    case CUT_RESETS:
    case CUT_UNREADABLE:
    case CUT_CONTROL_FRAMES:
    case CUT_CONTINUATIONS:
    case CUT_HEADER_BYTES:
    case CUT_CONNECTION_MEMORY:
    case CUT_PROTOCOL: return true;
    default: return false;
    }
}

static void conn_tell(struct conn *c, enum cut why) {
    struct door *door = c->core->conns->limits.door;
    if (c->visitor && is_strike(why)) {
        if (c->worked) c->worked = false, door_working(door, c->visitor, false, c->core->now_ns);
        door_strike(door, c->visitor, c->core->now_ns);
    }
    metric_cut(&c->core->metrics, why);
    tell_of(c->core, why, &c->peer.any);
}

/* How long a peer may take for so many bytes. */
static uint64_t patience_ns(const struct conn *c, uint64_t bytes) {
    const struct h2_limits *l = &c->core->conns->limits.h2;
    return l->grace_ns + bytes * NS_PER_S / l->bytes_per_s_min;
}

/* ---- life */
static void conn_free_when_idle(struct conn *c) {
    if (c->state != CONN_CLOSING || c->receiving || c->sending || c->close_pending) return;
    check(!c->h2);
    check(!c->output);
    timer_clear(&c->core->timers, &c->timer);
    list_remove(&c->link);
    list_remove(&c->flush_link);
    if (c->worked) door_working(c->core->conns->limits.door, c->visitor, false, c->core->now_ns);
    if (c->visitor) door_leave(c->core->conns->limits.door, c->visitor, c->core->now_ns);
    check(c->core->connection_count > 0);
    c->core->connection_count--;
    c->magic = 0;
    mem_free(c);
}

static void on_closed(struct ring_op *op, int32_t result, bool more) {
    struct conn *c = conn_checked(container_of(op, struct conn, close));
    if (more) return;
    c->close_pending = false;
    conn_free_when_idle(c);
}

static void handshake_over(struct conn *c) {
    if (!c->in_handshake) return;
    c->in_handshake = false;
    check(c->core->conns->handshake_count > 0);
    c->core->conns->handshake_count--;
    if (c->visitor) door_handshake_over(c->core->conns->limits.door, c->visitor);
    bool ok = tls_established(c->tls);
    metric_add(&c->core->metrics, ok ? METRIC_TLS_HANDSHAKES : METRIC_TLS_FAILED, 1);
}

/* Not from inside h2 or TLS: they are freed here. */
static void conn_close(struct conn *c, const char *why) {
    if (c->state == CONN_CLOSING) return;
    log_debug("connection closed", "core=%u fd=%d why=%s", c->core->id, c->fd, why);
    c->state = CONN_CLOSING;
    list_remove(&c->flush_link);
    timer_clear(&c->core->timers, &c->timer);
    handshake_over(c);
    tls_free(c->tls);
    c->tls = NULL;
    h2_free(c->h2);
    c->h2 = NULL;
    c->close_pending = true;
    c->close.done = on_closed;
    ring_shutdown_close(c->core->ring, &c->close, c->fd);
}

static void conn_want_flush(void *owner) {
    struct conn *c = conn_checked(owner);
    if (list_empty(&c->flush_link)) list_push_back(&c->core->flush, &c->flush_link);
}

/* ---- time */
static uint64_t conn_deadline(const struct conn *c) {
    const struct conn_limits *l = &c->core->conns->limits;
    uint64_t now = c->core->now_ns, at = c->busy_ns + l->idle_ns, frame_ns = h2_frame_begun_ns(c->h2);
    if (c->ending) return now + TICK_NS; /* for the last words */
    if (!h2_requests(c->h2)) at = MIN_OF(at, c->accepted_ns + l->first_request_ns);
    if (c->in_handshake) at = MIN_OF(at, c->accepted_ns + l->handshake_ns);
    if (h2_open_streams(c->h2) || c->sending) at = MIN_OF(at, now + TICK_NS);
    else if (!c->rested && !c->in_handshake) at = MIN_OF(at, MAX_OF(c->received_ns, c->busy_ns) + TICK_NS);
    if (frame_ns) at = MIN_OF(at, frame_ns + patience_ns(c, FRAME_BYTES_MAX));
    if (c->final_ns) at = MIN_OF(at, c->final_ns);
    return MAX_OF(at, now + 1);
}

/* What is late now; CUT_NONE: nothing. */
static enum cut conn_late(struct conn *c) {
    const struct conn_limits *l = &c->core->conns->limits;
    uint64_t now = c->core->now_ns, frame_ns = h2_frame_begun_ns(c->h2);
    if (c->in_handshake && now >= c->accepted_ns + l->handshake_ns) return CUT_HANDSHAKE_LATE;
    if (!h2_requests(c->h2) && now >= c->accepted_ns + l->first_request_ns) return CUT_FIRST_REQUEST_LATE;
    if (c->sending && now >= c->send_begun_ns + patience_ns(c, OUTPUT_BYTES)) return CUT_SLOW_READER;
    if (frame_ns && now >= frame_ns + patience_ns(c, FRAME_BYTES_MAX)) return CUT_SLOW_FRAME;
    if (h2_open_streams(c->h2)) return now >= c->received_ns + 2 * l->keepalive_ns ? CUT_PING_UNANSWERED : CUT_NONE;
    return now >= c->busy_ns + l->idle_ns ? CUT_IDLE : CUT_NONE;
}

static void conn_set_timer(struct conn *c) {
    if (c->state == CONN_OPEN && !timer_set(&c->core->timers, &c->timer, conn_deadline(c))) conn_close(c, "no memory for a timer");
}

static void on_timer(struct timer *t) {
    struct conn *c = conn_checked(container_of(t, struct conn, timer));
    const struct conn_limits *l = &c->core->conns->limits;
    uint64_t now = c->core->now_ns;
    enum cut late = conn_late(c);
    if (c->ending && (late || now >= c->send_begun_ns + patience_ns(c, OUTPUT_BYTES))) return conn_close(c, "the peer does not take the last words");
    if (late) {
        metric_add(&c->core->metrics, METRIC_CONNECTIONS_TIMED_OUT, 1);
        conn_tell(c, late);
        if (c->sending) return conn_close(c, cuts[late].help);
        c->told = c->ending = true; /* GOAWAY first, then close: the peer knows that nothing was lost */
        c->send_begun_ns = now;
        h2_drain_final(c->h2);
        conn_want_flush(c);
        return conn_set_timer(c);
    }
    if (c->final_ns && now >= c->final_ns) c->final_ns = 0, h2_drain_final(c->h2);
    if (h2_open_streams(c->h2)) {
        c->busy_ns = now;
        enum cut slow = h2_sweep(c->h2);
        if (slow) tell_of(c->core, slow, &c->peer.any);
        if (!c->pinged && now >= c->received_ns + l->keepalive_ns) c->pinged = true, h2_ping(c->h2);
    }
    if (!h2_open_streams(c->h2) && !c->sending && !c->rested && !c->in_handshake && now >= MAX_OF(c->received_ns, c->busy_ns) + TICK_NS) c->rested = true, h2_rest(c->h2);
    conn_set_timer(c);
}

/* ---- bytes in */

static bool on_plain(void *owner, struct slice plain) {
    struct conn *c = conn_checked(owner);
    if (c->tls && !h2_requests(c->h2)) { /* the handshake is over, or there were no plain bytes */
        const char *subject = tls_peer_subject(c->tls);
        if (subject && *subject) h2_set_principal(c->h2, limits_key(slice_str(subject)));
    }
    if (!h2_feed(c->h2, plain)) c->ending = true;
    return !c->ending;
}

static void conn_input(struct conn *c, struct slice bytes) {
    uint64_t requests = h2_requests(c->h2), refused = h2_refused(c->h2);
    if (!c->tls) (void)on_plain(c, bytes);
    else if (!tls_feed(c->tls, bytes, on_plain, c)) c->ending = true; /* an alert may be waiting */
    if (c->in_handshake && tls_established(c->tls)) {
        log_debug("tls", "core=%u fd=%d subject=%s", c->core->id, c->fd, tls_peer_subject(c->tls));
        handshake_over(c);
    }
    c->receive.low = !h2_served(c->h2) || h2_refused(c->h2) != refused; /* those who get something done go first */
    if (requests != h2_requests(c->h2)) c->busy_ns = c->core->now_ns; /* refused ones leave no stream behind */
    if ((requests == 0) != (h2_requests(c->h2) == 0)) conn_set_timer(c); /* the first request has come: idle and keepalive from now on */
    if (h2_frame_begun_ns(c->h2) && c->timer.deadline_ns > c->core->now_ns + patience_ns(c, FRAME_BYTES_MAX)) conn_set_timer(c);
    conn_want_flush(c);
}

static void conn_receive(struct conn *c);

static void on_received(struct ring_op *op, int32_t result, bool more) {
    struct conn *c = conn_checked(container_of(op, struct conn, receive));
    c->receiving = more;
    if (result > 0) {
        uint16_t id;
        struct slice bytes = ring_buffer(c->core->ring, op, result, &id);
        metric_add(&c->core->metrics, METRIC_BYTES_RECEIVED, (uint64_t)result);
        if (c->state == CONN_OPEN && !c->ending) {
            c->received_ns = c->core->now_ns;
            c->pinged = false;
            conn_input(c, bytes);
        }
        ring_buffer_put(c->core->ring, id);
    }
    if (c->state == CONN_CLOSING) return conn_free_when_idle(c);
    if (result == 0) return conn_close(c, "the peer closed");
    if (result < 0 && result != -ENOBUFS && result != -EINTR && result != -EAGAIN) return conn_close(c, strerror(-result));
    if (!more) conn_receive(c); /* out of buffers, or the multishot ended: on with the next submit */
}

static void conn_receive(struct conn *c) {
    c->receiving = true;
    c->receive.low = c->receive.low || !h2_served(c->h2);
    c->receive.done = on_received;
    ring_receive(c->core->ring, &c->receive, c->fd);
}

/* ---- bytes out */

static bool conn_wants_output(const struct conn *c) {
    if (c->tls && tls_wants_output(c->tls)) return true;
    return h2_wants_output(c->h2) && (!c->tls || tls_established(c->tls));
}

static void conn_output(struct conn *c, struct writer *w) {
    if (!c->tls) return h2_output(c->h2, w);
    tls_output(c->tls, w);
    if (tls_wants_output(c->tls) || !tls_established(c->tls) || w->cap - w->len < tls_room(PLAIN_BYTES)) return;
    struct writer plain = writer_of(c->core->conns->plain, PLAIN_BYTES);
    h2_output(c->h2, &plain);
    if (!tls_encrypt(c->tls, writer_slice(&plain), w)) c->ending = true;
}

/* All is said: with TLS one more word, so that the peer can tell the end from a cut. */
static bool conn_wants_farewell(struct conn *c) {
    if (c->tls) tls_close(c->tls);
    return c->tls && tls_wants_output(c->tls);
}

/* It ends: why, when that is not in order. */
static const char *conn_error(struct conn *c) {
    const char *error = c->tls ? tls_error(c->tls) : NULL;
    enum cut why = error ? CUT_HANDSHAKE_FAILED : h2_fault(c->h2);
    if (!why) return NULL;
    if (!c->told) conn_tell(c, why), metric_add(&c->core->metrics, METRIC_CONNECTIONS_ABUSED, 1);
    c->told = true;
    return error ? error : h2_error(c->h2);
}

static void on_sent(struct ring_op *op, int32_t result, bool more) {
    struct conn *c = conn_checked(container_of(op, struct conn, send));
    if (more) return;
    c->sending = false;
    output_put(c->core->conns, c->output);
    c->output = NULL;
    if (result > 0) metric_add(&c->core->metrics, METRIC_BYTES_SENT, (uint64_t)result);
    if (c->state == CONN_CLOSING) return conn_free_when_idle(c);
    if (result < 0) return conn_close(c, strerror(-result));
    conn_want_flush(c); /* there may be more, or it was the last word */
}

static void conn_flush(struct conn *c) {
    if (c->state != CONN_OPEN || c->sending) return; /* on_sent comes back to it */
    if (h2_open_streams(c->h2)) c->busy_ns = c->core->now_ns;
    struct output *o = NULL;
    size_t len = 0;
    bool over = c->ending || h2_finished(c->h2);
    if (conn_wants_output(c) || (over && conn_wants_farewell(c))) {
        if (!(o = output_get(c->core->conns))) return conn_close(c, "no memory for output");
        struct writer w = writer_of(o->data, sizeof o->data);
        conn_output(c, &w);
        len = w.len;
    }
    if (len == 0) {
        output_put(c->core->conns, o);
        if (c->ending || h2_finished(c->h2)) {
            const char *error = conn_error(c);
            conn_close(c, error ? error : "done");
        }
        return;
    }
    if (!c->worked && c->visitor && h2_served(c->h2) && !c->told) c->worked = true, door_working(c->core->conns->limits.door, c->visitor, true, c->core->now_ns);
    c->output = o;
    c->sending = true;
    c->send.done = on_sent;
    c->send_begun_ns = c->core->now_ns;
    c->rested = false;
    ring_send(c->core->ring, &c->send, c->fd, o->data, len);
    if (c->timer.deadline_ns > c->core->now_ns + TICK_NS) conn_set_timer(c);
}

void conn_flush_all(struct core *core) {
    for (struct list *l; (l = list_pop_front(&core->flush));) conn_flush(conn_checked(list_entry(l, struct conn, flush_link)));
}

/* ---- the door */
static enum cut door_admits(struct core *core, const struct sockaddr_storage *peer, struct visitor **visitor) {
    struct conns *cs = core->conns;
    const struct conn_limits *l = &cs->limits;
    if (core->draining) return CUT_REFUSED_DRAINING;
    if (core->connection_count >= l->connections_max) return CUT_REFUSED_CONNECTIONS;
    if (l->tls && cs->handshake_count >= l->handshakes_max) return CUT_REFUSED_HANDSHAKES;
    return l->door ? door_enter(l->door, peer, l->tls != NULL, core->now_ns, visitor) : CUT_NONE;
}

/* A probe after a second of silence, and the end when nothing has been acknowledged for timeout_ms: by its kernel, so a peer that is merely busy or stopped stays. */
static void conn_watch(void *owner, unsigned timeout_ms) {
    const struct conn *c = conn_checked(owner);
    int on = 1, second = 1;
    (void)setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on); /* a Unix socket has none of these, and no network to be lost in */
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &second, sizeof second);
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &second, sizeof second);
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

static struct conn *conn_new(struct core *core, int fd, const struct sockaddr_storage *peer) {
    struct conns *cs = core->conns;
    struct conn *c = mem_new(struct conn);
    if (!c) return NULL;
    c->magic = CONN_MAGIC;
    c->core = core;
    c->fd = fd;
    memcpy(&c->peer, peer, sizeof c->peer);
    c->accepted_ns = c->received_ns = c->busy_ns = core->now_ns;
    c->timer.fire = on_timer;
    list_init(&c->link);
    list_init(&c->flush_link);
    c->h2 = h2_new(core, &cs->limits.h2, conn_want_flush, c);
    if (c->h2) h2_set_watch(c->h2, conn_watch);
    if (c->h2 && cs->limits.tls) c->tls = tls_new(cs->limits.tls, NULL), c->in_handshake = c->tls != NULL;
    if (c->h2 && (c->tls || !cs->limits.tls) && timer_set(&core->timers, &c->timer, conn_deadline(c))) return cs->handshake_count += c->in_handshake, c;
    tls_free(c->tls);
    list_remove(&c->flush_link);
    h2_free(c->h2);
    mem_free(c);
    return NULL;
}

void conn_accept(struct core *core, int fd, const struct sockaddr_storage *peer) {
    struct conns *cs = core->conns;
    struct visitor *visitor = NULL;
    enum cut why = door_admits(core, peer, &visitor);
    struct conn *c = why ? NULL : conn_new(core, fd, peer);
    if (!c) {
        if (!why) why = CUT_REFUSED_MEMORY;
        if (visitor && cs->limits.tls) door_handshake_over(cs->limits.door, visitor);
        if (visitor) door_leave(cs->limits.door, visitor, core->now_ns);
        metric_add(&core->metrics, METRIC_CONNECTIONS_REFUSED, 1);
        metric_cut(&core->metrics, why);
        tell_of(core, why, (const struct sockaddr *)peer);
        close(fd);
        return;
    }
    c->visitor = visitor;
    int on = 1, unsent = UNSENT_BYTES_MAX;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* we gather by ourselves; a peer on a Unix socket has no such thing */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    metric_add(&core->metrics, METRIC_CONNECTIONS_ACCEPTED, 1);
    list_push_back(&core->connections, &c->link);
    core->connection_count++;
    conn_receive(c);
}

void conn_drain(struct core *core) {
    core->draining = true;
    calls_core_changed(core->calls); /* who watches our health hears it before the GOAWAY */
    conn_flush_all(core);
    list_each(l, &core->connections) {
        struct conn *c = conn_checked(list_entry(l, struct conn, link));
        if (c->state != CONN_OPEN || c->final_ns) continue;
        h2_drain_notice(c->h2);
        /* A connection without calls has nothing to lose but a request that is on its way: half a second for the notice to get there. */
        c->final_ns = core->now_ns + core->conns->limits.drain_notice_ns;
        conn_set_timer(c);
    }
}

void conn_close_all(struct core *core) {
    list_each(l, &core->connections) conn_close(conn_checked(list_entry(l, struct conn, link)), "closing all");
}

enum { CLOSE_MS_MAX = 1000 };

/* The loop has ended; the ring still turns, for the requests of connections that are left. */
void conn_close_and_fini(struct core *core) {
    if (!core->conns) return;
    conn_close_all(core);
    for (uint64_t end_ns = core->now_ns + CLOSE_MS_MAX * NS_PER_MS; core->connection_count && core->now_ns < end_ns;)
        ring_wait(core->ring, core->now_ns + 10 * NS_PER_MS);
    if (core->connection_count || core->calls_live)
        log_warn("calls abandoned at exit", "core=%u connections=%u calls=%u", core->id, core->connection_count, core->calls_live);
    else
        conn_fini(core);
}

const struct core_hooks conn_hooks = {.open = conn_open, .accept = conn_accept, .flush = conn_flush_all, .drain = conn_drain, .cut = conn_close_all, .resources = limits_of_resources, .close = conn_close_and_fini};

size_t conn_memory_bytes(const struct core *core) {
    size_t n = core->conns->output_count * sizeof(struct output);
    for (const struct list *l = core->connections.next; l != &core->connections; l = l->next) {
        const struct conn *c = container_of(l, const struct conn, link);
        n += sizeof *c + (c->h2 ? h2_memory_bytes(c->h2) : 0) + (c->tls ? tls_memory_bytes(c->tls) : 0);
    }
    return n;
}
