/* An ordered key-value store with atomic batches, point reads, scans and snapshots. Everything above sees only this; behind it stands
 * RocksDB (store_rocks.c) or an ordered table in memory with a crash model (store_mem.c). One store per partition.
 *
 * Threads: batches, apply and flush bookkeeping belong to the owning core. Views (reads) work on any thread. Keys are compared as unsigned
 * bytes. Nothing written is durable until a flush that began after it has returned: the log replays the rest. */
#ifndef ENGINE_STORE_H
#define ENGINE_STORE_H

#include "proto/base/arena.h"
#include "proto/status.h"

enum { STORE_KEY_BYTES_MAX = 512, STORE_VALUE_BYTES_MAX = 4 << 20, STORE_PREFIX_BYTES_MAX = 16 };

struct store;
struct store_batch;
struct store_snapshot;
struct store_iter;
struct store_ahead;
struct trash;

/* Where stored bytes are damaged. */
struct store_damage {
    char file[48];  /* "part-00003/000123.sst": the store's directory and the file; "": nothing was met, or it is not known where */
    int64_t offset; /* of the damaged block; -1: not known */
};

/* What a read sees: the store's newest state, a snapshot's, or a batch over the newest state (its own writes included). */
struct store_view {
    struct store *store;
    const struct store_snapshot *snapshot; /* NULL: newest */
    struct store_batch *batch;             /* not NULL: read your writes; owning core only */
    const struct store_ahead *ahead;       /* not NULL: rows that need not be looked for in files; owning core only */
    struct store_damage *damage;           /* not NULL: set by reads, iterators' too, that answer CHECKSUM_MISMATCH */
    bool cached_only;                      /* STATUS_WOULD_BLOCK rather than read the disk */
    bool bulk;                             /* a long scan: it reads ahead, and does not displace what is cached */
};

struct store_config {
    uint64_t memtable_bytes;    /* of this partition: all tables of rows that are in no file yet, together */
    uint64_t block_cache_bytes; /* RocksDB: shared by all stores of the process through `shared` */
    struct store_shared *shared; /* NULL: own */
    struct trash *trash;         /* RocksDB: where tables go that are needed no more (trash.h); outlives the store. NULL: they are removed whole */
    struct slice growing;       /* keys with this prefix are only ever put in ascending order: they get files of their own. Empty: none */
    uint8_t grouped_kind;       /* keys of this kind (their third byte) are a group and grouped_tail bytes more, at which they are sorted in it; store_iter_open_group reads a group. 0: none */
    uint8_t grouped_tail;
    struct slice deferred;      /* keys with this prefix are put often and read seldom: a put costs a tenth, a read more (docs/STORAGE.md). Empty: none */
};
/* Block cache and background threads shared by all partitions of a process. NULL: no memory, or no threads. */
struct store_shared *store_shared_new(uint64_t block_cache_bytes, unsigned background_threads);
void store_shared_free(struct store_shared *s);

/* Opens or creates the directory. error[] names what and where. CHECKSUM_MISMATCH, FORMAT_UNKNOWN, IO_FAILED. */
enum status store_open_rocks(struct store **out, const char *path, const struct store_config *config, char error[256]) MUST_USE;
/* The directory of a store that is closed is put aside, and what is left beside it of imports goes. None: OK, so that it can be done again after a crash. Large files take their time to be
 * removed: store_sweep_rocks does so with what was put aside, on any thread, but not at the same time as store_drop_rocks of that path; what it can't remove it will find again. */
enum status store_drop_rocks(const char *path, char error[256]) MUST_USE;
void store_sweep_rocks(const char *path);
/* In memory; `disk` is what a "flush" leaves behind and survives store_close: reopen with the same disk after a simulated crash. */
struct store_mem_disk;
struct store_mem_disk *store_mem_disk_new(void);
void store_mem_disk_free(struct store_mem_disk *d);
enum status store_open_mem(struct store **out, struct store_mem_disk *disk) MUST_USE;
/* Faults for tests. full: flush and apply answer DISK_FULL, the store is failed until reopened. cold: cached_only reads answer WOULD_BLOCK.
 * read_fault: every read answers it (STATUS_OK: none). behind: what the stats say. */
void store_mem_disk_set_full(struct store_mem_disk *d, bool full);
void store_mem_disk_set_cold(struct store_mem_disk *d, bool cold);
void store_mem_disk_set_read_fault(struct store_mem_disk *d, enum status fault);
void store_mem_disk_set_behind(struct store_mem_disk *d, uint32_t behind);
/* Snapshots and iterators first. What was not flushed is lost. NULL is fine. */
void store_close(struct store *s);

/* ABSENT when there is none. The value is copied into the arena; MEMORY_LIMIT: it is full. */
enum status store_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) MUST_USE;

/* Keeps rows of the newest state in memory beside the store, so that the owning core's reads of them ask neither tables nor files: rows that were put, and that were read. kinds: the third bytes of
 * their keys; empty: all rows. Not those of kinds that expire. row_bytes: what a row takes on average, key and value. What a read answers is the same with it and without, to the byte. Right behind the
 * open, once for each set of kinds that has memory of its own, STORE_CACHES_MAX times at most. MEMORY_LIMIT. */
enum { STORE_CACHE_BYTES_MIN = 4 << 10, STORE_CACHES_MAX = 2 };
enum status store_cache_rows(struct store *s, uint64_t bytes, uint32_t row_bytes, struct slice kinds) MUST_USE;
/* Rows that the owning core will ask for next, if they are there: so many are looked for together, and kept. Those that are kept already are asked for from memory, all before the first is waited for; files are read at less than each look-up
 * by itself. Whatever goes wrong with one is left to the read that wants it: nothing but time differs. The view's batch is not looked at; the scratch is used up by what was read. */
enum { STORE_EXPECT_MAX = 32 };
void store_expect(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *scratch);
/* From those caches alone, or the view's batch. WOULD_BLOCK: it does not know; another thread's views and snapshots never do. */
enum status store_get_cached(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) MUST_USE;
/* A row that a scan over this view stands on, kept as if it had been read by its key. Nothing was applied since the scan was opened. */
void store_keep(const struct store_view *view, struct slice key, struct slice value);

/* Keeps in memory which keys of an expiring kind may be there, so that the owning core's look-up of one that is new asks neither tables nor files. What a read answers is the same with it and without, but for rows that have
 * expired at the horizon, which may be absent at any time. Once, right behind the open. It is used once it is whole: in a store that holds no such row at once, else when all that were there at this call were added, as
 * another thread reads them over snapshots taken since; what is put is in it by itself. MEMORY_LIMIT. */
enum { STORE_FILTER_BYTES_MIN = 4 << 10 };
enum status store_filter_keys(struct store *s, uint64_t bytes, uint8_t kind) MUST_USE;
struct store_filtered {
    uint64_t hash, expiry_us;
};
struct store_filtered store_filtered_of(struct slice key, struct slice value); /* of such a row; any thread */
void store_filter_add(struct store *s, const struct store_filtered *rows, unsigned count);
void store_filter_whole(struct store *s);
void store_filter_prove(struct store *s); /* for tests: each key that it excludes is looked for all the same, and must not be there */

/* Rows that another thread has read ahead out of the store's files. A view with them reads what it reads without them, only cheaper: what is in no file yet goes before, and they
 * count for as long as nothing has become a file since they were begun. Not for rows that expire, nor of ranges that are dropped. One thread at a time; fixed in size. */
struct store_ahead *store_ahead_new(struct store *s, size_t bytes_max); /* NULL: no memory */
void store_ahead_free(struct store_ahead *a);  /* before the store is closed; NULL is fine */
void store_ahead_begin(struct store_ahead *a); /* owning core: empty again */
/* The rows of so many keys in the files, at less than they cost one by one; on any thread. rows[i] lives until the next begin. NULL: it is in no file yet, or not at all, can't be read, or does not
 * fit; who needs it will be told. */
enum { STORE_AHEAD_KEYS_MAX = 32 };
void store_ahead_read(struct store_ahead *a, const struct slice *keys, unsigned count, struct slice *rows);

/* NULL: no memory. */
struct store_snapshot *store_snapshot_get(struct store *s);
void store_snapshot_put(struct store *s, struct store_snapshot *snapshot);

/* Scans keys in [lower, upper); upper empty: no bound. Bounds are copied; a seek outside them clamps. Key and value slices live until the next move. After a move: valid, or not, and then
 * store_iter_status says OK (the end), WOULD_BLOCK, CHECKSUM_MISMATCH or IO_FAILED. An iterator over a batch is invalid after a write to it.
 * NULL: no memory; every call takes it and sees an iterator that is never valid and whose status is MEMORY_LIMIT. */
struct store_iter *store_iter_open(const struct store_view *view, struct slice lower, struct slice upper);
/* The same over all keys of one group (store_config.grouped_kind), not empty: files that hold none of it are passed by. It is sought by whole keys only. */
struct store_iter *store_iter_open_group(const struct store_view *view, struct slice group);
void store_iter_close(struct store_iter *it);
void store_iter_first(struct store_iter *it);
void store_iter_last(struct store_iter *it);
void store_iter_seek(struct store_iter *it, struct slice key);      /* first >= key */
void store_iter_seek_back(struct store_iter *it, struct slice key); /* last <= key */
void store_iter_next(struct store_iter *it);
void store_iter_prev(struct store_iter *it);
bool store_iter_valid(const struct store_iter *it);
struct slice store_iter_key(const struct store_iter *it);
struct slice store_iter_value(const struct store_iter *it);
enum status store_iter_status(const struct store_iter *it) MUST_USE;

/* NULL: no memory. A put or delete that finds none is remembered: reads through the batch and its apply answer MEMORY_LIMIT. */
struct store_batch *store_batch_new(struct store *s);
void store_batch_free(struct store_batch *b);
void store_batch_clear(struct store_batch *b);
void store_batch_put(struct store_batch *b, struct slice key, struct slice value);
void store_batch_delete(struct store_batch *b, struct slice key);
size_t store_batch_bytes(const struct store_batch *b);
/* All or nothing; the batch keeps its rows until cleared. Waits for room when memtable_bytes are full, which who heeds `pressure` does not meet. DISK_FULL, IO_FAILED or CHECKSUM_MISMATCH (see
 * store_stats.failure): nothing was written, the store takes no more writes until reopened; reads go on. MEMORY_LIMIT: nothing was written. */
enum status store_apply(struct store *s, struct store_batch *b) MUST_USE;

/* Of a failed store: would closing it and opening it again work now? Writes, syncs and removes a file beside the tables; any thread. DISK_FULL, IO_FAILED. */
enum status store_probe(struct store *s, char error[256]) MUST_USE;
/* Blocks until everything applied before this call is durable. Runs on a job, any thread, one at a time per store. DISK_FULL, IO_FAILED. */
enum status store_flush(struct store *s) MUST_USE;
/* Rows of the expiring kind (first: two bytes of slot, then this kind byte; value: starts with big-endian u64 expiry in microseconds) whose expiry is at
 * or below the horizon may be dropped whenever it suits; one at or beyond STORE_NEVER_US stays for ever. Set it only to the log time of a *flushed* applied index, or replay would decide
 * differently (docs/STORAGE.md). */
#define STORE_NEVER_US (1ull << 62) /* in 146,000 years */
void store_set_expiry(struct store *s, uint8_t kind, uint64_t horizon_us); /* several kinds may expire, each at its own horizon */

/* ---- A durable state as a stream of bytes, and such a stream in another store's place (docs/CLUSTER.md). Both stores of one kind; the bytes are theirs. Everything here is for a
 * job, any thread, one call at a time for each object; error[] names what and where. */

struct store_checkpoint;
/* What a flush made durable, or later, held beside the store, which goes on: hard links (RocksDB), a copy (in memory). One at a time: an older one's files go. DISK_FULL, IO_FAILED. */
enum status store_checkpoint_make(struct store *s, struct store_checkpoint **out, char error[256]) MUST_USE;
uint64_t store_checkpoint_bytes(const struct store_checkpoint *c);
/* len bytes at offset, inside the stream, whose last bytes are a checksum of all before: so no call may begin behind where an earlier one ended. */
enum status store_checkpoint_read(struct store_checkpoint *c, uint64_t offset, uint8_t *out, size_t len) MUST_USE;
void store_checkpoint_free(struct store_checkpoint *c); /* its files go. Before or after the store is closed. NULL is fine */

struct store_import;
/* A stream of so many bytes, to be written beside the store. What is left of an earlier one goes. */
enum status store_import_begin(struct store *s, uint64_t bytes, struct store_import **out, char error[256]) MUST_USE;
enum status store_import_write(struct store_import *i, struct slice bytes, char error[256]) MUST_USE; /* the next ones */
/* All bytes were written: verified and durable as a whole. *look: a store on the imported state, to read from and to close before anything else. CHECKSUM_MISMATCH, FORMAT_UNKNOWN. */
enum status store_import_finish(struct store_import *i, struct store **look, char error[256]) MUST_USE;
/* After a restart: a finished import that was not installed; ABSENT, and what is left of an unfinished one goes. */
enum status store_import_find(struct store *s, struct store_import **out, char error[256]) MUST_USE;
/* The store was closed: from now on opening it gives the imported state, after a crash at any point the old one or this one. Frees i. Another status than OK: only a restart can tell which. */
enum status store_import_install(struct store_import *i, char error[256]) MUST_USE;
void store_import_free(struct store_import *i, bool keep); /* given up: its files go. keep: they stay, for who finds them after a restart. NULL is fine */

struct store_stats {
    uint64_t memtable_bytes, unflushed_bytes, table_bytes, pending_compaction_bytes, snapshots, iterators;
    uint64_t table_readers_bytes; /* what open files have in memory: filters and indexes */
    uint64_t merge_bytes_max;     /* the room on disk that the largest merge of files may take until it is done */
    uint64_t cache_hits, cache_misses, cache_evictions, cache_bytes, cache_rows; /* store_cache_rows; on the owning core */
    uint64_t filter_keys, filter_asked, filter_absent; /* store_filter_keys; on the owning core: keys in it; look-ups that it was asked about, and answered */
    uint32_t level0_files, immutable_memtables; /* the latter: full tables of recent rows that wait for their file */
    uint32_t behind;  /* with files for tables of recent rows, and with compactions: 0: not worth mention; to 1000: refuse writes, or apply will have to wait for room */
    uint8_t pressure; /* the same in steps. 0: go on; 1: slow down, refuse bulk; 2: refuse writes */
    bool failed; /* a background write failed: reopen when the cause is gone */
    enum status failure; /* the cause, when failed: DISK_FULL, IO_FAILED, or CHECKSUM_MISMATCH (a compaction met damage: reopening won't help) */
};
enum { STORE_BEHIND_FULL = 1000 };
static inline uint8_t store_pressure(uint32_t behind) { return behind >= STORE_BEHIND_FULL ? 2 : behind > 0; }
void store_get_stats(struct store *s, struct store_stats *out);
/* Rows in [lower, upper) are of no use any more: files that hold nothing else are dropped, the other rows stay until their file is. Nobody may read them meanwhile or later.
 * Runs on a job, any thread. */
void store_drop_range(struct store *s, struct slice lower, struct slice upper);
/* Bytes on disk of a key range, estimated. */
uint64_t store_range_bytes(struct store *s, struct slice lower, struct slice upper);

#endif
