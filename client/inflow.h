/* The messages of a stream's answer: bytes as they come, out come whole gRPC messages, in order, each in memory of its own that stays where it is until it is released. */
#ifndef CLIENT_INFLOW_H
#define CLIENT_INFLOW_H

#include "proto/base/bytes.h"
#include "proto/base/list.h"
#include "proto/grpc.h"

struct inflow_message;
struct inflow {
    /* private */
    struct list whole;
    struct inflow_message *part; /* its head is there, its end is not */
    uint8_t head[GRPC_FRAME_HEAD];
    unsigned head_len;
};
enum inflow_result { INFLOW_OK, INFLOW_TOO_LARGE, INFLOW_COMPRESSED, INFLOW_MEMORY };

void inflow_init(struct inflow *in);
void inflow_fini(struct inflow *in);
enum inflow_result inflow_feed(struct inflow *in, struct slice bytes, size_t message_bytes_max) MUST_USE; /* not INFLOW_OK: feed no more */
bool inflow_first(const struct inflow *in, struct slice *message) MUST_USE; /* false: none is whole */
size_t inflow_release(struct inflow *in); /* the first; how many bytes of the stream it was */
bool inflow_is_between(const struct inflow *in); /* no message has begun and not ended */

#endif
