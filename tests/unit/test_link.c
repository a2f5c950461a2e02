/* What nodes say to one another as bytes (proto/link.h): golden bytes, there and back, and every refusal. */
#include "tests/lib/test.h"

#include "proto/base/hash.h"
#include "proto/link.h"

static struct buf out;

static int begin(void **state) { return out = (struct buf){0}, 0; }
static int end(void **state) { return buf_fini(&out), 0; }

static struct link_frame read_ok(struct slice bytes) {
    struct link_frame f = {0};
    assert_int_equal(link_read(bytes, &f), STATUS_OK);
    return f;
}
static enum status read_status(struct slice bytes) {
    struct link_frame f;
    return link_read(bytes, &f);
}
/* After a change of ours: the checksum is right again, so that it is the field that is refused. */
static struct slice sealed(void) {
    put_le32(out.data + 8, crc32c(crc32c(0, out.data, 8), out.data + LINK_HEAD_BYTES, out.len - LINK_HEAD_BYTES));
    return buf_slice(&out);
}

static const struct link_hello example = {
    .core = 1, .cores = 2, .partitions = 4, .from = 3, .to = 7,
    .cluster_id = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf},
    .nonce = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
    .zone = "zone-a", .address = "127.0.0.1:7400",
    .replicas = 3, .replace_after_ms = 600000,
};

static void test_golden_bytes(void **state) {
    uint8_t hello[LINK_HELLO_BYTES], proof[LINK_PROOF_BYTES];
    link_hello_encode(&example, hello);
    assert_true(link_write(&out, LINK_HELLO, slice_of(hello, sizeof hello), true));
    assert_golden("link_hello", buf_slice(&out));
    struct link_hello back;
    struct link_frame f = read_ok(buf_slice(&out));
    assert_int_equal(f.kind, LINK_HELLO);
    assert_false(f.packed);
    assert_int_equal(link_hello_decode(f.body, &back), STATUS_OK);
    assert_memory_equal(&back, &example, sizeof back);
    link_proof(proof, SLICE_LIT("a key"), LINK_WELCOME, hello, hello);
    assert_golden("link_proof", slice_of(proof, sizeof proof));
}

static void test_a_proof_depends_on_all_that_goes_in(void **state) {
    uint8_t a[LINK_HELLO_BYTES] = {1}, b[LINK_HELLO_BYTES] = {2}, proofs[4][LINK_PROOF_BYTES];
    link_proof(proofs[0], SLICE_LIT("a key"), LINK_WELCOME, a, b);
    link_proof(proofs[1], SLICE_LIT("a key"), LINK_PROOF, a, b); /* what one side says can't be sent back to it */
    link_proof(proofs[2], SLICE_LIT("a key"), LINK_WELCOME, b, a);
    link_proof(proofs[3], SLICE_LIT("b key"), LINK_WELCOME, a, b);
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < i; k++) assert_memory_not_equal(proofs[i], proofs[k], LINK_PROOF_BYTES);
}

static void test_a_version_is_a_text(void **state) {
    char out_[LINK_VERSION_BYTES_MAX + 1], long_[LINK_VERSION_BYTES_MAX + 1];
    memset(long_, 'v', sizeof long_);
    assert_true(link_version_decode(SLICE_LIT("1.2-3-gabc"), out_));
    assert_string_equal(out_, "1.2-3-gabc");
    assert_true(link_version_decode(slice_of(long_, LINK_VERSION_BYTES_MAX), out_));
    assert_int_equal(strlen(out_), LINK_VERSION_BYTES_MAX);
    assert_false(link_version_decode(slice_of(long_, LINK_VERSION_BYTES_MAX + 1), out_));
    assert_false(link_version_decode((struct slice){0}, out_)); /* a PING as any */
    assert_false(link_version_decode(SLICE_LIT("a b"), out_));
    assert_false(link_version_decode(SLICE_LIT("a\x1b"), out_));
    assert_false(link_version_decode(slice_of((const uint8_t *)"a\0", 2), out_));
}

static void test_a_lead_zone_is_no_version(void **state) {
    char zone[LINK_ZONE_BYTES + 1], version[LINK_VERSION_BYTES_MAX + 1];
    uint8_t bytes[LINK_LEAD_ZONE_BYTES_MAX + 1] = {0};
    static const char *const zones[] = {"", "a", "zone-of-two-and-thirty-bytes-abcd"};
    for (unsigned i = 0; i < ARRAY_LEN(zones); i++) {
        struct slice body = slice_of(bytes, link_lead_zone_encode(zones[i], bytes));
        assert_int_equal(body.len, 1 + MIN_OF(strlen(zones[i]), (size_t)LINK_ZONE_BYTES));
        assert_true(link_lead_zone_decode(body, zone));
        assert_memory_equal(zone, zones[i], body.len - 1);
        assert_int_equal(zone[body.len - 1], 0);
        assert_false(link_version_decode(body, version)); /* nor for nodes that know nothing of it */
    }
    assert_false(link_lead_zone_decode((struct slice){0}, zone));
    assert_false(link_lead_zone_decode(SLICE_LIT("1.2-3-gabc"), zone));
    assert_false(link_lead_zone_decode(SLICE_LIT("\x01" "a b"), zone));
    assert_false(link_lead_zone_decode(slice_of((const uint8_t *)"\x01" "a\0", 3), zone));
    assert_false(link_lead_zone_decode(slice_of(bytes, LINK_LEAD_ZONE_BYTES_MAX + 1), zone));
    assert_slice(slice_of(bytes, 2), "\x01z"); /* as others read it */
}

static void test_tls_is_told_by_its_first_bytes(void **state) {
    static const struct { const char *bytes; size_t len; bool tls; } rows[] = {
        {"\x16\x03\x01\x02\x00", 5, true}, {"\x16\x03", 2, true}, {"\x15\x03\x03", 3, true}, {"\x16", 1, false}, {"", 0, false}, {"\x16\x02\x00\x00", 4, false}, {"\x18\x03", 2, false}, {"GET /", 5, false}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) assert_int_equal(link_looks_like_tls(slice_of((const uint8_t *)rows[i].bytes, rows[i].len)), rows[i].tls);
    uint8_t hello[LINK_HELLO_BYTES];
    link_hello_encode(&example, hello);
    assert_true(link_write(&out, LINK_HELLO, slice_of(hello, sizeof hello), true));
    assert_false(link_looks_like_tls(buf_slice(&out)));
}

static void test_frames_stand_behind_each_other(void **state) {
    assert_true(link_write(&out, LINK_RAFT, SLICE_LIT("first"), true));
    assert_true(link_write(&out, LINK_PING, (struct slice){0}, true));
    struct slice all = buf_slice(&out);
    for (size_t n = 0; n < LINK_HEAD_BYTES + 5; n++) assert_int_equal(read_status(slice_of(all.data, n)), STATUS_WOULD_BLOCK); /* torn anywhere */
    struct link_frame f = read_ok(all);
    assert_slice(f.body, "first");
    assert_int_equal(f.length, LINK_HEAD_BYTES + 5);
    f = read_ok(slice_of(all.data + f.length, all.len - f.length));
    assert_int_equal(f.kind, LINK_PING);
    assert_int_equal(f.body.len, 0);
}

static void test_large_bodies_are_packed_when_it_pays(void **state) {
    static uint8_t body[LINK_BODY_BYTES_MAX], back[LINK_BODY_BYTES_MAX];
    for (size_t i = 0; i < sizeof body; i++) body[i] = (uint8_t)(i / 50);
    const size_t lengths[] = {LINK_PACK_BYTES_MIN - 1, LINK_PACK_BYTES_MIN, 300000, LINK_BODY_BYTES_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(lengths); i++) {
        out.len = 0;
        assert_true(link_write(&out, LINK_RAFT, slice_of(body, lengths[i]), true));
        struct link_frame f = read_ok(buf_slice(&out));
        assert_int_equal(f.packed, lengths[i] >= LINK_PACK_BYTES_MIN);
        assert_int_equal(f.unpacked, lengths[i]);
        if (!f.packed) continue;
        assert_true(f.length < lengths[i] / 2);
        assert_int_equal(link_unpack(&f, back), STATUS_OK);
        assert_memory_equal(back, body, lengths[i]);
    }
    struct test_random r = {7};
    for (size_t i = 0; i < LINK_PACK_BYTES_MIN; i += 8) put_le64(body + i, test_random_next(&r));
    out.len = 0;
    assert_true(link_write(&out, LINK_RAFT, slice_of(body, LINK_PACK_BYTES_MIN), true));
    assert_false(read_ok(buf_slice(&out)).packed); /* chance does not get smaller */
    memset(body, 0, LINK_PACK_BYTES_MIN);
    out.len = 0;
    assert_true(link_write(&out, LINK_RAFT, slice_of(body, LINK_PACK_BYTES_MIN), false));
    assert_false(read_ok(buf_slice(&out)).packed);
}

static void test_damage_is_found_wherever_it_is(void **state) {
    assert_true(link_write(&out, LINK_RAFT, SLICE_LIT("some body"), true));
    for (size_t i = 0; i < out.len; i++) {
        out.data[i] ^= 0x10;
        struct link_frame f;
        assert_int_not_equal(link_read(buf_slice(&out), &f), STATUS_OK);
        out.data[i] ^= 0x10;
    }
    (void)read_ok(buf_slice(&out));
}

static void test_what_is_no_frame_is_refused_before_it_is_waited_for(void **state) {
    uint8_t head[LINK_HEAD_BYTES] = {0};
    static const struct { uint32_t len; uint8_t kind, flags; uint16_t zero; } bad[] = {
        {LINK_HEAD_BYTES - 1, LINK_PING, 0, 0}, {LINK_FRAME_BYTES_MAX + 1, LINK_PING, 0, 0}, {UINT32_MAX, LINK_PING, 0, 0},
        {100, 0, 0, 0}, {100, LINK_JOINED + 1, 0, 0}, {100, LINK_RAFT, 2, 0}, {100, LINK_RAFT, 0, 1},
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        put_le32(head, bad[i].len), head[4] = bad[i].kind, head[5] = bad[i].flags, put_le16(head + 6, bad[i].zero);
        assert_int_equal(read_status(slice_of(head, sizeof head)), STATUS_FIELD_INVALID);
    }
    put_le32(head, LINK_FRAME_BYTES_MAX), head[4] = LINK_RAFT, head[5] = 0, put_le16(head + 6, 0);
    assert_int_equal(read_status(slice_of(head, sizeof head)), STATUS_WOULD_BLOCK); /* the longest */
    assert_int_equal(read_status(SLICE_LIT("PRI * HTTP/2.0\r\n")), STATUS_FIELD_INVALID);
}

static void test_packed_lies_are_refused(void **state) {
    static uint8_t body[LINK_PACK_BYTES_MIN], back[LINK_BODY_BYTES_MAX];
    assert_true(link_write(&out, LINK_RAFT, slice_of(body, sizeof body), true));
    assert_true(read_ok(buf_slice(&out)).packed);
    static const uint32_t lies[] = {0, LINK_PACK_BYTES_MIN - 1, LINK_BODY_BYTES_MAX + 1, UINT32_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(lies); i++) {
        put_le32(out.data + LINK_HEAD_BYTES, lies[i]);
        assert_int_equal(read_status(sealed()), STATUS_FIELD_INVALID);
    }
    put_le32(out.data + LINK_HEAD_BYTES, LINK_PACK_BYTES_MIN + 1); /* possible, and not so */
    struct link_frame f = read_ok(sealed());
    assert_int_equal(link_unpack(&f, back), STATUS_FIELD_INVALID);
    out.len = LINK_HEAD_BYTES + 4; /* no block */
    put_le32(out.data, (uint32_t)out.len), put_le32(out.data + LINK_HEAD_BYTES, LINK_PACK_BYTES_MIN);
    assert_int_equal(read_status(sealed()), STATUS_FIELD_INVALID);
}

static void test_hellos_that_are_not_understood(void **state) {
    uint8_t bytes[LINK_HELLO_BYTES + 1] = {0};
    struct link_hello h, back;
    struct slice all = slice_of(bytes, LINK_HELLO_BYTES);
    link_hello_encode(&example, bytes);
    assert_int_equal(link_hello_decode(slice_of(bytes, LINK_HELLO_BYTES - 1), &back), STATUS_FIELD_INVALID);
    assert_int_equal(link_hello_decode(slice_of(bytes, sizeof bytes), &back), STATUS_FIELD_INVALID);
    assert_int_equal(link_hello_decode(slice_of(bytes, 11), &back), STATUS_FIELD_INVALID);
    bytes[0] ^= 1;
    assert_int_equal(link_hello_decode(all, &back), STATUS_FIELD_INVALID);
    bytes[0] ^= 1;
    put_le32(bytes + 8, LINK_FORMAT + 1); /* of whatever length */
    assert_int_equal(link_hello_decode(all, &back), STATUS_FORMAT_UNKNOWN);
    assert_int_equal(link_hello_decode(slice_of(bytes, 20), &back), STATUS_FORMAT_UNKNOWN);
    put_le32(bytes + 8, LINK_FORMAT);
    bytes[72 + 20] = 'x'; /* behind the zone's end */
    assert_int_equal(link_hello_decode(all, &back), STATUS_FIELD_INVALID);
    bytes[72 + 20] = 0, bytes[72] = '\n';
    assert_int_equal(link_hello_decode(all, &back), STATUS_FIELD_INVALID);
    for (unsigned i = 0; i < 4; i++) {
        h = example;
        if (i == 0) h.core = h.cores;
        else if (i == 1) h.from = 0;
        else if (i == 2) h.to = 0;
        else h.to = h.from;
        link_hello_encode(&h, bytes);
        assert_int_equal(link_hello_decode(all, &back), STATUS_FIELD_INVALID);
    }
}

static void test_who_is_taken(void **state) {
    struct link_hello own = {.core = 1, .cores = 2, .partitions = 4, .from = 7, .to = 3, .replicas = 3}, theirs = example; /* of --replace-after they may differ: it is told, no more */
    memcpy(own.cluster_id, example.cluster_id, sizeof own.cluster_id);
    assert_int_equal(link_hello_match(&own, &theirs), LINK_TAKEN);
    own.to = 4; /* somebody else was expected */
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_NODE);
    own.to = 3, own.from = 8; /* it looks for somebody else */
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_NODE);
    own.from = 7, own.cores = 3;
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_SHAPE);
    own.cores = 2, own.partitions = 5;
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_SHAPE);
    own.partitions = 4, own.core = 0;
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_SHAPE);
    own.core = 1, own.replicas = 5;
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_REPLICAS);
    own.replicas = 3, own.cluster_id[15] ^= 1;
    assert_int_equal(link_hello_match(&own, &theirs), LINK_OTHER_CLUSTER);
    for (unsigned i = 0; i <= 255; i++) assert_true(strlen(link_refusal_text((enum link_refusal)i)) > 4); /* it is a byte of somebody's */
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(test_golden_bytes), T(test_a_proof_depends_on_all_that_goes_in), T(test_frames_stand_behind_each_other), T(test_large_bodies_are_packed_when_it_pays),
        T(test_damage_is_found_wherever_it_is), T(test_what_is_no_frame_is_refused_before_it_is_waited_for), T(test_packed_lies_are_refused),
        T(test_hellos_that_are_not_understood), T(test_who_is_taken), T(test_a_version_is_a_text), T(test_a_lead_zone_is_no_version), T(test_tls_is_told_by_its_first_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
