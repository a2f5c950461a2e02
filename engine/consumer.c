#include "engine/consumer.h"

#include "engine/consumer_local.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

/* Definition and members of a group in a partition, and what becomes of events that were given out. How they get there: consumer_give.c. */

enum { ERROR_BYTES_MAX = 256 << 10 /* of a window's dying events; beyond it they die without a text */, FILTER_BYTES_MAX = 1 << 20 };

/* ---- sizes */

static uint32_t window_of(const struct consumer_config *f)
{
    return MAX_OF(CONSUMER_WINDOW_MIN, MIN_OF(CONSUMER_WINDOW_MAX, CONSUMER_WINDOW_EVENTS / MAX_OF(f->partition_count, 1u)));
}
static size_t stash_of(const struct consumer_config *f) { return MAX_OF(CONSUMER_STASH_MIN, CONSUMER_STASH_BYTES / MAX_OF(f->partition_count, 1u)); }
static uint32_t table_of(uint32_t n)
{
    uint32_t size = 1;
    while (size < n) size *= 2;
    return size;
}
static uint32_t slots_of(const struct consumer_config *f) { return f->last_slot - f->first_slot + 1u; }

size_t consumer_bytes(const struct consumer_config *f)
{
    size_t n = window_of(f);
    return n * (sizeof(struct consumer_entry) + sizeof(struct consumer_key) + sizeof(uint32_t)) + 2 * table_of((uint32_t)n) * sizeof(uint32_t) +
           slots_of(f) * sizeof(struct consumer_slot) + stash_of(f) + sizeof(struct consumer);
}

/* ---- open and close */

static void window_clear(struct consumer *c)
{
    for (uint32_t i = 0; i <= c->entry_mask; i++) c->entry_table[i] = c->key_table[i] = CONSUMER_NONE;
    for (uint32_t i = 0; i < c->window; i++) {
        c->entries[i] = (struct consumer_entry){.list_next = i + 1 < c->window ? i + 1 : CONSUMER_NONE};
        c->keys[i] = (struct consumer_key){.first = CONSUMER_NONE, .list_next = i + 1 < c->window ? i + 1 : CONSUMER_NONE};
    }
    for (uint32_t i = 0; i < c->slot_count; i++) c->slots[i] = (struct consumer_slot){.first = CONSUMER_NONE, .last = CONSUMER_NONE, .told = {CONSUMER_NONE, CONSUMER_NONE}, .next_dirty = UINT16_MAX};
    struct consumer_list none = {CONSUMER_NONE, CONSUMER_NONE};
    c->free_entry = c->free_key = 0;
    c->free_entries = c->window;
    c->ready = c->reading = c->dying = c->order = c->acked = none;
    c->dirty_first = c->dirty_last = UINT16_MAX;
}

/* anew: the filter too. Else it is the same, and may be in use on a reader thread. */
static enum status define(struct consumer *c, const struct consumer_group_row *row, bool anew)
{
    uint8_t *bytes = mem_alloc(row->definition.len);
    struct consumer_definition d;
    const struct filter *filter = NULL;
    struct failure f;
    struct arena arena;
    if (!bytes) return STATUS_MEMORY_LIMIT;
    memcpy(bytes, row->definition.data, row->definition.len);
    arena_init(&arena, FILTER_BYTES_MAX);
    failure_init(&f, &arena);
    enum status st = consumer_definition_decode(slice_of(bytes, row->definition.len), &d);
    if (!st && anew && d.filter.len) st = filter_parse(&filter, d.filter, &filter_events, "group.filter", &arena, &f);
    if (st) {
        arena_fini(&arena);
        mem_free(bytes);
        return st;
    }
    if (anew) c->filter_arena = arena;
    else arena_fini(&arena);
    if (anew) c->filter = filter && !filter_is_empty(filter) ? filter : NULL;
    mem_free(c->definition_bytes);
    c->definition_bytes = bytes;
    c->definition = d;
    c->group_id = row->group_id;
    c->epoch = row->epoch;
    c->revision = row->revision;
    c->start_place = row->start_place;
    c->start_us = row->start_us;
    c->snapshot = row->flags & CONSUMER_SNAPSHOT;
    return STATUS_OK;
}

enum status consumer_init(struct consumer *c, const struct consumer_config *config, const struct consumer_group_row *row)
{
    *c = (struct consumer){.first_slot = config->first_slot, .slot_count = slots_of(config), .window = window_of(config), .stash_bytes = stash_of(config)};
    c->entry_mask = c->key_mask = table_of(c->window) - 1;
    list_init(&c->able);
    arena_init(&c->filter_arena, 0);
    c->slots = mem_alloc(c->slot_count * sizeof *c->slots);
    c->entries = mem_alloc(c->window * sizeof *c->entries);
    c->keys = mem_alloc(c->window * sizeof *c->keys);
    c->heap = mem_alloc(c->window * sizeof *c->heap);
    c->entry_table = mem_alloc((c->entry_mask + 1) * sizeof *c->entry_table);
    c->key_table = mem_alloc((c->key_mask + 1) * sizeof *c->key_table);
    c->stash = mem_alloc(c->stash_bytes);
    bool all = c->slots && c->entries && c->keys && c->heap && c->entry_table && c->key_table && c->stash;
    enum status st = all ? define(c, row, true) : STATUS_MEMORY_LIMIT;
    if (st) {
        consumer_fini(c);
        return st;
    }
    window_clear(c);
    for (unsigned i = 0; i < CONSUMER_BUCKETS; i++) c->buckets[i] = UINT16_MAX;
    return STATUS_OK;
}

void consumer_fini(struct consumer *c)
{
    for (uint32_t i = 0; c->entries && c->error_bytes && i < c->window; i++) mem_free(c->entries[i].error);
    for (uint32_t i = 0; i < c->members_cap; i++) mem_free(c->members[i]);
    mem_free(c->members);
    mem_free(c->slots);
    mem_free(c->entries);
    mem_free(c->keys);
    mem_free(c->heap);
    mem_free(c->entry_table);
    mem_free(c->key_table);
    mem_free(c->stash);
    mem_free(c->parked);
    mem_free(c->definition_bytes);
    arena_fini(&c->filter_arena);
    *c = (struct consumer){0};
}

struct consumer_slot *consumer_slot(struct consumer *c, uint16_t slot)
{
    return slot >= c->first_slot && slot - c->first_slot < (int)c->slot_count ? &c->slots[slot - c->first_slot] : NULL;
}

/* What is given out is leased for no longer than the definition says now: a lease of days would hold up all that the member is given behind it. */
static void members_redefine(struct consumer *c, uint64_t now_ns)
{
    uint64_t until_ns = now_ns + c->definition.ack_timeout_us * NS_PER_US;
    for (uint32_t i = 0; i < c->members_cap; i++) {
        struct consumer_member *m = c->members[i];
        if (!m) continue;
        for (uint32_t k = m->given_first; k != CONSUMER_NONE; k = c->entries[k].list_next) c->entries[k].until_ns = MIN_OF(c->entries[k].until_ns, until_ns);
        if (c->definition.paused) list_remove(&m->able); /* who waits, waits on; when the group goes on, all are looked at */
    }
}

static uint64_t backoff_ns(const struct consumer *c, uint32_t attempts)
{
    const struct consumer_definition *d = &c->definition;
    uint64_t us = d->min_backoff_us;
    for (uint32_t i = 1; i < attempts && us < d->max_backoff_us; i++) us *= 2;
    return MIN_OF(us, d->max_backoff_us) * NS_PER_US;
}

/* Whoever is blocked has another try: what blocked it may be what was changed. Whoever backs off does so no longer than he would from now on. */
enum status consumer_redefine(struct consumer *c, const struct consumer_group_row *row, uint64_t now_ns)
{
    uint32_t key_window = c->definition.key_window;
    enum status st = define(c, row, false);
    if (st) return st;
    members_redefine(c, now_ns);
    for (uint32_t i = 0; i < c->window; i++) {
        struct consumer_key *k = &c->keys[i];
        if (k->first == CONSUMER_NONE) continue;
        if (key_window != c->definition.key_window) window_key_update(c, k); /* it may be ready for one more; or not any more */
        struct consumer_entry *e = entry_at(c, k->next);
        if (k->state == KEY_DELAYED && k->backs_off && e) window_key_hasten(c, k, now_ns + backoff_ns(c, e->attempts));
        if (k->state != KEY_BLOCKED) continue;
        k->state = KEY_IDLE;
        c->blocked--;
        if (e) e->flags &= (uint8_t)~ENTRY_DEAD;
        if (e && e->state == ENTRY_WAITING && e->attempts >= c->definition.max_attempts) {
            consumer_exhausted(c, e, SLICE_LIT("the attempts are used up")); /* what it was blocked with stays, if that was kept */
            continue;
        }
        if (e) window_error_free(c, e); /* the next failure tells its own */
        window_key_update(c, k);
    }
    return STATUS_OK;
}

/* ---- members. Rendezvous: of all members, the one whose hash with the bucket is largest. One that comes or goes changes only the buckets that it wins or loses. */

static uint64_t weight(const struct consumer_member *m, unsigned bucket)
{
    uint64_t x = hash64(m->session->member_id) ^ (uint64_t)(bucket + 1) * 0x9e3779b97f4a7c15ull;
    x ^= x >> 32, x *= 0xd6e8feb86659fd93ull, x ^= x >> 32, x *= 0xd6e8feb86659fd93ull;
    return x ^ x >> 32;
}

static void buckets_fill(struct consumer *c)
{
    uint64_t best[CONSUMER_BUCKETS] = {0};
    for (unsigned b = 0; b < CONSUMER_BUCKETS; b++) c->buckets[b] = UINT16_MAX;
    for (uint32_t i = 0; i < c->members_cap; i++) {
        const struct consumer_member *m = c->members[i];
        for (unsigned b = 0; m && b < CONSUMER_BUCKETS; b++) {
            uint64_t w = weight(m, b);
            if (c->buckets[b] == UINT16_MAX || w > best[b]) c->buckets[b] = m->id, best[b] = w;
        }
    }
}

struct consumer_member *consumer_member_of(struct consumer *c, const struct consumer_session *s)
{
    for (uint32_t i = 0; i < c->members_cap; i++)
        if (c->members[i] && c->members[i]->session == s) return c->members[i];
    return NULL;
}

struct consumer_member *consumer_join(struct consumer *c, struct consumer_session *s)
{
    uint32_t i = 0;
    while (i < c->members_cap && c->members[i]) i++;
    if (i == c->members_cap) {
        uint32_t cap = c->members_cap ? c->members_cap * 2 : 4;
        struct consumer_member **grown = mem_realloc(c->members, cap * sizeof(void *));
        if (!grown) return NULL;
        memset(grown + c->members_cap, 0, (cap - c->members_cap) * sizeof(void *));
        c->members = grown, c->members_cap = cap;
    }
    struct consumer_member *m = mem_new(struct consumer_member);
    if (!m) return NULL;
    *m = (struct consumer_member){.session = s, .id = (uint16_t)i, .given_first = CONSUMER_NONE, .given_last = CONSUMER_NONE, .ready_first = CONSUMER_NONE, .ready_last = CONSUMER_NONE};
    list_init(&m->able);
    c->members[i] = m;
    c->member_count++;
    buckets_fill(c);
    return m;
}

void consumer_leave(struct consumer *c, struct consumer_member *m)
{
    check(!m->poll);
    while (m->given_first != CONSUMER_NONE) {
        struct consumer_entry *e = &c->entries[m->given_first];
        struct consumer_key *k = entry_key(c, e);
        consumer_take_back(c, &c->entries[k->first]); /* all that is given out of a key is with one member */
        if (consumer_parked(c, k->hash)) consumer_hold_back(c, k);
        window_key_update(c, k);
    }
    list_remove(&m->able);
    c->members[m->id] = NULL;
    c->member_count--;
    mem_free(m);
    buckets_fill(c);
}

void consumer_poll(struct consumer *c, struct consumer_member *m, struct op *op)
{
    check(!m->poll);
    m->poll = op;
    m->events = 0;
    m->full = false;
    op->consumer.output = (struct consumer_output){0};
    op->consumer.events = 0;
    __atomic_store_n(&op->consumer.starved, false, __ATOMIC_RELAXED);
    give_able(c, m);
}

static void give_back_credit(struct consumer_member *m)
{
    if (m->claimed) consumer_credit_add(m->session, m->claimed);
    m->claimed = 0;
}

struct op *consumer_poll_end(struct consumer *c, struct consumer_member *m)
{
    struct op *op = m->poll;
    give_back_credit(m);
    list_remove(&m->able);
    if (!op) return NULL;
    m->poll = NULL;
    op->consumer.events = m->events;
    op->answer = slice_of(op->consumer.output.data, op->consumer.output.len);
    return op;
}

void consumer_wake(struct consumer *c, struct consumer_member *m) { give_able(c, m); }

/* ---- what is given out comes back */

static void given_remove(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_member *m = c->members[e->member];
    struct consumer_key *k = entry_key(c, e);
    struct consumer_list l = {m->given_first, m->given_last};
    window_list_remove(c, &l, e);
    m->given_first = l.first, m->given_last = l.last;
    m->holds--;
    k->in_flight--;
    c->in_flight--;
    e->member = UINT16_MAX;
}

void consumer_take_back(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_key *k = entry_key(c, e);
    window_key_unlist(c, k); /* its list may be the member's */
    k->next = entry_index(c, e);
    if (k->state == KEY_BLOCKED) k->state = KEY_IDLE, c->blocked--; /* at one behind it, which comes into question again in its turn (consumer_used_up) */
    for (; e && e->state == ENTRY_GIVEN; e = entry_at(c, e->key_next)) {
        given_remove(c, e);
        e->state = ENTRY_WAITING;
    }
}

void consumer_settled(struct consumer *c, struct consumer_entry *e)
{
    struct consumer_key *k = entry_key(c, e);
    window_key_unlist(c, k);
    if (e->state == ENTRY_GIVEN) given_remove(c, e);
    if (e->state == ENTRY_READING) c->reading_count--;
    if (e->state == ENTRY_READING && !(e->flags & ENTRY_AWAY)) window_list_remove(c, &c->reading, e);
    if (e->state == ENTRY_DYING && !(e->flags & ENTRY_AWAY)) window_list_remove(c, &c->dying, e);
    window_key_remove(c, e);
    window_key_update(c, k);
    e->state = ENTRY_SETTLED;
    if (e->flags & ENTRY_LETTER) return;
    consumer_mark_dirty(c, e->slot);
    if (e->flags & ENTRY_TOLD) {
        told_remove(c, e);
        return;
    }
    window_order_remove(c, e);
    window_slot_advance(c, e->slot);
}

/* An ack of a letter has its row to remove yet. */
static void ack(struct consumer *c, struct consumer_entry *e)
{
    uint64_t hash = entry_key(c, e)->hash;
    c->acked_events++;
    consumer_settled(c, e);
    if (!(e->flags & ENTRY_LETTER)) return;
    e->commit_us = hash; /* its key may be gone by the time its row is */
    window_list_push(c, &c->acked, e);
}

static void keep_error(struct consumer *c, struct consumer_entry *e, struct slice error)
{
    struct slice cut = slice_cut_utf8(error, CONSUMER_ERROR_BYTES_MAX);
    if (e->error || c->error_bytes + cut.len + 1 > ERROR_BYTES_MAX || !(e->error = mem_alloc(cut.len + 1))) return;
    if (cut.len) memcpy(e->error, cut.data, cut.len);
    e->error[cut.len] = 0;
    for (size_t i = 0; i < cut.len; i++)
        if (!e->error[i]) e->error[i] = ' ';
    c->error_bytes += cut.len + 1;
}

void consumer_exhausted(struct consumer *c, struct consumer_entry *e, struct slice error)
{
    struct consumer_key *k = entry_key(c, e);
    enum consumer_exhausted how = c->definition.on_exhausted;
    window_key_unlist(c, k);
    if (how == EXHAUSTED_PARK && !consumer_parked(c, k->hash) && c->parked_count >= CONSUMER_PARKED_MAX) how = EXHAUSTED_BLOCK;
    if (how == EXHAUSTED_BLOCK) {
        keep_error(c, e, error);
        if (k->state == KEY_DELAYED) window_key_undelay(c, k);
        if (k->state != KEY_BLOCKED) c->blocked++;
        k->state = KEY_BLOCKED;
        return;
    }
    keep_error(c, e, error);
    e->state = ENTRY_DYING;
    window_list_push(c, &c->dying, e);
    window_key_update(c, k);
}

bool consumer_next_blocked(const struct consumer *c, uint32_t *next, struct consumer_blocked *out)
{
    while (*next < c->window) {
        const struct consumer_key *k = &c->keys[(*next)++];
        const struct consumer_entry *e = k->state == KEY_BLOCKED && k->first != CONSUMER_NONE ? entry_at(c, k->next) : NULL;
        if (!e || e->state != ENTRY_WAITING) continue;
        *out = (struct consumer_blocked){.at = window_wanted(c, e), .attempts = e->attempts, .error = e->error ? slice_str(e->error) : (struct slice){0}};
        return true;
    }
    return false;
}

bool consumer_unblock(struct consumer *c, const struct consumer_letter_ref *at, bool letter, bool skip)
{
    struct consumer_entry *e = letter ? window_find_letter(c, at->slot, at->seq) : window_find(c, at->slot, at->seq);
    if (!e || e->state != ENTRY_WAITING) return false;
    struct consumer_key *k = entry_key(c, e);
    if (k->state != KEY_BLOCKED || k->next != entry_index(c, e)) return false;
    k->state = KEY_IDLE;
    c->blocked--;
    e->attempts = 0;
    e->flags &= (uint8_t)~ENTRY_DEAD;
    window_error_free(c, e);
    if (skip) ack(c, e);
    else window_key_update(c, k);
    return true;
}

static void nack(struct consumer *c, struct consumer_entry *e, uint64_t delay_us, struct slice error, bool dead, uint64_t now_ns)
{
    struct consumer_key *k = entry_key(c, e);
    consumer_take_back(c, e);
    e->attempts++;
    if (!(e->flags & ENTRY_LETTER)) consumer_mark_dirty(c, e->slot);
    if (dead) e->flags |= ENTRY_DEAD;
    if (consumer_used_up(c, e)) {
        consumer_exhausted(c, e, error);
        return;
    }
    bool backs_off = delay_us == CONSUMER_NO_DELAY;
    uint64_t delay_ns = backs_off ? backoff_ns(c, e->attempts) : MIN_OF(delay_us, (uint64_t)(365 * 86400) * US_PER_S) * NS_PER_US;
    if (delay_ns) window_key_delay(c, k, now_ns + delay_ns, backs_off);
    else window_key_update(c, k);
}

static void extend(struct consumer *c, struct consumer_entry *e, uint64_t now_ns)
{
    struct consumer_member *m = c->members[e->member];
    struct consumer_list l = {m->given_first, m->given_last};
    window_list_remove(c, &l, e);
    window_list_push(c, &l, e);
    m->given_first = l.first, m->given_last = l.last;
    e->until_ns = now_ns + c->definition.ack_timeout_us * NS_PER_US;
}

bool consumer_settle(struct consumer *c, struct consumer_member *m, const struct consumer_settle *s, uint64_t now_ns)
{
    struct consumer_entry *e = window_find_given(c, s->slot, s->seq);
    if (!e || e->member != m->id) return false;
    switch (s->kind) {
    case CONSUMER_ACK: ack(c, e); break;
    case CONSUMER_NACK: nack(c, e, s->delay_us, s->error, false, now_ns); break;
    case CONSUMER_DEAD: nack(c, e, s->delay_us, s->error, true, now_ns); break;
    case CONSUMER_EXTEND: extend(c, e, now_ns); break;
    }
    return true;
}

const struct consumer_entry *consumer_held(const struct consumer *c, uint16_t slot, int64_t seq) { return window_find_given(c, slot, seq); }

void consumer_acked(struct consumer *c, uint16_t slot, int64_t seq)
{
    struct consumer_entry *e = window_find_given(c, slot, seq);
    if (!e) e = window_find(c, slot, seq);
    if (!e || e->state == ENTRY_SETTLED) return;
    bool letter = e->flags & ENTRY_LETTER;
    ack(c, e);
    if (letter) consumer_letter_gone(c, slot, seq); /* the commit has removed its row */
}

bool consumer_tick(struct consumer *c, uint64_t now_ns)
{
    bool some = false;
    for (uint32_t i = 0; i < c->members_cap; i++) {
        struct consumer_member *m = c->members[i];
        while (m && m->given_first != CONSUMER_NONE && c->entries[m->given_first].until_ns <= now_ns) {
            nack(c, &c->entries[m->given_first], CONSUMER_NO_DELAY, SLICE_LIT("not acknowledged within ack_timeout"), false, now_ns);
            some = true;
        }
    }
    for (struct consumer_key *k; (k = window_due(c, now_ns)); some = true) {
        window_key_undelay(c, k);
        window_key_update(c, k);
    }
    return some;
}

/* ---- positions */

void consumer_mark_dirty(struct consumer *c, uint16_t slot)
{
    struct consumer_slot *s = consumer_slot(c, slot);
    if (s->dirty) return;
    s->dirty = true;
    s->next_dirty = UINT16_MAX;
    if (c->dirty_last == UINT16_MAX) c->dirty_first = slot;
    else consumer_slot(c, c->dirty_last)->next_dirty = slot;
    c->dirty_last = slot;
    c->dirty_count++;
}

uint16_t consumer_next_dirty(struct consumer *c)
{
    uint16_t slot = c->dirty_first;
    if (slot == UINT16_MAX) return slot;
    struct consumer_slot *s = consumer_slot(c, slot);
    s->dirty = false;
    c->dirty_first = s->next_dirty;
    if (c->dirty_first == UINT16_MAX) c->dirty_last = UINT16_MAX;
    c->dirty_count--;
    return slot;
}

uint64_t consumer_oldest(const struct consumer *c, uint64_t *commit_us)
{
    const struct consumer_entry *e = entry_at(c, c->order.first);
    *commit_us = e ? e->commit_us : 0;
    return e ? e->index : c->at.index;
}

/* Everything up to `through` is settled but what is listed: so `through` is the last event that is settled or has attempts to remember, and those in front of it that are neither are
 * listed. What is left out between entries was filtered out, or settled before. */
enum status consumer_position_now(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out)
{
    struct consumer_slot *s = consumer_slot(c, slot);
    unsigned n = 0, upto = 0;
    *out = (struct consumer_position){.epoch = c->epoch, .through = s->seen};
    int64_t before = 0, through = 0; /* last entry's seq; the last that is settled or has attempts */
    bool tail_settled = true;
    for (uint32_t i = s->first; i != CONSUMER_NONE; i = c->entries[i].slot_next) {
        const struct consumer_entry *e = &c->entries[i];
        if (e->seq > before + 1 || through == 0) through = MAX_OF(through, e->seq - 1), upto = n;
        tail_settled = e->state == ENTRY_SETTLED || e->attempts;
        n += e->state != ENTRY_SETTLED;
        if (tail_settled) through = e->seq, upto = n;
        before = e->seq;
    }
    if (s->seen > before) through = s->seen, upto = n;
    out->through = through;
    struct consumer_unsettled *listed = upto ? arena_alloc(arena, upto * sizeof *listed) : NULL;
    if (upto && !listed) return STATUS_MEMORY_LIMIT;
    for (uint32_t i = s->first; i != CONSUMER_NONE && out->count < upto; i = c->entries[i].slot_next) {
        const struct consumer_entry *e = &c->entries[i];
        if (e->state != ENTRY_SETTLED) listed[out->count++] = (struct consumer_unsettled){e->seq, e->attempts};
    }
    out->listed = listed;
    s->told_through = MAX_OF(s->told_through, through);
    return c->snapshot ? told_position(c, slot, arena, out) : STATUS_OK;
}
