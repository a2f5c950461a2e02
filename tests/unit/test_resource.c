/* engine/resource.h and apply_resource.c: rows, decisions of the meta partition, machines in the partitions, lists. */
#include "tests/lib/apply_fixture.h"
#include "tests/lib/test.h"

#include "engine/check.h"
#include "engine/check_resource.h"
#include "engine/page_token.h"
#include "proto/base/log.h"
#include "proto/base/mem.h"
#include "tests/lib/definition.h"

static struct definition scratch;
static const uint8_t token_key[32] = "a key of thirty-two bytes!";

static void assert_text(const char *text, const char *part)
{
    if (!strstr(text, part)) fail_msg("\"%s\" does not hold \"%s\"", text, part);
}

/* One command, alone in its entry. */
static struct outcome applied(struct command *c)
{
    struct outcome o = {0};
    struct slice bytes = command_encode(c, &arena);
    assert_int_equal(rig_apply(&rig, now_us += 1000, &bytes, 1, &arena, &o), STATUS_OK);
    return o;
}

static struct outcome put(const char *name, const char *bytes)
{
    return applied(&(struct command){.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_LIMIT, .name = slice_str(name), .bytes = slice_str(bytes)}});
}

static struct outcome machine(const char *text)
{
    struct slice wire = define(&scratch, text);
    return applied(&(struct command){.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_MACHINE, .name = slice_str(scratch.m.name), .bytes = wire}});
}

static const char *failure_of(const struct outcome *o)
{
    struct failure f;
    failure_init(&f, &arena);
    outcome_failure(o, ms, &f);
    assert_int_equal(f.status, o->status);
    return f.violations ? f.violations->description : f.message;
}

/* ---- rows */

static void the_rows_are_golden(void **state)
{
    uint8_t bytes[256];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct resource_row row = {.revision = 7, .bytes = SLICE_LIT("resource")}, row_back;
    resource_row_encode(&row, &w);
    assert_golden("resource_row", writer_slice(&w));
    assert_int_equal(resource_row_decode(writer_slice(&w), &row_back), STATUS_OK);
    assert_int_equal(row_back.revision, 7);
    assert_slice(row_back.bytes, "resource");
    for (size_t n = 0; n < RESOURCE_ROW_HEAD_BYTES + 1; n++) assert_int_equal(resource_row_decode(slice_of(bytes, n), &row_back), STATUS_CHECKSUM_MISMATCH);

    w = writer_of(bytes, sizeof bytes);
    struct machine_row m = {.machine = 2, .status_count = 2, .statuses = {1, 10}, .definition = SLICE_LIT("definition")}, m_back;
    machine_row_encode(&m, &w);
    assert_golden("machine_row", writer_slice(&w));
    assert_int_equal(machine_row_decode(writer_slice(&w), &m_back), STATUS_OK);
    assert_int_equal(m_back.machine, 2);
    assert_int_equal(m_back.statuses[1], 10);
    assert_slice(m_back.definition, "definition");
    for (size_t n = 0; n < w.len - m.definition.len + 1; n++) assert_int_equal(machine_row_decode(slice_of(bytes, n), &m_back), STATUS_CHECKSUM_MISMATCH);
    bytes[2] = 1; /* a built-in one has no row */
    assert_int_equal(machine_row_decode(writer_slice(&w), &m_back), STATUS_CHECKSUM_MISMATCH);
}

/* ---- resources */

static void a_resource_is_created_changed_and_removed(void **state)
{
    struct outcome o = put("checkout", "one");
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.resource.effect, RESOURCE_CREATED);
    assert_int_equal(o.resource.revision, 1);
    assert_slice(o.resource.bytes, "one");
    assert_int_equal((o = put("checkout", "one")).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(o.resource.revision, 1);
    assert_int_equal((o = put("checkout", "two")).resource.effect, RESOURCE_REPLACED);
    assert_int_equal(o.resource.revision, 2);
    struct command gone = {.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_LIMIT, .remove = true, .name = SLICE_LIT("checkout")}};
    o = applied(&gone);
    assert_int_equal(o.resource.effect, RESOURCE_REMOVED);
    assert_slice(o.resource.bytes, "two");
    o = applied(&gone);
    assert_int_equal(o.status, STATUS_RESOURCE_NOT_FOUND);
    assert_text(failure_of(&o), "there is no limit \"checkout\"");
    assert_int_equal(put("checkout", "three").resource.revision, 1);
}

static void there_are_1024_at_most(void **state)
{
    char name[32];
    for (int i = 0; i < RESOURCES_MAX; i++) {
        snprintf(name, sizeof name, "limit-%04d", i);
        assert_int_equal(put(name, "x").status, STATUS_OK);
        arena_reset(&arena);
    }
    struct outcome o = put("one-more", "x");
    assert_int_equal(o.status, STATUS_LIMIT_EXCEEDED);
    assert_text(failure_of(&o), "1024");
    assert_int_equal(put(name, "y").resource.effect, RESOURCE_REPLACED); /* no more is no more of new ones */
}

/* ---- machines, in the meta partition */

static void a_machine_gets_its_version_and_ids(void **state)
{
    uint16_t paid = machines_status_id(ms, SLICE_LIT("PAID")), before = machines_count(ms);
    struct outcome o = machine("shop@0 OPEN! PAID. pay:OPEN>PAID");
    assert_int_equal(o.status, STATUS_OK);
    assert_int_equal(o.resource.effect, RESOURCE_CREATED);
    assert_int_equal(o.resource.version, 1);
    assert_int_equal(o.resource.machine, before + 1);
    assert_int_equal(rig.record.machines_known, before + 1);
    const struct machine *m = machines_find(ms, SLICE_LIT("shop@1"));
    unsigned n;
    const uint16_t *statuses = machine_statuses(m, &n);
    assert_int_equal(n, 2);
    assert_int_equal(statuses[1], paid); /* one name, one id */
    assert_int_equal((o = machine("shop@0 OPEN! PAID. pay:OPEN>PAID")).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal((o = machine("shop@1 OPEN! PAID. pay:OPEN>PAID")).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(o.resource.machine, before + 1);
    o = machine("shop@0 OPEN! PAID. CLOSED. pay:OPEN>PAID close:OPEN>CLOSED");
    assert_int_equal(o.resource.effect, RESOURCE_REPLACED);
    assert_int_equal(o.resource.version, 2);
    assert_int_equal(machine("shop@3 OPEN! PAID. go:OPEN>PAID").resource.version, 3);
    assert_int_equal(machines_count(ms), before + 3);
}

static void a_version_never_changes(void **state)
{
    assert_int_equal(machine("shop@1 A! B. go:A>B").status, STATUS_OK);
    assert_int_equal(machine("shop@2 A! C. go:A>C").status, STATUS_OK);
    uint16_t count = machines_count(ms);
    struct outcome o = machine("shop@2 A! D. go:A>D");
    assert_int_equal(o.status, STATUS_MACHINE_VERSION_CONFLICT);
    assert_text(failure_of(&o), "shop@2 is there and differs");
    assert_text(failure_of(&o), "version 3");
    o = machine("shop@1 A! B. go:A>B"); /* not even when it is what it was: it would not become the newest */
    assert_int_equal(o.status, STATUS_MACHINE_VERSION_CONFLICT);
    assert_text(failure_of(&o), "not the newest");
    o = machine("shop@4 A! D. go:A>D");
    assert_int_equal(o.status, STATUS_MACHINE_VERSION_CONFLICT);
    assert_text(failure_of(&o), "next version of shop is 3, not 4");
    assert_int_equal(machine("other@2 A! D. go:A>D").status, STATUS_MACHINE_VERSION_CONFLICT);
    assert_int_equal(machines_count(ms), count);
    assert_int_equal(rig.record.machines_known, count);
    o = machine("retail@1 A! B. go:A>B");
    assert_text(failure_of(&o), "retail@1 is there and differs");
    struct slice builtin = machine_definition(machines_by_id(ms, 1));
    o = applied(&(struct command){.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_MACHINE, .name = SLICE_LIT("retail"), .bytes = builtin}});
    assert_int_equal(o.resource.effect, RESOURCE_UNCHANGED);
}

static void a_dry_run_leaves_the_registry_alone(void **state)
{
    struct slice bytes = command_encode(&(struct command){.type = COMMAND_RESOURCE, .resource = {.kind = RESOURCE_MACHINE, .name = SLICE_LIT("shop"), .bytes = define(&scratch, "shop@0 A! B. go:A>B")}}, &arena);
    struct apply a = {.view = {.store = rig.store, .batch = rig.batch}, .machines = ms, .trial = true, .record = rig.record, .scratch = &rig.scratch};
    struct outcome o;
    uint16_t count = machines_count(ms);
    assert_int_equal(apply_command(&a, bytes, &arena, &o), STATUS_OK);
    assert_int_equal(o.resource.version, 1);
    assert_int_equal(machines_count(ms), count);
    store_batch_clear(rig.batch);
}

static void status_names_run_out(void **state)
{
    struct outcome o = {0};
    log_set_level(LOG_OFF);
    for (int i = 0; i < STATUS_IDS_MAX && !o.status; i++) {
        char text[2048];
        int len = snprintf(text, sizeof text, "m%d@0 A!", i);
        for (int k = 0; k < 63; k++) len += snprintf(text + len, sizeof text - (size_t)len, " S%d_%d. e%d:A>S%d_%d", i, k, k, i, k);
        o = machine(text);
        arena_reset(&arena);
    }
    assert_int_equal(o.status, STATUS_LIMIT_EXCEEDED);
    assert_text(failure_of(&o), "at most 1024");
    assert_int_equal(machine("small@0 A! B. go:A>B").status, STATUS_OK);
}

/* ---- machines, in the others */

static struct outcome bring(const struct machine *m)
{
    return applied(&(struct command){.type = COMMAND_MACHINE, .machine.row = machine_row_of(m, &arena)});
}

static enum status create_of(const char *reference, unsigned n)
{
    return applied(&(struct command){.type = COMMAND_CREATE, .origin = {.request_id = slice_str(arena_printf(&arena, "request-%016u", n)), .ttl_us = TTL_US},
                                     .create = {.user_id = SLICE_LIT("alice"), .machine = slice_str(reference)}}).status;
}

/* The registry knows a machine, because another partition of the process has it; this one decides as if it did not. */
static void a_partition_sees_a_machine_from_its_entry_on(void **state)
{
    char error[256];
    assert_int_equal(machines_add(ms, define(&scratch, "shop@1 A! B. go:A>B"), error), STATUS_OK);
    assert_int_equal(machines_add(ms, define(&scratch, "shop@2 A! C. go:A>C"), error), STATUS_OK);
    uint16_t known = rig.record.machines_known;
    assert_int_equal(create_of("shop", 1), STATUS_MACHINE_NOT_FOUND);
    const struct machine *one = machines_find(ms, SLICE_LIT("shop@1")), *two = machines_find(ms, SLICE_LIT("shop@2"));
    assert_int_equal(bring(two).status, STATUS_ABSENT); /* not before the one that it follows */
    assert_int_equal(rig.record.machines_known, known);
    assert_int_equal(bring(one).resource.effect, RESOURCE_CREATED);
    assert_int_equal(bring(one).resource.effect, RESOURCE_UNCHANGED);
    assert_int_equal(create_of("shop", 2), STATUS_OK);
    assert_int_equal(create_of("shop@2", 3), STATUS_MACHINE_NOT_FOUND);
    assert_int_equal(bring(two).resource.effect, RESOURCE_CREATED);
    assert_int_equal(create_of("shop@2", 4), STATUS_OK);
    assert_int_equal(rig.record.machines_known, known + 2);
}

static void a_partition_brings_its_machines_along(void **state)
{
    char error[256];
    assert_int_equal(machine("shop@0 A! B. go:A>B A~late~30~go").status, STATUS_OK);
    assert_int_equal(machine("shop@0 A! C. go:A>C").status, STATUS_OK);
    rig_flush(&rig);
    assert_int_equal(machine("lost@0 A! D. go:A>D").status, STATUS_OK);
    rig_crash(&rig);
    struct machines *fresh = machines_new();
    struct store_view view = rig_view(&rig);
    assert_int_equal(machine_rows_load(&view, fresh, rig.record.machines_known, &arena, error), STATUS_OK);
    assert_int_equal(machines_count(fresh), rig.record.machines_known);
    assert_slice(machine_reference(machines_find(fresh, SLICE_LIT("shop"))), "shop@2");
    assert_int_equal(machines_status_id(fresh, SLICE_LIT("C")), machines_status_id(ms, SLICE_LIT("C")));
    assert_null(machines_find(fresh, SLICE_LIT("lost")));
    assert_int_equal(machine_rows_load(&view, fresh, rig.record.machines_known, &arena, error), STATUS_OK); /* another partition of the process */
    assert_int_equal(machine_rows_load(&view, fresh, rig.record.machines_known + 1, &arena, error), STATUS_CHECKSUM_MISMATCH);
    unsigned n;
    const struct machine *m = machines_find(fresh, SLICE_LIT("shop@1"));
    const struct machine_timer *timers = machine_timers(m, machine_initial(m), &n);
    assert_int_equal(n, 1);
    assert_slice(timers->timer_id, "late");
    assert_slice(timers->event, "go");
    assert_int_equal(timers->after_us, 30 * US_PER_S);
    machine_timers(m, machines_status_id(fresh, SLICE_LIT("B")), &n);
    assert_int_equal(n, 0);
    machines_free(fresh);
}

/* ---- lists */

static Orderdb__V1__ListResourcesResponse *list(enum resource_kind kind, int32_t page_size, struct slice token, enum status expected)
{
    struct failure f;
    struct slice answer;
    failure_init(&f, &arena);
    struct query q = {.view = rig_view(&rig), .machines = ms, .token_key = slice_of(token_key, 32), .arena = &arena, .failure = &f};
    struct resources_request r = {.kind = kind, .page_size = page_size, .page_token = token, .machines_known = rig.record.machines_known};
    assert_int_equal(query_resources(&q, &r, &answer), expected);
    assert_int_equal(f.status, expected);
    return expected ? NULL : orderdb__v1__list_resources_response__unpack(NULL, answer.len, answer.data);
}

static const char *name_of(const Orderdb__V1__Resource *r)
{
    if (r->kind_case == ORDERDB__V1__RESOURCE__KIND_MACHINE) return arena_printf(&arena, "%s@%d", r->machine->name, r->machine->version);
    return r->limit->name;
}

static void put_limit(const char *name)
{
    Orderdb__V1__RateLimit limit = ORDERDB__V1__RATE_LIMIT__INIT;
    Orderdb__V1__Resource resource = ORDERDB__V1__RESOURCE__INIT;
    Orderdb__V1__ApplyResourceRequest m = ORDERDB__V1__APPLY_RESOURCE_REQUEST__INIT;
    struct checked_resource checked;
    struct failure f;
    struct outcome o;
    failure_init(&f, &arena);
    limit.name = (char *)name, limit.scope = (char *)"global", limit.per_second = 5, limit.burst = 10;
    resource.kind_case = ORDERDB__V1__RESOURCE__KIND_LIMIT, resource.limit = &limit;
    m.resource = &resource;
    assert_true(check_resource(&m, &arena, &checked, &f));
    assert_int_equal(rig_apply(&rig, now_us += 1000, &checked.command, 1, &arena, &o), STATUS_OK);
    assert_int_equal(o.status, STATUS_OK);
}

static void lists_are_sorted_and_paged(void **state)
{
    static const char *const expected[] = {"a@1", "ab@1", "ab@2", "retail@1", "all", "b", "bb", "c"};
    assert_int_equal(machine("ab@0 A! B. go:A>B").status, STATUS_OK);
    assert_int_equal(machine("a@0 A! B. go:A>B").status, STATUS_OK);
    assert_int_equal(machine("ab@0 A! C. go:A>C").status, STATUS_OK);
    put_limit("c"), put_limit("b"), put_limit("all"), put_limit("bb");
    for (int32_t size = 1; size < 10; size++) {
        struct slice token = {0};
        size_t n = 0;
        do {
            Orderdb__V1__ListResourcesResponse *m = list(RESOURCE_ANY, size, token, STATUS_OK);
            assert_true(m->n_resources <= (size_t)size);
            for (size_t i = 0; i < m->n_resources; i++, n++) assert_string_equal(name_of(m->resources[i]), expected[n]);
            token = arena_copy(&arena, slice_str(m->next_page_token));
            assert_true(token.len == 0 || m->n_resources == (size_t)size);
            orderdb__v1__list_resources_response__free_unpacked(m, NULL);
        } while (token.len);
        assert_int_equal(n, ARRAY_LEN(expected));
    }
    Orderdb__V1__ListResourcesResponse *m = list(RESOURCE_LIMIT, 0, (struct slice){0}, STATUS_OK);
    assert_int_equal(m->n_resources, 4);
    orderdb__v1__list_resources_response__free_unpacked(m, NULL);
    m = list(RESOURCE_MACHINE, 2, (struct slice){0}, STATUS_OK);
    assert_int_equal(m->n_resources, 2);
    struct slice token = arena_copy(&arena, slice_str(m->next_page_token));
    list(RESOURCE_ANY, 2, token, STATUS_PAGE_TOKEN_INVALID); /* of another query */
    ((uint8_t *)token.data)[20] ^= 1;
    list(RESOURCE_MACHINE, 2, token, STATUS_PAGE_TOKEN_INVALID);
    list(RESOURCE_MACHINE, 2, SLICE_LIT("x"), STATUS_PAGE_TOKEN_INVALID);
    list(RESOURCE_MACHINE, -1, (struct slice){0}, STATUS_FIELD_INVALID);
    list(RESOURCE_MACHINE, RESOURCE_PAGE_SIZE_MAX + 1, (struct slice){0}, STATUS_LIMIT_EXCEEDED);
    orderdb__v1__list_resources_response__free_unpacked(m, NULL);
}

/* ---- census */

/* Several slots, several statuses, more rows than one stretch looks at in its slots; counted from wherever a stretch ended. */
static void orders_are_counted_by_machine_and_status(void **state)
{
    assert_int_equal(machine("shop@0 A! B. go:A>B").status, STATUS_OK);
    uint16_t shop = machine_id(machines_find(ms, SLICE_LIT("shop"))), a = machines_status_id(ms, SLICE_LIT("A")), b = machines_status_id(ms, SLICE_LIT("B"));
    uint16_t pending = machines_status_id(ms, SLICE_LIT("PENDING_PAYMENT"));
    uint64_t low = SLOT_COUNT, high = 0;
    for (unsigned i = 0; i < 300; i++) {
        struct slice user = slice_str(arena_printf(&arena, "user-%u", i % 50));
        low = MIN_OF(low, (uint64_t)slot_of_user(user)), high = MAX_OF(high, (uint64_t)slot_of_user(user));
        struct outcome o = applied(&(struct command){.type = COMMAND_CREATE, .origin = {.request_id = slice_str(arena_printf(&arena, "request-%016u", i)), .ttl_us = TTL_US},
                                                     .create = {.user_id = user, .machine = i % 3 ? SLICE_LIT("shop") : SLICE_LIT("retail")}});
        assert_int_equal(o.status, STATUS_OK);
        if (i % 3 == 1) {
            struct command go = {.type = COMMAND_TRANSITION, .transition = {.order_id = o.head.order_id, .event = SLICE_LIT("go")}};
            assert_int_equal(applied(&go).status, STATUS_OK);
        }
    }
    struct census_pair pairs[] = {{.machine = 1, .status = pending}, {.machine = shop, .status = a}, {.machine = shop, .status = b}, {.machine = shop, .status = 999}};
    struct failure f;
    failure_init(&f, &arena);
    struct query q = {.view = rig_view(&rig), .machines = ms, .arena = &arena, .failure = &f};
    struct census_request r = {.pairs = pairs, .count = ARRAY_LEN(pairs), .slot = 0, .last_slot = SLOT_COUNT - 1};
    for (unsigned stretches = 0; !r.done; stretches++) {
        assert_in_range(stretches, 0, 3);
        assert_int_equal(query_census(&q, &r), STATUS_OK);
    }
    for (unsigned i = 0; i < 3; i++) assert_int_equal(pairs[i].count, 100);
    assert_int_equal(pairs[3].count, 0);
    r = (struct census_request){.pairs = pairs, .count = ARRAY_LEN(pairs), .slot = (uint16_t)(high + 1), .last_slot = SLOT_COUNT - 1}; /* behind the last */
    assert_int_equal(query_census(&q, &r), STATUS_OK);
    assert_true(r.done);
    assert_int_equal(pairs[0].count, 100);
}

/* ---- the shape of requests */

static void shapes_are_checked(void **state)
{
    static const struct { const char *name, *scope, *method; double per_second; int64_t burst; const char *field; enum status status; } rows[] = {
        {"ok", "global", "", 1, 1, NULL, STATUS_OK},
        {"ok", "user", "OrderService/CreateOrder", 0.5, 1, NULL, STATUS_OK},
        {"", "global", "", 1, 1, "resource.limit.name", STATUS_FIELD_INVALID},
        {"a b", "global", "", 1, 1, "resource.limit.name", STATUS_FIELD_INVALID},
        {"12345678901234567890123456789012345678901234567890123456789012345", "global", "", 1, 1, "resource.limit.name", STATUS_FIELD_INVALID},
        {"ok", "everybody", "", 1, 1, "resource.limit.scope", STATUS_FIELD_INVALID},
        {"ok", "merchant", "", 1, 1, NULL, STATUS_OK},
        {"ok", "principal", "OrderService/*", 0.001, 2678, NULL, STATUS_OK},
        {"ok", "principal", "OrderService/*", 0.001, 2679, "resource.limit.burst", STATUS_FIELD_INVALID}, /* more than 31 days to fill */
        {"ok", "user", "OrderService/TransitionOrder", 1, 1, "resource.limit.method", STATUS_FIELD_INVALID}, /* it names an order */
        {"ok", "global", "AdminService/*", 1, 1, "resource.limit.method", STATUS_FIELD_INVALID},
        {"ok", "global", "OrderService/", 1, 1, "resource.limit.method", STATUS_FIELD_INVALID},
        {"ok", "global", "CreateOrder", 1, 1, "resource.limit.method", STATUS_FIELD_INVALID},
        {"ok", "global", "", 0.0009, 1, "resource.limit.per_second", STATUS_FIELD_INVALID},
        {"ok", "global", "", 0, 1, "resource.limit.per_second", STATUS_FIELD_INVALID},
        {"ok", "global", "", -1, 1, "resource.limit.per_second", STATUS_FIELD_INVALID},
        {"ok", "global", "", 0.0 / 0.0, 1, "resource.limit.per_second", STATUS_FIELD_INVALID},
        {"ok", "global", "", 1, 0, "resource.limit.burst", STATUS_FIELD_INVALID},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Orderdb__V1__RateLimit limit = ORDERDB__V1__RATE_LIMIT__INIT;
        Orderdb__V1__Resource resource = ORDERDB__V1__RESOURCE__INIT;
        Orderdb__V1__ApplyResourceRequest m = ORDERDB__V1__APPLY_RESOURCE_REQUEST__INIT;
        struct checked_resource checked;
        struct failure f;
        failure_init(&f, &arena);
        limit.name = (char *)rows[i].name, limit.scope = (char *)rows[i].scope, limit.method = (char *)rows[i].method;
        limit.per_second = rows[i].per_second, limit.burst = rows[i].burst;
        resource.kind_case = ORDERDB__V1__RESOURCE__KIND_LIMIT, resource.limit = &limit;
        m.resource = &resource;
        assert_int_equal(check_resource(&m, &arena, &checked, &f), rows[i].status == STATUS_OK);
        assert_int_equal(f.status, rows[i].status);
        if (rows[i].field) assert_string_equal(f.violations->field, rows[i].field);
    }
}

static void a_machine_is_checked_and_never_removed(void **state)
{
    Orderdb__V1__Resource resource = ORDERDB__V1__RESOURCE__INIT;
    Orderdb__V1__ApplyResourceRequest m = ORDERDB__V1__APPLY_RESOURCE_REQUEST__INIT;
    struct checked_resource checked;
    struct failure f;
    define(&scratch, "shop@0 A! B. go:A>B");
    resource.kind_case = ORDERDB__V1__RESOURCE__KIND_MACHINE, resource.machine = &scratch.m;
    m.resource = &resource;
    failure_init(&f, &arena);
    assert_true(check_resource(&m, &arena, &checked, &f));
    assert_int_equal(checked.kind, RESOURCE_MACHINE);
    assert_slice(checked.name, "shop");
    m.remove = true;
    assert_false(check_resource(&m, &arena, &checked, &f));
    assert_string_equal(f.violations->field, "remove");
    m.remove = false;
    define(&scratch, "shop@0 A! B go:A>B");
    failure_init(&f, &arena);
    assert_false(check_resource(&m, &arena, &checked, &f));
    assert_string_equal(f.violations->field, "resource.machine");
    assert_text(f.violations->description, "not terminal");
    define(&scratch, "shop@0 A! B. C. go:A>B timer_fired:A>C");
    failure_init(&f, &arena);
    assert_false(check_resource(&m, &arena, &checked, &f));
    assert_int_equal(f.status, STATUS_FIELD_INVALID);
    assert_string_equal(f.violations->field, "resource.machine.edges[1].event");
    assert_text(f.violations->description, "\"timer_fired\" is reserved");
    resource.kind_case = ORDERDB__V1__RESOURCE__KIND_ROLE;
    resource.role = &(Orderdb__V1__Role)ORDERDB__V1__ROLE__INIT;
    failure_init(&f, &arena);
    assert_false(check_resource(&m, &arena, &checked, &f));
    assert_int_equal(f.status, STATUS_NOT_BUILT_YET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rows_are_golden),
#define EACH(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
        EACH(a_resource_is_created_changed_and_removed),
        EACH(there_are_1024_at_most),
        EACH(a_machine_gets_its_version_and_ids),
        EACH(a_version_never_changes),
        EACH(a_dry_run_leaves_the_registry_alone),
        EACH(status_names_run_out),
        EACH(a_partition_sees_a_machine_from_its_entry_on),
        EACH(a_partition_brings_its_machines_along),
        EACH(lists_are_sorted_and_paged),
        EACH(orders_are_counted_by_machine_and_status),
        EACH(shapes_are_checked),
        EACH(a_machine_is_checked_and_never_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
