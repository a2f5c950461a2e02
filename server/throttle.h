/* How many calls a client is let keep in flight on one connection while writes wait: HTTP/2's SETTINGS_MAX_CONCURRENT_STREAMS, lowered and raised again.
 *
 * What is admitted waits for about the queue's target (engine/backlog.h), but what is not read yet waits in the sockets, and of that the queue knows nothing: with eight connections of 256 streams it
 * is longer than the queue. A client that knows it may have fewer streams keeps those calls to itself, where they can be given up, sent elsewhere, or not be made at all. Stock clients follow at once (RFC 9113
 * section 5.1.2: who lowers the value below the streams that are open lets them complete). It is advice: more streams than told are served like others, up to the limit that the connection
 * began with; a client may have sent them before it knew.
 *
 * RFC 9113 section 6.5.2 recommends no less than 100, so as not to limit parallelism without need. Here is need: it is below only while writes wait. */
#ifndef SERVER_THROTTLE_H
#define SERVER_THROTTLE_H

#include "proto/base/bytes.h"

#define THROTTLE_INTERVAL_NS (100 * NS_PER_MS)
enum { THROTTLE_STREAMS_MIN = 8 };

/* The node's; core 0 ticks. */
struct throttle {
    uint32_t streams, streams_max;
    uint64_t target_ns; /* queue-target; 0: streams stays streams_max */
    uint64_t until_ns, waits_ns, insides, count, closed_count; /* the interval, and sums of what was told in it */
};
struct throttle_load {
    uint64_t wait_ns;    /* how long writes wait now */
    uint64_t inside;     /* how many are let in and not answered */
    uint64_t rate;       /* the most that were served in a second lately */
    uint64_t inside_min; /* so many keep the server busy however slow it is */
    bool closed;         /* no write is taken: few are inside, and that is no reason for more */
};
void throttle_init(struct throttle *t, uint32_t streams_max, uint64_t target_ns, uint64_t now_ns);
/* Once a turn; means over an interval are what counts. Lowered while writes wait at all (an eighth of the target) and more are inside than are served in a third of the target (Little's law): what
 * keeps the server busy stays inside though a stall makes it wait, and the target itself is not reached, so nothing need be refused. Raised while there are fewer than three quarters of that. */
void throttle_tick(struct throttle *t, uint64_t now_ns, const struct throttle_load *load);

/* A connection's. */
struct throttle_peer {
    uint32_t told;   /* 0: nothing since the connection began */
    uint32_t unacked; /* SETTINGS of ours without an acknowledgement: 0 or 1 */
    bool greeted;    /* the acknowledgement of the session's own SETTINGS, which are the first, has come */
};
/* Writes a SETTINGS frame when the peer is to be told another value than it knows. streams: what it may have now; streams_max: what it was told first; open: what it has. A peer that has few is not told
 * to have fewer. */
void throttle_write(struct throttle_peer *p, uint32_t streams, uint32_t streams_max, uint32_t open, struct writer *w);
/* The peer acknowledges SETTINGS. true: ours, the session has nothing to do with it. */
bool throttle_on_ack(struct throttle_peer *p);

#endif
