/* Events as a member of a consumer group gets them, and a definition to begin with: for the rig of one engine (group_rig.h) and for the cluster's (cluster_groups.h). */
#ifndef TESTS_LIB_GROUP_EVENT_H
#define TESTS_LIB_GROUP_EVENT_H

#include <inttypes.h>
#include <stdio.h>

#include "engine/consumer_row.h"
#include "orderdb/v1/stream.pb-c.h"

struct got_event {
    uint16_t slot;
    int64_t seq, order_id;
    int attempt;
    char user[32];
    bool items, snapshot;
    int64_t version; /* of the order behind it */
    int64_t commit_us;
};

static inline struct got_event got_event_of(const Orderdb__V1__ChangeEvent *e)
{
    struct got_event x = {.slot = (uint16_t)e->slot, .seq = e->seq, .order_id = e->order_id, .attempt = e->delivery_attempt, .items = e->after && e->after->n_items,
                          .snapshot = e->type == ORDERDB__V1__CHANGE_EVENT__TYPE__SNAPSHOT, .version = e->after ? e->after->version : 0,
                          .commit_us = e->commit_time ? e->commit_time->seconds * 1000000 + e->commit_time->nanos / 1000 : 0};
    if (!x.seq) (void)sscanf(e->event_id, "%*u:%" SCNd64, &x.seq); /* the number that it is settled by */
    snprintf(x.user, sizeof x.user, "%s", e->user_id);
    return x;
}

static inline struct consumer_definition definition_of(const char *filter)
{
    return (struct consumer_definition){.name = SLICE_LIT("payments"), .filter = slice_str(filter), .ordering = ORDERING_USER, .max_attempts = 3, .min_backoff_us = 50000, .max_backoff_us = 400000,
                                        .on_exhausted = EXHAUSTED_LETTER, .start = START_EARLIEST, .full = true, .ack_timeout_us = 5000000, .key_window = 1};
}

#endif
