/* proto/scan.h: what unpacking may cost, and what protobuf-c does not check. */
#include "tests/lib/test.h"

#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "proto/scan.h"

static struct arena arena;
static struct failure f;
static uint8_t wire[4 << 20];

static int setup(void **state) {
    arena_init(&arena, 64 * MIB);
    failure_init(&f, &arena);
    return 0;
}
static int teardown(void **state) {
    arena_fini(&arena);
    return 0;
}

static enum status scan(const ProtobufCMessageDescriptor *type, struct slice w) {
    size_t bytes;
    arena_reset(&arena);
    failure_init(&f, &arena);
    return scan_message(type, w, &scan_limits_default, &bytes, &f);
}
static enum status scan_hex(const ProtobufCMessageDescriptor *type, const char *hex) { return scan(type, slice_of(wire, test_unhex(hex, wire, sizeof wire))); }
#define expect_violation(st, want, path) (assert_int_equal((st), (want)), assert_non_null(f.violations), assert_string_equal(f.violations->field, (path)))

#define CREATE (&orderdb__v1__create_order_request__descriptor)

static void a_real_order_unpacks(void **state) {
    Orderdb__V1__CreateOrderRequest q = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    Orderdb__V1__Order o = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__OrderItem item = ORDERDB__V1__ORDER_ITEM__INIT, *items[3] = {&item, &item, &item};
    Orderdb__V1__Money money = ORDERDB__V1__MONEY__INIT;
    Orderdb__V1__Order__AttributesEntry e = ORDERDB__V1__ORDER__ATTRIBUTES_ENTRY__INIT, *entries[1] = {&e};
    money.currency_code = "CNY", money.minor_units = 5;
    item.sku_id = "sku", item.title = "\xe9\x9b\xa8\xe4\xbc\x9e", item.quantity = 1, item.unit_price = &money;
    o.user_id = "u1", o.items = items, o.n_items = 3, o.payable = &money, e.key = "k", e.value = "v", o.attributes = entries, o.n_attributes = 1;
    q.order = &o;
    size_t n = orderdb__v1__create_order_request__pack(&q, wire);
    Orderdb__V1__CreateOrderRequest *m = (void *)scan_unpack(CREATE, slice_of(wire, n), &scan_limits_default, &f);
    assert_non_null(m);
    assert_int_equal(f.status, STATUS_OK);
    assert_string_equal(m->order->items[2]->title, item.title);
    assert_string_equal(m->order->attributes[0]->value, "v");
}

static void nothing_is_a_message_too(void **state) {
    assert_non_null(scan_unpack(CREATE, (struct slice){0}, &scan_limits_default, &f));
}

static void paths_name_the_field(void **state) {
    /* order { items {} items { title: 0xff } } */
    expect_violation(scan_hex(CREATE, "0a 08 a20100 a20103 1201ff"), STATUS_FIELD_INVALID, "order");
    expect_violation(scan_hex(CREATE, "0a 09 a20100 a20103 1201ff"), STATUS_FIELD_INVALID, "order.items[1].title");
    /* order { attributes { key: "k" } attributes { value: 0xff } } */
    expect_violation(scan_hex(CREATE, "0a 0c c20203 0a016b c20203 1201ff"), STATUS_FIELD_INVALID, "order.attributes[1].value");
    expect_violation(scan_hex(CREATE, "08"), STATUS_FIELD_INVALID, "CreateOrderRequest");
}

static void texts_are_utf8_without_nul(void **state) {
    expect_violation(scan_hex(&orderdb__v1__list_orders_request__descriptor, "0a 03 610062"), STATUS_FIELD_INVALID, "user_id");
    expect_violation(scan_hex(&orderdb__v1__list_orders_request__descriptor, "12 02 c080"), STATUS_FIELD_INVALID, "statuses[0]");
    assert_int_equal(scan_hex(&orderdb__v1__list_orders_request__descriptor, "12 00 12 03 e282ac"), STATUS_OK);
    /* bytes may be anything: order.extension */
    assert_int_equal(scan_hex(CREATE, "0a 05 ca0202 00ff"), STATUS_OK);
}

static void utf8_table(void **state) {
    const char *const good[] = {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf",
                                "0123456789abcdef\xe2\x82\xac"};
    const char *const bad[] = {"\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                               "\xf5\x80\x80\x80", "\xff", "\xe2\x28\xa1", "01234567\xe2\x82", "\xf0\x90\x80\x41"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) assert_true(utf8_valid(slice_str(good[i])));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) assert_false(utf8_valid(slice_str(bad[i])));
}

static void singular_messages_come_once(void **state) {
    expect_violation(scan_hex(CREATE, "0a00 0a00"), STATUS_FIELD_INVALID, "order");
    /* a singular scalar or text may: the last one wins, as everywhere */
    assert_int_equal(scan_hex(&orderdb__v1__list_orders_request__descriptor, "0a0161 0a0162 2801 2802"), STATUS_OK);
}

static void wire_types_match_and_groups_are_refused(void **state) {
    expect_violation(scan_hex(CREATE, "08 01"), STATUS_FIELD_INVALID, "order");
    expect_violation(scan_hex(CREATE, "0b 0c"), STATUS_FIELD_INVALID, "CreateOrderRequest");
    expect_violation(scan_hex(CREATE, "9b06 9c06"), STATUS_FIELD_INVALID, "CreateOrderRequest"); /* an unknown group */
    expect_violation(scan_hex(CREATE, "9e06"), STATUS_FIELD_INVALID, "CreateOrderRequest");
    expect_violation(scan_hex(CREATE, "0001"), STATUS_FIELD_INVALID, "CreateOrderRequest");
}

static void packed_numbers(void **state) {
    const ProtobufCMessageDescriptor *type = &orderdb__v1__batch_get_orders_request__descriptor;
    assert_int_equal(scan_hex(type, "0a 03 018001 08 05 0a 00"), STATUS_OK);
    expect_violation(scan_hex(type, "0a 02 0180"), STATUS_FIELD_INVALID, "order_ids[0]");
    expect_violation(scan_hex(type, "0d 00000000"), STATUS_FIELD_INVALID, "order_ids[0]");
    expect_violation(scan_hex(type, "0a 02 0102 0803 0d 00000000"), STATUS_FIELD_INVALID, "order_ids[3]");
    failure_init(&f, &arena);
    Orderdb__V1__BatchGetOrdersRequest *m = (void *)scan_unpack(type, slice_of(wire, test_unhex("0a 03 018001 08 05", wire, sizeof wire)), &scan_limits_default, &f);
    assert_non_null(m);
    assert_int_equal(m->n_order_ids, 3);
    assert_int_equal(m->order_ids[1], 128);
    assert_int_equal(m->order_ids[2], 5);
}

static void unknown_enum_values_are_fine(void **state) { assert_int_equal(scan_hex(&orderdb__v1__read_options__descriptor, "18 63"), STATUS_OK); }

static void unknown_fields_are_fine_up_to_a_limit(void **state) {
    assert_int_equal(scan_hex(CREATE, "9806 01 a206 03 616263 a506 00000000"), STATUS_OK);
    memset(wire, 0, 66000);
    struct writer w = writer_of(wire, sizeof wire);
    pb_tag(&w, 100, PB_LEN), write_varint(&w, 65532), writer_claim(&w, 65532); /* and 5 bytes of tag and length */
    assert_int_equal(scan(CREATE, writer_slice(&w)), STATUS_LIMIT_EXCEEDED);
    w.len = 0;
    pb_tag(&w, 100, PB_LEN), write_varint(&w, 65531), writer_claim(&w, 65531);
    assert_int_equal(scan(CREATE, writer_slice(&w)), STATUS_OK);
}

/* Finding 7: 9,000 levels in 30 KB overflow the stack of a parser. google.protobuf.Struct-like nesting is not in our contract, so the depth limit is
 * tried on order -> items -> unit_price with a limit of two. */
static void nesting_is_bounded(void **state) {
    struct scan_limits limits = scan_limits_default;
    size_t bytes;
    struct slice w = slice_of(wire, test_unhex("0a 05 a20102 2200", wire, sizeof wire));
    limits.depth_max = 4;
    assert_int_equal(scan_message(CREATE, w, &limits, &bytes, &f), STATUS_OK);
    limits.depth_max = 3;
    expect_violation(scan_message(CREATE, w, &limits, &bytes, &f), STATUS_LIMIT_EXCEEDED, "order.items[0].unit_price");
}

static void four_mib_of_empty_messages_are_refused(void **state) {
    struct writer w = writer_of(wire, sizeof wire);
    for (size_t i = 0; i < (4 << 20) / 2 - 8; i++) pb_message(&w, 1, NULL, 0);
    expect_violation(scan(&orderdb__v1__batch_create_orders_request__descriptor, writer_slice(&w)), STATUS_LIMIT_EXCEEDED, "requests[65536]");
}

static enum status begun(size_t n) {
    arena_reset(&arena);
    failure_init(&f, &arena);
    return scan_begun(CREATE, slice_of(wire, n), &scan_limits_default, &f);
}

static void what_begins_well_is_no_violation(void **state) {
    /* order { items { title: two bytes } items { unit_price { currency_code, minor_units } } attributes { "k": "v" } }, unknown */
    size_t n = test_unhex("0a 1d a20104 1202c3a9 a2010a 2208 0a03434e59 10 8002 c20206 0a016b 120176 f23e02 0102", wire, sizeof wire);
    assert_true(n > 30);
    for (size_t i = 0; i <= n; i++) assert_int_equal(begun(i), STATUS_OK);
    n = test_unhex("ffff ff", wire, sizeof wire); /* not even a tag: told when it is whole */
    assert_int_equal(begun(n), STATUS_OK);
}

static void a_violation_shows_before_the_message_is_whole(void **state) {
    struct writer w = writer_of(wire, sizeof wire);
    pb_tag(&w, 1, PB_LEN), write_varint(&w, 4000000);
    for (size_t i = 0; i < 65536 + 2; i++) pb_message(&w, 20, NULL, 0);
    assert_int_equal(begun(w.len - 12), STATUS_OK); /* the order and 65,535 items */
    expect_violation(begun(w.len), STATUS_LIMIT_EXCEEDED, "order.items[65535]");
    /* What is whole in it is judged: an item with a bad text, and a second order. */
    expect_violation(begun(test_unhex("0a 64 a20103 1201ff", wire, sizeof wire)), STATUS_FIELD_INVALID, "order.items[0].title");
    expect_violation(begun(test_unhex("0a 00 0a 64", wire, sizeof wire)), STATUS_FIELD_INVALID, "order");
    /* nested, and every level is open */
    struct scan_limits limits = scan_limits_default;
    limits.depth_max = 3;
    size_t n = test_unhex("0a 64 a20132 2210 0a03", wire, sizeof wire);
    assert_int_equal(begun(n), STATUS_OK);
    expect_violation(scan_begun(CREATE, slice_of(wire, n), &limits, &f), STATUS_LIMIT_EXCEEDED, "order.items[0].unit_price");
}

static void repeated_singular_fields_are_refused(void **state) {
    struct writer w = writer_of(wire, sizeof wire);
    for (size_t i = 0; i < 1000000; i++) pb_int64(&w, 5, 1);
    expect_violation(scan(&orderdb__v1__list_orders_request__descriptor, writer_slice(&w)), STATUS_LIMIT_EXCEEDED, "page_size");
}

static void the_estimate_is_bounded(void **state) {
    struct scan_limits limits = scan_limits_default;
    limits.unpacked_bytes_max = 100000;
    struct writer w = writer_of(wire, sizeof wire);
    for (int i = 0; i < 5000; i++) pb_bytes(&w, 2, SLICE_LIT("x"));
    size_t bytes;
    assert_int_equal(scan_message(&orderdb__v1__list_orders_request__descriptor, writer_slice(&w), &limits, &bytes, &f), STATUS_LIMIT_EXCEEDED);
    assert_memory_equal(f.violations->field, "statuses[", 9);
    assert_in_range(bytes, 100001, 110000 + 4096 * 32); /* stopped at once, at a slab of members at the worst */
}

/* What a call's arena may hold while it decodes (server/call.c, 24 x message) rests on this. */
static void the_heaviest_legal_orders_unpack_to_less_than_twenty_times_their_wire(void **state) {
    static uint8_t item_bytes[1 << 12], order_bytes[1 << 20];
    for (int attributes = 0; attributes <= 64; attributes++) {
        struct writer item = writer_of(item_bytes, sizeof item_bytes), order = writer_of(order_bytes, sizeof order_bytes), w = writer_of(wire, sizeof wire);
        struct slice money = SLICE_LIT("\x0a\x03" "CNY\x10\x01"), entry = SLICE_LIT("\x0a\x01k\x12\x01v");
        pb_bytes(&item, 1, SLICE_LIT("s")), pb_int64(&item, 3, 1), pb_message(&item, 4, &money, 1);
        for (int i = 0; i < attributes; i++) pb_message(&item, 7, &entry, 1);
        struct slice item_wire = writer_slice(&item);
        for (int i = 0; i < 500; i++) pb_message(&order, 20, &item_wire, 1);
        struct slice order_wire = writer_slice(&order);
        pb_message(&w, 1, &order_wire, 1);
        size_t bytes;
        assert_int_equal(scan_message(CREATE, writer_slice(&w), &scan_limits_default, &bytes, &f), STATUS_OK);
        assert_in_range(bytes, 1, 20 * w.len);
    }
}

/* The arena is the last word. */
static void a_small_arena_fails_the_call(void **state) {
    struct arena small;
    struct failure g;
    arena_init(&small, 16 * KIB);
    failure_init(&g, &small);
    struct writer w = writer_of(wire, sizeof wire);
    for (int i = 0; i < 5000; i++) pb_bytes(&w, 2, SLICE_LIT("x"));
    assert_null(scan_unpack(&orderdb__v1__list_orders_request__descriptor, writer_slice(&w), &scan_limits_default, &g));
    assert_int_equal(g.status, STATUS_MEMORY_LIMIT);
    arena_fini(&small);
}

static void memory_fails_at_every_step(void **state) {
    struct writer w = writer_of(wire, sizeof wire);
    for (int i = 0; i < 3000; i++) pb_bytes(&w, 2, SLICE_LIT("0123456789"));
    for (uint64_t n = 1; n < 20; n++) {
        struct arena a;
        struct failure g;
        arena_init(&a, 16 * MIB);
        failure_init(&g, &a);
        mem_fail_nth(n);
        ProtobufCMessage *m = scan_unpack(&orderdb__v1__list_orders_request__descriptor, writer_slice(&w), &scan_limits_default, &g);
        mem_fail_nth(0);
        assert_int_equal(m ? STATUS_OK : STATUS_MEMORY_LIMIT, g.status);
        arena_fini(&a);
    }
}

/* Every message type of the contract is within the scan's fixed tables: none of the walks panics. */
static void every_request_type_scans(void **state) {
    const ProtobufCServiceDescriptor *const services[] = {&orderdb__v1__order_service__descriptor, &orderdb__v1__stream_service__descriptor,
                                                          &orderdb__v1__admin_service__descriptor};
    for (size_t i = 0; i < ARRAY_LEN(services); i++)
        for (unsigned k = 0; k < services[i]->n_methods; k++) {
            assert_int_equal(scan(services[i]->methods[k].input, (struct slice){0}), STATUS_OK);
            assert_int_equal(scan(services[i]->methods[k].output, (struct slice){0}), STATUS_OK);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(a_real_order_unpacks),
        T(nothing_is_a_message_too),
        T(paths_name_the_field),
        T(texts_are_utf8_without_nul),
        T(utf8_table),
        T(singular_messages_come_once),
        T(wire_types_match_and_groups_are_refused),
        T(packed_numbers),
        T(unknown_enum_values_are_fine),
        T(unknown_fields_are_fine_up_to_a_limit),
        T(nesting_is_bounded),
        T(four_mib_of_empty_messages_are_refused),
        T(what_begins_well_is_no_violation),
        T(a_violation_shows_before_the_message_is_whole),
        T(repeated_singular_fields_are_refused),
        T(the_estimate_is_bounded),
        T(the_heaviest_legal_orders_unpack_to_less_than_twenty_times_their_wire),
        T(a_small_arena_fails_the_call),
        T(memory_fails_at_every_step),
        T(every_request_type_scans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
