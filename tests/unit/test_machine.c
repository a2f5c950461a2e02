/* engine/machine.h: what is a valid machine, how one is found, which edges it has. */
#include "tests/lib/test.h"

#include "engine/machine.h"
#include "engine/required.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/mem.h"
#include "tests/lib/definition.h"

static struct definition scratch;
static enum status add(struct machines *ms, const char *text, char error[256]) { return machines_add(ms, define(&scratch, text), error); }
static uint16_t id_of(const struct machines *ms, const char *name) { return machines_status_id(ms, slice_str(name)); }

/* The built-in machine is DESIGN section 6, edge by edge, and nothing else. */
static void retail_has_exactly_its_edges(void **state)
{
    static const char *const edges[][3] = {
        {"PENDING_PAYMENT", "pay", "PAID"}, {"PENDING_PAYMENT", "cancel", "CANCELLED"}, {"PENDING_PAYMENT", "pay_timeout", "CANCELLED"},
        {"PAID", "ship_part", "PARTIALLY_SHIPPED"}, {"PAID", "ship", "SHIPPED"}, {"PARTIALLY_SHIPPED", "ship", "SHIPPED"},
        {"SHIPPED", "deliver", "DELIVERED"}, {"SHIPPED", "confirm", "COMPLETED"}, {"SHIPPED", "auto_confirm", "COMPLETED"},
        {"DELIVERED", "confirm", "COMPLETED"}, {"DELIVERED", "auto_confirm", "COMPLETED"},
        {"PAID", "refund_request", "REFUNDING"}, {"PARTIALLY_SHIPPED", "refund_request", "REFUNDING"}, {"SHIPPED", "refund_request", "REFUNDING"},
        {"DELIVERED", "refund_request", "REFUNDING"}, {"REFUNDING", "refund_reject", "PAID"}, {"REFUNDING", "refund", "REFUNDED"},
    };
    static const char *const states[] = {"PENDING_PAYMENT", "PAID", "PARTIALLY_SHIPPED", "SHIPPED", "DELIVERED", "COMPLETED", "CANCELLED",
                                         "REFUNDING", "REFUNDED"};
    static const char *const events[] = {"pay", "ship_part", "ship", "deliver", "confirm", "auto_confirm", "cancel", "pay_timeout",
                                         "refund_request", "refund_reject", "refund"};
    struct machines *ms = machines_new();
    const struct machine *m = machines_find(ms, SLICE_LIT("retail@1"));
    assert_non_null(m);
    assert_int_equal(machine_initial(m), id_of(ms, "PENDING_PAYMENT"));
    unsigned found = 0;
    for (size_t s = 0; s < ARRAY_LEN(states); s++) {
        uint16_t from = id_of(ms, states[s]);
        assert_int_equal(from, s + 1); /* stored in rows: never to change */
        assert_true(machine_has_state(m, from));
        assert_int_equal(machine_terminal(m, from), s == 5 || s == 6 || s == 8);
        for (size_t e = 0; e < ARRAY_LEN(events); e++) {
            const struct machine_edge *edge = machine_edge_by_event(m, from, slice_str(events[e]));
            const char *to = NULL;
            for (size_t i = 0; i < ARRAY_LEN(edges); i++)
                if (strcmp(edges[i][0], states[s]) == 0 && strcmp(edges[i][1], events[e]) == 0) to = edges[i][2];
            assert_int_equal(edge != NULL, to != NULL);
            if (!edge) continue;
            found++;
            assert_slice(machines_status_name(ms, edge->to), to);
            assert_int_equal(edge->from, from);
            assert_true(machine_event_leads_to(m, edge->event, edge->to));
            assert_true(machine_has_target(m, edge->to));
        }
    }
    assert_int_equal(found, ARRAY_LEN(edges));
    assert_false(machine_has_event(m, SLICE_LIT("teleport")));
    assert_true(machine_has_event(m, SLICE_LIT("refund")));
    assert_false(machine_event_leads_to(m, SLICE_LIT("pay"), id_of(ms, "SHIPPED")));
    assert_false(machine_has_target(m, id_of(ms, "PENDING_PAYMENT")));
    machines_free(ms);
}

static void a_target_counts_the_edges_that_lead_there(void **state)
{
    struct machines *ms = machines_new();
    const struct machine *m = machines_find(ms, (struct slice){0});
    unsigned count;
    assert_slice(machine_edge_by_target(m, id_of(ms, "PENDING_PAYMENT"), id_of(ms, "PAID"), &count)->event, "pay");
    assert_int_equal(count, 1);
    assert_non_null(machine_edge_by_target(m, id_of(ms, "PENDING_PAYMENT"), id_of(ms, "CANCELLED"), &count));
    assert_int_equal(count, 2); /* cancel, pay_timeout */
    assert_null(machine_edge_by_target(m, id_of(ms, "PAID"), id_of(ms, "CANCELLED"), &count));
    assert_int_equal(count, 0);
    machines_free(ms);
}

static void references_find_the_newest_or_the_named_version(void **state)
{
    char error[256];
    struct machines *ms = machines_new();
    assert_int_equal(add(ms, "shop@1 A! B. go:A>B", error), STATUS_OK);
    assert_int_equal(add(ms, "shop@9 A! B. go:A>B", error), STATUS_OK);
    assert_int_equal(add(ms, "shop@10 A! B. go:A>B", error), STATUS_OK);
    assert_int_equal(add(ms, "shop@8 A! B. go:A>B", error), STATUS_FIELD_INVALID); /* versions only go up */
    assert_int_equal(add(ms, "retail@2 PENDING_PAYMENT! X. go:PENDING_PAYMENT>X", error), STATUS_OK);
    assert_slice(machine_reference(machines_find(ms, SLICE_LIT("shop"))), "shop@10");
    assert_slice(machine_reference(machines_find(ms, SLICE_LIT("shop@9"))), "shop@9");
    assert_slice(machine_reference(machines_find(ms, (struct slice){0})), "retail@2");
    assert_slice(machine_reference(machines_find(ms, SLICE_LIT("retail@1"))), "retail@1");
    assert_null(machines_find(ms, SLICE_LIT("shop@2")));
    assert_null(machines_find(ms, SLICE_LIT("shop@")));
    assert_null(machines_find(ms, SLICE_LIT("sho")));
    assert_slice(machine_reference(machines_find_known(ms, 3, SLICE_LIT("shop"))), "shop@9");
    assert_null(machines_find_known(ms, 3, SLICE_LIT("shop@10")));
    assert_null(machines_find_known(ms, 1, SLICE_LIT("shop")));
    assert_slice(machine_reference(machines_find_known(ms, 4, (struct slice){0})), "retail@1");
    const struct machine *m = machines_find(ms, SLICE_LIT("shop@9"));
    assert_ptr_equal(machines_by_id(ms, machine_id(m)), m);
    assert_null(machines_by_id(ms, 0));
    assert_null(machines_by_id(ms, 6));
    machines_free(ms);
}

/* The same name in two machines is one id; ids are never reused. */
static void status_names_are_interned(void **state)
{
    char error[256];
    struct machines *ms = machines_new();
    assert_int_equal(add(ms, "shop@1 A! PAID B. go:A>PAID on:PAID>B", error), STATUS_OK);
    assert_int_equal(id_of(ms, "PAID"), 2);
    assert_int_equal(id_of(ms, "A"), 10);
    assert_int_equal(id_of(ms, "B"), 11);
    assert_int_equal(id_of(ms, "C"), 0);
    assert_true(machines_status_known(ms, 11));
    assert_false(machines_status_known(ms, 12));
    assert_false(machines_status_known(ms, 0));
    const struct machine *m = machines_find(ms, SLICE_LIT("shop"));
    assert_false(machine_has_state(m, id_of(ms, "SHIPPED")));
    assert_false(machine_terminal(m, id_of(ms, "COMPLETED")));
    machines_free(ms);
}

static void broken_definitions_are_refused_and_leave_nothing(void **state)
{
    static const struct {
        const char *text, *error;
    } cases[] = {
        {"@1 A! B. go:A>B", "no valid name"},
        {"shop@0 A! B. go:A>B", "version 0"},
        {"retail@1 A! B. go:A>B", "there already"},
        {"shop@1", "0 states"},
        {"shop@1 A B. go:A>B", "0 initial"},
        {"shop@1 A! C! B. go:A,C>B", "2 initial"},
        {"shop@1 A! B. B. go:A>B", "twice"},
        {"shop@1 A! B. C. go:A>B", "state C cannot be reached"},
        {"shop@1 A! B. go:A>B back:B>A", "terminal state B"},
        {"shop@1 A! B go:A>B", "state B is not terminal"},
        {"shop@1 A! B. go:A>C", "is no state"},
        {"shop@1 A! B. go:C>B", "is no state"},
        {"shop@1 A! B. go:>B", "has no from"},
        {"shop@1 A! B. :A>B", "no valid event"},
        {"shop@1 A! B. go:A,A>B", "names from A twice"},
        {"shop@1 A! B. C. go:A>B go:A>C", "event go leaves A twice"},
        {"shop@1 A! B. go:A>B A~late~30~fly", "event fly is no edge from A"},
        {"shop@1 A! B. go:A>B A~late~0~go", "above zero"},
        {"shop@1 A! B. go:A>B A~late~~go", "above zero"},
        {"shop@1 A! B. go:A>B A~~5~go", "valid timer_id"},
        {"shop@1 A! B. go:A>B A~late~5~go A~late~6~go", "timer late twice"},
        {"shop@1 a/b! B. go:a/b>B", "no valid name"},
    };
    char error[256];
    struct machines *ms = machines_new();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(add(ms, cases[i].text, error), STATUS_FIELD_INVALID);
        if (!strstr(error, cases[i].error)) fail_msg("%s: \"%s\" says nothing of \"%s\"", cases[i].text, error, cases[i].error);
        assert_null(machines_by_id(ms, 2));
        assert_false(machines_status_known(ms, 10));
    }
    assert_int_equal(machines_add(ms, SLICE_LIT("\x0a\xff"), error), STATUS_FIELD_INVALID);
    assert_string_equal(error, "not a StatusMachine message");
    machines_free(ms);
}

/* Accepted and not enforced would be a lie. */
/* What was taken before they were reserved is taken again: from a log, a store, another node. */
static void reserved_events_are_known_and_no_defect(void **state)
{
    static const char *const reserved[] = {"create", "import", "update", "set_timer", "cancel_timer", "timer_fired"}, *const free_ones[] = {"", "Create", "created", "updates", "pay"};
    char error[256];
    struct machines *ms = machines_new();
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
        assert_true(machine_event_reserved(reserved[i]));
        assert_non_null(strstr(MACHINE_EVENTS_RESERVED, reserved[i]));
    }
    for (size_t i = 0; i < ARRAY_LEN(free_ones); i++) assert_false(machine_event_reserved(free_ones[i]));
    assert_int_equal(add(ms, "shop@1 A! B. update:A>B", error), STATUS_OK);
    machines_free(ms);
}

static void roles_are_refused_for_now(void **state)
{
    char error[256], *names[] = {(char[]){"clerk"}};
    struct machines *ms = machines_new();
    define(&scratch, "shop@1 A! B. go:A>B");
    scratch.edges[0].roles = names, scratch.edges[0].n_roles = 1;
    struct slice wire = slice_of(scratch.wire, orderdb__v1__status_machine__pack(&scratch.m, scratch.wire));
    assert_int_equal(machines_add(ms, wire, error), STATUS_FIELD_INVALID);
    assert_non_null(strstr(error, "not built yet"));
    machines_free(ms);
}

static enum status add_requiring(struct machines *ms, const char *const *names, size_t n, char error[256])
{
    char *list[REQUIRED_FIELDS_MAX + 1];
    for (size_t i = 0; i < n; i++) list[i] = (char *)(uintptr_t)names[i];
    define(&scratch, "shop@1 A! B. C. go:A>B leave:A>C");
    scratch.edges[1].required_fields = list, scratch.edges[1].n_required_fields = n;
    return machines_add(ms, slice_of(scratch.wire, orderdb__v1__status_machine__pack(&scratch.m, scratch.wire)), error);
}

static void an_edge_requires_fields_of_the_table(void **state)
{
    static const char *const good[] = {"order_type", "address", "payments", "shipments", "attributes", "attributes.a.b", "extension", "merchant_id", "client_order_no"};
    static const char *const bad[] = {"items", "user_id", "payable", "status", "address.line", "", "attributes.", "Address",
                                      "attributes.01234567890123456789012345678901234567890123456789012345678901234"};
    static const char *const twice[] = {"address", "extension", "address"};
    const char *many[REQUIRED_FIELDS_MAX + 1];
    char error[256], names[REQUIRED_FIELDS_MAX + 1][32];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct machines *ms = machines_new();
        assert_int_equal(add_requiring(ms, &bad[i], 1, error), STATUS_FIELD_INVALID);
        assert_non_null(strstr(error, "edge leave: required_fields[0] is none of order_type"));
        machines_free(ms);
    }
    struct machines *ms = machines_new();
    assert_int_equal(add_requiring(ms, twice, 3, error), STATUS_FIELD_INVALID);
    assert_string_equal(error, "edge leave: required_fields[2] is there twice");
    for (int i = 0; i <= REQUIRED_FIELDS_MAX; i++) snprintf(names[i], sizeof names[i], "attributes.%d", i), many[i] = names[i];
    assert_int_equal(add_requiring(ms, many, REQUIRED_FIELDS_MAX + 1, error), STATUS_FIELD_INVALID);
    assert_non_null(strstr(error, "at most 16"));
    assert_null(machines_find(ms, SLICE_LIT("shop")));
    assert_int_equal(add_requiring(ms, good, ARRAY_LEN(good), error), STATUS_OK);
    const struct machine *m = machines_find(ms, SLICE_LIT("shop"));
    assert_int_equal(machine_edge_by_event(m, machine_initial(m), SLICE_LIT("go"))->required_count, 0);
    const struct machine_edge *edge = machine_edge_by_event(m, machine_initial(m), SLICE_LIT("leave"));
    assert_int_equal(edge->required_count, ARRAY_LEN(good));
    for (size_t i = 0; i < ARRAY_LEN(good); i++) assert_slice(edge->required[i].name, good[i]);
    assert_slice(edge->required[5].key, "a.b");
    machines_free(ms);
}

static void sizes_are_bounded(void **state)
{
    char error[256], text[2048] = "shop@1 A!";
    struct machines *ms = machines_new();
    for (int i = 0; i < MACHINE_STATES_MAX; i++) snprintf(text + strlen(text), sizeof text - strlen(text), " S%d.", i);
    assert_int_equal(add(ms, text, error), STATUS_FIELD_INVALID); /* 65 states */
    snprintf(text, sizeof text, "shop@1 A! B.");
    define(&scratch, text);
    char names[MACHINE_EDGES_MAX + 1][8];
    for (int i = 0; i <= MACHINE_EDGES_MAX; i++) {
        Orderdb__V1__StatusMachine__Edge *e = scratch.edge_list[i] = &scratch.edges[i];
        orderdb__v1__status_machine__edge__init(e);
        snprintf(names[i], sizeof names[i], "e%d", i);
        e->event = names[i];
        e->to = (char[]){"B"};
        e->from = scratch.froms[i];
        e->from[0] = scratch.states[0].name;
        e->n_from = 1;
        e->to = scratch.states[1].name;
    }
    scratch.m.n_edges = MACHINE_EDGES_MAX + 1;
    uint8_t wire[16384];
    struct slice w = slice_of(wire, orderdb__v1__status_machine__pack(&scratch.m, wire));
    assert_int_equal(machines_add(ms, w, error), STATUS_FIELD_INVALID);
    scratch.m.n_edges = MACHINE_EDGES_MAX;
    w = slice_of(wire, orderdb__v1__status_machine__pack(&scratch.m, wire));
    assert_int_equal(machines_add(ms, w, error), STATUS_OK);
    machines_free(ms);
}

static void the_registry_is_bounded(void **state)
{
    char error[256], text[256];
    struct machines *ms = machines_new();
    enum status st = STATUS_OK;
    int n;
    for (n = 2; !st && n < 2000; n++) {
        snprintf(text, sizeof text, "retail@%d PENDING_PAYMENT! PAID. go:PENDING_PAYMENT>PAID", n);
        st = add(ms, text, error);
    }
    assert_int_equal(st, STATUS_LIMIT_EXCEEDED);
    assert_int_equal(n - 2, MACHINES_MAX);
    machines_free(ms);
    ms = machines_new();
    for (n = 0, st = STATUS_OK; !st && n < 2000; n++) {
        snprintf(text, sizeof text, "m%d@1 A%d! B%d. go:A%d>B%d", n, n, n, n, n);
        st = add(ms, text, error);
    }
    assert_int_equal(st, STATUS_LIMIT_EXCEEDED); /* status names */
    machines_free(ms);
}

static void no_memory_is_said_and_changes_nothing(void **state)
{
    char error[256];
    unsigned failures = 0;
    for (uint64_t n = 1;; n++) {
        mem_fail_nth(n);
        struct machines *ms = machines_new();
        mem_fail_nth(0);
        bool made = ms != NULL;
        machines_free(ms);
        if (made) break;
        failures++;
    }
    assert_in_range(failures, 2, 20);
    struct machines *ms = machines_new();
    struct slice wire = define(&scratch, "shop@1 A! B. go:A>B");
    mem_fail_nth(1);
    assert_int_equal(machines_add(ms, wire, error), STATUS_MEMORY_LIMIT);
    mem_fail_nth(0);
    assert_null(machines_find(ms, SLICE_LIT("shop")));
    assert_int_equal(machines_add(ms, wire, error), STATUS_OK);
    machines_free(ms);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(retail_has_exactly_its_edges),
        cmocka_unit_test(a_target_counts_the_edges_that_lead_there),
        cmocka_unit_test(references_find_the_newest_or_the_named_version),
        cmocka_unit_test(status_names_are_interned),
        cmocka_unit_test(broken_definitions_are_refused_and_leave_nothing),
        cmocka_unit_test(reserved_events_are_known_and_no_defect),
        cmocka_unit_test(roles_are_refused_for_now),
        cmocka_unit_test(an_edge_requires_fields_of_the_table),
        cmocka_unit_test(sizes_are_bounded),
        cmocka_unit_test(the_registry_is_bounded),
        cmocka_unit_test(no_memory_is_said_and_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
