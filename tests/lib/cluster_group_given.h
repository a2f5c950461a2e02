/* Of an event that is given out, and of what a member says of it: what cluster_group_model.h asks of it. */
#ifndef TESTS_LIB_CLUSTER_GROUP_GIVEN_H
#define TESTS_LIB_CLUSTER_GROUP_GIVEN_H

#include "tests/lib/cluster_group_model.h"

enum { GROUP_HELD_MAX = 128, GROUP_ACTORS = 2, GROUP_SESSIONS_MAX = 1 << 15 };
/* A member of one partition's dispatcher; a new one after each end of its membership. Its memory is never given back: a process that was killed has it, too. */
struct group_session {
    struct consumer_session session;
    char name[16];
    unsigned node, life, partition, group, actor, dispatcher; /* group: its life */
    uint32_t group_id;
    uint64_t begun_ns, poll_ns, complete_us; /* poll_ns: when the poll has to be home */
    bool joined, leaving, gone, polling, settling;
    struct held_event {
        struct cluster_event *event;
        uint64_t due_ns;
    } held[GROUP_HELD_MAX];
    unsigned held_count;
};

static struct group_session *actors[PARTITIONS][GROUP_NAMES][GROUP_ACTORS], *sessions[GROUP_SESSIONS_MAX];

static struct hold *hold_of(const struct group_session *x, struct cluster_event *e) {
    struct hold *h = &e->of[x->group].at[x->node];
    struct sim *s = clocks_of;
    REQUIRE(h->dispatcher <= x->dispatcher, "dispatcher %u answers, and %u has taken its place", x->dispatcher, h->dispatcher);
    if (h->dispatcher == x->dispatcher) return h;
    if (may_be_over(s, h)) e->of[x->group].failures++;
    *h = (struct hold){.dispatcher = x->dispatcher};
    return h;
}
static const struct hold *hold_there(const struct group_session *x, const struct cluster_event *e) {
    const struct hold *h = &e->of[x->group].at[x->node];
    return h->dispatcher == x->dispatcher ? h : NULL;
}

/* Later ones of the key that this dispatcher had given out go back with it, and count no attempt unless their own time was over. If it has died, those that were given out since then stay; when that was, only the
 * dispatcher knows: it sees that a time is over somewhat later, and gives out behind it until then. So they are as those whose own time may be over: with the member, or not. */
static void let_go_behind(struct sim *s, const struct group_session *x, const struct cluster_event *e, bool may_have_died) {
    uint64_t until_ns = e->of[x->group].at[x->node].until_ns;
    for (unsigned i = 0; i < gw.event_count; i++) {
        struct cluster_event *o = &gw.events[i];
        struct hold *h = &o->of[x->group].at[x->node];
        if (o->partition != e->partition || o->seq <= e->seq || h->dispatcher != x->dispatcher || !h->held || !same_key(&gw.group[x->group], o, e)) continue;
        if (may_have_died && over_at(h->given_ns, until_ns)) {
            h->until_ns = MIN_OF(h->until_ns, sim_world_now_ns(s->world));
            continue;
        }
        o->of[x->group].failures += may_be_over(s, h);
        h->held = false;
    }
}

static bool behind_one_that_may_be_over(const struct sim *s, const struct group_session *x, const struct cluster_event *e) {
    for (unsigned i = 0; i < gw.event_count && gw.group[x->group].d.key_window > 1; i++) {
        const struct cluster_event *o = &gw.events[i];
        const struct hold *h = hold_there(x, o);
        if (o->partition == e->partition && o->seq < e->seq && h && may_be_over(s, h) && same_key(&gw.group[x->group], o, e)) return true;
    }
    return false;
}

/* It has left, or the same member has come anew. */
static void session_ends(struct sim *s, const struct group_session *x) {
    for (unsigned i = 0; i < gw.event_count; i++) {
        struct cluster_event *e = &gw.events[i];
        struct hold *h = &e->of[x->group].at[x->node];
        if (e->partition != x->partition || h->dispatcher != x->dispatcher || h->session != x || !h->held) continue;
        e->of[x->group].failures += may_be_over(s, h);
        h->held = false;
    }
}

/* At the earliest: a process that goes on may think that it is earlier. */
static uint64_t lease_ends(const struct sim *s, const struct group_session *x) {
    uint64_t now = sim_world_now_ns(s->world);
    return now < s->nodes[x->node].resumed_ns + 50 * NS_PER_MS ? now : now + gw.group[x->group].d.ack_timeout_us * NS_PER_US;
}

/* ---- given out */

/* Of a group that begins with a snapshot. */
static void check_told(struct sim *s, unsigned group, struct cluster_event *e, const struct got_event *v) {
    bool change = false;
    REQUIRE(v->snapshot ? group_has_snapshot(&gw.group[group]) : true, "%u:%lld is told as of a snapshot", e->slot, (long long)e->seq);
    if (!group_has_snapshot(&gw.group[group])) return;
    for (unsigned i = 0; i < gw.event_count; i++) {
        const struct cluster_event *o = &gw.events[i];
        const struct known *k = &o->of[group];
        if (o->partition != e->partition || o->order_id != e->order_id) continue;
        change |= k->given && !k->told && o->seq < e->seq;
        REQUIRE(!k->told || !v->snapshot || o == e, "%u:%lld: the order was told as of %lld", e->slot, (long long)e->seq, (long long)o->seq);
        REQUIRE(!k->told || v->snapshot || o->seq < e->seq, "%u:%lld is in the order that was told as of %lld", e->slot, (long long)e->seq, (long long)o->seq);
        REQUIRE(!v->snapshot || !k->given || k->told || o->seq > e->seq, "%u:%lld: a change of the order, %lld, came, and is in what is told", e->slot, (long long)e->seq, (long long)o->seq);
        change |= k->told;
    }
    REQUIRE(v->snapshot || change || e->version == 1 || gw.group[group].d.ordering == ORDERING_NONE, "%u:%lld is a change of an order that was not told", e->slot, (long long)e->seq);
    gw.told += v->snapshot && !e->of[group].told;
    e->of[group].told |= v->snapshot;
}

static void check_turn(struct sim *s, const struct group_session *x, struct cluster_event *e, uint64_t base) {
    const struct cluster_group *g = &gw.group[x->group];
    unsigned held = 0;
    for (unsigned i = 0; i < gw.event_count; i++) {
        struct cluster_event *o = &gw.events[i];
        const struct known *k = &o->of[x->group];
        const struct hold *h = hold_there(x, o);
        if (o == e || o->partition != e->partition || !group_wants(g, o) || !same_key(g, o, e) || k->redriven || haunted(s, x->group, o)) continue;
        bool mine = h && h->held && h->session == x, over = h && may_be_over(s, h);
        bool apart = group_has_snapshot(g) && o->order_id != e->order_id; /* one is told when the snapshot comes to it, the other in its turn */
        if (o->seq < e->seq && !apart && !passed_over(o, x->group)) {
            bool settled = (k->durable && k->durable <= base) || (h && h->acked) || k->acks_away || k->skipped;
            bool died = g->d.on_exhausted == EXHAUSTED_LETTER && may_be_dead(s, g, k);
            REQUIRE(settled || died || mine, "group %u: %u:%lld was given out by dispatcher %u in front of %lld", x->group, e->slot, (long long)e->seq, x->dispatcher, (long long)o->seq);
            REQUIRE(g->d.on_exhausted != EXHAUSTED_PARK || !k->letter || k->letter > base || k->acked, "group %u: %u:%lld was given out behind %lld, which is a letter", x->group, e->slot, (long long)e->seq, (long long)o->seq);
        }
        REQUIRE(!h || !h->held || mine || over, "group %u: %u:%lld is given out while another member holds %lld", x->group, e->slot, (long long)e->seq, (long long)o->seq);
        REQUIRE(o->seq < e->seq || apart || !mine || over || behind_one_that_may_be_over(s, x, o), "group %u: %u:%lld is given out while %lld is held", x->group, e->slot, (long long)e->seq, (long long)o->seq);
        held += mine && !over;
    }
    REQUIRE(held < g->d.key_window, "group %u: %u:%lld is beyond key_window", x->group, e->slot, (long long)e->seq);
}

static struct cluster_event *group_given(struct sim *s, struct group_session *x, const struct got_event *v) {
    const struct cluster_group *g = &gw.group[x->group];
    const struct group_dispatcher *d = &gw.dispatchers[x->dispatcher - 1];
    struct node *n = &s->nodes[x->node];
    struct cluster_event *e = group_event(x->partition, v->slot, v->seq);
    uint64_t now = sim_world_now_ns(s->world), *led = gw.led[x->node][x->partition];
    REQUIRE(e && e->version == v->version && e->order_id == v->order_id && strcmp(e->user, v->user) == 0, "%u:%lld is no event of partition %u", v->slot, (long long)v->seq, x->partition);
    struct known *k = &e->of[x->group];
    struct hold *h = hold_of(x, e);
    REQUIRE(group_wants(g, e), "group %u: %u:%lld is not what the filter wants", x->group, v->slot, (long long)v->seq);
    REQUIRE(led[0] == d->term || led[1] == d->term || leads_now(n, x->partition) == d->term, "group %u: %u:%lld is given out by node %llu, which does not lead in term %llu any more", x->group, v->slot, (long long)v->seq,
            (unsigned long long)n->id, (unsigned long long)d->term);
    bool *paused = gw.paused[x->node][x->partition][x->group];
    REQUIRE(!paused[0] || !paused[1] || !is_paused(s, n, x->partition, x->group), "group %u: %u:%lld is given out by node %llu, and is paused there", x->group, v->slot, (long long)v->seq, (unsigned long long)n->id);
    REQUIRE(gw.stage < GROUPS_STARTED_AGAIN, "group %u: %u:%lld comes again, long after everything was settled", x->group, v->slot, (long long)v->seq);
    bool letter_too = haunted(s, x->group, e); /* as itself, and as a letter; each counts its own attempts */
    gw.haunted += letter_too;
    REQUIRE(k->redriven || letter_too || !k->durable || k->durable > d->base, "group %u: %u:%lld was settled behind entry %llu, and comes again from dispatcher %u, which began behind %llu", x->group, v->slot, (long long)v->seq,
            (unsigned long long)k->durable, x->dispatcher, (unsigned long long)d->base);
    REQUIRE(!h->acked || letter_too, "group %u: %u:%lld was acked to dispatcher %u", x->group, v->slot, (long long)v->seq, x->dispatcher);
    uint32_t most = failures_max(s, k);
    if (h->held) { /* it timed out, unseen */
        REQUIRE(letter_too || may_be_over(s, h) || behind_one_that_may_be_over(s, x, e), "group %u: %u:%lld was given out while it is held", x->group, v->slot, (long long)v->seq);
        k->failures += may_be_over(s, h);
        h->held = false;
        let_go_behind(s, x, e, false);
    }
    if (!k->redriven && !letter_too) check_told(s, x->group, e, v), check_turn(s, x, e, d->base);
    REQUIRE((uint32_t)v->attempt >= (k->redriven || letter_too ? 1 : h->low + 1) && ((uint32_t)v->attempt <= most + 1 || letter_too) && (uint32_t)v->attempt <= g->d.max_attempts, "group %u: %u:%lld is attempt %d, not %u to %u (%u)", x->group, v->slot,
            (long long)v->seq, v->attempt, h->low + 1, most + 1, g->d.max_attempts);
    h->held = true, h->session = x, h->given_ns = now, h->low = (uint32_t)v->attempt - 1;
    h->until_ns = lease_ends(s, x);
    gw.given++, gw.again += k->given++ > 0;
    if (s->trace) tell(s, "group %u: %u:%lld to member %llu of dispatcher %u, attempt %d", x->group, e->slot, (long long)e->seq, (unsigned long long)x->session.id, x->dispatcher, v->attempt);
    return e;
}

/* "Everything committed up to then is settled, durably." */
static void check_complete(struct sim *s, struct group_session *x, uint64_t complete_us) {
    REQUIRE(!complete_us || complete_us >= x->complete_us, "group %u: progress goes back", x->group);
    x->complete_us = MAX_OF(x->complete_us, complete_us);
    for (unsigned i = 0; i < gw.event_count; i++) {
        const struct cluster_event *e = &gw.events[i];
        if (e->partition != x->partition || (uint64_t)e->commit_us > complete_us || passed_over(e, x->group)) continue;
        REQUIRE(may_be_settled(s, x->group, e), "group %u: %u:%lld of order %lld is not settled, and everything up to then is said to be; given %u times, durable behind %llu, told %d", x->group, e->slot, (long long)e->seq, (long long)e->order_id,
                e->of[x->group].given, (unsigned long long)e->of[x->group].durable, e->of[x->group].told);
    }
}

/* ---- settled */

static const char *const settle_words[] = {"ack", "nack", "nack as dead", "extend"};

static void group_answered(struct sim *s, struct group_session *x, struct cluster_event *e, const struct consumer_settle *c) {
    struct known *k = &e->of[x->group];
    struct hold *h = hold_of(x, e);
    bool mine = h->held && h->session == x, letter_too = haunted(s, x->group, e), maybe = letter_too || may_be_over(s, h) || behind_one_that_may_be_over(s, x, e);
    REQUIRE(c->stale || mine || letter_too, "group %u: %u:%lld was settled by one who does not hold it", x->group, e->slot, (long long)e->seq);
    REQUIRE(!c->stale || !mine || maybe, "group %u: %u:%lld is held, and yet stale", x->group, e->slot, (long long)e->seq);
    gw.stale += c->stale;
    if (s->trace) tell(s, "group %u: %u:%lld from member %llu of dispatcher %u: %s%s", x->group, e->slot, (long long)e->seq, (unsigned long long)x->session.id, x->dispatcher, settle_words[c->kind], c->stale ? ", stale" : "");
    if (c->stale) {
        if (!mine) return;
        let_go_behind(s, x, e, may_be_dead(s, &gw.group[x->group], k));
        k->failures += may_be_over(s, h);
        h->held = false;
        return;
    }
    if (c->kind == CONSUMER_EXTEND) {
        h->until_ns = lease_ends(s, x);
        return;
    }
    h->held = false;
    if (c->kind == CONSUMER_ACK) {
        h->acked = k->acked = true;
        gw.acked++;
        return;
    }
    let_go_behind(s, x, e, false);
    h->low++, k->failures++;
    gw.nacked++;
}

#endif
