/* The pieces that ops are written with, for op_wire*.c alone. */
#ifndef SERVER_OP_WIRE_LOCAL_H
#define SERVER_OP_WIRE_LOCAL_H

#include "server/op_wire.h"

struct out {
    struct buf *buf;
    bool full;
};
static inline void put(struct out *o, uint64_t v) {
    if (o->full || !buf_reserve(o->buf, 10)) {
        o->full = true;
        return;
    }
    struct writer w = writer_of(o->buf->data + o->buf->len, 10);
    write_varint(&w, v);
    o->buf->len += w.len;
}
static inline void put_slice(struct out *o, struct slice s) {
    put(o, s.len);
    if (!o->full && !buf_append(o->buf, s)) o->full = true;
}
static inline void put_text(struct out *o, const char *s) { put_slice(o, slice_str(s ? s : "")); }
/* With the difference between what is not there and what is empty. */
static inline void put_maybe(struct out *o, struct slice s) {
    put(o, s.data != NULL);
    if (s.data) put_slice(o, s);
}

static inline int64_t get_signed(struct reader *r) { return (int64_t)read_varint(r); }
static inline uint32_t get_32(struct reader *r) {
    uint64_t v = read_varint(r);
    if (v > UINT32_MAX) r->bad = true;
    return (uint32_t)v;
}
static inline uint16_t get_16(struct reader *r) {
    uint64_t v = read_varint(r);
    if (v > UINT16_MAX) r->bad = true;
    return (uint16_t)v;
}
static inline int32_t get_signed_32(struct reader *r) { /* of the two's complement, as it was sent */
    int64_t v = get_signed(r);
    if (v < INT32_MIN || v > INT32_MAX) r->bad = true;
    return (int32_t)v;
}
static inline unsigned get_count(struct reader *r, uint64_t max) {
    uint64_t n = read_varint(r);
    if (n > max || n > reader_left(r)) return r->bad = true, 0; /* each takes a byte at least */
    return (unsigned)n;
}
/* data NULL: there is no memory. */
static inline struct slice keep(struct reader *r, struct arena *arena, bool *memory) {
    struct slice s = read_counted(r);
    if (!s.len) return (struct slice){0};
    struct slice copy = arena_copy(arena, s);
    if (!copy.data) *memory = false;
    return copy;
}

/* op_wire_group.c: consumer groups, and where a reader of changes begins. false: not an op of these. */
bool op_wire_group_travels(enum op_kind kind);
void op_wire_group_put(struct out *o, const struct op *op, uint32_t partitions);
/* false: no memory. */
bool op_wire_group_get(struct reader *r, struct op *op, uint32_t partitions);
void op_wire_group_put_outcome(struct out *o, const struct op *op, uint32_t partitions);
void op_wire_group_get_outcome(struct reader *r, struct op *op, uint32_t partitions, bool *memory);

/* Numbers by slot, of the op's partition: those below 0 mean one and the same. */
void op_wire_put_slots(struct out *o, const struct op *op, const int64_t *by_slot, uint32_t partitions);
void op_wire_get_slots(struct reader *r, const struct op *op, int64_t *by_slot, uint32_t partitions);
int64_t *op_wire_slots_new(const struct op *op); /* [SLOT_COUNT], zeros. NULL: no memory */

/* op_wire_scan.c: reads of the change stream, and how many orders there are of which status, for nodes that do not hold the partition. Of a read that waits, how long is the time left of
 * op_wire_write; what comes of it lies in an arena that it may reset: the visit's own has the request. */
enum { OP_WIRE_READ_BYTES_MAX = 4 << 20 };
bool op_wire_scan_travels(enum op_kind kind);
void op_wire_scan_put(struct out *o, const struct op *op, uint32_t partitions);
bool op_wire_scan_get(struct reader *r, struct op *op, uint32_t partitions);
void op_wire_scan_put_outcome(struct out *o, const struct op *op, uint32_t partitions);
void op_wire_scan_get_outcome(struct reader *r, struct op *op, uint32_t partitions, bool *memory);

#endif
