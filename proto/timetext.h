/* Points in time as text: RFC 3339 in UTC, to and from seconds and nanoseconds since 1970. Years 1 to 9999, as google.protobuf.Timestamp. */
#ifndef PROTO_TIMETEXT_H
#define PROTO_TIMETEXT_H

#include "proto/base/bytes.h"

enum { TIME_TEXT_BYTES = 40 };

/* "2026-11-23T06:33:35Z", with a fraction of up to 9 digits, with an offset "+08:00"; a space for the T; without a zone it is UTC; a date alone is
 * its midnight. false: none of these, or no such day. */
bool time_parse(struct slice text, int64_t *seconds, int32_t *nanos);
/* "2026-11-23T06:33:35Z" with 0, 3, 6 or 9 digits of fraction. Out of range: "(time out of range)". */
void time_format(int64_t seconds, int32_t nanos, char out[TIME_TEXT_BYTES]);

#endif
