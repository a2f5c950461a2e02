#include "client/fleet.h"

#include <errno.h>
#include <string.h>

#include "client/message.h"
#include "client/retry.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

/* The watch: one WatchTopology, at a node that is well, begun with the first call and again with a later one when it has ended. Its messages are read as the loop turns; a handle that rests
 * hears nothing, and its first call may go by way of another node, whose answer tells.
 *
 * Who tells a topology in which most nodes are down is cut off itself: what it says of leaders is not believed, and another node is watched.
 *
 * A node that is stopped or cut off without a word is noticed by a ping: after a second in which a call waits there and nothing is heard, and another one. Pings are rare beside that (channel.h),
 * for servers do not like them. */
#define PING_AFTER_NS NS_PER_S
#define PING_ANSWER_NS NS_PER_S
#define PING_PAUSE_NS (11 * NS_PER_S) /* a server of ours allows one in 10 s (--ping-interval-min) */
#define ASTRAY_NS NS_PER_S
#define WATCH_REFUSED_NS (30 * NS_PER_S) /* a server that has no WatchTopology, or no more of them */

struct fleet {
    struct channel_loop *loop;
    struct fleet_options options;
    char *server_name;
    bool routed, closed, was_connected;
    uint64_t forwarded;
    struct channel_call *watch;
    int watched; /* the node */
    uint64_t watch_ns; /* when it is begun again */
    unsigned watch_failures;
    struct routes *routes;
    struct fleet_node {
        char address[ROUTES_ADDRESS_BYTES]; /* of the seats; the place may be another node's by now */
        struct fleet_seat *seats;           /* [options.seats]; NULL: not opened */
    } nodes[ROUTES_NODES_MAX];
};

bool fleet_routed(const struct fleet *f) { return f->routed; }

/* ---- seats */

static void node_close(struct fleet *f, struct fleet_node *n) {
    for (uint32_t i = 0; n->seats && i < f->options.seats; i++) {
        if (!n->seats[i].channel) continue;
        f->was_connected |= channel_was_connected(n->seats[i].channel);
        channel_close(n->seats[i].channel);
    }
    mem_free(n->seats);
    n->seats = NULL;
}

/* The seats of a node; the first channel of them at least, so that the address is known to be one. NULL: errno. */
static struct fleet_seat *node_open(struct fleet *f, int at) {
    struct fleet_node *n = &f->nodes[at];
    const char *address = f->routes->nodes[at].address;
    if (n->seats && strcmp(n->address, address) != 0) node_close(f, n); /* nothing is in flight: the place was free */
    if (!n->seats) {
        n->seats = mem_zalloc(f->options.seats * sizeof *n->seats);
        if (!n->seats) return errno = ENOMEM, NULL;
        memcpy(n->address, address, strlen(address) + 1);
    }
    for (uint32_t i = 0; i < f->options.seats; i++) n->seats[i].node = at;
    return n->seats;
}

/* errno. */
static bool seat_open(struct fleet *f, struct fleet_seat *s) {
    if (s->channel) return true;
    s->channel = channel_open(f->loop, f->nodes[s->node].address);
    if (!s->channel) return false;
    if (f->routed) channel_ping(s->channel, PING_AFTER_NS, PING_ANSWER_NS, PING_PAUSE_NS);
    if (!f->options.tls || channel_use_tls(s->channel, f->options.tls, f->server_name)) return true;
    channel_close(s->channel);
    s->channel = NULL;
    return errno = ENOMEM, false;
}

/* The open one with the fewest calls; any: an open one if there is one. */
static struct fleet_seat *seat_of(struct fleet *f, int at, uint64_t now, uint64_t *at_ns, bool any) {
    struct fleet_seat *seats = node_open(f, at), *best = NULL, *first = NULL;
    *at_ns = UINT64_MAX;
    for (uint32_t i = 0; seats && i < f->options.seats; i++) {
        struct fleet_seat *s = &seats[i];
        if (!first || s->closed_until_ns < first->closed_until_ns) first = s;
        if (s->closed_until_ns > now) *at_ns = MIN_OF(*at_ns, s->closed_until_ns);
        else if (!best || s->in_flight < best->in_flight) best = s;
    }
    if (!best && any) best = first;
    return best && seat_open(f, best) ? best : NULL;
}

/* ---- the watch */

static bool is_cut_off(const Orderdb__V1__Topology *t) {
    size_t up = 0, down = 0;
    for (size_t i = 0; i < t->n_nodes; i++) up += strcmp(t->nodes[i]->state, "UP") == 0, down += strcmp(t->nodes[i]->state, "DOWN") == 0;
    return down > up;
}

static bool watch_message_cb(void *user, struct slice message) {
    struct fleet *f = user;
    Orderdb__V1__Topology *t = f->closed ? NULL : message_unpack(&orderdb__v1__topology__descriptor, message);
    bool alone = t && is_cut_off(t);
    if (t && (!alone || f->routes->epoch == 0)) routes_learn(f->routes, t);
    if (alone) routes_failed(f->routes, f->watched, channel_now_ns()), channel_cancel(f->watch);
    else f->watch_failures = 0;
    orderdb_message_free(t);
    return true;
}

static void watch_answer_cb(void *user, const struct channel_answer *a) {
    struct fleet *f = user;
    f->watch = NULL;
    if (f->closed) return;
    uint64_t now = channel_now_ns();
    bool refused = a->code == GRPC_UNIMPLEMENTED || a->code == GRPC_RESOURCE_EXHAUSTED || a->code == GRPC_PERMISSION_DENIED;
    if (a->fate != CHANNEL_ANSWERED && a->code == GRPC_UNAVAILABLE) routes_failed(f->routes, f->watched, now);
    f->watch_ns = now + (refused ? WATCH_REFUSED_NS : f->watch_failures ? retry_pause_ns(f->watch_failures) : 0); /* the first time at once, at another node */
    f->watch_failures++;
}

static void watch_tick(struct fleet *f, uint64_t now) {
    uint64_t at_ns;
    if (!f->routed || f->options.unwatched || f->watch || now < f->watch_ns) return;
    int at = routes_pick(f->routes, ROUTES_SLOT_NONE, now, &at_ns);
    struct fleet_seat *s = at < 0 ? NULL : seat_of(f, at, now, &at_ns, true);
    const struct channel_request r = {.path = "/orderdb.v1.AdminService/WatchTopology", .lasts = true, .on_message = watch_message_cb, .on_answer = watch_answer_cb, .user = f};
    f->watched = at;
    if (s) f->watch = channel_start(s->channel, &r);
    if (!f->watch) f->watch_ns = now + retry_pause_ns(0);
}

/* ---- pick */

/* Channels of nodes that are gone, once nothing is on them. */
static void close_unused(struct fleet *f) {
    for (uint32_t i = 0; i < f->routes->count; i++) {
        const struct routes_node *n = &f->routes->nodes[i];
        if (f->nodes[i].seats && !n->seed && !n->listed && !n->in_flight && !(f->watch && f->watched == (int)i)) node_close(f, &f->nodes[i]);
    }
}

struct fleet_seat *fleet_pick(struct fleet *f, int slot, uint64_t now, uint64_t *at_ns) {
    if (!f->routed) return seat_of(f, 0, now, at_ns, false);
    watch_tick(f, now);
    int at = routes_pick(f->routes, slot, now, at_ns);
    struct fleet_seat *s = at < 0 ? NULL : seat_of(f, at, now, at_ns, true);
    if (at < 0 || s) return s;
    routes_failed(f->routes, at, now); /* no memory, or what a topology gave for an address is none */
    *at_ns = now + retry_pause_ns(0);
    return NULL;
}

struct fleet_seat *fleet_pick_any(struct fleet *f, int slot) {
    uint64_t now = channel_now_ns(), at_ns = now;
    struct fleet_seat *s = fleet_pick(f, slot, now, &at_ns);
    if (s) return s;
    if (!f->routed) return seat_of(f, 0, now, &at_ns, true);
    int at = routes_pick(f->routes, slot, at_ns, &at_ns); /* as if it were that late already */
    return seat_of(f, MAX_OF(at, 0), now, &at_ns, true); /* the first place is a seed's */
}

void fleet_seat_take(struct fleet *f, struct fleet_seat *s) {
    s->in_flight++;
    f->routes->nodes[s->node].in_flight++;
}

static void seat_learn(struct fleet *f, struct fleet_seat *s, const struct channel_answer *answer, bool drains) {
    uint64_t now = channel_now_ns();
    bool lost = answer->fate != CHANNEL_ANSWERED && answer->code == GRPC_UNAVAILABLE;
    if (f->routed) {
        if (lost || drains) routes_failed(f->routes, s->node, now);
        else if (answer->fate == CHANNEL_ANSWERED) routes_answered(f->routes, s->node);
    } else if (answer->fate == CHANNEL_ANSWERED) {
        s->failures = 0, s->closed_until_ns = 0;
    } else if (lost && s->closed_until_ns <= now) {
        s->closed_until_ns = now + retry_pause_ns(s->failures++);
    }
}

void fleet_seat_leave(struct fleet *f, struct fleet_seat *s, int slot, const struct channel_answer *answer, bool drains) {
    check(s->in_flight > 0);
    s->in_flight--;
    f->routes->nodes[s->node].in_flight--;
    if (!answer || f->closed) return;
    seat_learn(f, s, answer, drains);
    if (!f->routed) return;
    f->forwarded += answer->leader != 0;
    if (answer->leader) routes_hint(f->routes, slot, answer->leader);
    close_unused(f);
}

bool fleet_elsewhere(const struct fleet *f, const struct channel_answer *answer, bool drains) {
    bool its = answer->code == GRPC_UNAVAILABLE && (answer->fate != CHANNEL_ANSWERED || drains);
    return its && f->routed && routes_any_well(f->routes, channel_now_ns());
}

bool fleet_is_astray(const struct fleet *f, const struct fleet_seat *s, int slot, uint64_t begun_ns, uint64_t now) {
    if (!f->routed || now - begun_ns < ASTRAY_NS) return false;
    int at = routes_leader(f->routes, slot);
    return at >= 0 && at != s->node && routes_is_well(f->routes, at, now);
}

struct channel_answer fleet_astray(const struct channel_answer *cancelled) {
    struct channel_answer a = *cancelled;
    if (a.code != GRPC_CANCELLED || a.fate == CHANNEL_ANSWERED) return a; /* its answer was quicker */
    a.code = GRPC_UNAVAILABLE;
    a.message = SLICE_LIT("the node that was asked leads the partition no more, and did not answer");
    return a;
}

bool fleet_was_connected(const struct fleet *f) {
    for (uint32_t i = 0; i < ROUTES_NODES_MAX && !f->was_connected; i++)
        for (uint32_t k = 0; f->nodes[i].seats && k < f->options.seats; k++)
            if (f->nodes[i].seats[k].channel && channel_was_connected(f->nodes[i].seats[k].channel)) return true;
    return f->was_connected;
}

struct fleet_stats fleet_stats(const struct fleet *f) {
    return (struct fleet_stats){.forwarded = f->forwarded, .ejections = f->routes->ejections, .epoch = f->routes->epoch};
}

/* ---- the whole */

/* errno: 0, EINVAL, ENOMEM. */
static int read_targets(struct fleet *f, const char *targets) {
    char *copy = mem_strdup(targets), *rest = copy;
    int error = copy ? 0 : ENOMEM;
    for (char *one; !error && (one = strsep(&rest, ","));) {
        if (!routes_add_seed(f->routes, one)) error = EINVAL;
    }
    mem_free(copy);
    for (uint32_t i = 0; !error && i < f->routes->count; i++) {
        struct fleet_seat *seats = node_open(f, (int)i);
        for (uint32_t k = 0; seats && k < (f->routed ? 1 : f->options.seats) && !error; k++)
            if (!seat_open(f, &seats[k])) error = errno;
        if (!seats) error = ENOMEM;
    }
    return error;
}

struct fleet *fleet_open(struct channel_loop *l, const char *targets, const struct fleet_options *o) {
    struct fleet *f = mem_new(struct fleet);
    int error = ENOMEM;
    uint32_t turn;
    if (!f || !(f->routes = mem_new(struct routes))) goto failed;
    random_bytes(&turn, sizeof turn);
    routes_init(f->routes, turn % ROUTES_NODES_MAX);
    f->loop = l, f->options = *o, f->watched = -1;
    f->options.seats = o->seats ? MIN_OF(o->seats, (uint32_t)FLEET_SEATS_MAX) : 1;
    f->routed = o->routed || strchr(targets, ',');
    f->server_name = o->server_name ? mem_strdup(o->server_name) : NULL;
    if (o->server_name && !f->server_name) goto failed;
    error = read_targets(f, targets);
    if (!error) return f;
failed:
    if (f) fleet_close(f);
    fleet_free(f);
    errno = error;
    return NULL;
}

void fleet_close(struct fleet *f) {
    f->closed = true;
    for (uint32_t i = 0; i < ROUTES_NODES_MAX; i++)
        for (uint32_t k = 0; f->nodes[i].seats && k < f->options.seats; k++) {
            channel_close(f->nodes[i].seats[k].channel);
            f->nodes[i].seats[k].channel = NULL;
        }
}

void fleet_free(struct fleet *f) {
    if (!f) return;
    for (uint32_t i = 0; i < ROUTES_NODES_MAX; i++) node_close(f, &f->nodes[i]);
    mem_free(f->routes);
    mem_free(f->server_name);
    mem_free(f);
}
