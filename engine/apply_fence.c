#include "engine/apply_local.h"

/* A request id is closed. The caller lost the answer of a write and wants to know whether it took effect; where it did not, it must not do so later, from a
 * packet that still travels or an op that still waits. So the question is a command: what stands before it in the log is decided, what stands behind it
 * finds the fence where its own record would be. That costs the hot path nothing: a write reads that row anyway. Nobody knows how long a packet may travel, or an
 * application keep its queue, so a fence stays for ever, in the store (STORE_NEVER_US) as in the filter of keys. */

static const enum request_method methods[] = {REQUEST_CREATE, REQUEST_TRANSITION, REQUEST_UPDATE, REQUEST_SET_TIMER, REQUEST_CANCEL_TIMER};

enum status apply_fence(struct applying *x)
{
    struct slice user_id = x->command->fence.user_id;
    struct outcome *out = x->out;
    x->slot = slot_of_user(user_id);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        struct dedup_record record;
        enum status st = apply_load_dedup(x, user_id, methods[i], &record);
        if (st && st != STATUS_ABSENT) return st;
        if (st || record.fence || (out->applied && record.seq < out->seq)) continue;
        out->applied = true; /* of several writes the latest */
        out->head.order_id = record.order_id;
        out->head.version = record.version;
        out->seq = record.seq;
    }
    if (out->applied) return STATUS_OK;
    static_assert(COMMAND_FOR_EVER_US == STORE_NEVER_US, "what is to stay stays: any log time and it are at or beyond it");
    struct dedup_record fence = {.expiry_us = x->now_us + x->command->origin.ttl_us, .fence = true};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) apply_put_dedup(x, user_id, methods[i], &fence);
    return STATUS_OK;
}
