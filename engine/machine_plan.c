#include <stdio.h>

#include "engine/machine.h"
#include "orderdb/v1/admin.pb-c.h"

/* Which version, which ids: a function of the registry up to `known` and of the definition alone, so that every replica of the meta partition comes to the same.
 * A definition is compared without its version, in canonical form: that is how machines are stored, and what a built-in one is brought into here. */

static void *plan_alloc(void *ctx, size_t bytes) { return arena_alloc(ctx, bytes); }
static void plan_free(void *ctx, void *p) { (void)ctx, (void)p; }

static Orderdb__V1__StatusMachine *plan_parse(struct slice definition, struct arena *arena)
{
    ProtobufCAllocator allocator = {plan_alloc, plan_free, arena};
    return orderdb__v1__status_machine__unpack(&allocator, definition.len, definition.data);
}

static struct slice plan_pack(Orderdb__V1__StatusMachine *d, int32_t version, struct arena *arena)
{
    d->version = version;
    uint8_t *bytes = arena_alloc(arena, orderdb__v1__status_machine__get_packed_size(d) + 1);
    return bytes ? slice_of(bytes, orderdb__v1__status_machine__pack(d, bytes)) : (struct slice){0};
}

/* STATUS_MEMORY_LIMIT: could not be compared. */
static enum status plan_compare(const struct machine *m, Orderdb__V1__StatusMachine *d, struct arena *arena, bool *same)
{
    Orderdb__V1__StatusMachine *newest = plan_parse(machine_definition(m), arena);
    struct slice a = newest ? plan_pack(newest, 0, arena) : (struct slice){0}, b = plan_pack(d, 0, arena);
    if (!a.data || !b.data) return STATUS_MEMORY_LIMIT;
    *same = slice_equal(a, b);
    return STATUS_OK;
}

static enum status plan_ids(const struct machines *ms, uint16_t known, const Orderdb__V1__StatusMachine *d, struct machine_plan *out, char error[256])
{
    const struct machine *last = machines_by_id(ms, known);
    unsigned fresh = last ? machine_statuses_known(last) : 0;
    if (known >= MACHINES_MAX) return snprintf(error, 256, "there are %d versions of status machines; no more", MACHINES_MAX), STATUS_LIMIT_EXCEEDED;
    out->machine = (uint16_t)(known + 1);
    out->status_count = (unsigned)d->n_states;
    for (unsigned i = 0; i < out->status_count; i++) {
        uint16_t id = machines_status_id_known(ms, known, slice_str(d->states[i]->name));
        out->statuses[i] = id ? id : (uint16_t)++fresh;
    }
    if (fresh > STATUS_IDS_MAX) return snprintf(error, 256, "with this machine there would be %u status names; at most %d", fresh, STATUS_IDS_MAX), STATUS_LIMIT_EXCEEDED;
    return STATUS_OK;
}

enum status machines_plan(const struct machines *ms, uint16_t known, struct slice definition, struct arena *arena, struct machine_plan *out, char error[256])
{
    *out = (struct machine_plan){0};
    enum status st = machine_verify(definition, error);
    if (st) return st;
    Orderdb__V1__StatusMachine *d = plan_parse(definition, arena);
    if (!d) return STATUS_MEMORY_LIMIT;
    int32_t wanted = d->version;
    const struct machine *newest = machines_find_known(ms, known, slice_str(d->name));
    bool same = false;
    if (newest && (st = plan_compare(newest, d, arena, &same))) return st;
    out->newest = newest ? machine_version(newest) : 0;
    if (same && (wanted == 0 || wanted == out->newest)) {
        out->unchanged = true;
        out->version = out->newest;
        out->machine = machine_id(newest);
        out->definition = machine_definition(newest);
        return STATUS_OK;
    }
    out->version = wanted ? wanted : out->newest + 1;
    if (out->version != out->newest + 1) return STATUS_MACHINE_VERSION_CONFLICT;
    if ((st = plan_ids(ms, known, d, out, error))) return st;
    out->definition = plan_pack(d, out->version, arena);
    return out->definition.data ? STATUS_OK : STATUS_MEMORY_LIMIT;
}
