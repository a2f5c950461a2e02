/* A partition that this node holds no more: what it has of it goes, and it may hold it again later (docs/CLUSTER.md, "What a node holds no more").
 *
 * Who was removed hears nothing of it: its leader sends it nothing any more. So a node that is not wanted for a partition (engine_want), and has something of it, asks those that are (RETURN of
 * peer.h). Who leads there, has committed in its term, and has committed members without the asker, answers that it is GONE, with the index of the entry that set them. That is believed when
 * nothing newer about members is in this replica's own log: who was added again has not acknowledged the entry that did so, and gets its vote only when it has.
 *
 *   told -> MARKED: VOTE_WIPES | index in the votes file, in place of a vote; deaf from here on
 *        -> LOGGED: ENTRY_RESTART at GROUP_FIRST_INDEX is in the log, behind the marker (entries never reach the disk before votes): of what stood before it nothing counts
 *        -> [no job and no read is away] the store is put aside, for a job to remove its files, an empty one is made, the group is opened anew, as that of a node that has only joined
 *        -> EMPTY: VOTE_AWAY | index: it stores and acknowledges what a leader sends, should one add it again, but it gives no vote and does not stand
 *        -> [it holds the entry at index again, committed and durable] a replica as any other
 *
 * Why it may not vote before. It may be one of the majority that holds the entries by which others were added or removed. Forgotten, a node that was cut off ever since might win an election of
 * the old members with its vote: two leaders. What it has ever acknowledged that counts stands before index; with that again, it refuses whom it would have refused. And its term never goes back: it takes
 * over that of the leader that told it, if that is later. So a leader of before gets no acknowledgement, and no answer to a round, that it would not have got (Raft dissertation, 4.1, 6.4).
 * In the term that it is in when it forgets, its vote counts as given: to nobody.
 *
 * A crash before the marker is durable changes nothing. With VOTE_WIPES found at a start, whatever store and log have of the group is of no use, and everything is done again from there; frames, and
 * entries of the new life, wait for the votes file, so nothing of it is lost by that. With VOTE_AWAY the log begins with that restart, and what it and the store have is of the new life.
 *
 * What was acknowledged in the former life and comes late counts for an entry before the one that added it again, so not for a vote; but the leader may believe that it has those. A replica that gets no
 * further asks its leader (RETURN), which hands over then (partition_return.c). */
#include <inttypes.h>
#include <stdio.h>

#include "engine/node_row.h"
#include "engine/partition_snapshot.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

#define VOTE_WIPES (1ull << 62)
#define VOTE_AWAY (1ull << 61)
#define VOTE_OF_NOBODY (NODE_ID_MAX + 1)
#define ASK_NS (1 * NS_PER_S)
#define STALLED_NS (3 * NS_PER_S)

enum away_state { AWAY_MARKED, AWAY_LOGGED, AWAY_EMPTY };
struct away {
    enum away_state state;
    uint64_t index;
    uint64_t voted_for;             /* in the group's term; it is written when it votes again */
    bool staged, flying;            /* MARKED: in the log's batch being gathered; in the one under way */
    uint64_t seen_index, moved_ns;  /* EMPTY: when it last came nearer */
};

bool partition_away_wipes(const struct partition *p) { return p->away && p->away->state != AWAY_EMPTY; }
bool partition_away_deaf(const struct partition *p, unsigned kind) { return partition_away_wipes(p) || (p->away && (kind == PEER_VOTE || kind == PEER_TIMEOUT_NOW)); }

static uint64_t mark(const struct away *a) { return (a->state == AWAY_EMPTY ? VOTE_AWAY : VOTE_WIPES) | a->index; }

uint64_t partition_away_vote(struct partition *p, uint64_t voted_for) {
    p->away->voted_for = voted_for;
    return mark(p->away);
}

void partition_away_close(struct partition *p) {
    mem_free(p->away);
    p->away = NULL;
}

/* ---- asking */

/* Something that is to go: entries, or a vote in what it takes for its members. */
static bool has_something(const struct partition *p) { return p->record.applied_index > GROUP_FIRST_INDEX || group_last_index(p->group) > GROUP_FIRST_INDEX || partition_votes(p); }

static bool may_go(const struct partition *p) {
    const struct engine *e = p->engine;
    return e->config.store_drop && !partition_away_wipes(p) && !p->returning && !partition_fetch_busy(p) && !p->source && p->state == PARTITION_OPENING && group_role(p->group) != GROUP_LEADER && !group_installing(p->group) && !e->draining &&
           partition_elsewhere(p) && has_something(p);
}

void partition_away_look(struct partition *p) {
    struct engine *e = p->engine;
    if (p->id == PARTITION_META || e->now_ns < p->away_ask_ns) return;
    p->away_ask_ns = e->now_ns + ASK_NS;
    p->away_nonce = 0;
    if (!may_go(p)) return;
    p->away_nonce = e->env->ops->random(e->env) | 1;
    struct peer_message m = {.kind = PEER_RETURN, .back = {p->away_nonce, group_last_index(p->group)}};
    for (uint32_t i = 0; i < p->wanted.count; i++) partition_send(p, &m, p->wanted.node_id[i]);
}

void partition_away_told(struct partition *p, const struct peer_message *m) {
    struct engine *e = p->engine;
    uint64_t index = m->returned.members_index, term = MAX_OF(m->term, group_term(p->group));
    if (!p->away_nonce || m->returned.nonce != p->away_nonce || !may_go(p) || group_members_newest(p->group) > index) return;
    if (p->away) index = MAX_OF(index, p->away->index); /* it was to hold it again, and did not get that far */
    if (!p->away && !(p->away = mem_new(struct away))) return;
    check(index < VOTE_AWAY);
    *p->away = (struct away){.state = AWAY_MARKED, .index = index, .voted_for = VOTE_OF_NOBODY};
    p->away_nonce = 0;
    partition_fetch_close(p); /* a snapshot that has come, and for which no leader is known */
    p->staged = false, p->syncing = 0;
    partition_present_refuse(p, STATUS_NOT_LEADER, "this node does not hold the partition any more");
    check(votes_set(e->votes, p->group_id, term, mark(p->away)) == STATUS_OK);
    log_info("this node does not hold the partition any more: what it has of it goes", "partition=%s applied=%" PRIu64 " members_index=%" PRIu64 " says=%" PRIu64, p->name, p->record.applied_index, index, m->from);
}

/* ---- from what there was to nothing */

bool partition_away_has_to_stage(const struct partition *p) { return p->away->state == AWAY_MARKED && !p->away->staged; }

enum status partition_away_stage(struct partition *p) {
    if (!partition_away_has_to_stage(p)) return STATUS_OK;
    enum status st = wal_append(p->engine->wal, p->group_id, GROUP_FIRST_INDEX, 1, ENTRY_RESTART, NULL, 0);
    p->away->staged = !st;
    return st;
}
void partition_away_log_committed(struct partition *p) { p->away->flying = p->away->staged; }
void partition_away_synced(struct partition *p) {
    if (p->away->state == AWAY_MARKED && p->away->flying) p->away->state = AWAY_LOGGED;
}

/* What was put aside: unlinking large files would stand in the way of all that this core serves. A crash leaves it to the next start. */
static void sweep_run(struct env_job *job) {
    struct partition *p = container_of(job, struct partition, sweep_job);
    p->engine->config.store_sweep(p->engine->config.store_ctx, p->id);
}
static void sweep_home(struct env_job *job) { container_of(job, struct partition, sweep_job)->sweeping = false; }

static void sweep(struct partition *p) {
    struct engine *e = p->engine;
    if (!e->config.store_sweep) return;
    p->sweeping = true;
    p->sweep_job = (struct env_job){.run = sweep_run, .done = sweep_home, .behind = true};
    e->env->ops->offload(e->env, &p->sweep_job);
}

static void empty(struct partition *p) {
    struct engine *e = p->engine;
    uint64_t term, voted_for;
    char error[256] = "";
    group_close(p->group);
    p->group = NULL;
    partition_store_unload(p);
    enum status st = e->config.store_drop(e->config.store_ctx, p->id, error);
    p->away->state = AWAY_EMPTY, p->away->seen_index = GROUP_FIRST_INDEX;
    if (!st) st = partition_store_load(p, error);
    if (st) panic_now("partition %s: it can't be emptied: %s: %s. A restart goes on with it", p->name, status_name(st), error);
    p->log_bytes_unflushed = p->shown_index = p->released = p->drain_index = 0;
    p->damaged = p->proving = p->flush_wanted = false;
    p->damage = (struct store_damage){0};
    p->present.as_of_ns = p->present.as_of_index = 0;
    p->silent_node = 0, p->silent_looks = 0;
    wal_restart(e->wal, p->group_id, GROUP_FIRST_INDEX);
    check(votes_get(e->votes, p->group_id, &term, &voted_for));
    check(votes_set(e->votes, p->group_id, term, mark(p->away)) == STATUS_OK);
    st = partition_start(p, NULL, 0, error);
    if (st) panic_now("partition %s: %s", p->name, error);
    sweep(p);
    log_info("what this node had of the partition is gone", "partition=%s term=%" PRIu64, p->name, term);
}

/* ---- and again */

static void holds_again(struct partition *p) {
    check(votes_set(p->engine->votes, p->group_id, group_term(p->group), p->away->voted_for) == STATUS_OK);
    log_info("this node holds the partition again", "partition=%s term=%" PRIu64 " last=%" PRIu64, p->name, group_term(p->group), group_last_index(p->group));
    partition_away_close(p);
}

void partition_away_tick(struct partition *p) {
    struct engine *e = p->engine;
    struct away *a = p->away;
    if (a->state == AWAY_LOGGED && !p->sweeping && !p->flushing && !p->reads_away && !p->source && !partition_feed_busy(p) && !partition_group_busy(p)) empty(p);
    if (a->state != AWAY_EMPTY) return;
    if (group_applicable(p->group) >= a->index && !group_installing(p->group)) return holds_again(p);
    uint64_t last = group_last_index(p->group), leader = group_leader(p->group);
    if (last != a->seen_index || p->fetch || group_installing(p->group) || !leader) a->seen_index = last, a->moved_ns = e->now_ns;
    if (e->now_ns < a->moved_ns + STALLED_NS) return;
    a->moved_ns = e->now_ns;
    struct peer_message m = {.kind = PEER_RETURN, .back = {e->env->ops->random(e->env), last}};
    partition_send(p, &m, leader);
}

uint64_t partition_away_deadline_ns(const struct partition *p) { return p->away->state == AWAY_EMPTY ? p->away->moved_ns + STALLED_NS : UINT64_MAX; }

/* ---- a start */

enum status partition_away_found(struct partition *p, char error[256]) {
    struct engine *e = p->engine;
    uint64_t term, vote;
    if (!votes_get(e->votes, p->group_id, &term, &vote) || vote == VOTE_MAY_NOT || vote == VOTE_AGREED || !(vote & (VOTE_WIPES | VOTE_AWAY))) return STATUS_OK;
    if (!(p->away = mem_new(struct away))) return STATUS_MEMORY_LIMIT;
    bool wipes = vote & VOTE_WIPES;
    *p->away = (struct away){.state = wipes ? AWAY_MARKED : AWAY_EMPTY, .index = vote & (VOTE_AWAY - 1), .voted_for = VOTE_OF_NOBODY, .moved_ns = e->now_ns};
    if (!wipes) return STATUS_OK;
    if (!e->config.store_drop) return snprintf(error, 256, "partition %s was about to be emptied: start the node once, so that this ends", p->name), STATUS_FIELD_INVALID;
    return e->config.store_drop(e->config.store_ctx, p->id, error);
}

uint64_t partition_away_start(struct partition *p, uint64_t term, uint64_t last_index) {
    if (p->away->state != AWAY_EMPTY || last_index < p->away->index) return VOTE_OF_NOBODY;
    check(votes_set(p->engine->votes, p->group_id, term, VOTE_OF_NOBODY) == STATUS_OK); /* it held it when it stopped, and had not said so */
    partition_away_close(p);
    return VOTE_OF_NOBODY;
}

struct group_members partition_away_members(void) { return (struct group_members){.member = {{.node_id = NODE_ID_MAX + 1, .kind = GROUP_VOTER}}, .count = 1}; }
