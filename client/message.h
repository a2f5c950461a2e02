/* Requests to bytes, bytes to answers, and the request id that every write carries. */
#ifndef CLIENT_MESSAGE_H
#define CLIENT_MESSAGE_H

#include "client/orderdb.h"
#include "proto/base/buf.h"

enum { MESSAGE_REQUEST_ID_BYTES = 129 }; /* 128 and a NUL */

bool message_pack(struct buf *out, const ProtobufCMessage *m) MUST_USE; /* replaces what was there */
void *message_unpack(const ProtobufCMessageDescriptor *type, struct slice bytes); /* orderdb_message_free() it; NULL: malformed, or no memory */
/* The options that a write is sent with: the caller's, and 32 hex characters from the kernel where there is no request id. id: the one it has. */
void message_write_options(const Orderdb__V1__WriteOptions *given, Orderdb__V1__WriteOptions *out, char id[MESSAGE_REQUEST_ID_BYTES]);
/* The same for each request of a batch, which then are copies; mem_free() the answer once it is packed. NULL: no memory. */
void *message_write_creates(Orderdb__V1__BatchCreateOrdersRequest *batch) MUST_USE;
void *message_write_transitions(Orderdb__V1__BatchTransitionOrdersRequest *batch) MUST_USE;

#endif
