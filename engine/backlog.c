#include "engine/backlog.h"

void backlog_init(struct backlog *b, uint64_t target_ns, uint64_t limit_max, uint64_t now_ns) {
    *b = (struct backlog){
        .target_ns = target_ns,
        .limit = limit_max,
        .limit_max = limit_max,
        .begun_ns = now_ns,
        .until_ns = now_ns + BACKLOG_INTERVAL_NS,
    };
}

void backlog_served(struct backlog *b, uint64_t delay_ns) {
    b->served++;
    b->delay_sum_ns += delay_ns;
    /* 1/16 each: a mean of the last few dozen, and it falls as fast as it rose */
    b->delay_ns = delay_ns > b->delay_ns ? b->delay_ns + (delay_ns - b->delay_ns) / 16 : b->delay_ns - (b->delay_ns - delay_ns) / 16;
}

/* What can be served in a second: as much as in this interval, or as in the last second or so. One interval in which a flush or another process had the disk or
 * the CPU says little, and neither does the time before a load came. */
static double measure_rate(struct backlog *b, uint64_t now_ns) {
    double seconds = (double)(now_ns - b->begun_ns) / (double)NS_PER_S, rate = (double)b->served / seconds;
    b->served_per_s += (rate - b->served_per_s) * MIN_OF(seconds * 2, 1.0);
    return MAX_OF(rate, b->served_per_s);
}

static void set_limit(struct backlog *b, double rate) {
    uint64_t limit = b->limit, mean_ns = b->served ? b->delay_sum_ns / b->served : 0;
    if (mean_ns > b->target_ns) limit = MIN_OF(limit, (uint64_t)(rate * (double)b->target_ns / (double)NS_PER_S));
    else if (mean_ns < b->target_ns / 2) limit += limit / 2;
    else limit += limit / 16;
    b->limit = MIN_OF(MAX_OF(limit, (uint64_t)BACKLOG_LIMIT_MIN), b->limit_max);
}

void backlog_tick(struct backlog *b, uint64_t now_ns, uint64_t queued) {
    if (now_ns < b->until_ns) return;
    if (!b->served && queued) return; /* all of it stands still: the interval goes on until something is through */
    double rate = measure_rate(b, now_ns);
    if (!b->served) b->delay_ns = 0;
    if (b->target_ns) set_limit(b, rate);
    b->served = b->delay_sum_ns = 0;
    b->begun_ns = now_ns;
    b->until_ns = now_ns + BACKLOG_INTERVAL_NS;
}
