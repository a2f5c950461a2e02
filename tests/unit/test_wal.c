/* engine/wal.h: append, commit, trim, admission, reading back, sealing. Recovery and damage: test_wal_open.c. */
#include "tests/lib/wal_fixture.h"

#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/panics.h"
#include "tests/lib/test.h"

static void records_come_back_in_order(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    struct slice parts[3] = {SLICE_LIT("one, "), SLICE_LIT(""), SLICE_LIT("two")};
    assert_int_equal(wal_append(f->wal, 7, 3, 2, 9, parts, 3), STATUS_OK);
    fixture_append(f, 8, 1, "other");
    fixture_sync(f);
    fixture_append(f, 7, 4, "");
    fixture_sync(f);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 3);
    assert_replayed(f, 0, 7, 3, "one, two");
    assert_int_equal(f->replayed[0].term, 2);
    assert_int_equal(f->replayed[0].type, 9);
    assert_replayed(f, 1, 8, 1, "other");
    assert_replayed(f, 2, 7, 4, "");
}

static void commit_names_the_batch_that_synced_will(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    assert_int_equal(wal_commit(f->wal), 0); /* nothing pending */
    fixture_append(f, 1, 1, "a");
    uint64_t first = wal_commit(f->wal);
    assert_true(wal_busy(f->wal));
    assert_int_equal(wal_commit(f->wal), first); /* pending still */
    fixture_append(f, 1, 2, "b");
    uint64_t second = wal_commit(f->wal);
    fixture_append(f, 1, 3, "c"); /* joins: the batch has not begun */
    assert_int_equal(second, first + 1);
    while (!f->synced_count) assert_true(sim_world_step(f->world));
    assert_int_equal(f->synced_last, first);
    assert_true(wal_busy(f->wal)); /* the second one started by itself */
    fixture_drain(f);
    assert_int_equal(f->synced_count, 2);
    assert_int_equal(f->synced_last, second);
    assert_int_equal(wal_commit(f->wal), 0);
}

/* The proof that recovery builds on. */
static void a_batch_is_written_only_after_the_one_before_is_synced(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_append(f, 1, 1, "first");
    wal_commit(f->wal);
    fixture_append(f, 1, 2, "second");
    wal_commit(f->wal);
    size_t len;
    while (f->synced_count < 1) {
        const uint8_t *file = sim_disk_file(f->disk, "log/0000000000000001.seg", &len);
        assert_memory_equal(file + 8192, (uint8_t[64]){0}, 64);
        sim_world_step(f->world);
    }
    while (f->synced_count < 2) sim_world_step(f->world);
    const uint8_t *file = sim_disk_file(f->disk, "log/0000000000000001.seg", &len);
    assert_true(memcmp(file + 8192, (uint8_t[64]){0}, 64) != 0);
}

static void one_write_and_one_sync_carry_all_that_was_gathered(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    for (unsigned i = 1; i <= 50; i++) fixture_append(f, i % 5, i, "x");
    fixture_sync(f);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.batches, 1);
    assert_int_equal(s.records, 50);
    assert_int_equal(s.bytes_written, 4096);
    assert_true(s.sync_ns_last > 0);
    assert_int_equal(s.sync_ns_last, s.sync_ns_max);
}

static void what_was_acknowledged_is_never_rewritten(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_append(f, 1, 1, "keep me");
    fixture_sync(f);
    size_t len;
    uint8_t before[8192];
    memcpy(before, sim_disk_file(f->disk, "log/0000000000000001.seg", &len), sizeof before);
    fixture_append(f, 1, 2, "more");
    fixture_sync(f);
    fixture_reopen(f);
    assert_memory_equal(before, sim_disk_file(f->disk, "log/0000000000000001.seg", &len), sizeof before);
}

static void not_synced_is_not_reported(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_append(f, 1, 1, "a");
    fixture_crash(f); /* never committed */
    fixture_open(f);
    assert_int_equal(f->replayed_count, 0);
    assert_int_equal(f->synced_count, 0);
}

static void a_batch_too_large_for_the_rest_goes_to_the_next_segment(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    static char big[30000];
    memset(big, 'b', sizeof big - 1);
    for (unsigned i = 1; i <= 5; i++) fixture_append(f, 1, i, big), fixture_sync(f), sim_world_settle(f->world);
    size_t len;
    assert_non_null(sim_disk_file(f->disk, "log/0000000000000003.seg", &len));
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 5);
    for (unsigned i = 0; i < 5; i++) assert_replayed(f, i, 1, i + 1, big);
}

static void a_record_of_the_largest_size_fits_and_a_larger_one_is_told(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    size_t max = wal_record_bytes_max(f->wal);
    static uint8_t data[64 << 10];
    struct slice s = slice_of(data, max);
    assert_int_equal(wal_admit(f->wal, max + 1), STATUS_MESSAGE_TOO_LARGE);
    assert_int_equal(wal_admit(f->wal, max), STATUS_OK);
    assert_int_equal(wal_append(f->wal, 1, 1, 1, 1, &s, 1), STATUS_OK);
    assert_int_equal(wal_admit(f->wal, 0), STATUS_OVERLOADED); /* the buffer is full */
    assert_int_equal(wal_append(f->wal, 1, 2, 1, 1, NULL, 0), STATUS_OVERLOADED);
    fixture_sync(f);
    s.len++;
    assert_int_equal(wal_append(f->wal, 1, 2, 1, 1, &s, 1), STATUS_MESSAGE_TOO_LARGE);
    s.len = WAL_RECORD_BYTES_MAX + 1;
    assert_int_equal(wal_append(f->wal, 1, 2, 1, 1, &s, 1), STATUS_MESSAGE_TOO_LARGE);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 1);
    assert_int_equal(f->replayed[0].bytes, max);
}

static void fill(struct fixture *f, uint64_t group, uint64_t *index, unsigned batches) {
    static char text[8000];
    memset(text, 'f', sizeof text - 1);
    for (unsigned i = 0; i < batches; i++) {
        fixture_append(f, group, ++*index, text);
        fixture_sync(f);
        sim_world_settle(f->world);
    }
}

static void beyond_the_live_limit_work_is_refused_until_trimmed(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0;
    while (wal_admit(f->wal, 8000) == STATUS_OK) fill(f, 1, &index, 1);
    assert_int_equal(wal_admit(f->wal, 8000), STATUS_OVERLOADED);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    assert_true(s.live_bytes <= s.live_bytes_max);
    assert_true(s.live_bytes + 8192 > s.live_bytes_max);
    assert_int_equal(s.oldest_group, 1);
    assert_true(s.oldest_group_index > 0);
    assert_true(s.oldest_group_index < index);
    fill(f, 1, &index, 1); /* append itself does not look at the limit: what Raft took in must get through */
    wal_trim(f->wal, 1, s.oldest_group_index);
    sim_world_settle(f->world);
    assert_int_equal(wal_admit(f->wal, 8000), STATUS_OK);
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.oldest_group, 1);
    wal_trim(f->wal, 1, index);
    sim_world_settle(f->world);
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.oldest_group_index, 0); /* nobody pins it */
    assert_true(s.live_bytes * 4 <= s.live_bytes_max); /* the current one may stay while it keeps little of the limit busy */
}

static void a_segment_waits_for_every_group_in_it(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0, other = 0;
    fill(f, 2, &other, 1);
    fill(f, 1, &index, 20);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    unsigned segments = (unsigned)s.segments;
    wal_trim(f->wal, 1, index);
    sim_world_settle(f->world);
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.segments, segments);
    assert_int_equal(s.oldest_group, 2);
    assert_int_equal(s.oldest_group_index, 1);
    wal_trim(f->wal, 2, 1);
    sim_world_settle(f->world);
    wal_get_stats(f->wal, &s);
    assert_true(s.segments < segments);
    fixture_reopen(f);
    for (unsigned i = 0; i < f->replayed_count; i++) assert_int_equal(f->replayed[i].group, 1);
}

/* Else a limit of one segment would stay full for ever. */
static void the_current_segment_is_given_up_too_when_it_alone_fills_the_limit(void **state) {
    struct fixture *f = *state;
    f->config.live_bytes_max = f->config.segment_bytes;
    fixture_open(f);
    uint64_t index = 0;
    for (unsigned round = 0; round < 5; round++) {
        while (!wal_admit(f->wal, 8000)) fill(f, 1, &index, 1);
        wal_trim(f->wal, 1, index);
        sim_world_settle(f->world);
        struct wal_stats s;
        wal_get_stats(f->wal, &s);
        assert_true(s.live_bytes * 4 <= s.live_bytes_max);
        assert_int_equal(wal_admit(f->wal, 8000), STATUS_OK);
    }
}

/* Entries that a later one superseded pin nothing. */
static void superseded_entries_pin_no_segment(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0;
    fill(f, 1, &index, 8); /* 1..8 in the first segments */
    index = 1;
    fill(f, 1, &index, 8); /* 2..9 again */
    wal_trim(f->wal, 1, 1);
    sim_world_settle(f->world);
    fixture_reopen(f);
    assert_true(f->replayed_count < 16);
    assert_true(f->replayed[f->replayed_count - 8].index == 2);
}

/* Whatever was said of the former life. */
static void a_group_that_begins_anew_keeps_what_comes_and_pins_nothing_of_before(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 2;
    fill(f, 1, &index, 20); /* 3..22, of which all was flushed */
    wal_trim(f->wal, 1, index);
    fixture_append(f, 1, 2, "anew");
    fixture_sync(f);
    wal_restart(f->wal, 1, 2);
    index = 2;
    fill(f, 1, &index, 20); /* 3..22, of which nothing was */
    sim_world_settle(f->world);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.oldest_group, 1);
    fixture_reopen(f);
    assert_int_equal(f->replayed[f->replayed_count - 1].index, 22);
    for (unsigned i = 0; i < 20; i++) assert_int_equal(f->replayed[f->replayed_count - 20 + i].index, 3 + i);
    wal_restart(f->wal, 1, 22); /* as if it was the last one again */
    sim_world_settle(f->world);
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.oldest_group, 0); /* what was before has no weight */
}

static void trimmed_files_are_recycled_and_their_number_is_bounded(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0, bytes = 0;
    for (unsigned round = 0; round < 60; round++) {
        fill(f, 1, &index, 5);
        wal_trim(f->wal, 1, index);
        sim_world_settle(f->world);
        bytes = MAX_OF(bytes, sim_disk_bytes(f->disk));
    }
    assert_true(bytes <= f->config.live_bytes_max + 2 * f->config.segment_bytes);
    fixture_append(f, 1, ++index, "the last");
    fixture_sync(f);
    fixture_reopen(f);
    assert_replayed(f, f->replayed_count - 1, 1, index, "the last");
    for (unsigned i = 1; i < f->replayed_count; i++) assert_int_equal(f->replayed[i].index, f->replayed[i - 1].index + 1); /* nothing of earlier lives */
}

static void a_full_disk_refuses_and_recovers_by_itself(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    sim_world_settle(f->world); /* the next segment is ready */
    sim_disk_faults(f->disk)->space_bytes = sim_disk_bytes(f->disk);
    uint64_t index = 0;
    enum status st = STATUS_OK;
    for (unsigned i = 0; i < 100 && !(st = wal_admit(f->wal, 7000)); i++) fill(f, 1, &index, 1), sim_world_run(f->world, NS_PER_S);
    assert_int_equal(st, STATUS_DISK_FULL);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    assert_true(s.disk_full);
    fixture_append(f, 1, ++index, "barrier"); /* the reserve is for what must get through */
    fixture_sync(f);
    sim_disk_faults(f->disk)->space_bytes = 0;
    sim_world_run(f->world, NS_PER_S);
    wal_tick(f->wal);
    sim_world_run(f->world, NS_PER_S);
    wal_get_stats(f->wal, &s);
    assert_false(s.disk_full);
    fill(f, 1, &index, 3);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, index);
}

static void a_trim_helps_a_full_disk_without_new_space(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    sim_world_settle(f->world);
    sim_disk_faults(f->disk)->space_bytes = sim_disk_bytes(f->disk);
    uint64_t index = 0;
    while (!wal_admit(f->wal, 7000)) fill(f, 1, &index, 1);
    wal_trim(f->wal, 1, index);
    sim_world_run(f->world, NS_PER_S);
    assert_int_equal(wal_admit(f->wal, 7000), STATUS_OK); /* its own segment, recycled */
}

static void run_on(void *ctx) {
    struct fixture *f = ctx;
    fixture_append(f, 1, 1, "lost");
    fixture_sync(f);
}

static void a_failed_write_or_sync_stops_the_process(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    sim_world_settle(f->world);
    sim_disk_faults(f->disk)->write_fails_at = 1;
    assert_panics(run_on, f, "log write failed: file=log/0000000000000001.seg errno=5");
    sim_disk_faults(f->disk)->write_fails_at = 0;
    sim_disk_faults(f->disk)->sync_fails_at = 1;
    assert_panics(run_on, f, "log sync failed: file=log/0000000000000001.seg errno=5");
    sim_disk_faults(f->disk)->sync_fails_at = 0;
}

static void make_next(void *ctx) {
    struct fixture *f = ctx;
    sim_world_settle(f->world);
}

static void a_failed_directory_sync_stops_the_process(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    sim_disk_faults(f->disk)->dir_sync_fails_at = 1;
    assert_panics(make_next, f, "log directory sync failed: file=log errno=5");
    sim_disk_faults(f->disk)->dir_sync_fails_at = 0;
}

/* A segment that could not be made is no promise to anybody: try again. */
static void a_failed_write_of_a_new_segment_is_tried_again(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    sim_disk_faults(f->disk)->sync_fails_at = 1;
    sim_world_settle(f->world);
    size_t len;
    assert_null(sim_disk_file(f->disk, "log/0000000000000002.seg", &len));
    sim_world_run(f->world, NS_PER_S);
    wal_tick(f->wal);
    sim_world_settle(f->world);
    assert_non_null(sim_disk_file(f->disk, "log/0000000000000002.seg", &len));
}

static void reading_back_gives_the_newest_of_each_index(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0;
    fill(f, 1, &index, 12);
    fixture_append(f, 2, 1, "other group");
    fixture_append(f, 1, 9, "nine, again");
    fixture_append(f, 1, 10, "ten, again");
    fixture_sync(f);
    assert_int_equal(fixture_read(f, 1, 8, 10), STATUS_OK);
    assert_int_equal(f->replayed_count, 3);
    assert_replayed(f, 1, 1, 9, "nine, again");
    assert_replayed(f, 2, 1, 10, "ten, again");
    assert_int_equal(fixture_read(f, 1, 8, 11), STATUS_ABSENT); /* superseded with the rest */
    assert_int_equal(fixture_read(f, 1, 11, 11), STATUS_ABSENT);
    assert_int_equal(fixture_read(f, 3, 1, 1), STATUS_ABSENT);
    assert_int_equal(fixture_read(f, 1, 5, 4), STATUS_OK); /* empty range */
    fixture_append(f, 1, 11, "not synced");
    assert_int_equal(fixture_read(f, 1, 11, 11), STATUS_ABSENT);
    fixture_sync(f);
    assert_int_equal(fixture_read(f, 1, 11, 11), STATUS_OK);
    wal_trim(f->wal, 1, 8);
    assert_int_equal(fixture_read(f, 1, 1, 2), STATUS_ABSENT);
    fixture_reopen(f);
    assert_int_equal(fixture_read(f, 1, 9, 11), STATUS_OK);
    f->read_refuses = STATUS_CANCELLED;
    assert_int_equal(fixture_read(f, 1, 9, 11), STATUS_CANCELLED);
    f->read_refuses = STATUS_OK;
}

static void reading_back_notices_damage(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    for (unsigned i = 1; i <= 3; i++) fixture_append(f, 1, i, "some entry"), fixture_sync(f);
    sim_disk_flip(f->disk, "log/0000000000000001.seg", (8192 + 32 + 40 + 3) * 8);
    assert_int_equal(fixture_read(f, 1, 1, 3), STATUS_CHECKSUM_MISMATCH);
    sim_disk_flip(f->disk, "log/0000000000000001.seg", (8192 + 32 + 40 + 3) * 8);
    sim_disk_flip(f->disk, "log/0000000000000001.seg", 8192 * 8);
    assert_int_equal(fixture_read(f, 1, 1, 3), STATUS_CHECKSUM_MISMATCH);
    sim_disk_flip(f->disk, "log/0000000000000001.seg", 8192 * 8);
    *sim_disk_faults(f->disk) = (struct sim_faults){.unreadable = "log/0000000000000001.seg", .unreadable_from = 8192, .unreadable_to = 8193};
    assert_int_equal(fixture_read(f, 1, 1, 3), STATUS_IO_FAILED);
}

static void an_idle_log_is_sealed(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_append(f, 1, 1, "the last word");
    fixture_sync(f);
    sim_world_run(f->world, NS_PER_S / 2);
    wal_tick(f->wal);
    assert_false(wal_busy(f->wal));
    sim_world_run(f->world, NS_PER_S);
    wal_tick(f->wal);
    assert_true(wal_busy(f->wal));
    assert_int_equal(wal_commit(f->wal), 0); /* nothing of the caller's */
    fixture_drain(f);
    assert_int_equal(f->synced_count, 1); /* not reported */
    sim_world_run(f->world, 2 * NS_PER_S);
    wal_tick(f->wal);
    assert_false(wal_busy(f->wal)); /* once */
    fixture_crash(f);
    sim_disk_flip(f->disk, "log/0000000000000001.seg", (4096 + 32 + 40) * 8);
    assert_int_equal(fixture_try_open(f), STATUS_CHECKSUM_MISMATCH);
}

static void close_may_come_at_any_time(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_append(f, 1, 1, "in flight");
    wal_commit(f->wal);
    assert_false(wal_settled(f->wal));
    wal_close(f->wal);
    f->wal = NULL;
    sim_world_settle(f->world); /* the batch and the next segment's making end by themselves */
    assert_int_equal(f->synced_count, 0);
    sim_env_close(f->env), f->env = NULL;
    fixture_open(f);
    assert_int_equal(f->replayed_count, 1); /* written, never promised */
    sim_world_settle(f->world);
    assert_true(wal_settled(f->wal));
}

static void memory_that_runs_out_is_told_and_leaves_nothing(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    uint64_t index = 0;
    fill(f, 1, &index, 20);
    fixture_close(f);
    uint64_t n = 1;
    for (;; n++) {
        mem_fail_nth(n);
        enum status st = fixture_try_open(f);
        mem_fail_nth(0);
        if (st == STATUS_OK) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
        assert_non_null(strstr(f->error, "out of memory"));
    }
    assert_true(n > 10);
    assert_int_equal(f->replayed_count, 20);
    for (n = 1; n <= 2; n++) {
        mem_fail_nth(n);
        assert_int_equal(fixture_read(f, 1, 1, 20), STATUS_MEMORY_LIMIT);
    }
    mem_fail_nth(0);
    for (n = 1; n <= 40; n++) { /* appends, making and releasing segments: at worst they come later */
        mem_fail_nth(n);
        if (!wal_admit(f->wal, 7000)) fixture_append(f, 1, ++index, "x"), fixture_sync(f);
        wal_trim(f->wal, 1, index > 10 ? index - 10 : 0);
        sim_world_run(f->world, NS_PER_S);
    }
    mem_fail_nth(0);
    wal_tick(f->wal);
    sim_world_settle(f->world);
    fill(f, 1, &index, 20);
    fixture_reopen(f);
    assert_int_equal(f->replayed[f->replayed_count - 1].index, index);
}

static void memory_that_runs_out_at_the_first_start(void **state) {
    struct fixture *f = *state;
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        enum status st = fixture_try_open(f);
        mem_fail_nth(0);
        if (st == STATUS_OK) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        T(records_come_back_in_order),
        T(commit_names_the_batch_that_synced_will),
        T(a_batch_is_written_only_after_the_one_before_is_synced),
        T(one_write_and_one_sync_carry_all_that_was_gathered),
        T(what_was_acknowledged_is_never_rewritten),
        T(not_synced_is_not_reported),
        T(a_batch_too_large_for_the_rest_goes_to_the_next_segment),
        T(a_record_of_the_largest_size_fits_and_a_larger_one_is_told),
        T(beyond_the_live_limit_work_is_refused_until_trimmed),
        T(a_segment_waits_for_every_group_in_it),
        T(the_current_segment_is_given_up_too_when_it_alone_fills_the_limit),
        T(superseded_entries_pin_no_segment),
        T(a_group_that_begins_anew_keeps_what_comes_and_pins_nothing_of_before),
        T(trimmed_files_are_recycled_and_their_number_is_bounded),
        T(a_full_disk_refuses_and_recovers_by_itself),
        T(a_trim_helps_a_full_disk_without_new_space),
        T(a_failed_write_or_sync_stops_the_process),
        T(a_failed_directory_sync_stops_the_process),
        T(a_failed_write_of_a_new_segment_is_tried_again),
        T(reading_back_gives_the_newest_of_each_index),
        T(reading_back_notices_damage),
        T(an_idle_log_is_sealed),
        T(close_may_come_at_any_time),
        T(memory_that_runs_out_is_told_and_leaves_nothing),
        T(memory_that_runs_out_at_the_first_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
