/* A replica that remembers nothing finds its place: a new group's, or one whose disk was wiped and that returns under its old id.
 *
 * Such a replica may have voted, and acknowledged entries, in a life that it has forgotten. If it voted again, or followed a leader that it had helped to depose, a term could have two
 * leaders, and what was acknowledged be lost. So it does neither until it knows better. It can't tell by itself whether the group is new, or its disk; it asks the other voters, with a
 * nonce, so that every answer is of its present life:
 *
 *   FRESH ----- all others are fresh, or have agreed -----> AGREED (in the votes file, before it is told) -- all others have agreed, or one acts --> acts (a new group)
 *     | enough others act, and the leader of their newest term is among them                                       ^
 *     v                                                                                                            |
 *   CATCHING (takes over that term, its vote given to that leader) -- holds all that the leader held when it answered -- a returned one
 *     the leader is gone, or the term: asks anew (RETURNING)
 *
 * A new group. Who was told by all others, in answer to its nonce, that they are fresh has lost nothing: nobody has acted while it lived, and it is of the first life of the group. It acts
 * only when it knows that all others know that too (or when somebody acts, which proves the same): so nobody that is still asking is ever left with others that act. What it knows is on its disk before
 * it tells it, as VOTE_AGREED in place of a vote: else the others might be killed, and ask anew, when the first one acts alone.
 *
 * A returned one. Of n voters a majority with it has n/2 others. Answers of n - n/2 others reach into every such majority: the newest term among them is at or above every term that it
 * voted in or followed. The leader of that term holds whatever it acknowledged in it; what it acknowledged is at or before that leader's last entry, also if the acknowledgement is
 * still under way. So it takes over the term, follows, and acknowledges what it really stores; and votes when it holds all of that (Liskov and Cowling, Viewstamped Replication
 * Revisited, 4.3). Until then the votes file holds VOTE_MAY_NOT in place of the vote, so that a crash in between changes nothing.
 *
 * A leader that remembers more of it than it has must go (libraft never forgets what a follower stored): it hands over.
 *
 * All of that counts voters, and who remembers nothing knows those of the beginning alone. An answer tells of the newest members in its log: once they are others, the answers are of
 * no use, and the replica neither votes nor follows, ever: it is to be removed, and its node to come back under another id. A change that any of the answers does not know yet can't have
 * got a majority without one that does. Who has AGREED has lost nothing, so for it that one acts says enough, whatever the members are by then: it was not there when they changed.
 *
 * Price: a new group needs all its members once; a wiped one more than a majority of the others, where n is even. A second loss at the same time may have to wait for ever, and should. */
#include <inttypes.h>

#include "engine/partition_snapshot.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum return_state { RETURN_FRESH, RETURN_AGREED, RETURN_ASKING, RETURN_CATCHING };
struct answer {
    uint64_t node_id; /* 0: none yet */
    uint64_t term, last_index;
    enum peer_phase phase;
    bool leads;
};
struct returning {
    enum return_state state;
    uint64_t nonce, ask_ns;
    struct answer answers[GROUP_MEMBERS_MAX];
    uint64_t term, leader, last_index, moved_ns; /* CATCHING: whose term was taken over, up to where, when it last came nearer */
    uint64_t seen_index;
    bool members_told; /* that they are not those of the beginning */
};

#define RETURN_ASK_NS (100 * NS_PER_MS)
#define RETURN_PATIENCE_NS (2 * NS_PER_S) /* CATCHING, and no entry comes */

static unsigned voters(const struct partition *p, bool others) {
    const struct group_members *m = &p->record.members;
    unsigned n = others ? 0 : 1;
    for (uint32_t i = 0; i < m->count; i++) n += m->member[i].kind == GROUP_VOTER && m->member[i].node_id != p->engine->config.node_id;
    return n;
}

/* It has no vote of its group, or one that it may not give; and it may have voted: a node that was never among the voters has lost nothing. */
bool partition_return_due(const struct partition *p, bool has_vote, uint64_t voted_for) {
    const struct group_members *m = &p->record.members;
    bool votes = false;
    for (uint32_t i = 0; i < m->count; i++) votes |= m->member[i].node_id == p->engine->config.node_id && m->member[i].kind == GROUP_VOTER;
    return votes && voters(p, true) > 0 && (!has_vote || voted_for == VOTE_MAY_NOT || voted_for == VOTE_AGREED);
}

static void ask_anew(struct partition *p) {
    struct returning *r = p->returning;
    if (r->state == RETURN_CATCHING) r->state = RETURN_ASKING;
    r->nonce = p->engine->env->ops->random(p->engine->env);
    r->ask_ns = p->engine->now_ns;
    memset(r->answers, 0, sizeof r->answers);
}

enum status partition_return_begin(struct partition *p, bool has_vote, uint64_t voted_for) {
    p->returning = mem_new(struct returning);
    if (!p->returning) return STATUS_MEMORY_LIMIT;
    p->returning->state = !has_vote ? RETURN_FRESH : voted_for == VOTE_AGREED ? RETURN_AGREED : RETURN_ASKING;
    ask_anew(p);
    return STATUS_OK;
}

void partition_return_close(struct partition *p) {
    mem_free(p->returning);
    p->returning = NULL;
}

/* Nothing of Raft is for one that asks; votes are for none that returns. */
bool partition_return_deaf(const struct partition *p, unsigned kind) {
    const struct returning *r = p->returning;
    return r && (r->state != RETURN_CATCHING || kind == PEER_VOTE || kind == PEER_TIMEOUT_NOW);
}

/* A write of other groups' votes counts too: soon it says more. */
static enum peer_phase phase(const struct partition *p) {
    const struct returning *r = p->returning;
    if (r && r->state == RETURN_AGREED && (votes_dirty(p->engine->votes) || votes_busy(p->engine->votes))) return PEER_FRESH;
    return !r ? PEER_ACTING : r->state == RETURN_FRESH ? PEER_FRESH : r->state == RETURN_AGREED ? PEER_AGREED : PEER_RETURNING;
}

/* This leader's committed members do not have it, and no change is under way. */
static bool is_gone(const struct partition *p, uint64_t node_id) {
    const struct group_members *members = group_members(p->group);
    if (p->state != PARTITION_READY || !group_ready(p->group) || group_members_newest(p->group) != members->index) return false;
    for (uint32_t i = 0; i < members->count; i++)
        if (members->member[i].node_id == node_id) return false;
    return true;
}

static void asked(struct partition *p, const struct peer_message *m) {
    if (p->away) return;
    struct peer_message a = {.kind = PEER_RETURNED, .returned = {.nonce = m->back.nonce, .last_index = group_last_index(p->group), .phase = phase(p), .members_index = group_members_newest(p->group)}};
    /* What a leader knows of a replica never goes back: one that lost what it had acknowledged gets nothing from it any more. Another leader begins anew. */
    bool knows_more = group_match(p->group, m->from) > m->back.last_index;
    a.returned.leads = !p->returning && group_ready(p->group) && !knows_more;
    if (is_gone(p, m->from)) a.returned.phase = PEER_GONE, a.returned.leads = false;
    partition_send(p, &a, m->from);
    if (!p->returning && knows_more && group_hand_over(p->group, engine_now_ms(p->engine), m->from) == STATUS_OK)
        log_info("a replica has lost what it had stored: another node is to lead", "partition=%s node=%" PRIu64, p->name, m->from);
}

static void acts(struct partition *p, const char *what) {
    log_info(what, "partition=%s term=%" PRIu64 " last=%" PRIu64, p->name, group_term(p->group), group_last_index(p->group));
    partition_return_close(p);
}

static unsigned count(const struct returning *r, enum peer_phase low, enum peer_phase high) {
    unsigned n = 0;
    for (unsigned i = 0; i < GROUP_MEMBERS_MAX; i++) n += r->answers[i].node_id && r->answers[i].phase >= low && r->answers[i].phase <= high;
    return n;
}

static void found_leader(struct partition *p) {
    struct returning *r = p->returning;
    unsigned n = voters(p, false);
    const struct answer *leader = NULL;
    uint64_t term = 0;
    if (count(r, PEER_ACTING, PEER_ACTING) < n - n / 2) return;
    for (unsigned i = 0; i < GROUP_MEMBERS_MAX; i++) term = MAX_OF(term, r->answers[i].node_id ? r->answers[i].term : 0);
    for (unsigned i = 0; i < GROUP_MEMBERS_MAX; i++)
        if (r->answers[i].node_id && r->answers[i].leads && r->answers[i].term == term) leader = &r->answers[i];
    if (!leader || term < group_term(p->group)) return;
    r->state = RETURN_CATCHING;
    r->term = term, r->leader = leader->node_id, r->last_index = leader->last_index;
    r->moved_ns = p->engine->now_ns, r->seen_index = 0;
    log_info("this replica remembers no votes: it follows without one for now", "partition=%s term=%" PRIu64 " leader=%" PRIu64 " last=%" PRIu64, p->name, term, r->leader, r->last_index);
    group_adopt(p->group, engine_now_ms(p->engine), term, r->leader);
}

static void agree(struct partition *p) {
    check(votes_set(p->engine->votes, p->group_id, group_term(p->group), VOTE_AGREED) == STATUS_OK);
    p->returning->state = RETURN_AGREED;
}

/* Said to the votes file at once: who is killed before its first vote is not to look like who has lost it. */
static void new_group(struct partition *p) {
    check(votes_set(p->engine->votes, p->group_id, group_term(p->group), 0) == STATUS_OK);
    acts(p, "a new group: all its members are here");
}

static void other_members(struct partition *p, const struct peer_message *m) {
    if (!p->returning->members_told)
        log_error("lost disk: this replica can't come back", "partition=%s says=%" PRIu64 " members_index=%" PRIu64 " why=members have changed since the beginning: remove this node, and let it join under another id",
                  p->name, m->from, m->returned.members_index);
    p->returning->members_told = true;
}

static void answered(struct partition *p, const struct peer_message *m) {
    struct returning *r = p->returning;
    const struct group_members *members = &p->record.members;
    if (m->returned.phase == PEER_GONE) partition_away_told(p, m);
    if (!r || m->returned.nonce != r->nonce || r->state == RETURN_CATCHING) return;
    bool proves = r->state == RETURN_AGREED && m->returned.phase == PEER_ACTING; /* whatever members there are by now */
    if (m->returned.members_index != members->index && !proves) return other_members(p, m);
    for (uint32_t i = 0; i < members->count; i++)
        if (members->member[i].node_id == m->from && members->member[i].kind == GROUP_VOTER)
            r->answers[i] = (struct answer){m->from, m->term, m->returned.last_index, m->returned.phase, m->returned.leads};
    unsigned others = voters(p, true);
    if (r->state == RETURN_FRESH && count(r, PEER_FRESH, PEER_AGREED) == others) agree(p);
    if (r->state != RETURN_AGREED) found_leader(p);
    else if (count(r, PEER_AGREED, PEER_AGREED) == others || count(r, PEER_ACTING, PEER_ACTING)) new_group(p);
}

void partition_return_receive(struct partition *p, const struct peer_message *m) {
    if (m->kind == PEER_RETURN) asked(p, m);
    else answered(p, m);
}

/* Holds all that the leader held, in its term: the vote of that term is its own. */
static void caught_up(struct partition *p) {
    struct returning *r = p->returning;
    check(votes_set(p->engine->votes, p->group_id, r->term, r->leader) == STATUS_OK);
    acts(p, "this replica holds what it may have acknowledged: it votes again");
}

void partition_return_tick(struct partition *p) {
    struct engine *e = p->engine;
    struct returning *r = p->returning;
    if (r->state == RETURN_CATCHING) {
        uint64_t index = group_applicable(p->group);
        if (index != r->seen_index || p->fetch || group_installing(p->group)) r->seen_index = index, r->moved_ns = e->now_ns;
        if (group_term(p->group) == r->term && group_leader(p->group) == r->leader && !group_installing(p->group) && index >= r->last_index) return caught_up(p);
        if (group_term(p->group) != r->term || e->now_ns >= r->moved_ns + RETURN_PATIENCE_NS) ask_anew(p);
    }
    if (r->state == RETURN_CATCHING || e->now_ns < r->ask_ns) return;
    r->ask_ns = e->now_ns + RETURN_ASK_NS;
    for (uint32_t i = 0; i < p->record.members.count; i++) {
        const struct group_member *to = &p->record.members.member[i];
        struct peer_message m = {.kind = PEER_RETURN, .back = {r->nonce, group_last_index(p->group)}};
        if (to->kind == GROUP_VOTER && to->node_id != e->config.node_id) partition_send(p, &m, to->node_id);
    }
}

uint64_t partition_return_deadline_ns(const struct partition *p) {
    const struct returning *r = p->returning;
    return r->state == RETURN_CATCHING ? UINT64_MAX : r->ask_ns;
}
