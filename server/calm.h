/* Whether a peer keeps calm: counts the frames of one connection that cost us something and bring no work. It sees frame heads and what we send, and says when the connection is to end
 * (GOAWAY, ENHANCE_YOUR_CALM). No HTTP/2 library here: h2.c asks.
 *
 * Two buckets of tokens, each filled by time:
 *   resets    a stream that the peer resets at once, or makes us reset (CVE-2023-44487, CVE-2025-8671); a message that can't be read
 *   control   PING, SETTINGS, PRIORITY, WINDOW_UPDATE, DATA that is empty, tiny or padded, unknown types (CVE-2019-9511..9518). Honest peers send these with work, so a request and each
 *             real DATA frame either way gives some back
 * A client may give up a call that takes long: its streams_max streams bound how often, so a stream that was open here for a while is reset for nothing. And a call may be given up at the deadline that it
 * stated, though here it was open for a moment only, because both frames had waited in the socket of a server without a CPU; that has a bucket of its own, in milliseconds of streams, filled by time with
 * as many as streams_max calls can wait for.
 *
 * Pings without any answer of ours between them are keepalive, and are to come no more often than ping_interval_ns; the third that does ends it, as in gRPC's servers. */
#ifndef SERVER_CALM_H
#define SERVER_CALM_H

#include "server/cuts.h"

struct calm_limits {
    uint32_t streams_max; /* that the peer may have open */
    uint32_t reset_burst, reset_per_s;
    uint32_t control_burst, control_per_s;
    uint64_t ping_interval_ns;
    uint32_t continuations_max; /* of one header block */
};
struct calm_bucket {
    uint64_t tokens, filled_ns;
};
struct calm {
    struct calm_bucket resets, control, waits;
    uint64_t pinged_ns; /* 0: not yet, or we have answered something since */
    uint32_t strikes, continuations;
};

void calm_init(struct calm *c, const struct calm_limits *l, uint64_t now_ns);
/* The head of a frame from the peer (RFC 9113 section 4.1), any but RST_STREAM. CUT_NONE: go on. */
enum cut calm_on_frame(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint8_t type, uint8_t flags, uint32_t length) MUST_USE;
/* The peer resets a stream that is open here, for lived_ns now, with a call of this grpc-timeout (0: it stated none). */
enum cut calm_on_reset(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint64_t lived_ns, uint64_t timeout_ns) MUST_USE;
/* It resets a stream that is none any more: answered, refused or reset by us. There is no work to lose. */
enum cut calm_on_late_reset(struct calm *c, const struct calm_limits *l, uint64_t now_ns) MUST_USE;
/* We sent HEADERS or DATA: the peer has reason to open windows and to ping. */
void calm_on_answer(struct calm *c, const struct calm_limits *l);
/* We had to reset a stream, or to overlook a frame, such as the reset of a stream that never was. */
enum cut calm_on_fault(struct calm *c, const struct calm_limits *l, uint64_t now_ns) MUST_USE;
/* A message of so many bytes could not be read (malformed, nested): it costs what a reset does for each whole 2 KiB of its first 16 KiB, or for each whole 16 KiB that came in vain, the whole bucket at most: with
 * the default limits a second one of 4 MiB within some seconds ends the connection. A small one costs no more than any
 * refused request, and a client with a bug keeps its connection. 0 bytes: not even the head of the message was right (its length, compressed): as a reset. */
enum cut calm_on_unreadable(struct calm *c, const struct calm_limits *l, uint64_t now_ns, uint64_t bytes) MUST_USE;
/* What GOAWAY says; "too_many_pings" is what gRPC's clients look for, to ping less often. */
const char *calm_text(enum cut why);

#endif
