#include "proto/link.h"

#include <lz4.h>

#include "proto/base/hash.h"

enum { AT_KIND = 4, AT_FLAGS = 5, AT_ZERO = 6, AT_CRC = 8, FLAG_PACKED = 1, PACKED_HEAD_BYTES = 4, PING_LEAD_ZONE = 1 };
enum { AT_FORMAT = 8, AT_CORE = 12, AT_CLUSTER = 16, AT_FROM = 32, AT_TO = 40, AT_CORES = 48, AT_PARTITIONS = 52, AT_NONCE = 56, AT_ZONE = 72, AT_ADDRESS = AT_ZONE + LINK_ZONE_BYTES, AT_REPLICAS = AT_ADDRESS + LINK_ADDRESS_BYTES, AT_REPLACE_AFTER = AT_REPLICAS + 4 };
static_assert(AT_REPLACE_AFTER + 4 == LINK_HELLO_BYTES, "as drawn in the header");
static const char magic[8] = "ODB LINK";

/* ---- frames */

static uint32_t frame_crc(const uint8_t *frame, size_t len) { return crc32c(crc32c(0, frame, AT_CRC), frame + LINK_HEAD_BYTES, len - LINK_HEAD_BYTES); }

/* Behind what `out` holds; 0: no memory, or not smaller by an eighth, which is what the other side's work is worth. */
static size_t pack(struct buf *out, struct slice body) {
    int bound = LZ4_compressBound((int)body.len);
    if (bound <= 0 || !buf_reserve(out, LINK_HEAD_BYTES + PACKED_HEAD_BYTES + (size_t)bound)) return 0;
    uint8_t *to = out->data + out->len + LINK_HEAD_BYTES;
    int n = LZ4_compress_default((const char *)body.data, (char *)to + PACKED_HEAD_BYTES, (int)body.len, bound);
    if (n <= 0 || (size_t)n > body.len - body.len / 8) return 0;
    put_le32(to, (uint32_t)body.len);
    return PACKED_HEAD_BYTES + (size_t)n;
}

bool link_write(struct buf *out, enum link_kind kind, struct slice body, bool may_pack) {
    check(body.len <= LINK_BODY_BYTES_MAX);
    size_t n = may_pack && body.len >= LINK_PACK_BYTES_MIN ? pack(out, body) : 0;
    uint8_t flags = n ? FLAG_PACKED : 0;
    if (!n) {
        if (!buf_reserve(out, LINK_HEAD_BYTES + body.len)) return false;
        n = body.len;
        if (n) memcpy(out->data + out->len + LINK_HEAD_BYTES, body.data, n);
    }
    uint8_t *f = out->data + out->len;
    size_t len = LINK_HEAD_BYTES + n;
    put_le32(f, (uint32_t)len);
    f[AT_KIND] = (uint8_t)kind, f[AT_FLAGS] = flags;
    put_le16(f + AT_ZERO, 0);
    put_le32(f + AT_CRC, frame_crc(f, len));
    out->len += len;
    return true;
}

enum status link_read(struct slice bytes, struct link_frame *out) {
    if (bytes.len < LINK_HEAD_BYTES) return STATUS_WOULD_BLOCK;
    const uint8_t *f = bytes.data;
    uint32_t len = get_le32(f);
    /* Before the length is believed, let alone waited for. */
    if (len < LINK_HEAD_BYTES || len > LINK_FRAME_BYTES_MAX) return STATUS_FIELD_INVALID;
    if (f[AT_KIND] < LINK_HELLO || f[AT_KIND] > LINK_JOINED || (f[AT_FLAGS] & ~FLAG_PACKED) || get_le16(f + AT_ZERO)) return STATUS_FIELD_INVALID;
    if (bytes.len < len) return STATUS_WOULD_BLOCK;
    if (frame_crc(f, len) != get_le32(f + AT_CRC)) return STATUS_CHECKSUM_MISMATCH;
    struct slice body = slice_of(f + LINK_HEAD_BYTES, len - LINK_HEAD_BYTES);
    *out = (struct link_frame){.kind = (enum link_kind)f[AT_KIND], .packed = f[AT_FLAGS] & FLAG_PACKED, .length = len, .unpacked = (uint32_t)body.len, .body = body};
    if (!out->packed) return STATUS_OK;
    if (body.len <= PACKED_HEAD_BYTES) return STATUS_FIELD_INVALID;
    out->unpacked = get_le32(body.data);
    out->body = slice_of(body.data + PACKED_HEAD_BYTES, body.len - PACKED_HEAD_BYTES);
    return out->unpacked >= LINK_PACK_BYTES_MIN && out->unpacked <= LINK_BODY_BYTES_MAX ? STATUS_OK : STATUS_FIELD_INVALID;
}

enum status link_unpack(const struct link_frame *frame, uint8_t *out) {
    check(frame->packed);
    int n = LZ4_decompress_safe((const char *)frame->body.data, (char *)out, (int)frame->body.len, (int)frame->unpacked);
    return n == (int)frame->unpacked ? STATUS_OK : STATUS_FIELD_INVALID;
}

/* ---- the handshake */

static void put_text(uint8_t *out, size_t room, const char *text) {
    memset(out, 0, room);
    memcpy(out, text, strnlen(text, room));
}

/* Printable, and nothing behind its end. */
static bool get_text(const uint8_t *in, size_t room, char *out) {
    size_t n = strnlen((const char *)in, room);
    for (size_t i = 0; i < room; i++)
        if (i < n ? in[i] < 0x21 || in[i] > 0x7e : in[i] != 0) return false;
    memcpy(out, in, n);
    out[n] = 0;
    return true;
}

void link_hello_encode(const struct link_hello *h, uint8_t out[LINK_HELLO_BYTES]) {
    memcpy(out, magic, sizeof magic);
    put_le32(out + AT_FORMAT, LINK_FORMAT);
    put_le32(out + AT_CORE, h->core);
    memcpy(out + AT_CLUSTER, h->cluster_id, sizeof h->cluster_id);
    put_le64(out + AT_FROM, h->from), put_le64(out + AT_TO, h->to);
    put_le32(out + AT_CORES, h->cores), put_le32(out + AT_PARTITIONS, h->partitions);
    memcpy(out + AT_NONCE, h->nonce, sizeof h->nonce);
    put_text(out + AT_ZONE, LINK_ZONE_BYTES, h->zone);
    put_text(out + AT_ADDRESS, LINK_ADDRESS_BYTES, h->address);
    put_le32(out + AT_REPLICAS, h->replicas), put_le32(out + AT_REPLACE_AFTER, h->replace_after_ms);
}

enum status link_hello_decode(struct slice bytes, struct link_hello *out) {
    const uint8_t *p = bytes.data;
    if (bytes.len < AT_CORE || memcmp(p, magic, sizeof magic) != 0) return STATUS_FIELD_INVALID;
    if (get_le32(p + AT_FORMAT) != LINK_FORMAT) return STATUS_FORMAT_UNKNOWN;
    if (bytes.len != LINK_HELLO_BYTES) return STATUS_FIELD_INVALID;
    *out = (struct link_hello){.core = get_le32(p + AT_CORE), .from = get_le64(p + AT_FROM), .to = get_le64(p + AT_TO), .cores = get_le32(p + AT_CORES), .partitions = get_le32(p + AT_PARTITIONS)};
    memcpy(out->cluster_id, p + AT_CLUSTER, sizeof out->cluster_id);
    memcpy(out->nonce, p + AT_NONCE, sizeof out->nonce);
    out->replicas = get_le32(p + AT_REPLICAS), out->replace_after_ms = get_le32(p + AT_REPLACE_AFTER);
    bool texts = get_text(p + AT_ZONE, LINK_ZONE_BYTES, out->zone) && get_text(p + AT_ADDRESS, LINK_ADDRESS_BYTES, out->address);
    return texts && out->core < out->cores && out->from && out->to && out->from != out->to ? STATUS_OK : STATUS_FIELD_INVALID;
}

bool link_version_decode(struct slice body, char out[LINK_VERSION_BYTES_MAX + 1]) {
    return body.len > 0 && body.len <= LINK_VERSION_BYTES_MAX && !memchr(body.data, 0, body.len) && get_text(body.data, body.len, out);
}

size_t link_lead_zone_encode(const char *zone, uint8_t out[LINK_LEAD_ZONE_BYTES_MAX]) {
    size_t n = strnlen(zone, LINK_ZONE_BYTES);
    out[0] = PING_LEAD_ZONE;
    memcpy(out + 1, zone, n);
    return 1 + n;
}

bool link_lead_zone_decode(struct slice body, char out[LINK_ZONE_BYTES + 1]) {
    if (body.len < 1 || body.len > LINK_LEAD_ZONE_BYTES_MAX || body.data[0] != PING_LEAD_ZONE) return false;
    return !memchr(body.data, 0, body.len) && get_text(body.data + 1, body.len - 1, out);
}

enum link_refusal link_hello_match(const struct link_hello *own, const struct link_hello *theirs) {
    if (memcmp(own->cluster_id, theirs->cluster_id, sizeof own->cluster_id) != 0) return LINK_OTHER_CLUSTER;
    if (theirs->to != own->from || (own->to && theirs->from != own->to)) return LINK_OTHER_NODE;
    if (theirs->cores != own->cores || theirs->partitions != own->partitions || theirs->core != own->core) return LINK_OTHER_SHAPE;
    return theirs->replicas == own->replicas ? LINK_TAKEN : LINK_OTHER_REPLICAS;
}

const char *link_refusal_text(enum link_refusal why) {
    static const char *const texts[LINK_REFUSALS] = {
        [LINK_TAKEN] = "taken",
        [LINK_OTHER_FORMAT] = "another version of the protocol between nodes",
        [LINK_OTHER_CLUSTER] = "another cluster: its key, or the ids in --peers, are not the same; or one of the two went on alone (orderctl recover)",
        [LINK_OTHER_NODE] = "not the node that --peers says is at this address",
        [LINK_OTHER_SHAPE] = "other --cores or --partitions: all nodes of a cluster have the same",
        [LINK_UNPROVEN] = "it does not have the cluster's key",
        [LINK_OTHER_CERTIFICATE] = "its certificate is not that node's: subjectAltName must have DNS:node-ID",
        [LINK_WANTS_TLS] = "cleartext to a node that has --peer-tls-cert: all nodes have it, or none",
        [LINK_WANTS_CLEARTEXT] = "TLS to a node without --peer-tls-cert: all nodes have it, or none",
        [LINK_REMOVED] = "this node was removed from the cluster: its id does not come back",
        [LINK_OTHER_REPLICAS] = "another --replicas: all nodes of a cluster have the same, or they would place partitions differently",
    };
    return why < LINK_REFUSALS ? texts[why] : "a reason that this version does not know";
}

bool link_looks_like_tls(struct slice first) {
    enum { CHANGE_CIPHER_SPEC = 20, APPLICATION_DATA = 23, MAJOR = 3 }; /* RFC 8446 section 5.1 */
    return first.len >= 2 && first.data[0] >= CHANGE_CIPHER_SPEC && first.data[0] <= APPLICATION_DATA && first.data[1] == MAJOR;
}

void link_proof(uint8_t out[LINK_PROOF_BYTES], struct slice key, enum link_kind kind, const uint8_t hello[LINK_HELLO_BYTES], const uint8_t welcome[LINK_HELLO_BYTES]) {
    uint8_t said[1 + 2 * LINK_HELLO_BYTES];
    static_assert((int)LINK_PROOF_BYTES == (int)SHA256_BYTES, "a proof is an HMAC");
    said[0] = (uint8_t)kind; /* what one side proves is no proof of the other's */
    memcpy(said + 1, hello, LINK_HELLO_BYTES);
    memcpy(said + 1 + LINK_HELLO_BYTES, welcome, LINK_HELLO_BYTES);
    hmac_sha256(out, key, slice_of(said, sizeof said));
}
