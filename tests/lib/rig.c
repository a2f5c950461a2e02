#include "tests/lib/rig.h"

/* What is kept beside the store, and which keys of records it has: those of its lasting rows too, whatever the time. */
static void cache(struct rig *r)
{
    struct store_view view = rig_view(r);
    check(store_cache_rows(r->store, r->cache_bytes, 240, (struct slice){0}) == STATUS_OK);
    check(store_filter_keys(r->store, r->cache_bytes, KEY_DEDUP) == STATUS_OK);
    store_filter_prove(r->store);
    struct store_iter *it = store_iter_open(&view, SLICE_LIT(""), SLICE_LIT("\xff\xff\xff\xff"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) {
        struct slice key = store_iter_key(it);
        struct store_filtered row = store_filtered_of(key, store_iter_value(it));
        if (key.len > 2 && key.data[2] == KEY_DEDUP) store_filter_add(r->store, &row, 1);
    }
    check(store_iter_status(it) == STATUS_OK);
    store_iter_close(it);
    store_filter_whole(r->store);
}

static void store_in(struct rig *r)
{
    struct key k;
    struct slice row;
    check(store_open_mem(&r->store, r->disk) == STATUS_OK);
    r->batch = store_batch_new(r->store);
    check(r->batch);
    feed_writer_init(&r->feed);
    feed_tail_init(&r->tail, 64 * KIB);
    struct store_view view = rig_view(r);
    r->record = (struct partition_record){.machines_known = machines_count(r->ms)};
    key_partition(&k);
    enum status st = store_get(&view, key_slice(&k), &r->scratch, &row);
    check(st == STATUS_OK || st == STATUS_ABSENT);
    if (st == STATUS_OK) check(partition_record_decode(row, &r->record) == STATUS_OK);
    r->kept = (struct feed_record){0};
    key_feed(&k);
    st = store_get(&view, key_slice(&k), &r->scratch, &row);
    check(st == STATUS_OK || st == STATUS_ABSENT);
    if (st == STATUS_OK) check(feed_record_decode(row, &r->kept) == STATUS_OK);
    r->timers = (struct timers_record){0};
    key_timers(&k);
    st = store_get(&view, key_slice(&k), &r->scratch, &row);
    check(st == STATUS_OK || st == STATUS_ABSENT);
    if (st == STATUS_OK) check(timers_record_decode(row, &r->timers) == STATUS_OK);
    if (r->cache_bytes) cache(r);
    arena_reset(&r->scratch);
}

static void store_out(struct rig *r)
{
    feed_writer_fini(&r->feed);
    feed_tail_clear(&r->tail);
    store_batch_free(r->batch);
    store_close(r->store);
}

void rig_open(struct rig *r, struct machines *ms)
{
    *r = (struct rig){.ms = ms, .disk = store_mem_disk_new()};
    check(r->disk);
    arena_init(&r->scratch, APPLY_SCRATCH_BYTES);
    store_in(r);
}

void rig_cache(struct rig *r, uint64_t bytes)
{
    r->cache_bytes = bytes;
    cache(r);
}

void rig_close(struct rig *r)
{
    store_out(r);
    store_mem_disk_free(r->disk);
    arena_fini(&r->scratch);
}

void rig_crash(struct rig *r)
{
    store_out(r);
    store_in(r);
}

void rig_flush(struct rig *r)
{
    check(store_flush(r->store) == STATUS_OK);
    store_set_expiry(r->store, KEY_DEDUP, r->record.log_time_us);
    if (r->kept.first_time_us) store_set_expiry(r->store, KEY_PLACES, r->kept.first_time_us - 1);
}

struct store_view rig_view(const struct rig *r) { return (struct store_view){.store = r->store}; }

enum status rig_apply(struct rig *r, uint64_t log_time_us, const struct slice *commands, unsigned count, struct arena *arena,
                      struct outcome *outcomes)
{
    struct apply a = {.view = {.store = r->store, .batch = r->batch}, .machines = r->ms, .record = r->record, .feed = &r->feed, .index = r->record.applied_index + 1, .kept = r->kept, .timers = r->timers, .timers_soonest_us = INT64_MAX,
                      .scratch = &r->scratch};
    enum status st = STATUS_OK;
    feed_writer_clear(&r->feed);
    store_batch_clear(r->batch);
    apply_begin(&a, log_time_us);
    for (unsigned i = 0; i < count && !st; i++) {
        arena_reset(&r->scratch);
        st = apply_command(&a, commands[i], outcomes ? arena : NULL, outcomes ? &outcomes[i] : NULL);
    }
    if (!st) st = apply_events(&a);
    if (!st) apply_end(&a, r->record.applied_index + 1, 1);
    if (!st) st = store_apply(r->store, r->batch);
    store_batch_clear(r->batch);
    if (st) return st;
    r->record = a.record;
    r->kept = a.kept;
    r->timers = a.timers;
    feed_tail_take(&r->tail, &r->feed, a.index);
    return STATUS_OK;
}
