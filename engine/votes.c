/* Term and vote of every group.
 *
 * Two copies of one table in one file, each in a region of its own:
 *   region    0 magic "ODBVOTES"   8 format u32 = 1   12 crc32c u32 over all but itself, to the last entry   16 generation u64
 *            24 count u32          28 zero u32        32 entries {group u64, term u64, voted_for u64}, then zeros to the block's end
 *   file      region 0 at 0, region 1 at 32768, 65536 bytes in all; integers little-endian
 *
 * A commit writes the new generation to region 0, syncs, writes the same to region 1, syncs, and only then calls done(). So:
 *   - at any crash at most one region is torn, and the other is whole;
 *   - what was acknowledged stands in both, so damage to either one can't roll a vote back (with one write per commit the newest
 *     generation would stand in one copy alone, and its rot could not be told from a torn write that nobody was promised).
 * The price is a second sync at an election, shared by all groups that stage at once. Open takes the newer whole copy, writes it over the other
 * when they differ, and syncs, before anyone hears of it. */
#include "engine/votes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/wal.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { VOTES_FORMAT = 1, BLOCK = 4096, REGION_BYTES = 32768, FILE_BYTES = 2 * REGION_BYTES, HEAD_BYTES = 32, ENTRY_BYTES = 24, NAME_BYTES = 64, ERROR_BYTES = 256 };
static const uint8_t magic[8] = "ODBVOTES";
static_assert(HEAD_BYTES + WAL_GROUPS_MAX * ENTRY_BYTES <= REGION_BYTES, "every group of a core has its place");

struct vote {
    uint64_t group, term, voted_for;
};
struct votes {
    struct env *env;
    struct env_file *file;
    char name[NAME_BYTES];
    struct vote vote[WAL_GROUPS_MAX];
    uint32_t count;
    uint64_t generation; /* newest that was written or begun */
    bool dirty, busy, closing, is_new;
    uint8_t *region; /* REGION_BYTES, aligned: what is being written */
    uint32_t write_bytes;
    unsigned copy; /* 0, 1: being written */
    struct env_io io;
    void (*done)(void *ctx);
    void *ctx;
};

/* ---- the bytes */

static uint32_t region_sum(const uint8_t *p, uint32_t count) { return crc32c(crc32c(0, p, 12), p + 16, HEAD_BYTES - 16 + (size_t)count * ENTRY_BYTES); }

static void encode(struct votes *v) {
    uint8_t *p = v->region;
    memset(p, 0, REGION_BYTES);
    memcpy(p, magic, sizeof magic);
    put_le32(p + 8, VOTES_FORMAT);
    put_le64(p + 16, v->generation);
    put_le32(p + 24, v->count);
    for (uint32_t i = 0; i < v->count; i++) {
        uint8_t *e = p + HEAD_BYTES + i * ENTRY_BYTES;
        put_le64(e, v->vote[i].group);
        put_le64(e + 8, v->vote[i].term);
        put_le64(e + 16, v->vote[i].voted_for);
    }
    put_le32(p + 12, region_sum(p, v->count));
    v->write_bytes = (HEAD_BYTES + v->count * ENTRY_BYTES + BLOCK - 1) / BLOCK * BLOCK;
}

static enum status region_check(const uint8_t *p) {
    uint32_t count = get_le32(p + 24);
    if (memcmp(p, magic, sizeof magic) != 0 || count > WAL_GROUPS_MAX || get_le32(p + 28) != 0) return STATUS_CHECKSUM_MISMATCH;
    if (get_le32(p + 12) != region_sum(p, count)) return STATUS_CHECKSUM_MISMATCH;
    return get_le32(p + 8) == VOTES_FORMAT ? STATUS_OK : STATUS_FORMAT_UNKNOWN;
}

static void decode(struct votes *v, const uint8_t *p) {
    v->generation = get_le64(p + 16);
    v->count = get_le32(p + 24);
    for (uint32_t i = 0; i < v->count; i++) {
        const uint8_t *e = p + HEAD_BYTES + i * ENTRY_BYTES;
        v->vote[i] = (struct vote){.group = get_le64(e), .term = get_le64(e + 8), .voted_for = get_le64(e + 16)};
    }
}

/* ---- open */

static enum status fail_io(const struct votes *v, char *error, const char *step, uint64_t offset, int64_t result) {
    snprintf(error, ERROR_BYTES, "file=%s offset=%llu: %s failed: errno=%d (%s)", v->name, (unsigned long long)offset, step, (int)-result, strerror((int)-result));
    return result == -ENOSPC || result == -EDQUOT ? STATUS_DISK_FULL : STATUS_IO_FAILED;
}

static enum status write_copy(struct votes *v, unsigned copy, char *error) {
    int64_t n = v->env->ops->file_write(v->env, v->file, v->region, v->write_bytes, (uint64_t)copy * REGION_BYTES);
    if (n != v->write_bytes) return fail_io(v, error, "write", (uint64_t)copy * REGION_BYTES, n < 0 ? n : -EIO);
    int st = v->env->ops->file_sync(v->env, v->file);
    return st ? fail_io(v, error, "sync", (uint64_t)copy * REGION_BYTES, st) : STATUS_OK;
}

/* Under another name until whole: a crash never leaves half a votes file. */
static enum status create(struct votes *v, char *error) {
    const struct env_ops *ops = v->env->ops;
    char temporary[NAME_BYTES + 8];
    snprintf(temporary, sizeof temporary, "%s.new", v->name);
    int st = ops->file_open(v->env, temporary, ENV_READ | ENV_WRITE | ENV_CREATE | ENV_DIRECT, &v->file);
    if (st) return v->file = NULL, fail_io(v, error, "create", 0, st);
    st = ops->file_allocate(v->env, v->file, FILE_BYTES);
    if (st) return fail_io(v, error, "allocate", 0, st);
    v->generation = 1;
    v->is_new = true;
    encode(v);
    enum status status = write_copy(v, 0, error);
    if (!status) status = write_copy(v, 1, error);
    if (status) return status;
    st = ops->file_rename(v->env, temporary, v->name);
    if (!st) st = ops->dir_sync(v->env, "");
    return st ? fail_io(v, error, "rename", 0, st) : STATUS_OK;
}

static enum status recover(struct votes *v, uint8_t *both, char *error) {
    int64_t n = v->env->ops->file_size(v->env, v->file);
    if (n < 0) return fail_io(v, error, "size", 0, n);
    if (n != FILE_BYTES)
        return snprintf(error, ERROR_BYTES, "file=%s offset=%lld: the file has not its %d bytes", v->name, (long long)MIN_OF(n, (int64_t)FILE_BYTES), FILE_BYTES),
               STATUS_CHECKSUM_MISMATCH;
    n = v->env->ops->file_read(v->env, v->file, both, FILE_BYTES, 0);
    if (n != FILE_BYTES) return fail_io(v, error, "read", 0, n < 0 ? n : -EIO);
    enum status copy[2] = {region_check(both), region_check(both + REGION_BYTES)};
    for (unsigned i = 0; i < 2; i++)
        if (copy[i] == STATUS_FORMAT_UNKNOWN)
            return snprintf(error, ERROR_BYTES, "file=%s offset=%u: votes format %u, this program knows %d: written by another version", v->name,
                            i * REGION_BYTES + 8, get_le32(both + i * REGION_BYTES + 8), VOTES_FORMAT), STATUS_FORMAT_UNKNOWN;
    if (copy[0] && copy[1])
        return snprintf(error, ERROR_BYTES, "file=%s offset=0: both copies of term and vote are damaged (the other at offset %d)", v->name, REGION_BYTES),
               STATUS_CHECKSUM_MISMATCH;
    unsigned best = copy[0] ? 1 : copy[1] ? 0 : get_le64(both + REGION_BYTES + 16) > get_le64(both + 16);
    decode(v, both + best * REGION_BYTES);
    encode(v);
    if (copy[1 - best])
        log_warn("votes", "file=%s offset=%u: this copy is torn or damaged, mended from the other, generation=%llu", v->name, (1 - best) * REGION_BYTES,
                 (unsigned long long)v->generation);
    if (memcmp(both, both + REGION_BYTES, v->write_bytes) != 0) return write_copy(v, 1 - best, error);
    int st = v->env->ops->file_sync(v->env, v->file); /* what was read may sit in a volatile cache */
    return st ? fail_io(v, error, "sync", 0, st) : STATUS_OK;
}

static void votes_free(struct votes *v) {
    if (v->file) v->env->ops->file_close(v->env, v->file);
    mem_free(v->region);
    mem_free(v);
}

enum status votes_open(struct votes **out, struct env *env, const char *name, char error[256]) {
    *out = NULL;
    error[0] = 0;
    check(strlen(name) < NAME_BYTES);
    struct votes *v = mem_new(struct votes);
    uint8_t *both = mem_alloc_aligned(BLOCK, FILE_BYTES);
    enum status st = STATUS_OK;
    if (v) v->region = mem_alloc_aligned(BLOCK, REGION_BYTES);
    if (!v || !both || !v->region) {
        snprintf(error, ERROR_BYTES, "file=%s: out of memory while opening", name);
        st = STATUS_MEMORY_LIMIT;
        goto out;
    }
    v->env = env;
    memcpy(v->name, name, strlen(name) + 1);
    int opened = env->ops->file_open(env, name, ENV_READ | ENV_WRITE | ENV_DIRECT, &v->file);
    if (opened) v->file = NULL;
    if (opened == -ENOENT) st = create(v, error);
    else if (opened) st = fail_io(v, error, "open", 0, opened);
    else st = recover(v, both, error);
out:
    mem_free(both);
    if (st && v) votes_free(v);
    if (!st) *out = v;
    return st;
}

void votes_close(struct votes *v) {
    if (!v) return;
    check(!v->closing);
    v->closing = true;
    if (!v->busy) votes_free(v);
}

bool votes_is_new(const struct votes *v) { return v->is_new; }

/* ---- use */

static struct vote *find(const struct votes *v, uint64_t group) {
    for (uint32_t i = 0; i < v->count; i++)
        if (v->vote[i].group == group) return (struct vote *)&v->vote[i];
    return NULL;
}

bool votes_get(const struct votes *v, uint64_t group, uint64_t *term, uint64_t *voted_for) {
    const struct vote *e = find(v, group);
    if (!e) return false;
    *term = e->term, *voted_for = e->voted_for;
    return true;
}

enum status votes_set(struct votes *v, uint64_t group, uint64_t term, uint64_t voted_for) {
    struct vote *e = find(v, group);
    if (!e && v->count == WAL_GROUPS_MAX) return STATUS_LIMIT_EXCEEDED;
    if (!e) e = &v->vote[v->count++], *e = (struct vote){.group = group};
    check(term >= e->term); /* terms never go back */
    e->term = term;
    e->voted_for = voted_for;
    v->dirty = true;
    return STATUS_OK;
}

bool votes_dirty(const struct votes *v) { return v->dirty; }
bool votes_busy(const struct votes *v) { return v->busy; }

static void on_written(struct env_io *io, int64_t result);

static void die(const struct votes *v, const char *what, int64_t result) {
    int error = result < 0 ? (int)-result : EIO;
    panic_now("votes %s failed: file=%s errno=%d (%s) offset=%u: stopping, no vote that was given is lost", what, v->name, error, strerror(error),
              v->copy * REGION_BYTES);
}

static void copy_start(struct votes *v) {
    v->io.done = on_written;
    v->env->ops->write_async(v->env, v->file, &v->io, v->region, v->write_bytes, (uint64_t)v->copy * REGION_BYTES);
}

static void on_synced(struct env_io *io, int64_t result) {
    struct votes *v = container_of(io, struct votes, io);
    if (v->closing) return votes_free(v);
    if (result != 0) die(v, "sync", result);
    if (v->copy == 0) {
        v->copy = 1;
        return copy_start(v);
    }
    v->busy = false;
    v->done(v->ctx);
}

static void on_written(struct env_io *io, int64_t result) {
    struct votes *v = container_of(io, struct votes, io);
    if (v->closing) return votes_free(v);
    if (result != v->write_bytes) die(v, "write", result);
    v->io.done = on_synced;
    v->env->ops->sync_async(v->env, v->file, &v->io);
}

void votes_commit(struct votes *v, void (*done)(void *ctx), void *ctx) {
    check(!v->busy);
    check(!v->closing);
    v->busy = true;
    v->dirty = false;
    v->done = done, v->ctx = ctx;
    v->generation++;
    encode(v);
    v->copy = 0;
    copy_start(v);
}
