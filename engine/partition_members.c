/* The members of a partition follow those that are wanted (engine_want; docs/CLUSTER.md, "Members that change"). Nobody drives a change from outside: who leads the partition looks, from
 * time to time, at what its members are and at what they should be, and takes the next step. All state there is are the members themselves, in the log, and what is wanted; a leader
 * that dies is followed by one that goes on where it stood.
 *
 * One step at a time, and the next when all that stay have stored the last (group_change). In this order, so that a partition never has fewer replicas than it must:
 *
 *   a learner that is not wanted goes                                          (an addition that was taken back)
 *   a voter that is not wanted and has been dead for DEAD_LOOKS goes           (else its silence would stand in the way of all that follows)
 *   a learner that holds all but PROMOTE_LAG entries becomes a voter
 *   a wanted node comes as learner; it gets log or snapshot, and no vote; LEARNERS_MAX partitions of a core at a time, one of each
 *   when all wanted ones vote: a voter that is not wanted goes
 *   this leader is not wanted: it gives the lead to one that is, which removes it
 *
 * Where there is no room for one more member, one that is not wanted goes first. */
#include <inttypes.h>

#include "engine/partition.h"
#include "proto/base/log.h"

enum { PROMOTE_LAG = 64, DEAD_LAG = 4096, DEAD_LOOKS = 10, LEARNERS_MAX = 2 };
#define LOOK_NS (200 * NS_PER_MS)

enum step { STEP_NONE, STEP_ADD, STEP_PROMOTE, STEP_REMOVE, STEP_LEAVE };
static const char *const step_names[] = {"none", "add", "promote", "remove", "leave"};

struct plan {
    enum step step;
    uint64_t node_id;
};

static bool wants(const struct partition *p, uint64_t node_id) {
    for (uint32_t i = 0; i < p->wanted.count; i++)
        if (p->wanted.node_id[i] == node_id) return true;
    return false;
}

static bool is_voter(const struct group_members *m, uint64_t node_id) {
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return m->member[i].kind == GROUP_VOTER;
    return false;
}

static bool is_there(const struct group_members *m, uint64_t node_id) {
    for (uint32_t i = 0; i < m->count; i++)
        if (m->member[i].node_id == node_id) return true;
    return false;
}

/* Of a node that is not wanted: it has not stored the members as they are, or very much less than there is, at each of the last looks. */
static bool is_dead(struct partition *p, const struct group_members *m, uint64_t node_id) {
    uint64_t stored = group_match(p->group, node_id);
    bool silent = stored < m->index || stored + DEAD_LAG < group_last_index(p->group);
    if (p->silent_node != node_id || !silent) p->silent_node = silent ? node_id : 0, p->silent_looks = 0;
    return silent && ++p->silent_looks >= DEAD_LOOKS;
}

static unsigned learners(const struct engine *e) {
    unsigned n = 0;
    for (uint32_t i = 0; i < e->held_count; i++) {
        const struct group_members *m = group_members(e->partitions[i].group);
        bool has = false;
        for (uint32_t k = 0; k < m->count; k++) has |= m->member[k].kind != GROUP_VOTER;
        n += has && group_role(e->partitions[i].group) == GROUP_LEADER;
    }
    return n;
}

static struct plan next_step(struct partition *p, const struct group_members *m) {
    struct engine *e = p->engine;
    uint64_t self = e->config.node_id, extra = 0, last = group_last_index(p->group);
    bool learns = false, all_vote = true;
    for (uint32_t i = 0; i < m->count; i++) {
        const struct group_member *at = &m->member[i];
        if (at->kind != GROUP_VOTER && !wants(p, at->node_id)) return (struct plan){STEP_REMOVE, at->node_id};
        learns |= at->kind != GROUP_VOTER;
        if (!extra && at->node_id != self && !wants(p, at->node_id)) extra = at->node_id;
    }
    if (extra && is_dead(p, m, extra)) return (struct plan){STEP_REMOVE, extra};
    for (uint32_t i = 0; i < m->count; i++) {
        uint64_t stored = group_match(p->group, m->member[i].node_id);
        if (m->member[i].kind != GROUP_VOTER && stored >= m->index && stored + PROMOTE_LAG >= last) return (struct plan){STEP_PROMOTE, m->member[i].node_id};
    }
    for (uint32_t i = 0; i < p->wanted.count; i++) {
        all_vote &= is_voter(m, p->wanted.node_id[i]);
        if (is_there(m, p->wanted.node_id[i]) || learns) continue;
        if (m->count == GROUP_MEMBERS_MAX) return extra ? (struct plan){STEP_REMOVE, extra} : (struct plan){STEP_NONE, 0};
        if (learners(e) < LEARNERS_MAX) return (struct plan){STEP_ADD, p->wanted.node_id[i]};
    }
    if (!all_vote) return (struct plan){STEP_NONE, 0};
    if (extra) return (struct plan){STEP_REMOVE, extra};
    return (struct plan){wants(p, self) ? STEP_NONE : STEP_LEAVE, self};
}

static struct group_members members_after(const struct group_members *m, struct plan plan) {
    struct group_members to = {0};
    for (uint32_t i = 0; i < m->count; i++) {
        struct group_member at = m->member[i];
        if (plan.step == STEP_REMOVE && at.node_id == plan.node_id) continue;
        if (plan.step == STEP_PROMOTE && at.node_id == plan.node_id) at.kind = GROUP_VOTER;
        to.member[to.count++] = at;
    }
    if (plan.step == STEP_ADD) to.member[to.count++] = (struct group_member){plan.node_id, GROUP_LEARNER};
    return to;
}

/* To the wanted voter that holds most. */
static void leave(struct partition *p) {
    const struct engine_wanted *w = &p->wanted;
    struct failure f;
    uint64_t best = 0;
    failure_init(&f, &p->engine->scratch);
    for (uint32_t i = 0; i < w->count; i++)
        if (!best || group_match(p->group, w->node_id[i]) > group_match(p->group, best)) best = w->node_id[i];
    if (best) (void)partition_transfer(p, best, &f); /* refused: at the next look */
    arena_reset(&p->engine->scratch);
}

void partition_members_look(struct partition *p) {
    struct engine *e = p->engine;
    if (!p->wanted.count || e->now_ns < p->members_look_ns || e->yields) return;
    p->members_look_ns = e->now_ns + LOOK_NS;
    if (p->state != PARTITION_READY || !group_ready(p->group)) return;
    const struct group_members *m = group_members(p->group);
    struct plan plan = next_step(p, m);
    if (plan.step == STEP_NONE) return;
    if (plan.step == STEP_LEAVE) return leave(p);
    struct group_members to = members_after(m, plan);
    if (group_change(p->group, engine_now_ms(e), &to)) return; /* the last step is not stored by all yet: at the next look */
    p->silent_node = 0, p->silent_looks = 0;
    log_info("members change", "partition=%s step=%s node=%" PRIu64 " members=%u", p->name, step_names[plan.step], plan.node_id, to.count);
}

void engine_want(struct engine *e, uint32_t partition, const struct engine_wanted *wanted) {
    check(wanted->count <= GROUP_MEMBERS_MAX);
    struct partition *p = partition == PARTITION_META ? e->meta : partition < e->config.partition_count ? e->by_id[partition] : NULL;
    if (!p) return;
    bool others = wanted->count != p->wanted.count || memcmp(wanted->node_id, p->wanted.node_id, wanted->count * sizeof wanted->node_id[0]) != 0;
    /* What a start reads of the nodes there are, before any leader has said what is committed, is what was flushed. */
    if (others && p == e->meta) p->flush_wanted = true;
    p->wanted = *wanted;
}
