#include "engine/event.h"

#include "proto/pbwire.h"

enum {
    FIELD_EVENTS = 1, FIELD_AFTER = 10,
    EVENT_ID_BYTES_MAX = 5 + 1 + 20 + 1,
    DIRECTORY_ROW_BYTES_MAX = 2 + 8 + 1 + 3 * 5 + 8 + 10,
    /* event_id, slot, seq, type, order_id, commit_time: tags, lengths and numbers; lengths of entry and changed */
    BASE_FIXED_BYTES_MAX = 64 + 4 * PB_INT_BYTES_MAX + PB_TIMESTAMP_BYTES_MAX + 2 * 6,
    CHANGED_BYTES_MAX = 256,
};

/* ---- writing */

/* What a commit can set, in words. */
static const struct {
    unsigned number;
    const char *path;
} changeable[] = {{5, "order_type"}, {7, "status"}, {21, "address"}, {22, "payments"}, {23, "shipments"}, {24, "timers"}, {40, "attributes"}, {41, "extension"}};

static void write_changed(struct writer *w, uint64_t changed)
{
    uint8_t paths[CHANGED_BYTES_MAX];
    struct writer p = writer_of(paths, sizeof paths);
    if (!changed) return;
    for (size_t i = 0; i < ARRAY_LEN(changeable); i++)
        if (changed >> changeable[i].number & 1) pb_bytes(&p, 1, slice_str(changeable[i].path));
    check(!p.full);
    struct slice mask = writer_slice(&p);
    pb_message(w, 9, &mask, 1);
}

/* Order.merchant_id, which stands near the front of the summary. */
static struct slice merchant_of(struct slice summary)
{
    struct reader r = reader_of(summary);
    for (struct pb_field f; pb_next(&r, &f) && f.number <= 3;)
        if (f.number == 3 && f.wire_type == PB_LEN) return f.bytes;
    return (struct slice){0};
}

/* Room for a length that is known only when what it counts is written: five bytes, moved together afterwards. */
static uint8_t *length_begin(struct writer *w, uint32_t field)
{
    pb_tag(w, field, PB_LEN);
    return writer_claim(w, 5);
}
static void length_end(struct writer *w, uint8_t *room)
{
    if (w->full) return;
    uint8_t *from = room + 5;
    size_t len = (size_t)(w->data + w->len - from);
    struct writer l = writer_of(room, 5);
    write_varint(&l, len);
    memmove(room + l.len, from, len);
    w->len -= 5 - l.len;
}

/* The number's digits, in front of `end`. (snprintf was a fiftieth of a transition.) */
static char *decimal_before(char *end, uint64_t v)
{
    do *--end = (char)('0' + v % 10);
    while (v /= 10);
    return end;
}

static void write_base(struct writer *w, const struct event *e, const struct machines *ms)
{
    char id[EVENT_ID_BYTES_MAX], *end = id + sizeof id, *begin = decimal_before(end, (uint64_t)e->seq);
    *--begin = ':';
    begin = decimal_before(begin, e->slot);
    pb_bytes(w, 1, slice_of(begin, (size_t)(end - begin)));
    pb_int64(w, 2, e->slot);
    pb_int64(w, 3, event_has_seq(e->seq) ? e->seq : 0);
    pb_int64(w, 4, (int64_t)e->type);
    pb_int64(w, 5, e->head->order_id);
    pb_bytes(w, 6, e->head->user_id);
    pb_bytes(w, 7, merchant_of(e->summary));
    uint8_t *room = length_begin(w, 8);
    history_wire_write(w, e->entry, ms);
    length_end(w, room);
    write_changed(w, e->changed);
    pb_timestamp_us(w, 11, e->commit_us);
    pb_bytes(w, 12, e->entry->traceparent);
}

void event_block_fini(struct event_block *b)
{
    buf_fini(&b->payload);
    buf_fini(&b->directory);
    *b = (struct event_block){0};
}

void event_block_clear(struct event_block *b) { b->payload.len = b->directory.len = 0, b->count = 0; }

bool event_block_add(struct event_block *b, const struct event *e, const struct machines *ms)
{
    bool refers = e->summary.len + e->detail.len > EVENT_CONTENT_BYTES_MAX;
    struct slice merchant = merchant_of(e->summary);
    size_t base_max = BASE_FIXED_BYTES_MAX + CHANGED_BYTES_MAX + history_wire_bytes_max(e->entry) + e->head->user_id.len + merchant.len + e->entry->traceparent.len;
    size_t content = refers ? 0 : e->summary.len + e->detail.len, frame_max = 2 * (1 + 10) + order_head_wire_bytes_max(e->head);
    if (!buf_reserve(&b->payload, base_max + content + frame_max) || !buf_reserve(&b->directory, DIRECTORY_ROW_BYTES_MAX)) return false;
    struct writer w = writer_of(b->payload.data + b->payload.len, base_max + content + frame_max);
    struct writer d = writer_of(b->directory.data + b->directory.len, DIRECTORY_ROW_BYTES_MAX);
    uint8_t *whole = length_begin(&w, FIELD_EVENTS);
    size_t base_at = w.len;
    write_base(&w, e, ms);
    size_t base_bytes = w.len - base_at;
    uint8_t *after = length_begin(&w, FIELD_AFTER);
    size_t after_at = w.len;
    if (e->head_wire.len) write_slice(&w, e->head_wire);
    else order_head_write(&w, e->head, ms);
    if (!refers) write_slice(&w, e->summary);
    size_t brief_bytes = w.len - after_at;
    if (!refers) write_slice(&w, e->detail);
    length_end(&w, after);
    length_end(&w, whole);
    check(!w.full);
    write_be16(&d, e->slot);
    write_be64(&d, (uint64_t)e->seq);
    write_u8(&d, refers ? EVENT_REFERS : 0);
    write_varint(&d, w.len);
    write_varint(&d, base_bytes);
    write_varint(&d, brief_bytes);
    if (refers) write_be64(&d, (uint64_t)e->head->order_id), write_varint(&d, (uint64_t)e->head->version);
    check(!d.full);
    b->payload.len += w.len;
    b->directory.len += d.len;
    b->count++;
    return true;
}

size_t event_block_bytes(const struct event_block *b) { return b->count ? EVENT_BLOCK_HEAD_BYTES + b->payload.len + b->directory.len : 0; }

void event_block_close(struct event_block *b, uint64_t log_time_us, struct writer *w)
{
    write_u8(w, EVENT_BLOCK_FORMAT);
    write_be64(w, log_time_us);
    write_be32(w, b->count);
    write_be32(w, (uint32_t)b->payload.len);
    write_slice(w, buf_slice(&b->payload));
    write_slice(w, buf_slice(&b->directory));
    event_block_clear(b);
}

/* ---- reading */

enum status event_block_open(struct slice row, struct event_reader *out)
{
    struct reader r = reader_of(row);
    if (read_u8(&r) != EVENT_BLOCK_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct event_reader){.log_time_us = read_be64(&r)};
    out->left = read_be32(&r);
    out->payload = reader_of(read_bytes(&r, read_be32(&r)));
    out->directory = reader_of(slice_of(r.at, reader_left(&r)));
    return r.bad ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* Takes a tag and a length from the front of a slice: what they count. */
static struct slice take_field(struct reader *r, uint32_t field)
{
    if (read_u8(r) != (field << 3 | PB_LEN)) r->bad = true;
    return read_counted(r);
}

bool event_next(struct event_reader *r, struct event_view *out, enum status *status)
{
    struct reader *d = &r->directory;
    *status = STATUS_OK;
    if (!r->left) {
        if (reader_left(d) || reader_left(&r->payload)) *status = STATUS_CHECKSUM_MISMATCH;
        return false;
    }
    r->left--;
    *out = (struct event_view){.slot = read_be16(d)};
    out->seq = (int64_t)read_be64(d);
    out->flags = read_u8(d);
    out->framed = read_bytes(&r->payload, read_varint(d));
    uint64_t base = read_varint(d), brief = read_varint(d);
    if (out->flags & EVENT_REFERS) out->order_id = (int64_t)read_be64(d), out->version = (int64_t)read_varint(d);
    struct reader framed = reader_of(out->framed);
    struct reader event = reader_of(take_field(&framed, FIELD_EVENTS));
    out->base = read_bytes(&event, base);
    struct reader after = reader_of(take_field(&event, FIELD_AFTER));
    out->brief = read_bytes(&after, brief);
    out->detail = slice_of(after.at, reader_left(&after));
    bool bad = d->bad || r->payload.bad || framed.bad || reader_left(&framed) || event.bad || reader_left(&event) || after.bad;
    if (bad || out->seq < 1) return *status = STATUS_CHECKSUM_MISMATCH, false;
    return true;
}

static size_t after_bytes(struct slice brief, size_t content_bytes)
{
    size_t n = brief.len + content_bytes;
    return 1 + varint_len(n) + n;
}

size_t event_framed_bytes(struct slice base, struct slice brief, size_t content_bytes)
{
    size_t n = base.len + after_bytes(brief, content_bytes);
    return 1 + varint_len(n) + n;
}

void event_frame(struct writer *w, struct slice base, struct slice brief, size_t content_bytes)
{
    pb_tag(w, FIELD_EVENTS, PB_LEN);
    write_varint(w, base.len + after_bytes(brief, content_bytes));
    write_slice(w, base);
    pb_tag(w, FIELD_AFTER, PB_LEN);
    write_varint(w, brief.len + content_bytes);
    write_slice(w, brief);
}
