/* What the log carries: a batch of commands per entry, each with everything that apply needs. Encoded once, on the core that took the
 * request; decoded in place by apply on every replica.
 *
 *   entry   = format(1) log_time_us(8 be) count(varint) { command as counted bytes }*
 *   command = type(1) fields as counted bytes and varints, in the order of the structs below
 * Golden bytes in tests/golden/; the decoder is fuzzed and never reads outside its slice. */
#ifndef ENGINE_COMMAND_H
#define ENGINE_COMMAND_H

#include "engine/order.h"
#include "engine/timers.h"

/* COMMAND_PATCH is a transition that changes content too. A type of its own: plain transitions stay the bytes that they always were, and a version that
 * knows no patches says FORMAT_UNKNOWN instead of guessing. */
enum command_type {
    COMMAND_CREATE = 1,
    COMMAND_TRANSITION = 2,
    COMMAND_IMPORT = 3,
    COMMAND_FENCE = 4,
    COMMAND_BATCH = 5,
    COMMAND_UPDATE = 6,
    COMMAND_RESOURCE = 7,
    COMMAND_MACHINE = 8,
    COMMAND_PATCH = 9,
    COMMAND_SET_TIMER = 10,
    COMMAND_CANCEL_TIMER = 11,
    COMMAND_FIRE = 12,
    COMMAND_IMPORT_UNTOLD = 13, /* an import that the change stream is not told of; else as COMMAND_IMPORT */
    COMMAND_RETAIN = 16,
    /* consumer groups (docs/STREAM.md) */
    COMMAND_GROUP = 17,         /* to the meta partition */
    COMMAND_GROUP_BRING = 18,   /* to every other */
    COMMAND_GROUP_SETTLE = 19,
    COMMAND_GROUP_LETTERS = 20,
    COMMAND_GROUP_REDRIVE = 21,
    COMMAND_GROUP_SEEK = 22,
    COMMAND_GROUP_SWEEP = 23,
    COMMAND_ACKED = 24,         /* on the wire alone: a transition or patch with an ack */
    COMMAND_GROUP_SNAPSHOT = 25,
    COMMAND_GROUP_SEEKING = 26, /* to the meta partition */
    COMMAND_GROUP_SEEK_YIELD = 27, /* as COMMAND_GROUP_SEEK, and letters yield to their events (CONSUMER_YIELD) */
    COMMAND_NODE = 32,          /* to the meta partition */
};
enum { COMMAND_STATUSES_MAX = 64, COMMAND_BATCH_MAX = 1000, COMMAND_FIRE_MAX = 256, GROUP_REFS_MAX = 1000, ENTRY_FORMAT = 1 };

/* The methods that an idempotency record tells apart. Stored: never renumber. */
enum request_method { REQUEST_CREATE = 1, REQUEST_TRANSITION = 2, REQUEST_UPDATE = 3, REQUEST_SET_TIMER = 4, REQUEST_CANCEL_TIMER = 5 };

struct command_origin {
    struct slice request_id; /* empty: not idempotent (transition without one) */
    struct hash128 fingerprint;
    uint64_t ttl_us;         /* how long the idempotency record lives; COMMAND_FOR_EVER_US: it stays */
    struct slice operator_, reason, traceparent;
};
struct command_create {
    struct slice user_id, client_order_no, machine; /* machine: reference as sent, resolved in apply */
    struct slice summary, detail;
};
/* New values for some fields of an order's content. */
struct content_change {
    uint64_t fields;              /* a bit for each field number of Order that is replaced */
    struct slice currency;        /* of the new amounts; empty: there are none */
    struct slice summary, detail; /* wire bytes of the new values, by field number; a field without one is emptied */
};
struct command_transition {
    int64_t order_id;
    struct slice event, to_status; /* one of them */
    unsigned expected_status_count;
    struct slice expected_statuses[COMMAND_STATUSES_MAX]; /* names */
    int64_t expected_version; /* 0: any */
    struct content_change patch; /* of COMMAND_PATCH, never without fields; else none */
};
struct command_import {
    struct slice user_id, client_order_no, machine;
    struct slice summary, detail;
    unsigned history_count;
    const struct history_entry *history; /* encode: names resolved; decode: in the arena given to command_decode */
};
/* Did origin.request_id come to anything? If not, it never will: for origin.ttl_us, COMMAND_FOR_EVER_US by now. It was 30 days in older logs, and every replica goes by what the command says. */
#define COMMAND_FOR_EVER_US (1ull << 62) /* and any log time does not overflow: so releases that know nothing of "for ever" do the same with it */
struct command_fence {
    struct slice user_id;
};
/* Creates of one user, all or none. Each has its own origin; the batch has none. No request_id and no client_order_no is there twice (check.h). */
struct command_batch {
    struct slice user_id;
    unsigned count;      /* 1 to COMMAND_BATCH_MAX */
    struct slice packed; /* { an encoded create as counted bytes }* */
};
struct command_update {
    int64_t order_id, expected_version; /* 0: any */
    struct content_change change;
};
/* A resource as it is to be, or its end. To the meta partition. */
struct command_resource {
    uint8_t kind;       /* enum resource_kind */
    bool remove;
    struct slice name;
    struct slice bytes; /* Resource in canonical form; of a machine, StatusMachine: version 0 stands for the next one. remove: empty */
};
/* A status machine that the meta partition has taken, to each of the others. */
struct command_machine {
    struct slice row; /* resource.h: machine_row */
};
/* A node of the cluster comes, changes or goes (node_row.h). */
struct command_node {
    uint8_t action;             /* enum node_action */
    uint64_t node_id;           /* NODE_FOUND: 0 */
    struct slice zone, address; /* NODE_JOIN */
    struct slice founders;      /* NODE_FOUND: see node_row.h */
};
struct command_set_timer {
    int64_t order_id, fire_us; /* fire_us: as asked for; a time that has passed is now */
    struct slice timer_id, event;
    unsigned expected_status_count;
    struct slice expected_statuses[TIMER_STATUSES_MAX]; /* names */
};
struct command_cancel_timer {
    int64_t order_id;
    struct slice timer_id;
};
/* These timers seem to be due. Apply looks whether they are. */
struct command_fire {
    uint64_t floor_us;   /* timers_record */
    unsigned count;      /* to COMMAND_FIRE_MAX; none: the floor alone */
    struct slice packed; /* { fire_us(8) order_id(8) no(1) }*, as in their keys */
};
enum { COMMAND_FIRE_BYTES = 8 + 8 + 1 };
/* Change events of entries before first_place are let go. */
struct command_retain {
    uint64_t first_place, first_time_us; /* feed_record */
};
/* A change of the groups' authority. By name; the id is given in apply, and comes back in the outcome. */
enum group_action { GROUP_CREATE = 1, GROUP_UPDATE = 2, GROUP_DELETE = 3 };
struct command_group {
    enum group_action action;
    struct slice name;
    struct slice definition; /* consumer_row.h; of a DELETE: empty */
};
/* The definition, or its end, to a partition. One that it has already, or a newer one, stays. */
struct command_group_bring {
    uint32_t group_id;
    bool remove;
    uint64_t revision;
    struct slice definition;
};
/* Of one group, epoch given: one of another epoch changes nothing. */
struct command_group_settle {
    uint32_t group_id;
    uint64_t epoch, settled_place, settled_us; /* struct consumer_progress */
    unsigned count;                            /* slots */
    struct slice packed;                       /* { slot(2) position row as counted bytes }*, to be joined to those that are there */
};
/* Events whose attempts are used up, or that wait behind a parked key. Each becomes a letter and is settled; one that is settled already, or a letter that died already, stays. */
struct command_group_letters {
    uint32_t group_id;
    uint64_t epoch;
    unsigned count;      /* 1 to GROUP_REFS_MAX */
    struct slice packed; /* { slot(2) seq(8) letter row as counted bytes }*; the time of death is apply's */
};
/* Letters are given out again, or go: by an operator, or because a redriven one was acked. Those that are not there are passed over. */
enum letters_action { LETTERS_REDRIVE = 1, LETTERS_PURGE = 2, LETTERS_ACKED = 3 };
struct command_group_redrive {
    uint32_t group_id;
    enum letters_action action;
    uint32_t milli;      /* consumer_group_row.redrive_milli from now on; of a redrive */
    unsigned count;      /* 1 to GROUP_REFS_MAX */
    struct slice packed; /* { slot(2) seq(8) }* */
};
/* The group begins behind these events; in slots that are not named, at the earliest kept. All slots of a partition at once. */
struct command_group_seek {
    uint32_t group_id;
    uint64_t epoch;      /* that it is at, or 0: any. Raised by one. Another: refused, VERSION_MISMATCH */
    unsigned count;      /* 0 to SLOT_COUNT */
    struct slice packed; /* { slot(2) behind(varint) }*, slots ascending */
};
/* A seek of all partitions begins, or is over: what is to be done is kept until all of them have taken it (consumer_seek.h). */
struct command_group_seeking {
    uint32_t group_id;
    bool over;
    uint64_t epoch;    /* that the group is at in the meta partition; another, or a seek that is not over: refused, VERSION_MISMATCH. over: the seek's id; another: nothing is done */
    struct slice plan; /* of a beginning */
};
/* The snapshot of a group that begins with one goes on: orders from one place of its scan to the next are told, all of this or (the scan is not there any more, another
 * epoch) nothing. Or, `restart`: the group begins anew with a snapshot, as by a seek. */
struct command_group_snapshot {
    uint32_t group_id;
    uint64_t epoch;      /* restart: that it is at, or 0: any */
    bool restart;        /* the rest is not there then */
    uint16_t from_slot, to_slot;
    int64_t from_after, to_after; /* struct consumer_scan */
    uint64_t told;       /* orders between them */
    unsigned count;      /* slots */
    struct slice packed; /* { slot(2) position row as counted bytes }*, with the orders that are told now among those that are not settled */
};
/* A removed group's next rows go. */
struct command_group_sweep {
    uint32_t group_id;
};
/* An event of the same slot that is settled in the same commit; neither takes place without the other (FAILED_PRECONDITION, ACK_NOT_IN_FLIGHT). group_id 0: none. */
struct command_ack {
    uint32_t group_id;
    uint16_t slot;
    int64_t seq;
    bool held; /* private: set by the engine that takes the op in: the event is in flight there */
};
struct command {
    enum command_type type;
    struct command_ack ack; /* of a transition or patch */
    struct command_origin origin;
    union {
        struct command_create create;
        struct command_transition transition; /* COMMAND_PATCH too */
        struct command_import import; /* COMMAND_IMPORT_UNTOLD too */
        struct command_fence fence;
        struct command_batch batch;
        struct command_update update;
        struct command_resource resource;
        struct command_machine machine;
        struct command_node node;
        struct command_set_timer set_timer;
        struct command_cancel_timer cancel_timer;
        struct command_fire fire;
        struct command_retain retain;
        struct command_group group;
        struct command_group_bring bring;
        struct command_group_settle settle;
        struct command_group_letters letters;
        struct command_group_redrive redrive;
        struct command_group_seek seek; /* COMMAND_GROUP_SEEK_YIELD too */
        struct command_group_seeking seeking;
        struct command_group_snapshot snapshot;
        struct command_group_sweep sweep;
    };
};

/* Into the arena; data NULL: it is full. */
struct slice command_encode(const struct command *c, struct arena *arena);
enum status command_decode(struct slice bytes, struct arena *arena, struct command *out) MUST_USE;
/* Of an encoded command, without decoding the rest: has it an ack? And the leader's verdict, in place. */
enum { COMMAND_ACK_BYTES = 1 + 1 + 4 + 2 + 8 };
bool command_ack_of(struct slice bytes, struct command_ack *ack);
void command_ack_set_held(struct slice bytes, bool held);
/* Likewise: the order that it changes. 0: not one that is there, or it is damaged. */
int64_t command_order_of(struct slice bytes);
/* Who encoded it knew the group's name alone: its id, in place. */
#define COMMAND_ACK_GROUP_UNKNOWN UINT32_MAX
void command_ack_set_group(struct slice bytes, uint32_t group_id);

/* An entry from encoded commands. */
struct entry_reader {
    uint64_t log_time_us;
    uint64_t left;
    struct reader reader;
};
enum { ENTRY_HEAD_BYTES_MAX = 1 + 8 + 10 };
void entry_head_encode(struct writer *w, uint64_t log_time_us, uint64_t count);
enum status entry_open(struct slice data, struct entry_reader *out) MUST_USE;
/* false: no more, or (status != OK) damaged. */
bool entry_next(struct entry_reader *r, struct slice *command, enum status *status);

#endif
