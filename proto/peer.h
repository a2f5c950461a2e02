/* Messages between the replicas of a group, as bytes: Raft's, those that bring a snapshot (FETCH, CHUNK), those by which a replica that remembers nothing finds its place (RETURN, RETURNED) and
 * those for reads, each of which is about many groups (CONFIRM to SO_FAR; docs/CLUSTER.md). Pure: nothing here allocates or knows what a message means; group.c, partition_source.c,
 * partition_return.c and partition_present.c do.
 *
 *     0  u32 magic "ODPM"    4  u8 format (1)   5  u8 kind   6  u16 zero
 *     8  u32 length of the whole frame
 *    12  u32 CRC-32C of bytes 0..11 and 16..length
 *    16  u64 group   24  u64 from   32  u64 to   40  u64 term
 *    48  body, by kind; u8 flags are followed by seven zero bytes
 *        VOTE           u64 last_index, u64 last_term, u8 flags (1 pre_vote, 2 disrupt)
 *        VOTE_RESULT    u8 flags (1 pre_vote, 2 granted)
 *        APPEND         u64 prev_index, u64 prev_term, u64 commit, u32 count, u32 zero, then count times:
 *                       u64 term, u32 length, u8 type, 3 zero bytes, length bytes
 *        APPEND_RESULT  u64 rejected (0: accepted), u64 last_index
 *        SNAPSHOT       u64 index, u64 index_term, u64 members_index, u32 length, u32 zero, members' bytes
 *        TIMEOUT_NOW    u64 last_index, u64 last_term
 *        FETCH          u64 session (0: begin), u64 offset (beginning: the index applied), u32 bytes wanted, u32 zero
 *        CHUNK          u64 session, u64 total, u64 offset, u32 length, u8 state (1 data, 2 wait, 3 gone), 3 zero bytes, length bytes
 *        RETURN         u64 nonce, u64 last_index
 *        RETURNED       u64 nonce, u64 last_index, u8 phase (1 fresh, 2 agreed, 3 returning, 4 acting, 5 gone: the asker is no member any more), u8 leads (0, 1), 6 zero bytes, u64 index of the newest members in its log (gone: of the committed ones, which the asker is not among)
 *        CONFIRM, CONFIRMED, HOW_FAR, SO_FAR
 *                       u64 round, then 1 to 256 times: u64 group, u64 term, u64 index (SO_FAR; 0 in the others). Group and term at 16 and 40 are 0
 *
 * Little endian. One meaning has one encoding: spare bits and bytes must be zero, the length must be exact. A frame that decodes holds only
 * terms and indexes in [1, 2^62) (0 where named; rounds too are below 2^62), entry terms that do not go back and do not pass the message's, and a membership entry alone. */
#ifndef PROTO_PEER_H
#define PROTO_PEER_H

#include "proto/base/bytes.h"
#include "proto/status.h"

enum {
    PEER_FORMAT = 1,
    PEER_HEAD_BYTES = 48,
    PEER_ENTRY_HEAD_BYTES = 16,
    PEER_ENTRIES_MAX = 256,
    PEER_ENTRY_BYTES_MAX = 8 << 20,  /* as WAL_RECORD_BYTES_MAX */
    PEER_FRAME_BYTES_MAX = 16 << 20,
    PEER_MEMBERS_BYTES_MAX = 256,
    PEER_CHUNK_BYTES_MAX = 1 << 20,
    PEER_PLACE_BYTES = 24,
    PEER_PLACES_MAX = 256,
    PEER_TYPE_MEMBERS = 3,           /* group.h's GROUP_CHANGE, 1 and 2 are the other types */
};
#define PEER_NUMBER_MAX ((1ull << 62) - 1) /* terms and indexes: adding to one never overflows */
static_assert(PEER_FRAME_BYTES_MAX >= PEER_ENTRY_BYTES_MAX + 4096, "the largest entry fits a frame of its own");

enum peer_kind { PEER_VOTE = 1, PEER_VOTE_RESULT, PEER_APPEND, PEER_APPEND_RESULT, PEER_SNAPSHOT, PEER_TIMEOUT_NOW, PEER_FETCH, PEER_CHUNK, PEER_RETURN, PEER_RETURNED,
                 PEER_CONFIRM, PEER_CONFIRMED, PEER_HOW_FAR, PEER_SO_FAR };
enum peer_chunk_state { PEER_CHUNK_DATA = 1, PEER_CHUNK_WAIT, PEER_CHUNK_GONE };
enum peer_phase { PEER_FRESH = 1, PEER_AGREED, PEER_RETURNING, PEER_ACTING, PEER_GONE };

struct peer_entry {
    uint64_t term;
    uint8_t type;
    struct slice data;
};
struct peer_place { /* of a group in a round: PEER_PLACE_BYTES of struct peer_message's round.places */
    uint64_t group, term, index;
};
struct peer_message {
    enum peer_kind kind;
    uint64_t group, from, to, term;
    union {
        struct { uint64_t last_index, last_term; bool pre_vote, disrupt; } vote;
        struct { bool pre_vote, granted; } vote_result;
        struct { uint64_t prev_index, prev_term, commit; const struct peer_entry *entries; uint32_t count; } append;
        struct { uint64_t rejected, last_index; } append_result;
        struct { uint64_t index, index_term, members_index; struct slice members; } snapshot;
        struct { uint64_t last_index, last_term; } timeout_now;
        struct { uint64_t session, offset; uint32_t bytes; } fetch;
        struct { uint64_t nonce, last_index; } back; /* RETURN */
        struct { uint64_t nonce, last_index; enum peer_phase phase; bool leads; uint64_t members_index; } returned;
        struct { uint64_t round; struct slice places; } round;
        struct { uint64_t session, total, offset; enum peer_chunk_state state; struct slice data; } chunk; /* total, data: 0 and empty unless DATA, whose data is never empty and ends at `total` at the latest */
    };
};

/* The kind that a frame says it is of, before it is decoded; 0: it is too short. */
static inline unsigned peer_frame_kind(struct slice frame) { return frame.len >= PEER_HEAD_BYTES ? frame.data[5] : 0; }
static inline size_t peer_places_count(const struct peer_message *m) { return m->round.places.len / PEER_PLACE_BYTES; }
struct peer_place peer_place_at(const struct peer_message *m, size_t i);
void peer_place_put(uint8_t out[PEER_PLACE_BYTES], struct peer_place place);
/* Bytes that the message takes; at most PEER_FRAME_BYTES_MAX, else 0. */
size_t peer_encoded_bytes(const struct peer_message *m);
/* false: the writer is too small. */
bool peer_encode(const struct peer_message *m, struct writer *w) MUST_USE;
/* entries: room for PEER_ENTRIES_MAX, out->append.entries points there; their data, out->snapshot.members, out->chunk.data and out->round.places point into the frame. NULL will do for kinds from FETCH on.
 * FORMAT_UNKNOWN: a frame of another format; CHECKSUM_MISMATCH; FIELD_INVALID: anything else that the essay above rules out. */
enum status peer_decode(struct slice frame, struct peer_message *out, struct peer_entry *entries) MUST_USE;
/* For a byte stream: the length of the frame that starts here. WOULD_BLOCK: fewer than 12 bytes; FORMAT_UNKNOWN, FIELD_INVALID: no frame of ours
 * starts here, or one too long. */
enum status peer_frame_length(struct slice start, uint32_t *length) MUST_USE;

#endif
