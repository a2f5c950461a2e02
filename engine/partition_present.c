/* Reads of the present, and of a past that is not older than asked for, on a partition with several voters (docs/CLUSTER.md, "Reads"). A single voter's reads wait for nothing.
 *
 * A deposed leader that does not know it yet would show old rows. So a leader answers what came when a majority of voters has told it, after that, that they are still in its term: an election of
 * a later term needs one of them, so none was won before. That is a round (Raft dissertation, 6.4): a number, sent to all voters, with the index that was committed when it began; no entry of the
 * log. One round is under way for each partition and serves all that came before it began, who come meanwhile wait for the next one. All partitions that begin one in a turn share its number
 * and one frame for each node (CONFIRM, CONFIRMED). A process that was stopped and goes on finds its rounds unanswered, or answered in a term that others have left.
 *
 * A replica that does not lead asks the leader in the same manner (HOW_FAR), which answers (SO_FAR) when a round of its own that began later is confirmed. What is committed by then is all that
 * was acknowledged before the replica asked, by the replica's own clock: when it has applied that, it knows how old what it shows can be, whatever the network did in between.
 *
 *   partition_read -> [max_staleness or a token allows what is applied here] -> run -> [the token's commit is not here yet: to unconfirmed; after a round: there is no such commit]
 *                  -> unconfirmed -> [a round begins] -> confirming -> [a majority, or the leader, has answered] -> confirmed -> [applied up to the round's index] -> run
 *                     at a change of role, a failing store: NOT_LEADER. Past the deadline: DEADLINE_EXCEEDED; who does not lead gives up sooner, so that the leader can be asked: NOT_LEADER
 *
 * Invariants: what waits in confirming came before the round under way began; indexes in confirmed do not go back; an answer counts only with the round's number and our term. */
#include "engine/partition.h"
#include "proto/base/mem.h"
#include "proto/peer.h"

enum { FRAMES_MAX = 8 };
struct present_frames {
    struct present_frame {
        enum peer_kind kind;
        uint64_t node_id, round;
        size_t count; /* 0: free */
        uint8_t places[PEER_PLACES_MAX * PEER_PLACE_BYTES];
    } at[FRAMES_MAX];
};

/* ---- frames: what a turn says to a node is one */

static void frame_send(struct engine *e, struct present_frame *f) {
    struct peer_message m = {.kind = f->kind, .from = e->config.node_id, .to = f->node_id, .round = {f->round, slice_of(f->places, f->count * PEER_PLACE_BYTES)}};
    uint8_t bytes[PEER_HEAD_BYTES + 8 + sizeof f->places];
    struct writer w = writer_of(bytes, sizeof bytes);
    check(peer_encode(&m, &w));
    f->count = 0;
    e->config.send(e->config.send_ctx, 0, m.to, writer_slice(&w)); /* before votes that are not durable: it says what our term is not beyond */
}

static void frames_flush(struct engine *e) {
    for (unsigned i = 0; i < FRAMES_MAX; i++)
        if (e->present_frames->at[i].count) frame_send(e, &e->present_frames->at[i]);
}

static void say(struct engine *e, enum peer_kind kind, uint64_t node_id, uint64_t round, struct peer_place place) {
    struct present_frame *f = NULL;
    for (unsigned i = 0; i < FRAMES_MAX && !f; i++) {
        struct present_frame *at = &e->present_frames->at[i];
        if (at->count && at->kind == kind && at->node_id == node_id && at->round == round) f = at;
    }
    for (unsigned i = 0; i < FRAMES_MAX && !f; i++)
        if (!e->present_frames->at[i].count) f = &e->present_frames->at[i];
    if (!f) frames_flush(e), f = &e->present_frames->at[0];
    f->kind = kind, f->node_id = node_id, f->round = round;
    peer_place_put(f->places + f->count++ * PEER_PLACE_BYTES, place);
    if (f->count == PEER_PLACES_MAX) frame_send(e, f);
}

/* Rounds do not begin at 1: an answer to a former life of this process is none to a question of this one. */
bool engine_present_open(struct engine *e) {
    e->rounds = 1 + (e->env->ops->random(e->env) >> 3);
    return (e->present_frames = mem_new(struct present_frames)) != NULL;
}
void engine_present_close(struct engine *e) {
    mem_free(e->present_frames);
    e->present_frames = NULL;
}

/* ---- rounds */

void partition_present_open(struct partition *p) {
    list_init(&p->present.unconfirmed);
    list_init(&p->present.confirming);
    list_init(&p->present.confirmed);
}

static bool leads(const struct partition *p) { return group_role(p->group) == GROUP_LEADER; }

static bool heard_from(const struct present *r, uint64_t node_id) {
    for (unsigned i = 0; i < r->heard_count; i++)
        if (r->heard[i] == node_id) return true;
    return false;
}

static void round_say(struct partition *p) {
    struct engine *e = p->engine;
    struct present *r = &p->present;
    uint64_t voters[GROUP_MEMBERS_MAX], self = e->config.node_id;
    struct peer_place place = {.group = p->group_id, .term = group_term(p->group)};
    unsigned n = group_voters(p->group, voters);
    r->said_ns = e->now_ns;
    if (!leads(p)) return group_leader(p->group) ? say(e, PEER_HOW_FAR, group_leader(p->group), r->round, place) : (void)0;
    for (unsigned i = 0; i < n; i++)
        if (voters[i] != self && !heard_from(r, voters[i])) say(e, PEER_CONFIRM, voters[i], r->round, place);
}

/* A leader's, of its own reads and of those that asked it; or a question to the leader. */
static bool round_may_begin(const struct partition *p) {
    const struct present *r = &p->present;
    if (r->round || p->returning || p->away || (list_empty(&r->unconfirmed) && !r->asked_count)) return false;
    return leads(p) ? group_ready(p->group) : group_leader(p->group) != 0;
}

static void round_done(struct partition *p, uint64_t index) {
    struct present *r = &p->present;
    for (unsigned i = 0; i < r->due_count; i++)
        say(p->engine, PEER_SO_FAR, r->due[i].node_id, r->due[i].round, (struct peer_place){p->group_id, group_term(p->group), index});
    list_each(l, &r->confirming) list_entry(l, struct op, link)->index = index;
    list_splice_back(&r->confirmed, &r->confirming);
    r->as_of_ns = r->begun_ns, r->as_of_index = index;
    r->round = 0, r->due_count = 0;
}

static bool majority(const struct partition *p) {
    uint64_t voters[GROUP_MEMBERS_MAX];
    unsigned n = group_voters(p->group, voters), yes = 0;
    for (unsigned i = 0; i < n; i++) yes += voters[i] == p->engine->config.node_id || heard_from(&p->present, voters[i]);
    return yes > n / 2;
}

static void round_begin(struct partition *p) {
    struct present *r = &p->present;
    r->round = p->engine->rounds;
    r->begun_ns = p->engine->now_ns;
    r->index = group_commit_index(p->group);
    r->heard_count = 0;
    memcpy(r->due, r->asked, sizeof r->due);
    r->due_count = r->asked_count, r->asked_count = 0;
    list_splice_back(&r->confirming, &r->unconfirmed);
    p->engine->stats.rounds++;
    round_say(p);
    if (leads(p) && majority(p)) round_done(p, r->index); /* the others are learners */
}

/* ---- frames in. What is of another term, or of a round that is over, changes nothing */

static struct partition *partition_in_term(struct engine *e, struct peer_place place) {
    struct partition *p = engine_partition_of_group(e, place.group);
    return p && !p->returning && !p->away && group_term(p->group) == place.term ? p : NULL;
}

static void confirmed(struct partition *p, uint64_t from, uint64_t round) {
    struct present *r = &p->present;
    if (!leads(p) || r->round != round || heard_from(r, from) || r->heard_count == GROUP_MEMBERS_MAX) return;
    r->heard[r->heard_count++] = from;
    if (majority(p)) round_done(p, r->index);
}

/* The newest question of a node takes the place of its older one. */
static void asked(struct partition *p, uint64_t from, uint64_t round) {
    struct present *r = &p->present;
    unsigned i = 0;
    while (i < r->asked_count && r->asked[i].node_id != from) i++;
    if (!leads(p) || i == GROUP_MEMBERS_MAX) return;
    r->asked[i] = (struct present_asked){from, round};
    r->asked_count = MAX_OF(r->asked_count, i + 1);
}

static void told(struct partition *p, uint64_t from, uint64_t round, uint64_t index) {
    if (!leads(p) && group_leader(p->group) == from && p->present.round == round) round_done(p, index);
}

enum status engine_present_receive(struct engine *e, uint64_t from_node_id, struct slice frame) {
    struct peer_message m;
    if (peer_decode(frame, &m, NULL) || m.from != from_node_id || m.to != e->config.node_id) return STATUS_FIELD_INVALID;
    for (size_t i = 0; i < peer_places_count(&m); i++) {
        struct peer_place place = peer_place_at(&m, i);
        struct partition *p = partition_in_term(e, place);
        if (!p) continue;
        if (m.kind == PEER_CONFIRM && !leads(p)) say(e, PEER_CONFIRMED, from_node_id, m.round.round, place);
        if (m.kind == PEER_CONFIRMED) confirmed(p, from_node_id, m.round.round);
        if (m.kind == PEER_HOW_FAR) asked(p, from_node_id, m.round.round);
        if (m.kind == PEER_SO_FAR) told(p, from_node_id, m.round.round, place.index);
    }
    if (m.kind == PEER_CONFIRM) frames_flush(e); /* it is waited for */
    return STATUS_OK;
}

/* ---- reads */

static bool op_is_of_present(const struct op *op) {
    return op->kind == OP_GET || op->kind == OP_GET_MANY || op->kind == OP_LIST || op->kind == OP_HISTORY || op->kind == OP_RESOURCES || op->kind == OP_NODES || op->kind == OP_GROUPS;
}

/* Who asks for no more than what is applied here may have it at once; whether the token's commit is among it, the read itself finds out. */
static bool bound_holds(const struct partition *p, const struct op *op) {
    const struct present *r = &p->present;
    if (!op->bound.stale) return op->bound.token;
    return r->as_of_index && r->as_of_index <= p->record.applied_index && op->submitted_ns <= r->as_of_ns + op->bound.stale_ns;
}

static void wait_for_round(struct partition *p, struct op *op) {
    struct engine *e = p->engine;
    op->give_up_ns = op->deadline_ns ? op->deadline_ns : UINT64_MAX;
    if (!leads(p)) {
        uint64_t patience = e->now_ns + e->config.election_ms * NS_PER_MS;
        op->give_up_ns = op->deadline_ns > e->now_ns ? MIN_OF(patience, e->now_ns + (op->deadline_ns - e->now_ns) / 2) : patience;
    }
    list_push_back(&p->present.unconfirmed, &op->link);
}

/* The only voter: what it has is what there is. Not one that knows nobody yet. */
static bool is_alone(const struct partition *p) { return p->record.members.count <= 1 && partition_votes(p); }

bool partition_read_waits(struct partition *p, struct op *op) {
    if (is_alone(p) || op->any_replica || !op_is_of_present(op)) return false;
    if (p->state == PARTITION_FAILED) { /* nothing is applied: what it leads can't be confirmed */
        op->failure.retry_delay_ms = RETRY_DELAY_DISK_MS;
        failure_set(&op->failure, STATUS_NOT_LEADER, "partition %s can't write its tables, and so can't tell what is committed", p->name);
        engine_finish(p->engine, op);
        return true;
    }
    bool switching = group_installing(p->group) || p->away; /* its store goes as soon as nobody reads it, or is not whole */
    op->shown = !switching && bound_holds(p, op);
    if (op->shown) return false;
    bool follows = (op->bound.stale || op->bound.token) && !leads(p) && group_leader(p->group) && !switching && !p->returning;
    if (p->state != PARTITION_READY && !follows) return false; /* refused by who calls */
    wait_for_round(p, op);
    return true;
}

/* It found that its token's commit is not here. */
void partition_read_behind(struct partition *p, struct op *op) {
    op->behind = false;
    op->answer = (struct slice){0};
    if (is_alone(p) || op->confirmed) {
        failure_violation(&op->failure, STATUS_FIELD_INVALID, "read.at_least.seq", "there is no commit %lld of slot %u", (long long)op->bound.seq, op->bound.slot);
        engine_finish(p->engine, op);
        return;
    }
    if (p->state == PARTITION_READY || (p->state == PARTITION_OPENING && !leads(p) && group_leader(p->group) && !group_installing(p->group) && !p->returning && !p->away)) return wait_for_round(p, op);
    partition_not_leading(p, &op->failure);
    engine_finish(p->engine, op);
}

static void refuse(struct partition *p, struct list *ops, enum status st, const char *why) {
    list_each(l, ops) list_entry(l, struct op, link)->failure.retry_delay_ms = RETRY_DELAY_MS;
    partition_refuse(p, ops, st, why);
}

void partition_present_refuse(struct partition *p, enum status st, const char *why) {
    struct present *r = &p->present;
    refuse(p, &r->unconfirmed, st, why);
    refuse(p, &r->confirming, st, why);
    refuse(p, &r->confirmed, st, why);
    r->round = 0, r->asked_count = 0, r->due_count = 0;
}

static void give_up(struct partition *p, struct list *ops) {
    uint64_t now = p->engine->now_ns;
    list_each(l, ops) {
        struct op *op = list_entry(l, struct op, link);
        if (now < op->give_up_ns) continue;
        list_remove(l);
        op->failure.retry_delay_ms = RETRY_DELAY_MS;
        if (op->deadline_ns && now >= op->deadline_ns) failure_set(&op->failure, STATUS_DEADLINE_EXCEEDED, "the deadline passed before it was known what is committed");
        else failure_set(&op->failure, STATUS_NOT_LEADER, "this replica of partition %s does not get to know in time what is committed", p->name);
        engine_finish(p->engine, op);
    }
}

void partition_present_housekeeping(struct partition *p) {
    give_up(p, &p->present.unconfirmed);
    give_up(p, &p->present.confirming);
    give_up(p, &p->present.confirmed);
}

static void reads_run(struct partition *p) {
    struct list *confirmed = &p->present.confirmed;
    while (!list_empty(confirmed) && list_entry(confirmed->next, struct op, link)->index <= p->record.applied_index) {
        struct op *op = list_entry(list_pop_front(confirmed), struct op, link);
        op->shown = op->confirmed = true;
        if (!leads(p)) p->engine->stats.reads_followed++;
        partition_read_again(p, op);
    }
}

/* ---- turns */

static uint64_t again_ns(const struct partition *p) { return p->present.said_ns + p->engine->config.heartbeat_ms * NS_PER_MS; }

/* Answers first, so that who waits for the next round finds it free. */
void engine_present_tick(struct engine *e) {
    bool begins = false;
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct partition *p = &e->partitions[i];
        if (!list_empty(&p->present.confirmed)) reads_run(p);
        begins |= round_may_begin(p);
    }
    e->rounds += begins;
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct partition *p = &e->partitions[i];
        if (round_may_begin(p)) round_begin(p);
        else if (p->present.round && e->now_ns >= again_ns(p)) round_say(p); /* the same: an answer that comes late is as good */
    }
    frames_flush(e);
}

uint64_t partition_present_deadline_ns(const struct partition *p) { return p->present.round ? again_ns(p) : UINT64_MAX; }
