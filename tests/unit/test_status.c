/* proto/status.h and proto/details.h: the table, the builders, the wire both ways. */
#include "tests/lib/test.h"

#include "google/rpc/error_details.pb-c.h"
#include "google/rpc/status.pb-c.h"
#include "proto/base/mem.h"
#include "proto/details.h"

static struct arena arena;
static struct failure f;

static int setup(void **state) {
    arena_init(&arena, MIB);
    failure_init(&f, &arena);
    return 0;
}
static int teardown(void **state) {
    arena_fini(&arena);
    return 0;
}

static void every_row_is_complete(void **state) {
    for (unsigned s = 0; s < STATUS_COUNT; s++) {
        assert_non_null(status_name(s));
        assert_true(status_grpc_code(s) <= GRPC_UNAUTHENTICATED);
        assert_true((s == STATUS_OK) == (status_grpc_code(s) == GRPC_OK));
        assert_true((s == STATUS_OK) == (*status_reason(s) == 0));
        /* ERRORS.md, column "safe" */
        if (status_grpc_code(s) == GRPC_UNAVAILABLE) assert_int_equal(status_retry(s), RETRY_SAME);
        if (status_grpc_code(s) == GRPC_INVALID_ARGUMENT) assert_int_equal(status_retry(s), RETRY_NEVER);
    }
    assert_string_equal(status_name(STATUS_STATUS_MISMATCH), "STATUS_MISMATCH");
    assert_string_equal(status_reason(STATUS_DEADLINE_EXCEEDED), "OUTCOME_UNKNOWN");
    assert_int_equal(status_grpc_code(STATUS_VERSION_MISMATCH), GRPC_ABORTED);
    assert_int_equal(status_retry(STATUS_DISK_FULL), RETRY_LATER);
}

static void the_first_status_stays(void **state) {
    assert_int_equal(failure_set(&f, STATUS_ORDER_NOT_FOUND, "order %d is not there", 7), STATUS_ORDER_NOT_FOUND);
    assert_int_equal(failure_set(&f, STATUS_INTERNAL, "later"), STATUS_ORDER_NOT_FOUND);
    assert_int_equal(failure_violation(&f, STATUS_FIELD_INVALID, "a", "b"), STATUS_ORDER_NOT_FOUND);
    assert_string_equal(f.message, "order 7 is not there");
    assert_int_equal(f.violation_count, 1);
}

/* protobuf-c reads what we wrote: the layout is google.rpc's. */
static void encodes_what_protobuf_reads(void **state) {
    char field[] = "order.items[3].quantity";
    failure_violation(&f, STATUS_LIMIT_EXCEEDED, field, "at most %d, got %d", 10, 11);
    failure_violation(&f, STATUS_FIELD_INVALID, "order.user_id", "empty");
    failure_meta(&f, "order_id", "%d", 42);
    failure_meta(&f, "empty", "%s", "");
    field[0] = '?'; /* was copied */
    f.retry_delay_ms = 1500;
    struct slice wire = failure_encode(&f);
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, wire.len, wire.data);
    assert_non_null(s);
    assert_int_equal(s->code, GRPC_INVALID_ARGUMENT);
    assert_string_equal(s->message, "order.items[3].quantity: at most 10, got 11");
    assert_int_equal(s->n_details, 3);
    assert_string_equal(s->details[0]->type_url, "type.googleapis.com/google.rpc.ErrorInfo");
    Google__Rpc__ErrorInfo *info = google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    assert_string_equal(info->reason, "LIMIT_EXCEEDED");
    assert_string_equal(info->domain, "orderdb");
    assert_int_equal(info->n_metadata, 2);
    assert_string_equal(info->metadata[0]->key, "order_id");
    assert_string_equal(info->metadata[0]->value, "42");
    google__rpc__error_info__free_unpacked(info, NULL);
    assert_string_equal(s->details[1]->type_url, "type.googleapis.com/google.rpc.BadRequest");
    Google__Rpc__BadRequest *bad = google__rpc__bad_request__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
    assert_int_equal(bad->n_field_violations, 2);
    assert_string_equal(bad->field_violations[0]->field, "order.items[3].quantity");
    assert_string_equal(bad->field_violations[1]->description, "empty");
    google__rpc__bad_request__free_unpacked(bad, NULL);
    assert_string_equal(s->details[2]->type_url, "type.googleapis.com/google.rpc.RetryInfo");
    Google__Rpc__RetryInfo *retry = google__rpc__retry_info__unpack(NULL, s->details[2]->value.len, s->details[2]->value.data);
    assert_int_equal(retry->retry_delay->seconds, 1);
    assert_int_equal(retry->retry_delay->nanos, 500000000);
    google__rpc__retry_info__free_unpacked(retry, NULL);
    google__rpc__status__free_unpacked(s, NULL);
}

static void without_message_the_reason_speaks(void **state) {
    f.status = STATUS_NOT_LEADER;
    struct details d;
    assert_true(details_decode(failure_encode(&f), &arena, &d));
    assert_int_equal(d.code, GRPC_UNAVAILABLE);
    assert_string_equal(d.message, "NOT_LEADER");
    assert_false(d.has_retry_delay);
    assert_null(d.violations);
}

static void no_failure_has_no_details(void **state) { assert_int_equal(failure_encode(&f).len, 0); }

static void violations_beyond_the_limit_are_counted(void **state) {
    for (int i = 0; i < FAILURE_VIOLATIONS_MAX + 5; i++) failure_violation(&f, STATUS_FIELD_INVALID, "x", "%d", i);
    struct details d;
    assert_true(details_decode(failure_encode(&f), &arena, &d));
    int n = 0;
    for (struct failure_violation *v = d.violations; v; v = v->next) n++;
    assert_int_equal(n, FAILURE_VIOLATIONS_MAX);
    assert_slice(details_meta(&d, "more_violations"), "5");
}

static void details_round_trip(void **state) {
    failure_set(&f, STATUS_STATUS_MISMATCH, "order is PAID");
    failure_meta(&f, "status", "PAID");
    failure_meta(&f, "version", "2");
    failure_violation(&f, STATUS_FIELD_INVALID, "a.b", "c");
    f.retry_delay_ms = 250;
    struct details d;
    assert_true(details_decode(failure_encode(&f), &arena, &d));
    assert_int_equal(d.code, GRPC_FAILED_PRECONDITION);
    assert_string_equal(d.message, "order is PAID");
    assert_string_equal(d.reason, "STATUS_MISMATCH");
    assert_string_equal(d.domain, "orderdb");
    assert_string_equal(d.metas->key, "status");
    assert_slice(details_meta(&d, "version"), "2");
    assert_null(details_meta(&d, "nothing").data);
    assert_string_equal(d.violations->field, "a.b");
    assert_string_equal(d.violations->description, "c");
    assert_true(d.has_retry_delay);
    assert_int_equal(d.retry_delay_ms, 250);
}

static void details_of_a_stranger(void **state) {
    uint8_t b[64];
    struct details d;
    assert_true(details_decode((struct slice){0}, &arena, &d));
    assert_int_equal(d.code, 0);
    assert_string_equal(d.reason, "");
    /* an Any of an unknown type is skipped */
    assert_true(details_decode(slice_of(b, test_unhex("0805 1a06 0a01 78 1201 79", b, sizeof b)), &arena, &d));
    assert_int_equal(d.code, 5);
    assert_false(details_decode(slice_of(b, test_unhex("0805 1a20 0a01", b, sizeof b)), &arena, &d));
    assert_false(details_decode(slice_of(b, test_unhex("0b", b, sizeof b)), &arena, &d)); /* a group */
}

static void a_full_arena_costs_details_never_the_status(void **state) {
    struct arena tiny;
    arena_init(&tiny, 0);
    struct failure g;
    failure_init(&g, &tiny);
    assert_int_equal(failure_violation(&g, STATUS_FIELD_INVALID, "a", "b"), STATUS_FIELD_INVALID);
    failure_meta(&g, "k", "v");
    assert_null(g.message);
    assert_null(g.metas);
    assert_null(g.violations);
    assert_int_equal(failure_encode(&g).len, 0);
    arena_fini(&tiny);
}

/* In a place of limited size: violations go first, the reason stays. */
static void within_a_limit_the_reason_stays(void **state) {
    struct details d;
    char big[600];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    for (int i = 0; i < FAILURE_VIOLATIONS_MAX; i++) failure_violation(&f, STATUS_FIELD_INVALID, "order.items[3].title", "%.200s", big);
    struct slice whole = failure_encode(&f), same = failure_encode_within(&f, &arena, whole.len);
    assert_true(slice_equal(whole, same));
    for (size_t max = whole.len; max >= 900; max -= 400) {
        struct slice wire = failure_encode_within(&f, &arena, max);
        assert_true(wire.len > 0 && wire.len <= max);
        assert_true(details_decode(wire, &arena, &d));
        assert_string_equal(d.reason, "FIELD_INVALID");
    }
    assert_null(failure_encode_within(&f, &arena, 100).data);
    f.message = big;
    assert_true(details_decode(failure_encode_within(&f, &arena, 1 << 20), &arena, &d));
    assert_int_equal(strlen(d.message), 512);
    memcpy(big + 511, "\xc3\xa9", 2); /* a character across the cut: half of it would make the whole status unreadable to others */
    assert_true(details_decode(failure_encode_within(&f, &arena, 1 << 20), &arena, &d));
    assert_int_equal(strlen(d.message), 511);
    struct arena tiny;
    arena_init(&tiny, 0);
    assert_null(failure_encode_within(&f, &tiny, 4000).data);
}

/* Whichever allocation fails, the status is right, and what is encoded can be read. */
static void memory_fails_at_every_step(void **state) {
    for (uint64_t n = 1; n < 6; n++) {
        struct arena a;
        struct failure g;
        arena_init(&a, MIB);
        failure_init(&g, &a);
        mem_fail_nth(n);
        char big[5000];
        memset(big, 'x', sizeof big - 1);
        big[sizeof big - 1] = 0;
        failure_set(&g, STATUS_OVERLOADED, "%s", big);
        failure_meta(&g, "k", "%s", big);
        failure_violation(&g, STATUS_FIELD_INVALID, "f", "%s", big);
        struct slice wire = failure_encode(&g);
        struct details d;
        bool read = details_decode(wire, &a, &d);
        mem_fail_nth(0);
        assert_int_equal(g.status, STATUS_OVERLOADED);
        if (wire.len && read) assert_string_equal(d.reason, "OVERLOADED");
        arena_fini(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_row_is_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(the_first_status_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(encodes_what_protobuf_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(without_message_the_reason_speaks, setup, teardown),
        cmocka_unit_test_setup_teardown(no_failure_has_no_details, setup, teardown),
        cmocka_unit_test_setup_teardown(violations_beyond_the_limit_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(details_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(details_of_a_stranger, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_arena_costs_details_never_the_status, setup, teardown),
        cmocka_unit_test_setup_teardown(within_a_limit_the_reason_stays, setup, teardown),
        cmocka_unit_test(memory_fails_at_every_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
