/* Files of orderctl: whatever a file holds, it is refused with a line in it, or becomes JSON that is read as a StatusMachine or refused with a path. */
#include "tests/lib/test.h"

#include "orderdb/v1/admin.pb-c.h"
#include "tools/pbjson.h"
#include "tools/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct yaml y;
    unsigned line;
    char error[PBJSON_ERROR_BYTES] = "";
    struct arena arena;
    arena_init(&arena, 16 << 20);
    bool ok = yaml_read(slice_of(data, size), &y, &line, error);
    check(ok == !error[0]);
    check(ok || line >= 1);
    if (ok) {
        check(y.place_count >= 1);
        ProtobufCMessage *m = pbjson_parse(&orderdb__v1__status_machine__descriptor, buf_slice(&y.json), &arena, error);
        check((m != NULL) == !error[0]);
        check(strncmp(error, "not JSON", 8) != 0); /* what we write is */
        check(yaml_line(&y, error) >= 1);
    }
    yaml_fini(&y);
    arena_fini(&arena);
    return 0;
}
