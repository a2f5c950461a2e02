/* Once a second: which tables do the watched directories hold? New ones get a second name in the trash, their inode's number, which nothing else can have while it is there. Those that were held the last time and are
 * not any more are `dead`, and so are at first all that an earlier process left: their names are counted (a checkpoint may hold one), and at one name left they are cut. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "engine/trash.h"
#include "proto/base/list.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum {
    PIECE_BYTES = 2 << 20,
    SHORT_REST_US = 1000, /* a file that can't be removed is tried again, and not without end at once */
    REST_US = 20000, /* 100 MB/s: what a full load's merges give up */
    LOOK_US = 1000000,
    CALM_BYTES = 256 << 20, /* with more waiting, rests are shorter */
    KEEP_FREE_BYTES = 1 << 30,
    KEEP_FREE_PERCENT = 10,
    TRASH_NICE = 10,
    PATH_BYTES = 4096,
};

/* Sorted, each once. */
struct inodes {
    uint64_t *at;
    size_t count, cap;
};
struct watched {
    struct list link;
    char *path;
};
struct trash {
    struct trash_config config;
    char *dir;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* of all below until the line */
    pthread_cond_t stopping;
    bool stop;
    struct list watched;
    /* the thread's own */
    struct inodes held, dead; /* held: by watched directories, at the last look */
    bool links_fail;          /* and it was told */
    bool short_of_space;
    _Atomic uint64_t bytes;
};

/* ---- sets of inodes */

static int inode_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
static bool inodes_have(const struct inodes *s, uint64_t inode) { return s->count && bsearch(&inode, s->at, s->count, sizeof inode, inode_compare); }
/* Unsorted, until inodes_sort. false: no memory. */
static bool inodes_add(struct inodes *s, uint64_t inode) {
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        uint64_t *more = mem_realloc(s->at, cap * sizeof *more);
        if (!more) return false;
        s->at = more, s->cap = cap;
    }
    return s->at[s->count++] = inode, true;
}
static void inodes_sort(struct inodes *s) {
    if (!s->count) return;
    qsort(s->at, s->count, sizeof *s->at, inode_compare);
    size_t kept = 1;
    for (size_t i = 1; i < s->count; i++)
        if (s->at[i] != s->at[kept - 1]) s->at[kept++] = s->at[i];
    s->count = kept;
}

/* ---- names */

static void name_of(const struct trash *t, uint64_t inode, char out[PATH_BYTES]) { snprintf(out, PATH_BYTES, "%s/%llu", t->dir, (unsigned long long)inode); }

/* Its second name, if it has none yet. false: it gets none. */
static bool second_name(struct trash *t, const char *path, const char *file, uint64_t inode) {
    char from[PATH_BYTES], to[PATH_BYTES];
    if (snprintf(from, sizeof from, "%s/%s", path, file) >= (int)sizeof from) return false;
    name_of(t, inode, to);
    if (link(from, to) == 0 || errno == EEXIST) return true;
    if (errno == ENOENT) return false; /* gone meanwhile */
    if (!t->links_fail) log_warn("tables get no second name, and are removed whole", "path=%s err=%s", to, strerror(errno));
    return t->links_fail = true, false;
}

/* What the directory holds, into `now`. What could not be noted is noted by the next look, or by the next process: it has two names, and waits. */
static void look_at(struct trash *t, const char *path, struct inodes *now) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* not opendir: it does not tell TSan that the number is a file's now, which was a socket's that io_uring has closed */
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir && fd >= 0) close(fd);
    if (!dir) return;
    for (const struct dirent *d; (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        if (n <= 4 || strcmp(d->d_name + n - 4, ".sst") != 0) continue;
        if (inodes_have(&t->held, d->d_ino) || second_name(t, path, d->d_name, d->d_ino)) (void)inodes_add(now, d->d_ino);
    }
    closedir(dir);
}

static void look(struct trash *t) {
    struct inodes now = {0};
    pthread_mutex_lock(&t->lock);
    for (const struct list *l = t->watched.next; l != &t->watched; l = l->next) look_at(t, list_entry(l, struct watched, link)->path, &now);
    pthread_mutex_unlock(&t->lock);
    inodes_sort(&now);
    for (size_t i = 0; i < t->held.count; i++)
        if (!inodes_have(&now, t->held.at[i])) (void)inodes_add(&t->dead, t->held.at[i]); /* one that only was not seen has two names, and waits */
    inodes_sort(&t->dead);
    mem_free(t->held.at);
    t->held = now;
}

/* ---- what is dead */

/* Leaves the dead of more than one name for later, drops those that are alive again or gone, and counts what the others hold. *first: the first of these. */
static bool count_dead(struct trash *t, uint64_t *first) {
    uint64_t bytes = 0;
    size_t kept = 0;
    bool any = false;
    for (size_t i = 0; i < t->dead.count; i++) {
        char name[PATH_BYTES];
        struct stat st;
        uint64_t inode = t->dead.at[i];
        name_of(t, inode, name);
        if (inodes_have(&t->held, inode) || stat(name, &st) < 0) continue;
        t->dead.at[kept++] = inode;
        if (st.st_nlink != 1) continue;
        bytes += (uint64_t)st.st_size;
        if (!any) *first = inode;
        any = true;
    }
    t->dead.count = kept;
    t->bytes = bytes;
    return any;
}

static bool space_is_short(const struct trash *t) {
    struct statvfs v;
    if (statvfs(t->dir, &v) < 0) return true;
    uint64_t free = (uint64_t)v.f_bavail * v.f_frsize, total = (uint64_t)v.f_blocks * v.f_frsize;
    return free < MAX_OF(t->config.keep_free, total / 100 * t->config.keep_free_percent) || free / 4 < t->bytes;
}

/* A piece of it, or all. */
static void cut(struct trash *t, uint64_t inode) {
    char name[PATH_BYTES];
    struct stat st;
    name_of(t, inode, name);
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    bool more = fd >= 0 && fstat(fd, &st) == 0 && st.st_nlink == 1 && (uint64_t)st.st_size > t->config.piece_bytes && !t->short_of_space;
    if (more) {
        uint64_t rest = ((uint64_t)st.st_size - 1) / t->config.piece_bytes * t->config.piece_bytes;
        more = ftruncate(fd, (off_t)rest) == 0 && fsync(fd) == 0; /* the journal commits, so that the next commit has but one piece as well */
        t->bytes -= MIN_OF((uint64_t)st.st_size - rest, t->bytes);
    }
    if (fd >= 0) close(fd);
    if (!more) unlink(name);
}

/* ---- the thread */

static uint64_t now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* true: go on. */
static bool rest(struct trash *t, uint64_t us) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + us * 1000;
    until.tv_sec += (time_t)(ns / 1000000000), until.tv_nsec = (long)(ns % 1000000000);
    pthread_mutex_lock(&t->lock);
    while (!t->stop && pthread_cond_timedwait(&t->stopping, &t->lock, &until) == 0) {}
    bool on = !t->stop;
    pthread_mutex_unlock(&t->lock);
    return on;
}
static uint64_t rest_us(const struct trash *t) {
    if (t->short_of_space) return SHORT_REST_US;
    return t->bytes <= CALM_BYTES ? t->config.rest_us : t->config.rest_us * (uint64_t)CALM_BYTES / t->bytes;
}

static void *trash_main(void *ctx) {
    struct trash *t = ctx;
    (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), TRASH_NICE); /* Linux: of this thread alone */
    uint64_t looked = 0, inode;
    bool on = true;
    while (on) {
        if (!looked || now_us() - looked >= t->config.look_us) look(t), looked = now_us();
        bool any = count_dead(t, &inode);
        t->short_of_space = any && space_is_short(t);
        if (any) cut(t, inode);
        on = rest(t, any ? rest_us(t) : t->config.look_us);
    }
    return NULL;
}

/* ---- the rest of the world's */

/* An inode's number as the name of another: the directory is a copy. Without hard links (cp -r) that is a file of its own, which nobody needs; with them (rsync -H) a name too many, which would keep its table from being cut. */
static void remove_copy(struct trash *t, uint64_t inode) {
    char name[PATH_BYTES];
    name_of(t, inode, name);
    unlink(name);
}

/* What is there before anything is watched: left by an earlier process. */
static enum status adopt(struct trash *t, char error[256]) {
    DIR *dir = opendir(t->dir);
    if (!dir) return rocks_file_error(error, "open directory", t->dir);
    bool room = true;
    for (const struct dirent *d; room && (d = readdir(dir));) {
        char *end;
        uint64_t inode = strtoull(d->d_name, &end, 10);
        if (*end || !inode) continue; /* nothing else is ours */
        if (inode == d->d_ino) room = inodes_add(&t->dead, inode);
        else remove_copy(t, inode);
    }
    closedir(dir);
    inodes_sort(&t->dead);
    return room ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

static enum status make(struct trash *t, char error[256]) {
    if (mkdir(t->dir, 0700) < 0 && errno != EEXIST) return rocks_file_error(error, "create directory", t->dir);
    enum status st = adopt(t, error);
    if (st) return st;
    t->started = pthread_create(&t->thread, NULL, trash_main, t) == 0;
    return t->started ? STATUS_OK : (snprintf(error, 256, "no thread for %.150s", t->dir), STATUS_MEMORY_LIMIT);
}

enum status trash_open(struct trash **out, const struct trash_config *config, char error[256]) {
    *out = NULL;
    error[0] = 0;
    struct trash *t = mem_new(struct trash);
    if (!t || !(t->dir = mem_strdup(config->dir))) {
        mem_free(t);
        return snprintf(error, 256, "%.200s: no memory", config->dir), STATUS_MEMORY_LIMIT;
    }
    t->config = *config;
    if (!t->config.piece_bytes) t->config.piece_bytes = PIECE_BYTES;
    if (!t->config.rest_us) t->config.rest_us = REST_US;
    if (!t->config.look_us) t->config.look_us = LOOK_US;
    if (!t->config.keep_free) t->config.keep_free = KEEP_FREE_BYTES, t->config.keep_free_percent = KEEP_FREE_PERCENT;
    list_init(&t->watched);
    check(pthread_mutex_init(&t->lock, NULL) == 0);
    pthread_condattr_t attr;
    check(pthread_condattr_init(&attr) == 0 && pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0 && pthread_cond_init(&t->stopping, &attr) == 0);
    pthread_condattr_destroy(&attr);
    enum status st = make(t, error);
    if (st) return trash_close(t), st;
    return *out = t, STATUS_OK;
}

static void watched_free(struct watched *w) {
    list_remove(&w->link);
    mem_free(w->path);
    mem_free(w);
}

void trash_close(struct trash *t) {
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->stopping);
    pthread_mutex_unlock(&t->lock);
    if (t->started) pthread_join(t->thread, NULL);
    while (!list_empty(&t->watched)) watched_free(list_entry(t->watched.next, struct watched, link));
    mem_free(t->held.at), mem_free(t->dead.at);
    pthread_cond_destroy(&t->stopping);
    pthread_mutex_destroy(&t->lock);
    mem_free(t->dir);
    mem_free(t);
}

bool trash_watch(struct trash *t, const char *path) {
    struct watched *w = mem_new(struct watched);
    if (!w || !(w->path = mem_strdup(path))) return mem_free(w), false;
    pthread_mutex_lock(&t->lock);
    list_push_back(&t->watched, &w->link);
    pthread_mutex_unlock(&t->lock);
    return true;
}

void trash_unwatch(struct trash *t, const char *path) {
    pthread_mutex_lock(&t->lock);
    struct watched *found = NULL;
    for (struct list *l = t->watched.next; l != &t->watched; l = l->next) {
        struct watched *w = list_entry(l, struct watched, link);
        if (strcmp(w->path, path) == 0) found = w;
    }
    if (found) watched_free(found);
    pthread_mutex_unlock(&t->lock);
}

uint64_t trash_bytes(const struct trash *t) { return t->bytes; }
