/* The rows of the store: whatever a damaged table hands out, a decoder refuses it or yields slices inside it; what decodes encodes to something that decodes
 * to the same. The first byte chooses the decoder. */
#include "engine/apply.h"
#include "engine/consumer_row.h"
#include "engine/consumer_seek.h"
#include "engine/resource.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROW_BYTES_MAX = 1 << 16 };

static void within(struct slice part, struct slice row) {
    if (part.len == 0) return;
    check(part.data >= row.data);
    check(part.data + part.len <= row.data + row.len);
}

static void entry_within(const struct history_entry *e, struct slice row) {
    within(e->event, row), within(e->operator_, row), within(e->reason, row), within(e->request_id, row), within(e->traceparent, row), within(e->timers, row);
}

static void try_head(struct slice row, struct writer *w) {
    struct order_head h, again;
    if (order_head_decode(row, &h)) return;
    within(h.user_id, row), within(h.timers, row);
    order_head_encode(&h, w);
    check(w->full || (order_head_decode(writer_slice(w), &again) == STATUS_OK && again.order_id == h.order_id && again.version == h.version && again.status == h.status && again.seq == h.seq));
}

static void try_body(struct slice row, struct writer *w) {
    struct order_body b, again;
    if (order_body_decode(row, &b)) return;
    within(b.summary, row), within(b.detail, row);
    entry_within(&b.origin, row);
    order_body_encode(&b, w);
    check(w->full || (order_body_decode(writer_slice(w), &again) == STATUS_OK && slice_equal(again.summary, b.summary) && slice_equal(again.detail, b.detail)));
}

static void try_history(struct slice row, struct writer *w) {
    struct history_entry e, again;
    if (history_decode(row, &e)) return;
    entry_within(&e, row);
    history_encode(&e, w);
    check(w->full || (history_decode(writer_slice(w), &again) == STATUS_OK && again.version == e.version && slice_equal(again.event, e.event)));
}

static void try_slot(struct slice row, struct writer *w) {
    struct slot_record r, again;
    if (slot_record_decode(row, &r)) return;
    slot_record_encode(&r, w);
    check(slot_record_decode(writer_slice(w), &again) == STATUS_OK && again.last_order_id == r.last_order_id && again.last_seq == r.last_seq && again.order_count == r.order_count);
    for (int64_t seq = r.last_seq; seq > 0 && seq >= feed_chunk_first(r.last_seq); seq--) check(again.places.at[(seq - 1) % FEED_CHUNK] == r.places.at[(seq - 1) % FEED_CHUNK]);
}

static void try_places(struct slice row, struct writer *w) {
    struct feed_places p, again;
    if (places_decode(row, &p)) return;
    places_encode(&p, 1, w);
    check(places_decode(writer_slice(w), &again) == STATUS_OK && memcmp(&again, &p, sizeof p) == 0);
}

static void try_feed(struct slice row, struct writer *w) {
    struct feed_record r, again;
    if (feed_record_decode(row, &r)) return;
    feed_record_encode(&r, w);
    check(feed_record_decode(writer_slice(w), &again) == STATUS_OK && again.first_place == r.first_place && again.first_time_us == r.first_time_us);
}

/* Events are slices of their block, and what a SUMMARY makes of one is a frame of the length that was said. */
static void try_events(struct slice row, struct writer *w) {
    struct event_reader r;
    struct event_view e;
    enum status st;
    if (event_block_open(row, &r)) return;
    for (uint32_t left = r.left, n = 0; event_next(&r, &e, &st); n++) {
        check(st == STATUS_OK && n < left);
        within(e.framed, row), within(e.base, row), within(e.brief, row), within(e.detail, row);
        within(e.base, e.framed), within(e.brief, e.framed), within(e.detail, e.framed);
        size_t bytes = event_framed_bytes(e.base, e.brief, 0);
        w->len = 0;
        event_frame(w, e.base, e.brief, 0);
        check(w->full || w->len == bytes);
    }
}

static void try_partition(struct slice row, struct writer *w) {
    struct partition_record r, again;
    if (partition_record_decode(row, &r)) return;
    check(r.members.count <= GROUP_MEMBERS_MAX);
    partition_record_encode(&r, w);
    check(partition_record_decode(writer_slice(w), &again) == STATUS_OK && again.applied_index == r.applied_index && again.members.count == r.members.count);
}

static void try_dedup(struct slice row, struct writer *w) {
    struct dedup_record r;
    if (dedup_record_decode(row, &r) == STATUS_OK) write_be64(w, (uint64_t)r.order_id); /* all of it was read */
}

static void try_resource(struct slice row, struct writer *w) {
    struct resource_row r, again;
    if (resource_row_decode(row, &r)) return;
    within(r.bytes, row);
    resource_row_encode(&r, w);
    check(w->full || (resource_row_decode(writer_slice(w), &again) == STATUS_OK && again.revision == r.revision && slice_equal(again.bytes, r.bytes)));
}

static void try_machine(struct slice row, struct writer *w) {
    struct machine_row m, again;
    if (machine_row_decode(row, &m)) return;
    within(m.definition, row);
    check(m.status_count <= MACHINE_STATES_MAX);
    machine_row_encode(&m, w);
    check(w->full || (machine_row_decode(writer_slice(w), &again) == STATUS_OK && again.machine == m.machine && slice_equal(again.definition, m.definition)));
}

static void try_timers(struct slice row, struct writer *w) {
    struct order_timers ts, again;
    if (timers_decode(row, &ts)) return;
    for (unsigned i = 0; i < ts.count; i++) within(ts.at[i].timer_id, row), within(ts.at[i].event, row);
    check(ts.count <= TIMERS_MAX);
    timers_encode(&ts, w);
    check(w->full || (timers_decode(writer_slice(w), &again) == STATUS_OK && again.count == ts.count));
}

static void try_timers_record(struct slice row, struct writer *w) {
    struct timers_record r;
    if (timers_record_decode(row, &r)) return;
    timers_record_encode(&r, w);
    check(slice_equal(writer_slice(w), row));
}

static void try_group(struct slice row, struct writer *w) {
    struct consumer_group_row r, again;
    struct consumer_definition d;
    if (consumer_group_row_decode(row, &r)) return;
    within(r.definition, row);
    if (consumer_definition_decode(r.definition, &d) == STATUS_OK) within(d.name, row), within(d.filter, row);
    consumer_group_row_encode(&r, w);
    check(w->full || (consumer_group_row_decode(writer_slice(w), &again) == STATUS_OK && again.epoch == r.epoch && slice_equal(again.definition, r.definition)));
}

static void try_position(struct slice row, struct writer *w) {
    static struct arena arena;
    struct consumer_position p, again, joined;
    arena_init(&arena, 4 << 20);
    if (consumer_position_decode(row, &arena, &p) == STATUS_OK) {
        consumer_position_encode(&p, w);
        check(w->full || (consumer_position_decode(writer_slice(w), &arena, &again) == STATUS_OK && again.through == p.through && again.count == p.count));
        check(consumer_position_join(&p, &p, &arena, &joined) == STATUS_OK && joined.through == p.through && joined.count == p.count);
    }
    arena_fini(&arena);
}

static void try_letter(struct slice row, struct writer *w) {
    struct consumer_letter l, again;
    if (consumer_letter_decode(row, &l)) return;
    within(l.error, row), within(l.event, row);
    consumer_letter_encode(&l, w);
    check(w->full || (consumer_letter_decode(writer_slice(w), &again) == STATUS_OK && again.key == l.key && slice_equal(again.event, l.event)));
}

static void try_seek(struct slice row, struct writer *w) {
    static struct arena arena;
    struct consumer_seek s, again;
    if (consumer_seek_row_decode(row, &s)) return;
    within(s.epochs, row), within(s.packed, row);
    arena_init(&arena, 4 << 20);
    struct slice plan = consumer_seek_plan_encode(&s, &arena);
    check(consumer_seek_plan_decode(plan, &again) == STATUS_OK && again.count == s.count && slice_equal(again.packed, s.packed));
    consumer_seek_row_encode(s.id, s.begun_us, plan, w);
    check(w->full || writer_slice(w).len <= row.len); /* shorter: of counts that were written at length */
    check(consumer_seek_command(&s, 1, s.partition_count - 1, &arena).data);
    arena_fini(&arena);
}

/* The order that the row's key would name, and the row. */
static void try_list(struct slice row, struct writer *w) {
    struct slice card;
    uint16_t status;
    if (row.len < 8) return;
    int64_t order_id = (int64_t)get_be64(row.data);
    row = slice_of(row.data + 8, row.len - 8);
    if (list_row_decode(row, order_id, &status, &card)) return;
    within(card, row);
    list_row_encode(status, card, w);
    check(slice_equal(writer_slice(w), row));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const tries[])(struct slice row, struct writer *w) = {try_head, try_body, try_history, try_slot, try_partition, try_dedup, try_resource, try_machine, try_timers, try_timers_record, try_group, try_position, try_letter,
                                                                        try_places, try_feed, try_events, try_list, try_seek};
    static uint8_t out[ROW_BYTES_MAX];
    if (size == 0) return 0;
    struct writer w = writer_of(out, sizeof out);
    tries[data[0] % ARRAY_LEN(tries)](slice_of(data + 1, size - 1), &w);
    return 0;
}
