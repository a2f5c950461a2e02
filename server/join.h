/* A node that is new asks the others for the cluster (--join): over their peer ports, before anything else of it runs. Blocking, on the main thread. */
#ifndef SERVER_JOIN_H
#define SERVER_JOIN_H

#include "server/cluster.h"

struct join_shape {
    uint32_t cores, partitions; /* of the cluster */
};
/* Asks the nodes of config->join, one after the other, until one has answered; `address`: where the others reach this one. Fills in the cluster's id and the nodes there are. known: this node's
 * data directory is of the cluster already: after one round without an answer that will do (NO_QUORUM), and being a member is fine. Others refuse for good: NODE_STATE, LIMIT_EXCEEDED,
 * FIELD_INVALID (the key, certificates, one with TLS and one without). CANCELLED: a signal to end came. */
enum status join_ask(struct cluster *c, struct join_shape *shape, const struct config *config, const char *address, bool known, char error[512]) MUST_USE;

#endif
