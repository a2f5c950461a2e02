/* The store on RocksDB 7.8, its write-ahead log off: the Raft log is the only log (docs/STORAGE.md has budget, options and reasons).
 *
 *     apply --> memtable --(full, or store_flush)--> SST in level 0 --compaction--> levels below
 *
 * One column family, and each entry one atomic batch with its applied index: whatever a crash leaves is the state after some entry,
 * never a mixture, and the partition record says which. Closing does not flush (avoid_flush_during_shutdown): durable is what
 * store_flush or a full memtable made durable, here as in store_mem.c, and closing a store whose disk is full does not wait for it.
 *
 * A background error (no space, a failed write, a damaged file met by a compaction) makes the store `failed`, for good: applies and
 * flushes answer the first cause, reads go on. RocksDB may heal itself meanwhile, and we do not lean on it: the owner closes,
 * reopens when the cause is gone, and replays the log from the partition record that it finds.
 *
 * Foreign errors end here: errptr text becomes a status (rocks_status).
 *
 * A directory begins with the file FORMAT, 16 bytes: "ODBSTORE" version(4 be) crc32c(4 be) of the first 12. It is durable before
 * RocksDB is asked to create anything, so a directory without it that holds files is not ours. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/store_ops.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum {
    FORMAT_BYTES = 16,
    FORMAT_VERSION = 1,
    STORE_PATH_BYTES_MAX = 3800, /* names are added, PATH_MAX is 4096 */
    MEMTABLES = 5,           /* share the partition's memtable budget: RocksDB stops writers at 5 that wait for a flush */
    IMMUTABLE_SLOW = 2,      /* our admission refuses bulk, and all writes, before RocksDB delays (4) or stops (5) */
    IMMUTABLE_CLOSED = 3,
    LEVEL0_SLOW = 24,
    LEVEL0_CLOSED = 36,
    LEVEL0_ROCKS_DELAYS = 48,
    LEVEL0_ROCKS_STOPS = 64,
    OPEN_FILES_MAX = 256,    /* of one store; index and filter blocks are in the block cache, not in the open file */
    BLOCK_BYTES = 8192,
    BLOOM_BITS = 10,
    CACHE_SHARD_BYTES_MIN = 8 << 20, /* far above the largest block (a filter, 300 KB), so that a shard never thrashes */
    STATS_AGE_MS = 10,
    READ_ERRORS_LOGGED_MAX = 10,
    PROBE_BYTES = 8 << 20,
    PROBE_WRITE_BYTES = 64 << 10,
};
#define COMPACTION_DEBT_SLOW (16 * GIB)
#define COMPACTION_DEBT_CLOSED (32 * GIB)
#define COMPACTION_DEBT_ROCKS_DELAYS (64 * GIB)
#define COMPACTION_DEBT_ROCKS_STOPS (256 * GIB)
static_assert(IMMUTABLE_CLOSED < MEMTABLES - 1, "with more than 3 memtables RocksDB delays writers at one less than it stops them");
static_assert(LEVEL0_CLOSED < LEVEL0_ROCKS_DELAYS, "our admission closes first");
static_assert(COMPACTION_DEBT_CLOSED < COMPACTION_DEBT_ROCKS_DELAYS, "our admission closes first");

struct store_shared {
    rocksdb_cache_t *cache;
    rocksdb_env_t *env; /* the process's one set of background threads */
    unsigned background_threads;
};
/* Read by background threads without a lock. */
struct expiry {
    _Atomic uint64_t horizon_us[256]; /* by kind; 0: it does not expire */
};
struct rocks_store {
    struct store base;
    char *path;
    struct store_shared *shared, *own; /* own: ours to free */
    rocksdb_options_t *options;
    rocksdb_compactionfilter_t *filter;
    rocksdb_readoptions_t *read[2]; /* [cached_only] */
    rocksdb_writeoptions_t *write;
    rocksdb_flushoptions_t *flush;
    rocksdb_t *db;
    struct expiry expiry;
    _Atomic int failed; /* enum status: the first cause; OK: none */
    _Atomic uint32_t read_errors;
    _Atomic uint64_t applied_bytes, flushed_bytes;
    pthread_mutex_t stats_lock;
    uint64_t stats_ns; /* when `stats` was taken; 0: never */
    struct store_stats stats;
};
struct store_snapshot {
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *read[2]; /* [cached_only] */
};
struct rocks_batch {
    struct store_batch base;
    rocksdb_writebatch_wi_t *rows;
};
struct rocks_iter {
    struct store_iter base;
    bool over_batch; /* its rows ignore RocksDB's bounds, and its ends are found by seeking */
    rocksdb_readoptions_t *read; /* holds the bounds: lives as long as the iterator */
    rocksdb_iterator_t *rows;
    uint8_t bounds[];
};

static struct rocks_store *rocks_of(struct store *s) { return container_of(s, struct rocks_store, base); }
static const char *chars(struct slice s) { return s.len ? (const char *)s.data : ""; }

/* ---- errors */

/* What a Status::ToString() says (rocksdb/status.cc): the code in words, then the operating system's text. */
static enum status rocks_status(const char *error) {
    if (!error) return STATUS_OK;
    if (strstr(error, "No space left") || strstr(error, "Disk quota exceeded") || strstr(error, "Space limit reached")) return STATUS_DISK_FULL;
    if (strncmp(error, "Corruption", 10) == 0) return STATUS_CHECKSUM_MISMATCH;
    if (strncmp(error, "Result incomplete", 17) == 0) return STATUS_WOULD_BLOCK;
    return STATUS_IO_FAILED;
}

/* Takes the text over. A read's error leaves the store as it is; the first few are logged. */
static enum status rocks_read_error(struct rocks_store *s, char *error) {
    enum status st = rocks_status(error);
    if (st && st != STATUS_WOULD_BLOCK && atomic_fetch_add(&s->read_errors, 1) < READ_ERRORS_LOGGED_MAX)
        log_error("store read", "path=%s err=%s", s->path, error);
    rocksdb_free(error);
    return st;
}

/* Takes the text over. The first failed write decides what later ones answer. */
static enum status rocks_write_error(struct rocks_store *s, const char *what, char *error) {
    if (!error) return STATUS_OK;
    int none = STATUS_OK;
    enum status st = rocks_status(error);
    if (st == STATUS_WOULD_BLOCK) st = STATUS_IO_FAILED;
    if (atomic_compare_exchange_strong(&s->failed, &none, (int)st)) log_error(what, "path=%s err=%s", s->path, error);
    rocksdb_free(error);
    return (enum status)atomic_load(&s->failed);
}

/* ---- the FORMAT file */

static enum status file_error(char error[256], const char *what, const char *name) {
    snprintf(error, 256, "%s %.150s: %s", what, name, strerror(errno));
    return errno == ENOSPC || errno == EDQUOT ? STATUS_DISK_FULL : STATUS_IO_FAILED;
}

static enum status dir_sync(const char *path, char error[256]) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum status st = fd < 0 || fsync(fd) < 0 ? file_error(error, "sync of directory", path) : STATUS_OK;
    if (fd >= 0) close(fd);
    return st;
}

/* Temporary name, sync, rename, sync of the directory: FORMAT is there whole or not at all. */
static enum status format_write(const char *path, const char *name, char error[256]) {
    uint8_t bytes[FORMAT_BYTES] = "ODBSTORE";
    char temporary[STORE_PATH_BYTES_MAX + 32];
    put_be32(bytes + 8, FORMAT_VERSION);
    put_be32(bytes + 12, crc32c(0, bytes, 12));
    snprintf(temporary, sizeof temporary, "%s.tmp", name);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return file_error(error, "create", temporary);
    errno = ENOSPC; /* what a short write means */
    bool written = write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes && fsync(fd) == 0;
    enum status st = written ? STATUS_OK : file_error(error, "write", temporary);
    close(fd);
    if (!st && rename(temporary, name) < 0) st = file_error(error, "rename to", name);
    return st ? st : dir_sync(path, error);
}

static enum status format_read(const char *name, char error[256]) {
    uint8_t bytes[FORMAT_BYTES + 1];
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? STATUS_ABSENT : file_error(error, "open", name);
    ssize_t n = read(fd, bytes, sizeof bytes);
    enum status st = n < 0 ? file_error(error, "read", name) : STATUS_OK;
    close(fd);
    if (st) return st;
    if (n != FORMAT_BYTES || get_be32(bytes + 12) != crc32c(0, bytes, 12)) {
        snprintf(error, 256, "%.150s: damaged (%zd bytes, checksum wrong)", name, n);
        return STATUS_CHECKSUM_MISMATCH;
    }
    if (memcmp(bytes, "ODBSTORE", 8) != 0 || get_be32(bytes + 8) != FORMAT_VERSION) {
        snprintf(error, 256, "%.150s: format %.8s version %u, this program knows ODBSTORE version %u", name, (const char *)bytes,
                 get_be32(bytes + 8), FORMAT_VERSION);
        return STATUS_FORMAT_UNKNOWN;
    }
    return STATUS_OK;
}

/* What else is in the directory: RocksDB's pointer to its newest state, and tables. */
static enum status dir_look(const char *path, bool *current, bool *tables, char error[256]) {
    *current = *tables = false;
    DIR *dir = opendir(path);
    if (!dir) return file_error(error, "open directory", path);
    for (const struct dirent *d; (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        *current |= strcmp(d->d_name, "CURRENT") == 0;
        *tables |= n > 4 && strcmp(d->d_name + n - 4, ".sst") == 0;
    }
    closedir(dir);
    return STATUS_OK;
}

/* The directory is ours, of a format that we know, and either empty or whole. */
static enum status dir_prepare(const char *path, char error[256]) {
    char name[STORE_PATH_BYTES_MAX + 16], parent[STORE_PATH_BYTES_MAX + 16];
    if (strlen(path) > STORE_PATH_BYTES_MAX) return errno = ENAMETOOLONG, file_error(error, "open", path);
    if (mkdir(path, 0700) == 0) {
        snprintf(parent, sizeof parent, "%s", path);
        char *slash = strrchr(parent, '/');
        if (slash == parent) slash[1] = 0;
        else if (slash) *slash = 0;
        enum status st = dir_sync(slash ? parent : ".", error);
        if (st) return st;
    } else if (errno != EEXIST) {
        return file_error(error, "create directory", path);
    }
    bool current, tables;
    enum status st = dir_look(path, &current, &tables, error);
    if (st) return st;
    snprintf(name, sizeof name, "%s/FORMAT", path);
    st = format_read(name, error);
    if (st == STATUS_ABSENT && (current || tables)) {
        snprintf(error, 256, "%.150s: RocksDB files without a FORMAT file: not a store of OrderDB", path);
        return STATUS_FORMAT_UNKNOWN;
    }
    if (st == STATUS_OK && tables && !current) { /* RocksDB would begin anew beside them, and rows that the log no longer holds be gone */
        snprintf(error, 256, "%.150s: tables, but CURRENT is missing: restore the directory or remove all of it", path);
        return STATUS_CHECKSUM_MISMATCH;
    }
    return st == STATUS_ABSENT ? format_write(path, name, error) : st;
}

/* ---- options: docs/STORAGE.md says why */

struct store_shared *store_shared_new(uint64_t block_cache_bytes, unsigned background_threads) {
    struct store_shared *s = mem_new(struct store_shared);
    if (!s) return NULL;
    rocksdb_lru_cache_options_t *o = rocksdb_lru_cache_options_create();
    int shard_bits = 0;
    while (shard_bits < 4 && (block_cache_bytes >> (shard_bits + 1)) >= CACHE_SHARD_BYTES_MIN) shard_bits++;
    rocksdb_lru_cache_options_set_capacity(o, block_cache_bytes);
    rocksdb_lru_cache_options_set_num_shard_bits(o, shard_bits);
    s->cache = rocksdb_cache_create_lru_opts(o);
    rocksdb_lru_cache_options_destroy(o);
    s->background_threads = MAX_OF(background_threads, 1u);
    s->env = rocksdb_create_default_env();
    rocksdb_env_set_background_threads(s->env, (int)s->background_threads);
    rocksdb_env_set_high_priority_background_threads(s->env, s->background_threads > 1 ? 2 : 1);
    return s;
}
void store_shared_free(struct store_shared *s) {
    if (!s) return;
    rocksdb_cache_destroy(s->cache);
    rocksdb_env_destroy(s->env);
    mem_free(s);
}

static void options_tables(rocksdb_options_t *o, const struct store_shared *shared) {
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(t, shared->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(t, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(t, 1);
    rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS)); /* owned by t */
    rocksdb_block_based_options_set_whole_key_filtering(t, 1);
    rocksdb_block_based_options_set_block_size(t, BLOCK_BYTES);
    rocksdb_block_based_options_set_format_version(t, 5);
    rocksdb_block_based_options_set_checksum(t, 4); /* kXXH3 */
    rocksdb_options_set_block_based_table_factory(o, t);
    rocksdb_block_based_options_destroy(t);
}

static void options_memtables(rocksdb_options_t *o, uint64_t memtable_bytes) {
    uint64_t each = MAX_OF(memtable_bytes / MEMTABLES, 64 * KIB);
    rocksdb_options_set_write_buffer_size(o, each);
    rocksdb_options_set_max_write_buffer_number(o, MEMTABLES);
    rocksdb_options_set_min_write_buffer_number_to_merge(o, 1);
    rocksdb_options_set_max_write_buffer_size_to_maintain(o, 0);
    rocksdb_options_set_arena_block_size(o, MIN_OF(MAX_OF(each / 16, 8 * KIB), 1 * MIB));
    rocksdb_options_set_allow_concurrent_memtable_write(o, 0);
    rocksdb_options_set_enable_write_thread_adaptive_yield(o, 0);
    rocksdb_options_set_memtable_whole_key_filtering(o, 1);
    rocksdb_options_set_memtable_prefix_bloom_size_ratio(o, 0.02);
}

static void options_levels(rocksdb_options_t *o) {
    rocksdb_options_set_compression(o, rocksdb_lz4_compression);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    rocksdb_options_set_level0_file_num_compaction_trigger(o, 4);
    rocksdb_options_set_level0_slowdown_writes_trigger(o, LEVEL0_ROCKS_DELAYS);
    rocksdb_options_set_level0_stop_writes_trigger(o, LEVEL0_ROCKS_STOPS);
    rocksdb_options_set_soft_pending_compaction_bytes_limit(o, COMPACTION_DEBT_ROCKS_DELAYS);
    rocksdb_options_set_hard_pending_compaction_bytes_limit(o, COMPACTION_DEBT_ROCKS_STOPS);
    rocksdb_options_set_target_file_size_base(o, 32 * MIB);
    rocksdb_options_set_max_bytes_for_level_base(o, 128 * MIB);
}

static void options_files(rocksdb_options_t *o, const struct store_shared *shared) {
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_paranoid_checks(o, 1);
    rocksdb_options_set_env(o, shared->env);
    rocksdb_options_set_max_background_flushes(o, 1);
    rocksdb_options_set_max_background_compactions(o, (int)shared->background_threads);
    rocksdb_options_set_max_open_files(o, OPEN_FILES_MAX);
    rocksdb_options_set_max_file_opening_threads(o, 2);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    rocksdb_options_set_max_manifest_file_size(o, 64 * MIB);
    rocksdb_options_set_bytes_per_sync(o, 1 * MIB);
    rocksdb_options_set_avoid_unnecessary_blocking_io(o, 1);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    /* One above the last level: not even headers go to the LOG file. The writer behind it asserts (Debian's library has assertions) at the first line after
     * a write that failed, so a full disk would stop the process. What fails, our own log says. */
    rocksdb_options_set_info_log_level(o, 6);
    rocksdb_options_set_keep_log_file_num(o, 1);
}

static const char *expiry_name(void *state) { return "orderdb.expiry"; }
static void expiry_destroy(void *state) {}
static unsigned char expiry_filter_cb(void *state, int level, const char *key, size_t key_len, const char *value, size_t value_len,
                                      char **new_value, size_t *new_value_len, unsigned char *value_changed) {
    struct expiry *e = state;
    return key_len >= 3 && store_row_expired(slice_of(value, value_len), atomic_load_explicit(&e->horizon_us[(uint8_t)key[2]], memory_order_relaxed));
}

static char *options_make(struct rocks_store *s, uint64_t memtable_bytes) {
    rocksdb_options_t *o = rocksdb_options_create();
    char *error = NULL;
    options_memtables(o, memtable_bytes);
    options_levels(o);
    options_tables(o, s->shared);
    options_files(o, s->shared);
    s->filter = rocksdb_compactionfilter_create(&s->expiry, expiry_destroy, expiry_filter_cb, expiry_name);
    rocksdb_options_set_compaction_filter(o, s->filter);
    s->options = rocksdb_options_create();
    /* Has no call of its own in the C API. A close that flushed would wait for a disk that is full. */
    rocksdb_get_options_from_string(o, "avoid_flush_during_shutdown=true", s->options, &error);
    rocksdb_options_destroy(o);
    s->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(s->write, 1);
    s->flush = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(s->flush, 1);
    return error;
}

/* Checksums are verified on every read from disk (the default, said here because all rests on it). */
static rocksdb_readoptions_t *read_options(bool cached_only) {
    rocksdb_readoptions_t *r = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(r, 1);
    rocksdb_readoptions_set_fill_cache(r, 1);
    rocksdb_readoptions_set_total_order_seek(r, 1);
    rocksdb_readoptions_set_background_purge_on_iterator_cleanup(r, 1);
    if (cached_only) rocksdb_readoptions_set_read_tier(r, 1); /* kBlockCacheTier */
    return r;
}

/* ---- point reads and snapshots */

static rocksdb_readoptions_t *view_options(const struct store_view *view) {
    return view->snapshot ? view->snapshot->read[view->cached_only] : rocks_of(view->store)->read[view->cached_only];
}

static enum status value_copy(struct arena *arena, const char *data, size_t len, struct slice *value) {
    *value = arena_copy(arena, slice_of(data, len));
    return value->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

static enum status rocks_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    struct rocks_store *s = rocks_of(view->store);
    struct rocks_batch *b = view->batch ? container_of(view->batch, struct rocks_batch, base) : NULL;
    char *error = NULL;
    size_t len = 0;
    enum status st = STATUS_ABSENT;
    if (b && rocksdb_writebatch_wi_count(b->rows)) {
        char *data = rocksdb_writebatch_wi_get_from_batch_and_db(b->rows, s->db, view_options(view), chars(key), key.len, &len, &error);
        if (data) st = value_copy(arena, data, len, value);
        rocksdb_free(data);
    } else {
        rocksdb_pinnableslice_t *row = rocksdb_get_pinned(s->db, view_options(view), chars(key), key.len, &error);
        if (row) {
            const char *data = rocksdb_pinnableslice_value(row, &len);
            st = value_copy(arena, data, len, value);
            rocksdb_pinnableslice_destroy(row);
        }
    }
    return error ? rocks_read_error(s, error) : st;
}

static struct store_snapshot *rocks_snapshot_get(struct store *base) {
    struct store_snapshot *n = mem_new(struct store_snapshot);
    if (!n) return NULL;
    n->snapshot = rocksdb_create_snapshot(rocks_of(base)->db);
    for (int cached = 0; cached < 2; cached++) {
        n->read[cached] = read_options(cached);
        rocksdb_readoptions_set_snapshot(n->read[cached], n->snapshot);
    }
    return n;
}
static void rocks_snapshot_put(struct store *base, struct store_snapshot *n) {
    for (int cached = 0; cached < 2; cached++) rocksdb_readoptions_destroy(n->read[cached]);
    rocksdb_release_snapshot(rocks_of(base)->db, n->snapshot);
    mem_free(n);
}

/* ---- iterators. Over a batch, RocksDB lays the batch's rows over the store's; the bounds then hold for the store's rows alone, so they
 * are checked here too, and the ends are found by seeking to a bound. */

static struct store_iter *rocks_iter_open(const struct store_view *view, struct slice lower, struct slice upper) {
    struct rocks_store *s = rocks_of(view->store);
    struct rocks_iter *it = mem_zalloc(sizeof *it + lower.len + upper.len);
    if (!it) return NULL;
    it->base.store = view->store, it->base.magic = STORE_ITER_MAGIC;
    if (lower.len) memcpy(it->bounds, lower.data, lower.len);
    if (upper.len) memcpy(it->bounds + lower.len, upper.data, upper.len);
    it->base.lower = slice_of(it->bounds, lower.len), it->base.upper = slice_of(it->bounds + lower.len, upper.len);
    it->over_batch = view->batch != NULL;
    it->read = read_options(view->cached_only); /* readahead stays automatic: none for a page of a list, growing for a long scan */
    if (view->bulk) rocksdb_readoptions_set_fill_cache(it->read, 0);
    if (view->snapshot) rocksdb_readoptions_set_snapshot(it->read, view->snapshot->snapshot);
    if (upper.len) rocksdb_readoptions_set_iterate_upper_bound(it->read, chars(it->base.upper), upper.len);
    if (lower.len && !it->over_batch) rocksdb_readoptions_set_iterate_lower_bound(it->read, chars(it->base.lower), lower.len);
    it->rows = rocksdb_create_iterator(s->db, it->read);
    if (it->over_batch) it->rows = rocksdb_writebatch_wi_create_iterator_with_base(container_of(view->batch, struct rocks_batch, base)->rows, it->rows);
    return &it->base;
}
static void rocks_iter_close(struct store_iter *base) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    base->magic = 0;
    rocksdb_iter_destroy(it->rows);
    rocksdb_readoptions_destroy(it->read);
    mem_free(it);
}

/* Takes over where RocksDB's iterator stands. */
static void rocks_iter_stand(struct rocks_iter *it) {
    struct store_iter *base = &it->base;
    base->valid = rocksdb_iter_valid(it->rows);
    base->status = STATUS_OK;
    if (!base->valid) {
        char *error = NULL;
        rocksdb_iter_get_error(it->rows, &error);
        if (error) base->status = rocks_read_error(rocks_of(base->store), error);
        return;
    }
    base->key.data = (const uint8_t *)rocksdb_iter_key(it->rows, &base->key.len);
    base->value.data = (const uint8_t *)rocksdb_iter_value(it->rows, &base->value.len);
    if (it->over_batch) base->valid = slice_compare(base->key, base->lower) >= 0 && (!base->upper.len || slice_compare(base->key, base->upper) < 0);
}
static void rocks_iter_first(struct store_iter *base) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    if (it->over_batch) rocksdb_iter_seek(it->rows, chars(base->lower), base->lower.len);
    else rocksdb_iter_seek_to_first(it->rows);
    rocks_iter_stand(it);
}
static void rocks_iter_last(struct store_iter *base) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    if (it->over_batch && base->upper.len) {
        rocksdb_iter_seek_for_prev(it->rows, chars(base->upper), base->upper.len);
        size_t len;
        const char *key = rocksdb_iter_valid(it->rows) ? rocksdb_iter_key(it->rows, &len) : NULL;
        if (key && slice_equal(slice_of(key, len), base->upper)) rocksdb_iter_prev(it->rows);
    } else {
        rocksdb_iter_seek_to_last(it->rows);
    }
    rocks_iter_stand(it);
}
static void rocks_iter_seek(struct store_iter *base, struct slice key) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    rocksdb_iter_seek(it->rows, chars(key), key.len);
    rocks_iter_stand(it);
}
static void rocks_iter_seek_back(struct store_iter *base, struct slice key) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    rocksdb_iter_seek_for_prev(it->rows, chars(key), key.len);
    rocks_iter_stand(it);
}
static void rocks_iter_next(struct store_iter *base) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    rocksdb_iter_next(it->rows);
    rocks_iter_stand(it);
}
static void rocks_iter_prev(struct store_iter *base) {
    struct rocks_iter *it = container_of(base, struct rocks_iter, base);
    rocksdb_iter_prev(it->rows);
    rocks_iter_stand(it);
}

/* ---- writes */

static struct store_batch *rocks_batch_new(struct store *s) {
    struct rocks_batch *b = mem_new(struct rocks_batch);
    if (!b) return NULL;
    b->rows = rocksdb_writebatch_wi_create(0, 1); /* overwrite_keys: one row per key in the index, the newest */
    return &b->base;
}
static void rocks_batch_free(struct store_batch *base) {
    struct rocks_batch *b = container_of(base, struct rocks_batch, base);
    rocksdb_writebatch_wi_destroy(b->rows);
    mem_free(b);
}
static void rocks_batch_clear(struct store_batch *base) { rocksdb_writebatch_wi_clear(container_of(base, struct rocks_batch, base)->rows); }
static void rocks_batch_put(struct store_batch *base, struct slice key, struct slice value) {
    rocksdb_writebatch_wi_put(container_of(base, struct rocks_batch, base)->rows, chars(key), key.len, chars(value), value.len);
}
static void rocks_batch_delete(struct store_batch *base, struct slice key) {
    rocksdb_writebatch_wi_delete(container_of(base, struct rocks_batch, base)->rows, chars(key), key.len);
}

static enum status rocks_apply(struct store *base, struct store_batch *batch) {
    struct rocks_store *s = rocks_of(base);
    int failed = atomic_load(&s->failed);
    if (failed) return (enum status)failed;
    char *error = NULL;
    rocksdb_write_writebatch_wi(s->db, s->write, container_of(batch, struct rocks_batch, base)->rows, &error);
    if (error) return rocks_write_error(s, "store apply", error);
    atomic_fetch_add(&s->applied_bytes, batch->bytes);
    return STATUS_OK;
}

/* RocksDB's manual flush closes the memtable that is being written and waits for it and all before it: everything applied before. */
/* Opening needs a new MANIFEST (preallocated by 4 MiB), CURRENT, OPTIONS. */
static enum status rocks_probe(struct store *base, char error[256]) {
    static const uint8_t zeros[PROBE_WRITE_BYTES];
    char name[STORE_PATH_BYTES_MAX + 16];
    error[0] = 0;
    snprintf(name, sizeof name, "%s/PROBE", rocks_of(base)->path);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return file_error(error, "create", name);
    bool room = fallocate(fd, 0, 0, PROBE_BYTES) == 0 || errno == EOPNOTSUPP || errno == ENOSYS;
    if (room) errno = ENOSPC; /* what a short write means */
    bool written = room && write(fd, zeros, sizeof zeros) == (ssize_t)sizeof zeros && fsync(fd) == 0;
    enum status st = written ? STATUS_OK : file_error(error, "write", name);
    close(fd);
    unlink(name);
    return st;
}

static enum status rocks_flush(struct store *base) {
    struct rocks_store *s = rocks_of(base);
    int failed = atomic_load(&s->failed);
    if (failed) return (enum status)failed;
    uint64_t bytes = atomic_load(&s->applied_bytes);
    char *error = NULL;
    rocksdb_flush(s->db, s->flush, &error);
    if (error) return rocks_write_error(s, "store flush", error);
    atomic_store(&s->flushed_bytes, bytes);
    return STATUS_OK;
}

static void rocks_set_expiry(struct store *base, uint8_t kind, uint64_t horizon_us) {
    _Atomic uint64_t *at = &rocks_of(base)->expiry.horizon_us[kind];
    if (horizon_us > atomic_load(at)) atomic_store(at, horizon_us); /* log time never goes back */
}

/* ---- what the store says of itself */

static uint64_t rocks_property(struct rocks_store *s, const char *name) {
    uint64_t value = 0;
    check(rocksdb_property_int(s->db, name, &value) == 0); /* only a misspelt name fails */
    return value;
}

static uint8_t rocks_pressure(struct rocks_store *s, const struct store_stats *st) {
    if (st->failed || st->immutable_memtables >= IMMUTABLE_CLOSED || st->level0_files >= LEVEL0_CLOSED) return 2;
    if (st->pending_compaction_bytes >= COMPACTION_DEBT_CLOSED) return 2;
    if (rocks_property(s, "rocksdb.is-write-stopped") || rocks_property(s, "rocksdb.actual-delayed-write-rate")) return 2;
    return st->immutable_memtables >= IMMUTABLE_SLOW || st->level0_files >= LEVEL0_SLOW || st->pending_compaction_bytes >= COMPACTION_DEBT_SLOW;
}

/* A flush or compaction has failed. An empty write, which never waits, is answered with the cause, unless RocksDB goes on writing (a compaction found
 * no space) or has healed since. It does either for a full disk alone: of all errno its files call only ENOSPC retryable (env/io_posix.cc). */
static void rocks_background_error(struct rocks_store *s) {
    rocksdb_writeoptions_t *probe = rocksdb_writeoptions_create();
    rocksdb_writebatch_t *empty = rocksdb_writebatch_create();
    char *error = NULL;
    rocksdb_writeoptions_disable_WAL(probe, 1);
    rocksdb_writeoptions_set_no_slowdown(probe, 1);
    rocksdb_write(s->db, probe, empty, &error);
    rocksdb_writebatch_destroy(empty);
    rocksdb_writeoptions_destroy(probe);
    if (error && rocks_status(error) != STATUS_WOULD_BLOCK) {
        (void)!rocks_write_error(s, "store background write", error);
        return;
    }
    int none = STATUS_OK;
    if (atomic_compare_exchange_strong(&s->failed, &none, STATUS_DISK_FULL))
        log_error("store background write", "path=%s err=no space, for a while at least", s->path);
    rocksdb_free(error);
}

static void rocks_stats_take(struct rocks_store *s) {
    struct store_stats *st = &s->stats;
    st->memtable_bytes = rocks_property(s, "rocksdb.size-all-mem-tables");
    st->immutable_memtables = (uint32_t)rocks_property(s, "rocksdb.num-immutable-mem-table");
    st->pending_compaction_bytes = rocks_property(s, "rocksdb.estimate-pending-compaction-bytes");
    st->table_bytes = rocks_property(s, "rocksdb.live-sst-files-size");
    char *files = rocksdb_property_value(s->db, "rocksdb.num-files-at-level0");
    st->level0_files = files ? (uint32_t)strtoul(files, NULL, 10) : 0;
    rocksdb_free(files);
    /* RocksDB counts background errors and never forgets one. */
    if (!atomic_load(&s->failed) && rocks_property(s, "rocksdb.background-errors")) rocks_background_error(s);
    st->failed = atomic_load(&s->failed) != STATUS_OK;
    st->pressure = rocks_pressure(s, st);
}

static void rocks_get_stats(struct store *base, struct store_stats *out) {
    struct rocks_store *s = rocks_of(base);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t now_ns = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
    pthread_mutex_lock(&s->stats_lock);
    if (!s->stats_ns || now_ns - s->stats_ns >= STATS_AGE_MS * NS_PER_MS) rocks_stats_take(s), s->stats_ns = now_ns;
    *out = s->stats;
    pthread_mutex_unlock(&s->stats_lock);
    /* The rest is cheap and always new. A memtable that filled up was flushed without us: the memtables' size bounds what is left. */
    uint64_t flushed = atomic_load(&s->flushed_bytes), applied = atomic_load(&s->applied_bytes);
    out->unflushed_bytes = MIN_OF(applied - flushed, MAX_OF(out->memtable_bytes, 1u));
    out->failure = (enum status)atomic_load(&s->failed);
    if (out->failure) out->failed = true, out->pressure = 2;
}

static void rocks_drop_range(struct store *base, struct slice lower, struct slice upper) {
    struct rocks_store *s = rocks_of(base);
    char *error = NULL;
    rocksdb_delete_file_in_range(s->db, chars(lower), lower.len, chars(upper), upper.len, &error);
    if (error) log_warn("files of expired rows could not be dropped", "path=%s err=%s", s->path, error), rocksdb_free(error);
}

static uint64_t rocks_range_bytes(struct store *base, struct slice lower, struct slice upper) {
    static const char end[] = "\xff\xff\xff\xff\xff\xff\xff\xff";
    const char *from = chars(lower), *to = upper.len ? chars(upper) : end;
    size_t from_len = lower.len, to_len = upper.len ? upper.len : sizeof end - 1;
    uint64_t bytes = 0;
    char *error = NULL;
    rocksdb_approximate_sizes(rocks_of(base)->db, 1, &from, &from_len, &to, &to_len, &bytes, &error);
    if (error) rocks_read_error(rocks_of(base), error), bytes = 0;
    return bytes;
}

/* ---- open and close */

static void rocks_close(struct store *base) {
    struct rocks_store *s = rocks_of(base);
    base->magic = 0;
    if (s->db) {
        rocksdb_cancel_all_background_work(s->db, 1);
        rocksdb_close(s->db);
    }
    for (int cached = 0; cached < 2; cached++)
        if (s->read[cached]) rocksdb_readoptions_destroy(s->read[cached]);
    if (s->write) rocksdb_writeoptions_destroy(s->write);
    if (s->flush) rocksdb_flushoptions_destroy(s->flush);
    if (s->options) rocksdb_options_destroy(s->options);
    if (s->filter) rocksdb_compactionfilter_destroy(s->filter); /* RocksDB borrowed it */
    store_shared_free(s->own);
    pthread_mutex_destroy(&s->stats_lock);
    mem_free(s->path);
    mem_free(s);
}

static const struct store_ops rocks_ops = {
    .close = rocks_close,
    .get = rocks_get,
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
    .set_expiry = rocks_set_expiry,
    .get_stats = rocks_get_stats,
    .drop_range = rocks_drop_range,
    .range_bytes = rocks_range_bytes,
};

enum status store_open_rocks(struct store **out, const char *path, const struct store_config *config, char error[256]) {
    *out = NULL;
    error[0] = 0;
    enum status st = dir_prepare(path, error);
    if (st) return st;
    struct rocks_store *s = mem_new(struct rocks_store);
    if (s) store_init(&s->base, &rocks_ops), check(pthread_mutex_init(&s->stats_lock, NULL) == 0);
    if (s && (s->path = mem_strdup(path))) {
        s->own = config->shared ? NULL : store_shared_new(config->block_cache_bytes, 1);
        s->shared = config->shared ? config->shared : s->own;
    }
    if (!s || !s->path || !s->shared) {
        if (s) rocks_close(&s->base);
        snprintf(error, 256, "%.200s: no memory", path);
        return STATUS_MEMORY_LIMIT;
    }
    char *rocks_error = options_make(s, config->memtable_bytes);
    for (int cached = 0; cached < 2; cached++) s->read[cached] = read_options(cached);
    if (!rocks_error) s->db = rocksdb_open(s->options, path, &rocks_error);
    if (rocks_error) {
        st = rocks_status(rocks_error);
        if (st == STATUS_WOULD_BLOCK) st = STATUS_IO_FAILED;
        snprintf(error, 256, "%.100s: %.150s", path, rocks_error);
        rocksdb_free(rocks_error);
        rocks_close(&s->base);
        return st;
    }
    *out = &s->base;
    return STATUS_OK;
}
