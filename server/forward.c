#include "server/forward.h"

#include <stdio.h>

#include "engine/engine.h"
#include "engine/machine.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/cluster.h"
#include "server/guests.h"
#include "server/node.h"
#include "server/op_wire.h"
#include "server/peers.h"

/* On the core that owns the partition, on the caller's node:
 *
 *   submit -- we lead ------------------------------------------> engine
 *          -- another leads --> ASKED --ANSWER--> home            ANSWER or engine: NOT_LEADER, or the connection is lost: HELD again, if it may be asked twice
 *          -- nobody, or no connection to it --> HELD --leader--> engine or ASKED
 *   ASKED, a machine was given its id --> SETTLING until our meta replica has it too --> home     the handler goes on with what it says
 *   a read that may be of a bounded past (read_bound) --> our engine first; NOT_LEADER: ASKED
 *   past the deadline: home, OUTCOME_UNKNOWN where it may have been done
 *   HELD, certainly not done, and a majority of the partition's voters out of reach for QUORUM_NS: home, NO_QUORUM. It is no election that one could wait for
 *
 * A partition that this node does not hold: one node after another of those that are to hold it is asked, and who does not lead says who does (struct place).
 *
 * On the node that is asked: ASK --> visit: an op of our own making --> engine --> ANSWER.
 *
 * Ops of members of consumer groups are asked once: what fails ends the membership of that partition, and the member attaches again. Their sessions have guests on the node that is asked. A poll there waits
 * without credit; told that there are events, the next one takes up to CREDIT_LENT along and does not wait, and what it did not use is given back when it is home. */
enum errand_state { ERRAND_HELD, ERRAND_ASKED, ERRAND_SETTLING };
enum { TABLE_SIZE = 1 << 15, ERRANDS_MAX = TABLE_SIZE / 2, VISITS_MAX = 1 << 14, SESSION_ERRANDS_MAX = ERRANDS_MAX / 2, CREDIT_LENT = 256, WAIT_MS_MAX = 1000, RETRY_MS = 100, SCRATCH_BYTES_MAX = 8 << 20, SCRATCH_KEEP = 256 << 10, HELD_FEW = 1024 };
#define TICK_NS (5 * NS_PER_MS) /* what is held is tried again: a lead that was handed over is known after two or three */
#define TICK_MANY_NS (20 * NS_PER_MS) /* of more than HELD_FEW: each try is a look at all of them */
#define PATIENCE_NS (10 * NS_PER_S) /* of ops without a deadline */
#define QUORUM_NS (2 * NS_PER_S)    /* a node that restarts is back by then, or is not soon */
#define QUORUM_LOOK_NS (50 * NS_PER_MS)
#define QUORUM_RETRY_MS 1000

struct errand {
    struct list link; /* held, settling: forward.waiting; asked: forward.asked */
    enum errand_state state;
    struct op *op;
    uint64_t number, node_id; /* asked */
    uint64_t give_up_ns;
};

struct visit {
    struct op op;
    struct arena arena, read; /* read: of an OP_FEED_READ, which resets it */
    struct forward *forward;
    uint64_t number, node_id;
};

struct place {
    /* of a partition that this node does not hold, from those that were asked */
    uint64_t leader;  /* as one has said; 0: nobody has */
    uint64_t refused; /* who said last that it is not it */
    uint32_t turn;    /* whose turn it is among those that are to hold it */
    /* of any, when that was last looked at */
    unsigned voters, reached; /* reached: by a connection, or this node */
    uint64_t looked_ns, gone_ns; /* gone_ns: since when no majority of them is; 0: one is */
};

struct forward {
    struct core *core;
    struct list waiting, asked;
    struct guests *guests;
    uint32_t errand_count, session_errand_count, visit_count;
    struct errand **table; /* [TABLE_SIZE]: those asked, by number */
    uint64_t number;       /* the last one given */
    struct timer timer;
    struct buf frame;
    struct arena scratch;
    struct arena_budget budget; /* of visits: a quarter of what requests may take, beside it */
    bool stopped, homing;
    struct place places[]; /* by partition, the meta partition last */
};

static uint64_t tick_ns(const struct forward *f) { return f->errand_count > HELD_FEW ? TICK_MANY_NS : TICK_NS; }

static void wake(struct forward *f, uint64_t at_ns) {
    if (f->timer.place && f->timer.deadline_ns <= at_ns) return;
    check(timer_set(&f->core->timers, &f->timer, at_ns)); /* its place in the heap was made by forward_new */
}

/* ---- home */

static void errand_free(struct forward *f, struct errand *e) {
    list_remove(&e->link);
    if (e->state == ERRAND_ASKED) f->table[e->number % TABLE_SIZE] = NULL;
    f->errand_count--;
    f->session_errand_count -= op_wire_of_session(e->op->kind);
    mem_free(e);
}

/* What was lent to a poll, and not used. */
static void credit_return(struct op *op) {
    uint32_t used = op->failure.status ? 0 : op->consumer.events;
    if (op->consumer.granted > used) consumer_credit_add(op->consumer.session, (int64_t)(op->consumer.granted - used));
    op->consumer.granted = 0;
}

static void credit_lend(struct op *op) {
    struct consumer_request *q = &op->consumer;
    int64_t left = __atomic_load_n(&q->session->credit, __ATOMIC_ACQUIRE);
    q->granted = 0;
    while (q->eager && left > 0) {
        int64_t take = MIN_OF(left, (int64_t)CREDIT_LENT);
        if (!__atomic_compare_exchange_n(&q->session->credit, &left, left - take, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
        q->granted = (uint32_t)take;
        return;
    }
}

/* With what its failure or its answer says. */
static void errand_home(struct forward *f, struct errand *e) {
    struct op *op = e->op;
    errand_free(f, e);
    if (op->kind == OP_GROUP_POLL) credit_return(op);
    f->homing = true; /* whatever it says: not again */
    op->done(op);
    f->homing = false;
}

static void errand_fail(struct forward *f, struct errand *e, enum status st, const char *why) {
    failure_init(&e->op->failure, e->op->arena);
    e->op->failure.retry_delay_ms = RETRY_MS;
    failure_set(&e->op->failure, st, "%s", why);
    errand_home(f, e);
}

/* ---- a majority */

static uint32_t number_of(const struct forward *f, uint16_t slot) {
    uint32_t count = f->core->node->partition_count;
    return slot == SLOT_META ? count : partition_of_slot(slot, count);
}

/* By whoever waits for the partition: nobody waits, nobody looks. So "since" may be of an earlier loss; the call that is then refused at once comes again in a second. */
static void place_look(struct forward *f, uint16_t slot) {
    struct place *at = &f->places[number_of(f, slot)];
    uint64_t now = f->core->now_ns, self = f->core->node->identity.node_id;
    if (at->looked_ns && now - at->looked_ns < QUORUM_LOOK_NS) return;
    struct engine_wanted w = {0};
    bool held = engine_lead_of(f->core->engine, slot).member && cluster_holds(f->core->node->cluster, number_of(f, slot));
    if (held) w.count = engine_voters_of(f->core->engine, slot, w.node_id);
    else w = cluster_wanted(f->core->node->cluster, number_of(f, slot));
    at->looked_ns = now, at->voters = w.count, at->reached = 0;
    for (uint32_t i = 0; i < w.count; i++) at->reached += w.node_id[i] == self || peers_up(f->core->peers, w.node_id[i]);
    if (!w.count || at->reached > w.count / 2) at->gone_ns = 0;
    else if (!at->gone_ns) at->gone_ns = now;
}

static bool quorum_gone(struct forward *f, uint16_t slot) {
    place_look(f, slot);
    const struct place *at = &f->places[number_of(f, slot)];
    return at->gone_ns && f->core->now_ns - at->gone_ns >= QUORUM_NS;
}

static void errand_no_quorum(struct forward *f, struct errand *e) {
    const struct place *at = &f->places[number_of(f, e->op->slot)];
    struct failure *to = &e->op->failure;
    char partition[16] = "meta";
    if (e->op->slot != SLOT_META) snprintf(partition, sizeof partition, "%u", number_of(f, e->op->slot));
    failure_init(to, e->op->arena);
    to->retry_delay_ms = QUORUM_RETRY_MS;
    failure_meta(to, "partition", "%s", partition);
    failure_meta(to, "voters", "%u", at->voters);
    failure_meta(to, "reachable", "%u", at->reached);
    failure_set(to, STATUS_NO_QUORUM, "partition %s has no majority: %u of its %u voters can be reached from here; nothing was done", partition, at->reached, at->voters);
    errand_home(f, e);
}

static void errand_give_up(struct forward *f, struct errand *e) {
    bool unknown = e->op->maybe || (e->state == ERRAND_ASKED && e->op->kind == OP_WRITE);
    if (e->state == ERRAND_HELD && !unknown && quorum_gone(f, e->op->slot)) return errand_no_quorum(f, e);
    if (unknown) errand_fail(f, e, STATUS_DEADLINE_EXCEEDED, "the node that leads the partition did not answer in time: the write may have been done; the same request_id settles it");
    else if (e->op->deadline_ns) errand_fail(f, e, STATUS_DEADLINE_EXCEEDED, "the deadline passed while the partition had no leader that could be asked; nothing was done");
    else errand_fail(f, e, STATUS_NOT_LEADER, "the partition has no leader that can be asked at the moment");
}

/* ---- what may be asked twice */

static bool command_repeats(struct forward *f, struct slice bytes) {
    struct command *c = arena_new(&f->scratch, struct command);
    bool repeats = false;
    if (c && command_decode(bytes, &f->scratch, c) == STATUS_OK) {
        switch (c->type) {
        case COMMAND_CREATE:
        case COMMAND_TRANSITION:
        case COMMAND_PATCH:
        case COMMAND_UPDATE:
        case COMMAND_SET_TIMER:
        case COMMAND_CANCEL_TIMER: repeats = c->origin.request_id.len > 0; break;
        case COMMAND_RESOURCE: repeats = !c->resource.remove; break;
        case COMMAND_IMPORT:
        case COMMAND_IMPORT_UNTOLD: /* by its client_order_no */
        case COMMAND_FENCE:
        case COMMAND_BATCH: /* of creates */
        case COMMAND_MACHINE:
        case COMMAND_NODE:
        case COMMAND_GROUP_BRING: repeats = true; break;
        default: break;
        }
    }
    arena_reset(&f->scratch);
    return repeats;
}

static bool may_ask_again(struct forward *f, const struct op *op) { return op_wire_of_session(op->kind) ? false : op->kind != OP_WRITE || !op->maybe || command_repeats(f, op->command); }

/* ---- whom */

/* Of a partition that this node does not hold (and may not know it yet): who has been named, or the next of those that are to hold it. OP_NODES is asked so by who may be held by it no more. */
static uint64_t lead_elsewhere(struct forward *f, uint16_t slot, enum op_kind kind, const struct engine_lead *lead) {
    struct cluster *cluster = f->core->node->cluster;
    struct place *at = &f->places[number_of(f, slot)];
    uint64_t self = f->core->node->identity.node_id;
    if (kind != OP_NODES && lead->member && cluster_holds(cluster, number_of(f, slot))) return lead->node;
    struct engine_wanted w = cluster_wanted(cluster, number_of(f, slot));
    if (lead->node && lead->node != at->refused) return lead->node;
    if (at->leader) return at->leader;
    for (uint32_t i = 0; i < w.count; i++) {
        uint64_t id = w.node_id[(at->turn + i) % w.count];
        if (id != self && peers_up(f->core->peers, id)) return id;
    }
    return lead->node;
}

static struct engine_lead lead_of(struct forward *f, const struct op *op) {
    struct engine_lead lead = engine_lead_of(f->core->engine, op->slot);
    if (!lead.here && (!lead.member || !lead.node)) lead.node = lead_elsewhere(f, op->slot, op->kind, &lead);
    return lead;
}

/* It does not lead, or can't be reached. said: who does, 0: it does not know. */
static void place_refused(struct forward *f, uint16_t slot, uint64_t node_id, uint64_t said) {
    struct place *at = &f->places[number_of(f, slot)];
    at->refused = node_id, at->turn++;
    at->leader = said != node_id && said != f->core->node->identity.node_id ? said : 0;
}

static uint64_t leader_said(const struct failure *f) {
    for (const struct failure_meta *m = f->metas; m; m = m->next) {
        uint64_t id = 0;
        if (strcmp(m->key, "leader_node_id") != 0 || m->value.len > 7) continue;
        for (size_t i = 0; i < m->value.len; i++) id = id * 10 + (uint64_t)(m->value.data[i] - '0');
        return id <= NODE_ID_MAX ? id : 0;
    }
    return 0;
}

/* ---- asking */

static bool ask(struct forward *f, struct errand *e, uint64_t node_id) {
    struct op *op = e->op;
    uint64_t now = f->core->now_ns, left_ms = op->deadline_ns ? (MAX_OF(op->deadline_ns, now + NS_PER_MS) - now) / NS_PER_MS : 0;
    if (op->kind == OP_FEED_READ) left_ms = (MAX_OF(op->wait_until_ns, now) - now) / NS_PER_MS;
    if (op->kind == OP_GROUP_POLL && !op->consumer.granted) left_ms = (MAX_OF(op->consumer.wait_until_ns, now) - now) / NS_PER_MS;
    do f->number++;
    while (f->table[f->number % TABLE_SIZE]);
    f->frame.len = 0;
    bool ok = buf_reserve(&f->frame, 8);
    if (ok) put_le64(f->frame.data, f->number), f->frame.len = 8;
    ok = ok && op_wire_write(&f->frame, op, left_ms, f->core->node->partition_count) && f->frame.len <= LINK_BODY_BYTES_MAX && peers_say(f->core->peers, node_id, LINK_ASK, buf_slice(&f->frame));
    if (f->frame.cap > SCRATCH_KEEP) buf_fini(&f->frame);
    if (!ok) return place_refused(f, op->slot, node_id, 0), false;
    list_remove(&e->link);
    e->state = ERRAND_ASKED, e->number = f->number, e->node_id = node_id;
    f->table[e->number % TABLE_SIZE] = e;
    list_push_back(&f->asked, &e->link);
    op->asked_node = node_id;
    metric_add(&f->core->metrics, METRIC_FORWARD_ASKED, 1);
    return true;
}

static bool is_other(const struct forward *f, uint64_t node_id) { return node_id && node_id != f->core->node->identity.node_id; }

/* It is freed, or asked, or stays held. */
static void errand_try(struct forward *f, struct errand *e) {
    struct op *op = e->op;
    struct engine_lead lead = lead_of(f, op);
    if (lead.here) {
        errand_free(f, e);
        op->asked_node = 0;
        engine_submit(f->core->engine, op);
    } else if ((!is_other(f, lead.node) || !ask(f, e, lead.node)) && op->deadline_ns && !op->maybe && quorum_gone(f, op->slot)) {
        errand_no_quorum(f, e); /* what has no deadline waits: it is this node's own, or a caller's who wants to */
    }
}

static void hold(struct forward *f, struct errand *e) {
    if (e->state == ERRAND_ASKED) f->table[e->number % TABLE_SIZE] = NULL;
    list_remove(&e->link);
    e->state = ERRAND_HELD;
    list_push_back(&f->waiting, &e->link);
    metric_add(&f->core->metrics, METRIC_FORWARD_HELD, 1);
    wake(f, f->core->now_ns + tick_ns(f));
}

/* NULL: there is no room; its failure says so. */
static struct errand *errand_new(struct forward *f, struct op *op) {
    struct errand *e = f->errand_count < ERRANDS_MAX && !f->stopped ? mem_new(struct errand) : NULL;
    if (!e) return NULL;
    list_init(&e->link);
    e->op = op;
    e->give_up_ns = op->deadline_ns ? op->deadline_ns : f->core->now_ns + PATIENCE_NS;
    if (op->patience_ns) e->give_up_ns = MIN_OF(e->give_up_ns, f->core->now_ns + op->patience_ns);
    f->errand_count++;
    f->session_errand_count += op_wire_of_session(op->kind);
    return e;
}

/* Not here and nobody to ask: our engine says NOT_LEADER, and the member attaches again in a while. */
static void session_submit(struct core *core, struct op *op) {
    struct forward *f = core->forward;
    struct engine_lead lead = lead_of(f, op);
    bool there = !lead.here && is_other(f, lead.node) && f->session_errand_count < SESSION_ERRANDS_MAX;
    struct errand *e = there ? errand_new(f, op) : NULL;
    op->consumer.abroad = false;
    if (!e) return engine_submit(core->engine, op);
    failure_init(&op->failure, op->arena);
    op->answer = (struct slice){0};
    op->consumer.abroad = true;
    if (op->kind == OP_GROUP_POLL) credit_lend(op);
    if (ask(f, e, lead.node)) return;
    errand_free(f, e);
    if (op->kind == OP_GROUP_POLL) op->consumer.events = 0, credit_return(op);
    op->consumer.abroad = false;
    engine_submit(core->engine, op);
}

/* What is asked of this node's own state, or of its replica of the meta partition, is not asked of others. */
static bool is_of_node(const struct op *op) { return op->any_replica && (op->kind == OP_STATS || op->slot == SLOT_META); }
/* What any replica may answer, and there is one here that is to stay: it is asked first. One that has been removed may not know it yet, and would show less and less of what there is. */
static bool is_of_replica(struct core *core, const struct op *op) {
    if (!op->any_replica || is_of_node(op)) return op->any_replica;
    return engine_lead_of(core->engine, op->slot).member && cluster_holds(core->node->cluster, number_of(core->forward, op->slot));
}

static void route_submit(struct core *core, struct op *op) {
    struct forward *f = core->forward;
    if (op_wire_of_session(op->kind)) return session_submit(core, op);
    struct engine_lead lead = {.here = true};
    bool bounded = op->bound.stale || op->bound.token; /* this node's replica first; who leads if that says NOT_LEADER */
    op->maybe = false;
    op->asked_node = 0;
    if (!bounded && op_wire_travels(op->kind) && !is_of_replica(core, op)) lead = lead_of(f, op);
    struct errand *e = lead.here ? NULL : errand_new(f, op);
    if (!e) return engine_submit(core->engine, op); /* without room: its NOT_LEADER is the answer */
    failure_init(&op->failure, op->arena);
    op->answer = (struct slice){0};
    if (!is_other(f, lead.node) || !ask(f, e, lead.node)) hold(f, e);
}

/* Our engine has refused it: it does not lead, or no longer. */
static bool route_again(struct core *core, struct op *op) {
    struct forward *f = core->forward;
    if (f->homing || is_of_node(op) || op_wire_of_session(op->kind) || !op_wire_travels(op->kind) || !may_ask_again(f, op)) return false;
    struct errand *e = errand_new(f, op);
    struct engine_lead lead = lead_of(f, op);
    if (e && (lead.here || !is_other(f, lead.node) || !ask(f, e, lead.node))) hold(f, e);
    return e != NULL;
}

const struct op_route forward_route = {route_submit, route_again};

/* ---- answers */

/* Handlers go on with the machine of that id: our registry knows it once our replica of the meta partition has applied it. */
static bool settles(struct forward *f, const struct op *op) {
    return op->kind == OP_WRITE && op->slot == SLOT_META && !op->failure.status && op->outcome.resource.machine && !machines_by_id(f->core->node->machines, op->outcome.resource.machine);
}

static void on_answer(struct forward *f, uint64_t node_id, struct slice body) {
    if (body.len < 8) return;
    uint64_t number = get_le64(body.data);
    struct errand *e = f->table[number % TABLE_SIZE];
    if (!e || e->number != number || e->node_id != node_id) return; /* given up, or another's */
    struct op *op = e->op;
    failure_init(&op->failure, op->arena);
    enum status st = op_wire_read_outcome(slice_of(body.data + 8, body.len - 8), op, f->core->node->partition_count);
    if (st == STATUS_FIELD_INVALID) log_error("an answer of another node can't be read", "node=%llu", (unsigned long long)node_id);
    if (st && op->kind == OP_WRITE) return errand_fail(f, e, STATUS_DEADLINE_EXCEEDED, "the write may have been done, but its answer found no memory or could not be read: the same request_id settles it");
    if (st) return errand_fail(f, e, st == STATUS_MEMORY_LIMIT ? st : STATUS_INTERNAL, "the answer of the node that leads the partition found no memory or could not be read");
    bool refused = op->failure.status == STATUS_NOT_LEADER || op->failure.status == STATUS_DRAINING;
    if (refused) place_refused(f, op->slot, node_id, leader_said(&op->failure));
    if (refused && may_ask_again(f, op)) return hold(f, e);
    if (!settles(f, op)) return errand_home(f, e);
    hold(f, e);
    e->state = ERRAND_SETTLING;
}

void forward_on_lost(struct forward *f, uint64_t node_id) {
    guests_lost(f->guests, node_id);
    list_each(l, &f->asked) {
        struct errand *e = list_entry(l, struct errand, link);
        if (e->node_id != node_id) continue;
        place_refused(f, e->op->slot, node_id, 0);
        e->op->maybe = e->op->kind == OP_WRITE;
        if (op_wire_of_session(e->op->kind)) errand_fail(f, e, STATUS_NOT_LEADER, "the connection to the node that leads the partition was lost: attach again");
        else if (may_ask_again(f, e->op)) hold(f, e);
        else errand_fail(f, e, STATUS_DEADLINE_EXCEEDED, "the connection to the node that leads the partition was lost: the write may have been done");
    }
}

/* ---- visits */

static void visit_answer(struct visit *v) {
    struct forward *f = v->forward;
    f->frame.len = 0;
    bool ok = buf_reserve(&f->frame, 8);
    if (ok) put_le64(f->frame.data, v->number), f->frame.len = 8;
    ok = ok && op_wire_write_outcome(&f->frame, &v->op, f->core->node->partition_count) && f->frame.len <= LINK_BODY_BYTES_MAX && peers_say(f->core->peers, v->node_id, LINK_ANSWER, buf_slice(&f->frame));
    if (!ok) log_debug("an answer to another node is lost", "node=%llu", (unsigned long long)v->node_id); /* its deadline ends it there */
    if (f->frame.cap > SCRATCH_KEEP) buf_fini(&f->frame);
    arena_fini(&v->read);
    arena_fini(&v->arena);
    f->visit_count--;
    mem_free(v);
}

static void on_visit_done(struct op *op) {
    struct visit *v = container_of(op, struct visit, op);
    if (op_wire_of_session(op->kind)) guests_leave(v->forward->guests, op);
    visit_answer(v);
}

/* The member's session becomes its guest. true: the op is done, or refused. */
static bool visit_of_session(struct visit *v, uint64_t wait_ms) {
    struct core *core = v->forward->core;
    struct op *op = &v->op;
    enum status st = guests_enter(v->forward->guests, v->node_id, op);
    op->deadline_ns = 0;
    if (op->kind == OP_GROUP_POLL) op->consumer.wait_until_ns = core->now_ns + MIN_OF(wait_ms, (uint64_t)WAIT_MS_MAX) * NS_PER_MS;
    if (st && st != STATUS_ABSENT) failure_set(&op->failure, st, st == STATUS_NOT_LEADER ? "the session is no member of the group here (any more): attach again" : "this node has no room for one more member");
    return st != STATUS_OK;
}

static void on_ask(struct forward *f, uint64_t node_id, struct slice body) {
    struct core *core = f->core;
    struct visit *v = body.len > 8 && f->visit_count < VISITS_MAX ? mem_new(struct visit) : NULL;
    uint64_t left_ms = 0;
    if (!v) return; /* its deadline ends it there */
    arena_init_charged(&v->arena, core->node->limits.request_bytes_max, &f->budget);
    arena_init_charged(&v->read, core->node->limits.request_bytes_max, &f->budget);
    f->visit_count++;
    v->forward = f, v->node_id = node_id, v->number = get_le64(body.data);
    struct op *op = &v->op;
    op->arena = &v->arena;
    op->done = on_visit_done;
    failure_init(&op->failure, op->arena);
    struct slice own = arena_copy(&v->arena, slice_of(body.data + 8, body.len - 8));
    enum status st = own.data ? op_wire_read(own, op, &left_ms, core->node->partition_count) : STATUS_MEMORY_LIMIT;
    if (st == STATUS_FIELD_INVALID) log_error("what another node asks can't be read", "node=%llu", (unsigned long long)node_id);
    if (st && !op_wire_travels(op->kind)) op->kind = OP_STATS; /* for the answer's sake */
    if (st) failure_set(&op->failure, st == STATUS_MEMORY_LIMIT ? st : STATUS_INTERNAL, "the node that leads the partition has no memory for it, or can't read it");
    else if (!core->engine || f->stopped) failure_set(&op->failure, STATUS_NOT_LEADER, "the node that led the partition stops");
    else if (!engine_lead_of(core->engine, op->slot).here) failure_set(&op->failure, STATUS_NOT_LEADER, "the node that was asked does not lead the partition");
    if (op->failure.status) {
        struct engine_lead lead = {0};
        if (core->engine && op->failure.status == STATUS_NOT_LEADER) lead = engine_lead_of(core->engine, op->slot);
        if (!lead.here && lead.node) failure_meta(&op->failure, "leader_node_id", "%llu", (unsigned long long)lead.node);
        op->failure.retry_delay_ms = RETRY_MS;
        return visit_answer(v);
    }
    metric_add(&core->metrics, METRIC_FORWARD_SERVED, 1);
    if (op_wire_of_session(op->kind) && visit_of_session(v, left_ms)) return visit_answer(v);
    if (op->kind == OP_FEED_READ) {
        op->arena = &v->read, op->any_replica = false;
        failure_init(&op->failure, op->arena);
        op->wait_until_ns = left_ms ? core->now_ns + MIN_OF(left_ms, (uint64_t)WAIT_MS_MAX) * NS_PER_MS : 0;
    } else if (left_ms && !op_wire_of_session(op->kind)) op->deadline_ns = core->now_ns + MIN_OF(left_ms, core->node->limits.deadline_ns_max / NS_PER_MS) * NS_PER_MS;
    engine_submit(core->engine, op);
}

void forward_on_frame(struct forward *f, uint64_t node_id, enum link_kind kind, struct slice body) {
    if (kind == LINK_ASK) on_ask(f, node_id, body);
    else on_answer(f, node_id, body);
}

/* ---- time */

static void tick_errand(struct forward *f, struct errand *e) {
    if (f->core->now_ns >= e->give_up_ns) return errand_give_up(f, e);
    if (e->state == ERRAND_HELD) return errand_try(f, e);
    if (e->state == ERRAND_SETTLING && !settles(f, e->op)) errand_home(f, e);
}

static void on_tick(struct timer *t) {
    struct forward *f = container_of(t, struct forward, timer);
    list_each(l, &f->waiting) tick_errand(f, list_entry(l, struct errand, link));
    list_each(l, &f->asked) {
        struct errand *e = list_entry(l, struct errand, link);
        if (f->core->now_ns >= e->give_up_ns) errand_give_up(f, e);
    }
    guests_tick(f->guests);
    wake(f, f->core->now_ns + (list_empty(&f->waiting) ? NS_PER_S / 5 : tick_ns(f)));
}

/* ---- the whole */

struct forward *forward_new(struct core *core) {
    struct forward *f = mem_zalloc(sizeof *f + (core->node->partition_count + 1) * sizeof f->places[0]);
    if (!f || !(f->table = mem_zalloc(TABLE_SIZE * sizeof *f->table))) return mem_free(f), NULL;
    f->core = core;
    f->timer.fire = on_tick;
    f->budget.bytes_max = core->node->limits.requests_bytes_max / 4;
    list_init(&f->waiting);
    list_init(&f->asked);
    arena_init(&f->scratch, SCRATCH_BYTES_MAX);
    f->guests = guests_new(core);
    if (!f->guests || !timer_set(&core->timers, &f->timer, core->now_ns)) return guests_free(f->guests), mem_free(f->table), mem_free(f), NULL;
    return f;
}

void forward_stop(struct forward *f) {
    if (f->stopped) return;
    f->stopped = true;
    timer_clear(&f->core->timers, &f->timer);
    while (!list_empty(&f->waiting)) errand_fail(f, list_entry(f->waiting.next, struct errand, link), STATUS_DRAINING, "this node is shutting down");
    while (!list_empty(&f->asked)) errand_fail(f, list_entry(f->asked.next, struct errand, link), STATUS_DRAINING, "this node is shutting down; it may have been done");
}

void forward_free(struct forward *f) {
    if (!f) return;
    check(f->errand_count == 0);
    check(f->visit_count == 0);
    guests_free(f->guests);
    buf_fini(&f->frame);
    arena_fini(&f->scratch);
    mem_free(f->table);
    mem_free(f);
}
