/* tools/csv.h, sentence by sentence; tools/table.h, whose text must be harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "proto/base/mem.h"
#include "tools/csv.h"
#include "tools/table.h"

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

static void harmless(const char *text, const char *want) {
    struct buf b = {0};
    assert_true(text_harmless(&b, text));
    assert_string_equal((char *)b.data, want);
    buf_fini(&b);
}
static void test_text_is_made_harmless(void **state) {
    harmless("", "");
    harmless("plain \xe4\xbc\x9e", "plain \xe4\xbc\x9e");
    harmless("a\x1b[31mb", "a\\x1b[31mb");
    harmless("a\nb\tc\rd\x7f", "a\\nb\\tc\\rd\\x7f");
    harmless("\xc2\x9b" "1m", "\\u{9b}1m");              /* C1: a control sequence in one character */
    harmless("\xe2\x80\xae" "evil", "\\u{202e}evil");     /* right to left */
    harmless("\xff\xc0\xaf\xed\xa0\x80", "\\xff\\xc0\\xaf\\xed\\xa0\\x80"); /* not UTF-8 */
    harmless("\xe4\xbc", "\\xe4\\xbc");
    assert_int_equal(text_width("abc"), 3);
    assert_int_equal(text_width("\xe4\xbc\x9e"), 2);
    assert_int_equal(text_width("e\xcc\x81"), 1);
}

static void test_tables_fit(void **state) {
    static const struct table_column columns[] = {{"ID", .right = true}, {"NAME", .shrinks_to = 4}, {"X"}};
    struct table t;
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    table_init(&t, columns, 3);
    table_cell(&t, "%d", 7);
    table_cell(&t, "%s", "a name that is long");
    table_cell(&t, "%s", "z");
    table_cell(&t, "%d", 1234);
    table_cell(&t, "%s", "\xe4\xbc\x9e\xe4\xbc\x9e\xe4\xbc\x9e\xe4\xbc\x9e");
    table_cell(&t, "\n");
    table_print(&t, f, 14);
    fclose(f);
    assert_string_equal(text, "  ID  NAME  X\n   7  a n~  z\n1234  \xe4\xbc\x9e~   \\n\n");
    free(text);
    table_fini(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_fields), cmocka_unit_test(test_quoted_fields),      cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_text_is_made_harmless), cmocka_unit_test(test_tables_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
