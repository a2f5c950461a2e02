/* Rows by key in memory of a fixed size: what was put or read last, and what is read again and again stays (docs/STORAGE.md, hot rows).
 *
 * A ring of entries and a table of their places. New entries go to the head; when room is needed, the oldest one goes, unless it was found since: then it moves to the head, for as
 * often as it was found, three times at most. That is CLOCK with two bits (FIFO reinsertion; Yang et al., "FIFO can be better than LRU", HotOS 2023): a hit writes one byte, no list is kept,
 * and what is found only when it is new leaves after one turn.
 *
 * It knows nothing of stores: who owns it says what is true. One thread at a time; nothing is allocated but at the start. */
#ifndef ENGINE_ROW_CACHE_H
#define ENGINE_ROW_CACHE_H

#include "proto/base/bytes.h"

struct row_cache;
struct row_cache_stats {
    uint64_t hits, misses; /* of row_cache_find; misses of row_cache_expect too */
    uint64_t evictions;    /* rows that went to make room; not those that were replaced or forgotten */
    uint64_t bytes, rows;  /* of the ring in use; in it */
};

enum { ROW_CACHE_BYTES_MIN = 4 << 10 };
/* Of so many bytes, the table included; at least ROW_CACHE_BYTES_MIN, at most 32 GiB. row_bytes: what a row takes on average, key and value; by it the table is made. NULL: no memory. */
struct row_cache *row_cache_new(uint64_t bytes, uint32_t row_bytes);
void row_cache_free(struct row_cache *c); /* NULL is fine */
/* false: not known. value lives until the next put. */
bool row_cache_find(struct row_cache *c, struct slice key, struct slice *value) MUST_USE;
/* This is the key's value now. One that is too large for this cache (a sixteenth of it) is not kept, nor is the one before. */
void row_cache_put(struct row_cache *c, struct slice key, struct slice value);
void row_cache_forget(struct row_cache *c, struct slice key);
struct row_cache_stats row_cache_get_stats(const struct row_cache *c);

/* For many keys in a row: hashes first, so that the table's lines are under way when they are wanted. */
uint64_t row_cache_hash(struct row_cache *c, struct slice key);
/* Its lines are asked for next: one pass of hashes over all keys, one of these. false: it is not known. true: it is, or (once in four thousand million) another with half of its hash. */
bool row_cache_expect(struct row_cache *c, uint64_t hash);
void row_cache_put_hashed(struct row_cache *c, uint64_t hash, struct slice key, struct slice value);
void row_cache_forget_hashed(struct row_cache *c, uint64_t hash, struct slice key);

/* The ring is a fresh block, whose huge pages take milliseconds when they are first written. Who has another thread makes them in time: `warm` is told of each half a page before rows come to it. It must not wait, and may do nothing. */
void row_cache_warm(struct row_cache *c, void (*warm)(void *ctx, void *memory, size_t bytes), void *ctx);

void row_cache_verify(const struct row_cache *c); /* every place and count; for tests */

#endif
