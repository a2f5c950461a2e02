#include "engine/check_group.h"

#include "engine/check_local.h"
#include "engine/command.h"
#include "engine/filter.h"
#include "proto/route.h"

/* Field names are those of the request: group.retry.max_attempts. */

#define DURATION_US_MAX ((uint64_t)7 * 86400 * US_PER_S)
#define BACKOFF_US_MAX ((uint64_t)86400 * US_PER_S)
#define ACK_TIMEOUT_US_MIN ((uint64_t)100 * US_PER_MS)
#define ACK_TIMEOUT_US_DEFAULT ((uint64_t)30 * US_PER_S)
#define MIN_BACKOFF_US_DEFAULT ((uint64_t)100 * US_PER_MS)
#define MAX_BACKOFF_US_DEFAULT ((uint64_t)60 * US_PER_S)
enum { ATTEMPTS_DEFAULT = 16, FILTER_ARENA_BYTES = 1 << 20 };

static bool name_valid(const char *s)
{
    size_t n = strlen(s);
    static const char inner[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
    return n >= 1 && n <= CONSUMER_NAME_BYTES_MAX && strspn(s, inner) == n && !strchr("._-", s[0]);
}

bool check_group_name(const char *name, const char *field, struct failure *f)
{
    if (name_valid(name)) return true;
    failure_violation(f, STATUS_FIELD_INVALID, field, "must be 1 to %d of a-z 0-9 . _ -, the first a letter or a digit, not \"%.80s\"", CONSUMER_NAME_BYTES_MAX, name);
    return false;
}

static bool read_number(const char **at, uint64_t max, uint64_t *v)
{
    const char *begin = *at;
    *v = 0;
    while (**at >= '0' && **at <= '9') {
        uint64_t digit = (uint64_t)(*(*at)++ - '0');
        if (*v > (max - digit) / 10) return false;
        *v = *v * 10 + digit;
    }
    return *at != begin && (*begin != '0' || *at == begin + 1);
}

bool check_event_id(const char *text, uint16_t *slot, int64_t *seq)
{
    uint64_t a, b;
    if (!read_number(&text, SLOT_COUNT - 1, &a) || *text++ != ':' || !read_number(&text, INT64_MAX, &b) || *text || !b) return false;
    *slot = (uint16_t)a;
    *seq = (int64_t)b;
    return true;
}

/* NULL: `unset`. */
static uint64_t check_duration(struct checker *c, const struct path *at, const Google__Protobuf__Duration *d, uint64_t unset_us, uint64_t min_us, uint64_t max_us)
{
    if (!d || (!d->seconds && !d->nanos)) return unset_us;
    bool shaped = d->nanos > -1000000000 && d->nanos < 1000000000 && !((d->seconds > 0 && d->nanos < 0) || (d->seconds < 0 && d->nanos > 0));
    bool negative = d->seconds < 0 || d->nanos < 0;
    uint64_t us = shaped && !negative && d->seconds <= (int64_t)(max_us / US_PER_S) + 1 ? (uint64_t)d->seconds * US_PER_S + (uint64_t)d->nanos / 1000 : UINT64_MAX;
    if (us < min_us || us > max_us)
        check_violation(c, STATUS_FIELD_INVALID, at, "must be %llu ms to %llu s, not %lld.%09d s", (unsigned long long)(min_us / US_PER_MS), (unsigned long long)(max_us / US_PER_S), (long long)d->seconds,
                        (int)d->nanos);
    return us;
}

static uint32_t check_number(struct checker *c, const struct path *at, int64_t v, uint32_t unset, uint32_t max)
{
    if (v == 0) return unset;
    if (v < 0 || v > max) check_violation(c, STATUS_FIELD_INVALID, at, "must be 1 to %u (0: %u), not %lld", max, unset, (long long)v);
    return (uint32_t)v;
}

static int check_enum(struct checker *c, const struct path *at, int v, int unset, int max)
{
    if (v < 0 || v > max) check_violation(c, STATUS_FIELD_INVALID, at, "is no value of its enum: %d", v);
    return v ? v : unset;
}

static void check_retry(struct checker *c, const struct path *at, const Orderdb__V1__RetryPolicy *r, struct consumer_definition *d)
{
    static const Orderdb__V1__RetryPolicy none = ORDERDB__V1__RETRY_POLICY__INIT;
    if (!r) r = &none;
    d->max_attempts = check_number(c, AT(at, "max_attempts"), r->max_attempts, ATTEMPTS_DEFAULT, CONSUMER_ATTEMPTS_MAX);
    d->min_backoff_us = check_duration(c, AT(at, "min_backoff"), r->min_backoff, MIN_BACKOFF_US_DEFAULT, 0, BACKOFF_US_MAX);
    d->max_backoff_us = check_duration(c, AT(at, "max_backoff"), r->max_backoff, MAX_OF(MAX_BACKOFF_US_DEFAULT, d->min_backoff_us), 0, BACKOFF_US_MAX);
    if (!c->f->status && d->max_backoff_us < d->min_backoff_us) check_violation(c, STATUS_FIELD_INVALID, AT(at, "max_backoff"), "must not be below min_backoff");
    d->on_exhausted = (enum consumer_exhausted)check_enum(c, AT(at, "on_exhausted"), r->on_exhausted, EXHAUSTED_LETTER, EXHAUSTED_BLOCK);
}

static void check_filter(struct checker *c, const char *text)
{
    const struct filter *filter;
    struct arena arena;
    size_t n = strlen(text);
    if (n > FILTER_TEXT_BYTES_MAX) {
        check_violation(c, STATUS_LIMIT_EXCEEDED, AT(AT(NULL, "group"), "filter"), "%zu bytes; at most %d", n, FILTER_TEXT_BYTES_MAX);
        return;
    }
    arena_init(&arena, FILTER_ARENA_BYTES);
    (void)!filter_parse(&filter, slice_str(text), &filter_events, "group.filter", &arena, c->f); /* the refusal is in *f */
    arena_fini(&arena);
}

static void check_start(struct checker *c, const struct path *at, const Orderdb__V1__ConsumerGroup *m, struct consumer_definition *d)
{
    d->start = (enum consumer_start)check_enum(c, AT(at, "start"), m->start, START_EARLIEST, START_SNAPSHOT);
    if (d->start == START_AT_TIME && !m->start_time) check_violation(c, STATUS_FIELD_INVALID, AT(at, "start_time"), "is required by start AT_TIME");
    if (d->start != START_AT_TIME && m->start_time) check_violation(c, STATUS_FIELD_INVALID, AT(at, "start_time"), "goes with start AT_TIME alone");
    if (d->start == START_AT_TIME && m->start_time) (void)check_time(c, AT(at, "start_time"), m->start_time, &d->start_us);
}

static void check_definition(struct checker *c, const Orderdb__V1__ConsumerGroup *m, struct consumer_definition *d)
{
    const struct path *at = AT(NULL, "group");
    *d = (struct consumer_definition){.name = slice_str(m->group), .filter = slice_str(m->filter), .paused = m->paused};
    if (!check_group_name(m->group, "group.group", c->f)) d->name = (struct slice){0};
    check_filter(c, m->filter);
    d->ordering = (enum consumer_ordering)check_enum(c, AT(at, "ordering_key"), m->ordering_key, ORDERING_USER, ORDERING_NONE);
    check_retry(c, AT(at, "retry"), m->retry, d);
    check_start(c, at, m, d);
    d->full = check_enum(c, AT(at, "payload"), m->payload, ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_SUMMARY, ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL) == ORDERDB__V1__ORDER_VIEW__ORDER_VIEW_FULL;
    d->ack_timeout_us = check_duration(c, AT(at, "ack_timeout"), m->ack_timeout, ACK_TIMEOUT_US_DEFAULT, ACK_TIMEOUT_US_MIN, DURATION_US_MAX);
    d->key_window = check_number(c, AT(at, "key_window"), m->key_window, 1, CONSUMER_KEY_WINDOW_MAX);
}

static bool encode(enum group_action action, const struct consumer_definition *d, struct arena *arena, struct slice *command, struct failure *f)
{
    struct command c = {.type = COMMAND_GROUP, .group = {.action = action, .name = d->name}};
    if (f->status) return false;
    c.group.definition = consumer_definition_encode(d, arena);
    *command = c.group.definition.data ? command_encode(&c, arena) : (struct slice){0};
    if (!command->data) failure_set(f, STATUS_MEMORY_LIMIT, "no memory for the request");
    return command->data != NULL;
}

bool check_group_create(const Orderdb__V1__ConsumerGroup *m, struct arena *arena, struct slice *command, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct consumer_definition d;
    if (!m) return check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "group"), "is required"), false;
    check_definition(&c, m, &d);
    return encode(GROUP_CREATE, &d, arena, command, f);
}

/* ---- update */

enum { M_FILTER = 1, M_ORDERING = 2, M_RETRY = 4, M_PAYLOAD = 8, M_ACK_TIMEOUT = 16, M_PAUSED = 32, M_KEY_WINDOW = 64, M_ALL = 127 };

static unsigned check_mask(struct checker *c, const Google__Protobuf__FieldMask *mask)
{
    static const struct {
        const char *path;
        unsigned bit;
    } fields[] = {{"filter", M_FILTER}, {"ordering_key", M_ORDERING}, {"retry", M_RETRY}, {"payload", M_PAYLOAD}, {"ack_timeout", M_ACK_TIMEOUT}, {"paused", M_PAUSED}, {"key_window", M_KEY_WINDOW}};
    unsigned bits = 0;
    for (size_t i = 0; mask && i < mask->n_paths; i++) {
        unsigned bit = 0;
        for (size_t k = 0; k < ARRAY_LEN(fields); k++)
            if (strcmp(fields[k].path, mask->paths[i]) == 0) bit = fields[k].bit;
        if (!bit)
            check_violation(c, STATUS_FIELD_INVALID, AT_INDEX(AT(NULL, "update_mask"), "paths", i),
                            "cannot be updated: only filter, ordering_key, retry, payload, ack_timeout, paused and key_window can, each as a whole");
        bits |= bit;
    }
    return mask && mask->n_paths ? bits : M_ALL;
}

bool check_group_update(const Orderdb__V1__UpdateConsumerGroupRequest *m, const struct consumer_definition *before, struct arena *arena, struct slice *command, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct consumer_definition sent, d = *before;
    if (!m->group) return check_violation(&c, STATUS_FIELD_INVALID, AT(NULL, "group"), "is required"), false;
    unsigned mask = check_mask(&c, m->update_mask);
    Orderdb__V1__ConsumerGroup part = *m->group;
    part.start = ORDERDB__V1__CONSUMER_GROUP__START__START_UNSPECIFIED; /* it has begun */
    part.start_time = NULL;
    check_definition(&c, &part, &sent);
    if (mask & M_FILTER) d.filter = sent.filter;
    if (mask & M_ORDERING) d.ordering = sent.ordering;
    if (mask & M_RETRY) {
        d.max_attempts = sent.max_attempts;
        d.min_backoff_us = sent.min_backoff_us, d.max_backoff_us = sent.max_backoff_us;
        d.on_exhausted = sent.on_exhausted;
    }
    if (mask & M_PAYLOAD) d.full = sent.full;
    if (mask & M_ACK_TIMEOUT) d.ack_timeout_us = sent.ack_timeout_us;
    if (mask & M_PAUSED) d.paused = sent.paused;
    if (mask & M_KEY_WINDOW) d.key_window = sent.key_window;
    return encode(GROUP_UPDATE, &d, arena, command, f);
}
