#include "server/budget.h"

#include <stdio.h>
#include <unistd.h>

/* The sum, for a budget B, C cores and P partitions. Floors are what the server needs to work at all; their sum is the minimum that is named when a
 * budget is refused. F = B - the floors is what the shares divide:
 *
 *   process      96 MiB + 8 MiB a core + 4 MiB a partition   code, stacks, RocksDB's own tables and threads, libraft, allocator slack
 *   meta         6 MiB                                        the meta partition: 4 as any other, and its memtables
 *   log gather   26 MiB a core                                the batch being gathered and the one being written: 4 MiB + one record of 8 MiB + padding each
 *   memtables    8 MiB a partition + F / 4                    rows that are not flushed yet
 *   stream       1 MiB a partition + F / 32                   the newest change events, for who reads along
 *   lists        F / 16                                       the newest rows of users' lists, for first pages
 *   rows         F / 8                                        rows of orders that are read or were written last, for point reads; a quarter of it for users' counts
 *   filter       F / 64                                       which idempotency keys are known: 12 bits each
 *   requests     32 MiB a core + F / 8                        arenas of calls in flight; commands that wait in engines lie in them (half of it)
 *   connections  8 MiB a core + F / 16                        connection state, HPACK tables, send buffers
 *   receive      1 MiB a core, or as much of F / 32 as powers of two allow: 64 to 1024 buffers of 16 KiB a core for the rings
 *   block cache  32 MiB and the rest                          blocks of tables, indexes and filters included */

enum { RECEIVE_BUFFER_BYTES = 16 << 10, RECEIVE_BUFFERS_MIN = 64, RECEIVE_BUFFERS_MAX = 1024 };
#define GATHER_BYTES (26 * MIB)
#define MEMTABLE_FLOOR (8 * MIB)
#define STREAM_FLOOR (1 * MIB)
#define REQUESTS_FLOOR (32 * MIB)
#define CONNECTIONS_FLOOR (8 * MIB)
#define CACHE_FLOOR (32 * MIB)

static uint64_t process_bytes(uint64_t cores, uint64_t partitions) { return 96 * MIB + 6 * MIB + cores * 8 * MIB + partitions * 4 * MIB; }

uint64_t budget_default_bytes(void) {
    uint64_t quarter = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4;
    return MIN_OF(MAX_OF(quarter, 512 * MIB), 16 * GIB);
}

uint64_t budget_minimum_bytes(uint32_t core_count, uint32_t partition_count) {
    uint64_t a_core = GATHER_BYTES + REQUESTS_FLOOR + CONNECTIONS_FLOOR + (uint64_t)RECEIVE_BUFFERS_MIN * RECEIVE_BUFFER_BYTES;
    return process_bytes(core_count, partition_count) + core_count * a_core + partition_count * (MEMTABLE_FLOOR + STREAM_FLOOR) + CACHE_FLOOR;
}

static uint32_t receive_buffers(uint64_t total_bytes, uint32_t core_count) {
    uint32_t n = RECEIVE_BUFFERS_MIN;
    while (n < RECEIVE_BUFFERS_MAX && (uint64_t)n * 2 * RECEIVE_BUFFER_BYTES * core_count <= total_bytes / 32) n *= 2;
    return n;
}

enum status budget_derive(struct budget *b, uint64_t total_bytes, uint32_t core_count, uint32_t partition_count, char error[256]) {
    uint64_t minimum = budget_minimum_bytes(core_count, partition_count);
    if (total_bytes < minimum) {
        snprintf(error, 256, "memory-budget of %llu MiB is too small: %u cores and %u partitions need at least %llu MiB", total_bytes / MIB, core_count, partition_count,
                 (minimum + MIB - 1) / MIB);
        return STATUS_MEMORY_LIMIT;
    }
    uint64_t c = core_count, p = partition_count;
    uint64_t free_bytes = total_bytes - minimum;
    *b = (struct budget){.total_bytes = total_bytes, .process_bytes = process_bytes(c, p), .log_gather_bytes = c * GATHER_BYTES};
    b->receive_buffer_bytes = RECEIVE_BUFFER_BYTES;
    b->receive_buffer_count = receive_buffers(free_bytes, core_count);
    b->memtables_bytes = p * MEMTABLE_FLOOR + free_bytes / 4;
    b->stream_bytes = p * STREAM_FLOOR + free_bytes / 32;
    b->lists_bytes = free_bytes / 16;
    b->rows_bytes = free_bytes / 8;
    b->filter_bytes = free_bytes / 64;
    b->requests_bytes = c * REQUESTS_FLOOR + free_bytes / 8;
    b->queue_bytes = b->requests_bytes / 2;
    b->connections_bytes = c * CONNECTIONS_FLOOR + free_bytes / 16;
    uint64_t taken = b->process_bytes + b->log_gather_bytes + c * b->receive_buffer_count * b->receive_buffer_bytes + b->memtables_bytes + b->stream_bytes + b->lists_bytes + b->rows_bytes + b->filter_bytes + b->requests_bytes + b->connections_bytes;
    check(taken + CACHE_FLOOR <= total_bytes);
    b->block_cache_bytes = total_bytes - taken;
    return STATUS_OK;
}
