#include "engine/apply_local.h"

/* Creates of one user, all or none: one command, so one place in the log and one store batch. First every create is decided, then every create is written; as
 * no two share a request_id or a client_order_no, what was decided still holds when those before it are written.
 *
 * A retry finds all of them written and answers them again. A batch of which some were written and some not is no retry of anything (a request_id was used by
 * a single create, or some records have expired): it is refused, for "none" has become impossible to keep.
 *
 * A thousand creates would overfill scratch, so it is reset between them; what is answered is copied before. */

static enum status item_begin(struct applying *x, struct reader *r, struct command *command, struct outcome *out, struct applying *item)
{
    arena_reset(x->a->scratch);
    enum status st = command_decode(read_counted(r), x->a->scratch, command);
    if (st) return st;
    if (command->type != COMMAND_CREATE || !slice_equal(command->create.user_id, x->command->batch.user_id)) return STATUS_CHECKSUM_MISMATCH;
    *out = (struct outcome){.batch = true};
    *item = (struct applying){.a = x->a, .command = command, .now_us = x->now_us, .out = out};
    return STATUS_OK;
}

static enum status decide_all(struct applying *x)
{
    const struct command_batch *b = &x->command->batch;
    struct reader r = reader_of(b->packed);
    struct outcome replayed = {0};
    unsigned replays = 0;
    for (unsigned i = 0; i < b->count; i++) {
        struct command command;
        struct applying item;
        enum status st = item_begin(x, &r, &command, x->out, &item);
        if (!st) st = apply_create_decide(&item);
        if (st) return st;
        x->out->item = i;
        if (x->out->status) return STATUS_OK;
        if (x->out->replayed && !replays++) replayed = *x->out;
    }
    if (replays == 0 || replays == b->count) return STATUS_OK;
    *x->out = (struct outcome){.batch = true, .item = replayed.item, .first_order_id = replayed.head.order_id, .first_time_us = replayed.head.create_us};
    return apply_refuse(x, STATUS_IDEMPOTENCY_KEY_REUSED);
}

enum status apply_batch(struct applying *x)
{
    const struct command_batch *b = &x->command->batch;
    struct reader r = reader_of(b->packed);
    x->slot = slot_of_user(b->user_id);
    enum status st = decide_all(x);
    if (st || x->out->status) return st;
    struct outcome *items = x->arena ? arena_array(x->arena, struct outcome, (size_t)b->count) : NULL;
    bool answered = items != NULL;
    struct outcome all = {.batch = true, .replayed = x->out->replayed, .item_count = b->count, .items = items};
    for (unsigned i = 0; i < b->count; i++) {
        struct command command;
        struct applying item;
        struct outcome out;
        if ((st = item_begin(x, &r, &command, &out, &item)) || (st = apply_create(&item))) return st;
        if (out.status || out.replayed != all.replayed) return STATUS_CHECKSUM_MISMATCH; /* two of them collide: never let through by check */
        out.slot = item.slot;
        all.seq = out.seq;
        if (answered) answered = apply_outcome_copy(&out, x->arena, &items[i]);
    }
    *x->out = all;
    /* All is written; only the answer has found no memory (apply.h). */
    if (x->arena && !answered) *x->out = (struct outcome){.status = STATUS_DEADLINE_EXCEEDED};
    return STATUS_OK;
}
