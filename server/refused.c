#include "server/refused.h"

#include "proto/base/mem.h"

/* RFC 9113 section 6; here so that this file needs no library. */
enum { FRAME_HEAD = 9, HEADERS = 1, RST_STREAM = 3, WINDOW_UPDATE = 8, END_STREAM = 1, END_HEADERS = 4, NO_ERROR = 0, RST_BYTES = FRAME_HEAD + 4, FRAME_BYTES_MAX = 16384 };
enum { COUNT_FIRST = 16 };

struct refusal {
    const uint8_t *block;
    uint32_t len, id;
    bool ended;
};

enum refused_add refused_add(struct refused *r, uint32_t count_max, uint32_t id, struct slice block, bool ended) {
    check(block.len <= FRAME_BYTES_MAX);
    check(r->count == 0 || r->refusals[r->count - 1].id < id);
    if (r->count >= count_max) return REFUSED_TOO_MANY;
    if (r->count == r->cap) {
        uint32_t cap = r->cap ? 2 * r->cap : COUNT_FIRST;
        struct refusal *grown = mem_realloc(r->refusals, cap * sizeof *grown);
        if (!grown) return REFUSED_NO_MEMORY;
        r->refusals = grown, r->cap = cap;
    }
    r->refusals[r->count++] = (struct refusal){block.data, (uint32_t)block.len, id, ended};
    return REFUSED_ADDED;
}

/* Ids grow (RFC 9113 section 5.1.1). */
static struct refusal *find(struct refused *r, uint32_t id) {
    uint32_t from = 0, to = r->count;
    while (from < to) {
        uint32_t mid = from + (to - from) / 2;
        if (r->refusals[mid].id < id) from = mid + 1;
        else to = mid;
    }
    return from < r->count && r->refusals[from].id == id ? &r->refusals[from] : NULL;
}

void refused_end(struct refused *r, uint32_t id) {
    struct refusal *one = find(r, id);
    if (one) one->ended = true;
}

void refused_reset(struct refused *r, uint32_t id) {
    struct refusal *one = find(r, id);
    if (!one) return;
    memmove(one, one + 1, (size_t)(r->refusals + r->count - (one + 1)) * sizeof *one);
    r->count--;
}

static void write_head(struct writer *w, uint32_t len, uint8_t type, uint8_t flags, uint32_t id) {
    write_be32(w, len << 8 | type);
    write_u8(w, flags);
    write_be32(w, id);
}

void refused_write(struct refused *r, struct writer *w, size_t bytes_max) {
    size_t end = MIN_OF(w->len + bytes_max, w->cap);
    uint32_t n = 0;
    for (; n < r->count; n++) {
        const struct refusal *one = &r->refusals[n];
        if (w->len + FRAME_HEAD + one->len + RST_BYTES > end) break;
        write_head(w, one->len, HEADERS, END_STREAM | END_HEADERS, one->id);
        write_bytes(w, one->block, one->len);
        if (one->ended) continue;
        write_head(w, 4, RST_STREAM, 0, one->id);
        write_be32(w, NO_ERROR);
    }
    r->count -= n;
    if (n) memmove(r->refusals, r->refusals + n, r->count * sizeof *r->refusals);
}

bool refused_window_due(const struct refused *r, uint32_t window_bytes) { return r->window_bytes >= window_bytes / 4; }

void refused_write_window(struct refused *r, struct writer *w) {
    if (w->cap - w->len < RST_BYTES) return;
    uint32_t n = (uint32_t)MIN_OF(r->window_bytes, (uint64_t)INT32_MAX);
    write_head(w, 4, WINDOW_UPDATE, 0, 0);
    write_be32(w, n);
    r->window_bytes -= n;
}

size_t refused_memory_bytes(const struct refused *r) { return r->cap * sizeof *r->refusals; }

void refused_rest(struct refused *r) {
    if (r->count) return;
    mem_free(r->refusals);
    r->refusals = NULL, r->cap = 0;
}

void refused_fini(struct refused *r) {
    mem_free(r->refusals);
    *r = (struct refused){0};
}
