/* BatchGetOrders: ids sorted by partition, one op to each, a few of them under way at a time, so that memory is bounded whatever is asked for; the answer in
 * the order of the request. Each op has an arena of its own and finds its part of the ids in the call's, which nobody changes meanwhile. */
#include <stdio.h>
#include <stdlib.h>

#include "orderdb/v1/order.pb-c.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/call.h"
#include "server/core.h"
#include "server/node.h"
#include "server/serve_common.h"

enum { BATCH_GET_IDS_MAX = 1000, BATCH_GET_AWAY_MAX = 4 };
static_assert(QUERY_BATCH_BYTES_MAX + BATCH_GET_IDS_MAX * 10 + 16 < GRPC_MESSAGE_BYTES_MAX, "all orders and all missing ids are one message");

/* An id as asked for, and where. */
struct wanted {
    int64_t order_id;
    uint32_t partition, place;
};

struct batch_get;
struct batch_get_op {
    struct call_op op;
    struct batch_get *batch;
    const struct wanted *wanted; /* op.get_many.count of them */
};
struct batch_get {
    bool full;
    unsigned id_count, unique_count, op_count, next, away;
    size_t bytes;
    struct wanted *wanted; /* by partition and id; the first unique_count of them are each id once */
    int64_t *ids;          /* of wanted */
    struct slice *orders;  /* by place; data NULL: an id that was named before, or missing */
    int64_t *missing;      /* by place; 0: no */
    struct batch_get_op *ops;
};

static int wanted_order(const void *a, const void *b) {
    const struct wanted *x = a, *y = b;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    if (x->order_id != y->order_id) return x->order_id < y->order_id ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static void batch_get_reply(struct call *call, const struct batch_get *b) {
    struct slice *parts = arena_array(call_arena(call), struct slice, b->id_count + 1);
    size_t cap = 16 + 10 * (size_t)b->id_count, n = 0;
    uint8_t *bytes = arena_alloc(call_arena(call), cap), *packed = arena_alloc(call_arena(call), cap);
    if (!parts || !bytes || !packed) {
        serve_fail_memory(call);
        return;
    }
    struct writer ids = writer_of(packed, cap), w = writer_of(bytes, cap);
    for (unsigned i = 0; i < b->id_count; i++) {
        if (b->orders[i].data) parts[n++] = b->orders[i];
        if (b->missing[i]) write_varint(&ids, (uint64_t)b->missing[i]);
    }
    pb_bytes(&w, 2, writer_slice(&ids)); /* repeated numbers are packed */
    check(!ids.full);
    check(!w.full);
    parts[n++] = writer_slice(&w);
    call_reply(call, parts, n);
}

static void batch_get_more(struct call *call, struct batch_get *b);

static void batch_get_home(struct call *call, struct call_op *o) {
    struct batch_get_op *part = container_of(o, struct batch_get_op, op);
    struct batch_get *b = part->batch;
    b->away--;
    if (o->op.failure.status) {
        serve_fail_with(call, &o->op.failure); /* those that are still away find the call answered */
        return;
    }
    for (unsigned i = 0; i < o->op.get_many.count; i++) {
        struct slice order = o->op.orders[i];
        b->orders[part->wanted[i].place] = order;
        b->missing[part->wanted[i].place] = order.data ? 0 : part->wanted[i].order_id;
        b->bytes += order.len;
    }
    if (b->bytes > QUERY_BATCH_BYTES_MAX) {
        query_batch_too_large(call_failure(call));
        call_fail(call);
        return;
    }
    batch_get_more(call, b);
}

static void batch_get_more(struct call *call, struct batch_get *b) {
    while (b->next < b->op_count && b->away < BATCH_GET_AWAY_MAX) {
        struct call_op *o = &b->ops[b->next].op;
        o->op.arena = call_arena_take(call);
        if (!o->op.arena) {
            serve_fail_memory(call);
            return;
        }
        b->next++, b->away++;
        call_submit(call, o, batch_get_home);
    }
    if (b->away == 0) batch_get_reply(call, b);
}

/* Sorts the ids, drops those that were named before, and makes an op of each partition's. */
static void batch_get_group(struct call *call, struct batch_get *b, const Orderdb__V1__ReadOptions *read) {
    qsort(b->wanted, b->id_count, sizeof *b->wanted, wanted_order);
    for (unsigned i = 0; i < b->id_count; i++)
        if (i == 0 || b->wanted[i].order_id != b->wanted[b->unique_count - 1].order_id) b->wanted[b->unique_count++] = b->wanted[i];
    for (unsigned i = 0; i < b->unique_count; i++) {
        b->ids[i] = b->wanted[i].order_id;
        struct batch_get_op *part = b->op_count ? &b->ops[b->op_count - 1] : NULL;
        if (!part || b->wanted[i].partition != part->wanted[0].partition) {
            part = &b->ops[b->op_count++];
            part->batch = b;
            part->wanted = &b->wanted[i];
            part->op.op.kind = OP_GET_MANY;
            part->op.op.slot = order_id_slot(b->ids[i]);
            part->op.op.get_many.order_ids = &b->ids[i];
            part->op.op.get_many.full = b->full;
            part->op.op.bound = serve_read_bound(read, order_id_slot(b->ids[i]));
        }
        struct read_bound bound = serve_read_bound(read, order_id_slot(b->ids[i]));
        if (bound.token) part->op.op.bound = bound;
        part->op.op.get_many.count++;
    }
}

static bool batch_get_check(struct call *call, const Orderdb__V1__BatchGetOrdersRequest *m, bool *full) {
    struct failure *f = call_failure(call);
    char field[32];
    if (m->n_order_ids > BATCH_GET_IDS_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "order_ids", "%zu elements; at most %d", m->n_order_ids, BATCH_GET_IDS_MAX);
    for (size_t i = 0; i < m->n_order_ids && i < BATCH_GET_IDS_MAX; i++) {
        if (order_id_plausible(m->order_ids[i])) continue;
        snprintf(field, sizeof field, "order_ids[%zu]", i);
        failure_violation(f, STATUS_FIELD_INVALID, field, "must be positive, got %lld", (long long)m->order_ids[i]);
    }
    return serve_read_options(call, m->read, true, full) && !f->status;
}

void serve_batch_get_orders(struct call *call) {
    struct arena *a = call_arena_take(call); /* the call's own is bounded by the message until an op is sent, and the ops of many partitions are larger */
    const struct node *node = call_core(call)->node;
    Orderdb__V1__BatchGetOrdersRequest *m = (void *)serve_decode(call, &orderdb__v1__batch_get_orders_request__descriptor);
    bool full;
    if (!m) return;
    if (!call_take_tokens(call, CALL_LIMITS_DOOR, m->n_order_ids, (struct slice){0}, (struct slice){0}, call_failure(call)) || !batch_get_check(call, m, &full)) {
        call_fail(call);
        return;
    }
    size_t n = m->n_order_ids;
    struct batch_get *b = a ? arena_new(a, struct batch_get) : NULL;
    if (!b || !(b->wanted = arena_array(a, struct wanted, n)) || !(b->ids = arena_array(a, int64_t, n)) || !(b->orders = arena_array(a, struct slice, n)) ||
        !(b->missing = arena_array(a, int64_t, n)) || !(b->ops = arena_array(a, struct batch_get_op, MIN_OF(n, (size_t)node->partition_count)))) {
        serve_fail_memory(call);
        return;
    }
    b->full = full;
    b->id_count = (unsigned)n;
    for (unsigned i = 0; i < b->id_count; i++)
        b->wanted[i] = (struct wanted){m->order_ids[i], partition_of_slot(order_id_slot(m->order_ids[i]), node->partition_count), i};
    batch_get_group(call, b, m->read);
    batch_get_more(call, b);
}
