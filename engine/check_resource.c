#include "engine/check_resource.h"

#include "engine/check_local.h"
#include "proto/ratelimit.h"

/* Field names are those of the request: resource.limit.per_second. */

static bool name_valid(const char *s)
{
    size_t n = strlen(s);
    return n >= 1 && n <= RESOURCE_NAME_BYTES_MAX && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static void check_name(struct checker *c, const struct path *at, const char *name)
{
    if (!name_valid(name)) check_violation(c, STATUS_FIELD_INVALID, AT(at, "name"), "must be 1 to %d of A-Z a-z 0-9 _ -, not \"%.80s\"", RESOURCE_NAME_BYTES_MAX, name);
}

/* ---- limit */

static void check_limit(struct checker *c, const struct path *at, const Orderdb__V1__RateLimit *l)
{
    enum limit_scope scope = LIMIT_GLOBAL;
    if (!limit_scope_of(l->scope, &scope))
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "scope"), "must be \"global\", \"principal\", \"user\" or \"merchant\", not \"%.40s\"", l->scope);
    check_text(c, AT(at, "method"), l->method, 0, CHECK_LIMIT_METHOD_BYTES_MAX);
    if (!limit_method_rows(l->method, LIMIT_GLOBAL))
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "method"), "must be empty, a service like OrderService/* or a method like OrderService/CreateOrder (not of AdminService), not \"%.80s\"",
                        l->method);
    else if (!limit_method_rows(l->method, scope))
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "method"), "%.80s names no %s in its requests: by %s CreateOrder, BatchCreateOrders and ImportOrders can be limited%s", l->method,
                        limit_scope_name(scope), limit_scope_name(scope), scope == LIMIT_USER ? ", ListOrders and GetRequestOutcome" : "");
    bool rate_ok = l->per_second >= LIMIT_PER_SECOND_MIN && l->per_second <= LIMIT_PER_SECOND_MAX; /* false for NaN */
    if (!rate_ok)
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "per_second"), "must be %g to %.0f, not %g", LIMIT_PER_SECOND_MIN, LIMIT_PER_SECOND_MAX, l->per_second);
    if (l->burst < 1 || l->burst > LIMIT_BURST_MAX)
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "burst"), "must be 1 to %lld, not %lld", LIMIT_BURST_MAX, (long long)l->burst);
    else if (rate_ok && (double)l->burst / l->per_second > LIMIT_FILL_SECONDS_MAX)
        check_violation(c, STATUS_FIELD_INVALID, AT(at, "burst"), "takes %.0f s to fill at %g a second; at most %.0f", (double)l->burst / l->per_second, l->per_second, LIMIT_FILL_SECONDS_MAX);
}

/* ---- machine */

/* Here, and not in machine_verify(): what a log or a store has of a release without this rule is taken as it is. */
static void check_events(struct checker *c, const struct path *at, const Orderdb__V1__StatusMachine *m)
{
    for (size_t i = 0; i < m->n_edges; i++)
        if (machine_event_reserved(m->edges[i]->event))
            check_violation(c, STATUS_FIELD_INVALID, AT(AT_INDEX(at, "edges", i), "event"), "\"%s\" is reserved: in histories " MACHINE_EVENTS_RESERVED " are events of the server", m->edges[i]->event);
}

static void check_machine(struct checker *c, const struct path *at, const Orderdb__V1__StatusMachine *m, struct slice definition)
{
    char error[256];
    if (definition.len > MACHINE_BYTES_MAX) {
        check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu bytes; at most %d", definition.len, MACHINE_BYTES_MAX);
        return;
    }
    check_events(c, at, m);
    enum status st = c->f->status ? STATUS_OK : machine_verify(definition, error);
    if (st == STATUS_MEMORY_LIMIT) failure_set(c->f, st, "the machine is too large for the memory of a call");
    else if (st) check_violation(c, st, at, "%s", error);
}

/* ---- both */

static struct slice pack(struct checker *c, const ProtobufCMessage *m)
{
    uint8_t *bytes = arena_alloc(c->arena, protobuf_c_message_get_packed_size(m) + 1);
    if (!bytes) return failure_set(c->f, STATUS_MEMORY_LIMIT, "the resource is too large for the memory of a call"), (struct slice){0};
    return slice_of(bytes, protobuf_c_message_pack(m, bytes));
}

/* What the command carries: of a machine the definition, of others the Resource. */
static struct slice check_kind(struct checker *c, Orderdb__V1__Resource *r, bool remove, struct checked_resource *out)
{
    const struct path *at = AT(NULL, "resource");
    r->base.n_unknown_fields = 0;
    out->kind = (enum resource_kind)r->kind_case;
    switch (r->kind_case) {
    case ORDERDB__V1__RESOURCE__KIND_MACHINE:
        check_drop_unknown(&r->machine->base);
        out->name = slice_str(r->machine->name);
        if (remove) {
            check_violation(c, STATUS_FIELD_INVALID, AT(NULL, "remove"), "status machines are not removed: orders are pinned to their versions; apply a new version instead");
            return (struct slice){0};
        }
        struct slice definition = pack(c, &r->machine->base);
        if (definition.data) check_machine(c, AT(at, "machine"), r->machine, definition);
        return definition;
    case ORDERDB__V1__RESOURCE__KIND_LIMIT:
        check_drop_unknown(&r->limit->base);
        out->name = slice_str(r->limit->name);
        check_name(c, AT(at, "limit"), r->limit->name);
        if (remove) return (struct slice){0};
        check_limit(c, AT(at, "limit"), r->limit);
        return pack(c, &r->base);
    case ORDERDB__V1__RESOURCE__KIND__NOT_SET:
        check_violation(c, STATUS_FIELD_INVALID, at, "must hold a machine or a limit");
        return (struct slice){0};
    default: {
        char field[32] = "resource.";
        strcat(field, resource_kind_name(out->kind));
        check_not_built(c, arena_printf(c->arena, "%s", field));
        return (struct slice){0};
    }
    }
}

bool check_resource(Orderdb__V1__ApplyResourceRequest *m, struct arena *arena, struct checked_resource *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    *out = (struct checked_resource){.remove = m->remove, .dry_run = m->dry_run};
    if (!m->resource) return check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "resource"), "is required"), false;
    struct command command = {.type = COMMAND_RESOURCE, .resource.remove = m->remove};
    command.resource.bytes = check_kind(&c, m->resource, m->remove, out);
    if (f->status) return false;
    command.resource.kind = (uint8_t)out->kind;
    command.resource.name = out->name;
    struct checked checked;
    if (!check_done(&c, &command, &checked)) return false;
    out->command = checked.command;
    return true;
}

bool check_resource_kind(const char *name, enum resource_kind *kind, struct failure *f)
{
    *kind = resource_kind_of(slice_str(name));
    if (*kind == RESOURCE_KINDS) return failure_violation(f, STATUS_FIELD_INVALID, "kind", "must be empty, \"machine\" or \"limit\", not \"%.40s\"", name), false;
    if (*kind != RESOURCE_ANY && *kind != RESOURCE_MACHINE && *kind != RESOURCE_LIMIT)
        return failure_set(f, STATUS_NOT_BUILT_YET, "resources of kind %s are not built yet", name), failure_meta(f, "field", "kind"), false;
    return true;
}
