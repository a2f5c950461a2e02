/* How the server's memory is divided. The sum is written where it is computed (budget.c). */
#ifndef SERVER_BUDGET_H
#define SERVER_BUDGET_H

#include "proto/status.h"

struct budget {
    uint64_t total_bytes;
    uint64_t block_cache_bytes;    /* of the process */
    uint64_t memtables_bytes;      /* of the process; an engine gets its share by partitions owned */
    uint64_t filter_bytes;         /* idempotency keys known in memory, likewise */
    uint64_t requests_bytes;       /* arenas of all calls in flight, of the process */
    uint64_t queue_bytes;          /* commands waiting in engines, of the process: part of requests_bytes */
    uint64_t stream_bytes;         /* newest change events in memory, of the process; an engine gets its share by partitions owned */
    uint64_t lists_bytes;          /* newest rows of users' lists in memory, of the process; an engine gets its share by partitions owned */
    uint64_t rows_bytes;           /* rows of orders in memory, of the process; an engine gets its share by partitions owned */
    uint64_t connections_bytes;    /* connection state and send buffers, of the process */
    uint64_t log_gather_bytes;     /* of the process: two batches a core */
    uint32_t receive_buffer_count; /* of a core; power of two */
    uint32_t receive_buffer_bytes;
    uint64_t process_bytes;        /* code, stacks, RocksDB's tables and threads, libraft, slack */
};

/* A quarter of the machine's memory, clamped to 512 MiB .. 16 GiB. */
uint64_t budget_default_bytes(void);
/* Below the minimum for so many cores and partitions: error[] names it. */
enum status budget_derive(struct budget *b, uint64_t total_bytes, uint32_t core_count, uint32_t partition_count, char error[256]) MUST_USE;
uint64_t budget_minimum_bytes(uint32_t core_count, uint32_t partition_count);

#endif
