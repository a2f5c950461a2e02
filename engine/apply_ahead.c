#include "engine/apply.h"
#include "engine/keys.h"

/*     command   n        n + 1 .. n + 3     n + 4           n + 5 ..      n + 8
 *               applied  rows on their way  rows asked for  places known  places asked for
 */

static uint64_t *rows_of(struct apply_ahead *h, uint64_t command) { return h->rows[command % (2 * APPLY_AHEAD)]; }

static void ask_transition(const struct apply *a, int64_t order_id, uint64_t rows[2])
{
    struct key k;
    uint16_t slot = order_id_slot(order_id);
    const struct slot_cache *c = a->slots;
    if (c && slot >= c->first && slot - c->first < (int)c->count) __builtin_prefetch(&c->at[slot - c->first]);
    key_head(&k, order_id);
    rows[0] = store_fetch(a->view.store, key_slice(&k));
    key_body(&k, order_id);
    rows[1] = store_fetch(a->view.store, key_slice(&k));
}

static void ask_create(const struct apply *a, struct slice user_id, struct slice request_id, uint64_t rows[2])
{
    struct key k;
    uint16_t slot = slot_of_user(user_id);
    key_counts(&k, slot, user_id, 0, 0, 0);
    rows[0] = store_fetch(a->view.store, key_slice(&k));
    key_dedup(&k, slot, user_id, request_id, REQUEST_CREATE);
    rows[1] = store_fetch(a->view.store, key_slice(&k));
}

/* Of the next command of h->entry; what is not as it should be apply will say. */
static void ask(struct apply_ahead *h, uint64_t rows[2])
{
    struct slice command;
    enum status st;
    rows[0] = rows[1] = 0;
    if (!entry_next(&h->entry, &command, &st)) return;
    struct reader r = reader_of(command);
    uint8_t type = read_u8(&r);
    if (type != COMMAND_TRANSITION && type != COMMAND_CREATE) return;
    struct slice request_id = read_counted(&r);
    read_bytes(&r, 16); /* fingerprint */
    read_varint(&r);    /* ttl */
    for (unsigned i = 0; i < 3; i++) read_counted(&r); /* operator, reason, traceparent */
    if (type == COMMAND_TRANSITION) {
        int64_t order_id = (int64_t)read_be64(&r);
        if (!r.bad && order_id_plausible(order_id)) ask_transition(h->apply, order_id, rows);
    } else {
        struct slice user_id = read_counted(&r);
        if (!r.bad && user_id.len && user_id.len <= UINT8_MAX && request_id.len <= UINT8_MAX) ask_create(h->apply, user_id, request_id, rows);
    }
}

static void ask_rows(struct apply_ahead *h, const uint64_t rows[2])
{
    for (unsigned i = 0; i < 2; i++) store_fetch_row(h->apply->view.store, rows[i]);
}

void apply_ahead_begin(struct apply_ahead *h, const struct apply *a, const struct entry_reader *entry)
{
    h->apply = a;
    h->entry = *entry;
    h->at = 0;
    for (unsigned i = 0; i < 2 * APPLY_AHEAD; i++) ask(h, rows_of(h, i));
    for (unsigned i = 0; i < APPLY_AHEAD; i++) ask_rows(h, rows_of(h, i));
}

void apply_ahead_step(struct apply_ahead *h)
{
    ask_rows(h, rows_of(h, h->at + APPLY_AHEAD));
    ask(h, rows_of(h, h->at)); /* of at + 2 * APPLY_AHEAD, which takes its place */
    h->at++;
}
