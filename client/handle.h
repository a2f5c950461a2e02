/* A blocking handle (orderdb.h's struct orderdb_client), for the files that share it: orderdb.c, whose it is, and changes.c. */
#ifndef CLIENT_HANDLE_H
#define CLIENT_HANDLE_H

#include "client/error.h"
#include "client/fleet.h"
#include "client/message.h"
#include "client/retry.h"
#include "client/security.h"
#include "proto/base/buf.h"
#include "proto/base/list.h"

struct orderdb_client {
    struct channel_loop *loop;
    struct fleet *fleet;
    struct tls_source *tls; /* NULL: cleartext */
    struct orderdb_options options;
    struct orderdb_error error;
    bool failed;
    unsigned attempts;
    struct retry_budget budget;
    struct buf request, response;
    struct list imports, streams; /* streams: of changes */
    char request_id[MESSAGE_REQUEST_ID_BYTES];
};

void handle_clear(struct orderdb_client *db); /* the last call has not failed */
void handle_fail(struct orderdb_client *db, enum grpc_code code, const char *message); /* message: static */

#endif
