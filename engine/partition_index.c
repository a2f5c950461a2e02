/* Orders of a store that is older than the indexes get their rows in the background (docs/INDEXES.md): a piece in each round of housekeeping, between two entries, so that what is
 * read is what the rows say. Local, not through the log: the rows follow from the orders, whoever writes them, and a replica that has them needs no other's walk. */
#include "engine/index.h"
#include "engine/partition.h"
#include "proto/base/log.h"

enum { BUILD_ORDERS = 64 }; /* in 20 ms: a millisecond or so of a core, 3,200 orders a second */

enum status partition_index_load(struct partition *p)
{
    struct key k;
    struct slice row;
    struct store_view view = {.store = p->store};
    key_index_record(&k);
    enum status st = store_get(&view, key_slice(&k), &p->engine->scratch, &row);
    if (!st) return index_record_decode(row, &p->index);
    if (st != STATUS_ABSENT) return st;
    p->index = (struct index_record){.complete = p->id == PARTITION_META || !p->record.order_count};
    if (!p->index.complete) {
        p->index.slot = partition_first_slot(p->id, p->engine->config.partition_count);
        log_info("orders that are older than the indexes are indexed in the background", "partition=%s orders=%lld", p->name, (long long)p->record.order_count);
    }
    return STATUS_OK;
}

void partition_index_housekeeping(struct partition *p)
{
    struct engine *e = p->engine;
    struct index_record next = p->index;
    if (next.complete || p->state != PARTITION_READY || p->pressure || e->disk_full || e->draining) return;
    store_batch_clear(p->batch);
    enum status st = index_build(p->store, p->batch, &e->scratch, &next, partition_last_slot(p->id, e->config.partition_count), BUILD_ORDERS);
    if (!st) st = store_apply(p->store, p->batch);
    if (st) {
        if (!p->index_failed) log_warn("older orders can't be indexed now", "partition=%s slot=%u status=%s", p->name, p->index.slot, status_name(st));
        p->index_failed = true; /* said once; a store that failed is found by housekeeping, what is damaged stays incomplete */
        return;
    }
    p->index_failed = false;
    p->index = next;
    if (next.complete) log_info("all orders are indexed", "partition=%s", p->name);
}
