/* Blocks for tables, and the next pages of hot rows and of the filter of request ids, are made ready by a thread of its own. A fresh huge page is zeroed at its first touch, 2.4 to 8 ms where memory is virtual, and in a
 * server that has just started each one is fresh: on the core's thread every caller would wait for that (engine/row_tree.h). Once tables have given blocks back and the rings have gone round there is nothing to do here.
 *
 *   a tree takes the last but so many --low--> the thread makes blocks until there are READY_BLOCKS again
 *   a ring comes near a page that nobody has written --warm--> the thread has the kernel make it */
#include <sys/resource.h>
#include <unistd.h>

#include "engine/store_rocks_local.h"
#include "proto/base/mem.h"

enum { READY_BLOCKS = 8 /* 16 MiB: a tenth of a second at full speed */, SPARES_NICE = 10 /* the tree that comes too early makes its block itself, as it did before */ };

static void *spares_main(void *ctx) {
    struct store_shared *shared = ctx;
    struct row_spares *s = &shared->spares;
    (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), SPARES_NICE); /* Linux: of this thread alone */
    pthread_mutex_lock(&s->lock);
    while (!shared->spares_stop) {
        if (shared->warm_count) {
            struct warm_piece first = shared->warm[0];
            memmove(shared->warm, shared->warm + 1, --shared->warm_count * sizeof first);
            pthread_mutex_unlock(&s->lock);
            mem_populate(first.memory, first.bytes);
            pthread_mutex_lock(&s->lock);
            continue;
        }
        if (!row_spares_lacking(s)) {
            pthread_cond_wait(&shared->spares_low, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        bool added = row_spares_add(s);
        pthread_mutex_lock(&s->lock);
        if (!added && row_spares_lacking(s) && !shared->warm_count && !shared->spares_stop) pthread_cond_wait(&shared->spares_low, &s->lock); /* no memory: the tree that wants one finds out */
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* The thread looks under the lock before it waits, so nothing is missed. */
static void on_low(void *ctx) { pthread_cond_signal(&((struct store_shared *)ctx)->spares_low); }

void spares_warm(struct store_shared *shared, void *memory, size_t bytes) {
    pthread_mutex_lock(&shared->spares.lock);
    if (shared->warm_count < WARM_PIECES_MAX) shared->warm[shared->warm_count++] = (struct warm_piece){memory, bytes};
    pthread_cond_signal(&shared->spares_low);
    pthread_mutex_unlock(&shared->spares.lock);
}

bool spares_start(struct store_shared *shared) {
    row_spares_init(&shared->spares);
    check(pthread_cond_init(&shared->spares_low, NULL) == 0);
    row_spares_make_ready(&shared->spares, READY_BLOCKS, on_low, shared);
    return shared->spares_up = pthread_create(&shared->spares_thread, NULL, spares_main, shared) == 0;
}

void spares_stop(struct store_shared *shared) {
    pthread_mutex_lock(&shared->spares.lock);
    shared->spares_stop = true;
    pthread_cond_signal(&shared->spares_low);
    pthread_mutex_unlock(&shared->spares.lock);
    if (shared->spares_up) pthread_join(shared->spares_thread, NULL);
    pthread_cond_destroy(&shared->spares_low);
    row_spares_fini(&shared->spares);
}
