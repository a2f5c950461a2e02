#include "server/throttle.h"

#include "proto/base/mem.h"

enum { FRAME_HEAD = 9, SETTING_BYTES = 6, SETTINGS = 4, MAX_CONCURRENT_STREAMS = 3, STEPS = 8 };

void throttle_init(struct throttle *t, uint32_t streams_max, uint64_t target_ns, uint64_t now_ns) {
    *t = (struct throttle){.streams = streams_max, .streams_max = streams_max, .target_ns = target_ns, .until_ns = now_ns + THROTTLE_INTERVAL_NS};
}

/* Shares of what it is, not numbers: with many connections of few calls and one of many it comes to a value that fits the one, without anybody counting connections. */
static uint32_t next_streams(const struct throttle *t, uint64_t wait_ns, uint64_t inside, uint64_t enough) {
    if (inside < enough - enough / 4) return t->streams + t->streams / STEPS + 1;
    if (inside <= enough || wait_ns < t->target_ns / 8) return t->streams;
    return (uint32_t)MAX_OF(t->streams * enough / inside, t->streams / 2ull);
}

void throttle_tick(struct throttle *t, uint64_t now_ns, const struct throttle_load *load) {
    if (!t->target_ns) return;
    t->waits_ns += load->wait_ns;
    t->insides += load->inside;
    t->count++;
    t->closed_count += load->closed;
    if (now_ns < t->until_ns) return;
    uint64_t enough = MAX_OF(load->rate * (t->target_ns / 3) / NS_PER_S, load->inside_min);
    uint32_t streams = next_streams(t, t->waits_ns / t->count, t->insides / t->count, enough);
    if (t->closed_count) streams = MIN_OF(streams, t->streams);
    t->streams = MIN_OF(MAX_OF(streams, (uint32_t)THROTTLE_STREAMS_MIN), t->streams_max);
    t->waits_ns = t->insides = t->count = t->closed_count = 0;
    t->until_ns = now_ns + THROTTLE_INTERVAL_NS;
}

/* Not for every little change, and one at a time: a peer that does not answer is not sent another. */
static bool is_due(const struct throttle_peer *p, uint32_t streams, uint32_t streams_max, uint32_t open) {
    uint32_t known = p->told ? p->told : streams_max;
    if (p->unacked || streams == known) return false;
    if (streams < known) return known - streams > known / STEPS && open > streams / 2;
    return streams - known > known / STEPS || streams == streams_max;
}

void throttle_write(struct throttle_peer *p, uint32_t streams, uint32_t streams_max, uint32_t open, struct writer *w) {
    streams = MIN_OF(streams, streams_max);
    if (!is_due(p, streams, streams_max, open) || w->cap - w->len < FRAME_HEAD + SETTING_BYTES) return;
    write_be32(w, SETTING_BYTES << 8 | SETTINGS);
    write_u8(w, 0);
    write_be32(w, 0);
    write_u8(w, 0), write_u8(w, MAX_CONCURRENT_STREAMS);
    write_be32(w, streams);
    p->told = streams;
    p->unacked = 1;
}

bool throttle_on_ack(struct throttle_peer *p) {
    if (!p->greeted) return p->greeted = true, false;
    if (!p->unacked) return false;
    p->unacked = 0;
    return true;
}
