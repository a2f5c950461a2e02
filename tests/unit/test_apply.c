/* engine/apply.h: what each command comes to, sentence by sentence. Records and the text of refusals: test_apply_records.c;
 * random sequences against a model: tests/sim/sim_apply.c. */
#include "tests/lib/test.h"

#include "engine/userlist.h"
#include "proto/base/mem.h"
#include "tests/lib/apply_fixture.h"

/* ---- builders */

static struct command create_of(const char *user, const char *request_id)
{
    struct command c = {.type = COMMAND_CREATE};
    c.origin = (struct command_origin){.request_id = slice_str(request_id), .fingerprint = {1, 2}, .ttl_us = TTL_US,
                                        .operator_ = SLICE_LIT("op"), .reason = SLICE_LIT("why")};
    c.create = (struct command_create){.user_id = slice_str(user), .summary = SLICE_LIT("s"), .detail = SLICE_LIT("d")};
    return c;
}

static struct command event_of(int64_t order_id, const char *event, const char *request_id)
{
    struct command c = {.type = COMMAND_TRANSITION};
    c.origin = (struct command_origin){.request_id = slice_str(request_id), .fingerprint = {3, 4}, .ttl_us = TTL_US};
    c.transition = (struct command_transition){.order_id = order_id, .event = slice_str(event)};
    return c;
}

static struct command target_of(int64_t order_id, const char *to_status)
{
    struct command c = event_of(order_id, "", "");
    c.transition.to_status = slice_str(to_status);
    return c;
}

static struct history_entry past(int64_t version, const char *event, const char *from, const char *to, int64_t time_us)
{
    return (struct history_entry){.version = version, .time_us = time_us, .event = slice_str(event), .from = from ? machines_status_id(ms, slice_str(from)) : 0,
                                  .to = machines_status_id(ms, slice_str(to)), .request_id = SLICE_LIT("then")};
}

static struct command import_of(const char *user, const char *client_order_no, const struct history_entry *history, unsigned count)
{
    struct command c = {.type = COMMAND_IMPORT};
    c.import = (struct command_import){slice_str(user), slice_str(client_order_no), SLICE_LIT("retail@1"), SLICE_LIT("s"), SLICE_LIT("d"), count, history};
    return c;
}

static struct outcome run(const struct command *c)
{
    struct outcome o;
    struct slice bytes = command_encode(c, &arena);
    assert_non_null(bytes.data);
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}

static struct outcome run_create(const char *user, const char *request_id)
{
    struct command c = create_of(user, request_id);
    return run(&c);
}

static struct outcome run_event(int64_t order_id, const char *event, const char *request_id)
{
    struct command c = event_of(order_id, event, request_id);
    return run(&c);
}

static uint16_t status_id(const char *name) { return machines_status_id(ms, slice_str(name)); }

static bool row_there(const struct key *k)
{
    struct store_view view = rig_view(&rig);
    struct slice row;
    return store_get(&view, key_slice(k), &arena, &row) == STATUS_OK;
}

static void put_row(const struct key *k, struct slice row)
{
    store_batch_clear(rig.batch);
    store_batch_put(rig.batch, key_slice(k), row);
    assert_int_equal(store_apply(rig.store, rig.batch), STATUS_OK);
}

static struct slot_record slot_of(const char *user)
{
    struct store_view view = rig_view(&rig);
    struct key k;
    struct slice row;
    struct slot_record r = {0};
    key_slot(&k, slot_of_user(slice_str(user)));
    if (store_get(&view, key_slice(&k), &arena, &row) == STATUS_OK) assert_int_equal(slot_record_decode(row, &r), STATUS_OK);
    return r;
}

/* ---- create */

static void a_create_answers_the_order_as_written(void **state)
{
    struct outcome o = run_create("alice", "request-0000000001");
    assert_int_equal(o.status, STATUS_OK);
    assert_false(o.replayed);
    assert_int_equal(o.slot, slot_of_user(SLICE_LIT("alice")));
    assert_int_equal(o.seq, 1);
    assert_int_equal(order_id_slot(o.head.order_id), o.slot);
    assert_int_equal(order_id_ms(o.head.order_id), (int64_t)(T0 / 1000));
    assert_int_equal(o.head.version, 1);
    assert_int_equal(o.head.status, status_id("PENDING_PAYMENT"));
    assert_int_equal(o.head.create_us, (int64_t)T0);
    assert_int_equal(o.head.update_us, (int64_t)T0);
    assert_slice(o.head.user_id, "alice");
    assert_slice(o.entry.event, "create");
    assert_int_equal(o.entry.from, 0);
    assert_int_equal(o.entry.version, 1);
    assert_slice(o.entry.operator_, "op");
    assert_slice(o.entry.reason, "why");
    assert_slice(o.entry.request_id, "request-0000000001");
    assert_memory_equal(o.entry.chain_hash, o.head.chain_hash, SHA256_BYTES);
    assert_int_equal(rig.record.order_count, 1);
    assert_int_equal(slot_of("alice").order_count, 1);
}

static void the_same_request_again_gets_the_first_answer(void **state)
{
    struct outcome first = run_create("alice", "request-0000000001"), again;
    run_event(first.head.order_id, "pay", "");
    now_us += 1000000;
    again = run_create("alice", "request-0000000001");
    assert_int_equal(again.status, STATUS_OK);
    assert_true(again.replayed);
    assert_int_equal(again.seq, first.seq);
    assert_int_equal(again.head.order_id, first.head.order_id);
    assert_int_equal(again.head.version, 1); /* as it was then, though it has moved on */
    assert_int_equal(again.head.status, first.head.status);
    assert_int_equal(again.head.update_us, first.head.update_us);
    assert_memory_equal(again.head.chain_hash, first.head.chain_hash, SHA256_BYTES);
    assert_slice(again.entry.event, "create");
    assert_int_equal(slot_of("alice").last_seq, 2);
    assert_int_equal(rig.record.order_count, 1);
}

static void another_request_under_the_same_id_is_refused(void **state)
{
    struct outcome first = run_create("alice", "request-0000000001");
    struct command c = create_of("alice", "request-0000000001");
    for (int i = 0; i < 2; i++) { /* each half of the fingerprint counts */
        c.origin.fingerprint = i ? (struct hash128){1, 3} : (struct hash128){9, 2};
        now_us++;
        struct outcome o = run(&c);
        assert_int_equal(o.status, STATUS_IDEMPOTENCY_KEY_REUSED);
        assert_int_equal(o.first_order_id, first.head.order_id);
        assert_int_equal(o.first_time_us, (int64_t)T0);
    }
    assert_int_equal(slot_of("alice").last_seq, 1);
}

static void an_id_is_scoped_by_user_and_method(void **state)
{
    struct outcome a = run_create("alice", "request-0000000001"), b = run_create("bob", "request-0000000001");
    assert_int_equal(b.status, STATUS_OK);
    assert_false(b.replayed);
    struct outcome t = run_event(a.head.order_id, "pay", "request-0000000001");
    assert_int_equal(t.status, STATUS_OK);
    assert_false(t.replayed);
}

static void an_expired_id_is_a_new_one(void **state)
{
    struct outcome first = run_create("alice", "request-0000000001");
    now_us = T0 + TTL_US - 1;
    assert_true(run_create("alice", "request-0000000001").replayed);
    now_us = T0 + TTL_US; /* at the expiry it is gone, whether or not the store still has the row */
    struct outcome o = run_create("alice", "request-0000000001");
    assert_int_equal(o.status, STATUS_OK);
    assert_false(o.replayed);
    assert_int_not_equal(o.head.order_id, first.head.order_id);
}

static void refusals_are_not_remembered(void **state)
{
    struct command c = create_of("alice", "request-0000000001");
    c.create.machine = SLICE_LIT("retail@9");
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_MACHINE_NOT_FOUND);
    assert_slice(o.machine_reference, "retail@9");
    c.create.machine = SLICE_LIT("retail@1");
    assert_int_equal(run(&c).status, STATUS_OK);
    struct outcome first = run_create("alice", "request-0000000002"), t = run_event(first.head.order_id, "ship", "request-0000000003");
    assert_int_equal(t.status, STATUS_STATUS_MISMATCH);
    run_event(first.head.order_id, "pay", "");
    t = run_event(first.head.order_id, "ship", "request-0000000003");
    assert_int_equal(t.status, STATUS_OK);
    assert_false(t.replayed);
}

static void a_client_order_no_is_unique_per_user(void **state)
{
    struct command c = create_of("alice", "request-0000000001");
    c.create.client_order_no = SLICE_LIT("no-1");
    struct outcome first = run(&c), o;
    c.origin.request_id = SLICE_LIT("request-0000000002");
    now_us++;
    o = run(&c);
    assert_int_equal(o.status, STATUS_CLIENT_ORDER_NO_TAKEN);
    assert_int_equal(o.first_order_id, first.head.order_id);
    assert_int_equal(o.first_time_us, (int64_t)T0);
    c.create.user_id = SLICE_LIT("bob");
    assert_int_equal(run(&c).status, STATUS_OK);
    assert_int_equal(run_create("alice", "request-0000000003").status, STATUS_OK); /* empty is no number */
    assert_int_equal(run_create("alice", "request-0000000004").status, STATUS_OK);
}

static void ids_and_log_time_only_rise(void **state)
{
    int64_t last = 0;
    for (int i = 0; i < 600; i++) { /* more than 256 in one millisecond, and a clock that goes back */
        char id[32];
        snprintf(id, sizeof id, "request-%010d", i);
        now_us = i < 300 ? T0 : T0 - 60000000;
        struct outcome o = run_create("alice", id);
        assert_true(o.head.order_id > last);
        assert_int_equal(o.head.create_us, (int64_t)T0);
        assert_int_equal(o.seq, i + 1);
        last = o.head.order_id;
    }
    assert_int_equal(rig.record.log_time_us, T0);
}

/* 41 bits of milliseconds end in 2094: a mad clock must not use them up. */
static void a_clock_of_the_far_future_is_capped(void **state)
{
    now_us = UINT64_MAX;
    struct outcome o = run_create("alice", "request-0000000001");
    assert_int_equal(o.status, STATUS_OK);
    assert_true(o.head.order_id > 0);
    assert_int_equal(run_create("alice", "request-0000000002").status, STATUS_OK);
}

/* ---- transition */

static void a_transition_moves_head_history_list_and_seq(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct userlist_range all = {.slot = created.slot, .user_id = SLICE_LIT("alice"), .from_us = INT64_MIN, .to_us = INT64_MAX};
    now_us += 5;
    struct outcome o = run_event(created.head.order_id, "pay", "request-0000000002");
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.seq, 2);
    assert_int_equal(o.head.version, 2);
    assert_int_equal(o.head.status, status_id("PAID"));
    assert_int_equal(o.head.create_us, (int64_t)T0);
    assert_int_equal(o.head.update_us, (int64_t)T0 + 5);
    assert_int_equal(o.entry.from, status_id("PENDING_PAYMENT"));
    assert_int_equal(o.entry.to, status_id("PAID"));
    assert_slice(o.entry.event, "pay");
    struct history_entry expected = o.entry;
    history_chain(&expected, o.head.order_id, created.head.chain_hash, ms);
    assert_memory_equal(o.head.chain_hash, expected.chain_hash, SHA256_BYTES);
    static struct status_counts counts;
    struct store_view view = rig_view(&rig);
    assert_int_equal(userlist_count(&view, &arena, &all, &counts), STATUS_OK);
    int64_t paid = 0, others = 0;
    for (unsigned i = 0; i < counts.n; i++) *(counts.at[i].status == status_id("PAID") ? &paid : &others) += counts.at[i].count;
    assert_int_equal(paid, 1);
    assert_int_equal(others, 0);
}

static void a_target_takes_its_only_edge(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct command c = target_of(created.head.order_id, "CANCELLED");
    struct outcome o = run(&c); /* cancel and pay_timeout both lead there */
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    assert_false(o.already_there);
    assert_true(o.ambiguous);
    c = target_of(created.head.order_id, "PAID");
    o = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    assert_slice(o.entry.event, "pay");
    o = run(&c);
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    assert_true(o.already_there);
    c = target_of(created.head.order_id, "DELIVERED");
    o = run(&c);
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    assert_false(o.already_there);
}

static void an_order_that_is_not_there_is_not_found(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    const int64_t ids[] = {created.head.order_id + 1, created.head.order_id + 256 /* another slot's */, 1, -5, INT64_MAX, 0};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        struct outcome o = run_event(ids[i], "pay", "request-0000000002");
        assert_int_equal(o.status, STATUS_ORDER_NOT_FOUND);
        assert_int_equal(o.order_id, ids[i]);
    }
    assert_int_equal(slot_of("alice").last_seq, 1);
}

static void an_edge_that_no_machine_has_is_told_apart(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct outcome o = run_event(created.head.order_id, "teleport", "");
    assert_int_equal(o.status, STATUS_EDGE_NOT_DEFINED);
    assert_slice(o.machine_reference, "retail@1");
    assert_slice(o.event, "teleport");
    assert_false(o.by_target);
    const char *const targets[] = {"MOON", "PENDING_PAYMENT"}; /* no such status; no edge leads there */
    for (size_t i = 0; i < 2; i++) {
        struct command c = target_of(created.head.order_id, targets[i]);
        o = run(&c);
        assert_int_equal(o.status, STATUS_EDGE_NOT_DEFINED);
        assert_true(o.by_target);
        assert_slice(o.event, targets[i]);
    }
}

static void an_unknown_expected_status_is_a_typo(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct command c = event_of(created.head.order_id, "pay", "");
    c.transition.expected_status_count = 2;
    c.transition.expected_statuses[0] = SLICE_LIT("PENDING_PAYMENT");
    c.transition.expected_statuses[1] = SLICE_LIT("PENDING");
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_FIELD_INVALID);
    assert_int_equal(o.expected_index, 1);
    assert_slice(o.expected_name, "PENDING");
}

static void expectations_guard_the_move(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct command c = event_of(created.head.order_id, "pay", "request-0000000002");
    c.transition.expected_version = 2;
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_VERSION_MISMATCH);
    assert_int_equal(o.head.version, 1);
    assert_int_equal(o.head.status, status_id("PENDING_PAYMENT"));
    c.transition.expected_version = 1;
    c.transition.expected_status_count = 1;
    c.transition.expected_statuses[0] = SLICE_LIT("PAID");
    o = run(&c);
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    assert_slice(o.winner_request_id, "request-0000000001");
    assert_int_equal(o.winner_time_us, (int64_t)T0);
    c.transition.expected_status_count = 2;
    c.transition.expected_statuses[1] = SLICE_LIT("PENDING_PAYMENT");
    assert_int_equal(run(&c).status, STATUS_OK);
}

/* not found, replay, edge, typo, version, status: the first that holds is told. */
static void checks_come_in_the_documented_order(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001");
    struct command c = event_of(created.head.order_id, "teleport", "request-0000000002");
    c.transition.expected_version = 7;
    c.transition.expected_status_count = 1;
    c.transition.expected_statuses[0] = SLICE_LIT("MOON");
    assert_int_equal(run(&c).status, STATUS_EDGE_NOT_DEFINED);
    c.transition.event = SLICE_LIT("ship");
    assert_int_equal(run(&c).status, STATUS_FIELD_INVALID);
    c.transition.expected_statuses[0] = SLICE_LIT("PAID");
    assert_int_equal(run(&c).status, STATUS_VERSION_MISMATCH);
    c.transition.expected_version = 1;
    assert_int_equal(run(&c).status, STATUS_STATUS_MISMATCH);
    run_event(created.head.order_id, "pay", "request-0000000003");
    c.transition.expected_version = 2;
    assert_int_equal(run(&c).status, STATUS_OK);
    c.transition.event = SLICE_LIT("teleport"); /* the same fingerprint: replay comes before every other check */
    assert_true(run(&c).replayed);
    c.transition.order_id++;
    assert_int_equal(run(&c).status, STATUS_ORDER_NOT_FOUND);
}

static void a_replayed_transition_answers_as_of_then(void **state)
{
    struct outcome created = run_create("alice", "request-0000000001"), first = run_event(created.head.order_id, "pay", "request-0000000002");
    now_us += 9;
    run_event(created.head.order_id, "ship", "");
    struct outcome again = run_event(created.head.order_id, "pay", "request-0000000002");
    assert_int_equal(again.status, STATUS_OK);
    assert_true(again.replayed);
    assert_int_equal(again.seq, first.seq);
    assert_int_equal(again.head.version, 2);
    assert_int_equal(again.head.status, status_id("PAID"));
    assert_int_equal(again.head.update_us, first.head.update_us);
    assert_slice(again.entry.event, "pay");
    struct outcome bare = run_event(created.head.order_id, "pay", ""); /* without an id there is nothing to replay */
    assert_int_equal(bare.status, STATUS_STATUS_MISMATCH);
    assert_false(bare.already_there); /* SHIPPED is not where "pay" leads */
}

static void race(unsigned per_entry, bool by_version)
{
    enum { RACERS = 100 };
    struct outcome created = run_create("alice", "request-0000000001"), o[RACERS];
    struct slice commands[RACERS];
    unsigned won = 0, winner = 0;
    for (unsigned i = 0; i < RACERS; i++) {
        struct command c = event_of(created.head.order_id, i % 2 ? "pay" : "cancel", arena_printf(&arena, "racer-%010u", i));
        if (by_version) c.transition.expected_version = 1;
        commands[i] = command_encode(&c, &arena);
    }
    for (unsigned i = 0; i < RACERS; i += per_entry) assert_int_equal(rig_apply(&rig, now_us, &commands[i], per_entry, &arena, &o[i]), STATUS_OK);
    for (unsigned i = 0; i < RACERS; i++)
        if (o[i].status == STATUS_OK) won++, winner = i;
    assert_int_equal(won, 1);
    for (unsigned i = 0; i < RACERS; i++) {
        if (i == winner) continue;
        assert_int_equal(o[i].status, by_version ? STATUS_VERSION_MISMATCH : STATUS_STATUS_MISMATCH);
        assert_int_equal(o[i].head.version, 2);
        assert_int_equal(o[i].head.status, o[winner].head.status);
        if (by_version) continue;
        assert_true(slice_equal(o[i].winner_request_id, o[winner].entry.request_id));
        assert_int_equal(o[i].winner_time_us, o[winner].entry.time_us);
        assert_int_equal(o[i].already_there, i % 2 == winner % 2);
    }
    assert_int_equal(slot_of("alice").last_seq, created.seq + 1);
}

static void of_racers_with_one_version_one_wins(void **state) { race(100, true); }
static void of_racers_for_one_status_one_wins(void **state) { race(1, false); }

static void commands_of_one_entry_see_each_other(void **state)
{
    struct command create = create_of("alice", "request-0000000001"), again = create;
    struct slice commands[] = {command_encode(&create, &arena), command_encode(&again, &arena)};
    struct outcome o[2];
    assert_int_equal(rig_apply(&rig, now_us, commands, 2, &arena, o), STATUS_OK);
    assert_false(o[0].replayed);
    assert_true(o[1].replayed);
    assert_int_equal(o[0].head.order_id, o[1].head.order_id);
}

/* ---- import */

static void an_import_brings_its_past(void **state)
{
    const struct history_entry history[] = {
        past(1, "import", NULL, "PENDING_PAYMENT", 1000), past(2, "pay", "PENDING_PAYMENT", "PAID", 2000), past(3, "ship", "PAID", "SHIPPED", 3000),
    };
    struct command c = import_of("alice", "no-1", history, 3);
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    assert_false(o.already_there);
    assert_int_equal(o.head.version, 3);
    assert_int_equal(o.head.status, status_id("SHIPPED"));
    assert_int_equal(o.head.create_us, 1000);
    assert_int_equal(o.head.update_us, 3000);
    assert_int_equal(order_id_ms(o.head.order_id), (int64_t)(T0 / 1000)); /* ids are of our time */
    assert_int_equal(o.seq, 1);
    assert_slice(o.entry.event, "ship");
    struct key k;
    for (int64_t v = 1; v <= 4; v++) {
        key_history(&k, o.head.order_id, v);
        assert_int_equal(row_there(&k), v == 2 || v == 3);
    }
    struct outcome t = run_event(o.head.order_id, "deliver", "request-0000000001");
    assert_int_equal(t.status, STATUS_OK);
    assert_int_equal(t.head.version, 4);
}

/* The rows of any import, and its import again; but no event, and no seq. */
static void an_untold_import_takes_no_seq(void **state)
{
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000), past(2, "pay", "PENDING_PAYMENT", "PAID", 2000)};
    struct command c = import_of("alice", "no-1", history, 2);
    c.type = COMMAND_IMPORT_UNTOLD;
    struct key k;
    struct outcome o = run(&c);
    key_events(&k, rig.record.applied_index, 0);
    assert_false(row_there(&k));
    struct outcome again = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.seq, 0);
    assert_int_equal(o.head.seq, 0);
    assert_int_equal(o.head.version, 2);
    assert_true(again.already_there);
    assert_int_equal(again.head.order_id, o.head.order_id);
    assert_int_equal(slot_of("alice").last_seq, 0);
    assert_int_equal(slot_of("alice").order_count, 1);
    assert_int_equal(rig.record.order_count, 1);
    struct outcome t = run_event(o.head.order_id, "ship", "");
    key_events(&k, rig.record.applied_index, 0);
    assert_true(row_there(&k));
    assert_int_equal(t.seq, 1);
    assert_int_equal(t.head.seq, 1);
    assert_int_equal(t.head.version, 3);
    c = import_of("alice", "no-2", history, 2);
    c.type = COMMAND_IMPORT_UNTOLD;
    assert_int_equal(run(&c).status, STATUS_OK);
    assert_int_equal(slot_of("alice").last_seq, 1);
    assert_int_equal(run_create("alice", "request-0000000001").seq, 2);
}

static void a_second_import_changes_nothing(void **state)
{
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000)};
    struct command c = import_of("alice", "no-1", history, 1);
    struct outcome first = run(&c);
    run_event(first.head.order_id, "pay", "");
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    assert_true(o.already_there);
    assert_int_equal(o.head.order_id, first.head.order_id);
    assert_int_equal(o.head.version, 2); /* as it is now */
    assert_int_equal(slot_of("alice").last_seq, 2);
    assert_int_equal(slot_of("alice").order_count, 1);
}

static void an_import_finds_a_created_order_and_the_other_way_round(void **state)
{
    struct command create = create_of("alice", "request-0000000001");
    create.create.client_order_no = SLICE_LIT("no-1");
    struct outcome created = run(&create);
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000)};
    struct command c = import_of("alice", "no-1", history, 1);
    struct outcome o = run(&c);
    assert_true(o.already_there);
    assert_int_equal(o.head.order_id, created.head.order_id);
    c = import_of("alice", "no-2", history, 1);
    o = run(&c);
    create = create_of("alice", "request-0000000002");
    create.create.client_order_no = SLICE_LIT("no-2");
    assert_int_equal(run(&create).first_order_id, o.head.order_id);
}

/* An imported history may end ahead of our clock: what follows is not before it. */
static void history_never_goes_back(void **state)
{
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", (int64_t)T0 + 77)};
    struct command c = import_of("alice", "no-1", history, 1);
    struct outcome o = run(&c), t = run_event(o.head.order_id, "pay", "");
    assert_int_equal(t.entry.time_us, (int64_t)T0 + 77);
    now_us += 100;
    t = run_event(o.head.order_id, "ship", "");
    assert_int_equal(t.entry.time_us, (int64_t)T0 + 100);
}

static void an_import_for_an_unknown_machine_is_refused(void **state)
{
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000)};
    struct command c = import_of("alice", "no-1", history, 1);
    c.import.machine = SLICE_LIT("shop@1");
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_MACHINE_NOT_FOUND);
    assert_slice(o.machine_reference, "shop@1");
}

/* ---- faults: the entry is not applied, and applying it again later works */

static void fault_of(const struct command *c, enum status expected)
{
    struct outcome o;
    struct slice bytes = command_encode(c, &arena);
    uint64_t index = rig.record.applied_index;
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), expected);
    assert_int_equal(rig.record.applied_index, index);
}

static void damage_is_a_fault_not_a_refusal(void **state)
{
    struct outcome o = run_create("alice", "request-0000000001");
    struct command pay = event_of(o.head.order_id, "pay", "request-0000000002"), ship = event_of(o.head.order_id, "ship", "");
    struct command again = create_of("alice", "request-0000000001");
    struct key k;
    key_body(&k, o.head.order_id);
    put_row(&k, SLICE_LIT("broken"));
    fault_of(&ship, STATUS_CHECKSUM_MISMATCH); /* the winner is in the body */
    fault_of(&again, STATUS_CHECKSUM_MISMATCH);
    key_slot(&k, o.slot);
    put_row(&k, SLICE_LIT("broken"));
    fault_of(&pay, STATUS_CHECKSUM_MISMATCH);
    key_dedup(&k, o.slot, SLICE_LIT("alice"), SLICE_LIT("request-0000000002"), REQUEST_TRANSITION);
    put_row(&k, SLICE_LIT("broken"));
    fault_of(&pay, STATUS_CHECKSUM_MISMATCH);
    key_head(&k, o.head.order_id);
    put_row(&k, SLICE_LIT("broken"));
    fault_of(&pay, STATUS_CHECKSUM_MISMATCH);
    struct command numbered = create_of("alice", "request-0000000009");
    numbered.create.client_order_no = SLICE_LIT("no-1");
    key_client_no(&k, o.slot, SLICE_LIT("alice"), SLICE_LIT("no-1"));
    put_row(&k, SLICE_LIT("broken"));
    fault_of(&numbered, STATUS_CHECKSUM_MISMATCH);
    put_row(&k, SLICE_LIT("\0\0\0\0\0\0\0\7")); /* names an order that is not there */
    fault_of(&numbered, STATUS_CHECKSUM_MISMATCH);
}

static void a_history_that_check_would_refuse_is_damage(void **state)
{
    struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000), past(2, "pay", "PENDING_PAYMENT", "PAID", 2000)};
    struct command c = import_of("alice", "no-1", history, 2);
    history[1].version = 3;
    fault_of(&c, STATUS_CHECKSUM_MISMATCH);
    history[1].version = 2, history[1].from = status_id("SHIPPED");
    fault_of(&c, STATUS_CHECKSUM_MISMATCH);
    history[1].from = status_id("PENDING_PAYMENT"), history[1].to = 999;
    fault_of(&c, STATUS_CHECKSUM_MISMATCH);
    history[1].to = status_id("PAID"), history[0].to = status_id("PAID");
    fault_of(&c, STATUS_CHECKSUM_MISMATCH);
}

static void a_command_that_does_not_decode_is_a_fault(void **state)
{
    struct outcome o;
    struct slice unknown = SLICE_LIT("\x7f"), empty = {0};
    assert_int_equal(rig_apply(&rig, now_us, &unknown, 1, &arena, &o), STATUS_FORMAT_UNKNOWN);
    assert_int_equal(rig_apply(&rig, now_us, &empty, 1, &arena, &o), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(rig.record.applied_index, 0);
}

/* Whichever allocation fails: a fault, nothing applied, and the same entry applies when memory is back. */
static void each_failing_allocation_leaves_nothing(void **state)
{
    const struct history_entry history[] = {past(1, "import", NULL, "PENDING_PAYMENT", 1000), past(2, "pay", "PENDING_PAYMENT", "PAID", 2000)};
    static char big[20000];
    memset(big, 'x', sizeof big);
    struct command commands[3] = {create_of("alice", "request-0000000001"), import_of("alice", "no-1", history, 2), {0}};
    commands[0].create.detail = slice_of(big, sizeof big); /* beyond the arena's first chunk */
    for (int i = 0; i < 3; i++) {
        if (i == 2) {
            struct outcome o = run_create("alice", "request-0000000077");
            commands[2] = event_of(o.head.order_id, "pay", "request-0000000078");
        }
        struct slice bytes = command_encode(&commands[i], &arena);
        unsigned faults = 0;
        for (uint64_t n = 1;; n++) {
            struct slot_record before = slot_of("alice");
            arena_fini(&rig.scratch); /* no chunk kept: scratch asks the heap as well */
            arena_init(&rig.scratch, APPLY_SCRATCH_BYTES);
            uint64_t index = rig.record.applied_index;
            mem_fail_nth(n);
            enum status st = rig_apply(&rig, now_us, &bytes, 1, NULL, NULL);
            mem_fail_nth(0);
            if (!st) break;
            faults++;
            struct slot_record after = slot_of("alice");
            assert_memory_equal(&before, &after, sizeof before);
            assert_int_equal(rig.record.applied_index, index);
        }
        assert_true(faults > 0);
    }
    assert_int_equal(slot_of("alice").order_count, 3);
}

static void an_answer_without_room_is_of_unknown_outcome(void **state)
{
    struct arena none;
    arena_init(&none, 0);
    struct command c = create_of("alice", "request-0000000001");
    struct slice bytes = command_encode(&c, &arena);
    struct outcome o;
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &none, &o), STATUS_OK);
    assert_int_equal(o.status, STATUS_DEADLINE_EXCEEDED);
    assert_int_equal(rig.record.order_count, 1);
    assert_true(run(&c).replayed);
}

static void the_largest_commands_fit_the_scratch(void **state)
{
    enum { DETAIL_BYTES = 1 << 20, ENTRIES = 1000 };
    struct command c = create_of("alice", "request-0000000001");
    uint8_t *detail = mem_zalloc(DETAIL_BYTES);
    c.create.detail = slice_of(detail, DETAIL_BYTES);
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(run_event(o.head.order_id, "ship", "").status, STATUS_STATUS_MISMATCH); /* reads the body */
    struct history_entry *history = mem_zalloc(ENTRIES * sizeof *history);
    history[0] = past(1, "import", NULL, "PENDING_PAYMENT", 1000);
    for (int i = 1; i < ENTRIES; i++) history[i] = past(i + 1, "update", "PENDING_PAYMENT", "PENDING_PAYMENT", 1000 + i);
    c = import_of("alice", "no-1", history, ENTRIES);
    c.import.detail = slice_of(detail, DETAIL_BYTES - 64 * ENTRIES);
    o = run(&c);
    assert_int_equal(o.head.version, ENTRIES);
    mem_free(history);
    mem_free(detail);
}

#define with_rig(t) cmocka_unit_test_setup_teardown(t, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_rig(a_create_answers_the_order_as_written),
        with_rig(the_same_request_again_gets_the_first_answer),
        with_rig(another_request_under_the_same_id_is_refused),
        with_rig(an_id_is_scoped_by_user_and_method),
        with_rig(an_expired_id_is_a_new_one),
        with_rig(refusals_are_not_remembered),
        with_rig(a_client_order_no_is_unique_per_user),
        with_rig(ids_and_log_time_only_rise),
        with_rig(a_clock_of_the_far_future_is_capped),
        with_rig(a_transition_moves_head_history_list_and_seq),
        with_rig(a_target_takes_its_only_edge),
        with_rig(an_order_that_is_not_there_is_not_found),
        with_rig(an_edge_that_no_machine_has_is_told_apart),
        with_rig(an_unknown_expected_status_is_a_typo),
        with_rig(expectations_guard_the_move),
        with_rig(checks_come_in_the_documented_order),
        with_rig(a_replayed_transition_answers_as_of_then),
        with_rig(of_racers_with_one_version_one_wins),
        with_rig(of_racers_for_one_status_one_wins),
        with_rig(commands_of_one_entry_see_each_other),
        with_rig(an_import_brings_its_past),
        with_rig(an_untold_import_takes_no_seq),
        with_rig(a_second_import_changes_nothing),
        with_rig(an_import_finds_a_created_order_and_the_other_way_round),
        with_rig(history_never_goes_back),
        with_rig(an_import_for_an_unknown_machine_is_refused),
        with_rig(damage_is_a_fault_not_a_refusal),
        with_rig(a_history_that_check_would_refuse_is_damage),
        with_rig(a_command_that_does_not_decode_is_a_fault),
        with_rig(each_failing_allocation_leaves_nothing),
        with_rig(an_answer_without_room_is_of_unknown_outcome),
        with_rig(the_largest_commands_fit_the_scratch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
