#include "engine/keys.h"
#include "engine/event.h"

static struct writer key_begin(struct key *k, uint16_t slot, enum key_kind kind) {
    struct writer w = writer_of(k->bytes, sizeof k->bytes);
    write_be16(&w, slot);
    write_u8(&w, (uint8_t)kind);
    return w;
}

/* Limits on texts are checked at the door (check.h, query.c); a longer one here is a bug, and a cut key would be another row. */
static void key_text(struct writer *w, struct slice text) {
    check(text.len <= UINT8_MAX);
    write_u8(w, (uint8_t)text.len);
    write_slice(w, text);
}

static void key_end(struct key *k, const struct writer *w) {
    check(!w->full);
    k->len = w->len;
}

static uint64_t time_sortable(int64_t us) { return (uint64_t)us ^ 1ull << 63; }

static void write_position(struct writer *w, int64_t create_us, int64_t order_id) {
    write_be64(w, time_sortable(create_us));
    write_be64(w, (uint64_t)order_id);
}

static void key_of_order(struct key *k, enum key_kind kind, int64_t order_id) {
    struct writer w = key_begin(k, order_id_slot(order_id), kind);
    write_be64(&w, (uint64_t)order_id);
    key_end(k, &w);
}

void key_body(struct key *k, int64_t order_id) { key_of_order(k, KEY_BODY, order_id); }
void key_head(struct key *k, int64_t order_id) { key_of_order(k, KEY_HEAD, order_id); }

void key_heads(struct key *k, uint16_t slot, int64_t from_order_id) {
    struct writer w = key_begin(k, slot, KEY_HEAD);
    write_be64(&w, (uint64_t)from_order_id);
    key_end(k, &w);
}

void key_history(struct key *k, int64_t order_id, int64_t version) {
    struct writer w = key_begin(k, order_id_slot(order_id), KEY_HISTORY);
    write_be64(&w, (uint64_t)order_id);
    write_be64(&w, (uint64_t)version);
    key_end(k, &w);
}

void key_content(struct key *k, int64_t order_id, int64_t version) {
    struct writer w = key_begin(k, order_id_slot(order_id), KEY_CONTENT);
    write_be64(&w, (uint64_t)order_id);
    write_be64(&w, (uint64_t)version);
    key_end(k, &w);
}

void key_client_no(struct key *k, uint16_t slot, struct slice user_id, struct slice client_order_no) {
    struct writer w = key_begin(k, slot, KEY_CLIENT_NO);
    key_text(&w, user_id);
    key_text(&w, client_order_no);
    key_end(k, &w);
}

void key_dedup(struct key *k, uint16_t slot, struct slice user_id, struct slice request_id, uint8_t method) {
    struct writer w = key_begin(k, slot, KEY_DEDUP);
    key_text(&w, user_id);
    key_text(&w, request_id);
    write_u8(&w, method);
    key_end(k, &w);
}

void key_dedup_prefix(struct key *k, uint16_t slot) {
    struct writer w = key_begin(k, slot, KEY_DEDUP);
    key_end(k, &w);
}

void key_list(struct key *k, uint16_t slot, struct slice user_id, int64_t create_us, int64_t order_id) {
    struct writer w = key_begin(k, slot, KEY_LIST);
    key_text(&w, user_id);
    write_position(&w, create_us, order_id);
    key_end(k, &w);
}

void key_list_prefix(struct key *k, uint16_t slot, struct slice user_id) {
    struct writer w = key_begin(k, slot, KEY_LIST);
    key_text(&w, user_id);
    key_end(k, &w);
}

void key_counts(struct key *k, uint16_t slot, struct slice user_id, uint8_t level, int64_t create_us, int64_t order_id) {
    struct writer w = key_begin(k, slot, KEY_COUNTS);
    key_text(&w, user_id);
    write_u8(&w, level);
    /* Level 0 is one row of totals: it has no position. */
    if (level) write_position(&w, create_us, order_id);
    key_end(k, &w);
}

void key_counts_prefix(struct key *k, uint16_t slot, struct slice user_id, uint8_t level) {
    struct writer w = key_begin(k, slot, KEY_COUNTS);
    key_text(&w, user_id);
    write_u8(&w, level);
    key_end(k, &w);
}

void key_slot(struct key *k, uint16_t slot) {
    struct writer w = key_begin(k, slot, KEY_SLOT);
    key_end(k, &w);
}

void key_slot_prefix(struct key *k, uint16_t slot) {
    put_be16(k->bytes, slot);
    k->len = 2;
}

void key_partition(struct key *k) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_PARTITION);
    key_end(k, &w);
}

void key_machine(struct key *k, uint16_t machine_id) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_MACHINE);
    write_be16(&w, machine_id);
    key_end(k, &w);
}

void key_node(struct key *k, uint64_t node_id) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_NODE);
    write_be64(&w, node_id);
    key_end(k, &w);
}

uint64_t key_node_id(struct slice key) {
    check(key.len == 2 + 1 + 8);
    return get_be64(key.data + 3);
}

/* The name stands last and without its length: rows are sorted by it. */
void key_resource(struct key *k, uint8_t kind, struct slice name) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_RESOURCE);
    write_u8(&w, kind);
    write_slice(&w, name);
    key_end(k, &w);
}

struct slice key_resource_position(struct slice key) {
    check(key.len >= 4);
    return slice_of(key.data + 3, key.len - 3);
}

void key_places(struct key *k, uint16_t slot, int64_t first_seq) {
    struct writer w = key_begin(k, slot, KEY_PLACES);
    write_be64(&w, (uint64_t)first_seq);
    key_end(k, &w);
}

void key_events(struct key *k, uint64_t index, uint16_t block) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_EVENT);
    write_be64(&w, index);
    write_be16(&w, block);
    key_end(k, &w);
}

void key_events_place(struct slice key, uint64_t *index, uint16_t *block) {
    check(key.len == 2 + 1 + 8 + 2);
    *index = get_be64(key.data + 3);
    *block = get_be16(key.data + 11);
}

void key_feed(struct key *k) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_FEED);
    key_end(k, &w);
}

void key_timers(struct key *k) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_TIMER);
    key_end(k, &w);
}

void key_timer(struct key *k, int64_t fire_us, int64_t order_id, uint8_t no) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_TIMER);
    write_be64(&w, (uint64_t)fire_us);
    write_be64(&w, (uint64_t)order_id);
    write_u8(&w, no);
    key_end(k, &w);
    check(k->len == KEY_TIMER_BYTES);
}

bool key_timer_parts(struct slice key, int64_t *fire_us, int64_t *order_id, uint8_t *no) {
    if (key.len != KEY_TIMER_BYTES) return false;
    *fire_us = (int64_t)get_be64(key.data + 3);
    *order_id = (int64_t)get_be64(key.data + 11);
    *no = key.data[19];
    return true;
}

static struct writer key_index_begin(struct key *k, uint8_t kind, struct slice value) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_INDEX);
    write_u8(&w, kind);
    check(kind != KEY_INDEX_STATUS || value.len == 2);
    if (kind == KEY_INDEX_STATUS) write_slice(&w, value);
    else key_text(&w, value);
    return w;
}

void key_index_record(struct key *k) {
    struct writer w = key_begin(k, KEY_SLOT_PARTITION, KEY_INDEX);
    key_end(k, &w);
}

void key_index_prefix(struct key *k, uint8_t kind, struct slice value) {
    struct writer w = key_index_begin(k, kind, value);
    key_end(k, &w);
}

void key_index_row(struct key *k, uint8_t kind, struct slice value, int64_t create_us, int64_t order_id) {
    struct writer w = key_index_begin(k, kind, value);
    write_position(&w, create_us, order_id);
    key_end(k, &w);
}

bool key_index_parts(struct slice key, uint8_t *kind, struct slice *value, int64_t *create_us, int64_t *order_id) {
    struct reader r = reader_of(key);
    read_bytes(&r, 3);
    *kind = read_u8(&r);
    size_t len = *kind == KEY_INDEX_STATUS ? 2 : read_u8(&r);
    *value = read_bytes(&r, len);
    *create_us = (int64_t)(read_be64(&r) ^ 1ull << 63);
    *order_id = (int64_t)read_be64(&r);
    return !r.bad && r.at == r.end && *kind >= KEY_INDEX_STATUS && *kind <= KEY_INDEX_SKU;
}

static void key_of_group(struct key *k, uint16_t slot, enum key_kind kind, uint32_t group_id) {
    struct writer w = key_begin(k, slot, kind);
    write_be32(&w, group_id);
    key_end(k, &w);
}

void key_group(struct key *k, uint32_t group_id) { key_of_group(k, KEY_SLOT_PARTITION, KEY_GROUP, group_id); }
void key_progress(struct key *k, uint32_t group_id) { key_of_group(k, KEY_SLOT_PARTITION, KEY_PROGRESS, group_id); }
void key_seek(struct key *k, uint32_t group_id) { key_of_group(k, KEY_SLOT_PARTITION, KEY_SEEK, group_id); }
void key_position(struct key *k, uint16_t slot, uint32_t group_id) { key_of_group(k, slot, KEY_GROUP, group_id); }
void key_letter_prefix(struct key *k, uint16_t slot, uint32_t group_id) { key_of_group(k, slot, KEY_LETTER, group_id); }

void key_letter(struct key *k, uint16_t slot, uint32_t group_id, int64_t number) {
    struct writer w = key_begin(k, slot, KEY_LETTER);
    write_be32(&w, group_id);
    write_be64(&w, event_has_seq(number) ? (uint64_t)number : 0);
    if (!event_has_seq(number)) write_be64(&w, (uint64_t)(number - EVENT_NUMBER_UNTOLD));
    key_end(k, &w);
}

void key_letter_behind(struct key *k, uint16_t slot, uint32_t group_id, int64_t number) {
    if (number) key_letter(k, slot, group_id, number), k->bytes[k->len++] = 0;
    else key_letter_prefix(k, slot, group_id);
}

int64_t key_letter_seq(struct slice key) {
    bool has_seq = key.len == 2 + 1 + 4 + 8;
    check(has_seq || key.len == 2 + 1 + 4 + 8 + 8);
    return has_seq ? (int64_t)get_be64(key.data + 7) : EVENT_NUMBER_UNTOLD | (int64_t)get_be64(key.data + 15);
}

uint32_t key_group_id(struct slice key) {
    check(key.len == 2 + 1 + 4);
    return get_be32(key.data + 3);
}

void key_list_position(struct slice key, int64_t *create_us, int64_t *order_id) {
    check(key.len >= 16);
    const uint8_t *p = key.data + key.len - 16;
    *create_us = (int64_t)(get_be64(p) ^ 1ull << 63);
    *order_id = (int64_t)get_be64(p + 8);
}

void key_after_prefix(struct key *k) {
    k->len = bytes_after_prefix(k->bytes, k->len);
    check(k->len); /* a key of 0xff alone has nothing above it; no slot is that high */
}
