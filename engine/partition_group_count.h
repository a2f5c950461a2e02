/* Which events of the stream a group's filter wants, counted on a reader thread for lag and seek (partition_group_query.c). Bounded: a group that is millions of events behind is
 * counted from where it stands as far as the bounds go, and the rest is estimated from that. */
#ifndef ENGINE_PARTITION_GROUP_COUNT_H
#define ENGINE_PARTITION_GROUP_COUNT_H

#include "engine/feed.h"
#include "engine/filter.h"

enum {
    GROUP_COUNT_EVENTS_MAX = 32768,     /* that the filter is asked about, of one partition; up to the end of their entry more */
    GROUP_COUNT_EVENT_BYTES = 512,      /* of blocks, for each of these, but GROUP_COUNT_BYTES_MIN: 16 MiB at most, read in one sequence */
    GROUP_COUNT_BYTES_MIN = 1 << 20,
};

enum group_kind { GROUP_KIND_UNSETTLED, GROUP_KIND_AGAIN, GROUP_KINDS, GROUP_KIND_NONE = GROUP_KINDS };
struct group_count {
    const struct feed_read *feed;       /* its arena is not touched */
    const struct filter *filter;
    struct feed_position at;            /* in: from this event on */
    uint64_t asked_max;                 /* in: GROUP_COUNT_EVENTS_MAX; 0 is that */
    /* What the event is to the asker; GROUP_KIND_NONE: nothing. */
    enum status (*kind_of)(void *asker, uint16_t slot, int64_t seq, enum group_kind *kind);
    void *asker;
    /* out */
    uint64_t asked[GROUP_KINDS], wanted[GROUP_KINDS];
    uint64_t first_us;                  /* commit time of the first UNSETTLED one that is wanted; 0: none */
    uint64_t rest_index;                /* of the first entry that was not looked at; 0: all were */
};
enum status group_count(struct group_count *c) MUST_USE;
/* Of `rest` events of that kind beyond those that were asked about, as many are wanted as among those: at least one, for nobody has looked. */
uint64_t group_count_estimate(const struct group_count *c, enum group_kind kind, uint64_t rest);

#endif
