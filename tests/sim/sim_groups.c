/* A consumer group through the engine, against an obvious model of one: single-threaded, every event a row, every rule a look at all of them.
 *
 * A seed draws the group (ordering key, key_window, what becomes of exhausted events, a filter, whether it begins with a snapshot), the tail of the stream (all of it, or next to nothing: from the store) and a life:
 * orders come, members join, leave, open again, take events, ack, nack, nack as dead, extend, leave them lie until they time out; the group is changed (key_window, max_attempts and ack_timeout, too), paused, sought (to the start, into the middle, to a snapshot),
 * deleted and made anew under its name while members wait; its letters are redriven; the power goes. The model knows what a member can know, so what happens inside at a time of its own (a time-out) is a range, never a guess.
 * Shown:
 *   - per key in order, redelivery included: nothing is given out while an earlier event of the key is unsettled, or beyond key_window, or while two members would have it
 *   - nothing twice but what was in flight, timed out, or acked within a second of a crash; never again after that, and never after a stale ack said so
 *   - delivery_attempt is what it should be; after max_attempts an event is one dead letter, and is given out again only when it is redriven; or its key is blocked at it, nothing of it is given out, and
 *     the list of blocked keys says so, until somebody lets it go on, with another try or without the event
 *   - stale means stale: an ack is taken exactly when the model says that it may be
 *   - in the end everything that the filter wants was acked or is a letter, and after a redrive everything is acked; nothing is in flight, blocked, or behind
 *   - a position is never ahead of what was acked: whatever a crash brings back covers all that was not
 *   - of a group that begins with a snapshot: each order is told once, as of one version whatever happens, then its changes, all of them and no other; an order's event tells which. One order in four was
 *     imported untold: a snapshot tells it, by a number of its own, nobody else hears of it before its first change
 *   - a paused group gives nothing out; what was nacked as dead is not given out again until it is redriven, unblocked, or the group changed; a group that was made anew knows nothing of the one before
 *   - progress never goes back, and nothing older than it is given out (letters excepted)
 *
 *   sim_groups [--seed N] [--seeds N]
 *
 * That it looks: a model that forgives nothing after a crash must fall out with the engine (--mutant; run at the end). */
#include "tests/lib/group_rig.h"

#include "proto/base/hash.h"
#include "proto/base/log.h"

#include <sys/wait.h>
#include <unistd.h>

enum { USERS = 5, EVENTS = 600, STEPS_OF_AN_ORDER = 5, MEMBERS = 3, STEPS = 220, SEEDS = 60, MUTANT_SEEDS = 14 };
#define TIMEOUT_NS (2 * NS_PER_S) /* to begin with */
#define DURABLE_NS (1200 * NS_PER_MS)

struct known_order {
    int64_t id, told_seq;         /* told_seq: the commit that it was told as of; 0: nobody knows yet */
    int64_t change_seq;           /* the first of those that came as changes */
    char user[16];
    unsigned version;             /* so many commits: a create, then the steps */
    bool wanted, murky, created;  /* created: it came by its creation, behind the snapshot; of one that is untold, by its first change */
    bool untold, before;          /* untold: no event tells of its first version; before: it was there when the snapshot began */
};
struct known_event {
    uint16_t slot;
    int64_t seq, order_id, version;
    struct known_order *order;
    char user[16];
    bool wanted;
    bool acked, dead;             /* dead: it may be a letter now */
    bool killed, maybe_killed;    /* nacked as dead, and known to be; or that may be forgotten */
    bool lost;                    /* acked, so shortly before a crash that it may come again */
    uint64_t acked_ns, attempt_ns; /* when that was last changed */
    uint32_t low, high;           /* attempts that were counted: at least, at most */
    uint32_t high_before;         /* its key was unblocked: what may be read again of before that */
    bool held;                    /* given out, as far as anybody can tell */
    unsigned member, epoch;       /* by whom; of that member's session */
    uint64_t given_ns, until_ns;
    uint64_t turn;                /* the how many-th it was, of all that were given out */
    bool redriven, letter;        /* letter: it has died, once */
    bool again;                   /* a letter of it may go out although it was settled */
    bool left;                    /* it was one when the group was sought, and not acked */
    unsigned given;
};
struct subscriber {
    struct member m;
    bool joined;
    unsigned session;             /* how often it has joined */
};
static struct {
    struct engine_rig rig;
    struct test_random random;
    struct consumer_definition d;
    uint64_t revision, crashed_ns, progress_us;
    struct known_event events[EVENTS];
    struct known_order orders[EVENTS];
    unsigned count, order_count, member_sessions;
    bool snapshot;                /* the group's epoch begins with one */
    struct subscriber members[MEMBERS];
    char user[USERS][16];
    bool filtered, sought;
    bool wide;                    /* key_window was above 1, some time */
    uint32_t group;               /* its id: of those that were made under the name, one after the other, this one */
} s;
static uint64_t seed_only, seed_now, seeds = SEEDS;
static bool mutant;
static struct got got;
static struct { uint64_t given, acked, redelivered, stale, dead, crashes, seeks, redriven, unblocked, told, untold, killed, paused, anew, places; } seen;

#define REQUIRE(x, ...)                                                                                                                                      \
    do {                                                                                                                                                     \
        if (!(x)) {                                                                                                                                          \
            printf("# sim_groups --seed %llu, line %d: %s: ", (unsigned long long)seed_now, __LINE__, #x), printf(__VA_ARGS__), printf("\n"), fflush(stdout); \
            exit(1);                                                                                                                                         \
        }                                                                                                                                                    \
    } while (0)

static uint64_t below(uint64_t n) { return test_random_below(&s.random, n); }
static uint64_t now(void) { return sim_world_now_ns(s.rig.world); }

/* ---- the model */

static struct known_event *find(uint16_t slot, int64_t seq)
{
    for (unsigned i = 0; i < s.count; i++)
        if (s.events[i].slot == slot && s.events[i].seq == seq) return &s.events[i];
    return NULL;
}

static bool same_key(const struct known_event *a, const struct known_event *b)
{
    if (s.d.ordering == ORDERING_USER) return strcmp(a->user, b->user) == 0;
    return s.d.ordering == ORDERING_ORDER ? a->order_id == b->order_id : a == b;
}

/* No stream tells it: it is a letter of a snapshot before the seek. */
static bool old_letter(const struct known_event *e) { return !s.snapshot && !event_has_seq(e->seq); }

/* It is none of the group's: it is in what its order is told as, or, as far as anybody can tell, will be. */
static bool passed_over(const struct known_event *e)
{
    if (!s.snapshot) return old_letter(e);
    return e->order->murky || !e->order->told_seq || event_rank(e->seq) < event_rank(e->order->told_seq);
}

/* Of one key, one is told when the snapshot comes to it, the other in its turn: neither need wait for the other, but within an order. */
static bool in_turn(const struct known_event *o, const struct known_event *e)
{
    if (!s.snapshot || o->order == e->order) return true;
    return (o->seq != o->order->told_seq || o->order->created) && (e->seq != e->order->told_seq || e->order->created);
}

/* Letters of before a seek come as what they were then: of such an order nobody can tell what is what. */
static void told(struct known_event *e, const struct got_event *x)
{
    REQUIRE(x->version == e->version, "%u:%lld is version %lld, not %lld", x->slot, (long long)x->seq, (long long)x->version, (long long)e->version);
    e->order->murky |= e->redriven && s.sought;
    if (e->order->murky) return;
    REQUIRE(s.snapshot || !x->snapshot, "%u:%lld is told as of a snapshot", x->slot, (long long)x->seq);
    if (!s.snapshot) return;
    if (x->snapshot) {
        REQUIRE(!e->order->created && (!e->order->told_seq || e->order->told_seq == x->seq), "%u:%lld: the order was told as of %lld", x->slot, (long long)x->seq, (long long)e->order->told_seq);
        REQUIRE(!e->order->change_seq || event_rank(x->seq) < event_rank(e->order->change_seq), "%u:%lld: a change of the order, %lld, came though it is in it", x->slot, (long long)x->seq, (long long)e->order->change_seq);
        seen.told += !e->order->told_seq;
        seen.untold += !e->order->told_seq && !event_has_seq(x->seq);
        e->order->told_seq = x->seq;
    } else {
        bool first = e->version == 1 || (e->order->untold && !e->order->before && e->version == 2 && s.d.ordering != ORDERING_NONE); /* else the order may come behind it */
        if (!e->order->told_seq && first) e->order->told_seq = e->seq, e->order->created = true; /* behind the snapshot: its creation is a change like any */
        REQUIRE(e->order->told_seq || s.d.ordering == ORDERING_NONE, "%u:%lld is a change of an order that was not told", x->slot, (long long)x->seq);
        e->order->change_seq = e->order->change_seq ? MIN_OF(e->order->change_seq, x->seq) : x->seq;
        REQUIRE(event_rank(x->seq) > event_rank(e->order->told_seq) || e->order->created, "%u:%lld is in the order that was told as of %lld", x->slot, (long long)x->seq, (long long)e->order->told_seq);
    }
}

/* Its time may be over by now; and must be. */
static bool may_be_over(const struct known_event *e) { return e->held && now() + 25 * NS_PER_MS >= e->until_ns; }
static bool must_be_over(const struct known_event *e) { return e->held && now() > e->until_ns + 45 * NS_PER_MS; }

/* With a window, what times out in front takes it back. */
static bool behind_one_that_may_be_over(const struct known_event *e)
{
    for (unsigned i = 0; i < s.count && s.wide; i++)
        if (s.events[i].turn < e->turn && same_key(&s.events[i], e) && may_be_over(&s.events[i])) return true;
    return false;
}

static void let_go(struct known_event *e, bool counted)
{
    if (!e->held) return;
    bool may = counted && may_be_over(e);
    e->held = false;
    if (!may) return;
    e->high++;
    e->low += must_be_over(e);
    e->attempt_ns = now();
    e->letter |= e->dead |= e->high >= s.d.max_attempts;
}

/* What a nack or time-out takes back with it: what was given out of the key later (a redriven one behind events that are younger), which counts no attempt, unless its own time was over first. */
static void let_go_behind(struct known_event *e)
{
    for (unsigned i = 0; i < s.count; i++)
        if (s.events[i].turn > e->turn && same_key(e, &s.events[i]) && s.events[i].held && s.events[i].given_ns <= e->until_ns) { /* else it was over, unseen, before that one was given */
            struct known_event *o = &s.events[i];
            o->high += may_be_over(o);
            o->letter |= o->dead |= o->high >= s.d.max_attempts;
            o->held = false;
        }
}

static void given(struct subscriber *g, const struct got_event *x)
{
    struct known_event *e = find(x->slot, x->seq);
    unsigned held = 0;
    REQUIRE(e, "%u:%lld never happened", x->slot, (long long)x->seq);
    REQUIRE(e->wanted, "%u:%lld is not what the filter wants", x->slot, (long long)x->seq);
    REQUIRE(!s.d.paused, "%u:%lld is given out by a group that is paused", x->slot, (long long)x->seq);
    told(e, x);
    bool as_letter_too = e->again || (s.snapshot && s.sought && ((e->redriven && e->letter) || e->order->murky)); /* it had died before the group was sought: as itself, and as a letter */
    REQUIRE(!e->acked || e->lost || as_letter_too, "%u:%lld was acked at %llu, crash at %llu (redriven %d, seeks %llu, attempt %d)", x->slot, (long long)x->seq, (unsigned long long)e->acked_ns, (unsigned long long)s.crashed_ns, e->redriven, (unsigned long long)seen.seeks, x->attempt);
    REQUIRE(!e->killed || e->redriven || as_letter_too, "%u:%lld was nacked as dead", x->slot, (long long)x->seq);
    e->acked = e->lost = e->killed = e->maybe_killed = false;
    if (e->held) { /* it timed out, unseen */
        bool behind = behind_one_that_may_be_over(e); /* which died of it, or the member would have it first */
        REQUIRE(may_be_over(e) || behind, "%u:%lld was given out while it is held", x->slot, (long long)x->seq);
        e->low += !behind, e->high += may_be_over(e);
        e->held = false;
        e->attempt_ns = now();
        e->letter |= e->high >= s.d.max_attempts;
        let_go_behind(e);
    }
    if (e->redriven && (uint32_t)x->attempt == 1) e->low = e->high = 0, e->dead = false;
    bool twofold = as_letter_too; /* each of both counts its own */
    REQUIRE(twofold || ((uint32_t)x->attempt >= e->low + 1 && (uint32_t)x->attempt <= e->high + 1), "%u:%lld attempt %d, not %u to %u (redriven %d, letter %d, sought %d)", x->slot, (long long)x->seq, x->attempt, e->low + 1, e->high + 1, e->redriven, e->letter, s.sought);
    REQUIRE((uint32_t)x->attempt <= s.d.max_attempts, "%u:%lld has no attempts left", x->slot, (long long)x->seq);
    e->low = e->high = (uint32_t)x->attempt - 1;
    if (s.d.on_exhausted != EXHAUSTED_PARK || !e->dead) e->dead = false;
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *o = &s.events[i];
        if (o == e || !o->wanted || !same_key(o, e)) continue;
        bool with_this = o->held && o->member == (unsigned)(g - s.members) && o->epoch == g->session;
        bool over = may_be_over(o) || (o->held && o->redriven);
        if (o < e && !e->redriven && !old_letter(e) && !o->redriven && !passed_over(o) && in_turn(o, e)) {
            bool died = o->dead || (may_be_over(o) && o->high + 1 >= s.d.max_attempts);
            bool done = o->acked || (s.d.on_exhausted == EXHAUSTED_LETTER && died) || with_this;
            REQUIRE(done, "%u:%lld was given out in front of %lld", x->slot, (long long)x->seq, (long long)o->seq);
        }
        REQUIRE(!o->held || with_this || over, "%u:%lld is given out while another member holds %lld", x->slot, (long long)x->seq, (long long)o->seq);
        held += with_this && !over;
    }
    REQUIRE(held < s.d.key_window, "%u:%lld is beyond key_window", x->slot, (long long)x->seq);
    e->held = true;
    e->member = (unsigned)(g - s.members), e->epoch = g->session;
    e->given_ns = now();
    e->until_ns = now() + s.d.ack_timeout_us * NS_PER_US;
    e->turn = ++seen.given;
    seen.redelivered += e->given++ > 0;
}

/* ---- members */

/* That an event was nacked as dead may be forgotten: by a dispatcher that begins anew, if the event is no letter but its key was blocked at it; in a crash. */
static void tried_anew(void)
{
    for (unsigned i = 0; i < s.count; i++)
        if (s.d.on_exhausted == EXHAUSTED_BLOCK || s.events[i].attempt_ns + DURABLE_NS > s.crashed_ns) s.events[i].killed = false;
}

/* The dispatcher may begin anew, from what is written: attempts only grow there. */
static void read_again(void)
{
    if (s.d.on_exhausted == EXHAUSTED_BLOCK) tried_anew();
    for (unsigned i = 0; i < s.count; i++) s.events[i].high = MAX_OF(s.events[i].high, s.events[i].high_before);
}

static void members_gone(void)
{
    for (unsigned i = 0; i < MEMBERS; i++) {
        if (s.members[i].m.poll) until_done(&s.rig, s.members[i].m.poll), job_free(s.members[i].m.poll);
        s.members[i].m.poll = NULL;
        s.members[i].joined = false;
    }
    for (unsigned i = 0; i < s.count; i++) let_go(&s.events[i], true);
    read_again();
}

static void leave(struct subscriber *g)
{
    bool others = false;
    if (!g->joined) return;
    for (unsigned i = 0; i < s.count; i++)
        if (s.events[i].member == (unsigned)(g - s.members) && s.events[i].epoch == g->session) let_go(&s.events[i], true);
    member_leave(&g->m);
    g->joined = false;
    for (unsigned i = 0; i < MEMBERS; i++) others |= s.members[i].joined;
    if (!others) read_again();
}

static void join(struct subscriber *g)
{
    static const char *const names[MEMBERS] = {"one", "two", "three"};
    leave(g);
    g->session = ++s.member_sessions;
    enum status st = member_join_group(&g->m, &s.rig, s.group, names[g - s.members], 1 + (int64_t)below(30));
    REQUIRE(st == STATUS_OK, "%s", status_name(st));
    g->joined = true;
}

static void take(struct subscriber *g)
{
    if (!g->joined) return;
    if (g->m.session.credit < 2) consumer_credit_add(&g->m.session, 1 + (int64_t)below(10));
    member_get(&g->m, below(3) * 100 * NS_PER_MS, &got);
    if (got.status == STATUS_NOT_LEADER) { /* sought, or changed: all of it begins anew */
        members_gone();
        return;
    }
    REQUIRE(got.status == STATUS_OK, "poll: %s", status_name(got.status));
    for (unsigned i = 0; i < got.n; i++) given(g, &got.at[i]);
    REQUIRE(got.complete_to_us >= s.progress_us || !got.complete_to_us, "progress went back");
    s.progress_us = MAX_OF(s.progress_us, got.complete_to_us);
}

static void settle_one(struct subscriber *g, struct known_event *e)
{
    bool mine = e->held && e->member == (unsigned)(g - s.members) && e->epoch == g->session && g->joined;
    bool maybe = may_be_over(e) || behind_one_that_may_be_over(e);
    uint64_t what = below(20);
    enum consumer_settle_kind kind = what < 12 ? CONSUMER_ACK : what < 17 ? CONSUMER_NACK : what < 18 ? CONSUMER_DEAD : CONSUMER_EXTEND;
    bool good = member_settle(&g->m, kind, e->slot, e->seq, below(2) ? CONSUMER_NO_DELAY : 1000 * below(200));
    REQUIRE(!good || mine, "%u:%lld was settled by one who does not hold it", e->slot, (long long)e->seq);
    REQUIRE(good || !mine || maybe, "%u:%lld is held, and yet stale", e->slot, (long long)e->seq);
    seen.stale += !good;
    if (!good) {
        if (mine && may_be_over(e)) let_go_behind(e), let_go(e, true);
        return;
    }
    if (kind == CONSUMER_EXTEND) {
        e->until_ns = now() + s.d.ack_timeout_us * NS_PER_US;
        return;
    }
    e->held = false;
    if (kind == CONSUMER_ACK) {
        e->acked = true;
        e->again = false;
        e->acked_ns = now();
        seen.acked++;
        return;
    }
    let_go_behind(e);
    e->low++, e->high++;
    e->attempt_ns = now();
    if (kind == CONSUMER_DEAD) e->killed = e->maybe_killed = true, seen.killed++;
    e->letter |= e->dead |= e->killed || e->high >= s.d.max_attempts;
}

static void settle_some(struct subscriber *g)
{
    if (!g->joined || !s.count) return;
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *e = &s.events[i];
        bool mine = e->held && e->member == (unsigned)(g - s.members) && e->epoch == g->session;
        if (mine ? below(4) > 0 : below(200) == 0) settle_one(g, e);
    }
}

/* ---- what happens to the group */

static struct job *create_or_move(struct known_order *o)
{
    static const char *const events[STEPS_OF_AN_ORDER] = {"create", "pay", "ship", "deliver", "confirm"};
    if (o->version == 0 && o->untold) return import_of(&s.rig, o->user, 1 + (unsigned)below(2), true);
    if (o->version == 0) {
        struct job *j = create_send_of(&s.rig, o->user, 1 + (unsigned)below(2), 1 << 20);
        until_done(&s.rig, j);
        return j;
    }
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = o->id, .event = slice_str(events[o->version])}};
    return write_command(&s.rig, &c, 0);
}

static void commit(void)
{
    if (s.count == EVENTS) return;
    struct known_order *o = s.order_count && below(2) ? &s.orders[below(s.order_count)] : NULL;
    if (!o || o->version == STEPS_OF_AN_ORDER) {
        unsigned user = (unsigned)below(USERS);
        o = &s.orders[s.order_count++];
        o->untold = s.order_count % 4 == 0;
        memcpy(o->user, s.user[user], sizeof o->user);
        o->wanted = !s.filtered || user != 0;
    }
    struct job *j = create_or_move(o);
    REQUIRE(j->op.failure.status == STATUS_OK, "commit: %s", status_name(j->op.failure.status));
    o->id = j->op.outcome.head.order_id;
    struct known_event *e = &s.events[s.count++];
    *e = (struct known_event){.slot = j->op.outcome.slot, .seq = event_number(&j->op.outcome.head), .order_id = o->id, .version = ++o->version, .order = o, .wanted = o->wanted};
    memcpy(e->user, o->user, sizeof e->user);
    job_free(j);
}

static void crash(void)
{
    s.crashed_ns = now();
    for (unsigned i = 0; i < MEMBERS; i++) check(!s.members[i].m.poll);
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *e = &s.events[i];
        let_go(e, true);
        if (e->attempt_ns + DURABLE_NS > s.crashed_ns) e->low = 0; /* they may be lost */
        if (e->redriven) e->low = 0;
        e->lost |= e->acked && !mutant && e->acked_ns + DURABLE_NS > s.crashed_ns;
    }
    read_again();
    tried_anew();
    rig_restart(&s.rig);
    for (unsigned i = 0; i < MEMBERS; i++) s.members[i].joined = false;
    seen.crashes++;
}

enum listed { LISTED_LETTERS, LISTED_DEAD, LISTED_BLOCKED };
static unsigned listed(enum listed which, struct consumer_letter_ref *refs)
{
    struct job *j = job_new(OP_GROUP_LETTERS, 16 << 20);
    j->op.letters = (struct consumer_letters){.group_id = s.group, .count_max = CONSUMER_LETTERS_PAGE_MAX, .dead_only = which == LISTED_DEAD, .blocked = which == LISTED_BLOCKED, .refs_only = true};
    engine_submit(s.rig.engine, &j->op);
    until_done(&s.rig, j);
    REQUIRE(j->op.failure.status == STATUS_OK && !j->op.letters.more, "letters");
    unsigned n = j->op.letters.count;
    memcpy(refs, j->op.letters.refs, n * sizeof *refs);
    job_free(j);
    return n;
}

/* Each blocked key goes on, all of them in one way. false: none is. */
static bool unblock(void)
{
    static struct consumer_letter_ref refs[CONSUMER_LETTERS_PAGE_MAX];
    bool skip = below(3) == 0;
    unsigned n = listed(LISTED_BLOCKED, refs);
    if (!n) return false;
    for (unsigned i = 0; i < n; i++) {
        struct known_event *e = find(refs[i].slot, refs[i].seq);
        REQUIRE(e, "%u:%lld never happened", refs[i].slot, (long long)refs[i].seq);
        if (may_be_over(e)) let_go(e, true);
        REQUIRE((e->maybe_killed || e->high >= s.d.max_attempts) && !e->held, "the key is blocked at %u:%lld, which had %u attempts at most", refs[i].slot, (long long)refs[i].seq, e->high);
        e->high_before = MAX_OF(e->high, e->high_before);
        e->low = e->high = 0;
        e->dead = e->killed = e->maybe_killed = false;
        e->attempt_ns = now();
        if (skip) e->acked = true, e->acked_ns = now();
    }
    struct job *j = job_new(OP_GROUP_UNBLOCK, 16 << 20);
    j->op.letters = (struct consumer_letters){.group_id = s.group, .refs = refs, .count = n, .skip = skip};
    job_succeeds(&s.rig, j);
    REQUIRE(j->op.letters.count == n, "%u of %u keys go on", j->op.letters.count, n);
    seen.unblocked += n;
    job_free(j);
    return true;
}

/* By the stream, behind a seek: it was neither settled since, nor has it died. */
static bool comes_by_itself(const struct known_event *e) { return s.sought && !s.snapshot && event_has_seq(e->seq) && !e->acked && !e->dead; }

static void redrive(void)
{
    static struct consumer_letter_ref refs[CONSUMER_LETTERS_PAGE_MAX];
    static uint8_t packed[10 * CONSUMER_LETTERS_PAGE_MAX];
    struct writer w = writer_of(packed, sizeof packed);
    unsigned n = listed(LISTED_DEAD, refs);
    for (unsigned i = 0; i < n; i++) {
        struct known_event *e = find(refs[i].slot, refs[i].seq);
        write_be16(&w, refs[i].slot), write_be64(&w, (uint64_t)refs[i].seq);
        if (e && may_be_over(e) && e->high + 1 >= s.d.max_attempts) let_go(e, true);
        REQUIRE(e && e->letter, "%u:%lld is a letter, and had attempts left", refs[i].slot, (long long)refs[i].seq);
        if (comes_by_itself(e)) continue; /* the letter yields */
        e->again = s.sought;
        for (unsigned k = 0; k < s.count; k++) s.events[k].redriven |= same_key(&s.events[k], e) && (&s.events[k] == e || s.d.on_exhausted == EXHAUSTED_PARK);
    }
    if (!n) return;
    struct command c = {.type = COMMAND_GROUP_REDRIVE, .redrive = {.group_id = s.group, .action = LETTERS_REDRIVE, .milli = below(2) ? 0 : 20000, .count = n, .packed = writer_slice(&w)}};
    struct job *j = write_command(&s.rig, &c, 0);
    bool fewer = s.sought && j->op.outcome.group.count < n; /* the event came again, and waits behind its own letter, in its place */
    REQUIRE(j->op.failure.status == STATUS_OK && (j->op.outcome.group.count == n || fewer), "redrive: %s, %u of %u", status_name(j->op.failure.status), j->op.outcome.group.count, n);
    seen.redriven += n;
    job_free(j);
}

/* What is there now, a snapshot that begins now has to tell. */
static void orders_begin(void)
{
    for (unsigned i = 0; i < s.order_count; i++) s.orders[i].told_seq = s.orders[i].change_seq = 0, s.orders[i].created = s.orders[i].murky = false, s.orders[i].before = true;
}

/* From a snapshot on: letters stay what they are, beside the orders that are told. */
static void sought_snapshot(void)
{
    bool letters = s.d.on_exhausted != EXHAUSTED_BLOCK;
    for (unsigned i = 0; i < s.count; i++) s.events[i].redriven |= letters && (s.events[i].dead || s.events[i].letter);
    orders_begin();
    for (unsigned i = 0; i < s.count; i++)
        for (unsigned k = 0; k < s.count && letters; k++) { /* those that waited behind a parked key are letters too */
            const struct known_event *e = &s.events[k];
            s.events[i].order->murky |= (e->letter || e->dead || e->redriven) && (e == &s.events[i] || (s.d.on_exhausted == EXHAUSTED_PARK && same_key(&s.events[i], e)));
        }
}

/* From some place of the slot on, everything comes by itself, in its order, and once; what is left in front of that as a letter, as a letter. */
static void sought_stream(const int64_t *behind)
{
    bool letters = s.d.on_exhausted != EXHAUSTED_BLOCK;
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *e = &s.events[i];
        bool skipped = !event_has_seq(e->seq) || e->seq <= behind[e->slot];
        e->redriven = e->again = skipped && letters;
        e->acked = skipped && event_has_seq(e->seq) && !e->left;
        e->dead = e->lost = false;
        e->high = e->high_before = 0;
    }
    orders_begin();
}

/* The first event there is, some place in each slot, or a snapshot. */
static void seek_start(void)
{
    static struct consumer_letter_ref refs[CONSUMER_LETTERS_PAGE_MAX];
    static int64_t behind[SLOT_COUNT];
    static uint8_t packed[12 * EVENTS];
    struct writer w = writer_of(packed, sizeof packed);
    struct command c = {.type = COMMAND_GROUP_SEEK_YIELD, .seek.group_id = s.group};
    bool snapshot = s.d.start == START_SNAPSHOT && below(2), start = below(2);
    memset(behind, 0, sizeof behind);
    for (unsigned i = 0; i < s.count; i++) {
        if (!start && event_has_seq(s.events[i].seq) && below(3) == 0) behind[s.events[i].slot] = MAX_OF(behind[s.events[i].slot], s.events[i].seq);
        s.events[i].left = false;
    }
    for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
        if (behind[slot]) write_be16(&w, (uint16_t)slot), write_varint(&w, (uint64_t)behind[slot]), c.seek.count++;
    c.seek.packed = writer_slice(&w);
    for (unsigned i = 0, n = listed(LISTED_LETTERS, refs); i < n; i++) {
        struct known_event *e = find(refs[i].slot, refs[i].seq);
        REQUIRE(e, "%u:%lld never happened", refs[i].slot, (long long)refs[i].seq);
        e->left = !e->acked;
    }
    if (snapshot) c = (struct command){.type = COMMAND_GROUP_SNAPSHOT, .snapshot = {.group_id = s.group, .restart = true}};
    struct job *j = write_command(&s.rig, &c, 0);
    REQUIRE(j->op.failure.status == STATUS_OK, "seek");
    job_free(j);
    members_gone();
    for (unsigned i = 0; i < s.count; i++) s.events[i].acked = s.events[i].killed = false, s.events[i].low = 0;
    if (snapshot) sought_snapshot();
    else sought_stream(behind);
    s.snapshot = snapshot;
    s.progress_us = 0;
    s.sought = true;
    seen.seeks++;
    seen.places += c.seek.count > 0 && !snapshot;
}

/* A blocked key with attempts left has another try after any change. */
static void change_to(bool paused)
{
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *e = &s.events[i];
        if (may_be_over(e)) e->letter |= e->dead |= e->high + 1 >= s.d.max_attempts; /* by what counts until now */
        if (s.d.on_exhausted == EXHAUSTED_BLOCK) e->killed = false;
    }
    s.d.paused = paused;
    seen.paused += paused;
    s.d.max_backoff_us = 100000 + 100000 * below(5);
    if (below(3) == 0) s.d.max_attempts++;
    if (below(3) == 0 && s.wide) s.d.key_window = 1 + (uint32_t)below(4);
    s.d.ack_timeout_us = (TIMEOUT_NS / 1000) << below(3);
    bring(&s.rig, s.group, ++s.revision, &s.d);
    for (unsigned i = 0; i < s.count; i++) s.events[i].until_ns = MIN_OF(s.events[i].until_ns, now() + s.d.ack_timeout_us * NS_PER_US);
}

static void forget(void)
{
    for (unsigned i = 0; i < s.count; i++) {
        struct known_event *e = &s.events[i];
        e->acked = e->dead = e->killed = e->maybe_killed = e->lost = e->held = e->redriven = e->letter = false;
        e->low = e->high = e->high_before = 0;
        e->acked_ns = e->attempt_ns = 0;
    }
    orders_begin();
    s.snapshot = s.d.start == START_SNAPSHOT;
    s.progress_us = 0;
    s.sought = false;
}

/* Deleted while members wait, and made anew before anything of it is swept. */
static void make_anew(void)
{
    for (unsigned i = 0; i < MEMBERS; i++)
        if (s.members[i].joined) member_poll(&s.members[i].m, 600 * NS_PER_S);
    rig_run(&s.rig, below(3) * NS_PER_MS);
    bring(&s.rig, s.group, ++s.revision, NULL);
    for (unsigned i = 0; i < MEMBERS; i++) {
        struct subscriber *g = &s.members[i];
        if (!g->joined) continue;
        member_take(&g->m, &got); /* with events, if there were any to give */
        bool polled_again = got.status == STATUS_OK;
        if (polled_again) member_get(&g->m, 600 * NS_PER_S, &got);
        REQUIRE(got.status == STATUS_GROUP_NOT_FOUND || (polled_again && got.status == STATUS_NOT_LEADER), "a member of a group that is deleted: %s", status_name(got.status));
        if (below(2)) member_leave(&g->m);
        g->joined = false;
    }
    forget();
    s.d.paused = false;
    bring(&s.rig, ++s.group, ++s.revision, &s.d);
    seen.anew++;
}

static void sim_open(uint64_t seed)
{
    memset(&s, 0, sizeof s);
    s.random.state = seed * 0x9e3779b97f4a7c15ull | 1;
    s.d = definition_of("");
    s.filtered = below(3) == 0;
    for (unsigned i = 0; i < USERS; i++) snprintf(s.user[i], sizeof s.user[i], "user-%u", (unsigned)below(100) * USERS + i);
    static char filter[64];
    snprintf(filter, sizeof filter, "user_id != \"%s\"", s.user[0]);
    if (s.filtered) s.d.filter = slice_str(filter);
    s.d.ordering = (enum consumer_ordering)(1 + below(3));
    s.d.key_window = below(3) ? 1 : 1 + (uint32_t)below(4);
    s.group = GROUP;
    s.d.on_exhausted = (enum consumer_exhausted)(EXHAUSTED_LETTER + below(3));
    s.d.max_attempts = 2 + (uint32_t)below(4);
    s.d.ack_timeout_us = TIMEOUT_NS / 1000;
    s.d.full = below(2);
    s.rig = (struct engine_rig){.tail_bytes = below(2) ? 1 << 20 : 1000, .snapshot_orders = 1 + (uint32_t)below(6)};
    s.snapshot = below(2);
    if (s.snapshot) s.d.start = START_SNAPSHOT;
    if (s.snapshot && s.d.ordering == ORDERING_USER) s.d.key_window = 1; /* which of a key's orders is told in front of which change of another, is anybody's guess */
    s.wide = s.d.key_window > 1;
    rig_open_with(&s.rig, 1, 1 << 20);
    for (uint64_t n = s.snapshot ? below(60) : 0; n; n--) commit();
    orders_begin();
    bring(&s.rig, s.group, s.revision = 1, &s.d);
}

/* Until nothing comes any more: everything is acked that is given. */
static void drain(void)
{
    struct subscriber *g = &s.members[0];
    if (s.d.paused) change_to(false);
    for (unsigned i = 0; i < MEMBERS; i++) leave(&s.members[i]);
    join(g);
    for (unsigned quiet = 0; quiet < 6;) {
        consumer_credit_add(&g->m.session, 100);
        member_get(&g->m, 500 * NS_PER_MS, &got);
        if (got.status == STATUS_NOT_LEADER) {
            members_gone();
            join(g);
            continue;
        }
        quiet = got.n ? 0 : quiet + 1;
        struct got batch = got;
        for (unsigned i = 0; i < batch.n; i++) {
            given(g, &batch.at[i]);
            struct known_event *e = find(batch.at[i].slot, batch.at[i].seq);
            REQUIRE(member_settle(&g->m, CONSUMER_ACK, e->slot, e->seq, 0), "%u:%lld is stale at once", e->slot, (long long)e->seq);
            e->held = e->again = false, e->acked = true, e->acked_ns = now();
        }
    }
}

/* What is left stands at a blocked key, or behind it. */
static void what_is_left_is_blocked(void)
{
    static struct consumer_letter_ref refs[CONSUMER_LETTERS_PAGE_MAX];
    unsigned n = listed(LISTED_BLOCKED, refs);
    REQUIRE(group_lag_of(&s.rig, s.group, 0).blocked_keys == n, "%u keys are blocked by the list, %llu by the lag", n, (unsigned long long)group_lag_of(&s.rig, s.group, 0).blocked_keys);
    for (unsigned i = 0; i < s.count; i++) {
        const struct known_event *e = &s.events[i];
        bool behind = !e->wanted || e->acked || passed_over(e);
        for (unsigned k = 0; k < n && !behind; k++) {
            const struct known_event *first = find(refs[k].slot, refs[k].seq);
            behind = first && first <= e && same_key(first, e);
        }
        REQUIRE(behind, "%u:%lld is not given out, and its key is not blocked", e->slot, (long long)e->seq);
    }
}

static void everything_is_settled(bool letters_too)
{
    static struct consumer_letter_ref refs[CONSUMER_LETTERS_PAGE_MAX];
    rig_run(&s.rig, 2 * NS_PER_S);
    unsigned n = listed(LISTED_LETTERS, refs);
    struct consumer_lag lag = group_lag_of(&s.rig, s.group, 0);
    REQUIRE(lag.events == 0 && lag.in_flight == 0 && lag.oldest_us == 0, "%llu events are left", (unsigned long long)lag.events);
    REQUIRE(!letters_too || n == 0, "%u letters are left", n);
    REQUIRE(!letters_too || lag.blocked_keys == 0, "%llu keys are blocked", (unsigned long long)lag.blocked_keys);
    seen.dead += n;
    for (unsigned i = 0; i < s.count; i++) {
        unsigned as_letter = 0;
        for (unsigned k = 0; k < n; k++) as_letter += refs[k].slot == s.events[i].slot && refs[k].seq == s.events[i].seq;
        REQUIRE(as_letter <= 1, "two letters of one event");
        REQUIRE(!letters_too || !s.snapshot || !s.events[i].wanted || s.events[i].order->murky || s.events[i].order->told_seq || (s.events[i].order->untold && !s.events[i].order->before), "the order of %u:%lld was never told", s.events[i].slot, (long long)s.events[i].seq);
        REQUIRE(!s.events[i].wanted || s.events[i].acked || as_letter || passed_over(&s.events[i]), "%u:%lld was lost", s.events[i].slot, (long long)s.events[i].seq);
        REQUIRE(s.events[i].wanted || !as_letter, "a letter of what nobody wants");
    }
}

static void sim_run(uint64_t seed)
{
    sim_open(seed);
    for (unsigned step = 0; step < STEPS; step++) {
        struct subscriber *g = &s.members[below(MEMBERS)];
        uint64_t dice = below(100);
        if (dice < 25) commit();
        else if (dice < 35) g->joined ? (void)0 : join(g);
        else if (dice < 38) join(g);
        else if (dice < 41) leave(g);
        else if (dice < 65) take(g);
        else if (dice < 88) settle_some(g);
        else if (dice < 92) rig_run(&s.rig, below(1500) * NS_PER_MS);
        else if (dice < 94) s.d.on_exhausted == EXHAUSTED_BLOCK ? (void)unblock() : redrive();
        else if (dice < 96) change_to(below(4) == 0);
        else if (dice < 97 && below(3) == 0) make_anew();
        else if (dice < 97 && !s.wide) seek_start();
        else if (dice < 99) crash();
        else rig_run(&s.rig, 3 * NS_PER_S);
    }
    drain();
    if (s.d.on_exhausted == EXHAUSTED_BLOCK) {
        what_is_left_is_blocked();
        while (unblock()) drain();
    } else {
        everything_is_settled(false);
        for (int i = 0; i < 3; i++) redrive(), drain();
    }
    everything_is_settled(true);
    while (s.rig.engine->partitions[0].reads_away || s.rig.engine->partitions[0].flushing) rig_run(&s.rig, NS_PER_MS);
    rig_close(&s.rig);
}

static unsigned mutants_caught(void)
{
    unsigned caught = 0;
    for (unsigned i = 1; i <= MUTANT_SEEDS; i++) {
        int status = 0;
        fflush(stdout);
        pid_t child = fork();
        check(child >= 0);
        if (child == 0) {
            mutant = true;
            check(freopen("/dev/null", "w", stdout));
            sim_run(seed_now = i);
            _exit(0);
        }
        check(waitpid(child, &status, 0) == child);
        caught += WIFEXITED(status) && WEXITSTATUS(status) == 1;
    }
    return caught;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--mutant") == 0) mutant = true;
        else if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) seed_only = strtoull(argv[++i], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[++i], NULL, 10);
    }
    log_set_level(LOG_ERROR);
    for (seed_now = seed_only ? seed_only : 1; seed_now <= (seed_only ? seed_only : seeds); seed_now++) sim_run(seed_now);
    printf("ok sim_groups %llu seeds # given %llu, again %llu, acked %llu, stale %llu, letters %llu, redriven %llu, unblocked %llu, crashes %llu, seeks %llu (into the middle %llu), orders told %llu (without a seq %llu), killed %llu, paused %llu, made anew %llu\n", (unsigned long long)seeds, (unsigned long long)seen.given,
           (unsigned long long)seen.redelivered, (unsigned long long)seen.acked, (unsigned long long)seen.stale, (unsigned long long)seen.dead, (unsigned long long)seen.redriven, (unsigned long long)seen.unblocked,
           (unsigned long long)seen.crashes, (unsigned long long)seen.seeks, (unsigned long long)seen.places, (unsigned long long)seen.told, (unsigned long long)seen.untold, (unsigned long long)seen.killed, (unsigned long long)seen.paused, (unsigned long long)seen.anew);
    if (seed_only || mutant) return 0;
    unsigned caught = mutants_caught();
    printf("%s sim_groups mutant, a model that forgives nothing: caught in %u of %d seeds\n", caught * 3 > MUTANT_SEEDS ? "ok" : "not ok", caught, MUTANT_SEEDS);
    return caught * 3 > MUTANT_SEEDS ? 0 : 1;
}
