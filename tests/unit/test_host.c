/* engine/env.h as server/host.c implements it, with server/readers.h, on a directory in /tmp. */
#include "tests/lib/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/core.h"
#include "server/host.h"
#include "server/mail.h"
#include "server/node.h"
#include "server/readers.h"

/* mail.c refers to the engine; nothing is submitted here. */
void engine_submit(struct engine *e, struct op *op) { fail(); }

static char dir[64];
static int dir_fd;
static struct core core, *cores[] = {&core};
static struct node node = {.core_count = 1, .partition_count = 1, .cores = cores};
static struct env *env;
#define OPS env->ops

static int open_world(void **state) {
    char error[256];
    struct ring_config config = {16, 0, 0};
    strcpy(dir, "/tmp/test_host.XXXXXX");
    if (!mkdtemp(dir)) return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    core = (struct core){.node = &node};
    core_self = &core;
    if (ring_open(&core.ring, &config, error)) fail_msg("%s", error);
    core.ring_fd = ring_fd(core.ring);
    core.mail = mail_new(&core);
    if (readers_start(&core.readers, 3, error)) fail_msg("%s", error);
    core.host = host_new(&core, dir_fd);
    env = host_env(core.host);
    return 0;
}
static int close_world(void **state) {
    char command[96];
    readers_stop(core.readers);
    mail_free(core.mail);
    ring_close(core.ring);
    host_free(core.host);
    close(dir_fd);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}
static struct env_file *file(const char *name, unsigned flags) {
    struct env_file *f;
    int rc = OPS->file_open(env, name, flags, &f);
    if (rc) fail_msg("%s: %s", name, strerror(-rc));
    return f;
}

static void files_are_written_read_renamed_removed(void **state) {
    struct env_file *f = file("a", ENV_READ | ENV_WRITE | ENV_CREATE);
    struct stat st;
    char back[32] = "";
    assert_int_equal(OPS->file_write(env, f, "hello", 5, 3), 5);
    assert_int_equal(OPS->file_size(env, f), 8);
    assert_int_equal(OPS->file_read(env, f, back, sizeof back, 3), 5); /* short at the end */
    assert_memory_equal(back, "hello", 5);
    assert_int_equal(OPS->file_read(env, f, back, 5, 100), 0);
    assert_int_equal(OPS->file_sync(env, f), 0);
    OPS->file_close(env, f);
    assert_int_equal(fstatat(dir_fd, "a", &st, 0), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(OPS->dir_make(env, "log"), 0);
    assert_int_equal(OPS->dir_make(env, "log"), 0); /* exists already */
    assert_int_equal(OPS->file_rename(env, "a", "log/b"), 0);
    assert_int_equal(OPS->dir_sync(env, "log"), 0);
    assert_int_equal(OPS->dir_sync(env, ""), 0);
    assert_int_equal(OPS->file_open(env, "a", ENV_READ, &f), -ENOENT);
    assert_null(f);
    f = file("log/b", ENV_READ);
    assert_int_equal(OPS->file_write(env, f, "x", 1, 0), -EBADF);
    OPS->file_close(env, f);
    OPS->file_close(env, NULL);
    assert_int_equal(OPS->file_remove(env, "log/b"), 0);
    assert_int_equal(OPS->file_remove(env, "log/b"), -ENOENT);
    assert_int_equal(OPS->file_rename(env, "log/b", "c"), -ENOENT);
    assert_int_equal(OPS->dir_sync(env, "none"), -ENOENT);
}

static void allocated_files_hold_zeros_on_real_blocks(void **state) {
    struct env_file *f = file("seg", ENV_READ | ENV_WRITE | ENV_CREATE | ENV_DIRECT);
    enum { BYTES = (1 << 20) + 4096 };
    uint8_t *back = mem_alloc_aligned(4096, BYTES);
    struct stat st;
    memset(back, 1, BYTES);
    assert_int_equal(OPS->file_allocate(env, f, BYTES), 0);
    assert_int_equal(OPS->file_size(env, f), BYTES);
    assert_int_equal(OPS->file_read(env, f, back, BYTES, 0), BYTES);
    for (size_t i = 0; i < BYTES; i++) assert_int_equal(back[i], 0);
    assert_int_equal(OPS->file_sync(env, f), 0);
    assert_int_equal(fstatat(dir_fd, "seg", &st, 0), 0);
    assert_true(st.st_blocks * 512 >= BYTES);
    OPS->file_close(env, f);
    mem_free(back);
}

struct names {
    char text[256];
};
static void add_name(void *ctx, const char *name) {
    struct names *n = ctx;
    strcat(n->text, name);
    strcat(n->text, " ");
}
static void directories_are_listed_sorted(void **state) {
    struct names n = {""};
    static const char *const made[] = {"c", "a", "b"};
    for (unsigned i = 0; i < 3; i++) OPS->file_close(env, file(made[i], ENV_WRITE | ENV_CREATE));
    assert_int_equal(OPS->dir_list(env, "", add_name, &n), 0);
    assert_string_equal(n.text, "a b c ");
    assert_int_equal(OPS->dir_list(env, "none", add_name, &n), -ENOENT);
    for (unsigned k = 1; k <= 4; k++) {
        n.text[0] = 0;
        mem_fail_nth(k);
        assert_int_equal(OPS->dir_list(env, "", add_name, &n), -ENOMEM);
        mem_fail_nth(0);
        assert_string_equal(n.text, ""); /* all names or none */
    }
}

static void clocks_chance_and_space(void **state) {
    uint64_t a = OPS->mono_ns(env);
    assert_true(OPS->mono_ns(env) >= a);
    assert_true(OPS->wall_us(env) > 1735689600ll * 1000000);
    assert_int_not_equal(OPS->random(env), OPS->random(env));
    assert_true(OPS->disk_free(env) > 0);
}

struct io {
    struct env_io io;
    int64_t result;
    unsigned calls;
};
static void on_io(struct env_io *io, int64_t result) {
    struct io *i = container_of(io, struct io, io);
    i->result = result;
    i->calls++;
}
static void wait_io(struct io *io) {
    for (unsigned i = 0; i < 2000 && !io->calls; i++) ring_wait(core.ring, clock_mono_ns() + 5 * NS_PER_MS);
    assert_int_equal(io->calls, 1);
    io->calls = 0;
}
static void asynchronous_writes_and_syncs(void **state) {
    struct env_file *f = file("log", ENV_READ | ENV_WRITE | ENV_CREATE | ENV_DIRECT);
    uint8_t *data = mem_alloc_aligned(4096, 65536), *back = mem_alloc_aligned(4096, 65536);
    struct io io = {.io.done = on_io};
    for (size_t i = 0; i < 65536; i++) data[i] = (uint8_t)(i % 251);
    assert_int_equal(OPS->file_allocate(env, f, 1 << 20), 0);
    ring_set_chunk(core.ring, 4096); /* short writes: still one completion, for all of it */
    OPS->write_async(env, f, &io.io, data, 65536, 4096);
    assert_int_equal(io.calls, 0); /* from the loop, never from inside the call */
    wait_io(&io);
    assert_int_equal(io.result, 65536);
    OPS->sync_async(env, f, &io.io);
    wait_io(&io);
    assert_int_equal(io.result, 0);
    assert_int_equal(OPS->file_read(env, f, back, 65536, 4096), 65536);
    assert_memory_equal(back, data, 65536);
    assert_int_equal(metric_load(&core.metrics.times[METRIC_LOG_SYNC_NS].count), 1);
    assert_int_equal(metric_load(&core.metrics.times[METRIC_LOG_WRITE_NS].count), 1);
    OPS->file_close(env, f);
    f = file("log", ENV_READ);
    OPS->write_async(env, f, &io.io, data, 4096, 0);
    wait_io(&io);
    assert_int_equal(io.result, -EBADF); /* errors come as -errno */
    OPS->file_close(env, f);
    mem_free(data), mem_free(back);
}

struct chore {
    struct env_job job;
    pthread_t ran_on;
    unsigned runs, done;
};
static void chore_run(struct env_job *job) {
    struct chore *c = container_of(job, struct chore, job);
    c->ran_on = pthread_self();
    c->runs++;
}
static void chore_done(struct env_job *job) {
    struct chore *c = container_of(job, struct chore, job);
    assert_true(core_self == &core);
    c->done++;
}
static void jobs_run_elsewhere_and_come_home(void **state) {
    enum { N = 200 };
    static struct chore c[N];
    unsigned done = 0;
    for (unsigned i = 0; i < N; i++) {
        c[i] = (struct chore){.job = {.run = chore_run, .done = chore_done}};
        OPS->offload(env, &c[i].job);
        assert_int_equal(c[i].done, 0);
    }
    assert_int_equal(metric_load(&core.metrics.values[METRIC_JOBS_LIVE]), N);
    for (unsigned turns = 0; done < N && turns < 5000; turns++) {
        ring_wait(core.ring, clock_mono_ns() + 5 * NS_PER_MS);
        done = 0;
        for (unsigned i = 0; i < N; i++) done += c[i].done;
    }
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(c[i].runs, 1);
        assert_int_equal(c[i].done, 1);
        assert_false(pthread_equal(c[i].ran_on, pthread_self()));
    }
    assert_int_equal(metric_load(&core.metrics.values[METRIC_JOBS_LIVE]), 0);
}

static pthread_barrier_t gate;
static void gate_run(struct env_job *job) {
    pthread_barrier_wait(&gate); /* all threads are taken */
    pthread_barrier_wait(&gate); /* everything is queued */
    container_of(job, struct chore, job)->runs++;
}
static unsigned next_turn;
static void turn_run(struct env_job *job) { container_of(job, struct chore, job)->runs = __atomic_add_fetch(&next_turn, 1, __ATOMIC_SEQ_CST); }

static void patient_jobs_go_behind_the_others(void **state) {
    enum { THREADS = 3, N = 30 };
    static struct chore stop[THREADS], c[2 * N];
    unsigned done = 0;
    next_turn = 0;
    pthread_barrier_init(&gate, NULL, THREADS + 1);
    for (unsigned i = 0; i < THREADS; i++) {
        stop[i] = (struct chore){.job = {.run = gate_run, .done = chore_done}};
        OPS->offload(env, &stop[i].job);
    }
    pthread_barrier_wait(&gate);
    for (unsigned i = 0; i < 2 * N; i++) {
        c[i] = (struct chore){.job = {.run = turn_run, .done = chore_done, .patient = i < N}};
        OPS->offload(env, &c[i].job);
    }
    pthread_barrier_wait(&gate);
    for (unsigned turns = 0; done < 2 * N + THREADS && turns < 5000; turns++) {
        ring_wait(core.ring, clock_mono_ns() + 5 * NS_PER_MS);
        done = 0;
        for (unsigned i = 0; i < 2 * N; i++) done += c[i].done;
        for (unsigned i = 0; i < THREADS; i++) done += stop[i].done; /* out of the gate, which is destroyed below */
    }
    assert_int_equal(done, 2 * N + THREADS);
    for (unsigned i = 0; i < N; i++) assert_true(c[i].runs + THREADS > N); /* a thread may hold one of each while they count */
    pthread_barrier_destroy(&gate);
}

static void no_memory_is_told(void **state) {
    struct env_file *f;
    struct readers *rs;
    char error[256];
    mem_fail_nth(1);
    assert_int_equal(OPS->file_open(env, "x", ENV_WRITE | ENV_CREATE, &f), -ENOMEM);
    mem_fail_nth(1);
    assert_null(host_new(&core, dir_fd));
    mem_fail_nth(1);
    assert_int_equal(readers_start(&rs, 2, error), STATUS_MEMORY_LIMIT);
    assert_null(rs);
}

#define IN_WORLD(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)
static int64_t alone_io;
static unsigned alone_runs, alone_jobs;
static void on_alone_io(struct env_io *io, int64_t result) { alone_io = result; }
static void on_alone_run(struct env_job *job) { alone_runs++; }
static void on_alone_done(struct env_job *job) { alone_jobs++; }

/* No loop, no readers: all is done when it is asked for, and told later. */
static void without_a_core_things_come_home_by_turns(void **state) {
    struct host *h = host_new(NULL, dir_fd);
    struct env *alone = host_env(h);
    struct env_file *f;
    struct env_io io = {.done = on_alone_io};
    struct env_job job = {.run = on_alone_run, .done = on_alone_done};
    assert_int_equal(alone->ops->file_open(alone, "alone", ENV_READ | ENV_WRITE | ENV_CREATE, &f), 0);
    assert_false(host_turn(h));
    alone->ops->write_async(alone, f, &io, "hello", 5, 0);
    alone->ops->offload(alone, &job);
    assert_int_equal(alone_io + alone_runs + alone_jobs, 0);
    assert_true(host_turn(h));
    assert_int_equal(alone_io, 5);
    assert_int_equal(alone_runs, 1);
    assert_int_equal(alone_jobs, 1);
    alone->ops->sync_async(alone, f, &io);
    assert_true(host_turn(h));
    assert_int_equal(alone_io, 0);
    assert_false(host_turn(h));
    alone->ops->file_close(alone, f);
    host_free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_WORLD(without_a_core_things_come_home_by_turns),
        IN_WORLD(files_are_written_read_renamed_removed), IN_WORLD(allocated_files_hold_zeros_on_real_blocks), IN_WORLD(directories_are_listed_sorted), IN_WORLD(clocks_chance_and_space),
        IN_WORLD(asynchronous_writes_and_syncs),          IN_WORLD(jobs_run_elsewhere_and_come_home), IN_WORLD(patient_jobs_go_behind_the_others),           IN_WORLD(no_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
