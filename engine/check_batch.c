#include <stdio.h>
#include <stdlib.h>

#include "engine/check_local.h"

/* Creates that are one command: each must be right by itself, all be of one user, and none stand in another's way, for apply decides all before it writes any. */

/* What one request found, as the batch's: its fields are below requests[i]. */
static void tell(struct failure *f, size_t i, const struct failure *own)
{
    for (const struct failure_violation *v = own->violations; v; v = v->next) {
        char *field = arena_printf(f->arena, "requests[%zu].%s", i, v->field);
        if (field) failure_violation(f, own->status, field, "%s", v->description);
    }
    failure_set(f, own->status, "requests[%zu]: %s", i, own->message ? own->message : status_reason(own->status));
    for (const struct failure_meta *m = own->metas; m && f->status == own->status && !f->metas; m = m->next) failure_meta(f, m->key, "%.*s", (int)m->value.len, m->value.data);
}

struct named {
    const char *text;
    size_t place;
};
static int named_order(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    int order = strcmp(x->text, y->text);
    return order ? order : x->place < y->place ? -1 : x->place > y->place;
}

/* Nothing but empty texts may be there twice. */
static void check_distinct(struct checker *c, struct named *names, size_t n, const char *part, const char *field)
{
    qsort(names, n, sizeof *names, named_order);
    for (size_t i = 1; i < n; i++)
        if (names[i].text[0] && strcmp(names[i].text, names[i - 1].text) == 0)
            check_violation(c, STATUS_INVARIANT_VIOLATED, AT(AT(AT_INDEX(NULL, "requests", names[i].place), part), field), "is that of requests[%zu] too", names[i - 1].place);
}

static void check_together(struct checker *c, const Orderdb__V1__BatchCreateOrdersRequest *m)
{
    size_t n = m->n_requests;
    struct named *ids = arena_array(c->arena, struct named, n), *numbers = arena_array(c->arena, struct named, n);
    if (!ids || !numbers) {
        failure_set(c->f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const Orderdb__V1__CreateOrderRequest *r = m->requests[i];
        ids[i] = (struct named){r->options->request_id, i};
        numbers[i] = (struct named){r->order->client_order_no, i};
        if (strcmp(r->order->user_id, m->requests[0]->order->user_id) != 0)
            check_violation(c, STATUS_INVARIANT_VIOLATED, AT(AT(AT_INDEX(NULL, "requests", i), "order"), "user_id"), "an atomic batch is of one user, that of requests[0]");
        if (r->options->validate_only != m->requests[0]->options->validate_only)
            check_violation(c, STATUS_INVARIANT_VIOLATED, AT(AT(AT_INDEX(NULL, "requests", i), "options"), "validate_only"), "differs from that of requests[0]");
    }
    check_distinct(c, ids, n, "options", "request_id");
    check_distinct(c, numbers, n, "order", "client_order_no");
}

bool check_batch(Orderdb__V1__BatchCreateOrdersRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    *out = (struct checked){0};
    size_t n = m->n_requests, bytes = 0;
    check(n > 0);
    check_count(&c, AT(NULL, "requests"), n, COMMAND_BATCH_MAX);
    if (f->status) return false;
    struct checked *each = arena_array(arena, struct checked, n);
    if (!each) return failure_set(f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call"), false;
    for (size_t i = 0; i < n; i++) {
        struct failure own;
        failure_init(&own, arena);
        if (!check_create(m->requests[i], traceparent, arena, &each[i], &own)) tell(f, i, &own);
        bytes += 10 + each[i].command.len;
    }
    if (!f->status) check_together(&c, m);
    if (f->status) return false;
    struct writer w = writer_of(arena_alloc(arena, bytes), bytes);
    if (!w.data) return failure_set(f, STATUS_MEMORY_LIMIT, "the request is too large for the memory of a call"), false;
    for (size_t i = 0; i < n; i++) write_counted(&w, each[i].command);
    check(!w.full);
    out->user_id = each[0].user_id;
    out->validate_only = each[0].validate_only;
    struct command command = {.type = COMMAND_BATCH, .batch = {out->user_id, (unsigned)n, writer_slice(&w)}};
    return check_done(&c, &command, out);
}
