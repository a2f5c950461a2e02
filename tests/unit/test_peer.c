/* Raft messages as bytes: each kind there and back, golden bytes, and every refusal that peer.h names. */
#include "tests/lib/test.h"

#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/peer.h"

static uint8_t bytes[1 << 16];
static struct peer_entry decoded[PEER_ENTRIES_MAX];

static struct peer_message message(enum peer_kind kind) { return (struct peer_message){.kind = kind, .group = 7, .from = 1, .to = 2, .term = 9}; }

static struct slice encoded(const struct peer_message *m) {
    struct writer w = writer_of(bytes, sizeof bytes);
    assert_true(peer_encode(m, &w));
    assert_int_equal(w.len, peer_encoded_bytes(m));
    return writer_slice(&w);
}

/* After a change of our own: the checksum is right again, so that it is the field that is refused. */
static struct slice sealed(size_t len) {
    uint32_t crc = crc32c(0, bytes, 12);
    put_le32(bytes + 12, crc32c(crc, bytes + 16, len - 16));
    return slice_of(bytes, len);
}

static struct peer_message vote(void) {
    struct peer_message m = message(PEER_VOTE);
    m.vote.last_index = 11, m.vote.last_term = 8, m.vote.pre_vote = true, m.vote.disrupt = true;
    return m;
}
static struct peer_message vote_result(void) {
    struct peer_message m = message(PEER_VOTE_RESULT);
    m.vote_result.granted = true;
    return m;
}
static const struct peer_entry two[] = {{8, 1, {(const uint8_t *)"first", 5}}, {9, 2, {NULL, 0}}};
static struct peer_message append(void) {
    struct peer_message m = message(PEER_APPEND);
    m.append.prev_index = 10, m.append.prev_term = 7, m.append.commit = 9, m.append.entries = two, m.append.count = 2;
    return m;
}
static struct peer_message append_result(void) {
    struct peer_message m = message(PEER_APPEND_RESULT);
    m.append_result.rejected = 10, m.append_result.last_index = 4;
    return m;
}
static struct peer_message snapshot(void) {
    struct peer_message m = message(PEER_SNAPSHOT);
    m.snapshot.index = 100, m.snapshot.index_term = 6, m.snapshot.members_index = 2, m.snapshot.members = SLICE_LIT("members");
    return m;
}
static struct peer_message timeout_now(void) {
    struct peer_message m = message(PEER_TIMEOUT_NOW);
    m.timeout_now.last_index = 12, m.timeout_now.last_term = 9;
    return m;
}

static struct peer_message fetch(void) {
    struct peer_message m = message(PEER_FETCH);
    m.fetch.session = 77, m.fetch.offset = 4096, m.fetch.bytes = 1000;
    return m;
}
static struct peer_message chunk(void) {
    struct peer_message m = message(PEER_CHUNK);
    m.chunk.session = 77, m.chunk.total = 5000, m.chunk.offset = 4096, m.chunk.state = PEER_CHUNK_DATA, m.chunk.data = SLICE_LIT("rows");
    return m;
}

static struct peer_message back(void) {
    struct peer_message m = message(PEER_RETURN);
    m.back.nonce = 0xfeedfacecafebeef, m.back.last_index = 40;
    return m;
}
static struct peer_message returned(void) {
    struct peer_message m = message(PEER_RETURNED);
    m.returned.nonce = 0xfeedfacecafebeef, m.returned.last_index = 41, m.returned.phase = PEER_ACTING, m.returned.leads = true, m.returned.members_index = 39;
    return m;
}
static struct peer_message round_of(enum peer_kind kind) {
    static uint8_t places[2 * PEER_PLACE_BYTES];
    struct peer_message m = {.kind = kind, .from = 1, .to = 2, .round = {77, slice_of(places, sizeof places)}};
    peer_place_put(places, (struct peer_place){7, 9, kind == PEER_SO_FAR ? 40 : 0});
    peer_place_put(places + PEER_PLACE_BYTES, (struct peer_place){8, 3, kind == PEER_SO_FAR ? 41 : 0});
    return m;
}

static void test_each_kind_has_golden_bytes(void **state) {
    struct peer_message m = vote();
    assert_golden("peer_vote", encoded(&m));
    m = vote_result(), assert_golden("peer_vote_result", encoded(&m));
    m = append(), assert_golden("peer_append", encoded(&m));
    m = append_result(), assert_golden("peer_append_result", encoded(&m));
    m = snapshot(), assert_golden("peer_snapshot", encoded(&m));
    m = timeout_now(), assert_golden("peer_timeout_now", encoded(&m));
    m = fetch(), assert_golden("peer_fetch", encoded(&m));
    m = chunk(), assert_golden("peer_chunk", encoded(&m));
    m = back(), assert_golden("peer_return", encoded(&m));
    m = returned(), assert_golden("peer_returned", encoded(&m));
    m = round_of(PEER_CONFIRM), assert_golden("peer_confirm", encoded(&m));
    m = round_of(PEER_CONFIRMED), assert_golden("peer_confirmed", encoded(&m));
    m = round_of(PEER_HOW_FAR), assert_golden("peer_how_far", encoded(&m));
    m = round_of(PEER_SO_FAR), assert_golden("peer_so_far", encoded(&m));
}

static void test_each_kind_comes_back(void **state) {
    struct peer_message m = vote(), d;
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.kind == PEER_VOTE && d.group == 7 && d.from == 1 && d.to == 2 && d.term == 9);
    assert_true(d.vote.last_index == 11 && d.vote.last_term == 8 && d.vote.pre_vote && d.vote.disrupt);
    m = vote_result();
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.vote_result.granted && !d.vote_result.pre_vote);
    m = append();
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.append.prev_index == 10 && d.append.prev_term == 7 && d.append.commit == 9 && d.append.count == 2);
    assert_true(d.append.entries[0].term == 8 && d.append.entries[0].type == 1 && d.append.entries[1].term == 9 && d.append.entries[1].type == 2);
    assert_slice(d.append.entries[0].data, "first");
    assert_int_equal(d.append.entries[1].data.len, 0);
    m = append_result();
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.append_result.rejected == 10 && d.append_result.last_index == 4);
    m = snapshot();
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.snapshot.index == 100 && d.snapshot.index_term == 6 && d.snapshot.members_index == 2);
    assert_slice(d.snapshot.members, "members");
    m = timeout_now();
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    assert_true(d.timeout_now.last_index == 12 && d.timeout_now.last_term == 9);
    m = fetch();
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    assert_true(d.fetch.session == 77 && d.fetch.offset == 4096 && d.fetch.bytes == 1000);
    assert_int_equal(peer_frame_kind(encoded(&m)), PEER_FETCH);
    m = chunk();
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    assert_true(d.chunk.session == 77 && d.chunk.total == 5000 && d.chunk.offset == 4096 && d.chunk.state == PEER_CHUNK_DATA);
    assert_slice(d.chunk.data, "rows");
    m.chunk = (__typeof__(m.chunk)){.session = 77, .state = PEER_CHUNK_GONE};
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    assert_true(d.chunk.state == PEER_CHUNK_GONE && d.chunk.data.len == 0);
    m = back();
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    assert_true(d.back.nonce == 0xfeedfacecafebeef && d.back.last_index == 40);
    m = returned();
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    assert_true(d.returned.nonce == 0xfeedfacecafebeef && d.returned.last_index == 41 && d.returned.phase == PEER_ACTING && d.returned.leads && d.returned.members_index == 39);
    for (enum peer_kind kind = PEER_CONFIRM; kind <= PEER_SO_FAR; kind++) {
        m = round_of(kind);
        assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
        assert_true(d.kind == kind && d.round.round == 77 && peer_places_count(&d) == 2);
        struct peer_place second = peer_place_at(&d, 1);
        assert_true(second.group == 8 && second.term == 3 && second.index == (kind == PEER_SO_FAR ? 41 : 0));
    }
}

static void test_any_flipped_bit_is_seen(void **state) {
    struct peer_message m = append(), d;
    size_t n = encoded(&m).len;
    for (size_t bit = 0; bit < n * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(peer_decode(slice_of(bytes, n), &d, decoded), STATUS_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(peer_decode(slice_of(bytes, n), &d, decoded), STATUS_OK);
}

static void test_any_cut_or_lengthened_frame_is_refused(void **state) {
    struct peer_message m = append(), d;
    size_t n = encoded(&m).len;
    for (size_t len = 0; len < n; len++) assert_int_equal(peer_decode(slice_of(bytes, len), &d, decoded), STATUS_FIELD_INVALID);
    assert_int_equal(peer_decode(slice_of(bytes, n + 1), &d, decoded), STATUS_FIELD_INVALID);
    for (size_t len = PEER_HEAD_BYTES; len < n; len++) { /* a length and a checksum that fit do not help */
        encoded(&m);
        put_le32(bytes + 8, (uint32_t)len);
        assert_int_equal(peer_decode(sealed(len), &d, decoded), STATUS_FIELD_INVALID);
    }
}

static void test_another_format_is_unknown(void **state) {
    struct peer_message m = vote(), d;
    uint32_t length;
    size_t n = encoded(&m).len;
    bytes[4] = 2;
    assert_int_equal(peer_decode(sealed(n), &d, decoded), STATUS_FORMAT_UNKNOWN);
    assert_int_equal(peer_frame_length(slice_of(bytes, n), &length), STATUS_FORMAT_UNKNOWN);
}

/* One byte or number changed, everything else as it should be. */
static void refuse_u64(struct peer_message m, size_t at, uint64_t value) {
    struct peer_message d;
    size_t n = encoded(&m).len;
    put_le64(bytes + at, value);
    assert_int_equal(peer_decode(sealed(n), &d, decoded), STATUS_FIELD_INVALID);
}
static void refuse_u8(struct peer_message m, size_t at, uint8_t value) {
    struct peer_message d;
    size_t n = encoded(&m).len;
    bytes[at] = value;
    assert_int_equal(peer_decode(sealed(n), &d, decoded), STATUS_FIELD_INVALID);
}

static void test_every_field_is_bounded(void **state) {
    enum { BODY = PEER_HEAD_BYTES };
    refuse_u8(vote(), 5, 0), refuse_u8(vote(), 5, 15), refuse_u8(vote(), 6, 1);
    refuse_u64(vote(), 24, 0), refuse_u64(vote(), 32, 0), refuse_u64(vote(), 32, 1); /* from, to, to oneself */
    refuse_u64(vote(), 40, 0), refuse_u64(vote(), 40, PEER_NUMBER_MAX + 1);
    refuse_u64(vote(), BODY, 0), refuse_u64(vote(), BODY, PEER_NUMBER_MAX + 1), refuse_u64(vote(), BODY + 8, 0), refuse_u64(vote(), BODY + 8, 10);
    refuse_u8(vote(), BODY + 16, 4), refuse_u8(vote(), BODY + 17, 1), refuse_u8(vote_result(), BODY, 4), refuse_u8(vote_result(), BODY + 7, 1);
    refuse_u64(append(), BODY, 0), refuse_u64(append(), BODY, PEER_NUMBER_MAX), refuse_u64(append(), BODY + 8, 0), refuse_u64(append(), BODY + 8, 10);
    refuse_u64(append(), BODY + 16, PEER_NUMBER_MAX + 1);
    refuse_u8(append(), BODY + 24, 1), refuse_u8(append(), BODY + 24, 3), refuse_u8(append(), BODY + 28, 1); /* count, zeros */
    enum { ENTRY = BODY + 32, SECOND = ENTRY + PEER_ENTRY_HEAD_BYTES + 5 };
    refuse_u64(append(), ENTRY, 6), refuse_u64(append(), ENTRY, 10), refuse_u64(append(), SECOND, 7); /* terms that go back, or pass the message's */
    refuse_u8(append(), ENTRY + 8, 200), refuse_u8(append(), ENTRY + 12, 0), refuse_u8(append(), ENTRY + 12, 4), refuse_u8(append(), ENTRY + 13, 1);
    refuse_u8(append(), SECOND + 12, PEER_TYPE_MEMBERS); /* a membership entry in company */
    refuse_u64(append_result(), BODY, PEER_NUMBER_MAX + 1), refuse_u64(append_result(), BODY + 8, PEER_NUMBER_MAX + 1);
    refuse_u64(snapshot(), BODY, 0), refuse_u64(snapshot(), BODY + 8, 0), refuse_u64(snapshot(), BODY + 8, 10), refuse_u64(snapshot(), BODY + 16, 0);
    refuse_u64(snapshot(), BODY + 16, 101), refuse_u8(snapshot(), BODY + 24, 8), refuse_u8(snapshot(), BODY + 25, 1), refuse_u8(snapshot(), BODY + 28, 1);
    refuse_u64(fetch(), BODY, PEER_NUMBER_MAX + 1), refuse_u64(fetch(), BODY + 8, PEER_NUMBER_MAX + 1), refuse_u64(fetch(), BODY + 16, 0), refuse_u64(fetch(), BODY + 16, PEER_CHUNK_BYTES_MAX + 1);
    refuse_u8(fetch(), BODY + 20, 1);
    refuse_u64(chunk(), BODY, 0), refuse_u64(chunk(), BODY + 8, 0), refuse_u64(chunk(), BODY + 8, 4099), refuse_u64(chunk(), BODY + 16, 4997); /* past the end */
    refuse_u8(chunk(), BODY + 24, 3), refuse_u8(chunk(), BODY + 28, 0), refuse_u8(chunk(), BODY + 28, 4), refuse_u8(chunk(), BODY + 28, PEER_CHUNK_WAIT), refuse_u8(chunk(), BODY + 29, 1);
    refuse_u64(back(), BODY + 8, PEER_NUMBER_MAX + 1), refuse_u64(returned(), BODY + 8, PEER_NUMBER_MAX + 1), refuse_u8(returned(), BODY + 16, 0), refuse_u8(returned(), BODY + 16, 6);
    refuse_u8(returned(), BODY + 16, PEER_GONE); /* who says so leads, and does not say it by this */
    refuse_u8(returned(), BODY + 17, 2), refuse_u8(returned(), BODY + 16, PEER_RETURNING), refuse_u8(returned(), BODY + 18, 1), refuse_u64(returned(), BODY + 24, 0), refuse_u64(returned(), BODY + 24, PEER_NUMBER_MAX + 1); /* who returns does not lead */
    enum { PLACE = BODY + 8, NEXT = PLACE + PEER_PLACE_BYTES };
    for (enum peer_kind kind = PEER_CONFIRM; kind <= PEER_SO_FAR; kind++) {
        refuse_u64(round_of(kind), 16, 1), refuse_u64(round_of(kind), 40, 1), refuse_u64(round_of(kind), BODY, 0), refuse_u64(round_of(kind), BODY, PEER_NUMBER_MAX + 1); /* a group and a term in the head */
        refuse_u64(round_of(kind), PLACE, 0), refuse_u64(round_of(kind), NEXT + 8, 0), refuse_u64(round_of(kind), NEXT + 8, PEER_NUMBER_MAX + 1);
        refuse_u64(round_of(kind), NEXT + 16, kind == PEER_SO_FAR ? 0 : 1);
    }
    refuse_u64(timeout_now(), BODY, 0), refuse_u64(timeout_now(), BODY + 8, 0), refuse_u64(timeout_now(), BODY + 8, 10);
}

static void test_a_membership_entry_alone_is_fine(void **state) {
    struct peer_entry alone = {9, PEER_TYPE_MEMBERS, SLICE_LIT("x")};
    struct peer_message m = append(), d;
    m.append.entries = &alone, m.append.count = 1;
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
}

static void test_what_does_not_fit_is_not_encoded(void **state) {
    struct peer_message m = append();
    uint8_t small[64];
    struct writer w = writer_of(small, sizeof small);
    assert_false(peer_encode(&m, &w));
    assert_int_equal(w.len, 0);
    struct peer_entry huge[3];
    for (int i = 0; i < 3; i++) huge[i] = (struct peer_entry){9, 1, slice_of(bytes, PEER_ENTRY_BYTES_MAX)}; /* only its length is read */
    m.append.entries = huge, m.append.count = 3;
    assert_int_equal(peer_encoded_bytes(&m), 0);
    w = writer_of(bytes, sizeof bytes);
    assert_false(peer_encode(&m, &w));
}

static void test_too_many_entries_are_refused(void **state) {
    static struct peer_entry many[PEER_ENTRIES_MAX + 1];
    struct peer_message m = append(), d;
    for (size_t i = 0; i < ARRAY_LEN(many); i++) many[i] = (struct peer_entry){9, 1, {NULL, 0}};
    m.append.entries = many, m.append.count = PEER_ENTRIES_MAX;
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_OK);
    m.append.count = PEER_ENTRIES_MAX + 1;
    assert_int_equal(peer_decode(encoded(&m), &d, decoded), STATUS_FIELD_INVALID);
}

static void test_a_round_has_some_places_and_not_too_many(void **state) {
    static uint8_t places[(PEER_PLACES_MAX + 1) * PEER_PLACE_BYTES];
    struct peer_message m = round_of(PEER_CONFIRM), d;
    for (size_t i = 0; i <= PEER_PLACES_MAX; i++) peer_place_put(places + i * PEER_PLACE_BYTES, (struct peer_place){i + 1, 1, 0});
    m.round.places = slice_of(places, PEER_PLACES_MAX * PEER_PLACE_BYTES);
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_OK);
    m.round.places.len += PEER_PLACE_BYTES;
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_FIELD_INVALID);
    m.round.places.len = 0;
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_FIELD_INVALID);
    m.round.places.len = PEER_PLACE_BYTES + 8;
    assert_int_equal(peer_decode(encoded(&m), &d, NULL), STATUS_FIELD_INVALID);
}

static void test_a_stream_tells_where_a_frame_ends(void **state) {
    struct peer_message m = append();
    uint32_t length;
    struct slice s = encoded(&m);
    for (size_t n = 0; n < 12; n++) assert_int_equal(peer_frame_length(slice_of(bytes, n), &length), STATUS_WOULD_BLOCK);
    assert_int_equal(peer_frame_length(slice_of(bytes, 12), &length), STATUS_OK);
    assert_int_equal(length, s.len);
    put_le32(bytes + 8, PEER_HEAD_BYTES - 1);
    assert_int_equal(peer_frame_length(slice_of(bytes, 12), &length), STATUS_FIELD_INVALID);
    put_le32(bytes + 8, PEER_FRAME_BYTES_MAX + 1);
    assert_int_equal(peer_frame_length(slice_of(bytes, 12), &length), STATUS_FIELD_INVALID);
    bytes[0] = 'X';
    assert_int_equal(peer_frame_length(slice_of(bytes, 12), &length), STATUS_FIELD_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_has_golden_bytes),
        cmocka_unit_test(test_each_kind_comes_back),
        cmocka_unit_test(test_any_flipped_bit_is_seen),
        cmocka_unit_test(test_any_cut_or_lengthened_frame_is_refused),
        cmocka_unit_test(test_another_format_is_unknown),
        cmocka_unit_test(test_every_field_is_bounded),
        cmocka_unit_test(test_a_membership_entry_alone_is_fine),
        cmocka_unit_test(test_what_does_not_fit_is_not_encoded),
        cmocka_unit_test(test_too_many_entries_are_refused), cmocka_unit_test(test_a_round_has_some_places_and_not_too_many),
        cmocka_unit_test(test_a_stream_tells_where_a_frame_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
