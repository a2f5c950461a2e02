/* What several nodes have left of a cluster that lost its majority, side by side: which of them is furthest, by partition, and what the others lack (docs/CLUSTER.md, "A majority that is lost").
 * Each tells what it has (`orderctl recover --inspect`), as text that can be carried to one machine:
 *
 *   orderdb survivor 1
 *   node 3 cores 2 partitions 4 cluster a0a1a2a3a4a5a6a7a8a9aaabacadaeaf
 *   partition 0 holds 1 votes 1 forgot 0 alone 0 applied 3:118 log 4:120 term 4 orders 60 voters 1,2,3
 *   ... one line a partition, ascending; the last is `partition meta`; applied and log are TERM:INDEX; without voters: -
 *   end
 *
 * Further is whose log ends in a higher term, and among equals at a higher index: whoever would win the election. Such a log has every committed entry that any other of them has (Raft
 * section 5.4.1). A replica that forgot what it had acknowledged (a lost disk) is behind all that did not. Pure: reads bytes, prints into buffers. */
#ifndef SERVER_SURVIVORS_H
#define SERVER_SURVIVORS_H

#include "engine/recover.h"
#include "proto/base/buf.h"
#include "server/identity.h"

enum { SURVIVORS_MAX = 16, SURVIVOR_LINE_BYTES = 512, SURVIVOR_PARTITIONS_MAX = 1024 };

struct survivor {
    uint64_t node_id;
    uint32_t cores, partitions;
    uint8_t cluster_id[CLUSTER_ID_BYTES];
    struct recover_replica *replicas; /* [partitions + 1], the meta partition last; mem_free() */
};

/* false: no memory. */
bool survivor_print(const struct survivor *s, struct buf *out) MUST_USE;
/* *s needs survivor_fini() whatever the answer. FIELD_INVALID: error[] says which line, and what of it. */
enum status survivor_parse(struct survivor *s, struct slice text, char error[256]) MUST_USE;
void survivor_fini(struct survivor *s);

/* Which one should go on alone: furthest in most partitions; of equals, the one that is in the meta partition, then the first. */
unsigned survivors_best(const struct survivor *s, unsigned count);
/* The furthest of partition `at`; -1: none of them holds it. Of equals `best`, if it is one of them, else the first. */
int survivors_furthest(const struct survivor *s, unsigned count, unsigned best, uint32_t at);
/* A table, what each lacks, and what follows. FIELD_INVALID: they are not of one cluster, or a node is there twice. */
enum status survivors_compare(const struct survivor *s, unsigned count, struct buf *out, char error[256]) MUST_USE;

#endif
