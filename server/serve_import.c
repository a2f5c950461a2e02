/* ImportOrders: a stream of orders with their history, answered once at its end with counts and the first rejections.
 *
 * Each message becomes an op with memory of its own, so that a stream may run for hours in constant memory. At most IMPORT_IN_FLIGHT of them are under way, and as many
 * as take IMPORT_BYTES_IN_FLIGHT (large orders); then the stream's window stays shut (call_hold). A refusal for overload or by a rate limit is tried again after a pause: the sender of a bulk load need not know. */
#include <string.h>

#include "engine/check.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "proto/scan.h"
#include "server/call.h"
#include "server/core.h"
#include "server/node.h"

enum {
    IMPORT_IN_FLIGHT = 256,
    IMPORT_BYTES_IN_FLIGHT = 4 << 20, /* a core has 32 MiB at least */
    IMPORT_REJECTED_KEPT = 100, /* in the answer; all are counted */
    IMPORT_NAME_BYTES = 128,
    IMPORT_RETRY_NS = 50000000,
    IMPORT_TRIES_MAX = 1200, /* a minute of refusals: the sender hears of it, and memory is not held for ever */
};

struct import {
    int64_t imported, already_there, rejected;
    uint32_t in_flight;
    size_t bytes_in_flight; /* of their arenas when they were sent */
    bool held, closing;
    struct list waiting; /* items that will be tried again */
    struct buf rejections; /* field 3 of the answer, as wire bytes */
    uint32_t rejections_kept;
};

struct import_item { /* in its own arena, which is charged to the core's request memory */
    struct call_op op;
    struct arena *arena;
    struct timer retry;
    struct list link; /* import.waiting */
    struct slice command, user_id, merchant_id;
    bool paid;               /* its tokens were taken */
    unsigned tries;
    size_t bytes;
    char client_order_no[IMPORT_NAME_BYTES + 1];
};

static void item_free(struct import_item *item) {
    timer_clear(&core_self->timers, &item->retry);
    call_arena_give(item->op.call, item->arena);
}

static void item_drop(struct call_op *o) { item_free(container_of(o, struct import_item, op)); }

static void import_end(struct call *call) {
    struct import *im = *call_state(call);
    for (struct list *l; (l = list_pop_front(&im->waiting));) item_free(list_entry(l, struct import_item, link));
    buf_fini(&im->rejections);
    mem_free(im);
}

static struct import *import_state(struct call *call) {
    void **state = call_state(call);
    if (*state) return *state;
    struct import *im = mem_new(struct import);
    if (!im) return NULL;
    list_init(&im->waiting);
    *state = im;
    call_on_end(call, import_end);
    return im;
}

static void import_reject(struct import *im, const char *client_order_no, const struct failure *f) {
    im->rejected++;
    if (im->rejections_kept == IMPORT_REJECTED_KEPT) return;
    struct slice status = failure_encode(f), name = slice_str(client_order_no);
    uint8_t head[64 + IMPORT_NAME_BYTES];
    struct writer inner = writer_of(head, sizeof head);
    pb_bytes(&inner, 1, name);
    pb_tag(&inner, 2, PB_LEN);
    write_varint(&inner, status.len);
    check(!inner.full);
    if (!buf_reserve(&im->rejections, inner.len + status.len + 16)) return; /* counted all the same */
    struct writer w = writer_of(im->rejections.data + im->rejections.len, im->rejections.cap - im->rejections.len);
    struct slice parts[] = {writer_slice(&inner), status};
    pb_message(&w, 3, parts, 2);
    check(!w.full);
    im->rejections.len += w.len;
    im->rejections_kept++;
}

static void import_answer(struct call *call, struct import *im) {
    enum { CAP = 64 };
    uint8_t *bytes = arena_alloc(call_arena(call), 2 * CAP);
    struct slice rejections = arena_copy(call_arena(call), buf_slice(&im->rejections));
    if (!bytes || !rejections.data) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "the orders are in, but the answer does not fit the request's memory");
        call_fail(call);
        return;
    }
    struct writer front = writer_of(bytes, CAP), back = writer_of(bytes + CAP, CAP);
    pb_int64(&front, 1, im->imported);
    pb_int64(&front, 2, im->already_there);
    pb_int64(&back, 4, im->rejected);
    struct slice parts[] = {writer_slice(&front), rejections, writer_slice(&back)};
    call_reply(call, parts, ARRAY_LEN(parts));
}

/* The stream can't go on, and not for this order's sake (full disk, shutdown, no memory): what it brought so far is in, and the sender may run it again. */
static void import_fail(struct call *call, struct import_item *item) {
    const struct import *im = *call_state(call);
    const struct failure *f = &item->op.op.failure;
    call_failure(call)->retry_delay_ms = f->retry_delay_ms;
    failure_set(call_failure(call), f->status, "%s (imported %lld, already there %lld so far)", f->message ? f->message : status_name(f->status), (long long)im->imported,
                (long long)im->already_there);
    item_free(item);
    call_fail(call);
}

/* Should the stream wait? part: the limits' 1 / part. Many streams share the core's memory: above half of it each goes on with one order at a time. */
static bool import_full(struct call *call, const struct import *im, uint32_t part) {
    const struct core *core = call_core(call);
    return im->in_flight >= IMPORT_IN_FLIGHT / part || im->bytes_in_flight >= IMPORT_BYTES_IN_FLIGHT / part ||
           calls_memory_bytes(core->calls) > core->node->limits.requests_bytes_max / 2;
}

static void item_begin(struct call *call, struct import_item *item);

static void item_retry(struct timer *t) {
    struct import_item *item = container_of(t, struct import_item, retry);
    list_remove(&item->link);
    item_begin(item->op.call, item);
}

/* Overload passes, and the next node leads soon: the item waits. true: it does. */
static bool item_wait(struct call *call, struct import *im, struct import_item *item) {
    const struct failure *f = &item->op.op.failure;
    bool limited = f->status == STATUS_RATE_LIMITED;
    bool passes = limited || f->status == STATUS_OVERLOADED || f->status == STATUS_NOT_LEADER || f->status == STATUS_NO_QUORUM;
    if (!passes || ++item->tries > IMPORT_TRIES_MAX) return false;
    struct core *core = call_core(call);
    uint64_t pause_ns = limited ? MAX_OF(f->retry_delay_ms * NS_PER_MS, (uint64_t)IMPORT_RETRY_NS) : IMPORT_RETRY_NS;
    if (!timer_set(&core->timers, &item->retry, core->now_ns + pause_ns)) return false;
    list_push_back(&im->waiting, &item->link);
    return true;
}

static void item_done(struct call *call, struct call_op *o) {
    struct import_item *item = container_of(o, struct import_item, op);
    struct import *im = *call_state(call);
    const struct failure *f = &o->op.failure;
    if (item_wait(call, im, item)) return;
    im->in_flight--;
    im->bytes_in_flight -= item->bytes;
    if (f->status && status_retry(f->status) != RETRY_NEVER) {
        import_fail(call, item);
        return;
    }
    if (f->status) import_reject(im, item->client_order_no, f);
    else if (o->op.outcome.already_there) im->already_there++;
    else im->imported++;
    item_free(item);
    if (im->held && (im->in_flight == 0 || !import_full(call, im, 2))) im->held = false, call_release(call);
    if (im->closing && im->in_flight == 0) import_answer(call, im);
}

static void item_submit(struct call *call, struct import_item *item) {
    struct op *op = &item->op.op;
    op->kind = OP_WRITE;
    op->slot = slot_of_user(item->user_id);
    op->arena = item->arena;
    op->deadline_ns = call_deadline_ns(call);
    op->command = item->command;
    item->op.drop = item_drop;
    call_submit(call, &item->op, item_done);
}

/* The sender of a bulk load need not know of rate limits either: the item waits for its tokens, and with the window shut the stream does. */
static void item_begin(struct call *call, struct import_item *item) {
    struct import *im = *call_state(call);
    failure_init(&item->op.op.failure, item->arena);
    if (!item->paid) item->paid = call_take_tokens(call, CALL_LIMITS_DOOR | CALL_LIMITS_CONTENT, 1, item->user_id, item->merchant_id, &item->op.op.failure);
    if (item->paid) {
        item_submit(call, item);
        return;
    }
    if (item_wait(call, im, item)) return;
    im->in_flight--;
    im->bytes_in_flight -= item->bytes;
    import_fail(call, item);
}

static struct import_item *item_new(struct call *call) {
    struct arena *arena = call_arena_take(call);
    struct import_item *item = arena ? arena_new(arena, struct import_item) : NULL;
    if (!item) {
        if (arena) call_arena_give(call, arena);
        return NULL;
    }
    item->arena = arena;
    item->op.call = call;
    item->retry.fire = item_retry;
    list_init(&item->link);
    return item;
}

/* The order as a command; false: f says why not. */
static bool item_check(struct call *call, struct import_item *item, struct failure *f) {
    struct checked checked;
    Orderdb__V1__ImportOrdersRequest *m =
        (Orderdb__V1__ImportOrdersRequest *)scan_unpack(&orderdb__v1__import_orders_request__descriptor, call_message(call), &scan_limits_default, f);
    if (!m) return false;
    if (m->order) {
        struct slice name = slice_cut_utf8(slice_str(m->order->client_order_no), IMPORT_NAME_BYTES);
        memcpy(item->client_order_no, name.data, name.len);
    }
    if (!check_import(m, call_core(call)->node->machines, item->arena, &checked, f)) return false;
    item->command = checked.command;
    item->user_id = checked.user_id;
    item->merchant_id = slice_str(m->order->merchant_id);
    return true;
}

static void import_message(struct call *call, struct import *im) {
    struct import_item *item = item_new(call);
    if (!item) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory for another order");
        call_fail(call);
        return;
    }
    struct failure *f = &item->op.op.failure;
    failure_init(f, item->arena);
    if (!item_check(call, item, f)) {
        if (status_retry(f->status) == RETRY_LATER) {
            import_fail(call, item);
            return;
        }
        import_reject(im, item->client_order_no, f);
        item_free(item);
        return;
    }
    im->in_flight++;
    im->bytes_in_flight += item->bytes = item->arena->bytes_used;
    if (!im->held && import_full(call, im, 1)) im->held = true, call_hold(call);
    item_begin(call, item);
}

void serve_import_orders(struct call *call) {
    struct import *im = import_state(call);
    if (!im) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory for an import");
        call_fail(call);
    } else if (!call_half_closed(call)) {
        import_message(call, im);
    } else {
        im->closing = true;
        if (im->in_flight == 0) import_answer(call, im);
    }
}
