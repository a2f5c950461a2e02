/* gRPC over HTTP/2: message framing, timeouts, trailers' texts. Pure. https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md */
#ifndef PROTO_GRPC_H
#define PROTO_GRPC_H

#include "proto/base/bytes.h"
#include "proto/status.h"

enum { GRPC_FRAME_HEAD = 5, GRPC_MESSAGE_BYTES_MAX = 4 << 20 };

/* Compressed flag and length of a message; head: 5 bytes. */
void grpc_frame_head(uint8_t head[GRPC_FRAME_HEAD], uint32_t len);
bool grpc_frame_parse(const uint8_t head[GRPC_FRAME_HEAD], bool *compressed, uint32_t *len); /* false: a flag byte other than 0, 1 */
/* "20S", "150m": 1 to 8 digits and H M S m u n. false: malformed. */
bool grpc_timeout_parse(struct slice text, uint64_t *ns);
size_t grpc_timeout_format(uint64_t ns, char out[16]);
/* Percent-encoding of grpc-message (all but 0x20-0x7e without '%'). Returns the length; out needs 3 x. */
size_t grpc_percent_encode(struct slice s, char *out);
size_t grpc_percent_decode(struct slice s, char *out);
/* Base64 for -bin metadata, written without padding, read with or without. Returns the length; SIZE_MAX: malformed. */
size_t base64_encode(struct slice s, char *out);
size_t base64_encode_url(struct slice s, char *out); /* '-' and '_', no padding: for tokens */
size_t base64_decode(struct slice s, uint8_t *out);  /* either alphabet */
#define BASE64_LEN(n) (((n) + 2) / 3 * 4)

#endif
