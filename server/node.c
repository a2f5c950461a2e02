#include "server/node.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/keys.h"
#include "engine/machine.h"
#include "engine/store.h"
#include "engine/trash.h"
#include "proto/base/mem.h"
#include "proto/tls.h"
#include "server/clock.h"
#include "server/advertise.h"
#include "server/balance.h"
#include "server/cluster.h"
#include "server/forward.h"
#include "server/door.h"
#include "server/groups.h"
#include "server/host.h"
#include "server/http.h"
#include "server/join.h"
#include "server/leads.h"
#include "server/listen.h"
#include "server/mail.h"
#include "server/members.h"
#include "server/ops.h"
#include "server/peer_tls.h"
#include "server/peers.h"
#include "server/readers.h"
#include "server/limits.h"
#include "server/resources.h"

/* A core's life. Cores go from phase to phase together: each arrives when its own condition holds, and goes on when all have arrived (a counter a
 * phase; polled once a cycle, every few milliseconds while there is somebody to wait for).
 *
 *   START    engine ready: leads, and has applied its log; resources are told   -> listen, let clients in
 *   SERVE    until node_drain
 *   CALLS    no new connections, GOAWAY; connections and calls gone; at drain_timeout connections are cut
 *   ENGINES  engine_drain; drained: answered and flushed, or ENGINES_S and what CALLS left of its time (ops may still come home from other cores)
 *   SETTLE   engine closed; two more cycles, so that all mail has been read; the operations port closes
 *   LAST     nobody sends any more                                              -> the loop ends, rings close
 *
 * What does not end in time (a call that nobody reads, a flush on a dying disk) is not torn down, for somebody may still hold it: the node LEAVES, and main
 * ends the process. That is as safe as the drain: what was acknowledged is in the log. */
enum phase { PHASE_START, PHASE_SERVE, PHASE_CALLS, PHASE_ENGINES, PHASE_SETTLE, PHASE_LAST, PHASE_COUNT };
/* With the default drain-timeout of 10 s the sum is 14.5 s: a service manager's 15 s are kept. */
enum { CUT_MS = 500, ENGINES_S = 3, YIELD_S = 2, SETTLE_S = 1, ACCEPT_RETRY_MS = 100, BIND_PATIENCE_MS = 2000, ELECTION_MS = 300, HEARTBEAT_MS = 100 };

enum listener_kind { LISTENER_CLIENT, LISTENER_HTTP, LISTENER_PEER, LISTENER_KINDS };
struct listener {
    struct ring_op op;
    struct timer retry;
    struct core *core;
    enum listener_kind kind;
    int fd; /* -1: this core has none */
    bool armed, stopped;
};

struct core_state {
    enum phase phase;
    bool arrived, cut;
    unsigned cycles; /* in this phase */
    uint64_t since_ns, drain_ns; /* in this phase; it drains */
    struct listener listeners[LISTENER_KINDS];
    struct http *http; /* core 0 */
    struct mail_task drain;
    uint32_t *partitions;
    int dir_fd;
    uint64_t peer_logged_ns, peer_count;
};

struct node_state {
    bool identity_is_new; /* NODE was made by this start */
    int dir_fd, lock_fd;
    struct store_shared *store_shared;
    struct machines *machines;
    struct address addresses[LISTENER_KINDS];
    int *client_fds, http_fd, peer_fd;
    struct ring *ring; /* the main thread's, to send the drain */
    pthread_t main_thread;
    pthread_barrier_t meeting; /* while starting */
    uint32_t threads;
    uint32_t arrived[PHASE_COUNT]; /* atomic */
    uint32_t failed, left, ended;  /* atomic */
    pthread_mutex_t error_lock;
    char error[512]; /* the first core's that failed */
};

static struct core_state *state_of(struct core *core) { return core->node_state; }
static void tell_main(struct node *node) { pthread_kill(node->state->main_thread, NODE_SIGNAL); }

static void fail(struct core *core, const char *why) {
    struct node_state *ns = core->node->state;
    pthread_mutex_lock(&ns->error_lock);
    if (!ns->error[0]) snprintf(ns->error, sizeof ns->error, "core %u: %.480s", core->id, why);
    pthread_mutex_unlock(&ns->error_lock);
    __atomic_add_fetch(&ns->failed, 1, __ATOMIC_RELEASE);
    tell_main(core->node);
}

void node_fail(struct core *core, const char *why) {
    log_error("this node can't go on", "why=%s", why);
    fail(core, why);
}

/* ---- listeners */

static void listener_arm(struct listener *l) {
    if (l->fd < 0 || l->stopped) return;
    l->armed = true;
    ring_accept(l->core->ring, &l->op, l->fd);
}

static void on_retry(struct timer *t) { listener_arm(container_of(t, struct listener, retry)); }

static void refuse_peer(struct core *core, int fd, const struct sockaddr_storage *peer) {
    struct core_state *cs = state_of(core);
    close(fd);
    metric_add(&core->metrics, METRIC_PEER_REFUSED, 1);
    cs->peer_count++;
    if (cs->peer_logged_ns && core->now_ns - cs->peer_logged_ns < NS_PER_S) return; /* a line a second at most */
    char text[ADDRESS_TEXT_BYTES];
    address_format(peer, text);
    log_warn("peer connection closed", "from=%s count=%lu reason=this node has no --peers", text, cs->peer_count);
    cs->peer_logged_ns = core->now_ns;
}

static void accepted(struct listener *l, int fd) {
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    int on = 1;
    if (l->stopped || getpeername(fd, (struct sockaddr *)&peer, &len) != 0) {
        close(fd);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    switch (l->kind) {
    case LISTENER_CLIENT: l->core->hooks->accept(l->core, fd, &peer); break;
    case LISTENER_HTTP: http_accept(state_of(l->core)->http, fd); break;
    case LISTENER_PEER:
        if (l->core->peers) peers_accept(l->core->peers, fd);
        else refuse_peer(l->core, fd, &peer);
        break;
    case LISTENER_KINDS: check(false);
    }
}

static void on_accept(struct ring_op *op, int32_t result, bool more) {
    struct listener *l = container_of(op, struct listener, op);
    l->armed = more;
    if (result >= 0) accepted(l, result);
    else if (result != -ECANCELED) {
        metric_add(&l->core->metrics, METRIC_ACCEPT_ERRORS, 1);
        log_warn("accept", "core=%u err=%s", l->core->id, strerror(-result));
    }
    if (more || l->stopped) {
        if (l->stopped && !more) close(l->fd), l->fd = -1;
        return;
    }
    /* Out of descriptors or memory: not at once again, or the loop would spin. */
    if (result >= 0 || result == -ECONNABORTED || !timer_set(&l->core->timers, &l->retry, l->core->now_ns + ACCEPT_RETRY_MS * NS_PER_MS)) listener_arm(l);
}

static void listener_stop(struct listener *l) {
    if (l->fd < 0 || l->stopped) return;
    l->stopped = true;
    timer_clear(&l->core->timers, &l->retry);
    if (l->armed) ring_cancel(l->core->ring, &l->op);
    else close(l->fd), l->fd = -1;
}

static void listeners_init(struct core *core) {
    struct node_state *ns = core->node->state;
    int fds[LISTENER_KINDS] = {ns->client_fds[core->id], core->id == 0 ? ns->http_fd : -1, core->id == 0 ? ns->peer_fd : -1};
    for (unsigned k = 0; k < LISTENER_KINDS; k++)
        state_of(core)->listeners[k] = (struct listener){.op.done = on_accept, .retry.fire = on_retry, .core = core, .kind = (enum listener_kind)k, .fd = fds[k]};
}

/* ---- phases */

static void enter(struct core *core, enum phase phase) {
    struct core_state *cs = state_of(core);
    cs->phase = phase;
    cs->arrived = false;
    cs->cycles = 0;
    cs->since_ns = core->now_ns;
}

static bool everybody(const struct core *core, enum phase phase) {
    return __atomic_load_n(&core->node->state->arrived[phase], __ATOMIC_ACQUIRE) == core->node->core_count;
}

static void arrive(struct core *core) {
    struct core_state *cs = state_of(core);
    if (cs->arrived) return;
    cs->arrived = true;
    uint32_t n = __atomic_add_fetch(&core->node->state->arrived[cs->phase], 1, __ATOMIC_ACQ_REL);
    if (n == core->node->core_count && cs->phase == PHASE_SERVE) tell_main(core->node);
}

static bool for_too_long(const struct core *core, uint64_t ns) { return core->now_ns - state_of((struct core *)core)->since_ns > ns; }
static uint64_t calls_patience_ns(const struct core *core) { return core->node->config->drain_timeout * NS_PER_MS + CUT_MS * NS_PER_MS; }
static void leave(struct core *core, const char *what) {
    log_warn("drain: not ended in time", "core=%u what=\"%s\" connections=%u calls=%u", core->id, what, core->connection_count, core->calls_live);
    __atomic_store_n(&core->node->state->left, 1, __ATOMIC_RELEASE);
}

static void serve(struct core *core) {
    char error[256];
    struct listener *l = &state_of(core)->listeners[LISTENER_CLIENT];
    enter(core, PHASE_SERVE);
    if (listen_begin(l->fd, error)) {
        fail(core, error);
        return;
    }
    listener_arm(l);
    __atomic_store_n(&core->ready, true, __ATOMIC_RELAXED);
    if (core->balance) balance_begin(core->balance);
    leads_begin(core->leads);
    arrive(core);
}

static void on_drain(struct mail_task *t, struct core *core) {
    struct core_state *cs = state_of(core);
    check(cs->phase == PHASE_SERVE);
    log_debug("drain", "core=%u connections=%u calls=%u", core->id, core->connection_count, core->calls_live);
    enter(core, PHASE_CALLS);
    cs->drain_ns = core->now_ns;
    core->draining = true;
    listener_stop(&cs->listeners[LISTENER_CLIENT]);
    listener_stop(&cs->listeners[LISTENER_PEER]);
    if (core->balance) balance_stop(core->balance);
    if (core->id == 0 && core->node->joined) members_stop(core->node->joined);
    if (core->peers) engine_yield(core->engine, YIELD_S * NS_PER_S);
    core->hooks->drain(core);
}

static void on_phase_calls(struct core *core) {
    struct core_state *cs = state_of(core);
    bool gone = core->calls_live == 0 && core->connection_count == 0;
    if (!gone && !cs->cut && for_too_long(core, calls_patience_ns(core) - CUT_MS * NS_PER_MS)) {
        log_warn("drain: connections are cut", "core=%u connections=%u calls=%u", core->id, core->connection_count, core->calls_live);
        cs->cut = true;
        core->hooks->cut(core);
    }
    if (!gone && !cs->arrived && for_too_long(core, calls_patience_ns(core))) leave(core, "calls"), gone = true;
    if (gone) arrive(core);
    if (!everybody(core, PHASE_CALLS)) return;
    engine_drain(core->engine);
    enter(core, PHASE_ENGINES);
}

/* A flush of full tables takes its seconds: clients that went at once have left them. */
static void on_phase_engines(struct core *core) {
    const struct core_state *cs = state_of(core);
    if (engine_drained(core->engine)) arrive(core);
    else if (!cs->arrived && core->now_ns - cs->drain_ns > calls_patience_ns(core) + ENGINES_S * NS_PER_S) {
        char waits[ENGINE_WAITS_BYTES];
        engine_drain_waits(core->engine, waits);
        leave(core, waits), arrive(core);
    }
    if (!everybody(core, PHASE_ENGINES)) return;
    enter(core, PHASE_SETTLE);
    listener_stop(&state_of(core)->listeners[LISTENER_HTTP]);
    if (state_of(core)->http) http_stop(state_of(core)->http);
    if (core->forward) forward_stop(core->forward);
    if (core->peers) peers_stop(core->peers);
    leads_stop(core->leads);
    if (__atomic_load_n(&core->node->state->left, __ATOMIC_ACQUIRE)) return;
    engine_close(core->engine);
    core->engine = NULL;
}

static bool no_peers(const struct core *core) { return !core->peers || peers_idle(core->peers); }

static void on_phase_settle(struct core *core) {
    struct core_state *cs = state_of(core);
    if (cs->cycles == 1) cs->since_ns = core->now_ns; /* the engine was closed in the cycle before, which may have taken its time */
    const char *waits = cs->http && !http_idle(cs->http) ? "the operations port" : !no_peers(core) ? "the peer port" :
                        metric_load(&core->metrics.values[METRIC_JOBS_LIVE]) ? "reader threads" : cs->cycles < 3 ? "mail" : NULL;
    if (waits && !cs->arrived && for_too_long(core, SETTLE_S * NS_PER_S)) leave(core, waits), waits = NULL;
    if (!waits) arrive(core);
    if (everybody(core, PHASE_SETTLE)) enter(core, PHASE_LAST);
}

static void on_cycle(struct core *core) {
    struct core_state *cs = state_of(core);
    if (cs->phase == PHASE_SERVE) return;
    cs->cycles++;
    switch (cs->phase) {
    case PHASE_START:
        if (core->id == 0 && engine_ready(core->engine)) resources_begin(core->node->resources, core), groups_begin(core->node->groups, core);
        if (engine_ready(core->engine) && resources_told(core->node->resources, core)) arrive(core);
        if (everybody(core, PHASE_START)) serve(core);
        break;
    case PHASE_CALLS: on_phase_calls(core); break;
    case PHASE_ENGINES: on_phase_engines(core); break;
    case PHASE_SETTLE: on_phase_settle(core); break;
    case PHASE_LAST:
        if (cs->cycles >= 3 && no_peers(core)) arrive(core);
        if (everybody(core, PHASE_LAST)) core->stop = true;
        break;
    case PHASE_SERVE:
    case PHASE_COUNT: break;
    }
}

/* ---- a core's engine */

static enum status open_store(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]) {
    struct node *node = ctx;
    char path[sizeof node->config->data_dir + 32];
    if (partition == PARTITION_META) snprintf(path, sizeof path, "%s/meta", node->config->data_dir);
    else snprintf(path, sizeof path, "%s/part-%05u", node->config->data_dir, partition);
    struct store_config sc = {.memtable_bytes = memtable_bytes, .block_cache_bytes = node->budget.block_cache_bytes, .shared = node->state->store_shared, .trash = node->trash, ENGINE_STORE_KEYS};
    return store_open_rocks(out, path, &sc, error);
}

static enum status drop_store(void *ctx, uint32_t partition, char error[256]) {
    struct node *node = ctx;
    char path[sizeof node->config->data_dir + 32];
    snprintf(path, sizeof path, "%s/part-%05u", node->config->data_dir, partition);
    return store_drop_rocks(path, error);
}

static void sweep_store(void *ctx, uint32_t partition) {
    struct node *node = ctx;
    char path[sizeof node->config->data_dir + 32];
    snprintf(path, sizeof path, "%s/part-%05u", node->config->data_dir, partition);
    store_sweep_rocks(path);
}

static enum status open_engine_dir(struct core *core, char error[256]) {
    struct core_state *cs = state_of(core);
    int top = core->node->state->dir_fd;
    char name[32];
    snprintf(name, sizeof name, "core-%u", core->id);
    if (mkdirat(top, name, 0700) != 0 && errno != EEXIST) return snprintf(error, 256, "%s cannot be made: %s", name, strerror(errno)), STATUS_IO_FAILED;
    cs->dir_fd = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cs->dir_fd < 0) return snprintf(error, 256, "%s cannot be opened: %s", name, strerror(errno)), STATUS_IO_FAILED;
    core->host = host_new(core, cs->dir_fd);
    return core->host ? STATUS_OK : (snprintf(error, 256, "out of memory"), STATUS_MEMORY_LIMIT);
}

/* 0: not known; then age alone ends the stream. */
static uint64_t disk_total_bytes(int dir_fd) {
    struct statvfs fs;
    return fstatvfs(dir_fd, &fs) == 0 ? (uint64_t)fs.f_blocks * fs.f_frsize : 0;
}

static enum status open_engine(struct core *core, char error[256]) {
    struct node *node = core->node;
    const struct config *c = node->config;
    struct core_state *cs = state_of(core);
    enum status st = open_engine_dir(core, error);
    if (st) return st;
    struct engine_config ec = {
        .core = core->id,
        .node_id = node->identity.node_id,
        .members = node->cluster ? &node->cluster->members : NULL,
        .send = node->cluster ? peers_send : NULL,
        .send_ctx = core->peers,
        .partition_count = node->partition_count,
        .partitions = cs->partitions,
        .meta = core->id == 0,
        .machines = node->state->machines,
        .log_live_bytes_max = c->log_live_size / node->core_count,
        .log_segment_bytes = (uint32_t)c->log_segment_size,
        .queue_ops_max = node->limits.calls_max,
        .queue_target_ns = node->limits.queue_target_ns,
        .queue_bytes_max = node->budget.queue_bytes / node->core_count,
        .disk_reserve_bytes = c->disk_reserve,
        .feed_retention_us = c->stream_retention * (uint64_t)US_PER_MS,
        .store_open = open_store,
        .store_drop = drop_store,
        .store_sweep = sweep_store,
        .store_ctx = node,
        .election_ms = node->cluster ? (uint32_t)c->election_timeout : ELECTION_MS,
        .heartbeat_ms = HEARTBEAT_MS,
    };
    for (uint32_t p = 0; p < node->partition_count; p++)
        if (node_core_of_partition(node, p) == core->id) cs->partitions[ec.owned_count++] = p;
    ec.memtable_bytes = node->budget.memtables_bytes / node->partition_count * ec.owned_count;
    ec.list_cache_bytes = node->budget.lists_bytes / node->partition_count * ec.owned_count;
    ec.row_cache_bytes = node->budget.rows_bytes / node->partition_count * ec.owned_count;
    ec.filter_bytes = node->budget.filter_bytes / node->partition_count * ec.owned_count;
    ec.feed_tail_bytes = node->budget.stream_bytes / node->partition_count * ec.owned_count;
    ec.feed_bytes_max = disk_total_bytes(node->state->dir_fd) / 100 * c->stream_disk_share / node->partition_count * ec.owned_count;
    memcpy(ec.token_key, node->identity.token_key, sizeof ec.token_key);
    st = engine_open(&core->engine, host_env(core->host), &ec, error);
    /* The names of core-N, part-NNNNN and meta must outlast a power cut before anything in them is acknowledged. */
    if (st == STATUS_OK && fsync(node->state->dir_fd) != 0) return snprintf(error, 256, "%.100s cannot be synced: %s", c->data_dir, strerror(errno)), STATUS_IO_FAILED;
    return st;
}

/* ---- a core's thread */

#define TURN_NS (250 * 1000ull)

/* The k-th CPU that this process may use. Done after the engine is open: threads that RocksDB makes meanwhile must not inherit it. */
static void pin(const struct core *core) {
    cpu_set_t may, one;
    if (!core->node->config->pin_cores || core->node->core_count < 2 || sched_getaffinity(0, sizeof may, &may) != 0) return;
    if ((uint32_t)CPU_COUNT(&may) < core->node->core_count) return;
    CPU_ZERO(&one);
    for (int cpu = 0, k = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &may) && k++ == (int)core->id) CPU_SET(cpu, &one);
    (void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

/* Turns of a quarter of a millisecond, of this thread and of the kernel's that write the log for it, where the scheduler knows of such (Linux 6.12): whoever asks for short turns gets them soon, and neither waits for the
 * other until the kernel's next tick. The thread's policy and priority stay as they are. Done when RocksDB's threads are there: they are not to inherit it. */
static void take_short_turns(void) {
    struct { /* the kernel's struct sched_attr, whose header does not go with <sched.h> of Debian 12 */
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime_ns, deadline_ns, period_ns;
    } attr;
    static_assert(sizeof attr == 48, "SCHED_ATTR_SIZE_VER0");
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) || attr.policy != SCHED_OTHER) return;
    attr.runtime_ns = TURN_NS;
    (void)!syscall(SYS_sched_setattr, 0, &attr, 0);
}

static bool open_core(struct core *core) {
    const struct budget *b = &core->node->budget;
    struct ring_config rc = {.entries = 1024, .buffer_count = b->receive_buffer_count, .buffer_bytes = b->receive_buffer_bytes};
    char error[256];
    if (core_open(core, &rc, error)) return fail(core, error), false;
    listeners_init(core);
    struct core_state *cs = state_of(core);
    if (core->id == 0 && !(cs->http = http_new(core, ops_handle, core->node))) return fail(core, "out of memory"), false;
    if (!core->hooks->open(core)) return fail(core, "out of memory for connections"), false;
    return true;
}

static bool begin_ops(struct core *core) {
    char error[256];
    for (unsigned k = LISTENER_HTTP; k <= LISTENER_PEER; k++) {
        struct listener *l = &state_of(core)->listeners[k];
        if (l->fd < 0) continue;
        if (listen_begin(l->fd, error)) return fail(core, error), false;
        listener_arm(l);
    }
    if (core->peers && core->id == 0) members_begin(core->node->joined, core);
    if (core->peers) peers_begin(core->peers);
    return true;
}

static bool start_failed(const struct core *core) { return __atomic_load_n(&core->node->state->failed, __ATOMIC_ACQUIRE) != 0; }

static void *core_main(void *arg) {
    struct core *core = arg;
    struct node_state *ns = core->node->state;
    char name[16], error[256] = "";
    snprintf(name, sizeof name, "core-%u", core->id);
    pthread_setname_np(pthread_self(), name);
    (void)open_core(core);
    pthread_barrier_wait(&ns->meeting); /* all rings are there, or somebody failed */
    if (start_failed(core)) return NULL;
    if (open_engine(core, error)) fail(core, error);
    pthread_barrier_wait(&ns->meeting);
    if (start_failed(core) || !begin_ops(core)) return NULL;
    pin(core);
    take_short_turns();
    core->now_ns = clock_mono_ns();
    enter(core, PHASE_START);
    core->on_cycle = on_cycle;
    core_run(core);
    if (!__atomic_load_n(&ns->left, __ATOMIC_ACQUIRE)) { /* else main ends the process: what is still held is not freed */
        core->hooks->close(core);
        core_close(core);
    }
    if (__atomic_add_fetch(&ns->ended, 1, __ATOMIC_ACQ_REL) == core->node->core_count) tell_main(core->node);
    return NULL;
}

/* ---- the node */

static enum status out_of_memory(char error[512]) { return snprintf(error, 512, "out of memory"), STATUS_MEMORY_LIMIT; }

static uint32_t cpu_count(void) {
    cpu_set_t may;
    int n = sched_getaffinity(0, sizeof may, &may) == 0 ? CPU_COUNT(&may) : 1;
    return (uint32_t)MIN_OF(MAX_OF(n, 1), 64);
}

static void set_limits(struct node *node) {
    const struct config *c = node->config;
    uint32_t n = node->core_count;
    node->limits = (struct limits){
        .connections_max = (uint32_t)c->connections_max,
        .calls_max = (uint32_t)((c->calls_max + n - 1) / n),
        .streams_max = (uint32_t)((c->streams_max + n - 1) / n),
        .calls_per_connection_max = (uint32_t)c->calls_per_connection,
        .request_bytes_max = c->request_memory_max,
        .requests_bytes_max = node->budget.requests_bytes / n,
        .idle_ns = c->idle_timeout * NS_PER_MS,
        .first_request_ns = c->first_request_timeout * NS_PER_MS,
        .deadline_ns_max = c->deadline_max * NS_PER_MS,
        .queue_target_ns = c->queue_target * NS_PER_MS,
        .keepalive_ns = c->keepalive_time * NS_PER_MS,
        .handshake_ns = c->tls_handshake_timeout * NS_PER_MS,
        .ping_interval_ns = c->ping_interval_min * NS_PER_MS,
        .grace_ns = c->slow_grace * NS_PER_MS,
        .transfer_ns = c->transfer_timeout * NS_PER_MS,
        .bytes_per_s_min = (uint32_t)c->min_rate,
        .resets_per_s = (uint32_t)c->resets_per_second,
        .control_frames_per_s = (uint32_t)c->control_frames_per_second,
        .handshakes_max = (uint32_t)((c->tls_handshakes_max + n - 1) / n),
    };
    throttle_init(&node->throttle, node->limits.calls_per_connection_max, node->limits.queue_target_ns, 0);
}

/* A new directory waits until a node has told what the cluster is; one that belongs to it starts without, and asks the nodes that its replica of the meta partition knows. */
static enum status join(struct node *node, struct identity_wish *wish, char error[512]) {
    const struct config *c = node->config;
    struct cluster *cluster = node->cluster;
    struct join_shape shape = {0};
    struct identity found = {0};
    bool known = !node->state->identity_is_new && identity_peek(&found, node->state->dir_fd) == STATUS_OK && found.clustered;
    enum status st = join_ask(cluster, &shape, c, node->peer_address, known, error);
    if (st == STATUS_NO_QUORUM) memcpy(cluster->identity.cluster_id, found.cluster_id, sizeof found.cluster_id);
    else if (st) return st;
    if (st == STATUS_OK && ((wish->cores && wish->cores != shape.cores) || (wish->partitions && wish->partitions != shape.partitions)))
        return snprintf(error, 512, "the cluster has --cores %u and --partitions %u, the same on all nodes: leave them out", shape.cores, shape.partitions), STATUS_FIELD_INVALID;
    if (st == STATUS_OK) wish->cores = shape.cores, wish->partitions = shape.partitions;
    wish->told = true;
    return STATUS_OK;
}

static enum status open_identity(struct node *node, char error[512]) {
    const struct config *c = node->config;
    struct node_state *ns = node->state;
    enum status st = data_dir_open(c->data_dir, &ns->dir_fd, &ns->lock_fd, error);
    if (st) return st;
    struct identity_wish wish = {.cores = (uint32_t)c->cores, .partitions = (uint32_t)c->partitions, .cores_by_default = cpu_count()};
    if (node->cluster) wish.cluster = &node->cluster->identity;
    ns->identity_is_new = faccessat(ns->dir_fd, "NODE", F_OK, 0) != 0 && errno == ENOENT;
    if (node->cluster && node->cluster->joins && (st = join(node, &wish, error))) return st;
    st = identity_open(&node->identity, ns->dir_fd, c->data_dir, &wish, error);
    node->core_count = node->identity.cores, node->partition_count = node->identity.partitions;
    if (st == STATUS_OK && node->cluster && !cluster_map(node->cluster, node->partition_count)) return out_of_memory(error);
    return st;
}

static enum status divide(struct node *node, char error[512]) {
    const struct config *c = node->config;
    if (c->log_live_size / node->core_count < 4 * c->log_segment_size)
        return snprintf(error, 512, "log-live-size %llu MiB is too small: %u cores need at least 4 segments of %llu KiB each", c->log_live_size / MIB, node->core_count,
                        c->log_segment_size / KIB),
               STATUS_FIELD_INVALID;
    enum status st = budget_derive(&node->budget, c->memory_budget ? c->memory_budget : budget_default_bytes(), node->core_count, node->partition_count, error);
    if (st == STATUS_OK) set_limits(node);
    return st;
}

static enum status open_tls(struct node *node, char error[512]) {
    const struct config *c = node->config;
    struct tls_files files = {.cert = c->tls_cert, .key = c->tls_key, .ca = c->tls_client_ca, .require_client_cert = c->tls_require_client_cert};
    char why[256];
    if (!*c->tls_cert && !*c->tls_key && !*c->tls_client_ca) return STATUS_OK;
    node->tls = tls_source_new_server(&files, why);
    if (!node->tls) return snprintf(error, 512, "TLS: %s", why), STATUS_FIELD_INVALID;
    tls_source_describe(node->tls, why);
    log_info("tls", "cert=%s %s client_certs=%s", c->tls_cert, why, !*c->tls_client_ca ? "no" : c->tls_require_client_cert ? "required" : "taken");
    return STATUS_OK;
}

/* Before the data directory is made, like addresses. */
static enum status read_cluster(struct node *node, char error[512]) {
    bool used;
    node->cluster = mem_new(struct cluster);
    if (!node->cluster) return out_of_memory(error);
    enum status st = cluster_read(node->cluster, &used, node->config, error);
    if (st == STATUS_OK) st = peer_tls_open(used ? &node->cluster->tls : NULL, node->config, error);
    if (used) return st;
    cluster_fini(node->cluster);
    mem_free(node->cluster);
    node->cluster = NULL;
    return st;
}

/* Before the data directory is made: a typing error must not leave one. */
static enum status read_addresses(struct node *node, char error[512]) {
    static const char *const flags[LISTENER_KINDS] = {"--listen", "--http-listen", "--peer-listen"};
    const char *texts[LISTENER_KINDS] = {node->config->listen, node->config->http_listen, node->config->peer_listen};
    for (unsigned k = 0; k < LISTENER_KINDS; k++) {
        char why[256];
        enum status st = address_parse(&node->state->addresses[k], texts[k], why);
        if (st) return snprintf(error, 512, "%s: %s", flags[k], why), st;
    }
    return STATUS_OK;
}

static enum status bind_ports(struct node *node, char error[512]) {
    struct node_state *ns = node->state;
    int *fds[LISTENER_KINDS] = {ns->client_fds, &ns->http_fd, &ns->peer_fd};
    enum status st = STATUS_OK;
    for (unsigned k = 0; k < LISTENER_KINDS && st == STATUS_OK; k++) {
        st = listen_bind(&ns->addresses[k], fds[k], k == LISTENER_CLIENT ? node->core_count : 1, BIND_PATIENCE_MS, error);
    }
    advertise_bound(node, &ns->addresses[LISTENER_CLIENT], &ns->addresses[LISTENER_PEER]);
    if (st == STATUS_OK && !address_is_loopback(&ns->addresses[LISTENER_CLIENT])) {
        if (!node->tls) log_warn("clients talk cleartext", "listen=%s", node->config->listen);
    }
    if (st == STATUS_OK && node->cluster && !node->cluster->tls && !address_is_loopback(&ns->addresses[LISTENER_PEER]))
        log_warn("nodes talk cleartext", "peer_listen=%s", node->config->peer_listen);
    return st;
}

static enum status make_cores(struct node *node, char error[512]) {
    node->cores = mem_zalloc(node->core_count * sizeof *node->cores);
    if (!node->cores) return out_of_memory(error);
    for (uint32_t i = 0; i < node->core_count; i++) {
        struct core *core = node->cores[i] = core_new(node, i);
        struct core_state *cs = core ? mem_new(struct core_state) : NULL;
        if (!cs) return out_of_memory(error);
        core->node_state = cs;
        core->hooks = node->hooks;
        core->readers = node->readers;
        cs->dir_fd = -1;
        cs->drain.run = on_drain;
        cs->partitions = mem_zalloc((node->partition_count / node->core_count + 1) * sizeof *cs->partitions);
        if (!cs->partitions) return out_of_memory(error);
        if (!(core->leads = leads_core_new(core))) return out_of_memory(error);
        if (!node->cluster) continue;
        if (!(core->peers = peers_new(core)) || !(core->forward = forward_new(core))) return out_of_memory(error);
        core->route = &forward_route;
        if (!(core->balance = balance_new(core))) return out_of_memory(error);
    }
    return STATUS_OK;
}

static struct door *make_door(const struct config *c) {
    const struct door_limits limits = {
        .connections_max = (uint32_t)c->connections_max,
        .address_connections_max = (uint32_t)c->connections_per_address,
        .address_handshakes_max = (uint32_t)c->tls_handshakes_per_address,
        .per_s = (uint32_t)c->connection_rate,
        .address_per_s = (uint32_t)c->connection_rate_per_address,
        .penalty_ns_max = c->address_penalty_max * NS_PER_MS,
    };
    return door_new(&limits);
}

static struct limits_share *make_limits_share(void) {
    uint64_t seed;
    random_bytes(&seed, sizeof seed);
    return limits_share_new(seed);
}

static enum status open_trash(struct node *node, char error[512]) {
    char path[sizeof node->config->data_dir + 32];
    snprintf(path, sizeof path, "%s/trash", node->config->data_dir);
    return trash_open(&node->trash, &(struct trash_config){.dir = path}, error);
}

static enum status make_shared(struct node *node, char error[512]) {
    struct node_state *ns = node->state;
    unsigned readers = node->config->reader_threads ? (unsigned)node->config->reader_threads : 4 + node->core_count;
    ns->client_fds = mem_alloc(node->core_count * sizeof *ns->client_fds);
    ns->machines = machines_new();
    node->resources = resources_new(node);
    node->groups = groups_new(node);
    if (node->cluster && !(node->joined = members_new(node))) return out_of_memory(error);
    ns->store_shared = store_shared_new(node->budget.block_cache_bytes, MAX_OF(2u, cpu_count() / 2));
    node->door = make_door(node->config);
    node->limits_share = make_limits_share();
    node->leads = leads_new(node->partition_count);
    if (!node->leads || !ns->client_fds || !ns->machines || !node->resources || !node->groups || !ns->store_shared || !node->door || !node->limits_share) return out_of_memory(error);
    node->machines = ns->machines;
    for (uint32_t i = 0; i < node->core_count; i++) ns->client_fds[i] = -1;
    struct ring_config rc = {.entries = 4};
    enum status st = ring_open(&ns->ring, &rc, error);
    if (!st) st = open_trash(node, error);
    if (st) return st;
    return readers_start(&node->readers, readers, error);
}

enum status node_start(struct node *node, const struct config *config, const struct core_hooks *hooks, char error[512]) {
    *node = (struct node){.config = config, .hooks = hooks, .state = mem_new(struct node_state)};
    struct node_state *ns = node->state;
    if (!ns) return out_of_memory(error);
    ns->dir_fd = ns->lock_fd = ns->http_fd = ns->peer_fd = -1;
    ns->main_thread = pthread_self();
    pthread_mutex_init(&ns->error_lock, NULL);
    enum status st = read_addresses(node, error);
    if (st == STATUS_OK) st = read_cluster(node, error);
    if (st == STATUS_OK) st = advertise_read(node, &ns->addresses[LISTENER_CLIENT], &ns->addresses[LISTENER_PEER], error);
    if (st == STATUS_OK) st = open_identity(node, error);
    if (st == STATUS_OK) st = divide(node, error);
    if (st == STATUS_OK) st = make_shared(node, error);
    if (st == STATUS_OK) st = open_tls(node, error);
    if (st == STATUS_OK) st = bind_ports(node, error);
    if (st == STATUS_OK) st = make_cores(node, error);
    /* A first start that was refused has fixed nothing: the next one may have other cores and partitions. */
    if (st && ns->identity_is_new) (void)unlinkat(ns->dir_fd, "NODE", 0);
    if (st) return st;
    pthread_barrier_init(&ns->meeting, NULL, node->core_count);
    for (uint32_t i = 0; i < node->core_count; i++) {
        int rc = pthread_create(&node->cores[i]->thread, NULL, core_main, node->cores[i]);
        if (rc) return snprintf(error, 512, "thread of core %u cannot be started: %s", i, strerror(rc)), STATUS_MEMORY_LIMIT;
        ns->threads++;
    }
    return STATUS_OK;
}

bool node_all_ready(const struct node *node) { return __atomic_load_n(&node->state->arrived[PHASE_SERVE], __ATOMIC_ACQUIRE) == node->core_count; }

enum node_now node_state_now(const struct node *node) {
    const struct node_state *ns = node->state;
    if (__atomic_load_n(&ns->failed, __ATOMIC_ACQUIRE)) return NODE_FAILED;
    if (__atomic_load_n(&ns->ended, __ATOMIC_ACQUIRE) == node->core_count) return __atomic_load_n(&ns->left, __ATOMIC_ACQUIRE) ? NODE_LEFT : NODE_STOPPED;
    return node_all_ready(node) ? NODE_SERVING : NODE_STARTING;
}

const char *node_error(const struct node *node) { return node->state->error; }

void node_describe(const struct node *node, char out[512]) {
    char a[LISTENER_KINDS][ADDRESS_TEXT_BYTES];
    for (unsigned k = 0; k < LISTENER_KINDS; k++) address_format(&node->state->addresses[k].sa, a[k]);
    snprintf(out, 512, "listen=%s http=%s peer=%s cores=%u partitions=%u memory=%lluMiB data=%.200s", a[LISTENER_CLIENT], a[LISTENER_HTTP], a[LISTENER_PEER],
             node->core_count, node->partition_count, node->budget.total_bytes / MIB, node->config->data_dir);
}

static void reload(struct tls_source *s, const char *cert) {
    char text[256];
    if (!s) return;
    if (!tls_source_reload(s, text)) return log_error("reload refused", "the certificates in use stay: %s", text);
    tls_source_describe(s, text);
    log_info("reload", "cert=%s %s", cert, text);
}

bool node_has_tls(const struct node *node) { return node->tls || (node->cluster && node->cluster->tls); }

void node_reload(struct node *node) {
    check(node_has_tls(node));
    reload(node->tls, node->config->tls_cert);
    if (node->cluster) reload(node->cluster->tls, node->config->peer_tls_cert);
}

void node_drain(struct node *node) {
    check(node_state_now(node) == NODE_SERVING);
    __atomic_store_n(&node->draining, true, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < node->core_count; i++) mail_send_task_from(node->state->ring, node->cores[i], &state_of(node->cores[i])->drain);
}

void node_close(struct node *node) {
    struct node_state *ns = node->state;
    check(node_state_now(node) == NODE_STOPPED);
    for (uint32_t i = 0; i < ns->threads; i++) pthread_join(node->cores[i]->thread, NULL);
    readers_stop(node->readers);
    for (uint32_t i = 0; i < node->core_count; i++) {
        struct core *core = node->cores[i];
        struct core_state *cs = state_of(core);
        limits_free(core->limits);
        peers_free(core->peers);
        forward_free(core->forward);
        balance_free(core->balance);
        leads_core_free(core->leads);
        host_free(core->host);
        http_free(cs->http);
        close(cs->dir_fd);
        mem_free(cs->partitions);
        mem_free(cs);
        core_free(core);
    }
    ring_close(ns->ring);
    store_shared_free(ns->store_shared);
    trash_close(node->trash);
    machines_free(ns->machines);
    resources_free(node->resources);
    groups_free(node->groups);
    members_free(node->joined);
    tls_source_free(node->tls);
    if (node->cluster) cluster_fini(node->cluster);
    mem_free(node->cluster);
    door_free(node->door);
    limits_share_free(node->limits_share);
    leads_free(node->leads);
    pthread_barrier_destroy(&ns->meeting);
    pthread_mutex_destroy(&ns->error_lock);
    close(ns->dir_fd);
    close(ns->lock_fd); /* last: the directory may be another server's from here on */
    mem_free(ns->client_fds);
    mem_free(node->cores);
    mem_free(ns);
    *node = (struct node){0};
}
