/* orderctl bench: the load generator (bench/gen) against a server. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gen/drive_orderdb.h"
#include "proto/base/hash.h"
#include "proto/tls.h"
#include "tools/cli.h"

static struct {
    const char *work, *rate, *seconds, *warm_up, *zipf, *rest;
    int64_t connections, inflight, population, users, fresh, seed, server_pid;
    bool fill;
} bench = {.connections = 8, .inflight = 16, .population = 20000, .users = 1000000, .fresh = 20000};

static const struct arg bench_flags[] = {
    {"--connections", "-c", ARG_NUMBER, &bench.connections, "N", "connections (default: 8)"},
    {"--inflight", "-i", ARG_NUMBER, &bench.inflight, "N", "calls in flight on each (default: 16)"},
    {"--rate", "-r", ARG_TEXT, &bench.rate, "PER_SECOND", "open loop: calls due at fixed times, latency counted from there (default: as fast as answers come)"},
    {"--seconds", NULL, ARG_TEXT, &bench.seconds, "S", "what is measured (default: 10)"},
    {"--warm-up", NULL, ARG_TEXT, &bench.warm_up, "S", "before it, not counted (default: 1)"},
    {"--population", NULL, ARG_NUMBER, &bench.population, "ORDERS", "orders that are read, listed and changed: 200 each of users of the benchmark's own (default: 20000)"},
    {"--fill", NULL, ARG_SWITCH, &bench.fill, NULL, "make the population, and end"},
    {"--users", NULL, ARG_NUMBER, &bench.users, "N", "users that create (default: 1000000)"},
    {"--zipf", NULL, ARG_TEXT, &bench.zipf, "EXPONENT", "they create after Zipf's law, as 0.99 (default: all alike)"},
    {"--fresh", NULL, ARG_NUMBER, &bench.fresh, "ORDERS", "before transitions: at least so many orders that can take one (default: 20000)"},
    {"--rest", NULL, ARG_TEXT, &bench.rest, "S", "behind making them, for what the server still does about it (default: 0)"},
    {"--server-pid", NULL, ARG_NUMBER, &bench.server_pid, "PID", "of a server on this machine: its CPU is told as well"},
    {"--seed", NULL, ARG_NUMBER, &bench.seed, "N", "of everything drawn, request ids too; the same twice is a repetition (default: another each time)"},
    {NULL},
};
static const char bench_text[] =
    "WORK is create, transition, get (the order and its history), list (20 orders of a user who has 200), mixed (20 % create, 30 % transition, 40 % get, 10 % list), or a mix of your own. It writes real orders, "
    "of users u000000000 and on: not into a database that you mean to keep. What is measured, and how, is in docs/BENCH.md.\n\n"
    "Examples:\n"
    "  orderctl bench create --seconds 5\n"
    "  orderctl bench --fill create --population 20000\n"
    "  orderctl bench mixed --connections 8 --inflight 32\n"
    "  orderctl bench create=50,get=50 --rate 10000 -o json\n";

static void stop_cb(int number) { drive_stop(); }

static bool decimal_read(const char *text, double *out) {
    char *end;
    if (!text) return true;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= 0 && *out < 1e12;
}

/* NULL, or the flag that is no number. Ranges are drive_check's. */
static const char *options_read(struct drive_options *o, int64_t timeout_s) {
    if (!decimal_read(bench.rate, &o->rate)) return "--rate";
    if (!decimal_read(bench.seconds, &o->seconds)) return "--seconds";
    if (!decimal_read(bench.warm_up, &o->warm_seconds)) return "--warm-up";
    if (!decimal_read(bench.rest, &o->rest_seconds)) return "--rest";
    if (!decimal_read(bench.zipf, &o->zipf)) return "--zipf";
    /* A number below 0 is one above every limit. */
    o->connections = (uint64_t)bench.connections, o->inflight = (uint64_t)bench.inflight, o->population = (uint64_t)bench.population, o->users = (uint64_t)bench.users;
    o->fresh = (uint64_t)bench.fresh, o->seed = (uint64_t)bench.seed, o->server_pid = bench.server_pid, o->fill = bench.fill;
    o->timeout_ms = (uint64_t)timeout_s * 1000;
    if (!o->seed) random_bytes(&o->seed, sizeof o->seed), o->seed >>= 8;
    return NULL;
}

static bool print_json(const struct drive_report *r, const struct drive_options *o, const char *name) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    if (f) report_json(f, r, o, name);
    bool ok = f && fclose(f) == 0 && cli_print_text(text) == CLI_OK;
    free(text);
    return ok;
}

static enum cli_exit bench_run(struct cli *cli, int argc, char **argv) {
    static struct drive_report report;
    struct drive_options o = {.seconds = 10, .warm_seconds = 1};
    struct tls_source *tls = NULL;
    struct driver driver;
    char error[256];
    const char *flag = options_read(&o, cli->timeout_s), *wrong;
    if (flag) return cli_usage(cli, "%s is a number of 0 or more", flag);
    if (!mix_read(argv[0], o.mix)) return cli_usage(cli, "\"%.40s\" is no work: create, transition, get, list, mixed, or as create=20,get=80, together 100", argv[0]);
    if (*(wrong = drive_check(&o))) return cli_usage(cli, "%s", wrong);
    const struct tls_files files = {.ca = cli->tls_ca, .cert = cli->tls_cert, .key = cli->tls_key};
    if ((cli->tls || files.ca || files.cert) && !(tls = tls_source_new_client(&files, error))) return cli_usage(cli, "%s", error);
    struct sigaction stop = {.sa_handler = stop_cb};
    sigaction(SIGINT, &stop, NULL), sigaction(SIGTERM, &stop, NULL);
    bool ok = orderdb_driver_open(&driver, &o, cli->server, tls, cli->tls_server_name, error);
    if (!ok) fprintf(stderr, "orderctl: %s\n", error);
    if (ok) {
        ok = drive_run(&driver, &o, &report);
        if (ok && cli->json) ok = print_json(&report, &o, argv[0]);
        else if (ok) report_text(&report, &o, argv[0]);
        orderdb_driver_close();
    }
    tls_source_free(tls);
    if (report.interrupted) return CLI_INTERRUPTED;
    return !ok || !report.done ? CLI_UNAVAILABLE : report.failed ? CLI_REFUSED : CLI_OK;
}

const struct cli_command bench_commands[] = {
    {"bench", "", "WORK", "load for a server, and what it takes: rates, latencies, CPU", bench_text, bench_flags, 1, 1, bench_run},
    {NULL},
};
