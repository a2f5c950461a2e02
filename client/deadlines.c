#include "client/deadlines.h"

#include "proto/base/mem.h"

static void heap_put(struct deadlines *d, size_t i, struct deadline *n) { d->heap[i] = n, n->place = i + 1; }

static void heap_up(struct deadlines *d, size_t i) {
    struct deadline *n = d->heap[i];
    for (; i > 0 && d->heap[(i - 1) / 2]->at_ns > n->at_ns; i = (i - 1) / 2) heap_put(d, i, d->heap[(i - 1) / 2]);
    heap_put(d, i, n);
}

static void heap_down(struct deadlines *d, size_t i) {
    struct deadline *n = d->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= d->count) break;
        if (child + 1 < d->count && d->heap[child + 1]->at_ns < d->heap[child]->at_ns) child++;
        if (d->heap[child]->at_ns >= n->at_ns) break;
        heap_put(d, i, d->heap[child]);
        i = child;
    }
    heap_put(d, i, n);
}

bool deadlines_add(struct deadlines *d, struct deadline *n) {
    check(n->place == 0);
    if (d->count == d->cap) {
        size_t cap = MAX_OF(d->cap * 2, (size_t)64);
        struct deadline **grown = mem_realloc(d->heap, cap * sizeof(*grown));
        if (!grown) return false;
        d->heap = grown, d->cap = cap;
    }
    heap_put(d, d->count++, n);
    heap_up(d, n->place - 1);
    return true;
}

void deadlines_remove(struct deadlines *d, struct deadline *n) {
    if (n->place == 0) return;
    size_t i = n->place - 1;
    check(i < d->count);
    check(d->heap[i] == n);
    n->place = 0;
    struct deadline *last = d->heap[--d->count];
    if (last == n) return;
    heap_put(d, i, last);
    heap_up(d, i);
    heap_down(d, last->place - 1);
}

void deadlines_fini(struct deadlines *d) {
    check(d->count == 0);
    mem_free(d->heap);
    *d = (struct deadlines){0};
}
