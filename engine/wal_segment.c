/* Segment files: made ahead of need, recycled when trimmed. All of it is file work on another thread (env.offload), one piece at a time.
 *
 *   NUMBER.new ---zeros, head, sync, rename, dir sync---> ID.seg ---(all its entries trimmed) rename, dir sync---> NUMBER.free
 *                                                            ^                                                        |
 *                                                            +-------- new head (new id, new salt), sync, rename, dir sync
 *
 * A crash leaves at most: a .new (removed at open), a .free with whatever head (its bytes are never read), or a whole .seg. The oldest
 * segment is released first and its name's end is durable before the next one's, so the .seg names on disk are always a gapless run.
 * Names of .new and .free files count on their own: an id can come back (an empty segment of a crash is given up and made again). */
#include <errno.h>
#include <string.h>

#include "engine/wal_impl.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

struct wal_segment *wal_segment_new(void) {
    struct wal_segment *s = mem_new(struct wal_segment);
    if (!s) return NULL;
    for (unsigned g = 0; g < WAL_GROUPS_MAX; g++) s->range[g] = WAL_RANGE_NONE;
    return s;
}

void wal_segment_free(struct env *env, struct wal_segment *s) {
    if (!s) return;
    if (s->file) env->ops->file_close(env, s->file);
    mem_free(s);
}

bool wal_segment_reserve(struct wal *w) {
    if (w->segment_count < w->segment_cap) return true;
    unsigned cap = w->segment_cap ? w->segment_cap * 2 : 8;
    struct wal_segment **more = mem_realloc(w->segment, cap * sizeof *more);
    if (!more) return false;
    w->segment = more, w->segment_cap = cap;
    return true;
}

struct wal_job *wal_job_new(struct env *env) {
    struct wal_job *j = mem_new(struct wal_job);
    if (!j) return NULL;
    j->env = env;
    j->block = mem_alloc_aligned(WAL_BLOCK, WAL_BLOCK);
    if (!j->block) return mem_free(j), NULL;
    return j;
}

/* ---- on the other thread */

static bool step(struct wal_job *j, const char *name, int64_t result) {
    if (result >= 0) return true;
    if (!j->error) j->error = (int)result, j->step = name;
    return false;
}

/* The file under its working name, all of it on disk but for the name. */
static bool make_file(struct wal_job *j, const char *from) {
    const struct env_ops *ops = j->env->ops;
    struct wal_segment *s = j->segment;
    unsigned flags = ENV_READ | ENV_WRITE | ENV_DIRECT | (j->free_number ? 0 : ENV_CREATE);
    if (!step(j, "open", ops->file_open(j->env, from, flags, &s->file))) return s->file = NULL, false;
    if (j->free_number) {
        int64_t size = ops->file_size(j->env, s->file);
        if (!step(j, "size", size == (int64_t)s->bytes ? 0 : size < 0 ? size : -EIO)) return false;
    } else if (!step(j, "allocate", ops->file_allocate(j->env, s->file, s->bytes))) {
        return false;
    }
    struct wal_segment_head h = {.id = s->id, .salt = s->salt, .bytes = s->bytes, .flags = s->recycled ? WAL_SEGMENT_RECYCLED : 0};
    wal_segment_head_encode(j->block, &h);
    int64_t n = ops->file_write(j->env, s->file, j->block, WAL_BLOCK, 0);
    if (!step(j, "write", n == WAL_BLOCK ? 0 : n < 0 ? n : -EIO)) return false;
    return step(j, "sync", ops->file_sync(j->env, s->file));
}

static void run_make(struct wal_job *j) {
    const struct env_ops *ops = j->env->ops;
    char from[WAL_NAME_BYTES], to[WAL_NAME_BYTES];
    if (j->free_number) wal_name(from, j->dir, j->free_number, "free");
    else wal_name(from, j->dir, j->scratch_number, "new");
    wal_name(to, j->dir, j->segment->id, "seg");
    if (make_file(j, from) && step(j, "rename", ops->file_rename(j->env, from, to))) {
        step(j, "directory sync", ops->dir_sync(j->env, j->dir));
        return;
    }
    if (j->segment->file) ops->file_close(j->env, j->segment->file);
    j->segment->file = NULL;
    ops->file_remove(j->env, from); /* gives the space back; what stays is removed or adopted at the next open */
}

static void run_release(struct wal_job *j) {
    const struct env_ops *ops = j->env->ops;
    char from[WAL_NAME_BYTES], to[WAL_NAME_BYTES];
    wal_name(from, j->dir, j->segment->id, "seg");
    if (j->free_number) {
        wal_name(to, j->dir, j->free_number, "free");
        if (!step(j, "rename", ops->file_rename(j->env, from, to))) return;
    } else if (!step(j, "remove", ops->file_remove(j->env, from))) {
        return;
    }
    step(j, "directory sync", ops->dir_sync(j->env, j->dir));
}

static void job_run(struct env_job *job) {
    struct wal_job *j = container_of(job, struct wal_job, job);
    char name[WAL_NAME_BYTES];
    switch (j->kind) {
    case WAL_JOB_MAKE: run_make(j); return;
    case WAL_JOB_RELEASE: run_release(j); return;
    case WAL_JOB_REMOVE: step(j, "remove", j->env->ops->file_remove(j->env, wal_name(name, j->dir, j->free_number, "free"))); return;
    case WAL_JOB_NONE: check(false);
    }
}

/* ---- back on the engine's */

static void made(struct wal *w, struct wal_job *j) {
    if (j->error) {
        wal_segment_free(w->env, j->segment);
        bool full = j->error == -ENOSPC || j->error == -EDQUOT;
        if (!w->make_failed)
            log_warn("wal segment", "dir=%s step=\"%s\" errno=%d (%s): writes are refused once the current segment is full; trying again", w->dir, j->step,
                     -j->error, strerror(-j->error));
        w->make_failed = true, w->make_full = full;
        w->make_retry_ns = w->env->ops->mono_ns(w->env) + WAL_RETRY_NS;
        return;
    }
    if (w->make_failed) log_info("wal segment", "dir=%s segment=%llu: made again, writes go on", w->dir, (unsigned long long)j->segment->id);
    w->make_failed = w->make_full = false;
    w->segment[w->segment_count++] = j->segment; /* reserved when the job began */
}

static void released(struct wal *w, struct wal_job *j) {
    if (j->error) { /* stays the oldest: no gap may open behind it */
        log_warn("wal segment", "dir=%s segment=%llu step=\"%s\" errno=%d (%s): not released, trying again", w->dir, (unsigned long long)j->segment->id, j->step,
                 -j->error, strerror(-j->error));
        w->release_retry_ns = w->env->ops->mono_ns(w->env) + WAL_RETRY_NS;
        memmove(w->dead + 1, w->dead, w->dead_count * sizeof *w->dead); /* its place is still there */
        w->dead[0] = j->segment;
        w->dead_count++;
        return;
    }
    wal_segment_free(w->env, j->segment);
    if (j->free_number) w->free_number[w->free_count++] = j->free_number;
}

static void job_done(struct env_job *job) {
    struct wal_job *j = container_of(job, struct wal_job, job);
    struct wal *w = j->wal;
    if (!w) { /* closed meanwhile */
        wal_segment_free(j->env, j->segment);
        mem_free(j->block);
        mem_free(j);
        return;
    }
    w->job_running = false;
    if (w->closing) return wal_segment_free(w->env, j->segment); /* a batch is still in flight: its end frees the wal and this job */
    /* After a failed directory sync nobody knows which names will be there after a crash: same as a failed log sync. */
    if (j->error && strcmp(j->step, "directory sync") == 0)
        panic_now("log directory sync failed: file=%s errno=%d (%s): stopping, acknowledged writes are safe", w->dir, -j->error, strerror(-j->error));
    if (j->kind == WAL_JOB_MAKE) made(w, j);
    else if (j->kind == WAL_JOB_RELEASE) released(w, j);
    else if (j->error) log_warn("wal segment", "dir=%s free=%llu errno=%d (%s): not removed", w->dir, (unsigned long long)j->free_number, -j->error, strerror(-j->error));
    j->segment = NULL;
    wal_pump(w);
}

/* ---- what is due */

static bool prepare_make(struct wal *w, struct wal_job *j) {
    if (!wal_segment_reserve(w)) return false;
    struct wal_segment *s = wal_segment_new();
    if (!s) return false;
    s->id = w->segment_count ? w->segment[w->segment_count - 1]->id + 1 : 1;
    s->salt = w->env->ops->random(w->env);
    s->bytes = w->segment_bytes;
    s->used = s->end = WAL_BLOCK;
    s->recycled = w->free_count > 0;
    j->kind = WAL_JOB_MAKE;
    j->segment = s;
    j->free_number = w->free_count ? w->free_number[--w->free_count] : 0;
    j->scratch_number = j->free_number ? 0 : ++w->file_number_last;
    return true;
}

static unsigned files_max(const struct wal *w) { return (unsigned)(w->live_bytes_max / w->segment_bytes) + 2; }

static void prepare_release(struct wal *w, struct wal_job *j) {
    j->kind = WAL_JOB_RELEASE;
    j->segment = w->dead[0];
    memmove(w->dead, w->dead + 1, --w->dead_count * sizeof *w->dead);
    bool keep = j->segment->bytes == w->segment_bytes && w->free_count < WAL_FREE_MAX && w->segment_count + w->dead_count + w->free_count < files_max(w);
    j->free_number = keep ? ++w->file_number_last : 0;
}

static bool prepare(struct wal *w, struct wal_job *j) {
    uint64_t now_ns = w->env->ops->mono_ns(w->env);
    bool need = w->current + 1 == w->segment_count;
    if (need && w->free_count) return prepare_make(w, j);
    if (w->dead_count && now_ns >= w->release_retry_ns) return prepare_release(w, j), true; /* before making a new one: it can be recycled */
    if (need) return now_ns >= w->make_retry_ns && prepare_make(w, j);
    if (w->free_count && w->segment_count + w->dead_count + w->free_count > files_max(w)) {
        j->kind = WAL_JOB_REMOVE;
        j->free_number = w->free_number[--w->free_count];
        return true;
    }
    return false;
}

static void job_clear(struct wal *w, struct wal_job *j) {
    j->wal = w;
    memcpy(j->dir, w->dir, sizeof j->dir);
    j->kind = WAL_JOB_NONE;
    j->segment = NULL;
    j->free_number = j->scratch_number = 0;
    j->error = 0;
    j->step = "";
    j->job.run = job_run;
    j->job.done = job_done;
}

void wal_pump(struct wal *w) {
    if (!w->ready || w->closing || w->job_running) return;
    struct wal_job *j = w->job;
    job_clear(w, j);
    if (!prepare(w, j)) return;
    w->job_running = true;
    w->env->ops->offload(w->env, &j->job);
}

int wal_make_now(struct wal *w, const char **failed_step) {
    struct wal_job *j = w->job;
    do { /* a .free file that can't be used is gone after the first try */
        job_clear(w, j);
        if (!prepare_make(w, j)) return *failed_step = "memory", -ENOMEM;
        run_make(j);
        if (j->error == 0) {
            w->segment[w->segment_count++] = j->segment;
            return j->segment = NULL, 0;
        }
        wal_segment_free(w->env, j->segment);
        j->segment = NULL;
    } while (j->free_number);
    *failed_step = j->step;
    return j->error;
}
