/* TLS between nodes: what the flags say of it, and what a node's certificate has to say of the node. Both sides show one that --peer-tls-ca has signed, and that of node N has
 * DNS:node-N in its subjectAltName: it holds for one node, and addresses may change. The handshake of link.h then runs inside, with proofs of this very TLS connection. */
#ifndef SERVER_PEER_TLS_H
#define SERVER_PEER_TLS_H

#include "proto/link.h"
#include "proto/tls.h"
#include "server/config.h"

/* *out: NULL without the flags. out is NULL on a node that has no others: then the flags are refused, as files are that can't be used. */
enum status peer_tls_open(struct tls_source **out, const struct config *config, char error[512]) MUST_USE;
/* To that node; 0: from whoever dialed; LINK_TO_ANY: to whichever node answers, which peer_tls_is is to be asked about. NULL: no memory. */
struct tls *peer_tls_new(struct tls_source *s, uint64_t node_id);
/* Whether it is that node at the other end, if it is one of ours at all. Established. */
bool peer_tls_is(const struct tls *t, uint64_t node_id);
/* The key for proofs on this connection: who relays between two of them can't pass a proof from one to the other. Established. false: no memory. */
bool peer_tls_key(struct tls *t, const uint8_t link_key[LINK_PROOF_BYTES], uint8_t out[LINK_PROOF_BYTES]) MUST_USE;

#endif
