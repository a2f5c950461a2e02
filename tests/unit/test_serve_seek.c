/* SeekConsumerGroup over two partitions (server/serve_seek.c, groups.c): what another seek, a power cut, or a partition that takes no writes for a while does to it at any moment of its way.
 * Nothing or all; what passes is waited for, and what does not is told with the slots that have moved, and comes to pass all the same. */
#define WORLD_SUBMIT submit
#define WORLD_REAL_GROUPS
struct engine;
struct op;
static void submit(struct engine *e, struct op *op);
#include "tests/lib/call_world.h"

#include "engine/check.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/details.h"
#include "tests/lib/test.h"

#define STREAM "/orderdb.v1.StreamService/"
enum { GROUP_ID = 1, TURNS_MAX = 400, TURNS_LONG = 200000, WAYS_MAX = 16 };

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

/* ---- where the group is */
struct place {
    uint64_t epochs[PARTITIONS];
    bool seeking; /* a seek goes on */
};

static struct {
    struct mail_hop hop;
    struct op op;
    struct arena arena;
    bool home;
} asked;

static void on_asked(struct mail_hop *hop) { asked.home = true; }

static const struct consumer_group_row *row_at(struct world *w, uint16_t slot) {
    arena_reset(&asked.arena);
    asked.home = false;
    asked.op = (struct op){.kind = OP_GROUPS, .slot = slot, .arena = &asked.arena};
    failure_init(&asked.op.failure, &asked.arena);
    mail_send_op(&w->core, &asked.hop, &asked.op, on_asked);
    while (!asked.home) turn(w);
    assert_int_equal(asked.op.failure.status, STATUS_OK);
    assert_int_equal(asked.op.groups.count, 1);
    assert_int_equal(asked.op.groups.rows[0].group_id, GROUP_ID);
    return &asked.op.groups.rows[0];
}

static struct place place_of(struct world *w) {
    struct place p;
    for (unsigned i = 0; i < PARTITIONS; i++) p.epochs[i] = row_at(w, partition_first_slot(i, PARTITIONS))->epoch;
    p.seeking = row_at(w, SLOT_META)->seeking_us > 0;
    return p;
}

/* What a node does by itself (groups.c), until no seek goes on. */
static void go_on(void) {
    static struct world w;
    call_world_open(&w, &world_call_limits);
    struct groups *groups = node.groups;
    node.groups = groups_new(&node);
    groups_begin(node.groups, &w.core);
    while (place_of(&w).seeking) turn(&w);
    w.core.draining = true;
    while (w.away_count || timers_next_ns(&w.core.timers) != UINT64_MAX) turn(&w);
    groups_free(node.groups);
    node.groups = groups;
    w.core.draining = false;
    world_close(&w);
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

static enum outcome_of outcome_of(const struct answer *a, const char *reason) {
    struct details d;
    uint8_t raw[8192];
    if (strcmp(a->grpc_status, "0") == 0) return MOVED;
    size_t n = base64_decode(slice_str(a->details), raw);
    assert_true(n != SIZE_MAX);
    assert_true(details_decode(slice_of(raw, n), &arena, &d));
    assert_string_equal(d.reason, reason);
    if (!*meta(&d, "unmoved_slots")) return REFUSED;
    assert_string_equal(meta(&d, "moved_slots"), "0-8191");
    assert_string_equal(meta(&d, "unmoved_slots"), "8192-16383");
    return PART;
}

/* The second comes in that turn of the first. *over: the first was answered before. */
static void of_two_seeks_at_once_one_is_refused_and_moves_nothing(void **state) {
    unsigned seen[3] = {0};
    bool over = false;
    for (unsigned at = 0; !over && at < TURNS_MAX; at++) {
        static struct world w;
        call_world_open(&w, &world_call_limits);
        struct place before = place_of(&w);
        struct answer *a = world_request(&w, STREAM "SeekConsumerGroup", latest(), false, NULL, NULL), *b = NULL;
        world_pump(&w);
        for (unsigned i = 0; i < TURNS_MAX && (!a->closed || !b || !b->closed); i++) {
            if (i == at) over = a->closed, b = world_request(&w, STREAM "SeekConsumerGroup", latest(), false, NULL, NULL);
            turn(&w);
        }
        assert_true(a->closed);
        assert_true(b->closed);
        enum outcome_of first = outcome_of(a, "VERSION_MISMATCH"), second = outcome_of(b, "VERSION_MISMATCH");
        unsigned moved = (first == MOVED) + (second == MOVED);
        struct place after = place_of(&w);
        assert_true(moved > 0);
        for (unsigned i = 0; i < PARTITIONS; i++) assert_int_equal(after.epochs[i], before.epochs[i] + moved);
        assert_false(after.seeking);
        seen[first]++, seen[second]++;
        while (w.away_count) turn(&w);
        world_close(&w);
    }
    assert_true(over);
    assert_true(seen[REFUSED] > 0);
    assert_int_equal(seen[PART], 0);
}

/* ---- the power goes */
/* After so many turns. Whether the call was over before. */
static bool seek_until_power_cut(unsigned turns, struct place *before, struct place *after) {
    static struct world w;
    call_world_open(&w, &world_call_limits);
    *before = place_of(&w);
    struct answer *a = world_request(&w, STREAM "SeekConsumerGroup", latest(), false, NULL, NULL);
    world_pump(&w);
    for (unsigned i = 0; i < turns; i++) turn(&w);
    bool over = a->closed;
    engine_restart(); /* what was under way comes home refused */
    w.core.engine = server.engine;
    for (unsigned i = 0; i < TURNS_LONG && (w.away_count || !a->closed); i++) turn(&w);
    assert_true(a->closed);
    *after = place_of(&w);
    while (w.away_count) turn(&w);
    world_close(&w);
    return over;
}

/* Cuts it off in each turn of its way. What has become of them is counted. */
static void cut_off_anywhere(unsigned *nothing, unsigned *left) {
    bool over = false;
    for (unsigned turns = 0; !over && turns < TURNS_MAX; turns++) {
        struct place before, cut, after;
        static struct world w;
        over = seek_until_power_cut(turns, &before, &cut);
        *left += cut.seeking;
        go_on();
        call_world_open(&w, &world_call_limits);
        after = place_of(&w);
        world_close(&w);
        for (unsigned i = 0; i < PARTITIONS; i++) assert_int_equal(after.epochs[i], before.epochs[i] + (after.epochs[0] > before.epochs[0]));
        if (cut.seeking || over) assert_int_equal(after.epochs[0], before.epochs[0] + 1);
        *nothing += after.epochs[0] == before.epochs[0];
    }
    assert_true(over);
}

/* One way in five loses no plan, or leaves none: what of it is on the disk when the power goes is chance. */
static void a_seek_that_is_cut_off_anywhere_moves_nothing_or_all(void **state) {
    unsigned nothing = 0, left = 0;
    for (unsigned way = 0; way < WAYS_MAX && (!nothing || !left); way++) cut_off_anywhere(&nothing, &left);
    assert_true(nothing > 0);
    assert_true(left > 0);
}

/* ---- a partition that takes no writes for a while */
static struct {
    bool pressed; /* the second partition is behind with its tables */
    enum outcome_of outcome;
    uint64_t took_ns;
    struct place place; /* then */
} slow;

static void submit(struct engine *e, struct op *op) {
    if (slow.pressed) e->partitions[1].pressure = 2;
    engine_submit(e, op);
    e->partitions[1].pressure = 0;
}

/* It is from that turn on. */
static void seek_beside_pressure(unsigned turn_of_pressure, uint64_t for_ns, const char *timeout) {
    static struct world w;
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
    slow.outcome = outcome_of(a, "OVERLOADED");
    slow.place = place_of(&w);
    while (w.away_count) turn(&w);
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

static void one_that_does_not_pass_is_told_and_gone_on_with(void **state) {
    static const char *const timeouts[] = {NULL, "1S"};
    for (unsigned i = 0; i < ARRAY_LEN(timeouts); i++) {
        static struct world w;
        seek_that_is_told(timeouts[i]);
        assert_in_range(slow.took_ns, i ? NS_PER_S / 2 : 9 * NS_PER_S, i ? NS_PER_S : 11 * NS_PER_S); /* before the deadline, which could say nothing */
        assert_true(slow.place.seeking);
        assert_int_equal(slow.place.epochs[0], slow.place.epochs[1] + 1);
        call_world_open(&w, &world_call_limits); /* no other one before */
        assert_int_equal(outcome_of(call_world_exchange(&w, STREAM "SeekConsumerGroup", latest(), false, NULL, 0, false), "VERSION_MISMATCH"), REFUSED);
        world_close(&w);
        go_on();
        seek_beside_pressure(TURNS_LONG, 0, NULL);
        assert_int_equal(slow.outcome, MOVED);
        assert_int_equal(slow.place.epochs[0], slow.place.epochs[1]);
        assert_false(slow.place.seeking);
    }
}

static int setup(void **state) {
    arena_init(&arena, 16 * MIB);
    arena_init(&asked.arena, 1 * MIB);
    server_open(machines_new(), 1);
    node.groups = groups_new(&node); /* not begun: what is left is left, until go_on() */
    create_group();
    return 0;
}

static int teardown(void **state) {
    server_close();
    arena_fini(&arena);
    arena_fini(&asked.arena);
    groups_free(node.groups);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_two_seeks_at_once_one_is_refused_and_moves_nothing),
        cmocka_unit_test(a_seek_that_is_cut_off_anywhere_moves_nothing_or_all),
        cmocka_unit_test(a_refusal_that_passes_is_waited_for),
        cmocka_unit_test(one_that_does_not_pass_is_told_and_gone_on_with),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
