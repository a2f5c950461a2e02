/* proto/base: arena, bytes, buf, hash, mem; proto/route. */
#include <sys/mman.h>

#include "tests/lib/test.h"

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/route.h"

/* ---- arena ---- */

static void arena_gives_aligned_memory_up_to_its_bound(void **state) {
    struct arena a;
    arena_init(&a, 64 * KIB);
    size_t got = 0;
    for (void *p; (p = arena_alloc(&a, 100)); got += 112) {
        assert_int_equal((uintptr_t)p % 16, 0);
        memset(p, 0xee, 100);
    }
    assert_in_range(got, 48 * KIB, 64 * KIB);
    assert_null(arena_alloc(&a, 64 * KIB));
    arena_reset(&a);
    assert_non_null(arena_alloc(&a, 40 * KIB));
    arena_fini(&a);
}

static void arena_refuses_absurd_sizes(void **state) {
    struct arena a;
    arena_init(&a, SIZE_MAX);
    assert_null(arena_alloc(&a, SIZE_MAX));
    assert_null(arena_alloc(&a, SIZE_MAX - 8));
    assert_null(arena_array(&a, uint64_t, SIZE_MAX / 4));
    arena_fini(&a);
}

static void arena_gives_something_for_nothing(void **state) {
    struct arena a;
    arena_init(&a, 64 * KIB);
    void *p = arena_alloc(&a, 0), *q = arena_alloc(&a, 0);
    assert_non_null(p);
    assert_non_null(q);
    assert_ptr_not_equal(p, q);
    assert_non_null(arena_array(&a, int, 0));
    arena_fini(&a);
}

/* A large piece has its own chunk; small ones go on in the current one. */
static void arena_keeps_filling_its_chunk_beside_large_pieces(void **state) {
    struct arena a;
    arena_init(&a, MIB);
    uint8_t *p = arena_alloc(&a, 16);
    memset(arena_alloc(&a, 100 * KIB), 1, 100 * KIB);
    assert_ptr_equal(arena_alloc(&a, 16), p + 16);
    arena_reset(&a);
    assert_ptr_equal(arena_alloc(&a, 16), p); /* the chunk was kept, the large piece was not */
    arena_fini(&a);
}

static void arena_texts(void **state) {
    struct arena a;
    arena_init(&a, 16 * KIB);
    struct slice s = arena_copy(&a, SLICE_LIT("abc"));
    assert_string_equal((const char *)s.data, "abc");
    assert_int_equal(s.len, 3);
    s = arena_copy(&a, (struct slice){0});
    assert_non_null(s.data);
    assert_int_equal(s.len, 0);
    assert_string_equal(arena_printf(&a, "%d %s", 7, "x"), "7 x");
    assert_null(arena_printf(&a, "%20000d", 1));
    uint8_t *z = arena_zalloc(&a, 64);
    for (int i = 0; i < 64; i++) assert_int_equal(z[i], 0);
    arena_fini(&a);
    arena_init(&a, 100); /* less than a chunk: nothing at all */
    assert_null(arena_copy(&a, SLICE_LIT("abc")).data);
    arena_fini(&a);
}

static void arena_out_of_memory_is_null(void **state) {
    struct arena a;
    arena_init(&a, MIB);
    mem_fail_nth(1);
    assert_null(arena_alloc(&a, 10));
    assert_non_null(arena_alloc(&a, 10));
    mem_fail_nth(1);
    assert_null(arena_zalloc(&a, 10 * KIB));
    mem_fail_nth(0);
    arena_fini(&a);
}

/* ---- buf, mem, list ---- */

static void buf_grows_and_hands_over(void **state) {
    struct buf b = {0};
    for (int i = 0; i < 1000; i++) assert_true(buf_append(&b, SLICE_LIT("0123456789")));
    assert_int_equal(b.len, 10000);
    assert_true(buf_append(&b, (struct slice){0}));
    assert_false(buf_reserve(&b, SIZE_MAX / 2));
    mem_fail_nth(1);
    assert_false(buf_reserve(&b, 1 << 20));
    assert_int_equal(b.len, 10000);
    assert_memory_equal(b.data + 9990, "0123456789", 10);
    uint8_t *p = buf_take(&b);
    assert_null(b.data);
    assert_int_equal(buf_slice(&b).len, 0);
    mem_free(p);
    assert_true(buf_append(&b, SLICE_LIT("x")));
    buf_fini(&b);
    buf_fini(&b);
}

static size_t resident(void *p, size_t pages) {
    unsigned char in[1024];
    size_t n = 0;
    assert_true(pages <= sizeof in);
    assert_int_equal(mincore(p, pages * MEM_PAGE_BYTES, in), 0);
    for (size_t i = 0; i < pages; i++) n += in[i] & 1;
    return n;
}

/* Its pages are there before they are written, and what is in them stays. */
static void mem_populates_what_is_to_be_written(void **state) {
    enum { PAGES = 2 * MEM_HUGE_BYTES / MEM_PAGE_BYTES };
    uint8_t *p = mem_alloc_huge(2 * MEM_HUGE_BYTES);
    assert_non_null(p);
    (void)madvise(p, 2 * MEM_HUGE_BYTES, MADV_DONTNEED); /* fresh, whatever the heap gave */
    assert_int_equal(resident(p, PAGES), 0);
    p[5] = 7;
    if (madvise(p, MEM_PAGE_BYTES, MADV_POPULATE_WRITE)) {
        mem_free(p);
        skip(); /* Linux before 5.14 */
    }
    mem_populate(p + MEM_HUGE_BYTES, MEM_HUGE_BYTES);
    assert_int_equal(resident(p + MEM_HUGE_BYTES, PAGES / 2), PAGES / 2);
    mem_populate(p, 2 * MEM_HUGE_BYTES);
    assert_int_equal(resident(p, PAGES), PAGES);
    assert_int_equal(p[5], 7);
    mem_free(p);
}

static void mem_fails_the_nth_once(void **state) {
    mem_fail_nth(3);
    void *a = mem_alloc(1), *b = mem_zalloc(0), *c = mem_strdup("x"), *d = mem_alloc_aligned(4096, 4096);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_non_null(d);
    assert_int_equal((uintptr_t)d % 4096, 0);
    uint64_t before = mem_count();
    a = mem_realloc(a, 100);
    assert_non_null(a);
    assert_int_equal(mem_count(), before + 1);
    mem_fail_nth(1);
    assert_null(mem_alloc_aligned(64, 64));
    mem_free(a), mem_free(b), mem_free(d), mem_free(NULL);
}

static void list_keeps_order(void **state) {
    struct list head, other, n[4];
    list_init(&head), list_init(&other);
    assert_true(list_empty(&head));
    assert_null(list_pop_front(&head));
    list_push_back(&head, &n[1]), list_push_back(&head, &n[2]), list_push_front(&head, &n[0]);
    list_push_back(&other, &n[3]);
    list_splice_back(&head, &other);
    assert_true(list_empty(&other));
    list_remove(&n[1]), list_remove(&n[1]);
    assert_ptr_equal(list_pop_front(&head), &n[0]);
    assert_ptr_equal(list_pop_front(&head), &n[2]);
    assert_ptr_equal(list_pop_front(&head), &n[3]);
    assert_true(list_empty(&head));
}

/* ---- bytes ---- */

static void writer_stops_at_its_end(void **state) {
    uint8_t b[8] = {0};
    struct writer w = writer_of(b, sizeof b);
    write_be32(&w, 0x01020304), write_le16(&w, 0x0506);
    assert_false(w.full);
    write_be64(&w, 1);
    assert_true(w.full);
    write_u8(&w, 9); /* would fit, but something is missing already */
    assert_int_equal(w.len, 6);
    assert_string_equal(test_hex(slice_of(b, 8)), "0102030406050000");
}

static void reader_never_runs_over(void **state) {
    const uint8_t b[] = {1, 2, 3, 4, 5};
    struct reader r = reader_of(slice_of(b, sizeof b));
    assert_int_equal(read_be32(&r), 0x01020304);
    assert_int_equal(reader_left(&r), 1);
    assert_int_equal(read_be16(&r), 0);
    assert_true(r.bad);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(read_u8(&r), 0);
    assert_int_equal(read_bytes(&r, 0).len, 0);
    r = reader_of((struct slice){0});
    assert_int_equal(read_le64(&r), 0);
    assert_true(r.bad);
}

static void varints_round_trip(void **state) {
    const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        uint8_t b[10];
        struct writer w = writer_of(b, sizeof b);
        write_varint(&w, values[i]);
        assert_int_equal(w.len, varint_len(values[i]));
        struct reader r = reader_of(writer_slice(&w));
        assert_true(read_varint(&r) == values[i]);
        assert_false(r.bad);
        r = reader_of(slice_of(b, w.len - 1));
        read_varint(&r);
        assert_true(r.bad);
    }
}

static void varints_beyond_64_bits_are_bad(void **state) {
    const uint8_t too_big[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    const uint8_t too_long[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
    struct reader r = reader_of(slice_of(too_big, sizeof too_big));
    read_varint(&r);
    assert_true(r.bad);
    r = reader_of(slice_of(too_long, sizeof too_long));
    read_varint(&r);
    assert_true(r.bad);
}

static void counted_bytes(void **state) {
    uint8_t b[16];
    struct writer w = writer_of(b, sizeof b);
    write_counted(&w, SLICE_LIT("abc"));
    struct reader r = reader_of(writer_slice(&w));
    assert_slice(read_counted(&r), "abc");
    const uint8_t lie[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 'x'};
    r = reader_of(slice_of(lie, sizeof lie));
    assert_int_equal(read_counted(&r).len, 0);
    assert_true(r.bad);
}

static void slices_compare_as_unsigned_bytes(void **state) {
    assert_true(slice_compare(SLICE_LIT("a"), SLICE_LIT("ab")) < 0);
    assert_true(slice_compare(SLICE_LIT("\x80"), SLICE_LIT("\x7f")) > 0);
    assert_int_equal(slice_compare((struct slice){0}, (struct slice){0}), 0);
    assert_true(slice_equal(SLICE_LIT(""), (struct slice){0}));
    assert_true(slice_equal(slice_cut_utf8(SLICE_LIT("a\xc3\xa9"), 2), SLICE_LIT("a")));
    assert_true(slice_equal(slice_cut_utf8(SLICE_LIT("a\xc3\xa9"), 3), SLICE_LIT("a\xc3\xa9")));
    assert_int_equal(slice_cut_utf8(SLICE_LIT("\xf0\x9f\x98\x80"), 3).len, 0);
    assert_true(slice_starts_with(SLICE_LIT("abc"), SLICE_LIT("ab")));
    assert_false(slice_starts_with(SLICE_LIT("a"), SLICE_LIT("ab")));
}

static void after_a_prefix(void **state) {
    uint8_t plain[] = "ab", carries[] = {'a', 0xff, 0xff}, none[] = {0xff, 0xff};
    assert_int_equal(bytes_after_prefix(plain, 2), 2);
    assert_memory_equal(plain, "ac", 2);
    assert_int_equal(bytes_after_prefix(carries, 3), 1);
    assert_int_equal(carries[0], 'b');
    assert_int_equal(bytes_after_prefix(none, 2), 0);
    assert_int_equal(bytes_after_prefix(plain, 0), 0);
}

/* ---- hash ---- */

/* RFC 3720, appendix B.4, and the check value of the CRC catalogues. */
static void crc32c_vectors(void **state) {
    uint8_t b[32];
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    memset(b, 0, 32);
    assert_int_equal(crc32c(0, b, 32), 0x8a9136aa);
    memset(b, 0xff, 32);
    assert_int_equal(crc32c(0, b, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) b[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, b, 32), 0x46dd794e);
    for (size_t cut = 0; cut <= 32; cut++) assert_int_equal(crc32c(crc32c(0, b, cut), b + cut, 32 - cut), 0x46dd794e);
    assert_int_equal(crc32c(0, NULL, 0), 0);
}

/* FIPS 180-4 example; RFC 4231 test case 2. */
/* However the bytes are cut, into parts shorter and longer than what is gathered, they have one hash. */
static void sha256_of_parts_is_that_of_the_whole(void **state) {
    static uint8_t bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 131 >> 3);
    uint8_t whole[SHA256_BYTES], cut[SHA256_BYTES];
    sha256(whole, &(struct slice){bytes, sizeof bytes}, 1);
    for (size_t step = 1; step < 1600; step += step < 64 ? 1 : 31) {
        struct slice parts[sizeof bytes];
        size_t n = 0;
        for (size_t at = 0; at < sizeof bytes; at += parts[n++].len) parts[n] = slice_of(bytes + at, MIN_OF(n % 3 ? step : 2 * step, sizeof bytes - at));
        sha256(cut, parts, n);
        assert_memory_equal(cut, whole, sizeof cut);
    }
}

static void sha256_vectors(void **state) {
    uint8_t out[SHA256_BYTES];
    struct slice abc[] = {SLICE_LIT("a"), SLICE_LIT(""), SLICE_LIT("bc")};
    sha256(out, abc, 3);
    assert_string_equal(test_hex(slice_of(out, 32)), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256(out, NULL, 0);
    assert_string_equal(test_hex(slice_of(out, 32)), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hmac_sha256(out, SLICE_LIT("Jefe"), SLICE_LIT("what do ya want for nothing?"));
    assert_string_equal(test_hex(slice_of(out, 32)), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    /* RFC 4231, cases 1 and 6: a key of more than a block. */
    uint8_t key[131];
    memset(key, 0x0b, 20);
    hmac_sha256(out, slice_of(key, 20), SLICE_LIT("Hi There"));
    assert_string_equal(test_hex(slice_of(out, 32)), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    memset(key, 0xaa, sizeof key);
    hmac_sha256(out, slice_of(key, sizeof key), SLICE_LIT("Test Using Larger Than Block-Size Key - Hash Key First"));
    assert_string_equal(test_hex(slice_of(out, 32)), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    assert_true(bytes_equal_constant_time("abc", "abc", 3));
    assert_false(bytes_equal_constant_time("abc", "abd", 3));
}

/* Slots and stored fingerprints hang on these for ever. Empty input: the xxHash project's published values for seed 0. */
/* vectors.h of the reference implementation, vectors_sip128: key 00 01 ... 0f, input 00 01 ... */
static void siphash_vectors(void **state) {
    uint8_t key[16], in[16], out[SIPHASH_BYTES];
    for (uint8_t i = 0; i < 16; i++) key[i] = in[i] = i;
    siphash(out, key, slice_of(in, 0));
    assert_string_equal(test_hex(slice_of(out, sizeof out)), "a3817f04ba25a8e66df67214c7550293");
    siphash(out, key, slice_of(in, 1));
    assert_string_equal(test_hex(slice_of(out, sizeof out)), "da87c1d86b99af44347659119b22fc45");
    siphash(out, key, slice_of(in, 15));
    assert_string_equal(test_hex(slice_of(out, sizeof out)), "5493e99933b0a8117e08ec0f97cfc3d9");
}

/* What is remembered is what would be reckoned anew, of more keys and labels than are remembered. */
static void derived_keys(void **state) {
    static const char *const labels[] = {"orderdb cursor", "orderdb page token", "x"};
    uint8_t key[32] = {0}, got[SHA256_BYTES], wanted[SHA256_BYTES];
    for (unsigned i = 0; i < 60; i++) {
        struct slice label = slice_str(labels[i % ARRAY_LEN(labels)]);
        key[31] = (uint8_t)(i / 2 % 5);
        hmac_derive(got, key, label);
        hmac_sha256(wanted, slice_of(key, sizeof key), label);
        assert_memory_equal(got, wanted, sizeof got);
    }
}

static void xxh3_vectors(void **state) {
    assert_true(hash64((struct slice){0}) == 0x2d06800538d394c2ull);
    struct hash128 h = hash128((struct slice){0});
    assert_true(h.high == 0x99aa06d3014798d8ull && h.low == 0x6001c324468d497full);
    assert_true(hash64(SLICE_LIT("u1")) != hash64(SLICE_LIT("u2")));
}

static void random_bytes_differ(void **state) {
    uint8_t a[300] = {0}, b[300] = {0};
    random_bytes(a, sizeof a), random_bytes(b, sizeof b);
    assert_memory_not_equal(a, b, 16);
    assert_memory_not_equal(a + 284, b + 284, 16);
}

static void log_levels_parse(void **state) {
    enum log_level l;
    assert_true(log_level_parse("warn", &l));
    assert_int_equal(l, LOG_WARN);
    assert_true(log_level_parse("off", &l));
    assert_false(log_level_parse("loud", &l));
}

/* ---- route ---- */

static void slots_are_fixed_for_ever(void **state) {
    const struct { const char *user; uint16_t slot; } golden[] = {{"", 5314}, {"u1", 7665}, {"alice", 5808}, {"customer-42", 7777}};
    for (size_t i = 0; i < ARRAY_LEN(golden); i++) assert_int_equal(slot_of_user(slice_str(golden[i].user)), golden[i].slot);
    for (int i = 0; i < 1000; i++) {
        char user[16];
        snprintf(user, sizeof user, "user-%d", i);
        assert_in_range(slot_of_user(slice_str(user)), 0, SLOT_COUNT - 1);
        assert_int_equal(slot_of_user(slice_str(user)), hash64(slice_str(user)) % SLOT_COUNT);
    }
}

static void order_ids_carry_time_slot_and_sequence(void **state) {
    int64_t id = order_id_make(ORDER_EPOCH_MS + 5, 16383, 255);
    assert_true(id == (5ll << 22 | 16383 << 8 | 255));
    assert_int_equal(order_id_slot(id), 16383);
    assert_true(order_id_ms(id) == ORDER_EPOCH_MS + 5);
    assert_true(order_id_plausible(id));
    assert_false(order_id_plausible(0));
    assert_false(order_id_plausible(-1));
}

static void next_order_id_increases_whatever_the_clock_does(void **state) {
    int64_t ms = ORDER_EPOCH_MS + 1000, last = order_id_next(0, ms, 77);
    assert_true(last == order_id_make(ms, 77, 0));
    for (int i = 1; i < 256; i++) assert_true((last = order_id_next(last, ms, 77)) == order_id_make(ms, 77, (uint8_t)i));
    last = order_id_next(last, ms, 77); /* 256 in one millisecond: the next one begins */
    assert_true(last == order_id_make(ms + 1, 77, 0));
    for (int back = 0; back < 600; back++) {
        int64_t next = order_id_next(last, ms - 500000 - back, 77);
        assert_true(next > last);
        assert_int_equal(order_id_slot(next), 77);
        last = next;
    }
    assert_true(order_id_next(last, ms + 60000, 77) == order_id_make(ms + 60000, 77, 0));
}

static void partitions_cover_every_slot_once(void **state) {
    for (uint32_t n = 1; n <= 64; n += 7) {
        uint32_t expected = 0;
        for (uint32_t p = 0; p < n; p++) {
            assert_int_equal(partition_first_slot(p, n), expected);
            for (uint32_t s = partition_first_slot(p, n); s <= partition_last_slot(p, n); s++) assert_int_equal(partition_of_slot((uint16_t)s, n), p);
            expected = partition_last_slot(p, n) + 1u;
        }
        assert_int_equal(expected, SLOT_COUNT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_gives_aligned_memory_up_to_its_bound),
        cmocka_unit_test(arena_refuses_absurd_sizes),
        cmocka_unit_test(arena_gives_something_for_nothing),
        cmocka_unit_test(arena_keeps_filling_its_chunk_beside_large_pieces),
        cmocka_unit_test(arena_texts),
        cmocka_unit_test(arena_out_of_memory_is_null),
        cmocka_unit_test(buf_grows_and_hands_over),
        cmocka_unit_test(mem_fails_the_nth_once),
        cmocka_unit_test(mem_populates_what_is_to_be_written),
        cmocka_unit_test(list_keeps_order),
        cmocka_unit_test(writer_stops_at_its_end),
        cmocka_unit_test(reader_never_runs_over),
        cmocka_unit_test(varints_round_trip),
        cmocka_unit_test(varints_beyond_64_bits_are_bad),
        cmocka_unit_test(counted_bytes),
        cmocka_unit_test(slices_compare_as_unsigned_bytes),
        cmocka_unit_test(after_a_prefix),
        cmocka_unit_test(crc32c_vectors),
        cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(sha256_of_parts_is_that_of_the_whole),
        cmocka_unit_test(siphash_vectors),
        cmocka_unit_test(derived_keys),
        cmocka_unit_test(xxh3_vectors),
        cmocka_unit_test(random_bytes_differ),
        cmocka_unit_test(log_levels_parse),
        cmocka_unit_test(slots_are_fixed_for_ever),
        cmocka_unit_test(order_ids_carry_time_slot_and_sequence),
        cmocka_unit_test(next_order_id_increases_whatever_the_clock_does),
        cmocka_unit_test(partitions_cover_every_slot_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
