/* A user's orders, newest first, with exact counts by status at any position: the order statistics behind pages and totals.
 *
 * Rows 'L' are the list, one per order, sorted by (create_us, order_id); each carries its order's card, what a SUMMARY shows, so that a page is one scan. Rows 'N' are a counted tree over it: level 0 is one row of totals
 * per user, the root; when a user has more than 2 * USERLIST_SPAN orders, level 1 rows each count a run of SPAN to 2 * SPAN list rows, level 2
 * rows a run of level 1 rows, and so on. A create or a transition touches one row per level (one in all for most users); a page at any depth
 * costs a few dozen row reads. Invariant: at each level the rows partition the level below; counts add up (userlist_verify). Docs: docs/STORAGE.md. */
#ifndef ENGINE_USERLIST_H
#define ENGINE_USERLIST_H

#include "engine/keys.h"
#include "engine/machine.h"
#include "engine/store.h"

/* STATUSES_MAX: different statuses that one user's orders are in at a time: as many as there are at all, so that no write is ever refused for the statuses of other
 * orders. NAMED_MAX: that one question names. */
enum { USERLIST_SPAN = 32, USERLIST_STATUSES_MAX = STATUS_IDS_MAX, USERLIST_NAMED_MAX = 64 };

struct status_count {
    uint16_t status;
    int64_t count;
};
/* 16 KiB where hardly more than 100 bytes are used: never cleared, copied or passed by value as a whole. */
struct status_counts {
    unsigned n;
    struct status_count at[USERLIST_STATUSES_MAX];
};
struct list_position {
    int64_t create_us, order_id;
};

/* A list row: status(2) [format(1) card]. The card is the order as a SUMMARY shows it (wire bytes of orderdb.v1.Order: head, summary), from the newest commit on. Empty: the row has
 * none, since it is older than cards or the card would be longer than CARD_BYTES_MAX, and who wants it reads head and body. */
enum { USERLIST_CARD_BYTES_MAX = 1024, USERLIST_ROW_BYTES_MAX = 2 + 1 + USERLIST_CARD_BYTES_MAX };
void list_row_encode(uint16_t status, struct slice card, struct writer *w); /* a longer card is left out */
enum status list_row_decode(struct slice row, int64_t order_id, uint16_t *status, struct slice *card) MUST_USE;

/* Owning core, over a batch view. Status of the store only. The order must not be in the list yet; or must be in it, in status `from` (which may be `to`: the card is new). */
enum status userlist_insert(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, struct list_position at, uint16_t status,
                            struct slice card) MUST_USE;
enum status userlist_move(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, struct list_position at, uint16_t from, uint16_t to,
                          struct slice card) MUST_USE;

/* What to count and walk. Any thread; where others write meanwhile the view must be a snapshot, or counts and rows are of different times. */
struct userlist_range {
    uint16_t slot;
    struct slice user_id;
    int64_t from_us, to_us;            /* [from, to) by create time; INT64_MIN, INT64_MAX: open */
    uint16_t statuses[USERLIST_NAMED_MAX];
    unsigned status_count;             /* 0: all */
};
struct userlist_item {
    struct list_position at;
    uint16_t status;
    struct slice card; /* a page's: in its arena. Empty: the row has none */
};
/* Counts of all statuses in the time range (the status set is not looked at). */
enum status userlist_count(const struct store_view *view, struct arena *scratch, const struct userlist_range *range, struct status_counts *out) MUST_USE;
/* Newest first: at most `limit` items of the range that match, after skipping `skip` matching ones (by the counts, not by walking) or, if after is not
 * NULL, those below that position. *more: something follows. counts: as userlist_count tells them, for less than asking apart; NULL: not wanted. */
enum status userlist_page(const struct store_view *view, struct arena *arena, const struct userlist_range *range, int64_t skip, const struct list_position *after,
                          struct userlist_item *out, unsigned limit, unsigned *count, bool *more, struct status_counts *counts) MUST_USE;
/* Walks everything of the user and compares; CHECKSUM_MISMATCH: error[] says where. For tests and `verify`. */
enum status userlist_verify(const struct store_view *view, struct arena *scratch, uint16_t slot, struct slice user_id, char error[256]) MUST_USE;

#endif
