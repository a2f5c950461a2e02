#include <stdlib.h>

#include "engine/check_local.h"

/* The order itself: lengths, counts, amounts and their sums, and its canonical bytes. */

/* ISO 4217, list one, without its two codes that are no currency. ANG and BGN, which left the list in 2025 and 2026, stay: orders in them are still
 * being imported. Sorted. */
static const char currencies[][4] = {
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF", "BMD", "BND", "BOB", "BOV",
    "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHE", "CHF", "CHW", "CLF", "CLP", "CNY", "COP", "COU", "CRC", "CUP", "CVE", "CZK",
    "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL",
    "HTG", "HUF", "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT",
    "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MXV", "MYR",
    "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF",
    "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP",
    "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "USN", "UYI", "UYU", "UYW", "UZS", "VED", "VES", "VND", "VUV", "WST", "XAF", "XAG", "XAU",
    "XBA", "XBB", "XBC", "XBD", "XCD", "XCG", "XDR", "XOF", "XPD", "XPF", "XPT", "XSU", "XUA", "YER", "ZAR", "ZMW", "ZWG",
};

static int currency_order(const void *key, const void *row) { return strcmp(key, row); }
static bool currency_valid(const char *code) { return bsearch(code, currencies, ARRAY_LEN(currencies), sizeof currencies[0], currency_order) != NULL; }

/* ---- canonical form */

/* Drops what this version does not know: a field that is not checked must not be stored, and the same order must be the same bytes. */
void check_drop_unknown(ProtobufCMessage *m)
{
    m->n_unknown_fields = 0;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *fd = &m->descriptor->fields[i];
        if (fd->type != PROTOBUF_C_TYPE_MESSAGE) continue;
        void *member = (char *)m + fd->offset;
        if (fd->label != PROTOBUF_C_LABEL_REPEATED) {
            ProtobufCMessage *sub = *(ProtobufCMessage **)member;
            if (sub) check_drop_unknown(sub);
            continue;
        }
        size_t n = *(size_t *)(void *)((char *)m + fd->quantifier_offset);
        ProtobufCMessage **subs = *(ProtobufCMessage ***)member;
        for (size_t j = 0; j < n; j++) check_drop_unknown(subs[j]);
    }
}

/* A map entry is a message of key (field 1) and value (field 2), whatever map it belongs to. */
static const char *map_text(const ProtobufCMessage *entry, unsigned field)
{
    return *(char *const *)(const void *)((const char *)entry + entry->descriptor->fields[field].offset);
}

static int map_order(const void *a, const void *b)
{
    const ProtobufCMessage *x, *y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return strcmp(map_text(x, 0), map_text(y, 0));
}

static void check_attributes(struct checker *c, const struct path *parent, void *entries, size_t n)
{
    const struct path *at = AT(parent, "attributes");
    if (n > CHECK_ATTRIBUTES_MAX) return check_count(c, at, n, CHECK_ATTRIBUTES_MAX);
    if (n > 1) qsort(entries, n, sizeof(ProtobufCMessage *), map_order);
    const ProtobufCMessage *e, *before = NULL;
    for (size_t i = 0; i < n; i++, before = e) {
        memcpy(&e, (const char *)entries + i * sizeof e, sizeof e);
        const char *key = map_text(e, 0);
        size_t key_len = strlen(key), value_len = strlen(map_text(e, 1));
        if (!key_len) check_violation(c, STATUS_FIELD_INVALID, at, "an attribute has an empty key");
        if (key_len > CHECK_ATTRIBUTE_KEY_BYTES_MAX) {
            check_violation(c, STATUS_LIMIT_EXCEEDED, at, "a key has %zu bytes; at most %d", key_len, CHECK_ATTRIBUTE_KEY_BYTES_MAX);
            continue; /* too long to be quoted below */
        }
        if (value_len > CHECK_TEXT_BYTES_MAX)
            check_violation(c, STATUS_LIMIT_EXCEEDED, at, "the value of \"%s\" has %zu bytes; at most %d", key, value_len, CHECK_TEXT_BYTES_MAX);
        if (before && strcmp(map_text(before, 0), key) == 0) check_violation(c, STATUS_FIELD_INVALID, at, "the key \"%s\" is there twice", key);
    }
}

/* ---- amounts */

/* Longer ones are not quoted in the refusal. */
enum { CURRENCY_QUOTED_BYTES_MAX = 16 };

/* Valid, or absent where that is fine: *units, zero when absent. */
static bool check_money(struct checker *c, const struct path *at, const Orderdb__V1__Money *m, bool required, int64_t *units)
{
    bool valid = true;
    *units = 0;
    if (!m) {
        if (required) check_violation(c, STATUS_FIELD_INVALID, at, "is required");
        return !required;
    }
    if (!currency_valid(m->currency_code)) {
        bool quoted = strlen(m->currency_code) <= CURRENCY_QUOTED_BYTES_MAX;
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "currency_code"), "%s%s%sis not an ISO 4217 code of three capital letters", quoted ? "\"" : "",
                        quoted ? m->currency_code : "", quoted ? "\" " : "");
        valid = false;
    } else if (!c->currency) {
        c->currency = m->currency_code;
    } else if (strcmp(m->currency_code, c->currency) != 0) {
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "currency_code"), "%s; the order's other amounts are in %s", m->currency_code, c->currency);
        valid = false;
    }
    if (m->minor_units < 0) {
        check_violation(c, STATUS_LIMIT_EXCEEDED, AT(at, "minor_units"), "%lld; at least 0", (long long)m->minor_units);
        valid = false;
    }
    *units = m->minor_units;
    return valid;
}

/* quantity x unit_price - discount, added to *total. */
static bool check_line(struct checker *c, const struct path *at, const Orderdb__V1__OrderItem *item, int64_t *total)
{
    int64_t price, discount, line;
    bool valid = item->quantity >= 1 && item->quantity <= CHECK_QUANTITY_MAX;
    if (!valid) check_violation(c, STATUS_LIMIT_EXCEEDED, AT(at, "quantity"), "%d; 1 to %d", (int)item->quantity, CHECK_QUANTITY_MAX);
    valid &= check_money(c, AT(at, "unit_price"), item->unit_price, true, &price);
    valid &= check_money(c, AT(at, "discount"), item->discount, false, &discount);
    if (!valid) return false;
    if (__builtin_mul_overflow((int64_t)item->quantity, price, &line) || __builtin_sub_overflow(line, discount, &line) ||
        __builtin_add_overflow(*total, line, total)) {
        check_violation(c, STATUS_INVARIANT_VIOLATED, at, "quantity x unit_price - discount, added up, does not fit 64 bits");
        return false;
    }
    return true;
}

/* A total that was sent must be right; one that was left out is filled in. */
static void settle_total(struct checker *c, const struct path *at, Orderdb__V1__Money **m, int64_t computed, const char *rule)
{
    long long should = computed;
    if (*m && (*m)->minor_units != computed)
        return check_violation(c, STATUS_INVARIANT_VIOLATED, at, "%lld; %s is %lld", (long long)(*m)->minor_units, rule, should);
    if (computed < 0) return check_violation(c, STATUS_INVARIANT_VIOLATED, at, "%s is %lld, below zero", rule, should);
    if (*m) return;
    *m = arena_new(c->arena, Orderdb__V1__Money);
    if (!*m) return (void)failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call");
    orderdb__v1__money__init(*m);
    (*m)->currency_code = (char *)(uintptr_t)c->currency; /* protobuf-c has no const strings; nobody writes through it */
    (*m)->minor_units = computed;
}

static void check_totals(struct checker *c, const struct path *at, Orderdb__V1__Order *o, bool lines_valid, int64_t lines_total)
{
    int64_t items_total, freight, discount, payable, computed;
    bool valid = check_money(c, AT(at, "items_total"), o->items_total, false, &items_total);
    valid &= check_money(c, AT(at, "freight"), o->freight, false, &freight);
    valid &= check_money(c, AT(at, "discount_total"), o->discount_total, false, &discount);
    valid &= check_money(c, AT(at, "payable"), o->payable, false, &payable);
    if (!valid || !lines_valid) return;
    settle_total(c, AT(at, "items_total"), &o->items_total, lines_total, "the sum of quantity x unit_price - discount");
    if (__builtin_add_overflow(lines_total, freight, &computed) || __builtin_sub_overflow(computed, discount, &computed))
        return check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "payable"), "items_total + freight - discount_total does not fit 64 bits");
    settle_total(c, AT(at, "payable"), &o->payable, computed, "items_total + freight - discount_total");
}

/* ---- parts */

static bool check_items(struct checker *c, const struct path *parent, const Orderdb__V1__Order *o, int64_t *total)
{
    bool valid = o->n_items >= 1 && o->n_items <= CHECK_ITEMS_MAX;
    if (!o->n_items) check_violation(c, STATUS_FIELD_INVALID, AT(parent, "items"), "is required, 1 to %d", CHECK_ITEMS_MAX);
    check_count(c, AT(parent, "items"), o->n_items, CHECK_ITEMS_MAX);
    for (size_t i = 0; i < o->n_items && i < CHECK_ITEMS_MAX; i++) {
        const struct path *at = AT_INDEX(parent, "items", i);
        const Orderdb__V1__OrderItem *item = o->items[i];
        check_text(c, AT(at, "sku_id"), item->sku_id, 1, CHECK_NAME_BYTES_MAX);
        check_text(c, AT(at, "title"), item->title, 0, CHECK_TITLE_BYTES_MAX);
        check_text(c, AT(at, "merchant_id"), item->merchant_id, 0, CHECK_NAME_BYTES_MAX);
        check_attributes(c, at, item->attributes, item->n_attributes);
        valid &= check_line(c, at, item, total);
    }
    return valid;
}

static void check_address(struct checker *c, const struct path *at, const Orderdb__V1__Address *a)
{
    check_text(c, AT(at, "recipient"), a->recipient, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "phone"), a->phone, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "region_code"), a->region_code, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "line"), a->line, 0, CHECK_TEXT_BYTES_MAX);
}

static void check_payment(struct checker *c, const struct path *at, const Orderdb__V1__PaymentRef *p)
{
    int64_t unused;
    check_text(c, AT(at, "payment_no"), p->payment_no, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "channel"), p->channel, 0, CHECK_NAME_BYTES_MAX);
    check_money(c, AT(at, "amount"), p->amount, false, &unused);
    if (p->pay_time) check_time(c, AT(at, "pay_time"), p->pay_time, &unused);
}

static void check_shipment(struct checker *c, const struct path *at, const Orderdb__V1__ShipmentRef *s)
{
    check_text(c, AT(at, "tracking_no"), s->tracking_no, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "carrier"), s->carrier, 0, CHECK_NAME_BYTES_MAX);
    check_count(c, AT(at, "sku_ids"), s->n_sku_ids, CHECK_ITEMS_MAX);
    for (size_t i = 0; i < s->n_sku_ids && i < CHECK_ITEMS_MAX; i++) check_text(c, AT_INDEX(at, "sku_ids", i), s->sku_ids[i], 1, CHECK_NAME_BYTES_MAX);
}

void check_order_parts(struct checker *c, const struct path *at, Orderdb__V1__Order *o)
{
    check_drop_unknown(&o->base);
    check_text(c, AT(at, "order_type"), o->order_type, 0, CHECK_NAME_BYTES_MAX);
    if (o->address) check_address(c, AT(at, "address"), o->address);
    check_count(c, AT(at, "payments"), o->n_payments, CHECK_REFS_MAX);
    for (size_t i = 0; i < o->n_payments && i < CHECK_REFS_MAX; i++) check_payment(c, AT_INDEX(at, "payments", i), o->payments[i]);
    check_count(c, AT(at, "shipments"), o->n_shipments, CHECK_REFS_MAX);
    for (size_t i = 0; i < o->n_shipments && i < CHECK_REFS_MAX; i++) check_shipment(c, AT_INDEX(at, "shipments", i), o->shipments[i]);
    check_attributes(c, at, o->attributes, o->n_attributes);
}

void check_order(struct checker *c, const struct path *at, Orderdb__V1__Order *o)
{
    int64_t lines_total = 0;
    check_text(c, AT(at, "user_id"), o->user_id, 1, CHECK_USER_ID_BYTES_MAX);
    check_text(c, AT(at, "merchant_id"), o->merchant_id, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "client_order_no"), o->client_order_no, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "machine"), o->machine, 0, CHECK_NAME_BYTES_MAX);
    bool lines_valid = check_items(c, at, o, &lines_total);
    check_totals(c, at, o, lines_valid, lines_total);
    check_order_parts(c, at, o);
    size_t bytes = orderdb__v1__order__get_packed_size(o);
    if (bytes > CHECK_ORDER_BYTES_MAX) check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu bytes encoded; at most %d", bytes, CHECK_ORDER_BYTES_MAX);
}

/* ---- canonical bytes (order.h says which field goes where) */

static void pack_counted(struct writer *w, const Orderdb__V1__Order *part, size_t bytes, struct slice *out)
{
    write_varint(w, bytes);
    uint8_t *to = writer_claim(w, bytes);
    check(to);
    check(orderdb__v1__order__pack(part, to) == bytes);
    *out = slice_of(to, bytes);
}

struct slice check_pack(struct checker *c, const Orderdb__V1__Order *o, enum request_method method, struct slice *summary, struct slice *detail)
{
    Orderdb__V1__Order s, d;
    orderdb__v1__order__init(&s);
    orderdb__v1__order__init(&d);
    s.user_id = o->user_id;
    s.merchant_id = o->merchant_id;
    s.client_order_no = o->client_order_no;
    s.order_type = o->order_type;
    s.items_total = o->items_total;
    s.freight = o->freight;
    s.discount_total = o->discount_total;
    s.payable = o->payable;
    s.n_payments = o->n_payments, s.payments = o->payments;
    s.n_shipments = o->n_shipments, s.shipments = o->shipments;
    s.n_attributes = o->n_attributes, s.attributes = o->attributes;
    d.n_items = o->n_items, d.items = o->items;
    d.address = o->address;
    d.extension = o->extension;

    const char *texts[] = {o->user_id, o->client_order_no, o->machine};
    size_t summary_bytes = orderdb__v1__order__get_packed_size(&s), detail_bytes = orderdb__v1__order__get_packed_size(&d);
    size_t cap = 1 + 5 * 10 + summary_bytes + detail_bytes;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) cap += strlen(texts[i]);
    uint8_t *data = arena_alloc(c->arena, cap);
    if (!data) return failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call"), (struct slice){0};
    struct writer w = writer_of(data, cap);
    write_u8(&w, (uint8_t)method);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) write_counted(&w, slice_str(texts[i]));
    pack_counted(&w, &s, summary_bytes, summary);
    pack_counted(&w, &d, detail_bytes, detail);
    check(!w.full);
    return writer_slice(&w);
}
