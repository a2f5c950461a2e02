#include "server/peers.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/engine.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/forward.h"
#include "server/mail.h"
#include "server/members.h"
#include "server/node.h"
#include "server/peer_tls.h"

/* A connection's life
 *
 *   DIALING  --connected--> [SECURING --TLS--] --HELLO--> GREETING  --WELCOME that is proven, PROOF-->  UP        on the node that dials
 *   ARRIVING --HELLO--> [MOVING --mail--> its core] --WELCOME--> WELCOMING --PROOF--> UP    on the other
 *   WELCOMING --PROOF of one that joins--> JOINING --JOIN--> [members.c] --JOINED--> ENDING      on core 0
 *   any  --end, error, silence, a second one of the same node-->  ENDING --> freed          when the kernel has let go of it
 *
 * Until it is UP a connection must not take longer than GREETING_NS nor send a frame above GREETING_BYTES_MAX, and there are ARRIVALS_MAX of them at most: strangers cost that much.
 * UP: whoever has said nothing for PING_NS says PING; who has not been heard for SILENCE_NS is gone, whatever TCP thinks (half-open connections, black holes).
 *
 * Who is refused is told why before the connection ends. A node that was removed is told so when it has proven itself, for it stops then; and it believes that of who has proven itself alone.
 *
 * TLS (--peer-tls-cert) is between the socket and the frames: what comes in is fed to it and its plain text taken for frames; what gathered in `out` is encrypted into `sending` by one call, a
 * turn. It moves between cores with its link, when nothing is under way. The first bytes tell TLS from cleartext: who talks the other of the two gets REFUSED in cleartext, and is not listened to
 * any further: `tls` is NULL then, which no HELLO passes on a node with TLS, and which a node that dials has before it says HELLO alone.
 *
 * Invariants: a peer's `up` is UP; nothing but the handshake is sent before UP, so that no frame of Raft's reaches who has not proven that it has the key; link_end is final: input
 * that is left is not looked at. */
enum link_state { LINK_DIALING, LINK_SECURING, LINK_GREETING, LINK_ARRIVING, LINK_MOVING, LINK_WELCOMING, LINK_JOINING, LINK_UP, LINK_ENDING };
static const char *const state_names[] = {"dialing", "securing", "greeting", "arriving", "moving", "welcoming", "joining", "up", "ending"};

enum { LINK_MAGIC = 0x4c494e4b, GREETING_BYTES_MAX = 512, ARRIVALS_MAX = 64, KEEP_BYTES_MAX = 256 << 10 };
#define TICK_NS (100 * NS_PER_MS)
#define GREETING_NS (2 * NS_PER_S)
#define PING_NS (500 * NS_PER_MS)
#define SILENCE_NS (3 * NS_PER_S)
#define RETRY_LEAST_NS (50 * NS_PER_MS)
#define RETRY_MOST_NS (1 * NS_PER_S)
#define REFUSED_LOG_NS (10 * NS_PER_S)
#define STRANGER_LOG_NS (1 * NS_PER_S)
#define JOIN_NS (20 * NS_PER_S)
#define REMOVED_RETRY_NS (30 * NS_PER_S)

struct link {
    uint32_t magic;
    enum link_state state;
    struct peers *peers;
    struct peer *peer; /* whom it is to; NULL: not known yet, or no longer */
    struct list link;
    int fd;
    struct tls *tls; /* NULL: cleartext */
    struct ring_op receive, send, close; /* send: connects too */
    bool receiving, sends, closing, heard;
    const char *leaves; /* why it ends once what it has to say is sent; NULL: it stays */
    struct buf in, out, sending;
    struct mail_task move;
    bool joins;               /* a node that is new */
    struct joining *joining;  /* JOINING: what it asked for is under way */
    uint64_t since_ns, heard_ns, said_ns;
    uint8_t hello[LINK_HELLO_BYTES], welcome[LINK_HELLO_BYTES];
    struct link_hello theirs;
};

/* The last line about a refusal. */
struct told {
    uint64_t at_ns; /* 0: none */
    uint64_t what;
};

struct peer {
    const struct cluster_peer *who;
    struct link *up, *dialed; /* dialed: under way */
    struct address address;   /* that was dialed last */
    uint64_t retry_ns, pause_ns;
    struct told refused;
};

struct peers {
    struct core *core;
    struct cluster *cluster;
    struct list links;
    unsigned arrivals;
    bool begun, stopped;
    struct told strangers;
    struct timer tick;
    struct buf unpacked;
    uint32_t count;
    struct peer at[NODE_ROWS_MAX]; /* the others */
    uint32_t learnt; /* of the cluster's nodes, those that have been looked at */
};

static struct ring *ring_of(const struct link *l) { return l->peers->core->ring; }
static uint64_t now_of(const struct peers *p) { return p->core->now_ns; }
static uint64_t own_id(const struct peers *p) { return p->cluster->identity.node_id; }

static struct peer *peer_of(struct peers *p, uint64_t node_id) {
    for (uint32_t i = 0; i < p->count; i++)
        if (p->at[i].who->node_id == node_id) return &p->at[i];
    return NULL;
}

/* ---- ends */

static bool is_removed(const struct peers *p, uint64_t node_id) {
    struct cluster_peer who;
    return cluster_find(p->cluster, node_id, &who) && who.state == NODE_STATE_REMOVED;
}

static void count_up(struct peers *p) {
    unsigned n = 0;
    for (uint32_t i = 0; i < p->count; i++) n += p->at[i].up != NULL;
    metric_set(&p->core->metrics, METRIC_PEER_LINKS, n);
}

static void link_free(struct link *l) {
    buf_fini(&l->in);
    buf_fini(&l->out);
    buf_fini(&l->sending);
    tls_free(l->tls);
    list_remove(&l->link);
    l->magic = 0;
    mem_free(l);
}

static void on_closed(struct ring_op *op, int32_t result, bool more) {
    struct link *l = container_of(op, struct link, close);
    check(l->magic == LINK_MAGIC);
    link_free(l);
}

static void link_maybe_close(struct link *l) {
    if (l->state != LINK_ENDING || l->receiving || l->sends || l->closing) return;
    l->closing = true;
    l->close.done = on_closed;
    ring_shutdown_close(ring_of(l), &l->close, l->fd);
}

/* Who dialed tries again after a pause that grows, not all at one time. */
static void peer_pause(struct peers *p, struct peer *peer) {
    uint64_t r;
    random_bytes(&r, sizeof r);
    peer->pause_ns = MIN_OF(MAX_OF(peer->pause_ns * 2, (uint64_t)RETRY_LEAST_NS), (uint64_t)RETRY_MOST_NS);
    peer->retry_ns = now_of(p) + peer->pause_ns / 2 + r % (peer->pause_ns / 2);
    if (is_removed(p, peer->who->node_id)) peer->retry_ns = now_of(p) + REMOVED_RETRY_NS; /* only to tell it */
}

/* close_notify, if the socket takes it at once: nobody waits for it, frames tell their own ends. */
static void link_farewell(struct link *l) {
    uint8_t word[256];
    struct writer w = writer_of(word, sizeof word);
    if (!l->tls || l->sends) return;
    tls_close(l->tls);
    tls_output(l->tls, &w);
    if (w.len) (void)send(l->fd, word, w.len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void link_end(struct link *l, const char *why) {
    struct peers *p = l->peers;
    struct peer *peer = l->peer;
    if (l->state == LINK_ENDING) return;
    enum link_state was = l->state;
    l->state = LINK_ENDING;
    if (was == LINK_ARRIVING || was == LINK_WELCOMING || was == LINK_JOINING) p->arrivals--;
    if (l->joining) members_join_left(l->joining), l->joining = NULL;
    if (peer && peer->up == l) {
        peer->up = NULL;
        cluster_tell(p->core->node->cluster, peer->who->node_id, NULL);
        metric_add(&p->core->metrics, METRIC_PEER_LINKS_LOST, 1);
        if (!p->stopped) log_warn("peer lost", "core=%u node=%llu why=%s", p->core->id, (unsigned long long)peer->who->node_id, why);
        count_up(p);
        forward_on_lost(p->core->forward, peer->who->node_id);
    } else {
        log_debug("peer connection ended", "core=%u node=%llu state=%s why=%s", p->core->id, peer ? (unsigned long long)peer->who->node_id : 0ull, state_names[was], why);
    }
    if (peer && peer->dialed == l) peer->dialed = NULL, peer_pause(p, peer);
    l->peer = NULL;
    if (l->sends && was == LINK_DIALING) ring_cancel(ring_of(l), &l->send);
    link_farewell(l);
    (void)shutdown(l->fd, SHUT_RDWR); /* what is under way ends with it */
    link_maybe_close(l);
}

/* ---- bytes out */

static void on_sent(struct ring_op *op, int32_t result, bool more);
static void link_maybe_move(struct link *l);

static bool link_talks(const struct link *l) { return !l->tls || (tls_established(l->tls) && !tls_error(l->tls)); }
static bool link_has_output(const struct link *l) { return (l->out.len && link_talks(l)) || (l->tls && tls_wants_output(l->tls)); }

/* From `out` to `sending`. false: the link has ended. */
static bool link_load(struct link *l) {
    if (!l->tls) {
        struct buf free = l->sending;
        l->sending = l->out;
        l->out = free;
        return true;
    }
    struct slice plain = link_talks(l) ? buf_slice(&l->out) : (struct slice){0};
    if (!tls_write(l->tls, plain, &l->sending)) return link_end(l, tls_error(l->tls) ? tls_error(l->tls) : "out of memory"), false;
    if (plain.len) l->out.len = 0;
    if (l->out.cap > KEEP_BYTES_MAX) buf_fini(&l->out);
    return true;
}

static void link_flush(struct link *l) {
    if (l->sends || !link_has_output(l) || l->state == LINK_ENDING || l->state == LINK_DIALING || l->state == LINK_MOVING || !link_load(l)) return;
    l->sends = true;
    l->said_ns = now_of(l->peers);
    l->send.done = on_sent;
    metric_add(&l->peers->core->metrics, METRIC_PEER_BYTES_OUT, l->sending.len);
    ring_send(ring_of(l), &l->send, l->fd, l->sending.data, l->sending.len);
}

static void on_sent(struct ring_op *op, int32_t result, bool more) {
    struct link *l = container_of(op, struct link, send);
    check(l->magic == LINK_MAGIC);
    l->sends = false;
    l->sending.len = 0;
    if (l->sending.cap > KEEP_BYTES_MAX) buf_fini(&l->sending);
    if (result < 0) link_end(l, strerror(-result));
    else if (l->leaves && !link_has_output(l)) link_end(l, l->leaves);
    else if (l->state != LINK_UP || l->leaves) link_flush(l); /* else: what gathered meanwhile leaves at the end of the turn */
    link_maybe_move(l);
    link_maybe_close(l);
}

/* Of the handshake: at once, and few bytes. */
static void link_say(struct link *l, enum link_kind kind, struct slice body) {
    if (!link_write(&l->out, kind, body, false)) link_end(l, "out of memory");
    else link_flush(l);
}

bool peers_say(struct peers *p, uint64_t node_id, enum link_kind kind, struct slice body) {
    struct peer *peer = peer_of(p, node_id);
    struct link *l = peer ? peer->up : NULL;
    bool sent = l && l->out.len + l->sending.len + body.len + LINK_HEAD_BYTES <= p->core->node->config->peer_queue && link_write(&l->out, kind, body, true);
    metric_add(&p->core->metrics, sent ? METRIC_PEER_FRAMES_OUT : METRIC_PEER_DROPPED, 1);
    return sent;
}

void peers_send(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame) { peers_say(ctx, node_id, LINK_RAFT, frame); }

bool peers_up(const struct peers *p, uint64_t node_id) {
    const struct peer *peer = peer_of((struct peers *)p, node_id);
    return peer && peer->up;
}

void peers_flush(struct peers *p) {
    for (uint32_t i = 0; i < p->count; i++)
        if (p->at[i].up) link_flush(p->at[i].up);
}

/* ---- the handshake */

static void own_hello(const struct peers *p, uint64_t to, struct link_hello *h) {
    const struct node *node = p->core->node;
    *h = (struct link_hello){.core = p->core->id, .cores = node->core_count, .partitions = node->partition_count, .from = own_id(p), .to = to};
    memcpy(h->cluster_id, node->identity.cluster_id, sizeof h->cluster_id);
    random_bytes(h->nonce, sizeof h->nonce);
    h->replicas = p->cluster->replicas, h->replace_after_ms = (uint32_t)node->config->replace_after;
    memcpy(h->zone, node->config->zone, strlen(node->config->zone));
    memcpy(h->address, node->client_address, strnlen(node->client_address, sizeof h->address - 1));
}

/* Who is refused tries again every second: the same is told once in REFUSED_LOG_NS, something new at once; of strangers at most once a second, for they may have many reasons. */
static void log_refusal(struct link *l, struct peer *peer, const char *who, const char *why) {
    struct peers *p = l->peers;
    struct told *told = peer ? &peer->refused : &p->strangers;
    uint64_t what = hash64(slice_str(why)), quiet_ns = told->what == what ? REFUSED_LOG_NS : peer ? 0 : STRANGER_LOG_NS;
    if (told->at_ns && now_of(p) - told->at_ns < quiet_ns) return;
    *told = (struct told){now_of(p), what};
    struct address a = {.len = sizeof a.sa};
    char address[ADDRESS_TEXT_BYTES];
    (void)getpeername(l->fd, (struct sockaddr *)&a.sa, &a.len);
    address_format(&a.sa, address);
    log_warn("peer refused", "core=%u node=%llu address=%s by=%s why=%s", p->core->id, peer ? (unsigned long long)peer->who->node_id : 0ull, address, who, why);
}

static void link_refuse(struct link *l, enum link_refusal why) {
    uint8_t code = (uint8_t)why;
    metric_add(&l->peers->core->metrics, METRIC_PEER_REFUSED, 1);
    log_refusal(l, peer_of(l->peers, l->theirs.from), "us", link_refusal_text(why));
    l->leaves = link_refusal_text(why);
    link_say(l, LINK_REFUSED, slice_of(&code, 1));
}

static void link_up(struct link *l) {
    struct peers *p = l->peers;
    struct peer *peer = peer_of(p, l->theirs.from);
    if (!peer) return link_end(l, "this core does not know it yet");
    if (l->state == LINK_WELCOMING) p->arrivals--;
    /* Who dials anew has lost the old one, whatever we know of it. */
    if (peer->up) link_end(peer->up, "another one took its place");
    if (peer->dialed == l) peer->dialed = NULL;
    l->peer = peer;
    l->state = LINK_UP;
    l->heard_ns = now_of(p);
    peer->up = l;
    peer->pause_ns = 0;
    peer->refused = (struct told){0};
    cluster_tell(p->core->node->cluster, peer->who->node_id, &l->theirs);
    count_up(p);
    log_info("peer", "core=%u node=%llu zone=%s clients=%s tls=%s", p->core->id, (unsigned long long)peer->who->node_id, l->theirs.zone, l->theirs.address, l->tls ? tls_peer_subject(l->tls) : "no");
    if (is_removed(p, peer->who->node_id)) return link_refuse(l, LINK_REMOVED);
    if (p->core->id == 0 && l->theirs.replace_after_ms != (uint32_t)p->core->node->config->replace_after)
        log_warn("another --replace-after: who leads the meta partition goes by its own", "node=%llu theirs_ms=%u ours_ms=%u", (unsigned long long)peer->who->node_id,
                 l->theirs.replace_after_ms, (uint32_t)p->core->node->config->replace_after);
    struct slice version = slice_str(ORDERDB_VERSION);
    link_say(l, LINK_PING, slice_of(version.data, MIN_OF(version.len, (size_t)LINK_VERSION_BYTES_MAX)));
    uint8_t zone[LINK_LEAD_ZONE_BYTES_MAX];
    link_say(l, LINK_PING, slice_of(zone, link_lead_zone_encode(p->core->node->config->lead_zone, zone)));
}

/* false: the link has ended. */
static bool link_prove(struct link *l, enum link_kind kind, uint8_t proof[LINK_PROOF_BYTES]) {
    uint8_t bound[LINK_PROOF_BYTES];
    const uint8_t *key = l->peers->cluster->link_key;
    if (l->tls && !peer_tls_key(l->tls, key, bound)) return link_end(l, "out of memory"), false;
    link_proof(proof, slice_of(l->tls ? bound : key, sizeof bound), kind, l->hello, l->welcome);
    return true;
}

static void link_greet(struct link *l) {
    struct link_hello own;
    own_hello(l->peers, l->peer->who->node_id, &own);
    link_hello_encode(&own, l->hello);
    l->state = LINK_GREETING;
    link_say(l, LINK_HELLO, slice_of(l->hello, sizeof l->hello));
}

/* We dialed, and are welcome. */
static void on_welcome(struct link *l, struct slice body) {
    struct link_hello own, *theirs = &l->theirs;
    uint8_t proof[LINK_PROOF_BYTES];
    if (body.len != LINK_HELLO_BYTES + LINK_PROOF_BYTES || link_hello_decode(slice_of(body.data, LINK_HELLO_BYTES), theirs)) return link_end(l, "its welcome can't be read");
    check(link_hello_decode(slice_of(l->hello, sizeof l->hello), &own) == STATUS_OK);
    enum link_refusal why = link_hello_match(&own, theirs);
    memcpy(l->welcome, body.data, LINK_HELLO_BYTES);
    if (!link_prove(l, LINK_WELCOME, proof)) return;
    if (why == LINK_TAKEN && !bytes_equal_constant_time(proof, body.data + LINK_HELLO_BYTES, sizeof proof)) why = LINK_UNPROVEN;
    if (why != LINK_TAKEN) {
        log_refusal(l, l->peer, "us", link_refusal_text(why));
        return link_end(l, link_refusal_text(why));
    }
    if (!link_prove(l, LINK_PROOF, proof)) return;
    link_say(l, LINK_PROOF, slice_of(proof, sizeof proof));
    if (l->state != LINK_ENDING) link_up(l);
}

/* On its core, by whatever way it came. */
static void link_welcome(struct link *l) {
    struct link_hello own;
    uint8_t said[LINK_HELLO_BYTES + LINK_PROOF_BYTES];
    l->state = LINK_WELCOMING;
    own_hello(l->peers, l->theirs.from, &own);
    link_hello_encode(&own, l->welcome);
    memcpy(said, l->welcome, LINK_HELLO_BYTES);
    if (!link_prove(l, LINK_WELCOME, said + LINK_HELLO_BYTES)) return;
    link_say(l, LINK_WELCOME, slice_of(said, sizeof said));
}

static void link_receive(struct link *l);

static void on_moved(struct mail_task *task, struct core *on) {
    struct link *l = container_of(task, struct link, move);
    check(l->magic == LINK_MAGIC);
    struct peers *p = l->peers = on->peers;
    list_push_back(&p->links, &l->link);
    p->arrivals++;
    l->state = LINK_WELCOMING;
    l->since_ns = now_of(p);
    if (p->stopped || p->arrivals > ARRIVALS_MAX) return link_end(l, "no room");
    link_receive(l);
    link_welcome(l);
}

/* When nothing is under way: a ring's requests are its thread's. */
static void link_maybe_move(struct link *l) {
    if (l->state != LINK_MOVING || l->receiving || l->sends) return;
    struct core *core = l->peers->core;
    list_remove(&l->link);
    l->move.run = on_moved;
    mail_send_task(core, l->theirs.core, &l->move);
}

static void on_hello(struct link *l, struct slice body) {
    struct peers *p = l->peers;
    struct link_hello own;
    enum status st = link_hello_decode(body, &l->theirs);
    own_hello(p, l->theirs.from, &own);
    if (st == STATUS_FORMAT_UNKNOWN) return link_refuse(l, LINK_OTHER_FORMAT);
    if (st) return link_end(l, "its hello can't be read");
    own.core = l->theirs.core; /* it may be any of ours */
    enum link_refusal why = link_hello_match(&own, &l->theirs);
    l->joins = l->theirs.to == LINK_TO_ANY && p->core->id == 0 && node_all_ready(p->core->node) && cluster_epoch(p->cluster);
    if (l->joins) why = l->theirs.replicas == own.replicas ? LINK_TAKEN : LINK_OTHER_REPLICAS;
    if (p->cluster->tls && !l->tls) why = LINK_WANTS_TLS;
    if (why == LINK_TAKEN && !l->joins && (!peer_of(p, l->theirs.from) || l->theirs.from > own_id(p))) why = LINK_OTHER_NODE; /* it is for us to dial */
    if (why == LINK_TAKEN && l->tls && !peer_tls_is(l->tls, l->theirs.from)) why = LINK_OTHER_CERTIFICATE;
    if (why != LINK_TAKEN) return link_refuse(l, why);
    memcpy(l->hello, body.data, sizeof l->hello);
    if (l->theirs.core == p->core->id) return link_welcome(l);
    l->state = LINK_MOVING;
    p->arrivals--;
    if (l->receiving) ring_cancel(ring_of(l), &l->receive); /* the rest happens when that is done */
}

static void on_proof(struct link *l, struct slice body) {
    uint8_t proof[LINK_PROOF_BYTES];
    if (!link_prove(l, LINK_PROOF, proof)) return;
    if (body.len != sizeof proof || !bytes_equal_constant_time(proof, body.data, sizeof proof)) return link_refuse(l, LINK_UNPROVEN);
    if (l->joins) l->state = LINK_JOINING, l->since_ns = now_of(l->peers);
    else link_up(l);
}

/* ---- who joins */

void peers_joined(void *link, struct slice answer) {
    struct link *l = link;
    check(l->magic == LINK_MAGIC);
    l->joining = NULL;
    l->leaves = "it has its answer";
    link_say(l, LINK_JOINED, answer);
}

static void on_join(struct link *l, struct slice body) {
    struct reader r = reader_of(body);
    struct slice zone = read_counted(&r), address = read_counted(&r);
    if (l->joining || r.bad || reader_left(&r)) return link_end(l, "a frame out of turn");
    l->joining = members_join(l->peers->core->node->joined, l, l->theirs.from, zone, address);
    if (!l->joining) link_end(l, "out of memory");
}

/* ---- bytes in */

static void on_raft(struct link *l, struct slice body) {
    struct core *core = l->peers->core;
    enum { GROUP_AT = 16 }; /* peer.h */
    enum status st = body.len < PEER_HEAD_BYTES ? STATUS_FIELD_INVALID : STATUS_OK;
    if (!core->engine) return; /* it has ended */
    if (st == STATUS_OK) st = engine_receive(core->engine, get_le64(body.data + GROUP_AT), l->peer->who->node_id, body);
    if (st == STATUS_OK) return;
    metric_add(&core->metrics, METRIC_PEER_BAD, 1);
    log_debug("a message was refused", "core=%u node=%llu status=%s", core->id, (unsigned long long)l->peer->who->node_id, status_name(st));
}

static void on_ping(struct link *l, struct slice body) {
    char version[LINK_VERSION_BYTES_MAX + 1] = "", zone[LINK_ZONE_BYTES + 1] = "";
    struct cluster *cluster = l->peers->core->node->cluster;
    unsigned long long id = l->peer->who->node_id;
    if (link_version_decode(body, version)) cluster_tell_version(cluster, id, version);
    if (!link_lead_zone_decode(body, zone) || cluster_tell_lead_zone(cluster, id, zone) || l->peers->core->id) return;
    log_warn("another --lead-zone: leads stay where they are while nodes differ", "node=%llu theirs='%s' ours='%s'", id, zone, cluster->lead_zone);
}

static void on_frame(struct link *l, enum link_kind kind, struct slice body) {
    if (l->state == LINK_UP && kind == LINK_RAFT) return on_raft(l, body);
    if (l->state == LINK_UP && kind == LINK_PING) return on_ping(l, body);
    if (l->state == LINK_UP && (kind == LINK_ASK || kind == LINK_ANSWER)) return forward_on_frame(l->peers->core->forward, l->peer->who->node_id, kind, body);
    if (l->state == LINK_ARRIVING && kind == LINK_HELLO) return on_hello(l, body);
    if (l->state == LINK_WELCOMING && kind == LINK_PROOF) return on_proof(l, body);
    if (l->state == LINK_GREETING && kind == LINK_WELCOME) return on_welcome(l, body);
    if (l->state == LINK_JOINING && kind == LINK_JOIN) return on_join(l, body);
    if (l->state == LINK_UP && kind == LINK_REFUSED && body.len == 1 && body.data[0] == LINK_REMOVED) {
        char why[256];
        snprintf(why, sizeof why, "node %llu says that this node was removed from the cluster: it stops. Remove --data-dir, and let it join under another --node-id", (unsigned long long)l->peer->who->node_id);
        return node_fail(l->peers->core, why);
    }
    if (kind == LINK_REFUSED && body.len == 1 && l->state != LINK_ARRIVING) {
        log_refusal(l, l->peer ? l->peer : peer_of(l->peers, l->theirs.from), "it", link_refusal_text((enum link_refusal)body.data[0]));
        return link_end(l, "refused");
    }
    link_end(l, "a frame out of turn");
}

static void on_packed(struct link *l, const struct link_frame *f) {
    struct buf *b = &l->peers->unpacked;
    b->len = 0;
    if (!buf_reserve(b, f->unpacked)) return link_end(l, "out of memory");
    if (link_unpack(f, b->data)) return link_end(l, "a packed frame is damaged");
    on_frame(l, f->kind, slice_of(b->data, f->unpacked));
    if (b->cap > KEEP_BYTES_MAX * 4) buf_fini(b);
}

static bool link_listens(const struct link *l) { return l->state != LINK_ENDING && l->state != LINK_MOVING && !l->leaves; }

/* How many of the bytes were whole frames. */
static size_t link_take(struct link *l, struct slice bytes) {
    size_t at = 0;
    while (link_listens(l)) {
        struct link_frame f;
        struct slice rest = slice_of(bytes.data + at, bytes.len - at);
        enum status st = link_read(rest, &f);
        if (rest.len >= LINK_HEAD_BYTES && l->state != LINK_UP && get_le32(rest.data) > GREETING_BYTES_MAX) st = STATUS_FIELD_INVALID;
        if (st == STATUS_WOULD_BLOCK) break;
        if (st && l->state == LINK_ARRIVING && link_looks_like_tls(rest)) return link_refuse(l, LINK_WANTS_CLEARTEXT), bytes.len;
        if (st) return link_end(l, st == STATUS_CHECKSUM_MISMATCH ? "a frame is damaged" : "not a frame of ours"), bytes.len;
        metric_add(&l->peers->core->metrics, METRIC_PEER_FRAMES_IN, 1);
        if (f.packed && l->state == LINK_UP) on_packed(l, &f);
        else if (f.packed) link_end(l, "a packed frame in the handshake");
        else on_frame(l, f.kind, f.body);
        at += f.length;
    }
    return at;
}

/* false: no more. */
static bool on_plain(void *owner, struct slice bytes) {
    struct link *l = owner;
    check(l->magic == LINK_MAGIC);
    if (l->in.len == 0) {
        size_t n = link_take(l, bytes);
        bytes.data += n, bytes.len -= n;
        if (bytes.len && link_listens(l) && !buf_append(&l->in, bytes)) link_end(l, "out of memory");
    } else if (!buf_append(&l->in, bytes)) {
        link_end(l, "out of memory");
    } else {
        size_t n = link_take(l, buf_slice(&l->in));
        memmove(l->in.data, l->in.data + n, l->in.len - n);
        l->in.len -= n;
        if (l->in.len == 0 && l->in.cap > KEEP_BYTES_MAX) buf_fini(&l->in);
    }
    return link_listens(l);
}

/* The alert that says so leaves before the connection ends. Whose refusal it is: OpenSSL calls what came from there an alert. */
static void on_tls_failed(struct link *l, const char *why) {
    if (l->state != LINK_UP) log_refusal(l, l->peer, strstr(why, " alert ") ? "it" : "us", why);
    if (l->state == LINK_ARRIVING || l->state == LINK_WELCOMING) metric_add(&l->peers->core->metrics, METRIC_PEER_REFUSED, 1);
    if (!tls_wants_output(l->tls)) return link_end(l, why);
    l->leaves = why;
    link_flush(l);
}

static void link_feed(struct link *l, struct slice records) {
    bool goes_on = tls_feed(l->tls, records, on_plain, l);
    if (!link_listens(l)) return;
    if (!goes_on) return tls_error(l->tls) ? on_tls_failed(l, tls_error(l->tls)) : link_end(l, "closed by the other side");
    if (l->state == LINK_SECURING && tls_established(l->tls)) link_greet(l);
    else link_flush(l); /* what TLS has to say by itself */
}

static void link_input(struct link *l, struct slice bytes) {
    l->heard_ns = now_of(l->peers);
    metric_add(&l->peers->core->metrics, METRIC_PEER_BYTES_IN, bytes.len);
    if (l->tls && !l->heard && !link_looks_like_tls(bytes)) tls_free(l->tls), l->tls = NULL;
    l->heard = true;
    if (l->tls) link_feed(l, bytes);
    else (void)on_plain(l, bytes);
}

static void on_received(struct ring_op *op, int32_t result, bool more) {
    struct link *l = container_of(op, struct link, receive);
    check(l->magic == LINK_MAGIC);
    l->receiving = more;
    if (result > 0) {
        uint16_t id;
        struct slice bytes = ring_buffer(ring_of(l), op, result, &id);
        if (l->state == LINK_MOVING) link_end(l, "a frame out of turn"); /* it has not been answered yet */
        if (link_listens(l)) link_input(l, bytes);
        ring_buffer_put(ring_of(l), id);
    } else if (l->state != LINK_MOVING && result != -ENOBUFS && result != -EINTR && result != -EAGAIN) {
        link_end(l, result ? strerror(-result) : "closed by the other side");
    }
    if (!more && link_listens(l)) link_receive(l);
    link_maybe_move(l);
    link_maybe_close(l);
}

static void link_receive(struct link *l) {
    l->receiving = true;
    l->receive.done = on_received;
    l->receive.urgent = true; /* not behind the bytes of clients: their writes wait for what comes here */
    ring_receive(ring_of(l), &l->receive, l->fd);
}

/* ---- connections begin */

static struct link *link_new(struct peers *p, int fd, enum link_state state, uint64_t node_id) {
    struct link *l = mem_new(struct link);
    struct tls_source *source = p->cluster->tls;
    int on = 1;
    if (!l || (source && !(l->tls = peer_tls_new(source, node_id)))) return mem_free(l), close(fd), NULL;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    l->magic = LINK_MAGIC, l->state = state, l->peers = p, l->fd = fd;
    l->since_ns = l->heard_ns = now_of(p);
    list_push_back(&p->links, &l->link);
    return l;
}

void peers_accept(struct peers *p, int fd) {
    struct link *l = p->stopped || p->arrivals >= ARRIVALS_MAX ? (close(fd), NULL) : link_new(p, fd, LINK_ARRIVING, 0);
    if (!l) return metric_add(&p->core->metrics, METRIC_PEER_REFUSED, 1);
    p->arrivals++;
    link_receive(l);
}

static void on_connected(struct ring_op *op, int32_t result, bool more) {
    struct link *l = container_of(op, struct link, send);
    check(l->magic == LINK_MAGIC);
    l->sends = false;
    if (l->state == LINK_ENDING) return link_maybe_close(l);
    if (result < 0) return link_end(l, strerror(-result));
    link_receive(l);
    if (!l->tls) return link_greet(l);
    l->state = LINK_SECURING;
    link_feed(l, (struct slice){0}); /* it says something first */
}

static void peer_dial(struct peers *p, struct peer *peer) {
    struct cluster_peer who;
    check(cluster_find(p->cluster, peer->who->node_id, &who));
    peer->address = who.address;
    const struct address *a = &peer->address;
    if (!a->len) return peer_pause(p, peer);
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct link *l = fd < 0 ? NULL : link_new(p, fd, LINK_DIALING, peer->who->node_id);
    if (!l) return peer_pause(p, peer);
    l->peer = peer;
    peer->dialed = l;
    l->sends = true;
    l->send.done = on_connected;
    ring_connect(p->core->ring, &l->send, fd, &a->sa, a->len);
}

static void tick_link(struct link *l, uint64_t now) {
    if (l->state == LINK_ENDING || l->state == LINK_MOVING) return;
    if (l->state != LINK_UP && now - l->since_ns > (l->state == LINK_JOINING ? JOIN_NS : GREETING_NS)) return link_end(l, "the handshake took too long");
    if (l->state != LINK_UP) return;
    if (now - l->heard_ns > SILENCE_NS) return link_end(l, "silent");
    if (now - l->said_ns >= PING_NS && l->out.len == 0 && !l->sends) link_say(l, LINK_PING, (struct slice){0});
}

static void on_tick(struct timer *t) {
    struct peers *p = container_of(t, struct peers, tick);
    uint64_t now = now_of(p);
    list_each(at, &p->links) tick_link(list_entry(at, struct link, link), now);
    for (uint32_t i = 0; i < p->count; i++) {
        struct peer *peer = &p->at[i];
        if (own_id(p) < peer->who->node_id && !peer->up && !peer->dialed && now >= peer->retry_ns) peer_dial(p, peer);
    }
    check(timer_set(&p->core->timers, &p->tick, now + TICK_NS)); /* its place in the heap was there a moment ago */
}

/* ---- the whole */

struct peers *peers_new(struct core *core) {
    struct peers *p = mem_new(struct peers);
    if (!p) return NULL;
    p->core = core;
    p->cluster = core->node->cluster;
    p->tick.fire = on_tick;
    list_init(&p->links);
    peers_learn(p);
    return p;
}

void peers_free(struct peers *p) {
    if (!p) return;
    check(list_empty(&p->links));
    buf_fini(&p->unpacked);
    mem_free(p);
}

void peers_learn(struct peers *p) {
    for (uint32_t n = cluster_count(p->cluster); p->learnt < n; p->learnt++) {
        const struct cluster_peer *who = &p->cluster->peers[p->learnt];
        if (who->node_id != own_id(p)) p->at[p->count++] = (struct peer){.who = who};
    }
    for (uint32_t i = 0; i < p->count; i++)
        if (p->at[i].up && !p->at[i].up->leaves && is_removed(p, p->at[i].who->node_id)) link_refuse(p->at[i].up, LINK_REMOVED);
}

void peers_begin(struct peers *p) {
    peers_learn(p); /* its replica of the meta partition may have told more */
    if (!timer_set(&p->core->timers, &p->tick, now_of(p))) panic_now("out of memory for a timer at start");
}

void peers_stop(struct peers *p) {
    if (p->stopped) return;
    p->stopped = true;
    timer_clear(&p->core->timers, &p->tick);
    list_each(at, &p->links) {
        struct link *l = list_entry(at, struct link, link);
        if (l->state != LINK_MOVING) link_end(l, "this node stops");
    }
}

bool peers_idle(const struct peers *p) { return list_empty(&p->links); }
