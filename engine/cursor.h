/* The cursor of ReadChanges: how far a reader has come in each slot. Opaque to callers, who keep it where they like and hand it back on any node. It holds
 * positions of the data, slot and seq, and nothing of partitions or nodes: it outlives restart, failover and resharding. Signed with the cluster's token
 * key, and bound to whose changes it reads: of all users, or of one. Not to the filter: a reader may go on with another one. Pure.
 *
 *   cursor = format(1) = 1, scope(1) = 'A' all users, 'U' one, 'S' the beginning of a snapshot: without runs, a consumer group alone can be sought there
 *            key id(4)      tells another cluster's cursor from a forged one
 *            user(16)       with 'U' alone: XXH3-128 of user_id, high and low, big-endian
 *            run ...        of slots that it mentions, ascending
 *            mac(16)        SipHash of all before it
 *   keys   = HMAC-SHA256(token key, "orderdb cursor"): its first 4 bytes are the key id, its last 16 SipHash's key
 *   run    = varint(slots not mentioned since the last run) varint(slots of this run, at least 1) group ...
 *   group  = of 128 slots, the last of a run of what is left:
 *            zigzag varint(lowest seq of the group - lowest seq of the group before it, of the first: - 0) width(1)
 *            each slot's seq - the lowest one, in `width` bits, from the low bits of the first byte on; bits to the byte's end are 0
 *
 * With all 16,384 slots at similar seqs that is the spread of 128 neighbours: 2.5 bytes a slot where seqs differ by a million. One slot: about 30 bytes. */
#ifndef ENGINE_CURSOR_H
#define ENGINE_CURSOR_H

#include "proto/route.h"
#include "proto/status.h"

enum {
    CURSOR_HEAD_BYTES = 1 + 1 + 4,
    CURSOR_MAC_BYTES = 16,
    CURSOR_BYTES_MIN = CURSOR_HEAD_BYTES + CURSOR_MAC_BYTES,
    /* A run of n slots and the one behind it that is not mentioned (none behind the last): gap and length 2, the first group 10 + 1, others 11 for each 128
     * slots, seqs 8 n if n > 1. That is at most 10 (n + 1). A gap or a length takes two bytes only where 128 slots pay for it. */
    CURSOR_BYTES_MAX = CURSOR_HEAD_BYTES + 16 + 10 * (SLOT_COUNT + 1) + CURSOR_MAC_BYTES,
};

/* seq[slot]: events of this slot up to and including it are behind the reader; CURSOR_START: the slot is not mentioned, the reader begins at its earliest
 * kept event. 128 KiB, of the caller's. */
enum { CURSOR_START = -1 };
struct cursor {
    int64_t seq[SLOT_COUNT];
};
void cursor_init(struct cursor *c); /* mentions nothing */

/* user_id: whose changes; empty: of all users. Writes at most CURSOR_BYTES_MAX bytes, returns how many. */
size_t cursor_encode(const struct cursor *c, struct slice user_id, struct slice key, uint8_t out[CURSOR_BYTES_MAX]) MUST_USE;
/* The beginning of a group's snapshot: every order anew, then its changes. */
size_t cursor_encode_snapshot(struct slice key, uint8_t out[CURSOR_BYTES_MAX]) MUST_USE;
bool cursor_is_snapshot(struct slice bytes, struct slice key); /* false: it is not, or not a cursor: cursor_decode says which */
/* STATUS_CURSOR_INVALID: a violation of `field`, and the metadata "cause": length, version, cluster, forged, scope. *c is then undefined. */
enum status cursor_decode(struct cursor *c, struct slice bytes, struct slice user_id, struct slice key, const char *field, struct failure *f) MUST_USE;

#endif
