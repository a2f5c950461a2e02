/* AdminService.CheckIndexes (server/serve_index.c) on a server whose store is spoilt behind its back: both kinds of wrong are told, counted, and what lies behind them is looked at too. */
#include "tests/lib/call_world.h"

#include "engine/index.h"
#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "tests/lib/test.h"

enum { ORDERS = 40, ITEMS = 2, ROWS_AN_ORDER = 1 + ITEMS, MANY = 100 };

static int64_t order_ids[ORDERS], create_us[ORDERS];

static struct slice message_of(const ProtobufCMessage *m) {
    static uint8_t bytes[1024];
    check(protobuf_c_message_get_packed_size(m) <= sizeof bytes);
    return framed(bytes, protobuf_c_message_pack(m, bytes));
}

/* The answer's message; the caller frees it. NULL: refused with that code. */
static void *call(const char *path, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *answer, const char *code) {
    static struct world w;
    call_world_open(&w, &world_call_limits);
    const struct answer *a = call_world_exchange(&w, path, message_of(request), false, NULL, 0, false);
    assert_string_equal(a->grpc_status, code);
    void *m = *code == '0' ? protobuf_c_message_unpack(answer, NULL, a->body_len - GRPC_FRAME_HEAD, a->body + GRPC_FRAME_HEAD) : NULL;
    assert_true(m || *code != '0');
    world_close(&w);
    return m;
}

static void create(unsigned i) {
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    Orderdb__V1__Order o = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__OrderItem items[ITEMS], *at[ITEMS];
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT;
    char user[16];
    snprintf(user, sizeof user, "user-%u", i);
    price.currency_code = (char *)"CNY", price.minor_units = 5;
    for (unsigned k = 0; k < ITEMS; k++) {
        orderdb__v1__order_item__init(at[k] = &items[k]);
        items[k].sku_id = (char *)(k ? "tea" : "cup"), items[k].quantity = 1, items[k].unit_price = &price;
    }
    o.user_id = user, o.n_items = ITEMS, o.items = at, r.order = &o;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    char id[48];
    snprintf(id, sizeof id, "create-%020u", i);
    options.request_id = id, r.options = &options;
    Orderdb__V1__CreateOrderResponse *m = call("/orderdb.v1.OrderService/CreateOrder", &r.base, &orderdb__v1__create_order_response__descriptor, "0");
    order_ids[i] = m->order->order_id;
    create_us[i] = m->order->create_time->seconds * US_PER_S + m->order->create_time->nanos / 1000;
    orderdb__v1__create_order_response__free_unpacked(m, NULL);
}

struct found {
    int64_t orders, rows;
    unsigned defects, calls;
    char last[INDEX_DEFECT_BYTES];
};

static struct found check_all(int32_t limit) {
    struct found f = {0};
    for (int32_t partition = 0; partition < PARTITIONS; partition++) {
        uint8_t position[INDEX_POSITION_BYTES_MAX];
        Orderdb__V1__CheckIndexesRequest r = ORDERDB__V1__CHECK_INDEXES_REQUEST__INIT;
        r.partition_id = partition, r.limit = limit, r.position.data = position;
        do {
            Orderdb__V1__CheckIndexesResponse *m = call("/orderdb.v1.AdminService/CheckIndexes", &r.base, &orderdb__v1__check_indexes_response__descriptor, "0");
            f.calls++;
            f.orders += m->orders, f.rows += m->rows;
            if (*m->defect) f.defects++, snprintf(f.last, sizeof f.last, "%s", m->defect);
            assert_false(m->building);
            assert_true(m->next_position.len <= sizeof position);
            if ((r.position.len = m->next_position.len)) memcpy(position, m->next_position.data, m->next_position.len);
            orderdb__v1__check_indexes_response__free_unpacked(m, NULL);
        } while (r.position.len);
    }
    return f;
}

static struct partition *partition_of(unsigned order) { return &server.engine->partitions[partition_of_slot(order_id_slot(order_ids[order]), PARTITIONS)]; }

/* As a bug would: past the log. */
static void plant(unsigned order, struct slice sku, bool there) {
    struct partition *p = partition_of(order);
    struct key k;
    key_index_row(&k, KEY_INDEX_SKU, sku, create_us[order], order_ids[order]);
    store_batch_clear(p->batch);
    if (there) store_batch_put(p->batch, key_slice(&k), (struct slice){0});
    else store_batch_delete(p->batch, key_slice(&k));
    assert_int_equal(store_apply(p->store, p->batch), STATUS_OK);
    store_batch_clear(p->batch);
}

static void indexes_that_are_right_are_found_right_in_stretches_of_any_length(void **state) {
    const int32_t limits[] = {1, 7, 0};
    for (unsigned i = 0; i < ARRAY_LEN(limits); i++) {
        struct found f = check_all(limits[i]);
        assert_int_equal(f.defects, 0);
        assert_int_equal(f.orders, ORDERS);
        assert_int_equal(f.rows, ORDERS * ROWS_AN_ORDER);
        if (limits[i] == 0) assert_int_equal(f.calls, PARTITIONS);
    }
}

static void planted_defects_are_found_and_counted(void **state) {
    struct engine_stats before, after;
    engine_get_stats(server.engine, &before);
    plant(3, SLICE_LIT("cup"), false);
    plant(5, SLICE_LIT("milk"), true);
    struct found f = check_all(MANY);
    assert_int_equal(f.defects, 2);
    assert_int_equal(f.orders, ORDERS);
    assert_int_equal(f.rows, ORDERS * ROWS_AN_ORDER);
    engine_get_stats(server.engine, &after);
    assert_int_equal(after.index_check.defects - before.index_check.defects, 2);
    assert_int_equal(after.index_check.orders - before.index_check.orders, ORDERS);
    assert_int_equal(after.index_check.rows - before.index_check.rows, ORDERS * ROWS_AN_ORDER);
    assert_int_equal(after.index_check.passes - before.index_check.passes, PARTITIONS);
    plant(5, SLICE_LIT("milk"), false);
    f = check_all(MANY);
    assert_int_equal(f.defects, 1);
    assert_non_null(strstr(f.last, "an index row is missing: SKU 'cup'"));
    plant(3, SLICE_LIT("cup"), true);
    assert_int_equal(check_all(MANY).defects, 0);
}

static void indexes_that_are_being_built_are_not_judged(void **state) {
    Orderdb__V1__CheckIndexesRequest r = ORDERDB__V1__CHECK_INDEXES_REQUEST__INIT;
    server.engine->partitions[0].index.complete = false;
    server.engine->partitions[0].index_failed = true; /* the walk stands still */
    Orderdb__V1__CheckIndexesResponse *m = call("/orderdb.v1.AdminService/CheckIndexes", &r.base, &orderdb__v1__check_indexes_response__descriptor, "0");
    assert_true(m->building);
    assert_int_equal(m->orders + m->rows, 0);
    assert_int_equal(m->next_position.len, 0);
    orderdb__v1__check_indexes_response__free_unpacked(m, NULL);
    server.engine->partitions[0].index.complete = true;
}

static void what_cannot_be_asked_is_refused(void **state) {
    Orderdb__V1__CheckIndexesRequest r = ORDERDB__V1__CHECK_INDEXES_REQUEST__INIT;
    r.partition_id = PARTITIONS;
    call("/orderdb.v1.AdminService/CheckIndexes", &r.base, NULL, "3");
    r.partition_id = 0, r.position.data = (uint8_t *)(uintptr_t) "Q", r.position.len = 1;
    call("/orderdb.v1.AdminService/CheckIndexes", &r.base, NULL, "3");
    r.position.len = 0, r.limit = -1;
    call("/orderdb.v1.AdminService/CheckIndexes", &r.base, NULL, "3");
}

static int setup(void **state) {
    server_open(machines_new(), 1);
    for (unsigned i = 0; i < ORDERS; i++) create(i);
    return 0;
}
static int teardown(void **state) {
    server_close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(indexes_that_are_right_are_found_right_in_stretches_of_any_length),
        cmocka_unit_test(planted_defects_are_found_and_counted),
        cmocka_unit_test(indexes_that_are_being_built_are_not_judged),
        cmocka_unit_test(what_cannot_be_asked_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
