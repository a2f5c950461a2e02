/* The promises of client/target.h. */
#include "tests/lib/test.h"

#include <errno.h>

#include "client/target.h"
#include "proto/base/mem.h"

static void test_forms(void **state) {
    static const struct { const char *text, *host, *port, *authority; } rows[] = {
        {"localhost:7400", "localhost", "7400", "localhost:7400"}, {"db", "db", "99", "db:99"}, {"127.0.0.1:1", "127.0.0.1", "1", "127.0.0.1:1"},
        {"[::1]:65535", "::1", "65535", "[::1]:65535"}, {"[::1]", "::1", "99", "[::1]:99"}, {"::1", "::1", "99", "[::1]:99"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct target t;
        assert_int_equal(target_parse(&t, rows[i].text, "99"), 0);
        assert_string_equal(t.host, rows[i].host);
        assert_string_equal(t.port, rows[i].port);
        assert_string_equal(t.authority, rows[i].authority);
        target_fini(&t);
    }
    static const char *const bad[] = {"", ":1", "a:", "a:0", "a:65536", "a:1x", "a:-1", "a:9999999999", "[::1", "[::1]x", "[]:1", "[::1]:"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct target t;
        if (target_parse(&t, bad[i], "99") != EINVAL) fail_msg("%s", bad[i]);
        assert_null(t.host);
    }
}

static void test_no_memory(void **state) {
    for (unsigned n = 1; n <= 4; n++) {
        struct target t;
        mem_fail_nth(n);
        assert_int_equal(target_parse(&t, "localhost:1", "99"), ENOMEM);
        assert_null(t.host);
    }
    mem_fail_nth(0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forms), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
