/* What the serve_* files share: decode, refuse, reply. */
#ifndef SERVER_SERVE_COMMON_H
#define SERVER_SERVE_COMMON_H

#include "orderdb/v1/order.pb-c.h"
#include "proto/scan.h"
#include "server/call.h"

enum { SERVE_RETRY_DELAY_MS = 100 }; /* for refusals that say "later" and do not know when */

/* Who may try again is told when, by every such refusal (ERRORS.md). */
uint32_t serve_retry_delay_ms(const struct failure *f);
/* The call's message, bounded and unpacked into the call's arena. NULL: the call has been failed. */
ProtobufCMessage *serve_decode(struct call *call, const ProtobufCMessageDescriptor *type) MUST_USE;
/* One token of the user's and the merchant's limits, for a request that is decoded. false: there was none, and the call has been failed. */
bool serve_take_token(struct call *call, const char *user_id, const char *merchant_id);
/* Fails the call with what an op came home with; both live in the call's arena. */
void serve_fail_with(struct call *call, struct failure *from);
void serve_fail_memory(struct call *call);
void serve_reply(struct call *call, struct slice message);
/* The view to answer with; false: a violation of "read" was added. */
bool serve_read_options(struct call *call, const Orderdb__V1__ReadOptions *read, bool full_unless_told, bool *full);
/* How old the answer may be, of options that serve_read_options has passed. A token binds reads of its own slot alone: op.bound is for those of `slot`. */
struct read_bound serve_read_bound(const Orderdb__V1__ReadOptions *read, uint16_t slot);
/* Pieces of an answer, in the call's arena; empty when that is full. A message field's tag and length, in front of bytes that lie elsewhere: */
struct slice serve_field_head(struct call *call, uint32_t field, size_t len);
/* CommitToken of a write, framed; nothing for what was only tried: */
struct slice serve_token_wire(struct call *call, uint32_t field, const struct op *op, const struct outcome *o);
void serve_token_write(struct writer *w, uint32_t field, const struct op *op, const struct outcome *o);
enum { SERVE_TOKEN_BYTES_MAX = 48 };

#endif
