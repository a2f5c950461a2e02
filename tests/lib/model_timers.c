/* The model's timers, as docs/TIMERS.md tells them. */
#include "tests/lib/model.h"

static const struct {
    const char *machine, *status, *id, *event;
    int64_t after_us;
} state_timers[] = {
    {"retail@1", "PENDING_PAYMENT", "pay_timeout", "pay_timeout", 1800000000},
    {"retail@1", "SHIPPED", "auto_confirm", "auto_confirm", 15ll * 86400000000},
    {"loop@1", "OPEN", "nag", "", MODEL_NAG_US},
    {"loop@1", "OPEN", "finish", "finish", MODEL_FINISH_US},
};

static bool is(struct slice s, const char *text) { return slice_equal(s, slice_str(text)); }

struct model_timer *model_timer_find(struct model_timers *ts, struct slice id)
{
    for (unsigned i = 0; i < ts->count; i++)
        if (slice_equal(ts->at[i].id, id)) return &ts->at[i];
    return NULL;
}

bool model_status_has_timer(const char *machine, const char *status, struct slice id)
{
    for (size_t i = 0; i < ARRAY_LEN(state_timers); i++)
        if (!strcmp(state_timers[i].machine, machine) && !strcmp(state_timers[i].status, status) && is(id, state_timers[i].id)) return true;
    return false;
}

void model_timer_set(struct model_timers *ts, struct model_timer t)
{
    struct model_timer *old = model_timer_find(ts, t.id);
    if (old) {
        t.no = old->no;
        *old = t;
        return;
    }
    t.no = 0;
    for (unsigned i = 0; i < ts->count; i++)
        if (ts->at[i].no == t.no) t.no++, i = (unsigned)-1;
    ts->at[ts->count++] = t;
}

void model_timer_remove(struct model_timers *ts, const struct model_timer *t)
{
    struct model_timers kept = {0};
    for (unsigned i = 0; i < ts->count; i++)
        if (&ts->at[i] != t) kept.at[kept.count++] = ts->at[i];
    *ts = kept;
}

static bool expects(const struct model_timer *t, const char *status)
{
    for (unsigned i = 0; i < t->status_count; i++)
        if (!strcmp(t->statuses[i], status)) return true;
    return false;
}

void model_timers_move(struct model_timers *ts, const char *machine, const char *from, const char *to, uint64_t now_us)
{
    struct model_timers kept = {0};
    bool terminal = true;
    for (size_t i = 0; model_edges[i][0]; i++)
        if (!strcmp(model_edges[i][0], machine) && !strcmp(model_edges[i][2], to)) terminal = false;
    for (unsigned i = 0; i < ts->count && !terminal; i++) {
        const struct model_timer *t = &ts->at[i];
        if (t->of_state) continue;
        if (expects(t, from) && !expects(t, to)) continue;
        kept.at[kept.count++] = *t;
    }
    *ts = kept;
    for (size_t i = 0; i < ARRAY_LEN(state_timers); i++) {
        if (strcmp(state_timers[i].machine, machine) || strcmp(state_timers[i].status, to)) continue;
        struct model_timer t = {slice_str(state_timers[i].id), slice_str(state_timers[i].event), (int64_t)now_us + state_timers[i].after_us, true, 0, 0, {0}};
        model_timer_set(ts, t);
    }
}

void model_timers_check(const struct model_timers *ts, struct slice encoded, const struct machines *ms)
{
    struct order_timers found;
    check(timers_decode(encoded, &found) == STATUS_OK);
    check(found.count == (ts ? ts->count : 0));
    for (unsigned i = 0; i < found.count; i++) {
        const struct model_timer *t = &ts->at[i];
        const struct order_timer *f = &found.at[i];
        check(slice_equal(f->timer_id, t->id));
        check(slice_equal(f->event, t->event));
        check(f->fire_us == t->fire_us);
        check(f->of_state == t->of_state);
        check(f->no == t->no);
        check(f->status_count == t->status_count);
        for (unsigned k = 0; k < t->status_count; k++) check(is(machines_status_name(ms, f->statuses[k]), t->statuses[k]));
    }
}
