#include "proto/base/arena.h"

#include <stdio.h>

#include "proto/base/mem.h"

enum { CHUNK_BYTES = 8192, ALIGN = 16 };

struct arena_chunk {
    struct arena_chunk *next;
    size_t bytes; /* payload */
    _Alignas(ALIGN) uint8_t data[];
};

void arena_init(struct arena *a, size_t bytes_max) { *a = (struct arena){.bytes_max = bytes_max}; }
void arena_init_charged(struct arena *a, size_t bytes_max, struct arena_budget *budget) { *a = (struct arena){.bytes_max = bytes_max, .budget = budget}; }

size_t arena_budget_used(const struct arena_budget *b) { return __atomic_load_n(&b->bytes_used, __ATOMIC_RELAXED); }

void arena_budget_give(struct arena_budget *b, size_t bytes) {
    if (b) check(__atomic_fetch_sub(&b->bytes_used, bytes, __ATOMIC_RELAXED) >= bytes);
}

/* Charged first, taken back when it is too much: two threads at the limit may both be refused, never both let in. */
bool arena_budget_take(struct arena_budget *b, size_t bytes) {
    if (!b || __atomic_add_fetch(&b->bytes_used, bytes, __ATOMIC_RELAXED) <= b->bytes_max) return true;
    arena_budget_give(b, bytes);
    return false;
}

static void chunk_free(struct arena *a, struct arena_chunk *c) {
    arena_budget_give(a->budget, c->bytes);
    mem_free(c);
}

static void arena_use(struct arena *a, struct arena_chunk *c) {
    a->at = c->data;
    a->end = c->data + c->bytes;
}

void arena_reset(struct arena *a) {
    struct arena_chunk *keep = NULL;
    for (struct arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        if (!keep && c->bytes == CHUNK_BYTES) keep = c; else chunk_free(a, c);
    }
    a->chunks = keep;
    a->at = a->end = NULL;
    a->bytes_used = keep ? keep->bytes : 0;
    if (keep) keep->next = NULL, arena_use(a, keep);
}

void arena_fini(struct arena *a) {
    for (struct arena_chunk *c = a->chunks, *next; c; c = next) next = c->next, chunk_free(a, c);
    arena_init_charged(a, a->bytes_max, a->budget);
}

static void *arena_grow(struct arena *a, size_t bytes) {
    size_t want = MAX_OF(bytes, (size_t)CHUNK_BYTES);
    if (want > a->bytes_max - MIN_OF(a->bytes_used, a->bytes_max)) return NULL;
    if (!arena_budget_take(a->budget, want)) return NULL;
    struct arena_chunk *c = mem_alloc(sizeof *c + want);
    if (!c) return arena_budget_give(a->budget, want), NULL;
    *c = (struct arena_chunk){.next = a->chunks, .bytes = want};
    a->bytes_used += want;
    if (a->chunks && bytes > CHUNK_BYTES / 4) { /* a big one gets a chunk of its own; go on filling the current */
        c->next = a->chunks->next;
        a->chunks->next = c;
        return c->data;
    }
    a->chunks = c;
    arena_use(a, c);
    a->at += bytes;
    return c->data;
}

void *arena_alloc(struct arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    /* At least one unit: an empty array is not a full arena. */
    bytes = (MAX_OF(bytes, (size_t)1) + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes > (size_t)(a->end - a->at)) return arena_grow(a, bytes);
    a->at += bytes;
    return a->at - bytes;
}

void *arena_zalloc(struct arena *a, size_t bytes) {
    void *p = arena_alloc(a, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

struct slice arena_copy(struct arena *a, struct slice s) {
    uint8_t *p = arena_alloc(a, s.len + 1);
    if (!p) return (struct slice){0};
    if (s.len) memcpy(p, s.data, s.len);
    p[s.len] = 0;
    return slice_of(p, s.len);
}

char *arena_vprintf(struct arena *a, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (p) vsnprintf(p, (size_t)n + 1, format, again);
    va_end(again);
    return p;
}

char *arena_printf(struct arena *a, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *p = arena_vprintf(a, format, args);
    va_end(args);
    return p;
}
