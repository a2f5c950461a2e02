/* The world that an engine is lent: time, chance, files, other threads. The server implements it on io_uring (server/host.c),
 * the simulator on a simulated disk and clock (tests/lib/sim_env.c). The engine touches nothing else of the outside.
 *
 * All calls on the engine's own thread, except env_job.run. File names are relative to the engine's directory and may
 * hold one '/'. Asynchronous completions run from the loop, never from inside the call that started them. */
#ifndef ENGINE_ENV_H
#define ENGINE_ENV_H

#include "proto/base/bytes.h"

struct env;
struct env_file; /* the implementation's */

/* One asynchronous file request. The caller's memory, untouched until done. */
struct env_io {
    void (*done)(struct env_io *io, int64_t result); /* bytes written (always all asked for) or 0; -errno */
    uintptr_t host[12];                              /* the implementation's */
};

/* Work for another thread: run() there, then done() here. The caller's memory until done. */
struct env_job {
    void (*run)(struct env_job *job);
    void (*done)(struct env_job *job);
    bool patient; /* a caller's read: goes behind flushes and log segments, or a storm of cold reads would keep the log from being trimmed */
    bool behind;  /* nobody waits for it: for threads of its own, at a lower priority of the CPU */
    uintptr_t host[12];
};

enum env_open { ENV_READ = 1, ENV_WRITE = 2, ENV_CREATE = 4, ENV_DIRECT = 8 }; /* DIRECT: offsets, lengths, memory by 4096; what is not written asynchronously goes past the page cache */

struct env_ops {
    uint64_t (*mono_ns)(struct env *env);
    int64_t (*wall_us)(struct env *env); /* Unix time in microseconds; may step */
    uint64_t (*random)(struct env *env);

    /* Synchronous; at open, recovery, segment changes on a job. All return 0 or bytes, or -errno. Any thread. */
    int (*file_open)(struct env *env, const char *name, unsigned flags, struct env_file **out);
    void (*file_close)(struct env *env, struct env_file *f);
    int64_t (*file_size)(struct env *env, struct env_file *f);
    int64_t (*file_read)(struct env *env, struct env_file *f, void *buf, size_t len, uint64_t offset); /* short at the end */
    int64_t (*file_write)(struct env *env, struct env_file *f, const void *buf, size_t len, uint64_t offset);
    int (*file_sync)(struct env *env, struct env_file *f);
    int (*file_allocate)(struct env *env, struct env_file *f, uint64_t bytes); /* really written with zeros, not synced */
    int (*file_rename)(struct env *env, const char *from, const char *to);
    int (*file_remove)(struct env *env, const char *name);
    int (*dir_make)(struct env *env, const char *name); /* exists already: 0 */
    int (*dir_sync)(struct env *env, const char *name); /* "": the engine's own directory */
    /* Calls each() for every name in the directory, sorted. */
    int (*dir_list)(struct env *env, const char *name, void (*each)(void *ctx, const char *name), void *ctx);
    uint64_t (*disk_free)(struct env *env); /* bytes that this process may still use */

    /* Asynchronous. A sync covers only writes whose completion was already seen. */
    void (*write_async)(struct env *env, struct env_file *f, struct env_io *io, const void *buf, size_t len, uint64_t offset);
    void (*sync_async)(struct env *env, struct env_file *f, struct env_io *io);
    void (*offload)(struct env *env, struct env_job *job);
    void (*make_way)(struct env *env); /* between pieces of a job that is `behind`: whoever waits for this CPU goes first. Any thread */
};

struct env {
    const struct env_ops *ops;
};

#endif
