#include "engine/consumer_row.h"
#include "engine/event.h"

#include "proto/pbwire.h"

enum { ROW_FORMAT = 1, ROW_FORMAT_SNAPSHOT = 2, ROW_COUNT_BYTES_MAX = 10 };

/* ---- definition: orderdb.v1.ConsumerGroup. Numbers of its fields, and of RetryPolicy's. */

enum {
    FIELD_GROUP = 1, FIELD_FILTER = 2, FIELD_ORDERING_KEY = 3, FIELD_RETRY = 4, FIELD_START = 5, FIELD_START_TIME = 6, FIELD_PAYLOAD = 7, FIELD_ACK_TIMEOUT = 8, FIELD_PAUSED = 9,
    FIELD_KEY_WINDOW = 10,
    RETRY_MAX_ATTEMPTS = 1, RETRY_MIN_BACKOFF = 2, RETRY_MAX_BACKOFF = 3, RETRY_ON_EXHAUSTED = 4,
    VIEW_SUMMARY = 1, VIEW_FULL = 2,
    TIME_SECONDS = 1, TIME_NANOS = 2,
    NUMBERS_BYTES_MAX = 10 * PB_INT_BYTES_MAX + 5 * (PB_TIMESTAMP_BYTES_MAX + 8),
};

/* google.protobuf.Duration and Timestamp look alike on the wire. */
static bool read_time_us(struct slice bytes, int64_t *us)
{
    struct reader r = reader_of(bytes);
    int64_t seconds = 0, nanos = 0;
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.number == TIME_SECONDS) seconds = (int64_t)f.value;
        if (f.number == TIME_NANOS) nanos = (int64_t)f.value;
    }
    if (r.bad || seconds > INT64_MAX / US_PER_S / 2 || seconds < -(INT64_MAX / US_PER_S / 2) || nanos < 0 || nanos > 999999999) return false;
    *us = seconds * US_PER_S + nanos / 1000;
    return true;
}

struct slice consumer_definition_encode(const struct consumer_definition *d, struct arena *arena)
{
    size_t cap = NUMBERS_BYTES_MAX + pb_bytes_max(d->name) + pb_bytes_max(d->filter);
    uint8_t *data = arena_alloc(arena, cap), retry[4 * PB_INT_BYTES_MAX + 2 * (PB_TIMESTAMP_BYTES_MAX + 8)];
    if (!data) return (struct slice){0};
    struct writer w = writer_of(data, cap), r = writer_of(retry, sizeof retry);
    pb_int64(&r, RETRY_MAX_ATTEMPTS, d->max_attempts);
    pb_timestamp_us(&r, RETRY_MIN_BACKOFF, (int64_t)d->min_backoff_us);
    pb_timestamp_us(&r, RETRY_MAX_BACKOFF, (int64_t)d->max_backoff_us);
    pb_int64(&r, RETRY_ON_EXHAUSTED, d->on_exhausted);
    check(!r.full);
    struct slice policy = writer_slice(&r);
    pb_bytes(&w, FIELD_GROUP, d->name);
    pb_bytes(&w, FIELD_FILTER, d->filter);
    pb_int64(&w, FIELD_ORDERING_KEY, d->ordering);
    pb_message(&w, FIELD_RETRY, &policy, 1);
    pb_int64(&w, FIELD_START, d->start);
    if (d->start == START_AT_TIME) pb_timestamp_us(&w, FIELD_START_TIME, d->start_us);
    pb_int64(&w, FIELD_PAYLOAD, d->full ? VIEW_FULL : VIEW_SUMMARY);
    pb_timestamp_us(&w, FIELD_ACK_TIMEOUT, (int64_t)d->ack_timeout_us);
    pb_bool(&w, FIELD_PAUSED, d->paused);
    pb_int64(&w, FIELD_KEY_WINDOW, d->key_window);
    check(!w.full);
    return writer_slice(&w);
}

static bool decode_retry(struct slice bytes, struct consumer_definition *d)
{
    struct reader r = reader_of(bytes);
    int64_t min_us = 0, max_us = 0;
    bool good = true;
    for (struct pb_field f; good && pb_next(&r, &f);) {
        if (f.number == RETRY_MAX_ATTEMPTS) d->max_attempts = (uint32_t)f.value;
        if (f.number == RETRY_MIN_BACKOFF) good = read_time_us(f.bytes, &min_us);
        if (f.number == RETRY_MAX_BACKOFF) good = read_time_us(f.bytes, &max_us);
        if (f.number == RETRY_ON_EXHAUSTED) d->on_exhausted = (enum consumer_exhausted)f.value;
    }
    d->min_backoff_us = (uint64_t)min_us;
    d->max_backoff_us = (uint64_t)max_us;
    return good && !r.bad && min_us >= 0 && max_us >= min_us;
}

enum status consumer_definition_decode(struct slice bytes, struct consumer_definition *out)
{
    struct reader r = reader_of(bytes);
    int64_t timeout_us = 0;
    bool good = true;
    *out = (struct consumer_definition){0};
    for (struct pb_field f; good && pb_next(&r, &f);) {
        switch (f.number) {
        case FIELD_GROUP: out->name = f.bytes; break;
        case FIELD_FILTER: out->filter = f.bytes; break;
        case FIELD_ORDERING_KEY: out->ordering = (enum consumer_ordering)f.value; break;
        case FIELD_RETRY: good = decode_retry(f.bytes, out); break;
        case FIELD_START: out->start = (enum consumer_start)f.value; break;
        case FIELD_START_TIME: good = read_time_us(f.bytes, &out->start_us); break;
        case FIELD_PAYLOAD: out->full = f.value == VIEW_FULL; break;
        case FIELD_ACK_TIMEOUT: good = read_time_us(f.bytes, &timeout_us); break;
        case FIELD_PAUSED: out->paused = f.value != 0; break;
        case FIELD_KEY_WINDOW: out->key_window = (uint32_t)f.value; break;
        default: good = false;
        }
    }
    out->ack_timeout_us = (uint64_t)timeout_us;
    bool enums = out->ordering >= ORDERING_USER && out->ordering <= ORDERING_NONE && out->start >= START_EARLIEST && out->start <= START_SNAPSHOT &&
                 out->on_exhausted >= EXHAUSTED_LETTER && out->on_exhausted <= EXHAUSTED_BLOCK;
    bool numbers = out->max_attempts >= 1 && out->max_attempts <= CONSUMER_ATTEMPTS_MAX && out->key_window >= 1 && out->key_window <= CONSUMER_KEY_WINDOW_MAX && timeout_us > 0;
    return good && !r.bad && enums && numbers && out->name.len ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}

bool consumer_definition_restarts(const struct consumer_definition *before, const struct consumer_definition *after)
{
    return before->ordering != after->ordering || !slice_equal(before->filter, after->filter);
}

/* ---- the group in a partition */

void consumer_group_row_encode(const struct consumer_group_row *r, struct writer *w)
{
    write_u8(w, ROW_FORMAT);
    write_be64(w, r->revision);
    write_be64(w, r->epoch);
    write_u8(w, r->flags);
    write_be64(w, r->start_place);
    write_be64(w, r->start_us);
    write_be32(w, r->redrive_milli);
    write_be16(w, r->sweep_slot);
    write_counted(w, r->definition);
}

enum status consumer_group_row_decode(struct slice row, struct consumer_group_row *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    *out = (struct consumer_group_row){.revision = read_be64(&r)};
    out->epoch = read_be64(&r);
    out->flags = read_u8(&r);
    out->start_place = read_be64(&r);
    out->start_us = read_be64(&r);
    out->redrive_milli = read_be32(&r);
    out->sweep_slot = read_be16(&r);
    out->definition = read_counted(&r);
    return !r.bad && !reader_left(&r) && format == ROW_FORMAT && out->flags <= (CONSUMER_REMOVING | CONSUMER_SNAPSHOT | CONSUMER_YIELD) ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}

void consumer_progress_encode(const struct consumer_progress *p, struct writer *w)
{
    write_u8(w, p->scanning ? ROW_FORMAT_SNAPSHOT : ROW_FORMAT);
    write_be64(w, p->epoch);
    write_be64(w, p->settled_place);
    write_be64(w, p->settled_us);
    if (!p->scanning) return;
    write_be16(w, p->scan.slot);
    write_be64(w, (uint64_t)p->scan.after);
    write_be64(w, p->told);
}

enum status consumer_progress_decode(struct slice row, struct consumer_progress *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    *out = (struct consumer_progress){.epoch = read_be64(&r), .scanning = format == ROW_FORMAT_SNAPSHOT};
    out->settled_place = read_be64(&r);
    out->settled_us = read_be64(&r);
    if (out->scanning) out->scan.slot = read_be16(&r), out->scan.after = (int64_t)read_be64(&r), out->told = read_be64(&r);
    bool good = (format == ROW_FORMAT || format == ROW_FORMAT_SNAPSHOT) && out->scan.slot <= SLOT_COUNT && out->scan.after >= 0;
    return good && !r.bad && !reader_left(&r) ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}

/* ---- positions */

size_t consumer_position_bytes_max(const struct consumer_position *p)
{
    size_t n = 1 + 8 + 5 * ROW_COUNT_BYTES_MAX;
    int64_t before = 0;
    for (unsigned i = 0; i < p->count; i++) {
        n += varint_len((uint64_t)(p->listed[i].seq - before)) + varint_len(p->listed[i].attempts);
        before = p->listed[i].seq;
    }
    return n + p->told_count * (3 * ROW_COUNT_BYTES_MAX + 5);
}

void consumer_position_encode(const struct consumer_position *p, struct writer *w)
{
    int64_t before = 0;
    write_u8(w, p->told_through ? ROW_FORMAT_SNAPSHOT : ROW_FORMAT);
    write_be64(w, p->epoch);
    write_varint(w, (uint64_t)p->through);
    write_varint(w, p->letters);
    write_varint(w, p->count);
    for (unsigned i = 0; i < p->count; i++) {
        write_varint(w, (uint64_t)(p->listed[i].seq - before));
        write_varint(w, p->listed[i].attempts);
        before = p->listed[i].seq;
    }
    if (!p->told_through) return;
    write_varint(w, (uint64_t)p->told_through);
    write_varint(w, p->told_count);
    before = 0;
    for (unsigned i = 0; i < p->told_count; i++) {
        const struct consumer_told *t = &p->told[i];
        write_varint(w, (uint64_t)(t->order_id - before));
        write_varint(w, (uint64_t)t->version);
        write_varint(w, (uint64_t)t->seq);
        write_varint(w, t->attempts);
        before = t->order_id;
    }
}

static enum status decode_told(struct reader *r, struct arena *arena, struct consumer_position *out)
{
    out->told_through = (int64_t)read_varint(r);
    uint64_t count = read_varint(r), id = 0;
    if (r->bad || out->told_through < 1 || count > reader_left(r) / 4 || count > CONSUMER_LISTED_MAX) return STATUS_CHECKSUM_MISMATCH;
    struct consumer_told *told = count ? arena_alloc(arena, count * sizeof *told) : NULL;
    if (count && !told) return STATUS_MEMORY_LIMIT;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t delta = read_varint(r), version = read_varint(r), seq = read_varint(r), attempts = read_varint(r);
        bool numbers = version >= 1 && version <= INT64_MAX && seq >= 1 && seq <= INT64_MAX && attempts <= UINT32_MAX;
        if (r->bad || !numbers || delta == 0 || delta > (uint64_t)out->told_through - id) return STATUS_CHECKSUM_MISMATCH;
        id += delta;
        told[i] = (struct consumer_told){.order_id = (int64_t)id, .version = (int64_t)version, .seq = (int64_t)seq, .attempts = (uint32_t)attempts};
    }
    out->told_count = (unsigned)count;
    out->told = told;
    return STATUS_OK;
}

enum status consumer_position_decode(struct slice row, struct arena *arena, struct consumer_position *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r);
    *out = (struct consumer_position){.epoch = read_be64(&r)};
    out->through = (int64_t)read_varint(&r);
    out->letters = read_varint(&r);
    uint64_t count = read_varint(&r), seq = 0;
    if (r.bad || (format != ROW_FORMAT && format != ROW_FORMAT_SNAPSHOT) || out->through < 0 || count > reader_left(&r) / 2 || count > CONSUMER_LISTED_MAX) return STATUS_CHECKSUM_MISMATCH;
    struct consumer_unsettled *listed = count ? arena_alloc(arena, count * sizeof *listed) : NULL;
    if (count && !listed) return STATUS_MEMORY_LIMIT;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t delta = read_varint(&r), attempts = read_varint(&r);
        if (r.bad || delta == 0 || delta > (uint64_t)out->through - seq || attempts > UINT32_MAX) return STATUS_CHECKSUM_MISMATCH;
        seq += delta;
        listed[i] = (struct consumer_unsettled){.seq = (int64_t)seq, .attempts = (uint32_t)attempts};
    }
    out->count = (unsigned)count;
    out->listed = listed;
    enum status st = format == ROW_FORMAT_SNAPSHOT ? decode_told(&r, arena, out) : STATUS_OK;
    return st ? st : reader_left(&r) ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

static const struct consumer_unsettled *listed_find(const struct consumer_position *p, int64_t seq)
{
    unsigned low = 0, high = p->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        if (p->listed[middle].seq < seq) low = middle + 1;
        else high = middle;
    }
    return low < p->count && p->listed[low].seq == seq ? &p->listed[low] : NULL;
}

bool consumer_position_settled(const struct consumer_position *p, int64_t seq) { return event_has_seq(seq) ? seq <= p->through && !listed_find(p, seq) : !consumer_told_find(p, seq); }

/* Not settled after the join: in neither. Both lists ascend, so one walk over both; what is above a `through` is as if it were listed there with no attempts. */
enum status consumer_position_join(const struct consumer_position *a, const struct consumer_position *b, struct arena *arena, struct consumer_position *out)
{
    check(a->epoch == b->epoch);
    *out = (struct consumer_position){.epoch = a->epoch, .through = MAX_OF(a->through, b->through), .letters = a->letters, .told_through = a->told_through, .told_count = a->told_count, .told = a->told};
    struct consumer_unsettled *listed = a->count + b->count ? arena_alloc(arena, (a->count + b->count) * sizeof *listed) : NULL;
    if (a->count + b->count && !listed) return STATUS_MEMORY_LIMIT;
    for (unsigned i = 0, k = 0; i < a->count || k < b->count;) {
        const struct consumer_unsettled *x = i < a->count ? &a->listed[i] : NULL, *y = k < b->count ? &b->listed[k] : NULL;
        int64_t seq = !y || (x && x->seq < y->seq) ? x->seq : y->seq;
        bool in_a = x && x->seq == seq, in_b = y && y->seq == seq;
        if ((in_a || seq > a->through) && (in_b || seq > b->through))
            listed[out->count++] = (struct consumer_unsettled){seq, MAX_OF(in_a ? x->attempts : 0, in_b ? y->attempts : 0)};
        i += in_a, k += in_b;
    }
    out->listed = listed;
    return out->count > CONSUMER_LISTED_MAX ? STATUS_LIMIT_EXCEEDED : STATUS_OK;
}

enum status consumer_position_settle(const struct consumer_position *p, int64_t seq, struct arena *arena, struct consumer_position *out)
{
    uint64_t more = seq > p->through ? (uint64_t)(seq - 1 - p->through) : 0; /* passed over, and not settled */
    if (p->count + more > CONSUMER_LISTED_MAX) return STATUS_LIMIT_EXCEEDED;
    struct consumer_unsettled *listed = arena_alloc(arena, (p->count + more + 1) * sizeof *listed);
    if (!listed) return STATUS_MEMORY_LIMIT;
    *out = *p;
    out->count = 0;
    out->listed = listed;
    for (unsigned i = 0; i < p->count; i++)
        if (p->listed[i].seq != seq) listed[out->count++] = p->listed[i];
    for (uint64_t i = 1; i <= more; i++) listed[out->count++] = (struct consumer_unsettled){.seq = p->through + (int64_t)i};
    out->through = MAX_OF(p->through, seq);
    return STATUS_OK;
}

/* ---- told orders */

enum status consumer_told_join(const struct consumer_position *known, const struct consumer_position *told, int64_t fresh_after, struct arena *arena, struct consumer_position *out)
{
    unsigned most = known->told_count + told->told_count;
    struct consumer_told *left = most ? arena_alloc(arena, most * sizeof *left) : NULL;
    if (most && !left) return STATUS_MEMORY_LIMIT;
    out->told = left;
    out->told_count = 0;
    unsigned k = 0;
    for (unsigned i = 0; i < known->told_count && known->told[i].order_id <= fresh_after; i++) {
        const struct consumer_told *t = &known->told[i];
        while (k < told->told_count && told->told[k].order_id < t->order_id) k++;
        bool there = k < told->told_count && told->told[k].order_id == t->order_id;
        if (!there && t->order_id <= told->told_through) continue; /* settled */
        left[out->told_count] = *t;
        if (there) left[out->told_count].attempts = MAX_OF(t->attempts, told->told[k].attempts);
        out->told_count++;
    }
    for (k = 0; k < told->told_count; k++)
        if (told->told[k].order_id > fresh_after) left[out->told_count++] = told->told[k];
    out->told_through = out->told_count ? left[out->told_count - 1].order_id : 0;
    return out->told_count > CONSUMER_LISTED_MAX ? STATUS_LIMIT_EXCEEDED : STATUS_OK;
}

const struct consumer_told *consumer_told_find(const struct consumer_position *p, int64_t seq)
{
    for (unsigned i = 0; i < p->told_count; i++)
        if (p->told[i].seq == seq) return &p->told[i];
    return NULL;
}

enum status consumer_told_settle(const struct consumer_position *p, const struct consumer_told *t, struct arena *arena, struct consumer_position *out)
{
    struct consumer_told *left = arena_alloc(arena, p->told_count * sizeof *left);
    if (!left) return STATUS_MEMORY_LIMIT;
    *out = *p;
    out->told = left;
    out->told_count = 0;
    for (unsigned i = 0; i < p->told_count; i++)
        if (&p->told[i] != t) left[out->told_count++] = p->told[i];
    if (!out->told_count) out->told_through = 0;
    return STATUS_OK;
}

/* ---- letters */

size_t consumer_letter_bytes_max(const struct consumer_letter *l) { return 1 + 1 + 5 + 8 + 8 + 1 + 2 * 5 + 2 * ROW_COUNT_BYTES_MAX + l->error.len + l->event.len; }

void consumer_letter_encode(const struct consumer_letter *l, struct writer *w)
{
    write_u8(w, ROW_FORMAT);
    write_u8(w, (uint8_t)l->state);
    write_varint(w, l->attempts);
    write_be64(w, l->time_us);
    write_be64(w, l->key);
    write_u8(w, l->parks);
    write_varint(w, l->base);
    write_varint(w, l->brief);
    write_counted(w, l->error);
    write_counted(w, l->event);
}

enum status consumer_letter_decode(struct slice row, struct consumer_letter *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r), state = read_u8(&r);
    uint64_t attempts = read_varint(&r);
    *out = (struct consumer_letter){.state = (enum consumer_letter_state)state, .attempts = (uint32_t)attempts, .time_us = read_be64(&r)};
    out->key = read_be64(&r);
    uint8_t parks = read_u8(&r);
    uint64_t base = read_varint(&r), brief = read_varint(&r);
    out->parks = parks;
    out->base = (uint32_t)base, out->brief = (uint32_t)brief;
    out->error = read_counted(&r);
    out->event = read_counted(&r);
    bool good = format == ROW_FORMAT && state >= LETTER_DEAD && state <= LETTER_REDRIVEN && attempts <= UINT32_MAX && parks <= 1 && base <= out->event.len && brief <= out->event.len - base;
    return good && !r.bad && !reader_left(&r) ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}
