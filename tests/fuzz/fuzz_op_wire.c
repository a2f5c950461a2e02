/* What another node asks, and answers. The first byte: 0: an ask; else an answer, to an op of this kind. An ask that is read is written again as it was read. */
#include "proto/base/mem.h"
#include "server/op_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PARTITIONS = 2048 }; /* of 8 slots each */

static void ask(struct slice bytes, struct arena *a) {
    struct op op = {.arena = a}, again = {.arena = a};
    struct buf out = {0};
    uint64_t ms, ms_again;
    if (op_wire_read(bytes, &op, &ms, PARTITIONS) != STATUS_OK) return;
    check(op_wire_travels(op.kind));
    check(op_wire_write(&out, &op, ms, PARTITIONS));
    check(op_wire_read(buf_slice(&out), &again, &ms_again, PARTITIONS) == STATUS_OK);
    check(again.kind == op.kind && again.slot == op.slot && ms == ms_again);
    if (op.kind == OP_WRITE) check(slice_equal(op.command, again.command));
    if (op.kind == OP_LIST) check(op.list.status_count == again.list.status_count && slice_equal(op.list.page_token, again.list.page_token));
    buf_fini(&out);
}

static void answer(struct slice bytes, unsigned kind, struct arena *a) {
    static const int64_t ids[3] = {1, 2, 3};
    static int64_t behind[SLOT_COUNT];
    struct op op = {.kind = (enum op_kind)(kind % OP_KINDS), .arena = a}, again = {.kind = op.kind, .arena = a};
    struct census_pair pairs[2][2] = {0};
    struct census_request census[2] = {{.pairs = pairs[0], .count = 2}, {.pairs = pairs[1], .count = 2}};
    struct buf out = {0};
    if (!op_wire_travels(op.kind)) return;
    failure_init(&op.failure, a);
    failure_init(&again.failure, a);
    if (op.kind == OP_FEED_SEEK) op.seek.behind = again.seek.behind = behind;
    if (op.kind == OP_FEED_READ) op.feed.behind = again.feed.behind = behind;
    if (op.kind == OP_CENSUS) op.census = &census[0], again.census = &census[1];
    if (op.kind == OP_GROUP_POSITIONS) op.positions.behind = again.positions.behind = behind;
    if (op.kind == OP_GET_MANY) op.get_many.order_ids = again.get_many.order_ids = ids, op.get_many.count = again.get_many.count = 3;
    if (op_wire_read_outcome(bytes, &op, PARTITIONS) != STATUS_OK) return;
    check(op_wire_write_outcome(&out, &op, PARTITIONS));
    check(op_wire_read_outcome(buf_slice(&out), &again, PARTITIONS) == STATUS_OK);
    check(op.failure.status == again.failure.status && op.maybe == again.maybe);
    check(slice_equal(op.answer, again.answer));
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct arena a;
    if (size < 1) return 0;
    arena_init(&a, 8 << 20);
    if (data[0]) answer(slice_of(data + 1, size - 1), data[0] - 1u, &a);
    else ask(slice_of(data + 1, size - 1), &a);
    arena_fini(&a);
    return 0;
}
