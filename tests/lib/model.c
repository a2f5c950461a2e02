#include "tests/lib/model.h"

#include <stdio.h>

#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"

const char *const model_edges[][4] = {
    {"retail@1", "pay", "PENDING_PAYMENT", "PAID"},
    {"retail@1", "cancel", "PENDING_PAYMENT", "CANCELLED"},
    {"retail@1", "pay_timeout", "PENDING_PAYMENT", "CANCELLED"},
    {"retail@1", "ship_part", "PAID", "PARTIALLY_SHIPPED"},
    {"retail@1", "ship", "PAID", "SHIPPED"},
    {"retail@1", "ship", "PARTIALLY_SHIPPED", "SHIPPED"},
    {"retail@1", "deliver", "SHIPPED", "DELIVERED"},
    {"retail@1", "confirm", "SHIPPED", "COMPLETED"},
    {"retail@1", "confirm", "DELIVERED", "COMPLETED"},
    {"retail@1", "auto_confirm", "SHIPPED", "COMPLETED"},
    {"retail@1", "auto_confirm", "DELIVERED", "COMPLETED"},
    {"retail@1", "refund_request", "PAID", "REFUNDING"},
    {"retail@1", "refund_request", "PARTIALLY_SHIPPED", "REFUNDING"},
    {"retail@1", "refund_request", "SHIPPED", "REFUNDING"},
    {"retail@1", "refund_request", "DELIVERED", "REFUNDING"},
    {"retail@1", "refund_reject", "REFUNDING", "PAID"},
    {"retail@1", "refund", "REFUNDING", "REFUNDED"},
    {"loop@1", "poke", "OPEN", "OPEN"},
    {"loop@1", "close", "OPEN", "DONE"},
    {"loop@1", "finish", "OPEN", "DONE"},
    {NULL, NULL, NULL, NULL},
};
static const char *const statuses[] = {
    "PENDING_PAYMENT", "PAID", "PARTIALLY_SHIPPED", "SHIPPED", "DELIVERED", "COMPLETED", "CANCELLED", "REFUNDING", "REFUNDED", "OPEN", "DONE",
};

struct machines *model_machines_new(void)
{
    struct machines *ms = machines_new();
    check(ms);
    Orderdb__V1__StatusMachine m = ORDERDB__V1__STATUS_MACHINE__INIT;
    Orderdb__V1__StatusMachine__State open = ORDERDB__V1__STATUS_MACHINE__STATE__INIT, done = open, *states[] = {&open, &done};
    Orderdb__V1__StatusMachine__Edge poke = ORDERDB__V1__STATUS_MACHINE__EDGE__INIT, close, finish, *edges[] = {&poke, &close, &finish};
    char name[] = "loop", open_name[] = "OPEN", done_name[] = "DONE", *from[] = {open_name};
    char poke_name[] = "poke", close_name[] = "close", finish_name[] = "finish";
    open.name = open_name, open.initial = true;
    done.name = done_name, done.terminal = true;
    poke.event = poke_name, poke.from = from, poke.n_from = 1, poke.to = open_name;
    close = finish = poke;
    char order_type[] = "order_type", extension[] = "extension", *poke_needs[] = {extension}, *finish_needs[] = {order_type, extension};
    close.event = close_name, finish.event = finish_name;
    close.to = finish.to = done_name;
    Orderdb__V1__StatusMachine__StateTimer nag = ORDERDB__V1__STATUS_MACHINE__STATE_TIMER__INIT, late = nag, *timers[] = {&nag, &late};
    Google__Protobuf__Duration nag_after = GOOGLE__PROTOBUF__DURATION__INIT, late_after = nag_after;
    char nag_name[] = "nag";
    nag_after.nanos = MODEL_NAG_US * 1000, late_after.nanos = MODEL_FINISH_US * 1000;
    nag.timer_id = nag_name, nag.after = &nag_after;
    late.timer_id = late.event = finish_name, late.after = &late_after;
    open.timers = timers, open.n_timers = 2;
    poke.required_fields = poke_needs, poke.n_required_fields = 1;
    finish.required_fields = finish_needs, finish.n_required_fields = 2;
    m.name = name, m.version = 1;
    m.states = states, m.n_states = ARRAY_LEN(states);
    m.edges = edges, m.n_edges = ARRAY_LEN(edges);
    uint8_t wire[512];
    char error[256];
    check(machines_add(ms, slice_of(wire, orderdb__v1__status_machine__pack(&m, wire)), error) == STATUS_OK);
    return ms;
}

void model_init(struct model *m)
{
    *m = (struct model){0};
    arena_init(&m->arena, 1 << 30);
}

void model_fini(struct model *m)
{
    arena_fini(&m->arena);
    mem_free(m->orders);
    mem_free(m->memories);
}

void model_begin(struct model *m, uint64_t log_time_us) { m->now_us = MAX_OF(m->now_us, log_time_us); }

static struct slice keep(struct model *m, struct slice s)
{
    struct slice copy = arena_copy(&m->arena, s);
    check(copy.data);
    return copy;
}

static bool is(struct slice s, const char *text) { return slice_equal(s, slice_str(text)); }

static const char *status_named(struct slice s)
{
    for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
        if (is(s, statuses[i])) return statuses[i];
    return NULL;
}

static const char *machine_named(struct slice reference)
{
    if (!reference.len || is(reference, "retail") || is(reference, "retail@1")) return "retail@1";
    return is(reference, "loop") || is(reference, "loop@1") ? "loop@1" : NULL;
}

static const char *initial_of(const char *machine) { return strcmp(machine, "loop@1") == 0 ? "OPEN" : "PENDING_PAYMENT"; }

/* The chain as docs/API.md tells it, not as order.c computes it. */
static void chain(const struct model_order *o, struct model_entry *e, unsigned version)
{
    static uint8_t bytes[16384];
    static const uint8_t zeros[SHA256_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    const struct slice texts[] = {slice_str(e->event), slice_str(e->from), slice_str(e->to), e->operator_, e->reason, e->request_id, e->traceparent};
    write_bytes(&w, version == 1 ? zeros : o->entries[version - 2].chain_hash, SHA256_BYTES);
    write_be64(&w, (uint64_t)o->id);
    write_be64(&w, version);
    write_be64(&w, (uint64_t)e->time_us);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) write_be32(&w, (uint32_t)texts[i].len), write_slice(&w, texts[i]);
    check(!w.full);
    struct slice all = writer_slice(&w);
    sha256(e->chain_hash, &all, 1);
}

static const struct model_timers *keep_timers(struct model *m, const struct model_timers *ts)
{
    return ts->count ? (const void *)keep(m, slice_of(ts, sizeof *ts)).data : NULL;
}

static struct model_timers timers_of(const struct model_order *o)
{
    const struct model_timers *ts = o->count ? o->entries[o->count - 1].timers : NULL;
    return ts ? *ts : (struct model_timers){0};
}

/* What an edge does to the timers that there were. */
static const struct model_timers *moved(struct model *m, const struct model_order *o, struct model_timers ts, const char *from, const char *to)
{
    model_timers_move(&ts, o->machine, from, to, m->now_us);
    return keep_timers(m, &ts);
}

static void append(struct model *m, struct model_order *o, struct model_entry e)
{
    e.operator_ = keep(m, e.operator_);
    e.reason = keep(m, e.reason);
    e.request_id = keep(m, e.request_id);
    e.traceparent = keep(m, e.traceparent);
    if (!e.changed) e.summary = o->summary, e.detail = o->detail;
    o->summary = e.summary, o->detail = e.detail;
    chain(o, &e, o->count + 1);
    struct model_entry *more = mem_alloc((o->count + 1) * sizeof *more); /* kept in the arena: the old array is simply left */
    check(more);
    if (o->count) memcpy(more, o->entries, o->count * sizeof *more);
    more[o->count] = e;
    struct slice kept = keep(m, slice_of(more, (o->count + 1) * sizeof *more));
    mem_free(more);
    o->entries = (struct model_entry *)(uintptr_t)kept.data;
    o->count++;
}

static int64_t next_id(const struct model_slot *s, uint16_t slot, uint64_t now_us)
{
    int64_t ms = (int64_t)(now_us / 1000) - 1735689600000;
    if (ms < 1) ms = 1;
    int64_t last_ms = s->last_order_id >> 22;
    if (ms > last_ms) return ms << 22 | (int64_t)slot << 8;
    if ((s->last_order_id & 255) == 255) return (last_ms + 1) << 22 | (int64_t)slot << 8;
    return s->last_order_id + 1;
}

static struct model_order *new_order(struct model *m, struct slice user, struct slice client_order_no, const char *machine, struct slice summary,
                                     struct slice detail, bool untold)
{
    if (m->order_count == m->order_cap) {
        m->order_cap = m->order_cap ? 2 * m->order_cap : 64;
        m->orders = mem_realloc(m->orders, m->order_cap * sizeof *m->orders);
        check(m->orders);
    }
    uint16_t slot = slot_of_user(user);
    struct model_slot *s = &m->slots[slot];
    struct model_order *o = &m->orders[m->order_count++];
    *o = (struct model_order){next_id(s, slot, m->now_us), keep(m, user), keep(m, client_order_no), keep(m, summary), keep(m, detail), machine, NULL, 0, 0};
    s->last_order_id = o->id;
    s->order_count++;
    if (!untold) o->seq = ++s->last_seq;
    return o;
}

static int find_order(const struct model *m, int64_t id)
{
    for (unsigned i = 0; i < m->order_count; i++)
        if (m->orders[i].id == id) return (int)i;
    return -1;
}

static int find_client_no(const struct model *m, struct slice user, struct slice client_order_no)
{
    for (unsigned i = 0; i < m->order_count && client_order_no.len; i++)
        if (slice_equal(m->orders[i].user_id, user) && slice_equal(m->orders[i].client_order_no, client_order_no)) return (int)i;
    return -1;
}

static struct model_memory *find_memory(const struct model *m, struct slice user, struct slice request_id, enum request_method method)
{
    for (unsigned i = 0; i < m->memory_count; i++) {
        struct model_memory *r = &m->memories[i];
        if (r->method == method && slice_equal(r->user_id, user) && slice_equal(r->request_id, request_id)) return r;
    }
    return NULL;
}

static void remember(struct model *m, struct slice user, enum request_method method, const struct command_origin *origin, const struct model_outcome *o)
{
    if (!origin->request_id.len) return;
    struct model_memory *r = find_memory(m, user, origin->request_id, method);
    if (!r) {
        if (m->memory_count == m->memory_cap) {
            m->memory_cap = m->memory_cap ? 2 * m->memory_cap : 64;
            m->memories = mem_realloc(m->memories, m->memory_cap * sizeof *m->memories);
            check(m->memories);
        }
        r = &m->memories[m->memory_count++];
        *r = (struct model_memory){.user_id = keep(m, user), .request_id = keep(m, origin->request_id), .method = method};
    }
    r->expiry_us = m->now_us + origin->ttl_us;
    r->fence = o->fence;
    if (r->fence) return;
    r->fingerprint = origin->fingerprint;
    r->order = o->order;
    r->version = o->version;
    r->seq = o->seq;
    r->time_us = m->orders[o->order].entries[o->version - 1].time_us;
}

/* The answer of before; false: none. */
static bool replay(const struct model *m, struct slice user, enum request_method method, const struct command_origin *origin, struct model_outcome *out)
{
    const struct model_memory *r = origin->request_id.len ? find_memory(m, user, origin->request_id, method) : NULL;
    if (!r || r->expiry_us <= m->now_us) return false;
    if (r->fence) {
        out->fenced_us = r->expiry_us > COMMAND_FOR_EVER_US ? r->expiry_us - COMMAND_FOR_EVER_US : 0;
        return out->status = STATUS_REQUEST_FENCED, true;
    }
    if (r->fingerprint.low != origin->fingerprint.low || r->fingerprint.high != origin->fingerprint.high) {
        out->status = STATUS_IDEMPOTENCY_KEY_REUSED;
        out->first_order_id = m->orders[r->order].id;
        out->first_time_us = r->time_us;
        return true;
    }
    out->replayed = true;
    out->order = r->order;
    out->version = r->version;
    out->seq = r->seq;
    return true;
}

static void show(const struct model *m, const struct model_order *o, struct model_outcome *out)
{
    out->order = (unsigned)(o - m->orders);
    out->version = o->count;
    out->seq = o->seq;
}

static struct model_entry entry_by(const char *event, const char *from, const char *to, int64_t time_us, const struct command_origin *by)
{
    return (struct model_entry){event, from, to, time_us, by->operator_, by->reason, by->request_id, by->traceparent, {0}, {0}, {0}, false, NULL};
}

/* A refusal, a replay, or nothing that is in the way. */
static struct model_outcome create_decide(struct model *m, const struct command *c)
{
    const struct command_create *r = &c->create;
    struct model_outcome out = {.slot = slot_of_user(r->user_id)};
    if (replay(m, r->user_id, REQUEST_CREATE, &c->origin, &out)) return out;
    if (!machine_named(r->machine)) return out.status = STATUS_MACHINE_NOT_FOUND, out;
    int taken = find_client_no(m, r->user_id, r->client_order_no);
    if (taken >= 0) {
        out.status = STATUS_CLIENT_ORDER_NO_TAKEN;
        out.first_order_id = m->orders[taken].id;
        out.first_time_us = m->orders[taken].entries[0].time_us;
    }
    return out;
}

static struct model_outcome create(struct model *m, const struct command *c)
{
    const struct command_create *r = &c->create;
    struct model_outcome out = create_decide(m, c);
    if (out.status || out.replayed) return out;
    const char *machine = machine_named(r->machine);
    struct model_order *o = new_order(m, r->user_id, r->client_order_no, machine, r->summary, r->detail, false);
    struct model_entry e = entry_by("create", "", initial_of(machine), (int64_t)m->now_us, &c->origin);
    e.timers = moved(m, o, (struct model_timers){0}, "", e.to);
    append(m, o, e);
    show(m, o, &out);
    remember(m, r->user_id, REQUEST_CREATE, &c->origin, &out);
    return out;
}

static struct model_outcome import(struct model *m, const struct command *c)
{
    const struct command_import *r = &c->import;
    struct model_outcome out = {.slot = slot_of_user(r->user_id)};
    int known = find_client_no(m, r->user_id, r->client_order_no);
    if (known >= 0) {
        out.already_there = true;
        out.order = (unsigned)known;
        out.version = m->orders[known].count;
        return out;
    }
    const char *machine = machine_named(r->machine), *status = "";
    if (!machine) return out.status = STATUS_MACHINE_NOT_FOUND, out;
    struct model_order *o = new_order(m, r->user_id, r->client_order_no, machine, r->summary, r->detail, c->type == COMMAND_IMPORT_UNTOLD);
    for (unsigned i = 0; i < r->history_count; i++) {
        const struct history_entry *h = &r->history[i];
        const char *to = i ? NULL : initial_of(machine), *event = "import";
        for (const char *const *e = model_edges[0]; i && e[0]; e += 4)
            if (strcmp(e[0], machine) == 0 && is(h->event, e[1]) && strcmp(e[2], status) == 0) event = e[1], to = e[3];
        check(to);
        append(m, o, (struct model_entry){event, status, to, h->time_us, h->operator_, h->reason, h->request_id, h->traceparent, {0}, {0}, {0}, false});
        status = to;
    }
    show(m, o, &out);
    return out;
}

/* The edges of this machine that fit; NULL matches everything. */
static unsigned edges(const char *machine, const char *event, const char *from, const char *to, const char *const **first)
{
    unsigned n = 0;
    for (size_t i = 0; model_edges[i][0]; i++) {
        const char *const *e = model_edges[i];
        if (strcmp(e[0], machine) || (event && strcmp(e[1], event)) || (from && strcmp(e[2], from)) || (to && strcmp(e[3], to))) continue;
        if (!n++ && first) *first = e;
    }
    return n;
}

/* What no update touches: merchant_id (3) in the summary, items (20) in the detail; both stand in front. */
static struct slice lasting(struct slice content)
{
    struct reader r = reader_of(content);
    const uint8_t *end = r.at;
    for (struct pb_field f; pb_next(&r, &f) && (f.number == 3 || f.number == 20);) end = r.at;
    return slice_of(content.data, (size_t)(end - content.data));
}

static struct slice replaced(struct model *m, struct slice content, struct slice new)
{
    struct slice first = lasting(content);
    struct writer w = writer_of(arena_alloc(&m->arena, first.len + new.len + 1), first.len + new.len + 1);
    check(w.data);
    write_slice(&w, first);
    write_slice(&w, new);
    return writer_slice(&w);
}

/* The content that changes here is one field each: order_type and extension. */
static void change(struct model *m, const struct model_order *o, const struct content_change *c, struct model_entry *e)
{
    e->changed = c->fields != 0;
    e->summary = c->fields >> 5 & 1 ? replaced(m, o->summary, c->summary) : o->summary;
    e->detail = c->fields >> 41 & 1 ? replaced(m, o->detail, c->detail) : o->detail;
}

/* What loop@1 asks for; false: it is not there. */
static bool required(const char *const *edge, const struct model_entry *e, struct model_outcome *out)
{
    unsigned n = 0;
    bool finish = strcmp(edge[1], "finish") == 0, poke = strcmp(edge[1], "poke") == 0;
    if (finish && e->summary.len == lasting(e->summary).len) out->missing[n++] = "order_type";
    if ((finish || poke) && e->detail.len == lasting(e->detail).len) out->missing[n++] = "extension";
    return n == 0;
}

static struct model_outcome transition(struct model *m, const struct command *c)
{
    const struct command_transition *t = &c->transition;
    struct model_outcome out = {.slot = t->order_id > 0 ? (uint16_t)(t->order_id >> 8 & 16383) : 0};
    int found = find_order(m, t->order_id);
    if (found < 0) return out.status = STATUS_ORDER_NOT_FOUND, out;
    struct model_order *o = &m->orders[found];
    if (replay(m, o->user_id, REQUEST_TRANSITION, &c->origin, &out)) return out;
    out.order = (unsigned)found;
    out.version = o->count;
    const char *status = o->entries[o->count - 1].to, *target = t->event.len ? NULL : status_named(t->to_status);
    char event[129] = "";
    memcpy(event, t->event.data ? t->event.data : (const uint8_t *)"", t->event.len);
    if (t->event.len ? !edges(o->machine, event, NULL, NULL, NULL) : !target || !edges(o->machine, NULL, NULL, target, NULL)) {
        out.machine = o->machine;
        return out.status = STATUS_EDGE_NOT_DEFINED, out;
    }
    bool among = t->expected_status_count == 0;
    for (unsigned i = 0; i < t->expected_status_count; i++) {
        if (!status_named(t->expected_statuses[i])) return out.expected_index = i, out.status = STATUS_FIELD_INVALID, out;
        if (is(t->expected_statuses[i], status)) among = true;
    }
    if (t->expected_version && t->expected_version != (int64_t)o->count) return out.status = STATUS_VERSION_MISMATCH, out;
    const char *const *edge = NULL;
    if (!among || edges(o->machine, target ? NULL : event, status, target, &edge) != 1) {
        out.already_there = edges(o->machine, target ? NULL : event, NULL, status, NULL) > 0 && (!target || strcmp(target, status) == 0);
        return out.status = STATUS_STATUS_MISMATCH, out;
    }
    int64_t before = o->entries[o->count - 1].time_us, time_us = MAX_OF((int64_t)m->now_us, before);
    struct model_entry e = entry_by(edge[1], edge[2], edge[3], time_us, &c->origin);
    change(m, o, &t->patch, &e);
    if (!required(edge, &e, &out)) {
        out.machine = o->machine;
        return out.status = STATUS_FIELD_REQUIRED, out;
    }
    e.timers = moved(m, o, timers_of(o), e.from, e.to);
    o->seq = ++m->slots[out.slot].last_seq;
    append(m, o, e);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_TRANSITION, &c->origin, &out);
    return out;
}

static struct model_outcome fence(struct model *m, const struct command *c)
{
    struct slice user = c->fence.user_id;
    struct model_outcome out = {.slot = slot_of_user(user), .fence = true};
    for (enum request_method method = REQUEST_CREATE; method <= REQUEST_CANCEL_TIMER; method++) {
        const struct model_memory *r = find_memory(m, user, c->origin.request_id, method);
        if (!r || r->fence || r->expiry_us <= m->now_us || (out.applied && r->seq < out.seq)) continue;
        out.applied = true;
        out.order = r->order;
        out.version = r->version;
        out.seq = r->seq;
    }
    for (enum request_method method = REQUEST_CREATE; method <= REQUEST_CANCEL_TIMER && !out.applied; method++) remember(m, user, method, &c->origin, &out);
    return out;
}

static struct model_outcome update(struct model *m, const struct command *c)
{
    const struct command_update *u = &c->update;
    struct model_outcome out = {0};
    int found = find_order(m, u->order_id);
    if (u->order_id > 0) out.slot = (uint16_t)(u->order_id >> 8 & 16383);
    if (found < 0) return out.status = STATUS_ORDER_NOT_FOUND, out;
    struct model_order *o = &m->orders[found];
    if (replay(m, o->user_id, REQUEST_UPDATE, &c->origin, &out)) return out;
    out.order = (unsigned)found;
    out.version = o->count;
    if (u->expected_version && u->expected_version != (int64_t)o->count) return out.status = STATUS_VERSION_MISMATCH, out;
    const struct model_entry *last = &o->entries[o->count - 1];
    struct model_entry e = entry_by("update", last->to, last->to, MAX_OF((int64_t)m->now_us, last->time_us), &c->origin);
    change(m, o, &u->change, &e);
    e.timers = last->timers;
    o->seq = ++m->slots[out.slot].last_seq;
    append(m, o, e);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_UPDATE, &c->origin, &out);
    return out;
}

/* A commit that keeps the status, and leaves these timers. */
static void stay(struct model *m, struct model_order *o, uint16_t slot, const char *event, const struct command_origin *by, const struct model_timers *ts)
{
    const struct model_entry *last = &o->entries[o->count - 1];
    struct model_entry e = entry_by(event, last->to, last->to, MAX_OF((int64_t)m->now_us, last->time_us), by);
    e.timers = keep_timers(m, ts);
    o->seq = ++m->slots[slot].last_seq;
    append(m, o, e);
}

static struct model_outcome set_timer(struct model *m, const struct command *c)
{
    const struct command_set_timer *w = &c->set_timer;
    struct model_outcome out = {.slot = w->order_id > 0 ? (uint16_t)(w->order_id >> 8 & 16383) : 0};
    int found = find_order(m, w->order_id);
    if (found < 0) return out.status = STATUS_ORDER_NOT_FOUND, out;
    struct model_order *o = &m->orders[found];
    if (replay(m, o->user_id, REQUEST_SET_TIMER, &c->origin, &out)) return out;
    out.order = (unsigned)found;
    out.version = o->count;
    const char *status = o->entries[o->count - 1].to;
    struct model_timers ts = timers_of(o);
    struct model_timer t = {.id = keep(m, w->timer_id), .event = keep(m, w->event), .fire_us = MAX_OF(w->fire_us, (int64_t)m->now_us)};
    char event[129] = "";
    if (w->event.len) memcpy(event, w->event.data, w->event.len);
    if (w->event.len && !edges(o->machine, event, NULL, NULL, NULL)) return out.machine = o->machine, out.status = STATUS_EDGE_NOT_DEFINED, out;
    for (unsigned i = 0; i < w->expected_status_count; i++) {
        const char *name = status_named(w->expected_statuses[i]);
        if (!name || (!edges(o->machine, NULL, name, NULL, NULL) && !edges(o->machine, NULL, NULL, name, NULL)))
            return out.expected_index = i, out.status = STATUS_FIELD_INVALID, out;
        t.statuses[t.status_count++] = name;
    }
    if (w->fire_us - (int64_t)m->now_us > 3653ll * 86400000000) return out.status = STATUS_LIMIT_EXCEEDED, out;
    if (ts.count >= 16 && !model_timer_find(&ts, t.id)) return out.status = STATUS_LIMIT_EXCEEDED, out;
    if (w->event.len && !edges(o->machine, NULL, status, NULL, NULL)) return out.status = STATUS_STATUS_MISMATCH, out;
    t.of_state = model_status_has_timer(o->machine, status, t.id);
    model_timer_set(&ts, t);
    stay(m, o, out.slot, "set_timer", &c->origin, &ts);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_SET_TIMER, &c->origin, &out);
    return out;
}

static struct model_outcome cancel_timer(struct model *m, const struct command *c)
{
    const struct command_cancel_timer *w = &c->cancel_timer;
    struct model_outcome out = {.slot = w->order_id > 0 ? (uint16_t)(w->order_id >> 8 & 16383) : 0};
    int found = find_order(m, w->order_id);
    if (found < 0) return out.status = STATUS_ORDER_NOT_FOUND, out;
    struct model_order *o = &m->orders[found];
    if (replay(m, o->user_id, REQUEST_CANCEL_TIMER, &c->origin, &out)) return out;
    out.order = (unsigned)found;
    out.version = o->count;
    struct model_timers ts = timers_of(o);
    const struct model_timer *t = model_timer_find(&ts, w->timer_id);
    if (!t) return out.status = STATUS_TIMER_NOT_FOUND, out;
    model_timer_remove(&ts, t);
    stay(m, o, out.slot, "cancel_timer", &c->origin, &ts);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_CANCEL_TIMER, &c->origin, &out);
    return out;
}

static const char *fire_why(const struct model_order *o, const struct model_timer *t, const char *const **edge, char why[256])
{
    const struct model_entry *last = &o->entries[o->count - 1];
    struct model_outcome missing = {0};
    char event[129] = "";
    bool expected = !t->status_count;
    *edge = NULL;
    if (!t->event.len) return "";
    memcpy(event, t->event.data, t->event.len);
    for (unsigned i = 0; i < t->status_count; i++) expected |= !strcmp(t->statuses[i], last->to);
    if (!expected) snprintf(why, 256, ": the order is %s, which was not expected", last->to);
    else if (!edges(o->machine, event, last->to, NULL, edge)) snprintf(why, 256, ": %s does not lead out of %s", event, last->to);
    else if (!required(*edge, last, &missing)) snprintf(why, 256, ": %s requires %s, which the order has not", event, missing.missing[0]), *edge = NULL;
    else return "";
    return why;
}

static struct model_outcome fire(struct model *m, const struct command *c)
{
    struct model_outcome out = {0};
    struct reader r = reader_of(c->fire.packed);
    for (unsigned i = 0; i < c->fire.count; i++) {
        int64_t fire_us = (int64_t)read_be64(&r), order_id = (int64_t)read_be64(&r);
        uint8_t no = read_u8(&r);
        int found = find_order(m, order_id);
        if (found < 0 || fire_us > (int64_t)m->now_us) continue;
        struct model_order *o = &m->orders[found];
        struct model_timers ts = timers_of(o);
        const struct model_timer *due = NULL;
        for (unsigned k = 0; k < ts.count; k++)
            if (ts.at[k].fire_us == fire_us && ts.at[k].no == no) due = &ts.at[k];
        if (!due) continue;
        const char *const *edge;
        char why[256], reason[400];
        snprintf(reason, sizeof reason, "%.*s%s", (int)due->id.len, (const char *)due->id.data, fire_why(o, due, &edge, why));
        struct command_origin by = {.operator_ = SLICE_LIT("timer"), .reason = slice_str(reason)};
        out.slot = slot_of_user(o->user_id);
        model_timer_remove(&ts, due);
        if (edge) {
            struct model_entry e = entry_by(edge[1], edge[2], edge[3], MAX_OF((int64_t)m->now_us, o->entries[o->count - 1].time_us), &by);
            e.timers = moved(m, o, ts, e.from, e.to);
            o->seq = ++m->slots[out.slot].last_seq;
            append(m, o, e);
        } else {
            stay(m, o, out.slot, "timer_fired", &by, &ts);
        }
        out.fired++;
        out.seq = m->slots[out.slot].last_seq;
    }
    return out;
}

/* All or none, and not some of them before. */
static struct model_outcome batch(struct model *m, const struct command *c)
{
    const struct command_batch *b = &c->batch;
    struct model_outcome all = {.slot = slot_of_user(b->user_id), .batch = true, .item_count = b->count}, first = {0};
    struct command *creates = arena_zalloc(&m->arena, b->count * sizeof *creates);
    struct reader r = reader_of(b->packed);
    unsigned replays = 0;
    check(creates);
    for (unsigned i = 0; i < b->count; i++) {
        check(command_decode(read_counted(&r), &m->arena, &creates[i]) == STATUS_OK);
        struct model_outcome out = create_decide(m, &creates[i]);
        out.batch = true, out.item = i;
        if (out.status) return out;
        if (out.replayed && !replays++) first = out;
    }
    if (replays && replays < b->count) {
        all.status = STATUS_IDEMPOTENCY_KEY_REUSED;
        all.item = first.item, all.item_count = 0;
        all.first_order_id = m->orders[first.order].id;
        all.first_time_us = m->orders[first.order].entries[0].time_us;
        return all;
    }
    all.items = arena_zalloc(&m->arena, b->count * sizeof *all.items);
    check(all.items);
    for (unsigned i = 0; i < b->count; i++) all.items[i] = create(m, &creates[i]), all.seq = all.items[i].seq;
    all.replayed = replays > 0;
    return all;
}

struct model_outcome model_apply(struct model *m, const struct command *c)
{
    if (c->type == COMMAND_BATCH) return batch(m, c);
    if (c->type == COMMAND_UPDATE) return update(m, c);
    if (c->type == COMMAND_FENCE) return fence(m, c);
    if (c->type == COMMAND_SET_TIMER) return set_timer(m, c);
    if (c->type == COMMAND_CANCEL_TIMER) return cancel_timer(m, c);
    if (c->type == COMMAND_FIRE) return fire(m, c);
    return c->type == COMMAND_CREATE ? create(m, c) : c->type == COMMAND_IMPORT || c->type == COMMAND_IMPORT_UNTOLD ? import(m, c) : transition(m, c);
}
