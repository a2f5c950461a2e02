/* engine/command.h: commands and entries come back as they went; damage is refused, never read past. */
#include "tests/lib/test.h"

#include "engine/command.h"
#include "proto/base/mem.h"

static struct arena arena;

static const struct history_entry past[] = {
    {.version = 1, .time_us = 1500000000000000, .to = 1, .event = {(const uint8_t *)"import", 6}},
    {.version = 2, .time_us = 1500000000000001, .from = 1, .to = 2, .event = {(const uint8_t *)"pay", 3}, .operator_ = {(const uint8_t *)"o", 1},
     .reason = {(const uint8_t *)"r", 1}, .request_id = {(const uint8_t *)"q", 1}, .traceparent = {(const uint8_t *)"t", 1}},
};

static struct command sample(enum command_type type)
{
    struct command c = {.type = type};
    c.origin = (struct command_origin){
        .request_id = SLICE_LIT("request-0000000001"),
        .fingerprint = {0x0102030405060708, 0x1112131415161718},
        .ttl_us = 604800000000,
        .operator_ = SLICE_LIT("op"),
        .reason = SLICE_LIT("why"),
        .traceparent = SLICE_LIT("00-a-b-01"),
    };
    switch (type) {
    case COMMAND_CREATE:
        c.create = (struct command_create){SLICE_LIT("alice"), SLICE_LIT("no-1"), SLICE_LIT("retail"), SLICE_LIT("summary"), SLICE_LIT("detail")};
        break;
    case COMMAND_TRANSITION:
    case COMMAND_PATCH:
        c.transition = (struct command_transition){.order_id = 0x0102030405060708, .event = SLICE_LIT("pay"), .to_status = {0}, .expected_status_count = 2,
                                                    .expected_version = 3};
        c.transition.expected_statuses[0] = SLICE_LIT("PENDING_PAYMENT");
        c.transition.expected_statuses[1] = SLICE_LIT("PAID");
        if (type == COMMAND_PATCH) c.transition.patch = (struct content_change){1 << 5, SLICE_LIT("CNY"), SLICE_LIT("summary"), SLICE_LIT("detail")};
        break;
    case COMMAND_IMPORT:
    case COMMAND_IMPORT_UNTOLD:
        c.import = (struct command_import){SLICE_LIT("alice"), SLICE_LIT("no-1"), SLICE_LIT("retail@1"), SLICE_LIT("summary"), SLICE_LIT("detail"), 2, past};
        break;
    case COMMAND_FENCE:
        c.fence.user_id = SLICE_LIT("alice");
        break;
    case COMMAND_UPDATE:
        c.update = (struct command_update){0x0102030405060708, 3, {1 << 5, SLICE_LIT("CNY"), SLICE_LIT("summary"), SLICE_LIT("detail")}};
        break;
    case COMMAND_RESOURCE:
        c.resource = (struct command_resource){3, false, SLICE_LIT("checkout"), SLICE_LIT("resource")};
        break;
    case COMMAND_NODE:
        c.node = (struct command_node){2, 0x0102030405060708, SLICE_LIT("zone-a"), SLICE_LIT("10.0.0.4:7401"), SLICE_LIT("founders")};
        break;
    case COMMAND_MACHINE:
        c.machine.row = SLICE_LIT("row");
        break;
    case COMMAND_SET_TIMER:
        c.set_timer = (struct command_set_timer){0x0102030405060708, 0x1112131415161718, SLICE_LIT("remind"), SLICE_LIT("cancel"), 2, {SLICE_LIT("PAID"), SLICE_LIT("SHIPPED")}};
        break;
    case COMMAND_CANCEL_TIMER:
        c.cancel_timer = (struct command_cancel_timer){0x0102030405060708, SLICE_LIT("remind")};
        break;
    case COMMAND_FIRE:
        c.fire = (struct command_fire){0x0102030405060708, 2, slice_of("0123456789abcdefg0123456789abcdefg", 2 * COMMAND_FIRE_BYTES)};
        break;
    case COMMAND_RETAIN:
        c.retain = (struct command_retain){0x0102030405060708, 0x1112131415161718};
        break;
    case COMMAND_GROUP:
    case COMMAND_GROUP_BRING:
    case COMMAND_GROUP_SETTLE:
    case COMMAND_GROUP_LETTERS:
    case COMMAND_GROUP_REDRIVE:
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SNAPSHOT:
    case COMMAND_GROUP_SEEKING:
    case COMMAND_GROUP_SEEK_YIELD:
    case COMMAND_GROUP_SWEEP:
    case COMMAND_ACKED:
        fail_msg("test_consumer_row.c has those");
        break;
    case COMMAND_BATCH:
        c.batch = (struct command_batch){SLICE_LIT("alice"), 2, SLICE_LIT("\003one\003two")};
        break;
    }
    return c;
}

static const enum command_type types[] = {COMMAND_CREATE, COMMAND_TRANSITION, COMMAND_IMPORT, COMMAND_FENCE, COMMAND_BATCH, COMMAND_UPDATE, COMMAND_PATCH, COMMAND_RESOURCE, COMMAND_MACHINE, COMMAND_NODE, COMMAND_RETAIN,
                                          COMMAND_SET_TIMER, COMMAND_CANCEL_TIMER, COMMAND_FIRE, COMMAND_IMPORT_UNTOLD};

static void assert_changes_equal(const struct content_change *a, const struct content_change *b)
{
    assert_int_equal(a->fields, b->fields);
    assert_true(slice_equal(a->currency, b->currency));
    assert_true(slice_equal(a->summary, b->summary));
    assert_true(slice_equal(a->detail, b->detail));
}

static void assert_commands_equal(const struct command *a, const struct command *b)
{
    assert_int_equal(a->type, b->type);
    assert_true(slice_equal(a->origin.request_id, b->origin.request_id));
    assert_int_equal(a->origin.fingerprint.low, b->origin.fingerprint.low);
    assert_int_equal(a->origin.fingerprint.high, b->origin.fingerprint.high);
    assert_int_equal(a->origin.ttl_us, b->origin.ttl_us);
    assert_true(slice_equal(a->origin.operator_, b->origin.operator_));
    assert_true(slice_equal(a->origin.reason, b->origin.reason));
    assert_true(slice_equal(a->origin.traceparent, b->origin.traceparent));
    if (a->type == COMMAND_CREATE) {
        assert_true(slice_equal(a->create.user_id, b->create.user_id));
        assert_true(slice_equal(a->create.client_order_no, b->create.client_order_no));
        assert_true(slice_equal(a->create.machine, b->create.machine));
        assert_true(slice_equal(a->create.summary, b->create.summary));
        assert_true(slice_equal(a->create.detail, b->create.detail));
    } else if (a->type == COMMAND_TRANSITION || a->type == COMMAND_PATCH) {
        assert_int_equal(a->transition.order_id, b->transition.order_id);
        assert_true(slice_equal(a->transition.event, b->transition.event));
        assert_true(slice_equal(a->transition.to_status, b->transition.to_status));
        assert_int_equal(a->transition.expected_version, b->transition.expected_version);
        assert_int_equal(a->transition.expected_status_count, b->transition.expected_status_count);
        for (unsigned i = 0; i < a->transition.expected_status_count; i++)
            assert_true(slice_equal(a->transition.expected_statuses[i], b->transition.expected_statuses[i]));
        assert_changes_equal(&a->transition.patch, &b->transition.patch);
    } else if (a->type == COMMAND_FENCE) {
        assert_true(slice_equal(a->fence.user_id, b->fence.user_id));
    } else if (a->type == COMMAND_UPDATE) {
        assert_int_equal(a->update.order_id, b->update.order_id);
        assert_int_equal(a->update.expected_version, b->update.expected_version);
        assert_changes_equal(&a->update.change, &b->update.change);
    } else if (a->type == COMMAND_RESOURCE) {
        assert_int_equal(a->resource.kind, b->resource.kind);
        assert_int_equal(a->resource.remove, b->resource.remove);
        assert_true(slice_equal(a->resource.name, b->resource.name));
        assert_true(slice_equal(a->resource.bytes, b->resource.bytes));
    } else if (a->type == COMMAND_NODE) {
        assert_int_equal(a->node.action, b->node.action);
        assert_int_equal(a->node.node_id, b->node.node_id);
        assert_true(slice_equal(a->node.zone, b->node.zone));
        assert_true(slice_equal(a->node.address, b->node.address));
        assert_true(slice_equal(a->node.founders, b->node.founders));
    } else if (a->type == COMMAND_MACHINE) {
        assert_true(slice_equal(a->machine.row, b->machine.row));
    } else if (a->type == COMMAND_SET_TIMER) {
        assert_int_equal(a->set_timer.order_id, b->set_timer.order_id);
        assert_int_equal(a->set_timer.fire_us, b->set_timer.fire_us);
        assert_true(slice_equal(a->set_timer.timer_id, b->set_timer.timer_id));
        assert_true(slice_equal(a->set_timer.event, b->set_timer.event));
        assert_int_equal(a->set_timer.expected_status_count, b->set_timer.expected_status_count);
        for (unsigned i = 0; i < a->set_timer.expected_status_count; i++) assert_true(slice_equal(a->set_timer.expected_statuses[i], b->set_timer.expected_statuses[i]));
    } else if (a->type == COMMAND_CANCEL_TIMER) {
        assert_int_equal(a->cancel_timer.order_id, b->cancel_timer.order_id);
        assert_true(slice_equal(a->cancel_timer.timer_id, b->cancel_timer.timer_id));
    } else if (a->type == COMMAND_FIRE) {
        assert_int_equal(a->fire.floor_us, b->fire.floor_us);
        assert_int_equal(a->fire.count, b->fire.count);
        assert_true(slice_equal(a->fire.packed, b->fire.packed));
    } else if (a->type == COMMAND_RETAIN) {
        assert_int_equal(a->retain.first_place, b->retain.first_place);
        assert_int_equal(a->retain.first_time_us, b->retain.first_time_us);
    } else if (a->type == COMMAND_BATCH) {
        assert_true(slice_equal(a->batch.user_id, b->batch.user_id));
        assert_int_equal(a->batch.count, b->batch.count);
        assert_true(slice_equal(a->batch.packed, b->batch.packed));
    } else {
        assert_true(slice_equal(a->import.user_id, b->import.user_id));
        assert_true(slice_equal(a->import.machine, b->import.machine));
        assert_int_equal(a->import.history_count, b->import.history_count);
        for (unsigned i = 0; i < a->import.history_count; i++) {
            const struct history_entry *x = &a->import.history[i], *y = &b->import.history[i];
            assert_int_equal(x->version, y->version);
            assert_int_equal(x->time_us, y->time_us);
            assert_int_equal(x->from, y->from);
            assert_int_equal(x->to, y->to);
            assert_true(slice_equal(x->event, y->event));
            assert_true(slice_equal(x->traceparent, y->traceparent));
        }
    }
}

static void commands_come_back(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct command c = sample(types[i]), back;
        struct slice s = command_encode(&c, &arena);
        assert_non_null(s.data);
        assert_int_equal(command_decode(s, &arena, &back), STATUS_OK);
        assert_commands_equal(&c, &back);
    }
}

static void the_order_of_a_command_is_told_without_decoding_it(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct command c = sample(types[i]), back;
        struct slice s = command_encode(&c, &arena);
        assert_int_equal(command_decode(s, &arena, &back), STATUS_OK);
        int64_t order_id = back.type == COMMAND_TRANSITION || back.type == COMMAND_PATCH ? back.transition.order_id
                         : back.type == COMMAND_UPDATE ? back.update.order_id
                         : back.type == COMMAND_SET_TIMER ? back.set_timer.order_id
                         : back.type == COMMAND_CANCEL_TIMER ? back.cancel_timer.order_id : 0;
        assert_int_equal(command_order_of(s), order_id);
        for (size_t n = 0; n < s.len; n++) { /* cut: told or not, nothing is read past the end */
            int64_t cut = command_order_of(slice_of(memcpy(arena_alloc(&arena, n + 1), s.data, n), n));
            assert_true(cut == 0 || cut == order_id);
        }
    }
}

static void empty_fields_come_back(void **state)
{
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = 1}}, back;
    assert_int_equal(command_decode(command_encode(&c, &arena), &arena, &back), STATUS_OK);
    assert_commands_equal(&c, &back);
}

static void the_log_bytes_are_golden(void **state)
{
    struct command create = sample(COMMAND_CREATE), transition = sample(COMMAND_TRANSITION), import = sample(COMMAND_IMPORT), fence = sample(COMMAND_FENCE), batch = sample(COMMAND_BATCH), update = sample(COMMAND_UPDATE),
                   patch = sample(COMMAND_PATCH);
    struct command resource = sample(COMMAND_RESOURCE), machine = sample(COMMAND_MACHINE);
    struct slice commands[] = {command_encode(&create, &arena), command_encode(&transition, &arena), command_encode(&import, &arena)};
    uint8_t bytes[2048];
    struct writer w = writer_of(bytes, sizeof bytes);
    entry_head_encode(&w, 1767225600000000, ARRAY_LEN(commands));
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) write_counted(&w, commands[i]);
    assert_golden("command_create", commands[0]);
    assert_golden("command_transition", commands[1]);
    assert_golden("command_import", commands[2]);
    assert_golden("command_fence", command_encode(&fence, &arena));
    assert_golden("command_update", command_encode(&update, &arena));
    assert_golden("command_patch", command_encode(&patch, &arena));
    assert_golden("command_batch", command_encode(&batch, &arena));
    assert_golden("command_resource", command_encode(&resource, &arena));
    assert_golden("command_machine", command_encode(&machine, &arena));
    struct command node = sample(COMMAND_NODE), untold = sample(COMMAND_IMPORT_UNTOLD);
    assert_golden("command_import_untold", command_encode(&untold, &arena));
    assert_golden("command_node", command_encode(&node, &arena));
    struct command retain = sample(COMMAND_RETAIN);
    assert_golden("command_retain", command_encode(&retain, &arena));
    struct command set_timer = sample(COMMAND_SET_TIMER), cancel_timer = sample(COMMAND_CANCEL_TIMER), fire = sample(COMMAND_FIRE);
    assert_golden("command_set_timer", command_encode(&set_timer, &arena));
    assert_golden("command_cancel_timer", command_encode(&cancel_timer, &arena));
    assert_golden("command_fire", command_encode(&fire, &arena));
    assert_golden("command_entry", writer_slice(&w));
}

static void a_cut_or_longer_command_is_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct command c = sample(types[i]), back;
        struct slice s = command_encode(&c, &arena);
        for (size_t n = 0; n <= s.len + 1; n++) {
            uint8_t *cut = mem_zalloc(n);
            memcpy(cut, s.data, MIN_OF(n, s.len));
            enum status st = command_decode(slice_of(cut, n), &arena, &back);
            if (n == s.len) assert_int_equal(st, STATUS_OK);
            else assert_int_equal(st, STATUS_CHECKSUM_MISMATCH);
            mem_free(cut);
        }
    }
}

static void an_unknown_type_is_of_another_version(void **state)
{
    struct command back, c = sample(COMMAND_CREATE);
    struct slice s = command_encode(&c, &arena);
    uint8_t bytes[512];
    memcpy(bytes, s.data, s.len);
    for (int type = 0; type < 256; type++) {
        bool known = type >= COMMAND_GROUP && type <= COMMAND_GROUP_SEEK_YIELD;
        for (size_t i = 0; i < ARRAY_LEN(types); i++) known |= (int)types[i] == type;
        if (known) continue;
        bytes[0] = (uint8_t)type;
        assert_int_equal(command_decode(slice_of(bytes, s.len), &arena, &back), STATUS_FORMAT_UNKNOWN);
    }
}

/* One way to say one thing: a transition without a patch is no COMMAND_PATCH. */
static void a_patch_without_fields_is_refused(void **state)
{
    struct command back, c = sample(COMMAND_TRANSITION);
    struct slice s = command_encode(&c, &arena);
    uint8_t bytes[512] = {0};
    memcpy(bytes, s.data, s.len);
    bytes[0] = COMMAND_PATCH;
    assert_int_equal(command_decode(slice_of(bytes, s.len + 8 + 3), &arena, &back), STATUS_CHECKSUM_MISMATCH);
    bytes[s.len + 7] = 1;
    assert_int_equal(command_decode(slice_of(bytes, s.len + 8 + 3), &arena, &back), STATUS_OK);
    assert_int_equal(back.transition.patch.fields, 1);
}

/* A count is believed only as far as the bytes behind it go. */
static void wild_counts_allocate_nothing(void **state)
{
    struct command back, c = sample(COMMAND_IMPORT);
    c.import.history_count = 0;
    c.import.history = past;
    struct slice s = command_encode(&c, &arena);
    uint8_t bytes[512];
    struct arena small;
    arena_init(&small, 1024);
    memcpy(bytes, s.data, s.len);
    assert_int_equal(command_decode(s, &small, &back), STATUS_CHECKSUM_MISMATCH); /* no history at all */
    struct writer w = writer_of(bytes, sizeof bytes);
    w.len = s.len - 1;
    write_varint(&w, UINT64_MAX);
    assert_int_equal(command_decode(writer_slice(&w), &small, &back), STATUS_CHECKSUM_MISMATCH);
    struct command t = sample(COMMAND_TRANSITION);
    t.transition.expected_status_count = COMMAND_STATUSES_MAX;
    for (unsigned i = 0; i < COMMAND_STATUSES_MAX; i++) t.transition.expected_statuses[i] = SLICE_LIT("X");
    s = command_encode(&t, &arena);
    assert_int_equal(command_decode(s, &small, &back), STATUS_OK);
    uint8_t *more = mem_alloc(s.len);
    memcpy(more, s.data, s.len);
    for (size_t i = 0; i < s.len; i++)
        if (more[i] == COMMAND_STATUSES_MAX && more[i + 1] == 1 && more[i + 2] == 'X') more[i] = COMMAND_STATUSES_MAX + 1;
    assert_int_equal(command_decode(slice_of(more, s.len), &small, &back), STATUS_CHECKSUM_MISMATCH);
    mem_free(more);
    arena_fini(&small);
}

static void a_full_arena_is_said(void **state)
{
    struct arena none;
    struct command back, c = sample(COMMAND_IMPORT);
    struct slice s = command_encode(&c, &arena);
    arena_init(&none, 0);
    assert_null(command_encode(&c, &none).data);
    assert_int_equal(command_decode(s, &none, &back), STATUS_MEMORY_LIMIT);
    arena_init(&none, 1 << 20);
    mem_fail_nth(1);
    assert_null(command_encode(&c, &none).data);
    mem_fail_nth(1);
    assert_int_equal(command_decode(s, &none, &back), STATUS_MEMORY_LIMIT);
    mem_fail_nth(0);
    arena_fini(&none);
}

static void entries_hand_out_their_commands(void **state)
{
    uint8_t bytes[64];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct entry_reader r;
    struct slice command;
    enum status st;
    entry_head_encode(&w, 123, 2);
    write_counted(&w, SLICE_LIT("one"));
    write_counted(&w, SLICE_LIT("two"));
    assert_int_equal(entry_open(writer_slice(&w), &r), STATUS_OK);
    assert_int_equal(r.log_time_us, 123);
    assert_true(entry_next(&r, &command, &st));
    assert_slice(command, "one");
    assert_true(entry_next(&r, &command, &st));
    assert_slice(command, "two");
    assert_false(entry_next(&r, &command, &st));
    assert_int_equal(st, STATUS_OK);
    assert_false(entry_next(&r, &command, &st));
    assert_in_range(ENTRY_HEAD_BYTES_MAX, 1 + 8 + varint_len(UINT64_MAX), 32);
}

static void damaged_entries_are_refused(void **state)
{
    uint8_t bytes[64];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct entry_reader r;
    struct slice command;
    entry_head_encode(&w, 123, 2);
    write_counted(&w, SLICE_LIT("one"));
    write_counted(&w, SLICE_LIT("two"));
    size_t whole = w.len;
    bytes[whole] = 0;
    for (size_t n = 0; n <= whole + 1; n++) {
        enum status st = entry_open(slice_of(bytes, n), &r);
        while (!st && entry_next(&r, &command, &st)) {}
        assert_int_equal(st, n == whole ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
    }
    bytes[0] = ENTRY_FORMAT + 1;
    assert_int_equal(entry_open(slice_of(bytes, whole), &r), STATUS_FORMAT_UNKNOWN);
}

static int setup(void **state) { return arena_init(&arena, 1 << 20), 0; }
static int teardown(void **state) { return arena_fini(&arena), 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_come_back),
        cmocka_unit_test(the_order_of_a_command_is_told_without_decoding_it),
        cmocka_unit_test(empty_fields_come_back),
        cmocka_unit_test(the_log_bytes_are_golden),
        cmocka_unit_test(a_cut_or_longer_command_is_refused),
        cmocka_unit_test(an_unknown_type_is_of_another_version),
        cmocka_unit_test(a_patch_without_fields_is_refused),
        cmocka_unit_test(wild_counts_allocate_nothing),
        cmocka_unit_test(a_full_arena_is_said),
        cmocka_unit_test(entries_hand_out_their_commands),
        cmocka_unit_test(damaged_entries_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
