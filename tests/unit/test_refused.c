/* The promises of server/refused.h: whole frames in order, within the room there is. */
#include "tests/lib/test.h"

#include "proto/base/mem.h"
#include "server/refused.h"

static struct refused r;
static uint8_t out[4096];
static const struct slice block = SLICE_LIT("0123456789");
enum { ANSWER = 9 + 10, RESET = 13 };

static int setup(void **state) { return r = (struct refused){0}, 0; }
static int teardown(void **state) { return refused_fini(&r), 0; }
static enum refused_add add(uint32_t id, bool ended) { return refused_add(&r, 4, id, block, ended); }
static struct slice written(size_t room) {
    static struct writer w;
    w = writer_of(out, sizeof out);
    refused_write(&r, &w, room);
    return writer_slice(&w);
}

static void test_headers_and_a_reset_for_who_is_not_through(void **state) {
    assert_int_equal(add(5, true), REFUSED_ADDED);
    assert_int_equal(add(7, false), REFUSED_ADDED);
    static const uint8_t expected[] = {0, 0, 10, 1, 5, 0, 0, 0, 5, '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 0, 0, 10, 1, 5, 0, 0, 0, 7, '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
                                       0, 0, 4,  3, 0, 0, 0, 0, 7, 0, 0, 0, 0};
    struct slice s = written(sizeof out);
    assert_int_equal(s.len, sizeof expected);
    assert_memory_equal(s.data, expected, sizeof expected);
    assert_int_equal(written(sizeof out).len, 0);
}

static void test_an_end_and_a_reset_that_come_in_time(void **state) {
    for (uint32_t id = 1; id <= 5; id += 2) assert_int_equal(add(id, false), REFUSED_ADDED);
    refused_end(&r, 1);
    refused_reset(&r, 3);
    refused_end(&r, 99), refused_reset(&r, 99);
    struct slice s = written(sizeof out);
    assert_int_equal(s.len, 2 * ANSWER + RESET);
    assert_int_equal(get_be32(s.data + 5), 1);
    assert_int_equal(get_be32(s.data + ANSWER + 5), 5);
}

/* A client gives them all up, in the order in which it began them: none is left that it would not know of. */
static void test_each_of_many_is_found(void **state) {
    for (uint32_t id = 1; id < 1000; id += 2) assert_int_equal(refused_add(&r, 500, id, block, true), REFUSED_ADDED);
    refused_reset(&r, 0), refused_reset(&r, 2), refused_reset(&r, 1001);
    assert_int_equal(r.count, 500);
    for (uint32_t id = 1; id < 1000; id += 2) refused_reset(&r, id), refused_reset(&r, id);
    assert_int_equal(r.count, 0);
}

static void test_no_more_than_fit(void **state) {
    for (uint32_t id = 1; id <= 7; id += 2) assert_int_equal(add(id, true), REFUSED_ADDED);
    assert_int_equal(add(9, true), REFUSED_TOO_MANY);
    assert_int_equal(written(ANSWER).len, 0); /* a reset might have to go with it */
    assert_int_equal(written(2 * ANSWER + RESET).len, 2 * ANSWER);
    assert_int_equal(get_be32(written(sizeof out).data + 5), 5);
}

static void test_the_window_is_given_back_in_large_pieces(void **state) {
    struct writer w = writer_of(out, sizeof out);
    r.window_bytes = 24;
    assert_false(refused_window_due(&r, 100));
    r.window_bytes = 25;
    assert_true(refused_window_due(&r, 100));
    refused_write_window(&r, &w);
    static const uint8_t expected[] = {0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 25};
    assert_int_equal(w.len, sizeof expected);
    assert_memory_equal(out, expected, sizeof expected);
    assert_int_equal(r.window_bytes, 0);
}

static void test_memory_comes_and_goes(void **state) {
    mem_fail_nth(1);
    assert_int_equal(add(1, true), REFUSED_NO_MEMORY);
    mem_fail_nth(0);
    assert_int_equal(add(1, true), REFUSED_ADDED);
    refused_rest(&r);
    assert_true(refused_memory_bytes(&r) > 0); /* it waits */
    (void)written(sizeof out);
    refused_rest(&r);
    assert_int_equal(refused_memory_bytes(&r), 0);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_headers_and_a_reset_for_who_is_not_through), T(test_an_end_and_a_reset_that_come_in_time), T(test_each_of_many_is_found), T(test_no_more_than_fit),
                                       T(test_the_window_is_given_back_in_large_pieces), T(test_memory_comes_and_goes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
