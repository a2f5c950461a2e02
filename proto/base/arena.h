/* The memory of one request. Everything of it is taken here, nothing is freed inside, the end resets all at once.
 * Owned by one thread at a time: whoever holds the request. Bounded: beyond bytes_max it yields NULL, and the request
 * is refused with STATUS_MEMORY_LIMIT. */
#ifndef PROTO_BASE_ARENA_H
#define PROTO_BASE_ARENA_H

#include <stdarg.h>

#include "proto/base/bytes.h"

/* A sum that several arenas share (the request memory of a core): what a chunk takes is charged here, whatever thread takes it. */
struct arena_budget {
    size_t bytes_used; /* atomic */
    size_t bytes_max;
};

struct arena_chunk;
struct arena {
    /* private */
    struct arena_chunk *chunks;
    uint8_t *at, *end;
    size_t bytes_used, bytes_max;
    struct arena_budget *budget;
};

void arena_init(struct arena *a, size_t bytes_max); /* takes nothing from the heap yet */
void arena_init_charged(struct arena *a, size_t bytes_max, struct arena_budget *budget); /* the budget outlives the arena */
void arena_reset(struct arena *a);                   /* keeps one chunk for the next request */
void arena_fini(struct arena *a);
void *arena_alloc(struct arena *a, size_t bytes) MUST_USE; /* 16-byte aligned, not cleared */
void *arena_zalloc(struct arena *a, size_t bytes) MUST_USE;
#define arena_new(a, type) ((type *)arena_zalloc((a), sizeof(type)))
#define arena_array(a, type, n) ((n) > SIZE_MAX / sizeof(type) ? NULL : (type *)arena_zalloc((a), (n) * sizeof(type)))
size_t arena_budget_used(const struct arena_budget *b);
bool arena_budget_take(struct arena_budget *b, size_t bytes) MUST_USE; /* for what is charged but not an arena; NULL: always true */
void arena_budget_give(struct arena_budget *b, size_t bytes);
/* A copy with a NUL behind it; data = NULL on a full arena. */
struct slice arena_copy(struct arena *a, struct slice s) MUST_USE;
char *arena_printf(struct arena *a, const char *format, ...) MUST_USE PRINTF_LIKE(2, 3);
char *arena_vprintf(struct arena *a, const char *format, va_list args) MUST_USE PRINTF_LIKE(2, 0);

#endif
