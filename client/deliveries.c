#include "client/deliveries.h"

#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/mem.h"

enum { ERROR_BYTES_MAX = 1024, BUCKETS_MIN = 64, BUCKETS_MAX = 1 << 16, WORKER_STACK_BYTES = 1 << 20 };

struct delivery_key {
    struct list node;
    uint64_t hash; /* two keys of one hash wait for one another: harmless, and rarer than anything else */
    struct list queue;
    struct list fence;      /* in deliveries.fences */
    uint64_t fence_until_ns; /* 0: there is none */
    int32_t fence_slot;
    int64_t fence_seq;
};

/* ---- any thread */

const Orderdb__V1__ChangeEvent *orderdb_delivery_event(const struct orderdb_delivery *x) { return x->event; }

void orderdb_delivery_note(struct orderdb_delivery *x, uint32_t delay_ms, const char *error) {
    x->delay_ms = delay_ms;
    mem_free(x->error);
    x->error = NULL;
    if (!error) return;
    size_t n = strnlen(error, ERROR_BYTES_MAX);
    while (n == ERROR_BYTES_MAX && ((uint8_t)error[n] & 0xc0) == 0x80) n--; /* not within a character: it must stay UTF-8 */
    x->error = mem_alloc(n + 1); /* without memory the server is told no reason */
    if (x->error) memcpy(x->error, error, n), x->error[n] = 0;
}

void orderdb_delivery_done(struct orderdb_delivery *x, enum orderdb_verdict verdict) {
    struct deliveries *d = x->owner;
    check(verdict != ORDERDB_LATER);
    pthread_mutex_lock(&d->mutex);
    check(x->state == DELIVERY_RUNNING);
    x->state = DELIVERY_FINISHED;
    x->verdict = verdict;
    list_push_back(&d->finished, &x->in_queue);
    /* Within the mutex: the owner may end as soon as it has taken the last one. */
    check(eventfd_write(d->wake_fd, 1) == 0 || errno == EAGAIN);
    pthread_mutex_unlock(&d->mutex);
}

/* With the mutex; it is given back for the time of the handler. */
static void run_first(struct deliveries *d) {
    struct orderdb_delivery *x = list_entry(list_pop_front(&d->runnable), struct orderdb_delivery, in_queue);
    x->state = DELIVERY_RUNNING;
    d->runnable_count--, d->running++;
    pthread_mutex_unlock(&d->mutex);
    enum orderdb_verdict verdict = d->handler(d->user, x);
    if (verdict != ORDERDB_LATER) orderdb_delivery_done(x, verdict); /* else it may be gone already */
    pthread_mutex_lock(&d->mutex);
}

static void *worker_run(void *arg) {
    struct deliveries *d = arg;
    pthread_mutex_lock(&d->mutex);
    while (!d->quit) {
        if (list_empty(&d->runnable) || atomic_load(&d->stop)) pthread_cond_wait(&d->work, &d->mutex);
        else run_first(d);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

/* ---- the owner */

/* Signals are the application's threads' business. */
static bool workers_start(struct deliveries *d, uint32_t threads) {
    sigset_t all, before;
    pthread_attr_t attr;
    if (threads == 0) return true;
    d->threads = mem_zalloc(threads * sizeof(*d->threads));
    if (!d->threads || pthread_attr_init(&attr)) return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_attr_setstacksize(&attr, WORKER_STACK_BYTES) == 0;
    for (; ok && d->thread_count < threads; d->thread_count += ok) ok = pthread_create(&d->threads[d->thread_count], &attr, worker_run, d) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return ok;
}

bool deliveries_init(struct deliveries *d, uint32_t count_max, uint32_t threads, orderdb_handler *handler, void *user) {
    *d = (struct deliveries){.handler = handler, .user = user, .bucket_count = BUCKETS_MIN};
    list_init(&d->runnable), list_init(&d->finished), list_init(&d->fences);
    d->count_max = count_max;
    check(pthread_mutex_init(&d->mutex, NULL) == 0);
    check(pthread_cond_init(&d->work, NULL) == 0);
    while (d->bucket_count < count_max && d->bucket_count < BUCKETS_MAX) d->bucket_count *= 2;
    d->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    d->buckets = mem_alloc(d->bucket_count * sizeof(*d->buckets));
    for (uint32_t i = 0; d->buckets && i < d->bucket_count; i++) list_init(&d->buckets[i]);
    if (d->wake_fd >= 0 && d->buckets && workers_start(d, threads)) return true;
    deliveries_fini(d);
    return false;
}

/* Nothing needs it: it goes. */
static void key_put(struct delivery_key *k) {
    if (!list_empty(&k->queue) || k->fence_until_ns) return;
    list_remove(&k->node);
    mem_free(k);
}

static void delivery_free(struct deliveries *d, struct orderdb_delivery *x) {
    list_remove(&x->in_key), list_remove(&x->in_queue), list_remove(&x->lease);
    key_put(x->key);
    orderdb_message_free(x->event);
    mem_free(x->error);
    mem_free(x);
    d->count--;
}

void deliveries_fini(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    d->quit = true;
    pthread_cond_broadcast(&d->work);
    pthread_mutex_unlock(&d->mutex);
    for (uint32_t i = 0; i < d->thread_count; i++) pthread_join(d->threads[i], NULL);
    mem_free(d->threads);
    deliveries_end_fences(d, UINT64_MAX);
    for (uint32_t i = 0; d->buckets && i < d->bucket_count; i++) {
        while (!list_empty(&d->buckets[i])) {
            struct delivery_key *k = list_entry(d->buckets[i].next, struct delivery_key, node);
            delivery_free(d, list_entry(k->queue.next, struct orderdb_delivery, in_key));
        }
    }
    mem_free(d->buckets);
    if (d->wake_fd >= 0) close(d->wake_fd);
    pthread_mutex_destroy(&d->mutex);
    pthread_cond_destroy(&d->work);
}

static void make_runnable(struct deliveries *d, struct orderdb_delivery *x) {
    pthread_mutex_lock(&d->mutex);
    x->state = DELIVERY_RUNNABLE;
    list_push_back(&d->runnable, &x->in_queue);
    d->runnable_count++;
    pthread_cond_signal(&d->work);
    pthread_mutex_unlock(&d->mutex);
}

static struct delivery_key *key_find(struct deliveries *d, uint64_t hash) {
    struct list *bucket = &d->buckets[hash & (d->bucket_count - 1)];
    list_each(it, bucket) {
        struct delivery_key *k = list_entry(it, struct delivery_key, node);
        if (k->hash == hash) return k;
    }
    return NULL;
}

static struct delivery_key *key_get(struct deliveries *d, uint64_t hash) {
    struct list *bucket = &d->buckets[hash & (d->bucket_count - 1)];
    struct delivery_key *k = key_find(d, hash);
    if (k) return k;
    k = mem_new(struct delivery_key);
    if (!k) return NULL;
    k->hash = hash;
    list_init(&k->queue), list_init(&k->fence);
    list_push_back(bucket, &k->node);
    return k;
}

struct orderdb_delivery *deliveries_add(struct deliveries *d, Orderdb__V1__ChangeEvent *event, uint64_t key, uint64_t generation) {
    struct orderdb_delivery *x = mem_new(struct orderdb_delivery);
    struct delivery_key *k = x ? key_get(d, key) : NULL;
    if (!k) return mem_free(x), NULL;
    x->owner = d, x->key = k, x->event = event, x->generation = generation;
    list_init(&x->in_queue), list_init(&x->lease);
    bool first = list_empty(&k->queue);
    list_push_back(&k->queue, &x->in_key);
    d->count++;
    if (first) make_runnable(d, x);
    return x;
}

struct orderdb_delivery *deliveries_take_finished(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    struct list *it = list_pop_front(&d->finished);
    if (it) d->running--;
    pthread_mutex_unlock(&d->mutex);
    return it ? list_entry(it, struct orderdb_delivery, in_queue) : NULL;
}

void deliveries_remove(struct deliveries *d, struct orderdb_delivery *x) {
    check(x->state == DELIVERY_FINISHED);
    struct list *queue = &x->key->queue;
    check(queue->next == &x->in_key);
    struct orderdb_delivery *next = x->in_key.next == queue ? NULL : list_entry(x->in_key.next, struct orderdb_delivery, in_key);
    delivery_free(d, x);
    if (next) make_runnable(d, next);
}

static void fence_end(struct deliveries *d, struct delivery_key *k) {
    list_remove(&k->fence);
    k->fence_until_ns = 0;
    d->fence_count--;
    key_put(k);
}

void deliveries_end_fences(struct deliveries *d, uint64_t now) {
    while (!list_empty(&d->fences)) {
        struct delivery_key *k = list_entry(d->fences.next, struct delivery_key, fence);
        if (k->fence_until_ns > now) break;
        fence_end(d, k);
    }
}

bool deliveries_are_fenced(struct deliveries *d, const Orderdb__V1__ChangeEvent *event, uint64_t key) {
    struct delivery_key *k = d->fence_count ? key_find(d, key) : NULL;
    if (!k || !k->fence_until_ns || k->fence_slot != event->slot) return false;
    if (event->seq > k->fence_seq) return true;
    fence_end(d, k);
    return false;
}

void deliveries_fence(struct deliveries *d, const struct orderdb_delivery *x, uint64_t until_ns) {
    struct delivery_key *k = x->key;
    if (k->fence_until_ns) list_remove(&k->fence), d->fence_count--;
    else if (d->fence_count >= d->count_max) fence_end(d, list_entry(d->fences.next, struct delivery_key, fence));
    k->fence_until_ns = until_ns, k->fence_slot = x->event->slot, k->fence_seq = x->event->seq;
    list_push_back(&d->fences, &k->fence);
    d->fence_count++;
    list_each(it, &x->key->queue) {
        struct orderdb_delivery *y = list_entry(it, struct orderdb_delivery, in_key);
        if (y->state == DELIVERY_WAITING && y->generation == x->generation) delivery_free(d, y);
    }
}

void deliveries_drop_unstarted(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    for (uint32_t i = 0; i < d->bucket_count; i++) {
        list_each(ki, &d->buckets[i]) {
            struct delivery_key *k = list_entry(ki, struct delivery_key, node);
            for (struct list *it = k->queue.next, *next; it != &k->queue; it = next) {
                struct orderdb_delivery *x = list_entry(it, struct orderdb_delivery, in_key);
                next = it->next;
                bool last = next == &k->queue;
                bool started = x->state == DELIVERY_RUNNING || x->state == DELIVERY_FINISHED;
                bool only = k->queue.next == it && last; /* the key goes with it */
                if (!started) delivery_free(d, x);
                if (!started && only) break;
            }
        }
    }
    d->runnable_count = 0;
    pthread_mutex_unlock(&d->mutex);
}

bool deliveries_run_one(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    bool any = !list_empty(&d->runnable) && !atomic_load(&d->stop);
    if (any) run_first(d);
    pthread_mutex_unlock(&d->mutex);
    return any;
}

uint32_t deliveries_running(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    uint32_t n = d->running;
    pthread_mutex_unlock(&d->mutex);
    return n;
}

bool deliveries_are_idle(struct deliveries *d) {
    pthread_mutex_lock(&d->mutex);
    bool idle = d->running == 0 && d->runnable_count == 0;
    pthread_mutex_unlock(&d->mutex);
    return idle;
}
