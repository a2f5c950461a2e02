/* BatchCreateOrders, BatchTransitionOrders: each request is a command of its own with an answer of its own. All are checked, then all leave at once, so those of
 * one partition travel in one log entry (or two), in the order of the request; when the last is home, the answer is put together.
 * With atomic the creates are one command, and one answer: all results are ok, or the call fails.
 *
 * Memory. Items and commands have an arena of their own, where nobody writes while ops are away; the answer is made there too. What the ops come to lies in
 * one arena per partition: its ops are one thread's. All are taken before anything is sent. Every result has the same share of the message, so the answer is
 * never too large: orders are cut down to their share, and failures lose details. */
#include "engine/check.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/call.h"
#include "server/core.h"
#include "server/groups.h"
#include "server/node.h"
#include "server/serve_common.h"
#include "server/serve_group.h"

enum {
    BATCH_REQUESTS_MAX = 1000,
    BATCH_ANSWER_BYTES_MAX = GRPC_MESSAGE_BYTES_MAX - 4096,
    FRAMES_BYTES_MAX = 3 * (1 + 5), /* result, ok, order: tag and length each */
    /* HistoryEntry: event, two statuses, operator, reason, request_id, traceparent, hash; tags, lengths, numbers */
    ENTRY_BYTES_MAX_IN_ANSWER = CHECK_NAME_BYTES_MAX + 2 * STATUS_NAME_BYTES_MAX + CHECK_NAME_BYTES_MAX + CHECK_TEXT_BYTES_MAX + CHECK_REQUEST_ID_BYTES_MAX + 55 + 32 + 128,
    RESULT_BYTES_MAX = FRAMES_BYTES_MAX + ENTRY_BYTES_MAX_IN_ANSWER + SERVE_TOKEN_BYTES_MAX + 16, /* without the order */
};
static_assert(BATCH_ANSWER_BYTES_MAX / BATCH_REQUESTS_MAX > RESULT_BYTES_MAX + ORDER_HEAD_WIRE_BYTES_MAX, "a share holds at least an order's head");

struct batch;
struct batch_item {
    struct call_op op; /* op.failure: why not, by check or by apply */
    struct batch *batch;
    struct slice ack_group; /* its id is to be found */
};
struct batch {
    bool transitions, atomic; /* atomic: the first item is the op of all */
    size_t count, share;
    unsigned away;
    struct arena *memory; /* items, commands, the answer */
    struct arena **arenas; /* by partition; NULL: none of its yet */
    struct batch_item *items;
    struct slice *parts; /* of the answer: three to each item */
};

/* ---- the answer */

/* Result { ok { order, entry, replayed, token } }: frames and tail around the order, which stays where apply put it. */
static bool result_ok(const struct node *node, struct batch *b, const struct op *op, const struct outcome *o, struct slice order, struct slice parts[3]) {
    struct slice entry = b->transitions ? history_wire(&o->entry, node->machines, b->memory) : (struct slice){0};
    size_t tail_cap = pb_bytes_max(entry) + SERVE_TOKEN_BYTES_MAX + 16;
    uint8_t *head = arena_alloc(b->memory, FRAMES_BYTES_MAX), *tail = arena_alloc(b->memory, tail_cap);
    if (!head || !tail || (b->transitions && !entry.data)) return false;
    struct writer h = writer_of(head, FRAMES_BYTES_MAX), t = writer_of(tail, tail_cap);
    if (b->transitions) pb_message(&t, 2, &entry, 1);
    pb_bool(&t, b->transitions ? 3 : 2, o->replayed);
    serve_token_write(&t, b->transitions ? 4 : 3, op, o);
    size_t ok = 1 + varint_len(order.len) + order.len + t.len, result = 1 + varint_len(ok) + ok;
    pb_tag(&h, 1, PB_LEN), write_varint(&h, result);
    pb_tag(&h, 1, PB_LEN), write_varint(&h, ok);
    pb_tag(&h, 1, PB_LEN), write_varint(&h, order.len);
    check(!h.full);
    check(!t.full);
    parts[0] = writer_slice(&h), parts[1] = order, parts[2] = writer_slice(&t);
    return true;
}

/* Result { error } */
static bool result_error(struct batch *b, struct batch_item *item, struct slice parts[3]) {
    struct failure *f = &item->op.op.failure;
    f->retry_delay_ms = serve_retry_delay_ms(f);
    struct slice status = failure_encode_within(f, b->memory, b->share - FRAMES_BYTES_MAX);
    uint8_t *head = arena_alloc(b->memory, FRAMES_BYTES_MAX);
    if (!head || !status.data) return false;
    struct writer h = writer_of(head, FRAMES_BYTES_MAX);
    pb_tag(&h, 1, PB_LEN), write_varint(&h, 1 + varint_len(status.len) + status.len);
    pb_tag(&h, 2, PB_LEN), write_varint(&h, status.len);
    check(!h.full);
    parts[0] = writer_slice(&h), parts[1] = status;
    return true;
}

static bool result_wire(struct call *call, struct batch *b, size_t i) {
    const struct node *node = call_core(call)->node;
    struct batch_item *item = &b->items[b->atomic ? 0 : i];
    struct op *op = &item->op.op;
    struct slice *parts = &b->parts[3 * i];
    if (op->failure.status) return result_error(b, item, parts);
    return b->atomic ? result_ok(node, b, op, &op->outcome.items[i], op->orders[i], parts) : result_ok(node, b, op, &op->outcome, op->answer, parts);
}

static void batch_reply(struct call *call, struct batch *b) {
    size_t bytes = 0;
    for (size_t i = 0; i < b->count; i++) {
        if (!result_wire(call, b, i)) {
            failure_set(call_failure(call), STATUS_DEADLINE_EXCEEDED, "the batch was done, but its answer found no memory: send it again with the same request_ids");
            call_fail(call);
            return;
        }
        for (int k = 0; k < 3; k++) bytes += b->parts[3 * i + (size_t)k].len;
    }
    check(bytes <= GRPC_MESSAGE_BYTES_MAX);
    call_reply(call, b->parts, 3 * b->count);
}

/* ---- the way through */

static void batch_home(struct call *call, struct call_op *o) {
    struct batch *b = container_of(o, struct batch_item, op)->batch;
    if (--b->away) return;
    if (!b->atomic || !o->op.failure.status) {
        batch_reply(call, b);
        return;
    }
    serve_fail_with(call, &o->op.failure);
}

/* The core's memory is short: nothing has been sent yet, so the whole batch is refused. */
static bool batch_arenas(struct call *call, struct batch *b) {
    uint32_t partitions = call_core(call)->node->partition_count;
    if (!(b->arenas = arena_zalloc(b->memory, partitions * sizeof *b->arenas))) return false;
    if (!(b->parts = arena_array(b->memory, struct slice, 3 * b->count))) return false;
    for (size_t i = 0; i < b->count; i++) {
        struct op *op = &b->items[i].op.op;
        if (op->failure.status) continue;
        struct arena **a = &b->arenas[partition_of_slot(op->slot, partitions)];
        if (!*a && !(*a = call_arena_take(call))) return false;
        op->arena = *a;
    }
    return true;
}

static void batch_send(struct call *call, struct batch *b) {
    if (!batch_arenas(call, b)) {
        serve_fail_memory(call);
        return;
    }
    for (size_t i = 0; i < b->count; i++) b->away += b->items[i].op.op.failure.status == STATUS_OK;
    if (b->away == 0) {
        batch_reply(call, b);
        return;
    }
    for (size_t i = 0; i < b->count; i++)
        if (b->items[i].op.op.arena) call_submit(call, &b->items[i].op, batch_home);
}

/* NULL: the call has failed. */
static struct batch *batch_new(struct call *call, size_t count, bool transitions) {
    if (count > BATCH_REQUESTS_MAX) {
        failure_violation(call_failure(call), STATUS_LIMIT_EXCEEDED, "requests", "%zu elements; at most %d", count, BATCH_REQUESTS_MAX);
        call_fail(call);
        return NULL;
    }
    if (!call_take_tokens(call, CALL_LIMITS_DOOR, count, (struct slice){0}, (struct slice){0}, call_failure(call))) {
        call_fail(call);
        return NULL;
    }
    struct batch *b = arena_new(call_arena(call), struct batch);
    if (!b || !(b->memory = call_arena_take(call)) || !(b->items = arena_array(b->memory, struct batch_item, count))) {
        serve_fail_memory(call);
        return NULL;
    }
    b->transitions = transitions;
    b->count = count;
    b->share = BATCH_ANSWER_BYTES_MAX / MAX_OF(count, (size_t)1);
    for (size_t i = 0; i < count; i++) {
        struct op *op = &b->items[i].op.op;
        b->items[i].batch = b;
        op->kind = OP_WRITE;
        op->answer_bytes_max = b->share - RESULT_BYTES_MAX;
        failure_init(&op->failure, b->memory);
    }
    return b;
}

static struct slice user_of(const Orderdb__V1__CreateOrderRequest *r) { return slice_str(r->order ? r->order->user_id : ""); }
static struct slice merchant_of(const Orderdb__V1__CreateOrderRequest *r) { return slice_str(r->order ? r->order->merchant_id : ""); }

/* All are of one user (check_batch says so later, of the first as of the others). */
static bool take_tokens_of_all(struct call *call, const Orderdb__V1__BatchCreateOrdersRequest *m) {
    struct failure *f = call_failure(call);
    if (!call_take_tokens(call, 1 << LIMIT_USER, m->n_requests, user_of(m->requests[0]), (struct slice){0}, f)) return false;
    for (size_t i = 0; i < m->n_requests; i++)
        if (!call_take_tokens(call, 1 << LIMIT_MERCHANT, 1, (struct slice){0}, merchant_of(m->requests[i]), f)) return false;
    return true;
}

/* One op for all. */
static void batch_atomic(struct call *call, struct batch *b, Orderdb__V1__BatchCreateOrdersRequest *m) {
    struct checked checked;
    struct op *op = &b->items[0].op.op;
    b->atomic = true;
    if (!take_tokens_of_all(call, m)) {
        call_fail(call);
        return;
    }
    if (!check_batch(m, call_traceparent(call), b->memory, &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    if (!(op->arena = call_arena_take(call)) || !(b->parts = arena_zalloc(b->memory, 3 * b->count * sizeof *b->parts))) {
        serve_fail_memory(call);
        return;
    }
    op->slot = slot_of_user(checked.user_id);
    op->command = checked.command;
    if (checked.validate_only) op->kind = OP_VALIDATE;
    b->away = 1;
    call_submit(call, &b->items[0].op, batch_home);
}

void serve_batch_create_orders(struct call *call) {
    Orderdb__V1__BatchCreateOrdersRequest *m = (void *)serve_decode(call, &orderdb__v1__batch_create_orders_request__descriptor);
    if (!m) return;
    struct batch *b = batch_new(call, m->n_requests, false);
    if (!b) return;
    if (m->atomic && b->count) {
        batch_atomic(call, b, m);
        return;
    }
    for (size_t i = 0; i < b->count; i++) {
        struct checked checked;
        struct op *op = &b->items[i].op.op;
        if (!call_take_tokens(call, CALL_LIMITS_CONTENT, 1, user_of(m->requests[i]), merchant_of(m->requests[i]), &op->failure)) continue;
        if (!check_create(m->requests[i], call_traceparent(call), b->memory, &checked, &op->failure)) continue;
        op->slot = slot_of_user(checked.user_id);
        op->command = checked.command;
        if (checked.validate_only) op->kind = OP_VALIDATE;
    }
    batch_send(call, b);
}

/* Transitions that ack events, of groups whose ids this core did not know: one question for all of them. */
struct batch_look {
    struct call_op op;
    struct batch *batch;
    uint64_t generation;
};

static void acks_looked(struct call *call, struct call_op *o) {
    struct batch_look *look = container_of(o, struct batch_look, op);
    struct batch *b = look->batch;
    if (o->op.failure.status) {
        serve_fail_with(call, &o->op.failure);
        return;
    }
    for (size_t i = 0; i < b->count; i++) {
        struct op *op = &b->items[i].op.op;
        struct slice name = b->items[i].ack_group;
        if (!name.len || op->failure.status) continue;
        const struct consumer_group_row *row = serve_group_row(&o->op.groups, name);
        if (row) groups_learn(call_core(call), name, row->group_id, look->generation), command_ack_set_group(op->command, row->group_id);
        else serve_group_not_found(&op->failure, name);
    }
    batch_send(call, b);
}

static void acks_look(struct call *call, struct batch *b) {
    struct batch_look *look = arena_new(b->memory, struct batch_look);
    struct arena *arena = call_arena_take(call);
    if (!look || !arena) {
        serve_fail_memory(call);
        return;
    }
    *look = (struct batch_look){.batch = b, .generation = groups_generation(call_core(call))};
    look->op.op = (struct op){.kind = OP_GROUPS, .slot = SLOT_META, .arena = arena};
    call_submit(call, &look->op, acks_looked);
}

void serve_batch_transition_orders(struct call *call) {
    Orderdb__V1__BatchTransitionOrdersRequest *m = (void *)serve_decode(call, &orderdb__v1__batch_transition_orders_request__descriptor);
    struct batch *b = m ? batch_new(call, m->n_requests, true) : NULL;
    bool unknown = false;
    if (!b) return;
    for (size_t i = 0; i < b->count; i++) {
        struct checked checked;
        struct op *op = &b->items[i].op.op;
        if (!check_transition(m->requests[i], call_traceparent(call), b->memory, &checked, &op->failure)) continue;
        op->slot = order_id_slot(checked.order_id);
        op->command = checked.command;
        if (checked.validate_only) op->kind = OP_VALIDATE;
        uint32_t group_id = checked.ack_group.len ? groups_find(call_core(call), checked.ack_group) : 0;
        if (group_id) command_ack_set_group(op->command, group_id);
        else if (checked.ack_group.len) b->items[i].ack_group = checked.ack_group, unknown = true;
    }
    if (unknown) acks_look(call, b);
    else batch_send(call, b);
}
