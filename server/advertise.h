/* Where this node is, as others are told: clients by the topology (GetTopology, WatchTopology), other nodes by --join and the meta partition's rows. What --listen and --peer-listen say is where
 * it is bound, which is no address for others behind 0.0.0.0, a NAT or in a container: there --advertise and --peer-advertise say it. */
#ifndef SERVER_ADVERTISE_H
#define SERVER_ADVERTISE_H

#include "server/listen.h"

struct node;

/* Fills what flags say of node->client_address and node->peer_address; the rest stays empty. Before anything is made or bound: what nobody could reach is refused. listen, peer_listen: as parsed. */
enum status advertise_read(struct node *node, const struct address *listen, const struct address *peer_listen, char error[512]) MUST_USE;
/* The rest: as bound, with the ports that the kernel chose. */
void advertise_bound(struct node *node, const struct address *listen, const struct address *peer_listen);

#endif
