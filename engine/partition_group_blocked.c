/* Keys that a group blocks (BLOCK): which they are, and how they go on. They are the dispatcher's memory alone (consumer.h); what they are blocked at is an event that is not settled, so
 * after a crash, or when the last member has been gone for a while, it is given out again, and blocks again if it fails again. */
#include "engine/partition_group_blocked.h"

#include <stdlib.h>

enum status blocked_gather(struct partition *p, struct op *op)
{
    const struct dispatcher *d = dispatcher_running(p, op->letters.group_id);
    struct consumer_blocked b;
    unsigned n = 0;
    op->group_blocked = NULL;
    op->group_blocked_count = 0;
    if (!d || !d->consumer.blocked) return STATUS_OK;
    struct consumer_blocked *all = arena_array(op->arena, struct consumer_blocked, (size_t)d->consumer.blocked);
    if (!all) return STATUS_MEMORY_LIMIT;
    for (uint32_t next = 0; n < d->consumer.blocked && consumer_next_blocked(&d->consumer, &next, &b); n++) {
        all[n] = b;
        all[n].error = arena_copy(op->arena, b.error);
        if (b.error.len && !all[n].error.data) return STATUS_MEMORY_LIMIT;
    }
    op->group_blocked = all;
    op->group_blocked_count = n;
    return STATUS_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct consumer_wanted *x = &((const struct consumer_blocked *)a)->at, *y = &((const struct consumer_blocked *)b)->at;
    if (x->slot != y->slot) return x->slot < y->slot ? -1 : 1;
    return (event_rank(x->seq) > event_rank(y->seq)) - (event_rank(x->seq) < event_rank(y->seq));
}

const struct consumer_blocked *blocked_sorted(const struct op *op)
{
    struct consumer_blocked *own = arena_array(op->arena, struct consumer_blocked, (size_t)op->group_blocked_count + 1);
    if (!own) return NULL;
    if (op->group_blocked_count) memcpy(own, op->group_blocked, op->group_blocked_count * sizeof *own);
    qsort(own, op->group_blocked_count, sizeof *own, by_place);
    return own;
}

void partition_group_unblock(struct partition *p, struct op *op)
{
    struct consumer_letters *r = &op->letters;
    struct dispatcher *d = dispatcher_running(p, r->group_id);
    unsigned n = 0;
    for (unsigned i = 0; d && i < r->count; i++) {
        bool event = consumer_unblock(&d->consumer, &r->refs[i], false, r->skip);
        n += event || consumer_unblock(&d->consumer, &r->refs[i], true, r->skip);
    }
    if (n) d->busy = true;
    r->count = n;
}
