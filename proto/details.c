#include "proto/details.h"

#include "proto/pbwire.h"

static const char *text_in(struct arena *a, struct slice s) { return (const char *)arena_copy(a, s).data; }

/* The fields 1 and 2 of a message as texts: map entries, violations, Any. Later ones win, as in any parser. */
static bool read_pair(struct slice wire, struct slice *first, struct slice *second) {
    *first = *second = SLICE_LIT("");
    struct reader r = reader_of(wire);
    for (struct pb_field v; pb_next(&r, &v);) {
        if (v.wire_type != PB_LEN) continue;
        if (v.number == 1) *first = v.bytes;
        if (v.number == 2) *second = v.bytes;
    }
    return !r.bad;
}

static bool read_error_info(struct slice wire, struct arena *arena, struct details *out) {
    struct failure_meta **end = &out->metas;
    while (*end) end = &(*end)->next;
    struct reader r = reader_of(wire);
    for (struct pb_field v; pb_next(&r, &v);) {
        if (v.wire_type != PB_LEN) continue;
        if (v.number == 1 && !(out->reason = text_in(arena, v.bytes))) return false;
        if (v.number == 2 && !(out->domain = text_in(arena, v.bytes))) return false;
        if (v.number != 3) continue;
        struct slice key, value;
        struct failure_meta *m = arena_new(arena, struct failure_meta);
        if (!m || !read_pair(v.bytes, &key, &value)) return false;
        *m = (struct failure_meta){.key = text_in(arena, key), .value = arena_copy(arena, value)};
        if (!m->key || !m->value.data) return false;
        *end = m;
        end = &m->next;
    }
    return !r.bad;
}

static bool read_bad_request(struct slice wire, struct arena *arena, struct details *out) {
    struct failure_violation **end = &out->violations;
    while (*end) end = &(*end)->next;
    struct reader r = reader_of(wire);
    for (struct pb_field v; pb_next(&r, &v);) {
        if (v.wire_type != PB_LEN || v.number != 1) continue;
        struct slice field, description;
        struct failure_violation *violation = arena_new(arena, struct failure_violation);
        if (!violation || !read_pair(v.bytes, &field, &description)) return false;
        *violation = (struct failure_violation){.field = text_in(arena, field), .description = text_in(arena, description)};
        if (!violation->field || !violation->description) return false;
        *end = violation;
        end = &violation->next;
    }
    return !r.bad;
}

static bool read_retry_info(struct slice wire, struct details *out) {
    struct slice duration, ignored;
    if (!read_pair(wire, &duration, &ignored)) return false;
    int64_t seconds = 0, nanos = 0;
    struct reader r = reader_of(duration);
    for (struct pb_field v; pb_next(&r, &v);) {
        if (v.wire_type != PB_VARINT) continue;
        if (v.number == 1) seconds = (int64_t)v.value;
        if (v.number == 2) nanos = (int64_t)v.value;
    }
    out->has_retry_delay = true;
    if (seconds < 0 || nanos < 0 || nanos > 999999999) out->retry_delay_ms = 0;
    else if (seconds >= UINT32_MAX / 1000) out->retry_delay_ms = UINT32_MAX;
    else out->retry_delay_ms = (uint32_t)(seconds * 1000 + (nanos + 999999) / 1000000);
    return !r.bad;
}

static bool read_detail(struct slice any, struct arena *arena, struct details *out) {
    struct slice type, value;
    if (!read_pair(any, &type, &value)) return false;
    /* Only what follows the last '/' names the type (google/protobuf/any.proto). */
    for (size_t i = type.len; i-- > 0;)
        if (type.data[i] == '/') {
            type = slice_of(type.data + i + 1, type.len - i - 1);
            break;
        }
    if (slice_equal(type, SLICE_LIT("google.rpc.ErrorInfo"))) return read_error_info(value, arena, out);
    if (slice_equal(type, SLICE_LIT("google.rpc.BadRequest"))) return read_bad_request(value, arena, out);
    if (slice_equal(type, SLICE_LIT("google.rpc.RetryInfo"))) return read_retry_info(value, out);
    return true;
}

bool details_decode(struct slice wire, struct arena *arena, struct details *out) {
    *out = (struct details){.message = "", .reason = "", .domain = ""};
    struct reader r = reader_of(wire);
    for (struct pb_field v; pb_next(&r, &v);) {
        if (v.number == 1 && v.wire_type == PB_VARINT) out->code = (int32_t)v.value;
        if (v.wire_type != PB_LEN) continue;
        if (v.number == 2 && !(out->message = text_in(arena, v.bytes))) return false;
        if (v.number == 3 && !read_detail(v.bytes, arena, out)) return false;
    }
    return !r.bad;
}

struct slice details_meta(const struct details *d, const char *key) {
    for (const struct failure_meta *m = d->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return m->value;
    return (struct slice){0};
}
