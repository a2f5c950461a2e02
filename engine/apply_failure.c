#include <stdio.h>
#include <time.h>

#include "engine/node_row.h"
#include "engine/apply.h"
#include "engine/check.h"
#include "engine/consumer_row.h"
#include "engine/required.h"
#include "engine/resource.h"

/* How a refusal reads: one sentence for people, metadata for programs. Keys of the metadata are part of the contract (docs/ERRORS.md). */

/* "2026-11-23T06:30:00.000001Z" */
static void time_text(int64_t us, char out[40])
{
    int64_t seconds = us / US_PER_S - (us % US_PER_S < 0), micros = us - seconds * US_PER_S;
    time_t t = (time_t)seconds;
    struct tm tm = {0};
    gmtime_r(&t, &tm);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 40 - n, ".%06dZ", (int)micros);
}

#define TEXT(s) (int)(s).len, (const char *)((s).data ? (s).data : (const uint8_t *)"")

static void meta_state(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    struct slice status = machines_status_name(ms, o->head.status);
    failure_meta(f, "order_id", "%lld", (long long)o->head.order_id);
    failure_meta(f, "status", "%.*s", TEXT(status));
    failure_meta(f, "version", "%lld", (long long)o->head.version);
}

static void meta_first(const struct outcome *o, struct failure *f)
{
    char at[40];
    time_text(o->first_time_us, at);
    failure_meta(f, "order_id", "%lld", (long long)o->first_order_id);
    failure_meta(f, "time", "%s", at);
}

static void meta_mismatch(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    char at[40];
    time_text(o->winner_time_us, at);
    meta_state(o, ms, f);
    failure_meta(f, "already_there", "%s", o->already_there ? "true" : "false");
    failure_meta(f, "winner_request_id", "%.*s", TEXT(o->winner_request_id));
    failure_meta(f, "winner_time", "%s", at);
}

/* What SetOrderTimer was refused for. */
static void timer_refusal(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    char field[64];
    struct slice status;
    switch (o->timer) {
    case TIMER_STATUS_UNKNOWN:
        snprintf(field, sizeof field, "timer.expected_statuses[%u]", o->expected_index);
        failure_violation(f, o->status, field, "status machine %.*s has no status \"%.*s\"", TEXT(o->machine_reference), TEXT(o->expected_name));
        return;
    case TIMER_TOO_FAR:
        failure_violation(f, o->status, "timer.fire_time", "is more than ten years from now");
        return;
    case TIMER_TOO_MANY:
        failure_violation(f, o->status, "timer.timer_id", "the order has %d timers: no more, but one of them may be replaced", TIMERS_SET_MAX);
        return;
    case TIMER_TERMINAL:
        status = machines_status_name(ms, o->head.status);
        failure_set(f, o->status, "order %lld is %.*s (version %lld), which no event leaves: a timer may only tell of itself there", (long long)o->head.order_id, TEXT(status),
                    (long long)o->head.version);
        meta_mismatch(o, ms, f);
        return;
    case TIMER_NOT_REFUSED: break;
    }
    check(!"a timer was refused");
}

static void mismatch(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    struct slice status = machines_status_name(ms, o->head.status);
    const char *why = o->already_there ? ", where this transition leads: it has been made already"
                      : o->ambiguous   ? ", from where more than one event leads there: name the event"
                                       : ", from where this transition is not possible or not expected";
    failure_set(f, o->status, "order %lld is %.*s (version %lld)%s", (long long)o->head.order_id, TEXT(status), (long long)o->head.version, why);
    meta_mismatch(o, ms, f);
}

/* Each missing field is a violation of what could have brought it: the patch, or, for what never changes, the choice of the order. */
static void required(const struct outcome *o, struct failure *f)
{
    failure_set(f, o->status, "%.*s of status machine %.*s requires %.*s, which order %lld has not", TEXT(o->event), TEXT(o->machine_reference), TEXT(o->missing[0]),
                (long long)o->order_id);
    failure_meta(f, "machine", "%.*s", TEXT(o->machine_reference));
    failure_meta(f, "event", "%.*s", TEXT(o->event));
    failure_meta(f, "field", "%.*s", TEXT(o->missing[0]));
    for (unsigned i = 0; i < o->missing_count; i++) {
        struct required_field r;
        char path[128] = "order_id";
        check(required_find(o->missing[i], &r));
        if (r.patchable) snprintf(path, sizeof path, "patch.%.*s", TEXT(r.name));
        failure_violation(f, o->status, path, "%.*s is required by %.*s, and empty", TEXT(r.name), TEXT(o->event));
    }
}

static void resource_refusal(const struct outcome *o, struct failure *f)
{
    const struct resource_outcome *r = &o->resource;
    switch (o->status) {
    case STATUS_RESOURCE_NOT_FOUND:
        failure_set(f, o->status, "there is no %s \"%.*s\"", resource_kind_name((enum resource_kind)r->kind), TEXT(r->name));
        failure_meta(f, "kind", "%s", resource_kind_name((enum resource_kind)r->kind));
        failure_meta(f, "name", "%.*s", TEXT(r->name));
        return;
    case STATUS_MACHINE_VERSION_CONFLICT:
        if (r->version == r->newest) failure_set(f, o->status, "%.*s@%d is there and differs: a version never changes; apply it as version %d", TEXT(r->name), r->version, r->newest + 1);
        else if (r->version < r->newest)
            failure_set(f, o->status, "%.*s@%d is not the newest: that is %d; apply it as version %d", TEXT(r->name), r->version, r->newest, r->newest + 1);
        else failure_set(f, o->status, "the next version of %.*s is %d, not %d", TEXT(r->name), r->newest + 1, r->version);
        failure_meta(f, "machine", "%.*s", TEXT(r->name));
        failure_meta(f, "version", "%d", r->version);
        failure_meta(f, "newest_version", "%d", r->newest);
        return;
    case STATUS_LIMIT_EXCEEDED:
        if (r->kind == RESOURCE_MACHINE) failure_violation(f, o->status, "resource.machine", "%.*s", TEXT(r->error));
        else failure_violation(f, o->status, "resource", "there are %d resources beside status machines; no more", RESOURCES_MAX);
        return;
    case STATUS_FIELD_INVALID:
        failure_violation(f, o->status, "resource.machine", "%.*s", TEXT(r->error));
        return;
    case STATUS_DEADLINE_EXCEEDED:
        failure_set(f, o->status, "the change took place, but there was no memory for its answer: apply it again, that changes nothing");
        return;
    default:
        failure_set(f, o->status, "%s", status_reason(o->status));
    }
}

static void node_refusal(const struct outcome *o, struct failure *f) {
    if (o->status == STATUS_DEADLINE_EXCEEDED) failure_set(f, o->status, "the change took place, but there was no memory for its answer: ask again, that changes nothing");
    else failure_set(f, o->status, "%.*s", TEXT(o->resource.error));
    if (o->resource.version) failure_meta(f, "state", "%s", node_state_name((enum node_row_state)o->resource.version));
}

static void refusal(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    char field[48];
    if (o->timer) {
        timer_refusal(o, ms, f);
        return;
    }
    switch (o->status) {
    case STATUS_ORDER_NOT_FOUND:
        failure_set(f, o->status, "there is no order %lld", (long long)o->order_id);
        failure_meta(f, "order_id", "%lld", (long long)o->order_id);
        return;
    case STATUS_TIMER_NOT_FOUND:
        failure_set(f, o->status, "order %lld has no timer \"%.*s\"", (long long)o->order_id, TEXT(o->timer_id));
        failure_meta(f, "order_id", "%lld", (long long)o->order_id);
        failure_meta(f, "timer_id", "%.*s", TEXT(o->timer_id));
        return;
    case STATUS_MACHINE_NOT_FOUND:
        failure_set(f, o->status, "there is no status machine \"%.*s\"", TEXT(o->machine_reference));
        failure_meta(f, "machine", "%.*s", TEXT(o->machine_reference));
        return;
    case STATUS_CLIENT_ORDER_NO_TAKEN:
        failure_set(f, o->status, "the user has an order with this client_order_no: %lld", (long long)o->first_order_id);
        meta_first(o, f);
        return;
    case STATUS_IDEMPOTENCY_KEY_REUSED:
        if (o->batch)
            failure_set(f, o->status, "requests[%u]: its request_id was used for another request, or not with all the others, and wrote order %lld", o->item,
                        (long long)o->first_order_id);
        failure_set(f, o->status, "this request_id was used for another request, which wrote order %lld", (long long)o->first_order_id);
        meta_first(o, f);
        return;
    case STATUS_GROUP_NOT_FOUND:
        failure_set(f, o->status, "there is no consumer group \"%.*s\"", TEXT(o->group.name));
        failure_meta(f, "group", "%.*s", TEXT(o->group.name));
        return;
    case STATUS_GROUP_EXISTS:
        failure_set(f, o->status, "there is a consumer group \"%.*s\"", TEXT(o->group.name));
        failure_meta(f, "group", "%.*s", TEXT(o->group.name));
        return;
    case STATUS_ACK_NOT_IN_FLIGHT:
        failure_set(f, o->status, "the group does not hold event %u:%lld in flight (any more); the order is as it was", o->group.slot, (long long)o->group.seq);
        failure_meta(f, "event_id", "%u:%lld", o->group.slot, (long long)o->group.seq);
        return;
    case STATUS_LIMIT_EXCEEDED:
        if (o->group.name.len) {
            failure_violation(f, o->status, "group", "there are %d consumer groups, which is the limit", CONSUMER_GROUPS_MAX);
            return;
        }
        failure_violation(f, o->status, o->patch ? "patch" : "order", "the order would take %zu bytes with it; at most %d", o->bytes, CHECK_ORDER_BYTES_MAX);
        return;
    case STATUS_INVARIANT_VIOLATED:
        failure_violation(f, o->status, o->patch ? "patch.payments" : "order.payments", "the amounts are not in the order's currency");
        return;
    case STATUS_REQUEST_FENCED:
        failure_set(f, o->status, "GetRequestOutcome has answered NOT_APPLIED for this request_id: use a new one");
        return;
    case STATUS_EDGE_NOT_DEFINED:
        failure_set(f, o->status, "status machine %.*s has no %s \"%.*s\"", TEXT(o->machine_reference), o->by_target ? "edge to" : "event", TEXT(o->event));
        failure_meta(f, "machine", "%.*s", TEXT(o->machine_reference));
        failure_meta(f, o->by_target ? "to_status" : "event", "%.*s", TEXT(o->event));
        return;
    case STATUS_FIELD_REQUIRED:
        required(o, f);
        return;
    case STATUS_VERSION_MISMATCH:
        if (o->group.group_id) {
            failure_set(f, o->status, "the group was sought elsewhere meanwhile");
            return;
        }
        failure_set(f, o->status, "order %lld is at version %lld", (long long)o->head.order_id, (long long)o->head.version);
        meta_state(o, ms, f);
        return;
    case STATUS_STATUS_MISMATCH:
        mismatch(o, ms, f);
        return;
    case STATUS_FIELD_INVALID:
        snprintf(field, sizeof field, "expected_statuses[%u]", o->expected_index);
        failure_violation(f, o->status, field, "no status machine has a status \"%.*s\"", TEXT(o->expected_name));
        return;
    case STATUS_DEADLINE_EXCEEDED:
        failure_set(f, o->status, "the write took place, but there was no memory for its answer: ask again with the same request_id");
        return;
    default:
        failure_set(f, o->status, "%s", status_reason(o->status));
    }
}

void outcome_failure(const struct outcome *o, const struct machines *ms, struct failure *f)
{
    if (o->resource.kind == RESOURCE_NODE) node_refusal(o, f);
    else if (o->resource.kind) resource_refusal(o, f);
    else refusal(o, ms, f);
    if (o->batch) failure_meta(f, "index", "%u", o->item);
}
