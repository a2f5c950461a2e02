/* The client's channel over TLS (client/channel.h), against the server's own h2 in the same thread: answers, refusals, fates, no memory. */
#include "tests/lib/test.h"
#include "tests/lib/certs.h"

#include "tests/lib/h2_world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/channel.h"
#include "proto/tls.h"

static struct tls_source *server_source, *good, *stranger;
static struct world w; /* the server: w.h2 of one connection at a time */
static struct tls *server_tls;
static int listener, server_fd;
static char target[32];
static struct channel_loop *loop;
static struct channel *channel;

static int make_sources(void **state) {
    char cert[64], key[64], ca[64], other[64], error[256];
    if (make_certs(state)) return -1;
    snprintf(cert, sizeof cert, "%s/server.pem", dir), snprintf(key, sizeof key, "%s/server.key", dir);
    snprintf(ca, sizeof ca, "%s/ca.pem", dir), snprintf(other, sizeof other, "%s/other-ca.pem", dir);
    server_source = tls_source_new_server(&(struct tls_files){.cert = cert, .key = key}, error);
    good = tls_source_new_client(&(struct tls_files){.ca = ca}, error);
    stranger = tls_source_new_client(&(struct tls_files){.ca = other}, error);
    return server_source && good && stranger ? remove_certs(state) : -1;
}
static int free_sources(void **state) {
    tls_source_free(server_source), tls_source_free(good), tls_source_free(stranger);
    return 0;
}

static void wants_output(void *owner) {}

static void server_hang_up(void) {
    if (server_fd >= 0) close(server_fd);
    server_fd = -1;
    tls_free(server_tls);
    server_tls = NULL;
    h2_free(w.h2);
    w.h2 = NULL;
}
static bool on_plain(void *owner, struct slice plain) { return h2_feed(w.h2, plain); }
static void server_turn(void) {
    static uint8_t wire[128 << 10], plain[60 << 10];
    if (server_fd < 0 && (server_fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        server_tls = tls_new(server_source, NULL);
        w.h2 = h2_new(&w.core, &world_h2_limits, wants_output, NULL);
        if (!server_tls || !w.h2) return server_hang_up();
    }
    if (server_fd < 0) return;
    ssize_t n = recv(server_fd, wire, sizeof wire, 0);
    bool over = n == 0 || (n > 0 && !tls_feed(server_tls, slice_of(wire, (size_t)n), on_plain, NULL));
    struct writer out = writer_of(wire, sizeof wire), p = writer_of(plain, sizeof plain);
    tls_output(server_tls, &out);
    if (!over && tls_established(server_tls) && !tls_wants_output(server_tls)) {
        h2_output(w.h2, &p);
        over = !tls_encrypt(server_tls, writer_slice(&p), &out);
    }
    if (out.len) (void)!send(server_fd, wire, out.len, MSG_NOSIGNAL);
    if (over) server_hang_up();
}

static int setup(void **state) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    memset(&w, 0, offsetof(struct world, answers));
    world = &w;
    list_init(&w.away);
    handlers_default();
    w.core.now_ns = 1000 * NS_PER_S;
    list_init(&w.core.connections), list_init(&w.core.flush);
    w.core.calls = calls_new(&w.core, &world_call_limits);
    server_fd = -1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 8) || getsockname(listener, (struct sockaddr *)&a, &len)) return -1;
    snprintf(target, sizeof target, "127.0.0.1:%u", ntohs(a.sin_port));
    return 0;
}
static int teardown(void **state) {
    server_hang_up();
    close(listener);
    assert_int_equal(w.core.calls_live, 0);
    calls_free(w.core.calls);
    timers_fini(&w.core.timers);
    world = NULL;
    return 0;
}
static bool client_open(struct tls_source *source, const char *name) {
    loop = channel_loop_new();
    channel = loop ? channel_open(loop, target) : NULL;
    return channel && channel_use_tls(channel, source, name);
}
static void client_close(void) {
    channel_close(channel);
    channel_loop_free(loop);
    loop = NULL, channel = NULL;
}

struct seen {
    unsigned calls;
    enum grpc_code code;
    enum channel_fate fate;
    char message[256];
    size_t response_len;
};
static void record_cb(void *user, const struct channel_answer *a) {
    struct seen *s = user;
    s->calls++, s->code = a->code, s->fate = a->fate, s->response_len = a->response.len;
    snprintf(s->message, sizeof s->message, "%.*s", (int)a->message.len, (const char *)a->message.data);
}
static bool start(const char *path, struct slice message, struct seen *s) {
    *s = (struct seen){0};
    return channel_start(channel, &(struct channel_request){.path = path, .message = message, .on_answer = record_cb, .user = s, .deadline_ns = channel_now_ns() + 10 * NS_PER_S});
}
static void wait_for(const struct seen *s) {
    for (unsigned i = 0; i < 20000 && !s->calls; i++) channel_loop_turn(loop, NS_PER_MS), server_turn();
    assert_int_equal(s->calls, 1);
}

static void test_calls_and_large_messages(void **state) {
    static uint8_t big[1000000];
    struct seen s, t;
    assert_true(client_open(good, NULL)); /* the target's address is in the certificate */
    assert_true(start(SVC "CreateOrder", SLICE_LIT("hello"), &s));
    wait_for(&s);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(s.response_len, 5);
    assert_true(channel_was_connected(channel));
    assert_true(start(SVC "CreateOrder", slice_of(big, sizeof big), &s));
    assert_true(start(SVC "ListOrders", SLICE_LIT("0900000"), &t));
    wait_for(&s), wait_for(&t);
    assert_int_equal(s.response_len, sizeof big);
    assert_int_equal(t.response_len, 900000);
    client_close();
}

static void refused(struct tls_source *source, const char *name, const char *says) {
    struct seen s;
    assert_true(client_open(source, name));
    assert_true(start(SVC "CreateOrder", SLICE_LIT("hello"), &s));
    wait_for(&s);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(s.fate, CHANNEL_NOT_SENT);
    if (!strstr(s.message, says)) fail_msg("%s", s.message);
    assert_false(channel_was_connected(channel));
    client_close();
    for (unsigned i = 0; i < 100; i++) server_turn();
}
static void test_servers_that_are_not_who_they_should_be(void **state) {
    refused(stranger, NULL, "certificate verify failed");
    refused(good, "elsewhere", "hostname mismatch");
    refused(good, "10.0.0.1", "IP address mismatch");
}

static void test_a_lost_connection_is_made_again(void **state) {
    struct seen s;
    assert_true(client_open(good, "localhost"));
    for (unsigned i = 0; i < 3; i++) {
        assert_true(start(SVC "CreateOrder", SLICE_LIT("hello"), &s));
        wait_for(&s);
        assert_int_equal(s.code, GRPC_OK);
        server_hang_up();
        for (unsigned k = 0; k < 20; k++) channel_loop_turn(loop, NS_PER_MS);
    }
    client_close();
}

static void test_the_nth_allocation_fails(void **state) {
    for (uint64_t n = 1; n < 400; n++) {
        struct seen s = {0};
        uint64_t before = mem_count();
        mem_fail_nth(n);
        if (client_open(good, NULL) && start(SVC "CreateOrder", SLICE_LIT("hello"), &s))
            for (unsigned i = 0; i < 60 && !s.calls; i++) channel_loop_turn(loop, NS_PER_MS), server_turn();
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        if (channel) channel_close(channel);
        channel_loop_free(loop);
        loop = NULL, channel = NULL;
        server_hang_up();
        if (!reached) break;
    }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_calls_and_large_messages), T(test_servers_that_are_not_who_they_should_be), T(test_a_lost_connection_is_made_again), T(test_the_nth_allocation_fails)};
    return cmocka_run_group_tests(tests, make_sources, free_sources);
}
