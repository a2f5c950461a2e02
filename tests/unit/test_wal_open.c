/* engine/wal.h, wal_open: torn tails are cut, damage is refused, formats, files that are missing or too many, crashes at every step. */
#include "tests/lib/wal_fixture.h"

#include "engine/wal_format.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "tests/lib/test.h"

#define SEG(n) "log/000000000000000" #n ".seg"

static void expect_refusal(struct fixture *f, enum status st, const char *file, uint64_t offset) {
    char words[128];
    snprintf(words, sizeof words, "file=%s offset=%llu:", file, (unsigned long long)offset);
    enum status got = fixture_try_open(f);
    if (got != st || !strstr(f->error, words)) fail_msg("open: %s \"%s\", expected %s \"%s\"", status_name(got), f->error, status_name(st), words);
}

/* Three batches of two records, then the seal of a clean close. */
static void three_batches(struct fixture *f) {
    fixture_open(f);
    for (unsigned i = 1; i <= 3; i++) {
        fixture_append(f, 1, i, "an entry of group one");
        fixture_append(f, 2, i, "and one of group two, which is longer");
        fixture_sync(f);
    }
    fixture_close(f);
}

/* Opens a copy with the bit flipped. */
static enum status open_flipped(struct fixture *f, const char *file, uint64_t bit) {
    struct sim_disk *whole = f->disk;
    f->disk = sim_disk_copy(whole);
    sim_disk_flip(f->disk, file, bit);
    enum status st = fixture_try_open(f);
    if (!st) fixture_close(f);
    sim_disk_free(f->disk);
    f->disk = whole;
    return st;
}

static void a_flipped_bit_in_what_was_synced_is_refused_wherever_it_is(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    for (uint64_t byte = 0; byte < 4 * 4096; byte++) { /* header and batches with their padding */
        enum status st = open_flipped(f, SEG(1), byte * 8 + byte % 8);
        if (st != STATUS_CHECKSUM_MISMATCH) fail_msg("byte %llu flipped: %s", (unsigned long long)byte, status_name(st));
        uint64_t said = strtoull(strstr(f->error, "offset=") + 7, NULL, 10);
        if (!strstr(f->error, SEG(1)) || said / 4096 != byte / 4096) fail_msg("byte %llu flipped: %s", (unsigned long long)byte, f->error);
    }
}

/* Behind the last batch of a clean close there is only the seal: nothing of it is missed. */
static void a_flipped_bit_behind_the_last_batch_is_no_damage(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    for (uint64_t byte = 4 * 4096; byte < 6 * 4096; byte += 7) {
        assert_int_equal(open_flipped(f, SEG(1), byte * 8 + byte % 8), STATUS_OK);
        assert_int_equal(f->replayed_count, 6);
    }
}

static void damage_in_older_segments_is_refused(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    static char text[20000];
    memset(text, 'o', sizeof text - 1);
    for (unsigned i = 1; i <= 7; i++) fixture_append(f, 1, i, text), fixture_sync(f), sim_world_settle(f->world); /* three a segment */
    fixture_crash(f); /* not sealed: the newest segment's only batch could be torn, the older ones can't */
    assert_int_equal(open_flipped(f, SEG(2), (4096 + 100) * 8), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(f->error, SEG(2) " offset=4128"));
    assert_int_equal(open_flipped(f, SEG(1), (4096 + 2 * 20480 + 7) * 8), STATUS_CHECKSUM_MISMATCH); /* the last of the first segment: the next one's number tells */
    assert_non_null(strstr(f->error, SEG(1) " offset=45056"));
    assert_int_equal(open_flipped(f, SEG(2), (4096 + 7) * 8), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(f->error, SEG(2) " offset=4096"));
    assert_int_equal(open_flipped(f, SEG(3), (4096 + 100) * 8), STATUS_OK); /* cut: 7 is taken for torn */
    assert_int_equal(f->replayed_count, 6);
}

static void a_missing_segment_in_the_middle_is_refused(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    static char text[20000];
    memset(text, 'm', sizeof text - 1);
    for (unsigned i = 1; i <= 7; i++) fixture_append(f, 1, i, text), fixture_sync(f), sim_world_settle(f->world);
    fixture_close(f);
    sim_disk_drop(f->disk, SEG(2));
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(2), 0);
}

static void headers_are_checked(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    size_t len;
    uint8_t file[64 << 10];
    memcpy(file, sim_disk_file(f->disk, SEG(1), &len), sizeof file);
    assert_int_equal(len, sizeof file);

    put_le32(file + 8, 2); /* a later format: a right checksum at the same place */
    put_le32(file + 4092, crc32c(0, file, 4092));
    sim_disk_put(f->disk, SEG(1), file, len);
    expect_refusal(f, STATUS_FORMAT_UNKNOWN, SEG(1), 8);
    assert_non_null(strstr(f->error, "log format 2, this program knows 1"));

    put_le32(file + 8, 1);
    put_le64(file + 16, 9); /* another segment's bytes under this name */
    put_le32(file + 4092, crc32c(0, file, 4092));
    sim_disk_put(f->disk, SEG(1), file, len);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), 16);

    put_le64(file + 16, 1);
    put_le64(file + 32, 5000);
    put_le32(file + 4092, crc32c(0, file, 4092));
    sim_disk_put(f->disk, SEG(1), file, len);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), 32);

    put_le64(file + 32, len);
    put_le32(file + 4092, crc32c(0, file, 4092));
    sim_disk_put(f->disk, SEG(1), file, len - 4096);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), len - 4096);
    sim_disk_put(f->disk, SEG(1), file, 100);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), 100);
    sim_disk_put(f->disk, SEG(1), file, 0);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), 0);
    sim_disk_put(f->disk, SEG(1), file, len);
    fixture_open(f);
    assert_int_equal(f->replayed_count, 6);
}

/* A batch that stands whole, of another place of the same file: a misdirected write. */
static void a_batch_at_the_wrong_place_is_not_valid(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    size_t len;
    uint8_t file[64 << 10];
    memcpy(file, sim_disk_file(f->disk, SEG(1), &len), sizeof file);
    memcpy(file + 8192, file + 12288, 4096);
    sim_disk_put(f->disk, SEG(1), file, len);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), 8192);
}

/* Every batch that stands is whole and at its place, and one is missing all the same. */
static void a_gap_in_the_batch_numbers_is_damage(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    size_t len;
    uint8_t file[64 << 10];
    memcpy(file, sim_disk_file(f->disk, SEG(1), &len), sizeof file);
    struct wal_place place = {.salt = get_le64(file + 24), .segment = 1, .offset = 5 * 4096}; /* behind batches 1, 2, 3 and the seal, 4 */
    struct wal_batch_head h = {.number = 6, .bytes = 4096, .payload = WAL_BATCH_HEAD_BYTES};
    wal_batch_head_encode(file + place.offset, &h, &place);
    sim_disk_put(f->disk, SEG(1), file, len);
    expect_refusal(f, STATUS_CHECKSUM_MISMATCH, SEG(1), place.offset);
    h.number = 5;
    wal_batch_head_encode(file + place.offset, &h, &place);
    sim_disk_put(f->disk, SEG(1), file, len);
    fixture_open(f);
}

static void a_torn_batch_is_dropped_whole_and_never_comes_back(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    size_t len;
    uint8_t file[64 << 10];
    memcpy(file, sim_disk_file(f->disk, SEG(1), &len), sizeof file);
    fixture_open(f);
    fixture_append(f, 1, 4, "torn");
    static char text[10000];
    memset(text, 't', sizeof text - 1);
    fixture_append(f, 2, 4, text);
    fixture_sync(f);
    sim_disk_kill(f->disk);
    fixture_close(f);
    uint64_t torn = 5 * 4096; /* behind three batches and the seal */
    memcpy(file, sim_disk_file(f->disk, SEG(1), &len), sizeof file);
    memset(file + torn + 4096, 0, 4096); /* the middle sector did not get there; the first record is whole */
    sim_disk_put(f->disk, SEG(1), file, len);
    assert_int_equal(open_flipped(f, SEG(1), (torn + 8192 + 5) * 8), STATUS_OK); /* a flip in the torn tail is nothing */
    assert_int_equal(f->replayed_count, 6);
    fixture_open(f);
    assert_int_equal(f->replayed_count, 6);
    const uint8_t *now = sim_disk_file(f->disk, SEG(1), &len);
    for (size_t i = torn; i < len; i++) assert_int_equal(now[i], 0);
    sim_disk_crash(f->disk); /* the zeros are durable before open returns */
    now = sim_disk_file(f->disk, SEG(1), &len);
    for (size_t i = torn; i < len; i++) assert_int_equal(now[i], 0);
    fixture_close(f);
    fixture_open(f);
    fixture_append(f, 1, 4, "new");
    fixture_sync(f);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 7);
    assert_replayed(f, 6, 1, 4, "new");
}

static void a_cut_file_tail_reads_as_damage_and_bad_sectors_are_named(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    *sim_disk_faults(f->disk) = (struct sim_faults){.unreadable = SEG(1), .unreadable_from = 8192, .unreadable_to = 8193};
    enum status st = fixture_try_open(f);
    assert_int_equal(st, STATUS_IO_FAILED);
    assert_non_null(strstr(f->error, "file=" SEG(1)));
    assert_non_null(strstr(f->error, "errno=5"));
}

static void a_superseded_tail_is_replayed_in_log_order(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    for (unsigned i = 1; i <= 4; i++) fixture_append(f, 1, i, "old");
    fixture_append(f, 1, 2, "new");
    fixture_sync(f);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 5);
    assert_replayed(f, 3, 1, 4, "old");
    assert_replayed(f, 4, 1, 2, "new");
    assert_int_equal(fixture_read(f, 1, 1, 2), STATUS_OK);
    assert_replayed(f, 1, 1, 2, "new");
}

static void a_refused_replay_ends_the_open(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    f->replay_refuses = STATUS_MEMORY_LIMIT;
    assert_int_equal(fixture_try_open(f), STATUS_MEMORY_LIMIT);
    assert_non_null(strstr(f->error, "replay of group 1 index 1"));
}

static void foolish_settings_are_refused(void **state) {
    struct fixture *f = *state;
    struct wal_config good = f->config;
    f->config.segment_bytes = 60 << 10;
    assert_int_equal(fixture_try_open(f), STATUS_FIELD_INVALID);
    f->config.segment_bytes = (64 << 10) + 1;
    assert_int_equal(fixture_try_open(f), STATUS_FIELD_INVALID);
    f->config = good;
    f->config.live_bytes_max = f->config.segment_bytes - 1;
    assert_int_equal(fixture_try_open(f), STATUS_FIELD_INVALID);
    f->config = good;
    f->config.dir = "";
    assert_int_equal(fixture_try_open(f), STATUS_FIELD_INVALID);
    f->config = good;
    f->config.batch_bytes_max = 0; /* the default, as much of it as a segment holds */
    fixture_open(f);
    assert_int_equal(wal_record_bytes_max(f->wal), (60 << 10) - 32 - 40);
}

static void defaults_hold_the_largest_record(void **state) {
    struct fixture *f = *state;
    f->config = (struct wal_config){.dir = "log", .ctx = f, .synced = f->config.synced};
    fixture_open(f);
    assert_int_equal(wal_record_bytes_max(f->wal), WAL_RECORD_BYTES_MAX);
    struct wal_stats s;
    wal_get_stats(f->wal, &s);
    assert_int_equal(s.live_bytes_max, 256 << 20);
}

static void no_room_at_the_first_start_is_told(void **state) {
    struct fixture *f = *state;
    sim_disk_faults(f->disk)->space_bytes = 10000;
    assert_int_equal(fixture_try_open(f), STATUS_DISK_FULL);
    assert_non_null(strstr(f->error, "errno=28"));
    sim_disk_faults(f->disk)->space_bytes = 0;
    fixture_open(f);
}

static void segments_of_another_size_are_read_and_not_recycled(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    static char text[20000];
    memset(text, 's', sizeof text - 1);
    uint64_t index = 0;
    for (unsigned size = 1; size < 5; size++) {
        for (unsigned i = 0; i < 4; i++) fixture_append(f, 1, ++index, text), fixture_sync(f), sim_world_settle(f->world);
        fixture_close(f);
        f->config.segment_bytes = ((size % 3) + 1) * (64 << 10);
        fixture_open(f);
        assert_int_equal(f->replayed_count, index);
    }
    wal_trim(f->wal, 1, index);
    sim_world_settle(f->world);
    for (unsigned i = 0; i < 20; i++) {
        fixture_append(f, 1, ++index, text), fixture_sync(f), sim_world_settle(f->world);
        wal_trim(f->wal, 1, index - 1);
        sim_world_settle(f->world);
    }
    fixture_reopen(f);
    assert_int_equal(f->replayed[f->replayed_count - 1].index, index);
}

/* An empty segment that a larger batch would skip must not stay between two that hold something. */
static void an_empty_small_segment_does_not_end_the_log(void **state) {
    struct fixture *f = *state;
    fixture_open(f);
    fixture_close(f); /* 64 KiB, empty */
    f->config.segment_bytes = 256 << 10;
    f->config.batch_bytes_max = 200 << 10;
    fixture_open(f);
    static char text[100000];
    memset(text, 'e', sizeof text - 1);
    fixture_append(f, 1, 1, text);
    fixture_sync(f);
    fixture_reopen(f);
    assert_int_equal(f->replayed_count, 1);
}

static void half_made_and_foreign_files_do_no_harm(void **state) {
    struct fixture *f = *state;
    three_batches(f);
    sim_disk_drop(f->disk, SEG(2)); /* the empty one that was made ahead */
    sim_disk_put(f->disk, "log/00000000000000aa.new", "half", 4);
    sim_disk_put(f->disk, "log/00000000000000ab.free", "too small", 9);
    sim_disk_put(f->disk, "log/00000000000000AB.seg", "not a name of ours", 18);
    sim_disk_put(f->disk, "log/README", "x", 1);
    fixture_open(f);
    assert_int_equal(f->replayed_count, 6);
    size_t len;
    assert_null(sim_disk_file(f->disk, "log/00000000000000aa.new", &len));
    assert_non_null(sim_disk_file(f->disk, "log/README", &len));
    sim_world_settle(f->world);
    sim_world_run(f->world, NS_PER_S);
    wal_tick(f->wal); /* the useless .free file is dropped, and a fresh one made */
    sim_world_settle(f->world);
    assert_null(sim_disk_file(f->disk, "log/00000000000000ab.free", &len));
    assert_non_null(sim_disk_file(f->disk, SEG(2), &len));
}

/* The power goes at the n-th change, for every n: first start, segments made, recycled, released, recovery itself. */
static void power_cuts_at_every_change_of_a_life(void **state) {
    struct fixture *f = *state;
    static char text[9000];
    memset(text, 'p', sizeof text - 1);
    unsigned survived = 0;
    for (uint64_t n = 1; survived < 3; n++) {
        struct sim_disk *shared = f->disk;
        f->disk = sim_disk_new(f->world);
        sim_disk_faults(f->disk)->crash_at = n;
        uint64_t index = 0, synced = 0, trimmed = 0;
        enum status st = fixture_try_open(f);
        for (unsigned i = 0; !st && i < 30 && !sim_disk_dead(f->disk); i++) {
            if (wal_admit(f->wal, 9000)) break;
            fixture_append(f, 1, ++index, text);
            unsigned count = f->synced_count;
            wal_commit(f->wal);
            while (wal_busy(f->wal) && sim_world_step(f->world)) continue;
            if (f->synced_count > count) synced = index;
            if (index % 8 == 0 && synced == index) wal_trim(f->wal, 1, trimmed = index - 1);
            sim_world_settle(f->world);
        }
        if (!st) {
            survived += !sim_disk_dead(f->disk);
            fixture_close(f);
        }
        sim_disk_crash(f->disk);
        sim_disk_faults(f->disk)->crash_at = 1 + n % 5; /* and once more while recovering */
        if (fixture_try_open(f) == STATUS_OK) fixture_close(f);
        sim_disk_faults(f->disk)->crash_at = 0;
        fixture_open(f);
        uint64_t last = f->replayed_count ? f->replayed[f->replayed_count - 1].index : 0, first = f->replayed_count ? f->replayed[0].index : 1;
        if (last < synced || last > index || first > trimmed + 1) fail_msg("cut at change %llu: replayed %llu..%llu, synced %llu of %llu, trimmed %llu", (unsigned long long)n,
                     (unsigned long long)first, (unsigned long long)last, (unsigned long long)synced, (unsigned long long)index, (unsigned long long)trimmed);
        for (unsigned i = 1; i < f->replayed_count; i++) assert_int_equal(f->replayed[i].index, f->replayed[i - 1].index + 1);
        fixture_close(f);
        sim_disk_free(f->disk);
        f->disk = shared;
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
int main(void) {
    log_set_level(LOG_OFF);
    const struct CMUnitTest tests[] = {
        T(a_flipped_bit_in_what_was_synced_is_refused_wherever_it_is),
        T(a_flipped_bit_behind_the_last_batch_is_no_damage),
        T(damage_in_older_segments_is_refused),
        T(a_missing_segment_in_the_middle_is_refused),
        T(headers_are_checked),
        T(a_batch_at_the_wrong_place_is_not_valid),
        T(a_gap_in_the_batch_numbers_is_damage),
        T(a_torn_batch_is_dropped_whole_and_never_comes_back),
        T(a_cut_file_tail_reads_as_damage_and_bad_sectors_are_named),
        T(a_superseded_tail_is_replayed_in_log_order),
        T(a_refused_replay_ends_the_open),
        T(foolish_settings_are_refused),
        T(defaults_hold_the_largest_record),
        T(no_room_at_the_first_start_is_told),
        T(segments_of_another_size_are_read_and_not_recycled),
        T(an_empty_small_segment_does_not_end_the_log),
        T(half_made_and_foreign_files_do_no_harm),
        T(power_cuts_at_every_change_of_a_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
