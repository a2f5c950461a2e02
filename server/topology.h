/* A Topology (admin.proto) in wire bytes: what this node knows of the nodes, and of the partitions what the caller says. */
#ifndef SERVER_TOPOLOGY_H
#define SERVER_TOPOLOGY_H

#include "server/call.h"

/* stats: of each partition of the cluster. Everything is taken from `a`; no data: that is full. */
struct slice topology_wire(struct call *call, struct arena *a, const struct partition_stats stats[]);

#endif
