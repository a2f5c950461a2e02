/* orderctl order timers, timer-set, timer-cancel. */
#include "tools/cmd_timer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/timetext.h"
#include "tools/content.h"
#include "tools/pbjson.h"
#include "tools/table.h"

static struct {
    const char *in, *at, *event;
    struct args_many expected;
    const char *request_id, *operator_, *reason;
    bool validate_only;
} timer;

#define WRITE_FLAGS \
    {"--request-id", NULL, ARG_TEXT, &timer.request_id, "ID", "to repeat a request safely; 16-128 bytes"}, \
    {"--operator", NULL, ARG_TEXT, &timer.operator_, "WHO", "for the history"}, \
    {"--reason", NULL, ARG_TEXT, &timer.reason, "TEXT", "for the history"}, \
    {"--validate-only", NULL, ARG_SWITCH, &timer.validate_only, NULL, "decide and answer, write nothing"}

const struct arg cmd_timer_set_flags[] = {
    {"--in", NULL, ARG_TEXT, &timer.in, "TIME", "how long from now: 90s, 30m, 12h, 15d"},
    {"--at", NULL, ARG_TEXT, &timer.at, "TIME", "or when, as 2026-01-31T08:00:00Z"},
    {"--event", NULL, ARG_TEXT, &timer.event, "EVENT", "the event to take then; left out, the timer is only told of in the change stream"},
    {"--expect", NULL, ARG_MANY, &timer.expected, "STATUS,..", "take it only if the order is in one of these then"},
    WRITE_FLAGS,
    {NULL},
};
const struct arg cmd_timer_cancel_flags[] = {
    WRITE_FLAGS,
    {NULL},
};
const char cmd_timers_text[] = "Examples:\n  orderctl order timers 1234567890\n  orderctl order timers 1234567890 -o json\n";
const char cmd_timer_set_text[] =
    "Replaces the timer of this name, be it one that the order's status has. --in counts by this machine's clock.\n\n"
    "Examples:\n"
    "  orderctl order timer-set 1234567890 pay_timeout --in 2h --event pay_timeout\n"
    "  orderctl order timer-set 1234567890 remind --at 2026-01-31T08:00:00Z\n"
    "  orderctl order timer-set 1234567890 give-up --in 7d --event cancel \\\n"
    "    --expect PENDING_PAYMENT\n";
const char cmd_timer_cancel_text[] = "Examples:\n  orderctl order timer-cancel 1234567890 remind\n";

static void print_timers(Orderdb__V1__Timer *const *timers, size_t n) {
    static const struct table_column columns[] = {{"TIMER", false, 12}, {"FIRES", false, 0}, {"EVENT", false, 10}, {"EXPECTS", false, 10}};
    struct table t;
    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < n; i++) {
        const Orderdb__V1__Timer *m = timers[i];
        char at[TIME_TEXT_BYTES] = "-";
        struct buf expected = {0};
        if (m->fire_time) time_format(m->fire_time->seconds, m->fire_time->nanos, at);
        for (size_t k = 0; k < m->n_expected_statuses; k++)
            if ((k && !buf_append(&expected, SLICE_LIT(","))) || !buf_append(&expected, slice_str(m->expected_statuses[k]))) break;
        table_cell(&t, "%s", m->timer_id);
        table_cell(&t, "%s", at);
        table_cell(&t, "%s", m->event[0] ? m->event : "-");
        table_cell(&t, "%.*s", expected.len ? (int)expected.len : 1, expected.len ? (const char *)expected.data : "-");
        buf_fini(&expected);
    }
    table_print(&t, stdout, TABLE_WIDTH);
    table_fini(&t);
}

/* false: told. */
static bool id_read(struct cli *cli, const char *text, int64_t *id) {
    if (cli_parse_id(text, id)) return true;
    cli_usage(cli, "\"%.40s\" is no order id", text);
    return false;
}

enum cli_exit cmd_timers_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__GetOrderRequest r = ORDERDB__V1__GET_ORDER_REQUEST__INIT;
    if (!id_read(cli, argv[0], &r.order_id)) return CLI_USAGE;
    Orderdb__V1__Order *order = orderdb_get_order(cli->db, &r, NULL);
    if (!order) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) { /* of the order the id, where it stands, and the timers */
        Orderdb__V1__Order shown = ORDERDB__V1__ORDER__INIT;
        shown.order_id = order->order_id, shown.status = order->status, shown.n_timers = order->n_timers, shown.timers = order->timers;
        e = cli_print_json(&shown.base);
    } else if (order->n_timers) print_timers(order->timers, order->n_timers);
    else printf("no timers\n");
    orderdb_message_free(order);
    return e;
}

/* "90s", "30m", "12h", "15d" from now. */
static bool in_read(const char *text, int64_t *seconds) {
    static const struct { char unit; int64_t seconds; } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    long long n = strtoll(text, &end, 10);
    if (end == text || n < 0 || n > 1000000000) return false;
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (end[0] == units[i].unit && !end[1]) return *seconds = n * units[i].seconds, true;
    return false;
}

/* false: told. */
static bool time_read(struct cli *cli, Google__Protobuf__Timestamp *t) {
    struct timespec now;
    int64_t seconds;
    if (!timer.in == !timer.at) return cli_usage(cli, "name the time with --in or --at, one of the two"), false;
    if (timer.at) {
        if (time_parse(slice_str(timer.at), &t->seconds, &t->nanos)) return true;
        return cli_usage(cli, "--at %.40s is no time: write 2026-01-31T08:00:00Z", timer.at), false;
    }
    if (!in_read(timer.in, &seconds)) return cli_usage(cli, "--in %.40s is no length of time: write 90s, 30m, 12h or 15d", timer.in), false;
    clock_gettime(CLOCK_REALTIME, &now);
    t->seconds = now.tv_sec + seconds;
    t->nanos = (int32_t)(now.tv_nsec / 1000 * 1000);
    return true;
}

static void options_read(Orderdb__V1__WriteOptions *w) {
    orderdb__v1__write_options__init(w);
    if (timer.request_id) w->request_id = (char *)(uintptr_t)timer.request_id;
    if (timer.operator_) w->operator_ = (char *)(uintptr_t)timer.operator_;
    if (timer.reason) w->reason = (char *)(uintptr_t)timer.reason;
    w->validate_only = timer.validate_only;
}

static enum cli_exit set_send(struct cli *cli, const Orderdb__V1__SetOrderTimerRequest *r) {
    Orderdb__V1__SetOrderTimerResponse *answer = orderdb_set_order_timer(cli->db, r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) e = cli_print_json(&answer->base);
    else if (answer->timer) print_timers(&answer->timer, 1);
    if (!cli->json && timer.validate_only) printf("\nNothing was written.\n");
    orderdb_message_free(answer);
    return e;
}

enum cli_exit cmd_timer_set_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__SetOrderTimerRequest r = ORDERDB__V1__SET_ORDER_TIMER_REQUEST__INIT;
    Orderdb__V1__Timer t = ORDERDB__V1__TIMER__INIT;
    Orderdb__V1__WriteOptions w;
    Google__Protobuf__Timestamp at = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    struct arena a;
    if (!id_read(cli, argv[0], &r.order_id) || !time_read(cli, &at)) return CLI_USAGE;
    options_read(&w);
    r.timer = &t, r.options = &w;
    t.timer_id = argv[1], t.fire_time = &at;
    if (timer.event) t.event = (char *)(uintptr_t)timer.event;
    arena_init(&a, 1 * MIB);
    t.expected_statuses = content_names_split(&a, &timer.expected, &t.n_expected_statuses);
    bool named = !timer.expected.count || t.n_expected_statuses;
    enum cli_exit e = !t.expected_statuses ? cli_no_memory() : named ? set_send(cli, &r) : cli_usage(cli, "--expect names no status");
    arena_fini(&a);
    return e;
}

enum cli_exit cmd_timer_cancel_run(struct cli *cli, int argc, char **argv) {
    Orderdb__V1__CancelOrderTimerRequest r = ORDERDB__V1__CANCEL_ORDER_TIMER_REQUEST__INIT;
    Orderdb__V1__WriteOptions w;
    if (!id_read(cli, argv[0], &r.order_id)) return CLI_USAGE;
    options_read(&w);
    r.timer_id = argv[1], r.options = &w;
    Orderdb__V1__CancelOrderTimerResponse *answer = orderdb_cancel_order_timer(cli->db, &r, NULL);
    if (!answer) return cli_error(cli);
    enum cli_exit e = CLI_OK;
    if (cli->json) {
        e = cli_print_json(&answer->base);
    } else {
        printf("%lld: timer ", (long long)r.order_id);
        text_print(stdout, r.timer_id);
        printf("%s\n", timer.validate_only ? " could be cancelled; nothing was written" : " cancelled");
    }
    orderdb_message_free(answer);
    return e;
}
