#include "engine/apply_local.h"
#include "engine/index.h"
#include "engine/list_cache.h"
#include "engine/userlist.h"

/* A new order comes to be, by CreateOrder or by import. Both end in place(): an id from the slot record and log time, rows for head, body,
 * history, the client's own number, the user's list and counts. */

struct placement {
    struct slice user_id, client_order_no, summary, detail;
    const struct machine *machine;
    struct history_entry *entries; /* versions 1..count; their chain hashes are filled in */
    unsigned count;
    enum event_type type;
    bool untold; /* no event is made of it, and it takes no seq */
};

/* *known: the user has an order of that number; it is in x->out->head. */
static enum status find_client_no(struct applying *x, struct slice user_id, struct slice client_order_no, bool *known)
{
    struct key k;
    struct slice row;
    *known = false;
    if (!client_order_no.len) return STATUS_OK;
    key_client_no(&k, x->slot, user_id, client_order_no);
    enum status st = store_get(&x->a->view, key_slice(&k), x->a->scratch, &row);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    if (row.len != 8) return STATUS_CHECKSUM_MISMATCH;
    *known = true;
    st = apply_load_head(x, (int64_t)get_be64(row.data), &x->out->head);
    return st == STATUS_ABSENT ? STATUS_CHECKSUM_MISMATCH : st;
}

enum status apply_put_body(struct applying *x, int64_t order_id, const struct order_body *body)
{
    struct key k;
    size_t cap = order_body_bytes_max(body);
    uint8_t *row = arena_alloc(x->a->scratch, cap);
    if (!row) return STATUS_MEMORY_LIMIT;
    struct writer w = writer_of(row, cap);
    key_body(&k, order_id);
    order_body_encode(body, &w);
    check(!w.full);
    store_batch_put(x->a->view.batch, key_slice(&k), writer_slice(&w));
    return STATUS_OK;
}

static void put_client_no(struct applying *x, const struct placement *p, int64_t order_id)
{
    struct key k;
    uint8_t row[8];
    if (!p->client_order_no.len) return;
    key_client_no(&k, x->slot, p->user_id, p->client_order_no);
    put_be64(row, (uint64_t)order_id);
    store_batch_put(x->a->view.batch, key_slice(&k), slice_of(row, sizeof row));
}

/* Writes the order; x->out gets head, newest entry and seq. */
static enum status place(struct applying *x, const struct placement *p)
{
    struct slot_record slot;
    enum status st = apply_load_slot(x, &slot);
    if (st) return st;
    int64_t order_id = order_id_next(slot.last_order_id, (int64_t)(x->now_us / (uint64_t)US_PER_MS), x->slot);
    slot.last_order_id = order_id;
    if (!p->untold) apply_next_seq(x, &slot); /* one commit, one seq, however long the history that it brings */
    slot.order_count++;

    uint8_t chain[SHA256_BYTES] = {0};
    for (unsigned i = 0; i < p->count; i++) {
        history_chain(&p->entries[i], order_id, chain, x->a->machines);
        memcpy(chain, p->entries[i].chain_hash, sizeof chain);
    }
    const struct history_entry *first = &p->entries[0], *last = &p->entries[p->count - 1];
    struct order_head *head = &x->out->head;
    *head = (struct order_head){
        .order_id = order_id,
        .version = last->version,
        .seq = p->untold ? 0 : slot.last_seq,
        .create_us = first->time_us,
        .update_us = last->time_us,
        .machine = machine_id(p->machine),
        .status = last->to,
        .user_id = p->user_id,
    };
    memcpy(head->chain_hash, chain, sizeof chain);
    /* An import has no timers of its last status: they would have begun then, and many would be due at once. */
    if (p->type == EVENT_CREATED && (st = apply_timers_begin(x, head, p->machine))) return st;
    p->entries[p->count - 1].timers = head->timers;

    struct order_body body = {.origin = *first, .summary = p->summary, .detail = p->detail};
    struct list_position at = {.create_us = head->create_us, .order_id = order_id};
    if ((st = apply_put_body(x, order_id, &body))) return st;
    for (unsigned i = 1; i < p->count; i++)
        if ((st = apply_put_entry(x, order_id, &p->entries[i]))) return st;
    if ((st = apply_put_head(x, head))) return st;
    put_client_no(x, p, order_id);
    index_put(x->a->view.batch, head, p->summary, p->detail);
    apply_put_slot(x, &slot);
    x->out->entry = *last;
    x->out->seq = head->seq;
    struct slice card;
    if ((st = apply_show(x, &body))) return st;
    if ((st = apply_card(x, &card))) return st;
    if ((st = userlist_insert(&x->a->view, x->a->scratch, x->slot, p->user_id, at, head->status, card))) return st;
    list_cache_insert(x->a->lists, p->user_id, at, head->status, card);
    x->a->record.order_count++;
    return p->untold ? STATUS_OK : apply_event(x, p->type, 0, &slot);
}

/* *machine NULL: x->out has the answer, a refusal or the first one again. */
static enum status decide(struct applying *x, const struct machine **machine)
{
    const struct command_create *c = &x->command->create;
    bool settled, taken;
    *machine = NULL;
    x->slot = slot_of_user(c->user_id);
    enum status st = apply_replay(x, c->user_id, REQUEST_CREATE, &settled);
    if (st || settled) return st;
    const struct machine *found = machines_find_known(x->a->machines, x->a->record.machines_known, c->machine);
    if (!found) {
        x->out->machine_reference = c->machine;
        return apply_refuse(x, STATUS_MACHINE_NOT_FOUND);
    }
    if ((st = find_client_no(x, c->user_id, c->client_order_no, &taken))) return st;
    if (taken) {
        x->out->first_order_id = x->out->head.order_id;
        x->out->first_time_us = x->out->head.create_us;
        return apply_refuse(x, STATUS_CLIENT_ORDER_NO_TAKEN);
    }
    *machine = found;
    return STATUS_OK;
}

enum status apply_create_decide(struct applying *x)
{
    const struct machine *machine;
    return decide(x, &machine);
}

enum status apply_create(struct applying *x)
{
    const struct command_create *c = &x->command->create;
    const struct command_origin *origin = &x->command->origin;
    const struct machine *machine;
    enum status st = decide(x, &machine);
    if (st || !machine) return st;
    struct history_entry entry = {
        .version = 1,
        .time_us = (int64_t)x->now_us,
        .to = machine_initial(machine),
        .event = SLICE_LIT("create"),
        .operator_ = origin->operator_,
        .reason = origin->reason,
        .request_id = origin->request_id,
        .traceparent = origin->traceparent,
    };
    struct placement p = {c->user_id, c->client_order_no, c->summary, c->detail, machine, &entry, 1, EVENT_CREATED, false};
    if ((st = place(x, &p))) return st;
    apply_remember(x, c->user_id, REQUEST_CREATE, &x->out->head, x->out->seq);
    return STATUS_OK;
}

/* check_import has verified the history against the machine that the command names, name@version; here only what damage could break. */
static bool import_consistent(const struct command_import *c, const struct machine *machine)
{
    if (c->history[0].from != 0 || c->history[0].to != machine_initial(machine)) return false;
    for (unsigned i = 0; i < c->history_count; i++) {
        if (c->history[i].version != (int64_t)i + 1 || !machine_has_state(machine, c->history[i].to)) return false;
        if (i && c->history[i].from != c->history[i - 1].to) return false;
    }
    return true;
}

enum status apply_import(struct applying *x)
{
    const struct command_import *c = &x->command->import;
    bool known;
    x->slot = slot_of_user(c->user_id);
    enum status st = find_client_no(x, c->user_id, c->client_order_no, &known);
    if (st) return st;
    if (known) {
        x->out->already_there = true;
        return STATUS_OK;
    }
    const struct machine *machine = machines_find_known(x->a->machines, x->a->record.machines_known, c->machine);
    if (!machine) {
        x->out->machine_reference = c->machine;
        return apply_refuse(x, STATUS_MACHINE_NOT_FOUND);
    }
    if (!import_consistent(c, machine)) return STATUS_CHECKSUM_MISMATCH;
    struct history_entry *entries = arena_array(x->a->scratch, struct history_entry, c->history_count);
    if (!entries) return STATUS_MEMORY_LIMIT;
    memcpy(entries, c->history, c->history_count * sizeof *entries);
    struct placement p = {c->user_id, c->client_order_no, c->summary, c->detail, machine, entries, c->history_count, EVENT_IMPORTED, x->command->type == COMMAND_IMPORT_UNTOLD};
    return place(x, &p);
}
