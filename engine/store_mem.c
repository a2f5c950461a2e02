/* The store in memory: a persistent treap with a crash model. The simulator and most unit tests run on it.
 *
 * A tree is a pointer to its root; nodes and rows are counted. To hold a tree is to hold one reference to its root, and a tree that
 * somebody holds never changes: a writer copies a node that has another holder and writes a node that it alone holds (tree_own). So
 * a snapshot, an iterator and the disk are each one pointer, and a batch is applied as a new tree: either all of it becomes the
 * store's tree, or it is dropped.
 *
 *     store.root ---> (k) <--- snapshot         apply: copies the path to each row written,
 *                    /   \                      then the store points at the new root;
 *                  (c)   (s) <--- disk.root     c and s stay shared
 *
 * A treap is a search tree by key and a heap by priority. The priority is a hash of the key: no dice, the shape follows from the
 * content alone, and runs repeat. Depth is O(log n) as for random priorities.
 *
 * No memory: an operation that finds none sets tree_edit.failed and leaves a tree that is sound in its references but no longer right;
 * the edit is dropped as a whole.
 *
 * Crash model: `disk` keeps the tree of the last flush. store_close drops everything else. A disk that is full fails the flush and the
 * next apply, and the store is then failed until reopened, as RocksDB's is after a background error.
 *
 * Threads: trees are taken and set under the store's lock; everything below a held root is constant. Counts are atomic. */
#include <pthread.h>

#include "engine/store_ops.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

struct row {
    _Atomic uint32_t holders;
    bool deleted; /* in a batch alone */
    uint64_t priority;
    uint32_t key_bytes, value_bytes;
    uint8_t bytes[]; /* key, value */
};
struct node {
    _Atomic uint32_t holders;
    struct row *row;
    struct node *left, *right;
    uint64_t bytes; /* of the rows of this subtree */
};
struct tree_edit {
    bool failed;
};

struct store_mem_disk {
    pthread_mutex_t lock;
    struct node *root;
    struct node *imported; /* has_imported: finished, and not installed */
    bool has_imported, full, cold;
    uint32_t behind;
    enum status read_fault;
};
struct store_snapshot {
    struct node *root;
};
struct mem_store {
    struct store base;
    struct store_mem_disk *disk;
    pthread_mutex_t lock;
    struct node *root;
    uint64_t applies;                        /* counts the trees: a batch's cached view is of one of them */
    uint64_t applied_bytes, flushed_bytes;   /* of all batches so far, and as of the last flush */
    uint64_t horizon_us[256]; /* by kind */
    _Atomic bool failed;
};
struct mem_batch {
    struct store_batch base;
    struct node *overlay; /* its rows, deletions among them */
    struct node *view;    /* the store's tree with the overlay put in; kept while neither changes */
    uint64_t view_applies, view_versions;
};
struct mem_iter {
    struct store_iter base;
    struct node *root;
    enum status fault; /* each move ends in it: WOULD_BLOCK from a cold disk, or the injected one */
    uint8_t bounds[];
};

/* ---- rows and nodes */

static struct slice row_key(const struct row *r) { return slice_of(r->bytes, r->key_bytes); }
static struct slice row_value(const struct row *r) { return slice_of(r->bytes + r->key_bytes, r->value_bytes); }
static uint64_t row_size(const struct row *r) { return (uint64_t)r->key_bytes + r->value_bytes; }

static struct row *row_new(struct slice key, struct slice value, bool deleted) {
    struct row *r = mem_alloc(sizeof *r + key.len + value.len);
    if (!r) return NULL;
    atomic_init(&r->holders, 1);
    r->deleted = deleted;
    r->priority = hash64(key);
    r->key_bytes = (uint32_t)key.len, r->value_bytes = (uint32_t)value.len;
    memcpy(r->bytes, key.data, key.len);
    if (value.len) memcpy(r->bytes + key.len, value.data, value.len);
    return r;
}
static struct row *row_hold(struct row *r) {
    atomic_fetch_add_explicit(&r->holders, 1, memory_order_relaxed);
    return r;
}
static void row_drop(struct row *r) {
    if (atomic_fetch_sub_explicit(&r->holders, 1, memory_order_acq_rel) == 1) mem_free(r);
}

static struct node *tree_hold(struct node *n) {
    if (n) atomic_fetch_add_explicit(&n->holders, 1, memory_order_relaxed);
    return n;
}
static void tree_drop(struct node *n) {
    while (n && atomic_fetch_sub_explicit(&n->holders, 1, memory_order_acq_rel) == 1) {
        struct node *right = n->right;
        tree_drop(n->left);
        row_drop(n->row);
        mem_free(n);
        n = right;
    }
}
static struct node *tree_sum(struct node *n) {
    n->bytes = row_size(n->row) + (n->left ? n->left->bytes : 0) + (n->right ? n->right->bytes : 0);
    return n;
}
static struct node *tree_node(struct tree_edit *e, struct row *r) {
    struct node *n = mem_zalloc(sizeof *n);
    if (!n) return e->failed = true, NULL;
    atomic_init(&n->holders, 1);
    n->row = row_hold(r);
    return tree_sum(n);
}
/* n itself when nobody else holds it, else a copy in its place. NULL: no memory, n is still held. A node reached through owned nodes
 * alone cannot gain a holder meanwhile: holders come through roots and through copies, and only the writer copies. */
static struct node *tree_own(struct tree_edit *e, struct node *n) {
    if (atomic_load_explicit(&n->holders, memory_order_acquire) == 1) return n;
    struct node *copy = tree_node(e, n->row);
    if (!copy) return NULL;
    copy->left = tree_hold(n->left), copy->right = tree_hold(n->right), copy->bytes = n->bytes;
    tree_drop(n);
    return copy;
}

/* ---- the treap. Each function takes over the reference to the tree passed in and returns one to the result. */

static void tree_split(struct tree_edit *e, struct node *n, struct slice key, struct node **less, struct node **more) {
    *less = *more = NULL;
    if (!n) return;
    struct node *m = tree_own(e, n);
    if (!m) {
        *less = n;
    } else if (slice_compare(row_key(m->row), key) < 0) {
        tree_split(e, m->right, key, &m->right, more);
        *less = tree_sum(m);
    } else {
        tree_split(e, m->left, key, less, &m->left);
        *more = tree_sum(m);
    }
}

static struct node *tree_join(struct tree_edit *e, struct node *less, struct node *more) {
    if (!less) return more;
    if (!more) return less;
    bool up = less->row->priority >= more->row->priority;
    struct node *top = tree_own(e, up ? less : more);
    if (!top) return tree_drop(more), less; /* the edit has failed: soundness alone counts */
    if (up) top->right = tree_join(e, top->right, more);
    else top->left = tree_join(e, less, top->left);
    return tree_sum(top);
}

static struct node *tree_put(struct tree_edit *e, struct node *n, struct row *r) {
    if (!n) return tree_node(e, r);
    int c = slice_compare(row_key(r), row_key(n->row));
    if (c && r->priority > n->row->priority) { /* the key is not below: its node would be above a lower priority */
        struct node *top = tree_node(e, r);
        if (!top) return n;
        tree_split(e, n, row_key(r), &top->left, &top->right);
        return tree_sum(top);
    }
    struct node *m = tree_own(e, n);
    if (!m) return n;
    if (c < 0) {
        m->left = tree_put(e, m->left, r);
    } else if (c > 0) {
        m->right = tree_put(e, m->right, r);
    } else {
        row_drop(m->row);
        m->row = row_hold(r);
    }
    return tree_sum(m);
}

static const struct node *tree_find(const struct node *n, struct slice key) {
    while (n) {
        int c = slice_compare(key, row_key(n->row));
        if (c == 0) return n;
        n = c < 0 ? n->left : n->right;
    }
    return NULL;
}

static struct node *tree_cut(struct tree_edit *e, struct node *n, struct slice key) { /* the key is there */
    struct node *m = tree_own(e, n);
    if (!m) return n;
    int c = slice_compare(key, row_key(m->row));
    if (c == 0) {
        struct node *left = m->left, *right = m->right;
        m->left = m->right = NULL;
        tree_drop(m);
        return tree_join(e, left, right);
    }
    struct node **side = c < 0 ? &m->left : &m->right;
    if (!*side) { /* only after a failure above */
        check(e->failed);
        return m;
    }
    *side = tree_cut(e, *side, key);
    return tree_sum(m);
}
static struct node *tree_delete(struct tree_edit *e, struct node *n, struct slice key) {
    return tree_find(n, key) ? tree_cut(e, n, key) : n;
}

/* The first node with key >= `key` (or > it), the last with key <= `key` (or < it). An empty tree or none: NULL. */
static const struct node *tree_at_least(const struct node *n, struct slice key, bool above) {
    const struct node *best = NULL;
    while (n) {
        int c = slice_compare(row_key(n->row), key);
        if (c > 0 || (c == 0 && !above)) best = n, n = n->left;
        else n = n->right;
    }
    return best;
}
static const struct node *tree_at_most(const struct node *n, struct slice key, bool below) {
    const struct node *best = NULL;
    while (n) {
        int c = slice_compare(row_key(n->row), key);
        if (c < 0 || (c == 0 && !below)) best = n, n = n->right;
        else n = n->left;
    }
    return best;
}
static uint64_t tree_bytes_below(const struct node *n, struct slice key) {
    uint64_t sum = 0;
    while (n) {
        if (slice_compare(row_key(n->row), key) < 0) {
            sum += row_size(n->row) + (n->left ? n->left->bytes : 0);
            n = n->right;
        } else {
            n = n->left;
        }
    }
    return sum;
}

/* Puts each row of the overlay into the tree. */
static struct node *tree_overlay(struct tree_edit *e, struct node *n, const struct node *overlay) {
    if (!overlay || e->failed) return n;
    n = tree_overlay(e, n, overlay->left);
    if (e->failed) return n;
    n = overlay->row->deleted ? tree_delete(e, n, row_key(overlay->row)) : tree_put(e, n, overlay->row);
    return tree_overlay(e, n, overlay->right);
}

/* ---- the disk */

struct store_mem_disk *store_mem_disk_new(void) {
    struct store_mem_disk *d = mem_new(struct store_mem_disk);
    if (d) check(pthread_mutex_init(&d->lock, NULL) == 0);
    return d;
}
void store_mem_disk_free(struct store_mem_disk *d) {
    if (!d) return;
    tree_drop(d->root);
    tree_drop(d->imported);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}
void store_mem_disk_set_full(struct store_mem_disk *d, bool full) {
    pthread_mutex_lock(&d->lock);
    d->full = full;
    pthread_mutex_unlock(&d->lock);
}
void store_mem_disk_set_cold(struct store_mem_disk *d, bool cold) {
    pthread_mutex_lock(&d->lock);
    d->cold = cold;
    pthread_mutex_unlock(&d->lock);
}
void store_mem_disk_set_read_fault(struct store_mem_disk *d, enum status fault) {
    pthread_mutex_lock(&d->lock);
    d->read_fault = fault;
    pthread_mutex_unlock(&d->lock);
}
void store_mem_disk_set_behind(struct store_mem_disk *d, uint32_t behind) {
    pthread_mutex_lock(&d->lock);
    d->behind = behind;
    pthread_mutex_unlock(&d->lock);
}

static struct mem_store *mem_of(struct store *s) { return container_of(s, struct mem_store, base); }

/* Why a read of this view cannot be served now, or OK. */
static enum status mem_read_fault(const struct store_view *view) {
    struct store_mem_disk *d = mem_of(view->store)->disk;
    pthread_mutex_lock(&d->lock);
    enum status st = d->read_fault ? d->read_fault : d->cold && view->cached_only ? STATUS_WOULD_BLOCK : STATUS_OK;
    pthread_mutex_unlock(&d->lock);
    return st;
}

/* ---- reads */

static struct node *mem_root_hold(struct mem_store *s) {
    pthread_mutex_lock(&s->lock);
    struct node *root = tree_hold(s->root);
    pthread_mutex_unlock(&s->lock);
    return root;
}

static enum status mem_batch_get(const struct store_batch *base, struct slice key, struct arena *arena, struct slice *value) {
    const struct node *n = tree_find(container_of(base, struct mem_batch, base)->overlay, key);
    if (!n) return STATUS_WOULD_BLOCK;
    if (n->row->deleted) return STATUS_ABSENT;
    *value = arena_copy(arena, row_value(n->row));
    return value->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

static void tree_rows(const struct node *n, void (*row)(void *ctx, struct slice key, struct slice value, bool deleted), void *ctx) {
    for (; n; n = n->right) {
        tree_rows(n->left, row, ctx);
        row(ctx, row_key(n->row), row_value(n->row), n->row->deleted);
    }
}
static void mem_batch_rows(const struct store_batch *base, void (*row)(void *ctx, struct slice key, struct slice value, bool deleted), void *ctx) {
    tree_rows(container_of(base, struct mem_batch, base)->overlay, row, ctx);
}

static enum status mem_get(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value) {
    enum status st = mem_read_fault(view);
    if (st) return st;
    const struct node *n = NULL;
    if (view->batch) n = tree_find(container_of(view->batch, struct mem_batch, base)->overlay, key);
    struct slice ahead;
    if (!n && store_ahead_find(view, key, &ahead)) return (*value = arena_copy(arena, ahead)).data ? STATUS_OK : STATUS_MEMORY_LIMIT;
    struct node *root = n ? NULL : view->snapshot ? tree_hold(view->snapshot->root) : mem_root_hold(mem_of(view->store));
    if (!n) n = tree_find(root, key);
    if (!n || n->row->deleted) {
        st = STATUS_ABSENT;
    } else {
        *value = arena_copy(arena, row_value(n->row));
        if (!value->data) st = STATUS_MEMORY_LIMIT;
    }
    tree_drop(root);
    return st;
}

/* There are no files: all that it holds is one, and each batch makes another. */
static uint64_t mem_ahead_stamp(struct store *base) { return mem_of(base)->applies; }
static void mem_get_many(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values) {
    for (unsigned i = 0; i < count; i++)
        if (mem_get(view, keys[i], arena, &values[i])) values[i] = (struct slice){0};
}
static void mem_ahead_get(struct store *base, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values) {
    mem_get_many(&(struct store_view){.store = base}, keys, count, arena, values);
}

static struct store_snapshot *mem_snapshot_get(struct store *base) {
    struct store_snapshot *snapshot = mem_new(struct store_snapshot);
    if (snapshot) snapshot->root = mem_root_hold(mem_of(base));
    return snapshot;
}
static void mem_snapshot_put(struct store *base, struct store_snapshot *snapshot) {
    tree_drop(snapshot->root);
    mem_free(snapshot);
}

/* The batch's view as a tree, held by the batch; false: no memory. */
static bool mem_batch_view(struct mem_store *s, struct mem_batch *b) {
    if (b->view && b->view_applies == s->applies && b->view_versions == b->base.versions) return true;
    tree_drop(b->view);
    struct tree_edit edit = {0};
    b->view = tree_overlay(&edit, mem_root_hold(s), b->overlay);
    b->view_applies = s->applies, b->view_versions = b->base.versions;
    if (edit.failed) tree_drop(b->view), b->view = NULL;
    return !edit.failed;
}

static struct store_iter *mem_iter_open(const struct store_view *view, struct slice lower, struct slice upper, bool group) {
    struct mem_store *s = mem_of(view->store);
    struct mem_batch *b = view->batch ? container_of(view->batch, struct mem_batch, base) : NULL;
    if (b && !mem_batch_view(s, b)) return NULL;
    struct mem_iter *it = mem_zalloc(sizeof *it + lower.len + upper.len);
    if (!it) return NULL;
    it->base.store = view->store, it->base.magic = STORE_ITER_MAGIC;
    if (lower.len) memcpy(it->bounds, lower.data, lower.len);
    if (upper.len) memcpy(it->bounds + lower.len, upper.data, upper.len);
    it->base.lower = slice_of(it->bounds, lower.len), it->base.upper = slice_of(it->bounds + lower.len, upper.len);
    it->root = b ? tree_hold(b->view) : view->snapshot ? tree_hold(view->snapshot->root) : mem_root_hold(s);
    it->fault = mem_read_fault(view);
    return &it->base;
}
static void mem_iter_close(struct store_iter *base) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    base->magic = 0;
    tree_drop(it->root);
    mem_free(it);
}

/* Stands on n if that is inside the bounds. */
static void mem_iter_stand(struct mem_iter *it, const struct node *n) {
    struct store_iter *base = &it->base;
    base->status = it->fault;
    base->valid = n && !it->fault && slice_compare(row_key(n->row), base->lower) >= 0 &&
                  (!base->upper.len || slice_compare(row_key(n->row), base->upper) < 0);
    if (base->valid) base->key = row_key(n->row), base->value = row_value(n->row);
}
static void mem_iter_first(struct store_iter *base) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    mem_iter_stand(it, tree_at_least(it->root, base->lower, false));
}
static void mem_iter_last(struct store_iter *base) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    if (base->upper.len) {
        mem_iter_stand(it, tree_at_most(it->root, base->upper, true));
    } else {
        const struct node *n = it->root;
        while (n && n->right) n = n->right;
        mem_iter_stand(it, n);
    }
}
static void mem_iter_seek(struct store_iter *base, struct slice key) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    mem_iter_stand(it, tree_at_least(it->root, key, false));
}
static void mem_iter_seek_back(struct store_iter *base, struct slice key) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    mem_iter_stand(it, tree_at_most(it->root, key, false));
}
static void mem_iter_next(struct store_iter *base) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    mem_iter_stand(it, tree_at_least(it->root, base->key, true));
}
static void mem_iter_prev(struct store_iter *base) {
    struct mem_iter *it = container_of(base, struct mem_iter, base);
    mem_iter_stand(it, tree_at_most(it->root, base->key, true));
}

/* ---- writes */

static struct store_batch *mem_batch_new(struct store *s) {
    struct mem_batch *b = mem_new(struct mem_batch);
    return b ? &b->base : NULL;
}
static void mem_batch_clear(struct store_batch *base) {
    struct mem_batch *b = container_of(base, struct mem_batch, base);
    tree_drop(b->overlay), b->overlay = NULL;
    tree_drop(b->view), b->view = NULL;
}
static void mem_batch_free(struct store_batch *base) {
    mem_batch_clear(base);
    mem_free(container_of(base, struct mem_batch, base));
}
static void mem_batch_add(struct store_batch *base, struct slice key, struct slice value, bool deleted) {
    struct mem_batch *b = container_of(base, struct mem_batch, base);
    if (base->failed) return;
    struct row *r = row_new(key, value, deleted);
    struct tree_edit edit = {.failed = !r};
    if (r) b->overlay = tree_put(&edit, b->overlay, r), row_drop(r);
    base->failed = edit.failed;
}
static void mem_batch_put(struct store_batch *base, struct slice key, struct slice value) { mem_batch_add(base, key, value, false); }
static void mem_batch_delete(struct store_batch *base, struct slice key) { mem_batch_add(base, key, (struct slice){0}, true); }

static bool mem_disk_full(struct mem_store *s) {
    pthread_mutex_lock(&s->disk->lock);
    bool full = s->disk->full;
    pthread_mutex_unlock(&s->disk->lock);
    return full;
}

static void mem_root_set(struct mem_store *s, struct node *root, uint64_t bytes) {
    pthread_mutex_lock(&s->lock);
    struct node *old = s->root;
    s->root = root;
    s->applies++;
    s->applied_bytes += bytes;
    pthread_mutex_unlock(&s->lock);
    tree_drop(old);
}

static enum status mem_apply(struct store *base, struct store_batch *batch) {
    struct mem_store *s = mem_of(base);
    struct mem_batch *b = container_of(batch, struct mem_batch, base);
    if (mem_disk_full(s)) atomic_store(&s->failed, true);
    if (atomic_load(&s->failed)) return STATUS_DISK_FULL;
    if (!mem_batch_view(s, b)) return STATUS_MEMORY_LIMIT;
    struct node *root = b->view;
    b->view = NULL;
    mem_root_set(s, root, batch->bytes);
    return STATUS_OK;
}

/* Always: a disk that is full again as soon as it was opened is what simulations want to meet. */
static enum status mem_probe(struct store *base, char error[256]) { return error[0] = 0, STATUS_OK; }

static enum status mem_flush(struct store *base) {
    struct mem_store *s = mem_of(base);
    if (mem_disk_full(s)) atomic_store(&s->failed, true);
    if (atomic_load(&s->failed)) return STATUS_DISK_FULL;
    pthread_mutex_lock(&s->lock);
    struct node *root = tree_hold(s->root);
    uint64_t bytes = s->applied_bytes;
    pthread_mutex_unlock(&s->lock);

    pthread_mutex_lock(&s->disk->lock);
    struct node *old = s->disk->root;
    s->disk->root = root;
    pthread_mutex_unlock(&s->disk->lock);
    tree_drop(old);

    pthread_mutex_lock(&s->lock);
    s->flushed_bytes = bytes;
    pthread_mutex_unlock(&s->lock);
    return STATUS_OK;
}

static struct node *mem_expire(struct tree_edit *e, struct node *root, const struct node *n, uint8_t kind, uint64_t horizon_us) {
    if (!n || e->failed) return root;
    root = mem_expire(e, root, n->left, kind, horizon_us);
    struct slice key = row_key(n->row);
    if (!e->failed && key.len >= 3 && key.data[2] == kind && store_row_expired(row_value(n->row), horizon_us)) root = tree_delete(e, root, key);
    return mem_expire(e, root, n->right, kind, horizon_us);
}
/* Drops the rows at once: of all moments allowed, the earliest, so that tests meet an apply that leans on them. */
static void mem_set_expiry(struct store *base, uint8_t kind, uint64_t horizon_us) {
    struct mem_store *s = mem_of(base);
    if (horizon_us <= s->horizon_us[kind]) return;
    s->horizon_us[kind] = horizon_us;
    struct tree_edit edit = {0};
    struct node *before = mem_root_hold(s);
    struct node *after = mem_expire(&edit, tree_hold(before), before, kind, horizon_us);
    tree_drop(before);
    if (edit.failed) tree_drop(after); /* they stay a while longer */
    else mem_root_set(s, after, 0);
}

static void mem_get_stats(struct store *base, struct store_stats *out) {
    struct mem_store *s = mem_of(base);
    pthread_mutex_lock(&s->lock);
    out->unflushed_bytes = s->applied_bytes - s->flushed_bytes;
    out->memtable_bytes = s->root ? s->root->bytes : 0;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_lock(&s->disk->lock);
    out->table_bytes = s->disk->root ? s->disk->root->bytes : 0;
    out->behind = s->disk->behind;
    pthread_mutex_unlock(&s->disk->lock);
    out->failed = atomic_load(&s->failed);
    if (out->failed) out->failure = STATUS_DISK_FULL, out->behind = STORE_BEHIND_FULL;
    out->pressure = store_pressure(out->behind);
}

static struct node *mem_drop(struct tree_edit *e, struct node *root, const struct node *n, struct slice lower, struct slice upper) {
    if (!n || e->failed) return root;
    struct slice key = row_key(n->row);
    bool above = slice_compare(key, lower) >= 0, below = slice_compare(key, upper) < 0;
    if (above) root = mem_drop(e, root, n->left, lower, upper);
    if (!e->failed && above && below) root = tree_delete(e, root, key);
    return below ? mem_drop(e, root, n->right, lower, upper) : root;
}
/* At once, as with expiry. On a job: what the owner applied meanwhile stays, and then the rows stay too. */
static void mem_drop_range(struct store *base, struct slice lower, struct slice upper) {
    struct mem_store *s = mem_of(base);
    struct tree_edit edit = {0};
    struct node *before = mem_root_hold(s);
    struct node *after = mem_drop(&edit, tree_hold(before), before, lower, upper), *old = after;
    pthread_mutex_lock(&s->lock);
    if (!edit.failed && s->root == before) s->root = after, old = before;
    pthread_mutex_unlock(&s->lock);
    tree_drop(old);
    tree_drop(before);
}

static uint64_t mem_range_bytes(struct store *base, struct slice lower, struct slice upper) {
    struct node *root = mem_root_hold(mem_of(base));
    uint64_t above = upper.len ? tree_bytes_below(root, upper) : root ? root->bytes : 0, below = tree_bytes_below(root, lower);
    tree_drop(root);
    return above > below ? above - below : 0;
}

/* ---- a state as a stream: row after row, key's and value's length (4 be each), key, value */

enum { STREAM_ROW_HEAD_BYTES = 8 };
struct mem_checkpoint {
    struct store_checkpoint base;
    uint8_t *stream;
};
struct mem_import {
    struct store_import base;
    struct store_mem_disk *disk;
    uint8_t *stream; /* of base.bytes; NULL: finished, and in the disk */
};

static uint64_t mem_stream_bytes(const struct node *n) { return n ? STREAM_ROW_HEAD_BYTES + row_size(n->row) + mem_stream_bytes(n->left) + mem_stream_bytes(n->right) : 0; }
static void mem_stream_put(const struct node *n, struct writer *w) {
    if (!n) return;
    mem_stream_put(n->left, w);
    write_be32(w, n->row->key_bytes), write_be32(w, n->row->value_bytes);
    write_slice(w, row_key(n->row)), write_slice(w, row_value(n->row));
    mem_stream_put(n->right, w);
}

static struct node *mem_disk_root_hold(struct store_mem_disk *d) {
    pthread_mutex_lock(&d->lock);
    struct node *root = tree_hold(d->root);
    pthread_mutex_unlock(&d->lock);
    return root;
}

static enum status mem_checkpoint_make(struct store *base, struct store_checkpoint **out, char error[256]) {
    struct mem_store *s = mem_of(base);
    if (mem_disk_full(s)) return STATUS_DISK_FULL;
    struct node *root = mem_disk_root_hold(s->disk);
    uint64_t bytes = mem_stream_bytes(root);
    struct mem_checkpoint *c = mem_new(struct mem_checkpoint);
    if (c) c->stream = mem_alloc(bytes);
    if (c && c->stream) {
        struct writer w = writer_of(c->stream, bytes);
        mem_stream_put(root, &w);
        check(!w.full && w.len == bytes);
        c->base.bytes = bytes;
        *out = &c->base;
    } else {
        mem_free(c);
    }
    tree_drop(root);
    return *out ? STATUS_OK : STATUS_MEMORY_LIMIT;
}
static enum status mem_checkpoint_read(struct store_checkpoint *base, uint64_t offset, uint8_t *out, size_t len) {
    memcpy(out, container_of(base, struct mem_checkpoint, base)->stream + offset, len);
    return STATUS_OK;
}
static void mem_checkpoint_free(struct store_checkpoint *base) {
    struct mem_checkpoint *c = container_of(base, struct mem_checkpoint, base);
    mem_free(c->stream);
    mem_free(c);
}

static void mem_imported_set(struct store_mem_disk *d, bool has, struct node *root) {
    pthread_mutex_lock(&d->lock);
    struct node *old = d->imported;
    d->imported = root, d->has_imported = has;
    pthread_mutex_unlock(&d->lock);
    tree_drop(old);
}

static struct mem_import *mem_import_new(struct store *base) {
    struct mem_import *i = mem_new(struct mem_import);
    if (i) i->base.ops = base->ops, i->disk = mem_of(base)->disk;
    return i;
}
static enum status mem_import_begin(struct store *base, struct store_import **out, char error[256]) {
    struct mem_import *i = mem_import_new(base);
    if (!i) return STATUS_MEMORY_LIMIT;
    mem_imported_set(i->disk, false, NULL);
    *out = &i->base;
    return STATUS_OK;
}
static enum status mem_import_write(struct store_import *base, struct slice bytes, char error[256]) {
    struct mem_import *i = container_of(base, struct mem_import, base);
    pthread_mutex_lock(&i->disk->lock);
    bool full = i->disk->full;
    pthread_mutex_unlock(&i->disk->lock);
    if (full) return STATUS_DISK_FULL;
    uint8_t *grown = mem_realloc(i->stream, base->written + bytes.len);
    if (!grown) return STATUS_MEMORY_LIMIT;
    i->stream = grown;
    memcpy(i->stream + base->written, bytes.data, bytes.len);
    return STATUS_OK;
}

static enum status mem_import_rows(struct slice stream, struct node **root) {
    struct reader r = reader_of(stream);
    struct tree_edit edit = {0};
    while (reader_left(&r) && !r.bad && !edit.failed) {
        uint32_t key_bytes = read_be32(&r), value_bytes = read_be32(&r);
        struct slice key = read_bytes(&r, key_bytes), value = read_bytes(&r, value_bytes);
        if (r.bad) break;
        struct row *row = row_new(key, value, false);
        if (!row) return STATUS_MEMORY_LIMIT;
        *root = tree_put(&edit, *root, row);
        row_drop(row);
    }
    return edit.failed ? STATUS_MEMORY_LIMIT : r.bad ? STATUS_FORMAT_UNKNOWN : STATUS_OK;
}

/* What is looked into is a store with no disk behind it but this tree. */
static enum status mem_import_finish(struct store_import *base, struct store **look, char error[256]) {
    struct mem_import *i = container_of(base, struct mem_import, base);
    struct node *root = NULL;
    enum status st = mem_import_rows(slice_of(i->stream, base->bytes), &root);
    if (!st) st = store_open_mem(look, i->disk);
    if (st) return tree_drop(root), st;
    struct mem_store *s = mem_of(*look);
    tree_drop(s->root);
    s->root = tree_hold(root);
    mem_imported_set(i->disk, true, root);
    mem_free(i->stream), i->stream = NULL;
    return STATUS_OK;
}
static enum status mem_import_find(struct store *base, struct store_import **out, char error[256]) {
    struct store_mem_disk *d = mem_of(base)->disk;
    pthread_mutex_lock(&d->lock);
    bool found = d->has_imported;
    pthread_mutex_unlock(&d->lock);
    if (!found) return STATUS_ABSENT;
    struct mem_import *i = mem_import_new(base);
    if (i) *out = &i->base;
    return i ? STATUS_OK : STATUS_MEMORY_LIMIT;
}
static enum status mem_import_install(struct store_import *base, char error[256]) {
    struct mem_import *i = container_of(base, struct mem_import, base);
    pthread_mutex_lock(&i->disk->lock);
    struct node *old = i->disk->root;
    check(i->disk->has_imported);
    i->disk->root = i->disk->imported, i->disk->imported = NULL, i->disk->has_imported = false;
    pthread_mutex_unlock(&i->disk->lock);
    tree_drop(old);
    mem_free(i);
    return STATUS_OK;
}
static void mem_import_free(struct store_import *base, bool keep) {
    struct mem_import *i = container_of(base, struct mem_import, base);
    if (!keep) mem_imported_set(i->disk, false, NULL);
    mem_free(i->stream);
    mem_free(i);
}

static void mem_close(struct store *base) {
    struct mem_store *s = mem_of(base);
    base->magic = 0;
    tree_drop(s->root);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

enum status store_open_mem(struct store **out, struct store_mem_disk *disk) {
    static const struct store_ops ops = {
        .close = mem_close,
        .get = mem_get,
    .batch_get = mem_batch_get,
    .batch_rows = mem_batch_rows,
        .get_many = mem_get_many,
        .ahead_stamp = mem_ahead_stamp,
        .ahead_get = mem_ahead_get,
        .snapshot_get = mem_snapshot_get,
        .snapshot_put = mem_snapshot_put,
        .iter_open = mem_iter_open,
        .iter_close = mem_iter_close,
        .iter_first = mem_iter_first,
        .iter_last = mem_iter_last,
        .iter_seek = mem_iter_seek,
        .iter_seek_back = mem_iter_seek_back,
        .iter_next = mem_iter_next,
        .iter_prev = mem_iter_prev,
        .batch_new = mem_batch_new,
        .batch_free = mem_batch_free,
        .batch_clear = mem_batch_clear,
        .batch_put = mem_batch_put,
        .batch_delete = mem_batch_delete,
        .apply = mem_apply,
        .probe = mem_probe,
        .flush = mem_flush,
        .set_expiry = mem_set_expiry,
        .get_stats = mem_get_stats,
        .drop_range = mem_drop_range,
        .range_bytes = mem_range_bytes,
        .checkpoint_make = mem_checkpoint_make,
        .checkpoint_read = mem_checkpoint_read,
        .checkpoint_free = mem_checkpoint_free,
        .import_begin = mem_import_begin,
        .import_write = mem_import_write,
        .import_finish = mem_import_finish,
        .import_find = mem_import_find,
        .import_install = mem_import_install,
        .import_free = mem_import_free,
    };
    *out = NULL;
    struct mem_store *s = mem_new(struct mem_store);
    if (!s) return STATUS_MEMORY_LIMIT;
    store_init(&s->base, &ops);
    check(pthread_mutex_init(&s->lock, NULL) == 0);
    s->disk = disk;
    pthread_mutex_lock(&disk->lock);
    s->root = tree_hold(disk->root);
    pthread_mutex_unlock(&disk->lock);
    *out = &s->base;
    return STATUS_OK;
}
