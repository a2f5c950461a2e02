#include "engine/index.h"

#include <limits.h>
#include <stdio.h>

#include "proto/pbwire.h"

/* What an order's rows are is said once, in each_key(): writing, building, and both directions of the proof go through it.
 *
 * The content is read as stored wire bytes. Fields stand in the order of their numbers (order.h), so a look ends behind the one that it wants. Bytes that are no
 * message end it too: the door lets none in, and if they came in all the same, each replica and the checker stop at the same place. */

enum { FIELD_MERCHANT = 3, FIELD_ITEMS = 20, ITEM_SKU = 1, INDEX_FORMAT = 1 };

static struct slice status_value(uint8_t bytes[2], uint16_t status)
{
    put_be16(bytes, status);
    return slice_of(bytes, 2);
}

/* The text of a field that stands among the first ones. Empty: none, or no key holds it (the door's limit is half of that). */
static struct slice text_of(struct slice message, uint32_t number)
{
    struct reader r = reader_of(message);
    for (struct pb_field f; pb_next(&r, &f) && f.number <= number;)
        if (f.number == number && f.wire_type == PB_LEN) return f.bytes.len <= UINT8_MAX ? f.bytes : (struct slice){0};
    return (struct slice){0};
}

/* The keys of an order, until `each` answers something else than OK. A SKU of two lines comes twice. */
static enum status each_key(const struct order_head *head, struct slice summary, struct slice detail, enum status (*each)(void *ctx, const struct key *k), void *ctx)
{
    struct key k;
    uint8_t bytes[2];
    key_index_row(&k, KEY_INDEX_STATUS, status_value(bytes, head->status), head->create_us, head->order_id);
    enum status st = each(ctx, &k);
    struct slice merchant = text_of(summary, FIELD_MERCHANT);
    if (!st && merchant.len) {
        key_index_row(&k, KEY_INDEX_MERCHANT, merchant, head->create_us, head->order_id);
        st = each(ctx, &k);
    }
    struct reader r = reader_of(detail);
    for (struct pb_field f; !st && pb_next(&r, &f) && f.number <= FIELD_ITEMS;) {
        struct slice sku = f.number == FIELD_ITEMS && f.wire_type == PB_LEN ? text_of(f.bytes, ITEM_SKU) : (struct slice){0};
        if (!sku.len) continue;
        key_index_row(&k, KEY_INDEX_SKU, sku, head->create_us, head->order_id);
        st = each(ctx, &k);
    }
    return st;
}

/* ---- writing */

static enum status put(void *ctx, const struct key *k)
{
    store_batch_put(ctx, key_slice(k), (struct slice){0});
    return STATUS_OK;
}

void index_put(struct store_batch *batch, const struct order_head *head, struct slice summary, struct slice detail)
{
    check(each_key(head, summary, detail, put, batch) == STATUS_OK);
}

void index_move(struct store_batch *batch, struct list_position at, uint16_t from, uint16_t to)
{
    struct key k;
    uint8_t bytes[2];
    key_index_row(&k, KEY_INDEX_STATUS, status_value(bytes, from), at.create_us, at.order_id);
    store_batch_delete(batch, key_slice(&k));
    key_index_row(&k, KEY_INDEX_STATUS, status_value(bytes, to), at.create_us, at.order_id);
    store_batch_put(batch, key_slice(&k), (struct slice){0});
}

/* ---- reading */

enum status index_scan(const struct store_view *view, const struct index_range *range, const struct list_position *after, struct list_position *out, unsigned limit, unsigned *count,
                       bool *more)
{
    struct key lower, upper;
    uint8_t bytes[2];
    struct slice value = range->kind == KEY_INDEX_STATUS ? status_value(bytes, range->status) : range->text;
    *count = 0, *more = false;
    key_index_row(&lower, range->kind, value, range->from_us, 0);
    if (after && after->create_us < range->to_us) key_index_row(&upper, range->kind, value, after->create_us, after->order_id);
    else if (range->to_us < INT64_MAX) key_index_row(&upper, range->kind, value, range->to_us, 0);
    else key_index_prefix(&upper, range->kind, value), key_after_prefix(&upper);
    if (slice_compare(key_slice(&lower), key_slice(&upper)) >= 0) return STATUS_OK;
    struct store_iter *it = store_iter_open(view, key_slice(&lower), key_slice(&upper));
    for (store_iter_last(it); store_iter_valid(it) && !*more; store_iter_prev(it)) {
        if (*count == limit) {
            *more = true;
            break;
        }
        struct list_position *at = &out[(*count)++];
        key_list_position(store_iter_key(it), &at->create_us, &at->order_id);
    }
    enum status st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

/* ---- the record, and older orders */

void index_record_encode(const struct index_record *r, struct writer *w)
{
    write_u8(w, INDEX_FORMAT);
    write_u8(w, r->complete);
    write_be16(w, r->slot);
    write_be64(w, (uint64_t)r->order_id);
}

enum status index_record_decode(struct slice row, struct index_record *out)
{
    struct reader r = reader_of(row);
    uint8_t format = read_u8(&r), complete = read_u8(&r);
    *out = (struct index_record){.complete = complete};
    out->slot = read_be16(&r);
    out->order_id = (int64_t)read_be64(&r);
    return r.bad || r.at != r.end || format != INDEX_FORMAT || complete > 1 ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

void index_record_put(struct store_batch *batch, const struct index_record *r)
{
    struct key k;
    uint8_t row[INDEX_RECORD_BYTES];
    struct writer w = writer_of(row, sizeof row);
    key_index_record(&k);
    index_record_encode(r, &w);
    check(!w.full);
    store_batch_put(batch, key_slice(&k), writer_slice(&w));
}

static enum status load_body(const struct store_view *view, struct arena *scratch, int64_t order_id, struct order_body *body)
{
    struct key k;
    struct slice row;
    key_body(&k, order_id);
    enum status st = store_get(view, key_slice(&k), scratch, &row);
    if (st == STATUS_ABSENT) st = STATUS_CHECKSUM_MISMATCH;
    return st ? st : order_body_decode(row, body);
}

/* A walk over the heads of slots, by slot and id. */
struct heads {
    struct store_iter *it;
    uint16_t slot, last_slot;
};

static bool heads_at_one(const struct heads *h)
{
    struct slice key = store_iter_valid(h->it) ? store_iter_key(h->it) : (struct slice){0};
    return key.len > 2 && get_be16(key.data) == h->slot && key.data[2] == KEY_HEAD;
}

/* The first head of this slot from an id on, or of a slot behind it; two seeks for each slot that has rows. false: the end, or the iterator's status. */
static bool heads_find(struct heads *h, int64_t from_order_id)
{
    for (;; from_order_id = 0) {
        struct key k;
        key_heads(&k, h->slot, from_order_id);
        store_iter_seek(h->it, key_slice(&k));
        if (!store_iter_valid(h->it)) return false;
        if (heads_at_one(h)) return true;
        uint16_t found = get_be16(store_iter_key(h->it).data);
        if (MAX_OF(found, (uint16_t)(h->slot + 1)) > h->last_slot) return false;
        h->slot = found > h->slot ? found : (uint16_t)(h->slot + 1);
    }
}

static bool heads_open(struct heads *h, const struct store_view *view, uint16_t slot, uint16_t last_slot, int64_t from_order_id)
{
    struct key lower, upper;
    key_slot_prefix(&lower, slot);
    key_slot_prefix(&upper, last_slot);
    key_after_prefix(&upper);
    *h = (struct heads){store_iter_open(view, key_slice(&lower), key_slice(&upper)), slot, last_slot};
    return heads_find(h, from_order_id);
}

static bool heads_next(struct heads *h)
{
    store_iter_next(h->it);
    if (heads_at_one(h)) return true;
    if (!store_iter_valid(h->it) || h->slot == h->last_slot) return false;
    h->slot++;
    return heads_find(h, 0);
}

static enum status heads_load(const struct heads *h, const struct store_view *view, struct arena *scratch, struct order_head *head, struct order_body *body)
{
    arena_reset(scratch);
    enum status st = order_head_decode(store_iter_value(h->it), head);
    return st ? st : load_body(view, scratch, head->order_id, body);
}

/* What are read are whole entries (the batch is not looked at), and no entry comes between the read and the write: the rows are of what the orders are. */
enum status index_build(struct store *store, struct store_batch *batch, struct arena *scratch, struct index_record *r, uint16_t last_slot, unsigned orders)
{
    struct store_view view = {.store = store, .bulk = true};
    struct heads h;
    struct index_record now = *r;
    enum status st = STATUS_OK;
    bool found = heads_open(&h, &view, now.slot, last_slot, now.order_id);
    for (; found && !st && orders; orders--) {
        struct order_head head;
        struct order_body body;
        st = heads_load(&h, &view, scratch, &head, &body);
        if (st) break;
        index_put(batch, &head, body.summary, body.detail);
        now.slot = h.slot, now.order_id = head.order_id + 1;
        found = heads_next(&h);
    }
    if (!st && !found) st = store_iter_status(h.it);
    store_iter_close(h.it);
    if (st) return st;
    now.complete = !found;
    index_record_put(batch, &now);
    *r = now;
    return STATUS_OK;
}

/* ---- proof */

struct proof {
    const struct store_view *view;
    struct arena *scratch;
    struct slice wanted; /* of a row: is it one of the order's? */
    bool found;
    struct index_check *check; /* the piece; what is wrong goes to its defect */
};

static enum status proof_fails(struct proof *p, const char *what, struct slice key)
{
    uint8_t kind;
    struct slice value;
    int64_t create_us, order_id;
    if (!key_index_parts(key, &kind, &value, &create_us, &order_id)) snprintf(p->check->defect, INDEX_DEFECT_BYTES, "%s: a key of %zu bytes", what, key.len);
    else if (kind == KEY_INDEX_STATUS) snprintf(p->check->defect, INDEX_DEFECT_BYTES, "%s: status %u of order %lld", what, get_be16(value.data), (long long)order_id);
    else snprintf(p->check->defect, INDEX_DEFECT_BYTES, "%s: %s '%.*s' of order %lld", what, kind == KEY_INDEX_SKU ? "SKU" : "merchant", (int)MIN_OF(value.len, (size_t)100), (const char *)value.data, (long long)order_id);
    return STATUS_CHECKSUM_MISMATCH;
}

static enum status row_is_there(void *ctx, const struct key *k)
{
    struct proof *p = ctx;
    struct slice row;
    enum status st = store_get(p->view, key_slice(k), p->scratch, &row);
    if (st == STATUS_ABSENT) return proof_fails(p, "an index row is missing", key_slice(k));
    return !st && row.len ? proof_fails(p, "an index row has a value", key_slice(k)) : st;
}

enum { PHASE_ORDERS = 'O', PHASE_ROWS = 'R', ORDERS_POSITION_BYTES = 1 + 2 + 8 };

static void position_at(struct index_check *c, uint8_t phase, struct slice rest)
{
    check(rest.len < INDEX_POSITION_BYTES_MAX);
    c->position[0] = phase;
    if (rest.len) memcpy(c->position + 1, rest.data, rest.len);
    c->position_len = 1 + rest.len;
}

static void position_at_rows(struct index_check *c)
{
    struct key k;
    key_index_record(&k);
    position_at(c, PHASE_ROWS, key_slice(&k));
}

bool index_position_valid(struct slice position, uint16_t first_slot, uint16_t last_slot)
{
    if (!position.len) return true;
    if (position.len > INDEX_POSITION_BYTES_MAX) return false;
    struct slice rest = slice_of(position.data + 1, position.len - 1);
    if (position.data[0] == PHASE_ROWS) return slice_starts_with(rest, KEY_INDEX_PREFIX);
    if (position.data[0] != PHASE_ORDERS || position.len != ORDERS_POSITION_BYTES) return false;
    return get_be16(rest.data) >= first_slot && get_be16(rest.data) <= last_slot;
}

/* A row that can't be read is a defect as one that is wrong is; what the disk or the heap denies ends the piece. */
static bool is_defect(struct index_check *c, enum status st, const char *what, unsigned slot)
{
    if (st == STATUS_ABSENT || st == STATUS_CHECKSUM_MISMATCH || st == STATUS_FORMAT_UNKNOWN) {
        if (!c->defect[0]) snprintf(c->defect, INDEX_DEFECT_BYTES, "%s of slot %u can't be read", what, slot);
        return true;
    }
    return false;
}

static enum status orders_have_rows(struct proof *p)
{
    struct index_check *c = p->check;
    uint16_t slot = c->position_len ? get_be16(c->position + 1) : c->first_slot;
    struct heads h;
    enum status st = STATUS_OK;
    bool found = heads_open(&h, p->view, slot, c->last_slot, c->position_len ? (int64_t)get_be64(c->position + 3) : 0);
    for (; found && !st && !c->defect[0] && c->limit; c->limit--) {
        struct order_head head;
        struct order_body body;
        uint8_t next[ORDERS_POSITION_BYTES - 1]; /* behind this one, whatever its head holds */
        struct slice key = store_iter_key(h.it);
        put_be16(next, h.slot), put_be64(next + 2, get_be64(key.data + 3) + 1);
        st = heads_load(&h, p->view, p->scratch, &head, &body);
        if (!st) st = each_key(&head, body.summary, body.detail, row_is_there, p);
        if (is_defect(c, st, "an order", h.slot)) st = STATUS_OK;
        if (st) break;
        c->count.orders++;
        position_at(c, PHASE_ORDERS, slice_of(next, sizeof next));
        found = heads_next(&h);
    }
    if (!st && !found) st = store_iter_status(h.it);
    if (!st && !found) position_at_rows(c);
    store_iter_close(h.it);
    return st;
}

static enum status key_is_wanted(void *ctx, const struct key *k)
{
    struct proof *p = ctx;
    p->found |= slice_equal(p->wanted, key_slice(k));
    return STATUS_OK;
}

static enum status row_has_order(struct proof *p, struct slice key)
{
    uint8_t kind;
    struct slice value, row;
    int64_t create_us, order_id;
    struct key k;
    struct order_head head;
    struct order_body body;
    if (!key_index_parts(key, &kind, &value, &create_us, &order_id) || !order_id_plausible(order_id)) return proof_fails(p, "an index row can't be read", key);
    if (order_id_slot(order_id) < p->check->first_slot || order_id_slot(order_id) > p->check->last_slot) return proof_fails(p, "an index row of another partition", key);
    arena_reset(p->scratch);
    key_head(&k, order_id);
    enum status st = store_get(p->view, key_slice(&k), p->scratch, &row);
    if (st == STATUS_ABSENT) return proof_fails(p, "an index row without its order", key);
    if (!st) st = order_head_decode(row, &head);
    if (!st) st = load_body(p->view, p->scratch, order_id, &body);
    if (st) return snprintf(p->check->defect, INDEX_DEFECT_BYTES, "order %lld can't be read", (long long)order_id), st;
    p->wanted = key, p->found = false;
    st = each_key(&head, body.summary, body.detail, key_is_wanted, p);
    return !st && !p->found ? proof_fails(p, "an index row that its order does not ask for", key) : st;
}

static enum status rows_have_orders(struct proof *p)
{
    struct index_check *c = p->check;
    struct key record, upper;
    enum status st = STATUS_OK;
    key_index_record(&record);
    upper = record;
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(p->view, key_slice(&record), key_slice(&upper));
    for (store_iter_seek(it, slice_of(c->position + 1, c->position_len - 1)); store_iter_valid(it) && !c->defect[0] && c->limit; store_iter_next(it), c->limit--) {
        if (store_iter_key(it).len == record.len) continue; /* the record */
        st = row_has_order(p, store_iter_key(it));
        if (is_defect(c, st, "an index row", 0)) st = STATUS_OK;
        if (st) break;
        c->count.rows++;
    }
    if (!st) st = store_iter_status(it);
    c->position_len = 0;
    if (store_iter_valid(it)) position_at(c, PHASE_ROWS, store_iter_key(it));
    store_iter_close(it);
    return st;
}

enum status index_check(const struct store_view *view, struct arena *scratch, struct index_check *c)
{
    struct proof p = {.view = view, .scratch = scratch, .check = c};
    enum status st = STATUS_OK;
    c->count = (struct index_count){0};
    c->defect[0] = 0;
    if (!c->position_len || c->position[0] == PHASE_ORDERS) st = orders_have_rows(&p);
    bool rows = c->position_len && c->position[0] == PHASE_ROWS && c->limit && !c->defect[0];
    return st || !rows ? st : rows_have_orders(&p);
}

enum status index_verify(const struct store_view *view, struct arena *scratch, uint16_t first_slot, uint16_t last_slot, struct index_count *out, char error[INDEX_DEFECT_BYTES])
{
    struct index_check c = {.first_slot = first_slot, .last_slot = last_slot, .limit = UINT_MAX};
    enum status st = index_check(view, scratch, &c);
    *out = c.count;
    memcpy(error, c.defect, INDEX_DEFECT_BYTES);
    return !st && c.defect[0] ? STATUS_CHECKSUM_MISMATCH : st;
}
