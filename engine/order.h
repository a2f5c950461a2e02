/* The stored order: a small head that every commit rewrites, a body that stays, history entries. Codecs only; pure.
 *
 * The body's parts are protobuf wire bytes of orderdb.v1.Order, so an answer is put together by concatenation (protobuf merges), and
 * nothing is decoded on the way out:
 *   summary  fields 2 user_id, 3 merchant_id, 4 client_order_no, 5 order_type, 10-13 amounts, 22 payments, 23 shipments, 40 attributes
 *   detail   fields 20 items, 21 address, 41 extension
 *   from the head: 1 order_id, 6 machine, 7 status, 8 version, 24 timers, 30 create_time, 31 update_time
 * Rows start with a format byte. Golden bytes: tests/golden/. */
#ifndef ENGINE_ORDER_H
#define ENGINE_ORDER_H

#include "engine/machine.h"
#include "proto/base/arena.h"
#include "proto/base/hash.h"

/* HEAD_BYTES_MAX, HEAD_WIRE_BYTES_MAX: without timers. FORMAT_TIMERS: of a head or a history entry that has some. FORMAT_SEQ is added to it for a head that knows its seq. */
enum { ORDER_FORMAT = 1, ORDER_FORMAT_TIMERS = 2, ORDER_FORMAT_SEQ = 2, ORDER_HEAD_BYTES_MAX = 192, ORDER_HEAD_WIRE_BYTES_MAX = 512 };

struct order_head {
    int64_t order_id, version;
    int64_t seq;                  /* of its newest commit, in its slot. 0: none (imported untold, or written before heads had it) */
    int64_t create_us, update_us; /* Unix microseconds, log time (imports: their own) */
    uint16_t machine, status;
    struct slice user_id;
    struct slice timers; /* encoded (timers.h); those that were decoded are known to be sound */
    uint8_t chain_hash[SHA256_BYTES]; /* of the newest history entry */
};

struct history_entry {
    int64_t version, time_us;
    uint16_t from, to; /* status ids; from = 0 at version 1 */
    struct slice event, operator_, reason, request_id, traceparent;
    struct slice timers; /* that the commit left the order with, encoded; not part of the chain */
    uint8_t chain_hash[SHA256_BYTES];
};

struct order_body {
    struct history_entry origin; /* version 1 */
    struct slice summary, detail;
};

/* The two parts alone, as they were before an update: format(1) summary detail, counted. */
void order_content_encode(const struct order_body *b, struct writer *w);
enum status order_content_decode(struct slice row, struct order_body *out) MUST_USE; /* origin is left as it is */

/* Encoders write into w; decoders borrow from the row. false / CHECKSUM_MISMATCH: not such a row. */
size_t order_head_bytes_max(const struct order_head *h);
void order_head_encode(const struct order_head *h, struct writer *w);
enum status order_head_decode(struct slice row, struct order_head *out) MUST_USE;
void order_body_encode(const struct order_body *b, struct writer *w);
enum status order_body_decode(struct slice row, struct order_body *out) MUST_USE;
size_t order_body_bytes_max(const struct order_body *b);
void history_encode(const struct history_entry *e, struct writer *w);
enum status history_decode(struct slice row, struct history_entry *out) MUST_USE;
size_t history_bytes_max(const struct history_entry *e);

/* chain_hash = SHA-256(previous chain_hash (32 zero bytes at version 1) || canonical bytes of the entry):
 * order_id, version, time_us as 8 big-endian bytes each; then event, from name, to name, operator, reason, request_id, traceparent, each
 * as 4 big-endian bytes of length and the text. A stranger can recompute it from the public API; docs/API.md. */
void history_chain(struct history_entry *e, int64_t order_id, const uint8_t previous[SHA256_BYTES], const struct machines *ms);

/* The head fields of orderdb.v1.Order, for who has room. */
size_t order_head_wire_bytes_max(const struct order_head *h);
void order_head_write(struct writer *w, const struct order_head *h, const struct machines *ms);
/* Wire bytes of orderdb.v1.Order's head fields, and of orderdb.v1.HistoryEntry. Data NULL: arena full. */
void history_wire_write(struct writer *w, const struct history_entry *e, const struct machines *ms);
size_t history_wire_bytes_max(const struct history_entry *e);
struct slice order_head_wire(const struct order_head *h, const struct machines *ms, struct arena *arena);
struct slice history_wire(const struct history_entry *e, const struct machines *ms, struct arena *arena);

#endif
