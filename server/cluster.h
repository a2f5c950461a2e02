/* The nodes of a cluster, as --node-id, --peers, --zone and --cluster-key-file name them. Membership is static for now: every node is told all of them, and every partition has a
 * voter on each. (The meta group is to keep them one day, and then a node is told one that it can ask.)
 *
 * What nodes must agree on before they have spoken is derived from what all of them are told: the cluster's id from the key and the node ids, so that nodes that were told differently
 * are of different clusters; the key of page tokens and cursors, which any node must be able to read; the key by which nodes prove themselves to one another. */
#ifndef SERVER_CLUSTER_H
#define SERVER_CLUSTER_H

#include <pthread.h>

#include "engine/group.h"
#include "proto/link.h"
#include "server/config.h"
#include "server/identity.h"
#include "server/listen.h"

enum { CLUSTER_KEY_BYTES_MIN = 32, CLUSTER_KEY_BYTES_MAX = 4096 };

struct tls_source;
struct cluster {
    struct cluster_identity identity; /* this node's */
    uint8_t link_key[LINK_PROOF_BYTES];
    struct tls_source *tls;           /* between nodes; NULL: cleartext (peer_tls.h) */
    struct group_members members;     /* by ascending id: the same on all nodes */
    struct cluster_peer {
        uint64_t node_id;
        struct address address;
        /* under `lock`: as it said when it last connected; connections of all cores that are up */
        unsigned links;
        char zone[LINK_ZONE_BYTES + 1], client_address[LINK_ADDRESS_BYTES + 1], version[LINK_VERSION_BYTES_MAX + 1];
    } peers[GROUP_MEMBERS_MAX];       /* this node too; as members.member */
    pthread_mutex_t lock;             /* taken when a connection comes or goes, and for topology */
};

/* *used: there are peers. Reads the key's file; names are looked up once. Flags that make no sense together are refused. */
enum status cluster_read(struct cluster *c, bool *used, const struct config *config, char error[512]) MUST_USE;
void cluster_fini(struct cluster *c);

/* A connection to the node came, and that is what it said; NULL: one is gone. Any thread, as the next. */
void cluster_tell(struct cluster *c, uint64_t node_id, const struct link_hello *said);
/* Who should lead partition `number` (the meta partition: the number behind the last): the nodes by turns, those in `zone` if there are any. zone "": all. Nodes whose zone is not known
 * yet, as they have not connected, are in none. 0: it does not matter, there is one node. */
uint64_t cluster_leader_wanted(struct cluster *c, const char *own_zone, const char *zone, uint32_t number);
/* And that is what it runs. Of a node with a connection. */
void cluster_tell_version(struct cluster *c, uint64_t node_id, const char version[LINK_VERSION_BYTES_MAX + 1]);
/* `at` of members.member, a copy. links: is it up? */
struct cluster_peer cluster_see(struct cluster *c, uint32_t at);

#endif
