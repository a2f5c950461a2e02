/* What a write answers: built from its outcome and what the store holds now, as wire bytes, when its entry has been applied or its dry run is done. */
#include "engine/keys.h"
#include "engine/partition.h"
#include "engine/query.h"

/* Apply has the whole order at hand (apply.h), and the waiter has room for it. */
static bool answer_is_kept(const struct op *op, const struct outcome *o) { return o->order.len && (!op->answer_bytes_max || o->order.len <= op->answer_bytes_max); }

/* An order's bytes as the answer to a write shows them. Not replayed and a create: its content is the command's. */
static enum status answer_order(struct partition *p, struct op *op, const struct command *c, const struct outcome *o, struct slice *out) {
    struct engine *e = p->engine;
    struct order_body body;
    if (c->type == COMMAND_CREATE && !o->replayed) {
        body.summary = c->create.summary, body.detail = c->create.detail;
    } else {
        struct key key;
        struct slice row;
        struct store_view view = {.store = p->store, .batch = op->kind == OP_VALIDATE ? p->batch : NULL}; /* a dry run sees what it would have written */
        key_body(&key, o->head.order_id);
        arena_reset(&e->scratch);
        enum status st = store_get(&view, key_slice(&key), &e->scratch, &row);
        if (!st) st = order_body_decode(row, &body);
        if (!st && (p->updates || o->replayed)) st = query_content_at(&view, &e->scratch, o->head.order_id, o->head.version, &body);
        if (st) return st;
    }
    struct order_head head = o->head;
    if (op->answer_bytes_max && order_head_wire_bytes_max(&head) > op->answer_bytes_max) head.timers = (struct slice){0};
    size_t room = op->answer_bytes_max ? op->answer_bytes_max - order_head_wire_bytes_max(&head) : SIZE_MAX;
    bool full = body.summary.len + body.detail.len <= room;
    if (body.summary.len > room) body.summary = (struct slice){0};
    *out = query_order_wire(&head, &body, full, e->config.machines, op->arena);
    return out->data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

static enum status answer_batch(struct partition *p, struct op *op, const struct command_batch *b) {
    struct outcome *o = &op->outcome;
    struct reader r = reader_of(b->packed);
    enum status st = STATUS_OK;
    op->orders = arena_zalloc(op->arena, b->count * sizeof *op->orders);
    if (!op->orders) return STATUS_MEMORY_LIMIT;
    for (unsigned i = 0; i < b->count && !st; i++) {
        struct command create;
        st = command_decode(read_counted(&r), op->arena, &create);
        if (!st) st = answer_order(p, op, &create, &o->items[i], &op->orders[i]);
    }
    return st;
}

/* The timer as this commit left it. */
static enum status answer_timer(struct partition *p, struct op *op, const struct command_set_timer *c) {
    struct order_timers timers;
    enum status st = timers_decode(op->outcome.entry.timers, &timers);
    struct order_timer *t = st ? NULL : timers_find(&timers, c->timer_id);
    if (!t) return STATUS_CHECKSUM_MISMATCH;
    size_t cap = timer_wire_bytes_max(t);
    uint8_t *bytes = arena_alloc(op->arena, cap);
    if (!bytes) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(bytes, cap);
    timer_write(&w, t, p->engine->config.machines);
    check(!w.full);
    op->answer = writer_slice(&w);
    return STATUS_OK;
}

enum status partition_answer_build(struct partition *p, struct op *op) {
    struct engine_stats *stats = &p->engine->stats;
    struct outcome *o = &op->outcome;
    struct command command;
    bool fresh = !o->replayed && !o->already_there && op->kind == OP_WRITE;
    if (answer_is_kept(op, o)) {
        stats->creates += fresh && o->entry.version == 1;
        stats->transitions += fresh && o->entry.version > 1 && op->command.data[0] != COMMAND_UPDATE;
        return op->answer = o->order, STATUS_OK;
    }
    enum status st = command_decode(op->command, op->arena, &command);
    if (st) return st;
    switch (command.type) {
    case COMMAND_CREATE: stats->creates += fresh; break;
    case COMMAND_TRANSITION:
    case COMMAND_PATCH: stats->transitions += fresh; break;
    case COMMAND_UPDATE: break;
    case COMMAND_IMPORT:
    case COMMAND_IMPORT_UNTOLD: stats->imports += fresh; return STATUS_OK; /* counted, not shown */
    case COMMAND_BATCH: stats->creates += fresh ? command.batch.count : 0; return answer_batch(p, op, &command.batch);
    case COMMAND_SET_TIMER: return answer_timer(p, op, &command.set_timer);
    case COMMAND_FENCE:
    case COMMAND_CANCEL_TIMER:
    case COMMAND_FIRE:
    case COMMAND_RETAIN:
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
    case COMMAND_NODE:
    case COMMAND_MACHINE: return STATUS_OK;
    case COMMAND_RESOURCE: op->answer = o->resource.bytes; return STATUS_OK;
    }
    return answer_order(p, op, &command, o, &op->answer);
}
