/* Private to the queries: keys that are blocked, as letters are asked for (partition_group_query.c). */
#ifndef ENGINE_PARTITION_GROUP_BLOCKED_H
#define ENGINE_PARTITION_GROUP_BLOCKED_H

#include "engine/partition_group.h"

/* On the owning core: into the op. MEMORY_LIMIT. */
enum status blocked_gather(struct partition *p, struct op *op) MUST_USE;
/* On the reader thread: op->group_blocked by slot and seq; NULL: no memory. */
const struct consumer_blocked *blocked_sorted(const struct op *op);

#endif
