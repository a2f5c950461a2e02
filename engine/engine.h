/* The engine of one core: its log, its groups, its partitions. A library without sockets, clock or threads (env.h). The server runs one per
 * core; the simulator runs as many as it likes in one thread.
 *
 * A unit of work is a struct op. Its memory is the caller's, from engine_submit until done(op), which runs on the engine's core, from
 * engine_tick or a completion, never from inside engine_submit. Everything that an op points at lives as long as the op. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "engine/apply.h"
#include "engine/consumer_op.h"
#include "engine/env.h"
#include "engine/group.h"
#include "engine/index.h"
#include "engine/list_cache.h"
#include "engine/query.h"
#include "engine/resource.h"
#include "engine/wal.h"
#include "proto/base/list.h"

enum op_kind { OP_WRITE, OP_VALIDATE, OP_GET, OP_GET_MANY, OP_LIST, OP_HISTORY, OP_STATS, OP_RESOURCES, OP_FEED_SEEK, OP_FEED_READ, OP_CENSUS, OP_INDEX_CHECK,
               OP_GROUP_ATTACH, OP_GROUP_DETACH, OP_GROUP_POLL, OP_GROUP_SETTLE, OP_GROUP_WAKE, OP_GROUP_LAG, OP_GROUP_LETTERS, OP_GROUP_POSITIONS, OP_GROUPS, OP_GROUP_UNBLOCK, /* OP_GROUP*: consumer_op.h */
               OP_TRANSFER, OP_NODES, OP_KINDS };

/* The meta partition (resource.h): its op.slot, its id in logs and store_open. It is one of an engine's partitions in everything but that it owns no slots and is
 * not among those of the map. */
enum { SLOT_META = 0xffff };
#define PARTITION_META UINT32_MAX

/* Where a reader of changes begins. The slots are those of op.slot's partition; with a user_id, op.slot alone, which is the user's. */
enum feed_from { FEED_CURSOR, FEED_EARLIEST, FEED_TIME, FEED_LATEST };
struct feed_seek {
    enum feed_from from;
    uint64_t time_us;          /* FEED_TIME: events committed then or later, exactly, by slot */
    bool one_slot;
    bool loose;                /* FEED_EARLIEST: behind may be 0 for a slot whose first commits are of before there were events, which spares a look at each slot */
    /* By slot, [SLOT_COUNT], the caller's. In (FEED_CURSOR): the seq that is behind the reader; below 0: nothing, it begins at the earliest event kept. Out: the same for every
     * slot in question, 0 and above. */
    int64_t *behind;
    struct feed_position at;   /* out */
};

struct replica_stats {
    uint64_t node_id;
    uint8_t kind;    /* enum group_member_kind */
    uint64_t stored; /* entries up to here, as the leader knows; of this node: applied. 0: not known here */
};
struct partition_stats {
    uint32_t partition;
    uint16_t first_slot, last_slot;
    uint64_t applied_index, commit_index, flushed_index, term;
    uint64_t leader_node; /* 0: not known */
    bool leader, ready, read_only;
    uint16_t machines_known;
    uint64_t orders, writes, reads, table_bytes, table_readers_bytes, memtable_bytes, compaction_debt_bytes, level0_files;
    uint8_t pressure; /* as the store says it (store.h) */
    double writes_per_second, reads_per_second; /* over the last second */
    uint32_t replica_count;
    struct replica_stats replicas[GROUP_MEMBERS_MAX];
};

/* How old a read's answer may be (GetOrder's ReadOptions). Nothing set: it shows all that was acknowledged before the read came, and the leader answers. Else any replica does that can, and
 * refuses with NOT_LEADER if it does not get to know in time: ask the leader then, which always can. */
struct read_bound {
    bool stale;               /* it shows at least what was acknowledged stale_ns before it came */
    bool token;               /* it shows the commit `seq` of `slot`, a slot that it reads; FIELD_INVALID: there is no such commit */
    uint64_t stale_ns;        /* READ_STALE_NS_MAX at most */
    uint16_t slot;
    int64_t seq;
};
#define READ_STALE_NS_MAX (UINT64_MAX / 2)

struct op {
    struct list link; /* whoever holds the op may use it */
    enum op_kind kind;
    uint16_t slot;            /* decides the partition; SLOT_META */
    bool any_replica;         /* of a read of the store: a follower answers too, and a leader without waiting, from what is applied here. It may be behind */
    struct read_bound bound;  /* of GET, GET_MANY, LIST, HISTORY */
    uint64_t deadline_ns;     /* monotonic; 0: none. Past it, work that has not begun is dropped: DEADLINE_EXCEEDED */
    uint64_t patience_ns;     /* of one that another node may have to be asked for: how long an answer is waited for, within the deadline; 0: until that. The engine does not look at it */
    struct arena *arena;      /* the request's: results go here */
    void (*done)(struct op *op);
    void *owner;              /* the caller's */
    uint64_t submitted_ns;    /* set by engine_submit: queue time is the overload signal */
    union { /* what to do */
        struct {
            struct slice command;    /* OP_WRITE, OP_VALIDATE: encoded (command.h) */
            size_t answer_bytes_max; /* 0: any. An order that takes more is answered without items, address and extension; then by its head alone; then without timers */
        };
        struct get_request get;
        struct { const int64_t *order_ids; unsigned count; bool full; } get_many; /* all of the slot's partition */
        struct list_request list;
        struct history_request history;
        struct resources_request resources; /* to SLOT_META */
        struct census_request *census; /* of the slot's partition; the answer is in it. Always on a reader thread */
        struct index_check *index_check; /* a piece of the slot's partition; the answer is in it. On a reader thread, as a census */
        struct feed_seek seek;   /* OP_FEED_SEEK */
        struct {                 /* OP_FEED_READ. Its arena is reset whenever it waits: nothing else lies there. OK without events: nothing that is wanted was there until wait_until_ns, or among what was looked at (feed.at says how far) */
            struct feed_request feed;
            uint64_t wait_until_ns;      /* monotonic; 0: answer at once. Rounded up to housekeeping's 20 ms */
            uint64_t last_index;         /* private */
            struct feed_record kept;     /* private */
        };
        struct consumer_request consumer;    /* OP_GROUP_ATTACH, _DETACH, _POLL, _SETTLE, _WAKE */
        struct consumer_lag lag;             /* OP_GROUP_LAG */
        struct consumer_letters letters;     /* OP_GROUP_LETTERS, _UNBLOCK */
        struct consumer_positions positions; /* OP_GROUP_POSITIONS */
        struct consumer_groups groups;       /* OP_GROUPS */
        uint64_t to_node_id;                 /* OP_TRANSFER: who is to lead. OK: it has been asked to, or leads already; whether it does is seen by OP_STATS */
    };
    /* what came of it */
    uint64_t asked_node;      /* by whoever carries it: the node that was asked for it last; 0: none but this one. The engine does not look at it */
    bool maybe;               /* refused, and yet it is in a log, and may still take place. The caller clears it */
    struct failure failure;   /* .status STATUS_OK, or the refusal */
    struct outcome outcome;   /* OP_WRITE. OP_VALIDATE: what it would be if it were written now; a new order has the order_id 0 */
    struct partition_stats stats; /* OP_STATS: of the slot's partition */
    struct slice *orders;     /* OK. OP_GET_MANY: see query_get_many. OP_WRITE of a batch: as answer, for each of its creates */
    struct slice answer;      /* OK. OP_GET: Order. OP_LIST, OP_HISTORY, OP_RESOURCES: the response. OP_NODES, of SLOT_META: node_row.h's list. OP_WRITE, OP_VALIDATE: the Order as the answer
                               * shows it, FULL; of a resource command the Resource, of SetOrderTimer the Timer. OP_FEED_READ: repeated `events` (1). Wire bytes */
    uint64_t index;           /* private */
    bool shown, confirmed, behind; /* private: of a read: it may run here; after a round; its token's commit is not here */
    uint64_t give_up_ns;      /* private: of a read that waits for a round */
    bool own;                 /* private: a write of the engine's, for which no caller waits */
    uint64_t group_last_index;     /* private: of an OP_GROUP* that reads */
    struct feed_record group_kept; /* private */
    uint64_t group_orders;         /* private: orders of the partition */
    struct consumer_looked_at group_looked_at; /* private: of a lag */
    const struct consumer_blocked *group_blocked; /* private: of letters */
    unsigned group_blocked_count;  /* private */
};

struct engine_config {
    uint32_t core;                 /* for logs */
    uint64_t node_id;
    const struct group_members *members; /* of partitions that are made new; NULL: this node alone; none: no partition is, what is not there is ABSENT. The others know theirs */
    /* A frame to another node, which gives it to its engine_receive; may be lost. From engine_tick, engine_receive and completions; must not call the engine. May be NULL with one member. */
    void (*send)(void *ctx, uint64_t group_id, uint64_t node_id, struct slice frame);
    void *send_ctx;
    uint32_t partition_count;      /* of the cluster's map */
    const uint32_t *partitions;    /* those that this engine owns */
    uint32_t owned_count;
    bool meta;                     /* it owns the meta partition too */
    struct machines *machines;     /* the process's registry: shared, grows */
    uint8_t token_key[32];
    uint64_t log_live_bytes_max;   /* 256 MiB / cores */
    uint32_t log_segment_bytes;
    uint64_t memtable_bytes;       /* of all partitions of this engine together, without META_MEMTABLE_BYTES */
    uint64_t row_cache_bytes;      /* rows of orders kept in memory beside the stores, of all partitions of this engine together; 0: none */
    uint64_t filter_bytes;         /* idempotency keys known in memory, likewise; 0: none */
    bool filter_proved;            /* for simulators: each look-up that this saves is made all the same (store.h) */
    uint32_t queue_ops_max;        /* writes waiting or under way, and reads likewise: more answer OVERLOADED */
    uint64_t queue_target_ns;      /* how long a write, or a read from disk, is to wait at most: beyond it the queue is made shorter (backlog.h). 0: queue_ops_max alone */
    uint64_t queue_bytes_max;      /* command bytes of the writes */
    uint64_t list_cache_bytes;     /* newest rows of users' lists in memory; 0: none */
    bool lists_proved;             /* for simulators: query.h */
    uint64_t feed_tail_bytes;      /* newest change events in memory, of all partitions of this engine together */
    uint64_t feed_retention_us;    /* older events are let go; 0: never by age */
    uint64_t feed_bytes_max;       /* of the events' tables, all partitions of this engine together; 0: any */
    uint32_t snapshot_orders_max;  /* read and told at once to a group that begins with a snapshot; 0: 1,024 */
    uint64_t disk_reserve_bytes;   /* below this much free disk, writes answer DISK_FULL */
    /* Opens the partition's store: RocksDB in the server, in memory in the simulator. */
    enum status (*store_open)(void *ctx, uint32_t partition, uint64_t memtable_bytes, struct store **out, char error[256]);
    /* Removes what it has opened, closed again by now: the next store_open makes an empty one. Idempotent, for a crash in between. NULL: what is held no more stays. */
    enum status (*store_drop)(void *ctx, uint32_t partition, char error[256]);
    /* Frees what store_drop has put aside, which may take its time: on a job, any thread, never beside a store_drop of that partition; at open too, for a crash in between. NULL: it puts nothing aside. */
    void (*store_sweep)(void *ctx, uint32_t partition);
    void *store_ctx;
    uint32_t election_ms, heartbeat_ms;
    uint32_t trailing_entries;     /* kept in memory behind the applied one, for replicas that lag: who is further behind gets a snapshot; 0: 1,024 */
    uint32_t snapshot_chunk_bytes; /* of a snapshot between replicas, asked for one by one; the same on all nodes; 0: 256 KiB */
    uint64_t snapshot_bytes_per_s; /* that this engine fetches, all partitions together; 0: 32 MiB */
};

enum { META_MEMTABLE_BYTES = 2 << 20 };

struct engine;
/* Opens votes, log and partitions and replays nothing yet: replay is the normal apply once the groups lead (engine_ready). */
enum status engine_open(struct engine **out, struct env *env, const struct engine_config *config, char error[256]) MUST_USE;
/* Refusals (overload, not leader, disk full) come through done() too, at the next tick. */
void engine_submit(struct engine *e, struct op *op);
/* Who answers for the slot's partition, as this replica knows it. here: this engine, now; node: who leads, 0: not known. */
struct engine_lead {
    bool here;
    bool member;   /* this node holds it: it votes there, by what it has applied */
    uint64_t node;
};
struct engine_lead engine_lead_of(const struct engine *e, uint16_t slot);
/* Whose majority it takes for the slot's partition to be led, as this replica knows it. Returns how many; 0: not known. */
unsigned engine_voters_of(const struct engine *e, uint16_t slot, uint64_t node_ids[GROUP_MEMBERS_MAX]);
/* A frame that node `from` sent to this one, of the group that send named (0: of several). Malformed, or of a group that is not here: FIELD_INVALID, nothing changed. Call engine_tick soon. */
enum status engine_receive(struct engine *e, uint64_t group_id, uint64_t from_node_id, struct slice frame) MUST_USE;
/* Runs what is due: batches, commits, applies, flushes, timers. Call once a loop cycle, after the cycle's submits. */
void engine_tick(struct engine *e);
uint64_t engine_deadline_ns(const struct engine *e); /* call engine_tick at the latest then; UINT64_MAX: nothing waits */
bool engine_ready(const struct engine *e);           /* every owned group leads, and has applied what the log held; or follows a leader */
/* Leads nothing any more that another replica can lead: each partition's lead is handed to the one that has most of its log, and again if it comes back. What waits here is answered NOT_LEADER
 * then. engine_drained waits for it, for so long at most. Before engine_drain, while work still comes; with one voter nothing happens. */
void engine_yield(struct engine *e, uint64_t patience_ns);
/* The rows of nodes (node_row.h) as this engine's replica of the meta partition has them, read at once: for the start, before anything else runs. */
enum status engine_read_nodes(struct engine *e, struct arena *arena, struct slice *list) MUST_USE;
bool engine_stats_of(const struct engine *e, uint16_t slot, struct partition_stats *out); /* false: it is another engine's */
enum { TRANSFER_LAG_MAX = 1024 };
/* The lead of the slot's partition to that node: one that votes and holds what this leader has, but for TRANSFER_LAG_MAX entries. OK: it has been asked; the partition takes nothing until it
 * leads, or an election timeout has passed. NOT_LEADER: we do not lead; FIELD_INVALID: it has no vote; OVERLOADED: it is too far behind, or a transfer or change of members is under way. */
enum status engine_transfer(struct engine *e, uint16_t slot, uint64_t node_id) MUST_USE;
/* The nodes that are to be the members of a partition (PARTITION_META: the meta partition), this one or not: who leads it changes its members step by step until they are
 * (partition_members.c). None: they stay. Of a partition that is not here: nothing. */
struct engine_wanted {
    uint32_t count;
    uint64_t node_id[GROUP_MEMBERS_MAX];
};
void engine_want(struct engine *e, uint32_t partition, const struct engine_wanted *wanted);
/* Stops taking writes (DRAINING) and flushes all stores; engine_drained when nothing is in flight and all is flushed. Where others lead, what was applied when it began is; nothing that comes
 * from there is stored any more. */
void engine_drain(struct engine *e);
bool engine_drained(const struct engine *e);
/* What keeps it from being drained, for people: "a flush, partition 3"; empty: nothing does. */
enum { ENGINE_WAITS_BYTES = 80 };
void engine_drain_waits(const struct engine *e, char text[ENGINE_WAITS_BYTES]);
/* Frees everything; ops still inside are answered DRAINING first. Not flushing is fine: the log has it. */
void engine_close(struct engine *e);

/* How writes wait: figures of backlog.h. For the door, before anything is decoded. */
struct engine_queue {
    uint64_t limit;    /* writes that may be inside, so that each waits for about the target */
    uint64_t delay_ns; /* how long they wait now */
    uint64_t served_per_s; /* the most of the last seconds */
    bool closed;           /* no write is taken: every partition leads here and is behind with its tables, or they do and the log is full of what no flush has covered */
};
struct engine_queue engine_write_queue(const struct engine *e);

#define TIMERS_LAG_UNKNOWN UINT64_MAX /* behind a start or a change of leader, until a partition's timers have been looked at */
struct engine_stats {
    uint64_t timers_pending, timers_fired, timers_lag_us; /* lag: of the one that has been due for longest, in the partitions that are led here */
    uint64_t ops_done, ops_refused, creates, transitions, imports, reads, replays, entries, commands, queue_ops, queue_bytes, reads_offloaded, flushes;
    uint64_t apply_ns, flush_ns_last;
    uint64_t frames_lost, followers_behind; /* frames that the outbox had no room for; times that a replica was offered a snapshot */
    uint64_t rounds, reads_followed; /* by which reads were confirmed; reads answered here without the lead, after asking it */
    uint64_t snapshots_given, snapshots_taken, snapshot_bytes; /* made for others; installed here; fetched */
    struct list_cache_stats lists;
    struct { uint64_t orders, rows, defects, passes, passed_s; } index_check; /* looked at, found; partitions that were gone through, and when one last was */
    uint64_t filter_asked, filter_absent, filter_keys; /* idempotency keys looked up, of them known to be new without a look at tables; kept */
    uint64_t row_cache_hits, row_cache_misses, row_cache_evictions, row_cache_rows, row_cache_bytes;
    uint64_t write_delay_ns, write_limit, read_delay_ns, read_limit, refused_overload, refused_late;
    struct wal_stats *wal; /* borrowed until the next call */
};
void engine_get_stats(struct engine *e, struct engine_stats *out);
/* Of those in the map. */
uint32_t engine_partition_stats(struct engine *e, struct partition_stats *out, uint32_t max);

#endif
