#include "engine/brake.h"

enum { BURSTS_PER_S = 50, STEPS_PER_S = 500 }; /* what may be saved up: 20 ms; what it waits for at least: 2 ms */

void brake_init(struct brake *p, uint64_t now_ns) { *p = (struct brake){.peak = BRAKE_PEAK_LEAST, .at_ns = now_ns, .begun_ns = now_ns}; }

/* An interval in which the store fell behind counts as one in which it kept up: it began so. */
static void measure(struct brake *p, uint64_t now_ns) {
    if (now_ns - p->begun_ns < BRAKE_INTERVAL_NS) return;
    double rate = (double)p->written * (double)NS_PER_S / (double)(now_ns - p->begun_ns);
    if (!p->bytes_per_s) p->peak = MAX_OF(p->peak, rate);
    p->written = 0;
    p->begun_ns = now_ns;
}

static void refill(struct brake *p, uint64_t now_ns) {
    double rate = (double)p->bytes_per_s, more = rate * (double)(now_ns - p->at_ns) / (double)NS_PER_S;
    p->left = MIN_OF(p->left + more, rate / BURSTS_PER_S);
    p->at_ns = now_ns;
}

void brake_tick(struct brake *p, uint64_t now_ns, uint32_t behind) {
    measure(p, now_ns);
    bool was_paced = p->bytes_per_s;
    if (was_paced) refill(p, now_ns);
    double share = 1.0 - (double)MIN_OF(behind, (uint32_t)BRAKE_BEHIND_FULL) / BRAKE_BEHIND_FULL;
    p->bytes_per_s = behind ? (uint64_t)(p->peak * MAX_OF(share, 1.0 / BRAKE_SHARE_LEAST)) : 0;
    if (!was_paced) p->left = 0, p->at_ns = now_ns;
}

uint64_t brake_room(struct brake *p, uint64_t now_ns) {
    if (!p->bytes_per_s) return UINT64_MAX;
    if (now_ns > p->at_ns) refill(p, now_ns);
    return p->left >= 1 ? (uint64_t)p->left : 0;
}

void brake_wrote(struct brake *p, uint64_t bytes) {
    p->written += bytes;
    if (p->bytes_per_s) p->left -= (double)bytes;
}

uint64_t brake_from_ns(const struct brake *p) {
    double rate = (double)p->bytes_per_s, lacking = rate / STEPS_PER_S - p->left;
    return lacking <= 0 ? p->at_ns : p->at_ns + (uint64_t)(lacking * (double)NS_PER_S / rate);
}
