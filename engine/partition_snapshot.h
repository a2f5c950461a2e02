/* Snapshots between replicas (docs/CLUSTER.md): private to partition_source.c, which gives one, and partition_fetch.c, which takes one. */
#ifndef ENGINE_PARTITION_SNAPSHOT_H
#define ENGINE_PARTITION_SNAPSHOT_H

#include "engine/partition.h"
#include "proto/peer.h"

enum {
    SNAPSHOT_CHUNK_BYTES = 256 << 10, /* engine_config.snapshot_chunk_bytes: 0 */
    SNAPSHOT_SOURCES_MAX = 2,         /* checkpoints that a core keeps at a time: more who ask are told to wait */
};
#define SNAPSHOT_BYTES_PER_S (32 * MIB)        /* engine_config.snapshot_bytes_per_s: 0 */
#define SNAPSHOT_ASK_NS (1 * NS_PER_S)         /* an answer that has not come is asked for again */
#define SNAPSHOT_WAIT_NS (100 * NS_PER_MS)     /* to ask again who says that it is not ready */
#define SNAPSHOT_GIVE_UP_NS (5 * NS_PER_S)     /* nothing has come: what came so far is thrown away, and the next offer taken */
#define SNAPSHOT_PAUSE_NS (1 * NS_PER_S)       /* after a failure */
#define SNAPSHOT_IDLE_NS (15 * NS_PER_S)       /* nobody asks: the checkpoint goes; above SNAPSHOT_GIVE_UP_NS */
#define SNAPSHOT_THANKED_NS (3 * NS_PER_S)     /* the same, once somebody has all of it: for as long as installing it may take, for the entries behind it are kept until then */

static_assert((int)SNAPSHOT_CHUNK_BYTES <= (int)PEER_CHUNK_BYTES_MAX, "a chunk fits a frame");

void partition_send(struct partition *p, struct peer_message *m, uint64_t node_id); /* lost when there is no memory for it */
void partition_source_asked(struct partition *p, const struct peer_message *m);
void partition_return_receive(struct partition *p, const struct peer_message *m); /* partition_return.c */
void partition_fetch_came(struct partition *p, const struct peer_message *m);

#endif
