/* OrderService's handlers: bytes -> checked command or query -> op -> answer. What a request may hold is decided in engine/check and engine/query; here
 * is only the way through. Answers are put together from wire bytes that the engine made; nothing is packed twice. */
#include <string.h>

#include "engine/check.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "proto/scan.h"
#include "server/call.h"
#include "server/core.h"
#include "server/groups.h"
#include "server/node.h"
#include "server/serve_common.h"
#include "server/serve_group.h"

static struct call_op *call_op_new(struct call *call, enum op_kind kind, uint16_t slot) {
    struct call_op *o = arena_new(call_arena(call), struct call_op);
    if (!o) {
        serve_fail_memory(call);
        return NULL;
    }
    o->op.kind = kind;
    o->op.slot = slot;
    o->op.arena = call_arena(call);
    o->op.deadline_ns = call_deadline_ns(call);
    return o;
}

/* false: the op was refused and the call has failed with what it said. */
static bool op_succeeded(struct call *call, struct call_op *o) {
    if (!o->op.failure.status) return true;
    serve_fail_with(call, &o->op.failure);
    return false;
}

static struct slice replayed_wire(bool replayed, uint32_t field) {
    static const uint8_t yes[2][2] = {{2 << 3, 1}, {3 << 3, 1}};
    return replayed ? slice_of(yes[field - 2], 2) : (struct slice){0};
}

/* ---- writes */

/* A piece of the answer found no memory; without it the others would read as something else. The write was done, so this must not read as a refusal. */
static void answer_lost(struct call *call, const struct call_op *o) {
    if (o->op.kind == OP_VALIDATE) {
        serve_fail_memory(call);
        return;
    }
    failure_set(call_failure(call), STATUS_DEADLINE_EXCEEDED, "the write was done; there is no memory to answer: send it again with the same request_id");
    call_fail(call);
}

/* A checked write on its way, or its dry run. request_id: what a passed deadline will name; NULL: none. */
static void write_submit(struct call *call, const struct checked *checked, uint16_t slot, const char *request_id, void (*done)(struct call *call, struct call_op *op)) {
    struct call_op *o = call_op_new(call, checked->validate_only ? OP_VALIDATE : OP_WRITE, slot);
    if (!o) return;
    o->op.command = checked->command;
    if (request_id && !checked->validate_only) call_set_request_id(call, slice_str(request_id));
    call_submit(call, o, done);
}

static void create_done(struct call *call, struct call_op *o) {
    if (!op_succeeded(call, o)) return;
    struct slice parts[] = {
        serve_field_head(call, 1, o->op.answer.len), o->op.answer, replayed_wire(o->op.outcome.replayed, 2), serve_token_wire(call, 3, &o->op, &o->op.outcome),
    };
    if (!parts[0].data || !parts[3].data) {
        answer_lost(call, o);
        return;
    }
    call_reply(call, parts, ARRAY_LEN(parts));
}

void serve_create_order(struct call *call) {
    struct checked checked;
    Orderdb__V1__CreateOrderRequest *m = (void *)serve_decode(call, &orderdb__v1__create_order_request__descriptor);
    if (!m || !serve_take_token(call, m->order ? m->order->user_id : "", m->order ? m->order->merchant_id : "")) return;
    if (!check_create(m, call_traceparent(call), call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    write_submit(call, &checked, slot_of_user(checked.user_id), m->options->request_id, create_done);
}

static void transition_done(struct call *call, struct call_op *o) {
    if (!op_succeeded(call, o)) return;
    struct slice entry = history_wire(&o->op.outcome.entry, call_core(call)->node->machines, call_arena(call));
    struct slice parts[] = {
        serve_field_head(call, 1, o->op.answer.len), o->op.answer, serve_field_head(call, 2, entry.len), entry,
        replayed_wire(o->op.outcome.replayed, 3),    serve_token_wire(call, 4, &o->op, &o->op.outcome),
    };
    if (!parts[0].data || !parts[2].data || !entry.data || !parts[5].data) {
        answer_lost(call, o);
        return;
    }
    call_reply(call, parts, ARRAY_LEN(parts));
}

/* A transition that acks an event, until the group's id is known. */
struct acking {
    struct call_op look;
    struct checked checked;
    const char *request_id;
    uint64_t generation;
};

static void transition_submit(struct call *call, const struct checked *checked, const char *request_id) {
    write_submit(call, checked, order_id_slot(checked->order_id), request_id, transition_done);
}

static void ack_looked(struct call *call, struct call_op *o) {
    struct acking *a = container_of(o, struct acking, look);
    if (!op_succeeded(call, o)) return;
    const struct consumer_group_row *row = serve_group_row(&o->op.groups, a->checked.ack_group);
    if (!row) {
        serve_group_not_found(call_failure(call), a->checked.ack_group);
        call_fail(call);
        return;
    }
    groups_learn(call_core(call), a->checked.ack_group, row->group_id, a->generation);
    command_ack_set_group(a->checked.command, row->group_id);
    transition_submit(call, &a->checked, a->request_id);
}

static void ack_submit(struct call *call, const struct checked *checked, const char *request_id) {
    uint32_t id = groups_find(call_core(call), checked->ack_group);
    if (id) {
        command_ack_set_group(checked->command, id);
        transition_submit(call, checked, request_id);
        return;
    }
    struct acking *a = arena_new(call_arena(call), struct acking);
    if (!a) {
        serve_fail_memory(call);
        return;
    }
    *a = (struct acking){.checked = *checked, .request_id = request_id, .generation = groups_generation(call_core(call))};
    a->look.op = (struct op){.kind = OP_GROUPS, .slot = SLOT_META, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    call_submit(call, &a->look, ack_looked);
}

void serve_transition_order(struct call *call) {
    struct checked checked;
    Orderdb__V1__TransitionOrderRequest *m = (void *)serve_decode(call, &orderdb__v1__transition_order_request__descriptor);
    if (!m) return;
    if (!check_transition(m, call_traceparent(call), call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    const char *request_id = m->options ? m->options->request_id : NULL;
    if (checked.ack_group.len) ack_submit(call, &checked, request_id);
    else transition_submit(call, &checked, request_id);
}

/* UpdateOrderResponse has the fields of CreateOrderResponse. */
void serve_update_order(struct call *call) {
    struct checked checked;
    Orderdb__V1__UpdateOrderRequest *m = (void *)serve_decode(call, &orderdb__v1__update_order_request__descriptor);
    if (!m) return;
    if (!check_update(m, call_traceparent(call), call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    write_submit(call, &checked, order_id_slot(checked.order_id), m->options ? m->options->request_id : NULL, create_done);
}

static void set_timer_done(struct call *call, struct call_op *o) {
    if (!op_succeeded(call, o)) return;
    struct slice parts[] = {serve_field_head(call, 1, o->op.answer.len), o->op.answer};
    if (!parts[0].data) {
        answer_lost(call, o);
        return;
    }
    call_reply(call, parts, ARRAY_LEN(parts));
}

void serve_set_order_timer(struct call *call) {
    struct checked checked;
    Orderdb__V1__SetOrderTimerRequest *m = (void *)serve_decode(call, &orderdb__v1__set_order_timer_request__descriptor);
    if (!m) return;
    if (!check_set_timer(m, call_traceparent(call), call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    write_submit(call, &checked, order_id_slot(checked.order_id), m->options ? m->options->request_id : NULL, set_timer_done);
}

/* CancelOrderTimerResponse is empty. */
static void cancel_timer_done(struct call *call, struct call_op *o) {
    if (op_succeeded(call, o)) serve_reply(call, (struct slice){0});
}

void serve_cancel_order_timer(struct call *call) {
    struct checked checked;
    Orderdb__V1__CancelOrderTimerRequest *m = (void *)serve_decode(call, &orderdb__v1__cancel_order_timer_request__descriptor);
    if (!m) return;
    if (!check_cancel_timer(m, call_traceparent(call), call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    write_submit(call, &checked, order_id_slot(checked.order_id), m->options ? m->options->request_id : NULL, cancel_timer_done);
}

static void outcome_done(struct call *call, struct call_op *o) {
    enum { CAP = 3 * PB_INT_BYTES_MAX };
    if (!op_succeeded(call, o)) return;
    const struct outcome *out = &o->op.outcome;
    uint8_t *bytes = arena_alloc(call_arena(call), CAP);
    if (!bytes) {
        serve_fail_memory(call);
        return;
    }
    struct writer w = writer_of(bytes, CAP);
    pb_int64(&w, 1, out->applied ? ORDERDB__V1__REQUEST_OUTCOME__STATE__APPLIED : ORDERDB__V1__REQUEST_OUTCOME__STATE__NOT_APPLIED);
    pb_int64(&w, 2, out->head.order_id);
    pb_int64(&w, 3, out->head.version);
    check(!w.full);
    serve_reply(call, writer_slice(&w));
}

void serve_get_request_outcome(struct call *call) {
    struct checked checked;
    Orderdb__V1__GetRequestOutcomeRequest *m = (void *)serve_decode(call, &orderdb__v1__get_request_outcome_request__descriptor);
    if (!m || !serve_take_token(call, m->user_id, "")) return;
    if (!check_outcome(m, call_arena(call), &checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    struct call_op *o = call_op_new(call, OP_WRITE, slot_of_user(checked.user_id));
    if (!o) return;
    o->op.command = checked.command;
    call_submit(call, o, outcome_done);
}

/* ---- reads */

static void answer_done(struct call *call, struct call_op *o) {
    if (op_succeeded(call, o)) call_reply(call, &o->op.answer, 1);
}

static bool time_bound(struct call *call, const Google__Protobuf__Timestamp *t, const char *field, bool *has, int64_t *us) {
    *has = t != NULL;
    return !t || check_timestamp(t, field, us, call_failure(call));
}

void serve_get_order(struct call *call) {
    Orderdb__V1__GetOrderRequest *m = (void *)serve_decode(call, &orderdb__v1__get_order_request__descriptor);
    if (!m) return;
    struct get_request r = {.order_id = m->order_id, .history_entries = m->history_entries};
    bool ok = serve_read_options(call, m->read, true, &r.full);
    ok &= time_bound(call, m->as_of, "as_of", &r.has_as_of, &r.as_of_us);
    if (!ok) {
        call_fail(call);
        return;
    }
    struct call_op *o = call_op_new(call, OP_GET, order_id_slot(m->order_id));
    if (!o) return;
    o->op.get = r;
    o->op.bound = serve_read_bound(m->read, o->op.slot);
    call_submit(call, o, answer_done);
}

void serve_list_orders(struct call *call) {
    Orderdb__V1__ListOrdersRequest *m = (void *)serve_decode(call, &orderdb__v1__list_orders_request__descriptor);
    if (!m || !serve_take_token(call, m->user_id, "")) return;
    struct list_request r = {
        .user_id = slice_str(m->user_id),
        .status_count = (unsigned)m->n_statuses,
        .page_size = m->page_size,
        .page_number = m->page_number,
        .page_token = slice_str(m->page_token),
    };
    struct slice *statuses = arena_array(call_arena(call), struct slice, m->n_statuses + 1);
    bool ok = serve_read_options(call, m->read, false, &r.full);
    ok &= time_bound(call, m->create_time_from, "create_time_from", &r.has_from, &r.from_us);
    ok &= time_bound(call, m->create_time_to, "create_time_to", &r.has_to, &r.to_us);
    if (!statuses) ok = !failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "the request's memory is used up");
    if (!ok) {
        call_fail(call);
        return;
    }
    for (size_t i = 0; i < m->n_statuses; i++) statuses[i] = slice_str(m->statuses[i]);
    r.statuses = statuses;
    struct call_op *o = call_op_new(call, OP_LIST, slot_of_user(r.user_id));
    if (!o) return;
    o->op.list = r;
    o->op.bound = serve_read_bound(m->read, o->op.slot);
    call_submit(call, o, answer_done);
}

void serve_list_order_history(struct call *call) {
    Orderdb__V1__ListOrderHistoryRequest *m = (void *)serve_decode(call, &orderdb__v1__list_order_history_request__descriptor);
    if (!m) return;
    bool full;
    if (!serve_read_options(call, m->read, true, &full)) {
        call_fail(call);
        return;
    }
    struct call_op *o = call_op_new(call, OP_HISTORY, order_id_slot(m->order_id));
    if (!o) return;
    o->op.history = (struct history_request){.order_id = m->order_id, .page_size = m->page_size, .page_token = slice_str(m->page_token)};
    o->op.bound = serve_read_bound(m->read, o->op.slot);
    call_submit(call, o, answer_done);
}
