/* Consumer groups as rows: what survives (docs/STREAM.md). Pure.
 *
 *   0xffff 'G' group(4)       = format(1) revision(8) epoch(8) flags(1) start_place(8) start_us(8) redrive_milli(4) sweep_slot(2) definition(counted)
 *   0xffff 'J' group(4)       = format(1) epoch(8) settled_place(8) settled_us(8) [scan slot(2) scan after(8) told(8)]     progress; format 2: with a scan
 *   slot   'G' group(4)       = format(1) epoch(8) through(varint) letters(varint) count(varint) { seq delta(varint) attempts(varint) }*
 *                               [told_through(varint) count(varint) { order id delta(varint) version(varint) seq(varint) attempts(varint) }*]     position; format 2: with orders
 *   slot   'Q' group(4) seq(8) = format(1) state(1) attempts(varint) time_us(8) key(8) parks(1) base(varint) brief(varint) error(counted) event(counted)   letter
 *
 * In the meta partition, 0xffff 'G' 0 is the last group id given: format(1) id(4).
 *
 * Position. Of the events up to `through`, those that are listed are not settled and all others are; of the events above, none is. Two positions join to one:
 * settled in either is settled, attempts are the larger. So a position only grows, in whatever order and how often it is told; only a seek begins anew, with an epoch of its
 * own. A position of another epoch counts as absent, but for its letters.
 * Events before the group's start are none of its own, whatever a position says.
 *
 * Snapshot. A group that begins with one (CONSUMER_SNAPSHOT) is told every order of the partition, by slot and order id; the scan says how far. An order is told as it is behind some
 * entry of the log, by an event of its own (slot, seq of the order's newest commit then, or a number in its place: event_number), which is listed in the slot's position until it is settled. What is listed and what the scan
 * says change together, by compare and swap of the scan (COMMAND_GROUP_SNAPSHOT), together with a position of the slot that has settled every change up to that
 * entry, of orders behind the scan. So an order's version is fixed once, and the changes that follow are those above it.
 *
 * Letters and seeks (CONSUMER_YIELD). A letter that is to go out, and whose event is not settled in this epoch, though kept, is left alone: the event comes by itself, in its turn. When that is settled,
 * the letter goes in the same batch; or it is written anew, as the event dies. Before then another seek may have passed over the event: then the letter goes out after all. DEAD ones stay.
 *
 * Golden bytes: tests/golden/group_row.hex, group_progress.hex, group_progress_scan.hex, group_position.hex, group_position_told.hex, group_letter.hex; decoders are fuzzed (fuzz_rows). */
#ifndef ENGINE_CONSUMER_ROW_H
#define ENGINE_CONSUMER_ROW_H

#include "proto/base/arena.h"
#include "proto/route.h"
#include "proto/status.h"

enum {
    CONSUMER_GROUPS_MAX = 256,
    CONSUMER_NAME_BYTES_MAX = 64,        /* [a-z0-9] and, not in front, [a-z0-9._-] */
    CONSUMER_DEFINITION_BYTES_MAX = 5 << 10, /* the filter is most of it */
    CONSUMER_ERROR_BYTES_MAX = 1024,
    CONSUMER_KEY_WINDOW_MAX = 1024,
    CONSUMER_ATTEMPTS_MAX = 1000000,
    CONSUMER_LISTED_MAX = 16384,         /* of one position: a window's events */
};

/* As in orderdb.v1. Stored: never renumber. */
enum consumer_ordering { ORDERING_USER = 1, ORDERING_ORDER = 2, ORDERING_NONE = 3 };
enum consumer_start { START_EARLIEST = 1, START_LATEST = 2, START_AT_TIME = 3, START_SNAPSHOT = 4 };
enum consumer_exhausted { EXHAUSTED_LETTER = 1, EXHAUSTED_PARK = 2, EXHAUSTED_BLOCK = 3 };

/* ConsumerGroup with every default filled in. Its bytes are orderdb.v1.ConsumerGroup, fields by number: what Get and List answer is what is stored. */
struct consumer_definition {
    struct slice name, filter;
    enum consumer_ordering ordering;
    uint32_t max_attempts;
    uint64_t min_backoff_us, max_backoff_us;
    enum consumer_exhausted on_exhausted;
    enum consumer_start start;
    int64_t start_us;
    bool full, paused;
    uint64_t ack_timeout_us;
    uint32_t key_window;
};
struct slice consumer_definition_encode(const struct consumer_definition *d, struct arena *arena); /* data NULL: it is full */
enum status consumer_definition_decode(struct slice bytes, struct consumer_definition *out) MUST_USE; /* borrows */
/* Whoever is at work can't go on with the new one: what an event's key is, or whether it is wanted, has changed. */
bool consumer_definition_restarts(const struct consumer_definition *before, const struct consumer_definition *after);

enum {
    CONSUMER_REMOVING = 1, /* flags: the group is gone; its rows go in steps */
    CONSUMER_SNAPSHOT = 2, /* this epoch begins with every order */
    CONSUMER_YIELD = 4,    /* this epoch began with a seek: letters WAITING or REDRIVEN yield to their events that come again */
};
struct consumer_group_row {
    uint32_t group_id;      /* of the key */
    uint64_t revision;      /* of the definition: how many changes it has seen in the meta partition, from 1 */
    uint64_t epoch;         /* raised by each seek */
    uint8_t flags;
    uint64_t start_place;   /* events of entries before it, or committed before start_us, are none of the group's */
    uint64_t start_us;
    uint32_t redrive_milli; /* redriven letters that may go out in 1,000 s; 0: any number */
    uint16_t sweep_slot;    /* REMOVING: slots below are empty already */
    struct slice definition;
    uint64_t seeking_us;    /* of what OP_GROUPS finds in the meta partition: since when a seek of the group goes on (consumer_seek.h); 0: none does */
};
enum { CONSUMER_GROUP_ROW_HEAD_BYTES_MAX = 1 + 8 + 8 + 1 + 8 + 8 + 4 + 2 + 10 };
void consumer_group_row_encode(const struct consumer_group_row *r, struct writer *w);
enum status consumer_group_row_decode(struct slice row, struct consumer_group_row *out) MUST_USE; /* group_id and seeking_us stay 0 */

/* How far a snapshot has come: every order of slots below `slot`, and of this one up to `after`. slot SLOT_COUNT: it is over. */
struct consumer_scan {
    uint16_t slot;
    int64_t after;
};
static inline bool consumer_scan_over(const struct consumer_scan *s) { return s->slot >= SLOT_COUNT; }
static inline bool consumer_scan_told(const struct consumer_scan *s, uint16_t slot, int64_t order_id) { return slot < s->slot || (slot == s->slot && order_id <= s->after); }
/* The last order id of the slot that it has passed; 0: none. */
static inline int64_t consumer_scan_through(const struct consumer_scan *s, uint16_t slot) { return slot < s->slot ? INT64_MAX : slot == s->slot ? s->after : 0; }

struct consumer_progress {
    uint64_t epoch, settled_place, settled_us; /* every event of entries before the place, and every one committed before the time, is settled */
    bool scanning;                             /* the epoch begins with a snapshot: */
    struct consumer_scan scan;
    uint64_t told;                             /* orders that it has passed */
};
enum { CONSUMER_PROGRESS_BYTES_MAX = 1 + 8 + 8 + 8 + 2 + 8 + 8 };
void consumer_progress_encode(const struct consumer_progress *p, struct writer *w);
enum status consumer_progress_decode(struct slice row, struct consumer_progress *out) MUST_USE;

struct consumer_unsettled {
    int64_t seq;
    uint32_t attempts;
};
/* An order of the snapshot that was told and is not settled. */
struct consumer_told {
    int64_t order_id, version, seq; /* seq: of its event, that of the commit which made the version, or event_number */
    uint32_t attempts;
};
struct consumer_position {
    uint64_t epoch;
    int64_t through;
    uint64_t letters; /* rows 'Q' of the slot */
    unsigned count;
    const struct consumer_unsettled *listed; /* [count], seq ascending, all at or below `through` */
    /* Of a snapshot. Who tells what is left says up to which order he knows that; stored, 0 where none is listed. */
    int64_t told_through;
    unsigned told_count;
    const struct consumer_told *told;        /* [told_count], order_id ascending, all at or below told_through */
};
size_t consumer_position_bytes_max(const struct consumer_position *p);
void consumer_position_encode(const struct consumer_position *p, struct writer *w);
enum status consumer_position_decode(struct slice row, struct arena *arena, struct consumer_position *out) MUST_USE; /* MEMORY_LIMIT */
/* Of a seq, or of an order without one (event_number): that it is not told, or not any more. */
bool consumer_position_settled(const struct consumer_position *p, int64_t seq);
/* Both of the same epoch; letters are those of a. Of events; not of told orders. MEMORY_LIMIT. */
enum status consumer_position_join(const struct consumer_position *a, const struct consumer_position *b, struct arena *arena, struct consumer_position *out) MUST_USE;

/* As p, and `seq` settled. LIMIT_EXCEEDED: more events than CONSUMER_LISTED_MAX would be listed; MEMORY_LIMIT. */
enum status consumer_position_settle(const struct consumer_position *p, int64_t seq, struct arena *arena, struct consumer_position *out) MUST_USE;

/* Told orders of `known`, of which `told` says what is left, up to its told_through; above fresh_after, what `told` has is new, and what is known is of no account. Into out->told*.
 * LIMIT_EXCEEDED, MEMORY_LIMIT. */
enum status consumer_told_join(const struct consumer_position *known, const struct consumer_position *told, int64_t fresh_after, struct arena *arena, struct consumer_position *out) MUST_USE;
/* NULL: no order is told by this event, or it is settled. */
const struct consumer_told *consumer_told_find(const struct consumer_position *p, int64_t seq);
/* As p, without this one. MEMORY_LIMIT. */
enum status consumer_told_settle(const struct consumer_position *p, const struct consumer_told *t, struct arena *arena, struct consumer_position *out) MUST_USE;

/* Stored: never renumber. */
enum consumer_letter_state {
    LETTER_DEAD = 1,     /* exhausted */
    LETTER_WAITING = 2,  /* behind a parked key: goes out as soon as the key has no DEAD one that parks */
    LETTER_REDRIVEN = 3, /* to be given out again */
};
struct consumer_letter {
    enum consumer_letter_state state;
    uint32_t attempts;
    uint64_t time_us;   /* log time of its death */
    uint64_t key;       /* hash of the ordering key */
    bool parks;         /* DEAD: its key waits */
    uint32_t base, brief; /* bytes of the event in front of `after`, and what of that a SUMMARY shows (event.h) */
    struct slice error, event; /* event: 0x0a length ChangeEvent, FULL, no delivery_attempt */
};
size_t consumer_letter_bytes_max(const struct consumer_letter *l);
void consumer_letter_encode(const struct consumer_letter *l, struct writer *w);
enum status consumer_letter_decode(struct slice row, struct consumer_letter *out) MUST_USE;

#endif
