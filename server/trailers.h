/* A refusal as HTTP/2 fields: grpc-status, grpc-message, grpc-status-details-bin, and what else a client needs to know. */
#ifndef SERVER_TRAILERS_H
#define SERVER_TRAILERS_H

#include "proto/status.h"
#include "server/h2.h"

enum { TRAILERS_FIELDS_MAX = H2_FIELDS_MAX /* H2_TRAILERS_MAX of them the caller may add */, TRAILERS_TEXT_BYTES_MAX = 512 /* of grpc-message before percent-encoding, at most 1,536 after */ };
struct trailers {
    struct h2_field fields[TRAILERS_FIELDS_MAX]; /* :status and content-type first, for those that come alone */
    enum grpc_code code;
    /* private: what fields point at */
    char code_text[4], delay_text[12], message[3 * TRAILERS_TEXT_BYTES_MAX];
};
/* Takes nothing from the failure's arena; details lie in the scratch. Returns how many fields there are. */
size_t trailers_make(struct trailers *t, const struct failure *failure, struct arena *scratch);

#endif
