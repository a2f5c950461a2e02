/* One partition of an engine: its group, its store, the ops that wait for them. Private to the engine (engine.c is the door); all calls on its core.
 *
 *   op -> waiting -> [stage: one entry of all that waits] -> proposed -> [log synced, committed] -> [apply] -> finished
 *
 * Invariants: proposed ops stand in log order; record.applied_index <= group_applicable; flushed.applied_index <= record.applied_index;
 * everything after flushed.applied_index is in the log. */
#ifndef ENGINE_PARTITION_H
#define ENGINE_PARTITION_H

#include "engine/backlog.h"
#include "engine/engine.h"
#include "engine/group.h"
#include "engine/index.h"
#include "engine/list_cache.h"
#include "engine/brake.h"
#include "engine/pace.h"
#include "engine/votes.h"

enum {
    ENTRY_COMMANDS_MAX = 512,          /* commands in one entry */
    ENTRY_BYTES_MAX = 2 << 20,         /* and their bytes; one command (1 MiB and its head) always fits */
    APPLY_SLICE_NS = 250000,           /* apply this long, then let the loop look at its ring: a log write may have come back and want its sync */
    HOUSEKEEPING_NS = 20000000,        /* pressure, disk space, flushes are looked at this often */
    RETRY_DELAY_MS = 100,              /* told to who is refused for overload */
    RETRY_DELAY_DISK_MS = 1000,
    RETRY_DELAY_BEHIND_MS = 500,       /* a run or a compaction takes a second or some */
    PACED_BYTES_LEAST = 32 << 10,      /* what a partition that is paced may have in its queue, however slow it is */
    TRAILING_LEAST = 64,               /* however large they are: a follower that is merely under way needs no snapshot */
    TRAILING_ENTRIES = 1024,           /* engine_config.trailing_entries: 0 */
    ENTRY_RESTART = 0x10,              /* a record of the log, beside group.h's types: the group's log begins anew behind this index (partition_fetch.c) */
};

#define OUTBOX_BYTES_MAX ((size_t)32 << 20) /* frames that wait for votes to be durable; more are lost, as on a network */
#define YIELD_AGAIN_NS (5 * NS_PER_S) /* from a full disk to others */
#define PARTITION_META_GROUP ((uint64_t)PARTITION_META + 1)

/* A failed store is tried again after this, then twice as much, and so on. */
#define REOPEN_PAUSE_NS (1 * NS_PER_S)
#define REOPEN_PAUSE_NS_MAX (5 * NS_PER_S)

enum partition_state {
    PARTITION_OPENING,   /* the group does not lead yet, or what the log held is not applied */
    PARTITION_READY,
    PARTITION_FAILED,    /* the store takes no writes (full disk): reads go on, reopened when there is room */
};

/* Reads that wait for a round, and the round (partition_present.c). */
struct present_asked {
    uint64_t node_id, round; /* the asker's */
};
struct present {
    struct list unconfirmed;         /* for the next round */
    struct list confirming;          /* for the one under way */
    struct list confirmed;           /* for op->index to be applied */
    uint64_t round, index, begun_ns, said_ns; /* the one under way, 0: none; what was committed when it began (a leader's) */
    uint64_t heard[GROUP_MEMBERS_MAX]; /* who has answered */
    struct present_asked asked[GROUP_MEMBERS_MAX], due[GROUP_MEMBERS_MAX]; /* other replicas: for the next round, for the one under way */
    unsigned heard_count, asked_count, due_count;
    uint64_t as_of_ns, as_of_index;  /* what is applied up to here is all that was acknowledged before then; 0: not known */
};

struct partition {
    struct engine *engine;
    uint32_t id;
    char name[12];                   /* for logs: the id, or "meta" */
    uint64_t group_id;               /* id + 1: libraft and votes know no group 0 */
    uint64_t memtable_share;         /* what its store may take */
    enum partition_state state;
    struct group *group;
    struct store *store;
    struct store_batch *batch;
    struct partition_record record;  /* applied */
    struct slot_cache slots;         /* as applied */
    struct partition_record flushed; /* durable in the store */
    uint64_t next_stage;             /* index of the next entry to hand to the log */
    bool updates;                    /* the entry applied last changes contents: what stands in the store may be newer than what an op wrote */
    bool staged;                     /* entries are in the log's batch being gathered */
    uint64_t syncing;                /* group_append_count at the start of the sync that runs; 0: none */
    struct list waiting, proposed;
    uint64_t log_bytes_unflushed;    /* command bytes applied since the flush that `flushed` tells of began */
    struct env_job flush_job;
    enum status flush_status;
    struct partition_record flush_record;
    uint64_t flush_log_bytes, flush_begin_ns;
    bool flushing;
    uint64_t drain_index;            /* applied when the drain began */
    bool damaged;                    /* PARTITION_FAILED for good: a table does not match its checksum */
    struct store_damage damage;      /* and where, if that is known */
    uint64_t shown_index;            /* callers were told of what was applied up to here: no read tells less */
    bool proving;                    /* PARTITION_FAILED, open again: the flush that runs decides */
    uint64_t reopen_at_ns, reopen_pause_ns; /* PARTITION_FAILED */
    uint32_t reads_away;             /* on reader threads */
    uint64_t released;               /* entries up to here are no longer in memory */
    unsigned offers;                 /* of the lead, to others */
    uint64_t offered_ns;             /* when the last one was */
    struct list held;                /* reads that wait for the store to be reopened */
    struct present present;          /* reads, with several voters */
    struct snapshot_source *source;  /* NULL: nobody fetches a snapshot from here */
    struct snapshot_fetch *fetch;    /* NULL: we fetch none */
    uint64_t fetch_not_before_ns;
    struct returning *returning;     /* NULL: it votes (partition_return.c) */
    struct engine_wanted wanted;     /* engine_want */
    struct away *away;               /* NULL: it is no replica that was emptied (partition_away.c) */
    uint64_t away_nonce, away_ask_ns;
    struct env_job sweep_job;
    bool sweeping;                   /* the job is away */
    uint64_t members_look_ns;        /* the next look at the members (partition_members.c) */
    uint64_t silent_node;            /* a member that is not wanted, and says nothing; 0: none */
    unsigned silent_looks;
    bool flush_wanted;               /* a replica needs what the log has let go */
    /* the change stream (partition_feed.c) */
    struct feed_writer feed;
    struct feed_tail tail;
    struct feed_record kept, flushed_kept, flush_kept; /* as applied, flushed, at the start of the flush that runs */
    struct list feed_waiters;        /* OP_FEED_READs at the end of the stream */
    struct retention *retention;
    /* timers (partition_timers.c) */
    struct timers_record timers;     /* as applied */
    struct firing *firing;
    struct index_record index;       /* how far older orders are indexed (partition_index.c) */
    bool index_failed;
    struct filter_piece *filter;     /* idempotency keys that are still to be read (partition_filter.c); NULL: none */
    struct list dispatchers;         /* of consumer groups (partition_group.c) */
    struct group_sweep *sweep;
    bool sweep_due;
    uint8_t pressure;
    struct brake brake;
    uint64_t queue_bytes;            /* command bytes of its writes, waiting or under way */
    uint64_t writes, reads, table_bytes, table_readers_bytes, merge_bytes_max, memtable_bytes, compaction_debt_bytes, level0_files;
    struct store_stats cache;        /* for its cache_* and filter_* */
    uint64_t rates_at_ns, rates_writes, rates_reads;
    double writes_per_second, reads_per_second;
};

struct engine {
    struct env *env;
    struct engine_config config;
    struct wal *wal;
    struct votes *votes;
    struct partition *partitions;    /* [held_count]: those of the map that are owned, then meta */
    uint32_t held_count;
    struct partition *meta;          /* NULL: another engine's */
    struct partition **by_id;        /* of all partitions of the map; NULL: another engine's */
    struct list finished;            /* ops whose done() is due */
    struct list outbox;              /* frames that wait for votes (partition_role.c) */
    struct present_frames *present_frames; /* that gather in a turn (partition_present.c) */
    uint64_t rounds;                 /* the newest one's number */
    size_t outbox_bytes;
    unsigned sources;                /* partitions that have one */
    uint64_t fetch_due_ns;           /* when the rate allows the next chunk that is fetched, of any partition */
    struct list_cache *lists;        /* NULL: none */
    struct arena scratch;            /* apply's */
    struct group_effects effects;    /* of the entry that is applied */
    uint64_t queue_writes, queue_reads, queue_feeds, queue_sessions, queue_bytes;
    struct backlog writes, disk_reads; /* what they wait for: the log and apply; a reader thread */
    uint64_t reads_away;             /* on reader threads, of all partitions */
    uint32_t apply_first;            /* partition that applies first in the next turn: the slice may not last for all */
    uint64_t log_begun_ns, log_ns;   /* the batch that is under way; what the last one took */
    uint64_t now_ns, next_housekeeping_ns, last_log_time_us;
    bool draining, disk_full;
    bool closed;                     /* engine_queue.closed */
    bool log_full;                   /* writes are refused until a flush has returned; its last segment is a restart's */
    bool yields;                     /* it hands its leads to others */
    uint64_t yield_until_ns;
    bool log_blocked;                /* the log took no more: looked at again by housekeeping, not by spinning */
    struct partition *firing;        /* whose timers are under way to the log; NULL: none */
    uint32_t fired_last;             /* whose were before: its place among the partitions */
    struct pace pace;                /* of them, beside callers */
    struct replay *replay;           /* while the log is opened */
    struct engine_stats stats;
    struct wal_stats wal_stats;
};

enum status partition_open(struct partition *p, struct engine *e, uint32_t id, char error[256]) MUST_USE;
/* The group, from what the log held behind the store's state. */
enum status partition_start(struct partition *p, const struct group_entry *entries, size_t n, char error[256]) MUST_USE;
void partition_close(struct partition *p);

void partition_read(struct partition *p, struct op *op);
/* Refusal for a write now, or OK. */
enum status partition_admit(struct partition *p, struct op *op);
void partition_stage(struct partition *p);              /* waiting ops into one entry, new entries into the log's batch */
bool partition_has_to_stage(const struct partition *p);
uint64_t partition_room_ns(const struct partition *p);  /* while it is paced: when the next of what waits may go */
void partition_log_committed(struct partition *p);      /* the batch with what was staged is under way */
void partition_synced(struct partition *p);
void partition_apply(struct partition *p, uint64_t until_ns); /* what is committed, a slice of time at most */
void partition_housekeeping(struct partition *p);
void partition_flush(struct partition *p);              /* starts one, unless one runs or nothing is new */
uint64_t partition_log_unflushed(const struct partition *p); /* bytes of log that neither a flush has covered nor one under way will */
bool partition_flushed(const struct partition *p);      /* all that is applied */
bool partition_drain_flushes(const struct partition *p); /* this engine drains, and that has not been flushed yet which makes a short start of the next */
struct partition_stats partition_get_stats(const struct partition *p);

/* A read of the change stream: it may wait for long, and is no sign of a full queue. */
static inline bool op_is_feed(const struct op *op) { return op->kind == OP_FEED_SEEK || op->kind == OP_FEED_READ; }

/* partition_feed.c: the change stream of a partition. */
enum status partition_feed_open(struct partition *p) MUST_USE;  /* once */
enum status partition_feed_load(struct partition *p) MUST_USE;  /* whenever the store was opened */
void partition_feed_close(struct partition *p);                 /* waiting reads are answered, DRAINING */
void partition_feed_free(struct partition *p);                  /* when its command, if one was under way, is home */
/* One try of an OP_FEED_*: on the owning core (cached_only), or on a reader thread over a snapshot. */
enum status partition_feed_run(struct partition *p, struct op *op, const struct store_view *view) MUST_USE;
bool partition_feed_waits(struct partition *p, struct op *op);  /* it came to nothing, and waits for more: kept by the partition */
void partition_feed_applied(struct partition *p);               /* entries were applied: who waits is looked at again */
void partition_feed_housekeeping(struct partition *p);          /* waits that are over; retention */
void partition_feed_flushed(struct partition *p);               /* what retention let go may leave the disk */
enum status partition_slot_load(const struct store_view *view, struct arena *arena, uint16_t slot, struct slot_record *out) MUST_USE;
bool partition_feed_busy(const struct partition *p);            /* a job of retention is away, or its command */

/* partition_timers.c: timers that are due are proposed. */
enum status partition_filter_load(struct partition *p, bool empty) MUST_USE; /* right behind the open of the store. empty: there was none */
void partition_filter_unload(struct partition *p);               /* before it is closed */
void partition_filter_housekeeping(struct partition *p);
enum status partition_timers_open(struct partition *p) MUST_USE; /* once */
enum status partition_timers_load(struct partition *p) MUST_USE; /* whenever the store was opened */
void partition_timers_unload(struct partition *p);               /* before it is closed */
void partition_timers_free(struct partition *p);                 /* at last: its op has come home */
void partition_timers_tick(struct partition *p);                 /* looks, or proposes, if it is time to; any number of times */
void partition_timers_turn(struct engine *e);                    /* the next partition that has some proposes */
const struct store_ahead *partition_timers_rows(const struct partition *p); /* for apply's view */
void partition_timers_applied(struct partition *p, const struct apply *a);
uint64_t partition_timers_lag_us(const struct partition *p);     /* how long the oldest timer that has not fired has been due; where the partition is not led 0. TIMERS_LAG_UNKNOWN: some are pending, and nobody has looked yet */

/* partition_index.c: orders of a store that is older than the indexes. */
enum status partition_index_load(struct partition *p) MUST_USE; /* whenever the store was opened */
void partition_index_housekeeping(struct partition *p);

/* partition_group*.c: consumer groups (docs/STREAM.md) */
enum status partition_group_open(struct partition *p) MUST_USE; /* once */
void partition_group_close(struct partition *p, enum status st, const char *why); /* every member is told; jobs and writes that are away come home later */
void partition_group_free(struct partition *p);
void partition_group_op(struct partition *p, struct op *op);      /* ATTACH, DETACH, POLL, SETTLE, WAKE */
enum status partition_group_query(struct partition *p, struct op *op, const struct store_view *view) MUST_USE; /* LAG, LETTERS, POSITIONS, GROUPS: on a reader thread */
void partition_group_live(struct partition *p, struct op *op);    /* a LAG: what is in memory alone */
void partition_group_unblock(struct partition *p, struct op *op); /* UNBLOCK */
void partition_group_ack(struct partition *p, struct op *op);     /* a write, before it waits for the log */
void partition_group_applied(struct partition *p, const struct group_effects *effects); /* an entry, in the store */
void partition_group_run(struct partition *p);
bool partition_group_has_work(const struct partition *p);
void partition_group_housekeeping(struct partition *p);
bool partition_group_busy(const struct partition *p);             /* a job is away, or a write of its own */
/* Ops of a session: they wait as long as they like, and look like no queue. */
static inline bool op_is_session(const struct op *op) { return op->kind >= OP_GROUP_ATTACH && op->kind <= OP_GROUP_WAKE; }

/* What the files of a partition share: partition.c's, */
enum status partition_store_load(struct partition *p, char error[256]) MUST_USE;
void partition_store_unload(struct partition *p);
enum status partition_record_read(struct store *store, struct arena *arena, struct partition_record *out) MUST_USE; /* ABSENT */
uint32_t partition_trailing(const struct partition *p); /* entries kept behind the applied one, for other replicas, if they are not too large */
void partition_unpin(struct partition *p);              /* its entries pin the oldest segment of a log that is half full */
bool partition_reopen_due(const struct partition *p);
enum status partition_command_fits(struct op *op) MUST_USE;                        /* into an entry */
/* partition_answer.c's: of a write that was decided, or tried; counts what it did, */
enum status partition_answer_build(struct partition *p, struct op *op) MUST_USE;
/* and partition_read.c's. */
void partition_read_again(struct partition *p, struct op *op);
void partition_reads_resume(struct partition *p);
/* engine.c's, for partition.c */
void engine_finish(struct engine *e, struct op *op);
/* A write of the engine's own, behind what waits; not OK: it was not taken, and done() does not come. */
enum status engine_submit_own(struct engine *e, struct partition *p, struct op *op) MUST_USE;
uint64_t engine_now_ms(const struct engine *e);
struct partition *engine_partition_of_group(struct engine *e, uint64_t group_id); /* NULL: not here */

/* partition_role.c: one of several replicas. */
extern const struct group_ops partition_group_ops;
void engine_outbox_run(struct engine *e);                /* sends what waited for votes, if they are durable */
void engine_outbox_free(struct engine *e);
enum status partition_not_leading(struct partition *p, struct failure *f);
bool partition_leads_others(const struct partition *p);  /* leads, and is not the only voter */
bool partition_leads_knowing(const struct partition *p); /* it leads, and has applied all that leaders before it had committed; also while its store takes no writes */
void partition_yield(struct partition *p);
void partition_yield_full(struct partition *p); /* if the disk is full */
bool partition_settled(const struct partition *p);       /* ready, or following a leader, or none of ours */
bool partition_elsewhere(const struct partition *p);     /* others are wanted to hold it, and this node is not */
bool partition_shows(const struct partition *p);         /* to any_replica, though it does not lead */
bool partition_votes(const struct partition *p);         /* this node is a voter of it, by the members that were applied here */
void partition_refuse(struct partition *p, struct list *ops, enum status st, const char *why);
/* To a CHECKSUM_MISMATCH, what an operator asks first; other failures stay as they are. */
void partition_tell_damage(const struct partition *p, const struct store_damage *d, struct failure *f);

/* partition_present.c: reads with several voters. */
bool engine_present_open(struct engine *e);              /* false: no memory */
void engine_present_close(struct engine *e);
enum status engine_present_receive(struct engine *e, uint64_t from_node_id, struct slice frame) MUST_USE;
void engine_present_tick(struct engine *e);              /* runs what is confirmed and applied; begins rounds */
void partition_present_open(struct partition *p);
bool partition_read_waits(struct partition *p, struct op *op); /* true: it was taken, or refused */
void partition_read_behind(struct partition *p, struct op *op); /* what its token tells of is not applied here */
void partition_present_refuse(struct partition *p, enum status st, const char *why);
void partition_present_housekeeping(struct partition *p); /* who waits too long */
uint64_t partition_present_deadline_ns(const struct partition *p);

/* partition_lead.c: who leads on purpose, and how far the others are. */
enum status partition_transfer(struct partition *p, uint64_t node_id, struct failure *f);
void partition_replicas(const struct partition *p, struct partition_stats *out);

void partition_members_look(struct partition *p);        /* partition_members.c: the next step towards those that are wanted, if it is time to look */

/* partition_source.c, partition_fetch.c: snapshots to and from other replicas. All of it is nothing where there is neither a source nor a fetch. */
enum status partition_receive(struct partition *p, uint64_t from_node_id, struct slice frame) MUST_USE;
uint32_t partition_chunk_bytes(const struct engine *e);
uint64_t partition_source_hold(const struct partition *p); /* entries behind this index are kept; UINT64_MAX: none for that */
void partition_source_tick(struct partition *p);
void partition_source_close(struct partition *p);
void partition_fetch_offered(struct partition *p, uint64_t node_id, uint64_t index);
void partition_fetch_voided(struct partition *p, uint64_t index);
bool partition_fetch_has_to_stage(const struct partition *p);
enum status partition_fetch_stage(struct partition *p) MUST_USE;
void partition_fetch_log_committed(struct partition *p);
void partition_fetch_synced(struct partition *p);
void partition_fetch_tick(struct partition *p);
bool partition_fetch_busy(const struct partition *p);      /* a job is away */
uint64_t partition_fetch_deadline_ns(const struct partition *p);
void partition_fetch_close(struct partition *p);
/* partition_return.c: a replica that remembers no votes. */
#define VOTE_MAY_NOT UINT64_MAX /* in the votes file in place of a vote: it returns, and has not its place yet */
#define VOTE_AGREED (UINT64_MAX - 1) /* likewise: of a new group, of which it has lost nothing */
bool partition_return_due(const struct partition *p, bool has_vote, uint64_t voted_for);
enum status partition_return_begin(struct partition *p, bool has_vote, uint64_t voted_for) MUST_USE;
bool partition_return_deaf(const struct partition *p, unsigned kind); /* to frames of that kind (peer.h) */
void partition_return_tick(struct partition *p);
uint64_t partition_return_deadline_ns(const struct partition *p);
void partition_return_close(struct partition *p);
/* partition_away.c: a partition that this node holds no more. */
void partition_away_look(struct partition *p);           /* asks whether it is so, if it seems so */
struct peer_message;
void partition_away_told(struct partition *p, const struct peer_message *m); /* it is */
bool partition_away_wipes(const struct partition *p);    /* nothing that it has counts any more */
bool partition_away_deaf(const struct partition *p, unsigned kind); /* to frames of that kind (peer.h) */
uint64_t partition_away_vote(struct partition *p, uint64_t voted_for); /* what the votes file gets instead */
/* Of one that is away: the log's turns while it wipes, */
bool partition_away_has_to_stage(const struct partition *p);
enum status partition_away_stage(struct partition *p) MUST_USE;
void partition_away_log_committed(struct partition *p);
void partition_away_synced(struct partition *p);
/* time, instead of the group's, */
void partition_away_tick(struct partition *p);
uint64_t partition_away_deadline_ns(const struct partition *p);
void partition_away_close(struct partition *p);
/* and starts: before the store is opened; before the group is, with what the log holds: the vote that it has given. */
enum status partition_away_found(struct partition *p, char error[256]) MUST_USE;
uint64_t partition_away_start(struct partition *p, uint64_t term, uint64_t last_index);
struct group_members partition_away_members(void);       /* that an empty one knows: a vote that nobody has */
enum status partition_fetch_recover(struct partition *p, uint64_t restart_index, char error[256]) MUST_USE;

#endif
