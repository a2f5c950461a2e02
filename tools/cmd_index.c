/* orderctl index check: goes through the indexes of a node's partitions by CheckIndexes, a stretch at a time, no faster than it was told to. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli.h"
#include "tools/table.h"

#define METHOD "/orderdb.v1.AdminService/CheckIndexes"
enum { STRETCH = 500, RATE = 20000, RATE_MAX = 1000000, DEFECTS_SHOWN = 20, POSITION_BYTES_MAX = 1024 };

static int64_t partition = -1, rate = RATE;
static const struct arg check_flags[] = {
    {"--partition", NULL, ARG_NUMBER, &partition, "N", "this partition alone"},
    {"--rate", NULL, ARG_NUMBER, &rate, "N", "orders and index rows a second at most (default 20000)"},
    {NULL},
};

struct checked {
    int64_t orders, rows, defects;
    unsigned partitions, building;
    struct timespec begun;
};

static double seconds_since(const struct timespec *t) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - t->tv_sec) + (double)(now.tv_nsec - t->tv_nsec) / 1e9;
}

/* So that what was looked at so far has taken as long as it may. */
static void pace(const struct checked *c) {
    double ahead = (double)(c->orders + c->rows) / (double)rate - seconds_since(&c->begun);
    if (ahead > 0) nanosleep(&(struct timespec){(time_t)ahead, (long)((ahead - (double)(time_t)ahead) * 1e9)}, NULL);
}

static void tell(const struct checked *c, int32_t id, int64_t of) {
    static time_t last;
    if (!isatty(2) || time(NULL) == last) return;
    last = time(NULL);
    fprintf(stderr, "\rpartition %d of %lld: %lld orders, %lld index rows, %lld defects ", id, (long long)of, (long long)c->orders, (long long)c->rows, (long long)c->defects);
}

static void defect_found(struct checked *c, int32_t id, const char *what) {
    if (c->defects++ >= DEFECTS_SHOWN) return;
    fprintf(stderr, "partition %d: ", id);
    text_print(stderr, what);
    fputc('\n', stderr);
}

/* One call; *len 0: nothing is left. */
static enum cli_exit stretch_check(struct cli *cli, int32_t id, uint8_t position[POSITION_BYTES_MAX], size_t *len, struct checked *c) {
    struct arena a;
    enum cli_exit e;
    Orderdb__V1__CheckIndexesRequest r = ORDERDB__V1__CHECK_INDEXES_REQUEST__INIT;
    r.partition_id = id, r.limit = STRETCH, r.position.data = position, r.position.len = *len;
    arena_init(&a, 1 * MIB);
    const Orderdb__V1__CheckIndexesResponse *m = cli_call(cli, METHOD, &r.base, &orderdb__v1__check_indexes_response__descriptor, &a, &e);
    if (m) {
        c->orders += m->orders, c->rows += m->rows;
        if (*m->defect) defect_found(c, id, m->defect);
        if (m->building) c->building++, fprintf(stderr, "partition %d: its indexes are still being built: nothing was checked\n", id);
        *len = MIN_OF(m->next_position.len, (size_t)POSITION_BYTES_MAX);
        if (*len) memcpy(position, m->next_position.data, *len);
        e = CLI_OK;
    }
    arena_fini(&a);
    return e;
}

static enum cli_exit partition_check(struct cli *cli, int32_t id, int64_t of, struct checked *c) {
    uint8_t position[POSITION_BYTES_MAX];
    size_t len = 0;
    enum cli_exit e;
    do {
        e = stretch_check(cli, id, position, &len, c);
        tell(c, id, of);
        pace(c);
    } while (e == CLI_OK && len);
    c->partitions += e == CLI_OK;
    return e;
}

#define S(n) ((n) == 1 ? "" : "s")

static enum cli_exit say(const struct cli *cli, const struct checked *c) {
    if (isatty(2)) fputc('\n', stderr);
    if (cli->json) {
        char json[256];
        snprintf(json, sizeof(json), "{\n  \"partitions\": %u,\n  \"orders\": \"%lld\",\n  \"rows\": \"%lld\",\n  \"defects\": \"%lld\",\n  \"building\": %u\n}", c->partitions, (long long)c->orders, (long long)c->rows,
                 (long long)c->defects, c->building);
        if (cli_print_text(json)) return CLI_UNAVAILABLE;
    } else if (c->defects) printf("%lld defect%s in %lld order%s and %lld index row%s\n", (long long)c->defects, S(c->defects), (long long)c->orders, S(c->orders), (long long)c->rows, S(c->rows));
    else if (!c->building) printf("%u partition%s, %lld order%s, %lld index row%s: they agree both ways\n", c->partitions, S(c->partitions), (long long)c->orders, S(c->orders), (long long)c->rows, S(c->rows));
    return c->defects || c->building ? CLI_REFUSED : CLI_OK;
}

static enum cli_exit check_run(struct cli *cli, int argc, char **argv) {
    if (rate < 1 || rate > RATE_MAX) return cli_usage(cli, "--rate is 1 to %d, not %lld", RATE_MAX, (long long)rate);
    if (partition < -1 || partition > INT32_MAX) return cli_usage(cli, "--partition is a partition's number, not %lld", (long long)partition);
    Orderdb__V1__GetTopologyRequest r = ORDERDB__V1__GET_TOPOLOGY_REQUEST__INIT;
    Orderdb__V1__Topology *t = orderdb_get_topology(cli->db, &r, NULL);
    if (!t) return cli_error(cli);
    struct checked c = {0};
    enum cli_exit e = CLI_OK;
    clock_gettime(CLOCK_MONOTONIC, &c.begun);
    if (partition >= 0) e = partition_check(cli, (int32_t)partition, (int64_t)t->n_partitions, &c);
    for (size_t i = 0; partition < 0 && i < t->n_partitions && e == CLI_OK; i++) e = partition_check(cli, t->partitions[i]->partition_id, (int64_t)t->n_partitions, &c);
    orderdb_message_free(t);
    return e == CLI_OK ? say(cli, &c) : e;
}

const struct cli_command index_commands[] = {
    {"index", "check", "", "prove the indexes of a node's partitions against their orders",
     "Each order has its index rows, and each row an order that asks for it, in the replicas of the server that is asked (in a cluster, ask each). It reads everything once, a stretch at a time beside the server's other work; nothing is repaired. "
     "Exit code 1: a defect was found (the first 20 go to stderr), or indexes of a store that is older than they are still being built.\n"
     "Examples:\n  orderctl index check\n  orderctl index check --partition 3 --rate 2000\n", check_flags, 0, 0, check_run},
    {NULL},
};
