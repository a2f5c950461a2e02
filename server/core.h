/* One core: a thread with its ring, its connections, its engine. The duty cycle: wait -> completions (bytes in, syncs, mail) -> timers ->
 * engine_tick -> mail out -> replies out. Nothing here is shared; cores talk by mail. */
#ifndef SERVER_CORE_H
#define SERVER_CORE_H

#include <pthread.h>

#include "engine/engine.h"
#include "server/metrics.h"
#include "server/ring.h"
#include "server/timer.h"

struct node;
struct mail;
struct readers;
struct host;
struct limits;
struct peers;
struct forward;
struct core;
struct sockaddr_storage;
struct resource_list;

/* What the connection layer lends the core (main.c ties them; tests use their own). All on the core's thread. */
struct core_hooks {
    bool (*open)(struct core *core);  /* its pools; false: no memory */
    void (*accept)(struct core *core, int fd, const struct sockaddr_storage *peer);
    void (*flush)(struct core *core); /* end of each cycle */
    void (*drain)(struct core *core); /* no new calls; connection_count and calls_live reach 0 */
    void (*cut)(struct core *core);   /* drain took too long: connections are closed as they are */
    void (*resources)(struct core *core, const struct resource_list *list); /* resources.h; may be NULL */
    void (*close)(struct core *core); /* frees everything, connections that are left included */
};

/* Where ops go instead of straight into this core's engine: to other nodes (forward.h). */
struct op_route {
    void (*submit)(struct core *core, struct op *op);
    bool (*again)(struct core *core, struct op *op); /* it is home with NOT_LEADER; true: it was taken, and comes home again */
};

struct core {
    uint32_t id;
    struct node *node;     /* shared, read-only after start but for its atomics */
    struct ring *ring;
    int ring_fd;           /* where others send messages */
    struct engine *engine;
    struct mail *mail;
    struct readers *readers;
    struct host *host;     /* the engine's world */
    struct forward *forward; /* ops of partitions that others lead; as peers */
    const struct op_route *route; /* NULL: to the engine */
    struct peers *peers;   /* other nodes; NULL: there are none */
    struct balance *balance; /* leads that should be elsewhere; as peers */
    struct leads_core *leads; /* who leads what: leads.h */
    struct timers timers;
    struct metrics metrics; /* this core's counters; read by others through atomics */
    uint64_t now_ns;        /* monotonic, read once a cycle */
    uint64_t shed_count, shed_count_seen; /* calls that shed_answer refused; as of the last turn */
    int64_t refusals_left;  /* how many more may be refused, in billionths; below 0: not now (core.c) */
    uint64_t refusals_ns;   /* when that was last added to */
    uint64_t decoded_count, decoded_count_seen; /* writes that came home refused as OVERLOADED, after they were decoded; as of the last turn */
    int64_t decoded_left;   /* how many more may be, likewise; below 0: the door refuses instead */
    uint64_t turn_ns;       /* what the last one took, without waiting */
    struct conns *conns;     /* conn.h: limits, pools */
    struct calls *calls;     /* call.h: pool of calls, request memory */
    struct limits *limits;   /* limits.h: rate limits; NULL: none */
    struct list connections; /* conn.h */
    uint32_t connection_count;
    uint32_t calls_live;
    uint32_t streams_live; /* of calls_live: change streams, which stay */
    uint32_t topology_watchers; /* of calls_live, too */
    bool draining;
    struct list flush;      /* connections with something to send at the end of the cycle */
    void *conn;             /* conn.c's own for this core */
    const struct core_hooks *hooks;
    void (*on_cycle)(struct core *core); /* node.c's: start and drain move on here */
    bool stop;
    uint64_t beat_ns;       /* relaxed atomic: when the loop last turned, for /healthz */
    uint64_t write_limit, write_delay_ns, write_rate, write_closed; /* relaxed atomics: what this core's engine says of its writes (engine_write_queue) */
    bool writes_closed;            /* by all cores' engines (engine_queue.closed), read once a turn */
    uint64_t write_limit_all;      /* of all cores together, read once a turn; 0: none */
    uint64_t write_delay_least_ns; /* the least of all cores */
    uint64_t write_target_ns;      /* node.limits.queue_target_ns */
    uint32_t streams_told;         /* what a connection may have (throttle.h), read once a turn; 0: what it began with */
    bool ready;             /* relaxed atomic: all engines are ready, clients are let in */
    pthread_t thread;
    void *node_state;       /* node.c's own for this core */
};

/* The core that this thread runs. */
extern _Thread_local struct core *core_self;

/* Memory alone; core_open opens ring and mail on the core's own thread (the kernel ties a ring to it). */
struct core *core_new(struct node *node, uint32_t id);
enum status core_open(struct core *core, const struct ring_config *config, char error[256]) MUST_USE;
/* The duty cycle until core->stop. */
void core_run(struct core *core);
void core_close(struct core *core);
void core_free(struct core *core);

#endif
