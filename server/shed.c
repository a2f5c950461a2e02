#include "server/shed.h"

#include <stdio.h>

#include "proto/base/mem.h"
#include "proto/grpc.h"
#include "server/call.h"
#include "server/core.h"
#include "server/methods.h"
#include "server/node.h"

/* How a flood is answered
 *
 *   HEADERS --> head --> call_refuse --> shed_judge --full--> shed_answer: a header block that was made at start, behind a frame head; that is all there is of this call
 *                                            '--room--> call_begin, shed_enter ... the message, decode, check, op, answer ... shed_leave
 *
 * The header block is one of DELAYS, literals that leave HPACK's table alone, so the same bytes are right on every connection at any time. Counting is by calls over the whole node in one
 * atomic word; the limit is the sum of the engines' (core.c adds it up once a turn). A batch counts as one here; its parts are counted at the engine's door. */

enum { DELAYS = 8, DELAY_MS_MIN = 100, DELAY_MS_STEP = 25, TABLES_DELAY_TIMES = 5 /* a run or a compaction takes longer than a queue */, DETAILS_ARENA_BYTES = 64 << 10, TEXT_BYTES_MAX = 128, BLOCK_BYTES_MAX = 2048 };


struct shed {
    struct core *core;
    uint64_t *inside, own_inside; /* writes that were let in: the node's count, relaxed atomic; a core without a node (tests) counts by itself */
    uint64_t draw;
    struct arena arena;
    struct slice blocks[SHED_REASON_COUNT][DELAYS];
};

static const char *const texts[SHED_REASON_COUNT] = {
    [SHED_QUEUE] = "overloaded: as many writes are under way as can be done in time",
    [SHED_DEADLINE] = "overloaded: writes wait for longer now than this call's deadline allows",
    [SHED_TABLES] = "overloaded: the store is behind with writing its tables",
    [SHED_REFUSING] = "overloaded: more writes are being refused than are worth reading",
    [SHED_CALLS] = "overloaded: too many calls in flight",
};
static const enum metric metrics[SHED_REASON_COUNT] = {[SHED_QUEUE] = METRIC_SHED_QUEUE, [SHED_DEADLINE] = METRIC_SHED_DEADLINE, [SHED_TABLES] = METRIC_SHED_TABLES, [SHED_REFUSING] = METRIC_SHED_REFUSING,
                                                         [SHED_CALLS] = METRIC_SHED_CALLS};

enum shed_class shed_class_of(const struct method *m) {
    switch (m->row) {
    case METHOD_ROW_OrderService_CreateOrder:
    case METHOD_ROW_OrderService_BatchCreateOrders:
    case METHOD_ROW_OrderService_TransitionOrder:
    case METHOD_ROW_OrderService_BatchTransitionOrders:
    case METHOD_ROW_OrderService_UpdateOrder:
    case METHOD_ROW_OrderService_SetOrderTimer:
    case METHOD_ROW_OrderService_CancelOrderTimer:
    case METHOD_ROW_OrderService_GetRequestOutcome: /* it goes through the log */
    case METHOD_ROW_OrderService_ImportOrders: return SHED_WRITE;
    case METHOD_ROW_AdminService_WatchTopology: return SHED_OTHER; /* clients', not operators', and for long: the reserve is not for them */
    case METHOD_ROW_HealthCheck:
    case METHOD_ROW_HealthWatch:
    case METHOD_ROW_Reflection:
    case METHOD_ROW_ReflectionAlpha: return SHED_RESERVED;
    default: return m->row >= METHOD_ROW_AdminService_GetTopology && m->row <= METHOD_ROW_AdminService_ListResources ? SHED_RESERVED : SHED_OTHER;
    }
}

bool shed_is_batch(const struct method *m) {
    return m->row == METHOD_ROW_OrderService_BatchCreateOrders || m->row == METHOD_ROW_OrderService_BatchTransitionOrders || m->row == METHOD_ROW_OrderService_BatchGetOrders;
}

/* RFC 7541 section 5.1, with a prefix of seven bits. */
static void put_length(struct writer *w, size_t n) {
    if (n < 127) return write_u8(w, (uint8_t)n);
    write_u8(w, 127);
    for (n -= 127; n >= 128; n >>= 7) write_u8(w, (uint8_t)(n | 128));
    write_u8(w, (uint8_t)n);
}
/* Section 6.2.2: a literal that the table does not keep. */
static void put_field(struct writer *w, const char *name, struct slice value) {
    struct slice n = slice_str(name);
    write_u8(w, 0);
    put_length(w, n.len), write_bytes(w, n.data, n.len);
    put_length(w, value.len), write_bytes(w, value.data, value.len);
}

static struct slice block_make(struct shed *s, const char *text, uint32_t delay_ms) {
    struct failure f;
    char encoded[3 * TEXT_BYTES_MAX], delay[8];
    uint8_t block[BLOCK_BYTES_MAX];
    struct writer w = writer_of(block, sizeof block);
    failure_init(&f, &s->arena);
    failure_set(&f, STATUS_OVERLOADED, "%s", text);
    f.retry_delay_ms = delay_ms;
    struct slice raw = failure_encode(&f);
    char *base64 = raw.len ? arena_alloc(&s->arena, BASE64_LEN(raw.len)) : NULL;
    if (!base64) return (struct slice){0};
    write_u8(&w, 0x88); /* :status 200, of the static table */
    put_field(&w, "content-type", SLICE_LIT("application/grpc"));
    put_field(&w, "grpc-status", SLICE_LIT("8"));
    static_assert(GRPC_RESOURCE_EXHAUSTED == 8, "as spelled above");
    put_field(&w, "grpc-message", slice_of(encoded, grpc_percent_encode(slice_str(text), encoded)));
    put_field(&w, "grpc-status-details-bin", slice_of(base64, base64_encode(raw, base64)));
    put_field(&w, "grpc-retry-pushback-ms", slice_of(delay, (size_t)snprintf(delay, sizeof delay, "%u", delay_ms)));
    check(!w.full);
    return arena_copy(&s->arena, writer_slice(&w));
}

struct shed *shed_new(struct core *core) {
    struct shed *s = mem_new(struct shed);
    if (!s) return NULL;
    s->core = core;
    s->inside = core->node ? &core->node->writes_inside : &s->own_inside;
    arena_init(&s->arena, DETAILS_ARENA_BYTES);
    for (int why = SHED_NOT + 1; why < SHED_REASON_COUNT; why++) {
        for (uint32_t i = 0; i < DELAYS; i++) {
            uint32_t times = why == SHED_TABLES ? TABLES_DELAY_TIMES : 1;
            s->blocks[why][i] = block_make(s, texts[why], (DELAY_MS_MIN + DELAY_MS_STEP * i) * times);
            if (!s->blocks[why][i].data) return shed_free(s), NULL;
        }
    }
    return s;
}

void shed_free(struct shed *s) {
    if (!s) return;
    check(s->own_inside == 0);
    arena_fini(&s->arena);
    mem_free(s);
}

enum shed_reason shed_judge(const struct shed *s, enum shed_class class, uint64_t deadline_ns, bool calls_full) {
    const struct core *core = s->core;
    if (class == SHED_RESERVED) return SHED_NOT;
    if (calls_full) return SHED_CALLS;
    if (class != SHED_WRITE || !core->write_limit_all) return SHED_NOT;
    if (core->writes_closed) return SHED_TABLES;
    if (core->decoded_left < 0) return SHED_REFUSING;
    if (__atomic_load_n(s->inside, __ATOMIC_RELAXED) >= core->write_limit_all) return SHED_QUEUE;
    /* Only when they really wait: a short deadline on an idle server may well be met. */
    if (deadline_ns && core->write_delay_least_ns > core->write_target_ns / 2 && core->now_ns + core->write_delay_least_ns >= deadline_ns) return SHED_DEADLINE;
    return SHED_NOT;
}

/* xorshift (Marsaglia, 2003): any spread will do. */
static uint32_t draw(struct shed *s) {
    uint64_t x = s->draw ? s->draw : 0x9e3779b97f4a7c15ull + s->core->id;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    s->draw = x;
    return (uint32_t)(x >> 33);
}

struct slice shed_answer(struct shed *s, enum shed_reason why) {
    metric_add(&s->core->metrics, metrics[why], 1);
    s->core->shed_count++;
    return s->blocks[why][draw(s) % DELAYS];
}

void shed_enter(struct shed *s) { (void)__atomic_add_fetch(s->inside, 1, __ATOMIC_RELAXED); }
void shed_leave(struct shed *s) {
    uint64_t left = __atomic_sub_fetch(s->inside, 1, __ATOMIC_RELAXED);
    check(left < UINT64_MAX / 2);
}
