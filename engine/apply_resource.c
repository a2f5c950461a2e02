#include "engine/apply_local.h"
#include "engine/resource.h"
#include "proto/base/log.h"

#include "proto/pbwire.h"

/* What operators set. In the meta partition: a resource is put, replaced or removed, and a status machine gets its version and its ids. In every other: such a
 * machine, with the ids that it was given, becomes known (docs/MACHINES.md).
 *
 * The registry is the process's, and grows here as soon as the decision is made: an entry that is applied is committed, and would come to the same again. What is in
 * it beyond record.machines_known is seen by no decision. */

static struct slice into(struct arena *arena, size_t cap, struct writer *w)
{
    uint8_t *bytes = arena_alloc(arena, cap);
    *w = writer_of(bytes, bytes ? cap : 0);
    return slice_of(bytes, cap);
}

/* ---- rows of the meta partition */

/* RESOURCES_MAX at most, and only looked at when one more comes. */
static enum status count_rows(struct applying *x, unsigned *count)
{
    struct key lower, upper;
    *count = 0;
    key_resource(&lower, RESOURCE_ANY, (struct slice){0});
    key_resource(&upper, RESOURCE_KINDS, (struct slice){0});
    struct store_iter *it = store_iter_open(&x->a->view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) ++*count;
    enum status st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

static enum status remove_row(struct applying *x, const struct key *k, bool there, const struct resource_row *row)
{
    struct resource_outcome *o = &x->out->resource;
    if (!there) return apply_refuse(x, STATUS_RESOURCE_NOT_FOUND);
    store_batch_delete(x->a->view.batch, key_slice(k));
    o->effect = RESOURCE_REMOVED;
    o->bytes = row->bytes;
    o->revision = row->revision;
    return STATUS_OK;
}

static enum status put_row(struct applying *x)
{
    const struct command_resource *c = &x->command->resource;
    struct resource_outcome *o = &x->out->resource;
    struct key k;
    struct slice bytes;
    struct resource_row row = {0};
    key_resource(&k, c->kind, c->name);
    enum status st = store_get(&x->a->view, key_slice(&k), x->a->scratch, &bytes);
    bool there = st == STATUS_OK;
    if (st && st != STATUS_ABSENT) return st;
    if (there && (st = resource_row_decode(bytes, &row))) return st;
    if (c->remove) return remove_row(x, &k, there, &row);
    o->effect = there ? RESOURCE_REPLACED : RESOURCE_CREATED;
    if (there && slice_equal(row.bytes, c->bytes)) o->effect = RESOURCE_UNCHANGED;
    unsigned count = 0;
    if (!there && (st = count_rows(x, &count))) return st;
    if (count >= RESOURCES_MAX) return apply_refuse(x, STATUS_LIMIT_EXCEEDED);
    row = (struct resource_row){.revision = row.revision + (o->effect != RESOURCE_UNCHANGED), .bytes = c->bytes};
    o->bytes = row.bytes;
    o->revision = row.revision;
    if (o->effect == RESOURCE_UNCHANGED) return STATUS_OK;
    struct writer w;
    if (!into(x->a->scratch, RESOURCE_ROW_HEAD_BYTES + row.bytes.len, &w).data) return STATUS_MEMORY_LIMIT;
    resource_row_encode(&row, &w);
    check(!w.full);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    return STATUS_OK;
}

/* ---- machines */

/* The row is the next one. A registry that refuses what the meta partition has taken is of another version of this program: stop, rather than decide differently. */
static enum status learn(struct applying *x, const struct machine_row *m, struct slice row)
{
    char error[256];
    struct key k;
    if (!x->a->trial) {
        enum status st = machines_add_as(x->a->machines, m->machine, m->statuses, m->status_count, m->definition, error);
        if (st) log_error("a status machine can't be taken into the registry", "id=%u err=%s", m->machine, error);
        if (st) return st == STATUS_MEMORY_LIMIT ? st : STATUS_FORMAT_UNKNOWN;
    }
    key_machine(&k, m->machine);
    store_batch_put(x->a->view.batch, key_slice(&k), row);
    x->a->record.machines_known = m->machine;
    return STATUS_OK;
}

static enum status put_machine(struct applying *x)
{
    struct resource_outcome *o = &x->out->resource;
    struct machine_plan plan;
    char error[256];
    enum status st = machines_plan(x->a->machines, x->a->record.machines_known, x->command->resource.bytes, x->a->scratch, &plan, error);
    if (st == STATUS_MEMORY_LIMIT) return st;
    o->machine = plan.machine;
    o->version = plan.version;
    o->newest = plan.newest;
    if (st) {
        o->error = arena_copy(x->a->scratch, slice_str(error));
        return apply_refuse(x, st);
    }
    o->effect = plan.unchanged ? RESOURCE_UNCHANGED : plan.newest ? RESOURCE_REPLACED : RESOURCE_CREATED;
    struct writer w;
    if (!into(x->a->scratch, pb_bytes_max(plan.definition), &w).data) return STATUS_MEMORY_LIMIT;
    pb_message(&w, RESOURCE_MACHINE, &plan.definition, 1);
    o->bytes = writer_slice(&w);
    if (plan.unchanged) return STATUS_OK;
    struct machine_row row = {.machine = plan.machine, .status_count = plan.status_count, .definition = plan.definition};
    memcpy(row.statuses, plan.statuses, sizeof row.statuses);
    if (!into(x->a->scratch, MACHINE_ROW_HEAD_BYTES_MAX + plan.definition.len, &w).data) return STATUS_MEMORY_LIMIT;
    machine_row_encode(&row, &w);
    check(!w.full);
    return learn(x, &row, writer_slice(&w));
}

enum status apply_resource(struct applying *x)
{
    const struct command_resource *c = &x->command->resource;
    x->out->resource.kind = c->kind;
    x->out->resource.name = c->name;
    if (c->kind == RESOURCE_ANY || c->kind >= RESOURCE_KINDS || c->name.len < 1 || c->name.len > RESOURCE_NAME_BYTES_MAX) return STATUS_CHECKSUM_MISMATCH;
    return c->kind == RESOURCE_MACHINE ? put_machine(x) : put_row(x);
}

/* Brought again: nothing to do. One that does not follow is refused and changes nothing: who brings them begins at what is known. */
enum status apply_machine(struct applying *x)
{
    struct machine_row row;
    uint16_t known = x->a->record.machines_known;
    enum status st = machine_row_decode(x->command->machine.row, &row);
    if (st) return st;
    x->out->resource.kind = RESOURCE_MACHINE;
    x->out->resource.machine = row.machine;
    if (row.machine > known + 1) return apply_refuse(x, STATUS_ABSENT);
    x->out->resource.effect = row.machine <= known ? RESOURCE_UNCHANGED : RESOURCE_CREATED;
    return row.machine <= known ? STATUS_OK : learn(x, &row, x->command->machine.row);
}
