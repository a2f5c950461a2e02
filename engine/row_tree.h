/* An ordered table of rows in memory: what was applied and is not in a file yet, and what a batch will write (docs/STORAGE.md).
 *
 * A B+-tree with wide nodes. A leaf holds up to 64 rows: the first 16 bytes of each key, as two arrays of big-endian words that are searched by halves
 * without a look at any row, and pointers to the rows. Rows lie in chunks; nothing is freed but all at once.
 *
 *     inner   words[n][2] | first row of each child [n] | children [n]
 *     leaf    words[n][2] | rows [n] ------> row: header, key, value ---older---> row ---older---> ...
 *
 * One version of a row per key, and older ones as long as a view needs them: each put names its sequence number and the newest one that
 * somebody still reads (`pinned`). A row above that one is seen by nobody but newest readers, so the next put may write over it where it lies.
 *
 * Deferred rows. Keys with the tree's deferred prefix don't go into the nodes but on a pile (row_pile.h): to put one costs a tenth, to read one costs more. Nobody sees a difference but in
 * time, and that every version of such a key takes room.
 *
 * One writer. Others read under whatever lock the writer holds while it writes, or when the tree no longer changes. A row that a view at or above its
 * sequence number has pinned stays as it is until the tree goes, whatever is put meanwhile. */
#ifndef ENGINE_ROW_TREE_H
#define ENGINE_ROW_TREE_H

#include <pthread.h>

#include "engine/row_pile.h"
#include "proto/base/bytes.h"

/* Huge blocks that trees have given back, for the next ones. The system gives a fresh one page by page, zeroed at its first touch, some milliseconds each where memory is scarce or virtual: time of
 * whoever puts a row. There are never more blocks than were in use at once, but for a few that another thread makes ready. Any thread. */
struct row_spares {
    pthread_mutex_t lock; /* innermost */
    struct row_spare *first;
    size_t count, max;
    size_t ready;            /* so many, within max, are to be there from the first that a tree takes on; 0: none are made ready */
    bool wanted;             /* it has */
    void (*low)(void *ctx);  /* there are fewer: called without the lock, by whoever has taken one */
    void *ctx;
};
void row_spares_init(struct row_spares *s);
void row_spares_fini(struct row_spares *s);
void row_spares_allow(struct row_spares *s, size_t bytes);    /* keeps as much more */
void row_spares_disallow(struct row_spares *s, size_t bytes); /* and less again */
void row_spares_make_ready(struct row_spares *s, size_t ready, void (*low)(void *ctx), void *ctx); /* before any tree has them */
bool row_spares_lacking(const struct row_spares *s); /* under the lock */
/* One more, every page of it touched. false: there are enough, or no memory. */
bool row_spares_add(struct row_spares *s);

enum { ROW_TREE_READ_MAX = ROW_PILE_READ_MAX };

struct row_node;
struct row_chunk;
struct row_slab;
struct row_tree {
    size_t bytes;     /* taken from the heap */
    size_t row_count; /* keys, deleted ones included; of deferred ones the versions */
    size_t row_bytes; /* of their rows: newest versions, and all of deferred ones */
    struct row_spares *spares; /* set behind row_tree_init; NULL: none */
    /* private */
    size_t chunk_bytes;
    struct row_chunk *chunks; /* the first is the one being filled */
    uint8_t *at, *end;
    struct row_slab *slabs, *slab; /* all; the one being filled */
    size_t nodes_left;             /* in it and those behind it */
    size_t leaf_count, inner_count;
    unsigned height; /* 0: no root; 1: the root is a leaf */
    struct row_node *root;
    struct slice deferred;
    struct row_pile pile;
};

/* Takes nothing from the heap yet. chunk_bytes: how much at a time. */
void row_tree_init(struct row_tree *t, size_t chunk_bytes);
void row_tree_defer(struct row_tree *t, struct slice prefix); /* right behind it: which keys are deferred; borrowed. Empty: none */
void row_tree_reset(struct row_tree *t); /* empty again; keeps one chunk and one slab of nodes */
void row_tree_fini(struct row_tree *t);

/* false: no memory, nothing changed. A put at or below pinned's versions leaves them to be read. Value: ignored when deleted. */
bool row_tree_put(struct row_tree *t, struct slice key, struct slice value, bool deleted, uint64_t seq, uint64_t pinned) MUST_USE;
/* Puts all rows of `from`, newest versions, in the order of their keys. false: no memory, nothing changed: it is reserved first. */
bool row_tree_put_all(struct row_tree *t, const struct row_tree *from, uint64_t seq, uint64_t pinned) MUST_USE;
/* What the tree may grow by, at most, when it takes them all. */
size_t row_tree_put_all_bytes(const struct row_tree *t, const struct row_tree *from);

/* Are there so many deferred rows that reads of them become slow? Such a tree should take no more. */
static inline bool row_tree_crowded(const struct row_tree *t) { return row_pile_crowded(&t->pile); }

/* The version that a view at seq sees (deleted: it sees that there is none), or NULL: the tree does not say. UINT64_MAX: the newest. */
const struct row *row_tree_find(const struct row_tree *t, struct slice key, uint64_t seq);
/* The first rows at or above key in their order, as a view at seq sees them, deleted ones included. inclusive: the key itself counts. Returns how many, at most max
 * (ROW_TREE_READ_MAX); fewer: there are no more. An empty key: from the first on. */
unsigned row_tree_above(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max);
/* The same downwards. An empty key: from the last on. */
unsigned row_tree_below(const struct row_tree *t, struct slice key, bool inclusive, uint64_t seq, const struct row **out, unsigned max);

/* All rows in order, newest versions, of a tree that no longer changes: what row_tree_above gives from the first on, cheaper by the searches. */
struct row_tree_walk {
    /* private */
    const struct row_tree *tree;
    struct row_pile_walk *pile; /* NULL: passed, or none */
    bool below;                 /* before it */
    struct slice from;
};
bool row_tree_walk_begin(struct row_tree_walk *w, const struct row_tree *t) MUST_USE; /* false: no memory */
void row_tree_walk_end(struct row_tree_walk *w);
unsigned row_tree_walk_next(struct row_tree_walk *w, const struct row **out, unsigned max); /* fewer: there are no more */

/* The rows of the nodes alone, not the pile's, in order, newest versions; of a tree that does not change meanwhile. */
struct row_tree_step {
    /* private */
    const struct row_node *leaf;
    unsigned at;
};
struct row_tree_step row_tree_step_first(const struct row_tree *t);
const struct row *row_tree_step_next(struct row_tree_step *s); /* NULL: there are no more */

/* Checks every order and count of the tree; for tests. */
void row_tree_verify(const struct row_tree *t);

#endif
