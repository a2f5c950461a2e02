/* engine/node_row.h and apply_node.c: rows, lists, and what the meta partition decides about nodes. */
#include "tests/lib/apply_fixture.h"
#include "tests/lib/test.h"

#include "engine/node_row.h"
#include "engine/resource.h"

static struct outcome applied(struct command_node node) {
    struct outcome o = {0};
    struct command c = {.type = COMMAND_NODE, .node = node};
    struct slice bytes = command_encode(&c, &arena);
    assert_int_equal(rig_apply(&rig, now_us += 1000, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}
static struct outcome act(enum node_action action, uint64_t id) { return applied((struct command_node){.action = (uint8_t)action, .node_id = id}); }
static struct outcome join(uint64_t id, const char *address) { return applied((struct command_node){.action = NODE_JOIN, .node_id = id, .zone = SLICE_LIT("z"), .address = slice_str(address)}); }

static struct outcome found(unsigned count) {
    uint8_t bytes[1024];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (uint64_t id = 1; id <= count; id++) node_founder_encode(&(struct node_row){.node_id = id, .zone = SLICE_LIT("z"), .address = SLICE_LIT("10.0.0.1:1")}, &w);
    return applied((struct command_node){.action = NODE_FOUND, .founders = writer_slice(&w)});
}

static struct slice list(void) {
    struct query q = {.view = {.store = rig.store}, .arena = &arena};
    struct slice s;
    assert_int_equal(query_nodes(&q, &s), STATUS_OK);
    return s;
}
/* 0: it is not there. */
static enum node_row_state state_of(uint64_t id) {
    struct slice s = list();
    struct reader r = reader_of(s);
    for (struct node_row row; node_list_next(&r, &row);)
        if (row.node_id == id) return row.state;
    assert_false(r.bad);
    return 0;
}

static void refused(struct outcome o, enum status why, const char *words) {
    struct failure f;
    failure_init(&f, &arena);
    assert_int_equal(o.status, why);
    outcome_failure(&o, ms, &f);
    assert_int_equal(f.status, why);
    if (!strstr(f.message, words)) fail_msg("\"%s\" does not hold \"%s\"", f.message, words);
}

static void rows_are_golden(void **state) {
    uint8_t bytes[NODE_ROW_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct node_row row = {.node_id = 4, .state = NODE_STATE_DRAINING, .revision = 7, .zone = SLICE_LIT("zone-a"), .address = SLICE_LIT("10.0.0.4:7401")}, back;
    node_row_encode(&row, &w);
    assert_golden("node_row", writer_slice(&w));
    assert_int_equal(node_row_decode(writer_slice(&w), 4, &back), STATUS_OK);
    assert_true(back.node_id == 4 && back.state == NODE_STATE_DRAINING && back.revision == 7);
    assert_slice(back.zone, "zone-a");
    assert_slice(back.address, "10.0.0.4:7401");
    assert_int_equal(node_row_decode(writer_slice(&w), 0, &back), STATUS_CHECKSUM_MISMATCH);
    for (size_t n = 0; n < w.len; n++) assert_int_not_equal(node_row_decode(slice_of(bytes, n), 4, &back), STATUS_OK);
    bytes[1] = NODE_STATE_LOST + 1;
    assert_int_equal(node_row_decode(writer_slice(&w), 4, &back), STATUS_CHECKSUM_MISMATCH);
    bytes[0] = 2;
    assert_int_equal(node_row_decode(writer_slice(&w), 4, &back), STATUS_FORMAT_UNKNOWN);
}

static void founders_come_all_at_once_and_only_once(void **state) {
    refused(join(4, "10.0.0.4:1"), STATUS_NODE_STATE, "no nodes yet");
    assert_int_equal(found(3).resource.effect, RESOURCE_CREATED);
    for (uint64_t id = 1; id <= 3; id++) assert_int_equal(state_of(id), NODE_STATE_UP);
    uint64_t epoch = node_list_epoch(list());
    assert_int_equal(found(5).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(state_of(4), 0);
    assert_int_equal(node_list_epoch(list()), epoch);
}

static void a_node_joins_is_added_drains_and_goes_for_ever(void **state) {
    (void)found(3);
    assert_int_equal(join(4, "10.0.0.4:1").resource.effect, RESOURCE_CREATED);
    assert_int_equal(join(4, "10.0.0.4:1").resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(join(4, "10.0.0.4:2").resource.effect, RESOURCE_REPLACED); /* it moved before it was added */
    assert_int_equal(state_of(4), NODE_STATE_JOINED);
    refused(act(NODE_DRAIN, 4), STATUS_NODE_STATE, "JOINED");
    assert_int_equal(act(NODE_ADD, 4).resource.effect, RESOURCE_REPLACED);
    assert_int_equal(act(NODE_ADD, 4).resource.effect, RESOURCE_UNCHANGED);
    refused(join(4, "10.0.0.4:2"), STATUS_NODE_STATE, "member already: UP");
    assert_int_equal(act(NODE_DRAIN, 4).status, STATUS_OK);
    assert_int_equal(state_of(4), NODE_STATE_DRAINING);
    assert_int_equal(act(NODE_ADD, 4).status, STATUS_OK); /* back */
    assert_int_equal(state_of(4), NODE_STATE_UP);
    refused(act(NODE_GONE, 4), STATUS_NODE_STATE, "UP");
    assert_int_equal(act(NODE_REMOVE, 4).status, STATUS_OK);
    assert_int_equal(act(NODE_ADD, 4).status, STATUS_OK); /* it is not gone yet */
    assert_int_equal(act(NODE_REMOVE, 4).status, STATUS_OK);
    assert_int_equal(act(NODE_GONE, 4).status, STATUS_OK);
    assert_int_equal(act(NODE_GONE, 4).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(act(NODE_REMOVE, 4).resource.effect, RESOURCE_UNCHANGED);
    refused(act(NODE_ADD, 4), STATUS_NODE_STATE, "REMOVED");
    refused(join(4, "10.0.0.4:2"), STATUS_NODE_STATE, "does not come back");
    refused(act(NODE_REMOVE, 9), STATUS_NODE_NOT_FOUND, "node 9");
}

static void the_last_member_stays_and_no_more_than_seven_come(void **state) {
    (void)found(2);
    assert_int_equal(act(NODE_REMOVE, 1).status, STATUS_OK);
    refused(act(NODE_REMOVE, 2), STATUS_NODE_STATE, "last member");
    for (uint64_t id = 3; id <= 7; id++) assert_int_equal(join(id, "10.0.0.4:1").status, STATUS_OK);
    refused(join(8, "10.0.0.4:1"), STATUS_LIMIT_EXCEEDED, "seven");
    assert_int_equal(act(NODE_GONE, 1).status, STATUS_OK);
    assert_int_equal(join(8, "10.0.0.4:1").status, STATUS_OK); /* in its place */
}

static void who_goes_on_alone_is_up_and_other_members_leave(void **state) {
    (void)found(3);
    assert_int_equal(act(NODE_ALONE, 9).resource.effect, RESOURCE_UNCHANGED); /* it has no row */
    assert_int_equal(act(NODE_DRAIN, 2).status, STATUS_OK);
    assert_int_equal(join(4, "10.0.0.4:1").status, STATUS_OK);
    assert_int_equal(join(5, "10.0.0.5:1").status, STATUS_OK);
    assert_int_equal(act(NODE_REMOVE, 5).status, STATUS_OK);
    assert_int_equal(act(NODE_GONE, 5).status, STATUS_OK);
    uint64_t epoch = node_list_epoch(list());
    assert_int_equal(act(NODE_ALONE, 2).resource.effect, RESOURCE_REPLACED);
    static const enum node_row_state after[] = {NODE_STATE_LEAVING, NODE_STATE_UP, NODE_STATE_LEAVING, NODE_STATE_JOINED, NODE_STATE_REMOVED};
    for (uint64_t id = 1; id <= 5; id++) assert_int_equal(state_of(id), after[id - 1]);
    assert_int_equal(node_list_epoch(list()), epoch + 3);
    assert_int_equal(act(NODE_ALONE, 2).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(node_list_epoch(list()), epoch + 3);
}

static void a_node_that_is_lost_comes_back(void **state) {
    (void)found(3);
    assert_int_equal(act(NODE_LOSE, 2).resource.effect, RESOURCE_REPLACED);
    assert_int_equal(act(NODE_LOSE, 2).resource.effect, RESOURCE_UNCHANGED); /* by two leaders */
    assert_int_equal(state_of(2), NODE_STATE_LOST);
    refused(join(2, "10.0.0.2:1"), STATUS_NODE_STATE, "member already: LOST");
    refused(act(NODE_DRAIN, 2), STATUS_NODE_STATE, "LOST");
    assert_int_equal(act(NODE_BACK, 2).resource.effect, RESOURCE_REPLACED);
    assert_int_equal(act(NODE_BACK, 2).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(state_of(2), NODE_STATE_UP);
    assert_int_equal(act(NODE_DRAIN, 2).status, STATUS_OK);
    refused(act(NODE_LOSE, 2), STATUS_NODE_STATE, "DRAINING"); /* somebody means to bring it back */
    refused(act(NODE_BACK, 2), STATUS_NODE_STATE, "DRAINING");
    assert_int_equal(act(NODE_LOSE, 1).status, STATUS_OK);
    assert_int_equal(act(NODE_LOSE, 3).status, STATUS_OK);
    assert_int_equal(act(NODE_REMOVE, 3).status, STATUS_OK); /* for good */
    assert_int_equal(state_of(3), NODE_STATE_LEAVING);
    refused(act(NODE_REMOVE, 2), STATUS_NODE_STATE, "last member");
    assert_int_equal(act(NODE_ADD, 1).status, STATUS_OK);
    assert_int_equal(state_of(1), NODE_STATE_UP);
}

int main(void) {
#define EACH(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_golden), EACH(founders_come_all_at_once_and_only_once), EACH(a_node_joins_is_added_drains_and_goes_for_ever),
                                       EACH(the_last_member_stays_and_no_more_than_seven_come), EACH(who_goes_on_alone_is_up_and_other_members_leave), EACH(a_node_that_is_lost_comes_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
