/* Ops for partitions that other nodes lead (docs/CLUSTER.md): a core asks the same core of the node that leads, and brings the answer home as if it had been its own. An op that another node
 * asks for is run here or refused, never asked on: one hop, no loops. While nobody leads, or the one that led is gone, an op waits, until its deadline.
 *
 * What was asked may have been done though no answer came. It is asked again only where that changes nothing: reads, and writes that are known again by their request_id or by
 * what they say. Others end with OUTCOME_UNKNOWN. Owned by the core; all calls on its thread. */
#ifndef SERVER_FORWARD_H
#define SERVER_FORWARD_H

#include "proto/link.h"
#include "server/core.h"

struct forward *forward_new(struct core *core); /* of a node with peers. NULL: no memory */
void forward_free(struct forward *f);
/* Everything that waits is answered DRAINING, and so is what comes. */
void forward_stop(struct forward *f);
/* core.route */
extern const struct op_route forward_route;

/* peers.c's: an ASK or ANSWER came; the connection to the node is gone, and with it what was asked. */
void forward_on_frame(struct forward *f, uint64_t node_id, enum link_kind kind, struct slice body);
void forward_on_lost(struct forward *f, uint64_t node_id);

#endif
