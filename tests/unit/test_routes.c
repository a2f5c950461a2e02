/* The promises of client/routes.h: where calls go, who is left alone, for how long. */
#include "tests/lib/test.h"

#include "client/message.h"
#include "client/routes.h"

enum { NODES = 3, SLOTS_EACH = SLOT_COUNT / 4 };
static struct routes r;

/* A topology of `partitions` of 4096 slots each, led by leaders[i]; nodes 1 to 3 at 10.0.0.N:7400, states[i] NULL: UP. */
static struct {
    Orderdb__V1__Topology t;
    Orderdb__V1__Topology__Node node[NODES], *nodes[NODES];
    Orderdb__V1__Topology__Partition partition[4], *partitions[4];
    Orderdb__V1__Topology__SlotRange range[4], *ranges[4];
    char address[NODES][32];
} m;

static void topology_make(int64_t epoch, int64_t term, const uint64_t leaders[4]) {
    m.t = (Orderdb__V1__Topology)ORDERDB__V1__TOPOLOGY__INIT;
    m.t.epoch = epoch, m.t.n_nodes = NODES, m.t.nodes = m.nodes, m.t.n_partitions = 4, m.t.partitions = m.partitions;
    for (int i = 0; i < NODES; i++) {
        orderdb__v1__topology__node__init(m.nodes[i] = &m.node[i]);
        snprintf(m.address[i], sizeof m.address[i], "10.0.0.%d:7400", i + 1);
        m.node[i].node_id = (uint64_t)i + 1, m.node[i].client_address = m.address[i], m.node[i].state = "UP";
    }
    for (int i = 0; i < 4; i++) {
        orderdb__v1__topology__partition__init(m.partitions[i] = &m.partition[i]);
        orderdb__v1__topology__slot_range__init(m.ranges[i] = &m.range[i]);
        m.range[i].first = i * SLOTS_EACH, m.range[i].last = (i + 1) * SLOTS_EACH - 1;
        m.partition[i].partition_id = i, m.partition[i].n_slots = 1, m.partition[i].slots = &m.ranges[i];
        m.partition[i].leader_node_id = leaders[i], m.partition[i].term = term;
    }
}

static void learn(int64_t epoch, int64_t term, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    topology_make(epoch, term, (const uint64_t[]){a, b, c, d});
    routes_learn(&r, &m.t);
}

static const char *pick(int slot, uint64_t now) {
    uint64_t at_ns;
    int at = routes_pick(&r, slot, now, &at_ns);
    return at < 0 ? NULL : r.nodes[at].address;
}
static int place(const char *address) {
    for (uint32_t i = 0; i < r.count; i++)
        if (strcmp(r.nodes[i].address, address) == 0) return (int)i;
    fail();
    return -1;
}

static int open_routes(void **state) {
    routes_init(&r, 0);
    assert_true(routes_add_seed(&r, "10.0.0.1:7400"));
    return 0;
}

static void test_before_a_topology_calls_go_to_seeds_by_turns(void **state) {
    assert_true(routes_add_seed(&r, "seed-2:7400"));
    assert_true(routes_add_seed(&r, "seed-2:7400")); /* once */
    assert_int_equal(r.count, 2);
    const char *first = pick(5, 1), *second = pick(5, 1);
    assert_string_not_equal(first, second);
    assert_string_equal(pick(ROUTES_SLOT_NONE, 1), first);
    assert_int_equal(routes_leader(&r, 5), -1);
}

static void test_seeds_are_bounded(void **state) {
    char text[ROUTES_ADDRESS_BYTES + 2];
    for (int i = 1; i < ROUTES_SEEDS_MAX; i++) {
        snprintf(text, sizeof text, "s%d:1", i);
        assert_true(routes_add_seed(&r, text));
    }
    assert_false(routes_add_seed(&r, "one-more:1"));
    assert_false(routes_add_seed(&r, ""));
    memset(text, 'x', sizeof text);
    text[ROUTES_ADDRESS_BYTES] = 0;
    routes_init(&r, 0);
    assert_false(routes_add_seed(&r, text));
    text[ROUTES_ADDRESS_BYTES - 1] = 0;
    assert_true(routes_add_seed(&r, text));
}

static void test_calls_go_to_the_leader_of_their_slot(void **state) {
    learn(1, 7, 1, 2, 3, 1);
    assert_int_equal(r.count, 3); /* the seed is node 1 */
    assert_string_equal(pick(0, 1), "10.0.0.1:7400");
    assert_string_equal(pick(SLOTS_EACH, 1), "10.0.0.2:7400");
    assert_string_equal(pick(3 * SLOTS_EACH - 1, 1), "10.0.0.3:7400");
    assert_string_equal(pick(SLOT_COUNT - 1, 1), "10.0.0.1:7400");
    assert_non_null(pick(SLOT_COUNT, 1)); /* no such slot: any */
}

static void test_of_two_topologies_the_higher_term_is_right(void **state) {
    learn(1, 7, 1, 1, 1, 1);
    learn(1, 8, 2, 2, 2, 2);
    learn(1, 7, 3, 3, 3, 3); /* of a node that is behind */
    assert_string_equal(pick(0, 1), "10.0.0.2:7400");
    learn(1, 8, 0, 3, 2, 2); /* the same term: nobody leads just now */
    assert_int_equal(routes_leader(&r, 0), -1);
    assert_string_equal(pick(SLOTS_EACH, 1), "10.0.0.3:7400");
}

static void test_an_answer_by_way_of_another_node_tells_the_leader(void **state) {
    routes_hint(&r, 0, 2); /* of a partition that is not known yet: nothing */
    assert_int_equal(routes_leader(&r, 0), -1);
    learn(1, 7, 1, 1, 1, 1);
    routes_hint(&r, 0, 2);
    assert_string_equal(pick(SLOTS_EACH - 1, 1), "10.0.0.2:7400"); /* the whole partition */
    assert_string_equal(pick(SLOTS_EACH, 1), "10.0.0.1:7400");
    routes_hint(&r, 0, 99); /* a node that no topology names */
    assert_non_null(pick(0, 1));
    routes_hint(&r, ROUTES_SLOT_NONE, 2);
}

static void test_what_cannot_be_used_is_left_out(void **state) {
    topology_make(1, 1, (const uint64_t[]){1, 2, 3, 0});
    m.node[1].client_address = "0.0.0.0:7400"; /* listens everywhere, and says nowhere */
    m.node[2].client_address = "[::]:7400";
    m.range[0].last = SLOT_COUNT, m.range[1].first = -1;
    m.partition[2].partition_id = ROUTES_PARTITIONS_MAX;
    m.partition[3].partition_id = -1;
    routes_learn(&r, &m.t);
    assert_int_equal(r.count, 1);
    for (int slot = 0; slot < SLOT_COUNT; slot += SLOTS_EACH) assert_int_equal(routes_leader(&r, slot), -1);
    assert_string_equal(pick(0, 1), "10.0.0.1:7400");
}

static void test_the_leader_that_fails_is_out_and_others_take_its_calls(void **state) {
    learn(1, 7, 2, 2, 2, 2);
    int two = place("10.0.0.2:7400");
    uint64_t now = NS_PER_S;
    routes_failed(&r, two, now);
    for (int i = 0; i < 6; i++) assert_string_not_equal(pick(0, now), "10.0.0.2:7400");
    assert_string_not_equal(pick(0, now + 49 * NS_PER_MS), "10.0.0.2:7400");
    assert_string_equal(pick(0, now + 100 * NS_PER_MS), "10.0.0.2:7400"); /* one call tries it */
    r.nodes[two].in_flight = 1;
    assert_string_not_equal(pick(0, now + 100 * NS_PER_MS), "10.0.0.2:7400");
    routes_answered(&r, two);
    assert_string_equal(pick(0, now + 100 * NS_PER_MS), "10.0.0.2:7400");
    r.nodes[two].in_flight = 0;
}

static void test_pauses_double_up_to_ten_seconds(void **state) {
    learn(1, 7, 2, 2, 2, 2);
    int two = place("10.0.0.2:7400");
    uint64_t now = 1, expected = 100 * NS_PER_MS;
    for (int i = 0; i < 20; i++) {
        routes_failed(&r, two, now);
        uint64_t ejections = r.ejections;
        routes_failed(&r, two, now); /* another call of the same connection */
        assert_int_equal(r.ejections, ejections);
        assert_string_not_equal(pick(0, now + expected / 2 - 1), "10.0.0.2:7400");
        assert_string_equal(pick(0, now + expected), "10.0.0.2:7400");
        now += expected;
        expected = MIN_OF(expected * 2, 10 * NS_PER_S);
    }
    assert_int_equal(expected, 10 * NS_PER_S);
    routes_answered(&r, two);
    routes_failed(&r, two, now);
    assert_string_equal(pick(0, now + 100 * NS_PER_MS), "10.0.0.2:7400"); /* from the beginning */
}

static void test_when_nobody_is_well_it_says_when(void **state) {
    learn(1, 7, 1, 1, 1, 1);
    uint64_t at_ns, now = NS_PER_S;
    for (uint32_t i = 0; i < r.count; i++) routes_failed(&r, (int)i, now);
    assert_false(routes_any_well(&r, now));
    assert_int_equal(routes_pick(&r, 0, now, &at_ns), -1);
    assert_true(at_ns >= now + 50 * NS_PER_MS && at_ns <= now + 100 * NS_PER_MS);
    assert_true(routes_any_well(&r, now + 100 * NS_PER_MS));
    assert_true(routes_pick(&r, 0, at_ns, &at_ns) >= 0);
}

static void test_calls_of_nobody_spread_by_load(void **state) {
    learn(1, 7, 0, 0, 0, 0);
    r.nodes[place("10.0.0.1:7400")].in_flight = 3, r.nodes[place("10.0.0.2:7400")].in_flight = 1, r.nodes[place("10.0.0.3:7400")].in_flight = 2;
    assert_string_equal(pick(0, 1), "10.0.0.2:7400");
}

static void test_nodes_that_drain_and_seeds_that_no_topology_names_come_last(void **state) {
    assert_true(routes_add_seed(&r, "name:7400"));
    topology_make(1, 1, (const uint64_t[]){0, 0, 0, 0});
    m.node[0].state = "DRAINING", m.node[1].state = "REMOVED";
    routes_learn(&r, &m.t);
    for (int i = 0; i < 4; i++) assert_string_equal(pick(0, 1), "10.0.0.3:7400");
    routes_failed(&r, place("10.0.0.3:7400"), 1);
    const char *a = pick(0, 1), *b = pick(0, 1);
    assert_true(strcmp(a, "10.0.0.3:7400") != 0 && strcmp(b, "10.0.0.3:7400") != 0 && strcmp(a, b) != 0);
    for (int i = 0; i < 4; i++) assert_string_not_equal(pick(0, 1), "10.0.0.2:7400"); /* it is no node any more */
}

static void test_a_node_that_moved_is_found_where_it_is(void **state) {
    learn(1, 1, 2, 2, 2, 2);
    topology_make(1, 1, (const uint64_t[]){2, 2, 2, 2});
    m.node[1].client_address = "10.0.0.22:7400";
    routes_learn(&r, &m.t);
    assert_string_equal(pick(0, 1), "10.0.0.22:7400");
}

static void test_topologies_of_an_older_epoch_change_no_nodes(void **state) {
    learn(5, 1, 1, 1, 1, 1);
    topology_make(4, 2, (const uint64_t[]){2, 2, 2, 2});
    m.t.n_nodes = 1;
    routes_learn(&r, &m.t);
    assert_string_equal(pick(0, 1), "10.0.0.2:7400"); /* it is there still, and leads by its higher term */
    assert_int_equal(r.epoch, 5);
}

static void test_places_of_nodes_that_are_gone_are_used_again(void **state) {
    for (int i = 0; i < 200; i++) {
        topology_make(1 + i, 1, (const uint64_t[]){2, 2, 2, 2});
        char address[32];
        snprintf(address, sizeof address, "10.1.0.%d:7400", i);
        m.node[1].client_address = address, m.node[1].node_id = 2 + (uint64_t)i;
        m.t.n_nodes = 2;
        routes_learn(&r, &m.t);
    }
    assert_true(r.count <= 3);
    int at = place("10.1.0.199:7400");
    r.nodes[at].in_flight = 1; /* a call is there still: its place is not given away */
    topology_make(500, 1, (const uint64_t[]){2, 2, 2, 2});
    routes_learn(&r, &m.t);
    assert_string_equal(r.nodes[at].address, "10.1.0.199:7400");
}

static int slot_of(const char *method, const ProtobufCMessage *request) {
    char path[80];
    struct buf b = {0};
    snprintf(path, sizeof path, "/orderdb.v1.OrderService/%s", method);
    assert_true(message_pack(&b, request));
    int slot = routes_slot_of(path, buf_slice(&b));
    buf_fini(&b);
    return slot;
}

static void test_requests_tell_their_slot(void **state) {
    int64_t id = order_id_make(ORDER_EPOCH_MS + 5000, 1234, 1), ids[] = {id, 77};
    int ann = slot_of_user(SLICE_LIT("ann"));
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    order.user_id = "ann";
    Orderdb__V1__CreateOrderRequest create = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT, *creates[] = {&create};
    create.order = &order;
    assert_int_equal(slot_of("CreateOrder", &create.base), ann);
    Orderdb__V1__BatchCreateOrdersRequest batch = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
    assert_int_equal(slot_of("BatchCreateOrders", &batch.base), ROUTES_SLOT_NONE);
    batch.n_requests = 1, batch.requests = creates;
    assert_int_equal(slot_of("BatchCreateOrders", &batch.base), ann);
    Orderdb__V1__UpdateOrderRequest update = ORDERDB__V1__UPDATE_ORDER_REQUEST__INIT;
    assert_int_equal(slot_of("UpdateOrder", &update.base), ROUTES_SLOT_NONE);
    Orderdb__V1__Order changed = ORDERDB__V1__ORDER__INIT;
    changed.order_id = id;
    update.order = &changed;
    assert_int_equal(slot_of("UpdateOrder", &update.base), 1234);
    Orderdb__V1__TransitionOrderRequest transition = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT, *transitions[] = {&transition};
    transition.order_id = id;
    assert_int_equal(slot_of("TransitionOrder", &transition.base), 1234);
    Orderdb__V1__BatchTransitionOrdersRequest pays = ORDERDB__V1__BATCH_TRANSITION_ORDERS_REQUEST__INIT;
    pays.n_requests = 1, pays.requests = transitions;
    assert_int_equal(slot_of("BatchTransitionOrders", &pays.base), 1234);
    Orderdb__V1__GetOrderRequest get = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    assert_int_equal(slot_of("GetOrder", &get.base), ROUTES_SLOT_NONE);
    get.order_id = id;
    assert_int_equal(slot_of("GetOrder", &get.base), 1234);
    Orderdb__V1__BatchGetOrdersRequest gets = ORDERDB__V1__BATCH_GET_ORDERS_REQUEST__INIT;
    gets.n_order_ids = 2, gets.order_ids = ids;
    assert_int_equal(slot_of("BatchGetOrders", &gets.base), 1234);
    Orderdb__V1__ListOrderHistoryRequest history = ORDERDB__V1__LIST_ORDER_HISTORY_REQUEST__INIT;
    history.order_id = id;
    assert_int_equal(slot_of("ListOrderHistory", &history.base), 1234);
    Orderdb__V1__ListOrdersRequest list = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    list.user_id = "ann";
    assert_int_equal(slot_of("ListOrders", &list.base), ann);
    Orderdb__V1__GetRequestOutcomeRequest outcome = ORDERDB__V1__GET_REQUEST_OUTCOME_REQUEST__INIT;
    outcome.user_id = "ann";
    assert_int_equal(slot_of("GetRequestOutcome", &outcome.base), ann);
    Orderdb__V1__SetOrderTimerRequest timer = ORDERDB__V1__SET_ORDER_TIMER_REQUEST__INIT;
    timer.order_id = id;
    assert_int_equal(slot_of("SetOrderTimer", &timer.base), 1234);
    assert_int_equal(slot_of("CancelOrderTimer", &timer.base), 1234);
    assert_int_equal(slot_of("SearchOrders", &list.base), ROUTES_SLOT_NONE);
    assert_int_equal(routes_slot_of("/orderdb.v1.OrderService/CreateOrder", SLICE_LIT("\xff\xff\xff")), ROUTES_SLOT_NONE); /* malformed: the server will say so */
    assert_int_equal(routes_slot_of("/orderdb.v1.OrderService/GetOrder", SLICE_LIT("\x0a\x00")), ROUTES_SLOT_NONE);
}

int main(void) {
#define T(f) cmocka_unit_test_setup(f, open_routes)
    const struct CMUnitTest tests[] = {
        T(test_before_a_topology_calls_go_to_seeds_by_turns),
        T(test_seeds_are_bounded),
        T(test_calls_go_to_the_leader_of_their_slot),
        T(test_of_two_topologies_the_higher_term_is_right),
        T(test_an_answer_by_way_of_another_node_tells_the_leader),
        T(test_what_cannot_be_used_is_left_out),
        T(test_the_leader_that_fails_is_out_and_others_take_its_calls),
        T(test_pauses_double_up_to_ten_seconds),
        T(test_when_nobody_is_well_it_says_when),
        T(test_calls_of_nobody_spread_by_load),
        T(test_nodes_that_drain_and_seeds_that_no_topology_names_come_last),
        T(test_a_node_that_moved_is_found_where_it_is),
        T(test_topologies_of_an_older_epoch_change_no_nodes),
        T(test_places_of_nodes_that_are_gone_are_used_again),
        T(test_requests_tell_their_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
