/* Who this server is: data/NODE, written once at the first start, and data/LOCK, held as long as the process lives. What is fixed at the first start
 * (cores, partitions) is refused later when asked for differently: each core has a log, each slot its partition.
 *
 * NODE, 80 bytes, little-endian, mode 0600; format 1: a single node, 2: one of several, which an orderd that knows no others must not open:
 *   0 magic "ODB NODE" | 8 format u32 | 12 node id u64 | 20 cluster id 16 | 36 cores u32 | 40 partitions u32 | 44 token key 32 | 76 CRC-32C of 0..75
 * Format 3, 96 bytes: one of several, that went on alone (recovery.h) under a cluster id that nobody else has; with the id that it had before, which is what its flags still say:
 *   0 as above | 76 founders' cluster id 16 | 92 CRC-32C of 0..91 */
#ifndef SERVER_IDENTITY_H
#define SERVER_IDENTITY_H

#include "proto/status.h"

enum { IDENTITY_BYTES = 80, IDENTITY_BYTES_MAX = 96, IDENTITY_FORMAT = 3, CLUSTER_ID_BYTES = 16, TOKEN_KEY_BYTES = 32 };

struct identity {
    uint64_t node_id;
    bool clustered; /* one of several */
    bool recovered; /* and went on alone: cluster_id is of its own making */
    uint8_t cluster_id[CLUSTER_ID_BYTES];
    uint8_t founders_id[CLUSTER_ID_BYTES]; /* recovered: what cluster_id was at first */
    uint32_t cores, partitions;
    uint8_t token_key[TOKEN_KEY_BYTES];
};

size_t identity_encode(const struct identity *id, uint8_t out[IDENTITY_BYTES_MAX]); /* how many */
/* CHECKSUM_MISMATCH: damaged or not such a file; FORMAT_UNKNOWN: of another version. */
enum status identity_decode(struct identity *id, struct slice bytes) MUST_USE;

/* Makes the directory if need be (0700), opens it and takes its lock. Both fds stay open as long as the server runs. */
enum status data_dir_open(const char *path, int *dir_fd, int *lock_fd, char error[512]) MUST_USE;

/* NODE as it is; ABSENT: there is none, or it can't be read. */
enum status identity_peek(struct identity *id, int dir_fd) MUST_USE;
/* Another one in its place, whole or not at all: 0, or -errno. */
int identity_replace(const struct identity *id, int dir_fd) MUST_USE;

struct identity_wish {
    uint32_t cores, partitions;                   /* asked for; 0: whatever is there */
    uint32_t cores_by_default, partitions_by_default; /* at the first start, for what is not asked; partitions 0: twice the cores */
    /* One of several nodes: who it is, and what all of them share (cluster.h). NULL: a single node, with an identity of its own making. */
    const struct cluster_identity {
        uint64_t node_id;
        uint8_t cluster_id[CLUSTER_ID_BYTES], token_key[TOKEN_KEY_BYTES];
    } *cluster;
    bool told; /* the cluster's id is what a node of it says now, not what flags say of its beginning */
};
/* Reads NODE, or makes it in a directory that holds nothing of ours yet. `path` is for the error text. */
enum status identity_open(struct identity *id, int dir_fd, const char *path, const struct identity_wish *wish, char error[512]) MUST_USE;

#endif
