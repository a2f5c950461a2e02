/* A store's durable state as a stream, and a stream in a store's place.
 *
 *     PATH              the store
 *     PATH.checkpoint   hard links to the tables of one moment, while somebody fetches them. Removed at the next start
 *     PATH.import       being fetched; with a FORMAT: finished, whole and durable
 *     PATH.install      a finished import that takes PATH's place: the rename to this name decides. Whoever finds it removes PATH and gives it PATH's name, as often as crashes want
 *     PATH.gone         a store that is held no more: its files are being removed, by a job or at the next start
 *
 * The stream: "ODBCHKPT", version (4 be), number of files (4 be); for each name length (1), name, bytes (8 be); then the files' bytes, back to back. The front adds a
 * checksum over it (store_ops.h). What RocksDB holds is a prefix of the batches at each moment, so any checkpoint is the state after some entry: its partition record says which. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "proto/base/mem.h"

enum { STREAM_VERSION = 1, STREAM_FIXED_BYTES = 16, STREAM_FILES_MAX = 65536, STREAM_NAME_BYTES_MAX = 64, STREAM_HEAD_BYTES_MAX = STREAM_FIXED_BYTES + STREAM_FILES_MAX * (9 + STREAM_NAME_BYTES_MAX) };
static const char magic[] = "ODBCHKPT";

struct stream_file {
    char name[STREAM_NAME_BYTES_MAX + 1];
    uint64_t bytes, begins; /* in the stream */
};
struct stream_files {
    struct stream_file *at;
    size_t count, cap;
};
struct rocks_checkpoint {
    struct store_checkpoint base;
    char path[STORE_PATH_BYTES_MAX + 16];
    struct stream_files files;
    uint8_t *head;
    size_t head_bytes, open; /* open: number + 1 of the file in fd */
    int fd;
};
struct rocks_import {
    struct store_import base;
    struct rocks_store *store; /* until it is closed */
    char path[STORE_PATH_BYTES_MAX + 1], import[STORE_PATH_BYTES_MAX + 16];
    struct stream_files files;
    uint8_t *head;          /* as far as it has come; NULL: all of it was read */
    size_t head_bytes, head_cap, current;
    uint64_t file_written, file_pushed; /* of the current file; pushed: on its way to the disk */
    int fd;
};

static void beside(const char *path, const char *what, char out[STORE_PATH_BYTES_MAX + 16]) { snprintf(out, STORE_PATH_BYTES_MAX + 16, "%s.%s", path, what); }

/* ---- files */

static struct stream_file *files_add(struct stream_files *f) {
    if (f->count == f->cap) {
        size_t cap = f->cap ? f->cap * 2 : 64;
        struct stream_file *more = cap <= STREAM_FILES_MAX ? mem_realloc(f->at, cap * sizeof *more) : NULL;
        if (!more) return NULL;
        f->at = more, f->cap = cap;
    }
    return memset(&f->at[f->count], 0, sizeof *f->at), &f->at[f->count++];
}

static bool name_ok(const char *name, size_t len) {
    if (len == 0 || len > STREAM_NAME_BYTES_MAX || name[0] == '.') return false;
    for (size_t i = 0; i < len; i++)
        if (!((name[i] >= 'A' && name[i] <= 'Z') || (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') || name[i] == '-' || name[i] == '_' || name[i] == '.')) return false;
    return true;
}

static void stream_name(const char *dir, const char *name, char out[STORE_PATH_BYTES_MAX + 96]) { snprintf(out, STORE_PATH_BYTES_MAX + 96, "%s/%s", dir, name); }

/* ---- a checkpoint */

static enum status checkpoint_list(struct rocks_checkpoint *c, char error[256]) {
    DIR *dir = opendir(c->path);
    if (!dir) return rocks_file_error(error, "open directory", c->path);
    enum status st = STATUS_OK;
    for (const struct dirent *d; !st && (d = readdir(dir));) {
        char name[STORE_PATH_BYTES_MAX + 96];
        struct stat s;
        if (d->d_name[0] == '.') continue;
        if (!name_ok(d->d_name, strlen(d->d_name))) { st = STATUS_FORMAT_UNKNOWN; continue; }
        stream_name(c->path, d->d_name, name);
        if (stat(name, &s)) { st = rocks_file_error(error, "look at", name); continue; }
        struct stream_file *f = files_add(&c->files);
        if (!f) { st = STATUS_MEMORY_LIMIT; continue; }
        memcpy(f->name, d->d_name, strlen(d->d_name) + 1);
        f->bytes = (uint64_t)s.st_size;
    }
    closedir(dir);
    return st;
}

static enum status checkpoint_head(struct rocks_checkpoint *c) {
    c->head_bytes = STREAM_FIXED_BYTES;
    for (size_t i = 0; i < c->files.count; i++) c->head_bytes += 9 + strlen(c->files.at[i].name);
    c->head = mem_alloc(c->head_bytes);
    if (!c->head) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(c->head, c->head_bytes);
    uint64_t at = c->head_bytes;
    write_bytes(&w, magic, 8), write_be32(&w, STREAM_VERSION), write_be32(&w, (uint32_t)c->files.count);
    for (size_t i = 0; i < c->files.count; i++) {
        struct stream_file *f = &c->files.at[i];
        write_u8(&w, (uint8_t)strlen(f->name)), write_bytes(&w, f->name, strlen(f->name)), write_be64(&w, f->bytes);
        f->begins = at;
        at += f->bytes;
    }
    check(!w.full && w.len == c->head_bytes);
    c->base.bytes = at;
    return STATUS_OK;
}

static enum status checkpoint_link(struct rocks_store *s, const char *path, char error[256]) {
    char *rocks_error = NULL;
    rocksdb_checkpoint_t *object = rocksdb_checkpoint_object_create(s->db, &rocks_error);
    if (!rocks_error) rocksdb_checkpoint_create(object, path, 0, &rocks_error);
    if (object) rocksdb_checkpoint_object_destroy(object);
    if (!rocks_error) return STATUS_OK;
    enum status st = rocks_status(rocks_error);
    snprintf(error, 256, "checkpoint %.80s: %.150s", path, rocks_error);
    rocksdb_free(rocks_error);
    return st == STATUS_WOULD_BLOCK ? STATUS_IO_FAILED : st;
}

enum status rocks_checkpoint_make(struct store *base, struct store_checkpoint **out, char error[256]) {
    struct rocks_store *s = rocks_of(base);
    struct rocks_checkpoint *c = mem_new(struct rocks_checkpoint);
    if (!c) return STATUS_MEMORY_LIMIT;
    c->fd = -1;
    beside(s->path, "checkpoint", c->path);
    enum status st = rocks_dir_remove(c->path, error);
    if (!st) st = checkpoint_link(s, c->path, error);
    if (!st) st = checkpoint_list(c, error);
    if (!st) st = checkpoint_head(c);
    if (st) rocks_checkpoint_free(&c->base);
    else *out = &c->base;
    return st;
}

static enum status checkpoint_file_read(struct rocks_checkpoint *c, size_t i, uint64_t offset, uint8_t *out, size_t len) {
    char name[STORE_PATH_BYTES_MAX + 96];
    if (c->open != i + 1) {
        if (c->fd >= 0) close(c->fd);
        stream_name(c->path, c->files.at[i].name, name);
        c->fd = open(name, O_RDONLY | O_CLOEXEC);
        c->open = i + 1;
    }
    while (len) {
        ssize_t n = c->fd < 0 ? -1 : pread(c->fd, out, len, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return STATUS_IO_FAILED;
        out += n, offset += (uint64_t)n, len -= (size_t)n;
    }
    return STATUS_OK;
}

enum status rocks_checkpoint_read(struct store_checkpoint *base, uint64_t offset, uint8_t *out, size_t len) {
    struct rocks_checkpoint *c = container_of(base, struct rocks_checkpoint, base);
    if (offset < c->head_bytes) {
        size_t n = (size_t)MIN_OF((uint64_t)len, c->head_bytes - offset);
        memcpy(out, c->head + offset, n);
        out += n, offset += n, len -= n;
    }
    size_t low = 0, high = c->files.count; /* the last file that begins at or before offset */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (c->files.at[middle].begins <= offset) low = middle;
        else high = middle;
    }
    for (size_t i = low; len && i < c->files.count; i++) {
        const struct stream_file *f = &c->files.at[i];
        size_t n = offset < f->begins + f->bytes ? (size_t)MIN_OF((uint64_t)len, f->begins + f->bytes - offset) : 0;
        enum status st = n ? checkpoint_file_read(c, i, offset - f->begins, out, n) : STATUS_OK;
        if (st) return st;
        out += n, offset += n, len -= n;
    }
    check(len == 0);
    return STATUS_OK;
}

void rocks_checkpoint_free(struct store_checkpoint *base) {
    struct rocks_checkpoint *c = container_of(base, struct rocks_checkpoint, base);
    char error[256];
    if (c->fd >= 0) close(c->fd);
    (void)!rocks_dir_remove(c->path, error); /* else at the next start */
    mem_free(c->files.at);
    mem_free(c->head);
    mem_free(c);
}

void rocks_checkpoint_remove(const char *path) {
    char name[STORE_PATH_BYTES_MAX + 16], error[256];
    beside(path, "checkpoint", name);
    (void)!rocks_dir_remove(name, error);
}

enum status store_drop_rocks(const char *path, char error[256]) {
    static const char *const others[] = {"install", "import", "checkpoint"}; /* a finished import first: the next open would put it in the store's place */
    enum status st = STATUS_OK;
    for (size_t i = 0; !st && i < ARRAY_LEN(others); i++) {
        char name[STORE_PATH_BYTES_MAX + 16];
        beside(path, others[i], name);
        st = rocks_dir_remove(name, error);
    }
    if (st) return st;
    char gone[STORE_PATH_BYTES_MAX + 16];
    beside(path, "gone", gone);
    if ((st = rocks_dir_remove(gone, error))) return st; /* of before, swept by now as a rule */
    if (rename(path, gone) != 0 && errno != ENOENT) return rocks_file_error(error, "rename", path);
    return rocks_dir_sync_parent(path, error);
}

void store_sweep_rocks(const char *path) {
    char gone[STORE_PATH_BYTES_MAX + 16], error[256];
    beside(path, "gone", gone);
    (void)!rocks_dir_remove(gone, error);
}

/* ---- an import */

static struct rocks_import *import_new(struct rocks_store *s) {
    struct rocks_import *i = mem_new(struct rocks_import);
    if (!i) return NULL;
    i->base.ops = s->base.ops;
    i->store = s;
    i->fd = -1;
    snprintf(i->path, sizeof i->path, "%s", s->path);
    beside(s->path, "import", i->import);
    return i;
}

static void import_forget(struct rocks_import *i) {
    if (i->fd >= 0) close(i->fd);
    mem_free(i->files.at);
    mem_free(i->head);
    mem_free(i);
}

enum status rocks_import_begin(struct store *base, struct store_import **out, char error[256]) {
    struct rocks_import *i = import_new(rocks_of(base));
    if (!i) return STATUS_MEMORY_LIMIT;
    enum status st = rocks_dir_remove(i->import, error);
    if (!st && mkdir(i->import, 0700)) st = rocks_file_error(error, "create directory", i->import);
    if (!st && !(i->head = mem_alloc(i->head_cap = 4096))) st = STATUS_MEMORY_LIMIT;
    if (st) import_forget(i);
    else *out = &i->base;
    return st;
}

static enum status head_damaged(char error[256]) { return snprintf(error, 256, "the checkpoint's list of files makes no sense"), STATUS_FORMAT_UNKNOWN; }

/* The list of files, if all of it has come; WOULD_BLOCK. *used: its bytes. */
static enum status head_read(struct rocks_import *i, struct slice head, size_t *used, char error[256]) {
    struct reader r = reader_of(head);
    struct slice m = read_bytes(&r, 8);
    uint32_t version = read_be32(&r), count = read_be32(&r);
    if (r.bad) return STATUS_WOULD_BLOCK;
    if (memcmp(m.data, magic, 8) != 0 || version != STREAM_VERSION || count > STREAM_FILES_MAX) return head_damaged(error);
    i->files.count = 0;
    uint64_t sum = 0;
    for (uint32_t n = 0; n < count; n++) {
        struct slice name = read_bytes(&r, read_u8(&r));
        uint64_t bytes = read_be64(&r);
        if (r.bad) return STATUS_WOULD_BLOCK;
        if (!name_ok((const char *)name.data, name.len) || bytes > i->base.bytes - sum) return head_damaged(error);
        struct stream_file *f = files_add(&i->files);
        if (!f) return STATUS_MEMORY_LIMIT;
        memcpy(f->name, name.data, name.len);
        f->bytes = bytes, sum += bytes;
    }
    *used = head.len - reader_left(&r);
    return *used + sum == i->base.bytes ? STATUS_OK : head_damaged(error);
}

/* Takes bytes into the head until it is whole; *rest: those behind it. */
static enum status import_head(struct rocks_import *i, struct slice bytes, struct slice *rest, char error[256]) {
    size_t had = i->head_bytes, used;
    if (had + bytes.len > i->head_cap) {
        size_t cap = MAX_OF(had + bytes.len, i->head_cap * 2);
        uint8_t *grown = mem_realloc(i->head, cap);
        if (!grown) return STATUS_MEMORY_LIMIT;
        i->head = grown, i->head_cap = cap;
    }
    memcpy(i->head + had, bytes.data, bytes.len);
    i->head_bytes += bytes.len;
    *rest = slice_of(bytes.data + bytes.len, 0);
    enum status st = head_read(i, slice_of(i->head, i->head_bytes), &used, error);
    if (st == STATUS_WOULD_BLOCK) return i->head_bytes > STREAM_HEAD_BYTES_MAX ? head_damaged(error) : STATUS_OK;
    if (st) return st;
    check(used > had);
    *rest = slice_of(bytes.data + (used - had), bytes.len - (used - had));
    mem_free(i->head);
    i->head = NULL;
    return STATUS_OK;
}

/* What is new of the file goes to the disk now, and what went there one window before has arrived: the sync at its end finds little to do, or it would take the disk from the log's for as long
 * as a whole file takes, and the stream waits for the disk. An error that is met here would not be told again by fsync. */
static enum status file_push(struct rocks_import *i, const char *name, char error[256]) {
    enum { NOW = SYNC_FILE_RANGE_WRITE, ARRIVED = SYNC_FILE_RANGE_WAIT_BEFORE };
    if (i->file_written - i->file_pushed < PUSH_BYTES) return STATUS_OK;
    uint64_t before = MIN_OF(i->file_pushed, (uint64_t)PUSH_BYTES);
    bool ok = sync_file_range(i->fd, (off_t)i->file_pushed, (off_t)(i->file_written - i->file_pushed), NOW) == 0 && (!before || sync_file_range(i->fd, (off_t)(i->file_pushed - before), (off_t)before, ARRIVED) == 0);
    i->file_pushed = i->file_written;
    return ok ? STATUS_OK : rocks_file_error(error, "write", name);
}

static enum status file_begin(struct rocks_import *i, const char *name, char error[256]) {
    i->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return i->fd < 0 ? rocks_file_error(error, "create", name) : STATUS_OK;
}
static enum status file_end(struct rocks_import *i, const char *name, char error[256]) {
    enum status st = fsync(i->fd) ? rocks_file_error(error, "sync", name) : STATUS_OK;
    close(i->fd);
    i->fd = -1;
    i->current++, i->file_written = i->file_pushed = 0;
    return st;
}

/* As many files as the bytes reach, empty ones among them. */
static enum status import_files(struct rocks_import *i, struct slice bytes, char error[256]) {
    while (i->current < i->files.count) {
        const struct stream_file *f = &i->files.at[i->current];
        char name[STORE_PATH_BYTES_MAX + 96];
        size_t n = (size_t)MIN_OF((uint64_t)bytes.len, f->bytes - i->file_written);
        enum status st = STATUS_OK;
        stream_name(i->import, f->name, name);
        if (i->fd < 0) st = file_begin(i, name, error);
        for (size_t done = 0; !st && done < n;) {
            ssize_t w = write(i->fd, bytes.data + done, n - done);
            if (w < 0 && errno == EINTR) continue;
            if (w <= 0) st = rocks_file_error(error, "write", name);
            else done += (size_t)w;
        }
        if (st) return st;
        i->file_written += n;
        if ((st = file_push(i, name, error))) return st;
        bytes = slice_of(bytes.data + n, bytes.len - n);
        if (i->file_written < f->bytes) return STATUS_OK;
        if ((st = file_end(i, name, error))) return st;
    }
    return bytes.len ? head_damaged(error) : STATUS_OK;
}

enum status rocks_import_write(struct store_import *base, struct slice bytes, char error[256]) {
    struct rocks_import *i = container_of(base, struct rocks_import, base);
    if (i->head) {
        enum status st = import_head(i, bytes, &bytes, error);
        if (st || i->head) return st;
    }
    return import_files(i, bytes, error);
}

enum status rocks_import_finish(struct store_import *base, struct store **look, char error[256]) {
    struct rocks_import *i = container_of(base, struct rocks_import, base);
    if (i->head || i->current < i->files.count) return head_damaged(error);
    enum status st = rocks_dir_sync(i->import, error);
    if (!st) st = rocks_dir_format(i->import, error);
    if (!st) st = rocks_dir_sync_parent(i->import, error);
    if (st) return st;
    struct store_config config = {.memtable_bytes = 0, .shared = i->store->shared, .growing = i->store->growing};
    return store_open_rocks(look, i->import, &config, error);
}

enum status rocks_import_find(struct store *base, struct store_import **out, char error[256]) {
    struct rocks_import *i = import_new(rocks_of(base));
    if (!i) return STATUS_MEMORY_LIMIT;
    if (rocks_dir_is_ours(i->import)) return *out = &i->base, STATUS_OK;
    enum status st = rocks_dir_remove(i->import, error);
    import_forget(i);
    return st ? st : STATUS_ABSENT;
}

enum status rocks_import_install(struct store_import *base, char error[256]) {
    struct rocks_import *i = container_of(base, struct rocks_import, base);
    char install[STORE_PATH_BYTES_MAX + 16];
    beside(i->path, "install", install);
    enum status st = rename(i->import, install) ? rocks_file_error(error, "rename to", install) : rocks_dir_sync_parent(install, error);
    if (!st) st = rocks_import_complete(i->path, error);
    import_forget(i);
    return st;
}

enum status rocks_import_complete(const char *path, char error[256]) {
    char install[STORE_PATH_BYTES_MAX + 16];
    beside(path, "install", install);
    if (access(install, F_OK)) return STATUS_OK;
    enum status st = rocks_dir_remove(path, error);
    if (!st) st = rocks_dir_sync_parent(path, error);
    if (!st && rename(install, path)) st = rocks_file_error(error, "rename to", path);
    return st ? st : rocks_dir_sync_parent(path, error);
}

void rocks_import_free(struct store_import *base, bool keep) {
    struct rocks_import *i = container_of(base, struct rocks_import, base);
    char error[256];
    if (!keep) (void)!rocks_dir_remove(i->import, error); /* else when the next one begins, or at the next start */
    import_forget(i);
}
