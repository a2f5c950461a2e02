/* The log against its model, over seeds. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "proto/base/log.h"
#include "tests/lib/wal_model.h"

static void run_seeds(unsigned count, uint64_t first, const struct wal_model_options *o) {
    char why[512];
    const char *one = getenv("SEED");
    if (one) {
        log_set_level(LOG_DEBUG);
        if (!wal_model_run(strtoull(one, NULL, 10), o, why)) fail_msg("seed %s: %s", one, why);
        return;
    }
    for (uint64_t seed = first; seed < first + count; seed++)
        if (!wal_model_run(seed, o, why)) fail_msg("seed %llu: %s", (unsigned long long)seed, why);
}

static void test_promises_hold_over_crashes(void **state) { run_seeds(300, 1, &(struct wal_model_options){0}); }
static void test_promises_hold_when_recovery_is_cut_too(void **state) { run_seeds(200, 10001, &(struct wal_model_options){.crash_in_open = true}); }
static void test_promises_hold_on_a_full_disk(void **state) { run_seeds(150, 20001, &(struct wal_model_options){.small_disk = true, .crash_in_open = true}); }

static void test_a_lying_device_is_noticed(void **state) {
    char why[512];
    unsigned caught = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) caught += !wal_model_run(seed, &(struct wal_model_options){.sync_lies = true}, why);
    assert_true(caught >= 45);
}

int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_promises_hold_over_crashes),
        cmocka_unit_test(test_promises_hold_when_recovery_is_cut_too),
        cmocka_unit_test(test_promises_hold_on_a_full_disk),
        cmocka_unit_test(test_a_lying_device_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
