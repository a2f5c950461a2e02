/* Change events as bytes: one event in the wire form of orderdb.v1.ChangeEvent, and the blocks in which the events of a log entry are stored. Pure.
 *
 * A block holds events in the order of their commits; it is the value of a row 0xffff 'E' (keys.h):
 *
 *   block     = format(1) log_time_us(8 be) count(4 be) payload_bytes(4 be) payload directory
 *   payload   = { 0x0a length ChangeEvent }*          the field `events` (1) of ReadChangesResponse and SubscribeResponse.Batch: a read is a copy
 *   directory = { slot(2 be) seq(8 be) flags(1) total base short [order_id(8 be) version] }*   the last five as varints, order_id and version by reference alone
 *
 *   ChangeEvent = base bytes of fields without `after`, then 0x52 length after
 *   after       = short bytes (what a SUMMARY shows), then the detail (items, address, extension)
 *
 * So FULL is the payload as it stands, and SUMMARY is two new lengths and a shorter copy. Content above EVENT_CONTENT_BYTES_MAX is stored by reference
 * (EVENT_REFERS): `after` is the order's head alone, and whoever reads adds the content of that version, which the store keeps for ever.
 * delivery_attempt (13) is never stored. Golden bytes: tests/golden/event_block.hex; the decoder is fuzzed. */
#ifndef ENGINE_EVENT_H
#define ENGINE_EVENT_H

#include "engine/order.h"
#include "proto/base/buf.h"

enum {
    EVENT_CONTENT_BYTES_MAX = 8 << 10, /* summary and detail of an order within its event; larger ones by reference: an entry of 512 transitions stays below 6 MiB of events */
    EVENT_BLOCK_BYTES_MAX = 64 << 10,  /* a block is closed behind the event that reaches this */
    EVENT_BLOCK_HEAD_BYTES = 1 + 8 + 4 + 4,
    EVENT_BLOCK_FORMAT = 1,
    EVENT_REFERS = 1, /* flags */
};

/* orderdb.v1.ChangeEvent.Type. Stored: never renumber. */
enum event_type { EVENT_CREATED = 1, EVENT_TRANSITIONED = 2, EVENT_UPDATED = 3, EVENT_TIMER_FIRED = 4, EVENT_ARCHIVED = 5, EVENT_SNAPSHOT = 6, EVENT_IMPORTED = 7 };

/* An event is known in its slot, and in its event_id, by a number: its seq. An order whose newest commit took no seq has a number all the same, of its SNAPSHOT event: above every seq there is, and
 * its own. Where events stand in order, by rank, it comes in front of all seqs: they are of changes that follow. */
#define EVENT_NUMBER_UNTOLD (1ll << 62)
static inline bool event_has_seq(int64_t number) { return number < EVENT_NUMBER_UNTOLD; }
static inline int64_t event_number(const struct order_head *h) { return h->seq ? h->seq : EVENT_NUMBER_UNTOLD | (h->order_id & (EVENT_NUMBER_UNTOLD - 1)); }
/* 0, which is no event's number, is in front of all. */
static inline int64_t event_rank(int64_t number) { return !number ? INT64_MIN : event_has_seq(number) ? number : number + INT64_MIN; }

/* Everything is borrowed. */
struct event {
    enum event_type type;
    uint16_t slot;
    int64_t seq, commit_us;            /* seq: or such a number; log time of the commit */
    const struct order_head *head;     /* after it */
    const struct history_entry *entry;
    uint64_t changed;                  /* a bit for each field number of Order that the commit set; 0: none */
    struct slice head_wire;            /* the head's wire bytes (order_head_write), where they have been made already; else empty */
    struct slice summary, detail;      /* the order's content after it (order.h) */
};

/* Events of one entry under way to a block. Owned by apply's caller, reused. */
struct event_block {
    struct buf payload, directory;
    uint32_t count;
};
void event_block_fini(struct event_block *b);
/* false: no memory; the block is as before. */
bool event_block_add(struct event_block *b, const struct event *e, const struct machines *ms) MUST_USE;
size_t event_block_bytes(const struct event_block *b); /* encoded; 0: it is empty */
/* Into w (event_block_bytes), and empties it. */
void event_block_close(struct event_block *b, uint64_t log_time_us, struct writer *w);
void event_block_clear(struct event_block *b);

/* A stored block, walked. Borrows from the row. */
struct event_view {
    uint16_t slot;
    int64_t seq;
    uint8_t flags;
    struct slice framed;        /* 0x0a length ChangeEvent, FULL as stored */
    struct slice base;          /* the fields without `after` */
    struct slice brief, detail; /* `after` in two parts */
    int64_t order_id, version;  /* EVENT_REFERS */
};
struct event_reader {
    uint64_t log_time_us;
    uint32_t left;
    struct reader payload, directory;
};
enum status event_block_open(struct slice row, struct event_reader *out) MUST_USE;
/* false: no more, or (status != OK) damaged. */
bool event_next(struct event_reader *r, struct event_view *out, enum status *status);

/* Bytes of the field `events` for this event with these parts of `after`: base, then after = brief, content. */
size_t event_framed_bytes(struct slice base, struct slice brief, size_t content_bytes);
/* The frame, base, and the head of `after` with brief; the caller writes content_bytes behind it. */
void event_frame(struct writer *w, struct slice base, struct slice brief, size_t content_bytes);

#endif
