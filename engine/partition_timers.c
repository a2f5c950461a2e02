/* The leader's half of timers: it notices that some are due and proposes that they fire (docs/TIMERS.md). Whether they do is decided in apply.
 *
 *   nothing due -> [wall clock reaches next_us] -> looking, on a reader thread -> due timers in `due` -> [this core's turn] -> a batch in the log -> applied -> ...
 *
 * Nothing is kept in memory of timers that are not due but when the first of them is: what apply sets lowers next_us, a look tells the next one. A look reads rows
 * 0xffff 'T' from where the last one ended, so the rows of timers that have fired are not walked again; it also reads the orders' rows ahead, so that apply
 * does not hold the core up for the files. The next look goes on while what the last one found fires.
 *
 * Foreground work comes first: one batch of a core's partitions is under way at a time, so the core never owes more than that one to timers; a batch is small, and smaller
 * while callers write; it is applied behind what they wait for (engine_tick); and a refusal (full disk, tables that fall behind, a full log) is a pause. Looks are made on a full disk too: they write
 * nothing, and tell how long the first one has been due.
 *
 * What was proposed and failed, or whose fate is not known (the leader changed), is looked for again: apply lets each fire once. */
#include <stdlib.h>

#include "engine/keys.h"
#include "engine/partition.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum {
    LOOK_TIMERS_MAX = 512, /* found by one look */
    READ_ORDERS = STORE_AHEAD_KEYS_MAX / 2, /* at a time: head and body of each */
    FIRE_NS = 30000,       /* what one costs the core, about, while little of what it touches is in the CPU's cache */
    FIRE_BATCH = 64,       /* two milliseconds, which nobody waits for */
    FIRE_BATCH_BUSY = 16,  /* while callers write: half of one; more where the log takes longer than that, for a pause (pace.h) is then shorter than the log */
    FLOOR_TIMERS = 100000, /* so many set since the floor was last moved: it is moved without a timer to fire */
};
static_assert((int)FIRE_BATCH <= (int)COMMAND_FIRE_MAX, "a batch is one command");
#define AHEAD_BYTES_MAX ((size_t)1 * MIB) /* of rows, of one look: three small ones an order */
#define PAUSE_NS (200 * NS_PER_MS)
#define BRAKED_PAUSE_NS (50 * NS_PER_MS)

struct due {
    int64_t fire_us, order_id;
    uint8_t no;
};
/* What one look has found. */
struct found {
    struct store_ahead *rows; /* of their orders */
    int64_t first_us;         /* none is due before it */
    int64_t snapshot_us;      /* log time of what the look saw */
    int64_t until_us;         /* all are due by then */
    unsigned count, at;       /* those before `at` have fired */
    struct due due[LOOK_TIMERS_MAX]; /* by slot and order, as their rows lie */
};
struct firing {
    struct partition *partition;
    struct env_job job;
    struct store_snapshot *snapshot;
    struct arena arena; /* the op's */
    struct op op;
    bool away, proposed;
    bool again;               /* what the look that is away brings is to be looked for again */
    enum status status;
    struct due from;          /* everything before it has fired, or was found */
    int64_t next_us;          /* nothing at or behind `from` is due earlier */
    int64_t lowest_us;        /* set while a look was away: the earliest */
    uint64_t pause_until_ns, set_since_floor;
    int64_t until_us, snapshot_us; /* of the look: due by then; log time of what it sees */
    struct due found_from;
    int64_t found_next_us;
    unsigned proposed_count;
    uint64_t proposed_ns;
    struct found found[2], *now, *next; /* now: they fire. next: found meanwhile */
};

static bool found_any(const struct found *d) { return d->at < d->count; }

enum status partition_timers_open(struct partition *p)
{
    struct firing *f = p->firing = mem_new(struct firing);
    if (!f) return STATUS_MEMORY_LIMIT;
    f->partition = p;
    f->now = &f->found[0], f->next = &f->found[1];
    arena_init(&f->arena, 64 * KIB);
    return STATUS_OK;
}

void partition_timers_unload(struct partition *p)
{
    struct firing *f = p->firing;
    if (!f) return;
    check(!f->away);
    for (unsigned i = 0; i < ARRAY_LEN(f->found); i++) {
        store_ahead_free(f->found[i].rows);
        f->found[i] = (struct found){0};
    }
    f->proposed_count = 0; /* of what was found then */
}

enum status partition_timers_load(struct partition *p)
{
    struct firing *f = p->firing;
    struct key k;
    struct slice row;
    struct store_view view = {.store = p->store};
    p->timers = (struct timers_record){0};
    key_timers(&k);
    enum status st = store_get(&view, key_slice(&k), &p->engine->scratch, &row);
    if (!st) st = timers_record_decode(row, &p->timers);
    if (st && st != STATUS_ABSENT) return st;
    f->from = (struct due){.fire_us = (int64_t)p->timers.floor_us};
    f->next_us = 0; /* not known: to be looked for */
    for (unsigned i = 0; i < ARRAY_LEN(f->found); i++)
        if (!(f->found[i].rows = store_ahead_new(p->store, AHEAD_BYTES_MAX))) return STATUS_MEMORY_LIMIT;
    return STATUS_OK;
}

void partition_timers_free(struct partition *p)
{
    if (!p->firing) return;
    check(!p->firing->away);
    check(!p->firing->proposed);
    arena_fini(&p->firing->arena);
    mem_free(p->firing);
    p->firing = NULL;
}

/* ---- a look */

/* What apply will read of some orders. What is wrong with a row apply will say. */
static void read_orders(struct env *env, struct store_ahead *rows, const struct due *due, unsigned count)
{
    struct key keys[2 * READ_ORDERS];
    struct slice names[2 * READ_ORDERS], found[2 * READ_ORDERS];
    unsigned counts = 0;
    for (unsigned i = 0; i < count; i++) key_head(&keys[i], due[i].order_id), key_body(&keys[count + i], due[i].order_id);
    for (unsigned i = 0; i < 2 * count; i++) names[i] = key_slice(&keys[i]);
    store_ahead_read(rows, names, 2 * count, found);
    env->ops->make_way(env);
    for (unsigned i = 0; i < count; i++) {
        struct order_head head;
        if (!found[i].data || order_head_decode(found[i], &head)) continue; /* all of it is new, and in no file */
        key_counts(&keys[counts], order_id_slot(due[i].order_id), head.user_id, 0, 0, 0);
        names[counts] = key_slice(&keys[counts]);
        counts++;
    }
    store_ahead_read(rows, names, counts, found);
    env->ops->make_way(env);
}

static int by_order(const void *a, const void *b)
{
    const struct due *x = a, *y = b;
    if (order_id_slot(x->order_id) != order_id_slot(y->order_id)) return order_id_slot(x->order_id) < order_id_slot(y->order_id) ? -1 : 1;
    if (x->order_id != y->order_id) return x->order_id < y->order_id ? -1 : 1;
    if (x->fire_us != y->fire_us) return x->fire_us < y->fire_us ? -1 : 1;
    return x->no - y->no;
}

static void look_run(struct env_job *job)
{
    struct firing *f = container_of(job, struct firing, job);
    struct partition *p = f->partition;
    struct store_view view = {.store = p->store, .snapshot = f->snapshot};
    struct key lower, upper;
    key_timer(&lower, f->from.fire_us, f->from.order_id, f->from.no);
    key_timers(&upper);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    struct found *found = f->next;
    f->found_from = f->from;
    f->found_next_us = INT64_MAX;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) {
        struct due *d = &f->found_from;
        if (!key_timer_parts(store_iter_key(it), &d->fire_us, &d->order_id, &d->no)) continue;
        uint16_t slot = order_id_slot(d->order_id);
        if (slot >= SLOT_COUNT || partition_of_slot(slot, p->engine->config.partition_count) != p->id) continue; /* left behind by a split */
        f->found_next_us = d->fire_us;
        if (d->fire_us > f->until_us || found->count == LOOK_TIMERS_MAX) break;
        found->due[found->count++] = *d;
        f->found_next_us = INT64_MAX;
    }
    f->status = store_iter_status(it);
    if (f->status == STATUS_OK && f->found_next_us == INT64_MAX && found->count) f->found_from = found->due[found->count - 1];
    store_iter_close(it);
    if (f->status || !found->count) return;
    found->first_us = found->due[0].fire_us;
    qsort(found->due, found->count, sizeof found->due[0], by_order);
    for (unsigned i = 0; i < found->count; i += READ_ORDERS) read_orders(p->engine->env, found->rows, found->due + i, MIN_OF(found->count - i, (unsigned)READ_ORDERS));
}

static void look_home(struct env_job *job)
{
    struct firing *f = container_of(job, struct firing, job);
    struct partition *p = f->partition;
    store_snapshot_put(p->store, f->snapshot);
    f->away = false;
    p->reads_away--;
    bool again = f->again;
    f->again = false;
    if (f->status) {
        log_warn("due timers can't be read", "partition=%u status=%s", p->id, status_name(f->status));
        f->pause_until_ns = p->engine->now_ns + 5 * PAUSE_NS;
    } else {
        f->from = f->found_from;
        f->next_us = f->found_next_us;
    }
    if (again || f->status) f->next->count = 0; /* lowest_us, or `from`, is before them */
    if (f->lowest_us <= f->from.fire_us) f->from = (struct due){.fire_us = f->lowest_us};
    f->next_us = MIN_OF(f->next_us, f->lowest_us);
    partition_timers_tick(p);
}

/* The log time of an entry that were made now: the clock, but never back. */
static int64_t clock_us(const struct partition *p)
{
    const struct engine *e = p->engine;
    return MAX_OF(e->env->ops->wall_us(e->env), (int64_t)MAX_OF(e->last_log_time_us, p->record.log_time_us));
}

static void look(struct partition *p)
{
    struct firing *f = p->firing;
    if (!(f->snapshot = store_snapshot_get(p->store))) {
        f->pause_until_ns = p->engine->now_ns + PAUSE_NS;
        return;
    }
    f->until_us = clock_us(p);
    f->next->until_us = f->until_us;
    f->snapshot_us = f->next->snapshot_us = (int64_t)p->record.log_time_us;
    f->next->count = f->next->at = 0;
    store_ahead_begin(f->next->rows);
    f->lowest_us = INT64_MAX;
    f->away = true;
    p->reads_away++;
    f->job = (struct env_job){.run = look_run, .done = look_home, .behind = true};
    p->engine->env->ops->offload(p->engine->env, &f->job);
}

/* ---- a batch */

/* What was found and has not fired is looked for once more, after a pause. What the next look has found, or finds, may be due earlier than that: set since, at a log time that is behind the clock. */
static void again(struct firing *f)
{
    int64_t first_us = found_any(f->now) ? f->now->first_us : INT64_MAX;
    first_us = MIN_OF(first_us, f->away ? f->from.fire_us : found_any(f->next) ? f->next->first_us : INT64_MAX);
    if (first_us <= f->from.fire_us) f->from = (struct due){.fire_us = first_us};
    f->next_us = MIN_OF(f->next_us, first_us);
    f->now->count = f->now->at = 0;
    if (f->away) f->again = true, f->lowest_us = MIN_OF(f->lowest_us, first_us);
    else f->next->count = f->next->at = 0;
    f->pause_until_ns = f->partition->engine->now_ns + PAUSE_NS;
}

/* Its turn is over: the other partitions of the core first. */
static void turn_ended(struct partition *p)
{
    struct engine *e = p->engine;
    e->firing = NULL;
    e->fired_last = (uint32_t)(p - e->partitions);
    pace_ended(&e->pace, e->env->ops->mono_ns(e->env));
    partition_timers_turn(e);
}

void partition_timers_turn(struct engine *e)
{
    for (uint32_t i = 1; i <= e->config.owned_count && !e->firing; i++) partition_timers_tick(&e->partitions[(e->fired_last + i) % e->config.owned_count]);
}

static void fire_done(struct op *op)
{
    struct firing *f = op->owner;
    struct partition *p = f->partition;
    f->proposed = false;
    if (op->failure.status) again(f);
    else p->engine->stats.timers_fired += op->outcome.fired;
    if (!op->failure.status) f->now->at += f->proposed_count;
    if (f->proposed_count == 0) f->set_since_floor = 0;
    if (p->store) turn_ended(p);
    else p->engine->firing = NULL; /* closing */
}

static void propose(struct partition *p, unsigned count)
{
    struct engine *e = p->engine;
    struct firing *f = p->firing;
    uint8_t packed[FIRE_BATCH * COMMAND_FIRE_BYTES];
    struct writer w = writer_of(packed, sizeof packed);
    const struct due *first = f->now->due + f->now->at;
    for (const struct due *d = first; d < first + count; d++) write_be64(&w, (uint64_t)d->fire_us), write_be64(&w, (uint64_t)d->order_id), write_u8(&w, d->no);
    check(!w.full);
    struct command c = {.type = COMMAND_FIRE, .fire.count = count, .fire.packed = writer_slice(&w)};
    /* What is set behind the look's snapshot is due at that log time or later. */
    c.fire.floor_us = (uint64_t)(count ? MIN_OF(f->now->first_us, f->now->snapshot_us) : MIN_OF(f->from.fire_us, f->snapshot_us));
    arena_reset(&f->arena);
    struct slice command = command_encode(&c, &f->arena);
    check(command.data); /* 64 KiB hold it */
    f->op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(p->id, e->config.partition_count), .arena = &f->arena, .done = fire_done, .owner = f, .command = command};
    f->proposed_count = count;
    /* They are due at the entry's log time, also when the clock was set back since the look: apply lets none fire early, and nobody would look for it again. */
    if (count) e->last_log_time_us = MAX_OF(e->last_log_time_us, (uint64_t)f->now->until_us);
    if (engine_submit_own(e, p, &f->op)) {
        again(f);
        return;
    }
    f->proposed = true;
    f->proposed_ns = e->now_ns;
    e->firing = p;
    pace_begun(&e->pace, e->env->ops->mono_ns(e->env));
}

/* While callers write, a batch holds them up for no longer than the log does, and at its pace timers still come through where that is slow. */
static unsigned batch_max(const struct partition *p)
{
    const struct engine *e = p->engine;
    if (!pace_callers(&e->pace, e->now_ns) && !p->pressure) return FIRE_BATCH;
    return (unsigned)MIN_OF(MAX_OF(e->log_ns / FIRE_NS, (uint64_t)FIRE_BATCH_BUSY), (uint64_t)FIRE_BATCH);
}

/* Where tables are behind, callers' writes are slowed down (brake.h). Timers, of which a few bytes of the log make many of the tables, stand back before that: a batch now and then. */
static bool stands_back(const struct partition *p)
{
    const struct engine *e = p->engine;
    return p->brake.bytes_per_s && pace_callers(&e->pace, e->now_ns) && e->now_ns < p->firing->proposed_ns + BRAKED_PAUSE_NS;
}

void partition_timers_tick(struct partition *p)
{
    struct engine *e = p->engine;
    struct firing *f = p->firing;
    if (p->state != PARTITION_READY || e->draining || e->now_ns < f->pause_until_ns) return;
    if (!f->away && !found_any(f->now) && found_any(f->next)) {
        struct found *taken = f->now;
        f->now = f->next, f->next = taken;
    }
    if (!f->away && !found_any(f->next) && f->next_us <= clock_us(p)) look(p);
    if (e->disk_full || f->proposed || e->firing || pace_pauses(&e->pace, e->now_ns) || stands_back(p)) return;
    if (found_any(f->now)) propose(p, MIN_OF(batch_max(p), f->now->count - f->now->at));
    else if (!f->away && f->set_since_floor > FLOOR_TIMERS) propose(p, 0);
}

/* The rows that the look has read of the orders that fire: apply need not look for them in files. */
const struct store_ahead *partition_timers_rows(const struct partition *p) { return p->firing->now->rows; }

void partition_timers_applied(struct partition *p, const struct apply *a)
{
    struct firing *f = p->firing;
    p->timers = a->timers;
    if (a->timers_soonest_us == INT64_MAX) return;
    f->set_since_floor++;
    f->lowest_us = MIN_OF(f->lowest_us, a->timers_soonest_us);
    if (f->away) return;
    if (a->timers_soonest_us <= f->from.fire_us) f->from = (struct due){.fire_us = a->timers_soonest_us};
    f->next_us = MIN_OF(f->next_us, a->timers_soonest_us);
}

uint64_t partition_timers_lag_us(const struct partition *p)
{
    const struct firing *f = p->firing;
    int64_t first_us = found_any(f->now) ? f->now->first_us : !f->away && found_any(f->next) ? f->next->first_us : f->next_us, now_us = clock_us(p);
    if (p->timers.pending == 0 || group_role(p->group) != GROUP_LEADER) return 0;
    if (p->state == PARTITION_OPENING || first_us == 0) return TIMERS_LAG_UNKNOWN;
    return now_us > first_us ? (uint64_t)(now_us - first_us) : 0;
}
