#include "proto/base/hash.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sys/random.h>
#include <xxhash.h>

static uint32_t crc_table[256];

__attribute__((constructor)) static void crc_init(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
        crc_table[i] = c;
    }
}

static uint32_t crc_soft(uint32_t c, const uint8_t *p, size_t n) {
    while (n--) c = crc_table[(c ^ *p++) & 255] ^ c >> 8;
    return c;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc_hard(uint32_t c, const uint8_t *p, size_t n) {
    uint64_t wide = c;
    for (; n >= 8; n -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, get_le64(p));
    c = (uint32_t)wide;
    for (; n; n--) c = __builtin_ia32_crc32qi(c, *p++);
    return c;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t len) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) return ~crc_hard(~crc, data, len);
#endif
    return ~crc_soft(~crc, data, len);
}

uint64_t hash64(struct slice s) { return XXH3_64bits(s.data, s.len); }

struct hash128 hash128(struct slice s) {
    XXH128_hash_t h = XXH3_128bits(s.data, s.len);
    return (struct hash128){h.low64, h.high64};
}

/* One context a thread, made at its first hash (a fetch costs more than the hash) and freed at its end. */
static _Thread_local EVP_MD_CTX *sha_ctx;
static _Thread_local EVP_MD *sha_md;
static pthread_key_t sha_key;
static void sha_fini(void *unused) { EVP_MD_CTX_free(sha_ctx), EVP_MD_free(sha_md), sha_ctx = NULL, sha_md = NULL; }
__attribute__((constructor)) static void sha_key_init(void) { check(pthread_key_create(&sha_key, sha_fini) == 0); }
static void sha_init(void) {
    sha_ctx = EVP_MD_CTX_new();
    sha_md = EVP_MD_fetch(NULL, "SHA256", NULL);
    check(sha_ctx);
    check(sha_md);
    check(pthread_setspecific(sha_key, sha_ctx) == 0);
}

void sha256(uint8_t out[SHA256_BYTES], const struct slice *parts, size_t n) {
    if (!sha_ctx) sha_init();
    check(EVP_DigestInit_ex2(sha_ctx, sha_md, NULL) == 1);
    uint8_t few[512]; /* short parts are put together: an update costs as much as hashing 100 bytes */
    struct writer w = writer_of(few, sizeof few);
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len > w.cap - w.len) {
            check(EVP_DigestUpdate(sha_ctx, few, w.len) == 1);
            w.len = 0;
        }
        if (parts[i].len > w.cap) check(EVP_DigestUpdate(sha_ctx, parts[i].data, parts[i].len) == 1);
        else write_slice(&w, parts[i]);
    }
    check(EVP_DigestUpdate(sha_ctx, few, w.len) == 1);
    check(EVP_DigestFinal_ex(sha_ctx, out, NULL) == 1);
}

/* RFC 2104. By hand, on the context above: OpenSSL's one-shot fetches its algorithms anew each time, which costs five times the hashing of a page token. */
void hmac_sha256(uint8_t out[SHA256_BYTES], struct slice key, struct slice data) {
    enum { BLOCK = 64 };
    uint8_t inner[BLOCK], outer[BLOCK], short_key[SHA256_BYTES], digest[SHA256_BYTES];
    if (key.len > BLOCK) {
        sha256(short_key, &key, 1);
        key = slice_of(short_key, sizeof short_key);
    }
    for (size_t i = 0; i < BLOCK; i++) {
        uint8_t k = i < key.len ? key.data[i] : 0;
        inner[i] = k ^ 0x36, outer[i] = k ^ 0x5c;
    }
    sha256(digest, (struct slice[]){slice_of(inner, BLOCK), data}, 2);
    sha256(out, (struct slice[]){slice_of(outer, BLOCK), slice_of(digest, sizeof digest)}, 2);
    OPENSSL_cleanse(inner, sizeof inner), OPENSSL_cleanse(outer, sizeof outer), OPENSSL_cleanse(short_key, sizeof short_key);
}

void hmac_derive(uint8_t out[SHA256_BYTES], const uint8_t key[32], struct slice label) {
    enum { KEPT = 4, LABEL_MAX = 24 };
    static _Thread_local struct derived {
        uint8_t key[32], label[LABEL_MAX], bytes[SHA256_BYTES];
        size_t label_len; /* 0: none */
    } kept[KEPT];
    static _Thread_local unsigned next;
    check(label.len && label.len <= LABEL_MAX);
    for (unsigned i = 0; i < KEPT; i++) {
        const struct derived *d = &kept[i];
        if (d->label_len == label.len && memcmp(d->label, label.data, label.len) == 0 && memcmp(d->key, key, sizeof d->key) == 0) {
            memcpy(out, d->bytes, sizeof d->bytes);
            return;
        }
    }
    struct derived *d = &kept[next++ % KEPT];
    memcpy(d->key, key, sizeof d->key), memcpy(d->label, label.data, d->label_len = label.len);
    hmac_sha256(d->bytes, slice_of(key, sizeof d->key), label);
    memcpy(out, d->bytes, sizeof d->bytes);
}

/* Section 2 of the paper; 128 bits as the authors' second version has them (the 0xee and 0xdd). By hand, since OpenSSL's one-shot looks its algorithm up by name each time. */
struct sip {
    uint64_t a, b, c, d;
};
static inline uint64_t rotated(uint64_t x, unsigned bits) { return x << bits | x >> (64 - bits); }
static inline void sip_rounds(struct sip *s, unsigned rounds) {
    for (; rounds; rounds--) {
        s->a += s->b, s->c += s->d;
        s->b = rotated(s->b, 13) ^ s->a, s->d = rotated(s->d, 16) ^ s->c;
        s->a = rotated(s->a, 32);
        s->c += s->b, s->a += s->d;
        s->b = rotated(s->b, 17) ^ s->c, s->d = rotated(s->d, 21) ^ s->a;
        s->c = rotated(s->c, 32);
    }
}
static inline void sip_word(struct sip *s, uint64_t word) {
    s->d ^= word;
    sip_rounds(s, 2);
    s->a ^= word;
}

void siphash(uint8_t out[SIPHASH_BYTES], const uint8_t key[16], struct slice data) {
    uint64_t low = get_le64(key), high = get_le64(key + 8);
    struct sip s = {low ^ 0x736f6d6570736575, high ^ 0x646f72616e646f6d ^ 0xee, low ^ 0x6c7967656e657261, high ^ 0x7465646279746573};
    size_t at = 0;
    for (; data.len - at >= 8; at += 8) sip_word(&s, get_le64(data.data + at));
    uint8_t last[8] = {[7] = (uint8_t)data.len};
    if (at < data.len) memcpy(last, data.data + at, data.len - at);
    sip_word(&s, get_le64(last));
    s.c ^= 0xee;
    sip_rounds(&s, 4);
    put_le64(out, s.a ^ s.b ^ s.c ^ s.d);
    s.b ^= 0xdd;
    sip_rounds(&s, 4);
    put_le64(out + 8, s.a ^ s.b ^ s.c ^ s.d);
}

bool bytes_equal_constant_time(const void *a, const void *b, size_t len) { return CRYPTO_memcmp(a, b, len) == 0; }

void random_bytes(void *out, size_t len) {
    uint8_t *p = out;
    while (len) {
        ssize_t n = getrandom(p, MIN_OF(len, (size_t)256), 0);
        check(n > 0);
        p += n, len -= (size_t)n;
    }
}

const char *hash_library_version(void) { return OpenSSL_version(OPENSSL_VERSION); }
