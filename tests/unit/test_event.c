/* engine/event.h: change events as bytes, and the blocks in which they are stored. */
#include "tests/lib/test.h"

#include "engine/event.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"

#define T0 1767225600000000ll /* 2026-01-01 */

static struct machines *ms;
static struct arena arena;

static int setup(void **state)
{
    ms = machines_new();
    arena_init(&arena, 64 << 20);
    return ms ? 0 : -1;
}
static int teardown(void **state)
{
    machines_free(ms);
    arena_fini(&arena);
    return 0;
}

static const struct order_head head = {.order_id = 42, .version = 2, .create_us = T0, .update_us = T0 + 5, .machine = 1, .status = 2, .user_id = SLICE_LIT("alice")};
static const struct history_entry entry = {
    .version = 2, .time_us = T0 + 5, .from = 1, .to = 2, .event = SLICE_LIT("pay"), .operator_ = SLICE_LIT("bob"), .request_id = SLICE_LIT("request-0000000001"),
    .traceparent = SLICE_LIT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), .chain_hash = {1, 2, 3},
};
/* user_id, merchant_id; one item */
static const struct slice summary = SLICE_LIT("\x12\x05" "alice" "\x1a\x02m7"), detail = SLICE_LIT("\xa2\x01\x07\x0a\x05sku-1");

static struct event sample(int64_t seq)
{
    return (struct event){.type = EVENT_TRANSITIONED, .slot = 5, .seq = seq, .commit_us = T0 + 9, .head = &head, .entry = &entry, .changed = 1ull << 7 | 1ull << 40,
                          .summary = summary, .detail = detail};
}

static struct slice close_block(struct event_block *b)
{
    size_t n = event_block_bytes(b);
    uint8_t *data = arena_alloc(&arena, n);
    struct writer w = writer_of(data, n);
    event_block_close(b, T0, &w);
    assert_false(w.full);
    assert_int_equal(w.len, n);
    return writer_slice(&w);
}

static Orderdb__V1__ReadChangesResponse *unpack(struct slice wire)
{
    Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, wire.len, wire.data);
    assert_non_null(m);
    return m;
}

static void an_event_is_what_the_contract_says(void **state)
{
    struct event_block b = {0};
    struct event e = sample(17);
    struct event_reader r;
    struct event_view v;
    enum status st;
    assert_true(event_block_add(&b, &e, ms));
    struct slice row = close_block(&b);
    assert_int_equal(event_block_open(row, &r), STATUS_OK);
    assert_int_equal(r.log_time_us, T0);
    assert_true(event_next(&r, &v, &st));
    assert_int_equal(v.slot, 5);
    assert_int_equal(v.seq, 17);
    Orderdb__V1__ReadChangesResponse *m = unpack(v.framed);
    assert_int_equal(m->n_events, 1);
    const Orderdb__V1__ChangeEvent *c = m->events[0];
    assert_string_equal(c->event_id, "5:17");
    assert_int_equal(c->slot, 5);
    assert_int_equal(c->seq, 17);
    assert_int_equal(c->type, ORDERDB__V1__CHANGE_EVENT__TYPE__TRANSITIONED);
    assert_int_equal(c->order_id, 42);
    assert_string_equal(c->user_id, "alice");
    assert_string_equal(c->merchant_id, "m7");
    assert_string_equal(c->entry->event, "pay");
    assert_string_equal(c->entry->from_status, "PENDING_PAYMENT");
    assert_string_equal(c->entry->to_status, "PAID");
    assert_string_equal(c->entry->request_id, "request-0000000001");
    assert_int_equal(c->entry->chain_hash.len, 32);
    assert_int_equal(c->changed->n_paths, 2);
    assert_string_equal(c->changed->paths[0], "status");
    assert_string_equal(c->changed->paths[1], "attributes");
    assert_int_equal(c->commit_time->seconds, T0 / 1000000);
    assert_int_equal(c->commit_time->nanos, 9000);
    assert_string_equal(c->traceparent, c->entry->traceparent);
    assert_int_equal(c->delivery_attempt, 0);
    assert_int_equal(c->after->order_id, 42);
    assert_string_equal(c->after->status, "PAID");
    assert_int_equal(c->after->version, 2);
    assert_string_equal(c->after->merchant_id, "m7");
    assert_string_equal(c->after->items[0]->sku_id, "sku-1");
    orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    assert_false(event_next(&r, &v, &st));
    assert_int_equal(st, STATUS_OK);
    event_block_fini(&b);
}

/* What its id says, a consumer can ack; what its seq says, is no commit. */
static void an_order_without_a_seq_is_told_by_a_number_of_its_own(void **state)
{
    struct order_head untold = head, sequenced = head, other = head;
    struct event_block b = {0};
    struct event e = sample(event_number(&untold));
    struct event_reader r;
    struct event_view v;
    enum status st;
    sequenced.seq = 17;
    other.order_id = INT64_MAX;
    assert_int_equal(event_number(&sequenced), 17);
    assert_true(event_has_seq(17));
    assert_false(event_has_seq(event_number(&untold)));
    assert_int_equal(event_number(&other), INT64_MAX);
    assert_true(event_rank(0) < event_rank(event_number(&untold)));
    assert_true(event_rank(event_number(&untold)) < event_rank(event_number(&other)));
    assert_true(event_rank(event_number(&other)) < event_rank(1));
    assert_true(event_rank(1) < event_rank(17));
    assert_true(event_block_add(&b, &e, ms));
    assert_int_equal(event_block_open(close_block(&b), &r), STATUS_OK);
    assert_true(event_next(&r, &v, &st));
    assert_int_equal(v.seq, event_number(&untold));
    Orderdb__V1__ReadChangesResponse *m = unpack(v.framed);
    assert_string_equal(m->events[0]->event_id, "5:4611686018427387946"); /* 2^62 + 42 */
    assert_int_equal(m->events[0]->seq, 0);
    orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    event_block_fini(&b);
}

static void a_head_that_was_made_before_is_taken(void **state)
{
    struct event_block made = {0}, taken = {0};
    struct event e = sample(17);
    uint8_t bytes[ORDER_HEAD_WIRE_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    order_head_write(&w, e.head, ms);
    assert_true(event_block_add(&made, &e, ms));
    e.head_wire = writer_slice(&w);
    assert_true(event_block_add(&taken, &e, ms));
    assert_true(slice_equal(buf_slice(&made.payload), buf_slice(&taken.payload)));
    assert_true(slice_equal(buf_slice(&made.directory), buf_slice(&taken.directory)));
    event_block_fini(&made), event_block_fini(&taken);
}

static void the_stored_bytes_are_golden(void **state)
{
    struct event_block b = {0};
    struct event e = sample(17);
    static uint8_t large[EVENT_CONTENT_BYTES_MAX]; /* an attribute of that size stands for large content: by reference */
    struct event_block refers = {0};
    assert_true(event_block_add(&b, &e, ms));
    e.seq = 18;
    assert_true(event_block_add(&b, &e, ms));
    assert_golden("event_block", close_block(&b));
    e.detail = slice_of(large, sizeof large);
    assert_true(event_block_add(&refers, &e, ms));
    assert_golden("event_block_refers", close_block(&refers));
    event_block_fini(&b);
    event_block_fini(&refers);
}

static void a_summary_is_the_event_without_detail(void **state)
{
    struct event_block b = {0};
    struct event e = sample(3);
    struct event_reader r;
    struct event_view v;
    enum status st;
    assert_true(event_block_add(&b, &e, ms));
    assert_int_equal(event_block_open(close_block(&b), &r), STATUS_OK);
    assert_true(event_next(&r, &v, &st));
    assert_true(slice_equal(v.detail, detail));
    size_t n = event_framed_bytes(v.base, v.brief, 0);
    uint8_t *out = arena_alloc(&arena, n);
    struct writer w = writer_of(out, n);
    event_frame(&w, v.base, v.brief, 0);
    assert_int_equal(w.len, n);
    Orderdb__V1__ReadChangesResponse *m = unpack(writer_slice(&w));
    assert_int_equal(m->events[0]->after->n_items, 0);
    assert_string_equal(m->events[0]->after->status, "PAID");
    assert_string_equal(m->events[0]->after->merchant_id, "m7");
    orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    event_block_fini(&b);
}

static void large_content_is_told_by_reference(void **state)
{
    struct event_block b = {0};
    struct event e = sample(3);
    struct event_reader r;
    struct event_view v;
    enum status st;
    uint8_t *large = arena_zalloc(&arena, EVENT_CONTENT_BYTES_MAX + 1);
    e.detail = slice_of(large, EVENT_CONTENT_BYTES_MAX - summary.len);
    assert_true(event_block_add(&b, &e, ms)); /* exactly the limit: in place */
    e.detail.len++;
    assert_true(event_block_add(&b, &e, ms));
    assert_int_equal(event_block_open(close_block(&b), &r), STATUS_OK);
    assert_true(event_next(&r, &v, &st));
    assert_int_equal(v.flags, 0);
    assert_int_equal(v.detail.len, EVENT_CONTENT_BYTES_MAX - summary.len);
    assert_true(event_next(&r, &v, &st));
    assert_int_equal(v.flags, EVENT_REFERS);
    assert_int_equal(v.order_id, 42);
    assert_int_equal(v.version, 2);
    assert_int_equal(v.detail.len, 0);
    assert_true(v.framed.len < 1024);
    event_block_fini(&b);
}

/* Every prefix, and every byte changed: an event comes back whole, or damage is said; never a read outside. */
static void damage_is_said(void **state)
{
    struct event_block b = {0};
    struct event e = sample(17);
    for (int i = 0; i < 3; i++) assert_true(event_block_add(&b, &e, ms));
    struct slice row = close_block(&b);
    for (size_t n = 0; n < row.len; n++) {
        struct event_reader r;
        struct event_view v;
        uint8_t *cut = mem_alloc(n + 1); /* its own memory: a sanitizer sees a read behind it */
        memcpy(cut, row.data, n);
        enum status st = event_block_open(slice_of(cut, n), &r);
        while (!st && event_next(&r, &v, &st)) {}
        assert_int_equal(st, STATUS_CHECKSUM_MISMATCH);
        mem_free(cut);
    }
    for (size_t i = 0; i < row.len; i++) {
        struct event_reader r;
        struct event_view v;
        uint8_t *bent = mem_alloc(row.len);
        memcpy(bent, row.data, row.len);
        bent[i] ^= 0x80;
        enum status st = event_block_open(slice_of(bent, row.len), &r);
        unsigned n = 0;
        while (!st && n < 10 && event_next(&r, &v, &st)) n++;
        assert_true(n <= 3);
        mem_free(bent);
    }
    event_block_fini(&b);
}

static void no_memory_leaves_the_block_as_it_was(void **state)
{
    struct event_block b = {0};
    struct event e = sample(17);
    for (uint64_t nth = 1; nth <= 2; nth++) {
        mem_fail_nth(nth);
        assert_false(event_block_add(&b, &e, ms));
        mem_fail_nth(0);
        assert_int_equal(event_block_bytes(&b), 0);
        if (nth == 1) continue;
        assert_true(event_block_add(&b, &e, ms));
    }
    event_block_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_is_what_the_contract_says), cmocka_unit_test(the_stored_bytes_are_golden), cmocka_unit_test(a_head_that_was_made_before_is_taken),
        cmocka_unit_test(a_summary_is_the_event_without_detail),
        cmocka_unit_test(an_order_without_a_seq_is_told_by_a_number_of_its_own),
        cmocka_unit_test(large_content_is_told_by_reference), cmocka_unit_test(damage_is_said),                 cmocka_unit_test(no_memory_leaves_the_block_as_it_was),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
