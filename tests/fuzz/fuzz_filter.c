/* Filters of strangers on events that anything may have happened to. The input: a text up to the first NUL, then an event.
 * A text is refused with a reason, or its canonical text is the same filter. What passes the scan says the same when it is unpacked and packed again. */
#include "engine/filter.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/scan.h"
#include "tests/lib/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct slice normalized(struct slice wire, struct arena *arena) {
    struct failure f;
    failure_init(&f, arena);
    ProtobufCMessage *m = scan_unpack(&orderdb__v1__change_event__descriptor, wire, &scan_limits_default, &f);
    if (!m) return (struct slice){0};
    uint8_t *bytes = arena_alloc(arena, protobuf_c_message_get_packed_size(m));
    check(bytes);
    return slice_of(bytes, protobuf_c_message_pack(m, bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct arena arena;
    struct failure f;
    const struct filter *filter = NULL, *again = NULL;
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    struct slice text = slice_of(data, nul ? (size_t)(nul - data) : size), wire = nul ? slice_of(nul + 1, size - text.len - 1) : (struct slice){0};
    arena_init(&arena, 64 * MIB);
    failure_init(&f, &arena);
    enum status st = filter_parse(&filter, text, &filter_events, "filter", &arena, &f);
    check(st == f.status);
    if (st) {
        check(st == STATUS_FILTER_INVALID);
        check(f.violations);
        check(failure_encode(&f).len > 0);
    } else {
        bool holds = filter_match(filter, wire);
        struct slice printed = filter_print(filter, &arena), event = normalized(wire, &arena);
        check(printed.data);
        if (printed.len <= FILTER_TEXT_BYTES_MAX) {
            check(filter_parse(&again, printed, &filter_events, "filter", &arena, &f) == STATUS_OK);
            check(slice_equal(filter_print(again, &arena), printed));
            check(filter_match(again, wire) == holds);
        }
        if (event.data) check(filter_match(filter, event) == holds);
    }
    arena_fini(&arena);
    return 0;
}
