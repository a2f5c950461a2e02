/* Reads of a partition: on the core from what is cached, else on a reader thread over a snapshot; and dry runs of writes, which are reads.
 *
 * A read that finds the store about to be closed (it failed, and is due to be opened again) waits in `held` until it is open. */
#include "engine/node_row.h"
#include "engine/partition.h"

#include "proto/base/log.h"

enum { INDEX_SCRATCH_BYTES = 2 * STORE_VALUE_BYTES_MAX };

/* What a write answered to its caller is among what the store holds. */
static enum status token_check(struct op *op, const struct store_view *view) {
    struct slot_record slot;
    enum status st = partition_slot_load(view, op->arena, op->bound.slot, &slot);
    op->behind = !st && slot.last_seq < op->bound.seq;
    return st;
}

static enum status index_piece(struct op *op, const struct store_view *view) {
    struct arena scratch; /* one order at a time */
    arena_init(&scratch, INDEX_SCRATCH_BYTES);
    enum status st = index_check(view, &scratch, op->index_check);
    arena_fini(&scratch);
    return st;
}

static void index_pieced(struct partition *p, const struct op *op) {
    struct engine *e = p->engine;
    const struct index_check *c = op->index_check;
    if (op->failure.status) return;
    e->stats.index_check.orders += c->count.orders;
    e->stats.index_check.rows += c->count.rows;
    if (c->defect[0]) {
        e->stats.index_check.defects++;
        log_error("index check", "partition=%s %s", p->name, c->defect);
    }
    if (!c->position_len) e->stats.index_check.passes++, e->stats.index_check.passed_s = (uint64_t)(e->env->ops->wall_us(e->env) / US_PER_S);
}

static void read_run(struct partition *p, struct op *op, const struct store_view *through) {
    struct engine *e = p->engine;
    struct store_damage damage = {0};
    struct store_view seen = *through, *view = &seen;
    seen.damage = &damage;
    struct query q = {
        .view = *view,
        .machines = e->config.machines,
        .token_key = slice_of(e->config.token_key, sizeof e->config.token_key),
        .arena = op->arena,
        .failure = &op->failure,
        .lists = view->snapshot ? NULL : e->lists,
        .lists_proved = e->config.lists_proved,
    };
    enum status st = op->bound.token ? token_check(op, view) : STATUS_OK;
    if (st || op->behind) goto out;
    st = STATUS_INTERNAL;
    switch (op->kind) {
    case OP_GET: st = query_get(&q, &op->get, &op->answer); break;
    case OP_GET_MANY: st = query_get_many(&q, op->get_many.order_ids, op->get_many.count, op->get_many.full, &op->orders); break;
    case OP_LIST: st = query_list(&q, &op->list, &op->answer); break;
    case OP_HISTORY: st = query_history(&q, &op->history, &op->answer); break;
    case OP_CENSUS: st = query_census(&q, op->census); break;
    case OP_INDEX_CHECK: st = index_piece(op, view); break;
    case OP_RESOURCES: st = query_resources(&q, &op->resources, &op->answer); break;
    case OP_NODES: st = query_nodes(&q, &op->answer); break;
    case OP_FEED_SEEK:
    case OP_FEED_READ: st = partition_feed_run(p, op, view); break;
    case OP_GROUP_LAG:
    case OP_GROUP_LETTERS:
    case OP_GROUP_POSITIONS:
    case OP_GROUPS: st = partition_group_query(p, op, view); break;
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH:
    case OP_GROUP_POLL:
    case OP_GROUP_SETTLE:
    case OP_GROUP_WAKE:
    case OP_GROUP_UNBLOCK:
    case OP_TRANSFER:
    case OP_KINDS:
    case OP_WRITE:
    case OP_VALIDATE:
    case OP_STATS: check(!"not a read of the store");
    }
out:
    op->index = st; /* WOULD_BLOCK is for us, not for the failure */
    if (st && st != STATUS_WOULD_BLOCK) failure_set(&op->failure, st, "%s", status_name(st));
    if (st != STATUS_WOULD_BLOCK) partition_tell_damage(p, &damage, &op->failure);
}

struct read_away { /* lives in the op's arena */
    struct env_job job;
    struct partition *partition;
    struct op *op;
    struct store_snapshot *snapshot;
    uint64_t begun_ns;
};

static void read_job(struct env_job *job) {
    struct read_away *r = container_of(job, struct read_away, job);
    struct env *env = r->partition->engine->env;
    r->begun_ns = env->ops->mono_ns(env);
    if (r->op->deadline_ns && r->op->deadline_ns <= r->begun_ns) {
        failure_set(&r->op->failure, STATUS_DEADLINE_EXCEEDED, "the deadline passed while the read waited for a thread");
        return;
    }
    struct store_view view = {.store = r->partition->store, .snapshot = r->snapshot, .bulk = r->op->kind == OP_CENSUS || r->op->kind == OP_INDEX_CHECK};
    read_run(r->partition, r->op, &view);
}

static void read_home(struct env_job *job) {
    struct read_away *r = container_of(job, struct read_away, job);
    struct partition *p = r->partition;
    struct op *op = r->op;
    struct engine *e = p->engine;
    store_snapshot_put(p->store, r->snapshot);
    p->reads_away--;
    e->reads_away--;
    if (partition_feed_waits(p, op)) return;
    if (op->behind) return partition_read_behind(p, op);
    if (op->kind == OP_INDEX_CHECK) index_pieced(p, op);
    if (!op_is_feed(op)) { /* which may have waited for events before */
        e->disk_reads.late += op->failure.status == STATUS_DEADLINE_EXCEEDED;
        backlog_served(&e->disk_reads, r->begun_ns > op->submitted_ns ? r->begun_ns - op->submitted_ns : 0);
    }
    engine_finish(e, op);
}

/* A dry run of apply: the same decision, on the state as it is now, over a batch that is thrown away. What still waits for the log is not seen. */
static void validate(struct partition *p, struct op *op) {
    struct engine *e = p->engine;
    struct outcome *o = &op->outcome;
    struct store_damage damage = {0};
    struct apply a = {.view = {.store = p->store, .batch = p->batch, .damage = &damage}, .machines = e->config.machines, .trial = true, .record = p->record, .scratch = &e->scratch};
    if (partition_command_fits(op)) return;
    store_batch_clear(p->batch);
    arena_reset(&e->scratch);
    *o = (struct outcome){0};
    apply_begin(&a, MAX_OF(e->last_log_time_us, (uint64_t)MAX_OF(e->env->ops->wall_us(e->env), (int64_t)0)));
    enum status st = apply_command(&a, op->command, op->arena, o);
    if (st) {
        failure_set(&op->failure, st, "the request could not be tried (%s)", status_name(st));
        partition_tell_damage(p, &damage, &op->failure);
    } else if (o->status == STATUS_DEADLINE_EXCEEDED) { /* apply.h: no room for the outcome; here nothing took place */
        failure_set(&op->failure, STATUS_MEMORY_LIMIT, "no memory for the answer");
    } else if (o->status) {
        outcome_failure(o, e->config.machines, &op->failure);
    } else {
        bool created = o->entry.version == 1 && !o->replayed;
        if (created) o->head.order_id = 0;
        for (unsigned i = 0; i < o->item_count && !o->replayed; i++) o->items[i].head.order_id = 0;
        st = partition_answer_build(p, op);
        if (st) failure_set(&op->failure, st, "the answer could not be built (%s)", status_name(st));
    }
    store_batch_clear(p->batch);
}

static void read_begin(struct partition *p, struct op *op) {
    struct engine *e = p->engine;
    if (p->state == PARTITION_OPENING && !op->shown && !(op->any_replica && partition_shows(p))) {
        partition_not_leading(p, &op->failure);
        engine_finish(e, op);
        return;
    }
    if (p->record.applied_index < p->shown_index) { /* reopened, and failed again within replay: acknowledged orders would seem lost */
        op->failure.retry_delay_ms = RETRY_DELAY_MS;
        failure_set(&op->failure, STATUS_NOT_LEADER, "partition %s can't read its log back into tables that fail: it is tried again", p->name);
        engine_finish(e, op);
        return;
    }
    if (op->kind == OP_VALIDATE) {
        validate(p, op);
        engine_finish(e, op);
        return;
    }
    struct store_view view = {.store = p->store, .cached_only = true};
    if (op->kind == OP_INDEX_CHECK && (op->index_check->building = !p->index.complete)) {
        engine_finish(e, op);
        return;
    }
    if (op->kind == OP_CENSUS || op->kind == OP_INDEX_CHECK) op->index = STATUS_WOULD_BLOCK; /* long even where all is in memory: not on the loop */
    else read_run(p, op, &view);
    if (op->behind) return partition_read_behind(p, op);
    if (op->index != STATUS_WOULD_BLOCK) {
        if (!partition_feed_waits(p, op)) engine_finish(e, op);
        return;
    }
    if (partition_reopen_due(p)) { /* else a store that is read all the time would never be reopened */
        list_push_back(&p->held, &op->link);
        return;
    }
    if (e->reads_away >= e->disk_reads.limit && !op_is_feed(op)) { /* streams are bounded by their number */
        e->disk_reads.refused++;
        op->failure.retry_delay_ms = RETRY_DELAY_MS;
        failure_set(&op->failure, STATUS_OVERLOADED, "this core has as many reads from disk as it can do in time");
        engine_finish(e, op);
        return;
    }
    struct read_away *r = arena_new(op->arena, struct read_away);
    struct store_snapshot *snapshot = r ? store_snapshot_get(p->store) : NULL;
    if (!snapshot) {
        failure_set(&op->failure, STATUS_MEMORY_LIMIT, "no memory to read from disk");
        engine_finish(e, op);
        return;
    }
    op->answer = (struct slice){0};
    *r = (struct read_away){.job = {.run = read_job, .done = read_home, .patient = true}, .partition = p, .op = op, .snapshot = snapshot};
    p->reads_away++;
    e->reads_away++;
    e->stats.reads_offloaded++;
    e->env->ops->offload(e->env, &r->job);
}

void partition_read(struct partition *p, struct op *op) {
    if (op->kind == OP_RESOURCES) op->resources.machines_known = p->record.machines_known;
    if (op->kind == OP_GROUP_LAG) partition_group_live(p, op);
    p->engine->stats.reads++;
    p->reads++;
    if (partition_read_waits(p, op)) return;
    read_begin(p, op);
}

void partition_read_again(struct partition *p, struct op *op) { read_begin(p, op); }

void partition_reads_resume(struct partition *p) {
    struct list held;
    list_init(&held);
    list_splice_back(&held, &p->held);
    for (struct list *l; (l = list_pop_front(&held));) read_begin(p, list_entry(l, struct op, link));
}
