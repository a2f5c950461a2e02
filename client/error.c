#include "client/error.h"

#include "proto/details.h"

#define ERROR_BYTES_MAX (256 * KIB)

static const char *const code_names[] = {
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
};
static_assert(ARRAY_LEN(code_names) == GRPC_UNAUTHENTICATED + 1, "a name per code");

int orderdb_error_code(const struct orderdb_error *e) { return (int)e->code; }
const char *orderdb_error_code_name(const struct orderdb_error *e) { return code_names[e->code]; }
const char *orderdb_error_reason(const struct orderdb_error *e) { return e->reason; }
const char *orderdb_error_message(const struct orderdb_error *e) { return e->message; }
const char *orderdb_error_request_id(const struct orderdb_error *e) { return e->request_id; }
int64_t orderdb_error_retry_delay_ms(const struct orderdb_error *e) { return e->retry_delay_ms; }
bool orderdb_error_outcome_unknown(const struct orderdb_error *e) { return e->outcome_unknown; }

size_t orderdb_error_meta_count(const struct orderdb_error *e) {
    size_t n = 0;
    for (const struct failure_meta *m = e->metas; m; m = m->next) n++;
    return n;
}

void orderdb_error_meta_at(const struct orderdb_error *e, size_t i, const char **key, const char **value) {
    const struct failure_meta *m = e->metas;
    for (; m && i > 0; i--) m = m->next;
    *key = m ? m->key : "";
    *value = m ? (const char *)m->value.data : "";
}

const char *orderdb_error_meta(const struct orderdb_error *e, const char *key) {
    for (const struct failure_meta *m = e->metas; m; m = m->next) {
        if (strcmp(m->key, key) == 0) return (const char *)m->value.data;
    }
    return NULL;
}

size_t orderdb_error_violation_count(const struct orderdb_error *e) {
    size_t n = 0;
    for (const struct failure_violation *v = e->violations; v; v = v->next) n++;
    return n;
}

void orderdb_error_violation_at(const struct orderdb_error *e, size_t i, const char **field, const char **description) {
    const struct failure_violation *v = e->violations;
    for (; v && i > 0; i--) v = v->next;
    *field = v ? v->field : "";
    *description = v ? v->description : "";
}

void error_init(struct orderdb_error *e, const char *request_id) {
    *e = (struct orderdb_error){.request_id = request_id};
    arena_init(&e->arena, ERROR_BYTES_MAX);
    error_reset(e);
}

void error_fini(struct orderdb_error *e) { arena_fini(&e->arena); }

void error_reset(struct orderdb_error *e) {
    arena_reset(&e->arena);
    e->code = GRPC_OK, e->outcome_unknown = false, e->retry_delay_ms = -1;
    e->reason = e->message = "";
    e->metas = NULL, e->violations = NULL;
}

void error_set(struct orderdb_error *e, enum grpc_code code, const char *message) {
    error_reset(e);
    e->code = code, e->message = message;
}

void error_from_answer(struct orderdb_error *e, const struct channel_answer *a) {
    error_set(e, a->code, "");
    struct slice message = arena_copy(&e->arena, a->message);
    if (message.data) e->message = (const char *)message.data;
    /* A write under way when its deadline passed, here or at the server, may have happened. */
    e->outcome_unknown = a->fate == CHANNEL_UNKNOWN || (a->fate == CHANNEL_ANSWERED && a->code == GRPC_DEADLINE_EXCEEDED);
    struct details d;
    if (a->details.len > 0 && details_decode(a->details, &e->arena, &d)) {
        e->reason = d.reason;
        e->metas = d.metas;
        e->violations = d.violations;
        if (d.message[0]) e->message = d.message;
        if (d.has_retry_delay) e->retry_delay_ms = d.retry_delay_ms;
    }
    if (a->pushback_ms >= 0) e->retry_delay_ms = a->pushback_ms;
}

void error_after_unknown(struct orderdb_error *e) {
    if (e->code == GRPC_UNAVAILABLE || e->code == GRPC_DEADLINE_EXCEEDED || e->code == GRPC_RESOURCE_EXHAUSTED) e->outcome_unknown = true;
}

bool error_says_drain(const struct orderdb_error *e) { return e->code == GRPC_UNAVAILABLE && strcmp(e->reason, status_reason(STATUS_DRAINING)) == 0; }
