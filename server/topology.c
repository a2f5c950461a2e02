#include "server/topology.h"

#include <stdlib.h>

#include "orderdb/v1/admin.pb-c.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/leads.h"
#include "server/node.h"

static uint32_t node_count(const struct node *node) { return node->cluster ? cluster_count(node->cluster) : 1; }
static uint64_t node_id_at(const struct node *node, uint32_t i) { return node->cluster ? node->cluster->peers[i].node_id : node->identity.node_id; }

static const char *role_name(uint8_t kind) { return kind == GROUP_VOTER ? "VOTER" : kind == GROUP_LEARNER ? "LEARNER" : "SPARE"; }

/* Where they are known they stand in the order in which they came: told by id. */
static int by_node_id(uint64_t a, uint64_t b) { return (a > b) - (a < b); }
static int replica_order(const void *a, const void *b) { return by_node_id((*(Orderdb__V1__Topology__Replica *const *)a)->node_id, (*(Orderdb__V1__Topology__Replica *const *)b)->node_id); }
static int node_order(const void *a, const void *b) { return by_node_id((*(Orderdb__V1__Topology__Node *const *)a)->node_id, (*(Orderdb__V1__Topology__Node *const *)b)->node_id); }

/* How far other replicas are only their leader knows: 0 where it could not be asked. */
static bool partition_message(struct arena *a, const struct partition_stats *s, const struct node *node, Orderdb__V1__Topology__Partition **out) {
    struct {
        Orderdb__V1__Topology__Partition partition;
        Orderdb__V1__Topology__SlotRange range, *ranges[1];
        Orderdb__V1__Topology__Replica replica[GROUP_MEMBERS_MAX], *replicas[GROUP_MEMBERS_MAX];
        struct engine_wanted wanted;
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
    qsort(m->replicas, s->replica_count, sizeof m->replicas[0], replica_order);
    m->partition.partition_id = (int32_t)s->partition;
    m->partition.n_slots = 1, m->partition.slots = m->ranges;
    m->partition.n_replicas = s->replica_count, m->partition.replicas = m->replicas;
    if (node->cluster) m->wanted = cluster_wanted(node->cluster, s->partition);
    m->partition.n_wanted_node_ids = m->wanted.count, m->partition.wanted_node_ids = m->wanted.node_id;
    m->partition.leader_node_id = s->leader && !s->ready ? 0 : s->leader_node;
    m->partition.term = (int64_t)s->term;
    m->partition.epoch = leads_epoch(node);
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
static bool other_message(struct call *call, struct arena *a, uint32_t at, Orderdb__V1__Topology__Node *n) {
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

static Orderdb__V1__Topology__Node **node_messages(struct call *call, struct arena *a, size_t count) {
    const struct node *node = call_core(call)->node;
    Orderdb__V1__Topology__Node *at = arena_array(a, Orderdb__V1__Topology__Node, count), **out = arena_array(a, Orderdb__V1__Topology__Node *, count);
    if (!at || !out) return NULL;
    for (uint32_t i = 0; i < count; i++) {
        orderdb__v1__topology__node__init(out[i] = &at[i]);
        at[i].node_id = node_id_at(node, i);
        if (at[i].node_id == node->identity.node_id) own_message(call, &at[i]);
        else if (!other_message(call, a, i, &at[i])) return NULL;
    }
    qsort(out, count, sizeof *out, node_order);
    return out;
}

struct slice topology_wire(struct call *call, struct arena *a, const struct partition_stats stats[]) {
    const struct node *node = call_core(call)->node;
    size_t count = node_count(node); /* it may grow meanwhile */
    Orderdb__V1__Topology__Node **nodes = node_messages(call, a, count);
    Orderdb__V1__Topology__Partition **partitions = arena_array(a, Orderdb__V1__Topology__Partition *, node->partition_count);
    if (!partitions || !nodes) return (struct slice){0};
    for (uint32_t i = 0; i < node->partition_count; i++)
        if (!partition_message(a, &stats[i], node, &partitions[i])) return (struct slice){0};
    Orderdb__V1__Topology m = ORDERDB__V1__TOPOLOGY__INIT;
    m.epoch = leads_epoch(node);
    m.n_nodes = count, m.nodes = nodes;
    m.n_partitions = node->partition_count, m.partitions = partitions;
    uint8_t *bytes = arena_alloc(a, orderdb__v1__topology__get_packed_size(&m) + 1);
    return bytes ? slice_of(bytes, orderdb__v1__topology__pack(&m, bytes)) : (struct slice){0};
}
