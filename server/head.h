/* What the header block of a request says, field by field as HPACK brings them. No call, no stream and no memory yet: a call that is not let in has cost no more than this. HPACK and frames
 * are h2's; which fields may stand where (RFC 9113 section 8) is here. */
#ifndef SERVER_HEAD_H
#define SERVER_HEAD_H

#include "server/headers.h"

struct method;

enum { HEAD_PATH_BYTES_MAX = 200 }; /* of a path that is none of ours, to be named in the refusal */

struct head {
    const struct method *method; /* NULL: no method has this path */
    uint64_t bytes;              /* names, values and 32 each (RFC 9113 section 6.5.2) */
    uint64_t timeout_ns;
    bool malformed; /* no request at all by RFC 9113 section 8.1.1: its stream is reset */
    bool is_post, has_content_type, has_te, has_timeout, has_traceparent, timeout_is_bad, encoding_is_unknown;
    char traceparent[HEADER_TRACEPARENT_LEN];
    uint8_t path_len, length_len;
    char length[20];                /* content-length, its digits: h2 holds the body against it */
    char path[HEAD_PATH_BYTES_MAX]; /* when there is no method */
    uint32_t seen;                  /* private: which fields, by SEEN_ */
};

void head_begin(struct head *h);
void head_on_field(struct head *h, struct slice name, struct slice value);
void head_end(struct head *h); /* all fields are there */
/* A gRPC call that may be answered with a status from here on: nothing in the head has to be told otherwise. */
bool head_is_plain(const struct head *h);

#endif
