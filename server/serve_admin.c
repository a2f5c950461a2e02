/* AdminService: what this node is and holds, and what it knows of the others of its cluster. A topology is put together partition by partition: one op to each owner, one after
 * the other, so that the call is all the state there is. Of a partition that another node leads, that node is asked too: it knows how far each replica is. One that says nothing for
 * LEADER_PATIENCE_NS is done without, and after SILENT_MAX of those no other is asked, so that a topology is told also when much is broken. */
#include "orderdb/v1/admin.pb-c.h"
#include "proto/route.h"
#include "server/call.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_admin.h"
#include "server/serve_common.h"

enum { EPOCH_BEGIN = 1, SILENT_MAX = 2 };
#define LEADER_PATIENCE_NS (500 * NS_PER_MS)

struct topology {
    struct call_op op;
    uint32_t next, silent;
    bool asking; /* the partition's leader */
    struct partition_stats stats[];
};

static uint32_t node_count(const struct node *node) { return node->cluster ? cluster_count(node->cluster) : 1; }
static uint64_t node_id_at(const struct node *node, uint32_t i) { return node->cluster ? node->cluster->peers[i].node_id : node->identity.node_id; }

/* Of the nodes and their states; who leads changes without it. */
static int64_t epoch_of(const struct node *node) { return node->cluster ? EPOCH_BEGIN + (int64_t)cluster_epoch(node->cluster) : EPOCH_BEGIN; }

static const char *role_name(uint8_t kind) { return kind == GROUP_VOTER ? "VOTER" : kind == GROUP_LEARNER ? "LEARNER" : "SPARE"; }

/* How far other replicas are only their leader knows: 0 where it could not be asked. */
static bool partition_message(struct arena *a, const struct partition_stats *s, const struct node *node, Orderdb__V1__Topology__Partition **out) {
    struct {
        Orderdb__V1__Topology__Partition partition;
        Orderdb__V1__Topology__SlotRange range, *ranges[1];
        Orderdb__V1__Topology__Replica replica[GROUP_MEMBERS_MAX], *replicas[GROUP_MEMBERS_MAX];
    } *m = arena_zalloc(a, sizeof *m);
    if (!m) return false;
    orderdb__v1__topology__partition__init(&m->partition);
    orderdb__v1__topology__slot_range__init(&m->range);
    m->range.first = s->first_slot, m->range.last = s->last_slot;
    m->ranges[0] = &m->range;
    for (uint32_t i = 0; i < s->replica_count; i++) {
        Orderdb__V1__Topology__Replica *r = m->replicas[i] = &m->replica[i];
        orderdb__v1__topology__replica__init(r);
        r->node_id = s->replicas[i].node_id, r->role = (char *)role_name(s->replicas[i].kind);
        r->applied_index = (int64_t)s->replicas[i].stored;
    }
    m->partition.partition_id = (int32_t)s->partition;
    m->partition.n_slots = 1, m->partition.slots = m->ranges;
    m->partition.n_replicas = s->replica_count, m->partition.replicas = m->replicas;
    m->partition.leader_node_id = s->leader && !s->ready ? 0 : s->leader_node;
    m->partition.term = (int64_t)s->term;
    m->partition.epoch = epoch_of(node);
    m->partition.orders = (int64_t)s->orders;
    m->partition.bytes = (int64_t)(s->table_bytes + s->memtable_bytes);
    m->partition.writes_per_second = s->writes_per_second;
    m->partition.reads_per_second = s->reads_per_second;
    *out = &m->partition;
    return true;
}

static void own_message(struct call *call, Orderdb__V1__Topology__Node *n) {
    const struct node *node = call_core(call)->node;
    n->client_address = (char *)node->client_address;
    n->peer_address = (char *)node->peer_address;
    struct cluster_peer own;
    bool rests = node->cluster && cluster_find(node->cluster, node->identity.node_id, &own) && own.state > NODE_STATE_UP;
    n->state = (char *)(rests ? node_state_name(own.state) : call_core(call)->draining ? "DRAINING" : "UP");
    n->zone = (char *)node->config->zone;
    n->version = (char *)ORDERDB_VERSION;
}

/* As it said when it last connected. */
static bool other_message(struct call *call, uint32_t at, Orderdb__V1__Topology__Node *n) {
    struct arena *a = call_arena(call);
    struct cluster_peer *peer = arena_new(a, struct cluster_peer);
    char *address = arena_alloc(a, ADDRESS_TEXT_BYTES);
    if (!peer || !address) return false;
    *peer = cluster_see(call_core(call)->node->cluster, at);
    *address = 0;
    if (peer->address.len) address_format(&peer->address.sa, address);
    n->client_address = peer->client_address, n->peer_address = address, n->zone = peer->zone, n->version = peer->version;
    bool plain = !peer->state || peer->state == NODE_STATE_UP;
    n->state = (char *)(!plain ? node_state_name(peer->state) : peer->links ? "UP" : "DOWN");
    return true;
}

static Orderdb__V1__Topology__Node **node_messages(struct call *call) {
    struct arena *a = call_arena(call);
    const struct node *node = call_core(call)->node;
    size_t count = node_count(node);
    Orderdb__V1__Topology__Node *at = arena_array(a, Orderdb__V1__Topology__Node, count), **out = arena_array(a, Orderdb__V1__Topology__Node *, count);
    if (!at || !out) return NULL;
    for (uint32_t i = 0; i < node_count(node); i++) {
        orderdb__v1__topology__node__init(out[i] = &at[i]);
        at[i].node_id = node_id_at(node, i);
        if (at[i].node_id == node->identity.node_id) own_message(call, &at[i]);
        else if (!other_message(call, i, &at[i])) return NULL;
    }
    return out;
}

static struct slice topology_wire(struct call *call, const struct topology *t) {
    struct arena *a = call_arena(call);
    const struct node *node = call_core(call)->node;
    Orderdb__V1__Topology__Node **nodes = node_messages(call);
    Orderdb__V1__Topology__Partition **partitions = arena_array(a, Orderdb__V1__Topology__Partition *, node->partition_count);
    if (!partitions || !nodes) return (struct slice){0};
    for (uint32_t i = 0; i < node->partition_count; i++)
        if (!partition_message(a, &t->stats[i], node, &partitions[i])) return (struct slice){0};
    Orderdb__V1__Topology m = ORDERDB__V1__TOPOLOGY__INIT;
    m.epoch = epoch_of(node);
    m.n_nodes = node_count(node), m.nodes = nodes;
    m.n_partitions = node->partition_count, m.partitions = partitions;
    uint8_t *bytes = arena_alloc(a, orderdb__v1__topology__get_packed_size(&m) + 1);
    return bytes ? slice_of(bytes, orderdb__v1__topology__pack(&m, bytes)) : (struct slice){0};
}

/* What its leader says of a partition, but for our own replica. */
static void merge(struct partition_stats *own, const struct partition_stats *said, uint64_t self) {
    for (uint32_t i = 0; i < said->replica_count; i++) {
        own->replicas[i] = said->replicas[i];
        if (own->replicas[i].node_id == self) own->replicas[i].stored = own->applied_index;
    }
    own->replica_count = said->replica_count;
    own->term = said->term, own->leader_node = said->leader_node;
    own->orders = said->orders, own->writes_per_second = said->writes_per_second, own->reads_per_second = said->reads_per_second;
}

static void topology_next(struct call *call, struct call_op *o);

static void ask(struct call *call, struct topology *t, bool leader) {
    const struct node *node = call_core(call)->node;
    struct op *op = &t->op.op;
    t->asking = leader;
    op->any_replica = !leader;
    op->patience_ns = leader ? LEADER_PATIENCE_NS : 0;
    op->slot = partition_first_slot(t->next, node->partition_count);
    call_submit(call, &t->op, topology_next);
}

/* Another node leads, and is connected to this one. */
static bool is_to_ask(const struct topology *t, const struct partition_stats *s, const struct node *node) {
    if (s->leader || !s->leader_node || !node->cluster || t->silent >= SILENT_MAX) return false;
    for (uint32_t i = 0; i < node_count(node); i++)
        if (node_id_at(node, i) == s->leader_node) return cluster_see(node->cluster, i).links > 0;
    return false;
}

static void topology_next(struct call *call, struct call_op *o) {
    struct topology *t = container_of(o, struct topology, op);
    const struct node *node = call_core(call)->node;
    struct partition_stats *s = &t->stats[t->next];
    if (o->op.failure.status && !t->asking) return serve_fail_with(call, &o->op.failure);
    if (o->op.failure.status) t->silent++;
    else if (t->asking) merge(s, &o->op.stats, node->identity.node_id);
    else *s = o->op.stats;
    if (!t->asking && is_to_ask(t, s, node)) return ask(call, t, true);
    if (++t->next < node->partition_count) return ask(call, t, false);
    struct slice wire = topology_wire(call, t);
    if (!wire.data) serve_fail_memory(call);
    else call_reply(call, &wire, 1);
}

void serve_topology(struct call *call) {
    const struct node *node = call_core(call)->node;
    struct arena *a = call_arena_take(call); /* the call's own is bounded by the message until an op is sent */
    struct topology *t = a ? arena_zalloc(a, sizeof *t + node->partition_count * sizeof t->stats[0]) : NULL;
    if (!t) return serve_fail_memory(call);
    t->op.op = (struct op){.kind = OP_STATS, .arena = call_arena(call)};
    ask(call, t, false);
}

void serve_get_topology(struct call *call) {
    if (serve_decode(call, &orderdb__v1__get_topology_request__descriptor)) serve_topology(call);
}
