/* The counted heap: every allocation of ours and of the libraries that take an allocator. Tests can make the n-th one fail. */
#ifndef PROTO_BASE_MEM_H
#define PROTO_BASE_MEM_H

#include "proto/base/base.h"

/* NULL when the system has none left (or a test said so); the caller answers STATUS_MEMORY_LIMIT or refuses to start. */
void *mem_alloc(size_t bytes) MUST_USE;
void *mem_zalloc(size_t bytes) MUST_USE;
void *mem_realloc(void *p, size_t bytes) MUST_USE;
void *mem_alloc_aligned(size_t alignment, size_t bytes) MUST_USE;
char *mem_strdup(const char *s) MUST_USE;
void mem_free(void *p); /* of all of the above; NULL is fine */
size_t mem_usable_bytes(void *p); /* what the block really takes: its size class */
/* A block of mem_alloc_aligned(MEM_PAGE_BYTES, ...): its whole pages go back to the system until they are written again; what they held is lost. */
enum { MEM_PAGE_BYTES = 4096 };
void mem_discard(void *p);
/* For large tables that are walked at random: the system may back them by pages of 2 MiB. bytes: a multiple. */
enum { MEM_HUGE_BYTES = 2 << 20 };
void *mem_alloc_huge(size_t bytes) MUST_USE;
/* Pages of a block that is to be written soon are made now, by whoever calls; what is in it stays. The first touch of a fresh huge page takes milliseconds. Any thread; also when the block is gone: it asks the kernel by
 * address and writes nothing. Without effect before Linux 5.14. */
void mem_populate(void *p, size_t bytes);
#define mem_new(type) ((type *)mem_zalloc(sizeof(type)))

/* For tests, per thread: the n-th allocation from now fails (1 = the next), once; 0 = never. */
void mem_fail_nth(uint64_t n);
/* Allocations of this thread so far. */
uint64_t mem_count(void);

#endif
