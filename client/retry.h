/* How often and when a failed call may be sent again.
 *
 * The budget keeps an outage from being multiplied by its clients: a retry that reached the server costs one token, a call earns a tenth of one,
 * at most RETRY_SAVED_MAX are saved. A new handle has them at once, lent: its first 10 x RETRY_SAVED_MAX calls earn nothing. So attempts stay
 * within calls + RETRY_SAVED_MAX, and from 100 calls on within 1.1 x calls. Attempts that found no server cost nothing: pauses bound them. Who has many calls in
 * flight at nodes that others stand in for may save more: one retry for each, and ten times as many calls until 1.1 x holds. */
#ifndef CLIENT_RETRY_H
#define CLIENT_RETRY_H

#include "client/channel.h"

enum { RETRY_SAVED_MAX = 10, RETRY_CALLS_PER_TOKEN = 10 };

struct retry_budget {
    /* private */
    unsigned tenths, tenths_max; /* saved */
    unsigned lent;   /* calls that still earn nothing */
};

/* One attempt has failed, so and so. */
struct retry_question {
    enum grpc_code code;
    enum channel_fate fate;
    int64_t delay_ms;      /* the server's; negative: it named none */
    bool stop;             /* the server said never, or the caller wants none */
    bool repeatable;       /* it reads, or carries a request id */
    bool wait_for_server;  /* also where nobody was reached, ever */
    bool elsewhere;        /* its node has failed it, and there is another one: no pause, and whatever delay was named is not that one's */
    unsigned attempts, retries_max; /* retries_max 0: no such limit */
    uint64_t deadline_ns;
};

void retry_budget_init(struct retry_budget *b, unsigned saved_max); /* RETRY_SAVED_MAX at least */
void retry_budget_call(struct retry_budget *b);          /* one more call was made */
bool retry_budget_take(struct retry_budget *b) MUST_USE; /* one retry; false: not now */
/* Whether another attempt may follow, and after which pause; it is then paid for. */
bool retry_allowed(struct retry_budget *b, const struct retry_question *q, uint64_t *pause_ns) MUST_USE;
/* The same for a stream that is opened again: an outage must not end it, so without a token it waits longer (2 s more) instead of not at all. */
bool retry_stream_allowed(struct retry_budget *b, const struct retry_question *q, uint64_t *pause_ns) MUST_USE;
/* Full jitter: anything from half to all of a pause that doubles with each attempt (1, 2, ...), 40 ms to 2 s. */
uint64_t retry_pause_ns(unsigned attempt);

#endif
