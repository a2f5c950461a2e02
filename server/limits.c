#include "server/limits.h"

#include <pthread.h>
#include <string.h>

#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"
#include "proto/scan.h"
#include "server/metrics.h"

static_assert(METHOD_COUNT <= 64, "a limit's methods are bits of a word");
static_assert(LIMITS_MAX <= 64, "so are a method's limits");

/* One place of a keyed table. Both words are atomics of their own: whoever charges a place that is given away at that moment charges the next key with one call. */
struct place {
    uint64_t key;  /* 0: never used */
    uint64_t full_at_ns;
};

struct bucket { /* of one limit; shared by the cores' struct limits */
    struct list link; /* in the share */
    unsigned refs;    /* under the share's mutex */
    struct limit_spec spec;
    uint64_t full_at_ns;  /* global */
    struct place *places; /* keyed */
};

struct limits_share {
    pthread_mutex_t mutex;
    struct list buckets;
    uint64_t seed;
};

struct limits {
    struct limits_share *share;
    size_t count;
    struct bucket *buckets[LIMITS_MAX];
    uint64_t by_row[METHOD_COUNT];       /* bits of buckets */
    uint64_t by_scope[LIMIT_SCOPES];
};

bool limits_read(struct slice resource, struct limit_spec *out) {
    struct arena arena;
    arena_init(&arena, 64 * KIB);
    struct failure f;
    failure_init(&f, &arena);
    const Orderdb__V1__Resource *r = (const Orderdb__V1__Resource *)scan_unpack(&orderdb__v1__resource__descriptor, resource, &scan_limits_default, &f);
    const Orderdb__V1__RateLimit *l = r && r->kind_case == ORDERDB__V1__RESOURCE__KIND_LIMIT ? r->limit : NULL;
    *out = (struct limit_spec){0};
    bool ok = l && strlen(l->name) <= LIMITS_NAME_BYTES_MAX && limit_scope_of(l->scope, &out->scope) && l->per_second >= LIMIT_PER_SECOND_MIN &&
              l->per_second <= LIMIT_PER_SECOND_MAX && l->burst >= 1 && l->burst <= LIMIT_BURST_MAX && (double)l->burst / l->per_second <= LIMIT_FILL_SECONDS_MAX;
    if (ok) {
        memcpy(out->name, l->name, strlen(l->name));
        out->methods = limit_method_rows(l->method, out->scope);
        out->per_second = l->per_second;
        out->burst = (uint64_t)l->burst;
    }
    arena_fini(&arena);
    return ok && out->methods;
}

/* ---- the share */

struct limits_share *limits_share_new(uint64_t seed) {
    struct limits_share *s = mem_new(struct limits_share);
    if (!s) return NULL;
    check(pthread_mutex_init(&s->mutex, NULL) == 0);
    list_init(&s->buckets);
    s->seed = seed;
    return s;
}

void limits_share_free(struct limits_share *s) {
    if (!s) return;
    check(list_empty(&s->buckets));
    pthread_mutex_destroy(&s->mutex);
    mem_free(s);
}

static bool spec_same(const struct limit_spec *a, const struct limit_spec *b) {
    return strcmp(a->name, b->name) == 0 && a->scope == b->scope && a->methods == b->methods && !(a->per_second < b->per_second) && !(a->per_second > b->per_second) &&
           a->burst == b->burst;
}

static struct bucket *bucket_new(struct limits_share *s, const struct limit_spec *spec) {
    struct bucket *b = mem_new(struct bucket);
    if (!b) return NULL;
    b->spec = *spec;
    if (spec->scope != LIMIT_GLOBAL && !(b->places = mem_zalloc(LIMITS_KEYS * sizeof *b->places))) return mem_free(b), NULL;
    list_push_back(&s->buckets, &b->link);
    return b;
}

/* Under the mutex. */
static struct bucket *bucket_get(struct limits_share *s, const struct limit_spec *spec) {
    struct bucket *b = NULL;
    list_each(l, &s->buckets) {
        struct bucket *at = list_entry(l, struct bucket, link);
        if (spec_same(&at->spec, spec)) b = at;
    }
    if (!b) b = bucket_new(s, spec);
    if (b) b->refs++;
    return b;
}

static void bucket_put(struct bucket *b) {
    if (--b->refs) return;
    list_remove(&b->link);
    mem_free(b->places);
    mem_free(b);
}

struct limits *limits_new(struct limits_share *s, const struct limit_spec *specs, size_t count, unsigned *left_out) {
    struct limits *l = mem_new(struct limits);
    *left_out = 0;
    if (!l) return NULL;
    l->share = s;
    size_t keyed = 0;
    check(pthread_mutex_lock(&s->mutex) == 0);
    for (size_t i = 0; i < count; i++) {
        bool is_keyed = specs[i].scope != LIMIT_GLOBAL, fits = l->count < LIMITS_MAX && (!is_keyed || keyed < LIMITS_KEYED_MAX);
        struct bucket *b = fits ? bucket_get(s, &specs[i]) : NULL;
        if (!b) {
            *left_out += 1;
            continue;
        }
        keyed += is_keyed;
        uint64_t bit = 1ull << l->count;
        l->buckets[l->count++] = b;
        l->by_scope[b->spec.scope] |= bit;
        for (unsigned row = 0; row < METHOD_COUNT; row++)
            if (b->spec.methods >> row & 1) l->by_row[row] |= bit;
    }
    check(pthread_mutex_unlock(&s->mutex) == 0);
    return l;
}

void limits_free(struct limits *l) {
    if (!l) return;
    check(pthread_mutex_lock(&l->share->mutex) == 0);
    for (size_t i = 0; i < l->count; i++) bucket_put(l->buckets[i]);
    check(pthread_mutex_unlock(&l->share->mutex) == 0);
    mem_free(l);
}

size_t limits_count(const struct limits *l) { return l ? l->count : 0; }

/* ---- keys */

uint64_t limits_key(struct slice text) {
    uint64_t h = hash64(text);
    return h ? h : 1;
}

/* murmur3's finalizer, which spreads every bit; the seed keeps strangers from choosing names of one set */
static size_t set_of(const struct limits_share *s, uint64_t key) {
    uint64_t h = key ^ s->seed;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
    return (size_t)((h ^ h >> 33) % (LIMITS_KEYS / LIMITS_WAYS)) * LIMITS_WAYS;
}

#define LOAD(word) __atomic_load_n(&(word), __ATOMIC_RELAXED)
#define SWAP(word, expected, desired) __atomic_compare_exchange_n(&(word), &(expected), (desired), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)

/* The key's word. make: gives it a place; else NULL when it has none, which is as good as full. */
static uint64_t *place_of(const struct limits_share *s, struct bucket *b, uint64_t key, uint64_t now_ns, bool make) {
    struct place *set = &b->places[set_of(s, key)];
    for (;;) {
        struct place *victim = NULL;
        uint64_t fullest_ns = UINT64_MAX;
        for (int i = 0; i < LIMITS_WAYS; i++) {
            if (LOAD(set[i].key) == key) return &set[i].full_at_ns;
            uint64_t at_ns = LOAD(set[i].full_at_ns);
            if (at_ns < fullest_ns) fullest_ns = at_ns, victim = &set[i];
        }
        if (!make) return NULL;
        uint64_t old = LOAD(victim->key);
        if (!SWAP(victim->key, old, key)) continue; /* somebody else took it, perhaps for the same key */
        if (fullest_ns > now_ns) (void)SWAP(victim->full_at_ns, fullest_ns, now_ns); /* not full, and not the new key's fault */
        return &victim->full_at_ns;
    }
}

static uint64_t key_of(const struct limits_subject *who, enum limit_scope scope) {
    switch (scope) {
    case LIMIT_PRINCIPAL: return who->principal ? who->principal : 1;
    case LIMIT_USER: return limits_key(who->user_id);
    case LIMIT_MERCHANT: return limits_key(who->merchant_id);
    default: return 0;
    }
}

static uint64_t *word_of(const struct limits *l, struct bucket *b, const struct limits_subject *who, uint64_t now_ns, bool make) {
    if (b->spec.scope == LIMIT_GLOBAL) return &b->full_at_ns;
    return place_of(l->share, b, key_of(who, b->spec.scope), now_ns, make);
}

/* ---- GCRA */

static uint64_t cost_ns(const struct bucket *b, uint64_t n) { return (uint64_t)((double)n * (double)NS_PER_S / b->spec.per_second + 0.5); }

/* How long n tokens have to wait when the bucket is full again at full_at_ns. */
static uint64_t wait_of(const struct bucket *b, uint64_t full_at_ns, uint64_t n, uint64_t now_ns) {
    uint64_t ahead_ns = full_at_ns > now_ns ? full_at_ns - now_ns : 0, room_ns = cost_ns(b, b->spec.burst), need_ns = MIN_OF(cost_ns(b, n), room_ns);
    return ahead_ns + need_ns > room_ns ? ahead_ns + need_ns - room_ns : 0;
}

/* 0: taken. */
static uint64_t bucket_take(const struct bucket *b, uint64_t *word, uint64_t n, uint64_t now_ns) {
    uint64_t old = LOAD(*word);
    for (;;) {
        uint64_t wait_ns = wait_of(b, old, n, now_ns);
        if (wait_ns) return wait_ns;
        if (SWAP(*word, old, MAX_OF(old, now_ns) + cost_ns(b, n))) return 0;
    }
}

bool limits_have_room(const struct limits *l, const char *name, enum limit_scope scope) {
    size_t keyed = 0;
    for (size_t i = 0; i < limits_count(l); i++) {
        if (strcmp(l->buckets[i]->spec.name, name) == 0) continue;
        keyed += l->buckets[i]->spec.scope != LIMIT_GLOBAL;
    }
    bool is_there = false;
    for (size_t i = 0; i < limits_count(l); i++) is_there |= strcmp(l->buckets[i]->spec.name, name) == 0;
    return limits_count(l) - is_there < LIMITS_MAX && (scope == LIMIT_GLOBAL || keyed < LIMITS_KEYED_MAX);
}

static bool refuse(struct limits_refusal *out, const struct bucket *b, uint64_t wait_ns) {
    *out = (struct limits_refusal){.name = b->spec.name, .scope = b->spec.scope, .per_second = b->spec.per_second, .burst = b->spec.burst, .wait_ns = wait_ns};
    return false;
}

static uint64_t those_of(const struct limits *l, unsigned row, unsigned scopes) {
    uint64_t bits = 0;
    for (int i = 0; i < LIMIT_SCOPES; i++)
        if (scopes >> i & 1) bits |= l->by_scope[i];
    return bits & l->by_row[row];
}

bool limits_apply_to(const struct limits *l, unsigned row, unsigned scopes) { return l && l->count && those_of(l, row, scopes); }

bool limits_peek(const struct limits *l, const struct limits_subject *who, uint64_t now_ns, struct limits_refusal *out) {
    if (!l || !l->count) return true;
    for (uint64_t bits = those_of(l, who->row, who->scopes); bits; bits &= bits - 1) {
        struct bucket *b = l->buckets[__builtin_ctzll(bits)];
        uint64_t *word = word_of(l, b, who, now_ns, false), wait_ns = word ? wait_of(b, LOAD(*word), 1, now_ns) : 0;
        if (wait_ns) return refuse(out, b, wait_ns);
    }
    return true;
}

bool limits_take(const struct limits *l, const struct limits_subject *who, uint64_t n, uint64_t now_ns, struct limits_refusal *out) {
    if (!l || !l->count || !n) return true;
    uint64_t bits = those_of(l, who->row, who->scopes), *words[LIMITS_MAX];
    for (uint64_t left = bits; left; left &= left - 1) {
        int i = __builtin_ctzll(left);
        words[i] = word_of(l, l->buckets[i], who, now_ns, true);
        uint64_t wait_ns = bucket_take(l->buckets[i], words[i], n, now_ns);
        if (!wait_ns) continue;
        for (uint64_t taken = bits ^ left; taken; taken &= taken - 1) { /* what the limits before this one gave */
            int k = __builtin_ctzll(taken);
            (void)__atomic_sub_fetch(words[k], cost_ns(l->buckets[k], n), __ATOMIC_RELAXED);
        }
        return refuse(out, l->buckets[i], wait_ns);
    }
    return true;
}

void limits_failure(const struct limits_refusal *r, struct failure *f) {
    static const char *const whose[LIMIT_SCOPES] = {"", " of a principal", " of a user", " of a merchant"};
    f->retry_delay_ms = (uint32_t)MIN_OF((r->wait_ns + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)UINT32_MAX);
    failure_meta(f, "limit", "%s", r->name);
    failure_meta(f, "scope", "%s", limit_scope_name(r->scope));
    failure_set(f, STATUS_RATE_LIMITED, "rate limit %s: %g a second%s, bursts of %llu", r->name, r->per_second, whose[r->scope], (unsigned long long)r->burst);
}
