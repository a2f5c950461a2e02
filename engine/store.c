#include "engine/key_filter.h"
#include "engine/row_cache.h"
#include "engine/store_ops.h"
#include "proto/base/hash.h"

void store_init(struct store *s, const struct store_ops *ops) {
    s->ops = ops;
    s->magic = STORE_MAGIC;
    atomic_init(&s->owner, 0);
    atomic_init(&s->snapshots, 0);
    atomic_init(&s->iterators, 0);
}

static void store_check(const struct store *s) {
    check(s != NULL);
    check(s->magic == STORE_MAGIC);
}
static void store_check_key(struct slice key) {
    check(key.len > 0);
    check(key.len <= STORE_KEY_BYTES_MAX);
}
static void store_check_view(const struct store_view *view) {
    store_check(view->store);
    check(!view->snapshot || !view->batch); /* a batch lies over the newest state */
    check(!view->ahead || !view->snapshot); /* its rows are of the newest state */
    check(!view->batch || (view->batch->magic == STORE_BATCH_MAGIC && view->batch->store == view->store));
}
static void store_check_batch(const struct store_batch *b) {
    check(b != NULL);
    check(b->magic == STORE_BATCH_MAGIC);
}

uintptr_t thread_self(void) {
    static _Thread_local char self;
    return (uintptr_t)&self;
}
static void owner_is_here(struct store *s) {
    if (!store_owned(s)) atomic_store_explicit(&s->owner, thread_self(), memory_order_relaxed);
}

void store_close(struct store *s) {
    if (!s) return;
    store_check(s);
    check(atomic_load(&s->snapshots) == 0); /* each would point into freed memory */
    check(atomic_load(&s->iterators) == 0);
    for (unsigned i = 0; i < s->cache_count; i++) row_cache_free(s->caches[i]);
    s->cache_count = 0;
    key_filter_free(s->filter);
    s->filter = NULL;
    s->ops->close(s);
}

/* ---- point reads, and the rows that are kept for them.
 *
 * What the cache holds is what the newest state says, at any moment that the owner can look: it enters by a read of that state or with the batch that was applied, and is replaced or forgotten by
 * the batch that changes it, all on the owner's thread. So it is asked before the tables, and right behind the batch. Snapshots and other threads pass it by. Only rows that are there are kept, never
 * that there is none. */

static void warm(void *ctx, void *memory, size_t bytes) {
    struct store *s = ctx;
    s->ops->warm(s, memory, bytes);
}

enum status store_cache_rows(struct store *s, uint64_t bytes, uint32_t row_bytes, struct slice kinds) {
    store_check(s);
    check(s->cache_count < STORE_CACHES_MAX);
    static_assert((unsigned)STORE_CACHE_BYTES_MIN == (unsigned)ROW_CACHE_BYTES_MIN, "store.h says so");
    struct row_cache *c = row_cache_new(bytes, row_bytes);
    if (!c) return STATUS_MEMORY_LIMIT;
    if (s->ops->warm) row_cache_warm(c, warm, s);
    s->caches[s->cache_count++] = c;
    for (size_t i = 0; !kinds.len && i < ARRAY_LEN(s->cached); i++) s->cached[i] = (uint8_t)s->cache_count;
    for (size_t i = 0; i < kinds.len; i++) s->cached[kinds.data[i]] = (uint8_t)s->cache_count;
    return STATUS_OK;
}

/* Where rows of this kind are kept; NULL: nowhere. */
static struct row_cache *cache_of(const struct store *s, struct slice key) {
    uint8_t in = s->cached[key.len > 2 ? key.data[2] : 0];
    return in ? s->caches[in - 1] : NULL;
}

/* The cache that is to be asked, and told, about this; NULL: none. */
static struct row_cache *cache_for(const struct store_view *view, struct slice key) {
    const struct store *s = view->store;
    struct row_cache *c = view->snapshot ? NULL : cache_of(s, key);
    return c && store_owned(s) ? c : NULL;
}

/* WOULD_BLOCK: neither knows. */
static enum status cache_get(struct row_cache *cache, const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    struct slice kept;
    enum status st = view->batch ? view->store->ops->batch_get(view->batch, key, arena, value) : STATUS_WOULD_BLOCK;
    if (st != STATUS_WOULD_BLOCK || !row_cache_find(cache, key, &kept)) return st;
    *value = arena_copy(arena, kept);
    return value->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

/* ---- keys that are not there.
 *
 * An idempotency key is new by nature, and to find that out a look-up asks every table and every file. The filter knows all keys of its kind that were ever put into a batch of this store (one that was not applied is a
 * yes too many), and, once it is whole, all that were there before. What it forgets has expired by the horizon, and whoever asks takes such a row for absent already (docs/STORAGE.md). */

enum status store_filter_keys(struct store *s, uint64_t bytes, uint8_t kind) {
    store_check(s);
    check(!s->filter);
    static_assert((unsigned)STORE_FILTER_BYTES_MIN == (unsigned)KEY_FILTER_BYTES_MIN, "store.h says so");
    static_assert(STORE_NEVER_US == KEY_FILTER_NEVER_US, "its lasting keys are our lasting rows");
    s->filter_kind = kind;
    s->filter = key_filter_new(bytes);
    if (s->filter && s->ops->warm) key_filter_warm(s->filter, warm, s);
    return s->filter ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

struct store_filtered store_filtered_of(struct slice key, struct slice value) {
    return (struct store_filtered){hash64(key), value.len >= 8 ? get_be64(value.data) : UINT64_MAX};
}

void store_filter_add(struct store *s, const struct store_filtered *rows, unsigned count) {
    store_check(s);
    for (unsigned i = 0; s->filter && i < count; i++) key_filter_put(s->filter, rows[i].hash, rows[i].expiry_us);
}

void store_filter_whole(struct store *s) {
    store_check(s);
    s->filter_whole = true;
}

void store_filter_prove(struct store *s) {
    store_check(s);
    s->filter_proved = true;
}

static bool filter_kind(const struct store *s, struct slice key) { return s->filter && key.len > 2 && key.data[2] == s->filter_kind; }

static void filter_prove(const struct store_view *view, struct slice key, struct arena *arena) {
    struct slice row;
    enum status st = view->store->ops->get(view, key, arena, &row);
    check(st || store_row_expired(row, view->store->filter_horizon_us));
}

/* Is it certain that there is no such row? */
static bool filter_excludes(const struct store_view *view, struct slice key, struct arena *arena) {
    struct store *s = view->store;
    if (!filter_kind(s, key) || !s->filter_whole || view->snapshot || !store_owned(s)) return false;
    s->filter_asked++;
    if (key_filter_may_have(s->filter, hash64(key))) return false;
    s->filter_absent++;
    if (s->filter_proved) filter_prove(view, key, arena);
    return true;
}

enum status store_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    store_check_view(view);
    store_check_key(key);
    *value = (struct slice){0};
    if (view->batch && view->batch->failed) return STATUS_MEMORY_LIMIT;
    if (filter_excludes(view, key, arena)) return STATUS_ABSENT;
    struct row_cache *cache = cache_for(view, key);
    if (!cache) return view->store->ops->get(view, key, arena, value);
    enum status st = cache_get(cache, view, key, arena, value);
    if (st != STATUS_WOULD_BLOCK) return st;
    struct store_view below = *view;
    below.batch = NULL;
    st = view->store->ops->get(&below, key, arena, value);
    if (!st) row_cache_put(cache, key, *value);
    return st;
}

void store_expect(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *scratch) {
    struct row_cache *caches[STORE_EXPECT_MAX];
    uint64_t hashes[STORE_EXPECT_MAX];
    struct slice missing[STORE_EXPECT_MAX], values[STORE_EXPECT_MAX] = {0};
    struct store_view newest = *view;
    unsigned n = 0;
    store_check_view(view);
    check(count <= STORE_EXPECT_MAX);
    for (unsigned i = 0; i < count; i++)
        if ((caches[i] = cache_for(view, keys[i]))) hashes[i] = row_cache_hash(caches[i], keys[i]);
    for (unsigned i = 0; i < count; i++)
        if (caches[i] && !row_cache_expect(caches[i], hashes[i])) missing[n++] = keys[i];
    if (!n) return;
    newest.batch = NULL;
    view->store->ops->get_many(&newest, missing, n, scratch, values);
    for (unsigned i = 0; i < n; i++)
        if (values[i].data) row_cache_put(cache_of(view->store, missing[i]), missing[i], values[i]);
}

enum status store_get_cached(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    store_check_view(view);
    store_check_key(key);
    *value = (struct slice){0};
    if (view->batch && view->batch->failed) return STATUS_MEMORY_LIMIT;
    struct row_cache *cache = cache_for(view, key);
    return cache ? cache_get(cache, view, key, arena, value) : STATUS_WOULD_BLOCK;
}

void store_keep(const struct store_view *view, struct slice key, struct slice value) {
    store_check_view(view);
    check(!view->batch); /* its rows are not the store's yet */
    struct row_cache *cache = cache_for(view, key);
    if (cache) row_cache_put(cache, key, value);
}

/* The rows of a batch that was applied, some at a time: the table's lines are asked for before the first of them is waited for. */
struct keeping {
    struct store *store;
    unsigned count;
    struct kept_row {
        struct row_cache *cache;
        uint64_t hash;
        struct slice key, value;
        bool deleted;
    } rows[16];
};
static void keep_flush(struct keeping *k) {
    for (unsigned i = 0; i < k->count; i++) {
        const struct kept_row *r = &k->rows[i];
        if (r->deleted) row_cache_forget_hashed(r->cache, r->hash, r->key);
        else row_cache_put_hashed(r->cache, r->hash, r->key, r->value);
    }
    k->count = 0;
}
static void keep_row(void *ctx, struct slice key, struct slice value, bool deleted) {
    struct keeping *k = ctx;
    struct row_cache *cache = cache_of(k->store, key);
    if (!cache) return;
    if (k->count == ARRAY_LEN(k->rows)) keep_flush(k);
    k->rows[k->count++] = (struct kept_row){cache, row_cache_hash(cache, key), key, value, deleted};
}

struct store_snapshot *store_snapshot_get(struct store *s) {
    store_check(s);
    struct store_snapshot *snapshot = s->ops->snapshot_get(s);
    if (snapshot) atomic_fetch_add(&s->snapshots, 1);
    return snapshot;
}

void store_snapshot_put(struct store *s, struct store_snapshot *snapshot) {
    store_check(s);
    if (!snapshot) return;
    check(atomic_fetch_sub(&s->snapshots, 1) > 0);
    s->ops->snapshot_put(s, snapshot);
}

/* ---- iterators. NULL stands for one that found no memory: never valid, status MEMORY_LIMIT. */

static struct store_iter *iter_open(const struct store_view *view, struct slice lower, struct slice upper, bool group) {
    store_check_view(view);
    check(lower.len <= STORE_KEY_BYTES_MAX);
    check(upper.len <= STORE_KEY_BYTES_MAX);
    if (view->batch && view->batch->failed) return NULL;
    struct store_iter *it = view->store->ops->iter_open(view, lower, upper, group);
    if (!it) return NULL;
    check(it->magic == STORE_ITER_MAGIC);
    atomic_fetch_add(&view->store->iterators, 1);
    return it;
}

struct store_iter *store_iter_open(const struct store_view *view, struct slice lower, struct slice upper) { return iter_open(view, lower, upper, false); }

struct store_iter *store_iter_open_group(const struct store_view *view, struct slice group) {
    uint8_t upper[STORE_KEY_BYTES_MAX];
    store_check_key(group);
    memcpy(upper, group.data, group.len);
    return iter_open(view, group, slice_of(upper, bytes_after_prefix(upper, group.len)), true); /* no length: no bound */
}

static bool store_iter_usable(const struct store_iter *it) {
    if (!it) return false;
    check(it->magic == STORE_ITER_MAGIC);
    return true;
}

void store_iter_close(struct store_iter *it) {
    if (!store_iter_usable(it)) return;
    check(atomic_fetch_sub(&it->store->iterators, 1) > 0);
    it->store->ops->iter_close(it);
}

void store_iter_first(struct store_iter *it) {
    if (store_iter_usable(it)) it->store->ops->iter_first(it);
}
void store_iter_last(struct store_iter *it) {
    if (store_iter_usable(it)) it->store->ops->iter_last(it);
}
void store_iter_seek(struct store_iter *it, struct slice key) {
    if (!store_iter_usable(it)) return;
    if (slice_compare(key, it->lower) <= 0) it->store->ops->iter_first(it);
    else if (it->upper.len && slice_compare(key, it->upper) >= 0) it->valid = false, it->status = STATUS_OK;
    else it->store->ops->iter_seek(it, key);
}
void store_iter_seek_back(struct store_iter *it, struct slice key) {
    if (!store_iter_usable(it)) return;
    if (it->upper.len && slice_compare(key, it->upper) >= 0) it->store->ops->iter_last(it);
    else if (slice_compare(key, it->lower) < 0) it->valid = false, it->status = STATUS_OK;
    else it->store->ops->iter_seek_back(it, key);
}
void store_iter_next(struct store_iter *it) {
    if (!store_iter_usable(it)) return;
    check(it->valid);
    it->store->ops->iter_next(it);
}
void store_iter_prev(struct store_iter *it) {
    if (!store_iter_usable(it)) return;
    check(it->valid);
    it->store->ops->iter_prev(it);
}
bool store_iter_valid(const struct store_iter *it) { return store_iter_usable(it) && it->valid; }
struct slice store_iter_key(const struct store_iter *it) {
    check(store_iter_valid(it));
    return it->key;
}
struct slice store_iter_value(const struct store_iter *it) {
    check(store_iter_valid(it));
    return it->value;
}
enum status store_iter_status(const struct store_iter *it) { return store_iter_usable(it) ? it->status : STATUS_MEMORY_LIMIT; }

/* ---- batches */

struct store_batch *store_batch_new(struct store *s) {
    store_check(s);
    owner_is_here(s);
    struct store_batch *b = s->ops->batch_new(s);
    if (b) b->store = s, b->magic = STORE_BATCH_MAGIC;
    return b;
}

void store_batch_free(struct store_batch *b) {
    if (!b) return;
    store_check_batch(b);
    b->magic = 0;
    b->store->ops->batch_free(b);
}

void store_batch_clear(struct store_batch *b) {
    store_check_batch(b);
    b->store->ops->batch_clear(b);
    b->bytes = 0;
    b->versions++;
    b->failed = false;
}

void store_batch_put(struct store_batch *b, struct slice key, struct slice value) {
    store_check_batch(b);
    store_check_key(key);
    check(value.len <= STORE_VALUE_BYTES_MAX);
    b->versions++;
    b->bytes += key.len + value.len;
    if (filter_kind(b->store, key)) store_filter_add(b->store, (struct store_filtered[]){store_filtered_of(key, value)}, 1);
    b->store->ops->batch_put(b, key, value);
}

void store_batch_delete(struct store_batch *b, struct slice key) {
    store_check_batch(b);
    store_check_key(key);
    b->versions++;
    b->bytes += key.len;
    b->store->ops->batch_delete(b, key);
}

size_t store_batch_bytes(const struct store_batch *b) {
    store_check_batch(b);
    return b->bytes;
}

enum status store_apply(struct store *s, struct store_batch *b) {
    store_check(s);
    store_check_batch(b);
    check(b->store == s);
    owner_is_here(s);
    if (b->failed) return STATUS_MEMORY_LIMIT;
    enum status st = s->ops->apply(s, b);
    if (st || !s->cache_count) return st;
    struct keeping k = {.store = s};
    s->ops->batch_rows(b, keep_row, &k);
    keep_flush(&k);
    return STATUS_OK;
}

enum status store_probe(struct store *s, char error[256]) {
    check(s->magic == STORE_MAGIC);
    return s->ops->probe(s, error);
}

enum status store_flush(struct store *s) {
    store_check(s);
    return s->ops->flush(s);
}

void store_set_expiry(struct store *s, uint8_t kind, uint64_t horizon_us) {
    store_check(s);
    if (s->filter && kind == s->filter_kind) key_filter_expire(s->filter, s->filter_horizon_us = horizon_us);
    s->cached[kind] = 0; /* files may drop them without a word: what a cache holds of them is never looked at again */
    s->ops->set_expiry(s, kind, horizon_us);
}

void store_get_stats(struct store *s, struct store_stats *out) {
    store_check(s);
    *out = (struct store_stats){0};
    s->ops->get_stats(s, out);
    out->snapshots = atomic_load(&s->snapshots);
    out->iterators = atomic_load(&s->iterators);
    if (s->filter && store_owned(s)) out->filter_keys = key_filter_count(s->filter), out->filter_asked = s->filter_asked, out->filter_absent = s->filter_absent;
    for (unsigned i = 0; i < s->cache_count && store_owned(s); i++) {
        struct row_cache_stats c = row_cache_get_stats(s->caches[i]);
        out->cache_hits += c.hits, out->cache_misses += c.misses, out->cache_evictions += c.evictions, out->cache_bytes += c.bytes, out->cache_rows += c.rows;
    }
}

void store_drop_range(struct store *s, struct slice lower, struct slice upper) {
    store_check(s);
    s->ops->drop_range(s, lower, upper);
}

uint64_t store_range_bytes(struct store *s, struct slice lower, struct slice upper) {
    store_check(s);
    return s->ops->range_bytes(s, lower, upper);
}
