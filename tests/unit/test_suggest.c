/* What somebody may have meant. */
#include "tools/suggest.h"

#include "tests/lib/test.h"

static const char *nearest(const char *word) {
    static const char *const candidates[] = {"order create", "order get", "order list", "order history", "status", "--page-size", "--page-token", "--page"};
    struct suggest s;
    suggest_begin(&s, slice_str(word));
    for (size_t i = 0; i < ARRAY_LEN(candidates); i++) suggest_offer(&s, candidates[i]);
    return s.best ? s.best : "";
}

static void test_near(void **state) {
    assert_string_equal(nearest("order crate"), "order create");
    assert_string_equal(nearest("order craete"), "order create"); /* swapped */
    assert_string_equal(nearest("stauts"), "status");
    assert_string_equal(nearest("--pagesize"), "--page-size");
    assert_string_equal(nearest("--page-tok"), "--page-token");
    assert_string_equal(nearest("order get"), "order get");
}

static void test_far(void **state) {
    assert_string_equal(nearest("xyzzy"), "");
    assert_string_equal(nearest(""), "");
    assert_string_equal(nearest("stop"), "");
    assert_string_equal(nearest("a word that is far longer than anything that is offered here"), "");
}

static void test_first_of_equals(void **state) {
    struct suggest s;
    suggest_begin(&s, slice_str("lost"));
    assert_true(suggest_offer(&s, "list"));
    assert_false(suggest_offer(&s, "last"));
    assert_true(suggest_offer(&s, "lost"));
    assert_false(suggest_offer(&s, "lost"));
    assert_string_equal(s.best, "lost");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_near), cmocka_unit_test(test_far), cmocka_unit_test(test_first_of_equals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
