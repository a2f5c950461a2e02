/* RocksDB behind store.h: the FORMAT file, crashes, full disks, damaged tables, expiry, pressure. The crash test's child is this program
 * itself, started anew: RocksDB's threads do not survive a fork. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "tests/lib/store_world.h"

/* ---- numbered batches: batch n writes the counter row and ROWS_EACH rows that carry n. A state is a prefix of them, or torn. */

enum { ROWS_EACH = 4, ROW_BYTES = 700 };

static struct slice row_value(uint8_t out[ROW_BYTES], uint32_t n, uint32_t i) {
    struct test_random r = {n * 8ull + i + 1};
    for (size_t at = 0; at < ROW_BYTES; at += 4) put_be32(out + at, (uint32_t)(test_random_next(&r) >> 32)); /* does not compress */
    return slice_of(out, ROW_BYTES);
}
static struct slice row_key(uint8_t out[8], uint32_t n, uint32_t i) {
    put_be32(out, i * 1000000 + n % 977), put_be32(out + 4, n); /* scattered, as keys of users are */
    return slice_of(out, 8);
}
static enum status numbered_apply(struct store *s, struct store_batch *b, uint32_t n) {
    uint8_t key[8], value[ROW_BYTES], count[4];
    store_batch_clear(b);
    put_be32(count, n);
    store_batch_put(b, SLICE_LIT("\xff\xff" "A"), slice_of(count, 4));
    uint8_t event[7] = {0xff, 0xff, 'E'};
    put_be32(event + 3, n);
    store_batch_put(b, slice_of(event, 7), slice_of(count, 4));
    for (uint32_t i = 0; i < ROWS_EACH; i++) store_batch_put(b, row_key(key, n, i), row_value(value, n, i));
    return store_apply(s, b);
}
/* The counter, after checking that exactly its batches are there. */
static uint32_t numbered_check(struct world *w) {
    struct store_view v = newest(w);
    struct slice row;
    enum status st = store_get(&v, SLICE_LIT("\xff\xff" "A"), &w->arena, &row);
    uint32_t count = st == STATUS_ABSENT ? 0 : get_be32(row.data), seen = 0;
    assert_true(st == STATUS_OK || st == STATUS_ABSENT);
    struct store_iter *it = store_iter_open(&v, slice_str(""), SLICE_LIT("\xff\xff"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it), seen++) {
        uint8_t value[ROW_BYTES];
        struct slice key = store_iter_key(it);
        uint32_t n = get_be32(key.data + 4), i = get_be32(key.data) / 1000000;
        assert_in_range(n, 1, count);
        assert_true(slice_equal(store_iter_value(it), row_value(value, n, i)));
    }
    assert_int_equal(store_iter_status(it), STATUS_OK);
    assert_int_equal(seen, count * ROWS_EACH);
    store_iter_close(it);
    it = store_iter_open(&v, SLICE_LIT("\xff\xff" "E"), SLICE_LIT("\xff\xff" "F"));
    seen = 0;
    for (store_iter_first(it); store_iter_valid(it) && seen < count; store_iter_next(it)) { /* there may be some behind the counter */
        assert_int_equal(get_be32(store_iter_key(it).data + 3), ++seen);
        assert_int_equal(get_be32(store_iter_value(it).data), seen);
    }
    assert_int_equal(store_iter_status(it), STATUS_OK);
    assert_int_equal(seen, count);
    store_iter_close(it);
    return count;
}

/* ---- crash: a child applies without end, another thread of it flushes, the parent kills it */

struct crash_child {
    struct store *store;
    _Atomic uint32_t applied;
};
static void *crash_flusher(void *ctx) {
    struct crash_child *c = ctx;
    for (;;) {
        uint32_t before = atomic_load(&c->applied);
        if (store_flush(c->store) != STATUS_OK) _exit(3);
        if (write(1, &before, 4) != 4) _exit(4); /* promised: durable from here on */
        usleep(2000);
    }
    return NULL;
}
static int crash_child_main(const char *path, uint32_t from) {
    struct crash_child c = {.applied = from};
    struct store_config config = {.memtable_bytes = 1 * MIB, .block_cache_bytes = 8 * MIB, .growing = SLICE_LIT("\xff\xff" "E")};
    char error[256];
    pthread_t flusher;
    if (store_open_rocks(&c.store, path, &config, error) != STATUS_OK) return 2;
    struct store_batch *b = store_batch_new(c.store);
    if (pthread_create(&flusher, NULL, crash_flusher, &c) != 0) return 2;
    for (uint32_t n = from + 1;; n++) {
        if (numbered_apply(c.store, b, n) != STATUS_OK) return 5;
        atomic_store(&c.applied, n);
    }
}

/* Runs a child for a while; returns the last counter that it promised. */
static uint32_t crash_once(struct world *w, uint32_t from, unsigned promises) {
    int pipes[2];
    char number[16];
    uint32_t promised = 0, p;
    snprintf(number, sizeof number, "%u", from);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], 1);
        execl("/proc/self/exe", "test_store_rocks", "--crash-child", w->path, number, NULL);
        _exit(6);
    }
    close(pipes[1]);
    for (unsigned i = 0; i < promises && read(pipes[0], &p, 4) == 4; i++) promised = p;
    kill(pid, SIGKILL);
    while (read(pipes[0], &p, 4) == 4) promised = p; /* those that it made before it died */
    close(pipes[0]);
    int how;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFSIGNALED(how));
    return promised;
}

static void test_killed_store_is_a_prefix_that_holds_every_flush(void **state) {
    struct world *w = *state;
    uint32_t count = 0;
    world_close(w);
    remove_tree(w->path); /* it was opened without */
    w->growing = SLICE_LIT("\xff\xff" "E");
    for (unsigned round = 0; round < 8; round++) {
        uint32_t promised = crash_once(w, count, 1 + round * 3);
        world_open(w);
        uint32_t found = numbered_check(w);
        assert_true(found >= promised);
        assert_true(found >= count);
        count = found;
        world_close(w);
        arena_reset(&w->arena);
    }
    assert_true(count > 0);
}

/* ---- flush beside apply, in one process */

struct flush_thread {
    struct store *store;
    enum status status;
};
static void *flush_run(void *ctx) {
    struct flush_thread *f = ctx;
    f->status = store_flush(f->store);
    return NULL;
}
static void test_flush_runs_beside_apply_and_covers_what_was_before(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    uint32_t n = 0, before = 0;
    for (unsigned round = 0; round < 5; round++) {
        struct flush_thread f = {.store = w->store, .status = STATUS_INTERNAL};
        pthread_t t;
        for (unsigned i = 0; i < 50; i++) assert_int_equal(numbered_apply(w->store, b, ++n), STATUS_OK);
        before = n;
        assert_int_equal(pthread_create(&t, NULL, flush_run, &f), 0);
        for (unsigned i = 0; i < 200; i++) assert_int_equal(numbered_apply(w->store, b, ++n), STATUS_OK);
        pthread_join(t, NULL);
        assert_int_equal(f.status, STATUS_OK);
        assert_int_equal(numbered_check(w), n);
    }
    store_batch_free(b);
    world_reopen(w);
    assert_in_range(numbered_check(w), before, n);
}

/* ---- the FORMAT file */

static void file_name(char out[128], struct world *w, const char *name) { snprintf(out, 128, "%s/%s", w->path, name); }
static size_t file_read(struct world *w, const char *name, uint8_t *out, size_t cap) {
    char path[128];
    file_name(path, w, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, out, cap);
    close(fd);
    return (size_t)n;
}
static void file_write(struct world *w, const char *name, const void *data, size_t len) {
    char path[128];
    file_name(path, w, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, data, len), len);
    close(fd);
}
static void check_refused(struct world *w, enum status st, const char *says) {
    char error[256];
    assert_int_equal(world_try_open(w, error), st);
    assert_null(w->store);
    assert_non_null(strstr(error, w->path));
    if (!strstr(error, says)) print_error("%s\n", error);
    assert_non_null(strstr(error, says));
}

static void test_format_file_is_golden(void **state) {
    struct world *w = *state;
    uint8_t want[64], is[64];
    size_t n = test_golden("store_format", want, sizeof want);
    assert_int_equal(file_read(w, "FORMAT", is, sizeof is), n);
    assert_memory_equal(is, want, n);
    struct stat st;
    char path[128];
    file_name(path, w, "FORMAT");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
}

/* So that a program of an older version, which takes newer rows for damage, refuses it from then on. */
static void test_directory_of_version_1_becomes_one_of_the_newest(void **state) {
    struct world *w = *state;
    uint8_t older[64], want[64], is[64];
    rows_write(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_close(w);
    file_write(w, "FORMAT", older, test_golden("store_format_1", older, sizeof older));
    world_open(w);
    size_t n = test_golden("store_format", want, sizeof want);
    assert_int_equal(file_read(w, "FORMAT", is, sizeof is), n);
    assert_memory_equal(is, want, n);
    assert_string_equal(rows_get(w, &(struct store_view){.store = w->store}, "a"), "1");
}

static void test_unknown_or_damaged_format_is_refused(void **state) {
    struct world *w = *state;
    uint8_t good[16], bytes[16];
    world_close(w);
    assert_int_equal(file_read(w, "FORMAT", good, 16), 16);
    const uint8_t newer[16] = {'O', 'D', 'B', 'S', 'T', 'O', 'R', 'E', 0, 0, 0, 4, 0xca, 0x67, 0xe0, 0xe1};
    file_write(w, "FORMAT", newer, 16);
    check_refused(w, STATUS_FORMAT_UNKNOWN, "version 4, this program knows ODBSTORE versions up to 3");
    memcpy(bytes, good, 16), bytes[9] ^= 1;
    file_write(w, "FORMAT", bytes, 16);
    check_refused(w, STATUS_CHECKSUM_MISMATCH, "damaged");
    file_write(w, "FORMAT", good, 15);
    check_refused(w, STATUS_CHECKSUM_MISMATCH, "15 bytes");
    file_write(w, "FORMAT", good, 16);
    world_open(w);
}

static void test_directory_that_is_not_whole_is_refused(void **state) {
    struct world *w = *state;
    char a[128], b[128];
    rows_write(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_close(w);
    file_name(a, w, "FORMAT"), file_name(b, w, "FORMAT.kept");
    assert_int_equal(rename(a, b), 0);
    check_refused(w, STATUS_FORMAT_UNKNOWN, "not a store");
    assert_int_equal(rename(b, a), 0);
    file_name(a, w, "CURRENT"), file_name(b, w, "CURRENT.kept");
    assert_int_equal(rename(a, b), 0);
    check_refused(w, STATUS_CHECKSUM_MISMATCH, "CURRENT");
    assert_int_equal(rename(b, a), 0);
    world_open(w);
    struct store_view v = newest(w);
    assert_string_equal(rows_get(w, &v, "a"), "1");
}

static void test_directory_that_cannot_be_made_is_named(void **state) {
    struct world *w = *state;
    world_close(w);
    char keep[80];
    memcpy(keep, w->path, sizeof keep);
    snprintf(w->path, sizeof w->path, "%s/no/such", w->dir);
    check_refused(w, STATUS_IO_FAILED, "No such file");
    memcpy(w->path, keep, sizeof keep);
}

static void test_second_opener_is_refused(void **state) {
    struct world *w = *state;
    struct store_config config = {.memtable_bytes = 1 * MIB, .shared = w->shared};
    struct store *second;
    char error[256];
    assert_int_equal(store_open_rocks(&second, w->path, &config, error), STATUS_IO_FAILED);
    assert_null(second);
    assert_non_null(strstr(error, w->path));
}

/* ---- damaged tables */

/* The largest table of the closed store. */
static void table_name(struct world *w, char out[128]) {
    DIR *dir = opendir(w->path);
    off_t largest = 0;
    for (const struct dirent *d; (d = readdir(dir));) {
        char path[400];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", w->path, d->d_name);
        if (strstr(d->d_name, ".sst") && stat(path, &st) == 0 && st.st_size > largest) largest = st.st_size, snprintf(out, 128, "%.127s", path);
    }
    closedir(dir);
    assert_true(largest > 0);
}
static void flip(const char *path, off_t at) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A file of the store's directory, and a place in it. Forgotten behind it. */
static void damage_is_told(struct world *w, struct store_damage *d) {
    char path[400];
    struct stat st;
    const char *name = strchr(d->file, '/');
    assert_non_null(name);
    snprintf(path, sizeof path, "%s%s", w->path, name);
    assert_int_equal(stat(path, &st), 0);
    assert_true(d->offset >= 0 && d->offset < st.st_size);
    *d = (struct store_damage){0};
}

/* Reads everything both ways; a row is right or the read says CHECKSUM_MISMATCH. Returns how many reads said so. */
static unsigned damaged_reads(struct world *w, uint32_t count) {
    struct store_view v = newest(w);
    struct store_damage where = {0};
    unsigned bad = 0;
    uint8_t key[8], value[ROW_BYTES];
    v.damage = &where;
    for (uint32_t n = 1; n <= count; n++) {
        struct slice row;
        enum status st = store_get(&v, row_key(key, n, n % ROWS_EACH), &w->arena, &row);
        assert_true(st == STATUS_OK || st == STATUS_CHECKSUM_MISMATCH);
        if (st) bad++, damage_is_told(w, &where);
        else assert_true(slice_equal(row, row_value(value, n, n % ROWS_EACH)));
    }
    struct store_iter *it = store_iter_open(&v, slice_str(""), SLICE_LIT("\xff\xff"));
    uint32_t seen = 0;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it), seen++) {
        struct slice k = store_iter_key(it);
        assert_true(slice_equal(store_iter_value(it), row_value(value, get_be32(k.data + 4), get_be32(k.data) / 1000000)));
    }
    if (store_iter_status(it)) assert_int_equal(store_iter_status(it), STATUS_CHECKSUM_MISMATCH), bad++, damage_is_told(w, &where);
    else assert_int_equal(seen, count * ROWS_EACH);
    store_iter_close(it);
    arena_reset(&w->arena);
    return bad;
}

static void test_flipped_bits_in_a_table_are_never_served(void **state) {
    struct world *w = *state;
    enum { COUNT = 200 };
    struct store_batch *b = store_batch_new(w->store);
    for (uint32_t n = 1; n <= COUNT; n++) assert_int_equal(numbered_apply(w->store, b, n), STATUS_OK);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_batch_free(b);
    world_close(w);
    char table[128];
    struct stat st;
    table_name(w, table);
    assert_int_equal(stat(table, &st), 0);
    struct test_random r = {7};
    unsigned noticed = 0;
    log_set_level(LOG_OFF); /* each read of a damaged block would say so */
    for (unsigned round = 0; round < 60; round++) {
        off_t at = round < 50 ? (off_t)test_random_below(&r, (uint64_t)st.st_size) : st.st_size - 1 - (off_t)test_random_below(&r, 1200);
        char error[256];
        flip(table, at);
        /* a cache of its own: no block of another round */
        struct store_config config = {.memtable_bytes = w->memtable_bytes, .block_cache_bytes = 8 * MIB};
        enum status opened = store_open_rocks(&w->store, w->path, &config, error);
        assert_true(opened == STATUS_OK || opened == STATUS_CHECKSUM_MISMATCH);
        if (opened) noticed++;
        else noticed += damaged_reads(w, COUNT) > 0, world_close(w);
        flip(table, at);
    }
    log_set_level(LOG_INFO);
    assert_true(noticed >= 50); /* a few bytes are padding or statistics, which nobody reads */
    world_open(w);
    assert_int_equal(damaged_reads(w, COUNT), 0);
    assert_int_equal(numbered_check(w), COUNT);
}

static void test_missing_table_is_refused(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1");
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_close(w);
    char table[128], error[256];
    table_name(w, table);
    assert_int_equal(unlink(table), 0);
    enum status st = world_try_open(w, error);
    assert_true(st == STATUS_CHECKSUM_MISMATCH || st == STATUS_IO_FAILED);
    assert_non_null(strstr(error, "No such file"));
}

/* Damage that a compaction meets: nothing wrong is copied, and the store says why it takes no more. */
static void test_compaction_of_a_damaged_table_fails_the_store(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    uint32_t n = 0;
    while (n < 200) assert_int_equal(numbered_apply(w->store, b, ++n), STATUS_OK);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_batch_free(b);
    world_close(w);
    char table[128];
    table_name(w, table);
    flip(table, 100000); /* in a block of rows */
    world_open(w);
    b = store_batch_new(w->store);
    struct store_stats stats = {0};
    enum status st = STATUS_OK;
    log_set_level(LOG_OFF);
    for (unsigned i = 0; i < 1000 && !stats.failed; i++) { /* more tables of its size, until they are compacted with ours */
        for (unsigned row = 0; row < 200 && i < 20 && st == STATUS_OK; row++)
            if ((st = numbered_apply(w->store, b, n + 1)) == STATUS_OK) n++;
        if (i < 20 && st == STATUS_OK) st = store_flush(w->store);
        usleep(11000);
        store_get_stats(w->store, &stats);
    }
    assert_true(stats.failed);
    assert_int_equal(stats.failure, STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(numbered_apply(w->store, b, n + 1), STATUS_CHECKSUM_MISMATCH);
    store_batch_free(b);
    log_set_level(LOG_INFO);
}

/* ---- a directory that goes away under the store: any other failed write */

static void test_failed_write_is_io_failed_until_reopened(void **state) {
    struct world *w = *state;
    struct store_batch *b = store_batch_new(w->store);
    struct store_stats stats;
    char away[96];
    snprintf(away, sizeof away, "%s.away", w->path);
    for (uint32_t n = 1; n <= 10; n++) assert_int_equal(numbered_apply(w->store, b, n), STATUS_OK);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    assert_int_equal(numbered_apply(w->store, b, 11), STATUS_OK);
    assert_int_equal(rename(w->path, away), 0);
    log_set_level(LOG_OFF);
    assert_int_equal(store_flush(w->store), STATUS_IO_FAILED);
    log_set_level(LOG_INFO);
    assert_int_equal(rename(away, w->path), 0);
    assert_int_equal(numbered_apply(w->store, b, 12), STATUS_IO_FAILED);
    assert_int_equal(store_flush(w->store), STATUS_IO_FAILED);
    store_get_stats(w->store, &stats);
    assert_true(stats.failed);
    assert_int_equal(stats.failure, STATUS_IO_FAILED);
    assert_int_equal(stats.pressure, 2);
    assert_int_equal(numbered_check(w), 11); /* reads go on */
    store_batch_free(b);
    world_reopen(w);
    assert_int_equal(numbered_check(w), 10);
}

/* ---- a full disk: a small tmpfs */

static bool small_disk(struct world *w, const char *options) {
    assert_int_equal(mkdir(w->path, 0700), 0);
    if (mount("tmpfs", w->path, "tmpfs", 0, options) == 0) return true;
    print_message("skip: a tmpfs cannot be mounted here (not root?): %s\n", strerror(errno));
    return false;
}
/* Takes all but `leave` bytes of the disk. */
static void disk_fill(struct world *w, off_t size, off_t leave) {
    static uint8_t zeros[65536];
    char path[128];
    snprintf(path, sizeof path, "%s/filler", w->path);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    for (ssize_t n; size > 0 && (n = write(fd, zeros, sizeof zeros)) > 0;) size -= n;
    if (leave) {
        struct stat st;
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(ftruncate(fd, st.st_size - leave), 0);
    }
    close(fd);
}
static void disk_free(struct world *w) {
    char path[128];
    snprintf(path, sizeof path, "%s/filler", w->path);
    assert_int_equal(unlink(path), 0);
}

/* with_flush: store_flush meets the full disk. Else: the run of a full table does. */
static void run_full_disk(struct world *w, bool with_flush, off_t leave) {
    if (!small_disk(w, "size=32m,mode=0700")) {
        world_open(w); /* for the teardown */
        skip();
    }
    char mounted[80];
    memcpy(mounted, w->path, sizeof mounted);
    snprintf(w->path, sizeof w->path, "%s/part/p", w->dir);
    w->memtable_bytes = 1 * MIB;
    world_open(w);
    memcpy(w->path, mounted, sizeof mounted);
    struct store_batch *b = store_batch_new(w->store);
    struct store_stats stats;
    enum status st = STATUS_OK;
    uint32_t n = 0, flushed;
    while (n < 300) assert_int_equal(numbered_apply(w->store, b, ++n), STATUS_OK);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    flushed = n;
    disk_fill(w, 32 * MIB, leave);
    for (unsigned i = 0; st == STATUS_OK && i < 4000; i++) {
        st = numbered_apply(w->store, b, n + 1);
        if (st == STATUS_OK) n++;
        if (st == STATUS_OK && with_flush && i % 50 == 49) {
            st = store_flush(w->store);
            if (st == STATUS_OK) flushed = n;
        }
        store_get_stats(w->store, &stats);
        if (stats.failed) break;
    }
    /* Refused from now on, though RocksDB may be trying to recover by itself; all that was applied is read. */
    store_get_stats(w->store, &stats);
    assert_true(stats.failed);
    assert_int_equal(stats.failure, STATUS_DISK_FULL);
    assert_int_equal(stats.pressure, 2);
    assert_int_equal(numbered_apply(w->store, b, n + 1), STATUS_DISK_FULL);
    assert_int_equal(store_flush(w->store), STATUS_DISK_FULL);
    assert_int_equal(numbered_check(w), n);
    char why[256];
    assert_int_equal(store_probe(w->store, why), STATUS_DISK_FULL);
    assert_non_null(strstr(why, "/PROBE"));
    store_batch_free(b);
    world_close(w);

    /* As long as it is full, opening says so or works; then everything flushed is there, and one prefix. */
    snprintf(w->path, sizeof w->path, "%s/part/p", w->dir);
    char error[256];
    st = world_try_open(w, error);
    assert_true(st == STATUS_OK || st == STATUS_DISK_FULL);
    if (!st) assert_in_range(numbered_check(w), flushed, n), world_close(w);
    memcpy(w->path, mounted, sizeof mounted);
    disk_free(w);
    snprintf(w->path, sizeof w->path, "%s/part/p", w->dir);
    world_open(w);
    uint32_t found = numbered_check(w);
    assert_in_range(found, flushed, n);
    b = store_batch_new(w->store);
    while (found < n + 500) assert_int_equal(numbered_apply(w->store, b, ++found), STATUS_OK);
    assert_int_equal(store_flush(w->store), STATUS_OK);
    store_batch_free(b);
    assert_int_equal(numbered_check(w), found);
    assert_int_equal(store_probe(w->store, why), STATUS_OK);
    char left[160];
    snprintf(left, sizeof left, "%s/PROBE", w->path);
    assert_int_equal(access(left, F_OK), -1);
    world_close(w);
    memcpy(w->path, mounted, sizeof mounted);
    assert_int_equal(umount(w->path), 0);
}
static void test_full_disk_met_by_a_flush(void **state) { run_full_disk(*state, true, 0); }
static void test_full_disk_met_in_the_middle_of_a_flush(void **state) { run_full_disk(*state, true, 300000); }
static void test_full_disk_met_by_a_full_table(void **state) { run_full_disk(*state, false, 0); }

static void test_full_disk_at_creation(void **state) {
    struct world *w = *state;
    if (!small_disk(w, "size=8m,mode=0700,nr_inodes=4")) skip();
    char keep[80], error[256];
    memcpy(keep, w->path, sizeof keep);
    snprintf(w->path, sizeof w->path, "%s/part/p", w->dir);
    assert_int_equal(world_try_open(w, error), STATUS_DISK_FULL); /* the directory, FORMAT, then no inode is left */
    assert_non_null(strstr(error, w->path));
    memcpy(w->path, keep, sizeof keep);
    assert_int_equal(umount(w->path), 0);
}

/* ---- expiry, cold reads, pressure, memory */

static void test_expired_rows_go_by_compaction_and_no_others(void **state) {
    struct world *w = *state;
    uint8_t value[8], kinds[] = {'D', 'H'};
    struct store_view v = newest(w);
    struct slice row;
    store_set_expiry(w->store, 'D', 100);
    for (unsigned round = 0; round < 10; round++) { /* overlapping tables in level 0: a compaction comes by itself */
        struct store_batch *b = store_batch_new(w->store);
        rows_put(b, "\1\1", "other"), rows_put(b, "\2", "other");
        for (unsigned i = 0; i < 2 && round == 0; i++) {
            uint8_t key[4] = {1, 2, kinds[i], 'a'};
            put_be64(value, 100);
            store_batch_put(b, slice_of(key, 4), slice_of(value, 8));
            key[3] = 'b', put_be64(value, 101);
            store_batch_put(b, slice_of(key, 4), slice_of(value, 8));
            key[3] = 'c';
            store_batch_put(b, slice_of(key, 4), slice_of(value, 7)); /* too short to say: stays */
        }
        assert_int_equal(store_apply(w->store, b), STATUS_OK);
        assert_int_equal(store_flush(w->store), STATUS_OK);
        store_batch_free(b);
    }
    enum status st = STATUS_OK;
    for (unsigned i = 0; i < 1000 && st == STATUS_OK; i++) {
        st = store_get(&v, SLICE_LIT("\1\2Da"), &w->arena, &row);
        usleep(5000);
    }
    assert_int_equal(st, STATUS_ABSENT);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\2Db"), &w->arena, &row), STATUS_OK);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\2Dc"), &w->arena, &row), STATUS_OK);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\2Ha"), &w->arena, &row), STATUS_OK);
    assert_int_equal(store_get(&v, SLICE_LIT("\1\2Hb"), &w->arena, &row), STATUS_OK);
}

static void test_cached_read_of_a_cold_row_would_block(void **state) {
    struct world *w = *state;
    rows_write(w, "a=1 b=2");
    struct store_view cached = {.store = w->store, .cached_only = true}, v = newest(w);
    assert_string_equal(rows_get(w, &cached, "a"), "1"); /* from the memtable */
    assert_int_equal(store_flush(w->store), STATUS_OK);
    world_reopen(w);
    cached.store = v.store = w->store;
    assert_string_equal(rows_get(w, &cached, "a"), "WOULD_BLOCK");
    assert_string_equal(rows_scan(w, &cached, "", "", false), "!WOULD_BLOCK");
    struct store_snapshot *n = store_snapshot_get(w->store);
    cached.snapshot = n;
    assert_string_equal(rows_get(w, &cached, "a"), "WOULD_BLOCK");
    store_snapshot_put(w->store, n);
    cached.snapshot = NULL;
    assert_string_equal(rows_get(w, &v, "a"), "1");
    assert_string_equal(rows_get(w, &cached, "a"), "1");
    assert_string_equal(rows_scan(w, &cached, "", "", false), "a=1 b=2");
}

static void test_pressure_closes_before_apply_waits(void **state) {
    struct world *w = *state;
    world_close(w);
    w->memtable_bytes = 1 * MIB;
    world_open(w);
    struct store_batch *b = store_batch_new(w->store);
    unsigned closed = 0;
    for (uint32_t n = 1; n <= 3000; n++) {
        struct store_stats stats;
        store_get_stats(w->store, &stats);
        assert_true(stats.immutable_memtables <= 5);
        if (stats.immutable_memtables >= 3) assert_int_equal(stats.pressure, 2);
        if (stats.immutable_memtables == 2) assert_true(stats.pressure >= 1);
        assert_true(stats.memtable_bytes <= w->memtable_bytes * 3 / 2);
        assert_true(stats.unflushed_bytes <= w->memtable_bytes * 3 / 2);
        if (stats.pressure == 2) closed++, usleep(2000), n--;
        else assert_int_equal(numbered_apply(w->store, b, n), STATUS_OK);
        assert_true(closed < 10000); /* it opens again */
    }
    store_batch_free(b);
}

static void test_allocations_of_the_open_may_fail(void **state) {
    struct world *w = *state;
    world_close(w);
    for (uint64_t n = 1;; n++) {
        char error[256];
        struct store_config config = {.memtable_bytes = 1 * MIB, .block_cache_bytes = 8 * MIB};
        mem_fail_nth(n);
        enum status st = store_open_rocks(&w->store, w->path, &config, error);
        mem_fail_nth(0);
        if (!st) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
        assert_non_null(strstr(error, "no memory"));
    }
    mem_fail_nth(1);
    assert_null(store_batch_new(w->store));
    mem_fail_nth(1);
    assert_null(store_snapshot_get(w->store));
    mem_fail_nth(1);
    struct store_view v = newest(w);
    struct store_iter *it = store_iter_open(&v, slice_str(""), slice_str(""));
    assert_null(it);
    store_iter_first(it);
    assert_false(store_iter_valid(it));
    assert_int_equal(store_iter_status(it), STATUS_MEMORY_LIMIT);
    store_iter_close(it);
}

static int setup_closed(void **state) {
    *state = world_new(true);
    return 0;
}

/* A test that failed half-way leaves no mount behind. */
static int teardown_disk(void **state) {
    struct world *w = *state;
    char path[80];
    snprintf(path, sizeof path, "%s/part", w->dir);
    if (w->store) world_close(w);
    umount2(path, MNT_DETACH);
    return world_teardown(state);
}

#define ROCKS(test) {#test, test, world_setup_rocks, world_teardown, NULL}
#define DISK(test) {#test, test, setup_closed, teardown_disk, NULL}
int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--crash-child") == 0) return crash_child_main(argv[2], (uint32_t)strtoul(argv[3], NULL, 10));
    alarm(120); /* a close that hangs is a failure, not a long run */
    const struct CMUnitTest tests[] = {
        ROCKS(test_format_file_is_golden),
        ROCKS(test_directory_of_version_1_becomes_one_of_the_newest),
        ROCKS(test_unknown_or_damaged_format_is_refused),
        ROCKS(test_directory_that_is_not_whole_is_refused),
        ROCKS(test_directory_that_cannot_be_made_is_named),
        ROCKS(test_second_opener_is_refused),
        ROCKS(test_flush_runs_beside_apply_and_covers_what_was_before),
        ROCKS(test_killed_store_is_a_prefix_that_holds_every_flush),
        ROCKS(test_flipped_bits_in_a_table_are_never_served),
        ROCKS(test_missing_table_is_refused),
        ROCKS(test_compaction_of_a_damaged_table_fails_the_store),
        ROCKS(test_failed_write_is_io_failed_until_reopened),
        DISK(test_full_disk_met_by_a_flush),
        DISK(test_full_disk_met_in_the_middle_of_a_flush),
        DISK(test_full_disk_met_by_a_full_table),
        DISK(test_full_disk_at_creation),
        ROCKS(test_expired_rows_go_by_compaction_and_no_others),
        ROCKS(test_cached_read_of_a_cold_row_would_block),
        ROCKS(test_pressure_closes_before_apply_waits),
        ROCKS(test_allocations_of_the_open_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
