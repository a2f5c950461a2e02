/* The promises of server/mail.h: two cores in two threads; the engine is a stand-in that answers at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>

#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/mail.h"
#include "server/node.h"

static _Thread_local struct list submitted;
static _Thread_local unsigned submit_count;

/* In place of the engine's: keeps the op until the "tick". */
void engine_submit(struct engine *e, struct op *op) {
    submit_count++;
    list_push_back(&submitted, &op->link);
}
static void tick(struct core *core) {
    for (struct list *l; (l = list_pop_front(&submitted));) {
        struct op *op = list_entry(l, struct op, link);
        op->index = core->id + 100; /* where it was done */
        op->done(op);
    }
}

static struct core cores[2], *core_list[2] = {&cores[0], &cores[1]};
static struct node node = {.core_count = 2, .partition_count = 4, .cores = core_list};
static pthread_barrier_t barrier;
static bool other_travelled; /* until then core 0 must go on: it has ops of the other's */

static void open_core(struct core *core, uint32_t id) {
    char error[256];
    struct ring_config config = {16, 0, 0};
    *core = (struct core){.id = id, .node = &node};
    core_self = core;
    list_init(&submitted);
    submit_count = 0;
    if (ring_open(&core->ring, &config, error)) fail_msg("%s", error);
    core->ring_fd = ring_fd(core->ring);
    core->mail = mail_new(core);
    assert_non_null(core->mail);
}
static void close_core(struct core *core) {
    mail_free(core->mail);
    ring_close(core->ring);
}
static void cycle(struct core *core) {
    ring_wait(core->ring, clock_mono_ns() + 2 * NS_PER_MS);
    tick(core);
    mail_flush(core);
}

struct trip {
    struct op op;
    struct mail_hop hop;
    struct core *home;
    unsigned *back;
    bool done;
};
static void on_home(struct mail_hop *hop) {
    struct trip *t = container_of(hop, struct trip, hop);
    assert_false(t->done);
    assert_ptr_equal(core_self, t->home);
    assert_int_equal(t->op.index, node_core_of_slot(&node, t->op.slot) + 100);
    t->done = true;
    ++*t->back;
}

enum { TRIPS = 3000, PER_CYCLE = 17 };
static void travel(struct core *core) {
    unsigned back = 0, sent = 0;
    struct trip *trips = mem_zalloc(TRIPS * sizeof *trips);
    while (back < TRIPS) {
        for (unsigned i = 0; i < PER_CYCLE && sent < TRIPS; i++, sent++) {
            struct trip *t = &trips[sent];
            t->home = core, t->back = &back;
            t->op.slot = (uint16_t)(sent * 37 % SLOT_COUNT);
            mail_send_op(core, &t->hop, &t->op, on_home);
            assert_false(t->done); /* comes from the loop, never from inside the call */
        }
        cycle(core);
    }
    for (unsigned i = 0; i < TRIPS; i++) assert_true(trips[i].done);
    mem_free(trips);
}

static void *other_core(void *arg) {
    open_core(&cores[1], 1);
    pthread_barrier_wait(&barrier);
    travel(&cores[1]);
    __atomic_store_n(&other_travelled, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&cores[1].stop, __ATOMIC_RELAXED)) cycle(&cores[1]);
    pthread_barrier_wait(&barrier);
    close_core(&cores[1]);
    return NULL;
}

struct ping {
    struct mail_task task;
    unsigned runs;
    uint32_t ran_on;
};
static void pong(struct mail_task *t, struct core *on) {
    struct ping *p = container_of(t, struct ping, task);
    p->runs++;
    p->ran_on = on->id;
}
static void there_and_back(struct mail_task *t, struct core *on) {
    t->run = pong;
    mail_send_task(on, 0, t);
}
static void stop_core(struct mail_task *t, struct core *on) { __atomic_store_n(&on->stop, true, __ATOMIC_RELAXED); }

struct chore {
    struct env_job job;
    unsigned done;
};
static void chore_done(struct env_job *job) { container_of(job, struct chore, job)->done++; }

static void ops_tasks_and_jobs_travel(void **state) {
    pthread_t thread;
    struct ping here = {.task.run = pong, .ran_on = 9}, there = {.task.run = there_and_back, .ran_on = 9};
    assert_int_equal(pthread_barrier_init(&barrier, NULL, 2), 0);
    open_core(&cores[0], 0);
    assert_int_equal(pthread_create(&thread, NULL, other_core, NULL), 0);
    pthread_barrier_wait(&barrier);
    travel(&cores[0]);
    mail_send_task(&cores[0], 0, &here.task);
    mail_send_task(&cores[0], 1, &there.task);
    assert_int_equal(here.runs, 0);
    while (!here.runs || !there.runs || !__atomic_load_n(&other_travelled, __ATOMIC_ACQUIRE)) cycle(&cores[0]);
    assert_int_equal(here.ran_on, 0);
    assert_int_equal(there.ran_on, 0);
    assert_int_equal(there.runs, 1);
    struct mail_task stop = {stop_core};
    mail_send_task(&cores[0], 1, &stop);
    cycle(&cores[0]);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    assert_true(metric_load(&cores[0].metrics.values[METRIC_MAIL_MESSAGES]) < TRIPS); /* chains, not single ops */
    assert_true(metric_load(&cores[0].metrics.values[METRIC_MAIL_OPS]) >= TRIPS / 2);
    close_core(&cores[0]);
    pthread_barrier_destroy(&barrier);
}

static void *from_a_thread(void *arg) {
    char error[256];
    struct ring *own;
    struct ring_config config = {4, 0, 0};
    void **what = arg;
    if (ring_open(&own, &config, error)) fail_msg("%s", error);
    mail_send_job_home(own, &cores[0], what[0]);
    mail_send_task_from(own, &cores[0], what[1]);
    ring_close(own);
    return NULL;
}
static void threads_send_jobs_home_and_tasks(void **state) {
    pthread_t thread;
    struct chore chore = {.job.done = chore_done};
    struct ping ping = {.task.run = pong};
    void *what[] = {&chore.job, &ping.task};
    open_core(&cores[0], 0);
    assert_int_equal(pthread_create(&thread, NULL, from_a_thread, what), 0);
    while (!chore.done || !ping.runs) cycle(&cores[0]);
    pthread_join(thread, NULL);
    close_core(&cores[0]);
}

static void no_memory_is_told(void **state) {
    struct core core = {.node = &node};
    mem_fail_nth(1);
    assert_null(mail_new(&core));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ops_tasks_and_jobs_travel), cmocka_unit_test(threads_send_jobs_home_and_tasks), cmocka_unit_test(no_memory_is_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
