/* Bytes come in pieces; the messages are those that the same bytes hold when they are looked at whole.
 *   byte 0: size of the pieces; byte 1: the largest message that is taken, in units of 4 bytes */
#include "client/inflow.h"
#include "proto/base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    size_t piece = data[0] + 1u, largest = data[1] * 4u;
    struct slice all = slice_of(data + 2, size - 2);
    struct inflow in;
    inflow_init(&in);
    size_t at = 0; /* of the message that comes next */
    enum inflow_result r = INFLOW_OK;
    for (size_t fed = 0; fed < all.len && r == INFLOW_OK;) {
        size_t n = MIN_OF(piece, all.len - fed);
        r = inflow_feed(&in, slice_of(all.data + fed, n), largest);
        fed += n;
        for (struct slice m; inflow_first(&in, &m);) {
            check(all.data[at] == 0 && get_be32(all.data + at + 1) == m.len && m.len <= largest);
            check(at + GRPC_FRAME_HEAD + m.len <= fed);
            check(m.len == 0 || memcmp(m.data, all.data + at + GRPC_FRAME_HEAD, m.len) == 0);
            at += inflow_release(&in);
        }
        if (r == INFLOW_OK) check(inflow_is_between(&in) == (at == fed));
    }
    /* What stopped it is at the head of the next message. */
    if (r == INFLOW_COMPRESSED) check(all.data[at] != 0);
    if (r == INFLOW_TOO_LARGE) check(all.data[at] == 0 && get_be32(all.data + at + 1) > largest);
    check(r != INFLOW_MEMORY);
    inflow_fini(&in);
    return 0;
}
