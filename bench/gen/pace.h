/* When calls of an open loop are due: at fixed times from its start, whatever the server does. A call that is sent late is still counted from when it was due, so
 * a server that stalls for a second is seen as slow by every call of that second, and not by one a connection ("coordinated omission"). Times are
 * computed from the count and not added up, so a rate that is no whole number of nanoseconds does not drift. */
#ifndef BENCH_GEN_PACE_H
#define BENCH_GEN_PACE_H

#include "proto/base/base.h"

struct pace {
    uint64_t start_ns, taken;
    double gap_ns; /* 0: closed loop, always due */
};

static inline void pace_init(struct pace *p, double per_second, uint64_t start_ns) {
    *p = (struct pace){.start_ns = start_ns, .gap_ns = per_second > 0 ? 1e9 / per_second : 0};
}
static inline uint64_t pace_due_ns(const struct pace *p) { return p->start_ns + (uint64_t)((double)p->taken * p->gap_ns); }
/* How many are due before this time and were not taken. */
static inline uint64_t pace_behind(const struct pace *p, uint64_t until_ns) {
    if (p->gap_ns <= 0 || until_ns <= pace_due_ns(p)) return 0;
    return (uint64_t)((double)(until_ns - p->start_ns - 1) / p->gap_ns) + 1 - p->taken;
}

#endif
