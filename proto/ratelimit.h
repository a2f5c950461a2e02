/* What a RateLimit resource's scope and method mean: for the check when one is applied, and for the server that keeps to it. */
#ifndef PROTO_RATELIMIT_H
#define PROTO_RATELIMIT_H

#include "proto/base/bytes.h"

enum limit_scope { LIMIT_GLOBAL, LIMIT_PRINCIPAL, LIMIT_USER, LIMIT_MERCHANT, LIMIT_SCOPES };
const char *limit_scope_name(enum limit_scope scope); /* "global", "principal", "user", "merchant" */
bool limit_scope_of(const char *name, enum limit_scope *out);

/* Bits of rows in methods.tbl: "" all of OrderService and StreamService, a service and "/" and "*" all of that, "OrderService/GetOrder" a method. AdminService, health and reflection are
 * never limited, or nobody could lift a limit. Of scope user and merchant only methods whose requests name one: those that name an order are known to be of a
 * user only behind the read. 0: none. */
uint64_t limit_method_rows(const char *method, enum limit_scope scope);

#define LIMIT_PER_SECOND_MIN 0.001
#define LIMIT_PER_SECOND_MAX 1e9
#define LIMIT_BURST_MAX (1ll << 40)
#define LIMIT_FILL_SECONDS_MAX (31.0 * 86400) /* burst / per_second: how long an empty bucket takes to be full */

#endif
