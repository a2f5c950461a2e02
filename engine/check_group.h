/* What a ConsumerGroup may be: shape and limits, before anything is written (check.h does the same for orders). */
#ifndef ENGINE_CHECK_GROUP_H
#define ENGINE_CHECK_GROUP_H

#include "engine/consumer_row.h"
#include "orderdb/v1/stream.pb-c.h"

/* The command (COMMAND_GROUP) of a new group, into the arena. false: *f says why, with every violation: FIELD_INVALID, LIMIT_EXCEEDED, FILTER_INVALID. */
bool check_group_create(const Orderdb__V1__ConsumerGroup *m, struct arena *arena, struct slice *command, struct failure *f) MUST_USE;
/* Of a group as it will be: `before` (as stored) with the fields of the mask from m. name, start and start_time never change; an empty mask stands for all that may. */
bool check_group_update(const Orderdb__V1__UpdateConsumerGroupRequest *m, const struct consumer_definition *before, struct arena *arena, struct slice *command, struct failure *f) MUST_USE;
bool check_group_name(const char *name, const char *field, struct failure *f) MUST_USE;
/* "SLOT:SEQ", as events are delivered. */
bool check_event_id(const char *text, uint16_t *slot, int64_t *seq) MUST_USE;
#define CHECK_EVENT_ID_RULE "must be an event_id as it was delivered, SLOT:SEQ, not \"%.80s\""

#endif
