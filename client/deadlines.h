/* Which deadline is next: a binary heap of nodes that live in their owners and know their place, so that any of them can leave. */
#ifndef CLIENT_DEADLINES_H
#define CLIENT_DEADLINES_H

#include "proto/base/base.h"

struct deadline {
    uint64_t at_ns;
    /* private */
    size_t place; /* from 1; 0: not in the heap, so a zeroed node is valid */
};
struct deadlines {
    /* private */
    struct deadline **heap;
    size_t count, cap;
};

bool deadlines_add(struct deadlines *d, struct deadline *n) MUST_USE; /* false: no memory. at_ns stays as it is while n is in */
void deadlines_remove(struct deadlines *d, struct deadline *n);       /* fine for one that is not in */
static inline struct deadline *deadlines_first(const struct deadlines *d) { return d->count ? d->heap[0] : NULL; }
void deadlines_fini(struct deadlines *d); /* all have left */

#endif
