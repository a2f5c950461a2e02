#include "proto/base/mem.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Thread_local uint64_t count, fail_at;

static bool mem_refuse(void) {
    count++;
    return __builtin_expect(fail_at != 0, 0) && count == fail_at;
}

void mem_fail_nth(uint64_t n) { fail_at = n ? count + n : 0; }
uint64_t mem_count(void) { return count; }

void *mem_alloc(size_t bytes) { return mem_refuse() ? NULL : malloc(bytes ? bytes : 1); }
void *mem_zalloc(size_t bytes) { return mem_refuse() ? NULL : calloc(1, bytes ? bytes : 1); }
void *mem_realloc(void *p, size_t bytes) { return mem_refuse() ? NULL : realloc(p, bytes ? bytes : 1); }
void mem_free(void *p) { free(p); }
size_t mem_usable_bytes(void *p) { return malloc_usable_size(p); }

void mem_discard(void *p) {
    size_t whole = mem_usable_bytes(p) / MEM_PAGE_BYTES * MEM_PAGE_BYTES;
    if ((uintptr_t)p % MEM_PAGE_BYTES == 0 && whole) (void)madvise(p, whole, MADV_DONTNEED);
}

void *mem_alloc_aligned(size_t alignment, size_t bytes) {
    void *p = NULL;
    return mem_refuse() || posix_memalign(&p, alignment, bytes) != 0 ? NULL : p;
}

void *mem_alloc_huge(size_t bytes) {
    check(bytes % MEM_HUGE_BYTES == 0);
    void *p = mem_alloc_aligned(MEM_HUGE_BYTES, bytes);
    if (p) (void)madvise(p, bytes, MADV_HUGEPAGE); /* a wish */
    return p;
}

void mem_populate(void *p, size_t bytes) { (void)madvise(p, bytes, MADV_POPULATE_WRITE); }

char *mem_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *p = mem_alloc(n);
    return p ? memcpy(p, s, n) : NULL;
}
