/* engine/query.h and engine/page_token.h: answers as a stock protobuf parser reads them, and every refusal. */
#include "tests/lib/test.h"

#include "engine/keys.h"
#include "engine/page_token.h"
#include "engine/query.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"
#include "tests/lib/order_rows.h"

enum { ORDERS = 95 };
#define FIRST_US 1750000000000000ll
static const struct slice alice = {(const uint8_t *)"alice", 5}, bob = {(const uint8_t *)"bob", 3};
static const uint8_t key_bytes[32] = {1, 2, 3};

static struct store_mem_disk *disk;
static struct store *store;
static struct store_batch *batch;
static struct machines *machines;
static struct arena arena;
static struct failure failure;
static int64_t ids[ORDERS];
static unsigned put; /* every third order is older than cards */

static uint16_t status_id(const char *name) { return machines_status_id(machines, slice_str(name)); }
static int64_t created_us(int i) { return FIRST_US + i * 60 * US_PER_S; }

static void put_order(struct slice user, int64_t id, int64_t us, uint16_t status, int64_t version, struct slice summary, struct slice detail) {
    order_rows_put(batch, store, machines, &(struct order_rows){.user_id = user, .order_id = id, .create_us = us, .machine = machine_id(machines_find(machines, SLICE_LIT("retail"))),
                                                                 .status = status, .version = version, .summary = summary, .detail = detail, .no_card = put++ % 3 == 0});
    check(store_apply(store, batch) == STATUS_OK);
    store_batch_clear(batch);
}

static int setup(void **state) {
    disk = store_mem_disk_new();
    check(store_open_mem(&store, disk) == STATUS_OK);
    batch = store_batch_new(store);
    machines = machines_new();
    arena_init(&arena, 64 * MIB);
    for (int i = 0; i < ORDERS; i++) {
        uint8_t detail[64];
        struct writer w = writer_of(detail, sizeof detail);
        pb_bytes(&w, 41, SLICE_LIT("extension"));
        ids[i] = order_id_make(created_us(i) / 1000, slot_of_user(alice), 0);
        put_order(alice, ids[i], created_us(i), status_id(i % 5 == 0 ? "PAID" : "PENDING_PAYMENT"), 1 + i % 3, (struct slice){0}, writer_slice(&w));
    }
    put_order(bob, order_id_make(created_us(0) / 1000, slot_of_user(bob), 0), created_us(0), status_id("SHIPPED"), 1, (struct slice){0}, (struct slice){0});
    return 0;
}
static int teardown(void **state) {
    machines_free(machines);
    store_batch_free(batch);
    store_close(store);
    store_mem_disk_free(disk);
    arena_fini(&arena);
    return 0;
}

static struct query query(void) {
    failure_init(&failure, &arena);
    return (struct query){.view = {.store = store}, .machines = machines, .token_key = slice_of(key_bytes, sizeof key_bytes), .arena = &arena, .failure = &failure};
}

static Orderdb__V1__ListOrdersResponse *list(const struct list_request *r) {
    struct query q = query();
    struct slice out;
    enum status st = query_list(&q, r, &out);
    if (st) fail_msg("%s: %s", status_name(st), failure.message);
    Orderdb__V1__ListOrdersResponse *m = orderdb__v1__list_orders_response__unpack(NULL, out.len, out.data);
    assert_non_null(m);
    return m;
}
static void list_free(Orderdb__V1__ListOrdersResponse *m) { orderdb__v1__list_orders_response__free_unpacked(m, NULL); }
static struct slice keep(const char *token) { return arena_copy(&arena, slice_str(token)); }

static void expect_refusal(const struct list_request *r, enum status st, const char *field) {
    struct query q = query();
    struct slice out;
    assert_int_equal(query_list(&q, r, &out), st);
    assert_int_equal(failure.status, st);
    assert_non_null(failure.violations);
    assert_string_equal(failure.violations->field, field);
}

/* ---- get ---- */

static void get_answers_the_order(void **state) {
    struct query q = query();
    struct slice out;
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[4], .full = true}, &out), STATUS_OK);
    Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, out.len, out.data);
    assert_int_equal(o->order_id, ids[4]);
    assert_string_equal(o->user_id, "alice");
    assert_string_equal(o->status, "PENDING_PAYMENT");
    assert_string_equal(o->machine, "retail@1");
    assert_int_equal(o->version, 2);
    assert_int_equal(o->create_time->seconds, created_us(4) / US_PER_S);
    assert_int_equal(o->update_time->seconds, created_us(4) / US_PER_S + 1);
    assert_int_equal(o->extension.len, 9);
    orderdb__v1__order__free_unpacked(o, NULL);
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[4]}, &out), STATUS_OK);
    o = orderdb__v1__order__unpack(NULL, out.len, out.data);
    assert_int_equal(o->extension.len, 0);
    assert_string_equal(o->user_id, "alice");
    orderdb__v1__order__free_unpacked(o, NULL);
}

static void get_refuses_wrong_ids(void **state) {
    struct query q = query();
    struct slice out;
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = 0, .full = true}, &out), STATUS_FIELD_INVALID);
    assert_string_equal(failure.violations->field, "order_id");
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = -5, .full = true}, &out), STATUS_FIELD_INVALID);
    const int64_t wrong[] = {ids[0] + 1, ids[0] ^ 1 << 8, INT64_MAX, 1}; /* another sequence number, another slot, nonsense */
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        q = query();
        assert_int_equal(query_get(&q, &(struct get_request){.order_id = wrong[i], .full = true}, &out), STATUS_ORDER_NOT_FOUND);
        assert_string_equal(failure.metas->key, "order_id");
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)wrong[i]);
        assert_slice(failure.metas->value, text);
    }
}

/* ---- many ---- */

static void many_come_in_the_order_of_their_ids(void **state) {
    struct query q = query();
    const int64_t wanted[] = {ids[7], ids[0] + 1, ids[3], ids[7]};
    struct slice *orders;
    assert_int_equal(query_get_many(&q, wanted, 4, true, &orders), STATUS_OK);
    uint8_t bytes[4096];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (int i = 0; i < 4; i++) write_slice(&w, orders[i]);
    assert_null(orders[1].data);
    Orderdb__V1__BatchGetOrdersResponse *m = orderdb__v1__batch_get_orders_response__unpack(NULL, w.len, bytes);
    assert_int_equal(m->n_orders, 3);
    assert_int_equal(m->orders[0]->order_id, ids[7]);
    assert_int_equal(m->orders[1]->order_id, ids[3]);
    assert_int_equal(m->orders[2]->order_id, ids[7]);
    assert_int_equal(m->orders[1]->extension.len, 9);
    orderdb__v1__batch_get_orders_response__free_unpacked(m, NULL);
    assert_int_equal(query_get_many(&q, wanted, 1, false, &orders), STATUS_OK);
    struct pb_field f;
    struct reader r = reader_of(orders[0]);
    assert_true(pb_next(&r, &f));
    Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, f.bytes.len, f.bytes.data);
    assert_int_equal(o->extension.len, 0);
    orderdb__v1__order__free_unpacked(o, NULL);
    assert_int_equal(query_get_many(&q, wanted, 0, true, &orders), STATUS_OK);
}

static void many_end_where_a_message_does(void **state) {
    static uint8_t big[1 << 20], content[1 << 20];
    struct writer w = writer_of(big, sizeof big);
    pb_bytes(&w, 41, slice_of(content, sizeof content - 16));
    int64_t wanted[5];
    for (int i = 0; i < 5; i++) {
        wanted[i] = order_id_make(created_us(200 + i) / 1000, slot_of_user(alice), 0);
        put_order(alice, wanted[i], created_us(200 + i), status_id("PAID"), 1, (struct slice){0}, slice_of(big, (1 << 20) - 64));
    }
    struct query q = query();
    struct slice *orders;
    assert_int_equal(query_get_many(&q, wanted, 3, true, &orders), STATUS_OK);
    assert_int_equal(query_get_many(&q, wanted, 5, false, &orders), STATUS_OK);
    assert_int_equal(query_get_many(&q, wanted, 5, true, &orders), STATUS_LIMIT_EXCEEDED);
    assert_string_equal(failure.violations->field, "order_ids");
}

/* ---- list ---- */

static void list_is_newest_first_with_totals(void **state) {
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice});
    assert_int_equal(m->n_orders, QUERY_PAGE_SIZE_DEFAULT);
    for (int i = 0; i < 20; i++) assert_int_equal(m->orders[i]->order_id, ids[ORDERS - 1 - i]);
    assert_int_equal(m->orders[0]->extension.len, 0);
    assert_int_equal(m->total_size, ORDERS);
    assert_int_equal(m->n_status_counts, 2);
    for (size_t i = 0; i < 2; i++) assert_int_equal(m->status_counts[i]->value, strcmp(m->status_counts[i]->key, "PAID") == 0 ? 19 : 76);
    assert_true(m->next_page_token[0] != 0);
    list_free(m);
    m = list(&(struct list_request){.user_id = alice, .full = true, .page_size = 1});
    assert_int_equal(m->orders[0]->extension.len, 9);
    list_free(m);
}

static void tokens_walk_every_order_once(void **state) {
    struct slice token = {0};
    int seen = 0;
    for (int32_t page = 0;; page++) {
        Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice, .page_size = 7 + page, .page_token = token, .full = page % 2}); /* size and view may change */
        for (size_t i = 0; i < m->n_orders; i++) assert_int_equal(m->orders[i]->order_id, ids[ORDERS - 1 - seen++]);
        token = keep(m->next_page_token);
        list_free(m);
        if (!token.len) break;
    }
    assert_int_equal(seen, ORDERS);
}

/* An order that comes between two pages moves nothing; a page number would have shown one twice. */
static void tokens_hold_their_place(void **state) {
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice, .page_size = 10});
    struct slice token = keep(m->next_page_token);
    list_free(m);
    put_order(alice, order_id_make(created_us(ORDERS) / 1000, slot_of_user(alice), 0), created_us(ORDERS), status_id("PAID"), 1, (struct slice){0}, (struct slice){0});
    m = list(&(struct list_request){.user_id = alice, .page_size = 10, .page_token = token});
    assert_int_equal(m->orders[0]->order_id, ids[ORDERS - 11]);
    assert_int_equal(m->total_size, ORDERS + 1);
    list_free(m);
}

static void page_numbers_jump_exactly(void **state) {
    for (int page = 1; page <= 11; page++) {
        Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice, .page_size = 10, .page_number = page});
        int expected = page <= 9 ? 10 : page == 10 ? 5 : 0;
        assert_int_equal(m->n_orders, expected);
        for (int i = 0; i < expected; i++) assert_int_equal(m->orders[i]->order_id, ids[ORDERS - 1 - (page - 1) * 10 - i]);
        assert_int_equal(m->next_page_token[0] != 0, page < 10);
        assert_int_equal(m->total_size, ORDERS);
        list_free(m);
    }
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice, .page_size = 1000, .page_number = INT32_MAX});
    assert_int_equal(m->n_orders, 0);
    list_free(m);
}

static void statuses_and_times_filter(void **state) {
    struct slice statuses[] = {SLICE_LIT("PAID"), SLICE_LIT("SHIPPED"), SLICE_LIT("PAID")};
    struct list_request r = {.user_id = alice, .statuses = statuses, .status_count = 3, .has_from = true, .from_us = created_us(10), .has_to = true, .to_us = created_us(30), .page_size = 3};
    Orderdb__V1__ListOrdersResponse *m = list(&r);
    assert_int_equal(m->n_orders, 3);
    assert_int_equal(m->orders[0]->order_id, ids[25]); /* 30 is outside: the range is half open */
    assert_int_equal(m->total_size, 4);                /* 25 20 15 10 */
    assert_int_equal(m->n_status_counts, 2);           /* of all statuses in the range */
    for (size_t i = 0; i < 2; i++) assert_int_equal(m->status_counts[i]->value, strcmp(m->status_counts[i]->key, "PAID") == 0 ? 4 : 16);
    r.page_token = keep(m->next_page_token);
    list_free(m);
    struct slice reordered[] = {SLICE_LIT("SHIPPED"), SLICE_LIT("PAID")}; /* the same set */
    r.statuses = reordered, r.status_count = 2;
    m = list(&r);
    assert_int_equal(m->n_orders, 1);
    assert_int_equal(m->orders[0]->order_id, ids[10]);
    assert_string_equal(m->next_page_token, "");
    list_free(m);
    m = list(&(struct list_request){.user_id = alice, .has_from = true, .from_us = created_us(5), .has_to = true, .to_us = created_us(5)});
    assert_int_equal(m->n_orders, 0);
    assert_int_equal(m->total_size, 0);
    list_free(m);
}

static void a_stranger_has_no_orders(void **state) {
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = SLICE_LIT("nobody")});
    assert_int_equal(m->n_orders, 0);
    assert_int_equal(m->total_size, 0);
    assert_int_equal(m->n_status_counts, 0);
    list_free(m);
}

static void list_refuses_what_is_wrong(void **state) {
    char long_id[65];
    memset(long_id, 'x', 65);
    struct slice unknown[] = {SLICE_LIT("PAID"), SLICE_LIT("paid")}, many[65];
    for (int i = 0; i < 65; i++) many[i] = SLICE_LIT("PAID");
    expect_refusal(&(struct list_request){.user_id = {0}}, STATUS_FIELD_INVALID, "user_id");
    expect_refusal(&(struct list_request){.user_id = slice_of(long_id, 65)}, STATUS_LIMIT_EXCEEDED, "user_id");
    expect_refusal(&(struct list_request){.user_id = alice, .page_size = -1}, STATUS_FIELD_INVALID, "page_size");
    expect_refusal(&(struct list_request){.user_id = alice, .page_size = 1001}, STATUS_LIMIT_EXCEEDED, "page_size");
    expect_refusal(&(struct list_request){.user_id = alice, .page_number = -1}, STATUS_FIELD_INVALID, "page_number");
    expect_refusal(&(struct list_request){.user_id = alice, .page_number = 1, .page_token = SLICE_LIT("x")}, STATUS_FIELD_INVALID, "page_number");
    expect_refusal(&(struct list_request){.user_id = alice, .statuses = unknown, .status_count = 2}, STATUS_FIELD_INVALID, "statuses[1]");
    expect_refusal(&(struct list_request){.user_id = alice, .statuses = many, .status_count = 65}, STATUS_LIMIT_EXCEEDED, "statuses");
    expect_refusal(&(struct list_request){.user_id = alice, .has_from = true, .from_us = 5, .has_to = true, .to_us = 4}, STATUS_FIELD_INVALID, "create_time_from");
    /* every violation at once */
    expect_refusal(&(struct list_request){.user_id = {0}, .page_size = -1, .page_number = -1}, STATUS_FIELD_INVALID, "user_id");
    assert_int_equal(failure.violation_count, 3);
}

static void forged_and_foreign_tokens_are_refused(void **state) {
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = alice, .page_size = 10});
    struct slice token = keep(m->next_page_token);
    list_free(m);
    assert_int_equal(token.len, PAGE_TOKEN_TEXT_BYTES);
    struct slice paid[] = {SLICE_LIT("PAID")};
    expect_refusal(&(struct list_request){.user_id = bob, .page_token = token}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    expect_refusal(&(struct list_request){.user_id = alice, .page_token = token, .statuses = paid, .status_count = 1}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    expect_refusal(&(struct list_request){.user_id = alice, .page_token = token, .has_from = true, .from_us = 1}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    expect_refusal(&(struct list_request){.user_id = alice, .page_token = token, .has_to = true, .to_us = 1}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    expect_refusal(&(struct list_request){.user_id = alice, .page_token = SLICE_LIT("abc")}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    for (size_t i = 0; i < token.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            uint8_t forged[PAGE_TOKEN_TEXT_BYTES];
            memcpy(forged, token.data, token.len);
            forged[i] ^= (uint8_t)(1 << bit);
            expect_refusal(&(struct list_request){.user_id = alice, .page_token = slice_of(forged, token.len)}, STATUS_PAGE_TOKEN_INVALID, "page_token");
        }
    expect_refusal(&(struct list_request){.user_id = alice, .page_token = slice_of(token.data, token.len - 1)}, STATUS_PAGE_TOKEN_INVALID, "page_token");
    /* of another cluster */
    struct query q = query();
    uint8_t other[32] = {9};
    struct slice out;
    q.token_key = slice_of(other, sizeof other);
    assert_int_equal(query_list(&q, &(struct list_request){.user_id = alice, .page_token = token}, &out), STATUS_PAGE_TOKEN_INVALID);
    /* a list's token is no history's */
    q = query();
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = ids[0], .page_token = token}, &out), STATUS_PAGE_TOKEN_INVALID);
}

static void a_page_ends_before_it_is_too_large(void **state) {
    static uint8_t detail[900 << 10];
    struct slice carol = SLICE_LIT("carol");
    struct writer w = writer_of(detail, sizeof detail);
    pb_tag(&w, 41, PB_LEN), write_varint(&w, sizeof detail - 16), writer_claim(&w, sizeof detail - 16);
    for (int i = 0; i < 8; i++) put_order(carol, order_id_make(created_us(i) / 1000, slot_of_user(carol), 0), created_us(i), status_id("PAID"), 1, (struct slice){0}, writer_slice(&w));
    struct list_request r = {.user_id = carol, .full = true};
    int seen = 0, pages = 0;
    do {
        Orderdb__V1__ListOrdersResponse *m = list(&r);
        assert_in_range(m->n_orders, 1, 3);
        assert_int_equal(m->total_size, 8);
        seen += (int)m->n_orders, pages++;
        r.page_token = keep(m->next_page_token);
        list_free(m);
    } while (r.page_token.len);
    assert_int_equal(seen, 8);
    assert_int_equal(pages, 3);
    expect_refusal(&(struct list_request){.user_id = carol, .full = true, .page_number = 1}, STATUS_LIMIT_EXCEEDED, "page_size");
    Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = carol, .page_number = 1}); /* summaries are small */
    assert_int_equal(m->n_orders, 8);
    list_free(m);
}

/* ---- history ---- */

static Orderdb__V1__ListOrderHistoryResponse *history(const struct history_request *r) {
    struct query q = query();
    struct slice out;
    enum status st = query_history(&q, r, &out);
    if (st) fail_msg("%s: %s", status_name(st), failure.message);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, out.len, out.data);
    assert_non_null(m);
    return m;
}
static void history_free(Orderdb__V1__ListOrderHistoryResponse *m) { orderdb__v1__list_order_history_response__free_unpacked(m, NULL); }

static int64_t put_long_history(int64_t versions) {
    int64_t id = order_id_make(created_us(1000) / 1000, slot_of_user(alice), 3);
    put_order(alice, id, created_us(1000), status_id("PAID"), versions, (struct slice){0}, (struct slice){0});
    return id;
}

static void history_is_oldest_first_and_gapless(void **state) {
    int64_t id = put_long_history(250);
    struct slice token = {0};
    int64_t version = 0;
    int pages = 0;
    do {
        Orderdb__V1__ListOrderHistoryResponse *m = history(&(struct history_request){.order_id = id, .page_token = token});
        for (size_t i = 0; i < m->n_entries; i++) {
            assert_int_equal(m->entries[i]->version, ++version);
            assert_string_equal(m->entries[i]->event, version == 1 ? "create" : "note");
            assert_string_equal(m->entries[i]->from_status, version == 1 ? "" : "PAID");
            assert_int_equal(m->entries[i]->chain_hash.len, SHA256_BYTES);
        }
        token = keep(m->next_page_token);
        history_free(m);
        pages++;
    } while (token.len);
    assert_int_equal(version, 250);
    assert_int_equal(pages, 3);
    Orderdb__V1__ListOrderHistoryResponse *m = history(&(struct history_request){.order_id = id, .page_size = 1});
    assert_int_equal(m->n_entries, 1);
    assert_true(m->next_page_token[0] != 0);
    history_free(m);
    m = history(&(struct history_request){.order_id = ids[0]}); /* version 1 alone */
    assert_int_equal(m->n_entries, 1);
    assert_string_equal(m->next_page_token, "");
    history_free(m);
}

/* A page's rows are walked where they lie close together and looked up where they don't: what it shows is the same, whatever lies between, and where times and ids
 * have different orders (imports). */
static void a_page_is_the_same_whatever_lies_between(void **state) {
    enum { LISTED = 40 };
    static const unsigned between[] = {0, 1, 3, 4, 5, 30};
    char user[24], other[24];
    unsigned names = 0;
    for (unsigned k = 0; k < ARRAY_LEN(between); k++) {
        for (unsigned shuffled = 0; shuffled < 2; shuffled++) {
            snprintf(user, sizeof user, "walked-%u-%u", k, shuffled);
            uint16_t slot = slot_of_user(slice_str(user));
            do snprintf(other, sizeof other, "other-%u", names++);
            while (slot_of_user(slice_str(other)) != slot);
            int64_t by_time[LISTED], ms = FIRST_US / 1000;
            for (unsigned i = 0; i < LISTED; i++, ms++) {
                unsigned place = shuffled ? i * 17 % LISTED : i;
                put_order(slice_str(user), by_time[place] = order_id_make(ms, slot, 0), created_us((int)place), status_id("PAID"), 1 + i % 3, (struct slice){0}, (struct slice){0});
                for (unsigned n = 0; n < between[k]; n++) put_order(slice_str(other), order_id_make(++ms, slot, 0), created_us((int)i), status_id("PAID"), 1, (struct slice){0}, (struct slice){0});
            }
            for (int32_t page = 1; page <= LISTED; page += page < 5 ? 1 : 12) {
                Orderdb__V1__ListOrdersResponse *m = list(&(struct list_request){.user_id = slice_str(user), .page_size = page, .full = page % 2});
                assert_int_equal(m->n_orders, page);
                for (int32_t i = 0; i < page; i++) {
                    struct query q = query();
                    struct slice out;
                    assert_int_equal(m->orders[i]->order_id, by_time[LISTED - 1 - i]);
                    assert_int_equal(query_get(&q, &(struct get_request){.order_id = m->orders[i]->order_id, .full = page % 2}, &out), STATUS_OK);
                    assert_int_equal(orderdb__v1__order__get_packed_size(m->orders[i]), out.len);
                    assert_string_equal(m->orders[i]->user_id, user);
                }
                list_free(m);
            }
        }
    }
}

/* The newest entries, oldest first, are those of ListOrderHistory up to the version that is shown; the order is what it is without them. */
static void history_comes_with_an_order(void **state) {
    for (int64_t versions = 1; versions <= 7; versions += 2) {
        int64_t id = put_long_history(versions), times[8] = {0};
        Orderdb__V1__ListOrderHistoryResponse *h = history(&(struct history_request){.order_id = id});
        for (size_t i = 0; i < h->n_entries; i++) times[i + 1] = h->entries[i]->time->seconds * US_PER_S + h->entries[i]->time->nanos / 1000;
        for (int64_t v = 1; v <= versions; v++) {
            for (int32_t wanted = 0; wanted <= 9; wanted++) {
                struct query q = query();
                struct slice with, without;
                struct get_request r = {.order_id = id, .full = true, .has_as_of = v < versions, .as_of_us = times[v], .history_entries = wanted};
                assert_int_equal(query_get(&q, &r, &with), STATUS_OK);
                r.history_entries = 0;
                assert_int_equal(query_get(&q, &r, &without), STATUS_OK);
                assert_memory_equal(with.data, without.data, without.len);
                Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, with.len, with.data);
                assert_int_equal(o->n_history, MIN_OF((int64_t)wanted, o->version));
                for (size_t i = 0; i < o->n_history; i++) {
                    const Orderdb__V1__HistoryEntry *e = o->history[i], *same = h->entries[(size_t)o->version - o->n_history + i];
                    assert_int_equal(e->version, same->version);
                    assert_string_equal(e->to_status, same->to_status);
                    assert_memory_equal(e->chain_hash.data, same->chain_hash.data, same->chain_hash.len);
                }
                orderdb__v1__order__free_unpacked(o, NULL);
            }
        }
        history_free(h);
    }
    struct query q = query();
    struct slice out;
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0], .history_entries = -1}, &out), STATUS_FIELD_INVALID);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0], .history_entries = QUERY_GET_HISTORY_MAX}, &out), STATUS_OK);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0], .history_entries = QUERY_GET_HISTORY_MAX + 1}, &out), STATUS_LIMIT_EXCEEDED);
}

static void as_of_shows_the_version_of_that_time(void **state) {
    for (int64_t versions = 1; versions <= 9; versions++) {
        int64_t id = put_long_history(versions), times[10] = {0};
        Orderdb__V1__ListOrderHistoryResponse *h = history(&(struct history_request){.order_id = id});
        for (size_t i = 0; i < h->n_entries; i++) times[i + 1] = h->entries[i]->time->seconds * US_PER_S + h->entries[i]->time->nanos / 1000;
        for (int64_t v = 1; v <= versions; v++) {
            int64_t newest = v;
            while (newest < versions && times[newest + 1] == times[v]) newest++;
            struct query q = query();
            struct slice out;
            assert_int_equal(query_get(&q, &(struct get_request){.order_id = id, .full = true, .has_as_of = true, .as_of_us = times[v]}, &out), STATUS_OK);
            Orderdb__V1__Order *o = orderdb__v1__order__unpack(NULL, out.len, out.data);
            assert_int_equal(o->version, newest);
            assert_string_equal(o->status, h->entries[newest - 1]->to_status);
            assert_int_equal(o->update_time->seconds * US_PER_S + o->update_time->nanos / 1000, times[v]);
            orderdb__v1__order__free_unpacked(o, NULL);
        }
        struct query q = query();
        struct slice out;
        assert_int_equal(query_get(&q, &(struct get_request){.order_id = id, .full = true, .has_as_of = true, .as_of_us = times[1] - 1}, &out), STATUS_ORDER_NOT_FOUND);
        history_free(h);
    }
    struct query q = query();
    struct slice out;
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = 0, .full = true, .has_as_of = true, .as_of_us = 0}, &out), STATUS_FIELD_INVALID);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0] + 1, .full = true, .has_as_of = true, .as_of_us = INT64_MAX}, &out), STATUS_ORDER_NOT_FOUND);
    store_mem_disk_set_read_fault(disk, STATUS_IO_FAILED);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0], .full = true, .has_as_of = true, .as_of_us = INT64_MAX}, &out), STATUS_IO_FAILED);
    store_mem_disk_set_read_fault(disk, STATUS_OK);
}

static void history_refuses_what_is_wrong(void **state) {
    int64_t id = put_long_history(5);
    struct slice out;
    struct query q = query();
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = 0, .page_size = -1}, &out), STATUS_FIELD_INVALID);
    assert_int_equal(failure.violation_count, 2);
    q = query();
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = id, .page_size = 1001}, &out), STATUS_LIMIT_EXCEEDED);
    q = query();
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = id + 1}, &out), STATUS_ORDER_NOT_FOUND);
    assert_string_equal(failure.metas->key, "order_id");
    Orderdb__V1__ListOrderHistoryResponse *m = history(&(struct history_request){.order_id = id, .page_size = 2});
    struct slice token = keep(m->next_page_token);
    history_free(m);
    q = query();
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = ids[1], .page_token = token}, &out), STATUS_PAGE_TOKEN_INVALID);
    m = history(&(struct history_request){.order_id = id, .page_size = 1000, .page_token = token});
    assert_int_equal(m->n_entries, 3);
    assert_int_equal(m->entries[0]->version, 3);
    history_free(m);
}

/* ---- what the store does to us ---- */

static void damage_is_told_never_papered_over(void **state) {
    int64_t id = put_long_history(5);
    struct slice out;
    struct key k;
    struct query q = query();
    key_history(&k, id, 3);
    store_batch_delete(batch, key_slice(&k));
    key_head(&k, ids[90]);
    store_batch_put(batch, key_slice(&k), SLICE_LIT("junk"));
    key_body(&k, ids[89]);
    store_batch_delete(batch, key_slice(&k));
    check(store_apply(store, batch) == STATUS_OK);
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = id}, &out), STATUS_CHECKSUM_MISMATCH);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[90], .full = true}, &out), STATUS_CHECKSUM_MISMATCH);
    q = query();
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[89], .full = true}, &out), STATUS_CHECKSUM_MISMATCH);
    q = query();
    assert_int_equal(query_list(&q, &(struct list_request){.user_id = alice}, &out), STATUS_CHECKSUM_MISMATCH);
    assert_int_equal(failure.status, STATUS_CHECKSUM_MISMATCH);
}

static void a_cold_store_would_block_without_a_failure(void **state) {
    struct query q = query();
    struct slice out;
    q.view.cached_only = true;
    store_mem_disk_set_cold(disk, true);
    assert_int_equal(query_get(&q, &(struct get_request){.order_id = ids[0], .full = true}, &out), STATUS_WOULD_BLOCK);
    struct slice *orders;
    assert_int_equal(query_get_many(&q, ids, 3, true, &orders), STATUS_WOULD_BLOCK);
    assert_int_equal(query_list(&q, &(struct list_request){.user_id = alice}, &out), STATUS_WOULD_BLOCK);
    assert_int_equal(query_history(&q, &(struct history_request){.order_id = ids[0]}, &out), STATUS_WOULD_BLOCK);
    assert_int_equal(failure.status, STATUS_OK);
    store_mem_disk_set_cold(disk, false);
    store_mem_disk_set_read_fault(disk, STATUS_IO_FAILED);
    assert_int_equal(query_list(&q, &(struct list_request){.user_id = alice}, &out), STATUS_IO_FAILED);
    assert_int_equal(failure.status, STATUS_IO_FAILED);
    store_mem_disk_set_read_fault(disk, STATUS_OK);
}

static void memory_fails_at_every_step(void **state) {
    int64_t id = put_long_history(30);
    for (int what = 0; what < 4; what++) {
        enum status st = STATUS_MEMORY_LIMIT;
        for (uint64_t n = 1; st && n < 2000; n++) {
            struct arena small;
            struct slice out, *orders;
            arena_init(&small, 8 * MIB);
            struct query q = query();
            q.arena = &small;
            mem_fail_nth(n);
            if (what == 0) st = query_get(&q, &(struct get_request){.order_id = ids[0], .full = true}, &out);
            if (what == 1) st = query_list(&q, &(struct list_request){.user_id = alice, .page_size = 50, .full = true}, &out);
            if (what == 3) st = query_get_many(&q, ids, 30, true, &orders);
            if (what == 2) st = query_history(&q, &(struct history_request){.order_id = id}, &out);
            mem_fail_nth(0);
            assert_int_equal(failure.status, st);
            if (st) assert_int_equal(st, STATUS_MEMORY_LIMIT);
            arena_fini(&small);
        }
        assert_int_equal(st, STATUS_OK);
    }
}

static void a_full_arena_is_memory_limit(void **state) {
    struct arena small;
    struct slice out;
    arena_init(&small, 16 << 10);
    struct query q = query();
    q.arena = &small;
    assert_int_equal(query_list(&q, &(struct list_request){.user_id = alice, .page_size = 95}, &out), STATUS_MEMORY_LIMIT);
    assert_int_equal(failure.status, STATUS_MEMORY_LIMIT);
    arena_fini(&small);
}

/* ---- tokens alone ---- */

/* Tokens live in other people's bookmarks: a new format must not be read as this one. */
static void golden_token(void **state) {
    struct page_token t = {PAGE_TOKEN_LIST, {.low = 0x0102030405060708, .high = 0x1112131415161718}, {FIRST_US, 42}}, back = t;
    char text[PAGE_TOKEN_TEXT_BYTES];
    uint8_t golden[64], bytes[PAGE_TOKEN_BYTES + 3];
    struct slice s = page_token_encode(&t, slice_of(key_bytes, 32), text);
    size_t n = test_golden("page_token", golden, sizeof golden);
    assert_int_equal(base64_decode(s, bytes), PAGE_TOKEN_BYTES);
    assert_string_equal(test_hex(slice_of(bytes, PAGE_TOKEN_BYTES)), test_hex(slice_of(golden, n)));
    back.position[0] = back.position[1] = 0;
    assert_true(page_token_decode(s, slice_of(key_bytes, 32), &back));
    assert_int_equal(back.position[0], FIRST_US);
    assert_int_equal(back.position[1], 42);
    back.kind = PAGE_TOKEN_HISTORY;
    assert_false(page_token_decode(s, slice_of(key_bytes, 32), &back));
    /* and one of the format before, which is still taken */
    n = test_golden("page_token_1", golden, sizeof golden);
    s = slice_of(text, base64_encode_url(slice_of(golden, n), text));
    back = (struct page_token){.kind = PAGE_TOKEN_LIST, .query = t.query};
    assert_true(page_token_decode(s, slice_of(key_bytes, 32), &back));
    assert_int_equal(back.position[0], FIRST_US);
    assert_int_equal(back.position[1], 42);
    golden[0] = 2; /* its MAC is no other format's */
    s = slice_of(text, base64_encode_url(slice_of(golden, n), text));
    assert_false(page_token_decode(s, slice_of(key_bytes, 32), &back));
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(get_answers_the_order),
        T(get_refuses_wrong_ids),
        T(many_come_in_the_order_of_their_ids),
        T(many_end_where_a_message_does),
        T(list_is_newest_first_with_totals),
        T(tokens_walk_every_order_once),
        T(tokens_hold_their_place),
        T(page_numbers_jump_exactly),
        T(statuses_and_times_filter),
        T(a_stranger_has_no_orders),
        T(list_refuses_what_is_wrong),
        T(forged_and_foreign_tokens_are_refused),
        T(a_page_ends_before_it_is_too_large),
        T(history_is_oldest_first_and_gapless),
        T(a_page_is_the_same_whatever_lies_between),
        T(history_comes_with_an_order),
        T(as_of_shows_the_version_of_that_time),
        T(history_refuses_what_is_wrong),
        T(damage_is_told_never_papered_over),
        T(a_cold_store_would_block_without_a_failure),
        T(memory_fails_at_every_step),
        T(a_full_arena_is_memory_limit),
        cmocka_unit_test(golden_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
