/* engine/index.h: scans by kind, value and time; older orders indexed piece by piece; a checker that finds what is missing and what is too many. */
#include "tests/lib/store_world.h"

#include "engine/index.h"
#include "proto/pbwire.h"

enum { PAID = 2, SHIPPED = 4, FIRST_SLOT = 7, LAST_SLOT = 9, ORDERS = 50 };

static struct world *world;
static struct store *store;
static struct store_batch *batch;
static struct arena arena;
static struct order_head heads[ORDERS];

static int setup_in(bool rocks)
{
    world = world_new(rocks);
    world->deferred = KEY_INDEX_PREFIX; /* as the server's */
    world_open(world);
    store = world->store;
    batch = store_batch_new(store);
    arena_init(&arena, 16 * MIB);
    return batch ? 0 : -1;
}
static int setup_mem(void **state) { return setup_in(false); }
static int setup_rocks(void **state) { return setup_in(true); }

static int teardown(void **state)
{
    store_batch_free(batch);
    world_free(world);
    arena_fini(&arena);
    return 0;
}

static void commit(void)
{
    check(store_apply(store, batch) == STATUS_OK);
    store_batch_clear(batch);
}

static struct slice summary_of(unsigned i)
{
    static uint8_t bytes[32];
    struct writer w = writer_of(bytes, sizeof bytes);
    pb_bytes(&w, 3, i % 2 ? SLICE_LIT("m1") : SLICE_LIT("m"));
    return writer_slice(&w);
}

/* Three lines: one of all orders, one of every fifth, the first again. */
static struct slice detail_of(unsigned i)
{
    static uint8_t bytes[128];
    uint8_t item[3][32];
    const struct slice skus[] = {SLICE_LIT("sku"), i % 5 ? SLICE_LIT("other") : SLICE_LIT("fifth"), SLICE_LIT("sku")};
    struct writer w = writer_of(bytes, sizeof bytes);
    for (unsigned n = 0; n < 3; n++) {
        struct writer part = writer_of(item[n], sizeof item[n]);
        pb_bytes(&part, 1, skus[n]);
        struct slice s = writer_slice(&part);
        pb_message(&w, 20, &s, 1);
    }
    return writer_slice(&w);
}

/* Head and body alone, as a store that is older than the indexes has them. Order i was created at second i. */
static void orders_put(void)
{
    for (unsigned i = 0; i < ORDERS; i++) {
        uint8_t bytes[512];
        struct key k;
        uint16_t slot = (uint16_t)(i % 3 == 1 ? LAST_SLOT : FIRST_SLOT);
        heads[i] = (struct order_head){.order_id = order_id_make(ORDER_EPOCH_MS + 1 + i, slot, 0), .version = 1, .create_us = (int64_t)i * US_PER_S, .machine = 1, .status = i < 10 ? PAID : SHIPPED, .user_id = SLICE_LIT("alice")};
        struct order_body body = {.origin = {.version = 1, .to = 1, .event = SLICE_LIT("create")}, .summary = summary_of(i), .detail = detail_of(i)};
        struct writer w = writer_of(bytes, sizeof bytes);
        order_head_encode(&heads[i], &w);
        key_head(&k, heads[i].order_id), store_batch_put(batch, key_slice(&k), writer_slice(&w));
        w = writer_of(bytes, sizeof bytes);
        order_body_encode(&body, &w);
        check(!w.full);
        key_body(&k, heads[i].order_id), store_batch_put(batch, key_slice(&k), writer_slice(&w));
    }
    commit();
}

static void all_indexed(void)
{
    orders_put();
    for (unsigned i = 0; i < ORDERS; i++) index_put(batch, &heads[i], summary_of(i), detail_of(i));
    commit();
}

/* All pages of a range: how many, each below the one before. */
static unsigned scan(struct index_range range, unsigned limit, struct list_position *newest)
{
    struct store_view view = {.store = store};
    struct list_position page[ORDERS], last = {INT64_MAX, INT64_MAX};
    unsigned total = 0, count;
    for (bool more = true; more;) {
        assert_int_equal(index_scan(&view, &range, total ? &last : NULL, page, limit, &count, &more), STATUS_OK);
        assert_true(!more || count == limit);
        for (unsigned i = 0; i < count; i++) {
            assert_true(page[i].create_us < last.create_us || (page[i].create_us == last.create_us && page[i].order_id < last.order_id));
            assert_true(page[i].create_us >= range.from_us && page[i].create_us < range.to_us);
            last = page[i];
            if (!total++ && newest) *newest = last;
        }
    }
    return total;
}

static struct index_range all_of(uint8_t kind, const char *text) { return (struct index_range){.kind = kind, .text = slice_str(text), .from_us = INT64_MIN, .to_us = INT64_MAX}; }

static void scans_are_newest_first_by_value_and_time(void **state)
{
    struct list_position newest;
    struct index_range paid = {.kind = KEY_INDEX_STATUS, .status = PAID, .from_us = INT64_MIN, .to_us = INT64_MAX};
    all_indexed();
    for (unsigned limit = 1; limit <= ORDERS; limit += 7) {
        assert_int_equal(scan(paid, limit, &newest), 10);
        assert_int_equal(newest.order_id, heads[9].order_id);
        assert_int_equal(scan(all_of(KEY_INDEX_MERCHANT, "m"), limit, NULL), ORDERS / 2); /* "m1" is another one, not a longer "m" */
        assert_int_equal(scan(all_of(KEY_INDEX_SKU, "sku"), limit, NULL), ORDERS);        /* once, though two lines have it */
        assert_int_equal(scan(all_of(KEY_INDEX_SKU, "fifth"), limit, NULL), ORDERS / 5);
    }
    assert_int_equal(scan(all_of(KEY_INDEX_SKU, "nothing"), 5, NULL), 0);
    struct index_range some = all_of(KEY_INDEX_SKU, "sku");
    some.from_us = 10 * US_PER_S, some.to_us = 20 * US_PER_S;
    assert_int_equal(scan(some, 4, &newest), 10);
    assert_int_equal(newest.create_us, 19 * US_PER_S);
    some.from_us = some.to_us;
    assert_int_equal(scan(some, 4, NULL), 0);
}

static void a_move_takes_the_row_along(void **state)
{
    struct index_range range = {.kind = KEY_INDEX_STATUS, .status = PAID, .from_us = INT64_MIN, .to_us = INT64_MAX};
    all_indexed();
    index_move(batch, (struct list_position){heads[3].create_us, heads[3].order_id}, PAID, SHIPPED);
    commit();
    assert_int_equal(scan(range, 4, NULL), 9);
    range.status = SHIPPED;
    assert_int_equal(scan(range, 4, NULL), ORDERS - 9);
}

static void older_orders_are_indexed_in_pieces(void **state)
{
    struct store_view view = {.store = store};
    struct index_record r = {.slot = FIRST_SLOT};
    struct index_count count;
    char error[256];
    orders_put();
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_CHECKSUM_MISMATCH);
    unsigned pieces = 0;
    for (; !r.complete; pieces++) {
        assert_int_equal(index_build(store, batch, &arena, &r, LAST_SLOT, 7), STATUS_OK);
        commit();
        struct key k;
        struct slice row;
        struct index_record stored;
        key_index_record(&k);
        assert_int_equal(store_get(&view, key_slice(&k), &arena, &row), STATUS_OK);
        assert_int_equal(index_record_decode(row, &stored), STATUS_OK);
        assert_memory_equal(&stored.order_id, &r.order_id, sizeof r.order_id);
        assert_int_equal(stored.complete, r.complete);
    }
    assert_int_equal(pieces, 8);
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_OK);
    assert_int_equal(count.orders, ORDERS);
    assert_int_equal(count.rows, 4 * ORDERS); /* status, merchant, two SKUs */
}

/* A transition before the walk has come by leaves the row that the walk will find right. */
static void a_move_ahead_of_the_walk_is_kept(void **state)
{
    struct store_view view = {.store = store};
    struct index_record r = {.slot = FIRST_SLOT};
    struct index_count count;
    char error[256];
    uint8_t bytes[512];
    struct key k;
    orders_put();
    assert_int_equal(index_build(store, batch, &arena, &r, LAST_SLOT, 5), STATUS_OK);
    commit();
    struct order_head *head = &heads[ORDERS - 1];
    index_move(batch, (struct list_position){head->create_us, head->order_id}, head->status, PAID);
    head->status = PAID;
    struct writer w = writer_of(bytes, sizeof bytes);
    order_head_encode(head, &w);
    key_head(&k, head->order_id), store_batch_put(batch, key_slice(&k), writer_slice(&w));
    commit();
    assert_int_equal(index_build(store, batch, &arena, &r, LAST_SLOT, ORDERS), STATUS_OK);
    commit();
    assert_true(r.complete);
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_OK);
}

static void the_checker_finds_both_kinds_of_wrong(void **state)
{
    struct store_view view = {.store = store};
    struct index_count count;
    char error[256];
    struct key k;
    all_indexed();
    key_index_row(&k, KEY_INDEX_SKU, SLICE_LIT("fifth"), heads[5].create_us, heads[5].order_id);
    store_batch_delete(batch, key_slice(&k)), commit();
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(error, "missing: SKU 'fifth'"));
    store_batch_put(batch, key_slice(&k), (struct slice){0}), commit();
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_OK);
    key_index_row(&k, KEY_INDEX_MERCHANT, SLICE_LIT("m"), heads[5].create_us, heads[5].order_id); /* it is m1's */
    store_batch_put(batch, key_slice(&k), (struct slice){0}), commit();
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(error, "does not ask for: merchant 'm'"));
    store_batch_delete(batch, key_slice(&k));
    key_index_row(&k, KEY_INDEX_STATUS, SLICE_LIT("\0\2"), 1, order_id_make(ORDER_EPOCH_MS + 5000, FIRST_SLOT, 0));
    store_batch_put(batch, key_slice(&k), (struct slice){0}), commit();
    assert_int_equal(index_verify(&view, &arena, FIRST_SLOT, LAST_SLOT, &count, error), STATUS_CHECKSUM_MISMATCH);
    assert_non_null(strstr(error, "without its order: status 2"));
}

/* Stretch by stretch, each over what is there then; what is found is told once, and the rest is looked at all the same. */
static unsigned check_in_stretches(unsigned limit, struct index_count *sum, char last[INDEX_DEFECT_BYTES])
{
    unsigned defects = 0;
    struct index_check c = {.first_slot = FIRST_SLOT, .last_slot = LAST_SLOT};
    *sum = (struct index_count){0};
    do {
        struct store_view view = {.store = store, .snapshot = store_snapshot_get(store), .bulk = true};
        assert_true(index_position_valid(slice_of(c.position, c.position_len), FIRST_SLOT, LAST_SLOT));
        c.limit = limit;
        assert_int_equal(index_check(&view, &arena, &c), STATUS_OK);
        store_snapshot_put(store, (struct store_snapshot *)(uintptr_t)view.snapshot);
        assert_in_range(c.count.orders + c.count.rows, 0, limit);
        sum->orders += c.count.orders, sum->rows += c.count.rows;
        if (c.defect[0]) defects++, memcpy(last, c.defect, INDEX_DEFECT_BYTES);
    } while (c.position_len);
    return defects;
}

static void a_live_store_is_checked_in_stretches(void **state)
{
    const unsigned limits[] = {1, 3, 7, 50, 1000};
    struct index_count sum;
    char last[INDEX_DEFECT_BYTES];
    struct key missing, many;
    all_indexed();
    for (unsigned i = 0; i < ARRAY_LEN(limits); i++) {
        assert_int_equal(check_in_stretches(limits[i], &sum, last), 0);
        assert_int_equal(sum.orders, ORDERS);
        assert_int_equal(sum.rows, 4 * ORDERS);
    }
    key_index_row(&missing, KEY_INDEX_SKU, SLICE_LIT("fifth"), heads[5].create_us, heads[5].order_id);
    store_batch_delete(batch, key_slice(&missing));
    for (unsigned i = 0; i < 3; i++) key_index_row(&many, KEY_INDEX_STATUS, SLICE_LIT("\0\7"), i, heads[i].order_id), store_batch_put(batch, key_slice(&many), (struct slice){0});
    commit();
    for (unsigned i = 0; i < ARRAY_LEN(limits); i++) {
        assert_int_equal(check_in_stretches(limits[i], &sum, last), 4);
        assert_non_null(strstr(last, "does not ask for: status 7"));
        assert_int_equal(sum.orders, ORDERS);
        assert_int_equal(sum.rows, 4 * ORDERS + 2);
    }
    /* A body that can't be read is a defect of its order and of each of its rows. */
    struct key body;
    key_body(&body, heads[9].order_id), store_batch_put(batch, key_slice(&body), SLICE_LIT("x")), commit();
    assert_int_equal(check_in_stretches(7, &sum, last), 4 + 1 + 4);
}

static void a_position_of_somewhere_else_is_none(void **state)
{
    const uint8_t orders[] = {'O', 0, FIRST_SLOT, 0, 0, 0, 0, 0, 0, 0, 9}, rows[] = {'R', 0xff, 0xff, 'I', 2}, others[] = {'R', 0xff, 0xff, 'T'}, elsewhere[] = {'O', 0, LAST_SLOT + 1, 0, 0, 0, 0, 0, 0, 0, 9};
    static const uint8_t longest[INDEX_POSITION_BYTES_MAX + 1] = {'R', 0xff, 0xff, 'I'};
    assert_true(index_position_valid((struct slice){0}, FIRST_SLOT, LAST_SLOT));
    assert_true(index_position_valid(slice_of(orders, sizeof orders), FIRST_SLOT, LAST_SLOT));
    assert_true(index_position_valid(slice_of(rows, sizeof rows), FIRST_SLOT, LAST_SLOT));
    assert_true(index_position_valid(slice_of(longest, sizeof longest - 1), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(slice_of(longest, sizeof longest), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(slice_of(orders, sizeof orders - 1), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(slice_of(others, sizeof others), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(slice_of(elsewhere, sizeof elsewhere), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(SLICE_LIT("R"), FIRST_SLOT, LAST_SLOT));
    assert_false(index_position_valid(SLICE_LIT("x"), FIRST_SLOT, LAST_SLOT));
}

static void the_record_comes_back_and_is_golden(void **state)
{
    struct index_record r = {.slot = 0x1234, .order_id = 0x523407}, back;
    uint8_t bytes[INDEX_RECORD_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    index_record_encode(&r, &w);
    assert_golden("index_record", writer_slice(&w));
    assert_int_equal(index_record_decode(writer_slice(&w), &back), STATUS_OK);
    assert_int_equal(back.slot, r.slot);
    assert_int_equal(back.order_id, r.order_id);
    assert_false(back.complete);
    assert_int_equal(index_record_decode(slice_of(bytes, sizeof bytes - 1), &back), STATUS_CHECKSUM_MISMATCH);
    bytes[1] = 2;
    assert_int_equal(index_record_decode(writer_slice(&w), &back), STATUS_CHECKSUM_MISMATCH);
}

#define BOTH(test) cmocka_unit_test_setup_teardown(test, setup_mem, teardown), {#test " (rocks)", test, setup_rocks, teardown, NULL}
int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(scans_are_newest_first_by_value_and_time),
        BOTH(a_move_takes_the_row_along),
        BOTH(older_orders_are_indexed_in_pieces),
        BOTH(a_move_ahead_of_the_walk_is_kept),
        BOTH(the_checker_finds_both_kinds_of_wrong),
        BOTH(a_live_store_is_checked_in_stretches),
        BOTH(a_position_of_somewhere_else_is_none),
        cmocka_unit_test(the_record_comes_back_and_is_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
