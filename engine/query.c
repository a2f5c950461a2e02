/* Reads. An answer is put together from stored bytes: the head becomes a few wire fields, the body's parts are copied as they are, and nothing
 * is unpacked on the way. Bodies are read into a scratch arena of this file's, one at a time, so that a list of summaries does not hold the
 * details of a thousand orders; only what goes out is kept in the request's arena.
 *
 * Refusals are decided before the store is touched, all of them, so that a caller learns every violation at once. A row that ought to be there
 * and isn't (a list row without its order, a gap in a history) is CHECKSUM_MISMATCH: stored data is damaged, and half an answer would hide it. */
#include "engine/query.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/check.h"
#include "engine/keys.h"
#include "engine/list_cache.h"
#include "engine/page_token.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"

enum {
    HISTORY_PAGE_SIZE_DEFAULT = 100,
    HISTORY_LOOKUPS_MAX = 2, /* to open a scan over files costs as much as two look-ups */
    /* A page stops here, so that head, token and counts still fit a message of 4 MiB. One order (1 MiB at most) always fits. */
    PAGE_BYTES_MAX = 3 << 20,
    SCRATCH_BYTES_MAX = STORE_VALUE_BYTES_MAX + (64 << 10),
    COUNT_ENTRY_BYTES_MAX = 2 + 2 + STATUS_NAME_BYTES_MAX + 1 + 10,
};
static_assert(PAGE_BYTES_MAX + USERLIST_STATUSES_MAX * COUNT_ENTRY_BYTES_MAX + 1024 < GRPC_MESSAGE_BYTES_MAX, "a page is one message");

/* ---- faults ---- */

/* WOULD_BLOCK is no failure: the caller asks again elsewhere. */
static enum status query_fault(const struct query *q, enum status st, const char *what, int64_t order_id) {
    if (st == STATUS_WOULD_BLOCK || st == STATUS_OK) return st;
    if (st == STATUS_ABSENT) st = STATUS_CHECKSUM_MISMATCH; /* absent where it has to be */
    const char *why = st == STATUS_CHECKSUM_MISMATCH ? "stored data is damaged" : status_name(st);
    if (order_id) failure_set(q->failure, st, "%s: %s of order %lld", why, what, (long long)order_id);
    else failure_set(q->failure, st, "%s: %s", why, what);
    return st;
}

static enum status query_memory(const struct query *q) {
    return failure_set(q->failure, STATUS_MEMORY_LIMIT, "the answer needs more memory than a request may have; ask for a smaller page");
}

static enum status query_not_found(const struct query *q, int64_t order_id) {
    failure_meta(q->failure, "order_id", "%lld", (long long)order_id);
    return failure_set(q->failure, STATUS_ORDER_NOT_FOUND, "there is no order %lld", (long long)order_id);
}

static enum status query_not_yet(const struct query *q, int64_t order_id) {
    failure_meta(q->failure, "order_id", "%lld", (long long)order_id);
    return failure_set(q->failure, STATUS_ORDER_NOT_FOUND, "order %lld was not there yet at that time", (long long)order_id);
}

static bool order_id_ok(const struct query *q, int64_t order_id) {
    if (order_id_plausible(order_id)) return true;
    failure_violation(q->failure, STATUS_FIELD_INVALID, "order_id", "must be positive, got %lld", (long long)order_id);
    return false;
}

/* ---- one order ---- */

static enum status head_decode(struct slice row, int64_t order_id, struct order_head *head) {
    enum status st = order_head_decode(row, head);
    return !st && head->order_id != order_id ? STATUS_CHECKSUM_MISMATCH : st;
}

static enum status head_get(const struct query *q, struct arena *arena, int64_t order_id, struct order_head *head) {
    struct key k;
    struct slice row;
    key_head(&k, order_id);
    enum status st = store_get(&q->view, key_slice(&k), arena, &row);
    return st ? st : head_decode(row, order_id, head);
}

static enum status body_get(const struct query *q, struct arena *arena, int64_t order_id, struct order_body *body) {
    struct key k;
    struct slice row;
    key_body(&k, order_id);
    enum status st = store_get(&q->view, key_slice(&k), arena, &row);
    return st ? st : order_body_decode(row, body);
}

struct slice query_order_wire(const struct order_head *head, const struct order_body *body, bool full, const struct machines *ms, struct arena *arena) {
    struct slice parts[] = {order_head_wire(head, ms, arena), body->summary, full ? body->detail : (struct slice){0}};
    size_t bytes = parts[0].len + parts[1].len + parts[2].len;
    uint8_t *out = parts[0].data ? arena_alloc(arena, bytes) : NULL;
    if (!out) return (struct slice){0};
    struct writer w = writer_of(out, bytes);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) write_slice(&w, parts[i]);
    check(w.len == bytes);
    return writer_slice(&w);
}

/* An update keeps what it replaced under its own version: the first one behind `version` has what held until then. */
enum status query_content_at(const struct store_view *view, struct arena *arena, int64_t order_id, int64_t version, struct order_body *body) {
    struct key lower, upper;
    key_content(&lower, order_id, version + 1);
    key_content(&upper, order_id, INT64_MAX);
    struct store_iter *it = store_iter_open(view, key_slice(&lower), key_slice(&upper));
    store_iter_first(it);
    enum status st = store_iter_valid(it) ? STATUS_OK : store_iter_status(it);
    if (store_iter_valid(it)) {
        struct slice row = arena_copy(arena, store_iter_value(it));
        st = row.data ? order_content_decode(row, body) : STATUS_MEMORY_LIMIT;
    }
    store_iter_close(it);
    return st;
}

/* The newest of the versions before the head's that is not later than as_of_us; version 1 is. Times do not go back (apply_transition.c, check_import.c), so
 * history is searched by halves. */
static enum status entry_at(const struct query *q, const struct order_head *head, const struct history_entry *origin, int64_t as_of_us, struct history_entry *found) {
    int64_t low = 1, high = head->version; /* low is not later; high is */
    *found = *origin;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        struct key k;
        struct slice row;
        struct history_entry e;
        key_history(&k, head->order_id, middle);
        enum status st = store_get(&q->view, key_slice(&k), q->arena, &row);
        if (!st) st = history_decode(row, &e);
        if (!st && e.version != middle) st = STATUS_CHECKSUM_MISMATCH;
        if (st) return st;
        if (e.time_us <= as_of_us) low = middle, *found = e;
        else high = middle;
    }
    return STATUS_OK;
}

/* Head and body made what they were after the last commit that is not later; ABSENT: before its first. */
static enum status order_at(const struct query *q, int64_t as_of_us, struct order_head *head, struct order_body *body) {
    struct history_entry then;
    if (as_of_us < head->create_us) return query_not_yet(q, head->order_id);
    if (as_of_us >= head->update_us) return STATUS_OK;
    enum status st = entry_at(q, head, &body->origin, as_of_us, &then);
    if (st) return query_fault(q, st, "history", head->order_id);
    if ((st = query_content_at(&q->view, q->arena, head->order_id, then.version, body))) return query_fault(q, st, "content", head->order_id);
    head->version = then.version;
    head->status = then.to;
    head->update_us = then.time_us;
    head->timers = then.timers;
    return STATUS_OK;
}

/* ---- pages ---- */

/* The pieces of an answer in order; each is a run of whole wire fields. */
struct pieces {
    struct slice *at;
    size_t n, cap, bytes;
};

static bool pieces_begin(struct pieces *p, struct arena *arena, size_t cap) {
    *p = (struct pieces){.at = arena_array(arena, struct slice, cap), .cap = cap};
    return p->at != NULL;
}

static void pieces_add(struct pieces *p, struct slice s) {
    check(p->n < p->cap);
    p->at[p->n++] = s;
    p->bytes += s.len;
}

static enum status pieces_join(const struct query *q, const struct pieces *p, struct slice *out) {
    uint8_t *data = arena_alloc(q->arena, p->bytes);
    if (!data) return query_memory(q);
    struct writer w = writer_of(data, p->bytes);
    for (size_t i = 0; i < p->n; i++) write_slice(&w, p->at[i]);
    check(w.len == p->bytes);
    *out = writer_slice(&w);
    return STATUS_OK;
}

/* One field that holds a message, framed, in the request's arena; NULL: full. */
static struct slice framed(const struct query *q, uint32_t field, struct slice message) {
    size_t cap = pb_bytes_max(message);
    struct writer w = writer_of(arena_alloc(q->arena, cap), cap);
    if (!w.data) return (struct slice){0};
    pb_message(&w, field, &message, 1);
    return writer_slice(&w);
}

/* The wire bytes of the field `orders`; they are in the request's arena, what was read for them is in scratch. */
static enum status order_framed(const struct query *q, struct arena *scratch, const struct order_head *head, const struct order_body *body, bool full, struct slice *out) {
    struct slice wire = query_order_wire(head, body, full, q->machines, scratch);
    if (!wire.data) return query_memory(q);
    *out = framed(q, 1, wire);
    return out->data ? STATUS_OK : query_memory(q);
}

/* ---- many ---- */

enum status query_batch_too_large(struct failure *f) {
    return failure_violation(f, STATUS_LIMIT_EXCEEDED, "order_ids", "these orders take more than %d bytes: ask for fewer, or for their summaries", QUERY_BATCH_BYTES_MAX);
}

enum status query_get_many(const struct query *q, const int64_t *ids, unsigned count, bool full, struct slice **orders) {
    struct arena scratch;
    size_t bytes = 0;
    enum status st = STATUS_OK;
    struct slice *at = *orders = arena_zalloc(q->arena, count * sizeof *at);
    if (!at) return query_memory(q);
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    for (unsigned i = 0; i < count && !st; i++) {
        struct order_head head;
        struct order_body body;
        arena_reset(&scratch);
        st = head_get(q, &scratch, ids[i], &head);
        if (st == STATUS_ABSENT) {
            st = STATUS_OK;
            continue;
        }
        if (!st) st = body_get(q, &scratch, ids[i], &body);
        st = st ? query_fault(q, st, "row", ids[i]) : order_framed(q, &scratch, &head, &body, full, &at[i]);
        bytes += at[i].len;
        if (!st && bytes > QUERY_BATCH_BYTES_MAX) st = query_batch_too_large(q->failure);
    }
    arena_fini(&scratch);
    return st;
}

static void check_page_size(const struct query *q, int32_t page_size) {
    if (page_size < 0) failure_violation(q->failure, STATUS_FIELD_INVALID, "page_size", "must not be negative, got %d", page_size);
    if (page_size > QUERY_PAGE_SIZE_MAX) failure_violation(q->failure, STATUS_LIMIT_EXCEEDED, "page_size", "at most %d, got %d", QUERY_PAGE_SIZE_MAX, page_size);
}

static bool token_take(const struct query *q, struct slice text, struct page_token *t) {
    if (page_token_decode(text, q->token_key, t)) return true;
    failure_violation(q->failure, STATUS_PAGE_TOKEN_INVALID, "page_token", "not a token of this query; begin again without one");
    return false;
}

static bool token_add(const struct query *q, struct pieces *p, const struct page_token *t) {
    char text[PAGE_TOKEN_TEXT_BYTES];
    enum { CAP = 2 + PAGE_TOKEN_TEXT_BYTES + 10 };
    struct writer w = writer_of(arena_alloc(q->arena, CAP), CAP);
    if (!w.data) return false;
    pb_bytes(&w, 2, page_token_encode(t, q->token_key, text));
    check(!w.full);
    pieces_add(p, writer_slice(&w));
    return true;
}

/* ---- list ---- */

/* A list request that passed, and how far its page has come. */
struct listing {
    const struct query *q;
    const struct list_request *r;
    struct userlist_range range;
    struct page_token token;
    struct list_position after;
    bool has_after;
    unsigned page_size;
    int64_t skip;
    struct userlist_item *items;
    unsigned item_count;
    bool more;
    struct pieces pieces;
};
enum { PIECES_AN_ORDER = 3, FRAME_BYTES_MAX = 1 + 10 };

static int compare_status(const void *a, const void *b) { return *(const uint16_t *)a - *(const uint16_t *)b; }

/* A set: order and repetition do not matter, also not to the token. */
static void check_statuses(struct listing *l) {
    const struct list_request *r = l->r;
    struct failure *f = l->q->failure;
    if (r->status_count > USERLIST_NAMED_MAX) {
        failure_violation(f, STATUS_LIMIT_EXCEEDED, "statuses", "at most %d, got %u", USERLIST_NAMED_MAX, r->status_count);
        return;
    }
    uint16_t ids[USERLIST_NAMED_MAX];
    for (unsigned i = 0; i < r->status_count; i++) {
        char field[32];
        snprintf(field, sizeof field, "statuses[%u]", i);
        ids[i] = machines_status_id(l->q->machines, r->statuses[i]);
        struct slice shown = slice_cut_utf8(r->statuses[i], 64);
        if (!ids[i]) failure_violation(f, STATUS_FIELD_INVALID, field, "no machine has the status \"%.*s\"", (int)shown.len, shown.data);
    }
    qsort(ids, r->status_count, sizeof ids[0], compare_status);
    for (unsigned i = 0; i < r->status_count; i++)
        if (i == 0 || ids[i] != ids[i - 1]) l->range.statuses[l->range.status_count++] = ids[i];
}

static void check_times(struct listing *l) {
    const struct list_request *r = l->r;
    l->range.from_us = r->has_from ? r->from_us : INT64_MIN;
    l->range.to_us = r->has_to ? r->to_us : INT64_MAX;
    if (l->range.from_us > l->range.to_us) failure_violation(l->q->failure, STATUS_FIELD_INVALID, "create_time_from", "must not be after create_time_to");
}

/* What the next page's token must come back with. Not the page's size, and not the view: these may change from page to page. */
static struct hash128 list_fingerprint(const struct userlist_range *range) {
    uint8_t bytes[CHECK_USER_ID_BYTES_MAX + 32 + 2 * USERLIST_NAMED_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    write_counted(&w, range->user_id);
    write_be64(&w, (uint64_t)range->from_us);
    write_be64(&w, (uint64_t)range->to_us);
    for (unsigned i = 0; i < range->status_count; i++) write_be16(&w, range->statuses[i]);
    check(!w.full);
    return hash128(writer_slice(&w));
}

static bool listing_check(struct listing *l) {
    const struct list_request *r = l->r;
    struct failure *f = l->q->failure;
    if (r->user_id.len == 0) failure_violation(f, STATUS_FIELD_INVALID, "user_id", "must not be empty");
    if (r->user_id.len > CHECK_USER_ID_BYTES_MAX)
        failure_violation(f, STATUS_LIMIT_EXCEEDED, "user_id", "at most %d bytes, got %zu", CHECK_USER_ID_BYTES_MAX, r->user_id.len);
    check_page_size(l->q, r->page_size);
    check_statuses(l);
    check_times(l);
    if (r->page_number < 0) failure_violation(f, STATUS_FIELD_INVALID, "page_number", "must not be negative, got %d", r->page_number);
    if (r->page_number > 0 && r->page_token.len) failure_violation(f, STATUS_FIELD_INVALID, "page_number", "give page_number or page_token, not both");
    if (f->status) return false;
    l->page_size = r->page_size ? (unsigned)r->page_size : QUERY_PAGE_SIZE_DEFAULT;
    l->skip = r->page_number > 1 ? (int64_t)(r->page_number - 1) * l->page_size : 0;
    l->range.slot = slot_of_user(r->user_id);
    l->range.user_id = r->user_id;
    l->token = (struct page_token){.kind = PAGE_TOKEN_LIST, .query = list_fingerprint(&l->range)};
    l->has_after = r->page_token.len > 0;
    if (l->has_after && !token_take(l->q, r->page_token, &l->token)) return false;
    l->after = (struct list_position){l->token.position[0], l->token.position[1]};
    return true;
}

/* Rows of one kind in falling order of their keys. Those of one user's orders are neighbours where few others live in the slot: a step back costs a twentieth of a
 * look-up in files. Where they are not, WALK_MISSES_MAX rows tell so, and the rest are looked up. Keys may come in any order (imported orders were made at other
 * times than their ids): those that the walk has passed are looked up too. */
struct walk {
    struct store_iter *it;
    unsigned misses;
};
enum { WALK_STEPS_MAX = 4, WALK_MISSES_MAX = 2, WALK_ORDERS_MIN = 4 };

/* The row lies in scratch, or with the walk until its next row. */
static enum status walk_get(const struct query *q, struct walk *w, struct slice key, struct arena *scratch, struct slice *row) {
    if (w->misses >= WALK_MISSES_MAX) return store_get(&q->view, key, scratch, row);
    if (!w->it) {
        w->it = store_iter_open(&q->view, (struct slice){0}, (struct slice){0});
        store_iter_seek_back(w->it, key);
    }
    for (int steps = 0; steps < WALK_STEPS_MAX && store_iter_valid(w->it) && slice_compare(store_iter_key(w->it), key) > 0; steps++) store_iter_prev(w->it);
    enum status st = store_iter_status(w->it);
    if (st) return st;
    if (store_iter_valid(w->it) && slice_equal(store_iter_key(w->it), key)) return *row = store_iter_value(w->it), STATUS_OK;
    w->misses++;
    return store_get(&q->view, key, scratch, row);
}

struct list_walks {
    struct walk heads, bodies;
};

static enum status walk_body(const struct query *q, struct list_walks *walks, struct arena *scratch, int64_t order_id, struct order_body *body) {
    struct slice row;
    struct key k;
    key_body(&k, order_id);
    enum status st = walk_get(q, &walks->bodies, key_slice(&k), scratch, &row);
    return st ? st : order_body_decode(row, body);
}

/* From its rows: the list row has no card. */
static enum status list_rows(const struct listing *l, struct list_walks *walks, struct arena *scratch, int64_t order_id, struct slice *out) {
    struct order_head head;
    struct order_body body;
    struct slice row;
    struct key k;
    key_head(&k, order_id);
    enum status st = walk_get(l->q, &walks->heads, key_slice(&k), scratch, &row);
    if (!st) st = head_decode(row, order_id, &head);
    if (!st) st = walk_body(l->q, walks, scratch, order_id, &body);
    return st ? query_fault(l->q, st, "row", order_id) : order_framed(l->q, scratch, &head, &body, l->r->full, out);
}

static enum status list_detail(const struct listing *l, struct list_walks *walks, struct arena *scratch, int64_t order_id, struct slice *out) {
    struct order_body body;
    enum status st = walk_body(l->q, walks, scratch, order_id, &body);
    if (st) return query_fault(l->q, st, "row", order_id);
    *out = arena_copy(l->q->arena, body.detail);
    return out->data ? STATUS_OK : query_memory(l->q);
}

/* The pieces of one order, at most PIECES_AN_ORDER: the card as it stands, or what is made of its rows. */
static enum status list_order(const struct listing *l, struct list_walks *walks, struct arena *scratch, const struct userlist_item *item, struct slice out[PIECES_AN_ORDER]) {
    memset(out, 0, PIECES_AN_ORDER * sizeof *out);
    if (!item->card.len) return list_rows(l, walks, scratch, item->at.order_id, &out[0]);
    enum status st = l->r->full ? list_detail(l, walks, scratch, item->at.order_id, &out[2]) : STATUS_OK;
    if (st) return st;
    struct writer w = writer_of(arena_alloc(l->q->arena, FRAME_BYTES_MAX), FRAME_BYTES_MAX);
    if (!w.data) return query_memory(l->q);
    pb_tag(&w, 1, PB_LEN);
    write_varint(&w, item->card.len + out[2].len);
    out[0] = writer_slice(&w), out[1] = item->card;
    return STATUS_OK;
}

/* A page that grows too large for a message ends early and goes on by its token. A numbered page must not: the next number would skip orders. */
static enum status list_orders(struct listing *l) {
    struct arena scratch;
    arena_init(&scratch, SCRATCH_BYTES_MAX);
    enum status st = STATUS_OK;
    struct list_walks walks = {0};
    if (l->item_count < WALK_ORDERS_MIN) walks.heads.misses = walks.bodies.misses = WALK_MISSES_MAX; /* two seeks would cost more */
    for (unsigned i = 0; i < l->item_count; i++) {
        struct slice order[PIECES_AN_ORDER];
        arena_reset(&scratch);
        if ((st = list_order(l, &walks, &scratch, &l->items[i], order))) break;
        if (i && l->pieces.bytes + order[0].len + order[1].len + order[2].len > PAGE_BYTES_MAX) {
            l->item_count = i;
            l->more = true;
            if (l->r->page_number)
                st = failure_violation(l->q->failure, STATUS_LIMIT_EXCEEDED, "page_size", "these %u orders take more than %d bytes: ask for fewer, or page by token", l->page_size,
                                       PAGE_BYTES_MAX);
            break;
        }
        for (unsigned k = 0; k < PIECES_AN_ORDER; k++)
            if (order[k].len) pieces_add(&l->pieces, order[k]);
    }
    if (walks.heads.it) store_iter_close(walks.heads.it);
    if (walks.bodies.it) store_iter_close(walks.bodies.it);
    arena_fini(&scratch);
    return st;
}

/* total_size and status_counts */
static enum status list_counts(struct listing *l, const struct status_counts *counts) {
    size_t cap = PB_INT_BYTES_MAX + counts->n * COUNT_ENTRY_BYTES_MAX;
    struct writer w = writer_of(arena_alloc(l->q->arena, cap), cap);
    if (!w.data) return query_memory(l->q);
    int64_t total = 0;
    for (unsigned i = 0; i < counts->n; i++) {
        bool wanted = l->range.status_count == 0;
        for (unsigned k = 0; k < l->range.status_count; k++) wanted |= l->range.statuses[k] == counts->at[i].status;
        if (wanted) total += counts->at[i].count;
    }
    pb_int64(&w, 3, total);
    for (unsigned i = 0; i < counts->n; i++) {
        if (!machines_status_known(l->q->machines, counts->at[i].status)) return query_fault(l->q, STATUS_CHECKSUM_MISMATCH, "counts of the user", 0);
        uint8_t bytes[COUNT_ENTRY_BYTES_MAX];
        struct writer entry = writer_of(bytes, sizeof bytes);
        pb_bytes(&entry, 1, machines_status_name(l->q->machines, counts->at[i].status));
        pb_int64(&entry, 2, counts->at[i].count);
        check(!entry.full);
        struct slice part = writer_slice(&entry);
        pb_message(&w, 4, &part, 1);
    }
    check(!w.full);
    pieces_add(&l->pieces, writer_slice(&w));
    return STATUS_OK;
}

/* For simulators: what memory answers is what the store would. */
static void list_page_prove(const struct listing *l, const struct list_position *after, const struct status_counts *counts) {
    struct status_counts stored;
    unsigned count;
    bool more;
    struct userlist_item *items = arena_array(l->q->arena, struct userlist_item, l->page_size);
    if (!items || userlist_page(&l->q->view, l->q->arena, &l->range, l->skip, after, items, l->page_size, &count, &more, &stored)) return; /* it can't be read now */
    check(count == l->item_count);
    check(more == l->more);
    check(stored.n == counts->n);
    for (unsigned i = 0; i < counts->n; i++) check(stored.at[i].status == counts->at[i].status && stored.at[i].count == counts->at[i].count);
    for (unsigned i = 0; i < count; i++) {
        check(items[i].at.create_us == l->items[i].at.create_us && items[i].at.order_id == l->items[i].at.order_id);
        check(items[i].status == l->items[i].status && slice_equal(items[i].card, l->items[i].card));
    }
}

static enum status list_page(struct listing *l, struct status_counts *counts) {
    const struct query *q = l->q;
    const struct list_position *after = l->has_after ? &l->after : NULL;
    if (q->lists && list_cache_page(q->lists, &l->range, l->skip, after, l->items, l->page_size, &l->item_count, &l->more, counts)) {
        if (q->lists_proved) list_page_prove(l, after, counts);
        return STATUS_OK;
    }
    enum status st = userlist_page(&q->view, q->arena, &l->range, l->skip, after, l->items, l->page_size, &l->item_count, &l->more, counts);
    if (!st && q->lists) list_cache_fill(q->lists, &l->range, l->skip, after, l->items, l->item_count, counts);
    return st;
}

enum status query_list(const struct query *q, const struct list_request *r, struct slice *response) {
    struct status_counts counts;
    struct listing l = {.q = q, .r = r};
    if (!listing_check(&l)) return q->failure->status;
    l.items = arena_array(q->arena, struct userlist_item, l.page_size);
    if (!l.items || !pieces_begin(&l.pieces, q->arena, PIECES_AN_ORDER * l.page_size + 2)) return query_memory(q);
    enum status st = list_page(&l, &counts);
    if (st == STATUS_MEMORY_LIMIT) return query_memory(q);
    if (st) return query_fault(q, st, "list of the user", 0);
    if ((st = list_orders(&l))) return st;
    if (l.more) {
        const struct userlist_item *last = &l.items[l.item_count - 1];
        l.token.position[0] = last->at.create_us, l.token.position[1] = last->at.order_id;
        if (!token_add(q, &l.pieces, &l.token)) return query_memory(q);
    }
    if ((st = list_counts(&l, &counts))) return st;
    return pieces_join(q, &l.pieces, response);
}

/* ---- history ---- */

static struct hash128 history_fingerprint(int64_t order_id) {
    uint8_t bytes[8];
    put_be64(bytes, (uint64_t)order_id);
    return hash128(slice_of(bytes, sizeof bytes));
}

/* field: of the message that holds the entries. */
static enum status history_add(const struct query *q, struct pieces *p, uint32_t field, const struct history_entry *e) {
    struct slice wire = history_wire(e, q->machines, q->arena);
    struct slice piece = wire.data ? framed(q, field, wire) : (struct slice){0};
    if (!piece.data) return query_memory(q);
    pieces_add(p, piece);
    return STATUS_OK;
}

/* Version 1 is the body's; the rows begin at 2. */
static enum status history_first(const struct query *q, int64_t order_id, struct pieces *p) {
    struct order_body body;
    enum status st = body_get(q, q->arena, order_id, &body);
    return st ? query_fault(q, st, "body", order_id) : history_add(q, p, 1, &body.origin);
}

static enum status history_row(const struct query *q, int64_t order_id, int64_t version, struct slice row, uint32_t field, struct pieces *p) {
    struct history_entry e;
    enum status st = history_decode(row, &e);
    if (!st && e.version != version) st = STATUS_CHECKSUM_MISMATCH;
    return st ? query_fault(q, st, "history", order_id) : history_add(q, p, field, &e);
}

/* Versions first .. last by a scan. */
static enum status history_scan(const struct query *q, int64_t order_id, int64_t first, int64_t last, uint32_t field, struct pieces *p) {
    struct key lower, upper;
    key_history(&lower, order_id, first);
    key_history(&upper, order_id, last + 1);
    struct store_iter *it = store_iter_open(&q->view, key_slice(&lower), key_slice(&upper));
    enum status st = STATUS_OK;
    int64_t version = first;
    for (store_iter_first(it); !st && store_iter_valid(it); store_iter_next(it), version++) {
        store_keep(&q->view, store_iter_key(it), store_iter_value(it));
        st = history_row(q, order_id, version, store_iter_value(it), field, p);
    }
    if (!st) st = query_fault(q, store_iter_status(it), "history", order_id);
    if (!st && version != last + 1) st = query_fault(q, STATUS_CHECKSUM_MISMATCH, "history", order_id);
    store_iter_close(it);
    return st;
}

/* Versions first .. last from the rows, each of which must be there: those at hand by their keys; then a scan, unless so few are left that it costs more. */
static enum status history_rows(const struct query *q, int64_t order_id, int64_t first, int64_t last, uint32_t field, struct pieces *p) {
    for (int64_t version = first; version <= last; version++) {
        struct key k;
        struct slice row;
        key_history(&k, order_id, version);
        enum status st = store_get_cached(&q->view, key_slice(&k), q->arena, &row);
        if (st == STATUS_WOULD_BLOCK && last - version >= HISTORY_LOOKUPS_MAX) return history_scan(q, order_id, version, last, field, p);
        if (st == STATUS_WOULD_BLOCK) st = store_get(&q->view, key_slice(&k), q->arena, &row);
        st = st ? query_fault(q, st, "history", order_id) : history_row(q, order_id, version, row, field, p);
        if (st) return st;
    }
    return STATUS_OK;
}

enum status query_history(const struct query *q, const struct history_request *r, struct slice *response) {
    bool id_ok = order_id_ok(q, r->order_id);
    check_page_size(q, r->page_size);
    struct page_token token = {.kind = PAGE_TOKEN_HISTORY, .query = history_fingerprint(r->order_id)};
    if (!id_ok || q->failure->status || (r->page_token.len && !token_take(q, r->page_token, &token))) return q->failure->status;
    unsigned page_size = r->page_size ? (unsigned)r->page_size : HISTORY_PAGE_SIZE_DEFAULT;
    struct order_head head;
    enum status st = head_get(q, q->arena, r->order_id, &head);
    if (st == STATUS_ABSENT) return query_not_found(q, r->order_id);
    if (st) return query_fault(q, st, "head", r->order_id);
    struct pieces pieces;
    if (!pieces_begin(&pieces, q->arena, page_size + 1)) return query_memory(q);
    int64_t first = token.position[0] + 1, last = MIN_OF(head.version, token.position[0] + page_size);
    if (first == 1) st = history_first(q, r->order_id, &pieces), first++;
    if (!st && first <= last) st = history_rows(q, r->order_id, first, last, 1, &pieces);
    token.position[0] = last;
    if (!st && last < head.version && !token_add(q, &pieces, &token)) st = query_memory(q);
    return st ? st : pieces_join(q, &pieces, response);
}

/* ---- one order ---- */

enum { ORDER_HISTORY_FIELD = 50 };

static enum status order_with_history(const struct query *q, const struct order_head *head, const struct order_body *body, int32_t entries, struct pieces *p) {
    int64_t first = MAX_OF(head->version - entries, 0) + 1;
    enum status st = STATUS_OK;
    if (first == 1) st = history_add(q, p, ORDER_HISTORY_FIELD, &body->origin), first++;
    return st || first > head->version ? st : history_rows(q, head->order_id, first, head->version, ORDER_HISTORY_FIELD, p);
}

enum status query_get(const struct query *q, const struct get_request *r, struct slice *order) {
    bool id_ok = order_id_ok(q, r->order_id);
    if (r->history_entries < 0) failure_violation(q->failure, STATUS_FIELD_INVALID, "history_entries", "must not be negative, got %d", r->history_entries);
    if (r->history_entries > QUERY_GET_HISTORY_MAX)
        failure_violation(q->failure, STATUS_LIMIT_EXCEEDED, "history_entries", "at most %d, got %d: ListOrderHistory has all", QUERY_GET_HISTORY_MAX, r->history_entries);
    if (!id_ok || q->failure->status) return q->failure->status;
    struct order_head head;
    struct order_body body;
    struct pieces pieces;
    enum status st = head_get(q, q->arena, r->order_id, &head);
    if (st == STATUS_ABSENT) return query_not_found(q, r->order_id);
    if (st) return query_fault(q, st, "head", r->order_id);
    if ((st = body_get(q, q->arena, r->order_id, &body))) return query_fault(q, st, "body", r->order_id);
    if (r->has_as_of && (st = order_at(q, r->as_of_us, &head, &body))) return st;
    *order = query_order_wire(&head, &body, r->full, q->machines, q->arena);
    if (!order->data) return query_memory(q);
    if (!r->history_entries) return STATUS_OK;
    if (!pieces_begin(&pieces, q->arena, (size_t)r->history_entries + 1)) return query_memory(q);
    pieces_add(&pieces, *order);
    st = order_with_history(q, &head, &body, r->history_entries, &pieces);
    return st ? st : pieces_join(q, &pieces, order);
}
