/* The promises of call_send, call_finish and call_watch_core: answers of many messages, one on its way at a time. */
#include "tests/lib/test.h"

#include "tests/lib/h2_world.h"

#define WATCH "/grpc.health.v1.Health/Watch"
#define BIDI "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

static struct world w;
static call_handler handle_watch, handle_bidi;
void serve_health_watch(struct call *call) { handle_watch(call); }
void serve_reflection(struct call *call) { handle_bidi(call); }
void serve_health_check(struct call *call) { handle_watch(call); } /* all of serve_health.c, or the linker takes it from its archive */

static int open_world(void **state) {
    world_open(&w);
    return 0;
}
static int close_world(void **state) {
    world_close(&w);
    return 0;
}

/* How many messages are in the body, each whole; all of `len` bytes of 'm'. */
static unsigned messages_in(const struct answer *a, uint32_t len) {
    unsigned n = 0;
    for (size_t at = 0; at < a->body_len; n++) {
        bool compressed;
        uint32_t got;
        assert_true(grpc_frame_parse(a->body + at, &compressed, &got));
        assert_int_equal(got, len);
        at += GRPC_FRAME_HEAD;
        for (uint32_t i = 0; i < len; i++) assert_int_equal(a->body[at + i], 'm');
        at += len;
        assert_true(at <= a->body_len);
    }
    return n;
}

static uint8_t large[100000];
static unsigned left, sent;
static size_t message_len;
static struct call *running;
static void next_of_many(struct call *call) {
    sent++;
    assert_false(call_sending(call));
    if (left == 0) return call_finish(call);
    left--;
    call_send(call, slice_of(large, message_len), next_of_many);
    assert_true(call_sending(call));
}
static void handler_many(struct call *call) {
    running = call;
    memset(large, 'm', sizeof large);
    next_of_many(call);
}
static void handler_one(struct call *call) {
    running = call;
    call_send(call, SLICE_LIT("m"), NULL);
}
static struct answer *many(unsigned count, size_t len) {
    left = count, sent = 0, message_len = len;
    handle_watch = handler_many;
    return world_call(&w, WATCH, "x");
}

static void test_many_messages_then_ok(void **state) {
    struct answer *a = many(100, 3);
    assert_true(a->closed);
    assert_string_equal(a->grpc_status, "0");
    assert_string_equal(a->http_status, "200");
    assert_int_equal(messages_in(a, 3), 100);
    assert_int_equal(w.core.metrics.calls[METHOD_ROW_HealthWatch][GRPC_OK], 1);
}

static void test_messages_may_be_empty(void **state) {
    assert_int_equal(messages_in(many(5, 0), 0), 5);
}

static void test_messages_larger_than_frames_windows_and_buffers(void **state) {
    struct answer *a = many(20, sizeof large);
    assert_string_equal(a->grpc_status, "0");
    assert_int_equal(messages_in(a, sizeof large), 20);
}

static void test_no_message_is_trailers_only(void **state) {
    struct answer *a = many(0, 1);
    assert_true(a->closed);
    assert_string_equal(a->grpc_status, "0");
    assert_int_equal(a->body_len, 0);
}

static void test_one_message_is_on_its_way_until_the_peer_takes_it(void **state) {
    world_close(&w);
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1000)); /* the client's window, never opened */
    struct answer *a = many(10, 300);
    assert_false(a->closed);
    assert_int_equal(a->body_len, 1000);
    assert_int_equal(sent, 1 + 3); /* the fourth waits for the window, nothing behind it was made */
    assert_true(call_sending(running));
    world_time(&w, 31 * NS_PER_S);
    h2_sweep(w.h2);
    world_pump(&w);
    assert_true(a->closed);
    assert_int_equal(a->error_code, NGHTTP2_CANCEL);
}

static void test_a_silent_stream_is_not_stalled(void **state) {
    left = 0, sent = 0;
    handle_watch = handler_one;
    struct answer *a = world_call(&w, WATCH, "x");
    for (unsigned i = 0; i < 10; i++) {
        world_time(&w, 60 * NS_PER_S);
        h2_sweep(w.h2);
        world_pump(&w);
        assert_false(a->closed);
        call_send(running, SLICE_LIT("m"), NULL);
        world_pump(&w);
    }
    assert_int_equal(messages_in(a, 1), 11);
    call_finish(running);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "0");
}

static void handler_send_and_fail(struct call *call) {
    memset(large, 'm', sizeof large);
    call_send(call, slice_of(large, sizeof large), NULL);
    failure_set(call_failure(call), STATUS_DRAINING, "the end");
    call_fail(call); /* waits for the message */
}
static void test_a_failure_waits_for_the_message_on_its_way(void **state) {
    handle_watch = handler_send_and_fail;
    struct answer *a = world_call(&w, WATCH, "x");
    assert_true(a->closed);
    assert_int_equal(messages_in(a, sizeof large), 1);
    assert_string_equal(a->grpc_status, "14");
    assert_string_equal(a->grpc_message, "the end");
    assert_string_equal(a->pushback, "100");
    assert_true(strlen(a->details) > 10);
    assert_int_equal(w.core.metrics.calls[METHOD_ROW_HealthWatch][GRPC_UNAVAILABLE], 1);
}

static void test_a_failure_between_messages(void **state) {
    handle_watch = handler_one;
    struct answer *a = world_call(&w, WATCH, "x");
    failure_set(call_failure(running), STATUS_DRAINING, "the end");
    call_fail(running);
    world_pump(&w);
    assert_int_equal(messages_in(a, 1), 1);
    assert_string_equal(a->grpc_status, "14");
}

static void test_the_deadline_between_messages_and_within_one(void **state) {
    handle_watch = handler_one;
    struct answer *a = world_request(&w, WATCH, framed_text("x"), false, "grpc-timeout", "1S");
    world_pump(&w);
    world_time(&w, 2 * NS_PER_S);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "4");
    assert_int_equal(messages_in(a, 1), 1);
    world_close(&w);
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1000));
    left = 10, message_len = 300;
    handle_watch = handler_many;
    a = world_request(&w, WATCH, framed_text("x"), false, "grpc-timeout", "1S");
    world_pump(&w);
    world_time(&w, 2 * NS_PER_S);
    world_pump(&w);
    assert_true(a->closed);
    assert_int_equal(a->error_code, NGHTTP2_CANCEL);
    assert_int_equal(w.core.metrics.calls[METHOD_ROW_HealthWatch][GRPC_DEADLINE_EXCEEDED], 1);
}

static void test_a_reset_or_lost_connection_ends_it(void **state) {
    left = 10, message_len = 300;
    handle_watch = handler_one;
    struct answer *a = world_call(&w, WATCH, "x");
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 0);
    world_call(&w, WATCH, "x");
    world_call(&w, WATCH, "x");
    assert_int_equal(w.core.calls_live, 2); /* world_close loses the connection */
}

/* ---- bidirectional: each message is answered, held until the answer is gone */
static void on_echo_sent(struct call *call) {
    call_arena_give(call, *call_state(call));
    call_release(call);
}
static void handler_echo_each(struct call *call) {
    if (call_half_closed(call)) return call_finish(call);
    struct arena *arena = call_arena_take(call);
    assert_non_null(arena);
    *call_state(call) = arena;
    call_hold(call);
    call_send(call, arena_copy(arena, call_message(call)), on_echo_sent);
}
static void test_bidirectional_messages_are_answered_in_order(void **state) {
    handle_bidi = handler_echo_each;
    struct slice m = framed_text("mmm");
    static uint8_t wire[50 * 8];
    for (unsigned i = 0; i < 50; i++) memcpy(wire + i * 8, m.data, m.len);
    struct answer *a = world_request(&w, BIDI, slice_of(wire, sizeof wire), true, NULL, NULL);
    world_pump(&w);
    assert_int_equal(messages_in(a, 3), 50);
    assert_false(a->closed);
    world_time(&w, 300 * NS_PER_S); /* nobody says anything */
    h2_sweep(w.h2);
    world_more(&w, a, m, false);
    world_pump(&w);
    assert_true(a->closed);
    assert_int_equal(messages_in(a, 3), 51);
    assert_string_equal(a->grpc_status, "0");
}

static void handler_large_unheld(struct call *call) { /* the next message comes while this one goes */
    memset(large, 'm', sizeof large);
    call_send(call, slice_of(large, sizeof large), NULL);
}
static void test_a_bad_message_behind_an_answer_on_its_way(void **state) {
    handle_bidi = handler_large_unheld;
    uint8_t wire[16];
    struct slice m = framed_text("x");
    memcpy(wire, m.data, m.len);
    memcpy(wire + m.len, "\7\0\0\0\1x", 6); /* flag byte 7 */
    struct answer *a = world_request(&w, BIDI, slice_of(wire, m.len + 6), true, NULL, NULL);
    world_pump(&w);
    assert_true(a->closed);
    assert_int_equal(messages_in(a, sizeof large), 1);
    assert_string_equal(a->grpc_status, "3");
}

/* ---- call_watch_core */
static void on_change(struct call *call) {
    sent++;
    call_finish(call);
}
static void handler_watch(struct call *call) {
    handler_one(call);
    call_watch_core(call, on_change);
}
static void test_watchers_hear_of_changes_until_they_end(void **state) {
    handle_watch = handler_watch;
    struct answer *a = world_call(&w, WATCH, "x"), *b = world_call(&w, WATCH, "x");
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    sent = 0;
    calls_core_changed(w.core.calls);
    calls_core_changed(w.core.calls); /* the end is under way: not told again */
    world_pump(&w);
    calls_core_changed(w.core.calls);
    assert_int_equal(sent, 1);
    assert_string_equal(b->grpc_status, "0");
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
    const struct CMUnitTest tests[] = {
        T(test_many_messages_then_ok), T(test_messages_may_be_empty), T(test_messages_larger_than_frames_windows_and_buffers), T(test_no_message_is_trailers_only),
        T(test_one_message_is_on_its_way_until_the_peer_takes_it), T(test_a_silent_stream_is_not_stalled), T(test_a_failure_waits_for_the_message_on_its_way),
        T(test_a_failure_between_messages), T(test_the_deadline_between_messages_and_within_one), T(test_a_reset_or_lost_connection_ends_it),
        T(test_bidirectional_messages_are_answered_in_order), T(test_a_bad_message_behind_an_answer_on_its_way), T(test_watchers_hear_of_changes_until_they_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
