/* A store for a test: either kind, closed and opened again, its directory removed at the end. Rows are text: "a=1 b=2 -c". */
#ifndef TESTS_LIB_STORE_WORLD_H
#define TESTS_LIB_STORE_WORLD_H

#include "engine/store.h"
#include "proto/base/mem.h"
#include "tests/lib/test.h"

struct world {
    bool rocks;
    struct store_mem_disk *disk; /* in memory */
    char dir[64], path[80];      /* RocksDB: a directory of our own, the store's inside */
    uint64_t memtable_bytes;
    uint64_t cache_bytes; /* of rows of all kinds kept beside the store; 0: none */
    struct slice deferred; /* keys with this prefix; rocks alone */
    struct slice growing;  /* the same */
    uint8_t grouped_kind, grouped_tail; /* as in store_config */
    struct store_shared *shared;
    struct store *store;
    struct arena arena;
};

struct world *world_new(bool rocks); /* not opened */
void world_free(struct world *w);
/* cmocka's: *state is an open world. */
int world_setup_mem(void **state);
enum { WORLD_CACHE_BYTES = STORE_CACHE_BYTES_MIN }; /* so few that something is evicted all the time */
int world_setup_mem_cached(void **state);
int world_setup_rocks(void **state); /* a test's initial state: the struct slice of a deferred prefix, or NULL */
int world_setup_rocks_cached(void **state);
int world_teardown(void **state);

enum status world_try_open(struct world *w, char error[256]);
void world_open(struct world *w);
void world_close(struct world *w); /* without a live snapshot or iterator */
void world_reopen(struct world *w);
void remove_tree(const char *path);

static inline struct store_view newest(struct world *w) { return (struct store_view){.store = w->store}; }
void rows_put(struct store_batch *b, const char *key, const char *value);
void rows_delete(struct store_batch *b, const char *key);
void rows_write(struct world *w, const char *rows); /* "a=1 b=2 -c": puts and deletes as one batch */
/* The value as text, or the status' name. In the world's arena, as scan's. */
const char *rows_get(struct world *w, const struct store_view *view, const char *key);
/* "a=1 b=2", with "!STATUS" behind it when the scan ended in one. */
const char *rows_scan(struct world *w, const struct store_view *view, const char *lower, const char *upper, bool back);

#endif
