#include "server/host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/readers.h"

/* Two ways to a file. Asynchronous (the log's writes and syncs): through the core's ring, io_uring alone. Synchronous (open, recovery, segment
 * allocation on a job): plain system calls on whatever thread runs; the ring belongs to the core's. */

enum { ZERO_BYTES = 256 << 10, NAME_BYTES_MAX = 256 };

struct host {
    struct env env; /* first: the engine's pointer is ours */
    struct core *core;
    int dir_fd;
    struct list later; /* without a core */
};
struct env_file {
    int fd;
    bool direct; /* O_DIRECT still */
};

/* What a request carries in its host words. */
struct __attribute__((may_alias)) request {
    struct ring_op op;
    struct host *host;
    uint64_t since_ns;
    uint64_t is_sync;
};
static_assert(sizeof(struct request) <= sizeof(((struct env_io *)0)->host), "lies in the env_io");

/* Likewise, without a core. */
struct __attribute__((may_alias)) later {
    struct list link;
    int64_t result;
    bool is_job;
};
static_assert(sizeof(struct later) <= sizeof(((struct env_io *)0)->host), "lies in the env_io");
static_assert(sizeof(struct later) <= sizeof(((struct env_job *)0)->host), "lies in the env_job");

static struct host *host_of(struct env *env) { return container_of(env, struct host, env); }

/* Relative and without "..": the engine stays in its directory. */
static void check_name(const char *name) {
    check(name[0] != '/');
    check(!strstr(name, ".."));
    check(strlen(name) < NAME_BYTES_MAX);
}

/* ---- time, chance */

static uint64_t host_mono_ns(struct env *env) { return clock_mono_ns(); }
static int64_t host_wall_us(struct env *env) { return clock_wall_us(); }
static uint64_t host_random(struct env *env) {
    uint64_t v;
    random_bytes(&v, sizeof v);
    return v;
}

/* ---- files, synchronous */

static int host_file_open(struct env *env, const char *name, unsigned flags, struct env_file **out) {
    *out = NULL;
    check_name(name);
    int how = O_CLOEXEC | ((flags & ENV_WRITE) ? O_RDWR : O_RDONLY) | ((flags & ENV_CREATE) ? O_CREAT : 0);
    struct env_file *f = mem_new(struct env_file);
    if (!f) return -ENOMEM;
    f->fd = openat(host_of(env)->dir_fd, name, how | ((flags & ENV_DIRECT) ? O_DIRECT : 0), 0600);
    if (f->fd < 0 && errno == EINVAL && (flags & ENV_DIRECT)) { /* some file systems (older tmpfs) have no O_DIRECT; it is speed, not safety */
        f->fd = openat(host_of(env)->dir_fd, name, how, 0600);
        if (f->fd >= 0) log_warn("file without O_DIRECT", "file=%s", name);
    }
    if (f->fd < 0) {
        int err = errno;
        mem_free(f);
        return -err;
    }
    f->direct = flags & ENV_DIRECT;
    *out = f;
    return 0;
}

static void host_file_close(struct env *env, struct env_file *f) {
    if (!f) return;
    close(f->fd);
    mem_free(f);
}

static int64_t host_file_size(struct env *env, struct env_file *f) {
    struct stat st;
    return fstat(f->fd, &st) ? -errno : st.st_size;
}

static int64_t host_file_read(struct env *env, struct env_file *f, void *buf, size_t len, uint64_t offset) {
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(f->fd, (uint8_t *)buf + got, len - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        got += (size_t)n;
    }
    return (int64_t)got;
}

static int64_t host_file_write(struct env *env, struct env_file *f, const void *buf, size_t len, uint64_t offset) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(f->fd, (const uint8_t *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) return -EIO;
        done += (size_t)n;
    }
    return (int64_t)done;
}

static int host_file_sync(struct env *env, struct env_file *f) { return fdatasync(f->fd) ? -errno : 0; }

/* Blocks reserved, then really written: a block that is only reserved costs a journal commit at its first sync (measured: half the speed). */
static int host_file_allocate(struct env *env, struct env_file *f, uint64_t bytes) {
    static const uint8_t zeros[ZERO_BYTES] __attribute__((aligned(4096)));
    if (fallocate(f->fd, 0, 0, (off_t)bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) return -errno;
    for (uint64_t at = 0; at < bytes;) {
        size_t n = (size_t)MIN_OF(bytes - at, (uint64_t)ZERO_BYTES);
        int64_t rc = host_file_write(env, f, zeros, n, at);
        if (rc < 0) return (int)rc;
        at += n;
    }
    return 0;
}

static int host_file_rename(struct env *env, const char *from, const char *to) {
    check_name(from);
    check_name(to);
    int dir = host_of(env)->dir_fd;
    return renameat(dir, from, dir, to) ? -errno : 0;
}

static int host_file_remove(struct env *env, const char *name) {
    check_name(name);
    return unlinkat(host_of(env)->dir_fd, name, 0) ? -errno : 0;
}

/* ---- directories */

static int host_dir_make(struct env *env, const char *name) {
    check_name(name);
    return mkdirat(host_of(env)->dir_fd, name, 0700) && errno != EEXIST ? -errno : 0;
}

static int dir_open(struct env *env, const char *name) {
    check_name(name);
    return openat(host_of(env)->dir_fd, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int host_dir_sync(struct env *env, const char *name) {
    int fd = dir_open(env, name);
    if (fd < 0) return -errno;
    int rc = fsync(fd) ? -errno : 0;
    close(fd);
    return rc;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

struct names {
    char **list;
    size_t count, cap;
};

static int names_add(struct names *ns, const char *name) {
    if (ns->count == ns->cap) {
        size_t cap = ns->cap ? ns->cap * 2 : 32;
        char **list = mem_realloc(ns->list, cap * sizeof *list);
        if (!list) return -ENOMEM;
        ns->list = list, ns->cap = cap;
    }
    return (ns->list[ns->count] = mem_strdup(name)) ? (ns->count++, 0) : -ENOMEM;
}

static int names_read(struct names *ns, DIR *d) {
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) return -errno;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        int rc = names_add(ns, e->d_name);
        if (rc) return rc;
    }
}

static int host_dir_list(struct env *env, const char *name, void (*each)(void *ctx, const char *name), void *ctx) {
    int fd = dir_open(env, name);
    if (fd < 0) return -errno;
    DIR *d = fdopendir(fd);
    if (!d) return close(fd), -ENOMEM;
    struct names ns = {0};
    int rc = names_read(&ns, d);
    closedir(d);
    if (rc == 0 && ns.count) qsort(ns.list, ns.count, sizeof *ns.list, by_text);
    for (size_t i = 0; i < ns.count; i++) {
        if (rc == 0) each(ctx, ns.list[i]);
        mem_free(ns.list[i]);
    }
    mem_free(ns.list);
    return rc;
}

static uint64_t host_disk_free(struct env *env) {
    struct statvfs s;
    return fstatvfs(host_of(env)->dir_fd, &s) ? 0 : (uint64_t)s.f_bavail * s.f_frsize;
}

/* ---- asynchronous */

static void on_done(struct ring_op *op, int32_t result, bool more) {
    struct request *q = (struct request *)(void *)container_of(op, struct request, op);
    struct env_io *io = container_of((void *)q, struct env_io, host);
    check(!more);
    metric_time(&q->host->core->metrics, q->is_sync ? METRIC_LOG_SYNC_NS : METRIC_LOG_WRITE_NS, clock_mono_ns() - q->since_ns);
    io->done(io, result);
}

static struct request *request_begin(struct env *env, struct env_io *io, bool is_sync) {
    struct request *q = (struct request *)(void *)io->host;
    struct host *h = host_of(env);
    check(h->core == core_self);
    *q = (struct request){.op.done = on_done, .host = h, .since_ns = clock_mono_ns(), .is_sync = is_sync};
    return q;
}

/* What the ring writes goes through the page cache, and to the disk by the sync that follows. The kernel ends an asynchronous write with O_DIRECT in a worker of its own ("dio"), and that one, of another
 * group of the scheduler than ours, was seen to wait for up to 170 ms while compactions ran, at whatever priority (docs/LOG.md). Allocation and recovery stay past the page cache. */
static void direct_end(struct env_file *f) {
    if (!f->direct) return;
    f->direct = false;
    int how = fcntl(f->fd, F_GETFL);
    if (how < 0 || fcntl(f->fd, F_SETFL, how & ~O_DIRECT) < 0) log_warn("a log file keeps O_DIRECT", "err=%s", strerror(errno));
}

static void come_later(struct env *env, uintptr_t *host, int64_t result, bool is_job) {
    struct later *l = (struct later *)(void *)host;
    *l = (struct later){.result = result, .is_job = is_job};
    list_push_back(&host_of(env)->later, &l->link);
}

static void host_write_async(struct env *env, struct env_file *f, struct env_io *io, const void *buf, size_t len, uint64_t offset) {
    if (!host_of(env)->core) return come_later(env, io->host, host_file_write(env, f, buf, len, offset), false);
    struct request *q = request_begin(env, io, false);
    direct_end(f);
    ring_write(q->host->core->ring, &q->op, f->fd, buf, len, offset);
    ring_submit(q->host->core->ring); /* the disk works while the engine applies what was committed before */
}

static void host_sync_async(struct env *env, struct env_file *f, struct env_io *io) {
    if (!host_of(env)->core) return come_later(env, io->host, host_file_sync(env, f), false);
    struct request *q = request_begin(env, io, true);
    ring_sync(q->host->core->ring, &q->op, f->fd);
    ring_submit(q->host->core->ring);
}

static void host_offload(struct env *env, struct env_job *job) {
    struct core *core = host_of(env)->core;
    if (core) readers_submit(core->readers, core, job);
    else come_later(env, job->host, 0, true);
}

bool host_turn(struct host *h) {
    struct list due;
    list_init(&due);
    list_splice_back(&due, &h->later);
    bool some = !list_empty(&due);
    for (struct list *at; (at = list_pop_front(&due));) {
        struct later *l = container_of((void *)at, struct later, link);
        if (l->is_job) {
            struct env_job *job = container_of((void *)l, struct env_job, host);
            job->run(job);
            job->done(job);
        } else {
            struct env_io *io = container_of((void *)l, struct env_io, host);
            io->done(io, l->result);
        }
    }
    return some;
}

/* A thread of the lowest priority that has got a turn keeps it until the kernel's next tick (4 ms), also from a loop that was put aside for it a moment before. */
static void host_make_way(struct env *env) { (void)sched_yield(); }

static const struct env_ops host_ops = {
    .mono_ns = host_mono_ns,
    .wall_us = host_wall_us,
    .random = host_random,
    .file_open = host_file_open,
    .file_close = host_file_close,
    .file_size = host_file_size,
    .file_read = host_file_read,
    .file_write = host_file_write,
    .file_sync = host_file_sync,
    .file_allocate = host_file_allocate,
    .file_rename = host_file_rename,
    .file_remove = host_file_remove,
    .dir_make = host_dir_make,
    .dir_sync = host_dir_sync,
    .dir_list = host_dir_list,
    .disk_free = host_disk_free,
    .write_async = host_write_async,
    .sync_async = host_sync_async,
    .offload = host_offload,
    .make_way = host_make_way,
};

struct host *host_new(struct core *core, int dir_fd) {
    struct host *h = mem_new(struct host);
    if (!h) return NULL;
    h->env.ops = &host_ops;
    h->core = core;
    h->dir_fd = dir_fd;
    list_init(&h->later);
    return h;
}
void host_free(struct host *h) { mem_free(h); }
struct env *host_env(struct host *h) { return &h->env; }
