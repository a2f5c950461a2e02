/* client/orderdb.h's promises for orderdb_read_changes(), against a server in a thread: event number n of one slot, cursor "n". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdatomic.h>
#include <cmocka.h>

#include "client/channel.h"
#include "client/orderdb.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"

enum { BATCH = 4, ALL = 40 };

static struct {
    atomic_uint calls, refusals_left;
    unsigned messages_a_call; /* then `ending`; 0: all that there are, then OK */
    enum { END_DROP, END_UNAVAILABLE, END_SILENT, END_GARBAGE } ending;
    int refusal_code;
    char pushback[16];
    char cursors[32][32]; /* of the requests, as they came */
    char filter[32], user[32];
} plan;

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    if (strcmp(r->path, "/orderdb.v1.StreamService/ReadChanges") != 0) return;
    unsigned n = plan.calls++;
    struct slice m = slice_of(r->body.data + GRPC_FRAME_HEAD, r->body.len - GRPC_FRAME_HEAD);
    Orderdb__V1__ReadChangesRequest *q = orderdb__v1__read_changes_request__unpack(NULL, m.len, m.data);
    check(q);
    if (n < ARRAY_LEN(plan.cursors)) snprintf(plan.cursors[n], sizeof(plan.cursors[n]), "%.*s", (int)q->cursor.len, (const char *)q->cursor.data);
    snprintf(plan.filter, sizeof(plan.filter), "%s", q->filter);
    snprintf(plan.user, sizeof(plan.user), "%s", q->user_id);
    orderdb__v1__read_changes_request__free_unpacked(q, NULL);
    if (plan.refusals_left) {
        plan.refusals_left--;
        out->action = FAKE_STATUS_ONLY, out->grpc_status = plan.refusal_code;
        snprintf(out->message, sizeof(out->message), "refused");
        snprintf(out->pushback, sizeof(out->pushback), "%s", plan.pushback);
        return;
    }
    out->action = FAKE_STREAM;
}

static void send_batch(struct fake_stream *s, unsigned after) {
    Orderdb__V1__ChangeEvent events[BATCH], *list[BATCH];
    char ids[BATCH][16], cursor[16];
    Orderdb__V1__ReadChangesResponse m = ORDERDB__V1__READ_CHANGES_RESPONSE__INIT;
    for (unsigned i = 0; i < BATCH; i++) {
        orderdb__v1__change_event__init(&events[i]);
        snprintf(ids[i], sizeof(ids[i]), "1:%u", after + i + 1);
        events[i].event_id = ids[i], events[i].slot = 1, events[i].seq = after + i + 1;
        list[i] = &events[i];
    }
    m.n_events = BATCH, m.events = list;
    m.cursor.len = (size_t)snprintf(cursor, sizeof(cursor), "%u", after + BATCH), m.cursor.data = (uint8_t *)cursor;
    uint8_t bytes[1024];
    fake_stream_send(s, slice_of(bytes, orderdb__v1__read_changes_response__pack(&m, bytes)));
}

static void on_stream(void *user, struct fake_stream *s, const struct slice *message) {
    if (message) return;
    unsigned call = MIN_OF(plan.calls - 1, (unsigned)ARRAY_LEN(plan.cursors) - 1), at = (unsigned)atoi(plan.cursors[call]);
    for (unsigned n = 0; at < ALL && (!plan.messages_a_call || n < plan.messages_a_call); n++, at += BATCH) send_batch(s, at);
    if (at >= ALL) return fake_stream_end(s, 0, "");
    switch (plan.ending) {
    case END_DROP: return fake_stream_drop(s);
    case END_UNAVAILABLE: return fake_stream_end(s, GRPC_UNAVAILABLE, "draining");
    case END_GARBAGE: return fake_stream_send(s, SLICE_LIT("\x0a\xff"));
    case END_SILENT: return;
    }
}

struct world {
    struct fake_grpc *server;
    struct orderdb_client *db;
};
static void world_open(struct world *w, const struct orderdb_options *o) {
    char target[32];
    memset(&plan, 0, sizeof(plan));
    w->server = fake_grpc_start(handler, NULL, false, 0);
    fake_grpc_on_stream(w->server, on_stream);
    snprintf(target, sizeof(target), "127.0.0.1:%u", fake_grpc_port(w->server));
    w->db = orderdb_open(target, o);
    assert_non_null(w->db);
}
static void world_close(struct world *w) {
    orderdb_close(w->db);
    fake_grpc_stop(w->server);
}
static struct orderdb_changes *read_from(struct world *w, const char *cursor) {
    Orderdb__V1__ReadChangesRequest r = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    r.filter = "type = \"CREATED\"", r.user_id = "ann";
    r.cursor.data = (uint8_t *)cursor, r.cursor.len = strlen(cursor);
    struct orderdb_changes *c = orderdb_read_changes(w->db, &r, NULL);
    assert_non_null(c);
    return c;
}
static void assert_cursor(const struct orderdb_changes *c, unsigned n) {
    char text[16];
    size_t bytes;
    const uint8_t *cursor = orderdb_changes_cursor(c, &bytes);
    snprintf(text, sizeof(text), "%u", n);
    assert_int_equal(bytes, strlen(text));
    assert_memory_equal(cursor, text, bytes);
}
/* From `at` to the end: every event once, in order, and the cursor behind what was given. */
static unsigned read_all(struct orderdb_changes *c, unsigned at, enum orderdb_changes_result *how) {
    const Orderdb__V1__ReadChangesResponse *m;
    while ((*how = orderdb_changes_next(c, 20000, &m)) == ORDERDB_CHANGES_EVENTS) {
        assert_null(orderdb_changes_error(c));
        for (size_t i = 0; i < m->n_events; i++) assert_int_equal(m->events[i]->seq, ++at);
        assert_cursor(c, at);
    }
    assert_null(m);
    return at;
}

static void test_all_events_then_the_end(void **state) {
    struct world w;
    enum orderdb_changes_result how;
    world_open(&w, NULL);
    struct orderdb_changes *c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), ALL);
    assert_int_equal(how, ORDERDB_CHANGES_END);
    assert_int_equal(plan.calls, 1);
    assert_string_equal(plan.filter, "type = \"CREATED\"");
    assert_string_equal(plan.user, "ann");
    const uint8_t *bytes;
    size_t n;
    assert_int_equal(orderdb_changes_next_bytes(c, 0, &bytes, &n), ORDERDB_CHANGES_END); /* and so it stays */
    orderdb_changes_close(c);
    c = read_from(&w, "12"); /* the caller's cursor */
    assert_cursor(c, 12);
    assert_int_equal(read_all(c, 12, &how), ALL);
    assert_string_equal(plan.cursors[1], "12");
    orderdb_changes_close(c);
    orderdb_changes_close(NULL);
    world_close(&w);
}

static void test_it_goes_on_behind_what_was_given(void **state) {
    static const int endings[] = {END_DROP, END_UNAVAILABLE};
    for (unsigned i = 0; i < ARRAY_LEN(endings); i++) {
        struct world w;
        enum orderdb_changes_result how;
        world_open(&w, NULL);
        plan.messages_a_call = 2, plan.ending = endings[i];
        struct orderdb_changes *c = read_from(&w, "");
        assert_int_equal(read_all(c, 0, &how), ALL);
        assert_int_equal(how, ORDERDB_CHANGES_END);
        assert_in_range(plan.calls, 5, 11); /* a drop may overtake what was sent: then it comes with the next call */
        for (unsigned n = 1; n < plan.calls; n++) assert_true(atoi(plan.cursors[n]) >= atoi(plan.cursors[n - 1]));
        orderdb_changes_close(c);
        world_close(&w);
    }
}

static void test_what_was_not_given_comes_again(void **state) {
    struct world w;
    enum orderdb_changes_result how;
    const Orderdb__V1__ReadChangesResponse *m;
    world_open(&w, NULL);
    plan.messages_a_call = 3, plan.ending = END_UNAVAILABLE;
    struct orderdb_changes *c = read_from(&w, "");
    assert_int_equal(orderdb_changes_next(c, 20000, &m), ORDERDB_CHANGES_EVENTS);
    assert_cursor(c, BATCH);
    orderdb_changes_close(c); /* two more messages were there */
    c = read_from(&w, "4");
    assert_int_equal(read_all(c, 4, &how), ALL);
    orderdb_changes_close(c);
    world_close(&w);
}

static void test_a_quiet_stream_lets_the_caller_go(void **state) {
    struct world w;
    const Orderdb__V1__ReadChangesResponse *m;
    world_open(&w, NULL);
    plan.messages_a_call = 1, plan.ending = END_SILENT;
    struct orderdb_changes *c = read_from(&w, "");
    assert_int_equal(orderdb_changes_next(c, 20000, &m), ORDERDB_CHANGES_EVENTS);
    assert_int_equal(orderdb_changes_next(c, 30, &m), ORDERDB_CHANGES_TIMEOUT);
    assert_int_equal(orderdb_changes_next(c, 0, &m), ORDERDB_CHANGES_TIMEOUT);
    assert_null(m);
    assert_null(orderdb_changes_error(c));
    const uint8_t *answer; /* other calls go on beside it */
    size_t bytes;
    assert_true(orderdb_call(w.db, "/other", "x", 1, NULL, &answer, &bytes));
    assert_int_equal(orderdb_changes_next(c, 30, &m), ORDERDB_CHANGES_TIMEOUT);
    orderdb_changes_close(c);
    world_close(&w);
}

static void test_refusals_end_it_and_passing_ones_do_not(void **state) {
    struct world w;
    enum orderdb_changes_result how;
    world_open(&w, NULL);
    plan.refusals_left = 1;
    plan.refusal_code = GRPC_INVALID_ARGUMENT;
    struct orderdb_changes *c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), 0);
    assert_int_equal(how, ORDERDB_CHANGES_FAILED);
    assert_int_equal(orderdb_error_code(orderdb_changes_error(c)), GRPC_INVALID_ARGUMENT);
    assert_string_equal(orderdb_error_message(orderdb_changes_error(c)), "refused");
    assert_int_equal(plan.calls, 1);
    orderdb_changes_close(c);

    plan.refusals_left = 3;
    plan.refusal_code = GRPC_UNAVAILABLE;
    c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), ALL);
    assert_int_equal(plan.calls, 5);
    orderdb_changes_close(c);

    plan.refusals_left = 1;
    plan.refusal_code = GRPC_RESOURCE_EXHAUSTED;
    c = read_from(&w, ""); /* no delay was named */
    assert_int_equal(read_all(c, 0, &how), 0);
    assert_int_equal(how, ORDERDB_CHANGES_FAILED);
    orderdb_changes_close(c);
    plan.refusals_left = 2;
    strcpy(plan.pushback, "3");
    c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), ALL);
    orderdb_changes_close(c);
    plan.refusals_left = 1;
    plan.refusal_code = GRPC_UNAVAILABLE;
    strcpy(plan.pushback, "-1"); /* the server says never */
    c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), 0);
    assert_int_equal(how, ORDERDB_CHANGES_FAILED);
    orderdb_changes_close(c);
    world_close(&w);
}

static void test_an_outage_has_an_end(void **state) {
    struct world w;
    const Orderdb__V1__ReadChangesResponse *m;
    world_open(&w, NULL);
    plan.messages_a_call = 1, plan.ending = END_SILENT;
    Orderdb__V1__ReadChangesRequest r = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    const struct orderdb_changes_options o = {.outage_ms_max = 200};
    struct orderdb_changes *c = orderdb_read_changes(w.db, &r, &o);
    assert_int_equal(orderdb_changes_next(c, 20000, &m), ORDERDB_CHANGES_EVENTS);
    fake_grpc_stop(w.server);
    enum orderdb_changes_result how;
    bool told = false;
    while ((how = orderdb_changes_next(c, 10, &m)) == ORDERDB_CHANGES_TIMEOUT) told |= orderdb_changes_error(c) != NULL;
    assert_int_equal(how, ORDERDB_CHANGES_FAILED);
    assert_true(told); /* before it failed for good */
    assert_int_equal(orderdb_error_code(orderdb_changes_error(c)), GRPC_UNAVAILABLE);
    assert_cursor(c, BATCH);
    orderdb_changes_close(c);
    orderdb_close(w.db);

    w.db = orderdb_open("127.0.0.1:1", NULL); /* nobody was ever there: told at once */
    c = orderdb_read_changes(w.db, &r, NULL);
    assert_int_equal(orderdb_changes_next(c, 20000, &m), ORDERDB_CHANGES_FAILED);
    orderdb_changes_close(c);
    orderdb_close(w.db);
}

static void test_garbage_is_refused(void **state) {
    struct world w;
    enum orderdb_changes_result how;
    world_open(&w, NULL);
    plan.messages_a_call = 1, plan.ending = END_GARBAGE;
    struct orderdb_changes *c = read_from(&w, "");
    assert_int_equal(read_all(c, 0, &how), BATCH);
    assert_int_equal(how, ORDERDB_CHANGES_FAILED);
    assert_int_equal(orderdb_error_code(orderdb_changes_error(c)), GRPC_INTERNAL);
    orderdb_changes_close(c);
    world_close(&w);
}

static void test_every_allocation_may_fail(void **state) {
    struct world w;
    world_open(&w, NULL);
    unsigned failed = 0;
    for (uint64_t nth = 1; nth < 300; nth++) {
        Orderdb__V1__ReadChangesRequest r = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
        uint64_t before = mem_count();
        mem_fail_nth(nth);
        struct orderdb_changes *c = orderdb_read_changes(w.db, &r, NULL);
        enum orderdb_changes_result how = ORDERDB_CHANGES_FAILED;
        if (c) read_all(c, 0, &how);
        else assert_int_equal(orderdb_error_code(orderdb_error(w.db)), GRPC_RESOURCE_EXHAUSTED);
        orderdb_changes_close(c);
        mem_fail_nth(0);
        if (how == ORDERDB_CHANGES_FAILED) failed++;
        if (mem_count() - before < nth) break;
    }
    assert_true(failed > 5);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_events_then_the_end),
        cmocka_unit_test(test_it_goes_on_behind_what_was_given),
        cmocka_unit_test(test_what_was_not_given_comes_again),
        cmocka_unit_test(test_a_quiet_stream_lets_the_caller_go),
        cmocka_unit_test(test_refusals_end_it_and_passing_ones_do_not),
        cmocka_unit_test(test_an_outage_has_an_end),
        cmocka_unit_test(test_garbage_is_refused),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
