#include "server/serve_common.h"

void serve_not_built_yet(struct call *call) {
    failure_set(call_failure(call), STATUS_NOT_BUILT_YET, "%s is not built yet", call_method_name(call));
    call_fail(call);
}

ProtobufCMessage *serve_decode(struct call *call, const ProtobufCMessageDescriptor *type) {
    ProtobufCMessage *m = scan_unpack(type, call_message(call), &scan_limits_default, call_failure(call));
    if (!m) call_fail(call);
    return m;
}

void serve_fail_with(struct call *call, const struct failure *from) {
    struct failure *f = call_failure(call);
    *f = *from;
    if (status_retry(f->status) == RETRY_LATER && f->retry_delay_ms == 0) f->retry_delay_ms = SERVE_RETRY_DELAY_MS;
    call_fail(call);
}

void serve_fail_memory(struct call *call) {
    struct failure *f = call_failure(call);
    failure_set(f, STATUS_MEMORY_LIMIT, "this request needs more memory than a request may have");
    f->retry_delay_ms = SERVE_RETRY_DELAY_MS;
    call_fail(call);
}

void serve_reply(struct call *call, struct slice message) { call_reply(call, &message, 1); }
