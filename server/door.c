/* door: a hash table of addresses under a mutex. An address without connections is kept until its bucket would be full again, five seconds after it left, in a list by the time of leaving: so the
 * table holds no more than the open connections and what the rate of all lets in within that time, however many addresses an attacker has. Those with strikes are kept for twice the longest penalty,
 * in a list of their own that holds PENALISED_MAX at most: beyond it the oldest is forgiven. */
#include "server/door.h"

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "proto/base/hash.h"
#include "proto/base/list.h"
#include "proto/base/mem.h"

enum { BUCKETS = 4096, BURST_S = 5, ADDRESS_BYTES = 16, STRIKES_MIN = 3, FADE_S = 10, PENALISED_MAX = 4096 };
#define PENALTY_NS_MIN NS_PER_S
#define PENALTY_NS_MIN_SHARED (250 * NS_PER_MS) /* of an address that has had calls served lately */
#define PENALTY_NS_SHARED NS_PER_S /* the longest for an address that has had calls served lately */

struct allowance {
    uint64_t tokens, filled_ns; /* tokens in billionths */
};

struct visitor {
    struct list link;    /* in its bucket */
    struct list resting; /* no connection, oldest first */
    uint8_t address[ADDRESS_BYTES];
    uint32_t connections, handshakes;
    uint64_t left_ns;
    struct allowance rate;
    /* penalties */
    bool kept; /* resting among the penalised */
    uint32_t strikes, worked, working; /* the first two fade; the third is of its connections */
    uint64_t faded_ns, struck_ns, penalty_ns, refused_until_ns, let_in_ns;
};

struct door {
    pthread_mutex_t lock; /* of all below */
    struct door_limits limits;
    uint8_t secret[16]; /* in the hash: an attacker can't choose addresses that share a bucket */
    struct allowance rate;
    struct list resting, penalised;
    uint32_t count, connections, penalised_count;
    struct list buckets[BUCKETS];
};

static bool allow(struct allowance *a, uint32_t per_s, uint64_t now_ns) {
    uint64_t full = (uint64_t)BURST_S * per_s * NS_PER_S, passed = now_ns > a->filled_ns ? MIN_OF(now_ns - a->filled_ns, BURST_S * NS_PER_S) : 0;
    a->tokens = MIN_OF(full, a->tokens + passed * per_s);
    a->filled_ns = MAX_OF(a->filled_ns, now_ns);
    if (a->tokens < NS_PER_S) return false;
    a->tokens -= NS_PER_S;
    return true;
}
static struct allowance allowance_full(uint32_t per_s, uint64_t now_ns) { return (struct allowance){(uint64_t)BURST_S * per_s * NS_PER_S, now_ns}; }

struct door *door_new(const struct door_limits *limits) {
    struct door *d = mem_new(struct door);
    if (!d) return NULL;
    pthread_mutex_init(&d->lock, NULL);
    d->limits = *limits;
    d->rate = allowance_full(limits->per_s, 0);
    random_bytes(d->secret, sizeof d->secret);
    list_init(&d->resting);
    list_init(&d->penalised);
    for (size_t i = 0; i < BUCKETS; i++) list_init(&d->buckets[i]);
    return d;
}

static void forget(struct door *d, struct visitor *v) {
    check(v->connections == 0);
    list_remove(&v->link);
    list_remove(&v->resting);
    d->penalised_count -= v->kept;
    d->count--;
    mem_free(v);
}

void door_free(struct door *d) {
    if (!d) return;
    while (!list_empty(&d->resting)) forget(d, list_entry(d->resting.next, struct visitor, resting));
    while (!list_empty(&d->penalised)) forget(d, list_entry(d->penalised.next, struct visitor, resting));
    check(d->count == 0);
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

static void address_of(const struct sockaddr_storage *peer, uint8_t out[ADDRESS_BYTES]) {
    memset(out, 0, ADDRESS_BYTES);
    if (peer->ss_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)peer)->sin6_addr;
        memcpy(out, in6, IN6_IS_ADDR_V4MAPPED(in6) ? 16 : 8);
    } else if (peer->ss_family == AF_INET) {
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &((const struct sockaddr_in *)peer)->sin_addr, 4);
    }
}

static struct list *bucket_of(struct door *d, const uint8_t address[ADDRESS_BYTES]) {
    uint8_t keyed[sizeof d->secret + ADDRESS_BYTES];
    memcpy(keyed, d->secret, sizeof d->secret);
    memcpy(keyed + sizeof d->secret, address, ADDRESS_BYTES);
    return &d->buckets[hash64(slice_of(keyed, sizeof keyed)) % BUCKETS];
}

static struct visitor *visitor_find(struct door *d, const uint8_t address[ADDRESS_BYTES], uint64_t now_ns) {
    struct list *bucket = bucket_of(d, address);
    list_each(l, bucket) {
        struct visitor *v = list_entry(l, struct visitor, link);
        if (memcmp(v->address, address, ADDRESS_BYTES) == 0) return v;
    }
    struct visitor *v = mem_new(struct visitor);
    if (!v) return NULL;
    memcpy(v->address, address, ADDRESS_BYTES);
    v->rate = allowance_full(d->limits.address_per_s, now_ns);
    v->left_ns = v->faded_ns = v->struck_ns = now_ns;
    list_push_back(bucket, &v->link);
    list_init(&v->resting);
    list_push_back(&d->resting, &v->resting);
    d->count++;
    return v;
}

/* Two a visit: the table shrinks faster than it can grow. */
static void forget_some(struct door *d, uint64_t now_ns) {
    for (unsigned i = 0; i < 2 && !list_empty(&d->resting); i++) {
        struct visitor *v = list_entry(d->resting.next, struct visitor, resting);
        if (now_ns < v->left_ns + BURST_S * NS_PER_S) break;
        forget(d, v);
    }
    for (unsigned i = 0; i < 2 && !list_empty(&d->penalised); i++) {
        struct visitor *v = list_entry(d->penalised.next, struct visitor, resting);
        if (d->penalised_count <= PENALISED_MAX && now_ns < v->left_ns + 2 * d->limits.penalty_ns_max) return;
        forget(d, v);
    }
}

/* ---- penalties */
static void fade(struct visitor *v, uint64_t now_ns) {
    uint64_t times = now_ns > v->faded_ns ? (now_ns - v->faded_ns) / (FADE_S * NS_PER_S) : 0;
    if (!times) return;
    v->faded_ns += times * FADE_S * NS_PER_S;
    v->strikes = times < 32 ? v->strikes >> times : 0;
    v->worked = times < 32 ? v->worked >> times : 0;
}

void door_strike(struct door *d, struct visitor *v, uint64_t now_ns) {
    pthread_mutex_lock(&d->lock);
    fade(v, now_ns);
    v->strikes++;
    if (now_ns - v->struck_ns > 2 * d->limits.penalty_ns_max) v->penalty_ns = 0;
    v->struck_ns = now_ns;
    if (d->limits.penalty_ns_max && v->strikes >= STRIKES_MIN && v->strikes > v->worked + v->working) {
        bool shared = v->worked + v->working > 0;
        uint64_t most_ns = MIN_OF(shared ? PENALTY_NS_SHARED : UINT64_MAX, d->limits.penalty_ns_max);
        v->penalty_ns = MIN_OF(v->penalty_ns ? 2 * v->penalty_ns : shared ? PENALTY_NS_MIN_SHARED : PENALTY_NS_MIN, most_ns);
        v->refused_until_ns = now_ns + v->penalty_ns;
    }
    pthread_mutex_unlock(&d->lock);
}

void door_working(struct door *d, struct visitor *v, bool on, uint64_t now_ns) {
    pthread_mutex_lock(&d->lock);
    fade(v, now_ns);
    check(on || v->working > 0);
    if (on) v->working++, v->worked++;
    else v->working--;
    pthread_mutex_unlock(&d->lock);
}

static bool is_penalised(struct visitor *v, uint64_t now_ns) {
    if (now_ns >= v->refused_until_ns) return false;
    if (!v->working || now_ns < v->let_in_ns + NS_PER_S) return true;
    v->let_in_ns = now_ns;
    return false;
}

/* The rate of all comes last: who is refused for himself takes nothing from the others. */
static enum cut admit(struct door *d, struct visitor *v, bool handshake, uint64_t now_ns) {
    const struct door_limits *l = &d->limits;
    if (!v) return CUT_REFUSED_MEMORY;
    if (d->connections >= l->connections_max) return CUT_REFUSED_CONNECTIONS;
    if (is_penalised(v, now_ns)) return CUT_REFUSED_PENALTY;
    if (v->connections >= l->address_connections_max) return CUT_REFUSED_ADDRESS;
    if (handshake && v->handshakes >= l->address_handshakes_max) return CUT_REFUSED_ADDRESS_HANDSHAKES;
    if (!allow(&v->rate, l->address_per_s, now_ns)) return CUT_REFUSED_ADDRESS_RATE;
    return allow(&d->rate, l->per_s, now_ns) ? CUT_NONE : CUT_REFUSED_RATE;
}

enum cut door_enter(struct door *d, const struct sockaddr_storage *peer, bool handshake, uint64_t now_ns, struct visitor **out) {
    uint8_t address[ADDRESS_BYTES];
    address_of(peer, address);
    pthread_mutex_lock(&d->lock);
    forget_some(d, now_ns);
    uint32_t known = d->count;
    struct visitor *v = visitor_find(d, address, now_ns);
    enum cut why = admit(d, v, handshake, now_ns);
    if (why == CUT_NONE) {
        list_remove(&v->resting);
        d->penalised_count -= v->kept;
        v->kept = false;
        v->connections++;
        d->connections++;
        v->handshakes += handshake;
        *out = v;
    } else if (v && d->count > known) {
        forget(d, v); /* a stranger who was not let in leaves no trace */
    }
    pthread_mutex_unlock(&d->lock);
    return why;
}

void door_handshake_over(struct door *d, struct visitor *v) {
    pthread_mutex_lock(&d->lock);
    check(v->handshakes > 0);
    v->handshakes--;
    pthread_mutex_unlock(&d->lock);
}

void door_leave(struct door *d, struct visitor *v, uint64_t now_ns) {
    pthread_mutex_lock(&d->lock);
    check(v->connections > 0);
    check(d->connections > 0);
    d->connections--;
    if (--v->connections == 0) {
        check(v->handshakes == 0);
        v->left_ns = now_ns;
        v->kept = v->penalty_ns > 0;
        d->penalised_count += v->kept;
        list_push_back(v->kept ? &d->penalised : &d->resting, &v->resting);
    }
    pthread_mutex_unlock(&d->lock);
}

uint32_t door_address_count(struct door *d) {
    pthread_mutex_lock(&d->lock);
    uint32_t n = d->count;
    pthread_mutex_unlock(&d->lock);
    return n;
}
