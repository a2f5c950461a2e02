/* engine/trash.h, on real files: tables of a directory are given up, whole ones and such as a checkpoint still holds. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/trash.h"
#include "tests/lib/store_world.h"

enum { PIECE = 64 << 10, TABLE_PIECES = 16, WAIT_S = 20 };

struct dirs {
    char top[64], store[80], trash[80];
    struct trash_config config;
    struct trash *t;
};

static void open_trash(struct dirs *d) {
    char error[256];
    assert_int_equal(trash_open(&d->t, &d->config, error), STATUS_OK);
}
static int setup(void **state) {
    struct dirs *d = mem_new(struct dirs);
    assert_non_null(d);
    snprintf(d->top, sizeof d->top, "/tmp/orderdb-trash-XXXXXX");
    assert_non_null(mkdtemp(d->top));
    snprintf(d->store, sizeof d->store, "%s/store", d->top), snprintf(d->trash, sizeof d->trash, "%s/trash", d->top);
    assert_int_equal(mkdir(d->store, 0700), 0);
    d->config = (struct trash_config){.dir = d->trash, .piece_bytes = PIECE, .rest_us = 5000, .look_us = 10000, .keep_free = 1};
    open_trash(d);
    assert_true(trash_watch(d->t, d->store));
    return *state = d, 0;
}
static int teardown(void **state) {
    struct dirs *d = *state;
    trash_close(d->t);
    remove_tree(d->top);
    mem_free(d);
    return 0;
}

static void name_in(const struct dirs *d, const char *file, char out[128]) { snprintf(out, 128, "%s/%s", d->store, file); }
/* Returns its inode. */
static uint64_t make_file(const struct dirs *d, const char *file, size_t bytes) {
    char name[128];
    name_in(d, file, name);
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    uint8_t *data = mem_zalloc(bytes);
    assert_non_null(data);
    memset(data, 'x', bytes);
    assert_int_equal(write(fd, data, bytes), bytes);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    mem_free(data);
    close(fd);
    return st.st_ino;
}
static void remove_file(const struct dirs *d, const char *file) {
    char name[128];
    name_in(d, file, name);
    assert_int_equal(unlink(name), 0);
}
/* Of its name in the trash: bytes and names; -1: there is none. */
static int64_t kept(const struct dirs *d, uint64_t inode, unsigned *names) {
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s/%llu", d->trash, (unsigned long long)inode);
    if (stat(name, &st) < 0) return -1;
    if (names) *names = (unsigned)st.st_nlink;
    return st.st_size;
}
static void nap(void) { (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }
static double seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}
static void wait_kept(const struct dirs *d, uint64_t inode, bool there) {
    for (double end = seconds() + WAIT_S; (kept(d, inode, NULL) >= 0) != there; nap()) assert_true(seconds() < end);
}
/* Waits until it is gone; in how many sizes it was seen. */
static unsigned sizes_until_gone(const struct dirs *d, uint64_t inode) {
    unsigned sizes = 0;
    int64_t last = INT64_MAX, now;
    for (double end = seconds() + WAIT_S; (now = kept(d, inode, NULL)) >= 0; nap()) {
        assert_true(now <= last && now % PIECE == 0);
        sizes += now != last;
        last = now;
        assert_true(seconds() < end);
    }
    return sizes;
}

static void test_table_that_is_removed_goes_piece_by_piece(void **state) {
    struct dirs *d = *state;
    uint64_t inode = make_file(d, "000001.sst", PIECE * TABLE_PIECES);
    wait_kept(d, inode, true);
    assert_int_equal(trash_bytes(d->t), 0); /* it is in use */
    remove_file(d, "000001.sst");
    assert_true(sizes_until_gone(d, inode) >= 3);
    for (double end = seconds() + WAIT_S; trash_bytes(d->t); nap()) assert_true(seconds() < end);
}

static void test_table_that_a_checkpoint_holds_stays_whole(void **state) {
    struct dirs *d = *state;
    char from[128], held[128];
    uint64_t inode = make_file(d, "000001.sst", PIECE * TABLE_PIECES);
    name_in(d, "000001.sst", from), snprintf(held, sizeof held, "%s/held", d->top);
    assert_int_equal(link(from, held), 0);
    wait_kept(d, inode, true);
    remove_file(d, "000001.sst");
    uint64_t other = make_file(d, "000002.sst", PIECE * 3);
    wait_kept(d, other, true);
    remove_file(d, "000002.sst");
    wait_kept(d, other, false); /* looks have gone by */
    unsigned names = 0;
    assert_int_equal(kept(d, inode, &names), PIECE * TABLE_PIECES);
    assert_int_equal(names, 2);
    assert_int_equal(unlink(held), 0);
    wait_kept(d, inode, false);
}

static void test_what_an_earlier_process_left_goes_and_nothing_else(void **state) {
    struct dirs *d = *state;
    uint64_t dead = make_file(d, "000001.sst", PIECE * TABLE_PIECES), alive = make_file(d, "000002.sst", PIECE * 2);
    wait_kept(d, dead, true), wait_kept(d, alive, true);
    trash_unwatch(d->t, d->store), trash_unwatch(d->t, d->store);
    trash_close(d->t);
    remove_file(d, "000001.sst");
    char note[128], number[128];
    snprintf(note, sizeof note, "../trash/note"), snprintf(number, sizeof number, "../trash/12");
    make_file(d, note, 10), make_file(d, number, 10); /* the number of another inode: a copy's */
    open_trash(d);
    snprintf(note, sizeof note, "%s/note", d->trash);
    assert_int_equal(access(note, F_OK), 0);
    assert_int_equal(kept(d, 12, NULL), -1);
    wait_kept(d, dead, false);
    assert_int_equal(kept(d, alive, NULL), PIECE * 2); /* though nobody watches it */
    remove_file(d, "000002.sst");
    wait_kept(d, alive, false);
}

static void test_files_that_are_no_tables_get_no_second_name(void **state) {
    struct dirs *d = *state;
    uint64_t other = make_file(d, "000001.log", PIECE), table = make_file(d, "000002.sst", PIECE);
    make_file(d, ".sst", PIECE);
    wait_kept(d, table, true);
    assert_int_equal(kept(d, other, NULL), -1);
}

static void test_where_space_is_short_they_go_whole(void **state) {
    struct dirs *d = *state;
    trash_close(d->t);
    d->config.keep_free = UINT64_MAX;
    open_trash(d);
    assert_true(trash_watch(d->t, d->store));
    uint64_t inode[20];
    for (unsigned i = 0; i < 20; i++) {
        char file[16];
        snprintf(file, sizeof file, "%06u.sst", i);
        inode[i] = make_file(d, file, PIECE * TABLE_PIECES);
        wait_kept(d, inode[i], true);
    }
    for (unsigned i = 0; i < 20; i++) {
        char file[16];
        snprintf(file, sizeof file, "%06u.sst", i);
        remove_file(d, file);
        assert_true(sizes_until_gone(d, inode[i]) <= 1);
    }
}

static void test_many_directories_and_tables(void **state) {
    struct dirs *d = *state;
    enum { DIRS = 3, TABLES = 300 };
    uint64_t inode[DIRS][TABLES];
    for (unsigned i = 0; i < DIRS; i++) {
        char path[128], file[32];
        snprintf(path, sizeof path, "%s/%u", d->store, i);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_true(trash_watch(d->t, path));
        for (unsigned j = 0; j < TABLES; j++) snprintf(file, sizeof file, "%u/%06u.sst", i, j), inode[i][j] = make_file(d, file, 100);
    }
    for (unsigned i = 0; i < DIRS; i++)
        for (unsigned j = 0; j < TABLES; j++) wait_kept(d, inode[i][j], true);
    for (unsigned i = 0; i < DIRS; i++)
        for (unsigned j = 0; j < TABLES; j += 7) {
            char file[32];
            snprintf(file, sizeof file, "%u/%06u.sst", i, j);
            remove_file(d, file);
        }
    for (unsigned i = 0; i < DIRS; i++)
        for (unsigned j = 0; j < TABLES; j++) {
            if (j % 7 == 0) wait_kept(d, inode[i][j], false);
            else assert_int_equal(kept(d, inode[i][j], NULL), 100);
        }
}

static void test_refusals_have_a_reason(void **state) {
    struct trash *t;
    char error[256];
    assert_int_equal(trash_open(&t, &(struct trash_config){.dir = "/dev/null/trash"}, error), STATUS_IO_FAILED);
    assert_non_null(strstr(error, "/dev/null/trash"));
    for (unsigned n = 1; n <= 2; n++) {
        mem_fail_nth(n);
        assert_int_equal(trash_open(&t, &(struct trash_config){.dir = "/tmp"}, error), STATUS_MEMORY_LIMIT);
        assert_non_null(strstr(error, "/tmp"));
        assert_null(t);
    }
    mem_fail_nth(0);
    trash_close(NULL);
}

/* A store's tables, through a run, a merge by dropping a range, and the close. */
static void test_tables_of_a_store_have_two_names(void **state) {
    struct dirs *d = *state;
    char error[256], path[128];
    snprintf(path, sizeof path, "%s/rocks", d->top);
    struct store *s;
    assert_int_equal(store_open_rocks(&s, path, &(struct store_config){.memtable_bytes = 8 << 20, .block_cache_bytes = 8 << 20, .trash = d->t}, error), STATUS_OK);
    struct store_batch *b = store_batch_new(s);
    rows_put(b, "a", "1");
    assert_int_equal(store_apply(s, b), STATUS_OK);
    assert_int_equal(store_flush(s), STATUS_OK);
    unsigned tables = 0;
    DIR *dir = opendir(path);
    for (const struct dirent *e; (e = readdir(dir));)
        if (strstr(e->d_name, ".sst")) wait_kept(d, e->d_ino, true), tables++;
    closedir(dir);
    assert_int_equal(tables, 1);
    store_batch_free(b);
    store_close(s);
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_table_that_is_removed_goes_piece_by_piece), CASE(test_table_that_a_checkpoint_holds_stays_whole), CASE(test_what_an_earlier_process_left_goes_and_nothing_else),
        CASE(test_files_that_are_no_tables_get_no_second_name), CASE(test_where_space_is_short_they_go_whole), CASE(test_many_directories_and_tables),
        cmocka_unit_test(test_refusals_have_a_reason), CASE(test_tables_of_a_store_have_two_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
