#include "server/balance.h"

#include "engine/engine.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/peers.h"

/* Once a second each partition of the core is looked at; at most one is handed over each time, so that a node that is back does not get all of its leads at one moment.
 *
 * While a node is connected whose --lead-zone is another none is handed over: the two would hand the same lead back and forth. So a new zone is given to one node after another, as they are
 * restarted, and leads move when the last one has it.
 *
 * A node that drains or leaves the cluster gives all it leads at once, to whom they are due then.
 *
 * Against flapping: a lead is kept for --lead-hold at least; it goes to a node alone that has been connected for UP_LOOKS looks and has stored all but LAG_MAX of what is committed; and a
 * partition that comes back though it was given away is kept twice as long each time, up to PAUSE_NS_MAX: a node that can't hold its leads does not get them once a second. */
enum { UP_LOOKS = 3, LAG_MAX = 64 };
#define LOOK_NS NS_PER_S
#define PAUSE_NS_MAX (600 * NS_PER_S)

struct lead {
    uint64_t since_ns;          /* led here; 0: it is not */
    uint64_t given_ns, pause_ns; /* when it was last given away, and for how long it is kept from then on */
};
struct balance {
    struct core *core;
    struct timer timer;
    uint8_t up_looks[NODE_ROWS_MAX]; /* by place in the cluster's peers */
    struct lead leads[];        /* by partition, the meta partition last */
};

static uint16_t slot_of(const struct node *node, uint32_t number) { return number == node->partition_count ? SLOT_META : partition_first_slot(number, node->partition_count); }

static void look_at_nodes(struct balance *b) {
    const struct cluster *c = b->core->node->cluster;
    for (uint32_t i = 0; i < cluster_count(c); i++) b->up_looks[i] = peers_up(b->core->peers, c->peers[i].node_id) ? (uint8_t)MIN_OF(b->up_looks[i] + 1, UP_LOOKS) : 0;
}

static bool is_up(const struct balance *b, uint64_t node_id) {
    const struct cluster *c = b->core->node->cluster;
    for (uint32_t i = 0; i < cluster_count(c); i++)
        if (c->peers[i].node_id == node_id) return b->up_looks[i] == UP_LOOKS;
    return false;
}

/* It is not to lead anything: it drains, or leaves. */
static bool is_to_rest(const struct balance *b) {
    struct cluster_peer own;
    struct node *node = b->core->node;
    return cluster_find(node->cluster, node->identity.node_id, &own) && own.state > NODE_STATE_UP;
}

static bool holds_it(const struct balance *b, uint16_t slot, uint64_t node_id) {
    struct partition_stats s;
    if (!engine_stats_of(b->core->engine, slot, &s)) return false;
    for (uint32_t i = 0; i < s.replica_count; i++)
        if (s.replicas[i].node_id == node_id) return s.replicas[i].kind == GROUP_VOTER && s.replicas[i].stored + LAG_MAX >= s.commit_index;
    return false;
}

/* true: it was handed over. */
static bool look_at_lead(struct balance *b, uint32_t number, bool rests) {
    struct core *core = b->core;
    struct node *node = core->node;
    struct lead *l = &b->leads[number];
    uint64_t now = core->now_ns, hold = node->config->lead_hold * NS_PER_MS;
    uint16_t slot = slot_of(node, number);
    if (!engine_lead_of(core->engine, slot).here) return l->since_ns = 0, false;
    if (!l->since_ns) l->since_ns = now;
    if (!rests && (!hold || now - l->since_ns < hold || (l->given_ns && now - l->given_ns < l->pause_ns))) return false;
    uint64_t wanted = cluster_leader_wanted(node->cluster, node->config->zone, node->config->lead_zone, number);
    if (!wanted || wanted == node->identity.node_id || !is_up(b, wanted) || !holds_it(b, slot, wanted)) return false;
    bool again = l->given_ns && now - l->given_ns < PAUSE_NS_MAX;
    l->pause_ns = again ? MIN_OF(l->pause_ns * 2, PAUSE_NS_MAX) : hold;
    l->given_ns = now, l->since_ns = 0;
    return engine_transfer(core->engine, slot, wanted) == STATUS_OK;
}

static void on_look(struct timer *t) {
    struct balance *b = container_of(t, struct balance, timer);
    struct node *node = b->core->node;
    bool rests = is_to_rest(b), moves = rests || cluster_lead_zone_agreed(node->cluster);
    look_at_nodes(b);
    for (uint32_t n = 0; n <= node->partition_count && moves; n++)
        if (node_core_of_slot(node, slot_of(node, n)) == b->core->id && look_at_lead(b, n, rests) && !rests) break;
    if (!timer_set(&b->core->timers, &b->timer, b->core->now_ns + LOOK_NS)) log_error("no memory for a timer: leads stay where they are", "core=%u", b->core->id);
}

struct balance *balance_new(struct core *core) {
    struct balance *b = mem_zalloc(sizeof *b + (core->node->partition_count + 1) * sizeof b->leads[0]);
    if (!b) return NULL;
    b->core = core;
    b->timer.fire = on_look;
    return b;
}

void balance_free(struct balance *b) { mem_free(b); }

void balance_begin(struct balance *b) {
    if (!timer_set(&b->core->timers, &b->timer, b->core->now_ns + LOOK_NS))
        log_error("no memory for a timer: leads stay where they are", "core=%u", b->core->id);
}

void balance_stop(struct balance *b) { timer_clear(&b->core->timers, &b->timer); }
