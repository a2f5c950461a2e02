/* The load generator: what is done when, and what it took. Who does it is a driver's: OrderDB's (drive_orderdb.c), and those of the peers (bench/peers). So every system
 * gets the same draws at the same times, and its answers are measured by the same clock into the same histogram.
 *
 * A run, in one thread:
 *   gather   what orders there are, for those who read or change them
 *   prepare  more of them, where orders are used up by being changed
 *   warm up  the work, not counted
 *   measure  --seconds of it: what ends in that time is the rate; the latency of what was due in that time, though it may end later
 *
 * Closed loop: connections x in flight calls at any time, each followed by the next. Open loop (rate): calls are due at fixed times (pace.h), and
 * latency counts from there; those that could not even be sent before the end are counted as unsent, each with what it had waited. */
#ifndef BENCH_GEN_DRIVE_H
#define BENCH_GEN_DRIVE_H

#include <stdio.h>

#include "bench/gen/usage.h"
#include "bench/histogram.h"
#include "proto/base/list.h"

enum work { WORK_CREATE, WORK_TRANSITION, WORK_GET, WORK_LIST, WORK_COUNT, WORK_GATHER = WORK_COUNT };
extern const char *const work_names[WORK_COUNT];

/* The population: users 0, 1, .. with so many orders each. Other orders are of users behind them. */
enum { POPULATION_ORDERS_PER_USER = 200, DRIVE_STEPS = 4, DRIVE_CALLS_MAX = 65536, DRIVE_KNOWN_MAX = 1 << 23, DRIVE_REASONS_MAX = 16, DRIVE_REASON_BYTES = 64 };

struct drive_options {
    uint64_t connections, inflight;
    double rate;               /* 0: closed loop */
    double seconds, warm_seconds;
    unsigned mix[WORK_COUNT];  /* per cent; together 100 */
    uint64_t population;       /* orders; a multiple of POPULATION_ORDERS_PER_USER */
    uint64_t users;            /* that create */
    double zipf;               /* of those; 0: uniform */
    uint64_t fresh;            /* orders that are made before, where transitions use them up and fewer are there */
    double rest_seconds;       /* behind making them */
    uint64_t timeout_ms, seed;
    int64_t server_pid;        /* whose CPU is the server's; 0: not known */
    bool fill;                 /* makes the population, nothing else */
};

/* One call. The driver's from start() until drive_done(). */
struct operation {
    struct list node;          /* the driver's meanwhile */
    enum work work;
    uint64_t user;             /* CREATE, LIST, GATHER */
    int64_t order_id;          /* TRANSITION, GET */
    unsigned step;             /* TRANSITION: which of its life, 0 to DRIVE_STEPS - 1; orders that are used up alone */
    uint64_t draw, key;        /* CREATE: the content follows from draw (order_text.h); key is unique. TRANSITION: the key of a retry */
    uint32_t connection;
    uint64_t due_ns;
    uint32_t phase;            /* drive.c's */
    unsigned parts;            /* the driver's */
    const char *trouble;       /* the driver's */
};

struct driver {
    const char *name;
    bool used_up;              /* an order takes DRIVE_STEPS transitions; else any number */
    bool dense_ids;            /* the population's ids are 1, 2, ..; else they are gathered */
    void (*start)(struct operation *op);
    void (*turn)(uint64_t wait_ns); /* waits at most so long; calls drive_done() for each that has ended */
};
/* trouble: NULL, or why it failed in a few words. order_id: of a CREATE. From turn(), or from within start(). */
void drive_done(struct operation *op, const char *trouble, int64_t order_id);
void drive_known(int64_t order_id, unsigned step); /* GATHER: an order, and how many transitions it has had */

struct drive_report {
    double seconds;            /* measured; shorter than asked for when orders were used up */
    bool used_up, interrupted;
    uint64_t done, unsent, failed, prepared;
    double rate;
    uint64_t done_by[WORK_COUNT];
    struct histogram latency_by[WORK_COUNT], latency;
    struct usage used;
    struct { char text[DRIVE_REASON_BYTES]; uint64_t count; } reasons[DRIVE_REASONS_MAX];
    unsigned reason_count;
};
/* "" or what is wrong, naming the option. */
const char *drive_check(const struct drive_options *o);
/* false: it could not begin (told on stderr), or nothing could be gathered. */
bool drive_run(const struct driver *d, const struct drive_options *o, struct drive_report *out) MUST_USE;
void drive_stop(void);         /* from a signal handler: ends soon, and reports */

/* report.c */
void report_text(const struct drive_report *r, const struct drive_options *o, const char *name);
void report_json(FILE *out, const struct drive_report *r, const struct drive_options *o, const char *name);
/* "create", "get", "mixed", or "create=20,get=80": a mix. false: neither. */
bool mix_read(const char *text, unsigned mix[WORK_COUNT]) MUST_USE;

#endif
