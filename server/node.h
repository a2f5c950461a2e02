/* One server: its cores, what they share, start and stop. Made and ended by the main thread; after node_start everything here is read-only but the
 * atomics. Phases and their meeting points: node.c. */
#ifndef SERVER_NODE_H
#define SERVER_NODE_H

#include <signal.h>

#include "proto/route.h"
#include "server/budget.h"
#include "server/config.h"
#include "server/core.h"
#include "server/identity.h"
#include "server/throttle.h"

/* Bounds at the door; those "of a core" are the node's divided by its cores. */
struct limits {
    uint32_t connections_max;          /* of all: the kernel shares connections out unevenly, so a core may have more than its part */
    uint32_t calls_max;                /* of a core, in flight */
    uint32_t streams_max;              /* of a core: change streams, of calls_max */
    uint32_t calls_per_connection_max; /* SETTINGS_MAX_CONCURRENT_STREAMS */
    size_t request_bytes_max;          /* arena of one call */
    size_t requests_bytes_max;         /* arenas of all calls of a core together */
    uint64_t idle_ns;                  /* a connection without calls */
    uint64_t first_request_ns;         /* from accept to the first complete request */
    uint64_t deadline_ns_max;          /* a call's deadline is clamped to this */
    uint64_t keepalive_ns;             /* of silence with calls, until we ping */
    uint64_t handshake_ns;             /* TLS */
    uint64_t ping_interval_ns;         /* between a client's pings without work */
    uint64_t grace_ns, transfer_ns;    /* slow peers: h2.h */
    uint32_t bytes_per_s_min;
    uint32_t resets_per_s, control_frames_per_s; /* of a connection */
    uint32_t handshakes_max;           /* TLS, of a core, under way */
    uint64_t queue_target_ns;          /* of a write, under load */
};

struct cluster;
struct members;
struct node {
    const struct config *config;
    struct budget budget;
    struct limits limits;
    struct identity identity;
    uint32_t core_count, partition_count;
    char client_address[64], peer_address[64]; /* as others are told (advertise.h) */
    struct core **cores;
    const struct core_hooks *hooks;
    struct readers *readers;
    const struct machines *machines; /* grows; any thread reads */
    struct resources *resources;
    struct trash *trash;    /* of all partitions' tables */
    struct groups *groups;  /* groups.h */
    struct members *joined; /* members.h: of a node with peers */
    struct door *door;      /* who may come in: addresses, for all cores */
    struct limits_share *limits_share; /* buckets of rate limits */
    struct leads *leads; /* leads.h */
    struct cluster *cluster; /* the other nodes; NULL: there are none */
    struct tls_source *tls; /* clients' port; NULL: cleartext */
    bool draining; /* relaxed atomic */
    uint64_t writes_inside; /* relaxed atomic: calls that shed_enter let in */
    struct throttle throttle; /* core 0's */
    uint32_t streams_told;    /* relaxed atomic: throttle.streams */
    struct node_state *state; /* node.c's own */
};

/* Locks the directory, reads or makes the identity, binds the ports, starts readers and cores. Engines open on their threads: node_state_now tells how
 * it went. All signals that main waits for must be blocked already. */
enum status node_start(struct node *node, const struct config *config, const struct core_hooks *hooks, char error[512]) MUST_USE;
/* The thread that called node_start gets NODE_SIGNAL (blocked, to be waited for) when this changes. */
#define NODE_SIGNAL SIGUSR1
enum node_now {
    NODE_STARTING,
    NODE_SERVING,
    NODE_FAILED,  /* to start: node_error says why. Leave with exit */
    NODE_STOPPED, /* drained: node_close */
    NODE_LEFT,    /* drained, but something did not end in time (logged). All is durable: leave with _exit */
};
enum node_now node_state_now(const struct node *node);
const char *node_error(const struct node *node);
/* "listen=127.0.0.1:7400 http=... cores=2 ..." of a serving node, for the ready line. */
void node_describe(const struct node *node, char out[512]);
/* New calls are refused, running ones end (config: drain_timeout), engines flush. Once, from the main thread, of a serving node. */
void node_drain(struct node *node);
bool node_has_tls(const struct node *node); /* for clients or between nodes */
/* Reads their certificates again, for new connections. A bad file is logged and changes nothing for those that it belongs to. Of a node with TLS. */
void node_reload(struct node *node);
/* Joins the threads and frees all. */
void node_close(struct node *node);

/* What the operations port says. */
bool node_all_ready(const struct node *node);

static inline uint32_t node_core_of_partition(const struct node *node, uint32_t partition) { return partition % node->core_count; }
/* SLOT_META: core 0. */
static inline uint32_t node_core_of_slot(const struct node *node, uint16_t slot) {
    if (slot == SLOT_META) return 0;
    return node_core_of_partition(node, partition_of_slot(slot, node->partition_count));
}
/* It can't go on: the process ends with this text, at once. Any core's thread. */
void node_fail(struct core *core, const char *why);
static inline bool node_draining(const struct node *node) { return __atomic_load_n(&node->draining, __ATOMIC_RELAXED); }

#endif
