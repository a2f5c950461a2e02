/* A growing buffer on the counted heap, for what outlives a request: batches, frames. */
#ifndef PROTO_BASE_BUF_H
#define PROTO_BASE_BUF_H

#include "proto/base/bytes.h"

struct buf {
    uint8_t *data;
    size_t len, cap;
};

void buf_fini(struct buf *b);
/* Room for n more bytes at data + len; false: no memory, unchanged. */
bool buf_reserve(struct buf *b, size_t n) MUST_USE;
bool buf_append(struct buf *b, struct slice s) MUST_USE;
static inline struct slice buf_slice(const struct buf *b) { return slice_of(b->data, b->len); }
/* Hands the memory over (mem_free it) and leaves b empty. */
uint8_t *buf_take(struct buf *b);

#endif
