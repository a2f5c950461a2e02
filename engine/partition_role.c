/* A partition as one of several replicas (docs/CLUSTER.md): frames to the other nodes, and who leads.
 *
 * Sends. A frame may leave when all earlier vote effects are durable. While the votes file has something to write, frames gather in the engine's outbox and go when it is
 * clean; a full outbox loses frames, as a network does.
 *
 * Lost lead. Ops that wait for the log had no effect. Ops in the log may have had one: they are answered at once with NOT_LEADER, whose advice is the same request_id.
 * Nothing is answered later by index: what stands there then may be another leader's. */
#include <inttypes.h>

#include "engine/partition_snapshot.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

struct out_frame {
    struct list link;
    uint64_t group_id, node_id;
    size_t len;
    uint8_t bytes[];
};

/* ---- frames out */

static void send_now(struct engine *e, uint64_t group_id, uint64_t node_id, struct slice frame) { e->config.send(e->config.send_ctx, group_id, node_id, frame); }

void engine_outbox_run(struct engine *e) {
    if (votes_dirty(e->votes) || votes_busy(e->votes)) return;
    for (struct list *l; (l = list_pop_front(&e->outbox));) {
        struct out_frame *f = list_entry(l, struct out_frame, link);
        e->outbox_bytes -= f->len;
        send_now(e, f->group_id, f->node_id, slice_of(f->bytes, f->len));
        mem_free(f);
    }
}

void engine_outbox_free(struct engine *e) {
    for (struct list *l; (l = list_pop_front(&e->outbox));) mem_free(list_entry(l, struct out_frame, link));
}

static void role_on_send(void *ctx, uint64_t node_id, struct slice frame) {
    struct partition *p = ctx;
    struct engine *e = p->engine;
    check(e->config.send);
    if (!votes_dirty(e->votes) && !votes_busy(e->votes) && list_empty(&e->outbox)) {
        send_now(e, p->group_id, node_id, frame);
        return;
    }
    struct out_frame *f = e->outbox_bytes + frame.len <= OUTBOX_BYTES_MAX ? mem_alloc(sizeof *f + frame.len) : NULL;
    if (!f) {
        e->stats.frames_lost++;
        return;
    }
    *f = (struct out_frame){.group_id = p->group_id, .node_id = node_id, .len = frame.len};
    memcpy(f->bytes, frame.data, frame.len);
    e->outbox_bytes += frame.len;
    list_push_back(&e->outbox, &f->link);
}

/* ---- who leads */

/* Why this node does not answer for the partition. */
enum status partition_not_leading(struct partition *p, struct failure *f) {
    uint64_t leader = group_leader(p->group), self = p->engine->config.node_id;
    f->retry_delay_ms = RETRY_DELAY_MS;
    if (p->record.members.count <= 1 || leader == self) return failure_set(f, STATUS_NOT_LEADER, "partition %s is still starting", p->name);
    if (!leader) return failure_set(f, STATUS_NOT_LEADER, "partition %s has no leader at the moment", p->name);
    failure_meta(f, "leader_node_id", "%" PRIu64, leader);
    return failure_set(f, STATUS_NOT_LEADER, "partition %s is led by node %" PRIu64, p->name, leader);
}

void partition_tell_damage(const struct partition *p, const struct store_damage *d, struct failure *f) {
    if (f->status != STATUS_CHECKSUM_MISMATCH) return;
    failure_meta(f, "partition", "%s", p->name);
    if (d->file[0]) failure_meta(f, "file", "%s", d->file);
    if (d->file[0] && d->offset >= 0) failure_meta(f, "offset", "%" PRId64, d->offset);
}

void partition_refuse(struct partition *p, struct list *ops, enum status st, const char *why) {
    for (struct list *l; (l = list_pop_front(ops));) {
        struct op *op = list_entry(l, struct op, link);
        failure_set(&op->failure, st, "%s", why);
        partition_tell_damage(p, &p->damage, &op->failure);
        op->maybe |= ops == &p->proposed;
        engine_finish(p->engine, op);
    }
}

/* Whatever the new role: nothing of an earlier term of ours is decided by index any more. */
static void role_on_role(void *ctx, enum group_role role, uint64_t term, uint64_t leader_node_id) {
    struct partition *p = ctx;
    log_info("role", "partition=%s role=%s term=%" PRIu64 " leader=%" PRIu64, p->name, role == GROUP_LEADER ? "leader" : role == GROUP_CANDIDATE ? "candidate" : "follower", term,
             leader_node_id);
    partition_present_refuse(p, STATUS_NOT_LEADER, "the partition has another leader, or none");
    if (role == GROUP_LEADER) return;
    if (p->state == PARTITION_READY) p->state = PARTITION_OPENING;
    partition_refuse(p, &p->waiting, STATUS_NOT_LEADER, "this node no longer leads the partition; nothing was done");
    partition_refuse(p, &p->proposed, STATUS_NOT_LEADER, "this node no longer leads the partition; the write may have been logged: send it again with the same request_id");
    partition_group_close(p, STATUS_NOT_LEADER, "this node no longer leads the partition");
}

bool partition_leads_others(const struct partition *p) { return p->record.members.count > 1 && group_role(p->group) == GROUP_LEADER; }

/* A store that is opened again shows less for a while (shown_index). */
bool partition_leads_knowing(const struct partition *p) {
    return group_role(p->group) == GROUP_LEADER && p->record.applied_term == group_term(p->group) && p->record.applied_index >= p->shown_index;
}

/* While a transfer runs the group takes nothing: what comes waits, and is refused when the lead is gone. One that does not succeed ends by itself; then each member by turns is left out. */
void partition_yield(struct partition *p) {
    const struct group_members *m = &p->record.members;
    if (!partition_leads_others(p)) return;
    uint64_t except = p->offers ? m->member[p->offers % m->count].node_id : 0;
    enum status st = group_hand_over(p->group, engine_now_ms(p->engine), except);
    if (st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED) return; /* one runs, or it is too early: at the next housekeeping */
    p->offers++, p->offered_ns = p->engine->now_ns;
    if (!st) log_info("lead is handed over", "partition=%s", p->name);
}

/* Without room for writes it is of no use as a leader, and another may have some. If nobody has, the lead goes round, seldom. */
void partition_yield_full(struct partition *p) {
    struct engine *e = p->engine;
    if ((e->disk_full || p->state == PARTITION_FAILED) && (!p->offered_ns || e->now_ns - p->offered_ns >= YIELD_AGAIN_NS)) partition_yield(p);
}

bool partition_votes(const struct partition *p) {
    const struct group_members *m = &p->record.members;
    for (uint32_t i = 0; i < m->count && !p->away; i++)
        if (m->member[i].node_id == p->engine->config.node_id) return m->member[i].kind == GROUP_VOTER;
    return false;
}

bool partition_elsewhere(const struct partition *p) {
    for (uint32_t i = 0; i < p->wanted.count; i++)
        if (p->wanted.node_id[i] == p->engine->config.node_id) return false;
    return p->wanted.count > 0;
}

/* Of a partition that others are to hold there is nothing to wait for; what this node still has of it goes. */
bool partition_settled(const struct partition *p) {
    if (p->state != PARTITION_OPENING) return true;
    return partition_elsewhere(p) || (group_role(p->group) == GROUP_FOLLOWER && group_leader(p->group) != 0);
}

/* A follower whose leader is known shows what is committed, some moments late; who is still to get what there is would show a part of it. The meta partition's rows are read early: nothing
 * follows from those of a while ago that would not have followed then. */
bool partition_shows(const struct partition *p) {
    return group_role(p->group) == GROUP_FOLLOWER && group_leader(p->group) != 0 && (p->id == PARTITION_META || partition_votes(p));
}

static void role_on_vote(void *ctx, uint64_t term, uint64_t voted_for) {
    struct partition *p = ctx;
    check(votes_set(p->engine->votes, p->group_id, term, p->returning ? VOTE_MAY_NOT : p->away ? partition_away_vote(p, voted_for) : voted_for) == STATUS_OK);
}

static void role_on_append(void *ctx, const struct group_entry *entries, size_t n) {
    struct partition *p = ctx;
    p->next_stage = MIN_OF(p->next_stage, entries[0].index); /* staged by the next tick; an entry that supersedes is staged again */
}

/* The offer goes by the group's own message; the replica asks for the state then (partition_source.c). */
static void role_on_install(void *ctx, uint64_t node_id, uint64_t index) {
    struct partition *p = ctx;
    p->engine->stats.followers_behind++;
}

/* A flush tells the group of a snapshot that covers them. Without this a replica of an idle partition would wait for the next write. */
static void role_on_lacking(void *ctx, uint64_t node_id) { ((struct partition *)ctx)->flush_wanted = true; }
static void role_on_offer(void *ctx, uint64_t node_id, const struct group_snapshot *snapshot) { partition_fetch_offered(ctx, node_id, snapshot->index); }
static void role_on_fetch(void *ctx, uint64_t node_id, const struct group_snapshot *snapshot) { partition_fetch_voided(ctx, snapshot->index); }

const struct group_ops partition_group_ops = {
    .vote = role_on_vote,
    .append = role_on_append,
    .send = role_on_send,
    .role = role_on_role,
    .install = role_on_install,
    .fetch = role_on_fetch,
    .offer = role_on_offer,
    .lacking = role_on_lacking,
};

/* ---- frames in */

static enum status receive_own(struct partition *p, uint64_t from, struct slice frame) {
    struct peer_message m;
    if (peer_decode(frame, &m, NULL) || m.group != p->group_id || m.from != from || m.to != p->engine->config.node_id) return STATUS_FIELD_INVALID;
    if (m.kind == PEER_FETCH) partition_source_asked(p, &m);
    else if (m.kind == PEER_CHUNK) partition_fetch_came(p, &m);
    else partition_return_receive(p, &m);
    return STATUS_OK;
}

enum status partition_receive(struct partition *p, uint64_t from_node_id, struct slice frame) {
    unsigned kind = peer_frame_kind(frame);
    if (partition_away_deaf(p, kind)) return STATUS_OK;
    if (kind >= PEER_FETCH && kind <= PEER_RETURNED) return receive_own(p, from_node_id, frame);
    if (partition_return_deaf(p, kind)) return STATUS_OK;
    return group_receive(p->group, engine_now_ms(p->engine), from_node_id, frame);
}
