/* Splits go from the bottom up along the path of the descent. Separators are rows too (the first of the child when it was split off): rows stay where they
 * are as long as the tree lives, so a node never copies a key.
 *
 * Nodes and rows come from different places: of rows the bytes are known before they are put, of nodes only a bound. Reserving nodes
 * that are then not needed costs nothing but that they wait for the next put. */
#include "engine/row_tree.h"

#include "proto/base/mem.h"

enum {
    LEAF_ROWS = 64,
    CHILDREN = LEAF_ROWS / 2,
    HEIGHT_MAX = 12, /* 32 * 16^11 rows: far beyond memory */
    ROW_ALIGN = 8,
    TOGETHER = 8, /* rows whose leaves are asked for at once */
    SLAB_NODES_MAX = 32,
    SLAB_NODES_MIN = 2,
    SEGMENT_ROWS_MAX = 2048,  /* 64 KiB, which a core's cache holds; sorted in some 200 us */
    SEGMENT_SHARE_BYTES = 64, /* of a chunk, for each row of a segment: small trees have small ones */
};

struct row_node {
    struct row_node *prev, *next; /* leaves */
    uint32_t count;
    uint64_t prefix[LEAF_ROWS], second[LEAF_ROWS]; /* bytes 0 to 7 and 8 to 15 of each key, big-endian, zeros behind its end */
    union {
        struct row *rows[LEAF_ROWS];
        struct {
            const struct row *first[CHILDREN]; /* of child 0 it is never looked at: it takes all that is below */
            struct row_node *children[CHILDREN];
        };
    };
};
struct row_chunk {
    struct row_chunk *next;
    size_t bytes; /* with this header */
};
struct row_slab {
    struct row_slab *next;
    size_t bytes; /* with this header */
    size_t count, used;
    struct row_node nodes[];
};

/* Where a key belongs: the node of each level, root first, and the place of the child taken in it. */
struct path {
    struct row_node *nodes[HEIGHT_MAX];
    unsigned at[HEIGHT_MAX];
    const struct row *upper; /* the leaf takes keys below this row's; NULL: it is the last leaf */
};

/* ---- spare blocks */

struct row_spare {
    struct row_spare *next;
};

void row_spares_init(struct row_spares *s) {
    *s = (struct row_spares){0};
    check(pthread_mutex_init(&s->lock, NULL) == 0);
}

void row_spares_fini(struct row_spares *s) {
    check(s->max == 0);
    check(s->count == 0);
    pthread_mutex_destroy(&s->lock);
}

void row_spares_allow(struct row_spares *s, size_t bytes) {
    pthread_mutex_lock(&s->lock);
    s->max += bytes / MEM_HUGE_BYTES;
    pthread_mutex_unlock(&s->lock);
}

void row_spares_make_ready(struct row_spares *s, size_t ready, void (*low)(void *ctx), void *ctx) {
    s->ready = ready, s->low = low, s->ctx = ctx;
}

bool row_spares_lacking(const struct row_spares *s) { return s->wanted && s->count < MIN_OF(s->ready, s->max); }

static struct row_spare *spare_pop(struct row_spares *s) {
    struct row_spare *b = s->first;
    if (b) s->first = b->next, s->count--;
    return b;
}

/* For a tree. */
static struct row_spare *spare_take(struct row_spares *s) {
    pthread_mutex_lock(&s->lock);
    struct row_spare *b = spare_pop(s);
    s->wanted = true;
    bool low = row_spares_lacking(s);
    pthread_mutex_unlock(&s->lock);
    if (low) s->low(s->ctx);
    return b;
}

static bool spare_keep(struct row_spares *s, struct row_spare *b) {
    pthread_mutex_lock(&s->lock);
    bool room = s->count < s->max;
    if (room) b->next = s->first, s->first = b, s->count++;
    pthread_mutex_unlock(&s->lock);
    return room;
}

void row_spares_disallow(struct row_spares *s, size_t bytes) {
    pthread_mutex_lock(&s->lock);
    s->max -= bytes / MEM_HUGE_BYTES;
    while (s->count > s->max) mem_free(spare_pop(s));
    pthread_mutex_unlock(&s->lock);
}

bool row_spares_add(struct row_spares *s) {
    pthread_mutex_lock(&s->lock);
    bool lacking = row_spares_lacking(s);
    pthread_mutex_unlock(&s->lock);
    uint8_t *b = lacking ? mem_alloc_huge(MEM_HUGE_BYTES) : NULL;
    if (!b) return false;
    for (size_t at = 0; at < MEM_HUGE_BYTES; at += MEM_PAGE_BYTES) *(volatile uint8_t *)(b + at) = 0;
    bool kept = spare_keep(s, (struct row_spare *)(void *)b);
    if (!kept) mem_free(b);
    return kept;
}

/* ---- memory */

/* A large tree's memory is of huge pages: a descent through small ones would miss the TLB at each step. */
static void *tree_alloc(struct row_tree *t, size_t bytes) {
    struct row_spare *b = bytes == MEM_HUGE_BYTES && t->spares ? spare_take(t->spares) : NULL;
    return b ? b : bytes % MEM_HUGE_BYTES ? mem_alloc(bytes) : mem_alloc_huge(bytes);
}

static void tree_free(struct row_tree *t, void *p, size_t bytes) {
    if (bytes != MEM_HUGE_BYTES || !t->spares || !spare_keep(t->spares, p)) mem_free(p);
}

void row_tree_init(struct row_tree *t, size_t chunk_bytes) { *t = (struct row_tree){.chunk_bytes = chunk_bytes}; }

void row_tree_defer(struct row_tree *t, struct slice prefix) {
    t->deferred = prefix;
    row_pile_init(&t->pile, prefix.len, MIN_OF(t->chunk_bytes / SEGMENT_SHARE_BYTES, (size_t)SEGMENT_ROWS_MAX));
}

static void tree_use_chunk(struct row_tree *t, struct row_chunk *c) {
    t->at = (uint8_t *)(c + 1);
    t->end = (uint8_t *)c + c->bytes;
}

void row_tree_reset(struct row_tree *t) {
    while (t->chunks && (t->chunks->next || t->chunks->bytes > t->chunk_bytes)) {
        struct row_chunk *c = t->chunks;
        t->chunks = c->next, t->bytes -= c->bytes;
        tree_free(t, c, c->bytes);
    }
    while (t->slabs && t->slabs->next) {
        struct row_slab *s = t->slabs;
        t->slabs = s->next, t->bytes -= s->bytes;
        tree_free(t, s, s->bytes);
    }
    t->at = t->end = NULL;
    if (t->chunks) tree_use_chunk(t, t->chunks);
    t->slab = t->slabs;
    if (t->slab) t->slab->used = 0;
    t->nodes_left = t->slab ? t->slab->count : 0;
    t->root = NULL;
    t->height = 0;
    row_pile_reset(&t->pile, &t->bytes);
    t->row_count = t->row_bytes = t->leaf_count = t->inner_count = 0;
}

void row_tree_fini(struct row_tree *t) {
    row_tree_reset(t);
    if (t->chunks) tree_free(t, t->chunks, t->chunks->bytes);
    if (t->slabs) tree_free(t, t->slabs, t->slabs->bytes);
    row_pile_fini(&t->pile, &t->bytes);
    struct slice deferred = t->deferred;
    *t = (struct row_tree){.chunk_bytes = t->chunk_bytes, .spares = t->spares};
    row_tree_defer(t, deferred);
}

static size_t row_bytes(size_t key_len, size_t value_len) { return (offsetof(struct row, bytes) + key_len + value_len + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN; }

/* The next `bytes` of rows lie in one chunk. What was left of the one before is not used any more. */
static bool tree_reserve_rows(struct row_tree *t, size_t bytes) {
    if ((size_t)(t->end - t->at) >= bytes) return true;
    size_t size = MAX_OF(t->chunk_bytes, bytes + sizeof(struct row_chunk));
    struct row_chunk *c = tree_alloc(t, size);
    if (!c) return false;
    *c = (struct row_chunk){t->chunks, size};
    t->chunks = c;
    t->bytes += size;
    tree_use_chunk(t, c);
    return true;
}

static size_t slab_bytes(const struct row_tree *t) {
    if (t->chunk_bytes % MEM_HUGE_BYTES == 0) return t->chunk_bytes;
    return sizeof(struct row_slab) + MIN_OF(MAX_OF(t->chunk_bytes / sizeof(struct row_node) / 2, (size_t)SLAB_NODES_MIN), (size_t)SLAB_NODES_MAX) * sizeof(struct row_node);
}

static bool tree_reserve_nodes(struct row_tree *t, size_t nodes) {
    while (t->nodes_left < nodes) {
        size_t size = slab_bytes(t), count = (size - sizeof(struct row_slab)) / sizeof(struct row_node);
        struct row_slab *s = tree_alloc(t, size);
        if (!s) return false;
        *s = (struct row_slab){.bytes = size, .count = count};
        if (t->slab) {
            struct row_slab *last = t->slab;
            while (last->next) last = last->next;
            last->next = s;
        } else {
            t->slabs = t->slab = s;
        }
        t->nodes_left += count;
        t->bytes += size;
    }
    return true;
}

/* Reserved before. */
static struct row_node *node_new(struct row_tree *t) {
    check(t->nodes_left > 0);
    if (t->slab->used == t->slab->count) t->slab = t->slab->next;
    t->nodes_left--;
    struct row_node *n = &t->slab->nodes[t->slab->used++];
    n->prev = n->next = NULL;
    n->count = 0;
    return n;
}

/* Reserved before. */
static struct row *row_new(struct row_tree *t, struct slice key, struct slice value, bool deleted, uint64_t seq) {
    size_t bytes = row_bytes(key.len, value.len);
    check((size_t)(t->end - t->at) >= bytes);
    struct row *r = (struct row *)(void *)t->at;
    t->at += bytes;
    *r = (struct row){.seq = seq, .value_len = (uint32_t)value.len, .key_len = (uint16_t)key.len, .deleted = deleted};
    r->value_cap = (uint32_t)(bytes - offsetof(struct row, bytes) - key.len);
    memcpy(r->bytes, key.data, key.len);
    if (value.len) memcpy(r->bytes + key.len, value.data, value.len);
    return r;
}

/* ---- search */

/* How many of the words, which are in order, are below w. A mask, not a branch: which half a key is in no predictor knows. */
static inline unsigned words_below(const uint64_t *words, size_t n, uint64_t w) {
    const uint64_t *at = words;
    if (!n) return 0;
    for (; n > 1; n -= n / 2) at += n / 2 & -(size_t)(at[n / 2 - 1] < w);
    return (unsigned)(at - words) + (*at < w);
}

/* Of words in order, those from *low to *high that are w. */
static inline void words_equal(const uint64_t *words, unsigned *low, unsigned *high, uint64_t w) {
    unsigned end = *high;
    *low += words_below(words + *low, end - *low, w);
    *high = *low;
    while (*high < end && words[*high] == w && *high - *low < 2) ++*high;
    if (*high - *low == 2) *high = w == UINT64_MAX ? end : *low + words_below(words + *low, end - *low, w + 1); /* many of them */
}

/* The lines that a search may look at, all at once: by halves each would be waited for before the next is asked for. A look-up in a table of 400,000 rows: 1.25 us before, 1.0 so. */
static void node_fetch(const struct row_node *n, unsigned count) {
    for (unsigned i = 0; i < count; i += 64 / sizeof n->prefix[0]) __builtin_prefetch(&n->prefix[i]), __builtin_prefetch(&n->second[i]);
}

/* How many of the node's entries from `first` on have a key below this one, and whether the next has this very key. Rows are looked at only when 16 bytes do not tell. */
static unsigned rows_below(const struct row_node *n, const struct row *const *rows, unsigned first, struct slice key, bool *found) {
    unsigned low = first, high = n->count;
    if (n->count > 2 * 64 / sizeof n->prefix[0]) node_fetch(n, n->count);
    words_equal(n->prefix, &low, &high, row_key_word(key, 0));
    if (low < high) words_equal(n->second, &low, &high, row_key_word(key, 8));
    *found = false;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        int c = slice_compare(row_key(rows[middle]), key);
        if (c == 0) return *found = true, middle;
        if (c < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static unsigned leaf_below(const struct row_node *leaf, struct slice key, bool *found) { return rows_below(leaf, (const struct row *const *)leaf->rows, 0, key, found); }

static unsigned child_of(const struct row_node *n, struct slice key) {
    bool found;
    unsigned at = rows_below(n, n->first, 1, key, &found);
    return found ? at : at - 1;
}

static const struct row_node *leaf_of(const struct row_tree *t, struct slice key) {
    const struct row_node *n = t->root;
    for (unsigned level = 1; level < t->height; level++) n = n->children[child_of(n, key)];
    return n;
}

static void path_of(const struct row_tree *t, struct slice key, struct path *p) {
    struct row_node *n = t->root;
    p->upper = NULL;
    p->nodes[0] = n;
    for (unsigned level = 1; level < t->height; level++) {
        unsigned i = child_of(n, key);
        if (i + 1 < n->count) p->upper = n->first[i + 1];
        p->at[level - 1] = i;
        p->nodes[level] = n = n->children[i];
    }
}

static const struct row *row_seen(const struct row *r, uint64_t seq) {
    while (r && r->seq > seq) r = r->older;
    return r;
}

static bool is_deferred(const struct row_tree *t, struct slice key) { return t->deferred.len && slice_starts_with(key, t->deferred); }

const struct row *row_tree_find(const struct row_tree *t, struct slice key, uint64_t seq) {
    if (is_deferred(t, key)) return row_pile_find(&t->pile, key, seq);
    if (!t->root) return NULL;
    bool found;
    const struct row_node *leaf = leaf_of(t, key);
    unsigned i = leaf_below(leaf, key, &found);
    return found ? row_seen(leaf->rows[i], seq) : NULL;
}

static unsigned nodes_above(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) {
    if (!t->root) return 0;
    bool found;
    const struct row_node *leaf = leaf_of(t, key);
    unsigned n = 0, i = leaf_below(leaf, key, &found);
    if (found && !inclusive) i++;
    for (; leaf && n < max; leaf = leaf->next, i = 0)
        for (; i < leaf->count && n < max; i++) {
            const struct row *r = row_seen(leaf->rows[i], seq);
            if (r) out[n++] = r;
        }
    return n;
}

static unsigned nodes_below(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) {
    if (!t->root) return 0;
    bool found = false;
    const struct row_node *leaf = t->root;
    for (unsigned level = 1; level < t->height; level++) leaf = leaf->children[key.len ? child_of(leaf, key) : leaf->count - 1];
    unsigned n = 0, i = key.len ? leaf_below(leaf, key, &found) : leaf->count;
    if (found && inclusive) i++;
    for (;;) {
        for (; i > 0 && n < max; i--) {
            const struct row *r = row_seen(leaf->rows[i - 1], seq);
            if (r) out[n++] = r;
        }
        leaf = leaf->prev;
        if (!leaf || n == max) return n;
        i = leaf->count;
    }
}

/* The nodes hold no deferred key, so the tree's rows are three ranges: those below the prefix, the pile's, those above. */
unsigned row_tree_above(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) {
    check(max <= ROW_TREE_READ_MAX);
    bool inside = is_deferred(t, key);
    if (!t->pile.row_count || (!inside && slice_compare(key, t->deferred) > 0)) return nodes_above(t, key, inclusive, seq, out, max);
    unsigned n = inside ? 0 : nodes_above(t, key, inclusive, seq, out, max);
    while (n && slice_compare(row_key(out[n - 1]), t->deferred) > 0) n--;
    n += row_pile_above(&t->pile, inside ? key : (struct slice){0}, inclusive, seq, out + n, max - n);
    return n < max ? n + nodes_above(t, t->deferred, false, seq, out + n, max - n) : n;
}
unsigned row_tree_below(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) {
    check(max <= ROW_TREE_READ_MAX);
    bool inside = is_deferred(t, key);
    if (!t->pile.row_count || (!inside && key.len && slice_compare(key, t->deferred) < 0)) return nodes_below(t, key, inclusive, seq, out, max);
    unsigned n = inside ? 0 : nodes_below(t, key, inclusive, seq, out, max);
    while (n && slice_compare(row_key(out[n - 1]), t->deferred) < 0) n--;
    n += row_pile_below(&t->pile, inside ? key : (struct slice){0}, inclusive, seq, out + n, max - n);
    return n < max ? n + nodes_below(t, t->deferred, false, seq, out + n, max - n) : n;
}

/* ---- all of it */

bool row_tree_walk_begin(struct row_tree_walk *w, const struct row_tree *t) {
    *w = (struct row_tree_walk){.tree = t, .below = t->pile.row_count > 0};
    if (w->below) w->pile = row_pile_walk_new(&t->pile);
    return !w->below || w->pile;
}

void row_tree_walk_end(struct row_tree_walk *w) {
    row_pile_walk_free(w->pile);
    w->pile = NULL;
}

unsigned row_tree_walk_next(struct row_tree_walk *w, const struct row **out, unsigned max) {
    const struct row_tree *t = w->tree;
    unsigned n = 0;
    if (w->below) {
        n = nodes_above(t, w->from, false, UINT64_MAX, out, max);
        w->below = n == max;
        while (n && slice_compare(row_key(out[n - 1]), t->deferred) > 0) n--, w->below = false;
    }
    if (!w->below && w->pile) {
        n += row_pile_walk_next(w->pile, out + n, max - n);
        if (n < max) row_tree_walk_end(w), w->from = t->deferred;
    }
    if (!w->below && !w->pile) n += nodes_above(t, w->from, false, UINT64_MAX, out + n, max - n);
    if (n) w->from = row_key(out[n - 1]);
    return n;
}

struct row_tree_step row_tree_step_first(const struct row_tree *t) {
    const struct row_node *leaf = t->root;
    for (unsigned level = 1; level < t->height; level++) leaf = leaf->children[0];
    return (struct row_tree_step){.leaf = leaf};
}

const struct row *row_tree_step_next(struct row_tree_step *s) {
    while (s->leaf && s->at == s->leaf->count) s->leaf = s->leaf->next, s->at = 0;
    return s->leaf ? s->leaf->rows[s->at++] : NULL;
}

/* ---- puts */

static void node_open(struct row_node *n, unsigned at, struct slice key) {
    memmove(n->prefix + at + 1, n->prefix + at, (n->count - at) * sizeof n->prefix[0]);
    memmove(n->second + at + 1, n->second + at, (n->count - at) * sizeof n->second[0]);
    n->prefix[at] = row_key_word(key, 0), n->second[at] = row_key_word(key, 8);
}

static void leaf_insert(struct row_node *n, unsigned at, struct row *r) {
    node_open(n, at, row_key(r));
    memmove(n->rows + at + 1, n->rows + at, (n->count - at) * sizeof n->rows[0]);
    n->rows[at] = r;
    n->count++;
}

static void child_insert(struct row_node *n, unsigned at, const struct row *first, struct row_node *child) {
    node_open(n, at, row_key(first));
    memmove(n->first + at + 1, n->first + at, (n->count - at) * sizeof n->first[0]);
    memmove(n->children + at + 1, n->children + at, (n->count - at) * sizeof n->children[0]);
    n->first[at] = first, n->children[at] = child;
    n->count++;
}

/* The upper half goes to a new node on the right, which is returned. */
static struct row_node *node_split(struct row_tree *t, struct row_node *n, bool leaf) {
    struct row_node *right = node_new(t);
    unsigned keep = n->count / 2;
    right->count = n->count - keep;
    memcpy(right->prefix, n->prefix + keep, right->count * sizeof n->prefix[0]);
    memcpy(right->second, n->second + keep, right->count * sizeof n->second[0]);
    if (leaf) {
        memcpy(right->rows, n->rows + keep, right->count * sizeof n->rows[0]);
        right->prev = n, right->next = n->next;
        if (n->next) n->next->prev = right;
        n->next = right;
        t->leaf_count++;
    } else {
        memcpy(right->first, n->first + keep, right->count * sizeof n->first[0]);
        memcpy(right->children, n->children + keep, right->count * sizeof n->children[0]);
        t->inner_count++;
    }
    n->count = keep;
    return right;
}

/* Splits the leaf at the end of the path, and above it what is full. */
static void path_split(struct row_tree *t, struct path *p) {
    unsigned level = t->height - 1;
    struct row_node *right = node_split(t, p->nodes[level], true);
    const struct row *first = right->rows[0];
    while (level > 0) {
        struct row_node *parent = p->nodes[--level];
        unsigned at = p->at[level] + 1;
        if (parent->count < CHILDREN) {
            child_insert(parent, at, first, right);
            return;
        }
        struct row_node *parent_right = node_split(t, parent, false);
        bool in_left = at <= parent->count;
        child_insert(in_left ? parent : parent_right, in_left ? at : at - parent->count, first, right);
        right = parent_right, first = right->first[0];
    }
    struct row_node *root = node_new(t);
    root->first[0] = NULL, root->prefix[0] = root->second[0] = 0, root->children[0] = t->root;
    root->count = 1;
    child_insert(root, 1, first, right);
    t->root = root;
    t->height++;
    t->inner_count++;
    check(t->height < HEIGHT_MAX);
}

/* Over the row that stands there, when nobody reads it and it fits, or in front of it. */
static void row_replace(struct row_tree *t, struct row **at, struct slice key, struct slice value, bool deleted, uint64_t seq, uint64_t pinned) {
    struct row *old = *at;
    bool read = old->seq <= pinned;
    t->row_bytes += row_bytes(key.len, value.len);
    t->row_bytes -= row_bytes(old->key_len, old->value_len);
    if (!read && value.len <= old->value_cap) {
        if (value.len) memcpy(old->bytes + old->key_len, value.data, value.len);
        old->value_len = (uint32_t)value.len, old->deleted = deleted, old->seq = seq;
        return;
    }
    struct row *r = row_new(t, key, value, deleted, seq);
    r->older = read ? old : old->older;
    *at = r;
}

/* Room for the row and a split of each level was reserved. The path is that of the key; false: its leaf was split, look again. */
static bool path_put(struct row_tree *t, struct path *p, struct slice key, struct slice value, bool deleted, uint64_t seq, uint64_t pinned) {
    bool found;
    struct row_node *leaf = p->nodes[t->height - 1];
    unsigned at = leaf_below(leaf, key, &found);
    if (found) {
        row_replace(t, &leaf->rows[at], key, value, deleted, seq, pinned);
    } else if (leaf->count < LEAF_ROWS) {
        leaf_insert(leaf, at, row_new(t, key, value, deleted, seq));
        t->row_count++;
        t->row_bytes += row_bytes(key.len, value.len);
    } else {
        path_split(t, p);
        return false;
    }
    return true;
}

static void tree_root(struct row_tree *t) {
    if (t->root) return;
    t->root = node_new(t);
    t->height = t->leaf_count = 1;
}

/* Reserved before. */
static void pile_put(struct row_tree *t, struct slice key, struct slice value, bool deleted, uint64_t seq) {
    row_pile_push(&t->pile, row_new(t, key, value, deleted, seq));
    t->row_count++;
    t->row_bytes += row_bytes(key.len, value.len);
}

bool row_tree_put(struct row_tree *t, struct slice key, struct slice value, bool deleted, uint64_t seq, uint64_t pinned) {
    if (deleted) value = (struct slice){0};
    if (is_deferred(t, key)) {
        if (!row_pile_reserve(&t->pile, 1, false, &t->bytes) || !tree_reserve_rows(t, row_bytes(key.len, value.len))) return false;
        pile_put(t, key, value, deleted, seq);
        return true;
    }
    if (!tree_reserve_nodes(t, t->height + 2) || !tree_reserve_rows(t, row_bytes(key.len, value.len))) return false;
    tree_root(t);
    struct path p;
    do path_of(t, key, &p);
    while (!path_put(t, &p, key, value, deleted, seq, pinned));
    return true;
}

/* Each put splits one leaf at most; a leaf that was split takes 32 puts until it is full again; and so the inner nodes, each of which has 16 children or more. */
static size_t nodes_bound(const struct row_tree *t, size_t rows) {
    size_t leaves = MIN_OF(rows, t->leaf_count) + rows / (LEAF_ROWS / 2) + 1;
    return leaves + MIN_OF(leaves * HEIGHT_MAX, t->inner_count) + leaves / (CHILDREN / 2 - 1) + t->height + 2;
}

size_t row_tree_put_all_bytes(const struct row_tree *t, const struct row_tree *from) {
    if (!from->row_count) return 0;
    size_t nodes = nodes_bound(t, from->row_count - from->pile.row_count), bytes = row_pile_reserve_bytes(&t->pile, from->pile.row_count);
    if (nodes > t->nodes_left) {
        size_t slab = slab_bytes(t), each = (slab - sizeof(struct row_slab)) / sizeof(struct row_node);
        bytes += (nodes - t->nodes_left + each - 1) / each * slab;
    }
    if (from->row_bytes > (size_t)(t->end - t->at)) bytes += MAX_OF(t->chunk_bytes, from->row_bytes + sizeof(struct row_chunk));
    return bytes;
}

static unsigned rows_take(struct row_tree_step *step, const struct row **rows) {
    unsigned n = 0;
    while (n < TOGETHER && (rows[n] = row_tree_step_next(step))) n++;
    return n;
}

/* Rows in the order of their keys. First the way to each one's leaf, which is asked for there; then they are put, when the leaves have come: in a large table each is a line that no cache has, and one wait for
 * all of them is shorter than one each. */
static void rows_put(struct row_tree *t, const struct row **rows, unsigned count, uint64_t seq, uint64_t pinned) {
    struct path paths[TOGETHER], *p = NULL;
    unsigned path[TOGETHER], n = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!p || (p->upper && slice_compare(row_key(rows[i]), row_key(p->upper)) >= 0)) { /* most neighbours share a leaf */
            path_of(t, row_key(rows[i]), p = &paths[n++]);
            node_fetch(p->nodes[t->height - 1], LEAF_ROWS);
        }
        path[i] = n - 1;
    }
    for (unsigned i = 0, whole = 0; i < count; i++) { /* paths below `whole` were known before a leaf was split */
        p = &paths[path[i]];
        if (path[i] < whole) path_of(t, row_key(rows[i]), p);
        while (!path_put(t, p, row_key(rows[i]), row_value(rows[i]), rows[i]->deleted, seq, pinned)) {
            path_of(t, row_key(rows[i]), p);
            whole = n;
        }
    }
}

bool row_tree_put_all(struct row_tree *t, const struct row_tree *from, uint64_t seq, uint64_t pinned) {
    if (!from->row_count) return true;
    if (!row_pile_reserve(&t->pile, from->pile.row_count, true, &t->bytes)) return false;
    if (!tree_reserve_nodes(t, nodes_bound(t, from->row_count - from->pile.row_count)) || !tree_reserve_rows(t, from->row_bytes)) return false;
    size_t at = 0;
    for (const struct row *r; (r = row_pile_next(&from->pile, &at));) pile_put(t, row_key(r), row_value(r), r->deleted, seq);
    row_pile_settle(&t->pile);
    if (!from->root) return true;
    tree_root(t);
    struct row_tree_step step = row_tree_step_first(from);
    const struct row *rows[TOGETHER];
    for (unsigned count; (count = rows_take(&step, rows)); ) rows_put(t, rows, count, seq, pinned);
    return true;
}

/* ---- checks for tests */

static void node_verify(const struct row_tree *t, const struct row_node *n, unsigned level, const struct row *lower, const struct row *upper, size_t *rows, size_t *leaves) {
    bool leaf = level == t->height;
    check(n->count > 0);
    check(n->count <= (leaf ? (unsigned)LEAF_ROWS : (unsigned)CHILDREN));
    for (unsigned i = 0; i < n->count; i++) {
        const struct row *r = leaf ? n->rows[i] : n->first[i];
        if (leaf || i) {
            check(n->prefix[i] == row_key_word(row_key(r), 0));
            check(n->second[i] == row_key_word(row_key(r), 8));
            check(!lower || slice_compare(row_key(r), row_key(lower)) >= 0);
            check(!upper || slice_compare(row_key(r), row_key(upper)) < 0);
        }
        if (i > (leaf ? 0u : 1u)) check(slice_compare(row_key(leaf ? n->rows[i - 1] : n->first[i - 1]), row_key(r)) < 0);
        if (!leaf) node_verify(t, n->children[i], level + 1, i ? r : lower, i + 1 < n->count ? n->first[i + 1] : upper, rows, leaves);
        for (; leaf && r && r->older; r = r->older) check(r->older->seq < r->seq);
    }
    if (leaf) *rows += n->count, ++*leaves;
}

void row_tree_verify(const struct row_tree *t) {
    size_t rows = 0, leaves = 0, chained = 0, bytes = 0;
    if (t->root) node_verify(t, t->root, 1, NULL, NULL, &rows, &leaves);
    row_pile_verify(&t->pile);
    check(rows + t->pile.row_count == t->row_count);
    check(leaves == t->leaf_count);
    const struct row_node *leaf = t->root, *before = NULL;
    for (unsigned level = 1; level < t->height; level++) leaf = leaf->children[0];
    for (; leaf; before = leaf, leaf = leaf->next) {
        check(leaf->prev == before);
        for (unsigned i = 0; i < leaf->count; i++, chained++) bytes += row_bytes(leaf->rows[i]->key_len, leaf->rows[i]->value_len);
    }
    check(chained == rows);
    size_t at = 0;
    for (const struct row *r; (r = row_pile_next(&t->pile, &at)); bytes += row_bytes(r->key_len, r->value_len)) check(is_deferred(t, row_key(r)));
    check(bytes == t->row_bytes);
}
