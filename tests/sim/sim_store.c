/* Random operation sequences on both stores against a model that is plain to see: an array of all keys that may exist, in order, and a
 * value number for each. Batches with read-your-writes, rows kept in a small cache or not, snapshots, iterators of every kind of view, flushes, closes without a flush.
 * sim_store [--seed N]: that seed alone, on both stores. A failure names its seed. */
#include <unistd.h>

#include "tests/lib/store_world.h"

enum { KEYS = 160, OPS = 400, SNAPSHOTS = 3, ITERATORS = 3, SEEDS_MEM = 600, SEEDS_ROCKS = 60, PAD_MAX = 300 };

struct keyspace {
    uint8_t bytes[KEYS][6];
    size_t len[KEYS];
};
struct state { /* 0: absent; else the value's number */
    uint32_t value[KEYS];
};
struct model_iter {
    struct store_iter *it;
    struct state state; /* what it sees, for good */
    bool of_batch;
    uint8_t lower[6], upper[6];
    size_t lower_len, upper_len;
    int at; /* index, -1: not valid */
};
struct sim {
    struct world *world;
    struct test_random random;
    struct keyspace keys;
    struct state now, flushed;
    struct store_batch *batch;
    bool touched[KEYS]; /* by the batch */
    struct state batch_values;
    struct store_snapshot *snapshots[SNAPSHOTS];
    struct state snapshot_states[SNAPSHOTS];
    struct model_iter iters[ITERATORS];
    uint32_t values; /* given out */
};

static uint64_t below(struct sim *s, uint64_t n) { return test_random_below(&s->random, n); }

/* ---- keys and values */

static size_t random_key(struct sim *s, uint8_t out[6]) {
    static const uint8_t alphabet[] = {0, 'a', 'b', 0xff};
    size_t len = 1 + below(s, 5);
    for (size_t i = 0; i < len; i++) out[i] = alphabet[below(s, sizeof alphabet)];
    return len;
}
static struct slice key_at(const struct sim *s, int i) { return slice_of(s->keys.bytes[i], s->keys.len[i]); }
static void keyspace_fill(struct sim *s) {
    for (int n = 0; n < KEYS;) {
        uint8_t key[6];
        size_t len = random_key(s, key);
        int i = n;
        while (i > 0 && slice_compare(slice_of(key, len), key_at(s, i - 1)) <= 0) i--;
        if (i < n && slice_equal(slice_of(key, len), key_at(s, i))) continue;
        memmove(s->keys.bytes[i + 1], s->keys.bytes[i], (size_t)(n - i) * sizeof s->keys.bytes[0]);
        memmove(&s->keys.len[i + 1], &s->keys.len[i], (size_t)(n - i) * sizeof s->keys.len[0]);
        memcpy(s->keys.bytes[i], key, len), s->keys.len[i] = len;
        n++;
    }
}
static struct slice value_of(uint32_t number, uint8_t out[4 + PAD_MAX]) {
    put_be32(out, number);
    memset(out + 4, (int)number, PAD_MAX);
    return slice_of(out, 4 + number * 7 % PAD_MAX);
}
static struct state batch_state(const struct sim *s) {
    struct state st = s->now;
    for (int i = 0; i < KEYS; i++)
        if (s->touched[i]) st.value[i] = s->batch_values.value[i];
    return st;
}

/* For bounds and seeks: most are keys that may exist, and of these most the batch has touched. */
static size_t random_place(struct sim *s, uint8_t out[6]) {
    if (below(s, 3) == 0) return random_key(s, out);
    size_t i = below(s, KEYS);
    for (int tries = 20; tries && !s->touched[i]; tries--) i = below(s, KEYS);
    memcpy(out, s->keys.bytes[i], sizeof s->keys.bytes[i]);
    return s->keys.len[i];
}

/* ---- views: half of them the batch's */

static struct store_view random_view(struct sim *s, struct state *state) {
    struct store_view v = newest(s->world);
    unsigned i = (unsigned)below(s, SNAPSHOTS);
    *state = s->now;
    if (below(s, 2)) v.batch = s->batch, *state = batch_state(s);
    else if (below(s, 2) && s->snapshots[i]) v.snapshot = s->snapshots[i], *state = s->snapshot_states[i];
    return v;
}

static void op_get(struct sim *s) {
    struct state state;
    struct store_view v = random_view(s, &state);
    int i = (int)below(s, KEYS);
    uint8_t want[4 + PAD_MAX];
    struct slice value;
    enum status st = below(s, 2) ? store_get_cached(&v, key_at(s, i), &s->world->arena, &value) : STATUS_WOULD_BLOCK;
    if (st == STATUS_WOULD_BLOCK) st = store_get(&v, key_at(s, i), &s->world->arena, &value);
    assert_int_equal(st, state.value[i] ? STATUS_OK : STATUS_ABSENT);
    if (!st) assert_true(slice_equal(value, value_of(state.value[i], want)));
    arena_reset(&s->world->arena);
}

/* ---- iterators */

static void iter_close(struct model_iter *m) {
    store_iter_close(m->it);
    m->it = NULL;
}
static void iters_of_batch_close(struct sim *s) {
    for (int i = 0; i < ITERATORS; i++)
        if (s->iters[i].it && s->iters[i].of_batch) iter_close(&s->iters[i]);
}
static bool inside(const struct sim *s, const struct model_iter *m, int i) {
    return m->state.value[i] && slice_compare(key_at(s, i), slice_of(m->lower, m->lower_len)) >= 0 &&
           (!m->upper_len || slice_compare(key_at(s, i), slice_of(m->upper, m->upper_len)) < 0);
}
static int step(const struct sim *s, const struct model_iter *m, int from, int by) {
    for (; from >= 0 && from < KEYS; from += by)
        if (inside(s, m, from)) return from;
    return -1;
}
static void iter_check(struct sim *s, struct model_iter *m) {
    uint8_t want[4 + PAD_MAX];
    assert_int_equal(store_iter_status(m->it), STATUS_OK);
    assert_int_equal(store_iter_valid(m->it), m->at >= 0);
    if (m->at < 0) return;
    assert_true(slice_equal(store_iter_key(m->it), key_at(s, m->at)));
    assert_true(slice_equal(store_iter_value(m->it), value_of(m->state.value[m->at], want)));
    struct store_view v = newest(s->world);
    if (m->state.value[m->at] == s->now.value[m->at]) store_keep(&v, store_iter_key(m->it), store_iter_value(m->it)); /* it is what the newest state says */
}
static void iter_move(struct sim *s, struct model_iter *m) {
    uint8_t key[6];
    size_t len = random_place(s, key);
    int i = 0;
    for (unsigned moves = 1 + (unsigned)below(s, 8); moves; moves--) {
        switch (below(s, m->at >= 0 ? 9 : 4)) {
        case 0: store_iter_first(m->it), m->at = step(s, m, 0, 1); break;
        case 1: store_iter_last(m->it), m->at = step(s, m, KEYS - 1, -1); break;
        case 2:
            for (i = 0; i < KEYS && slice_compare(key_at(s, i), slice_of(key, len)) < 0;) i++;
            store_iter_seek(m->it, slice_of(key, len)), m->at = step(s, m, i, 1);
            break;
        case 3:
            for (i = KEYS - 1; i >= 0 && slice_compare(key_at(s, i), slice_of(key, len)) > 0;) i--;
            store_iter_seek_back(m->it, slice_of(key, len)), m->at = step(s, m, i, -1);
            break;
        case 4: case 5: case 6: store_iter_next(m->it), m->at = step(s, m, m->at + 1, 1); break;
        default: store_iter_prev(m->it), m->at = step(s, m, m->at - 1, -1); break;
        }
        iter_check(s, m);
    }
}
static void op_iter_open(struct sim *s) {
    struct model_iter *m = &s->iters[below(s, ITERATORS)];
    if (m->it) iter_close(m);
    struct store_view v = random_view(s, &m->state);
    m->of_batch = v.batch != NULL;
    m->lower_len = below(s, 3) ? random_place(s, m->lower) : 0;
    m->upper_len = below(s, 3) ? random_place(s, m->upper) : 0;
    struct slice lower = slice_of(m->lower, m->lower_len), upper = slice_of(m->upper, m->upper_len);
    if (upper.len && slice_compare(lower, upper) > 0) m->upper_len = 0, upper.len = 0;
    m->it = store_iter_open(&v, lower, upper);
    m->at = -1;
    assert_non_null(m->it);
    iter_move(s, m);
}
static void op_iter_move(struct sim *s) {
    struct model_iter *m = &s->iters[below(s, ITERATORS)];
    if (m->it) iter_move(s, m);
}

/* ---- writes */

static void op_write(struct sim *s) {
    uint8_t value[4 + PAD_MAX];
    iters_of_batch_close(s);
    for (unsigned n = 1 + (unsigned)below(s, 6); n; n--) {
        int i = (int)below(s, KEYS);
        s->touched[i] = true;
        if (below(s, 3)) {
            s->batch_values.value[i] = ++s->values;
            store_batch_put(s->batch, key_at(s, i), value_of(s->values, value));
        } else {
            s->batch_values.value[i] = 0;
            store_batch_delete(s->batch, key_at(s, i));
        }
    }
}
static void op_clear(struct sim *s) {
    iters_of_batch_close(s);
    store_batch_clear(s->batch);
    memset(s->touched, 0, sizeof s->touched);
}
static void op_apply(struct sim *s) {
    struct state after = batch_state(s);
    assert_int_equal(store_apply(s->world->store, s->batch), STATUS_OK);
    s->now = after;
    if (below(s, 4)) op_clear(s); /* else its rows stay, and lie over what comes */
}
/* A second batch, applied past the first. */
static void op_apply_other(struct sim *s) {
    struct store_batch *mine = s->batch;
    bool touched[KEYS];
    struct state values = s->batch_values;
    memcpy(touched, s->touched, sizeof touched);
    s->batch = store_batch_new(s->world->store);
    memset(s->touched, 0, sizeof s->touched);
    bool kept[ITERATORS];
    for (int i = 0; i < ITERATORS; i++) kept[i] = s->iters[i].of_batch, s->iters[i].of_batch = false; /* of the first batch: they stay good */
    op_write(s);
    s->now = batch_state(s);
    assert_int_equal(store_apply(s->world->store, s->batch), STATUS_OK);
    store_batch_free(s->batch);
    for (int i = 0; i < ITERATORS; i++) s->iters[i].of_batch = kept[i];
    s->batch = mine;
    s->batch_values = values;
    memcpy(s->touched, touched, sizeof touched);
}
static void op_snapshot(struct sim *s) {
    unsigned i = (unsigned)below(s, SNAPSHOTS);
    for (int j = 0; j < ITERATORS && s->snapshots[i]; j++)
        if (s->iters[j].it) iter_close(&s->iters[j]); /* they may look through it */
    store_snapshot_put(s->world->store, s->snapshots[i]);
    s->snapshots[i] = below(s, 4) ? store_snapshot_get(s->world->store) : NULL;
    s->snapshot_states[i] = s->now;
}
static void op_flush(struct sim *s) {
    assert_int_equal(store_flush(s->world->store), STATUS_OK);
    s->flushed = s->now;
}

static void sim_release(struct sim *s) {
    for (int i = 0; i < ITERATORS; i++)
        if (s->iters[i].it) iter_close(&s->iters[i]);
    for (int i = 0; i < SNAPSHOTS; i++) store_snapshot_put(s->world->store, s->snapshots[i]), s->snapshots[i] = NULL;
    store_batch_free(s->batch);
    s->batch = NULL;
}
/* The memtables are far larger than what a run writes: nothing becomes durable but by a flush. */
static void op_crash(struct sim *s) {
    sim_release(s);
    world_reopen(s->world);
    s->now = s->flushed;
    s->batch = store_batch_new(s->world->store);
    memset(s->touched, 0, sizeof s->touched);
}

static void sim_run(bool rocks, uint64_t seed) {
    struct sim *s = mem_new(struct sim);
    static const char prefixes[] = {'a', 0, (char)0xff};
    s->world = world_new(rocks);
    if (seed % 4) s->world->deferred = slice_of(&prefixes[seed % 4 - 1], 1);
    if (seed / 4 % 3) s->world->cache_bytes = seed / 4 % 3 == 1 ? STORE_CACHE_BYTES_MIN : 4 * STORE_CACHE_BYTES_MIN; /* some of the values are too large for it, and it is always full; or it holds half of all */
    s->random.state = seed * 0x9e3779b97f4a7c15ull | 1;
    keyspace_fill(s);
    world_open(s->world);
    s->batch = store_batch_new(s->world->store);
    for (unsigned i = 0; i < OPS; i++) {
        uint64_t dice = below(s, 100);
        if (dice < 20) op_write(s);
        else if (dice < 40) op_get(s);
        else if (dice < 50) op_iter_open(s);
        else if (dice < 75) op_iter_move(s);
        else if (dice < 85) op_apply(s);
        else if (dice < 90) op_apply_other(s);
        else if (dice < 92) op_clear(s);
        else if (dice < 96) op_snapshot(s);
        else if (dice < 99) op_flush(s);
        else op_crash(s);
    }
    sim_release(s);
    world_free(s->world);
    mem_free(s);
}

static uint64_t seed_only, seed_now[2]; /* [rocks]; 0: none is running */
static void run_seeds(bool rocks, uint64_t seeds) {
    uint64_t last = seed_only ? seed_only : seeds;
    for (seed_now[rocks] = seed_only ? seed_only : 1; seed_now[rocks] <= last; seed_now[rocks]++) sim_run(rocks, seed_now[rocks]);
    seed_now[rocks] = 0;
}
static void test_store_mem_agrees_with_the_model(void **state) { run_seeds(false, SEEDS_MEM); }
static void test_store_rocks_agrees_with_the_model(void **state) { run_seeds(true, SEEDS_ROCKS); }

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--seed") == 0) seed_only = strtoull(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store_mem_agrees_with_the_model),
        cmocka_unit_test(test_store_rocks_agrees_with_the_model),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int rocks = 0; rocks < 2; rocks++)
        if (seed_now[rocks]) fprintf(stderr, "%s: sim_store --seed %lu\n", rocks ? "RocksDB" : "memory", (unsigned long)seed_now[rocks]);
    return failed;
}
