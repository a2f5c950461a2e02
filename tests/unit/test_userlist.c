/* engine/userlist.h against a sorted array that is obviously right; and what a page costs, counted. */
#include "tests/lib/test.h"

#include "engine/store_ops.h"
#include "engine/userlist.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

enum { MODEL_MAX = 120000, SLOT = 77, STATUSES = 7 };
static const struct slice NO_CARD;
static const struct slice user = {(const uint8_t *)"alice", 5};

static struct store_mem_disk *disk;
static struct store *store;
static struct store_batch *batch;
static struct arena arena;

/* The model: newest last. */
static struct userlist_item model[MODEL_MAX];
static unsigned model_count;

/* ---- counting what is read ---- */

static uint64_t reads;
static const struct store_ops *real_ops;
static enum status get_counted(const struct store_view *view, struct slice key, struct arena *a, struct slice *value) { return reads++, real_ops->get(view, key, a, value); }
static void last_counted(struct store_iter *it) { reads++, real_ops->iter_last(it); }
static void first_counted(struct store_iter *it) { reads++, real_ops->iter_first(it); }
static void seek_counted(struct store_iter *it, struct slice key) { reads++, real_ops->iter_seek(it, key); }
static void seek_back_counted(struct store_iter *it, struct slice key) { reads++, real_ops->iter_seek_back(it, key); }
static void next_counted(struct store_iter *it) { reads++, real_ops->iter_next(it); }
static void prev_counted(struct store_iter *it) { reads++, real_ops->iter_prev(it); }
static struct store_ops counting_ops;

static int setup(void **state) {
    disk = store_mem_disk_new();
    check(store_open_mem(&store, disk) == STATUS_OK);
    batch = store_batch_new(store);
    arena_init(&arena, 16 * MIB);
    model_count = 0;
    real_ops = store->ops;
    counting_ops = *real_ops;
    counting_ops.get = get_counted, counting_ops.iter_first = first_counted, counting_ops.iter_last = last_counted, counting_ops.iter_seek = seek_counted;
    counting_ops.iter_seek_back = seek_back_counted, counting_ops.iter_next = next_counted, counting_ops.iter_prev = prev_counted;
    store->ops = &counting_ops;
    return 0;
}
static int teardown(void **state) {
    store->ops = real_ops;
    store_batch_free(batch);
    store_close(store);
    store_mem_disk_free(disk);
    arena_fini(&arena);
    return 0;
}

static struct store_view newest(void) { return (struct store_view){.store = store}; }
static struct store_view writing(void) { return (struct store_view){.store = store, .batch = batch}; }
static void commit(void) {
    check(store_apply(store, batch) == STATUS_OK);
    store_batch_clear(batch);
    arena_reset(&arena);
}

static int compare(struct list_position a, struct list_position b) {
    if (a.create_us != b.create_us) return a.create_us < b.create_us ? -1 : 1;
    return (a.order_id > b.order_id) - (a.order_id < b.order_id);
}

static void insert(int64_t us, int64_t id, uint16_t status) {
    struct store_view v = writing();
    struct list_position at = {us, id};
    assert_int_equal(userlist_insert(&v, &arena, SLOT, user, at, status, NO_CARD), STATUS_OK);
    unsigned i = model_count++;
    for (; i && compare(model[i - 1].at, at) > 0; i--) model[i] = model[i - 1];
    model[i] = (struct userlist_item){.at = at, .status = status};
}

static void move(unsigned i, uint16_t to) {
    struct store_view v = writing();
    assert_int_equal(userlist_move(&v, &arena, SLOT, user, model[i].at, model[i].status, to, NO_CARD), STATUS_OK);
    model[i].status = to;
}

static void assert_sound(void) {
    char error[256];
    struct store_view v = newest();
    if (userlist_verify(&v, &arena, SLOT, user, error)) fail_msg("%s", error);
}

static struct userlist_range everything(void) { return (struct userlist_range){.slot = SLOT, .user_id = user, .from_us = INT64_MIN, .to_us = INT64_MAX}; }

static bool model_in_range(const struct userlist_range *r, unsigned i) { return model[i].at.create_us >= r->from_us && model[i].at.create_us < r->to_us; }
static bool model_matches(const struct userlist_range *r, unsigned i) {
    bool wanted = r->status_count == 0;
    for (unsigned k = 0; k < r->status_count; k++) wanted |= r->statuses[k] == model[i].status;
    return wanted && model_in_range(r, i);
}

static void assert_counts(const struct userlist_range *r) {
    int64_t expected[1024] = {0};
    unsigned kinds = 0;
    for (unsigned i = 0; i < model_count; i++)
        if (model_in_range(r, i)) kinds += expected[model[i].status]++ == 0;
    struct status_counts counts;
    struct store_view v = newest();
    assert_int_equal(userlist_count(&v, &arena, r, &counts), STATUS_OK);
    assert_int_equal(counts.n, kinds);
    for (unsigned i = 0; i < counts.n; i++) assert_int_equal(counts.at[i].count, expected[counts.at[i].status]);
}

static void assert_page(const struct userlist_range *r, int64_t skip, const struct list_position *after, unsigned limit) {
    struct userlist_item got[64];
    unsigned n = 0, count;
    bool more, expected_more = false;
    struct store_view v = newest();
    assert_int_equal(userlist_page(&v, &arena, r, skip, after, got, limit, &count, &more, NULL), STATUS_OK);
    for (unsigned i = model_count; i-- > 0 && !expected_more;) {
        if (!model_matches(r, i) || (after && compare(model[i].at, *after) >= 0)) continue;
        if (skip) {
            skip--;
        } else if (n == limit) {
            expected_more = true;
        } else {
            assert_in_range(n, 0, count - 1);
            assert_int_equal(got[n].at.order_id, model[i].at.order_id);
            assert_int_equal(got[n].at.create_us, model[i].at.create_us);
            assert_int_equal(got[n].status, model[i].status);
            n++;
        }
    }
    assert_int_equal(count, n);
    assert_int_equal(more, expected_more);
}

static struct userlist_range random_range(struct test_random *r, int64_t span) {
    struct userlist_range range = everything();
    if (test_random_below(r, 2)) range.from_us = (int64_t)test_random_below(r, (uint64_t)span) - 50;
    if (test_random_below(r, 2)) range.to_us = (int64_t)test_random_below(r, (uint64_t)span) - 50;
    range.status_count = (unsigned)test_random_below(r, 4);
    for (unsigned i = 0; i < range.status_count; i++) range.statuses[i] = (uint16_t)(1 + test_random_below(r, STATUSES));
    return range;
}

static void assert_as_the_model(struct test_random *r, int64_t span) {
    assert_sound();
    for (int i = 0; i < 12; i++) {
        struct userlist_range range = random_range(r, span);
        assert_counts(&range);
        assert_page(&range, 0, NULL, 20);
        assert_page(&range, (int64_t)test_random_below(r, model_count + 10), NULL, 1 + (unsigned)test_random_below(r, 40));
        struct list_position after = test_random_below(r, 2) && model_count ? model[test_random_below(r, model_count)].at
                                                                          : (struct list_position){(int64_t)test_random_below(r, (uint64_t)span) - 50, (int64_t)test_random_below(r, 5000)};
        assert_page(&range, 0, &after, 1 + (unsigned)test_random_below(r, 40));
    }
}

/* ---- tests ---- */

static void a_user_without_orders_has_nothing(void **state) {
    struct userlist_range r = everything();
    assert_counts(&r);
    assert_page(&r, 0, NULL, 20);
    assert_page(&r, 5, NULL, 20);
    assert_sound();
}

static void a_page_of_nothing_says_whether_there_is_more(void **state) {
    struct userlist_range r = everything();
    insert(1, 1, 1);
    commit();
    assert_page(&r, 0, NULL, 0);
    assert_page(&r, 1, NULL, 0);
}

static struct store_iter *iter_of_kind(const struct store_view *v, uint8_t kind) {
    struct key lower, upper;
    key_slot_prefix(&lower, SLOT);
    lower.bytes[lower.len++] = kind;
    upper = lower;
    key_after_prefix(&upper);
    return store_iter_open(v, key_slice(&lower), key_slice(&upper));
}

static uint64_t rows_of_kind(uint8_t kind) {
    struct store_view v = newest();
    struct store_iter *it = iter_of_kind(&v, kind);
    uint64_t n = 0;
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) n++;
    store_iter_close(it);
    return n;
}

static void small_users_have_one_row_of_counts(void **state) {
    for (int i = 1; i <= 2 * USERLIST_SPAN; i++) insert(i, i, 1), commit();
    assert_int_equal(rows_of_kind(KEY_COUNTS), 1);
    insert(1000, 1000, 1), commit();
    assert_int_equal(rows_of_kind(KEY_COUNTS), 3);
    assert_sound();
}

/* Orders of many machines: more statuses than one machine has, rows that split, an order that goes through them. */
static void a_user_may_have_orders_in_every_status(void **state) {
    for (unsigned i = 0; i < 2500; i++) {
        insert((int64_t)i * 10, (int64_t)i, (uint16_t)(1 + i % (USERLIST_STATUSES_MAX - 1)));
        if (i % 100 == 99) commit();
    }
    commit();
    for (uint16_t s = 1; s < USERLIST_STATUSES_MAX; s += 7) move(5, s);
    commit();
    struct userlist_range r = everything();
    assert_sound();
    assert_counts(&r);
    r.from_us = 5000;
    assert_counts(&r);
    r.statuses[r.status_count++] = 700;
    assert_page(&r, 0, NULL, 10);
}

static void users_do_not_see_each_other(void **state) {
    const struct slice others[] = {SLICE_LIT("alic"), SLICE_LIT("alicf"), SLICE_LIT("alice2"), SLICE_LIT("")};
    struct store_view v = writing();
    for (unsigned k = 0; k < ARRAY_LEN(others); k++)
        for (int i = 0; i < 200; i++) assert_int_equal(userlist_insert(&v, &arena, SLOT, others[k], (struct list_position){i, 1000000 + i}, 3, NO_CARD), STATUS_OK);
    for (int i = 0; i < 150; i++) insert(i, i + 1, 1);
    commit();
    struct userlist_range r = everything();
    assert_counts(&r);
    assert_page(&r, 140, NULL, 20);
    assert_sound();
}

static void random_operations_agree_with_the_model(void **state) {
    for (uint64_t seed = 1; seed <= 4; seed++) {
        if (seed > 1) teardown(NULL), setup(NULL);
        struct test_random r = {seed};
        int64_t clock = 1000, id = 1;
        for (int i = 1; i <= 3000; i++) {
            switch (test_random_below(&r, 8)) {
            case 0: insert((int64_t)test_random_below(&r, (uint64_t)clock), id++, 1 + (uint16_t)test_random_below(&r, STATUSES)); break; /* an import */
            case 1: insert(-(int64_t)test_random_below(&r, 50), id++, 2); break;                                                     /* before 1970 */
            case 2:
            case 3:
            case 4:
                if (model_count) move((unsigned)test_random_below(&r, model_count), 1 + (uint16_t)test_random_below(&r, STATUSES));
                break;
            default: clock += (int64_t)test_random_below(&r, 3), insert(clock, id++, 1); break; /* many at the same microsecond */
            }
            if (test_random_below(&r, 4) == 0) commit();
            if (i % 100 == 0) commit(), assert_as_the_model(&r, clock + 100);
        }
    }
}

/* The first row of each level covers whatever is older. */
static void inserts_in_falling_order(void **state) {
    for (int i = 0; i < 6000; i++) {
        struct store_view v = writing();
        assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){-i, i + 1}, 1, NO_CARD), STATUS_OK);
        if (i % 50 == 0) commit();
    }
    commit();
    assert_sound();
    for (int i = 0; i < 6000; i++) model[i] = (struct userlist_item){.at = {-5999 + i, 6000 - i}, .status = 1};
    model_count = 6000;
    struct userlist_range r = everything();
    assert_counts(&r);
    assert_page(&r, 5990, NULL, 20);
    assert_page(&r, 3000, NULL, 20);
}

static uint64_t cost_of_page(const struct userlist_range *r, int64_t skip, const struct list_position *after) {
    struct userlist_item items[20];
    unsigned n;
    bool more;
    struct store_view v = newest();
    reads = 0;
    assert_int_equal(userlist_page(&v, &arena, r, skip, after, items, 20, &n, &more, NULL), STATUS_OK);
    assert_int_equal(n, 20);
    return reads;
}

/* Page 5,000 of a user with 100,000 orders costs what page 1 costs: rows read, not seconds. */
static void deep_pages_read_a_few_dozen_rows(void **state) {
    for (int i = 0; i < 100000; i++) {
        struct store_view v = writing();
        uint16_t status = i % 1000 == 0 ? 2 : 1;
        reads = 0;
        assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){i, i + 1}, status, NO_CARD), STATUS_OK);
        assert_in_range(reads, 1, 5 + 3 * 35); /* root, one row per level; now and then up to three splits */
        model[i] = (struct userlist_item){.at = {i, i + 1}, .status = status};
        if (i % 4 == 0) commit();
    }
    model_count = 100000;
    commit();
    assert_sound();
    struct userlist_range r = everything();
    uint64_t first = cost_of_page(&r, 0, NULL), worst = 0;
    for (int64_t page = 0; page < 5000; page += 7) worst = MAX_OF(worst, cost_of_page(&r, page * 20, NULL));
    uint64_t last = cost_of_page(&r, 4999 * 20, NULL);
    assert_in_range(first, 20, 40);
    assert_in_range(last, 20, 200);
    assert_in_range(worst, 20, 250);
    print_message("rows read: page 1 %llu, page 5000 %llu, worst %llu\n", (unsigned long long)first, (unsigned long long)last, (unsigned long long)worst);
    assert_page(&r, 4999 * 20, NULL, 20);
    struct list_position middle = model[50000].at;
    assert_in_range(cost_of_page(&r, 0, &middle), 20, 80);
    reads = 0;
    assert_counts(&r);
    assert_int_equal(reads, 1); /* the root alone */
    r.from_us = 12345, r.to_us = 87654;
    reads = 0;
    assert_counts(&r);
    assert_in_range(reads, 1, 400);
    /* one order in a thousand: whole runs are skipped by their counts */
    r = everything();
    r.statuses[0] = 2, r.status_count = 1;
    assert_in_range(cost_of_page(&r, 80, NULL), 20, 1500);
    assert_page(&r, 80, NULL, 20);
    /* nothing to find, nothing to walk */
    r.statuses[0] = 3;
    reads = 0;
    assert_page(&r, 0, NULL, 20);
    assert_int_equal(reads, 1);
}

static void a_cold_store_would_block(void **state) {
    for (int i = 0; i < 300; i++) insert(i, i + 1, 1);
    commit();
    struct store_view v = newest();
    v.cached_only = true;
    store_mem_disk_set_cold(disk, true);
    struct userlist_range r = everything();
    struct status_counts counts;
    struct userlist_item items[5];
    unsigned n;
    bool more;
    assert_int_equal(userlist_count(&v, &arena, &r, &counts), STATUS_WOULD_BLOCK);
    assert_int_equal(userlist_page(&v, &arena, &r, 0, NULL, items, 5, &n, &more, NULL), STATUS_WOULD_BLOCK);
    store_mem_disk_set_cold(disk, false);
}

static void a_faulty_store_is_told(void **state) {
    for (int i = 0; i < 300; i++) insert(i, i + 1, 1);
    commit();
    store_mem_disk_set_read_fault(disk, STATUS_IO_FAILED);
    struct store_view v = writing();
    assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){1, 999}, 1, NO_CARD), STATUS_IO_FAILED);
    assert_int_equal(userlist_move(&v, &arena, SLOT, user, model[3].at, 1, 2, NO_CARD), STATUS_IO_FAILED);
    char error[256];
    v = newest();
    assert_int_equal(userlist_verify(&v, &arena, SLOT, user, error), STATUS_IO_FAILED);
    store_mem_disk_set_read_fault(disk, STATUS_OK);
}

/* One flipped bit, or a row gone: verify sees it, and no read runs wild. */
static void verify_sees_damage(void **state) {
    for (int i = 0; i < 5000; i++) {
        insert(i, i + 1, (uint16_t)(1 + i % 3));
        if (i % 10 == 0) commit();
    }
    commit();
    struct key lower, upper;
    key_slot_prefix(&lower, SLOT);
    lower.bytes[lower.len++] = KEY_COUNTS;
    upper = lower;
    key_after_prefix(&upper);
    struct row { struct key key; uint8_t value[2048]; size_t len; } *rows = mem_zalloc(300 * sizeof *rows);
    unsigned n = 0;
    struct store_view v = newest();
    struct store_iter *it = store_iter_open(&v, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && n < 300; store_iter_next(it), n++) {
        rows[n].key.len = store_iter_key(it).len, rows[n].len = store_iter_value(it).len;
        memcpy(rows[n].key.bytes, store_iter_key(it).data, rows[n].key.len);
        memcpy(rows[n].value, store_iter_value(it).data, rows[n].len);
    }
    store_iter_close(it);
    assert_in_range(n, 100, 299);
    struct test_random r = {7};
    char error[256];
    for (unsigned k = 0; k < n; k++) {
        struct slice key = key_slice(&rows[k].key), value = slice_of(rows[k].value, rows[k].len);
        uint8_t bit = (uint8_t)(1u << test_random_below(&r, 8)), *at = &rows[k].value[test_random_below(&r, rows[k].len)];
        *at ^= bit;
        store_batch_put(batch, key, value), commit();
        assert_int_equal(userlist_verify(&v, &arena, SLOT, user, error), STATUS_CHECKSUM_MISMATCH);
        assert_true(error[0] != 0);
        struct userlist_range range = everything();
        range.from_us = 1;
        struct status_counts counts;
        enum status read = userlist_count(&v, &arena, &range, &counts);
        assert_true(read == STATUS_OK || read == STATUS_CHECKSUM_MISMATCH);
        store_batch_delete(batch, key), commit();
        assert_int_equal(userlist_verify(&v, &arena, SLOT, user, error), STATUS_CHECKSUM_MISMATCH);
        *at ^= bit;
        store_batch_put(batch, key, value), commit();
    }
    assert_sound();
    mem_free(rows);
}

/* Memory that fails at any step is told, never half an answer. */
static void memory_fails_at_every_step(void **state) {
    for (int i = 0; i < 1000; i++) insert(i, i + 1, 1);
    commit();
    struct userlist_range r = everything();
    r.from_us = 100;
    for (uint64_t n = 1; n < 12; n++) {
        struct store_view v = newest();
        struct status_counts counts;
        struct arena a;
        arena_init(&a, MIB);
        mem_fail_nth(n);
        enum status st = userlist_count(&v, &a, &r, &counts);
        mem_fail_nth(0);
        if (!st) assert_int_equal(counts.at[0].count, 900);
        else assert_int_equal(st, STATUS_MEMORY_LIMIT);
        arena_fini(&a);
    }
    for (uint64_t n = 1; n < 40; n++) {
        struct store_view v = writing();
        mem_fail_nth(n);
        enum status st = userlist_insert(&v, &arena, SLOT, user, (struct list_position){5, 5000}, 1, NO_CARD);
        enum status applied = st ? st : store_apply(store, batch);
        mem_fail_nth(0);
        store_batch_clear(batch); /* what apply does with an entry that failed */
        if (applied) assert_int_equal(applied, STATUS_MEMORY_LIMIT);
        assert_sound();
        if (!applied) break;
    }
}

/* ---- the rows on a write's path ---- */

/* Every row of counts as it was before it knew where its children stand. */
static void make_older(void) {
    struct store_view v = newest();
    struct store_iter *it = iter_of_kind(&v, KEY_COUNTS);
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) {
        uint8_t row[2048];
        struct slice value = store_iter_value(it);
        check(value.len <= sizeof row);
        memcpy(row, value.data, value.len);
        if (row[0] == 1) continue;
        assert_int_equal(row[0], 2);
        row[0] = 1; /* children: one byte, at most 64 */
        store_batch_put(batch, store_iter_key(it), slice_of(row, value.len - 16u * (row[2] - 1u)));
    }
    store_iter_close(it);
    commit();
}

static uint64_t cost_of_move(unsigned i) {
    uint64_t before = reads;
    move(i, (uint16_t)(1 + model[i].status % STATUSES));
    uint64_t cost = reads - before;
    commit();
    return cost;
}

static void a_move_gets_its_rows_by_their_keys(void **state) {
    for (int i = 0; i < 5000; i++) {
        insert(i, i + 1, (uint16_t)(1 + i % 3));
        if (i % 50 == 0) commit();
    }
    commit();
    for (unsigned i = 0; i < 5000; i += 499) assert_int_equal(cost_of_move(i), 3); /* root, level 2, level 1 */
    assert_sound();
}

static void older_rows_work_and_grow(void **state) {
    struct test_random r = {11};
    for (int64_t i = 0; i < 2500; i++) {
        insert((int64_t)test_random_below(&r, 100000), i + 1, (uint16_t)(1 + i % STATUSES));
        if (i % 20 == 0) commit();
        if (i % 700 == 0) commit(), make_older(), assert_sound();
        if (i % 100 == 0) commit(), cost_of_move((unsigned)test_random_below(&r, model_count)), assert_sound();
    }
    commit();
    assert_sound();
    make_older();
    for (unsigned i = 0; i < 40; i++) cost_of_move((unsigned)test_random_below(&r, model_count));
    assert_sound();
    struct userlist_range all = everything();
    assert_counts(&all);
    for (int64_t i = 0; i < 3000; i++) {
        insert(200000 + i, 10000 + i, 1);
        if (i % 20 == 0) commit();
    }
    commit();
    assert_sound();
    assert_counts(&all);
    assert_page(&all, 2000, NULL, 20);
}

/* ---- cards ---- */

static struct slice card_of(uint8_t *bytes, int64_t id, size_t len) {
    struct writer w = writer_of(bytes, len);
    pb_int64(&w, 1, id);
    while (w.len < len) write_u8(&w, (uint8_t)w.len);
    return writer_slice(&w);
}

static void a_page_brings_the_cards(void **state) {
    static uint8_t bytes[2][USERLIST_CARD_BYTES_MAX + 1];
    struct store_view v = writing(), now = newest();
    struct userlist_range r = everything();
    struct userlist_item got[4];
    struct status_counts counts;
    unsigned n;
    bool more;
    struct slice longest = card_of(bytes[0], 1, USERLIST_CARD_BYTES_MAX), longer = card_of(bytes[1], 2, USERLIST_CARD_BYTES_MAX + 1);
    assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){10, 1}, 3, longest), STATUS_OK);
    assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){20, 2}, 3, longer), STATUS_OK);
    assert_int_equal(userlist_insert(&v, &arena, SLOT, user, (struct list_position){30, 3}, 3, NO_CARD), STATUS_OK);
    commit();
    assert_int_equal(userlist_page(&now, &arena, &r, 0, NULL, got, 4, &n, &more, &counts), STATUS_OK);
    assert_int_equal(n, 3);
    assert_int_equal(counts.at[0].count, 3);
    assert_true(slice_equal(got[2].card, longest));
    assert_int_equal(got[1].card.len, 0);
    assert_int_equal(got[0].card.len, 0);
    /* The card is the newest commit's, moved or not. */
    struct slice later = card_of(bytes[0], 3, 40), again = card_of(bytes[1], 1, 30);
    assert_int_equal(userlist_move(&v, &arena, SLOT, user, (struct list_position){30, 3}, 3, 3, later), STATUS_OK);
    assert_int_equal(userlist_move(&v, &arena, SLOT, user, (struct list_position){10, 1}, 3, 4, again), STATUS_OK);
    commit();
    assert_sound();
    assert_int_equal(userlist_page(&now, &arena, &r, 0, NULL, got, 4, &n, &more, NULL), STATUS_OK);
    assert_true(slice_equal(got[0].card, later));
    assert_true(slice_equal(got[2].card, again));
    assert_int_equal(got[2].status, 4);
    assert_int_equal(userlist_move(&v, &arena, SLOT, user, (struct list_position){10, 1}, 4, 4, NO_CARD), STATUS_OK);
    commit();
    assert_int_equal(userlist_page(&now, &arena, &r, 0, NULL, got, 4, &n, &more, NULL), STATUS_OK);
    assert_int_equal(got[2].card.len, 0);
}

static void a_card_of_another_order_is_damage(void **state) {
    uint8_t card[64], row[128];
    struct store_view v = newest();
    struct userlist_range r = everything();
    struct userlist_item got[4];
    char error[256];
    unsigned n;
    bool more;
    insert(10, 1, 3);
    struct key k;
    struct writer w = writer_of(row, sizeof row);
    key_list(&k, SLOT, user, 10, 1);
    list_row_encode(3, card_of(card, 2, 20), &w);
    store_batch_put(batch, key_slice(&k), writer_slice(&w));
    commit();
    assert_int_equal(userlist_page(&v, &arena, &r, 0, NULL, got, 4, &n, &more, NULL), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(userlist_verify(&v, &arena, SLOT, user, error), STATUS_CHECKSUM_MISMATCH);
    row[2] = 2; /* a format to come */
    store_batch_put(batch, key_slice(&k), writer_slice(&w));
    commit();
    assert_int_equal(userlist_page(&v, &arena, &r, 0, NULL, got, 4, &n, &more, NULL), STATUS_CHECKSUM_MISMATCH);
    for (size_t len = 0; len < w.len; len++) {
        uint16_t status;
        struct slice found;
        row[2] = 1;
        enum status st = list_row_decode(slice_of(row, len), 2, &status, &found);
        assert_int_equal(st, len == 2 || len >= 5 ? STATUS_OK : STATUS_CHECKSUM_MISMATCH);
    }
}

static void golden_card(void **state) {
    uint8_t golden[64], got[64];
    struct writer w = writer_of(got, sizeof got);
    list_row_encode(300, card_of((uint8_t[16]){0}, 150, 8), &w);
    size_t n = test_golden("list_row", golden, sizeof golden);
    assert_string_equal(test_hex(writer_slice(&w)), test_hex(slice_of(golden, n)));
}

/* Persistent: the rows of a user with three orders. */
static void golden_rows(void **state) {
    uint8_t golden[512], got[512];
    insert(1700000000000000, 1, 1);
    insert(1700000000000001, 2, 1);
    insert(1700000000000002, 3, 5);
    move(0, 300);
    commit();
    struct key lower, upper;
    key_slot_prefix(&lower, SLOT);
    upper = lower;
    key_after_prefix(&upper);
    struct store_view v = newest();
    struct store_iter *it = store_iter_open(&v, key_slice(&lower), key_slice(&upper));
    struct writer w = writer_of(got, sizeof got);
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) write_counted(&w, store_iter_key(it)), write_counted(&w, store_iter_value(it));
    store_iter_close(it);
    size_t n = test_golden("userlist", golden, sizeof golden);
    assert_string_equal(test_hex(writer_slice(&w)), test_hex(slice_of(golden, n)));
}

static void golden_places(void **state) {
    uint8_t golden[64];
    struct key k;
    struct slice root;
    struct store_view v = newest();
    for (int64_t i = 0; i < 65; i++) insert(1700000000000000 + i, 1000 + i, 1);
    commit();
    key_counts(&k, SLOT, user, 0, 0, 0);
    assert_int_equal(store_get(&v, key_slice(&k), &arena, &root), STATUS_OK);
    size_t n = test_golden("userlist_places", golden, sizeof golden);
    assert_string_equal(test_hex(root), test_hex(slice_of(golden, n)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(a_user_without_orders_has_nothing),
        T(a_page_of_nothing_says_whether_there_is_more),
        T(small_users_have_one_row_of_counts),
        T(a_user_may_have_orders_in_every_status),
        T(users_do_not_see_each_other),
        T(random_operations_agree_with_the_model),
        T(inserts_in_falling_order),
        T(deep_pages_read_a_few_dozen_rows),
        T(a_cold_store_would_block),
        T(a_faulty_store_is_told),
        T(verify_sees_damage),
        T(memory_fails_at_every_step),
        T(a_page_brings_the_cards),
        T(a_card_of_another_order_is_damage),
        T(golden_card),
        T(golden_places),
        T(a_move_gets_its_rows_by_their_keys),
        T(older_rows_work_and_grow),
        T(golden_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
