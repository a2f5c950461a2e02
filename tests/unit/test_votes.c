/* engine/votes.h */
#include "engine/votes.h"

#include "engine/wal.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/panics.h"
#include "tests/lib/sim_env.h"
#include "tests/lib/test.h"

enum { COPY = 32768 };
struct votes_fixture {
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct votes *votes;
    unsigned done;
    char error[256];
};

static int setup(void **state) {
    struct votes_fixture *f = calloc(1, sizeof *f);
    check(f);
    f->world = sim_world_new(1);
    f->disk = sim_disk_new(f->world);
    return *state = f, 0;
}

static enum status try_open(struct votes_fixture *f) {
    f->env = sim_env_open(f->world, f->disk);
    enum status st = votes_open(&f->votes, f->env, "votes", f->error);
    if (st) sim_env_close(f->env), f->env = NULL;
    return st;
}

static void open_votes(struct votes_fixture *f) {
    enum status st = try_open(f);
    if (st) fail_msg("open: %s: %s", status_name(st), f->error);
}

static void close_votes(struct votes_fixture *f) {
    votes_close(f->votes), f->votes = NULL;
    sim_env_close(f->env), f->env = NULL;
}

static int teardown(void **state) {
    struct votes_fixture *f = *state;
    if (f->votes) close_votes(f);
    sim_disk_free(f->disk);
    sim_world_free(f->world);
    free(f);
    return 0;
}

static void on_done(void *ctx) { ((struct votes_fixture *)ctx)->done++; }

static void set(struct votes_fixture *f, uint64_t group, uint64_t term, uint64_t voted_for) {
    assert_int_equal(votes_set(f->votes, group, term, voted_for), STATUS_OK);
}

static void commit(struct votes_fixture *f) {
    unsigned before = f->done;
    votes_commit(f->votes, on_done, f);
    assert_true(votes_busy(f->votes));
    assert_int_equal(f->done, before); /* from the loop */
    while (votes_busy(f->votes)) assert_true(sim_world_step(f->world));
    assert_int_equal(f->done, before + 1);
}

static void expect(struct votes_fixture *f, uint64_t group, uint64_t term, uint64_t voted_for) {
    uint64_t t, v;
    assert_true(votes_get(f->votes, group, &t, &v));
    assert_int_equal(t, term);
    assert_int_equal(v, voted_for);
}

static void what_was_committed_is_there_after_a_power_cut(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    assert_true(votes_is_new(f->votes));
    uint64_t t, v;
    assert_false(votes_get(f->votes, 1, &t, &v));
    assert_false(votes_dirty(f->votes));
    set(f, 1, 5, 3);
    set(f, 2, 1, 0);
    set(f, 1, 6, 2);
    assert_true(votes_dirty(f->votes));
    expect(f, 1, 6, 2); /* staged is seen */
    commit(f);
    assert_false(votes_dirty(f->votes));
    sim_disk_crash(f->disk);
    close_votes(f);
    open_votes(f);
    assert_false(votes_is_new(f->votes));
    expect(f, 1, 6, 2);
    expect(f, 2, 1, 0);
}

static void what_is_staged_during_a_commit_needs_the_next_one(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    set(f, 1, 1, 1);
    votes_commit(f->votes, on_done, f);
    set(f, 1, 2, 2);
    assert_true(votes_dirty(f->votes));
    while (votes_busy(f->votes)) sim_world_step(f->world);
    assert_true(votes_dirty(f->votes));
    sim_disk_crash(f->disk);
    close_votes(f);
    open_votes(f);
    expect(f, 1, 1, 1);
}

/* A power cut anywhere: the old table or the new one, the new one when done() was called; and done() means both copies. */
static void a_cut_at_any_step_leaves_one_whole_table(void **state) {
    struct votes_fixture *f = *state;
    unsigned old_seen = 0, new_seen = 0;
    for (unsigned seed = 0; seed < 300; seed++) {
        if (!f->votes) open_votes(f);
        set(f, 1, 2 * seed + 1, 7);
        for (uint64_t g = 2; g < 400; g++) set(f, g, 2 * seed + 1, g); /* several blocks: they tear */
        commit(f);
        set(f, 1, 2 * seed + 2, 8);
        for (uint64_t g = 2; g < 400; g++) set(f, g, 2 * seed + 2, g);
        f->done = 0;
        votes_commit(f->votes, on_done, f);
        for (uint64_t steps = sim_world_below(f->world, 6); steps && votes_busy(f->votes); steps--) sim_world_step(f->world);
        bool done = f->done;
        sim_disk_crash(f->disk);
        close_votes(f);
        if (sim_world_chance(f->world, 50)) { /* and again while mending */
            sim_disk_faults(f->disk)->crash_at = 1 + sim_world_below(f->world, 2);
            if (try_open(f) == STATUS_OK) close_votes(f);
            sim_disk_faults(f->disk)->crash_at = 0;
        }
        if (done && sim_world_chance(f->world, 50)) sim_disk_flip(f->disk, "votes", (sim_world_below(f->world, 2) * COPY + 500) * 8);
        open_votes(f);
        uint64_t term, voted_for;
        assert_true(votes_get(f->votes, 1, &term, &voted_for));
        assert_true(term == 2 * seed + 2 || (!done && term == 2 * seed + 1));
        for (uint64_t g = 2; g < 400; g++) expect(f, g, term, g);
        if (term == 2 * seed + 2) new_seen++;
        else old_seen++;
    }
    assert_true(old_seen > 20);
    assert_true(new_seen > 20);
}

static void damage_to_either_copy_never_rolls_a_vote_back(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    set(f, 1, 1, 1), commit(f);
    set(f, 1, 2, 9), commit(f);
    close_votes(f);
    for (unsigned copy = 0; copy < 2; copy++)
        for (uint64_t byte = 0; byte < 32 + 24; byte++) {
            sim_disk_flip(f->disk, "votes", (copy * COPY + byte) * 8 + byte % 8);
            open_votes(f);
            expect(f, 1, 2, 9);
            close_votes(f);
            size_t len;
            const uint8_t *file = sim_disk_file(f->disk, "votes", &len); /* mended */
            assert_memory_equal(file, file + COPY, 4096);
        }
}

/* Cut between the two writes: the newer table is whole, so it counts, and stands in both copies before open returns. */
static void the_newer_of_two_whole_copies_counts(void **state) {
    struct votes_fixture *f = *state;
    static uint8_t older[2 * COPY], file[2 * COPY];
    size_t len;
    open_votes(f);
    set(f, 1, 1, 1), commit(f);
    memcpy(older, sim_disk_file(f->disk, "votes", &len), sizeof older);
    set(f, 1, 2, 9), commit(f);
    close_votes(f);
    for (unsigned newer = 0; newer < 2; newer++) {
        memcpy(file, sim_disk_file(f->disk, "votes", &len), sizeof file);
        memcpy(file + (1 - newer) * COPY, older, COPY);
        sim_disk_put(f->disk, "votes", file, len);
        open_votes(f);
        expect(f, 1, 2, 9);
        sim_disk_crash(f->disk);
        close_votes(f);
        const uint8_t *mended = sim_disk_file(f->disk, "votes", &len);
        assert_memory_equal(mended, mended + COPY, 4096);
    }
}

static void both_copies_damaged_is_refused(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    set(f, 1, 1, 1), commit(f);
    close_votes(f);
    sim_disk_flip(f->disk, "votes", 40 * 8);
    sim_disk_flip(f->disk, "votes", (COPY + 50) * 8);
    assert_int_equal(try_open(f), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(f->error, "file=votes offset=0"));
    assert_non_null(strstr(f->error, "offset 32768"));
}

static void another_format_and_a_wrong_size_are_refused(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    close_votes(f);
    size_t len;
    static uint8_t file[2 * COPY];
    memcpy(file, sim_disk_file(f->disk, "votes", &len), sizeof file);
    assert_int_equal(len, sizeof file);
    put_le32(file + COPY + 8, 2);
    put_le32(file + COPY + 12, crc32c(crc32c(0, file + COPY, 12), file + COPY + 16, 16));
    sim_disk_put(f->disk, "votes", file, len);
    assert_int_equal(try_open(f), STATUS_FORMAT_UNKNOWN);
    assert_non_null(strstr(f->error, "file=votes offset=32776: votes format 2, this program knows 1"));
    sim_disk_put(f->disk, "votes", file, COPY);
    assert_int_equal(try_open(f), STATUS_CHECKSUM_MISMATCH);
    sim_disk_put(f->disk, "votes", file, 0);
    assert_int_equal(try_open(f), STATUS_CHECKSUM_MISMATCH);
}

static void the_first_start_survives_a_cut_at_every_change(void **state) {
    struct votes_fixture *f = *state;
    for (uint64_t n = 1;; n++) {
        sim_disk_faults(f->disk)->crash_at = n;
        enum status st = try_open(f);
        bool dead = sim_disk_dead(f->disk);
        sim_disk_faults(f->disk)->crash_at = 0;
        if (!st && !dead) break;
        assert_int_not_equal(st, STATUS_OK);
        open_votes(f);
        close_votes(f);
        sim_disk_drop(f->disk, "votes");
    }
}

static void a_full_core_has_its_place_and_one_more_is_refused(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    for (uint64_t g = 0; g < WAL_GROUPS_MAX; g++) set(f, g, g + 1, 1);
    assert_int_equal(votes_set(f->votes, WAL_GROUPS_MAX, 1, 1), STATUS_LIMIT_EXCEEDED);
    commit(f);
    close_votes(f);
    open_votes(f);
    for (uint64_t g = 0; g < WAL_GROUPS_MAX; g++) expect(f, g, g + 1, 1);
}

static void run_commit(void *ctx) {
    struct votes_fixture *f = ctx;
    set(f, 1, 100, 1);
    commit(f);
}

static void a_failed_write_or_sync_stops_the_process(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    for (unsigned n = 1; n <= 2; n++) {
        sim_disk_faults(f->disk)->write_fails_at = n;
        assert_panics(run_commit, f, "votes write failed: file=votes errno=5");
        sim_disk_faults(f->disk)->write_fails_at = 0;
        sim_disk_faults(f->disk)->sync_fails_at = n;
        assert_panics(run_commit, f, "votes sync failed: file=votes errno=5");
        sim_disk_faults(f->disk)->sync_fails_at = 0;
    }
}

static void faults_at_open_are_told(void **state) {
    struct votes_fixture *f = *state;
    sim_disk_faults(f->disk)->space_bytes = 1000;
    assert_int_equal(try_open(f), STATUS_DISK_FULL);
    *sim_disk_faults(f->disk) = (struct sim_faults){.sync_fails_at = 1};
    assert_int_equal(try_open(f), STATUS_IO_FAILED);
    *sim_disk_faults(f->disk) = (struct sim_faults){.write_fails_at = 1};
    assert_int_equal(try_open(f), STATUS_IO_FAILED);
    *sim_disk_faults(f->disk) = (struct sim_faults){.dir_sync_fails_at = 1};
    assert_int_equal(try_open(f), STATUS_IO_FAILED);
    *sim_disk_faults(f->disk) = (struct sim_faults){0};
    open_votes(f);
    close_votes(f);
    *sim_disk_faults(f->disk) = (struct sim_faults){.unreadable = "votes", .unreadable_to = 1};
    assert_int_equal(try_open(f), STATUS_IO_FAILED);
    assert_non_null(strstr(f->error, "file=votes"));
    *sim_disk_faults(f->disk) = (struct sim_faults){.sync_fails_at = 1};
    assert_int_equal(try_open(f), STATUS_IO_FAILED);
}

static void memory_that_runs_out_is_told(void **state) {
    struct votes_fixture *f = *state;
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        enum status st = try_open(f);
        mem_fail_nth(0);
        if (!st) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
    }
}

static void close_may_come_during_a_commit(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    set(f, 1, 1, 1);
    votes_commit(f->votes, on_done, f);
    votes_close(f->votes), f->votes = NULL;
    sim_world_settle(f->world);
    assert_int_equal(f->done, 0);
    sim_env_close(f->env), f->env = NULL;
    open_votes(f);
}

/* Persistent: a change here is a new format. */
static void bytes_are_golden(void **state) {
    struct votes_fixture *f = *state;
    open_votes(f);
    set(f, 1, 2, 3);
    set(f, 0x1122334455667788, 9, 0);
    commit(f);
    size_t len;
    const uint8_t *file = sim_disk_file(f->disk, "votes", &len);
    assert_golden("votes", slice_of(file, 32 + 2 * 24));
    assert_memory_equal(file, file + COPY, COPY);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        T(what_was_committed_is_there_after_a_power_cut),
        T(what_is_staged_during_a_commit_needs_the_next_one),
        T(a_cut_at_any_step_leaves_one_whole_table),
        T(damage_to_either_copy_never_rolls_a_vote_back),
        T(the_newer_of_two_whole_copies_counts),
        T(both_copies_damaged_is_refused),
        T(another_format_and_a_wrong_size_are_refused),
        T(the_first_start_survives_a_cut_at_every_change),
        T(a_full_core_has_its_place_and_one_more_is_refused),
        T(a_failed_write_or_sync_stops_the_process),
        T(faults_at_open_are_told),
        T(memory_that_runs_out_is_told),
        T(close_may_come_during_a_commit),
        T(bytes_are_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
