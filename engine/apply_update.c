#include "engine/apply_local.h"
#include "engine/check.h"
#include "proto/pbwire.h"

/* An order's content changes, by an update or together with a transition: some fields of its summary and detail are replaced, as wire bytes, without unpacking the rest. The content before is kept
 * under the new version ('U'), so what an earlier version looked like can be told for ever: answers to retries, GetOrder as of a time. */

/* The next field of r that is not among `skip`, with its bytes as they stand; false: the end, or r->bad. */
static bool field_next(struct reader *r, uint64_t skip, uint32_t *number, struct slice *raw)
{
    struct pb_field f;
    do {
        const uint8_t *begin = r->at;
        if (!pb_next(r, &f)) return false;
        *number = f.number;
        *raw = slice_of(begin, (size_t)(r->at - begin));
    } while (f.number < 64 && skip >> f.number & 1);
    return true;
}

/* `now` without `fields`, and `new`, by field number: the canonical bytes of the new content. */
static enum status merge(struct applying *x, struct slice now, uint64_t fields, struct slice new, struct slice *out)
{
    struct reader a = reader_of(now), b = reader_of(new);
    uint32_t an = 0, bn = 0;
    struct slice as = {0}, bs = {0};
    size_t cap = now.len + new.len;
    uint8_t *data = arena_alloc(x->a->scratch, cap);
    if (!data) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(data, cap);
    bool more_a = field_next(&a, fields, &an, &as), more_b = field_next(&b, 0, &bn, &bs);
    while (more_a || more_b) {
        if (more_a && (!more_b || an < bn)) write_slice(&w, as), more_a = field_next(&a, fields, &an, &as);
        else write_slice(&w, bs), more_b = field_next(&b, 0, &bn, &bs);
    }
    check(!w.full);
    *out = writer_slice(&w);
    return a.bad || b.bad ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

/* Money.currency_code of payable, which every order has. */
static struct slice currency_of(struct slice summary)
{
    struct reader r = reader_of(summary);
    struct slice code = {0};
    for (struct pb_field f; pb_next(&r, &f);) {
        struct reader money = reader_of(f.bytes);
        if (f.number != 13 || f.wire_type != PB_LEN) continue;
        for (struct pb_field m; pb_next(&money, &m);)
            if (m.number == 1 && m.wire_type == PB_LEN) code = m.bytes;
    }
    return code;
}

static enum status put_before(struct applying *x, int64_t order_id, int64_t version, const struct order_body *before)
{
    struct key k;
    size_t cap = 32 + before->summary.len + before->detail.len;
    uint8_t *row = arena_alloc(x->a->scratch, cap);
    if (!row) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(row, cap);
    key_content(&k, order_id, version);
    order_content_encode(before, &w);
    check(!w.full);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    return STATUS_OK;
}

enum status apply_content_decide(struct applying *x, const struct content_change *change, struct content *out)
{
    struct key k;
    struct slice row;
    key_body(&k, x->out->head.order_id);
    enum status st = store_get(&x->a->view, key_slice(&k), x->a->scratch, &row);
    if (st == STATUS_ABSENT) st = STATUS_CHECKSUM_MISMATCH;
    if (!st) st = order_body_decode(row, &out->before);
    if (st) return st;
    out->after = out->before;
    if (!change->fields) return STATUS_OK;
    if (change->currency.len && !slice_equal(change->currency, currency_of(out->before.summary))) return apply_refuse(x, STATUS_INVARIANT_VIOLATED);
    st = merge(x, out->before.summary, change->fields, change->summary, &out->after.summary);
    if (!st) st = merge(x, out->before.detail, change->fields, change->detail, &out->after.detail);
    if (st) return st;
    x->out->bytes = out->after.summary.len + out->after.detail.len;
    return x->out->bytes > CHECK_ORDER_BYTES_MAX ? apply_refuse(x, STATUS_LIMIT_EXCEEDED) : STATUS_OK;
}

enum status apply_content_put(struct applying *x, const struct content *c)
{
    const struct order_head *head = &x->out->head;
    enum status st = put_before(x, head->order_id, head->version + 1, &c->before);
    return st ? st : apply_put_body(x, head->order_id, &c->after);
}

enum status apply_update(struct applying *x)
{
    const struct command_update *u = &x->command->update;
    struct content content;
    bool settled;
    x->out->order_id = u->order_id;
    if (!order_id_plausible(u->order_id)) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    x->slot = order_id_slot(u->order_id);
    enum status st = apply_load_head(x, u->order_id, &x->out->head);
    if (st == STATUS_ABSENT) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    if (st) return st;
    struct order_head current = x->out->head;
    if ((st = apply_replay(x, current.user_id, REQUEST_UPDATE, &settled)) || settled) return st;
    if (u->expected_version && u->expected_version != current.version) return apply_refuse(x, STATUS_VERSION_MISMATCH);
    if ((st = apply_content_decide(x, &u->change, &content)) || x->out->status) return st;
    if ((st = apply_content_put(x, &content))) return st;
    struct commit c = {
        .event = SLICE_LIT("update"),
        .to = x->out->head.status,
        .method = REQUEST_UPDATE,
        .type = EVENT_UPDATED,
        .changed = u->change.fields,
        .content = &content.after,
    };
    return apply_commit(x, &c);
}
