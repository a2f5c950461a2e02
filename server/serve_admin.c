/* AdminService/GetTopology: what this node is and holds, and what it knows of the others of its cluster. A topology is put together partition by partition: one op to each owner, one after
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
#include "server/topology.h"

enum { SILENT_MAX = 2 };
#define LEADER_PATIENCE_NS (500 * NS_PER_MS)

struct topology {
    struct call_op op;
    uint32_t next, silent;
    bool asking; /* the partition's leader */
    struct partition_stats stats[];
};

/* What its leader says of a partition, but for our own replica. */
static void merge(struct partition_stats *own, const struct partition_stats *said, uint64_t self) {
    bool here = false;
    for (uint32_t i = 0; i < said->replica_count; i++) {
        own->replicas[i] = said->replicas[i];
        if (own->replicas[i].node_id == self) own->replicas[i].stored = own->applied_index, here = true;
    }
    if (!here) own->table_bytes = said->table_bytes, own->memtable_bytes = said->memtable_bytes;
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

/* Another node leads, and is connected to this one; or this one does not hold it, and does not know. */
static bool is_to_ask(const struct topology *t, const struct partition_stats *s, const struct node *node) {
    if (s->leader || !node->cluster || t->silent >= SILENT_MAX) return false;
    if (!cluster_holds(node->cluster, t->next)) return true;
    struct cluster_peer peer;
    return s->leader_node && cluster_find(node->cluster, s->leader_node, &peer) && peer.links > 0;
}

static void topology_next(struct call *call, struct call_op *o) {
    struct topology *t = container_of(o, struct topology, op);
    const struct node *node = call_core(call)->node;
    struct partition_stats *s = &t->stats[t->next];
    if (o->op.failure.status && !t->asking) return serve_fail_with(call, &o->op.failure);
    if (o->op.failure.status) t->silent++;
    else if (t->asking) merge(s, &o->op.stats, node->identity.node_id);
    else *s = o->op.stats;
    if (!t->asking && node->cluster && !cluster_holds(node->cluster, t->next)) s->replica_count = 0, s->leader_node = 0; /* what this node knows of it is old, or nothing */
    if (!t->asking && is_to_ask(t, s, node)) return ask(call, t, true);
    if (++t->next < node->partition_count) return ask(call, t, false);
    struct slice wire = topology_wire(call, call_arena(call), t->stats);
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
