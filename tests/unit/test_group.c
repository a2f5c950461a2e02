/* The port around libraft, as group.h promises it: one voter alone, and three in a small world of our own (no delays, no losses: sim_group has
 * those). */
#include "tests/lib/test.h"

#include "engine/group.h"
#include "engine/group_filter.h"
#include "proto/base/mem.h"
#include "proto/peer.h"

/* ---- a world: nodes, what their disks hold, frames on the way */

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

/* ---- one voter */

static void test_single_voter_leads_from_the_first_tick(void **state) {
    struct world *w = world_new(1);
    struct node *n = &w->node[0];
    assert_string_equal(n->story, ""); /* no effect before the first event */
    assert_true(group_deadline_ms(n->group) <= w->now);
    group_tick(n->group, w->now);
    assert_string_equal(n->story, "var"); /* a term of its own, a barrier in it, the role at last */
    assert_int_equal(n->role, GROUP_LEADER);
    assert_int_equal(n->role_leader, 1);
    assert_int_equal(n->voted_for, 1);
    assert_int_equal(group_term(n->group), 2);
    assert_int_equal(n->disk[3].type, GROUP_BARRIER);
    assert_false(group_ready(n->group));
    assert_int_equal(group_applicable(n->group), GROUP_FIRST_INDEX);
    group_appends_persisted(n->group, w->now, group_append_count(n->group));
    assert_true(group_ready(n->group));
    assert_int_equal(group_applicable(n->group), 3);
    world_free(w);
}

static void test_single_voter_commits_what_is_persisted_alone(void **state) {
    struct world *w = world_new(1);
    struct node *n = &w->node[0];
    run(w, 10);
    uint64_t index, first = group_append_count(n->group);
    assert_int_equal(submit(n, "one", &index), STATUS_OK);
    assert_int_equal(index, 4);
    uint64_t one = group_append_count(n->group);
    assert_int_equal(submit(n, "two", &index), STATUS_OK);
    assert_int_equal(index, 5);
    group_appends_persisted(n->group, w->now, first);
    assert_int_equal(group_applicable(n->group), 3);
    group_appends_persisted(n->group, w->now, one);
    assert_int_equal(group_applicable(n->group), 4);
    group_appends_persisted(n->group, w->now, group_append_count(n->group));
    assert_int_equal(group_applicable(n->group), 5);
    struct group_entry e;
    assert_true(group_entry(n->group, 5, &e));
    assert_memory_equal(e.data.data, "two", 3);
    size_t memory = group_memory(n->group);
    group_release(n->group, 4);
    assert_true(group_memory(n->group) < memory);
    assert_false(group_entry(n->group, 4, &e));
    assert_true(group_entry(n->group, 5, &e));
    group_release(n->group, 100); /* never beyond what may be applied */
    assert_int_equal(submit(n, "three", &index), STATUS_OK);
    group_release(n->group, 100);
    assert_true(group_entry(n->group, 6, &e));
    world_free(w);
}

static void test_restart_keeps_the_log_and_takes_a_new_term(void **state) {
    struct world *w = world_new(1);
    struct node *n = &w->node[0];
    run(w, 10);
    uint64_t index;
    assert_int_equal(submit(n, "kept", &index), STATUS_OK);
    settle(w);
    uint64_t term = group_term(n->group);
    assert_int_equal(reopen(n), STATUS_OK);
    assert_int_equal(group_role(n->group), GROUP_FOLLOWER); /* not told yet */
    run(w, 10);
    assert_int_equal(group_term(n->group), term + 1);
    assert_int_equal(n->term, term + 1);
    struct group_entry e;
    assert_true(group_entry(n->group, index, &e));
    assert_memory_equal(e.data.data, "kept", 4);
    assert_true(group_ready(n->group));
    assert_int_equal(group_applicable(n->group), index + 1); /* and the new term's barrier */
    world_free(w);
}

/* ---- several */

static void test_three_elect_one_and_replicate(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w);
    assert_non_null(l);
    assert_true(group_ready(l->group));
    uint64_t index;
    assert_int_equal(submit(l, "three", &index), STATUS_OK);
    run(w, 300);
    for (unsigned i = 0; i < 3; i++) {
        struct group_entry e;
        assert_int_equal(group_leader(w->node[i].group), l->id);
        assert_int_equal(w->node[i].applied, index);
        assert_true(group_entry(w->node[i].group, index, &e));
        assert_memory_equal(e.data.data, "three", 5);
        assert_int_equal(e.term, group_term(l->group));
        if (&w->node[i] != l) assert_int_equal(submit(&w->node[i], "no", &index), STATUS_NOT_LEADER);
    }
    world_free(w);
}


static void test_voters_alone_wait_for_each_other(void **state) {
    struct world *w = world_new(3);
    w->node[1].deaf = w->node[2].deaf = true;
    run(w, 8000);
    assert_int_equal(w->node[0].role, GROUP_CANDIDATE);
    assert_int_equal(group_term(w->node[0].group), 1); /* pre-vote: who reaches nobody disturbs nobody */
    w->node[1].deaf = false;
    run(w, 5000);
    assert_non_null(leader_of(w));
    world_free(w);
}

static void test_effects_come_in_order(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w);
    uint64_t index;
    l->story[0] = 0;
    assert_int_equal(submit(l, "x", &index), STATUS_OK);
    assert_string_equal(l->story, "ass"); /* append, then a message for each follower */
    world_free(w);
}

static void test_a_follower_that_was_away_catches_up(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *late = &w->node[l->id % 3];
    uint64_t index;
    late->deaf = true;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(submit(l, "while it was away", &index), STATUS_OK);
        settle(w);
    }
    late->deaf = false;
    run(w, 1000);
    assert_int_equal(late->applied, index);
    world_free(w);
}

static void test_a_leader_without_majority_steps_down_and_its_entries_are_superseded(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *old = leader_of(w);
    uint64_t lost, kept;
    old->deaf = true;
    assert_int_equal(submit(old, "lost", &lost), STATUS_OK);
    run(w, 6000);
    assert_int_not_equal(group_role(old->group), GROUP_LEADER);
    assert_true(group_applicable(old->group) < lost);
    struct node *l = leader_of(w);
    assert_non_null(l);
    assert_int_equal(submit(l, "kept", &kept), STATUS_OK);
    settle(w);
    old->deaf = false;
    run(w, 3000);
    struct group_entry e;
    assert_true(group_entry(old->group, kept, &e));
    assert_memory_equal(e.data.data, "kept", 4);
    assert_int_equal(old->disk[kept].term, e.term);
    world_free(w);
}

static void test_superseded_appends_do_not_count_as_durable(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    uint8_t frame[512];
    group_tick(n->group, w->now);
    struct peer_entry one = {2, GROUP_COMMAND, SLICE_LIT("one")}, other = {3, GROUP_COMMAND, SLICE_LIT("other")}, again = {4, GROUP_COMMAND, SLICE_LIT("two")};
    struct peer_entry three[] = {one, one, one}, back[] = {one, again};
    struct peer_message m = {.kind = PEER_APPEND, .group = 7, .from = 2, .to = 1, .term = 2};
    m.append.prev_index = 2, m.append.prev_term = 1, m.append.commit = 5, m.append.entries = three, m.append.count = 3;
    struct writer out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK); /* 3..5 in term 2 */
    uint64_t first = group_append_count(n->group);
    assert_int_equal(group_applicable(n->group), 2); /* committed, but nothing is durable */
    w->frame_count = 0;

    world_free(w);
    w = world_new(3), n = &w->node[0];
    group_tick(n->group, w->now);
    m.append.commit = 2;
    out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK); /* 3..5 in term 2, nothing committed */
    m.term = 3, m.from = 3, m.append.prev_index = 3, m.append.prev_term = 2, m.append.entries = &other, m.append.count = 1;
    out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 3, writer_slice(&out)), STATUS_OK); /* 4 in term 3 */
    m.term = 4, m.from = 2, m.append.prev_index = 3, m.append.prev_term = 2, m.append.entries = back, m.append.count = 2, m.append.commit = 5;
    out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK); /* 4 in term 2 once more, 5 in term 4 */
    assert_int_equal(group_append_count(n->group), first + 2);
    group_appends_persisted(n->group, w->now, first);
    assert_int_equal(group_applicable(n->group), 3); /* 4 of term 2 is durable, and may yet be overwritten by what is under way */
    group_appends_persisted(n->group, w->now, first + 1);
    assert_int_equal(group_applicable(n->group), 3);
    group_appends_persisted(n->group, w->now, first + 2);
    assert_int_equal(group_applicable(n->group), 5);
    world_free(w);
}

static void test_uncommitted_entries_are_bounded(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w);
    uint64_t index;
    for (int i = 0; i < 8; i++) assert_int_equal(submit(l, "x", &index), STATUS_OK);
    assert_int_equal(submit(l, "x", &index), STATUS_OVERLOADED);
    assert_int_equal(group_submit_barrier(l->group, w->now, &index), STATUS_OVERLOADED);
    settle(w);
    assert_int_equal(group_submit_barrier(l->group, w->now, &index), STATUS_OK);
    struct group_entry e;
    assert_true(group_entry(l->group, index, &e));
    assert_int_equal(e.type, GROUP_BARRIER);
    world_free(w);
}

static void test_an_empty_command_is_a_command(void **state) {
    struct world *w = world_new(1);
    run(w, 10);
    uint64_t index;
    assert_int_equal(group_submit(w->node[0].group, w->now, NULL, 0, &index), STATUS_OK);
    struct group_entry e;
    assert_true(group_entry(w->node[0].group, index, &e));
    assert_int_equal(e.data.len, 0);
    world_free(w);
}

/* ---- members, transfer */

static enum status set_member(struct node *l, uint64_t id, uint8_t kind) {
    struct group_members m = *group_members(l->group);
    uint32_t i = 0;
    while (i < m.count && m.member[i].node_id != id) i++;
    if (kind == 0) m.member[i] = m.member[--m.count];
    else {
        m.member[i] = (struct group_member){id, kind};
        m.count = MAX_OF(m.count, i + 1);
    }
    return group_change(l->group, l->world->now, &m);
}

static void start_empty(struct world *w, unsigned id, unsigned voters) {
    struct node *n = &w->node[id - 1];
    struct group_config c = config_of(n);
    n->snapshot = first_snapshot(voters);
    assert_int_equal(group_open(&n->group, &c, w->now, 0, 0, &n->snapshot, NULL, 0), STATUS_OK);
}

static void test_one_voter_grows_to_three_and_back(void **state) {
    struct world *w = world_new(1);
    run(w, 10);
    struct node *l = &w->node[0];
    for (uint64_t id = 2; id <= 3; id++) {
        start_empty(w, (unsigned)id, 1);
        w->node[id - 1].snapshot.members.member[0].node_id = 1;
        assert_int_equal(set_member(l, id, GROUP_LEARNER), STATUS_OK);
        run(w, 1000);
        assert_int_equal(w->node[id - 1].applied, group_last_index(l->group));
        assert_int_equal(set_member(l, id, GROUP_VOTER), STATUS_OK);
        run(w, 1000);
        assert_int_equal(group_members(l->group)->count, id);
        assert_int_equal(group_members(w->node[id - 1].group)->count, id);
        assert_int_equal(group_members(l->group)->index, group_members(w->node[id - 1].group)->index);
    }
    l->deaf = true;
    run(w, 6000);
    struct node *next = leader_of(w);
    assert_non_null(next);
    assert_ptr_not_equal(next, l);
    l->deaf = false;
    run(w, 1000);
    assert_int_equal(set_member(next, 1, 0), STATUS_OK);
    run(w, 1000);
    assert_int_equal(group_members(next->group)->count, 2);
    world_free(w);
}

static void test_membership_steps_are_refused_until_the_last_is_stored_by_all(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *other = &w->node[l->id % 3];
    other->hold_disk = true; /* it will not store what comes */
    assert_int_equal(set_member(l, 9, GROUP_SPARE), STATUS_OK);
    assert_int_equal(set_member(l, 8, GROUP_SPARE), STATUS_OVERLOADED); /* not even committed */
    run(w, 500);
    assert_int_equal(group_members(l->group)->count, 4);
    assert_int_equal(set_member(l, 9, 0), STATUS_OVERLOADED);
    other->hold_disk = false;
    run(w, 500);
    assert_int_equal(set_member(l, 9, 0), STATUS_OK);
    world_free(w);
}

static void test_impossible_members_are_refused(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *f = &w->node[l->id % 3];
    struct group_members m = *group_members(l->group);
    assert_int_equal(set_member(f, 9, GROUP_SPARE), STATUS_NOT_LEADER);
    assert_int_equal(set_member(l, l->id, GROUP_LEARNER), STATUS_FIELD_INVALID); /* leadership goes first */
    assert_int_equal(set_member(l, 9, 77), STATUS_FIELD_INVALID);
    m.member[0] = m.member[1];
    assert_int_equal(group_change(l->group, w->now, &m), STATUS_FIELD_INVALID);
    m = *group_members(l->group);
    m.member[m.count++] = (struct group_member){4, GROUP_VOTER}, m.member[m.count++] = (struct group_member){5, GROUP_VOTER}; /* two at once */
    assert_int_equal(group_change(l->group, w->now, &m), STATUS_FIELD_INVALID);
    world_free(w);
}

static void test_leadership_is_handed_over(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *heir = &w->node[l->id % 3];
    uint64_t term = group_term(l->group), index;
    assert_int_equal(group_transfer(heir->group, w->now, l->id), STATUS_NOT_LEADER);
    assert_int_equal(group_transfer(l->group, w->now, l->id), STATUS_FIELD_INVALID);
    assert_int_equal(group_transfer(l->group, w->now, 5), STATUS_FIELD_INVALID);
    assert_int_equal(group_transfer(l->group, w->now, heir->id), STATUS_OK);
    assert_int_equal(submit(l, "x", &index), STATUS_NOT_LEADER); /* no longer */
    run(w, 500);
    assert_ptr_equal(leader_of(w), heir);
    assert_int_equal(group_term(heir->group), term + 1);
    world_free(w);
}

/* ---- snapshots */

static void snapshot_all(struct node *n, uint32_t trailing) {
    struct group_entry e;
    assert_true(group_entry(n->group, n->applied, &e));
    n->snapshot = (struct group_snapshot){n->applied, e.term, *group_members(n->group)};
    group_snapshotted(n->group, n->world->now, &n->snapshot, trailing);
    group_release(n->group, n->applied - trailing);
}

static void test_restart_from_a_snapshot(void **state) {
    struct world *w = world_new(1);
    struct node *n = &w->node[0];
    uint64_t index;
    run(w, 10);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(submit(n, "x", &index), STATUS_OK);
        settle(w);
    }
    snapshot_all(n, 0);
    assert_int_equal(submit(n, "after", &index), STATUS_OK);
    settle(w);
    assert_int_equal(reopen(n), STATUS_OK);
    run(w, 10);
    struct group_entry e;
    assert_false(group_entry(n->group, index - 1, &e));
    assert_true(group_entry(n->group, index, &e));
    assert_memory_equal(e.data.data, "after", 5);
    assert_int_equal(group_applicable(n->group), index + 1);
    world_free(w);
}

static void test_a_follower_below_the_head_gets_a_snapshot(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *late = &w->node[l->id % 3];
    uint64_t index;
    late->deaf = true;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(submit(l, "x", &index), STATUS_OK);
        settle(w);
    }
    snapshot_all(l, 0);
    late->deaf = false;
    run(w, 3000);
    assert_true(l->installs > 0);
    assert_int_equal(late->fetched.index, l->snapshot.index);
    assert_int_equal(late->fetched.term, l->snapshot.term);
    assert_int_equal(late->fetched.members.count, 3);
    assert_true(group_applicable(late->group) < index);
    late->snapshot = late->fetched, late->applied = late->last = late->fetched.index;
    group_installed(late->group, w->now, &late->fetched);
    assert_int_equal(group_applicable(late->group), l->snapshot.index);
    run(w, 1000);
    assert_int_equal(submit(l, "and on", &index), STATUS_OK);
    run(w, 1000);
    assert_int_equal(late->applied, index);
    world_free(w);
}

/* ---- what is found and what is sent to us */

static void test_a_disk_that_cannot_be_is_refused(void **state) {
    struct world *w = world_new(1);
    struct group_config c = config_of(&w->node[0]);
    struct group_snapshot s = first_snapshot(1);
    struct group *g = NULL;
    struct group_entry gap[] = {{3, 1, GROUP_COMMAND, {0}}, {5, 1, GROUP_COMMAND, {0}}}, back[] = {{3, 2, GROUP_COMMAND, {0}}, {4, 1, GROUP_COMMAND, {0}}};
    struct group_entry far_off[] = {{4, 1, GROUP_COMMAND, {0}}}, odd[] = {{3, 1, GROUP_CHANGE, SLICE_LIT("?")}}, type[] = {{3, 1, (enum group_entry_type)9, {0}}};
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, gap, 2), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, back, 2), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, far_off, 1), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, odd, 1), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, type, 1), STATUS_CHECKSUM_MISMATCH);
    s.index = 1;
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, NULL, 0), STATUS_CHECKSUM_MISMATCH);
    s = first_snapshot(0);
    assert_int_equal(group_open(&g, &c, 1, 2, 0, &s, NULL, 0), STATUS_CHECKSUM_MISMATCH);
    assert_null(g);
    world_free(w);
}

static void test_an_entry_may_outlive_the_vote_of_its_term(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    struct group_entry e = {3, 5, GROUP_COMMAND, SLICE_LIT("x")};
    struct group_config c = config_of(n);
    group_close(n->group);
    assert_int_equal(group_open(&n->group, &c, w->now, 2, 1, &n->snapshot, &e, 1), STATUS_OK);
    group_tick(n->group, w->now);
    assert_int_equal(n->term, 5);
    assert_int_equal(n->voted_for, 0);
    world_free(w);
}

static void test_frames_that_are_not_for_us_change_nothing(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    uint8_t frame[256];
    struct peer_message m = {.kind = PEER_VOTE, .group = 7, .from = 2, .to = 1, .term = 9};
    m.vote.last_index = 2, m.vote.last_term = 1;
    struct { uint64_t group, to, from; } wrong[] = {{8, 1, 2}, {7, 3, 2}, {7, 1, 3}};
    group_tick(n->group, w->now);
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct writer out = writer_of(frame, sizeof frame);
        m.group = wrong[i].group, m.to = wrong[i].to;
        assert_true(peer_encode(&m, &out));
        assert_int_equal(group_receive(n->group, w->now, wrong[i].from, writer_slice(&out)), STATUS_FIELD_INVALID);
    }
    assert_int_equal(group_receive(n->group, w->now, 2, SLICE_LIT("noise")), STATUS_FIELD_INVALID);
    assert_int_equal(group_term(n->group), 1);
    world_free(w);
}

/* A learner by its own lagging configuration is asked for the vote that decides: it gives it, and forgets a leader that is silent. */
static void test_a_lagging_member_votes(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    struct group_config c = config_of(n);
    uint8_t frame[256];
    n->snapshot.members.member[0].kind = GROUP_LEARNER;
    group_close(n->group);
    assert_int_equal(group_open(&n->group, &c, w->now, 1, 0, &n->snapshot, NULL, 0), STATUS_OK);
    group_tick(n->group, w->now);
    struct peer_message m = {.kind = PEER_APPEND, .group = 7, .from = 3, .to = 1, .term = 1};
    m.append.prev_index = 2, m.append.prev_term = 1, m.append.commit = 2;
    struct writer out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 3, writer_slice(&out)), STATUS_OK);
    m = (struct peer_message){.kind = PEER_VOTE, .group = 7, .from = 2, .to = 1, .term = 2};
    m.vote.last_index = 2, m.vote.last_term = 1;
    out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK);
    assert_int_equal(n->voted_for, 0); /* it has a leader */
    w->now += 2500;
    group_tick(n->group, w->now);
    assert_int_equal(group_leader(n->group), 0);
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK);
    assert_int_equal(n->term, 2);
    assert_int_equal(n->voted_for, 2);
    assert_int_equal(group_members(n->group)->member[0].kind, GROUP_LEARNER);
    world_free(w);
}

static void deliver_to_first(struct world *w, struct peer_message m) {
    uint8_t frame[512];
    struct writer out = writer_of(frame, sizeof frame);
    m.group = 7, m.to = 1;
    assert_true(peer_encode(&m, &out));
    assert_int_equal(group_receive(w->node[0].group, w->now, m.from, writer_slice(&out)), STATUS_OK);
}

static struct peer_message last_sent(struct world *w) {
    static struct peer_entry entries[PEER_ENTRIES_MAX];
    struct peer_message m;
    assert_true(w->frame_count > 0);
    struct frame *f = &w->frames[w->frame_count - 1];
    assert_int_equal(peer_decode(slice_of(f->data, f->len), &m, entries), STATUS_OK);
    return m;
}

/* Filter 3. */
static void test_the_refusal_of_a_pre_vote_tells_the_real_term(void **state) {
    struct world *w = world_new(3);
    struct group_config c = config_of(&w->node[0]);
    group_close(w->node[0].group);
    assert_int_equal(group_open(&w->node[0].group, &c, w->now, 9, 0, &w->node[0].snapshot, NULL, 0), STATUS_OK);
    struct peer_message m = {.kind = PEER_VOTE, .from = 2, .term = 3};
    m.vote.last_index = 2, m.vote.last_term = 1, m.vote.pre_vote = true;
    deliver_to_first(w, m);
    assert_true(last_sent(w).kind == PEER_VOTE_RESULT && !last_sent(w).vote_result.granted);
    assert_int_equal(last_sent(w).term, 9);
    world_free(w);
}

/* Filter 5. */
static void test_an_append_below_the_commit_index_is_moved_up_to_it(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    struct peer_entry e[] = {{2, GROUP_COMMAND, SLICE_LIT("3")}, {2, GROUP_COMMAND, SLICE_LIT("4")}, {2, GROUP_COMMAND, SLICE_LIT("5")}, {2, GROUP_COMMAND, SLICE_LIT("6")}};
    struct peer_message m = {.kind = PEER_APPEND, .from = 2, .term = 2};
    m.append.prev_index = 2, m.append.prev_term = 1, m.append.commit = 5, m.append.entries = e, m.append.count = 3;
    deliver_to_first(w, m);
    group_appends_persisted(n->group, w->now, group_append_count(n->group));
    node_apply(n);
    snapshot_all(n, 0);
    assert_int_equal(n->snapshot.index, 5);
    m.append.prev_index = 3, m.append.prev_term = 2, m.append.entries = e + 1; /* 4 to 6: starts below what is left */
    deliver_to_first(w, m);
    group_appends_persisted(n->group, w->now, group_append_count(n->group));
    assert_int_equal(last_sent(w).append_result.rejected, 0);
    assert_int_equal(last_sent(w).append_result.last_index, 6);
    world_free(w);
}

static void test_an_answer_to_an_old_term_claims_nothing(void **state) {
    struct world *w = world_new(3);
    struct group_config c = config_of(&w->node[0]);
    struct group_members members = first_snapshot(3).members;
    uint8_t bytes[128];
    group_close(w->node[0].group);
    assert_int_equal(group_open(&w->node[0].group, &c, w->now, 9, 0, &w->node[0].snapshot, NULL, 0), STATUS_OK);
    struct peer_message m = {.kind = PEER_SNAPSHOT, .from = 2, .term = 3};
    m.snapshot.index = 50, m.snapshot.index_term = 3, m.snapshot.members_index = 2;
    m.snapshot.members = slice_of(bytes, group_members_encode(&members, bytes, sizeof bytes));
    deliver_to_first(w, m);
    assert_int_equal(last_sent(w).kind, PEER_APPEND_RESULT);
    assert_int_equal(last_sent(w).term, 9);
    assert_int_equal(last_sent(w).append_result.last_index, 0);
    world_free(w);
}

static void test_a_late_vote_result_moves_no_follower(void **state) {
    struct world *w = world_new(3);
    struct peer_message m = {.kind = PEER_VOTE_RESULT, .from = 2, .term = 9};
    group_tick(w->node[0].group, w->now);
    deliver_to_first(w, m);
    assert_int_equal(group_term(w->node[0].group), 1);
    world_free(w);
}

/* A second membership entry arrives before the first was applied here, and is superseded: the first stays. */
static void test_a_rolled_back_membership_leaves_the_one_before_it(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    struct group_members four = first_snapshot(3).members, five;
    uint8_t bytes[2][128];
    four.member[four.count++] = (struct group_member){4, GROUP_VOTER}, four.index = 3;
    five = four, five.member[five.count++] = (struct group_member){5, GROUP_VOTER}, five.index = 4;
    struct peer_entry e[] = {{2, GROUP_CHANGE, slice_of(bytes[0], group_members_encode(&four, bytes[0], 128))},
                             {2, GROUP_CHANGE, slice_of(bytes[1], group_members_encode(&five, bytes[1], 128))}, {3, GROUP_BARRIER, {0}}};
    struct peer_message m = {.kind = PEER_APPEND, .from = 2, .term = 2};
    m.append.prev_index = 2, m.append.prev_term = 1, m.append.commit = 2, m.append.entries = &e[0], m.append.count = 1;
    deliver_to_first(w, m);
    m.append.prev_index = 3, m.append.prev_term = 2, m.append.commit = 3, m.append.entries = &e[1];
    deliver_to_first(w, m);
    m.from = 3, m.term = 3, m.append.entries = &e[2]; /* another leader, which never had the second */
    deliver_to_first(w, m);
    group_appends_persisted(n->group, w->now, group_append_count(n->group));
    n->story[0] = 0;
    w->now += 5000;
    group_tick(n->group, w->now);
    assert_string_equal(n->story, "sssr"); /* it stands, and asks the three others of four */
    world_free(w);
}

/* ---- members' bytes */

static void test_members_have_one_encoding(void **state) {
    struct group_members m = {.member = {{3, GROUP_VOTER}, {0x0102030405060708, GROUP_LEARNER}, {9, GROUP_SPARE}}, .count = 3, .index = 77}, d;
    uint8_t bytes[128];
    size_t n = group_members_encode(&m, bytes, sizeof bytes);
    assert_golden("group_members", slice_of(bytes, n));
    assert_true(group_members_decode(slice_of(bytes, n), &d));
    assert_true(d.count == 3 && d.index == 77 && d.member[1].node_id == 0x0102030405060708 && d.member[1].kind == GROUP_LEARNER);
    assert_int_equal(group_members_encode(&m, bytes, n - 1), 0);
    group_members_encode(&m, bytes, sizeof bytes);
    for (size_t len = 0; len < n; len++) assert_false(group_members_decode(slice_of(bytes, len), &d));
    assert_false(group_members_decode(slice_of(bytes, n + 1), &d));
    bytes[0] = 2;
    assert_false(group_members_decode(slice_of(bytes, n), &d));
    bytes[0] = 1, bytes[1] = GROUP_MEMBERS_MAX + 1;
    assert_false(group_members_decode(slice_of(bytes, n), &d));
}

/* ---- memory */

static void test_opening_fails_cleanly_at_every_allocation(void **state) {
    struct world *w = world_new(1);
    struct group_config c = config_of(&w->node[0]);
    struct group_entry e[] = {{3, 1, GROUP_COMMAND, SLICE_LIT("one")}, {4, 1, GROUP_COMMAND, SLICE_LIT("two")}};
    for (unsigned voters = 1; voters <= 3; voters += 2) {
        struct group_snapshot s = first_snapshot(voters);
        struct group *g = NULL;
        enum status st = STATUS_MEMORY_LIMIT;
        for (uint64_t n = 1; st; n++) {
            mem_fail_nth(n);
            st = group_open(&g, &c, w->now, 1, 0, &s, e, ARRAY_LEN(e));
            mem_fail_nth(0);
            assert_true(st == STATUS_OK || (st == STATUS_MEMORY_LIMIT && !g));
            assert_true(n < 200);
        }
        group_close(g);
    }
    world_free(w);
}

static void test_a_submit_without_memory_has_no_effect(void **state) {
    struct world *w = world_new(1);
    struct node *n = &w->node[0];
    run(w, 10);
    for (unsigned i = 0; i < 40; i++) { /* over the growth of every ring */
        uint64_t index = 0, last = group_last_index(n->group), appends = group_append_count(n->group);
        uint8_t *data = mem_alloc(4);
        enum status st = STATUS_MEMORY_LIMIT;
        for (uint64_t k = 1; st; k++) {
            assert_int_equal(group_last_index(n->group), last);
            assert_int_equal(group_append_count(n->group), appends);
            n->story[0] = 0;
            mem_fail_nth(k);
            st = group_submit(n->group, w->now, data, 4, &index);
            mem_fail_nth(0);
            if (st) assert_string_equal(n->story, "");
            assert_true(st == STATUS_OK || st == STATUS_MEMORY_LIMIT);
        }
        assert_int_equal(index, last + 1);
        settle(w);
    }
    world_free(w);
}

static void test_a_message_without_memory_is_as_good_as_lost(void **state) {
    struct world *w = world_new(3);
    struct node *n = &w->node[0];
    uint8_t frame[256];
    group_tick(n->group, w->now);
    struct peer_entry e = {2, GROUP_COMMAND, SLICE_LIT("x")};
    struct peer_message m = {.kind = PEER_APPEND, .group = 7, .from = 2, .to = 1, .term = 2};
    m.append.prev_index = 2, m.append.prev_term = 1, m.append.entries = &e, m.append.count = 1;
    struct writer out = writer_of(frame, sizeof frame);
    assert_true(peer_encode(&m, &out));
    mem_fail_nth(1);
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_MEMORY_LIMIT);
    mem_fail_nth(0);
    assert_int_equal(group_last_index(n->group), 2);
    assert_int_equal(group_receive(n->group, w->now, 2, writer_slice(&out)), STATUS_OK);
    assert_int_equal(group_last_index(n->group), 3);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_voter_leads_from_the_first_tick),
        cmocka_unit_test(test_single_voter_commits_what_is_persisted_alone),
        cmocka_unit_test(test_restart_keeps_the_log_and_takes_a_new_term),
        cmocka_unit_test(test_three_elect_one_and_replicate),
        cmocka_unit_test(test_voters_alone_wait_for_each_other),
        cmocka_unit_test(test_effects_come_in_order),
        cmocka_unit_test(test_a_follower_that_was_away_catches_up),
        cmocka_unit_test(test_a_leader_without_majority_steps_down_and_its_entries_are_superseded),
        cmocka_unit_test(test_superseded_appends_do_not_count_as_durable),
        cmocka_unit_test(test_uncommitted_entries_are_bounded),
        cmocka_unit_test(test_an_empty_command_is_a_command),
        cmocka_unit_test(test_one_voter_grows_to_three_and_back),
        cmocka_unit_test(test_membership_steps_are_refused_until_the_last_is_stored_by_all),
        cmocka_unit_test(test_impossible_members_are_refused),
        cmocka_unit_test(test_leadership_is_handed_over),
        cmocka_unit_test(test_restart_from_a_snapshot),
        cmocka_unit_test(test_a_follower_below_the_head_gets_a_snapshot),
        cmocka_unit_test(test_a_disk_that_cannot_be_is_refused),
        cmocka_unit_test(test_an_entry_may_outlive_the_vote_of_its_term),
        cmocka_unit_test(test_frames_that_are_not_for_us_change_nothing),
        cmocka_unit_test(test_a_lagging_member_votes),
        cmocka_unit_test(test_the_refusal_of_a_pre_vote_tells_the_real_term),
        cmocka_unit_test(test_an_append_below_the_commit_index_is_moved_up_to_it),
        cmocka_unit_test(test_an_answer_to_an_old_term_claims_nothing),
        cmocka_unit_test(test_a_late_vote_result_moves_no_follower),
        cmocka_unit_test(test_a_rolled_back_membership_leaves_the_one_before_it),
        cmocka_unit_test(test_members_have_one_encoding),
        cmocka_unit_test(test_opening_fails_cleanly_at_every_allocation),
        cmocka_unit_test(test_a_submit_without_memory_has_no_effect),
        cmocka_unit_test(test_a_message_without_memory_is_as_good_as_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
