#include "tools/verify.h"

#include <stdio.h>

void verify_begin(struct verify *v, const Orderdb__V1__Order *order) { *v = (struct verify){.order = order}; }

static bool time_us(const Google__Protobuf__Timestamp *t, int64_t *us) {
    /* Times are kept in microseconds: finer digits were never written, and the hash would not see them. */
    if (!t || t->nanos < 0 || t->nanos >= 1000000000 || t->nanos % 1000 != 0) return false;
    return !__builtin_mul_overflow(t->seconds, INT64_C(1000000), us) && !__builtin_add_overflow(*us, t->nanos / 1000, us);
}

bool verify_chain_hash(int64_t order_id, const uint8_t previous[SHA256_BYTES], const Orderdb__V1__HistoryEntry *e, uint8_t out[SHA256_BYTES]) {
    const char *const texts[] = {e->event, e->from_status, e->to_status, e->operator_, e->reason, e->request_id, e->traceparent};
    uint8_t numbers[24], lengths[ARRAY_LEN(texts)][4];
    struct slice parts[2 + 2 * ARRAY_LEN(texts)];
    size_t n = 0;
    int64_t us;
    if (!time_us(e->time, &us)) return false;
    put_be64(numbers, (uint64_t)order_id);
    put_be64(numbers + 8, (uint64_t)e->version);
    put_be64(numbers + 16, (uint64_t)us);
    parts[n++] = slice_of(previous, SHA256_BYTES);
    parts[n++] = slice_of(numbers, sizeof(numbers));
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct slice text = slice_str(texts[i]);
        put_be32(lengths[i], (uint32_t)text.len);
        parts[n++] = slice_of(lengths[i], sizeof(lengths[i]));
        parts[n++] = text;
    }
    sha256(out, parts, n);
    return true;
}

static void hash_text(const uint8_t *data, char out[17]) {
    for (int i = 0; i < 8; i++) snprintf(out + 2 * i, 3, "%02x", data[i]);
}

static bool hash_holds(struct verify *v, const Orderdb__V1__HistoryEntry *e, char error[VERIFY_ERROR_BYTES]) {
    uint8_t hash[SHA256_BYTES];
    char told[17], found[17];
    if (!verify_chain_hash(v->order->order_id, v->hash, e, hash)) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld: its time is none that can have been written", (long long)e->version);
        return false;
    }
    if (e->chain_hash.len != SHA256_BYTES) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld: its chain hash has %zu bytes, not %d", (long long)e->version, e->chain_hash.len, SHA256_BYTES);
        return false;
    }
    if (memcmp(hash, e->chain_hash.data, sizeof(hash)) != 0) {
        hash_text(e->chain_hash.data, told), hash_text(hash, found);
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld: its chain hash says %s.., its content makes %s..: it, or an entry before it, was changed",
                 (long long)e->version, told, found);
        return false;
    }
    memcpy(v->hash, hash, sizeof(hash));
    return true;
}

bool verify_entry(struct verify *v, const Orderdb__V1__HistoryEntry *e, char error[VERIFY_ERROR_BYTES]) {
    if (e->version != v->version + 1) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld follows version %lld", (long long)e->version, (long long)v->version);
        return false;
    }
    if (strcmp(e->from_status, v->status) != 0) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld starts from \"%.100s\", but the one before ended in \"%.100s\"", (long long)e->version, e->from_status,
                 v->status);
        return false;
    }
    if (strlen(e->to_status) >= sizeof(v->status)) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld: its status is longer than any can be", (long long)e->version);
        return false;
    }
    if (!hash_holds(v, e, error)) return false;
    if (e->version == v->order->version && strcmp(e->to_status, v->order->status) != 0) {
        snprintf(error, VERIFY_ERROR_BYTES, "version %lld ends in \"%.100s\", but the order of this version is \"%.100s\"", (long long)e->version, e->to_status,
                 v->order->status);
        return false;
    }
    v->version = e->version;
    snprintf(v->status, sizeof(v->status), "%s", e->to_status);
    return true;
}

bool verify_end(const struct verify *v, char error[VERIFY_ERROR_BYTES]) {
    if (v->version > 0 && v->version >= v->order->version) return true;
    snprintf(error, VERIFY_ERROR_BYTES, "the history ends at version %lld, the order has version %lld", (long long)v->version, (long long)v->order->version);
    return false;
}
