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

/* What can be served in a second: the most that was, fading by half in some seconds. What is served while little is asked for says nothing, and neither does an interval in
 * which a flush or another process had the disk or the CPU. */
static void measure_rate(struct backlog *b, uint64_t now_ns) {
    double seconds = (double)(now_ns - b->begun_ns) / (double)NS_PER_S, rate = (double)b->served / seconds;
    b->served_per_s = MAX_OF(rate, b->served_per_s * 0.98);
}

/* Two intervals in a row: a stall passes, overload stays. */
static void set_limit(struct backlog *b) {
    uint64_t limit = b->limit, mean_ns = b->served ? b->delay_sum_ns / b->served : 0;
    bool was_late = b->late_before;
    b->late_before = mean_ns > b->target_ns;
    if (b->late_before && !was_late) return;
    if (b->late_before) limit = MIN_OF(limit, (uint64_t)(b->served_per_s * (double)b->target_ns / (double)NS_PER_S));
    else if (mean_ns < b->target_ns / 2) limit += limit / 2;
    else limit += limit / 16;
    b->limit = MIN_OF(MAX_OF(limit, (uint64_t)BACKLOG_LIMIT_MIN), b->limit_max);
}

void backlog_tick(struct backlog *b, uint64_t now_ns, uint64_t queued) {
    if (now_ns < b->until_ns) return;
    if (!b->served && queued) return; /* all of it stands still: the interval goes on until something is through */
    measure_rate(b, now_ns);
    if (!b->served) b->delay_ns = 0;
    if (b->target_ns) set_limit(b);
    b->served = b->delay_sum_ns = 0;
    b->begun_ns = now_ns;
    b->until_ns = now_ns + BACKLOG_INTERVAL_NS;
}
