/* Nodes that come and go (docs/CLUSTER.md): reads the meta partition's rows of nodes from this node's own replica, tells cores and engines what they say, and does what is left to do by
 * whoever leads the meta partition: the founders' rows at the beginning, and the end of a node that is a member of nothing any more. Lives on core 0; all calls there. */
#ifndef SERVER_MEMBERS_H
#define SERVER_MEMBERS_H

#include "proto/base/bytes.h"

struct core;
struct joining;
struct members;
struct node;

struct members *members_new(struct node *node); /* of a node with peers. NULL: no memory */
void members_free(struct members *m);           /* all loops have ended */
/* Once core 0 has its engine, before it dials anybody: what the replica holds is known at once. */
void members_begin(struct members *m, struct core *core0);
void members_stop(struct members *m); /* this node drains */

/* A node asks to join, on a connection that has proven that it has the key. The answer (link.h, JOINED) comes by peers_joined(link), if the connection is not left before. NULL: no memory. */
struct joining *members_join(struct members *m, void *link, uint64_t node_id, struct slice zone, struct slice address);
void members_join_left(struct joining *j);

#endif
