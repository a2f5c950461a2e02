/* What dispatchers have read on reader threads, over a snapshot. Nothing here touches a consumer: what is found is handed over in the dispatcher. */
#include <stdio.h>

#include "engine/partition_group.h"

static struct feed_read read_of(struct dispatcher *d, struct arena *arena)
{
    return (struct feed_read){
        .view = {.store = d->partition->store, .snapshot = d->snapshot},
        .machines = d->partition->engine->config.machines,
        .arena = arena,
        .kept = d->kept,
        .last_index = d->last_index,
    };
}

/* ---- LOAD: the group's rows, and where its unsettled events begin */

static enum status load_row(const struct feed_read *f, struct dispatcher *d)
{
    struct key k;
    struct slice bytes;
    key_group(&k, d->group_id);
    enum status st = d->group_id ? store_get(&f->view, key_slice(&k), f->arena, &bytes) : STATUS_ABSENT;
    if (!st) st = consumer_group_row_decode(bytes, &d->row);
    if (st) return st;
    d->row.group_id = d->group_id;
    if (d->row.flags & CONSUMER_REMOVING) return STATUS_ABSENT;
    key_progress(&k, d->group_id);
    struct consumer_progress none = d->progress = (struct consumer_progress){.epoch = d->row.epoch, .scanning = d->row.flags & CONSUMER_SNAPSHOT};
    st = store_get(&f->view, key_slice(&k), f->arena, &bytes);
    if (!st) st = consumer_progress_decode(bytes, &d->progress);
    if (st == STATUS_ABSENT || (!st && d->progress.epoch != d->row.epoch)) return d->progress = none, STATUS_OK;
    return st;
}

static enum status load_position(const struct feed_read *f, uint32_t group_id, uint64_t epoch, uint16_t slot, struct consumer_position *p)
{
    struct key k;
    struct slice bytes;
    key_position(&k, slot, group_id);
    *p = (struct consumer_position){.epoch = epoch};
    enum status st = store_get(&f->view, key_slice(&k), f->arena, &bytes);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    st = consumer_position_decode(bytes, f->arena, p);
    if (!st && p->epoch != epoch) *p = (struct consumer_position){.epoch = epoch, .letters = p->letters};
    return st;
}

static int64_t first_unsettled(const struct consumer_position *p) { return p->count ? p->listed[0].seq : p->through + 1; }

static void missing_add(struct dispatcher *d, uint16_t slot, int64_t from, int64_t to)
{
    size_t len = strlen(d->missing);
    if (d->missing_slots++ < 20) snprintf(d->missing + len, sizeof d->missing - len, "%s%u:%lld-%lld", len ? "," : "", slot, (long long)from, (long long)to);
}

/* Where the slot's first unsettled event lies (UINT64_MAX: there is none yet), and what of it is no longer kept. `bound`: everything in front of that place is settled, or none of
 * the group's. */
static enum status begin_slot(const struct feed_read *f, struct dispatcher *d, uint16_t slot, const struct consumer_position *p, uint64_t bound, uint64_t *place)
{
    struct slot_record record;
    int64_t first, next = first_unsettled(p);
    uint64_t before;
    *place = UINT64_MAX;
    enum status st = partition_slot_load(&f->view, f->arena, slot, &record);
    if (st || next > record.last_seq) return st;
    st = feed_place(&f->view, f->arena, slot, next, record.last_seq, &record.places, &f->kept, place);
    if (st != STATUS_ABSENT) return st;
    if ((st = feed_first_kept(&f->view, f->arena, slot, record.last_seq, &record.places, &f->kept, &first))) return st;
    *place = UINT64_MAX;
    if (first <= record.last_seq && (st = feed_place(&f->view, f->arena, slot, first, record.last_seq, &record.places, &f->kept, place))) return st;
    if (bound >= f->kept.first_place || first <= next) return STATUS_OK;
    /* Of the events that are gone, those in front of the bound were none of the group's. Whoever's place is not known any more counts as missing: never a silent gap. */
    struct feed_record all = {0}, from = {.first_place = bound};
    st = feed_place(&f->view, f->arena, slot, first - 1, record.last_seq, &record.places, &all, &before);
    if (st && st != STATUS_ABSENT) return st;
    if (!st && before < bound) return STATUS_OK;
    int64_t begin = first - 1;
    if (!st && (st = feed_first_kept(&f->view, f->arena, slot, record.last_seq, &record.places, &from, &begin))) return st;
    missing_add(d, slot, MAX_OF(next, MIN_OF(begin, first - 1)), first - 1);
    return STATUS_OK;
}

static enum status load_slots(const struct feed_read *f, struct dispatcher *d, struct arena *scratch)
{
    struct consumer_config config = dispatcher_config(d->partition);
    uint64_t bound = MAX_OF(d->row.start_place, d->progress.settled_place), first = f->last_index + 1;
    bool look = !d->progress.settled_place || bound < f->kept.first_place;
    uint32_t n = config.last_slot - config.first_slot + 1u;
    enum status st = STATUS_OK;
    d->positions = arena_zalloc(&d->known, n * sizeof *d->positions);
    if (!d->positions) return STATUS_MEMORY_LIMIT;
    struct feed_read own = *f, quick = *f;
    own.arena = &d->known;
    quick.arena = scratch;
    for (uint32_t i = 0; i < n && !st; i++) {
        uint64_t place = UINT64_MAX;
        uint16_t slot = (uint16_t)(config.first_slot + i);
        arena_reset(scratch);
        st = load_position(&own, d->group_id, d->row.epoch, slot, &d->positions[i]);
        bool told = !(d->row.flags & CONSUMER_SNAPSHOT) || consumer_scan_through(&d->progress.scan, slot); /* else its events are in the orders that it will be told */
        if (!st && look && told) st = begin_slot(&quick, d, slot, &d->positions[i], bound, &place);
        first = MIN_OF(first, place);
    }
    d->start_index = look ? MAX_OF(first, bound) : bound;
    return st;
}

static enum status run_load(struct dispatcher *d)
{
    struct feed_read f = read_of(d, &d->known);
    struct arena scratch;
    struct feed_position at = {0};
    d->missing[0] = d->message[0] = 0;
    d->missing_slots = 0;
    arena_reset(&d->known);
    enum status st = load_row(&f, d);
    if (st) return st;
    struct consumer_definition definition;
    st = consumer_definition_decode(d->row.definition, &definition);
    if (st) return st;
    arena_init(&scratch, 64 * KIB);
    st = load_slots(&f, d, &scratch);
    arena_fini(&scratch);
    if (!st) st = dispatcher_told_load(&f, d, definition.ordering);
    if (!st && d->row.start_us && !(d->row.flags & CONSUMER_SNAPSHOT)) st = feed_seek_time(&f, d->row.start_us, &at);
    if (st) return st;
    d->start_index = MAX_OF(MAX_OF(d->start_index, at.index), d->kept.first_place);
    if (!d->missing_slots) return STATUS_OK;
    snprintf(d->message, sizeof d->message, "events of %u slots were let go before the group had settled them: %s%s", d->missing_slots, d->missing, d->missing_slots > 20 ? ", ..." : "");
    return STATUS_CURSOR_EXPIRED;
}

/* ---- BLOCKS: a run of the stream */

static enum status run_blocks(struct dispatcher *d)
{
    enum { BLOCKS_MAX = 256 };
    struct feed_position at = d->blocks_at;
    struct store_view view = {.store = d->partition->store, .snapshot = d->snapshot, .bulk = true};
    struct key lower, upper;
    size_t bytes = 0;
    arena_reset(&d->blocks_arena);
    d->block_count = d->block_next = 0;
    d->blocks_end = d->last_index + 1;
    d->blocks = arena_array(&d->blocks_arena, struct dispatcher_block, (size_t)BLOCKS_MAX);
    if (!d->blocks) return STATUS_MEMORY_LIMIT;
    key_events(&lower, at.index, (uint16_t)MIN_OF(at.block, (uint32_t)UINT16_MAX));
    key_events(&upper, d->last_index + 1, 0);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    enum status st = STATUS_OK;
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
        struct dispatcher_block *b = &d->blocks[d->block_count];
        uint64_t index;
        uint16_t block;
        key_events_place(store_iter_key(it), &index, &block);
        if (d->block_count == BLOCKS_MAX || bytes >= DISPATCH_BLOCKS_BYTES) {
            d->blocks_end = 0; /* the last of them is not the last there is */
            break;
        }
        b->index = index, b->block = block;
        b->row = arena_copy(&d->blocks_arena, store_iter_value(it));
        if (!b->row.data) st = STATUS_MEMORY_LIMIT;
        bytes += b->row.len;
        d->block_count += !st;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

/* ---- EVENTS: by place, or by letter */

struct walk { /* the block that was opened last: what is wanted comes mostly in order */
    uint64_t index;
    uint16_t block;
    bool open;
    struct slice row;
    struct event_reader reader;
    uint32_t next;
};

static enum status find_event(const struct feed_read *f, struct walk *w, const struct consumer_wanted *x, struct event_view *e)
{
    struct key k;
    enum status st = STATUS_OK;
    if (!w->open || w->index != x->index || w->block != x->block) {
        key_events(&k, x->index, x->block);
        st = store_get(&f->view, key_slice(&k), f->arena, &w->row);
        if (st) return st == STATUS_ABSENT ? STATUS_CURSOR_EXPIRED : st;
        w->index = x->index, w->block = x->block;
        w->open = true;
        w->next = UINT32_MAX;
    }
    if (x->number < w->next || w->next == UINT32_MAX) {
        if ((st = event_block_open(w->row, &w->reader))) return st;
        w->next = 0;
    }
    while (event_next(&w->reader, e, &st))
        if (w->next++ == x->number) return e->slot == x->slot && e->seq == x->seq ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
    return st ? st : STATUS_CHECKSUM_MISMATCH;
}

static enum status read_letter(const struct feed_read *f, uint32_t group_id, struct consumer_wanted *x)
{
    struct key k;
    struct slice row;
    struct consumer_letter l;
    key_letter(&k, x->slot, group_id, x->seq);
    enum status st = store_get(&f->view, key_slice(&k), f->arena, &row);
    if (!st) st = consumer_letter_decode(row, &l);
    if (st) return st;
    x->bytes = (struct consumer_bytes){l.event, l.base, l.brief};
    return STATUS_OK;
}

static enum status read_event(const struct feed_read *f, const struct filter *filter, struct walk *w, struct consumer_wanted *x)
{
    struct event_view e;
    bool told = x->flags & ENTRY_TOLD;
    enum status st = told ? dispatcher_told_read(f, x) : find_event(f, w, x, &e);
    if (!st && !told) st = feed_whole(f, &e, &x->bytes.framed, &x->bytes.brief);
    if (st) return st;
    if (!told) x->bytes.base = (uint32_t)e.base.len;
    if (!filter || !(x->flags & ENTRY_UNSEEN)) return STATUS_OK;
    struct reader r = reader_of(x->bytes.framed);
    (void)read_u8(&r);
    return filter_match(filter, read_counted(&r)) ? STATUS_OK : STATUS_ABSENT;
}

enum status dispatcher_event_read(const struct feed_read *f, uint32_t group_id, struct consumer_wanted *x)
{
    struct walk w = {0};
    return x->flags & ENTRY_LETTER ? read_letter(f, group_id, x) : read_event(f, NULL, &w, x);
}

static enum status run_events(struct dispatcher *d)
{
    struct feed_read f = read_of(d, &d->events_arena);
    struct walk w = {0};
    size_t bytes = 0;
    arena_reset(&d->events_arena);
    for (unsigned i = 0; i < d->wanted_count; i++) {
        struct consumer_wanted *x = &d->wanted[i];
        x->status = bytes >= DISPATCH_WANTED_BYTES ? STATUS_WOULD_BLOCK : x->flags & ENTRY_LETTER ? read_letter(&f, d->group_id, x) : read_event(&f, d->consumer.filter, &w, x);
        if (x->status == STATUS_OK) bytes += x->bytes.framed.len;
        if (x->status == STATUS_MEMORY_LIMIT && i) x->status = STATUS_WOULD_BLOCK; /* fewer at once */
        if (x->status && x->status != STATUS_ABSENT && x->status != STATUS_WOULD_BLOCK) return x->status;
    }
    return STATUS_OK;
}

/* ---- LETTERS: which may be given out again, and which keys wait behind letters */

enum { SLOT_LETTERS_KEYS_MAX = 4096 };

struct slot_letters { /* of one slot: keys with a letter that parks */
    struct consumer_parked keys[SLOT_LETTERS_KEYS_MAX];
    unsigned count;
};

static struct consumer_parked *key_among(struct slot_letters *s, uint64_t key, bool make)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->keys[i].hash == key) return &s->keys[i];
    if (!make || s->count == SLOT_LETTERS_KEYS_MAX) return NULL;
    s->keys[s->count] = (struct consumer_parked){.hash = key};
    return &s->keys[s->count++];
}

/* What says of a slot's letters whether they yield to their events (CONSUMER_YIELD). */
struct slot_yield {
    bool some; /* they may */
    struct arena arena, scratch; /* of the position; of one look-up */
    struct slot_record record;
    struct consumer_position position;
};

static enum status yield_load(struct dispatcher *d, const struct feed_read *f, uint16_t slot, struct slot_yield *y)
{
    struct feed_read own = *f;
    own.arena = &y->arena;
    y->some = d->row.flags & CONSUMER_YIELD;
    arena_reset(&y->arena);
    enum status st = y->some ? partition_slot_load(&own.view, own.arena, slot, &y->record) : STATUS_OK;
    return st || !y->some ? st : load_position(&own, d->group_id, d->row.epoch, slot, &y->position);
}

static enum status yields(const struct feed_read *f, struct slot_yield *y, uint16_t slot, int64_t seq, const struct consumer_letter *l, bool *does)
{
    uint64_t place;
    *does = false;
    if (!y->some || l->state == LETTER_DEAD || consumer_position_settled(&y->position, seq)) return STATUS_OK;
    arena_reset(&y->scratch);
    enum status st = feed_place(&f->view, &y->scratch, slot, seq, y->record.last_seq, &y->record.places, &f->kept, &place);
    *does = st == STATUS_OK;
    return st == STATUS_ABSENT ? STATUS_OK : st; /* it was let go, and will not come */
}

/* Twice over a slot's letters: what parks; then what goes out, and what else there is of the keys that are parked. */
static enum status scan_slot(struct dispatcher *d, const struct feed_read *f, uint16_t slot, struct slot_letters *s, struct slot_yield *y)
{
    struct key lower, upper;
    enum status st = yield_load(d, f, slot, y);
    s->count = 0;
    key_letter_prefix(&lower, slot, d->group_id);
    upper = lower;
    key_after_prefix(&upper);
    for (int pass = 0; pass < 2 && !st; pass++) {
        struct store_iter *it = store_iter_open(&f->view, key_slice(&lower), key_slice(&upper));
        for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
            struct consumer_letter l;
            int64_t seq = key_letter_seq(store_iter_key(it));
            bool does;
            if ((st = consumer_letter_decode(store_iter_value(it), &l)) || (st = yields(f, y, slot, seq, &l, &does))) break;
            if (does) continue;
            if (pass == 0) {
                struct consumer_parked *k = l.parks || l.state == LETTER_WAITING ? key_among(s, l.key, true) : NULL;
                if (k) k->dead += l.state == LETTER_DEAD;
                continue;
            }
            struct consumer_parked *k = key_among(s, l.key, false);
            bool goes = l.state == LETTER_REDRIVEN || (l.state == LETTER_WAITING && !(k && k->dead));
            if (k) k->rest += l.state != LETTER_DEAD;
            if (!goes || (slot == d->letters_from.slot && event_rank(seq) <= event_rank(d->letters_from.seq))) continue;
            if (d->letter_count == d->letters_max) {
                d->letters_more = true;
                continue;
            }
            d->letters[d->letter_count++] = (struct dispatcher_letter){slot, seq, l.key, l.attempts};
            d->letters_to = (struct consumer_letter_ref){slot, seq};
        }
        if (!st) st = store_iter_status(it);
        store_iter_close(it);
    }
    return st;
}

static enum status run_letters(struct dispatcher *d)
{
    struct feed_read f = read_of(d, &d->letters_arena);
    struct slot_letters *s = arena_alloc(&d->letters_arena, sizeof *s);
    d->letters = arena_array(&d->letters_arena, struct dispatcher_letter, (size_t)CONSUMER_LETTERS_LOADED_MAX);
    d->parked = arena_array(&d->letters_arena, struct consumer_parked, (size_t)CONSUMER_PARKED_MAX);
    d->letter_count = d->parked_count = 0;
    d->letters_more = false;
    d->letters_to = d->letters_from;
    if (!s || !d->letters || !d->parked) return STATUS_MEMORY_LIMIT;
    struct slot_yield y;
    arena_init(&y.arena, 2 * MIB);
    arena_init(&y.scratch, 64 * KIB);
    enum status st = STATUS_OK;
    for (unsigned i = 0; i < d->letter_slot_count && !st; i++) {
        uint16_t slot = d->letter_slots[i];
        if (!d->letters_whole && (slot < d->letters_from.slot || d->letters_more)) continue;
        st = scan_slot(d, &f, slot, s, &y);
        for (unsigned k = 0; k < s->count && d->parked_count < CONSUMER_PARKED_MAX; k++) d->parked[d->parked_count++] = s->keys[k];
    }
    arena_fini(&y.arena);
    arena_fini(&y.scratch);
    return st;
}

static enum status run_orders(struct dispatcher *d)
{
    struct feed_read f = read_of(d, &d->orders.arena);
    return dispatcher_orders_read(&f, d);
}

void dispatcher_job_run(struct env_job *job)
{
    struct dispatcher *d = container_of(job, struct dispatcher, job);
    switch (d->kind) {
    case JOB_LOAD: d->job_status = run_load(d); break;
    case JOB_BLOCKS: d->job_status = run_blocks(d); break;
    case JOB_EVENTS: d->job_status = run_events(d); break;
    case JOB_LETTERS: d->job_status = run_letters(d); break;
    case JOB_ORDERS: d->job_status = run_orders(d); break;
    }
}
