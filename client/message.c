#include "client/message.h"

#include <stdio.h>

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
