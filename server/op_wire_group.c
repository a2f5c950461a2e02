#include "engine/filter.h"
#include "proto/route.h"
#include "server/op_wire_local.h"

/* ---- numbers by slot, of the partition: those below 0 mean one and the same */

void op_wire_put_slots(struct out *o, const struct op *op, const int64_t *by_slot, uint32_t partitions) {
    uint32_t partition = partition_of_slot(op->slot, partitions);
    for (uint32_t slot = partition_first_slot(partition, partitions); slot <= partition_last_slot(partition, partitions); slot++) put(o, by_slot[slot] < 0 ? 0 : (uint64_t)by_slot[slot] + 1);
}

void op_wire_get_slots(struct reader *r, const struct op *op, int64_t *by_slot, uint32_t partitions) {
    uint32_t partition = partition_of_slot(op->slot, partitions);
    for (uint32_t slot = partition_first_slot(partition, partitions); slot <= partition_last_slot(partition, partitions) && !r->bad; slot++) by_slot[slot] = (int64_t)read_varint(r) - 1;
}

int64_t *op_wire_slots_new(const struct op *op) { return arena_zalloc(op->arena, SLOT_COUNT * sizeof(int64_t)); }

/* ---- places of events */

static void put_ref(struct out *o, const struct consumer_letter_ref *at) { put(o, at->slot), put(o, (uint64_t)at->seq); }
static void get_ref(struct reader *r, struct consumer_letter_ref *at) { at->slot = get_16(r), at->seq = get_signed(r); }

static struct consumer_letter_ref *get_refs(struct reader *r, struct arena *arena, unsigned *count) {
    *count = get_count(r, MAX_OF((int)CONSUMER_LETTERS_PAGE_MAX, (int)GROUP_REFS_MAX));
    struct consumer_letter_ref *refs = arena_array(arena, struct consumer_letter_ref, (size_t)*count + 1);
    for (unsigned i = 0; refs && i < *count && !r->bad; i++) get_ref(r, &refs[i]);
    return refs;
}

/* ---- ops */

enum { POLL_STARVED = 1, SEEK_ONE_SLOT = 1, SEEK_LOOSE = 2, LETTERS_REFS = 1, LETTERS_DEAD = 2, LETTERS_BLOCKED = 4 };

bool op_wire_of_session(enum op_kind kind) { return kind == OP_GROUP_ATTACH || kind == OP_GROUP_DETACH || kind == OP_GROUP_POLL || kind == OP_GROUP_SETTLE; }

bool op_wire_group_travels(enum op_kind kind) {
    switch (kind) {
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH:
    case OP_GROUP_POLL:
    case OP_GROUP_SETTLE:
    case OP_FEED_SEEK:
    case OP_GROUP_LAG:
    case OP_GROUP_LETTERS:
    case OP_GROUP_POSITIONS:
    case OP_GROUP_UNBLOCK: return true;
    default: return false;
    }
}

static void put_seek(struct out *o, const struct op *op, uint32_t partitions) {
    const struct feed_seek *s = &op->seek;
    put(o, s->from), put(o, s->time_us), put(o, (s->one_slot ? SEEK_ONE_SLOT : 0) | (s->loose ? SEEK_LOOSE : 0));
    if (s->from == FEED_CURSOR) op_wire_put_slots(o, op, s->behind, partitions);
}

static bool get_seek(struct reader *r, struct op *op, uint32_t partitions) {
    struct feed_seek *s = &op->seek;
    uint64_t from = read_varint(r);
    if (from > FEED_LATEST) r->bad = true;
    s->from = (enum feed_from)from, s->time_us = read_varint(r);
    uint64_t flags = read_varint(r);
    s->one_slot = flags & SEEK_ONE_SLOT, s->loose = flags & SEEK_LOOSE;
    if (!(s->behind = op_wire_slots_new(op))) return false;
    if (!r->bad && s->from == FEED_CURSOR) op_wire_get_slots(r, op, s->behind, partitions);
    return true;
}

static void put_letters(struct out *o, const struct consumer_letters *l) {
    put(o, l->group_id), put_slice(o, l->filter_text), put_ref(o, &l->after), put(o, l->count_max);
    put(o, (l->refs_only ? LETTERS_REFS : 0) | (l->dead_only ? LETTERS_DEAD : 0) | (l->blocked ? LETTERS_BLOCKED : 0));
}

static bool get_letters(struct reader *r, struct op *op) {
    struct consumer_letters *l = &op->letters;
    struct failure f;
    l->group_id = get_32(r), l->filter_text = read_counted(r), get_ref(r, &l->after), l->count_max = get_32(r);
    uint64_t flags = read_varint(r);
    l->refs_only = flags & LETTERS_REFS, l->dead_only = flags & LETTERS_DEAD, l->blocked = flags & LETTERS_BLOCKED;
    if (l->count_max < 1 || l->count_max > MAX_OF((unsigned)CONSUMER_LETTERS_PAGE_MAX, (unsigned)GROUP_REFS_MAX)) r->bad = true;
    if (r->bad || !l->filter_text.len) return true;
    failure_init(&f, op->arena);
    enum status st = filter_parse(&l->filter, l->filter_text, &filter_events, "filter", op->arena, &f);
    if (st && st != STATUS_MEMORY_LIMIT) r->bad = true;
    return st != STATUS_MEMORY_LIMIT;
}

static void put_positions(struct out *o, const struct op *op, uint32_t partitions) {
    const struct consumer_positions *p = &op->positions;
    put(o, p->group_id), put(o, p->asked_max), put(o, p->writable), put(o, p->target != NULL);
    if (p->target) op_wire_put_slots(o, op, p->target, partitions);
}

static bool get_positions(struct reader *r, struct op *op, uint32_t partitions) {
    struct consumer_positions *p = &op->positions;
    p->group_id = get_32(r), p->asked_max = read_varint(r), p->writable = read_varint(r);
    bool aims = read_varint(r);
    int64_t *target = aims ? op_wire_slots_new(op) : NULL;
    p->target = target;
    p->behind = op_wire_slots_new(op);
    if (!p->behind || (aims && !target)) return false;
    if (target) op_wire_get_slots(r, op, target, partitions);
    return true;
}

static void put_unblock(struct out *o, const struct consumer_letters *l) {
    put(o, l->group_id), put(o, l->skip), put(o, l->count);
    for (unsigned i = 0; i < l->count; i++) put_ref(o, &l->refs[i]);
}

static bool get_unblock(struct reader *r, struct op *op) {
    struct consumer_letters *l = &op->letters;
    l->group_id = get_32(r), l->skip = read_varint(r);
    return (l->refs = get_refs(r, op->arena, &l->count)) != NULL;
}

static void put_session(struct out *o, const struct op *op) {
    const struct consumer_request *q = &op->consumer;
    put(o, q->group_id), put(o, q->session->id);
    if (op->kind == OP_GROUP_ATTACH) put_slice(o, q->session->member_id), put(o, q->session->opened_us);
    if (op->kind == OP_GROUP_POLL) put(o, q->bytes_max), put(o, q->granted);
    if (op->kind == OP_GROUP_SETTLE) put(o, q->settle_count);
    for (unsigned i = 0; op->kind == OP_GROUP_SETTLE && i < q->settle_count; i++) {
        const struct consumer_settle *s = &q->settles[i];
        put(o, s->kind), put(o, s->slot), put(o, (uint64_t)s->seq), put(o, s->delay_us), put_slice(o, s->error);
    }
}

static bool get_settles(struct reader *r, struct op *op) {
    struct consumer_request *q = &op->consumer;
    q->settle_count = get_count(r, CONSUMER_SETTLES_MAX);
    if (!(q->settles = arena_array(op->arena, struct consumer_settle, (size_t)q->settle_count + 1))) return false;
    for (unsigned i = 0; i < q->settle_count && !r->bad; i++) {
        struct consumer_settle *s = &q->settles[i];
        uint64_t kind = read_varint(r);
        if (kind > CONSUMER_EXTEND) r->bad = true;
        *s = (struct consumer_settle){.kind = (enum consumer_settle_kind)kind};
        s->slot = get_16(r), s->seq = get_signed(r), s->delay_us = read_varint(r), s->error = read_counted(r);
        if (s->slot >= SLOT_COUNT) r->bad = true;
    }
    return true;
}

static bool get_session(struct reader *r, struct op *op) {
    struct consumer_request *q = &op->consumer;
    struct consumer_session *s = q->session = arena_new(op->arena, struct consumer_session);
    if (!s) return false;
    q->group_id = get_32(r), s->id = read_varint(r);
    if (op->kind == OP_GROUP_ATTACH) {
        s->member_id = read_counted(r), s->opened_us = read_varint(r);
        if (s->member_id.len < 1 || s->member_id.len > CONSUMER_MEMBER_ID_BYTES_MAX) r->bad = true;
    } else if (op->kind == OP_GROUP_POLL) {
        q->bytes_max = (size_t)read_varint(r), q->granted = get_32(r);
        if (q->granted > CONSUMER_CREDIT_MAX) r->bad = true;
        s->credit = q->granted;
        q->ends_starved = !q->granted;
    }
    return op->kind != OP_GROUP_SETTLE || get_settles(r, op);
}

void op_wire_group_put(struct out *o, const struct op *op, uint32_t partitions) {
    switch (op->kind) {
    case OP_FEED_SEEK: put_seek(o, op, partitions); break;
    case OP_GROUP_LAG: put(o, op->lag.group_id), put(o, op->lag.asked_max); break;
    case OP_GROUP_LETTERS: put_letters(o, &op->letters); break;
    case OP_GROUP_POSITIONS: put_positions(o, op, partitions); break;
    case OP_GROUP_UNBLOCK: put_unblock(o, &op->letters); break;
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH:
    case OP_GROUP_POLL:
    case OP_GROUP_SETTLE: put_session(o, op); break;
    default: check(!"an op that does not travel");
    }
}

bool op_wire_group_get(struct reader *r, struct op *op, uint32_t partitions) {
    switch (op->kind) {
    case OP_FEED_SEEK: return get_seek(r, op, partitions);
    case OP_GROUP_LAG: op->lag.group_id = get_32(r), op->lag.asked_max = read_varint(r); return true;
    case OP_GROUP_LETTERS: return get_letters(r, op);
    case OP_GROUP_POSITIONS: return get_positions(r, op, partitions);
    case OP_GROUP_UNBLOCK: return get_unblock(r, op);
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH:
    case OP_GROUP_POLL:
    case OP_GROUP_SETTLE: return get_session(r, op);
    default: r->bad = true; return true;
    }
}

/* ---- outcomes */

static void put_lag(struct out *o, const struct consumer_lag *l) {
    put(o, l->oldest_us), put(o, l->events), put(o, l->estimated), put(o, l->orders_left), put(o, l->in_flight), put(o, l->blocked_keys), put(o, l->dead_letters), put(o, l->members);
}
static void get_lag(struct reader *r, struct consumer_lag *l) {
    l->oldest_us = read_varint(r), l->events = read_varint(r), l->estimated = read_varint(r), l->orders_left = read_varint(r), l->in_flight = read_varint(r), l->blocked_keys = read_varint(r);
    l->dead_letters = read_varint(r), l->members = get_32(r);
}

static void put_page(struct out *o, const struct op *op) {
    const struct consumer_letters *l = &op->letters;
    put_ref(o, &l->after), put(o, l->more), put(o, l->count);
    for (unsigned i = 0; i < l->count; i++) put_ref(o, &l->refs[i]);
    put_slice(o, op->answer);
}
static void get_page(struct reader *r, struct op *op, bool *memory) {
    struct consumer_letters *l = &op->letters;
    get_ref(r, &l->after), l->more = read_varint(r);
    if (!(l->refs = get_refs(r, op->arena, &l->count))) *memory = false;
    else op->answer = keep(r, op->arena, memory);
}

static void put_places(struct out *o, const struct op *op, uint32_t partitions) {
    const struct consumer_positions *p = &op->positions;
    op_wire_put_slots(o, op, p->behind, partitions);
    put(o, p->redelivered), put(o, p->skipped), put(o, p->estimated), put(o, p->orders), put(o, p->orders_left), put(o, p->epoch);
}
static void get_places(struct reader *r, struct op *op, uint32_t partitions) {
    struct consumer_positions *p = &op->positions;
    op_wire_get_slots(r, op, p->behind, partitions);
    p->redelivered = read_varint(r), p->skipped = read_varint(r), p->estimated = read_varint(r), p->orders = read_varint(r), p->orders_left = read_varint(r), p->epoch = read_varint(r);
}

static void put_polled(struct out *o, const struct op *op) {
    const struct consumer_request *q = &op->consumer;
    put(o, q->starved ? POLL_STARVED : 0), put(o, q->events), put(o, q->complete_to_us), put_slice(o, op->answer);
}
static void get_polled(struct reader *r, struct op *op, bool *memory) {
    struct consumer_request *q = &op->consumer;
    q->starved = read_varint(r), q->events = get_32(r), q->complete_to_us = read_varint(r), op->answer = keep(r, op->arena, memory);
    if (q->events > q->granted) r->bad = true; /* no more than it was lent credit for */
}

static void put_stale(struct out *o, const struct consumer_request *q) {
    put(o, q->settle_count);
    for (unsigned i = 0; i < q->settle_count; i++) put(o, q->settles[i].stale);
}
static void get_stale(struct reader *r, struct consumer_request *q) {
    if (read_varint(r) != q->settle_count) r->bad = true;
    q->stale_count = 0;
    for (unsigned i = 0; i < q->settle_count && !r->bad; i++) q->stale_count += q->settles[i].stale = read_varint(r);
}

void op_wire_group_put_outcome(struct out *o, const struct op *op, uint32_t partitions) {
    switch (op->kind) {
    case OP_FEED_SEEK: op_wire_put_slots(o, op, op->seek.behind, partitions), put(o, op->seek.at.index), put(o, op->seek.at.block), put(o, op->seek.at.event); break;
    case OP_GROUP_LAG: put_lag(o, &op->lag); break;
    case OP_GROUP_LETTERS: put_page(o, op); break;
    case OP_GROUP_POSITIONS: put_places(o, op, partitions); break;
    case OP_GROUP_UNBLOCK: put(o, op->letters.count); break;
    case OP_GROUP_POLL: put_polled(o, op); break;
    case OP_GROUP_SETTLE: put_stale(o, &op->consumer); break;
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH: break;
    default: check(!"an op that does not travel");
    }
}

void op_wire_group_get_outcome(struct reader *r, struct op *op, uint32_t partitions, bool *memory) {
    switch (op->kind) {
    case OP_FEED_SEEK: op_wire_get_slots(r, op, op->seek.behind, partitions), op->seek.at.index = read_varint(r), op->seek.at.block = get_32(r), op->seek.at.event = get_32(r); break;
    case OP_GROUP_LAG: get_lag(r, &op->lag); break;
    case OP_GROUP_LETTERS: get_page(r, op, memory); break;
    case OP_GROUP_POSITIONS: get_places(r, op, partitions); break;
    case OP_GROUP_UNBLOCK: op->letters.count = get_32(r); break;
    case OP_GROUP_POLL: get_polled(r, op, memory); break;
    case OP_GROUP_SETTLE: get_stale(r, &op->consumer); break;
    case OP_GROUP_ATTACH:
    case OP_GROUP_DETACH: break;
    default: r->bad = true;
    }
}
