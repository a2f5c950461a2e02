/* Random appends, commits, trims, reads, closes and crashes of a log on a simulated disk, against a model: what was reported synced is replayed, in order,
 * unless trimmed or superseded; nothing else is but the tail that was under way. One seed, one history. */
#ifndef TESTS_LIB_WAL_MODEL_H
#define TESTS_LIB_WAL_MODEL_H

#include "tests/lib/sim_env.h"

struct wal_model_options {
    unsigned steps;      /* default 600 */
    bool sync_lies;      /* the device acknowledges before it is durable */
    bool crash_in_open;  /* the power also goes at a random change during recovery */
    bool small_disk;     /* now and then the disk is full */
};
/* true: the log kept its promises. false: why[] says how not. */
bool wal_model_run(uint64_t seed, const struct wal_model_options *options, char why[512]);

#endif
