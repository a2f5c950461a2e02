/* proto/grpc.h and proto/pbwire.h. */
#include "tests/lib/test.h"

#include "orderdb/v1/order.pb-c.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"

static void frames_have_a_flag_and_a_length(void **state) {
    uint8_t head[GRPC_FRAME_HEAD];
    bool compressed;
    uint32_t len;
    grpc_frame_head(head, 0x01020304);
    assert_string_equal(test_hex(slice_of(head, 5)), "0001020304");
    assert_true(grpc_frame_parse(head, &compressed, &len));
    assert_false(compressed);
    assert_int_equal(len, 0x01020304);
    head[0] = 1;
    assert_true(grpc_frame_parse(head, &compressed, &len));
    assert_true(compressed);
    head[0] = 2;
    assert_false(grpc_frame_parse(head, &compressed, &len));
}

static void timeouts_parse(void **state) {
    const struct { const char *text; uint64_t ns; } good[] = {
        {"20S", 20 * NS_PER_S}, {"150m", 150 * NS_PER_MS}, {"1H", 3600 * NS_PER_S}, {"2M", 120 * NS_PER_S}, {"7u", 7000}, {"0n", 0},
        {"99999999n", 99999999}, {"99999999H", INT64_MAX},
    };
    uint64_t ns;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_true(grpc_timeout_parse(slice_str(good[i].text), &ns));
        assert_true(ns == good[i].ns);
    }
    const char *const bad[] = {"", "S", "1", "1s", "-1S", "+1S", "1 S", "123456789S", "1SS", "0x1S", "1.5S"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) assert_false(grpc_timeout_parse(slice_str(bad[i]), &ns));
}

static void timeouts_format_and_come_back_no_shorter(void **state) {
    const uint64_t values[] = {0, 1, 99999999, 100000000, 5 * NS_PER_S, 123456789012345, INT64_MAX, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        char text[16];
        size_t n = grpc_timeout_format(values[i], text);
        uint64_t ns;
        assert_true(grpc_timeout_parse(slice_of(text, n), &ns));
        assert_true(ns >= MIN_OF(values[i], (uint64_t)INT64_MAX));
        assert_true(ns - MIN_OF(values[i], ns) <= values[i] / 1000);
    }
}

static void percent_encoding(void **state) {
    char out[64];
    size_t n = grpc_percent_encode(SLICE_LIT("50% of caf\xc3\xa9\n~"), out);
    assert_slice(slice_of(out, n), "50%25 of caf%C3%A9%0A~");
    char back[64];
    n = grpc_percent_decode(slice_of(out, n), back);
    assert_slice(slice_of(back, n), "50% of caf\xc3\xa9\n~");
    n = grpc_percent_decode(SLICE_LIT("%e9 %zz %4"), back);
    assert_slice(slice_of(back, n), "\xe9 %zz %4");
}

static void base64_vectors(void **state) { /* RFC 4648, section 10, less the padding */
    const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    const char *const coded[] = {"", "Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmE", "Zm9vYmFy"};
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        char out[16];
        uint8_t back[16];
        size_t n = base64_encode(slice_str(plain[i]), out);
        assert_slice(slice_of(out, n), coded[i]);
        n = base64_decode(slice_of(out, n), back);
        assert_slice(slice_of(back, n), plain[i]);
    }
    uint8_t back[16];
    assert_int_equal(base64_decode(SLICE_LIT("Zg=="), back), 1);
    assert_int_equal(base64_decode(SLICE_LIT("Zm8="), back), 2);
}

static void base64_knows_both_alphabets(void **state) {
    char out[8];
    uint8_t back[8];
    assert_slice(slice_of(out, base64_encode(SLICE_LIT("\xfb\xff\xfe"), out)), "+//+");
    assert_slice(slice_of(out, base64_encode_url(SLICE_LIT("\xfb\xff\xfe"), out)), "-__-");
    assert_int_equal(base64_decode(SLICE_LIT("-__-"), back), 3);
    assert_memory_equal(back, "\xfb\xff\xfe", 3);
    assert_int_equal(base64_decode(SLICE_LIT("+//+"), back), 3);
}

static void base64_refuses_what_no_encoder_writes(void **state) {
    const char *const bad[] = {"A", "AAAAA", "Zh", "Zm9", "Zg=", "Zg===", "=", "Z!==", "Zg==Zg==", "Z g=", "===="};
    uint8_t back[16];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) assert_true(base64_decode(slice_str(bad[i]), back) == SIZE_MAX);
}

/* ---- pbwire ---- */

static void writes_what_protobuf_writes(void **state) {
    uint8_t ours[512], theirs[512];
    Orderdb__V1__Order o = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__Money m = ORDERDB__V1__MONEY__INIT;
    Google__Protobuf__Timestamp t = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    o.order_id = 1234567890123, o.user_id = "u1", o.version = -1, o.archived = 1;
    m.currency_code = "CNY", m.minor_units = 1999, o.payable = &m;
    t.seconds = -1, t.nanos = 999999000, o.create_time = &t;
    struct writer w = writer_of(ours, sizeof ours);
    pb_int64(&w, 1, o.order_id);
    pb_bytes(&w, 2, slice_str(o.user_id));
    pb_bytes(&w, 3, SLICE_LIT(""));
    pb_int64(&w, 8, -1);
    uint8_t inner_bytes[32];
    struct writer inner = writer_of(inner_bytes, sizeof inner_bytes);
    pb_bytes(&inner, 1, SLICE_LIT("CNY"));
    struct slice parts[2] = {writer_slice(&inner), {0}};
    pb_int64(&inner, 2, 1999);
    parts[1] = slice_of(inner_bytes + parts[0].len, inner.len - parts[0].len);
    pb_message(&w, 13, parts, 2);
    pb_timestamp_us(&w, 30, -1);
    pb_bool(&w, 42, true);
    pb_bool(&w, 43, false);
    pb_int64(&w, 44, 0);
    size_t n = orderdb__v1__order__pack(&o, theirs);
    assert_false(w.full);
    assert_string_equal(test_hex(writer_slice(&w)), test_hex(slice_of(theirs, n)));
}

static void timestamps_floor(void **state) {
    const struct { int64_t us; const char *hex; } cases[] = {
        {0, "0a00"}, {1, "0a0310e807"}, {1000000, "0a020801"}, {-1000000, "0a0b08ffffffffffffffffff01"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t b[PB_TIMESTAMP_BYTES_MAX];
        struct writer w = writer_of(b, sizeof b);
        pb_timestamp_us(&w, 1, cases[i].us);
        assert_string_equal(test_hex(writer_slice(&w)), cases[i].hex);
    }
    uint8_t b[PB_TIMESTAMP_BYTES_MAX];
    struct writer w = writer_of(b, sizeof b);
    pb_timestamp_us(&w, PB_FIELD_NUMBER_MAX, INT64_MIN);
    assert_false(w.full);
}

static void walks_fields(void **state) {
    uint8_t b[64];
    struct reader r = reader_of(slice_of(b, test_unhex("08 9601  12 03 616263  1d 01000000  21 0200000000000000", b, sizeof b)));
    struct pb_field v;
    assert_true(pb_next(&r, &v));
    assert_int_equal(v.number, 1), assert_int_equal(v.value, 150);
    assert_true(pb_next(&r, &v));
    assert_int_equal(v.number, 2), assert_slice(v.bytes, "abc");
    assert_true(pb_next(&r, &v));
    assert_int_equal(v.number, 3), assert_int_equal(v.wire_type, PB_FIXED32), assert_int_equal(v.value, 1);
    assert_true(pb_next(&r, &v));
    assert_int_equal(v.number, 4), assert_int_equal(v.value, 2);
    assert_false(pb_next(&r, &v));
    assert_false(r.bad);
}

static void malformed_fields_stop_the_walk(void **state) {
    const char *const bad[] = {"0b", "0c", "0e", "0f", "00 01", "08", "0a 05 61", "0d 0000", "8080808080 01 00", "0a ffffffffffffffffff01"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint8_t b[32];
        struct reader r = reader_of(slice_of(b, test_unhex(bad[i], b, sizeof b)));
        struct pb_field v;
        assert_false(pb_next(&r, &v));
        assert_true(r.bad);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_have_a_flag_and_a_length),
        cmocka_unit_test(timeouts_parse),
        cmocka_unit_test(timeouts_format_and_come_back_no_shorter),
        cmocka_unit_test(percent_encoding),
        cmocka_unit_test(base64_vectors),
        cmocka_unit_test(base64_knows_both_alphabets),
        cmocka_unit_test(base64_refuses_what_no_encoder_writes),
        cmocka_unit_test(writes_what_protobuf_writes),
        cmocka_unit_test(timestamps_floor),
        cmocka_unit_test(walks_fields),
        cmocka_unit_test(malformed_fields_stop_the_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
