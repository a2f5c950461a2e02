#include "server/serve_common.h"

#include "proto/pbwire.h"
#include "proto/route.h"

void serve_not_built_yet(struct call *call) {
    failure_set(call_failure(call), STATUS_NOT_BUILT_YET, "%s is not built yet", call_method_name(call));
    call_fail(call);
}

uint32_t serve_retry_delay_ms(const struct failure *f) {
    bool again = status_retry(f->status) == RETRY_LATER || status_grpc_code(f->status) == GRPC_UNAVAILABLE;
    return f->retry_delay_ms || !again ? f->retry_delay_ms : SERVE_RETRY_DELAY_MS;
}

ProtobufCMessage *serve_decode(struct call *call, const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *m = scan_unpack(type, call_message(call), &scan_limits_default, call_failure(call));
    if (!m && call_failure(call)->status != STATUS_MEMORY_LIMIT) call_unreadable(call);
    if (!m) call_fail(call);
    return m;
}

bool serve_take_token(struct call *call, const char *user_id, const char *merchant_id) {
    if (call_take_tokens(call, CALL_LIMITS_CONTENT, 1, slice_str(user_id), slice_str(merchant_id), call_failure(call))) return true;
    call_fail(call);
    return false;
}

void serve_fail_with(struct call *call, struct failure *from) {
    failure_move(call_failure(call), from); /* call_fail adds the delay that a refusal "later" without one gets */
    call_fail(call);
}

void serve_fail_memory(struct call *call) {
    struct failure *f = call_failure(call);
    failure_set(f, STATUS_MEMORY_LIMIT, "this request needs more memory than a request may have");
    f->retry_delay_ms = SERVE_RETRY_DELAY_MS;
    call_fail(call);
}

void serve_reply(struct call *call, struct slice message) { call_reply(call, &message, 1); }

struct slice serve_field_head(struct call *call, uint32_t field, size_t len) {
    enum { CAP = 16 };
    uint8_t *out = arena_alloc(call_arena(call), CAP);
    if (!out) return (struct slice){0};
    struct writer w = writer_of(out, CAP);
    pb_tag(&w, field, PB_LEN);
    write_varint(&w, len);
    return writer_slice(&w);
}

void serve_token_write(struct writer *w, uint32_t field, const struct op *op, const struct outcome *o) {
    if (op->kind == OP_VALIDATE && !o->replayed) return;
    uint8_t inner[SERVE_TOKEN_BYTES_MAX];
    struct writer token = writer_of(inner, sizeof inner);
    pb_int64(&token, 1, o->slot);
    pb_int64(&token, 2, o->seq);
    check(!token.full);
    struct slice part = writer_slice(&token);
    pb_message(w, field, &part, 1);
}

struct slice serve_token_wire(struct call *call, uint32_t field, const struct op *op, const struct outcome *o) {
    uint8_t *out = arena_alloc(call_arena(call), SERVE_TOKEN_BYTES_MAX);
    if (!out) return (struct slice){0};
    struct writer w = writer_of(out, SERVE_TOKEN_BYTES_MAX);
    serve_token_write(&w, field, op, o);
    check(!w.full);
    return writer_slice(&w);
}

/* google/protobuf/duration.proto: 10,000 years */
#define DURATION_SECONDS_MAX 315576000000ll

bool serve_read_options(struct call *call, const Orderdb__V1__ReadOptions *read, bool full_unless_told, bool *full) {
    struct failure *f = call_failure(call);
    *full = full_unless_told;
    if (!read) return true;
    switch (read->view) {
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_UNSPECIFIED: break;
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY: *full = false; break;
    case ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL: *full = true; break;
    default: failure_violation(f, STATUS_FIELD_INVALID, "read.view", "must be 0 (default), 1 (SUMMARY) or 2 (FULL), not %d", (int)read->view);
    }
    if (read->at_least && (read->at_least->slot < 0 || read->at_least->slot >= SLOT_COUNT))
        failure_violation(f, STATUS_FIELD_INVALID, "read.at_least.slot", "must be 0 to %d, not %d", SLOT_COUNT - 1, read->at_least->slot);
    if (read->at_least && read->at_least->seq < 0)
        failure_violation(f, STATUS_FIELD_INVALID, "read.at_least.seq", "must not be negative, not %lld", (long long)read->at_least->seq);
    const Google__Protobuf__Duration *d = read->max_staleness;
    if (d && (d->seconds < 0 || d->seconds > DURATION_SECONDS_MAX || d->nanos < 0 || d->nanos > 999999999))
        failure_violation(f, STATUS_FIELD_INVALID, "read.max_staleness", "%lld s and %d ns; 0 to %lld s, nanos 0 to 999999999", (long long)d->seconds, (int)d->nanos, DURATION_SECONDS_MAX);
    return f->status == STATUS_OK;
}

struct read_bound serve_read_bound(const Orderdb__V1__ReadOptions *read, uint16_t slot) {
    struct read_bound bound = {0};
    if (read && read->max_staleness) {
        uint64_t seconds = (uint64_t)read->max_staleness->seconds;
        bound.stale = true;
        bound.stale_ns = seconds >= READ_STALE_NS_MAX / NS_PER_S ? READ_STALE_NS_MAX : seconds * NS_PER_S + (uint64_t)read->max_staleness->nanos;
    }
    bound.token = read && read->at_least && read->at_least->slot == slot;
    if (bound.token) bound.slot = slot, bound.seq = read->at_least->seq;
    return bound;
}
