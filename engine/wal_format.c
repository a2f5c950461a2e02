#include "engine/wal_format.h"

#include <string.h>

#include "proto/base/hash.h"

static const uint8_t segment_magic[8] = "ODBWALSG";
enum { BATCH_MAGIC = 0x48435442 /* "BTCH" */, SEGMENT_CRC_AT = WAL_BLOCK - 4 };
static_assert(WAL_RECORD_BYTES_MAX < 1u << 31, "lengths are u32");

void wal_segment_head_encode(uint8_t block[WAL_BLOCK], const struct wal_segment_head *h) {
    memset(block, 0, WAL_BLOCK);
    memcpy(block, segment_magic, sizeof segment_magic);
    put_le32(block + 8, WAL_FORMAT);
    put_le32(block + 12, h->flags);
    put_le64(block + 16, h->id);
    put_le64(block + 24, h->salt);
    put_le64(block + 32, h->bytes);
    put_le32(block + SEGMENT_CRC_AT, crc32c(0, block, SEGMENT_CRC_AT));
}

enum status wal_segment_head_decode(const uint8_t block[WAL_BLOCK], struct wal_segment_head *out, uint32_t *format) {
    *format = get_le32(block + 8);
    if (memcmp(block, segment_magic, sizeof segment_magic) != 0 || get_le32(block + SEGMENT_CRC_AT) != crc32c(0, block, SEGMENT_CRC_AT))
        return STATUS_CHECKSUM_MISMATCH;
    if (*format != WAL_FORMAT) return STATUS_FORMAT_UNKNOWN;
    *out = (struct wal_segment_head){
        .flags = get_le32(block + 12), .id = get_le64(block + 16), .salt = get_le64(block + 24), .bytes = get_le64(block + 32)};
    return STATUS_OK;
}

static uint32_t place_sum(uint32_t crc, const struct wal_place *p) {
    uint8_t bytes[24];
    put_le64(bytes, p->salt);
    put_le64(bytes + 8, p->segment);
    put_le64(bytes + 16, p->offset);
    return crc32c(crc, bytes, sizeof bytes);
}

static uint32_t record_place_sum(uint32_t crc, const struct wal_place *batch, uint32_t at, uint64_t number) {
    uint8_t bytes[32];
    put_le64(bytes, batch->salt);
    put_le64(bytes + 8, batch->segment);
    put_le64(bytes + 16, batch->offset + at);
    put_le64(bytes + 24, number);
    return crc32c(crc, bytes, sizeof bytes);
}

void wal_batch_head_encode(uint8_t *p, const struct wal_batch_head *h, const struct wal_place *place) {
    put_le32(p + 4, BATCH_MAGIC);
    put_le64(p + 8, h->number);
    put_le32(p + 16, h->bytes);
    put_le32(p + 20, h->payload);
    put_le32(p + 24, h->records);
    put_le32(p + 28, 0);
    put_le32(p, place_sum(crc32c(0, p + 4, WAL_BATCH_HEAD_BYTES - 4), place));
}

bool wal_batch_head_decode(const uint8_t *p, uint64_t room, const struct wal_place *place, struct wal_batch_head *out) {
    if (get_le32(p + 4) != BATCH_MAGIC) return false;
    if (get_le32(p) != place_sum(crc32c(0, p + 4, WAL_BATCH_HEAD_BYTES - 4), place)) return false;
    struct wal_batch_head h = {
        .number = get_le64(p + 8), .bytes = get_le32(p + 16), .payload = get_le32(p + 20), .records = get_le32(p + 24)};
    if (h.number == 0 || get_le32(p + 28) != 0) return false;
    if (h.bytes > room || h.payload < WAL_BATCH_HEAD_BYTES || h.bytes != wal_blocks_round(h.payload)) return false;
    if (h.records > (h.payload - WAL_BATCH_HEAD_BYTES) / WAL_RECORD_HEAD_BYTES) return false;
    return *out = h, true;
}

void wal_record_encode(uint8_t *p, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n, uint32_t data_bytes) {
    memset(p, 0, WAL_RECORD_HEAD_BYTES);
    put_le32(p + 4, data_bytes);
    put_le64(p + 8, group);
    put_le64(p + 16, index);
    put_le64(p + 24, term);
    p[32] = type;
    uint8_t *d = p + WAL_RECORD_HEAD_BYTES;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len) memcpy(d, parts[i].data, parts[i].len);
        d += parts[i].len;
    }
    check(d == p + WAL_RECORD_HEAD_BYTES + data_bytes);
    put_le32(p, crc32c(0, p + 4, WAL_RECORD_HEAD_BYTES - 4 + data_bytes));
}

void wal_batch_place(uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place) {
    uint32_t at = WAL_BATCH_HEAD_BYTES;
    for (uint32_t i = 0; i < h->records; i++) {
        uint8_t *p = batch + at;
        put_le32(p, record_place_sum(get_le32(p), place, at, h->number));
        at += WAL_RECORD_HEAD_BYTES + get_le32(p + 4);
    }
    check(at == h->payload);
}

struct wal_record_reader wal_record_reader_of(const uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place) {
    return (struct wal_record_reader){.batch = batch, .head = *h, .place = *place, .at = WAL_BATCH_HEAD_BYTES, .left = h->records};
}

static bool reader_bad(struct wal_record_reader *r, const char *what) {
    r->bad = what;
    r->left = 0;
    return false;
}

bool wal_record_next(struct wal_record_reader *r, struct wal_record *out) {
    if (r->bad) return false;
    if (r->left == 0) {
        if (r->at != r->head.payload) return reader_bad(r, "records end before the payload does");
        for (; r->at < r->head.bytes; r->at++)
            if (r->batch[r->at] != 0) return reader_bad(r, "padding is not zero");
        r->head.payload = r->at; /* a further call finds nothing again */
        return false;
    }
    uint32_t room = r->head.payload - r->at;
    if (room < WAL_RECORD_HEAD_BYTES) return reader_bad(r, "record runs over the payload");
    const uint8_t *p = r->batch + r->at;
    uint32_t data_bytes = get_le32(p + 4);
    if (data_bytes > room - WAL_RECORD_HEAD_BYTES) return reader_bad(r, "record runs over the payload");
    uint32_t crc = crc32c(0, p + 4, WAL_RECORD_HEAD_BYTES - 4 + data_bytes);
    if (get_le32(p) != record_place_sum(crc, &r->place, r->at, r->head.number)) return reader_bad(r, "record checksum does not match");
    *out = (struct wal_record){.group = get_le64(p + 8),
                               .index = get_le64(p + 16),
                               .term = get_le64(p + 24),
                               .type = p[32],
                               .data = slice_of(p + WAL_RECORD_HEAD_BYTES, data_bytes)};
    r->at += WAL_RECORD_HEAD_BYTES + data_bytes;
    r->left--;
    return true;
}

bool wal_batch_whole(const uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place, uint32_t *at, const char **what) {
    struct wal_record_reader r = wal_record_reader_of(batch, h, place);
    struct wal_record record;
    while (wal_record_next(&r, &record)) continue;
    *at = r.at;
    *what = r.bad;
    return r.bad == NULL;
}
