/* Who may come in: connections and handshakes by address, for all cores. The only state of clients that cores share; its mutex is taken when a connection comes, ends its handshake and goes.
 *
 * An address is an IPv4 address or an IPv6 /64, which is what one host is given. Rates are buckets that hold five seconds' worth, so that the clients of a server that was restarted all get in. */
#ifndef SERVER_DOOR_H
#define SERVER_DOOR_H

#include "server/cuts.h"

struct sockaddr_storage;
struct door;
struct visitor; /* an address with connections, or that had some a moment ago */

struct door_limits {
    uint32_t connections_max, address_connections_max, address_handshakes_max;
    uint32_t per_s, address_per_s; /* new connections */
    uint64_t penalty_ns_max;       /* 0: no penalties */
};
struct door *door_new(const struct door_limits *limits); /* NULL: no memory */
void door_free(struct door *d);                          /* nobody is in */

/* One more connection of this peer: *out is its address, until door_leave. Else why not. */
enum cut door_enter(struct door *d, const struct sockaddr_storage *peer, bool handshake, uint64_t now_ns, struct visitor **out) MUST_USE;
void door_handshake_over(struct door *d, struct visitor *v);
/* Penalties. A connection of this address was cut off for what costs us CPU (door_strike, before it leaves); it has had a call served (door_working), until it leaves or was cut off. After
 * three strikes, when there are more of them than of connections that worked, new connections of the address are refused: for a second (a handshake costs as much as dozens of calls), and twice as long with each further strike, up to
 * penalty_ns_max; for 250 ms, and a second at most, when the address has had calls served lately, and while it has a working connection it is let in once a second all the same: who shares it with an attacker is slowed
 * down, not locked out. Both counts fade by half every ten seconds. */
void door_strike(struct door *d, struct visitor *v, uint64_t now_ns);
void door_working(struct door *d, struct visitor *v, bool on, uint64_t now_ns);
void door_leave(struct door *d, struct visitor *v, uint64_t now_ns);
uint32_t door_address_count(struct door *d); /* remembered now */

#endif
