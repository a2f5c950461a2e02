/* Names and literals of the filter language: what a field is, what a text says as its value. */
#include "engine/filter_local.h"
#include "proto/timetext.h"

#define DURATION_SECONDS_MAX 315576000000ll /* google/protobuf/duration.proto */

/* ---- fields ---- */

static bool is_type(const ProtobufCFieldDescriptor *field, const char *name) {
    const ProtobufCMessageDescriptor *m = field->type == PROTOBUF_C_TYPE_MESSAGE ? field->descriptor : NULL;
    return m && strcmp(m->name, name) == 0;
}

/* protobuf-c does not say which message is a map's entry; in our contract every pair of texts `key` and `value` is one. */
static bool is_map(const ProtobufCFieldDescriptor *field) {
    const ProtobufCMessageDescriptor *entry = field->type == PROTOBUF_C_TYPE_MESSAGE && filter_is_repeated(field) ? field->descriptor : NULL;
    if (!entry || entry->n_fields != 2) return false;
    const ProtobufCFieldDescriptor *key = &entry->fields[0], *value = &entry->fields[1];
    return key->id == 1 && value->id == 2 && key->type == PROTOBUF_C_TYPE_STRING && value->type == PROTOBUF_C_TYPE_STRING && strcmp(key->name, "key") == 0 &&
           strcmp(value->name, "value") == 0;
}

enum filter_type filter_type_of(const ProtobufCFieldDescriptor *field) {
    bool repeated = filter_is_repeated(field);
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING: return FILTER_TEXT;
    case PROTOBUF_C_TYPE_BYTES: return repeated ? FILTER_OTHER : FILTER_BYTES;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_INT64: return repeated ? FILTER_OTHER : FILTER_NUMBER; /* lists of numbers are packed; no message that we filter has one */
    case PROTOBUF_C_TYPE_BOOL: return repeated ? FILTER_OTHER : FILTER_BOOL;
    case PROTOBUF_C_TYPE_ENUM: return repeated ? FILTER_OTHER : FILTER_ENUM;
    case PROTOBUF_C_TYPE_MESSAGE:
        if (is_map(field)) return FILTER_MAP;
        if (!repeated && is_type(field, "google.protobuf.Timestamp")) return FILTER_TIME;
        if (!repeated && is_type(field, "google.protobuf.Duration")) return FILTER_DURATION;
        return FILTER_MESSAGE;
    default: return FILTER_OTHER;
    }
}

/* A name of the contract as a C string; longer ones there are none. */
enum { NAME_BYTES = 64 };
static bool name_copy(struct slice name, char out[NAME_BYTES]) {
    if (name.len >= NAME_BYTES || memchr(name.data, 0, name.len)) return false;
    memcpy(out, name.data, name.len);
    out[name.len] = 0;
    return true;
}

const ProtobufCFieldDescriptor *filter_field_named(const ProtobufCMessageDescriptor *type, struct slice name) {
    char text[NAME_BYTES];
    return name.len && name_copy(name, text) ? protobuf_c_message_descriptor_get_field_by_name(type, text) : NULL;
}

const ProtobufCFieldDescriptor *filter_field_behind(const ProtobufCFieldDescriptor *field) {
    const char *name = is_type(field, "orderdb.v1.Money") ? "minor_units" : is_type(field, "google.protobuf.FieldMask") ? "paths" : NULL;
    return name ? protobuf_c_message_descriptor_get_field_by_name(field->descriptor, name) : NULL;
}

unsigned filter_prefix_fields(const ProtobufCMessageDescriptor *type, const char *prefix, const ProtobufCFieldDescriptor *fields[FILTER_PATH_MAX]) {
    unsigned n = 0;
    for (size_t len; *prefix; prefix += len + (prefix[len] == '.'), n++) {
        len = strcspn(prefix, ".");
        check(n < FILTER_PATH_MAX);
        fields[n] = filter_field_named(type, slice_of(prefix, len));
        check(fields[n]);
        check(filter_type_of(fields[n]) == FILTER_MESSAGE);
        type = fields[n]->descriptor;
    }
    check(n);
    return n;
}

/* ---- what was meant ---- */

static unsigned edit_distance(struct slice a, struct slice b) {
    unsigned row[NAME_BYTES + 1];
    if (a.len > NAME_BYTES || b.len > NAME_BYTES) return NAME_BYTES;
    for (unsigned j = 0; j <= b.len; j++) row[j] = j;
    for (unsigned i = 1; i <= a.len; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= b.len; j++) {
            unsigned above = row[j], change = diagonal + ((a.data[i - 1] | 0x20) != (b.data[j - 1] | 0x20));
            row[j] = MIN_OF(MIN_OF(above, row[j - 1]) + 1, change);
            diagonal = above;
        }
    }
    return row[b.len];
}

struct nearest {
    struct slice written;
    const char *name;
    unsigned distance;
};
static struct nearest nearest_of(struct slice written) { return (struct nearest){.written = written, .distance = 1 + (unsigned)MIN_OF(written.len, (size_t)12) / 3}; }
static void nearest_try(struct nearest *n, const char *name) {
    unsigned d = edit_distance(n->written, slice_str(name));
    if (d < n->distance || (d == n->distance && !n->name)) n->name = name, n->distance = d;
}
static void nearest_try_fields(struct nearest *n, const ProtobufCMessageDescriptor *type) {
    for (unsigned i = 0; i < type->n_fields; i++) nearest_try(n, type->fields[i].name);
}

const char *filter_enum_nearest(const ProtobufCEnumDescriptor *type, struct slice written) {
    struct nearest n = nearest_of(written);
    for (unsigned i = 0; i < type->n_value_names; i++) nearest_try(&n, type->values_by_name[i].name);
    return n.name;
}

const char *filter_field_nearest(const struct filter_schema *schema, const ProtobufCMessageDescriptor *type, struct slice written, struct arena *arena) {
    struct nearest n = nearest_of(written);
    for (unsigned i = 0; i < type->n_fields; i++) { /* the right name without its path: to_status for entry.to_status */
        const ProtobufCFieldDescriptor *inner = NULL, *outer = &type->fields[i];
        if (filter_type_of(outer) == FILTER_MESSAGE) inner = filter_field_named(outer->descriptor, written);
        if (inner) return arena_printf(arena, "%s.%s", outer->name, inner->name);
    }
    nearest_try_fields(&n, type);
    for (const char *const *prefix = schema->prefixes; type == schema->type && *prefix; prefix++) {
        const ProtobufCFieldDescriptor *fields[FILTER_PATH_MAX];
        nearest_try_fields(&n, fields[filter_prefix_fields(type, *prefix, fields) - 1]->descriptor);
    }
    return n.name;
}

/* ---- literals ---- */

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

static bool read_integer(struct slice s, int64_t *out) {
    bool minus = s.len && s.data[0] == '-';
    size_t i = minus;
    *out = 0;
    for (; i < s.len && is_digit(s.data[i]); i++) {
        int digit = s.data[i] - '0';
        if (__builtin_mul_overflow(*out, (int64_t)10, out) || __builtin_sub_overflow(*out, (int64_t)digit, out)) return false; /* negative: it has the room for INT64_MIN */
    }
    if (i != s.len || i == minus) return false;
    return minus || !__builtin_sub_overflow((int64_t)0, *out, out);
}

/* "1.5s": as the JSON form of google.protobuf.Duration; both parts have the sign. */
static bool read_duration(struct slice s, struct filter_value *out) {
    bool minus = s.len && s.data[0] == '-';
    if (!s.len || s.data[s.len - 1] != 's') return false;
    struct slice number = slice_of(s.data + minus, s.len - 1 - minus);
    const uint8_t *dot = number.len ? memchr(number.data, '.', number.len) : NULL;
    struct slice whole = slice_of(number.data, dot ? (size_t)(dot - number.data) : number.len);
    if (!whole.len || !is_digit(whole.data[0]) || !read_integer(whole, &out->number) || out->number > DURATION_SECONDS_MAX) return false;
    if (dot) {
        size_t digits = (size_t)(number.data + number.len - dot) - 1;
        int32_t unit = 100000000;
        if (digits < 1 || digits > 9) return false;
        for (size_t i = 1; i <= digits; i++, unit /= 10) {
            if (!is_digit(dot[i])) return false;
            out->nanos += (dot[i] - '0') * unit;
        }
    }
    if (minus) out->number = -out->number, out->nanos = -out->nanos;
    return true;
}

/* An unquoted word is a text unless it could be taken for something else. */
static bool is_plain_word(struct slice s) {
    return s.len && !is_digit(s.data[0]) && s.data[0] != '-' && s.data[0] != '+' && s.data[0] != '.' && !slice_equal(s, SLICE_LIT("true")) && !slice_equal(s, SLICE_LIT("false")) &&
           !slice_equal(s, SLICE_LIT("null"));
}

static bool read_enum(const ProtobufCEnumDescriptor *type, struct slice s, struct filter_value *out) {
    char name[NAME_BYTES];
    const ProtobufCEnumValue *v = name_copy(s, name) ? protobuf_c_enum_descriptor_get_value_by_name(type, name) : NULL;
    if (v) out->number = v->value;
    return v != NULL;
}

bool filter_value_read(enum filter_type type, const ProtobufCFieldDescriptor *field, const struct filter_literal *l, struct filter_value *out) {
    *out = (struct filter_value){0};
    switch (type) {
    case FILTER_TEXT: out->text = l->text; return l->quoted || is_plain_word(l->text);
    case FILTER_NUMBER: return !l->quoted && read_integer(l->text, &out->number);
    case FILTER_BOOL: out->number = slice_equal(l->text, SLICE_LIT("true")); return !l->quoted && (out->number || slice_equal(l->text, SLICE_LIT("false")));
    case FILTER_ENUM: return read_enum(field->descriptor, l->text, out);
    case FILTER_TIME: return time_parse(l->text, &out->number, &out->nanos);
    case FILTER_DURATION: return read_duration(l->text, out);
    default: return false;
    }
}

const char *filter_value_expected(enum filter_type type) {
    switch (type) {
    case FILTER_TEXT: return "a text in quotes";
    case FILTER_NUMBER: return "an integer of 64 bits, without quotes";
    case FILTER_BOOL: return "true or false, without quotes";
    case FILTER_TIME: return "a time in quotes, as \"2026-01-31T08:00:00Z\"";
    case FILTER_DURATION: return "a duration, as 20s or 1.5s";
    default: return "a value";
    }
}

int filter_value_compare(enum filter_type type, const struct filter_value *a, const struct filter_value *b) {
    if (type == FILTER_TEXT) return slice_compare(a->text, b->text);
    if (a->number != b->number) return a->number < b->number ? -1 : 1;
    return (a->nanos > b->nanos) - (a->nanos < b->nanos);
}

static bool in_word(uint8_t c) { return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_'; }
static uint8_t fold(uint8_t c) { return c >= 'A' && c <= 'Z' ? c | 0x20 : c; }

bool filter_text_has(struct slice text, struct slice words) {
    if (!words.len) return true;
    const uint8_t *t = text.data, *w = words.data;
    for (size_t at = 0; at + words.len <= text.len; at++) {
        size_t n = 0, end = at + words.len;
        while (n < words.len && fold(t[at + n]) == fold(w[n])) n++;
        if (n < words.len) continue;
        bool splits = (at && in_word(t[at - 1]) && in_word(t[at])) || (end < text.len && in_word(t[end - 1]) && in_word(t[end]));
        if (!splits) return true;
    }
    return false;
}
