/* Requests of strangers: whatever passes the scan unpacks within the estimate, or is refused with a reason. First byte: which type. */
#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/mem.h"
#include "proto/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *type_of(unsigned n) {
    static const ProtobufCServiceDescriptor *const services[] = {&orderdb__v1__order_service__descriptor, &orderdb__v1__stream_service__descriptor,
                                                                 &orderdb__v1__admin_service__descriptor};
    n %= services[0]->n_methods + services[1]->n_methods + services[2]->n_methods;
    for (size_t i = 0;; n -= services[i++]->n_methods)
        if (n < services[i]->n_methods) return services[i]->methods[n].input;
}

static size_t taken;
static void *counting_alloc_cb(void *ctx, size_t bytes) {
    taken += bytes;
    return mem_alloc(bytes);
}
static void counting_free_cb(void *ctx, void *p) { mem_free(p); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    const ProtobufCMessageDescriptor *type = type_of(data[0]);
    struct slice wire = slice_of(data + 1, size - 1);
    struct arena arena;
    struct failure f;
    arena_init(&arena, 64 * MIB);
    failure_init(&f, &arena);
    ProtobufCMessage *m = scan_unpack(type, wire, &scan_limits_default, &f);
    check((m != NULL) == (f.status == STATUS_OK));
    if (m) {
        check(m->descriptor == type);
        size_t estimate;
        check(scan_message(type, wire, &scan_limits_default, &estimate, &f) == STATUS_OK);
        ProtobufCAllocator allocator = {counting_alloc_cb, counting_free_cb, NULL};
        taken = 0;
        m = protobuf_c_message_unpack(type, &allocator, wire.len, wire.data);
        check(m);
        check(taken <= estimate);
        protobuf_c_message_free_unpacked(m, &allocator);
        for (size_t n = 0; n < wire.len; n += 1 + wire.len / 16) check(scan_begun(type, slice_of(wire.data, n), &scan_limits_default, &f) == STATUS_OK);
    } else {
        check(failure_encode(&f).len > 0);
    }
    arena_fini(&arena);
    return 0;
}
