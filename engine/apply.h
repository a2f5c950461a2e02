/* The state machine: one log entry in, one atomic batch out, the same on every replica. Sees only (state, command): no clock, no chance, no
 * I/O but the store's. All decisions are made here. */
#ifndef ENGINE_APPLY_H
#define ENGINE_APPLY_H

#include "engine/command.h"
#include "engine/feed.h"
#include "engine/group.h"
#include "engine/store.h"

/* The partition record (keys.h, 'A'): written in the same batch as the data that it stands for. */
struct partition_record {
    uint64_t applied_index, applied_term;
    uint64_t log_time_us; /* never goes back */
    int64_t order_count;
    struct group_members members;
    uint16_t machines_known; /* ids up to here exist, for this partition; each above MACHINES_BUILT_IN has its row */
};
enum { PARTITION_RECORD_BYTES_MAX = 1 + 8 + 8 + 8 + 8 + 8 + 1 + 9 * GROUP_MEMBERS_MAX + 2 };
void partition_record_encode(const struct partition_record *r, struct writer *w);
enum status partition_record_decode(struct slice row, struct partition_record *out) MUST_USE;

/* The slot record (keys.h, 'S'): one per slot that ever took an order. */
struct slot_record {
    int64_t last_order_id, last_seq, order_count;
    struct feed_places places; /* of the events from feed_chunk_first(last_seq) on */
};
enum { SLOT_RECORD_BYTES_MAX = 1 + 8 + 8 + 8 + 10 * FEED_CHUNK };
void slot_record_encode(const struct slot_record *r, struct writer *w);
enum status slot_record_decode(struct slice row, struct slot_record *out) MUST_USE;

/* The idempotency record (keys.h, 'D'): what the first request was and what came of it; or a fence: nothing did, and nothing will. Starts with its
 * expiry, as store.h wants of rows that may be dropped. */
struct dedup_record {
    uint64_t expiry_us; /* log time; at or past it the record is as good as gone */
    struct hash128 fingerprint;
    int64_t order_id, version, seq, time_us;
    bool fence; /* nothing else but the expiry is set */
};
enum { DEDUP_RECORD_BYTES = 8 + 1 + 16 + 8 + 8 + 8 + 8 };
void dedup_record_encode(const struct dedup_record *r, struct writer *w);
enum status dedup_record_decode(struct slice row, struct dedup_record *out) MUST_USE;

/* Slot records that this partition has read or written lately, so that a commit need not look for them in the store: they are the hottest rows of all. Forgotten
 * (slot_cache_clear) whenever a batch was not applied. Owned by the partition. */
struct slot_cache {
    uint16_t first; /* slot */
    uint32_t count;
    struct slot_record *at; /* [count]; last_seq < 0: not known */
};
bool slot_cache_init(struct slot_cache *c, uint16_t first, uint32_t count) MUST_USE; /* false: no memory */
void slot_cache_clear(struct slot_cache *c);
void slot_cache_fini(struct slot_cache *c);

enum timer_refusal { TIMER_NOT_REFUSED, TIMER_STATUS_UNKNOWN, TIMER_TOO_FAR, TIMER_TOO_MANY, TIMER_TERMINAL };

/* What a command came to; the proposer turns it into an answer. Slices are copied into the outcome's arena. */
struct outcome {
    enum status status;
    bool replayed;      /* OK, by the idempotency record */
    bool applied;       /* fence: OK, the request wrote head.order_id's version head.version; else OK means that it is fenced now */
    bool already_there; /* import: OK, the client_order_no was known. STATUS_MISMATCH: the order is already at the target */
    uint16_t slot;
    int64_t seq;        /* of the commit (of the first one, when replayed) */
    struct order_head head;       /* OK: as the answer shows it (a replay: as it was then). Mismatch: as it is now */
    struct history_entry entry;   /* OK: this commit's */
    struct slice order;           /* OK: the order's wire bytes, FULL, where a create, transition or update has just made it so. Empty: from its rows */
    bool ambiguous;               /* STATUS_MISMATCH: more than one edge leads to the target from here: an event has to be named */
    struct slice winner_request_id; /* STATUS_MISMATCH: of the newest history entry */
    int64_t winner_time_us;
    int64_t first_order_id, first_time_us; /* IDEMPOTENCY_KEY_REUSED, CLIENT_ORDER_NO_TAKEN */
    struct slice machine_reference, event;  /* EDGE_NOT_DEFINED, FIELD_REQUIRED, MACHINE_NOT_FOUND */
    bool by_target;               /* EDGE_NOT_DEFINED: `event` is the to_status that was named */
    bool batch;                   /* of a batch: OK, then items are all its creates; or refused, by this item */
    unsigned item, item_count;
    struct outcome *items;
    int64_t order_id;             /* transition, update: as asked for, found or not */
    bool patch;                   /* LIMIT_EXCEEDED, INVARIANT_VIOLATED: by a transition's patch */
    enum timer_refusal timer;     /* LIMIT_EXCEEDED, FIELD_INVALID, STATUS_MISMATCH: by SetOrderTimer */
    struct slice timer_id;        /* TIMER_NOT_FOUND */
    unsigned fired;               /* of a command that fires timers: how many did */
    size_t bytes;                 /* LIMIT_EXCEEDED: what the order would take after the update */
    unsigned missing_count;       /* FIELD_REQUIRED: what `event` of the machine asks for and the order has not */
    const struct slice *missing;  /* [missing_count] names as the machine has them */
    unsigned expected_index;      /* FIELD_INVALID: which of expected_statuses no machine knows, */
    struct slice expected_name;   /* and its name */
    struct resource_outcome {     /* of a resource command */
        enum resource_effect { RESOURCE_NONE, RESOURCE_CREATED, RESOURCE_REPLACED, RESOURCE_UNCHANGED, RESOURCE_REMOVED } effect; /* OK */
        uint8_t kind;
        struct slice name;
        struct slice bytes;       /* OK: Resource as stored */
        uint64_t revision;        /* OK: of a row: how many changes it has seen */
        uint16_t machine;         /* its id */
        int32_t version, newest;  /* newest: that there was before */
        struct slice error;       /* FIELD_INVALID, LIMIT_EXCEEDED of a machine */
    } resource;
    struct group_outcome {        /* of a group command */
        uint32_t group_id;        /* COMMAND_GROUP: of the group that it made, changed or ended; ABSENT, ALREADY_THERE: 0 */
        uint64_t revision;        /* COMMAND_GROUP: of what is stored now */
        struct slice name, definition; /* COMMAND_GROUP: as stored; DELETE: as it was */
        uint64_t epoch;           /* COMMAND_GROUP_SEEK, a restart by COMMAND_GROUP_SNAPSHOT: as it is now. COMMAND_GROUP_SEEKING that begins: the seek's id */
        unsigned count;           /* COMMAND_GROUP_REDRIVE: letters that were there and were changed. SNAPSHOT: 1: the scan went on */
        bool more;                /* COMMAND_GROUP_SWEEP: rows are left. LETTERS: one took the place of an older letter of its event, as after a seek */
        uint16_t slot;            /* ACK_NOT_IN_FLIGHT: of what */
        int64_t seq;
    } group;
};

enum { OUTCOME_ORDER_BYTES_MAX = 4 << 10 }; /* a larger one is rare, and a batch has a thousand waiters in one arena */

/* What the scratch arena must hold for the largest command: an update or a patch, whose body is read, merged, written, and kept as it was (1 MiB each). Others: a body row written (1 MiB order + 4 KiB) and one read (the same, for the winner
 * of a first version), 1,000 decoded history entries of an import (160 B each), rows of the user list and small rows (below 256 KiB). */
enum { APPLY_SCRATCH_BYTES = 8 << 20 };

/* What an entry did to consumer groups that whoever is at work for them has to hear of, once the entry is in the store. */
enum group_effect_kind { GROUP_EFFECT_ROW, GROUP_EFFECT_LETTERS, GROUP_EFFECT_ACK }; /* its row changed; letters were redriven or purged; an event was acked by a transition */
struct group_effects {
    unsigned count;
    struct group_effect {
        enum group_effect_kind kind;
        uint16_t slot; /* ACK */
        uint32_t group_id;
        int64_t seq;
    } at[512]; /* one a command at most */
};

struct apply {
    struct store_view view; /* store + batch: read your writes */
    struct machines *machines; /* grows when a machine is applied; decisions see it up to record.machines_known */
    bool trial;                /* a dry run: the registry is not to grow */
    struct partition_record record;
    struct slot_cache *slots; /* NULL: none */
    struct list_cache *lists; /* NULL: none; forgotten like the slots */
    struct feed_writer *feed; /* NULL: no events are made (a dry run) */
    uint64_t index;           /* of the entry: the place of its events */
    struct feed_record kept;
    struct timers_record timers;
    bool timers_changed;
    int64_t timers_soonest_us; /* the earliest timer that was set. Begin with INT64_MAX */
    struct group_effects *effects; /* NULL: nobody wants to know */
    struct arena *scratch; /* reset by the caller between commands */
};

/* Applies one encoded command at log time a->record.log_time_us. `arena`: where the outcome's slices go; NULL: nobody waits, the outcome is not filled.
 * A return other than OK is a fault (IO_FAILED, CHECKSUM_MISMATCH, FORMAT_UNKNOWN; MEMORY_LIMIT: the heap is empty), never a refusal: the entry
 * was not applied, the batch is to be dropped. An answer that does not fit `arena` (it needs below 8 KiB) becomes DEADLINE_EXCEEDED, outcome
 * unknown: the write itself took place. */
enum status apply_command(struct apply *a, struct slice command, struct arena *arena, struct outcome *out) MUST_USE;
/* Before the commands of an entry: moves log time on (never back). After: puts the partition record for this index. */
/* The rows of orders that the next commands of an entry will ask for, of so many at a time. All are asked for together (store_expect), since one that lies in memory is a wait for it, and one
 * in files a look-up that costs less beside others. It decides nothing, and what it does not find is looked for as always. */
enum { APPLY_EXPECT_MAX = 16 };
void apply_expect(const struct store_view *view, const struct slice *commands, unsigned count, struct arena *scratch);
void apply_begin(struct apply *a, uint64_t log_time_us);
void apply_end(struct apply *a, uint64_t index, uint64_t term);
/* Before apply_end, of an entry with commands: its events join the batch, and the timers record. MEMORY_LIMIT. */
enum status apply_events(struct apply *a) MUST_USE;

/* The failure that a refused outcome stands for, as the caller reads it. */
void outcome_failure(const struct outcome *o, const struct machines *ms, struct failure *f);

#endif
