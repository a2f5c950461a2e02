/* One server: its cores, what they share, start and stop. After node_start everything here is read-only but the atomics. */
#ifndef SERVER_NODE_H
#define SERVER_NODE_H

#include "proto/route.h"
#include "server/budget.h"
#include "server/config.h"
#include "server/core.h"
#include "server/identity.h"

/* Bounds at the door; those "of a core" are the node's divided by its cores. */
struct limits {
    uint32_t connections_max;          /* of a core */
    uint32_t calls_max;                /* of a core, in flight */
    uint32_t calls_per_connection_max; /* SETTINGS_MAX_CONCURRENT_STREAMS */
    size_t request_bytes_max;          /* arena of one call */
    size_t requests_bytes_max;         /* arenas of all calls of a core together */
    uint64_t idle_ns;                  /* a connection without calls */
    uint64_t first_request_ns;         /* from accept to the first complete request */
    uint64_t deadline_ns_max;          /* a call's deadline is clamped to this */
};

struct node {
    const struct config *config;
    struct budget budget;
    struct limits limits;
    struct identity identity;
    uint32_t core_count, partition_count;
    struct core **cores;
    const struct core_hooks *hooks;
    struct readers *readers;
    const struct machines *machines;
    bool draining; /* relaxed atomic */
    void *state;   /* node.c's own */
};

static inline uint32_t node_core_of_partition(const struct node *node, uint32_t partition) { return partition % node->core_count; }
static inline uint32_t node_core_of_slot(const struct node *node, uint16_t slot) {
    return node_core_of_partition(node, partition_of_slot(slot, node->partition_count));
}
static inline bool node_draining(const struct node *node) { return __atomic_load_n(&node->draining, __ATOMIC_RELAXED); }

#endif
