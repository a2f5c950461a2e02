/* Addresses and listening sockets. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <sys/socket.h>

#include "proto/status.h"

struct address {
    struct sockaddr_storage sa;
    socklen_t len;
};
enum { ADDRESS_TEXT_BYTES = 64 };

/* "127.0.0.1:7400", "[::1]:7400", "localhost:7400", ":7400" (all interfaces). */
enum status address_parse(struct address *a, const char *text, char error[256]) MUST_USE;
void address_format(const struct sockaddr_storage *sa, char out[ADDRESS_TEXT_BYTES]);
bool address_is_loopback(const struct address *a);
bool address_is_everywhere(const struct address *a); /* all interfaces */
bool address_is_definite(const struct address *a); /* neither all interfaces nor a port that the kernel is to choose */

/* Binds `count` sockets to one address (SO_REUSEPORT when more than one: the kernel spreads connections over them). Port 0: the kernel chooses, once
 * for all, and *a says which. A port that somebody else has is refused by name, sharing included; not before patience_ms, for the kernel lets go of a killed server's sockets a moment after
 * the process (its ring is torn down in the background). fds are not listening yet. */
enum status listen_bind(struct address *a, int *fds, unsigned count, uint32_t patience_ms, char error[256]) MUST_USE;
enum status listen_begin(int fd, char error[256]) MUST_USE;

#endif
