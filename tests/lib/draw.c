#include "tests/lib/draw.h"

#include "proto/pbwire.h"
#include "proto/route.h"

static uint64_t below(struct draw *d, uint64_t n) { return test_random_below(&d->random, n); }
static bool chance(struct draw *d, unsigned percent) { return below(d, 100) < percent; }
static bool is(const char *name, const char *what) { return strcmp(name, what) == 0; }
#define PICK(d, list) ((list)[below((d), ARRAY_LEN(list))])

void draw_order_seen(struct draw *d, int64_t order_id)
{
    unsigned at = d->order_count < DRAW_ORDERS ? d->order_count++ : (unsigned)below(d, DRAW_ORDERS);
    d->orders[at] = order_id;
}

/* ---- which fields are there */

static bool is_of(const struct draw *d, const char *root) { return is(d->root, root); }

/* Percent. What a server assigns is rarely sent, but an update names its order and an import brings its past. */
static unsigned order_presence(const struct draw *d, const char *name)
{
    static const char *const assigned[] = {"order_id", "status", "version", "timers", "update_time", "archived", "items_total", "payable"};
    if (is(name, "order_id") && is_of(d, "UpdateOrderRequest")) return 98;
    if (is(name, "create_time")) return is_of(d, "ImportOrdersRequest") ? 90 : 1;
    if (is(name, "user_id") || is(name, "items")) return 98;
    if (is(name, "client_order_no")) return is_of(d, "ImportOrdersRequest") ? 98 : 20;
    for (size_t i = 0; i < ARRAY_LEN(assigned); i++)
        if (is(name, assigned[i])) return 1;
    return 30;
}

static unsigned presence(const struct draw *d, const char *type, const char *name)
{
    static const char *const nearly_always[] = {"order", "options", "request_id", "sku_id", "quantity", "unit_price", "currency_code", "minor_units", "requests", "update_mask", "paths", "user_id",
                                                "seconds", "order_id", "order_ids", "key", "value", "group", "member_id", "event_ids", "event_id", "events"};
    static const char *const rarely[] = {"patch", "ack", "history", "page_token", "page_number", "as_of", "idempotency_ttl", "expected_version", "expected_statuses", "at_least", "nanos", "discount", "start_time"};
    if (is(type, "Order")) return order_presence(d, name);
    if (is(type, "TransitionOrderRequest") && (is(name, "update_mask") || is(name, "patch"))) return 15;
    if (is(type, "TransitionOrderRequest") && is(name, "event")) return 85;
    if (is(type, "TransitionOrderRequest") && is(name, "to_status")) return 15;
    for (size_t i = 0; i < ARRAY_LEN(nearly_always); i++)
        if (is(name, nearly_always[i])) return 98;
    for (size_t i = 0; i < ARRAY_LEN(rarely); i++)
        if (is(name, rarely[i])) return 8;
    return 40;
}

static unsigned count(struct draw *d, const char *name)
{
    if (is(name, "paths") || is(name, "items") || is(name, "requests")) return 1 + (unsigned)below(d, 4);
    return (unsigned)below(d, chance(d, 2) ? 130 : 4);
}

/* ---- values */

static int64_t wild_number(struct draw *d)
{
    static const int64_t edges[] = {0, 1, -1, 2, 63, 64, 65, 127, 128, 1000, 1001, 16383, 16384, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 253402300799, 253402300800, 999999999, 1000000000};
    return chance(d, 80) ? PICK(d, edges) : (int64_t)test_random_next(&d->random);
}

static int64_t number(struct draw *d, const char *name)
{
    if (chance(d, d->wild)) return wild_number(d);
    if (is(name, "order_id") || is(name, "order_ids")) return d->order_count && chance(d, 95) ? d->orders[below(d, d->order_count)] : (int64_t)(test_random_next(&d->random) >> 1);
    if (is(name, "minor_units")) return (int64_t)below(d, 2000);
    if (is(name, "quantity")) return 1 + (int64_t)below(d, 3);
    if (is(name, "seconds")) return is_of(d, "ImportOrdersRequest") ? 1600000000 : 1 + (int64_t)below(d, chance(d, 50) ? 86400 : 2000000000);
    if (is(name, "events")) return 1 + (int64_t)below(d, 50);
    if (is(name, "page_size")) return (int64_t)below(d, 10);
    if (is(name, "slot")) return (int64_t)below(d, 16384);
    if (is(name, "nanos")) return (int64_t)below(d, 1000000000);
    if (is(name, "view")) return (int64_t)below(d, 3);
    return (int64_t)below(d, 4);
}

static size_t wild_text(struct draw *d, char *out, size_t cap)
{
    static const char *const odd[] = {"", "\xff\xfe", "é", "\xed\xa0\x80", "雨伞", "%s%n", "../..", "\"", "\x7f", " "};
    if (chance(d, 50)) return (size_t)snprintf(out, cap, "%s", PICK(d, odd));
    size_t n = MIN_OF(cap - 1, 1 + below(d, chance(d, 20) ? 3000 : 140));
    memset(out, chance(d, 90) ? 'w' : 0, n);
    return n;
}

static size_t text(struct draw *d, const char *type, const char *name, char *out, size_t cap)
{
    static const char *const events[] = {"pay", "ship", "deliver", "confirm", "cancel", "refund_request", "refund", "create", "import", "update", "nothing"};
    static const char *const states[] = {"PENDING_PAYMENT", "PAID", "SHIPPED", "DELIVERED", "COMPLETED", "CANCELLED", "REFUNDING", "NOWHERE"};
    static const char *const machines[] = {"", "retail", "retail@1", "retail", "nothing@3"};
    static const char *const paths[] = {"order_type", "address", "payments", "shipments", "attributes", "extension"};
    static const char *const filters[] = {"", "type = \"CREATED\"", "user_id = \"user-1\"", "entry.to_status = \"PAID\" OR after.items.quantity > 1", "type = "};
#define SAY(...) ((size_t)snprintf(out, cap, __VA_ARGS__))
    if (chance(d, d->wild)) return wild_text(d, out, cap);
    if (is(name, "user_id")) return SAY("user-%u", chance(d, 95) ? d->user : (unsigned)below(d, DRAW_USERS));
    if (is(name, "request_id")) return SAY("request-%016llu", (unsigned long long)below(d, chance(d, 50) ? 40 : 1000000));
    if (is(name, "event")) return SAY("%s", PICK(d, events));
    if (strstr(name, "status")) return SAY("%s", PICK(d, states));
    if (is(name, "currency_code")) return SAY("%s", chance(d, 99) ? "CNY" : "USD");
    if (is(name, "machine")) return SAY("%s", PICK(d, machines));
    if (is(name, "paths")) return SAY("%s", PICK(d, paths));
    if (is(name, "group")) return SAY("group-%llu", (unsigned long long)below(d, 3));
    if (is(name, "member_id")) return SAY("member-%llu", (unsigned long long)below(d, 3));
    if (is(name, "event_id") || is(name, "event_ids")) {
        char user[16];
        int n = snprintf(user, sizeof user, "user-%u", d->user);
        return SAY("%u:%llu", slot_of_user(slice_of(user, (size_t)n)), (unsigned long long)(1 + below(d, 50)));
    }
    if (is(name, "filter")) return SAY("%s", PICK(d, filters));
    if (is(name, "page_token")) return SAY("%s", d->token);
    if (is(name, "client_order_no")) return SAY("no-%llu", (unsigned long long)below(d, 100));
    if (is(type, "AttributesEntry") && is(name, "key")) return SAY("key-%llu", (unsigned long long)below(d, 1000));
    return SAY("%.*s", (int)below(d, 20), "some text of no matter");
#undef SAY
}

/* ---- messages */

static void message(struct draw *d, const ProtobufCMessageDescriptor *type, struct writer *w, unsigned depth);

static void varint_field(struct writer *w, uint32_t field, int64_t v)
{
    pb_tag(w, field, PB_VARINT);
    write_varint(w, (uint64_t)v);
}

static void value(struct draw *d, const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *f, struct writer *w, unsigned depth)
{
    static char bytes[4096];
    size_t room = w->cap - w->len;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        if (depth > 6 || room < 64) return;
        uint8_t *inner = malloc(room);
        check(inner);
        struct writer sub = writer_of(inner, room - 16);
        message(d, f->descriptor, &sub, depth + 1);
        struct slice part = writer_slice(&sub);
        if (!sub.full) pb_message(w, f->id, &part, 1);
        free(inner);
    } else if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES) {
        size_t n = text(d, type->short_name, f->name, bytes, sizeof bytes);
        if (room > n + 16) pb_bytes(w, f->id, slice_of(bytes, n));
    } else if (f->type == PROTOBUF_C_TYPE_BOOL) {
        if (room > 16) varint_field(w, f->id, (int64_t)below(d, 2));
    } else if (room > 16) {
        varint_field(w, f->id, number(d, f->name)); /* the contract has no fixed-size numbers in requests */
    }
}

static void message(struct draw *d, const ProtobufCMessageDescriptor *type, struct writer *w, unsigned depth)
{
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];
        if (!chance(d, presence(d, type->short_name, f->name))) continue;
        unsigned n = f->label == PROTOBUF_C_LABEL_REPEATED ? count(d, f->name) : chance(d, d->wild / 2) ? 2 : 1;
        for (unsigned k = 0; k < n; k++) value(d, type, f, w, depth);
    }
    if (chance(d, d->wild) && w->cap - w->len > 32) varint_field(w, 900 + (uint32_t)below(d, 9), 1); /* of a newer contract */
}

size_t draw_message(struct draw *d, const ProtobufCMessageDescriptor *type, uint8_t *out, size_t cap)
{
    struct writer w = writer_of(out, cap);
    d->root = type->short_name;
    d->user = (unsigned)below(d, DRAW_USERS);
    message(d, type, &w, 0);
    check(!w.full);
    return w.len;
}
