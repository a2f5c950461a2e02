/* AdminService: nodes of the cluster are added, drained, removed. Each is one command of the meta partition's log (engine/node_row.h); what follows from it, the nodes do by themselves, and
 * GetTopology shows how far they are.
 *
 * The meta partition's leader is asked for the nodes' rows first: what this node has learnt of them may be old, or, just after it began, nothing. In a cluster that was just founded there are none for a
 * moment, though GetTopology has all of its nodes from --peers; that is waited for. */
#include "engine/node_row.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/log.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_admin.h"
#include "server/serve_common.h"

#define LOOK_NS (20 * NS_PER_MS)
#define FOUNDED_NS (10 * NS_PER_S)

struct change {
    struct call_op op;
    struct call *call;
    struct timer timer;
    uint64_t until_ns;
    enum node_action action;
    uint64_t node_id;         /* 0: of whoever has the address */
    const char *peer_address; /* NULL: node_id says who */
};

/* false: failed. */
static bool needs_cluster(struct call *call) {
    if (call_core(call)->node->cluster) return true;
    failure_set(call_failure(call), STATUS_NODE_STATE, "this is a single node: only nodes that were started with --peers or --join are of a cluster");
    return call_fail(call), false;
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
static uint64_t find(struct cluster *c, struct slice list, const char *peer_address) {
    struct reader r = reader_of(list);
    for (struct node_row row; node_list_next(&r, &row);) {
        struct cluster_peer p;
        char text[ADDRESS_TEXT_BYTES];
        if (row.state == NODE_STATE_REMOVED) continue;
        bool known = cluster_find(c, row.node_id, &p) && p.address.len;
        if (known) address_format(&p.address.sa, text);
        if (slice_equal(known ? slice_str(text) : row.address, slice_str(peer_address))) return row.node_id;
    }
    return 0;
}

static void write_change(struct change *x) {
    struct command c = {.type = COMMAND_NODE, .node = {.action = (uint8_t)x->action, .node_id = x->node_id}};
    x->op.op = (struct op){.kind = OP_WRITE, .slot = SLOT_META, .command = command_encode(&c, call_arena(x->call))};
    if (!x->op.op.command.data) return serve_fail_memory(x->call);
    call_submit(x->call, &x->op, changed);
}

static void listed(struct call *call, struct call_op *o) {
    struct change *x = container_of(o, struct change, op);
    struct core *core = call_core(call);
    struct slice list = o->op.answer;
    if (o->op.failure.status) return serve_fail_with(call, &o->op.failure);
    if (!list.len && core->now_ns < x->until_ns && timer_set(&core->timers, &x->timer, core->now_ns + LOOK_NS)) return;
    if (x->peer_address) x->node_id = find(core->node->cluster, list, x->peer_address);
    if (x->node_id) return write_change(x);
    failure_meta(call_failure(call), "peer_address", "%.80s", x->peer_address);
    failure_set(call_failure(call), STATUS_NODE_NOT_FOUND, "no node of this cluster has the peer address %.80s: start it with --join first", x->peer_address);
    call_fail(call);
}

static void on_look(struct timer *t) {
    struct change *x = container_of(t, struct change, timer);
    x->op.op = (struct op){.kind = OP_NODES, .slot = SLOT_META};
    call_submit(x->call, &x->op, listed);
}

static void on_end(struct call *call) {
    struct change *x = *call_state(call);
    timer_clear(&call_core(call)->timers, &x->timer);
}

static void submit(struct call *call, enum node_action action, uint64_t node_id, const char *peer_address) {
    struct change *x = arena_new(call_arena(call), struct change);
    if (!x) return serve_fail_memory(call);
    *x = (struct change){.call = call, .action = action, .node_id = node_id, .peer_address = peer_address, .until_ns = call_core(call)->now_ns + FOUNDED_NS, .timer.fire = on_look};
    *call_state(call) = x;
    call_on_end(call, on_end);
    on_look(&x->timer);
}

void serve_add_node(struct call *call) {
    const Orderdb__V1__AddNodeRequest *m = (const void *)serve_decode(call, &orderdb__v1__add_node_request__descriptor);
    if (m && needs_cluster(call)) submit(call, NODE_ADD, 0, m->peer_address);
}

void serve_drain_node(struct call *call) {
    const Orderdb__V1__DrainNodeRequest *m = (const void *)serve_decode(call, &orderdb__v1__drain_node_request__descriptor);
    if (m && id_is_one(call, m->node_id) && needs_cluster(call)) submit(call, NODE_DRAIN, m->node_id, NULL);
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
    else submit(call, NODE_REMOVE, m->node_id, NULL);
}
