/* Who leads what, as this node's engines know it, for all of its cores to read: the news that WatchTopology tells. Each core looks at the partitions that it owns twenty times a second and writes
 * down what is another; each core also notices that something was written (or that a node came, went, or is of another state) and tells the calls that watch it (call_watch_core).
 * So a change is known everywhere within 0.1 s, and comes no more often than twenty times a second, however much happens. */
#ifndef SERVER_LEADS_H
#define SERVER_LEADS_H

#include "engine/engine.h"

struct core;
struct leads;
struct leads_core;
struct node;

struct leads_row {
    uint64_t leader, term; /* leader 0: not known, or not ready yet */
    uint32_t replica_count;
    struct replica_stats replicas[GROUP_MEMBERS_MAX]; /* without `stored` */
};

struct leads *leads_new(uint32_t partition_count); /* NULL: no memory */
void leads_free(struct leads *l);
struct leads_row leads_see(struct leads *l, uint32_t partition); /* any thread */
/* Grows with whatever a topology of this node would show otherwise; any thread. Ask before you look: what comes meanwhile is told by the next one. */
uint64_t leads_changes(const struct node *node);

/* What a topology says: of the nodes and their states; who leads changes without it. 1 on a single node. */
int64_t leads_epoch(const struct node *node);

/* Of a core, on its thread. begin: once the engine is ready. A single node leads everything for good, and looks once. */
struct leads_core *leads_core_new(struct core *core);
void leads_core_free(struct leads_core *c);
void leads_begin(struct leads_core *c);
void leads_stop(struct leads_core *c); /* no timer is left */

#endif
