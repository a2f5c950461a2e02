/* engine/apply.h, COMMAND_FENCE: what came of a request id, and that nothing comes of it any more. */
#include "tests/lib/test.h"

#include "proto/base/mem.h"
#include "tests/lib/apply_fixture.h"

#define DAY_US (86400ull * 1000000)
#define OLDER_TTL_US (30 * DAY_US) /* of fences in logs of older releases */

static struct command fence_of(const char *user, const char *request_id)
{
    return (struct command){.type = COMMAND_FENCE, .origin = {.request_id = slice_str(request_id), .ttl_us = COMMAND_FOR_EVER_US}, .fence.user_id = slice_str(user)};
}

static struct command create_of(const char *user, const char *request_id)
{
    struct command c = {.type = COMMAND_CREATE, .origin = {.request_id = slice_str(request_id), .fingerprint = {1, 2}, .ttl_us = TTL_US}};
    c.create = (struct command_create){.user_id = slice_str(user), .summary = SLICE_LIT("s"), .detail = SLICE_LIT("d")};
    return c;
}

static struct command pay_of(int64_t order_id, const char *request_id)
{
    struct command c = {.type = COMMAND_TRANSITION, .origin = {.request_id = slice_str(request_id), .fingerprint = {3, 4}, .ttl_us = TTL_US}};
    c.transition = (struct command_transition){.order_id = order_id, .event = SLICE_LIT("pay")};
    return c;
}

static struct outcome run(struct command c)
{
    struct outcome o;
    struct slice bytes = command_encode(&c, &arena);
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}

static void what_was_written_is_applied(void **state)
{
    struct outcome created = run(create_of("alice", "request-0000000001"));
    struct outcome paid = run(pay_of(created.head.order_id, "request-0000000002"));
    struct outcome o = run(fence_of("alice", "request-0000000001"));
    assert_int_equal(o.status, STATUS_OK);
    assert_true(o.applied);
    assert_int_equal(o.head.order_id, created.head.order_id);
    assert_int_equal(o.head.version, 1);
    o = run(fence_of("alice", "request-0000000002"));
    assert_true(o.applied);
    assert_int_equal(o.head.order_id, created.head.order_id);
    assert_int_equal(o.head.version, 2);
    assert_int_equal(o.seq, paid.seq);
    /* asking changes nothing: both are still replayed */
    assert_true(run(create_of("alice", "request-0000000001")).replayed);
    assert_true(run(pay_of(created.head.order_id, "request-0000000002")).replayed);
}

static void of_two_methods_under_one_id_the_latest_counts(void **state)
{
    struct outcome created = run(create_of("alice", "request-0000000001"));
    run(pay_of(created.head.order_id, "request-0000000001"));
    assert_int_equal(run(fence_of("alice", "request-0000000001")).head.version, 2);
}

static void what_was_not_is_fenced_for_every_method(void **state)
{
    struct outcome created = run(create_of("alice", "request-0000000001"));
    struct outcome o = run(fence_of("alice", "request-0000000002"));
    assert_int_equal(o.status, STATUS_OK);
    assert_false(o.applied);
    assert_int_equal(o.head.order_id, 0);
    assert_int_equal(run(create_of("alice", "request-0000000002")).status, STATUS_REQUEST_FENCED);
    assert_int_equal(run(pay_of(created.head.order_id, "request-0000000002")).status, STATUS_REQUEST_FENCED);
    assert_int_equal(rig.record.order_count, 1);
    assert_false(run(fence_of("alice", "request-0000000002")).applied);
    /* of this user alone */
    assert_int_equal(run(create_of("bob", "request-0000000002")).status, STATUS_OK);
}

static void a_fence_stands_against_what_is_behind_it_in_the_same_entry(void **state)
{
    struct command commands[] = {create_of("alice", "request-0000000001"), fence_of("alice", "request-0000000001"), fence_of("alice", "request-0000000002"),
                                 create_of("alice", "request-0000000002")};
    struct slice bytes[4];
    struct outcome o[4];
    for (int i = 0; i < 4; i++) bytes[i] = command_encode(&commands[i], &arena);
    assert_int_equal(rig_apply(&rig, now_us, bytes, 4, &arena, o), STATUS_OK);
    assert_int_equal(o[0].status, STATUS_OK);
    assert_true(o[1].applied);
    assert_false(o[2].applied);
    assert_int_equal(o[3].status, STATUS_REQUEST_FENCED);
}

/* Whatever the time, the flushes, the crashes, and what expires beside it: in a rig with a filter of keys, which a crash makes it read anew. */
static void a_fence_stays_for_ever(void **state)
{
    struct outcome created = run(create_of("alice", "request-0000000001"));
    rig_cache(&rig, 16 * KIB);
    run(fence_of("alice", "request-0000000002"));
    for (unsigned days = 1; days < 4000; days += 400) {
        now_us = T0 + days * DAY_US;
        assert_int_equal(run(create_of("alice", "request-0000000002")).status, STATUS_REQUEST_FENCED);
        assert_int_equal(run(pay_of(created.head.order_id, "request-0000000002")).status, STATUS_REQUEST_FENCED);
        assert_false(run(fence_of("alice", "request-0000000002")).applied);
        assert_false(run(create_of("bob", "request-0000000001")).replayed); /* has expired since the last round */
        rig_flush(&rig);
        if (days % 800 == 1) rig_crash(&rig);
    }
}

/* A command of an older log says for how long. What becomes of it is the same on every replica, whichever release it runs; asked again it stays. */
static void a_fence_of_an_older_log_ends_with_its_time(void **state)
{
    struct command older = fence_of("alice", "request-0000000001"), asked = fence_of("alice", "request-0000000002");
    older.origin.ttl_us = asked.origin.ttl_us = OLDER_TTL_US;
    run(older), run(asked);
    now_us = T0 + OLDER_TTL_US - 1;
    run(fence_of("alice", "request-0000000002"));
    rig_flush(&rig);
    rig_crash(&rig);
    assert_int_equal(run(create_of("alice", "request-0000000001")).status, STATUS_REQUEST_FENCED);
    now_us = T0 + OLDER_TTL_US;
    assert_int_equal(run(create_of("alice", "request-0000000001")).status, STATUS_OK);
    assert_int_equal(run(create_of("alice", "request-0000000002")).status, STATUS_REQUEST_FENCED);
}

static void an_expired_write_is_forgotten(void **state)
{
    run(create_of("alice", "request-0000000001"));
    now_us = T0 + TTL_US;
    assert_false(run(fence_of("alice", "request-0000000001")).applied);
    assert_int_equal(run(create_of("alice", "request-0000000001")).status, STATUS_REQUEST_FENCED);
}

static void damage_and_faults_are_no_answer(void **state)
{
    struct key k;
    struct command c = fence_of("alice", "request-0000000001");
    struct slice bytes = command_encode(&c, &arena);
    struct outcome o;
    key_dedup(&k, slot_of_user(SLICE_LIT("alice")), SLICE_LIT("alice"), c.origin.request_id, REQUEST_TRANSITION);
    store_batch_clear(rig.batch);
    store_batch_put(rig.batch, key_slice(&k), SLICE_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\x03"));
    assert_int_equal(store_apply(rig.store, rig.batch), STATUS_OK);
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_CHECKSUM_MISMATCH);
    store_mem_disk_set_read_fault(rig.disk, STATUS_IO_FAILED);
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_IO_FAILED);
    store_mem_disk_set_read_fault(rig.disk, STATUS_OK);
}

static void the_refusal_says_what_to_do(void **state)
{
    struct failure f;
    struct outcome o = {.status = STATUS_REQUEST_FENCED};
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_int_equal(f.status, STATUS_REQUEST_FENCED);
    assert_non_null(strstr(f.message, "NOT_APPLIED"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)
        T(what_was_written_is_applied),
        T(of_two_methods_under_one_id_the_latest_counts),
        T(what_was_not_is_fenced_for_every_method),
        T(a_fence_stands_against_what_is_behind_it_in_the_same_entry),
        T(a_fence_stays_for_ever),
        T(a_fence_of_an_older_log_ends_with_its_time),
        T(an_expired_write_is_forgotten),
        T(damage_and_faults_are_no_answer),
        T(the_refusal_says_what_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
