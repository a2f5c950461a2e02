/* What becomes of consumer groups in sim_cluster.c while members are at work: they are brought to partitions, redefined, paused, sought, deleted and made anew; blocked keys are let go on. */
#ifndef TESTS_LIB_CLUSTER_GROUP_LIFE_H
#define TESTS_LIB_CLUSTER_GROUP_LIFE_H

#include "tests/lib/cluster_group_given.h"

enum group_write_kind { WRITE_BRING, WRITE_REDRIVE, WRITE_END };
struct group_write {
    struct op op;
    struct arena arena;
    unsigned partition, group;
    enum group_write_kind kind;
    uint64_t revision;
};
static uint16_t slot_in(unsigned partition) { return partition_first_slot(partition, PARTITIONS); }

static bool is_ready(const struct node *n, unsigned partition) { return node_runs(n) && n->engine->by_id[partition]->state == PARTITION_READY && leads_now(n, partition); }

static unsigned leader_of(struct sim *s, unsigned partition) {
    for (unsigned i = 0; i < NODES; i++)
        if (is_ready(&s->nodes[i], partition)) return i;
    return (unsigned)chance(s, NODES);
}

/* ---- as it is drawn */

static void group_draw(struct cluster_group *g, struct sim *s, bool sure) {
    g->d = definition_of("");
    if (chance(s, 3) == 0) snprintf(g->filter, sizeof g->filter, "user_id != \"user-0\""), g->d.filter = slice_str(g->filter);
    g->d.ordering = (enum consumer_ordering)(1 + chance(s, 3));
    g->d.on_exhausted = (enum consumer_exhausted)(1 + chance(s, 3));
    g->d.max_attempts = 2 + (uint32_t)chance(s, 3);
    g->d.ack_timeout_us = 500000 + 100000 * chance(s, 15);
    g->d.key_window = chance(s, 2) ? 1 : 1 + (uint32_t)chance(s, 4);
    g->mortal = chance(s, 3) || sure;
    g->changes_in = chance(s, 3) && !sure ? 500 + (unsigned)chance(s, 2500) : 0;
    if (chance(s, 3) == 0 && g->mortal) g->d.start = START_SNAPSHOT;
    if (group_has_snapshot(g) && g->d.ordering == ORDERING_USER) g->d.key_window = 1; /* which of a key's orders is told in front of which change of another, is anybody's guess */
    if (!g->mortal) g->d.max_attempts = 100000, g->d.on_exhausted = EXHAUSTED_LETTER;
    if (sure) g->d.start = START_EARLIEST, g->d.ordering = ORDERING_USER, g->d.key_window = 1; /* what a mutant has to do with */
    if (sure && g->d.on_exhausted == EXHAUSTED_BLOCK) g->d.on_exhausted = EXHAUSTED_LETTER;
    g->attempts_min = g->d.max_attempts;
    tell(s, "a group: ordering %d, exhausted %d, %u attempts, ack_timeout %llu us, key_window %u, start %d, filter '%s', changed by one in %u", (int)g->d.ordering, (int)g->d.on_exhausted, g->d.max_attempts,
         (unsigned long long)g->d.ack_timeout_us, g->d.key_window, (int)g->d.start, g->filter, g->changes_in);
    g->bring_ns = sim_world_now_ns(s->world) + chance(s, 4000) * NS_PER_MS;
}

static void groups_draw(struct sim *s, bool sure) {
    gw.count = 1 + (unsigned)chance(s, GROUP_NAMES);
    gw.window_parts = chance(s, 4) ? 128 : 16; /* windows of 256 or 2,048 events */
    s->snapshot_orders = 1 + (unsigned)chance(s, 8);
    for (unsigned name = 0; name < gw.count; name++) {
        struct cluster_group *g = &gw.group[name * GROUP_LIVES];
        group_draw(g, s, sure);
        for (unsigned p = 0; p < PARTITIONS; p++) g->id[p] = GROUP_FIRST_ID + name * GROUP_LIVES, g->epoch[p] = g->revision[p] = 1, g->now[p] = g->d;
    }
}

static void loosen(struct cluster_group *g, const struct consumer_definition *d) {
    g->d.key_window = MAX_OF(g->d.key_window, d->key_window), g->d.max_attempts = MAX_OF(g->d.max_attempts, d->max_attempts), g->attempts_min = MIN_OF(g->attempts_min, d->max_attempts);
    g->d.ack_timeout_us = MIN_OF(g->d.ack_timeout_us, d->ack_timeout_us);
}

/* The next one is known from when it may begin: dispatchers do before anybody is told. */
static void life_prepare(unsigned partition, unsigned group, enum group_ending ending) {
    struct cluster_group *g = &gw.group[group], *next = g + 1;
    bool anew = ending == ENDING_DELETE;
    if (!next->attempts_min) { /* not yet, for another partition */
        *next = (struct cluster_group){.d = g->now[partition], .attempts_min = g->now[partition].max_attempts, .mortal = g->mortal, .changes_in = g->changes_in};
        memcpy(next->filter, g->filter, sizeof next->filter);
    }
    loosen(next, &g->now[partition]);
    next->id[partition] = anew ? GROUP_FIRST_ID + group + 1 : g->id[partition];
    next->epoch[partition] = anew ? 1 : g->epoch[partition] + 1;
    next->now[partition] = g->now[partition];
    next->revision[partition] = anew ? 1 : g->revision[partition];
    g->ending[partition] = ending;
}

/* To the start, or to some place in each slot: what stands in front of that is settled from then on. */
static void life_seek(struct sim *s, unsigned partition, unsigned group) {
    struct cluster_group *g = &gw.group[group];
    bool start = chance(s, 2);
    life_prepare(partition, group, ENDING_SEEK);
    for (uint32_t slot = 0; slot < SLOT_COUNT && !start; slot++) {
        int64_t last = 0;
        for (unsigned i = 0; i < gw.event_count; i++)
            if (gw.events[i].partition == partition && gw.events[i].slot == slot) last = MAX_OF(last, gw.events[i].seq);
        if (!last) continue;
        int64_t behind = (int64_t)chance(s, (uint64_t)last + 1);
        for (unsigned i = 0; i < gw.event_count; i++) {
            struct cluster_event *e = &gw.events[i];
            if (e->partition == partition && e->slot == slot && e->seq <= behind) e->of[group + 1].skipped = true;
        }
        g->sought[partition][g->sought_count[partition]++] = (struct sought_slot){(uint16_t)slot, behind};
        tell(s, "group %u: to be sought in partition %u, slot %u behind %lld of %lld", group, partition, slot, (long long)behind, (long long)last);
    }
}

/* ---- what is written by hand: said again until it is answered; twice is the same as once */

static void life_ended(struct sim *s, unsigned partition, unsigned group) {
    struct cluster_group *g = &gw.group[group], *next = g + 1;
    unsigned name = group / GROUP_LIVES;
    if (life_now(partition, name) != group) return;
    bool sought = g->ending[partition] == ENDING_SEEK;
    gw.life[partition][name]++;
    gw.seeks += sought, gw.deletions += !sought;
    if (sought) next->brought[partition] = true, next->brought_revision[partition] = g->brought_revision[partition];
    else next->bring_ns = sim_world_now_ns(s->world) + chance(s, 1000) * NS_PER_MS;
    tell(s, "group %u: %s in partition %u: group %u", group, sought ? "sought" : "deleted", partition, group + 1);
}

static void write_done(struct op *op) {
    struct group_write *w = container_of(op, struct group_write, op);
    struct cluster_group *g = &gw.group[w->group];
    struct sim *s = clocks_of;
    enum status st = op->failure.status;
    bool sought = w->kind == WRITE_END && st == STATUS_VERSION_MISMATCH; /* by an earlier try */
    REQUIRE(st == STATUS_OK || sought || st == STATUS_NOT_LEADER || st == STATUS_OVERLOADED || st == STATUS_DISK_FULL, "a group's write: %s", status_name(st));
    if (!st && w->kind == WRITE_BRING) {
        g->brought[w->partition] = true, g->brought_revision[w->partition] = MAX_OF(g->brought_revision[w->partition], w->revision);
        tell(s, "group %u is in partition %u, revision %llu", w->group, w->partition, (unsigned long long)w->revision);
    }
    if (!st && w->kind == WRITE_REDRIVE) g->redriven[w->partition] = true, tell(s, "group %u: %u letters of partition %u are redriven", w->group, op->outcome.group.count, w->partition);
    if ((!st || sought) && w->kind == WRITE_END) life_ended(s, w->partition, w->group);
    if (g->writing[w->partition] == w) g->writing[w->partition] = NULL;
    arena_fini(&w->arena);
    mem_free(w);
}

static void group_write_at(struct sim *s, unsigned partition, unsigned group, const struct command *c, enum group_write_kind kind) {
    struct cluster_group *g = &gw.group[group];
    struct node *n = &s->nodes[leader_of(s, partition)];
    if ((g->writing[partition] && sim_world_now_ns(s->world) < g->give_up_ns[partition]) || !node_runs(n)) return;
    struct group_write *w = mem_new(struct group_write);
    w->partition = partition, w->group = group, w->kind = kind, w->revision = g->revision[partition];
    arena_init(&w->arena, 1 << 20);
    w->op = (struct op){.kind = OP_WRITE, .slot = slot_in(partition), .arena = &w->arena, .done = write_done, .command = command_encode(c, &w->arena)};
    g->writing[partition] = w, g->give_up_ns[partition] = sim_world_now_ns(s->world) + NS_PER_S;
    engine_submit(n->engine, &w->op);
}

static void group_bring(struct sim *s, unsigned partition, unsigned group) {
    const struct cluster_group *g = &gw.group[group];
    struct arena arena;
    arena_init(&arena, 64 << 10);
    struct command c = {.type = COMMAND_GROUP_BRING, .bring = {.group_id = g->id[partition], .revision = g->revision[partition], .definition = consumer_definition_encode(&g->now[partition], &arena)}};
    group_write_at(s, partition, group, &c, WRITE_BRING);
    arena_fini(&arena);
}

static void group_end(struct sim *s, unsigned partition, unsigned group) {
    const struct cluster_group *g = &gw.group[group];
    uint8_t packed[GROUP_USERS * 12];
    struct writer w = writer_of(packed, sizeof packed);
    for (unsigned i = 0; i < g->sought_count[partition]; i++) write_be16(&w, g->sought[partition][i].slot), write_varint(&w, (uint64_t)g->sought[partition][i].behind);
    struct command seek = {.type = COMMAND_GROUP_SEEK_YIELD, .seek = {.group_id = g->id[partition], .epoch = g->epoch[partition], .count = g->sought_count[partition], .packed = writer_slice(&w)}};
    struct command delete = {.type = COMMAND_GROUP_BRING, .bring = {.group_id = g->id[partition], .remove = true}};
    group_write_at(s, partition, group, g->ending[partition] == ENDING_SEEK ? &seek : &delete, WRITE_END);
}

/* ---- changes */

/* A lease that is under way is cut short as well, at the earliest now. */
static void holds_shorten(struct sim *s, unsigned partition, unsigned group, uint64_t timeout_us) {
    uint64_t until_ns = sim_world_now_ns(s->world) + timeout_us * NS_PER_US;
    for (unsigned i = 0; i < gw.event_count; i++)
        for (unsigned node = 0; node < NODES && gw.events[i].partition == partition; node++) {
            struct hold *h = &gw.events[i].of[group].at[node];
            h->until_ns = MIN_OF(h->until_ns, until_ns);
        }
}

static void redefine(struct sim *s, unsigned partition, unsigned group) {
    struct cluster_group *g = &gw.group[group];
    struct consumer_definition *d = &g->now[partition];
    bool was_paused = d->paused;
    if (chance(s, 2)) d->paused = !d->paused;
    if (!(group_has_snapshot(g) && d->ordering == ORDERING_USER) && chance(s, 2)) d->key_window = 1 + (uint32_t)chance(s, 4);
    if (g->mortal && chance(s, 2)) d->max_attempts = 2 + (uint32_t)chance(s, 4);
    if (chance(s, 2)) d->ack_timeout_us = 500000 + 100000 * chance(s, 15);
    g->revision[partition]++;
    loosen(g, d);
    holds_shorten(s, partition, group, d->ack_timeout_us);
    gw.redefined++, gw.pauses += d->paused && !was_paused;
    tell(s, "group %u: to be of revision %llu in partition %u: paused %d, key_window %u, %u attempts, ack_timeout %llu us", group, (unsigned long long)g->revision[partition], partition, d->paused, d->key_window, d->max_attempts,
         (unsigned long long)d->ack_timeout_us);
}

static void change(struct sim *s, unsigned partition, unsigned group) {
    const struct cluster_group *g = &gw.group[group];
    unsigned what = (unsigned)chance(s, 6);
    bool last = group % GROUP_LIVES == GROUP_LIVES - 1;
    if (what == 0 && !last) life_prepare(partition, group, ENDING_DELETE);
    else if (what <= 2 && !last && !group_has_snapshot(g)) life_seek(s, partition, group);
    else redefine(s, partition, group);
}

/* ---- blocked keys */

static void unblocked(struct op *op) {
    struct group_write *w = container_of(op, struct group_write, op);
    gw.unblocked += op->failure.status ? 0 : op->letters.count;
    arena_fini(&w->arena);
    mem_free(w);
}

/* All that this leader blocks go on, with another try or without the event. */
static void unblock(struct sim *s, unsigned partition, unsigned group) {
    struct node *n = &s->nodes[leader_of(s, partition)];
    const struct cluster_group *g = &gw.group[group];
    const struct dispatcher *d = is_ready(n, partition) ? dispatcher_running(n->engine->by_id[partition], g->id[partition]) : NULL;
    struct consumer_blocked b;
    unsigned count = 0;
    if (!d || !d->consumer.blocked || d->consumer.epoch != g->epoch[partition]) return;
    struct group_write *w = mem_new(struct group_write);
    arena_init(&w->arena, 1 << 20);
    struct consumer_letter_ref *refs = arena_array(&w->arena, struct consumer_letter_ref, d->consumer.blocked);
    bool skip = chance(s, 3) == 0;
    for (uint32_t next = 0; count < d->consumer.blocked && consumer_next_blocked(&d->consumer, &next, &b); count++) {
        struct cluster_event *e = group_event(partition, b.at.slot, b.at.seq);
        refs[count] = (struct consumer_letter_ref){b.at.slot, b.at.seq};
        REQUIRE(e && may_be_dead(s, g, &e->of[group]), "group %u: a key is blocked at %u:%lld, which has attempts left", group, b.at.slot, (long long)b.at.seq);
        REQUIRE(!e->of[group].acked || e->of[group].at[n->id - 1].dispatcher != gw.newest[n->id - 1][partition][group] || !e->of[group].at[n->id - 1].acked, "group %u: a key is blocked at %u:%lld, which was acked", group, b.at.slot, (long long)b.at.seq);
        e->of[group].skipped |= skip;
        for (unsigned i = 0; i < NODES; i++) e->of[group].at[i].low = 0;
    }
    w->op = (struct op){.kind = OP_GROUP_UNBLOCK, .slot = slot_in(partition), .arena = &w->arena, .done = unblocked, .letters = {.group_id = g->id[partition], .refs = refs, .count = count, .skip = skip}};
    engine_submit(n->engine, &w->op);
}

/* One group in one partition, a step on. */
static void life_run(struct sim *s, unsigned partition, unsigned name) {
    unsigned group = life_now(partition, name);
    struct cluster_group *g = &gw.group[group];
    bool due = s->healthy || sim_world_now_ns(s->world) >= g->bring_ns;
    if (s->healthy && g->now[partition].paused && !g->ending[partition]) g->now[partition].paused = false, g->revision[partition]++;
    if (g->brought_revision[partition] < g->revision[partition]) {
        if (g->brought[partition] || due) group_bring(s, partition, group);
    } else if (g->ending[partition]) {
        group_end(s, partition, group);
    } else if (!s->healthy && g->changes_in && chance(s, g->changes_in) == 0) {
        change(s, partition, group);
    }
    if (g->d.on_exhausted == EXHAUSTED_BLOCK && g->brought[partition] && chance(s, s->healthy ? 50 : 400) == 0) unblock(s, partition, group);
}

#endif
