#include "engine/partition_group_count.h"

#include "engine/keys.h"
#include "proto/base/mem.h"

static enum status matches(const struct group_count *c, struct feed_read *own, const struct event_view *e, bool *out)
{
    struct slice framed = e->framed;
    uint32_t brief;
    enum status st = STATUS_OK;
    if (e->flags & EVENT_REFERS) { /* what the filter may ask about is kept elsewhere */
        arena_reset(own->arena);
        st = feed_whole(own, e, &framed, &brief);
    }
    if (st) return st;
    struct reader r = reader_of(framed);
    (void)read_u8(&r);
    *out = filter_match(c->filter, read_counted(&r));
    return STATUS_OK;
}

static enum status count_block(struct group_count *c, struct feed_read *own, struct slice row, uint32_t first)
{
    struct event_reader reader;
    struct event_view e;
    enum status st = event_block_open(row, &reader);
    if (st) return st;
    for (uint32_t i = 0; event_next(&reader, &e, &st); i++) {
        enum group_kind kind = GROUP_KIND_NONE;
        bool wanted = false;
        if (i < first) continue;
        if ((st = c->kind_of(c->asker, e.slot, e.seq, &kind))) return st;
        if (kind == GROUP_KIND_NONE) continue;
        if ((st = matches(c, own, &e, &wanted))) return st;
        c->asked[kind]++;
        c->wanted[kind] += wanted;
        if (wanted && kind == GROUP_KIND_UNSETTLED && !c->first_us) c->first_us = reader.log_time_us;
    }
    return st;
}

static bool had_enough(const struct group_count *c, size_t bytes)
{
    uint64_t max = c->asked_max ? c->asked_max : GROUP_COUNT_EVENTS_MAX;
    return c->asked[GROUP_KIND_UNSETTLED] + c->asked[GROUP_KIND_AGAIN] >= max || bytes >= MAX_OF(max * GROUP_COUNT_EVENT_BYTES, (uint64_t)GROUP_COUNT_BYTES_MIN);
}

enum status group_count(struct group_count *c)
{
    struct key lower, upper;
    struct arena scratch;
    struct feed_read own = *c->feed;
    uint64_t index, last = 0;
    uint16_t block;
    size_t bytes = 0;
    enum status st = STATUS_OK;
    if (c->at.index > own.last_index) return STATUS_OK;
    arena_init(&scratch, 8 * MIB);
    own.arena = &scratch;
    own.view.bulk = true;
    key_events(&lower, c->at.index, (uint16_t)MIN_OF(c->at.block, (uint32_t)UINT16_MAX));
    key_events(&upper, own.last_index + 1, 0);
    struct store_iter *it = store_iter_open(&own.view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it), last = index) {
        key_events_place(store_iter_key(it), &index, &block);
        if (last && index != last && had_enough(c, bytes)) { /* between entries: what is left has a place to begin at */
            c->rest_index = index;
            break;
        }
        struct slice row = store_iter_value(it);
        bytes += row.len;
        st = count_block(c, &own, row, index == c->at.index && block == c->at.block ? c->at.event : 0);
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    arena_fini(&scratch);
    return st;
}

/* Laplace's rule: also where none was wanted so far, some may be. */
uint64_t group_count_estimate(const struct group_count *c, enum group_kind kind, uint64_t rest)
{
    if (!rest) return 0;
    double share = ((double)c->wanted[kind] + 1) / ((double)c->asked[kind] + 2);
    uint64_t n = (uint64_t)((double)rest * share);
    return MAX_OF(n, (uint64_t)1);
}
