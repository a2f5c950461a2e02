/* The canonical text of a filter. What is printed is measured first, then written: the same walk twice. */
#include <stdio.h>

#include "engine/filter_local.h"
#include "proto/timetext.h"

/* Without data it counts. */
struct printer {
    char *data;
    size_t len;
};

static void put(struct printer *out, struct slice s) {
    if (out->data && s.len) memcpy(out->data + out->len, s.data, s.len);
    out->len += s.len;
}
static void put_text(struct printer *out, const char *s) { put(out, slice_str(s)); }

static void put_quoted(struct printer *out, struct slice s) {
    put_text(out, "\"");
    for (size_t i = 0; i < s.len; i++) switch (s.data[i]) {
        case '"': put_text(out, "\\\""); break;
        case '\\': put_text(out, "\\\\"); break;
        case '\n': put_text(out, "\\n"); break;
        case '\r': put_text(out, "\\r"); break;
        case '\t': put_text(out, "\\t"); break;
        default: put(out, slice_of(s.data + i, 1));
        }
    put_text(out, "\"");
}

static bool is_name(struct slice s) {
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i];
        if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_')) return false;
    }
    return s.len > 0;
}

static void put_duration(struct printer *out, const struct filter_value *v) {
    char text[48];
    bool minus = v->number < 0 || v->nanos < 0;
    int64_t seconds = minus ? -v->number : v->number;
    int32_t nanos = minus ? -v->nanos : v->nanos;
    int n = snprintf(text, sizeof text, nanos ? "%s%lld.%09d" : "%s%lld", minus ? "-" : "", (long long)seconds, nanos);
    while (nanos && text[n - 1] == '0') n--;
    put(out, slice_of(text, (size_t)n));
    put_text(out, "s");
}

static void put_value(struct printer *out, const struct filter_predicate *p, const struct filter_value *v) {
    char text[TIME_TEXT_BYTES];
    switch (p->type) {
    case FILTER_TEXT: put_quoted(out, v->text); return;
    case FILTER_NUMBER: snprintf(text, sizeof text, "%lld", (long long)v->number), put_text(out, text); return;
    case FILTER_BOOL: put_text(out, v->number ? "true" : "false"); return;
    case FILTER_ENUM: put_quoted(out, slice_str(protobuf_c_enum_descriptor_get_value(p->fields[p->field_count - 1]->descriptor, (int)v->number)->name)); return;
    case FILTER_TIME: time_format(v->number, v->nanos, text), put_quoted(out, slice_str(text)); return;
    case FILTER_DURATION: put_duration(out, v); return;
    default: check(false); /* of the others no value is read */
    }
}

static void put_predicate(struct printer *out, const struct filter_predicate *p) {
    static const char *const ops[] = {" = ", " != ", " < ", " <= ", " > ", " >= ", " IN (", ":", ":*"};
    for (unsigned i = 0; i < p->field_count; i++) put_text(out, i ? "." : ""), put_text(out, p->fields[i]->name);
    if (p->has_key) {
        put_text(out, ".");
        if (is_name(p->key)) put(out, p->key);
        else put_quoted(out, p->key);
    }
    put_text(out, ops[p->op]);
    for (unsigned i = 0; i < p->value_count; i++) put_text(out, i ? ", " : ""), put_value(out, p, &p->values[i]);
    if (p->op == FILTER_IN) put_text(out, ")");
}

static void put_node(struct printer *out, const struct filter_node *n) {
    if (n->kind == FILTER_PREDICATE) {
        put_predicate(out, n->predicate);
        return;
    }
    if (n->kind == FILTER_NOT) put_text(out, "NOT ");
    for (const struct filter_node *c = n->first; c; c = c->next) {
        /* OR within AND would need none; people need them. */
        bool parentheses = c->kind == FILTER_AND || c->kind == FILTER_OR;
        if (c != n->first) put_text(out, n->kind == FILTER_AND ? " AND " : " OR ");
        if (parentheses) put_text(out, "(");
        put_node(out, c);
        if (parentheses) put_text(out, ")");
    }
}

struct slice filter_print(const struct filter *f, struct arena *arena) {
    struct printer out = {0};
    if (f->root) put_node(&out, f->root);
    char *text = arena_alloc(arena, out.len + 1);
    if (!text) return (struct slice){0};
    out = (struct printer){.data = text};
    if (f->root) put_node(&out, f->root);
    text[out.len] = 0;
    return slice_of(text, out.len);
}
