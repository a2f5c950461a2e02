/* The way of recent rows into RocksDB, behind store.h: what reads see while tables are frozen, written, ingested and freed around them; files and budget; rows read ahead. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "tests/lib/store_world.h"

/* ---- one state, while tables are frozen, ingested and freed around it */

static void count_put(struct store_batch *b, unsigned key, uint32_t n) {
    uint8_t k[2] = {(uint8_t)(key >> 8), (uint8_t)key}, v[4];
    put_be32(v, n);
    store_batch_put(b, slice_of(k, 2), slice_of(v, 4));
}
/* Every key of [0, n) holds `value` but for each seventh, which is deleted; both ways, and by point reads. */
static void check_counts(struct world *w, const struct store_view *v, unsigned n, uint32_t value) {
    for (int back = 0; back < 2; back++) {
        struct store_iter *it = store_iter_open(v, slice_str(""), slice_str(""));
        unsigned seen = 0, expect = n - (n + 6) / 7;
        for (back ? store_iter_last(it) : store_iter_first(it); store_iter_valid(it); back ? store_iter_prev(it) : store_iter_next(it), seen++) {
            unsigned key = get_be16(store_iter_key(it).data);
            assert_true(key % 7 != 0);
            assert_int_equal(get_be32(store_iter_value(it).data), value);
        }
        assert_int_equal(store_iter_status(it), STATUS_OK);
        assert_int_equal(seen, expect);
        store_iter_close(it);
    }
    for (unsigned key = 0; key < n; key += 11) {
        uint8_t k[2] = {(uint8_t)(key >> 8), (uint8_t)key};
        struct slice row;
        assert_int_equal(store_get(v, slice_of(k, 2), &w->arena, &row), key % 7 ? STATUS_OK : STATUS_ABSENT);
        if (key % 7) assert_int_equal(get_be32(row.data), value);
    }
    arena_reset(&w->arena);
}
static void test_views_stay_as_they_were_across_runs(void **state) {
    enum { KEYS = 300, ROUNDS = 12 };
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    struct store_snapshot *snapshots[ROUNDS];
    struct store_iter *iters[ROUNDS];
    for (uint32_t n = 0; n < ROUNDS; n++) {
        store_batch_clear(b);
        for (unsigned key = 0; key < KEYS; key++) {
            uint8_t k[2] = {(uint8_t)(key >> 8), (uint8_t)key};
            if (key % 7) count_put(b, key, n);
            else if (n % 2) store_batch_delete(b, slice_of(k, 2));
            else count_put(b, key, n), store_batch_delete(b, slice_of(k, 2));
        }
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        struct store_view v = newest(w);
        snapshots[n] = store_snapshot_get(w->store);
        iters[n] = store_iter_open(&v, slice_str(""), slice_str(""));
        store_iter_first(iters[n]);
        check_counts(w, &v, KEYS, n);
        if (n % 3 == 2) assert_int_equal(store_flush(w->store), STATUS_OK);
        check_counts(w, &v, KEYS, n);
        for (uint32_t i = 0; i <= n; i++) {
            v.snapshot = snapshots[i];
            check_counts(w, &v, KEYS, i);
            for (unsigned step = 0; step < 9; step++) { /* forth, and some of it back */
                assert_int_equal(get_be32(store_iter_value(iters[i]).data), i);
                if (step % 3 == 2) store_iter_prev(iters[i]);
                else store_iter_next(iters[i]);
            }
        }
    }
    for (uint32_t n = 0; n < ROUNDS; n++) store_iter_close(iters[n]), store_snapshot_put(w->store, snapshots[n]);
    store_batch_free(b);
    world_reopen(w);
    struct store_view v = newest(w);
    check_counts(w, &v, KEYS, ROUNDS - 1);
}

/* Rows in the files, in a frozen table, in the active one and in a batch, mixed; against the store in memory, which has one place for all. */
static void test_merged_reads_are_those_of_one_table(void **state) {
    struct world *w = *state, *m = world_new(false);
    struct test_random r = {3};
    world_close(w);
    w->growing = SLICE_LIT("k\3"); /* some ranges are of one family, most of both */
    world_open(w), world_open(m);
    for (unsigned round = 0; round < 60; round++) {
        struct store_batch *b[2] = {store_batch_new(w->store), store_batch_new(m->store)};
        struct world *worlds[2] = {w, m};
        for (unsigned i = 0; i < 30; i++) {
            uint8_t key[3] = {'k', (uint8_t)test_random_below(&r, 6), (uint8_t)test_random_below(&r, 40)}, value[3];
            bool deleted = test_random_below(&r, 3) == 0;
            put_be16(value, (uint16_t)(round * 50 + i));
            for (unsigned k = 0; k < 2; k++)
                if (deleted) store_batch_delete(b[k], slice_of(key, 3));
                else store_batch_put(b[k], slice_of(key, 3), slice_of(value, 2));
        }
        for (unsigned over = 0; over < 2; over++) { /* with the batch, and without when it is applied */
            struct store_iter *it[2];
            uint8_t lower[2] = {'k', (uint8_t)test_random_below(&r, 3)}, upper[2] = {'k', (uint8_t)(3 + test_random_below(&r, 4))};
            for (unsigned k = 0; k < 2; k++) {
                struct store_view v = {.store = worlds[k]->store, .batch = over ? NULL : b[k]};
                if (over) assert_int_equal(store_apply(worlds[k]->store, b[k]), STATUS_OK);
                it[k] = store_iter_open(&v, slice_of(lower, 2), slice_of(upper, 2));
            }
            for (unsigned step = 0; step < 300; step++) {
                uint8_t key[3] = {'k', (uint8_t)test_random_below(&r, 7), (uint8_t)test_random_below(&r, 41)};
                uint64_t move = test_random_below(&r, 20);
                for (unsigned k = 0; k < 2; k++) {
                    if (move == 0) store_iter_first(it[k]);
                    else if (move == 1) store_iter_last(it[k]);
                    else if (move == 2 || (!store_iter_valid(it[k]) && move % 2)) store_iter_seek(it[k], slice_of(key, 3));
                    else if (move == 3 || !store_iter_valid(it[k])) store_iter_seek_back(it[k], slice_of(key, 3));
                    else if (move < 12 + (step & 3)) store_iter_next(it[k]);
                    else store_iter_prev(it[k]);
                }
                assert_int_equal(store_iter_valid(it[0]), store_iter_valid(it[1]));
                if (!store_iter_valid(it[0])) continue;
                assert_true(slice_equal(store_iter_key(it[0]), store_iter_key(it[1])));
                assert_true(slice_equal(store_iter_value(it[0]), store_iter_value(it[1])));
            }
            store_iter_close(it[0]), store_iter_close(it[1]);
        }
        store_batch_free(b[0]), store_batch_free(b[1]);
        if (test_random_below(&r, 3) == 0) assert_int_equal(store_flush(w->store), STATUS_OK);
    }
    world_free(m);
}

/* ---- files of runs */

static void run_name(struct world *w, unsigned n, char out[128]) { snprintf(out, 128, "%s/RUN-%u", w->path, n); }

static unsigned tables_count(const struct world *w) {
    unsigned n = 0;
    DIR *dir = opendir(w->path);
    for (const struct dirent *d; (d = readdir(dir));) n += strstr(d->d_name, ".sst") != NULL;
    closedir(dir);
    return n;
}
static void events_put(struct store_batch *b, struct test_random *r, unsigned run, unsigned count, size_t bytes) {
    static uint8_t value[64 << 10];
    for (unsigned i = 0; i < count; i++) {
        uint8_t key[5] = {0xff, 0xff, 'E', (uint8_t)run, (uint8_t)i};
        for (size_t at = 0; at < bytes; at += 8) put_be64(value + at, test_random_next(r)); /* they do not compress */
        store_batch_put(b, slice_of(key, 5), slice_of(value, bytes));
    }
}
static unsigned events_count(struct world *w) {
    struct store_view v = newest(w);
    struct store_iter *it = store_iter_open(&v, SLICE_LIT("\xff\xff" "E"), SLICE_LIT("\xff\xff" "F"));
    unsigned rows = 0;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) rows++;
    assert_int_equal(store_iter_status(it), STATUS_OK);
    store_iter_close(it);
    return rows;
}

static void test_growing_keys_are_never_merged(void **state) {
    struct world *w = *state;
    struct test_random r = {9};
    struct store_stats stats;
    world_close(w);
    w->growing = SLICE_LIT("\xff\xff" "E"), w->memtable_bytes = 64 * MIB;
    world_open(w);
    struct store_batch *b = store_batch_new(w->store);
    for (unsigned run = 0; run < 3; run++) {
        store_batch_clear(b);
        rows_put(b, "a", "1"), rows_put(b, "\xff\xff" "A", "2"), rows_put(b, "\xff\xff" "F", "3");
        events_put(b, &r, run, 40, 64 << 10);
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        assert_int_equal(store_flush(w->store), STATUS_OK);
    }
    store_batch_free(b);
    for (unsigned opened = 0; opened < 2; opened++) {
        usleep(12000); /* figures are at most that old */
        store_get_stats(w->store, &stats);
        assert_true(stats.level0_files <= 3); /* the growing ones are not among them */
        assert_true(stats.table_bytes > 7 << 20);
        assert_true(stats.merge_bytes_max > 0 && stats.merge_bytes_max < 1 << 20);
        assert_true(stats.table_readers_bytes > 0);
        struct store_view v = newest(w);
        assert_string_equal(rows_get(w, &v, "a"), "1");
        assert_string_equal(rows_get(w, &v, "\xff\xff" "A"), "2");
        assert_string_equal(rows_get(w, &v, "\xff\xff" "F"), "3");
        struct slice row;
        assert_int_equal(store_get(&v, SLICE_LIT("\xff\xff" "E\2\7"), &w->arena, &row), STATUS_OK);
        assert_int_equal(row.len, 64 << 10);
        assert_int_equal(events_count(w), 120);
        assert_true(store_range_bytes(w->store, SLICE_LIT("\xff\xff" "E"), SLICE_LIT("\xff\xff" "E\2")) > 4 << 20);
        world_reopen(w);
    }
    store_drop_range(w->store, SLICE_LIT("\xff\xff" "E"), SLICE_LIT("\xff\xff" "E\2"));
    assert_int_equal(events_count(w), 40);
    char error[256];
    world_close(w);
    w->growing = (struct slice){0};
    assert_int_equal(world_try_open(w, error), STATUS_FORMAT_UNKNOWN);
    assert_non_null(strstr(error, "growing rows"));
    w->growing = SLICE_LIT("\xff\xff" "E");
    world_open(w);
}

/* A partition that writes little flushes small tables: their growing files are made one, sixteen at a time. */
static void test_small_growing_files_become_one(void **state) {
    struct world *w = *state;
    struct test_random r = {5};
    world_close(w);
    w->growing = SLICE_LIT("\xff\xff" "E");
    world_open(w);
    struct store_batch *b = store_batch_new(w->store);
    for (unsigned run = 0; run < 64; run++) {
        store_batch_clear(b);
        events_put(b, &r, run, 2, 512);
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        assert_int_equal(store_flush(w->store), STATUS_OK);
    }
    store_batch_free(b);
    for (unsigned i = 0; i < 1000 && tables_count(w) > 4; i++) usleep(10000); /* the last ones, and files that are no longer needed */
    assert_int_equal(tables_count(w), 4);
    assert_int_equal(events_count(w), 128);
    world_reopen(w);
    assert_int_equal(events_count(w), 128);
}

/* A directory from before there were two families: it keeps one. */
static void test_older_directory_keeps_one_family(void **state) {
    struct world *w = *state;
    struct test_random r = {6};
    struct store_batch *b;
    for (unsigned run = 0; run < 3; run++) {
        b = store_batch_new(w->store);
        rows_put(b, "a", "1");
        events_put(b, &r, run, 40, 64 << 10);
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        assert_int_equal(store_flush(w->store), STATUS_OK);
        store_batch_free(b);
        world_close(w);
        w->growing = SLICE_LIT("\xff\xff" "E"); /* from the second on */
        world_open(w);
        assert_int_equal(events_count(w), 40 * (run + 1));
        assert_string_equal(rows_get(w, &(struct store_view){.store = w->store}, "a"), "1");
    }
    world_close(w);
    w->growing = (struct slice){0};
    world_open(w);
    assert_int_equal(events_count(w), 120);
}

static void test_files_that_a_crash_left_are_removed(void **state) {
    struct world *w = *state;
    char name[128];
    world_close(w);
    for (unsigned n = 0; n < 3; n += 2) {
        run_name(w, n, name);
        int fd = open(name, O_WRONLY | O_CREAT, 0600);
        assert_int_equal(write(fd, "half a run", 10), 10);
        close(fd);
    }
    world_open(w);
    run_name(w, 0, name);
    assert_int_equal(access(name, F_OK), -1);
    run_name(w, 2, name);
    assert_int_equal(access(name, F_OK), -1);
}

/* Faster than runs can be written, and nobody looks at `pressure`: apply waits, and the budget holds. */
static void test_apply_waits_when_the_budget_is_full(void **state) {
    struct world *w = *state;
    static uint8_t value[3 << 20];
    struct store_stats stats;
    world_close(w);
    w->memtable_bytes = 1 * MIB;
    world_open(w);
    struct store_batch *b = store_batch_new(w->store);
    for (uint32_t n = 0; n < 4000; n++) {
        store_batch_clear(b);
        for (unsigned i = 0; i < 4; i++) {
            uint8_t key[8];
            put_be32(key, n * 2654435761u), put_be32(key + 4, i);
            if (w->deferred.len && i) key[0] = w->deferred.data[0]; /* most of them */
            store_batch_put(b, slice_of(key, 8), slice_of(value, 700));
        }
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        store_get_stats(w->store, &stats);
        assert_true(stats.memtable_bytes <= w->memtable_bytes * 3 / 2);
        assert_true(stats.unflushed_bytes <= w->memtable_bytes);
    }
    store_batch_clear(b);
    store_batch_put(b, SLICE_LIT("large"), slice_of(value, sizeof value)); /* larger than all of it: alone */
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_clear(b);
    rows_put(b, "small", "1");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    struct store_view v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str(""), slice_str(""));
    unsigned rows = 0;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) rows++;
    store_iter_close(it);
    assert_int_equal(rows, 16002);
}

/* ---- rows read ahead */

enum { AHEAD_KEYS = 120 };

static struct slice ahead_key(uint8_t out[2], unsigned n) {
    put_be16(out, (uint16_t)n);
    return slice_of(out, 2);
}
static void ahead_write(struct world *w, struct test_random *r) {
    struct store_batch *b = store_batch_new(w->store);
    for (unsigned i = 0; i < 10; i++) {
        unsigned key = (unsigned)test_random_below(r, AHEAD_KEYS);
        uint8_t k[2];
        if (test_random_below(r, 4)) count_put(b, key, (uint32_t)test_random_below(r, 1u << 30));
        else store_batch_delete(b, ahead_key(k, key));
    }
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
}
static void *ahead_read_some(void *of) {
    struct store_ahead *a = of;
    uint8_t k[STORE_AHEAD_KEYS_MAX][2];
    struct slice keys[STORE_AHEAD_KEYS_MAX], rows[STORE_AHEAD_KEYS_MAX];
    for (unsigned from = 0; from < AHEAD_KEYS; from += STORE_AHEAD_KEYS_MAX) {
        unsigned n = MIN_OF((unsigned)STORE_AHEAD_KEYS_MAX, AHEAD_KEYS - from);
        for (unsigned i = 0; i < n; i++) keys[i] = ahead_key(k[i], from + n - 1 - i);
        store_ahead_read(a, keys, n, rows);
    }
    return NULL;
}
/* With them or without them: the same, over a batch too. */
static void ahead_check(struct world *w, const struct store_ahead *a) {
    struct store_batch *b = store_batch_new(w->store);
    count_put(b, 3, 77);
    for (unsigned n = 0; n < AHEAD_KEYS; n++) {
        uint8_t k[2];
        struct slice with, without;
        struct store_view v = {.store = w->store, .batch = b};
        enum status st = store_get(&v, ahead_key(k, n), &w->arena, &without);
        v.ahead = a;
        assert_int_equal(store_get(&v, ahead_key(k, n), &w->arena, &with), st);
        if (!st) assert_true(slice_equal(with, without));
    }
    store_batch_free(b);
    arena_reset(&w->arena);
}
static void test_rows_read_ahead_are_the_newest(void **state) {
    struct world *w = *state;
    struct test_random r = {11};
    struct store_ahead *a = store_ahead_new(w->store, 1 << 20), *small = store_ahead_new(w->store, 1000);
    for (unsigned round = 0; round < 150; round++) {
        ahead_write(w, &r);
        if (test_random_below(&r, 3) == 0) { /* while others are written, and become files */
            pthread_t thread;
            store_ahead_begin(a);
            assert_int_equal(pthread_create(&thread, NULL, ahead_read_some, a), 0);
            ahead_write(w, &r);
            if (test_random_below(&r, 2)) assert_int_equal(store_flush(w->store), STATUS_OK);
            pthread_join(thread, NULL);
        }
        ahead_check(w, a);
        if (test_random_below(&r, 4) == 0) assert_int_equal(store_flush(w->store), STATUS_OK);
        ahead_check(w, a);
        if (round % 50 == 0) store_ahead_begin(small), ahead_read_some(small), ahead_check(w, small); /* most do not fit */
    }
    store_ahead_free(a);
    store_ahead_free(small);
    store_ahead_free(NULL);
}
static void test_rows_read_ahead_are_those_of_files(void **state) {
    struct world *w = *state;
    uint8_t k[2];
    struct slice key = ahead_key(k, 1), row;
    struct store_ahead *a = store_ahead_new(w->store, 1 << 20);
    rows_write(w, "x=1");
    store_ahead_read(a, &key, 1, &row);
    assert_null(row.data);
    struct store_batch *b = store_batch_new(w->store);
    count_put(b, 1, 5);
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    store_batch_free(b);
    store_ahead_read(a, &key, 1, &row);
    if (w->rocks) assert_null(row.data); /* in no file yet */
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_ahead_begin(a);
    store_ahead_read(a, &key, 1, &row);
    assert_int_equal(get_be32(row.data), 5);
    store_ahead_free(a);
}

/* ---- scans of one group */

enum { GROUPS = 9, GROUP_ROWS = 40 };
/* Kinds before and behind them too, and a group that ends in 0xff. */
static struct slice grouped_key(uint8_t out[8], uint8_t kind, unsigned group, uint32_t at) {
    memcpy(out, "\0\1", 2);
    out[2] = kind, out[3] = group ? (uint8_t)(0xff - group + 1) : 0;
    put_be32(out + 4, at == 0 ? 0 : at == GROUP_ROWS - 1 ? UINT32_MAX : at * 1000);
    return slice_of(out, 8);
}
static void grouped_write(struct store_batch *b, struct test_random *r, unsigned rows) {
    while (rows--) {
        uint8_t k[8];
        struct slice key = grouped_key(k, (uint8_t)('K' + test_random_below(r, 3)), (unsigned)test_random_below(r, GROUPS), (uint32_t)test_random_below(r, GROUP_ROWS));
        if (test_random_below(r, 4)) store_batch_put(b, key, slice_of(&rows, sizeof rows));
        else store_batch_delete(b, key);
    }
}
/* Over a group and over its range: the same, whatever is done with both. */
static void grouped_check(const struct store_view *v, struct test_random *r) {
    uint8_t k[8], lower[4], upper[4];
    unsigned group = (unsigned)test_random_below(r, GROUPS);
    memcpy(lower, grouped_key(k, 'L', group, 0).data, 4);
    memcpy(upper, lower, 4);
    if (upper[3] == 0xff) upper[2]++;
    else upper[3]++;
    struct store_iter *a = store_iter_open_group(v, slice_of(lower, 4)), *b = store_iter_open(v, slice_of(lower, 4), slice_of(upper, lower[3] == 0xff ? 3 : 4));
    for (unsigned step = 0; step < 60; step++) {
        struct slice key = grouped_key(k, 'L', group, (uint32_t)test_random_below(r, GROUP_ROWS));
        uint64_t dice = test_random_below(r, 12);
        if (dice == 0) store_iter_first(a), store_iter_first(b);
        else if (dice == 1) store_iter_last(a), store_iter_last(b);
        else if (dice == 2) store_iter_seek(a, key), store_iter_seek(b, key);
        else if (dice == 3) store_iter_seek_back(a, key), store_iter_seek_back(b, key);
        else if (!store_iter_valid(a)) continue;
        else if (dice < 9) store_iter_next(a), store_iter_next(b);
        else store_iter_prev(a), store_iter_prev(b);
        assert_int_equal(store_iter_status(a), STATUS_OK);
        assert_int_equal(store_iter_valid(a), store_iter_valid(b));
        if (store_iter_valid(a)) assert_true(slice_equal(store_iter_key(a), store_iter_key(b)) && slice_equal(store_iter_value(a), store_iter_value(b)));
    }
    store_iter_close(a);
    store_iter_close(b);
}
static void test_scans_of_a_group_are_those_of_its_range(void **state) {
    struct world *w = *state;
    struct test_random r = {23};
    for (unsigned life = 0; life < 4; life++) { /* without groups at first: then there are files whose filters know none; and back */
        world_close(w);
        w->grouped_kind = life % 3 ? 'L' : 0, w->grouped_tail = 4;
        world_open(w);
        struct store_batch *b = store_batch_new(w->store);
        for (unsigned round = 0; round < 60; round++) {
            struct store_snapshot *before = store_snapshot_get(w->store);
            struct store_view old = {.store = w->store, .snapshot = before}, over = {.store = w->store, .batch = b}, new = newest(w);
            store_batch_clear(b);
            grouped_write(b, &r, 1 + (unsigned)test_random_below(&r, 30));
            grouped_check(&over, &r);
            assert_int_equal(store_apply(w->store, b), STATUS_OK);
            grouped_check(&new, &r);
            if (test_random_below(&r, 3)) assert_int_equal(store_flush(w->store), STATUS_OK);
            for (unsigned i = 0; i < 4; i++) grouped_check(&new, &r), grouped_check(&old, &r);
            store_snapshot_put(w->store, before);
        }
        store_batch_free(b);
        assert_int_equal(store_flush(w->store), STATUS_OK);
    }
}

#define ROCKS(test) {#test, test, world_setup_rocks, world_teardown, NULL}
#define BOTH(test) {#test " (in memory)", test, world_setup_mem, world_teardown, NULL}, ROCKS(test)
#define DEFERRED(test, prefix) {#test " (deferred)", test, world_setup_rocks, world_teardown, &prefix}
static struct slice deferred_0 = {(const uint8_t *)"", 1}, deferred_k2 = {(const uint8_t *)"k\2", 2}; /* the former: a zero byte */
int main(void) {
    alarm(120); /* an apply or a close that hangs is a failure, not a long run */
    const struct CMUnitTest tests[] = {
        ROCKS(test_views_stay_as_they_were_across_runs),
        DEFERRED(test_views_stay_as_they_were_across_runs, deferred_0),
        ROCKS(test_merged_reads_are_those_of_one_table),
        DEFERRED(test_merged_reads_are_those_of_one_table, deferred_k2),
        BOTH(test_scans_of_a_group_are_those_of_its_range),
        ROCKS(test_growing_keys_are_never_merged),
        ROCKS(test_small_growing_files_become_one),
        ROCKS(test_older_directory_keeps_one_family),
        ROCKS(test_files_that_a_crash_left_are_removed),
        ROCKS(test_apply_waits_when_the_budget_is_full),
        BOTH(test_rows_read_ahead_are_the_newest),
        BOTH(test_rows_read_ahead_are_those_of_files),
        DEFERRED(test_apply_waits_when_the_budget_is_full, deferred_0),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
