/* A program for each peer: bench/gen with a driver of that peer's own client library. `make bench` builds them, where the libraries are; nothing else needs them. */
#ifndef BENCH_PEERS_PEER_H
#define BENCH_PEERS_PEER_H

#include "bench/gen/drive.h"

enum { PEER_ORDERS_LISTED = 20 };

/* What a peer's driver is: told in words, opened on a unix socket, and closed. */
struct peer {
    struct driver driver;
    uint64_t inflight_max; /* calls on a connection: 1 where a connection does one thing at a time */
    bool (*open)(const struct drive_options *o, const char *socket);
    void (*close)(void);
};
extern const struct peer peer;

_Noreturn void peer_panic(const char *what, const char *why);
/* Of an answer's rows: NULL, or what is wrong. GET: the order, three items, at least one entry of history. */
const char *peer_rows_check(const struct operation *op, uint64_t rows);
void peer_key(char out[40], const struct drive_options *o, const struct operation *op);

#endif
