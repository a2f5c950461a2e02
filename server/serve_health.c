/* grpc.health.v1.Health: what load balancers and probes ask. A service is SERVING while the node is ready, NOT_SERVING while it starts and from the first moment
 * of its drain: watchers hear of it before the GOAWAY, and their stream ends, for it would hold the drain up. */
#include "proto/pbwire.h"
#include "server/core.h"
#include "server/serve_common.h"

/* grpc.health.v1.HealthCheckResponse.ServingStatus */
enum health { HEALTH_SERVING = 1, HEALTH_NOT_SERVING = 2, HEALTH_SERVICE_UNKNOWN = 3 };

static const char *const services[] = {"", "orderdb.v1.OrderService", "orderdb.v1.StreamService", "orderdb.v1.AdminService"};

/* In the arena of a Watch. */
struct watch {
    bool known;
    enum health told; /* 0: nothing yet */
};

/* HealthCheckResponse {status} as wire bytes. */
static struct slice response_of(enum health health) {
    static const uint8_t wire[][2] = {{8, 0}, {8, HEALTH_SERVING}, {8, HEALTH_NOT_SERVING}, {8, HEALTH_SERVICE_UNKNOWN}};
    return slice_of(wire[health], sizeof wire[health]);
}

static enum health health_of(const struct core *core) {
    return __atomic_load_n(&core->ready, __ATOMIC_RELAXED) && !core->draining ? HEALTH_SERVING : HEALTH_NOT_SERVING;
}

/* HealthCheckRequest {service}. false: malformed, the call has been failed. */
static bool read_service(struct call *call, struct slice *service) {
    struct reader r = reader_of(call_message(call));
    *service = (struct slice){0};
    for (struct pb_field field; pb_next(&r, &field);)
        if (field.number == 1 && field.wire_type == PB_LEN) *service = field.bytes;
    if (r.bad) failure_set(call_failure(call), STATUS_FIELD_INVALID, "the message is malformed");
    else if (!utf8_valid(*service)) failure_violation(call_failure(call), STATUS_FIELD_INVALID, "service", "not valid UTF-8"); /* a refusal would repeat it */
    else return true;
    return call_fail(call), false;
}

static bool is_known(struct slice service) {
    for (size_t i = 0; i < ARRAY_LEN(services); i++)
        if (slice_equal(service, slice_str(services[i]))) return true;
    return false;
}

void serve_health_check(struct call *call) {
    struct slice service;
    if (!read_service(call, &service)) return;
    if (is_known(service)) return serve_reply(call, response_of(health_of(call_core(call))));
    failure_set(call_failure(call), STATUS_SERVICE_UNKNOWN, "no service %.*s", (int)slice_cut_utf8(service, 200).len, (const char *)service.data);
    call_fail(call);
}

/* Tells what has not been told; at most one message is on its way, so a slow watcher misses what was true in between and nothing is kept for it. */
static void tell(struct call *call) {
    struct watch *w = *call_state(call);
    enum health now = w->known ? health_of(call_core(call)) : HEALTH_SERVICE_UNKNOWN;
    if (call_sending(call)) return; /* comes again when that is sent */
    if (now != w->told) {
        w->told = now;
        return call_send(call, response_of(now), tell);
    }
    if (!call_core(call)->draining) return;
    failure_set(call_failure(call), STATUS_DRAINING, "the server drains");
    call_fail(call);
}

void serve_health_watch(struct call *call) {
    struct slice service;
    if (!read_service(call, &service)) return;
    struct watch *w = arena_new(call_arena(call), struct watch);
    if (!w) return serve_fail_memory(call);
    *w = (struct watch){.known = is_known(service)};
    *call_state(call) = w;
    call_watch_core(call, tell);
    tell(call);
}
