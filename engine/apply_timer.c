#include <stdio.h>

#include "engine/apply_local.h"
#include "engine/required.h"

/* Timers in the log: what every commit does to them, SetOrderTimer and CancelOrderTimer, and the one place where a timer fires (docs/TIMERS.md).
 *
 * A timer fires in a command that the leader proposes when its time has come. The command says which timers; whether they fire is decided here, on the order
 * as it is: the timer must still be in its head, with that time, and log time must have reached it. So a timer fires at most once, never early in log time, and
 * not after the commit that took it away, whoever proposes what, and however often. It leaves the order by the commit that it makes:
 *   - its event leads out of the current status, nothing that is expected or required is missing: the transition, as if a caller had made it;
 *   - it has no event, or the transition is not possible: a commit that keeps the status and tells of the timer, and why. It is never lost without a word. */

/* ---- what a commit does to timers */

static void row_put(struct applying *x, int64_t order_id, const struct order_timer *t)
{
    struct key k;
    key_timer(&k, t->fire_us, order_id, t->no);
    store_batch_put(x->a->view.batch, key_slice(&k), (struct slice){0});
    x->a->timers_soonest_us = MIN_OF(x->a->timers_soonest_us, t->fire_us);
}

static void row_delete(struct applying *x, int64_t order_id, const struct order_timer *t)
{
    struct key k;
    key_timer(&k, t->fire_us, order_id, t->no);
    store_batch_delete(x->a->view.batch, key_slice(&k));
}

/* The order's timers become these: their rows, and head->timers. */
static enum status change(struct applying *x, struct order_head *head, struct order_timers *before, struct order_timers *after)
{
    struct apply *a = x->a;
    if (!before->count && !after->count) return STATUS_OK;
    size_t cap = timers_bytes_max(after);
    uint8_t *bytes = arena_alloc(a->scratch, cap);
    if (!bytes) return STATUS_MEMORY_LIMIT;
    for (unsigned i = 0; i < before->count; i++)
        if (!timers_find_due(after, before->at[i].fire_us, before->at[i].no)) row_delete(x, head->order_id, &before->at[i]);
    for (unsigned i = 0; i < after->count; i++)
        if (!timers_find_due(before, after->at[i].fire_us, after->at[i].no)) row_put(x, head->order_id, &after->at[i]);
    a->timers_changed = true;
    a->timers.pending += (int64_t)after->count - (int64_t)before->count;
    struct writer w = writer_of(bytes, cap);
    timers_encode(after, &w);
    check(!w.full);
    head->timers = writer_slice(&w);
    return STATUS_OK;
}

enum status apply_timers_begin(struct applying *x, struct order_head *head, const struct machine *m)
{
    struct order_timers none = {0}, after = {0};
    timers_move(&after, m, 0, head->status, x->now_us);
    return change(x, head, &none, &after);
}

enum status apply_timers_commit(struct applying *x, const struct commit *c, uint64_t *changed)
{
    struct order_head *head = &x->out->head;
    const struct machine *m = machines_by_id(x->a->machines, head->machine);
    struct order_timers before, after;
    unsigned begins = 0;
    if (c->moves) machine_timers(m, c->to, &begins);
    if (!c->timers && (!c->moves || (!begins && !head->timers.len))) return STATUS_OK;
    enum status st = timers_decode(head->timers, &before);
    if (st) return st;
    after = c->timers ? *c->timers : before;
    if (c->moves) timers_move(&after, m, head->status, c->to, x->now_us);
    struct slice was = head->timers;
    st = change(x, head, &before, &after);
    if (!slice_equal(was, head->timers)) *changed |= 1ull << 24;
    return st;
}

void apply_timers_end(struct apply *a)
{
    struct key k;
    uint8_t row[TIMERS_RECORD_BYTES];
    struct writer w = writer_of(row, sizeof row);
    if (!a->timers_changed) return;
    key_timers(&k);
    timers_record_encode(&a->timers, &w);
    check(!w.full);
    store_batch_put(a->view.batch, key_slice(&k), writer_slice(&w));
}

/* ---- set and cancel */

/* *settled: x->out says all. Else the order is in x->out->head, its timers in `ts`. */
static enum status order_begin(struct applying *x, int64_t order_id, enum request_method method, struct order_timers *ts, bool *settled)
{
    struct outcome *out = x->out;
    *settled = true;
    out->order_id = order_id;
    if (!order_id_plausible(order_id)) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    x->slot = order_id_slot(order_id);
    enum status st = apply_load_head(x, order_id, &out->head);
    if (st == STATUS_ABSENT) return apply_refuse(x, STATUS_ORDER_NOT_FOUND);
    if (st) return st;
    struct order_head current = out->head;
    if ((st = apply_replay(x, current.user_id, method, settled)) || *settled) return st;
    return timers_decode(out->head.timers, ts);
}

/* The order has the timer that a command is about, but must not have such a one. */
static enum status refuse_timer(struct applying *x, enum status why, enum timer_refusal timer)
{
    x->out->timer = timer;
    return apply_refuse(x, why);
}

/* A status that the order's machine does not have could never come: a typo must not make a timer that does nothing. */
static enum status resolve_statuses(struct applying *x, const struct machine *m, struct order_timer *t)
{
    const struct command_set_timer *wanted = &x->command->set_timer;
    struct outcome *out = x->out;
    for (unsigned i = 0; i < wanted->expected_status_count; i++) {
        uint16_t id = machines_status_id(x->a->machines, wanted->expected_statuses[i]);
        if (!id || !machine_has_state(m, id)) {
            out->expected_index = i;
            out->expected_name = wanted->expected_statuses[i];
            out->machine_reference = machine_reference(m);
            return refuse_timer(x, STATUS_FIELD_INVALID, TIMER_STATUS_UNKNOWN);
        }
        t->statuses[t->status_count++] = id;
    }
    return STATUS_OK;
}

static enum status refuse_terminal(struct applying *x)
{
    struct history_entry newest;
    struct outcome *out = x->out;
    enum status st = apply_load_entry(x, out->head.order_id, out->head.version, &newest);
    if (st) return st;
    out->winner_request_id = newest.request_id;
    out->winner_time_us = newest.time_us;
    return refuse_timer(x, STATUS_STATUS_MISMATCH, TIMER_TERMINAL);
}

static bool status_has_timer(const struct machine *m, uint16_t status, struct slice timer_id)
{
    unsigned count;
    const struct machine_timer *t = machine_timers(m, status, &count);
    for (unsigned i = 0; i < count; i++)
        if (slice_equal(t[i].timer_id, timer_id)) return true;
    return false;
}

static enum status set_decide(struct applying *x, struct order_timers *ts)
{
    const struct command_set_timer *wanted = &x->command->set_timer;
    const struct machine *m = machines_by_id(x->a->machines, x->out->head.machine);
    struct order_timer t = {.timer_id = wanted->timer_id, .event = wanted->event, .fire_us = MAX_OF(wanted->fire_us, (int64_t)x->now_us)};
    if (wanted->event.len && !machine_has_event(m, wanted->event)) {
        x->out->machine_reference = machine_reference(m);
        x->out->event = wanted->event;
        return apply_refuse(x, STATUS_EDGE_NOT_DEFINED);
    }
    enum status st = resolve_statuses(x, m, &t);
    if (st || x->out->status) return st;
    if (wanted->fire_us - (int64_t)x->now_us > TIMER_AHEAD_US_MAX) return refuse_timer(x, STATUS_LIMIT_EXCEEDED, TIMER_TOO_FAR);
    if (!timers_find(ts, t.timer_id) && ts->count >= TIMERS_SET_MAX) return refuse_timer(x, STATUS_LIMIT_EXCEEDED, TIMER_TOO_MANY);
    if (t.event.len && machine_terminal(m, x->out->head.status)) return refuse_terminal(x);
    t.of_state = status_has_timer(m, x->out->head.status, t.timer_id);
    timers_set(ts, &t);
    return STATUS_OK;
}

static enum status commit_timers(struct applying *x, struct slice event, enum request_method method, const struct order_timers *ts)
{
    struct commit c = {.event = event, .to = x->out->head.status, .method = method, .type = EVENT_UPDATED, .changed = 1ull << 24, .timers = ts};
    return apply_commit(x, &c);
}

enum status apply_set_timer(struct applying *x)
{
    struct order_timers ts;
    bool settled;
    enum status st = order_begin(x, x->command->set_timer.order_id, REQUEST_SET_TIMER, &ts, &settled);
    if (st || settled) return st;
    if ((st = set_decide(x, &ts)) || x->out->status) return st;
    return commit_timers(x, SLICE_LIT("set_timer"), REQUEST_SET_TIMER, &ts);
}

enum status apply_cancel_timer(struct applying *x)
{
    struct order_timers ts;
    bool settled;
    enum status st = order_begin(x, x->command->cancel_timer.order_id, REQUEST_CANCEL_TIMER, &ts, &settled);
    if (st || settled) return st;
    struct order_timer *t = timers_find(&ts, x->command->cancel_timer.timer_id);
    if (!t) {
        x->out->timer_id = x->command->cancel_timer.timer_id;
        return apply_refuse(x, STATUS_TIMER_NOT_FOUND);
    }
    timers_remove(&ts, t);
    return commit_timers(x, SLICE_LIT("cancel_timer"), REQUEST_CANCEL_TIMER, &ts);
}

/* ---- fire */

#define TEXT(s) (int)(s).len, (const char *)(s).data

/* The edge that the timer takes. NULL: none, and `why` has the reason, or it has no event. */
static enum status fire_edge(struct applying *x, const struct order_timer *t, const struct machine_edge **edge, struct content *content, char why[256])
{
    const struct content_change nothing = {0};
    const struct order_head *head = &x->out->head;
    const struct machine *m = machines_by_id(x->a->machines, head->machine);
    struct slice status = machines_status_name(x->a->machines, head->status);
    bool expected = t->status_count == 0;
    *edge = NULL;
    if (!t->event.len) return STATUS_OK;
    for (unsigned i = 0; i < t->status_count; i++) expected |= t->statuses[i] == head->status;
    if (!expected) return snprintf(why, 256, "the order is %.*s, which was not expected", TEXT(status)), STATUS_OK;
    const struct machine_edge *e = machine_edge_by_event(m, head->status, t->event);
    if (!e) return snprintf(why, 256, "%.*s does not lead out of %.*s", TEXT(t->event), TEXT(status)), STATUS_OK;
    if (e->required_count) {
        enum status st = apply_content_decide(x, &nothing, content);
        for (unsigned i = 0; i < e->required_count && !st; i++) {
            bool met;
            st = required_met(&e->required[i], &content->after, &met);
            if (!st && !met) return snprintf(why, 256, "%.*s requires %.*s, which the order has not", TEXT(t->event), TEXT(e->required[i].name)), STATUS_OK;
        }
        if (st) return st;
    }
    *edge = e;
    return STATUS_OK;
}

/* One timer, if it is due. */
static enum status fire(struct applying *x, int64_t order_id, int64_t fire_us, uint8_t no)
{
    struct order_timers ts;
    struct content content;
    const struct machine_edge *edge;
    char why[256] = "";
    if ((int64_t)x->now_us < fire_us || !order_id_plausible(order_id)) return STATUS_OK;
    x->slot = order_id_slot(order_id);
    enum status st = apply_load_head(x, order_id, &x->out->head);
    if (!st) st = timers_decode(x->out->head.timers, &ts);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    struct order_timer *due = timers_find_due(&ts, fire_us, no);
    if (!due) return STATUS_OK; /* cancelled, replaced, left behind or fired since */
    struct order_timer t = *due;
    timers_remove(&ts, due);
    if ((st = fire_edge(x, &t, &edge, &content, why))) return st;
    char *reason = arena_printf(x->a->scratch, why[0] ? "%.*s: %s" : "%.*s", TEXT(t.timer_id), why);
    if (!reason) return STATUS_MEMORY_LIMIT;
    const struct command by = {.type = COMMAND_FIRE, .origin = {.operator_ = SLICE_LIT("timer"), .reason = slice_str(reason)}};
    struct commit c = {
        .event = edge ? edge->event : SLICE_LIT("timer_fired"),
        .to = edge ? edge->to : x->out->head.status,
        .moves = edge != NULL,
        .type = edge ? EVENT_TRANSITIONED : EVENT_TIMER_FIRED,
        .changed = edge ? 1ull << 7 : 0,
        .timers = &ts,
        .content = edge && edge->required_count ? &content.after : NULL,
    };
    struct applying item = *x;
    item.command = &by;
    x->out->fired++;
    return apply_commit(&item, &c);
}

enum status apply_fire(struct applying *x)
{
    const struct command_fire *f = &x->command->fire;
    struct reader r = reader_of(f->packed);
    struct outcome all = {0};
    for (unsigned i = 0; i < f->count; i++) {
        struct outcome out = {0};
        struct applying item = {.a = x->a, .command = x->command, .now_us = x->now_us, .out = &out};
        int64_t fire_us = (int64_t)read_be64(&r), order_id = (int64_t)read_be64(&r);
        arena_reset(x->a->scratch);
        enum status st = fire(&item, order_id, fire_us, read_u8(&r));
        if (st) return st;
        if (out.fired) x->slot = item.slot, all.seq = out.seq, all.fired++;
    }
    struct timers_record *record = &x->a->timers;
    uint64_t floor_us = MIN_OF(f->floor_us, x->now_us); /* what is set from now on is not due before now */
    if (floor_us > record->floor_us) record->floor_us = floor_us, x->a->timers_changed = true;
    *x->out = all;
    return STATUS_OK;
}
