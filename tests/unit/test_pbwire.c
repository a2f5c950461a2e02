/* proto/pbwire.h: the quick walk over a few fields yields exactly what the careful one does. */
#include "tests/lib/test.h"

#include "proto/pbwire.h"

static bool field_equal(const struct pb_field *a, const struct pb_field *b) {
    return a->number == b->number && a->wire_type == b->wire_type && a->value == b->value && a->bytes.data == b->bytes.data && a->bytes.len == b->bytes.len;
}

/* Both walks over the same bytes: the same wanted fields in the same order, the same end. */
static void expect_same(struct slice wire, uint64_t wanted) {
    struct reader careful = reader_of(wire), quick = careful;
    for (;;) {
        struct pb_field a = {0}, b = {0};
        bool has_a = pb_next(&careful, &a), has_b;
        while (has_a && !(wanted & pb_number_bit(a.number))) has_a = pb_next(&careful, &a);
        do has_b = pb_next_of(&quick, wanted, &b); while (has_b && !(wanted & pb_number_bit(b.number)));
        assert_int_equal(has_a, has_b);
        if (!has_a) break;
        assert_true(field_equal(&a, &b));
    }
    assert_int_equal(careful.bad, quick.bad);
}

static void random_field(struct test_random *r, struct writer *w) {
    uint32_t number = 1 + (uint32_t)test_random_below(r, test_random_below(r, 4) ? 20 : 3000);
    uint64_t value = test_random_next(r) >> test_random_below(r, 64);
    switch (test_random_below(r, 8)) {
    case 0: pb_tag(w, number, PB_FIXED64), write_le64(w, value); break;
    case 1: pb_tag(w, number, PB_FIXED32), write_le32(w, (uint32_t)value); break;
    case 2:
    case 3: {
        size_t n = test_random_below(r, test_random_below(r, 8) ? 20 : 300);
        pb_tag(w, number, PB_LEN), write_varint(w, n);
        uint8_t *p = writer_claim(w, n);
        if (p) memset(p, (int)value, n);
        break;
    }
    default: pb_tag(w, number, PB_VARINT), write_varint(w, value);
    }
}

static void the_quick_walk_is_the_careful_one(void **state) {
    struct test_random r = {77};
    for (unsigned round = 0; round < 20000; round++) {
        uint8_t bytes[2048];
        struct writer w = writer_of(bytes, sizeof bytes);
        for (uint64_t n = test_random_below(&r, 12); n; n--) random_field(&r, &w);
        size_t len = round % 3 ? w.len : test_random_below(&r, w.len + 1); /* cut */
        if (len && round % 4 == 1) bytes[test_random_below(&r, len)] = (uint8_t)test_random_next(&r);
        expect_same(slice_of(bytes, len), test_random_next(&r) & test_random_next(&r));
    }
}

static void long_values_are_stepped_over(void **state) {
    uint8_t bytes[64];
    static const char *const hex[] = {
        "08 ffffffffffffffffff01 10 05 18 00000000000000000000", /* ten bytes, then the end near */
        "08 ffffffffffffffffff02 10 05 18 00000000000000000000", /* more than 64 bits */
        "08 ffffffffffffffffffff01 10 05 0000000000000000000000",
        "0a 80808080808080808001 00000000000000000000000000000000",
        "0a ff7f 00000000000000000000000000000000",
        "8800 01 8880 00 01 00000000000000000000000000",
        "0b 00000000000000000000000000",
        "00 01 00000000000000000000000000",
    };
    for (size_t i = 0; i < ARRAY_LEN(hex); i++) {
        struct slice wire = slice_of(bytes, test_unhex(hex[i], bytes, sizeof bytes));
        expect_same(wire, 0);
        expect_same(wire, 1 << 2);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_quick_walk_is_the_careful_one), cmocka_unit_test(long_values_are_stepped_over)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
