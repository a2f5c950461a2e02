/* How much work may stand in one queue: a limit that follows from how long work waits in it. Pure arithmetic on times that it is given; engine.c has
 * one for writes and one for reads from disk.
 *
 * The rule. Overloaded is who lets work wait: as in DAGOR (Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018, section 4.1) the mean of the
 * queueing times within an interval is held against a target, 20 ms as there; not how busy the CPU is, not how long an answer takes. Above the target for two intervals the limit
 * becomes what can be served within the target, by Little's law: served per second x target. Below it the limit grows again, fast while work waits less than half
 * of the target. So what is admitted waits for about the target, whatever is offered; the queue is never empty while there is work; and when the load is gone
 * nothing is refused, without any time to recover. (DAGOR sheds a share, moved by 5 % down and 1 % up: a share has to be found anew for each load, a length has not. The
 * smallest delay, CoDel's measure, says too little here: a queue feeds several partitions, and one of them always has little to do.) */
#ifndef ENGINE_BACKLOG_H
#define ENGINE_BACKLOG_H

#include "proto/base/bytes.h"

#define BACKLOG_INTERVAL_NS (100 * NS_PER_MS)
enum { BACKLOG_LIMIT_MIN = 64 }; /* what one batch of the log gathers anyway */

struct backlog {
    uint64_t target_ns;            /* 0: the limit stays limit_max */
    uint64_t limit, limit_max;     /* things in the queue */
    uint64_t delay_ns;             /* smoothed: for figures, and for who asks whether a deadline can be met */
    uint64_t refused, late;        /* counted by the owner: beyond the limit; deadlines that passed or would pass while waiting */
    /* private */
    uint64_t until_ns, begun_ns, served, delay_sum_ns;
    double served_per_s; /* the most of the last seconds */
    bool late_before;    /* the interval before was above the target */
};

void backlog_init(struct backlog *b, uint64_t target_ns, uint64_t limit_max, uint64_t now_ns);
/* One is through that waited so long. */
void backlog_served(struct backlog *b, uint64_t delay_ns);
/* Ends the interval when its time has come; queued: how many wait now. Any number of times. */
void backlog_tick(struct backlog *b, uint64_t now_ns, uint64_t queued);

#endif
