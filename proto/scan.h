/* A look at protobuf wire bytes before they are unpacked: bounds what unpacking can cost (protobuf-c turns 4 MiB of empty sub-messages into
 * 256 MiB, and deep nesting overflows the stack) and refuses what it does not check (UTF-8, NUL). Generic over protobuf-c descriptors.
 * Iterative or depth-bounded; allocates nothing. */
#ifndef PROTO_SCAN_H
#define PROTO_SCAN_H

#include <protobuf-c/protobuf-c.h>

#include "proto/status.h"

struct scan_limits {
    uint32_t depth_max;       /* 16 */
    uint32_t elements_max;    /* repeated elements, sub-messages and map entries in all */
    uint32_t unknown_bytes_max;
    size_t unpacked_bytes_max; /* what the unpacked form would take, estimated from the descriptors */
};
extern const struct scan_limits scan_limits_default;

/* OK, or a violation in f whose field is the path, "order.items[3].title". *unpacked_bytes: the estimate. */
enum status scan_message(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, size_t *unpacked_bytes, struct failure *f) MUST_USE;
/* The same of the first bytes of a message that is still coming: refuses what scan_message would refuse of the whole, as far as these bytes show it. */
enum status scan_begun(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, struct failure *f) MUST_USE;
/* scan_message, then unpack with the failure's arena as allocator. NULL: f says why. Never freed: the arena goes with the request. */
ProtobufCMessage *scan_unpack(const ProtobufCMessageDescriptor *type, struct slice wire, const struct scan_limits *limits, struct failure *f);
bool utf8_valid(struct slice s);

#endif
