/* client/deadlines.h against a plain search. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "client/deadlines.h"
#include "proto/base/mem.h"

static void test_the_first_is_the_earliest_whatever_comes_and_goes(void **state) {
    static struct deadline nodes[300];
    bool in[300] = {0};
    struct deadlines d = {0};
    uint64_t random = 12345;
    assert_null(deadlines_first(&d));
    for (int step = 0; step < 20000; step++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        unsigned i = (unsigned)(random >> 33) % 300;
        if (in[i]) {
            deadlines_remove(&d, &nodes[i]);
            deadlines_remove(&d, &nodes[i]);
        } else {
            nodes[i].at_ns = random >> 50;
            assert_true(deadlines_add(&d, &nodes[i]));
        }
        in[i] = !in[i];
        uint64_t least = UINT64_MAX;
        for (unsigned j = 0; j < 300; j++) {
            if (in[j] && nodes[j].at_ns < least) least = nodes[j].at_ns;
        }
        struct deadline *first = deadlines_first(&d);
        assert_true(first ? first->at_ns == least : least == UINT64_MAX);
    }
    for (unsigned j = 0; j < 300; j++) deadlines_remove(&d, &nodes[j]);
    deadlines_fini(&d);
}

static void test_no_memory_leaves_it_as_it_was(void **state) {
    struct deadlines d = {0};
    struct deadline n = {.at_ns = 7};
    mem_fail_nth(1);
    assert_false(deadlines_add(&d, &n));
    mem_fail_nth(0);
    assert_null(deadlines_first(&d));
    deadlines_remove(&d, &n);
    deadlines_fini(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_is_the_earliest_whatever_comes_and_goes),
        cmocka_unit_test(test_no_memory_leaves_it_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
