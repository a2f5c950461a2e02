/* The newest rows of users' lists, kept in memory: the first pages, which are what applications ask for, are copied from here instead of scanned out of tables and files.
 *
 * An entry is a user's newest orders without a gap (position, status, card), and the user's totals by status; so it knows whether it holds all there are. It is never older than the store: apply puts
 * into it what it puts into the list, and whoever drops a batch or swaps a store forgets the slots (list_cache_forget). Filled by pages that were read from the store, from the newest order on, page by page.
 * One per engine, on its core; a view of the past (a snapshot) must not be answered from here. Bounded by bytes. Who goes first is decided by S3-FIFO (docs/STORAGE.md, "Lists in memory"). */
#ifndef ENGINE_LIST_CACHE_H
#define ENGINE_LIST_CACHE_H

#include "engine/userlist.h"

enum {
    LIST_CACHE_ROWS_MAX = 128,          /* of a user: six pages of 20 */
    LIST_CACHE_CARDS_BYTES_MAX = 64 << 10, /* of a user, before the oldest rows go */
    LIST_CACHE_STATUSES_MAX = 24,       /* who has orders in more is not kept */
};
static_assert(LIST_CACHE_CARDS_BYTES_MAX > 4 * USERLIST_CARD_BYTES_MAX, "a few rows always fit");

struct list_cache;
struct list_cache_stats {
    uint64_t users, rows, bytes, bytes_max;
    uint64_t hits, misses, evictions; /* pages answered from here, and not; users that went for want of room */
};

struct list_cache *list_cache_new(uint64_t bytes_max); /* NULL: no memory */
void list_cache_free(struct list_cache *c);            /* NULL is fine */
void list_cache_get_stats(const struct list_cache *c, struct list_cache_stats *out);

/* What userlist_insert and userlist_move were told, when they have done it. NULL is fine: there is none. */
void list_cache_insert(struct list_cache *c, struct slice user_id, struct list_position at, uint16_t status, struct slice card);
void list_cache_move(struct list_cache *c, struct slice user_id, struct list_position at, uint16_t from, uint16_t to, struct slice card);
/* The users of these slots: a batch that insert or move told of was not applied, or the store is another one. */
void list_cache_forget(struct list_cache *c, uint16_t first_slot, uint16_t last_slot);

/* userlist_page's answer, if what is kept is enough for it. Cards are borrowed until the next call that is not a page. */
bool list_cache_page(struct list_cache *c, const struct userlist_range *range, int64_t skip, const struct list_position *after, struct userlist_item *out, unsigned limit, unsigned *count,
                     bool *more, struct status_counts *counts) MUST_USE;
/* What userlist_page has just answered, from the newest state. Kept if it is the beginning of the list, or goes on where what is kept ends; of what matches without exception. */
void list_cache_fill(struct list_cache *c, const struct userlist_range *range, int64_t skip, const struct list_position *after, const struct userlist_item *items, unsigned count,
                     const struct status_counts *counts);

#endif
