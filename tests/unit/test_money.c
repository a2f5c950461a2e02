/* tools/money.h and proto/timetext.h: what people type becomes exact numbers, or is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "proto/timetext.h"
#include "tools/money.h"

static void good(const char *text, unsigned exponent, int64_t units) {
    int64_t v;
    assert_true(money_parse(slice_str(text), exponent, &v));
    assert_true(v == units);
}
static void bad(const char *text, unsigned exponent) {
    int64_t v;
    assert_false(money_parse(slice_str(text), exponent, &v));
}

static void test_exponents(void **state) {
    assert_int_equal(money_exponent("JPY"), 0);
    assert_int_equal(money_exponent("CNY"), 2);
    assert_int_equal(money_exponent("BRL"), 2);
    assert_int_equal(money_exponent("KWD"), 3);
    assert_int_equal(money_exponent("CLF"), 4);
    assert_int_equal(money_exponent("???"), 2);
}

static void test_amounts_are_exact(void **state) {
    good("19.99", 2, 1999);
    good("99.9", 2, 9990);
    good("144.0", 2, 14400);
    good("5", 2, 500);
    good(".5", 2, 50);
    good("0", 2, 0);
    good("1200", 0, 1200);
    good("1200.00", 0, 1200);
    good("1.234", 3, 1234);
    good("1.23400", 3, 1234);
    good("0.29", 2, 29); /* 28 with floating point */
    good("92233720368547758.07", 2, INT64_MAX);
    bad("92233720368547758.08", 2);
    bad("19.999", 2);
    bad("1.5", 0);
    bad("", 2);
    bad(".", 2);
    bad("5.", 2);
    bad("-1", 2);
    bad("+1", 2);
    bad("1,5", 2);
    bad("1.2.3", 2);
    bad(" 1", 2);
    bad("1e3", 2);
}

static void test_amounts_are_written(void **state) {
    char out[MONEY_TEXT_BYTES];
    money_format(1999, 2, out);
    assert_string_equal(out, "19.99");
    money_format(-5, 2, out);
    assert_string_equal(out, "-0.05");
    money_format(500, 0, out);
    assert_string_equal(out, "500");
    money_format(1, 3, out);
    assert_string_equal(out, "0.001");
    money_format(INT64_MIN, 2, out);
    assert_string_equal(out, "-92233720368547758.08");
}

static void when(const char *text, int64_t seconds, int32_t nanos) {
    int64_t s;
    int32_t n;
    assert_true(time_parse(slice_str(text), &s, &n));
    assert_true(s == seconds);
    assert_int_equal(n, nanos);
}
static void never(const char *text) {
    int64_t s;
    int32_t n;
    assert_false(time_parse(slice_str(text), &s, &n));
}

static void test_times_are_read(void **state) {
    when("1970-01-01T00:00:00Z", 0, 0);
    when("2017-07-09 21:57:05", 1499637425, 0);
    when("2026-11-23", 1795392000, 0);
    when("2024-02-29T12:00:00.5Z", 1709208000, 500000000);
    when("2024-02-29T12:00:00.123456789+08:00", 1709208000 - 8 * 3600, 123456789);
    when("2024-02-29t12:00:00-00:30", 1709208000 + 1800, 0);
    when("0001-01-01T00:00:00Z", -62135596800ll, 0);
    when("9999-12-31T23:59:59Z", 253402300799ll, 0);
    never("2023-02-29");
    never("2024-13-01");
    never("2024-00-01");
    never("2024-01-32");
    never("2024-01-01T24:00:00Z");
    never("2024-01-01T00:00:60Z");
    never("2024-01-01T00:00:00.Z");
    never("2024-01-01T00:00:00.1234567890Z");
    never("2024-01-01T00:00:00+0800");
    never("2024-01-01T00:00:00Zx");
    never("0001-01-01T00:00:00+01:00"); /* before year 1 */
    never("0000-01-01");
    never("24-01-01");
    never("");
}

static void test_times_are_written_as_they_are_read(void **state) {
    static const char *const texts[] = {"1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2000-02-29T01:02:03.004Z", "1900-03-01T00:00:00.000005Z", "1969-12-31T23:59:59Z"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        char out[TIME_TEXT_BYTES];
        int64_t s;
        int32_t n;
        assert_true(time_parse(slice_str(texts[i]), &s, &n));
        time_format(s, n, out);
        assert_string_equal(out, texts[i]);
    }
    for (int64_t day = -719162; day < 2932896; day += 97) { /* every few months of all years */
        char out[TIME_TEXT_BYTES];
        int64_t s;
        int32_t n;
        time_format(day * 86400 + 12345, 0, out);
        assert_true(time_parse(slice_str(out), &s, &n));
        assert_true(s == day * 86400 + 12345);
    }
    char out[TIME_TEXT_BYTES];
    time_format(INT64_MAX, 0, out);
    assert_string_equal(out, "(time out of range)");
    time_format(0, -1, out);
    assert_string_equal(out, "(time out of range)");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exponents),       cmocka_unit_test(test_amounts_are_exact),
        cmocka_unit_test(test_amounts_are_written), cmocka_unit_test(test_times_are_read),
        cmocka_unit_test(test_times_are_written_as_they_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
