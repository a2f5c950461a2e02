#include "tests/lib/sim_env.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/list.h"

enum { SECTOR = 4096, TEAR = 512 };

/* ---- world: a heap of events */

struct event {
    uint64_t at_ns, order;
    void (*run)(void *ctx);
    void *ctx;
};
struct sim_world {
    uint64_t now_ns, order, random[4];
    struct event *heap;
    size_t count, cap;
};

static void *need(void *p) { return check(p), p; }
static uint64_t rotate(uint64_t x, int k) { return x << k | x >> (64 - k); }

static uint64_t splitmix(uint64_t *s) {
    uint64_t z = *s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

struct sim_world *sim_world_new(uint64_t seed) {
    struct sim_world *w = need(calloc(1, sizeof *w));
    for (int i = 0; i < 4; i++) w->random[i] = splitmix(&seed);
    w->now_ns = NS_PER_S; /* never 0: that is "no deadline" here and there */
    return w;
}

uint64_t sim_world_now_ns(const struct sim_world *w) { return w->now_ns; }

uint64_t sim_world_random(struct sim_world *w) { /* xoshiro256** (Blackman, Vigna 2018) */
    uint64_t *s = w->random, result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = rotate(s[3], 45);
    return result;
}

uint64_t sim_world_below(struct sim_world *w, uint64_t n) { return sim_world_random(w) % n; }
bool sim_world_chance(struct sim_world *w, unsigned percent) { return sim_world_below(w, 100) < percent; }

static bool earlier(const struct event *a, const struct event *b) { return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order; }

void sim_world_at(struct sim_world *w, uint64_t delay_ns, void (*run)(void *ctx), void *ctx) {
    if (w->count == w->cap) w->cap = w->cap ? w->cap * 2 : 64, w->heap = need(realloc(w->heap, w->cap * sizeof *w->heap));
    size_t i = w->count++;
    struct event e = {.at_ns = w->now_ns + delay_ns, .order = w->order++, .run = run, .ctx = ctx};
    for (; i > 0 && earlier(&e, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = e;
}

static struct event pop(struct sim_world *w) {
    struct event top = w->heap[0], last = w->heap[--w->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->count; i = child) {
        if (child + 1 < w->count && earlier(&w->heap[child + 1], &w->heap[child])) child++;
        if (!earlier(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
    }
    if (w->count) w->heap[i] = last;
    return top;
}

static void task_run(void *ctx);

void sim_world_free(struct sim_world *w) {
    while (w->count) {
        struct event e = pop(w);
        if (e.run == task_run) e.run(e.ctx); /* of a closed env: frees itself */
    }
    free(w->heap);
    free(w);
}

bool sim_world_step(struct sim_world *w) {
    if (!w->count) return false;
    struct event e = pop(w);
    w->now_ns = e.at_ns;
    e.run(e.ctx);
    return true;
}

void sim_world_run(struct sim_world *w, uint64_t for_ns) {
    uint64_t until = w->now_ns + for_ns;
    while (w->count && w->heap[0].at_ns <= until) sim_world_step(w);
    w->now_ns = until;
}

void sim_world_settle(struct sim_world *w) {
    while (sim_world_step(w)) continue;
}

/* ---- disk */

struct image { /* of one sector, written and not durable */
    struct list link;
    uint64_t sector, order;
    uint8_t bytes[SECTOR];
};
struct inode {
    unsigned refs;
    uint8_t *seen, *durable; /* cap bytes each, zeros behind the size */
    uint64_t size, durable_size, cap;
    struct list images; /* in order */
};
struct entry {
    char *name;
    struct inode *inode; /* NULL: a directory */
};
struct names {
    struct entry *entry;
    size_t count, cap;
};
enum change_kind { CHANGE_CREATE, CHANGE_RENAME, CHANGE_REMOVE, CHANGE_DIR };
struct change {
    struct list link;
    enum change_kind kind;
    char *name, *to;
    struct inode *inode;
};
struct sim_disk {
    struct sim_world *world;
    struct names seen, durable;
    struct list changes; /* of names, not durable, in order */
    uint64_t order;
    struct sim_faults faults;
    struct sim_env *env;
};
struct env_file {
    struct list link;
    struct inode *inode;
    unsigned flags;
};
/* An asynchronous request under way, or a job. */
struct task {
    struct list link;
    struct sim_env *env;
    struct env_file *file;
    struct env_io *io;
    struct env_job *job;
    bool sync, ran, pending; /* ran: a job's run() is behind it. pending: an event in the world's heap points here, and frees it when all is over */
    int64_t result;
    const void *buf;
    uint64_t len, offset, order; /* order: a sync covers images up to here */
};
struct sim_env {
    struct env env;
    struct sim_world *world;
    struct sim_disk *disk;
    bool dead;
    uint64_t paused_until_ns;
    unsigned events; /* in the world's heap that point here */
    bool closed;
    struct list files, tasks;
};

static struct inode *inode_new(void) {
    struct inode *n = need(calloc(1, sizeof *n));
    list_init(&n->images);
    return n;
}

static void images_drop(struct inode *n) {
    list_each(it, &n->images) {
        list_remove(it);
        free(list_entry(it, struct image, link));
    }
}

static void inode_put(struct inode *n) {
    if (!n || --n->refs) return;
    images_drop(n);
    free(n->seen);
    free(n->durable);
    free(n);
}

static void inode_grow(struct inode *n, uint64_t bytes) {
    if (bytes <= n->cap) return;
    uint64_t cap = (bytes + SECTOR - 1) / SECTOR * SECTOR;
    n->seen = need(realloc(n->seen, cap));
    n->durable = need(realloc(n->durable, cap));
    memset(n->seen + n->cap, 0, cap - n->cap);
    memset(n->durable + n->cap, 0, cap - n->cap);
    n->cap = cap;
}

static struct entry *names_find(const struct names *ns, const char *name) {
    for (size_t i = 0; i < ns->count; i++)
        if (strcmp(ns->entry[i].name, name) == 0) return &ns->entry[i];
    return NULL;
}

static void names_remove(struct names *ns, const char *name) {
    struct entry *e = names_find(ns, name);
    if (!e) return;
    inode_put(e->inode);
    free(e->name);
    *e = ns->entry[--ns->count];
}

static void names_set(struct names *ns, const char *name, struct inode *inode) {
    if (inode) inode->refs++;
    names_remove(ns, name);
    if (ns->count == ns->cap) ns->cap = ns->cap ? ns->cap * 2 : 16, ns->entry = need(realloc(ns->entry, ns->cap * sizeof *ns->entry));
    ns->entry[ns->count++] = (struct entry){need(strdup(name)), inode};
}

static int entry_compare(const void *a, const void *b) { return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name); }

static void names_sort(struct names *ns) {
    if (ns->count) qsort(ns->entry, ns->count, sizeof *ns->entry, entry_compare);
}

static void names_clear(struct names *ns) {
    while (ns->count) names_remove(ns, ns->entry[0].name);
    free(ns->entry);
    *ns = (struct names){0};
}

static bool in_dir(const char *name, const char *dir) {
    size_t n = strlen(dir);
    if (n == 0) return strchr(name, '/') == NULL;
    return strncmp(name, dir, n) == 0 && name[n] == '/';
}

struct sim_disk *sim_disk_new(struct sim_world *w) {
    struct sim_disk *d = need(calloc(1, sizeof *d));
    d->world = w;
    list_init(&d->changes);
    return d;
}

static void change_free(struct change *c) {
    list_remove(&c->link);
    inode_put(c->inode);
    free(c->name);
    free(c->to);
    free(c);
}

static void change_add(struct sim_disk *d, enum change_kind kind, const char *name, const char *to, struct inode *inode) {
    struct change *c = need(calloc(1, sizeof *c));
    *c = (struct change){.kind = kind, .name = need(strdup(name)), .to = to ? need(strdup(to)) : NULL, .inode = inode};
    if (inode) inode->refs++;
    list_push_back(&d->changes, &c->link);
}

static void change_apply(struct names *ns, const struct change *c) {
    struct entry *e = names_find(ns, c->name);
    switch (c->kind) {
    case CHANGE_CREATE:
    case CHANGE_DIR: names_set(ns, c->name, c->inode); return;
    case CHANGE_REMOVE: names_remove(ns, c->name); return;
    case CHANGE_RENAME:
        if (!e) return; /* its creation was lost */
        names_set(ns, c->to, c->inode);
        names_remove(ns, c->name);
        return;
    }
}

void sim_disk_free(struct sim_disk *d) {
    check(!d->env);
    list_each(it, &d->changes) change_free(list_entry(it, struct change, link));
    names_clear(&d->seen);
    names_clear(&d->durable);
    free(d);
}

struct sim_faults *sim_disk_faults(struct sim_disk *d) { return &d->faults; }
bool sim_disk_dead(const struct sim_disk *d) { return !d->env || d->env->dead; }

uint64_t sim_disk_bytes(const struct sim_disk *d) {
    uint64_t sum = 0;
    for (size_t i = 0; i < d->seen.count; i++) sum += d->seen.entry[i].inode ? d->seen.entry[i].inode->size : 0;
    return sum;
}

static struct inode *file_of(const struct sim_disk *d, const char *name) {
    struct entry *e = names_find(&d->seen, name);
    return e ? e->inode : NULL;
}

void sim_disk_flip(struct sim_disk *d, const char *name, uint64_t bit) {
    struct inode *n = file_of(d, name);
    check(n);
    check(bit / 8 < n->size);
    n->seen[bit / 8] ^= (uint8_t)(1 << bit % 8);
    n->durable[bit / 8] ^= (uint8_t)(1 << bit % 8);
}

const uint8_t *sim_disk_file(const struct sim_disk *d, const char *name, size_t *len) {
    struct inode *n = file_of(d, name);
    return n ? *len = n->size, n->seen : NULL;
}

static void put_entry(struct sim_disk *d, const char *name, struct inode *n) {
    names_set(&d->seen, name, n);
    names_set(&d->durable, name, n);
}

void sim_disk_put(struct sim_disk *d, const char *name, const void *data, size_t len) {
    const char *slash = strchr(name, '/');
    if (slash) {
        char dir[64];
        snprintf(dir, sizeof dir, "%.*s", (int)(slash - name), name);
        put_entry(d, dir, NULL);
    }
    struct inode *n = inode_new();
    inode_grow(n, MAX_OF(len, (size_t)1));
    if (len) memcpy(n->seen, data, len), memcpy(n->durable, data, len);
    n->size = n->durable_size = len;
    put_entry(d, name, n);
}

void sim_disk_drop(struct sim_disk *d, const char *name) {
    names_remove(&d->seen, name);
    names_remove(&d->durable, name);
}

struct sim_disk *sim_disk_copy(const struct sim_disk *d) {
    struct sim_disk *to = sim_disk_new(d->world);
    for (size_t i = 0; i < d->durable.count; i++) {
        const struct entry *e = &d->durable.entry[i];
        if (e->inode) sim_disk_put(to, e->name, e->inode->durable, e->inode->durable_size);
        else put_entry(to, e->name, NULL);
    }
    return to;
}

void sim_disk_each(const struct sim_disk *d, void (*each)(void *ctx, const char *name), void *ctx) {
    names_sort(&((struct sim_disk *)d)->seen);
    for (size_t i = 0; i < d->seen.count; i++)
        if (d->seen.entry[i].inode) each(ctx, d->seen.entry[i].name);
}

/* ---- what is written, what is durable */

static void image_add(struct sim_disk *d, struct inode *n, uint64_t sector) {
    struct image *m = need(malloc(sizeof *m));
    m->sector = sector;
    m->order = ++d->order;
    memcpy(m->bytes, n->seen + sector * SECTOR, SECTOR);
    list_push_back(&n->images, &m->link);
}

static void write_seen(struct sim_disk *d, struct inode *n, const void *buf, uint64_t len, uint64_t offset) {
    if (!len) return;
    inode_grow(n, offset + len);
    memcpy(n->seen + offset, buf, len);
    n->size = MAX_OF(n->size, offset + len);
    for (uint64_t s = offset / SECTOR; s <= (offset + len - 1) / SECTOR; s++) image_add(d, n, s);
}

static void make_durable(struct inode *n, uint64_t order, uint64_t size) {
    list_each(it, &n->images) {
        struct image *m = list_entry(it, struct image, link);
        if (m->order > order) break;
        memcpy(n->durable + m->sector * SECTOR, m->bytes, SECTOR);
        list_remove(it);
        free(m);
    }
    n->durable_size = MAX_OF(n->durable_size, size);
}

static void image_by_chance(struct sim_world *w, struct inode *n, const struct image *m) {
    uint8_t *to = n->durable + m->sector * SECTOR;
    switch (sim_world_below(w, 4)) {
    case 0: return;
    case 1:
        for (unsigned at = 0; at < SECTOR; at += TEAR)
            if (sim_world_chance(w, 50)) memcpy(to + at, m->bytes + at, TEAR);
        return;
    default: memcpy(to, m->bytes, SECTOR);
    }
}

static void inode_crash(struct sim_world *w, struct inode *n) {
    if (n->size > n->durable_size && sim_world_chance(w, 50)) n->durable_size = n->size;
    list_each(it, &n->images) image_by_chance(w, n, list_entry(it, struct image, link));
    images_drop(n);
    n->size = n->durable_size;
    if (n->size < n->cap) memset(n->durable + n->size, 0, n->cap - n->size);
    if (n->cap) memcpy(n->seen, n->durable, n->cap);
}

/* Writes under way: each sector may have been on its way already. */
static void flights_by_chance(struct sim_env *e) {
    list_each(it, &e->tasks) {
        struct task *t = list_entry(it, struct task, link);
        if (!t->io || t->sync || t->result < 0) continue;
        for (uint64_t at = 0; at < t->len; at += SECTOR)
            if (sim_world_chance(e->world, 50))
                write_seen(e->disk, t->file->inode, (const uint8_t *)t->buf + at, MIN_OF((uint64_t)SECTOR, t->len - at), t->offset + at);
    }
}

void sim_disk_kill(struct sim_disk *d) {
    if (sim_disk_dead(d)) return;
    flights_by_chance(d->env);
    d->env->dead = true;
}

void sim_disk_crash(struct sim_disk *d) {
    sim_disk_kill(d);
    struct sim_world *w = d->world;
    list_each(it, &d->changes) {
        struct change *c = list_entry(it, struct change, link);
        if (sim_world_chance(w, 50)) change_apply(&d->durable, c);
        change_free(c);
    }
    for (size_t i = 0; i < d->durable.count;) { /* a file without its directory is gone */
        char dir[64];
        const char *name = d->durable.entry[i].name, *slash = strchr(name, '/');
        snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - name) : 0, name);
        if (slash && !names_find(&d->durable, dir)) names_remove(&d->durable, name);
        else i++;
    }
    names_clear(&d->seen);
    names_sort(&d->durable);
    for (size_t i = 0; i < d->durable.count; i++) {
        if (d->durable.entry[i].inode) inode_crash(w, d->durable.entry[i].inode);
        names_set(&d->seen, d->durable.entry[i].name, d->durable.entry[i].inode);
    }
}

/* ---- env: synchronous calls */

static struct sim_env *env_of(struct env *env) { return container_of(env, struct sim_env, env); }

static bool count_down(uint64_t *n) { return *n && --*n == 0; }

/* Before every change: is there still a world to change? */
static bool alive(struct sim_env *e) {
    if (!e->dead && count_down(&e->disk->faults.crash_at)) sim_disk_crash(e->disk);
    return !e->dead;
}

static uint64_t env_mono_ns(struct env *env) { return env_of(env)->world->now_ns; }
static int64_t env_wall_us(struct env *env) { return 1735689600000000ll + (int64_t)(env_of(env)->world->now_ns / 1000); }
static uint64_t env_random(struct env *env) { return sim_world_random(env_of(env)->world); }

static int env_file_open(struct env *env, const char *name, unsigned flags, struct env_file **out) {
    struct sim_env *e = env_of(env);
    if (e->dead) return -EIO;
    struct entry *found = names_find(&e->disk->seen, name);
    if (found && !found->inode) return -EISDIR;
    if (!found && !(flags & ENV_CREATE)) return -ENOENT;
    struct inode *n = found ? found->inode : NULL;
    if (!n) {
        if (!alive(e)) return -EIO;
        char dir[64];
        const char *slash = strchr(name, '/');
        snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - name) : 0, name);
        if (slash && !names_find(&e->disk->seen, dir)) return -ENOENT;
        n = inode_new();
        names_set(&e->disk->seen, name, n);
        change_add(e->disk, CHANGE_CREATE, name, NULL, n);
    }
    struct env_file *f = need(calloc(1, sizeof *f));
    n->refs++;
    *f = (struct env_file){.inode = n, .flags = flags};
    list_push_back(&e->files, &f->link);
    return *out = f, 0;
}

static void env_file_close(struct env *env, struct env_file *f) {
    list_remove(&f->link);
    inode_put(f->inode);
    free(f);
}

static int64_t env_file_size(struct env *env, struct env_file *f) { return env_of(env)->dead ? -EIO : (int64_t)f->inode->size; }

static void check_direct(const struct env_file *f, const void *buf, size_t len, uint64_t offset) {
    if (!(f->flags & ENV_DIRECT)) return;
    check((uintptr_t)buf % SECTOR == 0);
    check(len % SECTOR == 0);
    check(offset % SECTOR == 0);
}

static int64_t env_file_read(struct env *env, struct env_file *f, void *buf, size_t len, uint64_t offset) {
    struct sim_env *e = env_of(env);
    const struct sim_faults *x = &e->disk->faults;
    check_direct(f, buf, len, offset);
    if (e->dead) return -EIO;
    if (x->unreadable && file_of(e->disk, x->unreadable) == f->inode && offset < x->unreadable_to && offset + len > x->unreadable_from) return -EIO;
    if (offset >= f->inode->size) return 0;
    len = (size_t)MIN_OF((uint64_t)len, f->inode->size - offset);
    if (len) memcpy(buf, f->inode->seen + offset, len);
    return (int64_t)len;
}

static bool space_for(const struct sim_env *e, const struct inode *n, uint64_t size) {
    const struct sim_faults *x = &e->disk->faults;
    return !x->space_bytes || size <= n->size || sim_disk_bytes(e->disk) + size - n->size <= x->space_bytes;
}

static int64_t write_result(struct sim_env *e, const struct inode *n, uint64_t len, uint64_t offset) {
    if (count_down(&e->disk->faults.write_fails_at)) return -EIO;
    return space_for(e, n, offset + len) ? (int64_t)len : -ENOSPC;
}

static int64_t env_file_write(struct env *env, struct env_file *f, const void *buf, size_t len, uint64_t offset) {
    struct sim_env *e = env_of(env);
    check_direct(f, buf, len, offset);
    check(f->flags & ENV_WRITE);
    if (!alive(e)) return -EIO;
    int64_t result = write_result(e, f->inode, len, offset);
    if (result > 0) write_seen(e->disk, f->inode, buf, len, offset);
    return result;
}

static int env_file_sync(struct env *env, struct env_file *f) {
    struct sim_env *e = env_of(env);
    if (!alive(e)) return -EIO;
    if (count_down(&e->disk->faults.sync_fails_at)) return -EIO;
    if (!e->disk->faults.sync_lies) make_durable(f->inode, e->disk->order, f->inode->size);
    return 0;
}

static int env_file_allocate(struct env *env, struct env_file *f, uint64_t bytes) {
    struct sim_env *e = env_of(env);
    if (!alive(e)) return -EIO;
    if (!space_for(e, f->inode, bytes)) return -ENOSPC;
    static const uint8_t zeros[SECTOR];
    for (uint64_t at = 0; at < MIN_OF(f->inode->size, bytes); at += SECTOR) /* what was there before is overwritten */
        write_seen(e->disk, f->inode, zeros, MIN_OF((uint64_t)SECTOR, bytes - at), at);
    inode_grow(f->inode, bytes);
    f->inode->size = MAX_OF(f->inode->size, bytes);
    return 0;
}

static int env_file_rename(struct env *env, const char *from, const char *to) {
    struct sim_env *e = env_of(env);
    if (!alive(e)) return -EIO;
    struct inode *n = file_of(e->disk, from);
    if (!n) return -ENOENT;
    change_add(e->disk, CHANGE_RENAME, from, to, n);
    names_set(&e->disk->seen, to, n);
    names_remove(&e->disk->seen, from);
    return 0;
}

static int env_file_remove(struct env *env, const char *name) {
    struct sim_env *e = env_of(env);
    if (!alive(e)) return -EIO;
    if (!file_of(e->disk, name)) return -ENOENT;
    change_add(e->disk, CHANGE_REMOVE, name, NULL, NULL);
    names_remove(&e->disk->seen, name);
    return 0;
}

static int env_dir_make(struct env *env, const char *name) {
    struct sim_env *e = env_of(env);
    if (names_find(&e->disk->seen, name)) return 0;
    if (!alive(e)) return -EIO;
    names_set(&e->disk->seen, name, NULL);
    change_add(e->disk, CHANGE_DIR, name, NULL, NULL);
    return 0;
}

static int env_dir_sync(struct env *env, const char *name) {
    struct sim_env *e = env_of(env);
    if (!alive(e)) return -EIO;
    if (count_down(&e->disk->faults.dir_sync_fails_at)) return -EIO;
    if (e->disk->faults.sync_lies) return 0;
    list_each(it, &e->disk->changes) {
        struct change *c = list_entry(it, struct change, link);
        if (!in_dir(c->name, name)) continue;
        change_apply(&e->disk->durable, c);
        change_free(c);
    }
    return 0;
}

static int env_dir_list(struct env *env, const char *name, void (*each)(void *ctx, const char *name), void *ctx) {
    struct sim_env *e = env_of(env);
    if (e->dead) return -EIO;
    if (*name && !names_find(&e->disk->seen, name)) return -ENOENT;
    size_t count = 0;
    char **found = need(calloc(e->disk->seen.count + 1, sizeof *found)); /* a copy: each() may remove files */
    names_sort(&e->disk->seen);
    for (size_t i = 0; i < e->disk->seen.count; i++)
        if (in_dir(e->disk->seen.entry[i].name, name)) found[count++] = need(strdup(e->disk->seen.entry[i].name + (*name ? strlen(name) + 1 : 0)));
    for (size_t i = 0; i < count; i++) {
        each(ctx, found[i]);
        free(found[i]);
    }
    free(found);
    return 0;
}

static uint64_t env_disk_free(struct env *env) {
    const struct sim_disk *d = env_of(env)->disk;
    uint64_t used = sim_disk_bytes(d);
    return !d->faults.space_bytes ? 1ull << 40 : used < d->faults.space_bytes ? d->faults.space_bytes - used : 0;
}

/* ---- env: asynchronous calls */

static void env_release(struct sim_env *e) {
    if (e->closed && e->events == 0) free(e);
}

static void task_schedule(struct task *t, uint64_t least_ns, uint64_t spread_ns) {
    t->env->events++;
    t->pending = true;
    sim_world_at(t->env->world, least_ns + sim_world_below(t->env->world, spread_ns), task_run, t);
}

static struct task *task_new(struct sim_env *e, struct env_file *f, struct env_io *io, struct env_job *job) {
    struct task *t = need(calloc(1, sizeof *t));
    *t = (struct task){.env = e, .file = f, .io = io, .job = job};
    list_push_back(&e->tasks, &t->link);
    return t;
}

/* Tells its owner, who may free io or job. */
static void task_end(struct task *t, int64_t result) {
    struct env_io *io = t->io;
    struct env_job *job = t->job;
    list_remove(&t->link);
    t->io = NULL, t->job = NULL;
    if (!t->pending) free(t);
    if (io) io->done(io, result);
    else job->done(job);
}

static void task_run(void *ctx) {
    struct task *t = ctx;
    struct sim_env *e = t->env;
    e->events--;
    t->pending = false;
    if (!t->io && !t->job) { /* ended when its env was closed */
        free(t);
        return env_release(e);
    }
    if (e->dead) return; /* stays among the tasks until sim_env_close ends it */
    if (e->paused_until_ns > e->world->now_ns) return task_schedule(t, e->paused_until_ns - e->world->now_ns, NS_PER_MS);
    if (t->job && !t->ran) {
        t->ran = true;
        t->job->run(t->job);
        return task_schedule(t, 1000, 20000);
    }
    if (t->sync && t->result == 0 && !e->disk->faults.sync_lies) make_durable(t->file->inode, t->order, t->len);
    if (t->io && !t->sync && t->result > 0) write_seen(e->disk, t->file->inode, t->buf, t->len, t->offset);
    task_end(t, t->result);
}

static void env_write_async(struct env *env, struct env_file *f, struct env_io *io, const void *buf, size_t len, uint64_t offset) {
    struct sim_env *e = env_of(env);
    check_direct(f, buf, len, offset);
    check(f->flags & ENV_WRITE);
    struct task *t = task_new(e, f, io, NULL);
    t->buf = buf, t->len = len, t->offset = offset;
    if (alive(e)) t->result = write_result(e, f->inode, len, offset);
    task_schedule(t, 20 * NS_PER_US, 300 * NS_PER_US);
}

static void env_sync_async(struct env *env, struct env_file *f, struct env_io *io) {
    struct sim_env *e = env_of(env);
    struct task *t = task_new(e, f, io, NULL);
    t->sync = true;
    t->order = e->disk->order; /* only what was complete when it began */
    t->len = f->inode->size;
    if (alive(e) && count_down(&e->disk->faults.sync_fails_at)) t->result = -EIO;
    task_schedule(t, 50 * NS_PER_US, 2 * NS_PER_MS);
}

static void env_offload(struct env *env, struct env_job *job) { task_schedule(task_new(env_of(env), NULL, NULL, job), 10 * NS_PER_US, 3 * NS_PER_MS); }

static void env_make_way(struct env *env) {} /* nobody else runs */

static const struct env_ops sim_ops = {
    .mono_ns = env_mono_ns,
    .wall_us = env_wall_us,
    .random = env_random,
    .file_open = env_file_open,
    .file_close = env_file_close,
    .file_size = env_file_size,
    .file_read = env_file_read,
    .file_write = env_file_write,
    .file_sync = env_file_sync,
    .file_allocate = env_file_allocate,
    .file_rename = env_file_rename,
    .file_remove = env_file_remove,
    .dir_make = env_dir_make,
    .dir_sync = env_dir_sync,
    .dir_list = env_dir_list,
    .disk_free = env_disk_free,
    .write_async = env_write_async,
    .sync_async = env_sync_async,
    .offload = env_offload,
    .make_way = env_make_way,
};

struct env *sim_env_open(struct sim_world *w, struct sim_disk *d) {
    check(!d->env);
    struct sim_env *e = need(calloc(1, sizeof *e));
    *e = (struct sim_env){.env = {&sim_ops}, .world = w, .disk = d};
    list_init(&e->files);
    list_init(&e->tasks);
    d->env = e;
    return &e->env;
}

void sim_env_close(struct env *env) {
    struct sim_env *e = env_of(env);
    e->dead = true;
    while (!list_empty(&e->tasks)) task_end(list_entry(e->tasks.next, struct task, link), -ECANCELED); /* may not start another: the engine was closed */
    list_each(it, &e->files) env_file_close(env, list_entry(it, struct env_file, link));
    e->disk->env = NULL;
    e->closed = true;
    env_release(e);
}

void sim_env_pause(struct env *env, uint64_t until_ns) { env_of(env)->paused_until_ns = until_ns; }

void sim_env_abandon(struct env *env) {
    struct sim_env *e = env_of(env);
    check(e->dead);
    e->disk->env = NULL;
}
