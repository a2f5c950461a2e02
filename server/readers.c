#include "server/readers.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/mail.h"

enum { BEHIND_THREADS = 2, BEHIND_NICE = 19 /* on the cores' own CPUs: whoever gets a turn beside a loop has it until the next tick of the kernel, 4 ms; so these rarely do, and live on what is idle */ };

/* What a job carries in its host words while it is ours. */
struct __attribute__((may_alias)) slot {
    struct list link;
    struct core *home;
    uint64_t since_ns;
};
static_assert(sizeof(struct slot) <= sizeof(((struct env_job *)0)->host), "lies in the job");
static struct slot *slot_of(struct env_job *job) { return (struct slot *)(void *)job->host; }
static struct env_job *job_of(struct slot *s) { return container_of((void *)s, struct env_job, host); }

struct reader_thread {
    struct readers *pool;
    pthread_t thread;
    bool behind;
    struct ring *ring; /* its own: the kernel ties a ring to the thread that made it */
    char error[256];
};

struct readers {
    pthread_mutex_t lock;
    pthread_cond_t work, work_behind; /* a job, or stop */
    pthread_cond_t started; /* a thread has its ring, or failed */
    struct list queue, patient; /* the second when the first is empty */
    struct list behind;
    bool stop;
    unsigned thread_count, up, failed;
    struct reader_thread threads[];
};

static struct env_job *next_job(struct readers *rs, bool behind) {
    struct list *first = behind ? &rs->behind : &rs->queue, *second = behind ? &rs->behind : &rs->patient;
    pthread_mutex_lock(&rs->lock);
    while (list_empty(first) && list_empty(second) && !rs->stop) pthread_cond_wait(behind ? &rs->work_behind : &rs->work, &rs->lock);
    struct list *l = list_pop_front(first);
    if (!l) l = list_pop_front(second);
    pthread_mutex_unlock(&rs->lock);
    return l ? job_of((struct slot *)(void *)list_entry(l, struct slot, link)) : NULL;
}

static bool reader_open(struct reader_thread *r) {
    struct ring_config config = {.entries = 4};
    bool ok = ring_open(&r->ring, &config, r->error) == STATUS_OK;
    pthread_mutex_lock(&r->pool->lock);
    if (ok) r->pool->up++;
    else r->pool->failed++;
    pthread_cond_signal(&r->pool->started);
    pthread_mutex_unlock(&r->pool->lock);
    return ok;
}

static void *reader_main(void *arg) {
    struct reader_thread *r = arg;
    if (r->behind) (void)!setpriority(PRIO_PROCESS, (id_t)gettid(), BEHIND_NICE); /* Linux: of this thread alone */
    if (!reader_open(r)) return NULL;
    for (struct env_job *job; (job = next_job(r->pool, r->behind));) {
        struct core *home = slot_of(job)->home; /* before run(): the job may use its words, done() may free it */
        job->run(job);
        mail_send_job_home(r->ring, home, job);
    }
    ring_close(r->ring);
    return NULL;
}

static enum status fail(struct readers *rs, enum status st) {
    readers_stop(rs);
    return st;
}

enum status readers_start(struct readers **out, unsigned thread_count, char error[256]) {
    *out = NULL;
    thread_count += BEHIND_THREADS;
    struct readers *rs = mem_zalloc(sizeof *rs + thread_count * sizeof rs->threads[0]);
    if (!rs) return snprintf(error, 256, "out of memory for reader threads"), STATUS_MEMORY_LIMIT;
    list_init(&rs->queue);
    list_init(&rs->patient);
    list_init(&rs->behind);
    pthread_mutex_init(&rs->lock, NULL);
    pthread_cond_init(&rs->work, NULL);
    pthread_cond_init(&rs->work_behind, NULL);
    pthread_cond_init(&rs->started, NULL);
    for (unsigned i = 0; i < thread_count; i++) {
        struct reader_thread *r = &rs->threads[i];
        r->pool = rs;
        r->behind = i < BEHIND_THREADS;
        int rc = pthread_create(&r->thread, NULL, reader_main, r);
        if (rc) return snprintf(error, 256, "reader thread %u cannot be started: %s", i, strerror(rc)), fail(rs, STATUS_MEMORY_LIMIT);
        rs->thread_count++;
    }
    pthread_mutex_lock(&rs->lock);
    while (rs->up + rs->failed < thread_count) pthread_cond_wait(&rs->started, &rs->lock);
    pthread_mutex_unlock(&rs->lock);
    for (unsigned i = 0; i < thread_count && rs->failed; i++)
        if (rs->threads[i].error[0]) return snprintf(error, 256, "%s", rs->threads[i].error), fail(rs, STATUS_IO_FAILED);
    *out = rs;
    return STATUS_OK;
}

void readers_stop(struct readers *rs) {
    if (!rs) return;
    pthread_mutex_lock(&rs->lock);
    rs->stop = true;
    pthread_cond_broadcast(&rs->work);
    pthread_cond_broadcast(&rs->work_behind);
    pthread_mutex_unlock(&rs->lock);
    for (unsigned i = 0; i < rs->thread_count; i++) pthread_join(rs->threads[i].thread, NULL);
    check(list_empty(&rs->queue));
    check(list_empty(&rs->patient));
    check(list_empty(&rs->behind));
    pthread_cond_destroy(&rs->work);
    pthread_cond_destroy(&rs->work_behind);
    pthread_cond_destroy(&rs->started);
    pthread_mutex_destroy(&rs->lock);
    mem_free(rs);
}

void readers_submit(struct readers *rs, struct core *home, struct env_job *job) {
    struct slot *s = slot_of(job);
    s->home = home;
    s->since_ns = clock_mono_ns();
    metric_add(&home->metrics, METRIC_JOBS, 1);
    metric_add(&home->metrics, METRIC_JOBS_LIVE, 1);
    pthread_mutex_lock(&rs->lock);
    check(!rs->stop);
    list_push_back(job->behind ? &rs->behind : job->patient ? &rs->patient : &rs->queue, &s->link);
    pthread_cond_signal(job->behind ? &rs->work_behind : &rs->work);
    pthread_mutex_unlock(&rs->lock);
}

void readers_on_home(struct core *core, struct env_job *job) {
    metric_add(&core->metrics, METRIC_JOBS_LIVE, (uint64_t)-1);
    metric_time(&core->metrics, METRIC_JOB_NS, clock_mono_ns() - slot_of(job)->since_ns);
    job->done(job);
}
