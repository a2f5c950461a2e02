/* The model must notice a log that acknowledges before the sync. This program carries its own build of engine/wal.c, broken on purpose; the
 * linker then takes no other from the archive. */
#define ORDERDB_MUTANT_ACK_BEFORE_SYNC 1
#include "engine/wal.c"

#include "tests/lib/test.h"
#include "tests/lib/wal_model.h"

static void acknowledging_before_the_sync_is_caught(void **state) {
    char why[512];
    unsigned caught = 0;
    for (uint64_t seed = 1; seed <= 200; seed++)
        if (!wal_model_run(seed, &(struct wal_model_options){0}, why)) caught++;
    print_message("caught by %u of 200 seeds, the last with: %s\n", caught, why);
    assert_true(caught > 20);
}

int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {cmocka_unit_test(acknowledging_before_the_sync_is_caught)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
