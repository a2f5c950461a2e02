/* The engine's world (engine/env.h) on this machine: files under one directory, writes and syncs through the core's ring, jobs on the readers. */
#ifndef SERVER_HOST_H
#define SERVER_HOST_H

#include "engine/env.h"

struct core;
struct host;

/* dir_fd: the engine's directory; stays the caller's, open as long as the host. core: its ring and readers are used; NULL: there is no loop, what is asynchronous is done at once, and comes
 * home by host_turn. NULL: no memory. */
struct host *host_new(struct core *core, int dir_fd);
void host_free(struct host *h);
/* Without a core: everything that is done comes home, jobs are run. false: there was nothing. */
bool host_turn(struct host *h);
struct env *host_env(struct host *h);

#endif
