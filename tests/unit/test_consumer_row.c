/* engine/consumer_row.h and the commands of consumer groups (command_group.c): bytes that stay, damage that is refused, positions that only grow. */
#include "tests/lib/test.h"

#include "engine/command.h"
#include "engine/consumer_row.h"
#include "engine/consumer_seek.h"
#include "engine/keys.h"
#include "proto/base/mem.h"

static struct arena arena;

static const struct consumer_definition definition = {
    .name = {(const uint8_t *)"payments", 8}, .filter = {(const uint8_t *)"type = \"CREATED\"", 16}, .ordering = ORDERING_ORDER, .max_attempts = 5, .min_backoff_us = 100000, .max_backoff_us = 60000000,
    .on_exhausted = EXHAUSTED_PARK, .start = START_AT_TIME, .start_us = 1767225600123456, .full = true, .paused = true, .ack_timeout_us = 30000000, .key_window = 4,
};
static const struct consumer_unsettled listed[] = {{3, 0}, {7, 2}, {300, 70000}};
static const struct consumer_position position = {.epoch = 0x0102030405060708, .through = 1000, .letters = 5, .count = 3, .listed = listed};
static const struct consumer_letter letter = {.state = LETTER_WAITING, .attempts = 300, .time_us = 1767225600000000, .key = 0x1112131415161718, .parks = true, .base = 2, .brief = 3,
                                              .error = {(const uint8_t *)"no luck", 7}, .event = {(const uint8_t *)"\x0a\x07xxxxxxx", 9}};

static struct slice group_bytes(void)
{
    struct consumer_group_row r = {.revision = 3, .epoch = 4, .flags = CONSUMER_REMOVING, .start_place = 5, .start_us = 6, .redrive_milli = 7, .sweep_slot = 8,
                                   .definition = consumer_definition_encode(&definition, &arena)};
    size_t cap = CONSUMER_GROUP_ROW_HEAD_BYTES_MAX + r.definition.len;
    struct writer w = writer_of(arena_alloc(&arena, cap), cap);
    consumer_group_row_encode(&r, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct slice progress_bytes(void)
{
    struct consumer_progress p = {1, 2, 3};
    struct writer w = writer_of(arena_alloc(&arena, CONSUMER_PROGRESS_BYTES_MAX), CONSUMER_PROGRESS_BYTES_MAX);
    consumer_progress_encode(&p, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct slice scan_bytes(uint16_t slot)
{
    struct consumer_progress p = {.epoch = 1, .settled_place = 2, .settled_us = 3, .scanning = true, .scan = {slot, 0x0102030405060708}, .told = 9};
    struct writer w = writer_of(arena_alloc(&arena, CONSUMER_PROGRESS_BYTES_MAX), CONSUMER_PROGRESS_BYTES_MAX);
    consumer_progress_encode(&p, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static const struct consumer_told told_orders[] = {{0x1000, 1, 7, 0}, {0x2000, 300, 5, 2}};
static const struct consumer_position told = {.epoch = 4, .through = 9, .told_through = 0x2000, .told_count = 2, .told = told_orders};

static struct slice position_bytes(const struct consumer_position *p)
{
    size_t cap = consumer_position_bytes_max(p);
    struct writer w = writer_of(arena_alloc(&arena, cap), cap);
    consumer_position_encode(p, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct slice letter_bytes(void)
{
    size_t cap = consumer_letter_bytes_max(&letter);
    struct writer w = writer_of(arena_alloc(&arena, cap), cap);
    consumer_letter_encode(&letter, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static void rows_come_back(void **state)
{
    struct consumer_group_row g;
    struct consumer_definition d;
    struct consumer_progress pr;
    struct consumer_position p;
    struct consumer_letter l;
    assert_int_equal(consumer_group_row_decode(group_bytes(), &g), STATUS_OK);
    assert_int_equal(g.revision, 3);
    assert_int_equal(g.epoch, 4);
    assert_int_equal(g.flags, CONSUMER_REMOVING);
    assert_int_equal(g.start_place, 5);
    assert_int_equal(g.start_us, 6);
    assert_int_equal(g.redrive_milli, 7);
    assert_int_equal(g.sweep_slot, 8);
    assert_int_equal(consumer_definition_decode(g.definition, &d), STATUS_OK);
    assert_true(slice_equal(d.name, definition.name));
    assert_true(slice_equal(d.filter, definition.filter));
    assert_int_equal(d.ordering, definition.ordering);
    assert_int_equal(d.max_attempts, 5);
    assert_int_equal(d.min_backoff_us, 100000);
    assert_int_equal(d.max_backoff_us, 60000000);
    assert_int_equal(d.on_exhausted, EXHAUSTED_PARK);
    assert_int_equal(d.start_us, definition.start_us);
    assert_true(d.full);
    assert_true(d.paused);
    assert_int_equal(d.ack_timeout_us, 30000000);
    assert_int_equal(d.key_window, 4);
    assert_int_equal(consumer_progress_decode(progress_bytes(), &pr), STATUS_OK);
    assert_int_equal(pr.settled_us, 3);
    assert_int_equal(consumer_position_decode(position_bytes(&position), &arena, &p), STATUS_OK);
    assert_int_equal(p.through, 1000);
    assert_int_equal(p.letters, 5);
    assert_int_equal(p.count, 3);
    for (unsigned i = 0; i < p.count; i++) { /* by field: padding is anything */
        assert_int_equal(p.listed[i].seq, listed[i].seq);
        assert_int_equal(p.listed[i].attempts, listed[i].attempts);
    }
    assert_int_equal(consumer_progress_decode(scan_bytes(SLOT_COUNT), &pr), STATUS_OK);
    assert_true(pr.scanning);
    assert_true(consumer_scan_over(&pr.scan));
    assert_int_equal(pr.told, 9);
    assert_int_equal(consumer_progress_decode(scan_bytes(SLOT_COUNT + 1), &pr), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(consumer_position_decode(position_bytes(&told), &arena, &p), STATUS_OK);
    assert_int_equal(p.told_through, 0x2000);
    assert_int_equal(p.told_count, 2);
    for (unsigned i = 0; i < p.told_count; i++) {
        assert_int_equal(p.told[i].order_id, told_orders[i].order_id);
        assert_int_equal(p.told[i].version, told_orders[i].version);
        assert_int_equal(p.told[i].seq, told_orders[i].seq);
        assert_int_equal(p.told[i].attempts, told_orders[i].attempts);
    }
    assert_int_equal(consumer_letter_decode(letter_bytes(), &l), STATUS_OK);
    assert_int_equal(l.state, LETTER_WAITING);
    assert_int_equal(l.attempts, 300);
    assert_int_equal(l.key, letter.key);
    assert_true(l.parks);
    assert_true(slice_equal(l.error, letter.error));
    assert_true(slice_equal(l.event, letter.event));
}

/* Two partitions: at epochs 5 and 300, to be sought behind (1, 7) and (9000, 1000). */
static struct slice seek_bytes(void)
{
    static const struct consumer_seek s = {.partition_count = 2, .epochs = {(const uint8_t *)"\x05\xac\x02", 3}, .count = 2, .packed = {(const uint8_t *)"\x00\x01\x07\x23\x28\xe8\x07", 7}};
    struct slice plan = consumer_seek_plan_encode(&s, &arena);
    size_t cap = CONSUMER_SEEK_HEAD_BYTES + plan.len;
    struct writer w = writer_of(arena_alloc(&arena, cap), cap);
    consumer_seek_row_encode(2, 3, plan, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static void a_seek_says_what_each_partition_is_to_do(void **state)
{
    struct consumer_seek s;
    struct command c;
    assert_int_equal(consumer_seek_row_decode(seek_bytes(), &s), STATUS_OK);
    assert_int_equal(s.id, 2);
    assert_int_equal(s.begun_us, 3);
    assert_int_equal(consumer_seek_epoch(&s, 1), 300);
    assert_int_equal(command_decode(consumer_seek_command(&s, 9, 0, &arena), &arena, &c), STATUS_OK);
    assert_int_equal(c.type, COMMAND_GROUP_SEEK_YIELD);
    assert_int_equal(c.seek.group_id, 9);
    assert_int_equal(c.seek.epoch, 5);
    assert_int_equal(c.seek.count, 1);
    assert_true(slice_equal(c.seek.packed, SLICE_LIT("\x00\x01\x07")));
    assert_int_equal(command_decode(consumer_seek_command(&s, 9, 1, &arena), &arena, &c), STATUS_OK);
    assert_int_equal(c.seek.epoch, 300);
    assert_true(slice_equal(c.seek.packed, SLICE_LIT("\x23\x28\xe8\x07")));
    struct consumer_seek again = {.snapshot = true, .partition_count = 2, .epochs = s.epochs};
    assert_int_equal(consumer_seek_plan_decode(consumer_seek_plan_encode(&again, &arena), &s), STATUS_OK);
    assert_int_equal(command_decode(consumer_seek_command(&s, 9, 1, &arena), &arena, &c), STATUS_OK);
    assert_int_equal(c.type, COMMAND_GROUP_SNAPSHOT);
    assert_true(c.snapshot.restart);
    assert_int_equal(c.snapshot.epoch, 300);
    again.count = 1, again.packed = SLICE_LIT("\x00\x01\x07"); /* a snapshot begins nowhere */
    assert_int_equal(consumer_seek_plan_decode(consumer_seek_plan_encode(&again, &arena), &s), STATUS_CHECKSUM_MISMATCH);
    again = (struct consumer_seek){.partition_count = 1, .epochs = SLICE_LIT("\x05"), .count = 2, .packed = SLICE_LIT("\x00\x02\x07\x00\x01\x07")}; /* slots ascend */
    assert_int_equal(consumer_seek_plan_decode(consumer_seek_plan_encode(&again, &arena), &s), STATUS_CHECKSUM_MISMATCH);
}

static struct command sample(enum command_type type)
{
    struct command c = {.type = type};
    switch ((int)type) {
    case COMMAND_GROUP: c.group = (struct command_group){GROUP_UPDATE, SLICE_LIT("payments"), SLICE_LIT("definition")}; break;
    case COMMAND_GROUP_BRING: c.bring = (struct command_group_bring){1, true, 3, SLICE_LIT("definition")}; break;
    case COMMAND_GROUP_SETTLE: c.settle = (struct command_group_settle){1, 2, 3, 4, 1, SLICE_LIT("\x01\x02\x03pos")}; break;
    case COMMAND_GROUP_LETTERS: c.letters = (struct command_group_letters){1, 2, 1, SLICE_LIT("\x01\x02\0\0\0\0\0\0\0\x07\x02le")}; break;
    case COMMAND_GROUP_REDRIVE: c.redrive = (struct command_group_redrive){1, LETTERS_PURGE, 9, 1, SLICE_LIT("\x01\x02\0\0\0\0\0\0\0\x07")}; break;
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SEEK_YIELD: c.seek = (struct command_group_seek){1, 2, 1, SLICE_LIT("\x01\x02\x05")}; break;
    case COMMAND_GROUP_SNAPSHOT:
        c.snapshot = (struct command_group_snapshot){.group_id = 1, .epoch = 2, .from_slot = 3, .from_after = 4, .to_slot = 5, .to_after = 6, .told = 300, .count = 1, .packed = SLICE_LIT("\x01\x02\x03pos")};
        break;
    case COMMAND_GROUP_SEEKING: c.seeking = (struct command_group_seeking){1, false, 2, SLICE_LIT("plan")}; break;
    case COMMAND_GROUP_SWEEP: c.sweep.group_id = 1; break;
    default:
        c.type = COMMAND_TRANSITION;
        c.ack = (struct command_ack){1, 2, 3, true};
        c.transition = (struct command_transition){.order_id = 5, .event = SLICE_LIT("pay")};
    }
    return c;
}

static const enum command_type types[] = {COMMAND_GROUP, COMMAND_GROUP_BRING, COMMAND_GROUP_SETTLE, COMMAND_GROUP_LETTERS, COMMAND_GROUP_REDRIVE, COMMAND_GROUP_SEEK, COMMAND_GROUP_SWEEP, COMMAND_ACKED, COMMAND_GROUP_SNAPSHOT, COMMAND_GROUP_SEEKING, COMMAND_GROUP_SEEK_YIELD};

/* Encoded, decoded and encoded again: the same bytes. And no cut or longer one is taken. */
static void commands_come_back(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct command c = sample(types[i]), back, other;
        struct slice s = command_encode(&c, &arena);
        assert_int_equal(command_decode(s, &arena, &back), STATUS_OK);
        assert_int_equal(back.type, c.type);
        assert_int_equal(back.ack.seq, c.ack.seq);
        assert_int_equal(back.ack.held, c.ack.held);
        assert_true(slice_equal(command_encode(&back, &arena), s));
        for (size_t n = 0; n <= s.len + 1; n++) {
            uint8_t *cut = mem_zalloc(n);
            memcpy(cut, s.data, MIN_OF(n, s.len));
            assert_int_equal(command_decode(slice_of(cut, n), &arena, &other), n == s.len ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
            mem_free(cut);
        }
    }
}

static void the_bytes_are_golden(void **state)
{
    static const char *const names[] = {"command_group", "command_group_bring", "command_group_settle", "command_group_letters", "command_group_redrive", "command_group_seek", "command_group_sweep",
                                        "command_acked", "command_group_snapshot", "command_group_seeking", "command_group_seek_yield"};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct command c = sample(types[i]);
        assert_golden(names[i], command_encode(&c, &arena));
    }
    struct key k;
    uint8_t keys[128];
    struct writer w = writer_of(keys, sizeof keys);
    assert_golden("group_row", group_bytes());
    assert_golden("group_progress", progress_bytes());
    assert_golden("group_position", position_bytes(&position));
    assert_golden("group_letter", letter_bytes());
    assert_golden("group_seeking", seek_bytes());
    assert_golden("group_progress_scan", scan_bytes(5));
    assert_golden("group_position_told", position_bytes(&told));
    key_group(&k, 1), write_slice(&w, key_slice(&k));
    key_progress(&k, 1), write_slice(&w, key_slice(&k));
    key_position(&k, 2, 1), write_slice(&w, key_slice(&k));
    key_letter(&k, 2, 1, 3), write_slice(&w, key_slice(&k));
    key_seek(&k, 1), write_slice(&w, key_slice(&k));
    assert_golden("group_keys", writer_slice(&w));
}

static void damaged_rows_are_refused(void **state)
{
    struct consumer_group_row g;
    struct consumer_progress pr;
    struct consumer_position p;
    struct consumer_letter l;
    struct consumer_seek s;
    struct slice rows[] = {group_bytes(), progress_bytes(), position_bytes(&position), letter_bytes(), scan_bytes(5), position_bytes(&told)}, seek = seek_bytes();
    for (size_t n = 0; n < seek.len; n++) assert_int_equal(consumer_seek_row_decode(slice_of(seek.data, n), &s), STATUS_CHECKSUM_MISMATCH);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        for (size_t n = 0; n < rows[i].len; n++) {
            struct slice cut = slice_of(rows[i].data, n);
            enum status st = i == 0 ? consumer_group_row_decode(cut, &g) : i == 1 || i == 4 ? consumer_progress_decode(cut, &pr) : i == 3 ? consumer_letter_decode(cut, &l) : consumer_position_decode(cut, &arena, &p);
            assert_int_equal(st, STATUS_CHECKSUM_MISMATCH);
        }
    /* More events than the bytes could list; one above `through`. */
    uint8_t wild[64];
    struct writer w = writer_of(wild, sizeof wild);
    write_u8(&w, 1), write_be64(&w, 1), write_varint(&w, 10), write_varint(&w, 0), write_varint(&w, UINT64_MAX);
    assert_int_equal(consumer_position_decode(writer_slice(&w), &arena, &p), STATUS_CHECKSUM_MISMATCH);
    w.len = 1 + 8 + 1 + 1;
    write_varint(&w, 1), write_varint(&w, 11), write_varint(&w, 0);
    assert_int_equal(consumer_position_decode(writer_slice(&w), &arena, &p), STATUS_CHECKSUM_MISMATCH);
}

/* ---- positions, against sets */

enum { SEQS = 40 };
struct set {
    bool settled[SEQS + 1];
    uint32_t attempts[SEQS + 1];
};

static struct consumer_position position_of(const struct set *s)
{
    struct consumer_unsettled *list = arena_array(&arena, struct consumer_unsettled, (size_t)SEQS);
    struct consumer_position p = {.epoch = 1, .listed = list};
    for (int i = 1; i <= SEQS; i++)
        if (s->settled[i] || s->attempts[i]) p.through = i;
    for (int i = 1; i <= p.through; i++)
        if (!s->settled[i]) list[p.count++] = (struct consumer_unsettled){i, s->attempts[i]};
    return p;
}

static void set_random(struct set *s, struct test_random *random)
{
    *s = (struct set){0};
    int top = (int)test_random_below(random, SEQS + 1);
    for (int i = 1; i <= top; i++) {
        s->settled[i] = test_random_below(random, 2);
        s->attempts[i] = s->settled[i] ? 0 : (uint32_t)test_random_below(random, 3);
    }
}

static void to_join_is_to_settle_what_either_has(void **state)
{
    struct test_random random = {1};
    for (int round = 0; round < 2000; round++) {
        struct set a, b;
        struct consumer_position joined, swapped, one;
        set_random(&a, &random);
        set_random(&b, &random);
        struct consumer_position x = position_of(&a), y = position_of(&b);
        assert_int_equal(consumer_position_join(&x, &y, &arena, &joined), STATUS_OK);
        assert_int_equal(consumer_position_join(&y, &x, &arena, &swapped), STATUS_OK);
        assert_true(slice_equal(position_bytes(&joined), position_bytes(&swapped)));
        for (int i = 1; i <= SEQS; i++) assert_int_equal(consumer_position_settled(&joined, i), a.settled[i] || b.settled[i]);
        for (unsigned i = 0; i < joined.count; i++) assert_int_equal(joined.listed[i].attempts, MAX_OF(a.attempts[joined.listed[i].seq], b.attempts[joined.listed[i].seq]));
        int64_t seq = 1 + (int64_t)test_random_below(&random, SEQS);
        assert_int_equal(consumer_position_settle(&x, seq, &arena, &one), STATUS_OK);
        for (int i = 1; i <= SEQS; i++) assert_int_equal(consumer_position_settled(&one, i), a.settled[i] || i == seq);
        arena_reset(&arena);
    }
    struct consumer_position far = {.through = 0}, out;
    assert_int_equal(consumer_position_settle(&far, CONSUMER_LISTED_MAX + 1, &arena, &out), STATUS_OK);
    assert_int_equal(consumer_position_settle(&far, CONSUMER_LISTED_MAX + 2, &arena, &out), STATUS_LIMIT_EXCEEDED);
}

/* ---- told orders */

static bool is_told(const struct consumer_position *p, int64_t order_id)
{
    for (unsigned i = 0; i < p->told_count; i++)
        if (p->told[i].order_id == order_id) return true;
    return false;
}

static void told_orders_only_become_fewer_unless_they_are_new(void **state)
{
    const struct consumer_told three[] = {{10, 1, 1, 0}, {20, 2, 2, 1}, {30, 3, 3, 0}}, left[] = {{20, 9, 9, 2}, {30, 3, 3, 0}}, more[] = {{10, 1, 1, 0}, {30, 3, 3, 0}, {40, 4, 4, 0}};
    struct consumer_position known = {.told_through = 30, .told_count = 3, .told = three}, out = {0}, one = {0};
    /* Who knows of orders up to 20 says nothing of 30. Versions and seqs are those that were stored; attempts the larger. */
    struct consumer_position says = {.told_through = 20, .told_count = 1, .told = left};
    assert_int_equal(consumer_told_join(&known, &says, INT64_MAX, &arena, &out), STATUS_OK);
    assert_int_equal(out.told_count, 2);
    assert_false(is_told(&out, 10));
    assert_int_equal(out.told[0].version, 2);
    assert_int_equal(out.told[0].attempts, 2);
    assert_int_equal(out.told_through, 30);
    /* What is settled stays so, whatever an older one lists; and nothing is new unless it is said to be. */
    says = (struct consumer_position){.told_through = 40, .told_count = 3, .told = more};
    struct consumer_position fewer = {.told_through = 30, .told_count = 1, .told = &three[2]};
    assert_int_equal(consumer_told_join(&fewer, &says, INT64_MAX, &arena, &out), STATUS_OK);
    assert_int_equal(out.told_count, 1);
    assert_int_equal(consumer_told_join(&fewer, &says, 30, &arena, &out), STATUS_OK);
    assert_int_equal(out.told_count, 2);
    assert_true(is_told(&out, 40));
    /* What was listed above the scan, by a command that came to half its end, is listed anew. */
    assert_int_equal(consumer_told_join(&known, &says, 10, &arena, &out), STATUS_OK);
    assert_int_equal(out.told_count, 3);
    assert_false(is_told(&out, 20));
    /* None is left: the row is as if there had been no snapshot. */
    assert_int_equal(consumer_told_settle(&fewer, consumer_told_find(&fewer, 3), &arena, &one), STATUS_OK);
    assert_int_equal(one.told_count + one.told_through, 0);
    assert_null(consumer_told_find(&one, 3));
}

static int setup(void **state) { return arena_init(&arena, 16 << 20), 0; }
static int teardown(void **state) { return arena_fini(&arena), 0; }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back),
        cmocka_unit_test(a_seek_says_what_each_partition_is_to_do),
        cmocka_unit_test(commands_come_back),
        cmocka_unit_test(the_bytes_are_golden),
        cmocka_unit_test(damaged_rows_are_refused),
        cmocka_unit_test(to_join_is_to_settle_what_either_has),
        cmocka_unit_test(told_orders_only_become_fewer_unless_they_are_new),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
