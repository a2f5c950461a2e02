/* The ordered table of rows: against an array that is searched from one end to the other, with versions, both directions and a heap that fails. */
#include "engine/row_tree.h"
#include "proto/base/mem.h"
#include "tests/lib/test.h"

/* ---- the model: every version of every key, in the order of the keys, newest first */

enum { KEYS_MAX = 4000, VERSIONS_MAX = 12000, KEY_MAX = 24 };
struct model_version {
    uint64_t seq;
    uint32_t value; /* what the value is made of; its length too */
    bool deleted;
    int older; /* index, or -1 */
};
struct model {
    unsigned key_count, version_count;
    struct {
        uint8_t bytes[KEY_MAX];
        size_t len;
        int newest;
    } keys[KEYS_MAX];
    struct model_version versions[VERSIONS_MAX];
};

static struct slice model_key(const struct model *m, unsigned i) { return slice_of(m->keys[i].bytes, m->keys[i].len); }
static unsigned model_below(const struct model *m, struct slice key) {
    unsigned i = 0;
    while (i < m->key_count && slice_compare(model_key(m, i), key) < 0) i++;
    return i;
}
static void model_put(struct model *m, struct slice key, uint32_t value, bool deleted, uint64_t seq) {
    unsigned i = model_below(m, key);
    if (i == m->key_count || !slice_equal(model_key(m, i), key)) {
        memmove(&m->keys[i + 1], &m->keys[i], (m->key_count - i) * sizeof m->keys[0]);
        memcpy(m->keys[i].bytes, key.data, key.len);
        m->keys[i].len = key.len, m->keys[i].newest = -1;
        m->key_count++;
    }
    m->versions[m->version_count] = (struct model_version){seq, value, deleted, m->keys[i].newest};
    m->keys[i].newest = (int)m->version_count++;
}
static const struct model_version *model_seen(const struct model *m, unsigned i, uint64_t seq) {
    int v = m->keys[i].newest;
    while (v >= 0 && m->versions[v].seq > seq) v = m->versions[v].older;
    return v < 0 ? NULL : &m->versions[v];
}

static struct slice value_of(uint32_t n, uint8_t out[256]) {
    memset(out, (int)(n * 37), 256);
    put_be32(out, n);
    return slice_of(out, 4 + n % 200);
}
static void check_row(const struct row *r, struct slice key, const struct model_version *v) {
    uint8_t value[256];
    assert_non_null(r);
    assert_true(slice_equal(row_key(r), key));
    assert_int_equal(r->deleted, v->deleted);
    assert_true(slice_equal(row_value(r), v->deleted ? (struct slice){0} : value_of(v->value, value)));
}

/* Few different first bytes, so that many keys share their first eight; lengths from 1. */
static struct slice random_key(struct test_random *r, uint8_t out[KEY_MAX]) {
    size_t len = 1 + test_random_below(r, test_random_below(r, 2) ? 3 : KEY_MAX);
    for (size_t i = 0; i < len; i++) out[i] = (uint8_t)(test_random_below(r, 4) ? test_random_below(r, 3) : test_random_next(r) >> 20);
    if (len > 12 && test_random_below(r, 2)) memset(out, 7, 10);
    return slice_of(out, len);
}

/* What a run writes. */
static void check_walk(const struct row_tree *t, const struct model *m, unsigned max) {
    const struct row *rows[40];
    struct row_tree_walk walk;
    assert_true(row_tree_walk_begin(&walk, t));
    unsigned n, i = 0;
    do {
        n = row_tree_walk_next(&walk, rows, max);
        for (unsigned k = 0; k < n; k++, i++) check_row(rows[k], model_key(m, i), model_seen(m, i, UINT64_MAX));
    } while (n == max);
    assert_int_equal(i, m->key_count);
    row_tree_walk_end(&walk);
}

/* Every look at the tree that is offered, at this seq, from this key. */
static void check_view(const struct row_tree *t, const struct model *m, uint64_t seq, struct slice key) {
    const struct row *rows[40];
    unsigned at = model_below(m, key), n, max = 1 + at % 40;
    bool is_key = at < m->key_count && slice_equal(model_key(m, at), key);
    const struct model_version *v = is_key ? model_seen(m, at, seq) : NULL;
    if (v) check_row(row_tree_find(t, key, seq), key, v);
    else assert_null(row_tree_find(t, key, seq));
    for (int inclusive = 0; inclusive < 2; inclusive++) {
        unsigned i = at + (is_key && !inclusive);
        n = row_tree_above(t, key, inclusive, seq, rows, max);
        for (unsigned k = 0; k < n; k++, i++) {
            while (i < m->key_count && !model_seen(m, i, seq)) i++;
            check_row(rows[k], model_key(m, i), model_seen(m, i, seq));
        }
        while (n < max && i < m->key_count) assert_null(model_seen(m, i++, seq));
        i = at + (is_key && inclusive);
        n = row_tree_below(t, key, inclusive, seq, rows, max);
        for (unsigned k = 0; k < n; k++) {
            while (i && !model_seen(m, i - 1, seq)) i--;
            check_row(rows[k], model_key(m, i - 1), model_seen(m, i - 1, seq));
            i--;
        }
        while (n < max && i) assert_null(model_seen(m, --i, seq));
    }
}

static void check_ends(const struct row_tree *t, const struct model *m) {
    const struct row *rows[2];
    assert_int_equal(row_tree_above(t, (struct slice){0}, true, UINT64_MAX, rows, 2), MIN_OF(m->key_count, 2u));
    check_row(rows[0], model_key(m, 0), model_seen(m, 0, UINT64_MAX));
    assert_int_equal(row_tree_below(t, (struct slice){0}, true, UINT64_MAX, rows, 2), MIN_OF(m->key_count, 2u));
    check_row(rows[0], model_key(m, m->key_count - 1), model_seen(m, m->key_count - 1, UINT64_MAX));
}

/* Batches of random puts and deletes, each its own seq, while views come and go: a view sees what it saw, and rows it was given stay as they were. */
static void run_against_model(uint64_t seed, size_t chunk_bytes, struct slice deferred) {
    static struct model m;
    struct test_random r = {seed};
    struct row_tree t, batch;
    uint64_t pinned[3] = {0}, newest_pinned = 0;
    uint8_t key[KEY_MAX], value[256];
    m.key_count = m.version_count = 0;
    row_tree_init(&t, chunk_bytes), row_tree_init(&batch, 4096);
    row_tree_defer(&t, deferred), row_tree_defer(&batch, deferred);
    for (uint64_t seq = 1; seq <= 250; seq++) {
        row_tree_reset(&batch);
        for (unsigned i = (unsigned)test_random_below(&r, 40); i; i--) {
            uint32_t n = (uint32_t)test_random_next(&r);
            bool deleted = test_random_below(&r, 5) == 0;
            struct slice k = m.key_count && test_random_below(&r, 2) ? model_key(&m, (unsigned)test_random_below(&r, m.key_count)) : random_key(&r, key);
            memmove(key, k.data, k.len), k.data = key;
            assert_true(row_tree_put(&batch, k, value_of(n, value), deleted, 1, 0));
            const struct row *last = row_tree_find(&batch, k, UINT64_MAX);
            assert_true(last && last->deleted == deleted);
            model_put(&m, k, n, deleted, seq); /* several of one seq: the last is found first */
        }
        row_tree_verify(&batch);
        size_t before = t.bytes, most = row_tree_put_all_bytes(&t, &batch);
        assert_true(row_tree_put_all(&t, &batch, seq, newest_pinned));
        assert_true(t.bytes - before <= most);
        row_tree_verify(&t);
        if (test_random_below(&r, 4) == 0) pinned[test_random_below(&r, 3)] = newest_pinned = seq;
        if (test_random_below(&r, 9) == 0) pinned[0] = 0;
        newest_pinned = MAX_OF(pinned[0], MAX_OF(pinned[1], pinned[2]));
        if (seq % 5 || !m.key_count) continue;
        for (unsigned i = 0; i < 4; i++) {
            uint64_t view = i < 3 ? pinned[i] : UINT64_MAX;
            if (!view) continue;
            check_view(&t, &m, view, random_key(&r, key));
            check_view(&t, &m, view, model_key(&m, (unsigned)test_random_below(&r, m.key_count)));
        }
        check_ends(&t, &m);
        check_walk(&t, &m, 1 + (unsigned)test_random_below(&r, 40));
    }
    assert_true(t.height > 1);
    row_tree_fini(&t), row_tree_fini(&batch);
    assert_int_equal(t.bytes, 0);
}

static void test_random_lives_are_those_of_the_model(void **state) {
    const struct slice deferred[] = {{0}, SLICE_LIT("\1"), SLICE_LIT("\7\7\7"), SLICE_LIT("\0")};
    for (uint64_t seed = 1; seed <= 16; seed++) run_against_model(seed, seed % 3 ? 4096 : 1 << 20, deferred[seed % 4]);
}

/* So many deferred rows that segments double: all of them are found, in order, from any place and both ways, as old as a view wants them. Each key is put three times. */
static void test_a_high_pile(void **state) {
    enum { KEYS = 6000, BATCH = 50, ROUNDS = 3 };
    struct row_tree t, batch;
    const struct row *rows[ROW_TREE_READ_MAX];
    row_tree_init(&t, 4096), row_tree_init(&batch, 4096);
    row_tree_defer(&t, SLICE_LIT("d")), row_tree_defer(&batch, SLICE_LIT("d"));
    for (uint32_t n = 0; n < ROUNDS * KEYS; n += BATCH) {
        row_tree_reset(&batch);
        for (uint32_t i = n; i < n + BATCH; i++) {
            uint8_t key[32] = {'d'};
            put_be32(key + 28, (uint32_t)((uint64_t)i * 7919 % KEYS)); /* nothing but the row itself tells them apart */
            assert_true(row_tree_put(&batch, slice_of(key, sizeof key), SLICE_LIT(""), i / KEYS == 1, 1, 0));
        }
        assert_true(row_tree_put_all(&t, &batch, 1 + n / KEYS, 0));
    }
    row_tree_verify(&t);
    assert_int_equal(t.row_count, ROUNDS * KEYS);
    assert_true(row_tree_crowded(&t));
    for (uint64_t seq = 0; seq <= ROUNDS; seq++)
        for (uint32_t at = 0; at < KEYS; at += 977) {
            uint8_t key[32] = {'d'};
            put_be32(key + 28, at);
            unsigned above = row_tree_above(&t, slice_of(key, sizeof key), true, seq, rows, ROW_TREE_READ_MAX);
            assert_int_equal(above, seq ? MIN_OF(KEYS - at, (uint32_t)ROW_TREE_READ_MAX) : 0);
            for (unsigned i = 0; i < above; i++) assert_true(get_be32(row_key(rows[i]).data + 28) == at + i && rows[i]->seq == seq && rows[i]->deleted == (seq == 2));
            unsigned below = row_tree_below(&t, slice_of(key, sizeof key), false, seq, rows, ROW_TREE_READ_MAX);
            assert_int_equal(below, seq ? MIN_OF(at, (uint32_t)ROW_TREE_READ_MAX) : 0);
            for (unsigned i = 0; i < below; i++) assert_true(get_be32(row_key(rows[i]).data + 28) == at - 1 - i && rows[i]->seq == seq);
            const struct row *r = row_tree_find(&t, slice_of(key, sizeof key), seq);
            assert_true(seq ? r && r->seq == seq : !r);
        }
    row_tree_fini(&t), row_tree_fini(&batch);
    assert_int_equal(t.bytes, 0);
}

static void test_an_empty_tree_says_nothing(void **state) {
    struct row_tree t;
    const struct row *rows[1];
    row_tree_init(&t, 4096);
    assert_null(row_tree_find(&t, SLICE_LIT("a"), UINT64_MAX));
    assert_int_equal(row_tree_above(&t, (struct slice){0}, true, UINT64_MAX, rows, 1), 0);
    assert_int_equal(row_tree_below(&t, (struct slice){0}, true, UINT64_MAX, rows, 1), 0);
    row_tree_verify(&t);
    row_tree_fini(&t);
}

/* Ascending, descending, scattered, all with the same first eight bytes or none: deep trees. */
static void test_many_rows_in_any_order(void **state) {
    enum { ROWS = 60000 };
    for (unsigned order = 0; order < 4; order++) {
        struct row_tree t;
        row_tree_init(&t, 1 << 20);
        for (uint32_t i = 0; i < ROWS; i++) {
            uint32_t n = order == 0 ? i : order == 1 ? ROWS - 1 - i : (uint32_t)((uint64_t)i * 7919 % ROWS);
            uint8_t key[12] = {0};
            put_be32(key + (order == 3 ? 0 : 8), n);
            assert_true(row_tree_put(&t, slice_of(key, 12), slice_of(key, 12), false, i, 0));
        }
        row_tree_verify(&t);
        assert_int_equal(t.row_count, ROWS);
        uint32_t n = 0;
        const struct row *rows[64];
        struct slice from = {0};
        for (unsigned got; (got = row_tree_above(&t, from, false, UINT64_MAX, rows, 64)); from = row_key(rows[got - 1]))
            for (unsigned i = 0; i < got; i++, n++) assert_int_equal(get_be32(row_key(rows[i]).data + (order == 3 ? 0 : 8)), n);
        assert_int_equal(n, ROWS);
        row_tree_fini(&t);
    }
}

/* A hot row is written where it lies, unless somebody reads it. */
static void test_rewritten_rows_take_no_room(void **state) {
    struct row_tree t;
    row_tree_init(&t, 4096);
    assert_true(row_tree_put(&t, SLICE_LIT("hot"), SLICE_LIT("0"), false, 1, 0));
    const struct row *first = row_tree_find(&t, SLICE_LIT("hot"), UINT64_MAX);
    for (uint64_t seq = 2; seq < 10000; seq++) assert_true(row_tree_put(&t, SLICE_LIT("hot"), SLICE_LIT("1"), false, seq, 0));
    assert_ptr_equal(row_tree_find(&t, SLICE_LIT("hot"), UINT64_MAX), first);
    size_t bytes = t.bytes;
    assert_true(row_tree_put(&t, SLICE_LIT("hot"), SLICE_LIT("2"), false, 10001, 10000));
    assert_true(row_tree_put(&t, SLICE_LIT("hot"), (struct slice){0}, true, 10002, 10000));
    assert_slice(row_value(first), "1");
    assert_ptr_equal(row_tree_find(&t, SLICE_LIT("hot"), 10000), first);
    assert_true(row_tree_find(&t, SLICE_LIT("hot"), UINT64_MAX)->deleted);
    assert_int_equal(t.bytes, bytes);
    row_tree_fini(&t);
}

/* All of a batch or nothing. */
static void test_every_allocation_may_fail(void **state) {
    struct row_tree t, batch;
    row_tree_init(&t, 4096), row_tree_init(&batch, 4096);
    row_tree_defer(&t, SLICE_LIT("\1")), row_tree_defer(&batch, SLICE_LIT("\1"));
    unsigned failed = 0;
    for (unsigned round = 0; round < 60; round++) {
        uint8_t key[5], value[300] = {0};
        row_tree_reset(&batch);
        for (unsigned i = 0; i < 50; i++) {
            key[0] = i % 2, put_be32(key + 1, (i * 61 + round) * 2654435761u);
            mem_fail_nth(1 + i % 3);
            bool put = row_tree_put(&batch, slice_of(key, sizeof key), slice_of(value, sizeof value), false, 1, 0);
            mem_fail_nth(0);
            if (!put) assert_true(row_tree_put(&batch, slice_of(key, sizeof key), slice_of(value, sizeof value), false, 1, 0));
        }
        assert_int_equal(batch.row_count, 50);
        for (uint64_t n = 1;; n++, failed++) {
            size_t before = t.row_count;
            mem_fail_nth(n);
            bool put = row_tree_put_all(&t, &batch, round + 1, 0);
            mem_fail_nth(0);
            row_tree_verify(&t);
            if (put) break;
            assert_int_equal(t.row_count, before);
        }
    }
    assert_true(failed > 20);
    row_tree_fini(&t), row_tree_fini(&batch);
}

/* What a tree leaves is the next one's memory: no more of it than is allowed, and none is lost. */
static void test_blocks_go_from_tree_to_tree(void **state) {
    enum { ROWS = 3000, KEPT = 3 };
    struct row_spares spares;
    row_spares_init(&spares);
    row_spares_allow(&spares, KEPT * (size_t)MEM_HUGE_BYTES + 1);
    static const uint8_t value[2000];
    for (unsigned round = 0; round < 3; round++) {
        struct row_tree t;
        row_tree_init(&t, MEM_HUGE_BYTES);
        t.spares = &spares;
        uint64_t before = mem_count();
        for (unsigned i = 0; i < ROWS; i++) {
            uint8_t key[4];
            put_be32(key, i * 2654435761u);
            assert_true(row_tree_put(&t, slice_of(key, 4), slice_of(value, sizeof value), false, 1, 0));
        }
        row_tree_verify(&t);
        size_t blocks = t.bytes / MEM_HUGE_BYTES;
        assert_true(blocks > KEPT);
        assert_int_equal(spares.count, 0);
        assert_int_equal(mem_count() - before, round ? blocks - KEPT : blocks);
        row_tree_fini(&t);
        assert_int_equal(spares.count, KEPT);
    }
    row_spares_disallow(&spares, KEPT * (size_t)MEM_HUGE_BYTES + 1);
    assert_int_equal(spares.count, 0);
    row_spares_fini(&spares);
}

static void count_low(void *ctx) { ++*(unsigned *)ctx; }

/* Blocks are made ready from the first that a tree takes on, as many as were asked for and are allowed; whoever takes one says when there are fewer. */
static void test_blocks_are_made_ready(void **state) {
    enum { READY = 2, KEPT = 3 };
    struct row_spares spares;
    struct row_tree t;
    unsigned low = 0, made = 0;
    static const uint8_t value[2000];
    row_spares_init(&spares);
    row_spares_make_ready(&spares, READY, count_low, &low);
    assert_false(row_spares_add(&spares)); /* nobody has asked for any */
    row_tree_init(&t, MEM_HUGE_BYTES);
    t.spares = &spares;
    for (unsigned i = 0; i < 3000; i++) {
        uint8_t key[4];
        put_be32(key, i);
        uint64_t before = mem_count();
        unsigned was = low;
        assert_true(row_tree_put(&t, slice_of(key, 4), slice_of(value, sizeof value), false, 1, 0));
        if (i == 0) assert_int_equal(low, 0); /* none is allowed yet */
        if (i == 0) row_spares_allow(&spares, KEPT * (size_t)MEM_HUGE_BYTES);
        if (low == was) continue;
        assert_int_equal(mem_count() - before, made ? 0 : 1); /* a ready one, but for the first */
        while (row_spares_add(&spares)) made++;
        assert_int_equal(spares.count, READY);
    }
    assert_true(low > 1);
    assert_int_equal(made, low - 1 + READY);
    row_tree_verify(&t);
    row_tree_fini(&t);
    assert_int_equal(spares.count, KEPT);
    mem_fail_nth(1);
    row_spares_disallow(&spares, KEPT * (size_t)MEM_HUGE_BYTES);
    row_spares_allow(&spares, MEM_HUGE_BYTES); /* fewer than are asked for */
    assert_false(row_spares_add(&spares)); /* no memory */
    assert_true(row_spares_add(&spares));
    assert_false(row_spares_add(&spares));
    row_spares_disallow(&spares, MEM_HUGE_BYTES);
    row_spares_fini(&spares);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_lives_are_those_of_the_model),
        cmocka_unit_test(test_an_empty_tree_says_nothing),
        cmocka_unit_test(test_many_rows_in_any_order),
        cmocka_unit_test(test_a_high_pile),
        cmocka_unit_test(test_rewritten_rows_take_no_room),
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_blocks_go_from_tree_to_tree),
        cmocka_unit_test(test_blocks_are_made_ready),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
