#include "server/heap.h"

#include <string.h>

#include "proto/base/mem.h"

void *heap_realloc_cb(void *old, size_t bytes, void *user) {
    struct heap *h = user;
    size_t old_bytes = old ? mem_usable_bytes(old) : 0;
    check(old_bytes <= h->bytes);
    if (bytes > h->bytes_max || h->bytes - old_bytes + bytes > h->bytes_max) return NULL;
    bool is_frames = !old && bytes >= h->frames_min && !h->frames;
    void *block = is_frames ? mem_alloc_aligned(MEM_PAGE_BYTES, bytes) : mem_realloc(old, bytes);
    if (block && is_frames) h->frames = block;
    if (block) h->bytes += mem_usable_bytes(block) - old_bytes;
    return block;
}

void *heap_malloc_cb(size_t bytes, void *heap) { return heap_realloc_cb(NULL, bytes, heap); }

void *heap_calloc_cb(size_t n, size_t bytes, void *heap) {
    if (bytes && n > SIZE_MAX / 2 / bytes) return NULL;
    void *p = heap_realloc_cb(NULL, n * bytes, heap);
    return p ? memset(p, 0, n * bytes) : NULL;
}

void heap_free_cb(void *p, void *user) {
    struct heap *h = user;
    if (!p) return;
    size_t bytes = mem_usable_bytes(p);
    check(bytes <= h->bytes);
    h->bytes -= bytes;
    if (p == h->frames) h->frames = NULL;
    mem_free(p);
}
