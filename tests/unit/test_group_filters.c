/* What the port makes of a disk and of single frames: what it refuses, and the filters that a single frame can show. */
#include "tests/lib/group_world.h"

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

/* Two entries are under way to the heir, which has both, and has stored the first: to be told now would be to be told in vain. Whether it leads half an election timeout later. */
static bool heir_leads(unsigned filters_off, unsigned *told) {
    group_filters_off(filters_off);
    struct world *w = world_new(3);
    group_filters_off(0);
    run(w, 5000);
    struct node *l = leader_of(w), *heir = &w->node[l->id % 3];
    uint64_t index;
    heir->hold_disk = true;
    assert_int_equal(submit(l, "one", &index), STATUS_OK);
    settle(w);
    uint64_t first = group_append_count(heir->group);
    assert_int_equal(submit(l, "two", &index), STATUS_OK);
    settle(w);
    assert_int_equal(group_transfer(l->group, w->now, heir->id), STATUS_OK);
    assert_int_equal(group_transfer(l->group, w->now, heir->id), STATUS_NOT_LEADER); /* one runs */
    assert_int_equal(submit(l, "three", &index), STATUS_NOT_LEADER);
    settle(w);
    l->story[0] = 0;
    group_appends_persisted(heir->group, w->now, first);
    settle(w);
    *told = (unsigned)strlen(l->story);
    heir->hold_disk = false;
    run(w, 500);
    bool leads = leader_of(w) == heir;
    run(w, 3000);
    assert_int_equal(submit(leader_of(w), "on", &index), STATUS_OK);
    world_free(w);
    return leads;
}

/* Filter 14. */
static void test_who_is_to_lead_is_told_when_it_has_stored_all(void **state) {
    unsigned told;
    assert_true(heir_leads(0, &told));
    assert_int_equal(told, 0);
    assert_false(heir_leads(FILTER_TRANSFER_EARLY, &told));
    assert_int_equal(told, 1);
}

/* It never stores all: after an election timeout the leader goes on. */
static void test_a_transfer_to_who_is_silent_ends(void **state) {
    struct world *w = world_new(3);
    run(w, 5000);
    struct node *l = leader_of(w), *heir = &w->node[l->id % 3];
    uint64_t index;
    heir->deaf = true;
    assert_int_equal(submit(l, "one", &index), STATUS_OK);
    settle(w);
    assert_int_equal(group_transfer(l->group, w->now, heir->id), STATUS_OK);
    run(w, 500);
    assert_int_equal(submit(l, "two", &index), STATUS_NOT_LEADER);
    run(w, 800);
    assert_ptr_equal(leader_of(w), l);
    assert_int_equal(submit(l, "two", &index), STATUS_OK);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_disk_that_cannot_be_is_refused),
        cmocka_unit_test(test_an_entry_may_outlive_the_vote_of_its_term),
        cmocka_unit_test(test_frames_that_are_not_for_us_change_nothing),
        cmocka_unit_test(test_a_lagging_member_votes),
        cmocka_unit_test(test_the_refusal_of_a_pre_vote_tells_the_real_term),
        cmocka_unit_test(test_an_append_below_the_commit_index_is_moved_up_to_it),
        cmocka_unit_test(test_an_answer_to_an_old_term_claims_nothing),
        cmocka_unit_test(test_a_late_vote_result_moves_no_follower),
        cmocka_unit_test(test_a_rolled_back_membership_leaves_the_one_before_it),
        cmocka_unit_test(test_who_is_to_lead_is_told_when_it_has_stored_all),
        cmocka_unit_test(test_a_transfer_to_who_is_silent_ends),
        cmocka_unit_test(test_members_have_one_encoding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
