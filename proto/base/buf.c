#include "proto/base/buf.h"

#include "proto/base/mem.h"

void buf_fini(struct buf *b) {
    mem_free(b->data);
    *b = (struct buf){0};
}

bool buf_reserve(struct buf *b, size_t n) {
    if (n <= b->cap - b->len) return true;
    if (n > SIZE_MAX / 2 - b->len) return false;
    size_t cap = MAX_OF(MAX_OF(b->cap * 2, b->len + n), (size_t)256);
    uint8_t *p = mem_realloc(b->data, cap);
    if (!p) return false;
    b->data = p;
    b->cap = cap;
    return true;
}

bool buf_append(struct buf *b, struct slice s) {
    if (!buf_reserve(b, s.len)) return false;
    if (s.len) memcpy(b->data + b->len, s.data, s.len);
    b->len += s.len;
    return true;
}

uint8_t *buf_take(struct buf *b) {
    uint8_t *p = b->data;
    *b = (struct buf){0};
    return p;
}
