/* Whole Raft groups of 1, 3 and 5 voters under a seed: simulated network, disks, crashes, membership, transfers, snapshots, around the real port
 * and the real library. A seed is a complete bug report.
 *
 *   sim_group                    1000 seeds, then the mutants that are quick to catch
 *   sim_group --seeds A N        seeds A .. A+N-1
 *   sim_group --seed S           one seed, with its story on stdout
 *   sim_group --mutant NAME ...  the same with a fault built in (see `mutants`)
 *   sim_group --mutants N        tries each mutant with up to N seeds and says which are caught
 *
 * Three rounds of two phases. Ten seconds of faults, in which safety is checked at every event: one command at an index everywhere, one leader (one
 * incarnation of one node) a term, one vote a term, terms that never go back, a new leader holds all that any node has applied, and nobody may
 * apply what its own disk could lose. Then the faults end for a random majority of the voters (for all, where the members changed: which majority
 * counts then is what is being tested), and within thirty seconds a leader must be ready, take a command, have it applied by all of the healthy,
 * and, where members change, take one change more.
 *
 * The disk: appends and votes are written on two queues of their own. A crash keeps of what was under way a random prefix of each. Snapshots are
 * flushes of the state (docs/RAFT.md, crash recipe); a transfer copies the state, slowly. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/group.h"
#include "engine/group_filter.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { NODES_MAX = 7, INDEX_MAX = 1 << 15, TERM_MAX = 1 << 14, FAULTS_MS = 10000, HEALTH_MS = 30000, ROUNDS = 3, SEEDS_DEFAULT = 1000, MUTANT_SEEDS = 100 };
enum { GROUP_ID = 42, COMMAND_BYTES = 16, OPS_MAX = 4096, POOL_MAX = 1 << 15, OUTBOX_MAX = 4096 };
#define U(x) ((unsigned long long)(x))

/* ---- what a seed decides */

struct plan {
    unsigned voters, nodes;
    unsigned latency_max_ms, disk_max_ms, drop_permille, duplicate_permille, submit_permille, crash_one_in, cut_one_in, outage_max_ms;
    unsigned flush_one_in, flush_drawn, trailing, fetch_max_ms, inflight_max, uncommitted_max, transfer_one_in, change_one_in;
    unsigned straggler_permille; /* frames that come seconds late */
    unsigned trap_one_in;        /* who has just voted for itself is cut off, and crashes when it comes back: a high term and an old log */
    unsigned doom_one_in;        /* who has just voted for another crashes within its disk's time, and is back at once */
    unsigned burst;              /* commands that a leader takes when it has just been cut off */
    unsigned apply_lag;          /* a node applies at one in so many of its events */
    bool reorder, one_way_cuts, release_early, slow_disk_node;
};

struct mutant {
    const char *name, *what;
    unsigned filters;
    bool ack_early, send_early, quick; /* quick: caught within MUTANT_SEEDS, so part of every run */
};
static const struct mutant mutants[] = {
    {"ack-before-persist", "appends are acknowledged when they are begun", 0, true, false, true},
    {"send-before-vote", "messages leave before the vote they depend on is durable", 0, false, true},
    {"no-change-alone", "filter 1 off", FILTER_CHANGE_ALONE, false, false, true},
    {"no-change-stored", "filter 2 off, and lagging members refuse votes", FILTER_CHANGE_STORED | FILTER_VOTE_OUTSIDE, false, false, true},
    {"no-pre-vote-term", "filter 3 off", FILTER_PRE_VOTE_TERM, false, false, true},
    {"no-stale-rejection", "filter 4 off", FILTER_STALE_REJECTION, false, false},
    {"no-below-head", "filter 5 off", FILTER_BELOW_HEAD, false, false},
    {"no-uncommitted-bound", "filter 6 off", FILTER_UNCOMMITTED, false, false},
    {"no-vote-outside", "a lagging member refuses its vote", FILTER_VOTE_OUTSIDE, false, false, true},
    {"no-sole-term", "a voter left alone leads in the old term", FILTER_SOLE_TERM, false, false, true},
    {"no-late-vote", "late vote results reach followers", FILTER_LATE_VOTE, false, false},
    {"no-stale-answer", "answers to old terms carry an unset index", FILTER_STALE_ANSWER, false, false},
    {"no-moved-anchor", "a follower that lags behind two snapshots is waited for", FILTER_MOVED_ANCHOR, false, false, true},
    {"no-change-commit", "a second membership entry forgets the first", FILTER_CHANGE_COMMIT, false, false},
};

/* ---- the world */

struct disk_entry {
    uint64_t term, value;
    uint8_t type;
    struct group_members members; /* GROUP_CHANGE */
};
struct append_op {
    uint64_t due, number, first;
    uint32_t count, at; /* in the node's pool of entries under way */
};
struct vote_op {
    uint64_t due, number, term, voted_for;
};
struct out_frame {
    uint64_t to, vote_number;
    uint8_t *data;
    size_t len;
};
struct state { /* of a state machine, as flushed */
    uint64_t index, term, hash;
    struct group_members members;
};
struct node {
    uint64_t id;
    bool alive, slow, trapped;
    unsigned boot, trailing;
    struct group *group;
    /* durable */
    uint64_t term, voted_for, first, last; /* log [first, last]; last < first: empty */
    struct disk_entry *disk;               /* [index] */
    struct state flushed;
    /* under way */
    struct append_op appends[OPS_MAX];
    unsigned append_head, append_count;
    struct disk_entry *pool;
    uint32_t pool_at;
    uint64_t appends_handed;
    struct vote_op votes[OPS_MAX];
    unsigned vote_head, vote_count;
    uint64_t votes_handed, votes_durable;
    struct out_frame outbox[OUTBOX_MAX];
    unsigned outbox_count;
    /* volatile */
    struct state applied, flushing;
    uint64_t flush_due, fetch_due, fetch_from, restart_due, heal_due, doom_due;
    struct group_snapshot fetching;
    uint64_t seen_term, seen_vote, opened_term;
};
struct frame {
    uint64_t due, order, from, to;
    uint8_t *data;
    size_t len;
};
struct truth { /* an entry as first applied by anybody */
    uint64_t term, value, hash;
    uint8_t type;
};
static struct plan plan;
static const struct mutant *mutant;
static struct node *nodes; /* [1 .. plan.nodes] */
static struct frame *heap;
static size_t heap_count, heap_cap;
static uint64_t now, rng, orders, seed_now;
static bool cut[NODES_MAX + 1][NODES_MAX + 1], calm, loud;
static uint64_t link_last[NODES_MAX + 1][NODES_MAX + 1];
static struct truth truth[INDEX_MAX];
static uint64_t truth_last, next_value = 1, changes_done, installs_done, crashes_done, commands_done;
static struct { uint64_t id; unsigned boot; } term_leader[TERM_MAX];

static uint64_t rnd(void) { return rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17, rng; }
static unsigned between(unsigned a, unsigned b) { return a + (unsigned)(rnd() % (b - a + 1)); }
static bool one_in(unsigned n) { return n && rnd() % n == 0; }

__attribute__((format(printf, 1, 2))) static void story(const char *format, ...) {
    if (!loud) return;
    va_list ap;
    va_start(ap, format);
    printf("%8llu ", U(now)), vprintf(format, ap), putchar('\n');
    va_end(ap);
}

__attribute__((format(printf, 2, 3), noreturn)) static void violation(const struct node *n, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    printf("  seed=%llu t=%llu node=%llu: ", U(seed_now), U(now), U(n ? n->id : 0));
    vprintf(format, ap), putchar('\n');
    va_end(ap);
    fflush(stdout);
    _exit(2);
}

/* ---- network */

static bool frame_before(const struct frame *a, const struct frame *b) { return a->due != b->due ? a->due < b->due : a->order < b->order; }

static void heap_push(struct frame f) {
    if (heap_count == heap_cap) {
        heap_cap = heap_cap ? heap_cap * 2 : 1024;
        heap = realloc(heap, heap_cap * sizeof *heap);
        check(heap);
    }
    size_t i = heap_count++;
    for (; i > 0 && frame_before(&f, &heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = f;
}

static struct frame heap_pop(void) {
    struct frame top = heap[0], f = heap[--heap_count];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < heap_count; i = c) {
        if (c + 1 < heap_count && frame_before(&heap[c + 1], &heap[c])) c++;
        if (!frame_before(&heap[c], &f)) break;
        heap[i] = heap[c];
    }
    heap[i] = f;
    return top;
}

static void put_on_wire(const struct node *n, const struct out_frame *o) {
    if (o->to > plan.nodes || cut[n->id][o->to] || (!calm && rnd() % 1000 < plan.drop_permille)) return;
    unsigned copies = !calm && rnd() % 1000 < plan.duplicate_permille ? 2 : 1;
    while (copies-- > 0) {
        struct frame f = {.due = now + between(1, plan.latency_max_ms), .order = orders++, .from = n->id, .to = o->to, .len = o->len};
        if (!calm && rnd() % 1000 < plan.straggler_permille) f.due += between(500, 4000);
        else if (!plan.reorder) f.due = link_last[n->id][o->to] = MAX_OF(f.due, link_last[n->id][o->to]);
        f.data = malloc(o->len);
        check(f.data);
        memcpy(f.data, o->data, o->len);
        heap_push(f);
    }
}

static void outbox_flush(struct node *n) {
    unsigned kept = 0;
    for (unsigned i = 0; i < n->outbox_count; i++) {
        if (n->outbox[i].vote_number > n->votes_durable && !mutant->send_early) {
            n->outbox[kept++] = n->outbox[i];
            continue;
        }
        put_on_wire(n, &n->outbox[i]);
        free(n->outbox[i].data);
    }
    n->outbox_count = kept;
}

/* ---- effects */

static void on_vote(void *ctx, uint64_t term, uint64_t voted_for) {
    struct node *n = ctx;
    if (term < n->seen_term || (term == n->seen_term && n->seen_vote != 0 && voted_for != n->seen_vote))
        violation(n, "vote (%llu, %llu) after (%llu, %llu)", U(term), U(voted_for), U(n->seen_term), U(n->seen_vote));
    n->seen_term = term, n->seen_vote = voted_for;
    check(n->vote_count < OPS_MAX);
    struct vote_op *op = &n->votes[(n->vote_head + n->vote_count++) % OPS_MAX];
    *op = (struct vote_op){now + between(1, plan.disk_max_ms), ++n->votes_handed, term, voted_for};
    story("node %llu votes %llu in %llu", U(n->id), U(voted_for), U(term));
    if (!calm && voted_for == n->id && !n->heal_due && one_in(plan.trap_one_in)) n->trapped = true;
    if (!calm && voted_for != 0 && voted_for != n->id && one_in(plan.doom_one_in)) n->doom_due = now + between(1, plan.disk_max_ms);
}

static void on_append(void *ctx, const struct group_entry *e, size_t count) {
    struct node *n = ctx;
    check(n->append_count < OPS_MAX);
    check(e[count - 1].index < INDEX_MAX);
    if (n->pool_at + count > POOL_MAX) n->pool_at = 0; /* far more room than what can be under way */
    struct append_op *op = &n->appends[(n->append_head + n->append_count) % OPS_MAX];
    uint64_t due = now + between(1, n->slow && !calm ? plan.disk_max_ms * 20 : plan.disk_max_ms);
    if (n->append_count > 0) due = MAX_OF(due, n->appends[(n->append_head + n->append_count - 1) % OPS_MAX].due);
    *op = (struct append_op){due, ++n->appends_handed, e[0].index, (uint32_t)count, n->pool_at};
    n->append_count++;
    check(group_append_count(n->group) == n->appends_handed);
    for (size_t i = 0; i < count; i++) {
        struct disk_entry *d = &n->pool[n->pool_at++];
        *d = (struct disk_entry){.term = e[i].term, .type = (uint8_t)e[i].type};
        check(e[i].index == e[0].index + i);
        if (e[i].type == GROUP_COMMAND) check(e[i].data.len == COMMAND_BYTES), d->value = get_le64(e[i].data.data);
        if (e[i].type == GROUP_CHANGE) check(group_members_decode(e[i].data, &d->members));
    }
}

static void on_send(void *ctx, uint64_t to, struct slice frame) {
    struct node *n = ctx;
    check(n->outbox_count < OUTBOX_MAX);
    struct out_frame *o = &n->outbox[n->outbox_count++];
    *o = (struct out_frame){to, n->votes_handed, malloc(frame.len), frame.len};
    check(o->data);
    memcpy(o->data, frame.data, frame.len);
}

static void on_role(void *ctx, enum group_role role, uint64_t term, uint64_t leader) {
    static const char *names[] = {"follows", "stands", "LEADS"};
    struct node *n = ctx;
    struct group_entry e;
    story("node %llu %s in %llu, leader %llu", U(n->id), names[role], U(term), U(leader));
    if (role != GROUP_LEADER) return;
    check(term < TERM_MAX);
    /* The same node may lead a term again when its disk never heard of the first time: then nobody else did either. */
    bool again = term_leader[term].id == n->id && (term_leader[term].boot == n->boot || n->opened_term < term);
    if (term_leader[term].id && !again)
        violation(n, "leads term %llu, which node %llu (start %u) led", U(term), U(term_leader[term].id), term_leader[term].boot);
    term_leader[term].id = n->id, term_leader[term].boot = n->boot;
    if (group_last_index(n->group) < truth_last)
        violation(n, "leads term %llu with a log up to %llu: %llu was applied somewhere", U(term), U(group_last_index(n->group)), U(truth_last));
    if (group_entry(n->group, truth_last, &e) && e.term != truth[truth_last].term)
        violation(n, "leads term %llu with another entry %llu than was applied", U(term), U(truth_last));
}

static void on_install(void *ctx, uint64_t node_id, uint64_t index) {}

static void on_fetch(void *ctx, uint64_t from, const struct group_snapshot *s) {
    struct node *n = ctx;
    story("node %llu fetches snapshot %llu from %llu", U(n->id), U(s->index), U(from));
    n->fetching = *s, n->fetch_from = from, n->fetch_due = now + between(1, plan.fetch_max_ms);
    n->append_count = 0; /* what was under way may as well be lost */
}

static const struct group_ops ops = {on_vote, on_append, on_send, on_role, on_install, on_fetch};

/* ---- a node's engine */

static void node_check(struct node *n) {
    uint64_t a = group_applicable(n->group);
    struct group_entry e;
    if (mutant->ack_early || a <= n->flushed.index || n->fetch_due) return;
    if (a > n->last || a < n->first) violation(n, "may apply %llu, its disk holds [%llu, %llu]", U(a), U(n->first), U(n->last));
    if (group_entry(n->group, a, &e) && e.term != n->disk[a].term)
        violation(n, "may apply %llu of term %llu, its disk holds term %llu", U(a), U(e.term), U(n->disk[a].term));
}

static void node_apply(struct node *n) {
    if (!calm && plan.apply_lag && !one_in(plan.apply_lag)) return;
    while (!n->fetch_due && n->applied.index < group_applicable(n->group)) {
        struct group_entry e;
        uint64_t i = n->applied.index + 1;
        if (!group_entry(n->group, i, &e)) violation(n, "entry %llu is gone before it was applied", U(i));
        uint64_t value = e.type == GROUP_COMMAND ? get_le64(e.data.data) : 0;
        n->applied.hash = n->applied.hash * 1000003 + value + e.term, n->applied.index = i, n->applied.term = e.term;
        struct truth *t = &truth[i];
        if (i > truth_last) {
            check(i == truth_last + 1);
            *t = (struct truth){e.term, value, n->applied.hash, (uint8_t)e.type};
            truth_last = i, commands_done += e.type == GROUP_COMMAND;
        }
        if (t->term != e.term || t->value != value || t->type != e.type || t->hash != n->applied.hash)
            violation(n, "applies (term %llu, value %llu) at %llu, another applied (term %llu, value %llu)", U(e.term), U(value), U(i), U(t->term), U(t->value));
        if (e.type == GROUP_CHANGE) group_members_applied(n->group, now, i), n->applied.members = *group_members(n->group);
    }
}

/* After every event. */
static void node_settle(struct node *n) {
    if (mutant->ack_early) group_appends_persisted(n->group, now, group_append_count(n->group));
    node_apply(n);
    node_check(n);
    outbox_flush(n);
}

static void disk_write(struct node *n, const struct append_op *op, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        uint64_t index = op->first + i;
        if (index < n->first) continue;
        check(index <= n->last + 1);
        n->disk[index] = n->pool[op->at + i], n->last = index;
    }
}

static void node_open(struct node *n) {
    static struct group_entry e[INDEX_MAX];
    static uint8_t bytes[INDEX_MAX][COMMAND_BYTES], member_bytes[512][128];
    size_t count = 0, changes = 0;
    for (uint64_t i = n->first; i <= n->last; i++, count++) {
        const struct disk_entry *d = &n->disk[i];
        e[count] = (struct group_entry){.index = i, .term = d->term, .type = (enum group_entry_type)d->type};
        if (d->type == GROUP_COMMAND) put_le64(bytes[count], d->value), e[count].data = slice_of(bytes[count], COMMAND_BYTES);
        if (d->type == GROUP_CHANGE) {
            check(changes < ARRAY_LEN(member_bytes));
            e[count].data = slice_of(member_bytes[changes], group_members_encode(&d->members, member_bytes[changes], sizeof member_bytes[0]));
            changes++;
        }
    }
    struct group_config c = {.group_id = GROUP_ID, .node_id = n->id, .election_ms = 1000, .heartbeat_ms = 100, .inflight_max = plan.inflight_max,
                             .uncommitted_max = plan.uncommitted_max, .seed = (uint32_t)rnd(), .ops = &ops, .ctx = n};
    struct group_snapshot s = {.index = n->flushed.index, .term = n->flushed.term, .members = n->flushed.members};
    n->boot++, n->alive = true, n->applied = n->flushed, n->appends_handed = 0, n->votes_handed = n->votes_durable = 0, n->pool_at = 0;
    n->seen_term = n->term, n->seen_vote = n->voted_for;
    n->flush_due = n->fetch_due = n->doom_due = 0;
    story("node %llu starts: term %llu vote %llu snapshot %llu log [%llu, %llu]", U(n->id), U(n->term), U(n->voted_for), U(s.index), U(n->first), U(n->last));
    group_filters_off(mutant->filters);
    n->opened_term = MAX_OF(n->term, n->last >= n->first ? n->disk[n->last].term : n->flushed.term);
    enum status st = group_open(&n->group, &c, now, n->term, n->voted_for, &s, e, count);
    if (st) violation(n, "its disk does not open: %s", status_name(st));
}

/* Of what was under way a prefix may have reached the disk. */
static void node_crash(struct node *n) {
    story("node %llu crashes", U(n->id));
    unsigned keep = between(0, n->append_count);
    for (unsigned i = 0; i < keep; i++) {
        const struct append_op *op = &n->appends[(n->append_head + i) % OPS_MAX];
        disk_write(n, op, i + 1 < keep ? op->count : between(0, op->count));
    }
    keep = between(0, n->vote_count);
    for (unsigned i = 0; i < keep; i++) {
        const struct vote_op *op = &n->votes[(n->vote_head + i) % OPS_MAX];
        n->term = op->term, n->voted_for = op->voted_for;
    }
    n->append_count = n->vote_count = 0;
    for (unsigned i = 0; i < n->outbox_count; i++) free(n->outbox[i].data);
    n->outbox_count = 0;
    group_close(n->group);
    n->group = NULL, n->alive = false;
    crashes_done++;
}

static void node_disk(struct node *n) {
    bool votes = false;
    while (n->vote_count > 0 && n->votes[n->vote_head].due <= now) {
        const struct vote_op *op = &n->votes[n->vote_head];
        n->term = op->term, n->voted_for = op->voted_for, n->votes_durable = op->number;
        n->vote_head = (n->vote_head + 1) % OPS_MAX, n->vote_count--, votes = true;
    }
    if (votes) outbox_flush(n);
    uint64_t number = 0;
    while (n->append_count > 0 && n->appends[n->append_head].due <= now) {
        const struct append_op *op = &n->appends[n->append_head];
        disk_write(n, op, op->count);
        number = op->number;
        n->append_head = (n->append_head + 1) % OPS_MAX, n->append_count--;
    }
    if (number) group_appends_persisted(n->group, now, number), node_settle(n);
}

static void node_flush(struct node *n) {
    if (n->flush_due && n->flush_due <= now && !n->fetch_due) {
        n->flush_due = 0, n->flushed = n->flushing;
        struct group_snapshot s = {.index = n->flushed.index, .term = n->flushed.term, .members = n->flushed.members};
        group_snapshotted(n->group, now, &s, n->trailing);
        uint64_t cut_to = s.index > n->trailing ? s.index - n->trailing : 0;
        if (cut_to >= n->first) n->first = cut_to + 1;
        group_release(n->group, plan.release_early ? n->applied.index : cut_to);
        node_settle(n);
    } else if (!n->flush_due && !n->fetch_due && n->applied.index > n->flushed.index && one_in(plan.flush_one_in)) {
        n->flushing = n->applied, n->flush_due = now + between(1, 5 * plan.disk_max_ms);
    }
}

static void node_fetch(struct node *n) {
    if (!n->fetch_due || n->fetch_due > now) return;
    const struct node *from = &nodes[n->fetch_from];
    if (!calm && (!from->alive || cut[from->id][n->id] || one_in(3))) {
        n->fetch_due = now + between(50, 500);
        return;
    }
    uint64_t i = n->fetching.index;
    check(i <= truth_last);
    n->fetch_due = n->flush_due = 0;
    n->flushed = n->applied = (struct state){i, truth[i].term, truth[i].hash, n->fetching.members};
    n->first = i + 1, n->last = i;
    installs_done++;
    story("node %llu has snapshot %llu", U(n->id), U(i));
    group_installed(n->group, now, &n->fetching);
    node_settle(n);
}

static struct node *top_leader(void) {
    struct node *l = NULL;
    for (unsigned i = 1; i <= plan.nodes; i++)
        if (nodes[i].alive && group_role(nodes[i].group) == GROUP_LEADER && (!l || group_term(nodes[i].group) > group_term(l->group))) l = &nodes[i];
    return l;
}

static bool submit(struct node *n, uint64_t *index) {
    uint8_t *data = mem_alloc(COMMAND_BYTES);
    check(data);
    memset(data, 0, COMMAND_BYTES);
    put_le64(data, next_value++);
    enum status st = group_submit(n->group, now, data, COMMAND_BYTES, index);
    if (st) mem_free(data);
    else if (term_leader[group_term(n->group)].id != n->id) violation(n, "takes a command in a term that it does not lead");
    node_settle(n);
    return st == STATUS_OK;
}

/* One random step: a node comes as a spare, a learner or at once as a voter, rises, falls, goes. */
static bool change(struct node *n) {
    struct group_members m = *group_members(n->group);
    uint64_t id = between(1, plan.nodes);
    unsigned at = 0, voters = 0;
    while (at < m.count && m.member[at].node_id != id) at++;
    for (unsigned i = 0; i < m.count; i++) voters += m.member[i].kind == GROUP_VOTER;
    if (at == m.count) {
        if (m.count == GROUP_MEMBERS_MAX) return false;
        m.member[m.count++] = (struct group_member){id, (uint8_t)between(GROUP_VOTER, GROUP_SPARE)};
    } else if (m.member[at].kind == GROUP_VOTER) {
        if (voters == 1 || (voters <= 2 && between(0, 2))) return false;
        if (between(0, 1)) m.member[at].kind = GROUP_LEARNER;
        else m.member[at] = m.member[--m.count];
    } else if (between(0, 3)) {
        m.member[at].kind = between(0, 3) ? GROUP_VOTER : (uint8_t)between(GROUP_LEARNER, GROUP_SPARE);
    } else {
        m.member[at] = m.member[--m.count];
    }
    enum status st = group_change(n->group, now, &m);
    if (!st) changes_done++, story("node %llu changes node %llu: %u members", U(n->id), U(id), m.count);
    node_settle(n);
    return st == STATUS_OK;
}

/* ---- time */

static void deliver(void) {
    while (heap_count > 0 && heap[0].due <= now) {
        struct frame f = heap_pop();
        struct node *n = &nodes[f.to];
        if (n->alive && !cut[f.from][f.to]) {
            enum status st = group_receive(n->group, now, f.from, slice_of(f.data, f.len));
            if (st) violation(n, "an honest frame from %llu is refused: %s", U(f.from), status_name(st));
            node_settle(n);
        }
        free(f.data);
    }
}

static void one_ms(void) {
    now++;
    deliver();
    for (unsigned i = 1; i <= plan.nodes; i++) {
        struct node *n = &nodes[i];
        if (!n->alive) continue;
        node_disk(n);
        if (group_deadline_ms(n->group) <= now) group_tick(n->group, now), node_settle(n);
        node_flush(n);
        node_fetch(n);
    }
}

static void isolate(uint64_t id, bool on) {
    for (unsigned j = 1; j <= plan.nodes; j++) {
        if (j == id) continue;
        unsigned way = plan.one_way_cuts && on ? between(1, 3) : 3;
        if (way & 1) cut[id][j] = on;
        if (way & 2) cut[j][id] = on;
    }
}

static void faults(void) {
    for (unsigned i = 1; i <= plan.nodes; i++) {
        struct node *n = &nodes[i];
        if (!n->alive && n->restart_due <= now) node_open(n), node_settle(n);
        else if (n->alive && n->doom_due && n->doom_due <= now) node_crash(n), n->restart_due = now + 1;
        else if (n->alive && one_in(plan.crash_one_in)) node_crash(n), n->restart_due = now + between(1, plan.outage_max_ms);
        if (n->heal_due && n->heal_due <= now) {
            isolate(i, false), n->heal_due = 0, story("node %u is reachable", i);
            if (n->trapped && n->alive) node_crash(n), n->restart_due = now + 1;
            n->trapped = false;
        } else if (!n->heal_due && (n->trapped || one_in(plan.cut_one_in))) {
            isolate(i, true), n->heal_due = now + between(1, plan.outage_max_ms) + (n->trapped ? 3000 : 0), story("node %u is cut off", i);
            uint64_t index;
            for (unsigned k = n->alive && truth_last < INDEX_MAX / 2 ? plan.burst : 0; k > 0 && submit(n, &index); k--) {}
        }
    }
}

static void clients(void) {
    uint64_t index;
    for (unsigned i = 1; i <= plan.nodes; i++) {
        struct node *n = &nodes[i];
        if (!n->alive || group_role(n->group) != GROUP_LEADER || truth_last > INDEX_MAX - 8192) continue;
        if (rnd() % 1000 < plan.submit_permille)
            for (unsigned k = between(1, 6); k > 0; k--) submit(n, &index);
        if (one_in(plan.change_one_in)) change(n);
        if (one_in(plan.transfer_one_in) && group_transfer(n->group, now, between(1, plan.nodes)) == STATUS_OK) story("node %u transfers", i);
        node_settle(n);
    }
}

static void draw_plan(void) {
    static const unsigned sizes[] = {1, 3, 3, 3, 5};
    plan.voters = sizes[between(0, 4)];
    plan.change_one_in = between(0, 1) ? between(100, 4000) : 0;
    plan.nodes = plan.voters + (plan.change_one_in ? 2 : 0);
    plan.latency_max_ms = between(1, 40), plan.disk_max_ms = between(1, 30), plan.drop_permille = between(0, 1) ? between(0, 80) : 0;
    plan.duplicate_permille = between(0, 1) ? between(0, 50) : 0, plan.reorder = between(0, 1), plan.one_way_cuts = between(0, 1);
    plan.submit_permille = between(1, 60), plan.crash_one_in = between(1000, 20000), plan.cut_one_in = between(1000, 20000);
    plan.outage_max_ms = between(500, 6000), plan.flush_one_in = between(50, 3000), plan.trailing = between(0, 1) ? 0 : between(0, 200);
    plan.release_early = plan.trailing == 0 && between(0, 1), plan.fetch_max_ms = between(1, 4000), plan.inflight_max = between(8, 256);
    plan.uncommitted_max = between(4, 64), plan.transfer_one_in = between(0, 1) ? between(500, 8000) : 0, plan.slow_disk_node = between(0, 3) == 0;
    plan.straggler_permille = between(0, 1) ? between(0, 20) : 0, plan.trap_one_in = between(0, 1) ? between(1, 4) : 0;
    plan.doom_one_in = between(0, 2) ? 0 : between(1, 3);
    plan.burst = between(0, 1) ? 1200 : 0, plan.apply_lag = between(0, 2) ? 0 : between(2, 200);
    plan.flush_drawn = plan.flush_one_in;
}

static void set_up(void) {
    struct state start = {.index = GROUP_FIRST_INDEX, .term = 1};
    for (unsigned i = 1; i <= plan.voters; i++) start.members.member[start.members.count++] = (struct group_member){i, GROUP_VOTER};
    start.members.index = GROUP_FIRST_INDEX;
    truth_last = GROUP_FIRST_INDEX, truth[GROUP_FIRST_INDEX].term = 1;
    nodes = calloc(NODES_MAX + 1, sizeof *nodes);
    check(nodes);
    for (unsigned i = 1; i <= plan.nodes; i++) {
        struct node *n = &nodes[i];
        n->disk = calloc(INDEX_MAX, sizeof *n->disk), n->pool = calloc(POOL_MAX, sizeof *n->pool);
        check(n->disk && n->pool);
        n->id = i, n->flushed = start, n->first = GROUP_FIRST_INDEX + 1, n->last = GROUP_FIRST_INDEX, n->slow = plan.slow_disk_node && i == 1;
        n->trailing = plan.trailing && between(0, 2) ? between(1, 20 * plan.trailing) : plan.trailing;
        node_open(n);
    }
}

/* Every member (spares aside) of the newest committed configuration, among the healthy, has applied `index`. */
static bool all_applied(const struct node *leader, uint64_t index) {
    const struct group_members *m = group_members(leader->group);
    for (unsigned i = 0; i < m->count; i++) {
        const struct node *n = &nodes[m->member[i].node_id];
        if (n->alive && m->member[i].kind != GROUP_SPARE && n->applied.index < index) return false;
    }
    return true;
}

static void heal(void) {
    calm = true;
    memset(cut, 0, sizeof cut);
    uint64_t down = 0;
    if (!plan.change_one_in)
        for (unsigned left = (plan.voters - 1) / 2; left > 0; left--) down |= 1ull << between(1, plan.voters);
    for (unsigned i = 1; i <= plan.nodes; i++) {
        bool stays = !(down >> i & 1);
        if (nodes[i].alive && !stays) node_crash(&nodes[i]);
        if (!nodes[i].alive && stays) node_open(&nodes[i]), node_settle(&nodes[i]);
    }
    plan.flush_one_in = 500;
    story("the faults end, down: %llx", U(down));
}

enum stage { ASK, WAIT, CHANGE, WAIT_CHANGE, DONE };

static int progress(void) {
    static const char *stuck[] = {"no leader takes a command", "a command is not applied everywhere", "no change is taken", "a change is not applied everywhere", ""};
    uint64_t index = 0, term = 0;
    enum stage stage = ASK;
    for (uint64_t end = now + HEALTH_MS; now < end && stage != DONE;) {
        one_ms();
        struct node *l = top_leader();
        if (!l) continue;
        if (stage != ASK && group_term(l->group) != term) stage = ASK; /* a new leader: what was asked for may be gone */
        if (stage == ASK && group_ready(l->group) && submit(l, &index)) term = group_term(l->group), stage = WAIT, story("asks for %llu", U(index));
        if (stage == WAIT && l->applied.index >= index && all_applied(l, index)) stage = plan.change_one_in ? CHANGE : DONE;
        if (stage == CHANGE && one_in(50) && change(l)) index = group_last_index(l->group), stage = WAIT_CHANGE;
        if (stage == WAIT_CHANGE && l->applied.index >= index && all_applied(l, index)) stage = DONE;
    }
    if (stage == DONE) return 0;
    printf("  seed=%llu: no progress in %d s: %s\n", U(seed_now), HEALTH_MS / 1000, stuck[stage]);
    for (unsigned i = 1; i <= plan.nodes; i++)
        if (nodes[i].alive)
            story("node %u: role %d term %llu last %llu applicable %llu applied %llu", i, group_role(nodes[i].group), U(group_term(nodes[i].group)),
                  U(group_last_index(nodes[i].group)), U(group_applicable(nodes[i].group)), U(nodes[i].applied.index));
    return 3;
}

static void tear_down(void) {
    for (unsigned i = 1; i <= plan.nodes; i++) {
        if (nodes[i].alive) node_crash(&nodes[i]);
        free(nodes[i].disk), free(nodes[i].pool);
    }
    while (heap_count > 0) free(heap_pop().data);
    free(heap), free(nodes);
}

struct result {
    uint64_t applied, commands, terms, changes, installs, crashes;
};

static int run_seed(uint64_t seed, struct result *out) {
    seed_now = seed, rng = 88172645463325252ull ^ (seed * 0x9E3779B97F4A7C15ull), now = 1000;
    for (int i = 0; i < 20; i++) rnd();
    draw_plan();
    story("%u voters of %u nodes, latency %u disk %u drop %u reorder %d changes %u trailing %u", plan.voters, plan.nodes, plan.latency_max_ms, plan.disk_max_ms,
          plan.drop_permille, plan.reorder, plan.change_one_in, plan.trailing);
    set_up();
    int rc = 0;
    for (unsigned round = 0; round < ROUNDS && rc == 0; round++) {
        calm = false, plan.flush_one_in = plan.flush_drawn;
        for (unsigned i = 1; i <= plan.nodes; i++) nodes[i].heal_due = 0, nodes[i].trapped = false;
        for (uint64_t end = now + FAULTS_MS; now < end;) one_ms(), faults(), clients();
        heal();
        rc = progress();
    }
    struct node *l = top_leader();
    *out = (struct result){truth_last, commands_done, l ? group_term(l->group) : 0, changes_done, installs_done, crashes_done};
    tear_down();
    return rc;
}

/* ---- many seeds, each in a process of its own: a panic is a finding too */

static int fork_seed(uint64_t seed, struct result *sum) {
    int ends[2], status = 0;
    check(pipe(ends) == 0);
    fflush(stdout);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        struct result r = {0};
        alarm(60);
        if (!sum) check(freopen("/dev/null", "w", stderr) && freopen("/dev/null", "w", stdout)); /* a mutant: its end is expected */
        int rc = run_seed(seed, &r);
        check(write(ends[1], &r, sizeof r) == (ssize_t)sizeof r);
        fflush(stdout);
        _exit(rc);
    }
    close(ends[1]);
    struct result r = {0};
    if (read(ends[0], &r, sizeof r) == (ssize_t)sizeof r && sum)
        sum->applied += r.applied, sum->commands += r.commands, sum->terms += r.terms, sum->changes += r.changes, sum->installs += r.installs, sum->crashes += r.crashes;
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) printf("  seed=%llu: signal %d\n", U(seed), WTERMSIG(status));
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static bool run_seeds(uint64_t first, uint64_t count) {
    struct result sum = {0};
    uint64_t bad = 0;
    for (uint64_t s = first; s < first + count; s++)
        if (fork_seed(s, &sum) != 0) bad++, printf("not ok sim_group seed=%llu\n", U(s));
    if (!bad)
        printf("ok sim_group seeds %llu..%llu: %llu entries, %llu commands, %llu terms, %llu crashes, %llu membership changes, %llu snapshots installed\n", U(first),
               U(first + count - 1), U(sum.applied), U(sum.commands), U(sum.terms), U(sum.crashes), U(sum.changes), U(sum.installs));
    return bad == 0;
}

/* The first seed that catches it; 0: none of `count`. */
static uint64_t catch_mutant(const struct mutant *m, uint64_t count) {
    mutant = m;
    for (uint64_t s = 1; s <= count; s++)
        if (fork_seed(s, NULL) != 0) return s;
    return 0;
}

int main(int argc, char **argv) {
    static const struct mutant none = {"none", "", 0, false, false, false};
    mutant = &none;
    uint64_t first = 1, count = SEEDS_DEFAULT, tries = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--seed") && i + 1 < argc) first = strtoull(argv[++i], NULL, 10), count = 1, loud = true;
        else if (!strcmp(argv[i], "--seeds") && i + 2 < argc) first = strtoull(argv[i + 1], NULL, 10), count = strtoull(argv[i + 2], NULL, 10), i += 2;
        else if (!strcmp(argv[i], "--mutants") && i + 1 < argc) tries = strtoull(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--mutant") && i + 1 < argc) {
            for (size_t k = 0; k < ARRAY_LEN(mutants); k++)
                if (!strcmp(argv[i + 1], mutants[k].name)) mutant = &mutants[k];
            check(mutant != &none);
            i++;
        } else {
            fprintf(stderr, "usage: sim_group [--seed S | --seeds A N] [--mutant NAME | --mutants N]\n");
            return 2;
        }
    }
    log_set_level(LOG_OFF);
    for (size_t k = 0; tries && k < ARRAY_LEN(mutants); k++) {
        uint64_t s = catch_mutant(&mutants[k], tries);
        if (s) printf("ok sim_group mutant %s (%s): caught by seed %llu\n", mutants[k].name, mutants[k].what, U(s));
        else printf("# mutant %s (%s): survives %llu seeds\n", mutants[k].name, mutants[k].what, U(tries));
    }
    if (tries) return 0;
    bool ok = run_seeds(first, count);
    for (size_t k = 0; argc == 1 && k < ARRAY_LEN(mutants); k++) {
        if (!mutants[k].quick) continue;
        uint64_t s = catch_mutant(&mutants[k], MUTANT_SEEDS);
        printf("%s sim_group mutant %s: %s\n", s ? "ok" : "not ok", mutants[k].name, s ? "caught" : "not caught");
        ok = ok && s;
    }
    return ok ? 0 : 1;
}
