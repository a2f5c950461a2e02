/* The promises of server/head.h: which fields make a request, and what of them a call looks at. */
#include "tests/lib/test.h"

#include "server/head.h"
#include "server/methods.h"

static struct head h;

static void field(const char *name, const char *value) { head_on_field(&h, slice_str(name), slice_str(value)); }
static void pseudo(void) {
    head_begin(&h);
    field(":method", "POST"), field(":scheme", "http"), field(":path", "/orderdb.v1.OrderService/GetOrder"), field(":authority", "t");
}
static void whole(void) { pseudo(), field("content-type", "application/grpc+proto"), field("te", "trailers"); }
static bool is_malformed(void) { return head_end(&h), h.malformed; }

static void test_a_call(void **state) {
    whole();
    field("grpc-timeout", "25m"), field("grpc-encoding", "identity"), field("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), field("user-agent", "x");
    assert_false(is_malformed());
    assert_true(head_is_plain(&h));
    assert_string_equal(h.method->name, "OrderService/GetOrder");
    assert_true(h.has_timeout && h.has_traceparent);
    assert_int_equal(h.timeout_ns, 25 * NS_PER_MS);
    whole();
    assert_false(h.has_timeout || h.has_traceparent || h.malformed);
    assert_int_equal(h.bytes, (7 + 4 + 7 + 4 + 5 + 33 + 10 + 1 + 12 + 22 + 2 + 8) + 6 * 32);
}

static void test_what_other_words_are_due_for(void **state) {
    whole(), field("grpc-timeout", "1 minute");
    assert_false(is_malformed() || head_is_plain(&h) || h.has_timeout);
    assert_true(h.timeout_is_bad);
    whole(), field("grpc-encoding", "gzip");
    assert_false(is_malformed() || head_is_plain(&h));
    pseudo(), field("te", "trailers"), field("content-type", "text/html");
    assert_false(is_malformed() || head_is_plain(&h));
    pseudo(), field("content-type", "application/grpc");
    assert_false(is_malformed() || head_is_plain(&h)); /* no te */
    char path[400] = "/", *end = path + sizeof path - 1;
    memset(path + 1, 'p', (size_t)(end - path - 1));
    head_begin(&h);
    field(":method", "GET"), field(":scheme", "http"), field(":path", path), field(":authority", "t");
    assert_false(is_malformed() || head_is_plain(&h) || h.is_post);
    assert_null(h.method);
    assert_int_equal(h.path_len, HEAD_PATH_BYTES_MAX);
}

/* RFC 9113 sections 8.2 and 8.3. */
static void test_what_is_no_request(void **state) {
    static const struct {
        const char *name, *value;
    } bad[] = {{":path", "/a"}, {":method", "POST"}, {":scheme", "http"}, {":authority", "t"}, {":status", "200"}, {":", "x"}, {"TE", "trailers"}, {"te", "gzip"}, {"connection", "close"},
               {"keep-alive", "x"}, {"upgrade", "h2c"}, {"proxy-connection", "x"}, {"transfer-encoding", "chunked"}, {"content-length", "-1"}, {"content-length", ""},
               {"content-length", "99999999999999999999"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        whole(), field(bad[i].name, bad[i].value);
        assert_true(is_malformed());
        assert_false(head_is_plain(&h));
    }
    for (unsigned missing = 0; missing < 4; missing++) {
        static const char *const needed[][2] = {{":method", "POST"}, {":scheme", "http"}, {":path", "/a"}, {":authority", "t"}};
        head_begin(&h);
        for (unsigned i = 0; i < 4; i++)
            if (i != missing) field(needed[i][0], needed[i][1]);
        assert_true(is_malformed());
        head_begin(&h);
        for (unsigned i = 0; i < 4; i++) field(needed[i][0], i == missing ? "" : needed[i][1]);
        assert_true(is_malformed());
    }
    head_begin(&h);
    field(":method", "POST"), field(":scheme", "http"), field("host", "t"), field(":path", "/a");
    assert_true(is_malformed()); /* behind a regular one */
    head_begin(&h);
    field(":method", "POST"), field(":scheme", "http"), field(":path", "a b"), field("host", "t");
    assert_true(is_malformed());
    whole(), field("content-length", "17"), field("content-length", "17");
    assert_true(is_malformed());
}

static void test_host_stands_for_authority(void **state) {
    head_begin(&h);
    field(":method", "POST"), field(":scheme", "http"), field(":path", "/a"), field("host", "t"), field("content-length", "170");
    assert_false(is_malformed());
    assert_memory_equal(h.length, "170", 3);
    assert_int_equal(h.length_len, 3);
}

/* As nghttp2 has it: regular fields that can't be are left out, only upper case is an offence. */
static void test_fields_that_can_not_be_are_as_if_they_were_not_there(void **state) {
    whole();
    field("grpc-time out", "1S"), field("", "x"), field("grpc-encoding", "gz\1ip"), field("grpc-timeout", "1\r\nS");
    assert_false(is_malformed());
    assert_true(head_is_plain(&h));
    assert_false(h.has_timeout || h.timeout_is_bad || h.encoding_is_unknown);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call), cmocka_unit_test(test_what_other_words_are_due_for), cmocka_unit_test(test_what_is_no_request), cmocka_unit_test(test_host_stands_for_authority),
        cmocka_unit_test(test_fields_that_can_not_be_are_as_if_they_were_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
