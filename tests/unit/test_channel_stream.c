/* client/channel.h's promises for answers that are streams of messages, against a server in a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <stdatomic.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "client/channel.h"
#include "client/inflow.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    if (strcmp(r->path, "/unary") != 0) out->action = FAKE_STREAM;
}

static void send_filled(struct fake_stream *s, size_t bytes, uint8_t fill) {
    uint8_t *m = mem_alloc(bytes + 1);
    check(m);
    memset(m, fill, bytes);
    fake_stream_send(s, slice_of(m, bytes));
    mem_free(m);
}

/* What to do is in the path. */
static void on_stream(void *user, struct fake_stream *s, const struct slice *message) {
    const char *path = fake_stream_path(s);
    if (strcmp(path, "/echo") == 0) {
        if (message) fake_stream_send(s, *message);
        else fake_stream_end(s, 0, "");
        return;
    }
    if (message) return;
    if (strncmp(path, "/send/", 6) == 0) { /* count/bytes */
        unsigned n, bytes;
        check(sscanf(path, "/send/%u/%u", &n, &bytes) == 2);
        for (unsigned i = 0; i < n; i++) send_filled(s, bytes, (uint8_t)i);
        fake_stream_end(s, 0, "");
    } else if (strcmp(path, "/three-then-unavailable") == 0) {
        for (uint8_t i = 0; i < 3; i++) send_filled(s, 10, i);
        fake_stream_end(s, GRPC_UNAVAILABLE, "draining");
    } else if (strcmp(path, "/one-then-reset") == 0) {
        send_filled(s, 10, 7);
    } else if (strcmp(path, "/half") == 0) {
        fake_stream_send_bytes(s, SLICE_LIT("\0\0\0\0\x09" "abc"));
        fake_stream_end(s, 0, "");
    } else if (strcmp(path, "/compressed") == 0) {
        fake_stream_send_bytes(s, SLICE_LIT("\1\0\0\0\1a"));
    } else if (strcmp(path, "/huge") == 0) {
        fake_stream_send_bytes(s, SLICE_LIT("\0\x04\0\0\1a"));
    }
}

struct world {
    struct fake_grpc *server;
    struct channel_loop *loop;
    struct channel *channel;
};
struct seen {
    struct channel_call *call;
    unsigned messages, ends;
    size_t bytes, last_bytes;
    const uint8_t *last;
    bool keeps, cancels, ordered;
    enum grpc_code code;
    enum channel_fate fate;
    char text[200];
};

static bool message_cb(void *user, struct slice m) {
    struct seen *s = user;
    assert_int_equal(s->ends, 0);
    if (m.len && (m.data[0] != (uint8_t)s->messages || m.data[m.len - 1] != m.data[0])) s->ordered = false;
    s->messages++, s->bytes += m.len;
    s->last = m.data, s->last_bytes = m.len;
    if (s->cancels) channel_cancel(s->call);
    return !s->keeps;
}
static void end_cb(void *user, const struct channel_answer *a) {
    struct seen *s = user;
    s->ends++;
    s->code = a->code, s->fate = a->fate;
    assert_int_equal(a->response.len, 0);
    snprintf(s->text, sizeof(s->text), "%.*s", (int)a->message.len, (const char *)a->message.data);
}

static void world_open(struct world *w, bool early) {
    char target[32];
    w->server = fake_grpc_start(handler, NULL, early, 0);
    fake_grpc_on_stream(w->server, on_stream);
    w->loop = channel_loop_new();
    assert_non_null(w->loop);
    snprintf(target, sizeof(target), "127.0.0.1:%u", fake_grpc_port(w->server));
    w->channel = channel_open(w->loop, target);
    assert_non_null(w->channel);
}
static void world_close(struct world *w) {
    channel_close(w->channel);
    channel_loop_free(w->loop);
    fake_grpc_stop(w->server);
}
static void start(struct world *w, const char *path, bool stream, struct seen *s) {
    s->ordered = true;
    struct channel_request r = {.path = path, .message = SLICE_LIT("go"), .stream = stream, .on_answer = end_cb, .on_message = message_cb, .user = s};
    s->call = channel_start(w->channel, &r);
    assert_non_null(s->call);
}
#define WAIT_UNTIL(w, condition) \
    for (uint64_t until_ = channel_now_ns() + 20 * NS_PER_S; !(condition);) { \
        channel_loop_turn((w)->loop, 20 * NS_PER_MS); \
        assert_true(channel_now_ns() < until_); \
    }

static void test_messages_come_in_order_and_then_the_end(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {0}, none = {0}, empty = {0};
    start(&w, "/send/200/300", false, &s);
    start(&w, "/send/0/0", false, &none);
    start(&w, "/send/3/0", false, &empty);
    WAIT_UNTIL(&w, s.ends && none.ends && empty.ends);
    assert_true(s.ordered);
    assert_int_equal(s.messages, 200);
    assert_int_equal(s.bytes, 200 * 300);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(s.fate, CHANNEL_ANSWERED);
    assert_int_equal(none.messages, 0);
    assert_int_equal(none.code, GRPC_OK);
    assert_int_equal(empty.messages, 3); /* an empty message is a message */
    world_close(&w);
}

static void test_a_message_may_be_larger_than_the_window(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {0};
    start(&w, "/send/2/20000000", false, &s);
    WAIT_UNTIL(&w, s.ends);
    assert_true(s.ordered);
    assert_int_equal(s.bytes, 40000000);
    assert_int_equal(s.code, GRPC_OK);
    world_close(&w);
}

static void test_what_is_kept_holds_the_window_and_nobody_else(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {.keeps = true}, other = {0};
    start(&w, "/send/40/1000000", false, &s);
    WAIT_UNTIL(&w, s.messages == 1);
    const uint8_t *kept = s.last;
    start(&w, "/send/9/1000000", false, &other); /* more than a connection's window beside the one that rests */
    WAIT_UNTIL(&w, other.ends);
    assert_int_equal(other.bytes, 9000000);
    uint64_t left = fake_grpc_streamed_bytes(w.server) - other.bytes;
    assert_in_range(left, 1000000, CHANNEL_STREAM_BYTES_MAX + 1000000 + 64);
    assert_int_equal(s.messages, 1);
    assert_ptr_equal(s.last, kept);
    assert_int_equal(kept[999999], 0); /* where it was, as it was */
    for (unsigned i = 1; i < 40; i++) {
        channel_release(s.call);
        WAIT_UNTIL(&w, s.messages == i + 1);
    }
    for (int i = 0; i < 3; i++) channel_loop_turn(w.loop, 0);
    assert_int_equal(s.ends, 0); /* all is there, but the last message is not released */
    channel_release(s.call);
    WAIT_UNTIL(&w, s.ends);
    assert_true(s.ordered);
    assert_int_equal(s.code, GRPC_OK);
    world_close(&w);
}

static void test_both_sides_talk(void **state) {
    struct world w;
    world_open(&w, true);
    struct seen s = {0};
    uint8_t m[100];
    start(&w, "/echo", true, &s);
    for (unsigned i = 0; i < 50; i++) {
        memset(m, (int)i, sizeof(m));
        assert_true(channel_send(s.call, slice_of(m, sizeof(m))));
        if (i % 2) WAIT_UNTIL(&w, s.messages == i + 1);
    }
    channel_send_end(s.call);
    WAIT_UNTIL(&w, s.ends);
    assert_true(s.ordered);
    assert_int_equal(s.messages, 50);
    assert_int_equal(s.code, GRPC_OK);
    world_close(&w);
}

static void test_the_end_tells_status_after_what_came(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {0}, half = {0}, compressed = {0}, huge = {0};
    start(&w, "/three-then-unavailable", false, &s);
    start(&w, "/half", false, &half);
    start(&w, "/compressed", false, &compressed);
    start(&w, "/huge", false, &huge);
    WAIT_UNTIL(&w, s.ends && half.ends && compressed.ends && huge.ends);
    assert_int_equal(s.messages, 3);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_string_equal(s.text, "draining");
    assert_int_equal(half.code, GRPC_INTERNAL);
    assert_string_equal(half.text, "the stream ended within a message");
    assert_int_equal(compressed.code, GRPC_INTERNAL);
    assert_int_equal(huge.code, GRPC_RESOURCE_EXHAUSTED);
    assert_string_equal(huge.text, "a message of the stream is larger than 67108864 bytes");
    assert_int_equal(half.messages + compressed.messages + huge.messages, 0);
    world_close(&w);
}

static void test_a_lost_connection_ends_it_behind_what_came(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {.keeps = true};
    start(&w, "/one-then-reset", false, &s);
    WAIT_UNTIL(&w, s.messages == 1);
    fake_grpc_stop(w.server);
    for (int i = 0; i < 3; i++) channel_loop_turn(w.loop, 20 * NS_PER_MS);
    assert_int_equal(s.ends, 0);
    assert_int_equal(s.last[9], 7);
    channel_release(s.call);
    WAIT_UNTIL(&w, s.ends);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(s.fate, CHANNEL_UNKNOWN);
    channel_close(w.channel);
    channel_loop_free(w.loop);
}

static void test_cancel_drops_what_waits(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {.cancels = true}, kept = {.keeps = true}, closed = {.keeps = true}, quiet = {0};
    start(&w, "/send/100/1000", false, &s);
    start(&w, "/send/100/1000", false, &kept);
    start(&w, "/send/2/10", false, &closed);
    start(&w, "/quiet", false, &quiet);
    WAIT_UNTIL(&w, s.ends && kept.messages && closed.messages);
    assert_int_equal(s.messages, 1);
    assert_int_equal(s.code, GRPC_CANCELLED);
    const uint8_t *m = kept.last;
    channel_cancel(kept.call);
    assert_int_equal(m[999], 0); /* a kept one is there until the end is told */
    channel_cancel(quiet.call);
    assert_int_equal(quiet.ends, 0); /* never out of the function */
    WAIT_UNTIL(&w, kept.ends && quiet.ends);
    assert_int_equal(quiet.code, GRPC_CANCELLED);
    assert_int_equal(kept.messages, 1);
    WAIT_UNTIL(&w, fake_grpc_resets(w.server) >= 1);
    channel_close(w.channel); /* with one that lingers */
    channel_loop_turn(w.loop, 0);
    assert_int_equal(closed.ends, 1);
    channel_loop_free(w.loop);
    fake_grpc_stop(w.server);
}

static void test_a_deadline_ends_it(void **state) {
    struct world w;
    world_open(&w, false);
    struct seen s = {.keeps = true, .ordered = true};
    struct channel_request r = {.path = "/one-then-reset", .deadline_ns = channel_now_ns() + 300 * NS_PER_MS, .on_answer = end_cb, .on_message = message_cb, .user = &s};
    s.call = channel_start(w.channel, &r);
    assert_non_null(s.call);
    WAIT_UNTIL(&w, s.ends);
    assert_int_equal(s.code, GRPC_DEADLINE_EXCEEDED);
    world_close(&w);
}

static void test_silence_is_asked_about(void **state) {
    struct world w;
    world_open(&w, false);
    channel_ping(w.channel, 20 * NS_PER_MS, 10 * NS_PER_S, 0);
    struct seen s = {0};
    start(&w, "/quiet", false, &s);
    WAIT_UNTIL(&w, fake_grpc_pings(w.server) >= 3); /* each was answered, or there were one */
    assert_int_equal(s.ends, 0);
    world_close(&w);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* takes connections and says nothing */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    char target[32];
    assert_int_equal(bind(listener, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(listener, 4), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &len), 0);
    snprintf(target, sizeof(target), "127.0.0.1:%u", ntohs(a.sin_port));
    w.loop = channel_loop_new();
    assert_non_null(w.loop);
    w.channel = channel_open(w.loop, target);
    assert_non_null(w.channel);
    channel_ping(w.channel, 20 * NS_PER_MS, 50 * NS_PER_MS, 0);
    s = (struct seen){0};
    start(&w, "/quiet", false, &s);
    WAIT_UNTIL(&w, s.ends);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_non_null(strstr(s.text, "the server is silent"));
    channel_close(w.channel);
    channel_loop_free(w.loop);
    close(listener);
}

static void test_every_allocation_may_fail(void **state) {
    struct world w;
    world_open(&w, false);
    unsigned failed = 0;
    for (uint64_t nth = 1; nth < 200; nth++) {
        struct seen s = {.ordered = true};
        struct channel_request r = {.path = "/send/3/100000", .message = SLICE_LIT("go"), .on_answer = end_cb, .on_message = message_cb, .user = &s};
        uint64_t before = mem_count();
        mem_fail_nth(nth);
        s.call = channel_start(w.channel, &r);
        for (uint64_t until = channel_now_ns() + 20 * NS_PER_S; s.call && !s.ends;) {
            channel_loop_turn(w.loop, 20 * NS_PER_MS);
            assert_true(channel_now_ns() < until);
        }
        mem_fail_nth(0);
        assert_true(s.ordered);
        if (!s.call || s.code != GRPC_OK) failed++;
        else assert_int_equal(s.bytes, 300000);
        if (s.call && s.code == GRPC_OK && mem_count() - before < nth) break;
    }
    assert_true(failed > 3);
    world_close(&w);
}

static void test_messages_out_of_any_pieces(void **state) {
    struct buf bytes = {0};
    uint8_t head[GRPC_FRAME_HEAD], body[40];
    for (uint8_t i = 0; i < 40; i++) {
        grpc_frame_head(head, i);
        memset(body, i, sizeof(body));
        assert_true(buf_append(&bytes, slice_of(head, sizeof(head))) && buf_append(&bytes, slice_of(body, i)));
    }
    for (size_t piece = 1; piece < 60; piece++) {
        struct inflow in;
        struct slice m;
        inflow_init(&in);
        size_t released = 0;
        uint8_t next = 0;
        for (size_t at = 0; at < bytes.len; at += piece) {
            assert_int_equal(inflow_feed(&in, slice_of(bytes.data + at, MIN_OF(piece, bytes.len - at)), 39), INFLOW_OK);
            for (; inflow_first(&in, &m); next++) {
                assert_int_equal(m.len, next);
                for (size_t i = 0; i < m.len; i++) assert_int_equal(m.data[i], next);
                released += inflow_release(&in);
            }
        }
        assert_int_equal(next, 40);
        assert_int_equal(released, bytes.len);
        assert_true(inflow_is_between(&in));
        assert_int_equal(inflow_feed(&in, SLICE_LIT("\0\0\0\0"), 39), INFLOW_OK);
        assert_false(inflow_is_between(&in));
        assert_int_equal(inflow_feed(&in, SLICE_LIT("\x28"), 39), INFLOW_TOO_LARGE);
        inflow_fini(&in);
    }
    buf_fini(&bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages_come_in_order_and_then_the_end),
        cmocka_unit_test(test_a_message_may_be_larger_than_the_window),
        cmocka_unit_test(test_what_is_kept_holds_the_window_and_nobody_else),
        cmocka_unit_test(test_both_sides_talk),
        cmocka_unit_test(test_the_end_tells_status_after_what_came),
        cmocka_unit_test(test_a_lost_connection_ends_it_behind_what_came),
        cmocka_unit_test(test_cancel_drops_what_waits),
        cmocka_unit_test(test_a_deadline_ends_it),
        cmocka_unit_test(test_silence_is_asked_about),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_messages_out_of_any_pieces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
