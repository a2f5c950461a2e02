/* Outcomes: one enum for the whole program, one row each in status.tbl, and the failure that a call answers with. */
#ifndef PROTO_STATUS_H
#define PROTO_STATUS_H

#include "proto/base/arena.h"

enum grpc_code { /* https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};
enum retry_advice { RETRY_NEVER, RETRY_SAME, RETRY_LATER };

enum status {
#define STATUS(name, code, reason, retry) STATUS_##name,
#include "proto/status.tbl"
#undef STATUS
    STATUS_COUNT,
};

const char *status_name(enum status s); /* "STATUS_MISMATCH" */
enum grpc_code status_grpc_code(enum status s);
const char *status_reason(enum status s);
enum retry_advice status_retry(enum status s);

/* Why a call was refused, as the caller will read it. Lives in the call's arena. When the arena is full, details are
 * dropped, never the status. */
struct failure_meta {
    struct failure_meta *next;
    const char *key;
    struct slice value;
};
struct failure_violation {
    struct failure_violation *next;
    const char *field;       /* "order.items[3].quantity" */
    const char *description; /* names limit and actual */
};
enum { FAILURE_VIOLATIONS_MAX = 20 }; /* the rest is counted in the message's metadata "more_violations" */
struct failure {
    enum status status;
    const char *message; /* a sentence for people; NULL: the reason alone */
    uint32_t retry_delay_ms;
    struct arena *arena;
    struct failure_meta *metas, **metas_end;
    struct failure_violation *violations, **violations_end;
    unsigned violation_count;
};

void failure_init(struct failure *f, struct arena *arena);
/* The struct points into itself: never copy it by assignment. Both must live in memory that the arena outlives. */
void failure_move(struct failure *to, struct failure *from);
/* The first status set stays: a failure has one cause. Returns the status for `return failure_set(...)`. */
enum status failure_set(struct failure *f, enum status s, const char *format, ...) PRINTF_LIKE(3, 4);
void failure_meta(struct failure *f, const char *key, const char *format, ...) PRINTF_LIKE(3, 4);
/* A BadRequest field violation; sets the status too when none is set yet. field: see above, copied. */
enum status failure_violation(struct failure *f, enum status s, const char *field, const char *format, ...) PRINTF_LIKE(4, 5);
/* google.rpc.Status {code, message, details: ErrorInfo, BadRequest?, RetryInfo?} as wire bytes in the failure's arena;
 * empty when the arena is full. */
struct slice failure_encode(const struct failure *f);
/* The same for a place of limited size: into `arena`, with the message cut and violations left out until it is at most bytes_max long. Empty: even so it
 * does not fit, or the arena is full. */
struct slice failure_encode_within(const struct failure *f, struct arena *arena, size_t bytes_max);

#endif
