/* The model's side of the secondary indexes: keys as docs/INDEXES.md draws them, from content that protobuf-c unpacks; not as index.c makes them. */
#include "orderdb/v1/order.pb-c.h"
#include "tests/lib/model.h"

static unsigned row_is_there(const struct store_view *view, struct arena *arena, uint8_t kind, struct slice value, bool counted, const struct model_order *o)
{
    uint8_t bytes[400];
    struct slice row;
    struct writer w = writer_of(bytes, sizeof bytes);
    write_bytes(&w, (const uint8_t *)"\xff\xff" "I", 3);
    write_u8(&w, kind);
    if (counted) write_u8(&w, (uint8_t)value.len);
    write_slice(&w, value);
    write_be64(&w, (uint64_t)o->entries[0].time_us ^ 0x8000000000000000);
    write_be64(&w, (uint64_t)o->id);
    check(!w.full);
    check(store_get(view, writer_slice(&w), arena, &row) == STATUS_OK);
    check(!row.len);
    return 1;
}

unsigned model_index_check(const struct model_order *o, const struct store_view *view, const struct machines *ms, struct arena *arena)
{
    uint8_t status[2];
    put_be16(status, machines_status_id(ms, slice_str(o->entries[o->count - 1].to)));
    unsigned rows = row_is_there(view, arena, 1, slice_of(status, 2), false, o);
    Orderdb__V1__Order *summary = orderdb__v1__order__unpack(NULL, o->summary.len, o->summary.data);
    Orderdb__V1__Order *detail = orderdb__v1__order__unpack(NULL, o->detail.len, o->detail.data);
    check(summary);
    check(detail);
    if (summary->merchant_id[0]) rows += row_is_there(view, arena, 2, slice_str(summary->merchant_id), true, o);
    for (size_t i = 0; i < detail->n_items; i++) {
        bool twice = false;
        for (size_t j = 0; j < i; j++) twice |= strcmp(detail->items[i]->sku_id, detail->items[j]->sku_id) == 0;
        if (!twice) rows += row_is_there(view, arena, 3, slice_str(detail->items[i]->sku_id), true, o);
    }
    orderdb__v1__order__free_unpacked(summary, NULL);
    orderdb__v1__order__free_unpacked(detail, NULL);
    return rows;
}
