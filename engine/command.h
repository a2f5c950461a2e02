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
    COMMAND_RETAIN = 16,
};
enum { COMMAND_STATUSES_MAX = 64, COMMAND_BATCH_MAX = 1000, COMMAND_FIRE_MAX = 256, ENTRY_FORMAT = 1 };

/* The methods that an idempotency record tells apart. Stored: never renumber. */
enum request_method { REQUEST_CREATE = 1, REQUEST_TRANSITION = 2, REQUEST_UPDATE = 3, REQUEST_SET_TIMER = 4, REQUEST_CANCEL_TIMER = 5 };

struct command_origin {
    struct slice request_id; /* empty: not idempotent (transition without one) */
    struct hash128 fingerprint;
    uint64_t ttl_us;         /* how long the idempotency record lives */
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
/* Did origin.request_id come to anything? If not, it never will (for origin.ttl_us). */
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
struct command {
    enum command_type type;
    struct command_origin origin;
    union {
        struct command_create create;
        struct command_transition transition; /* COMMAND_PATCH too */
        struct command_import import;
        struct command_fence fence;
        struct command_batch batch;
        struct command_update update;
        struct command_resource resource;
        struct command_machine machine;
        struct command_set_timer set_timer;
        struct command_cancel_timer cancel_timer;
        struct command_fire fire;
        struct command_retain retain;
    };
};

/* Into the arena; data NULL: it is full. */
struct slice command_encode(const struct command *c, struct arena *arena);
enum status command_decode(struct slice bytes, struct arena *arena, struct command *out) MUST_USE;

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
