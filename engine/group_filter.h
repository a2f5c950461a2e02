/* Private to the port and its tests: the filters around libraft (docs/RAFT.md), each of which a test may switch off to see what it is for. */
#ifndef ENGINE_GROUP_FILTER_H
#define ENGINE_GROUP_FILTER_H

#include "engine/group.h"

enum group_filter {
    FILTER_CHANGE_ALONE = 1,      /* 1: a membership entry travels alone */
    FILTER_CHANGE_STORED = 2,     /* 2: the next membership step waits until all members have stored the last one */
    FILTER_PRE_VOTE_TERM = 4,     /* 3: the refusal of a pre-vote tells the real term */
    FILTER_STALE_REJECTION = 8,   /* 4: rejections at or below the match index are dropped */
    FILTER_BELOW_HEAD = 16,       /* 5: an append that starts below our commit index is moved up to it */
    FILTER_UNCOMMITTED = 32,      /* 6: uncommitted entries are bounded */
    FILTER_VOTE_OUTSIDE = 64,     /* ours: a node votes although its own configuration does not call it a voter */
    FILTER_SOLE_TERM = 128,       /* ours: a single voter leads in a new term */
    FILTER_LATE_VOTE = 256,       /* ours: vote results reach candidates only */
    FILTER_STALE_ANSWER = 512,    /* ours: the answer to an old term claims no index */
    FILTER_MOVED_ANCHOR = 2048,   /* ours: a rejected heartbeat ends the wait for a snapshot although a newer one was taken since */
    FILTER_TRANSFER_EARLY = 4096, /* ours: who is to lead is told so when it holds all, on disk */
    FILTER_CHANGE_COMMIT = 1024,  /* ours: a second membership entry makes the first one committed before it is taken */
};
void group_filters_off(unsigned filters); /* tests only: of the groups that this thread opens from now on */

#endif
