/* What every unit test includes first: cmocka with what it needs before it, and a few helpers. */
#ifndef TESTS_LIB_TEST_H
#define TESTS_LIB_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto/base/bytes.h"

static inline void assert_slice(struct slice s, const char *text) {
    assert_int_equal(s.len, strlen(text));
    if (s.len) assert_memory_equal(s.data, text, s.len);
}

/* Bytes as lower-case hex; a static ring of four so that two fit one assertion. */
const char *test_hex(struct slice s);
/* From hex text into memory of the caller's; returns the length. Blanks are skipped. */
size_t test_unhex(const char *hex, uint8_t *out, size_t cap);
/* tests/golden/NAME.hex, blanks and '#' comments skipped, into memory of the caller's. Fails the test when it isn't there. */
size_t test_golden(const char *name, uint8_t *out, size_t cap);
/* The bytes are those of tests/golden/NAME.hex. */
void assert_golden(const char *name, struct slice s);

/* xorshift64*, for tests that want the same chance every time. */
struct test_random {
    uint64_t state; /* not 0 */
};
static inline uint64_t test_random_next(struct test_random *r) {
    r->state ^= r->state >> 12, r->state ^= r->state << 25, r->state ^= r->state >> 27;
    return r->state * 0x2545f4914f6cdd1dull;
}
static inline uint64_t test_random_below(struct test_random *r, uint64_t n) { return (test_random_next(r) >> 11) % n; }

#endif
