/* A seek of a consumer group that goes on: what it does in every partition, kept by the meta partition until all of them have taken it (docs/STREAM.md, "A seek"). Pure.
 *
 *   plan                    = snapshot(1) partitions(varint) { epoch(varint) }* count(varint) { slot(2) behind(varint) }*     slots ascending
 *   row 0xffff 'K' group(4) = format(1) id(8) begun_us(8) plan
 *
 * Each partition has an epoch of the group, which every seek raises. The plan names those that it found, so its part of a partition is done once, by whoever comes first, and is refused
 * (VERSION_MISMATCH) from whoever comes later: a call and any number of nodes may be at it at the same time.
 *
 * Golden bytes: tests/golden/group_seeking.hex; fuzzed (fuzz_rows). */
#ifndef ENGINE_CONSUMER_SEEK_H
#define ENGINE_CONSUMER_SEEK_H

#include "proto/base/arena.h"
#include "proto/route.h"
#include "proto/status.h"

struct consumer_seek {
    uint64_t id;              /* of the row: the group's epoch in the meta partition behind the seek's beginning */
    uint64_t begun_us;        /* of the row */
    bool snapshot;            /* every partition begins anew with a snapshot; no slots */
    uint32_t partition_count; /* 1 to SLOT_COUNT */
    struct slice epochs;      /* { varint }* by partition: at which it is to be found */
    unsigned count;           /* slots */
    struct slice packed;      /* as of struct command_group_seek */
};
struct slice consumer_seek_plan_encode(const struct consumer_seek *s, struct arena *arena); /* data NULL: it is full */
enum status consumer_seek_plan_decode(struct slice plan, struct consumer_seek *out) MUST_USE; /* borrows; id and begun_us are 0 */

enum { CONSUMER_SEEK_HEAD_BYTES = 1 + 8 + 8 };
void consumer_seek_row_encode(uint64_t id, uint64_t begun_us, struct slice plan, struct writer *w);
enum status consumer_seek_row_decode(struct slice row, struct consumer_seek *out) MUST_USE; /* borrows */

uint64_t consumer_seek_epoch(const struct consumer_seek *s, uint32_t partition);
/* What is to be done in that partition, as a command; data NULL: the arena is full. */
struct slice consumer_seek_command(const struct consumer_seek *s, uint32_t group_id, uint32_t partition, struct arena *arena);

#endif
