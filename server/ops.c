#include "server/ops.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/trash.h"
#include "proto/base/mem.h"
#include "server/clock.h"
#include "server/collect.h"
#include "server/groups.h"
#include "server/node.h"

enum { STUCK_S = 5 };

/* ---- /healthz: the process is there and every loop turns */

static void healthz(struct node *node, struct http_exchange *x) {
    uint64_t now_ns = clock_mono_ns();
    for (uint32_t i = 0; i < node->core_count; i++) {
        uint64_t beat_ns = metric_load(&node->cores[i]->beat_ns);
        if (now_ns <= beat_ns || now_ns - beat_ns < STUCK_S * NS_PER_S) continue;
        char text[96];
        snprintf(text, sizeof text, "core %u has not turned for %llu s\n", i, (now_ns - beat_ns) / NS_PER_S);
        http_respond_text(x, 503, text);
        return;
    }
    http_respond_text(x, 200, "ok\n");
}

/* ---- /readyz: calls would be served */

static void readyz(struct node *node, struct http_exchange *x) {
    if (node_draining(node)) {
        http_respond_text(x, 503, "draining\n");
        return;
    }
    for (uint32_t i = 0; i < node->core_count; i++) {
        if (__atomic_load_n(&node->cores[i]->ready, __ATOMIC_RELAXED)) continue;
        char text[96];
        snprintf(text, sizeof text, "core %u is recovering its log\n", i);
        http_respond_text(x, 503, text);
        return;
    }
    http_respond_text(x, 200, "ready\n");
}

/* ---- /metrics */

static uint64_t resident_bytes(void) {
    char text[128] = "";
    unsigned long pages = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    return n > 0 && sscanf(text, "%*u %lu", &pages) == 1 ? pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static double cpu_seconds(void) {
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0) return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t open_files(void) {
    uint64_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the directory itself */
}

static bool one(struct buf *out, const char *name, const char *kind, const char *help, uint64_t value) {
    return metrics_write_head(out, name, kind, help) && metrics_printf(out, "%s %lu\n", name, value);
}

static bool write_process(struct buf *out, const struct node *node) {
    const struct budget *b = &node->budget;
    return one(out, "process_resident_memory_bytes", "gauge", "Resident memory of the process.", resident_bytes()) &&
           metrics_write_head(out, "process_cpu_seconds_total", "counter", "User and system CPU time of the process.") &&
           metrics_printf(out, "process_cpu_seconds_total %.6f\n", cpu_seconds()) && one(out, "process_open_fds", "gauge", "Open file descriptors.", open_files()) &&
           one(out, "orderdb_trash_bytes", "gauge", "Of tables that are needed no more, and are freed piece by piece.", trash_bytes(node->trash)) &&
           one(out, "orderdb_memory_budget_bytes", "gauge", "The memory budget.", b->total_bytes) &&
           one(out, "orderdb_ready", "gauge", "1: serving.", node_all_ready(node) && !node_draining(node)) &&
           metrics_write_head(out, "orderdb_build_info", "gauge", "Version of the program.") &&
           metrics_printf(out, "orderdb_build_info{version=\"%s\"} 1\n", ORDERDB_VERSION);
}

/* Rows of engine_stats and wal_stats: one sample a core. */
#define ENGINE_FIGURES(row)                                                                                     \
    row("orderdb_engine_ops_total", "counter", "Operations finished, whatever the answer.", stats.ops_done)     \
    row("orderdb_engine_refused_total", "counter", "Of them, not done for want of room or time: queue, log, memory, disk, deadline, drain.", stats.ops_refused) \
    row("orderdb_engine_creates_total", "counter", "Orders created.", stats.creates)                            \
    row("orderdb_engine_transitions_total", "counter", "Transitions applied.", stats.transitions)               \
    row("orderdb_engine_imports_total", "counter", "Orders imported.", stats.imports)                           \
    row("orderdb_timers_pending", "gauge", "Order timers that have not fired.", stats.timers_pending)          \
    row("orderdb_timers_fired_total", "counter", "Order timers that fired.", stats.timers_fired)               \
    row("orderdb_engine_reads_total", "counter", "Reads answered.", stats.reads)                                \
    row("orderdb_engine_reads_followed_total", "counter", "Reads of a bounded past answered without the lead, after asking who has it.", stats.reads_followed) \
    row("orderdb_engine_read_rounds_total", "counter", "Rounds by which a lead was confirmed, or asked, for the reads that waited.", stats.rounds) \
    row("orderdb_engine_replays_total", "counter", "Writes answered from their idempotency record.", stats.replays) \
    row("orderdb_engine_entries_total", "counter", "Raft entries applied.", stats.entries)                      \
    row("orderdb_engine_commands_total", "counter", "Commands in them.", stats.commands)                        \
    row("orderdb_engine_queue_ops", "gauge", "Operations waiting or under way.", stats.queue_ops)               \
    row("orderdb_engine_queue_bytes", "gauge", "Command bytes waiting or under way.", stats.queue_bytes)        \
    row("orderdb_engine_write_limit", "gauge", "Writes that may be inside, so that each waits for about queue-target.", stats.write_limit) \
    row("orderdb_engine_disk_read_limit", "gauge", "Reads from disk, likewise.", stats.read_limit)              \
    row("orderdb_engine_refused_overload_total", "counter", "Operations refused at this core's own limit, after decoding.", stats.refused_overload) \
    row("orderdb_engine_refused_late_total", "counter", "Operations dropped because their deadline had passed, or would pass while they waited.", stats.refused_late) \
    row("orderdb_engine_reads_offloaded_total", "counter", "Reads that went to a reader thread.", stats.reads_offloaded) \
    row("orderdb_list_cache_hits_total", "counter", "List pages answered from the rows kept in memory.", stats.lists.hits) \
    row("orderdb_list_cache_misses_total", "counter", "List pages that had to look into the store.", stats.lists.misses) \
    row("orderdb_list_cache_evictions_total", "counter", "Users whose rows went for want of room.", stats.lists.evictions) \
    row("orderdb_list_cache_users", "gauge", "Users whose newest list rows are kept in memory.", stats.lists.users) \
    row("orderdb_list_cache_rows", "gauge", "Those rows.", stats.lists.rows) \
    row("orderdb_list_cache_bytes", "gauge", "What they take.", stats.lists.bytes) \
    row("orderdb_list_cache_bytes_max", "gauge", "Its limit.", stats.lists.bytes_max) \
    row("orderdb_index_check_orders_total", "counter", "Orders that CheckIndexes has looked at.", stats.index_check.orders) \
    row("orderdb_index_check_rows_total", "counter", "Index rows that it has looked at.", stats.index_check.rows) \
    row("orderdb_index_check_defects_total", "counter", "Index rows that it found missing or too many.", stats.index_check.defects) \
    row("orderdb_index_check_partitions_total", "counter", "Partitions that it has come to the end of.", stats.index_check.passes) \
    row("orderdb_index_check_last_time_seconds", "gauge", "When it last came to the end of one; 0: never.", stats.index_check.passed_s) \
    row("orderdb_request_filter_asked_total", "counter", "Idempotency keys that commits looked up.", stats.filter_asked) \
    row("orderdb_request_filter_absent_total", "counter", "Of them, known in memory to be new: neither tables nor files were asked.", stats.filter_absent) \
    row("orderdb_request_filter_keys", "gauge", "Idempotency keys in that memory.", stats.filter_keys) \
    row("orderdb_row_cache_hits_total", "counter", "Rows that reads and commits found in the row cache, some of them because they had been asked for together.", stats.row_cache_hits) \
    row("orderdb_row_cache_misses_total", "counter", "Rows that they then looked for in the store's tables and files.", stats.row_cache_misses) \
    row("orderdb_row_cache_evictions_total", "counter", "Rows that left the row cache to make room.", stats.row_cache_evictions) \
    row("orderdb_row_cache_rows", "gauge", "Rows in the row cache.", stats.row_cache_rows) \
    row("orderdb_row_cache_bytes", "gauge", "Bytes of the row cache in use.", stats.row_cache_bytes) \
    row("orderdb_engine_flushes_total", "counter", "Store flushes.", stats.flushes)                             \
    row("orderdb_engine_frames_lost_total", "counter", "Frames for other nodes that had no room while votes were synced.", stats.frames_lost) \
    row("orderdb_snapshots_offered_total", "counter", "Times that a replica was behind the log and was offered a snapshot.", stats.followers_behind) \
    row("orderdb_snapshots_given_total", "counter", "Snapshots made for other nodes.", stats.snapshots_given)    \
    row("orderdb_snapshots_taken_total", "counter", "Snapshots installed here.", stats.snapshots_taken)          \
    row("orderdb_snapshot_bytes_total", "counter", "Bytes of snapshots fetched.", stats.snapshot_bytes)          \
    row("orderdb_log_live_bytes", "gauge", "Log on disk that is still needed.", wal.live_bytes)                 \
    row("orderdb_log_live_bytes_max", "gauge", "Its limit.", wal.live_bytes_max)                                \
    row("orderdb_log_segments", "gauge", "Segment files.", wal.segments)                                        \
    row("orderdb_log_batches_total", "counter", "Batches written and synced.", wal.batches)                     \
    row("orderdb_log_records_total", "counter", "Records in them.", wal.records)                                \
    row("orderdb_log_written_bytes_total", "counter", "Bytes written to the log.", wal.bytes_written)           \
    row("orderdb_log_disk_full", "gauge", "1: no segment could be made.", wal.disk_full)

/* The same, kept in nanoseconds and shown in seconds. */
#define ENGINE_TIMES(row)                                                                                        \
    row("orderdb_engine_write_delay_seconds", "gauge", "How long writes wait now, one sync of the log left out.", stats.write_delay_ns) \
    row("orderdb_engine_disk_read_delay_seconds", "gauge", "How long reads from disk wait for a thread.", stats.read_delay_ns) \
    row("orderdb_engine_apply_seconds_total", "counter", "Time spent applying entries.", stats.apply_ns)         \
    row("orderdb_engine_last_flush_seconds", "gauge", "Time that the last store flush took.", stats.flush_ns_last) \
    row("orderdb_log_sync_max_seconds", "gauge", "The longest sync since the start.", wal.sync_ns_max)

#define PARTITION_FIGURES(row)                                                                        \
    row("orderdb_partition_ready", "gauge", "1: leads and has applied its log.", ready)               \
    row("orderdb_partition_read_only", "gauge", "1: takes no writes (disk full).", read_only)         \
    row("orderdb_partition_orders", "gauge", "Orders held.", orders)                                  \
    row("orderdb_partition_writes_total", "counter", "Writes applied.", writes)                       \
    row("orderdb_partition_reads_total", "counter", "Reads answered.", reads)                         \
    row("orderdb_partition_leader_node", "gauge", "Node that leads, as this one knows; 0: none.", leader_node) \
    row("orderdb_partition_term", "gauge", "Raft's term.", term)                                      \
    row("orderdb_partition_commit_index", "gauge", "Last entry known to be committed.", commit_index) \
    row("orderdb_partition_applied_index", "gauge", "Last entry applied.", applied_index)             \
    row("orderdb_partition_flushed_index", "gauge", "Last entry that is in the store's files.", flushed_index) \
    row("orderdb_partition_table_bytes", "gauge", "Store files.", table_bytes)                        \
    row("orderdb_partition_table_readers_bytes", "gauge", "Filters and indexes of the store's files, in memory beside the block cache, which gives way to them.", table_readers_bytes) \
    row("orderdb_partition_memtable_bytes", "gauge", "Store memory.", memtable_bytes)        \
    row("orderdb_partition_compaction_debt_bytes", "gauge", "Bytes that compactions have yet to rewrite, as RocksDB estimates.", compaction_debt_bytes) \
    row("orderdb_partition_level0_files", "gauge", "Files that no compaction has merged yet.", level0_files) \
    row("orderdb_partition_pressure", "gauge", "1: behind with files and compactions, bulk work waits; 2: writes are refused.", pressure)

/* Where it is not known there is no sample: 0 would say that nothing is due. */
static bool write_timers_lag(struct buf *out, const struct collect *c) {
    bool ok = metrics_write_head(out, "orderdb_timers_lag_seconds", "gauge", "How long the oldest timer that has not fired has been due; no sample: not known yet.");
    for (uint32_t i = 0; ok && i < c->core_count; i++) {
        uint64_t lag_us = c->cores[i].stats.timers_lag_us;
        if (lag_us != TIMERS_LAG_UNKNOWN) ok = metrics_printf(out, "orderdb_timers_lag_seconds{core=\"%u\"} %.6f\n", i, (double)lag_us / 1e6);
    }
    return ok;
}

static bool write_engines(struct buf *out, const struct collect *c) {
    bool ok = true;
#define ROW(name, kind, help, field)                                 \
    ok = ok && metrics_write_head(out, name, kind, help);            \
    for (uint32_t i = 0; ok && i < c->core_count; i++) ok = metrics_printf(out, name "{core=\"%u\"} %lu\n", i, (uint64_t)c->cores[i].field);
    ENGINE_FIGURES(ROW)
#undef ROW
#define ROW(name, kind, help, field)                                 \
    ok = ok && metrics_write_head(out, name, kind, help);            \
    for (uint32_t i = 0; ok && i < c->core_count; i++) ok = metrics_printf(out, name "{core=\"%u\"} %.9f\n", i, (double)c->cores[i].field / 1e9);
    ENGINE_TIMES(ROW)
#undef ROW
    return ok && write_timers_lag(out, c);
}

static bool write_partitions(struct buf *out, const struct collect *c) {
    bool ok = true;
#define ROW(name, kind, help, field)                                                            \
    ok = ok && metrics_write_head(out, name, kind, help);                                       \
    for (uint32_t i = 0; ok && i < c->core_count; i++)                                          \
        for (uint32_t p = 0; ok && p < c->cores[i].partition_count; p++)                        \
            ok = metrics_printf(out, name "{partition=\"%u\"} %lu\n", c->cores[i].partitions[p].partition, (uint64_t)c->cores[i].partitions[p].field);
    PARTITION_FIGURES(ROW)
#undef ROW
    return ok;
}

static bool write_cores(struct buf *out, const struct node *node) {
    struct metrics **list = mem_alloc(node->core_count * sizeof *list);
    if (!list) return false;
    for (uint32_t i = 0; i < node->core_count; i++) list[i] = &node->cores[i]->metrics;
    bool ok = metrics_write(out, list, node->core_count);
    mem_free(list);
    return ok;
}

static void on_collected(struct collect *c) {
    struct http_exchange *x = c->ctx;
    const struct node *node = c->home->node;
    struct buf out = {0};
    bool ok = write_process(&out, node) && write_cores(&out, node) && write_engines(&out, c) && write_partitions(&out, c) && groups_write_metrics(node->groups, &out);
    collect_free(c);
    if (ok) {
        http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
        return;
    }
    buf_fini(&out);
    http_respond_text(x, 503, "out of memory\n");
}

void ops_handle(void *ctx, struct http_exchange *x, struct slice path) {
    struct node *node = ctx;
    if (slice_equal(path, SLICE_LIT("/healthz"))) healthz(node, x);
    else if (slice_equal(path, SLICE_LIT("/readyz"))) readyz(node, x);
    else if (!slice_equal(path, SLICE_LIT("/metrics"))) http_respond_text(x, 404, "try /healthz, /readyz or /metrics\n");
    else if (!collect_start(node->cores[0], on_collected, x)) http_respond_text(x, 503, "out of memory\n");
}
