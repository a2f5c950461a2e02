/* How fast a partition may write while its store is behind with its files: the rate falls steadily with how far behind it is, so what is written and what runs and compactions can bear meet
 * somewhere on the way, and stay there. Pure arithmetic on times and bytes that it is given; each partition has one.
 *
 * Why not a door that opens and closes. Closed at a limit and open below it, all writes are refused for the seconds that a compaction takes, and then come at once. What is held back here instead waits in
 * the partition's queue, and how long writes wait is what everything else goes by (backlog.h, the server's door and its streams): clients are slowed down by having to wait, and refused only where they don't
 * take no for an answer. The CPU that is not spent on writes is the compactions'.
 *
 * The rule. rate = peak x (1 - behind), where the peak is the most that was written in an interval while the store kept up, and behind is the store's word (store_stats.behind). A proportional rule has a
 * resting point for each speed of the compactions, needs no rate to be searched for, and is without effect as long as the store keeps up. Too high a peak does no harm: the resting point is further up. */
#ifndef ENGINE_BRAKE_H
#define ENGINE_BRAKE_H

#include "proto/base/bytes.h"

enum { BRAKE_BEHIND_FULL = 1000, BRAKE_SHARE_LEAST = 32 };
#define BRAKE_INTERVAL_NS (200 * NS_PER_MS)
#define BRAKE_PEAK_LEAST (1 * MIB) /* bytes a second: a partition that had little to do has shown nothing */

struct brake {
    uint64_t bytes_per_s; /* 0: as fast as it likes */
    /* private */
    double peak, left;    /* left: bytes that may be written now; below 0: too many were */
    uint64_t at_ns;       /* when that was */
    uint64_t begun_ns, written;
};

void brake_init(struct brake *p, uint64_t now_ns);
/* Tells how far behind the store is, 0 to BRAKE_BEHIND_FULL; often. It is never held back for good: a share of 1 / BRAKE_SHARE_LEAST of the peak goes on. */
void brake_tick(struct brake *p, uint64_t now_ns, uint32_t behind);
/* Bytes that may be written now; what is written may be more by one command, which then takes longer to be made up for. 0: not now. */
uint64_t brake_room(struct brake *p, uint64_t now_ns);
void brake_wrote(struct brake *p, uint64_t bytes);
uint64_t brake_from_ns(const struct brake *p); /* of a brake_room that said 0: when there is some again */

#endif
