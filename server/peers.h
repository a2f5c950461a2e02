/* The connections of one core to the same core of every other node (docs/CLUSTER.md): what the engine and forward.h send goes out, what comes in goes to them. Partition p lives on core
 * p mod cores on every node, so what is between two replicas is between two cores of one number, and no frame crosses cores. One connection for each pair, whose lower node id
 * dials: nobody has to choose between two that crossed.
 *
 * Delivery is a network's: frames are lost when there is no connection, or when peer-queue bytes wait already; Raft sends again. Owned by the core; all calls on its thread. */
#ifndef SERVER_PEERS_H
#define SERVER_PEERS_H

#include "proto/link.h"

struct cluster;
struct core;
struct peers;

struct peers *peers_new(struct core *core); /* of a node with a cluster. NULL: no memory */
void peers_free(struct peers *p);           /* stopped and idle */
/* Begins to dial. */
void peers_begin(struct peers *p);
/* The cluster may have more nodes than it had, or some were removed. Then and at the beginning. */
void peers_learn(struct peers *p);
/* What came of members_join for this connection. */
void peers_joined(void *link, struct slice answer);
/* A connection came to the peer port: its first frame says to which core it belongs, and that is where it goes. On any core. */
void peers_accept(struct peers *p, int fd);
/* engine_config.send; ctx: the peers. */
void peers_send(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame);
/* To a node: an op, or the answer to one. false: no connection, or no room; nothing was sent. */
bool peers_say(struct peers *p, uint64_t node_id, enum link_kind kind, struct slice body);
bool peers_up(const struct peers *p, uint64_t node_id);
/* What the turn gathered leaves, one send for each node. At the end of each turn. */
void peers_flush(struct peers *p);
/* No more connections, and those there are end. */
void peers_stop(struct peers *p);
bool peers_idle(const struct peers *p);

#endif
