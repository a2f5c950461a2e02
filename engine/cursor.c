#include "engine/cursor.h"

#include "proto/base/hash.h"

static_assert((int)CURSOR_MAC_BYTES == SIPHASH_BYTES, "it is the mac");
enum { FORMAT = 1, GROUP_SLOTS = 128, KEY_ID_BYTES = 4, USER_BYTES = 16, SCOPE_ALL = 'A', SCOPE_USER = 'U', SCOPE_SNAPSHOT = 'S' };

void cursor_init(struct cursor *c) { memset(c->seq, 0xff, sizeof c->seq); }
static_assert(CURSOR_START == -1, "all bits set");

/* One hash yields what is shown of the key and what is secret. */
struct keys {
    uint8_t id[KEY_ID_BYTES], unused[SHA256_BYTES - KEY_ID_BYTES - 16], secret[16];
};
static_assert(sizeof(struct keys) == SHA256_BYTES, "no padding");
static struct keys keys_of(struct slice token_key) {
    uint8_t hash[SHA256_BYTES];
    struct keys k;
    check(token_key.len == 32);
    hmac_derive(hash, token_key.data, SLICE_LIT("orderdb cursor"));
    memcpy(&k, hash, sizeof k);
    return k;
}

static struct slice user_fingerprint(struct slice user_id, uint8_t out[USER_BYTES]) {
    struct hash128 h = hash128(user_id);
    put_be64(out, h.high);
    put_be64(out + 8, h.low);
    return slice_of(out, USER_BYTES);
}

static uint64_t zigzag(int64_t v) { return (uint64_t)v << 1 ^ (uint64_t)(v >> 63); }
static int64_t unzigzag(uint64_t v) { return (int64_t)(v >> 1 ^ -(v & 1)); }

/* ---- groups ---- */

static size_t packed_bytes(size_t n, unsigned width) { return (n * width + 7) / 8; }

/* width < 64: seqs are not negative. */
static void pack(uint8_t *out, const int64_t *seq, size_t n, int64_t lowest, unsigned width) {
    uint64_t gathered = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = (uint64_t)(seq[i] - lowest);
        gathered |= v << bits;
        bits += width;
        if (bits < 64) continue;
        put_le64(out, gathered);
        out += 8;
        bits -= 64;
        gathered = v >> (width - bits);
    }
    for (unsigned done = 0; done < bits; done += 8) *out++ = (uint8_t)(gathered >> done);
}

static void write_group(struct writer *w, const int64_t *seq, size_t n, int64_t *before) {
    int64_t lowest = seq[0], highest = seq[0];
    for (size_t i = 1; i < n; i++) lowest = MIN_OF(lowest, seq[i]), highest = MAX_OF(highest, seq[i]);
    uint64_t spread = (uint64_t)(highest - lowest);
    unsigned width = spread ? 64 - (unsigned)__builtin_clzll(spread) : 0;
    write_varint(w, zigzag(lowest - *before));
    write_u8(w, (uint8_t)width);
    uint8_t *packed = writer_claim(w, packed_bytes(n, width));
    check(packed);
    if (width) pack(packed, seq, n, lowest, width);
    *before = lowest;
}

/* false: a seq that is none. */
static bool read_group(struct reader *r, int64_t *seq, size_t n, int64_t *before) {
    uint8_t bytes[GROUP_SLOTS * 8 + 16] = {0};
    uint64_t lowest = (uint64_t)*before + (uint64_t)unzigzag(read_varint(r));
    unsigned width = read_u8(r);
    if (width > 63 || lowest > INT64_MAX) return false;
    struct slice packed = read_bytes(r, packed_bytes(n, width));
    if (r->bad) return false;
    memcpy(bytes, packed.data, packed.len);
    uint64_t mask = (1ull << width) - 1;
    for (size_t i = 0; i < n; i++) {
        size_t bit = i * width, shift = bit % 8;
        uint64_t v = get_le64(bytes + bit / 8) >> shift;
        if (shift + width > 64) v |= (uint64_t)bytes[bit / 8 + 8] << (64 - shift);
        v = (v & mask) + lowest;
        if (v > INT64_MAX) return false;
        seq[i] = (int64_t)v;
    }
    *before = (int64_t)lowest;
    return true;
}

/* ---- runs ---- */

static void write_runs(struct writer *w, const struct cursor *c) {
    int64_t before = 0;
    for (size_t slot = 0, last_end = 0; slot < SLOT_COUNT;) {
        if (c->seq[slot] == CURSOR_START) {
            slot++;
            continue;
        }
        size_t end = slot;
        for (; end < SLOT_COUNT && c->seq[end] != CURSOR_START; end++) check(c->seq[end] >= 0);
        write_varint(w, slot - last_end);
        write_varint(w, end - slot);
        for (; slot < end; slot += MIN_OF((size_t)GROUP_SLOTS, end - slot)) write_group(w, &c->seq[slot], MIN_OF((size_t)GROUP_SLOTS, end - slot), &before);
        last_end = end;
    }
}

static bool read_runs(struct reader *r, struct cursor *c) {
    int64_t before = 0;
    cursor_init(c);
    for (size_t slot = 0; reader_left(r);) {
        uint64_t gap = read_varint(r), n = read_varint(r);
        if (r->bad || n == 0 || gap > SLOT_COUNT - slot || n > SLOT_COUNT - slot - gap) return false;
        slot += gap;
        for (size_t end = slot + n; slot < end; slot += MIN_OF((size_t)GROUP_SLOTS, end - slot))
            if (!read_group(r, &c->seq[slot], MIN_OF((size_t)GROUP_SLOTS, end - slot), &before)) return false;
    }
    return !r->bad;
}

/* ---- all of it ---- */

static void write_head(struct writer *w, uint8_t scope, const struct keys *keys) {
    write_u8(w, FORMAT);
    write_u8(w, scope);
    write_bytes(w, keys->id, KEY_ID_BYTES);
}

static size_t sign(struct writer *w, const struct keys *keys) {
    uint8_t mac[SIPHASH_BYTES];
    siphash(mac, keys->secret, writer_slice(w));
    write_bytes(w, mac, CURSOR_MAC_BYTES);
    check(!w->full);
    return w->len;
}

size_t cursor_encode_snapshot(struct slice key, uint8_t out[CURSOR_BYTES_MAX]) {
    struct writer w = writer_of(out, CURSOR_BYTES_MAX);
    struct keys keys = keys_of(key);
    write_head(&w, SCOPE_SNAPSHOT, &keys);
    return sign(&w, &keys);
}

/* There is one for each key. */
bool cursor_is_snapshot(struct slice bytes, struct slice key) {
    uint8_t only[CURSOR_BYTES_MIN];
    struct writer w = writer_of(only, sizeof only);
    struct keys keys = keys_of(key);
    write_head(&w, SCOPE_SNAPSHOT, &keys);
    return bytes.len == CURSOR_BYTES_MIN && sign(&w, &keys) == bytes.len && bytes_equal_constant_time(only, bytes.data, bytes.len);
}

size_t cursor_encode(const struct cursor *c, struct slice user_id, struct slice key, uint8_t out[CURSOR_BYTES_MAX]) {
    uint8_t user[USER_BYTES];
    struct writer w = writer_of(out, CURSOR_BYTES_MAX);
    struct keys keys = keys_of(key);
    write_head(&w, user_id.len ? SCOPE_USER : SCOPE_ALL, &keys);
    if (user_id.len) write_slice(&w, user_fingerprint(user_id, user));
    write_runs(&w, c);
    return sign(&w, &keys);
}

static enum status refuse(struct failure *f, const char *field, const char *cause, const char *said) {
    failure_violation(f, STATUS_CURSOR_INVALID, field, "%s", said);
    failure_meta(f, "cause", "%s", cause);
    return STATUS_CURSOR_INVALID;
}

enum status cursor_decode(struct cursor *c, struct slice bytes, struct slice user_id, struct slice key, const char *field, struct failure *f) {
    uint8_t mac[SIPHASH_BYTES], user[USER_BYTES];
    struct keys keys = keys_of(key);
    if (bytes.len < CURSOR_BYTES_MIN || bytes.len > CURSOR_BYTES_MAX) return refuse(f, field, "length", "no cursor is of this length; give it back as it came");
    struct reader r = reader_of(slice_of(bytes.data, bytes.len - CURSOR_MAC_BYTES));
    if (read_u8(&r) != FORMAT) return refuse(f, field, "version", "not a cursor, or one of a newer version");
    uint8_t scope = read_u8(&r);
    if (memcmp(read_bytes(&r, KEY_ID_BYTES).data, keys.id, KEY_ID_BYTES) != 0) return refuse(f, field, "cluster", "the cursor is of another cluster");
    siphash(mac, keys.secret, slice_of(bytes.data, bytes.len - CURSOR_MAC_BYTES));
    if (!bytes_equal_constant_time(mac, bytes.data + bytes.len - CURSOR_MAC_BYTES, CURSOR_MAC_BYTES)) return refuse(f, field, "forged", "the cursor was changed or made up; give it back as it came");
    if (scope == SCOPE_SNAPSHOT) return refuse(f, field, "scope", "the cursor is the beginning of a consumer group's snapshot: only a group can be sought there");
    if (scope == SCOPE_ALL && user_id.len) return refuse(f, field, "scope", "the cursor is of the changes of all users, not of one");
    if (scope == SCOPE_USER && !user_id.len) return refuse(f, field, "scope", "the cursor is of one user's changes: name that user");
    if (scope == SCOPE_USER && !slice_equal(read_bytes(&r, USER_BYTES), user_fingerprint(user_id, user))) return refuse(f, field, "scope", "the cursor is of another user's changes");
    if ((scope != SCOPE_ALL && scope != SCOPE_USER) || !read_runs(&r, c)) return refuse(f, field, "version", "signed, but not of a form that this version knows");
    return STATUS_OK;
}
