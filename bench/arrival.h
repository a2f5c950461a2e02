/* From an event's commit to its arrival: its commit_time against the wall clock of the same machine. */
#ifndef BENCH_ARRIVAL_H
#define BENCH_ARRIVAL_H

#include <stdio.h>
#include <time.h>

#include "bench/histogram.h"
#include "proto/pbwire.h"

enum { FIELD_COMMIT_TIME = 11 };

static inline uint64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static inline uint64_t timestamp_us(struct slice message) {
    struct reader r = reader_of(message);
    uint64_t us = 0;
    for (struct pb_field f; pb_next(&r, &f);) us += f.number == 1 ? f.value * 1000000 : f.value / 1000;
    return us;
}

static inline void arrival_note(struct histogram *h, struct slice event, uint64_t now_us) {
    struct reader r = reader_of(event);
    for (struct pb_field f; pb_next_of(&r, pb_number_bit(FIELD_COMMIT_TIME), &f);) {
        if (f.number != FIELD_COMMIT_TIME) continue;
        uint64_t at_us = timestamp_us(f.bytes);
        histogram_add(h, now_us > at_us ? (now_us - at_us) * NS_PER_US : 0);
        return;
    }
}

static inline void arrival_print(const struct histogram *h) {
    if (h->count) printf(" p50_ms=%.2f p99_ms=%.2f p999_ms=%.2f", histogram_ms(h, 0.5), histogram_ms(h, 0.99), histogram_ms(h, 0.999));
}

#endif
