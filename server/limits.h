/* Rate limits: token buckets of resources (orderdb.v1.RateLimit), exact over all cores of the node without a lock in the way of a call.
 *
 * A bucket is one 64-bit word, the time at which it will be full again: GCRA (ITU-T I.371, annex A, "virtual scheduling"). A call of n tokens moves it n x 1/rate further
 * by compare and swap, and is let in when it then lies no further ahead than burst x 1/rate. More tokens than the burst (a large batch) are let in by a full
 * bucket, and paid off before the next. Nothing runs in between: time fills the bucket.
 *
 * global: one word. principal, user, merchant: a table of LIMITS_KEYS words beside the hashes of their keys, in sets of LIMITS_WAYS. A full bucket says nothing
 * (one that was never there is full too), so its place is free for the next key; only when a set holds no full one is the fullest given away, and its key starts anew: with
 * more keys at their limits at once than there are places a limit is lenient, never stricter. Which set a key has is secret (a seed drawn at start). Where it is not
 * exact: two cores that meet a key for the first time in the same instant may each give it a place, and one call is not counted.
 *
 * Each core has its own struct limits, made anew when resources change; the buckets of what stayed the same are shared and stay as full as they were. */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#include "proto/base/arena.h"
#include "proto/ratelimit.h"
#include "proto/status.h"

enum {
    LIMITS_MAX = 64,          /* on a node; of them */
    LIMITS_KEYED_MAX = 16,    /* by principal, user or merchant: 1 MiB each */
    LIMITS_KEYS = 1 << 16, LIMITS_WAYS = 8,
    LIMITS_NAME_BYTES_MAX = 128,
};

/* One resource, read. */
struct limit_spec {
    char name[LIMITS_NAME_BYTES_MAX + 1];
    enum limit_scope scope;
    uint64_t methods;          /* limit_method_rows */
    double per_second;
    uint64_t burst;
};
/* A Resource with a RateLimit, as wire bytes. false: it is another kind, or one that could not have been applied. */
bool limits_read(struct slice resource, struct limit_spec *out);

struct limits_share; /* the node's: the buckets that are in use by any core, behind a mutex */
struct limits_share *limits_share_new(uint64_t seed); /* NULL: no memory */
void limits_share_free(struct limits_share *s);       /* no struct limits is left */

struct limits;
/* What does not fit (LIMITS_MAX, memory) is left out, and counted in *left_out. NULL: no memory at all. */
struct limits *limits_new(struct limits_share *s, const struct limit_spec *specs, size_t count, unsigned *left_out);
void limits_free(struct limits *l);
size_t limits_count(const struct limits *l);

/* Who calls what, as far as it is known where the question is asked: scopes says which limits are looked at. */
struct limits_subject {
    unsigned row;
    unsigned scopes;          /* 1 << enum limit_scope */
    uint64_t principal;       /* limits_key of the certificate's subject; 0: nobody has shown one, all of them together */
    struct slice user_id, merchant_id;
};
struct limits_refusal {
    const char *name;         /* of the limit, borrowed until the limits are freed */
    enum limit_scope scope;
    double per_second;
    uint64_t burst;
    uint64_t wait_ns;         /* when the same question would be answered with yes, if nobody else came */
};
uint64_t limits_key(struct slice text);
/* Is there a token of each? Takes none. l may be NULL: no limits. */
bool limits_peek(const struct limits *l, const struct limits_subject *who, uint64_t now_ns, struct limits_refusal *out) MUST_USE;
/* Takes n of each, or none of any. */
bool limits_take(const struct limits *l, const struct limits_subject *who, uint64_t n, uint64_t now_ns, struct limits_refusal *out) MUST_USE;
/* Is anything of these scopes limited at all? For who would have to prepare the question. */
bool limits_apply_to(const struct limits *l, unsigned row, unsigned scopes);
/* Would one more of this scope be left out? Not when it has the name of one that is there. */
bool limits_have_room(const struct limits *l, const char *name, enum limit_scope scope);
/* core_hooks.resources: core->limits becomes what the list says. */
struct core;
struct resource_list;
void limits_of_resources(struct core *core, const struct resource_list *list);
/* RATE_LIMITED, with limit, scope and the delay. */
void limits_failure(const struct limits_refusal *r, struct failure *f);

#endif
