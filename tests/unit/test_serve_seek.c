/* SeekConsumerGroup over two partitions (server/serve_seek.c): what another seek, of one partition alone, or a partition that takes no writes for a while does to it at any moment of its way.
 * All or nothing where that can be known, and what passes is waited for; else the refusal says which slots have moved, and the same seek again moves all. */
#define WORLD_SUBMIT submit
struct engine;
struct op;
static void submit(struct engine *e, struct op *op);
#include "tests/lib/call_world.h"

#include "engine/check.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/details.h"
#include "tests/lib/test.h"

#define STREAM "/orderdb.v1.StreamService/"
enum { GROUP_ID = 1, TURNS_MAX = 400, TURNS_LONG = 200000 };

static struct arena arena;

static struct slice message_of(const ProtobufCMessage *m) {
    static uint8_t bytes[512];
    check(protobuf_c_message_get_packed_size(m) <= sizeof bytes);
    return framed(bytes, protobuf_c_message_pack(m, bytes));
}

static void create_group(void) {
    static struct world w;
    Orderdb__V1__CreateConsumerGroupRequest r = ORDERDB__V1__CREATE_CONSUMER_GROUP_REQUEST__INIT;
    Orderdb__V1__ConsumerGroup g = ORDERDB__V1__CONSUMER_GROUP__INIT;
    g.group = (char *)"mail", r.group = &g;
    call_world_open(&w, &world_call_limits);
    assert_string_equal(call_world_exchange(&w, STREAM "CreateConsumerGroup", message_of(&r.base), false, NULL, 0, false)->grpc_status, "0");
    world_close(&w);
}

/* ---- the other seek */
static struct {
    struct mail_hop hop;
    struct op op;
    struct arena arena;
    bool home;
} other;

static void on_other(struct mail_hop *hop) { other.home = true; }

static void other_seek(struct world *w, uint16_t slot) {
    struct command c = {.type = COMMAND_GROUP_SEEK, .seek = {.group_id = GROUP_ID}}; /* from the beginning, whatever the epoch */
    arena_reset(&other.arena);
    other.home = false;
    other.op = (struct op){.kind = OP_WRITE, .slot = slot, .arena = &other.arena, .command = command_encode(&c, &other.arena)};
    assert_non_null(other.op.command.data);
    mail_send_op(&w->core, &other.hop, &other.op, on_other);
}

/* ---- the seek */
static struct slice latest(void) {
    Orderdb__V1__SeekConsumerGroupRequest r = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__INIT;
    r.group = (char *)"mail";
    r.to_case = ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_START;
    r.start = ORDERDB__V1__CONSUMER_GROUP__START__LATEST;
    return message_of(&r.base);
}

static const char *meta(const struct details *d, const char *key) {
    for (const struct failure_meta *m = d->metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return arena_printf(&arena, "%.*s", (int)m->value.len, (const char *)m->value.data);
    return "";
}

enum outcome_of { MOVED, REFUSED, PART };
/* Which of its turns the other comes in; *done: it was over before. */
static enum outcome_of seek_while(unsigned turn_of_other, uint16_t slot, bool *done) {
    static struct world w;
    struct details d;
    uint8_t raw[8192];
    call_world_open(&w, &world_call_limits);
    struct answer *a = world_request(&w, STREAM "SeekConsumerGroup", latest(), false, NULL, NULL);
    world_pump(&w);
    for (unsigned i = 0; i < TURNS_MAX && !a->closed; i++) {
        if (i == turn_of_other) other_seek(&w, slot);
        turn(&w);
        *done = i < turn_of_other;
    }
    assert_true(a->closed);
    while (w.away_count) turn(&w);
    enum outcome_of outcome = MOVED;
    if (strcmp(a->grpc_status, "0") != 0) {
        size_t n = base64_decode(slice_str(a->details), raw);
        assert_true(n != SIZE_MAX);
        assert_true(details_decode(slice_of(raw, n), &arena, &d));
        assert_string_equal(d.reason, "VERSION_MISMATCH");
        outcome = *meta(&d, "moved_slots") ? PART : REFUSED;
        assert_string_equal(meta(&d, "moved_slots"), outcome == PART ? "0-8191" : "");
        assert_string_equal(meta(&d, "unmoved_slots"), outcome == PART ? "8192-16383" : "");
    }
    world_close(&w);
    return outcome;
}

static unsigned seen[2][3];

static void race(uint16_t slot, unsigned *counts) {
    bool over = false, done;
    for (unsigned at = 0; !over && at < TURNS_MAX; at++) {
        enum outcome_of o = seek_while(at, slot, &over);
        counts[o]++;
        if (o != MOVED) assert_int_equal(seek_while(TURNS_MAX, 0, &done), MOVED); /* the same again */
    }
    assert_true(over);
}

static void another_seek_of_the_first_partition_refuses_it_before_anything_moves(void **state) {
    race(0, seen[0]);
    assert_true(seen[0][MOVED] > 0);
    assert_true(seen[0][REFUSED] > 0);
    assert_int_equal(seen[0][PART], 0);
}

static void what_moved_all_the_same_is_told(void **state) {
    race(8192, seen[1]);
    assert_true(seen[1][MOVED] > 0);
    assert_true(seen[1][PART] > 0);
    assert_int_equal(seen[1][REFUSED], 0);
}

/* ---- a partition that takes no writes for a while */
static struct {
    bool pressed; /* the second partition is behind with its tables */
    enum outcome_of outcome;
    uint64_t took_ns;
} slow;

static void submit(struct engine *e, struct op *op) {
    if (slow.pressed) e->partitions[1].pressure = 2;
    engine_submit(e, op);
    e->partitions[1].pressure = 0;
}

/* It is from that turn on. */
static void seek_beside_pressure(unsigned turn_of_pressure, uint64_t for_ns, const char *timeout) {
    static struct world w;
    struct details d;
    uint8_t raw[8192];
    call_world_open(&w, &world_call_limits);
    uint64_t begun = sim_world_now_ns(server.world), until = UINT64_MAX;
    struct answer *a = world_request(&w, STREAM "SeekConsumerGroup", latest(), false, timeout ? "grpc-timeout" : NULL, timeout);
    world_pump(&w);
    for (unsigned i = 0; i < TURNS_LONG && !a->closed; i++) {
        if (i == turn_of_pressure) until = sim_world_now_ns(server.world) + for_ns;
        slow.pressed = i >= turn_of_pressure && sim_world_now_ns(server.world) < until;
        turn(&w);
    }
    slow.pressed = false;
    assert_true(a->closed);
    slow.took_ns = sim_world_now_ns(server.world) - begun;
    slow.outcome = MOVED;
    if (strcmp(a->grpc_status, "0") != 0) {
        size_t n = base64_decode(slice_str(a->details), raw);
        assert_true(n != SIZE_MAX);
        assert_true(details_decode(slice_of(raw, n), &arena, &d));
        assert_string_equal(d.reason, "OVERLOADED");
        slow.outcome = *meta(&d, "moved_slots") ? PART : REFUSED;
        assert_string_equal(meta(&d, "moved_slots"), slow.outcome == PART ? "0-8191" : "");
    }
    world_close(&w);
}

static void a_refusal_that_passes_is_waited_for(void **state) {
    unsigned counts[3] = {0}, waited = 0;
    for (unsigned at = 0; at < TURNS_MAX / 4; at++) {
        seek_beside_pressure(at, 220 * NS_PER_MS, NULL);
        counts[slow.outcome]++;
        waited += slow.outcome == MOVED && slow.took_ns > 200 * NS_PER_MS;
    }
    assert_int_equal(counts[PART], 0);
    assert_true(counts[REFUSED] > 0); /* it was there before anything had moved */
    assert_true(waited > 0);
}

/* Pressure that stays, and comes between the look and the move: which turn that is differs a little from time to time. */
static void seek_that_is_told(const char *timeout) {
    slow.outcome = REFUSED;
    for (unsigned at = 0; at < TURNS_MAX && slow.outcome != PART; at++) seek_beside_pressure(at, 3600 * NS_PER_S, timeout);
    assert_int_equal(slow.outcome, PART);
}

static void one_that_does_not_pass_is_told(void **state) {
    seek_that_is_told(NULL);
    assert_in_range(slow.took_ns, 9 * NS_PER_S, 11 * NS_PER_S);
    seek_that_is_told("1S"); /* before the deadline, which could say nothing */
    assert_in_range(slow.took_ns, NS_PER_S / 2, NS_PER_S);
    seek_beside_pressure(TURNS_LONG, 0, NULL); /* the same again */
    assert_int_equal(slow.outcome, MOVED);
}

static int setup(void **state) {
    arena_init(&arena, 16 * MIB);
    arena_init(&other.arena, 1 * MIB);
    server_open(machines_new(), 1);
    create_group();
    return 0;
}

static int teardown(void **state) {
    server_close();
    arena_fini(&arena);
    arena_fini(&other.arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_seek_of_the_first_partition_refuses_it_before_anything_moves),
        cmocka_unit_test(what_moved_all_the_same_is_told),
        cmocka_unit_test(a_refusal_that_passes_is_waited_for),
        cmocka_unit_test(one_that_does_not_pass_is_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
