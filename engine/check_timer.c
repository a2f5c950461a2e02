#include <stdlib.h>

#include "engine/check_local.h"
#include "proto/base/hash.h"

/* SetOrderTimer and CancelOrderTimer. What is to be known of the order (its machine, its timers, the log's time) is decided in apply_timer.c. */

/* Timer ids stand in front of a colon in the reason of what a timer did, and in command lines. */
static void check_timer_id(struct checker *c, const struct path *at, const char *id)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    check_text(c, at, id, 1, TIMER_ID_BYTES_MAX);
    if (id[strspn(id, allowed)]) check_violation(c, STATUS_FIELD_INVALID, at, "letters, digits, '_', '.' and '-' alone");
}

static void check_order_id(struct checker *c, int64_t order_id)
{
    if (order_id <= 0) check_violation(c, STATUS_FIELD_INVALID, AT(NULL, "order_id"), "%lld; an order_id is above zero", (long long)order_id);
}

static int slice_order(const void *a, const void *b) { return slice_compare(*(const struct slice *)a, *(const struct slice *)b); }

static struct hash128 set_fingerprint(const struct command_set_timer *t)
{
    enum { BYTES_MAX = 1 + 16 + 4 * 10 + TIMER_ID_BYTES_MAX + TIMER_EVENT_BYTES_MAX + TIMER_STATUSES_MAX * (10 + STATUS_NAME_BYTES_MAX) };
    uint8_t bytes[BYTES_MAX];
    struct slice sorted[TIMER_STATUSES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    memcpy(sorted, t->expected_statuses, sizeof sorted);
    qsort(sorted, t->expected_status_count, sizeof sorted[0], slice_order);
    write_u8(&w, REQUEST_SET_TIMER);
    write_be64(&w, (uint64_t)t->order_id);
    write_be64(&w, (uint64_t)t->fire_us);
    write_counted(&w, t->timer_id);
    write_counted(&w, t->event);
    for (unsigned i = 0; i < t->expected_status_count; i++) write_counted(&w, sorted[i]);
    check(!w.full);
    return hash128(writer_slice(&w));
}

static void check_timer(struct checker *c, const Orderdb__V1__Timer *timer, struct command_set_timer *t)
{
    const struct path *at = AT(NULL, "timer");
    if (!timer) {
        check_violation(c, STATUS_FIELD_INVALID, at, "is required");
        return;
    }
    check_timer_id(c, AT(at, "timer_id"), timer->timer_id);
    if (!timer->fire_time) check_violation(c, STATUS_FIELD_INVALID, AT(at, "fire_time"), "is required");
    else if (check_time(c, AT(at, "fire_time"), timer->fire_time, &t->fire_us)) t->fire_us += timer->fire_time->nanos % 1000 != 0; /* never early */
    check_text(c, AT(at, "event"), timer->event, 0, TIMER_EVENT_BYTES_MAX);
    check_count(c, AT(at, "expected_statuses"), timer->n_expected_statuses, TIMER_STATUSES_MAX);
    for (size_t i = 0; i < timer->n_expected_statuses && i < TIMER_STATUSES_MAX; i++) {
        check_text(c, AT_INDEX(at, "expected_statuses", i), timer->expected_statuses[i], 1, STATUS_NAME_BYTES_MAX);
        t->expected_statuses[t->expected_status_count++] = slice_str(timer->expected_statuses[i]);
    }
    if (!timer->event[0] && timer->n_expected_statuses) check_violation(c, STATUS_FIELD_INVALID, AT(at, "expected_statuses"), "say when `event` is possible; there is none");
    t->timer_id = slice_str(timer->timer_id);
    t->event = slice_str(timer->event);
}

bool check_set_timer(const Orderdb__V1__SetOrderTimerRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_SET_TIMER};
    struct command_set_timer *t = &command.set_timer;
    *out = (struct checked){.order_id = m->order_id, .validate_only = m->options && m->options->validate_only};
    check_options(&c, m->options, false, &command.origin);
    command.origin.traceparent = check_traceparent(traceparent);
    check_order_id(&c, m->order_id);
    check_timer(&c, m->timer, t);
    if (f->status) return false;
    t->order_id = m->order_id;
    command.origin.fingerprint = set_fingerprint(t);
    return check_done(&c, &command, out);
}

bool check_cancel_timer(const Orderdb__V1__CancelOrderTimerRequest *m, struct slice traceparent, struct arena *arena, struct checked *out, struct failure *f)
{
    struct checker c = {.arena = arena, .f = f};
    struct command command = {.type = COMMAND_CANCEL_TIMER};
    struct command_cancel_timer *t = &command.cancel_timer;
    uint8_t bytes[1 + 8 + TIMER_ID_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);
    *out = (struct checked){.order_id = m->order_id, .validate_only = m->options && m->options->validate_only};
    check_options(&c, m->options, false, &command.origin);
    command.origin.traceparent = check_traceparent(traceparent);
    check_order_id(&c, m->order_id);
    check_timer_id(&c, AT(NULL, "timer_id"), m->timer_id);
    if (f->status) return false;
    t->order_id = m->order_id;
    t->timer_id = slice_str(m->timer_id);
    write_u8(&w, REQUEST_CANCEL_TIMER);
    write_be64(&w, (uint64_t)t->order_id);
    write_slice(&w, t->timer_id);
    check(!w.full);
    command.origin.fingerprint = hash128(writer_slice(&w));
    return check_done(&c, &command, out);
}
