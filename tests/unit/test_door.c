/* The promises of server/door.h. */
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "proto/base/mem.h"
#include "server/door.h"

static const struct door_limits limits = {.connections_max = 9, .address_connections_max = 3, .address_handshakes_max = 2, .per_s = 20, .address_per_s = 2, .penalty_ns_max = 4 * NS_PER_S};
static struct door *door;
static uint64_t now_ns;

static int setup(void **state) {
    now_ns = 1000 * NS_PER_S;
    door = door_new(&limits);
    return door ? 0 : -1;
}
static int teardown(void **state) {
    door_free(door); /* checks that nobody is in */
    return 0;
}

static enum cut enter(const char *address, bool handshake, struct visitor **out) {
    struct sockaddr_storage peer = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&peer;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&peer;
    if (inet_pton(AF_INET, address, &in->sin_addr) == 1) in->sin_family = AF_INET;
    else assert_int_equal(inet_pton(AF_INET6, address, &in6->sin6_addr), 1), in6->sin6_family = AF_INET6;
    return door_enter(door, &peer, handshake, now_ns, out);
}

static void test_connections_of_an_address_are_counted(void **state) {
    struct visitor *v[3], *other;
    for (unsigned i = 0; i < 3; i++) assert_int_equal(enter("10.0.0.1", false, &v[i]), CUT_NONE);
    assert_int_equal(enter("10.0.0.1", false, &other), CUT_REFUSED_ADDRESS);
    assert_int_equal(enter("::ffff:10.0.0.1", false, &other), CUT_REFUSED_ADDRESS); /* the same, through an IPv6 socket */
    assert_int_equal(enter("10.0.0.2", false, &other), CUT_NONE);
    door_leave(door, v[0], now_ns);
    assert_int_equal(enter("10.0.0.1", false, &v[0]), CUT_NONE);
    for (unsigned i = 0; i < 3; i++) door_leave(door, v[i], now_ns);
    door_leave(door, other, now_ns);
}

static void test_connections_are_counted_in_all(void **state) {
    struct visitor *v[9], *other;
    char address[16];
    for (unsigned i = 0; i < 9; i++) {
        snprintf(address, sizeof address, "10.0.0.%u", i);
        assert_int_equal(enter(address, false, &v[i]), CUT_NONE);
    }
    assert_int_equal(enter("10.0.1.1", false, &other), CUT_REFUSED_CONNECTIONS);
    door_leave(door, v[0], now_ns);
    assert_int_equal(enter("10.0.1.1", false, &v[0]), CUT_NONE);
    for (unsigned i = 0; i < 9; i++) door_leave(door, v[i], now_ns);
}

static void test_an_ipv6_host_is_its_64(void **state) {
    struct visitor *v[3], *other;
    const char *const host[] = {"2001:db8::1", "2001:db8::2", "2001:db8::ffff:1:2:3"};
    for (unsigned i = 0; i < 3; i++) assert_int_equal(enter(host[i], false, &v[i]), CUT_NONE);
    assert_int_equal(enter("2001:db8::4", false, &other), CUT_REFUSED_ADDRESS);
    assert_int_equal(enter("2001:db8:0:1::4", false, &other), CUT_NONE);
    for (unsigned i = 0; i < 3; i++) door_leave(door, v[i], now_ns);
    door_leave(door, other, now_ns);
}

static void test_handshakes_of_an_address_are_counted_until_they_end(void **state) {
    struct visitor *a, *b, *c;
    assert_int_equal(enter("10.0.0.1", true, &a), CUT_NONE);
    assert_int_equal(enter("10.0.0.1", true, &b), CUT_NONE);
    assert_int_equal(enter("10.0.0.1", true, &c), CUT_REFUSED_ADDRESS_HANDSHAKES);
    door_handshake_over(door, a);
    assert_int_equal(enter("10.0.0.1", true, &c), CUT_NONE);
    door_handshake_over(door, b), door_handshake_over(door, c);
    door_leave(door, a, now_ns), door_leave(door, b, now_ns), door_leave(door, c, now_ns);
}

/* Comes and goes as often as it may at this moment. */
static unsigned come_and_go(const char *address, enum cut expected) {
    for (unsigned n = 0; n < 1000; n++) {
        struct visitor *v;
        enum cut why = enter(address, false, &v);
        if (why == CUT_NONE) {
            door_leave(door, v, now_ns);
            continue;
        }
        assert_int_equal(why, expected);
        return n;
    }
    return 1000;
}

static void test_rates_hold_five_seconds_worth(void **state) {
    assert_int_equal(come_and_go("10.0.0.1", CUT_REFUSED_ADDRESS_RATE), 10);
    now_ns += NS_PER_S / 2;
    assert_int_equal(come_and_go("10.0.0.1", CUT_REFUSED_ADDRESS_RATE), 1);
    now_ns += 3600 * NS_PER_S;
    assert_int_equal(come_and_go("10.0.0.1", CUT_REFUSED_ADDRESS_RATE), 10);
    unsigned sum = 10;
    char address[16];
    for (unsigned i = 2; i < 20; i++) {
        snprintf(address, sizeof address, "10.0.0.%u", i);
        unsigned n = come_and_go(address, sum + 10 <= 100 ? CUT_REFUSED_ADDRESS_RATE : CUT_REFUSED_RATE);
        assert_int_equal(n, sum + 10 <= 100 ? 10 : 100 - sum);
        sum += n;
    }
    assert_int_equal(sum, 100); /* of all */
}

static void test_addresses_are_forgotten(void **state) {
    char address[24];
    struct visitor *stays;
    assert_int_equal(enter("10.9.9.9", false, &stays), CUT_NONE);
    for (unsigned i = 0; i < 20000; i++) { /* one address after the other, as many as the rate of all lets in */
        snprintf(address, sizeof address, "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
        struct visitor *v;
        if (enter(address, false, &v) == CUT_NONE) door_leave(door, v, now_ns);
        assert_true(door_address_count(door) <= 5 * 20 + 100 + 3); /* what came in five seconds, and what was saved up for them at first */
        now_ns += 10 * NS_PER_MS;
    }
    door_leave(door, stays, now_ns);
}

static void test_no_memory_refuses(void **state) {
    struct visitor *v;
    mem_fail_nth(1);
    assert_int_equal(enter("10.0.0.1", false, &v), CUT_REFUSED_MEMORY);
    mem_fail_nth(1);
    assert_null(door_new(&limits));
    mem_fail_nth(0);
}

/* Comes, is cut off, goes; refused: how long after it the address is not let in. Time stands still for who is let in. */
static uint64_t struck(const char *address) {
    struct visitor *v;
    assert_int_equal(enter(address, false, &v), CUT_NONE);
    door_strike(door, v, now_ns);
    door_leave(door, v, now_ns);
    uint64_t begun_ns = now_ns;
    while (enter(address, false, &v) == CUT_REFUSED_PENALTY) now_ns += 50 * NS_PER_MS;
    door_leave(door, v, now_ns);
    uint64_t refused_ns = now_ns - begun_ns;
    now_ns += NS_PER_S; /* for the rate of the address */
    return refused_ns;
}

static void test_penalties_double_and_have_a_bound(void **state) {
    static const uint64_t expected_ms[] = {0, 0, 1000, 2000, 4000, 4000};
    for (size_t i = 0; i < ARRAY_LEN(expected_ms); i++) assert_int_equal(struck("10.0.0.1"), expected_ms[i] * NS_PER_MS);
    struct visitor *v;
    assert_int_equal(enter("10.0.0.2", false, &v), CUT_NONE); /* others are not touched */
    door_leave(door, v, now_ns);
    now_ns += 60 * NS_PER_S;
    assert_int_equal(struck("10.0.0.1"), 0);
    assert_int_equal(struck("10.0.0.1"), 0);
    assert_int_equal(struck("10.0.0.1"), NS_PER_S);
}

/* An attacker behind the address of honest ones: they go on, and get in. */
static void test_who_shares_an_address_is_not_locked_out(void **state) {
    struct visitor *honest, *v;
    assert_int_equal(enter("10.0.0.1", false, &honest), CUT_NONE);
    door_working(door, honest, true, now_ns);
    assert_int_equal(struck("10.0.0.1"), 0);
    assert_int_equal(struck("10.0.0.1"), 0); /* no more strikes than connections that worked and work */
    for (unsigned i = 0; i < 8; i++) assert_true(struck("10.0.0.1") <= NS_PER_S);
    assert_int_equal(enter("10.0.0.1", false, &v), CUT_NONE);
    door_strike(door, v, now_ns);
    door_leave(door, v, now_ns);
    assert_int_equal(enter("10.0.0.1", false, &v), CUT_NONE); /* once a second all the same */
    door_leave(door, v, now_ns);
    assert_int_equal(enter("10.0.0.1", false, &v), CUT_REFUSED_PENALTY);
    door_working(door, honest, false, now_ns);
    door_leave(door, honest, now_ns);
}

static void test_who_shared_an_address_lately_waits_for_less(void **state) {
    static const uint64_t expected_ms[] = {0, 0, 250, 500, 1000, 1000};
    struct visitor *honest;
    assert_int_equal(enter("10.0.0.1", false, &honest), CUT_NONE);
    door_working(door, honest, true, now_ns);
    door_working(door, honest, false, now_ns);
    door_leave(door, honest, now_ns);
    for (size_t i = 0; i < ARRAY_LEN(expected_ms); i++) assert_int_equal(struck("10.0.0.1"), expected_ms[i] * NS_PER_MS);
}

static void test_penalties_are_forgotten_and_bounded(void **state) {
    for (unsigned i = 0; i < 3; i++) (void)struck("10.0.0.1");
    assert_int_equal(door_address_count(door), 1);
    struct visitor *v;
    now_ns += 9 * NS_PER_S; /* twice the longest is over */
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(enter("10.0.0.2", false, &v), CUT_NONE);
        door_leave(door, v, now_ns);
        now_ns += NS_PER_S;
    }
    assert_int_equal(door_address_count(door), 1);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_connections_of_an_address_are_counted), T(test_connections_are_counted_in_all), T(test_an_ipv6_host_is_its_64), T(test_handshakes_of_an_address_are_counted_until_they_end),
        T(test_rates_hold_five_seconds_worth), T(test_addresses_are_forgotten), T(test_no_memory_refuses),
        cmocka_unit_test_setup_teardown(test_penalties_double_and_have_a_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_shares_an_address_is_not_locked_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_shared_an_address_lately_waits_for_less, setup, teardown),
        cmocka_unit_test_setup_teardown(test_penalties_are_forgotten_and_bounded, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
