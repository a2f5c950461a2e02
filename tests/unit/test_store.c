/* The promises of engine/store.h, each run against both stores; then the faults of the store in memory. RocksDB's are in
 * test_store_rocks.c. */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/lib/store_world.h"

/* ---- reads and writes */

static void test_get_of_what_was_applied(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    assert_string_equal(rows_get(w, &v, "a"), "ABSENT");
    rows_write(w, "a=1 b=2");
    assert_string_equal(rows_get(w, &v, "a"), "1");
    rows_write(w, "a=3 -b");
    assert_string_equal(rows_get(w, &v, "a"), "3");
    assert_string_equal(rows_get(w, &v, "b"), "ABSENT");
}

static void test_batch_sees_its_own_writes_and_nobody_else_does(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1 b=2 d=4");
    struct store_batch *b = store_batch_new(w->store);
    struct store_view mine = {.store = w->store, .batch = b}, others = newest(w);
    rows_put(b, "a", "9"), rows_put(b, "c", "3"), rows_delete(b, "b"), rows_put(b, "e", "5"), rows_delete(b, "e"), rows_put(b, "a", "10");
    assert_string_equal(rows_get(w, &mine, "a"), "10");
    assert_string_equal(rows_get(w, &mine, "b"), "ABSENT");
    assert_string_equal(rows_get(w, &mine, "d"), "4");
    assert_string_equal(rows_get(w, &mine, "e"), "ABSENT");
    assert_string_equal(rows_get(w, &others, "a"), "1");
    assert_string_equal(rows_get(w, &others, "c"), "ABSENT");
    assert_string_equal(rows_scan(w, &mine, "", "", false), "a=10 c=3 d=4");
    assert_string_equal(rows_scan(w, &mine, "", "", true), "d=4 c=3 a=10");
    assert_string_equal(rows_scan(w, &mine, "b", "d", false), "c=3");
    assert_string_equal(rows_scan(w, &others, "", "", false), "a=1 b=2 d=4");
    rows_put(b, "aa", "1");
    assert_string_equal(rows_scan(w, &mine, "", "", false), "a=10 aa=1 c=3 d=4");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(rows_scan(w, &others, "", "", false), "a=10 aa=1 c=3 d=4");
    store_batch_free(b);
}

static void test_cleared_batch_writes_nothing(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    rows_put(b, "a", "12345");
    assert_int_equal(store_batch_bytes(b), 6);
    store_batch_clear(b);
    assert_int_equal(store_batch_bytes(b), 0);
    struct store_view mine = {.store = w->store, .batch = b}, v = newest(w);
    assert_string_equal(rows_get(w, &mine, "a"), "ABSENT");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(rows_get(w, &v, "a"), "ABSENT");
    store_batch_free(b);
}

static void test_batch_over_a_state_that_moved_on(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    rows_put(b, "b", "mine");
    struct store_view mine = {.store = w->store, .batch = b}, v = newest(w);
    assert_string_equal(rows_scan(w, &mine, "", "", false), "b=mine");
    rows_write(w, "a=1 b=2 c=3");
    assert_string_equal(rows_scan(w, &mine, "", "", false), "a=1 b=mine c=3");
    assert_string_equal(rows_get(w, &mine, "c"), "3");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=1 b=mine c=3");
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
    rows_write(w, "a=1 b=2");
    struct store_snapshot *s = store_snapshot_get(w->store);
    struct store_view old = {.store = w->store, .snapshot = s}, v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str(""), slice_str("")); /* opened before the write: as a snapshot */
    rows_write(w, "a=9 -b c=3");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_string_equal(rows_scan(w, &old, "", "", false), "a=1 b=2");
    assert_string_equal(rows_get(w, &old, "c"), "ABSENT");
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=9 c=3");
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
    rows_write(w, "a=1 b=2 d=4 f=6 h=8 i=9 k=0");
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
    rows_write(w, "a=1 c=3 d=4 g=7 h=8 k=0");
    struct store_batch *b = store_batch_new(w->store);
    rows_put(b, "b", "2"), rows_delete(b, "c"), rows_put(b, "f", "6"), rows_delete(b, "g"), rows_put(b, "i", "9"), rows_put(b, "h", "88"), rows_put(b, "z", "0");
    struct store_view mine = {.store = w->store, .batch = b};
    struct store_iter *it = store_iter_open(&mine, slice_str("b"), slice_str("i"));
    check_moves(it);
    store_iter_close(it);
    assert_string_equal(rows_scan(w, &mine, "b", "i", false), "b=2 d=4 f=6 h=88");
    assert_string_equal(rows_scan(w, &mine, "b", "i", true), "h=88 f=6 d=4 b=2");
    store_batch_free(b);
}

/* ---- readers on other threads: each view is one state, whatever the owner applies and flushes meanwhile */

enum { ACCOUNTS = 20, ACCOUNT_SUM = 1000 };
struct reader_thread {
    struct world *world;
    _Atomic bool *stop;
    unsigned seen, torn;
};
static uint32_t sum_of(const struct store_view *v) {
    uint32_t sum = 0;
    struct store_iter *it = store_iter_open(v, slice_str("acct"), slice_str("accu"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) sum += get_be32(store_iter_value(it).data);
    if (store_iter_status(it)) sum = UINT32_MAX;
    store_iter_close(it);
    return sum;
}
static void *reader_run(void *ctx) {
    struct reader_thread *r = ctx;
    while (!atomic_load(r->stop) || r->seen < 20) {
        struct store_view v = newest(r->world);
        struct store_snapshot *n = r->seen % 2 ? store_snapshot_get(r->world->store) : NULL;
        v.snapshot = n;
        r->torn += sum_of(&v) != ACCOUNT_SUM;
        r->torn += n && sum_of(&v) != ACCOUNT_SUM;
        store_snapshot_put(r->world->store, n);
        r->seen++;
    }
    return NULL;
}
static void account_put(struct store_batch *b, unsigned i, uint32_t value) {
    uint8_t key[5] = "acct", row[4];
    key[4] = (uint8_t)i;
    put_be32(row, value);
    store_batch_put(b, slice_of(key, 5), slice_of(row, 4));
}
static void test_readers_on_other_threads_see_one_state(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    _Atomic bool stop = false;
    struct reader_thread readers[2] = {{w, &stop, 0, 0}, {w, &stop, 0, 0}};
    pthread_t threads[2];
    uint32_t value[ACCOUNTS] = {ACCOUNT_SUM};
    struct test_random random = {5};
    for (unsigned i = 0; i < ACCOUNTS; i++) account_put(b, i, value[i]);
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    for (unsigned i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, reader_run, &readers[i]), 0);
    for (unsigned n = 0; n < 3000; n++) {
        unsigned from = (unsigned)test_random_below(&random, ACCOUNTS), to = (unsigned)test_random_below(&random, ACCOUNTS);
        uint32_t amount = value[from] / 2;
        value[from] -= amount, value[to] += amount;
        store_batch_clear(b);
        account_put(b, from, value[from]), account_put(b, to, value[to]);
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        if (n % 500 == 499) assert_int_equal(store_flush(w->store), STATUS_OK);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(readers[0].torn + readers[1].torn, 0);
    store_batch_free(b);
}

/* ---- durability */

static void test_flushed_rows_survive_a_reopen(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1 b=2");
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_true(stats.unflushed_bytes >= 4);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.unflushed_bytes, 0);
    world_reopen(w);
    struct store_view v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=1 b=2");
    rows_write(w, "-a");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_reopen(w);
    v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), "b=2");
}

static void test_unflushed_rows_are_lost_with_the_store(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    rows_write(w, "a=2 b=2");
    world_reopen(w);
    struct store_view v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=1");
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
    rows_write(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    rows_write(w, "b=2");
    store_mem_disk_set_full(w->disk, true);
    assert_int_equal(store_flush(w->store), STATUS_DISK_FULL);
    store_mem_disk_set_full(w->disk, false);
    struct store_batch *b = store_batch_new(w->store);
    rows_put(b, "c", "3");
    assert_int_equal(store_apply(w->store, b), STATUS_DISK_FULL);
    store_batch_free(b);
    struct store_view v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=1 b=2"); /* reads go on, nothing of the refused batch is there */
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    assert_true(stats.failed);
    assert_int_equal(stats.failure, STATUS_DISK_FULL);
    assert_int_equal(stats.pressure, 2);
    world_reopen(w);
    v = newest(w);
    assert_string_equal(rows_scan(w, &v, "", "", false), "a=1");
    rows_write(w, "b=2");
    assert_int_equal(store_flush(w->store), STATUS_OK);
}

static void test_mem_cold_and_faulty_reads(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1");
    struct store_view cached = {.store = w->store, .cached_only = true}, v = newest(w);
    store_mem_disk_set_cold(w->disk, true);
    assert_string_equal(rows_get(w, &cached, "a"), "WOULD_BLOCK");
    assert_string_equal(rows_scan(w, &cached, "", "", false), "!WOULD_BLOCK");
    assert_string_equal(rows_get(w, &v, "a"), "1");
    store_mem_disk_set_cold(w->disk, false);
    assert_string_equal(rows_get(w, &cached, "a"), "1");
    store_mem_disk_set_read_fault(w->disk, STATUS_CHECKSUM_MISMATCH);
    assert_string_equal(rows_get(w, &v, "a"), "CHECKSUM_MISMATCH");
    assert_string_equal(rows_scan(w, &v, "", "", true), "!CHECKSUM_MISMATCH");
    store_mem_disk_set_read_fault(w->disk, STATUS_OK);
    static const struct { uint32_t behind, pressure; } steps[] = {{0, 0}, {1, 1}, {999, 1}, {1000, 2}};
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        struct store_stats stats;
        store_mem_disk_set_behind(w->disk, steps[i].behind);
        store_get_stats(w->store, &stats);
        assert_int_equal(stats.behind, steps[i].behind);
        assert_int_equal(stats.pressure, steps[i].pressure);
    }
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
    assert_string_equal(rows_get(w, &v, "\1\1D1"), "ABSENT");
    struct slice row;
    assert_int_equal(store_get(&v, SLICE_LIT("\1\1D2"), &w->arena, &row), STATUS_OK);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\1H1"), &w->arena, &row), STATUS_OK);
}

/* Every allocation of a life of a store fails once: the batch is applied or refused as a whole, nothing leaks, reads stay right. */
static void test_mem_every_allocation_may_fail(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1 b=2 c=3 d=4 e=5 f=6");
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        uint64_t before = mem_count();
        struct store_batch *b = store_batch_new(w->store);
        enum status st = STATUS_MEMORY_LIMIT, read = STATUS_OK;
        if (b) {
            rows_put(b, "a", "9"), rows_delete(b, "c"), rows_put(b, "g", "7"), rows_put(b, "bb", "0"), rows_delete(b, "e");
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
        assert_string_equal(rows_scan(w, &v, "", "", false), st ? "a=1 b=2 c=3 d=4 e=5 f=6" : "a=9 b=2 bb=0 d=4 f=6 g=7");
        if (!st) rows_write(w, "a=1 c=3 e=5 -g -bb");
        if (!reached) break;
    }
}

/* ---- rows kept beside the store */

static const char *cached_get(struct world *w, const struct store_view *view, const char *key) {
    struct slice v;
    enum status st = store_get_cached(view, slice_str(key), &w->arena, &v);
    return st ? status_name(st) : arena_printf(&w->arena, "%.*s", (int)v.len, (const char *)v.data);
}

static void test_cached_rows_are_those_of_the_newest_state(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    struct store_stats stats;
    rows_write(w, "a=1 b=2");
    assert_string_equal(cached_get(w, &v, "a"), "1");
    assert_string_equal(cached_get(w, &v, "c"), "WOULD_BLOCK"); /* that there is none is not kept */
    assert_string_equal(rows_get(w, &v, "c"), "ABSENT");
    struct store_snapshot *before = store_snapshot_get(w->store);
    struct store_view old = {.store = w->store, .snapshot = before};
    rows_write(w, "a=longer_than_it_was -b");
    assert_string_equal(cached_get(w, &v, "a"), "longer_than_it_was");
    assert_string_equal(cached_get(w, &v, "b"), "WOULD_BLOCK");
    assert_string_equal(rows_get(w, &v, "b"), "ABSENT");
    assert_string_equal(cached_get(w, &old, "a"), "WOULD_BLOCK");
    assert_string_equal(rows_get(w, &old, "a"), "1");
    assert_string_equal(rows_get(w, &old, "b"), "2");
    assert_string_equal(cached_get(w, &v, "a"), "longer_than_it_was");
    store_snapshot_put(w->store, before);
    struct store_batch *b = store_batch_new(w->store);
    struct store_view mine = {.store = w->store, .batch = b};
    rows_put(b, "a", "2"), rows_delete(b, "b"), rows_put(b, "d", "4");
    assert_string_equal(cached_get(w, &mine, "a"), "2");
    assert_string_equal(cached_get(w, &mine, "b"), "ABSENT");
    assert_string_equal(cached_get(w, &v, "d"), "WOULD_BLOCK"); /* not before it is applied */
    assert_string_equal(cached_get(w, &v, "a"), "longer_than_it_was");
    assert_int_equal(store_apply(w->store, b), STATUS_OK);
    assert_string_equal(cached_get(w, &v, "d"), "4");
    store_batch_free(b);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_string_equal(cached_get(w, &v, "a"), "2");
    store_get_stats(w->store, &stats);
    assert_int_equal(stats.cache_rows, 2);
    assert_true(stats.cache_hits > 3 && stats.cache_misses > 2 && stats.cache_bytes > 0);
}

static void *get_on_another_thread(void *ctx) {
    struct world *w = ctx;
    struct store_view v = newest(w);
    assert_string_equal(cached_get(w, &v, "a"), "WOULD_BLOCK");
    assert_string_equal(rows_get(w, &v, "a"), "1");
    assert_string_equal(rows_get(w, &v, "b"), "ABSENT");
    store_keep(&v, slice_str("b"), slice_str("a lie")); /* by who does not own the store: not heard */
    return NULL;
}
static void test_cached_rows_are_the_owners_alone(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    pthread_t thread;
    rows_write(w, "a=1");
    assert_int_equal(pthread_create(&thread, NULL, get_on_another_thread, w), 0);
    pthread_join(thread, NULL);
    assert_string_equal(cached_get(w, &v, "a"), "1");
    assert_string_equal(cached_get(w, &v, "b"), "WOULD_BLOCK");
}

static void test_cached_rows_go_with_the_store(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1 b=2");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    rows_write(w, "a=9 c=3");
    world_reopen(w);
    struct store_view v = newest(w);
    assert_string_equal(cached_get(w, &v, "a"), "WOULD_BLOCK");
    assert_string_equal(rows_get(w, &v, "a"), "1"); /* what was not flushed is lost */
    assert_string_equal(rows_get(w, &v, "c"), "ABSENT");
    rows_write(w, "d=4"); /* who owns it is known from the first batch on */
    assert_string_equal(rows_get(w, &v, "b"), "2");
    assert_string_equal(cached_get(w, &v, "b"), "2"); /* what was read is kept */
}

static void test_kinds_with_a_cache_of_their_own_are_not_driven_out_by_others(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    struct store_stats before, after;
    assert_int_equal(store_cache_rows(w->store, 4 << 10, 8, slice_str("N")), STATUS_OK);
    rows_write(w, "s1Na=1 s1Nb=2 s1Ha=3");
    store_get_stats(w->store, &before);
    assert_int_equal(before.cache_rows, 3);
    for (unsigned i = 0; i < 4000; i++) rows_write(w, arena_printf(&w->arena, "s1H%u=%0*u", i, 100, i));
    assert_string_equal(cached_get(w, &v, "s1Ha"), "WOULD_BLOCK");
    assert_string_equal(cached_get(w, &v, "s1Na"), "1");
    rows_write(w, "s1Na=9 -s1Nb");
    assert_string_equal(cached_get(w, &v, "s1Na"), "9");
    assert_string_equal(cached_get(w, &v, "s1Nb"), "WOULD_BLOCK");
    store_get_stats(w->store, &after);
    assert_true(after.cache_hits == before.cache_hits + 2 && after.cache_evictions > 100 && after.cache_bytes > before.cache_bytes);
}

static void test_rows_that_expire_are_not_cached(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    rows_write(w, "s1Da=12345678 s1Ha=12345678");
    assert_string_equal(cached_get(w, &v, "s1Da"), "12345678");
    store_set_expiry(w->store, 'D', 1);
    assert_string_equal(cached_get(w, &v, "s1Da"), "WOULD_BLOCK");
    assert_string_equal(cached_get(w, &v, "s1Ha"), "12345678");
    rows_write(w, "s1Da=87654321");
    assert_string_equal(cached_get(w, &v, "s1Da"), "WOULD_BLOCK");
    assert_string_equal(rows_get(w, &v, "s1Da"), "87654321");
}

static void test_failed_apply_leaves_the_cache_as_it_was(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    rows_write(w, "a=1");
    struct store_batch *b = store_batch_new(w->store);
    mem_fail_nth(1);
    for (unsigned i = 0; i < 100 && mem_count(); i++) rows_put(b, "a", "2"), rows_put(b, "b", "3");
    mem_fail_nth(0);
    enum status st = store_apply(w->store, b);
    assert_string_equal(rows_get(w, &v, "a"), st ? "1" : "2");
    assert_string_equal(cached_get(w, &v, "a"), st ? "1" : "2");
    assert_int_equal(st, STATUS_MEMORY_LIMIT);
    store_batch_free(b);
}

enum { EXPECTED_KEYS = 60 };
static struct slice expected_key(struct world *w, unsigned n) { return slice_str(arena_printf(&w->arena, "key%02u", n)); }
/* Whatever is asked for together, and however little of it stays in a cache of 4 KiB: each read answers the newest state, over a batch its own rows. */
static void test_expected_rows_are_those_of_the_newest_state(void **state) {
    struct world *w = *state;
    struct test_random r = {5};
    struct store_view v = newest(w);
    unsigned is[EXPECTED_KEYS] = {0}, found = 0; /* 0: there is none */
    for (unsigned round = 0; round < 400; round++) {
        struct store_batch *b = store_batch_new(w->store);
        struct store_view mine = {.store = w->store, .batch = b};
        struct slice keys[STORE_EXPECT_MAX];
        unsigned changed = (unsigned)test_random_below(&r, EXPECTED_KEYS), to = (unsigned)test_random_below(&r, 3) ? round + 1 : 0;
        if (to) rows_put(b, (const char *)expected_key(w, changed).data, arena_printf(&w->arena, "%u", to));
        else rows_delete(b, (const char *)expected_key(w, changed).data);
        unsigned count = (unsigned)test_random_below(&r, STORE_EXPECT_MAX + 1), first = (unsigned)test_random_below(&r, EXPECTED_KEYS - STORE_EXPECT_MAX + 1);
        for (unsigned i = 0; i < count; i++) keys[i] = expected_key(w, first + i);
        store_expect(test_random_below(&r, 2) ? &mine : &v, keys, count, &w->arena);
        for (unsigned i = 0; i < count; i++) {
            unsigned own = first + i == changed ? to : is[first + i];
            if (cached_get(w, &v, (const char *)keys[i].data)[0] != 'W') found++;
            assert_string_equal(rows_get(w, &v, (const char *)keys[i].data), is[first + i] ? arena_printf(&w->arena, "%u", is[first + i]) : "ABSENT");
            assert_string_equal(rows_get(w, &mine, (const char *)keys[i].data), own ? arena_printf(&w->arena, "%u", own) : "ABSENT");
        }
        if (test_random_below(&r, 4)) assert_int_equal(store_apply(w->store, b), STATUS_OK), is[changed] = to;
        store_batch_free(b);
        if (test_random_below(&r, 20) == 0) assert_int_equal(store_flush(w->store), STATUS_OK);
        if (test_random_below(&r, 50) == 0) assert_int_equal(store_flush(w->store), STATUS_OK), world_reopen(w), v = newest(w);
        arena_reset(&w->arena);
    }
    assert_true(found > 1000); /* they were at hand */
}

/* ---- keys that are known not to be there */

static uint64_t filter_absent(struct world *w) {
    struct store_stats stats;
    store_get_stats(w->store, &stats);
    return stats.filter_absent;
}

/* A new store: its filter is whole at once. What it excludes is absent, what is there it never excludes: in a batch, in tables, in files. */
static void test_filter_excludes_what_is_not_there(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    assert_int_equal(store_filter_keys(w->store, 16 << 10, 'D'), STATUS_OK);
    store_filter_prove(w->store);
    store_filter_whole(w->store);
    rows_write(w, "s1Da=99999999 s1Ha=1");
    assert_string_equal(rows_get(w, &v, "s1Da"), "99999999");
    assert_string_equal(rows_get(w, &v, "s1Db"), "ABSENT");
    assert_int_equal(filter_absent(w), 1);
    assert_string_equal(rows_get(w, &v, "s1Hb"), "ABSENT"); /* another kind */
    assert_int_equal(filter_absent(w), 1);
    struct store_batch *b = store_batch_new(w->store);
    struct store_view mine = {.store = w->store, .batch = b};
    assert_string_equal(rows_get(w, &mine, "s1Dc"), "ABSENT");
    rows_put(b, "s1Dc", "88888888");
    assert_string_equal(rows_get(w, &mine, "s1Dc"), "88888888");
    assert_string_equal(rows_get(w, &mine, "s1Da"), "99999999");
    store_batch_free(b); /* not applied: looked for, and not there */
    assert_string_equal(rows_get(w, &v, "s1Dc"), "ABSENT");
    assert_int_equal(filter_absent(w), 2);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_string_equal(rows_get(w, &v, "s1Da"), "99999999");
    struct store_snapshot *n = store_snapshot_get(w->store);
    struct store_view old = {.store = w->store, .snapshot = n};
    assert_string_equal(rows_get(w, &old, "s1Dd"), "ABSENT");
    assert_int_equal(filter_absent(w), 2); /* snapshots pass it by */
    store_snapshot_put(w->store, n);
}

/* A store with rows: the filter is not asked until they were added. */
static void test_filter_is_not_asked_before_it_is_whole(void **state) {
    struct world *w = *state;
    rows_write(w, "s1Da=99999999 s1Db=99999999 s1Ha=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_reopen(w);
    struct store_view v = newest(w);
    assert_int_equal(store_filter_keys(w->store, 16 << 10, 'D'), STATUS_OK);
    rows_write(w, "s1Dc=99999999");
    assert_string_equal(rows_get(w, &v, "s1Da"), "99999999");
    assert_string_equal(rows_get(w, &v, "s1Dx"), "ABSENT");
    assert_int_equal(filter_absent(w), 0);
    struct store_filtered rows[] = {store_filtered_of(SLICE_LIT("s1Da"), SLICE_LIT("99999999")), store_filtered_of(SLICE_LIT("s1Db"), SLICE_LIT("99999999"))};
    store_filter_add(w->store, rows, ARRAY_LEN(rows));
    store_filter_whole(w->store);
    assert_string_equal(rows_get(w, &v, "s1Da"), "99999999");
    assert_string_equal(rows_get(w, &v, "s1Db"), "99999999");
    assert_string_equal(rows_get(w, &v, "s1Dc"), "99999999");
    assert_string_equal(rows_get(w, &v, "s1Dx"), "ABSENT");
    assert_int_equal(filter_absent(w), 1);
}

/* A row that never expires: no horizon drops it or makes the filter forget it, nor those that do expire beside it. */
static void test_filter_knows_what_never_expires(void **state) {
    struct world *w = *state;
    struct store_view v = newest(w);
    uint8_t value[8];
    struct slice lasting = SLICE_LIT("s1Dlasting"), row;
    for (unsigned life = 0; life < 2; life++) {
        assert_int_equal(store_filter_keys(w->store, 16 << 10, 'D'), STATUS_OK);
        store_filter_prove(w->store);
        struct store_batch *b = store_batch_new(w->store);
        if (life == 0) store_batch_put(b, lasting, dedup_row(value, STORE_NEVER_US + 1700000000000000));
        else store_filter_add(w->store, (struct store_filtered[]){store_filtered_of(lasting, dedup_row(value, STORE_NEVER_US + 1700000000000000))}, 1);
        store_filter_whole(w->store);
        for (unsigned round = 0; round < 10; round++) { /* overlapping tables, so that RocksDB merges */
            for (unsigned i = 0; i < 3000; i++) {
                char key[16];
                snprintf(key, sizeof key, "s1D%u-%u", round, i);
                store_batch_put(b, slice_str(key), dedup_row(value, 1000 * (round + 1)));
            }
            assert_int_equal(store_apply(w->store, b), STATUS_OK);
            store_batch_clear(b);
            assert_int_equal(store_flush(w->store), STATUS_OK);
            store_set_expiry(w->store, 'D', 1000 * (round + 1));
        }
        store_batch_free(b);
        store_set_expiry(w->store, 'D', STORE_NEVER_US - 1);
        struct store_stats stats;
        store_get_stats(w->store, &stats);
        assert_true(stats.filter_keys < 20000);
        assert_int_equal(store_get(&v, lasting, &w->arena, &row), STATUS_OK);
        if (life == 0) world_reopen(w), v = newest(w);
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

#define MEM(test) {#test, test, world_setup_mem, world_teardown, NULL}
#define ROCKS(test) {#test " (rocks)", test, world_setup_rocks, world_teardown, NULL}
#define DEFERRED(test, prefix) {#test " (rocks, " #prefix ")", test, world_setup_rocks, world_teardown, &prefix}
#define CACHED(test) {#test " (cached)", test, world_setup_mem_cached, world_teardown, NULL}, {#test " (rocks, cached)", test, world_setup_rocks_cached, world_teardown, NULL}
#define CACHED_DEFERRED(test, prefix) {#test " (rocks, " #prefix ", cached)", test, world_setup_rocks_cached, world_teardown, &prefix}
#define BOTH(test) MEM(test), ROCKS(test), DEFERRED(test, deferred_a), DEFERRED(test, deferred_d), CACHED(test), CACHED_DEFERRED(test, deferred_a)
static struct slice deferred_a = {(const uint8_t *)"a", 1}, deferred_d = {(const uint8_t *)"d", 1};
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
        MEM(test_readers_on_other_threads_see_one_state),
        ROCKS(test_readers_on_other_threads_see_one_state),
        DEFERRED(test_readers_on_other_threads_see_one_state, deferred_a),
        CACHED(test_readers_on_other_threads_see_one_state),
        CACHED(test_cached_rows_are_those_of_the_newest_state),
        CACHED(test_expected_rows_are_those_of_the_newest_state),
        CACHED(test_cached_rows_are_the_owners_alone),
        CACHED(test_cached_rows_go_with_the_store),
        CACHED(test_kinds_with_a_cache_of_their_own_are_not_driven_out_by_others),
        CACHED(test_rows_that_expire_are_not_cached),
        CACHED(test_failed_apply_leaves_the_cache_as_it_was),
        BOTH(test_filter_excludes_what_is_not_there),
        BOTH(test_filter_is_not_asked_before_it_is_whole),
        BOTH(test_filter_knows_what_never_expires),
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
