/* Page tokens: where a list or a history goes on, signed, and bound to the query that it came from. Opaque to callers. Pure.
 *
 *   token = base64url of: format(1) kind(1) fingerprint(16) position(16) mac(16)
 *   mac   = format 2: SipHash-2-4 of 128 bits of all before it, keyed by the first 16 bytes of HMAC-SHA256(token key, "orderdb page token")
 *           format 1, of older tokens: the first 16 bytes of HMAC-SHA256(token key, all before it)
 * A list that is sorted by names has text instead of position(16), as long as it is; its kinds have no other form.
 * The position is one of the data (a time and an id, a version), not of a place or a page, so a token outlives restart, resharding and changes. */
#ifndef ENGINE_PAGE_TOKEN_H
#define ENGINE_PAGE_TOKEN_H

#include "proto/base/hash.h"

enum page_token_kind { PAGE_TOKEN_LIST = 'L', PAGE_TOKEN_HISTORY = 'Y', PAGE_TOKEN_RESOURCES = 'R', PAGE_TOKEN_GROUPS = 'G', PAGE_TOKEN_LETTERS = 'D' };
enum { PAGE_TOKEN_BYTES = 1 + 1 + 16 + 16 + 16, PAGE_TOKEN_TEXT_BYTES = (PAGE_TOKEN_BYTES * 4 + 2) / 3 };

struct page_token {
    enum page_token_kind kind;
    struct hash128 query; /* fingerprint of what the token is for */
    int64_t position[2];
};
struct slice page_token_encode(const struct page_token *t, struct slice key, char out[PAGE_TOKEN_TEXT_BYTES]);
/* Fills t->position; kind and query are what the token must be for. false: forged, damaged, of another query or cluster. */
bool page_token_decode(struct slice text, struct slice key, struct page_token *t) MUST_USE;

enum { PAGE_TOKEN_NAME_BYTES_MAX = 80, PAGE_TOKEN_NAMED_TEXT_BYTES_MAX = ((PAGE_TOKEN_BYTES - 16 + PAGE_TOKEN_NAME_BYTES_MAX) * 4 + 2) / 3 };
/* The same with a text of at most PAGE_TOKEN_NAME_BYTES_MAX as the position. */
struct slice page_token_encode_named(enum page_token_kind kind, struct hash128 query, struct slice position, struct slice key, char out[PAGE_TOKEN_NAMED_TEXT_BYTES_MAX + 3]);
bool page_token_decode_named(struct slice text, enum page_token_kind kind, struct hash128 query, struct slice key, uint8_t position[PAGE_TOKEN_NAME_BYTES_MAX], size_t *len) MUST_USE;

#endif
