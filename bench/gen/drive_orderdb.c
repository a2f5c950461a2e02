/* GET is the order with its items and its history, in one call. Of reads each CHECKED-th answer is decoded
 * and looked at, so that an empty one isn't taken for a fast one, and the generator stays thin. */
#include "bench/gen/drive_orderdb.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bench/gen/order_text.h"
#include "client/channel.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"

enum { CHECKED = 64, USER_BYTES = 24, KEY_BYTES = 40, PAGE = 20, HISTORY_ENTRIES = 100 };
#define SERVICE "/orderdb.v1.OrderService/"

static const char *const events[DRIVE_STEPS] = {"pay", "ship", "deliver", "confirm"}; /* an order's life, step by step */
static const char *const statuses[DRIVE_STEPS] = {"PENDING_PAYMENT", "PAID", "SHIPPED", "DELIVERED"};

static struct {
    const struct drive_options *o;
    struct channel_loop *loop;
    struct channel **channels;
    uint64_t opened, answers;
    struct buf request;
} d;

/* ---- requests */

static char *text_of(const char *s) { return (char *)(uintptr_t)s; }
static void user_name(char out[USER_BYTES], uint64_t user) { snprintf(out, USER_BYTES, "u%09llu", (unsigned long long)user); }
static void key_name(char out[KEY_BYTES], const struct operation *op) {
    snprintf(out, KEY_BYTES, "B%016llx%016llx", (unsigned long long)d.o->seed, (unsigned long long)op->key);
}

static void answered_cb(void *user, const struct channel_answer *a);

static void send_call(struct operation *op, const char *path, const ProtobufCMessage *m) {
    d.request.len = 0;
    check(buf_reserve(&d.request, protobuf_c_message_get_packed_size(m)));
    d.request.len = protobuf_c_message_pack(m, d.request.data);
    struct channel_request r = {.path = path, .message = buf_slice(&d.request), .on_answer = answered_cb, .user = op};
    r.deadline_ns = channel_now_ns() + d.o->timeout_ms * NS_PER_MS;
    op->parts++;
    if (!channel_start(d.channels[op->connection], &r)) panic_now("bench: out of memory");
}

static void create_send(struct operation *op) {
    struct order_text t;
    char user[USER_BYTES], key[KEY_BYTES], merchant[24], skus[ORDER_ITEMS][16], currency[] = "CNY";
    Orderdb__V1__Money prices[ORDER_ITEMS], totals[3];
    Orderdb__V1__OrderItem items[ORDER_ITEMS], *item_ptrs[ORDER_ITEMS];
    Orderdb__V1__Address address = ORDERDB__V1__ADDRESS__INIT;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__CreateOrderRequest r = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    order_text_make(&t, op->draw);
    for (unsigned i = 0; i < ORDER_ITEMS; i++) {
        orderdb__v1__order_item__init(item_ptrs[i] = &items[i]);
        orderdb__v1__money__init(&prices[i]);
        snprintf(skus[i], sizeof skus[i], "sku-%06u", (unsigned)t.items[i].sku);
        prices[i].currency_code = currency, prices[i].minor_units = t.items[i].price;
        items[i].sku_id = skus[i], items[i].title = t.items[i].title, items[i].quantity = (int32_t)t.items[i].quantity, items[i].unit_price = &prices[i];
    }
    for (unsigned i = 0; i < 3; i++) orderdb__v1__money__init(&totals[i]), totals[i].currency_code = currency;
    totals[0].minor_units = t.items_total, totals[1].minor_units = t.freight, totals[2].minor_units = t.payable;
    user_name(user, op->user), key_name(key, op);
    snprintf(merchant, sizeof merchant, "merchant-%05u", (unsigned)t.merchant);
    address.recipient = text_of(t.name), address.phone = t.phone, address.region_code = text_of(t.region), address.line = t.line;
    order.user_id = user, order.merchant_id = merchant, order.n_items = ORDER_ITEMS, order.items = item_ptrs, order.address = &address;
    order.items_total = &totals[0], order.freight = &totals[1], order.payable = &totals[2];
    options.request_id = key;
    r.order = &order, r.options = &options;
    send_call(op, SERVICE "CreateOrder", &r.base);
}

static void transition_send(struct operation *op) {
    char key[KEY_BYTES];
    Orderdb__V1__WriteOptions options = ORDERDB__V1__WRITE_OPTIONS__INIT;
    Orderdb__V1__TransitionOrderRequest r = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    key_name(key, op);
    options.request_id = key;
    r.order_id = op->order_id, r.event = text_of(events[op->step]), r.options = &options;
    send_call(op, SERVICE "TransitionOrder", &r.base);
}

static void get_send(struct operation *op) {
    Orderdb__V1__GetOrderRequest g = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    g.order_id = op->order_id, g.history_entries = HISTORY_ENTRIES;
    send_call(op, SERVICE "GetOrder", &g.base);
}

static void list_send(struct operation *op, int32_t page_size) {
    char user[USER_BYTES];
    Orderdb__V1__ListOrdersRequest r = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    user_name(user, op->user);
    r.user_id = user, r.page_size = page_size;
    send_call(op, SERVICE "ListOrders", &r.base);
}

static void driver_start(struct operation *op) {
    switch (op->work) {
    case WORK_CREATE: return create_send(op);
    case WORK_TRANSITION: return transition_send(op);
    case WORK_GET: return get_send(op);
    case WORK_LIST: return list_send(op, PAGE);
    default: return list_send(op, POPULATION_ORDERS_PER_USER);
    }
}

/* ---- answers */

/* The order id of a CreateOrderResponse, from its wire bytes: field 1 of the message in field 1. 0: there is none. */
static int64_t order_id_of(struct slice response) {
    struct reader r = reader_of(response);
    if (read_varint(&r) != (1 << 3 | 2)) return 0;
    r = reader_of(read_counted(&r));
    if (read_varint(&r) != 1 << 3) return 0;
    uint64_t id = read_varint(&r);
    return r.bad ? 0 : (int64_t)id;
}

/* An order with its items and its whole history. */
static const char *get_check(struct slice response) {
    Orderdb__V1__Order *order = orderdb__v1__order__unpack(NULL, response.len, response.data);
    bool whole = order && order->n_items == ORDER_ITEMS && order->address && (int64_t)order->n_history == order->version;
    if (order) orderdb__v1__order__free_unpacked(order, NULL);
    return whole ? NULL : "an order without its items or its history";
}

static const char *list_check(const struct operation *op, struct slice response) {
    Orderdb__V1__ListOrdersResponse *l = orderdb__v1__list_orders_response__unpack(NULL, response.len, response.data);
    const char *trouble = NULL;
    if (op->work == WORK_LIST && (!l || l->n_orders != PAGE)) trouble = "a list without its orders: is the population there (--fill)?";
    for (size_t i = 0; l && op->work == WORK_GATHER && i < l->n_orders; i++) {
        unsigned step = 0;
        while (step < DRIVE_STEPS && strcmp(l->orders[i]->status, statuses[step]) != 0) step++;
        drive_known(l->orders[i]->order_id, step);
    }
    if (l) orderdb__v1__list_orders_response__free_unpacked(l, NULL);
    return trouble;
}

static const char *answer_check(const struct operation *op, const struct channel_answer *a, int64_t *order_id) {
    if (op->work == WORK_CREATE) return (*order_id = order_id_of(a->response)) > 0 ? NULL : "an answer without an order id";
    if (op->work == WORK_TRANSITION) return NULL;
    if (op->work != WORK_GATHER && d.answers++ % CHECKED) return a->response.len ? NULL : "an empty answer";
    return op->work == WORK_GET ? get_check(a->response) : list_check(op, a->response);
}

static void answered_cb(void *user, const struct channel_answer *a) {
    struct operation *op = user;
    static char text[DRIVE_REASON_BYTES];
    int64_t order_id = 0;
    if (a->code != GRPC_OK) {
        snprintf(text, sizeof text, "code %d: %.*s", (int)a->code, (int)MIN_OF(a->message.len, (size_t)48), (const char *)a->message.data);
        op->trouble = text;
    } else if (!op->trouble) {
        op->trouble = answer_check(op, a, &order_id);
    }
    if (--op->parts == 0) drive_done(op, op->trouble, order_id);
}

static void driver_turn(uint64_t wait_ns) { channel_loop_turn(d.loop, wait_ns); }

/* ---- open and close */

void orderdb_driver_close(void) {
    for (uint64_t i = 0; i < d.opened; i++) channel_close(d.channels[i]);
    if (d.loop) channel_loop_free(d.loop);
    mem_free(d.channels);
    buf_fini(&d.request);
    memset(&d, 0, sizeof d);
}

bool orderdb_driver_open(struct driver *out, const struct drive_options *o, const char *server, struct tls_source *tls, const char *tls_server_name, char error[256]) {
    memset(&d, 0, sizeof d);
    *out = (struct driver){.name = "OrderDB", .used_up = true, .start = driver_start, .turn = driver_turn};
    d.o = o;
    d.loop = channel_loop_new();
    d.channels = mem_zalloc(o->connections * sizeof *d.channels);
    bool ok = d.loop && d.channels;
    if (!ok) snprintf(error, 256, "out of memory");
    while (ok && d.opened < o->connections) {
        struct channel *c = channel_open(d.loop, server);
        if (!c) {
            snprintf(error, 256, "%s: %s", server, strerror(errno));
            ok = false;
            break;
        }
        d.channels[d.opened++] = c;
        if (tls && !channel_use_tls(c, tls, tls_server_name)) snprintf(error, 256, "out of memory"), ok = false;
    }
    if (!ok) orderdb_driver_close();
    return ok;
}
