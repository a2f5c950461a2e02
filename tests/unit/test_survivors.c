/* The promises of server/survivors.h: what a node that is left tells of itself, and who of several is furthest. */
#include "tests/lib/test.h"

#include "proto/base/mem.h"
#include "server/survivors.h"

enum { PARTITIONS = 2 };
static struct survivor nodes[3];
static struct recover_replica replicas[3][PARTITIONS + 1];
static struct buf out;
static char error[256];

/* Nodes 2, 3 and 4 of five, 1 to 5; all hold all, up to 3:100. */
static int begin(void **state) {
    static const struct group_members five = {.member = {{1, GROUP_VOTER}, {2, GROUP_VOTER}, {3, GROUP_VOTER}, {4, GROUP_VOTER}, {5, GROUP_VOTER}}, .count = 5};
    for (unsigned i = 0; i < 3; i++) {
        nodes[i] = (struct survivor){.node_id = i + 2, .cores = 1, .partitions = PARTITIONS, .cluster_id = {0xa0, 1, 2}, .replicas = replicas[i]};
        for (uint32_t p = 0; p <= PARTITIONS; p++)
            replicas[i][p] = (struct recover_replica){.partition = p == PARTITIONS ? PARTITION_META : p, .applied_index = 90, .applied_term = 3, .last_index = 100, .last_term = 3, .term = 3, .orders = 7, .members = five, .votes = true, .holds = true};
    }
    out.len = 0;
    return 0;
}
static int end(void **state) { return buf_fini(&out), 0; }

static void says(const char *part) {
    assert_true(buf_append(&out, slice_of("", 1)));
    if (!strstr((const char *)out.data, part)) fail_msg("expected '%s' in:\n%s", part, (const char *)out.data);
    out.len--;
}
static void compare(unsigned count) {
    out.len = 0;
    assert_int_equal(survivors_compare(nodes, count, &out, error), STATUS_OK);
    for (size_t i = 0, width = 0; i < out.len; i++) {
        width = out.data[i] == '\n' ? 0 : width + 1;
        assert_true(width <= 80);
    }
}

static void what_is_printed_is_read(void **state) {
    static const char golden[] = "orderdb survivor 1\n"
                                 "node 2 cores 1 partitions 2 cluster a0010200000000000000000000000000\n"
                                 "partition 0 holds 1 votes 1 forgot 0 alone 0 applied 3:90 log 3:100 term 3 orders 7 voters 1,2,3,4,5\n"
                                 "partition 1 holds 0 votes 0 forgot 1 alone 0 applied 0:0 log 0:0 term 4 orders -1 voters -\n"
                                 "partition meta holds 1 votes 1 forgot 0 alone 0 applied 3:90 log 3:100 term 3 orders 7 voters 1,2,3,4,5\n"
                                 "end\n";
    struct survivor back;
    replicas[0][1] = (struct recover_replica){.partition = 1, .term = 4, .orders = -1, .forgot = true};
    assert_true(survivor_print(&nodes[0], &out));
    assert_slice(buf_slice(&out), golden);
    assert_int_equal(survivor_parse(&back, buf_slice(&out), error), STATUS_OK);
    assert_int_equal(back.node_id, 2);
    assert_memory_equal(back.cluster_id, nodes[0].cluster_id, CLUSTER_ID_BYTES);
    out.len = 0;
    assert_true(survivor_print(&back, &out));
    assert_slice(buf_slice(&out), golden);
    survivor_fini(&back);
}

static void what_is_torn_or_changed_is_refused(void **state) {
    struct survivor back;
    assert_true(survivor_print(&nodes[0], &out));
    for (size_t n = 0; n < out.len; n++) {
        assert_int_equal(survivor_parse(&back, slice_of(out.data, n), error), STATUS_FIELD_INVALID);
        survivor_fini(&back);
    }
    static const struct { const char *was, *is, *line; } rows[] = {{"survivor 1", "survivor 2", "line 1"}, {"node 2", "node 0", "line 2"}, {"a001", "a0x1", "line 2"}, {"partitions 2", "partitions 3", "line 5"}, {"partition 1", "partition 7", "line 4"},
                                                                  {"voters 1,", "voters 0,", "line 3"}, {"applied 3:90", "applied 3:+9", "line 3"}, {"holds 1", "holds 3", "line 3"}, {"orders 7 ", "orders 7\t", "line 3"}, {"log 3:", "log x:", "line 3"}, {"\nend", "\nEND", "line 6"}};
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        out.len = 0;
        assert_true(survivor_print(&nodes[0], &out) && buf_append(&out, slice_of("", 1)));
        char *at = strstr((char *)out.data, rows[i].was);
        assert_non_null(at);
        memcpy(at, rows[i].is, strlen(rows[i].is));
        assert_int_equal(survivor_parse(&back, slice_of(out.data, out.len - 1), error), STATUS_FIELD_INVALID);
        if (!strstr(error, rows[i].line)) fail_msg("expected %s: %s", rows[i].line, error);
        survivor_fini(&back);
    }
}

static void a_higher_term_is_further_then_a_longer_log(void **state) {
    replicas[0][0].last_index = 500;                                 /* long, and old */
    replicas[1][0].last_term = 4, replicas[1][0].last_index = 95;
    assert_int_equal(survivors_furthest(nodes, 2, survivors_best(nodes, 2), 0), 1);
    replicas[0][1].last_index = 101;
    assert_int_equal(survivors_furthest(nodes, 2, survivors_best(nodes, 2), 1), 0);
    replicas[0][1].forgot = true;                                    /* what it had acknowledged need not be there */
    assert_int_equal(survivors_furthest(nodes, 2, survivors_best(nodes, 2), 1), 1);
    replicas[0][1].holds = replicas[1][1].holds = false;
    assert_int_equal(survivors_furthest(nodes, 2, survivors_best(nodes, 2), 1), -1);
    assert_int_equal(survivors_best(nodes, 2), 1);
}

static void what_each_lacks_is_told(void **state) {
    replicas[1][0].last_index = 112;
    replicas[1][1].last_term = 5;
    replicas[0][2].holds = false;
    compare(2);
    says("PARTITION  FURTHEST  NODE 2  NODE 3\n");
    says("0                 3   3:100  *3:112\n");
    says("meta              3       -  *3:100\n");
    says("node 2: furthest in 0 of 3, and it lacks\n");
    says("partition 0: the last 12 entries of node 3\n");
    says("partition 1: it ends in term 3, node 3 in term 5: entries after\n    90 may be missing");
    says("partition meta: all of it\n");
    says("node 3: furthest in 3 of 3: it has what any of these has\n");
    says("Node 3 is the one to go on alone: it is furthest in 3 of 3 partitions.\n");
    says("nobody can tell");
    replicas[0][1].holds = false, replicas[1][1].orders = 41;
    compare(2);
    says("partition 1: all of it; node 3 has 41 orders in its tables\n");
}

static void a_majority_needs_no_recovery(void **state) {
    compare(3);
    says("A majority of every partition's voters is here: nothing is lost.");
    replicas[0][1].forgot = true;
    compare(3);
    says("Of 2 of 3 partitions a majority of the voters is here");
    replicas[0][1].holds = replicas[1][1].holds = replicas[2][1].holds = false;
    compare(3);
    says("1 of 3 partitions are on none of these");
}

static void of_one_cluster_alone(void **state) {
    nodes[1].cluster_id[3] = 9;
    assert_int_equal(survivors_compare(nodes, 2, &out, error), STATUS_FIELD_INVALID);
    assert_non_null(strstr(error, "nodes 2 and 3 are not of one cluster"));
    nodes[1].cluster_id[3] = 0, nodes[1].node_id = 2;
    assert_int_equal(survivors_compare(nodes, 2, &out, error), STATUS_FIELD_INVALID);
    assert_non_null(strstr(error, "node 2 is there twice"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void) {
    const struct CMUnitTest tests[] = {
        T(what_is_printed_is_read), T(what_is_torn_or_changed_is_refused), T(a_higher_term_is_further_then_a_longer_log), T(what_each_lacks_is_told), T(a_majority_needs_no_recovery), T(of_one_cluster_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
