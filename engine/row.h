/* A row of a table in memory (row_tree.h, row_pile.h): one version of a key. */
#ifndef ENGINE_ROW_H
#define ENGINE_ROW_H

#include "proto/base/bytes.h"

struct row {
    struct row *older; /* the version before, or NULL; in a pile always NULL */
    uint64_t seq;
    uint32_t value_len, value_cap;
    uint16_t key_len;
    bool deleted;
    uint8_t bytes[]; /* key, value */
};
static inline struct slice row_key(const struct row *r) { return slice_of(r->bytes, r->key_len); }
static inline struct slice row_value(const struct row *r) { return slice_of(r->bytes + r->key_len, r->value_len); }

/* Eight bytes of a key from a place on, zeros behind its end. Keys that differ in it, and not before, are ordered by it. */
static inline uint64_t row_key_word(struct slice key, size_t from) {
    if (key.len >= from + 8) return get_be64(key.data + from);
    uint8_t padded[8] = {0};
    if (key.len > from) memcpy(padded, key.data + from, key.len - from);
    return get_be64(padded);
}

#endif
