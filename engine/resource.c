#include "engine/resource.h"

#include <stdlib.h>

#include "engine/keys.h"
#include "engine/page_token.h"
#include "proto/pbwire.h"

/* ---- kinds */

static const char *const kind_names[RESOURCE_KINDS] = {"", "machine", "index", "limit", "archive", "role", "principal"};

enum resource_kind resource_kind_of(struct slice name) {
    for (unsigned i = 0; i < RESOURCE_KINDS; i++)
        if (slice_equal(name, slice_str(kind_names[i]))) return (enum resource_kind)i;
    return RESOURCE_KINDS;
}

const char *resource_kind_name(enum resource_kind kind) { return kind_names[kind]; }

/* ---- rows. Numbers big-endian. */

enum { RESOURCE_FORMAT = 1 };

void resource_row_encode(const struct resource_row *r, struct writer *w) {
    write_u8(w, RESOURCE_FORMAT);
    write_be64(w, r->revision);
    write_slice(w, r->bytes);
}

enum status resource_row_decode(struct slice row, struct resource_row *out) {
    struct reader r = reader_of(row);
    if (read_u8(&r) != RESOURCE_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    out->revision = read_be64(&r);
    out->bytes = read_bytes(&r, reader_left(&r));
    return r.bad || !out->bytes.len ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

void machine_row_encode(const struct machine_row *m, struct writer *w) {
    write_u8(w, RESOURCE_FORMAT);
    write_be16(w, m->machine);
    write_u8(w, (uint8_t)m->status_count);
    for (unsigned i = 0; i < m->status_count; i++) write_be16(w, m->statuses[i]);
    write_slice(w, m->definition);
}

enum status machine_row_decode(struct slice row, struct machine_row *out) {
    struct reader r = reader_of(row);
    if (read_u8(&r) != RESOURCE_FORMAT) return STATUS_CHECKSUM_MISMATCH;
    out->machine = read_be16(&r);
    out->status_count = read_u8(&r);
    if (out->machine <= MACHINES_BUILT_IN || out->machine > MACHINES_MAX || out->status_count < 1 || out->status_count > MACHINE_STATES_MAX) return STATUS_CHECKSUM_MISMATCH;
    for (unsigned i = 0; i < out->status_count; i++) {
        out->statuses[i] = read_be16(&r);
        if (out->statuses[i] < 1 || out->statuses[i] > STATUS_IDS_MAX) return STATUS_CHECKSUM_MISMATCH;
    }
    out->definition = read_bytes(&r, reader_left(&r));
    return r.bad || !out->definition.len ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

struct slice machine_row_of(const struct machine *m, struct arena *arena) {
    struct machine_row row = {.machine = machine_id(m), .definition = machine_definition(m)};
    const uint16_t *statuses = machine_statuses(m, &row.status_count);
    memcpy(row.statuses, statuses, row.status_count * sizeof *statuses);
    size_t cap = MACHINE_ROW_HEAD_BYTES_MAX + row.definition.len;
    uint8_t *bytes = arena_alloc(arena, cap);
    if (!bytes) return (struct slice){0};
    struct writer w = writer_of(bytes, cap);
    machine_row_encode(&row, &w);
    check(!w.full);
    return writer_slice(&w);
}

enum status machine_rows_load(const struct store_view *view, struct machines *ms, uint16_t known, struct arena *scratch, char error[256]) {
    for (uint16_t id = MACHINES_BUILT_IN + 1; id <= known; id++) {
        struct key k;
        struct slice bytes;
        struct machine_row row;
        arena_reset(scratch);
        key_machine(&k, id);
        enum status st = store_get(view, key_slice(&k), scratch, &bytes);
        if (!st) st = machine_row_decode(bytes, &row);
        if (st == STATUS_ABSENT || (!st && row.machine != id)) st = STATUS_CHECKSUM_MISMATCH;
        if (!st) st = machines_add_as(ms, id, row.statuses, row.status_count, row.definition, error);
        if (st) return st;
    }
    return STATUS_OK;
}

/* ---- lists. The place of a resource is its kind(1) and name; of a machine, kind(1), name, 0 and version(4), which sorts as (name, version) does: names hold no 0. */

enum { PAGE_SIZE_DEFAULT = 100, PAGE_BYTES_MAX = 3 << 20, FRAME_BYTES_MAX = 24 };
static_assert(1 + RESOURCE_NAME_BYTES_MAX + 1 + 4 <= PAGE_TOKEN_NAME_BYTES_MAX, "a place fits its token");

struct place {
    uint8_t bytes[PAGE_TOKEN_NAME_BYTES_MAX];
    size_t len;
};
struct page {
    const struct query *q;
    struct place after; /* len 0: from the start */
    unsigned left;
    size_t bytes;
    bool more;
    struct place last;  /* shown */
    struct slice *pieces;
    unsigned count;
};

static struct slice place_slice(const struct place *p) { return slice_of(p->bytes, p->len); }

static struct place place_of_machine(const struct machine *m) {
    struct place p;
    struct writer w = writer_of(p.bytes, sizeof p.bytes);
    write_u8(&w, RESOURCE_MACHINE);
    write_slice(&w, machine_name(m));
    write_u8(&w, 0);
    write_be32(&w, (uint32_t)machine_version(m));
    check(!w.full);
    p.len = w.len;
    return p;
}

/* false: the page is full. */
static bool page_takes(struct page *p, size_t len) {
    if (p->left && (p->bytes + len <= PAGE_BYTES_MAX || !p->count)) return true;
    p->more = true;
    return false;
}

/* The field `resources`: head and bytes. */
static enum status page_add(struct page *p, struct slice place, const struct slice *parts, size_t n) {
    size_t len = FRAME_BYTES_MAX;
    for (size_t i = 0; i < n; i++) len += parts[i].len;
    uint8_t *bytes = arena_alloc(p->q->arena, len);
    if (!bytes) return failure_set(p->q->failure, STATUS_MEMORY_LIMIT, "the answer needs more memory than a request may have; ask for a smaller page");
    struct writer w = writer_of(bytes, len);
    pb_message(&w, 1, parts, n);
    check(!w.full);
    p->pieces[p->count++] = writer_slice(&w);
    p->bytes += w.len;
    p->left--;
    memcpy(p->last.bytes, place.data, place.len);
    p->last.len = place.len;
    return STATUS_OK;
}

static int by_place(const void *a, const void *b) {
    const struct machine *x = *(const struct machine *const *)a, *y = *(const struct machine *const *)b;
    struct place px = place_of_machine(x), py = place_of_machine(y);
    return slice_compare(place_slice(&px), place_slice(&py));
}

/* From the registry, which has them all: as far as the meta partition knows them. */
static enum status page_machines(struct page *p, uint16_t known) {
    const struct machine **sorted = arena_array(p->q->arena, const struct machine *, (size_t)known + 1);
    if (!sorted) return failure_set(p->q->failure, STATUS_MEMORY_LIMIT, "no memory for the list");
    for (uint16_t id = 1; id <= known; id++) sorted[id - 1] = machines_by_id(p->q->machines, id);
    qsort(sorted, known, sizeof *sorted, by_place);
    for (uint16_t i = 0; i < known; i++) {
        struct place at = place_of_machine(sorted[i]);
        struct slice definition = machine_definition(sorted[i]);
        uint8_t head[FRAME_BYTES_MAX];
        struct writer w = writer_of(head, sizeof head);
        if (slice_compare(place_slice(&at), place_slice(&p->after)) <= 0) continue;
        if (!page_takes(p, definition.len)) return STATUS_OK;
        pb_tag(&w, RESOURCE_MACHINE, PB_LEN);
        write_varint(&w, definition.len);
        struct slice parts[] = {writer_slice(&w), definition};
        enum status st = page_add(p, place_slice(&at), parts, ARRAY_LEN(parts));
        if (st) return st;
    }
    return STATUS_OK;
}

static enum status page_rows(struct page *p, enum resource_kind kind) {
    struct key lower, upper;
    key_resource(&lower, (uint8_t)(kind ? kind : RESOURCE_MACHINE + 1), (struct slice){0});
    key_resource(&upper, (uint8_t)(kind ? kind + 1 : RESOURCE_KINDS), (struct slice){0});
    struct store_iter *it = store_iter_open(&p->q->view, key_slice(&lower), key_slice(&upper));
    enum status st = STATUS_OK;
    for (store_iter_first(it); !st && store_iter_valid(it); store_iter_next(it)) {
        struct slice at = key_resource_position(store_iter_key(it));
        struct resource_row row;
        if (slice_compare(at, place_slice(&p->after)) <= 0) continue;
        st = at.len > PAGE_TOKEN_NAME_BYTES_MAX ? STATUS_CHECKSUM_MISMATCH : resource_row_decode(store_iter_value(it), &row);
        if (st) failure_set(p->q->failure, st, "a resource's row can't be read");
        if (!st && !page_takes(p, row.bytes.len)) break;
        if (!st) st = page_add(p, at, &row.bytes, 1);
    }
    if (!st && !p->more) st = store_iter_status(it);
    store_iter_close(it);
    if (st && st != STATUS_WOULD_BLOCK) failure_set(p->q->failure, st, "resources: %s", status_name(st));
    return st;
}

static enum status page_join(struct page *p, struct hash128 fingerprint, struct slice *response) {
    const struct query *q = p->q;
    size_t cap = p->bytes + PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 16;
    uint8_t *out = arena_alloc(q->arena, cap);
    if (!out) return failure_set(q->failure, STATUS_MEMORY_LIMIT, "the answer needs more memory than a request may have; ask for a smaller page");
    struct writer w = writer_of(out, cap);
    for (unsigned i = 0; i < p->count; i++) write_slice(&w, p->pieces[i]);
    char token[PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 3];
    if (p->more) pb_bytes(&w, 2, page_token_encode_named(PAGE_TOKEN_RESOURCES, fingerprint, place_slice(&p->last), q->token_key, token));
    check(!w.full);
    *response = writer_slice(&w);
    return STATUS_OK;
}

enum status query_resources(const struct query *q, const struct resources_request *r, struct slice *response) {
    struct failure *f = q->failure;
    struct page p = {.q = q};
    uint8_t kind = (uint8_t)r->kind;
    struct hash128 fingerprint = hash128(slice_of(&kind, 1));
    if (r->page_size < 0) failure_violation(f, STATUS_FIELD_INVALID, "page_size", "must not be negative, got %d", r->page_size);
    if (r->page_size > RESOURCE_PAGE_SIZE_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "page_size", "at most %d, got %d", RESOURCE_PAGE_SIZE_MAX, r->page_size);
    if (r->page_token.len && !page_token_decode_named(r->page_token, PAGE_TOKEN_RESOURCES, fingerprint, q->token_key, p.after.bytes, &p.after.len))
        failure_violation(f, STATUS_PAGE_TOKEN_INVALID, "page_token", "not a token of this query; begin again without one");
    if (f->status) return f->status;
    p.left = r->page_size ? (unsigned)r->page_size : PAGE_SIZE_DEFAULT;
    p.pieces = arena_array(q->arena, struct slice, p.left);
    if (!p.pieces) return failure_set(f, STATUS_MEMORY_LIMIT, "no memory for the list");
    enum status st = STATUS_OK;
    if (r->kind == RESOURCE_ANY || r->kind == RESOURCE_MACHINE) st = page_machines(&p, r->machines_known);
    if (!st && !p.more && r->kind != RESOURCE_MACHINE) st = page_rows(&p, r->kind);
    return st ? st : page_join(&p, fingerprint, response);
}

/* ---- census */

static void census_add(struct census_request *r, const struct order_head *h) {
    unsigned low = 0, high = r->count;
    while (low < high) {
        unsigned middle = low + (high - low) / 2;
        const struct census_pair *p = &r->pairs[middle];
        if (p->machine < h->machine || (p->machine == h->machine && p->status < h->status)) low = middle + 1;
        else high = middle;
    }
    if (low < r->count && r->pairs[low].machine == h->machine && r->pairs[low].status == h->status) r->pairs[low].count++;
}

/* From slot to slot: a seek to its heads, then along them. Slots without orders are jumped over. */
enum status query_census(const struct query *q, struct census_request *r) {
    struct key lower, upper;
    enum status st = STATUS_OK;
    key_heads(&lower, r->slot, r->from_order_id);
    key_slot_prefix(&upper, r->last_slot);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&q->view, key_slice(&lower), key_slice(&upper));
    store_iter_first(it);
    for (unsigned rows = 0; !st && store_iter_valid(it) && rows < CENSUS_ROWS_MAX; rows++) {
        struct slice key = store_iter_key(it);
        uint16_t slot = get_be16(key.data);
        struct order_head head;
        if (key.data[2] == KEY_HEAD) {
            if ((st = order_head_decode(store_iter_value(it), &head))) break;
            census_add(r, &head);
            r->slot = slot;
            r->from_order_id = head.order_id + 1;
            store_iter_next(it);
            continue;
        }
        r->slot = (uint16_t)(key.data[2] < KEY_HEAD ? slot : slot + 1);
        r->from_order_id = 0;
        if (r->slot > r->last_slot) break;
        key_heads(&lower, r->slot, 0);
        store_iter_seek(it, key_slice(&lower));
    }
    if (!st && !store_iter_valid(it)) st = store_iter_status(it), r->done = st == STATUS_OK;
    r->done |= r->slot > r->last_slot;
    store_iter_close(it);
    if (st && st != STATUS_WOULD_BLOCK) failure_set(q->failure, st, "counting orders: %s", status_name(st));
    return st;
}
