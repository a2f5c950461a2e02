/* Bytes become the vote file: votes_open takes or mends or refuses it; what it takes, it takes again, with the same votes.
 *   byte 0: 1 mend copy 0's checksum, 2 copy 1's; the first half of the rest is copy 0, the second copy 1 */
#include <stdlib.h>

#include "engine/votes.h"
#include "engine/wal.h"
#include "proto/base/hash.h"
#include "tests/lib/sim_env.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { COPY = 32768 };

static void copy_put(uint8_t *p, const uint8_t *data, size_t size, bool mend) {
    if (size) memcpy(p, data, MIN_OF(size, (size_t)COPY));
    uint32_t count = get_le32(p + 24);
    if (mend && count <= WAL_GROUPS_MAX) put_le32(p + 12, crc32c(crc32c(0, p, 12), p + 16, 16 + (size_t)count * 24));
}

static enum status open_once(struct sim_world *w, struct sim_disk *d, uint64_t seen[16][2]) {
    struct env *env = sim_env_open(w, d);
    struct votes *v;
    char error[256];
    enum status st = votes_open(&v, env, "votes", error);
    check(st == STATUS_OK || (error[0] && v == NULL));
    memset(seen, 0, 16 * sizeof *seen);
    for (uint64_t g = 0; !st && g < 16; g++)
        if (!votes_get(v, g, &seen[g][0], &seen[g][1])) seen[g][0] = UINT64_MAX;
    if (!st) votes_close(v);
    sim_env_close(env);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct sim_world *w = sim_world_new(1);
    struct sim_disk *d = sim_disk_new(w);
    uint8_t *file = calloc(2, COPY), mend = size ? data[0] : 0;
    check(file);
    if (size) data++, size--;
    copy_put(file, data, size / 2, mend & 1);
    copy_put(file + COPY, data + size / 2, size - size / 2, mend & 2);
    sim_disk_put(d, "votes", file, 2 * COPY);
    free(file);
    uint64_t once[16][2], twice[16][2];
    if (open_once(w, d, once) == STATUS_OK) {
        check(open_once(w, d, twice) == STATUS_OK);
        check(memcmp(once, twice, sizeof once) == 0);
    }
    sim_disk_free(d);
    sim_world_free(w);
    return 0;
}
