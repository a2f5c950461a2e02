/* io_uring: the only way in and out of a core for sockets, log writes and other cores. The only includer of <liburing.h>.
 * One ring per core; all calls on its thread. Completions are queued first and run after the wait, so nothing recurses.
 * Memory that the kernel may touch is poisoned for ASan between submit and completion; hand-offs between threads carry
 * TSan annotations (ring_message). Kernel floor: 6.1. io_uring switched off: ring_open says so in words. */
#ifndef SERVER_RING_H
#define SERVER_RING_H

#include "proto/base/bytes.h"
#include "proto/status.h"

struct ring;

/* One request to the kernel; embedded in the caller's object, which stays until the final completion (more == false). */
struct ring_op {
    void (*done)(struct ring_op *op, int32_t result, bool more); /* result: bytes, fd, or -errno; more: multishot goes on */
    bool urgent; /* ring_receive: not held back by ring_limit_receives */
    bool low;    /* ring_receive: its bytes come behind those of others (ring_limit_receives); may change at any time */
    /* private */
    bool waits_low;
    uint32_t waiting; /* completions that brought bytes and were not run yet, all in one queue: bytes keep their order */
    uint64_t pass;
    uint32_t cqe_flags;
    uint8_t kind;
    const void *data;
    size_t len;
    uint64_t offset;
    int fd;
    size_t progress;
};

struct ring_config {
    uint32_t entries;            /* submission queue; completion queue is 8 x */
    uint32_t buffer_count, buffer_bytes; /* provided receive buffers: 1024 x 16 KiB a core unless the memory budget says less; powers of two */
};

enum status ring_open(struct ring **out, const struct ring_config *config, char error[256]) MUST_USE;
void ring_close(struct ring *r);
int ring_fd(const struct ring *r); /* where other cores send messages */

/* Requests go out with the next ring_wait. */
void ring_accept(struct ring *r, struct ring_op *op, int listen_fd); /* multishot; result: a connected fd */
void ring_connect(struct ring *r, struct ring_op *op, int fd, const void *address, size_t len); /* the address stays until done */
void ring_receive(struct ring *r, struct ring_op *op, int fd);       /* multishot into provided buffers; ENOBUFS ends it: re-arm when buffers are back */
void ring_send(struct ring *r, struct ring_op *op, int fd, const void *data, size_t len); /* all of it: short sends are continued inside */
void ring_write(struct ring *r, struct ring_op *op, int fd, const void *data, size_t len, uint64_t offset); /* all of it, likewise */
void ring_sync(struct ring *r, struct ring_op *op, int fd);          /* fdatasync */
void ring_shutdown_close(struct ring *r, struct ring_op *op, int fd); /* shutdown both ways, then close */
void ring_cancel(struct ring *r, struct ring_op *op);                /* its completion still comes, with -ECANCELED or what it had */

/* The provided buffer of a ring_receive completion (result > 0): valid until put back, which may be later than the callback. */
struct slice ring_buffer(struct ring *r, const struct ring_op *op, int32_t result, uint16_t *id);
void ring_buffer_put(struct ring *r, uint16_t id);

/* A pointer to another core's ring: runs on_message(ctx, pointer) there. Everything written before is seen there (MSG_RING and, for TSan, a release/acquire
 * pair). From a core: ring_message. From a thread without a ring (reader): it owns a small ring of its own for this. */
void ring_on_message(struct ring *r, void (*on_message)(void *ctx, void *pointer), void *ctx);
void ring_message(struct ring *r, int target_ring_fd, void *pointer);
/* The same from a ring that does nothing else (a reader's, the main thread's): returns when the kernel has delivered it. */
void ring_message_now(struct ring *r, int target_ring_fd, void *pointer);

/* Runs when a wait is over, before its completions: the owner reads the clock once for all of them. */
void ring_on_wake(struct ring *r, void (*on_wake)(void *ctx), void *ctx);
/* Submits now what is queued, without waiting: for a log write that should run while the loop goes on working. */
void ring_submit(struct ring *r);
/* Received bytes are run last in one ring_wait, and for so long (at least one buffer's); the others wait for the next turn, in order. Work that was taken in goes before work that wants in: without
 * this a flood of requests, even of refused ones, leaves no time to finish any. Who has much waiting takes turns with the others, a buffer each. Bytes of low ops come behind all others, for
 * low_ns, and not at all before low_from_ns: till then they wait in the socket, and a wait for other things does not end for them. 0: no limit. */
struct ring_receives {
    uint64_t slice_ns, low_ns, low_from_ns;
};
void ring_limit_receives(struct ring *r, const struct ring_receives *limits);
/* Submits, waits until something completed or deadline_ns (monotonic) has come, runs the completions. Returns how many ran. */
unsigned ring_wait(struct ring *r, uint64_t deadline_ns);

struct ring_stats {
    uint64_t submits, completions, overflows, no_buffers, receives_held; /* held: turns that left receives for the next */
};
void ring_get_stats(const struct ring *r, struct ring_stats *out);
/* For tests: no request moves more than this many bytes, so that short sends and writes happen. */
void ring_set_chunk(struct ring *r, uint32_t bytes);

#endif
