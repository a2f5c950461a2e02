/* The timers of one order, and the rows by which those that are due are found (docs/TIMERS.md). Codecs and the rules of setting and leaving; pure.
 *
 * An order's timers stand in its head (order.h), and in the history entry of every commit that leaves it with some, so that an order without timers costs
 * nothing and an older version shows the timers that it had:
 *
 *   timers = count(1) { flags(1) no(1) fire_us(8 be) timer_id(counted) [event(counted)] [statuses(varint) { status id(2 be) }*] }*
 *   flags    1 TIMER_OF_STATE   2 TIMER_SAME_EVENT: the event is named as the timer   4 TIMER_HAS_EVENT   8 TIMER_HAS_STATUSES
 *
 * Each of them has a row 0xffff 'T' (fire_us, order_id, no) (keys.h): `no` tells apart those of an order. These rows follow from the heads, and nobody decides
 * by them: a timer fires if the head says so. Row 0xffff 'T' is the timers record. Golden bytes: tests/golden/timers.hex, timers_record.hex; fuzzed. */
#ifndef ENGINE_TIMERS_H
#define ENGINE_TIMERS_H

#include "engine/machine.h"
#include "proto/base/bytes.h"

enum {
    TIMERS_SET_MAX = 16,                              /* with which SetOrderTimer leaves an order */
    TIMERS_MAX = TIMERS_SET_MAX + MACHINE_TIMERS_MAX, /* a state may be entered with all of those, and brings its own */
    TIMER_ID_BYTES_MAX = 64,
    TIMER_EVENT_BYTES_MAX = 64,
    TIMER_STATUSES_MAX = 16,
};
#define TIMER_AHEAD_US_MAX (3653ll * 86400 * US_PER_S) /* ten years */

struct order_timer {
    struct slice timer_id, event; /* event empty: it is only told of */
    int64_t fire_us;              /* log time, above 0 */
    bool of_state;                /* the status has it, or SetOrderTimer under the name of one that the status has: it goes when the status is left */
    uint8_t no;                   /* none of the others has it */
    unsigned status_count;        /* expected_statuses; 0: any */
    uint16_t statuses[TIMER_STATUSES_MAX];
};
struct order_timers {
    unsigned count;
    struct order_timer at[TIMERS_MAX]; /* in the order in which they were set */
};

/* "": none. Texts are borrowed. CHECKSUM_MISMATCH. */
enum status timers_decode(struct slice encoded, struct order_timers *out) MUST_USE;
size_t timers_bytes_max(const struct order_timers *ts);
void timers_encode(const struct order_timers *ts, struct writer *w); /* none: nothing is written */

/* NULL: there is none. */
struct order_timer *timers_find(struct order_timers *ts, struct slice timer_id);
struct order_timer *timers_find_due(struct order_timers *ts, int64_t fire_us, uint8_t no);
void timers_remove(struct order_timers *ts, struct order_timer *t);
/* In the place of the one of that name, or behind the last; t->no is given here. There is room. */
void timers_set(struct order_timers *ts, const struct order_timer *t);
/* The order goes from one status to another, or into the same one again: what was `from`'s goes, and what expected a status that is left; a terminal status
 * leaves none; what is `to`'s begins now. from = 0: a new order. */
void timers_move(struct order_timers *ts, const struct machine *m, uint16_t from, uint16_t to, uint64_t now_us);

/* The field `timers` of Order, from encoded ones that decode. */
size_t timers_wire_bytes_max(struct slice encoded);
void timers_write(struct writer *w, struct slice encoded, const struct machines *ms);
/* orderdb.v1.Timer, of one. */
size_t timer_wire_bytes_max(const struct order_timer *t);
void timer_write(struct writer *w, const struct order_timer *t, const struct machines *ms);

/* Row 0xffff 'T' = format(1) floor_us(8 be) pending(8 be), written with every entry that changes it. */
struct timers_record {
    uint64_t floor_us; /* no timer is due before it, and none will be: whoever looks for the first one begins here */
    int64_t pending;   /* timers of all orders of the partition */
};
enum { TIMERS_RECORD_BYTES = 1 + 8 + 8 };
void timers_record_encode(const struct timers_record *r, struct writer *w);
enum status timers_record_decode(struct slice row, struct timers_record *out) MUST_USE;

#endif
