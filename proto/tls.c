/* tls: OpenSSL between two sets of buffers.
 *
 *   tls_feed(records) --> in --> BIO read --> SSL_do_handshake, SSL_read --> on_plain
 *   tls_output(w)    <-- pending <-- BIO write <-- handshake, alerts, key updates
 *   tls_encrypt(plain, w) ---------- SSL_write --> BIO write --> w
 *
 * One BIO of our own per connection. It reads from the slice that tls_feed was given, so OpenSSL takes all of it before tls_feed returns (an incomplete record waits
 * in OpenSSL's buffer, 16 KiB), and writes either straight into the writer of tls_encrypt or, when nobody asked for output, into `pending`. A peer that makes us
 * answer without reading (key updates, alerts) fills pending to PENDING_MAX and is then cut off.
 *
 * Keys. One key may encrypt 2^24.5 records (RFC 8446 section 5.5), which a connection between nodes that says something each turn has behind it within an hour, and OpenSSL does not
 * count: tls_encrypt does, and lets a key update go before what is due.
 *
 * Sources. An SSL_CTX is read by many threads and replaced by one: its pointer is behind a mutex, taken once per connection; SSL_new takes a reference, so old
 * connections keep the old one. */
#include "proto/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>

#include "proto/base/mem.h"

enum { TLS_MAGIC = 0x544c5321, PLAIN_BYTES = 16384, PENDING_MAX = 64 << 10, SUBJECT_BYTES = 512, ERROR_BYTES = 160, CHAIN_BYTES_MAX = 32 << 10, CHAIN_DEPTH_MAX = 8 };
/* What a connection of OpenSSL takes beside ours: measured 15 KiB of resident memory when idle, 17 KiB more while a record is incomplete, which is counted always. */
enum { OPENSSL_BYTES = 32 << 10 };

static const char suites_12[] = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"; /* ECDHE with AEAD alone; those of 1.3 all are */
enum { KEY_RECORDS = 1 << 23 };

enum role { ROLE_SERVER, ROLE_CLIENT, ROLE_PEER };
/* As ALPN says it: one name, its length in front. */
struct alpn {
    uint8_t wire[16];
    unsigned len;
};
static const struct alpn alpn_h2 = {{2, 'h', '2'}, 3}, alpn_link = {{12, 'o', 'r', 'd', 'e', 'r', 'd', 'b', '-', 'l', 'i', 'n', 'k'}, 13};
static const struct alpn *alpn_of(enum role role) { return role == ROLE_PEER ? &alpn_link : &alpn_h2; }

struct tls_source {
    pthread_mutex_t lock; /* of ctx, the pointer */
    SSL_CTX *ctx;
    enum role role;
    bool require_client_cert;
    uint64_t key_records;
    char *cert, *key, *ca;
    BIO_METHOD *bio;
};

struct tls {
    uint32_t magic;
    SSL *ssl;
    const struct alpn *alpn;
    uint64_t records, key_records; /* encrypted with this key, about */
    struct slice in;     /* while tls_feed runs */
    struct writer *out;  /* while tls_encrypt runs */
    struct buf pending;
    size_t pending_at;
    bool established, over, closed;
    char *error, *subject; /* NULL: none; most connections have neither */
};
static const char no_memory[] = "TLS: out of memory";

static struct tls *tls_checked(struct tls *t) {
    check(t->magic == TLS_MAGIC);
    return t;
}

/* ---- the BIO */

static int bio_read_cb(BIO *bio, char *out, int cap) {
    struct tls *t = tls_checked(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (t->in.len == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t n = MIN_OF((size_t)cap, t->in.len);
    memcpy(out, t->in.data, n);
    t->in = slice_of(t->in.data + n, t->in.len - n);
    return (int)n;
}

static int bio_write_cb(BIO *bio, const char *data, int len) {
    struct tls *t = tls_checked(BIO_get_data(bio));
    size_t n = (size_t)len;
    BIO_clear_retry_flags(bio);
    if (t->out && t->out->cap - t->out->len >= n) return write_bytes(t->out, data, n), len;
    if (t->pending.len - t->pending_at + n > PENDING_MAX || !buf_append(&t->pending, slice_of(data, n))) return -1;
    return len;
}

static long bio_ctrl_cb(BIO *bio, int command, long number, void *p) { return command == BIO_CTRL_FLUSH; }

static int bio_create_cb(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

static BIO_METHOD *bio_method_new(void) {
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "orderdb");
    if (m && BIO_meth_set_read(m, bio_read_cb) && BIO_meth_set_write(m, bio_write_cb) && BIO_meth_set_ctrl(m, bio_ctrl_cb) && BIO_meth_set_create(m, bio_create_cb)) return m;
    BIO_meth_free(m);
    return NULL;
}

/* ---- sources */

static const char *first_error(void) {
    unsigned long e = ERR_peek_error();
    if (e && ERR_SYSTEM_ERROR(e)) return strerror(ERR_GET_REASON(e)); /* a file that is not there */
    const char *reason = e ? ERR_reason_error_string(e) : NULL;
    return reason ? reason : "TLS failed";
}

static bool given(const char *path) { return path && *path; }

static bool file_failed(char error[256], const char *what, const char *path) {
    snprintf(error, 256, "%s %.150s: %.80s", what, path, first_error());
    ERR_clear_error();
    return false;
}

/* Ours is chosen or the handshake ends with no_application_protocol (RFC 7301 section 3.2). */
static int on_alpn_cb(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *user) {
    unsigned char *chosen;
    const struct alpn *ours = user;
    if (SSL_select_next_proto(&chosen, out_len, ours->wire, ours->len, in, in_len) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

/* The callback above is not asked when the client has no ALPN at all. */
static int on_hello_cb(SSL *ssl, int *alert, void *user) {
    const unsigned char *data;
    size_t len;
    if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &data, &len)) return SSL_CLIENT_HELLO_SUCCESS;
    *alert = SSL_AD_NO_APPLICATION_PROTOCOL;
    return SSL_CLIENT_HELLO_ERROR;
}

static bool use_certificate(SSL_CTX *ctx, const struct tls_source *s, char error[256]) {
    if (SSL_CTX_use_certificate_chain_file(ctx, s->cert) != 1) return file_failed(error, "certificate", s->cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, s->key, SSL_FILETYPE_PEM) != 1) return file_failed(error, "key", s->key);
    return SSL_CTX_check_private_key(ctx) == 1 || file_failed(error, "key", s->key);
}

static bool set_rules(SSL_CTX *ctx, enum role role) {
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    if (role != ROLE_PEER) SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* an idle connection keeps no record buffers; nodes have few, and are not idle */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_max_cert_list(ctx, CHAIN_BYTES_MAX);
    SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH_MAX);
    return SSL_CTX_set_min_proto_version(ctx, role == ROLE_PEER ? TLS1_3_VERSION : TLS1_2_VERSION) == 1 && SSL_CTX_set_cipher_list(ctx, suites_12) == 1;
}

static bool set_server_rules(SSL_CTX *ctx, const struct tls_source *s, char error[256]) {
    SSL_CTX_set_alpn_select_cb(ctx, on_alpn_cb, (void *)alpn_of(s->role));
    SSL_CTX_set_client_hello_cb(ctx, on_hello_cb, NULL);
    if (SSL_CTX_set_num_tickets(ctx, 0) != 1 || SSL_CTX_set_max_early_data(ctx, 0) != 1) return file_failed(error, "TLS of", s->cert);
    if (!s->ca) return true;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(s->ca);
    if (!names || SSL_CTX_load_verify_file(ctx, s->ca) != 1) {
        sk_X509_NAME_pop_free(names, X509_NAME_free);
        return file_failed(error, s->role == ROLE_PEER ? "CA" : "client CA", s->ca);
    }
    SSL_CTX_set_client_CA_list(ctx, names);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | (s->require_client_cert ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), NULL);
    return true;
}

static bool set_client_rules(SSL_CTX *ctx, const struct tls_source *s, char error[256]) {
    if (SSL_CTX_set_alpn_protos(ctx, alpn_of(s->role)->wire, alpn_of(s->role)->len) != 0) return file_failed(error, "TLS", "ALPN"); /* 0 is success here */
    if (s->ca ? SSL_CTX_load_verify_file(ctx, s->ca) != 1 : SSL_CTX_set_default_verify_paths(ctx) != 1) return file_failed(error, "CA", s->ca ? s->ca : "of the system");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    return true;
}

static SSL_CTX *context_new(const struct tls_source *s, char error[256]) {
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(s->role == ROLE_SERVER ? TLS_server_method() : s->role == ROLE_CLIENT ? TLS_client_method() : TLS_method());
    if (!ctx) return file_failed(error, "TLS", "context"), NULL;
    bool ok = set_rules(ctx, s->role) || file_failed(error, "TLS", "rules");
    ok = ok && (!s->cert || use_certificate(ctx, s, error));
    ok = ok && (s->role == ROLE_SERVER || set_client_rules(ctx, s, error));
    ok = ok && (s->role == ROLE_CLIENT || set_server_rules(ctx, s, error)); /* last: what a node asks of those who dial outranks what it asks of those whom it dials */
    if (ok) return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

static struct tls_source *source_new(const struct tls_files *files, enum role role, char error[256]) {
    struct tls_source *s = mem_new(struct tls_source);
    if (!s) return snprintf(error, 256, "out of memory"), NULL;
    pthread_mutex_init(&s->lock, NULL);
    s->role = role;
    s->require_client_cert = files->require_client_cert || role == ROLE_PEER;
    s->key_records = files->key_records ? files->key_records : KEY_RECORDS;
    if (given(files->cert)) s->cert = mem_strdup(files->cert);
    if (given(files->key)) s->key = mem_strdup(files->key);
    if (given(files->ca)) s->ca = mem_strdup(files->ca);
    s->bio = bio_method_new();
    bool copied = s->bio && !s->cert == !given(files->cert) && !s->key == !given(files->key) && !s->ca == !given(files->ca);
    if (!copied) snprintf(error, 256, "out of memory");
    else if (role == ROLE_PEER && !s->ca) snprintf(error, 256, "nodes verify each other, the CA is missing");
    else if ((role != ROLE_CLIENT && !s->cert) || !s->cert != !s->key) snprintf(error, 256, "a certificate and its key go together, %s is missing", s->cert ? "the key" : "the certificate");
    else if ((s->ctx = context_new(s, error))) return s;
    return tls_source_free(s), NULL;
}

struct tls_source *tls_source_new_server(const struct tls_files *files, char error[256]) { return source_new(files, ROLE_SERVER, error); }
struct tls_source *tls_source_new_client(const struct tls_files *files, char error[256]) { return source_new(files, ROLE_CLIENT, error); }
struct tls_source *tls_source_new_peer(const struct tls_files *files, char error[256]) { return source_new(files, ROLE_PEER, error); }

bool tls_source_reload(struct tls_source *s, char error[256]) {
    SSL_CTX *ctx = context_new(s, error);
    if (!ctx) return false;
    pthread_mutex_lock(&s->lock);
    SSL_CTX *old = s->ctx;
    s->ctx = ctx;
    pthread_mutex_unlock(&s->lock);
    SSL_CTX_free(old);
    return true;
}

void tls_source_free(struct tls_source *s) {
    if (!s) return;
    SSL_CTX_free(s->ctx);
    BIO_meth_free(s->bio);
    pthread_mutex_destroy(&s->lock);
    mem_free(s->cert), mem_free(s->key), mem_free(s->ca);
    mem_free(s);
}

static void format_name(X509_NAME *name, char *out, size_t cap) {
    BIO *bio = BIO_new(BIO_s_mem());
    out[0] = 0;
    if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0) {
        int n = BIO_read(bio, out, (int)cap - 1);
        out[n > 0 ? n : 0] = 0;
    }
    BIO_free(bio);
}

void tls_source_describe(const struct tls_source *s, char out[256]) {
    X509 *x = SSL_CTX_get0_certificate(s->ctx);
    struct tm t;
    char subject[160];
    out[0] = 0;
    if (!x || ASN1_TIME_to_tm(X509_get0_notAfter(x), &t) != 1) return;
    format_name(X509_get_subject_name(x), subject, sizeof subject);
    snprintf(out, 256, "subject=%s not_after=%04d-%02d-%02dT%02d:%02d:%02dZ", subject, t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec);
}

/* ---- connections */

enum { PEER_NAME_FLAGS = X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT };

static bool set_server_name(SSL *ssl, enum role role, const char *name) {
    uint8_t address[16];
    SSL_set_hostflags(ssl, role == ROLE_PEER ? PEER_NAME_FLAGS : X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (role == ROLE_PEER && !*name) return true;
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

struct tls *tls_new(struct tls_source *s, const char *server_name) {
    check(s->role == ROLE_PEER || (s->role == ROLE_SERVER) == !server_name);
    struct tls *t = mem_new(struct tls);
    if (!t) return NULL;
    t->magic = TLS_MAGIC, t->alpn = alpn_of(s->role), t->key_records = s->key_records;
    pthread_mutex_lock(&s->lock);
    t->ssl = SSL_new(s->ctx);
    pthread_mutex_unlock(&s->lock);
    BIO *bio = t->ssl ? BIO_new(s->bio) : NULL;
    if (!bio) return tls_free(t), NULL;
    BIO_set_data(bio, t);
    SSL_set_bio(t->ssl, bio, bio);
    if (!server_name) SSL_set_accept_state(t->ssl);
    else SSL_set_connect_state(t->ssl);
    if (server_name && !set_server_name(t->ssl, s->role, server_name)) return tls_free(t), NULL;
    return t;
}

void tls_free(struct tls *t) {
    if (!t) return;
    if (t->ssl) SSL_free(t->ssl);
    ERR_clear_error();
    buf_fini(&t->pending);
    if (t->error != no_memory) mem_free(t->error);
    mem_free(t->subject);
    t->magic = 0;
    mem_free(t);
}

static bool fail_with(struct tls *t, const char *error) {
    if (!t->error && !(t->error = mem_strdup(error))) t->error = (char *)no_memory;
    ERR_clear_error();
    t->over = true;
    return false;
}

static bool tls_fail(struct tls *t) {
    long verify = SSL_get_verify_result(t->ssl);
    char error[ERROR_BYTES];
    snprintf(error, sizeof error, "TLS: %s%s%s", first_error(), verify == X509_V_OK ? "" : ": ", verify == X509_V_OK ? "" : X509_verify_cert_error_string(verify));
    return fail_with(t, error);
}

/* A verified peer must not turn into an anonymous one for want of memory. */
static bool on_established(struct tls *t) {
    t->established = true;
    X509 *peer = SSL_get0_peer_certificate(t->ssl);
    char subject[SUBJECT_BYTES];
    if (!peer || SSL_get_verify_result(t->ssl) != X509_V_OK) return true;
    format_name(X509_get_subject_name(peer), subject, sizeof subject);
    return (t->subject = mem_strdup(subject)) ? true : fail_with(t, no_memory);
}

/* A server that chose no protocol is not one of ours. */
static bool alpn_is_ours(struct tls *t) {
    const unsigned char *name;
    unsigned len;
    SSL_get0_alpn_selected(t->ssl, &name, &len);
    return len + 1 == t->alpn->len && memcmp(name, t->alpn->wire + 1, len) == 0;
}

static bool handshake(struct tls *t) {
    int n = SSL_do_handshake(t->ssl);
    if (n == 1 && !alpn_is_ours(t)) return fail_with(t, t->alpn == &alpn_h2 ? "TLS: the peer does not speak h2" : "TLS: the peer is no node of OrderDB");
    if (n == 1) return on_established(t);
    return SSL_get_error(t->ssl, n) == SSL_ERROR_WANT_READ ? false : tls_fail(t);
}

static bool read_plain(struct tls *t, tls_on_plain on_plain, void *owner) {
    uint8_t plain[PLAIN_BYTES];
    for (;;) {
        int n = SSL_read(t->ssl, plain, sizeof plain);
        if (n > 0) {
            if (!on_plain(owner, slice_of(plain, (size_t)n))) return true;
            continue;
        }
        int why = SSL_get_error(t->ssl, n);
        if (why == SSL_ERROR_WANT_READ) return true;
        if (why == SSL_ERROR_ZERO_RETURN) return t->over = true, false;
        return tls_fail(t);
    }
}

bool tls_feed(struct tls *t, struct slice records, tls_on_plain on_plain, void *owner) {
    if (tls_checked(t)->over) return false;
    ERR_clear_error();
    t->in = records;
    if (t->established || handshake(t)) (void)read_plain(t, on_plain, owner);
    t->in = (struct slice){0};
    return !t->over;
}

bool tls_established(const struct tls *t) { return t->established; }
bool tls_wants_output(const struct tls *t) { return t->pending.len > t->pending_at; }

void tls_output(struct tls *t, struct writer *w) {
    size_t n = MIN_OF(t->pending.len - t->pending_at, w->cap - w->len);
    write_bytes(w, t->pending.data + t->pending_at, n);
    t->pending_at += n;
    if (t->pending_at < t->pending.len) return;
    buf_fini(&t->pending);
    t->pending_at = 0;
}

/* Another key before this one is worn. The message goes with what SSL_write writes next. */
static bool count_records(struct tls *t, size_t len) {
    t->records += len / PLAIN_BYTES + 1;
    if (t->records <= t->key_records || SSL_version(t->ssl) != TLS1_3_VERSION) return true;
    t->records = len / PLAIN_BYTES + 1;
    return SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
}

bool tls_encrypt(struct tls *t, struct slice plain, struct writer *w) {
    check(tls_checked(t)->established);
    check(!tls_wants_output(t));
    check(w->cap - w->len >= tls_room(plain.len));
    if (plain.len == 0) return true;
    ERR_clear_error();
    if (!count_records(t, plain.len)) return tls_fail(t);
    t->out = w;
    int n = SSL_write(t->ssl, plain.data, (int)plain.len);
    t->out = NULL;
    if (n == (int)plain.len && !tls_wants_output(t)) return true;
    return tls_fail(t);
}

bool tls_write(struct tls *t, struct slice plain, struct buf *out) {
    check(plain.len == 0 || (t->established && !t->over));
    if (!buf_reserve(out, t->pending.len - t->pending_at + (plain.len ? tls_room(plain.len) : 0))) return false;
    struct writer w = writer_of(out->data + out->len, out->cap - out->len);
    tls_output(t, &w);
    bool ok = plain.len == 0 || tls_encrypt(t, plain, &w);
    out->len += w.len;
    return ok;
}

void tls_close(struct tls *t) {
    if (!t->established || t->closed || t->error) return;
    t->closed = true;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl); /* the alert goes to pending; the peer's own is not waited for */
    ERR_clear_error();
}

const char *tls_error(const struct tls *t) { return t->error; }
const char *tls_peer_subject(const struct tls *t) { return t->subject ? t->subject : ""; }
bool tls_peer_is(const struct tls *t, const char *name) {
    X509 *peer = t->subject ? SSL_get0_peer_certificate(t->ssl) : NULL; /* there when it was verified */
    return peer && X509_check_host(peer, name, 0, PEER_NAME_FLAGS, NULL) == 1;
}

bool tls_export(struct tls *t, const char *label, uint8_t out[TLS_EXPORT_BYTES]) {
    check(t->established);
    bool ok = SSL_export_keying_material(t->ssl, out, TLS_EXPORT_BYTES, label, strlen(label), NULL, 0, 0) == 1;
    ERR_clear_error();
    return ok;
}

size_t tls_memory_bytes(const struct tls *t) { return sizeof *t + t->pending.cap + OPENSSL_BYTES; }
