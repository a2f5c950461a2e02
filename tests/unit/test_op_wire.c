/* The promises of server/op_wire.h: ops and what came of them, there and back. */
#include "tests/lib/test.h"

#include "engine/filter.h"
#include "server/op_wire.h"

enum { PARTITIONS = 2048 }; /* of 8 slots each */
static struct arena there, here;
static struct buf wire;

static int begin(void **state) {
    arena_init(&there, 4 << 20);
    arena_init(&here, 4 << 20);
    wire = (struct buf){0};
    return 0;
}
static int end(void **state) {
    arena_fini(&there);
    arena_fini(&here);
    buf_fini(&wire);
    return 0;
}

static struct op travelled(const struct op *op) {
    struct op got = {.arena = &there};
    uint64_t deadline_ms;
    wire.len = 0;
    assert_true(op_wire_write(&wire, op, 1234, PARTITIONS));
    for (size_t n = 0; n < wire.len; n++) { /* torn anywhere */
        struct op torn = {.arena = &there};
        arena_reset(&there);
        assert_int_not_equal(op_wire_read(slice_of(wire.data, n), &torn, &deadline_ms, PARTITIONS), STATUS_OK);
    }
    assert_int_equal(op_wire_read(buf_slice(&wire), &got, &deadline_ms, PARTITIONS), STATUS_OK);
    assert_int_equal(deadline_ms, 1234);
    assert_int_equal(got.kind, op->kind);
    assert_int_equal(got.slot, op->slot);
    return got;
}

/* The caller's array. */
static int64_t *there_slots(void) {
    static int64_t slots[SLOT_COUNT];
    memset(slots, 0, sizeof slots);
    return slots;
}

/* What `op` at the other node came to, into an op as it was asked. */
static struct op came_home(struct op *op) {
    struct op got = {.kind = op->kind, .slot = op->slot, .arena = &here};
    if (op->kind == OP_GET_MANY) got.get_many = op->get_many;
    if (op->kind == OP_FEED_SEEK) got.seek.behind = there_slots();
    if (op->kind == OP_GROUP_POSITIONS) got.positions.behind = there_slots();
    if (op->kind == OP_FEED_READ) got.feed.behind = there_slots();
    if (op->kind == OP_CENSUS) got.census = op->census;
    failure_init(&got.failure, &here);
    wire.len = 0;
    assert_true(op_wire_write_outcome(&wire, op, PARTITIONS));
    for (size_t n = 0; n < wire.len; n++) {
        struct op torn = got;
        failure_init(&torn.failure, &here);
        assert_int_not_equal(op_wire_read_outcome(slice_of(wire.data, n), &torn, PARTITIONS), STATUS_OK);
    }
    assert_int_equal(op_wire_read_outcome(buf_slice(&wire), &got, PARTITIONS), STATUS_OK);
    memset(wire.data, 0xee, wire.len); /* nothing of it is borrowed */
    return got;
}

static void test_requests(void **state) {
    struct op op = {.kind = OP_WRITE, .slot = 77, .command = SLICE_LIT("a command"), .answer_bytes_max = 99}, got = travelled(&op);
    assert_slice(got.command, "a command");
    assert_int_equal(got.answer_bytes_max, 99);

    op = (struct op){.kind = OP_GET, .slot = 1, .get = {.order_id = INT64_MAX, .full = true, .history_entries = -3, .has_as_of = true, .as_of_us = INT64_MIN}};
    got = travelled(&op);
    assert_memory_equal(&got.get, &op.get, sizeof op.get);

    op.bound = (struct read_bound){.stale = true, .token = true, .stale_ns = READ_STALE_NS_MAX, .slot = 16383, .seq = INT64_MAX};
    got = travelled(&op);
    assert_true(got.bound.stale && got.bound.token && got.bound.stale_ns == READ_STALE_NS_MAX && got.bound.slot == 16383 && got.bound.seq == INT64_MAX);
    assert_int_equal(got.get.order_id, INT64_MAX);

    static const int64_t ids[] = {5, 6, INT64_MAX};
    op = (struct op){.kind = OP_GET_MANY, .slot = 2, .get_many = {ids, 3, true}};
    got = travelled(&op);
    assert_int_equal(got.get_many.count, 3);
    assert_true(got.get_many.full);
    assert_memory_equal(got.get_many.order_ids, ids, sizeof ids);

    static const struct slice statuses[] = {{(const uint8_t *)"PAID", 4}, {(const uint8_t *)"SHIPPED", 7}};
    op = (struct op){.kind = OP_LIST, .slot = 3, .list = {.user_id = SLICE_LIT("u"), .statuses = statuses, .status_count = 2, .has_to = true, .to_us = -1, .page_size = 20, .page_number = -1,
                                                          .page_token = SLICE_LIT("token")}};
    got = travelled(&op);
    assert_slice(got.list.user_id, "u");
    assert_int_equal(got.list.status_count, 2);
    assert_slice(got.list.statuses[1], "SHIPPED");
    assert_true(got.list.has_to && !got.list.has_from && !got.list.full);
    assert_int_equal(got.list.to_us, -1);
    assert_int_equal(got.list.page_size, 20);
    assert_int_equal(got.list.page_number, -1);
    assert_slice(got.list.page_token, "token");

    op = (struct op){.kind = OP_HISTORY, .slot = 4, .history = {.order_id = 9, .page_size = 3, .page_token = SLICE_LIT("t")}};
    got = travelled(&op);
    assert_int_equal(got.history.order_id, 9);
    assert_slice(got.history.page_token, "t");

    op = (struct op){.kind = OP_RESOURCES, .slot = SLOT_META, .resources = {.kind = RESOURCE_LIMIT, .page_size = 7}};
    got = travelled(&op);
    assert_int_equal(got.resources.kind, RESOURCE_LIMIT);
    assert_int_equal(got.resources.page_size, 7);
    (void)travelled(&(struct op){.kind = OP_STATS, .slot = 5});
    (void)travelled(&(struct op){.kind = OP_NODES, .slot = SLOT_META});
    assert_int_equal(travelled(&(struct op){.kind = OP_GROUPS, .slot = SLOT_META, .groups.seek_of = 7}).groups.seek_of, 7);
    assert_int_equal(travelled(&(struct op){.kind = OP_TRANSFER, .slot = 6, .to_node_id = 1000000}).to_node_id, 1000000);
}

static void test_what_does_not_travel_is_refused(void **state) {
    struct op op = {.arena = &there};
    uint64_t deadline_ms;
    for (unsigned k = 0; k < 128; k++) {
        uint8_t bytes[] = {(uint8_t)k, 1, 0, 0};
        bool travels = k < OP_KINDS && op_wire_travels((enum op_kind)k);
        if (!travels) assert_int_equal(op_wire_read(slice_of(bytes, sizeof bytes), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    }
    static const uint8_t no_slot[] = {OP_STATS, 0x80, 0x80, 1, 0, 0}, spare[] = {OP_STATS, 1, 16, 0}, bound_stats[] = {OP_STATS, 1, 32, 0, 1, 1}, bound_slot[] = {OP_GET, 1, 32, 0, 0x80, 0x80, 1, 1, 1, 0, 0}, behind[] = {OP_STATS, 1, 0, 0, 0}, many[] = {OP_GET_MANY, 1, 0, 0, 0xe9, 7};
    assert_int_equal(op_wire_read(slice_of(no_slot, sizeof no_slot), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID); /* slot 16384 */
    assert_int_equal(op_wire_read(slice_of(spare, sizeof spare), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    assert_int_equal(op_wire_read(slice_of(bound_stats, sizeof bound_stats), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    assert_int_equal(op_wire_read(slice_of(bound_slot, sizeof bound_slot), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID); /* a token of slot 16384 */
    assert_int_equal(op_wire_read(slice_of(behind, sizeof behind), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    assert_int_equal(op_wire_read(slice_of(many, sizeof many), &op, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID); /* 1,001 ids, and none there */
}

static void test_a_refusal_keeps_its_details(void **state) {
    struct op op = {.kind = OP_WRITE, .slot = 1, .maybe = true};
    failure_init(&op.failure, &there);
    op.failure.retry_delay_ms = 250;
    failure_meta(&op.failure, "current_status", "%s", "PAID");
    failure_meta(&op.failure, "winner", "%d", 7);
    failure_violation(&op.failure, STATUS_FIELD_INVALID, "order.items[0]", "is %s", "odd");
    op.failure.violation_count = 30;
    struct op got = came_home(&op);
    assert_int_equal(got.failure.status, STATUS_FIELD_INVALID);
    assert_string_equal(got.failure.message, op.failure.message);
    assert_int_equal(got.failure.retry_delay_ms, 250);
    assert_string_equal(got.failure.metas->key, "current_status");
    assert_slice(got.failure.metas->next->value, "7");
    assert_string_equal(got.failure.violations->field, "order.items[0]");
    assert_string_equal(got.failure.violations->description, "is odd");
    assert_int_equal(got.failure.violation_count, 30);
    assert_true(got.maybe);
    assert_true(slice_equal(failure_encode(&got.failure), failure_encode(&op.failure))); /* what the client reads */
}

static struct outcome example(int64_t id) {
    return (struct outcome){.replayed = true, .already_there = id % 2, .slot = 5, .seq = 70 + id, .head = {.order_id = id, .version = 3},
                            .entry = {.version = 3, .time_us = 8, .from = 1, .to = 2, .event = SLICE_LIT("pay"), .operator_ = SLICE_LIT("op"), .reason = SLICE_LIT("why"),
                                      .request_id = SLICE_LIT("r-1"), .traceparent = SLICE_LIT("tp"), .timers = SLICE_LIT("t"), .chain_hash = {1, 2, 3}}};
}
static void same(const struct outcome *a, const struct outcome *b) {
    assert_int_equal(a->replayed, b->replayed);
    assert_int_equal(a->already_there, b->already_there);
    assert_int_equal(a->slot, b->slot);
    assert_int_equal(a->seq, b->seq);
    assert_int_equal(a->head.order_id, b->head.order_id);
    assert_int_equal(a->head.version, b->head.version);
    assert_int_equal(a->entry.version, b->entry.version);
    assert_int_equal(a->entry.to, b->entry.to);
    assert_true(slice_equal(a->entry.event, b->entry.event) && slice_equal(a->entry.request_id, b->entry.request_id) && slice_equal(a->entry.timers, b->entry.timers));
    assert_true(slice_equal(a->entry.operator_, b->entry.operator_) && slice_equal(a->entry.reason, b->entry.reason) && slice_equal(a->entry.traceparent, b->entry.traceparent));
    assert_memory_equal(a->entry.chain_hash, b->entry.chain_hash, sizeof a->entry.chain_hash);
}

static void test_writes_come_home(void **state) {
    struct op op = {.kind = OP_WRITE, .slot = 5, .answer = SLICE_LIT("an order"), .outcome = example(12)};
    op.outcome.resource = (struct resource_outcome){.effect = RESOURCE_REPLACED, .kind = 3, .name = SLICE_LIT("n"), .bytes = SLICE_LIT("b"), .revision = 4, .machine = 9, .version = 2, .newest = -1};
    op.outcome.group = (struct group_outcome){.group_id = 6, .revision = 8, .epoch = 2, .count = 11, .more = true};
    struct op got = came_home(&op);
    same(&got.outcome, &op.outcome);
    assert_slice(got.answer, "an order");
    assert_int_equal(got.outcome.resource.effect, RESOURCE_REPLACED);
    assert_slice(got.outcome.resource.bytes, "b");
    assert_int_equal(got.outcome.resource.machine, 9);
    assert_int_equal(got.outcome.resource.newest, -1);
    assert_int_equal(got.outcome.group.group_id, 6);
    assert_int_equal(got.outcome.group.count, 11);
    assert_true(got.outcome.group.more);

    struct outcome items[2] = {example(1), example(2)};
    struct slice orders[2] = {SLICE_LIT("first"), SLICE_LIT("second")};
    op = (struct op){.kind = OP_VALIDATE, .slot = 5, .orders = orders, .outcome = {.batch = true, .item_count = 2, .items = items}};
    got = came_home(&op);
    assert_int_equal(got.outcome.item_count, 2);
    same(&got.outcome.items[1], &items[1]);
    assert_slice(got.orders[0], "first");
}

static void test_reads_come_home(void **state) {
    struct op op = {.kind = OP_LIST, .slot = 1, .answer = SLICE_LIT("a page")}, got = came_home(&op);
    assert_slice(got.answer, "a page");
    static const int64_t ids[] = {5, 6, 7};
    struct slice orders[] = {SLICE_LIT("five"), {0}, SLICE_LIT("seven")};
    op = (struct op){.kind = OP_GET_MANY, .slot = 1, .get_many = {ids, 3, false}, .orders = orders};
    got = came_home(&op);
    assert_slice(got.orders[0], "five");
    assert_null(got.orders[1].data); /* there is no such order */
    assert_slice(got.orders[2], "seven");
    op = (struct op){.kind = OP_STATS, .slot = 1, .stats = {.machines_known = 3, .applied_index = 1ull << 40, .term = 7, .leader_node = 2, .ready = true, .leader = true, .orders = 5, .table_bytes = 6,
                                                            .memtable_bytes = 8, .writes_per_second = 9, .reads_per_second = 10, .replica_count = 2, .replicas = {{1, GROUP_VOTER, 11}, {4, GROUP_LEARNER, 0}}}};
    got = came_home(&op);
    assert_memory_equal(&got.stats, &op.stats, sizeof op.stats);
    op.stats.replicas[1].kind = GROUP_SPARE + 1; /* no such kind */
    struct buf odd = {0};
    assert_true(op_wire_write_outcome(&odd, &op, PARTITIONS));
    assert_int_equal(op_wire_read_outcome(buf_slice(&odd), &got, PARTITIONS), STATUS_FIELD_INVALID);
    buf_fini(&odd);
    op = (struct op){.kind = OP_TRANSFER, .slot = 1};
    (void)came_home(&op);
    op = (struct op){.kind = OP_NODES, .slot = SLOT_META, .answer = SLICE_LIT("rows")};
    got = came_home(&op);
    assert_slice(got.answer, "rows");
    struct consumer_group_row rows[] = {{.group_id = 4, .revision = 5, .epoch = 6, .definition = SLICE_LIT("defined")}, {.group_id = 9, .revision = 1, .definition = SLICE_LIT("too")}};
    op = (struct op){.kind = OP_GROUPS, .slot = SLOT_META, .groups = {.rows = rows, .count = 2, .seek = SLICE_LIT("a seek")}};
    rows[1].seeking_us = 1ull << 50;
    got = came_home(&op);
    assert_int_equal(got.groups.count, 2);
    assert_int_equal(got.groups.rows[0].group_id, 4);
    assert_int_equal(got.groups.rows[0].epoch, 6);
    assert_slice(got.groups.rows[1].definition, "too");
    assert_int_equal(got.groups.rows[0].seeking_us, 0);
    assert_int_equal(got.groups.rows[1].seeking_us, 1ull << 50);
    assert_slice(got.groups.seek, "a seek");
}

static void test_what_does_not_fit_is_told(void **state) {
    static uint8_t large[100000];
    struct arena small;
    arena_init(&small, 20000);
    struct op op = {.kind = OP_GET, .slot = 1, .answer = slice_of(large, sizeof large)}, got = {.kind = OP_GET, .arena = &small};
    failure_init(&got.failure, &small);
    assert_true(op_wire_write_outcome(&wire, &op, PARTITIONS));
    assert_int_equal(op_wire_read_outcome(buf_slice(&wire), &got, PARTITIONS), STATUS_MEMORY_LIMIT);
    arena_fini(&small);
    static const uint8_t unknown[] = {0xff, 1, 0};
    assert_int_equal(op_wire_read_outcome(slice_of(unknown, sizeof unknown), &got, PARTITIONS), STATUS_FIELD_INVALID);
}

static int64_t behind[SLOT_COUNT], target[SLOT_COUNT];

/* Of slots 8 to 15, the second partition's: what of others is there stays at home. */
static void by_slot(int64_t *seqs, int64_t first) {
    for (unsigned i = 0; i < SLOT_COUNT; i++) seqs[i] = first + i;
}
static void assert_second_partition(const int64_t *got, int64_t first) {
    for (unsigned i = 0; i < 24; i++) assert_int_equal(got[i], i >= 8 && i < 16 ? first + i : 0);
}

static void test_of_groups(void **state) {
    struct op op = {.kind = OP_GROUP_LAG, .slot = 9, .lag = {.group_id = 3, .asked_max = 1000}}, got = travelled(&op);
    assert_int_equal(got.lag.group_id, 3);
    assert_int_equal(got.lag.asked_max, 1000);
    op.lag = (struct consumer_lag){.oldest_us = 5, .events = 1ull << 40, .estimated = true, .orders_left = 6, .in_flight = 7, .blocked_keys = 8, .dead_letters = 9, .members = 10};
    got = came_home(&op);
    assert_memory_equal(&got.lag, &op.lag, sizeof op.lag);

    by_slot(behind, 100), by_slot(target, -9);
    op = (struct op){.kind = OP_GROUP_POSITIONS, .slot = 9, .positions = {.group_id = 3, .behind = behind, .target = target, .asked_max = 5, .writable = true}};
    got = travelled(&op);
    assert_true(got.positions.writable);
    assert_int_equal(got.positions.target[8], -1);
    for (unsigned i = 9; i < 16; i++) assert_int_equal(got.positions.target[i], (int64_t)i - 9);
    op.positions.target = NULL;
    assert_null(travelled(&op).positions.target);
    op.positions = (struct consumer_positions){.behind = behind, .redelivered = 1, .skipped = 2, .estimated = true, .orders = 3, .orders_left = 4, .epoch = 5};
    got = came_home(&op);
    assert_second_partition(got.positions.behind, 100);
    assert_int_equal(got.positions.epoch, 5);
    assert_true(got.positions.estimated);

    op = (struct op){.kind = OP_FEED_SEEK, .slot = 9, .seek = {.from = FEED_CURSOR, .one_slot = true, .behind = behind}};
    got = travelled(&op);
    assert_true(got.seek.one_slot && !got.seek.loose);
    assert_second_partition(got.seek.behind, 100);
    op.seek = (struct feed_seek){.from = FEED_TIME, .time_us = 77, .loose = true, .behind = behind, .at = {.index = 1, .block = 2, .event = 3}};
    got = travelled(&op);
    assert_int_equal(got.seek.time_us, 77);
    got = came_home(&op);
    assert_second_partition(got.seek.behind, 100);
    assert_int_equal(got.seek.at.event, 3);
}

static void test_of_dead_letters(void **state) {
    static struct consumer_letter_ref refs[] = {{8, 1}, {9, INT64_MAX}};
    struct op op = {.kind = OP_GROUP_LETTERS, .slot = 9, .letters = {.group_id = 3, .filter_text = SLICE_LIT("type = \"CREATED\""), .after = {9, 4}, .count_max = 7, .dead_only = true, .blocked = true}};
    struct op got = travelled(&op);
    assert_non_null(got.letters.filter);
    assert_true(got.letters.dead_only && got.letters.blocked && !got.letters.refs_only);
    assert_int_equal(got.letters.after.seq, 4);
    assert_int_equal(got.letters.count_max, 7);
    op.letters = (struct consumer_letters){.after = {9, 5}, .more = true, .refs = refs, .count = 2};
    op.answer = SLICE_LIT("letters");
    got = came_home(&op);
    assert_int_equal(got.letters.refs[1].seq, INT64_MAX);
    assert_slice(got.answer, "letters");
    op = (struct op){.kind = OP_GROUP_UNBLOCK, .slot = 9, .letters = {.group_id = 3, .skip = true, .refs = refs, .count = 2}};
    got = travelled(&op);
    assert_true(got.letters.skip);
    assert_int_equal(got.letters.refs[0].slot, 8);
    assert_int_equal(came_home(&op).letters.count, 2);
    static const uint8_t no_filter[] = {OP_GROUP_LETTERS, 9, 0, 0, 3, 1, '(', 9, 4, 7, 0}, none[] = {OP_GROUP_LETTERS, 9, 0, 0, 3, 0, 9, 4, 0, 0}, meta[] = {OP_GROUP_LAG, 0xff, 0xff, 3, 0, 0, 3, 0};
    uint64_t deadline_ms;
    assert_int_equal(op_wire_read(slice_of(no_filter, sizeof no_filter), &got, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    assert_int_equal(op_wire_read(slice_of(none, sizeof none), &got, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID); /* a page of none */
    assert_int_equal(op_wire_read(slice_of(meta, sizeof meta), &got, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
}

/* Of a node that does not hold the partition. */
static void test_of_reads_of_the_stream(void **state) {
    struct failure f;
    const struct filter *filter;
    failure_init(&f, &here);
    assert_int_equal(filter_parse(&filter, SLICE_LIT("type = \"CREATED\""), &filter_events, "filter", &here, &f), STATUS_OK);
    by_slot(behind, 100);
    struct op op = {.kind = OP_FEED_READ, .slot = 9, .feed = {.at = {7, 8, 9}, .payload = FEED_FULL, .filter = filter, .user_id = SLICE_LIT("u"), .slot = 9, .from_us = 5, .behind = behind, .bytes_max = 1000, .events_max = 50}};
    struct op got = travelled(&op);
    assert_true(got.feed.at.index == 7 && got.feed.at.block == 8 && got.feed.at.event == 9);
    assert_int_equal(got.feed.payload, FEED_FULL);
    assert_slice(filter_print(got.feed.filter, &there), "type = \"CREATED\"");
    assert_slice(got.feed.user_id, "u");
    assert_true(got.feed.slot == 9 && got.feed.from_us == 5 && got.feed.bytes_max == 1000 && got.feed.events_max == 50);
    assert_second_partition(got.feed.behind, 100);
    op.feed.bytes_max = 1ull << 40; /* more than anybody asks for */
    wire.len = 0;
    uint64_t deadline_ms;
    assert_true(op_wire_write(&wire, &op, 0, PARTITIONS));
    assert_int_equal(op_wire_read(buf_slice(&wire), &got, &deadline_ms, PARTITIONS), STATUS_FIELD_INVALID);
    op.feed.filter = NULL, op.feed.at_end = true, op.feed.events = 3, op.feed.looked_at = 4, op.feed.time_us = 6, op.answer = SLICE_LIT("events");
    got = came_home(&op);
    assert_true(got.feed.at_end && got.feed.events == 3 && got.feed.looked_at == 4 && got.feed.time_us == 6 && got.feed.at.index == 7);
    assert_slice(got.answer, "events");
    assert_second_partition(got.feed.behind, 100);
}

static void test_of_a_census(void **state) {
    struct census_pair pairs[] = {{1, 2, 5}, {3, 4, 6}};
    struct census_request census = {.pairs = pairs, .count = 2, .slot = 9, .last_slot = 15, .from_order_id = -1};
    struct op op = {.kind = OP_CENSUS, .slot = 9, .census = &census}, got = travelled(&op);
    assert_true(got.census->count == 2 && got.census->slot == 9 && got.census->last_slot == 15 && got.census->from_order_id == -1);
    assert_true(got.census->pairs[1].machine == 3 && got.census->pairs[1].status == 4 && got.census->pairs[1].count == 0); /* it counts anew, */
    struct census_pair own[] = {{1, 2, 100}, {3, 4, 0}};
    struct census_request asked = {.pairs = own, .count = 2};
    census.slot = 12, census.from_order_id = 77, census.done = true;
    wire.len = 0;
    assert_true(op_wire_write_outcome(&wire, &op, PARTITIONS));
    struct op back = {.kind = OP_CENSUS, .slot = 9, .arena = &here, .census = &asked};
    assert_int_equal(op_wire_read_outcome(buf_slice(&wire), &back, PARTITIONS), STATUS_OK);
    assert_true(own[0].count == 105 && own[1].count == 6 && asked.slot == 12 && asked.from_order_id == 77 && asked.done); /* and is added */
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(test_requests), T(test_what_does_not_travel_is_refused), T(test_a_refusal_keeps_its_details), T(test_writes_come_home), T(test_reads_come_home), T(test_what_does_not_fit_is_told),
        T(test_of_groups), T(test_of_dead_letters), T(test_of_reads_of_the_stream), T(test_of_a_census),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
