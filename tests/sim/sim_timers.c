/* Timers through a whole engine under a seed: log, groups, partitions, apply and the leader's search for what is due are real; clock, disk and stores are simulated.
 *
 * Orders of a machine with short timers are created; callers pay at about the moment at which the order expires, set timers of their own and cancel them. Meanwhile the node
 * crashes, drains, its disk fills, its clock leaps. At the end, when all has come to rest, histories are held against what callers were told:
 *   - a payment that was acknowledged is there, and the order never expired; one that was refused never happened: never both, never neither;
 *   - no timer fired before its time by the history's own times, none twice, none that was cancelled, none after its status was left;
 *   - every timer that was set and not taken away has fired; none is left, and the partitions count none.
 * sim_timers [--seed N] [--seeds N] [--seconds N] [--races N]: at least so many races, however long that takes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/resource.h"
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/definition.h"
#include "tests/lib/sim_env.h"

enum { ORDERS_MAX = 2500, REQUESTS_MAX = 48, PARTITIONS = 2, ROUNDS = 3, STEPS_MAX = 2000000, OWN_MAX = 3 };
#define NAG_US 1000000ll
#define EXPIRE_US 2000000ll
#define FINISH_US 2000000ll
#define LATE_US 3000000ll /* with all that happens to a node here; the server's bound is docs/TIMERS.md's */

enum answer { ANSWER_NONE, ANSWER_OK, ANSWER_REFUSED };
struct own_timer { /* set by a caller */
    bool set, cancelled;
    int64_t set_us, fire_us;
};
struct known_order {
    int64_t id, created_us, pay_at_us;
    bool paying;
    enum answer paid;
    struct own_timer own[OWN_MAX];
    unsigned own_count;
};
enum kind { CREATE, PAY, SET, CANCEL };
struct request {
    struct sim *sim;
    struct op op;
    struct arena arena;
    enum kind kind;
    unsigned order, own;
    uint64_t number;
    int64_t fire_us;
    bool live, unknown;
};
struct sim {
    uint64_t seed;
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct env_ops ops;
    struct engine *engine;
    struct store_mem_disk *stores[PARTITIONS];
    struct machines *machines;
    struct known_order orders[ORDERS_MAX];
    unsigned order_count;
    struct request requests[REQUESTS_MAX];
    uint64_t next_request, next_user;
    uint64_t paid, expired, notified, finished, own_fired, crashes, drains, fulls, leaps, close_races;
};
/* What the parent adds up. */
struct result {
    uint64_t races, paid, expired, close;
};

#define REQUIRE(x, ...)                                                                                                                        \
    do {                                                                                                                                       \
        if (!(x)) {                                                                                                                            \
            printf("# seed=%llu line %d: %s: ", (unsigned long long)s->seed, __LINE__, #x), printf(__VA_ARGS__), printf("\n"), fflush(stdout); \
            _exit(1);                                                                                                                          \
        }                                                                                                                                      \
    } while (0)

static uint64_t chance(struct sim *s, uint64_t n) { return sim_world_below(s->world, n); }

/* The world's clock, and how far the node's own is off. */
static int64_t leap_us;
static const struct env_ops *world_ops;
static int64_t leaping_wall_us(struct env *env) { return world_ops->wall_us(env) + leap_us; }
static int64_t wall_us(struct sim *s) { return s->env->ops->wall_us(s->env); }

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    return store_open_mem(out, ((struct sim *)ctx)->stores[partition]);
}

/* ---- requests */

static void run_once(struct sim *s) {
    engine_tick(s->engine);
    uint64_t now = sim_world_now_ns(s->world), deadline = engine_deadline_ns(s->engine);
    if (deadline <= now) sim_world_run(s->world, 1000 + chance(s, 20000));
    else if (chance(s, 4) == 0 || !sim_world_step(s->world)) sim_world_run(s->world, MIN_OF(deadline - now, 1 + chance(s, 3000000)));
}

static void created(struct sim *s, struct request *r) {
    const struct outcome *o = &r->op.outcome;
    for (unsigned i = 0; o->replayed && i < s->order_count; i++)
        if (s->orders[i].id == o->head.order_id) return;
    REQUIRE(s->order_count < ORDERS_MAX, "too many orders");
    /* The timer is looked for every 20 ms: some of these are in time, some are late, many meet it under way. */
    s->orders[s->order_count++] = (struct known_order){.id = o->head.order_id, .created_us = o->entry.time_us, .pay_at_us = o->entry.time_us + EXPIRE_US - 8000 + (int64_t)chance(s, 33000)};
    if (chance(s, 8) == 0) s->orders[s->order_count - 1].pay_at_us -= 500000;
}

static void acknowledged(struct sim *s, struct request *r) {
    struct known_order *o = &s->orders[r->order];
    struct order_timers timers;
    switch (r->kind) {
    case CREATE: created(s, r); return;
    case PAY: o->paid = ANSWER_OK; return;
    case CANCEL: o->own[r->own].cancelled = true; return;
    case SET: break;
    }
    char id[16];
    snprintf(id, sizeof id, "own-%u", r->own);
    REQUIRE(timers_decode(r->op.outcome.entry.timers, &timers) == STATUS_OK, "the answer's timers");
    struct order_timer *t = timers_find(&timers, slice_str(id));
    REQUIRE(t && t->fire_us >= r->fire_us, "the timer is not as it was set");
    o->own[r->own] = (struct own_timer){.set = true, .set_us = r->op.outcome.entry.time_us, .fire_us = t->fire_us};
}

static void request_done(struct op *op) {
    struct request *r = container_of(op, struct request, op);
    struct sim *s = r->sim;
    struct known_order *o = &s->orders[r->order];
    enum status st = op->failure.status;
    r->live = false;
    r->unknown = st && status_retry(st) != RETRY_NEVER; /* it is sent again */
    if (r->unknown) return;
    if (st == STATUS_OK) acknowledged(s, r);
    else if (r->kind == PAY) {
        REQUIRE(st == STATUS_STATUS_MISMATCH, "a payment was refused: %s", status_name(st));
        o->paid = ANSWER_REFUSED;
    } else if (r->kind == CANCEL) {
        REQUIRE(st == STATUS_TIMER_NOT_FOUND, "a cancel was refused: %s", status_name(st));
    } else {
        REQUIRE(r->kind == SET && st == STATUS_STATUS_MISMATCH, "refused with %s: %s", status_name(st), op->failure.message ? op->failure.message : "");
    }
}

static void request_send(struct sim *s, struct request *r) {
    char user[32], request_id[32], id[16];
    struct command c = {.type = COMMAND_CREATE};
    struct known_order *o = &s->orders[r->order];
    arena_fini(&r->arena);
    arena_init(&r->arena, 1 << 16);
    snprintf(request_id, sizeof request_id, "request-%016llu", (unsigned long long)r->number);
    snprintf(user, sizeof user, "user-%llu", (unsigned long long)(r->number % 50));
    snprintf(id, sizeof id, "own-%u", r->own);
    c.origin = (struct command_origin){.request_id = slice_str(request_id), .fingerprint = {r->number, r->number}, .ttl_us = 86400000000ull};
    if (r->kind == CREATE) c.create.user_id = slice_str(user), c.create.machine = SLICE_LIT("quick");
    if (r->kind == PAY) c.type = COMMAND_TRANSITION, c.transition.order_id = o->id, c.transition.event = SLICE_LIT("pay");
    if (r->kind == CANCEL) c.type = COMMAND_CANCEL_TIMER, c.cancel_timer.order_id = o->id, c.cancel_timer.timer_id = slice_str(id);
    if (r->kind == SET) {
        c.type = COMMAND_SET_TIMER;
        c.set_timer.order_id = o->id, c.set_timer.timer_id = slice_str(id), c.set_timer.fire_us = r->fire_us;
        if (r->number % 3 == 0) c.set_timer.event = SLICE_LIT("finish");
        if (r->number % 6 == 0) c.set_timer.expected_statuses[c.set_timer.expected_status_count++] = SLICE_LIT("PAID");
    }
    r->op = (struct op){.kind = OP_WRITE, .arena = &r->arena, .done = request_done};
    r->op.slot = r->kind == CREATE ? slot_of_user(slice_str(user)) : order_id_slot(o->id);
    r->op.command = command_encode(&c, &r->arena);
    r->live = true;
    r->unknown = false;
    engine_submit(s->engine, &r->op);
}

static struct request *request_free(struct sim *s) {
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        if (!s->requests[i].live && !s->requests[i].unknown) return &s->requests[i];
    return NULL;
}

static void request_new(struct sim *s, enum kind kind, unsigned order, unsigned own) {
    struct request *r = request_free(s);
    check(r);
    r->kind = kind, r->order = order, r->own = own;
    r->number = ++s->next_request;
    r->fire_us = wall_us(s) - 50000 + (int64_t)chance(s, 2500000);
    request_send(s, r);
}

/* ---- the load */

static void pay_due(struct sim *s) {
    for (unsigned i = 0; i < s->order_count && request_free(s); i++) {
        struct known_order *o = &s->orders[i];
        if (o->paying || o->pay_at_us > wall_us(s)) continue;
        o->paying = true;
        s->close_races += wall_us(s) - o->created_us > EXPIRE_US - 10000 && wall_us(s) - o->created_us < EXPIRE_US + 40000;
        request_new(s, PAY, i, 0);
    }
}

static void work(struct sim *s, unsigned steps, bool create) { /* create: else what is under way comes to its end */
    for (unsigned i = 0; i < steps; i++) {
        for (unsigned k = 0; k < REQUESTS_MAX; k++)
            if (s->requests[k].unknown && !s->requests[k].live && chance(s, 20) == 0) request_send(s, &s->requests[k]);
        if (i % 4 == 0) pay_due(s);
        if (create && s->order_count + REQUESTS_MAX < ORDERS_MAX && chance(s, 3) == 0 && request_free(s)) request_new(s, CREATE, 0, 0);
        if (create && s->order_count && chance(s, 12) == 0 && request_free(s)) {
            unsigned at = s->order_count - 1 - (unsigned)chance(s, MIN_OF(s->order_count, 60u));
            struct known_order *o = &s->orders[at];
            if (o->own_count < OWN_MAX) request_new(s, SET, at, o->own_count++);
            else if (o->own[0].set && !o->own[0].cancelled) request_new(s, CANCEL, at, 0);
        }
        run_once(s);
    }
}

/* ---- the life of a node */

static void open_engine(struct sim *s) {
    static const uint32_t partitions[PARTITIONS] = {0, 1};
    char error[256] = "";
    struct engine_config config = {
        .node_id = 1,
        .partition_count = PARTITIONS,
        .partitions = partitions,
        .owned_count = PARTITIONS,
        .machines = s->machines,
        .log_live_bytes_max = 1 << 20,
        .log_segment_bytes = 128 << 10,
        .memtable_bytes = 256 * KIB,
        .row_cache_bytes = PARTITIONS * 16 * KIB, /* full all the time */
        .queue_ops_max = 40 + (uint32_t)chance(s, 100),
        .queue_target_ns = chance(s, 2) * 20 * NS_PER_MS,
        .queue_bytes_max = 1 << 20,
        .list_cache_bytes = 16 * KIB,
        .lists_proved = true,
        .filter_bytes = 16 * KIB,
        .filter_proved = true,
        .feed_tail_bytes = chance(s, 2) * 256 * KIB,
        .store_open = open_store,
        .store_ctx = s,
        .election_ms = 1000,
        .heartbeat_ms = 100,
    };
    s->env = sim_env_open(s->world, s->disk);
    world_ops = s->env->ops;
    s->ops = *world_ops;
    s->ops.wall_us = leaping_wall_us;
    s->env->ops = &s->ops;
    enum status st = engine_open(&s->engine, s->env, &config, error);
    REQUIRE(st == STATUS_OK, "open: %s: %s", status_name(st), error);
    for (unsigned i = 0; !engine_ready(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never ready");
        run_once(s);
    }
}

static void simple_done(struct op *op) { op->owner = NULL; }

static void submit_and_wait(struct sim *s, struct op *op) {
    op->done = simple_done;
    op->owner = op;
    engine_submit(s->engine, op);
    for (unsigned i = 0; op->owner; i++) {
        REQUIRE(i < STEPS_MAX, "an op never ended");
        run_once(s);
    }
    REQUIRE(op->failure.status == STATUS_OK, "refused: %s %s", status_name(op->failure.status), op->failure.message ? op->failure.message : "");
}

/* As the meta partition would bring it. */
static void bring_machine(struct sim *s) {
    static struct definition d;
    char error[256];
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct slice wire = define(&d, "quick@1 PENDING! PAID CLOSED. DONE. pay:PENDING>PAID expire:PENDING>CLOSED finish:PAID>DONE PENDING~expire~2~expire PENDING~nag~1~ PAID~finish~2~finish");
    REQUIRE(machines_add(s->machines, wire, error) == STATUS_OK, "%s", error);
    for (unsigned p = 0; p < PARTITIONS; p++) {
        struct command c = {.type = COMMAND_MACHINE, .machine.row = machine_row_of(machines_find(s->machines, SLICE_LIT("quick")), &arena)};
        struct op op = {.kind = OP_WRITE, .slot = partition_first_slot(p, PARTITIONS), .arena = &arena, .command = command_encode(&c, &arena)};
        submit_and_wait(s, &op);
    }
    arena_fini(&arena);
}

static void crash(struct sim *s) {
    s->crashes++;
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        if (s->requests[i].live) s->requests[i].live = false, s->requests[i].unknown = true, arena_init(&s->requests[i].arena, 0); /* its memory is the dead process's */
    if (chance(s, 4)) sim_disk_crash(s->disk);
    else sim_disk_kill(s->disk);
    s->env->ops = world_ops;
    sim_env_abandon(s->env);
    s->engine = NULL;
}

static void drain(struct sim *s) {
    s->drains++;
    engine_drain(s->engine);
    for (unsigned i = 0; !engine_drained(s->engine); i++) {
        REQUIRE(i < STEPS_MAX, "never drained");
        run_once(s);
    }
    for (unsigned i = 0; i < REQUESTS_MAX; i++) REQUIRE(!s->requests[i].live, "drained, and a request has no answer");
    engine_close(s->engine);
    s->env->ops = world_ops;
    sim_env_close(s->env);
}

static void set_full(struct sim *s, bool full) {
    sim_disk_faults(s->disk)->space_bytes = full ? sim_disk_bytes(s->disk) : 0;
    for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_full(s->stores[i], full);
}

static void trouble(struct sim *s) {
    switch (chance(s, 5)) {
    case 0:
        s->fulls++;
        set_full(s, true);
        work(s, 100 + (unsigned)chance(s, 300), true);
        set_full(s, false);
        break;
    case 1:
        s->leaps++;
        leap_us += (int64_t)chance(s, 3) * 1200000; /* timers are due all at once */
        break;
    case 2:
        s->leaps++;
        leap_us -= (int64_t)chance(s, 800000);
        break;
    case 3:
        for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_cold(s->stores[i], chance(s, 2));
        break;
    default: drain(s), open_engine(s);
    }
}

/* ---- at the end */

static int64_t time_us(const Google__Protobuf__Timestamp *t) { return t->seconds * 1000000 + t->nanos / 1000; }

static bool by_timer(const Orderdb__V1__HistoryEntry *e, const char *id) {
    size_t n = strlen(id);
    return strcmp(e->operator_, "timer") == 0 && strncmp(e->reason, id, n) == 0 && (e->reason[n] == 0 || e->reason[n] == ':');
}

/* The timer fired at most once and not before; answers whether it did. */
static bool fired(struct sim *s, const Orderdb__V1__ListOrderHistoryResponse *m, const char *id, int64_t not_before_us) {
    unsigned times = 0;
    for (size_t i = 0; i < m->n_entries; i++) {
        if (!by_timer(m->entries[i], id)) continue;
        REQUIRE(time_us(m->entries[i]->time) >= not_before_us, "%s fired %lld us early", id, (long long)(not_before_us - time_us(m->entries[i]->time)));
        times++;
    }
    REQUIRE(times <= 1, "%s fired %u times", id, times);
    return times == 1;
}

static const Orderdb__V1__HistoryEntry *entry_of(const Orderdb__V1__ListOrderHistoryResponse *m, const char *event) {
    for (size_t i = 0; i < m->n_entries; i++)
        if (strcmp(m->entries[i]->event, event) == 0) return m->entries[i];
    return NULL;
}

static void check_own(struct sim *s, const struct known_order *o, const Orderdb__V1__ListOrderHistoryResponse *m) {
    int64_t end_us = INT64_MAX;
    for (size_t i = 0; i < m->n_entries && end_us == INT64_MAX; i++)
        if (strcmp(m->entries[i]->to_status, "DONE") == 0 || strcmp(m->entries[i]->to_status, "CLOSED") == 0) end_us = time_us(m->entries[i]->time);
    for (unsigned i = 0; i < o->own_count; i++) {
        char id[16];
        snprintf(id, sizeof id, "own-%u", i);
        bool did = fired(s, m, id, o->own[i].fire_us);
        s->own_fired += did;
        REQUIRE(!did || !o->own[i].cancelled, "%s fired and was cancelled", id);
        if (!o->own[i].set || o->own[i].cancelled || did) continue;
        /* It went with the end of the order, in time; one that was set later has nothing to go with. */
        REQUIRE(o->own[i].set_us <= end_us && end_us <= o->own[i].fire_us + LATE_US, "%s of order %lld was forgotten: to fire at %lld, the order ended at %lld", id, (long long)o->id,
                (long long)o->own[i].fire_us, (long long)end_us);
    }
}

static void check_order(struct sim *s, struct known_order *o) {
    struct arena arena;
    arena_init(&arena, 1 << 20);
    struct op op = {.kind = OP_HISTORY, .slot = order_id_slot(o->id), .arena = &arena, .history = {.order_id = o->id, .page_size = 1000}};
    submit_and_wait(s, &op);
    Orderdb__V1__ListOrderHistoryResponse *m = orderdb__v1__list_order_history_response__unpack(NULL, op.answer.len, op.answer.data);
    REQUIRE(m && m->n_entries > 1, "no history");
    const Orderdb__V1__HistoryEntry *pay = entry_of(m, "pay"), *expire = entry_of(m, "expire"), *finish = entry_of(m, "finish"), *last = m->entries[m->n_entries - 1];
    REQUIRE(!pay != !expire, "order %lld was %s", (long long)o->id, pay ? "paid and expired" : "neither paid nor expired");
    REQUIRE(o->paid != ANSWER_OK || pay, "order %lld: acknowledged as paid, and expired", (long long)o->id);
    REQUIRE(o->paid != ANSWER_REFUSED || expire, "order %lld: the payment was refused, and is there", (long long)o->id);
    REQUIRE(!expire || by_timer(expire, "expire"), "expired by hand");
    REQUIRE(fired(s, m, "expire", o->created_us + EXPIRE_US) == (expire != NULL), "expire");
    if (fired(s, m, "nag", o->created_us + NAG_US)) {
        s->notified++;
        for (size_t i = 1; i < m->n_entries; i++) REQUIRE(!by_timer(m->entries[i], "nag") || strcmp(m->entries[i]->from_status, "PENDING") == 0, "a timer outlived its status");
    }
    if (pay) {
        REQUIRE(finish, "order %lld was never finished", (long long)o->id);
        fired(s, m, "finish", time_us(pay->time) + FINISH_US);
    }
    REQUIRE(strcmp(last->to_status, pay ? "DONE" : "CLOSED") == 0, "order %lld ends as %s", (long long)o->id, last->to_status);
    for (size_t i = 1; i < m->n_entries; i++) REQUIRE(time_us(m->entries[i]->time) >= time_us(m->entries[i - 1]->time), "time goes back");
    check_own(s, o, m);
    s->paid += pay != NULL, s->expired += expire != NULL, s->finished += finish != NULL;
    orderdb__v1__list_order_history_response__free_unpacked(m, NULL);
    arena_fini(&arena);
}

/* Long enough for every timer, and for callers to have all their answers. */
static void come_to_rest(struct sim *s) {
    for (unsigned i = 0; i < PARTITIONS; i++) store_mem_disk_set_cold(s->stores[i], false);
    leap_us += 1000000; /* what it was set back in all, at most a round's */
    for (uint64_t until = sim_world_now_ns(s->world) + 8 * NS_PER_S; sim_world_now_ns(s->world) < until;) work(s, 20, false);
    for (unsigned i = 0; i < REQUESTS_MAX; i++) REQUIRE(!s->requests[i].live && !s->requests[i].unknown, "a request never had its answer");
    for (unsigned i = 0; i < s->order_count; i++) check_order(s, &s->orders[i]);
    struct engine_stats stats;
    engine_get_stats(s->engine, &stats);
    REQUIRE(stats.timers_pending == 0, "%llu timers are left", (unsigned long long)stats.timers_pending);
    REQUIRE(stats.timers_lag_us == 0, "a lag without a timer");
}

static int run_seed(uint64_t seed, int out) {
    struct sim *s = mem_new(struct sim);
    s->seed = seed;
    s->world = sim_world_new(seed);
    s->disk = sim_disk_new(s->world);
    s->machines = machines_new();
    for (unsigned i = 0; i < PARTITIONS; i++) s->stores[i] = store_mem_disk_new();
    for (unsigned i = 0; i < REQUESTS_MAX; i++) s->requests[i].sim = s;
    open_engine(s);
    bring_machine(s);
    for (unsigned round = 0; round < ROUNDS; round++) {
        if (round) open_engine(s);
        for (unsigned n = 1 + (unsigned)chance(s, 4); n; n--) {
            work(s, 200 + (unsigned)chance(s, 1500), true);
            if (chance(s, 2)) trouble(s);
        }
        if (chance(s, 3)) crash(s);
        else drain(s);
    }
    open_engine(s);
    come_to_rest(s);
    drain(s);
    if (out < 0) printf("# seed %llu: %u orders: %llu paid, %llu expired, %llu of them within 50 ms of each other; %llu told, %llu finished, %llu callers' timers; %llu crashes, %llu drains, %llu full, %llu leaps\n",
           (unsigned long long)seed, s->order_count, (unsigned long long)s->paid, (unsigned long long)s->expired, (unsigned long long)s->close_races, (unsigned long long)s->notified,
           (unsigned long long)s->finished, (unsigned long long)s->own_fired, (unsigned long long)s->crashes, (unsigned long long)s->drains, (unsigned long long)s->fulls, (unsigned long long)s->leaps);
    fflush(stdout);
    struct result result = {s->order_count, s->paid, s->expired, s->close_races};
    return out >= 0 && write(out, &result, sizeof result) != sizeof result;
}

static bool seed_passes(uint64_t seed, struct result *sum) {
    int ends[2];
    struct result result = {0};
    check(pipe(ends) == 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(120);
        _exit(run_seed(seed, ends[1]));
    }
    close(ends[1]);
    int status;
    bool told = read(ends[0], &result, sizeof result) == sizeof result;
    close(ends[0]);
    waitpid(pid, &status, 0);
    sum->races += result.races, sum->paid += result.paid, sum->expired += result.expired, sum->close += result.close;
    return told && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv) {
    uint64_t first = 1, seeds = 40, races = 0, ran = 0, failed = 0;
    long seconds = 25;
    struct result sum = {0};
    log_set_level(LOG_OFF);
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t n = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "--seed") == 0) return run_seed(n, -1);
        if (strcmp(argv[i], "--seeds") == 0) seeds = n;
        else if (strcmp(argv[i], "--seconds") == 0) seconds = (long)n;
        else if (strcmp(argv[i], "--races") == 0) races = n;
        else return fprintf(stderr, "sim_timers [--seed N] [--seeds N] [--seconds N] [--races N]\n"), 2;
    }
    time_t until = time(NULL) + seconds;
    for (; races ? sum.close < races : ran < seeds && time(NULL) < until; ran++)
        if (!seed_passes(first + ran, &sum)) {
            printf("not ok sim_timers seed=%llu\n", (unsigned long long)(first + ran));
            if (++failed > 3) break;
        }
    if (!failed)
        printf("ok sim_timers # %llu seeds, %llu orders, %llu paid, %llu expired, %llu races within 50 ms\n", (unsigned long long)ran, (unsigned long long)sum.races, (unsigned long long)sum.paid,
               (unsigned long long)sum.expired, (unsigned long long)sum.close);
    check(failed || (sum.paid > 0 && sum.expired > 0));
    return failed != 0;
}
