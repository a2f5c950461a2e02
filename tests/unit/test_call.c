/* The promises of server/call.h: what is a gRPC request, what is refused and how, deadlines, cancellation, client streams, memory. */
#include "tests/lib/test.h"

#include "tests/lib/h2_world.h"

#include "proto/pbwire.h"
#include "server/methods.h"

static struct world w;

/* ---- helpers */
static struct arena details_arena;
static struct details details_of(const struct answer *a) {
    struct details d;
    static uint8_t raw[sizeof a->details];
    size_t n = base64_decode(slice_str(a->details), raw);
    assert_true(n > 0 && n != SIZE_MAX);
    arena_fini(&details_arena);
    arena_init(&details_arena, 1 << 20);
    assert_true(details_decode(slice_of(raw, n), &details_arena, &d));
    return d;
}
static void assert_refused(const struct answer *a, enum grpc_code code, const char *reason) {
    assert_true(a->closed);
    assert_string_equal(a->http_status, "200");
    assert_int_equal(atoi(a->grpc_status), code);
    assert_int_equal(a->body_len, 0);
    struct details d = details_of(a);
    assert_string_equal(d.reason, reason);
    assert_string_equal(d.domain, "orderdb");
    assert_int_equal(d.code, code);
}
static int open_world(void **state) {
    world_open(&w);
    return 0;
}
static int close_world(void **state) {
    world_close(&w);
    arena_fini(&details_arena);
    return 0;
}
static struct answer *request(const char *path, struct slice body, const char *extra, const char *value) {
    struct answer *a = world_request(&w, path, body, false, extra, value);
    world_pump(&w);
    return a;
}

/* ---- methods */
static void test_every_row_of_methods_is_found(void **state) {
    unsigned n = 0;
#define METHOD(service, rpc, rpc_kind, handler) \
    { \
        const struct method *m = method_find(SLICE_LIT("/orderdb.v1." #service "/" #rpc)); \
        assert_non_null(m); \
        assert_string_equal(m->name, #service "/" #rpc); \
        assert_int_equal(m->row, n++); \
        assert_int_equal(m->kind, METHOD_##rpc_kind); \
    }
#include "proto/methods.tbl"
#undef METHOD
    assert_null(method_find(SLICE_LIT("/orderdb.v1.OrderService/CreateOrders")));
    assert_null(method_find(SLICE_LIT("")));
}

/* ---- requests */
static void test_unary(void **state) {
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "hello"), "hello"));
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", ""), "")); /* an empty message is a message */
    assert_int_equal(w.core.metrics.calls[METHOD_ROW_OrderService_CreateOrder][GRPC_OK], 2);
}

static void test_a_message_in_pieces(void **state) {
    struct answer *a = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0"), true, NULL, NULL);
    world_pump(&w);
    world_more(&w, a, SLICE_LIT("\0\0\005he"), true);
    world_pump(&w);
    world_more(&w, a, SLICE_LIT("llo"), true);
    world_pump(&w);
    assert_false(a->closed);
    world_more(&w, a, (struct slice){0}, false);
    world_pump(&w);
    assert_true(answer_is(a, "hello"));
}

static void test_a_message_larger_than_the_window(void **state) {
    enum { LEN = 3 << 20, HEADS = 10 }; /* an order with a long user_id: it is looked at before it is whole */
    uint8_t *big = calloc(1, LEN + GRPC_FRAME_HEAD);
    grpc_frame_head(big, LEN);
    memset(big + GRPC_FRAME_HEAD, 'b', LEN);
    struct writer heads = writer_of(big + GRPC_FRAME_HEAD, HEADS);
    pb_tag(&heads, 1, PB_LEN), write_varint(&heads, LEN - HEADS / 2);
    pb_tag(&heads, 2, PB_LEN), write_varint(&heads, LEN - HEADS);
    assert_int_equal(heads.len, HEADS);
    struct answer *a = request(SVC "CreateOrder", slice_of(big, LEN + GRPC_FRAME_HEAD), NULL, NULL);
    assert_string_equal(a->grpc_status, "0");
    assert_int_equal(a->body_len, LEN + GRPC_FRAME_HEAD);
    free(big);
}

static void test_content_types(void **state) {
    static const struct { const char *type; bool fine; } rows[] = {
        {"application/grpc", true}, {"application/grpc+proto", true}, {"application/grpc;charset=utf-8", true}, {"application/grpc+proto;x=y", true},
        {"application/grpc+json", false}, {"application/grpcx", false}, {"application/json", false}, {"", false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        nghttp2_nv nv[] = {NV(":method", "POST"), NV(":scheme", "http"), NV(":path", SVC "CreateOrder"), NV(":authority", "t"), NV("te", "trailers"), NV("content-type", rows[i].type)};
        struct answer *a = world_request_with(&w, nv, ARRAY_LEN(nv), framed_text("x"), false);
        world_pump(&w);
        assert_true(a->closed);
        assert_string_equal(a->http_status, rows[i].fine ? "200" : "415");
    }
}

static void test_what_is_not_post_is_405(void **state) {
    nghttp2_nv nv[] = {NV(":method", "GET"), NV(":scheme", "http"), NV(":path", SVC "CreateOrder"), NV(":authority", "t"), NV("te", "trailers"), NV("content-type", "application/grpc")};
    struct answer *a = world_request_with(&w, nv, ARRAY_LEN(nv), framed_text("x"), false);
    world_pump(&w);
    assert_string_equal(a->http_status, "405");
    assert_string_equal(a->grpc_status, "");
}

static void test_te_is_required(void **state) {
    nghttp2_nv nv[] = {NV(":method", "POST"), NV(":scheme", "http"), NV(":path", SVC "CreateOrder"), NV(":authority", "t"), NV("content-type", "application/grpc")};
    struct answer *a = world_request_with(&w, nv, ARRAY_LEN(nv), framed_text("x"), false);
    world_pump(&w);
    assert_refused(a, GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
}

static void test_unknown_methods(void **state) {
    struct answer *a = world_call(&w, SVC "NoSuch", "x");
    assert_refused(a, GRPC_UNIMPLEMENTED, "METHOD_UNKNOWN");
    assert_string_equal(a->grpc_message, "no method " SVC "NoSuch");
    assert_refused(world_call(&w, "/", "x"), GRPC_UNIMPLEMENTED, "METHOD_UNKNOWN");
}

static void test_methods_that_are_not_built(void **state) {
    struct answer *a = world_call(&w, SVC "SearchOrders", "x");
    assert_refused(a, GRPC_UNIMPLEMENTED, "NOT_BUILT_YET");
    assert_string_equal(a->grpc_message, "OrderService/SearchOrders is not built yet");
    assert_refused(world_call(&w, "/orderdb.v1.AdminService/SplitPartition", "x"), GRPC_UNIMPLEMENTED, "NOT_BUILT_YET");
}

static void test_two_messages_in_a_unary_call(void **state) {
    assert_refused(request(SVC "CreateOrder", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b"), NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_int_equal(w.nexts, 0);
}

static void test_no_message_or_half_of_one(void **state) {
    assert_refused(request(SVC "CreateOrder", (struct slice){0}, NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_refused(request(SVC "CreateOrder", SLICE_LIT("\0\0"), NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_refused(request(SVC "CreateOrder", SLICE_LIT("\0\0\0\0\005ab"), NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
}

static void test_a_promised_message_costs_what_has_come(void **state) {
    static uint8_t large[2 << 20];
    grpc_frame_head(large, sizeof large - GRPC_FRAME_HEAD);
    for (size_t i = GRPC_FRAME_HEAD; i < sizeof large; i++) large[i] = (uint8_t)(i * 31 >> 3);
    struct answer *many[50], *last = NULL;
    for (unsigned i = 0; i < 50; i++) many[i] = world_request(&w, SVC "CreateOrder", slice_of(large, 100), true, NULL, NULL);
    world_pump(&w);
    assert_true(calls_memory_bytes(w.core.calls) < 50 * 64 * KIB); /* 100 MiB were promised */
    last = many[49];
    world_more(&w, last, slice_of(large + 100, sizeof large - 100), false);
    world_pump(&w);
    assert_true(last->closed);
    assert_int_equal(last->body_len, sizeof large);
    assert_memory_equal(last->body, large, sizeof large);
}

static void test_a_message_too_large_is_refused_on_its_prefix(void **state) {
    size_t before = calls_memory_bytes(w.core.calls);
    struct answer *a = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0\100\0\001"), true, NULL, NULL); /* 4 MiB + 1 */
    world_pump(&w);
    assert_refused(a, GRPC_RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"); /* answered, and the rest is not wanted: RST_STREAM NO_ERROR */
    assert_int_equal(a->error_code, NGHTTP2_NO_ERROR);
    assert_true(calls_memory_bytes(w.core.calls) < before + 64 * KIB);
    assert_non_null(strstr(a->grpc_message, "4194305"));
}

/* Items of an order, all of them empty: four MiB are promised, a quarter of one shows what it is. */
static void test_a_large_message_that_cant_be_read_is_refused_before_it_is_whole(void **state) {
    static uint8_t parts[4 << 20];
    struct writer message = writer_of(parts, sizeof parts);
    write_bytes(&message, (uint8_t[GRPC_FRAME_HEAD]){0}, GRPC_FRAME_HEAD);
    grpc_frame_head(parts, sizeof parts - GRPC_FRAME_HEAD);
    pb_tag(&message, 1, PB_LEN), write_varint(&message, sizeof parts - GRPC_FRAME_HEAD - 5);
    while (message.cap - message.len >= 3) pb_message(&message, 20, NULL, 0);
    uint64_t cuts = metric_load(&w.core.metrics.cuts[CUT_UNREADABLE]);
    struct answer *a = world_request(&w, SVC "CreateOrder", slice_of(parts, 255 << 10), true, NULL, NULL);
    world_pump(&w);
    assert_false(a->closed);
    world_more(&w, a, slice_of(parts + (255 << 10), 4 << 10), true);
    world_pump(&w);
    assert_refused(a, GRPC_INVALID_ARGUMENT, "LIMIT_EXCEEDED");
    assert_int_equal(a->error_code, NGHTTP2_NO_ERROR);
    assert_int_equal(metric_load(&w.core.metrics.cuts[CUT_UNREADABLE]), cuts); /* one is let pass */
    assert_int_equal(w.core.calls_live, 0);
}

static void test_compression_is_refused(void **state) {
    struct answer *a = request(SVC "CreateOrder", SLICE_LIT("\001\0\0\0\001x"), NULL, NULL);
    assert_refused(a, GRPC_UNIMPLEMENTED, "ENCODING_UNKNOWN");
    assert_string_equal(a->accept_encoding, "identity");
    a = request(SVC "CreateOrder", framed_text("x"), "grpc-encoding", "gzip");
    assert_refused(a, GRPC_UNIMPLEMENTED, "ENCODING_UNKNOWN");
    assert_string_equal(a->accept_encoding, "identity");
    assert_true(answer_is(request(SVC "CreateOrder", framed_text("x"), "grpc-encoding", "identity"), "x"));
    assert_refused(request(SVC "CreateOrder", SLICE_LIT("\007\0\0\0\001x"), NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
}

static char seen_trace[64];
static void handler_trace(struct call *call) {
    struct slice t = call_traceparent(call);
    memcpy(seen_trace, t.len ? t.data : (const uint8_t *)"", t.len);
    seen_trace[t.len] = 0;
    handler_echo(call);
}
static void test_traceparent_is_validated(void **state) {
    world_create = handler_trace;
    static const struct { const char *text; bool fine; } rows[] = {
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true},  {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true},
        {"00-00000000000000000000000000000000-00f067aa0ba902b7-01", false}, {"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false},
        {"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false}, {"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false},
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false},    {"00-4bf92f3577b34da6a3ce929d0e0e4736+00f067aa0ba902b7-01", false},
        {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x", false}, {"", false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(answer_is(request(SVC "CreateOrder", framed_text("x"), "traceparent", rows[i].text), "x"));
        assert_string_equal(seen_trace, rows[i].fine ? rows[i].text : "");
    }
}

/* ---- errors */
static void test_trailers_carry_the_whole_failure(void **state) {
    struct answer *a = world_call(&w, SVC "ListOrderHistory", "x");
    assert_refused(a, GRPC_INVALID_ARGUMENT, "LIMIT_EXCEEDED");
    assert_string_equal(a->grpc_message, "two%0Alines, 100%25");
    assert_string_equal(a->pushback, "1500");
    struct details d = details_of(a);
    assert_string_equal(d.message, "two\nlines, 100%");
    assert_string_equal(d.violations->field, "order.items[3].quantity");
    assert_slice(details_meta(&d, "order_id"), "42");
    assert_int_equal(d.retry_delay_ms, 1500);
    assert_int_equal(w.core.metrics.calls[METHOD_ROW_OrderService_ListOrderHistory][GRPC_INVALID_ARGUMENT], 1);
}

static void handler_overloaded(struct call *call) {
    failure_set(call_failure(call), STATUS_OVERLOADED, "too much");
    call_fail(call);
}
static void test_refusals_that_may_be_tried_again_say_when(void **state) {
    world_create = handler_overloaded;
    struct answer *a = world_call(&w, SVC "CreateOrder", "x");
    assert_refused(a, GRPC_RESOURCE_EXHAUSTED, "OVERLOADED");
    assert_string_equal(a->pushback, "100");
    struct details d = details_of(a);
    assert_true(d.has_retry_delay);
    assert_int_equal(d.retry_delay_ms, 100);
}

static void handler_fail_at_length(struct call *call) {
    static char text[3000];
    memset(text, 'l', sizeof text - 1);
    for (unsigned i = 0; i < FAILURE_VIOLATIONS_MAX; i++) failure_violation(call_failure(call), STATUS_FIELD_INVALID, "order.items[3].title", "%.*s", 900, text);
    call_failure(call)->message = text;
    call_fail(call);
}
static void test_details_fit_what_clients_take(void **state) {
    world_create = handler_fail_at_length;
    struct answer *a = world_call(&w, SVC "CreateOrder", "x");
    assert_refused(a, GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_true(strlen(a->details) <= 6144 && strlen(a->grpc_message) <= 1536);
    assert_non_null(details_of(a).violations);
}

/* ---- ops, deadlines, cancellation */
static void test_an_op_goes_and_comes_home(void **state) {
    struct answer *a = world_call(&w, SVC "GetOrder", "x");
    assert_false(a->closed);
    assert_int_equal(w.core.calls_live, 1);
    world_home(&w);
    assert_int_equal(w.nexts, 1);
    world_pump(&w);
    assert_true(answer_is(a, "home"));
    assert_int_equal(w.core.calls_live, 0);
}

static void test_the_ops_of_a_batch_travel_together(void **state) {
    struct answer *a = world_call(&w, SVC "BatchGetOrders", "x");
    assert_int_equal(w.away_count, 3);
    world_home(&w), world_home(&w), world_pump(&w);
    assert_false(a->closed);
    world_home(&w), world_pump(&w);
    assert_true(answer_is(a, "all home"));
    /* cancelled: kept until the last is home */
    a = world_call(&w, SVC "BatchGetOrders", "x");
    unsigned nexts = w.nexts;
    world_home(&w);
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 1);
    world_home(&w), world_home(&w), world_pump(&w);
    assert_int_equal(w.nexts, nexts + 1);
    assert_int_equal(w.dropped, 2);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_the_deadline_answers_for_an_op_that_is_away(void **state) {
    struct answer *a = request(SVC "TransitionOrder", framed_text("x"), "grpc-timeout", "250m");
    struct mail_hop *hop = list_entry(w.away.next, struct mail_hop, link);
    assert_int_equal(hop->op->deadline_ns, w.core.now_ns + 250 * NS_PER_MS);
    world_time(&w, 249 * NS_PER_MS);
    world_pump(&w);
    assert_false(a->closed);
    world_time(&w, 1 * NS_PER_MS);
    world_pump(&w);
    assert_refused(a, GRPC_DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN");
    struct details d = details_of(a);
    assert_slice(details_meta(&d, "request_id"), "request-0123456789");
    assert_int_equal(w.core.calls_live, 1); /* kept for its op */
    world_home(&w);
    assert_int_equal(w.nexts, 0);
    assert_int_equal(w.dropped, 1);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_the_deadline_passes_while_the_message_comes(void **state) {
    struct answer *a = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0"), true, "grpc-timeout", "1S");
    world_pump(&w);
    world_time(&w, NS_PER_S);
    world_pump(&w);
    assert_refused(a, GRPC_DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN");
}

static void test_the_deadline_resets_an_answer_that_is_not_taken(void **state) {
    world_close(&w);
    assert_true(world_open_with(&w, &world_h2_limits, &world_call_limits, 500));
    struct answer *a = request(SVC "ListOrders", framed_text("0090000"), "grpc-timeout", "1S");
    assert_int_equal(a->body_len, 500);
    world_time(&w, NS_PER_S);
    world_pump(&w);
    assert_false(a->closed); /* it may be on its way */
    world_time(&w, NS_PER_S);
    world_pump(&w);
    assert_true(a->closed);
    assert_int_equal(a->error_code, NGHTTP2_CANCEL);
    assert_int_equal(w.core.calls_live, 0);
}

static uint64_t seen_deadline_ns;
static void handler_deadline(struct call *call) {
    seen_deadline_ns = call_deadline_ns(call);
    handler_echo(call);
}
static void test_timeouts_are_clamped_and_checked(void **state) {
    world_create = handler_deadline;
    request(SVC "CreateOrder", framed_text("x"), "grpc-timeout", "99999999H");
    assert_int_equal(seen_deadline_ns, w.core.now_ns + 3600 * NS_PER_S);
    request(SVC "CreateOrder", framed_text("x"), "grpc-timeout", "1500m");
    assert_int_equal(seen_deadline_ns, w.core.now_ns + 1500 * NS_PER_MS);
    request(SVC "CreateOrder", framed_text("x"), NULL, NULL);
    assert_int_equal(seen_deadline_ns, 0);
    assert_int_equal(timers_next_ns(&w.core.timers), UINT64_MAX); /* all cleared */
    assert_refused(request(SVC "CreateOrder", framed_text("x"), "grpc-timeout", "soon"), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
}

static void test_a_cancelled_call_lives_until_its_op_is_home(void **state) {
    struct answer *a = request(SVC "GetOrder", framed_text("x"), "grpc-timeout", "9S");
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 1);
    assert_int_equal(h2_open_streams(w.h2), 0);
    assert_int_equal(timers_next_ns(&w.core.timers), UINT64_MAX);
    assert_int_equal(metric_load(&w.core.metrics.values[METRIC_CALLS_CANCELLED]), 1);
    world_home(&w);
    assert_int_equal(w.nexts, 0);
    assert_int_equal(w.dropped, 1);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_a_cancel_before_the_message_is_whole(void **state) {
    struct answer *a = world_request(&w, SVC "CreateOrder", SLICE_LIT("\0\0\0\0\005he"), true, NULL, NULL);
    world_pump(&w);
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 0);
}

static void test_a_lost_connection_with_calls_under_way(void **state) {
    for (unsigned i = 0; i < 5; i++) request(SVC "GetOrder", framed_text("x"), i % 2 ? "grpc-timeout" : NULL, "5S");
    world_request(&w, SVC "ImportOrders", framed_text("half"), true, NULL, NULL);
    world_pump(&w);
    assert_int_equal(w.core.calls_live, 6);
    h2_free(w.h2);
    w.h2 = NULL;
    assert_int_equal(w.core.calls_live, 5); /* the stream had no op away */
    while (!list_empty(&w.away)) world_home(&w);
    assert_int_equal(w.core.calls_live, 0);
    assert_int_equal(w.nexts, 0);
    assert_int_equal(w.dropped, 5);
}

static unsigned ends, leaves;
static void on_end(struct call *call) { ends++; }
static void on_leave(struct call *call) { leaves++; }
static void handler_end(struct call *call) {
    call_on_end(call, on_end);
    call_on_leave(call, on_leave);
    handler_op(call);
}
static void test_on_end_runs_once_after_the_last_op(void **state) {
    ends = leaves = 0;
    world_get = handler_end;
    struct answer *a = world_call(&w, SVC "GetOrder", "x");
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    assert_int_equal(ends, 0);
    assert_int_equal(leaves, 1); /* the peer has gone, and the op is still away */
    world_home(&w);
    assert_int_equal(ends, 1);
    world_call(&w, SVC "GetOrder", "x");
    world_home(&w);
    assert_int_equal(leaves, 1);
    world_pump(&w);
    assert_int_equal(ends, 2);
    assert_int_equal(leaves, 2);
}

/* ---- client streams */
static void test_a_stream_of_messages(void **state) {
    assert_true(answer_is(request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\0\0\0\0\0\002bc"), NULL, NULL), "3"));
    assert_true(answer_is(request(SVC "ImportOrders", (struct slice){0}, NULL, NULL), "0"));
    w.feed_bytes = 3;
    assert_true(answer_is(request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\0\0\0\0\0\002bc"), NULL, NULL), "3"));
}

static void test_messages_across_frames(void **state) {
    struct answer *a = world_request(&w, SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0"), true, NULL, NULL);
    world_pump(&w);
    world_more(&w, a, SLICE_LIT("\0\0\004xx"), true);
    world_pump(&w);
    world_more(&w, a, SLICE_LIT("xx\0\0\0\0\001b"), true);
    world_pump(&w);
    world_more(&w, a, (struct slice){0}, false);
    world_pump(&w);
    assert_true(answer_is(a, "3"));
}

static void test_a_stream_that_ends_in_a_message(void **state) {
    assert_refused(request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\004xx"), NULL, NULL), GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_refused(request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\001\0\0\0\001x"), NULL, NULL), GRPC_UNIMPLEMENTED, "ENCODING_UNKNOWN");
    struct answer *a = world_request(&w, SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\177\0\0\0"), true, NULL, NULL);
    world_pump(&w);
    assert_refused(a, GRPC_RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED");
}

/* One op per message; held while `window` of them are away; replies with the count when all are home. */
struct import {
    unsigned messages, away, window;
    bool ended;
};
static unsigned import_window = 2;
struct import_op {
    struct call_op op;
    struct arena *arena;
};
static void import_finish(struct call *call, struct import *im) {
    if (!im->ended || im->away) return;
    struct slice s = slice_str(arena_printf(call_arena(call), "%u", im->messages));
    call_reply(call, &s, 1);
}
static void import_next(struct call *call, struct call_op *op) {
    struct import *im = *call_state(call);
    call_arena_give(call, op->op.arena);
    im->away--;
    call_release(call);
    import_finish(call, im);
}
static void handler_import(struct call *call) {
    struct import *im = *call_state(call);
    if (!im) *call_state(call) = im = arena_new(call_arena(call), struct import), im->window = import_window;
    if (call_half_closed(call)) {
        im->ended = true;
        return import_finish(call, im);
    }
    im->messages++;
    struct arena *arena = call_arena_take(call);
    struct import_op *op = arena ? arena_new(arena, struct import_op) : NULL;
    if (!op) {
        failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no memory");
        return call_fail(call);
    }
    op->op.op.arena = arena;
    op->op.op.command = arena_copy(arena, call_message(call));
    call_submit(call, &op->op, import_next);
    if (++im->away >= im->window) call_hold(call);
}

static void test_hold_and_release(void **state) {
    world_import = handler_import;
    struct answer *a = request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b\0\0\0\0\001c\0\0\0\0\001d\0\0\0\0\001e"), NULL, NULL);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(w.away_count, MIN_OF(2u, 5 - i));
        struct op *op = list_entry(w.away.next, struct mail_hop, link)->op;
        assert_int_equal(op->command.data[0], 'a' + (int)i); /* in order */
        world_home(&w);
        world_pump(&w);
    }
    assert_true(answer_is(a, "5"));
}

static void test_a_held_stream_keeps_its_window_shut(void **state) {
    world_import = handler_import;
    import_window = 1;
    enum { COUNT = 400, LEN = 1000, EACH = LEN + GRPC_FRAME_HEAD };
    uint8_t *bytes = calloc(COUNT, EACH);
    for (unsigned i = 0; i < COUNT; i++) grpc_frame_head(bytes + i * EACH, LEN);
    struct answer *a = world_request(&w, SVC "ImportOrders", slice_of(bytes, (size_t)COUNT * EACH), false, NULL, NULL);
    world_pump(&w);
    assert_int_equal(w.away_count, 1);
    assert_true(a->request_at <= 65536 + 1005); /* the stream window of the test and what was taken */
    assert_true(calls_memory_bytes(w.core.calls) < 256 * KIB);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "others go on"), "others go on"));
    for (unsigned i = 0; i < COUNT; i++) world_home(&w), world_pump(&w);
    assert_true(answer_is(a, "400"));
    free(bytes);
    import_window = 2;
}

static void test_a_large_message_on_a_stream(void **state) {
    enum { LEN = 300000 };
    uint8_t *bytes = calloc(1, 2 * (LEN + GRPC_FRAME_HEAD));
    grpc_frame_head(bytes, LEN);
    grpc_frame_head(bytes + LEN + GRPC_FRAME_HEAD, LEN);
    assert_true(answer_is(request(SVC "ImportOrders", slice_of(bytes, 2 * (LEN + GRPC_FRAME_HEAD)), NULL, NULL), "2"));
    free(bytes);
}

static void handler_early_fail(struct call *call) {
    failure_set(call_failure(call), STATUS_FIELD_INVALID, "enough");
    call_fail(call);
}
static void test_a_stream_may_be_refused_early(void **state) {
    world_import = handler_early_fail;
    struct answer *a = world_request(&w, SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b"), true, NULL, NULL);
    world_pump(&w);
    assert_refused(a, GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
    assert_int_equal(a->error_code, NGHTTP2_NO_ERROR);
}

static void test_a_stream_with_ops_away_expires_or_is_cancelled(void **state) {
    world_import = handler_import;
    struct answer *a = request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b\0\0\0\0\001c"), "grpc-timeout", "1S");
    world_time(&w, NS_PER_S);
    world_pump(&w);
    assert_refused(a, GRPC_DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN");
    assert_int_equal(w.core.calls_live, 1);
    world_home(&w), world_home(&w);
    assert_int_equal(w.core.calls_live, 0);
    a = request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b\0\0\0\0\001c"), NULL, NULL);
    nghttp2_submit_rst_stream(w.client, NGHTTP2_FLAG_NONE, a->id, NGHTTP2_CANCEL);
    world_pump(&w);
    world_home(&w), world_home(&w);
    assert_int_equal(w.away_count, 0);
    assert_int_equal(w.core.calls_live, 0);
}

static struct call *kept_call;
static struct call_op *kept_op;
static void handler_answer_and_keep(struct call *call) {
    kept_call = call;
    kept_op = arena_new(call_arena(call), struct call_op);
    kept_op->op.arena = call_arena_take(call);
    kept_op->drop = drop_op;
    failure_set(call_failure(call), STATUS_FIELD_INVALID, "enough");
    call_fail(call);
}
static void test_an_op_submitted_after_the_answer_is_dropped(void **state) {
    world_import = handler_answer_and_keep;
    struct answer *a = world_request(&w, SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a"), true, NULL, NULL);
    const uint8_t *data;
    for (ssize_t n; (n = nghttp2_session_mem_send(w.client, &data)) > 0;) assert_true(world_feed(&w, data, (size_t)n));
    call_submit(kept_call, kept_op, next_home); /* a handler's own timer came late */
    assert_int_equal(w.dropped, 1);
    assert_int_equal(w.away_count, 0);
    world_pump(&w);
    assert_refused(a, GRPC_INVALID_ARGUMENT, "FIELD_INVALID");
}

static void handler_hold_first(struct call *call) {
    kept_call = call;
    if (!*call_state(call)) call_hold(call);
    handler_count(call);
}
static void test_a_release_from_outside_goes_on_at_once(void **state) {
    world_import = handler_hold_first;
    struct answer *a = request(SVC "ImportOrders", SLICE_LIT("\0\0\0\0\001a\0\0\0\0\001b"), NULL, NULL);
    assert_false(a->closed);
    call_release(kept_call); /* a handler's own timer */
    world_pump(&w);
    assert_true(answer_is(a, "2"));
}

/* ---- memory */
static void test_beyond_the_cores_request_memory(void **state) {
    world_close(&w);
    struct call_limits l = world_call_limits;
    l.memory_bytes_max = 64 * KIB;
    l.idle_max = 0;
    assert_true(world_open_with(&w, &world_h2_limits, &l, 0));
    struct answer *ok[16];
    unsigned refused = 0;
    for (unsigned i = 0; i < 16; i++) {
        ok[i] = world_call(&w, SVC "GetOrder", "x");
        if (!ok[i]->closed) continue;
        refused++;
        assert_int_equal(atoi(ok[i]->grpc_status), GRPC_RESOURCE_EXHAUSTED);
        assert_string_equal(ok[i]->pushback, "100");
    }
    assert_int_equal(refused, 9); /* 7 chunks of 8 KiB; the eighth is the reserve */
    while (!list_empty(&w.away)) world_home(&w);
    world_pump(&w);
    assert_int_equal(calls_memory_bytes(w.core.calls), 0);
    assert_true(answer_is(world_call(&w, SVC "CreateOrder", "again"), "again"));
}

static void handler_greedy(struct call *call) {
    void *p = arena_alloc(call_arena(call), 200 * KIB); /* a small message may not take so much while it is decoded */
    if (p) handler_echo(call);
    else failure_set(call_failure(call), STATUS_MEMORY_LIMIT, "no"), call_fail(call);
}
static void test_the_arena_is_bounded_by_the_message(void **state) {
    world_create = handler_greedy;
    assert_refused(world_call(&w, SVC "CreateOrder", "small"), GRPC_RESOURCE_EXHAUSTED, "MEMORY_LIMIT");
    static uint8_t big[30000 + GRPC_FRAME_HEAD];
    grpc_frame_head(big, 30000);
    assert_string_equal(request(SVC "CreateOrder", slice_of(big, sizeof big), NULL, NULL)->grpc_status, "0");
}

static void handler_done_and_full(struct call *call) {
    call_set_request_id(call, SLICE_LIT("a-request-of-16-bytes"));
    while (arena_alloc(call_arena(call), 16)) continue;
    struct slice part = SLICE_LIT("x");
    call_reply(call, &part, 1);
}
/* MEMORY_LIMIT would say that nothing was done. */
static void test_a_write_without_memory_for_its_answer_is_of_unknown_outcome(void **state) {
    world_create = handler_done_and_full;
    assert_refused(world_call(&w, SVC "CreateOrder", "small"), GRPC_DEADLINE_EXCEEDED, "OUTCOME_UNKNOWN");
}

static void test_too_many_calls_are_refused_streams(void **state) {
    world_close(&w);
    struct call_limits l = world_call_limits;
    l.live_max = 3;
    assert_true(world_open_with(&w, &world_h2_limits, &l, 0));
    world_topology = handler_op;
    for (unsigned i = 0; i < 3; i++) world_call(&w, SVC "GetOrder", "x");
    for (unsigned i = 0; i < CALLS_RESERVED + 2; i++) world_call(&w, "/orderdb.v1.AdminService/GetTopology", "x"); /* may use the reserve: test_shed.c */
    assert_int_equal(w.away_count, 3 + CALLS_RESERVED);
    for (unsigned i = 3 + CALLS_RESERVED; i < w.answer_count; i++) assert_int_equal(w.answers[i].error_code, NGHTTP2_REFUSED_STREAM);
    assert_int_equal(metric_load(&w.core.metrics.values[METRIC_CALLS_REFUSED]), 2);
}

static void test_calls_are_reused(void **state) {
    for (unsigned i = 0; i < 3; i++) world_call(&w, SVC "CreateOrder", "x");
    uint64_t before = mem_count();
    size_t bytes = calls_memory_bytes(w.core.calls);
    for (unsigned i = 0; i < 100; i++) assert_true(answer_is(world_call(&w, SVC "CreateOrder", "x"), "x"));
    assert_int_equal(calls_memory_bytes(w.core.calls), bytes);
    assert_true(mem_count() - before < 100 * 12); /* nghttp2's own: stream, items; none for call and arena */
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
    const struct CMUnitTest tests[] = {
        T(test_every_row_of_methods_is_found), T(test_unary), T(test_a_message_in_pieces), T(test_a_message_larger_than_the_window), T(test_content_types),
        T(test_what_is_not_post_is_405), T(test_te_is_required), T(test_unknown_methods), T(test_methods_that_are_not_built),
        T(test_two_messages_in_a_unary_call), T(test_no_message_or_half_of_one), T(test_a_promised_message_costs_what_has_come), T(test_a_message_too_large_is_refused_on_its_prefix),
        T(test_a_large_message_that_cant_be_read_is_refused_before_it_is_whole),
        T(test_compression_is_refused), T(test_traceparent_is_validated), T(test_trailers_carry_the_whole_failure), T(test_details_fit_what_clients_take),
        T(test_refusals_that_may_be_tried_again_say_when),
        T(test_an_op_goes_and_comes_home), T(test_the_ops_of_a_batch_travel_together), T(test_the_deadline_answers_for_an_op_that_is_away), T(test_the_deadline_passes_while_the_message_comes),
        T(test_the_deadline_resets_an_answer_that_is_not_taken), T(test_timeouts_are_clamped_and_checked), T(test_a_cancelled_call_lives_until_its_op_is_home),
        T(test_a_cancel_before_the_message_is_whole), T(test_a_lost_connection_with_calls_under_way), T(test_on_end_runs_once_after_the_last_op),
        T(test_a_stream_of_messages), T(test_messages_across_frames), T(test_a_stream_that_ends_in_a_message), T(test_hold_and_release),
        T(test_a_held_stream_keeps_its_window_shut), T(test_a_large_message_on_a_stream), T(test_a_stream_may_be_refused_early),
        T(test_a_stream_with_ops_away_expires_or_is_cancelled), T(test_an_op_submitted_after_the_answer_is_dropped),
        T(test_a_release_from_outside_goes_on_at_once), T(test_beyond_the_cores_request_memory), T(test_the_arena_is_bounded_by_the_message),
        T(test_a_write_without_memory_for_its_answer_is_of_unknown_outcome),
        T(test_too_many_calls_are_refused_streams), T(test_calls_are_reused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
