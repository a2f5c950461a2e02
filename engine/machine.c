#include "engine/machine.h"

#include <pthread.h>
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
 * looking for one is a short walk. Names of statuses and of machines are found through open-addressed tables, since commands name them in text;
 * the versions of a machine hang on one another, newest first.
 *
 * Readers take no lock. A machine is complete before its id is in a bucket or in machine_count (release), and nothing that a reader has found changes or
 * moves. Writers (one partition's load or apply on each core) take the lock. */

enum {
    PARSE_BYTES_MAX = 4 << 20,
    /* Of the registry: MACHINES_MAX definitions of 64 KiB, each once as bytes and once taken apart (edges 10 KiB, timers, names). */
    KEEP_BYTES_MAX = 256 << 20,
    NAME_BUCKETS = 4 * STATUS_IDS_MAX,
    MACHINE_BUCKETS = 2 * MACHINES_MAX,
    NAME_BYTES_MAX = 64,
};
#define TIMER_AFTER_S_MAX (10ll * 366 * 86400)

struct machine {
    uint16_t id, initial;
    int32_t version;
    struct slice name, reference;
    uint16_t statuses_known;      /* status ids that exist once it does */
    const struct machine *older;  /* the version before it; NULL: the first */
    struct slice definition;
    unsigned state_count, edge_count;
    uint16_t states[MACHINE_STATES_MAX];
    bool terminal[MACHINE_STATES_MAX];
    struct machine_timer *timers; /* of all states, in their order */
    uint16_t timer_first[MACHINE_STATES_MAX + 1];
    struct machine_edge edges[];
};

struct machines {
    pthread_mutex_t lock; /* of who adds */
    struct arena memory;
    unsigned machine_count, status_count; /* atomic */
    const struct machine *machines[MACHINES_MAX + 1]; /* by id, from 1 */
    struct slice status_names[STATUS_IDS_MAX + 1];    /* by id, from 1 */
    uint16_t buckets[NAME_BUCKETS];                   /* atomic: status id by hash of its name; 0: free */
    uint16_t newest[MACHINE_BUCKETS];                 /* atomic: id of the newest version by hash of the machine's name; 0: free */
};

static const struct {
    const uint8_t *data;
    size_t len;
} builtins[] = {
#include "engine/machines.inc"
};

static_assert(ARRAY_LEN(builtins) == MACHINES_BUILT_IN, "partitions of older servers know these and no others: a new one is applied, not built in (docs/MACHINES.md)");

/* What is to be added. */
struct addition {
    const Orderdb__V1__StatusMachine *parsed;
    struct slice definition;
    uint16_t id;              /* 0: the next one */
    const uint16_t *statuses; /* id != 0 */
    unsigned status_count;
};
static enum status add_parsed(struct machines *ms, const struct addition *a, char error[256]);
static enum status verify(const Orderdb__V1__StatusMachine *d, size_t *flat_count, char error[256]);

struct machines *machines_new(void)
{
    struct machines *ms = mem_new(struct machines);
    if (!ms) return NULL;
    pthread_mutex_init(&ms->lock, NULL);
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
    pthread_mutex_destroy(&ms->lock);
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

/* NULL: error and *st say why. */
static const Orderdb__V1__StatusMachine *parse_definition(struct parse *parse, struct slice definition, enum status *st, char error[256])
{
    *parse = (struct parse){0};
    arena_init(&parse->arena, PARSE_BYTES_MAX);
    error[0] = 0;
    ProtobufCAllocator allocator = {parse_alloc, parse_free, parse};
    const Orderdb__V1__StatusMachine *d = orderdb__v1__status_machine__unpack(&allocator, definition.len, definition.data);
    *st = d ? STATUS_OK : parse->failed ? STATUS_MEMORY_LIMIT : STATUS_FIELD_INVALID;
    if (!d) snprintf(error, 256, parse->failed ? "no memory" : "not a StatusMachine message");
    return d;
}

static enum status add(struct machines *ms, struct addition a, char error[256])
{
    struct parse parse;
    enum status st;
    a.parsed = parse_definition(&parse, a.definition, &st, error);
    if (a.parsed) {
        pthread_mutex_lock(&ms->lock);
        st = add_parsed(ms, &a, error);
        pthread_mutex_unlock(&ms->lock);
    }
    arena_fini(&parse.arena);
    return st;
}

enum status machines_add(struct machines *ms, struct slice definition, char error[256]) { return add(ms, (struct addition){.definition = definition}, error); }

enum status machines_add_as(struct machines *ms, uint16_t id, const uint16_t *statuses, unsigned status_count, struct slice definition, char error[256])
{
    check(id > 0);
    return add(ms, (struct addition){.definition = definition, .id = id, .statuses = statuses, .status_count = status_count}, error);
}

enum status machine_verify(struct slice definition, char error[256])
{
    struct parse parse;
    enum status st;
    size_t flat_count;
    const Orderdb__V1__StatusMachine *d = parse_definition(&parse, definition, &st, error);
    if (d) st = verify(d, &flat_count, error);
    arena_fini(&parse.arena);
    return st;
}

/* ---- lookups */

static unsigned count_of(const unsigned *count) { return __atomic_load_n(count, __ATOMIC_ACQUIRE); }

/* The status id of the name, or 0 and the bucket where it would go. */
static uint16_t name_find(const struct machines *ms, struct slice name, uint64_t *bucket)
{
    for (uint64_t h = hash64(name);; h++) {
        *bucket = h % NAME_BUCKETS;
        uint16_t id = __atomic_load_n(&ms->buckets[*bucket], __ATOMIC_ACQUIRE);
        if (!id || slice_equal(ms->status_names[id], name)) return id;
    }
}

/* The newest version of a machine, or NULL and the bucket where it would go. */
static const struct machine *newest_find(const struct machines *ms, struct slice name, uint64_t *bucket)
{
    for (uint64_t h = hash64(name);; h++) {
        *bucket = h % MACHINE_BUCKETS;
        uint16_t id = __atomic_load_n(&ms->newest[*bucket], __ATOMIC_ACQUIRE);
        if (!id || slice_equal(ms->machines[id]->name, name)) return id ? ms->machines[id] : NULL;
    }
}

uint16_t machines_status_id(const struct machines *ms, struct slice name)
{
    uint64_t bucket;
    return name_find(ms, name, &bucket);
}

uint16_t machines_status_id_known(const struct machines *ms, uint16_t known, struct slice name)
{
    const struct machine *last = machines_by_id(ms, known);
    uint16_t id = machines_status_id(ms, name);
    return last && id <= last->statuses_known ? id : 0;
}

bool machines_status_known(const struct machines *ms, uint16_t status) { return status >= 1 && status <= count_of(&ms->status_count); }

struct slice machines_status_name(const struct machines *ms, uint16_t status)
{
    check(machines_status_known(ms, status));
    return ms->status_names[status];
}

uint16_t machines_count(const struct machines *ms) { return (uint16_t)count_of(&ms->machine_count); }
const struct machine *machines_by_id(const struct machines *ms, uint16_t id) { return id >= 1 && id <= machines_count(ms) ? ms->machines[id] : NULL; }
const struct machine *machines_find(const struct machines *ms, struct slice reference) { return machines_find_known(ms, UINT16_MAX, reference); }

const struct machine *machines_find_known(const struct machines *ms, uint16_t known, struct slice reference)
{
    uint64_t bucket;
    if (!machines_count(ms)) return NULL;
    struct slice wanted = reference.len ? reference : ms->machines[1]->name; /* the first one registered is the default */
    const uint8_t *at = memchr(wanted.data, '@', wanted.len);
    struct slice name = at ? slice_of(wanted.data, (size_t)(at - wanted.data)) : wanted;
    for (const struct machine *m = newest_find(ms, name, &bucket); m; m = m->older)
        if (m->id <= known && (!at || slice_equal(m->reference, wanted))) return m;
    return NULL;
}

uint16_t machine_id(const struct machine *m) { return m->id; }
struct slice machine_reference(const struct machine *m) { return m->reference; }
struct slice machine_name(const struct machine *m) { return m->name; }
int32_t machine_version(const struct machine *m) { return m->version; }
uint16_t machine_statuses_known(const struct machine *m) { return m->statuses_known; }
struct slice machine_definition(const struct machine *m) { return m->definition; }
const uint16_t *machine_statuses(const struct machine *m, unsigned *count) { return *count = m->state_count, m->states; }
uint16_t machine_initial(const struct machine *m) { return m->initial; }

const struct machine_timer *machine_timers(const struct machine *m, uint16_t status, unsigned *count)
{
    *count = 0;
    for (unsigned i = 0; i < m->state_count; i++) {
        if (m->states[i] != status) continue;
        *count = m->timer_first[i + 1] - m->timer_first[i];
        return m->timers + m->timer_first[i];
    }
    return NULL;
}

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

bool machine_event_reserved(const char *event)
{
    static const char *const events[] = {"create", "import", "update", "set_timer", "cancel_timer", "timer_fired"};
    for (size_t i = 0; i < ARRAY_LEN(events); i++)
        if (strcmp(event, events[i]) == 0) return true;
    return false;
}

/* ---- verifying a definition */

#define REFUSE(...) return snprintf(error, 256, __VA_ARGS__), STATUS_FIELD_INVALID

/* Names appear in filters, metrics and URLs one day: letters, digits, '_', '-' alone. In particular no '@', which parts name and version. */
#define NAME_RULE "1 to 64 of A-Z a-z 0-9 _ -"
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
        if (!name_valid(s->name, STATUS_NAME_BYTES_MAX)) REFUSE("state %zu has no valid name (" NAME_RULE ")", i);
        if (s->n_timers > MACHINE_TIMERS_MAX) REFUSE("state %s has %zu timers; at most %d", s->name, s->n_timers, MACHINE_TIMERS_MAX);
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
            if (timer->after->seconds >= TIMER_AFTER_S_MAX) REFUSE("timer %s of state %s: `after` is at most ten years", timer->timer_id, s->name);
            if (timer->event[0] && !name_valid(timer->event, NAME_BYTES_MAX)) REFUSE("timer %s of state %s has no valid event", timer->timer_id, s->name);
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

static enum status verify(const Orderdb__V1__StatusMachine *d, size_t *flat_count, char error[256])
{
    if (!name_valid(d->name, NAME_BYTES_MAX)) REFUSE("the machine has no valid name (" NAME_RULE ")");
    if (d->version < 0) REFUSE("version %d; from 1, or 0 for the next", d->version);
    enum status st = verify_edges(d, flat_count, error);
    if (!st) st = verify_states(d, error);
    if (!st) st = verify_reachable(d, error);
    return st;
}

/* ---- adding it */

static uint16_t intern(struct machines *ms, struct slice kept)
{
    uint64_t bucket;
    uint16_t id = name_find(ms, kept, &bucket);
    if (id) return id;
    id = (uint16_t)(ms->status_count + 1);
    ms->status_names[id] = kept;
    __atomic_store_n(&ms->status_count, id, __ATOMIC_RELEASE);
    __atomic_store_n(&ms->buckets[bucket], id, __ATOMIC_RELEASE);
    return id;
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

/* The ids that were given elsewhere are those that would be given here. */
static bool ids_follow(const struct machines *ms, const struct addition *a)
{
    unsigned fresh = ms->status_count;
    if (a->id != ms->machine_count + 1 || a->status_count != a->parsed->n_states) return false;
    for (unsigned i = 0; i < a->status_count; i++) {
        uint16_t id = machines_status_id(ms, slice_str(a->parsed->states[i]->name));
        if (a->statuses[i] != (id ? id : ++fresh)) return false;
    }
    return true;
}

/* Of an id that is there already. */
static bool is_the_same(const struct machine *m, const struct addition *a)
{
    return slice_equal(m->definition, a->definition) && m->state_count == a->status_count && memcmp(m->states, a->statuses, a->status_count * sizeof m->states[0]) == 0;
}

static enum status may_add(const struct machines *ms, const struct addition *a, size_t *flat_count, char error[256])
{
    const Orderdb__V1__StatusMachine *d = a->parsed;
    uint64_t bucket;
    enum status st = verify(d, flat_count, error);
    if (st) return st;
    if (d->version < 1) REFUSE("version %d; from 1", d->version);
    const struct machine *newest = newest_find(ms, slice_str(d->name), &bucket);
    if (newest && newest->version >= d->version) REFUSE("%s@%d is there already; versions only go up", d->name, newest->version);
    if (ms->machine_count == MACHINES_MAX) return snprintf(error, 256, "%d machines; no more", MACHINES_MAX), STATUS_LIMIT_EXCEEDED;
    if (ms->status_count + names_new(ms, d) > STATUS_IDS_MAX)
        return snprintf(error, 256, "more than %d status names", STATUS_IDS_MAX), STATUS_LIMIT_EXCEEDED;
    return STATUS_OK;
}

/* What is kept of a definition, in the registry's memory. */
struct kept {
    struct machine *machine;
    char *reference;
    struct slice definition, names[MACHINE_STATES_MAX], events[MACHINE_EDGES_MAX];
    const struct required_field *required[MACHINE_EDGES_MAX];
    struct machine_timer *timers;
};

static bool keep_timers(struct machines *ms, const Orderdb__V1__StatusMachine *d, struct kept *k)
{
    size_t count = 0, n = 0;
    for (size_t i = 0; i < d->n_states; i++) count += d->states[i]->n_timers;
    k->timers = arena_zalloc(&ms->memory, (count + 1) * sizeof *k->timers);
    if (!k->timers) return false;
    for (size_t i = 0; i < d->n_states; i++)
        for (size_t t = 0; t < d->states[i]->n_timers; t++, n++) {
            const Orderdb__V1__StatusMachine__StateTimer *timer = d->states[i]->timers[t];
            k->timers[n].timer_id = arena_copy(&ms->memory, slice_str(timer->timer_id));
            k->timers[n].event = arena_copy(&ms->memory, slice_str(timer->event));
            if (!k->timers[n].timer_id.data || (timer->event[0] && !k->timers[n].event.data)) return false;
            k->timers[n].after_us = timer->after->seconds * US_PER_S + (timer->after->nanos + 999) / 1000; /* never early */
        }
    return true;
}

/* All memory first: a definition is in as a whole or not at all. */
static bool keep(struct machines *ms, const struct addition *a, size_t flat_count, struct kept *k)
{
    const Orderdb__V1__StatusMachine *d = a->parsed;
    k->machine = arena_zalloc(&ms->memory, sizeof *k->machine + flat_count * sizeof k->machine->edges[0]);
    k->reference = arena_printf(&ms->memory, "%s@%d", d->name, d->version);
    k->definition = arena_copy(&ms->memory, a->definition);
    bool full = !k->machine || !k->reference || !k->definition.data || !keep_timers(ms, d, k);
    for (size_t i = 0; i < d->n_states && !full; i++) full = !(k->names[i] = arena_copy(&ms->memory, slice_str(d->states[i]->name))).data;
    for (size_t e = 0; e < d->n_edges && !full; e++) full = !(k->events[e] = arena_copy(&ms->memory, slice_str(d->edges[e]->event))).data;
    for (size_t e = 0; e < d->n_edges && !full; e++) full = !(k->required[e] = keep_required(ms, d->edges[e]));
    return !full;
}

static void fill_states(struct machines *ms, const Orderdb__V1__StatusMachine *d, const struct kept *k)
{
    struct machine *m = k->machine;
    for (size_t i = 0; i < d->n_states; i++) {
        uint16_t id = intern(ms, k->names[i]);
        m->timer_first[i + 1] = (uint16_t)(m->timer_first[i] + d->states[i]->n_timers);
        m->states[m->state_count] = id;
        m->terminal[m->state_count++] = d->states[i]->terminal;
        if (d->states[i]->initial) m->initial = id;
    }
}

static enum status add_parsed(struct machines *ms, const struct addition *a, char error[256])
{
    const Orderdb__V1__StatusMachine *d = a->parsed;
    size_t flat_count;
    uint64_t bucket;
    if (a->id && a->id <= ms->machine_count) {
        if (is_the_same(ms->machines[a->id], a)) return STATUS_OK;
        return snprintf(error, 256, "machine %u is another one", a->id), STATUS_CHECKSUM_MISMATCH;
    }
    enum status st = may_add(ms, a, &flat_count, error);
    if (st) return st;
    if (a->id && !ids_follow(ms, a)) return snprintf(error, 256, "the ids of %s@%d do not follow those before", d->name, d->version), STATUS_CHECKSUM_MISMATCH;
    struct kept k = {0};
    if (!keep(ms, a, flat_count, &k)) return snprintf(error, 256, "no memory"), STATUS_MEMORY_LIMIT;
    struct machine *m = k.machine;
    m->definition = k.definition;
    m->timers = k.timers;
    m->version = d->version;
    m->reference = slice_str(k.reference);
    m->name = slice_of(k.reference, strlen(d->name));
    fill_states(ms, d, &k);
    for (size_t e = 0; e < d->n_edges; e++)
        for (size_t i = 0; i < d->edges[e]->n_from; i++)
            m->edges[m->edge_count++] = (struct machine_edge){
                .event = k.events[e],
                .from = machines_status_id(ms, slice_str(d->edges[e]->from[i])),
                .to = machines_status_id(ms, slice_str(d->edges[e]->to)),
                .required_count = (unsigned)d->edges[e]->n_required_fields,
                .required = k.required[e],
            };
    m->statuses_known = (uint16_t)ms->status_count;
    m->older = newest_find(ms, m->name, &bucket);
    m->id = (uint16_t)(ms->machine_count + 1);
    ms->machines[m->id] = m;
    __atomic_store_n(&ms->machine_count, m->id, __ATOMIC_RELEASE);
    __atomic_store_n(&ms->newest[bucket], m->id, __ATOMIC_RELEASE);
    return STATUS_OK;
}
