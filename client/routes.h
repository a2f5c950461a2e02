/* Which node a call goes to, for a client of several. Nodes are the seeds that the caller names and those that topologies tell; who leads a slot is learnt from topologies, and from answers
 * that came by way of another node. No sockets and no clock: the caller says what happened and what time it is.
 *
 * A call goes to the leader of its slot, if that is known and well; else to whoever is well and has the fewest calls, which passes it on; seeds that no topology names come last.
 *
 * Well is a node that is not out. One whose connection was lost or could not be made, or that says that it drains, is out for a random pause, 50 to 100 ms, twice as long with each failure
 * in a row, up to 10 s; after it one call alone tries the node, until it has answered. So a node that is dead costs one attempt in ten seconds, and the others take what it leads. */
#ifndef CLIENT_ROUTES_H
#define CLIENT_ROUTES_H

#include "client/orderdb.h"
#include "proto/route.h"

enum { ROUTES_NODES_MAX = 32, ROUTES_SEEDS_MAX = 16, ROUTES_PARTITIONS_MAX = 1024, ROUTES_ADDRESS_BYTES = 264, ROUTES_SLOT_NONE = -1 };

struct routes_node {
    char address[ROUTES_ADDRESS_BYTES]; /* "": this place is free */
    bool seed, listed;                  /* listed: the newest topology names it */
    uint64_t node_id;                   /* 0: not known, a seed */
    uint32_t in_flight;                 /* the caller's to count */
    /* private */
    bool rests; /* it drains */
    unsigned failures;
    uint64_t out_until_ns;
};

struct routes {
    struct routes_node nodes[ROUTES_NODES_MAX]; /* none moves; the place of one that is neither seed nor listed is free once nothing is in flight */
    uint32_t count;                             /* places that were ever used */
    int64_t epoch;                              /* of the newest topology; 0: none came yet */
    uint64_t ejections;
    /* private */
    uint32_t turn;
    uint16_t partition_of[SLOT_COUNT]; /* and one; 0: not known */
    struct {
        uint64_t leader;
        int64_t term;
    } partitions[ROUTES_PARTITIONS_MAX];
};

/* Room for no more seeds than ROUTES_SEEDS_MAX; twice the same address is one. turn: where ties begin, a random number, so that clients spread. */
void routes_init(struct routes *r, uint32_t turn);
bool routes_add_seed(struct routes *r, const char *address) MUST_USE; /* false: too many, or too long */
/* All of it may be wrong: what is out of range, or an address that names no host, is as if it were left out. */
void routes_learn(struct routes *r, const Orderdb__V1__Topology *t);
/* The node led the slot a moment ago: it was asked by the one that the call went to. */
void routes_hint(struct routes *r, int slot, uint64_t node_id);
/* slot: ROUTES_SLOT_NONE: any node will do. -1: nobody is well, and *at_ns is when the first of them may be tried. */
int routes_pick(struct routes *r, int slot, uint64_t now, uint64_t *at_ns);
bool routes_is_well(const struct routes *r, int at, uint64_t now);
bool routes_any_well(const struct routes *r, uint64_t now); /* a pick would find somebody */
int routes_leader(const struct routes *r, int slot); /* its place; -1: not known */
void routes_failed(struct routes *r, int at, uint64_t now);
void routes_answered(struct routes *r, int at);

/* The slot that a request of the contract belongs to, as wire bytes; of a batch that of its first one. ROUTES_SLOT_NONE: it has none, or can't be read. */
int routes_slot_of(const char *path, struct slice request);

#endif
