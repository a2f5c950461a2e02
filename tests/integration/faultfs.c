/* A pass-through file system with switches, for faults that a real disk shows too seldom. LD_PRELOAD does not reach io_uring; FUSE does.
 *
 * usage: faultfs LOWER_DIR MOUNT_POINT   (stays in the foreground)
 * Switches are lines in LOWER_DIR/.faults, read at each operation: KIND SUBSTRING [NUMBER]
 *   sync log/ 5       fdatasync of files whose path holds "log/" fails with errno 5 (EIO)
 *   write log/ 5      writes fail
 *   read part- 5      reads fail
 *   slow log/ 300     syncs take 300 ms more
 *   full part- 28     writes and allocations fail with ENOSPC */
#define FUSE_USE_VERSION 35
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *lower_dir;

static const char *lower(const char *path, char out[4096]) {
    snprintf(out, 4096, "%s%s", lower_dir, path);
    return out;
}

/* The number of the switch that is on for this path; 0: none. */
static int fault(const char *kind, const char *path) {
    char name[4096], line[512], k[32], part[256];
    snprintf(name, sizeof name, "%s/.faults", lower_dir);
    FILE *f = fopen(name, "re");
    if (!f) return 0;
    int found = 0, number;
    while (!found && fgets(line, sizeof line, f)) {
        number = EIO;
        if (sscanf(line, "%31s %255s %d", k, part, &number) >= 2 && strcmp(k, kind) == 0 && strstr(path, part)) found = number;
    }
    fclose(f);
    return found;
}

static int result(long r) { return r < 0 ? -errno : (int)r; }

static int on_getattr(const char *path, struct stat *st, struct fuse_file_info *fi) { char b[4096]; return result(lstat(lower(path, b), st)); }
static int on_mkdir(const char *path, mode_t mode) { char b[4096]; return result(mkdir(lower(path, b), mode)); }
static int on_unlink(const char *path) { char b[4096]; return result(unlink(lower(path, b))); }
static int on_rmdir(const char *path) { char b[4096]; return result(rmdir(lower(path, b))); }
static int on_rename(const char *from, const char *to, unsigned flags) { char a[4096], b[4096]; return result(rename(lower(from, a), lower(to, b))); }
static int on_link(const char *from, const char *to) { char a[4096], b[4096]; return result(link(lower(from, a), lower(to, b))); }
static int on_chmod(const char *path, mode_t mode, struct fuse_file_info *fi) { char b[4096]; return result(chmod(lower(path, b), mode)); }
static int on_truncate(const char *path, off_t size, struct fuse_file_info *fi) { char b[4096]; return result(truncate(lower(path, b), size)); }
static int on_utimens(const char *path, const struct timespec tv[2], struct fuse_file_info *fi) { char b[4096]; return result(utimensat(AT_FDCWD, lower(path, b), tv, 0)); }
static int on_statfs(const char *path, struct statvfs *st) { char b[4096]; return result(statvfs(lower(path, b), st)); }
static int on_flock(const char *path, struct fuse_file_info *fi, int op) { return result(flock((int)fi->fh, op)); }

static int on_readdir(const char *path, void *out, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi, enum fuse_readdir_flags flags) {
    char b[4096];
    DIR *d = opendir(lower(path, b));
    if (!d) return -errno;
    for (struct dirent *e; (e = readdir(d));)
        if (fill(out, e->d_name, NULL, 0, 0)) break;
    closedir(d);
    return 0;
}
static int on_open(const char *path, struct fuse_file_info *fi) {
    char b[4096];
    int fd = open(lower(path, b), fi->flags & ~O_DIRECT & ~O_APPEND);
    if (fd < 0) return -errno;
    fi->fh = (uint64_t)fd;
    fi->direct_io = strstr(path, "log/") != NULL; /* so that each write of the log is one write here */
    return 0;
}
static int on_create(const char *path, mode_t mode, struct fuse_file_info *fi) {
    char b[4096];
    int fd = open(lower(path, b), (fi->flags & ~O_DIRECT & ~O_APPEND) | O_CREAT, mode);
    if (fd < 0) return -errno;
    fi->fh = (uint64_t)fd;
    fi->direct_io = strstr(path, "log/") != NULL;
    return 0;
}
static int on_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *fi) {
    int e = fault("read", path);
    return e ? -e : result(pread((int)fi->fh, buf, size, offset));
}
static int on_write(const char *path, const char *buf, size_t size, off_t offset, struct fuse_file_info *fi) {
    int e = fault("write", path);
    if (!e) e = fault("full", path);
    return e ? -e : result(pwrite((int)fi->fh, buf, size, offset));
}
static int on_fsync(const char *path, int datasync, struct fuse_file_info *fi) {
    int ms = fault("slow", path), e = fault("sync", path);
    if (ms) usleep((unsigned)ms * 1000);
    return e ? -e : result(datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh));
}
static int on_fsyncdir(const char *path, int datasync, struct fuse_file_info *fi) {
    char b[4096];
    int fd = open(lower(path, b), O_RDONLY | O_DIRECTORY);
    if (fd < 0) return -errno;
    int r = result(fsync(fd));
    close(fd);
    return r;
}
static int on_fallocate(const char *path, int mode, off_t offset, off_t len, struct fuse_file_info *fi) {
    int e = fault("full", path);
    return e ? -e : result(fallocate((int)fi->fh, mode, offset, len));
}
static int on_release(const char *path, struct fuse_file_info *fi) { return result(close((int)fi->fh)); }

static void *on_init(struct fuse_conn_info *conn, struct fuse_config *cfg) {
    cfg->attr_timeout = cfg->entry_timeout = cfg->negative_timeout = 0;
    cfg->hard_remove = 1;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = on_init, .getattr = on_getattr, .mkdir = on_mkdir, .unlink = on_unlink, .rmdir = on_rmdir, .rename = on_rename, .link = on_link, .chmod = on_chmod,
    .truncate = on_truncate, .utimens = on_utimens, .statfs = on_statfs, .flock = on_flock, .readdir = on_readdir, .open = on_open, .create = on_create, .read = on_read,
    .write = on_write, .fsync = on_fsync, .fsyncdir = on_fsyncdir, .fallocate = on_fallocate, .release = on_release,
};

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: faultfs LOWER_DIR MOUNT_POINT\n");
        return 2;
    }
    lower_dir = realpath(argv[1], NULL);
    if (!lower_dir) {
        perror(argv[1]);
        return 2;
    }
    char *args[] = {argv[0], argv[2], (char *)"-f", (char *)"-o", (char *)"default_permissions"};
    return fuse_main(5, args, &operations, NULL);
}
