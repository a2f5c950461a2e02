#include "proto/base/bytes.h"

void write_varint_long(struct writer *w, uint64_t v) {
    uint8_t *d = writer_claim(w, varint_len(v));
    if (!d) return;
    while (v >= 0x80) *d++ = (uint8_t)(v | 0x80), v >>= 7;
    *d = (uint8_t)v;
}

/* Seven bits a byte: bits / 7, rounded up. */
size_t varint_len(uint64_t v) {
    unsigned highest = 63 - (unsigned)__builtin_clzll(v | 1);
    return (highest * 9 + 73) / 64;
}

uint64_t read_varint_long(struct reader *r) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t b = read_u8(r);
        if (shift == 63 && b > 1) r->bad = true; /* more than 64 bits */
        v |= (uint64_t)(b & 0x7f) << (shift & 63);
        if (r->bad) return 0;
        if (!(b & 0x80)) return v;
    }
    return r->bad = true, 0;
}
