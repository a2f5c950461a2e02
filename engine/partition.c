/* One partition: from waiting ops to applied entries, its store's flushes, and what happens when the store can't write.
 *
 * Full disk: RocksDB's background write fails, the store takes nothing more (PARTITION_FAILED). What was committed and not applied stays in the log; its ops stay in `proposed`
 * and are answered when it is applied after all, or their deadline passes (the caller's business). Reads go on from what is in memory and on disk. When there is room again
 * partition_reopen closes the store, opens it at its flushed state and applies the log from there, as a restart would; no restart of the process is needed. Where
 * that fails half-way, reads are refused until it has gone through (shown_index). A flush must then succeed before writes are taken: a disk that still fails would otherwise let
 * in a few writes at each attempt. */
#include "engine/partition.h"

#include <inttypes.h>
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"

/* ---- open and close */

enum status partition_record_read(struct store *store, struct arena *arena, struct partition_record *out) {
    struct key key;
    struct slice row;
    struct store_view view = {.store = store};
    key_partition(&key);
    enum status st = store_get(&view, key_slice(&key), arena, &row);
    return st ? st : partition_record_decode(row, out);
}

uint32_t partition_trailing(const struct partition *p) {
    const struct engine_config *c = &p->engine->config;
    return p->record.members.count <= 1 ? 0 : c->trailing_entries ? c->trailing_entries : TRAILING_ENTRIES;
}

static enum status record_create(struct partition *p) {
    struct engine *e = p->engine;
    if (e->config.members && !e->config.members->count) return STATUS_ABSENT;
    p->record = (struct partition_record){
        .machines_known = MACHINES_BUILT_IN,
        .members = p->away ? partition_away_members() : e->config.members ? *e->config.members : (struct group_members){.member = {{.node_id = e->config.node_id, .kind = GROUP_VOTER}}, .count = 1},
    };
    p->record.members.index = GROUP_FIRST_INDEX;
    struct apply a = {.view = {.store = p->store, .batch = p->batch}, .machines = e->config.machines, .record = p->record, .scratch = &e->scratch};
    store_batch_clear(p->batch);
    apply_end(&a, GROUP_FIRST_INDEX, 1);
    index_record_put(p->batch, &(struct index_record){.complete = true}); /* nothing is older than the indexes */
    p->record = a.record;
    enum status st = store_apply(p->store, p->batch);
    return st ? st : store_flush(p->store); /* an empty store and a trimmed log must not look alike */
}

/* What point reads ask for again and again. A row of counts is a twentieth of an order's rows, and each create and transition reads one, of a user whose last order may be long ago: a quarter of the bytes keeps them for
 * several times as many users as there are orders in the rest. */
enum { ORDER_ROW_BYTES = 240, COUNTS_ROW_BYTES = 32 };
static enum status keep_rows(struct partition *p) {
    static const uint8_t orders[] = {KEY_HEAD, KEY_BODY, KEY_HISTORY}, counts[] = {KEY_COUNTS};
    uint64_t bytes = p->engine->config.row_cache_bytes / p->engine->config.owned_count;
    if (p->id == PARTITION_META || bytes / 4 < STORE_CACHE_BYTES_MIN) return STATUS_OK;
    enum status st = store_cache_rows(p->store, bytes / 4, COUNTS_ROW_BYTES, slice_of(counts, sizeof counts));
    return st ? st : store_cache_rows(p->store, bytes - bytes / 4, ORDER_ROW_BYTES, slice_of(orders, sizeof orders));
}

enum status partition_store_load(struct partition *p, char error[256]) {
    struct engine *e = p->engine;
    enum status st = e->config.store_open(e->config.store_ctx, p->id, p->memtable_share, &p->store, error);
    if (st) return st;
    if ((st = keep_rows(p))) return st;
    arena_reset(&e->scratch);
    st = partition_record_read(p->store, &e->scratch, &p->record);
    if (!st || st == STATUS_ABSENT) {
        enum status known = partition_filter_load(p, st == STATUS_ABSENT);
        if (known) return known;
    }
    p->batch = store_batch_new(p->store);
    if (!p->batch) return STATUS_MEMORY_LIMIT;
    if (st == STATUS_ABSENT) st = record_create(p);
    if (!st) st = partition_feed_load(p);
    if (!st) st = partition_timers_load(p);
    if (!st) st = partition_index_load(p);
    p->flushed = p->record;
    if (st) return snprintf(error, 256, "partition %s: its record can't be read: %s", p->name, status_name(st)), st;
    char why[256] = "";
    struct store_view view = {.store = p->store};
    st = machine_rows_load(&view, e->config.machines, p->record.machines_known, &e->scratch, why);
    if (st) snprintf(error, 256, "partition %s: its status machines can't be read: %s %.150s", p->name, status_name(st), why);
    return st;
}

/* What apply has kept in memory of what it wrote: of commits that did not come to be, or of a store that goes. */
static void commits_forget(struct partition *p) {
    const struct slot_cache *slots = &p->slots;
    slot_cache_clear(&p->slots);
    if (slots->count) list_cache_forget(p->engine->lists, slots->first, (uint16_t)(slots->first + slots->count - 1));
}

void partition_store_unload(struct partition *p) {
    partition_timers_unload(p);
    partition_filter_unload(p);
    if (p->batch) store_batch_free(p->batch);
    if (p->store) store_close(p->store);
    p->batch = NULL;
    p->store = NULL;
    commits_forget(p);
    feed_tail_clear(&p->tail);
}

enum status partition_open(struct partition *p, struct engine *e, uint32_t id, char error[256]) {
    *p = (struct partition){.engine = e, .id = id, .group_id = (uint64_t)id + 1, .memtable_share = e->config.memtable_bytes / e->config.owned_count};
    brake_init(&p->brake, e->now_ns);
    list_init(&p->waiting);
    list_init(&p->proposed);
    list_init(&p->held);
    partition_present_open(p);
    if (partition_feed_open(p) || partition_timers_open(p) || partition_group_open(p)) return STATUS_MEMORY_LIMIT;
    if (id == PARTITION_META) { /* no slots */
        snprintf(p->name, sizeof p->name, "meta");
        p->memtable_share = META_MEMTABLE_BYTES;
        return partition_store_load(p, error); /* it is on all nodes, and never away */
    }
    snprintf(p->name, sizeof p->name, "%u", id);
    uint16_t first = partition_first_slot(id, e->config.partition_count), last = partition_last_slot(id, e->config.partition_count);
    if (!slot_cache_init(&p->slots, first, last - first + 1u)) return STATUS_MEMORY_LIMIT;
    enum status st = partition_away_found(p, error);
    if (e->config.store_sweep) e->config.store_sweep(e->config.store_ctx, id);
    return st ? st : partition_store_load(p, error);
}

enum status partition_start(struct partition *p, const struct group_entry *entries, size_t n, char error[256]) {
    struct engine *e = p->engine;
    struct group_config config = {
        .group_id = p->group_id,
        .node_id = e->config.node_id,
        .election_ms = e->config.election_ms,
        .heartbeat_ms = e->config.heartbeat_ms,
        .inflight_max = 256,
        .uncommitted_max = 64,
        .seed = (uint32_t)e->env->ops->random(e->env),
        .ops = &partition_group_ops,
        .ctx = p,
    };
    struct group_snapshot snapshot = {.index = p->record.applied_index, .term = p->record.applied_term, .members = p->record.members};
    /* With the whole log still there the group starts from its very beginning: a replica that has nothing yet needs the term of the index before the first entry. */
    bool whole = p->record.members.count > 1 && p->record.members.index == GROUP_FIRST_INDEX && n && entries[0].index == GROUP_FIRST_INDEX + 1 && entries[n - 1].index >= p->record.applied_index;
    if (whole) snapshot.index = GROUP_FIRST_INDEX, snapshot.term = 1;
    uint64_t term = 0, voted_for = 0;
    bool has_vote = votes_get(e->votes, p->group_id, &term, &voted_for);
    if (!has_vote && (n || p->record.applied_index > GROUP_FIRST_INDEX)) {
        /* A node that forgot whom it voted for may vote twice in a term. */
        snprintf(error, 256, "partition %s has data, but the votes file of core %u does not know its group", p->name, e->config.core);
        return STATUS_CHECKSUM_MISMATCH;
    }
    if (partition_return_due(p, has_vote, voted_for) && partition_return_begin(p, has_vote, voted_for)) return STATUS_MEMORY_LIMIT;
    if (voted_for == VOTE_MAY_NOT || voted_for == VOTE_AGREED) voted_for = 0; /* it is asked for none */
    uint64_t last = n ? entries[n - 1].index : 0;
    if (p->away) voted_for = partition_away_start(p, term, MAX_OF(last, p->record.applied_index));
    if (last < p->record.applied_index) last = p->record.applied_index, n = 0; /* kept for others, and not up to what the store holds: of no use */
    p->next_stage = last + 1;
    if (last > p->record.applied_index) log_info("replaying the log", "partition=%s entries=%" PRIu64 " from=%" PRIu64, p->name, last - p->record.applied_index, p->record.applied_index + 1);
    enum status st = group_open(&p->group, &config, engine_now_ms(e), term, voted_for, &snapshot, entries, n);
    if (st) snprintf(error, 256, "partition %s: the group does not start: %s", p->name, status_name(st));
    return st;
}

void partition_close(struct partition *p) {
    if (!p->engine) return;
    check(!p->flushing);
    check(p->reads_away == 0);
    check(!p->sweeping);
    partition_refuse(p, &p->waiting, STATUS_DRAINING, "this node is shutting down");
    partition_refuse(p, &p->held, STATUS_DRAINING, "this node is shutting down");
    partition_present_refuse(p, STATUS_DRAINING, "this node is shutting down");
    partition_refuse(p, &p->proposed, STATUS_DRAINING, "this node is shutting down; the write may have been logged: send it again with the same request_id");
    partition_feed_close(p);
    partition_source_close(p);
    partition_return_close(p);
    partition_away_close(p);
    partition_fetch_close(p);
    if (p->sweep) partition_group_close(p, STATUS_DRAINING, "this node is shutting down");
    if (p->group) group_close(p->group);
    partition_store_unload(p);
    slot_cache_fini(&p->slots);
}

/* ---- shared with partition_read.c */

/* The store is to be closed and opened again as soon as no read is away. */
bool partition_reopen_due(const struct partition *p) {
    const struct engine *e = p->engine;
    if (e->draining && list_empty(&p->proposed)) return false; /* the log has it all; a flush now would outlast the drain */
    return p->state == PARTITION_FAILED && !p->damaged && !group_installing(p->group) && !e->disk_full && !p->flushing && e->now_ns >= p->reopen_at_ns;
}

enum status partition_command_fits(struct op *op) {
    if (op->command.len <= ENTRY_BYTES_MAX - ENTRY_HEAD_BYTES_MAX - 10) return STATUS_OK;
    return failure_set(&op->failure, STATUS_LIMIT_EXCEEDED, "the command takes %zu bytes, more than a log entry holds", op->command.len);
}

/* ---- writes: into the log */

/* While it is paced it has room for what it writes in twice the target, that the wait is seen (backlog.h), and no more: the others of the core would have to stand behind it. */
static bool partition_is_behind(const struct partition *p, const struct op *op) {
    const struct engine *e = p->engine;
    if (p->pressure >= 2) return true;
    if (!p->brake.bytes_per_s || !e->config.queue_target_ns) return false;
    uint64_t room = (uint64_t)((double)p->brake.bytes_per_s * 2.0 * (double)e->config.queue_target_ns / (double)NS_PER_S);
    return p->queue_bytes > MAX_OF(room, (uint64_t)PACED_BYTES_LEAST) + op->command.len;
}

enum status partition_admit(struct partition *p, struct op *op) {
    struct engine *e = p->engine;
    struct failure *f = &op->failure;
    if (p->damaged) {
        failure_set(f, STATUS_CHECKSUM_MISMATCH, "partition %s holds damaged data: it takes no writes until it is restored", p->name);
        partition_tell_damage(p, &p->damage, f);
        return f->status;
    }
    if (partition_command_fits(op)) return f->status;
    f->retry_delay_ms = RETRY_DELAY_MS;
    if (e->disk_full || p->state == PARTITION_FAILED) {
        f->retry_delay_ms = RETRY_DELAY_DISK_MS;
        if (!e->disk_full) return failure_set(f, STATUS_DISK_FULL, "partition %s cannot write its tables: no writes are taken until it can; reads go on", p->name);
        return failure_set(f, STATUS_DISK_FULL, "the disk is full: no writes are taken until there is room; reads go on");
    }
    if (p->state == PARTITION_OPENING) return partition_not_leading(p, f);
    if (partition_is_behind(p, op)) {
        f->retry_delay_ms = RETRY_DELAY_BEHIND_MS;
        return failure_set(f, STATUS_OVERLOADED, "partition %s is behind with writing its tables", p->name);
    }
    enum status st = wal_admit(e->wal, op->command.len + ENTRY_HEAD_BYTES_MAX + 10);
    if (st == STATUS_DISK_FULL) return failure_set(f, st, "the disk is full: no room for the log");
    if (st == STATUS_MESSAGE_TOO_LARGE) { /* small segments: it would wait for ever, and all behind it */
        f->retry_delay_ms = 0;
        return failure_set(f, STATUS_LIMIT_EXCEEDED, "the command takes %zu bytes, more than a segment of this log holds", op->command.len);
    }
    /* A full gather buffer empties with the next sync: wait for it. A full log needs a flush first: close the door, one segment early, so that
     * a restart finds room for its barriers. */
    if (e->log_full)
        return failure_set(f, STATUS_OVERLOADED, "the log holds %llu bytes that no flush has covered yet", (unsigned long long)e->wal_stats.live_bytes);
    f->retry_delay_ms = 0;
    return STATUS_OK;
}

/* One entry from the front of the waiting ops. They move to `taken`. */
static uint8_t *entry_build(struct partition *p, struct list *taken, size_t *len) {
    struct engine *e = p->engine;
    size_t bytes = ENTRY_HEAD_BYTES_MAX, count = 0;
    uint64_t room = brake_room(&p->brake, e->now_ns);
    if (!room) return NULL;
    list_each(l, &p->waiting) {
        struct op *op = list_entry(l, struct op, link);
        if (op->deadline_ns && op->deadline_ns <= e->now_ns) {
            list_remove(l);
            failure_set(&op->failure, STATUS_DEADLINE_EXCEEDED, "the deadline passed while the write waited for the log; nothing was done");
            e->writes.late++;
            engine_finish(e, op);
            continue;
        }
        size_t more = varint_len(op->command.len) + op->command.len;
        if (count == ENTRY_COMMANDS_MAX || bytes > room || bytes + more > ENTRY_BYTES_MAX || wal_admit(e->wal, bytes + more)) break;
        bytes += more, count++;
        list_remove(l);
        list_push_back(taken, l);
    }
    if (!count) return NULL;
    uint8_t *data = mem_alloc(bytes);
    if (!data) return NULL;
    struct writer w = writer_of(data, bytes);
    e->last_log_time_us = MAX_OF(e->last_log_time_us, (uint64_t)MAX_OF(e->env->ops->wall_us(e->env), (int64_t)0));
    entry_head_encode(&w, e->last_log_time_us, count);
    list_each(l, taken) write_counted(&w, list_entry(l, struct op, link)->command);
    check(!w.full);
    *len = w.len;
    return data;
}

static void propose_waiting(struct partition *p) {
    struct engine *e = p->engine;
    while (!list_empty(&p->waiting) && brake_room(&p->brake, e->now_ns)) {
        struct list taken;
        list_init(&taken);
        size_t len;
        uint8_t *data = entry_build(p, &taken, &len);
        uint64_t index = 0;
        enum status st = data ? group_submit(p->group, engine_now_ms(e), data, len, &index) : STATUS_OVERLOADED;
        if (st) {
            mem_free(data);
            list_splice_back(&taken, &p->waiting); /* back in front */
            list_splice_back(&p->waiting, &taken);
            if (st != STATUS_OVERLOADED && st != STATUS_NOT_LEADER) partition_refuse(p, &p->waiting, st, "the group refused the entry");
            e->log_blocked = !list_empty(&p->waiting);
            return;
        }
        list_each(l, &taken) list_entry(l, struct op, link)->index = index;
        brake_wrote(&p->brake, len);
        list_splice_back(&p->proposed, &taken);
        e->stats.entries++;
    }
}

uint64_t partition_room_ns(const struct partition *p) { return p->brake.bytes_per_s ? brake_from_ns(&p->brake) : 0; }

bool partition_has_to_stage(const struct partition *p) {
    if (partition_away_wipes(p)) return partition_away_has_to_stage(p);
    return partition_fetch_has_to_stage(p) || (p->state == PARTITION_READY && !list_empty(&p->waiting) && p->engine->now_ns >= partition_room_ns(p)) || p->next_stage <= group_last_index(p->group);
}

/* A follower whose tables can't be written applies nothing, so its log can't be trimmed: it stops storing and acknowledging, and the leader stops sending, rather than fill the disk. But what stands first in the log
 * may be an entry of this group that is not known to be committed, or that the leader has replaced: no flush frees that, only what follows does, which the leader sends us while it is under way (sim_cluster 7094). */
static bool log_full_for_follower(const struct partition *p) {
    const struct wal_stats *w = &p->engine->wal_stats;
    bool waits_for_more = w->oldest_group == p->group_id && w->oldest_group_index > group_applicable(p->group);
    return p->record.members.count > 1 && group_role(p->group) != GROUP_LEADER && w->live_bytes > w->live_bytes_max && !waits_for_more;
}

void partition_stage(struct partition *p) {
    if (partition_away_wipes(p)) {
        p->engine->log_blocked |= partition_away_stage(p) != STATUS_OK;
        return;
    }
    if (p->state == PARTITION_READY) propose_waiting(p);
    if (partition_fetch_stage(p)) {
        p->engine->log_blocked = true;
        return;
    }
    /* One that drains would never have done, as long as others write. */
    bool drains = p->engine->draining && group_role(p->group) == GROUP_FOLLOWER;
    if ((drains || log_full_for_follower(p)) && p->next_stage <= group_last_index(p->group)) {
        p->engine->log_blocked = true;
        return;
    }
    for (; p->next_stage <= group_last_index(p->group); p->next_stage++) {
        struct group_entry entry;
        check(group_entry(p->group, p->next_stage, &entry));
        enum status st = wal_append(p->engine->wal, p->group_id, entry.index, entry.term, (uint8_t)entry.type, &entry.data, 1);
        if (st) {
            p->engine->log_blocked = true;
            return;
        }
        p->staged = true;
    }
}

void partition_log_committed(struct partition *p) {
    if (partition_away_wipes(p)) return partition_away_log_committed(p);
    partition_fetch_log_committed(p);
    if (!p->staged || p->next_stage <= group_last_index(p->group)) return; /* partly staged: the rest goes with the next batch */
    p->staged = false;
    p->syncing = group_append_count(p->group);
}

void partition_synced(struct partition *p) {
    uint64_t appends = p->syncing;
    if (partition_away_wipes(p)) return partition_away_synced(p);
    partition_fetch_synced(p);
    p->syncing = 0;
    if (appends) group_appends_persisted(p->group, engine_now_ms(p->engine), appends);
}

/* ---- out of the log: apply */

static void answer(struct partition *p, struct op *op) {
    struct engine *e = p->engine;
    struct outcome *o = &op->outcome;
    if (o->status) {
        outcome_failure(o, e->config.machines, &op->failure);
    } else {
        enum status st = partition_answer_build(p, op);
        /* The write is done, only its answer can't be shown: the caller may ask again with the same request_id. Not MEMORY_LIMIT: that says "no effect". */
        if (st) failure_set(&op->failure, st == STATUS_MEMORY_LIMIT ? STATUS_DEADLINE_EXCEEDED : st, "the write was done; its answer could not be built (%s)", status_name(st));
        if (o->replayed) e->stats.replays++;
        p->writes++;
    }
    engine_finish(e, op);
}

/* The rows of the next few commands. `reader` stays where it is. */
static unsigned expect_some(const struct apply *a, struct entry_reader reader) {
    struct slice commands[APPLY_EXPECT_MAX];
    enum status st;
    unsigned n = 0;
    while (n < APPLY_EXPECT_MAX && entry_next(&reader, &commands[n], &st)) n++;
    arena_reset(a->scratch);
    apply_expect(&a->view, commands, n, a->scratch);
    return n;
}

static enum status apply_commands(struct partition *p, struct apply *a, const struct group_entry *entry) {
    struct engine *e = p->engine;
    struct entry_reader reader;
    struct slice command;
    enum status st = entry_open(entry->data, &reader);
    if (st) return st;
    apply_begin(a, reader.log_time_us);
    p->updates = false;
    struct list *waiter = p->proposed.next;
    for (unsigned expected = 0; ; expected--) {
        if (!expected) expected = expect_some(a, reader);
        if (!entry_next(&reader, &command, &st)) break;
        struct op *op = waiter != &p->proposed ? list_entry(waiter, struct op, link) : NULL;
        if (op && op->index != entry->index) op = NULL;
        struct outcome unseen = {0};
        struct outcome *o = op ? &op->outcome : &unseen;
        if (op) waiter = waiter->next, *o = (struct outcome){0};
        arena_reset(&e->scratch);
        p->updates |= command.len && (command.data[0] == COMMAND_UPDATE || command.data[0] == COMMAND_PATCH || command.data[0] == COMMAND_ACKED);
        st = apply_command(a, command, op ? op->arena : NULL, o);
        if (st) return st;
        e->stats.commands++;
    }
    return st;
}

static enum status apply_entry_once(struct partition *p, const struct group_entry *entry) {
    struct engine *e = p->engine;
    struct apply a = {.view = {.store = p->store, .batch = p->batch, .ahead = partition_timers_rows(p), .damage = &p->damage}, .machines = e->config.machines, .record = p->record, .slots = &p->slots, .lists = e->lists, .feed = &p->feed, .index = entry->index, .kept = p->kept, .timers = p->timers, .timers_soonest_us = INT64_MAX, .effects = &e->effects, .scratch = &e->scratch};
    e->effects.count = 0;
    store_batch_clear(p->batch);
#ifdef ORDERDB_MUTANT_NO_EVENTS /* a wrong build, made by the bench to see what events cost */
    a.feed = NULL;
#endif
    feed_writer_clear(&p->feed);
    enum status st = STATUS_OK;
    if (entry->type == GROUP_COMMAND) st = apply_commands(p, &a, entry);
    if (!st) st = apply_events(&a);
    if (entry->type == GROUP_CHANGE) {
        check(group_members_decode(entry->data, &a.record.members));
        a.record.members.index = entry->index;
    }
    if (st) return st;
    arena_reset(&e->scratch);
    apply_end(&a, entry->index, entry->term);
    st = store_apply(p->store, p->batch);
    if (st) return st;
    p->record = a.record;
    p->kept = a.kept;
    feed_tail_take(&p->tail, &p->feed, entry->index);
    partition_timers_applied(p, &a);
    if (e->effects.count) partition_group_applied(p, &e->effects);
    p->log_bytes_unflushed += entry->data.len + 64;
    if (entry->type == GROUP_CHANGE) group_members_applied(p->group, engine_now_ms(e), entry->index);
    return STATUS_OK;
}

static void reopen_later(struct partition *p) {
    p->reopen_pause_ns = p->reopen_pause_ns ? MIN_OF(p->reopen_pause_ns * 2, REOPEN_PAUSE_NS_MAX) : REOPEN_PAUSE_NS;
    p->reopen_at_ns = p->engine->now_ns + p->reopen_pause_ns;
}

static enum status apply_entry(struct partition *p, const struct group_entry *entry) {
    enum status st = apply_entry_once(p, entry);
    if (st) commits_forget(p);
    return st;
}

/* The store can't take the entry. A full disk passes (partition_reopen). Damaged tables do not: what they held can't be decided upon, and skipping the entry would make this
 * replica differ from what was acknowledged; the partition answers what it can still read, and takes no writes until it is restored. */
static void apply_failed(struct partition *p, uint64_t index, enum status st) {
    if (st != STATUS_DISK_FULL && st != STATUS_IO_FAILED && st != STATUS_CHECKSUM_MISMATCH)
        panic_now("partition %s: entry %" PRIu64 " can't be applied: %s", p->name, index, status_name(st));
    p->state = PARTITION_FAILED;
    partition_present_refuse(p, STATUS_NOT_LEADER, "the partition's tables fail, and it can't tell what is committed");
    p->damaged = st == STATUS_CHECKSUM_MISMATCH;
    reopen_later(p);
    log_error(p->damaged ? "the partition's tables are damaged: it takes no writes until restored" : "the store takes no writes; reads go on",
              "partition=%s entry=%" PRIu64 " status=%s", p->name, index, status_name(st));
    if (p->damaged) {
        partition_refuse(p, &p->waiting, st, "the partition's stored data is damaged: it takes no writes until it is restored");
        /* In the log, and not to be applied by this process any more: nobody should wait for that. */
        partition_refuse(p, &p->proposed, st, "the partition's stored data is damaged: the write is in the log and could not be applied");
    } else partition_refuse(p, &p->waiting, STATUS_DISK_FULL, "the disk is full: no writes are taken until there is room; reads go on");
}

/* What is kept for other replicas is bounded by bytes too: a quarter of what the log may take, shared by the partitions. */
static void partition_release(struct partition *p) {
    uint64_t keep = partition_trailing(p), applied = p->record.applied_index, hold = partition_source_hold(p);
    size_t share = p->engine->config.log_live_bytes_max / 4 / p->engine->held_count;
    for (;; keep /= 2) {
        uint64_t to = applied > keep ? MIN_OF(applied - keep, hold) : 0;
        if (to > p->released) group_release(p->group, p->released = to);
        if (keep <= TRAILING_LEAST || group_memory(p->group) <= share) break;
    }
}

/* From its coming to its being done, but for one sync of the log: that is no queue, and on a slow disk it takes longer than any queue should. */
static void write_waited(struct engine *e, const struct op *op, uint64_t now_ns) {
    uint64_t sojourn_ns = now_ns - op->submitted_ns, waited_ns = sojourn_ns > e->log_ns ? sojourn_ns - e->log_ns : 0;
    backlog_served(&e->writes, waited_ns);
    if (!op->own) pace_waited(&e->pace, now_ns, waited_ns, e->log_ns);
}

void partition_apply(struct partition *p, uint64_t until_ns) {
    struct engine *e = p->engine;
    uint64_t begin = e->env->ops->mono_ns(e->env), now = begin;
    if (p->state == PARTITION_FAILED || partition_away_wipes(p)) return;
    while (p->record.applied_index < group_applicable(p->group) && now < until_ns) {
        struct group_entry entry;
        check(group_entry(p->group, p->record.applied_index + 1, &entry));
        enum status st = apply_entry(p, &entry);
        if (st) {
            apply_failed(p, entry.index, st);
            return;
        }
        now = e->env->ops->mono_ns(e->env);
        while (!list_empty(&p->proposed) && list_entry(p->proposed.next, struct op, link)->index <= entry.index) {
            struct op *op = list_entry(list_pop_front(&p->proposed), struct op, link);
            write_waited(e, op, now);
            answer(p, op);
        }
        partition_release(p);
    }
    e->stats.apply_ns += now - begin;
    partition_feed_applied(p);
    if (p->state == PARTITION_OPENING && group_ready(p->group) && p->record.applied_index == group_applicable(p->group) && p->record.applied_term == group_term(p->group)) {
        p->state = PARTITION_READY;
        log_info("partition ready", "partition=%s applied=%" PRIu64 " term=%" PRIu64 " orders=%" PRId64, p->name, p->record.applied_index, group_term(p->group), p->record.order_count);
    }
}

/* ---- flush, and a store that failed */

bool partition_flushed(const struct partition *p) { return p->flushed.applied_index == p->record.applied_index; }

/* A follower gets entries as long as there are any: it would flush for ever. */
bool partition_drain_flushes(const struct partition *p) { return p->engine->draining && (p->state == PARTITION_READY || p->flushed.applied_index < p->drain_index); }

static void flush_run(struct env_job *job) {
    struct partition *p = container_of(job, struct partition, flush_job);
    p->flush_status = store_flush(p->store);
}

static void flush_done(struct env_job *job) {
    struct partition *p = container_of(job, struct partition, flush_job);
    struct engine *e = p->engine;
    p->flushing = false;
    e->now_ns = e->env->ops->mono_ns(e->env);
    e->stats.flushes++;
    e->stats.flush_ns_last = e->now_ns - p->flush_begin_ns;
    bool proving = p->proving;
    p->proving = false;
    if (p->flush_status) {
        if (p->state == PARTITION_READY || proving) apply_failed(p, p->record.applied_index, p->flush_status);
        return;
    }
    p->flushed = p->flush_record;
    p->flushed_kept = p->flush_kept;
    p->log_bytes_unflushed -= p->flush_log_bytes;
    /* The flush has returned: only now may the log go, and rows expire (docs/STORAGE.md). */
    struct group_snapshot snapshot = {.index = p->flushed.applied_index, .term = p->flushed.applied_term, .members = p->flushed.members};
    uint64_t hold = partition_source_hold(p), flushed = p->flushed.applied_index;
    uint32_t trailing = (uint32_t)MIN_OF((uint64_t)partition_trailing(p), flushed > p->released ? flushed - p->released : 0); /* the library counts on what memory has, and on no more */
    bool cut = !trailing || p->flushed.applied_index > GROUP_FIRST_INDEX + trailing; /* else nothing is to go, and a new replica may need the beginning */
    if (cut) group_snapshotted(p->group, engine_now_ms(e), &snapshot, hold < p->flushed.applied_index ? (uint32_t)MAX_OF(p->flushed.applied_index - hold, (uint64_t)trailing) : trailing);
    if (p->flushed.applied_index > trailing) wal_trim(e->wal, p->group_id, p->flushed.applied_index - trailing);
    store_set_expiry(p->store, KEY_DEDUP, p->flushed.log_time_us);
    partition_feed_flushed(p);
    if (!proving) return;
    p->state = group_ready(p->group) && partition_leads_knowing(p) ? PARTITION_READY : PARTITION_OPENING; /* it may have failed while the node started, or been elected meanwhile */
    p->reopen_pause_ns = 0;
    log_info("partition recovered", "partition=%s applied=%" PRIu64, p->name, p->record.applied_index);
}

/* Without this the entries of a partition that nobody writes to, kept for replicas that lag, would hold all of the log. Memory still has them; after a restart, who lags gets a snapshot. */
void partition_unpin(struct partition *p) {
    partition_flush(p);
    if (partition_trailing(p) || p->away) wal_trim(p->engine->wal, p->group_id, p->flushed.applied_index);
}

static void flush_begin(struct partition *p) {
    struct engine *e = p->engine;
    p->flushing = true;
    p->flush_wanted = false;
    p->flush_record = p->record;
    p->flush_kept = p->kept;
    p->flush_log_bytes = p->log_bytes_unflushed;
    p->flush_begin_ns = e->now_ns;
    p->flush_job = (struct env_job){.run = flush_run, .done = flush_done};
    e->env->ops->offload(e->env, &p->flush_job);
}

void partition_flush(struct partition *p) {
    if (!p->flushing && p->state != PARTITION_FAILED && !partition_away_wipes(p) && !partition_flushed(p) && !group_installing(p->group)) flush_begin(p);
}

static enum status reapply(void *ctx, const struct wal_record *r) {
    struct partition *p = ctx;
    if (r->index <= p->record.applied_index) return STATUS_OK;
    check(r->index == p->record.applied_index + 1);
    struct group_entry entry = {.index = r->index, .term = r->term, .type = r->type, .data = r->data};
    enum status st = apply_entry(p, &entry);
    /* Only what was never applied still has someone waiting. */
    while (!st && !list_empty(&p->proposed) && list_entry(p->proposed.next, struct op, link)->index <= r->index)
        answer(p, list_entry(list_pop_front(&p->proposed), struct op, link));
    return st;
}

/* As a restart would, for this partition alone. Blocks the core for as long as replay takes: the unflushed log is bounded. */
static void partition_reopen(struct partition *p) {
    struct engine *e = p->engine;
    char error[256] = "";
    uint64_t target = group_applicable(p->group), begin = e->env->ops->mono_ns(e->env);
    enum status st = store_probe(p->store, error); /* a closed store that does not open again serves no reads */
    if (st) {
        log_warn("the store's disk still fails", "partition=%s err=%s", p->name, error);
        return;
    }
    p->shown_index = MAX_OF(p->shown_index, p->record.applied_index);
    partition_store_unload(p);
    st = partition_store_load(p, error);
    if (st && st != STATUS_DISK_FULL && st != STATUS_IO_FAILED) panic_now("partition %s can't be opened again: %s", p->name, error);
    p->log_bytes_unflushed = 0;
    if (!st && target > p->record.applied_index) st = wal_read(e->wal, p->group_id, p->record.applied_index + 1, target, reapply, p);
    if (!st) check(p->record.applied_index == target);
    if (st) {
        check(p->store); /* reads must go on: a store that does not even open stops the process */
        if (st == STATUS_CHECKSUM_MISMATCH) {
            apply_failed(p, p->record.applied_index + 1, st);
            return;
        }
        log_warn("the store still fails", "partition=%s status=%s", p->name, status_name(st));
        return;
    }
    partition_release(p);
    log_info("the store is open again", "partition=%s applied=%" PRIu64 " ms=%" PRIu64, p->name, p->record.applied_index, (uint64_t)((e->env->ops->mono_ns(e->env) - begin) / NS_PER_MS));
    p->proving = true; /* no writes before a flush has shown that tables can be written */
    flush_begin(p);
}

/* Writes and reads per second over the last whole second or so. */
static void rates_update(struct partition *p) {
    uint64_t now = p->engine->now_ns, passed = now - p->rates_at_ns;
    if (passed < NS_PER_S) return;
    p->writes_per_second = (double)(p->writes - p->rates_writes) * 1e9 / (double)passed;
    p->reads_per_second = (double)(p->reads - p->rates_reads) * 1e9 / (double)passed;
    p->rates_at_ns = now, p->rates_writes = p->writes, p->rates_reads = p->reads;
}

void partition_housekeeping(struct partition *p) {
    struct engine *e = p->engine;
    struct store_stats stats;
    if (partition_reopen_due(p) && !p->reads_away) {
        reopen_later(p);
        partition_reopen(p);
    }
    if (!partition_reopen_due(p)) partition_reads_resume(p);
    rates_update(p);
    partition_feed_housekeeping(p);
    partition_present_housekeeping(p);
    partition_group_housekeeping(p);
    if (p->source) partition_source_tick(p);
    if (p->state == PARTITION_FAILED) return;
    partition_timers_tick(p);
    partition_index_housekeeping(p);
    partition_filter_housekeeping(p);
    store_get_stats(p->store, &stats);
    p->pressure = stats.pressure;
    brake_tick(&p->brake, e->now_ns, stats.behind);
    p->table_bytes = stats.table_bytes;
    p->table_readers_bytes = stats.table_readers_bytes;
    p->merge_bytes_max = stats.merge_bytes_max;
    p->memtable_bytes = stats.memtable_bytes;
    p->compaction_debt_bytes = stats.pending_compaction_bytes;
    p->level0_files = stats.level0_files;
    p->cache = stats;
    if (stats.failed && p->state == PARTITION_READY && !p->flushing) {
        apply_failed(p, p->record.applied_index, stats.failure);
        return;
    }
    /* We ask before the store writes a run by itself (rows with what is around them have a quarter of the budget by then), so that we know what is durable. engine.c bounds what a
     * restart replays. */
    if (stats.unflushed_bytes > p->memtable_share / 6 || partition_drain_flushes(p) || p->flush_wanted) partition_flush(p);
}

uint64_t partition_log_unflushed(const struct partition *p) { return p->log_bytes_unflushed - (p->flushing ? p->flush_log_bytes : 0); }

struct partition_stats partition_get_stats(const struct partition *p) {
    const struct engine *e = p->engine;
    bool meta = p->id == PARTITION_META;
    struct partition_stats s = {
        .partition = p->id,
        .first_slot = meta ? SLOT_META : partition_first_slot(p->id, e->config.partition_count),
        .last_slot = meta ? SLOT_META : partition_last_slot(p->id, e->config.partition_count),
        .machines_known = p->record.machines_known,
        .applied_index = p->record.applied_index,
        .commit_index = group_applicable(p->group),
        .flushed_index = p->flushed.applied_index,
        .term = group_term(p->group),
        .leader_node = group_leader(p->group),
        .leader = group_role(p->group) == GROUP_LEADER,
        .ready = p->state == PARTITION_READY,
        .read_only = p->state == PARTITION_FAILED || e->disk_full,
        .orders = (uint64_t)p->record.order_count,
        .writes = p->writes,
        .reads = p->reads,
        .writes_per_second = p->writes_per_second,
        .reads_per_second = p->reads_per_second,
        .table_bytes = p->table_bytes,
        .table_readers_bytes = p->table_readers_bytes,
        .memtable_bytes = p->memtable_bytes,
        .compaction_debt_bytes = p->compaction_debt_bytes,
        .level0_files = p->level0_files,
        .pressure = p->pressure,
    };
    partition_replicas(p, &s);
    return s;
}
