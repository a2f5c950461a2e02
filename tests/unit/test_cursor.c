/* engine/cursor.h: what goes in comes out, in how many bytes, and what is no cursor of ours is refused with its cause. */
#include "tests/lib/test.h"

#include "engine/cursor.h"
#include "proto/base/hash.h"

static const uint8_t key_bytes[32] = {1, 2, 3}, other_bytes[32] = {1, 2, 4};
static const struct slice key = {key_bytes, 32}, other_key = {other_bytes, 32}, nobody = {0}, alice = {(const uint8_t *)"alice", 5}, bob = {(const uint8_t *)"bob", 3};
static struct cursor in, out;
static uint8_t bytes[CURSOR_BYTES_MAX];
static struct arena arena;
static struct failure f;

static int setup(void **state) {
    arena_init(&arena, 1 * MIB);
    return 0;
}
static int teardown(void **state) {
    arena_fini(&arena);
    return 0;
}

static enum status decode(struct slice b, struct slice user_id, struct slice k) {
    arena_reset(&arena);
    failure_init(&f, &arena);
    memset(&out, 0x55, sizeof out);
    enum status st = cursor_decode(&out, b, user_id, k, "cursor", &f);
    assert_int_equal(st, f.status);
    return st;
}

static size_t round_trip(struct slice user_id) {
    size_t n = cursor_encode(&in, user_id, key, bytes);
    assert_true(n >= CURSOR_BYTES_MIN);
    assert_int_equal(decode(slice_of(bytes, n), user_id, key), STATUS_OK);
    assert_memory_equal(&in, &out, sizeof in);
    return n;
}

static void refused(struct slice b, struct slice user_id, struct slice k, const char *cause) {
    assert_int_equal(decode(b, user_id, k), STATUS_CURSOR_INVALID);
    assert_string_equal(f.violations->field, "cursor");
    assert_string_equal(f.metas->key, "cause");
    assert_string_equal((const char *)f.metas->value.data, cause);
}

static void nothing_mentioned(void **state) {
    cursor_init(&in);
    assert_int_equal(in.seq[0], CURSOR_START);
    assert_int_equal(round_trip(nobody), CURSOR_BYTES_MIN);
    assert_int_equal(round_trip(alice), CURSOR_BYTES_MIN + 16);
}

static void one_slot_takes_a_few_bytes(void **state) {
    cursor_init(&in);
    in.seq[16383] = 1000000;
    assert_int_equal(round_trip(alice), CURSOR_BYTES_MIN + 16 + 2 + 1 + 3 + 1);
    in.seq[16383] = 0;
    assert_int_equal(round_trip(nobody), CURSOR_BYTES_MIN + 2 + 1 + 1 + 1);
    in.seq[16383] = INT64_MAX, in.seq[0] = 0;
    round_trip(nobody);
}

static void a_whole_vector_takes_the_spread_of_neighbours(void **state) {
    struct test_random r = {5};
    for (unsigned i = 0; i < SLOT_COUNT; i++) in.seq[i] = 700000000;
    assert_true(round_trip(nobody) < 512);
    for (unsigned i = 0; i < SLOT_COUNT; i++) in.seq[i] = 3000000 + (int64_t)test_random_below(&r, 5000);
    assert_true(round_trip(nobody) < SLOT_COUNT * 17 / 10);
    for (unsigned i = 0; i < SLOT_COUNT; i++) in.seq[i] = (int64_t)test_random_below(&r, 1000000);
    assert_true(round_trip(nobody) < SLOT_COUNT * 26 / 10);
}

static void random_vectors_round_trip(void **state) {
    struct test_random r = {99};
    for (unsigned round = 0; round < 300; round++) {
        unsigned zeros = 1 + (unsigned)test_random_below(&r, 63), run_max = 1u << test_random_below(&r, 15), gap_max = 1u << test_random_below(&r, 15);
        cursor_init(&in);
        for (size_t slot = test_random_below(&r, gap_max); slot < SLOT_COUNT; slot += 1 + test_random_below(&r, gap_max))
            for (uint64_t n = 1 + test_random_below(&r, run_max); n && slot < SLOT_COUNT; n--, slot++) in.seq[slot] = (int64_t)(test_random_next(&r) >> zeros);
        round_trip(round % 2 ? alice : nobody);
    }
}

/* The most that the bound must hold: extremes in turn, in runs of every length with one slot between them. */
static void never_longer_than_the_bound(void **state) {
    size_t longest = 0;
    for (unsigned run = 1; run <= 300; run++) {
        cursor_init(&in);
        for (unsigned slot = 0, n = 0; slot < SLOT_COUNT; slot++, n++)
            if (n % (run + 1) != run) in.seq[slot] = run == 1 ? (slot % 4 ? INT64_MAX : 0) : n % 2 ? INT64_MAX : 0;
        longest = MAX_OF(longest, round_trip(alice));
    }
    assert_true(longest > CURSOR_BYTES_MAX / 2);
}

static void widths_of_all_bits(void **state) {
    for (unsigned width = 0; width < 64; width++) {
        cursor_init(&in);
        for (unsigned i = 0; i < 130; i++) in.seq[i] = i % 3 == 1 ? (int64_t)((1ull << width) - 1) : i % 2;
        round_trip(nobody);
    }
}

static void golden(void **state) {
    cursor_init(&in);
    in.seq[0] = 7, in.seq[1] = 9, in.seq[2] = 6, in.seq[300] = 1000, in.seq[16383] = 0;
    assert_golden("cursor_all", slice_of(bytes, cursor_encode(&in, nobody, key, bytes)));
    cursor_init(&in);
    in.seq[4242] = 123456;
    assert_golden("cursor_user", slice_of(bytes, cursor_encode(&in, alice, key, bytes)));
    size_t n = test_golden("cursor_user", bytes, sizeof bytes);
    assert_int_equal(decode(slice_of(bytes, n), alice, key), STATUS_OK);
    assert_memory_equal(&in, &out, sizeof in);
}

static void all_and_one_do_not_mix(void **state) {
    cursor_init(&in);
    in.seq[5] = 5;
    size_t n = cursor_encode(&in, nobody, key, bytes);
    refused(slice_of(bytes, n), alice, key, "scope");
    n = cursor_encode(&in, alice, key, bytes);
    refused(slice_of(bytes, n), nobody, key, "scope");
    refused(slice_of(bytes, n), bob, key, "scope");
    assert_int_equal(decode(slice_of(bytes, n), alice, key), STATUS_OK);
}

static void the_beginning_of_a_snapshot_is_a_cursor_for_groups_alone(void **state) {
    size_t n = cursor_encode_snapshot(key, bytes);
    assert_golden("cursor_snapshot", slice_of(bytes, n));
    assert_true(cursor_is_snapshot(slice_of(bytes, n), key));
    assert_false(cursor_is_snapshot(slice_of(bytes, n), other_key));
    assert_false(cursor_is_snapshot(slice_of(bytes, n - 1), key));
    refused(slice_of(bytes, n), nobody, key, "scope");
    refused(slice_of(bytes, n), alice, key, "scope");
    for (size_t i = 0; i < n; i++) {
        bytes[i] ^= 1;
        assert_false(cursor_is_snapshot(slice_of(bytes, n), key));
        assert_int_equal(decode(slice_of(bytes, n), nobody, key), STATUS_CURSOR_INVALID);
        bytes[i] ^= 1;
    }
    cursor_init(&in);
    n = cursor_encode(&in, nobody, key, bytes); /* as long, and not one */
    assert_false(cursor_is_snapshot(slice_of(bytes, n), key));
}

static void causes(void **state) {
    cursor_init(&in);
    in.seq[5] = 5;
    size_t n = cursor_encode(&in, alice, key, bytes);
    refused(slice_of(bytes, n), alice, other_key, "cluster");
    refused((struct slice){0}, alice, key, "length");
    refused(slice_of(bytes, CURSOR_BYTES_MIN - 1), alice, key, "length");
    static uint8_t large[CURSOR_BYTES_MAX + 1];
    refused(slice_of(large, sizeof large), alice, key, "length");
    bytes[0] = 2;
    refused(slice_of(bytes, n), alice, key, "version");
}

static void every_cut_and_every_flipped_bit_is_refused(void **state) {
    cursor_init(&in);
    for (unsigned i = 100; i < 140; i++) in.seq[i] = 1000 + i * i;
    size_t n = cursor_encode(&in, alice, key, bytes);
    for (size_t cut = 0; cut < n; cut++) refused(slice_of(bytes, cut), alice, key, cut < CURSOR_BYTES_MIN ? "length" : "forged");
    for (size_t bit = 0; bit < n * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refused(slice_of(bytes, n), alice, key, bit < 8 ? "version" : bit >= 16 && bit < 48 ? "cluster" : "forged");
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(decode(slice_of(bytes, n), alice, key), STATUS_OK);
}

static void sign(uint8_t *b, size_t n) {
    uint8_t keys[SHA256_BYTES];
    hmac_sha256(keys, key, SLICE_LIT("orderdb cursor"));
    siphash(b + n, keys + 16, slice_of(b, n));
}

/* What only a later version, or a leaked key, could have signed. */
static void signed_nonsense_is_refused(void **state) {
    static const char *const bodies[] = {
        "01",                              /* half a run */
        "00 00",                           /* an empty run */
        "00 01 02",                        /* no width */
        "00 01 02 40",                     /* 64 bits wide */
        "00 01 01 00",                     /* below zero */
        "00 02 fcffffffffffffffff01 03 3f", /* above the highest */
        "80 80 01 01 00 00",               /* a gap beyond the last slot */
        "00 81 80 01 00 00",               /* a run beyond it */
        "ff 7f 01 00 00 00 01 00 00",      /* and one more slot */
        "00 02 00 08 01",                  /* one byte for two slots of eight bits */
        "ffffffffffffffffffff 01",
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        cursor_init(&in);
        size_t n = cursor_encode(&in, nobody, key, bytes) - CURSOR_MAC_BYTES;
        n += test_unhex(bodies[i], bytes + n, 100);
        sign(bytes, n);
        refused(slice_of(bytes, n + CURSOR_MAC_BYTES), nobody, key, "version");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_mentioned),
        cmocka_unit_test(one_slot_takes_a_few_bytes),
        cmocka_unit_test(a_whole_vector_takes_the_spread_of_neighbours),
        cmocka_unit_test(random_vectors_round_trip),
        cmocka_unit_test(never_longer_than_the_bound),
        cmocka_unit_test(widths_of_all_bits),
        cmocka_unit_test(golden),
        cmocka_unit_test(all_and_one_do_not_mix),
        cmocka_unit_test(the_beginning_of_a_snapshot_is_a_cursor_for_groups_alone),
        cmocka_unit_test(causes),
        cmocka_unit_test(every_cut_and_every_flipped_bit_is_refused),
        cmocka_unit_test(signed_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
