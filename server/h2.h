/* HTTP/2, server side: one nghttp2 session per connection. The only includer of <nghttp2/nghttp2.h> in the server. Knows bytes, frames, streams and
 * windows; what a request means is call's. No sockets here: bytes go in through h2_feed and come out through h2_output, so tests and the fuzzer drive it
 * from memory, and TLS sits between it and conn.
 *
 * All calls on the core's thread. nghttp2 copies nothing of ours that is static or lives in the call's arena: a call lives until its stream is closed. */
#ifndef SERVER_H2_H
#define SERVER_H2_H

#include "proto/base/bytes.h"
#include "proto/base/list.h"
#include "proto/status.h"
#include "server/calm.h"
#include "server/head.h"

struct core;
struct h2;

struct h2_limits {
    uint32_t streams_max;             /* open at once, as told to the peer; twice as many calls when those of reset streams are still at work */
    uint32_t stream_window_bytes;     /* what a peer may send on a stream before it is consumed */
    uint32_t connection_window_bytes;
    uint32_t header_bytes_max;        /* of one header list, RFC 9113 section 6.5.2 */
    uint32_t memory_bytes_max;        /* nghttp2's heap of one connection; beyond it the connection ends */
    struct calm_limits calm;          /* resets, pings and frames without work; beyond them the connection ends */
    uint32_t bytes_per_s_min;         /* of a message that comes in, and of an answer that the peer takes; looked at every grace_ns */
    uint64_t grace_ns;
    uint64_t transfer_ns;             /* from a message's first byte to its last, either way */
    uint64_t stall_ns;                /* between the messages of a client's stream, and whatever the rate is: no byte */
};

/* What an h2 asks of its connection: to be flushed at the end of the cycle. May be called again before that. */
typedef void (*h2_on_output)(void *owner);

struct h2 *h2_new(struct core *core, const struct h2_limits *limits, h2_on_output on_output, void *owner); /* NULL: no memory */
/* Streams that are still open are told (call_on_gone). */
void h2_free(struct h2 *h2);
/* false: the connection is over, for the reason in h2_error; flush what there is (GOAWAY), then close. */
bool h2_feed(struct h2 *h2, struct slice bytes) MUST_USE;
/* Fills w with frames, as far as windows and room allow. Give it at least H2_OUTPUT_BYTES_MIN. */
enum { H2_OUTPUT_BYTES_MIN = 2 * (16384 + 9 + 64) };
void h2_output(struct h2 *h2, struct writer *w);
bool h2_wants_output(const struct h2 *h2);
bool h2_finished(const struct h2 *h2); /* asked when h2_output had nothing: close the connection */
/* Why the connection is over, when that is the peer's fault or memory's; in words, for the log. CUT_NONE and NULL: it is not, or in order. */
enum cut h2_fault(const struct h2 *h2);
const char *h2_error(const struct h2 *h2);
uint64_t h2_frame_begun_ns(const struct h2 *h2); /* since when a frame or a header block is there in part; 0: none */
uint32_t h2_open_streams(const struct h2 *h2);
/* Who the peer has shown to be (limits_key); 0: nobody. For the streams that begin from now on. */
void h2_set_principal(struct h2 *h2, uint64_t principal);
uint64_t h2_principal(const struct h2 *h2);
uint64_t h2_requests(const struct h2 *h2);     /* header blocks that came whole: the first one ends the first-request timeout */
uint64_t h2_refused(const struct h2 *h2);      /* of those, what was answered by call_refuse */
bool h2_served(const struct h2 *h2);           /* it has had a message in answer */
size_t h2_memory_bytes(const struct h2 *h2);
/* GOAWAY in two steps, so that requests under way to us are not lost (RFC 9113 section 6.8): notice first, the last stream after a round trip. */
void h2_drain_notice(struct h2 *h2);
void h2_drain_final(struct h2 *h2);
void h2_ping(struct h2 *h2);
/* A stream asks for its peer's loss to be noticed in about this time: told to the connection, if it has said that it can. */
void h2_set_watch(struct h2 *h2, void (*watch)(void *owner, unsigned timeout_ms));
void h2_watch_peer(struct h2 *h2, unsigned timeout_ms);
/* Nothing happens here for a while: gives memory back that the next frame takes again. */
void h2_rest(struct h2 *h2);
/* Resets streams whose peer is too slow; called every few seconds. The last one's reason, counted already; CUT_NONE: all are well. */
enum cut h2_sweep(struct h2 *h2);

/* ---- One stream; embedded in its call. */
enum { H2_PARTS_MAX = 6, H2_TRAILERS_MAX = 3, H2_FIELDS_MAX = 10 };
enum h2_wait {
    H2_WAIT_NOT,   /* it is our turn */
    H2_WAIT_PEER,  /* for whatever it says next: stall_ns */
    H2_WAIT_BYTES, /* for the rest of a message, or until it has taken one: at a rate */
};
struct h2_field {
    struct slice name, value;
};
struct h2_stream {
    struct h2 *h2;      /* NULL: the connection is gone */
    struct list link;   /* among the connection's calls, until h2_stream_end */
    int32_t id;
    bool open;          /* false: closed or reset; nothing can be sent */
    enum h2_wait waits; /* for the peer; set by h2_wait */
    bool going_out;     /* its answer, not its request */
    bool lasts;         /* h2_lasts */
    uint64_t begun_ns, timeout_ns;           /* the peer's grpc-timeout; 0: none */
    uint64_t waits_ns, progress_ns, rate_ns; /* since when; the last byte; since when bytes are counted for the rate */
    uint64_t rate_bytes;
    /* private: the message on its way out */
    const struct slice *parts;
    size_t part_count, part_offset;
    uint64_t bytes_left; /* not yet handed to a frame */
    struct slice parts_inline[H2_PARTS_MAX + 1];
    bool streaming;      /* h2_send_part: messages follow one another */
    struct list sent_link; /* a message went out whole in this h2_output: call_on_sent is due */
    const struct h2_field *more; /* the owner's: trailers of a message beside grpc-status, H2_TRAILERS_MAX at most; they live as long as the message */
    size_t more_count;
};
/* HTTP status 200, one DATA body of these parts, trailers grpc-status: 0 and `more`. The array is copied when count <= H2_PARTS_MAX + 1, else it and in any case the bytes live
 * until the stream is gone. */
void h2_send_message(struct h2_stream *s, const struct slice *parts, size_t count);
/* Of several messages the next one; the answer's head goes before the first. One at a time: the bytes live until call_on_sent, or until the stream is gone. */
void h2_send_part(struct h2_stream *s, const struct slice *parts, size_t count);
/* A header block that ends the stream: trailers when parts went before (no pseudo-headers and no content-type then). Names and values are copied. */
void h2_send_end(struct h2_stream *s, const struct h2_field *fields, size_t count);
enum h2_reset { H2_RESET_CANCEL, H2_RESET_REFUSED, H2_RESET_INTERNAL };
void h2_reset(struct h2_stream *s, enum h2_reset why);
/* What the stream waits for now. A message that follows another begins anew when H2_WAIT_NOT was between them. */
void h2_wait(struct h2_stream *s, enum h2_wait what);
/* It is no call that ends soon, and takes no place among those when the connection may have fewer (throttle.h). */
void h2_lasts(struct h2_stream *s);
/* Its message, of which so many bytes came, can't be read: counted (calm.h), and the connection may end for it. */
void h2_on_unreadable(struct h2_stream *s, uint64_t bytes);
/* Opens the stream's window again by n bytes of request that were taken. */
void h2_consume(struct h2_stream *s, size_t n);
/* The answer was given (h2_send_end) and needs nothing of the call: the stream ends by itself, nothing more is told of it, and the call may end now. */
void h2_forget(struct h2_stream *s);
/* The call is over: its stream is forgotten. */
void h2_stream_end(struct h2_stream *s);

/* ---- What h2 tells the call (call.c). None of them may free the h2. */
/* A request that would be answered from its head alone, because there is too much to do: the header block to say so, as it goes over the wire (RFC 7541, without the dynamic table); it lives as long
 * as the core. There is no call then, and no stream. Empty: call_begin follows. */
struct slice call_refuse(struct core *core, const struct head *head);
struct h2_stream *call_begin(struct core *core); /* NULL: no more calls on this core */
void call_on_head(struct h2_stream *s, const struct head *head);
void call_on_data(struct h2_stream *s, struct slice bytes);
void call_on_half_close(struct h2_stream *s);
/* The message of h2_send_part is in the connection's hands. Called from the end of h2_output. */
void call_on_sent(struct h2_stream *s);
/* Closed: sent whole, reset by either side, or the connection is gone. The call may be freed within. */
void call_on_gone(struct h2_stream *s);

/* Version of the HTTP/2 library that runs; NULL: older than 1.52.0, whose fixes against floods and resets are relied on. */
const char *h2_library_version(void);

#endif
