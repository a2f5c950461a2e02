/* The snapshot that a group begins with: every order of the partition, then its changes, without a gap (docs/STREAM.md).
 *
 *      store -- read behind entry A --> orders --(the stream has come to A)--> stored: scan moves, orders listed, slots' changes up to A settled --> window
 *                                                '-- meanwhile it is looked at up to A and no further --'
 *
 * The stream passes over changes of orders in front of which the scan has not come; so when the scan moves over an order, read behind A, all its changes up to A are in it and were passed
 * over, and all changes behind A are still to come. Nothing is kept for an order that is neither on its way nor unsettled. */
#include "engine/partition_group.h"
#include "engine/query.h"

/* ---- an order as an event. Jobs */

static enum status body_of(const struct feed_read *f, int64_t order_id, struct order_body *body)
{
    struct key k;
    struct slice row;
    key_body(&k, order_id);
    enum status st = store_get(&f->view, key_slice(&k), f->arena, &row);
    return st ? st : order_body_decode(row, body);
}

static enum status entry_of(const struct feed_read *f, int64_t order_id, int64_t version, const struct order_body *body, struct history_entry *entry)
{
    struct key k;
    struct slice row;
    if (version == 1) return *entry = body->origin, STATUS_OK;
    key_history(&k, order_id, version);
    enum status st = store_get(&f->view, key_slice(&k), f->arena, &row);
    if (!st) st = history_decode(row, entry);
    return !st && entry->version != version ? STATUS_CHECKSUM_MISMATCH : st;
}

/* The head at hand, or as it was at an earlier version. Everything lies in f->arena. */
static enum status order_event(const struct feed_read *f, struct order_head head, int64_t version, int64_t seq, struct consumer_bytes *out)
{
    struct order_body body;
    struct history_entry entry;
    struct event_block block = {0};
    enum status st = body_of(f, head.order_id, &body);
    if (!st) st = entry_of(f, head.order_id, version, &body, &entry);
    if (!st && version != head.version) st = query_content_at(&f->view, f->arena, head.order_id, version, &body);
    if (st) return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
    if (version != head.version) head.version = version, head.status = entry.to, head.update_us = entry.time_us, head.timers = entry.timers;
    struct event e = {.type = EVENT_SNAPSHOT, .slot = order_id_slot(head.order_id), .seq = seq, .commit_us = entry.time_us, .head = &head, .entry = &entry, .summary = body.summary, .detail = body.detail};
    bool added = event_block_add(&block, &e, f->machines);
    size_t bytes = event_block_bytes(&block);
    uint8_t *data = added ? arena_alloc(f->arena, bytes) : NULL;
    struct writer w = writer_of(data, data ? bytes : 0);
    if (data) event_block_close(&block, 0, &w);
    event_block_fini(&block);
    if (!data) return STATUS_MEMORY_LIMIT;
    struct event_reader r;
    struct event_view v;
    st = event_block_open(writer_slice(&w), &r);
    check(!st && event_next(&r, &v, &st));
    st = feed_whole(f, &v, &out->framed, &out->brief);
    out->base = (uint32_t)v.base.len;
    return st;
}

enum status dispatcher_told_read(const struct feed_read *f, struct consumer_wanted *x)
{
    struct order_head head;
    struct slice row;
    struct key k;
    key_head(&k, (int64_t)x->index);
    enum status st = store_get(&f->view, key_slice(&k), f->arena, &row);
    if (!st) st = order_head_decode(row, &head);
    if (!st && head.version < x->version) st = STATUS_CHECKSUM_MISMATCH;
    if (st) return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
    return order_event(f, head, x->version, x->seq, &x->bytes);
}

/* ---- the next orders. A job */

static bool full(const struct dispatcher_orders *o, size_t bytes) { return o->count == o->max || o->looked_at >= SNAPSHOT_LOOKED_AT_MAX || bytes >= SNAPSHOT_BYTES; }

static bool order_wanted(const struct filter *filter, const struct consumer_bytes *b)
{
    struct reader r = reader_of(b->framed);
    (void)read_u8(&r);
    return !filter || filter_match(filter, read_counted(&r));
}

static enum status take_order(const struct feed_read *f, struct dispatcher *d, uint16_t slot, struct slice row, struct arena *scratch, size_t *bytes)
{
    struct dispatcher_orders *o = &d->orders;
    struct order_head head;
    struct feed_read own = *f;
    struct consumer_order *t = &o->orders[o->count];
    own.arena = scratch;
    arena_reset(scratch);
    enum status st = order_head_decode(row, &head);
    if (st) return st;
    *t = (struct consumer_order){.slot = slot, .order_id = head.order_id, .version = head.version, .seq = event_number(&head)};
    if ((st = order_event(&own, head, head.version, t->seq, &t->bytes))) return st;
    o->looked_at++;
    o->to = (struct consumer_scan){slot, head.order_id};
    if (!order_wanted(d->consumer.filter, &t->bytes)) return STATUS_OK;
    t->key = consumer_key_hash(o->ordering, head.user_id, head.order_id, slot, t->seq);
    t->bytes.framed = arena_copy(f->arena, t->bytes.framed);
    if (!t->bytes.framed.data) return STATUS_MEMORY_LIMIT;
    *bytes += t->bytes.framed.len;
    o->count++;
    return STATUS_OK;
}

/* From o->to on. It ends there too, when it is full. */
static enum status take_slot(const struct feed_read *f, struct dispatcher *d, uint16_t slot, struct arena *scratch, size_t *bytes)
{
    struct dispatcher_orders *o = &d->orders;
    struct store_view view = f->view;
    struct key lower, upper;
    enum status st = STATUS_OK;
    view.bulk = true;
    key_heads(&lower, slot, o->to.slot == slot ? o->to.after + 1 : 0);
    key_heads(&upper, slot, INT64_MAX);
    struct store_iter *it = store_iter_open(&view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st && !full(o, *bytes); store_iter_next(it)) st = take_order(f, d, slot, store_iter_value(it), scratch, bytes);
    if (!st && !full(o, *bytes)) st = store_iter_status(it), o->to = (struct consumer_scan){(uint16_t)(slot + 1), 0};
    store_iter_close(it);
    return st;
}

enum status dispatcher_orders_read(const struct feed_read *f, struct dispatcher *d)
{
    enum { ORDER_SCRATCH_BYTES = 8 << 20 }; /* the largest order: rows, an earlier content, the event put together of them */
    struct dispatcher_orders *o = &d->orders;
    struct consumer_config config = dispatcher_config(d->partition);
    struct arena scratch;
    size_t bytes = 0;
    enum status st = STATUS_OK;
    arena_reset(&o->arena);
    o->count = o->slot_count = 0;
    o->looked_at = 0;
    o->orders = arena_alloc(&o->arena, o->max * sizeof *o->orders);
    o->slots = arena_alloc(&o->arena, SNAPSHOT_SLOTS_MAX * sizeof *o->slots);
    if (!o->orders || !o->slots) return STATUS_MEMORY_LIMIT;
    o->to = (struct consumer_scan){MAX_OF(o->from.slot, config.first_slot), o->from.slot < config.first_slot ? 0 : o->from.after};
    arena_init(&scratch, ORDER_SCRATCH_BYTES);
    while (!st && o->to.slot <= config.last_slot && o->slot_count < SNAPSHOT_SLOTS_MAX && !full(o, bytes)) {
        struct slot_record record;
        uint16_t slot = o->to.slot;
        arena_reset(&scratch);
        if ((st = partition_slot_load(&f->view, &scratch, slot, &record))) break;
        if (!record.order_count) {
            o->to = (struct consumer_scan){(uint16_t)(slot + 1), 0};
            continue;
        }
        o->slots[o->slot_count++] = (struct told_slot){slot, record.last_seq};
        st = take_slot(f, d, slot, &scratch, &bytes);
    }
    if (o->to.slot > config.last_slot) o->to = (struct consumer_scan){SLOT_COUNT, 0};
    arena_fini(&scratch);
    return st;
}

/* ---- those that were told, and are not settled. A job */

enum status dispatcher_told_load(const struct feed_read *f, struct dispatcher *d, enum consumer_ordering ordering)
{
    struct consumer_config config = dispatcher_config(d->partition);
    uint32_t n = config.last_slot - config.first_slot + 1u;
    struct arena scratch;
    unsigned count = 0;
    enum status st = STATUS_OK;
    d->told_count = 0;
    for (uint32_t i = 0; i < n; i++) count += d->positions[i].told_count;
    if (!count) return STATUS_OK;
    d->told = arena_alloc(&d->known, count * sizeof *d->told);
    if (!d->told) return STATUS_MEMORY_LIMIT;
    arena_init(&scratch, 64 * KIB);
    for (uint32_t i = 0; i < n; i++)
        for (unsigned t = 0; t < d->positions[i].told_count && !st; t++) {
            const struct consumer_told *from = &d->positions[i].told[t];
            struct order_head head = {0};
            struct slice row;
            struct key k;
            arena_reset(&scratch);
            key_head(&k, from->order_id);
            if (ordering == ORDERING_USER) st = store_get(&f->view, key_slice(&k), &scratch, &row);
            if (!st && ordering == ORDERING_USER) st = order_head_decode(row, &head);
            uint16_t slot = (uint16_t)(config.first_slot + i);
            d->told[d->told_count++] = (struct consumer_order){.slot = slot, .attempts = from->attempts, .order_id = from->order_id, .version = from->version, .seq = from->seq,
                                                               .key = consumer_key_hash(ordering, head.user_id, from->order_id, slot, from->seq)};
        }
    arena_fini(&scratch);
    return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
}

/* ---- on the loop */

bool dispatcher_orders_begin(struct dispatcher *d)
{
    struct consumer *c = &d->consumer;
    struct dispatcher_orders *o = &d->orders;
    uint32_t set = d->partition->engine->config.snapshot_orders_max;
    unsigned max = MIN_OF(set ? set : (uint32_t)SNAPSHOT_ORDERS_MAX, c->window / 4);
    if (!c->snapshot || consumer_scan_over(&c->scan) || o->some || !consumer_hungry(c) || !d->parked_known || c->free_entries < max) return false;
    if (c->told_stored + max > c->window) { /* all that a position lists has to find room when it is loaded */
        if (c->dirty_count) (void)dispatcher_settle_now(d);
        return false;
    }
    o->max = c->reserved = max;
    o->from = c->scan;
    o->ordering = c->definition.ordering;
    o->place = d->partition->record.applied_index;
    dispatcher_begin(d, JOB_ORDERS);
    if (!d->away) c->reserved = 0;
    return o->some = d->away;
}

void dispatcher_orders_home(struct dispatcher *d)
{
    if (!d->job_status) {
        d->busy = true;
        return;
    }
    d->orders.some = false;
    d->consumer.reserved = 0;
    d->job_retry_ns = d->partition->engine->now_ns + RETRY_PAUSE_NS;
    if (d->job_status != STATUS_CHECKSUM_MISMATCH) return;
    dispatcher_end(d, d->job_status, "the partition's stored orders are damaged");
}

static unsigned fresh_of(const struct dispatcher_orders *o, uint16_t slot, unsigned *first)
{
    unsigned n = 0;
    while (*first < o->count && o->orders[*first].slot < slot) (*first)++;
    while (*first + n < o->count && o->orders[*first + n].slot == slot) n++;
    return n;
}

/* The slot's position with the orders that are told now. Everything up to last_seq was looked at, or is of orders that had not been told. */
static bool slot_add(struct dispatcher *d, const struct told_slot *t, unsigned *first, struct writer *w)
{
    struct dispatcher_orders *o = &d->orders;
    struct arena *arena = &d->telling.arena;
    struct consumer_slot *s = consumer_slot(&d->consumer, t->slot);
    struct consumer_position pos;
    unsigned fresh = fresh_of(o, t->slot, first);
    s->seen = MAX_OF(s->seen, t->last_seq);
    if (consumer_position_now(&d->consumer, t->slot, arena, &pos)) return false;
    struct consumer_told *told = arena_alloc(arena, (pos.told_count + fresh + 1) * sizeof *told);
    if (!told) return false;
    if (pos.told_count) memcpy(told, pos.told, pos.told_count * sizeof *told);
    for (unsigned i = 0; i < fresh; i++) {
        const struct consumer_order *x = &o->orders[*first + i];
        told[pos.told_count++] = (struct consumer_told){.order_id = x->order_id, .version = x->version, .seq = x->seq};
    }
    pos.told = told;
    if (pos.told_count) pos.told_through = consumer_scan_through(&o->to, t->slot);
    s->told_sent = pos.told_count;
    size_t bytes = consumer_position_bytes_max(&pos);
    uint8_t *row = arena_alloc(arena, bytes);
    if (!row) return false;
    struct writer r = writer_of(row, bytes);
    consumer_position_encode(&pos, &r);
    check(!r.full);
    write_be16(w, t->slot);
    write_counted(w, writer_slice(&r));
    return !w->full;
}

static void orders_told(struct op *op)
{
    struct dispatcher *d = op->owner;
    struct dispatcher_orders *o = &d->orders;
    struct consumer *c = &d->consumer;
    bool failed = op->failure.status, moved = op->outcome.group.count == 1;
    d->telling.away = false;
    arena_reset(&d->telling.arena);
    if (d->state != DISPATCHER_RUNNING) {
        dispatcher_put(d);
        return;
    }
    d->busy = true;
    if (failed) { /* whether it was written after all, is seen when it is proposed again */
        d->telling.retry_ns = d->partition->engine->now_ns + RETRY_PAUSE_NS;
        return;
    }
    if (!moved) {
        dispatcher_reload(d);
        return;
    }
    c->scan = o->to;
    c->reserved = 0;
    for (unsigned i = 0; i < o->slot_count; i++) consumer_told_is_stored(c, o->slots[i].slot);
    for (unsigned i = 0; i < o->count; i++) check(consumer_tell(c, &o->orders[i], d->partition->engine->now_ns)); /* there was room in reserve */
    o->some = false;
    arena_reset(&o->arena);
}

void dispatcher_orders_write(struct dispatcher *d)
{
    enum { PACKED_MAX = 2 << 20 };
    struct dispatcher_orders *o = &d->orders;
    struct consumer *c = &d->consumer;
    unsigned first = 0;
    bool home = o->some && !(d->away && d->kind == JOB_ORDERS);
    if (!home || c->at.index <= o->place || d->telling.away || d->settle.away || d->partition->engine->now_ns < d->telling.retry_ns) return;
    arena_reset(&d->telling.arena);
    uint8_t *data = arena_alloc(&d->telling.arena, PACKED_MAX);
    struct writer w = writer_of(data, data ? PACKED_MAX : 0);
    bool good = data != NULL;
    for (unsigned i = 0; i < o->slot_count && good; i++) good = slot_add(d, &o->slots[i], &first, &w);
    struct command command = {.type = COMMAND_GROUP_SNAPSHOT};
    command.snapshot = (struct command_group_snapshot){.group_id = d->group_id, .epoch = c->epoch, .from_slot = o->from.slot, .from_after = o->from.after, .to_slot = o->to.slot,
                                                       .to_after = o->to.after, .told = o->looked_at, .count = o->slot_count, .packed = writer_slice(&w)};
    if (good && dispatcher_submit(d, &d->telling, &command, orders_told)) return;
    d->telling.retry_ns = d->partition->engine->now_ns + RETRY_PAUSE_NS;
}
