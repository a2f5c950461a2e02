/* The change stream through the engine's door: who waits is woken, who begins somewhere begins exactly there, retention lets go and says so. What is told: test_feed.c. */
#include "tests/lib/engine_rig.h"

#include "engine/filter.h"
#include "orderdb/v1/stream.pb-c.h"

static int64_t behind[SLOT_COUNT];
static bool loose;

static void open_feed(struct engine_rig *r, uint64_t tail_bytes, uint64_t retention_us) {
    *r = (struct engine_rig){.tail_bytes = tail_bytes, .retention_us = retention_us};
    rig_open_with(r, 1, 1 << 20);
    for (unsigned i = 0; i < SLOT_COUNT; i++) behind[i] = -1;
}

static void run_until_done(struct engine_rig *r, struct job *j) {
    for (unsigned i = 0; !j->done && i < 100000; i++) rig_run(r, NS_PER_MS);
    assert_int_equal(j->done, 1);
}

static struct job *seek_send(struct engine_rig *r, enum feed_from from, uint64_t time_us) {
    struct job *j = job_new(OP_FEED_SEEK, 1 << 20);
    j->op.seek = (struct feed_seek){.from = from, .time_us = time_us, .loose = loose, .behind = behind};
    engine_submit(r->engine, &j->op);
    return j;
}

static struct feed_position seek(struct engine_rig *r, enum feed_from from, uint64_t time_us) {
    struct job *j = seek_send(r, from, time_us);
    run_until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    struct feed_position at = j->op.seek.at;
    job_free(j);
    return at;
}

static struct job *read_send(struct engine_rig *r, struct feed_position at, uint64_t wait_ns) {
    struct job *j = job_new(OP_FEED_READ, 1 << 20);
    j->op.feed = (struct feed_request){.at = at, .payload = FEED_FULL, .behind = behind, .bytes_max = 256 * KIB};
    j->op.wait_until_ns = wait_ns ? sim_world_now_ns(r->world) + wait_ns : 0;
    engine_submit(r->engine, &j->op);
    return j;
}

static uint32_t read_now(struct engine_rig *r, struct feed_position *at) {
    struct job *j = read_send(r, *at, 0);
    run_until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_true(j->op.feed.at_end);
    *at = j->op.feed.at;
    uint32_t n = j->op.feed.events;
    job_free(j);
    return n;
}

static void who_waits_is_woken_by_the_next_commit(void **state) {
    const uint64_t tails[] = {0, 1 << 20}; /* from the store, from the tail */
    for (unsigned i = 0; i < ARRAY_LEN(tails); i++) {
        struct engine_rig r;
        open_feed(&r, tails[i], 0);
        create(&r);
        struct feed_position at = seek(&r, FEED_EARLIEST, 0);
        assert_int_equal(read_now(&r, &at), 1);
        struct job *reader = read_send(&r, at, 60 * NS_PER_S);
        rig_run(&r, 2 * NS_PER_S);
        assert_int_equal(reader->done, 0);
        struct engine_stats stats;
        engine_get_stats(r.engine, &stats);
        assert_int_equal(stats.queue_ops, 0); /* to wait is no queue */
        int64_t id = create(&r);
        run_until_done(&r, reader);
        assert_int_equal(reader->op.feed.events, 1);
        Orderdb__V1__ReadChangesResponse *m = orderdb__v1__read_changes_response__unpack(NULL, reader->op.answer.len, reader->op.answer.data);
        assert_non_null(m);
        assert_int_equal(m->events[0]->order_id, id);
        assert_int_equal(m->events[0]->seq, 2);
        orderdb__v1__read_changes_response__free_unpacked(m, NULL);
        job_free(reader);
        rig_close(&r);
    }
}

static void to_wait_has_an_end(void **state) {
    struct engine_rig r;
    open_feed(&r, 1 << 20, 0);
    create(&r);
    struct feed_position at = seek(&r, FEED_LATEST, 0);
    assert_int_equal(read_now(&r, &at), 0);
    uint64_t begun = sim_world_now_ns(r.world);
    struct job *j = read_send(&r, at, 500 * NS_PER_MS);
    run_until_done(&r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_int_equal(j->op.feed.events, 0);
    uint64_t waited = sim_world_now_ns(r.world) - begun;
    assert_true(waited >= 500 * NS_PER_MS);
    assert_true(waited <= 550 * NS_PER_MS);
    job_free(j);
    rig_close(&r);
}

static void a_drain_answers_who_waits(void **state) {
    struct engine_rig r;
    open_feed(&r, 1 << 20, 0);
    create(&r);
    struct feed_position at = seek(&r, FEED_LATEST, 0);
    struct job *j = read_send(&r, at, 3600 * NS_PER_S);
    rig_run(&r, NS_PER_MS);
    engine_drain(r.engine);
    run_until_done(&r, j);
    job_free(j);
    for (unsigned i = 0; !engine_drained(r.engine) && i < 10000; i++) rig_run(&r, NS_PER_MS);
    assert_true(engine_drained(r.engine));
    rig_close(&r);
}

static void a_closed_engine_answers_who_waits(void **state) {
    struct engine_rig r;
    open_feed(&r, 1 << 20, 0);
    create(&r);
    struct feed_position at = seek(&r, FEED_LATEST, 0);
    struct job *j = read_send(&r, at, 3600 * NS_PER_S);
    rig_run(&r, NS_PER_MS);
    rig_close(&r);
    assert_int_equal(j->done, 1);
    assert_int_equal(j->op.failure.status, STATUS_DRAINING);
    job_free(j);
}

static void a_reader_begins_where_it_says(void **state) {
    struct engine_rig r;
    uint16_t slot = slot_of_user(SLICE_LIT("somebody"));
    open_feed(&r, 1 << 20, 0);
    for (int i = 0; i < 40; i++) create(&r);
    struct feed_position at = seek(&r, FEED_EARLIEST, 0);
    assert_int_equal(behind[slot], 0);
    assert_int_equal(read_now(&r, &at), 40);
    assert_int_equal(behind[slot], 40);
    loose = true; /* the same events, without a look at the slots */
    at = seek(&r, FEED_EARLIEST, 0);
    assert_int_equal(behind[slot], 0);
    assert_int_equal(read_now(&r, &at), 40);
    loose = false;
    at = seek(&r, FEED_LATEST, 0);
    assert_int_equal(behind[slot], 40);
    assert_int_equal(read_now(&r, &at), 0);
    behind[slot] = 25;
    at = seek(&r, FEED_CURSOR, 0);
    assert_int_equal(read_now(&r, &at), 15);
    for (unsigned i = 0; i < SLOT_COUNT; i++) behind[i] = -1; /* nothing is behind: from the earliest */
    at = seek(&r, FEED_CURSOR, 0);
    assert_int_equal(read_now(&r, &at), 40);
    at = seek(&r, FEED_TIME, (uint64_t)INT64_MAX);
    assert_int_equal(behind[slot], 40);
    assert_int_equal(read_now(&r, &at), 0);
    rig_close(&r);
}

static void a_cursor_of_what_has_not_happened_is_refused(void **state) {
    struct engine_rig r;
    char slot[16];
    snprintf(slot, sizeof slot, "%u", slot_of_user(SLICE_LIT("somebody")));
    open_feed(&r, 1 << 20, 0);
    create(&r);
    behind[slot_of_user(SLICE_LIT("somebody"))] = 2;
    struct job *j = seek_send(&r, FEED_CURSOR, 0);
    run_until_done(&r, j);
    assert_int_equal(j->op.failure.status, STATUS_CURSOR_INVALID);
    assert_string_equal(j->op.failure.metas->key, "slot");
    assert_slice(j->op.failure.metas->value, slot);
    job_free(j);
    rig_close(&r);
}

static const char *meta_of(const struct failure *f, const char *key) {
    static char text[1024];
    for (const struct failure_meta *m = f->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return snprintf(text, sizeof text, "%.*s", (int)m->value.len, (const char *)m->value.data), text;
    return "";
}

static void retention_lets_go_by_age_and_tells_who_has_missed_what(void **state) {
    struct engine_rig r;
    uint16_t slot = slot_of_user(SLICE_LIT("somebody"));
    char missing[32];
    open_feed(&r, 1 << 20, 60 * 1000000ull);
    for (int i = 0; i < 5; i++) create(&r);
    struct feed_position slow = seek(&r, FEED_EARLIEST, 0);
    rig_run(&r, 50 * NS_PER_S);
    for (int i = 0; i < 3; i++) create(&r);
    rig_run(&r, 30 * NS_PER_S); /* five are older than a minute, three are not */
    snprintf(missing, sizeof missing, "%u:1-5", slot);
    struct job *j = read_send(&r, slow, 0);
    run_until_done(&r, j);
    assert_int_equal(j->op.failure.status, STATUS_CURSOR_EXPIRED);
    assert_string_equal(meta_of(&j->op.failure, "missing"), missing);
    assert_string_equal(meta_of(&j->op.failure, "missing_slots"), "1");
    job_free(j);
    behind[slot] = 3;
    j = seek_send(&r, FEED_CURSOR, 0);
    run_until_done(&r, j);
    snprintf(missing, sizeof missing, "%u:4-5", slot);
    assert_int_equal(j->op.failure.status, STATUS_CURSOR_EXPIRED);
    assert_string_equal(meta_of(&j->op.failure, "missing"), missing);
    job_free(j);
    behind[slot] = 5;
    struct feed_position at = seek(&r, FEED_CURSOR, 0);
    assert_int_equal(read_now(&r, &at), 3);
    at = seek(&r, FEED_EARLIEST, 0);
    assert_int_equal(behind[slot], 5);
    assert_int_equal(read_now(&r, &at), 3);
    rig_run(&r, 60 * NS_PER_S); /* all of it is old; what comes then is told */
    create(&r);
    loose = true; /* exact, since something was let go */
    at = seek(&r, FEED_EARLIEST, 0);
    loose = false;
    assert_int_equal(behind[slot], 8);
    assert_int_equal(read_now(&r, &at), 1);
    rig_close(&r);
}

static void who_stood_behind_what_was_let_go_has_missed_nothing(void **state) {
    struct engine_rig r;
    open_feed(&r, 1 << 20, 60 * 1000000ull);
    for (int i = 0; i < 5; i++) create(&r);
    struct feed_position at = seek(&r, FEED_EARLIEST, 0);
    assert_int_equal(read_now(&r, &at), 5);
    r.requests--; /* the last one once more: an entry that leaves no event */
    create(&r);
    rig_run(&r, 90 * NS_PER_S);
    assert_int_equal(read_now(&r, &at), 0);
    create(&r);
    assert_int_equal(read_now(&r, &at), 1);
    rig_close(&r);
}

/* An answer's bytes are all that a read takes of its op's arena, however much it looks at. */
static void read_in_little_memory(struct engine_rig *r, struct feed_request feed, uint16_t slot, uint32_t events) {
    struct job *j = job_new(OP_FEED_READ, 300 * KIB);
    j->op.slot = slot;
    j->op.feed = feed;
    j->op.feed.at = seek(r, FEED_EARLIEST, 0);
    j->op.feed.behind = behind;
    j->op.feed.bytes_max = 256 * KIB;
    engine_submit(r->engine, &j->op);
    run_until_done(r, j);
    assert_int_equal(j->op.failure.status, STATUS_OK);
    assert_int_equal(j->op.feed.events, events);
    job_free(j);
}

static void summaries_of_many_large_orders_take_little_memory(void **state) {
    struct engine_rig r;
    const struct filter *filter;
    struct arena filters;
    struct failure f;
    open_feed(&r, 1 << 20, 0);
    arena_init(&filters, 1 << 16);
    failure_init(&f, &filters);
    assert_int_equal(filter_parse(&filter, SLICE_LIT("user_id = \"nobody\" OR type = \"CREATED\""), &filter_events, "filter", &filters, &f), STATUS_OK);
    for (int i = 0; i < 40; i++) {
        struct job *j = create_send(&r, LINES_MAX, 1 << 20);
        run_until_done(&r, j);
        assert_int_equal(j->op.failure.status, STATUS_OK);
        job_free(j);
    }
    read_in_little_memory(&r, (struct feed_request){.payload = FEED_SUMMARY}, 0, 40);
    read_in_little_memory(&r, (struct feed_request){.payload = FEED_SUMMARY, .filter = filter}, 0, 40);
    arena_fini(&filters);
    rig_close(&r);
}

static void a_user_among_others_of_its_slot_takes_little_memory(void **state) {
    char other[32];
    unsigned n = 0;
    uint16_t slot = slot_of_user(SLICE_LIT("somebody"));
    do snprintf(other, sizeof other, "other-%u", n++);
    while (slot_of_user(slice_str(other)) != slot);
    const uint64_t tails[] = {0, 1 << 20};
    for (unsigned i = 0; i < ARRAY_LEN(tails); i++) {
        struct engine_rig r;
        open_feed(&r, tails[i], 0);
        for (int k = 0; k < 60; k++) create(&r);
        struct job *j = create_send_of(&r, other, 1, 1 << 20);
        run_until_done(&r, j);
        job_free(j);
        read_in_little_memory(&r, (struct feed_request){.payload = FEED_FULL, .user_id = slice_str(other), .slot = slot}, slot, 1);
        rig_close(&r);
    }
}

/* The command of retention is the engine's own op: it comes home though the engine ends. */
static void an_engine_ends_while_retention_is_under_way(void **state) {
    struct engine_rig r;
    open_feed(&r, 1 << 20, 1000000);
    create(&r);
    for (unsigned i = 0; list_empty(&r.engine->partitions[0].waiting) && list_empty(&r.engine->partitions[0].proposed); i++) {
        assert_true(i < 10000000);
        rig_run(&r, 10000);
    }
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_waits_is_woken_by_the_next_commit),
        cmocka_unit_test(to_wait_has_an_end),
        cmocka_unit_test(a_drain_answers_who_waits),
        cmocka_unit_test(a_closed_engine_answers_who_waits),
        cmocka_unit_test(a_reader_begins_where_it_says),
        cmocka_unit_test(a_cursor_of_what_has_not_happened_is_refused),
        cmocka_unit_test(retention_lets_go_by_age_and_tells_who_has_missed_what),
        cmocka_unit_test(an_engine_ends_while_retention_is_under_way),
        cmocka_unit_test(who_stood_behind_what_was_let_go_has_missed_nothing),
        cmocka_unit_test(summaries_of_many_large_orders_take_little_memory),
        cmocka_unit_test(a_user_among_others_of_its_slot_takes_little_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
