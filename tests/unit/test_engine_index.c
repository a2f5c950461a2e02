/* Orders that are older than the indexes (partition_index.c): a directory of a program that knew none, opened by one that keeps them; stopped and killed in mid-walk, written to meanwhile. */
#include "tests/lib/engine_rig.h"

enum { ORDERS = 200, AT_ONCE = 50 };

static const struct index_record *walk(struct engine_rig *r) { return &r->engine->partitions[0].index; }

static void orders_create(struct engine_rig *r, unsigned n) {
    struct job *jobs[AT_ONCE];
    assert_true(n <= AT_ONCE);
    for (unsigned i = 0; i < n; i++) {
        char user[16];
        snprintf(user, sizeof user, "user-%u", r->requests % 7);
        jobs[i] = create_send_of(r, user, 2, 256 << 10);
    }
    rig_run(r, 200 * NS_PER_MS);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(jobs[i]->done, 1);
        assert_int_equal(jobs[i]->op.failure.status, STATUS_OK);
        job_free(jobs[i]);
    }
}

static void drain(struct engine_rig *r) {
    engine_drain(r->engine);
    for (unsigned i = 0; !engine_drained(r->engine); i++) {
        assert_true(i < 10000);
        rig_run(r, NS_PER_MS);
    }
}

/* What a program leaves that knows no indexes. */
static void indexes_erase(struct engine_rig *r) {
    struct store *s;
    struct key prefix, upper;
    assert_int_equal(store_open_mem(&s, r->store), STATUS_OK);
    struct store_batch *b = store_batch_new(s);
    struct store_view v = {.store = s};
    key_index_record(&prefix);
    upper = prefix;
    key_after_prefix(&upper);
    unsigned rows = 0;
    struct store_iter *it = store_iter_open(&v, key_slice(&prefix), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it), rows++) store_batch_delete(b, store_iter_key(it));
    store_iter_close(it);
    assert_int_equal(rows, 1 + 2 * ORDERS); /* the record; status and SKU of each */
    assert_int_equal(store_apply(s, b), STATUS_OK);
    assert_int_equal(store_flush(s), STATUS_OK);
    store_batch_free(b);
    store_close(s);
}

static enum status verify(struct engine_rig *r, struct index_count *count, char error[256]) {
    struct arena scratch;
    struct store_view v = {.store = r->engine->partitions[0].store};
    v.snapshot = store_snapshot_get(v.store);
    arena_init(&scratch, 8 << 20);
    enum status st = index_verify(&v, &scratch, 0, SLOT_COUNT - 1, count, error);
    store_snapshot_put(v.store, (struct store_snapshot *)v.snapshot);
    arena_fini(&scratch);
    return st;
}

static void open_older(struct engine_rig *r) {
    rig_open(r);
    for (unsigned n = 0; n < ORDERS; n += AT_ONCE) orders_create(r, AT_ONCE);
    assert_true(walk(r)->complete);
    drain(r);
    rig_stop(r);
    indexes_erase(r);
    rig_start(r);
    assert_false(walk(r)->complete);
}

static void into_mid_walk(struct engine_rig *r) {
    for (unsigned i = 0; !walk(r)->order_id; i++) {
        assert_true(i < 1000);
        rig_run(r, NS_PER_MS);
    }
    assert_false(walk(r)->complete);
}

static void to_the_end(struct engine_rig *r, unsigned orders) {
    struct index_count count;
    char error[256];
    for (unsigned i = 0; !walk(r)->complete; i++) {
        assert_true(i < 1000);
        rig_run(r, NS_PER_MS);
    }
    if (verify(r, &count, error)) fail_msg("%s", error);
    assert_int_equal(count.orders, orders);
    assert_int_equal(count.rows, 2 * orders);
}

static void an_older_directory_is_indexed_while_it_is_written(void **state) {
    struct engine_rig r;
    struct index_count count;
    char error[256];
    open_older(&r);
    into_mid_walk(&r);
    assert_int_equal(verify(&r, &count, error), STATUS_CHECKSUM_MISMATCH); /* who asks too early is told */
    orders_create(&r, 10);
    to_the_end(&r, ORDERS + 10);
    drain(&r);
    rig_stop(&r);
    rig_start(&r);
    assert_true(walk(&r)->complete);
    to_the_end(&r, ORDERS + 10);
    rig_close(&r);
}

static void a_walk_that_was_stopped_goes_on_where_it_was(void **state) {
    struct engine_rig r;
    open_older(&r);
    into_mid_walk(&r);
    drain(&r);
    struct index_record at = *walk(&r);
    assert_false(at.complete);
    rig_stop(&r);
    rig_start(&r);
    assert_true(walk(&r)->slot > at.slot || walk(&r)->order_id >= at.order_id);
    to_the_end(&r, ORDERS);
    rig_close(&r);
}

static void a_walk_that_was_killed_begins_with_what_is_in_files(void **state) {
    struct engine_rig r;
    open_older(&r);
    into_mid_walk(&r);
    while (r.engine->partitions[0].reads_away) rig_run(&r, 10000); /* timers are looked for: an engine isn't closed under it */
    assert_false(walk(&r)->complete);
    rig_stop(&r); /* nothing of it was flushed */
    rig_start(&r);
    to_the_end(&r, ORDERS);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_older_directory_is_indexed_while_it_is_written),
        cmocka_unit_test(a_walk_that_was_stopped_goes_on_where_it_was),
        cmocka_unit_test(a_walk_that_was_killed_begins_with_what_is_in_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
