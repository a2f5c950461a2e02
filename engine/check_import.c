#include "engine/check_local.h"

/* An order that comes with its past. Its history is walked along the machine's edges: what is let in here could have happened here. */

/* Where the walk stands. */
struct walk {
    const struct machines *ms;
    const struct machine *machine;
    uint16_t status; /* 0: before the first entry */
    int64_t time_us;
};

static bool event_begins(const char *event) { return strcmp(event, "create") == 0 || strcmp(event, "import") == 0; }
/* Commits that leave the status as it is (the contract's fine print). */
static bool event_keeps_status(const char *event) { return machine_event_reserved(event) && !event_begins(event); }

static bool status_is(const struct walk *w, const char *name, uint16_t status) { return slice_equal(slice_str(name), machines_status_name(w->ms, status)); }
static const char *name_of(const struct walk *w, uint16_t status) { return (const char *)machines_status_name(w->ms, status).data; } /* kept with a NUL */

static bool check_first(struct checker *c, struct walk *w, const struct path *at, const Orderdb__V1__HistoryEntry *h)
{
    uint16_t initial = machine_initial(w->machine);
    bool named = event_begins(h->event);
    if (!named) check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "event"), "a history begins with \"create\" or \"import\"");
    if (h->from_status[0]) check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "from_status"), "the first entry comes from nowhere: leave it out");
    bool at_initial = status_is(w, h->to_status, initial);
    if (!at_initial) check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "to_status"), "a history begins in %s", name_of(w, initial));
    w->status = initial;
    return named && at_initial;
}

static bool check_step(struct checker *c, struct walk *w, const struct path *at, const Orderdb__V1__HistoryEntry *h)
{
    const struct machine_edge *edge = machine_edge_by_event(w->machine, w->status, slice_str(h->event));
    uint16_t to = edge ? edge->to : w->status;
    if (!edge && !event_keeps_status(h->event)) {
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "event"), "is not an event that leaves %s", name_of(w, w->status));
        return false;
    }
    if (h->from_status[0] && !status_is(w, h->from_status, w->status)) {
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "from_status"), "the entry before leads to %s", name_of(w, w->status));
        return false;
    }
    if (!status_is(w, h->to_status, to)) {
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "to_status"), "\"%s\" leads from %s to %s", h->event, name_of(w, w->status), name_of(w, to));
        return false;
    }
    w->status = to;
    return true;
}

static void check_entry_texts(struct checker *c, const struct path *at, const Orderdb__V1__HistoryEntry *h)
{
    check_text(c, AT(at, "event"), h->event, 1, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "operator"), h->operator_, 0, CHECK_NAME_BYTES_MAX);
    check_text(c, AT(at, "reason"), h->reason, 0, CHECK_TEXT_BYTES_MAX);
    check_text(c, AT(at, "request_id"), h->request_id, 0, CHECK_REQUEST_ID_BYTES_MAX);
    check_text(c, AT(at, "traceparent"), h->traceparent, 0, CHECK_NAME_BYTES_MAX);
    check_assigned(c, AT(at, "chain_hash"), h->chain_hash.len != 0);
}

/* false: what follows makes no sense any more. */
static bool check_entry(struct checker *c, struct walk *w, size_t i, const Orderdb__V1__HistoryEntry *h, struct history_entry *out)
{
    const struct path *at = AT_INDEX(NULL, "history", i);
    int64_t time_us;
    check_entry_texts(c, at, h);
    if (h->version && h->version != (int64_t)i + 1)
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "version"), "%lld; versions have no gaps, this is %zu", (long long)h->version, i + 1);
    if (!h->time) return check_violation(c, STATUS_FIELD_INVALID, AT(at, "time"), "is required"), false;
    if (!check_time(c, AT(at, "time"), h->time, &time_us)) return false;
    if (i && time_us < w->time_us) check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "time"), "before the entry before it");
    uint16_t from = w->status;
    if (i ? !check_step(c, w, at, h) : !check_first(c, w, at, h)) return false;
    w->time_us = time_us;
    *out = (struct history_entry){
        .version = (int64_t)i + 1,
        .time_us = time_us,
        .from = from,
        .to = w->status,
        .event = slice_str(h->event),
        .operator_ = slice_str(h->operator_),
        .reason = slice_str(h->reason),
        .request_id = slice_str(h->request_id),
        .traceparent = slice_str(h->traceparent),
    };
    return true;
}

/* Without a history the order is taken in its initial status, as of create_time. */
static bool invent_history(struct checker *c, struct walk *w, const Orderdb__V1__Order *o, struct history_entry *out)
{
    int64_t time_us;
    const struct path *at = AT(AT(NULL, "order"), "create_time");
    if (!o->create_time) return check_violation(c, STATUS_FIELD_INVALID, at, "is required where there is no history"), false;
    if (!check_time(c, at, o->create_time, &time_us)) return false;
    w->status = machine_initial(w->machine);
    w->time_us = time_us;
    *out = (struct history_entry){.version = 1, .time_us = time_us, .to = w->status, .event = SLICE_LIT("import")};
    return true;
}

/* What the order says of itself must be what its history says. */
static void check_end(struct checker *c, const struct walk *w, const Orderdb__V1__Order *o, const struct history_entry *entries, unsigned count)
{
    const struct path *at = AT(NULL, "order");
    int64_t us;
    if (o->status[0] && !status_is(w, o->status, w->status))
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "status"), "the history ends in %s", name_of(w, w->status));
    if (o->version && o->version != (int64_t)count)
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "version"), "%lld; the history ends with version %u", (long long)o->version, count);
    if (o->create_time && check_time(c, AT(at, "create_time"), o->create_time, &us) && us != entries[0].time_us)
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "create_time"), "is not the time of the first history entry");
    if (o->update_time && check_time(c, AT(at, "update_time"), o->update_time, &us) && us != entries[count - 1].time_us)
        check_violation(c, STATUS_INVARIANT_VIOLATED, AT(at, "update_time"), "is not the time of the last history entry");
}

static bool check_history(struct checker *c, struct walk *w, const Orderdb__V1__ImportOrdersRequest *m, struct command_import *out)
{
    if (m->n_history > CHECK_HISTORY_MAX) return check_count(c, AT(NULL, "history"), m->n_history, CHECK_HISTORY_MAX), false;
    size_t count = m->n_history ? m->n_history : 1;
    struct history_entry *entries = arena_array(c->arena, struct history_entry, count);
    if (!entries) return failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call"), false;
    if (!m->n_history && !invent_history(c, w, m->order, &entries[0])) return false;
    for (size_t i = 0; i < m->n_history; i++)
        if (!check_entry(c, w, i, m->history[i], &entries[i])) return false;
    check_end(c, w, m->order, entries, (unsigned)count);
    out->history = entries;
    out->history_count = (unsigned)count;
    return true;
}

bool check_import(Orderdb__V1__ImportOrdersRequest *m, const struct machines *ms, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = m->no_event ? COMMAND_IMPORT_UNTOLD : COMMAND_IMPORT};
    struct command_import *import = &command.import;
    Orderdb__V1__Order *order = m->order;
    const struct path *at = AT(NULL, "order");
    *out = (struct checked){0};
    if (!order) return check_violation(&c, STATUS_FIELD_INVALID, at, "is required"), false;
    struct walk walk = {.ms = ms, .machine = machines_find(ms, slice_str(order->machine))};
    check_assigned(&c, AT(at, "order_id"), order->order_id != 0);
    check_assigned(&c, AT(at, "timers"), order->n_timers != 0);
    check_assigned(&c, AT(at, "history"), order->n_history != 0);
    check_assigned(&c, AT(at, "archived"), order->archived);
    check_order(&c, at, order);
    /* One command, one log entry: what comes with the order counts as the order does. */
    size_t bytes = orderdb__v1__import_orders_request__get_packed_size(m);
    if (m->n_history && bytes > CHECK_ORDER_BYTES_MAX)
        check_violation(&c, STATUS_LIMIT_EXCEEDED, AT(NULL, "history"), "%zu bytes with its order; at most %d", bytes, CHECK_ORDER_BYTES_MAX);
    if (!order->client_order_no[0]) check_violation(&c, STATUS_FIELD_INVALID, AT(at, "client_order_no"), "is required: a second import finds the order by it");
    if (!walk.machine) {
        if (f->status) return false;
        failure_set(f, STATUS_MACHINE_NOT_FOUND, "there is no status machine \"%s\"", order->machine);
        failure_meta(f, "machine", "%s", order->machine);
        return false;
    }
    if (!check_history(&c, &walk, m, import) || f->status) return false;

    out->user_id = import->user_id = slice_str(order->user_id);
    import->client_order_no = slice_str(order->client_order_no);
    import->machine = machine_reference(walk.machine); /* resolved here, where the history was checked against it */
    if (!check_pack(&c, order, REQUEST_CREATE, &import->summary, &import->detail).data) return false;
    return check_done(&c, &command, out);
}
