/* engine/filter.h against an obvious evaluator: random trees of comparisons, spelled at random, over random events. The evaluator walks the event as a
 * protobuf-c message by the names of a path, and says of each comparison whether any value there fulfils it. */
#include "tests/lib/test.h"

#include "engine/filter.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"

static struct arena arena;
static struct test_random chance = {0x5eed};
static unsigned below(unsigned n) { return (unsigned)test_random_below(&chance, n); }

static const char *const texts[] = {"", "a", "b", "ab", "A b", "a-b", "b a", "\xe9\x9b\xa8\xe4\xbc\x9e", "a\xe9\x9b\xa8", "x\"y\\z", "it's\n"};
static const char *const keys[] = {"color", "k", "a b", "AND"};
static const int64_t numbers[] = {-3, -1, 0, 1, 2, 7, 1000000};
static const char *const types[] = {"TYPE_UNSPECIFIED", "CREATED", "TRANSITIONED", "UPDATED", "TIMER_FIRED", "ARCHIVED", "SNAPSHOT"};
static const struct {
    const char *text;
    int64_t seconds;
    int32_t nanos;
} times[] = {{"1970-01-01T00:00:00Z", 0, 0}, {"1970-01-01T00:00:01.5Z", 1, 500000000}, {"2026-01-31T08:00:00+08:00", 1769817600, 0}, {"1969-12-31T23:59:59Z", -1, 0}};

/* ---- random events ---- */

static const char *text_any(void) { return texts[below(ARRAY_LEN(texts))]; }
static void *message_any(const ProtobufCMessageDescriptor *type);

static void value_any(const ProtobufCMessageDescriptor *type, const ProtobufCFieldDescriptor *field, void *at) {
    bool is_key = type->n_fields == 2 && strcmp(field->name, "key") == 0;
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: *(const char **)at = is_key ? keys[below(ARRAY_LEN(keys))] : text_any(); break;
    case PROTOBUF_C_TYPE_BYTES: *(ProtobufCBinaryData *)at = (ProtobufCBinaryData){below(3), (uint8_t *)(uintptr_t)"\0\1"}; break;
    case PROTOBUF_C_TYPE_INT32: *(int32_t *)at = (int32_t)numbers[below(ARRAY_LEN(numbers))]; break;
    case PROTOBUF_C_TYPE_INT64: *(int64_t *)at = numbers[below(ARRAY_LEN(numbers))]; break;
    case PROTOBUF_C_TYPE_BOOL: *(protobuf_c_boolean *)at = (int)below(2); break;
    case PROTOBUF_C_TYPE_ENUM: *(int *)at = (int)below(ARRAY_LEN(types)); break;
    case PROTOBUF_C_TYPE_MESSAGE: *(void **)at = message_any(field->descriptor); break;
    default: fail_msg("%s: of a type that no event has", field->name);
    }
}

static void *message_any(const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *m = arena_zalloc(&arena, type->sizeof_message);
    check(m);
    protobuf_c_message_init(type, m);
    if (type == &google__protobuf__timestamp__descriptor) {
        unsigned t = below(ARRAY_LEN(times));
        ((Google__Protobuf__Timestamp *)m)->seconds = times[t].seconds, ((Google__Protobuf__Timestamp *)m)->nanos = times[t].nanos;
        return m;
    }
    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        uint8_t *at = (uint8_t *)m + field->offset;
        if (below(4) == 0) continue;
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            value_any(type, field, at);
            continue;
        }
        size_t n = below(4), width = field->type == PROTOBUF_C_TYPE_MESSAGE || field->type == PROTOBUF_C_TYPE_STRING ? sizeof(void *) : 0;
        check(width);
        uint8_t *elements = arena_zalloc(&arena, n * width + 1);
        check(elements);
        for (size_t k = 0; k < n; k++) value_any(type, field, elements + k * width);
        memcpy((uint8_t *)m + field->quantifier_offset, &n, sizeof n);
        memcpy(at, &elements, sizeof elements);
    }
    return m;
}

/* ---- random filters, and what they mean ---- */

enum kind { TEXT, NUMBER, BOOL, ENUM, TIME, THERE /* presence alone */ };
static const struct path {
    const char *path, *also; /* also: what may be left out, as it may be written too */
    enum kind kind;
    bool list; /* of texts: ":" is equality */
} paths[] = {
    {"type", NULL, ENUM}, {"slot", NULL, NUMBER}, {"seq", NULL, NUMBER}, {"user_id", NULL, TEXT}, {"merchant_id", NULL, TEXT}, {"commit_time", NULL, TIME},
    {"delivery_attempt", NULL, NUMBER}, {"entry.to_status", NULL, TEXT}, {"entry.version", NULL, NUMBER}, {"entry.time", NULL, TIME}, {"entry.chain_hash", NULL, THERE},
    {"changed.paths", "changed", TEXT, true}, {"changed", NULL, THERE}, {"after", NULL, THERE}, {"after.status", "status", TEXT}, {"after.archived", "archived", BOOL},
    {"after.payable", NULL, THERE}, {"after.payable.minor_units", "payable", NUMBER}, {"after.payable.currency_code", "payable.currency_code", TEXT}, {"after.items", "items", THERE},
    {"after.items.sku_id", "sku_id", TEXT}, {"after.items.title", "items.title", TEXT}, {"after.items.quantity", "quantity", NUMBER}, {"after.items.discount", "discount", THERE},
    {"after.items.unit_price.minor_units", "unit_price", NUMBER}, {"after.items.attributes.color", NULL, TEXT}, {"after.items.attributes", NULL, THERE},
    {"after.attributes", "attributes", THERE}, {"after.attributes.color", "attributes.color", TEXT}, {"after.attributes.\"a b\"", "attributes.'a b'", TEXT}, {"after.attributes.AND", NULL, TEXT},
    {"after.payments.channel", "payments.channel", TEXT}, {"after.payments.pay_time", NULL, TIME}, {"after.payments.amount.minor_units", "payments.amount", NUMBER},
    {"after.shipments.sku_ids", "shipments.sku_ids", TEXT, true}, {"after.shipments.sku_ids", NULL, THERE}, {"after.timers.fire_time", NULL, TIME}, {"after.create_time", "create_time", TIME},
    {"after.extension", "extension", THERE}, {"after.address.line", "address.line", TEXT},
};
static const char *const ops[] = {"=", "!=", "<", "<=", ">", ">=", "IN", ":", ":*"};
enum op { EQ, NE, LT, LE, GT, GE, IN, HAS, PRESENT };

struct expr {
    enum { COMPARE, AND, OR, NOT } kind;
    struct expr *left, *right;
    const struct path *path;
    enum op op;
    unsigned values[4], value_count; /* places in texts, numbers, types, times */
};

static struct expr *expr_any(unsigned depth) {
    struct expr *e = arena_new(&arena, struct expr);
    check(e);
    unsigned kind = depth ? below(6) : 0;
    if (kind > 2) {
        e->kind = kind == 3 ? AND : kind == 4 ? OR : NOT;
        e->left = expr_any(depth - 1);
        if (e->kind != NOT) e->right = expr_any(depth - 1);
        return e;
    }
    e->path = &paths[below(ARRAY_LEN(paths))];
    enum kind k = e->path->kind;
    do e->op = (enum op)below(ARRAY_LEN(ops)); while ((k == BOOL || k == ENUM) && e->op >= LT && e->op <= GE);
    if (k == THERE) e->op = PRESENT;
    size_t pool = k == TEXT ? ARRAY_LEN(texts) : k == NUMBER ? ARRAY_LEN(numbers) : k == ENUM ? ARRAY_LEN(types) : k == TIME ? ARRAY_LEN(times) : 2;
    e->value_count = e->op == PRESENT ? 0 : e->op == IN ? 1 + below(4) : 1;
    for (unsigned i = 0; i < e->value_count; i++) e->values[i] = below((unsigned)pool);
    if (e->op == HAS && k == TEXT && e->values[0] == 0) e->values[0] = 1; /* not the empty one */
    return e;
}

static const char *quoted(const char *s) {
    char quote = below(2) ? '"' : '\'', text[64];
    size_t n = 0;
    text[n++] = quote;
    for (; *s; s++) {
        if (*s == quote || *s == '\\' || *s == '\n') text[n++] = '\\';
        text[n++] = *s == '\n' ? 'n' : *s;
    }
    text[n++] = quote;
    return arena_printf(&arena, "%.*s", (int)n, text);
}

static const char *value_text(const struct path *p, unsigned v) {
    switch (p->kind) {
    case TEXT: return quoted(texts[v]);
    case NUMBER: return arena_printf(&arena, "%lld", (long long)numbers[v]);
    case BOOL: return v ? "true" : "false";
    case ENUM: return below(2) ? types[v] : quoted(types[v]);
    case TIME: return quoted(times[v].text);
    case THERE: break;
    }
    panic(__FILE__, __LINE__, "no values");
}

/* binds: how tight its place binds: 0 anything goes, 1 within AND, 2 within OR, 3 within NOT. */
static const char *expr_text(const struct expr *e, unsigned binds) {
    const char *text = "", *blank = below(2) ? " " : "";
    unsigned own = e->kind == AND ? 1 : e->kind == OR ? 2 : 3;
    if (e->kind == NOT) text = arena_printf(&arena, "%s%s", below(2) ? "NOT " : "-", expr_text(e->left, 4));
    else if (e->kind != COMPARE) text = arena_printf(&arena, "%s %s %s", expr_text(e->left, own), e->kind == AND ? "AND" : "OR\n", expr_text(e->right, own));
    else {
        bool other = e->op == PRESENT && e->path->kind != THERE; /* payable:* asks for the message, not for its minor_units */
        const char *path = e->path->also && !other && below(2) ? e->path->also : e->path->path, *spaced = e->op == IN ? " " : blank;
        text = arena_printf(&arena, "%s%s%s%s%s", path, spaced, ops[e->op], spaced, e->op == IN ? "(" : "");
        for (unsigned i = 0; i < e->value_count; i++) text = arena_printf(&arena, "%s%s%s", text, i ? "," : "", value_text(e->path, e->values[i]));
        if (e->op == IN) text = arena_printf(&arena, "%s%s)", text, blank);
    }
    bool needed = binds > own && e->kind != COMPARE;
    return needed || below(8) == 0 ? arena_printf(&arena, "(%s%s)", text, blank) : text;
}

/* As a reader of docs/FILTER.md would say it: where the words stand, neither end is within a run of letters, digits, underscores. */
static bool text_has(const char *text, const char *words) {
    size_t n = strlen(words);
    for (const char *at = text; strlen(at) >= n; at++) {
        if (strncasecmp(at, words, n) != 0) continue;
        char before = at == text ? ' ' : at[-1], after = at[n], first = words[0], last = words[n - 1];
        const char *in = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
        bool cuts_left = strchr(in, before) && strchr(in, first), cuts_right = after && strchr(in, after) && strchr(in, last);
        if (!cuts_left && !cuts_right) return true;
    }
    return false;
}

static bool order_says(enum op op, int c) {
    return op == EQ ? c == 0 : op == NE ? c != 0 : op == LT ? c < 0 : op == LE ? c <= 0 : op == GT ? c > 0 : c >= 0;
}

static int sign(int64_t a, int64_t b) { return (a > b) - (a < b); }

static int value_compare(const struct expr *e, const void *at, const ProtobufCFieldDescriptor *field, unsigned v) {
    switch (e->path->kind) {
    case TEXT: return strcmp(*(const char *const *)at, texts[v]); /* strcmp compares unsigned bytes */
    case NUMBER: return sign(field->type == PROTOBUF_C_TYPE_INT32 ? *(const int32_t *)at : *(const int64_t *)at, numbers[v]);
    case BOOL: return sign(*(const protobuf_c_boolean *)at, v);
    case ENUM: return sign(*(const int *)at, v);
    case TIME: {
        const Google__Protobuf__Timestamp *t = *(Google__Protobuf__Timestamp *const *)at;
        return t->seconds != times[v].seconds ? sign(t->seconds, times[v].seconds) : sign(t->nanos, times[v].nanos);
    }
    case THERE: break;
    }
    panic(__FILE__, __LINE__, "no values");
}

static bool value_fulfils(const struct expr *e, const void *at, const ProtobufCFieldDescriptor *field, bool element) {
    if (e->op == PRESENT) {
        if (element || field->type == PROTOBUF_C_TYPE_MESSAGE) return true;
        if (field->type == PROTOBUF_C_TYPE_STRING) return **(const char *const *)at != 0;
        if (field->type == PROTOBUF_C_TYPE_BYTES) return ((const ProtobufCBinaryData *)at)->len > 0;
        if (field->type == PROTOBUF_C_TYPE_BOOL) return *(const protobuf_c_boolean *)at;
        return field->type == PROTOBUF_C_TYPE_INT64 ? *(const int64_t *)at != 0 : *(const int32_t *)at != 0;
    }
    if (e->op == HAS && e->path->kind == TEXT && !e->path->list) return text_has(*(const char *const *)at, texts[e->values[0]]);
    bool any = false;
    for (unsigned i = 0; i < e->value_count; i++) any |= order_says(e->op == IN || e->op == HAS ? EQ : e->op, value_compare(e, at, field, e->values[i]));
    return any;
}

/* Does any value at the path, from this message on, fulfil the comparison? */
static bool any_fulfils(const struct expr *e, const ProtobufCMessage *m, const char *path) {
    size_t n = strcspn(path, ".");
    const char *rest = path[n] ? path + n + 1 : NULL;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)n, path);
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);
    check(field);
    const uint8_t *at = (const uint8_t *)m + field->offset;
    bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED, any = false;
    size_t count = repeated ? *(const size_t *)((const uint8_t *)m + field->quantifier_offset) : 1;
    for (size_t i = 0; i < count; i++) {
        const void *value = repeated ? *(uint8_t *const *)at + i * sizeof(void *) : at;
        const ProtobufCMessage *inner = field->type == PROTOBUF_C_TYPE_MESSAGE ? *(ProtobufCMessage *const *)value : NULL;
        if (field->type == PROTOBUF_C_TYPE_MESSAGE && !inner) continue;
        if (!rest) any |= value_fulfils(e, value, field, repeated);
        else if (strcmp(name, "attributes") == 0) { /* an entry: its key is the rest, without quotes */
            const char *const *pair = (const char *const *)(const void *)((const uint8_t *)inner + inner->descriptor->fields[0].offset);
            bool is_quoted = rest[0] == '"';
            bool same = strlen(pair[0]) == strlen(rest) - 2 * is_quoted && strncmp(pair[0], rest + is_quoted, strlen(pair[0])) == 0;
            if (same) any |= value_fulfils(e, (const uint8_t *)inner + inner->descriptor->fields[1].offset, &inner->descriptor->fields[1], true);
        } else any |= any_fulfils(e, inner, rest);
    }
    return any;
}

static bool expr_holds(const struct expr *e, const ProtobufCMessage *m) {
    switch (e->kind) {
    case AND: return expr_holds(e->left, m) && expr_holds(e->right, m);
    case OR: return expr_holds(e->left, m) || expr_holds(e->right, m);
    case NOT: return !expr_holds(e->left, m);
    case COMPARE: break;
    }
    return any_fulfils(e, m, e->path->path);
}

static const struct filter *parse(const char *text) {
    const struct filter *out;
    struct failure f;
    failure_init(&f, &arena);
    if (filter_parse(&out, slice_str(text), &filter_events, "filter", &arena, &f)) fail_msg("%s\n%s", text, f.message);
    return out;
}

static void the_same_as_the_model(void **state) {
    static uint8_t wire[1 << 18];
    unsigned matched = 0, asked = 0;
    for (unsigned round = 0; round < 3000; round++) {
        arena_init(&arena, 64 * MIB);
        const struct expr *e = expr_any(below(4));
        const char *text = expr_text(e, 0);
        const struct filter *f = parse(text);
        const char *canonical = (const char *)filter_print(f, &arena).data;
        check(canonical);
        const struct filter *again = parse(canonical);
        assert_slice(filter_print(again, &arena), canonical);
        for (unsigned i = 0; i < 8; i++, asked++) {
            ProtobufCMessage *m = message_any(&orderdb__v1__change_event__descriptor);
            check(protobuf_c_message_get_packed_size(m) <= sizeof wire);
            struct slice w = slice_of(wire, protobuf_c_message_pack(m, wire));
            bool holds = expr_holds(e, m);
            matched += holds;
            if (filter_match(f, w) != holds) fail_msg("round %u.%u: the model says %d of: %s\n%s\nwire %s", round, i, holds, text, canonical, test_hex(w));
            if (filter_match(again, w) != holds) fail_msg("round %u.%u: the model says %d of: %s", round, i, holds, canonical);
        }
        arena_fini(&arena);
    }
    assert_true(matched > asked / 5);
    assert_true(matched < asked * 4 / 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_as_the_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
