#include "engine/apply.h"

#include "engine/apply_local.h"

#include "proto/base/mem.h"

/* Where decisions are made. An entry holds commands; each is decided on (state, command) alone, in order, and each sees what the ones before it
 * wrote (the view reads through the batch). The whole entry becomes one store batch together with the partition record, so a crash leaves either
 * all of an entry or nothing of it, and replay from the flushed applied index makes the same decisions again.
 *
 *   apply.c             the entry's frame, records, what the kinds of command share
 *   apply_create.c      create and import: a new order comes to be
 *   apply_transition.c  an order moves
 *   apply_update.c      an order's content changes
 *   apply_timer.c       timers are set, cancelled, and fire
 *   apply_fence.c       a request id is closed
 *   apply_batch.c       creates, all or none
 *   apply_resource.c    what operators set: machines, limits
 *   apply_node.c        nodes of the cluster
 *   apply_event.c       what each commit tells the change stream
 *   apply_group.c       consumer groups: definitions, positions, dead letters, acks
 *   apply_failure.c     how a refusal reads
 *
 * A refused command writes nothing: every function below first decides, then writes. */

/* Log time is trusted up to here: a leader with a clock of the far future must not use up the ids (41 bits of ms) of its slots for ever. */
#define LOG_TIME_US_MAX ((uint64_t)(ORDER_EPOCH_MS + (1ll << ORDER_MS_BITS) - (1ll << 24)) * (uint64_t)US_PER_MS)

static enum status applied(struct applying *x) MUST_USE;

/* ---- the door */

void apply_begin(struct apply *a, uint64_t log_time_us)
{
    a->record.log_time_us = MAX_OF(a->record.log_time_us, MIN_OF(log_time_us, LOG_TIME_US_MAX));
}

void apply_end(struct apply *a, uint64_t index, uint64_t term)
{
    check(index > a->record.applied_index);
    a->record.applied_index = index;
    a->record.applied_term = term;
    struct key k;
    uint8_t row[PARTITION_RECORD_BYTES_MAX];
    struct writer w = writer_of(row, sizeof row);
    key_partition(&k);
    partition_record_encode(&a->record, &w);
    check(!w.full);
    store_batch_put(a->view.batch, key_slice(&k), writer_slice(&w));
}

enum status apply_events(struct apply *a)
{
    apply_timers_end(a);
    return a->feed ? feed_end(a->feed, a->index, a->record.log_time_us, a->view.batch) : STATUS_OK;
}

/* Whoever waits for an order gets it with the outcome: it need not be put together from its rows again. Where it finds no room it is. */
static void order_keep(const struct applying *x, struct outcome *out)
{
    const struct shown *s = &x->shown;
    const enum command_type type = x->command->type;
    bool answered = type == COMMAND_CREATE || type == COMMAND_TRANSITION || type == COMMAND_PATCH || type == COMMAND_UPDATE;
    size_t bytes = s->head.len + s->summary.len + s->detail.len;
    if (!answered || !bytes || bytes > OUTCOME_ORDER_BYTES_MAX) return;
    struct writer w = writer_of(arena_alloc(x->arena, bytes), bytes);
    if (!w.data) return;
    write_slice(&w, s->head), write_slice(&w, s->summary), write_slice(&w, s->detail);
    out->order = writer_slice(&w);
}

enum status apply_command(struct apply *a, struct slice bytes, struct arena *arena, struct outcome *out)
{
    check(a->view.batch);
    struct command command;
    enum status st = command_decode(bytes, a->scratch, &command);
    if (st) return st;
    struct outcome local = {0};
    struct applying x = {.a = a, .command = &command, .now_us = a->record.log_time_us, .out = &local, .arena = arena};
    if ((st = applied(&x))) return st;
    if (!arena) return STATUS_OK;
    local.slot = x.slot;
    if (apply_outcome_copy(&local, arena, out)) order_keep(&x, out);
    else *out = (struct outcome){.status = STATUS_DEADLINE_EXCEEDED, .slot = x.slot, .resource.kind = local.resource.kind};
    return STATUS_OK;
}

static enum status applied(struct applying *x)
{
    switch (x->command->type) {
    case COMMAND_CREATE: return apply_create(x);
    case COMMAND_TRANSITION:
    case COMMAND_PATCH: return apply_transition(x);
    case COMMAND_IMPORT:
    case COMMAND_IMPORT_UNTOLD: return apply_import(x);
    case COMMAND_UPDATE: return apply_update(x);
    case COMMAND_FENCE: return apply_fence(x);
    case COMMAND_BATCH: return apply_batch(x);
    case COMMAND_RESOURCE: return apply_resource(x);
    case COMMAND_MACHINE: return apply_machine(x);
    case COMMAND_NODE: return apply_node(x);
    case COMMAND_SET_TIMER: return apply_set_timer(x);
    case COMMAND_CANCEL_TIMER: return apply_cancel_timer(x);
    case COMMAND_FIRE: return apply_fire(x);
    case COMMAND_RETAIN: return apply_retain(x);
    case COMMAND_GROUP: return apply_group(x);
    case COMMAND_GROUP_BRING: return apply_group_bring(x);
    case COMMAND_GROUP_SETTLE: return apply_group_settle(x);
    case COMMAND_GROUP_LETTERS: return apply_group_letters(x);
    case COMMAND_GROUP_REDRIVE: return apply_group_redrive(x);
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SEEK_YIELD: return apply_group_seek(x);
    case COMMAND_GROUP_SEEKING: return apply_group_seeking(x);
    case COMMAND_GROUP_SNAPSHOT: return apply_group_snapshot(x);
    case COMMAND_GROUP_SWEEP: return apply_group_sweep(x);
    case COMMAND_ACKED: break; /* on the wire alone */
    }
    return STATUS_FORMAT_UNKNOWN; /* command_decode has refused it already */
}

bool apply_outcome_copy(const struct outcome *from, struct arena *arena, struct outcome *to)
{
    *to = *from;
    struct slice *texts[] = {
        &to->head.user_id, &to->entry.event, &to->entry.operator_, &to->entry.reason, &to->entry.request_id, &to->entry.traceparent,
        &to->timer_id, &to->head.timers, &to->entry.timers, &to->winner_request_id, &to->machine_reference, &to->event, &to->expected_name, &to->resource.name, &to->resource.bytes, &to->resource.error,
        &to->group.name, &to->group.definition,
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (!texts[i]->len) continue;
        *texts[i] = arena_copy(arena, *texts[i]);
        if (!texts[i]->data) return false;
    }
    if (!from->missing_count) return true;
    struct slice *missing = arena_array(arena, struct slice, from->missing_count);
    if (!missing) return false;
    for (unsigned i = 0; i < from->missing_count; i++)
        if (!(missing[i] = arena_copy(arena, from->missing[i])).data) return false;
    to->missing = missing;
    return true;
}

/* ---- records. Numbers big-endian. */

/* Format 1 is of servers that had the built-in machines alone. */
enum { PARTITION_FORMAT_BUILT_IN = 1, PARTITION_FORMAT = 2 };

void partition_record_encode(const struct partition_record *r, struct writer *w)
{
    write_u8(w, PARTITION_FORMAT);
    write_be64(w, r->applied_index);
    write_be64(w, r->applied_term);
    write_be64(w, r->log_time_us);
    write_be64(w, (uint64_t)r->order_count);
    write_be64(w, r->members.index);
    write_u8(w, (uint8_t)r->members.count);
    for (uint32_t i = 0; i < r->members.count; i++) {
        write_be64(w, r->members.member[i].node_id);
        write_u8(w, r->members.member[i].kind);
    }
    write_be16(w, r->machines_known);
}

enum status partition_record_decode(struct slice row, struct partition_record *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    if (format != PARTITION_FORMAT && format != PARTITION_FORMAT_BUILT_IN) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct partition_record){.machines_known = MACHINES_BUILT_IN};
    out->applied_index = read_be64(&r);
    out->applied_term = read_be64(&r);
    out->log_time_us = read_be64(&r);
    out->order_count = (int64_t)read_be64(&r);
    out->members.index = read_be64(&r);
    out->members.count = read_u8(&r);
    if (out->members.count > GROUP_MEMBERS_MAX) return STATUS_CHECKSUM_MISMATCH;
    for (uint32_t i = 0; i < out->members.count; i++) {
        out->members.member[i].node_id = read_be64(&r);
        out->members.member[i].kind = read_u8(&r);
    }
    if (format == PARTITION_FORMAT) out->machines_known = read_be16(&r);
    if (out->machines_known > MACHINES_MAX) return STATUS_CHECKSUM_MISMATCH;
    return r.bad || r.at != r.end ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* 1: before there were events. 2: with the places of those from feed_chunk_first(last_seq) on. */
enum { SLOT_FORMAT_PLACES = 2 };

static int64_t places_count(const struct slot_record *r) { return r->last_seq > 0 ? r->last_seq - feed_chunk_first(r->last_seq) + 1 : 0; }

void slot_record_encode(const struct slot_record *r, struct writer *w)
{
    write_u8(w, SLOT_FORMAT_PLACES);
    write_be64(w, (uint64_t)r->last_order_id);
    write_be64(w, (uint64_t)r->last_seq);
    write_be64(w, (uint64_t)r->order_count);
    for (int64_t i = 0; i < places_count(r); i++) write_varint(w, r->places.at[i]);
}

enum status slot_record_decode(struct slice row, struct slot_record *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    if (format != ORDER_FORMAT && format != SLOT_FORMAT_PLACES) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct slot_record){.last_order_id = (int64_t)read_be64(&r)};
    out->last_seq = (int64_t)read_be64(&r);
    out->order_count = (int64_t)read_be64(&r);
    if (format == SLOT_FORMAT_PLACES)
        for (int64_t i = 0; i < places_count(out); i++) out->places.at[i] = read_varint(&r);
    return r.bad || r.at != r.end ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

enum { DEDUP_FORMAT_FENCE = 2, FENCE_RECORD_BYTES = 8 + 1 };

void dedup_record_encode(const struct dedup_record *r, struct writer *w)
{
    write_be64(w, r->expiry_us);
    if (r->fence) return write_u8(w, DEDUP_FORMAT_FENCE);
    write_u8(w, ORDER_FORMAT);
    write_be64(w, r->fingerprint.low);
    write_be64(w, r->fingerprint.high);
    write_be64(w, (uint64_t)r->order_id);
    write_be64(w, (uint64_t)r->version);
    write_be64(w, (uint64_t)r->seq);
    write_be64(w, (uint64_t)r->time_us);
}

enum status dedup_record_decode(struct slice row, struct dedup_record *out)
{
    struct reader r = reader_of(row);
    *out = (struct dedup_record){.expiry_us = read_be64(&r)};
    uint8_t format = read_u8(&r);
    out->fence = format == DEDUP_FORMAT_FENCE;
    if (out->fence) return row.len == FENCE_RECORD_BYTES ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
    if (format != ORDER_FORMAT || row.len != DEDUP_RECORD_BYTES) return STATUS_CHECKSUM_MISMATCH;
    out->fingerprint.low = read_be64(&r);
    out->fingerprint.high = read_be64(&r);
    out->order_id = (int64_t)read_be64(&r);
    out->version = (int64_t)read_be64(&r);
    out->seq = (int64_t)read_be64(&r);
    out->time_us = (int64_t)read_be64(&r);
    return STATUS_OK;
}

/* ---- rows in and out */

static enum status get(struct applying *x, const struct key *k, struct slice *row) { return store_get(&x->a->view, key_slice(k), x->a->scratch, row); }
static void put(struct applying *x, const struct key *k, struct slice row) { store_batch_put(x->a->view.batch, key_slice(k), row); }
/* A row that other rows promise: without it the store is damaged. */
static enum status must_exist(enum status st) { return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st; }

enum status apply_load_head(struct applying *x, int64_t order_id, struct order_head *head)
{
    struct key k;
    struct slice row;
    key_head(&k, order_id);
    enum status st = get(x, &k, &row);
    if (!st) st = order_head_decode(row, head);
    if (!st && (head->order_id != order_id || !machines_by_id(x->a->machines, head->machine))) st = STATUS_CHECKSUM_MISMATCH;
    return st;
}

enum status apply_load_entry(struct applying *x, int64_t order_id, int64_t version, struct history_entry *entry)
{
    struct key k;
    struct slice row;
    struct order_body body;
    if (version == 1) key_body(&k, order_id);
    else key_history(&k, order_id, version);
    enum status st = must_exist(get(x, &k, &row));
    if (st) return st;
    if (version > 1) return history_decode(row, entry);
    st = order_body_decode(row, &body);
    if (!st) *entry = body.origin;
    return st;
}

bool slot_cache_init(struct slot_cache *c, uint16_t first, uint32_t count)
{
    *c = (struct slot_cache){.first = first, .at = mem_alloc(count * sizeof *c->at)};
    if (c->at) c->count = count;
    slot_cache_clear(c);
    return c->at != NULL;
}

void slot_cache_clear(struct slot_cache *c)
{
    for (uint32_t i = 0; i < c->count; i++) c->at[i].last_seq = -1;
}

void slot_cache_fini(struct slot_cache *c)
{
    mem_free(c->at);
    *c = (struct slot_cache){0};
}

/* NULL: nothing is cached for this slot. */
static struct slot_record *cached(const struct applying *x)
{
    struct slot_cache *c = x->a->slots;
    return c && x->slot >= c->first && x->slot - c->first < (int)c->count ? &c->at[x->slot - c->first] : NULL;
}

enum status apply_load_slot(struct applying *x, struct slot_record *record)
{
    struct key k;
    struct slice row;
    struct slot_record *known = cached(x);
    if (known && known->last_seq >= 0) return *record = *known, STATUS_OK;
    key_slot(&k, x->slot);
    enum status st = get(x, &k, &row);
    if (st == STATUS_ABSENT) return *record = (struct slot_record){0}, STATUS_OK;
    return st ? st : slot_record_decode(row, record);
}

void apply_put_slot(struct applying *x, const struct slot_record *record)
{
    struct key k;
    uint8_t row[SLOT_RECORD_BYTES_MAX];
    struct writer w = writer_of(row, sizeof row);
    key_slot(&k, x->slot);
    slot_record_encode(record, &w);
    check(!w.full);
    put(x, &k, writer_slice(&w));
    struct slot_record *known = cached(x);
    if (known) *known = *record;
}

enum status apply_put_head(struct applying *x, const struct order_head *head)
{
    struct key k;
    size_t cap = order_head_bytes_max(head);
    uint8_t *row = arena_alloc(x->a->scratch, cap);
    if (!row) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(row, cap);
    key_head(&k, head->order_id);
    order_head_encode(head, &w);
    check(!w.full);
    put(x, &k, writer_slice(&w));
    return STATUS_OK;
}

enum status apply_put_entry(struct applying *x, int64_t order_id, const struct history_entry *entry)
{
    struct key k;
    size_t cap = history_bytes_max(entry);
    uint8_t *row = arena_alloc(x->a->scratch, cap);
    if (!row) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(row, cap);
    check(entry->version > 1); /* version 1 lives in the body */
    key_history(&k, order_id, entry->version);
    history_encode(entry, &w);
    check(!w.full);
    put(x, &k, writer_slice(&w));
    return STATUS_OK;
}

/* ---- idempotency (docs/API.md) */

/* The first answer once more: the order as it was at that version, which its history entry tells, however far it has moved since. */
static enum status replay(struct applying *x, const struct dedup_record *record)
{
    struct outcome *out = x->out;
    enum status st = must_exist(apply_load_head(x, record->order_id, &out->head));
    if (!st) st = apply_load_entry(x, record->order_id, record->version, &out->entry);
    if (st) return st;
    out->head.version = record->version;
    out->head.status = out->entry.to;
    out->head.update_us = out->entry.time_us;
    out->head.timers = out->entry.timers;
    memcpy(out->head.chain_hash, out->entry.chain_hash, SHA256_BYTES);
    out->seq = record->seq;
    out->replayed = true;
    return STATUS_OK;
}

enum status apply_load_dedup(struct applying *x, struct slice user_id, enum request_method method, struct dedup_record *record)
{
    struct key k;
    struct slice row;
    key_dedup(&k, x->slot, user_id, x->command->origin.request_id, (uint8_t)method);
    enum status st = get(x, &k, &row);
    if (!st) st = dedup_record_decode(row, record);
    /* The store may drop an expired record at any time and on one replica alone, so an expired one is never looked at. */
    return !st && record->expiry_us <= x->now_us ? STATUS_ABSENT : st;
}

void apply_put_dedup(struct applying *x, struct slice user_id, enum request_method method, const struct dedup_record *record)
{
    struct key k;
    uint8_t row[DEDUP_RECORD_BYTES];
    struct writer w = writer_of(row, sizeof row);
    key_dedup(&k, x->slot, user_id, x->command->origin.request_id, (uint8_t)method);
    dedup_record_encode(record, &w);
    check(!w.full);
    put(x, &k, writer_slice(&w));
}

enum status apply_replay(struct applying *x, struct slice user_id, enum request_method method, bool *settled)
{
    const struct command_origin *origin = &x->command->origin;
    *settled = false;
    if (!origin->request_id.len) return STATUS_OK;
    struct dedup_record record;
    enum status st = apply_load_dedup(x, user_id, method, &record);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    *settled = true;
    if (record.fence) return apply_refuse(x, STATUS_REQUEST_FENCED);
    if (record.fingerprint.low == origin->fingerprint.low && record.fingerprint.high == origin->fingerprint.high) return replay(x, &record);
    x->out->first_order_id = record.order_id;
    x->out->first_time_us = record.time_us;
    return apply_refuse(x, STATUS_IDEMPOTENCY_KEY_REUSED);
}

void apply_remember(struct applying *x, struct slice user_id, enum request_method method, const struct order_head *head, int64_t seq)
{
    const struct command_origin *origin = &x->command->origin;
    if (!origin->request_id.len) return;
    struct dedup_record record = {
        .expiry_us = x->now_us + origin->ttl_us,
        .fingerprint = origin->fingerprint,
        .order_id = head->order_id,
        .version = head->version,
        .seq = seq,
        .time_us = head->update_us,
    };
    apply_put_dedup(x, user_id, method, &record);
}
