/* Leads that move on purpose: because somebody asked for it, or so that they spread (server/balance.c); and what a leader knows of the other replicas.
 *
 * A transfer costs the partition the time between the leader's last entry and the first of the new one: a round trip where the other holds all that is in the log, so who is far behind is
 * not asked. If it does not take the lead within an election timeout, the group goes on as before. */
#include <inttypes.h>

#include "engine/partition.h"
#include "proto/base/log.h"

static const struct group_member *member_of(const struct partition *p, uint64_t node_id) {
    const struct group_members *m = group_members(p->group);
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return &m->member[i];
    return NULL;
}

static enum status refuse_later(struct failure *f, enum status st, const char *why) {
    f->retry_delay_ms = RETRY_DELAY_MS;
    return failure_set(f, st, "%s", why);
}

enum status partition_transfer(struct partition *p, uint64_t node_id, struct failure *f) {
    const struct group_member *to = member_of(p, node_id);
    uint64_t last = group_last_index(p->group), stored = group_match(p->group, node_id);
    if (group_role(p->group) != GROUP_LEADER) return partition_not_leading(p, f);
    if (!to || to->kind != GROUP_VOTER)
        return failure_violation(f, STATUS_FIELD_INVALID, "to_node_id", "node %" PRIu64 " has no vote in partition %s", node_id, p->name), f->status;
    if (node_id == p->engine->config.node_id) return STATUS_OK;
    if (stored + TRANSFER_LAG_MAX < last) {
        f->retry_delay_ms = RETRY_DELAY_MS;
        return failure_set(f, STATUS_OVERLOADED, "node %" PRIu64 " is %" PRIu64 " entries behind in partition %s; at most %d", node_id, last - stored, p->name, TRANSFER_LAG_MAX);
    }
    enum status st = group_transfer(p->group, engine_now_ms(p->engine), node_id);
    if (st) return refuse_later(f, STATUS_OVERLOADED, "the partition is being handed over already, or its members change, or its leader is new");
    log_info("lead is handed over", "partition=%s to=%" PRIu64 " term=%" PRIu64 " behind=%" PRIu64, p->name, node_id, group_term(p->group), last - MIN_OF(stored, last));
    return STATUS_OK;
}

void partition_replicas(const struct partition *p, struct partition_stats *out) {
    const struct group_members *m = group_members(p->group);
    out->replica_count = m->count;
    for (uint32_t i = 0; i < m->count; i++) {
        uint64_t id = m->member[i].node_id;
        out->replicas[i] = (struct replica_stats){id, m->member[i].kind, id == p->engine->config.node_id ? p->record.applied_index : group_match(p->group, id)};
    }
}
