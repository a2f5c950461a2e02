/* gRPC calls over HTTP/2 on TCP, with TLS where told, asynchronous: any number of calls in flight on a channel's one connection, answers by callback, all
 * on the thread that turns the loop. It neither retries nor waits by itself: orderdb.c does both on top.
 *
 * A channel connects when its first call starts and again with the next call after a connection was lost. A call ends exactly once, with
 * one callback, out of channel_loop_turn() and never out of the function that started or cancelled it.
 *
 * Answers that are streams of messages come by on_message, one at a time. What the caller has not released holds the stream's window, so the server stops:
 * memory is one message and CHANNEL_STREAM_BYTES_MAX a call, whatever the server would like to send. */
#ifndef CLIENT_CHANNEL_H
#define CLIENT_CHANNEL_H

#include "proto/base/bytes.h"
#include "proto/status.h"

struct tls_source;
struct channel_loop;
struct channel;
struct channel_call;

enum { CHANNEL_MESSAGE_BYTES_MAX = 64 << 20, CHANNEL_METADATA_BYTES_MAX = 64 << 10, CHANNEL_PORT_DEFAULT = 7400, CHANNEL_STREAM_BYTES_MAX = 8 << 20 };
#define CHANNEL_FOREVER UINT64_MAX

struct channel_loop *channel_loop_new(void); /* NULL: no memory */
void channel_loop_free(struct channel_loop *l); /* its channels are closed; callbacks not run yet are dropped */
/* One turn: writes what is queued, waits at most wait_ns for the network or a deadline, runs the callbacks of messages and of calls that ended. Returns
 * how many ran. Callbacks may start, feed and cancel calls and close channels; they don't turn the loop. */
unsigned channel_loop_turn(struct channel_loop *l, uint64_t wait_ns);
/* For those who wait with a poll of their own: writes what is queued, and tells what a turn would wait for and until when (CHANNEL_FOREVER).
 * The table is the loop's, until its next turn. Then turn with wait_ns 0. */
struct pollfd;
size_t channel_loop_polls(struct channel_loop *l, const struct pollfd **polls, uint64_t *until_ns);
uint64_t channel_now_ns(void); /* the clock of deadlines: CLOCK_MONOTONIC */

/* target: "host:port", "1.2.3.4:port", "[::1]:port"; without a port 7400. NULL with errno EINVAL or ENOMEM. Names are looked up when a
 * connection is made. */
struct channel *channel_open(struct channel_loop *l, const char *target);
/* Before the first call. The source is borrowed until the channel is closed. server_name: who the server's certificate must name; NULL: the target's
 * host. false: no memory. */
bool channel_use_tls(struct channel *c, struct tls_source *source, const char *server_name) MUST_USE;
/* A connection with calls that has said nothing for so long is asked, and lost if no answer comes in time. 75 s and 20 s unless told. Servers refuse pings that
 * come too often: pause_ns from one to the next at least. */
void channel_ping(struct channel *c, uint64_t after_ns, uint64_t answer_ns, uint64_t pause_ns);
/* Calls under way end with CANCELLED in the loop's next turn. */
void channel_close(struct channel *c);
bool channel_was_connected(const struct channel *c); /* has a connection ever been made; with TLS: has the server said anything behind its handshake */

enum channel_fate {
    CHANNEL_ANSWERED, /* the server's own word */
    CHANNEL_NOT_SENT, /* the server did not and will not process it: repeating is safe whatever it is */
    CHANNEL_UNKNOWN,  /* sent, no answer: it may have taken effect, or may yet */
};
enum { CHANNEL_PUSHBACK_NONE = -1, CHANNEL_PUSHBACK_STOP = -2 };

/* Slices are borrowed for the time of the callback. */
struct channel_answer {
    enum grpc_code code;
    enum channel_fate fate;
    struct slice response; /* the message, when code is OK; empty for a stream */
    struct slice message;  /* grpc-message decoded, or what went wrong here */
    struct slice details;  /* google.rpc.Status as wire bytes; empty: none came */
    int64_t pushback_ms;   /* grpc-retry-pushback-ms; CHANNEL_PUSHBACK_NONE, CHANNEL_PUSHBACK_STOP: do not retry */
    uint64_t leader;       /* orderdb-leader: the node that the asked one passed the call on to; 0: it answered by itself, or did not say */
};
typedef void channel_answer_cb(void *user, const struct channel_answer *a);

/* A message of a stream. true: done with it. false: it is kept: it stays where it is, and no other one comes, until channel_release(); or, when the call is cancelled,
 * runs out of time or loses its channel, until on_answer has returned. All messages that came whole are handed over before on_answer tells the end. */
typedef bool channel_message_cb(void *user, struct slice message);

struct channel_request {
    const char *path;     /* "/orderdb.v1.OrderService/GetOrder" */
    struct slice message; /* copied */
    bool stream;          /* messages follow by channel_send(); `message` is not sent */
    bool lasts;           /* silence is normal: it gives no reason for a ping sooner than usual */
    uint64_t deadline_ns; /* on channel_now_ns()'s clock; 0: none. Sent as grpc-timeout, kept here as well */
    channel_answer_cb *on_answer;
    channel_message_cb *on_message; /* NULL: the answer is one message, told by on_answer */
    void *user;
};
/* NULL: no memory, and no callback. The call is the channel's; the pointer is valid until its callback has returned. */
struct channel_call *channel_start(struct channel *c, const struct channel_request *r);
/* One more message of a stream, copied. false: no memory, or the call has ended already (its callback tells how). */
bool channel_send(struct channel_call *call, struct slice message) MUST_USE;
void channel_send_end(struct channel_call *call);
size_t channel_unsent_bytes(const struct channel_call *call); /* for the sender to hold back */
void channel_release(struct channel_call *call); /* the message that on_message kept; not in on_message itself */
/* Ends with CANCELLED, unless it has ended: then with the status it has. Messages not handed over yet are dropped. */
void channel_cancel(struct channel_call *call);

#endif
