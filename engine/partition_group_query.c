/* What is asked about a group in a partition: lag, dead letters, positions; and which groups it knows. Over rows alone, on a reader thread; a lag has beside them what only the
 * dispatcher knows. */
#include "engine/partition_group_blocked.h"
#include "engine/consumer_seek.h"
#include "engine/partition_group_count.h"
#include "proto/pbwire.h"

enum { LETTERS_LOOKED_AT_MAX = 4096, LETTERS_ANSWER_BYTES = 1 << 20, FIELD_LETTERS = 1 };

struct query_of {
    struct partition *partition;
    struct feed_read feed;       /* arena: scratch */
    struct arena *arena;         /* the op's */
    struct consumer_group_row row;
    struct consumer_progress progress;
    uint64_t begin_place;        /* events in front of it are none of the group's */
    uint64_t orders_left;        /* that a snapshot has not told */
    const struct filter *filter; /* NULL: everything is wanted */
    struct consumer_looked_at looked_at;
};

static enum status load_filter(struct query_of *q)
{
    struct consumer_definition d;
    struct failure f;
    failure_init(&f, q->arena);
    enum status st = consumer_definition_decode(q->row.definition, &d);
    if (!st && d.filter.len) st = filter_parse(&q->filter, d.filter, &filter_events, "group.filter", q->arena, &f);
    if (q->filter && filter_is_empty(q->filter)) q->filter = NULL;
    return st;
}

static enum status query_begin(struct query_of *q, struct partition *p, struct op *op, const struct store_view *view, struct arena *scratch, uint32_t group_id)
{
    struct key k;
    struct slice bytes;
    struct feed_position at = {0};
    *q = (struct query_of){.partition = p, .arena = op->arena};
    q->feed = (struct feed_read){.view = *view, .machines = p->engine->config.machines, .arena = scratch, .kept = op->group_kept, .last_index = op->group_last_index, .failure = &op->failure};
    key_group(&k, group_id);
    enum status st = group_id ? store_get(view, key_slice(&k), op->arena, &bytes) : STATUS_ABSENT;
    if (!st) st = consumer_group_row_decode(bytes, &q->row);
    if (!st && q->row.flags & CONSUMER_REMOVING) st = STATUS_ABSENT;
    if (st == STATUS_ABSENT) return failure_set(&op->failure, STATUS_GROUP_NOT_FOUND, "there is no such consumer group");
    if (!st && q->row.start_us && !(q->row.flags & CONSUMER_SNAPSHOT)) st = feed_seek_time(&q->feed, q->row.start_us, &at);
    if (st) return st;
    q->row.group_id = group_id;
    q->begin_place = MAX_OF(MAX_OF(q->row.start_place, at.index), q->feed.kept.first_place);
    key_progress(&k, group_id);
    st = store_get(view, key_slice(&k), scratch, &bytes);
    if (!st) st = consumer_progress_decode(bytes, &q->progress);
    if (st && st != STATUS_ABSENT) return st;
    if (st || q->progress.epoch != q->row.epoch) q->progress = (struct consumer_progress){.scanning = q->row.flags & CONSUMER_SNAPSHOT};
    if (q->progress.scanning && !consumer_scan_over(&q->progress.scan)) q->orders_left = op->group_orders > q->progress.told ? op->group_orders - q->progress.told : 0;
    q->begin_place = MAX_OF(q->begin_place, q->progress.settled_place);
    return STATUS_OK;
}

static enum status position_of(struct query_of *q, uint16_t slot, struct consumer_position *p)
{
    struct key k;
    struct slice bytes;
    key_position(&k, slot, q->row.group_id);
    *p = (struct consumer_position){.epoch = q->row.epoch};
    enum status st = store_get(&q->feed.view, key_slice(&k), q->feed.arena, &bytes);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    st = consumer_position_decode(bytes, q->feed.arena, p);
    if (!st && p->epoch != q->row.epoch) *p = (struct consumer_position){.epoch = q->row.epoch, .letters = p->letters};
    return st;
}

/* A slot as the group sees it: everything up to `begin` - 1 is behind it; of what follows, what `position` says. */
struct slot_view {
    struct slot_record record;
    struct consumer_position position;
    int64_t begin;
};

static enum status slot_load(struct query_of *q, uint16_t slot, struct slot_view *v)
{
    enum status st = partition_slot_load(&q->feed.view, q->feed.arena, slot, &v->record);
    if (!st) st = position_of(q, slot, &v->position);
    if (st) return st;
    int64_t next = v->position.count ? v->position.listed[0].seq : v->position.through + 1;
    v->begin = v->record.last_seq + 1;
    if (next > v->record.last_seq || (q->progress.scanning && !consumer_scan_through(&q->progress.scan, slot))) return STATUS_OK; /* or all of it is in orders that it will be told */
    struct feed_record from = {.first_place = q->begin_place};
    st = feed_first_kept(&q->feed.view, q->feed.arena, slot, v->record.last_seq, &v->record.places, &from, &v->begin);
    v->begin = MAX_OF(v->begin, next);
    return st;
}

static enum status slot_of(struct query_of *q, uint16_t slot, struct slot_view *v)
{
    arena_reset(q->feed.arena);
    return slot_load(q, slot, v);
}

static uint64_t listed_between(const struct consumer_position *p, int64_t from, int64_t to)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < p->count; i++) n += p->listed[i].seq >= from && p->listed[i].seq <= to;
    return n;
}

/* Events in [from, to] that are not settled. */
static uint64_t unsettled_between(const struct slot_view *v, int64_t from, int64_t to)
{
    const struct consumer_position *p = &v->position;
    from = MAX_OF(from, v->begin);
    to = MIN_OF(to, v->record.last_seq);
    if (from > to) return 0;
    uint64_t above = to > p->through ? (uint64_t)(to - MAX_OF(from - 1, p->through)) : 0;
    return above + listed_between(p, from, MIN_OF(to, p->through));
}

/* ---- asking the filter */

enum { ASKED_BYTES_MAX = 64 << 20 };
struct asking {
    struct query_of own;    /* its arena keeps the slots that the walk has met */
    struct arena arena;
    const int64_t *target;  /* of a seek; NULL: of a lag */
    struct asked_slot {
        bool met;
        int64_t begin, target;
        struct consumer_position position;
    } *slots;
    uint16_t first_slot;
};

static bool is_unsettled(const struct asked_slot *s, int64_t seq) { return seq >= s->begin && !consumer_position_settled(&s->position, seq); }

static enum status meet(struct asking *a, uint16_t slot, struct asked_slot *s)
{
    struct slot_view v;
    enum status st = slot_load(&a->own, slot, &v);
    if (st) return st;
    *s = (struct asked_slot){.met = true, .begin = v.begin, .position = v.position};
    if (a->target) s->target = a->target[slot];
    return STATUS_OK;
}

static enum status kind_of(void *asker, uint16_t slot, int64_t seq, enum group_kind *kind)
{
    struct asking *a = asker;
    struct asked_slot *s = &a->slots[slot - a->first_slot];
    enum status st = s->met ? STATUS_OK : meet(a, slot, s);
    if (st) return st;
    bool unsettled = is_unsettled(s, seq), behind = a->target && seq <= s->target;
    if (!a->target || behind) *kind = unsettled ? GROUP_KIND_UNSETTLED : GROUP_KIND_NONE;
    else *kind = unsettled ? GROUP_KIND_NONE : GROUP_KIND_AGAIN;
    return STATUS_OK;
}

static enum status ask_filter(const struct query_of *q, const int64_t *target, struct group_count *c)
{
    struct consumer_config slots = dispatcher_config(q->partition);
    struct asking a = {.own = *q, .target = target, .first_slot = slots.first_slot};
    arena_init(&a.arena, ASKED_BYTES_MAX);
    a.own.feed.arena = &a.arena;
    a.slots = arena_zalloc(&a.arena, (slots.last_slot - slots.first_slot + 1u) * sizeof *a.slots);
    c->feed = &q->feed;
    c->filter = q->filter;
    c->kind_of = kind_of;
    c->asker = &a;
    enum status st = a.slots ? group_count(c) : STATUS_MEMORY_LIMIT;
    arena_fini(&a.arena);
    return st;
}

/* ---- lag */

static enum status count_letters(struct query_of *q, uint16_t slot, uint64_t *dead)
{
    struct key lower, upper;
    key_letter_prefix(&lower, slot, q->row.group_id);
    upper = lower;
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&q->feed.view, key_slice(&lower), key_slice(&upper));
    enum status st = STATUS_OK;
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
        struct consumer_letter l;
        st = consumer_letter_decode(store_iter_value(it), &l);
        *dead += !st && l.state == LETTER_DEAD;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

/* Events that are not settled of entries from this index on. */
static enum status unsettled_from(struct query_of *q, uint64_t index, uint64_t *n)
{
    struct consumer_config slots = dispatcher_config(q->partition);
    const struct feed_record from = {.first_place = index};
    enum status st = STATUS_OK;
    *n = 0;
    for (uint32_t slot = slots.first_slot; slot <= slots.last_slot && !st; slot++) {
        struct slot_view v;
        int64_t first;
        st = slot_of(q, (uint16_t)slot, &v);
        if (st || v.begin > v.record.last_seq) continue;
        st = feed_first_kept(&q->feed.view, q->feed.arena, (uint16_t)slot, v.record.last_seq, &v.record.places, &from, &first);
        if (!st) *n += unsettled_between(&v, first, v.record.last_seq);
    }
    return st;
}

/* Of a group with a filter: what the dispatcher holds, which it has asked already, and what lies behind that. `oldest`: place of the first that is not settled. */
static enum status lag_wanted(struct query_of *q, uint64_t oldest, struct consumer_lag *out)
{
    const struct consumer_looked_at *seen = &q->looked_at;
    struct group_count c = {.at.index = oldest, .asked_max = out->asked_max};
    struct feed_record rest = {0};
    uint64_t left = 0;
    bool at_work = seen->epoch == q->row.epoch;
    if (at_work && (oldest == UINT64_MAX || seen->index >= oldest)) c.at = (struct feed_position){seen->index, seen->block, seen->event};
    enum status st = ask_filter(q, NULL, &c);
    if (!st && c.rest_index) st = unsettled_from(q, c.rest_index, &left);
    if (!st && left) st = feed_block_from(&q->feed, c.rest_index, &rest);
    if (st) return st;
    out->estimated = left > 0;
    out->events = c.wanted[GROUP_KIND_UNSETTLED] + group_count_estimate(&c, GROUP_KIND_UNSETTLED, left) + (at_work ? seen->events : 0);
    out->oldest_us = at_work && seen->events ? seen->oldest_us : c.first_us ? c.first_us : rest.first_time_us;
    return STATUS_OK;
}

static enum status lag(struct query_of *q, struct consumer_lag *out)
{
    struct consumer_config slots = dispatcher_config(q->partition);
    uint64_t oldest = UINT64_MAX, place;
    enum status st = STATUS_OK;
    out->events = out->dead_letters = out->oldest_us = 0;
    out->estimated = false;
    out->orders_left = q->orders_left;
    for (uint32_t slot = slots.first_slot; slot <= slots.last_slot && !st; slot++) {
        struct slot_view v;
        if ((st = slot_of(q, (uint16_t)slot, &v))) break;
        out->events += unsettled_between(&v, v.begin, v.record.last_seq);
        out->orders_left += v.position.told_count;
        if (v.position.letters) st = count_letters(q, (uint16_t)slot, &out->dead_letters);
        if (st || v.begin > v.record.last_seq) continue;
        st = feed_place(&q->feed.view, q->feed.arena, (uint16_t)slot, v.begin, v.record.last_seq, &v.record.places, &q->feed.kept, &place);
        if (!st) oldest = MIN_OF(oldest, place);
        if (st == STATUS_ABSENT) st = STATUS_OK; /* let go: the next subscriber hears of it */
    }
    struct feed_record at = {0};
    if (!st && !q->filter && oldest != UINT64_MAX) st = feed_block_from(&q->feed, oldest, &at);
    out->oldest_us = at.first_time_us;
    if (!st && q->filter) st = lag_wanted(q, oldest, out);
    out->events += out->orders_left;
    if (out->orders_left && (!out->oldest_us || q->row.start_us < out->oldest_us)) out->oldest_us = q->row.start_us; /* since then they wait to be told */
    return st;
}

/* As it is at the moment of the snapshot that the query is answered from. */
static void look_at_dispatcher(const struct partition *p, uint32_t group_id, struct consumer_looked_at *out)
{
    const struct dispatcher *d = dispatcher_running(p, group_id);
    *out = (struct consumer_looked_at){0};
    if (!d || d->stale) return;
    const struct consumer *c = &d->consumer;
    *out = (struct consumer_looked_at){.epoch = c->epoch, .index = c->at.index, .block = c->at.block, .event = c->at.event, .events = c->unsettled};
    (void)consumer_oldest(c, &out->oldest_us);
}

void partition_group_live(struct partition *p, struct op *op)
{
    op->lag.in_flight = op->lag.blocked_keys = 0;
    op->lag.members = 0;
    const struct dispatcher *d = dispatcher_running(p, op->lag.group_id);
    if (d) {
        op->lag.in_flight = d->consumer.in_flight;
        op->lag.blocked_keys = d->consumer.blocked + d->consumer.parked_count;
        op->lag.members = d->consumer.member_count;
    }
}

/* ---- positions */

/* Of a group with a filter. all: what would be left out and what would come again if everything were wanted; first: the place of the first of either. */
static enum status positions_wanted(struct query_of *q, const uint64_t all[GROUP_KINDS], uint64_t first, struct consumer_positions *out)
{
    struct group_count c = {.at.index = first, .asked_max = out->asked_max};
    uint64_t n[GROUP_KINDS];
    enum status st = first == UINT64_MAX ? STATUS_OK : ask_filter(q, out->target, &c);
    for (int kind = 0; kind < GROUP_KINDS; kind++) {
        uint64_t left = c.rest_index && all[kind] > c.asked[kind] ? all[kind] - c.asked[kind] : 0;
        n[kind] = c.wanted[kind] + group_count_estimate(&c, (enum group_kind)kind, left);
        out->estimated |= left > 0;
    }
    out->skipped = n[GROUP_KIND_UNSETTLED];
    out->redelivered = n[GROUP_KIND_AGAIN];
    return st;
}

/* The place of an event; of one that is let go, where what is kept begins. */
static enum status place_kept(struct query_of *q, uint16_t slot, const struct slot_view *v, int64_t seq, uint64_t *least)
{
    uint64_t place = 0;
    enum status st = feed_place(&q->feed.view, q->feed.arena, slot, seq, v->record.last_seq, &v->record.places, &q->feed.kept, &place);
    if (st == STATUS_ABSENT) place = q->feed.kept.first_place, st = STATUS_OK;
    *least = MIN_OF(*least, place);
    return st;
}

static enum status positions(struct query_of *q, uint64_t op_orders, struct consumer_positions *out)
{
    struct consumer_config slots = dispatcher_config(q->partition);
    enum status st = STATUS_OK;
    out->epoch = q->row.epoch;
    uint64_t all[GROUP_KINDS] = {0}, place = UINT64_MAX;
    out->estimated = false;
    out->orders = op_orders;
    out->orders_left = q->orders_left;
    for (uint32_t slot = slots.first_slot; slot <= slots.last_slot && !st; slot++) {
        struct slot_view v;
        int64_t first;
        if ((st = slot_of(q, (uint16_t)slot, &v))) break;
        out->behind[slot] = v.begin - 1;
        out->orders_left += v.position.told_count;
        if (!out->target || !v.record.last_seq) continue;
        if ((st = feed_first_kept(&q->feed.view, q->feed.arena, (uint16_t)slot, v.record.last_seq, &v.record.places, &q->feed.kept, &first))) break;
        int64_t target = MIN_OF(MAX_OF(out->target[slot], first - 1), v.record.last_seq);
        uint64_t skipped = unsettled_between(&v, 1, target), again = (uint64_t)(v.record.last_seq - target) - unsettled_between(&v, target + 1, v.record.last_seq);
        all[GROUP_KIND_UNSETTLED] += skipped;
        all[GROUP_KIND_AGAIN] += again;
        if (q->filter && skipped) st = place_kept(q, (uint16_t)slot, &v, v.begin, &place);
        if (q->filter && again && !st) st = place_kept(q, (uint16_t)slot, &v, target + 1, &place);
    }
    out->skipped = all[GROUP_KIND_UNSETTLED];
    out->redelivered = all[GROUP_KIND_AGAIN];
    if (!st && q->filter && out->target) st = positions_wanted(q, all, place, out);
    if (out->target) out->skipped += out->orders_left;
    return st;
}

/* ---- letters */

struct letters_out {
    struct writer w;
    unsigned looked_at;
};

static void write_letter(struct writer *w, const struct consumer_letter *l)
{
    struct reader r = reader_of(l->event);
    (void)read_u8(&r);
    struct slice event = read_counted(&r);
    pb_message(w, 1, &event, 1);
    pb_bytes(w, 2, l->error);
    pb_int64(w, 3, l->attempts);
    if (l->time_us) pb_timestamp_us(w, 4, (int64_t)l->time_us);
    pb_bool(w, 5, l->parks || l->state == LETTER_WAITING);
    pb_bool(w, 6, !l->time_us); /* it has not died */
}

static enum status put_letter(struct consumer_letters *r, struct letters_out *o, struct arena *scratch, const struct consumer_letter *l, bool *fits)
{
    *fits = true;
    if (r->refs_only) return STATUS_OK;
    size_t cap = l->event.len + l->error.len + 128;
    arena_reset(scratch);
    uint8_t *data = arena_alloc(scratch, cap);
    if (!data) return STATUS_MEMORY_LIMIT;
    struct writer one = writer_of(data, cap);
    write_letter(&one, l);
    check(!one.full);
    struct slice part = writer_slice(&one);
    if (o->w.len + part.len + 16 > o->w.cap) return *fits = false, STATUS_OK;
    pb_message(&o->w, FIELD_LETTERS, &part, 1);
    return STATUS_OK;
}

static bool letter_wanted(const struct consumer_letters *r, const struct consumer_letter *l)
{
    if (r->dead_only && l->state != LETTER_DEAD) return false;
    if (!r->filter) return true;
    struct reader frame = reader_of(l->event);
    (void)read_u8(&frame);
    return filter_match(r->filter, read_counted(&frame));
}

/* *more false: the page is full. */
static enum status letters_of_slot(struct query_of *q, struct consumer_letters *r, uint16_t slot, struct letters_out *o, bool *more)
{
    struct key lower, upper;
    int64_t after = slot == r->after.slot ? r->after.seq : 0;
    enum status st = STATUS_OK;
    key_letter_behind(&lower, slot, q->row.group_id, after);
    key_letter_prefix(&upper, slot, q->row.group_id);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&q->feed.view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
        struct consumer_letter l;
        bool fits = true;
        if (r->count == r->count_max || o->looked_at == LETTERS_LOOKED_AT_MAX) {
            *more = false;
            break;
        }
        if ((st = consumer_letter_decode(store_iter_value(it), &l))) break;
        bool wanted = letter_wanted(r, &l);
        if (wanted) st = put_letter(r, o, q->feed.arena, &l, &fits);
        if (st || !fits) {
            *more = false;
            break;
        }
        o->looked_at++;
        r->after = (struct consumer_letter_ref){slot, key_letter_seq(store_iter_key(it))};
        if (wanted) r->refs[r->count++] = r->after;
    }
    if (!st && *more) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

/* As letters that they are not (yet). One whose event has gone meanwhile, a letter that was purged, is left out. */
static enum status blocked(struct query_of *q, struct op *op, struct letters_out *o, bool *more)
{
    struct consumer_letters *r = &op->letters;
    const struct consumer_blocked *all = blocked_sorted(op);
    enum status st = all ? STATUS_OK : STATUS_MEMORY_LIMIT;
    for (unsigned i = 0; i < op->group_blocked_count && !st && *more; i++) {
        struct consumer_wanted at = all[i].at;
        bool fits = true;
        if (at.slot < r->after.slot || (at.slot == r->after.slot && event_rank(at.seq) <= event_rank(r->after.seq))) continue;
        if (r->count == r->count_max || o->looked_at == LETTERS_LOOKED_AT_MAX || o->w.len > LETTERS_ANSWER_BYTES) return *more = false, STATUS_OK;
        struct arena own;
        arena_init(&own, 8 * MIB);
        struct feed_read f = q->feed;
        f.arena = &own;
        st = dispatcher_event_read(&f, q->row.group_id, &at);
        const struct consumer_letter l = {.state = LETTER_DEAD, .attempts = all[i].attempts, .parks = true, .error = all[i].error, .event = at.bytes.framed};
        bool wanted = !st && letter_wanted(r, &l);
        if (wanted) st = put_letter(r, o, q->feed.arena, &l, &fits);
        arena_fini(&own);
        if (st == STATUS_ABSENT) st = STATUS_OK;
        if (st || !fits) return *more = false, st;
        o->looked_at++;
        r->after = (struct consumer_letter_ref){at.slot, at.seq};
        if (wanted) r->refs[r->count++] = r->after;
    }
    return st;
}

static enum status letters(struct query_of *q, struct op *op)
{
    struct consumer_letters *r = &op->letters;
    struct consumer_config slots = dispatcher_config(q->partition);
    struct letters_out o = {0};
    enum { ONE_LETTER_BYTES = 4 << 20 };
    check(r->count_max >= 1);
    check(r->count_max <= CONSUMER_LETTERS_PAGE_MAX);
    r->count = 0;
    r->refs = arena_array(op->arena, struct consumer_letter_ref, (size_t)r->count_max);
    size_t cap = r->refs_only ? 0 : LETTERS_ANSWER_BYTES + ONE_LETTER_BYTES;
    uint8_t *data = cap ? arena_alloc(op->arena, cap) : NULL;
    if (!r->refs || (cap && !data)) return STATUS_MEMORY_LIMIT;
    o.w = writer_of(data, cap);
    bool more = true;
    enum status st = STATUS_OK;
    if (r->blocked) st = blocked(q, op, &o, &more);
    for (uint32_t slot = MAX_OF(slots.first_slot, r->after.slot); !r->blocked && slot <= slots.last_slot && !st && more; slot++) {
        struct consumer_position p;
        arena_reset(q->feed.arena);
        st = position_of(q, (uint16_t)slot, &p);
        if (!st && p.letters) st = letters_of_slot(q, r, (uint16_t)slot, &o, &more);
        if (o.w.len > LETTERS_ANSWER_BYTES) more = false;
    }
    r->more = !more;
    op->answer = writer_slice(&o.w);
    return st;
}

/* ---- groups */

static enum status seeks(struct op *op, const struct store_view *view)
{
    struct consumer_groups *g = &op->groups;
    struct key lower, upper;
    enum status st = STATUS_OK;
    key_seek(&lower, 1);
    key_seek(&upper, UINT32_MAX);
    struct store_iter *it = store_iter_open(view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
        struct consumer_seek seek;
        uint32_t group_id = key_group_id(store_iter_key(it));
        st = consumer_seek_row_decode(store_iter_value(it), &seek);
        for (unsigned i = 0; i < g->count && !st; i++)
            if (g->rows[i].group_id == group_id) g->rows[i].seeking_us = seek.begun_us;
        if (st || group_id != g->seek_of) continue;
        g->seek = arena_copy(op->arena, store_iter_value(it));
        if (!g->seek.data) st = STATUS_MEMORY_LIMIT;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

static enum status groups(struct op *op, const struct store_view *view)
{
    struct consumer_groups *g = &op->groups;
    struct key lower, upper;
    enum status st = STATUS_OK;
    g->count = 0;
    g->seek = (struct slice){0};
    g->rows = arena_array(op->arena, struct consumer_group_row, (size_t)2 * CONSUMER_GROUPS_MAX);
    if (!g->rows) return STATUS_MEMORY_LIMIT;
    key_group(&lower, 1);
    key_group(&upper, UINT32_MAX);
    struct store_iter *it = store_iter_open(view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st && g->count < 2 * CONSUMER_GROUPS_MAX; store_iter_next(it)) {
        struct slice row = arena_copy(op->arena, store_iter_value(it));
        struct consumer_group_row *out = &g->rows[g->count];
        if (!row.data) st = STATUS_MEMORY_LIMIT;
        if (!st) st = consumer_group_row_decode(row, out);
        out->group_id = key_group_id(store_iter_key(it));
        g->count += !st && !(out->flags & CONSUMER_REMOVING);
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st ? st : seeks(op, view);
}

/* true: of a small write the partition would say this. */
static bool refuses_writes(struct partition *p, struct op *op)
{
    struct op probe = {.kind = OP_WRITE, .arena = op->arena};
    failure_init(&probe.failure, op->arena);
    if (!partition_admit(p, &probe)) return false;
    failure_move(&op->failure, &probe.failure);
    return true;
}

enum status partition_group_query(struct partition *p, struct op *op, const struct store_view *view)
{
    struct query_of q;
    struct arena scratch;
    if (view->cached_only) {
        op->group_last_index = p->record.applied_index;
        op->group_kept = p->kept;
        op->group_orders = (uint64_t)p->record.order_count;
        if (op->kind == OP_GROUP_POSITIONS && op->positions.writable && refuses_writes(p, op)) return op->failure.status;
        enum status st = op->kind == OP_GROUP_LETTERS && op->letters.blocked ? blocked_gather(p, op) : STATUS_OK;
        if (st) return st;
        if (op->kind == OP_GROUP_LAG) look_at_dispatcher(p, op->lag.group_id, &op->group_looked_at);
        return STATUS_WOULD_BLOCK;
    }
    if (op->kind == OP_GROUPS) return groups(op, view);
    arena_init(&scratch, 8 * MIB);
    uint32_t group_id = op->kind == OP_GROUP_LAG ? op->lag.group_id : op->kind == OP_GROUP_LETTERS ? op->letters.group_id : op->positions.group_id;
    enum status st = query_begin(&q, p, op, view, &scratch, group_id);
    q.looked_at = op->group_looked_at;
    if (!st && op->kind != OP_GROUP_LETTERS) st = load_filter(&q);
    if (!st && op->kind == OP_GROUP_LAG) st = lag(&q, &op->lag);
    if (!st && op->kind == OP_GROUP_LETTERS) st = letters(&q, op);
    if (!st && op->kind == OP_GROUP_POSITIONS) st = positions(&q, op->group_orders, &op->positions);
    arena_fini(&scratch);
    return st;
}
