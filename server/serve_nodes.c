/* AdminService: nodes of the cluster are added, drained, removed. Each is one command of the meta partition's log (engine/node_row.h); what follows from it, the nodes do by themselves, and
 * GetTopology shows how far they are. */
#include "engine/node_row.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/log.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_admin.h"
#include "server/serve_common.h"

struct change {
    struct call_op op;
    enum node_action action;
    uint64_t node_id;
};

/* false: failed. */
static bool needs_cluster(struct call *call) {
    if (call_core(call)->node->cluster) return true;
    failure_set(call_failure(call), STATUS_NODE_STATE, "this is a single node: only nodes that were started with --peers or --join are of a cluster");
    return call_fail(call), false;
}

static void submit(struct call *call, enum node_action action, uint64_t node_id, void (*next)(struct call *call, struct call_op *o)) {
    struct change *x = arena_new(call_arena(call), struct change);
    if (!x) return serve_fail_memory(call);
    struct command c = {.type = COMMAND_NODE, .node = {.action = (uint8_t)action, .node_id = node_id}};
    *x = (struct change){.action = action, .node_id = node_id, .op.op = {.kind = OP_WRITE, .slot = SLOT_META}};
    x->op.op.command = command_encode(&c, call_arena(call));
    if (!x->op.op.command.data) return serve_fail_memory(call);
    call_submit(call, &x->op, next);
}

static bool id_is_one(struct call *call, uint64_t node_id) {
    if (node_id >= 1 && node_id <= NODE_ID_MAX) return true;
    failure_violation(call_failure(call), STATUS_FIELD_INVALID, "node_id", "%llu: a node's id is 1 to %llu", (unsigned long long)node_id, (unsigned long long)NODE_ID_MAX);
    return call_fail(call), false;
}

/* An Operation of ours has no row of its own: the node's state is all there is, and tells how far it is. */
static void reply_operation(struct call *call, uint64_t node_id, const char *kind, const char *message, char **plan, size_t plan_count) {
    Orderdb__V1__Operation m = ORDERDB__V1__OPERATION__INIT;
    m.operation_id = arena_printf(call_arena(call), "%s-%llu", kind, (unsigned long long)node_id);
    m.kind = (char *)(uintptr_t)kind, m.state = (char *)(plan_count ? "DONE" : "RUNNING"), m.message = (char *)(uintptr_t)message;
    m.n_plan = plan_count, m.plan = plan;
    uint8_t *bytes = m.operation_id ? arena_alloc(call_arena(call), orderdb__v1__operation__get_packed_size(&m)) : NULL;
    if (!bytes) return serve_fail_memory(call);
    serve_reply(call, slice_of(bytes, orderdb__v1__operation__pack(&m, bytes)));
}

static void changed(struct call *call, struct call_op *o) {
    struct change *x = container_of(o, struct change, op);
    if (o->op.failure.status == STATUS_NODE_NOT_FOUND || o->op.failure.status == STATUS_NODE_STATE) failure_meta(&o->op.failure, "node_id", "%llu", (unsigned long long)x->node_id);
    if (o->op.failure.status) return serve_fail_with(call, &o->op.failure);
    log_info("a node's state was set", "node=%llu action=%s", (unsigned long long)x->node_id, x->action == NODE_ADD ? "add" : x->action == NODE_DRAIN ? "drain" : "remove");
    if (x->action == NODE_ADD) return serve_topology(call);
    if (x->action == NODE_DRAIN) return reply_operation(call, x->node_id, "drain-node", "its leads go to other nodes; it stays a member until it is removed, or added again to lead", NULL, 0);
    reply_operation(call, x->node_id, "remove-node", "each partition's leader removes it; when it is a member of none its state is REMOVED", NULL, 0);
}

/* By the address that it joined with, for the contract has no id here. */
static uint64_t find(struct cluster *c, const char *peer_address) {
    for (uint32_t i = 0; i < cluster_count(c); i++) {
        struct cluster_peer p = cluster_see(c, i);
        char text[ADDRESS_TEXT_BYTES];
        if (!p.address.len || p.state == NODE_STATE_REMOVED) continue;
        address_format(&p.address.sa, text);
        if (strcmp(text, peer_address) == 0) return p.node_id;
    }
    return 0;
}

void serve_add_node(struct call *call) {
    const Orderdb__V1__AddNodeRequest *m = (const void *)serve_decode(call, &orderdb__v1__add_node_request__descriptor);
    if (!m || !needs_cluster(call)) return;
    uint64_t id = find(call_core(call)->node->cluster, m->peer_address);
    if (id) return submit(call, NODE_ADD, id, changed);
    failure_meta(call_failure(call), "peer_address", "%.80s", m->peer_address);
    failure_set(call_failure(call), STATUS_NODE_NOT_FOUND, "no node of this cluster has the peer address %.80s: start it with --join first", m->peer_address);
    call_fail(call);
}

void serve_drain_node(struct call *call) {
    const Orderdb__V1__DrainNodeRequest *m = (const void *)serve_decode(call, &orderdb__v1__drain_node_request__descriptor);
    if (m && id_is_one(call, m->node_id) && needs_cluster(call)) submit(call, NODE_DRAIN, m->node_id, changed);
}

/* What would be done, without asking whether the meta partition would take it. */
static void reply_plan(struct call *call, uint64_t node_id) {
    const struct node *node = call_core(call)->node;
    char *plan[2] = {arena_printf(call_arena(call), "node %llu hands over what it leads", (unsigned long long)node_id),
                     arena_printf(call_arena(call), "%u partitions and the meta partition remove it, one after the other, each when all that stay have stored the step before", node->partition_count)};
    if (!plan[0] || !plan[1]) return serve_fail_memory(call);
    reply_operation(call, node_id, "remove-node", "nothing was done", plan, 2);
}

void serve_remove_node(struct call *call) {
    const Orderdb__V1__RemoveNodeRequest *m = (const void *)serve_decode(call, &orderdb__v1__remove_node_request__descriptor);
    if (!m || !id_is_one(call, m->node_id) || !needs_cluster(call)) return;
    if (m->dry_run) reply_plan(call, m->node_id);
    else submit(call, NODE_REMOVE, m->node_id, changed);
}
