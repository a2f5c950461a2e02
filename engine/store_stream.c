/* Checkpoints and imports: what both stores have in common, the sum at the stream's end. */
#include "engine/store_ops.h"

#include <stdio.h>

#include "proto/base/hash.h"

enum status store_checkpoint_make(struct store *s, struct store_checkpoint **out, char error[256]) {
    check(s->magic == STORE_MAGIC);
    *out = NULL;
    error[0] = 0;
    enum status st = s->ops->checkpoint_make(s, out, error);
    if (!st) (*out)->ops = s->ops;
    return st;
}

uint64_t store_checkpoint_bytes(const struct store_checkpoint *c) { return c->bytes + STORE_STREAM_SUM_BYTES; }

static enum status checkpoint_read_own(struct store_checkpoint *c, uint64_t offset, uint8_t *out, size_t len) {
    if (!len) return STATUS_OK;
    enum status st = c->ops->checkpoint_read(c, offset, out, len);
    uint64_t end = offset + len;
    if (st || end <= c->summed) return st;
    c->sum = crc32c(c->sum, out + (c->summed - offset), (size_t)(end - c->summed));
    c->summed = end;
    return STATUS_OK;
}

enum status store_checkpoint_read(struct store_checkpoint *c, uint64_t offset, uint8_t *out, size_t len) {
    check(offset <= c->summed || c->summed == c->bytes);
    check(len <= store_checkpoint_bytes(c) - offset);
    size_t own = offset < c->bytes ? (size_t)MIN_OF((uint64_t)len, c->bytes - offset) : 0;
    enum status st = checkpoint_read_own(c, offset, out, own);
    if (st || own == len) return st;
    uint8_t sum[STORE_STREAM_SUM_BYTES];
    put_be32(sum, c->sum);
    memcpy(out + own, sum + (offset + own - c->bytes), len - own);
    return STATUS_OK;
}

void store_checkpoint_free(struct store_checkpoint *c) {
    if (c) c->ops->checkpoint_free(c);
}

enum status store_import_begin(struct store *s, uint64_t bytes, struct store_import **out, char error[256]) {
    check(s->magic == STORE_MAGIC);
    *out = NULL;
    error[0] = 0;
    if (bytes < STORE_STREAM_SUM_BYTES) return snprintf(error, 256, "a stream of %llu bytes is none", (unsigned long long)bytes), STATUS_CHECKSUM_MISMATCH;
    enum status st = s->ops->import_begin(s, out, error);
    if (!st) (*out)->ops = s->ops, (*out)->bytes = bytes - STORE_STREAM_SUM_BYTES;
    return st;
}

enum status store_import_write(struct store_import *i, struct slice bytes, char error[256]) {
    size_t own = (size_t)MIN_OF((uint64_t)bytes.len, i->bytes - i->written), rest = bytes.len - own;
    error[0] = 0;
    if (rest > STORE_STREAM_SUM_BYTES - i->told_bytes) return snprintf(error, 256, "the stream is longer than was said"), STATUS_CHECKSUM_MISMATCH;
    if (own) {
        enum status st = i->ops->import_write(i, slice_of(bytes.data, own), error);
        if (st) return st;
        i->sum = crc32c(i->sum, bytes.data, own);
        i->written += own;
    }
    if (rest) memcpy(i->told + i->told_bytes, bytes.data + own, rest);
    i->told_bytes += (unsigned)rest;
    return STATUS_OK;
}

enum status store_import_finish(struct store_import *i, struct store **look, char error[256]) {
    *look = NULL;
    error[0] = 0;
    check(i->written == i->bytes);
    check(i->told_bytes == STORE_STREAM_SUM_BYTES);
    if (get_be32(i->told) != i->sum) return snprintf(error, 256, "the stream of %llu bytes does not match its checksum", (unsigned long long)i->bytes), STATUS_CHECKSUM_MISMATCH;
    return i->ops->import_finish(i, look, error);
}

enum status store_import_find(struct store *s, struct store_import **out, char error[256]) {
    check(s->magic == STORE_MAGIC);
    *out = NULL;
    error[0] = 0;
    enum status st = s->ops->import_find(s, out, error);
    if (!st) (*out)->ops = s->ops;
    return st;
}

enum status store_import_install(struct store_import *i, char error[256]) {
    error[0] = 0;
    return i->ops->import_install(i, error);
}

void store_import_free(struct store_import *i, bool keep) {
    if (i) i->ops->import_free(i, keep);
}
