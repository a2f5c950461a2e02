#include "tests/lib/definition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_timer(struct definition *d, char *token, unsigned n)
{
    char *id = strchr(token, '~'), *after = strchr(id + 1, '~'), *event = strchr(after + 1, '~');
    *id++ = *after++ = *event++ = 0;
    orderdb__v1__status_machine__state_timer__init(&d->timers[n]);
    google__protobuf__duration__init(&d->after[n]);
    d->timers[n].timer_id = id;
    d->timers[n].event = event;
    d->after[n].seconds = atoi(after);
    if (*after) d->timers[n].after = &d->after[n];
    for (size_t i = 0; i < d->m.n_states; i++)
        if (strcmp(d->states[i].name, token) == 0) d->timer_list[i][d->states[i].n_timers++] = &d->timers[n];
}

static void add_edge(struct definition *d, char *token)
{
    size_t n = d->m.n_edges++;
    Orderdb__V1__StatusMachine__Edge *e = d->edge_list[n] = &d->edges[n];
    orderdb__v1__status_machine__edge__init(e);
    char *froms = strchr(token, ':'), *to = strchr(froms + 1, '>'), *save;
    *froms++ = *to++ = 0;
    e->event = token;
    e->to = to;
    e->from = d->froms[n];
    for (char *f = strtok_r(froms, ",", &save); f; f = strtok_r(NULL, ",", &save)) e->from[e->n_from++] = f;
}

static void add_state(struct definition *d, char *token)
{
    size_t n = d->m.n_states++, last = strlen(token) - 1;
    Orderdb__V1__StatusMachine__State *s = d->state_list[n] = &d->states[n];
    orderdb__v1__status_machine__state__init(s);
    s->timers = d->timer_list[n];
    s->initial = token[last] == '!';
    s->terminal = token[last] == '.';
    if (s->initial || s->terminal) token[last] = 0;
    s->name = token;
}

struct slice define(struct definition *d, const char *text)
{
    char *save, *token;
    unsigned timers = 0;
    *d = (struct definition){0};
    snprintf(d->text, sizeof d->text, "%s", text);
    orderdb__v1__status_machine__init(&d->m);
    d->m.states = d->state_list;
    d->m.edges = d->edge_list;
    token = strtok_r(d->text, " ", &save);
    d->m.name = token;
    token = strchr(token, '@');
    *token++ = 0;
    d->m.version = atoi(token);
    while ((token = strtok_r(NULL, " ", &save))) {
        if (strchr(token, '~')) add_timer(d, token, timers++);
        else if (strchr(token, ':')) add_edge(d, token);
        else add_state(d, token);
    }
    check(orderdb__v1__status_machine__get_packed_size(&d->m) <= sizeof d->wire);
    return slice_of(d->wire, orderdb__v1__status_machine__pack(&d->m, d->wire));
}
