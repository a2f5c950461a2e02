/* One core: a thread with its ring, its connections, its engine. The duty cycle: wait -> completions (bytes in, syncs, mail) -> timers ->
 * engine_tick -> mail out -> replies out. Nothing here is shared; cores talk by mail. */
#ifndef SERVER_CORE_H
#define SERVER_CORE_H

#include "engine/engine.h"
#include "server/metrics.h"
#include "server/ring.h"
#include "server/timer.h"

struct node;
struct mail;
struct readers;

struct core {
    uint32_t id;
    struct node *node;     /* shared, read-only after start but for its atomics */
    struct ring *ring;
    struct engine *engine;
    struct mail *mail;
    struct timers timers;
    struct metrics metrics; /* this core's counters; read by others through atomics */
    uint64_t now_ns;        /* monotonic, read once a cycle */
    struct conns *conns;     /* conn.h: limits, pools */
    struct calls *calls;     /* call.h: pool of calls, request memory */
    struct list connections; /* conn.h */
    uint32_t connection_count;
    uint32_t calls_live;
    bool draining;
    struct list flush;      /* connections with something to send at the end of the cycle */
};

/* The core that this thread runs. */
extern _Thread_local struct core *core_self;

#endif
