/* What a call says: one message, many, trailers. All of it is handed to h2, which sends as windows allow; the state moves to CALL_SEND with the last of it. */
#include "server/call_local.h"

#include <stdio.h>

#include "server/cluster.h"
#include "server/leads.h"
#include "server/metrics.h"
#include "server/node.h"
#include "server/serve_common.h"
#include "server/trailers.h"

/* HTTP's own refusal, for what is not gRPC at all. */
void call_refuse_http(struct call *call, const char *status) {
    const struct h2_field field = {SLICE_LIT(":status"), slice_str(status)};
    call->answered = true;
    call_move(call, CALL_SEND);
    h2_send_end(&call->stream, &field, 1);
}

void call_count_answer(struct call *call, enum grpc_code code) {
    uint64_t now = call->core->now_ns;
    if (call->method) metric_call(&call->core->metrics, call->method->row, code, now > call->begun_ns ? now - call->begun_ns : 0);
    call_leave_queue(call);
}

/* Of a call that another node did, for clients that can go there themselves: who that was, and how new the topology is that says so. */
struct route {
    char leader[24], epoch[24];
    struct cluster_peer peer;
    struct h2_field fields[H2_TRAILERS_MAX];
};

static size_t route_fields(const struct call *call, struct route *r) {
    if (!call->leader) return 0;
    size_t leader_len = (size_t)snprintf(r->leader, sizeof r->leader, "%llu", (unsigned long long)call->leader);
    size_t epoch_len = (size_t)snprintf(r->epoch, sizeof r->epoch, "%lld", (long long)leads_epoch(call->core->node));
    r->fields[0] = (struct h2_field){SLICE_LIT("orderdb-leader"), slice_of(r->leader, leader_len)};
    r->fields[1] = (struct h2_field){SLICE_LIT("orderdb-topology-epoch"), slice_of(r->epoch, epoch_len)};
    if (!cluster_find(call->core->node->cluster, call->leader, &r->peer) || !r->peer.client_address[0]) return 2;
    r->fields[2] = (struct h2_field){SLICE_LIT("orderdb-leader-address"), slice_str(r->peer.client_address)};
    return 3;
}

/* Trailers, alone or behind messages. Takes nothing from the failure's arena. */
void call_send_failure(struct call *call, const struct failure *failure) {
    check(failure->status != STATUS_OK);
    check(!call->sending);
    struct trailers t;
    arena_reset(&call->calls->scratch); /* the call's arena may be full, or another thread's at this moment */
    struct route route;
    size_t n = trailers_make(&t, failure, &call->calls->scratch), more = route_fields(call, &route);
    for (size_t i = 0; i < more; i++) t.fields[n++] = route.fields[i];
    size_t skip = call->begun ? 2 : 0; /* the head went with the first message */
    call->answered = true;
    call_move(call, CALL_SEND);
    h2_send_end(&call->stream, t.fields + skip, n - skip);
    call_count_answer(call, t.code);
}

void call_fail(struct call *call) {
    check(call->magic == CALL_MAGIC);
    if (call->gone || call->answered) return; /* an op of a stream came home to a call that was answered */
    check(call->failure.status != STATUS_OK);
    if (call->sending) return (void)(call->ends = true);
    call_send_failure(call, &call->failure);
}

void call_fail_memory(struct call *call) {
    failure_set(&call->failure, STATUS_MEMORY_LIMIT, "no memory for this request now");
    call->failure.retry_delay_ms = SERVE_RETRY_DELAY_MS;
}

void call_reply(struct call *call, const struct slice *parts, size_t n) {
    check(call->magic == CALL_MAGIC);
    check(call->ops_away == 0 || call_is_stream(call));
    if (call->gone || call->answered) return;
    struct slice inline_parts[H2_PARTS_MAX + 1], *all = inline_parts;
    if (n > H2_PARTS_MAX) all = arena_array(&call->arena, struct slice, n + 1);
    uint8_t *head = arena_alloc(&call->arena, GRPC_FRAME_HEAD);
    if (!all || !head) {
        if (call->request_id.len) failure_set(&call->failure, STATUS_DEADLINE_EXCEEDED, "the write was done; there is no memory to answer"); /* not "nothing was done" */
        else call_fail_memory(call);
        return call_fail(call);
    }
    uint64_t len = 0;
    for (size_t i = 0; i < n; i++) all[i + 1] = parts[i], len += parts[i].len;
    check(len <= UINT32_MAX);
    grpc_frame_head(head, (uint32_t)len);
    all[0] = slice_of(head, GRPC_FRAME_HEAD);
    struct route *route = call->leader ? arena_new(&call->arena, struct route) : NULL; /* a hint: no memory, no hint */
    if (route) call->stream.more = route->fields, call->stream.more_count = route_fields(call, route);
    call->answered = true;
    call_move(call, CALL_SEND);
    h2_send_message(&call->stream, all, n + 1);
    call_count_answer(call, GRPC_OK);
}

void call_send_parts(struct call *call, const struct slice *parts, size_t n, void (*sent)(struct call *call)) {
    struct slice all[CALL_PARTS_MAX + 1];
    uint64_t len = 0;
    check(call->magic == CALL_MAGIC);
    check(call->method->kind == METHOD_SERVER_STREAM || call->method->kind == METHOD_BIDI);
    check(!call->sending);
    check(n <= CALL_PARTS_MAX);
    if (call->gone || call->answered) return;
    for (size_t i = 0; i < n; i++) all[i + 1] = parts[i], len += parts[i].len;
    check(len <= UINT32_MAX);
    grpc_frame_head(call->out_head, (uint32_t)len);
    all[0] = slice_of(call->out_head, GRPC_FRAME_HEAD);
    call->sending = call->begun = true;
    call->sent = sent;
    h2_send_part(&call->stream, all, n + 1);
}

bool call_sending(const struct call *call) { return call->sending; }

void call_finish(struct call *call) {
    check(call->magic == CALL_MAGIC);
    if (call->gone || call->answered) return;
    if (call->sending) return (void)(call->ends = true);
    /* Without a message before it this is trailers-only, where the head is needed. */
    const struct h2_field fields[] = {{SLICE_LIT(":status"), SLICE_LIT("200")}, {SLICE_LIT("content-type"), SLICE_LIT("application/grpc")}, {SLICE_LIT("grpc-status"), SLICE_LIT("0")}};
    size_t skip = call->begun ? 2 : 0;
    call->answered = true;
    call_move(call, CALL_SEND);
    h2_send_end(&call->stream, fields + skip, ARRAY_LEN(fields) - skip);
    call_count_answer(call, GRPC_OK);
}

/* The end that waited for a message. */
void call_send_end(struct call *call) {
    call->ends = false;
    if (call->failure.status) call_fail(call);
    else call_finish(call);
}

/* The deadline has come. A write that is under way may yet happen: OUTCOME_UNKNOWN, with the request id to ask again with. */
void call_expire(struct call *call) {
    if (call->sending) { /* trailers can't go in the middle of a message; the peer has counted the same seconds */
        call->expired = false;
        call->answered = true;
        call_move(call, CALL_SEND);
        h2_reset(&call->stream, H2_RESET_CANCEL);
        return call_count_answer(call, GRPC_DEADLINE_EXCEEDED);
    }
    struct failure_meta meta = {.key = "request_id", .value = call->request_id};
    struct failure f; /* of its own: the call's arena may be in use by the op */
    failure_init(&f, NULL);
    f.status = STATUS_DEADLINE_EXCEEDED;
    f.message = call->ops_away ? "the deadline passed while the request was under way" : "the deadline passed";
    if (call->request_id.len) f.metas = &meta;
    call_send_failure(call, &f);
}
