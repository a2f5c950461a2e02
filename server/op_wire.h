/* Ops that another node's engine runs, and what came of them, as bytes between nodes (proto/link.h: ASK and ANSWER). Not those of ReadChanges, which share
 * memory with their caller and read the node's own replica. Of a POLL the deadline is how long it waits.
 *
 *   op       varint kind, slot, flags, deadline in ms from now (0: none); how old it may be, if flags say so; then by kind, in the order of the request's struct: numbers as varints, bytes counted
 *   outcome  varint status, flags (1: it may still take place);
 *            refused: message, retry delay, metadata, violations; done: by kind
 *
 * Both are part of LINK_FORMAT: a change is another format. Pure; the decoders are fuzzed. */
#ifndef SERVER_OP_WIRE_H
#define SERVER_OP_WIRE_H

#include "engine/engine.h"
#include "proto/base/buf.h"

bool op_wire_travels(enum op_kind kind);
bool op_wire_of_session(enum op_kind kind); /* of a member of a consumer group: ATTACH, DETACH, POLL, SETTLE. Its session comes with id, member_id, time and the credit that is lent to it */
/* Behind what `out` holds. false: no memory. deadline_ms: see above; partitions: of the map, the same on all nodes. */
bool op_wire_write(struct buf *out, const struct op *op, uint64_t deadline_ms, uint32_t partitions) MUST_USE;
/* Into an op that is zeroed but for its arena. It points into `bytes`, which are to live as long as it. FIELD_INVALID, MEMORY_LIMIT. */
enum status op_wire_read(struct slice bytes, struct op *op, uint64_t *deadline_ms, uint32_t partitions) MUST_USE;

bool op_wire_write_outcome(struct buf *out, const struct op *op, uint32_t partitions) MUST_USE;
/* Into the op that was asked, whose failure is clear; everything in its arena. FIELD_INVALID: not an answer to it; MEMORY_LIMIT: it does not fit the arena. */
enum status op_wire_read_outcome(struct slice bytes, struct op *op, uint32_t partitions) MUST_USE;

#endif
