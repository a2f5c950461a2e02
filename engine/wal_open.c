/* Recovery. The files are walked in the order of their ids, batch by batch; whole batches are handed to replay.
 *
 *   seg 4 [head|17|18|19|....]   seg 5 [head|20|21|xx|......]   seg 6 [head|.........]
 *                        ^ the walk goes on at seg 5,    ^ the walk ends: is anything valid behind, here or in seg 6?
 *                          because 20 follows 19           no: the torn write of batch 22, never acknowledged: cut
 *                                                          yes: 22 was durable before 23 was written: damage, refuse
 *
 * Before the log is used again: what is left behind the cut is zeroed (it must not be taken for valid when new batches stand in front of it), the newest
 * segment is synced (what we just read may sit in a volatile cache: acting on it makes it a promise), and empty segments behind it are given
 * up to the free files, newest first (no gap), because they may hold pieces of a torn batch too. A crash in between finds the same state again. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/wal_impl.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

struct opening {
    struct wal *w;
    struct env *env;
    enum status (*replay)(void *ctx, const struct wal_record *record);
    char *error;
    struct wal_window window;
    uint64_t *id; /* of .seg files, sorted */
    unsigned id_count, id_cap;
    uint64_t expected; /* number of the next batch; 0: any */
    unsigned at;       /* segment and offset where the walk stands */
    uint64_t offset;
    uint64_t bad_offset; /* why it ended: where, what (NULL: no batch begins there) */
    const char *bad;
    bool no_memory; /* while listing */
};

enum { ERROR_BYTES = 256, ZERO_BYTES = 64 << 10 };

static enum status fail(struct opening *o, enum status st, const char *format, ...) PRINTF_LIKE(3, 4);
static enum status fail(struct opening *o, enum status st, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(o->error, ERROR_BYTES, format, args);
    va_end(args);
    return st;
}

static enum status fail_io(struct opening *o, const char *file, uint64_t offset, const char *step, int64_t error) {
    return fail(o, STATUS_IO_FAILED, "file=%s offset=%llu: %s failed: errno=%d (%s)", file, (unsigned long long)offset, step, (int)-error, strerror((int)-error));
}

static enum status fail_memory(struct opening *o) { return fail(o, STATUS_MEMORY_LIMIT, "dir=%s: out of memory while opening the log", o->w->dir); }

static enum status fail_window(struct opening *o, enum status st, const struct wal_segment *s, uint64_t offset) {
    char name[WAL_NAME_BYTES];
    if (st == STATUS_MEMORY_LIMIT) return fail_memory(o);
    return fail_io(o, wal_name(name, o->w->dir, s->id, "seg"), offset, "read", o->window.error);
}

static enum status fail_damage(struct opening *o, const struct wal_segment *s, uint64_t offset, const char *what, uint64_t witness) {
    char name[WAL_NAME_BYTES];
    wal_name(name, o->w->dir, s->id, "seg");
    if (!witness) return fail(o, STATUS_CHECKSUM_MISMATCH, "file=%s offset=%llu: %s", name, (unsigned long long)offset, what);
    return fail(o, STATUS_CHECKSUM_MISMATCH, "file=%s offset=%llu: %s. Batch %llu stands whole behind it, so this was durable: damage, not a torn write", name,
                (unsigned long long)offset, what, (unsigned long long)witness);
}

/* ---- which files are there */

/* "0123456789abcdef.seg" */
static bool name_parse(const char *name, const char *suffix, uint64_t *out) {
    char *end;
    if (strlen(name) != 16 + 1 + strlen(suffix) || name[16] != '.' || strcmp(name + 17, suffix) != 0) return false;
    if (strspn(name, "0123456789abcdef") != 16) return false;
    *out = strtoull(name, &end, 16);
    return end == name + 16;
}

static void on_name(void *ctx, const char *name) {
    struct opening *o = ctx;
    struct wal *w = o->w;
    uint64_t number;
    char path[WAL_NAME_BYTES];
    if (name_parse(name, "seg", &number)) {
        if (o->id_count == o->id_cap) {
            unsigned cap = o->id_cap ? o->id_cap * 2 : 16;
            uint64_t *more = mem_realloc(o->id, cap * sizeof *more);
            if (!more) {
                o->no_memory = true;
                return;
            }
            o->id = more, o->id_cap = cap;
        }
        o->id[o->id_count++] = number;
    } else if (name_parse(name, "free", &number)) {
        w->file_number_last = MAX_OF(w->file_number_last, number);
        if (w->free_count < WAL_FREE_MAX) w->free_number[w->free_count++] = number;
    } else if (name_parse(name, "new", &number)) {
        w->file_number_last = MAX_OF(w->file_number_last, number);
        int st = o->env->ops->file_remove(o->env, wal_name(path, w->dir, number, "new")); /* half made when the process ended */
        if (st) log_warn("wal open", "file=%s errno=%d (%s): not removed", path, -st, strerror(-st));
    } else {
        log_warn("wal open", "dir=%s: \"%s\" is not ours, left alone", w->dir, name);
    }
}

static int id_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static enum status list_files(struct opening *o) {
    struct wal *w = o->w;
    int st = o->env->ops->dir_make(o->env, w->dir);
    if (!st) st = o->env->ops->dir_sync(o->env, "");
    if (!st) st = o->env->ops->dir_list(o->env, w->dir, on_name, o);
    if (st) return fail_io(o, w->dir, 0, "opening the directory", st);
    if (o->no_memory) return fail_memory(o);
    if (o->id_count) qsort(o->id, o->id_count, sizeof *o->id, id_compare);
    for (unsigned i = 1; i < o->id_count; i++)
        if (o->id[i] != o->id[i - 1] + 1)
            return fail(o, STATUS_CHECKSUM_MISMATCH, "file=%s/%016llx.seg offset=0: missing; %016llx.seg and %016llx.seg are there", w->dir,
                        (unsigned long long)o->id[i - 1] + 1, (unsigned long long)o->id[i - 1], (unsigned long long)o->id[i]);
    return STATUS_OK;
}

static enum status segment_open(struct opening *o, uint64_t id) {
    struct wal *w = o->w;
    char name[WAL_NAME_BYTES];
    wal_name(name, w->dir, id, "seg");
    if (!wal_segment_reserve(w)) return fail_memory(o);
    struct wal_segment *s = wal_segment_new();
    if (!s) return fail_memory(o);
    w->segment[w->segment_count++] = s;
    int64_t st = o->env->ops->file_open(o->env, name, ENV_READ | ENV_WRITE | ENV_DIRECT, &s->file);
    if (st < 0) return s->file = NULL, fail_io(o, name, 0, "open", st);
    int64_t size = o->env->ops->file_size(o->env, s->file);
    if (size < 0) return fail_io(o, name, 0, "size", size);
    s->id = id;
    if (size < WAL_BLOCK) return fail_damage(o, s, (uint64_t)size, "the file is cut short", 0);
    const uint8_t *block;
    wal_window_file(&o->window, s->file, WAL_BLOCK);
    enum status read = wal_window_at(&o->window, 0, WAL_BLOCK, &block);
    if (read) return fail_window(o, read, s, 0);
    struct wal_segment_head h;
    uint32_t format;
    switch (wal_segment_head_decode(block, &h, &format)) {
    case STATUS_OK: break;
    case STATUS_FORMAT_UNKNOWN: return fail(o, STATUS_FORMAT_UNKNOWN, "file=%s offset=8: log format %u, this program knows %u: written by another version", name, format, WAL_FORMAT);
    default: return fail_damage(o, s, 0, "segment header does not match its checksum", 0);
    }
    if (h.id != id) return fail_damage(o, s, 16, "segment header carries another id: the file was renamed or misplaced", 0);
    if (h.bytes < WAL_SEGMENT_BYTES_MIN || h.bytes % WAL_BLOCK != 0) return fail_damage(o, s, 32, "segment header carries an impossible size", 0);
    if ((uint64_t)size != h.bytes) return fail_damage(o, s, MIN_OF((uint64_t)size, h.bytes), "the file has not the size that its header carries", 0);
    s->salt = h.salt;
    s->bytes = h.bytes;
    s->recycled = h.flags & WAL_SEGMENT_RECYCLED;
    s->used = s->end = WAL_BLOCK;
    return STATUS_OK;
}

/* ---- the walk */

static enum status head_at(struct opening *o, const struct wal_segment *s, uint64_t offset, struct wal_batch_head *h, bool *valid) {
    const uint8_t *p;
    enum status st = wal_window_at(&o->window, offset, WAL_BLOCK, &p);
    if (st) return fail_window(o, st, s, offset);
    struct wal_place place = {.salt = s->salt, .segment = s->id, .offset = offset};
    *valid = wal_batch_head_decode(p, s->bytes - offset, &place, h);
    return STATUS_OK;
}

static enum status replay_batch(struct opening *o, struct wal_segment *s, struct wal_record_reader batch) {
    struct wal_record record;
    struct wal *w = o->w;
    while (wal_record_next(&batch, &record)) {
        int g = wal_group_number(w, record.group, true);
        if (g < 0) return fail_damage(o, s, s->used, "more groups than a core can have", 0);
        if (record.index == 0) return fail_damage(o, s, s->used, "an entry with index 0", 0);
        wal_range_add(w, s, (unsigned)g, (struct wal_range){record.index, record.index});
        enum status st = o->replay(w->ctx, &record);
        if (st && !o->error[0]) return fail(o, st, "dir=%s: replay of group %llu index %llu was refused: %s", w->dir, (unsigned long long)record.group,
                                            (unsigned long long)record.index, status_name(st));
        if (st) return st;
        w->stats.records++;
    }
    return STATUS_OK;
}

/* One step: *more says whether a whole batch stood at o->offset. */
static enum status walk_step(struct opening *o, bool *more) {
    struct wal_segment *s = o->w->segment[o->at];
    struct wal_batch_head h;
    bool valid;
    *more = false;
    o->bad = NULL;
    o->bad_offset = o->offset;
    if (o->offset == s->bytes) return STATUS_OK;
    enum status st = head_at(o, s, o->offset, &h, &valid);
    if (st) return st;
    if (!valid) return STATUS_OK;
    if (o->expected && h.number != o->expected) return fail_damage(o, s, o->offset, "a batch is missing here: the one that stands here is a later one", h.number);
    const uint8_t *p;
    st = wal_window_at(&o->window, o->offset, h.bytes, &p);
    if (st) return fail_window(o, st, s, o->offset);
    struct wal_place place = {.salt = s->salt, .segment = s->id, .offset = o->offset};
    uint32_t at;
    if (!wal_batch_whole(p, &h, &place, &at, &o->bad)) return o->bad_offset = o->offset + at, STATUS_OK;
    st = replay_batch(o, s, wal_record_reader_of(p, &h, &place));
    if (st) return st;
    o->offset += h.bytes;
    s->used = s->end = o->offset;
    o->expected = h.number + 1;
    o->w->number_last = h.number;
    o->w->sealed = h.records == 0;
    o->w->stats.live_bytes += h.bytes;
    o->w->stats.batches++;
    return *more = true, STATUS_OK;
}

/* Does the log go on at the start of the next segment? */
static enum status walk_next(struct opening *o, bool *more) {
    struct wal *w = o->w;
    *more = false;
    if (o->bad || !o->expected || o->at + 1 == w->segment_count) return STATUS_OK;
    struct wal_segment *s = w->segment[o->at + 1];
    struct wal_batch_head h;
    bool valid;
    wal_window_file(&o->window, s->file, s->bytes);
    enum status st = head_at(o, s, WAL_BLOCK, &h, &valid);
    if (st) return st;
    if (valid && h.number == o->expected) {
        o->at++;
        o->offset = WAL_BLOCK;
        return *more = true, STATUS_OK;
    }
    return wal_window_file(&o->window, w->segment[o->at]->file, w->segment[o->at]->bytes), STATUS_OK;
}

static enum status walk(struct opening *o) {
    struct wal *w = o->w;
    bool more = true;
    o->offset = WAL_BLOCK;
    wal_window_file(&o->window, w->segment[0]->file, w->segment[0]->bytes);
    while (more) {
        enum status st = walk_step(o, &more);
        if (!st && !more) st = walk_next(o, &more);
        if (st) return st;
    }
    return w->current = o->at, STATUS_OK;
}

/* ---- the end of the log */

/* Is a batch's head to be found behind the end? Then the end is none. */
static enum status look_behind(struct opening *o) {
    struct wal *w = o->w;
    for (unsigned i = o->at; i < w->segment_count; i++) {
        struct wal_segment *s = w->segment[i];
        wal_window_file(&o->window, s->file, s->bytes);
        for (uint64_t offset = i == o->at ? o->offset + WAL_BLOCK : WAL_BLOCK; offset < s->bytes; offset += WAL_BLOCK) {
            struct wal_batch_head h;
            bool valid;
            enum status st = head_at(o, s, offset, &h, &valid);
            if (st) return st;
            if (!valid) continue;
            /* In a later segment the first batch stands right behind the header: if it does not, that is the damage. */
            if (i > o->at && offset > WAL_BLOCK) return fail_damage(o, s, WAL_BLOCK, "the segment's first batch is damaged", h.number);
            return fail_damage(o, w->segment[o->at], o->bad_offset, o->bad ? o->bad : "no valid batch head", h.number);
        }
    }
    return STATUS_OK;
}

static bool block_blank(const uint8_t *p) {
    const uint64_t *word = (const uint64_t *)(const void *)p;
    for (unsigned i = 0; i < WAL_BLOCK / 8; i++)
        if (word[i]) return false;
    return true;
}

/* Zeroes what is not zero behind the end. */
static enum status zero_rest(struct opening *o, uint64_t *zeroed) {
    struct wal_segment *s = wal_current(o->w);
    char name[WAL_NAME_BYTES];
    wal_name(name, o->w->dir, s->id, "seg");
    uint8_t *zeros = mem_alloc_aligned(WAL_BLOCK, ZERO_BYTES);
    if (!zeros) return fail_memory(o);
    memset(zeros, 0, ZERO_BYTES);
    enum status st = STATUS_OK;
    wal_window_file(&o->window, s->file, s->bytes);
    for (uint64_t offset = s->used; !st && offset < s->bytes; offset += ZERO_BYTES) {
        size_t len = (size_t)MIN_OF((uint64_t)ZERO_BYTES, s->bytes - offset), dirty = 0;
        const uint8_t *p;
        st = wal_window_at(&o->window, offset, len, &p);
        if (st) st = fail_window(o, st, s, offset);
        for (size_t i = 0; !st && i < len; i += WAL_BLOCK) dirty += block_blank(p + i) ? 0 : WAL_BLOCK;
        if (st || !dirty) continue;
        int64_t n = o->env->ops->file_write(o->env, s->file, zeros, len, offset);
        if (n != (int64_t)len) st = fail_io(o, name, offset, "write", n < 0 ? n : -EIO);
        *zeroed += dirty;
    }
    mem_free(zeros);
    return st;
}

static enum status give_up_empty(struct opening *o, unsigned keep_count) {
    struct wal *w = o->w;
    while (w->segment_count > keep_count) {
        struct wal_segment *s = w->segment[w->segment_count - 1];
        char from[WAL_NAME_BYTES], to[WAL_NAME_BYTES];
        wal_name(from, w->dir, s->id, "seg");
        bool keep = w->free_count < WAL_FREE_MAX && s->bytes == w->segment_bytes;
        uint64_t number = ++w->file_number_last;
        int st = keep ? o->env->ops->file_rename(o->env, from, wal_name(to, w->dir, number, "free")) : o->env->ops->file_remove(o->env, from);
        if (!st) st = o->env->ops->dir_sync(o->env, w->dir);
        if (st) return fail_io(o, from, 0, "giving the empty segment up", st);
        if (keep) w->free_number[w->free_count++] = number;
        wal_segment_free(o->env, s);
        w->segment_count--;
    }
    return STATUS_OK;
}

static void warn_torn(const struct opening *o, const struct wal_segment *s, const char *what) {
    char name[WAL_NAME_BYTES];
    log_warn("wal torn tail", "file=%s offset=%llu: %s: cut, it was never acknowledged", wal_name(name, o->w->dir, s->id, "seg"),
             (unsigned long long)o->bad_offset, what);
}

static enum status finish(struct opening *o) {
    struct wal *w = o->w;
    if (o->bad) warn_torn(o, wal_current(w), o->bad);
    /* No empty segment may come to stand between two that are not: the walk would end there. So the log goes on where its last batch is. */
    if (w->current > 0 && wal_current(w)->used == WAL_BLOCK) w->current--;
    struct wal_segment *s = wal_current(w);
    uint64_t zeroed = 0;
    enum status st = zero_rest(o, &zeroed);
    if (st) return st;
    if (!o->bad && zeroed && !s->recycled) warn_torn(o, s, "pieces of a batch without its head");
    char name[WAL_NAME_BYTES];
    int sync = o->env->ops->file_sync(o->env, s->file);
    if (sync) return fail_io(o, wal_name(name, w->dir, s->id, "seg"), s->used, "sync", sync);
    unsigned keep = w->current + 1;
    if (s->used == WAL_BLOCK && s->bytes != w->segment_bytes) keep = 0; /* empty and of another size: a batch might skip it, see above */
    return give_up_empty(o, keep);
}

static enum status recover(struct opening *o) {
    struct wal *w = o->w;
    enum status st = list_files(o);
    for (unsigned i = 0; !st && i < o->id_count; i++) st = segment_open(o, o->id[i]);
    if (st) return st;
    if (w->segment_count) {
        st = walk(o);
        if (!st) st = look_behind(o);
        if (!st) st = finish(o);
        if (st || w->segment_count) return st;
    }
    const char *step = "";
    int made = wal_make_now(w, &step);
    if (made == -ENOMEM) return fail_memory(o);
    if (made) {
        fail_io(o, w->dir, 0, step, made);
        return made == -ENOSPC || made == -EDQUOT ? STATUS_DISK_FULL : STATUS_IO_FAILED;
    }
    return STATUS_OK;
}

/* ---- open */

static enum status configure(struct wal *w, const struct wal_config *c, char *error) {
    uint64_t segment_bytes = c->segment_bytes ? c->segment_bytes : WAL_SEGMENT_BYTES_DEFAULT;
    uint64_t live = c->live_bytes_max ? c->live_bytes_max : WAL_LIVE_BYTES_DEFAULT;
    uint64_t batch = c->batch_bytes_max ? c->batch_bytes_max : WAL_BATCH_BYTES_DEFAULT;
    if (strlen(c->dir) == 0 || strlen(c->dir) >= sizeof w->dir)
        return snprintf(error, ERROR_BYTES, "log directory name has %zu bytes, 1 to %zu allowed", strlen(c->dir), sizeof w->dir - 1), STATUS_FIELD_INVALID;
    if (segment_bytes % WAL_BLOCK != 0 || segment_bytes < WAL_SEGMENT_BYTES_MIN)
        return snprintf(error, ERROR_BYTES, "log segment of %llu bytes: must be a multiple of %d and at least %d", (unsigned long long)segment_bytes, WAL_BLOCK,
                        WAL_SEGMENT_BYTES_MIN), STATUS_FIELD_INVALID;
    if (live < segment_bytes)
        return snprintf(error, ERROR_BYTES, "log limit of %llu bytes is below one segment (%llu)", (unsigned long long)live, (unsigned long long)segment_bytes),
               STATUS_FIELD_INVALID;
    memcpy(w->dir, c->dir, strlen(c->dir) + 1);
    w->segment_bytes = (uint32_t)segment_bytes;
    w->live_bytes_max = live;
    w->batch_bytes_max = (uint32_t)(MAX_OF(MIN_OF(batch, segment_bytes - WAL_BLOCK), (uint64_t)WAL_BLOCK) / WAL_BLOCK * WAL_BLOCK);
    w->reserve_bytes = MIN_OF(64 * KIB, segment_bytes / 8);
    w->ctx = c->ctx;
    w->synced = c->synced;
    return STATUS_OK;
}

static bool allocate(struct wal *w) {
    for (unsigned i = 0; i < 2; i++) {
        struct wal_batch *b = &w->batch[i];
        b->data = mem_alloc_aligned(WAL_BLOCK, w->batch_bytes_max);
        if (!b->data) return false;
        b->used = WAL_BATCH_HEAD_BYTES;
    }
    w->gather = &w->batch[0];
    w->job = wal_job_new(w->env);
    return w->job != NULL;
}

enum status wal_open(struct wal **out, struct env *env, const struct wal_config *config, enum status (*replay)(void *ctx, const struct wal_record *record),
                     char error[256]) {
    *out = NULL;
    error[0] = 0;
    struct wal *w = mem_new(struct wal);
    struct opening o = {.w = w, .env = env, .replay = replay, .error = error};
    if (!w) return snprintf(error, ERROR_BYTES, "out of memory while opening the log"), STATUS_MEMORY_LIMIT;
    w->env = env;
    w->sealed = true; /* nothing to protect yet */
    wal_window_init(&o.window, env);
    enum status st = configure(w, config, error);
    if (!st && !allocate(w)) st = fail_memory(&o);
    if (!st) st = recover(&o);
    wal_window_fini(&o.window);
    mem_free(o.id);
    if (st) {
        w->closing = true;
        return wal_free(w), st;
    }
    w->synced_ns = env->ops->mono_ns(env);
    w->ready = true;
    wal_pump(w);
    return *out = w, STATUS_OK;
}
