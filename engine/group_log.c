#include "engine/group_log.h"

#include "proto/base/mem.h"

enum { SLOTS_MIN = 16, FLIGHTS_MIN = 8 };

bool group_slot_set(struct group_slot *s, uint64_t term, uint8_t type, struct slice data) {
    check(data.len <= UINT32_MAX);
    *s = (struct group_slot){.term = term, .type = type, .len = (uint32_t)data.len};
    if (data.len == 0) return true;
    s->data = mem_alloc(data.len);
    if (!s->data) return false;
    memcpy(s->data, data.data, data.len);
    return true;
}

void group_slot_clear(struct group_slot *s) {
    mem_free(s->data);
    *s = (struct group_slot){0};
}

void group_log_init(struct group_log *l, uint64_t first) { *l = (struct group_log){.first = first}; }

void group_log_fini(struct group_log *l) {
    group_log_restart(l, l->first);
    mem_free(l->slots), mem_free(l->flights);
    *l = (struct group_log){0};
}

static struct group_slot *slot_at(const struct group_log *l, size_t i) { return &l->slots[(l->slots_head + i) & (l->slots_cap - 1)]; }
static struct group_flight *flight_at(const struct group_log *l, size_t i) { return &l->flights[(l->flights_head + i) & (l->flights_cap - 1)]; }

/* A larger ring with the same elements from position 0 on; NULL: no memory. */
static void *ring_grow(const void *old, size_t old_cap, size_t head, size_t count, size_t cap, size_t size) {
    uint8_t *p = mem_alloc(cap * size);
    if (!p) return NULL;
    for (size_t i = 0; i < count; i++) memcpy(p + i * size, (const uint8_t *)old + ((head + i) & (old_cap - 1)) * size, size);
    return p;
}

bool group_log_reserve(struct group_log *l, size_t n) {
    if (l->count + n > l->slots_cap) {
        size_t cap = MAX_OF(l->slots_cap, (size_t)SLOTS_MIN);
        while (cap < l->count + n) cap *= 2;
        struct group_slot *p = ring_grow(l->slots, l->slots_cap, l->slots_head, l->count, cap, sizeof *p);
        if (!p) return false;
        mem_free(l->slots);
        l->slots = p, l->slots_cap = cap, l->slots_head = 0;
    }
    if (l->flights_count + 1 > l->flights_cap) {
        size_t cap = l->flights_cap ? l->flights_cap * 2 : FLIGHTS_MIN;
        struct group_flight *p = ring_grow(l->flights, l->flights_cap, l->flights_head, l->flights_count, cap, sizeof *p);
        if (!p) return false;
        mem_free(l->flights);
        l->flights = p, l->flights_cap = cap, l->flights_head = 0;
    }
    return true;
}

struct group_slot *group_log_at(const struct group_log *l, uint64_t index) {
    return index >= l->first && index - l->first < l->count ? slot_at(l, (size_t)(index - l->first)) : NULL;
}

void group_log_push(struct group_log *l, struct group_slot slot) {
    check(l->count < l->slots_cap);
    *slot_at(l, l->count++) = slot;
    l->bytes += sizeof slot + slot.len;
}

static void slot_drop(struct group_log *l, struct group_slot *s) {
    l->bytes -= sizeof *s + s->len;
    group_slot_clear(s);
}

void group_log_truncate(struct group_log *l, uint64_t index) {
    check(index >= l->first); /* what was released is committed, and is never superseded */
    while (group_log_next(l) > index) slot_drop(l, slot_at(l, --l->count));
}

void group_log_release(struct group_log *l, uint64_t index) {
    while (l->count > 0 && l->first <= index) {
        slot_drop(l, slot_at(l, 0));
        l->slots_head = (l->slots_head + 1) & (l->slots_cap - 1);
        l->first++, l->count--;
    }
}

void group_log_restart(struct group_log *l, uint64_t first) {
    while (l->count > 0) slot_drop(l, slot_at(l, --l->count));
    l->first = first;
    for (size_t i = 0; i < l->flights_count; i++) flight_at(l, i)->last = flight_at(l, i)->first - 1;
}

void group_log_launch(struct group_log *l, uint64_t first, uint64_t last) {
    check(l->flights_count < l->flights_cap);
    for (size_t i = 0; i < l->flights_count; i++) {
        struct group_flight *f = flight_at(l, i);
        if (f->last >= first) f->last = MAX_OF(first, f->first) - 1;
    }
    *flight_at(l, l->flights_count++) = (struct group_flight){++l->append_count, first, last};
}

uint64_t group_log_land(struct group_log *l, uint64_t append_count) {
    check(append_count <= l->append_count);
    uint64_t durable = 0;
    while (l->flights_count > 0 && flight_at(l, 0)->number <= append_count) {
        const struct group_flight *f = flight_at(l, 0);
        if (f->last >= f->first) durable = MAX_OF(durable, f->last);
        l->flights_head = (l->flights_head + 1) & (l->flights_cap - 1);
        l->flights_count--;
    }
    return durable;
}
