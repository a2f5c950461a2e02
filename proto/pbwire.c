#include "proto/pbwire.h"

void pb_tag(struct writer *w, uint32_t field, uint32_t wire_type) { write_varint(w, (uint64_t)field << 3 | wire_type); }

void pb_int64(struct writer *w, uint32_t field, int64_t v) {
    if (!v) return;
    pb_tag(w, field, PB_VARINT);
    write_varint(w, (uint64_t)v);
}

void pb_bool(struct writer *w, uint32_t field, bool v) { pb_int64(w, field, v); }

void pb_bytes(struct writer *w, uint32_t field, struct slice v) {
    if (!v.len) return;
    pb_tag(w, field, PB_LEN);
    write_counted(w, v);
}

void pb_message(struct writer *w, uint32_t field, const struct slice *parts, size_t n) {
    uint64_t len = 0;
    for (size_t i = 0; i < n; i++) len += parts[i].len;
    pb_tag(w, field, PB_LEN);
    write_varint(w, len);
    for (size_t i = 0; i < n; i++) write_slice(w, parts[i]);
}

static uint8_t *varint_put(uint8_t *at, uint64_t v) {
    while (v >= 0x80) *at++ = (uint8_t)(v | 0x80), v >>= 7;
    *at++ = (uint8_t)v;
    return at;
}

void pb_timestamp_us(struct writer *w, uint32_t field, int64_t unix_us) {
    int64_t seconds = unix_us / US_PER_S, us = unix_us % US_PER_S;
    if (us < 0) us += US_PER_S, seconds--;
    uint8_t bytes[11 + 6], *at = bytes;
    if (seconds) *at++ = 1 << 3 | PB_VARINT, at = varint_put(at, (uint64_t)seconds);
    if (us) *at++ = 2 << 3 | PB_VARINT, at = varint_put(at, (uint64_t)us * 1000);
    struct slice part = slice_of(bytes, (size_t)(at - bytes));
    pb_message(w, field, &part, 1);
}
