#include "server/head.h"

#include "proto/grpc.h"
#include "server/methods.h"

enum { SEEN_METHOD = 1, SEEN_SCHEME = 2, SEEN_PATH = 4, SEEN_AUTHORITY = 8, SEEN_HOST = 16, SEEN_LENGTH = 32, SEEN_REGULAR = 64 };
enum { FIELD_BYTES = 32, SEEN_REQUEST = SEEN_METHOD | SEEN_SCHEME | SEEN_PATH };

void head_begin(struct head *h) {
    *h = (struct head){0};
}

/* RFC 9110 section 5.6.2, in lower case (RFC 9113 section 8.2). */
static bool is_name(struct slice name) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr(others, c)))) return false;
    }
    return name.len > 0;
}
static bool has_upper(struct slice name) {
    for (size_t i = 0; i < name.len; i++)
        if (name.data[i] >= 'A' && name.data[i] <= 'Z') return true;
    return false;
}
static bool is_value(struct slice v) {
    for (size_t i = 0; i < v.len; i++)
        if ((v.data[i] < 0x20 && v.data[i] != '\t') || v.data[i] == 0x7f) return false;
    return true;
}
/* What a pseudo-header may hold: something, and no blanks in it. */
static bool is_token(struct slice v) {
    for (size_t i = 0; i < v.len; i++)
        if (v.data[i] <= 0x20 || v.data[i] == 0x7f) return false;
    return v.len > 0;
}

static void once(struct head *h, uint32_t what) {
    if (h->seen & what) h->malformed = true;
    h->seen |= what;
}

static void read_path(struct head *h, struct slice path) {
    if (path.len == 0 || path.data[0] != '/') h->malformed = true;
    if ((h->method = method_find(path))) return;
    path = slice_cut_utf8(path, HEAD_PATH_BYTES_MAX);
    memcpy(h->path, path.data, path.len);
    h->path_len = (uint8_t)path.len;
}

static void on_pseudo(struct head *h, struct slice name, struct slice value) {
    if (h->seen & SEEN_REGULAR || !is_token(value)) h->malformed = true;
    if (slice_equal(name, SLICE_LIT(":path"))) once(h, SEEN_PATH), read_path(h, value);
    else if (slice_equal(name, SLICE_LIT(":method"))) once(h, SEEN_METHOD), h->is_post = slice_equal(value, SLICE_LIT("POST"));
    else if (slice_equal(name, SLICE_LIT(":scheme"))) once(h, SEEN_SCHEME);
    else if (slice_equal(name, SLICE_LIT(":authority"))) once(h, SEEN_AUTHORITY);
    else h->malformed = true;
}

static void read_length(struct head *h, struct slice v) {
    once(h, SEEN_LENGTH);
    bool digits = v.len > 0 && v.len < sizeof h->length;
    for (size_t i = 0; digits && i < v.len; i++) digits = v.data[i] >= '0' && v.data[i] <= '9';
    if (!digits) return (void)(h->malformed = true);
    memcpy(h->length, v.data, v.len);
    h->length_len = (uint8_t)v.len;
}

static void read_timeout(struct head *h, struct slice v) {
    h->has_timeout = grpc_timeout_parse(v, &h->timeout_ns);
    h->timeout_is_bad = !h->has_timeout;
}

static void read_traceparent(struct head *h, struct slice v) {
    if (!header_is_traceparent(v)) return;
    memcpy(h->traceparent, v.data, HEADER_TRACEPARENT_LEN);
    h->has_traceparent = true;
}

/* RFC 9113 section 8.2.2: those of a connection have no place here. */
static void on_regular(struct head *h, struct slice name, struct slice value) {
    h->seen |= SEEN_REGULAR;
#define IS(text) (memcmp(name.data, text, sizeof(text) - 1) == 0)
    switch (name.len) {
    case 2:
        if (!IS("te")) break;
        if (slice_equal(value, SLICE_LIT("trailers"))) h->has_te = true;
        else h->malformed = true;
        break;
    case 4:
        if (IS("host")) once(h, SEEN_HOST);
        break;
    case 7:
        if (IS("upgrade")) h->malformed = true;
        break;
    case 10:
        if (IS("connection") || IS("keep-alive")) h->malformed = true;
        break;
    case 11:
        if (IS("traceparent")) read_traceparent(h, value);
        break;
    case 12:
        if (IS("content-type")) h->has_content_type = header_is_grpc(value);
        else if (IS("grpc-timeout")) read_timeout(h, value);
        break;
    case 13:
        if (IS("grpc-encoding")) h->encoding_is_unknown = !slice_equal(value, SLICE_LIT("identity"));
        break;
    case 14:
        if (IS("content-length")) read_length(h, value);
        break;
    case 16:
        if (IS("proxy-connection")) h->malformed = true;
        break;
    case 17:
        if (IS("transfer-encoding")) h->malformed = true;
        break;
    default: break;
    }
#undef IS
}

void head_on_field(struct head *h, struct slice name, struct slice value) {
    h->bytes += name.len + value.len + FIELD_BYTES;
    if (name.len && name.data[0] == ':') return on_pseudo(h, name, value);
    if (has_upper(name)) h->malformed = true;
    else if (is_name(name) && is_value(value)) on_regular(h, name, value);
    else h->seen |= SEEN_REGULAR; /* what no field may look like is as if it were not there */
}

void head_end(struct head *h) {
    if ((h->seen & SEEN_REQUEST) != SEEN_REQUEST || !(h->seen & (SEEN_AUTHORITY | SEEN_HOST))) h->malformed = true;
}

bool head_is_plain(const struct head *h) {
    return !h->malformed && h->method && h->is_post && h->has_content_type && h->has_te && !h->timeout_is_bad && !h->encoding_is_unknown;
}
