#include "engine/pace.h"

void pace_init(struct pace *p) { *p = (struct pace){.share = PACE_SHARE_MIN}; }

void pace_called(struct pace *p, uint64_t now_ns)
{
    if (p->called_ns + PACE_SLOW_START_NS < now_ns) p->share = PACE_SHARE_MIN;
    p->called_ns = now_ns;
}

bool pace_callers(const struct pace *p, uint64_t now_ns) { return p->called_ns && now_ns < p->called_ns + PACE_CALLERS_GONE_NS; }

void pace_waited(struct pace *p, uint64_t now_ns, uint64_t waited_ns, uint64_t log_ns)
{
    if (now_ns >= p->until_ns) {
        p->share = p->late ? MAX_OF(p->share * 0.9, PACE_SHARE_MIN) : MIN_OF(p->share + 0.01, PACE_SHARE_MAX);
        p->until_ns = now_ns + PACE_INTERVAL_NS;
        p->late = false;
    }
    p->late |= waited_ns > p->log_ns + PACE_LATE_NS;
    p->log_ns = p->log_ns ? p->log_ns - p->log_ns / 16 + log_ns / 16 : log_ns;
}

void pace_begun(struct pace *p, uint64_t now_ns)
{
    p->begun_ns = now_ns;
    p->spent_ns = p->next_ns = 0;
}

void pace_spent(struct pace *p, uint64_t ns) { p->spent_ns += ns; }

void pace_ended(struct pace *p, uint64_t now_ns)
{
    uint64_t next_ns = p->begun_ns + (uint64_t)((double)p->spent_ns / p->share);
    p->next_ns = pace_callers(p, now_ns) && next_ns > now_ns ? next_ns : 0;
}

bool pace_pauses(const struct pace *p, uint64_t now_ns) { return now_ns < p->next_ns; }

bool pace_due(struct pace *p, uint64_t now_ns)
{
    if (!p->next_ns || now_ns < p->next_ns) return false;
    p->next_ns = 0;
    return true;
}

uint64_t pace_deadline_ns(const struct pace *p) { return p->next_ns ? p->next_ns : UINT64_MAX; }
