/* The nodes of a cluster, as this one knows them: those that --peers names (the founders: each has a voter of every partition when it begins), or that a node of --join told; then those that
 * the meta partition has (engine/node_row.h), which come, change and go while all run (members.h).
 *
 * What founders must agree on before they have spoken is derived from what all of them are told: the cluster's id from the key and the node ids, so that nodes that were told differently
 * are of different clusters; the key of page tokens and cursors, which any node must be able to read; the key by which nodes prove themselves to one another. Who joins is told the id. */
#ifndef SERVER_CLUSTER_H
#define SERVER_CLUSTER_H

#include <pthread.h>

#include "engine/engine.h"
#include "engine/node_row.h"
#include "engine/placement.h"
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
    struct group_members members;     /* of partitions that are made new: by ascending id, the same on all founders. Who joins is not among them: nobody is, that it knows */
    bool joins;                       /* --join */
    uint32_t count;                   /* of peers; grows: cluster_count() */
    struct cluster_peer {
        uint64_t node_id;
        struct address address;       /* under `lock`; len 0: not known */
        bool told;                    /* by --peers: the address is not the meta partition's */
        /* under `lock`: as the meta partition has it, 0: it has none of it yet; as it said when it last connected; connections of all cores that are up */
        enum node_row_state state;
        unsigned links;
        char zone[LINK_ZONE_BYTES + 1], client_address[LINK_ADDRESS_BYTES + 1], version[LINK_VERSION_BYTES_MAX + 1];
        bool leads_elsewhere;         /* under `lock`: while it is connected: its --lead-zone is another */
    } peers[NODE_ROWS_MAX];           /* this node too; none ever moves */
    uint64_t changes;                 /* atomic */
    uint32_t replicas, partition_count; /* --replicas; 0: cluster_map was not called */
    const char *lead_zone;            /* the config's */
    uint64_t epoch;                   /* under `lock`, as `map`: of the rows that were learnt last; 0: none */
    struct placement *map;            /* [partition_count + 1], the meta partition last: what follows from them */
    pthread_mutex_t lock;             /* taken when a connection comes or goes, when rows changed, and for topology */
};

/* *used: it is one of several. Reads the key's file; names are looked up once. Flags that make no sense together are refused. */
enum status cluster_read(struct cluster *c, bool *used, const struct config *config, char error[512]) MUST_USE;
void cluster_fini(struct cluster *c);

uint32_t cluster_count(const struct cluster *c);
/* A node that is not known yet, or its new address (which --peers outranks). Any thread, as all below. */
void cluster_learn_node(struct cluster *c, uint64_t node_id, enum node_row_state state, struct slice zone, struct slice address);
/* All rows of the meta partition. true: something changed. */
bool cluster_learn(struct cluster *c, struct slice list);
/* How many partitions there are, once that is known; before rows are learnt. false: no memory. */
bool cluster_map(struct cluster *c, uint32_t partition_count) MUST_USE;
/* Who is to hold partition `number` (the meta partition: the number behind the last), by the rows that were learnt. None: they are not known yet. */
struct engine_wanted cluster_wanted(struct cluster *c, uint32_t number);
bool cluster_holds(struct cluster *c, uint32_t number); /* this node is among them, or no rows are known yet */
uint64_t cluster_epoch(struct cluster *c); /* 0: not known yet */
uint64_t cluster_changes(const struct cluster *c); /* grows with whatever is learnt or told */
/* A connection to the node came, and that is what it said; NULL: one is gone. */
void cluster_tell(struct cluster *c, uint64_t node_id, const struct link_hello *said);
/* Who should lead partition `number`, as placement.h says. Before any rows are known: the founders by turns, in the order of their ids; those in `zone` if there are any, "": all. Founders whose zone
 * is not known yet, as they have not connected, are in none. 0: it does not matter, there is one node. */
uint64_t cluster_leader_wanted(struct cluster *c, const char *own_zone, const char *zone, uint32_t number);
/* And that is what it runs. Of a node with a connection. */
void cluster_tell_version(struct cluster *c, uint64_t node_id, const char version[LINK_VERSION_BYTES_MAX + 1]);
/* And that is its --lead-zone. false: it is not ours. */
bool cluster_tell_lead_zone(struct cluster *c, uint64_t node_id, const char *zone);
/* All nodes that are connected, and have told, have our --lead-zone. Those that had different ones would hand leads back and forth. */
bool cluster_lead_zone_agreed(struct cluster *c);
/* `at` of peers, a copy. links: is it up? */
struct cluster_peer cluster_see(struct cluster *c, uint32_t at);
bool cluster_find(struct cluster *c, uint64_t node_id, struct cluster_peer *out); /* the same by id */

#endif
