/* Bytes of a stranger into a server session with test handlers. Byte 0: how (below); byte 1: size of a piece; the rest: the wire.
 * Whatever comes, it ends with no live call and no charged memory (world_close checks it). */
#include "tests/lib/h2_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WITH_PREFACE = 1, IN_PIECES = 2, OPS_COME_HOME = 4, LITTLE_MEMORY = 8, NO_OUTPUT = 16, TIME_PASSES = 32, DRAIN = 64 };

static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

static void bring_home(struct world *w) {
    while (!list_empty(&w->away)) world_home(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct world w;
    if (size < 2) return 0;
    uint8_t how = data[0];
    size_t piece = how & IN_PIECES ? (size_t)data[1] + 1 : size;
    struct h2_limits hl = world_h2_limits;
    struct call_limits cl = world_call_limits;
    if (how & LITTLE_MEMORY) hl.memory_bytes_max = 24 << 10, cl.memory_bytes_max = 32 << 10;
    data += 2, size -= 2;
    if (world_open_with(&w, &hl, &cl, 0)) {
        w.deaf = true;
        if (how & WITH_PREFACE) world_feed(&w, preface, sizeof preface - 1);
        for (size_t at = 0, n; at < size && !w.dead; at += n) {
            n = MIN_OF(piece, size - at);
            world_feed(&w, data + at, n);
            if (!(how & NO_OUTPUT)) while (world_output(&w)) {}
            if (how & OPS_COME_HOME) bring_home(&w);
            if (how & TIME_PASSES) world_time(&w, NS_PER_S), h2_sweep(w.h2);
            if (how & DRAIN) h2_drain_notice(w.h2);
        }
        if (how & DRAIN) h2_drain_final(w.h2);
        while (world_output(&w)) {}
    }
    world_close(&w);
    return 0;
}
