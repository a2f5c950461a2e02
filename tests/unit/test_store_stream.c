/* Checkpoints and imports as store.h promises them, against both stores; then what a crash may leave of a RocksDB installation. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/store_world.h"

enum { STREAM_BYTES_MAX = 4 << 20 };
static uint8_t stream[STREAM_BYTES_MAX];
static char error[256];

static struct store_checkpoint *checkpoint_of(struct world *w) {
    struct store_checkpoint *c;
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_int_equal(store_checkpoint_make(w->store, &c, error), STATUS_OK);
    return c;
}

static size_t stream_of(struct world *w, size_t step) {
    struct store_checkpoint *c = checkpoint_of(w);
    size_t bytes = (size_t)store_checkpoint_bytes(c);
    assert_true(bytes <= STREAM_BYTES_MAX);
    for (size_t at = 0; at < bytes; at += step) assert_int_equal(store_checkpoint_read(c, at, stream + at, MIN_OF(step, bytes - at)), STATUS_OK);
    store_checkpoint_free(c);
    return bytes;
}

static struct store_import *import_of(struct world *w, size_t bytes, size_t step) {
    struct store_import *i;
    assert_int_equal(store_import_begin(w->store, bytes, &i, error), STATUS_OK);
    for (size_t at = 0; at < bytes; at += step) assert_int_equal(store_import_write(i, slice_of(stream + at, MIN_OF(step, bytes - at)), error), STATUS_OK);
    return i;
}

static void finish(struct world *w, struct store_import *i, const char *rows) {
    struct store *look;
    assert_int_equal(store_import_finish(i, &look, error), STATUS_OK);
    struct store_view v = {.store = look};
    assert_string_equal(rows_scan(w, &v, "", "", false), rows);
    store_close(look);
}

static void assert_rows(struct world *w, const char *rows) {
    struct store_view v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), rows);
}

static struct world *another(struct world *w) {
    struct world *to = world_new(w->rocks);
    world_open(to);
    return to;
}

static void test_a_state_takes_another_stores_place(void **state) {
    struct world *from = *state, *to = another(from);
    rows_write(from, "a=1 b=2 c=3");
    rows_write(from, "-b d=4");
    rows_write(to, "a=old z=old");
    assert_int_equal(store_flush(to->store), STATUS_OK);
    for (size_t step = 1; step < 2000; step = step * 40 + 1) {
        struct store_import *i = import_of(to, stream_of(from, step * 3 + 1), step);
        finish(to, i, "a=1 c=3 d=4");
        if (step < 1000) {
            store_import_free(i, false);
            continue;
        }
        assert_rows(to, "a=old z=old");
        world_close(to);
        assert_int_equal(store_import_install(i, error), STATUS_OK);
        world_open(to);
    }
    assert_rows(to, "a=1 c=3 d=4");
    rows_write(to, "e=5 -a");
    assert_int_equal(store_flush(to->store), STATUS_OK);
    world_reopen(to);
    assert_rows(to, "c=3 d=4 e=5");
    world_free(to);
}

static void test_the_store_goes_on_beside_its_checkpoint(void **state) {
    struct world *from = *state, *to = another(from);
    rows_write(from, "a=1");
    struct store_checkpoint *c = checkpoint_of(from);
    size_t bytes = (size_t)store_checkpoint_bytes(c), half = bytes / 2;
    assert_int_equal(store_checkpoint_read(c, 0, stream, half), STATUS_OK);
    rows_write(from, "a=2 b=2");
    assert_int_equal(store_flush(from->store), STATUS_OK);
    assert_int_equal(store_checkpoint_read(c, half, stream + half, bytes - half), STATUS_OK);
    assert_int_equal(store_checkpoint_read(c, 1, stream + 1, half), STATUS_OK); /* once more: an answer was lost */
    for (size_t at = bytes - 4; at < bytes; at++) assert_int_equal(store_checkpoint_read(c, at, stream + at, 1), STATUS_OK);
    store_checkpoint_free(c);
    struct store_import *i = import_of(to, bytes, 1000);
    finish(to, i, "a=1");
    store_import_free(i, false);
    world_free(to);
}

static void test_an_empty_store_has_a_stream_too(void **state) {
    struct world *from = *state, *to = another(from);
    rows_write(to, "a=1");
    struct store_import *i = import_of(to, stream_of(from, 4096), 4096);
    finish(to, i, "");
    world_close(to);
    assert_int_equal(store_import_install(i, error), STATUS_OK);
    world_open(to);
    assert_rows(to, "");
    world_free(to);
}

static void test_a_finished_import_is_found_after_a_restart_and_no_other(void **state) {
    struct world *from = *state, *to = another(from);
    rows_write(from, "a=1");
    struct store_import *found, *i = import_of(to, stream_of(from, 4096), 4096);
    assert_int_equal(store_import_find(to->store, &found, error), STATUS_ABSENT); /* all came, and nobody said that it is whole */
    store_import_free(i, true);
    i = import_of(to, stream_of(from, 4096), 4096);
    finish(to, i, "a=1");
    store_import_free(i, true);
    world_reopen(to);
    assert_rows(to, "");
    assert_int_equal(store_import_find(to->store, &found, error), STATUS_OK);
    world_close(to);
    assert_int_equal(store_import_install(found, error), STATUS_OK);
    world_open(to);
    assert_rows(to, "a=1");
    assert_int_equal(store_import_find(to->store, &found, error), STATUS_ABSENT);
    world_free(to);
}

static void test_a_flipped_byte_is_seen(void **state) {
    struct world *from = *state, *to = another(from);
    struct store *look;
    struct store_import *i;
    rows_write(from, "a=1 b=2");
    size_t bytes = stream_of(from, 4096);
    for (size_t k = 0; k < 40; k++) {
        size_t at = k < 20 ? k * (bytes / 20) : bytes - 1 - (k - 20) % 8;
        stream[at] ^= 1;
        assert_int_equal(store_import_begin(to->store, bytes, &i, error), STATUS_OK);
        enum status st = store_import_write(i, slice_of(stream, bytes), error); /* the list of files may already make no sense */
        if (!st) st = store_import_finish(i, &look, error);
        assert_true(st == STATUS_CHECKSUM_MISMATCH || st == STATUS_FORMAT_UNKNOWN);
        store_import_free(i, false);
        stream[at] ^= 1;
    }
    assert_int_equal(store_import_begin(to->store, bytes, &i, error), STATUS_OK);
    assert_int_equal(store_import_write(i, slice_of(stream, bytes), error), STATUS_OK);
    assert_int_equal(store_import_write(i, slice_of(stream, 1), error), STATUS_CHECKSUM_MISMATCH); /* longer than was said */
    store_import_free(i, false);
    assert_int_equal(store_import_begin(to->store, 3, &i, error), STATUS_CHECKSUM_MISMATCH);
    assert_rows(to, "");
    world_free(to);
}

static void test_mem_full_disk(void **state) {
    struct world *w = *state;
    struct store_import *i;
    struct store_checkpoint *c;
    rows_write(w, "a=1");
    size_t bytes = stream_of(w, 4096);
    store_mem_disk_set_full(w->disk, true);
    assert_int_equal(store_checkpoint_make(w->store, &c, error), STATUS_DISK_FULL);
    assert_int_equal(store_import_begin(w->store, bytes, &i, error), STATUS_OK);
    assert_int_equal(store_import_write(i, slice_of(stream, bytes), error), STATUS_DISK_FULL);
    store_import_free(i, false);
}

static void path_of(const struct world *w, const char *what, char out[128]) { snprintf(out, 128, "%s.%s", w->path, what); }

static void test_rocks_an_installation_goes_on_after_a_crash(void **state) {
    struct world *from = *state;
    char import[128], install[128], file[160];
    struct stat s;
    rows_write(from, "a=1");
    for (unsigned crash = 0; crash < 3; crash++) {
        struct world *to = another(from);
        rows_write(to, "z=old");
        assert_int_equal(store_flush(to->store), STATUS_OK);
        struct store_import *i = import_of(to, stream_of(from, 4096), 4096);
        finish(to, i, "a=1");
        store_import_free(i, true);
        world_close(to);
        path_of(to, "import", import), path_of(to, "install", install);
        assert_int_equal(rename(import, install), 0); /* the decision */
        snprintf(file, sizeof file, "%s/CURRENT", to->path);
        if (crash == 1) assert_int_equal(unlink(file), 0); /* the old one half removed */
        if (crash == 2) remove_tree(to->path);
        world_open(to);
        assert_rows(to, "a=1");
        assert_int_not_equal(stat(install, &s), 0);
        world_free(to);
    }
}

static void test_rocks_what_a_crash_left_is_removed(void **state) {
    struct world *w = *state;
    char name[128];
    struct stat s;
    rows_write(w, "a=1");
    struct store_checkpoint *c = checkpoint_of(w);
    path_of(w, "checkpoint", name);
    assert_int_equal(stat(name, &s), 0);
    world_reopen(w);
    assert_int_not_equal(stat(name, &s), 0);
    assert_int_equal(store_checkpoint_read(c, 0, stream, (size_t)store_checkpoint_bytes(c)), STATUS_IO_FAILED);
    store_checkpoint_free(c);
    struct store_import *i = import_of(w, stream_of(w, 4096), 4096);
    path_of(w, "import", name);
    assert_int_equal(stat(name, &s), 0);
    store_import_free(i, false);
    assert_int_not_equal(stat(name, &s), 0);
    assert_rows(w, "a=1");
}

static void test_rocks_what_is_dropped_is_put_aside_and_swept(void **state) {
    struct world *w = *state;
    char gone[128], import[128];
    struct stat s;
    path_of(w, "gone", gone), path_of(w, "import", import);
    for (unsigned round = 0; round < 3; round++) { /* the second one finds what the first has left: a crash came before it was swept */
        rows_write(w, "a=1 b=2");
        assert_int_equal(store_flush(w->store), STATUS_OK);
        store_import_free(import_of(w, stream_of(w, 4096), 4096), true);
        assert_int_equal(stat(import, &s), 0);
        world_close(w);
        assert_int_equal(store_drop_rocks(w->path, error), STATUS_OK);
        assert_int_not_equal(stat(w->path, &s), 0);
        assert_int_not_equal(stat(import, &s), 0);
        assert_int_equal(stat(gone, &s), 0);
        if (round == 1) assert_int_equal(store_drop_rocks(w->path, error), STATUS_OK); /* again, after a crash */
        world_open(w);
        assert_rows(w, "");
        if (round == 0) continue;
        store_sweep_rocks(w->path);
        assert_int_not_equal(stat(gone, &s), 0);
        store_sweep_rocks(w->path);
        assert_rows(w, "");
    }
}

#define BOTH(test) {#test " (memory)", test, world_setup_mem, world_teardown, NULL}, {#test " (RocksDB)", test, world_setup_rocks, world_teardown, NULL}

int main(void) {
    const struct CMUnitTest tests[] = {
        BOTH(test_a_state_takes_another_stores_place),
        BOTH(test_the_store_goes_on_beside_its_checkpoint),
        BOTH(test_an_empty_store_has_a_stream_too),
        BOTH(test_a_finished_import_is_found_after_a_restart_and_no_other),
        BOTH(test_a_flipped_byte_is_seen),
        cmocka_unit_test_setup_teardown(test_mem_full_disk, world_setup_mem, world_teardown),
        cmocka_unit_test_setup_teardown(test_rocks_an_installation_goes_on_after_a_crash, world_setup_rocks, world_teardown),
        cmocka_unit_test_setup_teardown(test_rocks_what_a_crash_left_is_removed, world_setup_rocks, world_teardown),
        cmocka_unit_test_setup_teardown(test_rocks_what_is_dropped_is_put_aside_and_swept, world_setup_rocks, world_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
