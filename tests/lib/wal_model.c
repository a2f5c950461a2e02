#include "tests/lib/wal_model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/wal.h"

enum { GROUPS = 5, BYTES_MAX = 24 << 10 };

struct entry {
    uint64_t group, index, term, content, batch;
    uint32_t bytes;
    uint8_t type;
    bool synced;
};
struct model {
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct wal *wal;
    struct wal_model_options options;
    struct entry *entry; /* the log as it must be: all that was appended since the last open, behind what that replayed */
    size_t count, cap;
    struct entry *replayed;
    size_t replayed_count, replayed_cap;
    uint64_t trimmed[GROUPS], last[GROUPS], term, batch_last;
    uint64_t crash_seen;
    char *why;
    bool failed;
};

static void fail(struct model *m, const char *format, ...) PRINTF_LIKE(2, 3);
static void fail(struct model *m, const char *format, ...) {
    if (m->failed) return;
    m->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(m->why, 512, format, args);
    va_end(args);
}

static struct entry *entry_push(struct entry **list, size_t *count, size_t *cap) {
    if (*count == *cap) *cap = *cap ? *cap * 2 : 64, *list = realloc(*list, *cap * sizeof **list);
    check(*list);
    return &(*list)[(*count)++];
}

static void content_fill(uint8_t *p, uint32_t n, uint64_t content) {
    if (content % 8 == 0) { /* zeros: what a block that was never written looks like */
        memset(p, 0, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) p[i] = (uint8_t)(content >> i % 8 * 8 ^ i * 131);
}

static uint8_t scratch[BYTES_MAX], expected[BYTES_MAX];

static enum status on_replay(void *ctx, const struct wal_record *r) {
    struct model *m = ctx;
    struct entry *e = entry_push(&m->replayed, &m->replayed_count, &m->replayed_cap);
    check(r->data.len <= BYTES_MAX);
    /* The content's seed is not in the record: the sum of the bytes stands for it until it is compared. */
    *e = (struct entry){.group = r->group, .index = r->index, .term = r->term, .type = r->type, .bytes = (uint32_t)r->data.len};
    uint64_t sum = 0;
    for (size_t i = 0; i < r->data.len; i++) sum = sum * 1099511628211ull + r->data.data[i];
    e->content = sum;
    return STATUS_OK;
}

static bool same(const struct entry *model, const struct entry *replayed) {
    if (model->group != replayed->group || model->index != replayed->index || model->term != replayed->term || model->type != replayed->type ||
        model->bytes != replayed->bytes)
        return false;
    content_fill(expected, model->bytes, model->content);
    uint64_t sum = 0;
    for (size_t i = 0; i < model->bytes; i++) sum = sum * 1099511628211ull + expected[i];
    return sum == replayed->content;
}

static void on_synced(void *ctx, uint64_t batch) {
    struct model *m = ctx;
    if (batch <= m->batch_last) fail(m, "batch %llu was reported after %llu", (unsigned long long)batch, (unsigned long long)m->batch_last);
    m->batch_last = batch;
    for (size_t i = m->count; i-- > 0 && !m->entry[i].synced;)
        if (m->entry[i].batch && m->entry[i].batch <= batch) m->entry[i].synced = true;
    /* Stops at the first synced one from behind; those are always a prefix. */
    for (size_t i = 1; i < m->count; i++)
        if (m->entry[i].synced) m->entry[i - 1].synced = true;
}

/* Is the entry needed after a crash, given that [.., end) was replayed? */
static bool needed(const struct model *m, size_t at, size_t end) {
    const struct entry *e = &m->entry[at];
    if (e->index <= m->trimmed[e->group]) return false;
    for (size_t i = at + 1; i < end; i++)
        if (m->entry[i].group == e->group && m->entry[i].index <= e->index) return false;
    return true;
}

/* What came back must be a run of what was appended: it ends behind the last synced entry, and what is missing in front is not needed. */
static void compare(struct model *m) {
    size_t synced = 0;
    for (size_t i = 0; i < m->count; i++)
        if (m->entry[i].synced) synced = i + 1;
    for (size_t end = m->count + 1; end-- > synced;) {
        if (m->replayed_count > end) break;
        size_t begin = end - m->replayed_count;
        bool equal = true;
        for (size_t i = 0; equal && i < m->replayed_count; i++) equal = same(&m->entry[begin + i], &m->replayed[i]);
        for (size_t i = 0; equal && i < begin; i++) equal = !needed(m, i, end);
        if (!equal) continue;
        if (m->replayed_count) memmove(m->entry, m->entry + begin, m->replayed_count * sizeof *m->entry);
        m->count = m->replayed_count;
        for (size_t i = 0; i < m->count; i++) m->entry[i].synced = true; /* open made it a promise */
        return;
    }
    fail(m, "replay does not match: %zu entries replayed, %zu appended, %zu of them synced", m->replayed_count, m->count, synced);
}

static void open_log(struct model *m) {
    char error[256];
    for (;;) {
        m->env = sim_env_open(m->world, m->disk);
        m->replayed_count = 0;
        struct sim_faults *x = sim_disk_faults(m->disk);
        if (m->options.crash_in_open && sim_world_chance(m->world, 40)) x->crash_at = 1 + sim_world_below(m->world, 8);
        struct wal_config c = {.dir = "log", .segment_bytes = 64 << 10, .batch_bytes_max = 40 << 10, .live_bytes_max = 512 << 10, .ctx = m, .synced = on_synced};
        if (sim_world_chance(m->world, 20)) c.segment_bytes = 96 << 10;
        uint64_t space = x->space_bytes;
        if (!m->wal) x->space_bytes = 0;
        enum status st = wal_open(&m->wal, m->env, &c, on_replay, error);
        x->space_bytes = space;
        x->crash_at = 0;
        if (!st) break;
        if (!sim_disk_dead(m->disk)) return fail(m, "open: %s: %s", status_name(st), error);
        sim_env_close(m->env);
    }
    compare(m);
    for (unsigned g = 0; g < GROUPS; g++) m->last[g] = m->trimmed[g];
    for (size_t i = 0; i < m->count; i++) m->last[m->entry[i].group] = MAX_OF(m->entry[i].index, m->trimmed[m->entry[i].group]);
    m->batch_last = 0;
    for (unsigned g = 0; g < GROUPS; g++)
        if (sim_world_chance(m->world, 80)) wal_trim(m->wal, g, m->trimmed[g]);
}

static void close_log(struct model *m) {
    wal_close(m->wal);
    m->wal = NULL;
    sim_env_close(m->env);
}

static void append(struct model *m) {
    struct sim_world *w = m->world;
    struct entry e = {.group = sim_world_below(w, GROUPS), .term = m->term, .content = sim_world_random(w), .type = (uint8_t)(1 + sim_world_below(w, 3))};
    e.index = m->last[e.group] + 1;
    if (sim_world_chance(w, 8)) { /* a new leader overwrites */
        uint64_t back = sim_world_below(w, 5);
        e.index = e.index - m->trimmed[e.group] > back ? e.index - back : e.index;
        e.term = ++m->term;
    }
    uint32_t size = (uint32_t)sim_world_below(w, 10);
    e.bytes = (uint32_t)sim_world_below(w, size < 6 ? 300 : size < 9 ? 5000 : BYTES_MAX);
    content_fill(scratch, e.bytes, e.content);
    uint32_t cut = e.bytes ? (uint32_t)sim_world_below(w, e.bytes) : 0;
    struct slice parts[2] = {slice_of(scratch, cut), slice_of(scratch + cut, e.bytes - cut)};
    enum status st = wal_admit(m->wal, e.bytes);
    if (!st) st = wal_append(m->wal, e.group, e.index, e.term, e.type, parts, 2);
    if (st == STATUS_OVERLOADED || st == STATUS_DISK_FULL) return;
    if (st) return fail(m, "append: %s", status_name(st));
    *entry_push(&m->entry, &m->count, &m->cap) = e;
    m->last[e.group] = e.index;
}

static void commit(struct model *m) {
    size_t from = m->count;
    while (from > 0 && m->entry[from - 1].batch == 0 && !m->entry[from - 1].synced) from--;
    uint64_t batch = wal_commit(m->wal);
    for (; from < m->count; from++) m->entry[from].batch = batch;
}

/* The newest synced entry of the group: everything up to there may be flushed. */
static void trim(struct model *m) {
    uint64_t g = sim_world_below(m->world, GROUPS), synced = 0;
    for (size_t i = 0; i < m->count; i++)
        if (m->entry[i].group == g && m->entry[i].synced) synced = m->entry[i].index;
    if (synced <= m->trimmed[g]) return;
    m->trimmed[g] = sim_world_chance(m->world, 70) ? synced : m->trimmed[g] + 1 + sim_world_below(m->world, synced - m->trimmed[g]);
    m->last[g] = MAX_OF(m->last[g], m->trimmed[g]);
    wal_trim(m->wal, g, m->trimmed[g]);
}

struct reading {
    struct model *m;
    uint64_t group, next;
};

static enum status on_read(void *ctx, const struct wal_record *r) {
    struct reading *reading = ctx;
    struct model *m = reading->m;
    const struct entry *e = NULL;
    for (size_t i = m->count; i-- > 0 && !e;)
        if (m->entry[i].group == reading->group && m->entry[i].index == reading->next) e = &m->entry[i];
    if (!e || r->group != reading->group || r->index != reading->next || r->term != e->term || r->data.len != e->bytes) {
        fail(m, "read: group %llu index %llu is not what was appended", (unsigned long long)r->group, (unsigned long long)reading->next);
        return STATUS_INTERNAL;
    }
    content_fill(expected, e->bytes, e->content);
    if (memcmp(expected, r->data.data, e->bytes) != 0) fail(m, "read: other bytes");
    reading->next++;
    return STATUS_OK;
}

static void read_back(struct model *m) {
    commit(m);
    for (unsigned i = 0; wal_busy(m->wal) && i < 100; i++) sim_world_step(m->world);
    if (wal_busy(m->wal)) return;
    uint64_t g = sim_world_below(m->world, GROUPS);
    struct reading r = {.m = m, .group = g, .next = m->trimmed[g] + 1};
    if (m->last[g] <= m->trimmed[g]) return;
    enum status st = wal_read(m->wal, g, r.next, m->last[g], on_read, &r);
    if (st) return fail(m, "read: group %llu [%llu, %llu]: %s", (unsigned long long)g, (unsigned long long)m->trimmed[g] + 1, (unsigned long long)m->last[g], status_name(st));
    if (r.next != m->last[g] + 1) fail(m, "read: ended early");
    st = wal_read(m->wal, g, m->last[g], m->last[g] + 1, on_read, &(struct reading){.m = m, .group = g, .next = m->last[g]});
    if (st != STATUS_ABSENT) fail(m, "read beyond the end: %s", status_name(st));
}

static void end_of_process(struct model *m) {
    switch (sim_world_below(m->world, 6)) {
    case 0: break;
    case 1: sim_disk_kill(m->disk); break;
    default: sim_disk_crash(m->disk); break;
    }
    close_log(m);
    if (sim_world_chance(m->world, 30)) sim_disk_crash(m->disk); /* the machine goes after the process */
    open_log(m);
}

static void step(struct model *m) {
    struct sim_world *w = m->world;
    struct sim_faults *x = sim_disk_faults(m->disk);
    if (sim_disk_dead(m->disk)) { /* crash_at came */
        x->crash_at = 0;
        close_log(m);
        return open_log(m);
    }
    uint64_t dice = sim_world_below(w, 100);
    if (dice < 40) append(m);
    else if (dice < 55) commit(m);
    else if (dice < 85) sim_world_step(w);
    else if (dice < 91) trim(m);
    else if (dice < 93) read_back(m);
    else if (dice < 95) sim_world_run(w, sim_world_below(w, 3 * NS_PER_S)), wal_tick(m->wal);
    else if (dice < 96) x->crash_at = 1 + sim_world_below(w, 12);
    else if (dice < 97 && m->options.small_disk) x->space_bytes = sim_world_chance(w, 50) ? 0 : sim_disk_bytes(m->disk) + sim_world_below(w, 64 << 10);
    else if (dice >= 98) end_of_process(m);
}

bool wal_model_run(uint64_t seed, const struct wal_model_options *options, char why[512]) {
    struct model m = {.world = sim_world_new(seed), .term = 1, .why = why, .options = *options};
    m.disk = sim_disk_new(m.world);
    sim_disk_faults(m.disk)->sync_lies = options->sync_lies;
    why[0] = 0;
    open_log(&m);
    for (unsigned i = 0; !m.failed && i < (options->steps ? options->steps : 600); i++) step(&m);
    if (m.wal) close_log(&m);
    else sim_env_close(m.env);
    sim_disk_free(m.disk);
    sim_world_free(m.world);
    free(m.entry);
    free(m.replayed);
    return !m.failed;
}
