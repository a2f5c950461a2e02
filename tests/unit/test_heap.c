/* The promises of server/heap.h. */
#include "tests/lib/test.h"

#include "server/heap.h"

enum { BYTES_MAX = 64 << 10, FRAMES_MIN = 16 << 10 };
static struct heap heap;
static int setup(void **state) { return heap = (struct heap){.bytes_max = BYTES_MAX, .frames_min = FRAMES_MIN}, 0; }

static void test_what_is_taken_is_counted_until_it_is_freed(void **state) {
    void *a = heap_malloc_cb(100, &heap);
    uint8_t *b = heap_calloc_cb(10, 20, &heap);
    assert_true(heap.bytes >= 300);
    for (unsigned i = 0; i < 200; i++) assert_int_equal(b[i], 0);
    a = heap_realloc_cb(a, 1000, &heap);
    assert_true(heap.bytes >= 1200);
    heap_free_cb(a, &heap), heap_free_cb(b, &heap), heap_free_cb(NULL, &heap);
    assert_int_equal(heap.bytes, 0);
}

static void test_beyond_the_bound_there_is_nothing(void **state) {
    void *a = heap_malloc_cb(40 << 10, &heap);
    assert_non_null(a);
    assert_null(heap_malloc_cb(30 << 10, &heap));
    assert_null(heap_realloc_cb(a, BYTES_MAX + 1, &heap));
    assert_null(heap_calloc_cb(SIZE_MAX / 2, 4, &heap));
    heap_free_cb(a, &heap);
    assert_int_equal(heap.bytes, 0);
}

static void test_the_first_large_block_is_known(void **state) {
    void *small = heap_malloc_cb(100, &heap), *frames = heap_malloc_cb(FRAMES_MIN, &heap), *second = heap_malloc_cb(FRAMES_MIN, &heap);
    assert_ptr_equal(heap.frames, frames);
    heap_free_cb(small, &heap), heap_free_cb(second, &heap);
    assert_ptr_equal(heap.frames, frames);
    heap_free_cb(frames, &heap);
    assert_null(heap.frames);
}

int main(void) {
#define T(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {T(test_what_is_taken_is_counted_until_it_is_freed), T(test_beyond_the_bound_there_is_nothing), T(test_the_first_large_block_is_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
