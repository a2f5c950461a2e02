/* Members of consumer groups that are connected to other nodes, at the partitions that this node leads (docs/CLUSTER.md#members-elsewhere). The dispatchers want a session to look at; the member's own is in the
 * memory of its node, so each has one here for each partition, a guest. It comes with ATTACH, and goes with DETACH, with the connection to its node, with the lead of the partition, or
 * when the dispatcher says that it is no member (any more). On the partition's core. */
#ifndef SERVER_GUESTS_H
#define SERVER_GUESTS_H

#include "engine/engine.h"

struct core;
struct guests;

struct guests *guests_new(struct core *core); /* NULL: no memory */
void guests_free(struct guests *g);           /* the engine is closed: nobody looks at their sessions any more */
/* An op of node `node_id`'s, as it was read (op_wire.h): its session becomes the guest's, until guests_leave. NOT_LEADER: there is no such guest; ABSENT: nor need there be, the op is done;
 * OVERLOADED, MEMORY_LIMIT: no room for one more. */
enum status guests_enter(struct guests *g, uint64_t node_id, struct op *op) MUST_USE;
void guests_leave(struct guests *g, struct op *op); /* it is done: before anything of it is let go */
void guests_lost(struct guests *g, uint64_t node_id);
void guests_tick(struct guests *g);           /* now and then */

#endif
