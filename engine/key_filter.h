/* Which keys may be there: a set that never says no of a key that it was told, and yes of one in a hundred or so that it was not. For keys that expire: what it was told is forgotten together, share by share, when the
 * last of a share has expired; so it goes on for ever in a fixed size, if keys come no faster than they expire. Else it fills up, and says yes more and more often: it is of no use then, and never wrong.
 *
 *     share 0 [block][block]... | share 1 ... | share 2 ... | share 3 ... | lasting        a block is a line of the cache; a key has BITS of its bits in one of them
 *
 * New keys go into one share until it has its number; then into the next one, if that is clean. Shares are cleaned a little with each key, as zeroing megabytes at once would hold up whoever puts it.
 * Keys that never expire have a small part to themselves, which is not cleaned. It is overfull in its turn when they are very many.
 * Bloom filters in blocks: Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom filters", JEA 14 (2009).
 *
 * Keys are told by a hash of 64 bits (hash64). One thread at a time; nothing is allocated but at the start. */
#ifndef ENGINE_KEY_FILTER_H
#define ENGINE_KEY_FILTER_H

#include "proto/base/base.h"

enum { KEY_FILTER_BYTES_MIN = 4 << 10, KEY_FILTER_BITS_A_KEY = 12 };
#define KEY_FILTER_NEVER_US (1ull << 62) /* an expiry at or beyond it is none */

struct key_filter;
struct key_filter *key_filter_new(uint64_t bytes); /* NULL: no memory */
void key_filter_free(struct key_filter *f);        /* NULL is fine */
/* As row_cache_warm: it is told of a share that comes next when the one before it gets its first key. */
void key_filter_warm(struct key_filter *f, void (*warm)(void *ctx, void *memory, size_t bytes), void *ctx);
void key_filter_put(struct key_filter *f, uint64_t hash, uint64_t expiry_us);
bool key_filter_may_have(const struct key_filter *f, uint64_t hash);
/* Whoever asks no longer cares for keys that expire at or below the horizon. */
void key_filter_expire(struct key_filter *f, uint64_t horizon_us);
uint64_t key_filter_count(const struct key_filter *f);     /* keys that were told and not forgotten, each as often as it was told */
uint64_t key_filter_count_max(const struct key_filter *f); /* of those that expire: beyond it yes becomes frequent */

#endif
