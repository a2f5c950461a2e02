#include "engine/consumer_local.h"

/* Orders of a snapshot in the window. They are there because the slot's stored position lists them, so they stay until they are settled; whatever becomes of them on the way is
 * what becomes of any event. */

bool consumer_tell(struct consumer *c, const struct consumer_order *o, uint64_t now_ns)
{
    struct consumer_slot *s = consumer_slot(c, o->slot);
    struct consumer_entry *e = window_new(c, o->slot, o->seq);
    if (!e) return false;
    struct consumer_key *k = window_key(c, o->key);
    bool read = o->bytes.framed.data != NULL;
    e->index = (uint64_t)o->order_id;
    e->commit_us = (uint64_t)o->version;
    e->attempts = o->attempts;
    e->flags = read ? ENTRY_TOLD : ENTRY_TOLD | ENTRY_UNSEEN;
    e->order_prev = s->told.last;
    check(s->told.last == CONSUMER_NONE || c->entries[s->told.last].index < e->index);
    *(s->told.last == CONSUMER_NONE ? &s->told.first : &c->entries[s->told.last].order_next) = entry_index(c, e);
    s->told.last = entry_index(c, e);
    window_key_append(c, k, e);
    give_new(c, k, e, read ? &o->bytes : NULL, now_ns);
    return true;
}

/* Settled. It leaves at once: nothing but the list says where its slot is. */
void told_remove(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_slot *s = consumer_slot(c, e->slot);
    *(e->order_prev == CONSUMER_NONE ? &s->told.first : &c->entries[e->order_prev].order_next) = e->order_next;
    *(e->order_next == CONSUMER_NONE ? &s->told.last : &c->entries[e->order_next].order_prev) = e->order_prev;
    window_free(c, e);
}

enum status told_position(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out)
{
    struct consumer_slot *s = consumer_slot(c, slot);
    unsigned n = 0;
    for (uint32_t i = s->told.first; i != CONSUMER_NONE; i = c->entries[i].order_next) n++;
    s->told_sent = n;
    if (n + s->told_stored == 0) return STATUS_OK;
    struct consumer_told *told = n ? arena_alloc(arena, n * sizeof *told) : NULL;
    if (n && !told) return STATUS_MEMORY_LIMIT;
    for (uint32_t i = s->told.first; i != CONSUMER_NONE; i = c->entries[i].order_next) {
        const struct consumer_entry *e = &c->entries[i];
        told[out->told_count++] = (struct consumer_told){.order_id = (int64_t)e->index, .version = (int64_t)e->commit_us, .seq = e->seq, .attempts = e->attempts};
    }
    out->told = told;
    out->told_through = consumer_scan_through(&c->scan, slot);
    return STATUS_OK;
}

void consumer_told_is_stored(struct consumer *c, uint16_t slot)
{
    struct consumer_slot *s = consumer_slot(c, slot);
    c->told_stored += s->told_sent;
    c->told_stored -= s->told_stored;
    s->told_stored = s->told_sent;
}
