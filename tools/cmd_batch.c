/* orderctl order batch-create, batch-transition: one call, a result for each request. Exit code 1 when any of them was refused. */
#include "tools/cmd_batch.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/mem.h"
#include "tools/content.h"
#include "tools/pbjson.h"
#include "tools/read_flags.h"
#include "tools/refusal.h"
#include "tools/table.h"

#define BATCH_ARENA_BYTES (64 * MIB)

static struct {
    const char *request_id, *operator_, *reason;
    bool validate_only, atomic;
    struct args_many expected;
} batch;

#define BATCH_FLAGS \
    {"--request-id", NULL, ARG_TEXT, &batch.request_id, "PREFIX", "the ids are PREFIX-1, PREFIX-2, ..., so that the whole command may be repeated; 14-120 bytes"}, \
    {"--operator", NULL, ARG_TEXT, &batch.operator_, "WHO", "for the history"}, \
    {"--reason", NULL, ARG_TEXT, &batch.reason, "TEXT", "for the history"}, \
    {"--validate-only", NULL, ARG_SWITCH, &batch.validate_only, NULL, "decide and answer, write nothing"}

const struct arg cmd_batch_create_flags[] = {
    {"--atomic", NULL, ARG_SWITCH, &batch.atomic, NULL, "all or none; orders of one user"},
    BATCH_FLAGS,
    {NULL},
};
const char cmd_batch_create_text[] =
    "One JSON object a line, at most 1000: an order, or a whole CreateOrderRequest, as `order create -f` takes them. Each is created or refused by itself. Exit code 1 when one was "
    "refused; 2, and nothing sent, when a line cannot be read.\n\n"
    "Examples:\n"
    "  orderctl order batch-create orders.ndjson --request-id nightly-2026-01-31\n"
    "  orderctl order batch-create cart.ndjson --atomic --validate-only\n"
    "  zcat orders.ndjson.gz | orderctl order batch-create -\n";

const struct arg cmd_batch_transition_flags[] = {
    {"--expect", NULL, ARG_MANY, &batch.expected, "STATUS,..", "refuse those that are in none of these"},
    BATCH_FLAGS,
    {NULL},
};
const char cmd_batch_transition_text[] =
    "At most 1000 orders in one call; each moves or is refused by itself. Exit code 1 when one was refused.\n\n"
    "Examples:\n"
    "  orderctl order batch-transition ship 1234567890 1234567891 --operator dock-7\n"
    "  xargs -n 1000 orderctl order batch-transition cancel < ids.txt\n";

/* ---- requests */

/* The flags over what a file said; n: from 1. NULL: no memory. */
static Orderdb__V1__WriteOptions *options_of(struct arena *a, Orderdb__V1__WriteOptions *given, size_t n) {
    Orderdb__V1__WriteOptions *w = given ? given : arena_new(a, Orderdb__V1__WriteOptions);
    if (!w) return NULL;
    if (!given) orderdb__v1__write_options__init(w);
    if (batch.request_id) w->request_id = arena_printf(a, "%s-%zu", batch.request_id, n);
    if (batch.operator_) w->operator_ = (char *)(uintptr_t)batch.operator_;
    if (batch.reason) w->reason = (char *)(uintptr_t)batch.reason;
    if (batch.validate_only) w->validate_only = true;
    return w->request_id ? w : NULL;
}

/* NULL: told. */
static Orderdb__V1__CreateOrderRequest *create_read(const struct cli *cli, struct arena *a, const char *path, size_t line, size_t n, struct slice json) {
    char error[PBJSON_ERROR_BYTES];
    bool whole = pbjson_has_key(json, "order");
    ProtobufCMessage *m = pbjson_parse(whole ? &orderdb__v1__create_order_request__descriptor : &orderdb__v1__order__descriptor, json, a, error);
    if (!m) return cli_usage(cli, "%s: line %zu: %s", path, line, error), NULL;
    Orderdb__V1__CreateOrderRequest *r = whole ? (Orderdb__V1__CreateOrderRequest *)m : arena_new(a, Orderdb__V1__CreateOrderRequest);
    if (!r) return cli_no_memory(), NULL;
    if (!whole) {
        orderdb__v1__create_order_request__init(r);
        r->order = (Orderdb__V1__Order *)m;
    }
    r->options = options_of(a, r->options, n);
    return r->options ? r : (cli_no_memory(), NULL);
}

/* Fills requests, of CMD_BATCH_MAX; false: told. */
static bool creates_read(const struct cli *cli, struct arena *a, const char *path, char *text, Orderdb__V1__BatchCreateOrdersRequest *r) {
    size_t line = 0;
    for (char *one; (one = strsep(&text, "\n"));) {
        line++;
        if (one[strspn(one, " \t\r")] == 0) continue;
        if (r->n_requests == CMD_BATCH_MAX) return cli_usage(cli, "%s: more than %d orders; split the file", path, CMD_BATCH_MAX), false;
        r->requests[r->n_requests] = create_read(cli, a, path, line, r->n_requests + 1, slice_str(one));
        if (!r->requests[r->n_requests++]) return false;
    }
    return r->n_requests || (cli_usage(cli, "%s: no order in it", path), false);
}

/* ---- results */

struct results {
    struct table table;
    size_t count, refused;
};

static void results_begin(struct results *r) {
    static const struct table_column columns[] = {
        {"NO", .right = true}, {"ORDER", .right = true}, {"STATUS", .shrinks_to = 10}, {"VER", .right = true}, {"TOKEN"}, {"RESULT", .shrinks_to = 10}};
    *r = (struct results){0};
    table_init(&r->table, columns, ARRAY_LEN(columns));
}

static void results_done(struct results *r, const Orderdb__V1__Order *o, const Orderdb__V1__CommitToken *token, bool replayed) {
    char text[READ_TOKEN_BYTES] = "-";
    if (token) read_token_text(token, text);
    table_cell(&r->table, "%zu", ++r->count);
    if (o && o->order_id) table_cell(&r->table, "%lld", (long long)o->order_id);
    else table_cell(&r->table, "-");
    table_cell(&r->table, "%s", o ? o->status : "");
    table_cell(&r->table, "%lld", o ? (long long)o->version : 0);
    table_cell(&r->table, "%s", text);
    table_cell(&r->table, "%s", batch.validate_only ? "not written" : replayed ? "made before" : "done");
}

/* order_id: 0 where there is none. The whole refusal goes to stderr, for the table has no room. */
static void results_refused(struct results *r, int64_t order_id, const Google__Rpc__Status *status) {
    struct arena a;
    struct details d;
    struct buf text = {0};
    arena_init(&a, REFUSAL_ARENA_BYTES);
    bool ok = refusal_read(status, &a, &d, &text);
    table_cell(&r->table, "%zu", ++r->count);
    if (order_id) table_cell(&r->table, "%lld", (long long)order_id);
    else table_cell(&r->table, "-");
    for (unsigned i = 0; i < 3; i++) table_cell(&r->table, "-");
    table_cell(&r->table, "%s", ok ? d.reason : "refused");
    fprintf(stderr, "refused: %zu: ", r->count);
    text_print(stderr, ok ? d.reason : "");
    fputs(": ", stderr);
    text_print(stderr, ok ? (const char *)text.data : "");
    fputc('\n', stderr);
    r->refused++;
    buf_fini(&text);
    arena_fini(&a);
}

static enum cli_exit results_end(struct results *r, const struct cli *cli, const ProtobufCMessage *answer) {
    enum cli_exit e = CLI_OK;
    if (cli->json) {
        e = cli_print_json(answer);
    } else {
        table_print(&r->table, stdout, TABLE_WIDTH);
        printf("\n%zu done, %zu refused%s\n", r->count - r->refused, r->refused, batch.validate_only ? "; nothing was written" : "");
    }
    table_fini(&r->table);
    return e == CLI_OK && r->refused ? CLI_REFUSED : e;
}

/* ---- the commands */

static enum cli_exit create_send(struct cli *cli, const Orderdb__V1__BatchCreateOrdersRequest *r) {
    Orderdb__V1__BatchCreateOrdersResponse *answer = orderdb_batch_create_orders(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    struct results results;
    results_begin(&results);
    for (size_t i = 0; i < answer->n_results; i++) {
        const Orderdb__V1__BatchCreateOrdersResponse__Result *one = answer->results[i];
        if (one->result_case == ORDERDB__V1__BATCH_CREATE_ORDERS_RESPONSE__RESULT__RESULT_OK) results_done(&results, one->ok->order, one->ok->token, one->ok->replayed);
        else results_refused(&results, 0, one->error);
    }
    enum cli_exit e = results_end(&results, cli, &answer->base);
    orderdb_message_free(answer);
    return e;
}

enum cli_exit cmd_batch_create_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__CreateOrderRequest *requests[CMD_BATCH_MAX];
    Orderdb__V1__BatchCreateOrdersRequest r = ORDERDB__V1__BATCH_CREATE_ORDERS_REQUEST__INIT;
    struct arena a;
    size_t len;
    char *text = cli_read_file(argv[0], &len);
    if (!text) return CLI_USAGE;
    r.requests = requests, r.atomic = batch.atomic;
    arena_init(&a, BATCH_ARENA_BYTES);
    enum cli_exit e = creates_read(cli, &a, argv[0], text, &r) ? create_send(cli, &r) : CLI_USAGE;
    arena_fini(&a);
    mem_free(text);
    return e;
}

static enum cli_exit transition_send(struct cli *cli, const Orderdb__V1__BatchTransitionOrdersRequest *r) {
    Orderdb__V1__BatchTransitionOrdersResponse *answer = orderdb_batch_transition_orders(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    struct results results;
    results_begin(&results);
    for (size_t i = 0; i < answer->n_results; i++) {
        const Orderdb__V1__BatchTransitionOrdersResponse__Result *one = answer->results[i];
        if (one->result_case == ORDERDB__V1__BATCH_TRANSITION_ORDERS_RESPONSE__RESULT__RESULT_OK) results_done(&results, one->ok->order, one->ok->token, one->ok->replayed);
        else results_refused(&results, i < r->n_requests ? r->requests[i]->order_id : 0, one->error);
    }
    enum cli_exit e = results_end(&results, cli, &answer->base);
    orderdb_message_free(answer);
    return e;
}

/* false: told. */
static bool transitions_read(const struct cli *cli, struct arena *a, int argc, char **argv, Orderdb__V1__BatchTransitionOrdersRequest *r) {
    size_t expected_count;
    char **expected = content_names_split(a, &batch.expected, &expected_count);
    r->requests = arena_array(a, Orderdb__V1__TransitionOrderRequest *, (size_t)argc);
    if (!expected || !r->requests) return cli_no_memory(), false;
    if (batch.expected.count && !expected_count) return cli_usage(cli, "--expect names no status"), false;
    for (int i = 1; i < argc; i++) {
        Orderdb__V1__TransitionOrderRequest *one = arena_new(a, Orderdb__V1__TransitionOrderRequest);
        if (!one) return cli_no_memory(), false;
        orderdb__v1__transition_order_request__init(one);
        if (!cli_parse_id(argv[i], &one->order_id)) return cli_usage(cli, "\"%s\" is not an order id (a positive number)", argv[i]), false;
        one->event = argv[0];
        one->expected_statuses = expected, one->n_expected_statuses = expected_count;
        one->options = options_of(a, NULL, (size_t)i);
        if (!one->options) return cli_no_memory(), false;
        r->requests[r->n_requests++] = one;
    }
    return true;
}

enum cli_exit cmd_batch_transition_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__BatchTransitionOrdersRequest r = ORDERDB__V1__BATCH_TRANSITION_ORDERS_REQUEST__INIT;
    struct arena a;
    arena_init(&a, BATCH_ARENA_BYTES);
    enum cli_exit e = transitions_read(cli, &a, argc, argv, &r) ? transition_send(cli, &r) : CLI_USAGE;
    arena_fini(&a);
    return e;
}
