/* TLS in a connection (server/conn.h), on a real ring and socket pairs: what test_conn.c promises of cleartext holds, and handshakes are bounded in time and number. Time
 * is a number of the test's. */
#include "tests/lib/test.h"
#include "tests/lib/certs.h"

#include "tests/lib/conn_world.h"

#include <stdio.h>

#include "proto/base/log.h"
#include "proto/tls.h"

static struct world w;
static struct tls_source *server_source, *client_source;
static struct tls *client_tls;
static int client_fd;
static bool hung_up, client_over;
static size_t receive_bytes; /* of one recv() of the client's */

static int make_sources(void **state) {
    char cert[64], key[64], ca[64], error[256];
    if (make_certs(state)) return -1;
    snprintf(cert, sizeof cert, "%s/server.pem", dir), snprintf(key, sizeof key, "%s/server.key", dir), snprintf(ca, sizeof ca, "%s/ca.pem", dir);
    server_source = tls_source_new_server(&(struct tls_files){.cert = cert, .key = key}, error);
    client_source = tls_source_new_client(&(struct tls_files){.ca = ca}, error);
    return server_source && client_source ? remove_certs(state) : -1;
}
static int free_sources(void **state) {
    tls_source_free(server_source), tls_source_free(client_source);
    return 0;
}

static bool rig_open(uint32_t handshakes_max) {
    client_fd = -1, client_tls = NULL, hung_up = client_over = false, receive_bytes = 16384;
    struct conn_limits l = conn_limits_default;
    l.call.memory_bytes_max = 64 * MIB;
    l.tls = server_source;
    l.handshakes_max = handshakes_max;
    l.first_request_ns = 60 * NS_PER_S;
    return conn_world_open(&w, &l);
}
static int setup(void **state) { return rig_open(100) ? 0 : -1; }

static void turn(void) { conn_world_turn(&w, 2 * NS_PER_MS); }
static int connect_raw(void) { return conn_world_connect(&w, 1); }

static bool on_plain(void *owner, struct slice plain) {
    assert_int_equal(nghttp2_session_mem_recv(w.client, plain.data, plain.len), (ssize_t)plain.len);
    return true;
}
static bool client_open(void) {
    client_fd = connect_raw();
    w.client = client_new(&w, 0, false);
    client_tls = tls_new(client_source, "localhost");
    if (!client_tls) return false;
    return tls_feed(client_tls, (struct slice){0}, on_plain, NULL);
}
static void send_all(struct slice s) {
    if (send(client_fd, s.data, s.len, MSG_NOSIGNAL) < 0) hung_up = true;
}
static void client_turn(void) {
    static uint8_t wire[1 << 20];
    const uint8_t *data;
    while (client_tls && tls_wants_output(client_tls)) {
        struct writer out = writer_of(wire, sizeof wire);
        tls_output(client_tls, &out);
        send_all(writer_slice(&out));
    }
    for (ssize_t n; tls_established(client_tls) && !client_over && (n = nghttp2_session_mem_send(w.client, &data)) > 0;) {
        struct writer out = writer_of(wire, sizeof wire);
        if (!tls_encrypt(client_tls, slice_of(data, (size_t)n), &out)) client_over = true;
        send_all(writer_slice(&out));
    }
    for (ssize_t n; (n = recv(client_fd, wire, receive_bytes, 0)) >= 0 && !hung_up;) {
        if (n == 0) hung_up = true;
        else if (!tls_feed(client_tls, slice_of(wire, (size_t)n), on_plain, NULL)) client_over = true;
    }
}
#define UNTIL(condition) \
    do { \
        unsigned turns = 0; \
        for (; !(condition) && turns < 2000; turns++) turn(), client_turn(); \
        assert_true(turns < 2000); \
    } while (0)

static void rig_close(void) {
    if (client_fd >= 0) close(client_fd);
    conn_world_close(&w); /* checks that no handshake is counted */
    tls_free(client_tls);
    if (w.core.ring) ring_close(w.core.ring);
    w.core.ring = NULL;
}
static int teardown(void **state) {
    rig_close();
    return 0;
}
static struct answer *request(const char *path, const char *message) { return world_request(&w, path, framed_text(message), false, NULL, NULL); }
static uint64_t metric(enum metric m) { return metric_load(&w.core.metrics.values[m]); }

static void test_requests_and_large_answers(void **state) {
    assert_true(client_open());
    struct answer *a = request(SVC "CreateOrder", "hello"), *b = request(SVC "ListOrders", "0900000");
    UNTIL(a->closed && b->closed);
    assert_true(answer_is(a, "hello"));
    assert_int_equal(b->body_len, 900000 + GRPC_FRAME_HEAD);
    assert_int_equal(metric(METRIC_TLS_HANDSHAKES), 1);
    assert_int_equal(metric(METRIC_TLS_FAILED), 0);
    assert_true(conn_memory_bytes(&w.core) < 320 * KIB);
}

static void test_a_peer_that_reads_byte_by_byte(void **state) {
    assert_true(client_open());
    receive_bytes = 1;
    struct answer *a = request(SVC "ListOrders", "0100000");
    UNTIL(a->closed);
    assert_int_equal(a->body_len, 100000 + GRPC_FRAME_HEAD);
}

static void test_the_end_is_told(void **state) {
    assert_true(client_open());
    struct answer *a = request(SVC "CreateOrder", "x");
    UNTIL(a->closed);
    conn_drain(&w.core);
    UNTIL(w.goaway_seen);
    w.core.now_ns += 600 * NS_PER_MS;
    UNTIL(hung_up);
    assert_true(client_over); /* close_notify came before the end */
    assert_null(tls_error(client_tls));
    assert_int_equal(metric(METRIC_CONNECTIONS_ABUSED), 0);
}

static void test_a_handshake_that_does_not_end(void **state) {
    client_fd = connect_raw();
    for (unsigned i = 0; i < 5; i++) turn();
    w.core.now_ns += 4999 * NS_PER_MS;
    for (unsigned i = 0; i < 5; i++) turn();
    assert_int_equal(w.core.connection_count, 1);
    w.core.now_ns += 2 * NS_PER_MS;
    for (unsigned i = 0; i < 2000 && w.core.connection_count; i++) turn();
    assert_int_equal(w.core.connection_count, 0);
    assert_int_equal(metric(METRIC_TLS_FAILED), 1);
    assert_int_equal(metric(METRIC_CONNECTIONS_TIMED_OUT), 1);
}

static void test_handshakes_under_way_are_bounded(void **state) {
    rig_close();
    assert_true(rig_open(3));
    int fds[5];
    for (unsigned i = 0; i < 5; i++) fds[i] = connect_raw();
    assert_int_equal(w.core.connection_count, 3);
    assert_int_equal(metric(METRIC_CONNECTIONS_REFUSED), 2);
    for (unsigned i = 0; i < 5; i++) close(fds[i]);
    for (unsigned i = 0; i < 2000 && w.core.connection_count; i++) turn();
    for (unsigned i = 0; i < 5; i++) { /* one that has ended does not count */
        assert_true(client_open());
        struct answer *a = request(SVC "CreateOrder", "x");
        UNTIL(a->closed);
        assert_string_equal(a->grpc_status, "0");
        close(client_fd);
        nghttp2_session_del(w.client);
        tls_free(client_tls);
        free(a->body);
        client_fd = -1, w.client = NULL, client_tls = NULL, w.answer_count = 0;
    }
}

static void test_cleartext_is_closed(void **state) {
    client_fd = connect_raw();
    assert_int_equal(send(client_fd, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24, 0), 24);
    uint8_t got[64];
    ssize_t n = -1;
    for (unsigned i = 0; i < 2000 && n < 0; i++) turn(), n = recv(client_fd, got, sizeof got, 0);
    assert_int_equal(n, 0); /* without an alert: the peer would not know one */
    assert_int_equal(metric(METRIC_TLS_FAILED), 1);
}

static void test_the_nth_allocation_fails(void **state) {
    rig_close();
    for (uint64_t n = 1; n < 200; n++) {
        uint64_t before = mem_count();
        mem_fail_nth(n);
        bool open = rig_open(100) && client_open();
        if (open) {
            request(SVC "CreateOrder", "a");
            for (unsigned i = 0; i < 12 && !w.answers[0].closed; i++) turn(), client_turn();
        }
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        rig_close();
        if (!reached) break;
    }
    assert_true(rig_open(100));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_requests_and_large_answers), T(test_a_peer_that_reads_byte_by_byte), T(test_the_end_is_told), T(test_a_handshake_that_does_not_end),
        T(test_handshakes_under_way_are_bounded), T(test_cleartext_is_closed), T(test_the_nth_allocation_fails),
    };
    log_set_level(LOG_OFF);
    return cmocka_run_group_tests(tests, make_sources, free_sources);
}
