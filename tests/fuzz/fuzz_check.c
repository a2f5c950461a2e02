/* From wire bytes to a command, as a server takes requests: scan, unpack, check. Whatever comes in, a refusal is a failure whose texts are valid
 * UTF-8 (they travel in protobuf strings), and what is let through is a command that decodes. The first byte chooses the method. */
#include "engine/check.h"
#include "proto/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_failure(const struct failure *f)
{
    check(f->status != STATUS_OK);
    if (f->message) check(utf8_valid(slice_str(f->message)));
    for (const struct failure_violation *v = f->violations; v; v = v->next) {
        check(v->field[0]);
        check(utf8_valid(slice_str(v->field)));
        check(utf8_valid(slice_str(v->description)));
    }
    for (const struct failure_meta *m = f->metas; m; m = m->next) check(utf8_valid(m->value));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machines *ms;
    static const ProtobufCMessageDescriptor *const types[] = {
        &orderdb__v1__create_order_request__descriptor, &orderdb__v1__transition_order_request__descriptor, &orderdb__v1__import_orders_request__descriptor,
        &orderdb__v1__get_request_outcome_request__descriptor,   &orderdb__v1__batch_create_orders_request__descriptor,
        &orderdb__v1__update_order_request__descriptor,
    };
    if (!ms) ms = machines_new();
    if (!ms || !size) return 0;
    unsigned method = data[0] % 6;
    struct arena arena;
    struct failure f;
    struct checked out;
    struct command c;
    arena_init(&arena, 32 << 20);
    failure_init(&f, &arena);
    ProtobufCMessage *m = scan_unpack(types[method], slice_of(data + 1, size - 1), &scan_limits_default, &f);
    bool ok = false;
    if (m && method == 0) ok = check_create((Orderdb__V1__CreateOrderRequest *)m, (struct slice){0}, &arena, &out, &f);
    if (m && method == 1) ok = check_transition((Orderdb__V1__TransitionOrderRequest *)m, (struct slice){0}, &arena, &out, &f);
    if (m && method == 2) ok = check_import((Orderdb__V1__ImportOrdersRequest *)m, ms, &arena, &out, &f);
    if (m && method == 5) ok = check_update((Orderdb__V1__UpdateOrderRequest *)m, (struct slice){0}, &arena, &out, &f);
    if (m && method == 3) ok = check_outcome((Orderdb__V1__GetRequestOutcomeRequest *)m, &arena, &out, &f);
    Orderdb__V1__BatchCreateOrdersRequest *batch = method == 4 ? (Orderdb__V1__BatchCreateOrdersRequest *)m : NULL;
    if (batch && !batch->n_requests) goto end;
    if (batch) ok = check_batch(batch, (struct slice){0}, &arena, &out, &f);
    if (ok) {
        check(f.status == STATUS_OK);
        check(command_decode(out.command, &arena, &c) == STATUS_OK);
    } else {
        check_failure(&f);
    }
end:
    arena_fini(&arena);
    return 0;
}
