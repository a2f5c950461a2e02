#include "client/message.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/mem.h"

enum { REQUEST_ID_RANDOM_BYTES = 16 };

static void *message_alloc_cb(void *user, size_t n) { return mem_alloc(n); }
static void message_free_cb(void *user, void *p) { mem_free(p); }
static ProtobufCAllocator message_allocator = {message_alloc_cb, message_free_cb, NULL};

void orderdb_message_free(void *message) {
    if (message) protobuf_c_message_free_unpacked(message, &message_allocator);
}

bool message_pack(struct buf *out, const ProtobufCMessage *m) {
    out->len = 0;
    size_t n = protobuf_c_message_get_packed_size(m);
    if (!buf_reserve(out, n)) return false;
    out->len = protobuf_c_message_pack(m, out->data);
    return true;
}

void *message_unpack(const ProtobufCMessageDescriptor *type, struct slice bytes) {
    return protobuf_c_message_unpack(type, &message_allocator, bytes.len, bytes.data);
}

void message_write_options(const Orderdb__V1__WriteOptions *given, Orderdb__V1__WriteOptions *out, char id[MESSAGE_REQUEST_ID_BYTES]) {
    *out = given ? *given : (Orderdb__V1__WriteOptions)ORDERDB__V1__WRITE_OPTIONS__INIT;
    if (out->request_id && out->request_id[0]) {
        snprintf(id, MESSAGE_REQUEST_ID_BYTES, "%s", out->request_id);
        return;
    }
    uint8_t random[REQUEST_ID_RANDOM_BYTES];
    random_bytes(random, sizeof(random));
    for (size_t i = 0; i < sizeof(random); i++) snprintf(id + 2 * i, 3, "%02x", random[i]);
    out->request_id = id;
}

/* Copies of requests, each with options of its own; they lie at `options` in a request of `bytes`. One piece of memory: the pointers first. */
static void *batch_copy(void *const *requests, size_t n, size_t bytes, size_t options) {
    struct extra {
        Orderdb__V1__WriteOptions options;
        char id[MESSAGE_REQUEST_ID_BYTES];
    };
    size_t pointers = ((n + 1) * sizeof(void *) + 15) & ~(size_t)15, each = (bytes + 15) & ~(size_t)15, extra = (sizeof(struct extra) + 15) & ~(size_t)15;
    uint8_t *memory = mem_alloc(pointers + n * (each + extra));
    if (!memory) return NULL;
    for (size_t i = 0; i < n; i++) {
        uint8_t *copy = memory + pointers + i * (each + extra);
        struct extra *own = (struct extra *)(copy + each);
        memcpy(copy, requests[i], bytes);
        Orderdb__V1__WriteOptions **given = (Orderdb__V1__WriteOptions **)(copy + options);
        message_write_options(*given, &own->options, own->id);
        *given = &own->options;
        ((void **)memory)[i] = copy;
    }
    return memory;
}

void *message_write_creates(Orderdb__V1__BatchCreateOrdersRequest *batch) {
    void *memory = batch_copy((void **)batch->requests, batch->n_requests, sizeof(Orderdb__V1__CreateOrderRequest), offsetof(Orderdb__V1__CreateOrderRequest, options));
    batch->requests = memory;
    return memory;
}

void *message_write_transitions(Orderdb__V1__BatchTransitionOrdersRequest *batch) {
    void *memory = batch_copy((void **)batch->requests, batch->n_requests, sizeof(Orderdb__V1__TransitionOrderRequest), offsetof(Orderdb__V1__TransitionOrderRequest, options));
    batch->requests = memory;
    return memory;
}
