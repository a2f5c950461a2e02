/* Health and reflection, asked over HTTP/2 from memory. What a stock client makes of them: tests/integration/test_grpc_surface.py. */
#include "tests/lib/test.h"

#include "tests/lib/h2_world.h"

#include "proto/pbwire.h"
#include "server/node.h"

#define CHECK "/grpc.health.v1.Health/Check"
#define WATCH "/grpc.health.v1.Health/Watch"
#define REFLECTION "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

static struct world w;

static int open_world(void **state) {
    world_open(&w);
    w.core.ready = true;
    return 0;
}
static int close_world(void **state) {
    world_close(&w);
    return 0;
}

/* {1: service} */
static struct slice service_message(const char *service) {
    uint8_t bytes[256];
    struct writer out = writer_of(bytes, sizeof bytes);
    pb_bytes(&out, 1, slice_str(service));
    return framed(bytes, out.len);
}
static struct answer *ask(const char *path, const char *service) {
    struct answer *a = world_request(&w, path, service_message(service), false, NULL, NULL);
    world_pump(&w);
    return a;
}
static void assert_statuses(const struct answer *a, const char *statuses) {
    assert_int_equal(a->body_len, 7 * strlen(statuses));
    for (size_t i = 0; statuses[i]; i++) assert_memory_equal(a->body + 7 * i, ((uint8_t[]){0, 0, 0, 0, 2, 8, (uint8_t)(statuses[i] - '0')}), 7);
}

static void test_check(void **state) {
    static const char *const known[] = {"", "orderdb.v1.OrderService", "orderdb.v1.StreamService", "orderdb.v1.AdminService"};
    for (size_t i = 0; i < ARRAY_LEN(known); i++) assert_statuses(ask(CHECK, known[i]), "1");
    assert_string_equal(ask(CHECK, "orderdb.v1.NoService")->grpc_status, "5");
    w.core.ready = false;
    assert_statuses(ask(CHECK, ""), "2");
    w.core.ready = true;
    w.core.draining = true;
    assert_statuses(ask(CHECK, ""), "2");
    struct answer *a = world_call(&w, CHECK, "\xff\xff");
    assert_string_equal(a->grpc_status, "3");
    assert_string_equal(ask(CHECK, "service \xff")->grpc_status, "3"); /* a refusal that repeats it would be no message of texts */
    assert_string_equal(ask(WATCH, "\xc3\x28")->grpc_status, "3");
}

static void test_watch_hears_of_the_drain_and_ends(void **state) {
    struct answer *a = ask(WATCH, "orderdb.v1.OrderService"), *unknown = ask(WATCH, "nothing");
    assert_statuses(a, "1");
    assert_statuses(unknown, "3");
    calls_core_changed(w.core.calls); /* nothing has */
    world_pump(&w);
    assert_statuses(a, "1");
    w.core.draining = true;
    calls_core_changed(w.core.calls);
    world_pump(&w);
    assert_statuses(a, "12");
    assert_statuses(unknown, "3");
    assert_string_equal(a->grpc_status, "14");
    assert_string_equal(unknown->grpc_status, "14");
    assert_statuses(ask(WATCH, ""), "2");
}

/* ---- reflection */
static struct slice answer_message(const struct answer *a) {
    assert_true(a->body_len >= GRPC_FRAME_HEAD);
    return slice_of(a->body + GRPC_FRAME_HEAD, a->body_len - GRPC_FRAME_HEAD);
}
static struct slice field_of(struct slice message, uint32_t number) {
    struct reader r = reader_of(message);
    struct slice found = {0};
    for (struct pb_field f; pb_next(&r, &f);)
        if (f.number == number) found = f.bytes;
    assert_false(r.bad);
    return found;
}
static struct answer *reflect(uint32_t what, const char *value) {
    uint8_t bytes[512];
    struct writer out = writer_of(bytes, sizeof bytes);
    pb_bytes(&out, 1, SLICE_LIT("host"));
    pb_tag(&out, what, PB_LEN);
    write_counted(&out, slice_str(value));
    struct answer *a = world_request(&w, REFLECTION, framed(bytes, out.len), false, NULL, NULL);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "0");
    struct slice m = answer_message(a);
    assert_true(slice_equal(field_of(m, 1), SLICE_LIT("host")));
    assert_true(slice_equal(field_of(m, 2), writer_slice(&out)));
    return a;
}
/* The name of the first file in an answer; "": an error. */
static const char *file_of(const struct answer *a) {
    static char name[128];
    struct reader r = reader_of(field_of(answer_message(a), 4));
    struct pb_field f;
    if (!pb_next(&r, &f)) return "";
    struct slice s = field_of(f.bytes, 1);
    snprintf(name, sizeof name, "%.*s", (int)s.len, (const char *)s.data);
    return name;
}
static int error_of(const struct answer *a) {
    struct reader r = reader_of(field_of(answer_message(a), 7));
    struct pb_field f;
    return pb_next(&r, &f) && f.number == 1 ? (int)f.value : 0;
}

static void test_symbols(void **state) {
    static const struct { const char *symbol, *file; } rows[] = {
        {"orderdb.v1.OrderService", "orderdb/v1/order.proto"},
        {"orderdb.v1.OrderService.CreateOrder", "orderdb/v1/order.proto"},
        {"orderdb.v1.Order", "orderdb/v1/order.proto"},
        {"orderdb.v1.Order.order_id", "orderdb/v1/order.proto"},
        {"orderdb.v1.OrderView", "orderdb/v1/order.proto"},
        {"orderdb.v1.ORDER_VIEW_FULL", "orderdb/v1/order.proto"},
        {"orderdb.v1.AdminService", "orderdb/v1/admin.proto"},
        {"orderdb.v1.StreamService.Subscribe", "orderdb/v1/stream.proto"},
        {"grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"},
        {"grpc.health.v1.HealthCheckResponse.NOT_SERVING", "grpc/health/v1/health.proto"},
        {"grpc.reflection.v1.ServerReflectionRequest.message_request", "grpc/reflection/v1/reflection.proto"},
        {"grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"},
        {"google.protobuf.Timestamp", "google/protobuf/timestamp.proto"},
        {"google.rpc.ErrorInfo.MetadataEntry", "google/rpc/error_details.proto"},
        {"orderdb.v1", ""}, {"orderdb.v1.", ""}, {"orderdb.v1.Nothing", ""}, {"", ""}, {"Order", ""}, {"orderdb.v1.Order.nothing", ""}, {"orderdb.v1.Order.", ""},
        {"orderdb.v1.OrderService.Nothing", ""}, {"orderdb.v1.Ord", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct answer *a = reflect(4, rows[i].symbol);
        assert_string_equal(file_of(a), rows[i].file);
        assert_int_equal(error_of(a), rows[i].file[0] ? 0 : GRPC_NOT_FOUND);
    }
}

static void test_files_services_extensions(void **state) {
    assert_string_equal(file_of(reflect(3, "orderdb/v1/stream.proto")), "orderdb/v1/stream.proto");
    assert_int_equal(error_of(reflect(3, "orderdb/v1/nothing.proto")), GRPC_NOT_FOUND);
    assert_int_equal(error_of(reflect(5, "\x0a\x10orderdb.v1.Order")), GRPC_NOT_FOUND);
    struct slice numbers = field_of(answer_message(reflect(6, "orderdb.v1.Order")), 5);
    assert_true(slice_equal(field_of(numbers, 1), SLICE_LIT("orderdb.v1.Order")));
    assert_int_equal(error_of(reflect(6, "orderdb.v1.OrderService")), GRPC_NOT_FOUND);
    assert_int_equal(error_of(reflect(9, "?")), GRPC_INVALID_ARGUMENT);
    struct reader r = reader_of(field_of(answer_message(reflect(7, "")), 6));
    unsigned n = 0;
    for (struct pb_field f; pb_next(&r, &f); n++) assert_true(field_of(f.bytes, 1).len > 10);
    assert_false(r.bad);
    assert_int_equal(n, 6);
}

static void test_what_is_malformed_or_too_long(void **state) {
    struct answer *a = world_request(&w, REFLECTION, framed("\xff\xff\xff", 3), false, NULL, NULL);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "3");
    static const char *const texts[] = {"\x0a\1\xff", "\x22\2\xc3\x28", "\x2a\3\x0a\1\xff", "\x0a\1\xff\x0a\1h\x3a\0"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        a = world_request(&w, REFLECTION, framed(texts[i], i == 3 ? 8 : strlen(texts[i])), false, NULL, NULL);
        world_pump(&w);
        assert_string_equal(a->grpc_status, "3");
    }
    static uint8_t big[4000 + 96 + 6];
    struct writer out = writer_of(big, sizeof big);
    pb_tag(&out, 4, PB_LEN);
    write_varint(&out, sizeof big - 3);
    memset(big + out.len, 'x', sizeof big - out.len);
    static uint8_t wire[sizeof big + GRPC_FRAME_HEAD];
    grpc_frame_head(wire, sizeof big);
    memcpy(wire + GRPC_FRAME_HEAD, big, sizeof big);
    a = world_request(&w, REFLECTION, slice_of(wire, sizeof wire), false, NULL, NULL);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "3");
}

static void test_switched_off(void **state) {
    static struct config config;
    static struct node node;
    config_defaults(&config);
    assert_true(config.reflection);
    config.reflection = false;
    node.config = &config;
    w.core.node = &node;
    struct answer *a = world_request(&w, REFLECTION, framed_text(""), false, NULL, NULL);
    world_pump(&w);
    assert_string_equal(a->grpc_status, "12");
    w.core.node = NULL;
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
    const struct CMUnitTest tests[] = {
        T(test_check), T(test_watch_hears_of_the_drain_and_ends), T(test_symbols), T(test_files_services_extensions), T(test_what_is_malformed_or_too_long), T(test_switched_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
