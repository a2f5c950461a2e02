/* Rows that are put often and read seldom, in the order in which they were put; part of a row_tree, which owns their memory (row_tree.h, `deferred`).
 *
 * A row that goes into an ordered tree costs a descent with a cache miss at each level; one that goes on a pile costs a write behind the last one. The order is made in pieces: a
 * segment that is full is sorted where it lies, in the cache, and reads merge the segments.
 *
 *     segments   [sorted] [sorted] [sorted] [being filled, not sorted]
 *                 old ---------------------------------------> new
 *     entry      words[3] | row ------> row: header, key, value
 *
 * Every version of a key stays, as a row of its own: of those that a view may see the newest is its answer. In a sorted segment the newest of a key comes first. Segments become
 * larger with their number, so that a pile of any size has few.
 *
 * All keys begin with the tree's deferred prefix. Threads: as the tree. */
#ifndef ENGINE_ROW_PILE_H
#define ENGINE_ROW_PILE_H

#include "engine/row.h"

enum {
    ROW_PILE_SEGMENTS_MAX = 256,    /* 16 million rows of full-size segments: beyond the memory of any table */
    ROW_PILE_SEGMENTS_CROWDED = 64, /* 196,608 such rows: a read looks into each */
    ROW_PILE_READ_MAX = 128,
};

struct row_segment;
struct row_pile {
    size_t row_count;
    /* private */
    size_t prefix_len;
    size_t segment_rows;   /* of the first ones */
    unsigned used;         /* segments with rows; the last of them may have room */
    unsigned allocated;
    struct row_segment *segments[ROW_PILE_SEGMENTS_MAX];
    struct row_segment *spare; /* where the next sort writes to */
};

void row_pile_init(struct row_pile *p, size_t prefix_len, size_t segment_rows);
void row_pile_reset(struct row_pile *p, size_t *bytes); /* empty; keeps one segment. Takes what it gives back off *bytes */
void row_pile_fini(struct row_pile *p, size_t *bytes);

/* Room for so many more rows, and to sort segments. Adds what it takes from the heap to *bytes; false: no memory, nothing changed but that. */
bool row_pile_reserve(struct row_pile *p, size_t rows, bool sort, size_t *bytes) MUST_USE;
size_t row_pile_reserve_bytes(const struct row_pile *p, size_t rows); /* at most, with room to sort */
void row_pile_push(struct row_pile *p, struct row *r); /* reserved before */
void row_pile_settle(struct row_pile *p);              /* sorts the segments that are full; room for it was reserved */
/* Should no more be put on it? */
static inline bool row_pile_crowded(const struct row_pile *p) { return p->used > ROW_PILE_SEGMENTS_CROWDED; }

/* All rows, each key's in the order in which they were put; NULL: no more. *at: 0 at first. */
const struct row *row_pile_next(const struct row_pile *p, size_t *at);

/* As row_tree's: what a view at seq sees. above and below: key is inside the prefix, or empty (all of them); at most ROW_PILE_READ_MAX. */
const struct row *row_pile_find(const struct row_pile *p, struct slice key, uint64_t seq);
unsigned row_pile_above(const struct row_pile *p, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max);
unsigned row_pile_below(const struct row_pile *p, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max);

/* The newest of every key, of a pile that no longer changes, in order. NULL: no memory. */
struct row_pile_walk;
struct row_pile_walk *row_pile_walk_new(const struct row_pile *p);
void row_pile_walk_free(struct row_pile_walk *w);
unsigned row_pile_walk_next(struct row_pile_walk *w, const struct row **out, unsigned max); /* fewer: there are no more */

void row_pile_verify(const struct row_pile *p); /* for tests */

#endif
