#include "engine/command_local.h"

#include "proto/status.h"

/* Layout of a command (numbers big-endian or varints, texts counted by a varint):
 *
 *   type(1) request_id fingerprint low(8) high(8) ttl_us(varint) operator reason traceparent
 *   create      user_id client_order_no machine summary detail
 *   transition  order_id(8) event to_status count(varint) { expected status }* expected_version(8)
 *   patch       transition, change
 *   acked       type(1) held(1) group(4) slot(2) seq(8), and then a whole transition or patch
 *   import      user_id client_order_no machine summary detail count(varint) { entry }*
 *   fence       user_id
 *   update      order_id(8) expected_version(8) change
 *   set_timer   order_id(8) fire_us(8) timer_id event count(varint) { expected status }*
 *   cancel_timer order_id(8) timer_id
 *   fire        floor_us(8) count(varint) { fire_us(8) order_id(8) no(1) }*
 *   change      fields(8) currency summary detail
 *   batch       user_id count(varint) { create }*
 *   resource    kind(1) remove(1) name bytes
 *   machine     row
 *   entry       version(varint) time_us(8) from(2) to(2) event operator reason request_id traceparent
 *
 * Those of consumer groups: command_group.c. Chain hashes are not carried: apply computes them, since they cover the order id, which only apply knows. */

/* The smallest encoded history entry: bounds what a damaged count could make the decoder allocate. */
enum { ENTRY_HISTORY_BYTES_MIN = 1 + 8 + 2 + 2 + 5, COUNT_BYTES_MAX = 10 };

static size_t counted_bytes_max(struct slice s) { return COUNT_BYTES_MAX + s.len; }

static size_t change_bytes_max(const struct content_change *c)
{
    return 8 + counted_bytes_max(c->currency) + counted_bytes_max(c->summary) + counted_bytes_max(c->detail);
}

static size_t command_bytes_max(const struct command *c)
{
    const struct command_origin *o = &c->origin;
    size_t n = 1 + counted_bytes_max(o->request_id) + 16 + COUNT_BYTES_MAX;
    n += counted_bytes_max(o->operator_) + counted_bytes_max(o->reason) + counted_bytes_max(o->traceparent);
    switch (c->type) {
    case COMMAND_CREATE:
        n += counted_bytes_max(c->create.user_id) + counted_bytes_max(c->create.client_order_no) + counted_bytes_max(c->create.machine);
        return n + counted_bytes_max(c->create.summary) + counted_bytes_max(c->create.detail);
    case COMMAND_TRANSITION:
    case COMMAND_PATCH:
        n += change_bytes_max(&c->transition.patch) + 16 + counted_bytes_max(c->transition.event) + counted_bytes_max(c->transition.to_status) + COUNT_BYTES_MAX;
        for (unsigned i = 0; i < c->transition.expected_status_count; i++) n += counted_bytes_max(c->transition.expected_statuses[i]);
        return n;
    case COMMAND_FENCE:
        return n + counted_bytes_max(c->fence.user_id);
    case COMMAND_UPDATE:
        return n + 16 + change_bytes_max(&c->update.change);
    case COMMAND_SET_TIMER:
        n += 16 + counted_bytes_max(c->set_timer.timer_id) + counted_bytes_max(c->set_timer.event) + COUNT_BYTES_MAX;
        for (unsigned i = 0; i < c->set_timer.expected_status_count; i++) n += counted_bytes_max(c->set_timer.expected_statuses[i]);
        return n;
    case COMMAND_CANCEL_TIMER:
        return n + 8 + counted_bytes_max(c->cancel_timer.timer_id);
    case COMMAND_FIRE:
        return n + 8 + COUNT_BYTES_MAX + c->fire.packed.len;
    case COMMAND_RETAIN:
        return n + 16;
    case COMMAND_BATCH:
        return n + counted_bytes_max(c->batch.user_id) + COUNT_BYTES_MAX + c->batch.packed.len;
    case COMMAND_RESOURCE:
        return n + 2 + counted_bytes_max(c->resource.name) + counted_bytes_max(c->resource.bytes);
    case COMMAND_NODE:
        return n + 1 + 8 + counted_bytes_max(c->node.zone) + counted_bytes_max(c->node.address) + counted_bytes_max(c->node.founders);
    case COMMAND_MACHINE:
        return n + counted_bytes_max(c->machine.row);
    case COMMAND_IMPORT:
    case COMMAND_IMPORT_UNTOLD:
        n += counted_bytes_max(c->import.user_id) + counted_bytes_max(c->import.client_order_no) + counted_bytes_max(c->import.machine);
        n += counted_bytes_max(c->import.summary) + counted_bytes_max(c->import.detail) + COUNT_BYTES_MAX;
        for (unsigned i = 0; i < c->import.history_count; i++) n += history_bytes_max(&c->import.history[i]) + COUNT_BYTES_MAX;
        return n;
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
        return n + command_group_bytes_max(c);
    case COMMAND_ACKED:
        break; /* never in a struct command */
    }
    check(!"command type");
    return 0;
}

static void change_encode(const struct content_change *c, struct writer *w)
{
    write_be64(w, c->fields);
    write_counted(w, c->currency);
    write_counted(w, c->summary);
    write_counted(w, c->detail);
}

static void transition_encode(const struct command_transition *t, struct writer *w)
{
    write_be64(w, (uint64_t)t->order_id);
    write_counted(w, t->event);
    write_counted(w, t->to_status);
    write_varint(w, t->expected_status_count);
    for (unsigned i = 0; i < t->expected_status_count; i++) write_counted(w, t->expected_statuses[i]);
    write_be64(w, (uint64_t)t->expected_version);
}

static void set_timer_encode(const struct command_set_timer *t, struct writer *w)
{
    write_be64(w, (uint64_t)t->order_id);
    write_be64(w, (uint64_t)t->fire_us);
    write_counted(w, t->timer_id);
    write_counted(w, t->event);
    write_varint(w, t->expected_status_count);
    for (unsigned i = 0; i < t->expected_status_count; i++) write_counted(w, t->expected_statuses[i]);
}

static void import_history_encode(const struct command_import *m, struct writer *w)
{
    write_varint(w, m->history_count);
    for (const struct history_entry *e = m->history; e < m->history + m->history_count; e++) {
        write_varint(w, (uint64_t)e->version);
        write_be64(w, (uint64_t)e->time_us);
        write_be16(w, e->from);
        write_be16(w, e->to);
        write_counted(w, e->event);
        write_counted(w, e->operator_);
        write_counted(w, e->reason);
        write_counted(w, e->request_id);
        write_counted(w, e->traceparent);
    }
}

static void ack_encode(const struct command_ack *a, struct writer *w)
{
    write_u8(w, COMMAND_ACKED);
    write_u8(w, a->held);
    write_be32(w, a->group_id);
    write_be16(w, a->slot);
    write_be64(w, (uint64_t)a->seq);
}

struct slice command_encode(const struct command *c, struct arena *arena)
{
    bool moves = c->type == COMMAND_TRANSITION || c->type == COMMAND_PATCH;
    check(!moves || c->transition.expected_status_count <= COMMAND_STATUSES_MAX);
    check(!moves || (c->type == COMMAND_PATCH) == (c->transition.patch.fields != 0));
    check(moves || !c->ack.group_id);
    size_t cap = command_bytes_max(c) + COMMAND_ACK_BYTES;
    uint8_t *data = arena_alloc(arena, cap);
    if (!data) return (struct slice){0};
    struct writer w = writer_of(data, cap);
    if (c->ack.group_id) ack_encode(&c->ack, &w);
    write_u8(&w, (uint8_t)c->type);
    write_counted(&w, c->origin.request_id);
    write_be64(&w, c->origin.fingerprint.low);
    write_be64(&w, c->origin.fingerprint.high);
    write_varint(&w, c->origin.ttl_us);
    write_counted(&w, c->origin.operator_);
    write_counted(&w, c->origin.reason);
    write_counted(&w, c->origin.traceparent);
    if (moves) {
        transition_encode(&c->transition, &w);
        if (c->type == COMMAND_PATCH) change_encode(&c->transition.patch, &w);
    } else if (c->type == COMMAND_FENCE) {
        write_counted(&w, c->fence.user_id);
    } else if (c->type == COMMAND_UPDATE) {
        write_be64(&w, (uint64_t)c->update.order_id);
        write_be64(&w, (uint64_t)c->update.expected_version);
        change_encode(&c->update.change, &w);
    } else if (c->type == COMMAND_SET_TIMER) {
        set_timer_encode(&c->set_timer, &w);
    } else if (c->type == COMMAND_CANCEL_TIMER) {
        write_be64(&w, (uint64_t)c->cancel_timer.order_id);
        write_counted(&w, c->cancel_timer.timer_id);
    } else if (c->type == COMMAND_FIRE) {
        check(c->fire.packed.len == (size_t)c->fire.count * COMMAND_FIRE_BYTES);
        write_be64(&w, c->fire.floor_us);
        write_varint(&w, c->fire.count);
        write_slice(&w, c->fire.packed);
    } else if (c->type == COMMAND_RETAIN) {
        write_be64(&w, c->retain.first_place);
        write_be64(&w, c->retain.first_time_us);
    } else if (command_is_group(c->type)) {
        command_group_encode(c, &w);
    } else if (c->type == COMMAND_BATCH) {
        write_counted(&w, c->batch.user_id);
        write_varint(&w, c->batch.count);
        write_slice(&w, c->batch.packed);
    } else if (c->type == COMMAND_RESOURCE) {
        write_u8(&w, c->resource.kind);
        write_u8(&w, c->resource.remove);
        write_counted(&w, c->resource.name);
        write_counted(&w, c->resource.bytes);
    } else if (c->type == COMMAND_NODE) {
        write_u8(&w, c->node.action);
        write_be64(&w, c->node.node_id);
        write_counted(&w, c->node.zone);
        write_counted(&w, c->node.address);
        write_counted(&w, c->node.founders);
    } else if (c->type == COMMAND_MACHINE) {
        write_counted(&w, c->machine.row);
    } else {
        bool create = c->type == COMMAND_CREATE;
        write_counted(&w, create ? c->create.user_id : c->import.user_id);
        write_counted(&w, create ? c->create.client_order_no : c->import.client_order_no);
        write_counted(&w, create ? c->create.machine : c->import.machine);
        write_counted(&w, create ? c->create.summary : c->import.summary);
        write_counted(&w, create ? c->create.detail : c->import.detail);
        if (!create) import_history_encode(&c->import, &w);
    }
    check(!w.full);
    return writer_slice(&w);
}

static void change_decode(struct reader *r, struct content_change *c)
{
    c->fields = read_be64(r);
    c->currency = read_counted(r);
    c->summary = read_counted(r);
    c->detail = read_counted(r);
}

static void transition_decode(struct reader *r, struct command_transition *t)
{
    t->order_id = (int64_t)read_be64(r);
    t->event = read_counted(r);
    t->to_status = read_counted(r);
    uint64_t n = read_varint(r);
    if (n > COMMAND_STATUSES_MAX) r->bad = true;
    for (uint64_t i = 0; i < n && !r->bad; i++) t->expected_statuses[t->expected_status_count++] = read_counted(r);
    t->expected_version = (int64_t)read_be64(r);
}

static void set_timer_decode(struct reader *r, struct command_set_timer *t)
{
    t->order_id = (int64_t)read_be64(r);
    t->fire_us = (int64_t)read_be64(r);
    t->timer_id = read_counted(r);
    t->event = read_counted(r);
    uint64_t n = read_varint(r);
    if (n > TIMER_STATUSES_MAX || !t->timer_id.len || t->timer_id.len > TIMER_ID_BYTES_MAX || t->event.len > TIMER_EVENT_BYTES_MAX) r->bad = true;
    for (uint64_t i = 0; i < n && !r->bad; i++) t->expected_statuses[t->expected_status_count++] = read_counted(r);
}

static void fire_decode(struct reader *r, struct command_fire *f)
{
    f->floor_us = read_be64(r);
    uint64_t n = read_varint(r);
    if (n > COMMAND_FIRE_MAX) r->bad = true;
    if (r->bad) return;
    f->count = (unsigned)n;
    f->packed = read_bytes(r, n * COMMAND_FIRE_BYTES);
}

static enum status import_history_decode(struct reader *r, struct arena *arena, struct command_import *m)
{
    uint64_t n = read_varint(r);
    if (r->bad || n < 1 || n > reader_left(r) / ENTRY_HISTORY_BYTES_MIN) return STATUS_CHECKSUM_MISMATCH;
    struct history_entry *entries = arena_array(arena, struct history_entry, n);
    if (!entries) return STATUS_MEMORY_LIMIT;
    for (struct history_entry *e = entries; e < entries + n; e++) {
        e->version = (int64_t)read_varint(r);
        e->time_us = (int64_t)read_be64(r);
        e->from = read_be16(r);
        e->to = read_be16(r);
        e->event = read_counted(r);
        e->operator_ = read_counted(r);
        e->reason = read_counted(r);
        e->request_id = read_counted(r);
        e->traceparent = read_counted(r);
    }
    m->history = entries;
    m->history_count = (unsigned)n;
    return STATUS_OK;
}

/* The creates are found, not yet decoded. */
static void batch_decode(struct reader *r, struct command_batch *b)
{
    b->user_id = read_counted(r);
    uint64_t n = read_varint(r);
    if (n < 1 || n > COMMAND_BATCH_MAX) r->bad = true;
    b->count = (unsigned)n;
    const uint8_t *begin = r->at;
    for (uint64_t i = 0; i < n && !r->bad; i++) read_counted(r);
    b->packed = r->bad ? (struct slice){0} : slice_of(begin, (size_t)(r->at - begin));
}

static void resource_decode(struct reader *r, struct command_resource *c)
{
    c->kind = read_u8(r);
    uint8_t remove = read_u8(r);
    c->remove = remove;
    if (remove > 1) r->bad = true;
    c->name = read_counted(r);
    c->bytes = read_counted(r);
}

/* Behind the type. */
static void ack_decode(struct reader *r, struct command_ack *a)
{
    uint8_t held = read_u8(r);
    *a = (struct command_ack){.held = held, .group_id = read_be32(r)};
    a->slot = read_be16(r);
    a->seq = (int64_t)read_be64(r);
    if (held > 1 || !a->group_id || a->slot >= SLOT_COUNT || a->seq < 1) r->bad = true;
}

static void origin_decode(struct reader *r, struct command_origin *o)
{
    o->request_id = read_counted(r);
    o->fingerprint.low = read_be64(r);
    o->fingerprint.high = read_be64(r);
    o->ttl_us = read_varint(r);
    o->operator_ = read_counted(r);
    o->reason = read_counted(r);
    o->traceparent = read_counted(r);
}

bool command_ack_of(struct slice bytes, struct command_ack *ack)
{
    struct reader r = reader_of(bytes);
    if (read_u8(&r) != COMMAND_ACKED) return false;
    ack_decode(&r, ack);
    return !r.bad;
}

int64_t command_order_of(struct slice bytes)
{
    struct reader r = reader_of(bytes);
    struct command_origin origin;
    uint8_t type = read_u8(&r);
    if (type == COMMAND_ACKED) read_bytes(&r, COMMAND_ACK_BYTES - 1), type = read_u8(&r);
    if (type != COMMAND_TRANSITION && type != COMMAND_PATCH && type != COMMAND_UPDATE && type != COMMAND_SET_TIMER && type != COMMAND_CANCEL_TIMER) return 0;
    origin_decode(&r, &origin);
    int64_t order_id = (int64_t)read_be64(&r);
    return r.bad ? 0 : order_id;
}

void command_ack_set_held(struct slice bytes, bool held)
{
    check(bytes.len > COMMAND_ACK_BYTES);
    check(bytes.data[0] == COMMAND_ACKED);
    ((uint8_t *)bytes.data)[1] = held; /* the proposer's own bytes, before anybody else sees them */
}

void command_ack_set_group(struct slice bytes, uint32_t group_id)
{
    check(bytes.len > COMMAND_ACK_BYTES);
    check(bytes.data[0] == COMMAND_ACKED);
    put_be32((uint8_t *)bytes.data + 2, group_id);
}

enum status command_decode(struct slice bytes, struct arena *arena, struct command *out)
{
    struct reader r = reader_of(bytes);
    enum status st = STATUS_OK;
    *out = (struct command){.type = read_u8(&r)};
    bool acked = out->type == COMMAND_ACKED;
    if (acked) {
        ack_decode(&r, &out->ack);
        out->type = (enum command_type)read_u8(&r);
        if (out->type != COMMAND_TRANSITION && out->type != COMMAND_PATCH) return STATUS_CHECKSUM_MISMATCH;
    }
    origin_decode(&r, &out->origin);
    switch (out->type) {
    case COMMAND_CREATE:
        out->create.user_id = read_counted(&r);
        out->create.client_order_no = read_counted(&r);
        out->create.machine = read_counted(&r);
        out->create.summary = read_counted(&r);
        out->create.detail = read_counted(&r);
        break;
    case COMMAND_TRANSITION:
        transition_decode(&r, &out->transition);
        break;
    case COMMAND_PATCH:
        transition_decode(&r, &out->transition);
        change_decode(&r, &out->transition.patch);
        if (!out->transition.patch.fields) r.bad = true; /* COMMAND_TRANSITION says that */
        break;
    case COMMAND_IMPORT:
    case COMMAND_IMPORT_UNTOLD:
        out->import.user_id = read_counted(&r);
        out->import.client_order_no = read_counted(&r);
        out->import.machine = read_counted(&r);
        out->import.summary = read_counted(&r);
        out->import.detail = read_counted(&r);
        st = import_history_decode(&r, arena, &out->import);
        break;
    case COMMAND_FENCE:
        out->fence.user_id = read_counted(&r);
        break;
    case COMMAND_UPDATE:
        out->update.order_id = (int64_t)read_be64(&r);
        out->update.expected_version = (int64_t)read_be64(&r);
        change_decode(&r, &out->update.change);
        break;
    case COMMAND_SET_TIMER:
        set_timer_decode(&r, &out->set_timer);
        break;
    case COMMAND_CANCEL_TIMER:
        out->cancel_timer.order_id = (int64_t)read_be64(&r);
        out->cancel_timer.timer_id = read_counted(&r);
        break;
    case COMMAND_FIRE:
        fire_decode(&r, &out->fire);
        break;
    case COMMAND_RETAIN:
        out->retain.first_place = read_be64(&r);
        out->retain.first_time_us = read_be64(&r);
        break;
    case COMMAND_BATCH:
        batch_decode(&r, &out->batch);
        break;
    case COMMAND_RESOURCE:
        resource_decode(&r, &out->resource);
        break;
    case COMMAND_NODE:
        out->node.action = read_u8(&r);
        out->node.node_id = read_be64(&r);
        out->node.zone = read_counted(&r);
        out->node.address = read_counted(&r);
        out->node.founders = read_counted(&r);
        break;
    case COMMAND_MACHINE:
        out->machine.row = read_counted(&r);
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
        command_group_decode(&r, out);
        break;
    default: /* of a newer version, or damaged */
        return bytes.len ? STATUS_FORMAT_UNKNOWN : STATUS_CHECKSUM_MISMATCH;
    }
    if (st) return st;
    return r.bad || r.at != r.end ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* ---- entries */

void entry_head_encode(struct writer *w, uint64_t log_time_us, uint64_t count)
{
    write_u8(w, ENTRY_FORMAT);
    write_be64(w, log_time_us);
    write_varint(w, count);
}

enum status entry_open(struct slice data, struct entry_reader *out)
{
    *out = (struct entry_reader){.reader = reader_of(data)};
    if (read_u8(&out->reader) != ENTRY_FORMAT) return data.len ? STATUS_FORMAT_UNKNOWN : STATUS_CHECKSUM_MISMATCH;
    out->log_time_us = read_be64(&out->reader);
    out->left = read_varint(&out->reader);
    return out->reader.bad ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

bool entry_next(struct entry_reader *r, struct slice *command, enum status *status)
{
    *status = STATUS_OK;
    if (!r->left) { /* bytes behind the last command are damage too */
        if (r->reader.bad || r->reader.at != r->reader.end) *status = STATUS_CHECKSUM_MISMATCH;
        return false;
    }
    r->left--;
    *command = read_counted(&r->reader);
    if (!r->reader.bad) return true;
    *status = STATUS_CHECKSUM_MISMATCH;
    r->left = 0;
    return false;
}
