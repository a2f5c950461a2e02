/* The promises of server/metrics.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>

#include "proto/base/mem.h"
#include "server/metrics.h"

static void buckets_hold_what_their_bounds_say(void **state) {
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        uint64_t bound = histogram_bound_ns(b);
        assert_int_equal(histogram_bucket(bound), b);
        if (b + 1 < HISTOGRAM_BUCKETS) assert_int_equal(histogram_bucket(bound + 1), b + 1);
        if (b) assert_true(bound > histogram_bound_ns(b - 1));
    }
    assert_int_equal(histogram_bucket(0), 0);
    assert_int_equal(histogram_bucket(UINT64_MAX / 2), HISTOGRAM_BUCKETS - 1);
}

static char *text_of(struct metrics *const *cores, size_t n) {
    struct buf out = {0};
    assert_true(metrics_write(&out, cores, n));
    assert_true(buf_append(&out, SLICE_LIT("\0")));
    return (char *)buf_take(&out);
}

static void cores_are_added_up(void **state) {
    struct metrics *a = mem_new(struct metrics), *b = mem_new(struct metrics), *both[] = {a, b};
    metric_add(a, METRIC_BYTES_SENT, 5);
    metric_add(b, METRIC_BYTES_SENT, 6);
    metric_set(a, METRIC_CALLS_LIVE, 2);
    metric_time(a, METRIC_LOG_SYNC_NS, 1400);
    metric_time(b, METRIC_LOG_SYNC_NS, 5 * NS_PER_S * 60);
    metric_call(a, METHOD_ROW_OrderService_CreateOrder, GRPC_OK, 100000);
    metric_call(b, METHOD_ROW_OrderService_CreateOrder, GRPC_NOT_FOUND, 100000);
    char *text = text_of(both, 2);
    assert_non_null(strstr(text, "\norderdb_sent_bytes_total 11\n"));
    assert_non_null(strstr(text, "\norderdb_calls_in_flight 2\n"));
    assert_non_null(strstr(text, "\n# TYPE orderdb_log_sync_seconds histogram\n"));
    assert_non_null(strstr(text, "\norderdb_log_sync_seconds_bucket{le=\"1e-06\"} 0\norderdb_log_sync_seconds_bucket{le=\"1.5e-06\"} 1\n"));
    assert_non_null(strstr(text, "\norderdb_log_sync_seconds_bucket{le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(text, "\norderdb_log_sync_seconds_count 2\n"));
    assert_non_null(strstr(text, "\norderdb_calls_total{method=\"OrderService/CreateOrder\",code=\"NOT_FOUND\"} 1\n"));
    assert_non_null(strstr(text, "\norderdb_call_seconds_count{method=\"OrderService/CreateOrder\"} 2\n"));
    assert_null(strstr(text, "GetOrder")); /* never called: left out */
    mem_free(text), mem_free(a), mem_free(b);
}

/* Each line is a comment or `name[{labels}] value`; each name is announced once; each row has a help text. */
static void text_is_well_formed(void **state) {
    struct metrics *m = mem_new(struct metrics);
    char *text = text_of(&m, 1);
    unsigned helps = 0;
    for (char *line = text, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        assert_non_null(end);
        *end = 0;
        if (strncmp(line, "# HELP ", 7) == 0) {
            helps++;
            char name[100];
            assert_int_equal(sscanf(line + 7, "%99s", name), 1);
            assert_true(strlen(line) > 7 + strlen(name) + 5);
            assert_int_equal(strncmp(name, "orderdb_", 8), 0);
        } else if (strncmp(line, "# TYPE ", 7) != 0) {
            char *space = strrchr(line, ' ');
            assert_non_null(space);
            assert_true(isdigit((unsigned char)space[1]));
        }
    }
    assert_int_equal(helps, METRIC_COUNT + 3);
    mem_free(text), mem_free(m);
}

static void no_memory_is_told(void **state) {
    struct metrics *m = mem_new(struct metrics);
    for (unsigned n = 1;; n++) {
        struct buf out = {0};
        mem_fail_nth(n);
        bool ok = metrics_write(&out, &m, 1);
        mem_fail_nth(0);
        buf_fini(&out);
        if (ok) {
            assert_true(n > 1);
            break;
        }
    }
    mem_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(buckets_hold_what_their_bounds_say), cmocka_unit_test(cores_are_added_up), cmocka_unit_test(text_is_well_formed),
                                       cmocka_unit_test(no_memory_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
