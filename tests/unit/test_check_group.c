/* What may be sent of consumer groups (check_group.h), beyond what test_filter.c, the matrix and test_groups.py have: ids of events, and the group's id in an ack. */
#include "engine/check_group.h"

#include "engine/command.h"
#include "tests/lib/test.h"

static void event_ids_are_two_plain_numbers(void **state)
{
    static const char *const wrong[] = {"16384:1", "1:0", "1", "1:", ":1", "01:1", "1:01", "1:1 ", " 1:1", "1:-1", "-1:1", "1:99999999999999999999", "1:9223372036854775808", "1:1:1", "a:1", "1:a", ""};
    uint16_t slot;
    int64_t seq;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) assert_false(check_event_id(wrong[i], &slot, &seq));
    assert_true(check_event_id("0:1", &slot, &seq));
    assert_int_equal(slot, 0);
    assert_int_equal(seq, 1);
    assert_true(check_event_id("16383:288230376151711743", &slot, &seq));
    assert_int_equal(slot, 16383);
    assert_int_equal(seq, 288230376151711743);
    assert_true(check_event_id("1:9223372036854775807", &slot, &seq)); /* SNAPSHOT events without a seq are above all seqs */
    assert_int_equal(seq, INT64_MAX);
}

static void an_ack_gets_its_group_in_place(void **state)
{
    struct arena arena;
    struct command_ack ack;
    struct command c = {.type = COMMAND_TRANSITION, .ack = {.group_id = COMMAND_ACK_GROUP_UNKNOWN, .slot = 16383, .seq = 77}, .transition = {.order_id = 5, .event = SLICE_LIT("pay")}};
    arena_init(&arena, 1 << 20);
    struct slice bytes = command_encode(&c, &arena);
    assert_true(command_ack_of(bytes, &ack));
    assert_int_equal(ack.group_id, COMMAND_ACK_GROUP_UNKNOWN);
    command_ack_set_group(bytes, 7);
    command_ack_set_held(bytes, true);
    assert_int_equal(command_decode(bytes, &arena, &c), STATUS_OK);
    assert_int_equal(c.ack.group_id, 7);
    assert_int_equal(c.ack.slot, 16383);
    assert_int_equal(c.ack.seq, 77);
    assert_true(c.ack.held);
    assert_slice(c.transition.event, "pay");
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(event_ids_are_two_plain_numbers), cmocka_unit_test(an_ack_gets_its_group_in_place)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
