/* Where a channel connects to: "host:port", "1.2.3.4:port", "[::1]:port"; without a port the default. */
#ifndef CLIENT_TARGET_H
#define CLIENT_TARGET_H

#include "proto/base/base.h"

struct target {
    char *host, *port;
    char *authority; /* "host:port", for :authority and messages; IPv6 in brackets */
};
/* 0, EINVAL or ENOMEM (then *t is empty). */
int target_parse(struct target *t, const char *text, const char *port_default) MUST_USE;
void target_fini(struct target *t);

#endif
