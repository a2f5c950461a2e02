/* Reads merge: a cursor stands in each sorted segment, one more in what is picked out of those that are not sorted yet, and a heap gives the nearest key. Of several cursors at one
 * key the newest segment's counts. A cursor moves from key to key, not from row to row: of a key's versions it shows the newest that the view sees. */
#include "engine/row_pile.h"

#include "proto/base/mem.h"

enum { DOUBLE_AFTER = 32, SORTED_BY_INSERTION = 8, WORDS = 3 };

struct entry {
    uint64_t words[WORDS]; /* of the key, behind the prefix: an index row's value of 13 bytes and its time, so that rows themselves are seldom looked at */
    struct row *row;
};
struct row_segment {
    size_t count, room;
    bool sorted;
    struct entry entries[];
};

void row_pile_init(struct row_pile *p, size_t prefix_len, size_t segment_rows) {
    p->prefix_len = prefix_len, p->segment_rows = segment_rows;
    p->row_count = 0, p->used = p->allocated = 0, p->spare = NULL;
}

/* ---- memory */

static size_t room_of(const struct row_pile *p, unsigned segment) { return p->segment_rows << segment / DOUBLE_AFTER; }
static size_t segment_bytes(size_t room) { return sizeof(struct row_segment) + room * sizeof(struct entry); }

static struct row_segment *segment_new(size_t room, size_t *bytes) {
    struct row_segment *s = mem_alloc(segment_bytes(room));
    if (!s) return NULL;
    s->count = 0, s->room = room, s->sorted = false;
    *bytes += segment_bytes(room);
    return s;
}

static void segment_free(struct row_segment *s, size_t *bytes) {
    if (!s) return;
    *bytes -= segment_bytes(s->room);
    mem_free(s);
}

void row_pile_reset(struct row_pile *p, size_t *bytes) {
    while (p->allocated > 1) segment_free(p->segments[--p->allocated], bytes);
    if (p->allocated) p->segments[0]->count = 0, p->segments[0]->sorted = false;
    segment_free(p->spare, bytes);
    p->spare = NULL;
    p->row_count = 0, p->used = 0;
}

void row_pile_fini(struct row_pile *p, size_t *bytes) {
    row_pile_reset(p, bytes);
    if (p->allocated) segment_free(p->segments[--p->allocated], bytes);
}

/* A sorted one takes no more, even if it has come to lie in more room than it needs. */
static size_t segment_free_rows(const struct row_segment *s) { return s->sorted ? 0 : s->room - s->count; }
static size_t rows_free(const struct row_pile *p) {
    size_t n = 0;
    for (unsigned i = p->used ? p->used - 1 : 0; i < p->allocated; i++) n += segment_free_rows(p->segments[i]);
    return n;
}

size_t row_pile_reserve_bytes(const struct row_pile *p, size_t rows) {
    size_t bytes = 0, room = rows_free(p), largest = 0;
    if (!rows) return 0;
    for (unsigned n = p->allocated; room < rows; n++) {
        largest = room_of(p, n);
        room += largest, bytes += segment_bytes(largest);
    }
    if (p->allocated) largest = MAX_OF(largest, p->segments[p->allocated - 1]->room);
    return !p->spare || p->spare->room < largest ? bytes + segment_bytes(largest) : bytes;
}

bool row_pile_reserve(struct row_pile *p, size_t rows, bool sort, size_t *bytes) {
    if (!rows) return true;
    for (size_t room = rows_free(p); room < rows; room += p->segments[p->allocated - 1]->room) {
        check(p->allocated < ROW_PILE_SEGMENTS_MAX);
        struct row_segment *s = segment_new(room_of(p, p->allocated), bytes);
        if (!s) return false;
        p->segments[p->allocated++] = s;
    }
    size_t largest = p->segments[p->allocated - 1]->room;
    if (!sort || (p->spare && p->spare->room >= largest)) return true;
    struct row_segment *s = segment_new(largest, bytes);
    if (!s) return false;
    segment_free(p->spare, bytes);
    p->spare = s;
    return true;
}

/* ---- order */

static void words_of(const struct row_pile *p, struct slice key, uint64_t words[WORDS]) {
    for (unsigned i = 0; i < WORDS; i++) words[i] = row_key_word(key, p->prefix_len + 8 * (size_t)i);
}

static int key_compare(const uint64_t words[WORDS], struct slice key, const struct entry *e) {
    for (unsigned i = 0; i < WORDS; i++)
        if (words[i] != e->words[i]) return words[i] < e->words[i] ? -1 : 1;
    return slice_compare(key, row_key(e->row));
}
static int entry_compare(const struct entry *a, const struct entry *b) { return key_compare(a->words, row_key(a->row), b); }

/* Ascending; of one key the one that was put later comes first. */
static void sort_short(struct entry *e, size_t n) {
    for (size_t i = 1; i < n; i++) {
        struct entry one = e[i];
        size_t at = i;
        for (; at && entry_compare(&one, &e[at - 1]) <= 0; at--) e[at] = e[at - 1];
        e[at] = one;
    }
}
static void sort_merge(const struct entry *from, size_t middle, size_t end, struct entry *to) {
    size_t old = 0, new = middle;
    while (old < middle && new < end) {
        bool later = entry_compare(&from[new], &from[old]) <= 0;
        *to++ = from[later ? new : old];
        new += later, old += !later;
    }
    memcpy(to, from + old, (middle - old) * sizeof *to);
    memcpy(to + (middle - old), from + new, (end - new) * sizeof *to);
}

/* Returns where the sorted entries are: e or spare, which has as much room. */
static struct entry *sort(struct entry *e, size_t n, struct entry *spare) {
    for (size_t at = 0; at < n; at += SORTED_BY_INSERTION) sort_short(e + at, MIN_OF(n - at, (size_t)SORTED_BY_INSERTION));
    for (size_t width = SORTED_BY_INSERTION; width < n; width *= 2) {
        for (size_t at = 0; at < n; at += 2 * width) sort_merge(e + at, MIN_OF(n - at, width), MIN_OF(n - at, 2 * width), spare + at);
        struct entry *swap = e;
        e = spare, spare = swap;
    }
    return e;
}

static void segment_sort(struct row_pile *p, unsigned i) {
    struct row_segment *s = p->segments[i], *spare = p->spare;
    check(spare->room >= s->count);
    spare->count = s->count;
    if (sort(s->entries, s->count, spare->entries) == spare->entries) p->segments[i] = spare, p->spare = s;
    p->segments[i]->sorted = true;
    p->spare->count = 0, p->spare->sorted = false;
}

/* ---- puts */

void row_pile_push(struct row_pile *p, struct row *r) {
    if (!p->used || !segment_free_rows(p->segments[p->used - 1])) p->used++;
    check(p->used <= p->allocated);
    struct row_segment *s = p->segments[p->used - 1];
    struct entry *e = &s->entries[s->count++];
    e->row = r;
    words_of(p, row_key(r), e->words);
    p->row_count++;
}

void row_pile_settle(struct row_pile *p) {
    for (unsigned i = p->used; i > 0 && !p->segments[i - 1]->sorted; i--)
        if (p->segments[i - 1]->count == p->segments[i - 1]->room) segment_sort(p, i - 1);
}

const struct row *row_pile_next(const struct row_pile *p, size_t *at) {
    size_t i = (*at)++;
    for (unsigned n = 0; n < p->used; n++) {
        const struct row_segment *s = p->segments[n];
        if (i < s->count) return s->entries[s->sorted ? s->count - 1 - i : i].row;
        i -= s->count;
    }
    return NULL;
}

/* ---- reads */

/* How many entries have a key below this one, or at most this one. */
static size_t entries_below(const struct entry *e, size_t n, const uint64_t words[WORDS], struct slice key, bool equal_too) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int c = key_compare(words, key, &e[middle]);
        if (c > 0 || (c == 0 && equal_too)) low = middle + 1;
        else high = middle;
    }
    return low;
}

const struct row *row_pile_find(const struct row_pile *p, struct slice key, uint64_t seq) {
    uint64_t words[WORDS];
    words_of(p, key, words);
    for (unsigned n = p->used; n > 0; n--) {
        const struct row_segment *s = p->segments[n - 1];
        if (s->sorted) {
            for (size_t i = entries_below(s->entries, s->count, words, key, false); i < s->count && key_compare(words, key, &s->entries[i]) == 0; i++)
                if (s->entries[i].row->seq <= seq) return s->entries[i].row;
            continue;
        }
        for (size_t i = s->count; i > 0; i--)
            if (s->entries[i - 1].row->seq <= seq && key_compare(words, key, &s->entries[i - 1]) == 0) return s->entries[i - 1].row;
    }
    return NULL;
}

struct cursor {
    const struct entry *low, *high; /* what it has not passed */
    const struct entry *now;        /* the row that it shows */
    unsigned age;                   /* of its segment: more is newer */
};
struct merge {
    bool backward;
    uint64_t seq;
    const struct entry *last; /* given */
    unsigned count;
    struct cursor cursors[ROW_PILE_SEGMENTS_MAX + 1]; /* a heap */
};
struct read {
    const struct row_pile *pile;
    struct slice key; /* where it begins; `all`: at the end */
    uint64_t words[WORDS];
    bool all, inclusive;
    unsigned max, picked_count;
    struct entry picked[ROW_PILE_READ_MAX + 1]; /* of segments that are not sorted: the nearest, ascending, one of each key */
    struct merge merge;
};
struct row_pile_walk {
    struct merge merge;
    struct entry tail[]; /* what was not sorted, sorted; behind it the sort's other half */
};

/* To the next key of which the view sees a version. false: there is none. */
static bool cursor_step(const struct merge *m, struct cursor *c) {
    while (c->low < c->high) {
        const struct entry *first, *end, *next;
        if (m->backward) {
            end = c->high, first = end - 1;
            while (first > c->low && entry_compare(first - 1, first) == 0) first--;
            c->high = first, next = first > c->low ? first - 1 : first;
        } else {
            first = c->low, end = first + 1;
            while (end < c->high && entry_compare(first, end) == 0) end++;
            c->low = end, next = end < c->high ? end : first;
        }
        __builtin_prefetch(next->row); /* it is looked at when this cursor's turn comes again */
        __builtin_prefetch(next->row->bytes + sizeof(uint64_t) * WORDS);
        for (c->now = first; c->now < end; c->now++)
            if (c->now->row->seq <= m->seq) return true;
    }
    return false;
}

/* Does a come before b? */
static bool cursor_before(const struct merge *m, const struct cursor *a, const struct cursor *b) {
    int c = entry_compare(a->now, b->now);
    return c == 0 ? a->age > b->age : m->backward ? c > 0 : c < 0;
}

static void merge_down(struct merge *m, unsigned i) {
    struct cursor one = m->cursors[i];
    for (unsigned child; (child = 2 * i + 1) < m->count; i = child) {
        if (child + 1 < m->count && cursor_before(m, &m->cursors[child + 1], &m->cursors[child])) child++;
        if (!cursor_before(m, &m->cursors[child], &one)) break;
        m->cursors[i] = m->cursors[child];
    }
    m->cursors[i] = one;
}

static void merge_add(struct merge *m, const struct entry *low, const struct entry *high, unsigned age) {
    struct cursor c = {.low = low, .high = high, .age = age};
    if (cursor_step(m, &c)) m->cursors[m->count++] = c;
}
static void merge_begin(struct merge *m) {
    m->last = NULL;
    for (unsigned i = m->count / 2; i > 0; i--) merge_down(m, i - 1);
}

static unsigned merge_rows(struct merge *m, const struct row **out, unsigned max) {
    unsigned n = 0;
    while (m->count && n < max) {
        struct cursor *c = &m->cursors[0];
        if (!m->last || entry_compare(m->last, c->now) != 0) m->last = c->now, out[n++] = c->now->row;
        if (!cursor_step(m, c)) *c = m->cursors[--m->count];
        if (m->count) merge_down(m, 0);
    }
    return n;
}

static bool entry_inside(const struct read *r, const struct entry *e) {
    if (r->all) return true;
    int c = key_compare(r->words, r->key, e);
    return c == 0 ? r->inclusive : r->merge.backward ? c > 0 : c < 0;
}

/* Oldest rows come first. */
static void read_pick(struct read *r, const struct entry *e) {
    if (e->row->seq > r->merge.seq || !entry_inside(r, e)) return;
    if (r->picked_count == r->max) { /* most rows of a long segment are beyond those */
        int c = entry_compare(e, &r->picked[r->merge.backward ? 0 : r->max - 1]);
        if (r->merge.backward ? c < 0 : c > 0) return;
    }
    size_t at = entries_below(r->picked, r->picked_count, e->words, row_key(e->row), false);
    if (at < r->picked_count && entry_compare(e, &r->picked[at]) == 0) {
        r->picked[at] = *e;
        return;
    }
    memmove(r->picked + at + 1, r->picked + at, (r->picked_count - at) * sizeof *e);
    r->picked[at] = *e;
    if (r->picked_count < r->max) r->picked_count++;
    else if (r->merge.backward) memmove(r->picked, r->picked + 1, r->max * sizeof *e);
}

static void read_begin(struct read *r) {
    const struct row_pile *p = r->pile;
    bool backward = r->merge.backward;
    for (unsigned n = 0; n < p->used; n++) {
        const struct row_segment *s = p->segments[n];
        if (s->sorted) {
            size_t at = r->all ? backward ? s->count : 0 : entries_below(s->entries, s->count, r->words, r->key, backward == r->inclusive);
            merge_add(&r->merge, s->entries + (backward ? 0 : at), s->entries + (backward ? at : s->count), n);
        } else {
            for (size_t i = 0; i < s->count; i++) read_pick(r, &s->entries[i]);
        }
    }
    merge_add(&r->merge, r->picked, r->picked + r->picked_count, p->used);
    merge_begin(&r->merge);
}

static unsigned pile_read(const struct row_pile *p, struct slice key, bool inclusive, bool backward, uint64_t seq, const struct row **out, unsigned max) {
    check(max <= ROW_PILE_READ_MAX);
    if (!p->row_count || !max) return 0;
    struct read r;
    words_of(p, key, r.words);
    r.pile = p, r.key = key, r.all = !key.len, r.inclusive = inclusive, r.max = max, r.picked_count = 0;
    r.merge.backward = backward, r.merge.seq = seq, r.merge.count = 0;
    read_begin(&r);
    return merge_rows(&r.merge, out, max);
}
unsigned row_pile_above(const struct row_pile *p, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) { return pile_read(p, key, inclusive, false, seq, out, max); }
unsigned row_pile_below(const struct row_pile *p, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max) { return pile_read(p, key, inclusive, true, seq, out, max); }

/* ---- all of it */

struct row_pile_walk *row_pile_walk_new(const struct row_pile *p) {
    size_t tail = 0, at = 0;
    for (unsigned n = 0; n < p->used; n++) tail += p->segments[n]->sorted ? 0 : p->segments[n]->count;
    struct row_pile_walk *w = mem_alloc(sizeof *w + 2 * tail * sizeof(struct entry));
    if (!w) return NULL;
    w->merge.backward = false, w->merge.seq = UINT64_MAX, w->merge.count = 0;
    for (unsigned n = 0; n < p->used; n++) {
        const struct row_segment *s = p->segments[n];
        if (s->sorted) merge_add(&w->merge, s->entries, s->entries + s->count, n);
        else memcpy(w->tail + at, s->entries, s->count * sizeof *w->tail), at += s->count;
    }
    const struct entry *sorted = sort(w->tail, tail, w->tail + tail);
    merge_add(&w->merge, sorted, sorted + tail, p->used);
    merge_begin(&w->merge);
    return w;
}
void row_pile_walk_free(struct row_pile_walk *w) { mem_free(w); }
unsigned row_pile_walk_next(struct row_pile_walk *w, const struct row **out, unsigned max) { return merge_rows(&w->merge, out, max); }

void row_pile_verify(const struct row_pile *p) {
    size_t rows = 0;
    check(p->used <= p->allocated);
    for (unsigned n = 0; n < p->allocated; n++) {
        const struct row_segment *s = p->segments[n];
        check(n + 1 < p->used ? !segment_free_rows(s) : n < p->used ? s->count > 0 : s->count == 0);
        for (size_t i = 0; i < s->count; i++) {
            const struct entry *e = &s->entries[i];
            uint64_t words[WORDS];
            words_of(p, row_key(e->row), words);
            check(memcmp(words, e->words, sizeof words) == 0);
            if (!i || !s->sorted) continue;
            int c = entry_compare(e - 1, e);
            check(c < 0 || (c == 0 && e[-1].row->seq >= e->row->seq));
        }
        rows += s->count;
    }
    check(rows == p->row_count);
}
