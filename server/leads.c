#include "server/leads.h"

#include <pthread.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "server/call.h"
#include "server/cluster.h"
#include "server/core.h"
#include "server/node.h"

enum { EPOCH_BEGIN = 1 };
#define LOOK_NS (50 * NS_PER_MS)

struct leads {
    pthread_mutex_t lock; /* taken when a lead or a member changes, and for a message */
    uint64_t changes;     /* atomic */
    struct leads_row rows[];
};

struct leads_core {
    struct core *core;
    struct timer timer;
    uint64_t seen; /* of leads_changes */
    struct leads_row rows[]; /* what this core wrote last; by partition, of others' unused */
};

struct leads *leads_new(uint32_t partition_count) {
    struct leads *l = mem_zalloc(sizeof *l + partition_count * sizeof l->rows[0]);
    if (l) pthread_mutex_init(&l->lock, NULL);
    return l;
}

void leads_free(struct leads *l) {
    if (!l) return;
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}

struct leads_row leads_see(struct leads *l, uint32_t partition) {
    pthread_mutex_lock(&l->lock);
    struct leads_row row = l->rows[partition];
    pthread_mutex_unlock(&l->lock);
    return row;
}

uint64_t leads_changes(const struct node *node) {
    return __atomic_load_n(&node->leads->changes, __ATOMIC_ACQUIRE) + (node->cluster ? cluster_changes(node->cluster) : 0);
}

int64_t leads_epoch(const struct node *node) { return EPOCH_BEGIN + (node->cluster ? (int64_t)cluster_epoch(node->cluster) : 0); }

/* ---- a core looks */

static void row_from(struct leads_row *row, const struct partition_stats *s) {
    memset(row, 0, sizeof *row); /* its bytes are compared */
    row->leader = s->leader && !s->ready ? 0 : s->leader_node;
    row->term = s->term;
    row->replica_count = s->replica_count;
    for (uint32_t i = 0; i < s->replica_count; i++) row->replicas[i].node_id = s->replicas[i].node_id, row->replicas[i].kind = s->replicas[i].kind;
}

static void look_at(struct leads_core *c, uint32_t partition) {
    struct leads *l = c->core->node->leads;
    struct partition_stats s;
    if (!engine_stats_of(c->core->engine, partition_first_slot(partition, c->core->node->partition_count), &s)) return;
    struct leads_row row;
    row_from(&row, &s);
    if (memcmp(&row, &c->rows[partition], sizeof row) == 0) return;
    memcpy(&c->rows[partition], &row, sizeof row);
    pthread_mutex_lock(&l->lock);
    l->rows[partition] = row;
    pthread_mutex_unlock(&l->lock);
    __atomic_fetch_add(&l->changes, 1, __ATOMIC_RELEASE);
}

static void look(struct leads_core *c) {
    const struct node *node = c->core->node;
    for (uint32_t p = c->core->id; p < node->partition_count; p += node->core_count) look_at(c, p);
    uint64_t changes = leads_changes(node);
    if (changes == c->seen) return;
    c->seen = changes;
    if (c->core->calls) calls_core_changed(c->core->calls);
}

static void on_look(struct timer *t) {
    struct leads_core *c = container_of(t, struct leads_core, timer);
    look(c);
    if (!timer_set(&c->core->timers, &c->timer, c->core->now_ns + LOOK_NS)) log_error("no memory for a timer: watchers of the topology hear no more", "core=%u", c->core->id);
}

struct leads_core *leads_core_new(struct core *core) {
    struct leads_core *c = mem_zalloc(sizeof *c + core->node->partition_count * sizeof c->rows[0]);
    if (!c) return NULL;
    c->core = core;
    c->timer.fire = on_look;
    return c;
}

void leads_core_free(struct leads_core *c) { mem_free(c); }

void leads_begin(struct leads_core *c) {
    if (c->core->node->cluster) on_look(&c->timer);
    else look(c);
}

void leads_stop(struct leads_core *c) { timer_clear(&c->core->timers, &c->timer); }
