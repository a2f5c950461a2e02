/* The counted tree behind a user's list.
 *
 *   'N' level 0        root: height 2, 3 children, totals by status
 *   'N' level 2        [-inf ........) [p5 ...............) [p9 .......)       a row covers from its position to the next row's
 *   'N' level 1        [-inf) [p2 ) [p3 ) [p5 ) [p6 ) [p7 ) [p9 ) [p10 )
 *   'L'                o o o  o o   o o o o    o o ...                         list rows, oldest first
 *
 * It is a B-tree whose nodes are implicit: a node is a row at the position where its run starts, its children are the rows of the level
 * below from there to where the next node starts. The first row of a level stands at the lowest position there is, so every position is
 * covered and an order older than all others (an import) needs no special case. Rows are never removed, since orders are not.
 *
 * Growth: a run of more than 2 * SPAN children is split in two, the first half stays. When the root has too many, a level is put under it.
 * All from the rows alone, so every replica builds the same tree.
 *
 * Row: format(1) level(1) children(varint) n(varint) { status(2) count(varint) }*, by status, zero counts left out. In the root, level is the
 * tree's height. children of level 1 (of a root of height 0): list rows. Format 2, of rows whose children are rows of counts: then { create_us(8) order_id(8) }*,
 * where its second child and those after it stand, so that a write gets the rows on its path by their keys; a seek would have to look into all files. Rows of
 * format 1 whose children are rows of counts are older, and stay so until they become part of a new level.
 *
 * Reads walk from the new end to the old one, top level first. A row that lies in the range as a whole is taken or skipped by its counts;
 * only rows on the edge of the range, and those that hold what the page shows, are opened. */
#include "engine/userlist.h"

#include <stdio.h>

#include "proto/pbwire.h"

#define COUNT_MAX (1ll << 48) /* more is damage; sums of a few of these do not overflow */
enum {
    FORMAT = 1,
    FORMAT_PLACES = 2,
    CARD_FORMAT = 1,
    CARD_ORDER_ID = 1,
    CHILDREN_MAX = 2 * USERLIST_SPAN,
    LEVELS_MAX = 12, /* 32^12 orders */
    PLACE_BYTES = 8 + 8,
    ROW_BYTES_MAX = 2 + 10 + 10 + USERLIST_STATUSES_MAX * (2 + 10) + CHILDREN_MAX * PLACE_BYTES,
};

static const struct list_position lowest = {INT64_MIN, 0}, highest = {INT64_MAX, -1}; /* ids compare as unsigned, as in keys */

struct node {
    struct list_position at;
    uint8_t level; /* of the root: the height */
    uint64_t children;
    bool placed; /* it is known where the children stand: places[0] = at. Only of children that are rows of counts */
    struct status_counts counts;
    struct list_position places[CHILDREN_MAX + 1];
};

static int position_compare(struct list_position a, struct list_position b) {
    if (a.create_us != b.create_us) return a.create_us < b.create_us ? -1 : 1;
    uint64_t x = (uint64_t)a.order_id, y = (uint64_t)b.order_id;
    return (x > y) - (x < y);
}
static struct list_position position_min(struct list_position a, struct list_position b) { return position_compare(a, b) < 0 ? a : b; }

static struct list_position position_of(struct slice key) {
    struct list_position p;
    key_list_position(key, &p.create_us, &p.order_id);
    return p;
}

/* ---- counts ---- */

static void counts_add(struct status_counts *c, uint16_t status, int64_t n) {
    unsigned i = 0;
    while (i < c->n && c->at[i].status < status) i++;
    if (i == c->n || c->at[i].status != status) {
        check(n > 0);
        check(c->n < USERLIST_STATUSES_MAX);
        memmove(&c->at[i + 1], &c->at[i], (c->n++ - i) * sizeof c->at[0]);
        c->at[i] = (struct status_count){status, 0};
    }
    c->at[i].count += n;
    check(c->at[i].count >= 0);
    if (c->at[i].count == 0) memmove(&c->at[i], &c->at[i + 1], (--c->n - i) * sizeof c->at[0]);
}

static void counts_merge(struct status_counts *c, const struct status_counts *more, int sign) {
    for (unsigned i = 0; i < more->n; i++) counts_add(c, more->at[i].status, sign * more->at[i].count);
}

static void counts_copy(struct status_counts *to, const struct status_counts *from) {
    to->n = from->n;
    memcpy(to->at, from->at, from->n * sizeof from->at[0]);
}

static bool counts_equal(const struct status_counts *a, const struct status_counts *b) {
    if (a->n != b->n) return false;
    for (unsigned i = 0; i < a->n; i++)
        if (a->at[i].status != b->at[i].status || a->at[i].count != b->at[i].count) return false;
    return true;
}

static bool range_wants(const struct userlist_range *r, uint16_t status) {
    for (unsigned i = 0; i < r->status_count; i++)
        if (r->statuses[i] == status) return true;
    return r->status_count == 0;
}

static int64_t counts_matching(const struct status_counts *c, const struct userlist_range *r) {
    int64_t sum = 0;
    for (unsigned i = 0; i < c->n; i++)
        if (range_wants(r, c->at[i].status)) sum += c->at[i].count;
    return sum;
}

/* ---- rows ---- */

static void node_write(const struct node *n, struct writer *w) {
    write_u8(w, n->placed ? FORMAT_PLACES : FORMAT);
    write_u8(w, n->level);
    write_varint(w, n->children);
    write_varint(w, n->counts.n);
    for (unsigned i = 0; i < n->counts.n; i++) write_be16(w, n->counts.at[i].status), write_varint(w, (uint64_t)n->counts.at[i].count);
    for (uint64_t i = 1; n->placed && i < n->children; i++) write_be64(w, (uint64_t)n->places[i].create_us), write_be64(w, (uint64_t)n->places[i].order_id);
    check(!w->full);
}

static bool places_read(struct reader *r, struct node *n) {
    if (!n->level || n->children < 2 || n->children > CHILDREN_MAX) return false;
    n->places[0] = n->at;
    for (uint64_t i = 1; i < n->children; i++) {
        n->places[i].create_us = (int64_t)read_be64(r);
        n->places[i].order_id = (int64_t)read_be64(r);
        if (position_compare(n->places[i - 1], n->places[i]) >= 0) return false;
    }
    return true;
}

static enum status node_read(struct slice row, struct list_position at, struct node *out) {
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    out->at = at;
    out->level = read_u8(&r);
    out->children = read_varint(&r);
    out->placed = format == FORMAT_PLACES;
    uint64_t n = read_varint(&r);
    if (r.bad || (format != FORMAT && format != FORMAT_PLACES) || out->level > LEVELS_MAX || n > USERLIST_STATUSES_MAX) return STATUS_CHECKSUM_MISMATCH;
    out->counts.n = (unsigned)n;
    for (unsigned i = 0; i < n; i++) {
        out->counts.at[i].status = read_be16(&r);
        out->counts.at[i].count = (int64_t)read_varint(&r);
        if (out->counts.at[i].count <= 0 || out->counts.at[i].count > COUNT_MAX || (i && out->counts.at[i].status <= out->counts.at[i - 1].status)) return STATUS_CHECKSUM_MISMATCH;
    }
    if (out->placed && !places_read(&r, out)) return STATUS_CHECKSUM_MISMATCH;
    return r.bad || reader_left(&r) ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

void list_row_encode(uint16_t status, struct slice card, struct writer *w) {
    write_be16(w, status);
    if (!card.len || card.len > USERLIST_CARD_BYTES_MAX) return;
    write_u8(w, CARD_FORMAT);
    write_slice(w, card);
}

/* A card begins with its order's id (the field order_id of Order): one that was meant for another row is seen. */
enum status list_row_decode(struct slice row, int64_t order_id, uint16_t *status, struct slice *card) {
    struct reader r = reader_of(row);
    *status = read_be16(&r);
    *card = (struct slice){0};
    if (r.bad || row.len == 2) return r.bad ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
    if (read_u8(&r) != CARD_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    *card = slice_of(r.at, reader_left(&r));
    bool own = read_u8(&r) == (CARD_ORDER_ID << 3 | PB_VARINT) && read_varint(&r) == (uint64_t)order_id;
    return !own || r.bad || card->len > USERLIST_CARD_BYTES_MAX ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

static void node_init(struct node *n, struct list_position at, uint8_t level) {
    n->at = at;
    n->level = level;
    n->children = 0;
    n->placed = false;
    n->counts.n = 0;
}

/* A user's rows in one view. */
struct tree {
    const struct store_view *view;
    uint16_t slot;
    struct slice user_id;
};

/* The key of a row: level 0 is the list here, as seen from level 1. */
static void row_key(const struct tree *t, struct key *k, unsigned level, struct list_position at) {
    if (level) key_counts(k, t->slot, t->user_id, (uint8_t)level, at.create_us, at.order_id);
    else key_list(k, t->slot, t->user_id, at.create_us, at.order_id);
}

static struct store_iter *level_open(const struct tree *t, unsigned level) {
    struct key lower, upper;
    if (!level) {
        key_list_prefix(&lower, t->slot, t->user_id);
        return store_iter_open_group(t->view, key_slice(&lower));
    }
    key_counts_prefix(&lower, t->slot, t->user_id, (uint8_t)level);
    upper = lower;
    key_after_prefix(&upper);
    return store_iter_open(t->view, key_slice(&lower), key_slice(&upper));
}

static enum status root_get(const struct tree *t, struct arena *scratch, struct node *root) {
    node_init(root, lowest, 0);
    struct key k;
    struct slice row;
    key_counts(&k, t->slot, t->user_id, 0, 0, 0);
    enum status st = store_get(t->view, key_slice(&k), scratch, &row);
    if (st == STATUS_ABSENT) return STATUS_OK; /* a user without orders */
    return st ? st : node_read(row, lowest, root);
}

static void node_put(const struct tree *t, unsigned level, const struct node *n) {
    uint8_t bytes[ROW_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    node_write(n, &w);
    struct key k;
    key_counts(&k, t->slot, t->user_id, (uint8_t)level, n->at.create_us, n->at.order_id);
    store_batch_put(t->view->batch, key_slice(&k), writer_slice(&w));
}

static void list_put(const struct tree *t, struct list_position at, uint16_t status, struct slice card) {
    struct key k;
    uint8_t value[USERLIST_ROW_BYTES_MAX];
    struct writer w = writer_of(value, sizeof value);
    list_row_encode(status, card, &w);
    check(!w.full);
    row_key(t, &k, 0, at);
    store_batch_put(t->view->batch, key_slice(&k), writer_slice(&w));
}

/* What one child counts: of a row of a level above 0 what it says, of a list row its order. */
static enum status child_read(struct store_iter *it, unsigned level, struct node *child) {
    struct slice card;
    if (level) return node_read(store_iter_value(it), position_of(store_iter_key(it)), child);
    child->counts.n = 1, child->counts.at[0].count = 1;
    return list_row_decode(store_iter_value(it), position_of(store_iter_key(it)).order_id, &child->counts.at[0].status, &card);
}

/* ---- writes ---- */

/* The rows that count a position: nodes[0] the root, nodes[k] of level k. */
struct path {
    struct node nodes[LEVELS_MAX + 1];
    unsigned height;
};

/* The child that covers a position, of a row that knows where they stand. */
static unsigned child_covering(const struct node *n, struct list_position at) {
    unsigned low = 0, high = (unsigned)n->children;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (position_compare(n->places[middle], at) <= 0) low = middle;
        else high = middle;
    }
    return low;
}

static enum status path_get(const struct tree *t, struct arena *scratch, struct path *p, unsigned level, const struct node *above, struct list_position at) {
    struct key k;
    struct slice row;
    struct list_position place = above->places[child_covering(above, at)];
    row_key(t, &k, level, place);
    enum status st = store_get(t->view, key_slice(&k), scratch, &row);
    if (st) return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
    return node_read(row, place, &p->nodes[level]);
}

static enum status path_seek(const struct tree *t, struct path *p, unsigned level, struct store_iter **it, struct list_position at) {
    struct key k, lower, upper;
    if (!*it) {
        key_counts_prefix(&lower, t->slot, t->user_id, 1);
        key_counts_prefix(&upper, t->slot, t->user_id, (uint8_t)(p->height + 1));
        *it = store_iter_open(t->view, key_slice(&lower), key_slice(&upper));
    }
    row_key(t, &k, level, at);
    store_iter_seek_back(*it, key_slice(&k));
    enum status st = store_iter_status(*it);
    if (st || !store_iter_valid(*it)) return st ? st : STATUS_CHECKSUM_MISMATCH; /* the row at the lowest position is missing */
    return node_read(store_iter_value(*it), position_of(store_iter_key(*it)), &p->nodes[level]);
}

/* From the root down. */
static enum status path_load(const struct tree *t, struct arena *scratch, struct list_position at, struct path *p) {
    struct store_iter *it = NULL;
    const struct node *above = &p->nodes[0];
    enum status st = root_get(t, scratch, &p->nodes[0]);
    p->height = p->nodes[0].level;
    for (unsigned level = p->height; level && !st; above = &p->nodes[level--]) {
        st = above->placed ? path_get(t, scratch, p, level, above, at) : path_seek(t, p, level, &it, at);
        if (!st && (p->nodes[level].level != level || (level == 1 && p->nodes[level].placed))) st = STATUS_CHECKSUM_MISMATCH;
    }
    store_iter_close(it);
    return st;
}

/* A child more, at that place. */
static void child_add(struct node *n, struct list_position place) {
    if (n->placed) {
        unsigned i = child_covering(n, place) + 1;
        memmove(&n->places[i + 1], &n->places[i], (n->children - i) * sizeof n->places[0]);
        n->places[i] = place;
    }
    n->children++;
}

/* Moves all but the first half of n's children, rows of level - 1, to a new node. */
static enum status node_split(const struct tree *t, unsigned level, struct node *n, struct node *right) {
    struct node child;
    node_init(right, lowest, (uint8_t)level);
    right->children = n->children - n->children / 2;
    counts_copy(&right->counts, &n->counts);
    struct store_iter *it = level_open(t, level - 1);
    struct key k;
    row_key(t, &k, level - 1, n->at);
    store_iter_seek(it, key_slice(&k));
    enum status st = STATUS_OK;
    for (uint64_t i = 0; i < n->children / 2 && !st && store_iter_valid(it); i++, store_iter_next(it)) {
        st = child_read(it, level - 1, &child);
        if (!st) counts_merge(&right->counts, &child.counts, -1);
    }
    if (!st && store_iter_valid(it)) right->at = position_of(store_iter_key(it));
    else if (!st && !(st = store_iter_status(it))) st = STATUS_CHECKSUM_MISMATCH; /* fewer children than counted */
    store_iter_close(it);
    if (st) return st;
    n->children /= 2;
    right->placed = n->placed;
    if (n->placed) memcpy(right->places, &n->places[n->children], right->children * sizeof n->places[0]);
    counts_merge(&n->counts, &right->counts, -1);
    return STATUS_OK;
}

/* From the bottom up: a split reads the level below through the batch, and gives the level above one more child. */
static enum status path_store(const struct tree *t, struct path *p) {
    struct node right;
    for (unsigned level = 1; level <= p->height; level++) {
        struct node *n = &p->nodes[level];
        if (n->children > CHILDREN_MAX) {
            enum status st = node_split(t, level, n, &right);
            if (st) return st;
            node_put(t, level, &right);
            child_add(&p->nodes[level == p->height ? 0 : level + 1], right.at);
        }
        node_put(t, level, n);
    }
    struct node *root = &p->nodes[0];
    if (root->children > CHILDREN_MAX) {
        struct node left;
        node_init(&left, lowest, (uint8_t)(p->height + 1));
        left.children = root->children;
        left.placed = root->placed;
        if (left.placed) memcpy(left.places, root->places, root->children * sizeof left.places[0]);
        counts_copy(&left.counts, &root->counts);
        check(left.level <= LEVELS_MAX);
        enum status st = node_split(t, left.level, &left, &right);
        if (st) return st;
        node_put(t, left.level, &left);
        node_put(t, left.level, &right);
        root->level = left.level;
        root->children = 2;
        root->placed = true;
        root->places[0] = left.at, root->places[1] = right.at;
    }
    node_put(t, 0, root);
    return STATUS_OK;
}

enum status userlist_insert(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, struct list_position at, uint16_t status,
                            struct slice card) {
    check(view->batch);
    struct tree t = {view, slot, user_id};
    struct path p;
    enum status st = path_load(&t, scratch, at, &p);
    if (st) return st;
    list_put(&t, at, status, card);
    for (unsigned i = 0; i <= p.height; i++) counts_add(&p.nodes[i].counts, status, 1);
    p.nodes[p.height ? 1 : 0].children++;
    return path_store(&t, &p);
}

enum status userlist_move(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, struct list_position at, uint16_t from, uint16_t to,
                          struct slice card) {
    check(view->batch);
    struct tree t = {view, slot, user_id};
    struct path p;
    enum status st = from == to ? STATUS_OK : path_load(&t, scratch, at, &p);
    if (st) return st;
    list_put(&t, at, to, card);
    if (from == to) return STATUS_OK;
    for (unsigned i = 0; i <= p.height; i++) counts_add(&p.nodes[i].counts, from, -1), counts_add(&p.nodes[i].counts, to, 1);
    return path_store(&t, &p);
}

/* ---- reads ---- */

struct walk {
    struct tree tree;
    const struct userlist_range *range;
    struct list_position lower, upper; /* [lower, upper) */
    struct store_iter *levels[LEVELS_MAX + 1];
    struct status_counts *counts; /* count: where to; NULL: a page */
    int64_t skip;
    int64_t left; /* matching ones that no order was skipped or shown of yet; -1: not known */
    struct arena *arena;
    struct userlist_item *items;
    unsigned limit, count;
    bool more, done;
};

static void walk_begin(struct walk *w, const struct store_view *view, const struct userlist_range *range) {
    *w = (struct walk){.tree = {view, range->slot, range->user_id}, .range = range, .lower = {range->from_us, 0}, .upper = highest, .left = -1};
    if (range->to_us != INT64_MAX) w->upper = (struct list_position){range->to_us, 0};
}

static void walk_end(struct walk *w) {
    for (unsigned i = 0; i < ARRAY_LEN(w->levels); i++) store_iter_close(w->levels[i]);
}

/* Where it is known how many there are, the last one of a page is enough: nobody has to look whether another follows. */
static enum status walk_show(struct walk *w, struct list_position at, uint16_t status, struct slice card) {
    struct userlist_item *item = &w->items[w->count++];
    *item = (struct userlist_item){at, status, card.len ? arena_copy(w->arena, card) : card};
    if (card.len && !item->card.data) return STATUS_MEMORY_LIMIT;
    if (w->left < 0 || w->count < w->limit) return STATUS_OK;
    w->done = true;
    w->more = w->left > w->count;
    return STATUS_OK;
}

static enum status walk_order(struct walk *w, struct list_position at, struct slice row) {
    uint16_t status;
    struct slice card;
    enum status st = list_row_decode(row, at.order_id, &status, &card);
    if (st) return st;
    if (w->counts) {
        counts_add(w->counts, status, 1);
    } else if (!range_wants(w->range, status)) {
        return STATUS_OK;
    } else if (w->skip) {
        w->skip--;
    } else if (w->count < w->limit) {
        return walk_show(w, at, status, card);
    } else {
        w->more = w->done = true;
    }
    return STATUS_OK;
}

/* Is the row dealt with by its counts alone? whole: all of it lies in the range. */
static bool walk_by_counts(struct walk *w, const struct node *n, bool whole) {
    if (w->counts) {
        if (whole) counts_merge(w->counts, &n->counts, 1);
        return whole;
    }
    int64_t matching = counts_matching(&n->counts, w->range);
    if (matching == 0) return true;
    if (!whole || matching > w->skip) return false;
    w->skip -= matching;
    return true;
}

/* The rows of a level with positions in [low, high), newest first; all below them is within [low, high). */
static enum status walk_level(struct walk *w, unsigned level, struct list_position low, struct list_position high) {
    if (position_compare(high, w->lower) <= 0 || position_compare(low, w->upper) >= 0) return STATUS_OK;
    struct store_iter **it = &w->levels[level];
    if (!*it) *it = level_open(&w->tree, level);
    struct list_position end = high, start = position_min(high, w->upper);
    struct key k;
    row_key(&w->tree, &k, level, start);
    store_iter_seek_back(*it, key_slice(&k));
    if (store_iter_valid(*it) && slice_equal(store_iter_key(*it), key_slice(&k))) store_iter_prev(*it);
    for (; store_iter_valid(*it); store_iter_prev(*it)) {
        struct list_position at = position_of(store_iter_key(*it));
        if (position_compare(at, low) < 0) return STATUS_OK;
        enum status st;
        if (level == 0) {
            if (position_compare(at, w->lower) < 0) return STATUS_OK;
            if ((st = walk_order(w, at, store_iter_value(*it))) || w->done) return st;
            continue;
        }
        struct node n;
        if ((st = node_read(store_iter_value(*it), at, &n))) return st;
        bool whole = position_compare(at, w->lower) >= 0 && position_compare(end, w->upper) <= 0;
        if (!walk_by_counts(w, &n, whole) && ((st = walk_level(w, level - 1, at, end)) || w->done)) return st;
        if (position_compare(at, w->lower) <= 0) return STATUS_OK;
        end = at;
    }
    return store_iter_status(*it);
}

static bool walk_is_whole(const struct walk *w) { return position_compare(w->lower, lowest) <= 0 && position_compare(w->upper, highest) >= 0; }

static enum status walk_tree(struct walk *w, const struct node *root) {
    if (walk_by_counts(w, root, walk_is_whole(w))) return STATUS_OK;
    /* A page from the top of what matches without exception needs no counts to find its way. */
    bool straight = !w->counts && !w->skip && !w->range->status_count;
    return walk_level(w, straight ? 0 : root->level, lowest, highest);
}

static enum status walk_count(struct walk *w, const struct node *root, struct status_counts *out) {
    out->n = 0;
    w->counts = out;
    enum status st = walk_tree(w, root);
    w->counts = NULL;
    return st;
}

enum status userlist_count(const struct store_view *view, struct arena *scratch, const struct userlist_range *range, struct status_counts *out) {
    struct walk w;
    struct node root;
    walk_begin(&w, view, range);
    enum status st = root_get(&w.tree, scratch, &root);
    if (!st) st = walk_count(&w, &root, out);
    walk_end(&w);
    return st;
}

enum status userlist_page(const struct store_view *view, struct arena *arena, const struct userlist_range *range, int64_t skip, const struct list_position *after,
                          struct userlist_item *out, unsigned limit, unsigned *count, bool *more, struct status_counts *counts) {
    check(skip >= 0);
    struct walk w;
    struct node root;
    walk_begin(&w, view, range);
    enum status st = root_get(&w.tree, arena, &root);
    if (!st && counts) st = walk_count(&w, &root, counts);
    if (after) w.upper = position_min(w.upper, *after);
    if (!st && walk_is_whole(&w)) w.left = MAX_OF(counts_matching(&root.counts, range) - skip, 0);
    w.skip = skip, w.arena = arena, w.items = out, w.limit = limit;
    if (!st) st = walk_tree(&w, &root);
    walk_end(&w);
    *count = w.count, *more = w.more;
    return st;
}

/* ---- verify ---- */

struct verify {
    struct tree tree;
    char *error;
};

#define verify_fail(v, ...) (snprintf((v)->error, 256, __VA_ARGS__), STATUS_CHECKSUM_MISMATCH)

/* Sums up the children of one row, from where `it` stands up to `end`. */
static enum status verify_run(struct verify *v, unsigned level, struct store_iter *it, const struct list_position *end, const struct node *of, struct node *sum) {
    struct node n;
    for (; store_iter_valid(it); store_iter_next(it)) {
        struct list_position at = position_of(store_iter_key(it));
        if (end && position_compare(at, *end) >= 0) break;
        enum status st = child_read(it, level, &n);
        if (st || (level && n.level != level)) return verify_fail(v, "level %u: a row cannot be read", level);
        if (of->placed && (sum->children >= of->children || position_compare(of->places[sum->children], at) != 0))
            return verify_fail(v, "level %u: a row that the one above has no place for", level);
        sum->children++;
        counts_merge(&sum->counts, &n.counts, 1);
    }
    return store_iter_status(it);
}

/* Every row of a level against the level below. */
static enum status verify_level(struct verify *v, unsigned level, struct store_iter *rows, struct store_iter *below) {
    store_iter_first(rows), store_iter_first(below);
    enum status st = STATUS_OK;
    for (unsigned i = 0; !st && store_iter_valid(rows); i++) {
        struct node n, sum;
        node_init(&sum, lowest, 0);
        struct list_position at = position_of(store_iter_key(rows)), end = highest;
        if ((st = node_read(store_iter_value(rows), at, &n))) return verify_fail(v, "level %u, row %u: cannot be read", level, i);
        if (i == 0 && position_compare(at, lowest) != 0) return verify_fail(v, "level %u: does not begin at the lowest position", level);
        if (level > 1 && (!store_iter_valid(below) || position_compare(position_of(store_iter_key(below)), at) != 0))
            return verify_fail(v, "level %u, row %u: no row below begins where it does", level, i);
        store_iter_next(rows);
        bool last = !store_iter_valid(rows);
        if (!last) end = position_of(store_iter_key(rows));
        if ((st = verify_run(v, level - 1, below, last ? NULL : &end, &n, &sum))) return st;
        if (sum.children != n.children || !counts_equal(&sum.counts, &n.counts))
            return verify_fail(v, "level %u, row %u: counts %llu children, there are %llu, or counts by status differ", level, i, (unsigned long long)n.children,
                               (unsigned long long)sum.children);
        if (n.children > CHILDREN_MAX) return verify_fail(v, "level %u, row %u: %llu children", level, i, (unsigned long long)n.children);
    }
    return st ? st : store_iter_status(rows);
}

static enum status verify_root(struct verify *v, const struct node *root) {
    struct node sum;
    node_init(&sum, lowest, 0);
    struct store_iter *top = level_open(&v->tree, root->level);
    store_iter_first(top);
    enum status st = verify_run(v, root->level, top, NULL, root, &sum);
    store_iter_close(top);
    if (st) return st;
    if (sum.children != root->children || !counts_equal(&sum.counts, &root->counts)) return verify_fail(v, "the root differs from level %u", root->level);
    struct store_iter *above = level_open(&v->tree, root->level + 1u);
    store_iter_first(above);
    if (store_iter_valid(above)) st = verify_fail(v, "rows above the root's height %u", root->level);
    else st = store_iter_status(above);
    store_iter_close(above);
    return st;
}

enum status userlist_verify(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, char error[256]) {
    struct verify v = {{view, slot, user_id}, error};
    error[0] = 0;
    struct node root;
    enum status st = root_get(&v.tree, scratch, &root);
    if (st) return st == STATUS_CHECKSUM_MISMATCH ? verify_fail(&v, "the root cannot be read") : st;
    for (unsigned level = 1; level <= root.level && !st; level++) {
        struct store_iter *rows = level_open(&v.tree, level), *below = level_open(&v.tree, level - 1);
        st = verify_level(&v, level, rows, below);
        store_iter_close(rows), store_iter_close(below);
    }
    return st ? st : verify_root(&v, &root);
}
