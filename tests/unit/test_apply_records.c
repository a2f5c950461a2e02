/* engine/apply.h: the records of slots, idempotency and partition as bytes, and how refusals read. What commands do: test_apply.c. */
#include "tests/lib/test.h"

#include "engine/apply.h"

#define T0 1767225600000000ull /* 2026-01-01 */

static struct machines *ms;
static struct arena arena;

/* ---- records */

static void records_are_the_golden_bytes(void **state)
{
    uint8_t bytes[256];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct slot_record slot = {0x0102030405060708, 18, 10, {{0x1234, 0x1235}}}, slot_back; /* 18: two events in the chunk */
    slot_record_encode(&slot, &w);
    assert_true(w.len <= SLOT_RECORD_BYTES_MAX);
    assert_golden("slot_record", writer_slice(&w));
    assert_int_equal(slot_record_decode(writer_slice(&w), &slot_back), STATUS_OK);
    assert_memory_equal(&slot, &slot_back, sizeof slot);
    uint8_t first_format[64]; /* before there were events: their places are not known */
    assert_int_equal(slot_record_decode(slice_of(first_format, test_golden("slot_record_1", first_format, sizeof first_format)), &slot_back), STATUS_OK);
    assert_memory_equal(&slot_back, (&(struct slot_record){0x0102030405060708, 9, 10, {{0}}}), sizeof slot_back);

    w = writer_of(bytes, sizeof bytes);
    struct dedup_record dedup = {.expiry_us = T0, .fingerprint = {11, 12}, .order_id = 13, .version = 14, .seq = 15, .time_us = 16}, dedup_back;
    dedup_record_encode(&dedup, &w);
    assert_int_equal(w.len, DEDUP_RECORD_BYTES);
    assert_int_equal(get_be64(bytes), T0); /* store.h: an expiring row begins with its expiry */
    assert_golden("dedup_record", writer_slice(&w));
    uint8_t fence_bytes[16];
    struct writer fw = writer_of(fence_bytes, sizeof fence_bytes);
    dedup_record_encode(&(struct dedup_record){.expiry_us = T0, .fence = true}, &fw);
    assert_golden("fence_record", writer_slice(&fw));
    assert_int_equal(dedup_record_decode(writer_slice(&w), &dedup_back), STATUS_OK);
    assert_memory_equal(&dedup, &dedup_back, sizeof dedup);

    w = writer_of(bytes, sizeof bytes);
    struct partition_record part = {.applied_index = 17, .applied_term = 18, .log_time_us = T0, .order_count = 19, .machines_known = 23,
                                    .members = {.count = 2, .index = 20}}, part_back;
    part.members.member[0] = (struct group_member){21, GROUP_VOTER};
    part.members.member[1] = (struct group_member){22, GROUP_LEARNER};
    partition_record_encode(&part, &w);
    assert_in_range(w.len, 1, PARTITION_RECORD_BYTES_MAX);
    assert_golden("partition_record", writer_slice(&w));
    assert_int_equal(partition_record_decode(writer_slice(&w), &part_back), STATUS_OK);
    assert_int_equal(part_back.applied_index, 17);
    assert_int_equal(part_back.applied_term, 18);
    assert_int_equal(part_back.log_time_us, T0);
    assert_int_equal(part_back.order_count, 19);
    assert_int_equal(part_back.members.count, 2);
    assert_int_equal(part_back.machines_known, 23);
    assert_int_equal(part_back.members.index, 20);
    assert_int_equal(part_back.members.member[1].node_id, 22);
    assert_int_equal(part_back.members.member[1].kind, GROUP_LEARNER);
}

/* What servers wrote that had the built-in machines alone. */
static void the_partition_record_of_before_is_read(void **state)
{
    uint8_t bytes[256];
    struct partition_record part;
    size_t n = test_golden("partition_record_1", bytes, sizeof bytes);
    assert_int_equal(partition_record_decode(slice_of(bytes, n), &part), STATUS_OK);
    assert_int_equal(part.applied_index, 17);
    assert_int_equal(part.members.member[1].node_id, 22);
    assert_int_equal(part.machines_known, MACHINES_BUILT_IN);
}

static void damaged_records_are_refused(void **state)
{
    uint8_t bytes[3][256];
    struct writer w[3];
    struct slot_record slot = {0};
    struct dedup_record dedup = {0};
    struct partition_record part = {.members = {.count = GROUP_MEMBERS_MAX}};
    for (int i = 0; i < 3; i++) w[i] = writer_of(bytes[i], sizeof bytes[i]);
    slot_record_encode(&slot, &w[0]);
    dedup_record_encode(&dedup, &w[1]);
    partition_record_encode(&part, &w[2]);
    for (int i = 0; i < 3; i++) {
        for (size_t n = 0; n <= w[i].len + 1; n++) {
            struct slice s = slice_of(bytes[i], n);
            enum status st = i == 0 ? slot_record_decode(s, &slot) : i == 1 ? dedup_record_decode(s, &dedup) : partition_record_decode(s, &part);
            assert_int_equal(st, n == w[i].len ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
        }
        bytes[i][i == 1 ? 8 : 0] = 9; /* another format */
        struct slice s = writer_slice(&w[i]);
        enum status st = i == 0 ? slot_record_decode(s, &slot) : i == 1 ? dedup_record_decode(s, &dedup) : partition_record_decode(s, &part);
        assert_int_equal(st, STATUS_CHECKSUM_MISMATCH);
    }
}

/* ---- how refusals read */

static const char *meta_of(const struct failure *f, const char *key)
{
    static char text[256];
    for (const struct failure_meta *m = f->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return snprintf(text, sizeof text, "%.*s", (int)m->value.len, (const char *)m->value.data), text;
    return "(none)";
}

static struct failure failure_of(struct outcome o)
{
    struct failure f;
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_int_equal(f.status, o.status);
    assert_non_null(f.message);
    return f;
}

static void refusals_carry_their_metadata(void **state)
{
    struct failure f = failure_of((struct outcome){.status = STATUS_ORDER_NOT_FOUND, .order_id = 77});
    assert_string_equal(meta_of(&f, "order_id"), "77");
    f = failure_of((struct outcome){.status = STATUS_MACHINE_NOT_FOUND, .machine_reference = SLICE_LIT("shop@1")});
    assert_string_equal(meta_of(&f, "machine"), "shop@1");
    f = failure_of((struct outcome){.status = STATUS_CLIENT_ORDER_NO_TAKEN, .first_order_id = 78, .first_time_us = (int64_t)T0});
    assert_string_equal(meta_of(&f, "order_id"), "78");
    f = failure_of((struct outcome){.status = STATUS_IDEMPOTENCY_KEY_REUSED, .first_order_id = 79, .first_time_us = (int64_t)T0 + 123456});
    assert_string_equal(meta_of(&f, "order_id"), "79");
    assert_string_equal(meta_of(&f, "time"), "2026-01-01T00:00:00.123456Z");
    f = failure_of((struct outcome){.status = STATUS_EDGE_NOT_DEFINED, .machine_reference = SLICE_LIT("retail@1"), .event = SLICE_LIT("fly")});
    assert_string_equal(meta_of(&f, "machine"), "retail@1");
    assert_string_equal(meta_of(&f, "event"), "fly");
    f = failure_of((struct outcome){.status = STATUS_EDGE_NOT_DEFINED, .machine_reference = SLICE_LIT("retail@1"), .event = SLICE_LIT("MOON"),
                                    .by_target = true});
    assert_string_equal(meta_of(&f, "to_status"), "MOON");
    f = failure_of((struct outcome){.status = STATUS_GROUP_NOT_FOUND, .group = {.name = SLICE_LIT("stock")}});
    assert_string_equal(meta_of(&f, "group"), "stock");
    f = failure_of((struct outcome){.status = STATUS_GROUP_EXISTS, .group = {.name = SLICE_LIT("stock")}});
    assert_string_equal(meta_of(&f, "group"), "stock");
    f = failure_of((struct outcome){.status = STATUS_ACK_NOT_IN_FLIGHT, .group = {.slot = 5, .seq = 6}});
    assert_string_equal(meta_of(&f, "event_id"), "5:6");
    struct order_head head = {.order_id = 80, .version = 3, .status = 2};
    f = failure_of((struct outcome){.status = STATUS_VERSION_MISMATCH, .head = head});
    assert_string_equal(meta_of(&f, "status"), "PAID");
    assert_string_equal(meta_of(&f, "version"), "3");
    f = failure_of((struct outcome){.status = STATUS_STATUS_MISMATCH, .head = head, .already_there = true, .winner_request_id = SLICE_LIT("r"),
                                    .winner_time_us = -1});
    assert_string_equal(meta_of(&f, "order_id"), "80");
    assert_string_equal(meta_of(&f, "status"), "PAID");
    assert_string_equal(meta_of(&f, "version"), "3");
    assert_string_equal(meta_of(&f, "already_there"), "true");
    assert_string_equal(meta_of(&f, "winner_request_id"), "r");
    assert_string_equal(meta_of(&f, "winner_time"), "1969-12-31T23:59:59.999999Z");
    f = failure_of((struct outcome){.status = STATUS_STATUS_MISMATCH, .head = head});
    assert_string_equal(meta_of(&f, "already_there"), "false");
    f = failure_of((struct outcome){.status = STATUS_STATUS_MISMATCH, .head = head, .ambiguous = true});
    assert_non_null(strstr(f.message, "name the event"));
    f = failure_of((struct outcome){.status = STATUS_FIELD_INVALID, .expected_index = 3, .expected_name = SLICE_LIT("MOON")});
    assert_string_equal(f.violations->field, "expected_statuses[3]");
    assert_non_null(strstr(f.violations->description, "MOON"));
    failure_of((struct outcome){.status = STATUS_DEADLINE_EXCEEDED});
    failure_of((struct outcome){.status = STATUS_OVERLOADED});
}

static int setup(void **state) { return arena_init(&arena, 1 << 20), (ms = machines_new()) ? 0 : -1; }
static int teardown(void **state) { return arena_fini(&arena), machines_free(ms), 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_are_the_golden_bytes),
        cmocka_unit_test(the_partition_record_of_before_is_read),
        cmocka_unit_test(damaged_records_are_refused),
        cmocka_unit_test(refusals_carry_their_metadata),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
