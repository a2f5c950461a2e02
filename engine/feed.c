#include "engine/feed.h"

#include "engine/keys.h"
#include "proto/base/mem.h"

/* Places, the writer and the tail; reads are in feed_read.c. */

enum { PLACES_FORMAT = 1, FEED_FORMAT = 1, TAIL_ROOM_MIN = 64 };

/* ---- rows */

void places_encode(const struct feed_places *p, uint64_t time_us, struct writer *w)
{
    write_be64(w, time_us);
    write_u8(w, PLACES_FORMAT);
    for (int i = 0; i < FEED_CHUNK; i++) write_be64(w, p->at[i]);
}

enum status places_decode(struct slice row, struct feed_places *out)
{
    struct reader r = reader_of(row);
    (void)read_be64(&r);
    if (row.len != PLACES_ROW_BYTES || read_u8(&r) != PLACES_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    for (int i = 0; i < FEED_CHUNK; i++) out->at[i] = read_be64(&r);
    return STATUS_OK;
}

void feed_record_encode(const struct feed_record *r, struct writer *w)
{
    write_u8(w, FEED_FORMAT);
    write_be64(w, r->first_place);
    write_be64(w, r->first_time_us);
}

enum status feed_record_decode(struct slice row, struct feed_record *out)
{
    struct reader r = reader_of(row);
    if (row.len != FEED_RECORD_BYTES || read_u8(&r) != FEED_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    out->first_place = read_be64(&r);
    out->first_time_us = read_be64(&r);
    return STATUS_OK;
}

/* ---- the writer */

void feed_writer_init(struct feed_writer *w)
{
    *w = (struct feed_writer){0};
    list_init(&w->closed);
}

void feed_writer_clear(struct feed_writer *w)
{
    for (struct list *l; (l = list_pop_front(&w->closed));) mem_free(list_entry(l, struct feed_block, link));
    event_block_clear(&w->block);
    w->count = 0;
}

void feed_writer_fini(struct feed_writer *w)
{
    feed_writer_clear(w);
    event_block_fini(&w->block);
}

static enum status close_block(struct feed_writer *w, uint64_t index, uint64_t log_time_us)
{
    size_t bytes = event_block_bytes(&w->block);
    if (!bytes) return STATUS_OK;
    check(w->count < UINT16_MAX); /* an entry of 2 MiB makes a few hundred at the most */
    struct feed_block *b = mem_alloc(sizeof *b + bytes);
    if (!b) return STATUS_MEMORY_LIMIT;
    *b = (struct feed_block){.index = index, .block = w->count++, .bytes = (uint32_t)bytes};
    struct writer out = writer_of(b->data, bytes);
    event_block_close(&w->block, log_time_us, &out);
    check(out.len == bytes);
    list_push_back(&w->closed, &b->link);
    return STATUS_OK;
}

enum status feed_add(struct feed_writer *w, const struct event *e, uint64_t index, uint64_t log_time_us, const struct machines *ms)
{
    if (!event_block_add(&w->block, e, ms)) return STATUS_MEMORY_LIMIT;
    return event_block_bytes(&w->block) < EVENT_BLOCK_BYTES_MAX ? STATUS_OK : close_block(w, index, log_time_us);
}

enum status feed_end(struct feed_writer *w, uint64_t index, uint64_t log_time_us, struct store_batch *batch)
{
    enum status st = close_block(w, index, log_time_us);
    if (st) return st;
    list_each(l, &w->closed) {
        const struct feed_block *b = list_entry(l, struct feed_block, link);
        struct key k;
        key_events(&k, b->index, b->block);
        store_batch_put(batch, key_slice(&k), slice_of(b->data, b->bytes));
    }
    return STATUS_OK;
}

/* ---- the tail */

void feed_tail_init(struct feed_tail *t, size_t bytes_max) { *t = (struct feed_tail){.bytes_max = bytes_max}; }

static void drop_oldest(struct feed_tail *t)
{
    struct feed_block *b = t->blocks[t->first++ & (t->room - 1)];
    t->count--;
    t->bytes -= sizeof *b + b->bytes;
    t->complete_from = b->index + 1; /* the rest of that entry's blocks, if any, are of no use alone and go next */
    mem_free(b);
}

void feed_tail_clear(struct feed_tail *t)
{
    while (t->count) drop_oldest(t);
    mem_free(t->blocks);
    *t = (struct feed_tail){.bytes_max = t->bytes_max};
}

size_t feed_tail_find(const struct feed_tail *t, uint64_t index, uint32_t block)
{
    size_t low = 0, high = t->count; /* what is in front of low is in front of the place; high is not */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct feed_block *b = feed_tail_block(t, middle);
        if (b->index < index || (b->index == index && b->block < block)) low = middle + 1;
        else high = middle;
    }
    return low;
}

static bool tail_grow(struct feed_tail *t)
{
    size_t room = t->room ? 2 * t->room : TAIL_ROOM_MIN;
    struct feed_block **blocks = mem_alloc(room * sizeof(struct feed_block *));
    if (!blocks) return false;
    for (size_t i = 0; i < t->count; i++) blocks[i] = t->blocks[(t->first + i) & (t->room - 1)];
    mem_free(t->blocks);
    t->blocks = blocks;
    t->first = 0;
    t->room = room;
    return true;
}

static bool tail_push(struct feed_tail *t, struct feed_block *b)
{
    if (t->count == t->room && !tail_grow(t)) return false;
    t->blocks[(t->first + t->count++) & (t->room - 1)] = b;
    t->bytes += sizeof *b + b->bytes;
    return true;
}

void feed_tail_take(struct feed_tail *t, struct feed_writer *w, uint64_t index)
{
    if (!t->complete_from) t->complete_from = index;
    for (struct list *l; (l = list_pop_front(&w->closed));) {
        if (tail_push(t, list_entry(l, struct feed_block, link))) continue;
        mem_free(list_entry(l, struct feed_block, link));
        feed_writer_clear(w);
        return feed_tail_clear(t);
    }
    w->count = 0;
    while (t->bytes > t->bytes_max && t->count) drop_oldest(t);
    while (t->count && feed_tail_block(t, 0)->index < t->complete_from) drop_oldest(t);
}
