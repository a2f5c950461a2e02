/* Streams of one connection that were answered before they became any (call_refuse): frames that wait for the next output, and what such streams took of the connection's window. Plain bytes: no HTTP/2
 * library knows of these streams, and none has to. An honest peer has no more of them than it may have streams open, for to it each one is open until its answer comes. */
#ifndef SERVER_REFUSED_H
#define SERVER_REFUSED_H

#include "proto/base/bytes.h"

struct refusal;
struct refused {
    struct refusal *refusals; /* in the order in which they came */
    uint32_t count, cap;
    uint64_t window_bytes; /* DATA that came for such streams and that the peer's window has not been given back */
};

enum refused_add { REFUSED_ADDED, REFUSED_TOO_MANY, REFUSED_NO_MEMORY };
/* block: borrowed until it is written. ended: the peer has said all. */
enum refused_add refused_add(struct refused *r, uint32_t count_max, uint32_t id, struct slice block, bool ended) MUST_USE;
/* The peer has said all of it, or does not want the answer any more. */
void refused_end(struct refused *r, uint32_t id);
void refused_reset(struct refused *r, uint32_t id);
/* HEADERS that end the stream, and RST_STREAM NO_ERROR where the peer has more to say (RFC 9113 section 8.1); at most this many bytes, whole frames. */
void refused_write(struct refused *r, struct writer *w, size_t bytes_max);
/* WINDOW_UPDATE of the connection, when what came is worth it. */
bool refused_window_due(const struct refused *r, uint32_t window_bytes);
void refused_write_window(struct refused *r, struct writer *w);
size_t refused_memory_bytes(const struct refused *r);
/* Gives the memory back, when nothing waits. */
void refused_rest(struct refused *r);
void refused_fini(struct refused *r);

#endif
