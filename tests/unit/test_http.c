/* The promises of server/http.h: the parser on bytes, the server on a ring and loopback sockets. */
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/http.h"
#include "server/listen.h"

static enum http_parse parse(const char *text, struct http_request *rq) { return http_parse(slice_str(text), rq); }

static void parser_takes_requests(void **state) {
    struct http_request rq;
    const char *text = "GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\nrest";
    assert_int_equal(parse(text, &rq), HTTP_PARSE_OK);
    assert_slice(rq.method, "GET");
    assert_slice(rq.path, "/metrics");
    assert_int_equal(rq.bytes, strlen(text) - 4);
    assert_int_equal(parse("HEAD / HTTP/1.0\r\n\r\n", &rq), HTTP_PARSE_OK);
    assert_slice(rq.path, "/");
    size_t n = rq.bytes;
    for (size_t i = 0; i < n; i++) assert_int_equal(http_parse(slice_of("HEAD / HTTP/1.0\r\n\r\n", i), &rq), HTTP_PARSE_MORE);
}

static void parser_refuses(void **state) {
    struct http_request rq;
    static const char *const bad[] = {
        "PRI * HTTP/2.0\r\n\r\n",       "GET / HTTP/2\r\n\r\n",  "GET  / HTTP/1.1\r\n\r\n", "GET /\r\n\r\n",          "GET / HTTP/1.1 \r\n\r\n", "\x16\x03\x01", "\r\n",
        "GET http://x/ HTTP/1.1\r\n\r\n", "GET /a\x01 HTTP/1.1\r\n\r\n", "get / HTTP/1.1\r\n\r\n", "GET ?/ HTTP/1.1\r\n\r\n", " GET / HTTP/1.1\r\n\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) assert_int_equal(parse(bad[i], &rq), HTTP_PARSE_BAD);
    struct test_random r = {42};
    for (unsigned i = 0; i < 20000; i++) { /* whatever comes: no crash, and a request is inside its bytes */
        char text[] = "GET /healthz?a HTTP/1.1\r\nA: b\r\n\r\n";
        for (unsigned k = 0; k < 3; k++) text[test_random_below(&r, sizeof text - 1)] = (char)test_random_next(&r);
        if (http_parse(slice_of(text, sizeof text - 1), &rq) == HTTP_PARSE_OK) assert_true(rq.bytes <= sizeof text - 1);
    }
}

/* ---- the server */

static struct core core;
static struct http *http;
static struct http_exchange *waiting;

static void handle(void *ctx, struct http_exchange *x, struct slice path) {
    if (slice_equal(path, SLICE_LIT("/later"))) {
        waiting = x;
        return;
    }
    http_respond_text(x, 200, "hello\n");
}

static int open_world(void **state) {
    char error[256];
    struct ring_config config = {64, 64, 4096};
    core = (struct core){0};
    list_init(&core.connections);
    if (ring_open(&core.ring, &config, error)) fail_msg("%s", error);
    core.now_ns = clock_mono_ns();
    http = http_new(&core, handle, NULL);
    waiting = NULL;
    return 0;
}
static void turn(void) {
    ring_wait(core.ring, clock_mono_ns() + NS_PER_MS);
    timers_run(&core.timers, core.now_ns);
}
static int close_world(void **state) {
    http_stop(http);
    for (unsigned i = 0; i < 1000 && !http_idle(http); i++) turn();
    assert_true(http_idle(http));
    http_free(http);
    timers_fini(&core.timers);
    ring_close(core.ring);
    return 0;
}

static int client(void) {
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    http_accept(http, pair[0]);
    return pair[1];
}
static char answer[4096];
static const char *read_to_end(int fd) {
    size_t n = 0;
    for (unsigned i = 0; i < 3000; i++) {
        struct pollfd p = {fd, POLLIN, 0};
        turn();
        if (poll(&p, 1, 0) != 1) continue;
        ssize_t got = read(fd, answer + n, sizeof answer - 1 - n);
        if (got <= 0) {
            answer[n] = 0;
            return answer;
        }
        n += (size_t)got;
    }
    fail_msg("no end");
    return NULL;
}
static void put(int fd, const char *text) { assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text)); }
static void begins(const char *text, const char *with) {
    if (strncmp(text, with, strlen(with)) != 0) fail_msg("expected '%s' at the beginning of: %s", with, text);
}

static void answers_and_closes(void **state) {
    int fd = client();
    put(fd, "GET /x HT");
    turn();
    put(fd, "TP/1.1\r\n\r\n");
    const char *a = read_to_end(fd);
    begins(a, "HTTP/1.1 200 OK\r\n");
    assert_non_null(strstr(a, "Content-Length: 6\r\n"));
    assert_non_null(strstr(a, "\r\n\r\nhello\n"));
    close(fd);
    fd = client();
    put(fd, "HEAD /x HTTP/1.1\r\n\r\n");
    a = read_to_end(fd);
    assert_non_null(strstr(a, "Content-Length: 6\r\n"));
    assert_null(strstr(a, "hello"));
    close(fd);
}

static void refusals(void **state) {
    static const struct {
        const char *in, *out;
    } rows[] = {{"POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "}, {"PRI * HTTP/2.0\r\n\r\n", "HTTP/1.1 400 "}, {"\x16\x03\x01\x02", "HTTP/1.1 400 "}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int fd = client();
        put(fd, rows[i].in);
        begins(read_to_end(fd), rows[i].out);
        close(fd);
    }
    int fd = client();
    char big[HTTP_REQUEST_BYTES_MAX];
    memset(big, 'a', sizeof big);
    memcpy(big, "GET /", 5);
    assert_int_equal(send(fd, big, sizeof big, MSG_NOSIGNAL), sizeof big);
    begins(read_to_end(fd), "HTTP/1.1 431 ");
    close(fd);
    assert_int_equal(metric_load(&core.metrics.values[METRIC_HTTP_REFUSED]), 4);
}

static void answers_later_also_to_nobody(void **state) {
    int fd = client();
    put(fd, "GET /later HTTP/1.1\r\n\r\n");
    for (unsigned i = 0; i < 1000 && !waiting; i++) turn();
    assert_non_null(waiting);
    struct http_exchange *x = waiting;
    waiting = NULL;
    http_respond_text(x, 503, "no\n");
    begins(read_to_end(fd), "HTTP/1.1 503 ");
    close(fd);
    fd = client();
    put(fd, "GET /later HTTP/1.1\r\n\r\n");
    for (unsigned i = 0; i < 1000 && !waiting; i++) turn();
    close(fd);
    for (unsigned i = 0; i < 10; i++) turn();
    http_respond_text(waiting, 200, "late\n"); /* the memory is still there */
}

static void silent_and_too_many_are_closed(void **state) {
    int fds[HTTP_CONNECTIONS_MAX + 1];
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++) fds[i] = client();
    assert_string_equal(read_to_end(fds[HTTP_CONNECTIONS_MAX]), "");
    put(fds[0], "GET /x");
    turn();
    core.now_ns += (HTTP_TIMEOUT_S + 1) * NS_PER_S;
    for (unsigned i = 0; i < HTTP_CONNECTIONS_MAX; i++) assert_string_equal(read_to_end(fds[i]), "");
    assert_true(http_idle(http));
    for (unsigned i = 0; i < ARRAY_LEN(fds); i++) close(fds[i]);
    int fd = client();
    close(fd); /* before a byte */
}

static void no_memory_closes(void **state) {
    mem_fail_nth(1);
    int fd = client();
    assert_string_equal(read_to_end(fd), "");
    close(fd);
    for (unsigned n = 1; n <= 3; n++) {
        fd = client();
        put(fd, "GET /later HTTP/1.1\r\n\r\n");
        for (unsigned i = 0; i < 1000 && !waiting; i++) turn();
        struct http_exchange *x = waiting;
        waiting = NULL;
        mem_fail_nth(n);
        http_respond_text(x, 200, "hello\n");
        mem_fail_nth(0);
        const char *a = read_to_end(fd);
        if (*a) begins(a, n == 1 ? "HTTP/1.1 503 " : "HTTP/1.1 200 ");
        close(fd);
    }
    mem_fail_nth(1);
    assert_null(http_new(&core, handle, NULL));
}

/* ---- addresses */

static void addresses(void **state) {
    struct address a;
    char error[256], text[ADDRESS_TEXT_BYTES];
    static const struct {
        const char *in, *out;
    } good[] = {{"127.0.0.1:7400", "127.0.0.1:7400"}, {"[::1]:80", "[::1]:80"}, {"0.0.0.0:1", "0.0.0.0:1"}};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(address_parse(&a, good[i].in, error), STATUS_OK);
        address_format(&a.sa, text);
        assert_string_equal(text, good[i].out);
        assert_int_equal(address_is_loopback(&a), i < 2);
    }
    static const char *const bad[] = {"", "7400", "host:", "::1:7400", "127.0.0.1:http!", "256.0.0.1:1", "127.0.0.1:70000"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(address_parse(&a, bad[i], error), STATUS_FIELD_INVALID);
        assert_non_null(strstr(error, "address '"));
    }
}

static void a_taken_port_is_named(void **state) {
    struct address a, b;
    char error[256], text[ADDRESS_TEXT_BYTES];
    int fds[2], more[2];
    assert_int_equal(address_parse(&a, "127.0.0.1:0", error), STATUS_OK);
    assert_int_equal(listen_bind(&a, fds, 2, 0, error), STATUS_OK);
    assert_int_equal(listen_begin(fds[0], error), STATUS_OK);
    assert_int_equal(listen_begin(fds[1], error), STATUS_OK);
    address_format(&a.sa, text);
    assert_int_equal(address_parse(&b, text, error), STATUS_OK);
    for (unsigned count = 1; count <= 2; count++) { /* sharing would be allowed to us; not meant */
        assert_int_equal(listen_bind(&b, more, count, 30, error), STATUS_IO_FAILED);
        assert_non_null(strstr(error, text));
        assert_non_null(strstr(error, "is in use"));
    }
    close(fds[0]), close(fds[1]);
    assert_int_equal(listen_bind(&b, more, 2, 0, error), STATUS_OK);
    close(more[0]), close(more[1]);
    assert_int_equal(address_parse(&b, "192.0.2.1:0", error), STATUS_OK);
    assert_int_equal(listen_bind(&b, more, 1, 0, error), STATUS_IO_FAILED);
    assert_non_null(strstr(error, "192.0.2.1:0: bind"));
}

#define IN_WORLD(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parser_takes_requests), cmocka_unit_test(parser_refuses),         IN_WORLD(answers_and_closes), IN_WORLD(refusals),
        IN_WORLD(answers_later_also_to_nobody),  IN_WORLD(silent_and_too_many_are_closed), IN_WORLD(no_memory_closes),   cmocka_unit_test(addresses),
        cmocka_unit_test(a_taken_port_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
