/* A simulated world behind engine/env.h: one clock, seeded chance, disks that can lose power. Everything runs in one thread; the same seed gives
 * the same run. Memory comes from the plain heap, so that a test can fail the n-th allocation of the product alone.
 *
 *   world --- events in time order: completions of writes, syncs, jobs; what tests and the engine simulator schedule
 *   disk  --- outlives crashes: files of 4096-byte sectors, with what is durable and what is not yet
 *   env   --- one process's view of one disk: opened, crashed or closed, opened again
 *
 * Durability: a write is visible at once (asynchronous ones at their completion), and durable only after a sync of its file that began after its
 * completion. Names (create, rename, remove) are durable after a sync of their directory. At a power cut every sector image that is not durable survives,
 * vanishes or tears (at 512 bytes) on its own, writes in flight included; each change of a name survives or not on its own. */
#ifndef TESTS_LIB_SIM_ENV_H
#define TESTS_LIB_SIM_ENV_H

#include "engine/env.h"

struct sim_world;
struct sim_disk;

struct sim_world *sim_world_new(uint64_t seed);
void sim_world_free(struct sim_world *w); /* after its envs */
uint64_t sim_world_now_ns(const struct sim_world *w);
uint64_t sim_world_random(struct sim_world *w);
uint64_t sim_world_below(struct sim_world *w, uint64_t n);            /* [0, n) */
bool sim_world_chance(struct sim_world *w, unsigned percent);
void sim_world_at(struct sim_world *w, uint64_t delay_ns, void (*run)(void *ctx), void *ctx);
bool sim_world_step(struct sim_world *w);                              /* the next event; false: there is none */
void sim_world_run(struct sim_world *w, uint64_t for_ns);              /* all events of that time; the clock ends there */
void sim_world_settle(struct sim_world *w);                            /* until no event is left */

/* What the disk does wrong. All zero: nothing. Counters count down once. */
struct sim_faults {
    uint64_t space_bytes;       /* all files together; 0: no limit */
    uint64_t write_fails_at;    /* the n-th write from now (1: the next), synchronous or not: -EIO */
    uint64_t sync_fails_at;     /* likewise; file syncs */
    uint64_t dir_sync_fails_at;
    uint64_t crash_at;          /* the power goes at the n-th change from now (write, sync, allocate, rename, remove, dir sync), before it has its effect */
    bool sync_lies;             /* syncs return 0 and do nothing: a mutant of the whole device */
    const char *unreadable;     /* reads of this file that touch [from, to): -EIO */
    uint64_t unreadable_from, unreadable_to;
};
struct sim_disk *sim_disk_new(struct sim_world *w);
void sim_disk_free(struct sim_disk *d);
struct sim_faults *sim_disk_faults(struct sim_disk *d);
void sim_disk_crash(struct sim_disk *d);        /* power cut: the env on it is dead, what was not durable is decided by chance */
void sim_disk_kill(struct sim_disk *d);         /* kill -9: the env is dead; what was written stays (and is not durable); writes in flight: each sector may have got there */
bool sim_disk_dead(const struct sim_disk *d);   /* no env is open, or it is dead */
uint64_t sim_disk_bytes(const struct sim_disk *d); /* of all files */
void sim_disk_flip(struct sim_disk *d, const char *name, uint64_t bit);
/* For tests that look at or make files: whole content; NULL: no such file. */
const uint8_t *sim_disk_file(const struct sim_disk *d, const char *name, size_t *len);
void sim_disk_put(struct sim_disk *d, const char *name, const void *data, size_t len); /* durable */
void sim_disk_drop(struct sim_disk *d, const char *name);
struct sim_disk *sim_disk_copy(const struct sim_disk *d); /* its durable state, as another disk */
void sim_disk_each(const struct sim_disk *d, void (*each)(void *ctx, const char *name), void *ctx);

/* One at a time on a disk. */
struct env *sim_env_open(struct sim_world *w, struct sim_disk *d);
/* Open files are closed. What is still outstanding is completed first with -ECANCELED, jobs are not run but done: so a crashed engine that was closed
 * meanwhile gets its memory back. */
void sim_env_close(struct env *env);
/* As SIGSTOP: nothing comes home to its process before then. Its clock goes on. */
void sim_env_pause(struct env *env, uint64_t until_ns);
/* Of a dead one: leaves it, and the engine on it, where it is, as a dead process does; nothing of it runs any more. For tests that fork per seed. */
void sim_env_abandon(struct env *env);

#endif
