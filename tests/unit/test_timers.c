/* Timers of an order: the codec and rules of engine/timers.h, requests from engine/check.h, and what apply makes of them. Random lives: tests/sim/sim_apply.c; the leader's half:
 * tests/unit/test_engine_timers.c, tests/sim/sim_timers.c. */
#include "tests/lib/test.h"

#include "engine/check.h"
#include "engine/query.h"
#include "orderdb/v1/stream.pb-c.h"
#include "tests/lib/apply_fixture.h"

#define NEW(type, init) ({ type *m_ = arena_new(&arena, type); check(m_); init(m_); m_; })
#define MINUTES_US (60ll * US_PER_S)
static char *str(const char *s) { return arena_printf(&arena, "%s", s); }

static int64_t order_id;

/* ---- builders */

static struct order_timers sample(void)
{
    return (struct order_timers){.count = 3, .at = {
        {.timer_id = SLICE_LIT("pay_timeout"), .event = SLICE_LIT("pay_timeout"), .fire_us = 0x0102030405060708, .of_state = true},
        {.timer_id = SLICE_LIT("remind"), .fire_us = 1, .no = 1},
        {.timer_id = SLICE_LIT("own"), .event = SLICE_LIT("cancel"), .fire_us = 2, .no = 5, .status_count = 2, .statuses = {1, 2}},
    }};
}

static struct slice encoded(const struct order_timers *ts)
{
    size_t cap = timers_bytes_max(ts);
    struct writer w = writer_of(arena_alloc(&arena, cap), cap);
    timers_encode(ts, &w);
    assert_false(w.full);
    return writer_slice(&w);
}

static struct outcome apply_bytes(struct slice bytes)
{
    struct outcome o;
    assert_int_equal(rig_apply(&rig, now_us, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}
static struct outcome run(const struct command *c) { return apply_bytes(command_encode(c, &arena)); }

static struct outcome create(const char *user)
{
    struct command c = {.type = COMMAND_CREATE, .origin = {.request_id = slice_str(arena_printf(&arena, "create-%s-%llu", user, (unsigned long long)now_us)), .ttl_us = TTL_US}};
    c.create = (struct command_create){.user_id = slice_str(user), .summary = SLICE_LIT(""), .detail = SLICE_LIT("")};
    struct outcome o = run(&c);
    assert_int_equal(o.status, STATUS_OK);
    order_id = o.head.order_id;
    return o;
}

static struct outcome event(const char *name)
{
    struct command c = {.type = COMMAND_TRANSITION, .transition = {.order_id = order_id, .event = slice_str(name)}};
    return run(&c);
}

static struct command set_of(const char *id, int64_t fire_us, const char *event_name, const char *request_id)
{
    return (struct command){.type = COMMAND_SET_TIMER, .origin = {.request_id = slice_str(request_id), .fingerprint = {1, 2}, .ttl_us = TTL_US},
                            .set_timer = {.order_id = order_id, .fire_us = fire_us, .timer_id = slice_str(id), .event = slice_str(event_name)}};
}
static struct outcome set(const char *id, int64_t fire_us, const char *event_name)
{
    struct command c = set_of(id, fire_us, event_name, "");
    return run(&c);
}
static struct outcome cancel(const char *id, const char *request_id)
{
    struct command c = {.type = COMMAND_CANCEL_TIMER, .origin = {.request_id = slice_str(request_id), .fingerprint = {3, 4}, .ttl_us = TTL_US},
                        .cancel_timer = {.order_id = order_id, .timer_id = slice_str(id)}};
    return run(&c);
}

static struct outcome fire(int64_t fire_us, uint8_t no)
{
    uint8_t bytes[COMMAND_FIRE_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    write_be64(&w, (uint64_t)fire_us), write_be64(&w, (uint64_t)order_id), write_u8(&w, no);
    struct command c = {.type = COMMAND_FIRE, .fire = {.count = 1, .packed = writer_slice(&w), .floor_us = (uint64_t)fire_us}};
    return run(&c);
}

static struct order_head head(void)
{
    struct key k;
    struct slice row;
    struct order_head h;
    struct store_view view = rig_view(&rig);
    key_head(&k, order_id);
    assert_int_equal(store_get(&view, key_slice(&k), &arena, &row), STATUS_OK);
    assert_int_equal(order_head_decode(row, &h), STATUS_OK);
    return h;
}

static struct order_timers timers(void)
{
    struct order_timers ts;
    assert_int_equal(timers_decode(head().timers, &ts), STATUS_OK);
    return ts;
}

static struct history_entry newest(void)
{
    struct key k;
    struct slice row;
    struct history_entry e;
    struct store_view view = rig_view(&rig);
    key_history(&k, order_id, head().version);
    assert_int_equal(store_get(&view, key_slice(&k), &arena, &row), STATUS_OK);
    assert_int_equal(history_decode(row, &e), STATUS_OK);
    return e;
}

static unsigned due_rows(void)
{
    struct key lower, upper;
    unsigned n = 0;
    struct store_view view = rig_view(&rig);
    key_timer(&lower, 0, 0, 0);
    key_timers(&upper);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) n++;
    store_iter_close(it);
    assert_int_equal(rig.timers.pending, n);
    return n;
}

static bool status_is(const char *name) { return slice_equal(machines_status_name(ms, head().status), slice_str(name)); }

/* ---- bytes */

static void timers_come_back_and_are_golden(void **state)
{
    struct order_timers ts = sample(), back;
    struct slice bytes = encoded(&ts);
    assert_golden("timers", bytes);
    assert_int_equal(timers_decode(bytes, &back), STATUS_OK);
    assert_int_equal(back.count, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(slice_equal(back.at[i].timer_id, ts.at[i].timer_id));
        assert_true(slice_equal(back.at[i].event, ts.at[i].event));
        assert_int_equal(back.at[i].fire_us, ts.at[i].fire_us);
        assert_int_equal(back.at[i].of_state, ts.at[i].of_state);
        assert_int_equal(back.at[i].no, ts.at[i].no);
        assert_int_equal(back.at[i].status_count, ts.at[i].status_count);
    }
    for (size_t n = 1; n < bytes.len; n++) assert_int_equal(timers_decode(slice_of(bytes.data, n), &back), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(timers_decode((struct slice){0}, &back), STATUS_OK);
    assert_int_equal(back.count, 0);
    struct order_timers none = {0};
    assert_int_equal(encoded(&none).len, 0);
}

static void the_record_comes_back_and_is_golden(void **state)
{
    struct timers_record r = {0x0102030405060708, 9}, back;
    uint8_t bytes[TIMERS_RECORD_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    timers_record_encode(&r, &w);
    assert_golden("timers_record", writer_slice(&w));
    assert_int_equal(timers_record_decode(writer_slice(&w), &back), STATUS_OK);
    assert_int_equal(back.floor_us, r.floor_us);
    assert_int_equal(back.pending, 9);
    assert_int_equal(timers_record_decode(slice_of(bytes, sizeof bytes - 1), &back), STATUS_CHECKSUM_MISMATCH);
}

static void a_head_with_timers_is_of_another_format(void **state)
{
    struct order_timers ts = sample();
    struct order_head h = {.order_id = 1, .version = 1, .machine = 1, .status = 1, .user_id = SLICE_LIT("alice")}, back;
    struct history_entry e = {.version = 2, .to = 1, .event = SLICE_LIT("set_timer")}, entry;
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);
    order_head_encode(&h, &w);
    assert_int_equal(bytes[0], ORDER_FORMAT); /* without: as ever */
    h.timers = e.timers = encoded(&ts);
    w = writer_of(bytes, sizeof bytes);
    order_head_encode(&h, &w);
    assert_golden("order_head_timers", writer_slice(&w));
    assert_int_equal(order_head_decode(writer_slice(&w), &back), STATUS_OK);
    assert_true(slice_equal(back.timers, h.timers));
    w = writer_of(bytes, sizeof bytes);
    history_encode(&e, &w);
    assert_golden("history_entry_timers", writer_slice(&w));
    assert_int_equal(history_decode(writer_slice(&w), &entry), STATUS_OK);
    assert_true(slice_equal(entry.timers, h.timers));
    bytes[w.len - 1] ^= 1; /* a status id: nothing that the row itself could tell */
    bytes[w.len - h.timers.len] = 0;
    assert_int_equal(history_decode(writer_slice(&w), &entry), STATUS_CHECKSUM_MISMATCH);
}

/* ---- what commits do */

static void a_status_brings_its_timers_and_takes_them_along(void **state)
{
    struct outcome o = create("alice");
    struct order_timers ts = timers();
    assert_int_equal(ts.count, 1);
    assert_true(slice_equal(ts.at[0].timer_id, SLICE_LIT("pay_timeout")));
    assert_int_equal(ts.at[0].fire_us, (int64_t)now_us + 30 * MINUTES_US);
    assert_true(slice_equal(o.head.timers, head().timers));
    assert_int_equal(due_rows(), 1);
    assert_int_equal(event("pay").status, STATUS_OK);
    assert_int_equal(timers().count, 0);
    assert_int_equal(due_rows(), 0);
    now_us += 5;
    event("ship");
    assert_int_equal(timers().at[0].fire_us, (int64_t)now_us + 15 * 24 * 60 * MINUTES_US);
    event("confirm");
    assert_int_equal(timers().count, 0);
    assert_int_equal(due_rows(), 0);
}

static void an_import_begins_no_timers(void **state)
{
    struct history_entry past[] = {{.version = 1, .time_us = 1500000000000000, .to = machines_status_id(ms, SLICE_LIT("PENDING_PAYMENT")), .event = SLICE_LIT("import")}};
    struct command c = {.type = COMMAND_IMPORT, .import = {SLICE_LIT("alice"), SLICE_LIT("no-1"), SLICE_LIT("retail@1"), SLICE_LIT(""), SLICE_LIT(""), 1, past}};
    order_id = run(&c).head.order_id;
    assert_int_equal(timers().count, 0);
    assert_int_equal(due_rows(), 0);
    event("pay"), event("ship"); /* from here on it lives like any other */
    assert_int_equal(timers().count, 1);
}

static void set_is_a_commit_and_replaces(void **state)
{
    create("alice");
    struct outcome o = set("remind", (int64_t)now_us + 7, "");
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.head.version, 2);
    assert_true(slice_equal(newest().event, SLICE_LIT("set_timer")));
    assert_int_equal(timers().count, 2);
    assert_int_equal(due_rows(), 2);
    set("remind", (int64_t)now_us + 9, "cancel");
    struct order_timers ts = timers();
    assert_int_equal(ts.count, 2);
    assert_int_equal(ts.at[1].fire_us, (int64_t)now_us + 9);
    assert_true(slice_equal(ts.at[1].event, SLICE_LIT("cancel")));
    assert_int_equal(due_rows(), 2);
}

/* More time to pay: it is still the status's timer, and goes with it. */
static void the_statuss_own_timer_can_be_moved(void **state)
{
    create("alice");
    set("pay_timeout", (int64_t)now_us + 60 * MINUTES_US, "pay_timeout");
    struct order_timers ts = timers();
    assert_int_equal(ts.count, 1);
    assert_true(ts.at[0].of_state);
    event("pay");
    assert_int_equal(timers().count, 0);
    assert_int_equal(due_rows(), 0);
}

static void a_past_time_is_now(void **state)
{
    create("alice");
    set("late", -5, "");
    struct order_timers ts = timers();
    assert_int_equal(ts.at[1].fire_us, now_us);
    assert_int_equal(fire(ts.at[1].fire_us, ts.at[1].no).fired, 1);
}

static void timers_of_callers_go_with_what_they_expect_or_with_the_end(void **state)
{
    create("alice");
    struct command c = set_of("when_paid", (int64_t)now_us + 60 * MINUTES_US, "refund_request", "");
    c.set_timer.expected_status_count = 1, c.set_timer.expected_statuses[0] = SLICE_LIT("PAID");
    run(&c);
    set("always", (int64_t)now_us + 60 * MINUTES_US, "");
    assert_int_equal(timers().count, 3);
    event("pay"); /* what it waits for has come */
    assert_int_equal(timers().count, 2);
    event("ship");
    struct order_timers ts = timers();
    assert_int_equal(ts.count, 2); /* always, auto_confirm */
    assert_null(timers_find(&ts, SLICE_LIT("when_paid")));
    event("confirm");
    assert_int_equal(timers().count, 0);
    assert_int_equal(due_rows(), 0);
    assert_int_equal(set("after", (int64_t)now_us + 1, "").status, STATUS_OK); /* it may still tell */
    assert_int_equal(timers().count, 1);
}

static void refusals_name_their_reason(void **state)
{
    create("alice");
    struct failure f;
    struct outcome o = set("t", (int64_t)now_us + 1, "teleport");
    assert_int_equal(o.status, STATUS_EDGE_NOT_DEFINED);
    struct command c = set_of("t", (int64_t)now_us + 1, "pay", "");
    c.set_timer.expected_status_count = 1, c.set_timer.expected_statuses[0] = SLICE_LIT("NOWHERE");
    o = run(&c);
    assert_int_equal(o.status, STATUS_FIELD_INVALID);
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_string_equal(f.violations->field, "timer.expected_statuses[0]");
    o = set("t", (int64_t)now_us + TIMER_AHEAD_US_MAX + 1, "");
    assert_int_equal(o.status, STATUS_LIMIT_EXCEEDED);
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_string_equal(f.violations->field, "timer.fire_time");
    assert_int_equal(set("t0", (int64_t)now_us + TIMER_AHEAD_US_MAX, "").status, STATUS_OK);
    for (int i = 1; i < TIMERS_SET_MAX - 1; i++) assert_int_equal(set(arena_printf(&arena, "t%d", i), (int64_t)now_us + i, "").status, STATUS_OK);
    assert_int_equal(set("one-too-many", (int64_t)now_us + 1, "").status, STATUS_LIMIT_EXCEEDED);
    assert_int_equal(set("t3", (int64_t)now_us + 1, "").status, STATUS_OK);
    assert_int_equal(timers().count, TIMERS_SET_MAX);
    assert_int_equal(due_rows(), TIMERS_SET_MAX);
    o = cancel("nothing", "");
    assert_int_equal(o.status, STATUS_TIMER_NOT_FOUND);
    event("cancel");
    o = set("t", (int64_t)now_us + 1, "pay");
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    failure_init(&f, &arena);
    outcome_failure(&o, ms, &f);
    assert_non_null(strstr(f.message, "which no event leaves"));
}

static void a_replay_answers_what_the_first_one_did(void **state)
{
    create("alice");
    struct command c = set_of("remind", (int64_t)now_us + 7, "", "request-set-00001");
    struct outcome first = run(&c);
    struct slice first_timers = first.entry.timers;
    assert_int_equal(cancel("remind", "request-cancel-01").status, STATUS_OK);
    event("pay");
    struct outcome again = run(&c);
    assert_true(again.replayed);
    assert_int_equal(again.head.version, 2);
    assert_true(slice_equal(again.entry.timers, first_timers));
    assert_true(slice_equal(again.head.timers, first_timers));
    assert_true(cancel("remind", "request-cancel-01").replayed);
    assert_int_equal(timers().count, 0);
    struct command fence = {.type = COMMAND_FENCE, .origin = {.request_id = SLICE_LIT("request-set-00001"), .ttl_us = TTL_US}, .fence.user_id = SLICE_LIT("alice")};
    struct outcome told = run(&fence);
    assert_true(told.applied);
    assert_int_equal(told.head.version, 2);
}

static void an_older_version_has_the_timers_that_it_had(void **state)
{
    create("alice");
    uint64_t created_us = now_us;
    now_us += 1000000;
    set("remind", (int64_t)now_us + 7, "");
    now_us += 1000000;
    event("pay");
    struct failure f;
    struct slice wire;
    struct query q = {.view = rig_view(&rig), .machines = ms, .arena = &arena, .failure = &f};
    static const size_t expected[] = {1, 2, 1};
    for (unsigned i = 0; i < 3; i++) {
        failure_init(&f, &arena);
        assert_int_equal(query_get(&q, &(struct get_request){.order_id = order_id, .full = true, .has_as_of = true, .as_of_us = (int64_t)(created_us + i * 1000000)}, &wire), STATUS_OK);
        Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, wire.len, wire.data);
        assert_non_null(m);
        assert_int_equal(m->n_timers, expected[i]);
        if (i == 1) assert_string_equal(m->timers[1]->timer_id, "remind");
        orderdb__v1__order__free_unpacked(m, NULL);
    }
}

/* ---- fire */

static void a_timer_moves_the_order_once_and_not_before_its_time(void **state)
{
    create("alice");
    int64_t due_us = timers().at[0].fire_us;
    now_us = (uint64_t)due_us - 1;
    assert_int_equal(fire(due_us, 0).fired, 0);
    assert_true(status_is("PENDING_PAYMENT"));
    now_us = (uint64_t)due_us;
    assert_int_equal(fire(due_us - 1, 0).fired, 0); /* another time is another timer */
    assert_int_equal(fire(due_us, 1).fired, 0);
    struct outcome o = fire(due_us, 0);
    assert_int_equal(o.fired, 1);
    assert_true(status_is("CANCELLED"));
    struct history_entry e = newest();
    assert_true(slice_equal(e.event, SLICE_LIT("pay_timeout")));
    assert_true(slice_equal(e.operator_, SLICE_LIT("timer")));
    assert_true(slice_equal(e.reason, SLICE_LIT("pay_timeout")));
    assert_int_equal(e.time_us, due_us);
    assert_int_equal(fire(due_us, 0).fired, 0);
    assert_int_equal(head().version, 2);
    assert_int_equal(due_rows(), 0);
    assert_int_equal(rig.timers.floor_us, due_us);
}

static void a_paid_order_is_never_timed_out(void **state)
{
    create("alice");
    int64_t due_us = timers().at[0].fire_us;
    now_us = (uint64_t)due_us + 5;
    event("pay"); /* late, and first in the log */
    assert_int_equal(fire(due_us, 0).fired, 0);
    assert_true(status_is("PAID"));
}

static void the_payment_that_comes_second_is_told_who_was_first(void **state)
{
    create("alice");
    int64_t due_us = timers().at[0].fire_us;
    now_us = (uint64_t)due_us;
    fire(due_us, 0);
    struct outcome o = event("pay");
    assert_int_equal(o.status, STATUS_STATUS_MISMATCH);
    assert_true(status_is("CANCELLED"));
}

static void a_timer_without_event_tells_and_keeps_the_status(void **state)
{
    create("alice");
    set("remind", (int64_t)now_us, "");
    struct order_timer t = timers().at[1];
    assert_int_equal(fire(t.fire_us, t.no).fired, 1);
    struct history_entry e = newest();
    assert_true(slice_equal(e.event, SLICE_LIT("timer_fired")));
    assert_true(slice_equal(e.reason, SLICE_LIT("remind")));
    assert_int_equal(e.from, e.to);
    assert_int_equal(timers().count, 1);
}

/* Never without a word. */
static void a_transition_that_is_not_possible_is_told_with_its_reason(void **state)
{
    create("alice");
    set("own", (int64_t)now_us, "deliver");
    struct order_timer t = timers().at[1];
    assert_int_equal(fire(t.fire_us, t.no).fired, 1);
    assert_true(slice_equal(newest().event, SLICE_LIT("timer_fired")));
    assert_true(slice_equal(newest().reason, SLICE_LIT("own: deliver does not lead out of PENDING_PAYMENT")));
    struct command c = set_of("own", (int64_t)now_us, "cancel", "");
    c.set_timer.expected_status_count = 1, c.set_timer.expected_statuses[0] = SLICE_LIT("PAID");
    run(&c);
    t = timers().at[1];
    assert_int_equal(fire(t.fire_us, t.no).fired, 1);
    assert_true(slice_equal(newest().reason, SLICE_LIT("own: the order is PENDING_PAYMENT, which was not expected")));
    assert_true(status_is("PENDING_PAYMENT"));
    assert_int_equal(timers().count, 1);
}

/* The events of the last entries, as a reader gets them. */
static void events_say_which_kind(void **state)
{
    create("alice");
    set("remind", (int64_t)now_us, "");
    struct order_timer t = timers().at[1];
    fire(t.fire_us, t.no);
    now_us = (uint64_t)timers().at[0].fire_us;
    fire((int64_t)now_us, 0);
    struct feed_read f = {.view = rig_view(&rig), .machines = ms, .arena = &arena, .tail = &rig.tail, .last_index = rig.record.applied_index};
    struct feed_request r = {.payload = FEED_FULL, .bytes_max = 1 << 20};
    struct slice wire;
    assert_int_equal(feed_read(&f, &r, &wire), STATUS_OK);
    struct reader bytes = reader_of(wire);
    static const int types[] = {ORDERDB__V1__CHANGE_EVENT__TYPE__CREATED, ORDERDB__V1__CHANGE_EVENT__TYPE__UPDATED, ORDERDB__V1__CHANGE_EVENT__TYPE__TIMER_FIRED,
                                ORDERDB__V1__CHANGE_EVENT__TYPE__TRANSITIONED};
    static const size_t after[] = {1, 2, 1, 0}, changed[] = {0, 1, 1, 2};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(read_u8(&bytes), 0x0a);
        struct slice one = read_counted(&bytes);
        Orderdb__V1__ChangeEvent *e = orderdb__v1__change_event__unpack(NULL, one.len, one.data);
        assert_non_null(e);
        assert_int_equal(e->type, types[i]);
        assert_int_equal(e->after->n_timers, after[i]);
        assert_int_equal(e->changed ? e->changed->n_paths : 0, changed[i]);
        if (i == 2) assert_string_equal(e->changed->paths[0], "timers");
        orderdb__v1__change_event__free_unpacked(e, NULL);
    }
    assert_int_equal(reader_left(&bytes), 0);
}

/* ---- requests */

static Orderdb__V1__SetOrderTimerRequest *set_request(void)
{
    Orderdb__V1__SetOrderTimerRequest *m = NEW(Orderdb__V1__SetOrderTimerRequest, orderdb__v1__set_order_timer_request__init);
    m->order_id = 5;
    m->timer = NEW(Orderdb__V1__Timer, orderdb__v1__timer__init);
    m->timer->timer_id = str("remind.1");
    m->timer->fire_time = NEW(Google__Protobuf__Timestamp, google__protobuf__timestamp__init);
    m->timer->fire_time->seconds = 1800000000;
    return m;
}

static const char *refused(const Orderdb__V1__SetOrderTimerRequest *m)
{
    static char field[64];
    struct checked c;
    struct failure f;
    failure_init(&f, &arena);
    if (check_set_timer(m, (struct slice){0}, &arena, &c, &f)) return "";
    snprintf(field, sizeof field, "%s", f.violations->field);
    return field;
}

static void the_shape_of_a_timer_is_checked(void **state)
{
    Orderdb__V1__SetOrderTimerRequest *m = set_request();
    assert_string_equal(refused(m), "");
    m->order_id = 0, assert_string_equal(refused(m), "order_id"), m->order_id = 5;
    m->timer->timer_id = str(""), assert_string_equal(refused(m), "timer.timer_id");
    m->timer->timer_id = str("no spaces"), assert_string_equal(refused(m), "timer.timer_id");
    char longest[TIMER_ID_BYTES_MAX + 2];
    memset(longest, 'x', sizeof longest), longest[TIMER_ID_BYTES_MAX + 1] = 0;
    m->timer->timer_id = longest, assert_string_equal(refused(m), "timer.timer_id");
    longest[TIMER_ID_BYTES_MAX] = 0, assert_string_equal(refused(m), "");
    m->timer->event = longest, assert_string_equal(refused(m), "");
    char *names[TIMER_STATUSES_MAX + 1];
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) names[i] = longest;
    m->timer->expected_statuses = names, m->timer->n_expected_statuses = TIMER_STATUSES_MAX, assert_string_equal(refused(m), "");
    m->timer->n_expected_statuses++, assert_string_equal(refused(m), "timer.expected_statuses");
    m->timer->n_expected_statuses = 1, names[0] = str(""), assert_string_equal(refused(m), "timer.expected_statuses[0]");
    names[0] = str("PAID"), m->timer->event = str(""), assert_string_equal(refused(m), "timer.expected_statuses");
    m->timer->n_expected_statuses = 0;
    Google__Protobuf__Timestamp *time = m->timer->fire_time;
    m->timer->fire_time = NULL, assert_string_equal(refused(m), "timer.fire_time");
    m->timer->fire_time = time, time->nanos = -1, assert_string_equal(refused(m), "timer.fire_time");
    m->timer = NULL, assert_string_equal(refused(m), "timer");
}

static void a_part_of_a_microsecond_is_rounded_up(void **state)
{
    Orderdb__V1__SetOrderTimerRequest *m = set_request();
    struct checked checked;
    struct command c;
    struct failure f;
    m->timer->fire_time->nanos = 1001;
    failure_init(&f, &arena);
    assert_true(check_set_timer(m, (struct slice){0}, &arena, &checked, &f));
    assert_int_equal(command_decode(checked.command, &arena, &c), STATUS_OK);
    assert_int_equal(c.set_timer.fire_us, 1800000000000002);
}

/* ---- the longest */

static void the_largest_timers_fit_everywhere(void **state)
{
    char longest[TIMER_ID_BYTES_MAX + 1];
    memset(longest, 'x', TIMER_ID_BYTES_MAX), longest[TIMER_ID_BYTES_MAX] = 0;
    create("alice");
    struct order_timers ts = {.count = TIMERS_MAX};
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        ts.at[i] = (struct order_timer){.timer_id = slice_str(arena_printf(&arena, "%02u%.62s", i, longest)), .event = slice_str(longest), .fire_us = INT64_MAX / 1000, .no = (uint8_t)i,
                                        .status_count = TIMER_STATUSES_MAX};
        for (unsigned k = 0; k < TIMER_STATUSES_MAX; k++) ts.at[i].statuses[k] = 1;
    }
    struct order_head h = head();
    h.timers = encoded(&ts);
    struct slice wire = order_head_wire(&h, ms, &arena);
    assert_non_null(wire.data);
    Orderdb__V1__Order *m = orderdb__v1__order__unpack(NULL, wire.len, wire.data);
    assert_non_null(m);
    assert_int_equal(m->n_timers, TIMERS_MAX);
    assert_int_equal(m->timers[TIMERS_MAX - 1]->n_expected_statuses, TIMER_STATUSES_MAX);
    orderdb__v1__order__free_unpacked(m, NULL);
}

#define APPLY_TEST(f) cmocka_unit_test_setup_teardown(f, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        APPLY_TEST(timers_come_back_and_are_golden),
        APPLY_TEST(the_record_comes_back_and_is_golden),
        APPLY_TEST(a_head_with_timers_is_of_another_format),
        APPLY_TEST(a_status_brings_its_timers_and_takes_them_along),
        APPLY_TEST(an_import_begins_no_timers),
        APPLY_TEST(set_is_a_commit_and_replaces),
        APPLY_TEST(the_statuss_own_timer_can_be_moved),
        APPLY_TEST(a_past_time_is_now),
        APPLY_TEST(timers_of_callers_go_with_what_they_expect_or_with_the_end),
        APPLY_TEST(refusals_name_their_reason),
        APPLY_TEST(a_replay_answers_what_the_first_one_did),
        APPLY_TEST(an_older_version_has_the_timers_that_it_had),
        APPLY_TEST(a_timer_moves_the_order_once_and_not_before_its_time),
        APPLY_TEST(a_paid_order_is_never_timed_out),
        APPLY_TEST(the_payment_that_comes_second_is_told_who_was_first),
        APPLY_TEST(a_timer_without_event_tells_and_keeps_the_status),
        APPLY_TEST(a_transition_that_is_not_possible_is_told_with_its_reason),
        APPLY_TEST(events_say_which_kind),
        APPLY_TEST(the_shape_of_a_timer_is_checked),
        APPLY_TEST(a_part_of_a_microsecond_is_rounded_up),
        APPLY_TEST(the_largest_timers_fit_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
