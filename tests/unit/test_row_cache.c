/* Rows in memory of a fixed size: against an array that remembers the newest value of every key; a cache may forget, and never lies. */
#include "engine/row_cache.h"
#include "proto/base/mem.h"
#include "tests/lib/test.h"

enum { KEYS = 400, VALUE_MAX = 900 };

static struct slice key_of(uint32_t i, uint8_t out[20]) {
    memset(out, 'k', 20);
    put_be32(out + i % 5, i);
    return slice_of(out, 9 + i % 11);
}
static struct slice value_of(uint32_t key, uint32_t version, size_t len, uint8_t out[VALUE_MAX]) {
    memset(out, (int)(key + version), VALUE_MAX);
    put_be32(out, key), put_be32(out + 4, version);
    return slice_of(out, len);
}

struct model {
    struct row_cache *cache;
    struct test_random random;
    uint32_t version[KEYS]; /* 0: forgotten */
    size_t len[KEYS];
    uint8_t key[20], value[VALUE_MAX];
};

static void model_put(struct model *m, uint32_t i, size_t len_max) {
    m->version[i]++;
    m->len[i] = 8 + test_random_below(&m->random, len_max - 8);
    row_cache_put(m->cache, key_of(i, m->key), value_of(i, m->version[i], m->len[i], m->value));
}
/* Is it there? Then it is the newest. */
static bool model_find(struct model *m, uint32_t i) {
    struct slice found;
    if (!row_cache_find(m->cache, key_of(i, m->key), &found)) return false;
    assert_int_not_equal(m->version[i], 0);
    assert_true(slice_equal(found, value_of(i, m->version[i], m->len[i], m->value)));
    return true;
}
static struct model *model_new(uint64_t bytes, uint64_t seed) {
    struct model *m = mem_new(struct model);
    m->cache = row_cache_new(bytes, 240);
    assert_non_null(m->cache);
    m->random.state = seed;
    return m;
}
static void model_free(struct model *m) {
    row_cache_verify(m->cache);
    row_cache_free(m->cache);
    mem_free(m);
}

static void test_newest_or_nothing(void **state) {
    static const uint64_t sizes[] = {4 << 10, 5000, 16 << 10, 64 << 10, 2 << 20, 6 << 20};
    for (unsigned s = 0; s < ARRAY_LEN(sizes); s++) {
        struct model *m = model_new(sizes[s], s + 1);
        uint64_t hits = 0;
        for (unsigned step = 0; step < 20000; step++) {
            uint32_t i = (uint32_t)test_random_below(&m->random, test_random_below(&m->random, KEYS) + 1);
            uint64_t dice = test_random_below(&m->random, 10);
            if (dice < 4) model_put(m, i, test_random_below(&m->random, 20) ? 120 : VALUE_MAX);
            else if (dice < 5) m->version[i] = 0, row_cache_forget(m->cache, key_of(i, m->key));
            else hits += model_find(m, i);
            if (step % 1000 == 0) row_cache_verify(m->cache);
            if (!m->version[i]) assert_false(model_find(m, i));
        }
        struct row_cache_stats stats = row_cache_get_stats(m->cache);
        assert_int_equal(stats.hits, hits);
        assert_true(stats.hits > 500 && stats.misses > 100);
        assert_true(stats.bytes <= sizes[s]);
        assert_int_equal(stats.evictions > 0, sizes[s] <= 64 << 10);
        model_free(m);
    }
}

static void test_what_is_found_stays(void **state) {
    struct model *m = model_new(16 << 10, 7);
    for (uint32_t i = 0; i < 10; i++) model_put(m, i, 60);
    for (unsigned round = 0; round < 30; round++) { /* ten rows that are read again and again, among many that are not */
        for (uint32_t i = 0; i < 10; i++) assert_true(model_find(m, i));
        for (uint32_t i = 10; i < 40; i++) model_put(m, 10 + (uint32_t)test_random_below(&m->random, KEYS - 10), 100);
    }
    model_free(m);
}

static void test_rows_that_are_never_found_leave_in_order(void **state) {
    struct model *m = model_new(4 << 10, 9);
    for (uint32_t i = 0; i < KEYS; i++) model_put(m, i, 60);
    assert_false(model_find(m, 0));
    bool there = false;
    for (uint32_t i = 0; i < KEYS; i++) {
        bool found = model_find(m, i);
        assert_true(found || !there); /* no hole behind the first that is there */
        there |= found;
    }
    assert_true(there);
    model_free(m);
}

static void test_too_large_a_row_is_not_kept_nor_the_one_before(void **state) {
    struct model *m = model_new(4 << 10, 11);
    struct slice found;
    row_cache_put(m->cache, key_of(1, m->key), value_of(1, 1, 100, m->value));
    assert_true(row_cache_find(m->cache, key_of(1, m->key), &found));
    row_cache_put(m->cache, key_of(1, m->key), value_of(1, 2, VALUE_MAX, m->value));
    assert_false(row_cache_find(m->cache, key_of(1, m->key), &found));
    row_cache_put(m->cache, key_of(1, m->key), (struct slice){0});
    assert_true(row_cache_find(m->cache, key_of(1, m->key), &found));
    assert_int_equal(found.len, 0);
    model_free(m);
}

static void test_many_short_rows_do_not_fill_the_table(void **state) {
    struct row_cache *c = row_cache_new(64 << 10, 240);
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t key[4];
        struct slice found;
        put_be32(key, i);
        row_cache_put(c, slice_of(key, 4), (struct slice){0});
        assert_true(row_cache_find(c, slice_of(key, 4), &found));
    }
    row_cache_verify(c);
    assert_true(row_cache_get_stats(c).rows < 64 * 1024 / 128);
    row_cache_free(c);
    c = row_cache_new(64 << 10, 16); /* a table for short ones */
    for (uint32_t i = 0; i < 20000; i++) {
        uint8_t key[16] = {0};
        put_be32(key, i);
        row_cache_put(c, slice_of(key, 16), (struct slice){0});
    }
    row_cache_verify(c);
    assert_true(row_cache_get_stats(c).rows > 64 * 1024 / 96);
    row_cache_free(c);
}

/* What a cache has asked for: whole pages, one behind the other. */
struct asked {
    uint8_t *first;
    size_t bytes;
    unsigned calls;
};
static void on_warm(void *ctx, void *memory, size_t bytes) {
    struct asked *a = ctx;
    if (!a->calls++) a->first = memory;
    assert_ptr_equal(memory, a->first + a->bytes);
    a->bytes += bytes;
}

/* Of a fresh ring each page but the first is asked for before a row comes to it, and in good time; in later rounds none. */
static void test_pages_are_asked_for_before_rows_come_to_them(void **state) {
    struct asked asked = {0};
    struct row_cache *c = row_cache_new(10 * MEM_HUGE_BYTES, 1000);
    row_cache_warm(c, on_warm, &asked);
    uint8_t value[1000] = {0};
    uint8_t *lowest = NULL, *highest = NULL;
    for (uint32_t i = 0; i < 40000; i++) { /* twice as much as there is room for */
        uint8_t key[4];
        struct slice found;
        put_be32(key, i);
        row_cache_put(c, slice_of(key, 4), slice_of(value, sizeof value));
        assert_true(row_cache_find(c, slice_of(key, 4), &found));
        uint8_t *at = (uint8_t *)(uintptr_t)found.data;
        if (!lowest) lowest = at;
        if (at <= highest) continue; /* around */
        highest = at;
        size_t from_start = (size_t)(at - lowest);
        if (from_start > MEM_HUGE_BYTES / 2) assert_true(at + MEM_HUGE_BYTES / 2 - 2000 <= asked.first + asked.bytes || asked.calls == 8);
        if (from_start < MEM_HUGE_BYTES / 2 - 2000) assert_int_equal(asked.calls, 0); /* not much too early */
    }
    assert_int_equal(asked.calls, 8); /* nine pages of rows, the tenth is the table */
    assert_int_equal(asked.bytes, 8 * MEM_HUGE_BYTES);
    assert_true(asked.first + asked.bytes > highest);
    row_cache_free(c);
}

static void test_no_memory(void **state) {
    for (unsigned n = 1; n <= 3; n++) {
        mem_fail_nth(n);
        assert_null(row_cache_new(8 << 10, 240));
    }
    mem_fail_nth(0);
    row_cache_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_or_nothing),
        cmocka_unit_test(test_what_is_found_stays),
        cmocka_unit_test(test_rows_that_are_never_found_leave_in_order),
        cmocka_unit_test(test_too_large_a_row_is_not_kept_nor_the_one_before),
        cmocka_unit_test(test_many_short_rows_do_not_fill_the_table),
        cmocka_unit_test(test_pages_are_asked_for_before_rows_come_to_them),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
