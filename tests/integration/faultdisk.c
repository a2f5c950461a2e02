/* A disk with a volatile cache whose power can be cut. A loop device alone does not do: what O_DIRECT wrote lies in its image at once, synced or not.
 *
 * usage: faultdisk IMAGE MOUNT_POINT SYNC_US   (stays in the foreground)
 * MOUNT_POINT/disk is the device for losetup. Written blocks stay in memory; a flush (fsync) waits SYNC_US and moves them into IMAGE.
 * A line written to MOUNT_POINT/control cuts the power at that instant: "cut SEED KEEP". Of the 4096-byte blocks that were not synced KEEP in 100 reach
 * IMAGE, each by its own chance; their numbers, kept or not, go to IMAGE.unsynced, one a line. From then on syncs fail (EIO), writes are swallowed, and
 * reads see what they would have seen: nothing that happens later changes IMAGE. Start again with the same IMAGE to have the power back. */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 4096 };
static int image_fd;
static const char *image_name;
static uint64_t image_bytes;
static unsigned sync_us;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* what follows */
static bool power_is_off;
static uint8_t **cached; /* by block; NULL: as in the image */
static uint32_t *dirty;  /* the numbers of the cached blocks */
static size_t dirty_count;

static bool is_disk(const char *path) { return strcmp(path, "/disk") == 0; }
static bool is_control(const char *path) { return strcmp(path, "/control") == 0; }

static bool image_write(uint32_t block) { return pwrite(image_fd, cached[block], BLOCK, (off_t)block * BLOCK) == BLOCK; }

static int on_getattr(const char *path, struct stat *st, struct fuse_file_info *fi) {
    memset(st, 0, sizeof *st);
    st->st_nlink = 1;
    st->st_mode = strcmp(path, "/") == 0 ? S_IFDIR | 0700 : S_IFREG | 0600;
    if (is_disk(path)) st->st_size = (off_t)image_bytes;
    return strcmp(path, "/") == 0 || is_disk(path) || is_control(path) ? 0 : -ENOENT;
}
static int on_open(const char *path, struct fuse_file_info *fi) {
    fi->direct_io = 1;
    return is_disk(path) || is_control(path) ? 0 : -ENOENT;
}
static int on_truncate(const char *path, off_t size, struct fuse_file_info *fi) { return is_control(path) ? 0 : -EPERM; }

static int disk_read(const char *path, char *buf, size_t size, off_t offset) {
    if (!is_disk(path) || (uint64_t)offset >= image_bytes) return 0;
    if (size > image_bytes - (uint64_t)offset) size = image_bytes - (uint64_t)offset;
    for (size_t done = 0; done < size;) {
        uint64_t at = (uint64_t)offset + done;
        size_t in = at % BLOCK, n = BLOCK - in < size - done ? BLOCK - in : size - done;
        const uint8_t *block = cached[at / BLOCK];
        if (block) memcpy(buf + done, block + in, n);
        else if (pread(image_fd, buf + done, n, (off_t)at) != (ssize_t)n) return -EIO;
        done += n;
    }
    return (int)size;
}

static uint8_t *block_for_write(uint32_t number, bool whole) {
    if (cached[number]) return cached[number];
    uint8_t *block = malloc(BLOCK);
    if (!block || (!whole && pread(image_fd, block, BLOCK, (off_t)number * BLOCK) != BLOCK)) return free(block), NULL;
    dirty[dirty_count++] = number;
    return cached[number] = block;
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int cut(const char *text) {
    unsigned long seed;
    unsigned keep;
    char name[4096];
    if (power_is_off || sscanf(text, "cut %lu %u", &seed, &keep) != 2) return -EINVAL;
    power_is_off = true;
    snprintf(name, sizeof name, "%s.unsynced", image_name);
    FILE *f = fopen(name, "we");
    if (!f) return -errno;
    for (size_t i = 0; i < dirty_count; i++) {
        fprintf(f, "%u\n", dirty[i]);
        if (next_random(&seed) % 100 < keep && !image_write(dirty[i])) return -EIO;
    }
    return fclose(f) == 0 ? 0 : -EIO;
}

static int disk_write(const char *path, const char *buf, size_t size, off_t offset) {
    if (is_control(path)) {
        char text[128];
        snprintf(text, sizeof text, "%.*s", (int)size, buf);
        int rc = cut(text);
        return rc ? rc : (int)size;
    }
    if ((uint64_t)offset + size > image_bytes) return -ENOSPC;
    for (size_t done = 0; done < size;) {
        uint64_t at = (uint64_t)offset + done;
        size_t in = at % BLOCK, n = BLOCK - in < size - done ? BLOCK - in : size - done;
        uint8_t *block = block_for_write((uint32_t)(at / BLOCK), n == BLOCK);
        if (!block) return -EIO;
        memcpy(block + in, buf + done, n);
        done += n;
    }
    return (int)size;
}

static int disk_sync(void) {
    if (power_is_off) return -EIO;
    for (size_t i = 0; i < dirty_count; i++) {
        if (!image_write(dirty[i])) return -EIO;
        free(cached[dirty[i]]);
        cached[dirty[i]] = NULL;
    }
    dirty_count = 0;
    return 0;
}

static int on_read(const char *path, char *buf, size_t size, off_t offset, struct fuse_file_info *fi) {
    pthread_mutex_lock(&lock);
    int rc = disk_read(path, buf, size, offset);
    pthread_mutex_unlock(&lock);
    return rc;
}
static int on_write(const char *path, const char *buf, size_t size, off_t offset, struct fuse_file_info *fi) {
    pthread_mutex_lock(&lock);
    int rc = disk_write(path, buf, size, offset);
    pthread_mutex_unlock(&lock);
    return rc;
}
static int on_fsync(const char *path, int datasync, struct fuse_file_info *fi) {
    if (!is_disk(path)) return 0;
    if (sync_us) usleep(sync_us); /* the power may go meanwhile */
    pthread_mutex_lock(&lock);
    int rc = disk_sync();
    pthread_mutex_unlock(&lock);
    return rc;
}

static int on_readdir(const char *path, void *out, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi, enum fuse_readdir_flags flags) {
    fill(out, "disk", NULL, 0, 0);
    fill(out, "control", NULL, 0, 0);
    return 0;
}

static const struct fuse_operations operations = {
    .getattr = on_getattr, .open = on_open, .truncate = on_truncate, .read = on_read, .write = on_write, .fsync = on_fsync, .readdir = on_readdir,
};

int main(int argc, char **argv) {
    struct stat st;
    if (argc != 4) return fprintf(stderr, "usage: faultdisk IMAGE MOUNT_POINT SYNC_US\n"), 2;
    image_name = argv[1];
    sync_us = (unsigned)atoi(argv[3]);
    image_fd = open(image_name, O_RDWR | O_CLOEXEC);
    if (image_fd < 0 || fstat(image_fd, &st) != 0) return perror(image_name), 2;
    image_bytes = (uint64_t)st.st_size / BLOCK * BLOCK;
    cached = calloc(image_bytes / BLOCK, sizeof *cached);
    dirty = calloc(image_bytes / BLOCK, sizeof *dirty);
    if (!cached || !dirty) return perror("memory"), 2;
    char *args[] = {argv[0], argv[2], (char *)"-f"};
    return fuse_main(3, args, &operations, NULL);
}
