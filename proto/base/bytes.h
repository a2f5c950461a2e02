/* Bytes: borrowed slices, a bounded writer, a reader that never runs over, fixed-width and varint codecs.
 * Nothing here allocates. */
#ifndef PROTO_BASE_BYTES_H
#define PROTO_BASE_BYTES_H

#include <string.h>

#include "proto/base/base.h"

/* Borrowed memory; who owns it and for how long is said where a slice is passed. */
struct slice {
    const uint8_t *data;
    size_t len;
};

static inline struct slice slice_of(const void *data, size_t len) { return (struct slice){data, len}; }
static inline struct slice slice_str(const char *s) { return (struct slice){(const uint8_t *)s, s ? strlen(s) : 0}; }
#define SLICE_LIT(s) ((struct slice){(const uint8_t *)(s), sizeof(s) - 1})
static inline bool slice_equal(struct slice a, struct slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}
/* Order of unsigned bytes; a prefix sorts first. */
static inline int slice_compare(struct slice a, struct slice b) {
    size_t n = MIN_OF(a.len, b.len);
    int c = n ? memcmp(a.data, b.data, n) : 0;
    return c ? c : (a.len > b.len) - (a.len < b.len);
}
/* The longest beginning of at most max bytes that does not end within a UTF-8 character. */
static inline struct slice slice_cut_utf8(struct slice s, size_t max) {
    if (s.len <= max) return s;
    while (max && (s.data[max] & 0xc0) == 0x80) max--;
    return (struct slice){s.data, max};
}
static inline bool slice_starts_with(struct slice a, struct slice prefix) {
    return a.len >= prefix.len && (prefix.len == 0 || memcmp(a.data, prefix.data, prefix.len) == 0);
}
/* Makes a prefix, in its place, the smallest string above all that begin with it, an upper bound. Its length afterwards; 0: nothing is above them (0xff alone, or an empty prefix). */
static inline size_t bytes_after_prefix(uint8_t *p, size_t len) {
    while (len && p[len - 1] == 0xff) len--;
    if (len) p[len - 1]++;
    return len;
}

static inline void put_be16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v; }
static inline void put_be32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v), memcpy(p, &v, 4); }
static inline void put_be64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v), memcpy(p, &v, 8); }
static inline uint16_t get_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t get_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline uint64_t get_be64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
static inline void put_le16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void put_le32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void put_le64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static inline uint16_t get_le16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t get_le32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t get_le64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "le accessors copy");

/* Writes into memory of the caller's. What does not fit sets `full`, and nothing more is written: test it once at the end. */
struct writer {
    uint8_t *data;
    size_t len, cap;
    bool full;
};
static inline struct writer writer_of(void *data, size_t cap) { return (struct writer){data, 0, cap, false}; }
static inline struct slice writer_slice(const struct writer *w) { return slice_of(w->data, w->len); }
static inline uint8_t *writer_claim(struct writer *w, size_t n) {
    if (w->full || n > w->cap - w->len) return w->full = true, NULL;
    w->len += n;
    return w->data + w->len - n;
}
static inline void write_bytes(struct writer *w, const void *p, size_t n) { uint8_t *d = writer_claim(w, n); if (d && n) memcpy(d, p, n); }
static inline void write_slice(struct writer *w, struct slice s) { write_bytes(w, s.data, s.len); }
static inline void write_u8(struct writer *w, uint8_t v) { write_bytes(w, &v, 1); }
static inline void write_be16(struct writer *w, uint16_t v) { uint8_t *d = writer_claim(w, 2); if (d) put_be16(d, v); }
static inline void write_be32(struct writer *w, uint32_t v) { uint8_t *d = writer_claim(w, 4); if (d) put_be32(d, v); }
static inline void write_be64(struct writer *w, uint64_t v) { uint8_t *d = writer_claim(w, 8); if (d) put_be64(d, v); }
static inline void write_le16(struct writer *w, uint16_t v) { write_bytes(w, &v, 2); }
static inline void write_le32(struct writer *w, uint32_t v) { write_bytes(w, &v, 4); }
static inline void write_le64(struct writer *w, uint64_t v) { write_bytes(w, &v, 8); }
void write_varint_long(struct writer *w, uint64_t v);
/* Protobuf's base-128 varint, 1 to 10 bytes. Most are one byte: tags, small numbers, lengths. */
static inline void write_varint(struct writer *w, uint64_t v) {
    if (v < 0x80) write_u8(w, (uint8_t)v);
    else write_varint_long(w, v);
}
size_t varint_len(uint64_t v);
/* varint length, then the bytes. */
static inline void write_counted(struct writer *w, struct slice s) { write_varint(w, s.len); write_slice(w, s); }

/* Reads memory of the caller's. Running over the end sets `bad`, yields zeros and empty slices: test it once at the end. */
struct reader {
    const uint8_t *at, *end;
    bool bad;
};
static inline struct reader reader_of(struct slice s) { return (struct reader){s.data, s.data + s.len, false}; }
static inline size_t reader_left(const struct reader *r) { return r->bad ? 0 : (size_t)(r->end - r->at); }
static inline struct slice read_bytes(struct reader *r, size_t n) {
    if (n > reader_left(r)) return r->bad = true, r->at = r->end, (struct slice){0};
    r->at += n;
    return slice_of(r->at - n, n);
}
static inline uint8_t read_u8(struct reader *r) { struct slice s = read_bytes(r, 1); return s.data ? s.data[0] : 0; }
static inline uint16_t read_be16(struct reader *r) { struct slice s = read_bytes(r, 2); return s.data ? get_be16(s.data) : 0; }
static inline uint32_t read_be32(struct reader *r) { struct slice s = read_bytes(r, 4); return s.data ? get_be32(s.data) : 0; }
static inline uint64_t read_be64(struct reader *r) { struct slice s = read_bytes(r, 8); return s.data ? get_be64(s.data) : 0; }
static inline uint16_t read_le16(struct reader *r) { struct slice s = read_bytes(r, 2); return s.data ? get_le16(s.data) : 0; }
static inline uint32_t read_le32(struct reader *r) { struct slice s = read_bytes(r, 4); return s.data ? get_le32(s.data) : 0; }
static inline uint64_t read_le64(struct reader *r) { struct slice s = read_bytes(r, 8); return s.data ? get_le64(s.data) : 0; }
uint64_t read_varint_long(struct reader *r);
static inline uint64_t read_varint(struct reader *r) { return reader_left(r) && *r->at < 0x80 ? *r->at++ : read_varint_long(r); }
static inline struct slice read_counted(struct reader *r) {
    uint64_t n = read_varint(r);
    return n > reader_left(r) ? (r->bad = true, r->at = r->end, (struct slice){0}) : read_bytes(r, (size_t)n);
}

#endif
