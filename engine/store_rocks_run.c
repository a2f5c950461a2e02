/* Recent rows on their way to RocksDB: tables, the versions that list them, and the threads that write runs.
 *
 *     version 7: [active T4, frozen T3, T2]   T2's run is ingested   version 8: [active T4, frozen T3]
 *
 * A table is frozen between two batches: when it has its share of the budget (rocks_apply), or store_flush asks. Its run is written in the order of the keys to a file for each
 * family, RUN-0 and RUN-1, beside RocksDB's files, synced, and ingested, which one record of the MANIFEST makes true: all of the file or nothing. Only then does the table leave the
 * version. Runs of a store go strictly one after the other, oldest table first, so the family of rows holds a prefix of the batches at every moment; the partition record is in it.
 *
 * The growing family goes first, so it may be one run ahead after a crash. Replay then puts the same rows again, and until it has, nobody asks for what is behind the applied index.
 * Keys that only ever grow overlap nothing older: their files sink to the lowest level, and are not merged with anything; in one family with the other rows they would be rewritten by every
 * merge. A partition that writes little has small ones: sixteen of them in a row are made one. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { WALK_ROWS = 128, PUSH_STEPS = 4 /* about 40 KB are written meanwhile: three times as fast as the writer */, GROWING_SMALL_BYTES = 2 << 20, GROWING_SMALL_FILES = 16, RUN_NICE = 5 };

/* ---- tables and versions */

static struct table *table_new(const struct rocks_store *s) {
    struct table *t = mem_new(struct table);
    if (!t) return NULL;
    row_tree_init(&t->rows, s->chunk_bytes);
    row_tree_defer(&t->rows, s->deferred);
    t->rows.spares = &s->shared->spares;
    return t;
}
static void table_free(struct table *t) {
    row_tree_fini(&t->rows);
    mem_free(t);
}

/* Its own reference is the caller's. */
static struct version *version_new(struct table *first, struct table *const *more, unsigned count) {
    struct version *v = mem_new(struct version);
    if (!v) return NULL;
    v->refs = 1;
    list_init(&v->link);
    if (first) v->tables[v->count++] = first;
    for (unsigned i = 0; i < count; i++) v->tables[v->count++] = more[i];
    return v;
}
static void version_hold_tables(struct version *v) {
    for (unsigned i = 0; i < v->count; i++) v->tables[i]->refs++;
}

uint64_t version_bytes(const struct version *v) {
    uint64_t bytes = 0;
    for (unsigned i = 0; i < v->count; i++) bytes += v->tables[i]->rows.bytes;
    return bytes;
}

static void version_put(struct rocks_store *s, struct version *v) {
    check(v->refs > 0);
    if (--v->refs == 0) list_push_back(&s->retired, &v->link);
}

/* Under the lock. Lets go of the tables; those that nobody holds any more go to `dead`, which has room for them. */
static unsigned version_dismiss(struct version *v, struct table *dead[STORE_TABLES_MAX]) {
    unsigned n = 0;
    for (unsigned i = 0; i < v->count; i++)
        if (--v->tables[i]->refs == 0) dead[n++] = v->tables[i];
    return n;
}

static void version_publish(struct rocks_store *s, struct version *v) {
    struct version *old = atomic_load_explicit(&s->current, memory_order_relaxed);
    version_hold_tables(v);
    atomic_store_explicit(&s->current, v, memory_order_release);
    if (old) version_put(s, old);
}

static void store_schedule(struct rocks_store *s) {
    if (s->scheduled || s->closing) return;
    s->scheduled = true;
    pthread_mutex_lock(&s->shared->lock);
    list_push_back(&s->shared->stores, &s->queue_link);
    pthread_cond_signal(&s->shared->work);
    pthread_mutex_unlock(&s->shared->lock);
}

bool rocks_freeze(struct rocks_store *s) {
    struct version *old = atomic_load_explicit(&s->current, memory_order_relaxed);
    struct table *active = old->tables[0];
    if (!active->rows.row_count || old->count == STORE_TABLES_MAX) return false;
    struct table *fresh = table_new(s);
    struct version *v = fresh ? version_new(fresh, old->tables, old->count) : NULL;
    if (!v) {
        mem_free(fresh);
        return false;
    }
    active->last_seq = s->seq;
    version_publish(s, v);
    store_schedule(s);
    return true;
}

void rocks_retire(struct rocks_store *s) {
    if (list_empty(&s->retired)) return;
    list_splice_back(&s->released, &s->retired);
    store_schedule(s);
}

void rocks_pin(struct rocks_store *s, struct pin *p, const struct pin *like) {
    p->version = like ? like->version : atomic_load_explicit(&s->current, memory_order_relaxed);
    p->seq = like ? like->seq : s->seq;
    p->version->refs++;
    if (like) list_push_front((struct list *)&like->link, &p->link); /* behind it: the list is by seq */
    else list_push_back(&s->pins, &p->link);
}
void rocks_unpin(struct rocks_store *s, struct pin *p) {
    list_remove(&p->link);
    version_put(s, p->version);
}
uint64_t rocks_pinned(const struct rocks_store *s) { return list_empty(&s->pins) ? 0 : list_entry(s->pins.prev, struct pin, link)->seq; }

bool rocks_tables_init(struct rocks_store *s) {
    struct table *t = table_new(s);
    struct version *v = t ? version_new(t, NULL, 0) : NULL;
    if (!v) {
        mem_free(t);
        return false;
    }
    version_publish(s, v);
    return true;
}

static void versions_free(struct rocks_store *s, struct list *versions) {
    for (struct list *l; (l = list_pop_front(versions));) {
        struct table *dead[STORE_TABLES_MAX];
        struct version *v = list_entry(l, struct version, link);
        for (unsigned n = version_dismiss(v, dead); n; n--) {
            s->retired_bytes -= dead[n - 1]->rows.bytes;
            table_free(dead[n - 1]);
        }
        mem_free(v);
    }
}
void rocks_retired_free(struct rocks_store *s) {
    versions_free(s, &s->retired);
    versions_free(s, &s->released);
}
void rocks_tables_fini(struct rocks_store *s) {
    struct version *v = atomic_load_explicit(&s->current, memory_order_relaxed);
    if (v) s->retired_bytes += version_bytes(v), version_put(s, v);
    rocks_retired_free(s);
    check(s->retired_bytes == 0);
}

/* ---- one run */

struct run_file {
    rocksdb_sstfilewriter_t *writer; /* until it is whole, or given up */
    bool written;
    int fd; /* of the same file, while there is a writer; -1: it could not be opened */
    off_t pushed;
    char name[STORE_PATH_BYTES_MAX + 32];
};
struct run {
    struct rocks_store *store;
    struct table *table;
    struct run_file files[FAMILIES];
    uint64_t growing_bytes;
    struct slice growing_first, growing_last; /* keys of the table */
};

static enum status run_file_begin(struct run *r, enum rocks_family family) {
    struct run_file *f = &r->files[family];
    char *error = NULL;
    rocks_dir_run_name(r->store->path, family, f->name);
    f->writer = rocksdb_sstfilewriter_create(r->store->env_options, r->store->options[family]);
    rocksdb_sstfilewriter_open(f->writer, f->name, &error);
    f->fd = error ? -1 : open(f->name, O_RDONLY | O_CLOEXEC), f->pushed = 0;
    return rocks_write_error(r->store, "store run", error);
}

/* What SstFileWriter has written goes to the disk piece by piece: it has no bytes_per_sync of its own in C, and the sync at its end would write all of it at once, before the log's next write. */
static void run_file_push(struct run_file *f) {
    struct stat st;
    if (!f->writer || f->fd < 0 || fstat(f->fd, &st) < 0 || st.st_size - f->pushed < PUSH_BYTES) return;
    (void)sync_file_range(f->fd, f->pushed, PUSH_BYTES, SYNC_FILE_RANGE_WRITE);
    f->pushed += PUSH_BYTES;
}

static void run_file_close(struct run_file *f) {
    if (f->fd >= 0) close(f->fd);
}

static enum status run_file_end(struct run *r, enum rocks_family family) {
    struct run_file *f = &r->files[family];
    char *error = NULL;
    if (!f->writer) return STATUS_OK;
    run_file_close(f);
    rocksdb_sstfilewriter_finish(f->writer, &error); /* synced */
    rocksdb_sstfilewriter_destroy(f->writer);
    f->writer = NULL, f->written = true;
    if (!error) rocks_dir_warm(f->name);
    return rocks_write_error(r->store, "store run", error);
}

static enum status run_row(struct run *r, const struct row *row) {
    struct rocks_store *s = r->store;
    struct slice key = row_key(row), value = row_value(row);
    enum rocks_family family = rocks_family(s, key);
    char *error = NULL;
    if (row->deleted && !atomic_load(&s->has_files)) return STATUS_OK; /* there is nothing below that it would hide */
    if (family == FAMILY_GROWING) {
        if (!r->growing_bytes) r->growing_first = key;
        r->growing_last = key, r->growing_bytes += key.len + value.len;
    }
    enum status st = r->files[family].writer ? STATUS_OK : run_file_begin(r, family);
    if (st) return st;
    rocks_make_way();
    if (row->deleted) rocksdb_sstfilewriter_delete(r->files[family].writer, chars(key), key.len, &error);
    else rocksdb_sstfilewriter_put(r->files[family].writer, chars(key), key.len, chars(value), value.len, &error);
    return rocks_write_error(s, "store run", error);
}

/* STATUS_ABSENT: given up, the store closes or has failed meanwhile. */
static enum status run_write(struct run *r) {
    const struct row *rows[WALK_ROWS];
    struct row_tree_walk walk;
    enum status st = row_tree_walk_begin(&walk, &r->table->rows) ? STATUS_OK : STATUS_MEMORY_LIMIT;
    unsigned steps = 0;
    for (unsigned n; !st && (n = row_tree_walk_next(&walk, rows, WALK_ROWS));) {
        if (atomic_load(&r->store->closing) || atomic_load(&r->store->failed)) st = STATUS_ABSENT;
        for (unsigned i = 0; i < n && !st; i++) st = run_row(r, rows[i]);
        for (unsigned f = 0; f < FAMILIES && steps % PUSH_STEPS == 0; f++) run_file_push(&r->files[f]);
        steps++;
    }
    row_tree_walk_end(&walk);
    for (unsigned f = 0; f < FAMILIES && !st; f++) st = run_file_end(r, f);
    return st;
}

/* No snapshot may ever be taken at RocksDB's sequence number 0. A file that is ingested before there is anything that it overlaps would stand at 0, and a compaction that meets its
 * rows while there is a snapshot at 0 drops them: CompactionIterator takes them for hidden, since 0 is also its "no snapshot yet" (7.8.3; sim_store --seed 7). While somebody holds a
 * snapshot a file gets a number of its own, so we hold one for the first; before that file RocksDB has nothing to take a snapshot of (rocks_snapshot_get). */
static enum status run_ingest_file(struct run *r, enum rocks_family family) {
    struct rocks_store *s = r->store;
    const char *name = r->files[family].name;
    char *error = NULL;
    if (!r->files[family].written) return STATUS_OK;
    const rocksdb_snapshot_t *first = rocksdb_get_latest_sequence_number(s->db) ? NULL : rocksdb_create_snapshot(s->db);
    atomic_store(&s->ingesting, true);
    rocksdb_ingest_external_file_cf(s->db, s->families[family], &name, 1, s->ingest, &error);
    atomic_store(&s->ingesting, false);
    if (first) rocksdb_release_snapshot(s->db, first);
    check(error || rocksdb_get_latest_sequence_number(s->db) > 0);
    if (!error) atomic_store(&s->has_files, true);
    return rocks_write_error(s, "store ingest", error);
}

static enum status run_ingest(struct run *r) {
    enum status st = run_ingest_file(r, FAMILY_GROWING);
    return st ? st : run_ingest_file(r, FAMILY_ROWS);
}

static size_t key_note(struct slice key, uint8_t to[STORE_KEY_BYTES_MAX]) {
    memcpy(to, key.data, key.len);
    return key.len;
}

/* Counts small files of the growing family that follow each other. true: those that were counted are to be made one. */
static bool growing_gathered(const struct run *r) {
    struct growing_small *g = &r->store->small;
    bool small = r->growing_bytes < GROWING_SMALL_BYTES;
    if (!r->growing_bytes) return false;
    if (small && g->count++ == 0) g->first_len = key_note(r->growing_first, g->first);
    if (small) g->last_len = key_note(r->growing_last, g->last);
    bool enough = g->count >= GROWING_SMALL_FILES || (!small && g->count >= GROWING_SMALL_FILES / 2);
    if (!small || enough) g->count = 0;
    return enough;
}

/* What fails is RocksDB's background error, which the store's figures find. */
static void growing_gather(struct rocks_store *s) {
    const struct growing_small *g = &s->small;
    rocksdb_compactoptions_t *o = rocksdb_compactoptions_create();
    rocksdb_compactoptions_set_exclusive_manual_compaction(o, 0);
    rocksdb_compactoptions_set_bottommost_level_compaction(o, 2); /* kForce: they are on the lowest level already */
    rocksdb_compact_range_cf_opt(s->db, s->families[FAMILY_GROWING], o, (const char *)g->first, g->first_len, (const char *)g->last, g->last_len);
    rocksdb_compactoptions_destroy(o);
}

/* Its rows are RocksDB's now: reads need it no more. Under the lock. */
static void table_done(struct rocks_store *s, struct table *t, struct version *next) {
    struct version *old = atomic_load_explicit(&s->current, memory_order_relaxed);
    check(old->count > 1 && old->tables[old->count - 1] == t);
    next->count = old->count - 1;
    memcpy(next->tables, old->tables, next->count * sizeof next->tables[0]);
    s->durable_seq = t->last_seq;
    s->retired_bytes += t->rows.bytes;
    atomic_fetch_add(&s->runs, 1);
    version_publish(s, next);
}

static void run_table(struct rocks_store *s, struct table *t) {
    struct run *r = mem_new(struct run);
    struct version *next = version_new(NULL, NULL, 0);
    enum status st = STATUS_MEMORY_LIMIT;
    bool gather = false;
    if (r && next) {
        r->store = s, r->table = t;
        st = run_write(r);
        for (unsigned f = 0; f < FAMILIES; f++)
            if (r->files[f].writer) run_file_close(&r->files[f]), rocksdb_sstfilewriter_destroy(r->files[f].writer);
        if (!st) st = run_ingest(r);
        if (st) rocks_dir_remove_runs(s->path);
        else gather = growing_gathered(r);
    }
    int none = STATUS_OK;
    if (st == STATUS_MEMORY_LIMIT && atomic_compare_exchange_strong(&s->failed, &none, STATUS_IO_FAILED)) log_error("store run", "path=%s err=no memory", s->path);
    mem_free(r);
    pthread_mutex_lock(&s->lock);
    if (!st) table_done(s, t, next);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (st) mem_free(next);
    if (gather) growing_gather(s);
}

/* ---- the threads */

static void released_free(struct rocks_store *s) {
    pthread_mutex_lock(&s->lock);
    struct list *l = list_pop_front(&s->released);
    struct table *dead[STORE_TABLES_MAX];
    struct version *v = l ? list_entry(l, struct version, link) : NULL;
    unsigned n = v ? version_dismiss(v, dead) : 0;
    pthread_mutex_unlock(&s->lock);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < n; i++) bytes += dead[i]->rows.bytes, table_free(dead[i]);
    mem_free(v);
    pthread_mutex_lock(&s->lock);
    s->retired_bytes -= bytes;
    pthread_mutex_unlock(&s->lock);
}

/* Under the lock. */
static struct table *table_due(struct rocks_store *s) {
    const struct version *v = atomic_load_explicit(&s->current, memory_order_relaxed);
    return v->count > 1 && !s->closing && !atomic_load(&s->failed) ? v->tables[v->count - 1] : NULL;
}

/* One piece of work, then the others' turn. */
static void store_work(struct rocks_store *s) {
    pthread_mutex_lock(&s->lock);
    struct table *t = list_empty(&s->released) ? table_due(s) : NULL;
    pthread_mutex_unlock(&s->lock);
    if (t) run_table(s, t);
    else released_free(s); /* first: it makes room */
    pthread_mutex_lock(&s->lock);
    s->scheduled = false;
    if (!list_empty(&s->released) || table_due(s)) store_schedule(s);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock); /* from here on the store may be closed */
}

static void *run_thread(void *ctx) {
    struct store_shared *shared = ctx;
    (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), RUN_NICE); /* Linux: of this thread alone */
    pthread_mutex_lock(&shared->lock);
    while (!shared->stop) {
        struct list *l = list_pop_front(&shared->stores);
        if (!l) {
            pthread_cond_wait(&shared->work, &shared->lock);
            continue;
        }
        pthread_mutex_unlock(&shared->lock);
        store_work(list_entry(l, struct rocks_store, queue_link));
        pthread_mutex_lock(&shared->lock);
    }
    pthread_mutex_unlock(&shared->lock);
    return NULL;
}

bool run_threads_start(struct store_shared *shared, unsigned count) {
    check(pthread_mutex_init(&shared->lock, NULL) == 0);
    check(pthread_cond_init(&shared->work, NULL) == 0);
    list_init(&shared->stores);
    if (!spares_start(shared)) return false;
    while (shared->thread_count < count && pthread_create(&shared->threads[shared->thread_count], NULL, run_thread, shared) == 0) shared->thread_count++;
    return shared->thread_count == count;
}

void run_threads_stop(struct store_shared *shared) {
    pthread_mutex_lock(&shared->lock);
    check(list_empty(&shared->stores)); /* they were closed first */
    shared->stop = true;
    pthread_cond_broadcast(&shared->work);
    pthread_mutex_unlock(&shared->lock);
    for (unsigned i = 0; i < shared->thread_count; i++) pthread_join(shared->threads[i], NULL);
    spares_stop(shared);
    pthread_cond_destroy(&shared->work);
    pthread_mutex_destroy(&shared->lock);
}
