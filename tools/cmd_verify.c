/* orderctl order verify: reads orders, and then their histories page by page, and checks each link; ends at the first that is broken. */
#include "tools/cmd_verify.h"

#include <stdio.h>

#include "proto/base/mem.h"
#include "tools/table.h"
#include "tools/verify.h"

enum { HISTORY_PAGE = 1000, LIST_PAGE = 500 };

static const char *user;
const struct arg cmd_verify_flags[] = {
    {"--user", NULL, ARG_TEXT, &user, "USER", "every order of this user instead of ORDER_IDs"},
    {NULL},
};
const char cmd_verify_text[] =
    "Computes the hash chain again from the answers, as docs/API.md (\"History\") has it, and checks that versions have no gap, that each "
    "entry starts in the status where the one before ended, and that the last one ends in the order's. Exit code 1 at the first broken link. "
    "The head printed for an order stands for its whole history: kept elsewhere, it proves later that nothing before it was changed.\n\n"
    "Examples:\n"
    "  orderctl order verify 1234567890\n"
    "  orderctl order verify --user ann\n";

struct verify_totals {
    int64_t orders, entries;
};

static enum cli_exit broken(int64_t order_id, const char *error) {
    fprintf(stderr, "error: order %lld: the history is broken: ", (long long)order_id);
    text_print(stderr, error);
    fputc('\n', stderr);
    return CLI_REFUSED;
}

static enum cli_exit history_check(struct cli *cli, struct verify *v, int64_t order_id, char error[VERIFY_ERROR_BYTES]) {
    Orderdb__V1__ListOrderHistoryRequest r = ORDERDB__V1__LIST_ORDER_HISTORY_REQUEST__INIT;
    Orderdb__V1__ListOrderHistoryResponse *page = NULL, *next;
    r.order_id = order_id, r.page_size = HISTORY_PAGE;
    enum cli_exit e = CLI_OK;
    do {
        if (page) r.page_token = page->next_page_token;
        next = orderdb_list_order_history(cli->db, &r, NULL);
        orderdb_message_free(page); /* its token was the request's */
        page = next;
        if (!page) return cli_error(cli);
        for (size_t i = 0; i < page->n_entries && e == CLI_OK; i++) {
            if (!verify_entry(v, page->entries[i], error)) e = broken(order_id, error);
        }
    } while (e == CLI_OK && *page->next_page_token && page->n_entries > 0);
    orderdb_message_free(page);
    return e;
}

static enum cli_exit order_check(struct cli *cli, const Orderdb__V1__Order *order, bool told, struct verify_totals *totals) {
    char error[VERIFY_ERROR_BYTES];
    struct verify v;
    verify_begin(&v, order);
    enum cli_exit e = history_check(cli, &v, order->order_id, error);
    if (e != CLI_OK) return e;
    if (!verify_end(&v, error)) return broken(order->order_id, error);
    totals->orders++;
    totals->entries += v.version;
    if (!told || cli->json) return CLI_OK;
    printf("order %lld: versions 1 to %lld hold\n  head ", (long long)order->order_id, (long long)v.version);
    for (int i = 0; i < SHA256_BYTES; i++) printf("%02x", v.hash[i]);
    putchar('\n');
    return CLI_OK;
}

static enum cli_exit ids_check(struct cli *cli, int argc, char **argv, struct verify_totals *totals) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    enum cli_exit e = CLI_OK;
    for (int i = 0; i < argc; i++) {
        if (!cli_parse_id(argv[i], &r.order_id)) return cli_usage(cli, "\"%s\" is not an order id (a positive number)", argv[i]);
    }
    for (int i = 0; i < argc && e == CLI_OK; i++) {
        check(cli_parse_id(argv[i], &r.order_id));
        Orderdb__V1__Order *order = orderdb_get_order(cli->db, &r, NULL);
        if (!order) return cli_error(cli);
        e = order_check(cli, order, true, totals);
        orderdb_message_free(order);
    }
    return e;
}

static enum cli_exit user_check(struct cli *cli, struct verify_totals *totals) {
    Orderdb__V1__ListOrdersRequest r = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    Orderdb__V1__ListOrdersResponse *page = NULL, *next;
    r.user_id = (char *)(uintptr_t)user, r.page_size = LIST_PAGE;
    enum cli_exit e = CLI_OK;
    do {
        if (page) r.page_token = page->next_page_token;
        next = orderdb_list_orders(cli->db, &r, NULL);
        orderdb_message_free(page);
        page = next;
        if (!page) return cli_error(cli);
        for (size_t i = 0; i < page->n_orders && e == CLI_OK; i++) e = order_check(cli, page->orders[i], false, totals);
    } while (e == CLI_OK && *page->next_page_token && page->n_orders > 0);
    orderdb_message_free(page);
    return e;
}

enum cli_exit cmd_verify_run(struct cli *cli, int argc, char **argv) {
    struct verify_totals totals = {0};
    if ((argc > 0) == (user != NULL)) return cli_usage(cli, "name orders by their ids, or a user with --user USER");
    enum cli_exit e = user ? user_check(cli, &totals) : ids_check(cli, argc, argv, &totals);
    if (e != CLI_OK) return e;
    if (cli->json) {
        char json[128];
        snprintf(json, sizeof(json), "{\n  \"orders\": %lld,\n  \"entries\": %lld\n}", (long long)totals.orders, (long long)totals.entries);
        return cli_print_text(json);
    } else if (user || totals.orders > 1) {
        printf("%lld order%s, %lld entr%s: every link holds\n", (long long)totals.orders, totals.orders == 1 ? "" : "s", (long long)totals.entries,
               totals.entries == 1 ? "y" : "ies");
    }
    return CLI_OK;
}
