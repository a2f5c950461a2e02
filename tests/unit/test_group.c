/* The port around libraft, as group.h promises it: one voter alone, and three in a small world of our own (no delays, no losses: sim_group has
 * those). */
#include "tests/lib/group_world.h"

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
    /* A store that is opened anew has earlier changes applied again, whose entries are no longer in memory. */
    struct group_members now = *group_members(next->group);
    group_members_applied(next->group, w->now, 1);
    assert_memory_equal(group_members(next->group), &now, sizeof now);
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

static void test_a_member_that_is_dead_can_go(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *dead = &w->node[l->id % 3];
    dead->deaf = true;
    assert_int_equal(set_member(l, 9, GROUP_SPARE), STATUS_OK);
    run(w, 500);
    assert_int_equal(set_member(l, 9, 0), STATUS_OVERLOADED); /* it has not stored the last step, and stays */
    assert_int_equal(set_member(l, dead->id, 0), STATUS_OK);
    run(w, 500);
    assert_int_equal(group_members(l->group)->count, 3);
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
        cmocka_unit_test(test_a_member_that_is_dead_can_go),
        cmocka_unit_test(test_impossible_members_are_refused),
        cmocka_unit_test(test_leadership_is_handed_over),
        cmocka_unit_test(test_restart_from_a_snapshot),
        cmocka_unit_test(test_a_follower_below_the_head_gets_a_snapshot),
        cmocka_unit_test(test_opening_fails_cleanly_at_every_allocation),
        cmocka_unit_test(test_a_submit_without_memory_has_no_effect),
        cmocka_unit_test(test_a_message_without_memory_is_as_good_as_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
