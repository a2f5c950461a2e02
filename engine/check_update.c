#include "engine/check_local.h"
#include "proto/base/hash.h"

/* An update names the fields that it replaces. What identifies an order, what it costs and where it stands are no content to be edited: they have their own
 * ways (transitions), or none. */

static const struct updatable {
    const char *path;
    unsigned number; /* of the field of Order */
} updatable[] = {{"order_type", 5}, {"address", 21}, {"payments", 22}, {"shipments", 23}, {"attributes", 40}, {"extension", 41}};

static uint64_t check_mask(struct checker *c, const Google__Protobuf__FieldMask *mask)
{
    uint64_t fields = 0;
    const struct path *at = AT(NULL, "update_mask");
    if (!mask || !mask->n_paths) return check_violation(c, STATUS_FIELD_INVALID, at, "is required: name the fields to replace"), 0;
    for (size_t i = 0; i < mask->n_paths; i++) {
        uint64_t bit = 0;
        for (size_t k = 0; k < ARRAY_LEN(updatable); k++)
            if (strcmp(mask->paths[i], updatable[k].path) == 0) bit = 1ull << updatable[k].number;
        if (!bit)
            check_violation(c, STATUS_FIELD_INVALID, AT_INDEX(at, "paths", i),
                            "cannot be updated: only order_type, address, payments, shipments, attributes and extension can, each as a whole");
        fields |= bit;
    }
    return fields;
}

/* The named fields alone. */
static Orderdb__V1__Order part_of(const Orderdb__V1__Order *o, uint64_t fields)
{
    Orderdb__V1__Order part;
    orderdb__v1__order__init(&part);
#define NAMED(number) (fields >> (number) & 1)
    if (NAMED(5)) part.order_type = o->order_type;
    if (NAMED(21)) part.address = o->address;
    if (NAMED(22)) part.n_payments = o->n_payments, part.payments = o->payments;
    if (NAMED(23)) part.n_shipments = o->n_shipments, part.shipments = o->shipments;
    if (NAMED(40)) part.n_attributes = o->n_attributes, part.attributes = o->attributes;
    if (NAMED(41)) part.extension = o->extension;
#undef NAMED
    return part;
}

void check_change(struct checker *c, const struct path *at, const Orderdb__V1__Order *order, const Google__Protobuf__FieldMask *mask, enum request_method method,
                  struct content_change *out, struct hash128 *hash)
{
    static const Orderdb__V1__Order nothing = ORDERDB__V1__ORDER__INIT;
    out->fields = check_mask(c, mask);
    Orderdb__V1__Order part = part_of(order ? order : &nothing, out->fields);
    check_order_parts(c, at, &part);
    size_t bytes = orderdb__v1__order__get_packed_size(&part);
    if (bytes > CHECK_ORDER_BYTES_MAX) check_violation(c, STATUS_LIMIT_EXCEEDED, at, "%zu bytes encoded; at most %d", bytes, CHECK_ORDER_BYTES_MAX);
    if (c->f->status) return;
    out->currency = c->currency ? slice_str(c->currency) : (struct slice){0};
    *hash = hash128(check_pack(c, &part, method, &out->summary, &out->detail));
}

static struct hash128 update_fingerprint(const struct command_update *u, struct hash128 content)
{
    uint8_t bytes[8 * 5];
    struct writer w = writer_of(bytes, sizeof bytes);
    write_be64(&w, (uint64_t)u->order_id);
    write_be64(&w, (uint64_t)u->expected_version);
    write_be64(&w, u->change.fields);
    write_be64(&w, content.low);
    write_be64(&w, content.high);
    check(!w.full);
    return hash128(writer_slice(&w));
}

bool check_update(Orderdb__V1__UpdateOrderRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_UPDATE};
    struct command_update *u = &command.update;
    const struct path *at = AT(NULL, "order");
    struct hash128 content;
    *out = (struct checked){.validate_only = m->options && m->options->validate_only};
    check_options(&c, m->options, false, &command.origin);
    command.origin.traceparent = check_traceparent(traceparent);
    if (m->expected_version < 0) check_violation(&c, STATUS_LIMIT_EXCEEDED, AT(NULL, "expected_version"), "%lld; from 1, or 0 for any", (long long)m->expected_version);
    if (!m->order) check_violation(&c, STATUS_FIELD_INVALID, at, "is required");
    else if (m->order->order_id <= 0) check_violation(&c, STATUS_FIELD_INVALID, AT(at, "order_id"), "%lld; an order_id is above zero", (long long)m->order->order_id);
    check_change(&c, at, m->order, m->update_mask, REQUEST_UPDATE, &u->change, &content);
    if (f->status) return false;
    u->order_id = out->order_id = m->order->order_id;
    u->expected_version = m->expected_version;
    command.origin.fingerprint = update_fingerprint(u, content);
    return check_done(&c, &command, out);
}
