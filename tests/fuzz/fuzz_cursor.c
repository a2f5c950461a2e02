/* Cursors of strangers, and bodies that a leaked key has signed. First byte: what of it. A cursor is taken only if this key has signed it, and says the
 * same when it is encoded again and decoded. */
#include "engine/cursor.h"
#include "proto/base/hash.h"
#include "tests/lib/test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIGN = 1, OF_USER = 2 };
static const uint8_t key_bytes[32] = {1, 2, 3};
static const struct slice key = {key_bytes, 32}, alice = {(const uint8_t *)"alice", 5};

static void mac(uint8_t out[SIPHASH_BYTES], struct slice s) {
    uint8_t keys[SHA256_BYTES];
    hmac_sha256(keys, key, SLICE_LIT("orderdb cursor"));
    siphash(out, keys + 16, s);
}

/* The head of a real cursor, this body, a genuine signature. */
static size_t sign(uint8_t out[CURSOR_BYTES_MAX], struct slice user_id, struct slice body) {
    static struct cursor nothing;
    cursor_init(&nothing);
    size_t n = cursor_encode(&nothing, user_id, key, out) - CURSOR_MAC_BYTES;
    memcpy(out + n, body.data, body.len);
    n += body.len;
    mac(out + n, slice_of(out, n));
    return n + CURSOR_MAC_BYTES;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct cursor cursor, again;
    static uint8_t bytes[CURSOR_BYTES_MAX], out[CURSOR_BYTES_MAX];
    if (!size || size > CURSOR_BYTES_MAX / 2) return 0;
    struct slice user_id = data[0] & OF_USER ? alice : (struct slice){0}, sent = slice_of(data + 1, size - 1);
    if (data[0] & SIGN) sent = slice_of(bytes, sign(bytes, user_id, sent));
    struct arena arena;
    struct failure f;
    arena_init(&arena, 1 * MIB);
    failure_init(&f, &arena);
    enum status st = cursor_decode(&cursor, sent, user_id, key, "cursor", &f);
    check(f.status == st);
    check(st == STATUS_OK || st == STATUS_CURSOR_INVALID);
    if (st == STATUS_OK) {
        uint8_t genuine[SIPHASH_BYTES];
        mac(genuine, slice_of(sent.data, sent.len - CURSOR_MAC_BYTES));
        check(memcmp(genuine, sent.data + sent.len - CURSOR_MAC_BYTES, CURSOR_MAC_BYTES) == 0);
        size_t n = cursor_encode(&cursor, user_id, key, out);
        check(cursor_decode(&again, slice_of(out, n), user_id, key, "cursor", &f) == STATUS_OK);
        check(memcmp(&cursor, &again, sizeof cursor) == 0);
    }
    arena_fini(&arena);
    return 0;
}
