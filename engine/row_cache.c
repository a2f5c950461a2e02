/* The ring: entries one behind the other, sizes in steps of 16 bytes, each in one piece; what is too short for the next one at the end of the memory is filled by a dead entry.
 *
 *     0        tail                    head          end
 *     | free   [oldest] [...] [newest] | free        |        or, once it has gone around,   | [...] [newest] head | free | tail [oldest] [...] |
 *
 * The table: open addressing over (hash, place), searched from the hash's home on; an entry that goes is closed up behind (Knuth 6.4, algorithm R), so that there are no tombstones. */
#include "engine/row_cache.h"

#include "proto/base/hash.h"
#include "proto/base/mem.h"

enum {
    USES_MAX = 3,
    SPARED_MAX = 32,      /* entries that are moved to make room for one: more would hold up whoever puts it */
    ENTRY_SHARE = 16,     /* of the ring: the largest entry */
    STEP = 16,
    EXPECTED_LINES = 4, /* of an entry that is asked for: a head, counts, half of a body, whose rest the processor asks for by itself */
};

struct entry {
    uint32_t hash; /* low half: its home in the table */
    uint32_t size; /* in bytes, this header included: multiple of STEP */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t live, uses;
    uint8_t bytes[]; /* key, value */
};
static_assert(sizeof(struct entry) == STEP, "whatever is left at the end of the ring holds a header, or is nothing");
struct place {
    uint32_t hash;
    uint32_t at; /* of the entry, in steps, plus 1; 0: free */
};
struct row_cache {
    uint8_t *ring;
    uint64_t size, used, head, tail; /* used: between tail and head, dead entries included */
    struct place *places;
    uint32_t mask;
    uint32_t rows, rows_max;
    struct row_cache_stats counts;
    void (*warm)(void *ctx, void *memory, size_t bytes); /* NULL: nobody does */
    void *warm_ctx;
    uint64_t warmed; /* of the ring, from its beginning on: made, or asked for */
};

static struct entry *entry_at(const struct row_cache *c, uint64_t offset) { return (struct entry *)(void *)(c->ring + offset); }
static struct entry *entry_of(const struct row_cache *c, const struct place *p) { return entry_at(c, (uint64_t)(p->at - 1) * STEP); }
static uint64_t offset_of(const struct row_cache *c, const struct entry *e) { return (uint64_t)((const uint8_t *)e - c->ring); }
static struct slice entry_key(const struct entry *e) { return slice_of(e->bytes, e->key_len); }

/* ---- open and close */

struct row_cache *row_cache_new(uint64_t bytes, uint32_t row_bytes) {
    check(bytes >= ROW_CACHE_BYTES_MIN);
    check(bytes <= 32ull << 30);
    struct row_cache *c = mem_new(struct row_cache);
    if (!c) return NULL;
    uint64_t entry_bytes = sizeof(struct entry) + row_bytes;
    uint32_t places = 16;
    while (places * entry_bytes <= bytes) places *= 2; /* one to two for each row that the ring has room for */
    c->mask = places - 1;
    c->rows_max = places / 4 * 3;
    c->size = bytes - places * sizeof *c->places;
    c->size -= c->size % (c->size > 2 * MEM_HUGE_BYTES ? MEM_HUGE_BYTES : STEP);
    c->places = mem_zalloc(places * sizeof *c->places);
    bool huge = c->size % MEM_HUGE_BYTES == 0;
    c->ring = huge ? mem_alloc_huge(c->size) : mem_alloc_aligned(64, c->size); /* its pages come when they are written */
    c->warmed = huge ? 0 : c->size;
    if (c->places && c->ring) return c;
    row_cache_free(c);
    return NULL;
}

void row_cache_free(struct row_cache *c) {
    if (!c) return;
    mem_free(c->places);
    mem_free(c->ring);
    mem_free(c);
}

void row_cache_warm(struct row_cache *c, void (*warm)(void *ctx, void *memory, size_t bytes), void *ctx) {
    c->warm = warm, c->warm_ctx = ctx;
    c->warmed = MAX_OF(c->warmed, (uint64_t)MEM_HUGE_BYTES); /* the first comes too late */
}

/* In its first round the head comes to pages that nobody has written. */
static void warm_next(struct row_cache *c) {
    if (c->warmed >= c->size || !c->warm || c->head + MEM_HUGE_BYTES / 2 < c->warmed) return;
    c->warm(c->warm_ctx, c->ring + c->warmed, MEM_HUGE_BYTES);
    c->warmed += MEM_HUGE_BYTES;
}

/* ---- the table */

uint64_t row_cache_hash(struct row_cache *c, struct slice key) {
    uint64_t hash = hash64(key);
    __builtin_prefetch(&c->places[(uint32_t)hash & c->mask]);
    return hash;
}

/* The key's place, or NULL. */
static struct place *place_find(const struct row_cache *c, uint64_t hash, struct slice key) {
    for (uint32_t i = (uint32_t)hash & c->mask;; i = (i + 1) & c->mask) {
        struct place *p = &c->places[i];
        if (!p->at) return NULL;
        if (p->hash == (uint32_t)hash && slice_equal(entry_key(entry_of(c, p)), key)) return p;
    }
}

/* Of an entry that has one. */
static struct place *place_of(const struct row_cache *c, const struct entry *e) {
    uint32_t at = (uint32_t)(offset_of(c, e) / STEP) + 1;
    for (uint32_t i = e->hash & c->mask;; i = (i + 1) & c->mask) {
        check(c->places[i].at);
        if (c->places[i].at == at) return &c->places[i];
    }
}

bool row_cache_expect(struct row_cache *c, uint64_t hash) {
    for (uint32_t i = (uint32_t)hash & c->mask; c->places[i].at; i = (i + 1) & c->mask) {
        if (c->places[i].hash != (uint32_t)hash) continue;
        const uint8_t *e = (const uint8_t *)entry_of(c, &c->places[i]);
        for (unsigned line = 0; line < EXPECTED_LINES; line++) __builtin_prefetch(e + line * 64);
        return true;
    }
    c->counts.misses++;
    return false;
}

static void place_take(struct row_cache *c, const struct entry *e) {
    uint32_t i = e->hash & c->mask;
    while (c->places[i].at) i = (i + 1) & c->mask;
    c->places[i] = (struct place){.hash = e->hash, .at = (uint32_t)(offset_of(c, e) / STEP) + 1};
    c->rows++;
}

static void place_free(struct row_cache *c, struct place *p) {
    uint32_t hole = (uint32_t)(p - c->places);
    for (uint32_t i = (hole + 1) & c->mask; c->places[i].at; i = (i + 1) & c->mask) {
        uint32_t home = c->places[i].hash & c->mask;
        if (((i - home) & c->mask) < ((i - hole) & c->mask)) continue; /* it is at home behind the hole */
        c->places[hole] = c->places[i];
        hole = i;
    }
    c->places[hole].at = 0;
    c->rows--;
}

/* ---- the ring */

static void ring_advance(const struct row_cache *c, uint64_t *at, uint64_t bytes) {
    *at += bytes;
    check(*at <= c->size);
    if (*at == c->size) *at = 0;
}

/* Free bytes from the head on, in one piece. */
static uint64_t ring_piece(const struct row_cache *c) {
    if (c->used == c->size) return 0;
    return c->head >= c->tail ? c->size - c->head : c->tail - c->head;
}

/* The oldest entry goes, or to the head: true. */
static bool ring_turn(struct row_cache *c, bool spare) {
    struct entry *e = entry_at(c, c->tail);
    uint32_t size = e->size;
    bool live = e->live;
    struct place *p = live ? place_of(c, e) : NULL;
    ring_advance(c, &c->tail, size);
    c->used -= size;
    if (!live) return false;
    if (!spare || !e->uses || ring_piece(c) < size) { /* the last: at the end of the memory, when it is rows that are too many */
        place_free(c, p);
        c->counts.evictions++;
        return false;
    }
    struct entry *to = entry_at(c, c->head);
    if (to != e) memmove(to, e, size);
    to->uses--;
    p->at = (uint32_t)(offset_of(c, to) / STEP) + 1;
    ring_advance(c, &c->head, size);
    c->used += size;
    return true;
}

/* Room for `size` bytes at the head, and for one row more. */
static struct entry *ring_room(struct row_cache *c, uint32_t size) {
    unsigned spared = 0;
    for (;;) {
        if (!c->used) c->head = c->tail = 0;
        uint64_t piece = ring_piece(c);
        if (piece >= size && c->rows < c->rows_max) return entry_at(c, c->head);
        if (piece < size && c->used < c->size && c->head >= c->tail) { /* to the other end */
            *entry_at(c, c->head) = (struct entry){.size = (uint32_t)piece};
            c->used += piece;
            c->head = 0;
            continue;
        }
        spared += ring_turn(c, spared < SPARED_MAX);
    }
}

/* ---- rows */

bool row_cache_find(struct row_cache *c, struct slice key, struct slice *value) {
    const struct place *p = place_find(c, hash64(key), key);
    if (!p) return c->counts.misses++, false;
    struct entry *e = entry_of(c, p);
    if (e->uses < USES_MAX) e->uses++;
    *value = slice_of(e->bytes + e->key_len, e->value_len);
    c->counts.hits++;
    return true;
}

void row_cache_put_hashed(struct row_cache *c, uint64_t hash, struct slice key, struct slice value) {
    uint64_t size = (sizeof(struct entry) + key.len + value.len + STEP - 1) / STEP * STEP;
    struct place *p = place_find(c, hash, key);
    uint8_t uses = 0;
    if (p) {
        struct entry *e = entry_of(c, p);
        if (size <= e->size) {
            e->value_len = (uint32_t)value.len;
            if (value.len) memcpy(e->bytes + key.len, value.data, value.len);
            return;
        }
        uses = e->uses;
        e->live = 0;
        place_free(c, p);
    }
    if (size > c->size / ENTRY_SHARE) return;
    struct entry *e = ring_room(c, (uint32_t)size);
    *e = (struct entry){.hash = (uint32_t)hash, .size = (uint32_t)size, .value_len = (uint32_t)value.len, .key_len = (uint16_t)key.len, .live = 1, .uses = uses};
    memcpy(e->bytes, key.data, key.len);
    if (value.len) memcpy(e->bytes + key.len, value.data, value.len);
    ring_advance(c, &c->head, size);
    warm_next(c);
    c->used += size;
    place_take(c, e);
}

void row_cache_forget_hashed(struct row_cache *c, uint64_t hash, struct slice key) {
    struct place *p = place_find(c, hash, key);
    if (!p) return;
    entry_of(c, p)->live = 0;
    place_free(c, p);
}

void row_cache_put(struct row_cache *c, struct slice key, struct slice value) { row_cache_put_hashed(c, hash64(key), key, value); }
void row_cache_forget(struct row_cache *c, struct slice key) { row_cache_forget_hashed(c, hash64(key), key); }

struct row_cache_stats row_cache_get_stats(const struct row_cache *c) {
    struct row_cache_stats stats = c->counts;
    stats.bytes = c->used, stats.rows = c->rows;
    return stats;
}

void row_cache_verify(const struct row_cache *c) {
    uint64_t used = 0, rows = 0, places = 0, at = c->tail;
    while (used < c->used) {
        const struct entry *e = entry_at(c, at);
        check(e->size >= sizeof *e && e->size % STEP == 0);
        if (e->live) {
            check(e->hash == (uint32_t)hash64(entry_key(e)));
            check(place_find(c, hash64(entry_key(e)), entry_key(e)) == place_of(c, e));
            rows++;
        }
        ring_advance(c, &at, e->size);
        used += e->size;
    }
    check(used == c->used);
    check(at == c->head || (c->used == 0));
    for (uint32_t i = 0; i <= c->mask; i++) places += c->places[i].at != 0;
    check(rows == c->rows && places == rows);
    check(c->rows <= c->rows_max);
}
