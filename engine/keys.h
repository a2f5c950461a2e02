/* Every key layout, in one place. A key begins with two bytes of slot (big-endian) and one of kind, so that a slot is one contiguous
 * range. Numbers are big-endian; texts inside a key are preceded by one byte of length (<= 255).
 *
 *   slot 'B' order_id(8)                                   body: origin, summary, detail (order.h)
 *   slot 'C' user client_order_no                          order_id(8)
 *   slot 'D' user request_id method(1)                     idempotency record; expiring
 *   slot 'G' group(4)                                      a consumer group's position in the slot (consumer_row.h)
 *   slot 'H' order_id(8)                                   head (order.h)
 *   slot 'L' user create_us(8) order_id(8)                 status id(2), card: the user's list (userlist.h)
 *   slot 'N' user level(1) [create_us(8) order_id(8)]      counts by status (userlist.h)
 *   slot 'P' first_seq(8)                                  places of FEED_CHUNK events of the slot, from this seq on (feed.h); expiring
 *   slot 'Q' group(4) seq(8)                               a dead letter of a consumer group (consumer_row.h)
 *   slot 'Q' group(4) 0(8) order(8)                        likewise, of an order without a seq: the low 62 bits of its id
 *   slot 'S'                                               slot record: last order id, last seq, order count, places of the newest events
 *   slot 'U' order_id(8) version(8)                        content that the update or patch to this version replaced (order.h)
 *   slot 'Y' order_id(8) version(8)                        history entry, versions >= 2 (version 1 is the body's origin)
 *   0xffff 'A'                                             partition record: format, applied index and term, log time, members, machines known
 *   0xffff 'E' index(8) block(2)                           change events of an entry of the log (event.h)
 *   0xffff 'F'                                             feed record: what retention has let go (feed.h)
 *   0xffff 'I'                                             index record: how far older orders have been indexed (index.h)
 *   0xffff 'I' kind(1) value create_us(8) order_id(8)      nothing: the order has this status(2), merchant or SKU (texts) (index.h). Its slot is the order_id's
 *   0xffff 'M' machine id(2)                               a status machine that came after the built-in ones (resource.h)
 *   0xffff 'O' node id(8)                                  a node of the cluster; of the meta partition alone (node_row.h)
 *   0xffff 'R' kind(1) name                                a resource; of the meta partition alone (resource.h)
 *   0xffff 'T'                                             timers record: where the next due timer is looked for, how many there are (timers.h)
 *   0xffff 'T' fire_us(8) order_id(8) no(1)                nothing: the order has this timer in its head (timers.h). Its slot is the order_id's
 *   0xffff 'G' group(4)                                    a consumer group (consumer_row.h); group 0, of the meta partition: the last id given
 *   0xffff 'J' group(4)                                    its progress in the partition
 *   0xffff 'K' group(4)                                    a seek of it that goes on; of the meta partition alone (consumer_seek.h)
 */
#ifndef ENGINE_KEYS_H
#define ENGINE_KEYS_H

#include "proto/base/bytes.h"
#include "proto/route.h"

enum key_kind {
    KEY_BODY = 'B',
    KEY_CLIENT_NO = 'C',
    KEY_DEDUP = 'D',
    KEY_EVENT = 'E',
    KEY_FEED = 'F',
    KEY_PLACES = 'P',
    KEY_GROUP = 'G',
    KEY_PROGRESS = 'J',
    KEY_SEEK = 'K',
    KEY_LETTER = 'Q',
    KEY_HEAD = 'H',
    KEY_INDEX = 'I',
    KEY_LIST = 'L',
    KEY_MACHINE = 'M',
    KEY_COUNTS = 'N',
    KEY_NODE = 'O',
    KEY_RESOURCE = 'R',
    KEY_SLOT = 'S',
    KEY_CONTENT = 'U',
    KEY_HISTORY = 'Y',
    KEY_TIMER = 'T',
    KEY_PARTITION = 'A',
};
enum { KEY_INDEX_STATUS = 1, KEY_INDEX_MERCHANT = 2, KEY_INDEX_SKU = 3 }; /* kinds of index rows */
enum { KEY_BYTES_MAX = 512, KEY_SLOT_PARTITION = 0xffff };

/* A key under construction, on the stack. */
struct key {
    uint8_t bytes[KEY_BYTES_MAX];
    size_t len;
};
static inline struct slice key_slice(const struct key *k) { return slice_of(k->bytes, k->len); }

void key_body(struct key *k, int64_t order_id);
void key_head(struct key *k, int64_t order_id);
void key_heads(struct key *k, uint16_t slot, int64_t from_order_id); /* of a slot, from this id on */
void key_history(struct key *k, int64_t order_id, int64_t version);
void key_content(struct key *k, int64_t order_id, int64_t version);
void key_client_no(struct key *k, uint16_t slot, struct slice user_id, struct slice client_order_no);
void key_dedup(struct key *k, uint16_t slot, struct slice user_id, struct slice request_id, uint8_t method);
void key_dedup_prefix(struct key *k, uint16_t slot);
void key_list(struct key *k, uint16_t slot, struct slice user_id, int64_t create_us, int64_t order_id);
void key_list_prefix(struct key *k, uint16_t slot, struct slice user_id);
void key_counts(struct key *k, uint16_t slot, struct slice user_id, uint8_t level, int64_t create_us, int64_t order_id);
void key_counts_prefix(struct key *k, uint16_t slot, struct slice user_id, uint8_t level);
void key_slot(struct key *k, uint16_t slot);
void key_slot_prefix(struct key *k, uint16_t slot); /* two bytes: the slot's whole range starts here */
void key_partition(struct key *k);
void key_machine(struct key *k, uint16_t machine_id);
void key_node(struct key *k, uint64_t node_id);
uint64_t key_node_id(struct slice key); /* of such a key */
/* name empty: the prefix of the kind's. */
void key_resource(struct key *k, uint8_t kind, struct slice name);
/* kind(1) and name: a resource's place in their order. */
struct slice key_resource_position(struct slice key);
void key_places(struct key *k, uint16_t slot, int64_t first_seq);
/* What all keys of change events begin with: they only ever grow. */
#define KEY_EVENTS_PREFIX SLICE_LIT("\xff\xff" "E")
void key_events(struct key *k, uint64_t index, uint16_t block);
void key_events_place(struct slice key, uint64_t *index, uint16_t *block); /* of such a key */
void key_feed(struct key *k);
void key_timers(struct key *k); /* the record: it sorts before all timers */
void key_timer(struct key *k, int64_t fire_us, int64_t order_id, uint8_t no);
enum { KEY_TIMER_BYTES = 2 + 1 + 8 + 8 + 1 };
/* false: not such a key (the record's). */
bool key_timer_parts(struct slice key, int64_t *fire_us, int64_t *order_id, uint8_t *no);
/* What all keys of indexes begin with, the record's too: each commit puts some, few are read. */
#define KEY_INDEX_PREFIX SLICE_LIT("\xff\xff" "I")
void key_index_record(struct key *k); /* it sorts before all index rows */
/* value: two bytes of a status, or a text of at most 255 bytes. */
void key_index_prefix(struct key *k, uint8_t kind, struct slice value);
void key_index_row(struct key *k, uint8_t kind, struct slice value, int64_t create_us, int64_t order_id);
/* Takes such a key apart; value borrows from it. false: not such a key (the record's). */
bool key_index_parts(struct slice key, uint8_t *kind, struct slice *value, int64_t *create_us, int64_t *order_id);
void key_group(struct key *k, uint32_t group_id);
void key_progress(struct key *k, uint32_t group_id);
void key_seek(struct key *k, uint32_t group_id);
void key_position(struct key *k, uint16_t slot, uint32_t group_id);
/* By the event's number (event.h): in order of rank. */
void key_letter(struct key *k, uint16_t slot, uint32_t group_id, int64_t number);
void key_letter_behind(struct key *k, uint16_t slot, uint32_t group_id, int64_t number); /* where the letters behind it begin; 0: all */
void key_letter_prefix(struct key *k, uint16_t slot, uint32_t group_id);
int64_t key_letter_seq(struct slice key); /* of such a key */
uint32_t key_group_id(struct slice key);  /* of key_group's */
enum { KEY_POSITION_BYTES = 16 };
/* The last 16 bytes of a list or counts key: time and id. create_us is stored with its sign bit flipped so that 1969 sorts before 1970. */
void key_list_position(struct slice key, int64_t *create_us, int64_t *order_id);
/* What a struct store_config says of these keys. */
#define ENGINE_STORE_KEYS .growing = KEY_EVENTS_PREFIX, .deferred = KEY_INDEX_PREFIX, .grouped_kind = KEY_LIST, .grouped_tail = KEY_POSITION_BYTES
/* The smallest key above all that begin with k: for upper bounds. */
void key_after_prefix(struct key *k);

#endif
