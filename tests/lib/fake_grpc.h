/* A gRPC server for tests of the client: one thread, a port of its own on loopback, and a handler that says what to do with each request. */
#ifndef TESTS_LIB_FAKE_GRPC_H
#define TESTS_LIB_FAKE_GRPC_H

#include "proto/base/bytes.h"

enum fake_action {
    FAKE_ANSWER,       /* headers, message (when status is 0), trailers */
    FAKE_STATUS_ONLY,  /* trailers alone */
    FAKE_SILENCE,      /* nothing, ever */
    FAKE_RESET,        /* RST_STREAM with reset_code */
    FAKE_GOAWAY,       /* answer, with a GOAWAY before it */
    FAKE_DROP,         /* close the connection */
    FAKE_RAW,          /* the body bytes as they are, then trailers */
    FAKE_STREAM,       /* the stream's handler goes on: fake_grpc_on_stream() */
    FAKE_HTTP,         /* an HTTP answer that is no gRPC */
};
struct fake_reply {
    enum fake_action action;
    int grpc_status, http_status;
    uint32_t reset_code;
    char message[128], pushback[16]; /* empty: not sent */
    uint8_t details[1024], body[4096];
    size_t details_len, body_len;
};
struct fake_request {
    const char *path, *timeout; /* "": not sent */
    struct slice body;          /* framed messages as they came */
    bool early;                 /* at the headers, before the body: only when the server was told so */
};
/* On the server's thread. out starts as a FAKE_ANSWER with an empty message and status 0. */
typedef void fake_handler(void *user, const struct fake_request *r, struct fake_reply *out);

struct fake_grpc;
struct fake_grpc *fake_grpc_start(fake_handler *handler, void *user, bool early, uint16_t port); /* port 0: any */
uint16_t fake_grpc_port(const struct fake_grpc *f);
void fake_grpc_set_max_streams(struct fake_grpc *f, uint32_t n); /* for connections accepted from now on */
unsigned fake_grpc_connections(const struct fake_grpc *f);       /* accepted so far */
unsigned fake_grpc_pings(const struct fake_grpc *f);             /* PING frames received so far */
unsigned fake_grpc_resets(const struct fake_grpc *f);            /* RST_STREAM frames received so far */

/* Streams of answers. The handler is called for each message of the client's that comes after the reply FAKE_STREAM (with `early`: from the first one on), and with
 * NULL at its half-close. What it sends goes out as the client's windows allow. */
struct fake_stream;
typedef void fake_stream_handler(void *user, struct fake_stream *s, const struct slice *message);
void fake_grpc_on_stream(struct fake_grpc *f, fake_stream_handler *handler); /* before the first call */
void fake_stream_send(struct fake_stream *s, struct slice message);
void fake_stream_send_bytes(struct fake_stream *s, struct slice bytes); /* as they are, without a frame's head */
void fake_stream_end(struct fake_stream *s, int grpc_status, const char *message); /* trailers, behind what was sent */
void fake_stream_reset(struct fake_stream *s, uint32_t h2_error);
void fake_stream_drop(struct fake_stream *s); /* the connection */
const char *fake_stream_path(const struct fake_stream *s);
void **fake_stream_user(struct fake_stream *s);
uint64_t fake_grpc_streamed_bytes(const struct fake_grpc *f); /* of streams' answers, that left the server so far */
void fake_grpc_stop(struct fake_grpc *f);

#endif
