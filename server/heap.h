/* The memory of a library that takes an allocator, for one owner: counted as the allocator sees it, and bounded. Beyond the bound an allocation fails, as it does when there is no memory. A head of our own
 * before each block would tell its size as well, but push tables of 1 and 4 KiB into the next size class. */
#ifndef SERVER_HEAP_H
#define SERVER_HEAP_H

#include "proto/base/base.h"

struct heap {
    size_t bytes, bytes_max;
    size_t frames_min; /* the first block of so many bytes is `frames`; on pages of its own, so that they can be given back */
    void *frames;      /* NULL: there is none now */
};

/* Handed to the library, with the heap as its user data. */
void *heap_malloc_cb(size_t bytes, void *heap);
void heap_free_cb(void *p, void *heap);
void *heap_calloc_cb(size_t n, size_t bytes, void *heap);
void *heap_realloc_cb(void *old, size_t bytes, void *heap);

#endif
