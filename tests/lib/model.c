#include "tests/lib/model.h"

#include "engine/query.h"
#include "engine/userlist.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/mem.h"

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
                                     struct slice detail)
{
    if (m->order_count == m->order_cap) {
        m->order_cap = m->order_cap ? 2 * m->order_cap : 64;
        m->orders = mem_realloc(m->orders, m->order_cap * sizeof *m->orders);
        check(m->orders);
    }
    uint16_t slot = slot_of_user(user);
    struct model_slot *s = &m->slots[slot];
    struct model_order *o = &m->orders[m->order_count++];
    *o = (struct model_order){next_id(s, slot, m->now_us), keep(m, user), keep(m, client_order_no), keep(m, summary), keep(m, detail), machine, NULL, 0};
    s->last_order_id = o->id;
    s->order_count++;
    s->last_seq++;
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
    if (r->fence) return out->status = STATUS_REQUEST_FENCED, true;
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
    out->seq = m->slots[out->slot].last_seq;
}

static struct model_entry entry_by(const char *event, const char *from, const char *to, int64_t time_us, const struct command_origin *by)
{
    return (struct model_entry){event, from, to, time_us, by->operator_, by->reason, by->request_id, by->traceparent, {0}, {0}, {0}, false};
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
    struct model_order *o = new_order(m, r->user_id, r->client_order_no, machine, r->summary, r->detail);
    append(m, o, entry_by("create", "", initial_of(machine), (int64_t)m->now_us, &c->origin));
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
    struct model_order *o = new_order(m, r->user_id, r->client_order_no, machine, r->summary, r->detail);
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

/* The content here is one field each: order_type and extension. */
static void change(struct model *m, const struct model_order *o, const struct content_change *c, struct model_entry *e)
{
    e->changed = c->fields != 0;
    e->summary = c->fields >> 5 & 1 ? keep(m, c->summary) : o->summary;
    e->detail = c->fields >> 41 & 1 ? keep(m, c->detail) : o->detail;
}

/* What loop@1 asks for; false: it is not there. */
static bool required(const char *const *edge, const struct model_entry *e, struct model_outcome *out)
{
    unsigned n = 0;
    bool finish = strcmp(edge[1], "finish") == 0, poke = strcmp(edge[1], "poke") == 0;
    if (finish && !e->summary.len) out->missing[n++] = "order_type";
    if ((finish || poke) && !e->detail.len) out->missing[n++] = "extension";
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
    m->slots[out.slot].last_seq++;
    append(m, o, e);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_TRANSITION, &c->origin, &out);
    return out;
}

static struct model_outcome fence(struct model *m, const struct command *c)
{
    struct slice user = c->fence.user_id;
    struct model_outcome out = {.slot = slot_of_user(user), .fence = true};
    for (enum request_method method = REQUEST_CREATE; method <= REQUEST_UPDATE; method++) {
        const struct model_memory *r = find_memory(m, user, c->origin.request_id, method);
        if (!r || r->fence || r->expiry_us <= m->now_us || (out.applied && r->seq < out.seq)) continue;
        out.applied = true;
        out.order = r->order;
        out.version = r->version;
        out.seq = r->seq;
    }
    for (enum request_method method = REQUEST_CREATE; method <= REQUEST_UPDATE && !out.applied; method++) remember(m, user, method, &c->origin, &out);
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
    m->slots[out.slot].last_seq++;
    append(m, o, e);
    show(m, o, &out);
    remember(m, o->user_id, REQUEST_UPDATE, &c->origin, &out);
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
    return c->type == COMMAND_CREATE ? create(m, c) : c->type == COMMAND_IMPORT ? import(m, c) : transition(m, c);
}

/* ---- comparing */

static void check_entry(const struct model_entry *e, unsigned version, const struct history_entry *h, const struct machines *ms)
{
    check(h->version == (int64_t)version);
    check(h->time_us == e->time_us);
    check(is(h->event, e->event));
    check(h->from ? is(machines_status_name(ms, h->from), e->from) : e->from[0] == 0);
    check(is(machines_status_name(ms, h->to), e->to));
    check(slice_equal(h->operator_, e->operator_));
    check(slice_equal(h->reason, e->reason));
    check(slice_equal(h->request_id, e->request_id));
    check(slice_equal(h->traceparent, e->traceparent));
    check(memcmp(h->chain_hash, e->chain_hash, SHA256_BYTES) == 0);
}

static void check_head(const struct model_order *o, unsigned version, const struct order_head *h, const struct machines *ms)
{
    const struct model_entry *e = &o->entries[version - 1];
    check(h->order_id == o->id);
    check(h->version == (int64_t)version);
    check(h->create_us == o->entries[0].time_us);
    check(h->update_us == e->time_us);
    check(is(machine_reference(machines_by_id(ms, h->machine)), o->machine));
    check(is(machines_status_name(ms, h->status), e->to));
    check(slice_equal(h->user_id, o->user_id));
    check(memcmp(h->chain_hash, e->chain_hash, SHA256_BYTES) == 0);
}

void model_check_outcome(const struct model *m, const struct model_outcome *x, const struct outcome *o, const struct machines *ms)
{
    check(o->status == x->status);
    check(o->replayed == x->replayed);
    check(o->already_there == x->already_there);
    check(o->slot == x->slot);
    check(o->applied == x->applied);
    check(o->batch == x->batch);
    if (x->batch && !x->status) {
        check(o->item_count == x->item_count);
        check(o->seq == x->seq);
        for (unsigned i = 0; i < x->item_count; i++) {
            struct outcome item = o->items[i];
            item.batch = false;
            model_check_outcome(m, &x->items[i], &item, ms);
        }
        return;
    }
    if (x->batch) check(o->item == x->item);
    if (x->fence) {
        check(o->head.order_id == (x->applied ? m->orders[x->order].id : 0));
        check(o->head.version == (int64_t)x->version);
        return;
    }
    check(o->first_order_id == x->first_order_id);
    check(o->first_time_us == x->first_time_us);
    if (x->version) check_head(&m->orders[x->order], x->version, &o->head, ms);
    if (x->status == STATUS_OK) {
        check(o->seq == x->seq);
        if (!x->already_there) check_entry(&m->orders[x->order].entries[x->version - 1], x->version, &o->entry, ms);
    }
    if (x->status == STATUS_STATUS_MISMATCH) {
        const struct model_entry *winner = &m->orders[x->order].entries[x->version - 1];
        check(slice_equal(o->winner_request_id, winner->request_id));
        check(o->winner_time_us == winner->time_us);
    }
    if (x->status == STATUS_EDGE_NOT_DEFINED || x->status == STATUS_FIELD_REQUIRED) check(is(o->machine_reference, x->machine));
    unsigned missing = !x->missing[0] ? 0 : !x->missing[1] ? 1 : 2;
    check(o->missing_count == missing);
    for (unsigned i = 0; i < missing; i++) check(is(o->missing[i], x->missing[i]));
    if (x->status == STATUS_FIELD_INVALID) check(o->expected_index == x->expected_index);
}

/* One row of the store, or nothing. */
static struct slice row_of(const struct store_view *view, const struct key *k, struct arena *arena)
{
    struct slice row = {0};
    enum status st = store_get(view, key_slice(k), arena, &row);
    check(st == STATUS_OK || st == STATUS_ABSENT);
    return st ? (struct slice){0} : row;
}

static void check_order_rows(const struct model_order *o, const struct store_view *view, const struct machines *ms, struct arena *arena)
{
    struct key k;
    struct order_head head;
    struct order_body body;
    struct history_entry h;
    uint16_t slot = slot_of_user(o->user_id);
    key_head(&k, o->id);
    check(order_head_decode(row_of(view, &k, arena), &head) == STATUS_OK);
    check_head(o, o->count, &head, ms);
    key_body(&k, o->id);
    check(order_body_decode(row_of(view, &k, arena), &body) == STATUS_OK);
    check(slice_equal(body.summary, o->summary));
    check(slice_equal(body.detail, o->detail));
    check_entry(&o->entries[0], 1, &body.origin, ms);
    for (unsigned v = 2; v <= o->count; v++) {
        key_history(&k, o->id, v);
        check(history_decode(row_of(view, &k, arena), &h) == STATUS_OK);
        check_entry(&o->entries[v - 1], v, &h, ms);
        key_content(&k, o->id, v);
        struct slice before = row_of(view, &k, arena);
        check((before.len != 0) == o->entries[v - 1].changed);
        if (!before.len) continue;
        struct order_body old;
        check(order_content_decode(before, &old) == STATUS_OK);
        check(slice_equal(old.summary, o->entries[v - 2].summary));
        check(slice_equal(old.detail, o->entries[v - 2].detail));
    }
    for (unsigned v = 1; v <= o->count; v++) {
        check(query_content_at(view, arena, o->id, v, &body) == STATUS_OK);
        check(slice_equal(body.summary, o->entries[v - 1].summary));
        check(slice_equal(body.detail, o->entries[v - 1].detail));
        body.summary = o->summary, body.detail = o->detail;
    }
    key_list(&k, slot, o->user_id, o->entries[0].time_us, o->id);
    struct slice row = row_of(view, &k, arena);
    check(row.len >= 2);
    check(get_be16(row.data) == head.status);
    if (!o->client_order_no.len) return;
    key_client_no(&k, slot, o->user_id, o->client_order_no);
    row = row_of(view, &k, arena);
    check(row.len == 8);
    check(get_be64(row.data) == (uint64_t)o->id);
}

static void check_memories(const struct model *m, const struct store_view *view, struct arena *arena)
{
    for (unsigned i = 0; i < m->memory_count; i++, arena_reset(arena)) {
        const struct model_memory *r = &m->memories[i];
        struct key k;
        struct dedup_record d;
        key_dedup(&k, slot_of_user(r->user_id), r->user_id, r->request_id, (uint8_t)r->method);
        struct slice row = row_of(view, &k, arena);
        if (!row.len && r->expiry_us <= m->now_us) continue; /* may be gone */
        check(dedup_record_decode(row, &d) == STATUS_OK);
        check(d.expiry_us == r->expiry_us);
        check(d.fence == r->fence);
        if (r->fence) continue;
        check(d.order_id == m->orders[r->order].id);
        check(d.version == (int64_t)r->version);
        check(d.seq == r->seq);
        check(d.time_us == r->time_us);
    }
}

/* Counts and pages of one user against the array. */
static void check_user(const struct model *m, struct slice user, const struct store_view *view, const struct machines *ms, struct arena *arena)
{
    char error[256] = "";
    uint16_t slot = slot_of_user(user);
    struct userlist_range range = {.slot = slot, .user_id = user, .from_us = INT64_MIN, .to_us = INT64_MAX};
    static struct status_counts counts;
    static struct userlist_item page[100];
    unsigned orders = 0, listed = 0, got;
    int64_t counted = 0;
    bool more = true;
    enum status st = userlist_verify(view, arena, slot, user, error);
    if (st) panic_now("userlist_verify: %s", error);
    check(userlist_count(view, arena, &range, &counts) == STATUS_OK);
    for (unsigned i = 0; i < counts.n; i++) {
        int64_t n = 0;
        for (unsigned j = 0; j < m->order_count; j++)
            n += slice_equal(m->orders[j].user_id, user) &&
                 is(machines_status_name(ms, counts.at[i].status), m->orders[j].entries[m->orders[j].count - 1].to);
        check(counts.at[i].count == n);
        counted += n;
    }
    for (unsigned j = 0; j < m->order_count; j++) orders += slice_equal(m->orders[j].user_id, user);
    check(counted == orders);
    struct list_position last = {INT64_MAX, INT64_MAX};
    while (more) {
        check(userlist_page(view, arena, &range, listed, NULL, page, ARRAY_LEN(page), &got, &more) == STATUS_OK);
        for (unsigned i = 0; i < got; i++) {
            int at = find_order(m, page[i].at.order_id);
            check(at >= 0);
            check(m->orders[at].entries[0].time_us == page[i].at.create_us);
            check(page[i].at.create_us < last.create_us || (page[i].at.create_us == last.create_us && page[i].at.order_id < last.order_id));
            last = page[i].at;
        }
        listed += got;
        check(got || !more);
        arena_reset(arena);
    }
    check(listed == orders);
}

static bool user_seen_before(const struct model *m, unsigned i)
{
    for (unsigned j = 0; j < i; j++)
        if (slice_equal(m->orders[j].user_id, m->orders[i].user_id)) return true;
    return false;
}

void model_check_store(const struct model *m, const struct store_view *view, const struct machines *ms)
{
    struct arena arena;
    uint64_t expected[256] = {0}, found[256] = {0};
    arena_init(&arena, 64 << 20);
    for (unsigned i = 0; i < m->order_count; i++, arena_reset(&arena)) {
        const struct model_order *o = &m->orders[i];
        check_order_rows(o, view, ms, &arena);
        expected[KEY_HEAD]++, expected[KEY_BODY]++, expected[KEY_LIST]++;
        expected[KEY_HISTORY] += o->count - 1;
        for (unsigned v = 0; v < o->count; v++) expected[KEY_CONTENT] += o->entries[v].changed;
        expected[KEY_CLIENT_NO] += o->client_order_no.len != 0;
        if (!user_seen_before(m, i)) check_user(m, o->user_id, view, ms, &arena);
    }
    check_memories(m, view, &arena);
    for (uint32_t slot = 0; slot < SLOT_COUNT; slot++) {
        const struct model_slot *s = &m->slots[slot];
        if (!s->order_count) continue;
        struct key k;
        struct slot_record r;
        key_slot(&k, (uint16_t)slot);
        check(slot_record_decode(row_of(view, &k, &arena), &r) == STATUS_OK);
        check(r.last_order_id == s->last_order_id);
        check(r.last_seq == s->last_seq);
        check(r.order_count == s->order_count);
        expected[KEY_SLOT]++;
    }
    struct store_iter *it = store_iter_open(view, SLICE_LIT(""), SLICE_LIT("\xff\xff\xff\xff"));
    for (store_iter_first(it); store_iter_valid(it); store_iter_next(it)) found[store_iter_key(it).data[2]]++;
    check(store_iter_status(it) == STATUS_OK);
    store_iter_close(it);
    static const uint8_t kinds[] = {KEY_HEAD, KEY_BODY, KEY_LIST, KEY_HISTORY, KEY_CONTENT, KEY_CLIENT_NO, KEY_SLOT};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) check(found[kinds[i]] == expected[kinds[i]]);
    check(found[KEY_DEDUP] <= m->memory_count);
    check(found[KEY_PARTITION] <= 1);
    arena_fini(&arena);
}

uint64_t outcome_digest(const struct outcome *o)
{
    uint8_t bytes[16384];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (unsigned i = 0; o->items && i < o->item_count; i++) write_be64(&w, outcome_digest(&o->items[i]));
    const int64_t numbers[] = {o->batch, o->item, o->item_count, o->applied, o->status, o->replayed, o->already_there, o->slot, o->seq, o->winner_time_us, o->first_order_id, o->first_time_us, o->order_id, o->patch, o->missing_count};
    const struct slice texts[] = {o->winner_request_id, o->machine_reference, o->event, o->expected_name};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) write_be64(&w, (uint64_t)numbers[i]);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) write_counted(&w, texts[i]);
    for (unsigned i = 0; i < o->missing_count; i++) write_counted(&w, o->missing[i]);
    order_head_encode(&o->head, &w);
    history_encode(&o->entry, &w);
    check(!w.full);
    return hash64(writer_slice(&w));
}
