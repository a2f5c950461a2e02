/* engine/wal_format.h: golden bytes, and what each checksum covers. */
#include "engine/wal_format.h"

#include "proto/base/hash.h"
#include "tests/lib/test.h"

static const struct wal_place place = {.salt = 0x0123456789abcdef, .segment = 42, .offset = 8192};

/* Two records: "hello" of group 7, nothing of group 8. */
static struct wal_batch_head batch(uint8_t *p) {
    memset(p, 0, WAL_BLOCK);
    struct wal_batch_head h = {.number = 17, .bytes = WAL_BLOCK, .payload = 32 + 40 + 5 + 40, .records = 2};
    struct slice parts[2] = {SLICE_LIT("hel"), SLICE_LIT("lo")};
    wal_record_encode(p + 32, 7, 100, 3, 1, parts, 2, 5);
    wal_record_encode(p + 32 + 45, 8, 0x1122334455667788, 4, 2, NULL, 0, 0);
    wal_batch_head_encode(p, &h, &place);
    wal_batch_place(p, &h, &place);
    return h;
}

/* Persistent: a change here is a new format. */
static void bytes_are_golden(void **state) {
    uint8_t p[WAL_BLOCK];
    struct wal_segment_head s = {.id = 42, .salt = 0x0123456789abcdef, .bytes = 64 << 20, .flags = WAL_SEGMENT_RECYCLED};
    wal_segment_head_encode(p, &s);
    uint8_t ends[44];
    memcpy(ends, p, 40);
    memcpy(ends + 40, p + WAL_BLOCK - 4, 4);
    for (unsigned i = 40; i < WAL_BLOCK - 4; i++) assert_int_equal(p[i], 0);
    assert_golden("wal_segment_head", slice_of(ends, sizeof ends));
    struct wal_batch_head h = batch(p);
    assert_golden("wal_batch_head", slice_of(p, 32));
    assert_golden("wal_batch", slice_of(p, h.payload));
    assert_golden("wal_record", slice_of(p + 32, 45));
}

static void heads_decode_to_what_was_encoded(void **state) {
    uint8_t p[WAL_BLOCK];
    struct wal_segment_head s = {.id = 42, .salt = 5, .bytes = 1 << 20, .flags = 1}, back;
    uint32_t format;
    wal_segment_head_encode(p, &s);
    assert_int_equal(wal_segment_head_decode(p, &back, &format), STATUS_OK);
    assert_true(back.id == s.id && back.salt == s.salt && back.bytes == s.bytes && back.flags == s.flags);
    for (unsigned bit = 0; bit < WAL_BLOCK * 8; bit += 5) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(wal_segment_head_decode(p, &back, &format), STATUS_CHECKSUM_MISMATCH);
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static bool whole(const uint8_t *p, const struct wal_place *at) {
    struct wal_batch_head h;
    uint32_t bad_at;
    const char *what;
    return wal_batch_head_decode(p, WAL_BLOCK, at, &h) && wal_batch_whole(p, &h, at, &bad_at, &what);
}

static void every_byte_and_its_place_are_under_a_checksum(void **state) {
    uint8_t p[WAL_BLOCK];
    batch(p);
    assert_true(whole(p, &place));
    for (unsigned bit = 0; bit < WAL_BLOCK * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(whole(p, &place));
        p[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    struct wal_place other = place;
    other.salt++, assert_false(whole(p, &other)), other = place;
    other.segment++, assert_false(whole(p, &other)), other = place;
    other.offset += WAL_BLOCK, assert_false(whole(p, &other));
}

/* A head that is valid on its own does not vouch for records of another place. */
static void a_record_of_another_place_is_not_valid(void **state) {
    uint8_t p[WAL_BLOCK];
    struct wal_batch_head h = batch(p);
    struct wal_place other = place;
    other.offset += WAL_BLOCK;
    wal_batch_head_encode(p, &h, &other);
    struct wal_record_reader r = wal_record_reader_of(p, &h, &other);
    struct wal_record record;
    assert_false(wal_record_next(&r, &record));
    assert_string_equal(r.bad, "record checksum does not match");
    h.number++; /* nor for those of an earlier batch at the same place */
    wal_batch_head_encode(p, &h, &place);
    assert_false(whole(p, &place));
}

static void records_read_back(void **state) {
    uint8_t p[WAL_BLOCK];
    struct wal_batch_head h = batch(p);
    struct wal_record_reader r = wal_record_reader_of(p, &h, &place);
    struct wal_record record;
    assert_true(wal_record_next(&r, &record));
    assert_slice(record.data, "hello");
    assert_true(record.group == 7 && record.index == 100 && record.term == 3 && record.type == 1);
    assert_true(wal_record_next(&r, &record));
    assert_true(record.group == 8 && record.index == 0x1122334455667788 && record.term == 4 && record.type == 2 && record.data.len == 0);
    assert_false(wal_record_next(&r, &record));
    assert_null(r.bad);
}

/* A head with a right sum and wrong numbers: nothing outside the batch is read. */
static void foolish_numbers_are_refused(void **state) {
    uint8_t p[WAL_BLOCK];
    struct wal_batch_head good = batch(p), h, out;
    h = good, h.bytes = 2 * WAL_BLOCK, wal_batch_head_encode(p, &h, &place);
    assert_false(wal_batch_head_decode(p, WAL_BLOCK, &place, &out));
    assert_false(wal_batch_head_decode(p, 4 * WAL_BLOCK, &place, &out));
    h = good, h.payload = 8, wal_batch_head_encode(p, &h, &place);
    assert_false(wal_batch_head_decode(p, WAL_BLOCK, &place, &out));
    h = good, h.records = 3, wal_batch_head_encode(p, &h, &place);
    assert_false(wal_batch_head_decode(p, WAL_BLOCK, &place, &out));
    h = good, h.number = 0, wal_batch_head_encode(p, &h, &place);
    assert_false(wal_batch_head_decode(p, WAL_BLOCK, &place, &out));
    h = good, h.payload -= 3, wal_batch_head_encode(p, &h, &place); /* the last record runs over */
    assert_false(whole(p, &place));
    h = good, h.records = 1, wal_batch_head_encode(p, &h, &place); /* the payload goes on */
    assert_false(whole(p, &place));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_golden),
        cmocka_unit_test(heads_decode_to_what_was_encoded),
        cmocka_unit_test(every_byte_and_its_place_are_under_a_checksum),
        cmocka_unit_test(a_record_of_another_place_is_not_valid),
        cmocka_unit_test(records_read_back),
        cmocka_unit_test(foolish_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
