/* Bytes become segment files; wal_open must take or refuse them, in bounded time, reading nothing outside. What it takes, it takes again, with the same records.
 *   byte 0: what to mend, so that mutations get past the checksums: 1 segment head, 2 batch heads, 4 records, 8 the second half is a second segment
 *   bytes 1..40: start of the segment's header; the rest: from the first batch on */
#include <stdio.h>
#include <stdlib.h>

#include "engine/wal_format.h"
#include "proto/base/hash.h"
#include "tests/lib/sim_env.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEGMENT_BYTES = 64 << 10, HEAD_BYTES = 40 };
struct seen {
    unsigned count;
    uint32_t crc;
};

static enum status on_record(void *ctx, const struct wal_record *r) {
    struct seen *s = ctx;
    s->count++;
    s->crc = crc32c(s->crc, r->data.data, r->data.len); /* touches every byte */
    return STATUS_OK;
}

static void on_synced(void *ctx, uint64_t batch) { (void)ctx, (void)batch; }

static uint32_t sum_place(uint32_t crc, const struct wal_place *p, uint64_t at) {
    uint8_t bytes[24];
    put_le64(bytes, p->salt), put_le64(bytes + 8, p->segment), put_le64(bytes + 16, p->offset + at);
    return crc32c(crc, bytes, sizeof bytes);
}

static void mend_records(uint8_t *p, size_t room, const struct wal_place *place) {
    uint8_t number[8];
    memcpy(number, p + 8, 8);
    for (size_t at = 32, n = get_le32(p + 24); n && at + WAL_RECORD_HEAD_BYTES <= room; n--) {
        size_t bytes = get_le32(p + at + 4);
        if (bytes > room - at - WAL_RECORD_HEAD_BYTES) return;
        put_le32(p + at, crc32c(sum_place(crc32c(0, p + at + 4, WAL_RECORD_HEAD_BYTES - 4 + bytes), place, at), number, 8));
        at += WAL_RECORD_HEAD_BYTES + bytes;
    }
}

static void segment_put(struct sim_disk *d, uint64_t id, uint8_t mend, const uint8_t *data, size_t size) {
    uint8_t *file = calloc(1, SEGMENT_BYTES);
    check(file);
    char name[64];
    size_t head = MIN_OF(size, (size_t)HEAD_BYTES);
    if (head) memcpy(file, data, head);
    if (size > head) memcpy(file + WAL_BLOCK, data + head, MIN_OF(size - head, (size_t)SEGMENT_BYTES - WAL_BLOCK));
    if (mend & 1) {
        struct wal_segment_head h = {.id = id, .salt = get_le64(file + 24), .bytes = SEGMENT_BYTES, .flags = get_le32(file + 12)};
        wal_segment_head_encode(file, &h);
    }
    for (size_t offset = WAL_BLOCK; offset < SEGMENT_BYTES; offset += WAL_BLOCK) {
        uint8_t *p = file + offset;
        struct wal_place place = {.salt = get_le64(file + 24), .segment = id, .offset = offset};
        if (memcmp(p + 4, "BTCH", 4) != 0) continue;
        if (mend & 2) put_le32(p, sum_place(crc32c(0, p + 4, WAL_BATCH_HEAD_BYTES - 4), &place, 0));
        if (mend & 4) mend_records(p, SEGMENT_BYTES - offset, &place);
    }
    snprintf(name, sizeof name, "log/%016llx.seg", (unsigned long long)id);
    sim_disk_put(d, name, file, SEGMENT_BYTES);
    free(file);
}

static enum status open_once(struct sim_world *w, struct sim_disk *d, struct seen *seen) {
    struct env *env = sim_env_open(w, d);
    struct wal_config c = {.dir = "log", .segment_bytes = SEGMENT_BYTES, .batch_bytes_max = 32 << 10, .live_bytes_max = 256 << 10, .ctx = seen, .synced = on_synced};
    struct wal *wal;
    char error[256];
    *seen = (struct seen){0};
    enum status st = wal_open(&wal, env, &c, on_record, error);
    check(st == STATUS_OK || (error[0] && wal == NULL));
    if (!st) wal_close(wal);
    sim_env_close(env);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct sim_world *w = sim_world_new(1);
    struct sim_disk *d = sim_disk_new(w);
    uint8_t mend = size ? data[0] : 0;
    if (size) data++, size--;
    size_t first = mend & 8 ? size / 2 : size;
    segment_put(d, 1, mend, data, first);
    if (mend & 8) segment_put(d, 2, mend, data + first, size - first);
    struct seen once, twice;
    if (open_once(w, d, &once) == STATUS_OK) {
        check(open_once(w, d, &twice) == STATUS_OK);
        check(once.count == twice.count);
        check(once.crc == twice.crc);
    }
    sim_disk_free(d);
    sim_world_free(w);
    return 0;
}
