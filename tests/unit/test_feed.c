/* engine/feed.h: what apply writes is what readers read, wherever they begin, from the tail and from the store. Random lives: a small model (every event as it was first
 * seen) against reads of all kinds. What waits and what retention does in an engine: test_engine_feed.c. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"
#include "tests/lib/apply_fixture.h"

enum { EVENTS_MAX = 2000, USERS = 5 };

/* ---- writing */

static unsigned requests;
static int64_t orders[EVENTS_MAX];
static unsigned order_count;

#define NEW(type, init) ({ type *m_ = arena_new(&arena, type); check(m_); init(m_); m_; })
static char *text(const char *s) { return arena_printf(&arena, "%s", s); }

static struct slice create(const char *user, size_t extension_bytes)
{
    struct checked out;
    struct failure f;
    Orderdb__V1__CreateOrderRequest *m = NEW(Orderdb__V1__CreateOrderRequest, orderdb__v1__create_order_request__init);
    m->order = NEW(Orderdb__V1__Order, orderdb__v1__order__init);
    m->order->user_id = text(user);
    m->order->merchant_id = text("m7");
    m->order->extension = (ProtobufCBinaryData){extension_bytes, arena_zalloc(&arena, extension_bytes + 1)};
    m->order->items = arena_alloc(&arena, sizeof(void *));
    m->order->items[0] = NEW(Orderdb__V1__OrderItem, orderdb__v1__order_item__init);
    m->order->n_items = 1;
    m->order->items[0]->sku_id = text("sku");
    m->order->items[0]->quantity = 1;
    m->order->items[0]->unit_price = NEW(Orderdb__V1__Money, orderdb__v1__money__init);
    m->order->items[0]->unit_price->currency_code = text("CNY");
    m->options = NEW(Orderdb__V1__WriteOptions, orderdb__v1__write_options__init);
    m->options->request_id = arena_printf(&arena, "request-%016u", ++requests);
    failure_init(&f, &arena);
    assert_true(check_create(m, (struct slice){0}, &arena, &out, &f));
    return out.command;
}

static struct slice transition(int64_t order_id, const char *event)
{
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = order_id, .event = slice_str(event)}};
    struct slice s = command_encode(&c, &arena);
    assert_non_null(s.data);
    return s;
}

static struct slice retain(uint64_t first_place, uint64_t first_time_us)
{
    struct command c = {.type = COMMAND_RETAIN, .retain = {first_place, first_time_us}};
    return command_encode(&c, &arena);
}

static void apply_all(const struct slice *commands, unsigned n, struct outcome *o)
{
    now_us += 1000;
    assert_int_equal(rig_apply(&rig, now_us, commands, n, &arena, o), STATUS_OK);
}

static int64_t apply_create(const char *user, size_t extension_bytes)
{
    struct outcome o;
    struct slice c = create(user, extension_bytes);
    apply_all(&c, 1, &o);
    assert_int_equal(o.status, STATUS_OK);
    return o.head.order_id;
}

/* ---- reading */

static struct arena answers;

static struct feed_read read_all(bool tail)
{
    static struct failure f;
    failure_init(&f, &answers);
    return (struct feed_read){.view = rig_view(&rig), .machines = ms, .arena = &answers, .tail = tail ? &rig.tail : NULL, .kept = rig.kept,
                              .last_index = rig.record.applied_index, .failure = &f};
}

static Orderdb__V1__ReadChangesResponse *unpack(struct slice wire)
{
    Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, wire.len, wire.data);
    assert_non_null(m);
    return m;
}

struct told { /* the stream, as a reader put it together */
    unsigned n;
    char id[EVENTS_MAX][32];
    uint32_t hash[EVENTS_MAX];
};

static void tell(struct told *t, const Orderdb__V1__ReadChangesResponse *m)
{
    static uint8_t bytes[2 << 20];
    for (size_t i = 0; i < m->n_events; i++) {
        check(t->n < EVENTS_MAX);
        snprintf(t->id[t->n], sizeof t->id[0], "%s", m->events[i]->event_id);
        check(orderdb__v1__change_event__get_packed_size(m->events[i]) <= sizeof bytes);
        t->hash[t->n++] = crc32c(0, bytes, orderdb__v1__change_event__pack(m->events[i], bytes));
    }
}

/* To the end, in runs of at most bytes_max. */
static void read_to_end(struct feed_request *r, bool tail, struct told *t)
{
    do {
        struct slice answer;
        arena_reset(&answers);
        struct feed_read f = read_all(tail);
        assert_int_equal(feed_read(&f, r, &answer), STATUS_OK);
        Orderdb__V1__ReadChangesResponse *m = unpack(answer);
        assert_int_equal(m->n_events, r->events);
        if (r->events > 1) assert_true(answer.len <= r->bytes_max);
        tell(t, m);
        orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    } while (!r->at_end);
}

static int open_feed(void **state)
{
    arena_init(&answers, 64 << 20);
    order_count = requests = 0;
    return open_rig(state);
}
static int close_feed(void **state)
{
    arena_fini(&answers);
    return close_rig(state);
}

static struct told *told_new(void) { return mem_new(struct told); }

static void a_life_of(unsigned entries, uint64_t seed)
{
    struct test_random random = {seed};
    const char *const events[] = {"pay", "ship", "deliver", "cancel"};
    for (unsigned i = 0; i < entries; i++) {
        struct slice commands[8];
        struct outcome o[8];
        unsigned n = 1 + (unsigned)test_random_below(&random, 8);
        for (unsigned k = 0; k < n; k++) {
            bool make = !order_count || test_random_below(&random, 3) == 0;
            size_t extension = test_random_below(&random, 10) == 0 ? test_random_below(&random, 20000) : test_random_below(&random, 200);
            if (make) commands[k] = create(arena_printf(&arena, "user-%u", (unsigned)test_random_below(&random, USERS)), extension);
            else commands[k] = transition(orders[test_random_below(&random, order_count)], events[test_random_below(&random, ARRAY_LEN(events))]);
        }
        apply_all(commands, n, o);
        for (unsigned k = 0; k < n; k++)
            if (!o[k].status && o[k].entry.version == 1) orders[order_count++] = o[k].head.order_id;
    }
}

/* ---- tests */

static void every_commit_is_told_once_in_order(void **state)
{
    struct told *t = told_new();
    a_life_of(100, 1);
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 64 * KIB};
    read_to_end(&r, false, t);
    assert_true(t->n > 200);
    int64_t last[SLOT_COUNT] = {0};
    for (unsigned i = 0; i < t->n; i++) {
        unsigned slot;
        long long seq;
        assert_int_equal(sscanf(t->id[i], "%u:%lld", &slot, &seq), 2);
        assert_int_equal(seq, last[slot] + 1); /* dense */
        last[slot] = seq;
    }
    for (unsigned u = 0; u < USERS; u++) {
        struct key k;
        struct slice row;
        struct slot_record record;
        struct store_view view = rig_view(&rig);
        uint16_t slot = slot_of_user(slice_str(arena_printf(&arena, "user-%u", u)));
        key_slot(&k, slot);
        assert_int_equal(store_get(&view, key_slice(&k), &arena, &row), STATUS_OK);
        assert_int_equal(slot_record_decode(row, &record), STATUS_OK);
        assert_int_equal(record.last_seq, last[slot]); /* and all of them */
    }
    mem_free(t);
}

static void what_is_told_never_changes(void **state)
{
    struct told *first = told_new(), *again = told_new();
    a_life_of(60, 2);
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 1 * MIB}, from_start = r;
    read_to_end(&r, false, first);
    unsigned n = first->n;
    a_life_of(60, 3); /* orders move on: what was told of them by reference too must stay */
    read_to_end(&r, false, first);
    rig_flush(&rig);
    rig_crash(&rig);
    read_to_end(&from_start, false, again);
    assert_true(first->n > n);
    assert_int_equal(first->n, again->n);
    assert_memory_equal(first->id, again->id, sizeof first->id);
    assert_memory_equal(first->hash, again->hash, sizeof first->hash);
    mem_free(first);
    mem_free(again);
}

static void the_tail_tells_what_the_store_does(void **state)
{
    struct told *store = told_new(), *tail = told_new();
    a_life_of(200, 4);
    assert_true(rig.tail.complete_from > 20); /* it has lost the oldest */
    assert_true(rig.tail.bytes <= rig.tail.bytes_max);
    struct feed_request a = {.at = {.index = rig.tail.complete_from}, .payload = FEED_FULL, .bytes_max = 4000}, b = a;
    read_to_end(&a, false, store);
    read_to_end(&b, true, tail);
    assert_true(tail->n > 10);
    assert_int_equal(store->n, tail->n);
    assert_memory_equal(store->hash, tail->hash, sizeof tail->hash);
    assert_memory_equal(&a.at, &b.at, sizeof a.at);
    mem_free(store);
    mem_free(tail);
}

static void the_tail_finds_any_place(void **state)
{
    a_life_of(200, 6);
    const struct feed_tail *t = &rig.tail;
    assert_true(t->count > 10);
    assert_true(t->first > 0); /* it has gone round, or will */
    for (uint64_t index = 0; index <= rig.record.applied_index + 1; index++)
        for (uint32_t block = 0; block < 3; block++) {
            size_t want = 0;
            while (want < t->count && (feed_tail_block(t, want)->index < index || (feed_tail_block(t, want)->index == index && feed_tail_block(t, want)->block < block))) want++;
            assert_int_equal(feed_tail_find(t, index, block), want);
        }
}

static void take_blocks(struct feed_tail *t, uint64_t index, unsigned n)
{
    struct feed_writer w;
    feed_writer_init(&w);
    for (unsigned i = 0; i < n; i++) {
        struct feed_block *b = mem_zalloc(sizeof *b + 8);
        assert_non_null(b);
        *b = (struct feed_block){.index = index, .block = (uint16_t)i, .bytes = 8};
        list_push_back(&w.closed, &b->link);
    }
    feed_tail_take(t, &w, index);
    assert_true(list_empty(&w.closed));
    assert_int_equal(w.count, 0);
    feed_writer_fini(&w);
}

static void a_tail_without_memory_begins_again(void **state)
{
    struct feed_tail t;
    feed_tail_init(&t, 1 << 20);
    for (uint64_t index = 7; index < 7 + 64; index++) take_blocks(&t, index, 1);
    assert_int_equal(t.count, 64);
    assert_int_equal(t.complete_from, 7);
    struct feed_writer w;
    feed_writer_init(&w);
    struct feed_block *b = mem_zalloc(sizeof *b);
    b->index = 71;
    list_push_back(&w.closed, &b->link);
    mem_fail_nth(1);
    feed_tail_take(&t, &w, 71);
    mem_fail_nth(0);
    assert_true(list_empty(&w.closed));
    assert_int_equal(t.count, 0);
    assert_int_equal(t.bytes, 0);
    assert_int_equal(t.complete_from, 0);
    take_blocks(&t, 72, 100);
    assert_int_equal(t.count, 100); /* grown in order */
    for (unsigned i = 0; i < 100; i++) assert_int_equal(feed_tail_block(&t, i)->block, i);
    assert_int_equal(t.complete_from, 72);
    feed_tail_clear(&t);
    assert_int_equal(t.bytes, 0);
    assert_null(t.blocks);
}

static void runs_of_any_size_tell_the_same(void **state)
{
    struct told *whole = told_new();
    a_life_of(80, 5);
    struct feed_request all = {.payload = FEED_SUMMARY, .bytes_max = 4 * MIB};
    read_to_end(&all, false, whole);
    const size_t sizes[] = {1, 500, 3000, 50000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct told *t = told_new();
        struct feed_request r = {.payload = FEED_SUMMARY, .bytes_max = sizes[i], .events_max = i == 2 ? 3 : 0};
        read_to_end(&r, i % 2, t);
        assert_int_equal(t->n, whole->n);
        assert_memory_equal(t->hash, whole->hash, sizeof t->hash);
        mem_free(t);
    }
    mem_free(whole);
}

static void who_is_behind_gets_the_rest_of_each_slot(void **state)
{
    static int64_t behind[SLOT_COUNT];
    struct told *whole = told_new(), *rest = told_new();
    a_life_of(80, 6);
    struct feed_request all = {.payload = FEED_FULL, .bytes_max = 1 * MIB};
    read_to_end(&all, false, whole);
    memset(behind, 0, sizeof behind);
    for (unsigned i = 0; i < whole->n; i++) {
        unsigned slot;
        long long seq;
        (void)sscanf(whole->id[i], "%u:%lld", &slot, &seq);
        if (seq % 3 == 0 && seq < 20) behind[slot] = seq;
    }
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 1 * MIB, .behind = memcpy(arena_alloc(&arena, sizeof behind), behind, sizeof behind)};
    read_to_end(&r, false, rest);
    unsigned k = 0;
    for (unsigned i = 0; i < whole->n; i++) {
        unsigned slot;
        long long seq;
        (void)sscanf(whole->id[i], "%u:%lld", &slot, &seq);
        if (seq <= behind[slot]) continue;
        assert_string_equal(rest->id[k], whole->id[i]);
        assert_true(r.behind[slot] >= seq);
        k++;
    }
    assert_int_equal(k, rest->n);
    mem_free(whole);
    mem_free(rest);
}

static void one_user_is_read_alone(void **state)
{
    struct told *t = told_new();
    a_life_of(60, 7);
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 1 * MIB, .user_id = SLICE_LIT("user-3"), .slot = slot_of_user(SLICE_LIT("user-3"))};
    struct slice answer;
    struct feed_read f = read_all(false);
    assert_int_equal(feed_read(&f, &r, &answer), STATUS_OK);
    Orderdb__V1__ReadChangesResponse *m = unpack(answer);
    assert_true(m->n_events > 10);
    for (size_t i = 0; i < m->n_events; i++) assert_string_equal(m->events[i]->user_id, "user-3");
    orderdb__v1__read_changes_response__free_unpacked(m, NULL);
    mem_free(t);
}

static struct slot_record slot_now(uint16_t slot)
{
    struct key k;
    struct slice row;
    struct slot_record record;
    struct store_view view = rig_view(&rig);
    key_slot(&k, slot);
    assert_int_equal(store_get(&view, key_slice(&k), &arena, &row), STATUS_OK);
    assert_int_equal(slot_record_decode(row, &record), STATUS_OK);
    return record;
}

static void every_seq_has_its_place(void **state)
{
    struct store_view view = rig_view(&rig);
    int64_t id = apply_create("alice", 10);
    uint16_t slot = slot_of_user(SLICE_LIT("alice"));
    uint64_t first = rig.record.applied_index, place;
    (void)id;
    for (int i = 0; i < 99; i++) apply_create("alice", 10);
    struct slot_record record = slot_now(slot);
    assert_int_equal(record.last_seq, 100);
    for (int64_t seq = 1; seq <= 100; seq++) {
        assert_int_equal(feed_place(&view, &arena, slot, seq, record.last_seq, &record.places, &rig.kept, &place), STATUS_OK);
        assert_int_equal(place, first + (uint64_t)seq - 1);
    }
    assert_int_equal(feed_place(&view, &arena, slot, 101, record.last_seq, &record.places, &rig.kept, &place), STATUS_ABSENT);
    assert_int_equal(feed_place(&view, &arena, slot, 0, record.last_seq, &record.places, &rig.kept, &place), STATUS_ABSENT);
}

static void a_time_is_found_exactly(void **state)
{
    uint64_t times[50];
    for (int i = 0; i < 50; i++) {
        apply_create("alice", 10);
        times[i] = now_us;
        if (i % 7 == 0) apply_all(NULL, 0, NULL); /* an entry without events */
    }
    for (int i = 0; i < 50; i++) {
        struct feed_request r = {.payload = FEED_FULL, .bytes_max = 256 * KIB};
        arena_reset(&answers);
        struct feed_read f = read_all(false);
        struct slice answer;
        assert_int_equal(feed_seek_time(&f, times[i], &r.at), STATUS_OK);
        assert_int_equal(feed_read(&f, &r, &answer), STATUS_OK);
        assert_int_equal(r.events, 50 - i);
        assert_int_equal(feed_seek_time(&f, times[i] + 1, &r.at), STATUS_OK);
        assert_int_equal(feed_read(&f, &r, &answer), STATUS_OK);
        assert_int_equal(r.events, 49 - i);
    }
}

static void what_is_let_go_is_said(void **state)
{
    uint16_t slot = slot_of_user(SLICE_LIT("alice"));
    struct store_view view = rig_view(&rig);
    uint64_t place;
    int64_t seq;
    for (int i = 0; i < 60; i++) apply_create("alice", 10);
    uint64_t edge = rig.record.applied_index - 20; /* seqs 40 to 60 are kept */
    struct slice c = retain(edge, now_us - 20000);
    apply_all(&c, 1, NULL);
    assert_int_equal(rig.kept.first_place, edge);
    struct slot_record record = slot_now(slot);
    assert_int_equal(feed_place(&view, &arena, slot, 39, record.last_seq, &record.places, &rig.kept, &place), STATUS_ABSENT);
    assert_int_equal(feed_place(&view, &arena, slot, 40, record.last_seq, &record.places, &rig.kept, &place), STATUS_OK);
    assert_int_equal(feed_first_kept(&view, &arena, slot, record.last_seq, &record.places, &rig.kept, &seq), STATUS_OK);
    assert_int_equal(seq, 40);
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 1 * MIB};
    struct slice answer;
    struct feed_read f = read_all(false);
    assert_int_equal(feed_read(&f, &r, &answer), STATUS_CURSOR_EXPIRED);
    assert_int_equal(r.at.index, 0);
    r.at.index = edge;
    assert_int_equal(feed_read(&f, &r, &answer), STATUS_OK);
    assert_int_equal(r.events, 21);

    struct slice back = retain(edge - 5, now_us); /* it only moves on */
    apply_all(&back, 1, NULL);
    assert_int_equal(rig.kept.first_place, edge);
    struct slice ahead = retain(rig.record.applied_index + 100, now_us);
    apply_all(&ahead, 1, NULL);
    assert_int_equal(rig.kept.first_place, edge);

    /* The rows of what was let go are dropped, after a flush, and nothing else is missed. */
    struct key lower, upper;
    rig_flush(&rig);
    key_events(&lower, 0, 0), key_events(&upper, edge, 0);
    store_drop_range(rig.store, key_slice(&lower), key_slice(&upper));
    rig_crash(&rig);
    assert_int_equal(rig.kept.first_place, edge);
    view = rig_view(&rig);
    assert_int_equal(feed_first_kept(&view, &arena, slot, record.last_seq, &record.places, &rig.kept, &seq), STATUS_OK);
    assert_int_equal(seq, 40);
    f = read_all(false);
    r.at = (struct feed_position){.index = edge};
    assert_int_equal(feed_read(&f, &r, &answer), STATUS_OK);
    assert_int_equal(r.events, 21);
}

static void a_dry_run_tells_nobody(void **state)
{
    apply_create("alice", 10);
    struct slice c = create("alice", 10);
    struct outcome o;
    struct apply a = {.view = {.store = rig.store, .batch = rig.batch}, .machines = ms, .record = rig.record, .scratch = &rig.scratch};
    store_batch_clear(rig.batch);
    apply_begin(&a, now_us + 1);
    arena_reset(&rig.scratch);
    assert_int_equal(apply_command(&a, c, &arena, &o), STATUS_OK);
    assert_int_equal(o.status, STATUS_OK);
    store_batch_clear(rig.batch);
    assert_true(list_empty(&rig.feed.closed));
    assert_int_equal(event_block_bytes(&rig.feed.block), 0);
}

static void the_rows_are_golden(void **state)
{
    uint8_t bytes[256];
    struct feed_places p, p_back;
    for (unsigned i = 0; i < FEED_CHUNK; i++) p.at[i] = 0x0102030405060700 + i;
    struct writer w = writer_of(bytes, sizeof bytes);
    places_encode(&p, T0, &w);
    assert_int_equal(w.len, PLACES_ROW_BYTES);
    assert_int_equal(get_be64(bytes), T0); /* store.h: an expiring row begins with its expiry */
    assert_golden("places", writer_slice(&w));
    assert_int_equal(places_decode(writer_slice(&w), &p_back), STATUS_OK);
    assert_memory_equal(&p, &p_back, sizeof p);
    assert_int_equal(places_decode(slice_of(bytes, w.len - 1), &p_back), STATUS_CHECKSUM_MISMATCH);

    struct feed_record r = {0x0102030405060708, T0}, r_back;
    w = writer_of(bytes, sizeof bytes);
    feed_record_encode(&r, &w);
    assert_golden("feed_record", writer_slice(&w));
    assert_int_equal(feed_record_decode(writer_slice(&w), &r_back), STATUS_OK);
    assert_memory_equal(&r, &r_back, sizeof r);
    assert_int_equal(feed_record_decode(slice_of(bytes, w.len - 1), &r_back), STATUS_CHECKSUM_MISMATCH);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_feed, close_feed)
    const struct CMUnitTest tests[] = {
        TEST(every_commit_is_told_once_in_order), TEST(what_is_told_never_changes), TEST(the_tail_tells_what_the_store_does),
        TEST(the_tail_finds_any_place), TEST(a_tail_without_memory_begins_again), TEST(runs_of_any_size_tell_the_same),
        TEST(who_is_behind_gets_the_rest_of_each_slot), TEST(one_user_is_read_alone), TEST(every_seq_has_its_place), TEST(a_time_is_found_exactly),
        TEST(what_is_let_go_is_said), TEST(a_dry_run_tells_nobody), TEST(the_rows_are_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
