/* CURSOR_EXPIRED of several partitions as one refusal: the ranges that are missing in any of them, in its metadata (ReadChanges, Subscribe). */
#ifndef SERVER_EXPIRED_H
#define SERVER_EXPIRED_H

#include "engine/feed.h"
#include "proto/status.h"

struct expired {
    char text[FEED_MISSING_TOLD * FEED_MISSING_BYTES_MAX]; /* "slot:from-to,...", partition after partition: as many as one partition would tell */
    size_t len;
    unsigned told, slots;
};
/* What one partition has said. */
void expired_add(struct expired *x, const struct failure *one);
/* Sets it. what: "events of %u slots ..." is told of them. */
void expired_fail(const struct expired *x, struct failure *f, const char *what);

#endif
