/* Latencies: 64 linear steps per power of two of nanoseconds, so within 1.6 % of the truth. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include "proto/base/base.h"

enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS, BUCKETS = (64 - STEP_BITS + 1) * STEPS };
struct histogram {
    uint64_t count, max, buckets[BUCKETS];
};

static inline unsigned bucket_of(uint64_t ns) {
    if (ns < STEPS) return (unsigned)ns;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - STEP_BITS;
    return (shift + 1) * STEPS + (unsigned)(ns >> shift) - STEPS;
}
static inline uint64_t bucket_end(unsigned b) {
    if (b < STEPS) return b;
    unsigned shift = b / STEPS - 1;
    return ((uint64_t)(b % STEPS + STEPS + 1) << shift) - 1;
}
static inline void histogram_add(struct histogram *h, uint64_t ns) {
    h->count++;
    h->max = MAX_OF(h->max, ns);
    h->buckets[bucket_of(ns)]++;
}
static inline double histogram_ms(const struct histogram *h, double share) {
    uint64_t want = (uint64_t)((double)h->count * share + 0.5), seen = 0;
    for (unsigned b = 0; b < BUCKETS; b++) {
        seen += h->buckets[b];
        if (seen >= MAX_OF(want, 1ull)) return (double)MIN_OF(bucket_end(b), h->max) / 1e6;
    }
    return (double)h->max / 1e6;
}

#endif
