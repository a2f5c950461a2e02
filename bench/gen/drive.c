#include "bench/gen/drive.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench/gen/pace.h"
#include "bench/gen/zipf.h"
#include "proto/base/mem.h"

enum { RETRY_MS = 100, TURN_MS = 50, KNOWN_SPARE = 1 << 20, AGAIN_MAX = 100000 };

const char *const work_names[WORK_COUNT] = {"create", "transition", "get", "list"};

/* Each phase ends before the next begins, but for warming up, which goes over into measuring. */
enum phase { PHASE_GATHER, PHASE_FILL, PHASE_PREPARE, PHASE_WARM, PHASE_MEASURE, PHASE_DRAIN };

struct known {
    int64_t order_id;
    unsigned step;
};
static struct {
    const struct driver *driver;
    const struct drive_options *o;
    struct drive_report *report;
    enum phase phase;
    struct operation *operations;
    uint64_t operation_count, in_flight;
    struct list idle, paused;
    uint64_t begun, wanted, again;       /* gather, fill, prepare: calls; refused ones that were sent again */
    uint64_t measure_ns, end_ns;
    struct pace pace;
    struct zipf users;
    uint64_t draw, sequence;
    struct known *known;                 /* a ring: what may be read, and changed at will */
    uint64_t known_count, known_cap;
    struct known *pool;                  /* a ring: what has transitions left */
    uint64_t pool_first, pool_count;
    bool dry;                            /* orders were used up */
} run;

static volatile sig_atomic_t stopped;
void drive_stop(void) { stopped = 1; }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* ---- orders */

static void pool_put(struct known k) {
    if (run.pool_count < run.known_cap) run.pool[(run.pool_first + run.pool_count++) % run.known_cap] = k;
}
static bool pool_take(struct known *k) {
    if (!run.pool_count) return false;
    *k = run.pool[run.pool_first];
    run.pool_first = (run.pool_first + 1) % run.known_cap, run.pool_count--;
    return true;
}

void drive_known(int64_t order_id, unsigned step) {
    run.known[run.known_count++ % run.known_cap].order_id = order_id;
    if (run.driver->used_up && step < DRIVE_STEPS) pool_put((struct known){order_id, step});
}

/* Transitions in no order: what lies together in a store should not be changed together. */
static void pool_shuffle(void) {
    for (uint64_t i = run.pool_count; i > 1; i--) {
        struct known *a = &run.pool[(run.pool_first + i - 1) % run.known_cap], *b = &run.pool[(run.pool_first + draw_next(&run.draw) % i) % run.known_cap], t = *a;
        *a = *b, *b = t;
    }
}

/* ---- what comes next */

static void choose_create(struct operation *op, uint64_t user) {
    op->work = WORK_CREATE, op->user = user;
    op->draw = draw_next(&run.draw);
    op->key = run.sequence++;
}

static uint64_t population_users(void) { return run.o->population / POPULATION_ORDERS_PER_USER; }
static uint64_t user_draw(void) { return population_users() + zipf_draw(&run.users, &run.draw); }

/* Where any order takes any number, each call has a share of them of its own: none finds its order changed by another meanwhile. */
static struct known any_order(const struct operation *op) {
    uint64_t n = MIN_OF(run.known_count, run.known_cap), shares = n / run.operation_count, at = (uint64_t)(op - run.operations);
    return run.known[shares ? draw_next(&run.draw) % shares * run.operation_count + at : at % n];
}

static bool choose_transition(struct operation *op) {
    struct known k = {0};
    if (run.driver->used_up ? !pool_take(&k) : !run.known_count) return false;
    if (!run.driver->used_up) k = any_order(op);
    op->work = WORK_TRANSITION, op->order_id = k.order_id, op->step = k.step;
    op->key = run.sequence++;
    return true;
}

static bool choose_get(struct operation *op) {
    if (!run.known_count) return false;
    op->work = WORK_GET, op->order_id = run.known[draw_next(&run.draw) % MIN_OF(run.known_count, run.known_cap)].order_id;
    return true;
}

/* false: there is no order (left) for it. */
static bool choose(struct operation *op) {
    switch (run.phase) {
    case PHASE_GATHER: op->work = WORK_GATHER, op->user = run.begun; return true;
    case PHASE_FILL: return choose_create(op, run.begun / POPULATION_ORDERS_PER_USER), true;
    case PHASE_PREPARE: return choose_create(op, user_draw()), true;
    default: break;
    }
    unsigned dice = (unsigned)(draw_next(&run.draw) % 100), work = 0;
    while (dice >= run.o->mix[work]) dice -= run.o->mix[work++];
    switch (work) {
    case WORK_CREATE: return choose_create(op, user_draw()), true;
    case WORK_TRANSITION: return choose_transition(op);
    case WORK_GET: return choose_get(op);
    default: op->work = WORK_LIST, op->user = draw_next(&run.draw) % population_users(); return true;
    }
}

/* ---- answers */

static void reason_count(const char *trouble) {
    struct drive_report *r = run.report;
    unsigned i = 0;
    char text[DRIVE_REASON_BYTES];
    snprintf(text, sizeof text, "%s", trouble);
    while (i < r->reason_count && strcmp(r->reasons[i].text, text) != 0) i++;
    if (i == DRIVE_REASONS_MAX) i--;
    if (i == r->reason_count) memcpy(r->reasons[r->reason_count++].text, text, sizeof text);
    r->reasons[i].count++;
}

static void measured(const struct operation *op, uint64_t now) {
    struct drive_report *r = run.report;
    if (run.phase == PHASE_MEASURE && now < run.end_ns) r->done++, r->done_by[op->work]++;
    if (run.measure_ns && op->due_ns >= run.measure_ns && op->due_ns < run.end_ns) {
        histogram_add(&r->latency, now - op->due_ns);
        histogram_add(&r->latency_by[op->work], now - op->due_ns);
    }
}

void drive_done(struct operation *op, const char *trouble, int64_t order_id) {
    uint64_t now = now_ns();
    run.in_flight--;
    if (trouble) {
        bool measures = run.phase >= PHASE_WARM;
        if (measures) run.report->failed++;
        if (measures || run.again == AGAIN_MAX) reason_count(trouble);
        op->due_ns = now + RETRY_MS * NS_PER_MS;
        list_push_back(&run.paused, &op->node);
        return;
    }
    if (run.phase >= PHASE_WARM) measured(op, now);
    if (op->work == WORK_CREATE && order_id && run.known) drive_known(order_id, 0);
    if (op->work == WORK_TRANSITION && run.driver->used_up && op->step + 1 < DRIVE_STEPS) pool_put((struct known){op->order_id, op->step + 1});
    list_push_back(&run.idle, &op->node);
}

/* ---- the loop */

static void begin(struct operation *op, uint64_t due_ns) {
    op->due_ns = due_ns;
    op->parts = 0, op->trouble = NULL;
    run.in_flight++;
    run.driver->start(op);
}

static bool more(void) {
    if (stopped || run.dry || run.again > AGAIN_MAX || run.phase == PHASE_DRAIN) return false;
    return run.phase >= PHASE_WARM || run.begun < run.wanted;
}

/* Begins what is due. Returns until when to wait. */
static uint64_t dispatch(uint64_t now) {
    list_each(it, &run.paused) {
        struct operation *op = list_entry(it, struct operation, node);
        if (op->due_ns > now) continue;
        list_remove(it);
        if (run.phase >= PHASE_WARM || run.again > AGAIN_MAX) list_push_back(&run.idle, it);
        else run.again++, begin(op, now);
    }
    bool paced = run.phase >= PHASE_WARM && run.pace.gap_ns > 0;
    while (!list_empty(&run.idle) && more()) {
        uint64_t due = paced ? pace_due_ns(&run.pace) : now;
        if (due > now) return due;
        struct operation *op = list_entry(list_pop_front(&run.idle), struct operation, node);
        if (!choose(op)) {
            list_push_back(&run.idle, &op->node);
            run.dry = true;
            break;
        }
        if (paced) run.pace.taken++;
        run.begun++;
        begin(op, due);
        if (!paced) now = now_ns();
    }
    return now + TURN_MS * NS_PER_MS;
}

/* Until `count` calls of this phase are answered; a refused one is sent again, for a while. false: that was in vain. */
static bool phase_run(enum phase phase, uint64_t count) {
    run.phase = phase, run.begun = 0, run.wanted = count, run.again = 0;
    for (;;) {
        uint64_t now = now_ns(), until = dispatch(now);
        if (!more() && !run.in_flight && (list_empty(&run.paused) || run.again > AGAIN_MAX || stopped)) break;
        run.driver->turn(until > now ? until - now : 0);
    }
    list_splice_back(&run.idle, &run.paused);
    if (run.again <= AGAIN_MAX) return true;
    fprintf(stderr, "bench: the orders to begin with can't be made or found: %s\n", run.report->reasons[0].text);
    return false;
}

static void measure_begin(uint64_t now) {
    run.phase = PHASE_MEASURE;
    run.measure_ns = now;
    run.end_ns = now + (uint64_t)(run.o->seconds * 1e9);
    usage_take(&run.report->used, run.o->server_pid);
    pace_init(&run.pace, run.o->rate, now);
}

static void measure_end(uint64_t now) {
    struct drive_report *r = run.report;
    struct usage end;
    usage_take(&end, run.o->server_pid);
    r->used = (struct usage){end.own_s - r->used.own_s, end.server_s - r->used.server_s, end.machine_s - r->used.machine_s};
    run.end_ns = MIN_OF(run.end_ns, now);
    r->seconds = (double)(now - run.measure_ns) / 1e9;
    r->rate = r->seconds > 0 ? (double)r->done / r->seconds : 0;
    r->used_up = run.dry;
    r->unsent = pace_behind(&run.pace, run.end_ns);
    for (uint64_t i = 0; i < r->unsent; i++, run.pace.taken++) histogram_add(&r->latency, run.end_ns - pace_due_ns(&run.pace));
    run.phase = PHASE_DRAIN;
}

static void work_run(void) {
    uint64_t now = now_ns(), warm_end = now + (uint64_t)(run.o->warm_seconds * 1e9);
    run.phase = PHASE_WARM;
    pace_init(&run.pace, run.o->rate, now);
    for (;;) {
        now = now_ns();
        if (run.phase == PHASE_WARM && now >= warm_end) measure_begin(now);
        if (run.phase == PHASE_MEASURE && (now >= run.end_ns || stopped || run.dry)) measure_end(now);
        if (run.phase == PHASE_WARM && (stopped || run.dry)) {
            run.report->used_up = run.dry;
            return;
        }
        if (run.phase == PHASE_DRAIN && (!run.in_flight || now > run.end_ns + run.o->timeout_ms * NS_PER_MS)) break;
        uint64_t until = dispatch(now);
        if (run.phase < PHASE_DRAIN) until = MIN_OF(until, run.phase == PHASE_WARM ? warm_end : run.end_ns);
        run.driver->turn(until > now ? until - now : 0);
    }
    for (; run.in_flight; run.in_flight--) run.report->failed++, reason_count("no answer in time");
}

/* ---- start */

const char *drive_check(const struct drive_options *o) {
    unsigned sum = 0;
    for (unsigned i = 0; i < WORK_COUNT; i++) sum += o->mix[i];
    if (o->connections < 1 || o->connections > 4096) return "connections: 1 to 4096";
    if (o->inflight < 1 || o->inflight > 4096 || o->connections * o->inflight > DRIVE_CALLS_MAX) return "in flight: 1 to 4096, and at most 65536 with all connections";
    if (o->seconds < 0.1 || o->seconds > 86400) return "seconds: 0.1 to 86400";
    if (o->warm_seconds < 0 || o->warm_seconds > 3600) return "warm-up: 0 to 3600 seconds";
    if (o->rest_seconds < 0 || o->rest_seconds > 60) return "rest: 0 to 60 seconds";
    if (o->rate < 0 || o->rate > 10e6) return "rate: up to 10,000,000 a second";
    if (o->users < 1 || o->users > 1000000000) return "users: 1 to 1,000,000,000";
    if (o->zipf < 0 || o->zipf > 5) return "zipf: 0 to 5";
    if (o->population % POPULATION_ORDERS_PER_USER || o->population > DRIVE_KNOWN_MAX / 2) return "population: a multiple of 200, at most 4,194,304";
    if (o->fresh > DRIVE_KNOWN_MAX / 4) return "fresh: at most 2,097,152";
    if (o->timeout_ms < 1 || o->timeout_ms > 3600000) return "timeout: 1 ms to an hour";
    if (o->fill) return o->population ? "" : "fill: with a population above 0";
    if (sum != 100) return "mix: per cents that come to 100";
    if (!o->population && (o->mix[WORK_GET] || o->mix[WORK_LIST])) return "population: reading needs one";
    return "";
}

static bool setup(void) {
    list_init(&run.idle), list_init(&run.paused);
    run.operation_count = run.o->connections * run.o->inflight;
    run.known_cap = run.o->population + run.o->fresh + KNOWN_SPARE;
    run.operations = mem_zalloc(run.operation_count * sizeof *run.operations);
    run.known = mem_zalloc(run.known_cap * sizeof *run.known);
    run.pool = run.driver->used_up ? mem_zalloc(run.known_cap * sizeof *run.pool) : NULL;
    if (!run.operations || !run.known || (run.driver->used_up && !run.pool)) return fprintf(stderr, "bench: out of memory\n"), false;
    for (uint64_t i = 0; i < run.operation_count; i++) { /* one of each connection, then the next: a few calls are spread over all */
        run.operations[i].connection = (uint32_t)(i % run.o->connections);
        list_push_back(&run.idle, &run.operations[i].node);
    }
    run.draw = run.o->seed;
    run.sequence = run.o->seed << 24;
    zipf_init(&run.users, run.o->users, run.o->zipf);
    return true;
}

static bool orders_find(void) {
    const unsigned *mix = run.o->mix;
    bool reads = mix[WORK_GET] || (mix[WORK_TRANSITION] && !run.driver->used_up);
    if (reads || mix[WORK_TRANSITION]) {
        if (run.driver->dense_ids)
            for (uint64_t id = 1; id <= run.o->population; id++) drive_known((int64_t)id, 0);
        else if (!phase_run(PHASE_GATHER, population_users())) return false;
        if (reads && !run.known_count) return fprintf(stderr, "bench: no orders to work with; make them first (--fill)\n"), false;
    }
    pool_shuffle();
    if (mix[WORK_TRANSITION] && run.driver->used_up && run.pool_count < run.o->fresh) {
        run.report->prepared = run.o->fresh - run.pool_count;
        if (!phase_run(PHASE_PREPARE, run.report->prepared)) return false;
        (void)nanosleep(&(struct timespec){(time_t)run.o->rest_seconds, (long)((run.o->rest_seconds - (double)(time_t)run.o->rest_seconds) * 1e9)}, NULL);
    }
    return true;
}

bool drive_run(const struct driver *d, const struct drive_options *o, struct drive_report *out) {
    memset(&run, 0, sizeof run);
    memset(out, 0, sizeof *out);
    run.driver = d, run.o = o, run.report = out;
    check(!*drive_check(o));
    bool ok = setup();
    if (ok && o->fill) {
        uint64_t begun = now_ns();
        ok = phase_run(PHASE_FILL, o->population);
        out->seconds = (double)(now_ns() - begun) / 1e9, out->done = out->done_by[WORK_CREATE] = run.begun;
        out->rate = (double)out->done / MAX_OF(out->seconds, 1e-9);
    } else if (ok && (ok = orders_find())) {
        work_run();
    }
    out->interrupted = stopped;
    mem_free(run.operations), mem_free(run.known), mem_free(run.pool);
    return ok;
}
