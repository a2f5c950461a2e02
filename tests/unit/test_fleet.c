/* The promises of client/fleet.h, through the handles that use it: three servers that say what they are told to say, one of them perhaps of nothing else but the topology. */
#include "tests/lib/test.h"

#include <errno.h>
#include <stdatomic.h>

#include "client/fleet.h"
#include "client/orderdb.h"
#include "proto/grpc.h"
#include "proto/route.h"
#include "tests/lib/fake_grpc.h"

enum { SERVERS = 3 };

static struct server {
    struct fake_grpc *fake;
    char address[32];
    atomic_uint calls, watches, failures_left;
    enum fake_action action; /* of the failures */
    atomic_bool no_watch, cut_off; /* cut_off: it sees the others no more */
    struct fake_stream *watch;     /* the server's thread's */
} servers[SERVERS];
static atomic_uint leader; /* of every slot: the place of a server and one; 0: nobody */

static void tell_topology(struct server *s);

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    struct server *s = user;
    if (strcmp(r->path, "/orderdb.v1.AdminService/GetTopology") == 0) { /* its watcher is told what is now */
        if (s->watch) tell_topology(s);
        return;
    }
    if (strcmp(r->path, "/orderdb.v1.AdminService/WatchTopology") == 0) {
        s->watches++;
        out->action = FAKE_STREAM;
        if (s->no_watch) out->action = FAKE_STATUS_ONLY, out->grpc_status = GRPC_UNIMPLEMENTED;
        return;
    }
    s->calls++;
    if (s->failures_left) {
        s->failures_left--;
        out->action = s->action;
        out->grpc_status = GRPC_UNAVAILABLE;
        return;
    }
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    order.order_id = (int64_t)(s - servers) + 1;
    out->body_len = orderdb__v1__order__pack(&order, out->body);
}

static void tell_topology(struct server *s) {
    Orderdb__V1__Topology t = ORDERDB__V1__TOPOLOGY__INIT;
    Orderdb__V1__Topology__Node node[SERVERS], *nodes[SERVERS];
    Orderdb__V1__Topology__Partition p = ORDERDB__V1__TOPOLOGY__PARTITION__INIT, *partitions[] = {&p};
    Orderdb__V1__Topology__SlotRange range = ORDERDB__V1__TOPOLOGY__SLOT_RANGE__INIT, *ranges[] = {&range};
    for (unsigned i = 0; i < SERVERS; i++) {
        orderdb__v1__topology__node__init(nodes[i] = &node[i]);
        node[i].node_id = i + 1, node[i].client_address = servers[i].address, node[i].state = s->cut_off && s != &servers[i] ? "DOWN" : "UP";
    }
    range.last = SLOT_COUNT - 1;
    p.n_slots = 1, p.slots = ranges, p.leader_node_id = leader, p.term = 1;
    t.epoch = 1, t.n_nodes = SERVERS, t.nodes = nodes, t.n_partitions = 1, t.partitions = partitions;
    uint8_t bytes[1024];
    fake_stream_send(s->watch, slice_of(bytes, orderdb__v1__topology__pack(&t, bytes)));
}

static void on_stream(void *user, struct fake_stream *stream, const struct slice *message) {
    struct server *s = user;
    if (message) return;
    s->watch = stream;
    tell_topology(s);
}

static void server_start(unsigned i, uint16_t port) {
    struct server *s = &servers[i];
    s->fake = fake_grpc_start(handler, s, false, port);
    fake_grpc_on_stream(s->fake, on_stream);
    snprintf(s->address, sizeof s->address, "127.0.0.1:%u", fake_grpc_port(s->fake));
}
static void server_stop(unsigned i) {
    if (servers[i].fake) fake_grpc_stop(servers[i].fake);
    servers[i].fake = NULL;
}

static int open_world(void **state) {
    memset(servers, 0, sizeof servers);
    leader = 2;
    for (unsigned i = 0; i < SERVERS; i++) server_start(i, 0);
    return 0;
}
static int close_world(void **state) {
    for (unsigned i = 0; i < SERVERS; i++) server_stop(i);
    return 0;
}

/* The server that answered; 0: it was refused. */
static int64_t ask(struct orderdb_client *db) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    r.order_id = order_id_make(ORDER_EPOCH_MS + 1000, 7, 1);
    Orderdb__V1__Order *order = orderdb_get_order(db, &r, NULL);
    int64_t by = order ? order->order_id : 0;
    orderdb_message_free(order);
    return by;
}

static struct orderdb_client *open_all(const struct orderdb_options *o) {
    char targets[128];
    snprintf(targets, sizeof targets, "%s,%s,%s", servers[0].address, servers[1].address, servers[2].address);
    struct orderdb_client *db = orderdb_open(targets, o);
    assert_non_null(db);
    return db;
}

/* Until the handle has heard the topology: from then on the leader answers; before, nodes do by turns. */
static void ask_until(struct orderdb_client *db, int64_t by) {
    uint64_t until = channel_now_ns() + 20 * NS_PER_S;
    for (int in_a_row = 0; in_a_row < 2 * SERVERS; in_a_row = ask(db) == by ? in_a_row + 1 : 0) assert_true(channel_now_ns() < until);
}

static void test_calls_go_to_the_leader_once_the_topology_is_known(void **state) {
    struct orderdb_client *db = open_all(NULL);
    assert_true(ask(db) > 0); /* whoever it was: it did not wait */
    ask_until(db, 2);
    unsigned before = servers[0].calls + servers[2].calls;
    for (int i = 0; i < 20; i++) assert_int_equal(ask(db), 2);
    assert_int_equal(servers[0].calls + servers[2].calls, before);
    assert_int_equal(servers[0].watches + servers[1].watches + servers[2].watches, 1);
    orderdb_close(db);
}

static void test_one_address_is_enough(void **state) {
    struct orderdb_options o = {.routed = true};
    struct orderdb_client *db = orderdb_open(servers[0].address, &o);
    assert_int_equal(ask(db), 1);
    ask_until(db, 2);
    orderdb_close(db);
    db = orderdb_open(servers[0].address, NULL); /* not routed: there it stays */
    for (int i = 0; i < 5; i++) assert_int_equal(ask(db), 1);
    orderdb_close(db);
}

static void test_a_leader_that_is_gone_is_hidden(void **state) {
    struct orderdb_client *db = open_all(NULL);
    ask_until(db, 2);
    server_stop(1);
    for (int i = 0; i < 20; i++) {
        int64_t by = ask(db);
        assert_true(by == 1 || by == 3);
        assert_true(orderdb_attempts(db) <= 3);
    }
    orderdb_close(db);
}

static void test_a_seed_that_is_down_is_passed_over_from_the_first_call_on(void **state) {
    server_stop(0), server_stop(1);
    struct orderdb_client *db = open_all(NULL);
    for (int i = 0; i < 5; i++) assert_int_equal(ask(db), 3);
    orderdb_close(db);
}

static void test_nobody_is_there(void **state) {
    for (unsigned i = 0; i < SERVERS; i++) server_stop(i);
    struct orderdb_options o = {.timeout_ms = 3000};
    struct orderdb_client *db = open_all(&o);
    uint64_t begun = channel_now_ns();
    assert_int_equal(ask(db), 0); /* at once: nobody ever was */
    assert_int_equal(orderdb_error_code(orderdb_error(db)), GRPC_UNAVAILABLE);
    assert_true(channel_now_ns() - begun < 2 * NS_PER_S);
    orderdb_close(db);
}

static void test_a_connection_that_is_dropped_costs_one_retry_elsewhere(void **state) {
    struct orderdb_client *db = open_all(NULL);
    ask_until(db, 2);
    servers[1].action = FAKE_DROP, servers[1].failures_left = 1;
    assert_int_not_equal(ask(db), 2);
    assert_int_equal(orderdb_attempts(db), 2);
    ask_until(db, 2); /* after its pause one call tries it, and it is well */
    orderdb_close(db);
}

static void test_retries_off_means_off(void **state) {
    struct orderdb_options o = {.no_retries = true};
    struct orderdb_client *db = open_all(&o);
    ask_until(db, 2);
    servers[1].action = FAKE_DROP, servers[1].failures_left = 1;
    assert_int_equal(ask(db), 0);
    assert_int_equal(orderdb_attempts(db), 1);
    assert_int_not_equal(ask(db), 0); /* but it has learnt */
    orderdb_close(db);
}

static void test_a_server_without_watch_is_one_of_several_still(void **state) {
    for (unsigned i = 0; i < SERVERS; i++) servers[i].no_watch = true;
    struct orderdb_client *db = open_all(NULL);
    for (int i = 0; i < 60; i++) assert_true(ask(db) > 0);
    assert_true(servers[0].calls && servers[1].calls && servers[2].calls); /* by turns */
    assert_true(servers[0].watches + servers[1].watches + servers[2].watches <= 2);
    orderdb_close(db);
}

static void test_targets_that_are_none(void **state) {
    static const char *const bad[] = {",", "a:1,", "a:1,,b:1", "a:1,b:x", "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1,j:1,k:1,l:1,m:1,n:1,o:1,p:1,q:1"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        errno = 0;
        assert_null(orderdb_open(bad[i], NULL));
        assert_int_equal(errno, EINVAL);
        assert_null(orderdb_async_open(bad[i], NULL, NULL));
    }
}

/* ---- many calls at a time */

static unsigned answers, failures;
static void answered_cb(void *user, void *answer, const struct orderdb_error *e) {
    if (answer) answers++;
    else failures++;
    orderdb_message_free(answer);
}

/* Until the topology is known. */
static void async_know(struct orderdb_async *a) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    uint64_t until = channel_now_ns() + 20 * NS_PER_S;
    r.order_id = order_id_make(ORDER_EPOCH_MS + 1000, 7, 1);
    while (orderdb_async_stats(a).topology_epoch == 0) {
        assert_true(orderdb_async_submit(a, &r.base, NULL, answered_cb, NULL));
        assert_true(orderdb_async_drain(a, 10000));
        assert_true(channel_now_ns() < until);
    }
}

static void test_all_that_was_in_flight_at_a_lost_leader_is_sent_again(void **state) {
    enum { CALLS = 200 };
    char targets[128];
    snprintf(targets, sizeof targets, "%s,%s,%s", servers[0].address, servers[1].address, servers[2].address);
    struct orderdb_async *a = orderdb_async_open(targets, NULL, NULL);
    assert_non_null(a);
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    r.order_id = order_id_make(ORDER_EPOCH_MS + 1000, 7, 1);
    answers = failures = 0;
    async_know(a);
    servers[1].action = FAKE_SILENCE, servers[1].failures_left = 1000;
    unsigned before = answers;
    for (int i = 0; i < CALLS; i++) assert_true(orderdb_async_submit(a, &r.base, NULL, answered_cb, NULL));
    while (servers[1].calls < CALLS / 2) orderdb_async_run(a, 1); /* the leader has them */
    server_stop(1);
    assert_true(orderdb_async_drain(a, 20000));
    struct orderdb_async_stats s = orderdb_async_stats(a);
    assert_int_equal(failures, 0);
    assert_int_equal(answers, before + CALLS);
    assert_true(s.attempts <= s.calls + CALLS);
    assert_true(s.ejections > 0);
    orderdb_async_close(a);
}

/* The leader has been deposed and does not answer, nor does its connection tell: the topology does. */
static void test_a_call_that_waits_at_a_deposed_leader_goes_to_the_new_one(void **state) {
    const struct orderdb_pool_options one = {.connections = 1};
    struct orderdb_options o = {.routed = true};
    struct orderdb_async *a = orderdb_async_open(servers[0].address, &o, &one);
    assert_non_null(a);
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    Orderdb__V1__GetTopologyRequest tell = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    r.order_id = order_id_make(ORDER_EPOCH_MS + 1000, 7, 1);
    answers = failures = 0;
    async_know(a);
    unsigned before = answers;
    uint64_t calls = orderdb_async_stats(a).calls;
    servers[1].action = FAKE_SILENCE, servers[1].failures_left = 1;
    assert_true(orderdb_async_submit(a, &r.base, NULL, answered_cb, NULL));
    while (servers[1].failures_left) orderdb_async_run(a, 1);
    leader = 3;
    for (unsigned i = 0; i < 3 * SERVERS; i++) assert_true(orderdb_async_submit(a, &tell.base, NULL, answered_cb, NULL)); /* by turns: one of them has the watch */
    unsigned third = servers[2].calls;
    assert_true(orderdb_async_drain(a, 8000)); /* its deadline is later */
    assert_int_equal(failures, 0);
    assert_int_equal(answers, before + 1 + 3 * SERVERS);
    assert_int_equal(orderdb_async_stats(a).attempts, orderdb_async_stats(a).calls + 1);
    assert_int_equal(orderdb_async_stats(a).calls, calls + 1 + 3 * SERVERS);
    assert_int_equal(servers[2].calls, third + 1);
    orderdb_async_close(a);
}

static void test_a_node_that_is_cut_off_is_not_believed(void **state) {
    struct orderdb_options o = {.routed = true};
    servers[0].cut_off = true;
    struct orderdb_client *db = orderdb_open(servers[0].address, &o);
    assert_int_equal(ask(db), 1);
    ask_until(db, 2);
    uint64_t until = channel_now_ns() + 20 * NS_PER_S;
    while (servers[1].watches + servers[2].watches == 0) assert_true(ask(db) > 0 && channel_now_ns() < until); /* it watches one that is not */
    orderdb_close(db);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
    const struct CMUnitTest tests[] = {
        T(test_calls_go_to_the_leader_once_the_topology_is_known),
        T(test_one_address_is_enough),
        T(test_a_leader_that_is_gone_is_hidden),
        T(test_a_seed_that_is_down_is_passed_over_from_the_first_call_on),
        T(test_nobody_is_there),
        T(test_a_connection_that_is_dropped_costs_one_retry_elsewhere),
        T(test_retries_off_means_off),
        T(test_a_server_without_watch_is_one_of_several_still),
        T(test_targets_that_are_none),
        T(test_a_call_that_waits_at_a_deposed_leader_goes_to_the_new_one),
        T(test_a_node_that_is_cut_off_is_not_believed),
        T(test_all_that_was_in_flight_at_a_lost_leader_is_sent_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
