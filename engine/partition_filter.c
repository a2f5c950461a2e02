/* The idempotency keys of a store that was there before this process, read into its filter (store_filter_keys) in the background: a piece with each round of housekeeping, on a thread that nobody waits for. Until all are
 * read the filter is not asked. A piece is read over a snapshot of its own: what is written meanwhile is in the filter by itself. Local, like all that a replica keeps in memory. */
#include "engine/keys.h"
#include "engine/partition.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { PIECE_ROWS = 4096 }; /* in 20 ms: some 8 ms of a thread, 200,000 keys a second */

struct filter_piece {
    struct partition *partition;
    struct env_job job;
    struct store_snapshot *snapshot;
    uint64_t begun_ns, total;
    uint64_t now_us;       /* what expires by then is left out */
    uint32_t slot, last;   /* to be read from; of the partition */
    uint8_t from[KEY_BYTES_MAX + 1]; /* in that slot; empty: from its beginning */
    size_t from_len;
    enum status status;
    unsigned count;
    struct store_filtered rows[PIECE_ROWS];
};

static uint64_t filter_share(const struct partition *p) { return p->id == PARTITION_META ? 0 : p->engine->config.filter_bytes / p->engine->config.owned_count; }

enum status partition_filter_load(struct partition *p, bool empty)
{
    struct engine *e = p->engine;
    if (filter_share(p) < STORE_FILTER_BYTES_MIN) return STATUS_OK;
    enum status st = store_filter_keys(p->store, filter_share(p), KEY_DEDUP);
    if (st) return st;
    if (e->config.filter_proved) store_filter_prove(p->store);
    if (empty) return store_filter_whole(p->store), STATUS_OK;
    struct filter_piece *f = p->filter = mem_new(struct filter_piece);
    if (!f) return STATUS_MEMORY_LIMIT;
    f->partition = p;
    f->slot = partition_first_slot(p->id, e->config.partition_count);
    f->last = partition_last_slot(p->id, e->config.partition_count);
    return STATUS_OK;
}

void partition_filter_unload(struct partition *p)
{
    check(!p->filter || !p->filter->snapshot);
    mem_free(p->filter);
    p->filter = NULL;
}

/* The keys of f->slot from f->from on, as many as there is room for. true: all of them. */
static bool slot_read(struct filter_piece *f, struct store_iter *it, struct slice prefix)
{
    if (f->from_len) store_iter_seek(it, slice_of(f->from, f->from_len));
    else store_iter_seek(it, prefix);
    for (; store_iter_valid(it) && slice_starts_with(store_iter_key(it), prefix); store_iter_next(it)) {
        struct slice key = store_iter_key(it);
        if (f->count == PIECE_ROWS) {
            memcpy(f->from, key.data, f->from_len = key.len);
            return false;
        }
        struct store_filtered row = store_filtered_of(key, store_iter_value(it));
        if (row.expiry_us > f->now_us) f->rows[f->count++] = row;
    }
    return true;
}

static void piece_run(struct env_job *job)
{
    struct filter_piece *f = container_of(job, struct filter_piece, job);
    struct store_view view = {.store = f->partition->store, .snapshot = f->snapshot, .bulk = true};
    struct key lower, upper, prefix;
    key_slot_prefix(&lower, (uint16_t)f->slot);
    key_slot_prefix(&upper, (uint16_t)f->last);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    f->count = 0;
    for (; f->slot <= f->last; f->slot++, f->from_len = 0) {
        key_dedup_prefix(&prefix, (uint16_t)f->slot);
        if (!slot_read(f, it, key_slice(&prefix)) || store_iter_status(it)) break;
    }
    f->status = store_iter_status(it);
    store_iter_close(it);
}

static void piece_home(struct env_job *job)
{
    struct filter_piece *f = container_of(job, struct filter_piece, job);
    struct partition *p = f->partition;
    store_snapshot_put(p->store, f->snapshot);
    f->snapshot = NULL;
    p->reads_away--;
    if (f->status) { /* damage: the store's own reads will say so, and go on without a filter */
        log_warn("idempotency keys can't be read into memory", "partition=%s slot=%u status=%s", p->name, f->slot, status_name(f->status));
        return partition_filter_unload(p);
    }
    store_filter_add(p->store, f->rows, f->count);
    f->total += f->count;
    if (f->slot <= f->last) return;
    store_filter_whole(p->store);
    log_info("idempotency keys are in memory", "partition=%s keys=%llu ms=%llu", p->name, (unsigned long long)f->total, (unsigned long long)((p->engine->now_ns - f->begun_ns) / NS_PER_MS));
    partition_filter_unload(p);
}

void partition_filter_housekeeping(struct partition *p)
{
    struct filter_piece *f = p->filter;
    struct engine *e = p->engine;
    if (!f || f->snapshot || p->state != PARTITION_READY || p->pressure || e->draining) return;
    if (!(f->snapshot = store_snapshot_get(p->store))) return; /* no memory: next time */
    if (!f->begun_ns) f->begun_ns = e->now_ns;
    f->now_us = p->flushed.log_time_us;
    p->reads_away++;
    f->job = (struct env_job){.run = piece_run, .done = piece_home, .behind = true};
    e->env->ops->offload(e->env, &f->job);
}
