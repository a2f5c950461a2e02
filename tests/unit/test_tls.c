/* The promises of proto/tls.h: a client and a server in one memory. Wrong peers are made with OpenSSL itself. */
#include "tests/lib/test.h"
#include "tests/lib/certs.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto/base/mem.h"
#include "proto/tls.h"

static char error[256];

static const char *path(const char *name) {
    static char paths[8][128];
    static unsigned at;
    char *p = paths[at++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", dir, name);
    return p;
}

static void copy(const char *from, const char *to) {
    char command[512];
    snprintf(command, sizeof command, "cp %s %s", path(from), path(to));
    assert_int_equal(system(command), 0);
}

static struct tls_source *server_source(const char *ca, bool require) {
    const struct tls_files files = {path("server.pem"), path("server.key"), ca ? path(ca) : NULL, require};
    struct tls_source *s = tls_source_new_server(&files, error);
    if (!s) print_error("%s\n", error);
    assert_non_null(s);
    return s;
}
static struct tls_source *client_source(const char *ca, const char *cert) {
    char key[64] = "";
    if (cert) snprintf(key, sizeof key, "%.*s.key", (int)strlen(cert) - 4, cert);
    const struct tls_files files = {cert ? path(cert) : NULL, cert ? path(key) : NULL, path(ca), false};
    struct tls_source *s = tls_source_new_client(&files, error);
    if (!s) print_error("%s\n", error);
    assert_non_null(s);
    return s;
}

/* ---- two ends */
struct end {
    struct tls *tls;
    bool alive;
    uint8_t got[1 << 20];
    size_t got_len;
};
static struct end client, server;

static bool on_plain(void *owner, struct slice plain) {
    struct end *e = owner;
    assert_true(e->got_len + plain.len <= sizeof e->got);
    memcpy(e->got + e->got_len, plain.data, plain.len);
    e->got_len += plain.len;
    return true;
}
static void feed(struct end *e, struct slice bytes, size_t step) {
    for (size_t at = 0, n; e->alive && at < bytes.len; at += n) {
        n = step ? MIN_OF(step, bytes.len - at) : bytes.len - at;
        e->alive = tls_feed(e->tls, slice_of(bytes.data + at, n), on_plain, e);
    }
}
/* What one end has to say goes to the other, `step` bytes at a time (0: all). */
static bool pass(struct end *from, struct end *to, size_t step) {
    uint8_t wire[1000];
    bool any = false;
    while (tls_wants_output(from->tls)) {
        struct writer w = writer_of(wire, sizeof wire);
        tls_output(from->tls, &w);
        feed(to, writer_slice(&w), step);
        any = true;
    }
    return any;
}
static void talk(size_t step) {
    while (pass(&client, &server, step) || pass(&server, &client, step)) {}
}
static void ends_open(struct tls_source *s, struct tls_source *c, const char *name) {
    memset(&client, 0, sizeof client), memset(&server, 0, sizeof server);
    server.tls = tls_new(s, NULL);
    client.tls = tls_new(c, name);
    assert_non_null(server.tls);
    assert_non_null(client.tls);
    server.alive = true;
    client.alive = tls_feed(client.tls, (struct slice){0}, on_plain, &client);
    assert_true(tls_wants_output(client.tls));
}
static void ends_close(struct tls_source *s, struct tls_source *c) {
    tls_free(client.tls), tls_free(server.tls);
    tls_source_free(s), tls_source_free(c);
}
static void say(struct end *from, struct end *to, struct slice plain, size_t step) {
    static uint8_t wire[1 << 20];
    struct writer w = writer_of(wire, sizeof wire);
    assert_true(tls_encrypt(from->tls, plain, &w));
    assert_true(w.len > plain.len || !plain.len);
    assert_true(w.len <= tls_room(plain.len));
    feed(to, writer_slice(&w), step);
}
static bool both_established(void) { return tls_established(client.tls) && tls_established(server.tls); }

/* ---- tests */
static void test_handshake_and_bytes_both_ways(void **state) {
    static uint8_t big[200000];
    for (size_t step = 0; step <= 7; step += 7) {
        struct tls_source *s = server_source(NULL, false), *c = client_source("ca.pem", NULL);
        ends_open(s, c, "localhost");
        talk(step);
        assert_true(both_established());
        assert_true(client.alive && server.alive);
        assert_string_equal(tls_peer_subject(client.tls), "CN=server-1");
        assert_string_equal(tls_peer_subject(server.tls), "");
        say(&client, &server, SLICE_LIT("hello"), step);
        assert_memory_equal(server.got, "hello", 5);
        for (size_t i = 0; i < sizeof big; i++) big[i] = (uint8_t)(i * 31 >> 3);
        say(&server, &client, slice_of(big, sizeof big), step ? 1001 : 0);
        assert_int_equal(client.got_len, sizeof big);
        assert_memory_equal(client.got, big, sizeof big);
        say(&server, &client, (struct slice){0}, 0);
        tls_close(client.tls), tls_close(client.tls);
        talk(step);
        assert_false(server.alive);
        assert_null(tls_error(server.tls)); /* in order */
        assert_true(tls_memory_bytes(server.tls) < 64 * KIB);
        ends_close(s, c);
    }
}

static void test_byte_by_byte(void **state) {
    struct tls_source *s = server_source("ca.pem", true), *c = client_source("ca.pem", "client.pem");
    ends_open(s, c, "127.0.0.1");
    talk(1);
    assert_true(both_established());
    assert_string_equal(tls_peer_subject(server.tls), "CN=app-1,O=shop");
    say(&client, &server, SLICE_LIT("a byte at a time"), 1);
    assert_int_equal(server.got_len, 16);
    ends_close(s, c);
}

static void refuse(struct tls_source *s, struct tls_source *c, const char *name, bool at_server, const char *why) {
    ends_open(s, c, name);
    talk(0);
    assert_false(server.alive);
    const char *text = tls_error(at_server ? server.tls : client.tls);
    assert_non_null(text);
    if (!strstr(text, why)) fail_msg("%s, expected %s", text, why);
    assert_false(tls_feed(server.tls, SLICE_LIT("x"), on_plain, &server));
    ends_close(s, c);
}

static void test_certificates_are_checked_both_ways(void **state) {
    refuse(server_source(NULL, false), client_source("other-ca.pem", NULL), "localhost", false, "certificate");
    refuse(server_source(NULL, false), client_source("ca.pem", NULL), "elsewhere", false, "hostname mismatch");
    refuse(server_source(NULL, false), client_source("ca.pem", NULL), "127.0.0.2", false, "IP address mismatch");
    refuse(server_source("ca.pem", true), client_source("ca.pem", NULL), "localhost", true, "peer did not return a certificate");
    refuse(server_source("ca.pem", true), client_source("ca.pem", "other.pem"), "localhost", true, "certificate");
    refuse(server_source("ca.pem", false), client_source("ca.pem", "other.pem"), "localhost", true, "certificate"); /* none is fine, a wrong one is not */
    struct tls_source *s = server_source("ca.pem", false), *c = client_source("ca.pem", NULL);
    ends_open(s, c, "localhost");
    talk(0);
    assert_true(both_established());
    assert_string_equal(tls_peer_subject(server.tls), "");
    ends_close(s, c);
}

/* A client of OpenSSL's own against our server; returns the alert that it got, 0: established. */
static int last_alert;
static void on_info_cb(const SSL *ssl, int where, int value) {
    if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && value >> 8 == 2) last_alert = value & 255;
}
struct stranger {
    SSL_CTX *ctx;
    SSL *ssl;
};
static struct stranger stranger_new(int version_min, int version_max) {
    struct stranger x = {SSL_CTX_new(TLS_client_method()), NULL};
    SSL_CTX_set_security_level(x.ctx, 0);
    SSL_CTX_set_min_proto_version(x.ctx, version_min);
    SSL_CTX_set_max_proto_version(x.ctx, version_max);
    SSL_CTX_set_cipher_list(x.ctx, "ALL:@SECLEVEL=0");
    x.ssl = SSL_new(x.ctx);
    SSL_set_bio(x.ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    BIO_set_mem_eof_return(SSL_get_rbio(x.ssl), -1);
    SSL_set_info_callback(x.ssl, on_info_cb);
    SSL_set_connect_state(x.ssl);
    last_alert = 0;
    return x;
}
static void stranger_free(struct stranger *x) {
    SSL_free(x->ssl);
    SSL_CTX_free(x->ctx);
    ERR_clear_error();
}
static void stranger_talk(struct stranger *x, struct tls_source *s) {
    uint8_t wire[20000];
    if (!server.tls) {
        memset(&server, 0, sizeof server);
        server.tls = tls_new(s, NULL), server.alive = true;
    }
    for (bool more = true; more;) {
        more = false;
        char c;
        if (SSL_is_init_finished(x->ssl)) (void)SSL_read(x->ssl, &c, 1);
        else (void)SSL_do_handshake(x->ssl);
        for (int n; (n = BIO_read(SSL_get_wbio(x->ssl), wire, sizeof wire)) > 0; more = true) feed(&server, slice_of(wire, (size_t)n), 0);
        while (tls_wants_output(server.tls)) {
            struct writer w = writer_of(wire, sizeof wire);
            tls_output(server.tls, &w);
            BIO_write(SSL_get_rbio(x->ssl), wire, (int)w.len);
            more = true;
        }
    }
    ERR_clear_error();
}
static void server_end(struct tls_source *s) {
    tls_free(server.tls);
    server.tls = NULL;
    tls_source_free(s);
}

static void test_alpn_is_h2_or_nothing(void **state) {
    static const struct { const uint8_t *wire; unsigned len; int alert; } rows[] = {
        {(const uint8_t *)"\2h2", 3, 0}, {(const uint8_t *)"\10http/1.1\2h2", 12, 0}, {(const uint8_t *)"\10http/1.1", 9, 120}, {NULL, 0, 120}};
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            server.tls = NULL;
            struct tls_source *s = server_source(NULL, false);
            struct stranger x = stranger_new(version, version);
            if (rows[i].len) SSL_set_alpn_protos(x.ssl, rows[i].wire, rows[i].len);
            stranger_talk(&x, s);
            assert_int_equal(last_alert, rows[i].alert);
            assert_int_equal(tls_established(server.tls), rows[i].alert == 0);
            if (rows[i].alert == 0) assert_int_equal(SSL_version(x.ssl), version);
            assert_int_equal(server.alive, rows[i].alert == 0);
            stranger_free(&x);
            server_end(s);
        }
}

static void test_old_versions_and_weak_suites_are_refused(void **state) {
    server.tls = NULL;
    struct tls_source *s = server_source(NULL, false);
    struct stranger x = stranger_new(TLS1_VERSION, TLS1_1_VERSION);
    SSL_set_alpn_protos(x.ssl, (const uint8_t *)"\2h2", 3);
    stranger_talk(&x, s);
    assert_int_equal(last_alert, SSL_AD_PROTOCOL_VERSION);
    assert_false(server.alive);
    stranger_free(&x);
    server_end(s);
    static const char *const weak[] = {"ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256"};
    for (size_t i = 0; i < ARRAY_LEN(weak); i++) {
        s = server_source(NULL, false);
        x = stranger_new(TLS1_2_VERSION, TLS1_2_VERSION);
        SSL_set_cipher_list(x.ssl, weak[i]);
        SSL_set_alpn_protos(x.ssl, (const uint8_t *)"\2h2", 3);
        stranger_talk(&x, s);
        assert_int_equal(last_alert, SSL_AD_HANDSHAKE_FAILURE);
        stranger_free(&x);
        server_end(s);
    }
}

static void test_no_renegotiation_and_no_tickets(void **state) {
    server.tls = NULL;
    struct tls_source *s = server_source(NULL, false);
    struct stranger x = stranger_new(TLS1_2_VERSION, TLS1_2_VERSION);
    SSL_set_alpn_protos(x.ssl, (const uint8_t *)"\2h2", 3);
    stranger_talk(&x, s);
    assert_true(tls_established(server.tls));
    assert_false(SSL_SESSION_has_ticket(SSL_get_session(x.ssl)));
    assert_int_equal(SSL_renegotiate(x.ssl), 1);
    (void)SSL_do_handshake(x.ssl);
    stranger_talk(&x, s);
    assert_false(SSL_is_init_finished(x.ssl) && server.alive && last_alert == 0 && SSL_num_renegotiations(x.ssl) > 0);
    assert_int_equal(server.got_len, 0);
    stranger_free(&x);
    server_end(s);
    s = server_source(NULL, false);
    x = stranger_new(TLS1_3_VERSION, TLS1_3_VERSION);
    SSL_set_alpn_protos(x.ssl, (const uint8_t *)"\2h2", 3);
    stranger_talk(&x, s);
    assert_true(tls_established(server.tls));
    assert_false(SSL_SESSION_is_resumable(SSL_get_session(x.ssl)));
    assert_int_equal(SSL_SESSION_get_max_early_data(SSL_get_session(x.ssl)), 0);
    stranger_free(&x);
    server_end(s);
}

static void test_key_updates_work_and_are_bounded(void **state) {
    server.tls = NULL;
    struct tls_source *s = server_source(NULL, false);
    struct stranger x = stranger_new(TLS1_3_VERSION, TLS1_3_VERSION);
    SSL_set_alpn_protos(x.ssl, (const uint8_t *)"\2h2", 3);
    stranger_talk(&x, s);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(SSL_key_update(x.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_int_equal(SSL_write(x.ssl, "hi", 2), 2);
        stranger_talk(&x, s);
    }
    assert_true(server.alive);
    assert_int_equal(server.got_len, 6);
    /* A peer that asks and never reads what we answer. */
    for (unsigned i = 0; i < 20000 && server.alive; i++) {
        uint8_t wire[200];
        if (SSL_key_update(x.ssl, SSL_KEY_UPDATE_REQUESTED) != 1 || SSL_do_handshake(x.ssl) != 1) break;
        int n = BIO_read(SSL_get_wbio(x.ssl), wire, sizeof wire);
        if (n > 0) feed(&server, slice_of(wire, (size_t)n), 0);
        assert_true(tls_memory_bytes(server.tls) < 200 * KIB);
    }
    stranger_free(&x);
    server_end(s);
}

static void test_garbage_ends_it_with_an_alert(void **state) {
    struct tls_source *s = server_source(NULL, false);
    static const char *const texts[] = {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff\x01\x02\x03\x04", "\x80\x2e\x01\x00\x02"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        memset(&server, 0, sizeof server);
        server.tls = tls_new(s, NULL), server.alive = true;
        uint8_t junk[4096] = {0};
        memcpy(junk, texts[i], strlen(texts[i]));
        feed(&server, slice_of(junk, sizeof junk), 0);
        assert_false(server.alive);
        assert_non_null(tls_error(server.tls));
        tls_free(server.tls);
    }
    /* Cut and flipped anywhere: never more than an error. */
    struct tls_source *c = client_source("ca.pem", NULL);
    for (unsigned i = 0; i < 300; i++) {
        ends_open(s, c, "localhost");
        uint8_t wire[2000];
        struct writer w = writer_of(wire, sizeof wire);
        tls_output(client.tls, &w);
        wire[(i * 7919) % w.len] ^= (uint8_t)(1 << i % 8);
        feed(&server, writer_slice(&w), i % 3 * 5);
        talk(0);
        tls_free(client.tls), tls_free(server.tls);
    }
    ends_open(s, c, "localhost");
    talk(0);
    feed(&server, SLICE_LIT("\x17\x03\x03\x00\x20................................"), 0);
    assert_false(server.alive); /* a record that was not made with the key */
    ends_close(s, c);
}

static void test_files_that_are_wrong(void **state) {
    static const struct { const char *cert, *key, *ca, *says; } rows[] = {
        {"nothing.pem", "server.key", NULL, "nothing.pem"}, {"server.pem", "nothing.key", NULL, "nothing.key"}, {"server.pem", "client.key", NULL, "key"},
        {"server.pem", "server.key", "nothing.pem", "nothing.pem"}, {"server.key", "server.key", NULL, "server.key"}, {"server.pem", NULL, NULL, "missing"},
        {NULL, "server.key", NULL, "missing"}, {NULL, NULL, NULL, "missing"}, {"server.pem", "server.key", "server.key", "server.key"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct tls_files files = {rows[i].cert ? path(rows[i].cert) : "", rows[i].key ? path(rows[i].key) : "", rows[i].ca ? path(rows[i].ca) : "", true};
        assert_null(tls_source_new_server(&files, error));
        if (!strstr(error, rows[i].says)) fail_msg("%zu: %s", i, error);
    }
    const struct tls_files client_files = {path("client.pem"), NULL, path("ca.pem"), false};
    assert_null(tls_source_new_client(&client_files, error));
}

static void test_reload(void **state) {
    copy("server.pem", "live.pem"), copy("server.key", "live.key");
    const struct tls_files files = {path("live.pem"), path("live.key"), NULL, false};
    struct tls_source *s = tls_source_new_server(&files, error), *c = client_source("ca.pem", NULL);
    assert_non_null(s);
    char text[256];
    tls_source_describe(s, text);
    assert_non_null(strstr(text, "subject=CN=server-1 not_after=20"));
    ends_open(s, c, "localhost");
    talk(0);
    struct end old_client = client, old_server = server;
    copy("server2.pem", "live.pem");
    assert_false(tls_source_reload(s, error)); /* the key does not belong to it yet */
    ends_open(s, c, "localhost");
    talk(0);
    assert_string_equal(tls_peer_subject(client.tls), "CN=server-1");
    tls_free(client.tls), tls_free(server.tls);
    copy("server2.key", "live.key");
    assert_true(tls_source_reload(s, error));
    ends_open(s, c, "localhost");
    talk(0);
    assert_string_equal(tls_peer_subject(client.tls), "CN=server-2");
    tls_free(client.tls), tls_free(server.tls);
    client = old_client, server = old_server; /* the old connection goes on */
    say(&client, &server, SLICE_LIT("still here"), 0);
    assert_int_equal(server.got_len, 10);
    ends_close(s, c);
}

static void test_no_memory(void **state) {
    struct tls_source *s = server_source(NULL, false), *c = client_source("ca.pem", NULL);
    mem_fail_nth(1);
    assert_null(tls_new(s, NULL));
    for (unsigned n = 1; n < 20; n++) {
        ends_open(s, c, "localhost");
        mem_fail_nth(n);
        talk(0);
        mem_fail_nth(0);
        assert_true(both_established() || tls_error(client.tls) || tls_error(server.tls));
        tls_free(client.tls), tls_free(server.tls);
    }
    const struct tls_files files = {path("server.pem"), path("server.key"), path("ca.pem"), true};
    for (unsigned n = 1; n <= 4; n++) {
        mem_fail_nth(n);
        assert_null(tls_source_new_server(&files, error));
        assert_string_equal(error, "out of memory");
    }
    mem_fail_nth(0);
    tls_source_free(s), tls_source_free(c), tls_source_free(NULL), tls_free(NULL);
}

/* ---- between nodes */
static struct tls_source *peer_source(const char *cert, const char *ca) {
    char key[64];
    snprintf(key, sizeof key, "%.*s.key", (int)strlen(cert) - 4, cert);
    const struct tls_files files = {path(cert), path(key), path(ca), .key_records = 3};
    struct tls_source *s = tls_source_new_peer(&files, error);
    if (!s) print_error("%s\n", error);
    assert_non_null(s);
    return s;
}
static void peers_open(struct tls_source *s, struct tls_source *c, const char *name) {
    ends_open(s, c, name);
    talk(0);
}

static void test_nodes_know_each_other(void **state) {
    struct tls_source *s = peer_source("node-2.pem", "ca.pem"), *c = peer_source("node-1.pem", "ca.pem");
    peers_open(s, c, "node-2");
    assert_true(both_established());
    assert_string_equal(tls_peer_subject(server.tls), "CN=node 1,O=shop");
    assert_true(tls_peer_is(server.tls, "node-1"));
    assert_false(tls_peer_is(server.tls, "node-2"));
    assert_false(tls_peer_is(server.tls, "node 1")); /* the common name is for people */
    assert_true(tls_peer_is(client.tls, "node-2"));
    uint8_t ours[TLS_EXPORT_BYTES], theirs[TLS_EXPORT_BYTES], other[TLS_EXPORT_BYTES];
    assert_true(tls_export(server.tls, "EXPORTER-test", ours));
    assert_true(tls_export(client.tls, "EXPORTER-test", theirs));
    assert_memory_equal(ours, theirs, sizeof ours);
    assert_true(tls_export(client.tls, "EXPORTER-other", other));
    assert_memory_not_equal(theirs, other, sizeof theirs);
    tls_free(client.tls), tls_free(server.tls);
    peers_open(s, c, "node-2"); /* the next connection has another secret */
    assert_true(tls_export(server.tls, "EXPORTER-test", other));
    assert_memory_not_equal(ours, other, sizeof ours);
    ends_close(s, c);
}

static void test_a_node_refuses_who_is_none(void **state) {
    refuse(peer_source("node-3.pem", "ca.pem"), peer_source("node-1.pem", "ca.pem"), "node-2", false, "hostname mismatch");
    refuse(peer_source("server.pem", "ca.pem"), peer_source("node-1.pem", "ca.pem"), "server-1", false, "hostname mismatch"); /* a common name */
    refuse(peer_source("expired.pem", "ca.pem"), peer_source("node-1.pem", "ca.pem"), "node-3", false, "certificate has expired");
    refuse(peer_source("node-2.pem", "ca.pem"), peer_source("expired.pem", "ca.pem"), "node-2", true, "certificate has expired");
    refuse(peer_source("other-node-3.pem", "ca.pem"), peer_source("node-1.pem", "ca.pem"), "node-3", false, "certificate");
    refuse(peer_source("node-2.pem", "ca.pem"), peer_source("other-node-3.pem", "ca.pem"), "node-2", true, "certificate");
    refuse(peer_source("client-only.pem", "ca.pem"), peer_source("node-1.pem", "ca.pem"), "node-3", false, "purpose");
    refuse(peer_source("node-2.pem", "ca.pem"), client_source("ca.pem", "node-1.pem"), "localhost", true, "application protocol"); /* an application's TLS */
    refuse(server_source(NULL, false), peer_source("node-1.pem", "ca.pem"), "localhost", true, "application protocol");
    struct tls_source *s = peer_source("node-2.pem", "ca.pem");
    static const uint8_t alpn[] = "\14orderdb-link";
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) { /* no certificate; an old version */
        struct stranger x = stranger_new(version, version);
        server.tls = NULL;
        SSL_set_alpn_protos(x.ssl, alpn, sizeof alpn - 1);
        stranger_talk(&x, s);
        assert_int_equal(last_alert, version == TLS1_3_VERSION ? SSL_AD_CERTIFICATE_REQUIRED : SSL_AD_PROTOCOL_VERSION);
        assert_false(server.alive);
        tls_free(server.tls);
        stranger_free(&x);
    }
    tls_source_free(s);
    const struct tls_files no_ca = {path("node-1.pem"), path("node-1.key")}, no_cert = {.ca = path("ca.pem")};
    assert_null(tls_source_new_peer(&no_ca, error));
    assert_non_null(strstr(error, "the CA is missing"));
    assert_null(tls_source_new_peer(&no_cert, error));
    assert_non_null(strstr(error, "the certificate is missing"));
}

static void test_keys_are_changed_before_they_are_worn(void **state) {
    struct tls_source *s = peer_source("node-2.pem", "ca.pem"), *c = peer_source("node-1.pem", "ca.pem"); /* each key for three records */
    static uint8_t wire[1000];
    peers_open(s, c, "node-2");
    size_t longer = 0, first = 0;
    for (unsigned i = 0; i < 40; i++) {
        struct writer w = writer_of(wire, sizeof wire);
        assert_true(tls_encrypt(client.tls, SLICE_LIT("again"), &w));
        if (i == 0) first = w.len;
        longer += w.len > first;
        feed(&server, writer_slice(&w), i % 2 ? 1 : 0);
        say(&server, &client, SLICE_LIT("and back"), 0);
    }
    assert_int_equal(longer, 13);
    assert_int_equal(server.got_len, 40 * 5);
    assert_int_equal(client.got_len, 40 * 8);
    assert_true(server.alive && client.alive);
    ends_close(s, c);
}

static void test_output_and_plain_go_into_one_buffer(void **state) {
    struct tls_source *s = peer_source("node-2.pem", "ca.pem"), *c = peer_source("node-1.pem", "ca.pem");
    static uint8_t big[100000];
    struct buf b = {0};
    ends_open(s, c, "node-2");
    for (unsigned turns = 0; turns < 4; turns++) {
        struct end *from = turns % 2 ? &server : &client, *to = turns % 2 ? &client : &server;
        b.len = 0;
        assert_true(tls_write(from->tls, tls_established(from->tls) ? slice_of(big, sizeof big) : (struct slice){0}, &b));
        assert_false(tls_wants_output(from->tls));
        feed(to, buf_slice(&b), 0);
    }
    assert_true(both_established());
    assert_int_equal(server.got_len, sizeof big); /* behind the client's last word of the handshake */
    assert_int_equal(client.got_len, sizeof big);
    tls_close(client.tls);
    b.len = 0;
    assert_true(tls_write(client.tls, (struct slice){0}, &b)); /* the last word alone */
    feed(&server, buf_slice(&b), 0);
    assert_false(server.alive);
    assert_null(tls_error(server.tls));
    buf_fini(&b);
    ends_close(s, c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake_and_bytes_both_ways), cmocka_unit_test(test_byte_by_byte), cmocka_unit_test(test_certificates_are_checked_both_ways),
        cmocka_unit_test(test_alpn_is_h2_or_nothing), cmocka_unit_test(test_old_versions_and_weak_suites_are_refused), cmocka_unit_test(test_no_renegotiation_and_no_tickets),
        cmocka_unit_test(test_key_updates_work_and_are_bounded), cmocka_unit_test(test_garbage_ends_it_with_an_alert), cmocka_unit_test(test_files_that_are_wrong),
        cmocka_unit_test(test_reload), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_nodes_know_each_other), cmocka_unit_test(test_a_node_refuses_who_is_none),
        cmocka_unit_test(test_keys_are_changed_before_they_are_worn), cmocka_unit_test(test_output_and_plain_go_into_one_buffer),
    };
    return cmocka_run_group_tests(tests, make_certs, remove_certs);
}
