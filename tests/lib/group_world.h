/* A small world for tests of the port: nodes, what their disks hold, frames on the way; no delays and no losses. Everything here is static. */
#ifndef TESTS_LIB_GROUP_WORLD_H
#define TESTS_LIB_GROUP_WORLD_H

#include "engine/group.h"
#include "engine/group_filter.h"
#include "proto/base/mem.h"
#include "proto/peer.h"
#include "tests/lib/test.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

enum { NODES_MAX = 5, FRAMES_MAX = 4096, ENTRIES_MAX = 4096 };

struct frame {
    uint64_t from, to;
    uint8_t *data;
    size_t len;
};
struct disk_entry {
    uint64_t term;
    uint8_t type;
    uint8_t *data;
    size_t len;
};
struct node {
    struct world *world;
    struct group *group;
    uint64_t id, term, voted_for, applied;
    struct disk_entry disk[ENTRIES_MAX]; /* [index] */
    uint64_t last;
    char story[2048];                    /* effects in order: v vote, a append, s send, r role, i install, f fetch */
    enum group_role role;
    uint64_t role_term, role_leader;
    struct group_snapshot fetched, snapshot;
    uint64_t installs;
    bool hold_disk;                      /* appends stay unpersisted */
    bool deaf;
};
struct world {
    struct node node[NODES_MAX];
    unsigned count;
    struct frame frames[FRAMES_MAX];
    size_t frame_count;
    uint64_t now;
};

static void tell(struct node *n, const char *what) { if (strlen(n->story) < sizeof n->story - 8) strcat(n->story, what); }

static void on_vote(void *ctx, uint64_t term, uint64_t voted_for) {
    struct node *n = ctx;
    tell(n, "v");
    assert_true(term >= n->term);
    n->term = term, n->voted_for = voted_for;
}
static void on_append(void *ctx, const struct group_entry *e, size_t count) {
    struct node *n = ctx;
    tell(n, "a");
    for (size_t i = 0; i < count; i++) {
        assert_true(e[i].index < ENTRIES_MAX && e[i].index <= n->last + 1);
        struct disk_entry *d = &n->disk[e[i].index];
        free(d->data); /* not of the counted heap: a test fails the group's allocations alone */
        *d = (struct disk_entry){e[i].term, (uint8_t)e[i].type, malloc(e[i].data.len + 1), e[i].data.len};
        if (d->len) memcpy(d->data, e[i].data.data, d->len);
        n->last = e[i].index;
    }
}
static void on_send(void *ctx, uint64_t to, struct slice frame) {
    struct node *n = ctx;
    tell(n, "s");
    struct world *w = n->world;
    assert_true(w->frame_count < FRAMES_MAX);
    struct frame *f = &w->frames[w->frame_count++];
    *f = (struct frame){n->id, to, malloc(frame.len), frame.len};
    memcpy(f->data, frame.data, frame.len);
}
static void on_role(void *ctx, enum group_role role, uint64_t term, uint64_t leader) {
    struct node *n = ctx;
    tell(n, "r");
    n->role = role, n->role_term = term, n->role_leader = leader;
}
static void on_install(void *ctx, uint64_t node_id, uint64_t index) { struct node *n = ctx; tell(n, "i"), n->installs++; }
static void on_fetch(void *ctx, uint64_t from, const struct group_snapshot *s) {
    struct node *n = ctx;
    tell(n, "f");
    n->fetched = *s;
}
static const struct group_ops ops = {on_vote, on_append, on_send, on_role, on_install, on_fetch};

static struct group_config config_of(struct node *n) {
    return (struct group_config){.group_id = 7, .node_id = n->id, .election_ms = 1000, .heartbeat_ms = 100, .inflight_max = 256, .uncommitted_max = 8,
                                 .seed = (uint32_t)n->id * 77, .ops = &ops, .ctx = n};
}

static struct group_snapshot first_snapshot(unsigned voters) {
    struct group_snapshot s = {.index = GROUP_FIRST_INDEX, .term = 1};
    for (unsigned i = 0; i < voters; i++) s.members.member[s.members.count++] = (struct group_member){i + 1, GROUP_VOTER};
    return s;
}

static struct world *world_new(unsigned voters) {
    struct world *w = mem_new(struct world);
    assert_non_null(w);
    w->count = voters, w->now = 1000;
    for (unsigned i = 0; i < NODES_MAX; i++) w->node[i].world = w, w->node[i].id = i + 1, w->node[i].last = GROUP_FIRST_INDEX;
    for (unsigned i = 0; i < voters; i++) {
        struct node *n = &w->node[i];
        struct group_config c = config_of(n);
        n->snapshot = first_snapshot(voters);
        assert_int_equal(group_open(&n->group, &c, w->now, 0, 0, &n->snapshot, NULL, 0), STATUS_OK);
    }
    return w;
}

static void world_free(struct world *w) {
    for (unsigned i = 0; i < NODES_MAX; i++) {
        group_close(w->node[i].group);
        for (size_t k = 0; k < ENTRIES_MAX; k++) free(w->node[i].disk[k].data);
    }
    for (size_t i = 0; i < w->frame_count; i++) free(w->frames[i].data);
    mem_free(w);
}

/* Crash and reopen from what the disk holds. */
static enum status reopen(struct node *n) {
    static struct group_entry e[ENTRIES_MAX];
    size_t count = 0;
    for (uint64_t i = n->snapshot.index + 1; i <= n->last; i++)
        e[count++] = (struct group_entry){i, n->disk[i].term, (enum group_entry_type)n->disk[i].type, slice_of(n->disk[i].data, n->disk[i].len)};
    group_close(n->group);
    n->group = NULL, n->applied = n->snapshot.index;
    struct group_config c = config_of(n);
    return group_open(&n->group, &c, n->world->now, n->term, n->voted_for, &n->snapshot, e, count);
}

static void node_apply(struct node *n) {
    if (n->applied < n->snapshot.index) n->applied = n->snapshot.index;
    while (n->applied < group_applicable(n->group)) {
        struct group_entry e;
        assert_true(group_entry(n->group, ++n->applied, &e));
        if (e.type == GROUP_CHANGE) group_members_applied(n->group, n->world->now, e.index);
    }
}

/* Delivers everything and persists everything until nothing moves. */
static void settle(struct world *w) {
    for (int round = 0; round < 1000; round++) {
        bool moved = false;
        for (unsigned i = 0; i < NODES_MAX; i++) {
            struct node *n = &w->node[i];
            if (!n->group || n->hold_disk) continue;
            uint64_t applicable = group_applicable(n->group);
            group_appends_persisted(n->group, w->now, group_append_count(n->group));
            moved |= applicable != group_applicable(n->group);
            node_apply(n);
        }
        size_t count = w->frame_count;
        for (size_t i = 0; i < count; i++) {
            struct frame f = w->frames[i];
            struct node *to = &w->node[f.to - 1];
            if (to->group && !to->deaf && !w->node[f.from - 1].deaf)
                assert_int_equal(group_receive(to->group, w->now, f.from, slice_of(f.data, f.len)), STATUS_OK);
            free(f.data);
            moved = true;
        }
        w->frame_count -= count;
        memmove(w->frames, w->frames + count, w->frame_count * sizeof *w->frames);
        if (!moved) return;
    }
    fail_msg("the world never comes to rest");
}

static void run(struct world *w, uint64_t ms) {
    for (uint64_t end = w->now + ms; w->now < end; w->now += 10) {
        for (unsigned i = 0; i < NODES_MAX; i++)
            if (w->node[i].group && w->now >= group_deadline_ms(w->node[i].group)) group_tick(w->node[i].group, w->now);
        settle(w);
    }
}

static struct node *leader_of(struct world *w) {
    struct node *l = NULL;
    for (unsigned i = 0; i < NODES_MAX; i++)
        if (w->node[i].group && !w->node[i].deaf && group_role(w->node[i].group) == GROUP_LEADER && (!l || group_term(w->node[i].group) > group_term(l->group)))
            l = &w->node[i];
    return l;
}

static enum status submit(struct node *n, const char *text, uint64_t *index) {
    uint8_t *data = mem_alloc(strlen(text));
    assert_non_null(data);
    memcpy(data, text, strlen(text));
    enum status st = group_submit(n->group, n->world->now, data, strlen(text), index);
    if (st) mem_free(data);
    return st;
}

static void snapshot_all(struct node *n, uint32_t trailing) {
    struct group_entry e;
    assert_true(group_entry(n->group, n->applied, &e));
    n->snapshot = (struct group_snapshot){n->applied, e.term, *group_members(n->group)};
    group_snapshotted(n->group, n->world->now, &n->snapshot, trailing);
    group_release(n->group, n->applied - trailing);
}

#pragma GCC diagnostic pop

#endif
