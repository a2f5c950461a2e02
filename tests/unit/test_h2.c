/* The promises of server/h2.h: bytes in, bytes out, streams, windows, hostile peers. What a call makes of it: test_call.c. */
#include "tests/lib/test.h"

#include "tests/lib/h2_world.h"

static struct world w;

static void test_a_request_is_answered(void **state) {
    world_open(&w);
    struct answer *a = world_call(&w, SVC "CreateOrder", "hello");
    assert_true(a->closed);
    assert_int_equal(a->error_code, NGHTTP2_NO_ERROR);
    assert_string_equal(a->http_status, "200");
    assert_true(answer_is(a, "hello"));
    assert_int_equal(h2_requests(w.h2), 1);
    assert_int_equal(h2_open_streams(w.h2), 0);
    world_close(&w);
}

static void test_a_reply_leaves_in_one_flush(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "warm up");
    struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("one"), false, NULL, NULL);
    const uint8_t *data;
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) assert_true(world_feed(&w, data, (size_t)n));
    assert_true(world_output(&w)); /* HEADERS, DATA, HEADERS */
    assert_true(a->closed);
    assert_true(answer_is(a, "one"));
    world_close(&w);
}

static void test_bytes_may_come_one_by_one(void **state) {
    world_open(&w);
    w.feed_bytes = 1;
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "drip"), "drip"));
    world_close(&w);
}

static void test_large_answers_wait_for_the_peers_window(void **state) {
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1000));
    struct answer *a = world_call(&w, SVC "ListOrders", "0200000");
    assert_int_equal(a->body_len, 1000);
    assert_false(a->closed);
    assert_int_equal(w.core.calls_live, 1);
    for (unsigned i = 0; i < 300 && !a->closed; i++) {
        nghttp2_session_consume(w.client, a->id, 1000);
        world_pump(&w);
    }
    assert_true(a->closed);
    assert_int_equal(a->body_len, 200000 + GRPC_FRAME_HEAD);
    assert_string_equal(a->grpc_status, "0");
    for (size_t i = 0; i < 200000; i++) assert_int_equal(a->body[GRPC_FRAME_HEAD + i], i % 250);
    world_close(&w);
}

static void test_large_answers_fit_small_buffers(void **state) {
    world_open(&w);
    w.output_bytes = H2_OUTPUT_BYTES_MIN;
    struct answer *a = world_call(&w, SVC "ListOrders", "0900000");
    assert_true(a->closed);
    assert_int_equal(a->body_len, 900000 + GRPC_FRAME_HEAD);
    for (size_t i = 0; i < 900000; i += 97) assert_int_equal(a->body[GRPC_FRAME_HEAD + i], i % 250);
    assert_true(w.output_calls > 900000 / H2_OUTPUT_BYTES_MIN);
    world_close(&w);
}

static void test_many_streams(void **state) {
    world_open(&w);
    for (unsigned i = 0; i < 300; i++) world_request(&w, i % 2 ? SVC "GetOrder" : SVC "CreateOrder", framed_text("m"), false, NULL, NULL);
    world_pump(&w);
    assert_true(h2_open_streams(w.h2) <= 128);
    assert_true(h2_memory_bytes(w.h2) < 176 * KIB);
    while (!list_empty(&w.away)) world_home(&w), world_pump(&w);
    for (unsigned i = 0; i < 300; i++) assert_true(answer_is(&w.answers[i], i % 2 ? "home" : "m"));
    assert_int_equal(h2_open_streams(w.h2), 0);
    world_close(&w);
}

static void test_full_house_stays_within_its_memory(void **state) {
    world_open(&w);
    for (unsigned i = 0; i < 128; i++) world_request(&w, SVC "GetOrder", framed_text("m"), false, "grpc-timeout", "9S");
    world_pump(&w);
    assert_int_equal(h2_open_streams(w.h2), 128);
    assert_true(h2_memory_bytes(w.h2) < 128 * KIB);
    while (!list_empty(&w.away)) world_home(&w);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 0);
    world_close(&w);
}

static uint32_t streams_known(void) { return nghttp2_session_get_remote_settings(w.client, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS); }

/* What the client has beyond the new value goes on; it holds back the next, and the session, which knows nothing of it, goes on as well. */
static void test_a_connection_is_told_that_it_may_have_fewer_streams(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "greetings");
    assert_int_equal(streams_known(), world_h2_limits.streams_max);
    w.core.streams_told = 8;
    for (unsigned i = 0; i < 20; i++) world_request(&w, SVC "TransitionOrder", framed_text("x"), false, NULL, NULL);
    world_pump(&w);
    world_call(&w, SVC "CreateOrder", "output"); /* it goes with the next answer */
    assert_int_equal(streams_known(), 8);
    assert_int_equal(h2_open_streams(w.h2), 20);
    struct answer *late = world_request(&w, SVC "TransitionOrder", framed_text("late"), false, NULL, NULL);
    world_pump(&w);
    assert_int_equal(h2_open_streams(w.h2), 20);
    while (w.away_count > 8) world_home(&w), world_pump(&w);
    assert_false(late->closed);
    while (w.away_count) world_home(&w), world_pump(&w);
    assert_true(late->closed && strcmp(late->grpc_status, "0") == 0);
    w.core.streams_told = world_h2_limits.streams_max;
    world_call(&w, SVC "CreateOrder", "more again");
    assert_int_equal(streams_known(), world_h2_limits.streams_max);
    assert_false(w.goaway_seen);
    world_close(&w);
}

static void test_streams_that_last_take_no_calls_place(void **state) {
    world_open(&w);
    w.core.streams_told = 8;
    for (unsigned i = 0; i < 20; i++) world_request(&w, SVC "ImportOrders", framed_text("x"), true, NULL, NULL);
    world_pump(&w);
    world_call(&w, SVC "CreateOrder", "output");
    assert_int_equal(streams_known(), 28);
    world_close(&w);
}

static void test_drain_in_two_steps(void **state) {
    world_open(&w);
    struct answer *a = world_call(&w, SVC "GetOrder", "1");
    h2_drain_notice(w.h2);
    assert_true(world_output(&w));
    assert_true(w.goaway_seen);
    assert_int_equal(w.goaway_last, INT32_MAX);
    assert_false(h2_finished(w.h2));
    h2_drain_final(w.h2);
    h2_drain_final(w.h2); /* again: fine */
    world_pump(&w);
    assert_int_equal(w.goaway_last, a->id);
    assert_int_equal(w.goaway_code, NGHTTP2_NO_ERROR);
    assert_false(h2_finished(w.h2)); /* a call is in flight */
    world_home(&w);
    world_pump(&w);
    assert_true(answer_is(a, "home"));
    assert_true(h2_finished(w.h2));
    world_close(&w);
}

static void test_after_the_notice_requests_are_served(void **state) {
    world_open(&w);
    world_pump(&w);
    struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("late"), false, NULL, NULL);
    const uint8_t *data;
    h2_drain_notice(w.h2); /* crosses the request on the wire */
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) assert_true(world_feed(&w, data, (size_t)n));
    world_pump(&w);
    assert_true(answer_is(a, "late"));
    world_close(&w);
}

static void test_an_idle_connection_is_finished_by_the_final_goaway(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "x");
    h2_drain_final(w.h2);
    world_pump(&w);
    assert_true(h2_finished(w.h2));
    world_close(&w);
}

static void test_garbage_ends_the_connection(void **state) {
    world_open(&w);
    const char garbage[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_false(world_feed(&w, garbage, sizeof garbage - 1));
    assert_non_null(h2_error(w.h2));
    assert_true(h2_finished(w.h2));
    assert_false(h2_feed(w.h2, SLICE_LIT("more"))); /* stays over */
    world_close(&w);
}

static void test_a_broken_frame_ends_with_goaway(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "x");
    const uint8_t frame[] = {0, 0, 5, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5}; /* PING of 5 bytes */
    world_feed(&w, frame, sizeof frame);
    while (world_output(&w)) {}
    assert_true(w.goaway_seen);
    assert_int_equal(w.goaway_code, NGHTTP2_FRAME_SIZE_ERROR);
    assert_string_equal(h2_error(w.h2), "FRAME_SIZE_ERROR");
    assert_true(h2_finished(w.h2));
    world_close(&w);
}

static void test_long_headers_are_refused(void **state) {
    world_open(&w);
    char *value = malloc(20001);
    memset(value, 'v', 20000);
    value[20000] = 0;
    struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("x"), false, "x-long", value);
    world_pump(&w);
    assert_true(a->closed);
    assert_string_equal(a->grpc_status, "8");
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "next"), "next"));
    free(value);
    world_close(&w);
}

static void test_header_bombs_end_the_connection(void **state) {
    world_open(&w);
    /* One 2,800-byte entry in the HPACK table, then named again and again, a byte each: 400 x 2.8 KB. */
    world_pump(&w);
    static char value[2801];
    memset(value, 'b', 2800);
    struct answer *a = world_request(&w, SVC "CreateOrder", framed_text("x"), false, "x-bomb", value);
    world_pump(&w);
    assert_true(answer_is(a, "x"));
    uint8_t frame[9 + 400];
    for (unsigned round = 0; round < 2 && !w.dead; round++) {
        memset(frame, 0x80 | 62, sizeof frame); /* indexed field 62: the newest entry */
        frame[9] = 0x83, frame[10] = 0x86;      /* POST, http */
        memcpy(frame, (uint8_t[]){0, 400 >> 8, 400 & 255, 1, 0x4, 0, 0, 0, (uint8_t)(a->id + 2 + 2 * (int)round)}, 9);
        world_feed(&w, frame, sizeof frame);
    }
    while (world_output(&w)) {}
    assert_true(w.dead);
    assert_int_equal(h2_fault(w.h2), CUT_HEADER_BYTES);
    assert_int_equal(w.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    world_close(&w);
}

static void test_rapid_resets_end_the_connection(void **state) {
    struct h2_limits l = world_h2_limits;
    l.calm.reset_burst = 10, l.calm.reset_per_s = 1;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    for (unsigned i = 0; i < 20 && !w.dead; i++) {
        struct answer *a = world_request(&w, SVC "GetOrder", framed_text("x"), true, NULL, NULL);
        world_pump(&w);
        nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
        world_pump(&w);
        if (w.goaway_seen) break;
    }
    assert_true(w.goaway_seen);
    world_close(&w);
}

/* Eight calls at once of a second each, in four seconds that the server was not there to see: 32. The five after that are the bucket's. */
static void test_calls_that_are_given_up_at_their_deadlines_end_nothing(void **state) {
    struct h2_limits l = world_h2_limits;
    l.streams_max = 8, l.calm.reset_burst = 5, l.calm.reset_per_s = 0;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    unsigned given_up = 0;
    for (; !w.goaway_seen; given_up++) {
        struct answer *a = world_request(&w, SVC "GetOrder", framed_text("x"), true, "grpc-timeout", "1S");
        world_pump(&w);
        nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
        world_pump(&w);
    }
    assert_int_equal(given_up, 32 + 5 + 1);
    assert_int_equal(h2_fault(w.h2), CUT_RESETS);
    world_close(&w);
}

static void test_resets_of_slow_calls_and_answered_ones_are_in_order(void **state) {
    struct h2_limits l = world_h2_limits;
    l.calm.reset_burst = 5, l.calm.reset_per_s = 0;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    for (unsigned i = 0; i < 50; i++) {
        struct answer *slow = world_request(&w, SVC "GetOrder", framed_text("x"), true, NULL, NULL);
        world_pump(&w);
        w.core.now_ns += 25 * NS_PER_MS;
        nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, slow->id, NGHTTP2_CANCEL);
        struct answer *answered = world_call(&w, SVC "CreateOrder", "one");
        uint8_t reset[] = {0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 0, 0, 8}; /* it crossed the answer */
        put_be32(reset + 5, (uint32_t)answered->id);
        assert_true(world_feed(&w, reset, sizeof reset));
    }
    assert_false(w.goaway_seen);
    world_close(&w);
}

static void test_streams_beyond_the_limit_are_no_fault_of_who_was_not_told_of_it(void **state) {
    struct h2_limits l = world_h2_limits;
    l.streams_max = 4, l.calm.reset_burst = 5, l.calm.reset_per_s = 0;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    w.deaf = true;
    for (unsigned i = 0; i < 20; i++) world_request(&w, SVC "GetOrder", framed_text("x"), true, NULL, NULL);
    world_pump(&w);
    assert_false(w.dead);
    assert_int_equal(h2_open_streams(w.h2), 4);
    world_close(&w);
}

static void test_resets_that_the_peer_provokes_count_too(void **state) {
    struct h2_limits l = world_h2_limits;
    l.calm.reset_burst = 5, l.calm.reset_per_s = 0;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    for (unsigned i = 0; i < 20 && !w.goaway_seen; i++) {
        struct answer *a = world_request(&w, SVC "GetOrder", framed_text("x"), true, NULL, NULL);
        world_pump(&w);
        uint8_t update[13] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff}; /* a window beyond 2^31: the stream is reset by us */
        put_be32(update + 5, (uint32_t)a->id);
        world_feed(&w, update, sizeof update);
        world_pump(&w);
        assert_true(a->closed);
    }
    assert_true(w.goaway_seen);
    assert_int_equal(w.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    world_close(&w);
}

/* As gRPC's C core does when a call is cancelled before its headers were written. */
static void test_a_reset_of_a_stream_that_was_never_opened_is_left_out(void **state) {
    for (size_t piece = 0; piece < 14; piece++) {
        world_open(&w);
        w.feed_bytes = piece;
        assert_true(answer_is(world_call(&w, SVC "CreateOrder", "one"), "one"));
        struct answer *away = world_call(&w, SVC "GetOrder", "two");
        const uint8_t idle_resets[] = {0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8};
        assert_true(world_feed(&w, idle_resets, sizeof idle_resets)); /* two of them and a ping */
        world_pump(&w);
        assert_false(w.goaway_seen);
        world_home(&w);
        world_pump(&w);
        assert_true(answer_is(away, "home"));
        assert_true(answer_is(world_call(&w, SVC "CreateOrder", "three"), "three"));
        world_close(&w);
    }
}

static void test_resets_of_streams_never_opened_are_counted(void **state) {
    struct h2_limits l = world_h2_limits;
    l.calm.reset_burst = 5, l.calm.reset_per_s = 0;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    world_pump(&w);
    const uint8_t idle_reset[] = {0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, 8};
    for (unsigned i = 0; i < 6; i++) world_feed(&w, idle_reset, sizeof idle_reset);
    world_pump(&w);
    assert_int_equal(w.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    world_close(&w);
}

static void test_the_bucket_of_resets_fills_again(void **state) {
    struct h2_limits l = world_h2_limits;
    l.calm.reset_burst = 5, l.calm.reset_per_s = 2;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    for (unsigned i = 0; i < 20; i++) {
        struct answer *a = world_request(&w, SVC "CreateOrder", (struct slice){0}, true, NULL, NULL);
        world_pump(&w);
        uint8_t update[13] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff};
        put_be32(update + 5, (uint32_t)a->id);
        world_feed(&w, update, sizeof update);
        world_pump(&w);
        w.core.now_ns += NS_PER_S;
    }
    assert_false(w.goaway_seen);
    world_close(&w);
}

static void test_reset_streams_count_until_their_op_is_home(void **state) {
    struct h2_limits l = world_h2_limits;
    l.streams_max = 4;
    assert_true(world_open_with(&w, &l, &world_call_limits, 0));
    unsigned refused = 0;
    for (unsigned i = 0; i < 12; i++) {
        struct answer *a = world_request(&w, SVC "GetOrder", framed_text("x"), false, NULL, NULL);
        world_pump(&w);
        if (a->closed) {
            assert_int_equal(a->error_code, NGHTTP2_REFUSED_STREAM);
            refused++;
            continue;
        }
        nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
        world_pump(&w);
    }
    assert_int_equal(w.away_count, 8); /* twice streams_max */
    assert_int_equal(refused, 4);
    while (!list_empty(&w.away)) world_home(&w);
    assert_int_equal(w.core.calls_live, 0);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "again"), "again"));
    world_close(&w);
}

static void test_ping_floods_end_the_connection(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "x");
    uint8_t ping[17] = {0, 0, 8, 6};
    for (unsigned i = 0; i < 1000 && !w.dead; i++) world_feed(&w, ping, sizeof ping); /* answers are not taken */
    assert_true(w.dead);
    world_close(&w);
}

static uint64_t cut(enum cut why) { return metric_load(&w.core.metrics.cuts[why]); }
/* Time passes as conn lets it: a sweep every two seconds. */
static void sweep_for(unsigned seconds) {
    for (unsigned i = 0; i < seconds; i += 2) {
        w.core.now_ns += 2 * NS_PER_S;
        (void)h2_sweep(w.h2);
        world_pump(&w);
    }
}

static void test_slow_peers_are_swept(void **state) {
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1000));
    struct answer *slow_request = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0\0"), true, NULL, NULL);
    struct answer *slow_reader = world_call(&w, SVC "ListOrders", "0200000");
    struct answer *at_work = world_call(&w, SVC "GetOrder", "x");
    sweep_for(8);
    assert_false(slow_request->closed || slow_reader->closed);
    sweep_for(4);
    assert_true(slow_request->closed && slow_reader->closed);
    assert_int_equal(slow_reader->error_code, NGHTTP2_CANCEL);
    assert_int_equal(cut(CUT_SLOW_REQUEST), 1);
    assert_int_equal(cut(CUT_SLOW_ANSWER), 1);
    sweep_for(600);
    assert_false(at_work->closed); /* it is our turn, not the peer's */
    world_home(&w);
    world_pump(&w);
    assert_true(answer_is(at_work, "home"));
    world_close(&w);
}

static uint8_t large[1 << 20];
/* A request of a million bytes whose first ones are there. */
static struct answer *request_begun(size_t bytes) {
    memset(large, 0, sizeof large);
    grpc_frame_head(large, sizeof large - GRPC_FRAME_HEAD);
    struct answer *a = world_request(&w, SVC "CreateOrder", slice_of(large, bytes), true, NULL, NULL);
    world_pump(&w);
    return a;
}
/* So many bytes of it every two seconds. */
static unsigned seconds_until_reset(struct answer *a, size_t at, size_t step) {
    for (unsigned s = 0; s < 400; s += 2) {
        if (a->closed) return s;
        step = MIN_OF(step, sizeof large - at);
        world_more(&w, a, slice_of(large + at, step), at + step < sizeof large);
        at += step;
        world_pump(&w);
        sweep_for(2);
    }
    return 400;
}

static void test_the_rate_is_asked_again_and_again(void **state) {
    world_open(&w);
    /* Much at once, then a trickle: what was brought in one piece of time does not count in the next. */
    struct answer *a = request_begun(500000);
    unsigned s = seconds_until_reset(a, 500000, 10);
    assert_true(s >= 18 && s <= 24);
    assert_int_equal(cut(CUT_SLOW_REQUEST), 1);
    world_close(&w);
    world_open(&w);
    a = request_begun(1000);
    s = seconds_until_reset(a, 1000, 2 * 4096 + 100);
    assert_true(s >= 120 && s <= 124); /* fast enough, but not done in time */
    assert_int_equal(cut(CUT_TRANSFER_LATE), 1);
    world_close(&w);
    world_open(&w);
    a = request_begun(1000);
    s = seconds_until_reset(a, 1000, 2 * 10000);
    assert_int_equal(a->error_code, 0);
    assert_true(a->closed && answer_is(a, "") == false && strcmp(a->grpc_status, "0") == 0);
    world_close(&w);
}

static void test_a_fast_connection_may_let_streams_wait(void **state) {
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1000));
    struct answer *waits = world_call(&w, SVC "ListOrders", "0200000"), *reads = world_call(&w, SVC "ListOrders", "0900000");
    for (unsigned s = 0; s < 12; s += 2) {
        for (unsigned i = 0; i < 140; i++) nghttp2_session_consume(w.client, reads->id, 1000), world_pump(&w);
        w.core.now_ns += 2 * NS_PER_S;
        (void)h2_sweep(w.h2);
        world_pump(&w);
    }
    assert_false(waits->closed || reads->closed);
    sweep_for(26); /* nothing moves any more; a piece of time later both are slow */
    assert_true(waits->closed && reads->closed);
    assert_int_equal(cut(CUT_SLOW_ANSWER) + cut(CUT_STALLED), 2);
    world_close(&w);
}

static void test_between_messages_a_client_may_think(void **state) {
    world_open(&w);
    struct answer *a = world_request(&w, SVC "ImportOrders", framed_text("one"), true, NULL, NULL);
    world_pump(&w);
    for (unsigned i = 0; i < 10; i++) { /* longer than transfer_ns in all */
        sweep_for(28);
        assert_false(a->closed);
        world_more(&w, a, framed_text("next"), true);
        world_pump(&w);
    }
    sweep_for(32);
    assert_true(a->closed);
    assert_int_equal(cut(CUT_STALLED), 1);
    world_close(&w);
}

static void test_half_a_frame_is_seen(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "x");
    assert_int_equal(h2_frame_begun_ns(w.h2), 0);
    static const uint8_t ping[17] = {0, 0, 8, 6};
    for (unsigned i = 1; i < sizeof ping; i++) {
        uint64_t begun = w.core.now_ns += NS_PER_S;
        world_feed(&w, ping, i);
        assert_int_equal(h2_frame_begun_ns(w.h2), begun);
        w.core.now_ns += NS_PER_MS;
        world_feed(&w, ping + i, sizeof ping - i);
        assert_int_equal(h2_frame_begun_ns(w.h2), 0);
        w.core.now_ns += 20 * NS_PER_S;
    }
    /* A header block in whole frames, without its end. */
    static const uint8_t headers[] = {0, 0, 1, 1, 0, 0, 0, 0, 9, 0x82}, more[] = {0, 0, 1, 9, 0, 0, 0, 0, 9, 0x86};
    uint64_t begun = w.core.now_ns += NS_PER_S;
    world_feed(&w, headers, sizeof headers);
    w.core.now_ns += NS_PER_S;
    world_feed(&w, more, sizeof more);
    assert_int_equal(h2_frame_begun_ns(w.h2), begun);
    world_close(&w);
}

/* What the server says, frame by frame: the client's session would break off when it hears what it did not ask for. */
static uint32_t goaway_code;
static void output_read(void) {
    static uint8_t buf[64 << 10];
    for (;;) {
        struct writer out = writer_of(buf, sizeof buf);
        h2_output(w.h2, &out);
        if (out.len == 0) return;
        for (size_t at = 0; at < out.len; at += 9 + (get_be32(buf + at) >> 8))
            if (buf[at + 3] == NGHTTP2_GOAWAY) goaway_code = get_be32(buf + at + 13);
    }
}
/* Feeds a frame until the connection ends; answers how often. */
static unsigned flood(const uint8_t *frame, size_t len) {
    unsigned n = 0;
    for (goaway_code = 0; n < 100000 && !w.dead; n++) world_feed(&w, frame, len), output_read();
    return n;
}

static void test_floods_end_with_goaway(void **state) {
    static const struct {
        uint8_t frame[24];
        size_t len;
        unsigned least, most;
        enum cut why;
    } floods[] = {
        {{0, 0, 8, 6}, 17, 3, 4, CUT_PINGS},
        {{0, 0, 0, 4}, 9, 1900, 2100, CUT_CONTROL_FRAMES},                                /* SETTINGS */
        {{0, 0, 5, 2, 0, 0, 0, 0, 1}, 14, 1900, 2100, CUT_CONTROL_FRAMES},                /* PRIORITY */
        {{0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 13, 1900, 2100, CUT_CONTROL_FRAMES},    /* WINDOW_UPDATE */
        {{0, 0, 1, 200}, 10, 1900, 2100, CUT_CONTROL_FRAMES},                             /* unknown */
        {{0, 0, 0, 0, 0, 0, 0, 0, 3}, 9, 1900, 2100, CUT_CONTROL_FRAMES},                 /* empty DATA */
        {{0, 0, 4, 3, 0, 0, 0, 0, 99, 0, 0, 0, 8}, 13, 1000, 1001, CUT_RESETS},           /* RST_STREAM of what was never open */
    };
    for (size_t i = 0; i < ARRAY_LEN(floods); i++) {
        world_open(&w);
        world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0\0\0"), true, NULL, NULL);
        struct answer *second = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0\0\0"), true, NULL, NULL);
        world_pump(&w);
        assert_int_equal(second->id, 3);
        unsigned n = flood(floods[i].frame, floods[i].len);
        assert_true(n >= floods[i].least && n <= floods[i].most);
        assert_true(w.dead);
        assert_int_equal(goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
        assert_int_equal(h2_fault(w.h2), floods[i].why);
        assert_true(h2_finished(w.h2));
        assert_false(h2_wants_output(w.h2));
        world_close(&w);
    }
}

static void test_continuation_floods_end_with_goaway(void **state) {
    world_open(&w);
    world_call(&w, SVC "CreateOrder", "x");
    static const uint8_t headers[] = {0, 0, 1, 1, 0, 0, 0, 0, 9, 0x82}, more[] = {0, 0, 0, 9, 0, 0, 0, 0, 9};
    world_feed(&w, headers, sizeof headers);
    assert_int_equal(flood(more, sizeof more), 9);
    assert_int_equal(goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(h2_fault(w.h2), CUT_CONTINUATIONS);
    world_close(&w);
}

static void test_what_is_condemned_says_nothing_more(void **state) {
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 1 << 20));
    struct answer *a = world_request(&w, SVC "ListOrders", framed_text("0900000"), false, NULL, NULL);
    const uint8_t *data;
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) assert_true(world_feed(&w, data, (size_t)n)); /* the answer waits to leave */
    static const uint8_t ping[17] = {0, 0, 8, 6};
    for (unsigned i = 0; i < 10; i++) world_feed(&w, ping, sizeof ping);
    world_pump(&w);
    assert_int_equal(w.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_true(a->body_len < 900000);
    assert_true(h2_finished(w.h2));
    world_close(&w);
}

static void test_ping(void **state) {
    world_open(&w);
    world_pump(&w);
    h2_ping(w.h2);
    assert_true(h2_wants_output(w.h2));
    world_pump(&w);
    assert_false(h2_wants_output(w.h2));
    world_close(&w);
}

static void test_nghttp2s_heap_is_bounded(void **state) {
    struct h2_limits l = world_h2_limits;
    for (l.memory_bytes_max = 0; l.memory_bytes_max < 40 * KIB; l.memory_bytes_max += 512) {
        if (world_open_with(&w, &l, &world_call_limits, 0)) {
            for (unsigned i = 0; i < 60; i++) world_request(&w, SVC "GetOrder", framed_text("x"), false, NULL, NULL);
            world_pump(&w);
            assert_true(h2_memory_bytes(w.h2) < l.memory_bytes_max + 1024);
        }
        world_close(&w);
    }
}

static void scenario(void) {
    if (!world_open_with(&w, &world_h2_limits, &world_call_limits, 0)) return;
    world_request(&w, SVC "CreateOrder", framed_text("a"), false, NULL, NULL);
    world_request(&w, SVC "GetOrder", framed_text("b"), false, "grpc-timeout", "5S");
    world_request(&w, SVC "ListOrders", framed_text("0050000"), false, NULL, NULL);
    world_request(&w, SVC "ListOrderHistory", framed_text("d"), false, NULL, NULL);
    world_request(&w, SVC "SearchOrders", framed_text("e"), false, NULL, NULL);
    struct answer *s = world_request(&w, SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001x\0\0\0\0\003y"), true, NULL, NULL);
    world_pump(&w);
    if (!s->closed && s->request_at == s->request_len && !w.dead) world_more(&w, s, SLICE_LIT("zz"), false);
    world_pump(&w);
    while (!list_empty(&w.away)) world_home(&w);
    world_pump(&w);
}

static void test_the_nth_allocation_fails(void **state) {
    scenario();
    for (unsigned i = 0; i < w.answer_count; i++) assert_true(w.answers[i].closed);
    world_close(&w);
    for (uint64_t n = 1; n < 4000; n++) {
        uint64_t before = mem_count();
        mem_fail_nth(n);
        scenario();
        bool reached = mem_count() - before >= n;
        mem_fail_nth(0);
        world_close(&w);
        if (!reached) return;
    }
    fail_msg("no end of allocations");
}

/* One block as three frames, with padding and a priority, in pieces of any size. */
static void test_header_blocks_in_pieces(void **state) {
    static const uint8_t block[] = {0x83, 0x86, 0x04, 33, '/', 'o', 'r', 'd', 'e', 'r', 'd', 'b', '.', 'v', '1', '.', 'O', 'r', 'd', 'e', 'r', 'S', 'e', 'r', 'v', 'i', 'c', 'e', '/', 'G', 'e', 't', 'O', 'r', 'd', 'e', 'r', 0x01, 1, 't',
                                    0x0f, 16, 16, 'a', 'p', 'p', 'l', 'i', 'c', 'a', 't', 'i', 'o', 'n', '/', 'g', 'r', 'p', 'c', 0, 2, 't', 'e', 8, 't', 'r', 'a', 'i', 'l', 'e', 'r', 's'};
    for (size_t piece = 1; piece <= 128; piece++) {
        uint8_t wire[256];
        struct writer f = writer_of(wire, sizeof wire);
        world_open(&w);
        world_pump(&w);
        write_be32(&f, (1 + 5 + 10 + 7) << 8 | 1), write_u8(&f, 8 | 0x20), write_be32(&f, 1);
        write_u8(&f, 7), write_be32(&f, 0), write_u8(&f, 15), write_bytes(&f, block, 10), write_bytes(&f, "PADDING", 7);
        write_be32(&f, 0 << 8 | 9), write_u8(&f, 0), write_be32(&f, 1);
        write_be32(&f, (uint32_t)(sizeof block - 10) << 8 | 9), write_u8(&f, 4), write_be32(&f, 1);
        write_bytes(&f, block + 10, sizeof block - 10);
        write_be32(&f, 6 << 8 | 0), write_u8(&f, 1), write_be32(&f, 1), write_bytes(&f, "\0\0\0\0\1a", 6);
        assert_false(f.full);
        w.feed_bytes = piece;
        assert_true(world_feed(&w, wire, f.len));
        assert_int_equal(w.away_count, 1);
        w.deaf = true; /* the client knows nothing of this stream */
        world_home(&w);
        while (world_output(&w)) {}
        assert_int_equal(w.core.calls_live, 0);
        world_close(&w);
    }
}

static void test_header_blocks_that_are_none(void **state) {
    static const struct {
        const char *what;
        uint8_t wire[24], len;
        enum cut why;
    } rows[] = {
        {"padding beyond the frame", {0, 0, 3, 1, 12, 0, 0, 0, 1, 9, 0x83, 0x86}, 12, CUT_PROTOCOL},
        {"a priority that is not there", {0, 0, 3, 1, 36, 0, 0, 0, 1, 0, 0, 0}, 12, CUT_PROTOCOL},
        {"index 0", {0, 0, 1, 1, 4, 0, 0, 0, 1, 0x80}, 10, CUT_PROTOCOL},
        {"a literal that is not whole", {0, 0, 3, 1, 4, 0, 0, 0, 1, 0, 5, 'x'}, 12, CUT_PROTOCOL},
        {"another frame within", {0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 19, CUT_PROTOCOL},
        {"another stream's rest", {0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83, 0, 0, 0, 9, 4, 0, 0, 0, 3}, 19, CUT_PROTOCOL},
        {"a rest of nothing", {0, 0, 0, 9, 4, 0, 0, 0, 1}, 9, CUT_PROTOCOL},
        {"stream 0", {0, 0, 1, 1, 4, 0, 0, 0, 0, 0x83}, 10, CUT_PROTOCOL},
        {"a stream of ours", {0, 0, 1, 1, 4, 0, 0, 0, 2, 0x83}, 10, CUT_PROTOCOL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        world_open(&w);
        world_pump(&w);
        (void)world_feed(&w, rows[i].wire, rows[i].len);
        while (world_output(&w)) {}
        if (h2_fault(w.h2) != rows[i].why) fail_msg("%s: fault %d", rows[i].what, h2_fault(w.h2));
        assert_true(w.goaway_seen);
        assert_int_equal(w.core.calls_live, 0);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_is_answered),
        cmocka_unit_test(test_a_reply_leaves_in_one_flush),
        cmocka_unit_test(test_bytes_may_come_one_by_one),
        cmocka_unit_test(test_large_answers_wait_for_the_peers_window),
        cmocka_unit_test(test_large_answers_fit_small_buffers),
        cmocka_unit_test(test_many_streams),
        cmocka_unit_test(test_full_house_stays_within_its_memory),
        cmocka_unit_test(test_a_connection_is_told_that_it_may_have_fewer_streams),
        cmocka_unit_test(test_streams_that_last_take_no_calls_place),
        cmocka_unit_test(test_drain_in_two_steps),
        cmocka_unit_test(test_after_the_notice_requests_are_served),
        cmocka_unit_test(test_an_idle_connection_is_finished_by_the_final_goaway),
        cmocka_unit_test(test_garbage_ends_the_connection),
        cmocka_unit_test(test_a_broken_frame_ends_with_goaway),
        cmocka_unit_test(test_long_headers_are_refused),
        cmocka_unit_test(test_header_bombs_end_the_connection),
        cmocka_unit_test(test_rapid_resets_end_the_connection),
        cmocka_unit_test(test_calls_that_are_given_up_at_their_deadlines_end_nothing),
        cmocka_unit_test(test_resets_of_slow_calls_and_answered_ones_are_in_order),
        cmocka_unit_test(test_streams_beyond_the_limit_are_no_fault_of_who_was_not_told_of_it),
        cmocka_unit_test(test_resets_that_the_peer_provokes_count_too),
        cmocka_unit_test(test_a_reset_of_a_stream_that_was_never_opened_is_left_out),
        cmocka_unit_test(test_resets_of_streams_never_opened_are_counted),
        cmocka_unit_test(test_the_bucket_of_resets_fills_again),
        cmocka_unit_test(test_reset_streams_count_until_their_op_is_home),
        cmocka_unit_test(test_ping_floods_end_the_connection),
        cmocka_unit_test(test_slow_peers_are_swept),
        cmocka_unit_test(test_the_rate_is_asked_again_and_again),
        cmocka_unit_test(test_a_fast_connection_may_let_streams_wait),
        cmocka_unit_test(test_between_messages_a_client_may_think),
        cmocka_unit_test(test_half_a_frame_is_seen),
        cmocka_unit_test(test_floods_end_with_goaway),
        cmocka_unit_test(test_continuation_floods_end_with_goaway),
        cmocka_unit_test(test_what_is_condemned_says_nothing_more),
        cmocka_unit_test(test_ping),
        cmocka_unit_test(test_nghttp2s_heap_is_bounded),
        cmocka_unit_test(test_the_nth_allocation_fails),
        cmocka_unit_test(test_header_blocks_in_pieces),
        cmocka_unit_test(test_header_blocks_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
