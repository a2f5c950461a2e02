/* Shared by the files of consumer alone. */
#ifndef ENGINE_CONSUMER_LOCAL_H
#define ENGINE_CONSUMER_LOCAL_H

#include "engine/consumer.h"
#include "engine/engine.h"

/* ---- consumer_window.c: entries, keys, slots, the stash */

static inline struct consumer_entry *entry_at(const struct consumer *c, uint32_t i) { return i == CONSUMER_NONE ? NULL : &c->entries[i]; }
static inline uint32_t entry_index(const struct consumer *c, const struct consumer_entry *e) { return (uint32_t)(e - c->entries); }
static inline struct consumer_key *key_at(const struct consumer *c, uint32_t i) { return i == CONSUMER_NONE ? NULL : &c->keys[i]; }
static inline uint32_t key_index(const struct consumer *c, const struct consumer_key *k) { return (uint32_t)(k - c->keys); }
static inline struct consumer_key *entry_key(const struct consumer *c, const struct consumer_entry *e) { return &c->keys[e->key]; }

struct consumer_entry *window_find(const struct consumer *c, uint16_t slot, int64_t seq);
struct consumer_entry *window_find_given(const struct consumer *c, uint16_t slot, int64_t seq);
struct consumer_wanted window_wanted(const struct consumer *c, const struct consumer_entry *e); /* what it takes to read its bytes */
void window_error_free(struct consumer *c, struct consumer_entry *e);
struct consumer_entry *window_find_letter(const struct consumer *c, uint16_t slot, int64_t seq);
/* NULL: none is free. In no list yet but the table. */
struct consumer_entry *window_new(struct consumer *c, uint16_t slot, int64_t seq);
void window_free(struct consumer *c, struct consumer_entry *e); /* out of every list already, but the table */
struct consumer_key *window_key(struct consumer *c, uint64_t hash); /* found or made: there are as many as entries */
void window_key_append(struct consumer *c, struct consumer_key *k, struct consumer_entry *e);
/* A letter's place: behind what is given out and the letters of smaller rank, in front of all else. */
void window_key_insert_letter(struct consumer *c, struct consumer_key *k, struct consumer_entry *e);
void window_key_remove(struct consumer *c, struct consumer_entry *e);
void window_slot_append(struct consumer *c, struct consumer_entry *e);
void window_slot_advance(struct consumer *c, uint16_t slot); /* SETTLED ones in front leave */
void window_order_append(struct consumer *c, struct consumer_entry *e);
void window_order_remove(struct consumer *c, struct consumer_entry *e);
void window_list_push(struct consumer *c, struct consumer_list *l, struct consumer_entry *e);
void window_list_remove(struct consumer *c, struct consumer_list *l, struct consumer_entry *e);
/* What a key waits for has changed: into the list that it belongs to; free when it has no entries. */
void window_key_update(struct consumer *c, struct consumer_key *k);
void window_key_unlist(struct consumer *c, struct consumer_key *k); /* READY -> IDLE */
void window_key_delay(struct consumer *c, struct consumer_key *k, uint64_t due_ns, bool backs_off);
void window_key_hasten(struct consumer *c, struct consumer_key *k, uint64_t due_ns); /* DELAYED: no longer than that */
void window_key_undelay(struct consumer *c, struct consumer_key *k);
struct consumer_key *window_due(struct consumer *c, uint64_t now_ns); /* NULL: none is */

void stash_put(struct consumer *c, struct consumer_entry *e, const struct consumer_bytes *b);
bool stash_get(const struct consumer *c, const struct consumer_entry *e, struct consumer_bytes *b);

/* ---- consumer_give.c */
struct consumer_member *give_choose(struct consumer *c, const struct consumer_key *k);
/* The key's next entry, to a member that is able. false: nobody is. */
bool give(struct consumer *c, struct consumer_key *k, struct consumer_entry *e, const struct consumer_bytes *b, uint64_t now_ns);
/* An entry is new to its key: given out at once, or it waits, its bytes (NULL: to be read) in the stash; or its attempts are used up. */
void give_new(struct consumer *c, struct consumer_key *k, struct consumer_entry *e, const struct consumer_bytes *b, uint64_t now_ns);
void give_able(struct consumer *c, struct consumer_member *m); /* it is looked at again */

/* ---- consumer_told.c */
void told_remove(struct consumer *c, struct consumer_entry *e);
/* The slot's orders that are not settled, into its position. */
enum status told_position(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out) MUST_USE;

/* ---- consumer.c */
/* Takes back what is given out of a key, from this entry on. */
void consumer_take_back(struct consumer *c, struct consumer_entry *e);
/* Of a key that is parked: everything that is not given out is to become a letter too. */
void consumer_hold_back(struct consumer *c, struct consumer_key *k);
/* The attempts of an entry that is not given out are used up. error: its own from now on. */
/* It is not given out any more, but when somebody says so. */
static inline bool consumer_used_up(const struct consumer *c, const struct consumer_entry *e) { return e->attempts >= c->definition.max_attempts || e->flags & ENTRY_DEAD; }
void consumer_exhausted(struct consumer *c, struct consumer_entry *e, struct slice error);
void consumer_settled(struct consumer *c, struct consumer_entry *e);

#endif
