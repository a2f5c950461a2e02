/* engine/placement.h: which nodes hold which partition. */
#include "engine/placement.h"
#include "tests/lib/node_rows.h"
#include "tests/lib/test.h"

enum { PARTITIONS = 64 };

static uint8_t bytes[8192];
static struct node_row rows[NODE_ROWS_MAX];
static unsigned row_count;
static struct placement map[PARTITIONS + 1], before[PARTITIONS + 1];

static struct slice list(void) { return node_rows_list(bytes, sizeof bytes, rows, row_count); }

/* Nodes 1, 2, ...: a letter each is its zone. */
static void nodes(const char *zones) {
    row_count = (unsigned)strlen(zones);
    for (unsigned i = 0; i < row_count; i++) rows[i] = (struct node_row){.node_id = i + 1, .state = NODE_STATE_UP, .revision = 1, .zone = slice_of((const uint8_t *)&zones[i], 1)};
}

static void make(uint32_t replicas, const char *lead_zone) {
    memcpy(before, map, sizeof map);
    placement_make(list(), replicas, slice_str(lead_zone), PARTITIONS, map);
}

static bool holds(const struct placement *p, uint64_t id) {
    for (uint32_t i = 0; i < p->members.count; i++)
        if (p->members.node_id[i] == id) return true;
    return false;
}
static unsigned load(uint64_t id) {
    unsigned n = 0;
    for (unsigned p = 0; p < PARTITIONS; p++) n += holds(&map[p], id);
    return n;
}
static unsigned leads(uint64_t id) {
    unsigned n = 0;
    for (unsigned p = 0; p < PARTITIONS; p++) n += map[p].leader == id;
    return n;
}
/* Replicas that stand where there was none of the partition before. */
static unsigned moved(void) {
    unsigned n = 0;
    for (unsigned p = 0; p < PARTITIONS; p++)
        for (uint32_t i = 0; i < map[p].members.count; i++) n += !holds(&before[p], map[p].members.node_id[i]);
    return n;
}
static unsigned zones_of(const struct placement *p) {
    unsigned n = 0, seen[256] = {0};
    for (uint32_t i = 0; i < p->members.count; i++) n += seen[rows[p->members.node_id[i] - 1].zone.data[0]]++ == 0;
    return n;
}
static void assert_even(unsigned nodes_count, unsigned apart) {
    unsigned least = UINT32_MAX, most = 0;
    for (uint64_t id = 1; id <= nodes_count; id++) least = MIN_OF(least, load(id)), most = MAX_OF(most, load(id));
    if (most - least > apart) fail_msg("%u to %u replicas a node", least, most);
}

static void all_hold_all_where_there_are_no_more(void **state) {
    nodes("abc");
    make(3, "");
    for (unsigned p = 0; p <= PARTITIONS; p++) {
        assert_int_equal(map[p].members.count, 3);
        for (uint32_t i = 0; i < 3; i++) assert_int_equal(map[p].members.node_id[i], i + 1);
        assert_int_equal(map[p].leader, p % 3 + 1);
    }
    make(7, "");
    assert_int_equal(map[5].members.count, 3);
    make(1, "");
    assert_int_equal(map[5].members.count, 1);
    assert_int_equal(map[PARTITIONS].members.count, 3); /* the meta partition's, however many are asked for */
}

static void the_same_rows_give_the_same(void **state) {
    nodes("aabbc");
    make(3, "");
    make(3, "");
    assert_memory_equal(before, map, sizeof map);
}

static void replicas_stand_in_different_zones(void **state) {
    static const struct { const char *zones; uint32_t replicas; unsigned expected; } cases[] = {{"aabbcc", 3, 3}, {"abcde", 3, 3}, {"aaabc", 3, 3}, {"aabb", 3, 2}, {"aabbc", 5, 3}, {"aaaa", 3, 1}, {"aaaaab", 3, 2}, {"abcdefg", 3, 3}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        nodes(cases[i].zones);
        make(cases[i].replicas, "");
        for (unsigned p = 0; p < PARTITIONS; p++) {
            assert_int_equal(map[p].members.count, cases[i].replicas);
            assert_int_equal(zones_of(&map[p]), cases[i].expected);
            for (uint32_t k = 1; k < map[p].members.count; k++) assert_true(map[p].members.node_id[k] > map[p].members.node_id[k - 1]);
            assert_true(holds(&map[p], map[p].leader));
        }
    }
}

static void loads_are_even(void **state) {
    static const char *const cases[] = {"aaaa", "aabbcc", "abcde", "aabbccd", "aaaaaaa", "abcd"};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        nodes(cases[i]);
        make(3, "");
        assert_even(row_count, i == 3 ? 8 : 1); /* one alone in its zone gets more */
        unsigned least = UINT32_MAX, most = 0;
        for (uint64_t id = 1; id <= row_count; id++) least = MIN_OF(least, leads(id)), most = MAX_OF(most, leads(id));
        assert_true(most - least <= 3);
    }
    nodes("aab"); /* and where zones come first, inside them */
    make(2, "");
    assert_int_equal(load(3), PARTITIONS);
    assert_int_equal(load(1), PARTITIONS / 2);
}

static void who_comes_or_goes_moves_few(void **state) {
    nodes("abcde");
    make(3, "");
    row_count = 6, rows[5] = (struct node_row){.node_id = 6, .state = NODE_STATE_UP, .revision = 1, .zone = SLICE_LIT("f")};
    make(3, "");
    unsigned due = load(6);
    assert_true(due >= PARTITIONS * 3 / 6 - 1);
    if (moved() < due || moved() > due + PARTITIONS / 4) fail_msg("%u moved, %u had to", moved(), due);
    for (uint64_t id = 1; id <= 6; id++) {
        make(3, "");
        unsigned had = load(id);
        rows[id - 1].state = NODE_STATE_LOST;
        make(3, "");
        assert_int_equal(load(id), 0);
        if (moved() < had || moved() > had + PARTITIONS / 4) fail_msg("node %u: %u moved, %u had to", (unsigned)id, moved(), had);
        rows[id - 1].state = NODE_STATE_UP;
    }
}

static void a_zone_that_lost_a_node_takes_over_itself(void **state) {
    nodes("aabbcc");
    make(3, "");
    rows[1].state = NODE_STATE_LOST;
    make(3, "");
    for (unsigned p = 0; p < PARTITIONS; p++) {
        assert_true(holds(&map[p], 1));
        assert_int_equal(zones_of(&map[p]), 3);
    }
    assert_true(moved() >= PARTITIONS / 4 && moved() <= PARTITIONS * 3 / 4);
}

static void nobody_is_missed_before_somebody_can_take_over(void **state) {
    nodes("abcd");
    rows[3].state = NODE_STATE_LOST;
    make(3, "");
    for (unsigned p = 0; p <= PARTITIONS; p++) assert_true(map[p].members.count == 3 && !holds(&map[p], 4));
    rows[2].state = NODE_STATE_LOST;
    make(3, "");
    for (unsigned p = 0; p <= PARTITIONS; p++) {
        assert_int_equal(map[p].members.count, 3); /* one of the two lost ones stays */
        assert_true(holds(&map[p], 1) && holds(&map[p], 2) && map[p].leader < 3);
    }
}

static void who_drains_holds_and_does_not_lead_and_others_do_neither(void **state) {
    nodes("abcdef");
    rows[0].state = NODE_STATE_DRAINING, rows[1].state = NODE_STATE_JOINED, rows[2].state = NODE_STATE_LEAVING, rows[3].state = NODE_STATE_REMOVED;
    make(3, "");
    for (unsigned p = 0; p <= PARTITIONS; p++) {
        assert_int_equal(map[p].members.count, 3);
        assert_true(holds(&map[p], 1) && holds(&map[p], 5) && holds(&map[p], 6));
        assert_true(map[p].leader >= 5);
    }
    rows[4].state = rows[5].state = NODE_STATE_DRAINING;
    make(3, "");
    assert_int_equal(map[0].leader, 0);
}

static void leads_go_to_the_zone_that_is_to_have_them(void **state) {
    nodes("aabbc");
    make(3, "b");
    for (unsigned p = 0; p < PARTITIONS; p++) assert_true(map[p].leader == 3 || map[p].leader == 4);
    nodes("abcde");
    make(3, "b");
    for (unsigned p = 0; p < PARTITIONS; p++) assert_true(map[p].leader == 2 || !holds(&map[p], 2));
    make(3, "nowhere");
    assert_true(leads(2) < PARTITIONS / 2);
}

static void what_is_no_list_gives_nothing(void **state) {
    nodes("abc");
    struct slice good = list();
    placement_make(slice_of(good.data, good.len - 1), 3, (struct slice){0}, PARTITIONS, map);
    for (unsigned p = 0; p <= PARTITIONS; p++) assert_true(map[p].members.count == 0 && map[p].leader == 0);
    placement_make((struct slice){0}, 3, (struct slice){0}, PARTITIONS, map);
    assert_int_equal(map[0].members.count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_hold_all_where_there_are_no_more), cmocka_unit_test(the_same_rows_give_the_same), cmocka_unit_test(replicas_stand_in_different_zones), cmocka_unit_test(loads_are_even),
        cmocka_unit_test(who_comes_or_goes_moves_few), cmocka_unit_test(a_zone_that_lost_a_node_takes_over_itself), cmocka_unit_test(nobody_is_missed_before_somebody_can_take_over),
        cmocka_unit_test(who_drains_holds_and_does_not_lead_and_others_do_neither), cmocka_unit_test(leads_go_to_the_zone_that_is_to_have_them), cmocka_unit_test(what_is_no_list_gives_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
