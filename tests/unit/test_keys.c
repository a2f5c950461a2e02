/* engine/keys.h: layouts as drawn there, order of the bytes, upper bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "engine/event.h"
#include "engine/keys.h"

static const struct slice alice = {(const uint8_t *)"alice", 5};

static void expect_hex(const struct key *k, const char *hex) {
    char text[2 * KEY_BYTES_MAX + 1] = "";
    for (size_t i = 0; i < k->len; i++) snprintf(text + 2 * i, 3, "%02x", k->bytes[i]);
    assert_string_equal(text, hex);
}

/* Persistent: a change here is a new format. */
static void layouts_are_as_drawn(void **state) {
    struct key k;
    int64_t id = order_id_make(ORDER_EPOCH_MS + 1, 0x1234, 7);
    key_body(&k, id), expect_hex(&k, "123442" "0000000000523407");
    key_head(&k, id), expect_hex(&k, "123448" "0000000000523407");
    key_history(&k, id, 2), expect_hex(&k, "123459" "0000000000523407" "0000000000000002");
    key_client_no(&k, 0x1234, alice, SLICE_LIT("no1")), expect_hex(&k, "123443" "05616c696365" "036e6f31");
    key_dedup(&k, 0x1234, alice, SLICE_LIT("r"), 2), expect_hex(&k, "123444" "05616c696365" "0172" "02");
    key_list(&k, 0x1234, alice, 1, id), expect_hex(&k, "12344c" "05616c696365" "8000000000000001" "0000000000523407");
    key_list_prefix(&k, 0x1234, alice), expect_hex(&k, "12344c" "05616c696365");
    key_counts(&k, 0x1234, alice, 0, 5, 6), expect_hex(&k, "12344e" "05616c696365" "00");
    key_counts(&k, 0x1234, alice, 1, -1, id), expect_hex(&k, "12344e" "05616c696365" "01" "7fffffffffffffff" "0000000000523407");
    key_counts_prefix(&k, 0x1234, alice, 1), expect_hex(&k, "12344e" "05616c696365" "01");
    key_slot(&k, 0x1234), expect_hex(&k, "123453");
    key_slot_prefix(&k, 0x1234), expect_hex(&k, "1234");
    key_partition(&k), expect_hex(&k, "ffff41");
    key_timers(&k), expect_hex(&k, "ffff54");
    key_timer(&k, 0x0102030405060708, id, 9), expect_hex(&k, "ffff54" "0102030405060708" "0000000000523407" "09");
    int64_t fire_us, order_id;
    uint8_t no;
    assert_true(key_timer_parts(key_slice(&k), &fire_us, &order_id, &no));
    assert_int_equal(fire_us, 0x0102030405060708);
    assert_int_equal(order_id, id);
    assert_int_equal(no, 9);
    key_timers(&k), assert_false(key_timer_parts(key_slice(&k), &fire_us, &order_id, &no));
    uint8_t kind;
    struct slice value;
    int64_t create_us;
    key_index_record(&k), expect_hex(&k, "ffff49");
    assert_false(key_index_parts(key_slice(&k), &kind, &value, &create_us, &order_id));
    key_index_prefix(&k, KEY_INDEX_SKU, alice), expect_hex(&k, "ffff49" "03" "05616c696365");
    key_index_row(&k, KEY_INDEX_STATUS, SLICE_LIT("\x01\x02"), -1, id), expect_hex(&k, "ffff49" "01" "0102" "7fffffffffffffff" "0000000000523407");
    key_index_row(&k, KEY_INDEX_MERCHANT, alice, 1, id), expect_hex(&k, "ffff49" "02" "05616c696365" "8000000000000001" "0000000000523407");
    assert_true(key_index_parts(key_slice(&k), &kind, &value, &create_us, &order_id));
    assert_int_equal(kind, KEY_INDEX_MERCHANT);
    assert_true(slice_equal(value, alice));
    assert_int_equal(create_us, 1);
    assert_int_equal(order_id, id);
    assert_false(key_index_parts(slice_of(k.bytes, k.len - 1), &kind, &value, &create_us, &order_id));
}

/* Of a key the events that follow an order's snapshot are behind it, whatever number it has. */
static void letters_sort_by_rank(void **state) {
    const int64_t numbers[] = {0, EVENT_NUMBER_UNTOLD | 1, EVENT_NUMBER_UNTOLD | 0x523407, INT64_MAX, 1, 2, EVENT_NUMBER_UNTOLD - 1};
    struct key a, b, lower;
    for (size_t i = 1; i < ARRAY_LEN(numbers); i++) {
        key_letter(&b, 2, 7, numbers[i]);
        assert_int_equal(key_letter_seq(key_slice(&b)), numbers[i]);
        key_letter_behind(&lower, 2, 7, numbers[i - 1]);
        assert_true(slice_compare(key_slice(&lower), key_slice(&b)) < 0);
        key_letter_behind(&lower, 2, 7, numbers[i]);
        assert_true(slice_compare(key_slice(&b), key_slice(&lower)) < 0);
        assert_true(event_rank(numbers[i - 1]) < event_rank(numbers[i]));
        if (i > 1) key_letter(&a, 2, 7, numbers[i - 1]), assert_true(slice_compare(key_slice(&a), key_slice(&b)) < 0);
    }
    key_letter(&a, 2, 7, 3), expect_hex(&a, "000251" "00000007" "0000000000000003");
    key_letter(&a, 2, 7, numbers[2]), expect_hex(&a, "000251" "00000007" "0000000000000000" "0000000000523407");
}

static void times_before_1970_sort_first(void **state) {
    const int64_t times[] = {INT64_MIN, -2, -1, 0, 1, INT64_MAX};
    struct key a, b;
    for (size_t i = 0; i + 1 < ARRAY_LEN(times); i++) {
        key_list(&a, 1, alice, times[i], INT64_MAX);
        key_list(&b, 1, alice, times[i + 1], 1);
        assert_true(slice_compare(key_slice(&a), key_slice(&b)) < 0);
        int64_t us, id;
        key_list_position(key_slice(&a), &us, &id);
        assert_int_equal(us, times[i]);
        assert_int_equal(id, INT64_MAX);
    }
}

/* "a" + "bc" must not be "ab" + "c". */
static void texts_cannot_run_into_each_other(void **state) {
    struct key a, b;
    key_client_no(&a, 1, SLICE_LIT("a"), SLICE_LIT("bc"));
    key_client_no(&b, 1, SLICE_LIT("ab"), SLICE_LIT("c"));
    assert_false(slice_equal(key_slice(&a), key_slice(&b)));
}

static void the_longest_texts_fit(void **state) {
    uint8_t text[128];
    memset(text, 0xff, sizeof text);
    struct key k;
    key_dedup(&k, 16383, slice_of(text, 64), slice_of(text, 128), 2);
    assert_int_equal(k.len, 3 + 65 + 129 + 1);
}

static void after_prefix_is_the_least_upper_bound(void **state) {
    struct key k = {.bytes = {1, 2}, .len = 2};
    key_after_prefix(&k);
    expect_hex(&k, "0103");
    k = (struct key){.bytes = {1, 0xff, 0xff}, .len = 3};
    key_after_prefix(&k);
    expect_hex(&k, "02");
    key_slot_prefix(&k, 0x00ff);
    key_after_prefix(&k);
    expect_hex(&k, "01");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_are_as_drawn),
        cmocka_unit_test(letters_sort_by_rank), cmocka_unit_test(times_before_1970_sort_first),
        cmocka_unit_test(texts_cannot_run_into_each_other),
        cmocka_unit_test(the_longest_texts_fit),
        cmocka_unit_test(after_prefix_is_the_least_upper_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
