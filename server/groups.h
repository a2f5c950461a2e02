/* What a node keeps of consumer groups beside the partitions' rows (docs/STREAM.md). Three things:
 *
 *   rounds     on core 0: every partition gets the groups that the meta partition has, and loses those that it has not. Handlers do that themselves, so that their answer means
 *              "everywhere"; this is for what they leave behind when they are cut off, and for a crash in between
 *   figures    on core 0: lag and members of each group for /metrics, read a partition at a time at a pace that costs next to nothing
 *   names      on each core: ids of group names, for who has only a name and no time to ask the meta partition (AckRef) */
#ifndef SERVER_GROUPS_H
#define SERVER_GROUPS_H

#include "proto/base/bytes.h"

struct buf;
struct core;
struct groups;
struct node;

struct groups *groups_new(struct node *node);
void groups_free(struct groups *g); /* all loops have ended */
/* On core 0, once its engine is ready. Again: nothing. */
void groups_begin(struct groups *g, struct core *core0);

/* To be called before a change of the authority is written, and again when it is everywhere, or the handler has given up. Any core's thread. */
void groups_changing(struct core *core);
void groups_changed(struct core *core);

/* The id of a name as this core has learnt it since the last change anywhere; 0: ask the meta partition, and tell. Its thread.
 * generation: as groups_generation said before the question. */
uint32_t groups_find(struct core *core, struct slice name);
uint64_t groups_generation(const struct core *core);
void groups_learn(struct core *core, struct slice name, uint32_t group_id, uint64_t generation);

/* For /metrics, on core 0. false: no memory. */
enum { GROUPS_SHOWN_MAX = 64 };
bool groups_write_metrics(const struct groups *g, struct buf *out) MUST_USE;

#endif
