#include "server/guests.h"

#include <string.h>

#include "proto/base/mem.h"
#include "server/core.h"
#include "server/subscription.h"

enum { BUCKETS = 256, GUESTS_MAX = 8192, DETACH_ARENA_BYTES = 16 << 10 };

struct guest {
    struct list link; /* of its bucket; of nothing, once it is leaving */
    struct guests *guests;
    uint64_t node_id, number; /* of its session there */
    uint16_t slot;            /* of the partition */
    uint32_t group_id;
    struct consumer_session session;
    uint8_t member_id[CONSUMER_MEMBER_ID_BYTES_MAX];
    unsigned ops;             /* that are with the engine, the detach too */
    bool leaving;
    struct op detach;
    struct arena arena;       /* of words that nobody reads */
};

struct guests {
    struct core *core;
    unsigned count;
    struct list buckets[BUCKETS];
};

static struct list *bucket_of(struct guests *g, uint64_t number, uint16_t slot) { return &g->buckets[(number * 31 + slot) % BUCKETS]; }

struct guests *guests_new(struct core *core) {
    struct guests *g = mem_new(struct guests);
    if (!g) return NULL;
    g->core = core;
    for (unsigned i = 0; i < BUCKETS; i++) list_init(&g->buckets[i]);
    return g;
}

static void guest_free(struct guest *q) {
    list_remove(&q->link);
    q->guests->count--;
    arena_fini(&q->arena);
    mem_free(q);
}

void guests_free(struct guests *g) {
    if (!g) return;
    for (unsigned i = 0; i < BUCKETS; i++)
        list_each(l, &g->buckets[i]) guest_free(list_entry(l, struct guest, link));
    check(g->count == 0);
    mem_free(g);
}

static struct guest *guest_find(struct guests *g, uint64_t node_id, uint64_t number, uint16_t slot) {
    list_each(l, bucket_of(g, number, slot)) {
        struct guest *q = list_entry(l, struct guest, link);
        if (q->node_id == node_id && q->number == number && q->slot == slot) return q;
    }
    return NULL;
}

static struct guest *guest_new(struct guests *g, uint64_t node_id, const struct op *op) {
    const struct consumer_session *theirs = op->consumer.session;
    struct guest *q = mem_new(struct guest);
    if (!q) return NULL;
    check(theirs->member_id.len <= sizeof q->member_id);
    q->guests = g;
    q->node_id = node_id, q->number = theirs->id, q->slot = op->slot, q->group_id = op->consumer.group_id;
    memcpy(q->member_id, theirs->member_id.data, theirs->member_id.len);
    q->session = (struct consumer_session){.id = subscription_session_id(), .opened_us = theirs->opened_us, .member_id = slice_of(q->member_id, theirs->member_id.len)};
    arena_init(&q->arena, DETACH_ARENA_BYTES);
    list_push_back(bucket_of(g, q->number, q->slot), &q->link);
    g->count++;
    return q;
}

static void guest_done(struct guest *q) {
    check(q->ops > 0);
    if (--q->ops == 0 && q->leaving) guest_free(q);
}

static void on_detached(struct op *op) { guest_done(container_of(op, struct guest, detach)); }

/* What it held goes to others; its memory goes when the engine has let go of it. */
static void guest_end(struct guest *q) {
    struct core *core = q->guests->core;
    if (q->leaving) return;
    q->leaving = true;
    list_remove(&q->link);
    if (!core->engine) { /* closed: nobody looks at it any more */
        if (!q->ops) guest_free(q);
        return;
    }
    q->ops++;
    q->detach = (struct op){.kind = OP_GROUP_DETACH, .slot = q->slot, .arena = &q->arena, .done = on_detached};
    q->detach.consumer.group_id = q->group_id;
    q->detach.consumer.session = &q->session;
    engine_submit(core->engine, &q->detach);
}

enum status guests_enter(struct guests *g, uint64_t node_id, struct op *op) {
    struct guest *q = guest_find(g, node_id, op->consumer.session->id, op->slot);
    if (op->kind == OP_GROUP_DETACH) {
        if (q) guest_end(q); /* its poll comes home CANCELLED */
        return STATUS_ABSENT;
    }
    if (!q && op->kind == OP_GROUP_ATTACH) {
        if (g->count >= GUESTS_MAX) return STATUS_OVERLOADED;
        if (!(q = guest_new(g, node_id, op))) return STATUS_MEMORY_LIMIT;
    }
    if (!q || q->group_id != op->consumer.group_id) return STATUS_NOT_LEADER;
    /* What a poll may take it has brought along: its node takes back what is left. */
    if (op->kind == OP_GROUP_POLL) __atomic_store_n(&q->session.credit, op->consumer.session->credit, __ATOMIC_RELEASE);
    op->consumer.session = &q->session;
    q->ops++;
    return STATUS_OK;
}

void guests_leave(struct guests *g, struct op *op) {
    struct guest *q = container_of(op->consumer.session, struct guest, session);
    enum status st = op->failure.status;
    if (st && st != STATUS_OVERLOADED) guest_end(q);
    guest_done(q);
}

void guests_lost(struct guests *g, uint64_t node_id) {
    for (unsigned i = 0; i < BUCKETS; i++)
        list_each(l, &g->buckets[i]) {
            struct guest *q = list_entry(l, struct guest, link);
            if (q->node_id == node_id) guest_end(q);
        }
}

/* Who does not poll has not been told that the lead is gone. */
void guests_tick(struct guests *g) {
    for (unsigned i = 0; i < BUCKETS && g->core->engine; i++)
        list_each(l, &g->buckets[i]) {
            struct guest *q = list_entry(l, struct guest, link);
            if (!q->ops && !engine_lead_of(g->core->engine, q->slot).here) guest_end(q);
        }
}
