/* TLS over somebody else's bytes, for server, client and between nodes: records go in as slices and come out into buffers; no sockets, no waiting. The only includer of
 * OpenSSL's ssl.h.
 *
 * TLS 1.2 with ECDHE and AEAD suites, and TLS 1.3; between nodes 1.3 alone. ALPN is h2 (nodes: orderdb-link) or nothing. No renegotiation, compression, early data, tickets or
 * session cache. A key of TLS 1.3 is changed long before it is worn. */
#ifndef PROTO_TLS_H
#define PROTO_TLS_H

#include "proto/base/buf.h"
#include "proto/base/bytes.h"
#include "proto/status.h"

/* Paths of PEM files; NULL or "": none. */
struct tls_files {
    const char *cert, *key;  /* the chain, leaf first; the server's must be there, a client's is for mutual TLS */
    const char *ca;          /* server: who signs clients' certificates, which are then asked for. Client: who signs servers'; none: the system's */
    bool require_client_cert; /* server with a ca: a client without one is refused */
    uint64_t key_records;     /* a key of TLS 1.3 encrypts about so many; 0: 2^23 (RFC 8446 section 5.5 lets AES-GCM have 2^24.5) */
};

/* What new connections use: certificates and rules. A connection keeps what it began with. Any thread. */
struct tls_source;
/* NULL: error[] says which file and why. */
struct tls_source *tls_source_new_server(const struct tls_files *files, char error[256]);
struct tls_source *tls_source_new_client(const struct tls_files *files, char error[256]);
/* Of a node, which is client to some and server to others: cert, key and ca must be there, and both sides show a certificate. */
struct tls_source *tls_source_new_peer(const struct tls_files *files, char error[256]);
/* Reads the same files again. false: error[] says why, and nothing has changed. */
bool tls_source_reload(struct tls_source *s, char error[256]) MUST_USE;
void tls_source_free(struct tls_source *s); /* NULL is fine; its connections are gone */
/* "subject=CN=... not_after=..." of our own certificate, for the log; "" without one. */
void tls_source_describe(const struct tls_source *s, char out[256]);

struct tls;
/* server_name: the client's, checked against the server's certificate, a DNS name or an address; NULL: we are the server. Between nodes the name must be one of the subjectAltName, as it
 * is: no wildcards, no common name; "" is whoever answers, whose name tls_peer_is tells afterwards. NULL: no memory. */
struct tls *tls_new(struct tls_source *source, const char *server_name);
void tls_free(struct tls *t);

/* Records from the peer; a client says something first with an empty slice. Plain text is handed to on_plain piece by piece; false from it stops.
 * false: the connection is over (tls_error; NULL: the peer closed in order); send what tls_wants_output still has. */
typedef bool (*tls_on_plain)(void *owner, struct slice plain);
bool tls_feed(struct tls *t, struct slice records, tls_on_plain on_plain, void *owner) MUST_USE;
bool tls_established(const struct tls *t);
/* Handshake messages and alerts that wait. */
bool tls_wants_output(const struct tls *t);
void tls_output(struct tls *t, struct writer *w);
/* Encrypts into w. Only when established and nothing waits, with room for tls_room(plain.len). false: over. */
bool tls_encrypt(struct tls *t, struct slice plain, struct writer *w) MUST_USE;
/* Records: 16 KiB of plain text each, 5 of head, at most 8 of nonce and 17 of tag and type; one record more for what else is due (a key update). */
static inline size_t tls_room(size_t plain_len) { return plain_len + (plain_len / 16384 + 2) * 64; }
/* What waits, and then plain, at the end of `out`; before it is established, or when it is over, plain is empty. false: over, or no memory. */
bool tls_write(struct tls *t, struct slice plain, struct buf *out) MUST_USE;
/* close_notify, once, when established: there is output then. */
void tls_close(struct tls *t);
const char *tls_error(const struct tls *t); /* why it is over, in words; NULL: it is not, or in order */
/* RFC 2253 subject of the peer's verified certificate; "": it showed none. */
const char *tls_peer_subject(const struct tls *t);
/* Whether the peer's verified certificate has that DNS name in its subjectAltName, as it is. */
bool tls_peer_is(const struct tls *t, const char *name);
/* A secret of this connection alone, the same at both ends (RFC 8446 section 7.5), when established: who sits between two connections has two of them. label: "EXPORTER-...". false: no memory. */
enum { TLS_EXPORT_BYTES = 32 };
bool tls_export(struct tls *t, const char *label, uint8_t out[TLS_EXPORT_BYTES]) MUST_USE;
size_t tls_memory_bytes(const struct tls *t); /* ours and an estimate of OpenSSL's */

#endif
