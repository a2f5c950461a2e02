/* Shared by the files of apply alone: one command under way, rows in and out. */
#ifndef ENGINE_APPLY_LOCAL_H
#define ENGINE_APPLY_LOCAL_H

#include "engine/apply.h"
#include "engine/keys.h"

/* One command being applied. `out` borrows from scratch, the command and the registry until apply_command copies it. */
struct applying {
    struct apply *a;
    const struct command *command;
    uint64_t now_us; /* log time */
    uint16_t slot;
    struct outcome *out;
    struct arena *arena; /* the waiter's; NULL: nobody waits */
    struct shown {       /* the order after the commit in wire bytes, made once: for the event, the user's list and the answer. Borrowed as `out` is */
        struct slice head, summary, detail;
    } shown;
};

/* Each answers a fault of the store, or OK; refusals go to x->out->status. */
enum status apply_create(struct applying *x) MUST_USE;
/* Decides and writes nothing: out->status, or OK (out->replayed: written before). */
enum status apply_create_decide(struct applying *x) MUST_USE;
enum status apply_import(struct applying *x) MUST_USE;
enum status apply_transition(struct applying *x) MUST_USE;
enum status apply_update(struct applying *x) MUST_USE;
/* A change of the content of the order in x->out->head, and what comes of it. Decides and writes nothing: x->out->status, or OK. No fields: as it is. */
struct content {
    struct order_body before, after;
};
enum status apply_content_decide(struct applying *x, const struct content_change *change, struct content *out) MUST_USE;
/* Before apply_commit: the new content, and the one before under the version that is about to be. */
enum status apply_content_put(struct applying *x, const struct content *c) MUST_USE;
/* The next commit on the order in x->out->head, from its status to another or the same: entry, head, seq, list, event, idempotency record. */
struct commit {
    struct slice event;               /* of its history entry */
    uint16_t to;
    enum request_method method;
    enum event_type type;
    uint64_t changed;                 /* fields of Order, as bits by number */
    const struct order_body *content; /* NULL: it stays as it is */
    bool moves;                       /* an edge is taken, be it back into the same status: timers of the status begin anew */
    const struct order_timers *timers; /* the order's, before the move; NULL: as they are */
};
enum status apply_commit(struct applying *x, const struct commit *c) MUST_USE;
enum status apply_put_body(struct applying *x, int64_t order_id, const struct order_body *body) MUST_USE;
enum status apply_retain(struct applying *x) MUST_USE;
enum status apply_set_timer(struct applying *x) MUST_USE;
enum status apply_cancel_timer(struct applying *x) MUST_USE;
enum status apply_fire(struct applying *x) MUST_USE;
/* The timers of a new order's status: head->timers. */
enum status apply_timers_begin(struct applying *x, struct order_head *head, const struct machine *m) MUST_USE;
/* What the commit does to the timers of x->out->head, which still has the status before. */
enum status apply_timers_commit(struct applying *x, const struct commit *c, uint64_t *changed) MUST_USE;
void apply_timers_end(struct apply *a);
enum status apply_fence(struct applying *x) MUST_USE;
/* apply_group.c: consumer groups */
enum status apply_group(struct applying *x) MUST_USE;
enum status apply_group_bring(struct applying *x) MUST_USE;
enum status apply_group_settle(struct applying *x) MUST_USE;
enum status apply_group_letters(struct applying *x) MUST_USE;
enum status apply_group_redrive(struct applying *x) MUST_USE;
enum status apply_group_seek(struct applying *x) MUST_USE;
enum status apply_group_seeking(struct applying *x) MUST_USE;
enum status apply_group_snapshot(struct applying *x) MUST_USE;
enum status apply_group_sweep(struct applying *x) MUST_USE;
/* The command's ack, if it has one: decides and writes nothing; then, the transition being written, settles. */
enum status apply_ack_decide(struct applying *x) MUST_USE;
enum status apply_ack_settle(struct applying *x) MUST_USE;
enum status apply_batch(struct applying *x) MUST_USE;
enum status apply_resource(struct applying *x) MUST_USE;
enum status apply_machine(struct applying *x) MUST_USE;
enum status apply_node(struct applying *x) MUST_USE;
/* The seq of the commit that x makes; its event will lie in this entry. */
int64_t apply_next_seq(struct applying *x, struct slot_record *slot);
/* After the commit: x->shown, of the order in x->out->head. content: what it holds now; NULL: it is loaded. Nothing of a dry run, which nobody sees. */
enum status apply_show(struct applying *x, const struct order_body *content) MUST_USE;
/* Its card for the user's list (userlist.h); empty: too long. */
enum status apply_card(struct applying *x, struct slice *card) MUST_USE;
/* The event of the commit in x->out (head, entry), whose seq is the slot's last, of the order as it is shown. */
enum status apply_event(struct applying *x, enum event_type type, uint64_t changed, const struct slot_record *slot) MUST_USE;
/* Everything that `from` borrows, into the arena. false: it is full. */
bool apply_outcome_copy(const struct outcome *from, struct arena *arena, struct outcome *to) MUST_USE;

/* ABSENT: no such order. A row that names another order is damage. */
enum status apply_load_head(struct applying *x, int64_t order_id, struct order_head *head) MUST_USE;
/* Of a version that must exist. */
enum status apply_load_entry(struct applying *x, int64_t order_id, int64_t version, struct history_entry *entry) MUST_USE;
enum status apply_load_slot(struct applying *x, struct slot_record *record) MUST_USE;
enum status apply_put_head(struct applying *x, const struct order_head *head) MUST_USE;
enum status apply_put_entry(struct applying *x, int64_t order_id, const struct history_entry *entry) MUST_USE;
void apply_put_slot(struct applying *x, const struct slot_record *record);

/* The record of the origin's request_id under a method; ABSENT: none that lives. */
enum status apply_load_dedup(struct applying *x, struct slice user_id, enum request_method method, struct dedup_record *record) MUST_USE;
void apply_put_dedup(struct applying *x, struct slice user_id, enum request_method method, const struct dedup_record *record);
/* The idempotency record of this command's request_id, if it has one and the record lives. *settled: x->out has the answer (the first one again, or
 * IDEMPOTENCY_KEY_REUSED) and there is nothing left to do. */
enum status apply_replay(struct applying *x, struct slice user_id, enum request_method method, bool *settled) MUST_USE;
void apply_remember(struct applying *x, struct slice user_id, enum request_method method, const struct order_head *head, int64_t seq);

static inline enum status apply_refuse(struct applying *x, enum status why)
{
    x->out->status = why;
    return STATUS_OK;
}

#endif
