/* engine/order.h: rows come back as they went, damaged ones don't, the chain can be recomputed by a stranger, answers are what protobuf expects. */
#include "tests/lib/test.h"

#include "engine/order.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"

static struct machines *ms;

static struct history_entry sample_entry(int64_t version)
{
    struct history_entry e = {
        .version = version,
        .time_us = 1767225600123456,
        .from = version == 1 ? 0 : 1,
        .to = version == 1 ? 1 : 2,
        .event = version == 1 ? SLICE_LIT("create") : SLICE_LIT("pay"),
        .operator_ = SLICE_LIT("op"),
        .reason = SLICE_LIT("because"),
        .request_id = SLICE_LIT("request-0000000001"),
        .traceparent = SLICE_LIT("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    };
    for (int i = 0; i < SHA256_BYTES; i++) e.chain_hash[i] = (uint8_t)i;
    return e;
}

static struct order_head sample_head(void)
{
    struct order_head h = {.order_id = 0x0102030405060708, .version = 2, .create_us = 1767225600000001, .update_us = -5,
                           .machine = 1, .status = 2, .user_id = SLICE_LIT("alice")};
    for (int i = 0; i < SHA256_BYTES; i++) h.chain_hash[i] = (uint8_t)(0xff - i);
    return h;
}

static struct order_body sample_body(void)
{
    return (struct order_body){.origin = sample_entry(1), .summary = SLICE_LIT("\x12\x05" "alice"), .detail = SLICE_LIT("\xca\x02\x02xy")};
}

static void assert_entries_equal(const struct history_entry *a, const struct history_entry *b)
{
    assert_int_equal(a->version, b->version);
    assert_int_equal(a->time_us, b->time_us);
    assert_int_equal(a->from, b->from);
    assert_int_equal(a->to, b->to);
    assert_true(slice_equal(a->event, b->event));
    assert_true(slice_equal(a->operator_, b->operator_));
    assert_true(slice_equal(a->reason, b->reason));
    assert_true(slice_equal(a->request_id, b->request_id));
    assert_true(slice_equal(a->traceparent, b->traceparent));
    assert_memory_equal(a->chain_hash, b->chain_hash, SHA256_BYTES);
}

static uint8_t bytes[4096];

static struct slice head_row(void)
{
    struct order_head h = sample_head();
    struct writer w = writer_of(bytes, ORDER_HEAD_BYTES_MAX);
    order_head_encode(&h, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct slice entry_row(void)
{
    struct history_entry e = sample_entry(2);
    struct writer w = writer_of(bytes, history_bytes_max(&e));
    history_encode(&e, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct slice body_row(void)
{
    struct order_body b = sample_body();
    struct writer w = writer_of(bytes, order_body_bytes_max(&b));
    order_body_encode(&b, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static void rows_are_the_golden_bytes(void **state)
{
    assert_golden("order_head", head_row());
    assert_golden("history_entry", entry_row());
    assert_golden("order_body", body_row());
}

/* Since there are snapshots of consumer groups. The damaged are refused like the others. */
static void a_head_that_knows_its_seq_is_of_another_format(void **state)
{
    uint8_t cut[ORDER_HEAD_BYTES_MAX];
    struct order_head h = sample_head(), out;
    struct writer w = writer_of(bytes, order_head_bytes_max(&h) + 2);
    h.seq = 300;
    order_head_encode(&h, &w);
    assert_false(w.full);
    assert_golden("order_head_seq", writer_slice(&w));
    assert_int_equal(order_head_decode(writer_slice(&w), &out), STATUS_OK);
    assert_int_equal(out.seq, 300);
    assert_slice(out.user_id, "alice");
    assert_int_equal(order_head_decode(head_row(), &out), STATUS_OK);
    assert_int_equal(out.seq, 0);
    w = writer_of(bytes, sizeof bytes);
    order_head_encode(&h, &w);
    for (size_t n = 0; n < w.len; n++) {
        memcpy(cut, bytes, n);
        assert_int_equal(order_head_decode(slice_of(cut, n), &out), STATUS_CHECKSUM_MISMATCH);
    }
    bytes[w.len - 2] = bytes[w.len - 1] = 0; /* a seq of 0, and a byte too many */
    assert_int_equal(order_head_decode(writer_slice(&w), &out), STATUS_CHECKSUM_MISMATCH);
}

static void rows_come_back(void **state)
{
    struct order_head h, wanted = sample_head();
    assert_int_equal(order_head_decode(head_row(), &h), STATUS_OK);
    assert_int_equal(h.order_id, wanted.order_id);
    assert_int_equal(h.version, 2);
    assert_int_equal(h.create_us, wanted.create_us);
    assert_int_equal(h.update_us, -5);
    assert_int_equal(h.machine, 1);
    assert_int_equal(h.status, 2);
    assert_slice(h.user_id, "alice");
    assert_memory_equal(h.chain_hash, wanted.chain_hash, SHA256_BYTES);

    struct history_entry e, entry = sample_entry(2), origin = sample_entry(1);
    assert_int_equal(history_decode(entry_row(), &e), STATUS_OK);
    assert_entries_equal(&e, &entry);

    struct order_body b;
    assert_int_equal(order_body_decode(body_row(), &b), STATUS_OK);
    assert_entries_equal(&b.origin, &origin);
    assert_true(slice_equal(b.summary, sample_body().summary));
    assert_true(slice_equal(b.detail, sample_body().detail));
}

/* Every shorter or longer row, and one of another format, is refused; no decoder reads outside (asan sees it: the row is cut on the heap). */
static void damaged_rows_are_refused(void **state)
{
    struct order_head h;
    struct history_entry e;
    struct order_body b;
    for (int kind = 0; kind < 3; kind++) {
        struct slice row = kind == 0 ? head_row() : kind == 1 ? entry_row() : body_row();
        for (size_t n = 0; n <= row.len + 1; n++) {
            uint8_t *cut = mem_zalloc(n);
            memcpy(cut, row.data, MIN_OF(n, row.len));
            struct slice s = slice_of(cut, n);
            enum status st = kind == 0 ? order_head_decode(s, &h) : kind == 1 ? history_decode(s, &e) : order_body_decode(s, &b);
            assert_int_equal(st, n == row.len ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
            if (n) cut[0] = 9;
            st = kind == 0 ? order_head_decode(s, &h) : kind == 1 ? history_decode(s, &e) : order_body_decode(s, &b);
            assert_int_equal(st, STATUS_CHECKSUM_MISMATCH);
            mem_free(cut);
        }
    }
}

static void impossible_values_are_refused(void **state)
{
    struct order_head h = sample_head();
    struct history_entry e = sample_entry(2);
    struct order_body b = sample_body();
    struct writer w = writer_of(bytes, sizeof bytes);
    h.version = 0;
    order_head_encode(&h, &w);
    assert_int_equal(order_head_decode(writer_slice(&w), &h), STATUS_CHECKSUM_MISMATCH);
    w = writer_of(bytes, sizeof bytes);
    h = sample_head();
    h.order_id = -1;
    order_head_encode(&h, &w);
    assert_int_equal(order_head_decode(writer_slice(&w), &h), STATUS_CHECKSUM_MISMATCH);
    w = writer_of(bytes, sizeof bytes);
    e.version = 0;
    history_encode(&e, &w);
    assert_int_equal(history_decode(writer_slice(&w), &e), STATUS_CHECKSUM_MISMATCH);
    w = writer_of(bytes, sizeof bytes);
    b.origin.version = 2; /* the origin is version 1 */
    order_body_encode(&b, &w);
    assert_int_equal(order_body_decode(writer_slice(&w), &b), STATUS_CHECKSUM_MISMATCH);
}

static void a_writer_that_is_too_small_says_so(void **state)
{
    struct order_body b = sample_body();
    size_t whole = body_row().len;
    for (size_t cap = 0; cap < whole; cap++) {
        struct writer w = writer_of(bytes, cap);
        order_body_encode(&b, &w);
        assert_true(w.full);
    }
}

/* docs/API.md, "The hash chain", spelled out. */
static void the_chain_is_sha256_over_the_documented_bytes(void **state)
{
    struct history_entry e = sample_entry(2);
    uint8_t previous[SHA256_BYTES], expected[SHA256_BYTES], text[1024];
    for (int i = 0; i < SHA256_BYTES; i++) previous[i] = (uint8_t)(i * 7);
    const char *texts[] = {"pay", "PENDING_PAYMENT", "PAID", "op", "because", "request-0000000001", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"};
    struct writer w = writer_of(text, sizeof text);
    write_bytes(&w, previous, sizeof previous);
    write_be64(&w, 77);
    write_be64(&w, 2);
    write_be64(&w, 1767225600123456);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        write_be32(&w, (uint32_t)strlen(texts[i]));
        write_slice(&w, slice_str(texts[i]));
    }
    struct slice all = writer_slice(&w);
    sha256(expected, &all, 1);
    history_chain(&e, 77, previous, ms);
    assert_memory_equal(e.chain_hash, expected, SHA256_BYTES);
    assert_golden("history_chain", slice_of(e.chain_hash, SHA256_BYTES));
}

static void the_first_entry_comes_from_nowhere(void **state)
{
    struct history_entry e = sample_entry(1), other = sample_entry(1);
    uint8_t zeros[SHA256_BYTES] = {0};
    history_chain(&e, 77, zeros, ms);
    other.reason = SLICE_LIT("becausE");
    history_chain(&other, 77, zeros, ms);
    assert_memory_not_equal(e.chain_hash, other.chain_hash, SHA256_BYTES);
}

static void answers_are_orders_and_entries(void **state)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct order_head h = sample_head();
    h.update_us = 1767225600999999;
    struct slice wire = order_head_wire(&h, ms, &arena);
    Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, wire.len, wire.data);
    assert_non_null(o);
    assert_int_equal(o->order_id, h.order_id);
    assert_string_equal(o->machine, "retail@1");
    assert_string_equal(o->status, "PAID");
    assert_int_equal(o->version, 2);
    assert_int_equal(o->create_time->seconds, 1767225600);
    assert_int_equal(o->create_time->nanos, 1000);
    assert_int_equal(o->update_time->nanos, 999999000);
    orderdb__v1__order__free_unpacked(o, NULL);

    struct history_entry e = sample_entry(1);
    wire = history_wire(&e, ms, &arena);
    Orderdb__V1__HistoryEntry *m = orderdb__v1__history_entry__unpack(NULL, wire.len, wire.data);
    assert_non_null(m);
    assert_int_equal(m->version, 1);
    assert_string_equal(m->event, "create");
    assert_string_equal(m->from_status, "");
    assert_string_equal(m->to_status, "PENDING_PAYMENT");
    assert_int_equal(m->time->nanos, 123456000);
    assert_string_equal(m->operator_, "op");
    assert_string_equal(m->reason, "because");
    assert_string_equal(m->request_id, "request-0000000001");
    assert_int_equal(strlen(m->traceparent), 55);
    assert_int_equal(m->chain_hash.len, SHA256_BYTES);
    orderdb__v1__history_entry__free_unpacked(m, NULL);
    arena_fini(&arena);
}

static void a_full_arena_is_said(void **state)
{
    struct arena arena;
    struct order_head h = sample_head();
    struct history_entry e = sample_entry(2);
    arena_init(&arena, 0);
    assert_null(order_head_wire(&h, ms, &arena).data);
    assert_null(history_wire(&e, ms, &arena).data);
    arena_fini(&arena);
}

static int setup(void **state) { return (ms = machines_new()) ? 0 : -1; }
static int teardown(void **state) { return machines_free(ms), 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_the_golden_bytes),
        cmocka_unit_test(a_head_that_knows_its_seq_is_of_another_format),
        cmocka_unit_test(rows_come_back),
        cmocka_unit_test(damaged_rows_are_refused),
        cmocka_unit_test(impossible_values_are_refused),
        cmocka_unit_test(a_writer_that_is_too_small_says_so),
        cmocka_unit_test(the_chain_is_sha256_over_the_documented_bytes),
        cmocka_unit_test(the_first_entry_comes_from_nowhere),
        cmocka_unit_test(answers_are_orders_and_entries),
        cmocka_unit_test(a_full_arena_is_said),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
