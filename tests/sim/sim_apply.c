/* Random lives of a partition against the model (tests/lib/model.h).
 *
 * A run draws commands (creates, transitions, updates, imports, fences, batches, timers that are set, cancelled and fire; retries, reused ids, races on a version, expiry by jumps of time, some of
 * more than 400 days, clocks that go back), packs 1 to 20 of them into entries, and feeds the entries to the model and to two partitions. Some entries are one batch that is not atomic, with requests
 * twice in it, or the last such batch once more. The partitions flush and crash at moments of their own; a crash forgets all that was not flushed, and the entries
 * behind the flushed applied index are applied again. Shown:
 *   - each answer is the model's, and a replayed entry answers what it answered first, from whatever index the replay began;
 *   - the rows are the model's: heads, bodies, histories without gaps, chain hashes, client numbers, lists, counts, slot records;
 *   - both partitions end with identical rows, but for expired idempotency records, which each may have dropped or not.
 *
 *   sim_apply [--seed N] [--seeds N] [--seconds N]      --seed: that one alone */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/mem.h"
#include "proto/pbwire.h"
#include "tests/lib/model.h"
#include "tests/lib/rig.h"
#include "tests/lib/test.h"

enum { ENTRIES_MAX = 300, COMMANDS_MAX = 20, USERS = 10, REQUESTS_MAX = 64, NUMBERS = 30 };
#define DAYS_400_US (400 * 86400ull * 1000000) /* beyond any idempotency_ttl */

struct sim_entry {
    uint64_t log_time_us;
    unsigned count;
    struct slice commands[COMMANDS_MAX];
    uint64_t digests[COMMANDS_MAX];
};
struct sim {
    struct test_random random;
    struct machines *ms;
    struct model model;
    struct rig rigs[2];
    struct arena arena;      /* commands; lives as long as the run */
    struct arena outcomes;   /* of one entry */
    struct sim_entry entries[ENTRIES_MAX];
    unsigned entry_count, users;
    uint64_t clock_us, ttl_us_max;
    struct command sent[REQUESTS_MAX]; /* with a request id: to be sent again */
    unsigned sent_count;
    struct command batch; /* the last atomic one */
    struct command burst[COMMANDS_MAX]; /* the requests of the last BatchTransitionOrders or BatchCreateOrders without atomic */
    unsigned burst_count;
    uint64_t next_request;
    char user_names[USERS][16];
    unsigned commands, replays, crashes;
};

/* How often each kind of answer was given, over all runs: a kind that never came up would be a hole in the draw. */
static uint64_t seen_bursts, seen_burst_replays;
static uint64_t seen[STATUS_COUNT], seen_replayed, seen_already_there, seen_late, seen_applied, seen_fenced_late, seen_fired, seen_batches[3];
static uint64_t seed_now;
static void on_abort(int sig)
{
    char line[80];
    int n = snprintf(line, sizeof line, "not ok sim_apply: repeat with --seed %llu\n", (unsigned long long)seed_now);
    if (write(STDOUT_FILENO, line, (size_t)n) < 0) _exit(1);
    signal(sig, SIG_DFL);
}

static uint64_t below(struct sim *s, uint64_t n) { return test_random_below(&s->random, n); }
static bool chance(struct sim *s, unsigned percent) { return below(s, 100) < percent; }

static struct slice kept(const char *p)
{
    check(p);
    return slice_str(p);
}
#define text(s, format, n) kept(arena_printf(&(s)->arena, format, (unsigned long long)(n)))

/* ---- drawing commands */

/* Two users of one slot, so that a slot's ids and seqs are shared. */
static void name_users(struct sim *s)
{
    snprintf(s->user_names[0], sizeof s->user_names[0], "user-0");
    for (unsigned i = 1, n = 1; i < USERS; n++) {
        snprintf(s->user_names[i], sizeof s->user_names[i], "user-%u", n);
        if (i != 1 || slot_of_user(slice_str(s->user_names[1])) == slot_of_user(slice_str(s->user_names[0]))) i++;
    }
}

static struct slice any_user(struct sim *s) { return slice_str(s->user_names[below(s, s->users)]); }

static void draw_origin(struct sim *s, struct command *c, bool always)
{
    c->origin.ttl_us = 1 + below(s, s->ttl_us_max);
    if (always || chance(s, 70)) c->origin.request_id = text(s, "request-%016llx", s->next_request++);
    if (chance(s, 30)) c->origin.operator_ = text(s, "operator-%llu", below(s, 9));
    if (chance(s, 30)) c->origin.reason = text(s, "reason %llu", below(s, 9));
    if (chance(s, 20)) c->origin.traceparent = SLICE_LIT("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
}

static struct slice draw_machine(struct sim *s)
{
    static const char *const references[] = {"", "retail", "retail@1", "loop", "loop@1", "retail@2", "lo"};
    return slice_str(references[chance(s, 85) ? below(s, 5) : below(s, ARRAY_LEN(references))]);
}

/* Drawn content; the fingerprint need only differ when the content does. */
static void stamp(struct sim *s, struct command *c)
{
    c->origin.fingerprint = (struct hash128){test_random_next(&s->random), s->next_request};
}

/* One field of text, as wire bytes. */
static struct slice draw_field(struct sim *s, uint32_t number)
{
    uint8_t bytes[64];
    struct writer w = writer_of(bytes, sizeof bytes);
    pb_bytes(&w, number, text(s, "content %llu", below(s, 1000)));
    check(!w.full);
    return arena_copy(&s->arena, writer_slice(&w));
}

/* merchant_id, and order_type. */
static struct slice draw_summary(struct sim *s)
{
    uint8_t bytes[128];
    struct writer w = writer_of(bytes, sizeof bytes);
    if (chance(s, 70)) pb_bytes(&w, 3, text(s, "m%llu", below(s, 5)));
    write_slice(&w, draw_field(s, 5));
    check(!w.full);
    return arena_copy(&s->arena, writer_slice(&w));
}

/* Items, a SKU twice now and then, and extension. */
static struct slice draw_detail(struct sim *s)
{
    uint8_t bytes[256], sku[32];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (uint64_t n = below(s, 4); n; n--) {
        struct writer item = writer_of(sku, sizeof sku);
        pb_bytes(&item, 1, text(s, "sku%llu", below(s, 8)));
        struct slice part = writer_slice(&item);
        pb_message(&w, 20, &part, 1);
    }
    write_slice(&w, draw_field(s, 41));
    check(!w.full);
    return arena_copy(&s->arena, writer_slice(&w));
}

static struct command draw_create(struct sim *s)
{
    struct command c = {.type = COMMAND_CREATE};
    draw_origin(s, &c, true);
    c.create.user_id = any_user(s);
    if (chance(s, 60)) c.create.client_order_no = text(s, "no-%llu", below(s, NUMBERS));
    c.create.machine = draw_machine(s);
    c.create.summary = draw_summary(s);
    c.create.detail = draw_detail(s);
    stamp(s, &c);
    return c;
}

static const struct model_order *any_order(struct sim *s) { return s->model.order_count ? &s->model.orders[below(s, s->model.order_count)] : NULL; }

static void draw_edge(struct sim *s, const struct model_order *o, struct command_transition *t)
{
    const char *status = o ? o->entries[o->count - 1].to : "PAID";
    size_t n = 0, fit = 0;
    for (; model_edges[n][0]; n++) {}
    size_t pick = below(s, n);
    for (size_t i = 0; i < n && chance(s, 90); i++) /* mostly an edge that is possible now */
        if (strcmp(model_edges[i][2], status) == 0 && below(s, ++fit) == 0) pick = i;
    if (chance(s, 75)) t->event = slice_str(model_edges[pick][1]);
    else t->to_status = slice_str(model_edges[pick][3]);
    if (chance(s, 3)) *t = (struct command_transition){.event = SLICE_LIT("teleport")};
    if (chance(s, 3)) *t = (struct command_transition){.to_status = SLICE_LIT("NOWHERE")};
}

static struct content_change draw_change(struct sim *s)
{
    struct content_change change = {0};
    if (chance(s, 60)) change.fields |= 1ull << 5, change.summary = chance(s, 80) ? draw_field(s, 5) : (struct slice){0};
    if (!change.fields || chance(s, 40)) change.fields |= 1ull << 41, change.detail = chance(s, 80) ? draw_field(s, 41) : (struct slice){0};
    return change;
}

static struct command draw_transition(struct sim *s)
{
    static const char *const names[] = {"PENDING_PAYMENT", "PAID", "SHIPPED", "OPEN", "DELIVERED", "NOWHERE"};
    struct command c = {.type = COMMAND_TRANSITION};
    const struct model_order *o = any_order(s);
    draw_origin(s, &c, false);
    draw_edge(s, o, &c.transition);
    c.transition.order_id = !o || chance(s, 3) ? (int64_t)(test_random_next(&s->random) >> 1) : o->id;
    if (o && chance(s, 30)) c.transition.expected_version = MAX_OF(1, (int64_t)o->count - (int64_t)below(s, 2));
    if (o && chance(s, 30)) {
        unsigned n = 1 + (unsigned)below(s, 3);
        for (unsigned i = 0; i < n; i++)
            c.transition.expected_statuses[i] = slice_str(chance(s, 60) ? o->entries[o->count - 1].to : names[below(s, ARRAY_LEN(names))]);
        c.transition.expected_status_count = n;
    }
    if (chance(s, 40)) c.type = COMMAND_PATCH, c.transition.patch = draw_change(s);
    stamp(s, &c);
    return c;
}

static struct command draw_update(struct sim *s)
{
    struct command c = {.type = COMMAND_UPDATE};
    const struct model_order *o = any_order(s);
    draw_origin(s, &c, false);
    c.update.order_id = !o || chance(s, 3) ? (int64_t)(test_random_next(&s->random) >> 1) : o->id;
    if (o && chance(s, 30)) c.update.expected_version = MAX_OF(1, (int64_t)o->count - (int64_t)below(s, 2));
    c.update.change = draw_change(s);
    stamp(s, &c);
    return c;
}

static const struct model_timers *timers_of(const struct model_order *o) { return o ? o->entries[o->count - 1].timers : NULL; }

static struct slice draw_timer_id(struct sim *s, const struct model_order *o)
{
    static const char *const ids[] = {"pay_timeout", "auto_confirm", "nag", "finish"};
    const struct model_timers *ts = timers_of(o);
    if (ts && chance(s, 40)) return ts->at[below(s, ts->count)].id;
    return chance(s, 40) ? slice_str(ids[below(s, ARRAY_LEN(ids))]) : text(s, "timer-%llu", below(s, 20));
}

static struct command draw_set_timer(struct sim *s)
{
    static const char *const names[] = {"PENDING_PAYMENT", "PAID", "SHIPPED", "OPEN", "DELIVERED", "NOWHERE"};
    struct command c = {.type = COMMAND_SET_TIMER};
    struct command_set_timer *t = &c.set_timer;
    const struct model_order *o = s->model.order_count && chance(s, 30) ? &s->model.orders[0] : any_order(s); /* one that comes to have many */
    struct command_transition edge = {0};
    draw_origin(s, &c, false);
    t->order_id = !o || chance(s, 3) ? (int64_t)(test_random_next(&s->random) >> 1) : o->id;
    t->timer_id = draw_timer_id(s, o);
    t->fire_us = (int64_t)s->clock_us + (int64_t)below(s, 300000) - 20000;
    if (chance(s, 5)) t->fire_us = chance(s, 50) ? -1 : (int64_t)s->clock_us + TIMER_AHEAD_US_MAX + (int64_t)below(s, 60000000) - 20000000;
    if (chance(s, 60)) draw_edge(s, o, &edge);
    t->event = edge.event;
    if (t->event.len && chance(s, 40))
        for (unsigned n = 1 + (unsigned)below(s, 3); n; n--)
            t->expected_statuses[t->expected_status_count++] = slice_str(o && chance(s, 60) ? o->entries[o->count - 1].to : names[below(s, ARRAY_LEN(names))]);
    stamp(s, &c);
    return c;
}

static struct command draw_cancel_timer(struct sim *s)
{
    struct command c = {.type = COMMAND_CANCEL_TIMER};
    const struct model_order *o = any_order(s);
    draw_origin(s, &c, false);
    c.cancel_timer.order_id = !o || chance(s, 3) ? (int64_t)(test_random_next(&s->random) >> 1) : o->id;
    c.cancel_timer.timer_id = draw_timer_id(s, o);
    stamp(s, &c);
    return c;
}

/* Timers that are due, some that are not yet, some that have gone. */
static struct command draw_fire(struct sim *s)
{
    struct command c = {.type = COMMAND_FIRE, .fire.floor_us = below(s, 2) ? s->clock_us : 0};
    uint8_t bytes[24 * COMMAND_FIRE_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    for (unsigned tries = 0; tries < 60 && c.fire.count < 24; tries++) {
        const struct model_order *o = any_order(s);
        if (!o) break;
        const struct model_entry *e = &o->entries[chance(s, 90) ? o->count - 1 : below(s, o->count)];
        if (!e->timers) continue;
        const struct model_timer *t = &e->timers->at[below(s, e->timers->count)];
        bool due = t->fire_us <= (int64_t)s->clock_us;
        if (!due && chance(s, 80)) continue;
        write_be64(&w, (uint64_t)t->fire_us);
        write_be64(&w, (uint64_t)o->id);
        write_u8(&w, t->no);
        c.fire.count++;
    }
    c.fire.packed = arena_copy(&s->arena, writer_slice(&w));
    return c;
}

/* A legal past, as check_import would have let it through: a walk along the machine's edges. */
static struct command draw_import(struct sim *s)
{
    struct command c = {.type = COMMAND_IMPORT};
    bool loop = chance(s, 20);
    const char *machine = loop ? "loop@1" : "retail@1", *status = loop ? "OPEN" : "PENDING_PAYMENT";
    size_t length = 1 + below(s, 8);
    struct history_entry *h = arena_array(&s->arena, struct history_entry, length);
    int64_t time_us = chance(s, 10) ? -(int64_t)below(s, 1000000) : (int64_t)s->clock_us - 50000000 + (int64_t)below(s, 100000000);
    if (time_us % 3 == 0) c.type = COMMAND_IMPORT_UNTOLD;
    c.import.user_id = any_user(s);
    c.import.client_order_no = text(s, "no-%llu", below(s, NUMBERS));
    c.import.machine = slice_str(machine);
    c.import.summary = draw_summary(s);
    c.import.detail = draw_detail(s);
    c.import.history = h;
    h[0] = (struct history_entry){.version = 1, .time_us = time_us, .to = machines_status_id(s->ms, slice_str(status)), .event = SLICE_LIT("import")};
    for (c.import.history_count = 1; c.import.history_count < length; c.import.history_count++) {
        const char *const *edge = NULL;
        size_t fit = 0;
        for (size_t i = 0; model_edges[i][0]; i++)
            if (strcmp(model_edges[i][0], machine) == 0 && strcmp(model_edges[i][2], status) == 0 && below(s, ++fit) == 0) edge = model_edges[i];
        if (!edge) break;
        struct history_entry *e = &h[c.import.history_count];
        time_us += (int64_t)below(s, 2000000);
        *e = (struct history_entry){.version = c.import.history_count + 1, .time_us = time_us, .event = slice_str(edge[1])};
        e->from = machines_status_id(s->ms, slice_str(edge[2]));
        e->to = machines_status_id(s->ms, slice_str(edge[3]));
        e->operator_ = chance(s, 50) ? text(s, "then-%llu", below(s, 5)) : (struct slice){0};
        e->request_id = chance(s, 50) ? text(s, "old-request-%llu", below(s, 1000)) : (struct slice){0};
        status = edge[3];
    }
    return c;
}

/* A request id seen before: the same request again, or another one under its name. */
static struct command draw_again(struct sim *s)
{
    struct command c = s->sent[below(s, s->sent_count)];
    c.origin.ttl_us = 1 + below(s, s->ttl_us_max);
    if (c.type == COMMAND_SET_TIMER || c.type == COMMAND_CANCEL_TIMER) {
        struct command other = c.type == COMMAND_SET_TIMER ? draw_set_timer(s) : draw_cancel_timer(s);
        if (chance(s, 70)) return c;
        other.origin.request_id = c.origin.request_id;
        if (c.type == COMMAND_SET_TIMER) other.set_timer.order_id = c.set_timer.order_id;
        else other.cancel_timer.order_id = c.cancel_timer.order_id;
        return other;
    }
    if (chance(s, 30)) {
        struct slice id = c.origin.request_id;
        struct slice user = c.type == COMMAND_CREATE ? c.create.user_id : (struct slice){0};
        int64_t order_id = c.type == COMMAND_UPDATE ? c.update.order_id : c.type == COMMAND_CREATE ? 0 : c.transition.order_id;
        c = c.type == COMMAND_CREATE ? draw_create(s) : c.type == COMMAND_UPDATE ? draw_update(s) : draw_transition(s);
        c.origin.request_id = id;
        if (user.len) c.create.user_id = user;
        else if (c.type == COMMAND_UPDATE) c.update.order_id = order_id;
        else c.transition.order_id = order_id;
    }
    return c;
}

/* An id that was sent before, or one that may be sent next, or never. */
static struct command draw_fence(struct sim *s)
{
    uint64_t ttl_us = chance(s, 75) ? COMMAND_FOR_EVER_US : 1 + below(s, s->ttl_us_max); /* logs of older releases have an end to theirs */
    struct command c = {.type = COMMAND_FENCE, .origin.ttl_us = ttl_us, .fence.user_id = any_user(s)};
    const struct model_memory *r = s->model.memory_count && chance(s, 40) ? &s->model.memories[below(s, s->model.memory_count)] : NULL;
    if (r) c.origin.request_id = r->request_id, c.fence.user_id = r->user_id;
    else if (s->sent_count && chance(s, 40)) c.origin.request_id = s->sent[below(s, s->sent_count)].origin.request_id;
    else c.origin.request_id = text(s, "request-%016llx", s->next_request + below(s, 5));
    return c;
}

static void keep_sent(struct sim *s, struct command c)
{
    unsigned at = s->sent_count < REQUESTS_MAX ? s->sent_count++ : (unsigned)below(s, REQUESTS_MAX);
    s->sent[at] = c;
}

static bool collides(const struct command *creates, unsigned n)
{
    const struct command *c = &creates[n];
    for (unsigned i = 0; i < n; i++)
        if (slice_equal(c->origin.request_id, creates[i].origin.request_id) ||
            (c->create.client_order_no.len && slice_equal(c->create.client_order_no, creates[i].create.client_order_no)))
            return true;
    return false;
}

/* Creates of one user, new ones and some that were sent before, alone or in a batch; or the last batch once more. */
static struct command draw_batch(struct sim *s)
{
    struct command c = {.type = COMMAND_BATCH}, creates[6];
    if (s->batch.batch.count && chance(s, 30)) return s->batch;
    uint8_t bytes[8192];
    struct writer w = writer_of(bytes, sizeof bytes);
    c.batch.user_id = any_user(s);
    unsigned wanted = 1 + (unsigned)below(s, ARRAY_LEN(creates));
    bool rare_refusals = chance(s, 70); /* else most batches would not get through */
    for (unsigned tries = 0; c.batch.count < wanted && tries < 50; tries++) {
        struct command *create = &creates[c.batch.count];
        *create = draw_create(s);
        if (rare_refusals) create->create.machine = SLICE_LIT("retail"), create->create.client_order_no = (struct slice){0};
        if (s->sent_count && chance(s, 5)) *create = s->sent[below(s, s->sent_count)];
        if (create->type != COMMAND_CREATE) continue;
        create->create.user_id = c.batch.user_id;
        if (collides(creates, c.batch.count)) continue;
        write_counted(&w, command_encode(create, &s->arena));
        if (chance(s, 20)) keep_sent(s, *create);
        c.batch.count++;
    }
    check(!w.full);
    check(c.batch.count > 0);
    c.batch.packed = arena_copy(&s->arena, writer_slice(&w));
    return s->batch = c;
}

static struct command draw(struct sim *s)
{
    struct command c;
    uint64_t kind = below(s, 100);
    if (s->sent_count && kind < 20) return draw_again(s);
    if (kind < 26) return draw_fire(s);
    if (kind < 45) c = draw_create(s);
    else if (kind < 67) c = draw_transition(s);
    else if (kind < 75) c = draw_set_timer(s);
    else if (kind < 78) c = draw_cancel_timer(s);
    else if (kind < 88) c = draw_update(s);
    else if (kind < 92) return draw_fence(s);
    else if (kind < 95) return draw_batch(s);
    else c = draw_import(s);
    if (c.origin.request_id.len) keep_sent(s, c);
    return c;
}

/* A batch that is not atomic: requests of their own that come as one entry, in their order: creates of one user, or the steps of a few orders, where a step that
 * is too early or comes twice is refused or replayed by itself. Now and then the last batch once more, with holes, as after an answer that was lost. */
static unsigned draw_burst(struct sim *s, struct command *out)
{
    unsigned n = 0;
    if (s->burst_count && chance(s, 40)) {
        for (unsigned i = 0; i < s->burst_count; i++)
            if (chance(s, 90)) out[n++] = s->burst[i];
        return n;
    }
    bool creates = chance(s, 40);
    struct slice user = any_user(s);
    const struct model_order *orders[3] = {any_order(s), any_order(s), any_order(s)};
    unsigned wanted = 2 + (unsigned)below(s, COMMANDS_MAX - 1);
    for (; n < wanted; n++) {
        struct command *c = &out[n];
        if (n && chance(s, 15)) {
            *c = out[below(s, n)]; /* the same request twice in one batch */
            continue;
        }
        *c = creates ? draw_create(s) : draw_transition(s);
        if (!c->origin.request_id.len) c->origin.request_id = text(s, "request-%016llx", s->next_request++);
        const struct model_order *o = orders[below(s, ARRAY_LEN(orders))];
        if (creates) c->create.user_id = user;
        else if (o) c->transition.order_id = o->id;
        if (n && chance(s, 3)) c->origin.request_id = out[below(s, n)].origin.request_id; /* another one under its id */
    }
    memcpy(s->burst, out, n * sizeof *out);
    s->burst_count = n;
    return n;
}

static void move_clock(struct sim *s)
{
    uint64_t kind = below(s, 100);
    if (kind < 10) return; /* the same microsecond */
    if (kind < 15) s->clock_us -= below(s, 5000000);
    else if (kind < 18) s->clock_us += below(s, 3 * s->ttl_us_max);
    else if (kind < 19) s->clock_us += DAYS_400_US + below(s, DAYS_400_US);
    else s->clock_us += below(s, 20000);
}

/* ---- partitions */

static void feed(struct sim *s, struct rig *r, const struct sim_entry *e, struct outcome *outcomes)
{
    arena_reset(&s->outcomes);
    check(rig_apply(r, e->log_time_us, e->commands, e->count, &s->outcomes, outcomes) == STATUS_OK);
}

/* Everything behind what the disk has, once more. */
static void recover(struct sim *s, struct rig *r)
{
    static struct outcome outcomes[COMMANDS_MAX];
    rig_crash(r);
    s->crashes++;
    for (uint64_t i = r->record.applied_index; i < s->entry_count; i++) {
        const struct sim_entry *e = &s->entries[i];
        bool waited = chance(s, 50);
        feed(s, r, e, waited ? outcomes : NULL);
        s->replays++;
        for (unsigned k = 0; waited && k < e->count; k++) check(outcome_digest(&outcomes[k]) == e->digests[k]);
    }
}

static void step(struct sim *s)
{
    static struct outcome outcomes[2][COMMANDS_MAX];
    static struct model_outcome expected[COMMANDS_MAX];
    static struct command burst[COMMANDS_MAX];
    struct sim_entry *e = &s->entries[s->entry_count];
    move_clock(s);
    *e = (struct sim_entry){.log_time_us = s->clock_us, .count = 1 + (unsigned)below(s, chance(s, 50) ? 3 : COMMANDS_MAX)};
    model_begin(&s->model, e->log_time_us);
    unsigned burst_count = chance(s, 15) ? draw_burst(s, burst) : 0;
    if (burst_count) e->count = burst_count;
    for (unsigned i = 0; i < e->count; i++) {
        struct command c = burst_count ? burst[i] : draw(s);
        e->commands[i] = command_encode(&c, &s->arena);
        check(e->commands[i].data);
        expected[i] = model_apply(&s->model, &c);
    }
    for (unsigned i = 0; i < e->count; i++) {
        seen[expected[i].status]++;
        seen_replayed += expected[i].replayed;
        seen_burst_replays += burst_count && expected[i].replayed;
        seen_applied += expected[i].applied;
        seen_batches[expected[i].status ? 0 : 1 + expected[i].replayed] += expected[i].batch;
        seen_late += !expected[i].batch && expected[i].replayed && expected[i].version < s->model.orders[expected[i].order].count;
        seen_already_there += expected[i].already_there;
        seen_fenced_late += expected[i].fenced_us && s->model.now_us - expected[i].fenced_us > DAYS_400_US;
        seen_fired += expected[i].fired;
    }
    seen_bursts += burst_count > 0;
    s->entry_count++;
    s->commands += e->count;
    for (unsigned p = 0; p < 2; p++) {
        struct rig *r = &s->rigs[p];
        feed(s, r, e, outcomes[p]);
        for (unsigned i = 0; i < e->count; i++) {
            model_check_outcome(&s->model, &expected[i], &outcomes[p][i], s->ms);
            e->digests[i] = p ? e->digests[i] : outcome_digest(&outcomes[p][i]);
            check(e->digests[i] == outcome_digest(&outcomes[p][i]));
        }
        if (chance(s, p ? 25 : 7)) rig_flush(r);
        if (chance(s, p ? 5 : 4)) recover(s, r);
    }
}

/* ---- both partitions hold the same rows */

static bool skip_expired(const struct store_iter *it, uint64_t now_us)
{
    struct slice key = store_iter_key(it), value = store_iter_value(it);
    return key.len > 2 && key.data[2] == KEY_DEDUP && get_be64(value.data) <= now_us;
}

static void settle(struct store_iter *it, uint64_t now_us)
{
    while (store_iter_valid(it) && skip_expired(it, now_us)) store_iter_next(it);
}

static void check_equal(struct sim *s)
{
    struct store_iter *it[2];
    uint64_t now_us = s->rigs[0].record.log_time_us;
    for (unsigned p = 0; p < 2; p++) {
        struct store_view view = rig_view(&s->rigs[p]);
        it[p] = store_iter_open(&view, SLICE_LIT(""), SLICE_LIT("\xff\xff\xff\xff"));
        store_iter_first(it[p]);
    }
    for (;;) {
        settle(it[0], now_us);
        settle(it[1], now_us);
        check(store_iter_valid(it[0]) == store_iter_valid(it[1]));
        if (!store_iter_valid(it[0])) break;
        check(slice_equal(store_iter_key(it[0]), store_iter_key(it[1])));
        check(slice_equal(store_iter_value(it[0]), store_iter_value(it[1])));
        store_iter_next(it[0]);
        store_iter_next(it[1]);
    }
    store_iter_close(it[0]);
    store_iter_close(it[1]);
}

/* What timers came to, by the histories. */
static uint64_t seen_reasons[5];
static void count_reasons(const struct model *m)
{
    static const char *const whys[] = {"which was not expected", "does not lead out of", "requires"};
    for (unsigned i = 0; i < m->order_count; i++)
        for (const struct model_entry *e = m->orders[i].entries; e < m->orders[i].entries + m->orders[i].count; e++) {
            if (!slice_equal(e->operator_, SLICE_LIT("timer"))) continue;
            unsigned kind = strcmp(e->event, "timer_fired") ? 0 : 1;
            for (unsigned k = 0; k < ARRAY_LEN(whys); k++)
                if (memmem(e->reason.data, e->reason.len, whys[k], strlen(whys[k]))) kind = 2 + k;
            seen_reasons[kind]++;
        }
}

static struct sim *run(uint64_t seed)
{
    static struct sim s;
    s = (struct sim){.random = {seed * 0x9e3779b97f4a7c15ull + 1}, .clock_us = 1767225600000000, .ms = model_machines_new()};
    for (int i = 0; i < 8; i++) test_random_next(&s.random);
    s.users = 1 + (unsigned)below(&s, USERS);
    s.ttl_us_max = chance(&s, 50) ? 100000 : 604800000000;
    name_users(&s);
    arena_init(&s.arena, 1 << 30);
    arena_init(&s.outcomes, 16 << 20);
    model_init(&s.model);
    for (unsigned p = 0; p < 2; p++) rig_open(&s.rigs[p], s.ms);
    rig_cache(&s.rigs[1], 8 * KIB); /* one of them: they must come to the same */
    unsigned entries = 10 + (unsigned)below(&s, ENTRIES_MAX - 10);
    while (s.entry_count < entries) step(&s);
    for (unsigned p = 0; p < 2; p++) {
        struct store_view view = rig_view(&s.rigs[p]);
        model_check_store(&s.model, &view, s.ms);
        check(s.rigs[p].record.order_count == (int64_t)s.model.order_count);
        check(s.rigs[p].record.applied_index == s.entry_count);
    }
    check_equal(&s);
    count_reasons(&s.model);
    for (unsigned p = 0; p < 2; p++) rig_close(&s.rigs[p]);
    model_fini(&s.model);
    arena_fini(&s.arena);
    arena_fini(&s.outcomes);
    machines_free(s.ms);
    return &s;
}

static void check_coverage(void)
{
    static const enum status kinds[] = {
        STATUS_OK, STATUS_ORDER_NOT_FOUND, STATUS_MACHINE_NOT_FOUND, STATUS_CLIENT_ORDER_NO_TAKEN, STATUS_STATUS_MISMATCH, STATUS_EDGE_NOT_DEFINED,
        STATUS_IDEMPOTENCY_KEY_REUSED, STATUS_VERSION_MISMATCH, STATUS_FIELD_INVALID, STATUS_REQUEST_FENCED, STATUS_FIELD_REQUIRED, STATUS_TIMER_NOT_FOUND, STATUS_LIMIT_EXCEEDED,
    };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        printf("# %-24s %8llu\n", status_name(kinds[i]), (unsigned long long)seen[kinds[i]]);
        check(seen[kinds[i]] > 0);
    }
    printf("# %-24s %8llu, %llu of them of an older version\n", "replayed", (unsigned long long)seen_replayed, (unsigned long long)seen_late);
    printf("# %-24s %8llu\n", "already there", (unsigned long long)seen_already_there);
    check(seen_replayed > 0);
    check(seen_late > 0);
    check(seen_already_there > 0);
    check(seen_applied > 0);
    printf("# %-24s %8llu\n", "fenced 400 days ago", (unsigned long long)seen_fenced_late);
    check(seen_fenced_late > 0);
    check(seen_fired > 0);
    for (unsigned i = 0; i < ARRAY_LEN(seen_reasons); i++) check(seen_reasons[i] > 0);
    printf("# timers fired: %llu; moved %llu, told %llu, not expected %llu, no edge %llu, required %llu\n", (unsigned long long)seen_fired, (unsigned long long)seen_reasons[0],
           (unsigned long long)seen_reasons[1], (unsigned long long)seen_reasons[2], (unsigned long long)seen_reasons[3], (unsigned long long)seen_reasons[4]);
    printf("# batches: refused %llu, done %llu, replayed %llu\n", (unsigned long long)seen_batches[0], (unsigned long long)seen_batches[1], (unsigned long long)seen_batches[2]);
    for (int i = 0; i < 3; i++) check(seen_batches[i] > 0);
    printf("# batches that are not atomic: %llu, requests of them replayed %llu\n", (unsigned long long)seen_bursts, (unsigned long long)seen_burst_replays);
    check(seen_bursts > 0);
    check(seen_burst_replays > 0);
}

int main(int argc, char **argv)
{
    uint64_t first = 1, seeds = 400, commands = 0, replays = 0, crashes = 0;
    double seconds = 30;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
        else if (strcmp(argv[i], "--seeds") == 0) seeds = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seconds") == 0) seconds = atof(argv[i + 1]);
        else return fprintf(stderr, "sim_apply [--seed N] [--seeds N] [--seconds N]\n"), 2;
    }
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    signal(SIGABRT, on_abort);
    uint64_t done = 0;
    for (; done < seeds; done++) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((double)(now.tv_sec - begin.tv_sec) + (double)(now.tv_nsec - begin.tv_nsec) / 1e9 > seconds) break;
        seed_now = first + done;
        const struct sim *s = run(seed_now);
        commands += s->commands, replays += s->replays, crashes += s->crashes;
    }
    check(done > 0);
    if (seeds > 20) check_coverage();
    printf("ok sim_apply # %llu seeds from %llu, %llu commands, %llu crashes, %llu entries replayed\n", (unsigned long long)done, (unsigned long long)first,
           (unsigned long long)commands, (unsigned long long)crashes, (unsigned long long)replays);
    return 0;
}
