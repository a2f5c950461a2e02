/* The store on RocksDB 7.8, without its memtable and its write-ahead log: the Raft log is the only log (docs/STORAGE.md has budget, options and reasons).
 *
 *     batch --apply--> active table --(its share is full, or store_flush)--> frozen tables --run, ingested--> level 0 --compaction--> levels below
 *
 * Rows are put into a table of our own (row_tree.h); what is too old for it becomes a sorted run, which RocksDB takes in as a file (store_rocks_run.c).
 * Each entry is one batch with its applied index, tables are frozen between batches, runs are ingested whole and in order: whatever a
 * crash leaves is the state after some entry, never a mixture, and the partition record says which. Closing writes no run: durable is what store_flush or a
 * full table made durable, here as in store_mem.c, and closing a store whose disk is full does not wait for it.
 *
 * A background error (no space, a failed write, a damaged file met by a compaction) makes the store `failed`, for good: applies and
 * flushes answer the first cause, reads go on, of frozen tables too. RocksDB may heal itself meanwhile, and we do not lean on it: the owner closes,
 * reopens when the cause is gone, and replays the log from the partition record that it finds.
 *
 * Threads. The owner alone applies, and reads the tables without a lock. All others read the active table under the store's lock, which an apply holds while it
 * puts its rows. Which thread is the owner, applies and new batches tell.
 *
 * Files: store_rocks_read.c (reads), store_rocks_run.c (tables, versions, runs), store_rocks_db.c (RocksDB's errors, options, figures), store_rocks_dir.c
 * (FORMAT), store_rocks_stream.c (checkpoints, imports). Foreign errors end in them: errptr text becomes a status (rocks_status). */
#include <stdio.h>

#include "engine/store_rocks_local.h"
#include "engine/trash.h"
#include "proto/base/mem.h"

enum {
    TABLE_SHARE = 4, /* of the budget: an active table of that size is frozen */
    CHUNKS = 64,     /* of the budget */
    CHUNK_BYTES_MIN = 16 << 10,
    CHUNK_BYTES_MAX = MEM_HUGE_BYTES,
    BATCH_CHUNK_BYTES = 256 << 10,
};
#define BUDGET_BYTES_MIN (256 * KIB)

/* ---- batches */

static struct store_batch *rocks_batch_new(struct store *base) {
    struct rocks_batch *b = mem_new(struct rocks_batch);
    if (!b) return NULL;
    row_tree_init(&b->rows, BATCH_CHUNK_BYTES);
    row_tree_defer(&b->rows, rocks_of(base)->deferred);
    return &b->base;
}
static void rocks_batch_free(struct store_batch *base) {
    struct rocks_batch *b = container_of(base, struct rocks_batch, base);
    row_tree_fini(&b->rows);
    mem_free(b);
}
static void rocks_batch_clear(struct store_batch *base) { row_tree_reset(&container_of(base, struct rocks_batch, base)->rows); }
static void rocks_batch_put(struct store_batch *base, struct slice key, struct slice value) {
    if (!row_tree_put(&container_of(base, struct rocks_batch, base)->rows, key, value, false, 1, 0)) base->failed = true;
}
static void rocks_batch_delete(struct store_batch *base, struct slice key) {
    if (!row_tree_put(&container_of(base, struct rocks_batch, base)->rows, key, (struct slice){0}, true, 1, 0)) base->failed = true;
}

static void rocks_batch_rows(const struct store_batch *base, void (*row)(void *ctx, struct slice key, struct slice value, bool deleted), void *ctx) {
    const struct row_tree *rows = &container_of(base, struct rocks_batch, base)->rows;
    size_t at = 0;
    for (const struct row *r; (r = row_pile_next(&rows->pile, &at));) row(ctx, row_key(r), row_value(r), r->deleted);
    struct row_tree_step s = row_tree_step_first(rows);
    for (const struct row *r; (r = row_tree_step_next(&s));) row(ctx, row_key(r), row_value(r), r->deleted);
}

/* ---- apply and flush */

static struct version *current(struct rocks_store *s) { return atomic_load_explicit(&s->current, memory_order_relaxed); }

/* Under the lock. Waits for runs while the budget has no room: in replay, where nobody looks at `pressure`. A batch that is larger than all of it passes alone. */
static void apply_wait(struct rocks_store *s, const struct row_tree *rows) {
    for (;;) {
        struct version *v = current(s);
        struct table *active = v->tables[0];
        size_t more = row_tree_put_all_bytes(&active->rows, rows);
        bool has_its_share = active->rows.bytes >= s->budget_bytes / TABLE_SHARE || row_tree_crowded(&active->rows);
        if (has_its_share && rocks_freeze(s)) continue;
        if (version_bytes(v) + s->retired_bytes + more > s->budget_bytes) rocks_retired_free(s);
        if (version_bytes(v) + more <= s->budget_bytes || v->count == 1 || atomic_load(&s->failed)) return;
        pthread_cond_wait(&s->changed, &s->lock);
    }
}

static enum status rocks_apply(struct store *base, struct store_batch *batch) {
    struct rocks_store *s = rocks_of(base);
    const struct rocks_batch *b = container_of(batch, struct rocks_batch, base);
    pthread_mutex_lock(&s->lock);
    rocks_retire(s);
    if (!atomic_load(&s->failed)) apply_wait(s, &b->rows);
    enum status st = (enum status)atomic_load(&s->failed);
    struct table *active = current(s)->tables[0];
    if (!st && !row_tree_put_all(&active->rows, &b->rows, s->seq + 1, rocks_pinned(s))) st = STATUS_MEMORY_LIMIT;
    if (!st && b->rows.row_count) s->seq++, active->applied_bytes += batch->bytes;
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* Freezes the active table and waits until it and all before it are RocksDB's: everything applied before. */
static enum status rocks_flush(struct store *base) {
    struct rocks_store *s = rocks_of(base);
    pthread_mutex_lock(&s->lock);
    uint64_t until = s->seq;
    while (s->durable_seq < until && !atomic_load(&s->failed)) {
        struct version *v = current(s);
        bool applied_is_active = v->count == 1 || v->tables[1]->last_seq < until;
        if (applied_is_active && v->count < STORE_TABLES_MAX && !rocks_freeze(s)) {
            pthread_mutex_unlock(&s->lock);
            return STATUS_MEMORY_LIMIT;
        }
        pthread_cond_wait(&s->changed, &s->lock);
    }
    enum status st = (enum status)atomic_load(&s->failed);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static void rocks_warm(struct store *base, void *memory, size_t bytes) { spares_warm(rocks_of(base)->shared, memory, bytes); }

static void rocks_set_expiry(struct store *base, uint8_t kind, uint64_t horizon_us) {
    _Atomic uint64_t *at = &rocks_of(base)->expiry.horizon_us[kind];
    if (horizon_us > atomic_load(at)) atomic_store(at, horizon_us); /* log time never goes back */
}

/* ---- open and close */

static void rocks_close(struct store *base) {
    struct rocks_store *s = rocks_of(base);
    base->magic = 0;
    if (s->db) rocksdb_disable_manual_compaction(s->db); /* growing_gather's: who closes a store need not wait until small files have become one */
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    while (s->scheduled) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    rocks_tables_fini(s);
    if (s->shared) row_spares_disallow(&s->shared->spares, s->budget_bytes / TABLE_SHARE);
    if (s->db) {
        rocksdb_cancel_all_background_work(s->db, 1);
        for (unsigned f = 0; f < s->family_count; f++) rocksdb_column_family_handle_destroy(s->families[f]);
        rocksdb_close(s->db);
        store_shared_readers(s->shared, &s->readers_bytes, 0);
    }
    if (s->trash) trash_unwatch(s->trash, s->path);
    rocks_options_free(s);
    store_shared_free(s->own);
    pthread_mutex_destroy(&s->stats_lock);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    mem_free(s->path);
    mem_free(s);
}

static const struct store_ops rocks_ops = {
    .close = rocks_close,
    .get = rocks_get,
    .batch_get = rocks_batch_get,
    .batch_rows = rocks_batch_rows,
    .get_many = rocks_get_many,
    .ahead_stamp = rocks_ahead_stamp,
    .ahead_get = rocks_ahead_get,
    .snapshot_get = rocks_snapshot_get,
    .snapshot_put = rocks_snapshot_put,
    .iter_open = rocks_iter_open,
    .iter_close = rocks_iter_close,
    .iter_first = rocks_iter_first,
    .iter_last = rocks_iter_last,
    .iter_seek = rocks_iter_seek,
    .iter_seek_back = rocks_iter_seek_back,
    .iter_next = rocks_iter_next,
    .iter_prev = rocks_iter_prev,
    .batch_new = rocks_batch_new,
    .batch_free = rocks_batch_free,
    .batch_clear = rocks_batch_clear,
    .batch_put = rocks_batch_put,
    .batch_delete = rocks_batch_delete,
    .apply = rocks_apply,
    .probe = rocks_probe,
    .flush = rocks_flush,
    .warm = rocks_warm,
    .set_expiry = rocks_set_expiry,
    .get_stats = rocks_get_stats,
    .drop_range = rocks_drop_range,
    .range_bytes = rocks_range_bytes,
    .checkpoint_make = rocks_checkpoint_make,
    .checkpoint_read = rocks_checkpoint_read,
    .checkpoint_free = rocks_checkpoint_free,
    .import_begin = rocks_import_begin,
    .import_write = rocks_import_write,
    .import_finish = rocks_import_finish,
    .import_find = rocks_import_find,
    .import_install = rocks_import_install,
    .import_free = rocks_import_free,
};

static struct slice prefix_copy(uint8_t to[STORE_PREFIX_BYTES_MAX], struct slice prefix) {
    check(prefix.len <= STORE_PREFIX_BYTES_MAX);
    if (prefix.len) memcpy(to, prefix.data, prefix.len);
    return slice_of(to, prefix.len);
}

/* NULL: no memory. */
static struct rocks_store *rocks_new(const char *path, const struct store_config *config) {
    struct rocks_store *s = mem_new(struct rocks_store);
    if (!s) return NULL;
    store_init(&s->base, &rocks_ops);
    check(pthread_mutex_init(&s->lock, NULL) == 0);
    check(pthread_mutex_init(&s->stats_lock, NULL) == 0);
    check(pthread_cond_init(&s->changed, NULL) == 0);
    list_init(&s->pins), list_init(&s->retired), list_init(&s->released), list_init(&s->queue_link);
    s->budget_bytes = MAX_OF(config->memtable_bytes, BUDGET_BYTES_MIN);
    s->chunk_bytes = MIN_OF(MAX_OF(s->budget_bytes / CHUNKS, (uint64_t)CHUNK_BYTES_MIN), (uint64_t)CHUNK_BYTES_MAX);
    s->growing = prefix_copy(s->growing_bytes, config->growing);
    s->deferred = prefix_copy(s->deferred_bytes, config->deferred);
    s->grouped_kind = config->grouped_kind, s->grouped_tail = config->grouped_tail;
    s->path = mem_strdup(path);
    if (s->path) s->own = config->shared ? NULL : store_shared_new(config->block_cache_bytes, 1);
    s->shared = config->shared ? config->shared : s->own;
    if (s->shared) row_spares_allow(&s->shared->spares, s->budget_bytes / TABLE_SHARE);
    if (s->path && s->shared && rocks_tables_init(s)) return s;
    rocks_close(&s->base);
    return NULL;
}

/* Takes the text over. */
static enum status rocks_open_error(const char *path, char *rocks_error, char error[256]) {
    enum status st = rocks_status(rocks_error);
    snprintf(error, 256, "%.100s: %.150s", path, rocks_error);
    rocksdb_free(rocks_error);
    return st == STATUS_WOULD_BLOCK ? STATUS_IO_FAILED : st;
}

/* How many families the directory has, or is to have: an older one that holds rows has one, for good. */
static enum status families_count(struct rocks_store *s, char error[256]) {
    bool current, tables;
    s->family_count = s->growing.len ? FAMILIES : 1;
    enum status st = rocks_dir_holds(s->path, &current, &tables, error);
    if (st || !current) return st;
    size_t count = 0;
    char *rocks_error = NULL;
    char **names = rocksdb_list_column_families(s->options[FAMILY_ROWS], s->path, &count, &rocks_error);
    if (rocks_error) return rocks_open_error(s->path, rocks_error, error);
    rocksdb_list_column_families_destroy(names, count);
    if (count == 1 && tables) s->family_count = 1;
    if (count <= s->family_count) return STATUS_OK;
    snprintf(error, 256, "%.150s: has growing rows, and is opened by a program without", s->path);
    return STATUS_FORMAT_UNKNOWN;
}

static enum status families_open(struct rocks_store *s, char error[256]) {
    static const char *const names[FAMILIES] = {"default", "growing"};
    enum status st = families_count(s, error);
    unsigned count = s->family_count;
    s->family_count = 0; /* of those that are open */
    if (st) return st;
    char *rocks_error = NULL;
    s->db = rocksdb_open_column_families(s->options[FAMILY_ROWS], s->path, (int)count, names, (const rocksdb_options_t *const *)s->options, s->families, &rocks_error);
    if (rocks_error) return rocks_open_error(s->path, rocks_error, error);
    s->family_count = count;
    return STATUS_OK;
}

enum status store_open_rocks(struct store **out, const char *path, const struct store_config *config, char error[256]) {
    *out = NULL;
    error[0] = 0;
    enum status st = rocks_dir_prepare(path, error);
    if (st) return st;
    struct rocks_store *s = rocks_new(path, config);
    if (!s) {
        snprintf(error, 256, "%.200s: no memory", path);
        return STATUS_MEMORY_LIMIT;
    }
    rocks_options_make(s);
    st = families_open(s, error);
    if (st) {
        rocks_close(&s->base);
        return st;
    }
    rocks_dir_remove_runs(path); /* RocksDB's lock is ours */
    rocks_checkpoint_remove(path);
    s->has_files = rocks_files_bytes(s) > 0;
    if (config->trash && trash_watch(config->trash, path)) s->trash = config->trash;
    *out = &s->base;
    return STATUS_OK;
}
