/* Protobuf wire by hand: writing answers that are put together from stored bytes, and a walk over fields.
 * https://protobuf.dev/programming-guides/encoding/ Zero and empty values are left out, as proto3 does. */
#ifndef PROTO_PBWIRE_H
#define PROTO_PBWIRE_H

#include "proto/base/bytes.h"

enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_LEN = 2, PB_FIXED32 = 5 };

void pb_tag(struct writer *w, uint32_t field, uint32_t wire_type);
void pb_int64(struct writer *w, uint32_t field, int64_t v);
void pb_bool(struct writer *w, uint32_t field, bool v);
void pb_bytes(struct writer *w, uint32_t field, struct slice v);
/* A sub-message in parts; written even when empty. */
void pb_message(struct writer *w, uint32_t field, const struct slice *parts, size_t n);
/* google.protobuf.Timestamp from Unix microseconds (floored division: nanos are never negative). */
void pb_timestamp_us(struct writer *w, uint32_t field, int64_t unix_us);
enum { PB_INT_BYTES_MAX = 5 + 10, PB_TIMESTAMP_BYTES_MAX = 5 + 1 + 11 + 6 };
static inline size_t pb_bytes_max(struct slice v) { return 5 + 10 + v.len; }

/* One field of a message. value: of the numbers, as on the wire (zigzag and sign are the reader's); bytes: of PB_LEN, borrowed. */
struct pb_field {
    uint32_t number, wire_type;
    uint64_t value;
    struct slice bytes;
};
enum { PB_FIELD_NUMBER_MAX = (1 << 29) - 1 };
/* false: the end, or (r->bad) malformed. Groups are malformed. */
static inline bool MUST_USE pb_next(struct reader *r, struct pb_field *out) {
    if (r->bad || r->at == r->end) return *out = (struct pb_field){0}, false;
    uint64_t tag = read_varint(r);
    *out = (struct pb_field){.number = (uint32_t)(tag >> 3), .wire_type = tag & 7};
    if (tag >> 3 == 0 || tag >> 3 > PB_FIELD_NUMBER_MAX) r->bad = true;
    switch (out->wire_type) {
    case PB_VARINT: out->value = read_varint(r); break;
    case PB_FIXED64: out->value = read_le64(r); break;
    case PB_FIXED32: out->value = read_le32(r); break;
    case PB_LEN: out->bytes = read_counted(r); break;
    default: r->bad = true; /* groups, and what does not exist */
    }
    return !r->bad;
}

/* The same for who looks at a few fields of many: stops at those whose bit is in `wanted` (and, rarely, at others), steps over the rest. */
static inline uint64_t pb_number_bit(uint32_t number) { return number < 64 ? 1ull << number : 1; }
static inline bool MUST_USE pb_next_of(struct reader *r, uint64_t wanted, struct pb_field *out) {
    /* Two bytes of tag and ten of value can be read without looking for the end; what is longer, or near it, takes the careful way. */
    while (!r->bad && r->end - r->at >= 12) {
        const uint8_t *at = r->at;
        uint32_t tag = *at++;
        if (tag >= 0x80) tag = (tag & 0x7f) | (uint32_t)*at++ << 7;
        if (tag < 8 || tag >= 1 << 14 || wanted & pb_number_bit(tag >> 3)) break;
        if ((tag & 7) == PB_LEN) {
            size_t len = *at++;
            if (len >= 0x80) len = (len & 0x7f) | (size_t)*at++ << 7;
            if (len >= 1 << 14 || len > (size_t)(r->end - at)) break;
            r->at = at + len;
        } else if ((tag & 7) == PB_VARINT) {
            uint64_t ends = ~get_le64(at) & 0x8080808080808080ull;
            if (!ends && at[8] >= 0x80) break;
            r->at = at + (ends ? __builtin_ctzll(ends) / 8 : 8) + 1;
        } else {
            break;
        }
    }
    return pb_next(r, out);
}

#endif
