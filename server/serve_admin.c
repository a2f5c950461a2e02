/* AdminService: what this node is and holds. A topology is put together partition by partition: one op to each owner, one after the other, so that the
 * call is all the state there is. */
#include "orderdb/v1/admin.pb-c.h"
#include "proto/route.h"
#include "server/call.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_common.h"

enum { TOPOLOGY_EPOCH = 1 /* the map of a single node never changes */ };

struct topology {
    struct call_op op;
    uint32_t next;
    struct partition_stats stats[];
};

static bool partition_message(struct arena *a, const struct partition_stats *s, uint64_t node_id, Orderdb__V1__Topology__Partition **out) {
    struct {
        Orderdb__V1__Topology__Partition partition;
        Orderdb__V1__Topology__SlotRange range, *ranges[1];
        Orderdb__V1__Topology__Replica replica, *replicas[1];
    } *m = arena_zalloc(a, sizeof *m);
    if (!m) return false;
    orderdb__v1__topology__partition__init(&m->partition);
    orderdb__v1__topology__slot_range__init(&m->range);
    orderdb__v1__topology__replica__init(&m->replica);
    m->range.first = s->first_slot, m->range.last = s->last_slot;
    m->ranges[0] = &m->range;
    m->replica.node_id = node_id, m->replica.role = (char *)"VOTER", m->replica.applied_index = (int64_t)s->applied_index;
    m->replicas[0] = &m->replica;
    m->partition.partition_id = (int32_t)s->partition;
    m->partition.n_slots = 1, m->partition.slots = m->ranges;
    m->partition.n_replicas = 1, m->partition.replicas = m->replicas;
    m->partition.leader_node_id = s->ready ? node_id : 0;
    m->partition.epoch = TOPOLOGY_EPOCH;
    m->partition.orders = (int64_t)s->orders;
    m->partition.bytes = (int64_t)(s->table_bytes + s->memtable_bytes);
    m->partition.writes_per_second = s->writes_per_second;
    m->partition.reads_per_second = s->reads_per_second;
    *out = &m->partition;
    return true;
}

static struct slice topology_wire(struct call *call, const struct topology *t) {
    struct arena *a = call_arena(call);
    const struct node *node = call_core(call)->node;
    Orderdb__V1__Topology__Node n = ORDERDB__V1__TOPOLOGY__NODE__INIT, *nodes[] = {&n};
    Orderdb__V1__Topology__Partition **partitions = arena_array(a, Orderdb__V1__Topology__Partition *, node->partition_count);
    if (!partitions) return (struct slice){0};
    n.node_id = node->identity.node_id;
    n.client_address = (char *)node->client_address;
    n.peer_address = (char *)node->peer_address;
    n.state = (char *)(call_core(call)->draining ? "DRAINING" : "UP");
    n.version = (char *)ORDERDB_VERSION;
    for (uint32_t i = 0; i < node->partition_count; i++)
        if (!partition_message(a, &t->stats[i], node->identity.node_id, &partitions[i])) return (struct slice){0};
    Orderdb__V1__Topology m = ORDERDB__V1__TOPOLOGY__INIT;
    m.epoch = TOPOLOGY_EPOCH;
    m.n_nodes = 1, m.nodes = nodes;
    m.n_partitions = node->partition_count, m.partitions = partitions;
    uint8_t *bytes = arena_alloc(a, orderdb__v1__topology__get_packed_size(&m) + 1);
    return bytes ? slice_of(bytes, orderdb__v1__topology__pack(&m, bytes)) : (struct slice){0};
}

static void topology_next(struct call *call, struct call_op *o) {
    struct topology *t = container_of(o, struct topology, op);
    const struct node *node = call_core(call)->node;
    if (o->op.failure.status) {
        serve_fail_with(call, &o->op.failure);
        return;
    }
    t->stats[t->next++] = o->op.stats;
    if (t->next < node->partition_count) {
        o->op.slot = partition_first_slot(t->next, node->partition_count);
        call_submit(call, o, topology_next);
        return;
    }
    struct slice wire = topology_wire(call, t);
    if (!wire.data) serve_fail_memory(call);
    else call_reply(call, &wire, 1);
}

void serve_get_topology(struct call *call) {
    if (!serve_decode(call, &orderdb__v1__get_topology_request__descriptor)) return;
    const struct node *node = call_core(call)->node;
    struct arena *a = call_arena_take(call); /* the call's own is bounded by the message until an op is sent */
    struct topology *t = a ? arena_zalloc(a, sizeof *t + node->partition_count * sizeof t->stats[0]) : NULL;
    if (!t) {
        serve_fail_memory(call);
        return;
    }
    t->op.op = (struct op){.kind = OP_STATS, .slot = partition_first_slot(0, node->partition_count), .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    call_submit(call, &t->op, topology_next);
}
