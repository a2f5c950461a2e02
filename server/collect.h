/* Figures of all cores, asked by one of them: a task goes to each core, reads its engine there and comes home; no core waits. */
#ifndef SERVER_COLLECT_H
#define SERVER_COLLECT_H

#include "server/core.h"
#include "server/mail.h"

struct collect;
struct collect_core {
    struct mail_task task; /* private */
    struct collect *collect;
    struct engine_stats stats; /* .wal points below */
    struct wal_stats wal;
    struct partition_stats *partitions;
    uint32_t partition_count, partition_cap;
};
struct collect {
    struct core *home;
    void (*done)(struct collect *c);
    void *ctx;
    uint32_t left, core_count;
    struct collect_core cores[];
};

/* done(c) runs later on this core, from its loop; it, or whoever it hands c to, frees c. NULL: no memory. */
struct collect *collect_start(struct core *home, void (*done)(struct collect *c), void *ctx);
void collect_free(struct collect *c);

#endif
