#include "proto/route.h"

#include "proto/base/hash.h"

uint16_t slot_of_user(struct slice user_id) { return (uint16_t)(hash64(user_id) % SLOT_COUNT); }

int64_t order_id_make(int64_t unix_ms, uint16_t slot, uint8_t seq) {
    int64_t ms = unix_ms - ORDER_EPOCH_MS;
    check(ms >= 0);
    check(ms < 1ll << ORDER_MS_BITS);
    check(slot < SLOT_COUNT);
    return ms << (SLOT_BITS + ORDER_SEQ_BITS) | (int64_t)slot << ORDER_SEQ_BITS | seq;
}

uint16_t order_id_slot(int64_t order_id) { return (uint16_t)(order_id >> ORDER_SEQ_BITS & (SLOT_COUNT - 1)); }
int64_t order_id_ms(int64_t order_id) { return (order_id >> (SLOT_BITS + ORDER_SEQ_BITS)) + ORDER_EPOCH_MS; }
bool order_id_plausible(int64_t order_id) { return order_id > 0; }

int64_t order_id_next(int64_t last, int64_t unix_ms, uint16_t slot) {
    int64_t ms = MAX_OF(unix_ms, ORDER_EPOCH_MS + 1), last_ms = last ? order_id_ms(last) : 0; /* +1: never id 0 */
    if (ms > last_ms) return order_id_make(ms, slot, 0);
    unsigned seq = (unsigned)(last & ((1 << ORDER_SEQ_BITS) - 1)) + 1;
    if (seq >> ORDER_SEQ_BITS) return order_id_make(last_ms + 1, slot, 0);
    return order_id_make(last_ms, slot, (uint8_t)seq);
}

uint16_t partition_first_slot(uint32_t partition, uint32_t partition_count) {
    return (uint16_t)((uint64_t)partition * SLOT_COUNT / partition_count);
}
uint16_t partition_last_slot(uint32_t partition, uint32_t partition_count) {
    return (uint16_t)((uint64_t)(partition + 1) * SLOT_COUNT / partition_count - 1);
}
uint32_t partition_of_slot(uint16_t slot, uint32_t partition_count) {
    return (uint32_t)((((uint64_t)slot + 1) * partition_count - 1) / SLOT_COUNT);
}
