/* The two clocks of the server: monotonic for deadlines, wall for what people and rows read. The engine gets them through env.h alone. */
#ifndef SERVER_CLOCK_H
#define SERVER_CLOCK_H

#include <time.h>

#include "proto/base/base.h"

static inline uint64_t clock_mono_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
static inline int64_t clock_wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * US_PER_S + t.tv_nsec / 1000;
}

#endif
