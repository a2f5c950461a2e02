/* What the files of the wal share; nobody else includes this. wal.c: append, commit, trim. wal_open.c: recovery. wal_segment.c: making, recycling and
 * releasing segment files on another thread. wal_read.c: reading back. */
#ifndef ENGINE_WAL_IMPL_H
#define ENGINE_WAL_IMPL_H

#include <stdio.h>

#include "engine/wal_format.h"

#define WAL_SEGMENT_BYTES_DEFAULT (64 * MIB)
#define WAL_LIVE_BYTES_DEFAULT (256 * MIB)
#define WAL_BATCH_BYTES_DEFAULT (4 * MIB + WAL_RECORD_BYTES_MAX)
#define WAL_SEAL_IDLE_NS NS_PER_S
#define WAL_RETRY_NS (250 * NS_PER_MS)
enum {
    WAL_SEGMENT_BYTES_MIN = 64 << 10,
    WAL_FREE_MAX = 256,
    WAL_TABLE = 2 * WAL_GROUPS_MAX, /* open addressing, at most half full */
};

/* Entries [first, last] of a group that stand here and that nothing later has superseded; last < first: none. */
struct wal_range {
    uint64_t first, last;
};
#define WAL_RANGE_NONE ((struct wal_range){1, 0})
static inline bool wal_range_some(struct wal_range r) { return r.first <= r.last; }

struct wal_segment {
    uint64_t id, salt, bytes;
    struct env_file *file;
    uint64_t used; /* bytes of synced batches end here */
    uint64_t end;  /* used, plus the batch in flight */
    bool recycled;
    struct wal_range range[WAL_GROUPS_MAX]; /* by group number */
};

/* A gather buffer: head, records; padded and placed when its write starts. */
struct wal_batch {
    uint8_t *data; /* batch_bytes_max, aligned */
    uint32_t used, records;
    uint64_t number;
    uint16_t touched[WAL_GROUPS_MAX];
    unsigned touched_count;
    struct wal_range range[WAL_GROUPS_MAX]; /* only touched ones are meant */
};

/* One piece of file work at a time, on another thread. Its memory outlives a wal that was closed meanwhile. */
enum wal_job_kind { WAL_JOB_NONE, WAL_JOB_MAKE, WAL_JOB_RELEASE, WAL_JOB_REMOVE };
struct wal_job {
    struct env_job job;
    struct env *env;
    struct wal *wal;
    enum wal_job_kind kind;
    char dir[WAL_NAME_BYTES / 2];
    struct wal_segment *segment; /* MAKE: to be filled in; RELEASE: the file to give up */
    uint64_t free_number;        /* MAKE: take this one, 0: write a new file; RELEASE: becomes this one; REMOVE: this one */
    uint64_t scratch_number;     /* MAKE: name of a new file while it is being written */
    int error;                   /* -errno, 0 */
    const char *step;            /* that failed */
    uint8_t *block;              /* one, aligned */
};

struct wal {
    struct env *env;
    char dir[WAL_NAME_BYTES / 2];
    uint32_t segment_bytes, batch_bytes_max;
    uint64_t live_bytes_max, reserve_bytes;
    void *ctx;
    void (*synced)(void *ctx, uint64_t batch);

    struct wal_segment **segment; /* in order of id; [0, current) older, (current, count) ready and empty */
    unsigned segment_count, segment_cap, current;
    struct wal_segment **dead; /* trimmed, still named .seg, oldest first */
    unsigned dead_count, dead_cap;
    uint64_t free_number[WAL_FREE_MAX]; /* .free files, ready to be recycled */
    unsigned free_count;
    uint64_t file_number_last; /* of .free and .new names */

    uint64_t group_id[WAL_GROUPS_MAX], trimmed[WAL_GROUPS_MAX], group_last[WAL_GROUPS_MAX];
    unsigned group_count;
    uint16_t table[WAL_TABLE]; /* hash of group -> number + 1 */

    struct wal_batch batch[2], *gather, *flight;
    struct wal_segment *flight_segment;
    bool flying, commit_wanted, closing, sealed;
    uint64_t number_last; /* of the newest batch that was started */
    uint64_t flight_begin_ns, synced_ns;
    struct env_io io;

    struct wal_job *job;
    bool job_running, make_failed, make_full;
    uint64_t make_retry_ns, release_retry_ns; /* after a failure, not before this */
    bool ready;        /* open has finished: jobs may start */

    struct wal_stats stats;
};

static inline struct wal_segment *wal_current(const struct wal *w) { return w->segment[w->current]; }
static inline const char *wal_name(char out[WAL_NAME_BYTES], const char *dir, uint64_t number, const char *suffix) {

    snprintf(out, WAL_NAME_BYTES, "%s/%016llx.%s", dir, (unsigned long long)number, suffix);
    return out;
}

/* wal.c */
int wal_group_number(struct wal *w, uint64_t group, bool add); /* -1: not known, or no room for more */
void wal_range_add(struct wal *w, struct wal_segment *s, unsigned g, struct wal_range r); /* r stands here now and supersedes what is at or above r.first */
bool wal_batch_range_add(struct wal *w, struct wal_batch *b, uint64_t group, uint64_t index);
void wal_release_trimmed(struct wal *w);
void wal_free(struct wal *w);

/* wal_segment.c */
struct wal_segment *wal_segment_new(void);
bool wal_segment_reserve(struct wal *w); /* room for one more; false: no memory */
struct wal_job *wal_job_new(struct env *env);
void wal_segment_free(struct env *env, struct wal_segment *s); /* closes the file */
void wal_pump(struct wal *w);                               /* starts the file work that is due */
int wal_make_now(struct wal *w, const char **step);         /* at open: the first segment. -errno, 0 */

/* wal_read.c: a window over a file, whole blocks. */
struct wal_window {
    struct env *env;
    struct env_file *file;
    uint64_t file_bytes, start;
    uint8_t *data;
    size_t filled, cap;
    int error; /* -errno of the failed read */
};
void wal_window_init(struct wal_window *x, struct env *env);
void wal_window_file(struct wal_window *x, struct env_file *file, uint64_t file_bytes);
void wal_window_fini(struct wal_window *x);
/* Bytes [offset, offset + len), len > 0, inside the file; valid until the next call. IO_FAILED, MEMORY_LIMIT. */
enum status wal_window_at(struct wal_window *x, uint64_t offset, size_t len, const uint8_t **out) MUST_USE;

#endif
