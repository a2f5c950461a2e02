#include "proto/status.h"

#include <stdarg.h>
#include <stdio.h>

#include "proto/pbwire.h"

struct status_row {
    const char *name;
    enum grpc_code code;
    const char *reason;
    enum retry_advice retry;
};

static const struct status_row rows[STATUS_COUNT] = {
#define STATUS(name, code, reason, retry) [STATUS_##name] = {#name, code, reason, RETRY_##retry},
#include "proto/status.tbl"
#undef STATUS
};

static const struct status_row *status_row(enum status s) {
    check((unsigned)s < STATUS_COUNT);
    return &rows[s];
}

const char *status_name(enum status s) { return status_row(s)->name; }
enum grpc_code status_grpc_code(enum status s) { return status_row(s)->code; }
const char *status_reason(enum status s) { return status_row(s)->reason; }
enum retry_advice status_retry(enum status s) { return status_row(s)->retry; }

void failure_init(struct failure *f, struct arena *arena) {
    *f = (struct failure){.status = STATUS_OK, .arena = arena};
    f->metas_end = &f->metas;
    f->violations_end = &f->violations;
}

void failure_move(struct failure *to, struct failure *from) {
    *to = *from;
    if (!from->metas) to->metas_end = &to->metas;
    if (!from->violations) to->violations_end = &to->violations;
    failure_init(from, from->arena);
}

enum status failure_set(struct failure *f, enum status s, const char *format, ...) {
    check(s != STATUS_OK);
    if (f->status != STATUS_OK) return f->status;
    f->status = s;
    va_list args;
    va_start(args, format);
    f->message = arena_vprintf(f->arena, format, args);
    va_end(args);
    return s;
}

void failure_meta(struct failure *f, const char *key, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = arena_vprintf(f->arena, format, args);
    va_end(args);
    struct failure_meta *m = text ? arena_new(f->arena, struct failure_meta) : NULL;
    const char *own_key = m ? arena_printf(f->arena, "%s", key) : NULL;
    if (!own_key) return; /* a full arena costs details, never the status */
    *m = (struct failure_meta){.key = own_key, .value = slice_str(text)};
    *f->metas_end = m;
    f->metas_end = &m->next;
}

enum status failure_violation(struct failure *f, enum status s, const char *field, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = f->violation_count < FAILURE_VIOLATIONS_MAX ? arena_vprintf(f->arena, format, args) : NULL;
    va_end(args);
    f->violation_count++;
    struct failure_violation *v = text ? arena_new(f->arena, struct failure_violation) : NULL;
    const char *own_field = v ? arena_printf(f->arena, "%s", field) : NULL;
    if (own_field) {
        *v = (struct failure_violation){.field = own_field, .description = text};
        *f->violations_end = v;
        f->violations_end = &v->next;
    }
    return failure_set(f, s, "%s: %s", field, text ? text : status_reason(s));
}

/* ---- google.rpc.Status ---- */

#define TYPE_PREFIX "type.googleapis.com/google.rpc."
enum { PAIR_OVERHEAD_MAX = 3 * 11 };

/* A sub-message of two texts: a map entry, a FieldViolation. Field numbers here are below 16, so a tag is one byte. */
static void write_pair(struct writer *w, uint32_t field, struct slice first, struct slice second) {
    size_t len = 0;
    if (first.len) len += 1 + varint_len(first.len) + first.len;
    if (second.len) len += 1 + varint_len(second.len) + second.len;
    pb_tag(w, field, PB_LEN);
    write_varint(w, len);
    pb_bytes(w, 1, first);
    pb_bytes(w, 2, second);
}

static bool writer_from_arena(struct writer *w, struct arena *a, size_t cap) {
    uint8_t *p = arena_alloc(a, cap);
    *w = writer_of(p, p ? cap : 0);
    return p != NULL;
}

static struct slice encode_error_info(const struct failure *f) {
    struct slice reason = slice_str(status_reason(f->status)), domain = SLICE_LIT("orderdb");
    char more[16];
    snprintf(more, sizeof more, "%u", f->violation_count > FAILURE_VIOLATIONS_MAX ? f->violation_count - FAILURE_VIOLATIONS_MAX : 0);
    size_t cap = pb_bytes_max(reason) + pb_bytes_max(domain) + PAIR_OVERHEAD_MAX + sizeof "more_violations" + sizeof more;
    for (const struct failure_meta *m = f->metas; m; m = m->next) cap += PAIR_OVERHEAD_MAX + strlen(m->key) + m->value.len;
    struct writer w;
    if (!writer_from_arena(&w, f->arena, cap)) return (struct slice){0};
    pb_bytes(&w, 1, reason);
    pb_bytes(&w, 2, domain);
    for (const struct failure_meta *m = f->metas; m; m = m->next) write_pair(&w, 3, slice_str(m->key), m->value);
    if (f->violation_count > FAILURE_VIOLATIONS_MAX) write_pair(&w, 3, SLICE_LIT("more_violations"), slice_str(more));
    check(!w.full);
    return writer_slice(&w);
}

static struct slice encode_bad_request(const struct failure *f) {
    size_t cap = 0;
    for (const struct failure_violation *v = f->violations; v; v = v->next) cap += PAIR_OVERHEAD_MAX + strlen(v->field) + strlen(v->description);
    struct writer w;
    if (!cap || !writer_from_arena(&w, f->arena, cap)) return (struct slice){0};
    for (const struct failure_violation *v = f->violations; v; v = v->next) write_pair(&w, 1, slice_str(v->field), slice_str(v->description));
    check(!w.full);
    return writer_slice(&w);
}

/* RetryInfo { Duration retry_delay { seconds, nanos } } */
static struct slice encode_retry_info(const struct failure *f, uint8_t *bytes, size_t cap) {
    if (!f->retry_delay_ms) return (struct slice){0};
    uint8_t inner_bytes[2 * PB_INT_BYTES_MAX];
    struct writer inner = writer_of(inner_bytes, sizeof inner_bytes), w = writer_of(bytes, cap);
    pb_int64(&inner, 1, f->retry_delay_ms / 1000);
    pb_int64(&inner, 2, f->retry_delay_ms % 1000 * 1000000ll);
    struct slice part = writer_slice(&inner);
    pb_message(&w, 1, &part, 1);
    check(!w.full);
    return writer_slice(&w);
}

struct slice failure_encode(const struct failure *f) {
    if (f->status == STATUS_OK) return (struct slice){0};
    uint8_t retry_bytes[2 * PB_INT_BYTES_MAX + 15];
    const struct {
        struct slice type, value;
    } details[] = {
        {SLICE_LIT(TYPE_PREFIX "ErrorInfo"), encode_error_info(f)},
        {SLICE_LIT(TYPE_PREFIX "BadRequest"), encode_bad_request(f)},
        {SLICE_LIT(TYPE_PREFIX "RetryInfo"), encode_retry_info(f, retry_bytes, sizeof retry_bytes)},
    };
    struct slice message = slice_str(f->message ? f->message : status_reason(f->status));
    size_t cap = PB_INT_BYTES_MAX + pb_bytes_max(message);
    for (size_t i = 0; i < ARRAY_LEN(details); i++) cap += PAIR_OVERHEAD_MAX + details[i].type.len + details[i].value.len;
    struct writer w;
    if (!details[0].value.len || !writer_from_arena(&w, f->arena, cap)) return (struct slice){0};
    pb_int64(&w, 1, status_grpc_code(f->status));
    pb_bytes(&w, 2, message);
    for (size_t i = 0; i < ARRAY_LEN(details); i++)
        if (details[i].value.len) write_pair(&w, 3, details[i].type, details[i].value);
    check(!w.full);
    return writer_slice(&w);
}

enum { WITHIN_MESSAGE_BYTES_MAX = 512 };

struct slice failure_encode_within(const struct failure *f, struct arena *arena, size_t bytes_max) {
    struct failure g = *f;
    g.arena = arena;
    if (g.message) g.message = (const char *)arena_copy(arena, slice_cut_utf8(slice_str(g.message), WITHIN_MESSAGE_BYTES_MAX)).data;
    unsigned count = 0;
    for (const struct failure_violation *v = f->violations; v; v = v->next) count++;
    for (;; count /= 2) {
        struct failure_violation *kept = arena_array(arena, struct failure_violation, (size_t)count + 1);
        if (!kept) return (struct slice){0};
        const struct failure_violation *v = f->violations;
        for (unsigned i = 0; i < count; i++, v = v->next) kept[i] = *v, kept[i].next = i + 1 < count ? &kept[i + 1] : NULL;
        g.violations = count ? kept : NULL;
        struct slice raw = failure_encode(&g);
        if (raw.len <= bytes_max) return raw;
        if (!count) return (struct slice){0};
    }
}
