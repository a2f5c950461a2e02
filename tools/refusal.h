/* A google.rpc.Status inside an answer, as one line for people: its reason, and its message with every violation. */
#ifndef TOOLS_REFUSAL_H
#define TOOLS_REFUSAL_H

#include "client/orderdb.h"
#include "proto/base/buf.h"
#include "proto/details.h"

#define REFUSAL_ARENA_BYTES (64 * KIB)

/* Appends "message; field: what is wrong; ..." and a NUL that is counted; d: code, reason and metadata, in the arena. false: it cannot be read, or no memory. */
bool refusal_read(const Google__Rpc__Status *status, struct arena *a, struct details *d, struct buf *out) MUST_USE;

#endif
