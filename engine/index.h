/* Secondary indexes of a partition: which orders are in a status, of a merchant, hold a SKU; each by time of creation. Rows 0xffff 'I' (keys.h) without a value, written
 * in the batch of the entry that makes them true, so they are as new as the order itself and the commit token covers them. Storage only: the query language comes above.
 * Invariant, when the record says complete: the rows are exactly those that the partition's heads and bodies ask for (index_verify). Docs: docs/INDEXES.md. */
#ifndef ENGINE_INDEX_H
#define ENGINE_INDEX_H

#include "engine/keys.h"
#include "engine/order.h"
#include "engine/store.h"
#include "engine/userlist.h"

/* ---- writing, on the owning core */

/* All rows of an order, as its head and content are now. A row that is there already is put again: no harm. */
void index_put(struct store_batch *batch, const struct order_head *head, struct slice summary, struct slice detail);
void index_move(struct store_batch *batch, struct list_position at, uint16_t from, uint16_t to);

/* ---- reading, on any thread; pages of a scan over one snapshot are of one moment */

struct index_range {
    uint8_t kind;       /* KEY_INDEX_* */
    uint16_t status;    /* STATUS */
    struct slice text;  /* MERCHANT, SKU: 1 to 255 bytes */
    int64_t from_us, to_us; /* [from, to) by create time; INT64_MIN, INT64_MAX: open */
};
/* Newest first: at most `limit`, those behind `after` if it is not NULL. *more: something follows; the last of `out` is the next call's `after`. Whoever shows
 * an index to others looks at the partition's record first: an incomplete one lacks older orders. */
enum status index_scan(const struct store_view *view, const struct index_range *range, const struct list_position *after, struct list_position *out, unsigned limit, unsigned *count,
                       bool *more) MUST_USE;

/* ---- orders that are older than the indexes */

/* The index record: format(1) complete(1) slot(2) order_id(8), big-endian: everything before this order of this slot has its rows. */
struct index_record {
    bool complete;
    uint16_t slot;
    int64_t order_id;
};
enum { INDEX_RECORD_BYTES = 1 + 1 + 2 + 8 };
void index_record_encode(const struct index_record *r, struct writer *w);
enum status index_record_decode(struct slice row, struct index_record *out) MUST_USE;
void index_record_put(struct store_batch *batch, const struct index_record *r);
/* A piece of the walk, at most `orders`: rows and record into `batch`, between two entries. *r is then as the batch makes it. */
enum status index_build(struct store *store, struct store_batch *batch, struct arena *scratch, struct index_record *r, uint16_t last_slot, unsigned orders) MUST_USE;

/* ---- proof */

struct index_count {
    uint64_t orders, rows;
};
/* A piece of the proof: first the orders of the slots, each of which has all its rows, then the rows, each of which has an order that asks for it. Any thread, with the memory of one order. What is said of
 * an order or a row is of one moment if the view is a snapshot, so pieces of a store that is written all the while prove as much as one view for all. */
enum { INDEX_POSITION_BYTES_MAX = 1 + KEY_BYTES_MAX, INDEX_DEFECT_BYTES = 256 };
struct index_check {
    uint16_t first_slot, last_slot;
    unsigned limit; /* orders and rows to look at */
    uint8_t position[INDEX_POSITION_BYTES_MAX]; /* phase(1): 'O' slot(2) order_id(8); 'R' key of a row. Where the piece begins; then where the next one does */
    size_t position_len;                        /* 0: at the beginning; then: nothing is left */
    struct index_count count;         /* what this piece has looked at */
    char defect[INDEX_DEFECT_BYTES];  /* what was found, text; the piece ends behind it. Empty: nothing */
    bool building;                    /* partition_read's: older orders have no rows yet, nothing was looked at */
};
bool index_position_valid(struct slice position, uint16_t first_slot, uint16_t last_slot); /* of a caller */
enum status index_check(const struct store_view *view, struct arena *scratch, struct index_check *c) MUST_USE;
/* All of it over one snapshot. CHECKSUM_MISMATCH: error[] names the first row that is missing or too many. */
enum status index_verify(const struct store_view *view, struct arena *scratch, uint16_t first_slot, uint16_t last_slot, struct index_count *out, char error[INDEX_DEFECT_BYTES]) MUST_USE;

#endif
