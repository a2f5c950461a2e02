/* The change stream of a partition: reads that wait for more, where a reader begins, retention.
 *
 * A read that finds nothing at the end of the stream waits here and is looked at again whenever an entry was applied; the tail then has what it wants, so a live reader
 * costs a copy. Whoever is further behind reads on a reader thread, over a snapshot, and never holds the core up.
 *
 * Retention. Every RETENTION_PAUSE_NS a job looks for the first entry that is to be kept, by age and by size; if it has moved, that is proposed as a command, so that all
 * replicas let go of the same events at the same place of the log. The files go when a flush has made the command durable: a replay must not find less than was promised. */
#include <stdio.h>

#include "engine/keys.h"
#include "engine/partition.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { SLOT_READ_EVENTS_MAX = 2048, RETENTION_STEPS = 40 };
#define RETENTION_PAUSE_NS (10 * NS_PER_S)

struct retention {
    struct env_job job;
    struct partition *partition;
    struct store_snapshot *snapshot;
    struct arena arena;
    uint64_t next_ns;
    bool away, proposed, dropping;
    enum status status;
    struct feed_record kept, found; /* as it was, and as it is to be */
    uint64_t last_index, oldest_us, bytes_max, dropped_to;
    struct op op;
};

/* ---- open and close */

enum status partition_feed_open(struct partition *p)
{
    struct engine *e = p->engine;
    feed_writer_init(&p->feed);
    feed_tail_init(&p->tail, e->config.feed_tail_bytes / e->config.owned_count);
    list_init(&p->feed_waiters);
    p->retention = mem_new(struct retention);
    if (!p->retention) return STATUS_MEMORY_LIMIT;
    p->retention->partition = p;
    p->retention->next_ns = e->now_ns + RETENTION_PAUSE_NS;
    arena_init(&p->retention->arena, 4 * MIB);
    return STATUS_OK;
}

enum status partition_feed_load(struct partition *p)
{
    struct key k;
    struct slice row;
    struct store_view view = {.store = p->store};
    p->kept = (struct feed_record){0};
    key_feed(&k);
    enum status st = store_get(&view, key_slice(&k), &p->engine->scratch, &row);
    if (!st) st = feed_record_decode(row, &p->kept);
    p->flushed_kept = p->kept;
    return st == STATUS_ABSENT ? STATUS_OK : st;
}

static void waiters_refuse(struct partition *p)
{
    for (struct list *l; (l = list_pop_front(&p->feed_waiters));) {
        struct op *op = list_entry(l, struct op, link);
        failure_set(&op->failure, STATUS_DRAINING, "this node is shutting down");
        engine_finish(p->engine, op);
    }
}

void partition_feed_close(struct partition *p)
{
    waiters_refuse(p);
    feed_writer_fini(&p->feed);
    feed_tail_clear(&p->tail);
}

void partition_feed_free(struct partition *p)
{
    if (!p->retention) return;
    check(!p->retention->away);
    check(!p->retention->proposed);
    arena_fini(&p->retention->arena);
    mem_free(p->retention);
    p->retention = NULL;
}

/* ---- one try of a read */

static struct feed_read read_of(struct partition *p, struct op *op, const struct store_view *view)
{
    return (struct feed_read){
        .view = *view,
        .machines = p->engine->config.machines,
        .arena = op->arena,
        .tail = view->snapshot ? NULL : &p->tail,
        .kept = op->kept,
        .last_index = op->last_index,
        .failure = &op->failure,
    };
}

enum status partition_slot_load(const struct store_view *view, struct arena *arena, uint16_t slot, struct slot_record *out)
{
    struct key k;
    struct slice row;
    key_slot(&k, slot);
    enum status st = store_get(view, key_slice(&k), arena, &row);
    if (st == STATUS_ABSENT) return *out = (struct slot_record){0}, STATUS_OK;
    return st ? st : slot_record_decode(row, out);
}

/* The seqs that a reader has missed: behind[slot] + 1 to the first one kept. */
struct missing {
    char text[FEED_MISSING_TOLD * FEED_MISSING_BYTES_MAX];
    size_t len;
    unsigned slots;
};
static void missing_add(struct missing *m, uint16_t slot, int64_t from, int64_t to)
{
    if (m->slots++ < FEED_MISSING_TOLD)
        m->len += (size_t)snprintf(m->text + m->len, sizeof m->text - m->len, "%s%u:%lld-%lld", m->len ? "," : "", slot, (long long)from, (long long)to);
}
static enum status missing_fail(const struct missing *m, struct failure *f)
{
    failure_meta(f, "missing", "%s", m->text);
    failure_meta(f, "missing_slots", "%u", m->slots);
    return failure_set(f, STATUS_CURSOR_EXPIRED, "events of %u slots behind this cursor are no longer kept: %s%s", m->slots, m->text, m->slots > FEED_MISSING_TOLD ? ", ..." : "");
}

struct slots {
    uint16_t first, last;
};
static struct slots slots_of(const struct partition *p, const struct op *op)
{
    uint32_t n = p->engine->config.partition_count;
    bool one = op->kind == OP_FEED_SEEK ? op->seek.one_slot : op->feed.user_id.len > 0;
    return one ? (struct slots){op->slot, op->slot} : (struct slots){partition_first_slot(p->id, n), partition_last_slot(p->id, n)};
}

/* Where one slot's reader begins: *behind is what is behind it; its next event is at *place or behind it (UINT64_MAX: there is none yet). */
static enum status seek_slot(const struct feed_read *f, const struct feed_seek *s, const struct feed_record *from, uint16_t slot, int64_t *behind, uint64_t *place, struct missing *m)
{
    struct slot_record record;
    int64_t next;
    bool told = s->from == FEED_CURSOR && *behind >= 0;
    enum status st = partition_slot_load(&f->view, f->arena, slot, &record);
    if (st) return st;
    if (s->from == FEED_LATEST) next = record.last_seq + 1;
    else if (told) next = *behind + 1;
    else if (record.last_seq == 0) next = 1;
    else if ((st = feed_first_kept(&f->view, f->arena, slot, record.last_seq, &record.places, from, &next))) return st;
    if (next > record.last_seq + 1) {
        failure_meta(f->failure, "slot", "%u", slot);
        return failure_set(f->failure, STATUS_CURSOR_INVALID, "the cursor is at event %u:%lld, which has not happened: it is of another history", slot, (long long)next - 1);
    }
    *behind = next - 1;
    *place = UINT64_MAX;
    if (next > record.last_seq) return STATUS_OK;
    if (!told) return *place = from->first_place, STATUS_OK; /* at or in front of it: exact would be one more read of the store for each slot */
    st = feed_place(&f->view, f->arena, slot, next, record.last_seq, &record.places, &f->kept, place);
    if (st != STATUS_ABSENT) return st;
    int64_t first;
    if ((st = feed_first_kept(&f->view, f->arena, slot, record.last_seq, &record.places, &f->kept, &first))) return st;
    if (!f->kept.first_place) return *behind = first - 1, *place = 0, STATUS_OK; /* nothing was ever let go: those commits are of before there were events */
    missing_add(m, slot, next, first - 1);
    return STATUS_OK;
}

/* Everything, where nothing was ever let go, begins in front of the first event of each slot: known without a look at thousands of slots. */
static bool seek_all(const struct feed_read *f, struct slots slots, struct feed_seek *s)
{
    if (s->from != FEED_EARLIEST || !s->loose || s->one_slot || f->kept.first_place) return false;
    for (uint32_t slot = slots.first; slot <= slots.last; slot++) s->behind[slot] = 0;
    s->at = (struct feed_position){0};
    return true;
}

static enum status seek(const struct feed_read *f, struct slots slots, struct feed_seek *s)
{
    struct feed_record from = f->kept;
    struct missing missing = {0};
    struct arena scratch;
    enum status st = STATUS_OK;
    if (s->from == FEED_TIME) {
        struct feed_position at;
        if ((st = feed_seek_time(f, s->time_us, &at))) return st;
        from.first_place = MAX_OF(at.index, from.first_place);
    }
    arena_init(&scratch, 64 * KIB);
    struct feed_read quiet = *f;
    quiet.arena = &scratch;
    s->at = (struct feed_position){.index = f->last_index + 1};
    for (uint32_t slot = slots.first; slot <= slots.last && !st; slot++) {
        uint64_t place = UINT64_MAX;
        arena_reset(&scratch);
        st = seek_slot(&quiet, s, &from, (uint16_t)slot, &s->behind[slot], &place, &missing);
        s->at.index = MIN_OF(s->at.index, place);
    }
    arena_fini(&scratch);
    if (!st && missing.slots) st = missing_fail(&missing, f->failure);
    return st;
}

/* The place of the user's slot's next event; *more false: there is none. */
static enum status next_place(const struct feed_read *f, const struct op *op, const struct slot_record *record, uint64_t *place, bool *more)
{
    struct arena scratch;
    int64_t behind = op->feed.behind[op->slot];
    if (!(*more = behind < record->last_seq)) return STATUS_OK;
    arena_init(&scratch, 64 * KIB);
    enum status st = feed_place(&f->view, &scratch, op->slot, behind + 1, record->last_seq, &record->places, &f->kept, place);
    arena_fini(&scratch);
    return st == STATUS_ABSENT ? STATUS_CURSOR_EXPIRED : st;
}

/* One user's events: from place to place of the slot, so that a partition's stream is not read for one of its users. What is looked at in vain takes nothing of the op's arena. */
static enum status read_slot(const struct feed_read *f, struct op *op)
{
    struct feed_request *r = &op->feed;
    struct slot_record record;
    enum status st = partition_slot_load(&f->view, f->arena, op->slot, &record);
    uint64_t place;
    bool more;
    if (st || (st = next_place(f, op, &record, &place, &more))) return st;
    if (!more) return r->events = 0, r->at_end = true, STATUS_OK;
    r->at = (struct feed_position){.index = place};
    if (f->tail && f->tail->complete_from && place >= f->tail->complete_from) return feed_read(f, r, &op->answer);
    if (f->view.cached_only) return STATUS_WOULD_BLOCK;
    /* Entry by entry, until one had something for this user, or enough were looked at. */
    struct feed_read one = *f;
    for (unsigned n = 0; n < SLOT_READ_EVENTS_MAX; n++) {
        one.last_index = place;
        r->at = (struct feed_position){.index = place};
        st = feed_read(&one, r, &op->answer);
        if (st || r->events) return r->at_end = false, st;
        if ((st = next_place(f, op, &record, &place, &more))) return st;
        if (!more) return r->at_end = true, STATUS_OK;
    }
    return r->at_end = false, STATUS_OK;
}

/* A reader was overtaken by retention: which events it has missed. None, if it stood behind the last event of what was let go: then it goes on from the next one. */
static enum status overtaken(const struct feed_read *f, struct slots slots, struct op *op)
{
    struct feed_request *r = &op->feed;
    struct feed_seek s = {.from = FEED_CURSOR, .behind = r->behind};
    if (r->behind) {
        enum status st = seek(f, slots, &s);
        if (st) return st;
        r->at = s.at;
        if (!r->user_id.len) return feed_read(f, r, &op->answer);
    }
    return failure_set(f->failure, STATUS_CURSOR_EXPIRED, "events behind this cursor are no longer kept");
}

enum status partition_feed_run(struct partition *p, struct op *op, const struct store_view *view)
{
    if (!view->snapshot) { /* what a reader thread sees is of this moment */
        op->last_index = p->record.applied_index;
        op->kept = p->kept;
    }
    struct feed_read f = read_of(p, op, view);
    if (op->kind == OP_FEED_SEEK && seek_all(&f, slots_of(p, op), &op->seek)) return STATUS_OK;
    if (op->kind == OP_FEED_SEEK) return view->cached_only ? STATUS_WOULD_BLOCK : seek(&f, slots_of(p, op), &op->seek);
    enum status st = op->feed.user_id.len ? read_slot(&f, op) : feed_read(&f, &op->feed, &op->answer);
    if (st != STATUS_CURSOR_EXPIRED) return st;
    return view->cached_only ? STATUS_WOULD_BLOCK : overtaken(&f, slots_of(p, op), op);
}

/* ---- waiting */

bool partition_feed_waits(struct partition *p, struct op *op)
{
    struct engine *e = p->engine;
    if (op->kind != OP_FEED_READ || op->failure.status || op->feed.events || !op->feed.at_end) return false;
    if (e->draining || op->wait_until_ns <= e->now_ns) return false;
    arena_reset(op->arena);
    failure_init(&op->failure, op->arena);
    list_push_back(&p->feed_waiters, &op->link);
    return true;
}

static void waiters_again(struct partition *p, bool (*due)(const struct partition *p, const struct op *op))
{
    struct list all;
    list_init(&all);
    list_splice_back(&all, &p->feed_waiters);
    for (struct list *l; (l = list_pop_front(&all));) {
        struct op *op = list_entry(l, struct op, link);
        if (!due(p, op)) list_push_back(&p->feed_waiters, l);
        else if (op->wait_until_ns <= p->engine->now_ns || p->engine->draining) engine_finish(p->engine, op);
        else partition_read_again(p, op);
    }
}

static bool has_more(const struct partition *p, const struct op *op) { return op->last_index < p->record.applied_index; }
static bool is_over(const struct partition *p, const struct op *op) { return op->wait_until_ns <= p->engine->now_ns || p->engine->draining; }

void partition_feed_applied(struct partition *p)
{
    if (!list_empty(&p->feed_waiters)) waiters_again(p, has_more);
}

/* ---- retention */

static void retention_read(struct retention *r, struct feed_read *f, const struct store_view *view)
{
    *f = (struct feed_read){.view = *view, .arena = &r->arena, .kept = r->kept, .last_index = r->last_index};
}

/* The entry from which on the events take at most bytes_max, by the tables' own estimate. */
static uint64_t first_by_size(const struct retention *r, struct store *store)
{
    struct key upper, lower;
    uint64_t low = r->kept.first_place, high = r->last_index + 1;
    key_events(&upper, r->last_index + 1, 0);
    for (int i = 0; i < RETENTION_STEPS && low < high; i++) {
        uint64_t middle = low + (high - low) / 2;
        key_events(&lower, middle, 0);
        if (store_range_bytes(store, key_slice(&lower), key_slice(&upper)) > r->bytes_max) low = middle + 1;
        else high = middle;
    }
    return high;
}

static void retention_run(struct env_job *job)
{
    struct retention *r = container_of(job, struct retention, job);
    struct store *store = r->partition->store;
    struct store_view view = {.store = store, .snapshot = r->snapshot};
    struct feed_read f;
    struct feed_position by_age = {0};
    struct feed_record oldest = {0};
    retention_read(r, &f, &view);
    r->status = r->oldest_us ? feed_seek_time(&f, r->oldest_us, &by_age) : STATUS_OK;
    uint64_t first = MAX_OF(by_age.index, r->kept.first_place);
    if (!r->status && r->bytes_max) first = MAX_OF(first, first_by_size(r, store));
    if (!r->status) r->status = feed_block_from(&f, r->kept.first_place, &oldest);
    if (!r->status) r->status = feed_block_from(&f, first, &r->found);
    if (!r->status && oldest.first_place >= first) r->found = r->kept; /* nothing is to be let go: an idle partition writes nothing */
}

/* A write like any other, of the engine's own. It may be refused, and is then proposed again later. */
static void retain_done(struct op *op)
{
    struct retention *r = op->owner;
    r->proposed = false;
    arena_reset(&r->arena);
}

static void retention_propose(struct partition *p)
{
    struct retention *r = p->retention;
    struct command c = {.type = COMMAND_RETAIN, .retain = {.first_place = r->found.first_place, .first_time_us = r->found.first_time_us}};
    arena_reset(&r->arena);
    struct slice command = command_encode(&c, &r->arena);
    if (!command.data || p->engine->draining) return;
    r->op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(p->id, p->engine->config.partition_count), .arena = &r->arena, .done = retain_done, .owner = r, .command = command};
    r->proposed = true;
    engine_submit(p->engine, &r->op);
}

static void retention_home(struct env_job *job)
{
    struct retention *r = container_of(job, struct retention, job);
    struct partition *p = r->partition;
    store_snapshot_put(p->store, r->snapshot);
    r->away = false;
    p->reads_away--;
    arena_reset(&r->arena);
    if (!r->status && r->found.first_place > p->kept.first_place && p->state == PARTITION_READY) retention_propose(p);
}

static void retention_begin(struct partition *p)
{
    struct engine *e = p->engine;
    struct retention *r = p->retention;
    int64_t now_us = MAX_OF(e->env->ops->wall_us(e->env), (int64_t)p->record.log_time_us);
    uint64_t age_us = e->config.feed_retention_us;
    r->next_ns = e->now_ns + RETENTION_PAUSE_NS;
    if ((!age_us && !e->config.feed_bytes_max) || p->id == PARTITION_META || p->state != PARTITION_READY || e->draining) return;
    r->oldest_us = age_us && (uint64_t)now_us > age_us ? (uint64_t)now_us - age_us : 0;
    r->bytes_max = e->config.feed_bytes_max / e->config.owned_count;
    r->kept = p->kept;
    r->last_index = p->record.applied_index;
    if (!(r->snapshot = store_snapshot_get(p->store))) return;
    r->job = (struct env_job){.run = retention_run, .done = retention_home, .patient = true};
    r->away = true;
    p->reads_away++;
    e->env->ops->offload(e->env, &r->job);
}

void partition_feed_housekeeping(struct partition *p)
{
    struct retention *r = p->retention;
    if (!list_empty(&p->feed_waiters)) waiters_again(p, is_over);
    if (p->engine->now_ns >= r->next_ns && !r->away && !r->proposed && !r->dropping) retention_begin(p);
}

static void drop_run(struct env_job *job)
{
    struct retention *r = container_of(job, struct retention, job);
    struct key lower, upper;
    key_events(&lower, 0, 0);
    key_events(&upper, r->dropped_to, 0);
    store_drop_range(r->partition->store, key_slice(&lower), key_slice(&upper));
}

static void drop_home(struct env_job *job)
{
    struct retention *r = container_of(job, struct retention, job);
    r->dropping = false;
    r->partition->reads_away--;
}

/* Reads that began before the command was applied are done by then, or fail: they hold a place that is no longer kept. */
void partition_feed_flushed(struct partition *p)
{
    struct retention *r = p->retention;
    if (p->flushed_kept.first_time_us) store_set_expiry(p->store, KEY_PLACES, p->flushed_kept.first_time_us - 1);
    if (p->flushed_kept.first_place <= r->dropped_to || r->away || r->dropping) return;
    r->dropped_to = p->flushed_kept.first_place;
    r->dropping = true;
    p->reads_away++;
    r->job = (struct env_job){.run = drop_run, .done = drop_home, .patient = true};
    p->engine->env->ops->offload(p->engine->env, &r->job);
}

bool partition_feed_busy(const struct partition *p) { return p->retention->away || p->retention->proposed || p->retention->dropping; }
