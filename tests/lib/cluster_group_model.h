/* What sim_cluster.c knows of consumer groups: each event, what became of it in each group, and what may be given out when.
 *
 * A partition's leader gives a group's events out by a dispatcher, which begins with what its replica's rows say (at an entry of the log: its base) and knows the rest from its members. Leaders that do not know
 * yet that they are deposed have one too. So some things hold for each dispatcher, with what it could know, and others for all:
 *   - each: nothing that was settled at its base, or acked to it; in order per key, redelivery included, a key with one member, key_window; stale exactly when it may be; attempts;
 *     only while it leads, in the term in which it began
 *   - each: nothing while its group is paused in its replica's rows
 *   - all: what is settled in one replica's rows stays settled in all that have applied as much; nothing is settled there but what was acked, has died, or waits behind what has;
 *     attempts never above what went wrong; `complete_to` says nothing of what is not settled; an order of a snapshot is told as of one version, and its changes are those behind it.
 * A group that is sought, or deleted and made anew, has another life from then on, of which all that holds afresh: dispatchers know their group's id and epoch, and so their life. A group that is changed
 * meanwhile (redefined) is held to the loosest that it was ever asked to be.
 * Members can't know what happens inside at a time of its own (a lease that ends), or what came of an ack that has no answer: those are ranges, never guesses. */
#ifndef TESTS_LIB_CLUSTER_GROUP_MODEL_H
#define TESTS_LIB_CLUSTER_GROUP_MODEL_H

#include "engine/partition_group.h"
#include "tests/lib/cluster_check.h"
#include "tests/lib/group_event.h"

enum { GROUP_NAMES = 2, GROUP_LIVES = 3, GROUPS = GROUP_NAMES * GROUP_LIVES, GROUP_FIRST_ID = 7, GROUP_EVENTS_MAX = 1024, GROUP_DISPATCHERS_MAX = 4096, GROUP_USERS = 12 };

struct group_session;
/* Of one event and group at a node's newest dispatcher that gave it out. */
struct hold {
    unsigned dispatcher; /* 0: none */
    bool acked, held;
    const struct group_session *session;
    uint64_t given_ns, until_ns;
    uint32_t low;        /* attempts that it has counted for sure */
};
struct known {
    bool acked, killed, told, redriven; /* told: by an event of a snapshot */
    bool skipped;                       /* a seek passes over it, or an operator lets its key go on without it: or will */
    bool acked_by_name;                 /* an ack of it went with a write: that names the group and not its epoch, so it may be taken behind a seek */
    unsigned acks_away, nacks_away;     /* without an answer, which may never come */
    uint32_t failures;                  /* at most, those of holds that are over left out */
    unsigned given;
    uint64_t durable, letter;           /* the first entry behind which a replica had it settled; and as a letter. 0: none was seen */
    struct hold at[NODES];
};
struct cluster_event {
    unsigned partition;
    uint16_t slot;
    int64_t seq, order_id, version, commit_us;
    char user[32];
    struct known of[GROUPS];
};
enum group_ending { ENDING_NONE, ENDING_SEEK, ENDING_DELETE };
struct sought_slot {
    uint16_t slot;
    int64_t behind;
};
/* One life of a group. */
struct cluster_group {
    struct consumer_definition d; /* the loosest that it was */
    uint32_t attempts_min;        /* max_attempts, at the least */
    char filter[64];
    uint64_t bring_ns;
    bool mortal;                  /* events may die */
    unsigned changes_in;          /* redefined, blocked keys let go on, sought, deleted: so seldom */
    uint32_t id[PARTITIONS];      /* 0: it has not begun */
    uint64_t epoch[PARTITIONS];
    struct group_write *writing[PARTITIONS]; /* the group is brought, changed or ended, or letters redriven */
    uint64_t give_up_ns[PARTITIONS];
    struct consumer_definition now[PARTITIONS]; /* as it is to be, in this revision */
    uint64_t revision[PARTITIONS], brought_revision[PARTITIONS];
    enum group_ending ending[PARTITIONS];
    struct sought_slot sought[PARTITIONS][GROUP_USERS];
    unsigned sought_count[PARTITIONS];
    bool brought[PARTITIONS], redriven[PARTITIONS];
};
struct group_dispatcher {
    unsigned node, partition, group;
    uint64_t base, term;
};
enum group_stage { GROUPS_LIVE, GROUPS_SETTLED, GROUPS_STARTED_AGAIN, GROUPS_LEAVING, GROUPS_DONE };
/* One process for each seed. */
static struct {
    unsigned count; /* of names; 0: a plan without groups */
    unsigned life[PARTITIONS][GROUP_NAMES];
    struct cluster_group group[GROUPS];
    struct cluster_event events[GROUP_EVENTS_MAX];
    unsigned event_count;
    struct feed_request read[PARTITIONS];
    uint64_t learned[PARTITIONS];
    struct group_dispatcher dispatchers[GROUP_DISPATCHERS_MAX];
    unsigned dispatcher_count, newest[NODES][PARTITIONS][GROUPS]; /* number of a dispatcher, from 1 */
    uint64_t base[NODES][PARTITIONS][GROUPS];                     /* of what is being loaded */
    uint64_t led[NODES][PARTITIONS][2];                           /* the term that it led at the last looks; 0: none */
    bool paused[NODES][PARTITIONS][GROUPS][2];                    /* by its rows, at the last looks */
    enum group_stage stage;
    uint64_t stage_ns, look_ns;
    unsigned window_parts;
    uint64_t given, again, acked, nacked, stale, letters, told, lost_leads, sessions, refs, refs_refused, seeks, deletions, redefined, pauses, unblocked, haunted;
} gw;

static unsigned life_now(unsigned partition, unsigned name) { return name * GROUP_LIVES + gw.life[partition][name]; }

static bool group_wants(const struct cluster_group *g, const struct cluster_event *e) { return !g->filter[0] || strcmp(e->user, "user-0") != 0; }
static bool group_has_snapshot(const struct cluster_group *g) { return g->d.start == START_SNAPSHOT; }

static bool same_key(const struct cluster_group *g, const struct cluster_event *a, const struct cluster_event *b) {
    if (g->d.ordering == ORDERING_USER) return strcmp(a->user, b->user) == 0;
    return g->d.ordering == ORDERING_ORDER ? a->order_id == b->order_id : a == b;
}

static struct cluster_event *group_event(unsigned partition, uint16_t slot, int64_t seq) {
    for (unsigned i = 0; i < gw.event_count; i++)
        if (gw.events[i].partition == partition && gw.events[i].slot == slot && gw.events[i].seq == seq) return &gw.events[i];
    return NULL;
}

/* What this replica has applied of the stream is committed, and known to us from then on. */
static void group_learn(struct sim *s, struct node *n, unsigned partition) {
    struct partition *p = replica(n, partition);
    struct feed_request *request = &gw.read[partition];
    if (gw.learned[partition] >= p->record.applied_index) return;
    gw.learned[partition] = p->record.applied_index;
    *request = (struct feed_request){.at = request->at, .payload = FEED_FULL, .bytes_max = 1 << 20};
    while (!request->at_end) {
        Orderdb__V1__ReadChangesResponse *m = stream_read(s, n, partition, request);
        for (size_t i = 0; i < m->n_events; i++) {
            struct got_event x = got_event_of(m->events[i]);
            REQUIRE(gw.event_count < GROUP_EVENTS_MAX, "more events than orders can have");
            struct cluster_event *e = &gw.events[gw.event_count++];
            *e = (struct cluster_event){.partition = partition, .slot = x.slot, .seq = x.seq, .order_id = x.order_id, .version = x.version, .commit_us = x.commit_us};
            snprintf(e->user, sizeof e->user, "%s", x.user);
        }
        orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    }
}

/* ---- what may be */

static bool over_at(uint64_t now_ns, uint64_t until_ns) { return now_ns + 25 * NS_PER_MS >= until_ns; }
static bool may_be_over(const struct sim *s, const struct hold *h) { return h->held && over_at(sim_world_now_ns(s->world), h->until_ns); }

static uint32_t failures_max(const struct sim *s, const struct known *k) {
    uint32_t n = k->failures + k->nacks_away;
    for (unsigned i = 0; i < NODES; i++) n += may_be_over(s, &k->at[i]);
    return n;
}

static bool may_be_dead(const struct sim *s, const struct cluster_group *g, const struct known *k) { return k->killed || failures_max(s, k) >= g->attempts_min; }

/* A seek leaves letters where they are, and the events come again beside them. May one of this event be left from a life before? */
static bool left_a_letter(const struct sim *s, unsigned group, const struct cluster_event *e) {
    const struct cluster_group *g = &gw.group[group];
    for (unsigned v = group; v-- > group / GROUP_LIVES * GROUP_LIVES && g->d.on_exhausted != EXHAUSTED_BLOCK;)
        if (gw.group[v].id[e->partition] == g->id[e->partition] && (e->of[v].letter || may_be_dead(s, &gw.group[v], &e->of[v]))) return true;
    return false;
}

static bool acked_before(unsigned group, const struct cluster_event *e) {
    for (unsigned v = group; v-- > group / GROUP_LIVES * GROUP_LIVES;)
        if (gw.group[v].id[e->partition] == gw.group[group].id[e->partition] && e->of[v].acked_by_name) return true;
    return false;
}

/* What was before a seek reaches beyond it: an ack, a letter of it, or, where keys are parked, one of its key: it may be a letter too, for it waits, or waited, behind that one; and goes
 * out when that one is gone. */
static bool haunted(const struct sim *s, unsigned group, const struct cluster_event *e) {
    const struct cluster_group *g = &gw.group[group];
    if (group % GROUP_LIVES == 0 || gw.group[group - 1].id[e->partition] != g->id[e->partition]) return false; /* nothing was before */
    if (left_a_letter(s, group, e) || acked_before(group, e)) return true;
    for (unsigned i = 0; i < gw.event_count && g->d.on_exhausted == EXHAUSTED_PARK; i++)
        if (gw.events[i].partition == e->partition && same_key(g, &gw.events[i], e) && left_a_letter(s, group, &gw.events[i])) return true;
    return false;
}

/* Of an order that was told by a later event. */
static bool passed_over(const struct cluster_event *e, unsigned group) {
    for (unsigned i = 0; i < gw.event_count && group_has_snapshot(&gw.group[group]); i++) {
        const struct cluster_event *o = &gw.events[i];
        if (o->partition == e->partition && o->order_id == e->order_id && o->seq > e->seq && o->of[group].told) return true;
    }
    return false;
}

static bool may_be_settled(const struct sim *s, unsigned group, const struct cluster_event *e) {
    const struct cluster_group *g = &gw.group[group];
    const struct known *k = &e->of[group];
    if (!group_wants(g, e) || k->acked || k->acks_away || k->skipped || (g->d.on_exhausted != EXHAUSTED_BLOCK && may_be_dead(s, g, k))) return true;
    if (acked_before(group, e) || (g->d.on_exhausted == EXHAUSTED_PARK && haunted(s, group, e))) return true;
    for (unsigned i = 0; i < gw.event_count && g->d.on_exhausted == EXHAUSTED_PARK; i++) { /* it waits behind a letter */
        const struct cluster_event *o = &gw.events[i];
        bool before = o->seq < e->seq || g->d.key_window > 1 || group_has_snapshot(g); /* it may be taken back when what was given out behind it has died; orders are told by their ids */
        if (o->partition == e->partition && before && same_key(g, o, e) && may_be_dead(s, g, &o->of[group])) return true;
    }
    return false;
}

/* ---- what stands in a replica's rows */

static struct slice group_row(struct sim *s, struct node *n, unsigned partition, struct key *k, struct arena *arena) {
    struct store_view view = {.store = replica(n, partition)->store};
    struct slice row = {0};
    enum status st = store_get(&view, key_slice(k), arena, &row);
    REQUIRE(st == STATUS_OK || st == STATUS_ABSENT, "node %llu, partition %u: a row of a group: %s", (unsigned long long)n->id, partition, status_name(st));
    return st ? (struct slice){0} : row;
}

struct group_rows {
    struct consumer_position position;
    struct consumer_progress progress;
};
static bool settled_there(const struct group_rows *r, const struct cluster_group *g, const struct cluster_event *e) {
    if (!consumer_position_settled(&r->position, e->seq)) return false;
    if (!group_has_snapshot(g)) return true;
    return r->progress.scanning && consumer_scan_told(&r->progress.scan, e->slot, e->order_id) && !consumer_told_find(&r->position, e->seq);
}

/* It may have become one without ever having been given out, behind another. */
static void look_at_letter(struct sim *s, unsigned group, struct cluster_event *e, struct slice row, uint64_t applied) {
    struct consumer_letter l;
    REQUIRE(consumer_letter_decode(row, &l) == STATUS_OK, "a letter");
    Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, l.event.len, l.event.data);
    REQUIRE(m && m->n_events == 1 && m->events[0]->slot == e->slot && m->events[0]->seq == e->seq, "a letter's event");
    e->of[group].told |= got_event_of(m->events[0]).snapshot;
    e->of[group].letter = applied;
    orderdb__v1__read_changes_response__free_unpacked(m, NULL);
}

static void look_at_event(struct sim *s, struct node *n, unsigned group, struct cluster_event *e, const struct group_rows *r) {
    const struct cluster_group *g = &gw.group[group];
    struct known *k = &e->of[group];
    uint64_t applied = replica(n, e->partition)->record.applied_index;
    bool settled = settled_there(r, g, e);
    struct key key;
    REQUIRE(settled || !k->durable || applied < k->durable, "group %u: %u:%lld was settled behind entry %llu, and is not on node %llu, which has applied %llu", group, e->slot, (long long)e->seq,
            (unsigned long long)k->durable, (unsigned long long)n->id, (unsigned long long)applied);
    if (!settled) return;
    REQUIRE(group_has_snapshot(g) || may_be_settled(s, group, e), "group %u: %u:%lld is settled on node %llu, and nobody acked it: given %u times, %u failures at most; the position is through %lld, %u listed, %llu letters", group, e->slot, (long long)e->seq, (unsigned long long)n->id, k->given, failures_max(s, k), (long long)r->position.through, r->position.count, (unsigned long long)r->position.letters);
    if (!k->durable || applied < k->durable) k->durable = applied;
    if (k->acked || !r->position.letters || (k->letter && k->letter <= applied)) return;
    struct arena arena;
    arena_init(&arena, 1 << 20);
    key_letter(&key, e->slot, g->id[e->partition], e->seq);
    struct slice row = group_row(s, n, e->partition, &key, &arena);
    if (row.data) look_at_letter(s, group, e, row, applied);
    arena_fini(&arena);
}

/* This replica's copy; false: there is none, or it goes. */
static bool group_copy(struct sim *s, struct node *n, unsigned partition, unsigned group, struct arena *arena, struct consumer_group_row *copy) {
    struct key k;
    key_group(&k, gw.group[group].id[partition]);
    struct slice row = group_row(s, n, partition, &k, arena);
    if (!row.data) return false;
    REQUIRE(consumer_group_row_decode(row, copy) == STATUS_OK, "a group's copy");
    return !(copy->flags & CONSUMER_REMOVING);
}

/* In this life or a later one of the same id. */
static bool group_goes(unsigned partition, unsigned group) {
    for (unsigned v = group; v < GROUPS && gw.group[v].id[partition] == gw.group[group].id[partition]; v++)
        if (gw.group[v].ending[partition] == ENDING_DELETE) return true;
    return false;
}

/* Every event that is known, as this replica has it. */
static void group_look(struct sim *s, struct node *n, unsigned partition, unsigned group) {
    const struct cluster_group *g = &gw.group[group];
    struct arena arena;
    struct key k;
    struct group_rows r = {0};
    struct consumer_group_row copy = {0};
    arena_init(&arena, 4 << 20);
    bool there = group_copy(s, n, partition, group, &arena, &copy);
    bool over = there ? copy.epoch > g->epoch[partition] : group_goes(partition, group); /* of that life it knows nothing any more */
    if (over) {
        arena_fini(&arena);
        return;
    }
    bool early = !there || copy.epoch < g->epoch[partition]; /* or nothing yet */
    key_progress(&k, g->id[partition]);
    struct slice row = group_row(s, n, partition, &k, &arena);
    REQUIRE(!row.data || consumer_progress_decode(row, &r.progress) == STATUS_OK, "a group's progress");
    if (early || r.progress.epoch != g->epoch[partition]) r.progress = (struct consumer_progress){.scanning = !early && copy.flags & CONSUMER_SNAPSHOT};
    for (unsigned user = 0; user < GROUP_USERS; user++) {
        char name[32];
        snprintf(name, sizeof name, "user-%u", user);
        uint16_t slot = slot_of_user(slice_str(name));
        if (partition_of_slot(slot, PARTITIONS) != partition) continue;
        key_position(&k, slot, g->id[partition]);
        row = group_row(s, n, partition, &k, &arena);
        r.position = (struct consumer_position){0};
        REQUIRE(!row.data || consumer_position_decode(row, &arena, &r.position) == STATUS_OK, "a group's position");
        if (early || r.position.epoch != g->epoch[partition]) r.position = (struct consumer_position){.letters = r.position.letters};
        for (unsigned i = 0; i < gw.event_count; i++)
            if (gw.events[i].slot == slot && gw.events[i].partition == partition) look_at_event(s, n, group, &gw.events[i], &r);
    }
    arena_fini(&arena);
}

static void check_groups(struct sim *s) {
    for (unsigned i = 0; i < NODES; i++)
        for (unsigned p = 0; s->nodes[i].engine && p < PARTITIONS && gw.count; p++) {
            group_learn(s, &s->nodes[i], p);
            for (unsigned g = 0; g < GROUPS; g++)
                if (gw.group[g].brought[p]) group_look(s, &s->nodes[i], p, g);
        }
}

/* ---- dispatchers */

static bool dispatcher_place(const struct dispatcher *d, unsigned *node, unsigned *partition) {
    struct sim *s = clocks_of;
    for (*node = 0; *node < NODES && s->nodes[*node].engine != d->partition->engine;) ++*node;
    *partition = d->partition->id;
    return gw.count && *node < NODES;
}

/* What it begins with is read now. */
static void dispatcher_reads(const struct dispatcher *d) {
    struct sim *s = clocks_of;
    unsigned node, partition;
    if (!dispatcher_place(d, &node, &partition)) return;
    group_learn(s, &s->nodes[node], partition);
    for (unsigned group = 0; group < GROUPS; group++)
        if (gw.group[group].id[partition] == d->group_id) gw.base[node][partition][group] = d->last_index, group_look(s, &s->nodes[node], partition, group);
}

static void dispatcher_begins(const struct dispatcher *d) {
    struct sim *s = clocks_of;
    unsigned node, partition, group = 0;
    if (d->job_status || !dispatcher_place(d, &node, &partition)) return;
    while (group < GROUPS && (gw.group[group].id[partition] != d->group_id || gw.group[group].epoch[partition] != d->row.epoch)) group++;
    REQUIRE(group < GROUPS, "a dispatcher of group %u in epoch %llu, which nobody made", d->group_id, (unsigned long long)d->row.epoch);
    REQUIRE(gw.dispatcher_count < GROUP_DISPATCHERS_MAX, "too many dispatchers");
    gw.dispatchers[gw.dispatcher_count] = (struct group_dispatcher){.node = node, .partition = partition, .group = group, .base = gw.base[node][partition][group], .term = group_term(d->partition->group)};
    gw.newest[node][partition][group] = ++gw.dispatcher_count;
    tell(s, "node %u: dispatcher %u of partition %u, group %u, behind entry %llu", node + 1, gw.dispatcher_count, partition, group, (unsigned long long)gw.base[node][partition][group]);
}

static uint64_t leads_now(const struct node *n, unsigned partition) { /* its term; 0: it does not. With a store that has failed it may */
    const struct partition *p = n->engine ? n->engine->by_id[partition] : NULL;
    return p && group_role(p->group) == GROUP_LEADER ? group_term(p->group) : 0;
}

/* By what this replica has applied. */
static bool is_paused(struct sim *s, struct node *n, unsigned partition, unsigned group) {
    struct consumer_group_row copy;
    struct consumer_definition d;
    struct arena arena;
    if (gw.group[group].revision[partition] < 2 || !leads_now(n, partition) || !n->engine->by_id[partition]->store) return false; /* it was never changed */
    arena_init(&arena, 64 << 10);
    bool there = group_copy(s, n, partition, group, &arena, &copy);
    if (there) REQUIRE(consumer_definition_decode(copy.definition, &d) == STATUS_OK, "a group's definition");
    bool paused = there && d.paused;
    arena_fini(&arena);
    return paused;
}

/* Before and behind each turn: what is handed back in a turn was decided in it, or since the one before. */
static void groups_note_leads(struct sim *s) {
    for (unsigned i = 0; i < NODES && gw.count; i++)
        for (unsigned p = 0; p < PARTITIONS; p++) {
            gw.led[i][p][1] = gw.led[i][p][0], gw.led[i][p][0] = leads_now(&s->nodes[i], p);
            for (unsigned g = 0; g < GROUPS; g++) gw.paused[i][p][g][1] = gw.paused[i][p][g][0], gw.paused[i][p][g][0] = is_paused(s, &s->nodes[i], p, g);
        }
}

#endif
