#include "client/security.h"

#include <errno.h>
#include <string.h>

int security_open(const struct orderdb_options *options, struct tls_source **source) {
    *source = NULL;
    if (!options || (!options->tls && !options->tls_ca && !options->tls_cert && !options->tls_key)) return 0;
    const struct tls_files files = {.cert = options->tls_cert, .key = options->tls_key, .ca = options->tls_ca};
    char error[256];
    *source = tls_source_new_client(&files, error);
    if (*source) return 0;
    if (options->tls_error) memcpy(options->tls_error, error, sizeof(error));
    return EKEYREJECTED;
}
