/* Where an order lives: slots, order ids, the partition map. The same code in server and client. Pure. */
#ifndef PROTO_ROUTE_H
#define PROTO_ROUTE_H

#include "proto/base/bytes.h"

enum { SLOT_COUNT = 16384, SLOT_BITS = 14, ORDER_SEQ_BITS = 8, ORDER_MS_BITS = 41 };
static_assert(1 << SLOT_BITS == SLOT_COUNT, "a slot fits its bits");
static_assert(ORDER_MS_BITS + SLOT_BITS + ORDER_SEQ_BITS == 63, "an order id is a positive int64");
#define ORDER_EPOCH_MS 1735689600000ll /* 2025-01-01T00:00:00Z */

/* XXH3-64 of the bytes of user_id, mod 16384. Fixed for ever. */
uint16_t slot_of_user(struct slice user_id);

/* 41 bits of milliseconds since 2025-01-01 UTC, 14 bits of slot, 8 bits of sequence. */
int64_t order_id_make(int64_t unix_ms, uint16_t slot, uint8_t seq);
uint16_t order_id_slot(int64_t order_id);
int64_t order_id_ms(int64_t order_id); /* Unix milliseconds */
/* Positive; whether such an order exists is another question. */
bool order_id_plausible(int64_t order_id);
/* The next id of a slot: never at or below `last` (0: none yet), at log time unix_ms or the first free after it.
 * Ids of one slot increase whatever the clock does. */
int64_t order_id_next(int64_t last, int64_t unix_ms, uint16_t slot);

/* The initial map: partition p of n owns the slots [p*16384/n, (p+1)*16384/n). */
uint32_t partition_of_slot(uint16_t slot, uint32_t partition_count);
uint16_t partition_first_slot(uint32_t partition, uint32_t partition_count);
uint16_t partition_last_slot(uint32_t partition, uint32_t partition_count); /* inclusive */

#endif
