#include "server/members.h"

#include "engine/engine.h"
#include "engine/node_row.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "proto/route.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/mail.h"
#include "server/node.h"
#include "server/peers.h"

/* A round every LOOK_NS, one op at a time:
 *
 *   IDLE --the meta replica has applied something--> LIST   its rows -> cluster.h; when they changed, a task to each core: peers and engine are told
 *   LIST --no rows, and this node leads the meta partition--> WRITE (the founders)
 *        --a node leaves, and this node leads--> CHECK, partition by partition: is it a member still?
 *        --a node was silent for --replace-after, and others can take over, or a lost one is heard, and this node leads--> WRITE
 *        --the meta replica has had no leader for UNLED_NS--> LIST, of whoever leads it
 *   CHECK --nowhere--> WRITE (it is gone)
 *
 * The meta partition may have let go of this node before it has heard why: the entry that says that it leaves was here, and not yet known to be committed. Nobody sends it anything any more then, so its own
 * replica would say for ever that all is as before, and it would keep what it leads.
 *
 * Silent is a node that no core of this one has a connection to (peers.c: 3 s without a word end it). Who begins to lead the meta partition counts from then on: it may not have seen before.
 *
 * Whatever fails is tried again by the next round. What is written is decided by apply: twice, or by two leaders, is fine. */
enum state { IDLE, LIST, CHECK, WRITE };
enum { OP_BYTES_MAX = 1 << 20 };
#define LOOK_NS (500 * NS_PER_MS)
#define BACK_NS (3 * NS_PER_S) /* a lost node is heard for so long, before it is given replicas again */
#define UNLED_NS (2 * NS_PER_S) /* beyond what an election takes */
#define UNLED_PATIENCE_NS (1 * NS_PER_S)

struct members {
    struct node *node;
    struct core *core; /* 0; NULL: it has not begun */
    bool stopped;
    struct timer timer;
    enum state state;
    struct op op;
    struct mail_hop hop;
    struct arena arena; /* the op's */
    uint64_t seen;      /* what the meta replica had applied when its rows were read last */
    uint64_t leaving;   /* a node; 0: none */
    uint64_t led_at;    /* the last look at which this node led; 0: it did not */
    uint64_t unled_ns;  /* since when the meta replica knows no leader; 0: it does */
    struct {
        uint64_t silent_ns, heard_ns; /* since when, and we lead; 0: it is not */
    } heard[NODE_ROWS_MAX]; /* by place in the cluster's peers */
    bool bare;          /* there are no rows */
    uint32_t partition; /* CHECK */
    struct members_core {
        struct mail_task task;
        bool sent; /* atomic */
    } cores[];
};

struct joining {
    struct members *members;
    void *link; /* NULL: it has gone */
    struct op op;
    struct mail_hop hop;
    struct arena arena;
};

/* ---- to the cores */

static void on_learnt(struct mail_task *task, struct core *on) {
    struct members_core *c = container_of(task, struct members_core, task);
    __atomic_store_n(&c->sent, false, __ATOMIC_RELEASE); /* before looking: a change that comes now sends another */
    struct node *node = on->node;
    peers_learn(on->peers);
    for (uint32_t n = 0; on->engine && n <= node->partition_count; n++) {
        struct engine_wanted wanted = cluster_wanted(node->cluster, n);
        engine_want(on->engine, n == node->partition_count ? PARTITION_META : n, &wanted);
    }
}

static void tell(struct members *m) {
    for (uint32_t i = 0; i < m->node->core_count; i++) {
        struct members_core *c = &m->cores[i];
        if (__atomic_exchange_n(&c->sent, true, __ATOMIC_ACQ_REL)) continue;
        c->task.run = on_learnt;
        mail_send_task(m->core, i, &c->task);
    }
}

/* true: there are rows. */
static bool learn(struct members *m, struct slice list) {
    struct reader r = reader_of(list);
    m->leaving = 0;
    for (struct node_row row; node_list_next(&r, &row);)
        if (row.state == NODE_STATE_LEAVING) m->leaving = row.node_id;
    if (r.bad) log_error("the rows of nodes can't be read", "bytes=%zu", list.len);
    if (r.bad) return true;
    if (cluster_learn(m->node->cluster, list)) {
        struct engine_wanted w = cluster_wanted(m->node->cluster, m->node->partition_count); /* the meta partition is on all */
        log_info("nodes", "epoch=%llu members=%u", (unsigned long long)cluster_epoch(m->node->cluster), w.count);
        tell(m);
    }
    return list.len > 0;
}

/* ---- ops */

static void on_home(struct mail_hop *hop);

static void op_send(struct members *m, enum state state, enum op_kind kind, uint16_t slot) {
    m->state = state;
    m->op.kind = kind, m->op.slot = slot, m->op.arena = &m->arena;
    mail_send_op(m->core, &m->hop, &m->op, on_home);
}

static void op_begin(struct members *m) {
    arena_reset(&m->arena);
    m->op = (struct op){0};
}

static bool leads(const struct members *m) { return m->core->engine && engine_lead_of(m->core->engine, SLOT_META).here; }

static void op_write(struct members *m, const struct command *c) {
    m->op.command = command_encode(c, &m->arena);
    if (m->op.command.data) op_send(m, WRITE, OP_WRITE, SLOT_META);
    else m->state = IDLE;
}

/* As --peers names them, and with the zones that they have said; of a node that went on alone before there were any rows, itself. */
static void write_founders(struct members *m) {
    struct cluster *cluster = m->node->cluster;
    op_begin(m);
    uint8_t *bytes = arena_alloc(&m->arena, GROUP_MEMBERS_MAX * (8 + NODE_ROW_BYTES_MAX));
    struct writer w = writer_of(bytes, bytes ? GROUP_MEMBERS_MAX * (8 + NODE_ROW_BYTES_MAX) : 0);
    for (uint32_t i = 0; i < cluster->members.count; i++) {
        struct cluster_peer p = cluster_see(cluster, i);
        char address[ADDRESS_TEXT_BYTES];
        if (m->node->identity.recovered && p.node_id != m->node->identity.node_id) continue;
        address_format(&p.address.sa, address);
        const char *zone = p.node_id == m->node->identity.node_id ? m->node->config->zone : p.zone;
        node_founder_encode(&(struct node_row){.node_id = p.node_id, .zone = slice_str(zone), .address = slice_str(address)}, &w);
    }
    if (w.full) return;
    op_write(m, &(struct command){.type = COMMAND_NODE, .node = {.action = NODE_FOUND, .founders = writer_slice(&w)}});
}

/* By this node's replica, if it is to have one; else by the leader's. */
static void check_partition(struct members *m) {
    op_begin(m);
    m->op.any_replica = cluster_holds(m->node->cluster, m->partition);
    op_send(m, CHECK, OP_STATS, m->partition == m->node->partition_count ? SLOT_META : partition_first_slot(m->partition, m->node->partition_count));
}

static void on_listed(struct members *m) {
    m->state = IDLE;
    m->bare = !learn(m, m->op.answer);
}

static void on_checked(struct members *m) {
    const struct partition_stats *s = &m->op.stats;
    m->state = IDLE;
    for (uint32_t i = 0; i < s->replica_count; i++)
        if (s->replicas[i].node_id == m->leaving) return; /* it is looked at again by the next round */
    if (++m->partition <= m->node->partition_count) return check_partition(m);
    log_info("a node is a member of no partition any more", "node=%llu", (unsigned long long)m->leaving);
    op_begin(m);
    op_write(m, &(struct command){.type = COMMAND_NODE, .node = {.action = NODE_GONE, .node_id = m->leaving}});
}

static void on_home(struct mail_hop *hop) {
    struct members *m = container_of(hop, struct members, hop);
    enum state state = m->state;
    if (m->op.failure.status && !m->stopped) log_debug("nodes: tried again", "state=%d status=%s", (int)state, status_name(m->op.failure.status));
    if (m->op.failure.status && state == LIST) m->seen = 0;
    m->state = IDLE;
    if (m->op.failure.status || m->stopped) return;
    if (state == LIST) on_listed(m);
    else if (state == CHECK) on_checked(m);
}

/* ---- who is lost, and who is back */

static void listen_to_nodes(struct members *m) {
    struct cluster *cluster = m->node->cluster;
    uint64_t now = m->core->now_ns;
    bool led = leads(m), anew = !m->led_at || now - m->led_at > 4 * LOOK_NS; /* a process that was stopped has heard nothing meanwhile */
    m->led_at = led ? now : 0;
    for (uint32_t i = 0; i < cluster_count(cluster); i++) {
        bool up = cluster_see(cluster, i).links > 0;
        if (!led || anew || up) m->heard[i].silent_ns = 0;
        if (!led || anew || !up) m->heard[i].heard_ns = 0;
        if (led && !up && !m->heard[i].silent_ns) m->heard[i].silent_ns = now;
        if (led && up && !m->heard[i].heard_ns) m->heard[i].heard_ns = now;
    }
}

/* How many nodes are there that hold partitions: this one, and those that are connected. */
static uint32_t present(const struct members *m) {
    struct cluster *cluster = m->node->cluster;
    uint32_t n = 0;
    for (uint32_t i = 0; i < cluster_count(cluster); i++) {
        struct cluster_peer p = cluster_see(cluster, i);
        n += node_state_is_member(p.state) && (p.links > 0 || p.node_id == m->node->identity.node_id);
    }
    return n;
}

static void write_action(struct members *m, enum node_action action, uint64_t node_id, const char *what) {
    log_warn(what, "node=%llu", (unsigned long long)node_id);
    op_begin(m);
    op_write(m, &(struct command){.type = COMMAND_NODE, .node = {.action = (uint8_t)action, .node_id = node_id}});
}

/* true: something is written. One at a time. A node is lost only when there are enough to hold what it holds. */
static bool judge(struct members *m) {
    struct cluster *cluster = m->node->cluster;
    uint64_t now = m->core->now_ns, after = m->node->config->replace_after * NS_PER_MS;
    bool enough = after && present(m) >= cluster->replicas;
    for (uint32_t i = 0; i < cluster_count(cluster); i++) {
        struct cluster_peer p = cluster_see(cluster, i);
        uint64_t silent = m->heard[i].silent_ns, heard = m->heard[i].heard_ns;
        if (p.node_id == m->node->identity.node_id) { /* it leads: somebody hears it */
            if (p.state == NODE_STATE_LOST) return write_action(m, NODE_BACK, p.node_id, "this node is back"), true;
        } else if (p.state == NODE_STATE_LOST && heard && now - heard >= BACK_NS) {
            return write_action(m, NODE_BACK, p.node_id, "a node that was lost is back"), true;
        } else if (p.state == NODE_STATE_UP && enough && silent && now - silent >= after) {
            return write_action(m, NODE_LOSE, p.node_id, "a node is lost: others take its replicas over"), true;
        }
    }
    return false;
}

/* Who only joined has no leader before it is added, and waits for that. */
static bool is_unled(struct members *m) {
    struct engine_lead lead = engine_lead_of(m->core->engine, SLOT_META);
    struct cluster_peer own;
    uint64_t now = m->core->now_ns;
    bool known = lead.here || lead.node || !cluster_find(m->node->cluster, m->node->identity.node_id, &own) || own.state <= NODE_STATE_JOINED;
    if (known) m->unled_ns = 0;
    else if (!m->unled_ns) m->unled_ns = now;
    return !known && now - m->unled_ns >= UNLED_NS;
}

static void round_begin(struct members *m) {
    struct partition_stats s;
    if (m->state != IDLE || !m->core->engine || !engine_stats_of(m->core->engine, SLOT_META, &s)) return;
    if (is_unled(m)) {
        op_begin(m);
        m->op.patience_ns = UNLED_PATIENCE_NS;
        return op_send(m, LIST, OP_NODES, SLOT_META);
    }
    if (s.applied_index != m->seen) {
        m->seen = s.applied_index;
        op_begin(m);
        m->op.any_replica = true;
        return op_send(m, LIST, OP_NODES, SLOT_META);
    }
    if (!leads(m)) return;
    if (m->bare && !m->node->cluster->joins) write_founders(m);
    else if (!m->bare && judge(m)) return;
    else if (m->leaving) m->partition = 0, check_partition(m);
}

static void on_timer(struct timer *t) {
    struct members *m = container_of(t, struct members, timer);
    listen_to_nodes(m);
    round_begin(m);
    check(timer_set(&m->core->timers, &m->timer, m->core->now_ns + LOOK_NS)); /* its place in the heap was there a moment ago */
}

/* ---- who joins */

static void joining_free(struct joining *j) {
    arena_fini(&j->arena);
    mem_free(j);
}

void members_join_left(struct joining *j) { j->link = NULL; }

static struct slice join_answer(struct joining *j, enum link_verdict verdict, const char *text) {
    struct cluster *c = j->members->node->cluster;
    size_t cap = 1 + 2 + strlen(text) + cluster_count(c) * (8 + NODE_ROW_BYTES_MAX);
    uint8_t *bytes = arena_alloc(&j->arena, cap);
    struct writer w = writer_of(bytes, bytes ? cap : 0);
    write_u8(&w, (uint8_t)verdict), write_counted(&w, slice_str(text));
    for (uint32_t i = 0; i < cluster_count(c); i++) {
        struct cluster_peer p = cluster_see(c, i);
        char address[ADDRESS_TEXT_BYTES] = "";
        if (p.address.len) address_format(&p.address.sa, address);
        node_founder_encode(&(struct node_row){.node_id = p.node_id, .zone = slice_str(p.zone), .address = slice_str(address)}, &w);
    }
    return w.full ? (struct slice){0} : writer_slice(&w);
}

static void on_join_home(struct mail_hop *hop) {
    struct joining *j = container_of(hop, struct joining, hop);
    const struct failure *f = &j->op.failure;
    enum link_verdict verdict = !f->status ? LINK_JOINED_NOW : LINK_JOIN_REFUSED;
    for (const struct failure_meta *meta = f->metas; meta; meta = meta->next)
        if (strcmp(meta->key, "state") == 0 && !slice_equal(meta->value, slice_str(node_state_name(NODE_STATE_REMOVED)))) verdict = LINK_JOINED_BEFORE;
    struct slice answer = join_answer(j, verdict, f->status ? (f->message ? f->message : status_name(f->status)) : "");
    if (j->link) peers_joined(j->link, answer);
    joining_free(j);
}

struct joining *members_join(struct members *m, void *link, uint64_t node_id, struct slice zone, struct slice address) {
    struct joining *j = mem_new(struct joining);
    if (!j) return NULL;
    j->members = m, j->link = link;
    arena_init(&j->arena, OP_BYTES_MAX);
    struct command c = {.type = COMMAND_NODE, .node = {.action = NODE_JOIN, .node_id = node_id, .zone = zone, .address = address}};
    j->op = (struct op){.kind = OP_WRITE, .slot = SLOT_META, .arena = &j->arena, .command = command_encode(&c, &j->arena)};
    if (!j->op.command.data) return joining_free(j), NULL;
    log_info("a node asks to join", "node=%llu zone=%.*s address=%.*s", (unsigned long long)node_id, (int)zone.len, (const char *)zone.data, (int)address.len, (const char *)address.data);
    mail_send_op(m->core, &j->hop, &j->op, on_join_home);
    return j;
}

/* ---- the whole */

struct members *members_new(struct node *node) {
    struct members *m = mem_zalloc(sizeof *m + node->core_count * sizeof m->cores[0]);
    if (!m) return NULL;
    m->node = node;
    m->timer.fire = on_timer;
    arena_init(&m->arena, OP_BYTES_MAX);
    return m;
}

void members_free(struct members *m) {
    if (!m) return;
    arena_fini(&m->arena);
    mem_free(m);
}

void members_begin(struct members *m, struct core *core0) {
    check(core0->id == 0);
    m->core = core0;
    struct slice list;
    if (engine_read_nodes(core0->engine, &m->arena, &list) == STATUS_OK) (void)learn(m, list); /* the first look by the timer reads them again */
    if (!timer_set(&core0->timers, &m->timer, core0->now_ns + LOOK_NS)) panic_now("out of memory for a timer at start");
}

void members_stop(struct members *m) {
    m->stopped = true;
    timer_clear(&m->core->timers, &m->timer);
}
