/* One TCP connection of a client: socket, buffers, timers. What the bytes mean is h2's. All calls on the core's thread.
 *
 * Bytes cross at two places, conn_input and conn_output in conn.c: TLS (proto/tls.h) sits there and nowhere else.
 * A connection is freed when its last ring request has completed; its calls that wait for an op live on without it. */
#ifndef SERVER_CONN_H
#define SERVER_CONN_H

#include "server/call.h"
#include "server/h2.h"

struct core;
struct core_hooks;
struct sockaddr_storage;
struct door;
struct tls_source;

struct conn_limits {
    uint32_t connections_max;     /* of this core; the door has one for all */
    uint64_t first_request_ns;    /* from accept to the first whole header block */
    uint64_t idle_ns;             /* a connection without calls, whatever else comes */
    uint64_t keepalive_ns;        /* a connection with calls and without bytes is pinged after this, and closed after as much again */
    uint64_t drain_notice_ns;     /* between the two GOAWAYs */
    struct door *door;            /* addresses, with all cores; NULL: everybody is welcome */
    struct tls_source *tls;       /* NULL: cleartext */
    uint64_t handshake_ns;        /* from accept to the end of TLS's handshake */
    uint32_t handshakes_max;      /* of this core at once: half-open ones cost CPU and memory, and nobody has shown who he is */
    struct h2_limits h2;
    struct call_limits call;
};
extern const struct conn_limits conn_limits_default;

/* What core and node call (core.h): limits from core->node, then the functions below. */
extern const struct core_hooks conn_hooks;
bool conn_open(struct core *core) MUST_USE;
void conn_close_and_fini(struct core *core);

/* The core's pools. false: no memory. core->connections and core->flush are initialised. */
bool conn_open_with(struct core *core, const struct conn_limits *limits) MUST_USE;
/* The fd is taken over, and closed at once when a limit is reached. */
void conn_accept(struct core *core, int fd, const struct sockaddr_storage *peer);
/* End of each cycle: what was answered in it leaves, one send per connection. */
void conn_flush_all(struct core *core);
/* GOAWAY on all connections; each closes when its calls are done. core->connection_count and calls_live reach 0. */
void conn_drain(struct core *core);
/* Closes all now; they are gone when their ring requests are home (connection_count 0). */
void conn_close_all(struct core *core);
/* The pools. No connection and no call is left. */
void conn_fini(struct core *core);
/* Bytes of the core's connections: state, nghttp2's heap, output buffers in use and idle. */
size_t conn_memory_bytes(const struct core *core);

#endif
