/* A set that may say yes too often, and never no of what it was told and has not let go. */
#include "engine/key_filter.h"
#include "proto/base/hash.h"
#include "tests/lib/test.h"

static uint64_t hash_of(uint64_t key) {
    uint8_t bytes[8];
    put_be64(bytes, key);
    return hash64(slice_of(bytes, sizeof bytes));
}

static uint64_t known(const struct key_filter *f, uint64_t from, uint64_t to) {
    uint64_t n = 0;
    for (uint64_t k = from; k < to; k++) n += key_filter_may_have(f, hash_of(k));
    return n;
}

/* Full to its number, in four shares: all that were told, and of as many others one in fifty at most (0.8 % a share). */
static void test_all_that_were_told_and_few_others(void **state) {
    static const uint64_t sizes[] = {KEY_FILTER_BYTES_MIN, 5000, 64 << 10, 6 << 20};
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        struct key_filter *f = key_filter_new(sizes[i]);
        assert_non_null(f);
        assert_false(key_filter_may_have(f, hash_of(1)));
        uint64_t n = key_filter_count_max(f);
        assert_true(n >= sizes[i] * 8 / KEY_FILTER_BITS_A_KEY * 9 / 10);
        for (uint64_t k = 0; k < n; k++) key_filter_put(f, hash_of(k), 1000 + k);
        assert_int_equal(key_filter_count(f), n);
        assert_int_equal(known(f, 0, n), n);
        assert_true(known(f, n, 2 * n) < n / 20);
        key_filter_free(f);
    }
}

/* Keys without an expiry stay, while others come and go beside them for ever as if there were none. */
static void test_keys_that_never_expire_stay(void **state) {
    struct key_filter *f = key_filter_new(64 << 10);
    uint64_t live = key_filter_count_max(f) / 2, lasting = live / 20, first = 1ull << 50, wrong = 0, asked = 0;
    for (uint64_t k = 0; k < 40 * live; k++) {
        if (k < lasting) key_filter_put(f, hash_of(first + k), KEY_FILTER_NEVER_US + k);
        key_filter_put(f, hash_of(k), k + live);
        if (k % 64) continue;
        key_filter_expire(f, k);
        assert_true(key_filter_count(f) <= key_filter_count_max(f) + lasting + 64);
        for (uint64_t i = 0; i < 16; i++, asked++) wrong += key_filter_may_have(f, hash_of((k << 16) + i + (1ull << 40)));
    }
    assert_true(wrong < asked / 20);
    key_filter_expire(f, KEY_FILTER_NEVER_US - 1);
    assert_int_equal(known(f, first, first + lasting), lasting);
    key_filter_free(f);
}

/* Far more of them than their part holds: none is forgotten, whoever asks looks for others in vain more often. */
static void test_lasting_keys_beyond_their_part(void **state) {
    struct key_filter *f = key_filter_new(KEY_FILTER_BYTES_MIN);
    uint64_t n = key_filter_count_max(f);
    for (uint64_t k = 0; k < n; k++) key_filter_put(f, hash_of(k), KEY_FILTER_NEVER_US);
    assert_int_equal(known(f, 0, n), n);
    key_filter_free(f);
}

/* More than it is made for: it says yes too often, and forgets nothing. */
static void test_more_than_it_has_room_for(void **state) {
    struct key_filter *f = key_filter_new(KEY_FILTER_BYTES_MIN);
    uint64_t n = 5 * key_filter_count_max(f);
    for (uint64_t k = 0; k < n; k++) key_filter_put(f, hash_of(k), 1000 + k);
    assert_int_equal(known(f, 0, n), n);
    key_filter_free(f);
}

/* Keys that expire as fast as they come are let go, for ever: what has not expired is known, what has was forgotten a share later at most, and others are as few as ever. */
static void test_expired_keys_are_let_go(void **state) {
    struct key_filter *f = key_filter_new(16 << 10);
    uint64_t live = key_filter_count_max(f) / 2, wrong = 0, asked = 0;
    for (uint64_t k = 0; k < 40 * live; k++) {
        uint64_t expiry_us = k + live;
        key_filter_put(f, hash_of(k), expiry_us);
        if (k % 64) continue;
        key_filter_expire(f, k);
        assert_true(key_filter_count(f) <= key_filter_count_max(f) + 64);
        uint64_t first = k < live ? 0 : k - live + 1;
        for (uint64_t i = first; i <= k; i += 7) assert_true(key_filter_may_have(f, hash_of(i)));
        for (uint64_t i = 0; i < 16; i++, asked++) wrong += key_filter_may_have(f, hash_of((k << 16) + i + (1ull << 40)));
    }
    assert_true(wrong < asked / 20);
    assert_true(known(f, 0, 1000) < 100);
    key_filter_free(f);
}

static void on_warm(void *ctx, void *memory, size_t bytes) {
    size_t *asked = ctx;
    assert_non_null(memory);
    asked[0]++, asked[1] += bytes;
}

/* The share that comes next is asked for with the first key of the one before it, each once. */
static void test_a_share_is_asked_for_before_it_is_used(void **state) {
    enum { BYTES = 1 << 20 };
    size_t asked[2] = {0};
    struct key_filter *f = key_filter_new(BYTES);
    uint64_t share = key_filter_count_max(f) / 4;
    key_filter_warm(f, on_warm, asked);
    for (uint64_t k = 0; k < 12 * share; k++) {
        key_filter_put(f, hash_of(k), k);
        key_filter_expire(f, k);
        if (k < 3 * share) assert_int_equal(asked[0], k ? (k - 1) / share + 1 : 1);
    }
    assert_int_equal(asked[0], 3);
    assert_int_equal(asked[1], (BYTES - BYTES / 32) / 4 * 3);
    key_filter_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_that_were_told_and_few_others),
        cmocka_unit_test(test_keys_that_never_expire_stay),
        cmocka_unit_test(test_lasting_keys_beyond_their_part),
        cmocka_unit_test(test_more_than_it_has_room_for),
        cmocka_unit_test(test_expired_keys_are_let_go),
        cmocka_unit_test(test_a_share_is_asked_for_before_it_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
