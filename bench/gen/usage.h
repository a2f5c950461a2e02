/* CPU time of this process, of others with all their children, and of the whole machine, from /proc: 10 ms steps, which is 0.2 % of five seconds. */
#ifndef BENCH_GEN_USAGE_H
#define BENCH_GEN_USAGE_H

#include "proto/base/base.h"

struct usage {
    double own_s, server_s, machine_s; /* user and system time */
};
/* server: a process; it and all its descendants are added up, and those that have ended meanwhile where their parent took note. 0: none. */
void usage_take(struct usage *u, int64_t server);

#endif
