/* What single request headers must look like. */
#ifndef SERVER_HEADERS_H
#define SERVER_HEADERS_H

#include "proto/base/bytes.h"

enum { HEADER_TRACEPARENT_LEN = 55 };

bool header_is_grpc(struct slice content_type); /* application/grpc or +proto, with or without parameters */
bool header_is_traceparent(struct slice value); /* version 00 exactly; what does not parse is as if it were not there */

#endif
