/* Hashes, each for one purpose: CRC32C for storage, XXH3 for placement and fingerprints, SHA-256 and HMAC for what must not
 * be forged, SipHash for what must not and is long. The only includer of OpenSSL and xxhash outside TLS. */
#ifndef PROTO_BASE_HASH_H
#define PROTO_BASE_HASH_H

#include "proto/base/bytes.h"

struct hash128 {
    uint64_t low, high;
};
enum { SHA256_BYTES = 32 };

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4); start with crc = 0, chain by passing the previous result. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
uint64_t hash64(struct slice s);           /* XXH3-64, seed 0; fixed for ever: slots depend on it */
struct hash128 hash128(struct slice s);    /* XXH3-128, seed 0; fixed for ever: stored fingerprints depend on it */
void sha256(uint8_t out[SHA256_BYTES], const struct slice *parts, size_t n);
void hmac_sha256(uint8_t out[SHA256_BYTES], struct slice key, struct slice data);
/* HMAC-SHA256(key, label), for keys that are needed again and again: a thread remembers the last few. label: a name of at most 24 bytes. */
void hmac_derive(uint8_t out[SHA256_BYTES], const uint8_t key[32], struct slice label);
/* SipHash-2-4 of 128 bits (Aumasson, Bernstein 2012): a MAC, for short texts at a twentieth of HMAC's price where the processor has no instructions for SHA. */
enum { SIPHASH_BYTES = 16 };
void siphash(uint8_t out[SIPHASH_BYTES], const uint8_t key[16], struct slice data);
bool bytes_equal_constant_time(const void *a, const void *b, size_t len);
/* From the kernel; for keys and ids, never in apply. */
void random_bytes(void *out, size_t len);
const char *hash_library_version(void); /* "OpenSSL 3.0.17 ..." */

#endif
