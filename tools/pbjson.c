#include "tools/pbjson.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "google/protobuf/duration.pb-c.h"
#include "google/protobuf/field_mask.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "proto/scan.h"
#include "proto/timetext.h"

enum { PATH_BYTES = 160, SECONDS_TEXT_BYTES = 48 };
#define DURATION_SECONDS_MAX 315576000000ll /* google/protobuf/duration.proto: about 10,000 years */

typedef const ProtobufCMessageDescriptor *message_type;
typedef const ProtobufCFieldDescriptor *field_type;

static bool type_is(message_type t, message_type wanted) { return strcmp(t->name, wanted->name) == 0; }

/* protobuf-c forgets that a field is a map; protoc names the entry after it: status_counts -> StatusCountsEntry {key = 1, value = 2}. */
static bool field_is_map(field_type f) {
    if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label != PROTOBUF_C_LABEL_REPEATED) return false;
    message_type t = f->descriptor;
    if (t->n_fields != 2 || strcmp(t->fields[0].name, "key") != 0 || strcmp(t->fields[1].name, "value") != 0) return false;
    const char *s = t->short_name;
    bool up = true;
    for (const char *n = f->name; *n; n++) {
        if (*n == '_') {
            up = true;
            continue;
        }
        char c = up && *n >= 'a' && *n <= 'z' ? (char)(*n - 32) : *n;
        up = false;
        if (*s++ != c) return false;
    }
    return strcmp(s, "Entry") == 0;
}

static size_t field_size(field_type f) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32: case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: case PROTOBUF_C_TYPE_FLOAT: case PROTOBUF_C_TYPE_ENUM: return 4;
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64: case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING: case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    }
    panic_now("protobuf-c field type %d", (int)f->type);
}

/* ---- to JSON */

static json_t *message_to_json(const ProtobufCMessage *m);

static json_t *text_to_json(const char *s) {
    if (utf8_valid(slice_str(s))) return json_string(s);
    json_t *j = NULL;
    char *clean = mem_strdup(s);
    for (char *p = clean; p && *p; p++) *p = (unsigned char)*p >= 0x80 ? '?' : *p;
    if (clean) j = json_string(clean);
    mem_free(clean);
    return j;
}

static json_t *number_to_text(const char *format, ...) PRINTF_LIKE(1, 2);
static json_t *number_to_text(const char *format, ...) {
    char text[SECONDS_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return json_string(text);
}

static json_t *double_to_json(double v) {
    return isnan(v) ? json_string("NaN") : isinf(v) ? json_string(v < 0 ? "-Infinity" : "Infinity") : json_real(v);
}

static json_t *bytes_to_json(const ProtobufCBinaryData *b) {
    char *text = mem_alloc(BASE64_LEN(b->len) + 1);
    if (!text) return NULL;
    size_t n = base64_encode(slice_of(b->data, b->len), text);
    while (n % 4) text[n++] = '='; /* the JSON mapping pads */
    json_t *j = json_stringn(text, n);
    mem_free(text);
    return j;
}

static json_t *enum_to_json(const ProtobufCEnumDescriptor *e, int32_t v) {
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(e, v);
    return known ? json_string(known->name) : json_integer(v);
}

static json_t *value_to_json(field_type f, const void *at) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32: return json_integer(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32: return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64: return number_to_text("%lld", (long long)*(const int64_t *)at);
    case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: return number_to_text("%llu", (unsigned long long)*(const uint64_t *)at);
    case PROTOBUF_C_TYPE_FLOAT: return double_to_json(*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE: return double_to_json(*(const double *)at);
    case PROTOBUF_C_TYPE_BOOL: return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM: return enum_to_json(f->descriptor, *(const int32_t *)at);
    case PROTOBUF_C_TYPE_STRING: return text_to_json(*(char *const *)at);
    case PROTOBUF_C_TYPE_BYTES: return bytes_to_json(at);
    case PROTOBUF_C_TYPE_MESSAGE: return message_to_json(*(ProtobufCMessage *const *)at);
    }
    return NULL;
}

static bool value_is_default(field_type f, const void *at) {
    static const uint8_t zero[8];
    switch (f->type) {
    case PROTOBUF_C_TYPE_STRING: return !*(char *const *)at || !**(char *const *)at;
    case PROTOBUF_C_TYPE_BYTES: return ((const ProtobufCBinaryData *)at)->len == 0;
    case PROTOBUF_C_TYPE_MESSAGE: return !*(ProtobufCMessage *const *)at;
    default: return memcmp(at, zero, field_size(f)) == 0;
    }
}

/* The key of a map entry as the name of a JSON member. */
static bool map_put(json_t *object, const ProtobufCMessage *entry) {
    field_type k = &entry->descriptor->fields[0], v = &entry->descriptor->fields[1];
    json_t *key = value_to_json(k, (const char *)entry + k->offset), *value = value_to_json(v, (const char *)entry + v->offset);
    char text[24];
    if (json_is_integer(key)) snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(key));
    const char *name = json_is_string(key) ? json_string_value(key) : json_is_boolean(key) ? (json_is_true(key) ? "true" : "false") : text;
    bool ok = key && value && json_object_set(object, name, value) == 0;
    json_decref(key), json_decref(value);
    return ok;
}

static json_t *repeated_to_json(field_type f, const ProtobufCMessage *m) {
    size_t n = *(const size_t *)((const char *)m + f->quantifier_offset);
    const char *at = *(const char *const *)((const char *)m + f->offset);
    bool map = field_is_map(f);
    json_t *j = map ? json_object() : json_array();
    for (size_t i = 0; j && i < n; i++, at += field_size(f)) {
        bool ok = map ? map_put(j, *(ProtobufCMessage *const *)(const void *)at) : json_array_append_new(j, value_to_json(f, at)) == 0;
        if (!ok) json_decref(j), j = NULL;
    }
    return j;
}

static json_t *timestamp_to_json(const Google__Protobuf__Timestamp *t) {
    char text[TIME_TEXT_BYTES];
    time_format(t->seconds, t->nanos, text);
    return json_string(text);
}

static json_t *duration_to_json(const Google__Protobuf__Duration *d) {
    if (d->nanos == 0) return number_to_text("%llds", (long long)d->seconds);
    bool negative = d->seconds < 0 || d->nanos < 0;
    return number_to_text("%s%llu.%09us", negative ? "-" : "", d->seconds < 0 ? -(unsigned long long)d->seconds : (unsigned long long)d->seconds,
                          d->nanos < 0 ? -(unsigned)d->nanos : (unsigned)d->nanos);
}

static json_t *field_mask_to_json(const Google__Protobuf__FieldMask *mask) {
    struct buf b = {0};
    bool ok = buf_append(&b, SLICE_LIT(""));
    for (size_t i = 0; ok && i < mask->n_paths; i++) ok = (i == 0 || buf_append(&b, SLICE_LIT(","))) && buf_append(&b, slice_str(mask->paths[i]));
    json_t *j = ok ? json_stringn(b.data ? (char *)b.data : "", b.len) : NULL;
    buf_fini(&b);
    return j;
}

static json_t *message_to_json(const ProtobufCMessage *m) {
    if (type_is(m->descriptor, &google__protobuf__timestamp__descriptor)) return timestamp_to_json((const Google__Protobuf__Timestamp *)m);
    if (type_is(m->descriptor, &google__protobuf__duration__descriptor)) return duration_to_json((const Google__Protobuf__Duration *)m);
    if (type_is(m->descriptor, &google__protobuf__field_mask__descriptor)) return field_mask_to_json((const Google__Protobuf__FieldMask *)m);
    json_t *j = json_object();
    for (unsigned i = 0; j && i < m->descriptor->n_fields; i++) {
        field_type f = &m->descriptor->fields[i];
        const void *at = (const char *)m + f->offset;
        json_t *v;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            if (*(const size_t *)((const char *)m + f->quantifier_offset) == 0) continue;
            v = repeated_to_json(f, m);
        } else if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
            if (*(const uint32_t *)((const char *)m + f->quantifier_offset) != f->id) continue;
            v = value_to_json(f, at);
        } else {
            if (value_is_default(f, at)) continue;
            v = value_to_json(f, at);
        }
        if (json_object_set_new(j, f->name, v)) json_decref(j), j = NULL; /* also when v is NULL */
    }
    return j;
}

static void heap_use(void) { json_set_alloc_funcs(mem_alloc, mem_free); }

struct dump {
    struct buf out;
    bool failed;
};

static int dump_cb(const char *text, size_t n, void *user) {
    struct dump *d = user;
    d->failed = d->failed || !buf_append(&d->out, slice_of(text, n));
    return d->failed ? -1 : 0;
}

/* jansson 2.14 overlooks a sink that fails at an object's key: the failure is kept here. NULL: no memory. */
static char *json_text(const json_t *j, size_t flags) {
    struct dump d = {0};
    int e = j ? json_dump_callback(j, dump_cb, &d, flags | JSON_ENCODE_ANY) : -1;
    if (e == 0 && dump_cb("", 1, &d) == 0) return (char *)buf_take(&d.out);
    buf_fini(&d.out);
    return NULL;
}

char *pbjson_format(const ProtobufCMessage *m, unsigned indent) {
    heap_use();
    json_t *j = message_to_json(m);
    char *text = json_text(j, JSON_INDENT(indent) | (indent ? 0 : JSON_COMPACT));
    json_decref(j);
    return text;
}

bool pbjson_quote(struct buf *out, const char *text) {
    heap_use();
    json_t *j = text_to_json(text);
    char *quoted = json_text(j, 0);
    bool ok = quoted && buf_append(out, slice_str(quoted));
    mem_free(quoted);
    json_decref(j);
    return ok;
}

/* ---- from JSON */

struct parse {
    struct arena *arena;
    char *error;
    char path[PATH_BYTES];
    size_t path_len;
};

/* The first error stays: what follows is its echo. */
static bool parse_fail(struct parse *p, const char *what) {
    if (!p->error[0]) snprintf(p->error, PBJSON_ERROR_BYTES, "%s%s%s", p->path, p->path_len ? ": " : "", what);
    return false;
}

static bool no_memory(struct parse *p) { return parse_fail(p, "too large: out of memory"); }

static size_t path_push(struct parse *p, const char *before, const char *name, const char *after) {
    size_t was = p->path_len;
    int n = snprintf(p->path + was, PATH_BYTES - was, "%s%s%s", before, name, after);
    p->path_len = MIN_OF(was + (size_t)MAX_OF(n, 0), (size_t)PATH_BYTES - 1);
    return was;
}
static size_t path_push_name(struct parse *p, const char *name) { return path_push(p, p->path_len ? "." : "", name, ""); }
static size_t path_push_index(struct parse *p, size_t i) {
    char text[24];
    snprintf(text, sizeof(text), "%zu", i);
    return path_push(p, "[", text, "]");
}
static void path_pop(struct parse *p, size_t was) { p->path[p->path_len = was] = 0; }

static bool message_from_json(struct parse *p, const json_t *j, ProtobufCMessage *m);

/* A number, or a string that holds one (the mapping asks for both). Range as given; whole = 1.0 too. */
static bool integer_from_json(struct parse *p, const json_t *j, int64_t min, int64_t max, int64_t *out) {
    if (json_is_integer(j)) {
        *out = json_integer_value(j);
    } else if (json_is_real(j) && json_real_value(j) == floor(json_real_value(j)) && fabs(json_real_value(j)) < 9007199254740992.0) {
        *out = (int64_t)json_real_value(j);
    } else if (json_is_string(j)) {
        const char *s = json_string_value(j);
        char *end;
        errno = 0;
        long long v = strtoll(s, &end, 10);
        if (!*s || *end || errno || (*s != '-' && (*s < '0' || *s > '9')) || strlen(s) != json_string_length(j)) return parse_fail(p, "not a whole number");
        *out = v;
    } else {
        return parse_fail(p, "not a whole number");
    }
    return (*out >= min && *out <= max) || parse_fail(p, "out of range");
}

static bool unsigned_from_json(struct parse *p, const json_t *j, uint64_t *out) {
    int64_t v;
    if (!json_is_string(j)) {
        if (!integer_from_json(p, j, 0, INT64_MAX, &v)) return false;
        *out = (uint64_t)v;
        return true;
    }
    const char *s = json_string_value(j);
    char *end;
    errno = 0;
    *out = strtoull(s, &end, 10);
    return (*s >= '0' && *s <= '9' && !*end && !errno) || parse_fail(p, "not a whole number of 64 bits");
}

static bool double_from_json(struct parse *p, const json_t *j, double *out) {
    if (json_is_number(j)) return *out = json_number_value(j), true;
    const char *s = json_is_string(j) ? json_string_value(j) : "";
    char *end;
    *out = strtod(s, &end);
    return (*s && !*end) || parse_fail(p, "not a number");
}

static bool enum_from_json(struct parse *p, const json_t *j, const ProtobufCEnumDescriptor *e, int32_t *out) {
    int64_t v;
    if (!json_is_string(j)) {
        if (!integer_from_json(p, j, INT32_MIN, INT32_MAX, &v)) return false;
        return *out = (int32_t)v, true;
    }
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value_by_name(e, json_string_value(j));
    if (!known) return parse_fail(p, "not a name of this enum");
    return *out = known->value, true;
}

static bool text_from_json(struct parse *p, const json_t *j, char **out) {
    if (!json_is_string(j)) return parse_fail(p, "not a string");
    struct slice s = slice_of(json_string_value(j), json_string_length(j));
    if (memchr(s.data, 0, s.len)) return parse_fail(p, "holds a NUL character");
    struct slice copy = arena_copy(p->arena, s);
    *out = (char *)(uintptr_t)copy.data;
    return copy.data || no_memory(p);
}

static bool bytes_from_json(struct parse *p, const json_t *j, ProtobufCBinaryData *out) {
    if (!json_is_string(j)) return parse_fail(p, "not a string of base64");
    struct slice s = slice_of(json_string_value(j), json_string_length(j));
    out->data = arena_alloc(p->arena, s.len + 4);
    if (!out->data) return no_memory(p);
    out->len = base64_decode(s, out->data);
    if (out->len == SIZE_MAX) return out->len = 0, parse_fail(p, "not base64");
    return true;
}

static ProtobufCMessage *message_new(struct parse *p, message_type t) {
    ProtobufCMessage *m = arena_zalloc(p->arena, t->sizeof_message);
    if (m) protobuf_c_message_init(t, m);
    else no_memory(p);
    return m;
}

static bool value_from_json(struct parse *p, const json_t *j, field_type f, void *at) {
    int64_t v;
    uint64_t u;
    double d;
    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32: case PROTOBUF_C_TYPE_SINT32: case PROTOBUF_C_TYPE_SFIXED32:
        return integer_from_json(p, j, INT32_MIN, INT32_MAX, &v) && (*(int32_t *)at = (int32_t)v, true);
    case PROTOBUF_C_TYPE_UINT32: case PROTOBUF_C_TYPE_FIXED32: return integer_from_json(p, j, 0, UINT32_MAX, &v) && (*(uint32_t *)at = (uint32_t)v, true);
    case PROTOBUF_C_TYPE_INT64: case PROTOBUF_C_TYPE_SINT64: case PROTOBUF_C_TYPE_SFIXED64:
        return integer_from_json(p, j, INT64_MIN, INT64_MAX, &v) && (*(int64_t *)at = v, true);
    case PROTOBUF_C_TYPE_UINT64: case PROTOBUF_C_TYPE_FIXED64: return unsigned_from_json(p, j, &u) && (*(uint64_t *)at = u, true);
    case PROTOBUF_C_TYPE_FLOAT: return double_from_json(p, j, &d) && (*(float *)at = (float)d, true);
    case PROTOBUF_C_TYPE_DOUBLE: return double_from_json(p, j, &d) && (*(double *)at = d, true);
    case PROTOBUF_C_TYPE_BOOL: return json_is_boolean(j) ? (*(protobuf_c_boolean *)at = json_is_true(j), true) : parse_fail(p, "neither true nor false");
    case PROTOBUF_C_TYPE_ENUM: return enum_from_json(p, j, f->descriptor, at);
    case PROTOBUF_C_TYPE_STRING: return text_from_json(p, j, at);
    case PROTOBUF_C_TYPE_BYTES: return bytes_from_json(p, j, at);
    case PROTOBUF_C_TYPE_MESSAGE: {
        ProtobufCMessage *m = message_new(p, f->descriptor);
        *(ProtobufCMessage **)at = m;
        return m && message_from_json(p, j, m);
    }
    }
    return false;
}

static bool map_from_json(struct parse *p, const json_t *j, field_type f, char *at) {
    const char *key;
    json_t *value;
    size_t i = 0;
    json_object_foreach((json_t *)(uintptr_t)j, key, value) {
        ProtobufCMessage *entry = message_new(p, f->descriptor);
        if (!entry) return false;
        ((ProtobufCMessage **)(void *)at)[i++] = entry;
        size_t was = path_push_name(p, key);
        field_type k = &entry->descriptor->fields[0], v = &entry->descriptor->fields[1];
        json_t *name = json_string(key);
        bool ok = name ? value_from_json(p, name, k, (char *)entry + k->offset) && value_from_json(p, value, v, (char *)entry + v->offset) : no_memory(p);
        json_decref(name);
        if (!ok) return false;
        path_pop(p, was);
    }
    return true;
}

static bool repeated_from_json(struct parse *p, const json_t *j, field_type f, ProtobufCMessage *m) {
    bool map = field_is_map(f);
    if (map ? !json_is_object(j) : !json_is_array(j)) return parse_fail(p, map ? "not an object" : "not an array");
    size_t n = map ? json_object_size(j) : json_array_size(j);
    if (n == 0) return true;
    char *at = arena_zalloc(p->arena, n * field_size(f));
    if (!at) return no_memory(p);
    *(size_t *)((char *)m + f->quantifier_offset) = n;
    *(void **)((char *)m + f->offset) = at;
    if (map) return map_from_json(p, j, f, at);
    for (size_t i = 0; i < n; i++, at += field_size(f)) {
        size_t was = path_push_index(p, i);
        if (json_is_null(json_array_get(j, i))) return parse_fail(p, "null in a list");
        if (!value_from_json(p, json_array_get(j, i), f, at)) return false;
        path_pop(p, was);
    }
    return true;
}

static bool timestamp_from_json(struct parse *p, const json_t *j, Google__Protobuf__Timestamp *t) {
    return (json_is_string(j) && time_parse(slice_of(json_string_value(j), json_string_length(j)), &t->seconds, &t->nanos)) ||
           parse_fail(p, "not a time like 2026-01-31T08:00:00Z");
}

static bool duration_from_json(struct parse *p, const json_t *j, Google__Protobuf__Duration *d) {
    const char *s = json_is_string(j) ? json_string_value(j) : "";
    bool negative = *s == '-';
    s += negative;
    int64_t sum = 0;
    int32_t nanos = 0;
    bool ok = *s != 0;
    for (const char *last = NULL; ok && *s;) { /* 1h30m: each unit smaller than the one before */
        static const char units[] = "dhms";
        static const int64_t seconds[] = {86400, 3600, 60, 1};
        int64_t whole = 0, digits = 0;
        for (; *s >= '0' && *s <= '9' && digits < 12; s++, digits++) whole = whole * 10 + (*s - '0');
        bool fraction = digits && *s == '.';
        if (fraction) {
            int32_t unit = 100000000;
            for (s++; *s >= '0' && *s <= '9' && unit; s++, unit /= 10) nanos += (*s - '0') * unit;
        }
        const char *u = *s ? strchr(units, *s++) : NULL;
        ok = u && digits && (!last || u > last) && (!fraction || *u == 's');
        if (ok) sum += whole * seconds[u - units];
        ok = ok && sum <= DURATION_SECONDS_MAX;
        last = u;
    }
    if (!ok) return parse_fail(p, "not a duration like 3600s, 1.5s, 30m or 1d12h");
    d->seconds = negative ? -sum : sum;
    d->nanos = negative ? -nanos : nanos;
    return true;
}

static bool field_mask_from_json(struct parse *p, const json_t *j, Google__Protobuf__FieldMask *mask) {
    char *text;
    if (!text_from_json(p, j, &text)) return false;
    if (!*text) return true;
    size_t n = 1;
    for (const char *s = text; *s; s++) n += *s == ',';
    mask->paths = arena_zalloc(p->arena, n * sizeof(char *));
    if (!mask->paths) return no_memory(p);
    for (char *s; (s = strsep(&text, ","));) mask->paths[mask->n_paths++] = s;
    return true;
}

/* name or its camelCase: clientOrderNo for client_order_no. */
static field_type field_find(message_type t, const char *name) {
    for (unsigned i = 0; i < t->n_fields; i++) {
        if (strcmp(t->fields[i].name, name) == 0) return &t->fields[i];
        const char *a = t->fields[i].name, *b = name;
        for (; *a && *b; a++, b++) {
            bool up = *a == '_' && a[1] >= 'a' && a[1] <= 'z';
            if (up) a++;
            if ((up ? (char)(*a - 32) : *a) != *b) break;
        }
        if (!*a && !*b) return &t->fields[i];
    }
    return NULL;
}

static bool field_from_json(struct parse *p, const json_t *j, field_type f, ProtobufCMessage *m) {
    if (json_is_null(j)) return true; /* null is the default */
    if (f->label == PROTOBUF_C_LABEL_REPEATED) return repeated_from_json(p, j, f, m);
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        uint32_t *which = (uint32_t *)(void *)((char *)m + f->quantifier_offset);
        if (*which) return parse_fail(p, "excludes a field that is given as well");
        *which = f->id;
    }
    return value_from_json(p, j, f, (char *)m + f->offset);
}

static bool message_from_json(struct parse *p, const json_t *j, ProtobufCMessage *m) {
    if (type_is(m->descriptor, &google__protobuf__timestamp__descriptor)) return timestamp_from_json(p, j, (Google__Protobuf__Timestamp *)m);
    if (type_is(m->descriptor, &google__protobuf__duration__descriptor)) return duration_from_json(p, j, (Google__Protobuf__Duration *)m);
    if (type_is(m->descriptor, &google__protobuf__field_mask__descriptor)) return field_mask_from_json(p, j, (Google__Protobuf__FieldMask *)m);
    if (!json_is_object(j)) return parse_fail(p, "not an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)j, key, value) {
        size_t was = path_push_name(p, key);
        field_type f = field_find(m->descriptor, key);
        if (!f) return parse_fail(p, "no such field");
        if (!field_from_json(p, value, f, m)) return false;
        path_pop(p, was);
    }
    return true;
}

ProtobufCMessage *pbjson_parse(message_type type, struct slice json, struct arena *arena, char error[PBJSON_ERROR_BYTES]) {
    heap_use();
    struct parse p = {.arena = arena, .error = error};
    json_error_t e;
    error[0] = 0;
    json_t *j = json_loadb((const char *)json.data, json.len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (!j) {
        snprintf(error, PBJSON_ERROR_BYTES, "not JSON: line %d, column %d: %.120s", e.line, e.column, e.text);
        return NULL;
    }
    ProtobufCMessage *m = message_new(&p, type);
    bool ok = m && message_from_json(&p, j, m);
    json_decref(j);
    return ok ? m : NULL;
}

bool pbjson_has_key(struct slice json, const char *key) {
    heap_use();
    json_t *j = json_loadb((const char *)json.data, json.len, 0, NULL);
    bool has = json_object_get(j, key) != NULL;
    json_decref(j);
    return has;
}
