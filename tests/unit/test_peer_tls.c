/* TLS between nodes (server/peer_tls.h): what flags and certificates must say, and keys that belong to one connection. */
#include "tests/lib/test.h"
#include "tests/lib/certs.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/peer_tls.h"

static struct config config;
static char error[512];

static void wear(const char *cert, const char *key, const char *ca) {
    config_defaults(&config);
    if (cert) snprintf(config.peer_tls_cert, sizeof config.peer_tls_cert, "%s/%s.pem", dir, cert);
    if (key) snprintf(config.peer_tls_key, sizeof config.peer_tls_key, "%s/%s.key", dir, key);
    if (ca) snprintf(config.peer_tls_ca, sizeof config.peer_tls_ca, "%s/%s.pem", dir, ca);
}
static struct tls_source *source_of(const char *cert) {
    struct tls_source *s;
    wear(cert, cert, "ca");
    assert_int_equal(peer_tls_open(&s, &config, error), STATUS_OK);
    assert_non_null(s);
    return s;
}

static void test_flags(void **state) {
    static const struct { const char *cert, *key, *ca, *why; } rows[] = {
        {"node-1", "node-1", NULL, "CA is missing"}, {"node-1", NULL, "ca", "key is missing"}, {NULL, "node-1", "ca", "certificate is missing"},
        {NULL, NULL, "ca", "certificate is missing"}, {"node-1", "node-2", "ca", "node-2.key"}, {"node-9", "node-1", "ca", "node-9.pem"}, {"node-1", "node-1", "ca-9", "ca-9.pem"}};
    struct tls_source *s = (struct tls_source *)&config;
    wear(NULL, NULL, NULL);
    assert_int_equal(peer_tls_open(&s, &config, error), STATUS_OK);
    assert_null(s); /* cleartext */
    assert_int_equal(peer_tls_open(NULL, &config, error), STATUS_OK);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        wear(rows[i].cert, rows[i].key, rows[i].ca);
        assert_int_equal(peer_tls_open(&s, &config, error), STATUS_FIELD_INVALID);
        if (!strstr(error, rows[i].why)) fail_msg("%s, expected %s", error, rows[i].why);
        assert_null(s);
        assert_int_equal(peer_tls_open(NULL, &config, error), STATUS_FIELD_INVALID); /* of a node alone */
        assert_non_null(strstr(error, "go with --peers"));
    }
}

static bool on_plain(void *owner, struct slice plain) { return true; }

/* A handshake in memory; whether both ends have taken the other. */
static bool shake(struct tls *dials, struct tls *accepts) {
    struct buf b = {0};
    bool alive = tls_feed(dials, (struct slice){0}, on_plain, NULL);
    for (unsigned i = 0; alive && i < 4; i++) {
        b.len = 0;
        alive = tls_write(i % 2 ? accepts : dials, (struct slice){0}, &b) && tls_feed(i % 2 ? dials : accepts, buf_slice(&b), on_plain, NULL);
    }
    buf_fini(&b);
    return alive && tls_established(dials) && tls_established(accepts);
}

static void test_a_certificate_is_one_nodes(void **state) {
    struct tls_source *one = source_of("node-1"), *two = source_of("node-2");
    struct tls *dials = peer_tls_new(one, 2), *accepts = peer_tls_new(two, 0);
    assert_true(shake(dials, accepts));
    assert_true(peer_tls_is(accepts, 1));
    assert_true(peer_tls_is(dials, 2));
    const uint64_t others[] = {0, 2, 3, 10, 11, UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_LEN(others); i++) assert_false(peer_tls_is(accepts, others[i]));
    tls_free(dials), tls_free(accepts);
    dials = peer_tls_new(one, 3), accepts = peer_tls_new(two, 0); /* node 2 is where node 3 should be */
    assert_false(shake(dials, accepts));
    assert_non_null(strstr(tls_error(dials), "hostname mismatch"));
    tls_free(dials), tls_free(accepts);
    dials = peer_tls_new(one, LINK_TO_ANY), accepts = peer_tls_new(two, 0); /* who joins doesn't know whom it asks, and is told afterwards */
    assert_true(shake(dials, accepts));
    assert_true(peer_tls_is(dials, 2));
    assert_false(peer_tls_is(dials, 3));
    tls_free(dials), tls_free(accepts);
    struct tls_source *stranger = source_of("other-node-3");
    dials = peer_tls_new(one, LINK_TO_ANY), accepts = peer_tls_new(stranger, 0);
    assert_false(shake(dials, accepts));
    tls_free(dials), tls_free(accepts);
    tls_source_free(one), tls_source_free(two), tls_source_free(stranger);
}

static void test_a_key_is_of_one_connection_and_of_one_cluster(void **state) {
    struct tls_source *one = source_of("node-1"), *two = source_of("node-2");
    uint8_t cluster[LINK_PROOF_BYTES] = {1}, other[LINK_PROOF_BYTES] = {2}, keys[4][LINK_PROOF_BYTES];
    struct tls *dials[2], *accepts[2];
    for (unsigned i = 0; i < 2; i++) {
        dials[i] = peer_tls_new(one, 2), accepts[i] = peer_tls_new(two, 0);
        assert_true(shake(dials[i], accepts[i]));
    }
    assert_true(peer_tls_key(dials[0], cluster, keys[0]));
    assert_true(peer_tls_key(accepts[0], cluster, keys[1]));
    assert_true(peer_tls_key(accepts[1], cluster, keys[2]));
    assert_true(peer_tls_key(accepts[0], other, keys[3]));
    assert_memory_equal(keys[0], keys[1], LINK_PROOF_BYTES);
    assert_memory_not_equal(keys[0], keys[2], LINK_PROOF_BYTES);
    assert_memory_not_equal(keys[0], keys[3], LINK_PROOF_BYTES);
    assert_memory_not_equal(keys[0], cluster, LINK_PROOF_BYTES);
    for (unsigned i = 0; i < 2; i++) tls_free(dials[i]), tls_free(accepts[i]);
    tls_source_free(one), tls_source_free(two);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags), cmocka_unit_test(test_a_certificate_is_one_nodes), cmocka_unit_test(test_a_key_is_of_one_connection_and_of_one_cluster),
    };
    return cmocka_run_group_tests(tests, make_certs, remove_certs);
}
