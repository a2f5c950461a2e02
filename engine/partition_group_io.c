/* What a dispatcher has read, and what it writes down (partition_group.h). Everything it writes is an op like any other write: it may be refused, and is then proposed again
 * later; and it may come to pass after the dispatcher has gone, which apply is prepared for (apply_group.c). */
#include "engine/partition_group.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"

/* ---- jobs */

static uint64_t now_of(const struct dispatcher *d) { return d->partition->engine->now_ns; }

static void events_home(struct dispatcher *d);
static void letters_home(struct dispatcher *d);

static void job_home(struct env_job *job)
{
    struct dispatcher *d = container_of(job, struct dispatcher, job);
    struct partition *p = d->partition;
    store_snapshot_put(p->store, d->snapshot);
    d->snapshot = NULL;
    d->away = false;
    p->reads_away--;
    if (d->state == DISPATCHER_CLOSING) {
        dispatcher_put(d);
        return;
    }
    d->held = true; /* what comes of it may be its end */
    bool failed = d->job_status && d->job_status != STATUS_ABSENT && d->job_status != STATUS_CURSOR_EXPIRED && d->kind == JOB_LOAD;
    if (failed) log_warn("a consumer group can't be read", "partition=%s group=%u status=%s", p->name, d->group_id, status_name(d->job_status));
    switch (d->kind) {
    case JOB_LOAD:
        if (d->stale) d->stale = false, d->load_retry_ns = now_of(d); /* housekeeping has it read again */
        else dispatcher_loaded(d);
        break;
    case JOB_BLOCKS:
        if (d->job_status) d->block_count = d->block_next = 0, d->blocks_end = 0, d->job_retry_ns = now_of(d) + RETRY_PAUSE_NS;
        else dispatcher_blocks_end(d); /* there were none */
        break;
    case JOB_EVENTS: events_home(d); break;
    case JOB_LETTERS: letters_home(d); break;
    case JOB_ORDERS: dispatcher_orders_home(d); break;
    }
    d->held = false;
    if (d->state == DISPATCHER_RUNNING) dispatcher_run(d);
    else dispatcher_put(d);
}

void dispatcher_begin(struct dispatcher *d, enum dispatcher_job kind)
{
    struct partition *p = d->partition;
    check(!d->away);
    d->kind = kind;
    d->last_index = p->record.applied_index;
    d->kept = p->kept;
    d->load_retry_ns = d->job_retry_ns = now_of(d) + RETRY_PAUSE_NS;
    if (!(d->snapshot = store_snapshot_get(p->store))) return;
    d->away = true;
    d->job_retry_ns = 0;
    d->job = (struct env_job){.run = dispatcher_job_run, .done = job_home, .patient = true};
    p->reads_away++;
    p->engine->env->ops->offload(p->engine->env, &d->job);
}

static bool letters_begin(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    unsigned n = 0, room = CONSUMER_LETTERS_LOADED_MAX - MIN_OF(c->letters_loaded, (uint32_t)CONSUMER_LETTERS_LOADED_MAX);
    if ((!d->letters_full && !d->letters_due) || d->letter.away || d->acked.away) return false;
    if (!d->letters_full && room < CONSUMER_LETTERS_LOADED_MAX / 2) return false;
    if (d->redrive_milli) { /* so many in 1,000 s, and a second's worth at once at the most */
        uint64_t now = now_of(d), each_ns = 1000 * NS_PER_S / d->redrive_milli, burst = MAX_OF(NS_PER_S, each_ns);
        if (now - d->redrive_ns > burst) d->redrive_ns = now - burst;
        room = (unsigned)MIN_OF((uint64_t)room, (now - d->redrive_ns) / each_ns);
        if (!room && !d->letters_full) return false;
    }
    arena_reset(&d->letters_arena);
    uint16_t *slots = arena_alloc(&d->letters_arena, c->slot_count * sizeof *slots);
    if (!slots) return false;
    for (uint32_t i = 0; i < c->slot_count; i++)
        if (c->slots[i].letters) slots[n++] = (uint16_t)(c->first_slot + i);
    d->letter_slots = slots;
    d->letter_slot_count = n;
    d->letters_whole = d->letters_full;
    if (d->letters_whole) d->letters_from = (struct consumer_letter_ref){0};
    d->letters_max = room;
    d->letters_full = d->letters_due = d->letters_effect = false;
    dispatcher_begin(d, JOB_LETTERS);
    if (!d->away) d->letters_full = true;
    return d->away;
}

static bool events_begin(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    d->wanted_die = c->reading.first == CONSUMER_NONE || (!d->wanted_die && c->dying.first != CONSUMER_NONE); /* by turns */
    if (d->wanted_die && (c->dying.first == CONSUMER_NONE || d->letter.away || now_of(d) < d->letter.retry_ns)) {
        d->wanted_die = false;
        if (c->reading.first == CONSUMER_NONE) return false;
    }
    d->wanted_count = consumer_want(c, d->wanted_die ? &c->dying : &c->reading, d->wanted, DISPATCH_WANTED_MAX);
    dispatcher_begin(d, JOB_EVENTS);
    if (!d->away) { /* no snapshot to be had */
        d->job_status = STATUS_MEMORY_LIMIT;
        events_home(d);
    }
    return d->away;
}

bool dispatcher_jobs(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    const struct feed_tail *t = &d->partition->tail;
    if (d->away || d->state != DISPATCHER_RUNNING || now_of(d) < d->job_retry_ns) return d->away;
    if (events_begin(d) || letters_begin(d) || dispatcher_orders_begin(d)) return true;
    uint64_t last = d->orders.some ? d->orders.place : d->partition->record.applied_index;
    bool behind = c->at.index <= last && !(t->complete_from && c->at.index >= t->complete_from);
    if (!consumer_hungry(c) || dispatcher_has_blocks(d) || !behind) return false;
    d->blocks_at = c->at;
    dispatcher_begin(d, JOB_BLOCKS);
    return d->away;
}

bool dispatcher_has_blocks(const struct dispatcher *d) { return !(d->away && d->kind == JOB_BLOCKS) && d->block_next < d->block_count; }

void dispatcher_blocks_end(struct dispatcher *d)
{
    if (d->block_next == d->block_count && d->consumer.at.index < d->blocks_end) d->consumer.at = (struct feed_position){.index = d->blocks_end};
}

/* ---- letters are written */

static void letter_done(struct op *op)
{
    struct dispatcher *d = op->owner;
    bool done = !op->failure.status && op->outcome.group.count == d->dying_count;
    d->letter.away = false;
    for (unsigned i = 0; i < d->dying_count && d->state == DISPATCHER_RUNNING; i++) {
        if (done) consumer_died(&d->consumer, &d->died[i], &d->dying[i]);
        else consumer_die_again(&d->consumer, &d->died[i]);
    }
    d->dying_count = 0;
    arena_reset(&d->letter.arena);
    if (d->state == DISPATCHER_CLOSING) {
        dispatcher_put(d);
        return;
    }
    d->letters_full |= op->outcome.group.more; /* what is counted of parked keys is too much by those */
    if (!done) d->letter.retry_ns = now_of(d) + RETRY_PAUSE_NS;
    else for (uint32_t i = 0; i < d->consumer.slot_count; i++) {
        struct consumer_slot *s = &d->consumer.slots[i];
        if (!s->wanted) continue;
        s->wanted = false; /* a key whose letters are going out has got another */
        uint16_t slot = (uint16_t)(d->consumer.first_slot + i);
        if (slot <= d->letters_from.slot) d->letters_from = (struct consumer_letter_ref){slot, 0};
        d->letters_due = true;
    }
    d->busy = true;
}

bool dispatcher_submit(struct dispatcher *d, struct dispatcher_write *w, const struct command *c, void (*done)(struct op *op))
{
    struct partition *p = d->partition;
    struct slice command = command_encode(c, &w->arena);
    if (!command.data || p->engine->draining || p->state != PARTITION_READY) return false;
    w->op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(p->id, p->engine->config.partition_count), .arena = &w->arena, .done = done, .owner = d, .command = command};
    w->away = true;
    engine_submit(p->engine, &w->op);
    return true;
}

/* Of the events that were read: as many letters as one command takes. */
static bool letters_encode(struct dispatcher *d, struct command_group_letters *c)
{
    size_t cap = 0, taken = 0;
    for (unsigned i = 0; i < d->wanted_count; i++)
        if (!d->wanted[i].status) cap += 2 + 8 + 10 + d->wanted[i].bytes.framed.len + CONSUMER_ERROR_BYTES_MAX + 64;
    uint8_t *data = arena_alloc(&d->letter.arena, cap + 1), *row;
    struct writer w = writer_of(data, data ? cap : 0);
    d->dying_count = 0;
    for (unsigned i = 0; i < d->wanted_count; i++) {
        struct consumer_wanted *x = &d->wanted[i];
        struct consumer_letter *l = &d->dying[d->dying_count];
        struct consumer_slot *s = consumer_slot(&d->consumer, x->slot);
        bool far = !(x->flags & (ENTRY_LETTER | ENTRY_TOLD)) && x->seq - s->told_through > SETTLE_GAP_MAX;
        if (far) consumer_mark_dirty(&d->consumer, x->slot), (void)dispatcher_settle_now(d);
        bool twin = !(x->flags & ENTRY_LETTER) && consumer_letter_goes(&d->consumer, x->slot, x->seq);
        if (x->status || far || twin || !data || taken > LETTERS_BYTES_MAX || !consumer_letter_of(&d->consumer, x, l)) {
            consumer_die_again(&d->consumer, x);
            continue;
        }
        size_t bytes = consumer_letter_bytes_max(l);
        if (!(row = arena_alloc(&d->letter.arena, bytes))) {
            consumer_die_again(&d->consumer, x);
            continue;
        }
        struct writer r = writer_of(row, bytes);
        consumer_letter_encode(l, &r);
        check(!r.full);
        write_be16(&w, x->slot);
        write_be64(&w, (uint64_t)x->seq);
        write_counted(&w, writer_slice(&r));
        taken += bytes;
        d->died[d->dying_count++] = *x;
    }
    check(!w.full);
    *c = (struct command_group_letters){.group_id = d->group_id, .epoch = d->consumer.epoch, .count = d->dying_count, .packed = writer_slice(&w)};
    return d->dying_count > 0;
}

static void letters_write(struct dispatcher *d)
{
    struct command c = {.type = COMMAND_GROUP_LETTERS};
    arena_reset(&d->letter.arena);
    if (!letters_encode(d, &c.letters)) {
        d->letter.retry_ns = now_of(d) + RETRY_PAUSE_NS;
        return;
    }
    if (dispatcher_submit(d, &d->letter, &c, letter_done)) return;
    for (unsigned i = 0; i < d->dying_count; i++) consumer_die_again(&d->consumer, &d->died[i]);
    d->dying_count = 0;
    d->letter.retry_ns = now_of(d) + RETRY_PAUSE_NS;
}

/* A letter that was purged while it died again: there is nothing to be written. */
static void dying_gone(struct dispatcher *d)
{
    for (unsigned i = 0; i < d->wanted_count; i++)
        if (d->wanted[i].status == STATUS_ABSENT && d->wanted[i].flags & ENTRY_LETTER) consumer_letter_gone(&d->consumer, d->wanted[i].slot, d->wanted[i].seq);
}

static void events_home(struct dispatcher *d)
{
    if (d->job_status == STATUS_CURSOR_EXPIRED) { /* retention has let it go: what else it has, is found by beginning anew */
        dispatcher_end(d, STATUS_NOT_LEADER, "the group begins anew in this partition: attach again");
        return;
    }
    if (d->job_status == STATUS_CHECKSUM_MISMATCH) {
        log_error("a consumer group can't read its events", "partition=%s group=%u status=%s", d->partition->name, d->group_id, status_name(d->job_status));
        dispatcher_end(d, d->job_status, "the partition's stored events are damaged");
        return;
    }
    if (d->job_status) { /* each is tried again */
        d->job_retry_ns = now_of(d) + RETRY_PAUSE_NS;
        for (unsigned i = 0; i < d->wanted_count; i++) d->wanted[i].status = d->job_status;
    }
    if (d->wanted_die) {
        dying_gone(d);
        letters_write(d);
        return;
    }
    for (unsigned i = 0; i < d->wanted_count; i++) consumer_read(&d->consumer, &d->wanted[i], now_of(d));
}

/* ---- letters to be given out again */

static void letters_home(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    if (d->job_status) {
        d->letters_full = true;
        d->job_retry_ns = now_of(d) + RETRY_PAUSE_NS;
        return;
    }
    if (d->letters_whole) {
        consumer_unpark_all(c);
        for (unsigned i = 0; i < d->parked_count; i++)
            if (!consumer_park(c, d->parked[i].hash, (int)d->parked[i].dead, (int)d->parked[i].rest)) {
                d->letters_full = true; /* no memory: nothing of a key that should wait may go out */
                dispatcher_end(d, STATUS_NOT_LEADER, "no memory for parked keys: attach again");
                return;
            }
    }
    unsigned n = 0;
    while (n < d->letter_count && consumer_add_letter(c, d->letters[n].slot, d->letters[n].seq, d->letters[n].key, d->letters[n].attempts)) n++;
    if (d->redrive_milli) d->redrive_ns += n * (1000 * NS_PER_S / d->redrive_milli);
    if (n) d->letters_from = (struct consumer_letter_ref){d->letters[n - 1].slot, d->letters[n - 1].seq};
    d->letters_due = d->letters_more || n < d->letter_count;
    d->letters_full |= d->letters_effect;
    d->parked_known = true;
}

/* Those that were acked: their rows go. */
static void acked_done(struct op *op)
{
    struct dispatcher *d = op->owner;
    d->acked.away = false;
    for (unsigned i = 0; i < d->acked_count && d->state == DISPATCHER_RUNNING; i++) {
        const struct consumer_letter_ref *ref = &d->acked_refs[i];
        if (op->failure.status) consumer_letter_stays(&d->consumer, ref->slot, ref->seq);
        else consumer_letter_gone(&d->consumer, ref->slot, ref->seq);
    }
    if (op->failure.status) d->acked.retry_ns = now_of(d) + RETRY_PAUSE_NS;
    d->acked_count = 0;
    arena_reset(&d->acked.arena);
    d->busy = true;
    dispatcher_put(d);
}

static void acked_write(struct dispatcher *d)
{
    struct command c = {.type = COMMAND_GROUP_REDRIVE};
    if (d->acked.away || now_of(d) < d->acked.retry_ns || (d->away && d->kind == JOB_LETTERS)) return;
    d->acked_count = consumer_acked_letters(&d->consumer, d->acked_refs, CONSUMER_LETTERS_LOADED_MAX);
    if (!d->acked_count) return;
    arena_reset(&d->acked.arena);
    uint8_t *data = arena_alloc(&d->acked.arena, d->acked_count * 10);
    struct writer w = writer_of(data, data ? d->acked_count * 10 : 0);
    for (unsigned i = 0; i < d->acked_count; i++) write_be16(&w, d->acked_refs[i].slot), write_be64(&w, (uint64_t)d->acked_refs[i].seq);
    c.redrive = (struct command_group_redrive){.group_id = d->group_id, .action = LETTERS_ACKED, .count = d->acked_count, .packed = writer_slice(&w)};
    if (!w.full && dispatcher_submit(d, &d->acked, &c, acked_done)) return;
    for (unsigned i = 0; i < d->acked_count; i++) consumer_letter_stays(&d->consumer, d->acked_refs[i].slot, d->acked_refs[i].seq);
    d->acked.retry_ns = now_of(d) + RETRY_PAUSE_NS;
}

/* ---- positions */

static void settle_done(struct op *op)
{
    struct dispatcher *d = op->owner;
    bool failed = op->failure.status;
    d->settle.away = false;
    if (d->state == DISPATCHER_RUNNING) {
        if (!failed) d->settled_us = MAX_OF(d->settled_us, d->settling_us);
        for (unsigned i = 0; i < d->settling_count; i++) {
            if (failed) consumer_mark_dirty(&d->consumer, d->settling[i]);
            else consumer_told_is_stored(&d->consumer, d->settling[i]);
        }
        d->busy |= d->consumer.snapshot; /* orders that were waiting for it may be read */
    }
    if (failed) d->settle.retry_ns = now_of(d) + RETRY_PAUSE_NS, d->settle_left = 0;
    d->busy |= d->settle_left > 0;
    d->settling_count = 0;
    arena_reset(&d->settle.arena);
    dispatcher_put(d);
}

/* Everything committed before this is settled, once every order of a snapshot is: up to the oldest that is not; or, at the end of the stream, up to the entry applied last. */
static void claim(const struct dispatcher *d, struct command_group_settle *c, uint64_t *us)
{
    const struct partition *p = d->partition;
    uint64_t oldest_us;
    c->settled_place = consumer_oldest(&d->consumer, &oldest_us);
    bool end = d->consumer.at.index > p->record.applied_index;
    *us = consumer_snapshot_open(&d->consumer) ? 0 : oldest_us ? oldest_us : end ? p->record.log_time_us : d->consumer.seen_us;
    c->settled_us = *us;
}

static bool position_add(struct dispatcher *d, uint16_t slot, struct writer *w, unsigned *listed)
{
    struct consumer_position pos;
    if (consumer_position_now(&d->consumer, slot, &d->settle.arena, &pos)) return false;
    size_t bytes = consumer_position_bytes_max(&pos);
    uint8_t *row = arena_alloc(&d->settle.arena, bytes);
    if (!row) return false;
    struct writer r = writer_of(row, bytes);
    consumer_position_encode(&pos, &r);
    check(!r.full);
    write_be16(w, slot);
    write_counted(w, writer_slice(&r));
    *listed += pos.count;
    return !w->full;
}

static bool settle_now(struct dispatcher *d, unsigned slots_max)
{
    struct consumer *c = &d->consumer;
    struct command command = {.type = COMMAND_GROUP_SETTLE};
    enum { PACKED_MAX = 1 << 20 };
    if (d->settle.away || d->telling.away || now_of(d) < d->settle.retry_ns || d->state != DISPATCHER_RUNNING) return false;
    arena_reset(&d->settle.arena);
    uint8_t *data = arena_alloc(&d->settle.arena, PACKED_MAX);
    struct writer w = writer_of(data, data ? PACKED_MAX : 0);
    unsigned n = 0, listed = 0;
    bool good = data != NULL;
    while (good && n < slots_max && listed < SETTLE_LISTED_MAX && w.len < PACKED_MAX / 4) {
        uint16_t slot = consumer_next_dirty(c);
        if (slot == UINT16_MAX) break;
        d->settling[n++] = slot;
        good = position_add(d, slot, &w, &listed);
    }
    command.settle = (struct command_group_settle){.group_id = d->group_id, .epoch = c->epoch, .count = n, .packed = writer_slice(&w)};
    claim(d, &command.settle, &d->settling_us);
    if (c->dirty_count) command.settle.settled_place = command.settle.settled_us = d->settling_us = 0; /* what the rest says is not written yet */
    d->settling_count = n;
    d->settle_ns = now_of(d);
    d->settle_left = c->dirty_count ? d->settle_left - MIN_OF(d->settle_left, n) : 0;
    if (good && dispatcher_submit(d, &d->settle, &command, settle_done)) return true;
    for (unsigned i = 0; i < n; i++) consumer_mark_dirty(c, d->settling[i]);
    d->settling_count = d->settle_left = 0;
    d->settle.retry_ns = now_of(d) + RETRY_PAUSE_NS;
    return false;
}

bool dispatcher_settle_now(struct dispatcher *d) { return settle_now(d, SETTLE_SLOTS_MAX); }

/* The more slots there are, the longer they gather: an ack is durable within a second all the same. */
static uint64_t settle_pause_ns(const struct dispatcher *d) { return MIN_OF(MAX_OF(SETTLE_PAUSE_NS, d->consumer.dirty_count * NS_PER_MS / 5), SETTLE_PAUSE_NS_MAX); }

void dispatcher_writes(struct dispatcher *d)
{
    if (d->state != DISPATCHER_RUNNING || d->partition->engine->draining) return;
    acked_write(d);
    dispatcher_orders_write(d);
    uint64_t waited = now_of(d) - d->settle_ns;
    bool tick = d->consumer.member_count && waited >= DISPATCHER_TICK_NS; /* an idle stream has to say so too */
    bool due = d->consumer.dirty_count && waited >= settle_pause_ns(d);
    if (due && !d->settle_left) d->settle_left = 2 * d->consumer.dirty_count; /* and what comes meanwhile, so that the last command can say that all is written */
    if (due || tick || (d->settle_left && d->consumer.dirty_count)) (void)settle_now(d, SETTLE_SLOTS_TURN);
}

bool dispatcher_writing(const struct dispatcher *d) { return d->settle.away || d->letter.away || d->acked.away || d->telling.away; }
