/* An atomic batch, from engine/check.h's check_batch to what apply makes of it: all or none. Random batches against the model: tests/sim/sim_apply.c. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "proto/base/mem.h"
#include "tests/lib/apply_fixture.h"

#define NEW(type, init) ({ type *m_ = arena_new(&arena, type); check(m_); init(m_); m_; })

static Orderdb__V1__CreateOrderRequest *request(const char *user, unsigned number, const char *client_order_no)
{
    Orderdb__V1__CreateOrderRequest *m = NEW(Orderdb__V1__CreateOrderRequest, orderdb__v1__create_order_request__init);
    m->order = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->order->user_id = arena_printf(&arena, "%s", user);
    m->order->client_order_no = arena_printf(&arena, "%s", client_order_no);
    m->order->items = arena_alloc(&arena, sizeof(void *));
    m->order->items[0] = NEW(Orderdb__V1__OrderItem, orderdb__v1__order_item__init);
    m->order->n_items = 1;
    m->order->items[0]->sku_id = arena_printf(&arena, "sku");
    m->order->items[0]->quantity = 1;
    m->order->items[0]->unit_price = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    m->order->items[0]->unit_price->currency_code = arena_printf(&arena, "CNY");
    m->options = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    m->options->request_id = arena_printf(&arena, "request-%010u", number);
    return m;
}

static Orderdb__V1__BatchCreateOrdersRequest *batch_of(unsigned first, unsigned n)
{
    Orderdb__V1__BatchCreateOrdersRequest *m = NEW(Orderdb__V1__BatchCreateOrdersRequest, orderdb__v1__batch_create_orders_request__init);
    m->requests = arena_alloc(&arena, n * sizeof(void *));
    m->n_requests = n;
    m->atomic = true;
    for (unsigned i = 0; i < n; i++) m->requests[i] = request("alice", first + i, "");
    return m;
}

static bool checked(Orderdb__V1__BatchCreateOrdersRequest *m, struct slice *command, struct failure *f)
{
    struct checked out;
    failure_init(f, &arena);
    bool ok = check_batch(m, (struct slice){0}, &arena, &out, f);
    *command = out.command;
    return ok;
}

static struct outcome apply_bytes(struct slice bytes)
{
    struct outcome o;
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}

static struct outcome run(Orderdb__V1__BatchCreateOrdersRequest *m)
{
    struct failure f;
    struct slice command;
    assert_true(checked(m, &command, &f));
    return apply_bytes(command);
}

static struct outcome run_single(Orderdb__V1__CreateOrderRequest *m)
{
    struct failure f;
    struct checked out;
    failure_init(&f, &arena);
    assert_true(check_create(m, (struct slice){0}, &arena, &out, &f));
    return apply_bytes(out.command);
}

/* ---- check */

static void assert_violation(Orderdb__V1__BatchCreateOrdersRequest *m, enum status st, const char *field)
{
    struct failure f;
    struct slice command;
    assert_false(checked(m, &command, &f));
    assert_int_equal(f.status, st);
    assert_string_equal(f.violations->field, field);
}

static void each_request_is_checked_and_named(void **state)
{
    Orderdb__V1__BatchCreateOrdersRequest *m = batch_of(0, 3);
    m->requests[1]->order->items[0]->quantity = 0;
    assert_violation(m, STATUS_LIMIT_EXCEEDED, "requests[1].order.items[0].quantity");
    m = batch_of(0, 3);
    m->requests[2]->options = NULL;
    assert_violation(m, STATUS_FIELD_INVALID, "requests[2].options");
    m = batch_of(0, 1001);
    assert_violation(m, STATUS_LIMIT_EXCEEDED, "requests");
}

static void all_are_of_one_user_and_distinct(void **state)
{
    Orderdb__V1__BatchCreateOrdersRequest *m = batch_of(0, 3);
    m->requests[2] = request("bob", 9, "");
    assert_violation(m, STATUS_INVARIANT_VIOLATED, "requests[2].order.user_id");
    m = batch_of(0, 3);
    m->requests[2] = request("alice", 0, "");
    assert_violation(m, STATUS_INVARIANT_VIOLATED, "requests[2].options.request_id");
    m = batch_of(0, 4);
    m->requests[1] = request("alice", 11, "no-1");
    m->requests[3] = request("alice", 12, "no-1");
    assert_violation(m, STATUS_INVARIANT_VIOLATED, "requests[3].order.client_order_no");
}

static void validate_only_is_told(void **state)
{
    struct checked out;
    struct failure f;
    Orderdb__V1__BatchCreateOrdersRequest *m = batch_of(0, 3);
    for (int on = 0; on < 2; on++) {
        for (int i = 0; i < 3; i++) m->requests[i]->options->validate_only = on;
        failure_init(&f, &arena);
        assert_true(check_batch(m, (struct slice){0}, &arena, &out, &f));
        assert_int_equal(out.validate_only, on);
        assert_true(check_create(m->requests[0], (struct slice){0}, &arena, &out, &f));
        assert_int_equal(out.validate_only, on);
    }
    m->requests[1]->options->validate_only = false;
    assert_violation(m, STATUS_INVARIANT_VIOLATED, "requests[1].options.validate_only");
    Orderdb__V1__TransitionOrderRequest *t = NEW(Orderdb__V1__TransitionOrderRequest, orderdb__v1__transition_order_request__init);
    t->order_id = 1;
    t->event = arena_printf(&arena, "pay");
    t->options = m->requests[0]->options;
    failure_init(&f, &arena);
    assert_true(check_transition(t, (struct slice){0}, &arena, &out, &f));
    assert_true(out.validate_only);
}

static void check_says_when_memory_is_short(void **state)
{
    for (uint64_t n = 1; n < 40; n++) {
        Orderdb__V1__BatchCreateOrdersRequest *m = batch_of(0, 60);
        struct failure f;
        struct checked out;
        struct arena small;
        arena_init(&small, 16 << 20);
        failure_init(&f, &small);
        mem_fail_nth(n);
        bool ok = check_batch(m, (struct slice){0}, &small, &out, &f);
        mem_fail_nth(0);
        if (!ok) assert_int_equal(f.status, STATUS_MEMORY_LIMIT);
        arena_fini(&small);
        if (ok) return;
    }
    fail_msg("never enough memory");
}

/* ---- apply */

static void all_are_written_in_order(void **state)
{
    struct outcome o = run(batch_of(0, 50));
    assert_int_equal(o.status, STATUS_OK);
    assert_true(o.batch);
    assert_false(o.replayed);
    assert_int_equal(o.item_count, 50);
    assert_int_equal(o.seq, 50);
    assert_int_equal(rig.record.order_count, 50);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(o.items[i].status, STATUS_OK);
        assert_int_equal(o.items[i].seq, i + 1);
        assert_slice(o.items[i].head.user_id, "alice");
        if (i) assert_true(o.items[i].head.order_id > o.items[i - 1].head.order_id);
    }
}

static void the_largest_batch_fits_scratch(void **state)
{
    struct outcome o = run(batch_of(0, 1000));
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(rig.record.order_count, 1000);
}

static void a_retry_answers_all_again(void **state)
{
    struct outcome first = run(batch_of(0, 5)), again = run(batch_of(0, 5));
    assert_true(again.replayed);
    for (int i = 0; i < 5; i++) {
        assert_true(again.items[i].replayed);
        assert_int_equal(again.items[i].head.order_id, first.items[i].head.order_id);
        assert_int_equal(again.items[i].seq, first.items[i].seq);
    }
    assert_int_equal(rig.record.order_count, 5);
    /* one of them by itself is known too */
    assert_true(run_single(request("alice", 3, "")).replayed);
}

static void one_refusal_refuses_all(void **state)
{
    struct failure f;
    run_single(request("alice", 100, "taken"));
    Orderdb__V1__BatchCreateOrdersRequest *m = batch_of(0, 4);
    m->requests[2] = request("alice", 2, "taken");
    struct outcome o = run(m);
    assert_int_equal(o.status, STATUS_CLIENT_ORDER_NO_TAKEN);
    assert_int_equal(o.item, 2);
    assert_int_equal(rig.record.order_count, 1);
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    const struct failure_meta *last = f.metas;
    while (last->next) last = last->next;
    assert_string_equal(last->key, "index");
    assert_slice(last->value, "2");
    m = batch_of(0, 4);
    m->requests[3]->order->machine = arena_printf(&arena, "nothing");
    o = run(m);
    assert_int_equal(o.status, STATUS_MACHINE_NOT_FOUND);
    assert_int_equal(o.item, 3);
    /* refused ids are free: the same ids may be sent again */
    assert_int_equal(run(batch_of(0, 4)).status, STATUS_OK);
    assert_int_equal(rig.record.order_count, 5);
}

static void some_written_before_refuse_all(void **state)
{
    struct outcome single = run_single(request("alice", 1, ""));
    struct outcome o = run(batch_of(0, 3));
    assert_int_equal(o.status, STATUS_IDEMPOTENCY_KEY_REUSED);
    assert_int_equal(o.item, 1);
    assert_int_equal(o.first_order_id, single.head.order_id);
    assert_int_equal(rig.record.order_count, 1);
}

static void a_fence_refuses_all(void **state)
{
    struct command c = {.type = COMMAND_FENCE, .origin = {.request_id = SLICE_LIT("request-0000000002"), .ttl_us = 1000000}, .fence.user_id = SLICE_LIT("alice")};
    apply_bytes(command_encode(&c, &arena));
    struct outcome o = run(batch_of(0, 4));
    assert_int_equal(o.status, STATUS_REQUEST_FENCED);
    assert_int_equal(o.item, 2);
    assert_int_equal(rig.record.order_count, 0);
}

static void a_batch_that_cannot_be_is_damage(void **state)
{
    struct outcome o;
    uint8_t bytes[4096];
    struct command create = {.type = COMMAND_CREATE, .origin = {.request_id = SLICE_LIT("request-0000000001"), .ttl_us = 1}, .create.user_id = SLICE_LIT("alice"),
                             .create.client_order_no = SLICE_LIT("no-1")};
    struct command other = create;
    other.origin.request_id = SLICE_LIT("request-0000000002"); /* the same client_order_no */
    struct command stranger = other;
    stranger.create.user_id = SLICE_LIT("bob");
    const struct command *second[] = {&other, &stranger};
    for (int i = 0; i < 2; i++) {
        struct writer w = writer_of(bytes, sizeof bytes);
        write_counted(&w, command_encode(&create, &arena));
        write_counted(&w, command_encode(second[i], &arena));
        struct command c = {.type = COMMAND_BATCH, .batch = {SLICE_LIT("alice"), 2, writer_slice(&w)}};
        struct slice command = command_encode(&c, &arena);
        assert_int_equal(rig_apply(&rig, now_us, &command, 1, &arena, &o), STATUS_CHECKSUM_MISMATCH);
        assert_int_equal(rig.record.order_count, 0);
    }
}

static void without_memory_for_the_answer_the_write_stands(void **state)
{
    struct failure f;
    struct slice command;
    struct outcome o;
    struct arena none;
    assert_true(checked(batch_of(0, 3), &command, &f));
    arena_init(&none, 0);
    assert_int_equal(rig_apply(&rig, now_us, &command, 1, &none, &o), STATUS_OK);
    assert_int_equal(o.status, STATUS_DEADLINE_EXCEEDED);
    assert_int_equal(rig.record.order_count, 3);
    assert_true(run(batch_of(0, 3)).replayed);
    /* replay of the log: nobody waits */
    assert_true(checked(batch_of(10, 3), &command, &f));
    assert_int_equal(rig_apply(&rig, now_us, &command, 1, NULL, NULL), STATUS_OK);
    assert_int_equal(rig.record.order_count, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)
        T(each_request_is_checked_and_named),
        T(all_are_of_one_user_and_distinct),
        T(validate_only_is_told),
        T(check_says_when_memory_is_short),
        T(all_are_written_in_order),
        T(the_largest_batch_fits_scratch),
        T(a_retry_answers_all_again),
        T(one_refusal_refuses_all),
        T(some_written_before_refuse_all),
        T(a_fence_refuses_all),
        T(a_batch_that_cannot_be_is_damage),
        T(without_memory_for_the_answer_the_write_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
