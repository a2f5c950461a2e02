#include "server/op_wire_local.h"

enum { OP_FULL = 1, OP_AS_OF = 2, OP_FROM = 4, OP_TO = 8, OP_STALE = 16, OP_TOKEN = 32, OP_FLAGS = 63 };
enum { OUTCOME_REPLAYED = 1, OUTCOME_APPLIED = 2, OUTCOME_ALREADY_THERE = 4, OUTCOME_BATCH = 8, OUTCOME_MORE = 16, OUTCOME_FLAGS = 31 };
enum { GET_MANY_MAX = 1000, ROWS_MAX = 1 << 16, MAYBE = 1 };

/* ---- ops */

bool op_wire_travels(enum op_kind kind) {
    switch (kind) {
    case OP_WRITE:
    case OP_VALIDATE:
    case OP_GET:
    case OP_GET_MANY:
    case OP_LIST:
    case OP_HISTORY:
    case OP_STATS:
    case OP_RESOURCES:
    case OP_NODES:
    case OP_GROUPS:
    case OP_TRANSFER: return true;
    default: return op_wire_group_travels(kind) || op_wire_scan_travels(kind);
    }
}

static bool is_bounded(enum op_kind kind) { return kind == OP_GET || kind == OP_GET_MANY || kind == OP_LIST || kind == OP_HISTORY; }

static void put_bound(struct out *o, const struct op *op) {
    if (!is_bounded(op->kind)) return;
    if (op->bound.stale) put(o, op->bound.stale_ns);
    if (op->bound.token) put(o, op->bound.slot), put(o, (uint64_t)op->bound.seq);
}

static void get_bound(struct reader *r, struct op *op, uint64_t flags) {
    op->bound.stale = flags & OP_STALE, op->bound.token = flags & OP_TOKEN;
    if (op->bound.stale) op->bound.stale_ns = read_varint(r);
    if (op->bound.token) op->bound.slot = get_16(r), op->bound.seq = get_signed(r);
    if (op->bound.stale_ns > READ_STALE_NS_MAX || op->bound.slot >= SLOT_COUNT || op->bound.seq < 0 || ((flags & (OP_STALE | OP_TOKEN)) && !is_bounded(op->kind))) r->bad = true;
}

static uint64_t bound_flags(const struct op *op) { return is_bounded(op->kind) ? (op->bound.stale ? OP_STALE : 0) | (op->bound.token ? OP_TOKEN : 0) : 0; }

static uint64_t flags_of(const struct op *op) {
    switch (op->kind) {
    case OP_GET: return (op->get.full ? OP_FULL : 0) | (op->get.has_as_of ? OP_AS_OF : 0);
    case OP_GET_MANY: return op->get_many.full ? OP_FULL : 0;
    case OP_LIST: return (op->list.full ? OP_FULL : 0) | (op->list.has_from ? OP_FROM : 0) | (op->list.has_to ? OP_TO : 0);
    default: return 0;
    }
}

static void put_list(struct out *o, const struct list_request *l) {
    put_slice(o, l->user_id);
    put(o, l->status_count);
    for (unsigned i = 0; i < l->status_count; i++) put_slice(o, l->statuses[i]);
    put(o, (uint64_t)l->from_us), put(o, (uint64_t)l->to_us);
    put(o, (uint64_t)(int64_t)l->page_size), put(o, (uint64_t)(int64_t)l->page_number);
    put_slice(o, l->page_token);
}

bool op_wire_write(struct buf *out, const struct op *op, uint64_t deadline_ms, uint32_t partitions) {
    struct out o = {.buf = out};
    check(op_wire_travels(op->kind));
    put(&o, op->kind), put(&o, op->slot), put(&o, flags_of(op) | bound_flags(op)), put(&o, deadline_ms);
    put_bound(&o, op);
    switch (op->kind) {
    case OP_WRITE:
    case OP_VALIDATE: put(&o, op->answer_bytes_max), put_slice(&o, op->command); break;
    case OP_GET: put(&o, (uint64_t)op->get.order_id), put(&o, (uint64_t)(int64_t)op->get.history_entries), put(&o, (uint64_t)op->get.as_of_us); break;
    case OP_GET_MANY:
        put(&o, op->get_many.count);
        for (unsigned i = 0; i < op->get_many.count; i++) put(&o, (uint64_t)op->get_many.order_ids[i]);
        break;
    case OP_LIST: put_list(&o, &op->list); break;
    case OP_HISTORY: put(&o, (uint64_t)op->history.order_id), put(&o, (uint64_t)(int64_t)op->history.page_size), put_slice(&o, op->history.page_token); break;
    case OP_RESOURCES: put(&o, op->resources.kind), put(&o, (uint64_t)(int64_t)op->resources.page_size), put_slice(&o, op->resources.page_token); break;
    case OP_TRANSFER: put(&o, op->to_node_id); break;
    case OP_GROUPS: put(&o, op->groups.seek_of); break;
    case OP_STATS:
    case OP_NODES: break; /* the slot says all */
    default: op_wire_scan_travels(op->kind) ? op_wire_scan_put(&o, op, partitions) : op_wire_group_put(&o, op, partitions); break;
    }
    return !o.full;
}

/* false: no memory. */
static bool get_list(struct reader *r, struct list_request *l, struct arena *arena) {
    l->user_id = read_counted(r);
    l->status_count = get_count(r, COMMAND_STATUSES_MAX);
    struct slice *statuses = arena_array(arena, struct slice, (size_t)l->status_count + 1);
    if (!statuses) return false;
    for (unsigned i = 0; i < l->status_count; i++) statuses[i] = read_counted(r);
    l->statuses = statuses;
    l->from_us = get_signed(r), l->to_us = get_signed(r);
    l->page_size = get_signed_32(r), l->page_number = get_signed_32(r);
    l->page_token = read_counted(r);
    return true;
}

static bool get_many(struct reader *r, struct op *op) {
    op->get_many.count = get_count(r, GET_MANY_MAX);
    int64_t *ids = arena_array(op->arena, int64_t, (size_t)op->get_many.count + 1);
    if (!ids) return false;
    for (unsigned i = 0; i < op->get_many.count; i++) ids[i] = get_signed(r);
    op->get_many.order_ids = ids;
    return true;
}

static bool get_request(struct reader *r, struct op *op, uint64_t flags, uint32_t partitions) {
    switch (op->kind) {
    case OP_WRITE:
    case OP_VALIDATE: op->answer_bytes_max = (size_t)read_varint(r), op->command = read_counted(r); break;
    case OP_GET:
        op->get.order_id = get_signed(r), op->get.history_entries = get_signed_32(r), op->get.as_of_us = get_signed(r);
        op->get.full = flags & OP_FULL, op->get.has_as_of = flags & OP_AS_OF;
        break;
    case OP_GET_MANY: op->get_many.full = flags & OP_FULL; return get_many(r, op);
    case OP_LIST: op->list.full = flags & OP_FULL, op->list.has_from = flags & OP_FROM, op->list.has_to = flags & OP_TO; return get_list(r, &op->list, op->arena);
    case OP_HISTORY: op->history.order_id = get_signed(r), op->history.page_size = get_signed_32(r), op->history.page_token = read_counted(r); break;
    case OP_RESOURCES: op->resources.kind = get_32(r), op->resources.page_size = get_signed_32(r), op->resources.page_token = read_counted(r); break;
    case OP_TRANSFER: op->to_node_id = read_varint(r); break;
    case OP_GROUPS: op->groups.seek_of = get_32(r); break;
    case OP_STATS:
    case OP_NODES: break;
    default: return op_wire_scan_travels(op->kind) ? op_wire_scan_get(r, op, partitions) : op_wire_group_get(r, op, partitions);
    }
    return true;
}

enum status op_wire_read(struct slice bytes, struct op *op, uint64_t *deadline_ms, uint32_t partitions) {
    struct reader r = reader_of(bytes);
    uint64_t kind = read_varint(&r);
    if (r.bad || kind >= OP_KINDS || !op_wire_travels((enum op_kind)kind)) return STATUS_FIELD_INVALID;
    op->kind = (enum op_kind)kind;
    op->slot = get_16(&r);
    uint64_t flags = read_varint(&r);
    *deadline_ms = read_varint(&r);
    get_bound(&r, op, flags);
    if (r.bad || flags > OP_FLAGS || (op->slot >= SLOT_COUNT && op->slot != SLOT_META)) return STATUS_FIELD_INVALID;
    if ((op_wire_group_travels(op->kind) || op_wire_scan_travels(op->kind)) && op->slot >= SLOT_COUNT) return STATUS_FIELD_INVALID; /* the meta partition gives out nothing */
    if (!get_request(&r, op, flags, partitions)) return STATUS_MEMORY_LIMIT;
    if (op->kind == OP_RESOURCES && op->resources.kind >= RESOURCE_KINDS) return STATUS_FIELD_INVALID;
    if ((op->kind == OP_WRITE || op->kind == OP_VALIDATE) && !op->command.len) return STATUS_FIELD_INVALID;
    return r.bad || reader_left(&r) ? STATUS_FIELD_INVALID : STATUS_OK;
}

/* ---- refusals */

static void put_failure(struct out *o, const struct failure *f) {
    unsigned metas = 0, violations = 0;
    for (const struct failure_meta *m = f->metas; m; m = m->next) metas++;
    for (const struct failure_violation *v = f->violations; v; v = v->next) violations++;
    put_text(o, f->message);
    put(o, f->retry_delay_ms);
    put(o, metas);
    for (const struct failure_meta *m = f->metas; m; m = m->next) put_text(o, m->key), put_slice(o, m->value);
    put(o, f->violation_count), put(o, violations);
    for (const struct failure_violation *v = f->violations; v; v = v->next) put_text(o, v->field), put_text(o, v->description);
}

/* A full arena costs details, as everywhere. */
static void get_failure(struct reader *r, struct failure *f, enum status st) {
    struct slice message = read_counted(r);
    failure_set(f, st, "%.*s", (int)message.len, (const char *)message.data);
    f->retry_delay_ms = get_32(r);
    for (unsigned n = get_count(r, 64); n > 0 && !r->bad; n--) {
        struct slice key = read_counted(r), value = read_counted(r);
        const char *name = arena_printf(f->arena, "%.*s", (int)key.len, (const char *)key.data);
        if (name) failure_meta(f, name, "%.*s", (int)value.len, (const char *)value.data);
    }
    unsigned count = get_32(r);
    for (unsigned n = get_count(r, FAILURE_VIOLATIONS_MAX); n > 0 && !r->bad; n--) {
        struct slice field = read_counted(r), description = read_counted(r);
        const char *name = arena_printf(f->arena, "%.*s", (int)field.len, (const char *)field.data);
        if (name) failure_violation(f, st, name, "%.*s", (int)description.len, (const char *)description.data);
    }
    f->violation_count = MAX_OF(count, f->violation_count);
}

/* ---- outcomes: what handlers look at */

static void put_entry(struct out *o, const struct history_entry *e) {
    put(o, (uint64_t)e->version), put(o, (uint64_t)e->time_us), put(o, e->from), put(o, e->to);
    put_slice(o, e->event), put_slice(o, e->operator_), put_slice(o, e->reason), put_slice(o, e->request_id), put_slice(o, e->traceparent), put_slice(o, e->timers);
    put_slice(o, slice_of(e->chain_hash, sizeof e->chain_hash));
}

static void get_entry(struct reader *r, struct history_entry *e, struct arena *a, bool *memory) {
    e->version = get_signed(r), e->time_us = get_signed(r), e->from = get_16(r), e->to = get_16(r);
    e->event = keep(r, a, memory), e->operator_ = keep(r, a, memory), e->reason = keep(r, a, memory), e->request_id = keep(r, a, memory);
    e->traceparent = keep(r, a, memory), e->timers = keep(r, a, memory);
    struct slice hash = read_counted(r);
    if (hash.len != sizeof e->chain_hash) r->bad = true;
    else memcpy(e->chain_hash, hash.data, sizeof e->chain_hash);
}

static void put_one(struct out *o, const struct outcome *c) {
    put(o, (c->replayed ? OUTCOME_REPLAYED : 0) | (c->applied ? OUTCOME_APPLIED : 0) | (c->already_there ? OUTCOME_ALREADY_THERE : 0) | (c->batch ? OUTCOME_BATCH : 0) |
               (c->group.more ? OUTCOME_MORE : 0));
    put(o, c->slot), put(o, (uint64_t)c->seq), put(o, (uint64_t)c->head.order_id), put(o, (uint64_t)c->head.version);
    put_entry(o, &c->entry);
}

static void get_one(struct reader *r, struct outcome *c, struct arena *a, bool *memory) {
    uint64_t flags = read_varint(r);
    if (flags > OUTCOME_FLAGS) r->bad = true;
    c->replayed = flags & OUTCOME_REPLAYED, c->applied = flags & OUTCOME_APPLIED, c->already_there = flags & OUTCOME_ALREADY_THERE;
    c->batch = flags & OUTCOME_BATCH, c->group.more = flags & OUTCOME_MORE;
    c->slot = get_16(r), c->seq = get_signed(r), c->head.order_id = get_signed(r), c->head.version = get_signed(r);
    get_entry(r, &c->entry, a, memory);
}

static void put_outcome(struct out *o, const struct op *op) {
    const struct outcome *c = &op->outcome;
    const struct resource_outcome *s = &c->resource;
    put_one(o, c);
    put(o, c->group.group_id), put(o, c->group.revision), put(o, c->group.epoch), put(o, c->group.count);
    put(o, s->effect), put(o, s->kind), put_slice(o, s->name), put_slice(o, s->bytes), put(o, s->revision), put(o, s->machine);
    put(o, (uint64_t)(int64_t)s->version), put(o, (uint64_t)(int64_t)s->newest);
    put_slice(o, op->answer);
    put(o, c->item_count);
    for (unsigned i = 0; i < c->item_count; i++) put_one(o, &c->items[i]), put_slice(o, op->orders[i]);
}

static void get_outcome(struct reader *r, struct op *op, bool *memory) {
    struct outcome *c = &op->outcome;
    struct resource_outcome *s = &c->resource;
    *c = (struct outcome){0};
    get_one(r, c, op->arena, memory);
    c->group.group_id = get_32(r), c->group.revision = read_varint(r), c->group.epoch = read_varint(r), c->group.count = get_32(r);
    uint64_t effect = read_varint(r);
    if (effect > RESOURCE_REMOVED) r->bad = true;
    else s->effect = (enum resource_effect)effect;
    s->kind = (uint8_t)get_16(r), s->name = keep(r, op->arena, memory), s->bytes = keep(r, op->arena, memory), s->revision = read_varint(r), s->machine = get_16(r);
    s->version = get_signed_32(r), s->newest = get_signed_32(r);
    op->answer = keep(r, op->arena, memory);
    c->item_count = get_count(r, COMMAND_BATCH_MAX);
    if (r->bad || !c->item_count) return;
    c->items = arena_array(op->arena, struct outcome, (size_t)c->item_count);
    op->orders = arena_array(op->arena, struct slice, (size_t)c->item_count);
    if (!c->items || !op->orders) *memory = false;
    for (unsigned i = 0; i < c->item_count && *memory && !r->bad; i++) get_one(r, &c->items[i], op->arena, memory), op->orders[i] = keep(r, op->arena, memory);
}

static void put_groups(struct out *o, const struct consumer_groups *g) {
    put(o, g->count);
    for (unsigned i = 0; i < g->count; i++) {
        const struct consumer_group_row *row = &g->rows[i];
        size_t cap = CONSUMER_GROUP_ROW_HEAD_BYTES_MAX + row->definition.len;
        put(o, row->group_id), put(o, row->seeking_us);
        if (o->full || !buf_reserve(o->buf, 10 + cap)) {
            o->full = true;
            return;
        }
        /* The length stands before what it counts: written behind where it goes, and moved there. */
        uint8_t *at = o->buf->data + o->buf->len;
        struct writer w = writer_of(at + 10, cap), head = writer_of(at, 10);
        consumer_group_row_encode(row, &w);
        check(!w.full);
        write_varint(&head, w.len);
        memmove(at + head.len, at + 10, w.len);
        o->buf->len += head.len + w.len;
    }
    put_slice(o, g->seek);
}

static void get_groups(struct reader *r, struct op *op, bool *memory) {
    struct consumer_groups *g = &op->groups;
    g->count = get_count(r, ROWS_MAX);
    g->rows = arena_array(op->arena, struct consumer_group_row, (size_t)g->count + 1);
    if (!g->rows) *memory = false;
    for (unsigned i = 0; i < g->count && *memory && !r->bad; i++) {
        uint32_t id = get_32(r);
        uint64_t seeking_us = read_varint(r);
        struct slice row = keep(r, op->arena, memory);
        if (*memory && consumer_group_row_decode(row, &g->rows[i]) != STATUS_OK) r->bad = true;
        g->rows[i].group_id = id, g->rows[i].seeking_us = seeking_us;
    }
    if (*memory && !r->bad) g->seek = keep(r, op->arena, memory);
}

/* Of another's partition: what a topology shows of it. */
static void put_stats(struct out *o, const struct partition_stats *s) {
    put(o, s->machines_known), put(o, s->applied_index), put(o, s->term), put(o, s->leader_node), put(o, s->ready);
    put(o, s->orders), put(o, s->table_bytes), put(o, s->memtable_bytes), put(o, (uint64_t)s->writes_per_second), put(o, (uint64_t)s->reads_per_second);
    put(o, s->replica_count);
    for (uint32_t i = 0; i < s->replica_count; i++) put(o, s->replicas[i].node_id), put(o, s->replicas[i].kind), put(o, s->replicas[i].stored);
}

static void get_stats(struct reader *r, struct partition_stats *s) {
    *s = (struct partition_stats){.machines_known = get_16(r)};
    s->applied_index = read_varint(r), s->term = read_varint(r), s->leader_node = read_varint(r), s->ready = read_varint(r) != 0, s->leader = s->ready;
    s->orders = read_varint(r), s->table_bytes = read_varint(r), s->memtable_bytes = read_varint(r);
    s->writes_per_second = (double)read_varint(r), s->reads_per_second = (double)read_varint(r);
    s->replica_count = get_count(r, GROUP_MEMBERS_MAX);
    for (uint32_t i = 0; i < s->replica_count; i++) {
        struct replica_stats *at = &s->replicas[i];
        at->node_id = read_varint(r), at->kind = (uint8_t)get_16(r), at->stored = read_varint(r);
        if (at->kind < GROUP_VOTER || at->kind > GROUP_SPARE) r->bad = true;
    }
}

static void get_orders(struct reader *r, struct op *op, bool *memory) {
    op->orders = arena_array(op->arena, struct slice, (size_t)op->get_many.count + 1);
    if (!op->orders) *memory = false;
    for (unsigned i = 0; i < op->get_many.count && *memory && !r->bad; i++)
        if (read_varint(r)) op->orders[i] = keep(r, op->arena, memory);
}

bool op_wire_write_outcome(struct buf *out, const struct op *op, uint32_t partitions) {
    struct out o = {.buf = out};
    check(op_wire_travels(op->kind));
    put(&o, op->failure.status), put(&o, op->maybe ? MAYBE : 0);
    if (op->failure.status) return put_failure(&o, &op->failure), !o.full;
    switch (op->kind) {
    case OP_WRITE:
    case OP_VALIDATE: put_outcome(&o, op); break;
    case OP_GET_MANY:
        for (unsigned i = 0; i < op->get_many.count; i++) put_maybe(&o, op->orders[i]);
        break;
    case OP_STATS: put_stats(&o, &op->stats); break;
    case OP_TRANSFER: break;
    case OP_GROUPS: put_groups(&o, &op->groups); break;
    case OP_GET:
    case OP_LIST:
    case OP_HISTORY:
    case OP_RESOURCES:
    case OP_NODES: put_slice(&o, op->answer); break;
    default: op_wire_scan_travels(op->kind) ? op_wire_scan_put_outcome(&o, op, partitions) : op_wire_group_put_outcome(&o, op, partitions); break;
    }
    return !o.full;
}

enum status op_wire_read_outcome(struct slice bytes, struct op *op, uint32_t partitions) {
    struct reader r = reader_of(bytes);
    bool memory = true;
    uint64_t status = read_varint(&r), flags = read_varint(&r);
    if (r.bad || status >= STATUS_COUNT || flags > MAYBE) return STATUS_FIELD_INVALID;
    op->maybe |= (flags & MAYBE) != 0; /* of an earlier try, too */
    if (status) {
        get_failure(&r, &op->failure, (enum status)status);
        return r.bad || reader_left(&r) ? STATUS_FIELD_INVALID : STATUS_OK;
    }
    switch (op->kind) {
    case OP_WRITE:
    case OP_VALIDATE: get_outcome(&r, op, &memory); break;
    case OP_GET_MANY: get_orders(&r, op, &memory); break;
    case OP_STATS: get_stats(&r, &op->stats); break;
    case OP_TRANSFER: break;
    case OP_GROUPS: get_groups(&r, op, &memory); break;
    case OP_GET:
    case OP_LIST:
    case OP_HISTORY:
    case OP_RESOURCES:
    case OP_NODES: op->answer = keep(&r, op->arena, &memory); break;
    default: op_wire_scan_travels(op->kind) ? op_wire_scan_get_outcome(&r, op, partitions, &memory) : op_wire_group_get_outcome(&r, op, partitions, &memory); break;
    }
    if (!memory) return STATUS_MEMORY_LIMIT;
    return r.bad || reader_left(&r) ? STATUS_FIELD_INVALID : STATUS_OK;
}
