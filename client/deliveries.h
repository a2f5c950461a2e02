/* Events that a consumer was given and has not settled: which of them may run, and who runs them.
 *
 *   given --> WAITING behind its key's earlier ones --> RUNNABLE --> RUNNING (a worker, or whoever asks with deliveries_run_one()) --> FINISHED --> taken by the owner
 *                 '------- dropped -------'----------------'
 *
 * Owner's thread: all but the workers' own moves and orderdb_delivery_done(), which may come from any thread. The mutex guards the two lists that they share.
 * Fences: a nack makes the server take back what it gave behind the event, but some of that may still be on its way to here, and must not run in front of the event itself. So
 * for a while (or until the event comes again) later events of the key are void.
 *
 * A key has one delivery that is RUNNABLE, RUNNING or FINISHED at a time, also across connections: an event that comes again waits for its first handler. */
#ifndef CLIENT_DELIVERIES_H
#define CLIENT_DELIVERIES_H

#include <pthread.h>
#include <stdatomic.h>

#include "client/orderdb.h"
#include "proto/base/list.h"

enum delivery_state { DELIVERY_WAITING, DELIVERY_RUNNABLE, DELIVERY_RUNNING, DELIVERY_FINISHED };

struct delivery_key;
struct deliveries;
struct orderdb_delivery {
    struct deliveries *owner;
    struct delivery_key *key;
    Orderdb__V1__ChangeEvent *event;
    enum delivery_state state;
    uint64_t generation;           /* of the connection that brought it */
    struct list lease;             /* the consumer's, by extend_ns */
    uint64_t given_ns, extend_ns;
    enum orderdb_verdict verdict;
    uint32_t delay_ms;
    char *error; /* NULL: none */
    /* private */
    struct list in_key, in_queue;
};

struct deliveries {
    atomic_bool stop; /* set by anybody, a signal handler too: no handler begins any more. Whoever sets it writes to wake_fd */
    uint32_t count; /* all that are here */
    uint32_t fence_count;
    /* private */
    orderdb_handler *handler;
    void *user;
    struct list fences;   /* of keys, by until_ns */
    struct list *buckets; /* of keys, bucket_count of them, a power of two */
    uint32_t bucket_count, count_max;
    int wake_fd; /* an eventfd: something has finished */
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct list runnable, finished; /* guarded, as is all below */
    uint32_t running, runnable_count;
    bool quit;
    pthread_t *threads;
    uint32_t thread_count;
};

/* threads 0: the owner runs handlers by deliveries_run_one(). false: no memory or no threads; nothing is left. */
bool deliveries_init(struct deliveries *d, uint32_t count_max, uint32_t threads, orderdb_handler *handler, void *user) MUST_USE;
void deliveries_fini(struct deliveries *d); /* waits for workers' handlers; what is left is freed, settled or not */

/* Takes the event over. NULL: no memory, and the event stays the caller's. */
struct orderdb_delivery *deliveries_add(struct deliveries *d, Orderdb__V1__ChangeEvent *event, uint64_t key, uint64_t generation);
struct orderdb_delivery *deliveries_take_finished(struct deliveries *d); /* NULL: none; free it with deliveries_remove() */
void deliveries_remove(struct deliveries *d, struct orderdb_delivery *x); /* a finished one; its key's next one becomes runnable */
/* Those of x's key and generation that wait behind it are dropped, and those that come until until_ns are void. Bounded: the oldest fence goes when there are more than count_max. */
void deliveries_fence(struct deliveries *d, const struct orderdb_delivery *x, uint64_t until_ns);
/* Whether this one is void. The fenced event itself, come again, takes its fence away. */
bool deliveries_are_fenced(struct deliveries *d, const Orderdb__V1__ChangeEvent *event, uint64_t key);
void deliveries_end_fences(struct deliveries *d, uint64_t now); /* those that are over; UINT64_MAX: all */
void deliveries_drop_unstarted(struct deliveries *d); /* all that do not run yet */
bool deliveries_run_one(struct deliveries *d);        /* false: none is runnable */
bool deliveries_are_idle(struct deliveries *d);       /* nothing runs, can run, or has finished and was not taken */
uint32_t deliveries_running(struct deliveries *d);    /* handlers that were begun and not finished; and finished ones not taken */

#endif
