/* The promises of engine/store.h, each run against both stores; then the faults of each. */
#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/store.h"
#include "proto/base/mem.h"

static const char *name_of(enum status st) {
    static const char *const names[] = {
#define STATUS(name, code, reason, retry) #name,
#include "proto/status.tbl"
#undef STATUS
    };
    return names[st];
}

/* One world per test: a store that can be closed and opened again. */
struct world {
    bool rocks;
    struct store_mem_disk *disk; /* in memory */
    char dir[64], path[80];      /* RocksDB: a directory of our own, the store's inside */
    uint64_t memtable_bytes;
    struct store_shared *shared;
    struct store *store;
    struct arena arena;
};

static enum status world_try_open(struct world *w, char error[256]) {
    struct store_config config = {.memtable_bytes = w->memtable_bytes, .shared = w->shared};
    return w->rocks ? store_open_rocks(&w->store, w->path, &config, error) : store_open_mem(&w->store, w->disk);
}
static void world_open(struct world *w) {
    char error[256] = "";
    enum status st = world_try_open(w, error);
    if (st) print_error("%s\n", error);
    assert_int_equal(st, STATUS_OK);
}
static void world_close(struct world *w) {
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.snapshots, 0);
    assert_int_equal(stats.iterators, 0);
    store_close(w->store);
    w->store = NULL;
}
static void world_reopen(struct world *w) {
    world_close(w);
    world_open(w);
}
static struct world *world_new(bool rocks) {
    struct world *w = mem_new(struct world);
    w->rocks = rocks;
    w->memtable_bytes = 4 * MIB;
    arena_init(&w->arena, 64 * MIB);
    if (rocks) {
        strcpy(w->dir, "/tmp/test_store.XXXXXX");
        assert_non_null(mkdtemp(w->dir));
        snprintf(w->path, sizeof w->path, "%s/part", w->dir);
        w->shared = store_shared_new(16 * MIB, 1);
    } else {
        w->disk = store_mem_disk_new();
    }
    return w;
}
static int setup_mem(void **state) {
    world_open(*state = world_new(false));
    return 0;
}
static int setup_rocks(void **state) {
    world_open(*state = world_new(true));
    return 0;
}
static void remove_tree(const char *path) {
    DIR *dir = opendir(path);
    if (dir) {
        for (const struct dirent *d; (d = readdir(dir));) {
            char name[512];
            if (d->d_name[0] == '.') continue;
            snprintf(name, sizeof name, "%s/%s", path, d->d_name);
            remove_tree(name);
        }
        closedir(dir);
    }
    remove(path);
}
static int teardown(void **state) {
    struct world *w = *state;
    if (w->store) world_close(w);
    store_mem_disk_free(w->disk);
    store_shared_free(w->shared);
    if (w->rocks) remove_tree(w->dir);
    arena_fini(&w->arena);
    mem_free(w);
    return 0;
}

/* ---- builders */

static struct store_view newest(struct world *w) { return (struct store_view){.store = w->store}; }
static void put(struct store_batch *b, const char *key, const char *value) { store_batch_put(b, slice_str(key), slice_str(value)); }
static void del(struct store_batch *b, const char *key) { store_batch_delete(b, slice_str(key)); }
/* "a=1 b=2 -c": puts and deletes as one batch. */
static void write_rows(struct world *w, const char *rows) {
    struct store_batch *b = store_batch_new(w->store);
    char text[512];
    snprintf(text, sizeof text, "%s", rows);
    for (char *save, *t = strtok_r(text, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
        char *eq = strchr(t, '=');
        if (t[0] == '-') del(b, t + 1);
        else *eq = 0, put(b, t, eq + 1);
    }
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
}
static const char *get(struct world *w, const struct store_view *view, const char *key) {
    struct slice v;
    enum status st = store_get(view, slice_str(key), &w->arena, &v);
    if (st) return name_of(st);
    return arena_printf(&w->arena, "%.*s", (int)v.len, (const char *)v.data);
}
static const char *scan(struct world *w, const struct store_view *view, const char *lower, const char *upper, bool back) {
    char text[4096] = "";
    size_t len = 0;
    struct store_iter *it = store_iter_open(view, slice_str(lower), slice_str(upper));
    assert_non_null(it);
    for (back ? store_iter_last(it) : store_iter_first(it); store_iter_valid(it); back ? store_iter_prev(it) : store_iter_next(it)) {
        struct slice k = store_iter_key(it), v = store_iter_value(it);
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%.*s=%.*s", len ? " " : "", (int)k.len, (const char *)k.data, (int)v.len, (const char *)v.data);
    }
    if (store_iter_status(it)) snprintf(text + len, sizeof text - len, "!%s", name_of(store_iter_status(it)));
    store_iter_close(it);
    return arena_printf(&w->arena, "%s", text);
}

/* ---- reads and writes */

static void test_get_of_what_was_applied(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    assert_string_equal(get(w, &v, "a"), "ABSENT");
    write_rows(w, "a=1 b=2");
    assert_string_equal(get(w, &v, "a"), "1");
    write_rows(w, "a=3 -b");
    assert_string_equal(get(w, &v, "a"), "3");
    assert_string_equal(get(w, &v, "b"), "ABSENT");
}

static void test_batch_sees_its_own_writes_and_nobody_else_does(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 b=2 d=4");
    struct store_batch *b = store_batch_new(w->store);
    struct store_view mine = {.store = w->store, .batch = b}, others = newest(w);
    put(b, "a", "9"), put(b, "c", "3"), del(b, "b"), put(b, "e", "5"), del(b, "e"), put(b, "a", "10");
    assert_string_equal(get(w, &mine, "a"), "10");
    assert_string_equal(get(w, &mine, "b"), "ABSENT");
    assert_string_equal(get(w, &mine, "d"), "4");
    assert_string_equal(get(w, &mine, "e"), "ABSENT");
    assert_string_equal(get(w, &others, "a"), "1");
    assert_string_equal(get(w, &others, "c"), "ABSENT");
    assert_string_equal(scan(w, &mine, "", "", false), "a=10 c=3 d=4");
    assert_string_equal(scan(w, &mine, "", "", true), "d=4 c=3 a=10");
    assert_string_equal(scan(w, &mine, "b", "d", false), "c=3");
    assert_string_equal(scan(w, &others, "", "", false), "a=1 b=2 d=4");
    put(b, "aa", "1");
    assert_string_equal(scan(w, &mine, "", "", false), "a=10 aa=1 c=3 d=4");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(scan(w, &others, "", "", false), "a=10 aa=1 c=3 d=4");
    store_batch_free(b);
}

static void test_cleared_batch_writes_nothing(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    put(b, "a", "12345");
    assert_int_equal(store_batch_bytes(b), 6);
    store_batch_clear(b);
    assert_int_equal(store_batch_bytes(b), 0);
    struct store_view mine = {.store = w->store, .batch = b}, v = newest(w);
    assert_string_equal(get(w, &mine, "a"), "ABSENT");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(get(w, &v, "a"), "ABSENT");
    store_batch_free(b);
}

static void test_batch_over_a_state_that_moved_on(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    put(b, "b", "mine");
    struct store_view mine = {.store = w->store, .batch = b}, v = newest(w);
    assert_string_equal(scan(w, &mine, "", "", false), "b=mine");
    write_rows(w, "a=1 b=2 c=3");
    assert_string_equal(scan(w, &mine, "", "", false), "a=1 b=mine c=3");
    assert_string_equal(get(w, &mine, "c"), "3");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(scan(w, &v, "", "", false), "a=1 b=mine c=3");
    store_batch_free(b);
}

static void test_full_arena_is_refused(void **state) {
    struct world *w = *state;
    uint8_t big[8192] = {1};
    struct store_batch *b = store_batch_new(w->store);
    store_batch_put(b, slice_str("a"), slice_of(big, sizeof big));
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    struct arena small;
    arena_init(&small, 4096);
    struct store_view v = newest(w);
    struct slice value;
    assert_int_equal(store_get(&v, slice_str("a"), &small, &value), STATUS_MEMORY_LIMIT);
    arena_fini(&small);
}

static void test_empty_value_and_keys_with_any_bytes(void **state) {
    struct world *w = *state;
    const uint8_t low[] = {0, 0, 0}, high[] = {0xff, 0xff, 0xff};
    struct store_batch *b = store_batch_new(w->store);
    store_batch_put(b, slice_of(low, 3), (struct slice){0});
    store_batch_put(b, slice_of(high, 3), slice_of(low, 3));
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    struct store_view v = newest(w);
    struct slice value;
    assert_int_equal(store_get(&v, slice_of(low, 3), &w->arena, &value), STATUS_OK);
    assert_int_equal(value.len, 0);
    assert_int_equal(store_get(&v, slice_of(high, 3), &w->arena, &value), STATUS_OK);
    assert_true(slice_equal(value, slice_of(low, 3)));
    struct store_iter *it = store_iter_open(&v, (struct slice){0}, (struct slice){0});
    store_iter_last(it);
    assert_true(store_iter_valid(it));
    assert_true(slice_equal(store_iter_key(it), slice_of(high, 3)));
    store_iter_close(it);
}

/* ---- snapshots and iterators */

static void test_snapshot_stays_as_it_was(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 b=2");
    struct store_snapshot *s = store_snapshot_get(w->store);
    struct store_view old = {.store = w->store, .snapshot = s}, v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str(""), slice_str("")); /* opened before the write: as a snapshot */
    write_rows(w, "a=9 -b c=3");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_string_equal(scan(w, &old, "", "", false), "a=1 b=2");
    assert_string_equal(get(w, &old, "c"), "ABSENT");
    assert_string_equal(scan(w, &v, "", "", false), "a=9 c=3");
    store_iter_first(it);
    assert_true(slice_equal(store_iter_value(it), SLICE_LIT("1")));
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.snapshots, 1);
    assert_int_equal(stats.iterators, 1);
    store_iter_close(it);
    store_snapshot_put(w->store, s);
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.snapshots, 0);
    assert_int_equal(stats.iterators, 0);
}

static void check_at(struct store_iter *it, const char *key) {
    assert_int_equal(store_iter_status(it), STATUS_OK);
    assert_int_equal(store_iter_valid(it), key != NULL);
    if (key) assert_true(slice_equal(store_iter_key(it), slice_str(key)));
}
static void check_moves(struct store_iter *it) { /* rows b d f h inside [b, i) */
    store_iter_first(it), check_at(it, "b");
    store_iter_prev(it), check_at(it, NULL);
    store_iter_last(it), check_at(it, "h");
    store_iter_next(it), check_at(it, NULL);
    store_iter_seek(it, slice_str("c")), check_at(it, "d");
    store_iter_prev(it), check_at(it, "b");
    store_iter_next(it), check_at(it, "d");
    store_iter_next(it), check_at(it, "f");
    store_iter_seek(it, slice_str("f")), check_at(it, "f");
    store_iter_seek_back(it, slice_str("g")), check_at(it, "f");
    store_iter_seek_back(it, slice_str("f")), check_at(it, "f");
    store_iter_next(it), check_at(it, "h");
    store_iter_seek(it, slice_str("a")), check_at(it, "b");
    store_iter_seek(it, slice_str("z")), check_at(it, NULL);
    store_iter_seek(it, slice_str("i")), check_at(it, NULL);
    store_iter_seek(it, slice_str("hh")), check_at(it, NULL);
    store_iter_seek_back(it, slice_str("z")), check_at(it, "h");
    store_iter_seek_back(it, slice_str("a")), check_at(it, NULL);
    store_iter_seek_back(it, slice_str("b")), check_at(it, "b");
}
static void test_iterator_moves_inside_its_bounds(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 b=2 d=4 f=6 h=8 i=9 k=0");
    struct store_view v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str("b"), slice_str("i"));
    check_moves(it);
    store_iter_close(it);
    it = store_iter_open(&v, slice_str("e"), slice_str("f"));
    store_iter_first(it), check_at(it, NULL);
    store_iter_last(it), check_at(it, NULL);
    store_iter_close(it);
}
static void test_iterator_over_a_batch_moves_inside_its_bounds(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 c=3 d=4 g=7 h=8 k=0");
    struct store_batch *b = store_batch_new(w->store);
    put(b, "b", "2"), del(b, "c"), put(b, "f", "6"), del(b, "g"), put(b, "i", "9"), put(b, "h", "88"), put(b, "z", "0");
    struct store_view mine = {.store = w->store, .batch = b};
    struct store_iter *it = store_iter_open(&mine, slice_str("b"), slice_str("i"));
    check_moves(it);
    store_iter_close(it);
    assert_string_equal(scan(w, &mine, "b", "i", false), "b=2 d=4 f=6 h=88");
    assert_string_equal(scan(w, &mine, "b", "i", true), "h=88 f=6 d=4 b=2");
    store_batch_free(b);
}

/* ---- durability */

static void test_flushed_rows_survive_a_reopen(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 b=2");
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_true(stats.unflushed_bytes >= 4);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.unflushed_bytes, 0);
    world_reopen(w);
    struct store_view v = newest(w);
    assert_string_equal(scan(w, &v, "", "", false), "a=1 b=2");
    write_rows(w, "-a");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_reopen(w);
    v = newest(w);
    assert_string_equal(scan(w, &v, "", "", false), "b=2");
}

static void test_unflushed_rows_are_lost_with_the_store(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    write_rows(w, "a=2 b=2");
    world_reopen(w);
    struct store_view v = newest(w);
    assert_string_equal(scan(w, &v, "", "", false), "a=1");
}

static void test_range_bytes_estimate(void **state) {
    struct world *w = *state;
    assert_int_equal(store_range_bytes(w->store, slice_str("a"), slice_str("z")), 0);
    struct store_batch *b = store_batch_new(w->store);
    uint8_t value[1024];
    for (size_t i = 0; i < sizeof value; i++) value[i] = (uint8_t)(i * 2654435761u >> 13);
    for (unsigned i = 0; i < 1000; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%04u", i);
        memcpy(value, key, 5);
        store_batch_put(b, slice_str(key), slice_of(value, sizeof value));
    }
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    uint64_t all = store_range_bytes(w->store, slice_str("k"), slice_str("l")), half = store_range_bytes(w->store, slice_str("k0500"), slice_str("l"));
    assert_true(all > 0);
    assert_true(half <= all);
    assert_int_equal(store_range_bytes(w->store, slice_str("x"), slice_str("z")), 0);
}

/* ---- the store in memory: its faults */

static void test_mem_full_disk_fails_the_store_until_reopened(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    write_rows(w, "b=2");
    store_mem_disk_set_full(w->disk, true);
    assert_int_equal(store_flush(w->store), STATUS_DISK_FULL);
    store_mem_disk_set_full(w->disk, false);
    struct store_batch *b = store_batch_new(w->store);
    put(b, "c", "3");
    assert_int_equal(store_apply(w->store, b), STATUS_DISK_FULL);
    store_batch_free(b);
    struct store_view v = newest(w);
    assert_string_equal(scan(w, &v, "", "", false), "a=1 b=2"); /* reads go on, nothing of the refused batch is there */
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_true(stats.failed);
    assert_int_equal(stats.pressure, 2);
    world_reopen(w);
    v = newest(w);
    assert_string_equal(scan(w, &v, "", "", false), "a=1");
    write_rows(w, "b=2");
    assert_int_equal(store_flush(w->store), STATUS_OK);
}

static void test_mem_cold_and_faulty_reads(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1");
    struct store_view cached = {.store = w->store, .cached_only = true}, v = newest(w);
    store_mem_disk_set_cold(w->disk, true);
    assert_string_equal(get(w, &cached, "a"), "WOULD_BLOCK");
    assert_string_equal(scan(w, &cached, "", "", false), "!WOULD_BLOCK");
    assert_string_equal(get(w, &v, "a"), "1");
    store_mem_disk_set_cold(w->disk, false);
    assert_string_equal(get(w, &cached, "a"), "1");
    store_mem_disk_set_read_fault(w->disk, STATUS_CHECKSUM_MISMATCH);
    assert_string_equal(get(w, &v, "a"), "CHECKSUM_MISMATCH");
    assert_string_equal(scan(w, &v, "", "", true), "!CHECKSUM_MISMATCH");
    store_mem_disk_set_read_fault(w->disk, STATUS_OK);
    store_mem_disk_set_pressure(w->disk, 1);
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.pressure, 1);
}

static struct slice dedup_row(uint8_t value[8], uint64_t expiry_us) {
    put_be64(value, expiry_us);
    return slice_of(value, 8);
}
static void test_mem_expired_rows_are_dropped(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    uint8_t value[8];
    store_batch_put(b, SLICE_LIT("\1\1D1"), dedup_row(value, 100));
    store_batch_put(b, SLICE_LIT("\1\1D2"), dedup_row(value, 101));
    store_batch_put(b, SLICE_LIT("\1\1H1"), dedup_row(value, 1));
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    store_set_expiry(w->store, 'D', 100);
    struct store_view v = newest(w);
    assert_string_equal(get(w, &v, "\1\1D1"), "ABSENT");
    struct slice row;
    assert_int_equal(store_get(&v, SLICE_LIT("\1\1D2"), &w->arena, &row), STATUS_OK);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\1H1"), &w->arena, &row), STATUS_OK);
}

/* Every allocation of a life of a store fails once: the batch is applied or refused as a whole, nothing leaks, reads stay right. */
static void test_mem_every_allocation_may_fail(void **state) {
    struct world *w = *state;
    write_rows(w, "a=1 b=2 c=3 d=4 e=5 f=6");
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        uint64_t before = mem_count();
        struct store_batch *b = store_batch_new(w->store);
        enum status st = STATUS_MEMORY_LIMIT, read = STATUS_OK;
        if (b) {
            put(b, "a", "9"), del(b, "c"), put(b, "g", "7"), put(b, "bb", "0"), del(b, "e");
            struct store_view mine = {.store = w->store, .batch = b};
            struct store_iter *it = store_iter_open(&mine, slice_str("a"), slice_str("z"));
            store_iter_first(it);
            if (!store_iter_valid(it)) read = store_iter_status(it);
            store_iter_close(it);
            struct store_snapshot *snapshot = store_snapshot_get(w->store);
            store_snapshot_put(w->store, snapshot);
            st = store_apply(w->store, b);
            store_batch_free(b);
        }
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        assert_true(read == STATUS_OK || read == STATUS_MEMORY_LIMIT);
        struct store_view v = newest(w);
        assert_string_equal(scan(w, &v, "", "", false), st ? "a=1 b=2 c=3 d=4 e=5 f=6" : "a=9 b=2 bb=0 d=4 f=6 g=7");
        if (!st) write_rows(w, "a=1 c=3 e=5 -g -bb");
        if (!reached) break;
    }
}

static void test_mem_a_hundred_thousand_rows(void **state) {
    struct world *w = *state;
    enum { ROWS = 100000, STEP = 7919 };
    for (unsigned i = 0; i < ROWS;) {
        struct store_batch *b = store_batch_new(w->store);
        for (unsigned j = 0; j < 500; j++, i++) {
            uint8_t key[4];
            put_be32(key, (uint32_t)(((uint64_t)i * STEP) % ROWS));
            store_batch_put(b, slice_of(key, 4), slice_of(key, 4));
        }
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        store_batch_free(b);
    }
    struct store_view v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str(""), slice_str(""));
    uint32_t n = 0;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) assert_int_equal(get_be32(store_iter_key(it).data), n++);
    assert_int_equal(n, ROWS);
    store_iter_close(it);
    assert_int_equal(store_range_bytes(w->store, slice_str(""), slice_str("")), ROWS * 8);
}

#define MEM(test) {#test, test, setup_mem, teardown, NULL}
#define ROCKS(test) {#test " (rocks)", test, setup_rocks, teardown, NULL}
#define BOTH(test) MEM(test), ROCKS(test)
int main(void) {
    const struct CMUnitTest tests[] = {
        BOTH(test_get_of_what_was_applied),
        BOTH(test_batch_sees_its_own_writes_and_nobody_else_does),
        BOTH(test_cleared_batch_writes_nothing),
        BOTH(test_batch_over_a_state_that_moved_on),
        BOTH(test_full_arena_is_refused),
        BOTH(test_empty_value_and_keys_with_any_bytes),
        BOTH(test_snapshot_stays_as_it_was),
        BOTH(test_iterator_moves_inside_its_bounds),
        BOTH(test_iterator_over_a_batch_moves_inside_its_bounds),
        BOTH(test_flushed_rows_survive_a_reopen),
        BOTH(test_unflushed_rows_are_lost_with_the_store),
        BOTH(test_range_bytes_estimate),
        MEM(test_mem_full_disk_fails_the_store_until_reopened),
        MEM(test_mem_cold_and_faulty_reads),
        MEM(test_mem_expired_rows_are_dropped),
        MEM(test_mem_every_allocation_may_fail),
        MEM(test_mem_a_hundred_thousand_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
