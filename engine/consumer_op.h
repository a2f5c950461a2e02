/* Consumer groups as the engine's callers see them (docs/STREAM.md): what ops carry, and what they promise.
 *
 * A group is known by its id. Its definition's authority is the meta partition; every other partition holds a copy, which commands of its own log bring there
 * (COMMAND_GROUP to the meta partition, COMMAND_GROUP_BRING to the others), and everything that was settled in it. Each partition gives out its own slots'
 * events, so a subscription is one member in every partition: the caller sends each op below once for each partition, on op.slot.
 *
 *   OP_GROUP_ATTACH    session joins. Answers when events can be given out.   GROUP_NOT_FOUND, NOT_LEADER; CURSOR_EXPIRED with `missing`: retention has overtaken the
 *                      group, an operator has to seek; LIMIT_EXCEEDED: CONSUMER_MEMBERS_MAX; MEMORY_LIMIT
 *   OP_GROUP_POLL      waits until there are events for the session, or wait_until. One at a time for a session and partition
 *   OP_GROUP_SETTLE    acks, nacks, extensions of what the session holds
 *   OP_GROUP_WAKE      credit was added: whoever was starved is looked at (without it: at housekeeping's next 20 ms)
 *   OP_GROUP_DETACH    session leaves: what it holds goes to others at once, no attempt counted; its poll is answered CANCELLED first. Also when never attached
 *   OP_GROUP_LAG, OP_GROUP_LETTERS, OP_GROUP_POSITIONS, OP_GROUPS   reads; no session
 *   OP_GROUP_UNBLOCK   keys that are blocked (BLOCK) go on: with another try, or without the event; no session
 *   OP_WRITE           COMMAND_GROUP* (command.h): define, bring, redrive, purge, seek; COMMAND_TRANSITION and COMMAND_PATCH with an `ack`
 *
 * What ends a membership: DETACH; the same member_id attached by a later session (poll, settle and an attach of the earlier one then answer MEMBER_REPLACED); a seek, an end of the group, a new
 * filter or ordering key, a lost lead (poll answers NOT_LEADER or GROUP_NOT_FOUND: attach again, or give up). What the session held in that partition is then given out again.
 * After any refusal of POLL or SETTLE but OVERLOADED the session is no member of that partition any more; DETACH is still due before its memory goes.
 *
 * A group that begins with a snapshot (START_SNAPSHOT) is told the partition's orders first, by events of their own (docs/STREAM.md): to whoever takes and settles them they are events.
 *
 * Delivery. Per key in order, redelivery included; a key is with one member at a time. Each event carries delivery_attempt. Every event until it is settled: acked
 * (durable within a second), dead-lettered, or left out by the filter. */
#ifndef ENGINE_CONSUMER_OP_H
#define ENGINE_CONSUMER_OP_H

#include "engine/consumer_row.h"

enum {
    CONSUMER_MEMBERS_MAX = 1000,              /* sessions of a group */
    CONSUMER_MEMBER_ID_BYTES_MAX = 128,
    CONSUMER_CREDIT_MAX = 1000000,            /* outstanding of a session; the caller checks */
    CONSUMER_SETTLES_MAX = 10000,             /* of one OP_GROUP_SETTLE */
    CONSUMER_POLL_BYTES_MAX = 256 << 10,      /* larger bytes_max are cut to it; an event that alone is larger comes alone */
    CONSUMER_LETTERS_PAGE_MAX = 1000,
};
#define CONSUMER_NO_DELAY UINT64_MAX

/* A subscription, the caller's, shared by every partition's core; until all its DETACHes are home. */
struct consumer_session {
    uint64_t id;             /* of this process, from 1, never used twice; ascending */
    uint64_t opened_us;      /* by the wall clock of the node that it was opened at: of two of one member the one that was opened later stays */
    struct slice member_id;  /* 1 to CONSUMER_MEMBER_ID_BYTES_MAX bytes */
    int64_t credit;          /* atomic: events that may still be sent. Dispatchers take what they give out, and put back what they did not need */
};
static inline void consumer_credit_add(struct consumer_session *s, int64_t events) { __atomic_add_fetch(&s->credit, events, __ATOMIC_ACQ_REL); }

enum consumer_settle_kind {
    CONSUMER_ACK,
    CONSUMER_NACK,   /* an attempt is counted; again after `delay`, or the group's backoff */
    CONSUMER_DEAD,   /* a nack that makes a dead letter at once, however many attempts are left; BLOCK: the key is blocked */
    CONSUMER_EXTEND, /* ack_timeout begins anew */
};
struct consumer_settle {
    enum consumer_settle_kind kind;
    bool stale;        /* out: it was not in flight to this session (any more), and nothing was changed */
    uint16_t slot;
    int64_t seq;
    uint64_t delay_us; /* of a nack; CONSUMER_NO_DELAY: the backoff */
    struct slice error; /* kept with a dead letter, cut to CONSUMER_ERROR_BYTES_MAX */
};

/* op.consumer: ATTACH, DETACH, WAKE, POLL, SETTLE. */
struct consumer_request {
    uint32_t group_id;
    struct consumer_session *session;
    /* POLL. OK: op.answer has `events` events, repeated `events` (1) as in SubscribeResponse.Batch; 0: wait_until has come (or progress has, see below) */
    size_t bytes_max;
    uint64_t wait_until_ns;      /* monotonic, rounded up to housekeeping's 20 ms */
    uint32_t events;             /* out */
    uint64_t complete_to_us;     /* out: every event of the partition committed up to then (and this included, if not later than the last entry) is settled, durably; never
                                  * goes back but by a seek. Redriven dead letters come regardless. 0: not known yet */
    bool starved;                /* out, atomic, while the poll is under way: there are events, and the session has no credit. The caller may exchange it for false and WAKE */
    bool ends_starved;           /* in: the poll also ends, without events, when there are some and the session has no credit */
    /* for a caller that asks another node: take credit along, for there are events, and do not wait; how much was taken; the answer came from there */
    bool eager, abroad;
    uint32_t granted;
    /* SETTLE */
    struct consumer_settle *settles;
    unsigned settle_count;
    unsigned stale_count;        /* out */
    /* private */
    struct consumer_output { uint8_t *data; size_t len, cap; } output;
};

/* op.lag: OP_GROUP_LAG, of one partition. What was acked within the last second may still be in it. */
struct consumer_lag {
    uint32_t group_id;
    uint64_t asked_max;          /* in: the filter is asked about so many events, and the rest is estimated; 0: GROUP_COUNT_EVENTS_MAX */
    uint64_t oldest_us;          /* commit time of the oldest event that is wanted and not settled; 0: none. While a snapshot is not settled: when it began, at the latest */
    uint64_t events;             /* wanted and not settled, dead letters left out */
    bool estimated;              /* the filter was not asked about all of them (partition_group_count.h): of the others as many are wanted as of those. If none was, oldest_us is
                                  * the time of the first that it was not asked about */
    uint64_t orders_left;        /* of a snapshot: not told yet, whatever the filter says, or not settled. In `events` too */
    uint64_t in_flight, blocked_keys, dead_letters;
    uint32_t members;            /* attached here; a subscription is attached everywhere */
};

/* What a dispatcher at work has looked at of the stream, and has not settled: that it wants. */
struct consumer_looked_at {
    uint64_t epoch;              /* 0: none is at work */
    uint64_t index;              /* place of the next to look at */
    uint32_t block, event;
    uint64_t events, oldest_us;
};

/* op.letters: OP_GROUP_LETTERS, one page in order of (slot, seq). op.answer: repeated `letters` (1) of ListDeadLettersResponse. */
struct consumer_letter_ref {
    uint16_t slot;
    int64_t seq;
};
struct filter;
struct consumer_blocked;
struct consumer_letters {
    uint32_t group_id;
    const struct filter *filter;         /* over the ChangeEvent; NULL: all */
    struct slice filter_text;            /* what it was parsed from, for another node to parse */
    struct consumer_letter_ref after;    /* in: the last of the page before; slot 0, seq 0: from the start. Out: for the next page */
    unsigned count_max;                  /* 1 to CONSUMER_LETTERS_PAGE_MAX */
    bool refs_only;                      /* no answer: for counting, redrive, purge */
    bool dead_only;                      /* without events that wait behind a parked key */
    bool blocked;                        /* instead of letters, the events at which keys are blocked: the dispatcher's memory alone, so there are none while nobody reads */
    struct consumer_letter_ref *refs;    /* out, [count], in the op's arena */
    unsigned count;                      /* out */
    bool more;                           /* out: the partition may have more (a page also ends after 1 MiB, or 4,096 looked at) */
    /* OP_GROUP_UNBLOCK: refs, [count], in: events at which keys are blocked. Out: count, those that were */
    bool skip;                           /* in: without the event, which is settled (durable within a second, as an ack); else another try */
};

/* op.positions: OP_GROUP_POSITIONS. Where a group is, by slot of the partition, and what a seek would do. Arrays [SLOT_COUNT] of the caller's. */
struct consumer_positions {
    uint32_t group_id;
    int64_t *behind;        /* out: everything up to this seq is settled: seek there to undo a seek */
    const int64_t *target;  /* in, or NULL: the seq behind the reader after the seek (OP_FEED_SEEK makes such vectors) */
    uint64_t asked_max;     /* in: as of a lag */
    bool writable;          /* in: refused as a write would be now, if one would be (a full disk, damage, ...) */
    uint64_t redelivered;   /* out: events that are settled, are wanted, and would come again */
    uint64_t skipped;       /* out: events that are not settled, are wanted, and would never come */
    bool estimated;         /* out: of both, as in a lag */
    uint64_t orders;        /* out: all there are: what a snapshot would tell */
    uint64_t orders_left;   /* out: of a snapshot that is not over: not told, or not settled; in `skipped` too. Then `behind` does not say where the group is */
    uint64_t epoch;         /* out: for command_group_seek.epoch, so that of two racing seeks one is refused; */
};

/* op.groups: OP_GROUPS: the groups that a partition (SLOT_META: the authority) knows. */
struct consumer_groups {
    uint32_t seek_of;                /* in: of this group's seek `seek` is wanted; 0: of none */
    struct consumer_group_row *rows; /* out, [count], in the op's arena */
    unsigned count;
    struct slice seek;               /* out, of SLOT_META: its row (consumer_seek.h); empty: there is none */
};

#endif
