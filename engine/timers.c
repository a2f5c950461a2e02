#include "engine/timers.h"

#include "proto/pbwire.h"

enum { TIMER_OF_STATE = 1, TIMER_SAME_EVENT = 2, TIMER_HAS_EVENT = 4, TIMER_HAS_STATUSES = 8, TIMER_FLAGS = 15 };
enum { TIMER_FIXED_BYTES = 1 + 1 + 8, COUNT_BYTES_MAX = 10, FIELD_TIMERS = 24 };

/* ---- bytes */

size_t timers_bytes_max(const struct order_timers *ts)
{
    size_t n = 1;
    for (unsigned i = 0; i < ts->count; i++)
        n += TIMER_FIXED_BYTES + 3 * COUNT_BYTES_MAX + ts->at[i].timer_id.len + ts->at[i].event.len + 2 * ts->at[i].status_count;
    return n;
}

void timers_encode(const struct order_timers *ts, struct writer *w)
{
    check(ts->count <= TIMERS_MAX);
    if (!ts->count) return;
    write_u8(w, (uint8_t)ts->count);
    for (const struct order_timer *t = ts->at; t < ts->at + ts->count; t++) {
        bool same = t->event.len && slice_equal(t->event, t->timer_id);
        unsigned event = same ? TIMER_SAME_EVENT : t->event.len ? TIMER_HAS_EVENT : 0;
        write_u8(w, (uint8_t)((t->of_state ? TIMER_OF_STATE : 0) | event | (t->status_count ? TIMER_HAS_STATUSES : 0)));
        write_u8(w, t->no);
        write_be64(w, (uint64_t)t->fire_us);
        write_counted(w, t->timer_id);
        if (event == TIMER_HAS_EVENT) write_counted(w, t->event);
        if (t->status_count) write_varint(w, t->status_count);
        for (unsigned i = 0; i < t->status_count; i++) write_be16(w, t->statuses[i]);
    }
}

static bool timer_decode(struct reader *r, struct order_timer *t)
{
    unsigned flags = read_u8(r);
    *t = (struct order_timer){.of_state = (flags & TIMER_OF_STATE) != 0, .no = read_u8(r)};
    t->fire_us = (int64_t)read_be64(r);
    t->timer_id = read_counted(r);
    if (flags & TIMER_HAS_EVENT) t->event = read_counted(r);
    if (flags & TIMER_SAME_EVENT) t->event = t->timer_id;
    uint64_t n = flags & TIMER_HAS_STATUSES ? read_varint(r) : 0;
    if (n > TIMER_STATUSES_MAX || (n == 0 && flags & TIMER_HAS_STATUSES)) return false;
    for (; t->status_count < n; t->status_count++) t->statuses[t->status_count] = read_be16(r);
    bool event = !(flags & TIMER_HAS_EVENT) || (t->event.len && !(flags & TIMER_SAME_EVENT) && !slice_equal(t->event, t->timer_id));
    return !r->bad && flags <= TIMER_FLAGS && event && t->fire_us > 0 && t->no < TIMERS_MAX && t->timer_id.len && t->timer_id.len <= TIMER_ID_BYTES_MAX && t->event.len <= TIMER_EVENT_BYTES_MAX;
}

enum status timers_decode(struct slice encoded, struct order_timers *out)
{
    struct reader r = reader_of(encoded);
    out->count = 0;
    if (!encoded.len) return STATUS_OK;
    unsigned count = read_u8(&r);
    if (!count || count > TIMERS_MAX) return STATUS_CHECKSUM_MISMATCH;
    for (; out->count < count; out->count++)
        if (!timer_decode(&r, &out->at[out->count])) return out->count = 0, STATUS_CHECKSUM_MISMATCH;
    return r.at == r.end ? STATUS_OK : STATUS_CHECKSUM_MISMATCH;
}

/* ---- what is set, and what goes */

struct order_timer *timers_find(struct order_timers *ts, struct slice timer_id)
{
    for (unsigned i = 0; i < ts->count; i++)
        if (slice_equal(ts->at[i].timer_id, timer_id)) return &ts->at[i];
    return NULL;
}

struct order_timer *timers_find_due(struct order_timers *ts, int64_t fire_us, uint8_t no)
{
    for (unsigned i = 0; i < ts->count; i++)
        if (ts->at[i].no == no && ts->at[i].fire_us == fire_us) return &ts->at[i];
    return NULL;
}

void timers_remove(struct order_timers *ts, struct order_timer *t)
{
    size_t at = (size_t)(t - ts->at);
    check(at < ts->count);
    ts->count--;
    memmove(t, t + 1, (ts->count - at) * sizeof *t);
}

static uint8_t free_no(const struct order_timers *ts)
{
    uint32_t used = 0;
    static_assert(TIMERS_MAX < 32, "the numbers of an order's timers are bits of one word");
    for (unsigned i = 0; i < ts->count; i++) used |= 1u << (ts->at[i].no & 31);
    for (uint8_t no = 0;; no++)
        if (!(used >> no & 1)) return no;
}

void timers_set(struct order_timers *ts, const struct order_timer *t)
{
    struct order_timer set = *t, *same = timers_find(ts, t->timer_id);
    if (same) {
        set.no = same->no;
        *same = set;
        return;
    }
    check(ts->count < TIMERS_MAX);
    set.no = free_no(ts);
    ts->at[ts->count++] = set;
}

static bool expects(const struct order_timer *t, uint16_t status)
{
    for (unsigned i = 0; i < t->status_count; i++)
        if (t->statuses[i] == status) return true;
    return false;
}

/* One that waits for a status that has not come yet stays; one whose status was there and is left does not. */
static bool stays(const struct order_timer *t, uint16_t from, uint16_t to) { return !t->of_state && !(expects(t, from) && !expects(t, to)); }

void timers_move(struct order_timers *ts, const struct machine *m, uint16_t from, uint16_t to, uint64_t now_us)
{
    unsigned kept = 0, count;
    bool over = machine_terminal(m, to);
    for (unsigned i = 0; i < ts->count && !over; i++)
        if (stays(&ts->at[i], from, to)) ts->at[kept++] = ts->at[i];
    ts->count = kept;
    const struct machine_timer *begin = machine_timers(m, to, &count);
    for (unsigned i = 0; i < count && !over; i++) {
        struct order_timer t = {.timer_id = begin[i].timer_id, .event = begin[i].event, .fire_us = (int64_t)now_us + begin[i].after_us, .of_state = true};
        timers_set(ts, &t);
    }
}

/* ---- answers */

size_t timer_wire_bytes_max(const struct order_timer *t)
{
    return pb_bytes_max(t->timer_id) + PB_TIMESTAMP_BYTES_MAX + pb_bytes_max(t->event) + t->status_count * (size_t)(2 + STATUS_NAME_BYTES_MAX);
}

void timer_write(struct writer *w, const struct order_timer *t, const struct machines *ms)
{
    pb_bytes(w, 1, t->timer_id);
    pb_timestamp_us(w, 2, t->fire_us);
    pb_bytes(w, 3, t->event);
    for (unsigned i = 0; i < t->status_count; i++)
        if (machines_status_known(ms, t->statuses[i])) pb_bytes(w, 4, machines_status_name(ms, t->statuses[i]));
}

enum { TIMER_WIRE_BYTES_MAX = 3 * 16 + TIMER_ID_BYTES_MAX + TIMER_EVENT_BYTES_MAX + TIMER_STATUSES_MAX * (2 + STATUS_NAME_BYTES_MAX) };

size_t timers_wire_bytes_max(struct slice encoded)
{
    struct order_timers ts;
    size_t n = 0;
    if (!encoded.len) return 0;
    check(timers_decode(encoded, &ts) == STATUS_OK);
    for (unsigned i = 0; i < ts.count; i++) n += 2 + 5 + timer_wire_bytes_max(&ts.at[i]);
    return n;
}

void timers_write(struct writer *w, struct slice encoded, const struct machines *ms)
{
    struct order_timers ts;
    if (!encoded.len) return;
    check(timers_decode(encoded, &ts) == STATUS_OK);
    for (unsigned i = 0; i < ts.count; i++) {
        uint8_t bytes[TIMER_WIRE_BYTES_MAX];
        struct writer one = writer_of(bytes, sizeof bytes);
        timer_write(&one, &ts.at[i], ms);
        check(!one.full);
        struct slice message = writer_slice(&one);
        pb_message(w, FIELD_TIMERS, &message, 1);
    }
}

/* ---- the record */

enum { TIMERS_FORMAT = 1 };

void timers_record_encode(const struct timers_record *r, struct writer *w)
{
    write_u8(w, TIMERS_FORMAT);
    write_be64(w, r->floor_us);
    write_be64(w, (uint64_t)r->pending);
}

enum status timers_record_decode(struct slice row, struct timers_record *out)
{
    struct reader r = reader_of(row);
    if (row.len != TIMERS_RECORD_BYTES || read_u8(&r) != TIMERS_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct timers_record){.floor_us = read_be64(&r)};
    out->pending = (int64_t)read_be64(&r);
    return out->pending < 0 ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}
