/* stream: the change stream against a server, by the client library. One row of a table for each run.
 *
 *   --mode raw      from the earliest event to the end, messages as they come; events are counted by their tags
 *   --mode unpack   the same, each message unpacked
 *   --mode latency  from now on for --seconds: from an event's commit_time to its being with the reader, on the same machine's clock. Something else makes the load
 *                   (build/bench/load --rate) */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bench/histogram.h"
#include "client/orderdb.h"
#include "proto/pbwire.h"

enum mode { MODE_RAW, MODE_UNPACK, MODE_LATENCY, MODE_COUNT };
static const char *const mode_names[MODE_COUNT] = {"raw", "unpack", "latency"};

static struct {
    const char *server, *filter;
    enum mode mode;
    bool full;
    uint64_t seconds; /* of latency; and the most that a catch-up may take */
} opt = {.server = "127.0.0.1:7400", .filter = "", .seconds = 10};

static struct {
    uint64_t messages, events, bytes;
    struct histogram latency;
} run;

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    check(clock_gettime(clock, &t) == 0);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void take_raw(const uint8_t *message, size_t bytes) {
    struct reader r = reader_of(slice_of(message, bytes));
    for (struct pb_field f; pb_next(&r, &f);) run.events += f.number == 1;
    check(!r.bad);
}

static void take_latencies(const Orderdb__V1__ReadChangesResponse *m) {
    uint64_t now = clock_ns(CLOCK_REALTIME);
    for (size_t i = 0; i < m->n_events; i++) {
        const Google__Protobuf__Timestamp *t = m->events[i]->commit_time;
        uint64_t committed = (uint64_t)t->seconds * NS_PER_S + (uint64_t)t->nanos;
        histogram_add(&run.latency, now > committed ? now - committed : 0);
    }
}

static enum orderdb_changes_result take_one(struct orderdb_changes *c) {
    const Orderdb__V1__ReadChangesResponse *m;
    const uint8_t *bytes;
    size_t n = 0;
    enum orderdb_changes_result r;
    if (opt.mode == MODE_RAW) {
        r = orderdb_changes_next_bytes(c, 100, &bytes, &n);
        if (r == ORDERDB_CHANGES_EVENTS) take_raw(bytes, n);
    } else {
        r = orderdb_changes_next(c, 100, &m);
        if (r == ORDERDB_CHANGES_EVENTS && opt.mode == MODE_LATENCY) take_latencies(m);
        if (r == ORDERDB_CHANGES_EVENTS) run.events += m->n_events;
    }
    run.bytes += n;
    run.messages += r == ORDERDB_CHANGES_EVENTS;
    return r;
}

static void print_row(double s) {
    struct rusage u;
    check(getrusage(RUSAGE_SELF, &u) == 0);
    double cpu_us = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    char mb[32] = "-"; /* unpacked they are not counted: it would cost what is measured */
    if (run.bytes) snprintf(mb, sizeof(mb), "%.1f", (double)run.bytes / 1e6 / s);
    printf("| %s | %s | %llu | %.1f | %.2f | %.0f | %s | %.2f |", mode_names[opt.mode], opt.full ? "full" : "summary", (unsigned long long)run.events,
           run.messages ? (double)run.events / (double)run.messages : 0, s, (double)run.events / s, mb, run.events ? cpu_us / (double)run.events : 0);
    if (opt.mode == MODE_LATENCY)
        printf(" %.2f | %.2f | %.2f | %.2f |", histogram_ms(&run.latency, 0.5), histogram_ms(&run.latency, 0.99), histogram_ms(&run.latency, 0.999), (double)run.latency.max / 1e6);
    printf("\n");
}

static void options(int argc, char **argv) {
    static const struct option known[] = {{"server", 1, 0, 's'}, {"mode", 1, 0, 'm'}, {"seconds", 1, 0, 't'}, {"filter", 1, 0, 'f'}, {"full", 0, 0, 'a'}, {"header", 0, 0, 'h'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (o) {
        case 's': opt.server = optarg; continue;
        case 'f': opt.filter = optarg; continue;
        case 't': opt.seconds = strtoull(optarg, NULL, 10); continue;
        case 'a': opt.full = true; continue;
        case 'h':
            printf("| mode | payload | events | events a message | s | events/s | MB/s | us of reader CPU an event | p50 ms | p99 ms | p99.9 ms | max ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
            continue;
        case 'm':
            for (opt.mode = 0; opt.mode < MODE_COUNT && strcmp(optarg, mode_names[opt.mode]) != 0;) opt.mode++;
            if (opt.mode < MODE_COUNT) continue;
        }
        fprintf(stderr, "usage: stream [--server HOST:PORT] [--mode raw|unpack|latency] [--seconds N] [--full] [--filter F] [--header]\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    options(argc, argv);
    struct orderdb_client *db = orderdb_open(opt.server, NULL);
    if (!db) return perror("stream"), 1;
    Orderdb__V1__ReadChangesRequest q = ORDERDB__V1__READ_CHANGES_REQUEST__INIT;
    Google__Protobuf__Timestamp now = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
    now.seconds = (int64_t)(clock_ns(CLOCK_REALTIME) / NS_PER_S) + 1;
    q.filter = (char *)opt.filter;
    q.payload = opt.full ? ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL : ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY;
    if (opt.mode == MODE_LATENCY) q.from_time = &now;
    else q.stop_at_end = true;
    struct orderdb_changes *c = orderdb_read_changes(db, &q, NULL);
    enum orderdb_changes_result r = c ? ORDERDB_CHANGES_TIMEOUT : ORDERDB_CHANGES_FAILED;
    uint64_t began = clock_ns(CLOCK_MONOTONIC), until = began + opt.seconds * NS_PER_S;
    while ((r == ORDERDB_CHANGES_EVENTS || r == ORDERDB_CHANGES_TIMEOUT) && clock_ns(CLOCK_MONOTONIC) < until) r = take_one(c);
    double s = (double)(clock_ns(CLOCK_MONOTONIC) - began) / 1e9;
    if (r == ORDERDB_CHANGES_FAILED) fprintf(stderr, "stream: %s\n", orderdb_error_message(c ? orderdb_changes_error(c) : orderdb_error(db)));
    else print_row(s);
    orderdb_changes_close(c);
    orderdb_close(db);
    return r == ORDERDB_CHANGES_FAILED;
}
