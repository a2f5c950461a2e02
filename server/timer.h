/* Deadlines of one core: a heap of embedded timers. All calls on its thread. */
#ifndef SERVER_TIMER_H
#define SERVER_TIMER_H

#include "proto/base/base.h"

struct timer {
    void (*fire)(struct timer *t); /* runs from the loop; may set the timer again */
    uint64_t deadline_ns;          /* monotonic */
    uint32_t place;                /* private; 0: not set */
};
struct timers {
    struct timer **heap;
    uint32_t count, cap;
};

void timers_fini(struct timers *ts);
bool timer_set(struct timers *ts, struct timer *t, uint64_t deadline_ns) MUST_USE; /* again: moves it. false: no memory */
void timer_clear(struct timers *ts, struct timer *t);                               /* not set: fine */
uint64_t timers_next_ns(const struct timers *ts);                                    /* UINT64_MAX: none */
void timers_run(struct timers *ts, uint64_t now_ns);

#endif
