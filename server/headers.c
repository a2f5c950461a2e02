#include "server/headers.h"

bool header_is_grpc(struct slice content_type) {
    struct slice prefix = SLICE_LIT("application/grpc");
    if (!slice_starts_with(content_type, prefix)) return false;
    struct slice rest = slice_of(content_type.data + prefix.len, content_type.len - prefix.len);
    return rest.len == 0 || rest.data[0] == ';' || slice_equal(rest, SLICE_LIT("+proto")) || slice_starts_with(rest, SLICE_LIT("+proto;"));
}

static bool lower_hex_nonzero(const uint8_t *p, size_t n, bool zero_is_fine) {
    bool nonzero = false;
    for (size_t i = 0; i < n; i++) {
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'))) return false;
        nonzero |= p[i] != '0';
    }
    return nonzero || zero_is_fine;
}

/* W3C Trace Context section 3.2. */
bool header_is_traceparent(struct slice v) {
    if (v.len != HEADER_TRACEPARENT_LEN || v.data[0] != '0' || v.data[1] != '0' || v.data[2] != '-' || v.data[35] != '-' || v.data[52] != '-') return false;
    return lower_hex_nonzero(v.data + 3, 32, false) && lower_hex_nonzero(v.data + 36, 16, false) && lower_hex_nonzero(v.data + 53, 2, true);
}
