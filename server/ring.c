#include "server/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "server/clock.h"

/* How a request lives
 *
 *   ring_send() --- SQE in the submission queue --- ring_wait() submits --- kernel --- CQE --- copied to `queue` --- done()
 *                                                                            |
 *                    short or -EAGAIN, -EINTR: the rest goes out again <------'   (the caller sees one completion for all of it)
 *
 * Why copied first: a callback may submit, and so may find the submission queue full and reap again; with a queue of our own nothing recurses and
 * stack traces stay honest.
 *
 * user_data of a CQE tells what it is (user-space pointers have at most 47 bits):
 *   op pointer                       a request of ours
 *   0                                nobody waits: a cancel's own completion
 *   MESSAGE | pointer                came from another ring (MSG_RING); the pointer's low bits are the sender's and the receiver's affair
 *   POSTED | target fd << 48 | ptr   our own MSG_RING failed (success posts nothing here): it is sent again
 *   NOW                              our own MSG_RING of ring_message_now
 *
 * Rules that were paid for elsewhere (docs/RUNTIME.md): a sync is only ever started by a caller that has seen the write complete in full, so the
 * rest of a short write can't run behind it; the completion queue is 8 x the submission queue and NODROP is required, so an overflow costs time and
 * is counted, never lost; a cancel can lose against its target: the target's own final completion is the one that frees. */

#define USER_MESSAGE (1ull << 63)
#define USER_POSTED (1ull << 62)
#define USER_POINTER_BITS 48
#define USER_POINTER ((1ull << USER_POINTER_BITS) - 1)
#define USER_NOW 8ull /* no object lives there */

enum { RING_FD_MAX = 1 << 14, REQUEST_BYTES_MAX = 1 << 30, BUFFER_GROUP = 1 };
enum ring_kind { RING_IDLE, RING_ACCEPT, RING_CONNECT, RING_RECEIVE, RING_SEND, RING_WRITE, RING_SYNC, RING_CLOSE };
enum { RING_KIND_MASK = 0x0f, RING_CANCELLED = 0x80 };

#ifdef ORDERDB_ASAN
#include <sanitizer/asan_interface.h>
#define KERNEL_OWNS(p, n) ASAN_POISON_MEMORY_REGION((p), (n))
#define KERNEL_RETURNS(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define KERNEL_OWNS(p, n) ((void)(p), (void)(n))
#define KERNEL_RETURNS(p, n) ((void)(p), (void)(n))
#endif

#ifdef ORDERDB_TSAN /* TSan sees no happens-before through a ring: say it */
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define HAND_OVER(p) __tsan_release(p)
#define TAKE_OVER(p) __tsan_acquire(p)
#else
#define HAND_OVER(p) ((void)(p))
#define TAKE_OVER(p) ((void)(p))
#endif

struct completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
};

struct completions { /* [head, tail) */
    struct completion *at;
    size_t head, tail, cap;
    uint64_t pass; /* receives: whose ops have it, had their turn */
};

struct ring {
    struct io_uring uring;
    struct completions queue;    /* reaped and not yet run */
    struct completions receives, lows; /* of them, those that bring bytes: run last */
    struct ring_receives limits;
    struct io_uring_buf_ring *buffers;
    uint8_t *buffer_memory;
    uint32_t buffer_count, buffer_bytes;
    void (*on_message)(void *ctx, void *pointer);
    void *on_message_ctx;
    void (*on_wake)(void *ctx);
    void *on_wake_ctx;
    uint32_t chunk_bytes_max;
    struct ring_stats stats;
};

/* ---- opening */

static bool kernel_too_old(const char *release) {
    int major = 0, minor = 0;
    return sscanf(release, "%d.%d", &major, &minor) == 2 && (major < 6 || (major == 6 && minor < 1));
}

static int sysctl_disabled(void) {
    char text[16] = "";
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 ? atoi(text) : 0;
}

static enum status explain(int err, char error[256]) {
    struct utsname u;
    uname(&u);
    int off = sysctl_disabled();
    if (kernel_too_old(u.release)) snprintf(error, 256, "kernel %s is too old for io_uring as used here: 6.1 or newer is needed", u.release);
    else if (err == ENOSYS) snprintf(error, 256, "this kernel (%s) was built without io_uring", u.release);
    else if ((err == EPERM || err == EACCES) && off)
        snprintf(error, 256, "io_uring is switched off: sysctl kernel.io_uring_disabled is %d; set it to 0 (1 lets members of kernel.io_uring_group in)", off);
    else if (err == EPERM || err == EACCES) snprintf(error, 256, "io_uring is forbidden here: a seccomp filter or security module refused it (%s)", strerror(err));
    else if (err == ENOMEM) snprintf(error, 256, "io_uring could not be set up: out of memory, or RLIMIT_MEMLOCK (ulimit -l) is too small");
    else snprintf(error, 256, "io_uring could not be set up: %s", strerror(err));
    return STATUS_IO_FAILED;
}

/* DEFER_TASKRUN: completions are made when we ask, not by interrupting us. Kernels or filters that refuse it get COOP_TASKRUN. */
static int setup(struct ring *r, uint32_t entries) {
    static const unsigned flavours[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_COOP_TASKRUN};
    int rc = -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(flavours) && rc == -EINVAL; i++) {
        struct io_uring_params params = {.flags = flavours[i] | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL, .cq_entries = entries * 8};
        rc = io_uring_queue_init_params(entries, &r->uring, &params);
        if (rc == 0 && !(params.features & IORING_FEAT_NODROP)) {
            io_uring_queue_exit(&r->uring);
            rc = -ENOSYS;
        }
    }
    return rc;
}

static int setup_buffers(struct ring *r, const struct ring_config *config) {
    if (config->buffer_count == 0) return 0;
    check((config->buffer_count & (config->buffer_count - 1)) == 0);
    check(config->buffer_count <= 32768);
    size_t ring_bytes = config->buffer_count * sizeof(struct io_uring_buf), memory_bytes = (size_t)config->buffer_count * config->buffer_bytes;
    r->buffers = mem_alloc_aligned(4096, (ring_bytes + 4095) & ~(size_t)4095);
    r->buffer_memory = mem_alloc_aligned(4096, memory_bytes);
    if (!r->buffers || !r->buffer_memory) return -ENOMEM;
    r->buffer_count = config->buffer_count, r->buffer_bytes = config->buffer_bytes;
    memset(r->buffers, 0, ring_bytes);
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)r->buffers, .ring_entries = r->buffer_count, .bgid = BUFFER_GROUP};
    int rc = io_uring_register_buf_ring(&r->uring, &reg, 0);
    if (rc) return rc;
    io_uring_buf_ring_init(r->buffers);
    for (uint32_t i = 0; i < r->buffer_count; i++)
        io_uring_buf_ring_add(r->buffers, r->buffer_memory + (size_t)i * r->buffer_bytes, r->buffer_bytes, (unsigned short)i,
                              io_uring_buf_ring_mask(r->buffer_count), (int)i);
    io_uring_buf_ring_advance(r->buffers, (int)r->buffer_count);
    KERNEL_OWNS(r->buffer_memory, memory_bytes);
    return 0;
}

static void free_memory(struct ring *r) {
    if (r->buffer_memory) KERNEL_RETURNS(r->buffer_memory, (size_t)r->buffer_count * r->buffer_bytes);
    mem_free(r->buffer_memory);
    mem_free(r->buffers);
    mem_free(r->queue.at);
    mem_free(r->receives.at);
    mem_free(r->lows.at);
    mem_free(r);
}

enum status ring_open(struct ring **out, const struct ring_config *config, char error[256]) {
    *out = NULL;
    struct utsname u;
    uname(&u);
    if (kernel_too_old(u.release)) return explain(ENOSYS, error);
    struct ring *r = mem_new(struct ring);
    if (r) r->queue.cap = (size_t)config->entries * 8, r->queue.at = mem_alloc(r->queue.cap * sizeof *r->queue.at);
    if (!r || !r->queue.at) {
        mem_free(r);
        return snprintf(error, 256, "out of memory for a ring of %u entries", config->entries), STATUS_MEMORY_LIMIT;
    }
    r->chunk_bytes_max = REQUEST_BYTES_MAX;
    r->receives.pass = r->lows.pass = 1; /* ops begin with 0 */
    int rc = setup(r, config->entries);
    if (rc) return free_memory(r), explain(-rc, error);
    check(r->uring.ring_fd < RING_FD_MAX);
    rc = setup_buffers(r, config);
    if (rc) {
        io_uring_queue_exit(&r->uring);
        free_memory(r);
        if (rc == -ENOMEM) return snprintf(error, 256, "out of memory for %u receive buffers of %u bytes", config->buffer_count, config->buffer_bytes), STATUS_MEMORY_LIMIT;
        return explain(-rc, error);
    }
    *out = r;
    return STATUS_OK;
}

void ring_close(struct ring *r) {
    if (!r) return;
    /* The kernel tears a ring down behind our back; end what is in flight first, or it could still write into the buffers that are freed below. */
    struct io_uring_sync_cancel_reg all = {.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL, .fd = -1, .timeout = {.tv_sec = 1}};
    (void)io_uring_register_sync_cancel(&r->uring, &all);
    if (r->buffers) (void)io_uring_unregister_buf_ring(&r->uring, BUFFER_GROUP);
    io_uring_queue_exit(&r->uring);
    free_memory(r);
}

int ring_fd(const struct ring *r) { return r->uring.ring_fd; }
void ring_set_chunk(struct ring *r, uint32_t bytes) { r->chunk_bytes_max = bytes; }
void ring_get_stats(const struct ring *r, struct ring_stats *out) { *out = r->stats; }

/* ---- the queue of completions */

static bool queue_room(struct completions *q) {
    if (q->tail < q->cap) return true;
    if (q->head > 0) {
        memmove(q->at, q->at + q->head, (q->tail - q->head) * sizeof *q->at);
        q->tail -= q->head, q->head = 0;
        return true;
    }
    size_t cap = q->cap ? q->cap * 2 : 256;
    struct completion *grown = mem_realloc(q->at, cap * sizeof *grown);
    if (!grown) return false;
    q->at = grown, q->cap = cap;
    return true;
}
static size_t queue_count(const struct completions *q) { return q->tail - q->head; }
static struct completion queue_take(struct completions *q) {
    struct completion c = q->at[q->head++];
    if (q->head == q->tail) q->head = q->tail = 0;
    return c;
}

/* Copies what the kernel has completed. */
static void reap(struct ring *r) {
    unsigned at, seen = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&r->uring, at, cqe) {
        if (!queue_room(&r->queue)) break; /* what does not fit waits in the kernel's queue */
        r->queue.at[r->queue.tail++] = (struct completion){cqe->user_data, cqe->res, cqe->flags};
        seen++;
    }
    io_uring_cq_advance(&r->uring, seen);
    r->stats.completions += seen;
}

static void submit_failed(int rc) {
    /* EBUSY: completions wait to be reaped; EAGAIN: the kernel is short of memory for now. Both pass. */
    if (rc != -EBUSY && rc != -EAGAIN && rc != -EINTR && rc != -ETIME) panic_now("io_uring_enter failed: %s", strerror(-rc));
}

static struct io_uring_sqe *get_sqe(struct ring *r) {
    for (unsigned tries = 0;; tries++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);
        if (sqe) return sqe;
        if (tries > 1000000) panic_now("io_uring takes no more requests");
        int rc = io_uring_submit(&r->uring);
        r->stats.submits++;
        if (rc >= 0) continue;
        submit_failed(rc);
        (void)io_uring_get_events(&r->uring);
        reap(r);
    }
}

/* ---- requests */

static void begin(struct ring_op *op, enum ring_kind kind, int fd) {
    check(op->done);
    op->kind = (uint8_t)kind;
    op->fd = fd;
    op->cqe_flags = 0;
    op->progress = 0;
    op->waiting = 0;
}

/* Puts the request, or what is left of it, into the submission queue. */
static void issue(struct ring *r, struct ring_op *op) {
    struct io_uring_sqe *sqe = get_sqe(r);
    const uint8_t *data = (const uint8_t *)op->data + op->progress;
    unsigned left = (unsigned)MIN_OF(op->len - op->progress, (size_t)r->chunk_bytes_max);
    switch ((enum ring_kind)(op->kind & RING_KIND_MASK)) {
    case RING_ACCEPT: io_uring_prep_multishot_accept(sqe, op->fd, NULL, NULL, SOCK_CLOEXEC); break;
    case RING_CONNECT: io_uring_prep_connect(sqe, op->fd, op->data, (socklen_t)op->len); break;
    case RING_RECEIVE:
        io_uring_prep_recv_multishot(sqe, op->fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = BUFFER_GROUP;
        break;
    case RING_SEND: io_uring_prep_send(sqe, op->fd, data, left, MSG_NOSIGNAL); break;
    case RING_WRITE: io_uring_prep_write(sqe, op->fd, data, left, op->offset + op->progress); break;
    case RING_SYNC: io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC); break;
    case RING_CLOSE: io_uring_prep_close(sqe, op->fd); break;
    case RING_IDLE: check(false);
    }
    io_uring_sqe_set_data(sqe, op);
}

void ring_accept(struct ring *r, struct ring_op *op, int listen_fd) {
    begin(op, RING_ACCEPT, listen_fd);
    op->data = NULL, op->len = 0;
    issue(r, op);
}

void ring_connect(struct ring *r, struct ring_op *op, int fd, const void *address, size_t len) {
    begin(op, RING_CONNECT, fd);
    op->data = address, op->len = len; /* read only, perhaps by several rings: not poisoned */
    issue(r, op);
}

void ring_receive(struct ring *r, struct ring_op *op, int fd) {
    check(r->buffers);
    begin(op, RING_RECEIVE, fd);
    op->data = NULL, op->len = 0;
    issue(r, op);
}

void ring_send(struct ring *r, struct ring_op *op, int fd, const void *data, size_t len) {
    check(len > 0);
    check(len <= INT32_MAX); /* the result is an int32 */
    begin(op, RING_SEND, fd);
    op->data = data, op->len = len;
    KERNEL_OWNS(data, len);
    issue(r, op);
}

void ring_write(struct ring *r, struct ring_op *op, int fd, const void *data, size_t len, uint64_t offset) {
    check(len > 0);
    check(len <= INT32_MAX); /* the result is an int32 */
    begin(op, RING_WRITE, fd);
    op->data = data, op->len = len, op->offset = offset;
    KERNEL_OWNS(data, len);
    issue(r, op);
}

void ring_sync(struct ring *r, struct ring_op *op, int fd) {
    begin(op, RING_SYNC, fd);
    op->data = NULL, op->len = 0;
    issue(r, op);
}

void ring_shutdown_close(struct ring *r, struct ring_op *op, int fd) {
    /* shutdown(2) itself, for the ring would send it to a kernel worker thread; it does not block. */
    (void)shutdown(fd, SHUT_RDWR);
    begin(op, RING_CLOSE, fd);
    op->data = NULL, op->len = 0;
    issue(r, op);
}

void ring_cancel(struct ring *r, struct ring_op *op) {
    check((op->kind & RING_KIND_MASK) != RING_IDLE);
    op->kind |= RING_CANCELLED; /* a short result that already waits in our queue is not continued */
    struct io_uring_sqe *sqe = get_sqe(r);
    io_uring_prep_cancel(sqe, op, 0);
    io_uring_sqe_set_data64(sqe, 0);
}

struct slice ring_buffer(struct ring *r, const struct ring_op *op, int32_t result, uint16_t *id) {
    check(op->cqe_flags & IORING_CQE_F_BUFFER);
    check(result > 0);
    *id = (uint16_t)(op->cqe_flags >> IORING_CQE_BUFFER_SHIFT);
    check(*id < r->buffer_count);
    check((uint32_t)result <= r->buffer_bytes);
    uint8_t *data = r->buffer_memory + (size_t)*id * r->buffer_bytes;
    KERNEL_RETURNS(data, (size_t)result);
    return slice_of(data, (size_t)result);
}

void ring_buffer_put(struct ring *r, uint16_t id) {
    check(id < r->buffer_count);
    uint8_t *data = r->buffer_memory + (size_t)id * r->buffer_bytes;
    KERNEL_OWNS(data, r->buffer_bytes);
    io_uring_buf_ring_add(r->buffers, data, r->buffer_bytes, id, io_uring_buf_ring_mask(r->buffer_count), 0);
    io_uring_buf_ring_advance(r->buffers, 1);
}

/* ---- messages */

void ring_on_message(struct ring *r, void (*on_message)(void *ctx, void *pointer), void *ctx) {
    r->on_message = on_message;
    r->on_message_ctx = ctx;
}

void ring_on_wake(struct ring *r, void (*on_wake)(void *ctx), void *ctx) {
    r->on_wake = on_wake;
    r->on_wake_ctx = ctx;
}

static void post(struct ring *r, int target_ring_fd, uint64_t pointer) {
    struct io_uring_sqe *sqe = get_sqe(r);
    io_uring_prep_msg_ring(sqe, target_ring_fd, 0, USER_MESSAGE | pointer, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, USER_POSTED | (uint64_t)target_ring_fd << USER_POINTER_BITS | pointer);
}

void ring_message(struct ring *r, int target_ring_fd, void *pointer) {
    check(((uintptr_t)pointer & ~USER_POINTER) == 0);
    check(target_ring_fd >= 0);
    check(target_ring_fd < RING_FD_MAX);
    HAND_OVER(pointer);
    post(r, target_ring_fd, (uintptr_t)pointer);
}

static bool passing(int32_t result) { return result == -EAGAIN || result == -EINTR; }

void ring_message_now(struct ring *r, int target_ring_fd, void *pointer) {
    check(((uintptr_t)pointer & ~USER_POINTER) == 0);
    HAND_OVER(pointer);
    for (;;) {
        struct io_uring_sqe *sqe = get_sqe(r);
        io_uring_prep_msg_ring(sqe, target_ring_fd, 0, USER_MESSAGE | (uintptr_t)pointer, 0);
        io_uring_sqe_set_data64(sqe, USER_NOW);
        struct io_uring_cqe *cqe;
        int rc;
        do {
            rc = io_uring_submit_and_wait(&r->uring, 1);
            if (rc < 0) submit_failed(rc);
            rc = io_uring_peek_cqe(&r->uring, &cqe);
        } while (rc);
        check(cqe->user_data == USER_NOW); /* such a ring is used for nothing else */
        int32_t result = cqe->res;
        io_uring_cqe_seen(&r->uring, cqe);
        if (result >= 0) return;
        if (!passing(result) && result != -EOVERFLOW && result != -ENOMEM) panic_now("message to another core failed: %s", strerror(-result));
    }
}

/* ---- running completions */

/* True: the request went out again, the caller hears nothing yet. */
static bool continued(struct ring *r, struct ring_op *op, int32_t *result) {
    enum ring_kind kind = op->kind & RING_KIND_MASK;
    if (op->kind & RING_CANCELLED) return false;
    if (kind == RING_CLOSE) return false; /* close(2) must not be repeated: the fd may be another's by now */
    if (passing(*result)) return issue(r, op), true;
    if ((kind != RING_SEND && kind != RING_WRITE) || *result < 0) return false;
    if (*result == 0) return *result = -EIO, false; /* nothing moved and no reason given: an endless loop if believed */
    op->progress += (size_t)*result;
    check(op->progress <= op->len);
    if (op->progress < op->len) return issue(r, op), true;
    *result = (int32_t)op->len;
    return false;
}

static void run_op(struct ring *r, const struct completion *c) {
    struct ring_op *op = (struct ring_op *)(uintptr_t)c->user_data;
    int32_t result = c->result;
    bool more = c->flags & IORING_CQE_F_MORE;
    op->cqe_flags = c->flags;
    if ((c->flags & IORING_CQE_F_BUFFER) && result <= 0) ring_buffer_put(r, (uint16_t)(c->flags >> IORING_CQE_BUFFER_SHIFT));
    if (result == -ENOBUFS) r->stats.no_buffers++;
    if (!more) {
        if (continued(r, op, &result)) return;
        if (op->data) KERNEL_RETURNS(op->data, op->len);
        op->kind = RING_IDLE;
    }
    op->done(op, result, more);
}

static void run(struct ring *r, const struct completion *c) {
    if (c->user_data == 0) return;
    if (c->user_data & USER_MESSAGE) {
        void *pointer = (void *)(uintptr_t)(c->user_data & USER_POINTER);
        TAKE_OVER(pointer);
        check(r->on_message);
        r->on_message(r->on_message_ctx, pointer);
    } else if (c->user_data & USER_POSTED) {
        if (c->result >= 0) return;
        /* A message lost is a call that never ends: anything but a shortage is a bug. */
        if (!passing(c->result) && c->result != -EOVERFLOW && c->result != -ENOMEM) panic_now("message to another core failed: %s", strerror(-c->result));
        post(r, (int)((c->user_data & ~USER_POSTED) >> USER_POINTER_BITS), c->user_data & USER_POINTER);
    } else {
        run_op(r, c);
    }
}

void ring_submit(struct ring *r) {
    int rc = io_uring_submit(&r->uring);
    r->stats.submits++;
    if (rc < 0) submit_failed(rc); /* still queued: goes out with the next wait */
}

void ring_limit_receives(struct ring *r, const struct ring_receives *limits) { r->limits = *limits; }

static bool is_held_back(const struct completion *c) {
    if (c->user_data == 0 || (c->user_data & (USER_MESSAGE | USER_POSTED))) return false;
    const struct ring_op *op = (const struct ring_op *)(uintptr_t)c->user_data;
    return (op->kind & RING_KIND_MASK) == RING_RECEIVE && !op->urgent;
}

static struct ring_op *op_of(const struct completion *c) { return (struct ring_op *)(uintptr_t)c->user_data; }

/* false: no memory to wait in. */
static bool hold_back(struct ring *r, const struct completion *c) {
    struct ring_op *op = op_of(c);
    if (!op->waiting) op->waits_low = op->low;
    struct completions *q = op->waits_low ? &r->lows : &r->receives;
    if (!queue_room(q)) return false;
    q->at[q->tail++] = *c;
    op->waiting++;
    return true;
}

/* One of each op, and again, until the time is over: a pass that was not finished is gone on with in the next turn. Runs one at least. */
static unsigned run_receives(struct ring *r, struct completions *q, uint64_t slice_ns) {
    unsigned ran = 0;
    uint64_t until_ns = slice_ns && queue_count(q) ? clock_mono_ns() + slice_ns : UINT64_MAX;
    bool over = false;
    while (queue_count(q) && !over) {
        size_t kept = q->head;
        for (size_t i = q->head; i < q->tail; i++) {
            struct completion c = q->at[i];
            struct ring_op *op = op_of(&c);
            if (over || op->pass == q->pass) {
                q->at[kept++] = c;
                continue;
            }
            op->pass = q->pass;
            op->waiting--;
            run(r, &c);
            ran++;
            over = until_ns != UINT64_MAX && clock_mono_ns() >= until_ns;
        }
        q->tail = kept;
        if (!over) q->pass++;
    }
    if (queue_count(q)) r->stats.receives_held++;
    else q->head = q->tail = 0;
    return ran;
}

/* All that wait of one op: before what can't wait behind them. */
static unsigned run_all_receives(struct ring *r) { return run_receives(r, &r->receives, 0) + run_receives(r, &r->lows, 0); }

unsigned ring_wait(struct ring *r, uint64_t deadline_ns) {
    bool overflow = io_uring_cq_has_overflow(&r->uring), lows_wait = queue_count(&r->lows) > 0;
    if (lows_wait) deadline_ns = MIN_OF(deadline_ns, r->limits.low_from_ns);
    uint64_t now_ns = deadline_ns == UINT64_MAX || deadline_ns == 0 ? 0 : clock_mono_ns();
    int rc;
    r->stats.submits++;
    r->stats.overflows += overflow;
    if (overflow || queue_count(&r->queue) || queue_count(&r->receives) || io_uring_cq_ready(&r->uring) || deadline_ns <= now_ns) {
        rc = io_uring_submit_and_get_events(&r->uring);
    } else {
        struct __kernel_timespec left = {.tv_sec = (long long)((deadline_ns - now_ns) / NS_PER_S), .tv_nsec = (long long)((deadline_ns - now_ns) % NS_PER_S)};
        struct io_uring_cqe *cqe;
        rc = io_uring_submit_and_wait_timeout(&r->uring, &cqe, 1, deadline_ns == UINT64_MAX ? NULL : &left, NULL);
    }
    if (rc < 0) submit_failed(rc);
    reap(r);
    if (r->on_wake) r->on_wake(r->on_wake_ctx);
    unsigned ran = 0;
    /* Only what was there when we began: completions reaped by callbacks wait for the next turn, after timers and engine had theirs. */
    for (size_t n = queue_count(&r->queue); n > 0; n--) {
        struct completion c = queue_take(&r->queue);
        bool held_back = is_held_back(&c);
        if (held_back && hold_back(r, &c)) continue;
        if (held_back) ran += run_all_receives(r); /* no memory to wait in, and bytes keep their order */
        run(r, &c);
        ran++;
    }
    ran += run_receives(r, &r->receives, r->limits.slice_ns);
    if (queue_count(&r->lows) && (!r->limits.low_from_ns || clock_mono_ns() >= r->limits.low_from_ns)) ran += run_receives(r, &r->lows, r->limits.low_ns);
    return ran;
}
