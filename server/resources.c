#include "server/resources.h"

#include "engine/engine.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/groups.h"
#include "server/mail.h"
#include "server/node.h"

/* One round on core 0, an op at a time:
 *
 *   LOOK     of one of several nodes: how far its replica of the meta partition is: others change resources too   -> LIST; nothing new: IDLE, for POLL_MS
 *   LIST     pages of resources from the meta partition         -> tasks: the list to every core
 *   TARGET   how many machines the meta partition knows
 *   KNOWN    how many partition p knows; fewer: PUSH             -> p + 1; after the last: IDLE
 *   PUSH     the next machine, as a command of p's log           -> KNOWN
 *
 * A change during a round makes another. A failure ends it, and a timer begins the next. */
enum round_state { ROUND_IDLE, ROUND_LOOK, ROUND_LIST, ROUND_TARGET, ROUND_KNOWN, ROUND_PUSH };
enum { RETRY_MS = 1000, POLL_MS = 500, ROUND_BYTES_MAX = 64 << 20, OP_BYTES_MAX = 8 << 20 };

/* A list on its way to the cores; freed by the last. */
struct telling {
    struct resources *resources;
    struct arena arena;
    struct resource_list list;
    uint32_t left; /* atomic */
    struct telling_core {
        struct mail_task task;
        struct telling *telling;
    } cores[];
};

struct resources {
    struct node *node;
    struct core *core; /* 0 */
    enum round_state state;
    bool dirty;
    struct timer retry;
    struct op op;
    struct mail_hop hop;
    struct arena arena; /* the op's */
    struct telling *telling; /* being gathered */
    unsigned slices_cap;
    struct slice token;
    uint64_t seen;   /* what the meta partition had applied when the last list was asked for; 0: ask again */
    uint32_t partition;
    uint16_t target, known;
    struct resources_core {
        struct mail_task task;
        struct resources *resources;
        bool sent; /* atomic: a change is on its way to core 0 */
        bool told; /* its core's thread */
    } cores[];
};

static void round_begin(struct resources *r);
static void on_home(struct mail_hop *hop);

/* ---- the list, to every core */

static void telling_free(struct telling *t) {
    if (!t) return;
    arena_fini(&t->arena);
    mem_free(t);
}

static void on_told(struct mail_task *task, struct core *on) {
    struct telling_core *c = container_of(task, struct telling_core, task);
    struct telling *t = c->telling;
    if (on->hooks->resources) on->hooks->resources(on, &t->list);
    t->resources->cores[on->id].told = true;
    if (__atomic_sub_fetch(&t->left, 1, __ATOMIC_ACQ_REL) == 0) telling_free(t);
}

static void tell(struct resources *r) {
    struct telling *t = r->telling;
    r->telling = NULL;
    t->left = r->node->core_count;
    for (uint32_t i = 0; i < r->node->core_count; i++) {
        t->cores[i] = (struct telling_core){.task.run = on_told, .telling = t};
        mail_send_task(r->core, i, &t->cores[i].task);
    }
}

/* ---- ops of a round */

static void send(struct resources *r, enum round_state state, enum op_kind kind, uint16_t slot) {
    r->state = state;
    r->op.kind = kind;
    r->op.slot = slot;
    r->op.arena = &r->arena;
    mail_send_op(r->core, &r->hop, &r->op, on_home);
}

static void op_begin(struct resources *r) {
    arena_reset(&r->arena);
    r->op = (struct op){0};
}

static void round_fail(struct resources *r, const char *what, const struct failure *f) {
    r->seen = 0;
    /* Of damaged tables nothing more is to be had: the node serves, without what they said. */
    bool lost = r->state == ROUND_LIST && f && f->status == STATUS_CHECKSUM_MISMATCH && !r->cores[0].told;
    r->state = ROUND_IDLE;
    if (lost) {
        log_error("resources can't be read: served without limits", "partition=meta");
        r->telling->list.count = 0;
        tell(r);
    }
    telling_free(r->telling);
    r->telling = NULL;
    if (r->core->draining) return;
    log_warn("resources: tried again", "what=%s partition=%u status=%s", what, r->partition, f ? status_name(f->status) : "MEMORY_LIMIT");
    if (!timer_set(&r->core->timers, &r->retry, r->core->now_ns + RETRY_MS * NS_PER_MS)) r->dirty = true; /* the next change makes a round */
}

static void look(struct resources *r) {
    op_begin(r);
    r->op.any_replica = true;
    send(r, ROUND_LOOK, OP_STATS, SLOT_META);
}

/* false: no memory, and the round is over. */
static bool list_begin(struct resources *r) {
    enum { SLICES = 64 };
    uint32_t n = r->node->core_count;
    struct telling *t = r->telling = mem_zalloc(sizeof *t + n * sizeof t->cores[0]);
    if (t) arena_init(&t->arena, ROUND_BYTES_MAX);
    if (t) t->resources = r, t->list.resources = arena_array(&t->arena, struct slice, SLICES);
    if (!t || !t->list.resources) return round_fail(r, "list", NULL), false;
    r->slices_cap = SLICES;
    r->token = (struct slice){0};
    r->partition = 0;
    return true;
}

static void list_page(struct resources *r) {
    op_begin(r);
    r->op.resources = (struct resources_request){.kind = RESOURCE_LIMIT, .page_size = RESOURCE_PAGE_SIZE_MAX, .page_token = r->token};
    r->op.any_replica = true; /* each node keeps itself what it needs; what it has not applied yet it will hear of */
    send(r, ROUND_LIST, OP_RESOURCES, SLOT_META);
}

/* false: no memory. The answer's bytes are the op's: they are copied. */
static bool list_add(struct resources *r) {
    struct telling *t = r->telling;
    struct slice copy = arena_copy(&t->arena, r->op.answer);
    struct reader reader = reader_of(copy);
    struct pb_field f;
    r->token = (struct slice){0};
    if (r->op.answer.len && !copy.data) return false;
    while (pb_next(&reader, &f)) {
        if (f.number == 2) r->token = f.bytes;
        if (f.number != 1) continue;
        if (t->list.count == r->slices_cap) {
            struct slice *grown = arena_array(&t->arena, struct slice, (size_t)r->slices_cap * 2);
            if (!grown) return false;
            memcpy(grown, t->list.resources, r->slices_cap * sizeof *grown);
            t->list.resources = grown;
            r->slices_cap *= 2;
        }
        ((struct slice *)t->list.resources)[t->list.count++] = f.bytes;
    }
    return true;
}

static void on_listed(struct resources *r) {
    if (!list_add(r)) {
        round_fail(r, "list", NULL);
        return;
    }
    if (r->token.len) {
        list_page(r);
        return;
    }
    tell(r);
    op_begin(r);
    r->op.any_replica = true;
    send(r, ROUND_TARGET, OP_STATS, SLOT_META);
}

static void ask_known(struct resources *r) {
    op_begin(r);
    r->op.any_replica = true;
    send(r, ROUND_KNOWN, OP_STATS, partition_first_slot(r->partition, r->node->partition_count));
}

static void push(struct resources *r) {
    op_begin(r);
    struct command c = {.type = COMMAND_MACHINE, .machine.row = machine_row_of(machines_by_id(r->node->machines, (uint16_t)(r->known + 1)), &r->arena)};
    r->op.command = c.machine.row.data ? command_encode(&c, &r->arena) : (struct slice){0};
    if (!r->op.command.data) {
        round_fail(r, "push", NULL);
        return;
    }
    log_info("a partition gets a status machine", "partition=%u id=%u", r->partition, r->known + 1u);
    send(r, ROUND_PUSH, OP_WRITE, partition_first_slot(r->partition, r->node->partition_count));
}

static void rest(struct resources *r) {
    r->state = ROUND_IDLE;
    if (r->dirty) round_begin(r);
    else if (r->node->cluster && !timer_set(&r->core->timers, &r->retry, r->core->now_ns + POLL_MS * NS_PER_MS)) r->dirty = true;
}

static void on_next(struct resources *r) {
    if (++r->partition < r->node->partition_count) ask_known(r);
    else rest(r);
}

static void on_look(struct resources *r) {
    if (r->op.stats.applied_index == r->seen) return rest(r);
    if (r->seen) groups_changed(r->core); /* their definitions are there too */
    r->seen = r->op.stats.applied_index;
    if (list_begin(r)) list_page(r);
}

/* Others see to what this node does not hold. */
static bool holds(const struct resources *r, const struct partition_stats *s) {
    for (uint32_t i = 0; i < s->replica_count; i++)
        if (s->replicas[i].node_id == r->node->identity.node_id) return s->replicas[i].kind == GROUP_VOTER;
    return !r->node->cluster;
}

static void on_known(struct resources *r) {
    if (!holds(r, &r->op.stats)) return on_next(r);
    r->known = r->op.stats.machines_known;
    if (r->known > r->target) /* never by a crash: each machine is in the meta partition's log before it goes anywhere */
        log_error("the meta partition lacks status machines that a partition has: was its directory removed?", "partition=%u known=%u meta=%u", r->partition, r->known, r->target);
    if (r->known < r->target) push(r);
    else on_next(r);
}

static void on_home(struct mail_hop *hop) {
    struct resources *r = container_of(hop, struct resources, hop);
    static const char *const names[] = {"", "look", "list", "target", "known", "push"};
    bool next = r->state == ROUND_PUSH && (r->op.failure.status == STATUS_NOT_LEADER || r->op.failure.status == STATUS_NO_QUORUM); /* the node that leads the partition brings it what it lacks */
    if (r->op.failure.status && !next) {
        round_fail(r, names[r->state], &r->op.failure);
        return;
    }
    if (r->core->draining) {
        round_fail(r, "", NULL);
        return;
    }
    switch (r->state) {
    case ROUND_IDLE: check(!"an op without a round"); break;
    case ROUND_LOOK: on_look(r); break;
    case ROUND_LIST: on_listed(r); break;
    case ROUND_TARGET: r->target = r->op.stats.machines_known, r->partition = 0, ask_known(r); break;
    case ROUND_KNOWN: on_known(r); break;
    case ROUND_PUSH: if (next) on_next(r); else ask_known(r); break;
    }
}

static void round_begin(struct resources *r) {
    if (r->state != ROUND_IDLE || r->core->draining) {
        r->dirty = true;
        return;
    }
    r->dirty = false;
    r->partition = 0;
    timer_clear(&r->core->timers, &r->retry);
    r->seen = 0;
    if (r->node->cluster) look(r);
    else if (list_begin(r)) list_page(r);
}

static void on_retry(struct timer *t) {
    struct resources *r = container_of(t, struct resources, retry);
    if (r->seen && !r->dirty && !r->core->draining) look(r);
    else round_begin(r);
}

/* ---- from outside */

static void on_changed(struct mail_task *task, struct core *on) {
    struct resources_core *c = container_of(task, struct resources_core, task);
    __atomic_store_n(&c->sent, false, __ATOMIC_RELEASE); /* before looking: a change that comes now sends another */
    if (c->resources->core) round_begin(c->resources);
}

void resources_changed(struct core *core) {
    struct resources_core *c = &core->node->resources->cores[core->id];
    if (__atomic_exchange_n(&c->sent, true, __ATOMIC_ACQ_REL)) return;
    c->task.run = on_changed;
    mail_send_task(core, 0, &c->task);
}

bool resources_told(const struct resources *r, const struct core *core) { return r->cores[core->id].told; }

void resources_begin(struct resources *r, struct core *core0) {
    check(core0->id == 0);
    if (r->core) return;
    r->core = core0;
    round_begin(r);
}

struct resources *resources_new(struct node *node) {
    struct resources *r = mem_zalloc(sizeof *r + node->core_count * sizeof r->cores[0]);
    if (!r) return NULL;
    r->node = node;
    r->retry.fire = on_retry;
    arena_init(&r->arena, OP_BYTES_MAX);
    for (uint32_t i = 0; i < node->core_count; i++) r->cores[i].resources = r;
    return r;
}

void resources_free(struct resources *r) {
    if (!r) return;
    telling_free(r->telling);
    arena_fini(&r->arena);
    mem_free(r);
}
