#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

enum status address_parse(struct address *a, const char *text, char error[256]) {
    char host[256];
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    if (!colon || !colon[1] || n >= sizeof host) return snprintf(error, 256, "address '%.100s' is not HOST:PORT", text), STATUS_FIELD_INVALID;
    char *end;
    if (strtoul(colon + 1, &end, 10) > 65535 || *end || colon[1] < '0' || colon[1] > '9')
        return snprintf(error, 256, "address '%.100s': the port is a number, 0 to 65535", text), STATUS_FIELD_INVALID;
    memcpy(host, text, n);
    host[n] = 0;
    bool bracketed = n >= 2 && host[0] == '[' && host[n - 1] == ']';
    if (!bracketed && memchr(host, ':', n)) return snprintf(error, 256, "address '%.100s': put an IPv6 address in brackets, [::1]:7400", text), STATUS_FIELD_INVALID;
    if (bracketed) memmove(host, host + 1, n - 2), host[n - 2] = 0;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    int rc = getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, &found);
    if (rc) return snprintf(error, 256, "address '%.100s': %s", text, gai_strerror(rc)), STATUS_FIELD_INVALID;
    *a = (struct address){.len = found->ai_addrlen};
    memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return STATUS_OK;
}

static uint16_t *port_of(struct address *a) {
    return a->sa.ss_family == AF_INET6 ? &((struct sockaddr_in6 *)&a->sa)->sin6_port : &((struct sockaddr_in *)&a->sa)->sin_port;
}

void address_format(const struct sockaddr_storage *sa, char out[ADDRESS_TEXT_BYTES]) {
    char ip[INET6_ADDRSTRLEN] = "?";
    if (sa->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
        inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip);
        snprintf(out, ADDRESS_TEXT_BYTES, "[%s]:%u", ip, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
        inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip);
        snprintf(out, ADDRESS_TEXT_BYTES, "%s:%u", ip, ntohs(in->sin_port));
    }
}

bool address_is_loopback(const struct address *a) {
    if (a->sa.ss_family == AF_INET6) return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->sa)->sin6_addr);
    return (ntohl(((const struct sockaddr_in *)&a->sa)->sin_addr.s_addr) >> 24) == 127;
}

bool address_is_everywhere(const struct address *a) {
    if (a->sa.ss_family == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&a->sa)->sin6_addr);
    return ((const struct sockaddr_in *)&a->sa)->sin_addr.s_addr == htonl(INADDR_ANY);
}

bool address_is_definite(const struct address *a) {
    struct address copy = *a;
    return !address_is_everywhere(a) && *port_of(&copy) != 0;
}

static const char in_use[] = "is in use";

static enum status refuse(const struct address *a, const char *what, int err, char error[256]) {
    char text[ADDRESS_TEXT_BYTES];
    address_format(&a->sa, text);
    if (err == EADDRINUSE) snprintf(error, 256, "address %s %s", text, in_use);
    else snprintf(error, 256, "address %s: %s: %s", text, what, strerror(err));
    return STATUS_IO_FAILED;
}

static enum status bind_one(struct address *a, bool share, int *out, char error[256]) {
    int on = 1, fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return refuse(a, "socket", errno, error);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (share) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a->sa, a->len) != 0) {
        int err = errno;
        close(fd);
        return refuse(a, "bind", err, error);
    }
    *out = fd;
    return STATUS_OK;
}

/* SO_REUSEPORT would let a second server of the same user share our port in silence: ask once without it, and mean it (listen). */
static enum status probe(struct address *a, char error[256]) {
    int fd = -1;
    enum status st = bind_one(a, false, &fd, error);
    if (st == STATUS_OK && listen(fd, 1) != 0) st = refuse(a, "listen", errno, error);
    if (fd >= 0) close(fd);
    return st;
}

enum status listen_bind(struct address *a, int *fds, unsigned count, uint32_t patience_ms, char error[256]) {
    enum { STEP_MS = 10 };
    enum status st = STATUS_OK;
    for (unsigned i = 0; i < count; i++) fds[i] = -1;
    if (*port_of(a) != 0) {
        st = probe(a, error);
        for (uint32_t waited = 0; st != STATUS_OK && waited < patience_ms && strstr(error, in_use); waited += STEP_MS) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(STEP_MS * NS_PER_MS)}, NULL);
            st = probe(a, error);
        }
    }
    for (unsigned i = 0; i < count && st == STATUS_OK; i++) {
        st = bind_one(a, count > 1, &fds[i], error);
        a->len = sizeof a->sa;
        if (st == STATUS_OK && getsockname(fds[i], (struct sockaddr *)&a->sa, &a->len) != 0) st = refuse(a, "getsockname", errno, error);
    }
    for (unsigned i = 0; i < count && st != STATUS_OK; i++)
        if (fds[i] >= 0) close(fds[i]), fds[i] = -1;
    return st;
}

enum status listen_begin(int fd, char error[256]) {
    if (listen(fd, BACKLOG) == 0) return STATUS_OK;
    int err = errno;
    struct address a = {.len = sizeof a.sa};
    (void)getsockname(fd, (struct sockaddr *)&a.sa, &a.len);
    return refuse(&a, "listen", err, error);
}
