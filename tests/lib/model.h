/* The domain once more, as plainly as possible: arrays and loops, no keys, no rows, no batches. What apply must agree with, command by command. Its status
 * machines are a table of its own. Grows and never frees until model_fini; nothing here is quick. */
#ifndef TESTS_LIB_MODEL_H
#define TESTS_LIB_MODEL_H

#include "engine/apply.h"
#include "proto/route.h"

enum { MODEL_NAG_US = 50000, MODEL_FINISH_US = 120000 };
struct model_timer {
    struct slice id, event;
    int64_t fire_us;
    bool of_state;
    uint8_t no;
    unsigned status_count;
    const char *statuses[TIMER_STATUSES_MAX];
};
struct model_timers {
    unsigned count;
    struct model_timer at[TIMERS_MAX];
};
struct model_entry {
    const char *event, *from, *to; /* from "": version 1 */
    int64_t time_us;
    struct slice operator_, reason, request_id, traceparent;
    uint8_t chain_hash[SHA256_BYTES];
    struct slice summary, detail; /* the content at this version */
    bool changed; /* by this version */
    const struct model_timers *timers; /* after it; NULL: none */
};
struct model_order {
    int64_t id;
    struct slice user_id, client_order_no, summary, detail;
    const char *machine; /* "retail@1" */
    struct model_entry *entries;
    unsigned count; /* = version */
    int64_t seq; /* of its newest commit; 0: imported untold */
};
struct model_memory { /* an idempotency record */
    struct slice user_id, request_id;
    enum request_method method;
    uint64_t expiry_us;
    struct hash128 fingerprint;
    unsigned order, version;
    int64_t seq, time_us;
    bool fence; /* nothing was written, and nothing will be */
};
struct model_slot {
    int64_t last_order_id, last_seq, order_count;
};
struct model {
    struct arena arena;
    uint64_t now_us;
    struct model_order *orders;
    unsigned order_count, order_cap;
    struct model_memory *memories;
    unsigned memory_count, memory_cap;
    struct model_slot slots[SLOT_COUNT];
};

/* What the model says a command comes to. */
struct model_outcome {
    enum status status;
    bool replayed, already_there, fence, applied; /* fence: the answer to one; order and version only if applied */
    uint16_t slot;
    int64_t seq, first_order_id, first_time_us;
    uint64_t fenced_us; /* REQUEST_FENCED, for ever: since when */
    unsigned order, version; /* the order shown, as of which version; version 0: none shown */
    unsigned expected_index;
    unsigned fired;
    bool batch;
    unsigned item, item_count; /* of a batch: who refused, or all */
    struct model_outcome *items; /* in the model's arena */
    const char *machine;     /* EDGE_NOT_DEFINED, FIELD_REQUIRED */
    const char *missing[2];  /* FIELD_REQUIRED */
};

/* retail@1, and loop@1: OPEN -poke-> OPEN, OPEN -close or finish-> DONE; poke requires extension, finish order_type and extension. OPEN has the timers nag, which
 * only tells, and finish. */
struct machines *model_machines_new(void);
extern const char *const model_edges[][4]; /* machine, event, from, to; ends with NULLs */

/* model_timers.c */
struct model_timer *model_timer_find(struct model_timers *ts, struct slice id);
bool model_status_has_timer(const char *machine, const char *status, struct slice id);
void model_timer_set(struct model_timers *ts, struct model_timer t);
void model_timer_remove(struct model_timers *ts, const struct model_timer *t);
void model_timers_move(struct model_timers *ts, const char *machine, const char *from, const char *to, uint64_t now_us);
void model_timers_check(const struct model_timers *ts, struct slice encoded, const struct machines *ms); /* ts NULL: none */

/* model_index.c: the order's index rows are there; how many. */
unsigned model_index_check(const struct model_order *o, const struct store_view *view, const struct machines *ms, struct arena *arena);

void model_init(struct model *m);
void model_fini(struct model *m);
void model_begin(struct model *m, uint64_t log_time_us);
/* The command's slices are copied. */
struct model_outcome model_apply(struct model *m, const struct command *c);

/* check()s that apply's answer is the model's. */
void model_check_outcome(const struct model *m, const struct model_outcome *expected, const struct outcome *o, const struct machines *ms);
/* check()s that the store holds what the model holds, row by row, and nothing else; idempotency records as far as they live. */
void model_check_store(const struct model *m, const struct store_view *view, const struct machines *ms);
/* Everything of an outcome that a caller can see, as one number. */
uint64_t outcome_digest(const struct outcome *o);

#endif
