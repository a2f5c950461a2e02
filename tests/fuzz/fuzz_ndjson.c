/* Lines of an import: whatever they hold, they are refused with a reason or become a message that packs, and whose text reads back as the same bytes. */
#include "orderdb/v1/order.pb-c.h"
#include "proto/base/mem.h"
#include "tools/pbjson.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct slice packed(const ProtobufCMessage *m, struct arena *a) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = arena_alloc(a, n + 1);
    check(bytes);
    check(protobuf_c_message_pack(m, bytes) == n);
    return slice_of(bytes, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char error[PBJSON_ERROR_BYTES];
    struct arena a;
    arena_init(&a, 64 * MIB);
    ProtobufCMessage *m = pbjson_parse(&orderdb__v1__import_orders_request__descriptor, slice_of(data, size), &a, error);
    check((m != NULL) == (error[0] == 0));
    if (m) {
        char *text = pbjson_format(m, size % 3);
        check(text);
        ProtobufCMessage *again = pbjson_parse(&orderdb__v1__import_orders_request__descriptor, slice_str(text), &a, error);
        if (!again) panic_now("%s does not read back: %s", text, error);
        char *second = pbjson_format(again, size % 3);
        check(second);
        check(strcmp(text, second) == 0);
        check(packed(again, &a).len <= packed(m, &a).len);
        mem_free(text), mem_free(second);
    }
    arena_fini(&a);
    return 0;
}
