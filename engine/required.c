#include "engine/required.h"

#include "engine/check.h"
#include "proto/pbwire.h"

/* Only what may be missing is in the table: an order always has a user, items and what it costs. */
static const struct {
    const char *name;
    uint32_t number; /* of Order; all of them are texts, bytes or messages on the wire */
    bool detail, patchable;
} fields[] = {
    {"order_type", 5, false, true}, {"address", 21, true, true},    {"payments", 22, false, true},     {"shipments", 23, false, true},
    {"attributes", 40, false, true}, {"extension", 41, true, true}, {"merchant_id", 3, false, false}, {"client_order_no", 4, false, false},
};

/* "attributes.KEY": everything behind the first dot is the key, which may hold dots too. */
static bool attribute_key(struct slice name, struct slice *key)
{
    struct slice prefix = SLICE_LIT("attributes.");
    if (name.len <= prefix.len || memcmp(name.data, prefix.data, prefix.len) != 0) return false;
    *key = slice_of(name.data + prefix.len, name.len - prefix.len);
    return key->len <= CHECK_ATTRIBUTE_KEY_BYTES_MAX;
}

bool required_find(struct slice name, struct required_field *out)
{
    struct slice key = {0}, wanted = attribute_key(name, &key) ? SLICE_LIT("attributes") : name;
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        if (!slice_equal(wanted, slice_str(fields[i].name))) continue;
        *out = (struct required_field){name, key, fields[i].number, fields[i].detail, fields[i].patchable};
        return true;
    }
    return false;
}

/* An entry of a map is a message of key (1) and value (2). */
static bool entry_has(struct slice entry, struct slice key, bool *bad)
{
    struct reader r = reader_of(entry);
    struct slice k = {0}, v = {0};
    for (struct pb_field f; pb_next(&r, &f);) {
        if (f.wire_type != PB_LEN) continue;
        if (f.number == 1) k = f.bytes;
        if (f.number == 2) v = f.bytes;
    }
    *bad |= r.bad;
    return slice_equal(k, key) && v.len;
}

/* What is there and says nothing (an address of empty texts is no bytes) counts as not there. */
enum status required_met(const struct required_field *r, const struct order_body *content, bool *met)
{
    struct reader in = reader_of(r->detail ? content->detail : content->summary);
    *met = false;
    for (struct pb_field f; pb_next(&in, &f);) {
        if (f.number != r->number || f.wire_type != PB_LEN) continue;
        if (r->key.len ? entry_has(f.bytes, r->key, &in.bad) : f.bytes.len > 0) *met = true;
    }
    return in.bad ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}
