/* The other way of failure_encode: what a google.rpc.Status of grpc-status-details-bin says, for clients. Bounded by the arena; a stranger's
 * bytes may be anything. */
#ifndef PROTO_DETAILS_H
#define PROTO_DETAILS_H

#include "proto/status.h"

struct details {
    int32_t code;               /* enum grpc_code, as sent */
    const char *message;        /* "" when there is none; all texts are NUL-terminated and in the arena */
    const char *reason, *domain; /* of ErrorInfo; "" without one */
    struct failure_meta *metas; /* in the order of the wire */
    struct failure_violation *violations;
    bool has_retry_delay;
    uint32_t retry_delay_ms;    /* clamped to 0 .. UINT32_MAX */
};
/* false: malformed, or the arena is full. Details of other types are skipped. */
bool details_decode(struct slice wire, struct arena *arena, struct details *out) MUST_USE;
/* The value of a metadata key; data = NULL: there is none. NUL-terminated. */
struct slice details_meta(const struct details *d, const char *key);

#endif
