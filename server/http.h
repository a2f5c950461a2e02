/* A small HTTP/1.1 server for the operations port: GET and HEAD, one request a connection, bounded in everything. Lives on one core. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "proto/base/buf.h"

struct core;
struct http;
struct http_exchange;

enum { HTTP_REQUEST_BYTES_MAX = 8192, HTTP_CONNECTIONS_MAX = 32, HTTP_TIMEOUT_S = 10 };

/* ---- the parser; pure */
enum http_parse { HTTP_PARSE_MORE, HTTP_PARSE_OK, HTTP_PARSE_BAD };
struct http_request {
    struct slice method, path; /* path: without the query */
    size_t bytes;              /* of the head, its empty line included */
};
/* MORE: the head is not complete. BAD: not HTTP/1.0 or 1.1, or an answer to it would not be understood. */
enum http_parse http_parse(struct slice in, struct http_request *out) MUST_USE;

/* ---- the server */
/* handle() answers with one http_respond, now or later, on this core. */
struct http *http_new(struct core *core, void (*handle)(void *ctx, struct http_exchange *x, struct slice path), void *ctx);
void http_accept(struct http *h, int fd);
/* Takes the body's memory. */
void http_respond(struct http_exchange *x, unsigned code, const char *content_type, struct buf *body);
void http_respond_text(struct http_exchange *x, unsigned code, const char *text);
/* Closes what is open; http_idle once nothing is left; then http_free. */
void http_stop(struct http *h);
bool http_idle(const struct http *h);
void http_free(struct http *h);

#endif
