/* How fast timers fire beside callers: the share of a core's time that applying them takes. Pure arithmetic on times that it is given; engine.c has one.
 *
 * The rule. A batch of timers that takes t of the core is followed by a pause, so that t is `share` of the time from batch to batch. What callers' writes wait for beyond the one sync of
 * the log that everybody waits for decides on the share: in an interval in which one waited for more than another sync and LATE_NS, the share falls by a tenth; after one in which
 * none did, it grows by a hundredth of the whole (AIMD: fast down, slowly up). So timers take what callers leave, down to PACE_SHARE_MIN, which they have whatever happens, and on a slow
 * disk, where the log's time from batch to batch is longer than any pause, nothing is lost by pausing. Without callers there is no pause. When callers come, or a core begins, nothing is known of what
 * they bear, and caches may be cold: the share begins at its least (slow start). */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#include "proto/base/bytes.h"

#define PACE_INTERVAL_NS (20 * NS_PER_MS)
#define PACE_LATE_NS (1 * NS_PER_MS)
#define PACE_CALLERS_GONE_NS (20 * NS_PER_MS) /* no write of theirs for so long: no pauses */
#define PACE_SLOW_START_NS (1 * NS_PER_S)     /* and for so long: they come anew */
#define PACE_SHARE_MIN 0.05
#define PACE_SHARE_MAX 0.45 /* reading ahead of what fires takes as much again, of other threads */

struct pace {
    /* private */
    double share;
    uint64_t called_ns;           /* the last write of a caller */
    uint64_t log_ns;              /* a sync of the log, smoothed */
    uint64_t until_ns;            /* end of the interval */
    bool late;                    /* in it */
    uint64_t begun_ns, spent_ns;  /* of the batch: when it was proposed, what it has taken */
    uint64_t next_ns;             /* not before; 0: no pause */
};

void pace_init(struct pace *p);
void pace_called(struct pace *p, uint64_t now_ns);      /* a caller writes */
bool pace_callers(const struct pace *p, uint64_t now_ns); /* some do */
/* A caller's write is through; log_ns: the sync that it was in, waited_ns: everything else. */
void pace_waited(struct pace *p, uint64_t now_ns, uint64_t waited_ns, uint64_t log_ns);
/* A batch of timers: proposed, took so much time of the core, is through. */
void pace_begun(struct pace *p, uint64_t now_ns);
void pace_spent(struct pace *p, uint64_t ns);
void pace_ended(struct pace *p, uint64_t now_ns);
bool pace_pauses(const struct pace *p, uint64_t now_ns);
/* A pause has ended: true once. */
bool pace_due(struct pace *p, uint64_t now_ns);
uint64_t pace_deadline_ns(const struct pace *p);        /* of the pause; UINT64_MAX: none */

#endif
