#include "server/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/hash.h"

static const char magic[8] = "ODB NODE";
enum { AT_FORMAT = 8, AT_NODE = 12, AT_CLUSTER = 20, AT_CORES = 36, AT_PARTITIONS = 40, AT_KEY = 44, AT_END = 76, AT_FOUNDERS = 76, AT_END_RECOVERED = 92 };
static_assert(AT_KEY + TOKEN_KEY_BYTES == AT_END, "layout as drawn in the header");
static_assert(AT_END + 4 == IDENTITY_BYTES, "layout as drawn in the header");
static_assert(AT_FOUNDERS + CLUSTER_ID_BYTES == AT_END_RECOVERED, "layout as drawn in the header");
static_assert(AT_END_RECOVERED + 4 == IDENTITY_BYTES_MAX, "layout as drawn in the header");

enum { FORMAT_SINGLE = 1, FORMAT_CLUSTERED = 2, FORMAT_RECOVERED = 3 };
static_assert((int)FORMAT_RECOVERED == (int)IDENTITY_FORMAT, "the newest");

enum { CORES_MAX = 64, PARTITIONS_MAX = 1024 };

size_t identity_encode(const struct identity *id, uint8_t out[IDENTITY_BYTES_MAX]) {
    size_t end = id->recovered ? AT_END_RECOVERED : AT_END;
    check(id->clustered || !id->recovered);
    memcpy(out, magic, sizeof magic);
    put_le32(out + AT_FORMAT, id->recovered ? FORMAT_RECOVERED : id->clustered ? FORMAT_CLUSTERED : FORMAT_SINGLE);
    put_le64(out + AT_NODE, id->node_id);
    memcpy(out + AT_CLUSTER, id->cluster_id, CLUSTER_ID_BYTES);
    put_le32(out + AT_CORES, id->cores);
    put_le32(out + AT_PARTITIONS, id->partitions);
    memcpy(out + AT_KEY, id->token_key, TOKEN_KEY_BYTES);
    if (id->recovered) memcpy(out + AT_FOUNDERS, id->founders_id, CLUSTER_ID_BYTES);
    put_le32(out + end, crc32c(0, out, end));
    return end + 4;
}

enum status identity_decode(struct identity *id, struct slice bytes) {
    /* Magic and format before length and checksum: a later format may differ in both, and should be told from damage. */
    if (bytes.len < AT_NODE || memcmp(bytes.data, magic, sizeof magic) != 0) return STATUS_CHECKSUM_MISMATCH;
    uint32_t format = get_le32(bytes.data + AT_FORMAT);
    if (format < FORMAT_SINGLE || format > FORMAT_RECOVERED) return STATUS_FORMAT_UNKNOWN;
    size_t end = format == FORMAT_RECOVERED ? AT_END_RECOVERED : AT_END;
    if (bytes.len != end + 4 || get_le32(bytes.data + end) != crc32c(0, bytes.data, end)) return STATUS_CHECKSUM_MISMATCH;
    memset(id, 0, sizeof *id); /* padding too: identities are compared as bytes */
    id->clustered = format != FORMAT_SINGLE;
    id->recovered = format == FORMAT_RECOVERED;
    if (id->recovered) memcpy(id->founders_id, bytes.data + AT_FOUNDERS, CLUSTER_ID_BYTES);
    id->node_id = get_le64(bytes.data + AT_NODE);
    memcpy(id->cluster_id, bytes.data + AT_CLUSTER, CLUSTER_ID_BYTES);
    id->cores = get_le32(bytes.data + AT_CORES);
    id->partitions = get_le32(bytes.data + AT_PARTITIONS);
    memcpy(id->token_key, bytes.data + AT_KEY, TOKEN_KEY_BYTES);
    bool sane = id->cores >= 1 && id->cores <= CORES_MAX && id->partitions >= id->cores && id->partitions <= PARTITIONS_MAX;
    return sane ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}

/* ---- the directory and its lock */

enum status data_dir_open(const char *path, int *dir_fd, int *lock_fd, char error[512]) {
    *dir_fd = *lock_fd = -1;
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return snprintf(error, 512, "data directory %s cannot be made: %s", path, strerror(errno)), STATUS_IO_FAILED;
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return snprintf(error, 512, "data directory %s cannot be opened: %s", path, strerror(errno)), STATUS_IO_FAILED;
    int lock = openat(dir, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0) {
        snprintf(error, 512, "data directory %s is not writable: %s", path, strerror(errno));
        return close(dir), STATUS_IO_FAILED;
    }
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) snprintf(error, 512, "data directory %s is in use by another orderd (%s/LOCK is held)", path, path);
        else snprintf(error, 512, "%s/LOCK cannot be locked: %s", path, strerror(errno));
        return close(lock), close(dir), STATUS_IO_FAILED;
    }
    *dir_fd = dir, *lock_fd = lock;
    return STATUS_OK;
}

/* ---- NODE */

static int write_all(int fd, const uint8_t *p, size_t n) {
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return done < 0 ? -errno : -EIO;
        p += done, n -= (size_t)done;
    }
    return 0;
}

/* Whole or not at all, also through a power cut: temporary file, sync, rename, sync of the directory. */
int identity_replace(const struct identity *id, int dir_fd) {
    uint8_t bytes[IDENTITY_BYTES_MAX];
    size_t n = identity_encode(id, bytes);
    int fd = openat(dir_fd, "NODE.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    int rc = write_all(fd, bytes, n);
    if (rc == 0 && fsync(fd) != 0) rc = -errno;
    if (close(fd) != 0 && rc == 0) rc = -errno;
    if (rc == 0 && renameat(dir_fd, "NODE.tmp", dir_fd, "NODE") != 0) rc = -errno;
    if (rc == 0 && fsync(dir_fd) != 0) rc = -errno;
    return rc;
}

static enum status node_file_make(struct identity *id, int dir_fd, const char *path, const struct identity_wish *wish, char error[512]) {
    struct stat st;
    if (fstatat(dir_fd, "core-0", &st, 0) == 0)
        return snprintf(error, 512, "%s holds logs but no NODE file: this is no data directory of a server that ever started, or NODE was lost; refusing to guess", path),
               STATUS_CHECKSUM_MISMATCH;
    memset(id, 0, sizeof *id);
    id->node_id = 1, id->cores = wish->cores ? wish->cores : wish->cores_by_default;
    if (!wish->cores && wish->partitions && wish->partitions < id->cores) id->cores = wish->partitions;
    id->partitions = wish->partitions ? wish->partitions : wish->partitions_by_default ? wish->partitions_by_default : id->cores * 2;
    if (id->partitions < id->cores)
        return snprintf(error, 512, "--partitions %u is less than --cores %u: a core without a partition has nothing to do", id->partitions, id->cores), STATUS_FIELD_INVALID;
    if (wish->cluster) {
        id->clustered = true, id->node_id = wish->cluster->node_id;
        memcpy(id->cluster_id, wish->cluster->cluster_id, sizeof id->cluster_id);
        memcpy(id->token_key, wish->cluster->token_key, sizeof id->token_key);
    } else {
        random_bytes(id->cluster_id, sizeof id->cluster_id);
        random_bytes(id->token_key, sizeof id->token_key);
    }
    int rc = identity_replace(id, dir_fd);
    if (rc) return snprintf(error, 512, "%s/NODE cannot be written: %s", path, strerror(-rc)), STATUS_IO_FAILED;
    return STATUS_OK;
}

static enum status refuse_other(const char *path, const char *what, uint32_t there, uint32_t asked, char error[512]) {
    snprintf(error, 512, "%s was made with %s %u and that cannot be changed: start with %s %u (or leave it out), not %s %u", path, what, there, what, there, what, asked);
    return STATUS_FIELD_INVALID;
}

/* A replica that came back as somebody else would vote twice, or lead alone what others lead too. */
static enum status refuse_membership(const struct identity *id, const struct identity_wish *wish, const char *path, char error[512]) {
    const struct cluster_identity *asked = wish->cluster;
    const uint8_t *known_as = id->recovered && !wish->told ? id->founders_id : id->cluster_id;
    unsigned long long there = id->node_id;
    if (id->clustered && !asked) snprintf(error, 512, "%s is node %llu of a cluster: start it with the --node-id, --peers and --cluster-key-file that it was made with", path, there);
    else if (!id->clustered && asked) snprintf(error, 512, "%s was made by a single node: its orders are on no other, so it can't become one of a cluster by --peers", path);
    else if (asked && asked->node_id != id->node_id) snprintf(error, 512, "%s is node %llu's, not that of --node-id %llu", path, there, (unsigned long long)asked->node_id);
    else if (asked && memcmp(asked->cluster_id, known_as, sizeof id->cluster_id) != 0 && wish->told && id->recovered)
        snprintf(error, 512, "%s went on alone (orderctl recover), and the nodes of --join are not of its cluster any more: name none of those", path);
    else if (asked && memcmp(asked->cluster_id, known_as, sizeof id->cluster_id) != 0 && wish->told)
        snprintf(error, 512, "%s is not of the cluster of the nodes of --join, or of what it was before one of them went on alone (orderctl recover): what it holds does not count there, and it may join with a directory that is empty, under another --node-id", path);
    else if (asked && memcmp(asked->cluster_id, known_as, sizeof id->cluster_id) != 0)
        snprintf(error, 512, "%s belongs to another cluster: the content of --cluster-key-file, or the node ids in --peers, are not those that it was made with", path);
    else return STATUS_OK;
    return STATUS_FIELD_INVALID;
}

enum status identity_peek(struct identity *id, int dir_fd) {
    uint8_t bytes[IDENTITY_BYTES_MAX + 1];
    int fd = openat(dir_fd, "NODE", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return STATUS_ABSENT;
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    close(fd);
    return n >= 0 && identity_decode(id, slice_of(bytes, (size_t)n)) == STATUS_OK ? STATUS_OK : STATUS_ABSENT;
}

enum status identity_open(struct identity *id, int dir_fd, const char *path, const struct identity_wish *wish, char error[512]) {
    uint8_t bytes[IDENTITY_BYTES_MAX + 1];
    int fd = openat(dir_fd, "NODE", O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return node_file_make(id, dir_fd, path, wish, error);
    if (fd < 0) return snprintf(error, 512, "%s/NODE cannot be opened: %s", path, strerror(errno)), STATUS_IO_FAILED;
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    int err = errno;
    close(fd);
    if (n < 0) return snprintf(error, 512, "%s/NODE cannot be read: %s", path, strerror(err)), STATUS_IO_FAILED;
    enum status st = identity_decode(id, slice_of(bytes, (size_t)n));
    if (st == STATUS_FORMAT_UNKNOWN)
        return snprintf(error, 512, "%s/NODE has format %u; this program knows format %u: it was written by a newer orderd", path, get_le32(bytes + AT_FORMAT), IDENTITY_FORMAT), st;
    if (st) return snprintf(error, 512, "%s/NODE is damaged: its checksum or its content is wrong (%zd bytes)", path, n), st;
    if (wish->cores && wish->cores != id->cores) return refuse_other(path, "--cores", id->cores, wish->cores, error);
    if (wish->partitions && wish->partitions != id->partitions) return refuse_other(path, "--partitions", id->partitions, wish->partitions, error);
    return refuse_membership(id, wish, path, error);
}
