/* Reads: the batch over the active table over the frozen ones, newest first, over RocksDB. The first that knows a key decides.
 *
 * One state out of two parts. RocksDB's part is taken first (its snapshot, an iterator, or that it holds nothing), then the tables are pinned. What was ingested in between could
 * be in neither, so a table that left the version meanwhile (`runs`) means: once more. What stayed is in the tables, which are asked first. */
#include "engine/store_rocks_local.h"
#include "proto/base/mem.h"

enum { SOURCE_ROWS_FIRST = 4, SOURCE_ROWS = 24 };

struct store_snapshot {
    struct pin pin;
    const rocksdb_snapshot_t *rocks; /* NULL: RocksDB held nothing */
    rocksdb_readoptions_t *read[2];  /* [cached_only]; with `rocks` */
};

/* ---- point reads */

static enum status value_copy(struct arena *arena, const void *data, size_t len, struct slice *value) {
    *value = arena_copy(arena, slice_of(data, len));
    return value->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}
static enum status row_copy(const struct row *r, struct arena *arena, struct slice *value) {
    return r->deleted ? STATUS_ABSENT : value_copy(arena, r->bytes + r->key_len, r->value_len, value);
}

/* STATUS_WOULD_BLOCK: no table says anything of the key. */
static enum status tables_get(struct rocks_store *s, const struct store_snapshot *n, struct slice key, struct arena *arena, struct slice *value) {
    enum status st = STATUS_WOULD_BLOCK;
    bool owned = rocks_owned(s);
    if (!owned) pthread_mutex_lock(&s->lock); /* a row that no pin protects is copied under it: the owner may write over it */
    const struct version *v = n ? n->pin.version : atomic_load_explicit(&s->current, memory_order_acquire);
    const struct row *r = NULL;
    for (unsigned i = 0; i < v->count && !r; i++) r = row_tree_find(&v->tables[i]->rows, key, n ? n->pin.seq : UINT64_MAX);
    if (r) st = row_copy(r, arena, value);
    if (!owned) pthread_mutex_unlock(&s->lock);
    return st;
}

static enum status files_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    struct rocks_store *s = rocks_of(view->store);
    if (view->snapshot ? !view->snapshot->rocks : !atomic_load_explicit(&s->has_files, memory_order_acquire)) return STATUS_ABSENT;
    struct slice ahead;
    if (store_ahead_find(view, key, &ahead)) return value_copy(arena, ahead.data, ahead.len, value);
    char *error = NULL;
    size_t len = 0;
    enum status st = STATUS_ABSENT;
    rocksdb_pinnableslice_t *row = rocksdb_get_pinned_cf(s->db, view->snapshot ? view->snapshot->read[view->cached_only] : s->read[view->cached_only], s->families[rocks_family(s, key)], chars(key), key.len, &error);
    if (row) {
        const char *data = rocksdb_pinnableslice_value(row, &len);
        st = value_copy(arena, data, len, value);
        rocksdb_pinnableslice_destroy(row);
    }
    return error ? rocks_read_error(s, error, view->damage) : st;
}

enum status rocks_batch_get(const struct store_batch *b, struct slice key, struct arena *arena, struct slice *value) {
    const struct row *r = row_tree_find(&container_of(b, struct rocks_batch, base)->rows, key, UINT64_MAX);
    return r ? row_copy(r, arena, value) : STATUS_WOULD_BLOCK;
}

enum status rocks_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    enum status st = view->batch ? rocks_batch_get(view->batch, key, arena, value) : STATUS_WOULD_BLOCK;
    if (st == STATUS_WOULD_BLOCK) st = tables_get(rocks_of(view->store), view->snapshot, key, arena, value);
    return st == STATUS_WOULD_BLOCK ? files_get(view, key, arena, value) : st;
}

void rocks_get_many(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values) {
    struct slice below[STORE_AHEAD_KEYS_MAX], found[STORE_AHEAD_KEYS_MAX] = {0};
    unsigned n = 0, at[STORE_AHEAD_KEYS_MAX];
    static_assert((unsigned)STORE_EXPECT_MAX <= (unsigned)STORE_AHEAD_KEYS_MAX, "as many as RocksDB is asked for together");
    for (unsigned i = 0; i < count; i++) {
        enum status st = tables_get(rocks_of(view->store), NULL, keys[i], arena, &values[i]);
        if (st == STATUS_WOULD_BLOCK) below[n] = keys[i], at[n++] = i;
        else if (st) values[i] = (struct slice){0};
    }
    if (n) rocks_ahead_get(view->store, below, n, arena, found);
    for (unsigned i = 0; i < n; i++) values[at[i]] = found[i];
}

/* A table that leaves the version has become a file. While it has not left, its rows are asked before the files, whatever these hold of it by then. */
uint64_t rocks_ahead_stamp(struct store *base) { return atomic_load(&rocks_of(base)->runs); }

/* RocksDB looks for up to 32 keys together: filters, index and blocks of a file are at hand for the next of them. Growing keys, which nobody asks for here, are not found. */
void rocks_ahead_get(struct store *base, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values) {
    struct rocks_store *s = rocks_of(base);
    const char *names[STORE_AHEAD_KEYS_MAX];
    size_t lengths[STORE_AHEAD_KEYS_MAX];
    rocksdb_pinnableslice_t *found[STORE_AHEAD_KEYS_MAX] = {0};
    char *errors[STORE_AHEAD_KEYS_MAX] = {0};
    if (!count || !atomic_load_explicit(&s->has_files, memory_order_acquire)) return;
    for (unsigned i = 0; i < count; i++) names[i] = chars(keys[i]), lengths[i] = keys[i].len;
    rocksdb_batched_multi_get_cf(s->db, s->read[false], s->families[FAMILY_ROWS], count, names, lengths, found, errors, false);
    for (unsigned i = 0; i < count; i++) {
        size_t len = 0;
        if (errors[i]) (void)!rocks_read_error(s, errors[i], NULL);
        if (!found[i]) continue;
        const char *data = rocksdb_pinnableslice_value(found[i], &len);
        if (value_copy(arena, data, len, &values[i])) values[i] = (struct slice){0};
        rocksdb_pinnableslice_destroy(found[i]);
    }
}

/* ---- snapshots */

/* Pins the newest state, unless RocksDB has taken over a table since `runs` was read. */
static bool newest_pin(struct rocks_store *s, struct pin *p, uint64_t runs) {
    pthread_mutex_lock(&s->lock);
    bool same = atomic_load(&s->runs) == runs;
    if (same) rocks_pin(s, p, NULL);
    pthread_mutex_unlock(&s->lock);
    return same;
}

struct store_snapshot *rocks_snapshot_get(struct store *base) {
    struct rocks_store *s = rocks_of(base);
    struct store_snapshot *n = mem_new(struct store_snapshot);
    if (!n) return NULL;
    for (;;) {
        uint64_t runs = atomic_load(&s->runs);
        n->rocks = atomic_load(&s->has_files) ? rocksdb_create_snapshot(s->db) : NULL;
        if (newest_pin(s, &n->pin, runs)) break;
        if (n->rocks) rocksdb_release_snapshot(s->db, n->rocks);
    }
    for (int cached = 0; cached < 2 && n->rocks; cached++) {
        n->read[cached] = rocks_read_options(cached, true);
        rocksdb_readoptions_set_snapshot(n->read[cached], n->rocks);
    }
    return n;
}

void rocks_snapshot_put(struct store *base, struct store_snapshot *n) {
    struct rocks_store *s = rocks_of(base);
    pthread_mutex_lock(&s->lock);
    rocks_unpin(s, &n->pin);
    pthread_mutex_unlock(&s->lock);
    for (int cached = 0; cached < 2 && n->rocks; cached++) rocksdb_readoptions_destroy(n->read[cached]);
    if (n->rocks) rocksdb_release_snapshot(s->db, n->rocks);
    mem_free(n);
}

/* ---- iterators: a merge. A source over a table holds the next few rows as its view sees them: pinned rows never change, so they are fetched a few at a
 * time and it does not matter what is put meanwhile. RocksDB's iterators are the last sources: one, or one of each family when the range reaches into both. */

struct source {
    const struct row_tree *rows;
    bool shared; /* others write it: the lock, when it is not ours */
    bool more;   /* there may be rows behind those that were fetched */
    uint64_t seq;
    unsigned at, count, want;
    const struct row *fetched[SOURCE_ROWS];
};
struct files {
    rocksdb_iterator_t *it;
    bool valid;
    struct slice key;
};
struct rocks_iter {
    struct store_iter base;
    struct pin pin;
    struct store_damage *damage; /* the view's */
    bool backward;
    uint8_t group_tail; /* not 0: over the group `lower`, of whose keys this is the rest */
    rocksdb_readoptions_t *read; /* holds the bounds: lives as long as the iterator; NULL: RocksDB holds nothing */
    unsigned files_count;
    struct files files[FAMILIES]; /* no key is in two */
    unsigned source_count;
    struct source *sources;
    uint8_t bounds[];
};

static struct rocks_iter *iter_of(struct store_iter *base) { return container_of(base, struct rocks_iter, base); }

/* Does the range reach into the family? */
static bool family_in_range(const struct rocks_store *s, enum rocks_family family, struct slice lower, struct slice upper) {
    if (s->family_count == 1) return family == FAMILY_ROWS;
    bool begins = slice_starts_with(lower, s->growing), ends = slice_starts_with(upper, s->growing);
    if (family == FAMILY_ROWS) return !(begins && ends);
    return begins || ends || (slice_compare(lower, s->growing) < 0 && (!upper.len || slice_compare(upper, s->growing) > 0));
}

static void files_open(struct rocks_iter *it, const struct store_view *view) {
    struct rocks_store *s = rocks_of(view->store);
    it->read = rocks_read_options(view->cached_only, it->group_tail != 0); /* readahead stays automatic: none for a page of a list, growing for a long scan */
    if (view->bulk) rocksdb_readoptions_set_fill_cache(it->read, 0);
    if (view->snapshot) rocksdb_readoptions_set_snapshot(it->read, view->snapshot->rocks);
    if (it->base.upper.len) rocksdb_readoptions_set_iterate_upper_bound(it->read, chars(it->base.upper), it->base.upper.len);
    if (it->base.lower.len) rocksdb_readoptions_set_iterate_lower_bound(it->read, chars(it->base.lower), it->base.lower.len);
    for (unsigned f = 0; f < s->family_count; f++)
        if (family_in_range(s, f, it->base.lower, it->base.upper)) it->files[it->files_count++].it = rocksdb_create_iterator_cf(s->db, it->read, s->families[f]);
}
static void files_close(struct rocks_iter *it) {
    if (!it->read) return;
    while (it->files_count) rocksdb_iter_destroy(it->files[--it->files_count].it);
    rocksdb_readoptions_destroy(it->read);
    it->read = NULL;
}

static void iter_pin(struct rocks_iter *it, const struct store_view *view) {
    struct rocks_store *s = rocks_of(view->store);
    if (view->snapshot) {
        if (view->snapshot->rocks) files_open(it, view);
        pthread_mutex_lock(&s->lock);
        rocks_pin(s, &it->pin, &view->snapshot->pin);
        pthread_mutex_unlock(&s->lock);
        return;
    }
    for (;;) {
        uint64_t runs = atomic_load(&s->runs);
        if (atomic_load(&s->has_files)) files_open(it, view);
        if (newest_pin(s, &it->pin, runs)) return;
        files_close(it);
    }
}

struct store_iter *rocks_iter_open(const struct store_view *view, struct slice lower, struct slice upper, bool group) {
    struct rocks_store *s = rocks_of(view->store);
    struct rocks_iter *it = mem_zalloc(sizeof *it + lower.len + upper.len + STORE_KEY_BYTES_MAX);
    if (!it) return NULL;
    it->base.store = view->store, it->base.magic = STORE_ITER_MAGIC;
    it->damage = view->damage;
    if (lower.len) memcpy(it->bounds, lower.data, lower.len);
    if (upper.len) memcpy(it->bounds + lower.len, upper.data, upper.len);
    it->base.lower = slice_of(it->bounds, lower.len), it->base.upper = slice_of(it->bounds + lower.len, upper.len);
    if (group && s->grouped_kind && lower.len > 3 && lower.data[2] == s->grouped_kind) it->group_tail = s->grouped_tail;
    iter_pin(it, view);
    const struct version *v = it->pin.version;
    it->sources = mem_alloc((v->count + 1) * sizeof *it->sources);
    if (!it->sources) return rocks_iter_close(&it->base), NULL;
    if (view->batch) it->sources[it->source_count++] = (struct source){.rows = &container_of(view->batch, struct rocks_batch, base)->rows, .seq = UINT64_MAX};
    for (unsigned i = 0; i < v->count; i++) it->sources[it->source_count++] = (struct source){.rows = &v->tables[i]->rows, .shared = i == 0, .seq = it->pin.seq};
    return &it->base;
}

void rocks_iter_close(struct store_iter *base) {
    struct rocks_iter *it = iter_of(base);
    struct rocks_store *s = rocks_of(base->store);
    base->magic = 0;
    files_close(it);
    pthread_mutex_lock(&s->lock);
    rocks_unpin(s, &it->pin);
    pthread_mutex_unlock(&s->lock);
    mem_free(it->sources);
    mem_free(it);
}

/* Few rows first: most iterators take one or two. */
static void source_fetch(struct rocks_iter *it, struct source *src, struct slice from, bool inclusive) {
    struct rocks_store *s = rocks_of(it->base.store);
    bool locked = src->shared && !rocks_owned(s);
    if (locked) pthread_mutex_lock(&s->lock);
    src->count = it->backward ? row_tree_below(src->rows, from, inclusive, src->seq, src->fetched, src->want)
                              : row_tree_above(src->rows, from, inclusive, src->seq, src->fetched, src->want);
    if (locked) pthread_mutex_unlock(&s->lock);
    src->at = 0;
    src->more = src->count == src->want;
    src->want = MIN_OF(src->want * 3, (unsigned)SOURCE_ROWS);
}
static const struct row *source_row(const struct source *src) { return src->at < src->count ? src->fetched[src->at] : NULL; }
static void source_step(struct rocks_iter *it, struct source *src) {
    struct slice key = row_key(src->fetched[src->at++]);
    if (src->at == src->count && src->more) source_fetch(it, src, key, false);
}

/* Takes over where RocksDB's iterator stands. */
static void files_stand(struct rocks_iter *it, struct files *f) {
    f->valid = rocksdb_iter_valid(f->it);
    if (f->valid) {
        f->key.data = (const uint8_t *)rocksdb_iter_key(f->it, &f->key.len);
        return;
    }
    char *error = NULL;
    rocksdb_iter_get_error(f->it, &error);
    if (error) it->base.status = rocks_read_error(rocks_of(it->base.store), error, it->damage);
}
static void files_step(struct rocks_iter *it, struct files *f) {
    if (it->backward) rocksdb_iter_prev(f->it);
    else rocksdb_iter_next(f->it);
    files_stand(it, f);
}
/* In a group RocksDB is sought by whole keys of it, since what it takes of them has to be the group: a bound becomes the least or the greatest key that there may be, which is a row to stand on. */
static struct slice group_key(struct rocks_iter *it, struct slice from, bool *inclusive) {
    size_t lower = it->base.lower.len, tail = it->group_tail;
    if (from.len == lower + tail && slice_starts_with(from, it->base.lower)) return from;
    *inclusive = true;
    check(slice_equal(from, it->backward ? it->base.upper : it->base.lower));
    uint8_t *key = it->bounds + lower + it->base.upper.len;
    memcpy(key, it->base.lower.data, lower);
    memset(key + lower, it->backward ? 0xff : 0, tail);
    return slice_of(key, lower + tail);
}
static void files_position(struct rocks_iter *it, struct files *f, struct slice from, bool inclusive) {
    if (it->group_tail) from = group_key(it, from, &inclusive);
    if (it->backward && from.len) rocksdb_iter_seek_for_prev(f->it, chars(from), from.len);
    else if (it->backward) rocksdb_iter_seek_to_last(f->it);
    else if (from.len) rocksdb_iter_seek(f->it, chars(from), from.len);
    else rocksdb_iter_seek_to_first(f->it);
    files_stand(it, f);
    if (!inclusive && f->valid && slice_equal(f->key, from)) files_step(it, f);
}

/* All sources to the first row from `from` on, in the iterator's direction. An empty key: from the end that it starts at. */
static void iter_position(struct rocks_iter *it, struct slice from, bool inclusive) {
    struct slice deferred = rocks_of(it->base.store)->deferred;
    bool dear = deferred.len && slice_starts_with(it->base.lower, deferred); /* a fetch from a pile looks into each of its segments, however few rows are wanted */
    it->base.status = STATUS_OK;
    for (unsigned i = 0; i < it->source_count; i++) {
        it->sources[i].want = dear ? SOURCE_ROWS : SOURCE_ROWS_FIRST;
        source_fetch(it, &it->sources[i], from, inclusive);
    }
    for (unsigned i = 0; i < it->files_count; i++) files_position(it, &it->files[i], from, inclusive);
}

static bool iter_outside(const struct rocks_iter *it, struct slice key) {
    if (it->backward) return slice_compare(key, it->base.lower) < 0;
    return it->base.upper.len && slice_compare(key, it->base.upper) >= 0;
}

/* Past this key, wherever it is. */
static void iter_pass(struct rocks_iter *it, struct slice key) {
    for (unsigned i = 0; i < it->source_count; i++) {
        const struct row *r = source_row(&it->sources[i]);
        if (r && slice_equal(row_key(r), key)) source_step(it, &it->sources[i]);
    }
    for (unsigned i = 0; i < it->files_count; i++)
        if (it->files[i].valid && slice_equal(it->files[i].key, key)) { /* last: the key may be its own */
            files_step(it, &it->files[i]);
            return;
        }
}

static bool iter_nearer(const struct rocks_iter *it, struct slice a, struct slice b) {
    int c = slice_compare(a, b);
    return it->backward ? c > 0 : c < 0;
}
static struct files *files_nearest(struct rocks_iter *it) {
    struct files *nearest = NULL;
    for (unsigned i = 0; i < it->files_count; i++)
        if (it->files[i].valid && (!nearest || iter_nearer(it, it->files[i].key, nearest->key))) nearest = &it->files[i];
    return nearest;
}
/* Stands on the nearest row of all sources that is not deleted. Of several with one key the first source's is the newest. */
static void iter_settle(struct rocks_iter *it) {
    struct store_iter *base = &it->base;
    for (;;) {
        const struct row *row = NULL;
        base->valid = false;
        for (unsigned i = 0; i < it->source_count; i++) {
            const struct row *r = source_row(&it->sources[i]);
            if (r && (!row || iter_nearer(it, row_key(r), row_key(row)))) row = r;
        }
        if (base->status) return; /* what RocksDB could not read may be nearer than all else */
        const struct files *f = files_nearest(it);
        if (f && (!row || iter_nearer(it, f->key, row_key(row)))) {
            base->key = f->key;
            base->value.data = (const uint8_t *)rocksdb_iter_value(f->it, &base->value.len);
            base->valid = !iter_outside(it, base->key);
            return;
        }
        if (!row || iter_outside(it, row_key(row))) return;
        base->key = row_key(row), base->value = row_value(row);
        if (!row->deleted) {
            base->valid = true;
            return;
        }
        iter_pass(it, base->key);
    }
}

static void iter_go(struct rocks_iter *it, bool backward, struct slice from, bool inclusive) {
    it->backward = backward;
    for (unsigned i = 0; i < it->files_count; i++) it->files[i].valid = false;
    iter_position(it, from, inclusive);
    iter_settle(it);
}
void rocks_iter_first(struct store_iter *base) { iter_go(iter_of(base), false, base->lower, true); }
void rocks_iter_last(struct store_iter *base) { iter_go(iter_of(base), true, base->upper, false); }
void rocks_iter_seek(struct store_iter *base, struct slice key) { iter_go(iter_of(base), false, key, true); }
void rocks_iter_seek_back(struct store_iter *base, struct slice key) { iter_go(iter_of(base), true, key, true); }

static void iter_step(struct rocks_iter *it, bool backward) {
    if (it->backward != backward) {
        /* Of the other direction: RocksDB moves the key away under us. */
        uint8_t *from = it->bounds + it->base.lower.len + it->base.upper.len;
        size_t len = it->base.key.len;
        memcpy(from, it->base.key.data, len);
        iter_go(it, backward, slice_of(from, len), false);
        return;
    }
    iter_pass(it, it->base.key);
    iter_settle(it);
}
void rocks_iter_next(struct store_iter *base) { iter_step(iter_of(base), false); }
void rocks_iter_prev(struct store_iter *base) { iter_step(iter_of(base), true); }
