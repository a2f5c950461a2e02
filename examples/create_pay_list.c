/* Create an order, pay it, list what the user has. Against a server that runs:
 *
 *   cc $(pkg-config --cflags orderdb) create_pay_list.c $(pkg-config --libs orderdb) -o create_pay_list
 *   ./create_pay_list 127.0.0.1:7400 ann
 */
#include <orderdb.h>
#include <stdio.h>

static int failed(const struct orderdb_client *db, const char *what) {
    const struct orderdb_error *e = orderdb_error(db);
    fprintf(stderr, "%s: %s %s: %s\n", what, orderdb_error_code_name(e), orderdb_error_reason(e), orderdb_error_message(e));
    return 1;
}

static int64_t create(struct orderdb_client *db, char *user) {
    Orderdb__V1__Money price = ORDERDB__V1__MONEY__INIT, total = ORDERDB__V1__MONEY__INIT;
    price.currency_code = total.currency_code = "CNY", price.minor_units = 1999, total.minor_units = 2 * 1999;
    Orderdb__V1__OrderItem umbrella = ORDERDB__V1__ORDER_ITEM__INIT, *items[] = {&umbrella};
    umbrella.sku_id = "u1", umbrella.title = "Umbrella", umbrella.quantity = 2, umbrella.unit_price = &price;
    Orderdb__V1__Order order = ORDERDB__V1__ORDER__INIT;
    order.user_id = user, order.n_items = 1, order.items = items, order.items_total = order.payable = &total;
    Orderdb__V1__CreateOrderRequest request = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT;
    request.order = &order;
    Orderdb__V1__CreateOrderResponse *answer = orderdb_create_order(db, &request, NULL);
    int64_t id = answer ? answer->order->order_id : 0;
    orderdb_message_free(answer);
    return id;
}

int main(int argc, char **argv) {
    char *user = argc > 2 ? argv[2] : "ann";
    struct orderdb_client *db = orderdb_open(argc > 1 ? argv[1] : "127.0.0.1:7400", NULL);
    if (!db) return perror("orderdb_open"), 1;
    int64_t id = create(db, user);
    int status = id ? 0 : failed(db, "create");

    Orderdb__V1__TransitionOrderRequest pay = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    pay.order_id = id, pay.event = "pay";
    Orderdb__V1__TransitionOrderResponse *paid = id ? orderdb_transition_order(db, &pay, NULL) : NULL;
    if (id && !paid) status = failed(db, "pay");
    orderdb_message_free(paid);

    Orderdb__V1__ListOrdersRequest list = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    list.user_id = user, list.page_size = 5;
    Orderdb__V1__ListOrdersResponse *page = status ? NULL : orderdb_list_orders(db, &list, NULL);
    if (!status && !page) status = failed(db, "list");
    for (size_t i = 0; page && i < page->n_orders; i++) {
        const Orderdb__V1__Order *o = page->orders[i];
        printf("%lld %s %lld %s\n", (long long)o->order_id, o->status, (long long)o->payable->minor_units, o->payable->currency_code);
    }
    if (page) printf("%lld orders\n", (long long)page->total_size);
    orderdb_message_free(page);
    orderdb_close(db);
    return status;
}
