/* Append, commit, trim. The bytes: wal_format.h. The proofs: docs/LOG.md.
 *
 *   wal_append ---> gather ---(wal_commit, nothing in flight)---> flight --write--> --sync--> synced()
 *                     ^                                             |
 *                     +---- the other buffer gathers on meanwhile --+   then, if a commit was asked for, the next one starts by itself
 *
 * Two rules carry everything:
 *   1. Batch N+1 is written only after the sync of batch N has returned. So a valid batch N+1 on disk proves that N was durable, and an
 *      invalid batch with nothing valid behind it is the one that was being written: only that one may be cut.
 *   2. A batch is admitted only where it has a place: in the rest of the current segment, or in the next segment, which is ready (written with zeros, headed,
 *      synced, named, directory synced) before it counts. So the path of a batch meets neither allocation nor a full disk. */
#include "engine/wal.h"

#include <string.h>

#include "engine/wal_impl.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

/* ---- groups: an id becomes a number below WAL_GROUPS_MAX, so that ranges are plain arrays */

int wal_group_number(struct wal *w, uint64_t group, bool add) {
    uint64_t h = group * 0x9e3779b97f4a7c15ull;
    for (unsigned at = (unsigned)(h >> 53) % WAL_TABLE;; at = (at + 1) % WAL_TABLE) {
        if (w->table[at] == 0) {
            if (!add || w->group_count == WAL_GROUPS_MAX) return -1;
            unsigned g = w->group_count++;
            w->group_id[g] = group;
            w->table[at] = (uint16_t)(g + 1);
            return (int)g;
        }
        if (w->group_id[w->table[at] - 1] == group) return w->table[at] - 1;
    }
}

void wal_range_add(struct wal *w, struct wal_segment *s, unsigned g, struct wal_range r) {
    if (r.first <= w->group_last[g]) { /* supersedes: what stands at or above is dead weight, here and in older segments */
        for (unsigned i = 0; i < w->segment_count; i++) {
            struct wal_range *old = &w->segment[i]->range[g];
            if (wal_range_some(*old) && old->last >= r.first) old->last = r.first - 1;
            if (!wal_range_some(*old)) *old = WAL_RANGE_NONE;
        }
    }
    if (wal_range_some(s->range[g])) s->range[g].first = MIN_OF(s->range[g].first, r.first), s->range[g].last = r.last;
    else s->range[g] = r;
    w->group_last[g] = r.last;
}

bool wal_batch_range_add(struct wal *w, struct wal_batch *b, uint64_t group, uint64_t index) {
    int g = wal_group_number(w, group, true);
    if (g < 0) return false;
    for (unsigned i = 0; i < b->touched_count; i++) {
        unsigned at = b->touched_count - 1 - i; /* the same group is likely the last one */
        if (b->touched[at] != g) continue;
        b->range[g].first = MIN_OF(b->range[g].first, index);
        b->range[g].last = index; /* not the maximum: an entry supersedes those above it */
        return true;
    }
    b->touched[b->touched_count++] = (uint16_t)g;
    b->range[g] = (struct wal_range){index, index};
    return true;
}

/* ---- admission */

static uint64_t gather_bytes_with(const struct wal *w, size_t data_bytes) {
    return wal_blocks_round((uint64_t)w->gather->used + WAL_RECORD_HEAD_BYTES + data_bytes);
}

/* Is there a place for a batch of so many bytes behind what is in flight? */
static enum status place_for(struct wal *w, uint64_t batch_bytes, uint64_t reserve) {
    const struct wal_segment *s = wal_current(w);
    if (s->end + batch_bytes + reserve <= s->bytes) return STATUS_OK;
    if (w->current + 1 < w->segment_count) return STATUS_OK; /* batch_bytes_max fits in any new segment */
    wal_pump(w);
    return w->make_failed ? STATUS_DISK_FULL : STATUS_OVERLOADED;
}

static enum status admit(struct wal *w, size_t bytes, bool internal) {
    if (bytes > wal_record_bytes_max(w)) return STATUS_MESSAGE_TOO_LARGE;
    uint64_t batch_bytes = gather_bytes_with(w, bytes);
    if (batch_bytes > w->batch_bytes_max) return STATUS_OVERLOADED;
    uint64_t flight_bytes = w->flying ? w->flight_segment->end - w->flight_segment->used : 0;
    if (!internal && w->stats.live_bytes + flight_bytes + batch_bytes > w->live_bytes_max) return STATUS_OVERLOADED;
    return place_for(w, batch_bytes, internal ? 0 : w->reserve_bytes);
}

size_t wal_record_bytes_max(const struct wal *w) {
    return MIN_OF((size_t)WAL_RECORD_BYTES_MAX, (size_t)w->batch_bytes_max - WAL_BATCH_HEAD_BYTES - WAL_RECORD_HEAD_BYTES);
}

enum status wal_admit(struct wal *w, size_t bytes) { return admit(w, bytes, false); }

enum status wal_append(struct wal *w, uint64_t group, uint64_t index, uint64_t term, uint8_t type, const struct slice *parts, size_t n) {
    check(!w->closing);
    check(index > 0);
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len > WAL_RECORD_BYTES_MAX) return STATUS_MESSAGE_TOO_LARGE;
        bytes += parts[i].len;
    }
    enum status st = admit(w, bytes, true);
    if (st) return st;
    struct wal_batch *b = w->gather;
    check(wal_batch_range_add(w, b, group, index)); /* WAL_GROUPS_MAX is part of the contract */
    wal_record_encode(b->data + b->used, group, index, term, type, parts, n, (uint32_t)bytes);
    b->used += WAL_RECORD_HEAD_BYTES + (uint32_t)bytes;
    b->records++;
    w->stats.records++;
    return STATUS_OK;
}

/* ---- a batch's way to the disk */

static void batch_reset(struct wal_batch *b) {
    b->used = WAL_BATCH_HEAD_BYTES;
    b->records = 0;
    b->touched_count = 0;
}

static void die(const struct wal *w, const char *what, const struct wal_segment *s, int64_t result) {
    char name[WAL_NAME_BYTES];
    int error = result < 0 ? (int)-result : 5 /* EIO: fewer bytes than asked for */;
    panic_now("log %s failed: file=%s errno=%d (%s) offset=%llu. Nothing can be believed of an unsynced log: stopping, acknowledged writes are safe", what,
              wal_name(name, w->dir, s->id, "seg"), error, strerror(error), (unsigned long long)s->used);
}

/* Gives the gathered batch its place and closes its sums. */
static void batch_finish(struct wal_batch *b, const struct wal_segment *s, uint64_t number) {
    struct wal_place place = {.salt = s->salt, .segment = s->id, .offset = s->end};
    struct wal_batch_head h = {.number = number, .bytes = (uint32_t)wal_blocks_round(b->used), .payload = b->used, .records = b->records};
    b->number = number;
    memset(b->data + b->used, 0, h.bytes - b->used);
    wal_batch_head_encode(b->data, &h, &place);
    wal_batch_place(b->data, &h, &place);
}

static void on_written(struct env_io *io, int64_t result);

static void start(struct wal *w) {
    check(!w->flying);
    struct wal_batch *b = w->gather;
    uint64_t bytes = wal_blocks_round(b->used);
    bool next = wal_current(w)->end + bytes > wal_current(w)->bytes;
    if (next) {
        w->current++;
        check(w->current < w->segment_count); /* rule 2 */
    }
    struct wal_segment *s = wal_current(w);
    check(s->end + bytes <= s->bytes);
    batch_finish(b, s, ++w->number_last);
    w->flying = true;
    w->commit_wanted = false;
    w->flight = b;
    w->flight_segment = s;
    w->gather = b == &w->batch[0] ? &w->batch[1] : &w->batch[0];
    batch_reset(w->gather);
    w->flight_begin_ns = w->env->ops->mono_ns(w->env);
    uint64_t offset = s->end;
    s->end += bytes;
    w->io.done = on_written;
    w->env->ops->write_async(w->env, s->file, &w->io, b->data, bytes, offset);
    if (next) wal_pump(w);
}

static void landed(struct wal *w);

static void on_synced(struct env_io *io, int64_t result) {
    struct wal *w = container_of(io, struct wal, io);
    if (w->closing) return w->flying = false, wal_free(w);
    if (result != 0) die(w, "sync", w->flight_segment, result);
    landed(w);
}

static void on_written(struct env_io *io, int64_t result) {
    struct wal *w = container_of(io, struct wal, io);
    struct wal_segment *s = w->flight_segment;
    if (w->closing && result < 0) return w->flying = false, wal_free(w); /* the world has ended (simulated), or we are leaving */
    if (result != (int64_t)(s->end - s->used)) die(w, "write", s, result);
#ifdef ORDERDB_MUTANT_ACK_BEFORE_SYNC /* a wrong build, made by tests to see that they would notice */
    if (!w->closing && w->flight->records) w->synced(w->ctx, w->flight->number);
#endif
    /* Only now: a sync covers what was written before it began (env.h). */
    w->io.done = on_synced;
    w->env->ops->sync_async(w->env, s->file, &w->io);
}

/* The batch in flight is durable. */
static void landed(struct wal *w) {
    struct wal_batch *b = w->flight;
    struct wal_segment *s = w->flight_segment;
    uint64_t number = b->number, bytes = s->end - s->used;
    bool records = b->records > 0;
    s->used = s->end;
    for (unsigned i = 0; i < b->touched_count; i++) wal_range_add(w, s, b->touched[i], b->range[b->touched[i]]);
    w->flying = false;
    w->sealed = !records;
    w->synced_ns = w->env->ops->mono_ns(w->env);
    w->stats.live_bytes += bytes;
    w->stats.batches++;
    w->stats.bytes_written += bytes;
    w->stats.sync_ns_last = w->synced_ns - w->flight_begin_ns;
    w->stats.sync_ns_max = MAX_OF(w->stats.sync_ns_max, w->stats.sync_ns_last);
    wal_release_trimmed(w);
    if (w->commit_wanted && w->gather->records > 0) start(w);
#ifndef ORDERDB_MUTANT_ACK_BEFORE_SYNC
    if (records) w->synced(w->ctx, number); /* last: it may append, commit or close */
#else
    (void)records, (void)number;
#endif
}

uint64_t wal_commit(struct wal *w) {
    check(!w->closing);
    if (w->gather->records == 0) return w->flying && w->flight->records ? w->flight->number : 0;
    if (w->flying) return w->commit_wanted = true, w->number_last + 1;
    start(w);
    return w->number_last;
}

bool wal_busy(const struct wal *w) { return w->flying; }
bool wal_settled(const struct wal *w) { return !w->flying && !w->job_running; }

/* ---- trim */

static bool segment_trimmed(const struct wal *w, const struct wal_segment *s) {
    for (unsigned g = 0; g < w->group_count; g++)
        if (wal_range_some(s->range[g]) && s->range[g].last > w->trimmed[g]) return false;
    return true;
}

/* Moves the oldest segments that nobody needs to the dead. The current one joins them, and the next takes over, when it alone keeps a good part of the
 * live limit busy: else a log whose every entry is trimmed could stay "full" for ever. */
void wal_release_trimmed(struct wal *w) {
    if (w->flying) return; /* again when it has landed */
    while (w->segment_count > 1 && segment_trimmed(w, w->segment[0])) {
        struct wal_segment *s = w->segment[0];
        if (w->current == 0) {
            if (s->used == WAL_BLOCK || w->stats.live_bytes * 4 <= w->live_bytes_max) break;
            w->current = 1;
        }
        if (w->dead_count + 1 >= w->dead_cap) { /* one more than asked: a release that fails comes back */
            unsigned cap = w->dead_cap ? w->dead_cap * 2 : 8;
            struct wal_segment **more = mem_realloc(w->dead, cap * sizeof *more);
            if (!more) break; /* at the next trim */
            w->dead = more, w->dead_cap = cap;
        }
        w->dead[w->dead_count++] = s;
        memmove(w->segment, w->segment + 1, (w->segment_count - 1) * sizeof *w->segment);
        w->segment_count--, w->current--;
        w->stats.live_bytes -= s->used - WAL_BLOCK;
    }
    wal_pump(w);
}

void wal_trim(struct wal *w, uint64_t group, uint64_t index) {
    int g = wal_group_number(w, group, true);
    check(g >= 0);
    if (index <= w->trimmed[g]) return;
    w->trimmed[g] = index;
    wal_release_trimmed(w);
}

void wal_restart(struct wal *w, uint64_t group, uint64_t index) {
    int g = wal_group_number(w, group, true);
    check(g >= 0);
    check(w->group_last[g] == index);
    w->trimmed[g] = index;
    wal_release_trimmed(w);
}

/* ---- the rest */

static bool seal_due(const struct wal *w) {
    return !w->flying && !w->sealed && !w->closing && w->gather->records == 0 && wal_current(w)->end + WAL_BLOCK <= wal_current(w)->bytes;
}

void wal_tick(struct wal *w) {
    check(!w->closing);
    if (seal_due(w) && w->env->ops->mono_ns(w->env) - w->synced_ns >= WAL_SEAL_IDLE_NS) start(w); /* an empty batch: its head proves the one before */
    wal_release_trimmed(w);
}

void wal_get_stats(const struct wal *w, struct wal_stats *out) {
    *out = w->stats;
    out->live_bytes_max = w->live_bytes_max;
    out->segments = w->segment_count;
    out->disk_full = w->make_failed && w->make_full;
    const struct wal_segment *oldest = w->segment[0];
    for (unsigned g = 0; g < w->group_count && !out->oldest_group_index; g++) {
        if (!wal_range_some(oldest->range[g]) || oldest->range[g].last <= w->trimmed[g]) continue;
        out->oldest_group = w->group_id[g];
        out->oldest_group_index = oldest->range[g].last;
    }
}

static void seal_now(struct wal *w) {
    struct wal_segment *s = wal_current(w);
    batch_finish(w->gather, s, w->number_last + 1);
    int64_t n = w->env->ops->file_write(w->env, s->file, w->gather->data, WAL_BLOCK, s->end);
    int st = n == WAL_BLOCK ? w->env->ops->file_sync(w->env, s->file) : n < 0 ? (int)n : -5;
    if (st) log_warn("wal seal", "dir=%s errno=%d (%s): the log is whole, but damage to its last batch would now pass for a torn tail", w->dir, -st, strerror(-st));
}

void wal_close(struct wal *w) {
    if (!w) return;
    check(!w->closing);
    if (seal_due(w)) seal_now(w);
    w->closing = true;
    if (!w->flying) wal_free(w);
}

/* A job on another thread keeps its own memory and frees it when done. */
void wal_free(struct wal *w) {
    check(!w->flying);
    if (w->job) {
        w->job->wal = NULL;
        if (!w->job_running) mem_free(w->job->block), mem_free(w->job);
    }
    for (unsigned i = 0; i < w->segment_count; i++) wal_segment_free(w->env, w->segment[i]);
    for (unsigned i = 0; i < w->dead_count; i++) wal_segment_free(w->env, w->dead[i]);
    mem_free(w->segment);
    mem_free(w->dead);
    for (unsigned i = 0; i < 2; i++) mem_free(w->batch[i].data);
    mem_free(w);
}
