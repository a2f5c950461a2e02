/* client/orderdb.h's promises for consumers, against a group in a thread: users of some events each, given out in order for each user, on credit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <pthread.h>
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

enum { USERS = 6, EACH = 8, ALL = USERS * EACH };

/* ---- the group; all of it on the server's thread, but what is atomic */
static struct {
    /* the plan */
    int32_t ack_timeout_ms, key_window;
    Orderdb__V1__ConsumerGroup__OrderingKey key;
    int lookup_code, refusal_code; /* of GetConsumerGroup; of Subscribe after Open */
    unsigned refusals;
    atomic_uint drop_after;        /* acks: then the connection is lost, once; 0: never */
    bool overgenerous;             /* gives more than it was asked for */
    /* what is */
    struct {
        bool leased, acked, dead;
        int attempts;
    } events[USERS][EACH];
    int64_t credit;
    /* what was seen */
    atomic_uint settled, stale, extends, opens, half_closes, nacks, ack_messages;
    atomic_int most_out; /* credit and leases together */
    char member[64], error[1100];
    int64_t delay_ms;
} group;

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    if (strstr(r->path, "/Subscribe")) {
        out->action = FAKE_STREAM;
        return;
    }
    out->grpc_status = group.lookup_code;
    if (out->grpc_status) return;
    Orderdb__V1__ConsumerGroup g = ORDERDB__V1__CONSUMER_GROUP__INIT;
    Google__Protobuf__Duration d = GOOGLE__PROTOBUF__DURATION__INIT;
    d.seconds = group.ack_timeout_ms / 1000, d.nanos = group.ack_timeout_ms % 1000 * 1000000;
    g.group = "pay", g.ordering_key = group.key, g.key_window = group.key_window;
    if (group.ack_timeout_ms) g.ack_timeout = &d;
    out->body_len = orderdb__v1__consumer_group__pack(&g, out->body);
}

static void send_event(struct fake_stream *s, int u, int n) {
    char id[32], name[16];
    Orderdb__V1__ChangeEvent e = ORDERDB__V1__CHANGE_EVENT__INIT, *list[] = {&e};
    Orderdb__V1__SubscribeResponse__Batch batch = ORDERDB__V1__SUBSCRIBE_RESPONSE__BATCH__INIT;
    Orderdb__V1__SubscribeResponse m = ORDERDB__V1__SUBSCRIBE_RESPONSE__INIT;
    snprintf(id, sizeof(id), "%d:%d", u, n + 1);
    snprintf(name, sizeof(name), "u%d", u);
    e.event_id = id, e.slot = u, e.seq = n + 1, e.user_id = name, e.order_id = 100 * u + n, e.delivery_attempt = ++group.events[u][n].attempts;
    batch.n_events = 1, batch.events = list;
    m.msg_case = ORDERDB__V1__SUBSCRIBE_RESPONSE__MSG_BATCH, m.batch = &batch;
    uint8_t bytes[256];
    fake_stream_send(s, slice_of(bytes, orderdb__v1__subscribe_response__pack(&m, bytes)));
}

static void give_out(struct fake_stream *s) {
    for (int n = 0; n < EACH; n++) {
        for (int u = 0; u < USERS && (group.credit > 0 || group.overgenerous); u++) {
            int in_flight = 0, before = 0;
            for (int i = 0; i < EACH; i++) in_flight += group.events[u][i].leased;
            for (int i = 0; i < n; i++) before += !group.events[u][i].leased && !group.events[u][i].acked && !group.events[u][i].dead;
            if (group.events[u][n].leased || group.events[u][n].acked || group.events[u][n].dead || before || in_flight >= group.key_window) continue;
            group.events[u][n].leased = true;
            group.credit--;
            send_event(s, u, n);
        }
    }
}

static void note_out(void) {
    int out = (int)group.credit;
    for (int u = 0; u < USERS; u++)
        for (int i = 0; i < EACH; i++) out += group.events[u][i].leased;
    if (out > group.most_out) group.most_out = out;
}

static void ack(struct fake_stream *s, char *id) {
    int u, n;
    check(sscanf(id, "%d:%d", &u, &n) == 2);
    if (group.events[u][n - 1].leased) {
        group.events[u][n - 1].leased = false;
        group.events[u][n - 1].acked = true;
        group.settled++;
    } else {
        Orderdb__V1__SubscribeResponse m = ORDERDB__V1__SUBSCRIBE_RESPONSE__INIT;
        Orderdb__V1__SubscribeResponse__Stale stale = ORDERDB__V1__SUBSCRIBE_RESPONSE__STALE__INIT;
        stale.n_event_ids = 1, stale.event_ids = &id;
        m.msg_case = ORDERDB__V1__SUBSCRIBE_RESPONSE__MSG_STALE, m.stale = &stale;
        uint8_t bytes[256];
        fake_stream_send(s, slice_of(bytes, orderdb__v1__subscribe_response__pack(&m, bytes)));
        group.stale++;
    }
}

static void nack(const Orderdb__V1__SubscribeRequest__Nack *q) {
    int u, n;
    check(sscanf(q->event_id, "%d:%d", &u, &n) == 2);
    group.nacks++;
    snprintf(group.error, sizeof(group.error), "%s", q->error);
    group.delay_ms = q->delay ? q->delay->seconds * 1000 + q->delay->nanos / 1000000 : 0;
    if (!group.events[u][n - 1].leased) return;
    if (q->dead) {
        group.events[u][n - 1].leased = false;
        group.events[u][n - 1].dead = true;
        group.settled++;
        return;
    }
    for (int i = n - 1; i < EACH; i++) group.events[u][i].leased = false; /* and what is behind it */
}

static void on_stream(void *user, struct fake_stream *s, const struct slice *message) {
    if (!message) {
        group.half_closes++;
        return fake_stream_end(s, 0, "");
    }
    Orderdb__V1__SubscribeRequest *r = orderdb__v1__subscribe_request__unpack(NULL, message->len, message->data);
    check(r);
    switch (r->msg_case) {
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN:
        group.opens++;
        group.credit = 0;
        snprintf(group.member, sizeof(group.member), "%s", r->open->member_id);
        check(strcmp(r->open->group, "pay") == 0);
        for (int u = 0; u < USERS; u++)
            for (int i = 0; i < EACH; i++) group.events[u][i].leased = false;
        if (group.refusals) group.refusals--, fake_stream_end(s, group.refusal_code, "refused");
        break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_CREDIT: group.credit += r->credit->events; break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_ACK:
        group.ack_messages++;
        for (size_t i = 0; i < r->ack->n_event_ids; i++) ack(s, r->ack->event_ids[i]);
        if (group.drop_after && group.settled >= group.drop_after) {
            group.drop_after = 0;
            fake_stream_drop(s);
        }
        break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_NACK: nack(r->nack); break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_EXTEND: group.extends += (unsigned)r->extend->n_event_ids; break;
    default: check(false);
    }
    bool refused = r->msg_case == ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN;
    orderdb__v1__subscribe_request__free_unpacked(r, NULL);
    if (refused) return;
    note_out();
    give_out(s);
}

/* ---- the consumer's side */
static struct {
    atomic_uint handled, at_once, most_at_once;
    atomic_bool busy[USERS];
    atomic_int last[USERS]; /* settled with ACK or DEAD */
    atomic_uint repeats;
    int nack_seq, dead_seq; /* the first time a user's event of this seq comes; every time */
    int later_seq;
    atomic_uint later_count;
    struct orderdb_delivery *later[ALL];
    bool is_not_in_order;       /* the group has no key that orders users */
    unsigned stop_after;
    struct orderdb_consumer *consumer;
} seen;

static enum orderdb_verdict handle(void *user, struct orderdb_delivery *d) {
    const Orderdb__V1__ChangeEvent *e = orderdb_delivery_event(d);
    int u = e->slot, n = (int)e->seq;
    bool alone = !atomic_exchange(&seen.busy[u], true);
    check(alone || seen.is_not_in_order);
    unsigned now = ++seen.at_once;
    if (now > seen.most_at_once) seen.most_at_once = now;
    if (n <= seen.last[u]) seen.repeats++;
    check(n <= seen.last[u] + 1 || seen.is_not_in_order); /* nothing is skipped */
    enum orderdb_verdict v = ORDERDB_ACK;
    if (n == seen.nack_seq && e->delivery_attempt == 1) {
        orderdb_delivery_note(d, 1500, "not yet");
        v = ORDERDB_NACK;
    } else if (n == seen.dead_seq) {
        orderdb_delivery_note(d, 0, "never");
        v = ORDERDB_DEAD;
    } else if (n == seen.later_seq) {
        v = ORDERDB_LATER;
    }
    if (v != ORDERDB_NACK && n > seen.last[u]) seen.last[u] = n;
    seen.at_once--;
    seen.busy[u] = false;
    if (v == ORDERDB_LATER) seen.later[seen.later_count++] = d;
    if (++seen.handled == seen.stop_after) orderdb_consumer_stop(seen.consumer);
    return v;
}

struct world {
    struct fake_grpc *server;
    struct orderdb_consumer *c;
    char target[48];
};
static void world_begin(struct world *w) {
    memset(&group, 0, sizeof(group));
    memset(&seen, 0, sizeof(seen));
    group.key_window = 1, group.ack_timeout_ms = 30000;
    w->c = NULL;
    w->server = fake_grpc_start(handler, NULL, true, 0);
    fake_grpc_on_stream(w->server, on_stream);
    snprintf(w->target, sizeof(w->target), "127.0.0.1:%u", fake_grpc_port(w->server));
}
static void consumer_open(struct world *w, const struct orderdb_consumer_options *o) {
    w->c = orderdb_consumer_open(w->target, NULL, "pay", o, handle, NULL);
    assert_non_null(w->c);
    seen.consumer = w->c;
}
static void world_end(struct world *w) {
    orderdb_consumer_close(w->c);
    fake_grpc_stop(w->server);
}
#define RUN_UNTIL(w, condition) \
    for (uint64_t until_ = channel_now_ns() + 20 * NS_PER_S; !(condition);) { \
        assert_int_equal(orderdb_consumer_run((w)->c, 10), ORDERDB_CONSUMER_RUNS); \
        assert_true(channel_now_ns() < until_); \
    }
static void run_to_stop(struct world *w) {
    orderdb_consumer_stop(w->c);
    assert_int_equal(orderdb_consumer_run(w->c, 20000), ORDERDB_CONSUMER_STOPPED);
}

static void test_every_event_once_in_order_and_a_graceful_end(void **state) {
    static const bool on_run[] = {false, true};
    for (unsigned i = 0; i < ARRAY_LEN(on_run); i++) {
        for (int window = 1; window <= 4; window += 3) {
            struct world w;
            world_begin(&w);
            group.key_window = window;
            const struct orderdb_consumer_options o = {.on_run = on_run[i], .in_flight_max = 10, .member_id = "m1"};
            consumer_open(&w, &o);
            RUN_UNTIL(&w, group.settled == ALL);
            run_to_stop(&w);
            struct orderdb_consumer_stats s = orderdb_consumer_stats(w.c);
            assert_int_equal(s.given, ALL);
            assert_int_equal(s.acked, ALL);
            assert_int_equal(s.connections, 1);
            assert_int_equal(s.stale + s.lost + s.nacked + s.dead + s.in_flight, 0);
            assert_int_equal(seen.handled, ALL);
            assert_int_equal(seen.repeats, 0);
            assert_true(group.most_out <= 10); /* never more than in_flight_max */
            assert_int_equal(group.half_closes, 1);
            assert_string_equal(group.member, "m1");
            assert_true(on_run[i] ? seen.most_at_once == 1 : seen.most_at_once <= 4);
            assert_true(group.ack_messages <= ALL);
            world_end(&w);
        }
    }
}

static void test_a_nack_holds_its_key_and_no_other(void **state) {
    struct world w;
    world_begin(&w);
    group.key_window = 4; /* later ones are here already when it is said */
    seen.nack_seq = 3;
    consumer_open(&w, NULL);
    RUN_UNTIL(&w, group.settled == ALL); /* handle() checks that none was skipped */
    struct orderdb_consumer_stats s = orderdb_consumer_stats(w.c);
    assert_int_equal(s.nacked, USERS);
    assert_int_equal(group.nacks, USERS);
    assert_string_equal(group.error, "not yet");
    assert_int_equal(group.delay_ms, 1500);
    assert_int_equal(s.stale, 0);
    run_to_stop(&w);
    world_end(&w);
}

static void test_dead_is_never_given_again(void **state) {
    struct world w;
    world_begin(&w);
    seen.dead_seq = 5;
    consumer_open(&w, NULL);
    RUN_UNTIL(&w, group.settled == ALL);
    run_to_stop(&w);
    assert_int_equal(orderdb_consumer_stats(w.c).dead, USERS);
    assert_int_equal(orderdb_consumer_stats(w.c).acked, ALL - USERS);
    assert_string_equal(group.error, "never");
    world_end(&w);
}

static void test_a_lost_connection_is_made_again(void **state) {
    struct world w;
    world_begin(&w);
    group.key_window = 2;
    group.drop_after = 11;
    const struct orderdb_consumer_options o = {.in_flight_max = 8};
    consumer_open(&w, &o);
    RUN_UNTIL(&w, group.settled == ALL);
    struct orderdb_consumer_stats s = orderdb_consumer_stats(w.c);
    assert_int_equal(s.connections, 2);
    assert_int_equal(group.opens, 2);
    assert_true(seen.repeats <= 8); /* of what was here alone */
    assert_int_equal(strlen(group.member), 32);
    assert_null(orderdb_consumer_error(w.c));
    run_to_stop(&w);
    world_end(&w);
}

static void *finisher(void *arg) {
    unsigned n = seen.later_count;
    for (unsigned i = 0; i < n; i++) orderdb_delivery_done(seen.later[i], ORDERDB_ACK);
    return NULL;
}

static void test_later_is_settled_from_anywhere_and_its_lease_extended(void **state) {
    struct world w;
    world_begin(&w);
    group.ack_timeout_ms = 60;
    seen.later_seq = 2;
    consumer_open(&w, NULL);
    RUN_UNTIL(&w, seen.later_count == USERS && group.extends >= 2 * USERS);
    assert_int_equal(group.settled, USERS); /* the first of each user; the others wait */
    assert_int_equal(orderdb_consumer_stats(w.c).in_flight, USERS);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, finisher, NULL), 0);
    RUN_UNTIL(&w, group.settled == ALL);
    pthread_join(t, NULL);
    run_to_stop(&w);
    assert_int_equal(group.stale, 0);
    world_end(&w);

    world_begin(&w); /* not for ever, where told */
    group.ack_timeout_ms = 40;
    seen.later_seq = 1;
    const struct orderdb_consumer_options o = {.extend_ms_max = 100, .close_ms_max = 1};
    consumer_open(&w, &o);
    RUN_UNTIL(&w, seen.later_count == USERS);
    for (uint64_t until = channel_now_ns() + 400 * NS_PER_MS; channel_now_ns() < until;) orderdb_consumer_run(w.c, 20);
    assert_in_range(group.extends, 1, 5 * USERS); /* 20, 40, 60, 80 ms; 100 is too late */
    run_to_stop(&w); /* waits for close_ms_max and no longer */
    assert_int_equal(group.settled, 0);
    world_end(&w);
}

static void test_orders_and_events_as_keys(void **state) {
    static const Orderdb__V1__ConsumerGroup__OrderingKey keys[] = {ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__ORDER, ORDERDB__V1__CONSUMER_GROUP__ORDERING_KEY__NONE};
    for (unsigned i = 0; i < ARRAY_LEN(keys); i++) {
        struct world w;
        world_begin(&w);
        group.key = keys[i], group.key_window = EACH; /* the fake's users stand for nothing here */
        seen.is_not_in_order = true;
        const struct orderdb_consumer_options o = {.threads = 8};
        consumer_open(&w, &o);
        RUN_UNTIL(&w, group.settled == ALL);
        assert_int_equal(seen.handled, ALL);
        run_to_stop(&w);
        world_end(&w);
    }
}

static void test_stop_takes_nothing_more(void **state) {
    struct world w;
    world_begin(&w);
    group.key_window = EACH;
    seen.stop_after = 3;
    const struct orderdb_consumer_options o = {.threads = 1};
    consumer_open(&w, &o);
    assert_int_equal(orderdb_consumer_run(w.c, ORDERDB_FOREVER), ORDERDB_CONSUMER_STOPPED);
    assert_int_equal(seen.handled, 3);
    assert_int_equal(orderdb_consumer_stats(w.c).acked, seen.handled); /* and all of that was said */
    assert_int_equal(group.settled, seen.handled);
    assert_int_equal(group.half_closes, 1);
    assert_int_equal(orderdb_consumer_run(w.c, 0), ORDERDB_CONSUMER_STOPPED);
    orderdb_consumer_close(w.c);

    consumer_open(&w, NULL); /* before it began */
    run_to_stop(&w);
    assert_int_equal(group.opens, 1);
    orderdb_consumer_close(w.c);
    consumer_open(&w, NULL); /* without a stop: it leaves all the same */
    RUN_UNTIL(&w, group.opens == 2);
    world_end(&w);
}

static void assert_fails(struct world *w, int code) {
    assert_int_equal(orderdb_consumer_run(w->c, 20000), ORDERDB_CONSUMER_FAILED);
    assert_non_null(orderdb_consumer_error(w->c));
    assert_int_equal(orderdb_error_code(orderdb_consumer_error(w->c)), code);
    orderdb_consumer_close(w->c);
    w->c = NULL;
}

static void test_what_ends_it_and_what_does_not(void **state) {
    struct world w;
    world_begin(&w);
    group.lookup_code = GRPC_NOT_FOUND;
    consumer_open(&w, NULL);
    assert_fails(&w, GRPC_NOT_FOUND);
    group.lookup_code = 0;
    group.refusals = 1;
    group.refusal_code = GRPC_ABORTED;
    consumer_open(&w, NULL);
    assert_fails(&w, GRPC_ABORTED);
    group.overgenerous = true;
    const struct orderdb_consumer_options few = {.in_flight_max = 2};
    consumer_open(&w, &few);
    assert_fails(&w, GRPC_INTERNAL);
    group.overgenerous = false;
    memset(group.events, 0, sizeof(group.events));
    memset(&seen, 0, sizeof(seen));
    group.settled = 0;
    group.refusals = 3;
    group.refusal_code = GRPC_UNAVAILABLE;
    consumer_open(&w, NULL);
    RUN_UNTIL(&w, group.settled == ALL);
    run_to_stop(&w);
    orderdb_consumer_close(w.c);
    group.refusals = 1;
    group.refusal_code = 0; /* an end without a reason is none */
    memset(group.events, 0, sizeof(group.events));
    memset(&seen, 0, sizeof(seen));
    group.settled = 0;
    consumer_open(&w, NULL);
    RUN_UNTIL(&w, group.settled == ALL);
    run_to_stop(&w);
    world_end(&w);

    w.c = orderdb_consumer_open("127.0.0.1:1", NULL, "pay", NULL, handle, NULL);
    assert_non_null(w.c);
    assert_fails(&w, GRPC_UNAVAILABLE); /* nobody was ever there: told at once */
    assert_null(orderdb_consumer_open("", NULL, "pay", NULL, handle, NULL));
    assert_int_equal(errno, EINVAL);
    orderdb_consumer_close(NULL);
}

static void test_an_outage_has_an_end(void **state) {
    struct world w;
    world_begin(&w);
    const struct orderdb_consumer_options o = {.outage_ms_max = 200};
    consumer_open(&w, &o);
    RUN_UNTIL(&w, group.settled == ALL);
    fake_grpc_stop(w.server);
    bool told = false;
    enum orderdb_consumer_result r;
    while ((r = orderdb_consumer_run(w.c, 10)) == ORDERDB_CONSUMER_RUNS) told |= orderdb_consumer_error(w.c) != NULL;
    assert_int_equal(r, ORDERDB_CONSUMER_FAILED);
    assert_true(told);
    orderdb_consumer_close(w.c);
}

static void test_every_allocation_may_fail(void **state) {
    unsigned failed = 0, settled = 0;
    const struct orderdb_consumer_options o = {.on_run = true, .in_flight_max = 8, .outage_ms_max = 60};
    for (uint64_t nth = 1; nth < 400; nth += nth < 40 ? 1 : 11) {
        struct world w;
        world_begin(&w);
        seen.nack_seq = 2;
        mem_fail_nth(nth);
        w.c = orderdb_consumer_open(w.target, NULL, "pay", &o, handle, NULL);
        enum orderdb_consumer_result r = ORDERDB_CONSUMER_RUNS;
        uint64_t until = channel_now_ns() + 20 * NS_PER_S;
        while (w.c && r == ORDERDB_CONSUMER_RUNS && group.settled < ALL && channel_now_ns() < until) r = orderdb_consumer_run(w.c, 10);
        mem_fail_nth(0);
        assert_true(channel_now_ns() < until);
        if (r == ORDERDB_CONSUMER_RUNS && w.c) settled++;
        else failed++;
        world_end(&w);
    }
    assert_true(failed > 10);
    assert_true(settled > 1); /* a note without memory is no failure */
}

static void test_of_several_addresses_one_that_is_there_is_joined(void **state) {
    for (int i = 0; i < 2; i++) {
        struct world w;
        world_begin(&w);
        snprintf(w.target, sizeof w.target, i ? "127.0.0.1:%u,127.0.0.1:1" : "127.0.0.1:1,127.0.0.1:%u", fake_grpc_port(w.server));
        consumer_open(&w, NULL);
        RUN_UNTIL(&w, group.settled == ALL);
        run_to_stop(&w);
        assert_int_equal(orderdb_consumer_stats(w.c).connections, 1);
        world_end(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_event_once_in_order_and_a_graceful_end),
        cmocka_unit_test(test_of_several_addresses_one_that_is_there_is_joined),
        cmocka_unit_test(test_a_nack_holds_its_key_and_no_other),
        cmocka_unit_test(test_dead_is_never_given_again),
        cmocka_unit_test(test_a_lost_connection_is_made_again),
        cmocka_unit_test(test_later_is_settled_from_anywhere_and_its_lease_extended),
        cmocka_unit_test(test_orders_and_events_as_keys),
        cmocka_unit_test(test_stop_takes_nothing_more),
        cmocka_unit_test(test_what_ends_it_and_what_does_not),
        cmocka_unit_test(test_an_outage_has_an_end),
        cmocka_unit_test(test_every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
