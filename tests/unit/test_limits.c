/* The promises of server/limits.h. Time is a number; the last tests let threads at one bucket. */
#include "tests/lib/test.h"

#include <pthread.h>

#include "proto/base/mem.h"
#include "server/limits.h"
#include "server/metrics.h"

#define T0 (1000 * NS_PER_S)
enum { CREATE = METHOD_ROW_OrderService_CreateOrder, GET = METHOD_ROW_OrderService_GetOrder };

static struct limits_share *share;
static int open_share(void **state) {
    share = limits_share_new(12345);
    return share ? 0 : -1;
}
static int close_share(void **state) {
    limits_share_free(share);
    return 0;
}

static struct limit_spec spec(const char *name, enum limit_scope scope, const char *method, double per_second, uint64_t burst) {
    struct limit_spec s = {.scope = scope, .methods = limit_method_rows(method, scope), .per_second = per_second, .burst = burst};
    snprintf(s.name, sizeof s.name, "%s", name);
    return s;
}
static struct limits *limits_of(const struct limit_spec *specs, size_t count) {
    unsigned left_out;
    struct limits *l = limits_new(share, specs, count, &left_out);
    assert_non_null(l);
    assert_int_equal(left_out, 0);
    return l;
}
static struct limits *one(enum limit_scope scope, const char *method, double per_second, uint64_t burst) {
    struct limit_spec s = spec("the-limit", scope, method, per_second, burst);
    return limits_of(&s, 1);
}

static struct limits_subject who(unsigned row, const char *user) {
    return (struct limits_subject){.row = row, .scopes = (1 << LIMIT_SCOPES) - 1, .user_id = slice_str(user), .merchant_id = slice_str("shop")};
}
static bool take(const struct limits *l, unsigned row, const char *user, uint64_t n, uint64_t now_ns, uint64_t *wait_ns) {
    struct limits_refusal r = {0};
    struct limits_subject w = who(row, user);
    bool ok = limits_take(l, &w, n, now_ns, &r);
    if (wait_ns) *wait_ns = r.wait_ns;
    assert_int_equal(ok, r.wait_ns == 0);
    return ok;
}

static void test_a_burst_then_the_rate(void **state) {
    struct limits *l = one(LIMIT_GLOBAL, "", 10, 3);
    uint64_t wait;
    for (int i = 0; i < 3; i++) assert_true(take(l, CREATE, "u", 1, T0, NULL));
    assert_false(take(l, CREATE, "u", 1, T0, &wait));
    assert_int_equal(wait, 100 * NS_PER_MS);
    assert_false(take(l, CREATE, "u", 1, T0 + 99 * NS_PER_MS, &wait));
    assert_int_equal(wait, NS_PER_MS); /* the refused one took nothing */
    assert_true(take(l, CREATE, "u", 1, T0 + 100 * NS_PER_MS, NULL));
    assert_false(take(l, CREATE, "u", 1, T0 + 100 * NS_PER_MS, NULL));
    for (int i = 0; i < 3; i++) assert_true(take(l, CREATE, "u", 1, T0 + 10 * NS_PER_S, NULL)); /* full, and not fuller */
    assert_false(take(l, CREATE, "u", 1, T0 + 10 * NS_PER_S, NULL));
    limits_free(l);
}

static void test_over_a_long_time_the_rate_is_exact(void **state) {
    static const double rates[] = {0.5, 3, 7.3, 1000, 333333};
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        struct limits *l = one(LIMIT_GLOBAL, "", rates[i], 2);
        uint64_t ok = 0, seconds = rates[i] < 100 ? 1000 : 1, step = (uint64_t)(0.37e9 / rates[i]);
        for (uint64_t now = T0; now < T0 + seconds * NS_PER_S; now += step) ok += take(l, CREATE, "u", 1, now, NULL);
        double expected = rates[i] * (double)seconds;
        assert_true((double)ok <= expected + 2);
        assert_true((double)ok >= expected * 0.99 - 1);
        limits_free(l);
    }
}

static void test_a_batch_takes_all_its_tokens_or_none(void **state) {
    struct limits *l = one(LIMIT_GLOBAL, "", 10, 10);
    uint64_t wait;
    assert_true(take(l, CREATE, "u", 7, T0, NULL));
    assert_false(take(l, CREATE, "u", 4, T0, &wait));
    assert_int_equal(wait, 100 * NS_PER_MS);
    assert_true(take(l, CREATE, "u", 3, T0, NULL));
    limits_free(l);
}

/* It could never pass; so it passes when nothing else did, and is paid off. */
static void test_a_batch_larger_than_the_burst_needs_a_full_bucket(void **state) {
    struct limits *l = one(LIMIT_GLOBAL, "", 10, 5);
    uint64_t wait;
    assert_true(take(l, CREATE, "u", 1, T0, NULL));
    assert_false(take(l, CREATE, "u", 20, T0, &wait));
    assert_int_equal(wait, 100 * NS_PER_MS);
    assert_true(take(l, CREATE, "u", 20, T0 + 100 * NS_PER_MS, NULL));
    assert_false(take(l, CREATE, "u", 1, T0 + 100 * NS_PER_MS, &wait));
    assert_int_equal(wait, 1600 * NS_PER_MS); /* 20 tokens are 2 s; with a burst of 5 the next may go 0.4 s before that */
    limits_free(l);
}

static void test_users_have_buckets_of_their_own(void **state) {
    struct limits *l = one(LIMIT_USER, "OrderService/CreateOrder", 1, 1);
    assert_true(take(l, CREATE, "alice", 1, T0, NULL));
    assert_false(take(l, CREATE, "alice", 1, T0, NULL));
    assert_true(take(l, CREATE, "bob", 1, T0, NULL));
    assert_true(take(l, GET, "alice", 1, T0, NULL)); /* another method */
    limits_free(l);
}

static void test_principals_and_merchants(void **state) {
    struct limit_spec specs[] = {spec("p", LIMIT_PRINCIPAL, "", 1, 1), spec("m", LIMIT_MERCHANT, "OrderService/CreateOrder", 1, 1)};
    struct limits *l = limits_of(specs, 2);
    struct limits_refusal r;
    struct limits_subject a = {.row = GET, .scopes = 1 << LIMIT_PRINCIPAL, .principal = limits_key(SLICE_LIT("CN=app"))}, nobody = {.row = GET, .scopes = 1 << LIMIT_PRINCIPAL};
    assert_true(limits_take(l, &a, 1, T0, &r));
    assert_false(limits_take(l, &a, 1, T0, &r));
    assert_string_equal(r.name, "p");
    assert_true(limits_take(l, &nobody, 1, T0, &r));
    assert_false(limits_take(l, &nobody, 1, T0, &r)); /* all who show no certificate are one */
    struct limits_subject shop = {.row = CREATE, .scopes = 1 << LIMIT_MERCHANT, .merchant_id = SLICE_LIT("shop")}, other = shop;
    other.merchant_id = SLICE_LIT("other");
    assert_true(limits_take(l, &shop, 1, T0, &r));
    assert_false(limits_take(l, &shop, 1, T0, &r));
    assert_string_equal(r.name, "m");
    assert_true(limits_take(l, &other, 1, T0, &r));
    limits_free(l);
}

static void test_what_one_limit_refuses_the_others_have_not_given(void **state) {
    struct limit_spec specs[] = {spec("wide", LIMIT_GLOBAL, "", 1, 2), spec("narrow", LIMIT_USER, "", 1, 1)};
    struct limits *l = limits_of(specs, 2);
    assert_true(take(l, CREATE, "alice", 1, T0, NULL));
    for (int i = 0; i < 10; i++) assert_false(take(l, CREATE, "alice", 1, T0, NULL));
    assert_true(take(l, CREATE, "bob", 1, T0, NULL)); /* the second of wide's two */
    assert_false(take(l, CREATE, "carol", 1, T0, NULL));
    limits_free(l);
}

static void test_a_look_takes_nothing(void **state) {
    struct limit_spec specs[] = {spec("g", LIMIT_GLOBAL, "", 10, 1), spec("u", LIMIT_USER, "", 1, 1)};
    struct limits *l = limits_of(specs, 2);
    struct limits_subject w = who(CREATE, "u");
    struct limits_refusal r;
    for (int i = 0; i < 5; i++) assert_true(limits_peek(l, &w, T0, &r));
    assert_true(take(l, CREATE, "u", 1, T0, NULL));
    assert_false(limits_peek(l, &w, T0 + NS_PER_S / 2, &r));
    assert_string_equal(r.name, "u");
    assert_int_equal(r.wait_ns, NS_PER_S / 2);
    assert_true(limits_peek(NULL, &w, T0, &r));
    limits_free(l);
}

static void test_which_methods_a_limit_means(void **state) {
    uint64_t all = limit_method_rows("", LIMIT_GLOBAL);
    assert_true(all >> CREATE & 1 && all >> GET & 1 && all >> METHOD_ROW_StreamService_Subscribe & 1);
    assert_false(all >> METHOD_ROW_HealthCheck & 1 || all >> METHOD_ROW_Reflection & 1 || all >> METHOD_ROW_AdminService_ApplyResource & 1); /* or nobody could lift it */
    assert_int_equal(limit_method_rows("OrderService/GetOrder", LIMIT_GLOBAL), 1ull << GET);
    assert_true(limit_method_rows("OrderService/*", LIMIT_PRINCIPAL) >> GET & 1);
    assert_false(limit_method_rows("OrderService/*", LIMIT_PRINCIPAL) >> METHOD_ROW_StreamService_Subscribe & 1);
    assert_int_equal(limit_method_rows("OrderService/GetOrder", LIMIT_USER), 0); /* it names an order */
    assert_int_equal(limit_method_rows("OrderService/ListOrders", LIMIT_MERCHANT), 0);
    static const char *const bad[] = {"GetOrder", "OrderService", "OrderService/", "OrderService/Nothing", "Order/*", "*", "/", "AdminService/*", "grpc.health.v1.Health/Check", "orderservice/GetOrder"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) assert_int_equal(limit_method_rows(bad[i], LIMIT_GLOBAL), 0);
}

static void test_what_stays_the_same_stays_as_full_as_it_was(void **state) {
    struct limit_spec before[] = {spec("a", LIMIT_GLOBAL, "OrderService/CreateOrder", 1, 1), spec("b", LIMIT_GLOBAL, "OrderService/GetOrder", 1, 1)};
    struct limit_spec after[] = {before[0], spec("b", LIMIT_GLOBAL, "OrderService/GetOrder", 2, 1)};
    struct limits *l = limits_of(before, 2), *other_core = limits_of(before, 2);
    assert_true(take(l, CREATE, "u", 1, T0, NULL));
    assert_true(take(l, GET, "u", 1, T0, NULL));
    assert_false(take(other_core, CREATE, "u", 1, T0, NULL)); /* one bucket for all cores */
    struct limits *next = limits_of(after, 2);
    limits_free(l);
    assert_false(take(next, CREATE, "u", 1, T0, NULL));
    assert_true(take(next, GET, "u", 1, T0, NULL)); /* changed: it begins full */
    limits_free(other_core), limits_free(next);
    l = limits_of(before, 1);
    assert_true(take(l, CREATE, "u", 1, T0, NULL)); /* it was away in between */
    limits_free(l);
}

static void test_what_does_not_fit_is_left_out_and_told(void **state) {
    static struct limit_spec specs[LIMITS_MAX + 3];
    char name[16];
    unsigned left_out;
    for (unsigned i = 0; i < ARRAY_LEN(specs); i++) {
        snprintf(name, sizeof name, "limit-%u", i);
        specs[i] = spec(name, i < LIMITS_KEYED_MAX + 2 ? LIMIT_USER : LIMIT_GLOBAL, "", 1, 1);
    }
    struct limits *l = limits_new(share, specs, ARRAY_LEN(specs), &left_out);
    assert_int_equal(limits_count(l), LIMITS_MAX);
    assert_int_equal(left_out, 3);
    limits_free(l);
    mem_fail_nth(3); /* the table of the first */
    l = limits_new(share, specs, 2, &left_out);
    mem_fail_nth(0);
    assert_int_equal(limits_count(l), 1);
    assert_int_equal(left_out, 1);
    limits_free(l);
}

/* A million users ask, thousands come, 65,536 have places: who is at the limit keeps his. */
static void test_idle_users_make_room(void **state) {
    enum { BUSY = 1000, IDLE = 1000000 };
    struct limits *l = one(LIMIT_USER, "", 1, 1);
    char user[24];
    for (unsigned i = 0; i < BUSY; i++) {
        snprintf(user, sizeof user, "busy-%u", i);
        assert_true(take(l, CREATE, user, 1, T0, NULL));
    }
    uint64_t now = T0;
    for (unsigned i = 0; i < IDLE; i++) {
        now = T0 + i * 500ull; /* half a second in all */
        snprintf(user, sizeof user, "idle-%u", i);
        struct limits_subject w = who(CREATE, user);
        struct limits_refusal r;
        assert_true(limits_peek(l, &w, now, &r)); /* looks alone take no place */
    }
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(user, sizeof user, "new-%u", i);
        assert_true(take(l, CREATE, user, 1, now, NULL));
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < BUSY; i++) {
        snprintf(user, sizeof user, "busy-%u", i);
        kept += !take(l, CREATE, user, 1, now, NULL);
    }
    assert_int_equal(kept, BUSY);
    limits_free(l);
}

/* More at their limits than there are places: lenient, and nobody is refused for another's calls. */
static void test_a_full_table_is_lenient(void **state) {
    struct limits *l = one(LIMIT_USER, "", 0.001, 1);
    char user[24];
    for (unsigned i = 0; i < 4 * LIMITS_KEYS; i++) {
        snprintf(user, sizeof user, "user-%u", i);
        assert_true(take(l, CREATE, user, 1, T0 + i, NULL));
    }
    limits_free(l);
}

static void test_the_refusal_in_words(void **state) {
    struct limits *l = one(LIMIT_USER, "OrderService/CreateOrder", 2.5, 1);
    struct limits_refusal r;
    struct limits_subject w = who(CREATE, "u");
    struct arena arena;
    struct failure f;
    arena_init(&arena, 64 * KIB);
    failure_init(&f, &arena);
    assert_true(limits_take(l, &w, 1, T0, &r));
    assert_false(limits_take(l, &w, 1, T0 + 1, &r));
    limits_failure(&r, &f);
    assert_int_equal(f.status, STATUS_RATE_LIMITED);
    assert_string_equal(f.message, "rate limit the-limit: 2.5 a second of a user, bursts of 1");
    assert_int_equal(f.retry_delay_ms, 400); /* 399.999999 rounded up: then it is let in */
    assert_string_equal(f.metas->key, "limit");
    assert_true(slice_equal(f.metas->value, SLICE_LIT("the-limit")));
    assert_true(limits_take(l, &w, 1, T0 + 1 + 400 * NS_PER_MS, &r));
    arena_fini(&arena);
    limits_free(l);
}

/* ---- threads */
enum { THREADS = 4, TRIES = 50000 };
struct racer {
    pthread_t thread;
    const struct limits *limits;
    uint64_t taken;
    const char *user;
};
static void *race(void *arg) {
    struct racer *r = arg;
    struct limits_refusal refusal;
    struct limits_subject w = {.row = CREATE, .scopes = (1 << LIMIT_SCOPES) - 1, .user_id = slice_str(r->user), .merchant_id = SLICE_LIT("shop")};
    for (unsigned i = 0; i < TRIES; i++) r->taken += limits_take(r->limits, &w, 1, T0 + i, &refusal);
    return NULL;
}
static uint64_t race_all(const struct limits *l) {
    struct racer racers[THREADS];
    uint64_t sum = 0;
    for (int i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){.limits = l, .user = "alice"};
        assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(racers[i].thread, NULL), 0);
        sum += racers[i].taken;
    }
    return sum;
}
static void test_threads_share_a_bucket_to_the_token(void **state) {
    enum { BURST = 30000 };
    struct limits *l = one(LIMIT_GLOBAL, "", 0.001, BURST); /* time gives nothing back here */
    assert_int_equal(race_all(l), BURST);
    limits_free(l);
    struct limit_spec both[] = {spec("wide", LIMIT_GLOBAL, "", 0.001, 2 * BURST), spec("narrow", LIMIT_USER, "", 0.001, BURST)};
    l = limits_of(both, 2);
    assert_true(take(l, CREATE, "alice", 1, T0, NULL)); /* she has her place */
    assert_int_equal(race_all(l), BURST - 1);
    assert_true(take(l, CREATE, "bob", BURST, T0 + TRIES, NULL)); /* what the narrow one refused, the wide one has back */
    limits_free(l);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, open_share, close_share)
    const struct CMUnitTest tests[] = {
        T(test_a_burst_then_the_rate), T(test_over_a_long_time_the_rate_is_exact), T(test_a_batch_takes_all_its_tokens_or_none),
        T(test_a_batch_larger_than_the_burst_needs_a_full_bucket), T(test_users_have_buckets_of_their_own), T(test_principals_and_merchants),
        T(test_what_one_limit_refuses_the_others_have_not_given), T(test_a_look_takes_nothing), T(test_which_methods_a_limit_means),
        T(test_what_stays_the_same_stays_as_full_as_it_was), T(test_what_does_not_fit_is_left_out_and_told), T(test_idle_users_make_room), T(test_a_full_table_is_lenient),
        T(test_the_refusal_in_words), T(test_threads_share_a_bucket_to_the_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
