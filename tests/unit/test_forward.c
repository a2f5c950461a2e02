/* The promises of server/forward.h: one core of node 1. The linker puts the test in the place of the engine's door and of the connections (engine_lead_of, engine_submit, peers_say);
 * time is a number of the test's. What is said between nodes is op_wire.h's, real. */
#include "tests/lib/test.h"

#include "engine/command.h"
#include "server/cluster.h"
#include "server/forward.h"
#include "server/node.h"
#include "server/op_wire.h"
#include "server/peers.h"

enum { SELF = 1, LEADER = 2, OTHER = 3, SAID_MAX = 16, ASKED_MOST = 1 << 14, SLOT = 5, PARTITIONS = 3 };

static struct {
    struct core core;
    struct node node;
    struct cluster cluster; /* whose map is the test's */
    struct arena arena;
    struct engine_lead lead;
    bool deaf; /* no connection */
    struct said {
        uint64_t to;
        enum link_kind kind;
        struct buf body;
    } said[SAID_MAX];
    unsigned said_count, submitted_count, home_count;
    struct op *submitted, *home;
} w;

struct engine_lead __wrap_engine_lead_of(const struct engine *e, uint16_t slot);
struct engine_lead __wrap_engine_lead_of(const struct engine *e, uint16_t slot) { return w.lead; }
unsigned __wrap_engine_voters_of(const struct engine *e, uint16_t slot, uint64_t node_ids[GROUP_MEMBERS_MAX]);
unsigned __wrap_engine_voters_of(const struct engine *e, uint16_t slot, uint64_t node_ids[GROUP_MEMBERS_MAX]) {
    node_ids[0] = SELF, node_ids[1] = LEADER, node_ids[2] = OTHER;
    return 3;
}
void __wrap_engine_submit(struct engine *e, struct op *op);
void __wrap_engine_submit(struct engine *e, struct op *op) { w.submitted = op, w.submitted_count++; }
bool __wrap_peers_say(struct peers *p, uint64_t node_id, enum link_kind kind, struct slice body);
bool __wrap_peers_say(struct peers *p, uint64_t node_id, enum link_kind kind, struct slice body) {
    if (w.deaf) return false;
    struct said *s = &w.said[w.said_count++ % SAID_MAX];
    s->to = node_id, s->kind = kind, s->body.len = 0;
    check(buf_append(&s->body, body));
    return true;
}

bool __wrap_peers_up(const struct peers *p, uint64_t node_id);
bool __wrap_peers_up(const struct peers *p, uint64_t node_id) { return !w.deaf; }

static struct forward *f;
static void on_home(struct op *op) { w.home = op, w.home_count++; }

static int setup(void **state) {
    memset(&w, 0, sizeof w);
    arena_init(&w.arena, 64 << 20);
    w.node.identity.node_id = SELF;
    w.node.partition_count = PARTITIONS;
    w.node.limits.requests_bytes_max = w.node.limits.request_bytes_max = 1 << 20, w.node.limits.deadline_ns_max = 60 * NS_PER_S;
    pthread_mutex_init(&w.cluster.lock, NULL);
    w.cluster.identity.node_id = SELF;
    assert_true(cluster_map(&w.cluster, PARTITIONS));
    for (uint32_t i = 0; i <= PARTITIONS; i++) w.cluster.map[i].members = (struct engine_wanted){3, {SELF, LEADER, OTHER}};
    w.node.cluster = &w.cluster;
    w.core.node = &w.node, w.core.now_ns = 1000 * NS_PER_S, w.core.engine = (struct engine *)&w;
    w.lead = (struct engine_lead){.member = true, .node = LEADER};
    return (f = w.core.forward = forward_new(&w.core)) ? 0 : -1;
}
static int teardown(void **state) {
    forward_stop(f);
    forward_free(f); /* checks that nothing is left */
    timers_fini(&w.core.timers);
    for (unsigned i = 0; i < SAID_MAX; i++) buf_fini(&w.said[i].body);
    arena_fini(&w.arena);
    cluster_fini(&w.cluster);
    return 0;
}

static void later(uint64_t ns) {
    w.core.now_ns += ns;
    timers_run(&w.core.timers, w.core.now_ns);
}
static struct op *op_new(enum op_kind kind, uint64_t deadline_ns) {
    struct op *op = arena_new(&w.arena, struct op);
    op->kind = kind, op->slot = SLOT, op->arena = &w.arena, op->done = on_home;
    op->deadline_ns = deadline_ns ? w.core.now_ns + deadline_ns : 0;
    return op;
}
static struct op *read_op(uint64_t deadline_ns) {
    struct op *op = op_new(OP_GET, deadline_ns);
    op->get.order_id = 77;
    return op;
}
/* A transition; known again by its request_id, if it has one. */
static struct op *write_op(const char *request_id, uint64_t deadline_ns) {
    struct op *op = op_new(OP_WRITE, deadline_ns);
    struct command c = {.type = COMMAND_TRANSITION, .origin = {.request_id = slice_of(request_id, strlen(request_id))}, .transition = {.order_id = 77, .event = SLICE_LIT("pay")}};
    op->command = command_encode(&c, &w.arena);
    assert_non_null(op->command.data);
    return op;
}
static void submit(struct op *op) { forward_route.submit(&w.core, op); }
static bool refused_by_engine(struct op *op, enum status st, bool maybe) {
    failure_init(&op->failure, op->arena);
    failure_set(&op->failure, st, "refused");
    op->maybe = maybe;
    return forward_route.again(&w.core, op);
}

static const struct said *last_said(void) { return &w.said[(w.said_count - 1) % SAID_MAX]; }
static uint64_t number_of(const struct said *s) { return get_le64(s->body.data); }
/* What `node` answers to the ask of that number: a refusal, or an order's bytes. */
static void answers_number(uint64_t node, uint64_t number, const struct op *asked, enum status st) {
    struct op op = {.kind = asked->kind, .slot = SLOT, .arena = &w.arena, .answer = st ? (struct slice){0} : SLICE_LIT("\x08\x4d")};
    struct buf body = {0};
    failure_init(&op.failure, &w.arena);
    if (st) failure_set(&op.failure, st, "as the other node has it");
    assert_true(buf_reserve(&body, 8));
    put_le64(body.data, number), body.len = 8;
    assert_true(op_wire_write_outcome(&body, &op, PARTITIONS));
    forward_on_frame(f, node, LINK_ANSWER, buf_slice(&body));
    buf_fini(&body);
}
static void answers(const struct op *asked, enum status st) { answers_number(last_said()->to, number_of(last_said()), asked, st); }
static void is_home_with(const struct op *op, enum status st) {
    assert_int_equal(w.home_count, 1);
    assert_ptr_equal(w.home, op);
    assert_int_equal(op->failure.status, st);
}

/* ---- asking */

/* A refusal that says who leads; 0: it does not say. */
static void answers_not_leader(const struct op *asked, uint64_t leader) {
    struct op op = {.kind = asked->kind, .slot = SLOT, .arena = &w.arena};
    struct buf body = {0};
    failure_init(&op.failure, &w.arena);
    if (leader) failure_meta(&op.failure, "leader_node_id", "%llu", (unsigned long long)leader);
    failure_set(&op.failure, STATUS_NOT_LEADER, "not I");
    assert_true(buf_reserve(&body, 8));
    put_le64(body.data, number_of(last_said())), body.len = 8;
    assert_true(op_wire_write_outcome(&body, &op, PARTITIONS));
    forward_on_frame(f, last_said()->to, LINK_ANSWER, buf_slice(&body));
    buf_fini(&body);
}

static void of_a_partition_that_is_held_elsewhere_those_are_asked_who_hold_it(void **state) {
    enum { FOURTH = 4 };
    uint32_t p = partition_of_slot(SLOT, PARTITIONS);
    struct op *op = read_op(NS_PER_S), *any = read_op(NS_PER_S), *more = read_op(NS_PER_S);
    w.cluster.map[p].members = (struct engine_wanted){3, {LEADER, OTHER, FOURTH}};
    w.lead = (struct engine_lead){0}; /* this node's replica knows nothing */
    submit(op);
    assert_int_equal(last_said()->to, LEADER);
    answers_not_leader(op, 0);
    later(20 * NS_PER_MS);
    assert_int_equal(last_said()->to, OTHER); /* the next one */
    answers_not_leader(op, FOURTH);
    later(20 * NS_PER_MS);
    assert_int_equal(last_said()->to, FOURTH); /* as it was told */
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
    any->any_replica = true; /* there is none here */
    submit(any);
    assert_int_equal(last_said()->to, FOURTH); /* and that is remembered */
    answers(any, STATUS_OK);
    w.lead = (struct engine_lead){.member = true}; /* it does not know yet that it was removed */
    submit(more);
    assert_int_equal(last_said()->to, FOURTH);
    answers(more, STATUS_OK);
    assert_int_equal(w.home_count, 3);
    assert_int_equal(w.submitted_count, 0);
}

/* The others may have let go of it without its knowing: who has no leader asks around. Of other ops that would be a guess in every election. */
static void the_rows_of_nodes_are_asked_for_by_who_has_no_leader(void **state) {
    struct op *op = op_new(OP_NODES, NS_PER_S);
    op->slot = SLOT_META;
    w.lead = (struct engine_lead){.member = true};
    submit(op);
    assert_int_equal(last_said()->to, LEADER);
    answers_not_leader(op, OTHER);
    later(20 * NS_PER_MS);
    assert_int_equal(last_said()->to, OTHER);
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
    op = op_new(OP_NODES, NS_PER_S);
    op->slot = SLOT_META, op->any_replica = true; /* what its own replica has */
    submit(op);
    assert_ptr_equal(w.submitted, op);
}

static void what_this_node_leads_goes_to_its_engine(void **state) {
    struct op *op = read_op(NS_PER_S), *any = read_op(NS_PER_S);
    w.lead = (struct engine_lead){.here = true};
    submit(op);
    assert_ptr_equal(w.submitted, op);
    w.lead = (struct engine_lead){.member = true, .node = LEADER};
    any->any_replica = true; /* any node's replica will do */
    submit(any);
    assert_ptr_equal(w.submitted, any);
    assert_int_equal(w.said_count, 0);
}

static void who_leads_is_asked_and_its_answer_comes_home(void **state) {
    struct op *op = read_op(1500 * NS_PER_MS), seen = {.arena = &w.arena};
    uint64_t left_ms;
    submit(op);
    assert_int_equal(w.said_count, 1);
    assert_int_equal(last_said()->to, LEADER);
    assert_int_equal(last_said()->kind, LINK_ASK);
    assert_int_equal(op_wire_read(slice_of(last_said()->body.data + 8, last_said()->body.len - 8), &seen, &left_ms, PARTITIONS), STATUS_OK);
    assert_int_equal(seen.get.order_id, 77);
    assert_int_equal(left_ms, 1500); /* the deadline travels as time left */
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
    assert_slice(op->answer, "\x08\x4d");
    answers(op, STATUS_OK); /* twice: nobody waits for it */
    assert_int_equal(w.home_count, 1);
}

static void a_refusal_is_the_answer_whatever_it_says(void **state) {
    struct op *op = write_op("a-request-of-its-own", NS_PER_S);
    submit(op);
    answers(op, STATUS_STATUS_MISMATCH);
    is_home_with(op, STATUS_STATUS_MISMATCH);
    assert_string_equal(op->failure.message, "as the other node has it");
}

static void an_answer_of_another_node_or_number_is_not_looked_at(void **state) {
    struct op *op = read_op(NS_PER_S);
    submit(op);
    uint64_t number = number_of(last_said());
    answers_number(OTHER, number, op, STATUS_OK);
    answers_number(LEADER, number + 1, op, STATUS_OK);
    answers_number(LEADER, number + (1 << 15), op, STATUS_OK); /* the same place in the table */
    forward_on_frame(f, LEADER, LINK_ANSWER, SLICE_LIT("short"));
    assert_int_equal(w.home_count, 0);
    answers_number(LEADER, number, op, STATUS_OK);
    is_home_with(op, STATUS_OK);
}

static void an_answer_that_can_not_be_read_settles_nothing_of_a_write(void **state) {
    struct op *write = write_op("a-request-of-its-own", NS_PER_S), *read = read_op(NS_PER_S);
    uint8_t body[10] = {[8] = 0xff, [9] = 0xff};
    submit(write);
    put_le64(body, number_of(last_said()));
    forward_on_frame(f, LEADER, LINK_ANSWER, slice_of(body, sizeof body));
    is_home_with(write, STATUS_DEADLINE_EXCEEDED);
    submit(read);
    put_le64(body, number_of(last_said()));
    forward_on_frame(f, LEADER, LINK_ANSWER, slice_of(body, sizeof body));
    assert_int_equal(read->failure.status, STATUS_INTERNAL);
}

/* ---- waiting */

static void without_a_leader_an_op_waits_for_one(void **state) {
    struct op *op = read_op(NS_PER_S);
    w.lead = (struct engine_lead){.member = true};
    submit(op);
    later(100 * NS_PER_MS);
    assert_int_equal(w.said_count + w.home_count + w.submitted_count, 0);
    w.lead.node = OTHER;
    later(25 * NS_PER_MS);
    assert_int_equal(last_said()->to, OTHER);
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
}

static void this_node_may_become_the_leader_meanwhile(void **state) {
    struct op *op = write_op("a-request-of-its-own", NS_PER_S);
    w.lead = (struct engine_lead){.member = true, .node = SELF}; /* it leads, and is not ready yet: not to be asked by itself */
    submit(op);
    assert_int_equal(w.said_count, 0);
    w.lead.here = true;
    later(25 * NS_PER_MS);
    assert_ptr_equal(w.submitted, op);
    assert_int_equal(w.home_count, 0);
}

static void without_a_connection_an_op_waits_for_one(void **state) {
    struct op *op = read_op(NS_PER_S);
    w.deaf = true;
    submit(op);
    later(50 * NS_PER_MS);
    assert_int_equal(w.home_count, 0);
    w.deaf = false;
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 1);
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
}

static void not_leader_is_never_shown_while_another_may_lead(void **state) {
    struct op *op = write_op("a-request-of-its-own", NS_PER_S);
    submit(op);
    answers(op, STATUS_NOT_LEADER);
    assert_int_equal(w.home_count, 0);
    w.lead.node = OTHER;
    later(25 * NS_PER_MS);
    assert_int_equal(last_said()->to, OTHER);
    answers(op, STATUS_DRAINING); /* that one goes */
    assert_int_equal(w.home_count, 0);
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 3);
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
}

static void what_the_engine_refused_when_it_lost_the_lead_is_asked_elsewhere(void **state) {
    struct op *op = write_op("a-request-of-its-own", NS_PER_S), *nameless = write_op("", NS_PER_S), *unlogged = write_op("", NS_PER_S);
    assert_true(refused_by_engine(op, STATUS_NOT_LEADER, true)); /* it is in a log: known again by its request_id */
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 1);
    answers(op, STATUS_OK);
    is_home_with(op, STATUS_OK);
    assert_false(refused_by_engine(nameless, STATUS_NOT_LEADER, true)); /* would be done twice */
    assert_true(refused_by_engine(unlogged, STATUS_NOT_LEADER, false)); /* certainly in no log */
    later(25 * NS_PER_MS);
    answers(unlogged, STATUS_OK);
    assert_int_equal(w.home_count, 2);
}

static void a_lost_connection_is_asked_anew_where_that_changes_nothing(void **state) {
    struct op *read = read_op(NS_PER_S), *known = write_op("a-request-of-its-own", NS_PER_S), *nameless = write_op("", NS_PER_S);
    submit(read), submit(known), submit(nameless);
    forward_on_lost(f, OTHER); /* none of theirs */
    assert_int_equal(w.home_count, 0);
    forward_on_lost(f, LEADER);
    is_home_with(nameless, STATUS_DEADLINE_EXCEEDED);
    assert_true(nameless->maybe);
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 5); /* the two again */
    forward_on_lost(f, LEADER);
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 7);
}

/* ---- the end of patience */

static void a_deadline_says_whether_it_may_have_been_done(void **state) {
    struct op *held = write_op("a-request-of-its-own", 500 * NS_PER_MS), *asked = write_op("another-request-id", 500 * NS_PER_MS), *read = read_op(500 * NS_PER_MS);
    w.lead.node = 0, submit(held);
    w.lead.node = LEADER, submit(asked), submit(read);
    w.lead.node = 0;
    later(490 * NS_PER_MS);
    assert_int_equal(w.home_count, 0);
    later(300 * NS_PER_MS);
    assert_int_equal(w.home_count, 3);
    assert_int_equal(held->failure.status, STATUS_DEADLINE_EXCEEDED);
    assert_non_null(strstr(held->failure.message, "nothing was done"));
    assert_int_equal(asked->failure.status, STATUS_DEADLINE_EXCEEDED);
    assert_non_null(strstr(asked->failure.message, "may have been done"));
    assert_non_null(strstr(read->failure.message, "nothing was done"));
    answers_number(LEADER, 1, asked, STATUS_OK); /* late */
    assert_int_equal(w.home_count, 3);
}

static void without_a_deadline_patience_is_ten_seconds(void **state) {
    struct op *op = read_op(0);
    w.lead.node = 0;
    submit(op);
    later(9900 * NS_PER_MS);
    assert_int_equal(w.home_count, 0);
    later(200 * NS_PER_MS);
    is_home_with(op, STATUS_NOT_LEADER);
}

static const char *meta_of(const struct op *op, const char *key) {
    for (const struct failure_meta *m = op->failure.metas; m; m = m->next)
        if (strcmp(m->key, key) == 0) return (const char *)m->value.data;
    return "";
}

static void without_a_majority_nobody_waits_for_a_leader(void **state) {
    struct op *op = write_op("a-request-of-its-own", 10 * NS_PER_S), *unknown = write_op("another-request-id", 10 * NS_PER_S), *patient = read_op(0), *next = read_op(10 * NS_PER_S), *last = read_op(10 * NS_PER_S);
    submit(unknown);
    w.deaf = true, w.lead.node = 0;
    forward_on_lost(f, LEADER); /* it may have been done */
    submit(op), submit(patient);
    for (unsigned i = 0; i < 19; i++) later(100 * NS_PER_MS);
    assert_int_equal(w.home_count, 0); /* a node that restarts */
    for (unsigned i = 0; i < 3; i++) later(100 * NS_PER_MS);
    is_home_with(op, STATUS_NO_QUORUM);
    assert_string_equal(meta_of(op, "voters"), "3");
    assert_string_equal(meta_of(op, "reachable"), "1");
    assert_int_equal(atoi(meta_of(op, "partition")), (int)partition_of_slot(SLOT, PARTITIONS));
    assert_int_equal(op->failure.retry_delay_ms, 1000);
    submit(next); /* that is known now */
    later(25 * NS_PER_MS);
    assert_int_equal(w.home_count, 2);
    assert_int_equal(next->failure.status, STATUS_NO_QUORUM);
    w.deaf = false; /* they elect */
    submit(last);
    later(100 * NS_PER_MS);
    assert_int_equal(w.home_count, 2);
    w.lead.node = OTHER;
    later(25 * NS_PER_MS);
    assert_int_equal(w.said_count, 4); /* the one that was asked, the three that waited */
    w.deaf = true, w.lead.node = 0;
    forward_on_lost(f, OTHER);
    for (unsigned i = 0; i < 80; i++) later(100 * NS_PER_MS);
    assert_int_equal(last->failure.status, STATUS_NO_QUORUM);
    assert_int_equal(patient->failure.status, STATUS_NO_QUORUM); /* at the end of its patience */
    assert_int_equal(unknown->failure.status, STATUS_DEADLINE_EXCEEDED);
    assert_int_equal(w.home_count, 5);
}

static void so_many_and_no_more(void **state) {
    struct op *last = read_op(NS_PER_S);
    for (unsigned i = 0; i < ASKED_MOST; i++) submit(read_op(NS_PER_S));
    assert_int_equal(w.said_count, ASKED_MOST);
    assert_int_equal(w.submitted_count, 0);
    submit(last); /* the engine's NOT_LEADER is its answer */
    assert_ptr_equal(w.submitted, last);
    assert_false(refused_by_engine(last, STATUS_NOT_LEADER, false));
    forward_stop(f);
    assert_int_equal(w.home_count, ASKED_MOST);
}

static void what_waits_when_the_node_stops_is_told_so(void **state) {
    struct op *held = read_op(NS_PER_S), *asked = read_op(NS_PER_S), *late = read_op(NS_PER_S);
    w.lead.node = 0, submit(held);
    w.lead.node = LEADER, submit(asked);
    forward_stop(f);
    assert_int_equal(w.home_count, 2);
    assert_int_equal(held->failure.status, STATUS_DRAINING);
    assert_int_equal(asked->failure.status, STATUS_DRAINING);
    submit(late);
    assert_ptr_equal(w.submitted, late);
}

/* ---- being asked */

static void asks(uint64_t number, const struct op *op, uint64_t left_ms) {
    struct buf body = {0};
    assert_true(buf_reserve(&body, 8));
    put_le64(body.data, number), body.len = 8;
    assert_true(op_wire_write(&body, op, left_ms, PARTITIONS));
    forward_on_frame(f, OTHER, LINK_ASK, buf_slice(&body));
    buf_fini(&body);
}
static enum status was_answered(uint64_t number) {
    struct op op = {.kind = OP_GET, .slot = SLOT, .arena = &w.arena};
    failure_init(&op.failure, &w.arena);
    assert_int_equal(last_said()->kind, LINK_ANSWER);
    assert_int_equal(last_said()->to, OTHER);
    assert_int_equal(number_of(last_said()), number);
    assert_int_equal(op_wire_read_outcome(slice_of(last_said()->body.data + 8, last_said()->body.len - 8), &op, PARTITIONS), STATUS_OK);
    return op.failure.status;
}

static void what_another_node_asks_is_run_here_and_answered(void **state) {
    w.lead = (struct engine_lead){.here = true};
    asks(42, read_op(0), 700);
    assert_int_equal(w.submitted_count, 1);
    assert_int_equal(w.submitted->get.order_id, 77);
    assert_int_equal(w.submitted->deadline_ns, w.core.now_ns + 700 * NS_PER_MS);
    w.submitted->answer = SLICE_LIT("\x08\x4d");
    w.submitted->done(w.submitted);
    assert_int_equal(was_answered(42), STATUS_OK);
}

static void one_hop_what_was_asked_is_never_asked_on(void **state) {
    asks(43, read_op(0), 700); /* another leads */
    assert_int_equal(w.submitted_count, 0);
    assert_int_equal(w.said_count, 1);
    assert_int_equal(was_answered(43), STATUS_NOT_LEADER);
    w.core.engine = NULL; /* it has ended */
    asks(44, read_op(0), 700);
    assert_int_equal(was_answered(44), STATUS_NOT_LEADER);
}

static void a_deadline_from_another_node_is_clamped(void **state) {
    w.lead = (struct engine_lead){.here = true};
    asks(45, read_op(0), UINT64_MAX / 2);
    assert_int_equal(w.submitted->deadline_ns, w.core.now_ns + 60 * NS_PER_S);
    w.deaf = true; /* the answer is lost: its deadline ends it there */
    w.submitted->done(w.submitted);
}

#define TEST(x) cmocka_unit_test_setup_teardown(x, setup, teardown)
int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(what_this_node_leads_goes_to_its_engine),
        TEST(of_a_partition_that_is_held_elsewhere_those_are_asked_who_hold_it),
        TEST(the_rows_of_nodes_are_asked_for_by_who_has_no_leader),
        TEST(who_leads_is_asked_and_its_answer_comes_home),
        TEST(a_refusal_is_the_answer_whatever_it_says),
        TEST(an_answer_of_another_node_or_number_is_not_looked_at),
        TEST(an_answer_that_can_not_be_read_settles_nothing_of_a_write),
        TEST(without_a_leader_an_op_waits_for_one),
        TEST(this_node_may_become_the_leader_meanwhile),
        TEST(without_a_connection_an_op_waits_for_one),
        TEST(not_leader_is_never_shown_while_another_may_lead),
        TEST(what_the_engine_refused_when_it_lost_the_lead_is_asked_elsewhere),
        TEST(a_lost_connection_is_asked_anew_where_that_changes_nothing),
        TEST(a_deadline_says_whether_it_may_have_been_done),
        TEST(without_a_deadline_patience_is_ten_seconds),
        TEST(without_a_majority_nobody_waits_for_a_leader),
        TEST(so_many_and_no_more),
        TEST(what_waits_when_the_node_stops_is_told_so),
        TEST(what_another_node_asks_is_run_here_and_answered),
        TEST(one_hop_what_was_asked_is_never_asked_on),
        TEST(a_deadline_from_another_node_is_clamped),
    };
    return cmocka_run_group_tests_name("forward", tests, NULL, NULL);
}
