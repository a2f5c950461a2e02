/* What the two implementations of store.h share with its front (store.c) and nobody else sees. An implementation embeds these structs
 * as its first member and fills in the table. The front checks arguments, counts live snapshots and iterators, and dispatches. */
#ifndef ENGINE_STORE_OPS_H
#define ENGINE_STORE_OPS_H

#include <stdatomic.h>

#include "engine/store.h"

struct store_ops {
    void (*close)(struct store *s);
    enum status (*get)(const struct store_view *view, struct slice key, struct arena *arena, struct slice *value);
    /* The newest state of so many keys (STORE_EXPECT_MAX); the owning core, no batch. values[i].data NULL: it is not there, or could not be read. */
    void (*get_many)(const struct store_view *view, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values);
    /* From the batch alone. WOULD_BLOCK: it says nothing of the key. */
    enum status (*batch_get)(const struct store_batch *b, struct slice key, struct arena *arena, struct slice *value);
    /* All rows of a batch, in any order but that of several versions of a key the newest comes last. */
    void (*batch_rows)(const struct store_batch *b, void (*row)(void *ctx, struct slice key, struct slice value, bool deleted), void *ctx);
    uint64_t (*ahead_stamp)(struct store *s); /* of what files hold: another one whenever that may have changed */
    void (*ahead_get)(struct store *s, const struct slice *keys, unsigned count, struct arena *arena, struct slice *values); /* from files alone; any thread */
    struct store_snapshot *(*snapshot_get)(struct store *s);
    void (*snapshot_put)(struct store *s, struct store_snapshot *snapshot);
    struct store_iter *(*iter_open)(const struct store_view *view, struct slice lower, struct slice upper, bool group); /* group: lower is one */
    void (*iter_close)(struct store_iter *it);
    void (*iter_first)(struct store_iter *it);
    void (*iter_last)(struct store_iter *it);
    void (*iter_seek)(struct store_iter *it, struct slice key);      /* key is inside the bounds */
    void (*iter_seek_back)(struct store_iter *it, struct slice key); /* key is inside the bounds */
    void (*iter_next)(struct store_iter *it);
    void (*iter_prev)(struct store_iter *it);
    struct store_batch *(*batch_new)(struct store *s);
    void (*batch_free)(struct store_batch *b);
    void (*batch_clear)(struct store_batch *b);
    void (*batch_put)(struct store_batch *b, struct slice key, struct slice value);
    void (*batch_delete)(struct store_batch *b, struct slice key);
    enum status (*apply)(struct store *s, struct store_batch *b);
    enum status (*probe)(struct store *s, char error[256]);
    enum status (*flush)(struct store *s);
    void (*warm)(struct store *s, void *memory, size_t bytes); /* memory of the front that is to be written soon: another thread makes its pages, some time (mem_populate). NULL: nobody does */
    void (*set_expiry)(struct store *s, uint8_t kind, uint64_t horizon_us);
    void (*get_stats)(struct store *s, struct store_stats *out); /* all but snapshots and iterators */
    void (*drop_range)(struct store *s, struct slice lower, struct slice upper);
    uint64_t (*range_bytes)(struct store *s, struct slice lower, struct slice upper);
    enum status (*checkpoint_make)(struct store *s, struct store_checkpoint **out, char error[256]); /* bytes is set */
    enum status (*checkpoint_read)(struct store_checkpoint *c, uint64_t offset, uint8_t *out, size_t len);
    void (*checkpoint_free)(struct store_checkpoint *c);
    enum status (*import_begin)(struct store *s, struct store_import **out, char error[256]);
    enum status (*import_write)(struct store_import *i, struct slice bytes, char error[256]);
    enum status (*import_finish)(struct store_import *i, struct store **look, char error[256]);
    enum status (*import_find)(struct store *s, struct store_import **out, char error[256]);
    enum status (*import_install)(struct store_import *i, char error[256]);
    void (*import_free)(struct store_import *i, bool keep);
};

enum { STORE_MAGIC = 0x53544f52, STORE_ITER_MAGIC = 0x49544552, STORE_BATCH_MAGIC = 0x42415443 };

struct key_filter;
struct row_cache;
struct store {
    const struct store_ops *ops;
    uint32_t magic;
    _Atomic uintptr_t owner;     /* the thread that applies, as thread_self() names it: applies and new batches tell */
    struct row_cache *caches[STORE_CACHES_MAX]; /* the owner's alone */
    unsigned cache_count;
    uint8_t cached[256];         /* rows of this kind are in caches[this - 1]; 0: in none */
    struct key_filter *filter;   /* NULL: none. The owner's alone, with all of: */
    uint8_t filter_kind;
    bool filter_whole, filter_proved;
    uint64_t filter_horizon_us, filter_asked, filter_absent;
    _Atomic uint64_t snapshots, iterators;
};
struct store_batch {
    struct store *store;
    uint32_t magic;
    size_t bytes;      /* of keys and values put */
    uint64_t versions; /* counts the writes: a cached view of the batch is of one version */
    bool failed;       /* no memory for a row: apply and reads answer MEMORY_LIMIT */
};
struct store_iter {
    struct store *store;
    uint32_t magic;
    bool valid;
    enum status status;
    struct slice key, value;   /* when valid */
    struct slice lower, upper; /* upper empty: no bound */
};
/* The stream: the implementation's bytes, then a CRC-32C of them (4 be), which the front adds and verifies. */
enum { STORE_STREAM_SUM_BYTES = 4 };
struct store_checkpoint {
    const struct store_ops *ops;
    uint64_t bytes;    /* without the sum */
    uint64_t summed;   /* so far read in order */
    uint32_t sum;
};
struct store_import {
    const struct store_ops *ops;
    uint64_t bytes, written; /* without the sum */
    uint32_t sum;
    uint8_t told[STORE_STREAM_SUM_BYTES];
    unsigned told_bytes;
};
void store_init(struct store *s, const struct store_ops *ops);
uintptr_t thread_self(void);
/* The owner reads without a lock: nobody else writes. */
static inline bool store_owned(const struct store *s) { return atomic_load_explicit(&s->owner, memory_order_relaxed) == thread_self(); }

/* For an implementation: the row of the view's `ahead`, when it knows the key and counts. Asked behind all that is in no file. */
bool store_ahead_find(const struct store_view *view, struct slice key, struct slice *row);

/* Both implementations: has this row expired at the horizon of its kind? 0: the kind does not expire. */
static inline bool store_row_expired(struct slice value, uint64_t horizon_us) {
    return horizon_us && value.len >= 8 && get_be64(value.data) <= horizon_us;
}

#endif
