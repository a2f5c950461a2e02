/* What two nodes say on a connection between them (docs/CLUSTER.md), as bytes: frames around Raft's messages (peer.h), and the handshake. Pure: nothing here reads or
 * writes a socket. The only includer of <lz4.h>.
 *
 *   frame    0  u32 length of the whole frame   4  u8 kind   5  u8 flags (1: packed)   6  u16 zero
 *            8  u32 CRC-32C of bytes 0..7 and 12..length
 *           12  body; packed: u32 its length, then an lz4 block
 *
 *   HELLO    0  "ODB LINK"   8  u32 format (3)   12  u32 core
 *           16  cluster id 16   32  u64 from   40  u64 to   48  u32 cores   52  u32 partitions
 *           56  nonce 16   72  zone 32, client address 64: text, zeros behind it
 *          168  u32 replicas   172  u32 replace_after_ms: settings that are to be the same on all nodes
 *   WELCOME  as HELLO, then 32 bytes of proof
 *   PROOF    32 bytes of proof
 *   REFUSED  u8 why
 *   RAFT     a frame of peer.h, whole: it has group and sender in it
 *   PING     nothing; the first on a connection: what version of OrderDB its sender runs, text; the second: u8 1, then its --lead-zone, text, which may be empty. Who does not know
 *            that does not look
 *   JOIN     a node that is new to the cluster says who it is: counted zone, counted address (HOST:PORT for other nodes)
 *   JOINED   u8 verdict (1 joined, 2 it is a member already, 3 refused), counted text; then { u64 big-endian node id, counted zone, counted address }*, the nodes there are
 *   ASK      u64 number, then an op (server/op_wire.h);  ANSWER  u64 number, then what came of it
 *
 *   dialer  --- HELLO ------------------------------------------> acceptor
 *           <-- WELCOME, with HMAC(key, 2, HELLO, WELCOME) ---          or REFUSED
 *           --- PROOF: HMAC(key, 3, HELLO, WELCOME) ----->          then both send what they like
 *
 * Who joins does not know the cluster's id nor whom it talks to: its HELLO has zeros for the one and LINK_TO_ANY for the other, and cores 1, partitions 0. The WELCOME tells it id, cores and
 * partitions, proven; behind its PROOF it says JOIN, is told JOINED, and the connection ends.
 *
 * Little endian; spare bits and bytes are zero. HELLO begins with what every format begins with, so that another version is told from damage. */
#ifndef PROTO_LINK_H
#define PROTO_LINK_H

#include "proto/base/buf.h"
#include "proto/peer.h"
#include "proto/status.h"

enum {
    LINK_FORMAT = 4,
    LINK_HEAD_BYTES = 12,
    LINK_BODY_BYTES_MAX = PEER_FRAME_BYTES_MAX + 4096,
    LINK_FRAME_BYTES_MAX = LINK_HEAD_BYTES + LINK_BODY_BYTES_MAX,
    LINK_PACK_BYTES_MIN = 16 << 10, /* smaller bodies are not worth the time */
    LINK_NONCE_BYTES = 16,
    LINK_PROOF_BYTES = 32,
    LINK_CLUSTER_ID_BYTES = 16,
    LINK_ZONE_BYTES = 32,
    LINK_ADDRESS_BYTES = 64,
    LINK_VERSION_BYTES_MAX = 64,
    LINK_HELLO_BYTES = 72 + LINK_ZONE_BYTES + LINK_ADDRESS_BYTES + 8,
};
static_assert((int)LINK_BODY_BYTES_MAX > (int)PEER_FRAME_BYTES_MAX, "the largest message between groups fits");

enum link_kind { LINK_HELLO = 1, LINK_WELCOME, LINK_PROOF, LINK_REFUSED, LINK_RAFT, LINK_PING, LINK_ASK, LINK_ANSWER, LINK_JOIN, LINK_JOINED };
enum link_verdict { LINK_JOINED_NOW = 1, LINK_JOINED_BEFORE, LINK_JOIN_REFUSED };
#define LINK_TO_ANY UINT64_MAX

struct link_frame {
    enum link_kind kind;
    bool packed;
    uint32_t length;   /* of the whole frame */
    uint32_t unpacked; /* length of the body as it was */
    struct slice body; /* packed: the lz4 block */
};

/* A frame at the end of `out`. pack: a large body may be packed, if that makes it smaller. false: no memory, nothing was added. */
bool link_write(struct buf *out, enum link_kind kind, struct slice body, bool pack) MUST_USE;
/* The frame that `bytes` begin with; body points into them. WOULD_BLOCK: it is not whole; FIELD_INVALID: no frame of ours begins here, or too long a one; CHECKSUM_MISMATCH. */
enum status link_read(struct slice bytes, struct link_frame *out) MUST_USE;
/* A packed body as it was, into out[frame.unpacked]. FIELD_INVALID: not what lz4 made of so many bytes. */
enum status link_unpack(const struct link_frame *frame, uint8_t *out) MUST_USE;

struct link_hello {
    uint32_t core, cores, partitions;
    uint8_t cluster_id[LINK_CLUSTER_ID_BYTES];
    uint64_t from, to;
    uint8_t nonce[LINK_NONCE_BYTES];
    char zone[LINK_ZONE_BYTES + 1], address[LINK_ADDRESS_BYTES + 1];
    uint32_t replicas, replace_after_ms;
};
void link_hello_encode(const struct link_hello *h, uint8_t out[LINK_HELLO_BYTES]);
/* FORMAT_UNKNOWN: of another version; FIELD_INVALID. */
enum status link_hello_decode(struct slice bytes, struct link_hello *out) MUST_USE;

/* Of a PING's body. false: not such a text. */
bool link_version_decode(struct slice body, char out[LINK_VERSION_BYTES_MAX + 1]) MUST_USE;

/* The body of the PING that tells --lead-zone; how long it is. Beginning with what no text begins with, it is no version. */
enum { LINK_LEAD_ZONE_BYTES_MAX = 1 + LINK_ZONE_BYTES };
size_t link_lead_zone_encode(const char *zone, uint8_t out[LINK_LEAD_ZONE_BYTES_MAX]);
bool link_lead_zone_decode(struct slice body, char out[LINK_ZONE_BYTES + 1]) MUST_USE; /* false: another PING */

/* Why a connection is not taken. Sent: never renumber. */
enum link_refusal {
    LINK_TAKEN,
    LINK_OTHER_FORMAT,
    LINK_OTHER_CLUSTER,
    LINK_OTHER_NODE,
    LINK_OTHER_SHAPE,
    LINK_UNPROVEN,
    LINK_OTHER_CERTIFICATE,
    LINK_WANTS_TLS,
    LINK_WANTS_CLEARTEXT, /* these two are told in cleartext: proto/tls.h could not read or say anything else */
    LINK_REMOVED,
    LINK_OTHER_REPLICAS,
    LINK_REFUSALS
};
/* What `own` answers to `theirs`: of the same cluster, to this node, as many cores and partitions, the same core, replicas. */
enum link_refusal link_hello_match(const struct link_hello *own, const struct link_hello *theirs);
const char *link_refusal_text(enum link_refusal why); /* for people; of a number that is unknown too */

/* Whether a connection that begins with these bytes talks TLS: a record's type, and 3, which makes a frame longer than any of the handshake. */
bool link_looks_like_tls(struct slice first);

/* hello, welcome: their first LINK_HELLO_BYTES. */
void link_proof(uint8_t out[LINK_PROOF_BYTES], struct slice key, enum link_kind kind, const uint8_t hello[LINK_HELLO_BYTES], const uint8_t welcome[LINK_HELLO_BYTES]);

#endif
