#include "engine/apply_local.h"

/* Every commit leaves an event, in the same batch. */

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

enum status apply_event(struct applying *x, enum event_type type, uint64_t changed, const struct slot_record *slot, const struct order_body *content)
{
    struct apply *a = x->a;
    struct order_body body;
    if (!a->feed) return STATUS_OK; /* a dry run tells nobody */
    if (!content) {
        enum status st = load_content(x, &body);
        if (st) return st;
        content = &body;
    }
    struct event e = {
        .type = type,
        .slot = x->slot,
        .seq = slot->last_seq,
        .commit_us = (int64_t)x->now_us,
        .head = &x->out->head,
        .entry = &x->out->entry,
        .changed = changed,
        .summary = content->summary,
        .detail = content->detail,
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
