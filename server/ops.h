/* The pages of the operations port: /healthz, /readyz, /metrics. On core 0. */
#ifndef SERVER_OPS_H
#define SERVER_OPS_H

#include "server/http.h"

struct node;
/* ctx of http_new: the node. */
void ops_handle(void *ctx, struct http_exchange *x, struct slice path);

#endif
