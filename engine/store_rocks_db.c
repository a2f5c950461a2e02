/* RocksDB itself: its errors in our words, its options (docs/STORAGE.md says why), what it says of itself. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum {
    FROZEN_SLOW = 2,   /* our admission refuses bulk, and all writes, before apply has to wait for a run */
    FROZEN_CLOSED = 3,
    MERGE_WIDTH = 10,         /* runs of like size become one; fewer are left alone */
    MERGE_LIKE_PERCENT = 100, /* like: none is more than twice its neighbour */
    MERGE_ALL_PERCENT = 400,  /* all of them do, when what is newer than the oldest is so much of it: rows that were written over take no more than four times the others' room */
    FILE_BYTES = 64 << 20,
    LEVEL0_SLOW = 36,
    LEVEL0_CLOSED = 56,
    LEVEL0_ROCKS_DELAYS = 80,
    LEVEL0_ROCKS_STOPS = 100,
    BLOCK_BYTES = 8192,
    BLOOM_BITS = 10,
    MERGE_READ_BYTES = 256 << 10,
    MERGE_NICE = 6,      /* a quarter of a core's weight (sched(7)): docs/STORAGE.md, Priorities */
    MERGE_LAST_NICE = 7, /* a fifth: of merges into the oldest run, which nobody waits for */
    TURN_ROWS = 64,      /* some 50 us */
    TURN_NS = 500000,
    REST_NS = 20000,
    CACHE_SHARD_BYTES_MIN = 8 << 20, /* far above the largest block (a filter, 300 KB), so that a shard never thrashes */
    STATS_AGE_MS = 10,
    STATS_CALM_MS = 1000, /* no figure has changed for so long, and there is no pressure: then they are taken */
    STATS_CALM_AGE_MS = 500, /* so seldom */
    READ_ERRORS_LOGGED_MAX = 10,
};
#define COMPACTION_DEBT_SLOW (16 * GIB)
#define COMPACTION_DEBT_CLOSED (32 * GIB)
#define COMPACTION_DEBT_ROCKS_DELAYS (64 * GIB)
#define COMPACTION_DEBT_ROCKS_STOPS (256 * GIB)
static_assert(FROZEN_CLOSED < STORE_TABLES_MAX - 2, "our admission closes first");

/* ---- errors */

/* What a Status::ToString() says (rocksdb/status.cc): the code in words, then the operating system's text. */
enum status rocks_status(const char *error) {
    if (!error) return STATUS_OK;
    if (strstr(error, "No space left") || strstr(error, "Disk quota exceeded") || strstr(error, "Space limit reached")) return STATUS_DISK_FULL;
    if (strncmp(error, "Corruption", 10) == 0) return STATUS_CHECKSUM_MISMATCH;
    if (strncmp(error, "Result incomplete", 17) == 0) return STATUS_WOULD_BLOCK;
    return STATUS_IO_FAILED;
}

/* "block checksum mismatch: stored = 1, computed = 2, type = 4  in /data/part-00003/000123.sst offset 8197 size 4082" (block_fetcher.cc), "file is too short (17 bytes) to be an sstable: /data/.../000123.sst"
 * (format.cc). */
void rocks_damage_read(const char *path, const char *error, struct store_damage *damage) {
    static const char suffix[] = ".sst", at[] = " offset ";
    const char *end = strstr(error, suffix), *name = end, *directory = strrchr(path, '/');
    *damage = (struct store_damage){.offset = -1};
    if (!end) return;
    while (name > error && name[-1] != '/' && name[-1] != ' ') name--;
    end += sizeof suffix - 1;
    if (snprintf(damage->file, sizeof damage->file, "%s/%.*s", directory ? directory + 1 : path, (int)(end - name), name) >= (int)sizeof damage->file) damage->file[0] = 0;
    if (strncmp(end, at, sizeof at - 1) == 0 && end[sizeof at - 1] >= '0' && end[sizeof at - 1] <= '9') damage->offset = strtoll(end + sizeof at - 1, NULL, 10);
}

/* Takes the text over. A read's error leaves the store as it is; the first few are logged. */
enum status rocks_read_error(struct rocks_store *s, char *error, struct store_damage *damage) {
    enum status st = rocks_status(error);
    if (st == STATUS_CHECKSUM_MISMATCH && damage) rocks_damage_read(s->path, error, damage);
    if (st && st != STATUS_WOULD_BLOCK && atomic_fetch_add(&s->read_errors, 1) < READ_ERRORS_LOGGED_MAX)
        log_error("store read", "path=%s err=%s", s->path, error);
    rocksdb_free(error);
    return st;
}

/* Takes the text over. The first failed write decides what later ones answer. */
enum status rocks_write_error(struct rocks_store *s, const char *what, char *error) {
    if (!error) return STATUS_OK;
    int none = STATUS_OK;
    enum status st = rocks_status(error);
    if (st == STATUS_WOULD_BLOCK) st = STATUS_IO_FAILED;
    if (atomic_compare_exchange_strong(&s->failed, &none, (int)st)) log_error(what, "path=%s err=%s", s->path, error);
    rocksdb_free(error);
    return (enum status)atomic_load(&s->failed);
}

/* ---- options */

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
    s->cache_bytes = block_cache_bytes;
    s->env = rocksdb_create_default_env();
    s->merge_threads = background_threads > 1 ? background_threads - 1 : 1;
    rocksdb_env_set_background_threads(s->env, (int)s->merge_threads);
    rocksdb_env_set_bottom_priority_background_threads(s->env, 1); /* merges into the oldest run take minutes, and small ones must not wait for them */
    rocksdb_env_set_high_priority_background_threads(s->env, 1); /* for flushes: there are none */
    if (run_threads_start(s, MIN_OF(MAX_OF(background_threads, 1u), (unsigned)STORE_RUN_THREADS_MAX))) return s;
    store_shared_free(s);
    return NULL;
}
void store_shared_free(struct store_shared *s) {
    if (!s) return;
    run_threads_stop(s);
    rocksdb_cache_destroy(s->cache);
    rocksdb_env_destroy(s->env);
    mem_free(s);
}

/* Filters and indexes of open files lie beside the block cache, which gives way to them as far as to a quarter: so the two together are what was given to it. */
void store_shared_readers(struct store_shared *shared, uint64_t *own, uint64_t bytes) {
    pthread_mutex_lock(&shared->lock);
    shared->readers_bytes += bytes - *own;
    *own = bytes;
    uint64_t least = shared->cache_bytes / 4;
    rocksdb_cache_set_capacity(shared->cache, shared->cache_bytes > shared->readers_bytes + least ? shared->cache_bytes - shared->readers_bytes : least);
    pthread_mutex_unlock(&shared->lock);
}

/* What of each key is in the filters of files: of grouped keys the group, of deferred ones, which are read by scans over many, nothing, of all others the whole. Files remember under which name their filter was made, and are
 * asked without it under another: so what it takes of a key belongs to the name. */
static const char *filtered_name(void *state) { return ((const struct rocks_store *)state)->grouped_kind ? "orderdb.filtered.groups" : "orderdb.filtered"; }
static void filtered_destroy(void *state) {}
static unsigned char filtered_in_domain_cb(void *state, const char *key, size_t len) {
    const struct rocks_store *s = state;
    return !s->deferred.len || !slice_starts_with(slice_of(key, len), s->deferred);
}
static unsigned char filtered_in_range_cb(void *state, const char *key, size_t len) { return 1; }
static char *filtered_part_cb(void *state, const char *key, size_t len, size_t *part_len) {
    const struct rocks_store *s = state;
    bool grouped = s->grouped_kind && len > 3u + s->grouped_tail && (uint8_t)key[2] == s->grouped_kind;
    *part_len = grouped ? len - s->grouped_tail : len;
    return (char *)key; /* RocksDB's type; it only reads it */
}

static void options_tables(rocksdb_options_t *o, struct rocks_store *s, enum rocks_family family) {
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(t, s->shared->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 0);
    if (family == FAMILY_ROWS) { /* growing keys are read by scans, and lie in one file each */
        rocksdb_block_based_options_set_filter_policy(t, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS)); /* owned by t */
        rocksdb_block_based_options_set_whole_key_filtering(t, 0);
        rocksdb_options_set_prefix_extractor(o, rocksdb_slicetransform_create(s, filtered_destroy, filtered_part_cb, filtered_in_domain_cb, filtered_in_range_cb, filtered_name)); /* owned by o */
    }
    rocksdb_block_based_options_set_block_size(t, BLOCK_BYTES);
    rocksdb_block_based_options_set_format_version(t, 5);
    rocksdb_block_based_options_set_checksum(t, 4); /* kXXH3 */
    rocksdb_options_set_block_based_table_factory(o, t);
    rocksdb_block_based_options_destroy(t);
}

/* Rows are merged by tiers: MERGE_WIDTH runs of like size become one, so a row is written again each time that its partition has grown tenfold. The growing family has nothing to merge: its
 * files stand on the lowest level, beside each other. */
static void options_merges(rocksdb_options_t *o, enum rocks_family family) {
    rocksdb_options_set_compression(o, rocksdb_lz4_compression);
    rocksdb_options_set_level0_slowdown_writes_trigger(o, LEVEL0_ROCKS_DELAYS);
    rocksdb_options_set_level0_stop_writes_trigger(o, LEVEL0_ROCKS_STOPS);
    rocksdb_options_set_target_file_size_base(o, FILE_BYTES);
    if (family == FAMILY_GROWING) {
        rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
        return;
    }
    rocksdb_universal_compaction_options_t *u = rocksdb_universal_compaction_options_create();
    rocksdb_universal_compaction_options_set_min_merge_width(u, MERGE_WIDTH);
    rocksdb_universal_compaction_options_set_size_ratio(u, MERGE_LIKE_PERCENT);
    rocksdb_universal_compaction_options_set_stop_style(u, rocksdb_similar_size_compaction_stop_style);
    rocksdb_universal_compaction_options_set_max_size_amplification_percent(u, MERGE_ALL_PERCENT);
    rocksdb_options_set_compaction_style(o, rocksdb_universal_compaction);
    rocksdb_options_set_universal_compaction_options(o, u);
    rocksdb_options_set_level0_file_num_compaction_trigger(o, MERGE_WIDTH);
    rocksdb_universal_compaction_options_destroy(u);
}

static void options_files(rocksdb_options_t *o, const struct store_shared *shared) {
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_create_missing_column_families(o, 1);
    rocksdb_options_set_paranoid_checks(o, 1);
    rocksdb_options_set_env(o, shared->env);
    rocksdb_options_set_max_background_flushes(o, 1);
    rocksdb_options_set_max_background_compactions(o, (int)shared->merge_threads + 1); /* of one store, the one into its oldest run among them: while that waits for its thread small ones go on */
    rocksdb_options_set_max_open_files(o, -1); /* no table of open files that each look-up of a row would have to lock */
    rocksdb_options_set_max_file_opening_threads(o, 2);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    rocksdb_options_set_max_manifest_file_size(o, 64 * MIB);
    rocksdb_options_set_writable_file_max_buffer_size(o, PUSH_BYTES);
    rocksdb_options_set_bytes_per_sync(o, PUSH_BYTES);
    rocksdb_options_compaction_readahead_size(o, MERGE_READ_BYTES);
    rocksdb_options_set_access_hint_on_compaction_start(o, 0); /* none: RocksDB's own readahead is enough */
    rocksdb_options_set_avoid_unnecessary_blocking_io(o, 1);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    /* One above the last level: not even headers go to the LOG file. The writer behind it asserts (Debian's library has assertions) at the first line after
     * a write that failed, so a full disk would stop the process. What fails, our own log says. */
    rocksdb_options_set_info_log_level(o, 6);
    rocksdb_options_set_keep_log_file_num(o, 1);
}

/* RocksDB's own lower priority is nice 19: while cores are busy such a thread gets a hundredth of a CPU, and compactions never catch up. C has no door for another value, so a thread sets its own when it
 * comes by here for the first time. */
static void merge_be_nice(void) {
    static _Thread_local bool done;
    char name[16] = "";
    if (done) return;
    done = true;
    (void)pthread_getname_np(pthread_self(), name, sizeof name); /* rocksdb:low, rocksdb:bottom */
    (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), strstr(name, "bot") ? MERGE_LAST_NICE : MERGE_NICE); /* Linux: of this thread alone */
}

/* Whoever gets a turn beside a core's thread on its CPU has it until the kernel's next tick (4 ms at 250 Hz), however little is due to it. So a thread that merges or writes a run ends its turn itself, by a sleep: it
 * keeps its claim to what is due (sched_yield may forfeit it, by the kernel's version). */
void rocks_make_way(void) {
    static _Thread_local struct {
        unsigned rows;
        uint64_t rested_ns; /* of this thread's CPU time */
    } turn;
    struct timespec t;
    if (++turn.rows % TURN_ROWS) return;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    uint64_t used_ns = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
    if (used_ns - turn.rested_ns < TURN_NS) return;
    if (!turn.rested_ns) (void)prctl(PR_SET_TIMERSLACK, 1000ul); /* of this thread: 1 us instead of 50 */
    turn.rested_ns = used_ns;
    (void)nanosleep(&(struct timespec){.tv_nsec = REST_NS}, NULL);
}

static const char *expiry_name(void *state) { return "orderdb.expiry"; }
static void expiry_destroy(void *state) {}
static unsigned char expiry_filter_cb(void *state, int level, const char *key, size_t key_len, const char *value, size_t value_len,
                                      char **new_value, size_t *new_value_len, unsigned char *value_changed) {
    struct expiry *e = state;
    merge_be_nice();
    rocks_make_way();
    return key_len >= 3 && store_row_expired(slice_of(value, value_len), atomic_load_explicit(&e->horizon_us[(uint8_t)key[2]], memory_order_relaxed));
}

void rocks_options_make(struct rocks_store *s) {
    s->filter = rocksdb_compactionfilter_create(&s->expiry, expiry_destroy, expiry_filter_cb, expiry_name);
    for (unsigned f = 0; f < FAMILIES; f++) {
        rocksdb_options_t *o = s->options[f] = rocksdb_options_create();
        options_merges(o, f);
        options_tables(o, s, f);
        options_files(o, s->shared);
        rocksdb_options_set_write_buffer_size(o, 64 * KIB); /* nothing is ever written to it */
        rocksdb_options_set_compaction_filter(o, s->filter);
    }
    for (int cached = 0; cached < 2; cached++) s->read[cached] = rocks_read_options(cached, true);
    s->env_options = rocksdb_envoptions_create();
    s->ingest = rocksdb_ingestexternalfileoptions_create();
    rocksdb_ingestexternalfileoptions_set_move_files(s->ingest, 1);
}

void rocks_options_free(struct rocks_store *s) {
    for (int cached = 0; cached < 2; cached++)
        if (s->read[cached]) rocksdb_readoptions_destroy(s->read[cached]);
    if (s->env_options) rocksdb_envoptions_destroy(s->env_options);
    if (s->ingest) rocksdb_ingestexternalfileoptions_destroy(s->ingest);
    for (unsigned f = 0; f < FAMILIES; f++)
        if (s->options[f]) rocksdb_options_destroy(s->options[f]);
    if (s->filter) rocksdb_compactionfilter_destroy(s->filter); /* RocksDB borrowed it */
}

/* Checksums are verified on every read from disk (the default, said here because all rests on it). */
rocksdb_readoptions_t *rocks_read_options(bool cached_only, bool filtered) {
    rocksdb_readoptions_t *r = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(r, 1);
    rocksdb_readoptions_set_fill_cache(r, 1);
    rocksdb_readoptions_set_total_order_seek(r, !filtered); /* a point read and a scan of one group ask the filters, other scans must not */
    rocksdb_readoptions_set_background_purge_on_iterator_cleanup(r, 1);
    if (cached_only) rocksdb_readoptions_set_read_tier(r, 1); /* kBlockCacheTier */
    return r;
}

/* ---- what the store says of itself */

static uint64_t rocks_property(struct rocks_store *s, enum rocks_family family, const char *name) {
    uint64_t value = 0;
    check(rocksdb_property_int_cf(s->db, s->families[family], name, &value) == 0); /* only a misspelt name fails */
    return value;
}

/* Of all families together. */
static uint64_t rocks_property_sum(struct rocks_store *s, const char *name) {
    uint64_t sum = 0;
    for (unsigned f = 0; f < s->family_count; f++) sum += rocks_property(s, f, name);
    return sum;
}

#define FILES_BYTES "rocksdb.live-sst-files-size"
uint64_t rocks_files_bytes(struct rocks_store *s) { return rocks_property_sum(s, FILES_BYTES); }

/* 0 below `slow`, at least 1 from there, STORE_BEHIND_FULL at `closed`. */
static uint32_t behind_between(uint64_t value, uint64_t slow, uint64_t closed) {
    if (value < slow) return 0;
    return value >= closed ? STORE_BEHIND_FULL : (uint32_t)MAX_OF((value - slow) * STORE_BEHIND_FULL / (closed - slow), 1ull);
}

/* Of RocksDB: what compactions are behind with. */
static uint32_t files_behind(struct rocks_store *s, const struct store_stats *st) {
    if (rocks_property(s, FAMILY_ROWS, "rocksdb.is-write-stopped") || rocks_property(s, FAMILY_ROWS, "rocksdb.actual-delayed-write-rate")) return STORE_BEHIND_FULL;
    return MAX_OF(behind_between(st->level0_files, LEVEL0_SLOW, LEVEL0_CLOSED), behind_between(st->pending_compaction_bytes, COMPACTION_DEBT_SLOW, COMPACTION_DEBT_CLOSED));
}

/* Of the tables: apply waits when the budget is used up. How many are frozen tells little of how far it is: two of a quarter each are half of the budget. */
static uint32_t tables_behind(const struct rocks_store *s, const struct version *v) {
    unsigned frozen = v->count - 1;
    if (frozen >= FROZEN_CLOSED) return STORE_BEHIND_FULL;
    return MAX_OF(behind_between(version_bytes(v), s->budget_bytes / 2, s->budget_bytes / 4 * 3), (uint32_t)(frozen >= FROZEN_SLOW));
}

/* A compaction has failed. An empty write, which never waits, is answered with the cause, unless RocksDB goes on writing (a compaction found
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

/* Seven questions, 5 us: 64 partitions that nobody writes to would take 2 % of a core for them. What changes the answers is a run that was ingested, which is seen at once, and compactions, which go on for a while after it. */
static bool rocks_stats_due(const struct rocks_store *s, uint64_t now_ns) {
    bool calm = !s->stats.behind && now_ns - s->stats_changed_ns >= STATS_CALM_MS * NS_PER_MS;
    return !s->stats_ns || s->stats_runs != atomic_load(&s->runs) || now_ns - s->stats_ns >= (uint64_t)(calm ? STATS_CALM_AGE_MS : STATS_AGE_MS) * NS_PER_MS;
}

static void rocks_stats_take(struct rocks_store *s, uint64_t now_ns) {
    struct store_stats *st = &s->stats, before = *st;
    uint64_t runs = atomic_load(&s->runs);
    st->pending_compaction_bytes = rocks_property(s, FAMILY_ROWS, "rocksdb.estimate-pending-compaction-bytes");
    st->merge_bytes_max = rocks_property(s, FAMILY_ROWS, FILES_BYTES);
    st->table_bytes = st->merge_bytes_max + (s->family_count > 1 ? rocks_property(s, FAMILY_GROWING, FILES_BYTES) : 0);
    char *files = rocksdb_property_value_cf(s->db, s->families[FAMILY_ROWS], "rocksdb.num-files-at-level0");
    st->level0_files = files ? (uint32_t)strtoul(files, NULL, 10) : 0;
    rocksdb_free(files);
    /* RocksDB counts background errors and never forgets one. */
    if (!atomic_load(&s->failed) && rocks_property(s, FAMILY_ROWS, "rocksdb.background-errors")) rocks_background_error(s);
    st->behind = files_behind(s, st);
    bool files_changed = st->table_bytes != before.table_bytes || st->level0_files != before.level0_files || !s->stats_ns;
    if (files_changed) store_shared_readers(s->shared, &s->readers_bytes, rocks_property_sum(s, "rocksdb.estimate-table-readers-mem")), st->table_readers_bytes = s->readers_bytes;
    bool changed = files_changed || st->pending_compaction_bytes != before.pending_compaction_bytes;
    if (changed || runs != s->stats_runs) s->stats_changed_ns = now_ns;
    s->stats_ns = now_ns, s->stats_runs = runs;
}

void rocks_get_stats(struct store *base, struct store_stats *out) {
    struct rocks_store *s = rocks_of(base);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t now_ns = (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
    pthread_mutex_lock(&s->stats_lock);
    if (rocks_stats_due(s, now_ns) && !atomic_load(&s->ingesting)) rocks_stats_take(s, now_ns);
    *out = s->stats;
    pthread_mutex_unlock(&s->stats_lock);
    /* The rest is cheap and always new. */
    pthread_mutex_lock(&s->lock);
    if (rocks_owned(s)) rocks_retire(s);
    const struct version *v = atomic_load_explicit(&s->current, memory_order_relaxed);
    for (unsigned i = 0; i < v->count; i++) out->unflushed_bytes += v->tables[i]->applied_bytes;
    out->immutable_memtables = v->count - 1;
    out->memtable_bytes = version_bytes(v) + s->retired_bytes;
    out->behind = MAX_OF(out->behind, tables_behind(s, v));
    pthread_mutex_unlock(&s->lock);
    out->failure = (enum status)atomic_load(&s->failed);
    if (out->failure) out->failed = true, out->behind = STORE_BEHIND_FULL;
    out->pressure = store_pressure(out->behind);
}

void rocks_drop_range(struct store *base, struct slice lower, struct slice upper) {
    struct rocks_store *s = rocks_of(base);
    for (unsigned f = 0; f < s->family_count; f++) {
        char *error = NULL;
        rocksdb_delete_file_in_range_cf(s->db, s->families[f], chars(lower), lower.len, chars(upper), upper.len, &error);
        if (error) log_warn("files of expired rows could not be dropped", "path=%s err=%s", s->path, error), rocksdb_free(error);
    }
}

uint64_t rocks_range_bytes(struct store *base, struct slice lower, struct slice upper) {
    static const char end[] = "\xff\xff\xff\xff\xff\xff\xff\xff";
    const char *from = chars(lower), *to = upper.len ? chars(upper) : end;
    size_t from_len = lower.len, to_len = upper.len ? upper.len : sizeof end - 1;
    uint64_t sum = 0;
    for (unsigned f = 0; f < rocks_of(base)->family_count; f++) {
        uint64_t bytes = 0;
        char *error = NULL;
        rocksdb_approximate_sizes_cf(rocks_of(base)->db, rocks_of(base)->families[f], 1, &from, &from_len, &to, &to_len, &bytes, &error);
        if (error) rocks_read_error(rocks_of(base), error, NULL), bytes = 0;
        sum += bytes;
    }
    return sum;
}
