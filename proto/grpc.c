#include "proto/grpc.h"

#include <stdio.h>

void grpc_frame_head(uint8_t head[GRPC_FRAME_HEAD], uint32_t len) {
    head[0] = 0;
    put_be32(head + 1, len);
}

bool grpc_frame_parse(const uint8_t head[GRPC_FRAME_HEAD], bool *compressed, uint32_t *len) {
    *compressed = head[0] == 1;
    *len = get_be32(head + 1);
    return head[0] <= 1;
}

/* ---- timeouts ---- */

static const struct {
    char unit;
    uint64_t ns;
} units[] = {{'n', 1}, {'u', NS_PER_US}, {'m', NS_PER_MS}, {'S', NS_PER_S}, {'M', 60 * NS_PER_S}, {'H', 3600 * NS_PER_S}};

/* 8 digits of hours are more than 64 bits of nanoseconds. What comes out can be added to a clock without wrapping. */
static uint64_t timeout_clamp(uint64_t n, uint64_t unit_ns) { return n > INT64_MAX / unit_ns ? INT64_MAX : n * unit_ns; }

bool grpc_timeout_parse(struct slice text, uint64_t *ns) {
    if (text.len < 2 || text.len > 9) return false;
    uint64_t n = 0;
    for (size_t i = 0; i + 1 < text.len; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') return false;
        n = n * 10 + (uint64_t)(text.data[i] - '0');
    }
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (text.data[text.len - 1] == (uint8_t)units[i].unit) return *ns = timeout_clamp(n, units[i].ns), true;
    return false;
}

size_t grpc_timeout_format(uint64_t ns, char out[16]) {
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        uint64_t n = ns / units[i].ns + (ns % units[i].ns != 0); /* up: a deadline must not turn into "at once" */
        if (n <= 99999999) return (size_t)snprintf(out, 16, "%llu%c", (unsigned long long)n, units[i].unit);
    }
    return (size_t)snprintf(out, 16, "99999999H");
}

/* ---- percent-encoding ---- */

static const char hex_digits[] = "0123456789ABCDEF";

size_t grpc_percent_encode(struct slice s, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            out[n++] = (char)c;
        } else {
            out[n++] = '%', out[n++] = hex_digits[c >> 4], out[n++] = hex_digits[c & 15];
        }
    }
    return n;
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A '%' that begins no escape stays as it is: the text is for people, and half of it is better than none. */
size_t grpc_percent_decode(struct slice s, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) {
        int high = s.data[i] == '%' && i + 2 < s.len ? hex_value(s.data[i + 1]) : -1;
        int low = high >= 0 ? hex_value(s.data[i + 2]) : -1;
        if (low >= 0) out[n++] = (char)(high << 4 | low), i += 2;
        else out[n++] = (char)s.data[i];
    }
    return n;
}

/* ---- base64, RFC 4648 ---- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char alphabet_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static size_t encode_with(const char *digits, struct slice s, char *out) {
    size_t n = 0;
    uint32_t bits = 0;
    unsigned have = 0;
    for (size_t i = 0; i < s.len; i++) {
        bits = (bits << 8 | s.data[i]) & 0xfffff;
        for (have += 8; have >= 6; have -= 6) out[n++] = digits[bits >> (have - 6) & 63];
    }
    if (have) out[n++] = digits[bits << (6 - have) & 63];
    return n;
}

size_t base64_encode(struct slice s, char *out) { return encode_with(alphabet, s, out); }
size_t base64_encode_url(struct slice s, char *out) { return encode_with(alphabet_url, s, out); }

static int base64_value(uint8_t c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    return c == '/' || c == '_' ? 63 : -1;
}

/* Only what the encoder could have written (section 3.5): leftover bits are zero, padding is whole. Else two texts would be one token. */
size_t base64_decode(struct slice s, uint8_t *out) {
    size_t len = s.len;
    for (unsigned pads = 0; pads < 2 && len && s.len % 4 == 0 && s.data[len - 1] == '='; pads++) len--;
    if (len % 4 == 1) return SIZE_MAX;
    size_t n = 0;
    uint32_t bits = 0;
    unsigned have = 0;
    for (size_t i = 0; i < len; i++) {
        int v = base64_value(s.data[i]);
        if (v < 0) return SIZE_MAX;
        bits = (bits << 6 | (uint32_t)v) & 0xfffff;
        have += 6;
        if (have >= 8) have -= 8, out[n++] = (uint8_t)(bits >> have);
    }
    return bits & ((1u << have) - 1) ? SIZE_MAX : n;
}
