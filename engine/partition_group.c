/* Consumer groups of a partition: members come, wait for events, settle them and go; dispatchers come and go with them (partition_group.h). */
#include "engine/partition_group.h"

#include <stdio.h>

#include "proto/base/log.h"
#include "proto/base/mem.h"

struct consumer_config dispatcher_config(const struct partition *p)
{
    uint32_t n = p->engine->config.partition_count;
    return (struct consumer_config){.partition_count = n, .first_slot = partition_first_slot(p->id, n), .last_slot = partition_last_slot(p->id, n)};
}

/* ---- dispatchers come and go */

static struct dispatcher *dispatcher_find(struct partition *p, uint32_t group_id)
{
    list_each(l, &p->dispatchers) {
        struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (d->group_id == group_id && d->state != DISPATCHER_CLOSING) return d;
    }
    return NULL;
}

struct dispatcher *dispatcher_running(const struct partition *p, uint32_t group_id)
{
    list_each(l, &p->dispatchers) {
        struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (d->group_id == group_id && d->state == DISPATCHER_RUNNING) return d;
    }
    return NULL;
}

static void write_init(struct dispatcher_write *w, size_t bytes_max) { arena_init(&w->arena, bytes_max); }

static struct dispatcher *dispatcher_new(struct partition *p, uint32_t group_id)
{
    struct dispatcher *d = mem_new(struct dispatcher);
    if (!d) return NULL;
    d->partition = p;
    d->group_id = group_id;
    d->idle_ns = d->settle_ns = p->engine->now_ns;
    list_init(&d->attaching);
    arena_init(&d->known, 16 * MIB);
    arena_init(&d->blocks_arena, 4 * MIB);
    arena_init(&d->events_arena, 8 * MIB);
    arena_init(&d->letters_arena, 8 * MIB);
    write_init(&d->settle, 4 * MIB);
    write_init(&d->letter, 8 * MIB);
    write_init(&d->acked, 1 * MIB);
    write_init(&d->telling, 4 * MIB);
    arena_init(&d->orders.arena, 8 * MIB);
    d->settling = mem_alloc(SETTLE_SLOTS_MAX * sizeof *d->settling);
    if (!d->settling) {
        mem_free(d);
        return NULL;
    }
    list_push_back(&p->dispatchers, &d->link);
    return d;
}

static void dispatcher_free(struct dispatcher *d)
{
    check(!d->away);
    check(!dispatcher_writing(d));
    list_remove(&d->link);
    if (d->open) consumer_fini(&d->consumer);
    arena_fini(&d->known);
    arena_fini(&d->blocks_arena);
    arena_fini(&d->events_arena);
    arena_fini(&d->letters_arena);
    arena_fini(&d->settle.arena);
    arena_fini(&d->letter.arena);
    arena_fini(&d->acked.arena);
    arena_fini(&d->telling.arena);
    arena_fini(&d->orders.arena);
    mem_free(d->settling);
    mem_free(d);
}

void dispatcher_put(struct dispatcher *d)
{
    if (d->state == DISPATCHER_CLOSING && !d->away && !d->held && !dispatcher_writing(d)) dispatcher_free(d);
}

/* ---- ops end */

static void op_end(struct dispatcher *d, struct op *op, enum status st, const char *why)
{
    if (st) {
        if (!d->away && d->missing[0]) failure_meta(&op->failure, "missing", "%s", d->missing), failure_meta(&op->failure, "missing_slots", "%u", d->missing_slots);
        if (status_retry(st) != RETRY_NEVER) op->failure.retry_delay_ms = RETRY_DELAY_MS;
        failure_set(&op->failure, st, "%s", why);
    }
    engine_finish(d->partition->engine, op);
}

static void poll_end(struct dispatcher *d, struct consumer_member *m, enum status st, const char *why)
{
    struct op *op = consumer_poll_end(&d->consumer, m);
    if (!op) return;
    op->consumer.complete_to_us = d->settled_us ? d->settled_us - 1 : 0;
    if (op->consumer.events) op_end(d, op, STATUS_OK, NULL); /* what it holds goes out first; the next poll hears of the rest */
    else op_end(d, op, st, why);
}

static void evicted_add(struct dispatcher *d, const struct consumer_session *s, enum status st)
{
    d->evicted[d->evicted_next++ % EVICTED_MAX] = (struct evicted){.session_id = s->id, .status = st};
}

static enum status evicted_status(const struct dispatcher *d, const struct consumer_session *s)
{
    for (unsigned i = 0; i < EVICTED_MAX; i++)
        if (d->evicted[i].session_id == s->id) return d->evicted[i].status;
    return STATUS_NOT_LEADER;
}

static const char *status_words(enum status st)
{
    return st == STATUS_MEMBER_REPLACED ? "the same member has subscribed again elsewhere" : "the session is no member of the group here (any more): attach again";
}

void dispatcher_end(struct dispatcher *d, enum status st, const char *why)
{
    if (d->state == DISPATCHER_CLOSING) return;
    for (uint32_t i = 0; d->open && i < d->consumer.members_cap; i++) {
        struct consumer_member *m = d->consumer.members[i];
        if (!m) continue;
        poll_end(d, m, st, why);
        consumer_leave(&d->consumer, m);
    }
    for (struct list *l; (l = list_pop_front(&d->attaching));) op_end(d, list_entry(l, struct op, link), st, why);
    d->state = DISPATCHER_CLOSING;
    dispatcher_put(d);
}

/* ---- attach */

static struct consumer_member *same_member(struct consumer *c, const struct consumer_session *s)
{
    for (uint32_t i = 0; i < c->members_cap; i++)
        if (c->members[i] && slice_equal(c->members[i]->session->member_id, s->member_id)) return c->members[i];
    return NULL;
}

static bool session_is_later(const struct consumer_session *a, const struct consumer_session *b) { return a->opened_us != b->opened_us ? a->opened_us > b->opened_us : a->id > b->id; }

static void attach(struct dispatcher *d, struct op *op)
{
    struct consumer *c = &d->consumer;
    struct consumer_member *old = same_member(c, op->consumer.session);
    if (old && old->session == op->consumer.session) {
        op_end(d, op, STATUS_OK, NULL);
        return;
    }
    /* One that hung while the later one came, and has not heard of it: the dispatcher that knew is gone. */
    if (old && session_is_later(old->session, op->consumer.session)) {
        op_end(d, op, STATUS_MEMBER_REPLACED, status_words(STATUS_MEMBER_REPLACED));
        return;
    }
    if (old) {
        evicted_add(d, old->session, STATUS_MEMBER_REPLACED);
        poll_end(d, old, STATUS_MEMBER_REPLACED, status_words(STATUS_MEMBER_REPLACED));
        consumer_leave(c, old);
    }
    if (c->member_count >= CONSUMER_MEMBERS_MAX) {
        failure_violation(&op->failure, STATUS_LIMIT_EXCEEDED, "open.group", "the group has %d members, which is the limit", CONSUMER_MEMBERS_MAX);
        op_end(d, op, STATUS_LIMIT_EXCEEDED, "too many members");
    } else if (!consumer_join(c, op->consumer.session)) {
        op_end(d, op, STATUS_MEMORY_LIMIT, "no memory for a member");
    } else {
        op_end(d, op, STATUS_OK, NULL);
    }
    d->busy = true; /* what the older one held may go out */
}

static void attach_all(struct dispatcher *d)
{
    for (struct list *l; (l = list_pop_front(&d->attaching));) attach(d, list_entry(l, struct op, link));
}

/* The rows are read (d->row, positions, start_index), or it is known why not. */
void dispatcher_loaded(struct dispatcher *d)
{
    struct partition *p = d->partition;
    struct consumer_config config = dispatcher_config(p);
    enum status st = d->job_status;
    if (st == STATUS_ABSENT) {
        dispatcher_end(d, STATUS_GROUP_NOT_FOUND, "there is no such consumer group");
        return;
    }
    if (!st && !(st = consumer_init(&d->consumer, &config, &d->row))) d->open = true;
    if (st == STATUS_CURSOR_EXPIRED) log_warn("a consumer group was overtaken by retention", "partition=%s group=%u slots=%u missing=%s", p->name, d->group_id, d->missing_slots, d->missing);
    if (st) {
        dispatcher_end(d, st, d->message[0] ? d->message : status_name(st));
        return;
    }
    struct consumer *c = &d->consumer;
    for (uint32_t i = 0; i < c->slot_count; i++) {
        const struct consumer_position *pos = &d->positions[i];
        struct consumer_slot *s = &c->slots[i];
        s->known_through = s->told_through = pos->through;
        s->known = pos->listed, s->known_end = pos->listed + pos->count;
        s->letters = (uint32_t)MIN_OF(pos->letters, (uint64_t)UINT32_MAX);
        s->told_stored = pos->told_count;
        c->told_stored += pos->told_count;
        if (s->letters) d->letters_full = true;
    }
    d->parked_known = !d->letters_full;
    c->at = (struct feed_position){.index = d->start_index};
    d->settled_us = d->progress.settled_us;
    d->redrive_milli = d->row.redrive_milli;
    d->redrive_ns = p->engine->now_ns;
    c->scan = d->progress.scan;
    for (unsigned i = 0; i < d->told_count; i++)
        if (!consumer_tell(c, &d->told[i], p->engine->now_ns)) {
            dispatcher_end(d, STATUS_MEMORY_LIMIT, "more orders were told and not settled than the window holds");
            return;
        }
    d->state = DISPATCHER_RUNNING;
    attach_all(d);
}

static void group_attach(struct partition *p, struct op *op)
{
    struct dispatcher *d = dispatcher_find(p, op->consumer.group_id);
    if (!d && (d = dispatcher_new(p, op->consumer.group_id))) dispatcher_begin(d, JOB_LOAD);
    if (!d) {
        failure_set(&op->failure, STATUS_MEMORY_LIMIT, "no memory for a consumer group");
        engine_finish(p->engine, op);
        return;
    }
    d->idle_ns = p->engine->now_ns;
    if (d->state == DISPATCHER_RUNNING) attach(d, op);
    else list_push_back(&d->attaching, &op->link);
}

/* ---- poll, settle, detach */

static void poll(struct dispatcher *d, struct consumer_member *m, struct op *op)
{
    if (m->poll) {
        op_end(d, op, STATUS_INTERNAL, "the session's last poll of this partition is still under way");
        return;
    }
    consumer_poll(&d->consumer, m, op);
    d->busy = true;
}

static void settle(struct dispatcher *d, struct consumer_member *m, struct op *op)
{
    struct consumer_request *r = &op->consumer;
    check(r->settle_count <= CONSUMER_SETTLES_MAX);
    r->stale_count = 0;
    for (unsigned i = 0; i < r->settle_count; i++) {
        r->settles[i].stale = !consumer_settle(&d->consumer, m, &r->settles[i], d->partition->engine->now_ns);
        r->stale_count += r->settles[i].stale;
    }
    d->busy = true;
    op_end(d, op, STATUS_OK, NULL);
}

static void detach_waiting(struct dispatcher *d, const struct consumer_session *s)
{
    list_each(l, &d->attaching) {
        struct op *op = list_entry(l, struct op, link);
        if (op->consumer.session != s) continue;
        list_remove(l);
        op_end(d, op, STATUS_CANCELLED, "the session was closed");
    }
}

static void detach(struct dispatcher *d, struct consumer_member *m)
{
    poll_end(d, m, STATUS_CANCELLED, "the session was closed");
    consumer_leave(&d->consumer, m);
    d->idle_ns = d->partition->engine->now_ns;
    d->busy = true;
}

void partition_group_op(struct partition *p, struct op *op)
{
    struct dispatcher *d = dispatcher_find(p, op->consumer.group_id);
    struct consumer_session *s = op->consumer.session;
    /* A dispatcher begins with what its rows say: on a leader that knows all of it, which one whose store has failed may be. */
    bool refused = p->state == PARTITION_OPENING || (op->kind == OP_GROUP_ATTACH && !partition_leads_knowing(p));
    if (op->kind != OP_GROUP_DETACH && (refused || p->engine->draining)) {
        op->failure.retry_delay_ms = RETRY_DELAY_MS;
        if (p->engine->draining) failure_set(&op->failure, STATUS_DRAINING, "partition %s is being closed", p->name);
        else partition_not_leading(p, &op->failure);
        engine_finish(p->engine, op);
        return;
    }
    if (op->kind == OP_GROUP_ATTACH) {
        group_attach(p, op);
        return;
    }
    struct consumer_member *m = d && d->open ? consumer_member_of(&d->consumer, s) : NULL;
    if (op->kind == OP_GROUP_DETACH) {
        if (m) detach(d, m);
        else if (d) detach_waiting(d, s);
        engine_finish(p->engine, op);
        return;
    }
    if (!m) {
        enum status st = d ? evicted_status(d, s) : STATUS_NOT_LEADER;
        failure_set(&op->failure, st, "%s", status_words(st));
        engine_finish(p->engine, op);
        return;
    }
    if (op->kind == OP_GROUP_POLL) poll(d, m, op);
    if (op->kind == OP_GROUP_SETTLE) settle(d, m, op);
    if (op->kind == OP_GROUP_WAKE) {
        consumer_wake(&d->consumer, m);
        d->busy = true;
        engine_finish(p->engine, op);
    }
}

/* ---- a turn */

static bool in_tail(const struct dispatcher *d)
{
    const struct feed_tail *t = &d->partition->tail;
    return t->complete_from && d->consumer.at.index >= t->complete_from;
}

/* The last entry that may be looked at: orders that are about to be told were read behind it. */
static uint64_t last_place(const struct dispatcher *d) { return d->orders.some ? MIN_OF(d->orders.place, d->partition->record.applied_index) : d->partition->record.applied_index; }

static enum status run_tail(struct dispatcher *d, unsigned *events)
{
    struct partition *p = d->partition;
    const struct feed_tail *t = &p->tail;
    uint64_t now = p->engine->now_ns, until = p->engine->env->ops->mono_ns(p->engine->env) + DISPATCH_SLICE_NS;
    size_t i = feed_tail_find(t, d->consumer.at.index, d->consumer.at.block);
    uint64_t last = last_place(d);
    bool used_up = true;
    while (i < t->count && consumer_hungry(&d->consumer) && *events && used_up) {
        const struct feed_block *b = feed_tail_block(t, i);
        if (b->index > last) break;
        unsigned before = d->consumer.at.index == b->index && d->consumer.at.block == b->block ? d->consumer.at.event : 0;
        enum status st = consumer_take_block(&d->consumer, b->index, b->block, slice_of(b->data, b->bytes), now, *events, &used_up);
        if (st) return st;
        *events -= MIN_OF(*events, used_up ? 1 + get_be32(b->data + 9) - before : d->consumer.at.event - before);
        if (used_up) i++;
        if (p->engine->env->ops->mono_ns(p->engine->env) >= until) *events = 0;
    }
    if (used_up && (i == t->count || feed_tail_block(t, i)->index > last)) d->consumer.at = (struct feed_position){.index = last + 1};
    return STATUS_OK;
}

static enum status run_blocks(struct dispatcher *d, unsigned *events)
{
    uint64_t now = d->partition->engine->now_ns, last = last_place(d);
    bool used_up = true;
    while (dispatcher_has_blocks(d) && consumer_hungry(&d->consumer) && *events) {
        const struct dispatcher_block *b = &d->blocks[d->block_next];
        if (b->index > last) {
            d->consumer.at = (struct feed_position){.index = last + 1};
            return STATUS_OK;
        }
        unsigned before = d->consumer.at.index == b->index && d->consumer.at.block == b->block ? d->consumer.at.event : 0;
        enum status st = consumer_take_block(&d->consumer, b->index, b->block, b->row, now, *events, &used_up);
        if (st) return st;
        *events -= MIN_OF(*events, used_up ? 1 + get_be32(b->row.data + 9) - before : d->consumer.at.event - before);
        if (!used_up) return STATUS_OK;
        d->block_next++;
    }
    dispatcher_blocks_end(d);
    return STATUS_OK;
}

static enum status take(struct dispatcher *d, unsigned *events)
{
    if (d->consumer.at.index > last_place(d)) return STATUS_OK;
    if (dispatcher_has_blocks(d)) return run_blocks(d, events);
    return in_tail(d) ? run_tail(d, events) : STATUS_OK; /* else a job's work */
}

static void polls_end(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    for (uint32_t i = 0; i < c->members_cap; i++) {
        struct consumer_member *m = c->members[i];
        if (!m || !m->poll) continue;
        const struct consumer_request *r = &m->poll->consumer;
        bool starved = r->ends_starved && __atomic_load_n(&r->starved, __ATOMIC_RELAXED);
        if (m->events || m->poll->failure.status || starved) poll_end(d, m, m->poll->failure.status, "no memory for the events");
    }
}

void dispatcher_reload(struct dispatcher *d)
{
    dispatcher_end(d, STATUS_NOT_LEADER, "the group begins anew in this partition: attach again");
}

void dispatcher_run(struct dispatcher *d)
{
    struct partition *p = d->partition;
    struct consumer *c = &d->consumer;
    unsigned events = DISPATCH_EVENTS_MAX;
    d->busy = false;
    if (d->state != DISPATCHER_RUNNING) return;
    consumer_give_ready(c, p->engine->now_ns);
    enum status st = consumer_hungry(c) && d->parked_known ? take(d, &events) : STATUS_OK;
    if (!st) consumer_give_ready(c, p->engine->now_ns);
    polls_end(d);
    if (st) {
        log_error("a consumer group can't read its events", "partition=%s group=%u status=%s", p->name, d->group_id, status_name(st));
        dispatcher_end(d, st, "the partition's stored events are damaged");
        return;
    }
    if (c->at.index < p->kept.first_place && consumer_hungry(c)) {
        dispatcher_reload(d); /* which finds what is missing */
        return;
    }
    bool away = dispatcher_jobs(d);
    dispatcher_writes(d);
    bool more = c->at.index <= last_place(d) && (dispatcher_has_blocks(d) || in_tail(d));
    d->busy = consumer_hungry(c) && d->parked_known && more && !(away && d->kind == JOB_BLOCKS);
}

/* ---- from the partition */

void partition_group_close(struct partition *p, enum status st, const char *why)
{
    list_each(l, &p->dispatchers) dispatcher_end(list_entry(l, struct dispatcher, link), st, why);
}

void partition_group_run(struct partition *p)
{
    list_each(l, &p->dispatchers) {
        struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (d->busy || (d->seen_index != p->record.applied_index && d->state == DISPATCHER_RUNNING)) {
            d->seen_index = p->record.applied_index;
            dispatcher_run(d);
        }
    }
}

bool partition_group_has_work(const struct partition *p)
{
    list_each(l, &p->dispatchers) {
        const struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (d->busy || (d->state == DISPATCHER_RUNNING && d->seen_index != p->record.applied_index)) return true;
    }
    return false;
}

/* ---- effects of commands */

static void row_changed(struct dispatcher *d)
{
    struct partition *p = d->partition;
    struct store_view view = {.store = p->store};
    struct consumer_group_row row;
    struct consumer_definition definition;
    struct slice bytes;
    struct key k;
    if (d->state == DISPATCHER_LOADING) {
        d->stale = true;
        return;
    }
    key_group(&k, d->group_id);
    arena_reset(&p->engine->scratch);
    enum status st = store_get(&view, key_slice(&k), &p->engine->scratch, &bytes);
    if (!st) st = consumer_group_row_decode(bytes, &row);
    if (!st) row.group_id = d->group_id;
    if (!st && row.flags & CONSUMER_REMOVING) st = STATUS_ABSENT;
    if (!st) st = consumer_definition_decode(row.definition, &definition);
    if (st == STATUS_ABSENT) {
        dispatcher_end(d, STATUS_GROUP_NOT_FOUND, "the consumer group was deleted");
    } else if (st || d->state != DISPATCHER_RUNNING || row.epoch != d->consumer.epoch || consumer_definition_restarts(&d->consumer.definition, &definition)) {
        dispatcher_reload(d);
    } else if (row.revision != d->consumer.revision) {
        if (consumer_redefine(&d->consumer, &row, p->engine->now_ns)) {
            dispatcher_reload(d);
            return;
        }
        for (uint32_t i = 0; i < d->consumer.members_cap; i++)
            if (d->consumer.members[i]) consumer_wake(&d->consumer, d->consumer.members[i]);
        d->busy = true;
    }
}

static void letters_changed(struct dispatcher *d)
{
    struct store_view view = {.store = d->partition->store};
    struct consumer_group_row row;
    struct slice bytes;
    struct key k;
    if (d->state == DISPATCHER_LOADING) d->stale = true;
    if (d->state != DISPATCHER_RUNNING) return;
    key_group(&k, d->group_id);
    arena_reset(&d->partition->engine->scratch);
    if (!store_get(&view, key_slice(&k), &d->partition->engine->scratch, &bytes) && !consumer_group_row_decode(bytes, &row)) d->redrive_milli = row.redrive_milli;
    d->letters_full = d->letters_effect = true;
    d->busy = true;
}

void partition_group_applied(struct partition *p, const struct group_effects *effects)
{
    for (unsigned i = 0; i < effects->count; i++) {
        const struct group_effect *x = &effects->at[i];
        struct dispatcher *d = dispatcher_find(p, x->group_id);
        if (x->kind == GROUP_EFFECT_ROW) p->sweep_due = true;
        if (!d) continue;
        if (x->kind == GROUP_EFFECT_ROW) row_changed(d);
        else if (x->kind == GROUP_EFFECT_LETTERS) letters_changed(d);
        else if (d->state == DISPATCHER_RUNNING) consumer_acked(&d->consumer, x->slot, x->seq), d->busy = true;
        else d->stale = true;
    }
}

/* A write with an ack: is the event in flight here? What apply has to know, and only the leader does. */
void partition_group_ack(struct partition *p, struct op *op)
{
    struct command_ack ack;
    if (!command_ack_of(op->command, &ack)) return;
    struct dispatcher *d = dispatcher_find(p, ack.group_id);
    struct consumer_slot *s = d && d->state == DISPATCHER_RUNNING ? consumer_slot(&d->consumer, ack.slot) : NULL;
    const struct consumer_entry *held = s ? consumer_held(&d->consumer, ack.slot, ack.seq) : NULL;
    if (held && !(held->flags & (ENTRY_LETTER | ENTRY_TOLD)) && ack.seq - s->told_through > SETTLE_GAP_MAX) {
        consumer_mark_dirty(&d->consumer, ack.slot);
        (void)dispatcher_settle_now(d); /* goes into the log in front of it, so that apply need not list everything in between */
    }
    command_ack_set_held(op->command, held != NULL);
}

/* ---- housekeeping */

static void waits_end(struct dispatcher *d)
{
    uint64_t now = d->partition->engine->now_ns;
    bool draining = d->partition->engine->draining;
    for (uint32_t i = 0; i < d->consumer.members_cap; i++) {
        struct consumer_member *m = d->consumer.members[i];
        if (!m || !m->poll) continue;
        if (draining) poll_end(d, m, STATUS_DRAINING, "this node is shutting down");
        else if (m->poll->consumer.wait_until_ns <= now) poll_end(d, m, STATUS_OK, NULL);
        else consumer_wake(&d->consumer, m);
    }
}

static bool tick(struct dispatcher *d)
{
    struct engine *e = d->partition->engine;
    bool idle = d->consumer.member_count == 0 && list_empty(&d->attaching);
    if (d->state == DISPATCHER_LOADING) {
        if (!d->away && e->now_ns >= d->load_retry_ns && partition_leads_knowing(d->partition)) dispatcher_begin(d, JOB_LOAD);
        return false;
    }
    if (d->state != DISPATCHER_RUNNING) return false;
    consumer_tick(&d->consumer, e->now_ns);
    waits_end(d);
    if (!idle) d->idle_ns = e->now_ns;
    bool settled = !d->consumer.dirty_count && d->consumer.dying.first == CONSUMER_NONE && d->consumer.acked.first == CONSUMER_NONE;
    return idle && e->now_ns - d->idle_ns > DISPATCHER_IDLE_NS && !d->away && !dispatcher_writing(d) && settled;
}

/* ---- groups that were deleted: their rows go, a command at a time */

struct group_sweep {
    struct op op;
    struct arena arena;
    struct partition *partition;
    bool away;
};

static void sweep_done(struct op *op)
{
    struct group_sweep *w = op->owner;
    w->away = false;
    arena_reset(&w->arena);
}

/* 0: none. At most CONSUMER_GROUPS_MAX and those that are going. */
static uint32_t removing(struct partition *p)
{
    struct store_view view = {.store = p->store};
    struct consumer_group_row row;
    struct key lower, upper;
    uint32_t found = 0;
    key_group(&lower, 1);
    key_group(&upper, UINT32_MAX);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !found; store_iter_next(it))
        if (!consumer_group_row_decode(store_iter_value(it), &row) && row.flags & CONSUMER_REMOVING) found = key_group_id(store_iter_key(it));
    store_iter_close(it);
    return found;
}

static void sweep(struct partition *p)
{
    struct group_sweep *w = p->sweep;
    if (w->away) return;
    uint32_t group_id = removing(p);
    p->sweep_due = group_id != 0;
    if (!group_id) return;
    struct command c = {.type = COMMAND_GROUP_SWEEP, .sweep.group_id = group_id};
    struct slice command = command_encode(&c, &w->arena);
    if (!command.data) return;
    w->op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(p->id, p->engine->config.partition_count), .arena = &w->arena, .done = sweep_done, .owner = w, .command = command};
    w->away = true;
    engine_submit(p->engine, &w->op);
}

enum status partition_group_open(struct partition *p)
{
    list_init(&p->dispatchers);
    p->sweep_due = true;
    p->sweep = mem_new(struct group_sweep);
    if (!p->sweep) return STATUS_MEMORY_LIMIT;
    arena_init(&p->sweep->arena, 64 * KIB);
    return STATUS_OK;
}

void partition_group_free(struct partition *p)
{
    if (!p->sweep) return;
    check(list_empty(&p->dispatchers));
    arena_fini(&p->sweep->arena);
    mem_free(p->sweep);
    p->sweep = NULL;
}

bool partition_group_busy(const struct partition *p)
{
    list_each(l, &p->dispatchers) {
        const struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (d->away || dispatcher_writing(d)) return true;
    }
    return p->sweep->away;
}

void partition_group_housekeeping(struct partition *p)
{
    list_each(l, &p->dispatchers) {
        struct dispatcher *d = list_entry(l, struct dispatcher, link);
        if (tick(d)) dispatcher_end(d, STATUS_NOT_LEADER, "");
        else dispatcher_run(d);
    }
    if (p->id != PARTITION_META && p->sweep_due && p->state == PARTITION_READY && !p->engine->draining) sweep(p);
}
