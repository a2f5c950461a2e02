#include "server/peer_tls.h"

#include <stdio.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"

enum { NAME_BYTES = 32 };
static_assert((int)TLS_EXPORT_BYTES == (int)LINK_PROOF_BYTES, "a key of the same strength");

static void node_name(uint64_t node_id, char out[NAME_BYTES]) { snprintf(out, NAME_BYTES, "node-%llu", (unsigned long long)node_id); }

enum status peer_tls_open(struct tls_source **out, const struct config *c, char error[512]) {
    struct tls_files files = {.cert = c->peer_tls_cert, .key = c->peer_tls_key, .ca = c->peer_tls_ca};
    char why[256];
    if (out) *out = NULL;
    if (!*files.cert && !*files.key && !*files.ca) return STATUS_OK;
    if (!out) return snprintf(error, 512, "--peer-tls-cert, --peer-tls-key and --peer-tls-ca go with --peers or --join"), STATUS_FIELD_INVALID;
    *out = tls_source_new_peer(&files, why);
    if (!*out) return snprintf(error, 512, "TLS between nodes: %s", why), STATUS_FIELD_INVALID;
    tls_source_describe(*out, why);
    log_info("tls between nodes", "cert=%s %s", c->peer_tls_cert, why);
    return STATUS_OK;
}

struct tls *peer_tls_new(struct tls_source *s, uint64_t node_id) {
    char name[NAME_BYTES] = "";
    if (node_id != LINK_TO_ANY) node_name(node_id, name);
    return tls_new(s, node_id ? name : NULL);
}

bool peer_tls_is(const struct tls *t, uint64_t node_id) {
    char name[NAME_BYTES];
    node_name(node_id, name);
    return tls_peer_is(t, name);
}

bool peer_tls_key(struct tls *t, const uint8_t link_key[LINK_PROOF_BYTES], uint8_t out[LINK_PROOF_BYTES]) {
    uint8_t secret[TLS_EXPORT_BYTES];
    if (!tls_export(t, "EXPORTER-orderdb-link", secret)) return false;
    hmac_sha256(out, slice_of(link_key, LINK_PROOF_BYTES), slice_of(secret, sizeof secret));
    return true;
}
