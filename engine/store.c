#include "engine/store_ops.h"

void store_init(struct store *s, const struct store_ops *ops) {
    s->ops = ops;
    s->magic = STORE_MAGIC;
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

void store_close(struct store *s) {
    if (!s) return;
    store_check(s);
    check(atomic_load(&s->snapshots) == 0); /* each would point into freed memory */
    check(atomic_load(&s->iterators) == 0);
    s->ops->close(s);
}

enum status store_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    store_check_view(view);
    store_check_key(key);
    *value = (struct slice){0};
    if (view->batch && view->batch->failed) return STATUS_MEMORY_LIMIT;
    return view->store->ops->get(view, key, arena, value);
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

struct store_iter *store_iter_open(const struct store_view *view, struct slice lower, struct slice upper) {
    store_check_view(view);
    check(lower.len <= STORE_KEY_BYTES_MAX);
    check(upper.len <= STORE_KEY_BYTES_MAX);
    if (view->batch && view->batch->failed) return NULL;
    struct store_iter *it = view->store->ops->iter_open(view, lower, upper);
    if (!it) return NULL;
    check(it->magic == STORE_ITER_MAGIC);
    atomic_fetch_add(&view->store->iterators, 1);
    return it;
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
    return b->failed ? STATUS_MEMORY_LIMIT : s->ops->apply(s, b);
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
    s->ops->set_expiry(s, kind, horizon_us);
}

void store_get_stats(struct store *s, struct store_stats *out) {
    store_check(s);
    *out = (struct store_stats){0};
    s->ops->get_stats(s, out);
    out->snapshots = atomic_load(&s->snapshots);
    out->iterators = atomic_load(&s->iterators);
}

void store_drop_range(struct store *s, struct slice lower, struct slice upper) {
    store_check(s);
    s->ops->drop_range(s, lower, upper);
}

uint64_t store_range_bytes(struct store *s, struct slice lower, struct slice upper) {
    store_check(s);
    return s->ops->range_bytes(s, lower, upper);
}
