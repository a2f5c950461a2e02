/* h2_world.h with sockets: connections (server/conn.h) on a real ring and socket pairs. Time is a number of the test's; only the kernel's completions are waited for. */
#ifndef TESTS_LIB_CONN_WORLD_H
#define TESTS_LIB_CONN_WORLD_H

#include "tests/lib/h2_world.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server/conn.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

static uint64_t mono_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* The world with a ring (one that is there already stays) and without connections. false: no memory. */
static bool conn_world_open(struct world *w, const struct conn_limits *limits) {
    struct ring *ring = w->core.ring;
    memset(w, 0, offsetof(struct world, answers));
    world = w;
    list_init(&w->away);
    handlers_default();
    w->core.ring = ring;
    w->core.now_ns = 1000 * NS_PER_S;
    list_init(&w->core.connections);
    list_init(&w->core.flush);
    char error[256];
    const struct ring_config config = {.entries = 64, .buffer_count = 16, .buffer_bytes = 4096};
    if (!ring && ring_open(&w->core.ring, &config, error)) return w->core.ring = NULL, false;
    return conn_open_with(&w->core, limits);
}

/* One turn of a core, which sleeps so long at most. */
static void conn_world_turn(struct world *w, uint64_t wait_ns) {
    ring_wait(w->core.ring, mono_ns() + wait_ns);
    timers_run(&w->core.timers, w->core.now_ns);
    conn_flush_all(&w->core);
}

/* A connection from this address; the client's end, which does not block. */
static int conn_world_connect(struct world *w, uint32_t address) {
    int fds[2];
    check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    struct sockaddr_storage peer = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&peer;
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(address);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    conn_accept(&w->core, fds[0], &peer);
    return fds[1];
}

/* Closes all; ends with no connection, no call, and every buffer home (conn_fini checks). The ring stays. */
static void conn_world_close(struct world *w) {
    if (w->core.conns) {
        conn_close_all(&w->core);
        for (unsigned i = 0; i < 2000 && w->core.connection_count; i++) conn_world_turn(w, 2 * NS_PER_MS);
        check(w->core.connection_count == 0);
        while (!list_empty(&w->away)) world_home(w);
        check(w->core.calls_live == 0);
        check(calls_memory_bytes(w->core.calls) == calls_memory_idle_bytes(w->core.calls));
        conn_fini(&w->core);
    }
    if (w->client) nghttp2_session_del(w->client);
    for (unsigned i = 0; i < w->answer_count; i++) free(w->answers[i].body);
    check(timers_next_ns(&w->core.timers) == UINT64_MAX);
    timers_fini(&w->core.timers);
    world = NULL;
}

#pragma GCC diagnostic pop
#endif
