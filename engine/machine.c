#include "engine/machine.h"

#include <stdio.h>

#include "engine/required.h"
#include "orderdb/v1/admin.pb-c.h"
#include "proto/base/arena.h"
#include "proto/base/hash.h"
#include "proto/base/mem.h"

/* Definitions come in as protobuf bytes, are verified in an arena of their own and only then copied into the registry: a refused definition
 * leaves nothing behind. Everything that is kept lives in the registry's arena until machines_free.
 *
 * Edges are kept flat, one row per (event, from). There are at most 256 of them in contiguous memory and most machines have a dozen, so
 * looking for one is a short walk. Status names are found through an open-addressed table, since transitions name them in text. */

enum { PARSE_BYTES_MAX = 4 << 20, KEEP_BYTES_MAX = 256 << 20, NAME_BUCKETS = 4 * STATUS_IDS_MAX, NAME_BYTES_MAX = 64 };

struct machine {
    uint16_t id, initial;
    int32_t version;
    struct slice name, reference;
    unsigned state_count, edge_count;
    uint16_t states[MACHINE_STATES_MAX];
    bool terminal[MACHINE_STATES_MAX];
    struct machine_edge edges[];
};

struct machines {
    struct arena memory;
    unsigned machine_count, status_count;
    const struct machine *machines[MACHINES_MAX + 1]; /* by id, from 1 */
    struct slice status_names[STATUS_IDS_MAX + 1];    /* by id, from 1 */
    uint16_t buckets[NAME_BUCKETS];                   /* status id by hash of its name; 0: free */
};

static const struct {
    const uint8_t *data;
    size_t len;
} builtins[] = {
#include "engine/machines.inc"
};

static enum status add_parsed(struct machines *ms, const Orderdb__V1__StatusMachine *d, char error[256]);

struct machines *machines_new(void)
{
    struct machines *ms = mem_new(struct machines);
    if (!ms) return NULL;
    arena_init(&ms->memory, KEEP_BYTES_MAX);
    for (size_t i = 0; i < ARRAY_LEN(builtins); i++) {
        char error[256];
        enum status st = machines_add(ms, slice_of(builtins[i].data, builtins[i].len), error);
        if (st == STATUS_MEMORY_LIMIT) return machines_free(ms), NULL;
        if (st) panic_now("built-in status machine %zu: %s", i, error);
    }
    return ms;
}

void machines_free(struct machines *ms)
{
    if (!ms) return;
    arena_fini(&ms->memory);
    mem_free(ms);
}

struct parse {
    struct arena arena;
    bool failed; /* protobuf-c answers NULL for malformed and for out of memory: this tells them apart */
};

static void *parse_alloc(void *ctx, size_t bytes)
{
    struct parse *parse = ctx;
    void *p = arena_alloc(&parse->arena, bytes);
    if (!p) parse->failed = true;
    return p;
}

static void parse_free(void *ctx, void *p) { (void)ctx, (void)p; }

enum status machines_add(struct machines *ms, struct slice definition, char error[256])
{
    struct parse parse = {0};
    arena_init(&parse.arena, PARSE_BYTES_MAX);
    error[0] = 0;
    ProtobufCAllocator allocator = {parse_alloc, parse_free, &parse};
    const Orderdb__V1__StatusMachine *d = orderdb__v1__status_machine__unpack(&allocator, definition.len, definition.data);
    enum status st;
    if (d) st = add_parsed(ms, d, error);
    else if (parse.failed) st = STATUS_MEMORY_LIMIT, snprintf(error, 256, "no memory");
    else st = STATUS_FIELD_INVALID, snprintf(error, 256, "not a StatusMachine message");
    arena_fini(&parse.arena);
    return st;
}

/* ---- lookups */

static uint16_t *name_bucket(const struct machines *ms, struct slice name)
{
    for (uint64_t h = hash64(name);; h++) {
        const uint16_t *b = &ms->buckets[h % NAME_BUCKETS];
        if (!*b || slice_equal(ms->status_names[*b], name)) return (uint16_t *)b;
    }
}

uint16_t machines_status_id(const struct machines *ms, struct slice name) { return *name_bucket(ms, name); }
bool machines_status_known(const struct machines *ms, uint16_t status) { return status >= 1 && status <= ms->status_count; }

struct slice machines_status_name(const struct machines *ms, uint16_t status)
{
    check(machines_status_known(ms, status));
    return ms->status_names[status];
}

const struct machine *machines_by_id(const struct machines *ms, uint16_t id) { return id >= 1 && id <= ms->machine_count ? ms->machines[id] : NULL; }

const struct machine *machines_find(const struct machines *ms, struct slice reference)
{
    if (!ms->machine_count) return NULL;
    struct slice wanted = reference.len ? reference : ms->machines[1]->name; /* the first one registered is the default */
    const struct machine *newest = NULL;
    for (unsigned i = 1; i <= ms->machine_count; i++) {
        const struct machine *m = ms->machines[i];
        if (slice_equal(m->reference, wanted)) return m;
        if (slice_equal(m->name, wanted) && (!newest || m->version > newest->version)) newest = m;
    }
    return newest;
}

uint16_t machine_id(const struct machine *m) { return m->id; }
struct slice machine_reference(const struct machine *m) { return m->reference; }
uint16_t machine_initial(const struct machine *m) { return m->initial; }

bool machine_has_state(const struct machine *m, uint16_t status)
{
    for (unsigned i = 0; i < m->state_count; i++)
        if (m->states[i] == status) return true;
    return false;
}

bool machine_terminal(const struct machine *m, uint16_t status)
{
    for (unsigned i = 0; i < m->state_count; i++)
        if (m->states[i] == status) return m->terminal[i];
    return false;
}

const struct machine_edge *machine_edge_by_event(const struct machine *m, uint16_t from, struct slice event)
{
    for (unsigned i = 0; i < m->edge_count; i++)
        if (m->edges[i].from == from && slice_equal(m->edges[i].event, event)) return &m->edges[i];
    return NULL;
}

const struct machine_edge *machine_edge_by_target(const struct machine *m, uint16_t from, uint16_t to, unsigned *count)
{
    const struct machine_edge *first = NULL;
    *count = 0;
    for (unsigned i = 0; i < m->edge_count; i++) {
        if (m->edges[i].from != from || m->edges[i].to != to) continue;
        if (!first) first = &m->edges[i];
        ++*count;
    }
    return first;
}

bool machine_has_event(const struct machine *m, struct slice event)
{
    for (unsigned i = 0; i < m->edge_count; i++)
        if (slice_equal(m->edges[i].event, event)) return true;
    return false;
}

bool machine_event_leads_to(const struct machine *m, struct slice event, uint16_t to)
{
    for (unsigned i = 0; i < m->edge_count; i++)
        if (m->edges[i].to == to && slice_equal(m->edges[i].event, event)) return true;
    return false;
}

bool machine_has_target(const struct machine *m, uint16_t to)
{
    for (unsigned i = 0; i < m->edge_count; i++)
        if (m->edges[i].to == to) return true;
    return false;
}

/* ---- verifying a definition */

#define REFUSE(...) return snprintf(error, 256, __VA_ARGS__), STATUS_FIELD_INVALID

/* Names appear in filters, metrics and URLs one day: letters, digits, '_', '-' alone. In particular no '@', which parts name and version. */
static bool name_valid(const char *s, size_t bytes_max)
{
    size_t n = strlen(s);
    return n >= 1 && n <= bytes_max && strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == n;
}

static int state_index(const Orderdb__V1__StatusMachine *d, const char *name)
{
    for (size_t i = 0; i < d->n_states; i++)
        if (strcmp(d->states[i]->name, name) == 0) return (int)i;
    return -1;
}

static const Orderdb__V1__StatusMachine__Edge *edge_from(const Orderdb__V1__StatusMachine *d, const char *event, const char *from)
{
    for (size_t e = 0; e < d->n_edges; e++)
        for (size_t i = 0; i < d->edges[e]->n_from; i++)
            if ((!event || strcmp(d->edges[e]->event, event) == 0) && strcmp(d->edges[e]->from[i], from) == 0) return d->edges[e];
    return NULL;
}

static enum status verify_states(const Orderdb__V1__StatusMachine *d, char error[256])
{
    unsigned initial_count = 0;
    if (d->n_states < 1 || d->n_states > MACHINE_STATES_MAX) REFUSE("%zu states; 1 to %d", d->n_states, MACHINE_STATES_MAX);
    for (size_t i = 0; i < d->n_states; i++) {
        const Orderdb__V1__StatusMachine__State *s = d->states[i];
        if (!name_valid(s->name, STATUS_NAME_BYTES_MAX)) REFUSE("state %zu has no valid name", i);
        if (state_index(d, s->name) != (int)i) REFUSE("state %s is there twice", s->name);
        initial_count += s->initial != 0;
        const Orderdb__V1__StatusMachine__Edge *out = edge_from(d, NULL, s->name);
        if (s->terminal && out) REFUSE("terminal state %s has the edge %.64s out", s->name, out->event);
        if (!s->terminal && !out) REFUSE("state %s is not terminal and has no edge out", s->name);
        for (size_t t = 0; t < s->n_timers; t++) {
            const Orderdb__V1__StatusMachine__StateTimer *timer = s->timers[t];
            if (!name_valid(timer->timer_id, NAME_BYTES_MAX)) REFUSE("state %s has a timer without a valid timer_id", s->name);
            if (!timer->after || timer->after->seconds < 0 || timer->after->nanos < 0 || timer->after->nanos > 999999999 ||
                (timer->after->seconds == 0 && timer->after->nanos == 0))
                REFUSE("timer %s of state %s needs an `after` above zero", timer->timer_id, s->name);
            if (timer->event[0] && !edge_from(d, timer->event, s->name))
                REFUSE("timer %s: event %.64s is no edge from %s", timer->timer_id, timer->event, s->name);
            for (size_t u = 0; u < t; u++)
                if (strcmp(s->timers[u]->timer_id, timer->timer_id) == 0) REFUSE("state %s has timer %s twice", s->name, timer->timer_id);
        }
    }
    if (initial_count != 1) REFUSE("%u initial states; exactly one", initial_count);
    return STATUS_OK;
}

static enum status verify_required(const Orderdb__V1__StatusMachine__Edge *edge, char error[256])
{
    struct required_field unused;
    if (edge->n_required_fields > REQUIRED_FIELDS_MAX) REFUSE("edge %s: %zu required_fields; at most %d", edge->event, edge->n_required_fields, REQUIRED_FIELDS_MAX);
    for (size_t i = 0; i < edge->n_required_fields; i++) {
        const char *name = edge->required_fields[i];
        if (!required_find(slice_str(name), &unused)) REFUSE("edge %s: required_fields[%zu] is none of %s", edge->event, i, REQUIRED_NAMES);
        for (size_t j = 0; j < i; j++)
            if (strcmp(name, edge->required_fields[j]) == 0) REFUSE("edge %s: required_fields[%zu] is there twice", edge->event, i);
    }
    return STATUS_OK;
}

static enum status verify_edges(const Orderdb__V1__StatusMachine *d, size_t *flat_count, char error[256])
{
    *flat_count = 0;
    if (d->n_edges > MACHINE_EDGES_MAX) REFUSE("%zu edges; at most %d", d->n_edges, MACHINE_EDGES_MAX);
    for (size_t e = 0; e < d->n_edges; e++) {
        const Orderdb__V1__StatusMachine__Edge *edge = d->edges[e];
        if (!name_valid(edge->event, NAME_BYTES_MAX)) REFUSE("edge %zu has no valid event", e);
        if (state_index(d, edge->to) < 0) REFUSE("edge %s leads to %.64s, which is no state", edge->event, edge->to);
        if (!edge->n_from) REFUSE("edge %s has no from", edge->event);
        /* Accepted and not enforced would be worse than refused. */
        if (edge->n_roles) REFUSE("edge %s: roles are not built yet", edge->event);
        enum status st = verify_required(edge, error);
        if (st) return st;
        if ((*flat_count += edge->n_from) > MACHINE_EDGES_MAX) REFUSE("more than %d edges", MACHINE_EDGES_MAX);
        for (size_t i = 0; i < edge->n_from; i++) {
            if (state_index(d, edge->from[i]) < 0) REFUSE("edge %s comes from %.64s, which is no state", edge->event, edge->from[i]);
            for (size_t j = 0; j < i; j++)
                if (strcmp(edge->from[i], edge->from[j]) == 0) REFUSE("edge %s names from %s twice", edge->event, edge->from[i]);
            if (edge_from(d, edge->event, edge->from[i]) != edge) REFUSE("event %s leaves %s twice", edge->event, edge->from[i]);
        }
    }
    return STATUS_OK;
}

static enum status verify_reachable(const Orderdb__V1__StatusMachine *d, char error[256])
{
    uint64_t reached = 0, before;
    static_assert(MACHINE_STATES_MAX <= 64, "the set of states reached is one word");
    for (size_t i = 0; i < d->n_states; i++)
        if (d->states[i]->initial) reached |= 1ull << i;
    do {
        before = reached;
        for (size_t e = 0; e < d->n_edges; e++)
            for (size_t i = 0; i < d->edges[e]->n_from; i++)
                if (reached >> state_index(d, d->edges[e]->from[i]) & 1) reached |= 1ull << state_index(d, d->edges[e]->to);
    } while (reached != before);
    for (size_t i = 0; i < d->n_states; i++)
        if (!(reached >> i & 1)) REFUSE("state %s cannot be reached", d->states[i]->name);
    return STATUS_OK;
}

static enum status verify(const struct machines *ms, const Orderdb__V1__StatusMachine *d, size_t *flat_count, char error[256])
{
    if (!name_valid(d->name, NAME_BYTES_MAX)) REFUSE("the machine has no valid name");
    if (d->version < 1) REFUSE("version %d; from 1", d->version);
    for (unsigned i = 1; i <= ms->machine_count; i++)
        if (slice_equal(ms->machines[i]->name, slice_str(d->name)) && ms->machines[i]->version == d->version)
            REFUSE("%s@%d is there already", d->name, d->version);
    enum status st = verify_edges(d, flat_count, error);
    if (!st) st = verify_states(d, error);
    if (!st) st = verify_reachable(d, error);
    return st;
}

/* ---- adding it */

static uint16_t intern(struct machines *ms, struct slice kept)
{
    uint16_t *b = name_bucket(ms, kept);
    if (*b) return *b;
    *b = (uint16_t)++ms->status_count;
    ms->status_names[*b] = kept;
    return *b;
}

/* NULL: no memory. */
static const struct required_field *keep_required(struct machines *ms, const Orderdb__V1__StatusMachine__Edge *edge)
{
    struct required_field *kept = arena_array(&ms->memory, struct required_field, edge->n_required_fields);
    for (size_t i = 0; kept && i < edge->n_required_fields; i++) {
        struct slice name = arena_copy(&ms->memory, slice_str(edge->required_fields[i]));
        if (!name.data) return NULL;
        check(required_find(name, &kept[i])); /* verify_required */
    }
    return kept;
}

static unsigned names_new(const struct machines *ms, const Orderdb__V1__StatusMachine *d)
{
    unsigned n = 0;
    for (size_t i = 0; i < d->n_states; i++) n += machines_status_id(ms, slice_str(d->states[i]->name)) == 0;
    return n;
}

static enum status add_parsed(struct machines *ms, const Orderdb__V1__StatusMachine *d, char error[256])
{
    size_t flat_count;
    enum status st = verify(ms, d, &flat_count, error);
    if (st) return st;
    if (ms->machine_count == MACHINES_MAX) return snprintf(error, 256, "%d machines; no more", MACHINES_MAX), STATUS_LIMIT_EXCEEDED;
    if (ms->status_count + names_new(ms, d) > STATUS_IDS_MAX)
        return snprintf(error, 256, "more than %d status names", STATUS_IDS_MAX), STATUS_LIMIT_EXCEEDED;

    /* All memory first: a definition is in as a whole or not at all. */
    struct machine *m = arena_zalloc(&ms->memory, sizeof *m + flat_count * sizeof m->edges[0]);
    char *reference = arena_printf(&ms->memory, "%s@%d", d->name, d->version);
    struct slice names[MACHINE_STATES_MAX], events[MACHINE_EDGES_MAX];
    const struct required_field *required[MACHINE_EDGES_MAX];
    bool full = !m || !reference;
    for (size_t i = 0; i < d->n_states && !full; i++) full = !(names[i] = arena_copy(&ms->memory, slice_str(d->states[i]->name))).data;
    for (size_t e = 0; e < d->n_edges && !full; e++) full = !(events[e] = arena_copy(&ms->memory, slice_str(d->edges[e]->event))).data;
    for (size_t e = 0; e < d->n_edges && !full; e++) full = !(required[e] = keep_required(ms, d->edges[e]));
    if (full) return snprintf(error, 256, "no memory"), STATUS_MEMORY_LIMIT;

    m->version = d->version;
    m->reference = slice_str(reference);
    m->name = slice_of(reference, strlen(d->name));
    for (size_t i = 0; i < d->n_states; i++) {
        uint16_t id = intern(ms, names[i]);
        m->states[m->state_count] = id;
        m->terminal[m->state_count++] = d->states[i]->terminal;
        if (d->states[i]->initial) m->initial = id;
    }
    for (size_t e = 0; e < d->n_edges; e++)
        for (size_t i = 0; i < d->edges[e]->n_from; i++)
            m->edges[m->edge_count++] = (struct machine_edge){
                .event = events[e],
                .from = machines_status_id(ms, slice_str(d->edges[e]->from[i])),
                .to = machines_status_id(ms, slice_str(d->edges[e]->to)),
                .required_count = (unsigned)d->edges[e]->n_required_fields,
                .required = required[e],
            };
    m->id = (uint16_t)++ms->machine_count;
    ms->machines[m->id] = m;
    return STATUS_OK;
}
