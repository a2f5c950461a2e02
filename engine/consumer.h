/* What a consumer group does in one partition, on the leader's core (docs/STREAM.md): the events that were looked at and are not settled, by slot and by key; who holds which,
 * until when; what is to be tried again. Private to the engine. No I/O: partition_group.c brings blocks of the stream and bytes of events, and takes
 * away what is to be written.
 *
 *   consumer_take_block --> entry in the window, at the end of its slot's and its key's list
 *        |                      key free, a member able: GIVEN at once, copied from the block
 *        |                      else WAITING, its bytes in the stash as long as that holds them
 *        '- filtered out, settled, before the start: nothing but `seen` moves
 *
 *   WAITING --(its turn)--> [READING: bytes are fetched] --> GIVEN --ack--> SETTLED --(nothing of its slot in front)--> free
 *      ^                                                      |
 *      '---------- nack, time-out, member gone ---------------'--(attempts used up)--> DYING --(letter written)--> SETTLED
 *
 * A key's list holds its entries that are not settled, in order: first those that are given out (at most key_window, all to one member), then the rest. Only the first of the
 * rest may be given out. A slot's list holds the entries in order of seq, SETTLED ones too while one in front of them is not: so the slot's position is what its first
 * entry says. A redriven letter is an entry of a key alone: its slot's position has settled it long ago. An order of a snapshot (ENTRY_TOLD) is in a list of its slot's own, by order id,
 * until it is settled; the events of orders that were not told yet are passed over.
 *
 * Memory: CONSUMER_WINDOW_EVENTS entries and keys, a stash, of all partitions of a node together; about 10 MiB for each group that is read (consumer_bytes). Everything is taken
 * when it opens: no event allocates. */
#ifndef ENGINE_CONSUMER_H
#define ENGINE_CONSUMER_H

#include "engine/consumer_op.h"
#include "engine/event.h"
#include "engine/feed.h"
#include "engine/filter.h"

enum {
    CONSUMER_WINDOW_EVENTS = 32768,        /* of a group, all partitions together */
    CONSUMER_WINDOW_MIN = 256, CONSUMER_WINDOW_MAX = CONSUMER_LISTED_MAX, /* of one */
    CONSUMER_STASH_BYTES = 4 << 20, CONSUMER_STASH_MIN = 64 << 10,        /* likewise */
    CONSUMER_BUCKETS = 1024,               /* of keys, for the choice of a member */
    CONSUMER_LETTERS_LOADED_MAX = 256,     /* redriven letters in the window */
    CONSUMER_PARKED_MAX = 16384,           /* keys with letters that park; a key beyond them is blocked instead */
    CONSUMER_CREDIT_CLAIM = 256,           /* taken from the session's credit at once */
};
#define CONSUMER_NONE UINT32_MAX

enum entry_state { ENTRY_FREE, ENTRY_WAITING, ENTRY_READING, ENTRY_GIVEN, ENTRY_DYING, ENTRY_SETTLED };
enum { ENTRY_UNSEEN = 1, ENTRY_LETTER = 2, ENTRY_BEHIND = 4, ENTRY_AWAY = 8, ENTRY_TOLD = 16, ENTRY_DEAD = 32 }; /* content is kept elsewhere, the filter has not seen it; a redriven letter; dies only because its key is parked; being read, or its letter written: in neither c->reading nor c->dying; an order of the snapshot; nacked as dead, and it is no letter: its key is blocked at it, or will be */

struct consumer_entry {
    int64_t seq;
    uint64_t index;                     /* place: entry of the log, block, number in it. TOLD: order id */
    uint64_t until_ns;                  /* GIVEN: the lease's end */
    uint64_t commit_us;                 /* of a letter that was acked: its key's hash. TOLD: the order's version */
    uint64_t stash;                     /* where its bytes were put, and one; 0: nowhere */
    char *error;                        /* DYING: of the nack that did it; NULL: none */
    uint32_t number, key, attempts;
    uint32_t key_prev, key_next, slot_next, order_prev, order_next, list_prev, list_next, hash_next; /* order_: of the stream, in c->order; TOLD: in its slot's */
    uint16_t block, slot, member;
    uint8_t state, flags;
};

enum key_state {
    KEY_IDLE,    /* nothing to give out: all is given, or key_window is, or its next entry is READING, or one in front of it DYING */
    KEY_READY,   /* its next entry wants a member; in c->ready, or, some being with a member already, in that member's list */
    KEY_DELAYED, /* until due_ns */
    KEY_BLOCKED, /* for good: BLOCK */
};
struct consumer_key {
    uint64_t hash, due_ns;
    uint32_t first, last, next, in_flight; /* next: the first that is not given out */
    uint32_t list_prev, list_next, hash_next, heap_at;
    uint16_t member;                       /* in_flight: who has them */
    uint8_t state;
    bool pinned;                           /* READY: in the list of that member */
    bool backs_off;                        /* DELAYED: by the group's backoff, not by a nack's own delay */
};

struct consumer_list { uint32_t first, last; };

struct consumer_slot {
    int64_t seen;                       /* last seq looked at */
    int64_t known_through;              /* of the position that it began with */
    int64_t told_through;               /* of the position that was proposed last */
    const struct consumer_unsettled *known, *known_end; /* listed there, from the next one on */
    uint32_t first, last;               /* entries */
    uint32_t letters;                   /* rows 'Q' */
    struct consumer_list told;          /* entries: orders of the snapshot that are not settled, by id */
    uint32_t told_stored, told_sent;    /* as many are listed in its stored position; in the one that is under way */
    uint16_t next_dirty;
    bool dirty, wanted;                 /* its position has changed; its letters are to be looked through */
};

/* A session of the group, here. */
struct consumer_member {
    struct consumer_session *session;
    struct list able;                   /* in c->able while it can take an event */
    struct op *poll;                    /* waiting, or being filled; NULL */
    int64_t claimed;                    /* credit */
    uint32_t events;                    /* in the poll's answer */
    uint32_t given_first, given_last;   /* entries, by until_ns */
    uint32_t ready_first, ready_last;   /* keys of its own that are ready */
    uint32_t holds;
    uint16_t id;
    bool full;                          /* the answer is */
};

/* Keys that dead letters hold up. */
struct consumer_parked {
    uint64_t hash;
    uint32_t dead, rest; /* letters that park it; others of it (waiting, redriven). Both 0: free */
};

struct consumer {
    uint32_t group_id;
    uint64_t epoch, start_place, start_us, revision;
    struct consumer_definition definition; /* borrows from definition_bytes */
    uint8_t *definition_bytes;
    struct arena filter_arena;
    const struct filter *filter;           /* NULL: everything */
    uint16_t first_slot;
    uint32_t slot_count, window, key_mask, entry_mask;
    struct consumer_slot *slots;
    struct consumer_entry *entries;
    struct consumer_key *keys;
    uint32_t *entry_table, *key_table;     /* heads of chains */
    uint32_t free_entry, free_key, free_entries;
    uint32_t *heap;                        /* keys by due_ns */
    uint32_t heap_count;
    struct consumer_list ready;            /* keys */
    struct consumer_list reading, dying;   /* entries that want their bytes: to be given out; to be written as letters */
    struct consumer_list order;            /* entries of the stream that are not settled, by place */
    uint32_t unsettled;                    /* how many these are */
    uint16_t dirty_first, dirty_last;      /* slots; UINT16_MAX: none */
    uint32_t dirty_count;
    uint8_t *stash;
    uint64_t stash_at, stash_bytes;
    struct consumer_parked *parked;        /* NULL until there are */
    uint32_t parked_count;
    uint32_t letters_loaded;
    bool snapshot;                         /* the epoch begins with one: */
    struct consumer_scan scan;             /* as it is stored */
    uint32_t told_stored;                  /* of all slots */
    uint32_t reserved;                     /* entries that are kept for orders which are about to be told */
    struct consumer_member **members;      /* [members_cap]; holes */
    uint32_t members_cap, member_count;
    uint16_t buckets[CONSUMER_BUCKETS];    /* member, by the key's hash; UINT16_MAX: there is none */
    struct list able;
    struct feed_position at;               /* of the stream: the next event to look at */
    uint64_t seen_us;                      /* log time of what was looked at last */
    uint32_t in_flight, blocked;
    uint64_t given_events, acked_events, redelivered, dead; /* counters */
    struct consumer_list acked;            /* letters that were acked, SETTLED: their rows are to go */
    uint32_t reading_count;                /* READING, on c->reading or away */
    size_t error_bytes;
};

/* ---- consumer.c: definition, members, what they settle */

struct consumer_config {
    uint32_t partition_count;
    uint16_t first_slot, last_slot;
};
size_t consumer_bytes(const struct consumer_config *config); /* that it takes */
/* MEMORY_LIMIT, FILTER_INVALID (a filter that this version refuses). */
enum status consumer_init(struct consumer *c, const struct consumer_config *config, const struct consumer_group_row *row) MUST_USE;
void consumer_fini(struct consumer *c);
/* The row as it is now, of the same epoch, and no other filter or key (consumer_definition_restarts). MEMORY_LIMIT. */
enum status consumer_redefine(struct consumer *c, const struct consumer_group_row *row, uint64_t now_ns) MUST_USE;
struct consumer_slot *consumer_slot(struct consumer *c, uint16_t slot); /* NULL: not of this partition */

/* NULL: no memory. */
struct consumer_member *consumer_join(struct consumer *c, struct consumer_session *s);
/* What it holds goes back; no attempt is counted. Its poll is the caller's business. */
void consumer_leave(struct consumer *c, struct consumer_member *m);
struct consumer_member *consumer_member_of(struct consumer *c, const struct consumer_session *s);
void consumer_poll(struct consumer *c, struct consumer_member *m, struct op *op);
/* The poll that is waiting or being filled, with what it has; NULL. */
struct op *consumer_poll_end(struct consumer *c, struct consumer_member *m);
/* Credit may have come. */
void consumer_wake(struct consumer *c, struct consumer_member *m);

/* Somebody can take an event, and the window has room for one. */
bool consumer_hungry(const struct consumer *c);
/* Events of a block, from c->at on, until it is used up (true) or nobody can take more; at most `events_max` are looked at. Faults: the block is damaged. */
enum status consumer_take_block(struct consumer *c, uint64_t index, uint16_t block, struct slice row, uint64_t now_ns, unsigned events_max, bool *used_up) MUST_USE;
/* Keys that are ready, as far as members can take them: given out from the stash, or put on c->reading. */
void consumer_give_ready(struct consumer *c, uint64_t now_ns);
/* Delays and leases that are over. true: there is something to give out. */
bool consumer_tick(struct consumer *c, uint64_t now_ns);
uint64_t consumer_oldest(const struct consumer *c, uint64_t *commit_us); /* place of the oldest that is not settled; that of the next to look at: there is none, commit_us 0 */

/* Of one event. false: stale. */
bool consumer_settle(struct consumer *c, struct consumer_member *m, const struct consumer_settle *s, uint64_t now_ns);
/* Acked by a transition's commit, whoever has it. */
void consumer_acked(struct consumer *c, uint16_t slot, int64_t seq);
/* NULL, or the entry that is GIVEN. */
const struct consumer_entry *consumer_held(const struct consumer *c, uint16_t slot, int64_t seq);

/* ---- consumer_told.c: orders of a snapshot */

struct consumer_order { /* to be given out: told, and stored so */
    uint16_t slot;
    uint32_t attempts;
    int64_t order_id, version, seq;
    uint64_t key;
    struct consumer_bytes { /* an event, FULL, and where its parts end */
        struct slice framed;
        uint32_t base, brief;
    } bytes;                /* framed.data NULL: to be read, and the filter asked again */
};
/* What the ordering key of an event comes to. */
uint64_t consumer_key_hash(enum consumer_ordering ordering, struct slice user_id, int64_t order_id, uint16_t slot, int64_t seq);
/* In ascending order of ids within a slot. false: the window is full. */
bool consumer_tell(struct consumer *c, const struct consumer_order *o, uint64_t now_ns);
/* There are orders that were not told, or not settled. */
static inline bool consumer_snapshot_open(const struct consumer *c) { return c->snapshot && (!consumer_scan_over(&c->scan) || c->told_stored); }
/* The position that was told last is stored: as many orders are listed in it. */
void consumer_told_is_stored(struct consumer *c, uint16_t slot);

/* ---- what is read and written elsewhere, and comes back. An item names its entry by slot and seq: it may have gone meanwhile. */

struct consumer_wanted {
    uint32_t entry;
    uint16_t slot, block;
    int64_t seq, version; /* version: of an order of the snapshot, whose id is `index` */
    uint64_t index;
    uint32_t number;
    uint8_t flags;
    /* what came of it */
    struct consumer_bytes bytes;
    enum status status; /* ABSENT: the filter does not want it (UNSEEN), or the letter has gone */
};
/* From the front of a list (c->reading, c->dying), which they leave. */
unsigned consumer_want(struct consumer *c, struct consumer_list *list, struct consumer_wanted *out, unsigned max);
/* READING: given out now, or waits for its turn again. */
void consumer_read(struct consumer *c, const struct consumer_wanted *w, uint64_t now_ns);
/* A DYING one's letter is to be written: its state, and whether its key is parked by it. false: it is not dying any more. */
bool consumer_letter_of(struct consumer *c, const struct consumer_wanted *w, struct consumer_letter *l);
void consumer_died(struct consumer *c, const struct consumer_wanted *w, const struct consumer_letter *l); /* it was written */
void consumer_die_again(struct consumer *c, const struct consumer_wanted *w);  /* it was not: back onto c->dying */

/* ---- keys that are blocked, each at one event */

struct consumer_blocked {
    struct consumer_wanted at;
    uint32_t attempts;
    struct slice error; /* the consumer's, until its next call */
};
/* From key number *next on, which moves behind it; false: no more. */
bool consumer_next_blocked(const struct consumer *c, uint32_t *next, struct consumer_blocked *out);
/* The key goes on: with another try of the event, attempts counted anew (until a crash), or, skip, without it, as if it were acked. false: it is not blocked at this event (any more). */
bool consumer_unblock(struct consumer *c, const struct consumer_letter_ref *at, bool letter, bool skip);

/* A letter to be given out again. false: the window is full. */
bool consumer_add_letter(struct consumer *c, uint16_t slot, int64_t seq, uint64_t key, uint32_t attempts);
/* Acked letters, up to max: their rows are to go. They stay in the window until they have, so that nobody adds them again. */
unsigned consumer_acked_letters(struct consumer *c, struct consumer_letter_ref *out, unsigned max);
/* One of this event is out with a member, or was acked and its row is to go: of a letter that is written now, that would be the row. */
bool consumer_letter_goes(const struct consumer *c, uint16_t slot, int64_t seq);
void consumer_letter_gone(struct consumer *c, uint16_t slot, int64_t seq); /* its row has gone */
void consumer_letter_stays(struct consumer *c, uint16_t slot, int64_t seq); /* it has not: again */
/* Letters that hold a key up: so many more, or fewer. false: no room. */
bool consumer_park(struct consumer *c, uint64_t key, int dead, int rest);
const struct consumer_parked *consumer_parked(const struct consumer *c, uint64_t key); /* NULL: it is not */
void consumer_unpark_all(struct consumer *c);

/* The slot's position as it is now, into the arena. */
enum status consumer_position_now(struct consumer *c, uint16_t slot, struct arena *arena, struct consumer_position *out) MUST_USE;
uint16_t consumer_next_dirty(struct consumer *c); /* taken off; UINT16_MAX: none */
void consumer_mark_dirty(struct consumer *c, uint16_t slot);

#endif
