#include "client/retry.h"

#include "proto/base/hash.h"

enum { PAUSE_MS_MIN = 20, PAUSE_MS_MAX = 2000, DOUBLINGS_MAX = 10 };

void retry_budget_init(struct retry_budget *b, unsigned saved_max) { b->tenths = b->tenths_max = b->lent = MAX_OF(saved_max, (unsigned)RETRY_SAVED_MAX) * RETRY_CALLS_PER_TOKEN; }

void retry_budget_call(struct retry_budget *b) {
    if (b->lent > 0) b->lent--;
    else if (b->tenths < b->tenths_max) b->tenths++;
}

bool retry_budget_take(struct retry_budget *b) {
    if (b->tenths < RETRY_CALLS_PER_TOKEN) return false;
    b->tenths -= RETRY_CALLS_PER_TOKEN;
    return true;
}

uint64_t retry_pause_ns(unsigned attempt) {
    uint64_t random, ms = MIN_OF((uint64_t)PAUSE_MS_MIN << MIN_OF(attempt, (unsigned)DOUBLINGS_MAX), (uint64_t)PAUSE_MS_MAX);
    random_bytes(&random, sizeof(random));
    return (ms / 2 + random % (ms / 2 + 1)) * NS_PER_MS;
}

/* What the answer, the caller and the deadline say; the budget is not asked. */
static bool retry_sensible(const struct retry_question *q, uint64_t *pause_ns) {
    if (q->stop || (q->retries_max && q->attempts > q->retries_max)) return false;
    bool passing = q->code == GRPC_UNAVAILABLE || (q->code == GRPC_RESOURCE_EXHAUSTED && q->delay_ms >= 0);
    if (!passing || (!q->repeatable && q->fate == CHANNEL_UNKNOWN)) return false;
    if (q->fate == CHANNEL_NOT_SENT && !q->wait_for_server && !q->elsewhere) return false;
    *pause_ns = q->elsewhere ? 0 : retry_pause_ns(q->attempts);
    if (q->delay_ms > 0 && !q->elsewhere) *pause_ns += (uint64_t)q->delay_ms * NS_PER_MS;
    return channel_now_ns() + *pause_ns < q->deadline_ns;
}

bool retry_allowed(struct retry_budget *b, const struct retry_question *q, uint64_t *pause_ns) {
    return retry_sensible(q, pause_ns) && (q->fate == CHANNEL_NOT_SENT || retry_budget_take(b));
}

bool retry_stream_allowed(struct retry_budget *b, const struct retry_question *q, uint64_t *pause_ns) {
    if (!retry_sensible(q, pause_ns)) return false;
    if (q->fate != CHANNEL_NOT_SENT && !retry_budget_take(b)) *pause_ns += PAUSE_MS_MAX * NS_PER_MS;
    return true;
}
