/* The promises of server/conn.h, on a real ring and socket pairs. Time is a number of the test's; only the kernel's completions are waited for. */
#include "tests/lib/test.h"

#include "tests/lib/conn_world.h"

#include "proto/base/log.h"
#include "server/door.h"

static struct world w; /* w.core is the core; w.client, w.answers the client of the connection under test */
static int client_fd;

static struct conn_limits limits_small(void) {
    struct conn_limits l = conn_limits_default;
    l.call.memory_bytes_max = 64 * MIB;
    l.h2.stream_window_bytes = 65536;
    return l;
}

static bool rig_open(const struct conn_limits *limits) {
    client_fd = -1;
    return conn_world_open(&w, limits);
}
static void turn(void) { conn_world_turn(&w, 2 * NS_PER_MS); }
static int connect_as(uint32_t address) { return conn_world_connect(&w, address); }
static void client_open(void) {
    client_fd = connect_as(0x7f000001);
    w.client = client_new(&w, 0, false);
}

static bool hung_up; /* the server's side is closed */
static void client_turn(void) {
    const uint8_t *data;
    uint8_t buf[16384];
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;)
        if (send(client_fd, data, (size_t)n, MSG_NOSIGNAL) != n) break; /* closed by the server: the test sees it by hung_up */
    for (ssize_t n; (n = recv(client_fd, buf, sizeof buf, 0)) >= 0;) {
        if (n == 0) {
            hung_up = true;
            break;
        }
        assert_int_equal(nghttp2_session_mem_recv(w.client, buf, (size_t)n), n);
    }
}
#define UNTIL(condition) \
    do { \
        unsigned turns = 0; \
        for (; !(condition) && turns < 2000; turns++) turn(), client_turn(); \
        assert_true(turns < 2000); \
    } while (0)
#define TURNS(n) \
    for (unsigned i_ = 0; i_ < (n); i_++) turn(), client_turn()

static void rig_close(void) {
    if (client_fd >= 0) close(client_fd);
    conn_world_close(&w);
    if (w.core.ring) ring_close(w.core.ring);
    w.core.ring = NULL;
    hung_up = false;
}
static int setup(void **state) {
    struct conn_limits l = limits_small();
    assert_true(rig_open(&l));
    return 0;
}
static int teardown(void **state) {
    rig_close();
    return 0;
}
static struct answer *request(const char *path, const char *message) { return world_request(&w, path, framed_text(message), false, NULL, NULL); }
static uint64_t metric(enum metric m) { return metric_load(&w.core.metrics.values[m]); }
static uint64_t cut(enum cut why) { return metric_load(&w.core.metrics.cuts[why]); }

static void test_a_request_over_a_socket(void **state) {
    client_open();
    assert_int_equal(w.core.connection_count, 1);
    struct answer *a = request(SVC "CreateOrder", "hello");
    UNTIL(a->closed);
    assert_true(answer_is(a, "hello"));
    assert_int_equal(metric(METRIC_CONNECTIONS_ACCEPTED), 1);
    assert_true(metric(METRIC_BYTES_RECEIVED) > 0 && metric(METRIC_BYTES_SENT) > 0);
    close(client_fd);
    client_fd = -1;
    for (unsigned i = 0; i < 2000 && w.core.connection_count; i++) turn();
    assert_int_equal(w.core.connection_count, 0);
}

static void test_large_answers_and_large_requests(void **state) {
    client_open();
    static uint8_t big[2000000 + GRPC_FRAME_HEAD];
    grpc_frame_head(big, 2000000);
    struct answer *a = request(SVC "ListOrders", "0900000"), *b = world_request(&w, SVC "CreateOrder", slice_of(big, sizeof big), false, NULL, NULL);
    /* The test's client hands everything to a socket at once: a larger buffer holds a window's worth. */
    int bytes = 4 << 20;
    setsockopt(client_fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    UNTIL(a->closed && b->closed);
    assert_int_equal(a->body_len, 900000 + GRPC_FRAME_HEAD);
    assert_int_equal(b->body_len, 2000000 + GRPC_FRAME_HEAD);
}

static void test_an_op_that_comes_home_later(void **state) {
    client_open();
    struct answer *a = request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 1);
    TURNS(5);
    world_home(&w);
    UNTIL(a->closed);
    assert_true(answer_is(a, "home"));
}

static void test_the_peer_goes_while_an_op_is_away(void **state) {
    client_open();
    request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 1);
    close(client_fd);
    client_fd = -1;
    for (unsigned i = 0; i < 2000 && w.core.connection_count; i++) turn();
    assert_int_equal(w.core.connection_count, 0);
    assert_int_equal(w.core.calls_live, 1);
    world_home(&w);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_no_request_in_time(void **state) {
    client_open();
    TURNS(3);
    w.core.now_ns += 4999 * NS_PER_MS;
    TURNS(3);
    assert_int_equal(w.core.connection_count, 1);
    w.core.now_ns += 2 * NS_PER_MS;
    UNTIL(hung_up);
    assert_int_equal(metric(METRIC_CONNECTIONS_TIMED_OUT), 1);
    assert_true(w.goaway_seen);
}

static void test_half_a_request_is_none(void **state) {
    client_fd = connect_as(1);
    w.client = client_new(&w, 0, false);
    assert_int_equal(send(client_fd, "PRI * HTTP/2.0\r\n", 16, 0), 16); /* slow loris */
    for (unsigned i = 0; i < 5; i++) turn();
    w.core.now_ns += 5001 * NS_PER_MS;
    for (unsigned i = 0; i < 200 && w.core.connection_count; i++) w.core.now_ns += NS_PER_S, turn();
    assert_int_equal(w.core.connection_count, 0);
}

static void test_idle_connections_close(void **state) {
    client_open();
    struct answer *a = request(SVC "CreateOrder", "x");
    UNTIL(a->closed);
    TURNS(3); /* the client acknowledges our settings */
    w.core.now_ns += 599 * NS_PER_S;
    TURNS(3);
    assert_false(hung_up);
    w.core.now_ns += 2 * NS_PER_S;
    UNTIL(hung_up);
    assert_true(w.goaway_seen);
    assert_int_equal(w.goaway_last, a->id);
}

static void test_bytes_without_calls_do_not_keep_a_connection(void **state) {
    client_open();
    struct answer *a = request(SVC "CreateOrder", "x");
    UNTIL(a->closed);
    for (unsigned s = 0; s < 700 && !hung_up; s += 20) { /* pings, at a polite distance */
        nghttp2_submit_ping(w.client, NGHTTP2_FLAG_NONE, NULL);
        TURNS(3);
        w.core.now_ns += 20 * NS_PER_S;
    }
    UNTIL(hung_up);
    assert_int_equal(cut(CUT_IDLE), 1);
    assert_int_equal(w.goaway_code, NGHTTP2_NO_ERROR);
}

static void test_half_a_frame_ends_the_connection(void **state) {
    client_open();
    struct answer *a = request(SVC "CreateOrder", "x");
    UNTIL(a->closed);
    TURNS(3);
    static const uint8_t half[] = {0, 0, 8, 6, 0};
    for (unsigned i = 0; i < sizeof half && w.core.connection_count; i++) { /* a byte every four seconds */
        if (send(client_fd, half + i, 1, MSG_NOSIGNAL) != 1) break;
        TURNS(3);
        w.core.now_ns += 4 * NS_PER_S;
        TURNS(3);
    }
    UNTIL(hung_up);
    assert_int_equal(cut(CUT_SLOW_FRAME), 1);
}

static void test_what_a_peer_breaks_is_counted_by_reason(void **state) {
    client_open();
    struct answer *a = request(SVC "CreateOrder", "x");
    UNTIL(a->closed);
    for (unsigned i = 0; i < 10; i++) nghttp2_submit_ping(w.client, NGHTTP2_FLAG_NONE, NULL);
    UNTIL(hung_up);
    assert_int_equal(w.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(cut(CUT_PINGS), 1);
    assert_int_equal(metric(METRIC_CONNECTIONS_ABUSED), 1);
    assert_int_equal(metric(METRIC_CONNECTIONS_TIMED_OUT), 0);
}

static void test_a_connection_with_a_call_is_pinged_not_closed(void **state) {
    client_open();
    struct answer *a = request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 1);
    for (unsigned s = 0; s < 1200; s += 50) { /* the client answers pings */
        w.core.now_ns += 50 * NS_PER_S;
        TURNS(4);
    }
    assert_false(hung_up);
    world_home(&w);
    UNTIL(a->closed);
}

static void test_a_dead_peer_with_a_call_is_found(void **state) {
    client_open();
    request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 1);
    for (unsigned s = 0; s < 400 && w.core.connection_count; s += 10) { /* the client says nothing more */
        w.core.now_ns += 10 * NS_PER_S;
        for (unsigned i = 0; i < 5; i++) turn();
    }
    assert_int_equal(w.core.connection_count, 0);
    assert_int_equal(w.core.calls_live, 1);
}

static void test_a_peer_that_takes_no_bytes(void **state) {
    client_fd = connect_as(1);
    w.client = client_new(&w, 1 << 30, true);
    nghttp2_submit_window_update(w.client, NGHTTP2_FLAG_NONE, 0, 1 << 30);
    for (unsigned i = 0; i < 20; i++) request(SVC "ListOrders", "0900000");
    client_turn();
    for (unsigned i = 0; i < 50; i++) turn(); /* 18 MB into a socket that nobody reads */
    assert_int_equal(w.core.connection_count, 1);
    for (unsigned s = 0; s < 60 && w.core.connection_count; s += 2) {
        w.core.now_ns += 2 * NS_PER_S;
        for (unsigned i = 0; i < 5; i++) turn();
    }
    assert_int_equal(w.core.connection_count, 0);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_drain(void **state) {
    client_open();
    struct answer *a = request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 1);
    int idle_fd = connect_as(2);
    conn_drain(&w.core);
    UNTIL(w.goaway_seen);
    assert_int_equal(w.goaway_last, INT32_MAX);
    w.core.now_ns += 600 * NS_PER_MS;
    UNTIL(w.goaway_last == a->id);
    for (unsigned i = 0; i < 2000 && w.core.connection_count == 2; i++) turn();
    assert_int_equal(w.core.connection_count, 1); /* the idle one is gone */
    world_home(&w);
    UNTIL(a->closed && hung_up);
    assert_true(answer_is(a, "home"));
    UNTIL(w.core.connection_count == 0);
    int late_fd = connect_as(3);
    assert_int_equal(w.core.connection_count, 0); /* refused while draining */
    close(idle_fd);
    close(late_fd);
}

static void test_garbage_closes(void **state) {
    client_open();
    assert_int_equal(send(client_fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    for (unsigned i = 0; i < 2000 && w.core.connection_count; i++) turn();
    assert_int_equal(w.core.connection_count, 0);
    assert_int_equal(metric(METRIC_CONNECTIONS_ABUSED), 1);
}

static void test_limits_at_the_door(void **state) {
    rig_close();
    struct conn_limits l = limits_small();
    const struct door_limits dl = {.connections_max = 100, .address_connections_max = 2, .address_handshakes_max = 1, .per_s = 100, .address_per_s = 100};
    l.connections_max = 3;
    l.door = door_new(&dl);
    assert_true(rig_open(&l));
    int fds[] = {connect_as(1), connect_as(1), connect_as(1), connect_as(2), connect_as(3)};
    assert_int_equal(w.core.connection_count, 3);
    assert_int_equal(metric(METRIC_CONNECTIONS_REFUSED), 2);
    assert_int_equal(cut(CUT_REFUSED_ADDRESS), 1);
    assert_int_equal(cut(CUT_REFUSED_CONNECTIONS), 1);
    char byte;
    assert_int_equal(recv(fds[2], &byte, 1, 0), 0); /* closed at once */
    close(fds[0]);
    for (unsigned i = 0; i < 2000 && w.core.connection_count == 3; i++) turn();
    int again = connect_as(1);
    assert_int_equal(w.core.connection_count, 3);
    for (size_t i = 1; i < ARRAY_LEN(fds); i++) close(fds[i]);
    close(again);
    rig_close();
    door_free(l.door); /* checks that all have left */
    l.door = NULL;
    assert_true(rig_open(&l));
}

static void test_memory_per_connection(void **state) {
    size_t before = conn_memory_bytes(&w.core);
    client_open();
    for (unsigned i = 0; i < 200; i++) request(SVC "GetOrder", "x");
    UNTIL(w.away_count == 128);
    assert_true(conn_memory_bytes(&w.core) - before < 256 * KIB);
    UNTIL(list_empty(&w.away) ? true : (world_home(&w), false));
    UNTIL(w.answers[199].closed || (!list_empty(&w.away) && (world_home(&w), false)));
    int idle = connect_as(5);
    for (unsigned i = 0; i < 10; i++) turn();
    close(client_fd);
    client_fd = -1;
    for (unsigned i = 0; i < 2000 && w.core.connection_count == 2; i++) turn();
    assert_true(conn_memory_bytes(&w.core) - before < 2 * 65600 + 32 * KIB); /* an idle connection: nghttp2's frame buffer and its tables */
    close(idle);
}

static void test_the_nth_allocation_fails(void **state) {
    rig_close();
    struct conn_limits l = limits_small();
    for (uint64_t n = 1;; n++) {
        uint64_t before = mem_count();
        mem_fail_nth(n);
        if (rig_open(&l)) {
            client_open();
            struct answer *a = request(SVC "CreateOrder", "a");
            request(SVC "GetOrder", "b");
            for (unsigned i = 0; i < 12; i++) {
                turn(), client_turn();
                if (!list_empty(&w.away)) world_home(&w);
                if (a->closed && w.answers[1].closed) break;
            }
        }
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        rig_close();
        if (!reached) break;
    }
    assert_true(rig_open(&l));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_a_request_over_a_socket), T(test_large_answers_and_large_requests), T(test_an_op_that_comes_home_later), T(test_the_peer_goes_while_an_op_is_away),
        T(test_no_request_in_time), T(test_half_a_request_is_none), T(test_idle_connections_close), T(test_bytes_without_calls_do_not_keep_a_connection), T(test_half_a_frame_ends_the_connection), T(test_what_a_peer_breaks_is_counted_by_reason),
        T(test_a_connection_with_a_call_is_pinged_not_closed),
        T(test_a_dead_peer_with_a_call_is_found), T(test_a_peer_that_takes_no_bytes), T(test_drain), T(test_garbage_closes), T(test_limits_at_the_door),
        T(test_memory_per_connection), T(test_the_nth_allocation_fails),
    };
    log_set_level(LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
