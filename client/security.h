/* What the options say about TLS, made into what channels need. */
#ifndef CLIENT_SECURITY_H
#define CLIENT_SECURITY_H

#include "client/orderdb.h"
#include "proto/tls.h"

/* 0, and the source (NULL: cleartext), to be freed after its channels; or the errno: EKEYREJECTED (options' tls_error says why). */
int security_open(const struct orderdb_options *options, struct tls_source **source);

#endif
