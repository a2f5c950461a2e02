/* The directory of a store, and the files in it that are not RocksDB's: FORMAT, a run on its way to RocksDB, a probe.
 *
 * FORMAT, 16 bytes: "ODBSTORE" version(4 be) crc32c(4 be) of the first 12. It is durable before RocksDB is asked to create anything, so a directory without
 * it that holds files is not ours. Versions: 1; 2, whose rows may have forms that programs of version 1 take for damage (cards of list rows, places in rows of counts): they refuse the directory instead. A directory
 * of version 1 is one of version 2 that has none of them yet, and becomes one when it is opened; 3, where the growing rows of a new directory stand in a family of their own: RocksDB would not open it without. An older directory
 * has one family for good. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "proto/base/hash.h"

enum {
    FORMAT_BYTES = 16,
    FORMAT_VERSION = 3,
    FORMAT_VERSION_OLDEST = 1,
    RUN_FILES_EVER = 3, /* programs of version 2 wrote up to three */
    PROBE_BYTES = 8 << 20,
    PROBE_WRITE_BYTES = 64 << 10,
    WARM_STEP_BYTES = 128 << 10, /* the least readahead window that disks come with */
    WARM_REST_NS = 500000,       /* behind each: 250 MB/s at most */
};

enum status rocks_file_error(char error[256], const char *what, const char *name) {
    snprintf(error, 256, "%s %.150s: %s", what, name, strerror(errno));
    return errno == ENOSPC || errno == EDQUOT ? STATUS_DISK_FULL : STATUS_IO_FAILED;
}

enum status rocks_dir_sync(const char *path, char error[256]) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum status st = fd < 0 || fsync(fd) < 0 ? rocks_file_error(error, "sync of directory", path) : STATUS_OK;
    if (fd >= 0) close(fd);
    return st;
}

enum status rocks_dir_sync_parent(const char *path, char error[256]) {
    char parent[STORE_PATH_BYTES_MAX + 32];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash == parent) slash[1] = 0;
    else if (slash) *slash = 0;
    return rocks_dir_sync(slash ? parent : ".", error);
}

/* Temporary name, sync, rename, sync of the directory: FORMAT is there whole or not at all. */
static enum status format_write(const char *path, const char *name, char error[256]) {
    uint8_t bytes[FORMAT_BYTES] = "ODBSTORE";
    char temporary[STORE_PATH_BYTES_MAX + 32];
    put_be32(bytes + 8, FORMAT_VERSION);
    put_be32(bytes + 12, crc32c(0, bytes, 12));
    snprintf(temporary, sizeof temporary, "%s.tmp", name);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return rocks_file_error(error, "create", temporary);
    errno = ENOSPC; /* what a short write means */
    bool written = write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes && fsync(fd) == 0;
    enum status st = written ? STATUS_OK : rocks_file_error(error, "write", temporary);
    close(fd);
    if (!st && rename(temporary, name) < 0) st = rocks_file_error(error, "rename to", name);
    return st ? st : rocks_dir_sync(path, error);
}

static enum status format_read(const char *name, uint32_t *version, char error[256]) {
    uint8_t bytes[FORMAT_BYTES + 1];
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? STATUS_ABSENT : rocks_file_error(error, "open", name);
    ssize_t n = read(fd, bytes, sizeof bytes);
    enum status st = n < 0 ? rocks_file_error(error, "read", name) : STATUS_OK;
    close(fd);
    if (st) return st;
    if (n != FORMAT_BYTES || get_be32(bytes + 12) != crc32c(0, bytes, 12)) {
        snprintf(error, 256, "%.150s: damaged (%zd bytes, checksum wrong)", name, n);
        return STATUS_CHECKSUM_MISMATCH;
    }
    *version = get_be32(bytes + 8);
    if (memcmp(bytes, "ODBSTORE", 8) != 0 || *version < FORMAT_VERSION_OLDEST || *version > FORMAT_VERSION) {
        snprintf(error, 256, "%.150s: format %.8s version %u, this program knows ODBSTORE versions up to %u", name, (const char *)bytes, *version, FORMAT_VERSION);
        return STATUS_FORMAT_UNKNOWN;
    }
    return STATUS_OK;
}

enum status rocks_dir_format(const char *path, char error[256]) {
    char name[STORE_PATH_BYTES_MAX + 48];
    snprintf(name, sizeof name, "%s/FORMAT", path);
    return format_write(path, name, error);
}
bool rocks_dir_is_ours(const char *path) {
    char name[STORE_PATH_BYTES_MAX + 48], error[256];
    uint32_t version;
    snprintf(name, sizeof name, "%s/FORMAT", path);
    return format_read(name, &version, error) == STATUS_OK;
}

/* What else is in the directory: RocksDB's pointer to its newest state, and tables. */
enum status rocks_dir_holds(const char *path, bool *current, bool *tables, char error[256]) {
    *current = *tables = false;
    DIR *dir = opendir(path);
    if (!dir) return rocks_file_error(error, "open directory", path);
    for (const struct dirent *d; (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        *current |= strcmp(d->d_name, "CURRENT") == 0;
        *tables |= n > 4 && strcmp(d->d_name + n - 4, ".sst") == 0;
    }
    closedir(dir);
    return STATUS_OK;
}

/* The directory is ours, of a format that we know, and either empty or whole. */
enum status rocks_dir_prepare(const char *path, char error[256]) {
    char name[STORE_PATH_BYTES_MAX + 16];
    if (strlen(path) > STORE_PATH_BYTES_MAX) return errno = ENAMETOOLONG, rocks_file_error(error, "open", path);
    enum status st = rocks_import_complete(path, error);
    if (st) return st;
    if (mkdir(path, 0700) == 0) {
        if ((st = rocks_dir_sync_parent(path, error))) return st;
    } else if (errno != EEXIST) {
        return rocks_file_error(error, "create directory", path);
    }
    bool current, tables;
    st = rocks_dir_holds(path, &current, &tables, error);
    if (st) return st;
    snprintf(name, sizeof name, "%s/FORMAT", path);
    uint32_t version = 0;
    st = format_read(name, &version, error);
    if (st == STATUS_ABSENT && (current || tables)) {
        snprintf(error, 256, "%.150s: RocksDB files without a FORMAT file: not a store of OrderDB", path);
        return STATUS_FORMAT_UNKNOWN;
    }
    if (st == STATUS_OK && tables && !current) { /* RocksDB would begin anew beside them, and rows that the log no longer holds be gone */
        snprintf(error, 256, "%.150s: tables, but CURRENT is missing: restore the directory or remove all of it", path);
        return STATUS_CHECKSUM_MISMATCH;
    }
    bool ours = st == STATUS_OK && version == FORMAT_VERSION;
    return ours || (st && st != STATUS_ABSENT) ? st : format_write(path, name, error); /* before any row of that version is written */
}

/* ---- runs */

void rocks_dir_run_name(const char *path, unsigned n, char out[STORE_PATH_BYTES_MAX + 32]) { snprintf(out, STORE_PATH_BYTES_MAX + 32, "%s/RUN-%u", path, n); }

/* SstFileWriter drops what it wrote from the page cache, and applies would then wait for the disk at the first look at each block. Linux reads no more for one such advice than the
 * disk's readahead window, whatever its length: hence many. */
void rocks_dir_warm(const char *name) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    off_t bytes = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
    if (fd < 0) return;
    for (off_t at = 0; at < bytes; at += WARM_STEP_BYTES) {
        (void)posix_fadvise(fd, at, WARM_STEP_BYTES, POSIX_FADV_WILLNEED);
        (void)nanosleep(&(struct timespec){.tv_nsec = WARM_REST_NS}, NULL); /* all at once they would stand before the log's next write for milliseconds */
    }
    close(fd);
}

/* What a crash or a failed write left behind: the log has its rows. */
void rocks_dir_remove_runs(const char *path) {
    char name[STORE_PATH_BYTES_MAX + 32];
    for (unsigned n = 0; n < RUN_FILES_EVER; n++) {
        rocks_dir_run_name(path, n, name);
        unlink(name);
    }
}

enum status rocks_dir_remove(const char *path, char error[256]) {
    char name[STORE_PATH_BYTES_MAX + 32 + 256 + 2];
    DIR *dir = opendir(path);
    if (!dir) return errno == ENOENT ? STATUS_OK : rocks_file_error(error, "open directory", path);
    for (const struct dirent *d; (d = readdir(dir));) {
        snprintf(name, sizeof name, "%s/%s", path, d->d_name);
        unlink(name); /* what can't be removed keeps the directory */
    }
    closedir(dir);
    return rmdir(path) == 0 || errno == ENOENT ? STATUS_OK : rocks_file_error(error, "remove directory", path);
}

/* ---- is there room again? */

/* Opening needs a new MANIFEST (preallocated by 4 MiB), CURRENT, OPTIONS. */
enum status rocks_probe(struct store *base, char error[256]) {
    static const uint8_t zeros[PROBE_WRITE_BYTES];
    char name[STORE_PATH_BYTES_MAX + 16];
    error[0] = 0;
    snprintf(name, sizeof name, "%s/PROBE", rocks_of(base)->path);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return rocks_file_error(error, "create", name);
    bool room = fallocate(fd, 0, 0, PROBE_BYTES) == 0 || errno == EOPNOTSUPP || errno == ENOSYS;
    if (room) errno = ENOSPC; /* what a short write means */
    bool written = room && write(fd, zeros, sizeof zeros) == (ssize_t)sizeof zeros && fsync(fd) == 0;
    enum status st = written ? STATUS_OK : rocks_file_error(error, "write", name);
    close(fd);
    unlink(name);
    return st;
}
