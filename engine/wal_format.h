/* The bytes of the log: segment header, batch head, record. Pure: no I/O, no memory of its own. All integers little-endian.
 *
 * Segment (a file of `bytes` bytes, I/O by whole 4096-byte blocks)
 *   block 0     0 magic "ODBWALSG"   8 format u32 = 1   12 flags u32 (1: recycled)   16 segment id u64   24 salt u64
 *              32 bytes u64         40 zeros           4092 crc32c u32 of bytes 0..4091
 *              Magic, format and the checksum keep their places in every later format, so that an unknown format can be told from damage.
 *   block 1..   batches, each from a block's start, one behind the other; then whatever the file held before (zeros, or an earlier life)
 * Batch (whole blocks)
 *   head        0 crc32c u32         4 magic u32 "BTCH"   8 number u64   16 bytes u32 (padding included)   20 payload u32 (head and records)
 *              24 records u32       28 zero u32
 *   records     back to back, then zeros to the block's end
 * Record
 *   head        0 crc32c u32         4 data bytes u32   8 group u64   16 index u64   24 term u64   32 type u8   33 seven zeros
 *   data
 *
 * Where it stands is under each checksum, behind the bytes themselves, so that they can be summed before the place is known:
 *   head:   crc32c(head[4..], salt, segment id, file offset)
 *   record: crc32c(head[4..], data, salt, segment id, file offset, batch number)
 * A block that was written to the wrong place, or that is left of an earlier life of a recycled file (another salt), is not valid. */
#ifndef ENGINE_WAL_FORMAT_H
#define ENGINE_WAL_FORMAT_H

#include "engine/wal.h"

enum {
    WAL_BLOCK = 4096,
    WAL_FORMAT = 1,
    WAL_SEGMENT_RECYCLED = 1,
    WAL_BATCH_HEAD_BYTES = 32,
    WAL_RECORD_HEAD_BYTES = 40,
    WAL_NAME_BYTES = 96, /* directory, '/', 16 digits, suffix */
};

static inline uint64_t wal_blocks_round(uint64_t n) { return (n + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK; }

struct wal_segment_head {
    uint64_t id, salt, bytes;
    uint32_t flags;
};
void wal_segment_head_encode(uint8_t block[WAL_BLOCK], const struct wal_segment_head *h);
/* CHECKSUM_MISMATCH, or FORMAT_UNKNOWN (*format is what it says). */
enum status wal_segment_head_decode(const uint8_t block[WAL_BLOCK], struct wal_segment_head *out, uint32_t *format) MUST_USE;

/* Where bytes stand. */
struct wal_place {
    uint64_t salt, segment, offset;
};
struct wal_batch_head {
    uint64_t number;
    uint32_t bytes, payload, records;
};
void wal_batch_head_encode(uint8_t *p, const struct wal_batch_head *h, const struct wal_place *place);
/* false: no batch begins here. room: bytes of the segment from here on. */
bool wal_batch_head_decode(const uint8_t *p, uint64_t room, const struct wal_place *place, struct wal_batch_head *out) MUST_USE;

/* Writes head and data at p (WAL_RECORD_HEAD_BYTES + data), its sum without the place. */
void wal_record_encode(uint8_t *p, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n, uint32_t data_bytes);
/* Closes the sums of all records of a gathered batch that now has its place. */
void wal_batch_place(uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place);

/* Walks the records of a batch whose head is valid and whose bytes are all in memory. false at the end or at damage: then r->bad says what,
 * and r->at where in the batch. Padding is looked at too. */
struct wal_record_reader {
    const uint8_t *batch;
    struct wal_batch_head head;
    struct wal_place place; /* of the batch */
    uint32_t at, left;
    const char *bad;
};
struct wal_record_reader wal_record_reader_of(const uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place);
bool wal_record_next(struct wal_record_reader *r, struct wal_record *out);
/* Is all of the batch whole? *at, *what: the first damage. */
bool wal_batch_whole(const uint8_t *batch, const struct wal_batch_head *h, const struct wal_place *place, uint32_t *at, const char **what) MUST_USE;

#endif
