/* The connections of a handle: to one server, or to a cluster's nodes, whose topology it watches (routes.h decides where a call goes; this opens channels, keeps the watch, and learns from
 * what became of calls).
 *
 * A seat is one channel, to one node; a call is on a seat from fleet_seat_take to fleet_seat_leave. With one server, a seat whose connection was lost or could not be made is closed for a random
 * pause that doubles from 20 ms to 2 s; with several the node is out (routes.h), all of its seats together. All on the thread that turns the loop. */
#ifndef CLIENT_FLEET_H
#define CLIENT_FLEET_H

#include "client/channel.h"
#include "client/routes.h"

struct fleet;
struct fleet_seat {
    struct channel *channel;
    uint32_t in_flight;
    /* private */
    int node;
    unsigned failures;        /* in a row */
    uint64_t closed_until_ns; /* 0: open */
};

enum { FLEET_SEATS_MAX = 64 };
struct fleet_options {
    uint32_t seats;           /* of each node; FLEET_SEATS_MAX at most */
    bool routed;              /* to a cluster's nodes, though one address alone is named; several mean it */
    bool unwatched;           /* the nodes that are named are all there are: for streams, which any node serves */
    struct tls_source *tls;   /* borrowed; NULL: cleartext */
    const char *server_name;  /* who certificates must name; NULL: the address of each node */
};

/* targets: as channel_open's, several with commas between. NULL with errno EINVAL or ENOMEM. */
struct fleet *fleet_open(struct channel_loop *l, const char *targets, const struct fleet_options *o);
void fleet_close(struct fleet *f); /* its channels; calls under way end with CANCELLED in the loop's next turn */
void fleet_free(struct fleet *f);  /* closed, and no callback of a call is left to run; NULL is fine */
bool fleet_routed(const struct fleet *f);

/* For a call of this slot (ROUTES_SLOT_NONE: any). NULL: none is open, *at_ns is when the first may be. */
struct fleet_seat *fleet_pick(struct fleet *f, int slot, uint64_t now, uint64_t *at_ns);
/* The same, and of those that are closed the one that opens first: for callers that have waited already. NULL: no memory. */
struct fleet_seat *fleet_pick_any(struct fleet *f, int slot);
void fleet_seat_take(struct fleet *f, struct fleet_seat *s);
/* drains: the server said so. answer NULL: the call was not made. */
void fleet_seat_leave(struct fleet *f, struct fleet_seat *s, int slot, const struct channel_answer *answer, bool drains);
/* A call that failed by its node, not by itself, can go to another one now. */
bool fleet_elsewhere(const struct fleet *f, const struct channel_answer *answer, bool drains);
bool fleet_was_connected(const struct fleet *f);
/* A call that waits for its answer since begun_ns waits at the wrong node: it is a second or longer, and another node, which is well, leads the slot by now. So it is at a leader that was deposed
 * and can't know by whom. Cancel it, and let fleet_astray say what its end means. To be asked every FLEET_LOOK_NS. */
#define FLEET_LOOK_NS (250 * NS_PER_MS)
bool fleet_is_astray(const struct fleet *f, const struct fleet_seat *s, int slot, uint64_t begun_ns, uint64_t now);
struct channel_answer fleet_astray(const struct channel_answer *cancelled);

struct fleet_stats {
    uint64_t forwarded; /* answers that came by way of another node */
    uint64_t ejections; /* how often a node was left alone for a while */
    int64_t epoch;      /* of the topology; 0: none is known */
};
struct fleet_stats fleet_stats(const struct fleet *f);

#endif
