/* Threads for what would block a loop: store reads that miss the cache, flushes, new log segments. A job runs on one of them and comes home to its core
 * by message (each reader has a small ring of its own for that). Jobs that nobody waits for (env_job.behind) have two threads of their own, at a lower priority: they take no CPU from the loops.
 *
 * The queue's mutex is the only lock of the server that is taken while it serves: cores take it for a few instructions per job, and a job is worth
 * a disk access. The queue is unbounded in form and bounded in fact: jobs are parts of ops, and ops are bounded by queue_ops_max and by one flush
 * and one segment a partition. */
#ifndef SERVER_READERS_H
#define SERVER_READERS_H

#include "engine/env.h"
#include "proto/status.h"

struct core;
struct readers;

/* thread_count, and those for what nobody waits for. */
enum status readers_start(struct readers **out, unsigned thread_count, char error[256]) MUST_USE;
/* Ends the threads once the queue is empty. Cores' rings must still be open. */
void readers_stop(struct readers *rs);

/* From a core's thread: job->run(job) on a reader, then job->done(job) on this core, from its loop. */
void readers_submit(struct readers *rs, struct core *home, struct env_job *job);
/* mail.c's: a job is home. */
void readers_on_home(struct core *core, struct env_job *job);

#endif
