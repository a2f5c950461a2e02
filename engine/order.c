#include "engine/order.h"

#include "engine/timers.h"
#include "proto/pbwire.h"

/* Layouts (numbers big-endian, texts and nested rows counted by a varint; every row must be used up to its last byte):
 *
 *   head     format(1) order_id(8) version(8) create_us(8) update_us(8) machine(2) status(2) chain_hash(32) user_id(counted) [seq(varint)] [timers(counted)]
 *   history  format(1) version(8) time_us(8) from(2) to(2) chain_hash(32) event operator reason request_id traceparent (each counted) [timers(counted)]
 *   body     format(1) history row of version 1 (counted) summary (counted) detail (counted)
 *
 * The format is 2 where there are timers, 1 where there are none: an order without timers is stored as it was before there were any. A head that knows the seq of its newest
 * commit has 4 and 3 instead.
 * A row that does not decode was damaged below us: RocksDB's own checksums passed, so answer CHECKSUM_MISMATCH rather than guess. */

enum { HEAD_FIXED_BYTES = 1 + 8 + 8 + 8 + 8 + 2 + 2 + SHA256_BYTES, HISTORY_FIXED_BYTES = 1 + 8 + 8 + 2 + 2 + SHA256_BYTES, COUNT_BYTES_MAX = 10 };
static_assert(HEAD_FIXED_BYTES + 2 + 64 <= ORDER_HEAD_BYTES_MAX, "a head with the longest user_id (64 bytes) fits");

/* ---- rows */

static void write_hash(struct writer *w, const uint8_t hash[SHA256_BYTES]) { write_bytes(w, hash, SHA256_BYTES); }

static void read_hash(struct reader *r, uint8_t hash[SHA256_BYTES])
{
    struct slice s = read_bytes(r, SHA256_BYTES);
    if (s.data) memcpy(hash, s.data, SHA256_BYTES);
}

static enum status row_end(const struct reader *r) { return r->bad || r->at != r->end ? STATUS_CHECKSUM_MISMATCH : STATUS_OK; }

static uint8_t format_of(struct slice timers) { return timers.len ? ORDER_FORMAT_TIMERS : ORDER_FORMAT; }

static void write_timers(struct writer *w, struct slice timers)
{
    if (timers.len) write_counted(w, timers);
}

/* Behind all else of the row. */
static struct slice read_timers(struct reader *r, uint8_t format)
{
    struct order_timers ts;
    struct slice timers = {0};
    if (format == ORDER_FORMAT_TIMERS) timers = read_counted(r);
    if (format == ORDER_FORMAT_TIMERS && (!timers.len || timers_decode(timers, &ts))) r->bad = true;
    return timers;
}

size_t order_head_bytes_max(const struct order_head *h) { return HEAD_FIXED_BYTES + 2 * COUNT_BYTES_MAX + varint_len((uint64_t)h->seq) + h->user_id.len + h->timers.len; }

void order_head_encode(const struct order_head *h, struct writer *w)
{
    write_u8(w, (uint8_t)(format_of(h->timers) + (h->seq ? ORDER_FORMAT_SEQ : 0)));
    write_be64(w, (uint64_t)h->order_id);
    write_be64(w, (uint64_t)h->version);
    write_be64(w, (uint64_t)h->create_us);
    write_be64(w, (uint64_t)h->update_us);
    write_be16(w, h->machine);
    write_be16(w, h->status);
    write_hash(w, h->chain_hash);
    write_counted(w, h->user_id);
    if (h->seq) write_varint(w, (uint64_t)h->seq);
    write_timers(w, h->timers);
}

enum status order_head_decode(struct slice row, struct order_head *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    if (format < ORDER_FORMAT || format > ORDER_FORMAT_TIMERS + ORDER_FORMAT_SEQ) return STATUS_CHECKSUM_MISMATCH;
    bool has_seq = format > ORDER_FORMAT_SEQ;
    *out = (struct order_head){0};
    out->order_id = (int64_t)read_be64(&r);
    out->version = (int64_t)read_be64(&r);
    out->create_us = (int64_t)read_be64(&r);
    out->update_us = (int64_t)read_be64(&r);
    out->machine = read_be16(&r);
    out->status = read_be16(&r);
    read_hash(&r, out->chain_hash);
    out->user_id = read_counted(&r);
    if (has_seq && (out->seq = (int64_t)read_varint(&r)) < 1) return STATUS_CHECKSUM_MISMATCH;
    out->timers = read_timers(&r, has_seq ? format - ORDER_FORMAT_SEQ : format);
    return out->order_id < 1 || out->version < 1 ? STATUS_CHECKSUM_MISMATCH : row_end(&r);
}

void history_encode(const struct history_entry *e, struct writer *w)
{
    write_u8(w, format_of(e->timers));
    write_be64(w, (uint64_t)e->version);
    write_be64(w, (uint64_t)e->time_us);
    write_be16(w, e->from);
    write_be16(w, e->to);
    write_hash(w, e->chain_hash);
    write_counted(w, e->event);
    write_counted(w, e->operator_);
    write_counted(w, e->reason);
    write_counted(w, e->request_id);
    write_counted(w, e->traceparent);
    write_timers(w, e->timers);
}

enum status history_decode(struct slice row, struct history_entry *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    if (format != ORDER_FORMAT && format != ORDER_FORMAT_TIMERS) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct history_entry){0};
    out->version = (int64_t)read_be64(&r);
    out->time_us = (int64_t)read_be64(&r);
    out->from = read_be16(&r);
    out->to = read_be16(&r);
    read_hash(&r, out->chain_hash);
    out->event = read_counted(&r);
    out->operator_ = read_counted(&r);
    out->reason = read_counted(&r);
    out->request_id = read_counted(&r);
    out->traceparent = read_counted(&r);
    out->timers = read_timers(&r, format);
    return out->version < 1 ? STATUS_CHECKSUM_MISMATCH : row_end(&r);
}

size_t history_bytes_max(const struct history_entry *e)
{
    return HISTORY_FIXED_BYTES + 6 * COUNT_BYTES_MAX + e->event.len + e->operator_.len + e->reason.len + e->request_id.len + e->traceparent.len + e->timers.len;
}

void order_body_encode(const struct order_body *b, struct writer *w)
{
    const struct history_entry *o = &b->origin;
    const struct slice texts[] = {o->event, o->operator_, o->reason, o->request_id, o->traceparent};
    size_t origin_bytes = HISTORY_FIXED_BYTES;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) origin_bytes += varint_len(texts[i].len) + texts[i].len;
    if (o->timers.len) origin_bytes += varint_len(o->timers.len) + o->timers.len;
    write_u8(w, ORDER_FORMAT);
    write_varint(w, origin_bytes);
    size_t at = w->len;
    history_encode(o, w);
    check(w->full || w->len - at == origin_bytes);
    write_counted(w, b->summary);
    write_counted(w, b->detail);
}

enum status order_body_decode(struct slice row, struct order_body *out)
{
    struct reader r = reader_of(row);
    if (read_u8(&r) != ORDER_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    struct slice origin = read_counted(&r);
    out->summary = read_counted(&r);
    out->detail = read_counted(&r);
    enum status st = row_end(&r);
    if (!st) st = history_decode(origin, &out->origin);
    return !st && out->origin.version != 1 ? STATUS_CHECKSUM_MISMATCH : st;
}

size_t order_body_bytes_max(const struct order_body *b)
{
    return 1 + COUNT_BYTES_MAX + history_bytes_max(&b->origin) + 2 * COUNT_BYTES_MAX + b->summary.len + b->detail.len;
}

/* ---- the chain */

/* from is 0 at version 1: the order came from nowhere. */
static struct slice status_text(const struct machines *ms, uint16_t status) { return status ? machines_status_name(ms, status) : (struct slice){0}; }

void history_chain(struct history_entry *e, int64_t order_id, const uint8_t previous[SHA256_BYTES], const struct machines *ms)
{
    const struct slice texts[] = {e->event, status_text(ms, e->from), status_text(ms, e->to), e->operator_, e->reason, e->request_id, e->traceparent};
    uint8_t numbers[24], lengths[ARRAY_LEN(texts)][4];
    struct slice parts[2 + 2 * ARRAY_LEN(texts)];
    size_t n = 0;
    put_be64(numbers, (uint64_t)order_id);
    put_be64(numbers + 8, (uint64_t)e->version);
    put_be64(numbers + 16, (uint64_t)e->time_us);
    parts[n++] = slice_of(previous, SHA256_BYTES);
    parts[n++] = slice_of(numbers, sizeof numbers);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        put_be32(lengths[i], (uint32_t)texts[i].len);
        parts[n++] = slice_of(lengths[i], sizeof lengths[i]);
        parts[n++] = texts[i];
    }
    sha256(e->chain_hash, parts, n);
}

/* ---- content before an update */

void order_content_encode(const struct order_body *b, struct writer *w)
{
    write_u8(w, ORDER_FORMAT);
    write_counted(w, b->summary);
    write_counted(w, b->detail);
}

enum status order_content_decode(struct slice row, struct order_body *out)
{
    struct reader r = reader_of(row);
    if (read_u8(&r) != ORDER_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    out->summary = read_counted(&r);
    out->detail = read_counted(&r);
    return r.bad || r.at != r.end ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* ---- answers */

size_t order_head_wire_bytes_max(const struct order_head *h) { return ORDER_HEAD_WIRE_BYTES_MAX + timers_wire_bytes_max(h->timers); }

void order_head_write(struct writer *w, const struct order_head *h, const struct machines *ms)
{
    const struct machine *m = machines_by_id(ms, h->machine);
    check(m);
    pb_int64(w, 1, h->order_id);
    pb_bytes(w, 6, machine_reference(m));
    pb_bytes(w, 7, machines_status_name(ms, h->status));
    pb_int64(w, 8, h->version);
    timers_write(w, h->timers, ms);
    pb_timestamp_us(w, 30, h->create_us);
    pb_timestamp_us(w, 31, h->update_us);
}

struct slice order_head_wire(const struct order_head *h, const struct machines *ms, struct arena *arena)
{
    struct slice machine = machine_reference(machines_by_id(ms, h->machine)), status = machines_status_name(ms, h->status);
    /* not the most there can be: a page holds a thousand of them */
    size_t cap = 2 * PB_INT_BYTES_MAX + pb_bytes_max(machine) + pb_bytes_max(status) + 2 * PB_TIMESTAMP_BYTES_MAX + timers_wire_bytes_max(h->timers);
    uint8_t *data = arena_alloc(arena, cap);
    if (!data) return (struct slice){0};
    struct writer w = writer_of(data, cap);
    order_head_write(&w, h, ms);
    check(!w.full);
    return writer_slice(&w);
}

size_t history_wire_bytes_max(const struct history_entry *e)
{
    size_t texts = pb_bytes_max(e->event) + pb_bytes_max(e->operator_) + pb_bytes_max(e->reason) + pb_bytes_max(e->request_id) + pb_bytes_max(e->traceparent);
    return PB_INT_BYTES_MAX + PB_TIMESTAMP_BYTES_MAX + 3 * 15 + 2 * STATUS_NAME_BYTES_MAX + SHA256_BYTES + texts;
}

void history_wire_write(struct writer *w, const struct history_entry *e, const struct machines *ms)
{
    pb_int64(w, 1, e->version);
    pb_bytes(w, 2, e->event);
    pb_bytes(w, 3, status_text(ms, e->from));
    pb_bytes(w, 4, status_text(ms, e->to));
    pb_timestamp_us(w, 5, e->time_us);
    pb_bytes(w, 6, e->operator_);
    pb_bytes(w, 7, e->reason);
    pb_bytes(w, 8, e->request_id);
    pb_bytes(w, 9, e->traceparent);
    pb_bytes(w, 10, slice_of(e->chain_hash, SHA256_BYTES));
}

struct slice history_wire(const struct history_entry *e, const struct machines *ms, struct arena *arena)
{
    size_t cap = history_wire_bytes_max(e);
    uint8_t *data = arena_alloc(arena, cap);
    if (!data) return (struct slice){0};
    struct writer w = writer_of(data, cap);
    history_wire_write(&w, e, ms);
    check(!w.full);
    return writer_slice(&w);
}
