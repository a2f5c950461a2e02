/* What recover --inspect wrote, carried to another machine: whatever a file holds, it is refused with a line in it, or is printed again as it was. What is read can be compared. */
#include "proto/base/mem.h"
#include "server/survivors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct survivor s;
    struct buf out = {0};
    char error[256] = "";
    bool ok = survivor_parse(&s, slice_of(data, size), error) == STATUS_OK;
    check(ok == !strstr(error, "line "));
    if (ok) {
        check(survivor_print(&s, &out));
        check(slice_equal(buf_slice(&out), slice_of(data, size)) || memchr(data, '\r', size));
        out.len = 0;
        check(survivors_compare(&s, 1, &out, error) == STATUS_OK && out.len > 0);
    }
    survivor_fini(&s);
    buf_fini(&out);
    return 0;
}
