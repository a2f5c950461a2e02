/* The door of the engine: ops in, ops out, and the order of things in a cycle.
 *
 *   engine_tick:  groups whose deadline has come
 *                 votes that changed -> one sync for all           (nothing that depends on them leaves before)
 *                 log idle? all partitions stage -> wal_commit     (one write, one sync for the whole core)
 *                 committed entries -> apply, a slice of time each (runs while the sync does)
 *                 housekeeping: pressure, disk space, flushes
 *                 finished ops -> done()
 *
 * Failure modes: a failed log or vote write stops the process (wal, votes). A store that fails (full disk) turns its partition read-only until it could be
 * reopened and the log replayed (partition.c). Everything else is a refusal of one op. */
#include "engine/engine.h"

#include <stdio.h>

#include "engine/node_row.h"
#include "engine/partition.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

enum { SCRATCH_BYTES_MAX = 32 << 20 };

/* What the log holds for one partition behind its store's state, collected while the log is opened. */
struct replayed {
    struct group_entry *entries;
    size_t n, cap;
    uint64_t restart_index; /* ENTRY_RESTART's, 0: none */
    uint64_t missing, behind; /* entries from `missing` on are not there, and `behind` is: superseded by what comes later, or the log is damaged; 0: none */
};
struct replay {
    struct replayed *at; /* by owned partition */
    char *error;
};

struct partition *engine_partition_of_group(struct engine *e, uint64_t group_id) {
    if (group_id == PARTITION_META_GROUP) return e->meta;
    return group_id >= 1 && group_id <= e->config.partition_count ? e->by_id[group_id - 1] : NULL;
}

static void replayed_clear(struct replayed *at) {
    while (at->n) mem_free((void *)at->entries[--at->n].data.data);
    at->missing = 0;
}

static enum status replay_record(void *ctx, const struct wal_record *r) {
    struct engine *e = ctx;
    struct replay *replay = e->replay;
    struct partition *p = engine_partition_of_group(e, r->group);
    if (!p) {
        snprintf(replay->error, 256, "the log of core %u holds entries of partition %lld, which is not this core's", e->config.core, (long long)r->group - 1);
        return STATUS_FORMAT_UNKNOWN;
    }
    struct replayed *at = &replay->at[p - e->partitions];
    if (partition_away_wipes(p)) return STATUS_OK; /* nothing of it counts */
    if (r->type == ENTRY_RESTART) { /* of what stands before it nothing counts */
        at->restart_index = r->index;
        replayed_clear(at);
        return STATUS_OK;
    }
    while (at->n && at->entries[at->n - 1].index >= r->index) mem_free((void *)at->entries[--at->n].data.data); /* superseded, also by one that the store holds */
    /* What the store holds already is kept for replicas that lag, as far back as a leader would have it in memory. */
    uint64_t held = MAX_OF(p->record.applied_index, at->restart_index);
    bool applied = r->index <= held;
    if (applied && r->index + partition_trailing(p) <= held) return at->missing = 0, STATUS_OK;
    if (r->index <= held + 1 && at->n && at->entries[at->n - 1].index + 1 != r->index) replayed_clear(at); /* a hole in what the store holds: of use from here on */
    uint64_t expected = at->n ? at->entries[at->n - 1].index + 1 : applied ? r->index : held + 1;
    if (r->index > expected) { /* what was superseded from `expected` on filled more than a segment, and the first has been let go (wal_trim) */
        if (!at->missing) at->missing = expected, at->behind = r->index;
        return STATUS_OK;
    }
    check(r->index == expected);
    at->missing = 0;
    if (at->n == at->cap) {
        size_t cap = at->cap ? at->cap * 2 : 64;
        void *grown = mem_realloc(at->entries, cap * sizeof *at->entries);
        if (!grown) return STATUS_MEMORY_LIMIT;
        at->entries = grown, at->cap = cap;
    }
    uint8_t *copy = mem_alloc(r->data.len);
    if (!copy) return STATUS_MEMORY_LIMIT;
    if (r->data.len) memcpy(copy, r->data.data, r->data.len);
    at->entries[at->n++] = (struct group_entry){.index = r->index, .term = r->term, .type = r->type, .data = slice_of(copy, r->data.len)};
    return STATUS_OK;
}

static void engine_synced(void *ctx, uint64_t batch) {
    struct engine *e = ctx;
    e->log_ns = e->env->ops->mono_ns(e->env) - e->log_begun_ns;
    for (uint32_t i = 0; i < e->held_count; i++) partition_synced(&e->partitions[i]);
}

static enum status engine_open_log(struct engine *e, char error[256]) {
    struct replay replay = {.at = mem_zalloc(e->held_count * sizeof *replay.at), .error = error};
    if (!replay.at) return STATUS_MEMORY_LIMIT;
    struct wal_config config = {
        .dir = "log",
        .segment_bytes = e->config.log_segment_bytes,
        .batch_bytes_max = 4 << 20,
        .live_bytes_max = e->config.log_live_bytes_max,
        .ctx = e,
        .synced = engine_synced,
    };
    e->replay = &replay;
    enum status st = wal_open(&e->wal, e->env, &config, replay_record, error);
    e->replay = NULL;
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct replayed *at = &replay.at[i];
        if (!st && at->missing) {
            snprintf(error, 256, "the log of core %u lacks entries of partition %s: %llu follows %llu", e->config.core, e->partitions[i].name, (unsigned long long)at->behind, (unsigned long long)at->missing - 1);
            st = STATUS_CHECKSUM_MISMATCH;
        }
        if (!st) st = partition_fetch_recover(&e->partitions[i], at->restart_index, error);
        if (!st) st = partition_start(&e->partitions[i], at->entries, at->n, error);
        for (size_t k = 0; k < at->n; k++) mem_free((void *)at->entries[k].data.data);
        mem_free(at->entries);
    }
    mem_free(replay.at);
    return st;
}

enum status engine_open(struct engine **out, struct env *env, const struct engine_config *config, char error[256]) {
    check(config->owned_count > 0);
    check(config->owned_count + config->meta <= WAL_GROUPS_MAX);
    *out = NULL;
    error[0] = 0;
    struct engine *e = mem_new(struct engine);
    if (!e) return STATUS_MEMORY_LIMIT;
    e->env = env;
    e->config = *config;
    list_init(&e->finished);
    list_init(&e->outbox);
    arena_init(&e->scratch, SCRATCH_BYTES_MAX);
    e->now_ns = env->ops->mono_ns(env);
    backlog_init(&e->writes, config->queue_target_ns, config->queue_ops_max, e->now_ns);
    backlog_init(&e->disk_reads, config->queue_target_ns, config->queue_ops_max, e->now_ns);
    pace_init(&e->pace);
    e->held_count = config->owned_count + config->meta;
    e->partitions = mem_zalloc(e->held_count * sizeof *e->partitions);
    e->by_id = mem_zalloc(config->partition_count * sizeof *e->by_id);
    enum status st = e->partitions && e->by_id ? STATUS_OK : STATUS_MEMORY_LIMIT;
    if (config->list_cache_bytes && !(e->lists = list_cache_new(config->list_cache_bytes))) st = STATUS_MEMORY_LIMIT;
    if (!st && !engine_present_open(e)) st = STATUS_MEMORY_LIMIT;
    if (!st) st = votes_open(&e->votes, env, "votes", error);
    for (uint32_t i = 0; !st && i < config->owned_count; i++) {
        e->by_id[config->partitions[i]] = &e->partitions[i];
        st = partition_open(&e->partitions[i], e, config->partitions[i], error);
    }
    if (!st && config->meta) {
        e->meta = &e->partitions[config->owned_count];
        st = partition_open(e->meta, e, PARTITION_META, error);
    }
    if (!st) st = engine_open_log(e, error);
    if (st) {
        if (!error[0]) snprintf(error, 256, "engine of core %u: %s", config->core, status_name(st));
        engine_close(e);
        return st;
    }
    *out = e;
    return STATUS_OK;
}

void engine_close(struct engine *e) {
    if (!e) return;
    for (uint32_t i = 0; e->partitions && i < e->held_count; i++) partition_close(&e->partitions[i]);
    for (struct list *l; (l = list_pop_front(&e->finished));) {
        struct op *op = list_entry(l, struct op, link);
        op->done(op);
    }
    for (uint32_t i = 0; e->partitions && i < e->held_count; i++) partition_timers_free(&e->partitions[i]);
    for (uint32_t i = 0; e->partitions && i < e->held_count; i++) partition_feed_free(&e->partitions[i]);
    for (uint32_t i = 0; e->partitions && i < e->held_count; i++) partition_group_free(&e->partitions[i]);
    engine_outbox_free(e);
    engine_present_close(e);
    if (e->wal) wal_close(e->wal);
    if (e->votes) votes_close(e->votes);
    arena_fini(&e->scratch);
    list_cache_free(e->lists);
    mem_free(e->partitions);
    mem_free(e->by_id);
    mem_free(e);
}

uint64_t engine_now_ms(const struct engine *e) { return e->now_ns / NS_PER_MS; }

/* Reads and writes are counted apart: writes that wait for a full disk must not shut out reads. */
static uint64_t *queue_of(struct engine *e, const struct op *op) {
    return op->kind == OP_WRITE ? &e->queue_writes : op_is_session(op) ? &e->queue_sessions : op_is_feed(op) ? &e->queue_feeds : &e->queue_reads;
}

static struct partition *engine_partition_of_slot(const struct engine *e, uint16_t slot) {
    return slot == SLOT_META ? e->meta : e->by_id[partition_of_slot(slot, e->config.partition_count)];
}

void engine_finish(struct engine *e, struct op *op) {
    e->stats.ops_done++;
    if (status_retry(op->failure.status) != RETRY_NEVER) e->stats.ops_refused++; /* no room or no time; what an order's state refuses was done */
    *queue_of(e, op) -= 1;
    if (op->kind == OP_WRITE) {
        struct partition *p = engine_partition_of_slot(e, op->slot);
        e->queue_bytes -= op->command.len;
        if (p) p->queue_bytes -= op->command.len;
    }
    list_push_back(&e->finished, &op->link);
}

/* The door stands behind the limit by half: the server keeps to it before it decodes (engine_write_queue), and cannot know then whose queue a call will stand in. Here stops
 * what goes to one core more than to the others, and batches. */
static bool engine_backlog_full(struct engine *e, struct op *op) {
    struct backlog *b = &e->writes;
    bool full = e->queue_writes > b->limit + b->limit / 2, late = op->deadline_ns && b->delay_ns > b->target_ns && op->submitted_ns + b->delay_ns > op->deadline_ns;
    if (!b->target_ns || (!full && !late)) return false;
    b->refused += full;
    b->late += !full;
    op->failure.retry_delay_ms = RETRY_DELAY_MS;
    failure_set(&op->failure, STATUS_OVERLOADED, full ? "this core has as many writes as it can do in time" : "writes wait for longer now than this call's deadline allows");
    return true;
}

static enum status engine_admit(struct engine *e, struct partition *p, struct op *op) {
    struct failure *f = &op->failure;
    if (e->draining && op->kind == OP_WRITE) return failure_set(f, STATUS_DRAINING, "this node is shutting down and takes no more writes");
    if (op->deadline_ns && op->deadline_ns <= op->submitted_ns) {
        e->writes.late++;
        return failure_set(f, STATUS_DEADLINE_EXCEEDED, "the deadline passed before the work began; nothing was done");
    }
    if (op->kind == OP_WRITE && engine_backlog_full(e, op)) return f->status;
    if (op_is_session(op)) return STATUS_OK; /* CONSUMER_MEMBERS_MAX of a group */
    if (*queue_of(e, op) > e->config.queue_ops_max || (op->kind == OP_WRITE && e->queue_bytes > e->config.queue_bytes_max)) {
        f->retry_delay_ms = RETRY_DELAY_MS;
        return failure_set(f, STATUS_OVERLOADED, "the queue of this core is full (%u operations, %llu bytes)", e->config.queue_ops_max, (unsigned long long)e->config.queue_bytes_max);
    }
    return op->kind == OP_WRITE ? partition_admit(p, op) : STATUS_OK;
}

struct engine_lead engine_lead_of(const struct engine *e, uint16_t slot) {
    const struct partition *p = engine_partition_of_slot(e, slot);
    if (!p) return (struct engine_lead){0};
    bool leads = group_role(p->group) == GROUP_LEADER;
    return (struct engine_lead){.here = p->state == PARTITION_READY || (p->state == PARTITION_FAILED && leads), .member = partition_votes(p), .node = group_leader(p->group)};
}

unsigned engine_voters_of(const struct engine *e, uint16_t slot, uint64_t node_ids[GROUP_MEMBERS_MAX]) {
    const struct partition *p = engine_partition_of_slot(e, slot);
    return p ? group_voters(p->group, node_ids) : 0;
}

void engine_submit(struct engine *e, struct op *op) {
    failure_init(&op->failure, op->arena);
    op->answer = (struct slice){0};
    op->shown = op->confirmed = op->behind = false;
    op->own = false;
    op->submitted_ns = e->env->ops->mono_ns(e->env);
    *queue_of(e, op) += 1;
    struct partition *p = engine_partition_of_slot(e, op->slot);
    if (op->kind == OP_WRITE) {
        e->queue_bytes += op->command.len;
        if (p) p->queue_bytes += op->command.len;
    }
    if (!p) {
        failure_set(&op->failure, STATUS_SLOT_MOVED, "slot %u is not on this core", op->slot);
        engine_finish(e, op);
    } else if (engine_admit(e, p, op)) {
        engine_finish(e, op);
    } else if (op->kind == OP_WRITE) {
        pace_called(&e->pace, op->submitted_ns);
        partition_group_ack(p, op);
        list_push_back(&p->waiting, &op->link);
    } else if (op_is_session(op)) {
        partition_group_op(p, op);
    } else if (op->kind == OP_VALIDATE) {
        partition_group_ack(p, op);
        partition_read(p, op);
    } else if (op->kind == OP_GROUP_UNBLOCK) {
        partition_group_unblock(p, op);
        engine_finish(e, op);
    } else if (op->kind == OP_TRANSFER) {
        (void)partition_transfer(p, op->to_node_id, &op->failure);
        engine_finish(e, op);
    } else if (op->kind == OP_STATS) {
        op->stats = partition_get_stats(p);
        engine_finish(e, op);
    } else {
        partition_read(p, op);
    }
}

enum status engine_submit_own(struct engine *e, struct partition *p, struct op *op) {
    failure_init(&op->failure, op->arena);
    if (e->draining) return failure_set(&op->failure, STATUS_DRAINING, "this node is shutting down and takes no more writes");
    if (partition_admit(p, op)) return op->failure.status;
    op->own = true;
    op->submitted_ns = e->now_ns;
    e->queue_writes++;
    e->queue_bytes += op->command.len;
    p->queue_bytes += op->command.len;
    list_push_back(&p->waiting, &op->link);
    return STATUS_OK;
}

static void votes_durable(void *ctx) { engine_outbox_run(ctx); }

/* Everything that waits goes to the log, when nothing stands before it. */
static void engine_propose(struct engine *e) {
    if (votes_dirty(e->votes) && !votes_busy(e->votes)) votes_commit(e->votes, votes_durable, e);
    if (wal_busy(e->wal)) return;
    for (uint32_t i = 0; i < e->held_count; i++) partition_stage(&e->partitions[i]);
    if (votes_dirty(e->votes) && !votes_busy(e->votes)) votes_commit(e->votes, votes_durable, e);
    if (votes_dirty(e->votes) || votes_busy(e->votes)) return; /* entries of a term never reach the disk before the term does */
    if (!wal_commit(e->wal)) return;
    e->log_begun_ns = e->now_ns;
    for (uint32_t i = 0; i < e->held_count; i++) partition_log_committed(&e->partitions[i]);
}

/* A restart applies again what is not flushed, some 20 us a command: a quarter of the log, whatever the number of partitions, bounds it to a few seconds. Whoever
 * has most of it flushes first. */
static void engine_bound_replay(struct engine *e) {
    uint64_t sum = 0, most = 0;
    struct partition *largest = NULL;
    for (uint32_t i = 0; i < e->held_count; i++) {
        uint64_t bytes = partition_log_unflushed(&e->partitions[i]);
        sum += bytes;
        if (bytes > most && e->partitions[i].state != PARTITION_FAILED) most = bytes, largest = &e->partitions[i];
    }
    if (largest && sum > e->config.log_live_bytes_max / 4) partition_flush(largest);
}

/* One partition that takes writes is reason enough to look at each of them, or one that another node leads: before it is decoded nobody knows where a write goes. */
static void engine_look_closed(struct engine *e) {
    uint32_t ready = 0, behind = 0;
    for (uint32_t i = 0; i < e->config.owned_count; i++) {
        ready += e->partitions[i].state == PARTITION_READY;
        behind += e->partitions[i].state == PARTITION_READY && e->partitions[i].pressure >= 2;
    }
    e->closed = ready == e->config.owned_count && (behind == ready || e->log_full);
}

/* What is to stay free: the operator's word, and the room of the largest merge of files that may be under way. */
static uint64_t engine_disk_reserve(const struct engine *e) {
    uint64_t merge = 0;
    for (uint32_t i = 0; i < e->held_count; i++) merge = MAX_OF(merge, e->partitions[i].merge_bytes_max);
    return e->config.disk_reserve_bytes + merge;
}

/* The log is bounded: whoever pins its oldest segment flushes in time. One after the other would take as many flushes as a segment has partitions: where that is too slow, all begin. */
static void engine_bound_log(struct engine *e) {
    const struct wal_stats *w = &e->wal_stats;
    struct partition *oldest = engine_partition_of_group(e, w->oldest_group);
    if (oldest && (w->live_bytes > w->live_bytes_max / 2 || partition_drain_flushes(oldest))) partition_unpin(oldest);
    if (w->live_bytes > w->live_bytes_max / 8 * 5)
        for (uint32_t i = 0; i < e->held_count; i++) partition_flush(&e->partitions[i]);
}

static void engine_housekeeping(struct engine *e) {
    e->next_housekeeping_ns = e->now_ns + HOUSEKEEPING_NS;
    if (!e->draining || e->queue_writes) wal_tick(e->wal); /* once drained nothing begins any more: wal_close seals the log */
    wal_get_stats(e->wal, &e->wal_stats);
    bool full = e->wal_stats.disk_full || e->env->ops->disk_free(e->env) < engine_disk_reserve(e);
    if (full != e->disk_full) {
        if (full) log_warn("disk full: writes are refused", "core=%u free=%llu reserve=%llu", e->config.core, (unsigned long long)e->env->ops->disk_free(e->env),
                           (unsigned long long)engine_disk_reserve(e));
        else log_info("disk has room again: writes are taken", "core=%u", e->config.core);
    }
    e->disk_full = full;
    e->log_full = e->wal_stats.live_bytes + e->config.log_segment_bytes > e->wal_stats.live_bytes_max;
    e->log_blocked = false;
    for (uint32_t i = 0; i < e->held_count; i++) partition_housekeeping(&e->partitions[i]);
    for (uint32_t i = 0; i < e->held_count; i++) e->yields ? partition_yield(&e->partitions[i]) : partition_yield_full(&e->partitions[i]);
    for (uint32_t i = 0; i < e->held_count; i++) partition_members_look(&e->partitions[i]);
    for (uint32_t i = 0; i < e->held_count; i++) partition_away_look(&e->partitions[i]);
    engine_look_closed(e);
    engine_bound_replay(e);
    engine_bound_log(e);
}

/* By turns, so that each partition comes first; but where timers fire last, with a slice of its own: what callers wait for elsewhere was synced together with them. */
static void engine_apply(struct engine *e) {
    uint64_t until = e->now_ns + APPLY_SLICE_NS;
    struct partition *firing = e->firing;
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct partition *p = &e->partitions[(e->apply_first + i) % e->held_count];
        if (p != firing) partition_apply(p, until);
    }
    if (firing) {
        uint64_t begun = e->env->ops->mono_ns(e->env);
        partition_apply(firing, begun + APPLY_SLICE_NS);
        pace_spent(&e->pace, e->env->ops->mono_ns(e->env) - begun);
    }
    e->apply_first = (e->apply_first + 1) % e->held_count;
}

enum status engine_receive(struct engine *e, uint64_t group_id, uint64_t from_node_id, struct slice frame) {
    if (group_id == 0) return engine_present_receive(e, from_node_id, frame);
    struct partition *p = engine_partition_of_group(e, group_id);
    if (!p) return STATUS_FIELD_INVALID;
    e->now_ns = e->env->ops->mono_ns(e->env);
    return partition_receive(p, from_node_id, frame);
}

void engine_tick(struct engine *e) {
    e->now_ns = e->env->ops->mono_ns(e->env);
    uint64_t now_ms = engine_now_ms(e);
    for (uint32_t i = 0; i < e->held_count; i++)
        if (e->partitions[i].returning) partition_return_tick(&e->partitions[i]);
        else if (e->partitions[i].away) partition_away_tick(&e->partitions[i]);
        else if (group_deadline_ms(e->partitions[i].group) <= now_ms) group_tick(e->partitions[i].group, now_ms);
    engine_propose(e);
    if (!list_empty(&e->outbox)) engine_outbox_run(e);
    engine_apply(e);
    engine_present_tick(e);
    if (pace_due(&e->pace, e->now_ns)) partition_timers_turn(e);
    for (uint32_t i = 0; i < e->held_count; i++)
        if (e->partitions[i].fetch) partition_fetch_tick(&e->partitions[i]);
    for (uint32_t i = 0; i < e->held_count; i++) partition_group_run(&e->partitions[i]);
    backlog_tick(&e->writes, e->now_ns, e->queue_writes);
    backlog_tick(&e->disk_reads, e->now_ns, e->reads_away);
    if (e->now_ns >= e->next_housekeeping_ns) engine_housekeeping(e);
    for (uint32_t i = 0; e->draining && i < e->held_count; i++)
        if (partition_drain_flushes(&e->partitions[i])) partition_flush(&e->partitions[i]);
    struct list due;
    list_init(&due);
    list_splice_back(&due, &e->finished);
    for (struct list *l; (l = list_pop_front(&due));) {
        struct op *op = list_entry(l, struct op, link);
        op->done(op);
    }
}

uint64_t engine_deadline_ns(const struct engine *e) {
    if (!list_empty(&e->finished)) return 0;
    uint64_t at = MIN_OF(e->next_housekeeping_ns, pace_deadline_ns(&e->pace));
    bool log_idle = !wal_busy(e->wal) && !votes_busy(e->votes);
    for (uint32_t i = 0; i < e->held_count; i++) {
        struct partition *p = &e->partitions[i];
        if (p->state != PARTITION_FAILED && !partition_away_wipes(p) && group_applicable(p->group) > p->record.applied_index) return 0;
        if (log_idle && !e->log_blocked && partition_has_to_stage(p)) return 0;
        if (partition_group_has_work(p)) return 0;
        if (!list_empty(&p->waiting) && e->now_ns < partition_room_ns(p)) at = MIN_OF(at, partition_room_ns(p));
        at = MIN_OF(at, p->returning ? partition_return_deadline_ns(p) : p->away ? partition_away_deadline_ns(p) : group_deadline_ms(p->group) * NS_PER_MS);
        if (p->fetch) at = MIN_OF(at, partition_fetch_deadline_ns(p));
        at = MIN_OF(at, partition_present_deadline_ns(p));
    }
    return log_idle && votes_dirty(e->votes) ? 0 : at;
}

bool engine_ready(const struct engine *e) {
    for (uint32_t i = 0; i < e->held_count; i++)
        if (!partition_settled(&e->partitions[i])) return false;
    return true;
}

void engine_yield(struct engine *e, uint64_t patience_ns) {
    e->now_ns = e->env->ops->mono_ns(e->env);
    e->yields = true;
    e->yield_until_ns = e->now_ns + patience_ns;
    for (uint32_t i = 0; i < e->held_count; i++) partition_yield(&e->partitions[i]);
}

enum status engine_read_nodes(struct engine *e, struct arena *arena, struct slice *list) {
    struct query q = {.view = {.store = e->meta ? e->meta->store : NULL}, .arena = arena};
    *list = (struct slice){0};
    return q.view.store ? query_nodes(&q, list) : STATUS_ABSENT;
}

bool engine_stats_of(const struct engine *e, uint16_t slot, struct partition_stats *out) {
    const struct partition *p = engine_partition_of_slot(e, slot);
    if (p) *out = partition_get_stats(p);
    return p != NULL;
}

enum status engine_transfer(struct engine *e, uint16_t slot, uint64_t node_id) {
    struct partition *p = engine_partition_of_slot(e, slot);
    struct failure f;
    failure_init(&f, &e->scratch);
    e->now_ns = e->env->ops->mono_ns(e->env);
    enum status st = p ? partition_transfer(p, node_id, &f) : STATUS_SLOT_MOVED;
    arena_reset(&e->scratch);
    return st;
}

void engine_drain(struct engine *e) {
    e->draining = true;
    for (uint32_t i = 0; i < e->held_count; i++) e->partitions[i].drain_index = e->partitions[i].record.applied_index;
}

/* NULL: it holds nothing up. */
static const char *partition_drain_waits(const struct engine *e, const struct partition *p) {
    if (e->yields && partition_leads_others(p) && e->now_ns < e->yield_until_ns) return "its lead is handed over";
    if (p->flushing) return "a flush";
    if (p->reads_away) return "reads of the disk";
    if (p->source || partition_fetch_busy(p)) return "a snapshot";
    if (partition_feed_busy(p)) return "retention of events";
    if (partition_group_busy(p)) return "a consumer group";
    if (p->sweeping) return "a sweep";
    if (p->state == PARTITION_READY && !partition_flushed(p)) return "what is applied is not flushed";
    if (p->state == PARTITION_OPENING && p->flushed.applied_index < p->drain_index && !group_installing(p->group) && !p->away) return "its log is being applied";
    return NULL;
}

/* *of: whose it is; NULL: the core's. */
static const char *drain_waits(const struct engine *e, const struct partition **of) {
    const char *why = NULL;
    *of = NULL;
    if (e->queue_writes) return "writes";
    if (e->queue_reads) return "reads";
    if (e->queue_feeds) return "reads of the stream";
    if (e->queue_sessions) return "consumers";
    if (!list_empty(&e->finished)) return "answers";
    if (!wal_settled(e->wal)) return "the log's disk";
    if (votes_busy(e->votes)) return "the votes' disk";
    for (uint32_t i = 0; i < e->held_count && !why; i++) *of = &e->partitions[i], why = partition_drain_waits(e, *of);
    return why;
}

bool engine_drained(const struct engine *e) {
    const struct partition *of;
    return !drain_waits(e, &of);
}

void engine_drain_waits(const struct engine *e, char text[ENGINE_WAITS_BYTES]) {
    const struct partition *of;
    const char *why = drain_waits(e, &of);
    if (!why) text[0] = 0;
    else snprintf(text, ENGINE_WAITS_BYTES, "%s%s%s", why, of ? ", partition " : "", of ? of->name : "");
}

struct engine_queue engine_write_queue(const struct engine *e) {
    return (struct engine_queue){.limit = e->writes.limit, .delay_ns = e->writes.delay_ns, .served_per_s = (uint64_t)e->writes.served_per_s, .closed = e->closed};
}

void engine_get_stats(struct engine *e, struct engine_stats *out) {
    wal_get_stats(e->wal, &e->wal_stats);
    *out = e->stats;
    if (e->lists) list_cache_get_stats(e->lists, &out->lists);
    for (uint32_t i = 0; i < e->config.owned_count; i++) {
        const struct store_stats *s = &e->partitions[i].cache;
        out->row_cache_hits += s->cache_hits, out->row_cache_misses += s->cache_misses, out->row_cache_evictions += s->cache_evictions;
        out->filter_asked += s->filter_asked, out->filter_absent += s->filter_absent, out->filter_keys += s->filter_keys;
        out->row_cache_rows += s->cache_rows, out->row_cache_bytes += s->cache_bytes;
    }
    out->queue_ops = e->queue_writes + e->queue_reads; /* a read of the stream that waits for events is no queue */
    out->queue_bytes = e->queue_bytes;
    out->write_delay_ns = e->writes.delay_ns, out->write_limit = e->writes.limit;
    out->read_delay_ns = e->disk_reads.delay_ns, out->read_limit = e->disk_reads.limit;
    out->refused_overload = e->writes.refused + e->disk_reads.refused;
    out->refused_late = e->writes.late + e->disk_reads.late;
    bool unknown = false;
    for (uint32_t i = 0; i < e->config.owned_count; i++) {
        uint64_t lag_us = partition_timers_lag_us(&e->partitions[i]);
        out->timers_pending += (uint64_t)e->partitions[i].timers.pending;
        if (lag_us == TIMERS_LAG_UNKNOWN) unknown = true;
        else out->timers_lag_us = MAX_OF(out->timers_lag_us, lag_us);
    }
    if (unknown && !out->timers_lag_us) out->timers_lag_us = TIMERS_LAG_UNKNOWN;
    out->wal = &e->wal_stats;
}

uint32_t engine_partition_stats(struct engine *e, struct partition_stats *out, uint32_t max) {
    uint32_t n = MIN_OF(max, e->config.owned_count);
    for (uint32_t i = 0; i < n; i++) out[i] = partition_get_stats(&e->partitions[i]);
    return n;
}
