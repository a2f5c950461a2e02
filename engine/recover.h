/* A replica that goes on alone, when a majority of its partitions' voters is lost for good (docs/CLUSTER.md, "A majority that is lost"). Offline: of an engine that was opened and is
 * never ticked; afterwards it is closed, and the next start leads alone. Nothing here keeps the lost ones away, should they come back: that is the caller's (a new cluster id).
 *
 * What it does to a partition is one record of its log, behind the last: GROUP_CHANGE to this node as the only voter, in a term above all that this node knows. The newest members in a log
 * count for elections, committed or not; the start that follows elects itself by them, and so commits all that stands before: the tail of the log too, of which nobody here can say
 * whether it was committed. In the meta partition a command NODE_ALONE stands before that record, so that the nodes that are gone are wanted no more. */
#ifndef ENGINE_RECOVER_H
#define ENGINE_RECOVER_H

#include "engine/engine.h"

struct recover_replica {
    uint32_t partition;                   /* or PARTITION_META */
    uint64_t applied_index, applied_term; /* what its store holds: certainly committed */
    uint64_t last_index, last_term;       /* what its log holds */
    uint64_t term;                        /* the newest that it took part in */
    int64_t orders;                       /* as applied */
    struct group_members members;         /* the newest in its log, committed or not */
    bool votes;                           /* this node is a voter among them */
    bool alone;                           /* and the only one: nothing is to be done */
    bool holds;                           /* its log or store has an entry. Where replicas are on some of the nodes, the others hold nothing */
    bool forgot;                          /* its disk was lost, or it was emptied, and it had not got back yet what it had acknowledged: its log may be a part of it */
};

/* Of every partition, the meta partition last. Returns how many; max: partition_count + 1 is enough. */
uint32_t recover_look(const struct engine *e, struct recover_replica *out, uint32_t max);
/* Also of partitions that it does not hold, which begin anew, empty: the caller has asked. Durable when it returns OK; partitions that are alone already are left as they are, so what was interrupted is run again. turn: lets what the env has under way come home; called until it
 * has. A failed write or sync stops the process, as in the server. DISK_FULL: error[] says where; nothing, or some partitions, were changed. */
enum status recover_alone(struct engine *e, void (*turn)(void *ctx), void *ctx, char error[256]) MUST_USE;

#endif
