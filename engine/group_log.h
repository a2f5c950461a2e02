/* Private to group.c: the port's own copies of a group's entries, and which of them are durable. libraft keeps neither. */
#ifndef ENGINE_GROUP_LOG_H
#define ENGINE_GROUP_LOG_H

#include "engine/group.h"

struct group_slot {
    uint64_t term;
    uint8_t *data; /* ours (mem_alloc), NULL when len is 0 */
    uint32_t len;
    uint8_t type;
};
/* One append effect that was handed out and is not known to be durable. last < first: all of it was superseded. */
struct group_flight {
    uint64_t number, first, last;
};
struct group_log {
    /* private: two rings, capacities are powers of two */
    struct group_slot *slots;
    size_t slots_cap, slots_head, count;
    uint64_t first; /* index of the first entry held; first + count is the next to append */
    size_t bytes;
    struct group_flight *flights;
    size_t flights_cap, flights_head, flights_count;
    uint64_t append_count;
};

void group_log_init(struct group_log *l, uint64_t first);
void group_log_fini(struct group_log *l);
/* Room for n more entries and one more append: what follows cannot fail then. false: no memory, unchanged. */
bool group_log_reserve(struct group_log *l, size_t n) MUST_USE;
static inline uint64_t group_log_next(const struct group_log *l) { return l->first + l->count; }
struct group_slot *group_log_at(const struct group_log *l, uint64_t index); /* NULL: not held */
void group_log_push(struct group_log *l, struct group_slot slot);          /* takes over slot.data */
void group_log_truncate(struct group_log *l, uint64_t index);              /* drops index and all behind it */
void group_log_release(struct group_log *l, uint64_t index);               /* drops up to index */
void group_log_restart(struct group_log *l, uint64_t first);               /* drops all; nothing in flight counts any more */

/* The entries [first, last] were just handed out to be appended; what is in flight at or behind `first` is superseded. */
void group_log_launch(struct group_log *l, uint64_t first, uint64_t last);
/* The first `append_count` appends are durable. Returns the highest index that this proves to be durable as it stands in the log; 0: none. */
uint64_t group_log_land(struct group_log *l, uint64_t append_count);

bool group_slot_set(struct group_slot *s, uint64_t term, uint8_t type, struct slice data) MUST_USE; /* a copy of data; false: no memory */
void group_slot_clear(struct group_slot *s);

#endif
