#include "engine/consumer_local.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

/* Out of the stream into the window, and to members. The way of an event whose key is free and that somebody has credit for: one look at the filter, an entry, a copy from
 * the block to the answer. */

enum { FIELD_AFTER = 10, FIELD_ATTEMPT = 13, READING_MAX = 256, FRAME_TAG = 1 << 3 | PB_LEN };

/* ---- bytes of an event, as they go out: SubscribeResponse.Batch's `events`, with the attempt behind */

static size_t attempt_bytes(uint32_t attempt) { return 1 + varint_len(attempt); }

static struct slice inner_of(const struct consumer_bytes *b)
{
    struct reader r = reader_of(b->framed);
    (void)read_u8(&r);
    return read_counted(&r);
}

/* base, then what `after` holds. */
static void parts_of(const struct consumer_bytes *b, struct slice *base, struct slice *brief)
{
    struct reader r = reader_of(inner_of(b));
    *base = read_bytes(&r, b->base);
    (void)read_u8(&r);
    struct reader after = reader_of(read_counted(&r));
    *brief = read_bytes(&after, b->brief);
}

static size_t told_bytes(const struct consumer_bytes *b, bool full, uint32_t attempt)
{
    size_t inner = full ? inner_of(b).len : b->base + 1 + varint_len(b->brief) + b->brief;
    inner += attempt_bytes(attempt);
    return 1 + varint_len(inner) + inner;
}

static void tell(const struct consumer_bytes *b, bool full, uint32_t attempt, struct writer *w)
{
    struct slice inner = inner_of(b), base, brief;
    write_u8(w, FRAME_TAG);
    if (full) {
        write_varint(w, inner.len + attempt_bytes(attempt));
        write_slice(w, inner);
    } else {
        parts_of(b, &base, &brief);
        write_varint(w, base.len + 1 + varint_len(brief.len) + brief.len + attempt_bytes(attempt));
        write_slice(w, base);
        pb_tag(w, FIELD_AFTER, PB_LEN);
        write_counted(w, brief);
    }
    pb_tag(w, FIELD_ATTEMPT, PB_VARINT);
    write_varint(w, attempt);
}

/* ---- members */

static bool claim(struct consumer_member *m)
{
    int64_t left = __atomic_load_n(&m->session->credit, __ATOMIC_ACQUIRE);
    while (left > 0) {
        int64_t take = MIN_OF(left, CONSUMER_CREDIT_CLAIM);
        if (!__atomic_compare_exchange_n(&m->session->credit, &left, left - take, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
        m->claimed += take;
        return true;
    }
    return false;
}

void give_able(struct consumer *c, struct consumer_member *m)
{
    if (m->poll && !m->full && !c->definition.paused && list_empty(&m->able)) list_push_back(&c->able, &m->able);
}

static void unable(struct consumer_member *m) { list_remove(&m->able); }

/* It has a poll and room; has it credit? Said before the last look: whoever adds credit then, sees it. */
static bool has_credit(struct consumer_member *m)
{
    if (m->claimed > 0 || claim(m)) return true;
    __atomic_store_n(&m->poll->consumer.starved, true, __ATOMIC_SEQ_CST);
    if (claim(m)) return __atomic_store_n(&m->poll->consumer.starved, false, __ATOMIC_SEQ_CST), true;
    unable(m);
    return false;
}

struct consumer_member *give_choose(struct consumer *c, const struct consumer_key *k)
{
    uint16_t id = k->in_flight ? k->member : c->buckets[k->hash % CONSUMER_BUCKETS];
    struct consumer_member *m = id == UINT16_MAX ? NULL : c->members[id];
    if (m && !list_empty(&m->able) && has_credit(m)) return m;
    if (k->in_flight) return NULL;
    while (!list_empty(&c->able)) {
        m = list_entry(c->able.next, struct consumer_member, able);
        if (!has_credit(m)) continue;
        list_remove(&m->able); /* in turn */
        list_push_back(&c->able, &m->able);
        return m;
    }
    return NULL;
}

/* Room for so many bytes in the member's answer. false: it is full. */
static bool room(struct consumer_member *m, size_t bytes)
{
    struct consumer_output *o = &m->poll->consumer.output;
    if (bytes <= o->cap - o->len) return true;
    if (o->len == 0) {
        size_t cap = MAX_OF(bytes, MIN_OF(MAX_OF(m->poll->consumer.bytes_max, (size_t)1), (size_t)CONSUMER_POLL_BYTES_MAX));
        o->data = arena_alloc(m->poll->arena, cap);
        if (o->data) return o->cap = cap, true;
        failure_set(&m->poll->failure, STATUS_MEMORY_LIMIT, "no memory for the events");
    }
    m->full = true;
    unable(m);
    return false;
}

bool give(struct consumer *c, struct consumer_key *k, struct consumer_entry *e, const struct consumer_bytes *b, uint64_t now_ns)
{
    size_t bytes = told_bytes(b, c->definition.full, e->attempts + 1);
    struct consumer_member *m;
    do {
        if (!(m = give_choose(c, k))) return false;
    } while (!room(m, bytes));
    struct consumer_output *o = &m->poll->consumer.output;
    struct writer w = writer_of(o->data + o->len, o->cap - o->len);
    tell(b, c->definition.full, e->attempts + 1, &w);
    check(!w.full);
    o->len += w.len;
    window_key_unlist(c, k);
    m->claimed--;
    m->events++;
    m->holds++;
    struct consumer_list l = {m->given_first, m->given_last};
    window_list_push(c, &l, e);
    m->given_first = l.first, m->given_last = l.last;
    e->state = ENTRY_GIVEN;
    e->member = m->id;
    e->until_ns = now_ns + c->definition.ack_timeout_us * NS_PER_US;
    k->member = m->id;
    k->in_flight++;
    k->next = e->key_next;
    c->in_flight++;
    c->given_events++;
    c->redelivered += e->attempts > 0;
    window_key_update(c, k);
    return true;
}

/* ---- out of the stream */

bool consumer_hungry(const struct consumer *c) { return !list_empty(&c->able) && c->free_entries > c->reserved; }

/* Fields of ChangeEvent that stand in its base. */
enum { FIELD_ORDER_ID = 5, FIELD_USER_ID = 6 };

static void owner_of(const struct event_view *v, int64_t *order_id, struct slice *user_id)
{
    struct reader r = reader_of(v->base);
    *order_id = 0;
    *user_id = (struct slice){0};
    for (struct pb_field f; pb_next(&r, &f) && f.number <= FIELD_USER_ID;) {
        if (f.number == FIELD_ORDER_ID) *order_id = (int64_t)f.value;
        if (f.number == FIELD_USER_ID) *user_id = f.bytes;
    }
}

uint64_t consumer_key_hash(enum consumer_ordering ordering, struct slice user_id, int64_t order_id, uint16_t slot, int64_t seq)
{
    uint8_t own[10];
    if (ordering == ORDERING_USER) return hash64(user_id);
    put_be16(own, slot);
    put_be64(own + 2, (uint64_t)(ordering == ORDERING_ORDER ? order_id : seq));
    return hash64(ordering == ORDERING_ORDER ? slice_of(own + 2, 8) : slice_of(own, sizeof own));
}

/* Of an event that nobody has looked at before. false: it is none of the group's, or settled. */
static bool unsettled(const struct consumer *c, struct consumer_slot *s, int64_t seq, uint64_t index, uint64_t log_time_us, uint32_t *attempts)
{
    *attempts = 0;
    if (index < c->start_place || log_time_us < c->start_us) return false;
    if (seq > s->known_through) return true;
    while (s->known != s->known_end && s->known->seq < seq) s->known++;
    if (s->known == s->known_end || s->known->seq != seq) return false;
    *attempts = s->known->attempts;
    return true;
}

static bool wanted(const struct consumer *c, const struct event_view *v)
{
    struct consumer_bytes b = {.framed = v->framed};
    return !c->filter || v->flags & EVENT_REFERS || filter_match(c->filter, inner_of(&b));
}

void give_new(struct consumer *c, struct consumer_key *k, struct consumer_entry *e, const struct consumer_bytes *b, uint64_t now_ns)
{
    if (c->parked_count && consumer_parked(c, k->hash)) {
        consumer_hold_back(c, k);
        return;
    }
    if (consumer_used_up(c, e)) {
        if (k->next == entry_index(c, e)) consumer_exhausted(c, e, SLICE_LIT("the attempts are used up"));
        return;
    }
    bool next = k->next == entry_index(c, e) && k->state == KEY_IDLE && k->in_flight < c->definition.key_window && (e->key_prev == CONSUMER_NONE || c->entries[e->key_prev].state == ENTRY_GIVEN);
    if (next && b && give(c, k, e, b, now_ns)) return;
    if (b) stash_put(c, e, b);
    window_key_update(c, k);
}

static void take_event(struct consumer *c, const struct event_view *v, uint64_t index, uint16_t block, uint32_t number, uint64_t log_time_us, uint64_t now_ns)
{
    struct consumer_slot *s = consumer_slot(c, v->slot);
    struct slice user_id;
    int64_t order_id;
    uint32_t attempts;
    if (!s || v->seq <= s->seen) return;
    s->seen = v->seq;
    owner_of(v, &order_id, &user_id);
    if (c->snapshot && !consumer_scan_told(&c->scan, v->slot, order_id)) return; /* it will be in what the order is told as */
    if (!unsettled(c, s, v->seq, index, log_time_us, &attempts)) return;
    if (!wanted(c, v)) {
        consumer_mark_dirty(c, v->slot);
        return;
    }
    struct consumer_entry *e = window_new(c, v->slot, v->seq);
    struct consumer_key *k = window_key(c, consumer_key_hash(c->definition.ordering, user_id, order_id, v->slot, v->seq));
    e->index = index, e->block = block, e->number = number;
    e->commit_us = log_time_us;
    e->attempts = attempts;
    e->flags = v->flags & EVENT_REFERS ? ENTRY_UNSEEN : 0;
    window_slot_append(c, e);
    window_order_append(c, e);
    window_key_append(c, k, e);
    struct consumer_bytes b = {v->framed, (uint32_t)v->base.len, (uint32_t)v->brief.len};
    give_new(c, k, e, e->flags & ENTRY_UNSEEN ? NULL : &b, now_ns);
}

enum status consumer_take_block(struct consumer *c, uint64_t index, uint16_t block, struct slice row, uint64_t now_ns, unsigned events_max, bool *used_up)
{
    struct event_reader reader;
    struct event_view v;
    enum status st = event_block_open(row, &reader);
    *used_up = false;
    if (c->at.index != index || c->at.block != block) c->at = (struct feed_position){.index = index, .block = block};
    for (uint32_t i = 0; !st && event_next(&reader, &v, &st); i++) {
        if (i < c->at.event) continue;
        if (!events_max-- || !consumer_hungry(c)) return STATUS_OK;
        take_event(c, &v, index, block, i, reader.log_time_us, now_ns);
        c->at.event = i + 1;
        c->seen_us = reader.log_time_us;
    }
    if (st) return st;
    *used_up = true;
    c->at = (struct feed_position){.index = index, .block = block + 1u};
    return STATUS_OK;
}

/* ---- what is ready */

/* false: nobody can take it now. */
static bool give_next(struct consumer *c, struct consumer_key *k, uint64_t now_ns)
{
    struct consumer_entry *e = &c->entries[k->next];
    struct consumer_bytes b;
    if (consumer_used_up(c, e)) { /* a position said so, or a definition that allows fewer; or it blocked its key, and one in front of it came back */
        consumer_exhausted(c, e, SLICE_LIT("the attempts are used up"));
        return true;
    }
    if (!(e->flags & ENTRY_UNSEEN) && stash_get(c, e, &b)) return give(c, k, e, &b, now_ns);
    if (c->reading_count >= READING_MAX || !give_choose(c, k)) return false;
    window_key_unlist(c, k);
    e->state = ENTRY_READING;
    c->reading_count++;
    window_list_push(c, &c->reading, e);
    return true;
}

void consumer_give_ready(struct consumer *c, uint64_t now_ns)
{
    for (uint32_t i = 0; i < c->members_cap; i++) {
        struct consumer_member *m = c->members[i];
        while (m && m->ready_first != CONSUMER_NONE && !list_empty(&m->able) && give_next(c, &c->keys[m->ready_first], now_ns)) continue;
    }
    while (c->ready.first != CONSUMER_NONE && !list_empty(&c->able) && give_next(c, &c->keys[c->ready.first], now_ns)) continue;
}

/* ---- what is read elsewhere */

unsigned consumer_want(struct consumer *c, struct consumer_list *list, struct consumer_wanted *out, unsigned max)
{
    unsigned n = 0;
    while (n < max && list->first != CONSUMER_NONE) {
        struct consumer_entry *e = &c->entries[list->first];
        window_list_remove(c, list, e);
        e->flags |= ENTRY_AWAY;
        out[n++] = window_wanted(c, e);
    }
    return n;
}

static struct consumer_entry *away(struct consumer *c, const struct consumer_wanted *w, enum entry_state state)
{
    struct consumer_entry *e = &c->entries[w->entry];
    return e->state == state && e->slot == w->slot && e->seq == w->seq && e->flags & ENTRY_AWAY ? e : NULL;
}

void consumer_read(struct consumer *c, const struct consumer_wanted *w, uint64_t now_ns)
{
    struct consumer_entry *e = away(c, w, ENTRY_READING);
    if (!e) return;
    if (w->status == STATUS_ABSENT) { /* the filter has seen it now; or a letter that was purged meanwhile */
        bool letter = e->flags & ENTRY_LETTER;
        consumer_settled(c, e);
        if (letter) window_free(c, e);
        return;
    }
    struct consumer_key *k = entry_key(c, e);
    const struct consumer_entry *before = entry_at(c, e->key_prev);
    c->reading_count--;
    e->flags &= (uint8_t)~(ENTRY_AWAY | ENTRY_UNSEEN);
    e->state = ENTRY_WAITING;
    bool may = !w->status && k->state == KEY_IDLE && k->next == w->entry && k->in_flight < c->definition.key_window && (!before || before->state == ENTRY_GIVEN);
    if (may && give(c, k, e, &w->bytes, now_ns)) return;
    if (!w->status) stash_put(c, e, &w->bytes);
    if (consumer_parked(c, k->hash) && !(e->flags & ENTRY_LETTER)) consumer_hold_back(c, k);
    window_key_update(c, k);
}

/* ---- letters */

bool consumer_letter_of(struct consumer *c, const struct consumer_wanted *w, struct consumer_letter *l)
{
    const struct consumer_entry *e = away(c, w, ENTRY_DYING);
    if (!e) return false;
    bool behind = e->flags & ENTRY_BEHIND;
    *l = (struct consumer_letter){.state = behind ? LETTER_WAITING : LETTER_DEAD, .attempts = behind ? 0 : e->attempts, .key = entry_key(c, e)->hash,
                                   .base = w->bytes.base, .brief = w->bytes.brief, .event = w->bytes.framed};
    l->parks = !behind && c->definition.on_exhausted == EXHAUSTED_PARK;
    if (e->error) l->error = slice_str(e->error);
    return true;
}

/* Of a key that is parked now, from this entry on: letters that wait stay in their rows until the key goes on; those that were redriven are read again. */
static void letters_unload(struct consumer *c, uint32_t from)
{
    for (struct consumer_entry *e = entry_at(c, from), *next; e; e = next) {
        next = entry_at(c, e->key_next);
        if (!(e->flags & ENTRY_LETTER) || (e->state != ENTRY_WAITING && e->state != ENTRY_READING)) continue;
        consumer_slot(c, e->slot)->wanted = true;
        consumer_settled(c, e);
        window_free(c, e);
    }
}

void consumer_died(struct consumer *c, const struct consumer_wanted *w, const struct consumer_letter *l)
{
    struct consumer_entry *e = away(c, w, ENTRY_DYING);
    if (!e) return;
    struct consumer_slot *s = consumer_slot(c, e->slot);
    uint64_t hash = entry_key(c, e)->hash;
    bool letter = e->flags & ENTRY_LETTER;
    c->dead++;
    s->letters += !letter;
    /* A redriven letter that parked its key counted among the rest. */
    const struct consumer_parked *parked = consumer_parked(c, hash);
    if (l->state == LETTER_WAITING) (void)consumer_park(c, hash, 0, 1);
    else if (l->parks) (void)consumer_park(c, hash, 1, letter && parked && parked->rest ? -1 : 0);
    if (l->state == LETTER_WAITING && !(parked && parked->dead)) s->wanted = true; /* also when the last of the letters that it waited for has gone meanwhile */
    uint32_t key = e->key, behind = e->key_next;
    consumer_settled(c, e); /* may end the key */
    if (letter) window_free(c, e);
    if (l->state == LETTER_DEAD && l->parks) letters_unload(c, behind);
    struct consumer_key *k = &c->keys[key];
    if (k->hash == hash && k->first != CONSUMER_NONE && consumer_parked(c, hash)) consumer_hold_back(c, k);
}

void consumer_die_again(struct consumer *c, const struct consumer_wanted *w)
{
    struct consumer_entry *e = away(c, w, ENTRY_DYING);
    if (!e) return;
    e->flags &= (uint8_t)~ENTRY_AWAY;
    window_list_push(c, &c->dying, e);
}

void consumer_hold_back(struct consumer *c, struct consumer_key *k)
{
    window_key_unlist(c, k);
    for (struct consumer_entry *e = entry_at(c, k->next); e; e = entry_at(c, e->key_next)) {
        if (e->state != ENTRY_WAITING || e->flags & ENTRY_LETTER) continue;
        e->state = ENTRY_DYING;
        e->flags |= ENTRY_BEHIND;
        window_list_push(c, &c->dying, e);
    }
    window_key_update(c, k);
}

bool consumer_add_letter(struct consumer *c, uint16_t slot, int64_t seq, uint64_t key, uint32_t attempts)
{
    struct consumer_entry *e = window_find_letter(c, slot, seq);
    if (e) return true; /* under way already. The event itself may be there too: before it died, or sought again */
    if (c->letters_loaded >= CONSUMER_LETTERS_LOADED_MAX || c->free_entries <= c->reserved) return false;
    e = window_new(c, slot, seq);
    if (!e) return false;
    struct consumer_key *k = window_key(c, key);
    c->letters_loaded++;
    e->flags = ENTRY_LETTER;
    e->attempts = attempts;
    window_key_unlist(c, k);
    window_key_insert_letter(c, k, e);
    window_key_update(c, k);
    return true;
}

unsigned consumer_acked_letters(struct consumer *c, struct consumer_letter_ref *out, unsigned max)
{
    unsigned n = 0;
    for (uint32_t i = c->acked.first; i != CONSUMER_NONE && n < max; i = c->entries[i].list_next) {
        struct consumer_entry *e = &c->entries[i];
        if (e->flags & ENTRY_AWAY) continue;
        e->flags |= ENTRY_AWAY;
        out[n++] = (struct consumer_letter_ref){e->slot, e->seq};
    }
    return n;
}

bool consumer_letter_goes(const struct consumer *c, uint16_t slot, int64_t seq)
{
    const struct consumer_entry *e = window_find_letter(c, slot, seq);
    return e && (e->state == ENTRY_GIVEN || e->state == ENTRY_SETTLED);
}

void consumer_letter_gone(struct consumer *c, uint16_t slot, int64_t seq)
{
    struct consumer_entry *e = window_find_letter(c, slot, seq);
    struct consumer_slot *s = consumer_slot(c, slot);
    s->letters -= s->letters > 0;
    if (!e) return;
    uint64_t hash = entry_key(c, e)->hash;
    if (e->state == ENTRY_SETTLED) window_list_remove(c, &c->acked, e), hash = e->commit_us;
    else consumer_settled(c, e);
    window_free(c, e);
    (void)consumer_park(c, hash, 0, -1);
}

void consumer_letter_stays(struct consumer *c, uint16_t slot, int64_t seq)
{
    struct consumer_entry *e = window_find_letter(c, slot, seq);
    if (e && e->state == ENTRY_SETTLED) e->flags &= (uint8_t)~ENTRY_AWAY;
}

/* ---- keys that letters hold up: open addressing, by the key's hash. Removal leaves its place to be found empty only by rebuilding what follows. */

enum { PARKED_TABLE = 2 * CONSUMER_PARKED_MAX };
static_assert((PARKED_TABLE & (PARKED_TABLE - 1)) == 0, "a mask");

static bool parked_used(const struct consumer_parked *p) { return p->dead || p->rest; }

static struct consumer_parked *parked_find(const struct consumer *c, uint64_t hash)
{
    uint32_t i = (uint32_t)(hash & (PARKED_TABLE - 1));
    while (parked_used(&c->parked[i]) && c->parked[i].hash != hash) i = (i + 1) & (PARKED_TABLE - 1);
    return &c->parked[i];
}

const struct consumer_parked *consumer_parked(const struct consumer *c, uint64_t key)
{
    if (!c->parked_count) return NULL;
    struct consumer_parked *p = parked_find(c, key);
    return parked_used(p) ? p : NULL;
}

static void parked_remove(struct consumer *c, struct consumer_parked *p)
{
    *p = (struct consumer_parked){0};
    c->parked_count--;
    for (uint32_t i = (uint32_t)(p - c->parked + 1) & (PARKED_TABLE - 1); parked_used(&c->parked[i]); i = (i + 1) & (PARKED_TABLE - 1)) {
        struct consumer_parked moved = c->parked[i];
        c->parked[i] = (struct consumer_parked){0};
        *parked_find(c, moved.hash) = moved;
    }
}

bool consumer_park(struct consumer *c, uint64_t key, int dead, int rest)
{
    if (!c->parked && !(c->parked = mem_zalloc(PARKED_TABLE * sizeof *c->parked))) return false;
    struct consumer_parked *p = parked_find(c, key);
    bool known = parked_used(p);
    if (!known && (dead <= 0 && rest <= 0)) return true;
    if (!known && c->parked_count >= CONSUMER_PARKED_MAX + CONSUMER_PARKED_MAX / 2) return false; /* those that died at the limit, and those that were read from the rows */
    if (!known) p->hash = key, c->parked_count++;
    p->dead = (uint32_t)MAX_OF((int64_t)p->dead + dead, 0);
    p->rest = (uint32_t)MAX_OF((int64_t)p->rest + rest, 0);
    if (!parked_used(p)) parked_remove(c, p);
    return true;
}

void consumer_unpark_all(struct consumer *c)
{
    if (c->parked) memset(c->parked, 0, PARKED_TABLE * sizeof *c->parked);
    c->parked_count = 0;
}
