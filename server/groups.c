#include "server/groups.h"

#include <string.h>

#include "engine/consumer_seek.h"
#include "engine/engine.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/route.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/mail.h"
#include "server/metrics.h"
#include "server/node.h"

/* One op at a time, on core 0:
 *
 *   IDLE --> LIST     the meta partition's groups --> the partitions are compared with it, if something has changed or a seek goes on:
 *            SEEK     if one does: what it is to do
 *            KNOWN    partition p's groups; one is missing, old or too many: BRING; it has not taken the seek: MOVE; else p + 1
 *            BRING    the definition, or its end, as a command of p's log --> KNOWN
 *            CONFIRM  before an end: the groups as the meta partition's leader knows them now
 *            MOVE     the seek's part of p, as a command of its log
 *            OVER     all have taken it: the meta partition need not keep it any more --> LIST, for the next one
 *            LAG      of the shown group g in partition p, PAUSE_NS after the one before; after the last: IDLE for ROUND_NS. The list is looked at every ROUND_NS meanwhile
 *
 * A seek (server/serve_seek.c) is moved on by its call; here, what that has left: it was cut off, its node died, a partition would not. Each node does it for the partitions that it leads, and whichever
 * sees that all have taken it ends it, if it leads the meta partition. One that can't be ended waits for the next round behind the others.
 *
 * A group that a partition has and the list has not may be younger than the list: the list is this node's replica's, which may be behind, and other nodes make groups, too. What is brought to a partition is in the
 * meta partition before; so it is taken away only if the leader of that, asked afterwards, has no such group either. Else it would begin anew: where it was, what it had settled and its dead letters would be gone. */
enum groups_state { GROUPS_IDLE, GROUPS_LIST, GROUPS_SEEK, GROUPS_KNOWN, GROUPS_CONFIRM, GROUPS_BRING, GROUPS_MOVE, GROUPS_OVER, GROUPS_LAG };
enum { OP_BYTES_MAX = 16 << 20, NAMES_MAX = 64 };
#define PAUSE_NS (250 * NS_PER_MS)
#define RETRY_NS NS_PER_S
#define ROUND_NS (5 * NS_PER_S)
enum { LAG_ASKED_MAX = 2048 }; /* a figure that is asked for again and again is worth an estimate earlier than one that somebody waits for */

struct figures {
    char name[CONSUMER_NAME_BYTES_MAX + 1];
    uint32_t group_id, members;
    uint64_t oldest_us, events, in_flight, blocked_keys, dead_letters;
};

struct group_name {
    char name[CONSUMER_NAME_BYTES_MAX];
    uint8_t len;
    uint32_t group_id;
};

struct groups {
    struct node *node;
    struct core *core; /* 0 */
    enum groups_state state;
    uint64_t generation;      /* atomic: changes of the authority, begun and ended */
    uint64_t compared;        /* the generation as of which all partitions agree */
    uint64_t asked;           /* as of which the list was asked for */
    struct timer timer;
    struct op op;
    struct mail_hop hop;
    struct arena arena, list_arena, seek_arena; /* the op's; the list's; the seek's */
    struct consumer_groups list;
    uint32_t partition;
    uint32_t doubtful;        /* CONFIRM: the group that is perhaps to go */
    uint32_t seek_group;      /* whose seek this round moves on; 0: none goes on */
    struct consumer_seek seek;
    bool seek_waits;          /* a partition has not taken it, and could not */
    uint32_t seek_before;     /* of a smaller group id than this it has been tried in this round */
    /* figures: being gathered, and as they are shown */
    struct figures gathered[GROUPS_SHOWN_MAX], shown[GROUPS_SHOWN_MAX];
    unsigned gathered_count, shown_count, group;
    uint32_t lag_partition;
    uint64_t listed_ns;
    uint32_t total; /* groups there are */
    struct groups_core {
        struct mail_task task;
        struct groups *groups;
        bool sent; /* atomic: a change is on its way to core 0 */
        uint64_t generation;
        struct group_name names[NAMES_MAX];
    } cores[];
};

static void on_home(struct mail_hop *hop);

static uint64_t generation_of(const struct groups *g) { return __atomic_load_n(&g->generation, __ATOMIC_ACQUIRE); }

static void op_begin(struct groups *g) {
    arena_reset(&g->arena);
    g->op = (struct op){0};
}

static void send(struct groups *g, enum groups_state state, enum op_kind kind, uint16_t slot, struct arena *arena) {
    g->state = state;
    g->op.kind = kind;
    g->op.slot = slot;
    g->op.arena = arena;
    failure_init(&g->op.failure, arena);
    mail_send_op(g->core, &g->hop, &g->op, on_home);
}

static uint16_t slot_of(const struct groups *g) { return partition_first_slot(g->partition, g->node->partition_count); }

static void rest(struct groups *g, uint64_t ns) {
    if (g->core->draining) return;
    if (!timer_set(&g->core->timers, &g->timer, g->core->now_ns + ns)) log_warn("consumer groups: no memory for a timer", "their figures stay as they are");
}

static void list(struct groups *g) {
    op_begin(g);
    arena_reset(&g->list_arena);
    g->asked = generation_of(g);
    g->listed_ns = g->core->now_ns;
    g->partition = 0;
    g->op.any_replica = true;
    send(g, GROUPS_LIST, OP_GROUPS, SLOT_META, &g->list_arena);
}

static void ask_known(struct groups *g) {
    op_begin(g);
    g->op.any_replica = true;
    send(g, GROUPS_KNOWN, OP_GROUPS, slot_of(g), &g->arena);
}

static void begin_again(struct groups *g, uint64_t ns) {
    g->state = GROUPS_IDLE;
    rest(g, ns);
}

/* ---- figures */

static void ask_lag(struct groups *g) {
    op_begin(g);
    g->op.lag.group_id = g->gathered[g->group].group_id;
    g->op.lag.asked_max = LAG_ASKED_MAX;
    send(g, GROUPS_LAG, OP_GROUP_LAG, partition_first_slot(g->lag_partition, g->node->partition_count), &g->arena);
}

static void gather(struct groups *g) {
    g->gathered_count = 0;
    g->total = g->list.count;
    for (unsigned i = 0; i < g->list.count && g->gathered_count < GROUPS_SHOWN_MAX; i++) {
        struct consumer_definition d;
        if (consumer_definition_decode(g->list.rows[i].definition, &d) || d.name.len > CONSUMER_NAME_BYTES_MAX) continue;
        struct figures *f = &g->gathered[g->gathered_count++];
        *f = (struct figures){.group_id = g->list.rows[i].group_id};
        memcpy(f->name, d.name.data, d.name.len);
    }
    g->group = 0;
    g->lag_partition = 0;
    if (g->gathered_count) {
        ask_lag(g);
        return;
    }
    g->shown_count = 0;
    begin_again(g, ROUND_NS);
}

static void on_lag(struct groups *g) {
    struct figures *f = &g->gathered[g->group];
    const struct consumer_lag *lag = &g->op.lag;
    if (!g->op.failure.status) {
        if (lag->oldest_us && (!f->oldest_us || lag->oldest_us < f->oldest_us)) f->oldest_us = lag->oldest_us;
        f->events += lag->events;
        f->in_flight += lag->in_flight;
        f->blocked_keys += lag->blocked_keys;
        f->dead_letters += lag->dead_letters;
        f->members = MAX_OF(f->members, lag->members);
    }
    if (++g->lag_partition == g->node->partition_count) g->lag_partition = 0, g->group++;
    if (g->group == g->gathered_count) {
        memcpy(g->shown, g->gathered, sizeof g->shown);
        g->shown_count = g->gathered_count;
        begin_again(g, ROUND_NS);
        return;
    }
    rest(g, PAUSE_NS);
}

/* ---- partitions */

static const struct consumer_group_row *row_of(const struct consumer_groups *rows, uint32_t group_id) {
    for (unsigned i = 0; i < rows->count; i++)
        if (rows->rows[i].group_id == group_id) return &rows->rows[i];
    return NULL;
}

static void bring(struct groups *g, const struct consumer_group_row *row, bool remove) {
    struct command c = {.type = COMMAND_GROUP_BRING, .bring = {.group_id = row->group_id, .remove = remove, .revision = row->revision}};
    if (!remove) c.bring.definition = row->definition;
    log_info(remove ? "a partition loses a consumer group" : "a partition gets a consumer group", "partition=%u group=%u", g->partition, row->group_id);
    op_begin(g); /* row is the list's, or its number has been taken */
    g->op.command = command_encode(&c, &g->arena);
    if (g->op.command.data) send(g, GROUPS_BRING, OP_WRITE, slot_of(g), &g->arena);
    else begin_again(g, RETRY_NS);
}

/* ---- seeks */

/* The next group whose seek goes on, by id, behind those that were tried in this round; 0: none. */
static uint32_t next_seek(const struct groups *g) {
    uint32_t next = 0;
    for (unsigned i = 0; i < g->list.count; i++) {
        const struct consumer_group_row *row = &g->list.rows[i];
        if (row->seeking_us && row->group_id >= g->seek_before && (!next || row->group_id < next)) next = row->group_id;
    }
    return next;
}

static void ask_seek(struct groups *g) {
    op_begin(g);
    arena_reset(&g->seek_arena);
    g->op.any_replica = true;
    g->op.groups.seek_of = g->seek_group;
    send(g, GROUPS_SEEK, OP_GROUPS, SLOT_META, &g->seek_arena);
}

static void on_seek(struct groups *g) {
    if (!g->op.groups.seek.len || consumer_seek_row_decode(g->op.groups.seek, &g->seek) || g->seek.partition_count != g->node->partition_count) g->seek_group = 0; /* it is over */
    ask_known(g);
}

/* What a partition has not taken of the seek is sent to it. false: it has, or it must wait. */
static bool move(struct groups *g, const struct consumer_groups *known) {
    const struct consumer_group_row *row = g->seek_group ? row_of(known, g->seek_group) : NULL;
    if (g->seek_group && !row) g->seek_waits = true;
    if (!row || row->epoch != consumer_seek_epoch(&g->seek, g->partition)) return false;
    op_begin(g);
    g->op.command = consumer_seek_command(&g->seek, g->seek_group, g->partition, &g->arena);
    if (!g->op.command.data) return g->seek_waits = true, false;
    log_info("a partition takes a seek of a consumer group that was left to it", "partition=%u group=%u", g->partition, g->seek_group);
    send(g, GROUPS_MOVE, OP_WRITE, slot_of(g), &g->arena);
    return true;
}

/* Of all partitions compared and moved on: the end of the seek, the next one, or figures. */
static void on_compared(struct groups *g) {
    g->compared = g->asked;
    if (!g->seek_group) {
        gather(g);
        return;
    }
    if (g->seek_waits) {
        list(g);
        return;
    }
    struct command c = {.type = COMMAND_GROUP_SEEKING, .seeking = {.group_id = g->seek_group, .over = true, .epoch = g->seek.id}};
    op_begin(g);
    g->op.command = command_encode(&c, &g->arena);
    if (g->op.command.data) send(g, GROUPS_OVER, OP_WRITE, SLOT_META, &g->arena);
    else begin_again(g, RETRY_NS);
}

static void on_next(struct groups *g) {
    if (++g->partition < g->node->partition_count) ask_known(g);
    else on_compared(g);
}

/* What was refused by a partition waits; but one that is at another epoch has taken it. */
static void on_moved_on(struct groups *g) {
    enum status st = g->op.failure.status;
    g->seek_waits |= st && st != STATUS_VERSION_MISMATCH;
    on_next(g);
}

static void on_known(struct groups *g) {
    const struct consumer_groups *known = &g->op.groups;
    for (unsigned i = 0; i < g->list.count; i++) {
        const struct consumer_group_row *row = row_of(known, g->list.rows[i].group_id);
        if (row && row->revision >= g->list.rows[i].revision) continue;
        bring(g, &g->list.rows[i], false);
        return;
    }
    for (unsigned i = 0; i < known->count; i++) {
        if (row_of(&g->list, known->rows[i].group_id)) continue;
        g->doubtful = known->rows[i].group_id;
        op_begin(g);
        send(g, GROUPS_CONFIRM, OP_GROUPS, SLOT_META, &g->arena);
        return;
    }
    if (!move(g, known)) on_next(g);
}

static void on_confirmed(struct groups *g) {
    if (!row_of(&g->op.groups, g->doubtful)) return bring(g, &(struct consumer_group_row){.group_id = g->doubtful}, true);
    begin_again(g, RETRY_NS); /* with a list that has it */
}

static void on_listed(struct groups *g) {
    g->list = g->op.groups;
    g->seek_group = next_seek(g);
    g->seek_before = g->seek_group ? g->seek_group + 1 : 0;
    g->seek_waits = false;
    if (g->seek_group) ask_seek(g);
    else if (g->asked != g->compared) ask_known(g);
    else if (g->group < g->gathered_count) ask_lag(g); /* in the middle of the figures */
    else gather(g);
}

static void on_home(struct mail_hop *hop) {
    struct groups *g = container_of(hop, struct groups, hop);
    if (g->core->draining) {
        g->state = GROUPS_IDLE;
        return;
    }
    bool next = g->state == GROUPS_BRING && (g->op.failure.status == STATUS_NOT_LEADER || g->op.failure.status == STATUS_NO_QUORUM); /* the node that leads the partition brings it what it lacks */
    bool told = g->state == GROUPS_LAG || g->state == GROUPS_MOVE || g->state == GROUPS_OVER;
    if (g->op.failure.status && !told && !next) {
        log_debug("consumer groups: tried again", "state=%d partition=%u status=%s", (int)g->state, g->partition, status_name(g->op.failure.status));
        begin_again(g, RETRY_NS);
        return;
    }
    switch (g->state) {
    case GROUPS_IDLE: check(!"an op without a round"); break;
    case GROUPS_LIST: on_listed(g); break;
    case GROUPS_SEEK: on_seek(g); break;
    case GROUPS_KNOWN: on_known(g); break;
    case GROUPS_CONFIRM: on_confirmed(g); break;
    case GROUPS_BRING: if (next) on_next(g); else ask_known(g); break;
    case GROUPS_MOVE: on_moved_on(g); break;
    case GROUPS_OVER: list(g); break;
    case GROUPS_LAG: on_lag(g); break;
    }
}

static void on_timer(struct timer *t) {
    struct groups *g = container_of(t, struct groups, timer);
    if (g->core->draining) return;
    if (g->state == GROUPS_LAG && generation_of(g) == g->asked && g->core->now_ns - g->listed_ns < ROUND_NS) ask_lag(g);
    else list(g);
}

static bool metric(struct buf *out, const struct groups *g, const char *name, const char *help, double (*of)(const struct figures *f)) {
    bool ok = metrics_write_head(out, name, "gauge", help);
    for (unsigned i = 0; ok && i < g->shown_count; i++) ok = metrics_printf(out, "%s{group=\"%s\"} %.15g\n", name, g->shown[i].name, of(&g->shown[i]));
    return ok;
}

static double age_of(const struct figures *f) { return f->oldest_us && (uint64_t)clock_wall_us() > f->oldest_us ? (double)((uint64_t)clock_wall_us() - f->oldest_us) / 1e6 : 0; }
static double events_of(const struct figures *f) { return (double)f->events; }
static double in_flight_of(const struct figures *f) { return (double)f->in_flight; }
static double blocked_of(const struct figures *f) { return (double)f->blocked_keys; }
static double dead_of(const struct figures *f) { return (double)f->dead_letters; }
static double members_of(const struct figures *f) { return f->members; }

bool groups_write_metrics(const struct groups *g, struct buf *out) {
    return metrics_write_head(out, "orderdb_groups", "gauge", "Consumer groups.") && metrics_printf(out, "orderdb_groups %u\n", g->total) &&
           metric(out, g, "orderdb_group_lag_seconds", "Age of the group's oldest event that is not settled; 0: none.", age_of) &&
           metric(out, g, "orderdb_group_events", "Events that are not settled, dead letters left out.", events_of) &&
           metric(out, g, "orderdb_group_in_flight", "Events that members hold.", in_flight_of) &&
           metric(out, g, "orderdb_group_blocked_keys", "Keys that wait: for a nack's delay, behind a dead letter, or for an operator.", blocked_of) &&
           metric(out, g, "orderdb_group_dead_letters", "Dead letters.", dead_of) && metric(out, g, "orderdb_group_members", "Subscriptions.", members_of);
}

/* ---- from outside */

static void on_changed(struct mail_task *task, struct core *on) {
    struct groups_core *c = container_of(task, struct groups_core, task);
    struct groups *g = c->groups;
    __atomic_store_n(&c->sent, false, __ATOMIC_RELEASE); /* before looking: a change that comes now sends another */
    /* An op that is away finds the change when it is home, or the round after it does. */
    if (g->core && g->state != GROUPS_IDLE && g->state != GROUPS_LAG) return;
    if (g->core && !g->core->draining && g->timer.place) timer_clear(&g->core->timers, &g->timer), list(g);
}

void groups_changing(struct core *core) { __atomic_add_fetch(&core->node->groups->generation, 1, __ATOMIC_ACQ_REL); }

void groups_changed(struct core *core) {
    struct groups_core *c = &core->node->groups->cores[core->id];
    groups_changing(core);
    if (__atomic_exchange_n(&c->sent, true, __ATOMIC_ACQ_REL)) return;
    c->task.run = on_changed;
    mail_send_task(core, 0, &c->task);
}

uint64_t groups_generation(const struct core *core) { return generation_of(core->node->groups); }

static struct group_name *name_place(struct groups_core *c, struct slice name) {
    uint64_t now = generation_of(c->groups);
    if (c->generation != now) memset(c->names, 0, sizeof c->names), c->generation = now;
    return &c->names[hash64(name) % NAMES_MAX];
}

uint32_t groups_find(struct core *core, struct slice name) {
    const struct group_name *n = name_place(&core->node->groups->cores[core->id], name);
    return n->group_id && slice_equal(slice_of(n->name, n->len), name) ? n->group_id : 0;
}

void groups_learn(struct core *core, struct slice name, uint32_t group_id, uint64_t generation) {
    struct groups_core *c = &core->node->groups->cores[core->id];
    struct group_name *n = name_place(c, name);
    if (generation != c->generation || name.len > sizeof n->name) return;
    *n = (struct group_name){.len = (uint8_t)name.len, .group_id = group_id};
    memcpy(n->name, name.data, name.len);
}

void groups_begin(struct groups *g, struct core *core0) {
    check(core0->id == 0);
    if (g->core) return;
    g->core = core0;
    list(g);
}

struct groups *groups_new(struct node *node) {
    struct groups *g = mem_zalloc(sizeof *g + node->core_count * sizeof g->cores[0]);
    if (!g) return NULL;
    g->node = node;
    g->generation = 1; /* nothing has been compared yet */
    g->timer.fire = on_timer;
    arena_init(&g->arena, OP_BYTES_MAX);
    arena_init(&g->list_arena, OP_BYTES_MAX);
    arena_init(&g->seek_arena, OP_BYTES_MAX);
    for (uint32_t i = 0; i < node->core_count; i++) g->cores[i].groups = g;
    return g;
}

void groups_free(struct groups *g) {
    if (!g) return;
    arena_fini(&g->arena);
    arena_fini(&g->list_arena);
    arena_fini(&g->seek_arena);
    mem_free(g);
}
