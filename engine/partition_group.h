/* The consumer groups that are read in a partition: each has a dispatcher, which brings the window (consumer.h) what it needs of the stream and writes down what was settled.
 * Private to partition_group*.c.
 *
 *   LOADING --(rows read)--> RUNNING --(no members for DISPATCHER_IDLE_NS, everything written)------------.
 *      '------------------------+------(seek, redefinition, removal, lead lost, overtaken by retention)--> CLOSING --(job and writes home)--> gone
 *
 * At most one job of a dispatcher is away: what a job reads into is the dispatcher's. Writes are ops like any other: positions, letters, letters that were acked; one of each kind. */
#ifndef ENGINE_PARTITION_GROUP_H
#define ENGINE_PARTITION_GROUP_H

#include "engine/consumer.h"
#include "engine/keys.h"
#include "engine/partition.h"

enum {
    DISPATCH_EVENTS_MAX = 2048,        /* looked at in one turn */
    DISPATCH_BLOCKS_BYTES = 256 << 10, /* of the stream, read at once behind the tail */
    DISPATCH_WANTED_MAX = 64, DISPATCH_WANTED_BYTES = 1 << 20, /* events read again at once */
    SETTLE_SLOTS_MAX = 2048, SETTLE_LISTED_MAX = 8192, SETTLE_GAP_MAX = 4096,
    SETTLE_SLOTS_TURN = 256,           /* of one command, where nothing waits for all: at some 2 us each, apply holds the core up for half a millisecond */
    LETTERS_BYTES_MAX = 1 << 20,
    EVICTED_MAX = 64,
    SNAPSHOT_ORDERS_MAX = 1024,        /* told at once; a quarter of the window at most */
    SNAPSHOT_SLOTS_MAX = 256, SNAPSHOT_LOOKED_AT_MAX = 8192, SNAPSHOT_BYTES = 256 << 10,
};
#define DISPATCH_SLICE_NS 250000ull
#define SETTLE_PAUSE_NS (200 * NS_PER_MS)
#define SETTLE_PAUSE_NS_MAX (700 * NS_PER_MS)
#define DISPATCHER_TICK_NS (1 * NS_PER_S)   /* of an idle stream, for `complete_to` */
#define DISPATCHER_IDLE_NS (10 * NS_PER_S)
#define RETRY_PAUSE_NS (100 * NS_PER_MS)    /* after a refused write or a failed job */

enum dispatcher_state { DISPATCHER_LOADING, DISPATCHER_RUNNING, DISPATCHER_CLOSING };
enum dispatcher_job { JOB_LOAD, JOB_BLOCKS, JOB_EVENTS, JOB_LETTERS, JOB_ORDERS };

struct dispatcher_block {
    uint64_t index;
    uint16_t block;
    struct slice row;
};
struct dispatcher_letter { /* a letter to be given out again */
    uint16_t slot;
    int64_t seq;
    uint64_t key;
    uint32_t attempts;
};
struct dispatcher_write {
    struct op op;
    struct arena arena;
    bool away;
    uint64_t retry_ns;
};

/* Orders on their way from the store to the window: read as they were behind one entry of the log; when the stream has come to there, stored as told (COMMAND_GROUP_SNAPSHOT);
 * then the stream goes on. */
struct dispatcher_orders {
    bool some;                       /* there are; the stream goes up to `place` and not further */
    struct arena arena;
    enum consumer_ordering ordering; /* the group's, for the job */
    struct consumer_scan from, to;
    uint64_t place, looked_at;       /* looked_at: orders between from and to */
    unsigned max, count, slot_count;
    struct consumer_order *orders;   /* [count], by slot and id: those that the filter wants */
    struct told_slot {               /* slots that have any */
        uint16_t slot;
        int64_t last_seq;            /* at the place */
    } *slots;
};

struct dispatcher {
    struct list link; /* partition.dispatchers */
    struct partition *partition;
    uint32_t group_id;
    enum dispatcher_state state;
    bool open;        /* consumer is */
    bool stale;       /* what is being loaded has changed meanwhile: again */
    bool held;        /* it is not to be freed just now */
    bool parked_known; /* which keys wait behind letters: until then nothing goes out */
    bool busy;        /* its turn ended with work left */
    uint64_t seen_index; /* of the entry applied last when it last had a turn */
    struct consumer consumer;
    struct list attaching; /* ops */
    uint64_t idle_ns, load_retry_ns;
    /* why it can't run */
    char message[768], missing[600];
    unsigned missing_slots;
    struct evicted {
        uint64_t session_id;
        enum status status;
    } evicted[EVICTED_MAX]; /* a ring: what to tell them */
    uint32_t evicted_next;
    /* the job */
    struct env_job job;
    enum dispatcher_job kind;
    bool away;
    uint64_t job_retry_ns;
    struct store_snapshot *snapshot;
    uint64_t last_index;
    struct feed_record kept;
    enum status job_status;
    /* LOAD: what it found */
    struct arena known; /* positions; the consumer borrows */
    struct consumer_group_row row;
    struct consumer_progress progress;
    struct consumer_position *positions; /* [slot_count] */
    struct consumer_order *told;         /* those that the positions list; without bytes */
    unsigned told_count;
    uint64_t start_index;
    /* BLOCKS: of the stream, not looked at yet. The job's while it is away: dispatcher_has_blocks() */
    struct arena blocks_arena;
    struct dispatcher_block *blocks;
    unsigned block_count, block_next;
    struct feed_position blocks_at;
    uint64_t blocks_end;                 /* there is nothing in front of this index behind the last block; 0: there may be */
    /* EVENTS: wanted again */
    struct arena events_arena;
    struct consumer_wanted wanted[DISPATCH_WANTED_MAX];
    unsigned wanted_count;
    bool wanted_die;                     /* they are to become letters */
    /* LETTERS */
    struct arena letters_arena;
    bool letters_full, letters_due;      /* look through all of them; or from the cursor on */
    bool letters_effect;                 /* an operator has changed them since the job began */
    struct consumer_letter_ref letters_from;
    bool letters_whole;                  /* the job: of a full look */
    const uint16_t *letter_slots;
    unsigned letter_slot_count;
    struct dispatcher_letter *letters;
    unsigned letter_count, letters_max;
    struct consumer_letter_ref letters_to;
    bool letters_more;
    struct consumer_parked *parked;
    unsigned parked_count;
    uint64_t redrive_ns;                 /* up to when letters were let through, at redrive_milli */
    uint32_t redrive_milli;
    /* ORDERS */
    struct dispatcher_orders orders;
    /* writes */
    struct dispatcher_write settle, letter, acked, telling; /* never settle and telling at once: each says what a slot's position lists */
    uint16_t *settling;                  /* slots, [SETTLE_SLOTS_MAX] */
    unsigned settling_count, settle_left; /* left: so many slots more are written without a pause */
    uint64_t settle_ns, settling_us, settled_us; /* when it was last proposed; what that says; what is written */
    struct consumer_letter dying[DISPATCH_WANTED_MAX];
    struct consumer_wanted died[DISPATCH_WANTED_MAX];
    unsigned dying_count;
    struct consumer_letter_ref acked_refs[CONSUMER_LETTERS_LOADED_MAX];
    unsigned acked_count;
};

/* partition_group.c */
void dispatcher_reload(struct dispatcher *d);                               /* its members are to attach again */
void dispatcher_run(struct dispatcher *d);
void dispatcher_end(struct dispatcher *d, enum status st, const char *why); /* CLOSING: whoever waits is told */
void dispatcher_put(struct dispatcher *d);                                  /* CLOSING and nothing away: it goes */
void dispatcher_loaded(struct dispatcher *d);
struct consumer_config dispatcher_config(const struct partition *p);

struct dispatcher *dispatcher_running(const struct partition *p, uint32_t group_id); /* NULL: none is at work */

/* partition_group_load.c: what jobs read, on their thread */
void dispatcher_job_run(struct env_job *job);
enum status dispatcher_event_read(const struct feed_read *f, uint32_t group_id, struct consumer_wanted *x) MUST_USE; /* one event, without asking the filter */

/* partition_group_io.c */
void dispatcher_begin(struct dispatcher *d, enum dispatcher_job kind);
bool dispatcher_jobs(struct dispatcher *d);      /* begins the next job, if one is due. true: one is away */
bool dispatcher_has_blocks(const struct dispatcher *d); /* read, and not looked at yet */
void dispatcher_blocks_end(struct dispatcher *d); /* with none left: on to what lies behind them */
void dispatcher_writes(struct dispatcher *d);    /* what is due */
bool dispatcher_settle_now(struct dispatcher *d); /* positions, now. false: they are on their way already */
bool dispatcher_writing(const struct dispatcher *d);
bool dispatcher_submit(struct dispatcher *d, struct dispatcher_write *w, const struct command *c, void (*done)(struct op *op)); /* false: not now */

/* partition_group_snapshot.c */
bool dispatcher_orders_begin(struct dispatcher *d);  /* reads the next orders, if some are due. true: a job is away */
void dispatcher_orders_home(struct dispatcher *d);
void dispatcher_orders_write(struct dispatcher *d);  /* if the stream has come to them */
/* On the job's thread. */
enum status dispatcher_orders_read(const struct feed_read *f, struct dispatcher *d) MUST_USE;
enum status dispatcher_told_read(const struct feed_read *f, struct consumer_wanted *x) MUST_USE;                        /* one of them again, as it was told */
enum status dispatcher_told_load(const struct feed_read *f, struct dispatcher *d, enum consumer_ordering ordering) MUST_USE; /* d->told */

#endif
