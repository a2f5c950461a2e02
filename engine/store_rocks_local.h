/* What the files of the RocksDB store share (store_rocks*.c: the essay is in store_rocks.c). The one includer of RocksDB's header. */
#ifndef ENGINE_STORE_ROCKS_LOCAL_H
#define ENGINE_STORE_ROCKS_LOCAL_H

#include <pthread.h>
#include <rocksdb/c.h>

#include "engine/row_tree.h"
#include "engine/store_ops.h"
#include "proto/base/list.h"

enum {
    STORE_PATH_BYTES_MAX = 3800, /* names are added, PATH_MAX is 4096 */
    STORE_TABLES_MAX = 8,        /* the active one and those that wait for their run */
    STORE_RUN_THREADS_MAX = 2,
    PUSH_BYTES = 128 << 10,      /* on the way to the disk at a time: the log's next write stands behind them */
};
/* RocksDB's column families. What has the growing prefix stands in its own, where nothing is ever merged with it (docs/STORAGE.md, Two families). */
enum rocks_family { FAMILY_ROWS, FAMILY_GROWING, FAMILIES };

/* ---- tables and versions (store_rocks_run.c) */

/* Recent rows. The active table is written by the owner under the store's lock; frozen, it never changes. */
struct table {
    struct row_tree rows;
    unsigned refs;          /* of versions; under the lock */
    uint64_t last_seq;      /* when frozen: of the newest batch in it */
    uint64_t applied_bytes; /* of the batches in it */
};
/* Where reads look before they ask RocksDB: tables[0] is the active one, behind it the frozen ones, newest first. Never changes. The store holds a reference to the current version,
 * each pin one to its own. With the last one a version is retired, and freed when the owner has been seen to have left it: the owner reads the current version without a reference. */
struct version {
    struct list link; /* in the store's retired or released */
    unsigned refs;    /* under the lock */
    unsigned count;
    struct table *tables[STORE_TABLES_MAX];
};
/* One state, held: rows up to seq in the version's tables, and RocksDB as it was (the caller's part). In the store's list by seq. */
struct pin {
    struct list link;
    struct version *version;
    uint64_t seq;
};

/* Files of the growing family that follow each other and are small: from, to, how many. The run's thread alone. */
struct growing_small {
    unsigned count;
    size_t first_len, last_len;
    uint8_t first[STORE_KEY_BYTES_MAX], last[STORE_KEY_BYTES_MAX];
};

/* ---- the store */

/* Memory of a store's front whose pages are to be made. What finds the list full is made by the core, at its first touch. */
enum { WARM_PIECES_MAX = 64 };
struct warm_piece {
    void *memory;
    size_t bytes;
};

/* Block cache, and the threads that write runs, of all stores of a process. */
struct store_shared {
    rocksdb_cache_t *cache;
    uint64_t cache_bytes, readers_bytes; /* of the cache and of open files together; of open files, under the lock */
    rocksdb_env_t *env; /* the process's one set of RocksDB's background threads, for compactions */
    unsigned merge_threads;
    pthread_mutex_t lock; /* innermost */
    pthread_cond_t work;
    struct list stores; /* that have something to do */
    struct row_spares spares; /* blocks for tables: as many as the stores' active tables take */
    pthread_cond_t spares_low; /* with their lock */
    pthread_t spares_thread;
    bool spares_up, spares_stop;
    struct warm_piece warm[WARM_PIECES_MAX]; /* asked for, first come first; with the spares' lock */
    unsigned warm_count;
    bool stop;
    unsigned thread_count;
    pthread_t threads[STORE_RUN_THREADS_MAX];
};
/* Read by background threads without a lock. */
struct expiry {
    _Atomic uint64_t horizon_us[256]; /* by kind; 0: it does not expire */
};
struct rocks_store {
    struct store base;
    char *path;
    struct store_shared *shared, *own; /* own: ours to free */
    struct trash *trash;               /* that watches path, or NULL */
    uint64_t budget_bytes;             /* of all tables together */
    size_t chunk_bytes;
    uint8_t growing_bytes[STORE_PREFIX_BYTES_MAX], deferred_bytes[STORE_PREFIX_BYTES_MAX];
    struct slice growing;  /* rows with this prefix have a family of their own; empty: none */
    struct slice deferred; /* rows with this prefix are kept in the order of their puts (row_pile.h); empty: none */
    uint8_t grouped_kind, grouped_tail;

    rocksdb_options_t *options[FAMILIES];
    rocksdb_compactionfilter_t *filter;
    rocksdb_envoptions_t *env_options;
    rocksdb_ingestexternalfileoptions_t *ingest;
    rocksdb_readoptions_t *read[2]; /* [cached_only] */
    rocksdb_t *db;
    rocksdb_column_family_handle_t *families[FAMILIES];
    unsigned family_count; /* 1: nothing grows, or the directory is older than the second one */
    struct expiry expiry;
    _Atomic int failed; /* enum status: the first cause; OK: none */
    _Atomic uint32_t read_errors;

    _Atomic(struct version *) current;  /* written under the lock */
    _Atomic bool has_files;             /* RocksDB holds something; never false again */
    _Atomic uint64_t runs;              /* how many tables have left the current version, their rows being in RocksDB */
    _Atomic bool ingesting;             /* RocksDB's own lock is held for longer than usual */

    pthread_mutex_t lock; /* of all below, of the active table's writes, of others' reads of it */
    pthread_cond_t changed; /* a run ended, or the store failed */
    struct list pins;       /* by seq */
    struct list retired;    /* versions that nobody but the owner may still look at */
    struct list released;   /* and those that nobody does: the run thread frees them */
    uint64_t retired_bytes; /* of tables that are in the current version no more, and not freed */
    uint64_t seq;           /* of the newest batch applied */
    uint64_t durable_seq;
    bool scheduled;         /* a run thread has it, or will */
    struct growing_small small;
    _Atomic bool closing;
    struct list queue_link; /* in shared->stores, under its lock */

    pthread_mutex_t stats_lock;
    uint64_t stats_ns, stats_changed_ns; /* when `stats` was taken, 0: never; when that last made a difference */
    uint64_t stats_runs;                 /* `runs` then */
    struct store_stats stats;
    uint64_t readers_bytes; /* our share of shared->readers_bytes */
};
struct rocks_batch {
    struct store_batch base;
    struct row_tree rows;
};

static inline struct rocks_store *rocks_of(struct store *s) { return container_of(s, struct rocks_store, base); }
static inline const char *chars(struct slice s) { return s.len ? (const char *)s.data : ""; }
/* Where a key's row stands. */
static inline enum rocks_family rocks_family(const struct rocks_store *s, struct slice key) {
    return s->family_count > 1 && slice_starts_with(key, s->growing) ? FAMILY_GROWING : FAMILY_ROWS;
}
static inline bool rocks_owned(const struct rocks_store *s) { return store_owned(&s->base); }

/* ---- store_rocks_db.c: RocksDB's errors, options, properties */

/* Takes the text over. A read's error leaves the store as it is; the first few are logged. damage: where it is, if it is damage; NULL: nobody asks. */
enum status rocks_read_error(struct rocks_store *s, char *error, struct store_damage *damage);
/* What RocksDB's text says of where. */
void rocks_damage_read(const char *path, const char *error, struct store_damage *damage);
/* Takes the text over. The first failed write decides what later ones answer. */
enum status rocks_write_error(struct rocks_store *s, const char *what, char *error);
enum status rocks_status(const char *error);
void rocks_options_make(struct rocks_store *s);
void rocks_options_free(struct rocks_store *s);
void rocks_make_way(void); /* with each row, by threads that nobody waits for */
rocksdb_readoptions_t *rocks_read_options(bool cached_only, bool scan);
/* What a store's open files hold in memory is `bytes` now, was *own. */
void store_shared_readers(struct store_shared *shared, uint64_t *own, uint64_t bytes);
uint64_t rocks_files_bytes(struct rocks_store *s);
void rocks_get_stats(struct store *base, struct store_stats *out);
void rocks_drop_range(struct store *base, struct slice lower, struct slice upper);
uint64_t rocks_range_bytes(struct store *base, struct slice lower, struct slice upper);

/* ---- store_rocks_dir.c: FORMAT, and files that are not RocksDB's */

enum status rocks_dir_prepare(const char *path, char error[256]);
/* Where the n-th file of a run is written before it becomes RocksDB's. */
void rocks_dir_run_name(const char *path, unsigned n, char out[STORE_PATH_BYTES_MAX + 32]);
void rocks_dir_warm(const char *name); /* its bytes into the page cache */
void rocks_dir_remove_runs(const char *path);
enum status rocks_dir_holds(const char *path, bool *current, bool *tables, char error[256]); /* RocksDB's pointer to its newest state; tables */
enum status rocks_probe(struct store *base, char error[256]);
enum status rocks_file_error(char error[256], const char *what, const char *name); /* says errno. DISK_FULL, IO_FAILED */
enum status rocks_dir_sync(const char *path, char error[256]);
enum status rocks_dir_sync_parent(const char *path, char error[256]);
enum status rocks_dir_format(const char *path, char error[256]); /* it is one of ours from now on: FORMAT is written, durably */
bool rocks_dir_is_ours(const char *path);                        /* it has a FORMAT that we know */
enum status rocks_dir_remove(const char *path, char error[256]); /* it and its files; none: OK */

/* ---- store_rocks_stream.c */

enum status rocks_checkpoint_make(struct store *base, struct store_checkpoint **out, char error[256]);
enum status rocks_checkpoint_read(struct store_checkpoint *base, uint64_t offset, uint8_t *out, size_t len);
void rocks_checkpoint_free(struct store_checkpoint *base);
void rocks_checkpoint_remove(const char *path); /* what a crash left */
enum status rocks_import_begin(struct store *base, struct store_import **out, char error[256]);
enum status rocks_import_write(struct store_import *base, struct slice bytes, char error[256]);
enum status rocks_import_finish(struct store_import *base, struct store **look, char error[256]);
enum status rocks_import_find(struct store *base, struct store_import **out, char error[256]);
enum status rocks_import_install(struct store_import *base, char error[256]);
void rocks_import_free(struct store_import *base, bool keep);
enum status rocks_import_complete(const char *path, char error[256]); /* before the directory is opened: an installation that a crash interrupted goes on */

/* ---- store_rocks_run.c */

bool rocks_tables_init(struct rocks_store *s);   /* false: no memory */
void rocks_tables_fini(struct rocks_store *s);   /* when no run is under way any more */
uint64_t version_bytes(const struct version *v); /* of its tables; under the lock, or the owner's */
/* Under the lock. The active table becomes a frozen one. false: it is empty, too many wait, or there is no memory. */
bool rocks_freeze(struct rocks_store *s) MUST_USE;
void rocks_retire(struct rocks_store *s); /* the owner, under the lock: it looks at no version but the current one */
void rocks_retired_free(struct rocks_store *s); /* the same, and at once, on its own time */
void rocks_pin(struct rocks_store *s, struct pin *p, const struct pin *like); /* under the lock. like: at that one's state; NULL: at the newest */
void rocks_unpin(struct rocks_store *s, struct pin *p);                       /* under the lock */
uint64_t rocks_pinned(const struct rocks_store *s);                           /* the newest seq that is pinned, or 0; under the lock */
bool run_threads_start(struct store_shared *shared, unsigned count);
void run_threads_stop(struct store_shared *shared);

/* ---- store_rocks_spares.c */

bool spares_start(struct store_shared *shared); /* false: stop all the same */
void spares_warm(struct store_shared *shared, void *memory, size_t bytes); /* any thread */
void spares_stop(struct store_shared *shared);  /* no store has trees any more */

/* ---- store_rocks_read.c */

enum status rocks_batch_get(const struct store_batch *b, struct slice key, struct arena *arena, struct slice *value);
enum status rocks_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value);
void rocks_get_many(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values);
uint64_t rocks_ahead_stamp(struct store *base);
void rocks_ahead_get(struct store *base, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values);
struct store_snapshot *rocks_snapshot_get(struct store *base);
void rocks_snapshot_put(struct store *base, struct store_snapshot *n);
struct store_iter *rocks_iter_open(const struct store_view *view, struct slice lower, struct slice upper, bool group);
void rocks_iter_close(struct store_iter *base);
void rocks_iter_first(struct store_iter *base);
void rocks_iter_last(struct store_iter *base);
void rocks_iter_seek(struct store_iter *base, struct slice key);
void rocks_iter_seek_back(struct store_iter *base, struct slice key);
void rocks_iter_next(struct store_iter *base);
void rocks_iter_prev(struct store_iter *base);

#endif
