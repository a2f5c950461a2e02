/* orderctl order create, get, list, transition, update, history. */
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/mem.h"
#include "proto/timetext.h"
#include "tools/cli.h"
#include "tools/cmd_batch.h"
#include "tools/cmd_import.h"
#include "tools/cmd_timer.h"
#include "tools/cmd_verify.h"
#include "tools/content.h"
#include "tools/money.h"
#include "tools/pbjson.h"
#include "tools/read_flags.h"
#include "tools/table.h"

enum { BATCH_GET_MAX = 1000 };
#define REQUEST_ARENA_BYTES (64 * MIB)

typedef Orderdb__V1__Order Order;
typedef Orderdb__V1__Money Money;

#define PAGE_NONE INT64_MIN /* --page was not given: 0 would be a page */

/* One set of flags per command; zero where not given. */
static struct {
    const char *user, *currency, *freight, *discount, *client_order_no, *merchant, *machine, *file;
    struct args_many items;
    struct content_flags content;
} create;
static struct {
    const char *request_id, *operator_, *reason;
    bool validate_only;
} write;
static struct {
    struct args_many statuses;
    const char *from, *to, *page_token;
    int64_t page_size, page_number;
} list = {.page_number = PAGE_NONE};
static struct {
    const char *to;
    struct args_many expected;
    int64_t version;
    struct content_flags patch;
} transition;
static struct {
    int64_t version;
    struct content_flags content;
} update;
static const char *as_of, *outcome_user;
static int64_t history_entries;
static struct read_flags reading;

/* ---- printing */

static void money_text(const Money *m, char *out, size_t cap) {
    char number[MONEY_TEXT_BYTES];
    if (!m) {
        snprintf(out, cap, "-");
        return;
    }
    money_format(m->minor_units, money_exponent(m->currency_code), number);
    snprintf(out, cap, "%s %.8s", number, m->currency_code);
}

static void time_text(const Google__Protobuf__Timestamp *t, char out[TIME_TEXT_BYTES]) {
    if (t) time_format(t->seconds, t->nanos, out);
    else snprintf(out, TIME_TEXT_BYTES, "-");
}

/* For tables: to the second or to the minute, without T and Z. */
static void time_text_short(const Google__Protobuf__Timestamp *t, bool seconds, char out[TIME_TEXT_BYTES]) {
    time_text(t, out);
    if (strlen(out) < 20) return;
    out[10] = ' ';
    out[seconds ? 19 : 16] = 0;
}

static void print_field(const char *name, const char *value) {
    if (!*value) return;
    printf("%-15s ", name);
    text_print(stdout, value);
    putchar('\n');
}

/* Keys are the callers' own: one may be "status". */
static void print_attribute(const char *key, const char *value) {
    printf("%-15s ", "attribute");
    text_print(stdout, key);
    putchar('=');
    text_print(stdout, value);
    putchar('\n');
}

static void print_money(const char *name, const Money *m) {
    char text[64];
    money_text(m, text, sizeof(text));
    if (m) print_field(name, text);
}

static void print_time(const char *name, const Google__Protobuf__Timestamp *t) {
    char text[TIME_TEXT_BYTES];
    time_text(t, text);
    if (t) print_field(name, text);
}

static void print_items(const Order *o) {
    static const struct table_column columns[] = {
        {"SKU", .shrinks_to = 12}, {"TITLE", .shrinks_to = 16}, {"QTY", .right = true}, {"PRICE", .right = true}, {"DISCOUNT", .right = true},
    };
    struct table t;
    char price[64], discount[64];
    if (o->n_items == 0) return;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < o->n_items; i++) {
        const Orderdb__V1__OrderItem *item = o->items[i];
        money_text(item->unit_price, price, sizeof(price));
        money_text(item->discount, discount, sizeof(discount));
        table_cell(&t, "%s", item->sku_id);
        table_cell(&t, "%s", item->title);
        table_cell(&t, "%d", item->quantity);
        table_cell(&t, "%s", price);
        table_cell(&t, "%s", discount);
    }
    putchar('\n');
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void print_payments(const Order *o) {
    static const struct table_column columns[] = {{"PAYMENT", .shrinks_to = 16}, {"CHANNEL", .shrinks_to = 10}, {"AMOUNT", .right = true}, {"TIME"}};
    struct table t;
    char amount[64], time[TIME_TEXT_BYTES];
    if (o->n_payments == 0) return;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < o->n_payments; i++) {
        money_text(o->payments[i]->amount, amount, sizeof(amount));
        time_text(o->payments[i]->pay_time, time);
        table_cell(&t, "%s", o->payments[i]->payment_no);
        table_cell(&t, "%s", o->payments[i]->channel);
        table_cell(&t, "%s", amount);
        table_cell(&t, "%s", time);
    }
    putchar('\n');
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void print_shipments(const Order *o) {
    static const struct table_column columns[] = {{"SHIPMENT", .shrinks_to = 16}, {"CARRIER", .shrinks_to = 10}, {"SKUS", .right = true}};
    struct table t;
    if (o->n_shipments == 0) return;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < o->n_shipments; i++) {
        table_cell(&t, "%s", o->shipments[i]->tracking_no);
        table_cell(&t, "%s", o->shipments[i]->carrier);
        table_cell(&t, "%zu", o->shipments[i]->n_sku_ids);
    }
    putchar('\n');
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void entries_print(Orderdb__V1__HistoryEntry *const *entries, size_t n) {
    static const struct table_column columns[] = {
        {"VER", .right = true}, {"EVENT", .shrinks_to = 10}, {"STATUS", .shrinks_to = 10}, {"TIME"}, {"BY", .shrinks_to = 6}, {"REASON", .shrinks_to = 6}};
    struct table t;
    char time[TIME_TEXT_BYTES];
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < n; i++) {
        const Orderdb__V1__HistoryEntry *h = entries[i];
        time_text_short(h->time, true, time);
        table_cell(&t, "%lld", (long long)h->version);
        table_cell(&t, "%s", h->event);
        table_cell(&t, "%s", h->to_status);
        table_cell(&t, "%s", time);
        table_cell(&t, "%s", h->operator_);
        table_cell(&t, "%s", h->reason);
    }
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

static void print_token(const Orderdb__V1__CommitToken *token) {
    char text[READ_TOKEN_BYTES];
    if (!token) return; /* nothing was written */
    read_token_text(token, text);
    print_field("token", text);
}

/* token: of the write that the order is the answer of; NULL: of none. */
static void print_order(const Order *o, const Orderdb__V1__CommitToken *token) {
    char id[24], version[24];
    snprintf(id, sizeof(id), "%lld", (long long)o->order_id);
    snprintf(version, sizeof(version), "%lld", (long long)o->version);
    print_field("order", o->order_id ? id : "- (a dry run gives none)");
    print_field("status", o->status);
    print_field("version", version);
    print_token(token);
    print_field("user", o->user_id);
    print_field("merchant", o->merchant_id);
    print_field("client no", o->client_order_no);
    print_field("type", o->order_type);
    print_field("machine", o->machine);
    print_money("items", o->items_total);
    print_money("freight", o->freight);
    print_money("discount", o->discount_total);
    print_money("payable", o->payable);
    print_time("created", o->create_time);
    print_time("updated", o->update_time);
    if (o->address) {
        print_field("recipient", o->address->recipient);
        print_field("phone", o->address->phone);
        print_field("region", o->address->region_code);
        print_field("address", o->address->line);
    }
    for (size_t i = 0; i < o->n_attributes; i++) print_attribute(o->attributes[i]->key, o->attributes[i]->value);
    for (size_t i = 0; i < o->n_timers; i++) print_time(o->timers[i]->timer_id, o->timers[i]->fire_time);
    print_items(o);
    print_payments(o);
    print_shipments(o);
    if (o->n_history) putchar('\n'), entries_print(o->history, o->n_history);
}

/* ---- order create */

static bool item_set(const struct cli *cli, struct arena *a, Orderdb__V1__OrderItem *item, char *key, char *value) {
    int64_t units;
    char *end;
    if (strcmp(key, "sku") == 0) return item->sku_id = value, true;
    if (strcmp(key, "title") == 0) return item->title = value, true;
    if (strcmp(key, "merchant") == 0) return item->merchant_id = value, true;
    if (strcmp(key, "qty") == 0) {
        long n = strtol(value, &end, 10);
        if (!*value || *end || n < INT32_MIN || n > INT32_MAX) return cli_usage(cli, "--item: qty=%s is not a whole number", value), false;
        return item->quantity = (int32_t)n, true;
    }
    bool price = strcmp(key, "price") == 0;
    if (price || strcmp(key, "discount") == 0) {
        if (!content_amount_read(cli, price ? "--item price" : "--item discount", create.currency, value, &units)) return false;
        return (*(price ? &item->unit_price : &item->discount) = content_money_new(a, create.currency, units)) != NULL;
    }
    return cli_usage(cli, "--item: no part \"%s\"; there are sku, title, qty, price, discount, merchant", key), false;
}

/* The item and what it adds to the total. */
static Orderdb__V1__OrderItem *item_read(const struct cli *cli, struct arena *a, const char *text, int64_t *total) {
    Orderdb__V1__OrderItem *item = arena_new(a, Orderdb__V1__OrderItem);
    char *rest = arena_printf(a, "%s", text), *key, *value;
    bool bad = false;
    int64_t line;
    if (!item || !rest) return NULL;
    orderdb__v1__order_item__init(item);
    item->quantity = 1;
    while (content_pair_next(&rest, &key, &value, &bad)) {
        if (!item_set(cli, a, item, key, value)) return NULL;
    }
    if (bad) return cli_usage(cli, "--item: \"%s\" is not sku=..,title=..,qty=..,price=..", text), NULL;
    if (!item->unit_price) return cli_usage(cli, "--item: \"%s\" has no price", text), NULL;
    if (__builtin_mul_overflow((int64_t)item->quantity, item->unit_price->minor_units, &line) ||
        __builtin_sub_overflow(line, item->discount ? item->discount->minor_units : 0, &line) || __builtin_add_overflow(*total, line, total)) {
        return cli_usage(cli, "--item: the amounts are too large"), NULL;
    }
    return item;
}

static bool items_read(const struct cli *cli, struct arena *a, Order *o) {
    int64_t total = 0, freight = 0, discount = 0, payable;
    o->items = arena_array(a, Orderdb__V1__OrderItem *, create.items.count);
    if (!o->items) return false;
    for (size_t i = 0; i < create.items.count; i++) {
        o->items[i] = item_read(cli, a, create.items.values[i], &total);
        if (!o->items[i]) return false;
        o->n_items++;
    }
    if (create.freight && !content_amount_read(cli, "--freight", create.currency, create.freight, &freight)) return false;
    if (create.discount && !content_amount_read(cli, "--discount", create.currency, create.discount, &discount)) return false;
    if (__builtin_add_overflow(total, freight, &payable) || __builtin_sub_overflow(payable, discount, &payable)) {
        return cli_usage(cli, "the amounts are too large"), false;
    }
    o->items_total = content_money_new(a, create.currency, total);
    o->freight = content_money_new(a, create.currency, freight);
    o->discount_total = content_money_new(a, create.currency, discount);
    o->payable = content_money_new(a, create.currency, payable);
    return o->items_total && o->freight && o->discount_total && o->payable;
}

static Order *order_from_flags(const struct cli *cli, struct arena *a) {
    if (!create.user) return cli_usage(cli, "--user is needed (or -f FILE)"), NULL;
    if (!create.currency) return cli_usage(cli, "--currency is needed, such as CNY"), NULL;
    if (strlen(create.currency) != 3 || strspn(create.currency, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 3)
        return cli_usage(cli, "--currency: \"%s\" is not an ISO 4217 code of three capital letters, such as CNY", create.currency), NULL;
    if (!create.items.count) return cli_usage(cli, "--item is needed, such as --item sku=u1,title=Umbrella,qty=2,price=19.99"), NULL;
    Order *o = arena_new(a, Order);
    if (!o) return cli_no_memory(), NULL;
    orderdb__v1__order__init(o);
    o->user_id = (char *)(uintptr_t)create.user;
    if (create.client_order_no) o->client_order_no = (char *)(uintptr_t)create.client_order_no;
    if (create.merchant) o->merchant_id = (char *)(uintptr_t)create.merchant;
    if (create.machine) o->machine = (char *)(uintptr_t)create.machine;
    bool ok = items_read(cli, a, o) && content_read(cli, a, &create.content, create.currency, o);
    return ok ? o : NULL;
}

/* A CreateOrderRequest or, without the key "order", the Order alone. */
static Orderdb__V1__CreateOrderRequest *create_from_file(const struct cli *cli, struct arena *a) {
    size_t len;
    char error[PBJSON_ERROR_BYTES], *text = cli_read_file(create.file, &len);
    if (!text) return NULL;
    struct slice json = slice_of(text, len);
    bool whole = pbjson_has_key(json, "order");
    ProtobufCMessage *m = pbjson_parse(whole ? &orderdb__v1__create_order_request__descriptor : &orderdb__v1__order__descriptor, json, a, error);
    mem_free(text);
    if (!m) return cli_usage(cli, "%s: %s", create.file, error), NULL;
    if (whole) return (Orderdb__V1__CreateOrderRequest *)m;
    Orderdb__V1__CreateOrderRequest *r = arena_new(a, Orderdb__V1__CreateOrderRequest);
    if (!r) return cli_no_memory(), NULL;
    orderdb__v1__create_order_request__init(r);
    r->order = (Order *)m;
    return r;
}

/* What the flags say over what a file said. */
static Orderdb__V1__WriteOptions *write_options(struct arena *a, Orderdb__V1__WriteOptions *given) {
    Orderdb__V1__WriteOptions *w = given ? given : arena_new(a, Orderdb__V1__WriteOptions);
    if (!w) return NULL;
    if (!given) orderdb__v1__write_options__init(w);
    if (write.request_id) w->request_id = (char *)(uintptr_t)write.request_id;
    if (write.operator_) w->operator_ = (char *)(uintptr_t)write.operator_;
    if (write.reason) w->reason = (char *)(uintptr_t)write.reason;
    if (write.validate_only) w->validate_only = true;
    return w;
}

/* The answer of a write that shows the order. */
static enum cli_exit print_written(struct cli *cli, const ProtobufCMessage *answer, const Order *order, const Orderdb__V1__CommitToken *token, bool replayed) {
    if (cli->json) return cli_print_json(answer);
    if (!order) return CLI_OK;
    print_order(order, token);
    if (replayed) printf("\nThis request had been made before; this is its first answer.\n");
    if (write.validate_only) printf("\nNothing was written.\n");
    return CLI_OK;
}

static enum cli_exit create_send(struct cli *cli, struct arena *a, Orderdb__V1__CreateOrderRequest *r) {
    r->options = write_options(a, r->options);
    if (!r->options) return cli_no_memory();
    Orderdb__V1__CreateOrderResponse *answer = orderdb_create_order(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = print_written(cli, &answer->base, answer->order, answer->token, answer->replayed);
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit create_run(struct cli *cli, int argc, char **argv) {
    struct arena a;
    Orderdb__V1__CreateOrderRequest request = ORDERDB__V1__CREATE_ORDER_REQUEST__INIT, *r = &request;
    bool flags_too = create.user || create.currency || create.freight || create.discount || create.client_order_no || create.merchant || create.machine ||
                     create.items.count || content_given(&create.content);
    if (create.file && flags_too) return cli_usage(cli, "-f brings the whole order: only --request-id, --operator and --reason go with it");
    arena_init(&a, REQUEST_ARENA_BYTES);
    if (create.file) r = create_from_file(cli, &a);
    else r->order = order_from_flags(cli, &a);
    enum cli_exit e = r && r->order ? create_send(cli, &a, r) : CLI_USAGE; /* what is wrong has been told */
    arena_fini(&a);
    return e;
}

/* ---- order get */

static bool id_read(const struct cli *cli, const char *text, int64_t *id) {
    if (cli_parse_id(text, id)) return true;
    cli_usage(cli, "\"%s\" is not an order id (a positive number)", text);
    return false;
}

static bool time_read(const struct cli *cli, const char *flag, const char *text, Google__Protobuf__Timestamp *t) {
    if (time_parse(slice_str(text), &t->seconds, &t->nanos)) return true;
    cli_usage(cli, "%s: \"%s\" is not a time like 2026-01-31 or 2026-01-31T08:00:00Z", flag, text);
    return false;
}

static enum cli_exit get_send(struct cli *cli, const Orderdb__V1__GetOrderRequest *r) {
    Order *o = orderdb_get_order(cli->db, r, NULL);
    if (!o) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&o->base);
    else print_order(o, NULL);
    orderdb_message_free(o);
    return e;
}

static enum cli_exit get_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    struct arena a;
    if (!id_read(cli, argv[0], &r.order_id)) return CLI_USAGE;
    Google__Protobuf__Timestamp then = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    if (as_of && !time_read(cli, "--as-of", as_of, &then)) return CLI_USAGE;
    if (as_of) r.as_of = &then;
    if (history_entries < INT32_MIN || history_entries > INT32_MAX) return cli_usage(cli, "--history is out of range");
    r.history_entries = (int32_t)history_entries;
    arena_init(&a, REQUEST_ARENA_BYTES);
    enum cli_exit e = read_options(cli, &a, &reading, &r.read) ? get_send(cli, &r) : CLI_USAGE;
    arena_fini(&a);
    return e;
}

/* ---- order list */

static void orders_print(Order *const *orders, size_t n) {
    static const struct table_column columns[] = {
        {"ORDER", .right = true}, {"STATUS", .shrinks_to = 10}, {"PAYABLE", .right = true}, {"CREATED"}, {"CLIENT NO", .shrinks_to = 9}};
    struct table t;
    char payable[64], time[TIME_TEXT_BYTES];
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < n; i++) {
        const Order *o = orders[i];
        money_text(o->payable, payable, sizeof(payable));
        time_text_short(o->create_time, false, time);
        table_cell(&t, "%lld", (long long)o->order_id);
        table_cell(&t, "%s", o->status);
        table_cell(&t, "%s", payable);
        table_cell(&t, "%s", time);
        table_cell(&t, "%s", o->client_order_no);
    }
    if (n) table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

/* Counts are of all statuses, whichever were asked for. */
static void list_print(const Orderdb__V1__ListOrdersResponse *answer, bool of_some_statuses) {
    orders_print(answer->orders, answer->n_orders);
    printf("%s%lld order%s", answer->n_orders ? "\n" : "", (long long)answer->total_size, answer->total_size == 1 ? "" : "s");
    for (size_t i = 0; i < answer->n_status_counts; i++) {
        printf("%s", i ? ", " : of_some_statuses ? "; in all statuses: " : ": ");
        text_print(stdout, answer->status_counts[i]->key);
        printf(" %lld", (long long)answer->status_counts[i]->value);
    }
    putchar('\n');
    if (answer->next_page_token && *answer->next_page_token) {
        printf("more: --page-token ");
        text_print(stdout, answer->next_page_token);
        putchar('\n');
    }
}

static enum cli_exit list_send(struct cli *cli, Orderdb__V1__ListOrdersRequest *r) {
    Orderdb__V1__ListOrdersResponse *answer = orderdb_list_orders(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&answer->base);
    else list_print(answer, r->n_statuses > 0);
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit list_run(struct cli *cli, int argc, char **argv) {
    Google__Protobuf__Timestamp from = GOOGLE__PROTOBUF__TIMESTAMP__INIT, to = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    Orderdb__V1__ListOrdersRequest r = ORDERDB__V1__LIST_ORDERS_REQUEST__INIT;
    struct arena a;
    r.user_id = argv[0];
    if (list.from && !time_read(cli, "--from", list.from, &from)) return CLI_USAGE;
    if (list.to && !time_read(cli, "--to", list.to, &to)) return CLI_USAGE;
    if (list.page_size < INT32_MIN || list.page_size > INT32_MAX) return cli_usage(cli, "--page-size is out of range");
    if (list.page_number != PAGE_NONE && (list.page_number < 1 || list.page_number > INT32_MAX)) return cli_usage(cli, "--page is a number from 1");
    if (list.page_number != PAGE_NONE && list.page_token) return cli_usage(cli, "--page and --page-token exclude each other");
    if (list.from) r.create_time_from = &from;
    if (list.to) r.create_time_to = &to;
    if (list.page_token) r.page_token = (char *)(uintptr_t)list.page_token;
    r.page_size = (int32_t)list.page_size, r.page_number = list.page_number == PAGE_NONE ? 0 : (int32_t)list.page_number;
    arena_init(&a, REQUEST_ARENA_BYTES);
    if (!read_options(cli, &a, &reading, &r.read)) return arena_fini(&a), CLI_USAGE;
    r.statuses = content_names_split(&a, &list.statuses, &r.n_statuses);
    bool named = !list.statuses.count || r.n_statuses; /* --status "$UNSET" must not list all */
    enum cli_exit e = !r.statuses ? cli_no_memory() : named ? list_send(cli, &r) : cli_usage(cli, "--status names no status");
    arena_fini(&a);
    return e;
}

/* ---- order batch-get, order outcome */

static enum cli_exit batch_get_send(struct cli *cli, const Orderdb__V1__BatchGetOrdersRequest *r) {
    Orderdb__V1__BatchGetOrdersResponse *answer = orderdb_batch_get_orders(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) {
        e = cli_print_json(&answer->base);
    } else {
        orders_print(answer->orders, answer->n_orders);
        for (size_t i = 0; i < answer->n_missing_ids; i++) printf("missing: %lld\n", (long long)answer->missing_ids[i]);
    }
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit batch_get_run(struct cli *cli, int argc, char **argv) {
    int64_t ids[BATCH_GET_MAX];
    Orderdb__V1__BatchGetOrdersRequest r = ORDERDB__V1__BATCH_GET_ORDERS_REQUEST__INIT;
    struct arena a;
    for (int i = 0; i < argc; i++) {
        if (!id_read(cli, argv[i], &ids[i])) return CLI_USAGE;
    }
    r.n_order_ids = (size_t)argc, r.order_ids = ids;
    arena_init(&a, REQUEST_ARENA_BYTES);
    enum cli_exit e = read_options(cli, &a, &reading, &r.read) ? batch_get_send(cli, &r) : CLI_USAGE;
    arena_fini(&a);
    return e;
}

static enum cli_exit outcome_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__GetRequestOutcomeRequest r = ORDERDB__V1__GET_REQUEST_OUTCOME_REQUEST__INIT;
    if (!outcome_user) return cli_usage(cli, "--user is needed: whose request it was");
    r.user_id = (char *)(uintptr_t)outcome_user, r.request_id = argv[0];
    Orderdb__V1__RequestOutcome *o = orderdb_get_request_outcome(cli->db, &r, NULL);
    if (!o) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&o->base);
    else if (o->state == ORDERDB__V1__REQUEST_OUTCOME__STATE__APPLIED) printf("applied: order %lld, version %lld\n", (long long)o->order_id, (long long)o->version);
    else printf("not applied, and never will be: this request id is refused from now on\n");
    orderdb_message_free(o);
    return e;
}

/* ---- order transition */

static enum cli_exit transition_send(struct cli *cli, struct arena *a, Orderdb__V1__TransitionOrderRequest *r) {
    r->options = write_options(a, NULL);
    if (!r->options) return cli_no_memory();
    Orderdb__V1__TransitionOrderResponse *answer = orderdb_transition_order(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) {
        e = cli_print_json(&answer->base);
    } else if (answer->entry) {
        const Orderdb__V1__HistoryEntry *h = answer->entry;
        char time[TIME_TEXT_BYTES];
        time_text(h->time, time);
        printf("%lld: ", (long long)(answer->order ? answer->order->order_id : r->order_id));
        text_print(stdout, h->from_status);
        printf(" -> ");
        text_print(stdout, h->to_status);
        printf(" (");
        text_print(stdout, h->event);
        printf("), version %lld\n%s%s\n", (long long)h->version, time, answer->replayed ? ", made before" : "");
        print_token(answer->token);
        if (write.validate_only) printf("Nothing was written.\n");
    }
    orderdb_message_free(answer);
    return e;
}

/* false: told. */
static bool transition_patch(struct cli *cli, struct arena *a, Orderdb__V1__TransitionOrderRequest *r) {
    r->update_mask = content_mask(cli, a, &transition.patch);
    r->patch = r->update_mask ? arena_new(a, Order) : NULL;
    if (!r->patch) return false;
    orderdb__v1__order__init(r->patch);
    return content_read(cli, a, &transition.patch, NULL, r->patch);
}

static enum cli_exit transition_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__TransitionOrderRequest r = ORDERDB__V1__TRANSITION_ORDER_REQUEST__INIT;
    struct arena a;
    if (!id_read(cli, argv[0], &r.order_id)) return CLI_USAGE;
    if ((argc == 2) == (transition.to != NULL)) return cli_usage(cli, "name the event to take or its target with --to STATUS, one of the two");
    if (argc == 2) r.event = argv[1];
    if (transition.to) r.to_status = (char *)(uintptr_t)transition.to;
    r.expected_version = transition.version;
    arena_init(&a, REQUEST_ARENA_BYTES);
    r.expected_statuses = content_names_split(&a, &transition.expected, &r.n_expected_statuses);
    if (content_given(&transition.patch) && !transition_patch(cli, &a, &r)) return arena_fini(&a), CLI_USAGE;
    bool named = !transition.expected.count || r.n_expected_statuses; /* --expect "$UNSET" must not expect all */
    enum cli_exit e = !r.expected_statuses ? cli_no_memory() : named ? transition_send(cli, &a, &r) : cli_usage(cli, "--expect names no status");
    arena_fini(&a);
    return e;
}

/* ---- order update */

static enum cli_exit update_send(struct cli *cli, struct arena *a, Orderdb__V1__UpdateOrderRequest *r) {
    r->options = write_options(a, NULL);
    if (!r->options) return cli_no_memory();
    Orderdb__V1__UpdateOrderResponse *answer = orderdb_update_order(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = print_written(cli, &answer->base, answer->order, answer->token, answer->replayed);
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit update_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__UpdateOrderRequest r = ORDERDB__V1__UPDATE_ORDER_REQUEST__INIT;
    Order order = ORDERDB__V1__ORDER__INIT;
    struct arena a;
    if (!id_read(cli, argv[0], &order.order_id)) return CLI_USAGE;
    if (!content_given(&update.content)) return cli_usage(cli, "name what is to change: --type, --address, --payment, --shipment, --attr, --extension or --clear");
    r.order = &order;
    r.expected_version = update.version;
    arena_init(&a, REQUEST_ARENA_BYTES);
    r.update_mask = content_mask(cli, &a, &update.content);
    bool read = r.update_mask && content_read(cli, &a, &update.content, NULL, &order);
    enum cli_exit e = read ? update_send(cli, &a, &r) : CLI_USAGE; /* what is wrong has been told */
    arena_fini(&a);
    return e;
}

/* ---- order history */

static void history_print(const Orderdb__V1__ListOrderHistoryResponse *answer) {
    entries_print(answer->entries, answer->n_entries);
    if (answer->next_page_token && *answer->next_page_token) {
        printf("more: --page-token ");
        text_print(stdout, answer->next_page_token);
        putchar('\n');
    }
}

static enum cli_exit history_send(struct cli *cli, const Orderdb__V1__ListOrderHistoryRequest *r) {
    Orderdb__V1__ListOrderHistoryResponse *answer = orderdb_list_order_history(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&answer->base);
    else history_print(answer);
    orderdb_message_free(answer);
    return e;
}

static enum cli_exit history_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__ListOrderHistoryRequest r = ORDERDB__V1__LIST_ORDER_HISTORY_REQUEST__INIT;
    struct arena a;
    if (!id_read(cli, argv[0], &r.order_id)) return CLI_USAGE;
    if (list.page_size < INT32_MIN || list.page_size > INT32_MAX) return cli_usage(cli, "--page-size is out of range");
    r.page_size = (int32_t)list.page_size;
    if (list.page_token) r.page_token = (char *)(uintptr_t)list.page_token;
    arena_init(&a, REQUEST_ARENA_BYTES);
    enum cli_exit e = read_options(cli, &a, &reading, &r.read) ? history_send(cli, &r) : CLI_USAGE;
    arena_fini(&a);
    return e;
}

/* ---- the family */

#define WRITE_FLAGS \
    {"--request-id", NULL, ARG_TEXT, &write.request_id, "ID", "16-128 bytes; the same id again has no second effect"}, \
    {"--operator", NULL, ARG_TEXT, &write.operator_, "WHO", "for the history"}, \
    {"--reason", NULL, ARG_TEXT, &write.reason, "TEXT", "for the history"}, \
    {"--validate-only", NULL, ARG_SWITCH, &write.validate_only, NULL, "decide and answer, write nothing"}

static const struct arg create_flags[] = {
    {"--user", NULL, ARG_TEXT, &create.user, "USER", "whose order it is"},
    {"--item", NULL, ARG_MANY, &create.items, "PARTS", "sku=..,price=.. and, if you like, title=..,qty=..,discount=..,merchant=..; repeat it; \\, is a comma"},
    {"--currency", NULL, ARG_TEXT, &create.currency, "CODE", "ISO 4217, of all amounts; they are decimals: 19.99 CNY, 500 JPY"},
    {"--freight", NULL, ARG_TEXT, &create.freight, "AMOUNT", "added to the items' total"},
    {"--discount", NULL, ARG_TEXT, &create.discount, "AMOUNT", "off the whole order"},
    {"--client-order-no", NULL, ARG_TEXT, &create.client_order_no, "NO", "your own number, unique per user"},
    {"--merchant", NULL, ARG_TEXT, &create.merchant, "ID", "the merchant"},
    {"--machine", NULL, ARG_TEXT, &create.machine, "NAME", "the status machine (default: the server's)"},
    CONTENT_FLAGS(create.content),
    {"--file", "-f", ARG_TEXT, &create.file, "FILE|-", "the order, or the whole request, as JSON instead"},
    WRITE_FLAGS,
    {NULL},
};
static const struct arg get_flags[] = {
    {"--as-of", NULL, ARG_TEXT, &as_of, "TIME", "as it was then"},
    {"--history", NULL, ARG_NUMBER, &history_entries, "N", "its newest N history entries too, at most 100"},
    READ_SUMMARY_FLAG(reading),
    READ_FRESH_FLAGS(reading),
    {NULL},
};
static const struct arg batch_get_flags[] = {
    READ_SUMMARY_FLAG(reading),
    READ_FRESH_FLAGS(reading),
    {NULL},
};
static const struct arg outcome_flags[] = {
    {"--user", NULL, ARG_TEXT, &outcome_user, "USER", "whose request it was"},
    {NULL},
};
static const struct arg list_flags[] = {
    {"--status", NULL, ARG_MANY, &list.statuses, "STATUS,..", "only these"},
    {"--from", NULL, ARG_TEXT, &list.from, "TIME", "created at or after: 2026-01-31 or 2026-01-31T08:00:00Z (times are UTC)"},
    {"--to", NULL, ARG_TEXT, &list.to, "TIME", "created before"},
    {"--page-size", NULL, ARG_NUMBER, &list.page_size, "N", "default 20, at most 1000"},
    {"--page", NULL, ARG_NUMBER, &list.page_number, "N", "jump to page N, from 1"},
    {"--page-token", NULL, ARG_TEXT, &list.page_token, "TOKEN", "go on where a list ended"},
    {"--full", NULL, ARG_SWITCH, &reading.full, NULL, "with items and addresses (-o json)"},
    {"--summary", NULL, ARG_SWITCH, &reading.summary, NULL, "without them, as a list is if not told"},
    READ_FRESH_FLAGS(reading),
    {NULL},
};
static const struct arg transition_flags[] = {
    {"--to", NULL, ARG_TEXT, &transition.to, "STATUS", "the target instead of an event"},
    {"--expect", NULL, ARG_MANY, &transition.expected, "STATUS,..", "refuse unless the order is in one of these"},
    {"--version", NULL, ARG_NUMBER, &transition.version, "N", "refuse unless the order has this version"},
    CONTENT_CHANGE_FLAGS(transition.patch),
    WRITE_FLAGS,
    {NULL},
};
static const struct arg update_flags[] = {
    {"--version", NULL, ARG_NUMBER, &update.version, "N", "refuse unless the order has this version"},
    CONTENT_CHANGE_FLAGS(update.content),
    WRITE_FLAGS,
    {NULL},
};
static const struct arg history_flags[] = {
    {"--page-size", NULL, ARG_NUMBER, &list.page_size, "N", "default 100, at most 1000"},
    {"--page-token", NULL, ARG_TEXT, &list.page_token, "TOKEN", "go on where a list ended"},
    READ_FRESH_FLAGS(reading),
    {NULL},
};

const struct cli_command order_commands[] = {
    {"order", "create", "", "create an order",
     "Examples:\n"
     "  orderctl order create --user ann --currency CNY --freight 5 \\\n"
     "    --item sku=u1,title=Umbrella,qty=2,price=19.99\n"
     "  orderctl order create --user ann --currency JPY --client-order-no W-1001 \\\n"
     "    --item sku=b7,title=Book,qty=1,price=1200\n"
     "  orderctl order create -f order.json\n"
     "  echo '{\"user_id\": \"ann\", \"items\": [{\"sku_id\": \"u1\", \"quantity\": 1,\n"
     "    \"unit_price\": {\"currency_code\": \"CNY\", \"minor_units\": \"1999\"}}]}' |\n"
     "    orderctl order create -f -\n",
     create_flags, 0, 0, create_run},
    {"order", "get", "ORDER_ID", "show an order", "Examples:\n  orderctl order get 1234567890\n  orderctl order get 1234567890 -o json\n  orderctl order get 1234567890 --history 10\n  orderctl order get 1234567890 --as-of 2026-01-31T08:00:00Z\n"
     "  orderctl order get 1234567890 --at-least 9001:17    # a write's token\n  orderctl order get 1234567890 --summary --max-staleness 5s\n",
     get_flags, 1, 1, get_run},
    {"order", "batch-get", "ORDER_ID...", "show several orders, a line each", "Examples:\n  orderctl order batch-get 1234567890 1234567891 -o json\n", batch_get_flags, 1, BATCH_GET_MAX,
     batch_get_run},
    {"order", "list", "USER", "list a user's orders, newest first",
     "Examples:\n  orderctl order list ann\n  orderctl order list ann --status PAID,SHIPPED --from 2026-01-01\n"
     "  orderctl order list ann --page-size 100 --page 7\n"
     "  orderctl order list ann --at-least 9001:17    # with the write of this token\n"
     "  orderctl order list ann --max-staleness 0.5s --full -o json\n",
     list_flags, 1, 1, list_run},
    {"order", "transition", "ORDER_ID [EVENT]", "move an order along its status machine",
     "Examples:\n  orderctl order transition 1234567890 pay\n  orderctl order transition 1234567890 ship --expect PAID --reason \"left us\"\n"
     "  orderctl order transition 1234567890 pay \\\n"
     "    --payment no=p-77,channel=card,amount=43.48,currency=CNY\n"
     "  orderctl order transition 1234567890 --to CANCELLED\n",
     transition_flags, 1, 2, transition_run},
    {"order", "update", "ORDER_ID", "replace fields of an order's content, each as a whole",
     "Examples:\n  orderctl order update 1234567890 --address 'recipient=Ann,line=Road 1\\, left'\n"
     "  orderctl order update 1234567890 --attr gift=yes --clear extension --version 3\n",
     update_flags, 1, 1, update_run},
    {"order", "timers", "ORDER_ID", "show what will happen to an order by itself, and when", cmd_timers_text, NULL, 1, 1, cmd_timers_run},
    {"order", "timer-set", "ORDER_ID TIMER", "set a timer of an order, or move one", cmd_timer_set_text, cmd_timer_set_flags, 2, 2, cmd_timer_set_run},
    {"order", "timer-cancel", "ORDER_ID TIMER", "take a timer away", cmd_timer_cancel_text, cmd_timer_cancel_flags, 2, 2, cmd_timer_cancel_run},
    {"order", "batch-create", "FILE|-", "create many orders in one call", cmd_batch_create_text, cmd_batch_create_flags, 1, 1, cmd_batch_create_run},
    {"order", "batch-transition", "EVENT ORDER_ID...", "move many orders in one call", cmd_batch_transition_text, cmd_batch_transition_flags, 2, 1 + CMD_BATCH_MAX,
     cmd_batch_transition_run},
    {"order", "history", "ORDER_ID", "show what happened to an order, oldest first",
     "Examples:\n  orderctl order history 1234567890\n  orderctl order history 1234567890 -o json\n  orderctl order history 1234567890 --at-least 9001:17\n", history_flags, 1, 1, history_run},
    {"order", "verify", "[ORDER_ID...]", "check that a history is the one that was written", cmd_verify_text, cmd_verify_flags, 0, CMD_VERIFY_ORDERS_MAX,
     cmd_verify_run},
    {"order", "outcome", "REQUEST_ID --user USER", "what became of a write whose answer was lost",
     "The answer is final: a request that had not been applied is refused from then on.\n\n"
     "Examples:\n  orderctl order outcome 6f1c0b5e9d7a4f32 --user ann\n", outcome_flags, 1, 1, outcome_run},
    {"order", "import", "FILE|DIR|-", "load orders of another system, with their history", cmd_import_text, cmd_import_flags, 1, 1, cmd_import_run},
    {NULL},
};
