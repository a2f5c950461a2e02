#include "engine/consumer_local.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

/* The window's lists. Entries and keys are numbers in arrays that never move. */

/* ---- entries, by slot and seq */

static uint32_t entry_bucket(const struct consumer *c, uint16_t slot, int64_t seq)
{
    /* Slots have much the same seqs: a slot in the bits above 48 would not reach those that are taken of the product. */
    uint64_t x = ((uint64_t)seq << 14 ^ slot) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(x >> 32) & c->entry_mask;
}

struct consumer_entry *window_find(const struct consumer *c, uint16_t slot, int64_t seq)
{
    uint32_t i = c->entry_table[entry_bucket(c, slot, seq)];
    while (i != CONSUMER_NONE && (c->entries[i].seq != seq || c->entries[i].slot != slot)) i = c->entries[i].hash_next;
    return entry_at(c, i);
}

struct consumer_entry *window_new(struct consumer *c, uint16_t slot, int64_t seq)
{
    struct consumer_entry *e = entry_at(c, c->free_entry);
    if (!e) return NULL;
    uint32_t *head = &c->entry_table[entry_bucket(c, slot, seq)];
    c->free_entry = e->list_next;
    c->free_entries--;
    *e = (struct consumer_entry){.slot = slot, .seq = seq, .state = ENTRY_WAITING, .key = CONSUMER_NONE, .key_prev = CONSUMER_NONE, .key_next = CONSUMER_NONE,
                                 .slot_next = CONSUMER_NONE, .order_prev = CONSUMER_NONE, .order_next = CONSUMER_NONE, .list_prev = CONSUMER_NONE, .list_next = CONSUMER_NONE,
                                 .hash_next = *head, .member = UINT16_MAX};
    *head = entry_index(c, e);
    return e;
}

/* An event that was sought again may be there twice, as itself and as a letter: the one that is given out. */
struct consumer_entry *window_find_given(const struct consumer *c, uint16_t slot, int64_t seq)
{
    uint32_t i = c->entry_table[entry_bucket(c, slot, seq)];
    while (i != CONSUMER_NONE && (c->entries[i].seq != seq || c->entries[i].slot != slot || c->entries[i].state != ENTRY_GIVEN)) i = c->entries[i].hash_next;
    return entry_at(c, i);
}

struct consumer_entry *window_find_letter(const struct consumer *c, uint16_t slot, int64_t seq)
{
    uint32_t i = c->entry_table[entry_bucket(c, slot, seq)];
    while (i != CONSUMER_NONE && (c->entries[i].seq != seq || c->entries[i].slot != slot || !(c->entries[i].flags & ENTRY_LETTER))) i = c->entries[i].hash_next;
    return entry_at(c, i);
}

struct consumer_wanted window_wanted(const struct consumer *c, const struct consumer_entry *e)
{
    return (struct consumer_wanted){.entry = entry_index(c, e), .slot = e->slot, .block = e->block, .seq = e->seq, .index = e->index, .number = e->number, .flags = e->flags,
                                    .version = e->flags & ENTRY_TOLD ? (int64_t)e->commit_us : 0};
}

void window_error_free(struct consumer *c, struct consumer_entry *e)
{
    if (!e->error) return;
    c->error_bytes -= strlen(e->error) + 1;
    mem_free(e->error);
    e->error = NULL;
}

void window_free(struct consumer *c, struct consumer_entry *e)
{
    uint32_t i = entry_index(c, e), *at = &c->entry_table[entry_bucket(c, e->slot, e->seq)];
    while (*at != i) at = &c->entries[*at].hash_next;
    *at = e->hash_next;
    window_error_free(c, e);
    c->letters_loaded -= (e->flags & ENTRY_LETTER) != 0;
    e->state = ENTRY_FREE;
    e->list_next = c->free_entry;
    c->free_entry = i;
    c->free_entries++;
}

/* ---- lists of entries: by list_prev and list_next */

void window_list_push(struct consumer *c, struct consumer_list *l, struct consumer_entry *e)
{
    e->list_prev = l->last;
    e->list_next = CONSUMER_NONE;
    *(l->last == CONSUMER_NONE ? &l->first : &c->entries[l->last].list_next) = entry_index(c, e);
    l->last = entry_index(c, e);
}

void window_list_remove(struct consumer *c, struct consumer_list *l, struct consumer_entry *e)
{
    *(e->list_prev == CONSUMER_NONE ? &l->first : &c->entries[e->list_prev].list_next) = e->list_next;
    *(e->list_next == CONSUMER_NONE ? &l->last : &c->entries[e->list_next].list_prev) = e->list_prev;
    e->list_prev = e->list_next = CONSUMER_NONE;
}

void window_order_append(struct consumer *c, struct consumer_entry *e)
{
    e->order_prev = c->order.last;
    *(c->order.last == CONSUMER_NONE ? &c->order.first : &c->entries[c->order.last].order_next) = entry_index(c, e);
    c->order.last = entry_index(c, e);
    c->unsettled++;
}

void window_order_remove(struct consumer *c, struct consumer_entry *e)
{
    *(e->order_prev == CONSUMER_NONE ? &c->order.first : &c->entries[e->order_prev].order_next) = e->order_next;
    *(e->order_next == CONSUMER_NONE ? &c->order.last : &c->entries[e->order_next].order_prev) = e->order_prev;
    e->order_prev = e->order_next = CONSUMER_NONE;
    c->unsettled--;
}

/* ---- slots */

void window_slot_append(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_slot *s = consumer_slot(c, e->slot);
    *(s->last == CONSUMER_NONE ? &s->first : &c->entries[s->last].slot_next) = entry_index(c, e);
    s->last = entry_index(c, e);
}

void window_slot_advance(struct consumer *c, uint16_t slot)
{
    struct consumer_slot *s = consumer_slot(c, slot);
    while (s->first != CONSUMER_NONE && c->entries[s->first].state == ENTRY_SETTLED) {
        struct consumer_entry *e = &c->entries[s->first];
        s->first = e->slot_next;
        if (s->first == CONSUMER_NONE) s->last = CONSUMER_NONE;
        window_free(c, e);
    }
}

/* ---- keys */

struct consumer_key *window_key(struct consumer *c, uint64_t hash)
{
    uint32_t *head = &c->key_table[(uint32_t)(hash >> 32 ^ hash) & c->key_mask], i = *head;
    while (i != CONSUMER_NONE && c->keys[i].hash != hash) i = c->keys[i].hash_next;
    if (i != CONSUMER_NONE) return &c->keys[i];
    struct consumer_key *k = key_at(c, c->free_key);
    check(k); /* each has an entry */
    c->free_key = k->list_next;
    *k = (struct consumer_key){.hash = hash, .first = CONSUMER_NONE, .last = CONSUMER_NONE, .next = CONSUMER_NONE, .list_prev = CONSUMER_NONE, .list_next = CONSUMER_NONE,
                               .hash_next = *head, .heap_at = CONSUMER_NONE, .state = KEY_IDLE};
    *head = key_index(c, k);
    return k;
}

static void key_free(struct consumer *c, struct consumer_key *k)
{
    uint32_t i = key_index(c, k), *at = &c->key_table[(uint32_t)(k->hash >> 32 ^ k->hash) & c->key_mask];
    while (*at != i) at = &c->keys[*at].hash_next;
    *at = k->hash_next;
    k->list_next = c->free_key;
    c->free_key = i;
}

/* In front of `at` (CONSUMER_NONE: at the end). */
static void key_insert(struct consumer *c, struct consumer_key *k, struct consumer_entry *e, uint32_t at)
{
    uint32_t i = entry_index(c, e);
    e->key = key_index(c, k);
    e->key_next = at;
    e->key_prev = at == CONSUMER_NONE ? k->last : c->entries[at].key_prev;
    *(e->key_prev == CONSUMER_NONE ? &k->first : &c->entries[e->key_prev].key_next) = i;
    *(at == CONSUMER_NONE ? &k->last : &c->entries[at].key_prev) = i;
    if (k->next == at) k->next = i; /* it stands where the first that is not given out stood, or, none being left, at the end */
}

void window_key_append(struct consumer *c, struct consumer_key *k, struct consumer_entry *e) { key_insert(c, k, e, CONSUMER_NONE); }

void window_key_insert_letter(struct consumer *c, struct consumer_key *k, struct consumer_entry *e)
{
    uint32_t at = k->next;
    while (at != CONSUMER_NONE) {
        const struct consumer_entry *o = &c->entries[at];
        bool goes_first = o->state == ENTRY_READING || (o->flags & ENTRY_LETTER && event_rank(o->seq) < event_rank(e->seq)) || (o->state == ENTRY_DYING && !(o->flags & ENTRY_BEHIND));
        if (!goes_first) break;
        at = o->key_next;
    }
    key_insert(c, k, e, at);
}

void window_key_remove(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_key *k = entry_key(c, e);
    if (k->next == entry_index(c, e)) k->next = e->key_next;
    *(e->key_prev == CONSUMER_NONE ? &k->first : &c->entries[e->key_prev].key_next) = e->key_next;
    *(e->key_next == CONSUMER_NONE ? &k->last : &c->entries[e->key_next].key_prev) = e->key_prev;
    e->key_prev = e->key_next = CONSUMER_NONE;
}

static void ready_push(struct consumer *c, struct consumer_key *k)
{
    struct consumer_member *m = k->pinned ? c->members[k->member] : NULL;
    uint32_t *first = m ? &m->ready_first : &c->ready.first, *last = m ? &m->ready_last : &c->ready.last;
    k->list_prev = *last;
    k->list_next = CONSUMER_NONE;
    *(*last == CONSUMER_NONE ? first : &c->keys[*last].list_next) = key_index(c, k);
    *last = key_index(c, k);
}

void window_key_unlist(struct consumer *c, struct consumer_key *k)
{
    if (k->state != KEY_READY) return;
    struct consumer_member *m = k->pinned ? c->members[k->member] : NULL;
    *(k->list_prev == CONSUMER_NONE ? m ? &m->ready_first : &c->ready.first : &c->keys[k->list_prev].list_next) = k->list_next;
    *(k->list_next == CONSUMER_NONE ? m ? &m->ready_last : &c->ready.last : &c->keys[k->list_next].list_prev) = k->list_prev;
    k->list_prev = k->list_next = CONSUMER_NONE;
    k->state = KEY_IDLE;
}

void window_key_update(struct consumer *c, struct consumer_key *k)
{
    window_key_unlist(c, k);
    if (k->first == CONSUMER_NONE) {
        if (k->state == KEY_DELAYED) window_key_undelay(c, k);
        c->blocked -= k->state == KEY_BLOCKED;
        key_free(c, k);
        return;
    }
    if (k->state != KEY_IDLE || k->next == CONSUMER_NONE || k->in_flight >= c->definition.key_window) return;
    const struct consumer_entry *e = &c->entries[k->next], *before = entry_at(c, e->key_prev);
    if (e->state != ENTRY_WAITING || (before && before->state != ENTRY_GIVEN)) return;
    k->state = KEY_READY;
    k->pinned = k->in_flight > 0;
    ready_push(c, k);
}

/* ---- keys that wait for a time: a heap */

static void heap_set(struct consumer *c, uint32_t at, uint32_t key)
{
    c->heap[at] = key;
    c->keys[key].heap_at = at;
}

static bool heap_before(const struct consumer *c, uint32_t a, uint32_t b) { return c->keys[c->heap[a]].due_ns < c->keys[c->heap[b]].due_ns; }

static void heap_swap(struct consumer *c, uint32_t a, uint32_t b)
{
    uint32_t key = c->heap[a];
    heap_set(c, a, c->heap[b]);
    heap_set(c, b, key);
}

static void heap_settle(struct consumer *c, uint32_t at)
{
    for (; at && heap_before(c, at, (at - 1) / 2); at = (at - 1) / 2) heap_swap(c, at, (at - 1) / 2);
    for (;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < c->heap_count; child++)
            if (heap_before(c, child, least)) least = child;
        if (least == at) return;
        heap_swap(c, at, least);
        at = least;
    }
}

void window_key_delay(struct consumer *c, struct consumer_key *k, uint64_t due_ns, bool backs_off)
{
    window_key_unlist(c, k);
    if (k->state == KEY_DELAYED) {
        if (due_ns <= k->due_ns) return;
        k->due_ns = due_ns;
        k->backs_off = backs_off;
        heap_settle(c, k->heap_at);
        return;
    }
    check(k->state == KEY_IDLE);
    k->state = KEY_DELAYED;
    k->due_ns = due_ns;
    k->backs_off = backs_off;
    c->blocked++;
    heap_set(c, c->heap_count++, key_index(c, k));
    heap_settle(c, k->heap_at);
}

void window_key_hasten(struct consumer *c, struct consumer_key *k, uint64_t due_ns)
{
    check(k->state == KEY_DELAYED);
    if (due_ns >= k->due_ns) return;
    k->due_ns = due_ns;
    heap_settle(c, k->heap_at);
}

void window_key_undelay(struct consumer *c, struct consumer_key *k)
{
    check(k->state == KEY_DELAYED);
    uint32_t at = k->heap_at;
    k->state = KEY_IDLE;
    k->heap_at = CONSUMER_NONE;
    c->blocked--;
    if (at == --c->heap_count) return;
    heap_set(c, at, c->heap[c->heap_count]);
    heap_settle(c, at);
}

struct consumer_key *window_due(struct consumer *c, uint64_t now_ns)
{
    return c->heap_count && c->keys[c->heap[0]].due_ns <= now_ns ? &c->keys[c->heap[0]] : NULL;
}

/* ---- the stash: the newest bytes of events that could not be given out at once. A ring that overwrites its oldest; who finds his bytes gone has them read again. */

struct stash_head {
    uint32_t framed, base, brief;
};

void stash_put(struct consumer *c, struct consumer_entry *e, const struct consumer_bytes *b)
{
    size_t bytes = sizeof(struct stash_head) + b->framed.len, left = c->stash_bytes - c->stash_at % c->stash_bytes;
    e->stash = 0;
    if (bytes > c->stash_bytes / 4) return;
    if (bytes > left) c->stash_at += left; /* in one piece */
    uint8_t *to = c->stash + c->stash_at % c->stash_bytes;
    struct stash_head head = {(uint32_t)b->framed.len, b->base, b->brief};
    memcpy(to, &head, sizeof head);
    memcpy(to + sizeof head, b->framed.data, b->framed.len);
    e->stash = c->stash_at + 1;
    c->stash_at += bytes;
}

bool stash_get(const struct consumer *c, const struct consumer_entry *e, struct consumer_bytes *b)
{
    if (!e->stash || c->stash_at - (e->stash - 1) > c->stash_bytes) return false;
    const uint8_t *from = c->stash + (e->stash - 1) % c->stash_bytes;
    struct stash_head head;
    memcpy(&head, from, sizeof head);
    *b = (struct consumer_bytes){slice_of(from + sizeof head, head.framed), head.base, head.brief};
    return true;
}
