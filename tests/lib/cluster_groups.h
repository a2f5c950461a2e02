/* Members of consumer groups in sim_cluster.c: they attach to whoever leads a partition, take events on credit, ack, nack, extend, let lie and leave, and come again elsewhere when their dispatcher, its lead
 * or its node is gone. Some ack with a transition. Some hang: what they hold times out. Groups are redefined and paused, keys that are blocked let go on, groups sought, deleted and made anew (cluster_group_life.h). In the end, with health for all, everything is acked; what died is redriven, once; after a pause all nodes lose power, and nothing may come again. */
#ifndef TESTS_LIB_CLUSTER_GROUPS_H
#define TESTS_LIB_CLUSTER_GROUPS_H

#include "tests/lib/cluster_group_life.h"

enum { GROUP_SETTLES_MAX = 32 };
struct group_op {
    struct op op;
    struct arena arena;
    struct group_session *session;
    struct consumer_settle settles[GROUP_SETTLES_MAX];
    struct cluster_event *events[GROUP_SETTLES_MAX];
};
/* ---- ops of members */

static struct group_op *group_op_new(struct group_session *x, enum op_kind kind, void (*done)(struct op *op)) {
    struct group_op *a = mem_new(struct group_op);
    a->session = x;
    arena_init(&a->arena, 4 << 20);
    a->op = (struct op){.kind = kind, .slot = slot_in(x->partition), .arena = &a->arena, .done = done, .consumer = {.group_id = x->group_id, .session = &x->session}};
    return a;
}
static void group_op_free(struct group_op *a) { arena_fini(&a->arena), mem_free(a); }
static void group_op_submit(struct sim *s, struct group_op *a) { engine_submit(s->nodes[a->session->node].engine, &a->op); }

static bool there(const struct sim *s, const struct group_session *x) { return x->life == s->nodes[x->node].life && node_runs(&s->nodes[x->node]); }

static void detached(struct op *op) {
    struct group_op *a = container_of(op, struct group_op, op);
    session_ends(clocks_of, a->session);
    a->session->gone = true;
    group_op_free(a);
}

static void session_leave(struct sim *s, struct group_session *x) {
    if (x->leaving || !there(s, x)) return;
    x->leaving = true;
    group_op_submit(s, group_op_new(x, OP_GROUP_DETACH, detached));
}

static void attached(struct op *op) {
    struct group_op *a = container_of(op, struct group_op, op);
    struct group_session *x = a->session;
    struct sim *s = clocks_of;
    enum status st = op->failure.status;
    REQUIRE(st == STATUS_OK || st == STATUS_NOT_LEADER || st == STATUS_CANCELLED || st == STATUS_OVERLOADED || st == STATUS_MEMBER_REPLACED || st == STATUS_GROUP_NOT_FOUND, "attach: %s %s", status_name(st), op->failure.message); /* not found: at a leader that does not know yet that it was deposed */
    if (st) {
        x->gone = true;
    } else {
        for (unsigned v = 0; v < GROUPS; v++) /* whatever life that has */
            if (gw.group[v].id[x->partition] == x->group_id && gw.newest[x->node][x->partition][v] > x->dispatcher) x->group = v, x->dispatcher = gw.newest[x->node][x->partition][v];
        x->joined = true;
        REQUIRE(x->dispatcher, "attached to no dispatcher");
        for (unsigned i = 0; i < gw.sessions; i++) { /* it has taken the place of an earlier one that hangs */
            struct group_session *o = sessions[i];
            if (o != x && o->dispatcher == x->dispatcher && o->actor == x->actor) session_ends(s, o);
        }
    }
    group_op_free(a);
}

static void session_new(struct sim *s, unsigned partition, unsigned name, unsigned actor) {
    unsigned group = life_now(partition, name);
    unsigned node = chance(s, 8) ? leader_of(s, partition) : (unsigned)chance(s, NODES);
    struct node *n = &s->nodes[node];
    if (!node_runs(n)) return;
    REQUIRE(gw.sessions < GROUP_SESSIONS_MAX, "too many sessions");
    struct group_session *x = sessions[gw.sessions++] = mem_new(struct group_session);
    *x = (struct group_session){.node = node, .life = n->life, .partition = partition, .group = group, .group_id = gw.group[group].id[partition], .actor = actor, .begun_ns = sim_world_now_ns(s->world)};
    snprintf(x->name, sizeof x->name, "member-%u", actor);
    x->session = (struct consumer_session){.id = gw.sessions, .opened_us = x->begun_ns / 1000 + 1, .member_id = slice_str(x->name), .credit = 1 + (int64_t)chance(s, 30)};
    actors[partition][name][actor] = x;
    group_op_submit(s, group_op_new(x, OP_GROUP_ATTACH, attached));
}

static void hold_add(struct sim *s, struct group_session *x, struct cluster_event *e) {
    static const unsigned waits_ms[] = {1, 30, 200, 600, 3000};
    if (x->held_count == GROUP_HELD_MAX) return; /* it lies, until it times out */
    uint64_t wait_ms = s->healthy ? chance(s, 5) : chance(s, waits_ms[chance(s, ARRAY_LEN(waits_ms))]);
    x->held[x->held_count++] = (struct held_event){e, sim_world_now_ns(s->world) + wait_ms * NS_PER_MS};
}

static void polled(struct op *op) {
    struct group_op *a = container_of(op, struct group_op, op);
    struct group_session *x = a->session;
    struct sim *s = clocks_of;
    enum status st = op->failure.status;
    x->polling = false;
    bool ends = st == STATUS_NOT_LEADER || st == STATUS_MEMBER_REPLACED || st == STATUS_CANCELLED || st == STATUS_GROUP_NOT_FOUND;
    REQUIRE(!st || ends || st == STATUS_OVERLOADED, "poll: %s %s", status_name(st), op->failure.message);
    gw.lost_leads += st == STATUS_NOT_LEADER;
    if (!st) {
        Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, op->answer.len, op->answer.data);
        REQUIRE(m && m->n_events == op->consumer.events, "events that do not unpack");
        if (m->n_events) group_learn(s, &s->nodes[x->node], x->partition);
        for (size_t i = 0; i < m->n_events; i++) {
            struct got_event v = got_event_of(m->events[i]);
            hold_add(s, x, group_given(s, x, &v));
        }
        orderdb__v1__read_changes_response__free_unpacked(m, NULL);
        check_complete(s, x, op->consumer.complete_to_us);
    }
    group_op_free(a);
    if (ends) session_leave(s, x);
}

static void session_poll(struct sim *s, struct group_session *x) {
    struct group_op *a = group_op_new(x, OP_GROUP_POLL, polled);
    uint64_t wait_ns = chance(s, 10) * 100 * NS_PER_MS;
    if (__atomic_load_n(&x->session.credit, __ATOMIC_RELAXED) < 4 && chance(s, 4)) consumer_credit_add(&x->session, 1 + (int64_t)chance(s, s->healthy ? 60 : 12));
    a->op.consumer.bytes_max = 1024 << chance(s, 7), a->op.consumer.wait_until_ns = sim_world_now_ns(s->world) + wait_ns, a->op.consumer.ends_starved = chance(s, 2);
    x->polling = true, x->poll_ns = a->op.consumer.wait_until_ns;
    group_op_submit(s, a);
}

static void settled(struct op *op) {
    struct group_op *a = container_of(op, struct group_op, op);
    struct group_session *x = a->session;
    struct sim *s = clocks_of;
    enum status st = op->failure.status;
    x->settling = false;
    REQUIRE(!st || st == STATUS_NOT_LEADER || st == STATUS_MEMBER_REPLACED || st == STATUS_OVERLOADED, "settle: %s %s", status_name(st), op->failure.message);
    for (unsigned i = 0; i < op->consumer.settle_count; i++) {
        const struct consumer_settle *c = &a->settles[i];
        struct known *k = &a->events[i]->of[x->group];
        k->acks_away -= c->kind == CONSUMER_ACK, k->nacks_away -= c->kind == CONSUMER_NACK || c->kind == CONSUMER_DEAD;
        if (!st) group_answered(s, x, a->events[i], c);
        if (!st && !c->stale && c->kind == CONSUMER_EXTEND) hold_add(s, x, a->events[i]);
    }
    group_op_free(a);
    if (st && st != STATUS_OVERLOADED) session_leave(s, x);
}

static void settle_add(struct sim *s, struct group_op *a, struct cluster_event *e) {
    unsigned what = s->healthy ? 0 : (unsigned)chance(s, 40);
    enum consumer_settle_kind kind = what < 26 ? CONSUMER_ACK : what < 36 ? CONSUMER_NACK : what < 37 && gw.group[a->session->group].mortal ? CONSUMER_DEAD : CONSUMER_EXTEND;
    struct known *k = &e->of[a->session->group];
    unsigned i = a->op.consumer.settle_count++;
    a->events[i] = e;
    a->settles[i] = (struct consumer_settle){.kind = kind, .slot = e->slot, .seq = e->seq, .delay_us = chance(s, 2) ? CONSUMER_NO_DELAY : 1000 * chance(s, 200), .error = SLICE_LIT("no luck")};
    k->acks_away += kind == CONSUMER_ACK, k->nacks_away += kind == CONSUMER_NACK || kind == CONSUMER_DEAD, k->killed |= kind == CONSUMER_DEAD;
}

/* An order of it is paid, with its ack, by whoever of the clients has nothing to do. false: nobody has. */
static bool ack_with_write(struct sim *s, struct group_session *x, struct cluster_event *e) {
    struct request **at = NULL, *create = NULL;
    if (!gw.group[x->group].mortal || s->request_count == REQUESTS_MAX) return false;
    for (unsigned i = 0; i < CLIENTS; i++)
        if (!s->client[i] || s->client[i]->acked || s->client[i]->refused) at = &s->client[i];
    for (unsigned i = 0; i < s->request_count; i++)
        if (!s->requests[i].create && s->requests[i].acked && s->requests[i].order_id == e->order_id) create = &s->requests[i];
    if (!at || !create) return false;
    struct request *r = *at = &s->requests[s->request_count];
    *r = (struct request){.number = ++s->request_count, .kind = PAY, .create = create, .user = create->user, .ack = e, .ack_session = x};
    e->of[x->group].acks_away++, e->of[x->group].acked_by_name = true;
    return true;
}

static bool is_member(const struct sim *s, const struct group_session *x) {
    struct dispatcher *d = there(s, x) ? dispatcher_running(s->nodes[x->node].engine->by_id[x->partition], x->group_id) : NULL;
    return d && consumer_member_of(&d->consumer, &x->session);
}

/* Since when it is held where it is asked for. */
static uint64_t ack_held_ns(const struct sim *s, const struct request *r, unsigned node) {
    const struct group_session *x = r->ack_session;
    const struct hold *h = &r->ack->of[x->group].at[node];
    return x->node == node && h->held && h->session == x && is_member(s, x) ? h->given_ns : 0;
}

static void ack_taken(struct sim *s, struct node *n, const struct request *r) {
    const struct group_session *x = r->ack_session;
    const struct partition *p = replica(n, x->partition);
    struct known *k = &r->ack->of[x->group];
    struct hold *h = &k->at[n->id - 1];
    if (!r->acked) k->acks_away--, gw.refs++;
    k->acked = true;
    if (h->dispatcher && h->dispatcher == gw.newest[n->id - 1][x->partition][x->group]) { /* it was told, or has read it */
        k->failures += may_be_over(s, h);
        h->held = false, h->acked = true;
    }
    if (p->state != PARTITION_READY || p->record.applied_index < p->shown_index || gw.group[x->group].ending[x->partition]) return;
    group_learn(s, n, x->partition);
    group_look(s, n, x->partition, x->group);
    REQUIRE(k->durable, "group %u: %u:%lld was acked with request %llu, and is not settled", x->group, r->ack->slot, (long long)r->ack->seq, (unsigned long long)r->number);
}

static void ack_refused(struct sim *s, struct node *n, const struct request *r, enum status st, uint64_t given_ns) {
    struct group_session *x = r->ack_session;
    struct known *k = &r->ack->of[x->group];
    const struct hold *h = &k->at[n->id - 1];
    bool holds = given_ns && ack_held_ns(s, r, (unsigned)n->id - 1) == given_ns && !may_be_over(s, h) && !behind_one_that_may_be_over(s, x, r->ack);
    bool settled = k->acked || k->acks_away > 1 || k->durable || k->skipped || haunted(s, x->group, r->ack);
    REQUIRE(st != STATUS_ACK_NOT_IN_FLIGHT || !holds || settled || gw.group[x->group].ending[x->partition], "group %u: %u:%lld is held, and its ack with request %llu is refused", x->group, r->ack->slot, (long long)r->ack->seq,
            (unsigned long long)r->number);
    k->acks_away--, gw.refs_refused++;
    if (there(s, x) && !x->leaving && k->at[x->node].session == x && k->at[x->node].held) hold_add(s, x, r->ack);
}

static void session_settle(struct sim *s, struct group_session *x) {
    uint64_t now = sim_world_now_ns(s->world);
    struct group_op *a = NULL;
    for (unsigned i = 0; i < x->held_count && (!a || a->op.consumer.settle_count < GROUP_SETTLES_MAX);) {
        if (x->held[i].due_ns > now) {
            i++;
            continue;
        }
        struct cluster_event *e = x->held[i].event;
        x->held[i] = x->held[--x->held_count];
        if (!s->healthy && chance(s, 8) == 0 && ack_with_write(s, x, e)) continue;
        if (!a) a = group_op_new(x, OP_GROUP_SETTLE, settled);
        settle_add(s, a, e);
    }
    if (!a && !s->healthy && gw.event_count && chance(s, 300) == 0) { /* what it may not hold */
        struct cluster_event *e = &gw.events[chance(s, gw.event_count)];
        if (e->partition == x->partition) a = group_op_new(x, OP_GROUP_SETTLE, settled), settle_add(s, a, e);
    }
    if (!a) return;
    a->op.consumer.settles = a->settles;
    x->settling = true;
    group_op_submit(s, a);
}

static void actor_run(struct sim *s, unsigned partition, unsigned name, unsigned actor) {
    struct group_session *x = actors[partition][name][actor];
    uint64_t now = sim_world_now_ns(s->world);
    if (!x) {
        if (gw.stage < GROUPS_LEAVING && chance(s, 10) == 0) session_new(s, partition, name, actor);
        return;
    }
    struct node *n = &s->nodes[x->node];
    bool hangs = !s->healthy && chance(s, 1500) == 0; /* or its own node does; another begins */
    if (x->life != n->life || x->gone || hangs || (!node_runs(n) && chance(s, 300) == 0)) {
        actors[partition][name][actor] = NULL;
        return;
    }
    if (!node_runs(n) || x->leaving) return;
    REQUIRE(!s->healthy || !x->polling || now < MAX_OF(x->poll_ns, n->resumed_ns) + 8 * NS_PER_S, "group %u: a poll of node %u, partition %u, never ends", x->group, x->node + 1, partition);
    if (!x->joined) {
        if (now > x->begun_ns + 3 * NS_PER_S) session_leave(s, x);
        return;
    }
    if ((!s->healthy && chance(s, 1000) == 0) || x->group_id != gw.group[life_now(partition, name)].id[partition]) {
        session_leave(s, x);
        return;
    }
    if (!x->polling) session_poll(s, x);
    if (!x->settling && !x->leaving) session_settle(s, x);
}

/* ---- the end */

/* Of this partition: everything is settled in the leader's rows, and was acked or has died. */
static bool group_drained(struct sim *s, unsigned partition, unsigned group) {
    struct node *n = &s->nodes[leader_of(s, partition)];
    struct cluster_group *g = &gw.group[group];
    if (!is_ready(n, partition) || !g->brought[partition] || g->ending[partition] || g->revision[partition] != g->brought_revision[partition]) return false;
    group_learn(s, n, partition);
    group_look(s, n, partition, group);
    for (unsigned i = 0; i < gw.event_count; i++) {
        const struct cluster_event *e = &gw.events[i];
        const struct known *k = &e->of[group];
        if (e->partition != partition || !group_wants(g, e) || passed_over(e, group)) continue;
        if (!k->durable || k->durable > replica(n, partition)->record.applied_index || (!k->given && !k->letter && !k->skipped && !haunted(s, group, e))) return false;
        REQUIRE(haunted(s, group, e) || k->acked || k->acks_away || k->letter || k->skipped, "group %u: %u:%lld is settled, was not acked, and is no letter", group, e->slot, (long long)e->seq);
    }
    return true;
}

/* The letters that there are, as refs; how many. */
static unsigned group_letters(struct sim *s, unsigned partition, unsigned group, struct writer *w) {
    struct node *n = &s->nodes[leader_of(s, partition)];
    unsigned count = 0;
    for (unsigned i = 0; i < gw.event_count; i++) {
        struct cluster_event *e = &gw.events[i];
        struct arena arena;
        struct key k;
        if (e->partition != partition) continue;
        arena_init(&arena, 1 << 20);
        key_letter(&k, e->slot, gw.group[group].id[partition], e->seq);
        bool is = group_row(s, n, partition, &k, &arena).data;
        arena_fini(&arena);
        if (!is) continue;
        REQUIRE(group_wants(&gw.group[group], e), "group %u: %u:%lld is a letter of what nobody wants", group, e->slot, (long long)e->seq);
        count++;
        e->of[group].redriven = true;
        write_be16(w, e->slot), write_be64(w, (uint64_t)e->seq);
    }
    return count;
}

static bool letters_gone(struct sim *s, unsigned partition, unsigned group) {
    static uint8_t packed[10 * GROUP_EVENTS_MAX];
    struct writer w = writer_of(packed, sizeof packed);
    struct cluster_group *g = &gw.group[group];
    unsigned count = group_letters(s, partition, group, &w);
    struct command c = {.type = COMMAND_GROUP_REDRIVE, .redrive = {.group_id = g->id[partition], .action = LETTERS_REDRIVE, .count = count, .packed = writer_slice(&w)}};
    if (!count) return true;
    if (g->redriven[partition]) return false;
    if (!g->writing[partition]) gw.letters += count;
    group_write_at(s, partition, group, &c, WRITE_REDRIVE);
    return false;
}

static bool all_gone(struct sim *s) {
    bool gone = true;
    for (unsigned i = 0; i < gw.sessions; i++) {
        struct group_session *x = sessions[i];
        if (x->gone || x->life != s->nodes[x->node].life) continue;
        session_leave(s, x);
        gone = false;
    }
    return gone;
}

static bool all_drained(struct sim *s) {
    bool drained = true;
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned name = 0; name < gw.count; name++) drained = drained && group_drained(s, p, life_now(p, name)) && letters_gone(s, p, life_now(p, name));
    return drained;
}

static void tell_groups(struct sim *s) {
    for (unsigned i = 0; i < gw.event_count; i++)
        for (unsigned name = 0; name < gw.count; name++) {
            const struct cluster_event *e = &gw.events[i];
            unsigned g = life_now(e->partition, name);
            const struct known *k = &e->of[g];
            if (!group_wants(&gw.group[g], e) || passed_over(e, g) || (k->durable && (k->acked || k->acks_away) && !k->redriven)) continue;
            tell(s, "group %u: %u:%lld of %s, order %lld: given %u times, acked %d (%u away), durable behind %llu, a letter behind %llu, told %d, redriven %d", g, e->slot, (long long)e->seq, e->user, (long long)e->order_id, k->given,
                 k->acked, k->acks_away, (unsigned long long)k->durable, (unsigned long long)k->letter, k->told, k->redriven);
        }
    tell(s, "groups: stage %d since %.3f ms, %u dispatchers", (int)gw.stage, (double)gw.stage_ns / 1e6, gw.dispatcher_count);
}

/* All members have been attached for longer than an event may take. */
static bool all_joined(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned g = 0; g < gw.count; g++)
            for (unsigned i = 0; i < GROUP_ACTORS; i++) {
                const struct group_session *x = actors[p][g][i];
                if (!x || !x->joined || x->leaving || x->gone || x->life != s->nodes[x->node].life || !is_ready(&s->nodes[x->node], p)) return false;
            }
    return true;
}

static void stage_is(struct sim *s, enum group_stage stage) {
    gw.stage = stage, gw.stage_ns = sim_world_now_ns(s->world);
    tell(s, "groups: stage %d", (int)stage);
}

/* What clients asked for is done: so are the groups, in the end. */
static void groups_end(struct sim *s) {
    uint64_t now = sim_world_now_ns(s->world), since = now - gw.stage_ns;
    if (now < gw.look_ns) return;
    gw.look_ns = now + 20 * NS_PER_MS;
    switch (gw.stage) {
    case GROUPS_LIVE:
        if (all_drained(s)) stage_is(s, GROUPS_SETTLED);
        return;
    case GROUPS_SETTLED: /* "an ack is durable within a second" */
        if (since < 1500 * NS_PER_MS) return;
        for (unsigned i = 0; i < NODES && s->seed % 2; i++)
            if (s->nodes[i].engine) node_crash(&s->nodes[i]);
        stage_is(s, GROUPS_STARTED_AGAIN);
        return;
    case GROUPS_STARTED_AGAIN:
        if (!all_joined(s)) gw.stage_ns = sim_world_now_ns(s->world);
        else if (since >= NS_PER_S) stage_is(s, GROUPS_LEAVING);
        return;
    case GROUPS_LEAVING:
        if (all_gone(s)) stage_is(s, GROUPS_DONE);
        return;
    case GROUPS_DONE: return;
    }
}

static void groups_run(struct sim *s) {
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (unsigned name = 0; name < gw.count; name++) {
            life_run(s, p, name);
            for (unsigned i = 0; i < GROUP_ACTORS && gw.group[life_now(p, name)].brought[p] && gw.stage < GROUPS_LEAVING; i++) actor_run(s, p, name, i);
        }
}

#endif
