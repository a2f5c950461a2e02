/* tools/csv.h, sentence by sentence. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "proto/base/mem.h"
#include "tools/csv.h"

static void row(struct csv *c, unsigned line, size_t n, ...) {
    va_list args;
    assert_int_equal(csv_next(c), CSV_ROW);
    assert_int_equal(c->line, line);
    assert_int_equal(c->count, n);
    va_start(args, n);
    for (size_t i = 0; i < n; i++) {
        const char *want = va_arg(args, const char *);
        assert_int_equal(c->fields[i].len, strlen(want));
        assert_memory_equal(c->fields[i].data, want, strlen(want) + 1);
    }
    va_end(args);
}
static void end(struct csv *c) {
    assert_int_equal(csv_next(c), CSV_END);
    assert_int_equal(csv_next(c), CSV_END);
    csv_fini(c);
}

static void test_plain_fields(void **state) {
    struct csv c;
    csv_init(&c, SLICE_LIT("a,b,c\n1,,3\r\n\n,,\nlast"));
    row(&c, 1, 3, "a", "b", "c");
    row(&c, 2, 3, "1", "", "3");
    row(&c, 4, 3, "", "", "");
    row(&c, 5, 1, "last");
    end(&c);
    csv_init(&c, (struct slice){0});
    end(&c);
    csv_init(&c, SLICE_LIT("\xef\xbb\xbfid\na\rb\n"));
    row(&c, 1, 1, "id");
    row(&c, 2, 1, "a\rb");
    end(&c);
    csv_init(&c, SLICE_LIT("a,"));
    row(&c, 1, 2, "a", "");
    end(&c);
}

static void test_quoted_fields(void **state) {
    struct csv c;
    csv_init(&c, SLICE_LIT("\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\"\r\n\"\",x\n\"end\""));
    row(&c, 1, 3, "a,b", "say \"hi\"", "two\nlines");
    row(&c, 3, 2, "", "x");
    row(&c, 4, 1, "end");
    end(&c);
}

static void wrong(const char *text, const char *error) {
    struct csv c;
    enum csv_result r;
    csv_init(&c, slice_str(text));
    while ((r = csv_next(&c)) == CSV_ROW) {}
    assert_int_equal(r, CSV_BAD);
    assert_string_equal(c.error, error);
    assert_int_equal(csv_next(&c), CSV_BAD);
    csv_fini(&c);
}
static void test_what_is_wrong_is_named(void **state) {
    wrong("a\n\"open", "a quote is not closed");
    wrong("\"a\"b", "text behind a closing quote");
    wrong("a\"b", "a quote inside a field that is not quoted");
    for (uint64_t n = 1; n < 4; n++) {
        struct csv c;
        csv_init(&c, SLICE_LIT("a,b\n"));
        mem_fail_nth(n);
        enum csv_result r = csv_next(&c);
        mem_fail_nth(0);
        assert_true(r == CSV_ROW || strcmp(c.error, "no memory") == 0);
        csv_fini(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_fields), cmocka_unit_test(test_quoted_fields),      cmocka_unit_test(test_what_is_wrong_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
