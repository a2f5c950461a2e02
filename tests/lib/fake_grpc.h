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
unsigned fake_grpc_resets(const struct fake_grpc *f);            /* RST_STREAM frames received so far */
void fake_grpc_stop(struct fake_grpc *f);

#endif
