/* What orderdb.h calls struct orderdb_error: decoded refusals, for the blocking and the asynchronous face alike. */
#ifndef CLIENT_ERROR_H
#define CLIENT_ERROR_H

#include "client/channel.h"
#include "client/orderdb.h"
#include "proto/base/arena.h"

struct orderdb_error {
    enum grpc_code code;
    bool outcome_unknown;
    int64_t retry_delay_ms; /* -1: none was named */
    const char *reason, *message;
    const char *request_id; /* the owner's */
    struct failure_meta *metas;
    struct failure_violation *violations;
    /* private */
    struct arena arena;
};

void error_init(struct orderdb_error *e, const char *request_id); /* request_id is borrowed for good */
void error_fini(struct orderdb_error *e);
void error_reset(struct orderdb_error *e);
void error_set(struct orderdb_error *e, enum grpc_code code, const char *message); /* message: static */
void error_from_answer(struct orderdb_error *e, const struct channel_answer *a);
bool error_says_drain(const struct orderdb_error *e); /* the node goes away: another one will do */
/* After retries: an earlier attempt may have taken effect, and this last failure does not tell. A refusal would. */
void error_after_unknown(struct orderdb_error *e);

#endif
