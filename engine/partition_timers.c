/* The leader's half of timers: it notices that some are due and proposes that they fire (docs/TIMERS.md). Whether they do is decided in apply.
 *
 *   nothing due -> [wall clock reaches next_us] -> looking, on a reader thread -> due timers in `due` -> [this core's turn] -> a batch in the log -> applied -> ...
 *
 * Nothing is kept in memory of timers that are not due but when the first of them is: what apply sets lowers next_us, a look tells the next one. A look reads rows
 * 0xffff 'T' from where the last one ended, so the rows of timers that have fired are not walked again; it also reads the orders, so that apply finds them in memory
 * and does not hold the core up for a disk.
 *
 * Foreground work comes first: one batch of a core's partitions is under way at a time, so the core never owes more than that one to timers; a batch is small, and smaller
 * while callers write; it is applied behind what they wait for (engine_tick); and a refusal (full disk, tables that fall behind, a full log) is a pause.
 *
 * What was proposed and failed, or whose fate is not known (the leader changed), is looked for again: apply lets each fire once. */
#include "engine/keys.h"
#include "engine/partition.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum {
    LOOK_TIMERS_MAX = 512, /* found by one look */
    FIRE_NS = 30000,       /* what one costs, about */
    FIRE_BATCH = 64,       /* two milliseconds, which nobody waits for */
    FIRE_BATCH_BUSY = 40,  /* while callers write: a millisecond; more where the log takes longer than that. 16 drained a tenth slower and held callers up no less */
    WARM_COLD_SHARE = 64,  /* less than one row of so many was not cached: the next look tries only some */
    WARM_SAMPLE = 8,       /* one order of so many */
    FLOOR_TIMERS = 100000, /* so many set since the floor was last moved: it is moved without a timer to fire */
};
static_assert((int)FIRE_BATCH <= (int)COMMAND_FIRE_MAX, "a batch is one command");
#define PAUSE_NS (200 * NS_PER_MS)
#define CALLERS_GONE_NS (20 * NS_PER_MS) /* no write of theirs for so long: batches are large */

struct due {
    int64_t fire_us, order_id;
    uint8_t no;
};
struct firing {
    struct partition *partition;
    struct env_job job;
    struct store_snapshot *snapshot;
    struct arena memory;      /* the job's */
    struct arena arena;       /* the op's */
    struct op op;
    bool away, proposed;
    enum status status;
    struct due from;          /* everything before it has fired, or is in `due` */
    int64_t next_us;          /* nothing at or behind `from` is due earlier */
    int64_t lowest_us;        /* set while a look was away: the earliest */
    uint64_t pause_until_ns, set_since_floor;
    int64_t until_us, snapshot_us; /* of the look: due by then; log time of what it sees */
    struct due found_from;
    int64_t found_next_us;
    unsigned count, at, proposed_count;
    bool warm_some;           /* hardly a row of the last look was not cached */
    unsigned warmed, warmed_cold; /* rows of this look, looked for */
    struct due due[LOOK_TIMERS_MAX];
};

enum status partition_timers_open(struct partition *p)
{
    struct firing *f = p->firing = mem_new(struct firing);
    if (!f) return STATUS_MEMORY_LIMIT;
    f->partition = p;
    arena_init(&f->memory, 4 * MIB);
    arena_init(&f->arena, 64 * KIB);
    return STATUS_OK;
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
    f->count = f->at = 0;
    return STATUS_OK;
}

void partition_timers_free(struct partition *p)
{
    if (!p->firing) return;
    check(!p->firing->away);
    check(!p->firing->proposed);
    arena_fini(&p->firing->memory);
    arena_fini(&p->firing->arena);
    mem_free(p->firing);
    p->firing = NULL;
}

/* ---- a look */

static void warm(struct firing *f, const struct key *k, bool *cold)
{
    struct slice row;
    struct store_view cached = {.store = f->partition->store, .cached_only = true}, view = {.store = f->partition->store};
    arena_reset(&f->memory);
    *cold = store_get(&cached, key_slice(k), &f->memory, &row) == STATUS_WOULD_BLOCK;
    f->warmed++;
    f->warmed_cold += *cold;
    if (*cold && store_get(&view, key_slice(k), &f->memory, &row)) return; /* apply will say what is wrong with it */
}

/* What apply will read of the order. */
static void warm_order(struct firing *f, int64_t order_id)
{
    struct key k;
    struct order_head head;
    struct slice row;
    struct store_view view = {.store = f->partition->store};
    bool cold;
    key_body(&k, order_id);
    warm(f, &k, &cold);
    key_head(&k, order_id);
    warm(f, &k, &cold);
    if (!cold) return;
    arena_reset(&f->memory);
    if (store_get(&view, key_slice(&k), &f->memory, &row) || order_head_decode(row, &head)) return;
    key_counts(&k, order_id_slot(order_id), head.user_id, 0, 0, 0);
    warm(f, &k, &cold);
}

/* Where all is cached, looking is a second reading of everything, on the CPUs that the loops need: then it is tried for some, till one is found that is not. */
static void warm_orders(struct firing *f)
{
    f->warmed = f->warmed_cold = 0;
    for (unsigned i = 0; i < f->count; i += f->warm_some && !f->warmed_cold ? WARM_SAMPLE : 1) warm_order(f, f->due[i].order_id);
    f->warm_some = f->warmed_cold * WARM_COLD_SHARE < f->warmed;
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
    f->count = f->at = 0;
    f->found_from = f->from;
    f->found_next_us = INT64_MAX;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) {
        struct due *d = &f->found_from;
        if (!key_timer_parts(store_iter_key(it), &d->fire_us, &d->order_id, &d->no)) continue;
        uint16_t slot = order_id_slot(d->order_id);
        if (slot >= SLOT_COUNT || partition_of_slot(slot, p->engine->config.partition_count) != p->id) continue; /* left behind by a split */
        f->found_next_us = d->fire_us;
        if (d->fire_us > f->until_us || f->count == LOOK_TIMERS_MAX) break;
        f->due[f->count++] = *d;
        f->found_next_us = INT64_MAX;
    }
    f->status = store_iter_status(it);
    if (f->status == STATUS_OK && f->found_next_us == INT64_MAX && f->count) f->found_from = f->due[f->count - 1];
    store_iter_close(it);
    if (!f->status) warm_orders(f);
}

static void look_home(struct env_job *job)
{
    struct firing *f = container_of(job, struct firing, job);
    struct partition *p = f->partition;
    store_snapshot_put(p->store, f->snapshot);
    f->away = false;
    p->reads_away--;
    arena_reset(&f->memory);
    if (f->status) {
        log_warn("due timers can't be read", "partition=%u status=%s", p->id, status_name(f->status));
        f->count = 0;
        f->next_us = 0;
        f->pause_until_ns = p->engine->now_ns + 5 * PAUSE_NS;
        return;
    }
    f->from = f->found_from;
    f->next_us = f->found_next_us;
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
    f->snapshot_us = (int64_t)p->record.log_time_us;
    f->lowest_us = INT64_MAX;
    f->away = true;
    p->reads_away++;
    f->job = (struct env_job){.run = look_run, .done = look_home, .patient = true};
    p->engine->env->ops->offload(p->engine->env, &f->job);
}

/* ---- a batch */

/* What was found and has not fired is looked for once more, after a pause. */
static void again(struct firing *f)
{
    int64_t first_us = f->at < f->count ? f->due[f->at].fire_us : INT64_MAX;
    if (first_us <= f->from.fire_us) f->from = (struct due){.fire_us = first_us};
    f->next_us = MIN_OF(f->next_us, first_us);
    f->count = f->at = 0;
    f->pause_until_ns = f->partition->engine->now_ns + PAUSE_NS;
}

/* Its turn is over: the other partitions of the core first. */
static void turn_ended(struct partition *p)
{
    struct engine *e = p->engine;
    e->firing = NULL;
    uint32_t at = (uint32_t)(p - e->partitions);
    for (uint32_t i = 1; i <= e->config.owned_count && !e->firing; i++) partition_timers_tick(&e->partitions[(at + i) % e->config.owned_count]);
}

static void fire_done(struct op *op)
{
    struct firing *f = op->owner;
    struct partition *p = f->partition;
    f->proposed = false;
    if (op->failure.status) again(f);
    else p->engine->stats.timers_fired += op->outcome.fired;
    if (!op->failure.status) f->at = MIN_OF(f->at + f->proposed_count, f->count); /* the store may have been opened anew meanwhile */
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
    for (const struct due *d = f->due + f->at; d < f->due + f->at + count; d++) write_be64(&w, (uint64_t)d->fire_us), write_be64(&w, (uint64_t)d->order_id), write_u8(&w, d->no);
    check(!w.full);
    struct command c = {.type = COMMAND_FIRE, .fire.count = count, .fire.packed = writer_slice(&w)};
    /* What is set behind the look's snapshot is due at that log time or later. */
    c.fire.floor_us = (uint64_t)MIN_OF(count ? f->due[f->at].fire_us : f->from.fire_us, f->snapshot_us);
    arena_reset(&f->arena);
    struct slice command = command_encode(&c, &f->arena);
    check(command.data); /* 64 KiB hold it */
    f->op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(p->id, e->config.partition_count), .arena = &f->arena, .done = fire_done, .owner = f, .command = command};
    f->proposed_count = count;
    if (engine_submit_own(e, p, &f->op)) {
        again(f);
        return;
    }
    f->proposed = true;
    e->firing = p;
}

/* While callers write, a batch holds them up for no longer than the log does, and at its pace timers still come through where that is slow. */
static unsigned batch_max(const struct partition *p)
{
    const struct engine *e = p->engine;
    if (e->now_ns >= e->caller_wrote_ns + CALLERS_GONE_NS && !p->pressure) return FIRE_BATCH;
    return (unsigned)MIN_OF(MAX_OF(e->log_ns / FIRE_NS, (uint64_t)FIRE_BATCH_BUSY), (uint64_t)FIRE_BATCH);
}

void partition_timers_tick(struct partition *p)
{
    struct engine *e = p->engine;
    struct firing *f = p->firing;
    if (p->state != PARTITION_READY || e->draining || e->disk_full || f->away || f->proposed || e->now_ns < f->pause_until_ns) return;
    if (f->at < f->count) {
        if (!e->firing) propose(p, MIN_OF(batch_max(p), f->count - f->at));
    } else if (f->next_us <= clock_us(p)) {
        look(p);
    } else if (f->set_since_floor > FLOOR_TIMERS && !e->firing) {
        propose(p, 0);
    }
}

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
    int64_t first_us = f->at < f->count ? f->due[f->at].fire_us : f->next_us, now_us = clock_us(p);
    return first_us > 0 && now_us > first_us ? (uint64_t)(now_us - first_us) : 0;
}
