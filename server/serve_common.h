/* What the serve_* files share: decode, refuse, reply. */
#ifndef SERVER_SERVE_COMMON_H
#define SERVER_SERVE_COMMON_H

#include "proto/scan.h"
#include "server/call.h"

enum { SERVE_RETRY_DELAY_MS = 100 }; /* for refusals that say "later" and do not know when */

/* The call's message, bounded and unpacked into the call's arena. NULL: the call has been failed. */
ProtobufCMessage *serve_decode(struct call *call, const ProtobufCMessageDescriptor *type) MUST_USE;
/* Fails the call with what an op came home with; both live in the call's arena. */
void serve_fail_with(struct call *call, const struct failure *from);
void serve_fail_memory(struct call *call);
void serve_reply(struct call *call, struct slice message);

#endif
