/* client/channel.h's promises, against a server in a thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <stdatomic.h>
#include <cmocka.h>

#include "client/channel.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"

static atomic_uint requests;
static char last_timeout[16];

/* What to do is in the path. */
static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    requests++;
    snprintf(last_timeout, sizeof(last_timeout), "%s", r->timeout);
    if (strcmp(r->path, "/echo") == 0 || strcmp(r->path, "/goaway") == 0) {
        size_t n = r->body.len > GRPC_FRAME_HEAD ? MIN_OF(r->body.len - GRPC_FRAME_HEAD, sizeof(out->body)) : 0;
        memcpy(out->body, r->body.data + GRPC_FRAME_HEAD, n);
        out->body_len = n;
        if (strcmp(r->path, "/goaway") == 0) out->action = FAKE_GOAWAY;
    } else if (strcmp(r->path, "/count") == 0) { /* how many bytes came in all */
        out->body_len = (size_t)snprintf((char *)out->body, sizeof(out->body), "%zu", r->body.len);
    } else if (strcmp(r->path, "/refused") == 0) {
        out->action = FAKE_STATUS_ONLY, out->grpc_status = GRPC_NOT_FOUND;
        strcpy(out->message, "no such \xc3\xb6rder 100%");
        memcpy(out->details, "\x08\x05", 2), out->details_len = 2;
        strcpy(out->pushback, "250");
    } else if (strcmp(r->path, "/stop") == 0) {
        out->action = FAKE_ANSWER, out->grpc_status = GRPC_UNAVAILABLE;
        strcpy(out->pushback, "-1");
    } else if (strcmp(r->path, "/silent") == 0) {
        out->action = FAKE_SILENCE;
    } else if (strcmp(r->path, "/refuse-stream") == 0) {
        out->action = FAKE_RESET, out->reset_code = 7;
    } else if (strcmp(r->path, "/reset") == 0) {
        out->action = FAKE_RESET, out->reset_code = 2;
    } else if (strcmp(r->path, "/calm") == 0) {
        out->action = FAKE_RESET, out->reset_code = 11;
    } else if (strcmp(r->path, "/drop") == 0) {
        out->action = FAKE_DROP;
    } else if (strcmp(r->path, "/short") == 0) {
        out->action = FAKE_RAW;
        memcpy(out->body, "\0\0\0\0\x09" "abc", 8), out->body_len = 8;
    } else if (strcmp(r->path, "/none") == 0) {
        out->action = FAKE_STATUS_ONLY;
    } else if (strcmp(r->path, "/http") == 0) {
        out->action = FAKE_HTTP, out->http_status = 503;
    } else if (strcmp(r->path, "/early") == 0) {
        out->action = FAKE_STATUS_ONLY, out->grpc_status = GRPC_FAILED_PRECONDITION;
        strcpy(out->message, "enough");
    }
}

struct world {
    struct fake_grpc *server;
    struct channel_loop *loop;
    struct channel *channel;
};
struct seen {
    unsigned calls;
    enum grpc_code code;
    enum channel_fate fate;
    int64_t pushback_ms;
    char message[256], response[4096];
    size_t response_len, details_len;
};

static void record_cb(void *user, const struct channel_answer *a) {
    struct seen *s = user;
    s->calls++;
    s->code = a->code, s->fate = a->fate, s->pushback_ms = a->pushback_ms;
    snprintf(s->message, sizeof(s->message), "%.*s", (int)a->message.len, (const char *)a->message.data);
    s->response_len = MIN_OF(a->response.len, sizeof(s->response));
    if (s->response_len) memcpy(s->response, a->response.data, s->response_len);
    s->details_len = a->details.len;
}

static void world_open(struct world *w, bool early) {
    char target[32];
    requests = 0;
    w->server = fake_grpc_start(handler, NULL, early, 0);
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

static struct channel_call *start(struct world *w, const char *path, const char *message, uint64_t timeout_ns, struct seen *s) {
    *s = (struct seen){0};
    struct channel_request r = {.path = path, .message = slice_str(message), .on_answer = record_cb, .user = s};
    if (timeout_ns) r.deadline_ns = channel_now_ns() + timeout_ns;
    return channel_start(w->channel, &r);
}
static void wait_for(struct world *w, const struct seen *s) {
    for (uint64_t until = channel_now_ns() + 10 * NS_PER_S; !s->calls;) {
        channel_loop_turn(w->loop, 100 * NS_PER_MS);
        assert_true(channel_now_ns() < until);
    }
}
static void call(struct world *w, const char *path, const char *message, uint64_t timeout_ns, struct seen *s) {
    assert_non_null(start(w, path, message, timeout_ns, s));
    wait_for(w, s);
    assert_int_equal(s->calls, 1);
}

static void test_a_call_brings_its_answer(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    assert_false(channel_was_connected(w.channel));
    call(&w, "/echo", "hello", 0, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(s.fate, CHANNEL_ANSWERED);
    assert_int_equal(s.response_len, 5);
    assert_memory_equal(s.response, "hello", 5);
    assert_int_equal(s.pushback_ms, CHANNEL_PUSHBACK_NONE);
    assert_true(channel_was_connected(w.channel));
    assert_string_equal(last_timeout, "");
    call(&w, "/echo", "", 5 * NS_PER_S, &s); /* an empty message is a message; the deadline is told */
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(s.response_len, 0);
    uint64_t told;
    assert_true(grpc_timeout_parse(slice_str(last_timeout), &told));
    assert_in_range(told, 4 * NS_PER_S, 5 * NS_PER_S);
    assert_int_equal(fake_grpc_connections(w.server), 1);
    world_close(&w);
}

static void test_many_calls_share_one_connection(void **state) {
    struct world w;
    static struct seen s[500];
    char text[16];
    world_open(&w, false);
    for (int i = 0; i < 500; i++) { /* more than the server's 100 streams: the rest waits in the session */
        snprintf(text, sizeof(text), "%d", i);
        assert_non_null(start(&w, "/echo", text, 0, &s[i]));
    }
    for (int i = 0; i < 500; i++) {
        wait_for(&w, &s[i]);
        snprintf(text, sizeof(text), "%d", i);
        assert_int_equal(s[i].code, GRPC_OK);
        assert_int_equal(s[i].response_len, strlen(text));
        assert_memory_equal(s[i].response, text, strlen(text));
    }
    assert_int_equal(fake_grpc_connections(w.server), 1);
    world_close(&w);
}

static void test_a_refusal_is_decoded(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    call(&w, "/refused", "x", 0, &s);
    assert_int_equal(s.code, GRPC_NOT_FOUND);
    assert_int_equal(s.fate, CHANNEL_ANSWERED);
    assert_string_equal(s.message, "no such \xc3\xb6rder 100%");
    assert_int_equal(s.details_len, 2);
    assert_int_equal(s.pushback_ms, 250);
    call(&w, "/stop", "x", 0, &s);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(s.pushback_ms, CHANNEL_PUSHBACK_STOP);
    world_close(&w);
}

static void test_answers_that_are_none_are_told_apart(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    call(&w, "/refuse-stream", "x", 0, &s);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(s.fate, CHANNEL_NOT_SENT); /* RFC 9113 8.7: not processed */
    call(&w, "/reset", "x", 0, &s);
    assert_int_equal(s.code, GRPC_INTERNAL);
    assert_int_equal(s.fate, CHANNEL_UNKNOWN);
    call(&w, "/calm", "x", 0, &s);
    assert_int_equal(s.code, GRPC_RESOURCE_EXHAUSTED);
    call(&w, "/short", "x", 0, &s);
    assert_int_equal(s.code, GRPC_INTERNAL);
    assert_int_equal(s.fate, CHANNEL_UNKNOWN);
    call(&w, "/none", "x", 0, &s); /* status 0 without a message */
    assert_int_equal(s.code, GRPC_INTERNAL);
    call(&w, "/http", "x", 0, &s);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(fake_grpc_connections(w.server), 1); /* none of these costs the connection */
    world_close(&w);
}

static void test_a_lost_connection_ends_its_calls_and_the_next_call_reconnects(void **state) {
    struct world w;
    struct seen silent, dropped, s;
    world_open(&w, false);
    start(&w, "/silent", "x", 0, &silent);
    call(&w, "/drop", "x", 0, &dropped);
    wait_for(&w, &silent);
    assert_int_equal(dropped.code, GRPC_UNAVAILABLE);
    assert_int_equal(dropped.fate, CHANNEL_UNKNOWN);
    assert_int_equal(silent.code, GRPC_UNAVAILABLE);
    call(&w, "/echo", "again", 0, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(fake_grpc_connections(w.server), 2);
    world_close(&w);
}

static void test_calls_beyond_the_servers_streams_were_not_sent_when_the_connection_is_lost(void **state) {
    struct world w;
    struct seen first, second, third;
    world_open(&w, false);
    fake_grpc_set_max_streams(w.server, 1);
    call(&w, "/echo", "x", 0, &first); /* the client knows the limit now */
    start(&w, "/drop", "x", 0, &first);
    start(&w, "/echo", "x", 0, &second);
    wait_for(&w, &first);
    wait_for(&w, &second);
    assert_int_equal(first.fate, CHANNEL_UNKNOWN);
    assert_int_equal(second.code, GRPC_UNAVAILABLE);
    assert_int_equal(second.fate, CHANNEL_NOT_SENT);
    /* A queued call can be cancelled before it has a stream. */
    start(&w, "/silent", "x", 0, &first);
    channel_cancel(start(&w, "/echo", "x", 0, &third));
    wait_for(&w, &third);
    assert_int_equal(third.code, GRPC_CANCELLED);
    assert_int_equal(third.fate, CHANNEL_NOT_SENT);
    world_close(&w);
}

static void test_a_refused_connection_is_unavailable_and_not_sent(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    uint16_t port = fake_grpc_port(w.server);
    fake_grpc_stop(w.server);
    call(&w, "/echo", "x", 5 * NS_PER_S, &s);
    assert_int_equal(s.code, GRPC_UNAVAILABLE);
    assert_int_equal(s.fate, CHANNEL_NOT_SENT);
    assert_non_null(strstr(s.message, "Connection refused"));
    assert_false(channel_was_connected(w.channel));
    w.server = fake_grpc_start(handler, NULL, false, port); /* it comes up: the same channel finds it */
    call(&w, "/echo", "x", 5 * NS_PER_S, &s);
    assert_int_equal(s.code, GRPC_OK);
    world_close(&w);
}

static void test_deadlines_end_calls_here(void **state) {
    struct world w;
    struct seen late, later, s;
    world_open(&w, false);
    call(&w, "/echo", "x", 0, &s);
    start(&w, "/silent", "x", 60 * NS_PER_MS, &later);
    start(&w, "/silent", "x", 20 * NS_PER_MS, &late);
    wait_for(&w, &late);
    assert_int_equal(later.calls, 0);
    wait_for(&w, &later);
    assert_int_equal(late.code, GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(late.fate, CHANNEL_UNKNOWN);
    call(&w, "/echo", "x", 0, &s); /* the connection lives on */
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(fake_grpc_connections(w.server), 1);
    assert_int_equal(fake_grpc_resets(w.server), 2); /* and the server was told to stop */
    world_close(&w);
}

static void test_a_silent_connection_is_given_up(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    call(&w, "/echo", "x", 0, &s);
    call(&w, "/silent", "x", 2200 * NS_PER_MS, &s); /* nothing heard for two seconds, as behind a cut cable */
    assert_int_equal(s.code, GRPC_DEADLINE_EXCEEDED);
    call(&w, "/echo", "x", 0, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(fake_grpc_connections(w.server), 2);
    world_close(&w);
}

static void test_goaway_moves_new_calls_to_a_new_connection(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    call(&w, "/goaway", "last", 0, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_memory_equal(s.response, "last", 4);
    call(&w, "/echo", "next", 0, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_int_equal(fake_grpc_connections(w.server), 2);
    world_close(&w);
}

static void test_cancel_ends_with_one_callback(void **state) {
    struct world w;
    struct seen s, t;
    world_open(&w, false);
    call(&w, "/echo", "x", 0, &t);
    struct channel_call *c = start(&w, "/silent", "x", 0, &s);
    channel_loop_turn(w.loop, 0);
    channel_cancel(c);
    channel_cancel(c);
    assert_int_equal(s.calls, 0); /* not out of channel_cancel() */
    wait_for(&w, &s);
    assert_int_equal(s.code, GRPC_CANCELLED);
    call(&w, "/echo", "x", 0, &t);
    assert_int_equal(s.calls, 1);
    world_close(&w);
}

static void test_closing_the_channel_ends_its_calls(void **state) {
    struct world w;
    struct seen s;
    world_open(&w, false);
    start(&w, "/silent", "x", 0, &s);
    channel_loop_turn(w.loop, 0);
    channel_close(w.channel);
    assert_int_equal(s.calls, 0);
    channel_loop_turn(w.loop, 0);
    assert_int_equal(s.calls, 1);
    assert_int_equal(s.code, GRPC_CANCELLED);
    channel_loop_free(w.loop);
    fake_grpc_stop(w.server);
}

static void test_a_stream_sends_its_messages_in_order(void **state) {
    struct world w;
    struct seen s = {0};
    world_open(&w, false);
    struct channel_request r = {.path = "/count", .stream = true, .on_answer = record_cb, .user = &s};
    struct channel_call *c = channel_start(w.channel, &r);
    assert_non_null(c);
    channel_loop_turn(w.loop, 10 * NS_PER_MS); /* deferred: nothing to send yet */
    static char big[300000];
    memset(big, 'b', sizeof(big));
    assert_true(channel_send(c, SLICE_LIT("abc")));
    assert_true(channel_unsent_bytes(c) > 0);
    for (uint64_t until = channel_now_ns() + 5 * NS_PER_S; channel_unsent_bytes(c) && channel_now_ns() < until;) channel_loop_turn(w.loop, NS_PER_MS);
    assert_int_equal(channel_unsent_bytes(c), 0);
    assert_true(channel_send(c, slice_of(big, sizeof(big)))); /* more than the window: waits for the server's updates */
    assert_true(channel_send(c, SLICE_LIT("")));
    channel_send_end(c);
    wait_for(&w, &s);
    assert_int_equal(s.code, GRPC_OK);
    assert_memory_equal(s.response, "300018", 6);
    assert_int_equal(s.response_len, 6);
    world_close(&w);
}

static void test_an_answer_before_the_end_of_a_stream_ends_it(void **state) {
    struct world w;
    struct seen s = {0};
    world_open(&w, true);
    struct channel_request r = {.path = "/early", .stream = true, .on_answer = record_cb, .user = &s};
    struct channel_call *c = channel_start(w.channel, &r);
    assert_true(channel_send(c, SLICE_LIT("abc")));
    bool sent = true;
    for (uint64_t until = channel_now_ns() + 5 * NS_PER_S; sent && !s.calls && channel_now_ns() < until;) {
        channel_loop_turn(w.loop, 10 * NS_PER_MS);
        if (!s.calls) sent = channel_send(c, SLICE_LIT("more"));
    }
    wait_for(&w, &s);
    assert_int_equal(s.code, GRPC_FAILED_PRECONDITION);
    assert_string_equal(s.message, "enough");
    world_close(&w);
}

static void test_targets(void **state) {
    struct channel_loop *l = channel_loop_new();
    static const char *const good[] = {"127.0.0.1:1", "localhost", "[::1]:7400", "[::1]", "::1", "a.b:65535"};
    static const char *const bad[] = {"", ":7400", "h:0", "h:65536", "h:x", "h:", "[::1", "[::1]7400", "[]:1"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct channel *c = channel_open(l, good[i]);
        assert_non_null(c);
        channel_close(c);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        errno = 0;
        assert_null(channel_open(l, bad[i]));
        assert_int_equal(errno, EINVAL);
    }
    channel_close(NULL);
    channel_loop_free(l);
    channel_loop_free(NULL);
}

/* Whichever allocation fails, a call is refused or ends with one callback, and the next one works. */
static void test_every_allocation_may_fail(void **state) {
    struct world w;
    struct seen s, after;
    world_open(&w, false);
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        uint64_t before = mem_count();
        struct channel_call *c = start(&w, "/refused", "x", 5 * NS_PER_S, &s);
        if (c) wait_for(&w, &s);
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        assert_int_equal(s.calls, c ? 1 : 0);
        call(&w, "/echo", "x", 5 * NS_PER_S, &after);
        if (after.code != GRPC_OK) call(&w, "/echo", "x", 5 * NS_PER_S, &after); /* the fault may have taken the connection along */
        assert_int_equal(after.code, GRPC_OK);
        if (!reached) break;
        if (n % 3 == 0) call(&w, "/drop", "x", 5 * NS_PER_S, &after); /* so that opening a link is among what fails */
    }
    world_close(&w);
    for (uint64_t n = 1; n < 30; n++) {
        mem_fail_nth(n);
        struct channel_loop *l = channel_loop_new();
        struct channel *c = l ? channel_open(l, "127.0.0.1:1") : NULL;
        mem_fail_nth(0);
        channel_close(c);
        channel_loop_free(l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_brings_its_answer),
        cmocka_unit_test(test_many_calls_share_one_connection),
        cmocka_unit_test(test_a_refusal_is_decoded),
        cmocka_unit_test(test_answers_that_are_none_are_told_apart),
        cmocka_unit_test(test_a_lost_connection_ends_its_calls_and_the_next_call_reconnects),
        cmocka_unit_test(test_calls_beyond_the_servers_streams_were_not_sent_when_the_connection_is_lost),
        cmocka_unit_test(test_a_refused_connection_is_unavailable_and_not_sent),
        cmocka_unit_test(test_deadlines_end_calls_here),
        cmocka_unit_test(test_a_silent_connection_is_given_up),
        cmocka_unit_test(test_goaway_moves_new_calls_to_a_new_connection),
        cmocka_unit_test(test_cancel_ends_with_one_callback),
        cmocka_unit_test(test_closing_the_channel_ends_its_calls),
        cmocka_unit_test(test_a_stream_sends_its_messages_in_order),
        cmocka_unit_test(test_an_answer_before_the_end_of_a_stream_ends_it),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
