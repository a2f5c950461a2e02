/* Subscribe: one member of a consumer group. Events out, on credit; acks, nacks and extensions in. All on the core of the call's connection.
 *
 *   Open --> the group's id, from the meta partition --> ATTACH at every partition --> messages are taken, and each partition is polled
 *
 *   each partition:  ATTACH --> POLL <--> READY (has events) --> in the message on its way --> POLL
 *                      ^          |
 *                      |- AGAIN <-'   a seek, another definition, a lead that moved: RETRY_NS later, if the group is still there
 *                      |- STARVED     another node leads it and has events, and there is no credit: POLL when some comes
 *                      '- EXPIRED     retention has overtaken the group: when no partition is attaching any more, the call fails with what is missing in any of them
 *
 * HTTP/2's windows are the only queue: while a message is on its way nothing more is gathered, and a partition whose events wait to be sent is not polled. What a member that
 * does not read costs is a poll's bytes for each partition.
 *
 * Acks are gathered while those before them are with the partitions, so that a member that acks one by one has its acks travel in company. At SETTLES_HELD the stream's window
 * stays shut until they are settled, and what was stale has been said.
 *
 * The end. Half-close: what came before it is settled, then DETACH, then OK. Any other end, be it a refusal or a connection that is lost: DETACH at once (subscription.h). A lost peer
 * that sends no reset is noticed by TCP in PEER_TIMEOUT_MS. */
#include <stdio.h>

#include "engine/check_group.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/grpc.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/expired.h"
#include "server/node.h"
#include "server/serve_group.h"
#include "server/subscription.h"

enum {
    MEMBER_ID_BYTES_MAX = 64, ZONE_BYTES_MAX = 64,
    IDS_MAX = CONSUMER_SETTLES_MAX,      /* of one message */
    SETTLES_HELD = CONSUMER_SETTLES_MAX, /* gathered; one message more may come on top */
    POLL_BYTES = CONSUMER_POLL_BYTES_MAX,
    MESSAGE_PARTS_MAX = CALL_PARTS_MAX - 1, /* the head */
    STALE_TEXT_BYTES = 2 + 28,
    PEER_TIMEOUT_MS = 1500, /* from when something is sent that is not acknowledged, within a second of the silence: leases are back in less than 3 s */
};
#define DELAY_US_MAX ((uint64_t)86400 * US_PER_S)
#define WAIT_NS NS_PER_S
#define RETRY_NS (50 * NS_PER_MS)
#define PROGRESS_NS NS_PER_S

enum feeder_state { FEEDER_ATTACH, FEEDER_POLL, FEEDER_READY, FEEDER_SENDING, FEEDER_AGAIN, FEEDER_STARVED, FEEDER_EXPIRED };

struct member;
struct feeder {
    struct call_op poll, settle, wake; /* poll: the attach too */
    struct arena *poll_arena, *settle_arena, *wake_arena;
    struct member *member;
    uint32_t partition;
    enum feeder_state state;
    bool attached, waking, wake_again;
    bool eager; /* there were events a moment ago, or there are */
    uint64_t complete_to_us;
    struct consumer_settle *settles; /* away */
    unsigned settle_count;
};

struct member {
    struct call *call;
    struct subscription *subscription; /* NULL: not opened yet */
    struct call_op look;
    struct arena *look_arena, *message_arena, *out_arena, *gather_arena;
    struct slice group, member_id;
    uint32_t group_id;
    bool opened, failed, closing, held, doubtful; /* doubtful: a partition does not know the group (any more) */
    uint32_t unattached, ready, count, expired;
    struct timer retry, hungry; /* hungry: those that starve ask again, or they would never hear that the membership has ended */
    /* on its way out */
    struct feeder *sending[MESSAGE_PARTS_MAX];
    unsigned sending_count;
    int64_t outstanding;               /* credit */
    uint64_t complete_told_us, progress_ns;
    uint32_t turn;
    /* acks: gathered, and those that were stale of the ones before */
    struct consumer_settle *gathered;
    unsigned gathered_count, gathered_cap, settling, stale_count;
    struct consumer_letter_ref *stale; /* [CONSUMER_SETTLES_MAX], from the first on */
    struct feeder feeders[];
};

static void member_pump(struct member *m);
static void feeder_attach(struct feeder *f);
static void feeder_poll(struct feeder *f);
static void settles_flush(struct member *m);

/* ---- the end */

static bool member_over(const struct member *m) { return m->failed || m->closing; }

static void member_timers_clear(struct member *m) {
    timer_clear(&call_core(m->call)->timers, &m->retry);
    timer_clear(&call_core(m->call)->timers, &m->hungry);
}

/* The call's failure is set. */
static void member_fail(struct member *m) {
    if (m->failed) return;
    m->failed = true;
    member_timers_clear(m);
    call_fail(m->call);
    if (m->subscription) subscription_detach(m->subscription);
}

static void member_fail_with(struct member *m, struct failure *f) {
    if (m->failed) return;
    failure_move(call_failure(m->call), f);
    member_fail(m);
}

static void member_fail_memory(struct member *m) {
    if (m->failed) return;
    failure_set(call_failure(m->call), STATUS_MEMORY_LIMIT, "no memory for this subscription");
    call_failure(m->call)->retry_delay_ms = SERVE_RETRY_DELAY_MS;
    member_fail(m);
}

static void on_leave(struct call *call) {
    struct member *m = *call_state(call);
    member_timers_clear(m);
    if (m->subscription) subscription_detach(m->subscription);
}

static void on_end(struct call *call) {
    struct member *m = *call_state(call);
    if (m->subscription) subscription_put(m->subscription);
    call_core(call)->streams_live--;
}

static void on_core_change(struct call *call) {
    struct member *m = *call_state(call);
    if (!call_core(call)->draining || m->failed) return;
    failure_set(call_failure(call), STATUS_DRAINING, "this node is shutting down: subscribe again, to another node or when it is back");
    member_fail(m);
}

static void on_detached(void *owner) {
    struct member *m = owner;
    if (!m->failed) call_finish(m->call);
}

/* The peer has said all it has to say. */
static void member_close(struct member *m) {
    m->closing = true;
    if (m->settling || m->gathered_count || m->stale_count || m->failed) return;
    member_timers_clear(m);
    subscription_on_detached(m->subscription, on_detached, m);
    subscription_detach(m->subscription);
}

/* ---- messages out */

static void on_sent(struct call *call) {
    struct member *m = *call_state(call);
    unsigned n = m->sending_count;
    m->sending_count = 0;
    for (unsigned i = 0; i < n && !member_over(m); i++) feeder_poll(m->sending[i]);
    member_pump(m);
}

static uint8_t *out_bytes(struct member *m, size_t cap) {
    arena_reset(m->out_arena);
    uint8_t *bytes = arena_alloc(m->out_arena, cap);
    if (!bytes) member_fail_memory(m);
    return bytes;
}

static void send_stale(struct member *m) {
    size_t cap = (size_t)m->stale_count * STALE_TEXT_BYTES;
    uint8_t *bytes = out_bytes(m, cap + 16);
    if (!bytes) return;
    struct writer w = writer_of(bytes + 16, cap), h = writer_of(bytes, 16);
    for (unsigned i = 0; i < m->stale_count; i++) {
        char text[32];
        int n = snprintf(text, sizeof text, "%u:%lld", m->stale[i].slot, (long long)m->stale[i].seq);
        pb_bytes(&w, 1, slice_of(text, (size_t)n));
    }
    check(!w.full);
    m->stale_count = 0;
    pb_tag(&h, 2, PB_LEN);
    write_varint(&h, w.len);
    const struct slice parts[] = {writer_slice(&h), writer_slice(&w)};
    call_send_parts(m->call, parts, 2, on_sent);
}

static void send_batch(struct member *m) {
    struct slice parts[MESSAGE_PARTS_MAX + 1];
    size_t bytes = 0;
    unsigned n = 0;
    uint8_t *head = out_bytes(m, 16);
    if (!head) return;
    for (uint32_t i = 0; i < m->count && n < MESSAGE_PARTS_MAX; i++) {
        struct feeder *f = &m->feeders[(m->turn + i) % m->count];
        if (f->state != FEEDER_READY) continue;
        struct slice answer = f->poll.op.answer;
        if (n && bytes + answer.len > GRPC_MESSAGE_BYTES_MAX - 64) break;
        bytes += answer.len;
        parts[++n] = answer;
        m->sending[n - 1] = f;
        m->outstanding -= f->poll.op.consumer.events;
        f->state = FEEDER_SENDING;
        m->ready--;
    }
    struct writer h = writer_of(head, 16);
    m->turn = m->sending[n - 1]->partition + 1;
    m->sending_count = n;
    pb_tag(&h, 1, PB_LEN);
    write_varint(&h, bytes);
    parts[0] = writer_slice(&h);
    call_send_parts(m->call, parts, n + 1, on_sent);
}

/* Of all partitions; never back, though a seek takes the group itself back. */
static void send_progress(struct member *m) {
    enum { CAP = 2 * PB_TIMESTAMP_BYTES_MAX };
    uint64_t least = UINT64_MAX, now = call_core(m->call)->now_ns;
    if (now < m->progress_ns + PROGRESS_NS) return;
    for (uint32_t i = 0; i < m->count; i++) least = MIN_OF(least, m->feeders[i].complete_to_us);
    if (least <= m->complete_told_us) return;
    uint8_t inner[PB_TIMESTAMP_BYTES_MAX], *bytes = out_bytes(m, CAP);
    if (!bytes) return;
    struct writer t = writer_of(inner, sizeof inner), w = writer_of(bytes, CAP);
    pb_timestamp_us(&t, 1, (int64_t)least);
    struct slice progress = writer_slice(&t);
    pb_message(&w, 3, &progress, 1);
    check(!w.full);
    m->complete_told_us = least;
    m->progress_ns = now;
    struct slice message = writer_slice(&w);
    call_send_parts(m->call, &message, 1, on_sent);
}

static void member_pump(struct member *m) {
    if (m->failed || call_sending(m->call)) return;
    if (m->stale_count) {
        send_stale(m);
        settles_flush(m); /* room again for what is stale of the next ones */
    } else if (m->closing) {
        member_close(m);
    } else if (m->ready) {
        send_batch(m);
    } else {
        send_progress(m);
    }
}

/* ---- a partition */

static void feeder_submit(struct feeder *f, struct call_op *o, enum op_kind kind, struct arena *arena, void (*next)(struct call *call, struct call_op *o)) {
    const struct node *node = call_core(f->member->call)->node;
    o->op.kind = kind;
    o->op.slot = partition_first_slot(f->partition, node->partition_count);
    o->op.arena = arena;
    o->op.consumer.group_id = f->member->group_id;
    o->op.consumer.session = subscription_session(f->member->subscription);
    call_submit(f->member->call, o, next);
}

static void feeder_again(struct feeder *f) {
    struct core *core = call_core(f->member->call);
    f->state = FEEDER_AGAIN;
    if (!f->member->retry.place && !timer_set(&core->timers, &f->member->retry, core->now_ns + RETRY_NS)) member_fail_memory(f->member);
}

static void feeder_starves(struct feeder *f) {
    struct core *core = call_core(f->member->call);
    f->state = FEEDER_STARVED;
    if (!f->member->hungry.place && !timer_set(&core->timers, &f->member->hungry, core->now_ns + WAIT_NS)) member_fail_memory(f->member);
}

/* Some are, and nobody else may still find that out. */
static void member_fail_if_expired(struct member *m) {
    struct expired x = {0};
    for (uint32_t i = 0; i < m->count; i++)
        if (m->feeders[i].state == FEEDER_ATTACH) return;
    for (uint32_t i = 0; i < m->count; i++)
        if (m->feeders[i].state == FEEDER_EXPIRED) expired_add(&x, &m->feeders[i].poll.op.failure);
    if (m->failed || !m->expired) return;
    expired_fail(&x, call_failure(m->call), "were let go before the group had settled them");
    member_fail(m);
}

/* What ends a membership, but not the call. */
static void feeder_refused(struct feeder *f) {
    struct failure *why = &f->poll.op.failure;
    if (why->status == STATUS_CURSOR_EXPIRED) {
        f->state = FEEDER_EXPIRED;
        f->member->expired++;
        return;
    }
    if (why->status == STATUS_GROUP_NOT_FOUND) f->member->doubtful = true;
    if (why->status == STATUS_NOT_LEADER || why->status == STATUS_GROUP_NOT_FOUND || why->status == STATUS_OVERLOADED) feeder_again(f);
    else member_fail_with(f->member, why);
}

static void feeder_attached(struct feeder *f) {
    struct member *m = f->member;
    if (!f->attached) f->attached = true, m->unattached--;
    feeder_poll(f);
    if (m->unattached == 0 && m->held) m->held = false, call_release(m->call);
}

static void on_attached(struct call *call, struct call_op *o) {
    struct feeder *f = container_of(o, struct feeder, poll);
    struct member *m = f->member;
    if (member_over(m)) return;
    if (o->op.failure.status) feeder_refused(f);
    else feeder_attached(f);
    member_fail_if_expired(m);
}

static void feeder_attach(struct feeder *f) {
    f->state = FEEDER_ATTACH;
    arena_reset(f->poll_arena);
    f->poll.op = (struct op){0};
    feeder_submit(f, &f->poll, OP_GROUP_ATTACH, f->poll_arena, on_attached);
}

static void on_polled(struct call *call, struct call_op *o) {
    struct feeder *f = container_of(o, struct feeder, poll);
    struct member *m = f->member;
    if (member_over(m)) return; /* what it brought is detached */
    if (o->op.failure.status) {
        feeder_refused(f);
        member_fail_if_expired(m);
        return;
    }
    f->complete_to_us = MAX_OF(f->complete_to_us, o->op.consumer.complete_to_us);
    bool starved = o->op.consumer.abroad && __atomic_load_n(&o->op.consumer.starved, __ATOMIC_RELAXED);
    f->eager = o->op.consumer.events || starved;
    if (o->op.consumer.events) f->state = FEEDER_READY, m->ready++;
    else if (starved && __atomic_load_n(&o->op.consumer.session->credit, __ATOMIC_ACQUIRE) <= 0) feeder_starves(f);
    else feeder_poll(f);
    member_pump(m);
}

static void feeder_poll(struct feeder *f) {
    f->state = FEEDER_POLL;
    arena_reset(f->poll_arena);
    f->poll.op = (struct op){0};
    f->poll.op.consumer.bytes_max = POLL_BYTES;
    f->poll.op.consumer.eager = f->eager;
    f->poll.op.consumer.wait_until_ns = call_core(f->member->call)->now_ns + WAIT_NS;
    feeder_submit(f, &f->poll, OP_GROUP_POLL, f->poll_arena, on_polled);
}

static void on_woken(struct call *call, struct call_op *o);

static void feeder_wake(struct feeder *f) {
    f->wake_again = f->waking;
    if (f->waking) return;
    f->waking = true;
    arena_reset(f->wake_arena);
    f->wake.op = (struct op){0};
    feeder_submit(f, &f->wake, OP_GROUP_WAKE, f->wake_arena, on_woken);
}

/* A refusal says that it is no member: its poll hears of it. */
static void on_woken(struct call *call, struct call_op *o) {
    struct feeder *f = container_of(o, struct feeder, wake);
    f->waking = false;
    if (f->wake_again && !member_over(f->member)) feeder_wake(f);
}

/* ---- the group */

static void member_attach(struct member *m) {
    for (uint32_t i = 0; i < m->count; i++)
        if (m->feeders[i].state == FEEDER_AGAIN && !m->failed) feeder_attach(&m->feeders[i]);
}

static void on_looked(struct call *call, struct call_op *o) {
    struct member *m = container_of(o, struct member, look);
    if (member_over(m)) return;
    if (o->op.failure.status) {
        member_fail_with(m, &o->op.failure);
        return;
    }
    const struct consumer_group_row *row = serve_group_row(&o->op.groups, m->group);
    if (!row || (m->group_id && row->group_id != m->group_id)) { /* gone; perhaps there is another one of that name */
        serve_group_not_found(call_failure(call), m->group);
        member_fail(m);
        return;
    }
    m->group_id = row->group_id;
    m->doubtful = false;
    if (!m->subscription && !(m->subscription = subscription_new(call_core(call), m->group_id, m->member_id))) {
        member_fail_memory(m);
        return;
    }
    member_attach(m);
}

static void member_look(struct member *m) {
    arena_reset(m->look_arena);
    m->look.op = (struct op){.kind = OP_GROUPS, .slot = SLOT_META, .arena = m->look_arena};
    call_submit(m->call, &m->look, on_looked);
}

static void on_retry(struct timer *t) {
    struct member *m = container_of(t, struct member, retry);
    if (member_over(m)) return;
    if (m->doubtful) member_look(m);
    else member_attach(m);
}

static void on_hungry(struct timer *t) {
    struct member *m = container_of(t, struct member, hungry);
    for (uint32_t i = 0; i < m->count && !member_over(m); i++)
        if (m->feeders[i].state == FEEDER_STARVED) feeder_poll(&m->feeders[i]);
}

/* ---- acks */

static void settled(struct call *call, struct call_op *o) {
    struct feeder *f = container_of(o, struct feeder, settle);
    struct member *m = f->member;
    enum status st = o->op.failure.status;
    bool all = st == STATUS_NOT_LEADER || st == STATUS_GROUP_NOT_FOUND || st == STATUS_MEMBER_REPLACED; /* nothing was in flight to it any more */
    if (m->failed) return;
    if (st && !all) {
        member_fail_with(m, &o->op.failure);
        return;
    }
    for (unsigned i = 0; i < f->settle_count; i++)
        if (all || f->settles[i].stale) m->stale[m->stale_count++] = (struct consumer_letter_ref){f->settles[i].slot, f->settles[i].seq};
    f->settle_count = 0;
    if (--m->settling) return;
    if (m->stale_count == 0) settles_flush(m);
    member_pump(m);
}

static uint32_t partition_of(const struct member *m, const struct consumer_settle *s) { return partition_of_slot(s->slot, m->count); }

/* Those of one partition among the first n. false: no memory. */
static bool settles_send(struct member *m, struct feeder *f, unsigned n) {
    size_t count = f->settle_count;
    f->settle_count = 0;
    arena_reset(f->settle_arena);
    f->settles = arena_array(f->settle_arena, struct consumer_settle, count);
    if (!f->settles) return false;
    for (unsigned i = 0; i < n; i++) {
        if (partition_of(m, &m->gathered[i]) != f->partition) continue;
        struct consumer_settle *s = &f->settles[f->settle_count++];
        *s = m->gathered[i];
        s->error = arena_copy(f->settle_arena, s->error); /* they may be another thread's now */
    }
    f->settle.op = (struct op){0};
    f->settle.op.consumer.settles = f->settles;
    f->settle.op.consumer.settle_count = f->settle_count;
    m->settling++;
    feeder_submit(f, &f->settle, OP_GROUP_SETTLE, f->settle_arena, settled);
    return true;
}

static void settles_flush(struct member *m) {
    unsigned n = MIN_OF(m->gathered_count, (unsigned)CONSUMER_SETTLES_MAX);
    if (m->settling || m->stale_count || m->failed || !n) return;
    for (unsigned i = 0; i < n; i++) m->feeders[partition_of(m, &m->gathered[i])].settle_count++;
    for (uint32_t p = 0; p < m->count; p++)
        if (m->feeders[p].settle_count && !settles_send(m, &m->feeders[p], n)) {
            member_fail_memory(m);
            return;
        }
    m->gathered_count -= n;
    memmove(m->gathered, m->gathered + n, m->gathered_count * sizeof *m->gathered);
    if (m->gathered_count == 0) arena_reset(m->gather_arena), m->gathered = NULL, m->gathered_cap = 0;
    if (m->held && m->gathered_count < SETTLES_HELD) m->held = false, call_release(m->call);
}

/* NULL: no memory; the call has failed. */
static struct consumer_settle *gather(struct member *m) {
    if (m->gathered_count == m->gathered_cap) {
        size_t cap = m->gathered_cap ? 2 * (size_t)m->gathered_cap : 64;
        struct consumer_settle *more = arena_array(m->gather_arena, struct consumer_settle, cap);
        if (!more) return member_fail_memory(m), NULL;
        if (m->gathered_count) memcpy(more, m->gathered, m->gathered_count * sizeof *more);
        m->gathered = more;
        m->gathered_cap = (unsigned)cap;
    }
    struct consumer_settle *s = &m->gathered[m->gathered_count++];
    *s = (struct consumer_settle){0};
    return s;
}

/* ---- messages in */

static bool take_id(struct member *m, enum consumer_settle_kind kind, const char *id, const char *field, struct consumer_settle **out) {
    struct consumer_settle *s = gather(m);
    if (!s) return false;
    s->kind = kind;
    s->delay_us = CONSUMER_NO_DELAY;
    *out = s;
    if (check_event_id(id, &s->slot, &s->seq)) return true;
    failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, field, CHECK_EVENT_ID_RULE, id);
    member_fail(m);
    return false;
}

static void take_ids(struct member *m, enum consumer_settle_kind kind, const Orderdb__V1__SubscribeRequest__Ack *ack, const char *name) {
    struct consumer_settle *s;
    char field[48];
    if (ack->n_event_ids > IDS_MAX) {
        snprintf(field, sizeof field, "%s.event_ids", name);
        failure_violation(call_failure(m->call), STATUS_LIMIT_EXCEEDED, field, "%zu elements; at most %d in a message", ack->n_event_ids, IDS_MAX);
        member_fail(m);
        return;
    }
    for (size_t i = 0; i < ack->n_event_ids; i++) {
        snprintf(field, sizeof field, "%s.event_ids[%zu]", name, i);
        if (!take_id(m, kind, ack->event_ids[i], field, &s)) return;
    }
}

static bool read_delay(struct member *m, const Google__Protobuf__Duration *d, uint64_t *delay_us) {
    if (!d) return true;
    bool fine = d->seconds >= 0 && d->nanos >= 0 && d->nanos <= 999999999 && d->seconds <= (int64_t)(DELAY_US_MAX / US_PER_S);
    *delay_us = fine ? (uint64_t)d->seconds * US_PER_S + (uint64_t)d->nanos / 1000 : UINT64_MAX;
    if (fine && *delay_us <= DELAY_US_MAX) return true;
    failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, "nack.delay", "must be 0 to %llu s, not %lld s and %d ns", (unsigned long long)(DELAY_US_MAX / US_PER_S), (long long)d->seconds, (int)d->nanos);
    member_fail(m);
    return false;
}

static void take_nack(struct member *m, const Orderdb__V1__SubscribeRequest__Nack *nack) {
    struct consumer_settle *s;
    if (!take_id(m, nack->dead ? CONSUMER_DEAD : CONSUMER_NACK, nack->event_id, "nack.event_id", &s) || !read_delay(m, nack->delay, &s->delay_us)) return;
    struct slice error = slice_cut_utf8(slice_str(nack->error), CONSUMER_ERROR_BYTES_MAX);
    s->error = arena_copy(m->gather_arena, error);
    if (error.len && !s->error.data) member_fail_memory(m);
}

static void take_credit(struct member *m, int32_t events) {
    if (events < 1 || m->outstanding + events > CONSUMER_CREDIT_MAX) {
        failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, "credit.events", "must be at least 1, and with the %lld that are outstanding at most %d, not %d", (long long)m->outstanding,
                          CONSUMER_CREDIT_MAX, (int)events);
        member_fail(m);
        return;
    }
    m->outstanding += events;
    consumer_credit_add(subscription_session(m->subscription), events);
    for (uint32_t i = 0; i < m->count; i++) {
        struct feeder *f = &m->feeders[i];
        if (f->state == FEEDER_STARVED) feeder_poll(f);
        else if (f->state == FEEDER_POLL && __atomic_exchange_n(&f->poll.op.consumer.starved, false, __ATOMIC_SEQ_CST)) feeder_wake(f);
    }
}

static bool check_open(struct member *m, const Orderdb__V1__SubscribeRequest__Open *o) {
    struct failure *f = call_failure(m->call);
    size_t member = strlen(o->member_id), zone = strlen(o->zone);
    (void)!check_group_name(o->group, "open.group", f); /* all that is wrong is told at once */
    if (member < 1) failure_violation(f, STATUS_FIELD_INVALID, "open.member_id", "is required");
    if (member > MEMBER_ID_BYTES_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "open.member_id", "%zu bytes; at most %d", member, MEMBER_ID_BYTES_MAX);
    if (zone > ZONE_BYTES_MAX) failure_violation(f, STATUS_LIMIT_EXCEEDED, "open.zone", "%zu bytes; at most %d", zone, ZONE_BYTES_MAX);
    return !f->status;
}

static void take_open(struct member *m, const Orderdb__V1__SubscribeRequest__Open *o) {
    if (m->opened) {
        failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, "open", "comes once, as the first message");
        member_fail(m);
        return;
    }
    if (!check_open(m, o)) {
        member_fail(m);
        return;
    }
    m->opened = true;
    m->group = arena_copy(call_arena(m->call), slice_str(o->group));
    m->member_id = arena_copy(call_arena(m->call), slice_str(o->member_id));
    if (!m->group.data || !m->member_id.data) {
        member_fail_memory(m);
        return;
    }
    m->held = true;
    call_hold(m->call);
    member_look(m);
}

static void take_message(struct member *m, const Orderdb__V1__SubscribeRequest *r) {
    if (!m->opened && r->msg_case != ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN) {
        failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, "open", "must be the first message");
        member_fail(m);
        return;
    }
    switch (r->msg_case) {
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_OPEN: take_open(m, r->open); return;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_CREDIT: take_credit(m, r->credit->events); return;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_ACK: take_ids(m, CONSUMER_ACK, r->ack, "ack"); break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_EXTEND: take_ids(m, CONSUMER_EXTEND, r->extend, "extend"); break;
    case ORDERDB__V1__SUBSCRIBE_REQUEST__MSG_NACK: take_nack(m, r->nack); break;
    default:
        failure_violation(call_failure(m->call), STATUS_FIELD_INVALID, "msg", "a message is one of open, credit, ack, nack, extend");
        member_fail(m);
        return;
    }
    if (m->failed) return;
    settles_flush(m);
    if (!m->held && m->gathered_count >= SETTLES_HELD) m->held = true, call_hold(m->call);
}

static struct member *member_new(struct call *call) {
    uint32_t n = call_core(call)->node->partition_count;
    struct arena *a = call_arena_take(call);
    struct member *m = a ? arena_zalloc(a, sizeof *m + n * sizeof m->feeders[0]) : NULL;
    if (!m || !(m->stale = arena_alloc(a, CONSUMER_SETTLES_MAX * sizeof *m->stale))) return NULL;
    m->call = call;
    m->count = m->unattached = n;
    m->retry.fire = on_retry, m->hungry.fire = on_hungry;
    m->look_arena = call_arena_take(call);
    m->message_arena = call_arena_take(call);
    m->out_arena = call_arena_take(call);
    m->gather_arena = call_arena_take(call);
    if (!m->look_arena || !m->message_arena || !m->out_arena || !m->gather_arena) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct feeder *f = &m->feeders[i];
        f->member = m;
        f->partition = i;
        f->state = FEEDER_AGAIN;
        f->poll_arena = call_arena_take(call);
        f->settle_arena = call_arena_take(call);
        f->wake_arena = call_arena_take(call);
        if (!f->poll_arena || !f->settle_arena || !f->wake_arena) return NULL;
    }
    return m;
}

/* NULL: the call has failed. */
static struct member *member_begin(struct call *call) {
    struct core *core = call_core(call);
    if (core->streams_live >= core->node->limits.streams_max) {
        failure_set(call_failure(call), STATUS_OVERLOADED, "this node serves as many change streams as it may (%u a core)", core->node->limits.streams_max);
        call_fail(call);
        return NULL;
    }
    struct member *m = member_new(call);
    if (!m) {
        serve_fail_memory(call);
        return NULL;
    }
    core->streams_live++;
    *call_state(call) = m;
    call_on_end(call, on_end);
    call_on_leave(call, on_leave);
    call_watch_core(call, on_core_change);
    call_watch_peer(call, PEER_TIMEOUT_MS);
    if (!core->draining) return m;
    on_core_change(call);
    return NULL;
}

void serve_subscribe(struct call *call) {
    struct member *m = *call_state(call);
    struct failure f;
    if (!m && !(m = member_begin(call))) return;
    if (m->failed) return;
    if (call_half_closed(call)) {
        if (m->subscription) {
            member_close(m);
            return;
        }
        failure_violation(call_failure(call), STATUS_FIELD_INVALID, "open", "must be the first message");
        member_fail(m);
        return;
    }
    arena_reset(m->message_arena);
    failure_init(&f, m->message_arena);
    Orderdb__V1__SubscribeRequest *r = (void *)scan_unpack(&orderdb__v1__subscribe_request__descriptor, call_message(call), &scan_limits_default, &f);
    if (r) take_message(m, r);
    else member_fail_with(m, &f);
}
