/* A log on a simulated disk with small segments, for the unit tests of the log. */
#ifndef TESTS_LIB_WAL_FIXTURE_H
#define TESTS_LIB_WAL_FIXTURE_H

#include "engine/wal.h"
#include "tests/lib/sim_env.h"

enum { FIXTURE_REPLAYED_MAX = 2048 };
struct fixture_record {
    uint64_t group, index, term;
    uint8_t type;
    size_t bytes;
    uint32_t crc;
};
struct fixture {
    struct sim_world *world;
    struct sim_disk *disk;
    struct env *env;
    struct wal *wal;
    struct wal_config config; /* 64 KiB segments, batches up to 40 KiB, 256 KiB live */
    unsigned replayed_count, synced_count;
    uint64_t synced_last;
    enum status read_refuses, replay_refuses;
    char error[256];
    struct fixture_record replayed[FIXTURE_REPLAYED_MAX]; /* by the last open or read */
};
int fixture_setup(void **state);
int fixture_teardown(void **state); /* closes what is open; nothing may be left on the counted heap (ASan sees) */

enum status fixture_try_open(struct fixture *f) MUST_USE; /* f->error; on failure the env is closed again */
void fixture_open(struct fixture *f);
void fixture_close(struct fixture *f);
void fixture_crash(struct fixture *f);                    /* power cut, then memory is given back */
void fixture_reopen(struct fixture *f);
void fixture_append(struct fixture *f, uint64_t group, uint64_t index, const char *text); /* term 1, type 1 */
void fixture_drain(struct fixture *f);                    /* until no batch is in flight */
void fixture_sync(struct fixture *f);                     /* commit and drain */
enum status fixture_read(struct fixture *f, uint64_t group, uint64_t first, uint64_t last) MUST_USE; /* into replayed */
void assert_replayed(const struct fixture *f, unsigned at, uint64_t group, uint64_t index, const char *text);

#endif
