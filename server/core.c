#include "server/core.h"

#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/mail.h"
#include "server/node.h"
#include "server/peers.h"

/* The duty cycle. Everything that happens on a core happens in this order, once a turn:
 *
 *      .--> ring_wait: submit, sleep until something completed or a deadline, run the completions
 *      |        bytes in -> conn -> h2 -> call -> mail_send_op (this core's ops go straight to its engine)
 *      |        a write or sync ended -> wal;  a message -> ops for our engine, ops home, tasks, jobs home
 *      |    timers
 *      |    engine_tick: batch, commit, apply, answer
 *      |    peers_flush: frames to other nodes, where there are any
 *      |    mail_flush: chains to other cores
 *      '--- hooks->flush (conn): what was answered this turn leaves in as few sends as possible
 *
 * No step waits but the first, and the first never waits for more than one completion: at low load an op is alone in its turn and nothing is held
 * back for company; under load a turn gathers what arrived while the last one ran. */

/* The loop turns at least so often: /healthz tells a stuck core by it. While the node starts or drains, cores meet one another (node.c): oftener. */
enum { IDLE_MS_MAX = 250, MEETING_MS_MAX = 3 };

/* New bytes are looked at for so long a turn; while committed work waits to be applied, for a share of what the last turn took (an entry of 500 commands makes it long): a
 * third, which is more than it costs to take in what is served, or a sixteenth while calls are refused: then it is refusals that the time would go to. */
enum { RECEIVE_SLICE_NS = 1000000, RECEIVE_SLICE_LEAST_NS = 50000, RECEIVE_SHARE = 3, RECEIVE_SHARE_REFUSING = 16, LOW_SHARE = 4, REFUSALS_PER_S = 15000, REFUSALS_BURST = 150,
       DECODED_PER_S = 8000, DECODED_BURST = 400 /* writes refused after they were decoded: at 10 us each a twelfth of the core, whatever is offered */ };
enum { INSIDE_MIN = 128 }; /* writes of a core, one half in the log and one gathering (BACKLOG_LIMIT_MIN each) */

struct core *core_new(struct node *node, uint32_t id) {
    struct core *core = mem_new(struct core);
    if (!core) return NULL;
    core->id = id;
    core->node = node;
    core->ring_fd = -1;
    list_init(&core->connections);
    list_init(&core->flush);
    return core;
}

static void on_wake(void *ctx) {
    struct core *core = ctx;
    core->now_ns = clock_mono_ns();
    __atomic_store_n(&core->beat_ns, core->now_ns, __ATOMIC_RELAXED);
}

enum status core_open(struct core *core, const struct ring_config *config, char error[256]) {
    core_self = core;
    core->now_ns = clock_mono_ns();
    __atomic_store_n(&core->beat_ns, core->now_ns, __ATOMIC_RELAXED);
    enum status st = ring_open(&core->ring, config, error);
    if (st) return st;
    core->ring_fd = ring_fd(core->ring);
    ring_on_wake(core->ring, on_wake, core);
    core->mail = mail_new(core);
    if (core->mail) return STATUS_OK;
    ring_close(core->ring);
    core->ring = NULL;
    return memcpy(error, "out of memory for mail", sizeof "out of memory for mail"), STATUS_MEMORY_LIMIT;
}

static uint64_t next_deadline_ns(const struct core *core) {
    uint64_t deadline_ns = core->now_ns + (core->ready && !core->draining ? IDLE_MS_MAX : MEETING_MS_MAX) * NS_PER_MS;
    deadline_ns = MIN_OF(deadline_ns, timers_next_ns(&core->timers));
    return core->engine ? MIN_OF(deadline_ns, engine_deadline_ns(core->engine)) : deadline_ns;
}

static void count_cycle(struct core *core) {
    struct ring_stats rs;
    uint64_t busy_ns = clock_mono_ns() - core->now_ns;
    core->turn_ns = busy_ns;
    ring_get_stats(core->ring, &rs);
    metric_set(&core->metrics, METRIC_RING_COMPLETIONS, rs.completions);
    metric_set(&core->metrics, METRIC_RING_SUBMITS, rs.submits);
    metric_set(&core->metrics, METRIC_RING_OVERFLOWS, rs.overflows);
    metric_set(&core->metrics, METRIC_RING_NO_BUFFERS, rs.no_buffers);
    metric_set(&core->metrics, METRIC_CONNECTIONS_LIVE, core->connection_count);
    metric_set(&core->metrics, METRIC_CALLS_LIVE, core->calls_live);
    metric_add(&core->metrics, METRIC_LOOP_CYCLES, 1);
    metric_time(&core->metrics, METRIC_CYCLE_NS, busy_ns);
}

/* One core decides, by how long writes wait on all of them; it told the others nothing yet when they ask for the first time. */
static void share_streams(struct core *core) {
    struct node *node = core->node;
    if (core->id == 0) {
        struct throttle_load load = {.inside = __atomic_load_n(&node->writes_inside, __ATOMIC_RELAXED), .inside_min = (uint64_t)node->core_count * INSIDE_MIN, .closed = core->writes_closed};
        for (uint32_t i = 0; i < node->core_count; i++) {
            load.wait_ns += __atomic_load_n(&node->cores[i]->write_delay_ns, __ATOMIC_RELAXED) / node->core_count;
            load.rate += __atomic_load_n(&node->cores[i]->write_rate, __ATOMIC_RELAXED);
        }
        throttle_tick(&node->throttle, core->now_ns, &load);
        __atomic_store_n(&node->streams_told, node->throttle.streams, __ATOMIC_RELAXED);
        metric_set(&core->metrics, METRIC_STREAMS_TOLD, node->throttle.streams);
    }
    core->streams_told = __atomic_load_n(&node->streams_told, __ATOMIC_RELAXED);
}

/* A turn old at most: the doors of all cores go by the sum. A core adds what the tightest one bears and half as much again, not more: at the door nobody knows yet to which core a call goes, and
 * what is let in for the room of one core and finds the queue of another is refused after it was decoded, which costs ten times as much. Half, so that of two
 * cores the tighter one stays below its own door (1.5 x) when calls are spread evenly, and the other one keeps room when they are not. */
static void share_queues(struct core *core) {
    const struct node *node = core->node;
    struct engine_queue own = engine_write_queue(core->engine);
    __atomic_store_n(&core->write_limit, own.limit, __ATOMIC_RELAXED);
    __atomic_store_n(&core->write_delay_ns, own.delay_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&core->write_rate, own.served_per_s, __ATOMIC_RELAXED);
    __atomic_store_n(&core->write_closed, own.closed, __ATOMIC_RELAXED);
    bool closed = true;
    uint64_t limit = 0, tightest = UINT64_MAX, least_ns = UINT64_MAX;
    for (uint32_t i = 0; i < node->core_count; i++) {
        tightest = MIN_OF(tightest, __atomic_load_n(&node->cores[i]->write_limit, __ATOMIC_RELAXED));
        closed = closed && __atomic_load_n(&node->cores[i]->write_closed, __ATOMIC_RELAXED);
        least_ns = MIN_OF(least_ns, __atomic_load_n(&node->cores[i]->write_delay_ns, __ATOMIC_RELAXED));
    }
    for (uint32_t i = 0; i < node->core_count; i++) limit += MIN_OF(__atomic_load_n(&node->cores[i]->write_limit, __ATOMIC_RELAXED), tightest + tightest / 2);
    core->writes_closed = closed;
    core->write_limit_all = limit;
    core->write_delay_least_ns = least_ns;
    core->write_target_ns = node->limits.queue_target_ns;
    share_streams(core);
}

static int64_t tokens_add(int64_t left, uint64_t passed_ns, int64_t per_s, int64_t burst) { return MIN_OF(left + (int64_t)passed_ns * per_s, burst * (int64_t)NS_PER_S); }

/* Refusals have a rate: beyond it, and while the door is full, low connections (those that were refused last, or have not had a call served) are not read at all, until it is their time again or there
 * is room. Their bytes stay in the socket, and a client that keeps more in flight than it may waits. 0: now. */
static uint64_t refusals_from_ns(struct core *core, uint64_t refused) {
    uint64_t passed_ns = MIN_OF(core->now_ns - core->refusals_ns, NS_PER_S);
    core->refusals_ns = core->now_ns;
    core->refusals_left = tokens_add(core->refusals_left, passed_ns, REFUSALS_PER_S, REFUSALS_BURST) - (int64_t)(refused * NS_PER_S);
    core->decoded_left = tokens_add(core->decoded_left, passed_ns, DECODED_PER_S, DECODED_BURST) - (int64_t)((core->decoded_count - core->decoded_count_seen) * NS_PER_S);
    core->decoded_count_seen = core->decoded_count;
    bool full = core->write_limit_all && __atomic_load_n(&core->node->writes_inside, __ATOMIC_RELAXED) >= core->write_limit_all;
    full = full || core->writes_closed || core->decoded_left < 0;
    return full && core->refusals_left < 0 ? core->now_ns + (uint64_t)-core->refusals_left / REFUSALS_PER_S : 0;
}

/* While calls are refused most connections are low ones by turns: they get as much as the others, or the calls that wait on them would be the slow ones. */
static void limit_receives(struct core *core) {
    uint64_t refused = core->shed_count - core->shed_count_seen, slice_ns = RECEIVE_SLICE_NS;
    core->shed_count_seen = core->shed_count;
    if (core->engine && engine_deadline_ns(core->engine) == 0) {
        slice_ns = MAX_OF(core->turn_ns / (refused ? RECEIVE_SHARE_REFUSING : RECEIVE_SHARE), (uint64_t)RECEIVE_SLICE_LEAST_NS);
        slice_ns = MIN_OF(slice_ns, (uint64_t)RECEIVE_SLICE_NS * 4);
    }
    const struct ring_receives limits = {.slice_ns = slice_ns, .low_ns = refused ? slice_ns : MAX_OF(slice_ns / LOW_SHARE, (uint64_t)RECEIVE_SLICE_LEAST_NS), .low_from_ns = refusals_from_ns(core, refused)};
    ring_limit_receives(core->ring, &limits);
}

void core_run(struct core *core) {
    check(core_self == core);
    while (!core->stop) {
        limit_receives(core);
        ring_wait(core->ring, next_deadline_ns(core));
        timers_run(&core->timers, core->now_ns);
        if (core->engine) engine_tick(core->engine), share_queues(core);
        if (core->peers) peers_flush(core->peers);
        mail_flush(core);
        if (core->hooks) core->hooks->flush(core);
        if (core->on_cycle) core->on_cycle(core);
        count_cycle(core);
    }
}

void core_close(struct core *core) {
    mail_free(core->mail);
    ring_close(core->ring);
    timers_fini(&core->timers);
    core->mail = NULL, core->ring = NULL, core->ring_fd = -1;
}

void core_free(struct core *core) { mem_free(core); }
