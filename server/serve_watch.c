/* AdminService/WatchTopology: what is needed to find leaders, from what this node's cores have written down (leads.h); no op, nobody is asked. Whenever that changes a watcher is told all of it
 * anew, one message at a time: who reads slowly misses what was true in between, and nothing is kept for it. It ends with the node's drain, after the message that says so. */
#include "orderdb/v1/admin.pb-c.h"
#include "proto/route.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/leads.h"
#include "server/node.h"
#include "server/serve_common.h"
#include "server/topology.h"

enum { WATCHERS_MAX = 1024 /* of a core */ };

/* In the arena of a WatchTopology. */
struct watch {
    bool begun, drained; /* as it was told */
    uint64_t changes;    /* that were told */
    struct arena *message; /* on its way, NULL: none is */
};

static struct slice watch_wire(struct call *call, struct arena *a) {
    const struct node *node = call_core(call)->node;
    struct partition_stats *stats = arena_array(a, struct partition_stats, (size_t)node->partition_count);
    for (uint32_t i = 0; stats && i < node->partition_count; i++) {
        struct leads_row row = leads_see(node->leads, i);
        struct partition_stats *s = &stats[i];
        s->partition = i, s->first_slot = partition_first_slot(i, node->partition_count), s->last_slot = partition_last_slot(i, node->partition_count);
        s->leader_node = row.leader, s->term = row.term, s->replica_count = row.replica_count;
        for (uint32_t k = 0; k < row.replica_count; k++) s->replicas[k] = row.replicas[k];
        if (node->cluster && !cluster_holds(node->cluster, i)) s->leader_node = 0, s->replica_count = 0; /* what this node knows of it is old, or nothing */
    }
    return stats ? topology_wire(call, a, stats) : (struct slice){0};
}

static void watch_tell(struct call *call) {
    struct watch *w = *call_state(call);
    const struct core *core = call_core(call);
    if (call_sending(call)) return; /* comes again when that is sent */
    if (w->message) call_arena_give(call, w->message);
    w->message = NULL;
    uint64_t changes = leads_changes(core->node);
    if (!w->begun || changes != w->changes || core->draining != w->drained) {
        w->begun = true, w->changes = changes, w->drained = core->draining;
        w->message = call_arena_take(call);
        struct slice wire = w->message ? watch_wire(call, w->message) : (struct slice){0};
        if (!wire.data) return serve_fail_memory(call);
        return call_send(call, wire, watch_tell);
    }
    if (!core->draining) return;
    failure_set(call_failure(call), STATUS_DRAINING, "this node is shutting down: watch another one");
    call_fail(call);
}

static void watch_end(struct call *call) { call_core(call)->topology_watchers--; }

void serve_watch_topology(struct call *call) {
    struct core *core = call_core(call);
    if (!serve_decode(call, &orderdb__v1__get_topology_request__descriptor)) return;
    if (core->topology_watchers >= WATCHERS_MAX) {
        failure_set(call_failure(call), STATUS_OVERLOADED, "this node has as many watchers of the topology as it may (%d a core)", WATCHERS_MAX);
        return call_fail(call);
    }
    struct watch *w = arena_new(call_arena(call), struct watch);
    if (!w) return serve_fail_memory(call);
    core->topology_watchers++;
    *call_state(call) = w;
    call_on_end(call, watch_end);
    call_watch_core(call, watch_tell);
    watch_tell(call);
}
