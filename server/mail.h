/* Between cores: ops that go to the core that owns their partition and come home. One message (IORING_OP_MSG_RING) per pair of cores and
 * cycle carries a chain of ops; no locks, no shared queue. Bounded by the engine's queue_ops_max and the calls per connection. */
#ifndef SERVER_MAIL_H
#define SERVER_MAIL_H

#include "engine/engine.h"

struct core;
struct mail;
struct ring;

/* core->ring, core->id and core->node are there; messages reach this core from now on. NULL: no memory. */
struct mail *mail_new(struct core *core);
void mail_free(struct mail *m);
/* Hands the op to the core that owns its slot's partition (perhaps this one). It comes back: home(op) runs on this core, from the loop. `hop` is the
 * caller's memory, as long as the op. Takes op->done and op->owner for itself: find your own object from the hop. */
struct mail_hop {
    struct list link;
    struct op *op;
    uint32_t home_core;
    void (*home)(struct mail_hop *hop);
};
void mail_send_op(struct core *from, struct mail_hop *hop, struct op *op, void (*home)(struct mail_hop *hop));
/* Sends what the cycle gathered; called once at its end. */
void mail_flush(struct core *core);
/* Any function on another core's thread, once; for start, stop and collecting figures. From this core to itself too: it then runs in the next cycle.
 * The task's memory is free for reuse once run() has begun. */
struct mail_task {
    void (*run)(struct mail_task *t, struct core *on);
};
void mail_send_task(struct core *from, uint32_t to_core, struct mail_task *task);

/* From threads that are no core, through a small ring of their own: */
void mail_send_task_from(struct ring *own, struct core *to, struct mail_task *task);
void mail_send_job_home(struct ring *own, struct core *to, struct env_job *job); /* job->done(job) runs there */

#endif
