/* The log of one core: every partition's Raft entries in one sequence of segment files, the only write-ahead log there is.
 * Owned by one engine; all calls on its core. What a cycle gathered becomes one batch: one write, one sync; the next batch is
 * gathered while that runs. Bytes are copied at append. A failed write or sync stops the process (panic_now with file and errno):
 * after a failed fsync nothing about the page cache can be believed.
 * File format, recovery rule and proofs: docs/LOG.md. */
#ifndef ENGINE_WAL_H
#define ENGINE_WAL_H

#include "engine/env.h"
#include "proto/status.h"

enum { WAL_GROUPS_MAX = 1024, WAL_RECORD_BYTES_MAX = 8 << 20 };

struct wal_record {
    uint64_t group;
    uint64_t index, term;
    uint8_t type; /* group.h's entry type; the wal does not look inside */
    struct slice data;
};

struct wal_config {          /* zeros stand for the defaults */
    const char *dir;         /* "log" */
    uint32_t segment_bytes;  /* multiple of 4096, >= 64 KiB; default 64 MiB */
    uint32_t batch_bytes_max; /* gather buffer (there are two); default 4 MiB + one record; never more than fits in a segment */
    uint64_t live_bytes_max; /* log kept on disk at most, default 256 MiB a node, >= segment_bytes; work beyond is refused: STATUS_OVERLOADED */
    void *ctx;
    /* A batch is durable: every record appended before the wal_commit() that started it. Runs from the loop. */
    void (*synced)(void *ctx, uint64_t batch);
};

struct wal;
/* Opens or creates, cuts a torn tail, hands every record to replay() in log order (a record whose index is <= an earlier one of its
 * group supersedes that and all behind it). STATUS_CHECKSUM_MISMATCH / FORMAT_UNKNOWN / IO_FAILED: error[] names file and offset. */
enum status wal_open(struct wal **out, struct env *env, const struct wal_config *config,
                     enum status (*replay)(void *ctx, const struct wal_record *record), char error[256]) MUST_USE;
/* Any time: what is in flight ends by itself and then frees the rest, without calling synced() again; the env must live until wal_settled or deliver
 * the rest. An idle log is sealed first (one small synchronous write), so that damage to its last batch can't pass for a torn tail. */
void wal_close(struct wal *w);
bool wal_settled(const struct wal *w); /* nothing in flight, on other threads neither: wal_close would end at once */
/* Call now and then (every 100 ms is plenty): retries making a segment after a full disk, seals a log that has been idle for a second. */
void wal_tick(struct wal *w);

/* Room for a record of this size now? OVERLOADED: gather buffer, live limit or the next segment is on its way; DISK_FULL: no segment could be made;
 * MESSAGE_TOO_LARGE: never fits. Ask before new work is taken in. */
enum status wal_admit(struct wal *w, size_t bytes) MUST_USE;
/* Adds to the batch being gathered; the data is the concatenation of the parts. Refuses only what has no place (buffer, segment), not what is over the
 * live limit or in the last reserve: what Raft has taken in, and the barrier of a restart with a full log, must get through. STATUS as wal_admit. */
enum status wal_append(struct wal *w, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n) MUST_USE;
/* Starts write and sync of what is gathered unless one is running (then it starts by itself after that). Returns the batch number that
 * `synced` will name for what has been appended until now; 0: nothing pending. */
uint64_t wal_commit(struct wal *w);
bool wal_busy(const struct wal *w); /* a batch is in flight */
size_t wal_record_bytes_max(const struct wal *w); /* larger records never fit */

/* Entries of the group up to `index` are no longer needed (flushed here, and held by who may ask). Whole segments are recycled. */
void wal_trim(struct wal *w, uint64_t group, uint64_t index);
/* The group begins anew: a record at `index` that supersedes all that it had is durable, and later ones follow behind it. What was said of higher ones by wal_trim does not count any more. */
void wal_restart(struct wal *w, uint64_t group, uint64_t index);
/* Reads back entries [first, last] of a group as the latest synced append of each index left them, in order, synchronously, for a reopened partition or a
 * follower that lags. Each data slice lives until each() returns; another status than OK of each() ends it. ABSENT: one of them is not in the log
 * (each() has seen those before it). */
enum status wal_read(struct wal *w, uint64_t group, uint64_t first, uint64_t last,
                     enum status (*each)(void *ctx, const struct wal_record *record), void *ctx) MUST_USE;

struct wal_stats {
    uint64_t live_bytes, live_bytes_max, segments, batches, records, bytes_written, sync_ns_last, sync_ns_max;
    uint64_t oldest_group, oldest_group_index; /* whose entries pin the oldest segment: flush that first; 0: none */
    bool disk_full;
};
void wal_get_stats(const struct wal *w, struct wal_stats *out);

#endif
