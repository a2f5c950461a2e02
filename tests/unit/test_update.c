/* An update, from engine/check.h's check_update to what apply makes of it and what older versions look like. Random lives: tests/sim/sim_apply.c. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "engine/query.h"
#include "proto/base/mem.h"
#include "tests/lib/rig.h"

#define T0 1767225600000000ull /* 2026-01-01 */

static struct machines *ms;
static struct rig rig;
static struct arena arena;
static uint64_t now_us;
static int64_t order_id;

#define NEW(type, init) ({ type *m_ = arena_new(&arena, type); check(m_); init(m_); m_; })
static char *str(const char *s) { return arena_printf(&arena, "%s", s); }

static struct outcome apply_bytes(struct slice bytes)
{
    struct outcome o;
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}

static int open_rig(void **state)
{
    struct checked out;
    struct failure f;
    ms = machines_new();
    now_us = T0;
    arena_init(&arena, 256 << 20);
    rig_open(&rig, ms);
    Orderdb__V1__CreateOrderRequest *m = NEW(Orderdb__V1__CreateOrderRequest, orderdb__v1__create_order_request__init);
    m->order = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->order->user_id = str("alice");
    m->order->order_type = str("normal");
    m->order->merchant_id = str("m7");
    m->order->extension = (ProtobufCBinaryData){3, (uint8_t *)str("old")};
    m->order->items = arena_alloc(&arena, sizeof(void *));
    m->order->items[0] = NEW(Orderdb__V1__OrderItem, orderdb__v1__order_item__init);
    m->order->n_items = 1;
    m->order->items[0]->sku_id = str("sku");
    m->order->items[0]->quantity = 1;
    m->order->items[0]->unit_price = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    m->order->items[0]->unit_price->currency_code = str("CNY");
    m->options = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    m->options->request_id = str("request-0000000001");
    failure_init(&f, &arena);
    assert_true(check_create(m, (struct slice){0}, &arena, &out, &f));
    order_id = apply_bytes(out.command).head.order_id;
    return 0;
}

static int close_rig(void **state)
{
    rig_close(&rig);
    arena_fini(&arena);
    machines_free(ms);
    return 0;
}

/* An update of the named fields; the rest of the order is the caller's to fill. */
static Orderdb__V1__UpdateOrderRequest *update_of(const char *request_id, unsigned n, const char *const *paths)
{
    Orderdb__V1__UpdateOrderRequest *m = NEW(Orderdb__V1__UpdateOrderRequest, orderdb__v1__update_order_request__init);
    m->order = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->order->order_id = order_id;
    m->update_mask = NEW(Google__Protobuf__FieldMask, google__protobuf__field_mask__init);
    m->update_mask->paths = arena_alloc(&arena, (n + 1) * sizeof(char *));
    m->update_mask->n_paths = n;
    for (unsigned i = 0; i < n; i++) m->update_mask->paths[i] = str(paths[i]);
    m->options = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    m->options->request_id = str(request_id);
    return m;
}
#define UPDATE(request_id, ...) update_of(request_id, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static struct outcome run(Orderdb__V1__UpdateOrderRequest *m)
{
    struct checked out;
    struct failure f;
    failure_init(&f, &arena);
    if (!check_update(m, (struct slice){0}, &arena, &out, &f)) fail_msg("%s", f.message);
    assert_int_equal(out.order_id, m->order->order_id);
    return apply_bytes(out.command);
}

static Orderdb__V1__Order *order_as_of(uint64_t us)
{
    struct failure f;
    struct slice wire;
    failure_init(&f, &arena);
    struct query q = {.view = rig_view(&rig), .machines = ms, .arena = &arena, .failure = &f};
    assert_int_equal(query_get_as_of(&q, order_id, true, (int64_t)us, &wire), STATUS_OK);
    Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, wire.len, wire.data);
    assert_non_null(o);
    return o;
}

static void assert_violation(Orderdb__V1__UpdateOrderRequest *m, enum status st, const char *field)
{
    struct checked out;
    struct failure f;
    failure_init(&f, &arena);
    assert_false(check_update(m, (struct slice){0}, &arena, &out, &f));
    assert_int_equal(f.status, st);
    assert_string_equal(f.violations->field, field);
}

static void the_mask_names_what_may_change(void **state)
{
    const char *const forbidden[] = {"user_id", "status", "payable", "items", "order_id", "merchant_id", "client_order_no", "version", "address.line", "*", "", "nothing"};
    for (size_t i = 0; i < ARRAY_LEN(forbidden); i++) assert_violation(UPDATE("", "address", forbidden[i]), STATUS_FIELD_INVALID, "update_mask.paths[1]");
    Orderdb__V1__UpdateOrderRequest *m = UPDATE("", "address");
    m->update_mask = NULL;
    assert_violation(m, STATUS_FIELD_INVALID, "update_mask");
    m = UPDATE("", "address");
    m->order->order_id = 0;
    assert_violation(m, STATUS_FIELD_INVALID, "order.order_id");
    m = UPDATE("", "address");
    m->order = NULL;
    assert_violation(m, STATUS_FIELD_INVALID, "order");
    m = UPDATE("", "address");
    m->expected_version = -1;
    assert_violation(m, STATUS_LIMIT_EXCEEDED, "expected_version");
    m = UPDATE("", "order_type");
    m->order->order_type = arena_alloc(&arena, 130);
    memset(m->order->order_type, 'x', 129), m->order->order_type[129] = 0;
    assert_violation(m, STATUS_LIMIT_EXCEEDED, "order.order_type");
}

static void named_fields_are_replaced_and_others_stay(void **state)
{
    now_us = T0 + 10;
    Orderdb__V1__UpdateOrderRequest *m = UPDATE("request-0000000002", "address", "order_type", "extension");
    m->order->order_type = str("gift");
    m->order->merchant_id = str("not named, not looked at");
    m->order->address = NEW(Orderdb__V1__Address, orderdb__v1__address__init);
    m->order->address->line = str("a street"); /* extension is emptied */
    struct outcome out = run(m);
    assert_int_equal(out.status, STATUS_OK);
    assert_int_equal(out.head.version, 2);
    assert_slice(out.entry.event, "update");
    assert_int_equal(out.entry.from, out.entry.to);
    assert_int_equal(out.seq, 2);
    Orderdb__V1__Order *o = order_as_of(T0 + 10), *before = order_as_of(T0 + 9);
    assert_string_equal(o->order_type, "gift");
    assert_string_equal(o->merchant_id, "m7");
    assert_string_equal(o->address->line, "a street");
    assert_int_equal(o->extension.len, 0);
    assert_int_equal(o->n_items, 1);
    assert_string_equal(before->order_type, "normal");
    assert_null(before->address);
    assert_int_equal(before->extension.len, 3);
    assert_int_equal(before->version, 1);
    orderdb__v1__order__free_unpacked(o, NULL);
    orderdb__v1__order__free_unpacked(before, NULL);
    /* once more: replayed, however it is asked; another under its id is not */
    assert_true(run(m).replayed);
    m->order->order_type = str("other");
    assert_int_equal(run(m).status, STATUS_IDEMPOTENCY_KEY_REUSED);
}

static void refusals_change_nothing(void **state)
{
    Orderdb__V1__UpdateOrderRequest *m = UPDATE("", "order_type");
    m->expected_version = 2;
    assert_int_equal(run(m).status, STATUS_VERSION_MISMATCH);
    m = UPDATE("", "order_type");
    m->order->order_id = order_id + 1;
    assert_int_equal(run(m).status, STATUS_ORDER_NOT_FOUND);
    m = UPDATE("", "payments");
    m->order->payments = arena_alloc(&arena, sizeof(void *));
    m->order->payments[0] = NEW(Orderdb__V1__PaymentRef, orderdb__v1__payment_ref__init);
    m->order->n_payments = 1;
    m->order->payments[0]->amount = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    m->order->payments[0]->amount->currency_code = str("USD");
    struct failure f;
    struct outcome o = run(m);
    assert_int_equal(o.status, STATUS_INVARIANT_VIOLATED);
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_string_equal(f.violations->field, "order.payments");
    m->order->payments[0]->amount->currency_code = str("CNY");
    assert_int_equal(run(m).head.version, 2);
}

static void an_order_stays_within_its_limit(void **state)
{
    Orderdb__V1__UpdateOrderRequest *m = UPDATE("", "extension");
    m->order->extension = (ProtobufCBinaryData){(1 << 20) - 40, arena_zalloc(&arena, 1 << 20)};
    struct outcome o = run(m);
    assert_int_equal(o.status, STATUS_LIMIT_EXCEEDED);
    struct failure f;
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_string_equal(f.violations->field, "order");
    m->order->extension.len -= 200;
    assert_int_equal(run(m).status, STATUS_OK);
    assert_int_equal(run(m).head.version, 3); /* the largest there is, over itself, in scratch */
}

static void kept_content_is_the_golden_bytes(void **state)
{
    uint8_t bytes[64];
    struct order_body b = {.summary = SLICE_LIT("summary"), .detail = SLICE_LIT("detail")}, back = {0};
    struct writer w = writer_of(bytes, sizeof bytes);
    order_content_encode(&b, &w);
    assert_golden("order_content", writer_slice(&w));
    for (size_t n = 0; n <= w.len + 1; n++) assert_int_equal(order_content_decode(slice_of(bytes, n), &back), n == w.len ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(order_content_decode(writer_slice(&w), &back), STATUS_OK);
    assert_slice(back.summary, "summary");
    assert_slice(back.detail, "detail");
    bytes[0] = 2;
    assert_int_equal(order_content_decode(writer_slice(&w), &back), STATUS_CHECKSUM_MISMATCH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)
        T(the_mask_names_what_may_change),
        T(named_fields_are_replaced_and_others_stay),
        T(refusals_change_nothing),
        T(an_order_stays_within_its_limit),
        T(kept_content_is_the_golden_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
