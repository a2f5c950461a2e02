/* Every method of the contract from HTTP/2 bytes to the engine and back, in one thread: a client session in memory, the server's calls and handlers, an engine on a
 * simulated clock, disk and store. An input is one request, sent twice. Byte 0: the method, mostly one that is built; byte 1: how (below); the rest is the message, or
 * the seed of a drawn one (tests/lib/draw.h). The engine lives through many inputs, so requests meet each other's orders, ids and tokens. Shown for each:
 *   - exactly one answer: messages that frame and decode as the method's, UTF-8 throughout; or a refusal with code, reason and details that belong together;
 *   - no call is left, what was charged is given back, and the budget was never exceeded;
 *   - what was written is replayed: the same request answers the same; a read that is asked again too. Now and then the power goes between the two, or while
 *     the request is under way for the first time.
 * After some inputs the stores are walked: lists, counts and heads agree. */
#include "tests/lib/call_world.h"

#include "orderdb/v1/admin.pb-c.h"
#include "orderdb/v1/order.pb-c.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/base/hash.h"
#include "proto/pbwire.h"
#include "proto/scan.h"
#include "server/methods.h"
#include "tests/lib/draw.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* How. The low three bits: what the request is; the next two: under what it suffers; then: strange values, a few bytes at a time, many messages. */
enum { DRAWN = 4, RAW, DRAWN_MISFRAMED, RAW_MISFRAMED };
enum { LITTLE_MEMORY = 2, TIMEOUT = 3 };
enum { WILD = 32, IN_PIECES = 64, MANY = 128 };
struct how {
    bool raw, misframed, little_memory, timeout, wild, in_pieces, many;
};
enum { REQUEST_BYTES_MAX = 60000, INPUTS_PER_WALK = 400, INPUTS_PER_CRASH = 250, INPUTS_PER_ENGINE = 4000 };
static struct draw draw;
static unsigned inputs; /* of this server */

/* ---- methods */
struct row {
    const char *path, *name;
    enum method_kind kind;
    const ProtobufCServiceDescriptor *service; /* NULL: a contract of others */
    call_handler handler;
};
#define OrderService_descriptor orderdb__v1__order_service__descriptor
#define StreamService_descriptor orderdb__v1__stream_service__descriptor
#define AdminService_descriptor orderdb__v1__admin_service__descriptor
static const struct row rows[] = {
#define METHOD(service, method, kind, handler) {"/orderdb.v1." #service "/" #method, #method, METHOD_##kind, &service##_descriptor, handler},
#define METHOD_IN(row, package, service, method, kind, handler) {"/" #package "." #service "/" #method, #row, METHOD_##kind, NULL, handler},
#include "proto/methods.tbl"
#undef METHOD
#undef METHOD_IN
};

static const struct row *row_of(uint8_t byte) {
    static const struct row *built[ARRAY_LEN(rows)];
    static unsigned built_count;
    if (!built_count)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            if (rows[i].handler != serve_not_built_yet) built[built_count++] = &rows[i];
    return byte < 240 ? built[byte % built_count] : &rows[byte * 7u % ARRAY_LEN(rows)];
}

static struct how how_of(uint8_t byte) {
    unsigned what = byte & 7, under = byte >> 3 & 3;
    return (struct how){
        .raw = what == RAW || what == RAW_MISFRAMED, .misframed = what >= DRAWN_MISFRAMED, .little_memory = under == LITTLE_MEMORY, .timeout = under == TIMEOUT,
        .wild = byte & WILD, .in_pieces = byte & IN_PIECES, .many = byte & MANY,
    };
}

/* ---- answers */
static const struct scan_limits answer_limits = {.depth_max = 32, .elements_max = 1 << 22, .unknown_bytes_max = 0, .unpacked_bytes_max = 256 << 20};

static void check_refusal(const struct answer *a, struct arena *arena) {
    uint8_t *raw = arena_alloc(arena, sizeof a->details);
    check(raw);
    size_t n = base64_decode(slice_str(a->details), raw);
    struct details d;
    check(n != SIZE_MAX);
    check(details_decode(slice_of(raw, n), arena, &d));
    check(d.code == atoi(a->grpc_status));
    check(d.reason[0]);
    check(strcmp(d.reason, "INTERNAL") != 0);
    check(strcmp(d.domain, "orderdb") == 0);
    check(utf8_valid(slice_str(d.message)));
    for (const struct failure_violation *v = d.violations; v; v = v->next) {
        check(v->field[0]);
        check(utf8_valid(slice_str(v->field)));
        check(utf8_valid(slice_str(v->description)));
    }
    for (const struct failure_meta *m = d.metas; m; m = m->next) check(utf8_valid(m->value));
}

/* The messages of an answer, decoded where the contract is ours: the first one. */
static ProtobufCMessage *check_messages(const struct row *row, const struct answer *a, struct arena *arena) {
    const ProtobufCMethodDescriptor *method = row->service ? protobuf_c_service_descriptor_get_method_by_name(row->service, row->name) : NULL;
    ProtobufCMessage *first = NULL;
    unsigned count = 0;
    for (size_t at = 0; at < a->body_len; count++) {
        bool compressed;
        uint32_t len;
        check(a->body_len - at >= GRPC_FRAME_HEAD);
        check(grpc_frame_parse(a->body + at, &compressed, &len));
        check(!compressed);
        check(len <= a->body_len - at - GRPC_FRAME_HEAD);
        struct slice wire = slice_of(a->body + at + GRPC_FRAME_HEAD, len);
        at += GRPC_FRAME_HEAD + len;
        if (!method) continue;
        struct failure f;
        failure_init(&f, arena);
        ProtobufCMessage *m = scan_unpack(method->output, wire, &answer_limits, &f);
        check(m);
        if (!first) first = m;
    }
    check(row->kind == METHOD_BIDI || row->kind == METHOD_SERVER_STREAM || count == 1);
    return first;
}

/* What the answer of a write says of a retry is all that may differ. */
static bool replays(ProtobufCMessage *m) {
    if (m->descriptor == &orderdb__v1__create_order_response__descriptor) {
        Orderdb__V1__CreateOrderResponse *r = (void *)m;
        bool written = r->token != NULL;
        return r->replayed = true, written;
    }
    if (m->descriptor == &orderdb__v1__update_order_response__descriptor) {
        Orderdb__V1__UpdateOrderResponse *r = (void *)m;
        bool written = r->token != NULL;
        return r->replayed = true, written;
    }
    if (m->descriptor == &orderdb__v1__transition_order_response__descriptor) {
        Orderdb__V1__TransitionOrderResponse *r = (void *)m;
        bool written = r->token != NULL && r->entry->request_id[0];
        return r->replayed = true, written;
    }
    return true;
}

static void check_same(const ProtobufCMessage *a, const ProtobufCMessage *b, struct arena *arena) {
    size_t n = protobuf_c_message_get_packed_size(a);
    check(n == protobuf_c_message_get_packed_size(b));
    uint8_t *x = arena_alloc(arena, n + 1), *y = arena_alloc(arena, n + 1);
    check(x);
    check(y);
    protobuf_c_message_pack(a, x);
    protobuf_c_message_pack(b, y);
    check(memcmp(x, y, n) == 0);
}

/* NULL: refused. What was refused may be done the second time: other requests of its batch came between. */
static void check_result(ProtobufCMessage *a, ProtobufCMessage *b, struct arena *arena) {
    if (!a || !replays(a)) return;
    check(b);
    replays(b);
    check_same(a, b, arena);
}

/* Calls that are no retries of themselves: a group that is there, or gone, the second time; timers set or cancelled without a request_id; figures of a moment; streams, whose
 * messages are cut by the clock. */
static bool is_once(const char *name) {
    static const char *const names[] = {"SetOrderTimer", "CancelOrderTimer", "CreateConsumerGroup", "DeleteConsumerGroup", "UpdateConsumerGroup", "GetGroupLag",
                                        "SeekConsumerGroup", "RedriveDeadLetters", "PurgeDeadLetters", "ReadChanges", "Subscribe"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* UpdateOrder without a request_id is an update each time; its answer does not say whether there was one. */
static bool is_update_without_id(const struct row *row, struct slice wire, struct arena *arena) {
    struct failure f;
    failure_init(&f, arena);
    if (strcmp(row->name, "UpdateOrder") != 0) return false;
    const Orderdb__V1__UpdateOrderRequest *m = (void *)scan_unpack(&orderdb__v1__update_order_request__descriptor, wire, &scan_limits_default, &f);
    return !m || !m->options || !m->options->request_id[0];
}

/* The first answer and that of the same request again; NULL: refused. */
static void check_again(ProtobufCMessage *a, ProtobufCMessage *b, struct arena *arena) {
    const ProtobufCMessageDescriptor *type = a->descriptor;
    if (type == &orderdb__v1__topology__descriptor) return; /* rates */
    if (type == &orderdb__v1__apply_resource_response__descriptor) { /* effects tell of each time; what was removed is not there the second time */
        if (b) check_same(&((const Orderdb__V1__ApplyResourceResponse *)a)->resource->base, &((const Orderdb__V1__ApplyResourceResponse *)b)->resource->base, arena);
        return;
    }
    check(b || !replays(a));
    if (!b) return;
    if (type == &orderdb__v1__import_orders_response__descriptor) {
        const Orderdb__V1__ImportOrdersResponse *x = (void *)a, *y = (void *)b;
        check(y->imported == 0);
        check(y->already_there == x->imported + x->already_there);
        check(y->rejected_count == x->rejected_count);
    } else if (type == &orderdb__v1__batch_create_orders_response__descriptor) {
        const Orderdb__V1__BatchCreateOrdersResponse *x = (void *)a, *y = (void *)b;
        check(x->n_results == y->n_results);
        for (size_t i = 0; i < x->n_results; i++)
            check_result(x->results[i]->result_case == 1 ? &x->results[i]->ok->base : NULL, y->results[i]->result_case == 1 ? &y->results[i]->ok->base : NULL, arena);
    } else if (type == &orderdb__v1__batch_transition_orders_response__descriptor) {
        const Orderdb__V1__BatchTransitionOrdersResponse *x = (void *)a, *y = (void *)b;
        check(x->n_results == y->n_results);
        for (size_t i = 0; i < x->n_results; i++)
            check_result(x->results[i]->result_case == 1 ? &x->results[i]->ok->base : NULL, y->results[i]->result_case == 1 ? &y->results[i]->ok->base : NULL, arena);
    } else {
        check_result(a, b, arena);
    }
}

/* Orders and tokens that were answered are what later requests ask for. */
static void learn(const ProtobufCMessage *m) {
    struct draw *d = &draw;
    const char *token = "";
    if (m->descriptor == &orderdb__v1__create_order_response__descriptor && ((const Orderdb__V1__CreateOrderResponse *)m)->token)
        draw_order_seen(d, ((const Orderdb__V1__CreateOrderResponse *)m)->order->order_id);
    if (m->descriptor == &orderdb__v1__list_orders_response__descriptor) {
        const Orderdb__V1__ListOrdersResponse *l = (const void *)m;
        token = l->next_page_token;
        if (l->n_orders) draw_order_seen(d, l->orders[0]->order_id);
    }
    if (m->descriptor == &orderdb__v1__list_order_history_response__descriptor) token = ((const Orderdb__V1__ListOrderHistoryResponse *)m)->next_page_token;
    if (m->descriptor == &orderdb__v1__list_resources_response__descriptor) token = ((const Orderdb__V1__ListResourcesResponse *)m)->next_page_token;
    if (token[0]) snprintf(d->token, sizeof d->token, "%s", token);
}

/* ---- requests */
static size_t add_frame(uint8_t *body, size_t len, const uint8_t *message, size_t n) {
    grpc_frame_head(body + len, (uint32_t)n);
    memcpy(body + len + GRPC_FRAME_HEAD, message, n);
    return len + GRPC_FRAME_HEAD + n;
}

/* What a client should not send; the answer is one all the same. */
static size_t spoil_framing(struct test_random *r, uint8_t *body, size_t len) {
    switch (test_random_below(r, 7)) {
    case 0: body[0] = 1; return len; /* compressed, and is not */
    case 1: body[0] = (uint8_t)test_random_next(r); return len;
    case 2: body[1 + test_random_below(r, 4)] ^= (uint8_t)(1u << test_random_below(r, 8)); return len;
    case 3: return (size_t)test_random_below(r, len);
    case 4: return 0;
    case 5: memset(body + len, 0, 4); return len + 1 + (size_t)test_random_below(r, 4); /* the beginning of another */
    default: return add_frame(body, len, body, (size_t)test_random_below(r, MIN_OF(len, (size_t)1000)));
    }
}

/* A subscription's first two messages; without them the others are refused. */
static size_t draw_opening(struct draw *d, bool open, uint8_t *bytes, size_t cap) {
    static uint8_t inner[4096];
    size_t n = draw_message(d, open ? &orderdb__v1__subscribe_request__open__descriptor : &orderdb__v1__subscribe_request__credit__descriptor, inner, sizeof inner);
    struct slice part = slice_of(inner, n);
    struct writer w = writer_of(bytes, cap);
    pb_message(&w, open ? 1 : 2, &part, 1);
    check(!w.full);
    return w.len;
}

static size_t request_body(const struct row *row, struct how how, struct slice input, struct slice *message, uint8_t *body) {
    static uint8_t bytes[REQUEST_BYTES_MAX];
    struct draw *d = &draw;
    d->random.state = hash64(input) | 1;
    d->wild = how.wild ? 3 : 0;
    const ProtobufCMethodDescriptor *method = row->service ? protobuf_c_service_descriptor_get_method_by_name(row->service, row->name) : NULL;
    unsigned count = how.many && row->kind != METHOD_UNARY ? 1 + (unsigned)test_random_below(&d->random, 5) : 1;
    size_t len = 0;
    bool subscribe = strcmp(row->name, "Subscribe") == 0 && !how.raw;
    if (subscribe) count += 2;
    for (unsigned i = 0; i < count; i++) {
        size_t n = MIN_OF(input.len, sizeof bytes);
        if (how.raw || !method) memcpy(bytes, input.data, n);
        else if (subscribe && i < 2) n = draw_opening(d, i == 0, bytes, sizeof bytes / 8);
        else n = draw_message(d, method->input, bytes, sizeof bytes / 8);
        if (!how.raw && how.wild && n && test_random_below(&d->random, 4) == 0) bytes[test_random_below(&d->random, n)] ^= (uint8_t)(1u << test_random_below(&d->random, 8));
        len = add_frame(body, len, bytes, n);
        *message = slice_of(bytes, n);
    }
    return how.misframed ? spoil_framing(&d->random, body, len) : len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct world w;
    static uint8_t body[2 * REQUEST_BYTES_MAX];
    static struct arena arena;
    if (size < 2) return 0;
    if (!server.engine) server_open(machines_new(), 1);
    const struct row *row = row_of(data[0]);
    const struct how how = how_of(data[1]);
    struct call_limits cl = world_call_limits;
    if (how.little_memory) cl.memory_bytes_max = 96 << 10;
    struct slice message = {0};
    size_t len = request_body(row, how, slice_of(data + 2, size - 2), &message, body);
    call_world_open(&w, &cl);
    w.feed_bytes = how.in_pieces ? 1 + data[0] % 7 : 0;
    arena_init(&arena, 512 << 20);
    ProtobufCMessage *answers[2] = {NULL, NULL};
    unsigned crash = ++inputs % INPUTS_PER_CRASH;
    bool stream = strcmp(row->name, "ReadChanges") == 0 || strcmp(row->name, "Subscribe") == 0;
    const char *timeout = how.timeout ? "90u" : stream ? "30m" : NULL; /* one that follows the stream has no end of its own */
    bool keep_open = strcmp(row->name, "Subscribe") == 0 && data[size - 1] & 1; /* a member that waits for events, until its deadline */
    bool endless = strcmp(row->name, "HealthWatch") == 0 || strcmp(row->name, "WatchTopology") == 0;
    if (crash == 1) call_world_exchange(&w, row->path, slice_of(body, len), keep_open, timeout, 1 + (unsigned)(hash64(message) % 12), endless); /* whatever became of it, it is sent again */
    for (unsigned i = 0; i < 2; i++) {
        if (i && crash == INPUTS_PER_CRASH / 2) engine_restart(), w.core.engine = server.engine;
        const struct answer *a = call_world_exchange(&w, row->path, slice_of(body, len), keep_open, timeout, 0, endless);
        if (!a) break;
        if (atoi(a->grpc_status)) check_refusal(a, &arena);
        else answers[i] = check_messages(row, a, &arena);
        check(!answers[i] || strcmp(a->details, "") == 0);
    }
    if (answers[0]) learn(answers[0]);
    bool patient = !how.little_memory && !how.timeout;
    if (patient && answers[0] && !is_once(row->name) && !is_update_without_id(row, message, &arena)) check_again(answers[0], answers[1], &arena);
    world_close(&w);
    arena_fini(&arena);
    if (inputs % INPUTS_PER_WALK == 0)
        for (unsigned i = 0; i < PARTITIONS; i++) walk_store(server.stores[i]);
    if (inputs >= INPUTS_PER_ENGINE) {
        server_close();
        memset(&draw, 0, sizeof draw);
        inputs = 0;
    }
    return 0;
}
