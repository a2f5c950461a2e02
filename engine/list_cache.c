/* Who stays: S3-FIFO (Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP 2023). New users come into a small queue, a tenth of the bytes; who was asked for again by its end
 * goes to the main queue, where a hit buys another round, and who was not leaves a mark behind and goes: coming back while the mark is there means the main queue at once. So an export
 * that lists every user once takes a tenth of the memory from those who are asked for all the time. No order is kept by hits: a hit counts up to three, and moves nothing.
 *
 *   miss --> small --(hits > 1)--> main --(a hit or more: again, one less)--> main
 *              |                     |
 *              v (a mark)            v
 *
 * A user's rows are an array, oldest first, so that a new order is an append, and their cards lie in one block, in the order in which they came: a page reads neighbours. A card that grew is appended again; when
 * the block is full it is packed into another one. */
#include "engine/list_cache.h"

#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"

enum {
    HITS_MAX = 3,
    SMALL_SHARE = 10,        /* of the bytes, for the small queue */
    BYTES_A_USER = 4 << 10,  /* expected: buckets and marks are made for so many users */
    BUCKETS_MIN = 16,
    HEAP_BYTES = 16,         /* what a block on the heap takes beside itself */
    ROWS_FIRST = 8,
};

struct cached_row {
    struct list_position at;
    uint32_t card; /* where in the cards */
    uint16_t card_len, status;
};
struct cached_count {
    uint16_t status;
    uint32_t count;
};
struct cached_user {
    struct list link;         /* in a queue; the front came last */
    struct cached_user *next; /* in the bucket */
    uint64_t hash;
    uint16_t slot, user_len;
    uint8_t hits;
    bool main;
    uint16_t status_count, count, row_cap;
    uint32_t total; /* orders in the list: count of them are here, the newest */
    uint32_t charged;
    uint32_t card_cap, card_used, card_live;
    struct cached_row *rows; /* [count], oldest first */
    uint8_t *cards;
    struct cached_count counts[LIST_CACHE_STATUSES_MAX]; /* by status, none is 0 */
    uint8_t user_id[];
};
struct mark { /* of a user that left the small queue */
    uint32_t hash, when;
};

struct list_cache {
    uint64_t bytes_max, bytes, small_bytes;
    struct list small, main;
    struct cached_user **buckets;
    struct mark *marks;
    uint32_t bucket_count, marked; /* a power of two; how many marks were ever made */
    struct list_cache_stats stats;
};

struct list_cache *list_cache_new(uint64_t bytes_max) {
    struct list_cache *c = mem_new(struct list_cache);
    if (!c) return NULL;
    list_init(&c->small), list_init(&c->main);
    c->bytes_max = bytes_max;
    for (c->bucket_count = BUCKETS_MIN; c->bucket_count < bytes_max / BYTES_A_USER && c->bucket_count < 1u << 24; c->bucket_count *= 2) continue;
    c->buckets = mem_zalloc(c->bucket_count * sizeof *c->buckets);
    c->marks = mem_zalloc(c->bucket_count * sizeof *c->marks);
    c->bytes = c->bucket_count * (sizeof *c->buckets + sizeof *c->marks);
    if (c->buckets && c->marks) return c;
    list_cache_free(c);
    return NULL;
}

void list_cache_get_stats(const struct list_cache *c, struct list_cache_stats *out) {
    *out = c->stats;
    out->bytes = c->bytes;
    out->bytes_max = c->bytes_max;
}

/* ---- marks ---- */

static struct mark *mark_of(struct list_cache *c, uint64_t hash) { return &c->marks[hash >> 32 & (c->bucket_count - 1)]; }

static void mark_put(struct list_cache *c, uint64_t hash) { *mark_of(c, hash) = (struct mark){(uint32_t)hash, ++c->marked}; }

/* As many are remembered as users fit, the newest ones. */
static bool mark_take(struct list_cache *c, uint64_t hash) {
    struct mark *m = mark_of(c, hash);
    bool found = m->when && m->hash == (uint32_t)hash && c->marked - m->when < c->bucket_count;
    if (found) *m = (struct mark){0};
    return found;
}

/* ---- users ---- */

static struct cached_user **user_place(struct list_cache *c, uint64_t hash, struct slice user_id) {
    struct cached_user **at = &c->buckets[hash & (c->bucket_count - 1)];
    while (*at && ((*at)->hash != hash || !slice_equal(slice_of((*at)->user_id, (*at)->user_len), user_id))) at = &(*at)->next;
    return at;
}

static struct cached_user *user_find(struct list_cache *c, struct slice user_id) { return *user_place(c, hash64(user_id), user_id); }

static uint32_t user_cost(const struct cached_user *u) {
    return (uint32_t)(sizeof *u + u->user_len + u->row_cap * sizeof *u->rows + u->card_cap + 3 * HEAP_BYTES);
}

static void user_charge(struct list_cache *c, struct cached_user *u, uint32_t bytes) {
    c->bytes += bytes - (uint64_t)u->charged;
    if (!u->main) c->small_bytes += bytes - (uint64_t)u->charged;
    u->charged = bytes;
}

static void user_queue(struct list_cache *c, struct cached_user *u, bool main) {
    uint32_t bytes = u->charged;
    list_remove(&u->link);
    user_charge(c, u, 0);
    u->main = main;
    user_charge(c, u, bytes);
    list_push_front(main ? &c->main : &c->small, &u->link);
}

static void user_forget(struct list_cache *c, struct cached_user *u) {
    *user_place(c, u->hash, slice_of(u->user_id, u->user_len)) = u->next;
    list_remove(&u->link);
    user_charge(c, u, 0);
    c->stats.users--;
    c->stats.rows -= u->count;
    mem_free(u->rows);
    mem_free(u->cards);
    mem_free(u);
}

static void evict_small(struct list_cache *c) {
    struct cached_user *u = list_entry(c->small.prev, struct cached_user, link);
    if (u->hits > 1) {
        u->hits = 0;
        user_queue(c, u, true);
        return;
    }
    mark_put(c, u->hash);
    c->stats.evictions++;
    user_forget(c, u);
}

static void evict_main(struct list_cache *c) {
    struct cached_user *u = list_entry(c->main.prev, struct cached_user, link);
    if (u->hits) {
        u->hits--;
        user_queue(c, u, true);
        return;
    }
    c->stats.evictions++;
    user_forget(c, u);
}

static void cache_trim(struct list_cache *c) {
    while (c->bytes > c->bytes_max && c->stats.users) {
        bool small = list_empty(&c->main) || (c->small_bytes > c->bytes_max / SMALL_SHARE && !list_empty(&c->small));
        if (small) evict_small(c);
        else evict_main(c);
    }
}

void list_cache_forget(struct list_cache *c, uint16_t first_slot, uint16_t last_slot) {
    if (!c) return;
    struct list *queues[] = {&c->small, &c->main};
    for (unsigned i = 0; i < ARRAY_LEN(queues); i++) {
        list_each(l, queues[i]) {
            struct cached_user *u = list_entry(l, struct cached_user, link);
            if (u->slot >= first_slot && u->slot <= last_slot) user_forget(c, u);
        }
    }
}

void list_cache_free(struct list_cache *c) {
    if (!c) return;
    list_cache_forget(c, 0, UINT16_MAX);
    mem_free(c->buckets);
    mem_free(c->marks);
    mem_free(c);
}

/* ---- rows of a user ---- */

static int position_compare(struct list_position a, struct list_position b) {
    if (a.create_us != b.create_us) return a.create_us < b.create_us ? -1 : 1;
    uint64_t x = (uint64_t)a.order_id, y = (uint64_t)b.order_id;
    return (x > y) - (x < y);
}

/* How many rows stand below that position. */
static unsigned rows_below(const struct cached_user *u, struct list_position at) {
    unsigned low = 0, high = u->count;
    if (high && position_compare(u->rows[high - 1].at, at) < 0) return high; /* nearly always: newer than all */
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (position_compare(u->rows[middle].at, at) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void rows_drop(struct list_cache *c, struct cached_user *u, unsigned oldest) {
    for (unsigned i = 0; i < oldest; i++) u->card_live -= u->rows[i].card_len;
    u->count -= (uint16_t)oldest;
    c->stats.rows -= oldest;
    memmove(u->rows, &u->rows[oldest], u->count * sizeof *u->rows);
}

/* Room for `bytes` more of cards; what is superseded goes when there is none. */
static bool cards_reserve(struct list_cache *c, struct cached_user *u, uint32_t bytes) {
    if (u->card_used + bytes <= u->card_cap) return true;
    while (u->count > 1 && u->card_live + bytes > LIST_CACHE_CARDS_BYTES_MAX) rows_drop(c, u, (u->count + 3u) / 4);
    uint32_t cap = (u->card_live + bytes) + (u->card_live + bytes) / 4, used = 0;
    uint8_t *cards = mem_alloc(cap + 1u);
    if (!cards) return false;
    for (unsigned i = 0; i < u->count; i++) {
        struct cached_row *r = &u->rows[i];
        if (r->card_len) memcpy(cards + used, u->cards + r->card, r->card_len);
        r->card = used;
        used += r->card_len;
    }
    mem_free(u->cards);
    u->cards = cards, u->card_cap = cap, u->card_used = used;
    return true;
}

static bool rows_reserve(struct list_cache *c, struct cached_user *u, unsigned more) {
    if (u->count + more > LIST_CACHE_ROWS_MAX) rows_drop(c, u, MIN_OF((unsigned)u->count, MAX_OF(u->count + more - LIST_CACHE_ROWS_MAX, (unsigned)LIST_CACHE_ROWS_MAX / 4)));
    if (u->count + more <= u->row_cap) return true;
    unsigned cap = MAX_OF((unsigned)ROWS_FIRST, u->count + more);
    if (u->row_cap) cap = MIN_OF(MAX_OF(cap, u->row_cap * 3u / 2), (unsigned)LIST_CACHE_ROWS_MAX);
    struct cached_row *rows = mem_realloc(u->rows, cap * sizeof *rows);
    if (!rows) return false;
    u->rows = rows, u->row_cap = (uint16_t)cap;
    return true;
}

/* As list_row_encode has it: a longer card is left out. */
static struct slice card_kept(struct slice card) { return card.len > USERLIST_CARD_BYTES_MAX ? (struct slice){0} : card; }

static bool card_put(struct list_cache *c, struct cached_user *u, struct list_position at, struct slice card) {
    struct cached_row *r = &u->rows[rows_below(u, at)];
    if (card.len > r->card_len) {
        if (!cards_reserve(c, u, (uint32_t)card.len)) return false;
        unsigned i = rows_below(u, at);
        r = &u->rows[i];
        if (i == u->count || position_compare(r->at, at) != 0) return true; /* it was among the oldest that went */
        r->card = u->card_used;
        u->card_used += (uint32_t)card.len;
    }
    u->card_live += (uint32_t)card.len - r->card_len;
    r->card_len = (uint16_t)card.len;
    if (card.len) memcpy(u->cards + r->card, card.data, card.len);
    return true;
}

/* There is room for it. */
static bool row_put(struct list_cache *c, struct cached_user *u, struct list_position at, uint16_t status, struct slice card) {
    unsigned i = rows_below(u, at);
    memmove(&u->rows[i + 1], &u->rows[i], (u->count - i) * sizeof *u->rows);
    u->rows[i] = (struct cached_row){.at = at, .status = status};
    u->count++;
    c->stats.rows++;
    return card_put(c, u, at, card);
}

static bool count_add(struct cached_user *u, uint16_t status, int sign) {
    unsigned i = 0;
    while (i < u->status_count && u->counts[i].status < status) i++;
    if (i == u->status_count || u->counts[i].status != status) {
        if (sign < 0 || u->status_count == LIST_CACHE_STATUSES_MAX) return false;
        memmove(&u->counts[i + 1], &u->counts[i], (u->status_count++ - i) * sizeof *u->counts);
        u->counts[i] = (struct cached_count){.status = status};
    }
    u->counts[i].count += (uint32_t)sign;
    if (!u->counts[i].count) memmove(&u->counts[i], &u->counts[i + 1], (--u->status_count - i) * sizeof *u->counts);
    return true;
}

/* ---- what apply did ---- */

static void user_changed(struct list_cache *c, struct cached_user *u, bool kept) {
    if (!kept) {
        user_forget(c, u);
        return;
    }
    user_charge(c, u, user_cost(u));
    cache_trim(c);
}

void list_cache_insert(struct list_cache *c, struct slice user_id, struct list_position at, uint16_t status, struct slice card) {
    struct cached_user *u = c ? user_find(c, user_id) : NULL;
    if (!u) return;
    bool kept = u->total < UINT32_MAX && count_add(u, status, 1) && rows_reserve(c, u, 1); /* which may let the oldest go */
    bool whole = u->count == u->total;
    unsigned i = rows_below(u, at);
    if (i < u->count && position_compare(u->rows[i].at, at) == 0) kept = false; /* not a new one */
    u->total++;
    if (kept && (whole || i > 0)) kept = row_put(c, u, at, status, card_kept(card)); /* else it is older than what is kept */
    user_changed(c, u, kept);
}

void list_cache_move(struct list_cache *c, struct slice user_id, struct list_position at, uint16_t from, uint16_t to, struct slice card) {
    struct cached_user *u = c ? user_find(c, user_id) : NULL;
    if (!u) return;
    bool kept = from == to || (count_add(u, from, -1) && count_add(u, to, 1));
    unsigned i = rows_below(u, at);
    if (kept && (i > 0 || u->count == u->total || (u->count && position_compare(u->rows[0].at, at) == 0))) {
        kept = i < u->count && position_compare(u->rows[i].at, at) == 0 && u->rows[i].status == from;
        if (kept) u->rows[i].status = to, kept = card_put(c, u, at, card_kept(card));
    }
    user_changed(c, u, kept);
}

/* ---- pages ---- */

struct page {
    const struct cached_user *u;
    const struct userlist_range *range;
    struct list_position lower, upper; /* [lower, upper) */
    bool whole_range, covered;         /* no bounds in time; all there is from lower on is here */
};

static bool page_wants(const struct page *p, uint16_t status) {
    for (unsigned i = 0; i < p->range->status_count; i++)
        if (p->range->statuses[i] == status) return true;
    return p->range->status_count == 0;
}

static bool range_is_whole(const struct userlist_range *r) { return r->from_us == INT64_MIN && r->to_us == INT64_MAX; }

static void page_counts(const struct page *p, struct status_counts *counts) {
    struct cached_user sum = {0};
    const struct cached_user *from = p->u;
    if (!p->whole_range) { /* few rows, and few statuses: those of the user at most */
        for (unsigned i = rows_below(p->u, p->lower), end = rows_below(p->u, p->upper); i < end; i++) check(count_add(&sum, p->u->rows[i].status, 1));
        from = &sum;
    }
    counts->n = from->status_count;
    for (unsigned i = 0; i < from->status_count; i++) counts->at[i] = (struct status_count){from->counts[i].status, from->counts[i].count};
}

/* As userlist_page does: where it is known how many match, the last one of a page tells whether another follows; else the next one has to be seen. */
static bool page_walk(const struct page *p, int64_t skip, const struct list_position *after, int64_t left, struct userlist_item *out, unsigned limit, unsigned *count, bool *more) {
    const struct cached_user *u = p->u;
    struct list_position upper = after && position_compare(*after, p->upper) < 0 ? *after : p->upper;
    *count = 0, *more = false;
    if (left == 0) return true;
    for (unsigned i = rows_below(u, upper); i-- > 0;) {
        const struct cached_row *r = &u->rows[i];
        if (position_compare(r->at, p->lower) < 0) return true;
        if (!page_wants(p, r->status)) continue;
        if (skip) {
            skip--;
            continue;
        }
        if (*count == limit) return *more = true;
        out[(*count)++] = (struct userlist_item){r->at, r->status, r->card_len ? slice_of(u->cards + r->card, r->card_len) : (struct slice){0}};
        if (*count == limit && left > 0) return *more = left > limit, true;
    }
    return p->covered;
}

static bool page_answer(const struct cached_user *u, const struct userlist_range *range, int64_t skip, const struct list_position *after, struct userlist_item *out, unsigned limit,
                        unsigned *count, bool *more, struct status_counts *counts) {
    struct page p = {.u = u, .range = range, .lower = {range->from_us, 0}, .upper = {INT64_MAX, -1}, .whole_range = range_is_whole(range)};
    if (range->to_us != INT64_MAX) p.upper = (struct list_position){range->to_us, 0};
    p.covered = u->count == u->total || (u->count && position_compare(p.lower, u->rows[0].at) >= 0);
    if (!p.covered && !p.whole_range) return false;
    page_counts(&p, counts);
    int64_t left = -1;
    if (p.whole_range && !after) {
        left = -skip;
        for (unsigned i = 0; i < counts->n; i++) left += page_wants(&p, counts->at[i].status) ? counts->at[i].count : 0;
        left = MAX_OF(left, (int64_t)0);
    }
    return page_walk(&p, skip, after, left, out, limit, count, more);
}

bool list_cache_page(struct list_cache *c, const struct userlist_range *range, int64_t skip, const struct list_position *after, struct userlist_item *out, unsigned limit, unsigned *count,
                     bool *more, struct status_counts *counts) {
    struct cached_user *u = user_find(c, range->user_id);
    bool hit = u && page_answer(u, range, skip, after, out, limit, count, more, counts);
    if (u && hit && u->hits < HITS_MAX) u->hits++;
    c->stats.hits += hit;
    c->stats.misses += !hit;
    return hit;
}

static struct cached_user *user_new(struct list_cache *c, const struct userlist_range *range, const struct status_counts *counts) {
    int64_t total = 0;
    for (unsigned i = 0; i < counts->n; i++) total += counts->at[i].count;
    if (counts->n > LIST_CACHE_STATUSES_MAX || total > UINT32_MAX) return NULL;
    struct cached_user *u = mem_zalloc(sizeof *u + range->user_id.len);
    if (!u) return NULL;
    u->hash = hash64(range->user_id);
    u->slot = range->slot;
    u->user_len = (uint16_t)range->user_id.len;
    u->total = (uint32_t)total;
    u->status_count = (uint16_t)counts->n;
    for (unsigned i = 0; i < counts->n; i++) u->counts[i] = (struct cached_count){counts->at[i].status, (uint32_t)counts->at[i].count};
    memcpy(u->user_id, range->user_id.data, range->user_id.len);
    list_init(&u->link);
    struct cached_user **bucket = &c->buckets[u->hash & (c->bucket_count - 1)];
    u->next = *bucket, *bucket = u;
    c->stats.users++;
    user_queue(c, u, mark_take(c, u->hash));
    return u;
}

/* Older rows than all that are kept: in front of them. The block is made for all of them at once. */
static bool rows_extend(struct list_cache *c, struct cached_user *u, const struct userlist_item *items, unsigned count) {
    uint32_t bytes = 0;
    count = MIN_OF(count, LIST_CACHE_ROWS_MAX - (unsigned)u->count);
    for (unsigned i = 0; i < count; i++)
        if ((bytes += (uint32_t)items[i].card.len) + u->card_live > LIST_CACHE_CARDS_BYTES_MAX) bytes -= (uint32_t)items[i].card.len, count = i;
    if (!count) return true;
    if (!rows_reserve(c, u, count) || !cards_reserve(c, u, bytes)) return false;
    memmove(&u->rows[count], u->rows, u->count * sizeof *u->rows);
    for (unsigned i = 0; i < count; i++) {
        const struct userlist_item *item = &items[i];
        u->rows[count - 1 - i] = (struct cached_row){.at = item->at, .card = u->card_used, .card_len = (uint16_t)item->card.len, .status = item->status};
        if (item->card.len) memcpy(u->cards + u->card_used, item->card.data, item->card.len);
        u->card_used += (uint32_t)item->card.len;
    }
    u->card_live += bytes;
    u->count += (uint16_t)count;
    c->stats.rows += count;
    return true;
}

void list_cache_fill(struct list_cache *c, const struct userlist_range *range, int64_t skip, const struct list_position *after, const struct userlist_item *items, unsigned count,
                     const struct status_counts *counts) {
    if (!range_is_whole(range) || range->status_count) return;
    struct cached_user *u = user_find(c, range->user_id);
    if (u && after) {
        if (!u->count || position_compare(u->rows[0].at, *after) != 0) return;
    } else if (u) { /* the page begins among what is kept, or right behind */
        if (skip > u->count || (uint64_t)skip + count < u->count) return;
        items += u->count - skip, count -= (unsigned)(u->count - skip);
    } else if (after || skip || !(u = user_new(c, range, counts))) {
        return;
    }
    user_changed(c, u, rows_extend(c, u, items, count));
}
