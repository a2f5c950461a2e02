/* ApplyResource and ListResources. What is sent is checked here; which version a machine gets, and whether a resource may come or go, is decided by the log of the
 * meta partition (engine/apply_resource.c).
 *
 *   limit     [dry run: OP_VALIDATE]  or  write  -> answer
 *   machine   OP_VALIDATE -> a next version: count the orders that it would leave behind, partition by partition -> dry run: answer;  else write -> to each partition: what does it know? the machines that it lacks -> answer
 *
 * So the answer of a machine means that every partition creates orders of it. One that is cut off before that has been applied all the same, and
 * resources.c brings it to the partitions; applied again it is "unchanged", and waits for them too. */
#include "engine/check_resource.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/node.h"
#include "server/resources.h"
#include "server/serve_common.h"

enum { EFFECTS_MAX = 100 };

/* One ApplyResource under way; in the arena that its ops' results go to. */
struct applying_resource {
    struct call_op op;
    struct checked_resource checked;
    struct resource_outcome outcome; /* the meta partition's */
    struct slice answer;             /* Resource */
    uint32_t partition;              /* that is being looked after */
    const char *effects[EFFECTS_MAX];
    unsigned effect_count;
    const Orderdb__V1__StatusMachine *machine; /* as it was sent */
    struct census_request census;
};

static void effect_add(struct call *call, struct applying_resource *a, const char *text) {
    if (text && a->effect_count < EFFECTS_MAX) a->effects[a->effect_count++] = text;
}

/* ---- the answer */

static void apply_reply(struct call *call, struct applying_resource *a) {
    size_t cap = pb_bytes_max(a->answer);
    for (unsigned i = 0; i < a->effect_count; i++) cap += pb_bytes_max(slice_str(a->effects[i]));
    uint8_t *bytes = arena_alloc(call_arena(call), cap);
    if (!bytes) {
        serve_fail_memory(call);
        return;
    }
    struct writer w = writer_of(bytes, cap);
    if (a->answer.len) pb_message(&w, 1, &a->answer, 1);
    for (unsigned i = 0; i < a->effect_count; i++) pb_bytes(&w, 2, slice_str(a->effects[i]));
    check(!w.full);
    serve_reply(call, writer_slice(&w));
}

/* What comes, or would come, of it, in words. */
static void describe(struct call *call, struct applying_resource *a) {
    static const char *const did[][2] = {
        [RESOURCE_NONE] = {"nothing", "nothing"}, [RESOURCE_CREATED] = {"created", "would be created"}, [RESOURCE_REPLACED] = {"changed", "would be changed"},
        [RESOURCE_UNCHANGED] = {"unchanged", "is there already, unchanged"}, [RESOURCE_REMOVED] = {"removed", "would be removed"},
    };
    const struct resource_outcome *o = &a->outcome;
    const char *verb = did[o->effect][a->checked.dry_run];
    if (o->kind != RESOURCE_MACHINE) {
        effect_add(call, a, arena_printf(call_arena(call), "%s %.*s %s", resource_kind_name((enum resource_kind)o->kind), (int)o->name.len, (const char *)o->name.data, verb));
        return;
    }
    if (o->effect == RESOURCE_REPLACED) verb = did[RESOURCE_CREATED][a->checked.dry_run]; /* the version before it stays */
    effect_add(call, a, arena_printf(call_arena(call), "machine %.*s@%d %s", (int)o->name.len, (const char *)o->name.data, o->version, verb));
}

/* ---- orders that a next version would leave behind */

static const Orderdb__V1__StatusMachine__State *state_of(const Orderdb__V1__StatusMachine *m, struct slice name) {
    for (size_t i = 0; i < m->n_states; i++)
        if (slice_equal(slice_str(m->states[i]->name), name)) return m->states[i];
    return NULL;
}

/* Statuses of older versions, from which orders go on, and which the new one lacks or ends: only those are counted; mostly there are none, and nothing is
 * scanned. false: no memory. */
static bool strandable(struct call *call, struct applying_resource *a) {
    const struct machines *ms = call_core(call)->node->machines;
    uint16_t count = machines_count(ms);
    size_t cap = 0;
    for (uint16_t id = 1; id <= count; id++)
        if (slice_equal(machine_name(machines_by_id(ms, id)), a->outcome.name)) cap += MACHINE_STATES_MAX;
    a->census.pairs = arena_array(call_arena(call), struct census_pair, cap + 1);
    if (!a->census.pairs) return false;
    for (uint16_t id = 1; id <= count; id++) {
        const struct machine *m = machines_by_id(ms, id);
        unsigned n;
        const uint16_t *statuses = machine_statuses(m, &n);
        size_t first = a->census.count;
        if (!slice_equal(machine_name(m), a->outcome.name)) continue;
        for (unsigned i = 0; i < n && a->census.count < cap; i++) {
            const Orderdb__V1__StatusMachine__State *s = state_of(a->machine, machines_status_name(ms, statuses[i]));
            if (machine_terminal(m, statuses[i]) || (s && !s->terminal)) continue;
            size_t at = a->census.count++;
            for (; at > first && a->census.pairs[at - 1].status > statuses[i]; at--) a->census.pairs[at] = a->census.pairs[at - 1];
            a->census.pairs[at] = (struct census_pair){.machine = id, .status = statuses[i]};
        }
    }
    return true;
}

static void describe_stranded(struct call *call, struct applying_resource *a) {
    const struct machines *ms = call_core(call)->node->machines;
    int64_t more = 0;
    for (unsigned i = 0; i < a->census.count; i++) {
        const struct census_pair *p = &a->census.pairs[i];
        struct slice reference = machine_reference(machines_by_id(ms, p->machine)), status = machines_status_name(ms, p->status);
        if (!p->count) continue;
        if (a->effect_count + 1 >= EFFECTS_MAX) {
            more += p->count;
            continue;
        }
        effect_add(call, a, arena_printf(call_arena(call), "%lld order%s of %.*s in %.*s keep%s that version: version %d %s", (long long)p->count, p->count == 1 ? "" : "s", (int)reference.len,
                                         (const char *)reference.data, (int)status.len, (const char *)status.data, p->count == 1 ? "s" : "", a->outcome.version,
                                         state_of(a->machine, status) ? "ends there" : "has no such status"));
    }
    if (more) effect_add(call, a, arena_printf(call_arena(call), "%lld orders more in other statuses", (long long)more));
}

static void go_on(struct call *call, struct applying_resource *a);

static void census_next(struct call *call, struct applying_resource *a, void (*next)(struct call *call, struct call_op *op)) {
    a->op.op = (struct op){.kind = OP_CENSUS, .any_replica = true, .slot = a->census.last_slot, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call), .census = &a->census};
    call_submit(call, &a->op, next);
}

static void census_partition(struct call *call, struct applying_resource *a) {
    const struct node *node = call_core(call)->node;
    a->census.slot = partition_first_slot(a->partition, node->partition_count);
    a->census.last_slot = partition_last_slot(a->partition, node->partition_count);
    a->census.from_order_id = 0;
    a->census.done = false;
}

static void counted(struct call *call, struct call_op *op) {
    struct applying_resource *a = container_of(op, struct applying_resource, op);
    if (op->op.failure.status) {
        serve_fail_with(call, &op->op.failure);
        return;
    }
    if (a->census.done && ++a->partition == call_core(call)->node->partition_count) {
        a->partition = 0;
        go_on(call, a);
        return;
    }
    if (a->census.done) census_partition(call, a);
    census_next(call, a, counted);
}

/* ---- a machine, to the partitions */

static void bring_next(struct call *call, struct applying_resource *a);

static void brought(struct call *call, struct call_op *op) {
    struct applying_resource *a = container_of(op, struct applying_resource, op);
    if (op->op.failure.status) {
        serve_fail_with(call, &op->op.failure);
        return;
    }
    bring_next(call, a);
}

static void known(struct call *call, struct call_op *op) {
    struct applying_resource *a = container_of(op, struct applying_resource, op);
    const struct node *node = call_core(call)->node;
    uint16_t count = op->op.stats.machines_known;
    if (op->op.failure.status) {
        brought(call, op);
        return;
    }
    if (count >= a->outcome.machine) {
        a->partition++;
        bring_next(call, a);
        return;
    }
    struct command c = {.type = COMMAND_MACHINE, .machine.row = machine_row_of(machines_by_id(node->machines, (uint16_t)(count + 1)), call_arena(call))};
    uint16_t slot = op->op.slot;
    op->op = (struct op){.kind = OP_WRITE, .slot = slot, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    op->op.command = c.machine.row.data ? command_encode(&c, call_arena(call)) : (struct slice){0};
    if (!op->op.command.data) serve_fail_memory(call);
    else call_submit(call, op, brought);
}

static void bring_next(struct call *call, struct applying_resource *a) {
    const struct node *node = call_core(call)->node;
    if (a->partition == node->partition_count) {
        apply_reply(call, a);
        return;
    }
    a->op.op = (struct op){
        .kind = OP_STATS, .slot = partition_first_slot(a->partition, node->partition_count), .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    call_submit(call, &a->op, known);
}

/* ---- the decision */

static void call_ended(struct call *call) { resources_changed(call_core(call)); }

static bool decided(struct call *call, struct applying_resource *a) {
    if (a->op.op.failure.status) {
        serve_fail_with(call, &a->op.op.failure);
        return false;
    }
    a->outcome = a->op.op.outcome.resource;
    a->answer = a->op.op.answer;
    return true;
}

static void written(struct call *call, struct call_op *op) {
    struct applying_resource *a = container_of(op, struct applying_resource, op);
    if (!decided(call, a)) return;
    describe(call, a);
    describe_stranded(call, a);
    if (a->checked.kind == RESOURCE_MACHINE) bring_next(call, a);
    else apply_reply(call, a);
}

static void decide(struct call *call, struct applying_resource *a, enum op_kind kind, void (*next)(struct call *call, struct call_op *op)) {
    a->op.op = (struct op){.kind = kind, .slot = SLOT_META, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call), .command = a->checked.command};
    call_submit(call, &a->op, next);
}

/* Tried, and counted what there was to count. */
static void go_on(struct call *call, struct applying_resource *a) {
    if (a->checked.dry_run) {
        describe(call, a);
        describe_stranded(call, a);
        apply_reply(call, a);
        return;
    }
    call_on_end(call, call_ended);
    decide(call, a, OP_WRITE, written);
}

static void tried(struct call *call, struct call_op *op) {
    struct applying_resource *a = container_of(op, struct applying_resource, op);
    if (!decided(call, a)) return;
    if (a->checked.kind == RESOURCE_MACHINE && a->outcome.effect == RESOURCE_REPLACED && !strandable(call, a)) {
        serve_fail_memory(call);
        return;
    }
    if (!a->census.count) {
        go_on(call, a);
        return;
    }
    census_partition(call, a);
    census_next(call, a, counted);
}

/* As this core knows them: several that are applied in the same moment may pass; the server then says in its log which it leaves out. */
static bool limit_has_room(struct call *call, const Orderdb__V1__ApplyResourceRequest *m) {
    enum limit_scope scope;
    if (m->remove || m->resource->kind_case != ORDERDB__V1__RESOURCE__KIND_LIMIT || !limit_scope_of(m->resource->limit->scope, &scope)) return true;
    if (limits_have_room(call_core(call)->limits, m->resource->limit->name, scope)) return true;
    failure_violation(call_failure(call), STATUS_LIMIT_EXCEEDED, "resource.limit", "a node keeps to %d rate limits at most, %d of them by principal, user or merchant", LIMITS_MAX, LIMITS_KEYED_MAX);
    return false;
}

void serve_apply_resource(struct call *call) {
    Orderdb__V1__ApplyResourceRequest *m = (void *)serve_decode(call, &orderdb__v1__apply_resource_request__descriptor);
    if (!m) return;
    struct applying_resource *a = arena_new(call_arena(call), struct applying_resource);
    if (!a) {
        serve_fail_memory(call);
        return;
    }
    if (!check_resource(m, call_arena(call), &a->checked, call_failure(call))) {
        call_fail(call);
        return;
    }
    if (!limit_has_room(call, m)) {
        call_fail(call);
        return;
    }
    a->machine = a->checked.kind == RESOURCE_MACHINE ? m->resource->machine : NULL;
    decide(call, a, OP_VALIDATE, tried);
}

/* ---- lists */

static void listed(struct call *call, struct call_op *op) {
    if (op->op.failure.status) serve_fail_with(call, &op->op.failure);
    else call_reply(call, &op->op.answer, 1);
}

void serve_list_resources(struct call *call) {
    enum resource_kind kind;
    Orderdb__V1__ListResourcesRequest *m = (void *)serve_decode(call, &orderdb__v1__list_resources_request__descriptor);
    if (!m) return;
    if (!check_resource_kind(m->kind, &kind, call_failure(call))) {
        call_fail(call);
        return;
    }
    struct call_op *o = arena_new(call_arena(call), struct call_op);
    if (!o) {
        serve_fail_memory(call);
        return;
    }
    o->op = (struct op){.kind = OP_RESOURCES, .slot = SLOT_META, .arena = call_arena(call), .deadline_ns = call_deadline_ns(call)};
    o->op.resources = (struct resources_request){.kind = kind, .page_size = m->page_size, .page_token = slice_str(m->page_token)};
    call_submit(call, o, listed);
}
