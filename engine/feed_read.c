#include "engine/feed.h"

#include "engine/filter.h"
#include "engine/keys.h"
#include "engine/query.h"
#include "proto/pbwire.h"

/* Reads of the change stream. A run of blocks is walked from the reader's position; what the reader wants of them is copied as it stands. Blocks come from the tail,
 * when it reaches back that far, else from the store, in the order of their keys. */

/* The largest order: its body row, its content at an earlier version, the event put together of it; each a little above 1 MiB. */
enum { SCRATCH_BYTES = 4 << 20 };

/* ---- what is put out */

struct output {
    struct arena *arena, scratch;
    uint8_t *data;
    size_t len, cap, bytes_max; /* cap: of data, which is taken for the first event: who finds none takes nothing */
};

/* Room for n more; false: the answer ends here (or, *st set, there is no memory). A first event larger than the limit gets what it needs. */
static bool output_room(struct output *o, size_t n, enum status *st)
{
    if (o->data) return o->len + n <= o->cap;
    o->cap = MAX_OF(n, o->bytes_max);
    if (!(o->data = arena_alloc(o->arena, o->cap))) *st = STATUS_MEMORY_LIMIT;
    return o->data;
}

static void output_put(struct output *o, struct slice bytes)
{
    check(o->len + bytes.len <= o->cap);
    if (bytes.len) memcpy(o->data + o->len, bytes.data, bytes.len);
    o->len += bytes.len;
}

/* One event under the reader's eyes: with its content, wherever that is kept. What is loaded for it lies in the scratch of the read and is gone at the next one: a run of
 * events that refer to their orders looks at far more than it answers. */
struct seen {
    const struct event_view *e;
    struct slice summary_more, detail; /* content that is stored by reference: behind e->brief */
};

static enum status seen_load(const struct feed_read *f, struct arena *scratch, struct seen *s)
{
    const struct event_view *e = s->e;
    if (!(e->flags & EVENT_REFERS)) return s->detail = e->detail, STATUS_OK;
    struct key k;
    struct slice row;
    struct order_body body;
    key_body(&k, e->order_id);
    enum status st = store_get(&f->view, key_slice(&k), scratch, &row);
    if (!st) st = order_body_decode(row, &body);
    if (!st) st = query_content_at(&f->view, scratch, e->order_id, e->version, &body);
    if (st) return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
    s->summary_more = body.summary;
    s->detail = body.detail;
    return STATUS_OK;
}

static bool of_user(const struct event_view *e, struct slice user_id)
{
    struct reader r = reader_of(e->base);
    for (struct pb_field p; pb_next(&r, &p) && p.number <= 6;)
        if (p.number == 6) return slice_equal(p.bytes, user_id);
    return false;
}

/* FULL, in its frame. data NULL: no memory. */
static struct slice framed_event(struct arena *scratch, const struct seen *s)
{
    const struct event_view *e = s->e;
    if (!(e->flags & EVENT_REFERS)) return e->framed;
    size_t content = s->summary_more.len + s->detail.len, bytes = event_framed_bytes(e->base, e->brief, content);
    uint8_t *data = arena_alloc(scratch, bytes);
    if (!data) return (struct slice){0};
    struct writer w = writer_of(data, bytes);
    event_frame(&w, e->base, e->brief, content);
    write_slice(&w, s->summary_more);
    write_slice(&w, s->detail);
    check(w.len == bytes);
    return writer_slice(&w);
}

/* The whole ChangeEvent, without its frame: behind tag and length. data NULL: no memory. */
static struct slice whole_event(struct arena *scratch, const struct seen *s)
{
    struct reader r = reader_of(framed_event(scratch, s));
    (void)read_u8(&r);
    return read_counted(&r);
}

enum status feed_whole(const struct feed_read *f, const struct event_view *e, struct slice *framed, uint32_t *brief)
{
    struct seen s = {.e = e};
    enum status st = seen_load(f, f->arena, &s);
    if (st) return st;
    *framed = framed_event(f->arena, &s);
    *brief = (uint32_t)(e->brief.len + s.summary_more.len);
    return framed->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

/* *fits false: the answer is full. */
static enum status put_event(const struct feed_request *r, const struct seen *s, struct output *o, bool *fits)
{
    const struct event_view *e = s->e;
    enum status st = STATUS_OK;
    bool full = r->payload == FEED_FULL;
    if (full && !(e->flags & EVENT_REFERS)) {
        if ((*fits = output_room(o, e->framed.len, &st))) output_put(o, e->framed);
        return st;
    }
    size_t content = s->summary_more.len + (full ? s->detail.len : 0), bytes = event_framed_bytes(e->base, e->brief, content);
    if (!(*fits = output_room(o, bytes, &st))) return st;
    struct writer w = writer_of(o->data + o->len, bytes);
    event_frame(&w, e->base, e->brief, content);
    check(!w.full);
    o->len += w.len;
    output_put(o, s->summary_more);
    if (full) output_put(o, s->detail);
    return STATUS_OK;
}

/* ---- a block */

static bool wanted(const struct feed_request *r, const struct event_view *e)
{
    if (r->behind && e->seq <= r->behind[e->slot]) return false;
    return !r->user_id.len || (e->slot == r->slot && of_user(e, r->user_id));
}

static enum status visit(const struct feed_read *f, struct feed_request *r, const struct event_view *e, struct output *o, bool *fits)
{
    struct seen s = {.e = e};
    *fits = true;
    if (r->time_us < r->from_us || !wanted(r, e)) return STATUS_OK;
    arena_reset(&o->scratch);
    enum status st = seen_load(f, &o->scratch, &s);
    if (st) return st;
    if (r->filter) {
        struct slice whole = whole_event(&o->scratch, &s);
        if (!whole.data) return STATUS_MEMORY_LIMIT;
        if (!filter_match(r->filter, whole)) return STATUS_OK;
    }
    st = put_event(r, &s, o, fits);
    if (!st && *fits) r->events++;
    return st;
}

/* From r->at.event on. *more false: the answer is full, and r->at is where to go on. */
static enum status read_block(const struct feed_read *f, struct feed_request *r, struct slice row, struct output *o, bool *more)
{
    struct event_reader reader;
    struct event_view e;
    enum status st = event_block_open(row, &reader);
    if (st) return st;
    r->time_us = reader.log_time_us;
    *more = true;
    for (uint32_t i = 0; event_next(&reader, &e, &st); i++) {
        if (i < r->at.event) continue;
        if (r->events_max && r->looked_at == r->events_max) return *more = false, STATUS_OK;
        if ((st = visit(f, r, &e, o, more)) || !*more) return st;
        r->looked_at++;
        r->at.event = i + 1;
        if (r->behind) r->behind[e.slot] = MAX_OF(r->behind[e.slot], e.seq);
    }
    r->at.event = 0;
    r->at.block++;
    return st;
}

/* ---- runs of blocks */

static void stand_at(struct feed_request *r, uint64_t index, uint32_t block)
{
    if (r->at.index == index && r->at.block == block) return;
    r->at = (struct feed_position){.index = index, .block = block};
}

static void stand_at_end(const struct feed_read *f, struct feed_request *r)
{
    r->at_end = true;
    r->at = (struct feed_position){.index = f->last_index + 1};
}

static enum status read_tail(const struct feed_read *f, struct feed_request *r, struct output *o)
{
    const struct feed_tail *t = f->tail;
    size_t first = feed_tail_find(t, r->at.index, r->at.block), bytes = 0;
    if (first == t->count) return stand_at_end(f, r), STATUS_OK;
    for (size_t i = first; i < t->count && bytes < o->bytes_max; i++) bytes += feed_tail_block(t, i)->bytes; /* live readers want little */
    o->bytes_max = MIN_OF(bytes, o->bytes_max);
    for (size_t i = first; i < t->count; i++) {
        const struct feed_block *b = feed_tail_block(t, i);
        bool more;
        stand_at(r, b->index, b->block);
        enum status st = read_block(f, r, slice_of(b->data, b->bytes), o, &more);
        if (st || !more) return st;
    }
    return stand_at_end(f, r), STATUS_OK;
}

static struct store_iter *blocks_open(const struct feed_read *f, const struct feed_position *at)
{
    struct key lower, upper;
    struct store_view view = f->view;
    view.bulk = true;
    key_events(&lower, at->index, (uint16_t)MIN_OF(at->block, (uint32_t)UINT16_MAX));
    key_events(&upper, f->last_index + 1, 0);
    return store_iter_open(&view, key_slice(&lower), key_slice(&upper));
}

static enum status read_store(const struct feed_read *f, struct feed_request *r, struct output *o)
{
    struct store_iter *it = blocks_open(f, &r->at);
    enum status st = STATUS_OK;
    bool more = true;
    for (store_iter_first(it); store_iter_valid(it) && !st && more; store_iter_next(it)) {
        uint64_t index;
        uint16_t block;
        key_events_place(store_iter_key(it), &index, &block);
        stand_at(r, index, block);
        st = read_block(f, r, store_iter_value(it), o, &more);
    }
    if (!st && more) st = store_iter_status(it);
    if (!st && more) stand_at_end(f, r);
    store_iter_close(it);
    return st;
}

enum status feed_read(const struct feed_read *f, struct feed_request *r, struct slice *answer)
{
    struct feed_position before = r->at;
    struct output o = {.arena = f->arena, .bytes_max = r->bytes_max};
    arena_init(&o.scratch, SCRATCH_BYTES);
    r->events = r->looked_at = 0;
    r->at_end = false;
    r->time_us = 0;
    *answer = (struct slice){0};
    if (r->at.index < f->kept.first_place) return STATUS_CURSOR_EXPIRED;
    enum status st = STATUS_OK;
    if (r->at.index > f->last_index) r->at_end = true;
    else if (f->tail && f->tail->complete_from && r->at.index >= f->tail->complete_from) st = read_tail(f, r, &o);
    else if (f->view.cached_only) st = STATUS_WOULD_BLOCK; /* a run from the store is a reader thread's work, cached or not */
    else st = read_store(f, r, &o);
    arena_fini(&o.scratch);
    if (st && r->looked_at) st = STATUS_OK; /* what came before is told and behind the reader; the next read begins with what failed */
    if (st) return r->at = before, st;
    *answer = slice_of(o.data, o.len);
    return STATUS_OK;
}

/* ---- places */

enum status feed_place(const struct store_view *view, struct arena *arena, uint16_t slot, int64_t seq, int64_t last_seq, const struct feed_places *last,
                       const struct feed_record *kept, uint64_t *place)
{
    struct feed_places row;
    if (seq < 1 || seq > last_seq) return STATUS_ABSENT;
    if (feed_chunk_first(seq) == feed_chunk_first(last_seq)) {
        row = *last;
    } else {
        struct key k;
        struct slice bytes;
        key_places(&k, slot, feed_chunk_first(seq));
        enum status st = store_get(view, key_slice(&k), arena, &bytes);
        if (!st) st = places_decode(bytes, &row);
        if (st) return st;
    }
    *place = row.at[(seq - 1) % FEED_CHUNK];
    return *place && *place >= kept->first_place ? STATUS_OK : STATUS_ABSENT;
}

/* By halves: places ascend with seq, and what is not kept any more is below all that is. Each look at an older chunk is a read of the store, so those that settle most
 * come first: the newest chunk, which is at hand, for who begins near the end, then the slot's first event for who wants everything. */
enum status feed_first_kept(const struct store_view *view, struct arena *arena, uint16_t slot, int64_t last_seq, const struct feed_places *last,
                            const struct feed_record *kept, int64_t *seq)
{
    int64_t low = 0, high = last_seq + 1; /* low is below, high is not */
    for (int looks = 0; high - low > 1; looks++) {
        int64_t middle = looks == 0 ? feed_chunk_first(last_seq) : looks == 1 && !low ? 1 : low + (high - low) / 2;
        uint64_t place;
        enum status st = feed_place(view, arena, slot, middle, last_seq, last, kept, &place);
        if (st && st != STATUS_ABSENT) return st;
        if (st) low = middle;
        else high = middle;
    }
    *seq = high;
    return STATUS_OK;
}

/* The first block at or behind an index, and its time; false: none, or *st. */
static bool block_from(const struct feed_read *f, uint64_t index, uint64_t *found, uint64_t *time_us, enum status *st)
{
    struct feed_position at = {.index = index};
    struct store_iter *it = blocks_open(f, &at);
    store_iter_first(it);
    bool valid = store_iter_valid(it);
    *st = valid ? STATUS_OK : store_iter_status(it);
    if (valid) {
        struct event_reader reader;
        uint16_t block;
        key_events_place(store_iter_key(it), found, &block);
        *st = event_block_open(store_iter_value(it), &reader);
        *time_us = reader.log_time_us;
    }
    store_iter_close(it);
    return valid && !*st;
}

enum status feed_block_from(const struct feed_read *f, uint64_t index, struct feed_record *out)
{
    enum status st;
    if (block_from(f, index, &out->first_place, &out->first_time_us, &st) || st) return st;
    *out = (struct feed_record){.first_place = f->last_index + 1, .first_time_us = f->kept.first_time_us};
    return STATUS_OK;
}

/* Log time never goes back along the log, so the entry is found by halves. */
enum status feed_seek_time(const struct feed_read *f, uint64_t time_us, struct feed_position *out)
{
    uint64_t low = f->kept.first_place, high = f->last_index + 1; /* everything in front of low is older; what is at high or behind is not */
    while (low < high) {
        uint64_t middle = low + (high - low) / 2, found, at_us;
        enum status st;
        if (!block_from(f, middle, &found, &at_us, &st)) {
            if (st) return st;
            high = middle; /* nothing from here on */
        } else if (at_us < time_us) {
            low = found + 1;
        } else {
            high = middle;
        }
    }
    *out = (struct feed_position){.index = low};
    return STATUS_OK;
}
