/* SeekConsumerGroup: where a group goes on, in every slot. Walks over the partitions, one op at a time but for MOVE:
 *
 *   SEEK       OP_FEED_SEEK: the time, cursor or start as the seq that is behind the reader, by slot       -> target
 *   LOOK       OP_GROUP_POSITIONS: where the group is now, and what would come again or be left out        -> previous, counts; dry_run ends here
 *              else also: whether the partition would take a write now
 *   PLAN       COMMAND_GROUP_SEEKING to the meta partition: what each partition is to do, and the epoch at which LOOK found it there. From here on the seek takes place, whatever becomes of the
 *              call, the connection or this process. Of two seeks at once one is refused (VERSION_MISMATCH), also one that looked while the other was at work
 *   MOVE       COMMAND_GROUP_SEEK of each partition, all at once
 *   OVER       the plan is taken away, and the answer given
 *
 * Back to the snapshot (start SNAPSHOT_THEN_TAIL) there is nothing to seek: LOOK counts the orders that will be told, MOVE is COMMAND_GROUP_SNAPSHOT.
 *
 * What can be known beforehand (damage, a full disk, tables that fall behind, another seek) refuses it before anything is planned. Behind that a refusal that passes (overload, a leader that
 * changes) is tried again for PATIENCE_NS; what fails all the same is told with the slots that have moved and those that have not, and is groups.c's to go on with, as is all that a call leaves which is cut off.
 *
 * Undo. previous_cursor is behind what was settled, slot by slot. Of a snapshot that is not over there is no such place: then it is the cursor of a snapshot's beginning. */
#include <stdio.h>

#include "engine/check.h"
#include "engine/consumer_seek.h"
#include "engine/cursor.h"
#include "orderdb/v1/stream.pb-c.h"
#include "proto/pbwire.h"
#include "proto/route.h"
#include "server/core.h"
#include "server/groups.h"
#include "server/node.h"
#include "server/serve_group.h"

enum { SLOTS_BYTES = 16, SLOTS_TEXT_BYTES = 512, VARINT_BYTES_MAX = 10 }; /* "16383-16383,"; all of them: as many ranges as fit */
#define AGAIN_NS (50 * NS_PER_MS)
#define PATIENCE_NS (10 * NS_PER_S)

struct seek_move {
    struct call_op op;
    struct group_call *call;
    uint32_t partition;
    bool moved, again; /* again: it waits for the timer */
};

struct seeking {
    struct group_call *call;
    bool snapshot;     /* to the beginning of one */
    bool in_snapshot;  /* it is within one: no place of the stream says where */
    enum feed_from from;
    uint64_t time_us;
    struct cursor target, previous;
    uint64_t *epochs; /* by partition */
    uint64_t redelivered, skipped;
    bool estimated;
    struct consumer_seek plan; /* in an arena of its own */
    bool planned, over;        /* PLAN has been sent; the plan is known to be gone, or never to have been there */
    struct seek_move *moves; /* [partitions] */
    uint32_t moves_away;     /* or waiting */
    struct timer timer;
    uint64_t until_ns;       /* tried again until then */
    enum status refused;     /* the first move that was, and */
    const char *why;
    uint32_t retry_delay_ms;
};

static void seek_look(struct call *call, struct group_call *g);

static struct slice token_key(const struct node *node) { return slice_of(node->identity.token_key, sizeof node->identity.token_key); }
static bool at_end(struct call *call, const struct group_call *g) { return g->partition == call_core(call)->node->partition_count; }

static void seek_reply(struct call *call, struct group_call *g) {
    struct seeking *s = g->own;
    enum { CAP = 5 * PB_INT_BYTES_MAX };
    uint8_t *cursor = arena_alloc(call_arena(call), CURSOR_BYTES_MAX), *bytes = arena_alloc(call_arena(call), CAP);
    if (!cursor || !bytes) {
        serve_fail_memory(call);
        return;
    }
    const struct slice key = token_key(call_core(call)->node);
    size_t len = s->in_snapshot ? cursor_encode_snapshot(key, cursor) : cursor_encode(&s->previous, (struct slice){0}, key, cursor);
    struct writer w = writer_of(bytes, CAP);
    pb_int64(&w, 1, (int64_t)s->redelivered);
    pb_int64(&w, 2, (int64_t)s->skipped);
    pb_bool(&w, 4, s->estimated);
    pb_bool(&w, 5, s->in_snapshot);
    pb_tag(&w, 3, PB_LEN);
    write_varint(&w, len);
    check(!w.full);
    const struct slice parts[] = {writer_slice(&w), slice_of(cursor, len)};
    call_reply(call, parts, ARRAY_LEN(parts));
}

/* false: the op was refused, and the call has failed. */
static bool succeeded(struct call *call, struct call_op *o) {
    if (!o->op.failure.status) return true;
    serve_fail_with(call, &o->op.failure);
    return false;
}

static struct slice epochs_packed(const struct seeking *s, uint32_t partitions, struct arena *arena) {
    uint8_t *bytes = arena_alloc(arena, (size_t)partitions * VARINT_BYTES_MAX);
    if (!bytes) return (struct slice){0};
    struct writer w = writer_of(bytes, (size_t)partitions * VARINT_BYTES_MAX);
    for (uint32_t i = 0; i < partitions; i++) write_varint(&w, s->epochs[i]);
    check(!w.full);
    return writer_slice(&w);
}

static struct slice slots_packed(const struct seeking *s, struct arena *arena, unsigned *count) {
    size_t cap = (size_t)SLOT_COUNT * (2 + VARINT_BYTES_MAX);
    uint8_t *bytes = arena_alloc(arena, cap);
    if (!bytes) return (struct slice){0};
    struct writer w = writer_of(bytes, cap);
    for (uint32_t slot = 0; slot < SLOT_COUNT; slot++) {
        if (s->target.seq[slot] <= 0) continue; /* from its first event on */
        write_be16(&w, (uint16_t)slot);
        write_varint(&w, (uint64_t)s->target.seq[slot]);
        ++*count;
    }
    check(!w.full);
    return writer_slice(&w);
}

/* "0-2047,4096-6143": slots of partitions that have moved, or have not. */
static void slots_text(const struct seeking *s, uint32_t partitions, bool moved, char *text, size_t cap) {
    size_t len = 0;
    text[0] = 0;
    for (uint32_t i = 0, end; i < partitions; i = end) {
        for (end = i + 1; end < partitions && s->moves[end].moved == s->moves[i].moved; end++) {}
        if (s->moves[i].moved != moved || len >= cap - SLOTS_BYTES) continue;
        len += (size_t)snprintf(text + len, cap - len, "%s%u-%u", len ? "," : "", partition_first_slot(i, partitions), partition_last_slot(end - 1, partitions));
    }
}

static void moves_failed(struct call *call, struct group_call *g) {
    const struct seeking *s = g->own;
    uint32_t partitions = call_core(call)->node->partition_count;
    struct failure *f = call_failure(call);
    char there[SLOTS_TEXT_BYTES], left[SLOTS_TEXT_BYTES];
    f->retry_delay_ms = s->retry_delay_ms;
    slots_text(s, partitions, true, there, sizeof there);
    slots_text(s, partitions, false, left, sizeof left);
    failure_meta(f, "moved_slots", "%s", there);
    failure_meta(f, "unmoved_slots", "%s", left);
    failure_set(f, s->refused, "the group has not moved in slots %s (%s): the server goes on with the seek until it has, and takes no other one before", left, s->why);
    call_fail(call);
}

static bool move_send(struct call *call, struct group_call *g, uint32_t partition);

static void move_refused(struct call *call, struct seeking *s, const struct failure *f) {
    if (s->refused) return;
    s->refused = f->status;
    s->why = arena_printf(call_arena(call), "%s", f->message ? f->message : status_name(f->status));
    s->retry_delay_ms = f->retry_delay_ms;
}

/* To the meta partition, in the arena of such ops. false: no memory. */
static bool meta_send(struct call *call, struct group_call *g, const struct command_group_seeking *seeking, void (*next)(struct call *call, struct call_op *o)) {
    struct command c = {.type = COMMAND_GROUP_SEEKING, .seeking = *seeking};
    arena_reset(g->arena);
    g->op.op = (struct op){.kind = OP_WRITE, .slot = SLOT_META, .arena = g->arena, .deadline_ns = call_deadline_ns(call), .command = command_encode(&c, g->arena)};
    if (g->op.op.command.data) call_submit(call, &g->op, next);
    return g->op.op.command.data;
}

/* Whether it was taken away or not (then groups.c does it): all have moved. */
static void on_over(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct seeking *s = g->own;
    s->over = !o->op.failure.status;
    seek_reply(call, g);
}

static void plan_end(struct call *call, struct group_call *g) {
    const struct seeking *s = g->own;
    if (!meta_send(call, g, &(struct command_group_seeking){.group_id = g->row.group_id, .over = true, .epoch = s->plan.id}, on_over)) seek_reply(call, g);
}

/* All moves are home. */
static void moves_over(struct call *call, struct group_call *g) {
    const struct seeking *s = g->own;
    if (s->moves_away) return;
    if (s->refused) moves_failed(call, g);
    else plan_end(call, g);
}

/* It can't now: true if it will be tried again. */
static bool move_waits(struct call *call, struct seeking *s, struct seek_move *m) {
    const struct failure *f = &m->op.op.failure;
    struct core *core = call_core(call);
    uint64_t deadline_ns = call_deadline_ns(call), due_ns = core->now_ns + AGAIN_NS;
    if (status_retry(f->status) == RETRY_NEVER || f->status == STATUS_DEADLINE_EXCEEDED || core->draining) return false;
    if (due_ns >= s->until_ns || (deadline_ns && due_ns + AGAIN_NS >= deadline_ns)) return false; /* there is time to say what has become of it */
    if (!s->timer.place && !timer_set(&core->timers, &s->timer, due_ns)) return false;
    return m->again = true;
}

static void on_again(struct timer *t) {
    struct seeking *s = container_of(t, struct seeking, timer);
    struct group_call *g = s->call;
    struct call *call = g->op.call;
    uint32_t partitions = call_core(call)->node->partition_count;
    for (uint32_t i = 0; i < partitions; i++) {
        if (!s->moves[i].again) continue;
        s->moves[i].again = false;
        s->moves_away--;
        if (!move_send(call, g, i)) move_refused(call, s, &(struct failure){.status = STATUS_MEMORY_LIMIT});
    }
    moves_over(call, g);
}

/* One that is at another epoch has been moved by groups.c: nobody else can. */
static void on_moved(struct call *call, struct call_op *o) {
    struct seek_move *m = container_of(o, struct seek_move, op);
    struct group_call *g = m->call;
    struct seeking *s = g->own;
    m->moved = !o->op.failure.status || o->op.failure.status == STATUS_VERSION_MISMATCH;
    if (!m->moved && move_waits(call, s, m)) return;
    if (!m->moved) move_refused(call, s, &o->op.failure);
    s->moves_away--;
    moves_over(call, g);
}

/* false: no memory. */
static bool move_send(struct call *call, struct group_call *g, uint32_t partition) {
    struct seeking *s = g->own;
    struct seek_move *m = &s->moves[partition];
    struct arena *arena = m->op.op.arena ? m->op.op.arena : call_arena_take(call);
    if (!arena) return false;
    arena_reset(arena);
    m->op.op = (struct op){.kind = OP_WRITE, .slot = partition_first_slot(partition, call_core(call)->node->partition_count), .arena = arena, .deadline_ns = call_deadline_ns(call)};
    m->op.op.command = consumer_seek_command(&s->plan, g->row.group_id, partition, arena);
    if (!m->op.op.command.data) return false;
    m->call = g;
    m->partition = partition;
    s->moves_away++;
    call_submit(call, &m->op, on_moved);
    return true;
}

static void another_seek(struct call *call) {
    failure_set(call_failure(call), STATUS_VERSION_MISMATCH, "another seek moves the group at the same time: look where it is, and seek again");
    call_fail(call);
}

static void on_planned(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct seeking *s = g->own;
    uint32_t partitions = call_core(call)->node->partition_count;
    s->over = o->op.failure.status == STATUS_VERSION_MISMATCH;
    if (s->over) {
        another_seek(call);
        return;
    }
    if (!succeeded(call, o)) return;
    s->plan.id = o->op.outcome.group.epoch;
    s->until_ns = call_core(call)->now_ns + PATIENCE_NS;
    s->moves_away = 1; /* until all have been sent */
    for (uint32_t i = 0; i < partitions; i++)
        if (!move_send(call, g, i)) move_refused(call, s, &(struct failure){.status = STATUS_MEMORY_LIMIT});
    s->moves_away--;
    moves_over(call, g);
}

static void plan_begin(struct call *call, struct group_call *g) {
    struct seeking *s = g->own;
    uint32_t partitions = call_core(call)->node->partition_count;
    struct arena *memory = call_arena_take(call); /* it outlives the op */
    if (!memory) {
        serve_fail_memory(call);
        return;
    }
    s->plan = (struct consumer_seek){.snapshot = s->snapshot, .partition_count = partitions, .epochs = epochs_packed(s, partitions, memory)};
    if (!s->snapshot) s->plan.packed = slots_packed(s, memory, &s->plan.count);
    struct slice plan = s->plan.epochs.data && (s->snapshot || s->plan.packed.data) ? consumer_seek_plan_encode(&s->plan, memory) : (struct slice){0};
    s->planned = true;
    if (!plan.data || !meta_send(call, g, &(struct command_group_seeking){.group_id = g->row.group_id, .epoch = g->row.epoch, .plan = plan}, on_planned)) serve_fail_memory(call);
}

static void on_looked(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    struct seeking *s = g->own;
    const Orderdb__V1__SeekConsumerGroupRequest *m = g->message;
    if (!succeeded(call, o)) return;
    s->redelivered += s->snapshot ? o->op.positions.orders : o->op.positions.redelivered;
    s->in_snapshot |= o->op.positions.orders_left > 0;
    s->skipped += o->op.positions.skipped;
    s->estimated |= o->op.positions.estimated;
    s->epochs[g->partition++] = o->op.positions.epoch;
    if (!at_end(call, g)) {
        seek_look(call, g);
        return;
    }
    if (m->dry_run) {
        seek_reply(call, g);
        return;
    }
    plan_begin(call, g);
}

static void seek_look(struct call *call, struct group_call *g) {
    struct seeking *s = g->own;
    const Orderdb__V1__SeekConsumerGroupRequest *m = g->message;
    serve_group_op(call, g, OP_GROUP_POSITIONS)->positions =
        (struct consumer_positions){.group_id = g->row.group_id, .behind = s->previous.seq, .target = s->snapshot ? NULL : s->target.seq, .writable = !m->dry_run};
    call_submit(call, &g->op, on_looked);
}

static void seek_from(struct call *call, struct group_call *g);

static void on_sought(struct call *call, struct call_op *o) {
    struct group_call *g = container_of(o, struct group_call, op);
    if (!succeeded(call, o)) return;
    g->partition++;
    if (!at_end(call, g)) {
        seek_from(call, g);
        return;
    }
    g->partition = 0;
    seek_look(call, g);
}

static void seek_from(struct call *call, struct group_call *g) {
    struct seeking *s = g->own;
    serve_group_op(call, g, OP_FEED_SEEK)->seek = (struct feed_seek){.from = s->from, .time_us = s->time_us, .behind = s->target.seq};
    call_submit(call, &g->op, on_sought);
}

static bool read_start(struct seeking *s, Orderdb__V1__ConsumerGroup__Start start, struct failure *f) {
    switch (start) {
    case ORDERDB__V1__CONSUMER_GROUP__START__EARLIEST: return s->from = FEED_EARLIEST, true;
    case ORDERDB__V1__CONSUMER_GROUP__START__LATEST: return s->from = FEED_LATEST, true;
    case ORDERDB__V1__CONSUMER_GROUP__START__SNAPSHOT_THEN_TAIL: return s->snapshot = true;
    default: return failure_violation(f, STATUS_FIELD_INVALID, "start", "must be 1 (EARLIEST), 2 (LATEST) or 4 (SNAPSHOT_THEN_TAIL), not %d; for a time there is `time`", (int)start), false;
    }
}

/* false: *f says why. */
static bool read_to(struct seeking *s, const Orderdb__V1__SeekConsumerGroupRequest *m, const struct node *node, struct failure *f) {
    int64_t us = 0;
    cursor_init(&s->target);
    cursor_init(&s->previous);
    switch (m->to_case) {
    case ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_TIME:
        if (!check_timestamp(m->time, "time", &us, f)) return false;
        s->from = FEED_TIME;
        s->time_us = (uint64_t)MAX_OF(us, (int64_t)1);
        return true;
    case ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_CURSOR:
        s->snapshot = cursor_is_snapshot(slice_of(m->cursor.data, m->cursor.len), token_key(node));
        if (s->snapshot) return true;
        s->from = FEED_CURSOR;
        return cursor_decode(&s->target, slice_of(m->cursor.data, m->cursor.len), (struct slice){0}, token_key(node), "cursor", f) == STATUS_OK;
    case ORDERDB__V1__SEEK_CONSUMER_GROUP_REQUEST__TO_START: return read_start(s, m->start, f);
    default: return failure_violation(f, STATUS_FIELD_INVALID, "to", "name a time, a cursor or a start"), false;
    }
}

static void on_end(struct call *call) {
    struct seeking *s = *call_state(call);
    timer_clear(&call_core(call)->timers, &s->timer);
    if (s->planned && !s->over) groups_changed(call_core(call)); /* the rest is groups.c's */
}

static void seek_found(struct call *call, struct group_call *g) {
    struct seeking *s = g->own = *call_state(call);
    s->call = g;
    g->arena = call_arena_take(call);
    const Orderdb__V1__SeekConsumerGroupRequest *m = g->message;
    if (g->row.seeking_us && !m->dry_run) another_seek(call);
    else if (g->arena && s->snapshot) seek_look(call, g);
    else if (g->arena) seek_from(call, g);
    else serve_fail_memory(call);
}

void serve_seek_consumer_group(struct call *call) {
    const struct node *node = call_core(call)->node;
    Orderdb__V1__SeekConsumerGroupRequest *m = (void *)serve_decode(call, &orderdb__v1__seek_consumer_group_request__descriptor);
    if (!m) return;
    struct arena *memory = call_arena_take(call); /* 256 KiB: beside the call's, which is made for the message */
    struct seeking *s = memory ? arena_new(memory, struct seeking) : NULL;
    if (!s || !(s->epochs = arena_array(memory, uint64_t, node->partition_count)) || !(s->moves = arena_zalloc(memory, node->partition_count * sizeof *s->moves))) {
        serve_fail_memory(call);
        return;
    }
    if (!read_to(s, m, node, call_failure(call))) {
        call_fail(call);
        return;
    }
    s->timer.fire = on_again;
    *call_state(call) = s;
    call_on_end(call, on_end);
    serve_group_find(call, m, m->group, seek_found);
}
