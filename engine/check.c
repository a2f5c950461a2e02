#include "engine/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/check_group.h"
#include "engine/check_local.h"
#include "proto/base/hash.h"

/* The shape of requests. check.c: create and transition, their options, and how a violation is said; check_order.c: the order itself;
 * check_import.c: orders that come with their history. Every rule is tried, so a caller learns all that is wrong at once; only what a broken
 * rule makes meaningless is skipped (no sums over amounts that are missing). */

enum { PATH_BYTES_MAX = 256 };

/* ---- saying what is wrong */

static void path_write(const struct path *at, char text[PATH_BYTES_MAX], size_t *len)
{
    if (at->parent) path_write(at->parent, text, len);
    if (*len < PATH_BYTES_MAX) *len += (size_t)snprintf(text + *len, PATH_BYTES_MAX - *len, "%s%s", *len ? "." : "", at->name);
    if (at->index >= 0 && *len < PATH_BYTES_MAX) *len += (size_t)snprintf(text + *len, PATH_BYTES_MAX - *len, "[%ld]", at->index);
}

void check_violation(struct checker *c, enum status s, const struct path *at, const char *format, ...)
{
    char path[PATH_BYTES_MAX], text[512];
    size_t len = 0;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    path_write(at, path, &len);
    failure_violation(c->f, s, path, "%s", text);
}

void check_not_built(struct checker *c, const char *field)
{
    failure_set(c->f, STATUS_NOT_BUILT_YET, "%s is not built yet", field);
    failure_meta(c->f, "field", "%s", field);
}

void check_text(struct checker *c, const struct path *at, const char *s, size_t min, size_t max)
{
    size_t n = strlen(s);
    if (n == 0 && min > 0) check_violation(c, STATUS_FIELD_INVALID, at, "is required, %zu to %zu bytes", min, max);
    else if (n < min) check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu bytes; at least %zu", n, min);
    else if (n > max) check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu bytes; at most %zu", n, max);
}

void check_count(struct checker *c, const struct path *at, size_t n, size_t max)
{
    if (n > max) check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu elements; at most %zu", n, max);
}

void check_assigned(struct checker *c, const struct path *at, bool sent)
{
    if (sent) check_violation(c, STATUS_FIELD_INVALID, at, "is assigned by the server: leave it out");
}

/* 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z: google/protobuf/timestamp.proto */
#define TIMESTAMP_SECONDS_MIN (-62135596800ll)
#define TIMESTAMP_SECONDS_MAX 253402300799ll

static const char *time_fault(const Google__Protobuf__Timestamp *t)
{
    if (t->seconds < TIMESTAMP_SECONDS_MIN || t->seconds > TIMESTAMP_SECONDS_MAX) return "seconds outside of the years 0001 to 9999";
    if (t->nanos < 0 || t->nanos > 999999999) return "nanos outside of 0 to 999999999";
    return NULL;
}

static int64_t time_us(const Google__Protobuf__Timestamp *t) { return t->seconds * US_PER_S + t->nanos / 1000; }

bool check_time(struct checker *c, const struct path *at, const Google__Protobuf__Timestamp *t, int64_t *unix_us)
{
    const char *fault = time_fault(t);
    if (fault) return check_violation(c, STATUS_FIELD_INVALID, at, "%s", fault), false;
    *unix_us = time_us(t);
    return true;
}

bool check_timestamp(const Google__Protobuf__Timestamp *t, const char *field, int64_t *unix_us, struct failure *f)
{
    const char *fault = time_fault(t);
    if (fault) return failure_violation(f, STATUS_FIELD_INVALID, field, "%s", fault), false;
    *unix_us = time_us(t);
    return true;
}

bool check_done(struct checker *c, const struct command *command, struct checked *out)
{
    if (c->f->status) return false;
    out->command = command_encode(command, c->arena);
    if (!out->command.data) failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call");
    return c->f->status == STATUS_OK;
}

/* ---- what writes have in common */

static bool duration_us(const Google__Protobuf__Duration *d, int64_t *us)
{
    if (d->seconds < 0 || d->seconds > CHECK_TTL_US_MAX / US_PER_S || d->nanos < 0 || d->nanos > 999999999) return false;
    *us = d->seconds * US_PER_S + d->nanos / 1000;
    return *us >= CHECK_TTL_US_MIN && *us <= CHECK_TTL_US_MAX;
}

void check_options(struct checker *c, const Orderdb__V1__WriteOptions *o, bool required, struct command_origin *origin)
{
    const struct path *at = AT(NULL, "options");
    int64_t ttl_us = CHECK_TTL_US_DEFAULT;
    origin->ttl_us = (uint64_t)ttl_us;
    if (!o) {
        if (required) check_violation(c, STATUS_FIELD_INVALID, at, "is required: a write needs a request_id");
        return;
    }
    if (required || o->request_id[0]) check_text(c, AT(at, "request_id"), o->request_id, CHECK_REQUEST_ID_BYTES_MIN, CHECK_REQUEST_ID_BYTES_MAX);
    check_text(c, AT(at, "operator"), o->operator_, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "reason"), o->reason, 0, CHECK_TEXT_BYTES_MAX);
    if (o->idempotency_ttl && !duration_us(o->idempotency_ttl, &ttl_us))
        check_violation(c, STATUS_LIMIT_EXCEEDED, AT(at, "idempotency_ttl"), "%lld s and %d ns; 1 s to 30 days",
                        (long long)o->idempotency_ttl->seconds, (int)o->idempotency_ttl->nanos);
    origin->ttl_us = (uint64_t)ttl_us;
    origin->request_id = slice_str(o->request_id);
    origin->operator_ = slice_str(o->operator_);
    origin->reason = slice_str(o->reason);
}

/* https://www.w3.org/TR/trace-context/ section 3.2.2; section 4.3: one that does not parse is to be ignored. */
struct slice check_traceparent(struct slice s)
{
    static const uint8_t dashes[] = {2, 35, 52};
    if (s.len != 55) return (struct slice){0};
    for (size_t i = 0; i < s.len; i++) {
        bool dash = memchr(dashes, (int)i, sizeof dashes) != NULL;
        bool hex = (s.data[i] >= '0' && s.data[i] <= '9') || (s.data[i] >= 'a' && s.data[i] <= 'f');
        if (dash ? s.data[i] != '-' : !hex) return (struct slice){0};
    }
    return s;
}

/* ---- create */

bool check_create(Orderdb__V1__CreateOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_CREATE};
    Orderdb__V1__Order *order = m->order;
    const struct path *at = AT(NULL, "order");
    *out = (struct checked){0};
    out->validate_only = m->options && m->options->validate_only;
    check_options(&c, m->options, true, &command.origin);
    command.origin.traceparent = check_traceparent(traceparent);
    if (!order) return check_violation(&c, STATUS_FIELD_INVALID, at, "is required"), false;
    check_assigned(&c, AT(at, "order_id"), order->order_id != 0);
    check_assigned(&c, AT(at, "status"), order->status[0] != 0);
    check_assigned(&c, AT(at, "version"), order->version != 0);
    check_assigned(&c, AT(at, "timers"), order->n_timers != 0);
    check_assigned(&c, AT(at, "history"), order->n_history != 0);
    check_assigned(&c, AT(at, "create_time"), order->create_time != NULL);
    check_assigned(&c, AT(at, "update_time"), order->update_time != NULL);
    check_assigned(&c, AT(at, "archived"), order->archived);
    check_order(&c, at, order);
    if (f->status) return false;

    command.create.user_id = out->user_id = slice_str(order->user_id);
    command.create.client_order_no = slice_str(order->client_order_no);
    command.create.machine = slice_str(order->machine);
    struct slice content = check_pack(&c, order, REQUEST_CREATE, &command.create.summary, &command.create.detail);
    if (!content.data) return false;
    command.origin.fingerprint = hash128(content);
    return check_done(&c, &command, out);
}

/* ---- transition */

static int slice_order(const void *a, const void *b) { return slice_compare(*(const struct slice *)a, *(const struct slice *)b); }

/* What makes two transitions the same request: who sent it and why may differ between attempts, how long to remember it too. */
static bool transition_fingerprint(struct checker *c, const struct command_transition *t, struct hash128 patch, const Orderdb__V1__AckRef *ack, struct hash128 *out)
{
    struct slice sorted[COMMAND_STATUSES_MAX];
    size_t n = t->expected_status_count, cap = 1 + 8 + 8 + 10 + 20 + 24 + t->event.len + t->to_status.len;
    memcpy(sorted, t->expected_statuses, n * sizeof sorted[0]);
    qsort(sorted, n, sizeof sorted[0], slice_order);
    for (size_t i = 0; i < n; i++) cap += 10 + sorted[i].len;
    if (ack) cap += 10 + strlen(ack->group) + 10 + strlen(ack->event_id);
    uint8_t *content = arena_alloc(c->arena, cap);
    if (!content) return failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call"), false;
    struct writer w = writer_of(content, cap);
    write_u8(&w, REQUEST_TRANSITION);
    write_be64(&w, (uint64_t)t->order_id);
    write_counted(&w, t->event);
    write_counted(&w, t->to_status);
    write_varint(&w, n);
    for (size_t i = 0; i < n; i++) write_counted(&w, sorted[i]);
    write_be64(&w, (uint64_t)t->expected_version);
    if (t->patch.fields) { /* without: what was remembered before there were patches stays the same request */
        write_be64(&w, t->patch.fields);
        write_be64(&w, patch.low);
        write_be64(&w, patch.high);
    }
    if (ack) write_counted(&w, slice_str(ack->group)), write_counted(&w, slice_str(ack->event_id));
    check(!w.full);
    *out = hash128(writer_slice(&w));
    return true;
}

/* The group's id is not known here: command_ack_set_group. */
static void check_ack(struct checker *c, const Orderdb__V1__AckRef *m, struct command_ack *ack, struct slice *group)
{
    if (!m) return;
    ack->group_id = COMMAND_ACK_GROUP_UNKNOWN;
    if (check_group_name(m->group, "ack.group", c->f)) *group = slice_str(m->group);
    if (!check_event_id(m->event_id, &ack->slot, &ack->seq)) check_violation(c, STATUS_FIELD_INVALID, AT(AT(NULL, "ack"), "event_id"), CHECK_EVENT_ID_RULE, m->event_id);
}

bool check_transition(Orderdb__V1__TransitionOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_TRANSITION};
    struct command_transition *t = &command.transition;
    struct hash128 patch = {0};
    *out = (struct checked){0};
    out->validate_only = m->options && m->options->validate_only;
    check_options(&c, m->options, false, &command.origin);
    command.origin.traceparent = check_traceparent(traceparent);
    if (m->order_id <= 0) check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "order_id"), "%lld; an order_id is above zero", (long long)m->order_id);
    if (m->event[0] && m->to_status[0]) check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "to_status"), "name an event or a to_status, not both");
    if (!m->event[0] && !m->to_status[0]) check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "event"), "name an event or a to_status");
    check_text(&c, AT(NULL, "event"), m->event, 0, CHECK_NAME_BYTES_MAX);
    check_text(&c, AT(NULL, "to_status"), m->to_status, 0, CHECK_NAME_BYTES_MAX);
    check_count(&c, AT(NULL, "expected_statuses"), m->n_expected_statuses, COMMAND_STATUSES_MAX);
    if (m->expected_version < 0)
        check_violation(&c, STATUS_LIMIT_EXCEEDED, AT(NULL, "expected_version"), "%lld; from 1, or 0 for any", (long long)m->expected_version);
    for (size_t i = 0; i < m->n_expected_statuses && i < COMMAND_STATUSES_MAX; i++) {
        check_text(&c, AT_INDEX(NULL, "expected_statuses", i), m->expected_statuses[i], 1, STATUS_NAME_BYTES_MAX);
        t->expected_statuses[t->expected_status_count++] = slice_str(m->expected_statuses[i]);
    }
    if (m->patch || m->update_mask) {
        command.type = COMMAND_PATCH;
        check_change(&c, AT(NULL, "patch"), m->patch, m->update_mask, REQUEST_TRANSITION, &t->patch, &patch);
    }
    check_ack(&c, m->ack, &command.ack, &out->ack_group);
    if (f->status) return false;

    t->order_id = out->order_id = m->order_id;
    t->event = slice_str(m->event);
    t->to_status = slice_str(m->to_status);
    t->expected_version = m->expected_version;
    return transition_fingerprint(&c, t, patch, m->ack, &command.origin.fingerprint) && check_done(&c, &command, out);
}

/* ---- outcome */

bool check_outcome(const Orderdb__V1__GetRequestOutcomeRequest *m, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_FENCE, .origin.ttl_us = COMMAND_FOR_EVER_US}; /* nobody knows how late a packet is */
    *out = (struct checked){0};
    check_text(&c, AT(NULL, "user_id"), m->user_id, 1, CHECK_USER_ID_BYTES_MAX);
    check_text(&c, AT(NULL, "request_id"), m->request_id, CHECK_REQUEST_ID_BYTES_MIN, CHECK_REQUEST_ID_BYTES_MAX);
    command.origin.request_id = slice_str(m->request_id);
    command.fence.user_id = out->user_id = slice_str(m->user_id);
    return check_done(&c, &command, out);
}
