#include "server/timer.h"

#include "proto/base/mem.h"

/* A binary heap of pointers; place is the index plus one, so that a zeroed timer is "not set". */

void timers_fini(struct timers *ts) {
    mem_free(ts->heap);
    *ts = (struct timers){0};
}

static void put(struct timers *ts, uint32_t i, struct timer *t) {
    ts->heap[i] = t;
    t->place = i + 1;
}

static void sift_up(struct timers *ts, uint32_t i, struct timer *t) {
    while (i > 0) {
        uint32_t parent = (i - 1) / 2;
        if (ts->heap[parent]->deadline_ns <= t->deadline_ns) break;
        put(ts, i, ts->heap[parent]);
        i = parent;
    }
    put(ts, i, t);
}

static void sift_down(struct timers *ts, uint32_t i, struct timer *t) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= ts->count) break;
        if (child + 1 < ts->count && ts->heap[child + 1]->deadline_ns < ts->heap[child]->deadline_ns) child++;
        if (t->deadline_ns <= ts->heap[child]->deadline_ns) break;
        put(ts, i, ts->heap[child]);
        i = child;
    }
    put(ts, i, t);
}

/* The hole at i is filled by t, which may belong above or below. */
static void settle(struct timers *ts, uint32_t i, struct timer *t) {
    if (i > 0 && ts->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) sift_up(ts, i, t);
    else sift_down(ts, i, t);
}

static bool grow(struct timers *ts) {
    uint32_t cap = ts->cap ? ts->cap * 2 : 64;
    struct timer **heap = mem_realloc(ts->heap, cap * sizeof *heap);
    if (!heap) return false;
    ts->heap = heap;
    ts->cap = cap;
    return true;
}

bool timer_set(struct timers *ts, struct timer *t, uint64_t deadline_ns) {
    check(t->fire);
    if (t->place) {
        check(t->place <= ts->count);
        check(ts->heap[t->place - 1] == t);
        t->deadline_ns = deadline_ns;
        settle(ts, t->place - 1, t);
        return true;
    }
    if (ts->count == ts->cap && !grow(ts)) return false;
    t->deadline_ns = deadline_ns;
    sift_up(ts, ts->count++, t);
    return true;
}

void timer_clear(struct timers *ts, struct timer *t) {
    if (!t->place) return;
    check(t->place <= ts->count);
    check(ts->heap[t->place - 1] == t);
    uint32_t hole = t->place - 1;
    struct timer *last = ts->heap[--ts->count];
    t->place = 0;
    if (last != t) settle(ts, hole, last);
}

uint64_t timers_next_ns(const struct timers *ts) { return ts->count ? ts->heap[0]->deadline_ns : UINT64_MAX; }

void timers_run(struct timers *ts, uint64_t now_ns) {
    /* No more than were set on entry: a timer that sets itself again in the past must not hold the loop. */
    for (uint32_t left = ts->count; left > 0 && ts->count > 0 && ts->heap[0]->deadline_ns <= now_ns; left--) {
        struct timer *t = ts->heap[0];
        timer_clear(ts, t);
        t->fire(t);
    }
}
