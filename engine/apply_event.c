#include "engine/apply_local.h"
#include "engine/userlist.h"

/* Every commit is shown: by an event, in the same batch, and in the user's list. */

static enum status put_places(struct applying *x, const struct slot_record *slot)
{
    struct key k;
    uint8_t row[PLACES_ROW_BYTES];
    struct writer w = writer_of(row, sizeof row);
    key_places(&k, x->slot, feed_chunk_first(slot->last_seq));
    places_encode(&slot->places, x->now_us, &w);
    check(!w.full);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    return STATUS_OK;
}

int64_t apply_next_seq(struct applying *x, struct slot_record *slot)
{
    slot->last_seq++;
    slot->places.at[(slot->last_seq - 1) % FEED_CHUNK] = x->a->feed ? x->a->index : 0;
    return slot->last_seq;
}

/* The content of the order as it is now. */
static enum status load_content(struct applying *x, struct order_body *body)
{
    struct key k;
    struct slice row;
    key_body(&k, x->out->head.order_id);
    enum status st = store_get(&x->a->view, key_slice(&k), x->a->scratch, &row);
    return st ? st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st : order_body_decode(row, body);
}

enum status apply_show(struct applying *x, const struct order_body *content)
{
    struct order_body body;
    if (x->a->trial) return STATUS_OK;
    if (!content) {
        enum status st = load_content(x, &body);
        if (st) return st;
        content = &body;
    }
    x->shown = (struct shown){order_head_wire(&x->out->head, x->a->machines, x->a->scratch), content->summary, content->detail};
    return x->shown.head.data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}

enum status apply_card(struct applying *x, struct slice *card)
{
    size_t bytes = x->shown.head.len + x->shown.summary.len;
    *card = (struct slice){0};
    if (!bytes || bytes > USERLIST_CARD_BYTES_MAX) return STATUS_OK;
    struct writer w = writer_of(arena_alloc(x->a->scratch, bytes), bytes);
    if (!w.data) return STATUS_MEMORY_LIMIT;
    write_slice(&w, x->shown.head), write_slice(&w, x->shown.summary);
    *card = writer_slice(&w);
    return STATUS_OK;
}

enum status apply_event(struct applying *x, enum event_type type, uint64_t changed, const struct slot_record *slot)
{
    struct apply *a = x->a;
    if (!a->feed) return STATUS_OK; /* a dry run tells nobody */
    struct event e = {
        .type = type,
        .slot = x->slot,
        .seq = slot->last_seq,
        .commit_us = (int64_t)x->now_us,
        .head = &x->out->head,
        .entry = &x->out->entry,
        .changed = changed,
        .head_wire = x->shown.head,
        .summary = x->shown.summary,
        .detail = x->shown.detail,
    };
    enum status st = feed_add(a->feed, &e, a->index, x->now_us, a->machines);
    if (!st && slot->last_seq % FEED_CHUNK == 0) st = put_places(x, slot);
    return st;
}

/* Retention only moves on: a leader that was slow to hear of another's command changes nothing. */
enum status apply_retain(struct applying *x)
{
    const struct command_retain *c = &x->command->retain;
    struct feed_record *kept = &x->a->kept;
    if (c->first_place <= kept->first_place || c->first_place > x->a->index) return STATUS_OK;
    struct key k;
    uint8_t row[FEED_RECORD_BYTES];
    struct writer w = writer_of(row, sizeof row);
    *kept = (struct feed_record){.first_place = c->first_place, .first_time_us = MAX_OF(c->first_time_us, kept->first_time_us)};
    key_feed(&k);
    feed_record_encode(kept, &w);
    check(!w.full);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    return STATUS_OK;
}
