/* engine/list_cache.h beside the store: whatever it answers is what userlist_page answers, in a cache so small that users go all the time. */
#include "tests/lib/test.h"

#include "engine/list_cache.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "proto/route.h"

enum { USERS = 24, ORDERS_MAX = 400, STATUSES = 6, PAGE_MAX = 60, STEPS = 12000 };

struct made {
    struct list_position at;
    uint16_t status;
};
struct list_user {
    char name[24];
    struct slice id;
    struct made orders[ORDERS_MAX], kept[ORDERS_MAX]; /* with the batch under way; as committed */
    unsigned count, kept_count;
};

static struct store_mem_disk *disk;
static struct store *store;
static struct store_batch *batch;
static struct arena arena;
static struct list_user users[USERS];
static struct test_random chance;
static int64_t clock_us, last_id;
static bool heap_fails; /* what the cache asks for, now and then */

static uint64_t below(uint64_t n) { return test_random_below(&chance, n); }

static void heap_may_fail(void) { mem_fail_nth(heap_fails && below(10) == 0 ? 1 + below(3) : 0); }

static int setup(void **state) {
    disk = store_mem_disk_new();
    check(store_open_mem(&store, disk) == STATUS_OK);
    batch = store_batch_new(store);
    arena_init(&arena, 16 * MIB);
    chance.state = 7;
    clock_us = last_id = 1000;
    for (unsigned i = 0; i < USERS; i++) {
        users[i].count = users[i].kept_count = 0;
        snprintf(users[i].name, sizeof users[i].name, "user-%u", i);
        users[i].id = slice_str(users[i].name);
    }
    return 0;
}
static int teardown(void **state) {
    store_batch_free(batch);
    store_close(store);
    store_mem_disk_free(disk);
    arena_fini(&arena);
    return 0;
}

/* Of any length, 0 and too long a one too; it begins as a card must. */
static struct slice draw_card(int64_t order_id) {
    static const unsigned lengths[] = {0, 40, 150, 160, 170, 180, 200, USERLIST_CARD_BYTES_MAX, USERLIST_CARD_BYTES_MAX + 1};
    size_t len = lengths[below(ARRAY_LEN(lengths))];
    if (!len) return (struct slice){0};
    struct writer w = writer_of(arena_alloc(&arena, len), len);
    pb_int64(&w, 1, order_id);
    while (w.len < len) write_u8(&w, (uint8_t)below(256));
    return writer_slice(&w);
}

static void insert_at(struct list_cache *c, struct list_user *u, struct list_position at) {
    struct store_view v = {.store = store, .batch = batch};
    struct slice card = draw_card(at.order_id);
    uint16_t status = (uint16_t)(1 + below(STATUSES));
    assert_int_equal(userlist_insert(&v, &arena, slot_of_user(u->id), u->id, at, status, card), STATUS_OK);
    heap_may_fail();
    list_cache_insert(c, u->id, at, status, card);
    mem_fail_nth(0);
    u->orders[u->count++] = (struct made){at, status};
}

static void insert(struct list_cache *c, struct list_user *u) {
    clock_us += (int64_t)below(3);
    insert_at(c, u, (struct list_position){below(8) ? clock_us : (int64_t)below((uint64_t)clock_us), ++last_id}); /* now and then an import */
}

static void move(struct list_cache *c, struct list_user *u) {
    struct store_view v = {.store = store, .batch = batch};
    struct made *o = &u->orders[below(3) ? u->count - 1 - below(MIN_OF(u->count, 30u)) : below(u->count)];
    uint16_t to = below(3) ? (uint16_t)(1 + below(STATUSES)) : o->status;
    struct slice card = draw_card(o->at.order_id);
    assert_int_equal(userlist_move(&v, &arena, slot_of_user(u->id), u->id, o->at, o->status, to, card), STATUS_OK);
    heap_may_fail();
    list_cache_move(c, u->id, o->at, o->status, to, card);
    mem_fail_nth(0);
    o->status = to;
}

/* A few changes, as an entry has them; some are not applied in the end. */
static void entry(struct list_cache *c) {
    for (unsigned n = 1 + (unsigned)below(4); n; n--) {
        struct list_user *u = &users[below(2) ? below(3) : below(USERS)];
        if (u->count < ORDERS_MAX && (!u->count || below(2))) insert(c, u);
        else if (u->count) move(c, u);
    }
    bool lost = below(20) == 0;
    if (!lost) assert_int_equal(store_apply(store, batch), STATUS_OK);
    else list_cache_forget(c, 0, SLOT_COUNT - 1);
    for (unsigned i = 0; i < USERS; i++) {
        struct list_user *u = &users[i];
        if (lost) u->count = u->kept_count, memcpy(u->orders, u->kept, u->count * sizeof u->orders[0]);
        else u->kept_count = u->count, memcpy(u->kept, u->orders, u->count * sizeof u->orders[0]);
    }
    store_batch_clear(batch);
    arena_reset(&arena);
}

struct answer {
    struct userlist_item items[PAGE_MAX];
    unsigned count;
    bool more;
    struct status_counts counts;
};

static struct userlist_range draw_range(const struct list_user *u) {
    struct userlist_range r = {.slot = slot_of_user(u->id), .user_id = u->id, .from_us = INT64_MIN, .to_us = INT64_MAX};
    int64_t near = u->count ? u->orders[u->count - 1 - below(MIN_OF(u->count, 60u))].at.create_us : clock_us;
    if (below(5) == 0) r.from_us = near;
    if (below(8) == 0) r.to_us = near + (int64_t)below(4);
    if (r.to_us < r.from_us) r.to_us = r.from_us;
    if (below(4) == 0)
        for (uint16_t s = 1; s <= STATUSES; s++)
            if (below(3) == 0) r.statuses[r.status_count++] = s;
    return r;
}

static void assert_same(const struct answer *got, const struct answer *expected) {
    assert_int_equal(got->count, expected->count);
    assert_int_equal(got->more, expected->more);
    assert_int_equal(got->counts.n, expected->counts.n);
    for (unsigned i = 0; i < got->counts.n; i++) {
        assert_int_equal(got->counts.at[i].status, expected->counts.at[i].status);
        assert_int_equal(got->counts.at[i].count, expected->counts.at[i].count);
    }
    for (unsigned i = 0; i < got->count; i++) {
        assert_int_equal(got->items[i].at.create_us, expected->items[i].at.create_us);
        assert_int_equal(got->items[i].at.order_id, expected->items[i].at.order_id);
        assert_int_equal(got->items[i].status, expected->items[i].status);
        assert_true(slice_equal(got->items[i].card, expected->items[i].card));
    }
}

/* A page from both, as a reader walks; a miss is filled. */
static void read_pages(struct list_cache *c, const struct userlist_range *r) {
    static struct answer got, stored;
    struct store_view v = {.store = store};
    unsigned limit = 1 + (unsigned)below(PAGE_MAX);
    int64_t skip = below(4) ? 0 : (int64_t)below(3) * limit;
    struct list_position last;
    const struct list_position *after = NULL;
    for (unsigned pages = 1 + (unsigned)below(4); pages; pages--) {
        bool hit = list_cache_page(c, r, skip, after, got.items, limit, &got.count, &got.more, &got.counts);
        assert_int_equal(userlist_page(&v, &arena, r, skip, after, stored.items, limit, &stored.count, &stored.more, &stored.counts), STATUS_OK);
        heap_may_fail();
        if (hit) assert_same(&got, &stored);
        else list_cache_fill(c, r, skip, after, stored.items, stored.count, &stored.counts);
        mem_fail_nth(0);
        if (!stored.more) break;
        last = stored.items[stored.count - 1].at, after = &last, skip = 0;
    }
    arena_reset(&arena);
}

static void live(uint64_t bytes_max, bool fails, struct list_cache_stats *out) {
    struct list_cache *c = list_cache_new(bytes_max);
    heap_fails = fails;
    for (unsigned i = 0; i < STEPS; i++) {
        struct list_user *u = &users[below(2) ? below(3) : below(USERS)];
        struct userlist_range r = draw_range(u);
        if (below(3) == 0) entry(c);
        else read_pages(c, &r);
        if (below(5000) == 0) list_cache_forget(c, r.slot, r.slot);
        list_cache_get_stats(c, out);
        assert_true(out->bytes <= bytes_max);
    }
    list_cache_get_stats(c, out);
    heap_fails = false;
    list_cache_free(c);
}

static void answers_what_the_store_would_with_room_for_a_few_users(void **state) {
    struct list_cache_stats stats;
    live(48 << 10, true, &stats);
    assert_true(stats.evictions > 500);
    assert_true(stats.hits > 1000);
    assert_true(stats.misses > 1000);
}

static void answers_what_the_store_would_with_room_for_all(void **state) {
    struct list_cache_stats stats;
    live(4 << 20, false, &stats);
    assert_int_equal(stats.evictions, 0);
    assert_true(stats.hits > 4000);
    assert_true(stats.users <= USERS);
    assert_true(stats.rows <= USERS * LIST_CACHE_ROWS_MAX);
}

static bool page_hits(struct list_cache *c, struct list_user *u, unsigned limit, unsigned *count) {
    static struct answer a;
    struct userlist_range r = {.slot = slot_of_user(u->id), .user_id = u->id, .from_us = INT64_MIN, .to_us = INT64_MAX};
    struct store_view v = {.store = store};
    bool hit = list_cache_page(c, &r, 0, NULL, a.items, limit, &a.count, &a.more, &a.counts);
    if (!hit) {
        assert_int_equal(userlist_page(&v, &arena, &r, 0, NULL, a.items, limit, &a.count, &a.more, &a.counts), STATUS_OK);
        list_cache_fill(c, &r, 0, NULL, a.items, a.count, &a.counts);
    }
    *count = a.count;
    return hit;
}

static void a_new_order_comes_into_the_first_page_without_a_read(void **state) {
    struct list_cache *c = list_cache_new(1 << 20);
    unsigned count;
    for (unsigned i = 0; i < 50; i++) insert(NULL, &users[0]);
    assert_int_equal(store_apply(store, batch), STATUS_OK);
    assert_false(page_hits(c, &users[0], 20, &count));
    for (unsigned i = 0; i < 300; i++) { /* far more than are kept of a user */
        store_batch_clear(batch);
        insert_at(c, &users[0], (struct list_position){++clock_us, ++last_id});
        assert_int_equal(store_apply(store, batch), STATUS_OK);
        assert_true(page_hits(c, &users[0], 20, &count));
        assert_int_equal(count, 20);
    }
    struct list_cache_stats stats;
    list_cache_get_stats(c, &stats);
    assert_in_range(stats.rows, 20, LIST_CACHE_ROWS_MAX);
    list_cache_free(c);
}

/* S3-FIFO: those who are asked for again outlive a reader of every list. */
static void who_lists_everybody_once_drives_nobody_out(void **state) {
    struct list_cache *c = list_cache_new(64 << 10);
    struct list_user *hot = &users[0], other;
    unsigned count, hits = 0;
    for (unsigned i = 0; i < 20; i++) insert(NULL, hot);
    assert_int_equal(store_apply(store, batch), STATUS_OK);
    for (unsigned i = 0; i < 4; i++) page_hits(c, hot, 20, &count);
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(other.name, sizeof other.name, "once-%u", i);
        other.id = slice_str(other.name);
        assert_false(page_hits(c, &other, 20, &count));
        assert_int_equal(count, 0);
        if (i % 50 == 0) hits += page_hits(c, hot, 20, &count);
    }
    assert_int_equal(hits, 100);
    list_cache_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers_what_the_store_would_with_room_for_a_few_users, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_what_the_store_would_with_room_for_all, setup, teardown),
        cmocka_unit_test_setup_teardown(a_new_order_comes_into_the_first_page_without_a_read, setup, teardown),
        cmocka_unit_test_setup_teardown(who_lists_everybody_once_drives_nobody_out, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
