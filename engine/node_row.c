#include "engine/node_row.h"

#include "engine/keys.h"

enum { ROW_FORMAT = 1 };

const char *node_state_name(enum node_row_state state) {
    switch (state) {
    case NODE_STATE_JOINED: return "JOINED";
    case NODE_STATE_UP: return "UP";
    case NODE_STATE_DRAINING: return "DRAINING";
    case NODE_STATE_LEAVING: return "LEAVING";
    case NODE_STATE_REMOVED: return "REMOVED";
    case NODE_STATE_LOST: return "LOST";
    }
    return "?";
}

void node_row_encode(const struct node_row *r, struct writer *w) {
    write_u8(w, ROW_FORMAT), write_u8(w, (uint8_t)r->state), write_be64(w, r->revision);
    write_counted(w, r->zone), write_counted(w, r->address);
}

enum status node_row_decode(struct slice row, uint64_t node_id, struct node_row *out) {
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r), state = read_u8(&r);
    if (row.len && format != ROW_FORMAT) return STATUS_FORMAT_UNKNOWN;
    *out = (struct node_row){.node_id = node_id, .state = (enum node_row_state)state, .revision = read_be64(&r)};
    out->zone = read_counted(&r), out->address = read_counted(&r);
    bool fits = out->zone.len <= NODE_ZONE_BYTES_MAX && out->address.len <= NODE_ADDRESS_BYTES_MAX;
    if (r.bad || reader_left(&r) || state < NODE_STATE_JOINED || state > NODE_STATE_LOST || !node_id || node_id > NODE_ID_MAX || !fits) return STATUS_CHECKSUM_MISMATCH;
    return STATUS_OK;
}

void node_founder_encode(const struct node_row *r, struct writer *w) { write_be64(w, r->node_id), write_counted(w, r->zone), write_counted(w, r->address); }

bool node_founder_next(struct reader *r, struct node_row *out) {
    if (!reader_left(r)) return false;
    *out = (struct node_row){.node_id = read_be64(r), .state = NODE_STATE_UP, .revision = 1};
    out->zone = read_counted(r), out->address = read_counted(r);
    if (!out->node_id || out->node_id > NODE_ID_MAX || out->zone.len > NODE_ZONE_BYTES_MAX || out->address.len > NODE_ADDRESS_BYTES_MAX) r->bad = true;
    return !r->bad;
}

bool node_list_next(struct reader *list, struct node_row *out) {
    if (!reader_left(list)) return false;
    uint64_t id = read_be64(list);
    struct slice row = read_counted(list);
    if (!list->bad && node_row_decode(row, id, out) != STATUS_OK) list->bad = true;
    return !list->bad;
}

uint64_t node_list_epoch(struct slice list) {
    struct reader r = reader_of(list);
    uint64_t epoch = 0;
    for (struct node_row row; node_list_next(&r, &row);) epoch += row.revision;
    return epoch;
}

enum status query_nodes(const struct query *q, struct slice *list) {
    enum { BYTES_MAX = NODE_ROWS_MAX * (8 + 3 + NODE_ROW_BYTES_MAX) };
    struct key lower, upper;
    uint8_t *bytes = arena_alloc(q->arena, BYTES_MAX);
    struct writer w = writer_of(bytes, bytes ? BYTES_MAX : 0);
    if (!bytes) return STATUS_MEMORY_LIMIT;
    key_node(&lower, 0), key_node(&upper, UINT64_MAX);
    struct store_iter *it = store_iter_open(&q->view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) write_be64(&w, key_node_id(store_iter_key(it))), write_counted(&w, store_iter_value(it));
    enum status st = store_iter_status(it);
    store_iter_close(it);
    *list = writer_slice(&w);
    return st ? st : w.full ? STATUS_CHECKSUM_MISMATCH : STATUS_OK; /* NODE_ROWS_MAX are put at most */
}
