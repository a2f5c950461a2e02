/* engine/filter.h: what each rule of the language says of an event, and how a bad text is refused. What random filters say: test_filter_model.c. */
#include "tests/lib/test.h"

#include "engine/filter.h"
#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"

#define TEXT(s) ((char *)(uintptr_t)(s))

static struct arena arena;
static struct failure f;
static uint8_t event_bytes[4096];
static struct slice event;

static void event_make(void) {
    Orderdb__V1__ChangeEvent e = ORDERDB__V1__CHANGE_EVENT__INIT;
    Orderdb__V1__HistoryEntry entry = ORDERDB__V1__HISTORY_ENTRY__INIT;
    Google__Protobuf__FieldMask changed = GOOGLE__PROTOBUF__FIELD_MASK__INIT;
    Google__Protobuf__Timestamp commit = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    Orderdb__V1__Order o = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__Money payable = ORDERDB__V1__MONEY__INIT, price = ORDERDB__V1__MONEY__INIT;
    Orderdb__V1__OrderItem one = ORDERDB__V1__ORDER_ITEM__INIT, two = ORDERDB__V1__ORDER_ITEM__INIT, *items[] = {&one, &two};
    Orderdb__V1__Order__AttributesEntry color = ORDERDB__V1__ORDER__ATTRIBUTES_ENTRY__INIT, odd = ORDERDB__V1__ORDER__ATTRIBUTES_ENTRY__INIT, *attributes[] = {&color, &odd};
    Orderdb__V1__ShipmentRef shipment = ORDERDB__V1__SHIPMENT_REF__INIT, *shipments[] = {&shipment};
    char *skus[] = {TEXT("sku-1"), TEXT("sku-22")}, *paths[] = {TEXT("status"), TEXT("address")};
    color.key = TEXT("color"), color.value = TEXT("red"), odd.key = TEXT("gift wrap"), odd.value = TEXT("");
    price.currency_code = TEXT("CNY"), price.minor_units = 500;
    one.sku_id = TEXT("sku-1"), one.title = TEXT("a Blue umbrella"), one.quantity = 1, one.unit_price = &price;
    two.sku_id = TEXT("sku-22"), two.title = TEXT("\xe5\xa4\xa7\xe9\x9b\xa8\xe4\xbc\x9e"), two.quantity = 3;
    shipment.sku_ids = skus, shipment.n_sku_ids = 2;
    payable.currency_code = TEXT("CNY"), payable.minor_units = 1999;
    o.order_id = 4711, o.user_id = TEXT("alice"), o.merchant_id = TEXT("m7"), o.status = TEXT("PAID"), o.version = 2, o.payable = &payable, o.archived = true;
    o.items = items, o.n_items = 2, o.attributes = attributes, o.n_attributes = 2, o.shipments = shipments, o.n_shipments = 1;
    o.extension.data = (uint8_t *)TEXT("\1"), o.extension.len = 1;
    entry.version = 2, entry.event = TEXT("pay"), entry.from_status = TEXT("CREATED"), entry.to_status = TEXT("PAID");
    changed.paths = paths, changed.n_paths = 2;
    commit.seconds = 1790000000, commit.nanos = 500000000; /* 2026-09-21T14:13:20.5Z */
    e.event_id = TEXT("7:12"), e.slot = 7, e.seq = 12, e.type = ORDERDB__V1__CHANGE_EVENT__TYPE__TRANSITIONED, e.order_id = 4711, e.user_id = TEXT("alice"), e.merchant_id = TEXT("m7");
    e.entry = &entry, e.changed = &changed, e.after = &o, e.commit_time = &commit;
    event = slice_of(event_bytes, orderdb__v1__change_event__pack(&e, event_bytes));
}

static int setup(void **state) {
    arena_init(&arena, 16 * MIB);
    event_make();
    return 0;
}
static int teardown(void **state) {
    arena_fini(&arena);
    return 0;
}

static const struct filter *parse_as(const struct filter_schema *schema, const char *text) {
    const struct filter *out = NULL;
    failure_init(&f, &arena);
    enum status st = filter_parse(&out, slice_str(text), schema, "filter", &arena, &f);
    assert_int_equal(st, f.status);
    if (st) fail_msg("%s\n%s", text, f.message);
    return out;
}
static const struct filter *parse(const char *text) { return parse_as(&filter_events, text); }
static void yes(const char *text) {
    if (!filter_match(parse(text), event)) fail_msg("no match: %s", text);
}
static void no(const char *text) {
    if (filter_match(parse(text), event)) fail_msg("a match: %s", text);
}
static void prints(const char *text, const char *canonical) {
    const struct filter *first = parse(text);
    assert_slice(filter_print(first, &arena), canonical);
    assert_slice(filter_print(parse(canonical), &arena), canonical);
}

/* ---- what it says ---- */

static void nothing_is_everything(void **state) {
    yes(""), yes(" \t\r\n");
    assert_true(filter_is_empty(parse(" ")));
    assert_false(filter_is_empty(parse("slot=7")));
    assert_true(filter_match(parse(""), SLICE_LIT("\xff")));
    prints("  ", "");
}

static void texts(void **state) {
    yes("user_id = \"alice\""), yes("user_id='alice'"), yes("user_id=alice"), no("user_id = 'Alice'"), no("user_id='alic'");
    yes("user_id != 'bob'"), no("user_id!=alice");
    yes("user_id < 'alicf'"), yes("user_id <= 'alice'"), no("user_id < 'alice'"), yes("user_id > 'al'"), yes("user_id >= 'alice'"), no("user_id > 'alice'");
    yes("user_id < '\xe9\x9b\xa8'"); /* bytes, unsigned */
    yes("user_id IN ('bob', 'alice')"), yes("user_id IN(alice)"), no("user_id IN ('bob','carol','dave','erin')"), yes("user_id IN ('bob','carol','alice','dave','erin')");
    yes("traceparent = ''"), no("traceparent != ''"), yes("traceparent < 'a'");
    yes("event_id = \"7:12\"");
}

static void escapes(void **state) {
    prints("user_id = 'a\"b'", "user_id = \"a\\\"b\"");
    prints("user_id = \"it's\"", "user_id = \"it's\"");
    prints("user_id = 'a\\'b\\\\c\\n\\r\\t'", "user_id = \"a'b\\\\c\\n\\r\\t\"");
    prints("user_id = 'AND'", "user_id = \"AND\"");
    prints("user_id = \xe9\x9b\xa8", "user_id = \"\xe9\x9b\xa8\"");
}

static void numbers(void **state) {
    yes("slot = 7"), no("slot = 8"), yes("slot != 8"), yes("slot < 8"), no("slot < 7"), yes("slot <= 7"), yes("slot > -1"), yes("slot >= 7"), no("slot > 7");
    yes("slot IN (3, 7, 7)"), no("slot IN (-7)"), yes("seq:12"), yes("delivery_attempt = 0"), yes("seq < 9223372036854775807"), yes("seq > -9223372036854775808");
    yes("order_id = 4711"), yes("payable > 1000"), yes("payable = 1999"), yes("payable.minor_units = 1999"), yes("payable.currency_code = CNY"), no("payable > 1999");
}

static void booleans_and_enums(void **state) {
    yes("archived = true"), no("archived = false"), yes("archived != false"), yes("archived:true"), yes("archived IN (true, false)");
    yes("type = \"TRANSITIONED\""), yes("type = TRANSITIONED"), no("type = CREATED"), yes("type != CREATED"), yes("type IN (CREATED, \"TRANSITIONED\")"), yes("type:TRANSITIONED");
}

static void times_and_durations(void **state) {
    yes("commit_time > \"2026-09-21T14:13:20Z\""), yes("commit_time = '2026-09-21T22:13:20.5+08:00'"), no("commit_time > '2026-09-21T14:13:20.5Z'");
    yes("commit_time <= '2026-09-21T14:13:20.500000000Z'"), yes("commit_time < 2026-09-22"), yes("commit_time != '2026-09-21T14:13:20Z'");
    yes("commit_time IN ('2026-01-01', '2026-09-21T14:13:20.5Z')"), yes("commit_time:*"), no("entry.time:*");
    prints("commit_time<'2026-01-01T08:00:00+08:00'", "commit_time < \"2026-01-01T00:00:00Z\"");
    const struct filter_schema groups = {&orderdb__v1__consumer_group__descriptor, (const char *const[]){NULL}};
    Orderdb__V1__ConsumerGroup g = ORDERDB__V1__CONSUMER_GROUP__INIT;
    Google__Protobuf__Duration d = GOOGLE__PROTOBUF__DURATION__INIT;
    uint8_t bytes[64];
    d.seconds = -1, d.nanos = -500000000, g.ack_timeout = &d;
    struct slice wire = slice_of(bytes, orderdb__v1__consumer_group__pack(&g, bytes));
    assert_true(filter_match(parse_as(&groups, "ack_timeout = -1.5s"), wire));
    assert_true(filter_match(parse_as(&groups, "ack_timeout < -1s AND ack_timeout > '-2s' AND ack_timeout < 0.25s"), wire));
    assert_slice(filter_print(parse_as(&groups, "ack_timeout>=-0.250s"), &arena), "ack_timeout >= -0.25s");
    assert_slice(filter_print(parse_as(&groups, "ack_timeout IN (3600s, 20s)"), &arena), "ack_timeout IN (20s, 3600s)");
}

static void absent_messages_fulfil_nothing(void **state) {
    yes("entry.reason = ''"), yes("entry.chain_hash:* OR entry.reason = ''"), no("entry.reason:*");
    no("after.address.line = ''"), no("after.address.line != 'x'"), no("freight = 0"), no("freight < 1"), no("entry.time < '2026-01-01'"), no("entry.time != '2026-01-01'");
    yes("NOT after.address.line = 'x'"), no("after.address:*"), yes("after:*"), yes("payable:*"), no("freight:*");
}

static void presence(void **state) {
    yes("user_id:*"), no("traceparent:*"), yes("slot:*"), no("delivery_attempt:*"), yes("archived:*"), yes("type:*"), yes("extension:*"), no("entry.chain_hash:*");
    yes("items:*"), no("payments:*"), yes("shipments.sku_ids:*"), yes("attributes:*"), no("items.attributes:*"), yes("items.unit_price:*"), no("items.discount:*");
}

static void lists_match_by_any_element(void **state) {
    yes("items.sku_id = 'sku-1'"), yes("items.sku_id = 'sku-22'"), no("items.sku_id = 'sku-2'");
    yes("items.sku_id != 'sku-1'"), yes("NOT items.sku_id = 'sku-2'"), no("NOT items.sku_id = 'sku-1'");
    yes("items.quantity >= 3 AND items.quantity < 3"); /* not the same element */
    yes("items.unit_price = 500"), no("items.unit_price = 0"), no("payments.channel = ''"), no("payments.channel != 'x'");
    yes("shipments.sku_ids = 'sku-22'"), yes("shipments.sku_ids:'sku-1'"), no("shipments.sku_ids:'sku'"), yes("changed:address"), yes("changed = status"), no("changed:payable");
    yes("changed.paths IN (payable, address)");
}

static void has_finds_words(void **state) {
    yes("title:umbrella"), yes("title : 'blue UMBRELLA'"), yes("title:A"), no("title:umbrell"), no("title:brella"), no("title:'blue  umbrella'");
    yes("title:\"\xe9\x9b\xa8\xe4\xbc\x9e\""), yes("items.title:'\xe5\xa4\xa7'"), no("title:'\xe5\xb0\x8f'");
    yes("items.sku_id:'sku-1'"), yes("items.sku_id:sku"), no("items.sku_id:'sku-2'"), yes("after.attributes.color:RED");
}

static void maps(void **state) {
    yes("attributes:color"), yes("attributes:'gift wrap'"), no("attributes:size"), yes("attributes.color:*"), yes("attributes.color = red"), no("attributes.color = blue");
    yes("attributes.\"gift wrap\" = ''"), yes("attributes.'gift wrap':*"), no("attributes.size = ''"), no("attributes.size != 'XL'"), yes("attributes.color IN (blue, red)");
    prints("attributes:color", "after.attributes.color:*");
    prints("attributes.'gift wrap' != x", "after.attributes.\"gift wrap\" != \"x\"");
    prints("attributes.\"\":*", "after.attributes.\"\":*");
    prints("attributes.AND:'AND'", "after.attributes.AND:\"AND\"");
}

static void or_binds_tighter_than_and(void **state) {
    /* AIP-160: a AND b OR c AND d is a AND (b OR c) AND d */
    no("type = CREATED AND slot = 7 OR slot = 7"), yes("(type = CREATED AND slot = 7) OR slot = 7"), yes("slot = 1 OR slot = 7 AND seq = 12"), no("slot = 7 OR slot = 1 AND seq = 1");
    prints("slot=1 AND slot=2 OR slot=3 AND slot=4", "slot = 1 AND (slot = 2 OR slot = 3) AND slot = 4");
    prints("(slot=1 AND slot=2) OR slot=3", "(slot = 1 AND slot = 2) OR slot = 3");
}

static void not_and_minus(void **state) {
    yes("NOT slot = 8"), no("NOT slot = 7"), yes("-slot=8"), yes("NOT (slot = 8 AND seq = 12)"), yes("NOT(slot=8)"), yes("slot = 7 AND NOT seq = 1");
    prints("-slot=8 OR NOT seq=1", "NOT slot = 8 OR NOT seq = 1");
    prints("NOT (NOT (slot=8))", "slot = 8");
    prints("-(slot=1 OR slot=2)", "NOT (slot = 1 OR slot = 2)");
}

static void canonical_text(void **state) {
    prints("((slot=1) AND (seq=2 AND (order_id=3)))", "slot = 1 AND seq = 2 AND order_id = 3");
    prints("status IN ('b',a,'b')", "after.status IN (\"a\", \"b\")");
    prints("payable>1 AND payable:* AND changed:address", "after.payable.minor_units > 1 AND after.payable:* AND changed.paths = \"address\"");
    prints("title:x OR seq:1 OR type:CREATED", "after.items.title:\"x\" OR seq = 1 OR type = \"CREATED\"");
    prints("archived!=true", "after.archived != true");
}

static void order_filters_mean_the_same_of_events(void **state) {
    const char *const both[] = {"merchant_id = \"m7\" AND status IN (\"PAID\",\"SHIPPED\") AND title : \"\xe9\x9b\xa8\xe4\xbc\x9e\"", "version = 2 AND quantity > 2", "NOT attributes:color"};
    for (size_t i = 0; i < ARRAY_LEN(both); i++) {
        Orderdb__V1__ChangeEvent *e = orderdb__v1__change_event__unpack(NULL, event.len, event.data);
        uint8_t bytes[2048];
        struct slice order = slice_of(bytes, orderdb__v1__order__pack(e->after, bytes));
        orderdb__v1__change_event__free_unpacked(e, NULL);
        assert_int_equal(filter_match(parse_as(&filter_orders, both[i]), order), filter_match(parse(both[i]), event));
    }
    assert_slice(filter_print(parse_as(&filter_orders, "title:x"), &arena), "items.title:\"x\"");
}

static void who_reads_what(void **state) {
    const struct filter *one = parse("type = CREATED AND entry.to_status = PAID"), *two = parse("NOT status = PAID");
    assert_true(filter_reads(one, 4)), assert_true(filter_reads(one, 8)), assert_false(filter_reads(one, 10));
    assert_true(filter_reads(two, 10)), assert_false(filter_reads(two, 4)), assert_false(filter_reads(parse(""), 10));
}

static void malformed_events_match_nothing(void **state) {
    const struct filter *deep = parse("NOT entry.to_status = 'x'");
    assert_true(filter_match(deep, event));
    for (size_t n = 0; n < event.len; n++) filter_match(deep, slice_of(event.data, n));
    uint8_t bytes[16];
#define wire(hex) slice_of(bytes, test_unhex((hex), bytes, sizeof bytes))
    assert_true(filter_match(deep, wire("")));
    assert_true(filter_match(deep, wire("4200")));
    assert_false(filter_match(deep, wire("42")));
    assert_false(filter_match(deep, wire("4201"))); /* entry: longer than the bytes */
    assert_false(filter_match(deep, wire("4002"))); /* entry: a number */
    assert_false(filter_match(deep, wire("42022005"))); /* to_status: a number */
    assert_false(filter_match(deep, wire("42 02 22 05")));
    assert_true(filter_match(parse("NOT slot = 1"), wire("42 02 22 05"))); /* nobody looks there */
    assert_false(filter_match(parse("NOT attributes:k"), wire("52 05 c202 02 0a 05")));
    assert_false(filter_match(parse("NOT commit_time:*"), wire("5a 02 0a 00")));
    assert_true(filter_match(parse("slot = 1 AND seq = 2"), wire("10 05 10 01 18 02"))); /* the last one counts */
    assert_true(filter_match(parse("slot = -1"), wire("10 ffffffffffffffffff01")));
}

/* ---- how it is refused ---- */

static const char *meta(const char *key) {
    for (const struct failure_meta *m = f.metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return (const char *)m->value.data;
    return "";
}

static void refused(const char *text, unsigned position, const char *said) {
    const struct filter *out = NULL;
    failure_init(&f, &arena);
    assert_int_equal(filter_parse(&out, slice_str(text), &filter_events, "group.filter", &arena, &f), STATUS_FILTER_INVALID);
    assert_int_equal(f.status, STATUS_FILTER_INVALID);
    assert_null(out);
    assert_string_equal(f.violations->field, "group.filter");
    const char *colon = strstr(f.violations->description, ": ");
    if (strcmp(colon + 2, said) != 0) fail_msg("%s\nsays  %s\nnot   %s", text, colon + 2, said);
    if (position != (unsigned)atoi(meta("position"))) fail_msg("%s: at %s, not %u", text, meta("position"), position);
    char head[64];
    snprintf(head, sizeof head, "at byte %s (column %s): ", meta("position"), meta("column"));
    assert_memory_equal(f.violations->description, head, strlen(head));
    assert_true(meta("expected")[0] != 0);
    assert_true(meta("found")[0] != 0);
}

#define OPERATOR "expected an operator: =, !=, <, <=, >, >=, : or IN, found "

static void errors_of_syntax(void **state) {
    refused("slot", 4, OPERATOR "the end");
    refused("slot 7", 5, OPERATOR "\"7\"");
    refused("slot ! 7", 5, OPERATOR "\"!\"");
    refused("slot in (7)", 5, OPERATOR "\"in\"; keywords are in capitals");
    refused("slot NOT IN (7)", 5, OPERATOR "\"NOT\"");
    refused("slot =", 6, "expected an integer of 64 bits, without quotes, found the end");
    refused("slot == 7", 6, "expected an integer of 64 bits, without quotes, found \"=\"");
    refused("user_id = AND", 10, "expected a text in quotes, found \"AND\"");
    refused("slot = 7 seq = 12", 9, "expected AND, OR or the end, found \"seq\"");
    refused("slot = 7 and seq = 12", 9, "expected AND, OR or the end, found \"and\"; keywords are in capitals");
    refused("slot = 7)", 8, "expected AND, OR or the end, found \")\"");
    refused("(slot = 7", 9, "expected AND, OR or \")\", found the end");
    refused("slot = 7 AND", 12, "expected a field's name, found the end");
    refused("OR slot = 7", 0, "expected a field's name, found \"OR\"");
    refused("()", 1, "expected a field's name, found \")\"");
    refused("NOT NOT slot = 7", 4, "expected a field's name, found \"NOT\"");
    refused("'alice'", 0, "expected a field's name, found 'alice'; a value alone is not looked for, name a field");
    refused("entry. = 1", 6, "expected a field's name, found a blank");
    refused("slot IN 7", 8, "expected \"(\", found \"7\"");
    refused("slot IN (7", 10, "expected \",\" or \")\", found the end");
    refused("slot IN ()", 9, "expected an integer of 64 bits, without quotes, found \")\"");
    refused("slot IN (7,)", 11, "expected an integer of 64 bits, without quotes, found \")\"");
    refused("user_id = 'al", 13, "expected the closing quote of a text, found the end; it was opened at byte 10");
    refused("user_id = 'a\\x'", 12, "expected an escape: \\\", \\', \\\\, \\n, \\r or \\t, found \"\\\"; a backslash itself is written \\\\");
    refused("user_id = *", 10, "expected a text in quotes, found \"*\"");
    refused("f(slot)", 0, "expected a field of ChangeEvent, found \"f\"");
    refused("a.b.c.d.e.f.g.h.i = 1", 16, "expected at most 8 names in a path, found \"i\"");
}

static void errors_of_names(void **state) {
    refused("slto = 7", 0, "expected a field of ChangeEvent, found \"slto\"; did you mean \"slot\"?");
    refused("statsu = PAID", 0, "expected a field of ChangeEvent, found \"statsu\"; did you mean \"status\"?");
    refused("to_status = PAID", 0, "expected a field of ChangeEvent, found \"to_status\"; did you mean \"entry.to_status\"?");
    refused("after.statsu = PAID", 6, "expected a field of Order, found \"statsu\"; did you mean \"status\"?");
    refused("after.items.sku = 'x'", 12, "expected a field of OrderItem, found \"sku\"");
    refused("zzzzzzzz = 1", 0, "expected a field of ChangeEvent, found \"zzzzzzzz\"");
    refused("slot.x = 1", 4, "expected an operator, found \".\"; slot is a number and has no fields");
    refused("attributes.a.b = 1", 12, "expected an operator, found \".\"; attributes is a map of texts and has no fields");
    refused("after.'status' = PAID", 6, "expected a field of Order, found 'status'; did you mean \"status\"?");
}

static void errors_of_types(void **state) {
    refused("merchant_id = 7", 14, "expected a text in quotes, found \"7\"; merchant_id is a text");
    refused("merchant_id = true", 14, "expected a text in quotes, found \"true\"; merchant_id is a text");
    refused("slot = '7'", 7, "expected an integer of 64 bits, without quotes, found '7'; slot is a number");
    refused("slot = 7.5", 7, "expected an integer of 64 bits, without quotes, found \"7.5\"; slot is a number");
    refused("slot = 9223372036854775808", 7, "expected an integer of 64 bits, without quotes, found \"9223372036854775808\"; slot is a number");
    refused("slot = -", 7, "expected an integer of 64 bits, without quotes, found \"-\"; slot is a number");
    refused("archived = 1", 11, "expected true or false, without quotes, found \"1\"; archived is a boolean");
    refused("archived < true", 9, "expected =, !=, : or IN, found \"<\"; archived has no order");
    refused("type > CREATED", 5, "expected =, !=, : or IN, found \">\"; type has no order");
    refused("type = \"TRANSITION\"", 7,
            "expected one of TYPE_UNSPECIFIED, CREATED, TRANSITIONED, UPDATED, TIMER_FIRED, ARCHIVED, SNAPSHOT, IMPORTED, found \"TRANSITION\"; did you mean \"TRANSITIONED\"?");
    refused("type = 2", 7, "expected one of TYPE_UNSPECIFIED, CREATED, TRANSITIONED, UPDATED, TIMER_FIRED, ARCHIVED, SNAPSHOT, IMPORTED, found \"2\"; type is an enum");
    refused("commit_time > 2026-01-01T00:00:00Z", 14, "expected a time in quotes, as \"2026-01-31T08:00:00Z\", found \"2026-01-01T00\"; commit_time is a time");
    refused("commit_time > '2026-02-29'", 14, "expected a time in quotes, as \"2026-01-31T08:00:00Z\", found '2026-02-29'; commit_time is a time");
    refused("after = 1", 6, "expected \".\" and a field of after, or :*, found \"=\"; after is a message");
    refused("entry:reason", 5, "expected \".\" and a field of entry, or :*, found \":\"; entry is a message");
    refused("attributes = 'x'", 11, "expected a key, attributes.KEY, or \":\", found \"=\"; attributes is a map");
    refused("attributes:", 11, "expected a key of the map, or *, found the end");
    refused("extension = 'x'", 10, "expected :*, found \"=\"; extension is bytes: it is there, or not");
    refused("title:''", 6, "expected a text that is not empty, found \"\"");
    refused("attributes.color = 7", 19, "expected a text in quotes, found \"7\"; the value is a text");
}

static void columns_count_characters(void **state) {
    refused("user_id = '\xe9\x9b\xa8\xe4\xbc\x9e' slot", 19, "expected AND, OR or the end, found \"slot\"");
    assert_string_equal(meta("column"), "16");
    refused("user_id = '\xff'", 0, "expected valid UTF-8, found other bytes");
    const struct filter *out;
    failure_init(&f, &arena);
    assert_int_equal(filter_parse(&out, SLICE_LIT("slot\0= 7"), &filter_events, "filter", &arena, &f), STATUS_FILTER_INVALID);
    assert_string_equal(f.message, "filter: at byte 4 (column 5): expected a text without NUL, found NUL");
    refused("slot = 7 \xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8", 9,
            "expected AND, OR or the end, found \"\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8\xe9\x9b\xa8...\"");
}

/* `times` of one text and its joint; the same with one more is refused. */
static const char *repeated(const char *head, const char *piece, const char *joint, unsigned times, const char *tail) {
    static char text[16384];
    size_t n = (size_t)snprintf(text, sizeof text, "%s", head);
    for (unsigned i = 0; i < times; i++) n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? joint : "", piece);
    snprintf(text + n, sizeof text - n, "%s", tail);
    return text;
}

static void limits(void **state) {
    parse(repeated("slot IN (", "1", ",", 256, ")"));
    refused(repeated("slot IN (", "1", ",", 257, ")"), 9 + 512, "expected at most 256 values in a list, found \"1\"");
    parse(repeated("", "slot=1", " AND ", 255, ""));
    refused(repeated("", "slot=1", " AND ", 256, ""), 255 * 11, "expected at most 256 comparisons and operators, found one more");
    char deep[256];
    for (unsigned n = 32; n <= 33; n++) {
        memset(deep, '(', n), memcpy(deep + n, "slot=1", 6), memset(deep + n + 6, ')', n), deep[2 * n + 6] = 0;
        if (n == 32) parse(deep);
        else refused(deep, 32, "expected at most 32 levels of nesting, found \"(\"");
    }
    refused(repeated("slot = 1", " ", "", 4089, ""), 4096, "expected at most 4096 bytes, found 4097");
    parse(repeated("slot = 1", " ", "", 4088, ""));
}

/* AND and OR by turns, 32 levels of them, print and parse again; one more is refused. */
static void deep_trees_print_what_parses(void **state) {
    char text[1024];
    for (unsigned levels = 31; levels <= 33; levels++) {
        size_t n = 0;
        for (unsigned i = 0; i + 1 < levels; i++) n += (size_t)snprintf(text + n, sizeof text - n, "slot=1 %s (", i % 2 ? "OR" : "AND");
        n += (size_t)snprintf(text + n, sizeof text - n, "slot=1 %s slot=2", levels % 2 ? "AND" : "OR");
        for (unsigned i = 0; i + 1 < levels; i++) n += (size_t)snprintf(text + n, sizeof text - n, ")");
        if (levels <= 32) {
            const struct filter *once = parse(text);
            struct slice printed = filter_print(once, &arena);
            assert_slice(filter_print(parse((const char *)printed.data), &arena), (const char *)printed.data);
        } else refused(text, 7, "expected at most 32 levels of nesting, found one more");
    }
}

static void earlier_violations_stay_first(void **state) {
    const struct filter *out;
    failure_init(&f, &arena);
    failure_violation(&f, STATUS_FIELD_INVALID, "group", "required");
    assert_int_equal(filter_parse(&out, SLICE_LIT("slot"), &filter_events, "filter", &arena, &f), STATUS_FILTER_INVALID);
    assert_int_equal(f.status, STATUS_FIELD_INVALID);
    assert_int_equal(f.violation_count, 2);
    assert_int_equal(filter_parse(&out, SLICE_LIT("slot=7"), &filter_events, "filter", &arena, &f), STATUS_OK);
}

static void a_full_arena_is_a_failure(void **state) {
    const char *text = "user_id IN ('a','b') AND (attributes.color = 'x' OR NOT attributes:'k') AND items.sku_id:word";
    for (unsigned n = 1;; n++) {
        struct arena small;
        const struct filter *out = NULL;
        arena_init(&small, 1 * MIB);
        failure_init(&f, &arena);
        arena_reset(&small);
        mem_fail_nth(n);
        enum status st = filter_parse(&out, slice_str(text), &filter_events, "filter", &small, &f);
        mem_fail_nth(0);
        arena_fini(&small);
        if (st == STATUS_OK) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
        assert_int_equal(f.status, STATUS_MEMORY_LIMIT);
    }
    for (size_t room = 0;; room += 16) { /* an arena that is full from any place on */
        struct arena small;
        const struct filter *out = NULL;
        arena_init(&small, 8192);
        failure_init(&f, &arena);
        if (!arena_alloc(&small, 8192 - room)) fail_msg("no room");
        enum status st = filter_parse(&out, slice_str(text), &filter_events, "filter", &small, &f);
        if (st == STATUS_OK) assert_true(filter_match(out, event) || room > 0);
        arena_fini(&small);
        if (st == STATUS_OK) break;
        assert_int_equal(st, STATUS_MEMORY_LIMIT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_everything),
        cmocka_unit_test(texts),
        cmocka_unit_test(escapes),
        cmocka_unit_test(numbers),
        cmocka_unit_test(booleans_and_enums),
        cmocka_unit_test(times_and_durations),
        cmocka_unit_test(absent_messages_fulfil_nothing),
        cmocka_unit_test(presence),
        cmocka_unit_test(lists_match_by_any_element),
        cmocka_unit_test(has_finds_words),
        cmocka_unit_test(maps),
        cmocka_unit_test(or_binds_tighter_than_and),
        cmocka_unit_test(not_and_minus),
        cmocka_unit_test(canonical_text),
        cmocka_unit_test(order_filters_mean_the_same_of_events),
        cmocka_unit_test(who_reads_what),
        cmocka_unit_test(malformed_events_match_nothing),
        cmocka_unit_test(errors_of_syntax),
        cmocka_unit_test(errors_of_names),
        cmocka_unit_test(errors_of_types),
        cmocka_unit_test(columns_count_characters),
        cmocka_unit_test(limits),
        cmocka_unit_test(deep_trees_print_what_parses),
        cmocka_unit_test(earlier_violations_stay_first),
        cmocka_unit_test(a_full_arena_is_a_failure),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
