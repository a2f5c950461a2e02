/* Which nodes are to hold each partition, and which of them should lead it (docs/CLUSTER.md, "Where replicas are"). A pure function of the nodes' rows and the number of partitions: every
 * node computes it by itself, from the same rows, and finds the same. Nothing is noted anywhere; what it says is what members change towards (partition_members.c).
 *
 *   1. by partition: the nodes by rendezvous, a hash of (node, partition); first one of each zone, then a second one of each
 *   2. over all partitions: replicas move from nodes with many to nodes with few until none has two more than another that could take one; never so that a zone gets more than before.
 *      The replica that moves is the one whose hashes mind least
 *   3. leads: by ascending number, to the node of the set that has fewest so far, then the one with the lowest id
 *
 * 1 alone is stable: a node that comes or goes moves its own replicas. 2 makes loads even, and moves some few more, as many as the hashes were uneven.
 *
 * UP and DRAINING nodes get replicas. Of LOST ones as many as the count lacks without them: a partition is not to have fewer replicas because there is nobody to take one over. The meta
 * partition is on all that are not LOST, for every node reads its rows. */
#ifndef ENGINE_PLACEMENT_H
#define ENGINE_PLACEMENT_H

#include "engine/engine.h"
#include "engine/node_row.h"

enum { REPLICAS_MAX = GROUP_MEMBERS_MAX };

struct placement {
    struct engine_wanted members; /* by ascending id */
    uint64_t leader;              /* an UP one of them, of `lead_zone` if it has any; 0: none is */
};
/* rows: a list (node_row.h), of which GROUP_MEMBERS_MAX at most are members. out: [partition_count + 1], the meta partition last. Without members, or of bytes that are no list: all are empty. */
void placement_make(struct slice rows, uint32_t replicas, struct slice lead_zone, uint32_t partition_count, struct placement *out);

#endif
