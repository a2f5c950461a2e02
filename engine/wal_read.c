/* Reading back. A range of a group is found in two passes: the first walks the batches of the segments that hold it and notes where the
 * newest append of each index stands (a lower index supersedes what was noted at and above it), the second hands them out in order.
 * Long ranges go in runs of READ_RUN entries, so memory is bounded. */
#include <errno.h>

#include "engine/wal_impl.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { WINDOW_BYTES = 1 << 20, READ_RUN = 4096 };

void wal_window_init(struct wal_window *x, struct env *env) { *x = (struct wal_window){.env = env}; }

void wal_window_file(struct wal_window *x, struct env_file *file, uint64_t file_bytes) {
    x->file = file;
    x->file_bytes = file_bytes;
    x->start = 0;
    x->filled = 0;
}

void wal_window_fini(struct wal_window *x) { mem_free(x->data); }

enum status wal_window_at(struct wal_window *x, uint64_t offset, size_t len, const uint8_t **out) {
    check(len > 0);
    check(offset + len <= x->file_bytes);
    if (offset >= x->start && offset + len <= x->start + x->filled) return *out = x->data + (offset - x->start), STATUS_OK;
    uint64_t start = offset / WAL_BLOCK * WAL_BLOCK;
    size_t need = (size_t)wal_blocks_round(offset + len - start);
    if (need > x->cap) {
        size_t cap = MAX_OF(need, (size_t)MIN_OF((uint64_t)WINDOW_BYTES, x->file_bytes));
        uint8_t *data = mem_alloc_aligned(WAL_BLOCK, cap);
        if (!data) return STATUS_MEMORY_LIMIT;
        mem_free(x->data);
        x->data = data, x->cap = cap;
    }
    x->filled = 0;
    size_t want = (size_t)MIN_OF((uint64_t)x->cap, x->file_bytes - start);
    int64_t n = x->env->ops->file_read(x->env, x->file, x->data, want, start);
    if (n != (int64_t)want) return x->error = n < 0 ? (int)n : -EIO, STATUS_IO_FAILED;
    x->start = start;
    x->filled = want;
    return *out = x->data + (offset - start), STATUS_OK;
}

/* ---- wal_read */

struct spot {
    struct wal_segment *segment; /* NULL: not in the log */
    uint64_t batch_offset;
    uint32_t batch_bytes, at; /* of the record, in the batch */
};
struct run {
    struct wal *wal;
    uint64_t group, first, last; /* last - first < READ_RUN */
    uint64_t noted_last;         /* spots above hold nothing */
    struct spot spot[READ_RUN];
    struct wal_window window;
};

static enum status damaged(const struct run *r, const struct wal_segment *s, uint64_t offset, const char *what) {
    char name[WAL_NAME_BYTES];
    log_error("wal read", "file=%s offset=%llu: %s", wal_name(name, r->wal->dir, s->id, "seg"), (unsigned long long)offset, what);
    return STATUS_CHECKSUM_MISMATCH;
}

static enum status batch_at(struct run *r, struct wal_segment *s, uint64_t offset, struct wal_record_reader *out) {
    const uint8_t *p;
    enum status st = wal_window_at(&r->window, offset, WAL_BATCH_HEAD_BYTES, &p);
    if (st) return st;
    struct wal_place place = {.salt = s->salt, .segment = s->id, .offset = offset};
    struct wal_batch_head h;
    if (!wal_batch_head_decode(p, s->used - offset, &place, &h)) return damaged(r, s, offset, "batch head does not match");
    st = wal_window_at(&r->window, offset, h.bytes, &p);
    if (st) return st;
    *out = wal_record_reader_of(p, &h, &place);
    return STATUS_OK;
}

static void note(struct run *r, struct wal_segment *s, const struct wal_record_reader *batch, uint32_t at, uint64_t index) {
    if (index < r->first) r->noted_last = r->first - 1;
    if (index < r->first || index > r->last) return;
    r->spot[index - r->first] =
        (struct spot){.segment = s, .batch_offset = batch->place.offset, .batch_bytes = batch->head.bytes, .at = at};
    for (uint64_t i = r->noted_last + 1; i < index; i++) r->spot[i - r->first].segment = NULL; /* a gap */
    r->noted_last = index;
}

static enum status scan(struct run *r, struct wal_segment *s) {
    for (uint64_t offset = WAL_BLOCK; offset < s->used;) {
        struct wal_record_reader batch;
        enum status st = batch_at(r, s, offset, &batch);
        if (st) return st;
        struct wal_record record;
        for (uint32_t at = batch.at; wal_record_next(&batch, &record); at = batch.at)
            if (record.group == r->group) note(r, s, &batch, at, record.index);
        if (batch.bad) return damaged(r, s, offset + batch.at, batch.bad);
        offset += batch.head.bytes;
    }
    return STATUS_OK;
}

static enum status hand_out(struct run *r, enum status (*each)(void *ctx, const struct wal_record *record), void *ctx) {
    struct wal_segment *open = NULL;
    for (uint64_t index = r->first; index <= r->last; index++) {
        const struct spot *spot = &r->spot[index - r->first];
        if (index > r->noted_last || !spot->segment) return STATUS_ABSENT;
        if (spot->segment != open) wal_window_file(&r->window, spot->segment->file, spot->segment->used), open = spot->segment;
        struct wal_record_reader batch;
        enum status st = batch_at(r, spot->segment, spot->batch_offset, &batch);
        if (st) return st;
        batch.at = spot->at; /* left is then too high: harmless, one record is read */
        struct wal_record record;
        if (!wal_record_next(&batch, &record)) return damaged(r, spot->segment, spot->batch_offset + spot->at, batch.bad);
        check(record.group == r->group);
        check(record.index == index);
        st = each(ctx, &record);
        if (st) return st;
    }
    return STATUS_OK;
}

static enum status read_run(struct run *r, unsigned g, enum status (*each)(void *ctx, const struct wal_record *record), void *ctx) {
    struct wal *w = r->wal;
    r->noted_last = r->first - 1;
    for (unsigned i = 0; i <= w->current; i++) {
        struct wal_segment *s = w->segment[i];
        if (!wal_range_some(s->range[g]) || s->range[g].first > r->last || s->range[g].last < r->first) continue;
        wal_window_file(&r->window, s->file, s->used);
        enum status st = scan(r, s);
        if (st) return st;
    }
    return hand_out(r, each, ctx);
}

enum status wal_read(struct wal *w, uint64_t group, uint64_t first, uint64_t last, enum status (*each)(void *ctx, const struct wal_record *record), void *ctx) {
    check(first > 0);
    if (first > last) return STATUS_OK;
    int g = wal_group_number(w, group, false);
    if (g < 0 || last > w->group_last[g]) return STATUS_ABSENT;
    struct run *r = mem_new(struct run);
    if (!r) return STATUS_MEMORY_LIMIT;
    r->wal = w;
    r->group = group;
    wal_window_init(&r->window, w->env);
    enum status st = STATUS_OK;
    for (uint64_t at = first; !st && at <= last; at = r->last + 1) {
        r->first = at;
        r->last = last - at < READ_RUN ? last : at + READ_RUN - 1;
        st = read_run(r, (unsigned)g, each, ctx);
    }
    if (st == STATUS_IO_FAILED) log_error("wal read", "dir=%s group=%llu errno=%d", w->dir, (unsigned long long)group, -r->window.error);
    wal_window_fini(&r->window);
    mem_free(r);
    return st;
}
