/* tools/verify.h's promises, and `orderctl order verify` against a server that tampers with its answers. */
#include "tests/lib/test.h"

#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "tests/lib/fake_grpc.h"
#include "tools/cmd_verify.h"
#include "tools/verify.h"

enum { ENTRIES = 3 };

/* An order of three versions whose chain holds; each test breaks a part of it. */
struct history {
    Orderdb__V1__Order order;
    Orderdb__V1__HistoryEntry entries[ENTRIES];
    Google__Protobuf__Timestamp times[ENTRIES];
    uint8_t hashes[ENTRIES][SHA256_BYTES];
    char statuses[ENTRIES][32];
};

/* The hashes that belong to the entries as they are, from one of them on: what a forger would compute. */
static void history_seal(struct history *h, size_t from) {
    static const uint8_t zeros[SHA256_BYTES];
    for (size_t i = from; i < ENTRIES; i++) {
        assert_true(verify_chain_hash(h->order.order_id, i ? h->hashes[i - 1] : zeros, &h->entries[i], h->hashes[i]));
        h->entries[i].chain_hash = (ProtobufCBinaryData){SHA256_BYTES, h->hashes[i]};
    }
}

static void history_init(struct history *h) {
    static const char *const events[] = {"create", "pay", "ship"}, *const statuses[] = {"PENDING_PAYMENT", "PAID", "SHIPPED"};
    orderdb__v1__order__init(&h->order);
    h->order.order_id = 77, h->order.version = ENTRIES, h->order.status = h->statuses[ENTRIES - 1];
    for (size_t i = 0; i < ENTRIES; i++) {
        Orderdb__V1__HistoryEntry *e = &h->entries[i];
        orderdb__v1__history_entry__init(e);
        google__protobuf__timestamp__init(&h->times[i]);
        snprintf(h->statuses[i], sizeof(h->statuses[i]), "%s", statuses[i]);
        h->times[i].seconds = 1767225600 + (int64_t)i, h->times[i].nanos = 123456000;
        e->version = (int64_t)i + 1, e->event = (char *)(uintptr_t)events[i], e->time = &h->times[i];
        e->to_status = h->statuses[i];
        if (i) e->from_status = h->statuses[i - 1];
        e->operator_ = (char *)(uintptr_t) "op", e->request_id = (char *)(uintptr_t) "request-0000000001";
    }
    history_seal(h, 0);
}

/* Which version breaks; 0: none. */
static int64_t broken_at(const struct history *h, char error[VERIFY_ERROR_BYTES]) {
    struct verify v;
    verify_begin(&v, &h->order);
    for (size_t i = 0; i < ENTRIES; i++) {
        if (!verify_entry(&v, &h->entries[i], error)) return (int64_t)i + 1;
    }
    return verify_end(&v, error) ? 0 : -1;
}

#define assert_broken(h, version, words) \
    do { \
        char error_[VERIFY_ERROR_BYTES] = ""; \
        assert_int_equal(broken_at(h, error_), version); \
        if (!strstr(error_, words)) fail_msg("\"%s\" is not in: %s", words, error_); \
    } while (0)

/* The same bytes that the engine's own computation is held to (tests/unit/test_order.c). */
static void the_hash_is_that_of_the_engine(void **state) {
    Orderdb__V1__HistoryEntry e = ORDERDB__V1__HISTORY_ENTRY__INIT;
    Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    uint8_t previous[SHA256_BYTES], hash[SHA256_BYTES];
    for (int i = 0; i < SHA256_BYTES; i++) previous[i] = (uint8_t)(i * 7);
    time.seconds = 1767225600, time.nanos = 123456000;
    e.version = 2, e.time = &time;
    e.event = (char *)(uintptr_t) "pay", e.from_status = (char *)(uintptr_t) "PENDING_PAYMENT", e.to_status = (char *)(uintptr_t) "PAID";
    e.operator_ = (char *)(uintptr_t) "op", e.reason = (char *)(uintptr_t) "because", e.request_id = (char *)(uintptr_t) "request-0000000001";
    e.traceparent = (char *)(uintptr_t) "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_true(verify_chain_hash(77, previous, &e, hash));
    assert_golden("history_chain", slice_of(hash, sizeof(hash)));
}

static void a_true_history_holds(void **state) {
    struct history h;
    char error[VERIFY_ERROR_BYTES];
    history_init(&h);
    assert_int_equal(broken_at(&h, error), 0);
    h.order.version = 2, h.order.status = h.statuses[1]; /* it was shipped after the order had been read */
    assert_int_equal(broken_at(&h, error), 0);
}

static void every_changed_field_breaks_the_link(void **state) {
    struct history good, h;
    history_init(&good);
    char **const fields[] = {&h.entries[1].event, &h.entries[1].operator_, &h.entries[1].reason, &h.entries[1].request_id, &h.entries[1].traceparent};
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        history_init(&h);
        *fields[i] = (char *)(uintptr_t) "tampered";
        assert_broken(&h, 2, "its chain hash says");
    }
    history_init(&h);
    h.times[1].nanos += 1000;
    assert_broken(&h, 2, "its chain hash says");
    history_init(&h);
    h.hashes[1][31] ^= 1;
    assert_broken(&h, 2, "its chain hash says");
    history_init(&h);
    h.order.order_id = 78; /* the history of another order */
    assert_broken(&h, 1, "its chain hash says");
    history_init(&h);
    h.entries[2].chain_hash.len = 31;
    assert_broken(&h, 3, "31 bytes");
}

static void who_changes_an_entry_must_change_all_behind_it(void **state) {
    struct history h;
    history_init(&h);
    h.entries[0].reason = (char *)(uintptr_t) "tampered";
    verify_chain_hash(77, (const uint8_t[SHA256_BYTES]){0}, &h.entries[0], h.hashes[0]);
    assert_broken(&h, 2, "or an entry before it");
}

static void versions_statuses_and_times_are_checked(void **state) {
    struct history h;
    history_init(&h);
    h.entries[1].version = 3;
    assert_broken(&h, 2, "version 3 follows version 1");
    history_init(&h);
    h.entries[0].version = 2;
    assert_broken(&h, 1, "version 2 follows version 0");
    history_init(&h);
    h.entries[2].from_status = h.statuses[0];
    history_seal(&h, 0); /* hashes alone would hold */
    assert_broken(&h, 3, "starts from \"PENDING_PAYMENT\", but the one before ended in \"PAID\"");
    history_init(&h);
    h.entries[0].from_status = h.statuses[1];
    history_seal(&h, 0);
    assert_broken(&h, 1, "starts from");
    history_init(&h);
    h.order.status = h.statuses[1];
    assert_broken(&h, 3, "but the order of this version is \"PAID\"");
    history_init(&h);
    h.order.version = 4;
    assert_broken(&h, -1, "ends at version 3, the order has version 4");
    history_init(&h);
    h.times[0].nanos++; /* a digit that no hash covers */
    assert_broken(&h, 1, "its time");
    history_init(&h);
    h.times[0].seconds = INT64_MAX;
    assert_broken(&h, 1, "its time");
    history_init(&h);
    h.entries[2].time = NULL;
    assert_broken(&h, 3, "its time");
    history_init(&h);
    char name[VERIFY_STATUS_BYTES + 1];
    memset(name, 'S', sizeof(name) - 1), name[sizeof(name) - 1] = 0;
    h.entries[0].to_status = name;
    assert_broken(&h, 1, "longer");
}

static void an_empty_history_is_none(void **state) {
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    char error[VERIFY_ERROR_BYTES];
    struct verify v;
    verify_begin(&v, &order);
    assert_false(verify_end(&v, error));
}

/* ---- the command: pages of one entry, as the server gave or as somebody in between changed them */

static struct history served;

static void handler(void *user, const struct fake_request *r, struct fake_reply *out) {
    struct slice m = slice_of(r->body.data + GRPC_FRAME_HEAD, r->body.len - GRPC_FRAME_HEAD);
    if (strstr(r->path, "/GetOrder")) {
        out->body_len = orderdb__v1__order__pack(&served.order, out->body);
    } else if (strstr(r->path, "/ListOrders")) {
        Orderdb__V1__Order *orders[] = {&served.order};
        Orderdb__V1__ListOrdersResponse a = ORDERDB__V1__LIST_ORDERS_RESPONSE__INIT;
        a.n_orders = 1, a.orders = orders;
        out->body_len = orderdb__v1__list_orders_response__pack(&a, out->body);
    } else {
        Orderdb__V1__ListOrderHistoryRequest *q = orderdb__v1__list_order_history_request__unpack(NULL, m.len, m.data);
        size_t at = *q->page_token ? (size_t)(q->page_token[0] - '0') : 0;
        char token[2] = {(char)('0' + at + 1), 0};
        Orderdb__V1__HistoryEntry *entries[] = {&served.entries[at]};
        Orderdb__V1__ListOrderHistoryResponse a = ORDERDB__V1__LIST_ORDER_HISTORY_RESPONSE__INIT;
        a.n_entries = 1, a.entries = entries;
        if (at + 1 < ENTRIES) a.next_page_token = token;
        out->body_len = orderdb__v1__list_order_history_response__pack(&a, out->body);
        orderdb__v1__list_order_history_request__free_unpacked(q, NULL);
    }
}

static enum cli_exit verify(struct fake_grpc *f, int argc, char **argv) {
    char target[32];
    snprintf(target, sizeof(target), "127.0.0.1:%u", fake_grpc_port(f));
    struct cli cli = {.command = "order verify", .db = orderdb_open(target, NULL)};
    assert_non_null(cli.db);
    enum cli_exit e = cmd_verify_run(&cli, argc, argv);
    orderdb_close(cli.db);
    return e;
}

static void the_command_reads_every_page_and_tells_tampering(void **state) {
    struct fake_grpc *f = fake_grpc_start(handler, NULL, false, 0);
    char *ids[] = {(char *)(uintptr_t) "77", (char *)(uintptr_t) "x"};
    history_init(&served);
    assert_int_equal(verify(f, 1, ids), CLI_OK);
    served.entries[2].reason = (char *)(uintptr_t) "tampered";
    assert_int_equal(verify(f, 1, ids), CLI_REFUSED);
    const char **user = cmd_verify_flags[0].out;
    *user = "ann";
    assert_int_equal(verify(f, 0, NULL), CLI_REFUSED);
    history_init(&served);
    assert_int_equal(verify(f, 0, NULL), CLI_OK);
    assert_int_equal(verify(f, 1, ids), CLI_USAGE); /* a user and an id */
    *user = NULL;
    assert_int_equal(verify(f, 0, NULL), CLI_USAGE);
    assert_int_equal(verify(f, 2, ids), CLI_USAGE);
    fake_grpc_stop(f);
}

static void without_memory_it_is_an_error(void **state) {
    struct fake_grpc *f = fake_grpc_start(handler, NULL, false, 0);
    char *ids[] = {(char *)(uintptr_t) "77"};
    char target[32];
    history_init(&served);
    snprintf(target, sizeof(target), "127.0.0.1:%u", fake_grpc_port(f));
    bool ended = false;
    for (int64_t n = 1; !ended; n++) {
        struct cli cli = {.command = "order verify", .db = orderdb_open(target, NULL)};
        mem_fail_nth(n);
        enum cli_exit e = cmd_verify_run(&cli, 1, ids);
        mem_fail_nth(0);
        orderdb_close(cli.db);
        ended = e == CLI_OK;
        assert_true(ended || e == CLI_REFUSED || e == CLI_UNAVAILABLE);
        assert_true(n < 1000);
    }
    fake_grpc_stop(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hash_is_that_of_the_engine),
        cmocka_unit_test(a_true_history_holds),
        cmocka_unit_test(every_changed_field_breaks_the_link),
        cmocka_unit_test(who_changes_an_entry_must_change_all_behind_it),
        cmocka_unit_test(versions_statuses_and_times_are_checked),
        cmocka_unit_test(an_empty_history_is_none),
        cmocka_unit_test(the_command_reads_every_page_and_tells_tampering),
        cmocka_unit_test(without_memory_it_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
