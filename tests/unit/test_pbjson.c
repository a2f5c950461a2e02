/* tools/pbjson.h: there and back, and every way to be wrong with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"
#include "tools/pbjson.h"

static const ProtobufCMessageDescriptor *const order_type = &orderdb__v1__order__descriptor;

/* text -> message -> text is `want` (or the text itself). */
static void round_trip(const ProtobufCMessageDescriptor *type, const char *text, const char *want) {
    struct arena a;
    char error[PBJSON_ERROR_BYTES];
    arena_init(&a, MIB);
    ProtobufCMessage *m = pbjson_parse(type, slice_str(text), &a, error);
    if (!m) fail_msg("%s: %s", text, error);
    char *out = pbjson_format(m, 0);
    assert_non_null(out);
    assert_string_equal(out, want ? want : text);
    mem_free(out);
    arena_fini(&a);
}
static void wrong(const ProtobufCMessageDescriptor *type, const char *text, const char *want) {
    struct arena a;
    char error[PBJSON_ERROR_BYTES];
    arena_init(&a, MIB);
    assert_null(pbjson_parse(type, slice_str(text), &a, error));
    if (!strstr(error, want)) fail_msg("%s: \"%s\", not \"%s\"", text, error, want);
    arena_fini(&a);
}

static void test_an_order_there_and_back(void **state) {
    round_trip(order_type,
               "{\"order_id\":\"9007199254740993\",\"user_id\":\"ann\",\"version\":\"3\",\"payable\":{\"currency_code\":\"CNY\",\"minor_units\":\"1999\"},"
               "\"items\":[{\"sku_id\":\"u1\",\"title\":\"\xe9\x9b\xa8\xe4\xbc\x9e\",\"quantity\":2,\"attributes\":{\"size\":\"L\"}},{}],"
               "\"create_time\":\"2026-11-23T06:33:35.250Z\",\"attributes\":{\"a\":\"1\",\"b\":\"2\"},\"extension\":\"AAH/\",\"archived\":true}",
               NULL);
    round_trip(order_type, "{}", NULL);
}

static void test_both_spellings_and_both_kinds_of_numbers(void **state) {
    round_trip(order_type, "{\"orderId\":7,\"clientOrderNo\":\"x\",\"itemsTotal\":{\"minorUnits\":-5}}", "{\"order_id\":\"7\",\"client_order_no\":\"x\",\"items_total\":{\"minor_units\":\"-5\"}}");
    round_trip(order_type, "{\"order_id\":\"7\",\"version\":2.0,\"user_id\":null,\"items\":[]}", "{\"order_id\":\"7\",\"version\":\"2\"}");
    round_trip(order_type, "{\"extension\":\"_-8\"}", "{\"extension\":\"/+8=\"}"); /* base64url is read as well */
}

static void test_enums_durations_masks_oneofs_maps(void **state) {
    round_trip(&orderdb__v1__read_options__descriptor, "{\"max_staleness\":\"1.500000000s\",\"view\":\"ORDER_VIEW_FULL\"}", NULL);
    round_trip(&orderdb__v1__read_options__descriptor, "{\"max_staleness\":\"-0.250s\",\"view\":2}", "{\"max_staleness\":\"-0.250000000s\",\"view\":\"ORDER_VIEW_FULL\"}");
    round_trip(&orderdb__v1__read_options__descriptor, "{\"view\":77}", NULL);
    round_trip(&orderdb__v1__update_order_request__descriptor, "{\"update_mask\":\"a,b.c\"}", NULL);
    round_trip(&orderdb__v1__resource__descriptor, "{\"limit\":{\"name\":\"x\",\"per_second\":2.5}}", NULL);
    round_trip(&orderdb__v1__list_orders_response__descriptor, "{\"status_counts\":{\"PAID\":\"3\",\"SHIPPED\":\"9\"}}", NULL);
    round_trip(&orderdb__v1__subscribe_request__descriptor, "{\"credit\":{}}", NULL); /* an empty member of a oneof is there */
}

/* What people write in files; the mapping itself knows seconds alone. */
static void test_durations_in_units(void **state) {
    static const struct { const char *text; int64_t seconds; int32_t nanos; } rows[] = {{"30m", 1800, 0}, {"1d12h", 129600, 0}, {"1h0m1.5s", 3601, 500000000}, {"-2m", -120, 0}};
    static const char *const bad[] = {"", "m", "1m1h", "1m1m", "1.5m", "1w", "1m ", "400000000000s"};
    char error[PBJSON_ERROR_BYTES], text[80];
    struct arena a;
    arena_init(&a, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        snprintf(text, sizeof text, "{\"after\":\"%s\"}", rows[i].text);
        const Orderdb__V1__StatusMachine__StateTimer *t = (void *)pbjson_parse(&orderdb__v1__status_machine__state_timer__descriptor, slice_str(text), &a, error);
        assert_non_null(t);
        assert_int_equal(t->after->seconds, rows[i].seconds);
        assert_int_equal(t->after->nanos, rows[i].nanos);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        snprintf(text, sizeof text, "{\"after\":\"%s\"}", bad[i]);
        assert_null(pbjson_parse(&orderdb__v1__status_machine__state_timer__descriptor, slice_str(text), &a, error));
    }
    arena_fini(&a);
}

static void test_errors_name_the_place(void **state) {
    wrong(order_type, "{\"items\":[{},{\"quantity\":\"two\"}]}", "items[1].quantity: not a whole number");
    wrong(order_type, "{\"items\":[{\"quantity\":3000000000}]}", "items[0].quantity: out of range");
    wrong(order_type, "{\"items\":[{\"qty\":1}]}", "items[0].qty: no such field");
    wrong(order_type, "{\"items\":{}}", "items: not an array");
    wrong(order_type, "{\"items\":[null]}", "items[0]: null in a list");
    wrong(order_type, "{\"attributes\":[]}", "attributes: not an object");
    wrong(order_type, "{\"attributes\":{\"k\":1}}", "attributes.k: not a string");
    wrong(order_type, "{\"user_id\":1}", "user_id: not a string");
    wrong(order_type, "{\"user_id\":\"a\\u0000b\"}", "holds a NUL");
    wrong(order_type, "{\"order_id\":\"9223372036854775808\"}", "order_id: not a whole number");
    wrong(order_type, "{\"order_id\":\" 7\"}", "order_id");
    wrong(order_type, "{\"order_id\":1.5}", "order_id");
    wrong(order_type, "{\"archived\":1}", "neither true nor false");
    wrong(order_type, "{\"extension\":\"***\"}", "not base64");
    wrong(order_type, "{\"create_time\":\"yesterday\"}", "not a time");
    wrong(order_type, "{\"payable\":5}", "payable: not an object");
    wrong(order_type, "[]", "not an object");
    wrong(order_type, "{\"user_id\":\"a\",\"user_id\":\"b\"}", "not JSON: line 1");
    wrong(order_type, "{\"user_id\":\"\xff\"}", "not JSON");
    wrong(order_type, "{", "not JSON");
    wrong(&orderdb__v1__read_options__descriptor, "{\"view\":\"NICE\"}", "not a name of this enum");
    wrong(&orderdb__v1__read_options__descriptor, "{\"max_staleness\":\"1w\"}", "not a duration");
    wrong(&orderdb__v1__resource__descriptor, "{\"limit\":{},\"role\":{}}", "excludes");
}

static void test_memory_may_run_out(void **state) {
    const char *text = "{\"user_id\":\"ann\",\"items\":[{\"sku_id\":\"u1\"}],\"attributes\":{\"a\":\"1\"},\"extension\":\"AAH/\"}";
    char error[PBJSON_ERROR_BYTES];
    for (uint64_t n = 1;; n++) {
        struct arena a;
        arena_init(&a, MIB);
        uint64_t before = mem_count();
        mem_fail_nth(n);
        ProtobufCMessage *m = pbjson_parse(order_type, slice_str(text), &a, error);
        char *out = m ? pbjson_format(m, 0) : NULL;
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        if (out) assert_string_equal(out, text);
        if (!m) assert_true(error[0]);
        mem_free(out);
        arena_fini(&a);
        if (!reached) break;
    }
    struct arena tiny;
    arena_init(&tiny, 64);
    assert_null(pbjson_parse(order_type, slice_str(text), &tiny, error));
    assert_non_null(strstr(error, "out of memory"));
    arena_fini(&tiny);
}

static void test_quote_and_has_key(void **state) {
    struct buf b = {0};
    assert_true(pbjson_quote(&b, "a\"b\n"));
    assert_int_equal(b.len, 8);
    assert_memory_equal(b.data, "\"a\\\"b\\n\"", 8);
    buf_fini(&b);
    assert_true(pbjson_has_key(SLICE_LIT("{\"order\":{}}"), "order"));
    assert_false(pbjson_has_key(SLICE_LIT("{\"orders\":{}}"), "order"));
    assert_false(pbjson_has_key(SLICE_LIT("nonsense"), "order"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_order_there_and_back), cmocka_unit_test(test_both_spellings_and_both_kinds_of_numbers),
        cmocka_unit_test(test_enums_durations_masks_oneofs_maps), cmocka_unit_test(test_errors_name_the_place), cmocka_unit_test(test_durations_in_units),
        cmocka_unit_test(test_memory_may_run_out), cmocka_unit_test(test_quote_and_has_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
