/* Headers and trailers of strangers: timeouts, percent-encoding, base64, frames, status details. What decodes, encodes back to the same. */
#include "proto/details.h"
#include "proto/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void base64_both_ways(struct slice s, struct arena *a) {
    uint8_t *bytes = arena_alloc(a, s.len + 3);
    char *text = arena_alloc(a, s.len + 8);
    check(bytes);
    check(text);
    size_t n = base64_decode(s, bytes);
    if (n == SIZE_MAX) return;
    check(n <= s.len / 4 * 3 + 3);
    struct slice again = slice_of(text, base64_encode(slice_of(bytes, n), text));
    check(again.len <= s.len);
    uint8_t *second = arena_alloc(a, s.len + 3);
    check(second);
    check(base64_decode(again, second) == n);
    check(memcmp(bytes, second, n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct slice s = slice_of(data, size);
    struct arena arena;
    arena_init(&arena, 8 * MIB);
    uint64_t ns;
    if (grpc_timeout_parse(s, &ns)) check(ns <= INT64_MAX);
    char *percent = arena_alloc(&arena, 3 * size + 1), *plain = arena_alloc(&arena, 3 * size + 1);
    check(percent);
    check(plain);
    size_t n = grpc_percent_encode(s, percent);
    check(grpc_percent_decode(slice_of(percent, n), plain) == size);
    check(size == 0 || memcmp(plain, data, size) == 0);
    check(grpc_percent_decode(s, plain) <= size);
    base64_both_ways(s, &arena);
    if (size >= GRPC_FRAME_HEAD) {
        bool compressed;
        uint32_t len;
        if (!grpc_frame_parse(data, &compressed, &len)) check(data[0] > 1);
    }
    struct details d;
    if (details_decode(s, &arena, &d)) check(d.message != NULL);
    arena_fini(&arena);
    return 0;
}
