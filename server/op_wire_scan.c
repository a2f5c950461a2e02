#include "engine/filter.h"
#include "server/op_wire_local.h"

enum { READ_FULL = 1, READ_FILTER = 2, READ_BEHIND = 4, READ_AT_END = 8, READ_FLAGS = 15, PAIRS_MAX = 4096, FILTER_BYTES_MAX = 64 << 10 };

bool op_wire_scan_travels(enum op_kind kind) { return kind == OP_FEED_READ || kind == OP_CENSUS; }

/* ---- a read of the change stream */

static void put_at(struct out *o, const struct feed_position *at) { put(o, at->index), put(o, at->block), put(o, at->event); }
static void get_at(struct reader *r, struct feed_position *at) { at->index = read_varint(r), at->block = get_32(r), at->event = get_32(r); }

static void put_filter(struct out *o, const struct filter *f) {
    struct arena arena; /* the op's is the answer's */
    arena_init(&arena, FILTER_BYTES_MAX);
    struct slice text = filter_print(f, &arena);
    if (!text.data) o->full = true;
    else put_slice(o, text);
    arena_fini(&arena);
}

static void put_read(struct out *o, const struct op *op, uint32_t partitions) {
    const struct feed_request *f = &op->feed;
    put(o, (f->payload == FEED_FULL ? READ_FULL : 0) | (f->filter ? READ_FILTER : 0) | (f->behind ? READ_BEHIND : 0));
    put_at(o, &f->at), put_slice(o, f->user_id), put(o, f->slot), put(o, f->from_us), put(o, f->bytes_max), put(o, f->events_max);
    if (f->filter) put_filter(o, f->filter);
    if (f->behind) op_wire_put_slots(o, op, f->behind, partitions);
}

static bool get_filter(struct reader *r, struct op *op) {
    struct failure f;
    struct slice text = read_counted(r);
    if (r->bad) return true;
    failure_init(&f, op->arena);
    enum status st = filter_parse(&op->feed.filter, text, &filter_events, "filter", op->arena, &f);
    if (st && st != STATUS_MEMORY_LIMIT) r->bad = true;
    return st != STATUS_MEMORY_LIMIT;
}

static bool get_read(struct reader *r, struct op *op, uint32_t partitions) {
    struct feed_request *f = &op->feed;
    uint64_t flags = read_varint(r);
    *f = (struct feed_request){.payload = flags & READ_FULL ? FEED_FULL : FEED_SUMMARY};
    get_at(r, &f->at), f->user_id = read_counted(r), f->slot = get_16(r), f->from_us = read_varint(r), f->bytes_max = (size_t)read_varint(r), f->events_max = get_32(r);
    if (flags > READ_FLAGS || f->slot >= SLOT_COUNT || f->bytes_max > OP_WIRE_READ_BYTES_MAX) r->bad = true;
    if (!r->bad && (flags & READ_FILTER) && !get_filter(r, op)) return false;
    if (flags & READ_BEHIND) {
        if (!(f->behind = op_wire_slots_new(op))) return false;
        if (!r->bad) op_wire_get_slots(r, op, f->behind, partitions);
    }
    return true;
}

/* ---- how many orders */

static void put_census(struct out *o, const struct census_request *c) {
    put(o, c->slot), put(o, c->last_slot), put(o, (uint64_t)c->from_order_id), put(o, c->count);
    for (unsigned i = 0; i < c->count; i++) put(o, c->pairs[i].machine), put(o, c->pairs[i].status);
}

static bool get_census(struct reader *r, struct op *op) {
    struct census_request *c = op->census = arena_zalloc(op->arena, sizeof *c);
    if (!c) return false;
    c->slot = get_16(r), c->last_slot = get_16(r), c->from_order_id = get_signed(r), c->count = get_count(r, PAIRS_MAX);
    if (c->slot >= SLOT_COUNT || c->last_slot >= SLOT_COUNT) r->bad = true;
    if (!(c->pairs = arena_array(op->arena, struct census_pair, (size_t)c->count + 1))) return false;
    for (unsigned i = 0; i < c->count && !r->bad; i++) c->pairs[i] = (struct census_pair){.machine = get_16(r), .status = get_16(r)};
    return true;
}

/* ---- the four */

void op_wire_scan_put(struct out *o, const struct op *op, uint32_t partitions) {
    if (op->kind == OP_FEED_READ) put_read(o, op, partitions);
    else put_census(o, op->census);
}

bool op_wire_scan_get(struct reader *r, struct op *op, uint32_t partitions) { return op->kind == OP_FEED_READ ? get_read(r, op, partitions) : get_census(r, op); }

void op_wire_scan_put_outcome(struct out *o, const struct op *op, uint32_t partitions) {
    const struct feed_request *f = &op->feed;
    if (op->kind == OP_CENSUS) {
        const struct census_request *c = op->census;
        put(o, c->slot), put(o, (uint64_t)c->from_order_id), put(o, c->done);
        for (unsigned i = 0; i < c->count; i++) put(o, (uint64_t)c->pairs[i].count);
        return;
    }
    put(o, f->at_end ? READ_AT_END : 0), put_at(o, &f->at), put(o, f->events), put(o, f->looked_at), put(o, f->time_us), put_slice(o, op->answer);
    if (f->behind) op_wire_put_slots(o, op, f->behind, partitions);
}

void op_wire_scan_get_outcome(struct reader *r, struct op *op, uint32_t partitions, bool *memory) {
    struct feed_request *f = &op->feed;
    if (op->kind == OP_CENSUS) {
        struct census_request *c = op->census;
        c->slot = get_16(r), c->from_order_id = get_signed(r), c->done = read_varint(r) != 0;
        for (unsigned i = 0; i < c->count && !r->bad; i++) c->pairs[i].count = (int64_t)((uint64_t)c->pairs[i].count + read_varint(r)); /* wraps, whatever a peer sends */
        return;
    }
    f->at_end = read_varint(r) == READ_AT_END;
    get_at(r, &f->at), f->events = get_32(r), f->looked_at = get_32(r), f->time_us = read_varint(r), op->answer = keep(r, op->arena, memory);
    if (f->behind && !r->bad) op_wire_get_slots(r, op, f->behind, partitions);
}
