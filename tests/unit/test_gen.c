/* The load generator's own parts: what it measures with has to be right before anything is measured. */
#include "tests/lib/test.h"

#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/gen/drive.h"
#include "bench/gen/order_text.h"
#include "bench/gen/pace.h"
#include "bench/gen/zipf.h"

/* ---- histogram */

static void test_a_latency_is_told_within_two_per_cent(void **state) {
    static struct histogram h;
    for (uint64_t ns = 1; ns < 1ull << 50; ns = ns * 3 + 1) {
        assert_true(bucket_end(bucket_of(ns)) >= ns);
        assert_true((double)bucket_end(bucket_of(ns)) <= (double)ns * 1.016 + 1);
        assert_true(bucket_of(ns + 1) >= bucket_of(ns));
    }
    assert_true(bucket_of(UINT64_MAX) < BUCKETS);
    memset(&h, 0, sizeof h);
    for (uint64_t i = 1; i <= 1000; i++) histogram_add(&h, i * NS_PER_MS);
    assert_true(fabs(histogram_ms(&h, 0.5) - 500) < 10);
    assert_true(fabs(histogram_ms(&h, 0.99) - 990) < 20);
    assert_true(fabs(histogram_ms(&h, 1) - 1000) < 1e-9);
    assert_int_equal(h.count, 1000);
}

/* ---- schedule */

static void test_calls_are_due_at_fixed_times_without_drift(void **state) {
    struct pace p;
    pace_init(&p, 3, 1000); /* a third of a second is no whole number of nanoseconds */
    for (p.taken = 0; p.taken < 3000000; p.taken++)
        if (p.taken % 3 == 0) assert_in_range(pace_due_ns(&p), 1000 + p.taken / 3 * NS_PER_S - 2, 1000 + p.taken / 3 * NS_PER_S + 2);
}

static void test_what_was_due_and_never_taken_is_counted(void **state) {
    struct pace p;
    pace_init(&p, 1000, 0);
    assert_int_equal(pace_behind(&p, 0), 0);
    assert_int_equal(pace_behind(&p, 1), 1); /* the first is due at once */
    assert_int_equal(pace_behind(&p, NS_PER_S), 1000);
    p.taken = 990;
    assert_int_equal(pace_behind(&p, NS_PER_S), 10);
    p.taken = 1200;
    assert_int_equal(pace_behind(&p, NS_PER_S), 0);
    pace_init(&p, 0, 5);
    assert_int_equal(pace_due_ns(&p), 5);
    assert_int_equal(pace_behind(&p, NS_PER_S), 0); /* a closed loop owes nothing */
}

/* ---- users */

static void shares_check(uint64_t n, double exponent) {
    enum { DRAWS = 200000, RANKS = 8 };
    struct zipf z;
    uint64_t seed = 7, seen[RANKS] = {0};
    double sum = 0;
    zipf_init(&z, n, exponent);
    for (uint64_t k = 1; k <= n; k++) sum += pow((double)k, -exponent);
    for (unsigned i = 0; i < DRAWS; i++) {
        uint64_t k = zipf_draw(&z, &seed);
        assert_true(k < n);
        if (k < RANKS) seen[k]++;
    }
    for (unsigned k = 0; k < RANKS && k < n; k++) {
        double expected = DRAWS * pow((double)k + 1, -exponent) / sum;
        assert_true(fabs((double)seen[k] - expected) < 6 * sqrt(expected) + 1);
    }
}

static void test_ranks_follow_zipf(void **state) {
    shares_check(1000, 0.99);
    shares_check(1000, 1); /* where the integral is a logarithm */
    shares_check(100000, 0.5);
    shares_check(50, 2.5);
    shares_check(10, 0);
    shares_check(1, 1);
}

/* ---- content */

static void test_an_order_follows_from_its_draw(void **state) {
    struct order_text a, b;
    char recipient[192];
    size_t bytes = 0;
    for (uint64_t draw = 1; draw <= 1000; draw++) {
        memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
        order_text_make(&a, draw), order_text_make(&b, draw);
        assert_memory_equal(&a, &b, sizeof a);
        order_text_make(&b, draw + 1);
        assert_memory_not_equal(&a, &b, sizeof a);
        assert_int_equal(a.payable, a.items_total + a.freight);
        int64_t sum = 0;
        for (unsigned i = 0; i < ORDER_ITEMS; i++) sum += a.items[i].price * a.items[i].quantity;
        assert_int_equal(a.items_total, sum);
        order_text_recipient(&a, recipient);
        bytes += strlen(recipient);
    }
    assert_true(bytes / 1000 > 100);
    assert_true(bytes / 1000 < 130);
}

static void test_mixes(void **state) {
    unsigned mix[WORK_COUNT];
    assert_true(mix_read("mixed", mix));
    assert_int_equal(mix[WORK_CREATE], 20);
    assert_int_equal(mix[WORK_TRANSITION], 30);
    assert_int_equal(mix[WORK_GET], 40);
    assert_int_equal(mix[WORK_LIST], 10);
    assert_true(mix_read("get", mix));
    assert_int_equal(mix[WORK_GET], 100);
    assert_true(mix_read("list=1,create=99", mix));
    assert_int_equal(mix[WORK_CREATE], 99);
    static const char *const wrong[] = {"", "gets", "get=", "get=99", "get=101", "get=50,get=50", "get=50;list=50", "get=50,", "=100", "create=-1,get=101"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) assert_false(mix_read(wrong[i], mix));
}

static const struct drive_options least = {.connections = 2, .inflight = 2, .seconds = 0.3, .users = 10, .mix = {100}, .timeout_ms = 2000, .seed = 1};

static void test_options_out_of_bounds_are_named(void **state) {
    struct drive_options o = least;
    assert_string_equal(drive_check(&o), "");
#define WRONG(field, value, word) o = least, o.field = value, assert_non_null(strstr(drive_check(&o), word))
    WRONG(connections, 0, "connections");
    WRONG(connections, UINT64_MAX, "connections");
    WRONG(inflight, 100000, "in flight");
    WRONG(seconds, 0, "seconds");
    WRONG(warm_seconds, -1, "warm-up");
    WRONG(rate, 1e9, "rate");
    WRONG(users, 0, "users");
    WRONG(zipf, 9, "zipf");
    WRONG(population, 199, "population");
    WRONG(fresh, UINT64_MAX, "fresh");
    WRONG(timeout_ms, 0, "timeout");
    WRONG(mix[WORK_GET], 1, "mix");
    WRONG(fill, true, "fill");
#undef WRONG
    o = least, o.mix[WORK_CREATE] = 0, o.mix[WORK_GET] = 100;
    assert_non_null(strstr(drive_check(&o), "population"));
}

/* ---- a run, against a driver that answers at once, or stalls */

static struct {
    struct list waiting;
    uint64_t stall_from_ns, stall_ns; /* nothing is answered in that time after the first call */
    uint64_t first_ns, calls[WORK_COUNT + 1], refuse;
    int64_t next_id;
    unsigned steps_seen[DRIVE_STEPS];
} fake;

static uint64_t mono_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}
static void fake_start(struct operation *op) {
    if (!fake.first_ns) fake.first_ns = mono_ns();
    fake.calls[op->work]++;
    if (op->work == WORK_TRANSITION) fake.steps_seen[op->step]++;
    list_push_back(&fake.waiting, &op->node);
}
static void fake_turn(uint64_t wait_ns) {
    uint64_t since = mono_ns() - fake.first_ns;
    if (list_empty(&fake.waiting) || (since >= fake.stall_from_ns && since < fake.stall_from_ns + fake.stall_ns)) {
        nanosleep(&(struct timespec){.tv_nsec = (long)MIN_OF(wait_ns, 200000ull)}, NULL);
        return;
    }
    struct operation *op = list_entry(list_pop_front(&fake.waiting), struct operation, node);
    if (op->work == WORK_GATHER)
        for (unsigned i = 0; i < 5; i++) drive_known(fake.next_id++, i); /* one of five has no step left */
    if (fake.refuse) fake.refuse--, drive_done(op, "busy", 0);
    else drive_done(op, NULL, op->work == WORK_CREATE ? fake.next_id++ : 0);
}
static const struct driver fake_driver = {.name = "fake", .used_up = true, .start = fake_start, .turn = fake_turn};
static struct drive_report report;

static int fake_reset(void **state) {
    memset(&fake, 0, sizeof fake);
    list_init(&fake.waiting);
    fake.next_id = 1;
    return 0;
}

static void test_a_stall_is_seen_by_every_call_that_was_due_in_it(void **state) {
    struct drive_options o = least;
    o.connections = o.inflight = 1, o.rate = 1000, o.seconds = 0.4;
    fake.stall_from_ns = 100 * NS_PER_MS, fake.stall_ns = 200 * NS_PER_MS;
    assert_true(drive_run(&fake_driver, &o, &report));
    assert_int_equal(report.failed, 0);
    assert_int_equal(report.latency.count, 400); /* every call that was due, sent or not */
    uint64_t slow = 0;
    for (unsigned b = bucket_of(20 * NS_PER_MS); b < BUCKETS; b++) slow += report.latency.buckets[b];
    assert_true(slow >= 170); /* 180 of the stall waited for more than 20 ms, though one alone was in flight */
    assert_true(report.latency.max >= 190 * NS_PER_MS);
}

static void test_a_closed_loop_counts_what_ends_in_its_time(void **state) {
    struct drive_options o = least;
    o.warm_seconds = 0.05;
    assert_true(drive_run(&fake_driver, &o, &report));
    assert_true(report.done > 0);
    assert_true(report.done < fake.calls[WORK_CREATE]); /* without those of the warm-up */
    assert_int_equal(report.done_by[WORK_CREATE], report.done);
    assert_true(fabs(report.seconds - 0.3) < 0.25);
    assert_true(report.rate > 0);
    assert_false(report.used_up);
}

static void test_orders_are_gathered_prepared_and_used_up(void **state) {
    struct drive_options o = least;
    o.mix[WORK_CREATE] = 0, o.mix[WORK_TRANSITION] = 100;
    o.population = 400, o.fresh = 20, o.seconds = 60;
    fake.refuse = 1; /* what is needed to begin is asked for again */
    assert_true(drive_run(&fake_driver, &o, &report));
    assert_int_equal(fake.calls[WORK_GATHER], 3); /* two users */
    assert_int_equal(report.prepared, 20 - 12);    /* the refused one told what it had, too: 3 x 4 that have steps left */
    assert_int_equal(fake.calls[WORK_CREATE], 8);
    assert_true(report.used_up);
    assert_true(report.seconds < 50);
    /* 8 + 3 orders begin at the first step, 3 more at each of the others; all go to the last. */
    for (unsigned i = 0; i < DRIVE_STEPS; i++) assert_int_equal(fake.steps_seen[i], 8 + 3 * (i + 1));
    assert_int_equal(report.failed, 0);
}

static void test_a_refusal_is_counted_under_its_reason(void **state) {
    struct drive_options o = least;
    fake.refuse = 3;
    assert_true(drive_run(&fake_driver, &o, &report));
    assert_int_equal(report.failed, 3);
    assert_int_equal(report.reason_count, 1);
    assert_string_equal(report.reasons[0].text, "busy");
    assert_int_equal(report.reasons[0].count, 3);
}

static void test_a_population_is_filled_whatever_is_refused(void **state) {
    struct drive_options o = least;
    o.fill = true, o.population = 400;
    fake.refuse = 2;
    assert_true(drive_run(&fake_driver, &o, &report));
    assert_int_equal(report.done, 400);
    assert_int_equal(fake.calls[WORK_CREATE], 402);
}

static void test_cpu_is_counted(void **state) {
    struct usage a, b;
    usage_take(&a, getpid());
    for (uint64_t until = mono_ns() + 10 * NS_PER_S, x = 1; a.own_s + 0.05 > b.own_s && mono_ns() < until; draw_next(&x)) usage_take(&b, getpid());
    assert_true(b.own_s > a.own_s);
    assert_true(b.server_s >= a.server_s); /* the same process by way of /proc */
    assert_true(b.server_s > 0);
    assert_true(b.machine_s > 0);
    usage_take(&b, 0);
    assert_true(b.server_s <= 0);
}

/* Takes 0.15 s of CPU, says so, and ends when it is told. */
static void burn(int says, int told) {
    struct rusage own;
    char c = 0;
    do check(getrusage(RUSAGE_SELF, &own) == 0);
    while (own.ru_utime.tv_sec + own.ru_stime.tv_sec == 0 && own.ru_utime.tv_usec + own.ru_stime.tv_usec < 150000);
    bool ok = write(says, &c, 1) == 1 && read(told, &c, 1) == 1;
    _exit(!ok);
}

/* As Redis rewrites its file in a child, and PostgreSQL serves each connection in one. */
static void test_children_count_as_their_servers_while_they_live_and_after(void **state) {
    int says[2], told[2], status;
    char c = 0;
    struct usage before, during, after;
    assert_int_equal(pipe(says), 0);
    assert_int_equal(pipe(told), 0);
    usage_take(&before, getpid());
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) burn(says[1], told[0]);
    assert_int_equal(read(says[0], &c, 1), 1);
    usage_take(&during, getpid());
    assert_true(during.server_s - before.server_s > 0.1);
    assert_int_equal(write(told[1], &c, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    usage_take(&after, getpid());
    assert_true(after.server_s - before.server_s > 0.1);
    assert_true(after.machine_s - before.machine_s > 0.1);
    for (unsigned i = 0; i < 2; i++) close(says[i]), close(told[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_latency_is_told_within_two_per_cent),
        cmocka_unit_test(test_calls_are_due_at_fixed_times_without_drift),
        cmocka_unit_test(test_what_was_due_and_never_taken_is_counted),
        cmocka_unit_test(test_ranks_follow_zipf),
        cmocka_unit_test(test_an_order_follows_from_its_draw),
        cmocka_unit_test(test_mixes),
        cmocka_unit_test(test_options_out_of_bounds_are_named),
        cmocka_unit_test_setup(test_a_stall_is_seen_by_every_call_that_was_due_in_it, fake_reset),
        cmocka_unit_test_setup(test_a_closed_loop_counts_what_ends_in_its_time, fake_reset),
        cmocka_unit_test_setup(test_orders_are_gathered_prepared_and_used_up, fake_reset),
        cmocka_unit_test_setup(test_a_refusal_is_counted_under_its_reason, fake_reset),
        cmocka_unit_test_setup(test_a_population_is_filled_whatever_is_refused, fake_reset),
        cmocka_unit_test(test_cpu_is_counted),
        cmocka_unit_test(test_children_count_as_their_servers_while_they_live_and_after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
