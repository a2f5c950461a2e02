/* AdminService/TransferLeader: the partition's leader is asked to hand over (OP_TRANSFER), and this node's own replica tells when the other leads. */
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/log.h"
#include "proto/route.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_admin.h"
#include "server/serve_common.h"

#define LOOK_NS (20 * NS_PER_MS)
#define PATIENCE_NS (5 * NS_PER_S)

struct transfer {
    struct call_op op;
    struct call *call;
    struct timer timer;
    int32_t partition_id;
    uint64_t to, until_ns;
};

static void on_look(struct timer *t);

static void looked(struct call *call, struct call_op *o) {
    struct transfer *x = container_of(o, struct transfer, op);
    struct core *core = call_core(call);
    if (o->op.failure.status) return serve_fail_with(call, &o->op.failure);
    if (o->op.stats.leader_node == x->to && (!o->op.stats.leader || o->op.stats.ready)) return serve_topology(call);
    if (core->now_ns < x->until_ns && timer_set(&core->timers, &x->timer, core->now_ns + LOOK_NS)) return;
    failure_set(call_failure(call), STATUS_DEADLINE_EXCEEDED, "node %llu was asked to lead partition %d and does not lead it yet", (unsigned long long)x->to, x->partition_id);
    call_fail(call);
}

/* This node's replica knows who leads. */
static bool knows(const struct transfer *x) {
    const struct node *node = call_core(x->call)->node;
    return x->partition_id < 0 || !node->cluster || cluster_holds(node->cluster, (uint32_t)x->partition_id);
}

static void on_look(struct timer *t) {
    struct transfer *x = container_of(t, struct transfer, timer);
    x->op.op.kind = OP_STATS, x->op.op.any_replica = knows(x); /* else its leader says */
    call_submit(x->call, &x->op, looked);
}

static void asked(struct call *call, struct call_op *o) {
    struct transfer *x = container_of(o, struct transfer, op);
    if (o->op.failure.status) return serve_fail_with(call, &o->op.failure);
    on_look(&x->timer);
}

static void on_end(struct call *call) {
    struct transfer *x = *call_state(call);
    timer_clear(&call_core(call)->timers, &x->timer);
}

static bool is_connected(const struct node *node, uint64_t node_id) {
    if (node_id == node->identity.node_id) return true;
    struct cluster_peer peer;
    if (node->cluster && cluster_find(node->cluster, node_id, &peer)) return peer.links > 0;
    return true; /* not one of ours: the partition's leader says so */
}

void serve_transfer_leader(struct call *call) {
    const Orderdb__V1__TransferLeaderRequest *m = (const void *)serve_decode(call, &orderdb__v1__transfer_leader_request__descriptor);
    if (!m) return;
    struct core *core = call_core(call);
    const struct node *node = core->node;
    struct failure *f = call_failure(call);
    if (m->partition_id < -1 || m->partition_id >= (int32_t)node->partition_count) {
        failure_violation(f, STATUS_FIELD_INVALID, "partition_id", "%d: there are partitions 0 to %u, and -1, the meta partition", m->partition_id, node->partition_count - 1);
        return call_fail(call);
    }
    if (!is_connected(node, m->to_node_id)) {
        f->retry_delay_ms = SERVE_RETRY_DELAY_MS;
        failure_set(f, STATUS_NOT_LEADER, "node %llu is not connected: it can't lead now", (unsigned long long)m->to_node_id);
        return call_fail(call);
    }
    struct transfer *x = arena_new(call_arena(call), struct transfer);
    if (!x) return serve_fail_memory(call);
    *x = (struct transfer){.call = call, .partition_id = m->partition_id, .to = m->to_node_id, .until_ns = core->now_ns + PATIENCE_NS, .timer.fire = on_look};
    *call_state(call) = x;
    call_on_end(call, on_end);
    log_info("a lead is to move", "partition=%d to=%llu", m->partition_id, (unsigned long long)m->to_node_id);
    x->op.op = (struct op){.kind = OP_TRANSFER, .slot = m->partition_id < 0 ? SLOT_META : partition_first_slot((uint32_t)m->partition_id, node->partition_count), .to_node_id = m->to_node_id};
    call_submit(call, &x->op, asked);
}
