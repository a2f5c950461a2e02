/* Updates, and transitions with a patch or to an edge that requires fields: from engine/check.h to what apply makes of them and what older versions look like.
 * Random lives: tests/sim/sim_apply.c. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "engine/query.h"
#include "engine/required.h"
#include "orderdb/v1/admin.pb-c.h"
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

/* shop@1: A -leave-> B requires something of every kind; A -go-> B requires nothing. */
static void add_shop(void)
{
    char *needs[] = {str("address"), str("payments"), str("attributes.invoice"), str("merchant_id"), str("client_order_no")}, *from[] = {str("A")}, error[256];
    Orderdb__V1__StatusMachine m = ORDERDB__V1__STATUS_MACHINE__INIT;
    Orderdb__V1__StatusMachine__State a = ORDERDB__V1__STATUS_MACHINE__STATE__INIT, b = a, *states[] = {&a, &b};
    Orderdb__V1__StatusMachine__Edge go = ORDERDB__V1__STATUS_MACHINE__EDGE__INIT, leave, *edges[] = {&go, &leave};
    a.name = str("A"), a.initial = true, b.name = str("B"), b.terminal = true;
    go.event = str("go"), go.from = from, go.n_from = 1, go.to = b.name;
    leave = go, leave.event = str("leave"), leave.required_fields = needs, leave.n_required_fields = ARRAY_LEN(needs);
    m.name = str("shop"), m.version = 1, m.states = states, m.n_states = 2, m.edges = edges, m.n_edges = 2;
    uint8_t wire[512];
    assert_int_equal(machines_add(ms, slice_of(wire, orderdb__v1__status_machine__pack(&m, wire)), error), STATUS_OK);
}

static Orderdb__V1__CreateOrderRequest *create_of(const char *request_id)
{
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
    m->options->request_id = str(request_id);
    return m;
}

static struct outcome create(Orderdb__V1__CreateOrderRequest *m)
{
    struct checked out;
    struct failure f;
    failure_init(&f, &arena);
    assert_true(check_create(m, (struct slice){0}, &arena, &out, &f));
    return apply_bytes(out.command);
}

static int open_rig(void **state)
{
    ms = machines_new();
    now_us = T0;
    arena_init(&arena, 256 << 20);
    add_shop();
    rig_open(&rig, ms);
    order_id = create(create_of("request-0000000001")).head.order_id;
    return 0;
}

static int close_rig(void **state)
{
    rig_close(&rig);
    arena_fini(&arena);
    machines_free(ms);
    return 0;
}

static Google__Protobuf__FieldMask *mask_of(unsigned n, const char *const *paths)
{
    Google__Protobuf__FieldMask *mask = NEW(Google__Protobuf__FieldMask, google__protobuf__field_mask__init);
    mask->paths = arena_alloc(&arena, (n + 1) * sizeof(char *));
    mask->n_paths = n;
    for (unsigned i = 0; i < n; i++) mask->paths[i] = str(paths[i]);
    return mask;
}

/* An update of the named fields; the rest of the order is the caller's to fill. */
static Orderdb__V1__UpdateOrderRequest *update_of(const char *request_id, unsigned n, const char *const *paths)
{
    Orderdb__V1__UpdateOrderRequest *m = NEW(Orderdb__V1__UpdateOrderRequest, orderdb__v1__update_order_request__init);
    m->order = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->order->order_id = order_id;
    m->update_mask = mask_of(n, paths);
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

/* A transition that patches the named fields. */
static Orderdb__V1__TransitionOrderRequest *patch_of(const char *request_id, const char *event, unsigned n, const char *const *paths)
{
    Orderdb__V1__TransitionOrderRequest *m = NEW(Orderdb__V1__TransitionOrderRequest, orderdb__v1__transition_order_request__init);
    m->order_id = order_id;
    m->event = str(event);
    m->patch = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->update_mask = mask_of(n, paths);
    m->options = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    m->options->request_id = str(request_id);
    return m;
}
#define PATCH(request_id, event, ...) patch_of(request_id, event, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static struct outcome move(Orderdb__V1__TransitionOrderRequest *m)
{
    struct checked out;
    struct failure f;
    failure_init(&f, &arena);
    if (!check_transition(m, (struct slice){0}, &arena, &out, &f)) fail_msg("%s", f.message);
    return apply_bytes(out.command);
}

static void assert_patch_refused(Orderdb__V1__TransitionOrderRequest *m, enum status st, const char *field)
{
    struct checked out;
    struct failure f;
    failure_init(&f, &arena);
    assert_false(check_transition(m, (struct slice){0}, &arena, &out, &f));
    assert_int_equal(f.status, st);
    assert_string_equal(f.violations->field, field);
}

static void assert_field_at_fault(const struct outcome *o, enum status st, const char *field)
{
    struct failure f;
    assert_int_equal(o->status, st);
    failure_init(&f, &arena);
    outcome_failure(o, ms, &f);
    assert_string_equal(f.violations->field, field);
}

static Orderdb__V1__Address *address_of(const char *line)
{
    Orderdb__V1__Address *a = NEW(Orderdb__V1__Address, orderdb__v1__address__init);
    a->line = str(line);
    return a;
}

static void set_payment(Orderdb__V1__Order *o, const char *currency)
{
    o->payments = arena_alloc(&arena, sizeof(void *));
    o->payments[0] = NEW(Orderdb__V1__PaymentRef, orderdb__v1__payment_ref__init);
    o->n_payments = 1;
    o->payments[0]->amount = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    o->payments[0]->amount->currency_code = str(currency);
}

static void set_attribute(Orderdb__V1__Order *o, const char *key, const char *value)
{
    o->attributes = arena_alloc(&arena, sizeof(void *));
    o->attributes[0] = NEW(Orderdb__V1__Order__AttributesEntry, orderdb__v1__order__attributes_entry__init);
    o->n_attributes = 1;
    o->attributes[0]->key = str(key), o->attributes[0]->value = str(value);
}

static Orderdb__V1__Order *order_as_of(uint64_t us)
{
    struct failure f;
    struct slice wire;
    failure_init(&f, &arena);
    struct query q = {.view = rig_view(&rig), .machines = ms, .arena = &arena, .failure = &f};
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = order_id, .full = true, .has_as_of = true, .as_of_us = (int64_t)us}, &wire), STATUS_OK);
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
    m->order->address = address_of("a street"); /* extension is emptied */
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
    set_payment(m->order, "USD");
    struct outcome o = run(m);
    assert_field_at_fault(&o, STATUS_INVARIANT_VIOLATED, "order.payments");
    m->order->payments[0]->amount->currency_code = str("CNY");
    assert_int_equal(run(m).head.version, 2);
}

static void an_order_stays_within_its_limit(void **state)
{
    Orderdb__V1__UpdateOrderRequest *m = UPDATE("", "extension");
    m->order->extension = (ProtobufCBinaryData){(1 << 20) - 40, arena_zalloc(&arena, 1 << 20)};
    struct outcome o = run(m);
    assert_field_at_fault(&o, STATUS_LIMIT_EXCEEDED, "order");
    m->order->extension.len -= 200;
    assert_int_equal(run(m).status, STATUS_OK);
    assert_int_equal(run(m).head.version, 3); /* the largest there is, over itself, in scratch */
}

/* ---- patches */

static void a_patch_and_its_transition_are_one_commit(void **state)
{
    now_us = T0 + 10;
    Orderdb__V1__TransitionOrderRequest *m = PATCH("request-0000000002", "pay", "address", "order_type", "extension");
    m->patch->order_type = str("gift");
    m->patch->user_id = str("not named, not looked at");
    m->patch->address = address_of("a street"); /* extension is emptied */
    struct outcome out = move(m);
    assert_int_equal(out.status, STATUS_OK);
    assert_int_equal(out.head.version, 2);
    assert_int_equal(out.seq, 2);
    assert_slice(out.entry.event, "pay");
    assert_slice(machines_status_name(ms, out.head.status), "PAID");
    now_us = T0 + 20;
    Orderdb__V1__TransitionOrderRequest *plain = PATCH("", "ship", "address");
    plain->patch = NULL, plain->update_mask = NULL;
    assert_int_equal(move(plain).head.version, 3);
    now_us = T0 + 30;
    assert_int_equal(run(UPDATE("", "address", "order_type")).head.version, 4);
    static const struct {
        unsigned us;
        int64_t version;
        const char *status, *type, *line;
        size_t extension;
    } times[] = {{9, 1, "PENDING_PAYMENT", "normal", NULL, 3}, {10, 2, "PAID", "gift", "a street", 0}, {29, 3, "SHIPPED", "gift", "a street", 0}, {30, 4, "SHIPPED", "", NULL, 0}};
    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        Orderdb__V1__Order *o = order_as_of(T0 + times[i].us);
        assert_int_equal(o->version, times[i].version);
        assert_string_equal(o->status, times[i].status);
        assert_string_equal(o->order_type, times[i].type);
        assert_string_equal(o->user_id, "alice");
        assert_int_equal(o->extension.len, times[i].extension);
        assert_int_equal(o->address != NULL, times[i].line != NULL);
        if (times[i].line) assert_string_equal(o->address->line, times[i].line);
        orderdb__v1__order__free_unpacked(o, NULL);
    }
    /* patch and mask are part of the request */
    assert_true(move(m).replayed);
    m->patch->order_type = str("other");
    assert_int_equal(move(m).status, STATUS_IDEMPOTENCY_KEY_REUSED);
    m->patch->order_type = str("gift");
    m->update_mask->n_paths = 2;
    assert_int_equal(move(m).status, STATUS_IDEMPOTENCY_KEY_REUSED);
    m->patch = NULL, m->update_mask = NULL;
    assert_int_equal(move(m).status, STATUS_IDEMPOTENCY_KEY_REUSED);
}

static void a_patch_obeys_the_rules_of_updates(void **state)
{
    assert_patch_refused(PATCH("", "pay", "address", "status"), STATUS_FIELD_INVALID, "update_mask.paths[1]");
    Orderdb__V1__TransitionOrderRequest *m = PATCH("", "pay", "order_type");
    m->update_mask = NULL; /* not ignored: the caller believes that it is set */
    assert_patch_refused(m, STATUS_FIELD_INVALID, "update_mask");
    m = PATCH("", "pay", "order_type");
    m->patch->order_type = arena_alloc(&arena, 130);
    memset(m->patch->order_type, 'x', 129), m->patch->order_type[129] = 0;
    assert_patch_refused(m, STATUS_LIMIT_EXCEEDED, "patch.order_type");
    m = PATCH("", "pay", "extension");
    m->patch->extension = (ProtobufCBinaryData){1 << 20, arena_zalloc(&arena, 1 << 20)};
    assert_patch_refused(m, STATUS_LIMIT_EXCEEDED, "patch");
    m->patch->extension.len -= 40;
    struct outcome o = move(m);
    assert_field_at_fault(&o, STATUS_LIMIT_EXCEEDED, "patch");
    m = PATCH("", "pay", "payments");
    set_payment(m->patch, "USD");
    o = move(m);
    assert_field_at_fault(&o, STATUS_INVARIANT_VIOLATED, "patch.payments");
    assert_int_equal(rig.record.applied_index, 3);
    m = PATCH("", "pay", "extension");
    m->patch = NULL; /* a mask alone empties what it names */
    assert_int_equal(move(m).head.version, 2);
    Orderdb__V1__Order *now = order_as_of(T0);
    assert_int_equal(now->extension.len, 0);
    assert_string_equal(now->status, "PAID");
    orderdb__v1__order__free_unpacked(now, NULL);
}

static void a_refused_transition_patches_nothing(void **state)
{
    Orderdb__V1__TransitionOrderRequest *m = PATCH("request-0000000002", "ship", "order_type");
    m->patch->order_type = str("gift");
    assert_int_equal(move(m).status, STATUS_STATUS_MISMATCH);
    m->event = str("pay");
    m->expected_version = 7;
    assert_int_equal(move(m).status, STATUS_VERSION_MISMATCH);
    m->event = str("teleport");
    assert_int_equal(move(m).status, STATUS_EDGE_NOT_DEFINED);
    Orderdb__V1__Order *now = order_as_of(T0);
    assert_string_equal(now->order_type, "normal");
    assert_int_equal(now->version, 1);
    orderdb__v1__order__free_unpacked(now, NULL);
}

/* Remembered for up to 30 days, by servers of any version: never to change. */
static void a_plain_transition_keeps_its_fingerprint(void **state)
{
    struct checked out;
    struct failure f;
    struct command c;
    order_id = 77;
    Orderdb__V1__TransitionOrderRequest *m = PATCH("request-0000000002", "pay", "address");
    m->patch = NULL, m->update_mask = NULL;
    failure_init(&f, &arena);
    assert_true(check_transition(m, (struct slice){0}, &arena, &out, &f));
    assert_int_equal(command_decode(out.command, &arena, &c), STATUS_OK);
    assert_int_equal(c.type, COMMAND_TRANSITION);
    assert_int_equal(c.origin.fingerprint.low, 0x134d5dc99203668a);
    assert_int_equal(c.origin.fingerprint.high, 0x8d3102c9ef449f60);
}

/* ---- required fields */

static void shop_order(const char *client_order_no, const char *request_id)
{
    Orderdb__V1__CreateOrderRequest *m = create_of(request_id);
    m->order->machine = str("shop");
    m->order->client_order_no = str(client_order_no);
    order_id = create(m).head.order_id;
}

static void assert_missing(const struct outcome *o, unsigned n, const char *const *fields)
{
    struct failure f;
    assert_int_equal(o->status, STATUS_FIELD_REQUIRED);
    failure_init(&f, &arena);
    outcome_failure(o, ms, &f);
    assert_int_equal(f.violation_count, n);
    const struct failure_violation *v = f.violations;
    for (unsigned i = 0; i < n; i++, v = v->next) assert_string_equal(v->field, fields[i]);
    assert_string_equal(f.metas->key, "machine");
    assert_slice(f.metas->value, "shop@1");
    assert_slice(f.metas->next->value, "leave");
    assert_string_equal(f.metas->next->next->key, "field");
}
#define assert_missing_fields(o, ...) assert_missing(o, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static void an_edge_is_not_taken_without_its_fields(void **state)
{
    shop_order("", "request-0000000003");
    Orderdb__V1__TransitionOrderRequest *m = PATCH("", "leave", "address", "payments", "attributes");
    struct outcome o = move(m);
    assert_missing_fields(&o, "patch.address", "patch.payments", "patch.attributes.invoice", "order_id"); /* client_order_no: another order */
    shop_order("no-2", "request-0000000004");
    m = PATCH("", "leave", "address", "payments", "attributes");
    m->patch->address = NEW(Orderdb__V1__Address, orderdb__v1__address__init); /* there, and empty */
    set_payment(m->patch, "CNY");
    set_attribute(m->patch, "invoices", "7");
    o = move(m);
    assert_missing_fields(&o, "patch.address", "patch.attributes.invoice");
    m->patch->address = address_of("a street");
    set_attribute(m->patch, "invoice", "");
    o = move(m);
    assert_missing_fields(&o, "patch.attributes.invoice");
    assert_int_equal(o.head.version, 1);
    Orderdb__V1__Order *now = order_as_of(T0);
    assert_null(now->address);
    orderdb__v1__order__free_unpacked(now, NULL);
    /* what the order has counts as well as what the patch brings, and the patch may take it away */
    Orderdb__V1__UpdateOrderRequest *u = UPDATE("", "attributes", "address");
    set_attribute(u->order, "invoice", "7");
    assert_int_equal(run(u).head.version, 2);
    m = PATCH("", "leave", "address", "payments", "attributes");
    m->patch->address = address_of("a street");
    set_payment(m->patch, "CNY");
    o = move(m);
    assert_missing_fields(&o, "patch.attributes.invoice");
    m->update_mask->n_paths = 2;
    o = move(m);
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.head.version, 3);
}

static void a_target_has_the_requirements_of_its_edge(void **state)
{
    shop_order("no-2", "request-0000000003");
    Orderdb__V1__TransitionOrderRequest *m = PATCH("", "", "address");
    m->to_status = str("B");
    m->patch = NULL, m->update_mask = NULL;
    assert_true(move(m).ambiguous);
    m->to_status = str(""), m->event = str("leave");
    assert_int_equal(move(m).status, STATUS_FIELD_REQUIRED);
    m->event = str("go");
    assert_int_equal(move(m).status, STATUS_OK);
}

static void damaged_content_meets_nothing(void **state)
{
    struct required_field r;
    struct order_body b = {.summary = SLICE_LIT("\xc2\x02\x05\x0a"), .detail = SLICE_LIT("")};
    bool met;
    assert_true(required_find(SLICE_LIT("attributes.k"), &r));
    assert_int_equal(required_met(&r, &b, &met), STATUS_CHECKSUM_MISMATCH);
    b.summary = SLICE_LIT("\xc2\x02\x03\x0a\x05k"); /* an entry that is cut */
    assert_int_equal(required_met(&r, &b, &met), STATUS_CHECKSUM_MISMATCH);
    b.summary = SLICE_LIT("\xc2\x02\x06\x0a\x01k\x12\x01v");
    assert_int_equal(required_met(&r, &b, &met), STATUS_OK);
    assert_true(met);
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
        T(a_patch_and_its_transition_are_one_commit),
        T(a_patch_obeys_the_rules_of_updates),
        T(a_refused_transition_patches_nothing),
        T(a_plain_transition_keeps_its_fingerprint),
        T(an_edge_is_not_taken_without_its_fields),
        T(a_target_has_the_requirements_of_its_edge),
        T(damaged_content_meets_nothing),
        T(kept_content_is_the_golden_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
