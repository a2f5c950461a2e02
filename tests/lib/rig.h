/* A partition without log or group: a store in memory, entries applied to it, flushes and crashes at will. */
#ifndef TESTS_LIB_RIG_H
#define TESTS_LIB_RIG_H

#include "engine/apply.h"
#include "engine/keys.h"

struct rig {
    struct machines *ms; /* borrowed */
    struct store_mem_disk *disk;
    struct store *store;
    struct store_batch *batch;
    struct arena scratch;
    struct partition_record record; /* applied */
    struct feed_writer feed;
    struct feed_tail tail;          /* of 64 KiB */
    struct feed_record kept;
    uint64_t cache_bytes;           /* 0: no row is kept beside the store, and no filter of idempotency keys */
    struct timers_record timers;
};

void rig_open(struct rig *r, struct machines *ms);
void rig_cache(struct rig *r, uint64_t bytes); /* from now on, right behind the open: what apply decides is the same */
void rig_close(struct rig *r);
/* What was not flushed is gone; record is what the disk has. */
void rig_crash(struct rig *r);
/* Everything applied is durable, and expired idempotency records may go. */
void rig_flush(struct rig *r);
struct store_view rig_view(const struct rig *r);
/* One entry at index record.applied_index + 1. outcomes NULL: nobody waits. A fault leaves everything as it was. */
enum status rig_apply(struct rig *r, uint64_t log_time_us, const struct slice *commands, unsigned count, struct arena *arena,
                      struct outcome *outcomes) MUST_USE;

#endif
