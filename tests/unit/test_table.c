/* Tables fit their width whatever is in them, prose is folded, and what is shown moves no cursor. */
#include "tools/table.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/mem.h"
#include "tests/lib/test.h"

static char *printed; /* what was printed last */
static size_t printed_bytes;

static FILE *out_open(void) {
    free(printed);
    printed = NULL;
    FILE *f = open_memstream(&printed, &printed_bytes);
    assert_non_null(f);
    return f;
}

/* Cuts what was printed into its lines. */
static size_t widest(void) {
    size_t most = 0;
    for (char *rest = printed, *line; (line = strsep(&rest, "\n"));) most = MAX_OF(most, text_width(line));
    return most;
}

static void test_width(void **state) {
    static const struct {
        const char *text;
        size_t width;
    } rows[] = {{"", 0}, {"abc", 3}, {"雨伞", 4}, {"e\u0301", 1}, {"नमस्ते", 4}, {"☔⌚", 4}, {"✓", 1}, {"👍", 2}, {"\uff21", 2}, {"한글", 4}, {"\U00017000", 2}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (text_width(rows[i].text) != rows[i].width) fail_msg("\"%s\" is %zu wide, expected %zu", rows[i].text, text_width(rows[i].text), rows[i].width);
    }
}

static void test_no_blanks_end_a_line(void **state) {
    static const struct table_column columns[] = {{"A"}, {"LONG"}, {"N", .right = true}};
    static const char *const cells[] = {"a", "", "1", "b", "x", "", "c", "", ""};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < ARRAY_LEN(cells); i++) table_cell(&t, "%s", cells[i]);
    FILE *f = out_open();
    table_print(&t, f, TABLE_WIDTH);
    table_fini(&t);
    fclose(f);
    assert_string_equal(printed, "A  LONG  N\na        1\nb  x\nc\n");
}

/* Extremes of what an order may hold: nothing is wider than 80, numbers and times are whole, each cut shows. */
static void test_fits(void **state) {
    static const struct table_column columns[] = {
        {"ORDER", .right = true}, {"STATUS", .shrinks_to = 10}, {"PAYABLE", .right = true}, {"CREATED"}, {"CLIENT NO", .shrinks_to = 9}};
    static const char *const texts[] = {"PENDING_PAYMENT", "超长的状态名称超长的状态名称", "नमस्ते नमस्ते नमस्ते नमस्ते", "👍👍👍👍👍👍👍👍👍👍👍👍", "", "\x1b[31mred", "\xff\xfe\xff\xfe\xff\xfe\xff"};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < 3 * ARRAY_LEN(texts); i++) {
        table_cell(&t, "9223372036854775807");
        table_cell(&t, "%s", texts[i % ARRAY_LEN(texts)]);
        table_cell(&t, "92233720368547758.07 CNY");
        table_cell(&t, "2026-01-31 08:00");
        table_cell(&t, "%s%s", texts[(i + 1) % ARRAY_LEN(texts)], texts[(i + 3) % ARRAY_LEN(texts)]);
    }
    FILE *f = out_open();
    table_print(&t, f, TABLE_WIDTH);
    table_fini(&t);
    fclose(f);
    size_t lines = 0;
    for (char *s = printed; (s = strchr(s, '\n')); s++) lines++;
    assert_int_equal(lines, 1 + 3 * ARRAY_LEN(texts));
    assert_null(strchr(printed, '\x1b'));
    for (char *s = printed; (s = strstr(s, "922337203685477580")); s++) assert_int_equal(s[18], '7');
    char *first = strchr(printed, '\n') + 1;
    assert_memory_equal(first, "9223372036854775807  PENDING_~  92233720368547758.07 CNY  2026-01-31 08:00  ", 76);
    assert_int_equal(widest(), 80);
}

/* What fits is not cut, and a narrow table is not padded. */
static void test_narrow(void **state) {
    static const struct table_column columns[] = {{"SKU", .shrinks_to = 4}, {"标题", .shrinks_to = 4}, {"QTY", .right = true}};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    table_cell(&t, "u1"), table_cell(&t, "雨伞"), table_cell(&t, "%d", 2);
    FILE *f = out_open();
    table_print(&t, f, TABLE_WIDTH);
    fclose(f);
    assert_string_equal(printed, "SKU  标题  QTY\nu1   雨伞    2\n");
    f = out_open();
    table_print(&t, f, 15);
    fclose(f);
    assert_int_equal(widest(), 14); /* it fits as it is */
    table_fini(&t);
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
}

static void test_cuts_and_escapes(void **state) {
    static const struct table_column columns[] = {{"ID", .right = true}, {"NAME", .shrinks_to = 4}, {"X"}};
    struct table t;
    FILE *f = out_open();
    table_init(&t, columns, 3);
    table_cell(&t, "%d", 7);
    table_cell(&t, "%s", "a name that is long");
    table_cell(&t, "%s", "z");
    table_cell(&t, "%d", 1234);
    table_cell(&t, "%s", "\xe4\xbc\x9e\xe4\xbc\x9e\xe4\xbc\x9e\xe4\xbc\x9e");
    table_cell(&t, "\n");
    table_print(&t, f, 14);
    fclose(f);
    assert_string_equal(printed, "  ID  NAME  X\n   7  a n~  z\n1234  \xe4\xbc\x9e~   \\n\n");
    table_fini(&t);
}

static void test_fold(void **state) {
    FILE *f = out_open();
    fputs("  --flag  ", f);
    text_fold(f, "words words words words words words words words words words words words words words words", 10, 10);
    fclose(f);
    assert_string_equal(printed, "  --flag  words words words words words words words words words words words\n          words words words words\n");
    f = out_open();
    text_fold(f, "", 0, 0);
    text_fold(f, "one", 0, 0);
    text_fold(f, "雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞 雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞雨伞", 0, 2);
    fclose(f);
    assert_memory_equal(printed, "\none\n", 5);
    assert_non_null(strstr(printed, "\n  雨伞"));
    assert_int_equal(widest(), 100); /* a word is not cut */
}

static void test_not_colored(void **state) {
    FILE *f = fopen("/dev/null", "w"); /* no terminal */
    assert_non_null(f);
    assert_false(text_is_colored(f));
    fclose(f);
}

int main(void) {
    text_begin();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_width), cmocka_unit_test(test_fits), cmocka_unit_test(test_no_blanks_end_a_line), cmocka_unit_test(test_narrow), cmocka_unit_test(test_text_is_made_harmless),
                                       cmocka_unit_test(test_cuts_and_escapes), cmocka_unit_test(test_fold),
                                       cmocka_unit_test(test_not_colored)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(printed);
    return failed;
}
