#include "tests/lib/order_rows.h"

#include "engine/keys.h"
#include "engine/query.h"
#include "engine/userlist.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

static void put(struct store_batch *batch, const struct key *k, const struct writer *w) {
    check(!w->full);
    store_batch_put(batch, key_slice(k), writer_slice(w));
}

void order_rows_put(struct store_batch *batch, struct store *store, const struct machines *ms, const struct order_rows *o) {
    static const uint8_t nothing[SHA256_BYTES];
    const uint8_t *previous = nothing;
    size_t cap = o->summary.len + o->detail.len + 4096;
    uint8_t *bytes = mem_alloc(cap), user_field[128];
    check(bytes);
    struct key k;
    struct writer user = writer_of(user_field, sizeof user_field);
    pb_bytes(&user, 2, o->user_id);
    struct order_body body = {.summary = o->summary.len ? o->summary : writer_slice(&user), .detail = o->detail};
    struct history_entry e = {.to = o->status, .time_us = o->create_us, .event = SLICE_LIT("create"), .operator_ = SLICE_LIT("tester")};
    for (e.version = 1; e.version <= o->version; e.version++, e.time_us += US_PER_S) {
        struct writer w = writer_of(bytes, cap);
        history_chain(&e, o->order_id, previous, ms);
        previous = e.chain_hash;
        if (e.version == 1) {
            body.origin = e;
            order_body_encode(&body, &w);
            key_body(&k, o->order_id), put(batch, &k, &w);
        } else {
            history_encode(&e, &w);
            key_history(&k, o->order_id, e.version), put(batch, &k, &w);
        }
        e.event = SLICE_LIT("note");
        e.from = e.to;
    }
    struct order_head head = {.order_id = o->order_id, .version = o->version, .create_us = o->create_us, .update_us = o->create_us + (o->version - 1) * US_PER_S,
                              .machine = o->machine, .status = o->status, .user_id = o->user_id};
    memcpy(head.chain_hash, previous, SHA256_BYTES);
    struct writer w = writer_of(bytes, cap);
    order_head_encode(&head, &w);
    key_head(&k, o->order_id), put(batch, &k, &w);
    struct arena scratch;
    arena_init(&scratch, 4 * MIB);
    struct store_view view = {.store = store, .batch = batch};
    struct slice card = o->no_card ? (struct slice){0} : query_order_wire(&head, &body, false, ms, &scratch);
    check(userlist_insert(&view, &scratch, slot_of_user(o->user_id), o->user_id, (struct list_position){o->create_us, o->order_id}, o->status, card) == STATUS_OK);
    arena_fini(&scratch);
    mem_free(bytes);
}
