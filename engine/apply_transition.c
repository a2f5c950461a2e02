#include "engine/apply_local.h"
#include "engine/index.h"
#include "engine/list_cache.h"
#include "engine/required.h"
#include "engine/userlist.h"

/* An order moves along an edge of its machine. The order of the checks is part of the contract (docs/API.md): of many racing callers that sent the same,
 * the first one in the log wins, and every other learns who did. */

/* The command, resolved against the order's machine. */
struct move {
    const struct machine *machine;
    const struct command_transition *wanted;
    uint16_t to_status;              /* 0: an event is named */
    const struct machine_edge *edge; /* from the current status; NULL: none, or no single one */
    bool ambiguous;
};

/* false: the machine has no such event or target at all. */
static bool move_resolve(struct applying *x, const struct order_head *head, struct move *m)
{
    const struct machines *ms = x->a->machines;
    m->wanted = &x->command->transition;
    m->machine = machines_by_id(ms, head->machine);
    if (m->wanted->event.len) {
        m->edge = machine_edge_by_event(m->machine, head->status, m->wanted->event);
        return machine_has_event(m->machine, m->wanted->event);
    }
    unsigned count = 0;
    m->to_status = machines_status_id_known(ms, x->a->record.machines_known, m->wanted->to_status);
    if (!m->to_status || !machine_has_target(m->machine, m->to_status)) return false;
    m->edge = machine_edge_by_target(m->machine, head->status, m->to_status, &count);
    m->ambiguous = count > 1;
    if (m->ambiguous) m->edge = NULL; /* the caller has to name one of the events */
    return true;
}

/* The status is what the caller wanted to reach: somebody did the work already. */
static bool move_done_already(const struct move *m, uint16_t status)
{
    return m->to_status ? status == m->to_status : machine_event_leads_to(m->machine, m->wanted->event, status);
}

/* Resolves expected_statuses; *unknown: the index of a name that no machine has, or -1. *among: the current status is expected. */
static void match_expected(const struct applying *x, const struct order_head *head, int *unknown, bool *among)
{
    const struct command_transition *t = &x->command->transition;
    *unknown = -1;
    *among = t->expected_status_count == 0;
    for (unsigned i = 0; i < t->expected_status_count; i++) {
        uint16_t id = machines_status_id_known(x->a->machines, x->a->record.machines_known, t->expected_statuses[i]);
        if (!id && *unknown < 0) *unknown = (int)i;
        if (id == head->status) *among = true;
    }
}

static enum status refuse_mismatch(struct applying *x, const struct move *m)
{
    struct history_entry newest;
    struct outcome *out = x->out;
    enum status st = apply_load_entry(x, out->head.order_id, out->head.version, &newest);
    if (st) return st;
    out->already_there = move_done_already(m, out->head.status);
    out->ambiguous = m->ambiguous;
    out->winner_request_id = newest.request_id;
    out->winner_time_us = newest.time_us;
    return apply_refuse(x, STATUS_STATUS_MISMATCH);
}

/* Decides. x->out->status says why not; else m->edge is the one to take. */
static enum status decide(struct applying *x, struct move *m)
{
    struct outcome *out = x->out;
    const struct command_transition *t = &x->command->transition;
    int unknown;
    bool among, defined = move_resolve(x, &out->head, m);
    match_expected(x, &out->head, &unknown, &among);
    if (!defined) {
        out->machine_reference = machine_reference(m->machine);
        out->by_target = !t->event.len;
        out->event = out->by_target ? t->to_status : t->event;
        return apply_refuse(x, STATUS_EDGE_NOT_DEFINED);
    }
    if (unknown >= 0) { /* a typo must not read as "somebody else was faster" */
        out->expected_index = (unsigned)unknown;
        out->expected_name = t->expected_statuses[unknown];
        return apply_refuse(x, STATUS_FIELD_INVALID);
    }
    if (t->expected_version && t->expected_version != out->head.version) return apply_refuse(x, STATUS_VERSION_MISMATCH);
    if (!among || !m->edge) return refuse_mismatch(x, m);
    return STATUS_OK;
}

/* The edge may ask for more than a status. */
static enum status decide_required(struct applying *x, const struct move *m, const struct order_body *content)
{
    struct outcome *out = x->out;
    struct slice *missing = arena_array(x->a->scratch, struct slice, REQUIRED_FIELDS_MAX);
    if (!missing) return STATUS_MEMORY_LIMIT;
    for (unsigned i = 0; i < m->edge->required_count; i++) {
        bool met;
        enum status st = required_met(&m->edge->required[i], content, &met);
        if (st) return st;
        if (!met) missing[out->missing_count++] = m->edge->required[i].name;
    }
    if (!out->missing_count) return STATUS_OK;
    out->machine_reference = machine_reference(m->machine);
    out->event = m->edge->event;
    out->missing = missing;
    return apply_refuse(x, STATUS_FIELD_REQUIRED);
}

/* What the transition does to the content, and what the edge asks of it; x->out->status says why not. Most transitions do and ask nothing.
 * *known: content->after is what the order holds then. */
static enum status move_content(struct applying *x, const struct move *m, struct content *content, bool *known)
{
    const struct content_change *patch = &m->wanted->patch;
    if (!patch->fields && !m->edge->required_count) return STATUS_OK;
    *known = true;
    x->out->patch = patch->fields != 0;
    enum status st = apply_content_decide(x, patch, content);
    if (!st && !x->out->status && m->edge->required_count) st = decide_required(x, m, &content->after);
    if (st || x->out->status || !patch->fields) return st;
    return apply_content_put(x, content);
}

enum status apply_commit(struct applying *x, const struct commit *c)
{
    uint16_t from = x->out->head.status;
    struct order_head *head = &x->out->head;
    struct history_entry *entry = &x->out->entry;
    const struct command_origin *origin = &x->command->origin;
    struct slot_record slot;
    uint64_t changed = c->changed;
    enum status st = apply_load_slot(x, &slot);
    if (!st) st = apply_timers_commit(x, c, &changed);
    if (st) return st;
    apply_next_seq(x, &slot);
    *entry = (struct history_entry){
        .version = head->version + 1,
        .time_us = MAX_OF((int64_t)x->now_us, head->update_us), /* an imported past may lie ahead of our clock: history does not go back */
        .from = from,
        .to = c->to,
        .event = c->event,
        .operator_ = origin->operator_,
        .reason = origin->reason,
        .request_id = origin->request_id,
        .traceparent = origin->traceparent,
        .timers = head->timers,
    };
    history_chain(entry, head->order_id, head->chain_hash, x->a->machines);
    head->version = entry->version;
    head->seq = slot.last_seq;
    head->status = entry->to;
    head->update_us = entry->time_us;
    memcpy(head->chain_hash, entry->chain_hash, SHA256_BYTES);
    if ((st = apply_put_entry(x, head->order_id, entry))) return st;
    if ((st = apply_put_head(x, head))) return st;
    apply_put_slot(x, &slot);
    apply_remember(x, head->user_id, c->method, head, slot.last_seq);
    x->out->seq = slot.last_seq;
    struct list_position at = {.create_us = head->create_us, .order_id = head->order_id};
    struct slice card;
    if ((st = apply_show(x, c->content))) return st;
    if ((st = apply_event(x, c->type, changed, &slot))) return st;
    if ((st = apply_card(x, &card))) return st;
    if (from != c->to) index_move(x->a->view.batch, at, from, c->to);
    if ((st = userlist_move(&x->a->view, x->a->scratch, x->slot, head->user_id, at, from, c->to, card))) return st;
    list_cache_move(x->a->lists, head->user_id, at, from, c->to, card);
    return STATUS_OK;
}

enum status apply_transition(struct applying *x)
{
    int64_t order_id = x->command->transition.order_id;
    struct move move = {0};
    bool settled;
    x->out->order_id = order_id;
    if (!order_id_plausible(order_id)) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    x->slot = order_id_slot(order_id);
    enum status st = apply_load_head(x, order_id, &x->out->head);
    if (st == STATUS_ABSENT) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    if (st) return st;
    struct order_head current = x->out->head;
    if ((st = apply_replay(x, current.user_id, REQUEST_TRANSITION, &settled)) || settled) return st;
    if ((st = apply_ack_decide(x)) || x->out->status) return st;
    if ((st = decide(x, &move)) || x->out->status) return st;
    struct content content;
    bool content_known = false;
    if ((st = move_content(x, &move, &content, &content_known)) || x->out->status) return st;
    struct commit c = {
        .event = move.edge->event,
        .to = move.edge->to,
        .moves = true,
        .method = REQUEST_TRANSITION,
        .type = EVENT_TRANSITIONED,
        .changed = 1ull << 7 /* status */ | move.wanted->patch.fields,
        .content = content_known ? &content.after : NULL,
    };
    st = apply_commit(x, &c);
    return st ? st : apply_ack_settle(x);
}
