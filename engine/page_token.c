#include "engine/page_token.h"

#include "proto/grpc.h"

enum { TOKEN_FORMAT_HMAC = 1, TOKEN_FORMAT = 2, MAC_BYTES = 16, SIGNED_BYTES = PAGE_TOKEN_BYTES - MAC_BYTES };
static_assert(BASE64_LEN(PAGE_TOKEN_BYTES) >= PAGE_TOKEN_TEXT_BYTES, "no padding is written");

static_assert((int)MAC_BYTES == SIPHASH_BYTES, "it is the mac");

static void sign(struct writer *w, uint8_t format, struct slice key) {
    uint8_t mac[SHA256_BYTES], derived[SHA256_BYTES];
    check(key.len == 32);
    if (format == TOKEN_FORMAT_HMAC) hmac_sha256(mac, key, writer_slice(w));
    else hmac_derive(derived, key.data, SLICE_LIT("orderdb page token")), siphash(mac, derived, writer_slice(w));
    write_bytes(w, mac, MAC_BYTES);
}

/* Those of the older format are read as long as they lie in bookmarks. */
static uint8_t format_claimed(const uint8_t *sent) { return sent[0] == TOKEN_FORMAT_HMAC ? TOKEN_FORMAT_HMAC : TOKEN_FORMAT; }

static void token_write(const struct page_token *t, uint8_t format, struct slice key, uint8_t bytes[PAGE_TOKEN_BYTES]) {
    struct writer w = writer_of(bytes, PAGE_TOKEN_BYTES);
    write_u8(&w, format);
    write_u8(&w, (uint8_t)t->kind);
    write_be64(&w, t->query.high);
    write_be64(&w, t->query.low);
    write_be64(&w, (uint64_t)t->position[0]);
    write_be64(&w, (uint64_t)t->position[1]);
    sign(&w, format, key);
    check(!w.full);
    check(w.len == PAGE_TOKEN_BYTES);
}

struct slice page_token_encode(const struct page_token *t, struct slice key, char out[PAGE_TOKEN_TEXT_BYTES]) {
    uint8_t bytes[PAGE_TOKEN_BYTES];
    token_write(t, TOKEN_FORMAT, key, bytes);
    return slice_of(out, base64_encode_url(slice_of(bytes, sizeof bytes), out));
}

/* Written again from what it claims, a genuine token comes out the same: one comparison covers format, kind, query and signature, and tells a
 * forger by its timing nothing about which of them was wrong. */
bool page_token_decode(struct slice text, struct slice key, struct page_token *t) {
    uint8_t sent[PAGE_TOKEN_BYTES + 3], genuine[PAGE_TOKEN_BYTES];
    if (text.len != PAGE_TOKEN_TEXT_BYTES || base64_decode(text, sent) != PAGE_TOKEN_BYTES) return false;
    struct page_token claimed = {t->kind, t->query, {(int64_t)get_be64(sent + 18), (int64_t)get_be64(sent + 26)}};
    token_write(&claimed, format_claimed(sent), key, genuine);
    if (!bytes_equal_constant_time(sent, genuine, PAGE_TOKEN_BYTES)) return false;
    *t = claimed;
    return true;
}

/* ---- with a text as the position */

enum { NAMED_HEAD_BYTES = 1 + 1 + 16, NAMED_BYTES_MAX = NAMED_HEAD_BYTES + PAGE_TOKEN_NAME_BYTES_MAX + MAC_BYTES };

static size_t named_write(enum page_token_kind kind, uint8_t format, struct hash128 query, struct slice position, struct slice key, uint8_t bytes[NAMED_BYTES_MAX]) {
    struct writer w = writer_of(bytes, NAMED_BYTES_MAX);
    write_u8(&w, format);
    write_u8(&w, (uint8_t)kind);
    write_be64(&w, query.high);
    write_be64(&w, query.low);
    write_slice(&w, position);
    sign(&w, format, key);
    check(!w.full);
    return w.len;
}

struct slice page_token_encode_named(enum page_token_kind kind, struct hash128 query, struct slice position, struct slice key, char out[PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 3]) {
    uint8_t bytes[NAMED_BYTES_MAX];
    static_assert(BASE64_LEN(NAMED_BYTES_MAX) <= PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 3, "room for what the encoder may write");
    size_t n = named_write(kind, TOKEN_FORMAT, query, position, key, bytes);
    return slice_of(out, base64_encode_url(slice_of(bytes, n), out));
}

bool page_token_decode_named(struct slice text, enum page_token_kind kind, struct hash128 query, struct slice key, uint8_t position[PAGE_TOKEN_NAME_BYTES_MAX], size_t *len) {
    uint8_t sent[NAMED_BYTES_MAX + 3], genuine[NAMED_BYTES_MAX];
    if (text.len > PAGE_TOKEN_NAMED_TEXT_BYTES_MAX) return false;
    size_t n = base64_decode(text, sent);
    if (n < NAMED_HEAD_BYTES + MAC_BYTES || n > NAMED_BYTES_MAX) return false;
    *len = n - NAMED_HEAD_BYTES - MAC_BYTES;
    memcpy(position, sent + NAMED_HEAD_BYTES, *len);
    return named_write(kind, format_claimed(sent), query, slice_of(position, *len), key, genuine) == n && bytes_equal_constant_time(sent, genuine, n);
}
