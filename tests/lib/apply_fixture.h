/* What the tests of apply start from: a rig (rig.h) with the built-in machines, an arena, a clock that they move. One per test program. */
#ifndef TESTS_LIB_APPLY_FIXTURE_H
#define TESTS_LIB_APPLY_FIXTURE_H

#include "tests/lib/rig.h"

#define T0 1767225600000000ull /* 2026-01-01 */
#define TTL_US 604800000000ull

static struct machines *ms;
static struct rig rig;
static struct arena arena;
static uint64_t now_us;

static inline int open_rig(void **state)
{
    ms = machines_new();
    now_us = T0;
    arena_init(&arena, 256 << 20);
    rig_open(&rig, ms);
    return ms ? 0 : -1;
}

static inline int close_rig(void **state)
{
    rig_close(&rig);
    arena_fini(&arena);
    machines_free(ms);
    return 0;
}

#endif
