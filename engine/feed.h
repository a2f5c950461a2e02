/* The change stream of one partition: every commit is an event (slot, seq), written in the same store batch as the order (docs/STREAM.md).
 *
 * Where events lie. The events of a log entry make blocks (event.h), rows 0xffff 'E' (index, block): keys that only grow, so they are written once, compaction
 * moves their files as they are, and retention drops whole files. A place is the index of an entry of the log; events of one slot ascend in seq and in place.
 * From (slot, seq) to its place: the slot record holds those of the newest events, a row 'P' each FEED_CHUNK older ones.
 *
 * Three parts: the writer (apply's: gathers an entry's events), the tail (newest blocks in memory, bounded), reads (over any store view, any thread).
 *
 * Retention moves the first kept place (struct feed_record); it is a command of the log, so replicas agree. Events before it are gone for readers at once, and from
 * the disk when their files are dropped. */
#ifndef ENGINE_FEED_H
#define ENGINE_FEED_H

#include "engine/event.h"
#include "engine/store.h"
#include "proto/base/list.h"
#include "proto/route.h"

enum { FEED_CHUNK = 16 };
/* Metadata `missing` of CURSOR_EXPIRED: "slot:from-to,...", so many ranges; `missing_slots` counts the slots. */
enum { FEED_MISSING_TOLD = 20, FEED_MISSING_BYTES_MAX = 48 };

/* Places of the newest events of a slot: at[(seq - 1) % FEED_CHUNK]. 0: not kept (written before there were events). */
struct feed_places {
    uint64_t at[FEED_CHUNK];
};
/* Of the events of a slot whose last seq is this, those in the slot record: seqs (last_seq - 1) / FEED_CHUNK * FEED_CHUNK + 1 to last_seq. */
static inline int64_t feed_chunk_first(int64_t seq) { return (seq - 1) / FEED_CHUNK * FEED_CHUNK + 1; }
/* Row 'P' = expiry_us(8 be): log time of its last event; format(1); FEED_CHUNK places (8 be). Golden bytes: tests/golden/places.hex */
enum { PLACES_ROW_BYTES = 8 + 1 + 8 * FEED_CHUNK };
void places_encode(const struct feed_places *p, uint64_t time_us, struct writer *w);
enum status places_decode(struct slice row, struct feed_places *out) MUST_USE;

/* Row 'F' = format(1) first_place(8 be) first_time_us(8 be). Absent: everything is kept. */
struct feed_record {
    uint64_t first_place;   /* of the first entry whose events are kept */
    uint64_t first_time_us; /* log time at or before its own, after that of everything that was let go */
};
enum { FEED_RECORD_BYTES = 1 + 8 + 8 };
void feed_record_encode(const struct feed_record *r, struct writer *w);
enum status feed_record_decode(struct slice row, struct feed_record *out) MUST_USE;

/* ---- the writer: one per partition, reused by each entry. Owning core. */

struct feed_block { /* a row, as it stands in the store */
    struct list link;
    uint64_t index;
    uint16_t block;
    uint32_t bytes;
    uint8_t data[];
};
struct feed_writer {
    struct event_block block;
    struct list closed; /* of this entry */
    uint16_t count;
};
void feed_writer_init(struct feed_writer *w);
void feed_writer_fini(struct feed_writer *w);
void feed_writer_clear(struct feed_writer *w); /* the entry is given up */
/* MEMORY_LIMIT. */
enum status feed_add(struct feed_writer *w, const struct event *e, uint64_t index, uint64_t log_time_us, const struct machines *ms) MUST_USE;
/* Puts the entry's blocks into its batch. */
enum status feed_end(struct feed_writer *w, uint64_t index, uint64_t log_time_us, struct store_batch *batch) MUST_USE;

/* ---- the tail: blocks of the newest entries, oldest dropped first. Owning core.
 * It can be as long as its share of the budget: tens of thousands of blocks, with readers anywhere among them. So it is an array, to find a reader's place by halves. */

struct feed_tail {
    struct feed_block **blocks; /* a ring of `room` (a power of two): the oldest at blocks[first % room] */
    size_t first, count, room;
    size_t bytes, bytes_max;
    uint64_t complete_from; /* it has every block from this index on; 0: none (a new tail has them from the next entry on) */
};
void feed_tail_init(struct feed_tail *t, size_t bytes_max);
void feed_tail_clear(struct feed_tail *t); /* and what comes is complete from the next entry on. Holds no memory then */
static inline const struct feed_block *feed_tail_block(const struct feed_tail *t, size_t i) { return t->blocks[(t->first + i) & (t->room - 1)]; }
/* The number (0: the oldest) of the first block at or behind this place; count: there is none. */
size_t feed_tail_find(const struct feed_tail *t, uint64_t index, uint32_t block);
/* The entry was applied: takes its blocks. Without memory for their places the tail begins again behind it, and readers go to the store. */
void feed_tail_take(struct feed_tail *t, struct feed_writer *w, uint64_t index);

/* ---- reads */

struct feed_read;
/* One event of a block, FULL and in its frame, with its content wherever that is kept; brief: how much of its `after` a SUMMARY shows. Borrows from the block, or in f->arena. */
enum status feed_whole(const struct feed_read *f, const struct event_view *e, struct slice *framed, uint32_t *brief) MUST_USE;

/* Where a reader stands: the next event it wants is the one with this number in this block, or the first after it. */
struct feed_position {
    uint64_t index;
    uint32_t block, event;
};

enum feed_payload { FEED_SUMMARY, FEED_FULL };

struct filter;
struct feed_request {
    struct feed_position at;     /* in: from here; out: from where to go on */
    enum feed_payload payload;
    const struct filter *filter; /* NULL: all. Over the whole ChangeEvent, whatever the payload */
    struct slice user_id;        /* not empty: this user's events alone, */
    uint16_t slot;               /* whose slot this is */
    uint64_t from_us;            /* events of an earlier log time are left out, and behind the reader */
    /* By slot, [SLOT_COUNT] or NULL: in: events up to this seq are behind the reader and left out; out: the seq of the last event looked at, for slots of this partition.
     * The caller's; untouched by it while the read is away. */
    int64_t *behind;
    size_t bytes_max;            /* the answer ends before it would be larger than this, unless its first event alone is */
    uint32_t events_max;         /* looked at; 0: any */
    /* out */
    uint32_t events;             /* in the answer */
    uint32_t looked_at;
    bool at_end;                 /* everything up to last_index was looked at */
    uint64_t time_us;            /* log time of the last block looked at; 0: none was */
};

struct feed_read {
    struct store_view view;
    const struct machines *machines;
    struct arena *arena;         /* the answer's */
    const struct feed_tail *tail; /* NULL: not on the owning core */
    struct feed_record kept;
    uint64_t last_index;         /* applied, or of the snapshot */
    struct failure *failure;
};

/* Wire bytes of repeated `events` (1). OK; WOULD_BLOCK: ask again on a reader thread; CURSOR_EXPIRED when at.index is no longer kept; faults. What was
 * refused or failed has not moved the position, nor `behind`: a fault further on ends the answer, and is the next read's. The arena needs bytes_max, or what the
 * first event takes; only an answer with events takes anything of it. */
enum status feed_read(const struct feed_read *f, struct feed_request *r, struct slice *answer) MUST_USE;

/* The place of an event that is kept. ABSENT: it is not (let go, or not there yet). `last`: the slot's record, in two parts. */
enum status feed_place(const struct store_view *view, struct arena *arena, uint16_t slot, int64_t seq, int64_t last_seq, const struct feed_places *last,
                       const struct feed_record *kept, uint64_t *place) MUST_USE;
/* The first block at or behind this entry: its place and time. At the end: the entry behind the last, and the last known time of what is kept. */
enum status feed_block_from(const struct feed_read *f, uint64_t index, struct feed_record *out) MUST_USE;
/* The first entry with events whose log time is not before time_us: position there, or behind the last. */
enum status feed_seek_time(const struct feed_read *f, uint64_t time_us, struct feed_position *out) MUST_USE;
/* The first kept seq of a slot: last_seq + 1 if none is. */
enum status feed_first_kept(const struct store_view *view, struct arena *arena, uint16_t slot, int64_t last_seq, const struct feed_places *last,
                            const struct feed_record *kept, int64_t *seq) MUST_USE;

#endif
