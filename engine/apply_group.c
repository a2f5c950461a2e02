#include "engine/apply_local.h"
#include "engine/consumer_row.h"
#include "engine/consumer_seek.h"

#include "proto/pbwire.h"

/* Consumer groups: what survives (consumer_row.h), changed by commands alone.
 *
 * A command that comes too late finds that out here, and changes nothing: of a group that has gone, of an epoch before the last seek, of an event that is settled
 * already. So a dispatcher may propose what it knows, and what it proposed may come to pass after all when it has long been replaced. */

enum {
    SWEEP_ROWS_MAX = 512, SWEEP_SLOTS_MAX = 2048, /* of one COMMAND_GROUP_SWEEP */
};

/* ---- rows */

static struct writer row_writer(struct applying *x, size_t cap)
{
    uint8_t *bytes = arena_alloc(x->a->scratch, cap);
    return writer_of(bytes, bytes ? cap : 0);
}

/* MEMORY_LIMIT: it did not fit, for the scratch arena was full. */
static enum status put(struct applying *x, const struct key *k, const struct writer *w)
{
    if (!w->data) return STATUS_MEMORY_LIMIT;
    check(!w->full);
    store_batch_put(x->a->view.batch, key_slice(k), writer_slice(w));
    return STATUS_OK;
}

static enum status get(struct applying *x, const struct key *k, struct slice *row) { return store_get(&x->a->view, key_slice(k), x->a->scratch, row); }

static enum status load_group(struct applying *x, uint32_t group_id, struct consumer_group_row *row)
{
    struct key k;
    struct slice bytes;
    key_group(&k, group_id);
    enum status st = group_id ? get(x, &k, &bytes) : STATUS_ABSENT;
    if (!st) st = consumer_group_row_decode(bytes, row);
    if (!st) row->group_id = group_id;
    return st;
}

static enum status put_group(struct applying *x, const struct consumer_group_row *row)
{
    struct key k;
    struct writer w = row_writer(x, CONSUMER_GROUP_ROW_HEAD_BYTES_MAX + row->definition.len);
    key_group(&k, row->group_id);
    if (w.data) consumer_group_row_encode(row, &w);
    return put(x, &k, &w);
}

/* The slot's position in this epoch. */
static enum status load_position(struct applying *x, const struct consumer_group_row *group, uint16_t slot, struct consumer_position *p)
{
    struct key k;
    struct slice bytes;
    key_position(&k, slot, group->group_id);
    *p = (struct consumer_position){.epoch = group->epoch};
    enum status st = get(x, &k, &bytes);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    st = consumer_position_decode(bytes, x->a->scratch, p);
    if (!st && p->epoch != group->epoch) *p = (struct consumer_position){.epoch = group->epoch, .letters = p->letters};
    return st;
}

static enum status put_position(struct applying *x, const struct consumer_group_row *group, uint16_t slot, const struct consumer_position *p)
{
    struct key k;
    struct writer w = row_writer(x, consumer_position_bytes_max(p));
    key_position(&k, slot, group->group_id);
    if (w.data) consumer_position_encode(p, &w);
    return put(x, &k, &w);
}

static enum status load_letter(struct applying *x, uint32_t group_id, uint16_t slot, int64_t seq, struct consumer_letter *l)
{
    struct key k;
    struct slice bytes;
    key_letter(&k, slot, group_id, seq);
    enum status st = get(x, &k, &bytes);
    return st ? st : consumer_letter_decode(bytes, l);
}

static enum status put_letter(struct applying *x, uint32_t group_id, uint16_t slot, int64_t seq, const struct consumer_letter *l)
{
    struct key k;
    struct writer w = row_writer(x, consumer_letter_bytes_max(l));
    key_letter(&k, slot, group_id, seq);
    if (w.data) consumer_letter_encode(l, &w);
    return put(x, &k, &w);
}

static void tell(struct applying *x, enum group_effect_kind kind, uint32_t group_id, uint16_t slot, int64_t seq)
{
    struct group_effects *e = x->a->effects;
    if (!e) return;
    check(e->count < ARRAY_LEN(e->at));
    e->at[e->count++] = (struct group_effect){.kind = kind, .group_id = group_id, .slot = slot, .seq = seq};
}

/* ABSENT: there is nothing to be done for it any more. */
static enum status load_live(struct applying *x, uint32_t group_id, struct consumer_group_row *row)
{
    enum status st = load_group(x, group_id, row);
    return !st && row->flags & CONSUMER_REMOVING ? STATUS_ABSENT : st;
}

/* false: the command ends here with *st; a group that is not there is refused. */
static bool find_group(struct applying *x, uint32_t group_id, struct consumer_group_row *group, enum status *st)
{
    *st = load_live(x, group_id, group);
    if (*st == STATUS_ABSENT) return *st = apply_refuse(x, STATUS_GROUP_NOT_FOUND), false;
    return *st == STATUS_OK;
}

/* ---- the authority: the meta partition */

struct registry {
    struct consumer_group_row found; /* group_id 0: no group has that name */
    unsigned count;
    uint32_t last_id;
};

static enum status load_last_id(struct applying *x, uint32_t *id)
{
    struct key k;
    struct slice bytes;
    key_group(&k, 0);
    *id = 0;
    enum status st = get(x, &k, &bytes);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st;
    struct reader r = reader_of(bytes);
    if (read_u8(&r) != 1 || bytes.len != 1 + 4) return STATUS_CHECKSUM_MISMATCH;
    *id = read_be32(&r);
    return STATUS_OK;
}

static enum status put_last_id(struct applying *x, uint32_t id)
{
    struct key k;
    struct writer w = row_writer(x, 1 + 4);
    key_group(&k, 0);
    write_u8(&w, 1);
    write_be32(&w, id);
    return put(x, &k, &w);
}

static enum status look_up(struct applying *x, struct slice name, struct registry *reg)
{
    struct key lower, upper;
    *reg = (struct registry){0};
    enum status st = load_last_id(x, &reg->last_id);
    if (st) return st;
    key_group(&lower, 1);
    key_group(&upper, UINT32_MAX);
    struct store_iter *it = store_iter_open(&x->a->view, key_slice(&lower), key_slice(&upper));
    for (store_iter_first(it); store_iter_valid(it) && !st; store_iter_next(it)) {
        struct consumer_group_row row;
        struct consumer_definition d;
        reg->count++;
        st = consumer_group_row_decode(store_iter_value(it), &row);
        if (!st) st = consumer_definition_decode(row.definition, &d);
        if (st || !slice_equal(d.name, name)) continue;
        reg->found = row;
        reg->found.group_id = key_group_id(store_iter_key(it));
        reg->found.definition = arena_copy(x->a->scratch, row.definition);
        if (!reg->found.definition.data) st = STATUS_MEMORY_LIMIT;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

static enum status registry_create(struct applying *x, const struct registry *reg, struct consumer_group_row *row)
{
    if (reg->found.group_id) return apply_refuse(x, STATUS_GROUP_EXISTS);
    if (reg->count >= CONSUMER_GROUPS_MAX || reg->last_id == UINT32_MAX - 1) return apply_refuse(x, STATUS_LIMIT_EXCEEDED);
    *row = (struct consumer_group_row){.group_id = reg->last_id + 1, .revision = 1, .epoch = 1, .definition = x->command->group.definition};
    enum status st = put_last_id(x, row->group_id);
    return st ? st : put_group(x, row);
}

static enum status registry_change(struct applying *x, const struct registry *reg, struct consumer_group_row *row)
{
    struct key k;
    if (!reg->found.group_id) return apply_refuse(x, STATUS_GROUP_NOT_FOUND);
    *row = reg->found;
    if (x->command->group.action == GROUP_DELETE) {
        key_group(&k, row->group_id);
        store_batch_delete(x->a->view.batch, key_slice(&k));
        key_seek(&k, row->group_id);
        store_batch_delete(x->a->view.batch, key_slice(&k));
        return STATUS_OK;
    }
    if (slice_equal(row->definition, x->command->group.definition)) return STATUS_OK;
    row->definition = x->command->group.definition;
    row->revision++;
    return put_group(x, row);
}

enum status apply_group(struct applying *x)
{
    const struct command_group *c = &x->command->group;
    struct consumer_definition d;
    struct consumer_group_row row = {0};
    struct registry reg;
    enum status st = c->action == GROUP_DELETE ? STATUS_OK : consumer_definition_decode(c->definition, &d);
    if (st) return st;
    x->out->group.name = c->name;
    if (c->action != GROUP_DELETE && !slice_equal(d.name, c->name)) return STATUS_CHECKSUM_MISMATCH; /* check_group lets none through */
    if ((st = look_up(x, c->name, &reg))) return st;
    st = c->action == GROUP_CREATE ? registry_create(x, &reg, &row) : registry_change(x, &reg, &row);
    if (st || x->out->status) return st;
    x->out->group.group_id = row.group_id;
    x->out->group.revision = row.revision;
    x->out->group.definition = row.definition;
    return STATUS_OK;
}

/* What all partitions are to do, until they have. One seek of a group at a time: the epoch, which every beginning and every end raises, tells whoever has looked at the partitions before
 * that they have moved since. */
enum status apply_group_seeking(struct applying *x)
{
    const struct command_group_seeking *c = &x->command->seeking;
    struct consumer_group_row group;
    struct consumer_seek seek;
    struct key k;
    struct slice bytes;
    enum status st;
    if (!find_group(x, c->group_id, &group, &st)) return st;
    x->out->group.group_id = c->group_id;
    key_seek(&k, c->group_id);
    st = get(x, &k, &bytes);
    if (!st) st = consumer_seek_row_decode(bytes, &seek);
    if (st && st != STATUS_ABSENT) return st;
    bool goes_on = st == STATUS_OK;
    if (c->over && (!goes_on || seek.id != c->epoch)) return STATUS_OK;
    if (!c->over && (goes_on || c->epoch != group.epoch)) return apply_refuse(x, STATUS_VERSION_MISMATCH);
    if (!c->over && (st = consumer_seek_plan_decode(c->plan, &seek))) return st;
    x->out->group.epoch = ++group.epoch;
    if ((st = put_group(x, &group))) return st;
    if (c->over) return store_batch_delete(x->a->view.batch, key_slice(&k)), STATUS_OK;
    struct writer w = row_writer(x, CONSUMER_SEEK_HEAD_BYTES + c->plan.len);
    if (w.data) consumer_seek_row_encode(group.epoch, x->now_us, c->plan, &w);
    return put(x, &k, &w);
}

/* ---- a partition's copy */

/* What came before is in the orders that it tells. start_us: since when it has them to tell. */
static void begin_with_snapshot(const struct applying *x, struct consumer_group_row *row)
{
    row->flags = (uint8_t)((row->flags & ~CONSUMER_YIELD) | CONSUMER_SNAPSHOT);
    row->start_place = x->a->index + 1;
    row->start_us = x->now_us;
}

/* Where a group begins here: in this partition's stream as it is when the group comes. */
static void begin_at_start(const struct applying *x, const struct consumer_definition *d, struct consumer_group_row *row)
{
    row->start_place = d->start == START_LATEST ? x->a->index + 1 : x->a->kept.first_place;
    row->start_us = d->start == START_AT_TIME && d->start_us > 0 ? (uint64_t)d->start_us : 0;
    if (d->start == START_SNAPSHOT) begin_with_snapshot(x, row);
}

enum status apply_group_bring(struct applying *x)
{
    const struct command_group_bring *c = &x->command->bring;
    struct consumer_group_row row;
    struct consumer_definition d;
    enum status st = load_group(x, c->group_id, &row);
    bool there = st == STATUS_OK;
    if (st && st != STATUS_ABSENT) return st;
    x->out->group.group_id = c->group_id;
    if (there && (row.flags & CONSUMER_REMOVING)) return STATUS_OK;
    if (c->remove) {
        if (!there) return STATUS_OK;
        row.flags |= CONSUMER_REMOVING;
        row.sweep_slot = 0;
    } else {
        if (!c->group_id || c->group_id == UINT32_MAX || (st = consumer_definition_decode(c->definition, &d))) return STATUS_CHECKSUM_MISMATCH;
        if (there && row.revision >= c->revision) return STATUS_OK;
        if (!there) row = (struct consumer_group_row){.group_id = c->group_id, .epoch = 1};
        if (!there) begin_at_start(x, &d, &row);
        row.revision = c->revision;
        row.definition = c->definition;
    }
    tell(x, GROUP_EFFECT_ROW, c->group_id, 0, 0);
    return put_group(x, &row);
}

/* ---- positions */

struct settled { /* events of a slot that are settled behind a change of its position, and were not before */
    const struct consumer_position *before, *after;
    int64_t from;    /* none below it */
    unsigned listed; /* of before: none in front of it */
};

/* The next of them; INT64_MAX: there is none. */
static int64_t settled_next(struct settled *s)
{
    const struct consumer_position *before = s->before;
    while (s->listed < before->count && (before->listed[s->listed].seq < s->from || !consumer_position_settled(s->after, before->listed[s->listed].seq))) s->listed++;
    int64_t seq = s->listed < before->count ? before->listed[s->listed].seq : MAX_OF(s->from, before->through + 1);
    return seq <= s->after->through ? seq : INT64_MAX;
}

enum { YIELDING_MAX = 64 };

/* Which of them have letters that were to go out: so many at most. */
static enum status find_yielding(struct applying *x, uint32_t group_id, uint16_t slot, struct settled *s, int64_t *seqs, unsigned *count)
{
    struct key lower, upper;
    enum status st = STATUS_OK;
    key_letter(&lower, slot, group_id, 1);
    key_letter_prefix(&upper, slot, group_id);
    key_after_prefix(&upper);
    struct store_iter *it = store_iter_open(&x->a->view, key_slice(&lower), key_slice(&upper));
    *count = 0;
    for (int64_t next; !st && *count < YIELDING_MAX && (next = settled_next(s)) != INT64_MAX;) {
        struct consumer_letter l;
        key_letter(&lower, slot, group_id, next);
        store_iter_seek(it, key_slice(&lower));
        if (!store_iter_valid(it)) break;
        int64_t seq = key_letter_seq(store_iter_key(it));
        s->from = seq;
        if (settled_next(s) != seq) continue;
        st = consumer_letter_decode(store_iter_value(it), &l);
        if (!st && l.state != LETTER_DEAD) seqs[(*count)++] = seq;
        s->from = seq + 1;
    }
    if (!st) st = store_iter_status(it);
    store_iter_close(it);
    return st;
}

/* Of events that came again by a seek, and are settled now, letters that were to go out are gone. Those that had been let go did not come again. */
static enum status letters_yield(struct applying *x, const struct consumer_group_row *group, uint16_t slot, const struct slot_record *record, const struct consumer_position *before,
                                 struct consumer_position *after)
{
    struct settled s = {.before = before, .after = after, .from = 1};
    unsigned count = before->letters && group->flags & CONSUMER_YIELD ? YIELDING_MAX : 0;
    enum status st = STATUS_OK;
    while (!st && count == YIELDING_MAX) {
        int64_t seqs[YIELDING_MAX];
        st = find_yielding(x, group->group_id, slot, &s, seqs, &count);
        for (unsigned i = 0; i < count && !st; i++) {
            struct key k;
            uint64_t place;
            st = feed_place(&x->a->view, x->a->scratch, slot, seqs[i], record->last_seq, &record->places, &x->a->kept, &place);
            key_letter(&k, slot, group->group_id, seqs[i]);
            if (!st) store_batch_delete(x->a->view.batch, key_slice(&k)), after->letters -= after->letters > 0;
            if (st == STATUS_ABSENT) st = STATUS_OK;
        }
    }
    return st;
}

/* Orders above fresh_after are told by this (INT64_MAX: none is). *taken false: what it says is of another history, and changes nothing. */
static enum status settle_slot(struct applying *x, const struct consumer_group_row *group, uint16_t slot, struct slice bytes, int64_t fresh_after, bool *taken)
{
    struct consumer_position told, known, joined;
    struct slot_record record;
    x->slot = slot;
    *taken = false;
    enum status st = consumer_position_decode(bytes, x->a->scratch, &told);
    if (!st) st = apply_load_slot(x, &record);
    if (!st) st = load_position(x, group, slot, &known);
    if (st) return st;
    if (told.epoch != group->epoch || told.through > record.last_seq) return STATUS_OK; /* it would settle what has not happened */
    st = consumer_position_join(&known, &told, x->a->scratch, &joined);
    if (!st) st = consumer_told_join(&known, &told, fresh_after, x->a->scratch, &joined);
    if (st == STATUS_LIMIT_EXCEEDED) return STATUS_OK;
    *taken = true;
    if (!st) st = letters_yield(x, group, slot, &record, &known, &joined);
    return st ? st : put_position(x, group, slot, &joined);
}

/* In the group's epoch. */
static enum status load_progress(struct applying *x, const struct consumer_group_row *group, struct consumer_progress *p)
{
    struct key k;
    struct slice bytes;
    key_progress(&k, group->group_id);
    enum status st = get(x, &k, &bytes);
    if (!st) st = consumer_progress_decode(bytes, p);
    if (st && st != STATUS_ABSENT) return st;
    if (st || p->epoch != group->epoch) *p = (struct consumer_progress){.epoch = group->epoch, .scanning = group->flags & CONSUMER_SNAPSHOT};
    return STATUS_OK;
}

static enum status put_progress(struct applying *x, const struct consumer_group_row *group, const struct consumer_progress *p)
{
    struct key k;
    struct writer w = row_writer(x, CONSUMER_PROGRESS_BYTES_MAX);
    key_progress(&k, group->group_id);
    if (w.data) consumer_progress_encode(p, &w);
    return put(x, &k, &w);
}

enum status apply_group_settle(struct applying *x)
{
    const struct command_group_settle *c = &x->command->settle;
    struct consumer_group_row group;
    struct consumer_progress p;
    struct reader r = reader_of(c->packed);
    bool taken;
    enum status st;
    if (!find_group(x, c->group_id, &group, &st) || c->epoch != group.epoch) return st;
    for (unsigned i = 0; i < c->count && !st; i++) {
        uint16_t slot = read_be16(&r);
        arena_reset(x->a->scratch); /* lists of up to CONSUMER_LISTED_MAX, for each slot: all of them together would overfill it */
        st = settle_slot(x, &group, slot, read_counted(&r), INT64_MAX, &taken);
    }
    if (!st) st = load_progress(x, &group, &p);
    if (st) return st;
    p.settled_place = MAX_OF(p.settled_place, MIN_OF(c->settled_place, x->a->index)); /* of nothing that is not there yet */
    p.settled_us = MAX_OF(p.settled_us, MIN_OF(c->settled_us, x->now_us));
    return put_progress(x, &group, &p);
}

enum status apply_group_seek(struct applying *x)
{
    const struct command_group_seek *c = &x->command->seek;
    struct consumer_group_row group;
    struct reader r = reader_of(c->packed);
    enum status st;
    if (!find_group(x, c->group_id, &group, &st)) return st;
    x->out->group.group_id = c->group_id;
    if (c->epoch && c->epoch != group.epoch) return apply_refuse(x, STATUS_VERSION_MISMATCH);
    group.epoch++;
    group.flags &= (uint8_t)~(CONSUMER_SNAPSHOT | CONSUMER_YIELD);
    if (x->command->type == COMMAND_GROUP_SEEK_YIELD) group.flags |= CONSUMER_YIELD;
    group.start_place = x->a->kept.first_place; /* what is let go later is missed, and said so; what is gone now is passed over */
    group.start_us = 0;
    st = put_group(x, &group);
    for (unsigned i = 0; i < c->count && !st; i++) {
        struct consumer_position p;
        struct slot_record record;
        x->slot = read_be16(&r);
        int64_t behind = (int64_t)read_varint(&r);
        arena_reset(x->a->scratch);
        st = apply_load_slot(x, &record);
        if (!st) st = load_position(x, &group, x->slot, &p);
        if (st) return st;
        p.through = MIN_OF(behind, record.last_seq);
        st = put_position(x, &group, x->slot, &p);
    }
    x->out->group.epoch = group.epoch;
    tell(x, GROUP_EFFECT_ROW, c->group_id, 0, 0);
    return st;
}

/* ---- snapshots */

static enum status snapshot_restart(struct applying *x, struct consumer_group_row *group)
{
    uint64_t epoch = x->command->snapshot.epoch;
    x->out->group.group_id = group->group_id;
    if (epoch && epoch != group->epoch) return apply_refuse(x, STATUS_VERSION_MISMATCH);
    group->epoch++;
    begin_with_snapshot(x, group);
    x->out->group.epoch = group->epoch;
    tell(x, GROUP_EFFECT_ROW, group->group_id, 0, 0);
    return put_group(x, group);
}

/* Where one slot's position is not taken the scan stays: what the others say settles nothing that is not settled, and is told anew. */
enum status apply_group_snapshot(struct applying *x)
{
    const struct command_group_snapshot *c = &x->command->snapshot;
    struct consumer_group_row group;
    struct consumer_progress p;
    struct reader r = reader_of(c->packed);
    bool taken = true;
    enum status st;
    if (!find_group(x, c->group_id, &group, &st)) return st;
    if (c->restart) return snapshot_restart(x, &group);
    if (c->epoch != group.epoch || !(group.flags & CONSUMER_SNAPSHOT)) return STATUS_OK;
    if ((st = load_progress(x, &group, &p)) || p.scan.slot != c->from_slot || p.scan.after != c->from_after) return st;
    for (unsigned i = 0; i < c->count && !st && taken; i++) {
        uint16_t slot = read_be16(&r);
        arena_reset(x->a->scratch);
        st = settle_slot(x, &group, slot, read_counted(&r), consumer_scan_through(&p.scan, slot), &taken);
    }
    if (st || !taken) return st;
    p.scan = (struct consumer_scan){.slot = c->to_slot, .after = c->to_after};
    p.told += c->told;
    x->out->group.count = 1;
    return put_progress(x, &group, &p);
}

/* ---- letters */

/* An event that is settled becomes a letter only when it was one that is given out again. */
static enum status die(struct applying *x, const struct consumer_group_row *group, uint16_t slot, int64_t seq, int64_t last_seq, struct consumer_letter *l)
{
    struct consumer_position p, settled;
    struct consumer_letter known;
    enum status st = load_position(x, group, slot, &p);
    if (st) return st;
    st = load_letter(x, group->group_id, slot, seq, &known);
    if (st && st != STATUS_ABSENT) return st;
    const struct consumer_told *told = consumer_told_find(&p, seq);
    if (!told && event_has_seq(seq) && seq > last_seq) return STATUS_OK;
    bool there = st == STATUS_OK, done = !told && consumer_position_settled(&p, seq);
    if (done && (!there || known.state == LETTER_DEAD)) return x->out->group.count++, STATUS_OK;
    if (!done) {
        st = told ? consumer_told_settle(&p, told, x->a->scratch, &settled) : consumer_position_settle(&p, seq, x->a->scratch, &settled);
        if (st) return st == STATUS_LIMIT_EXCEEDED ? STATUS_OK : st;
        p = settled;
    }
    x->out->group.more |= there && !done;
    p.letters += !there;
    l->time_us = x->now_us;
    st = put_letter(x, group->group_id, slot, seq, l);
    if (!st) st = put_position(x, group, slot, &p);
    if (!st) x->out->group.count++;
    return st;
}

enum status apply_group_letters(struct applying *x)
{
    const struct command_group_letters *c = &x->command->letters;
    struct consumer_group_row group;
    struct reader r = reader_of(c->packed);
    enum status st;
    if (!find_group(x, c->group_id, &group, &st) || c->epoch != group.epoch) return st;
    for (unsigned i = 0; i < c->count && !st; i++) {
        struct consumer_letter l;
        struct slot_record record;
        uint16_t slot = read_be16(&r);
        int64_t seq = (int64_t)read_be64(&r);
        arena_reset(x->a->scratch);
        st = consumer_letter_decode(read_counted(&r), &l);
        x->slot = slot;
        if (!st) st = apply_load_slot(x, &record);
        if (!st) st = die(x, &group, slot, seq, record.last_seq, &l);
    }
    return st;
}

static enum status remove_letter(struct applying *x, const struct consumer_group_row *group, uint16_t slot, int64_t seq)
{
    struct consumer_position p;
    struct key k;
    enum status st = load_position(x, group, slot, &p);
    if (st) return st;
    key_letter(&k, slot, group->group_id, seq);
    store_batch_delete(x->a->view.batch, key_slice(&k));
    p.letters -= p.letters > 0;
    return put_position(x, group, slot, &p);
}

enum status apply_group_redrive(struct applying *x)
{
    const struct command_group_redrive *c = &x->command->redrive;
    struct consumer_group_row group;
    struct reader r = reader_of(c->packed);
    enum status st;
    if (!find_group(x, c->group_id, &group, &st)) return st;
    if (c->action == LETTERS_REDRIVE && group.redrive_milli != c->milli) {
        group.redrive_milli = c->milli;
        st = put_group(x, &group);
    }
    for (unsigned i = 0; i < c->count && !st; i++) {
        struct consumer_letter l;
        uint16_t slot = read_be16(&r);
        int64_t seq = (int64_t)read_be64(&r);
        arena_reset(x->a->scratch);
        st = load_letter(x, c->group_id, slot, seq, &l);
        if (st == STATUS_ABSENT) {
            st = STATUS_OK;
            continue;
        }
        if (st) return st;
        if (c->action != LETTERS_REDRIVE) {
            st = remove_letter(x, &group, slot, seq);
        } else if (l.state == LETTER_DEAD) {
            l.state = LETTER_REDRIVEN;
            l.attempts = 0;
            st = put_letter(x, c->group_id, slot, seq, &l);
        } else {
            continue; /* on its way already, or as soon as its key goes on */
        }
        x->out->group.count++;
    }
    if (c->action != LETTERS_ACKED) tell(x, GROUP_EFFECT_LETTERS, c->group_id, 0, 0);
    return st;
}

/* ---- the end of a group */

static enum status sweep_slot(struct applying *x, uint32_t group_id, uint16_t slot, unsigned *rows)
{
    struct key lower, upper;
    struct slice bytes;
    key_position(&lower, slot, group_id);
    enum status st = get(x, &lower, &bytes);
    if (st) return st == STATUS_ABSENT ? STATUS_OK : st; /* without a position there are no letters */
    struct consumer_position p;
    if ((st = consumer_position_decode(bytes, x->a->scratch, &p))) return st;
    struct key position = lower;
    key_letter_prefix(&lower, slot, group_id);
    upper = lower;
    key_after_prefix(&upper);
    unsigned count = 0;
    struct key found[SWEEP_ROWS_MAX / 8]; /* a batch is not written while it is scanned */
    struct store_iter *it = p.letters ? store_iter_open(&x->a->view, key_slice(&lower), key_slice(&upper)) : NULL;
    for (store_iter_first(it); it && store_iter_valid(it) && count < ARRAY_LEN(found); store_iter_next(it)) key_letter(&found[count++], slot, group_id, key_letter_seq(store_iter_key(it)));
    st = it ? store_iter_status(it) : STATUS_OK;
    if (it) store_iter_close(it);
    for (unsigned i = 0; i < count && !st; i++) store_batch_delete(x->a->view.batch, key_slice(&found[i]));
    *rows += count + 1;
    if (!st && count < ARRAY_LEN(found)) store_batch_delete(x->a->view.batch, key_slice(&position));
    return !st && count == ARRAY_LEN(found) ? STATUS_WOULD_BLOCK : st; /* again, for the rest of it */
}

enum status apply_group_sweep(struct applying *x)
{
    uint32_t group_id = x->command->sweep.group_id;
    struct consumer_group_row row;
    struct key k;
    enum status st = load_group(x, group_id, &row);
    if (st == STATUS_ABSENT) return STATUS_OK;
    if (st || !(row.flags & CONSUMER_REMOVING)) return st;
    unsigned rows = 0;
    for (unsigned n = 0; n < SWEEP_SLOTS_MAX && rows < SWEEP_ROWS_MAX && row.sweep_slot < SLOT_COUNT && !st; n++) {
        st = sweep_slot(x, group_id, row.sweep_slot, &rows);
        row.sweep_slot += st == STATUS_OK;
    }
    if (st && st != STATUS_WOULD_BLOCK) return st;
    x->out->group.more = row.sweep_slot < SLOT_COUNT;
    tell(x, GROUP_EFFECT_ROW, group_id, 0, 0);
    if (x->out->group.more) return put_group(x, &row);
    key_group(&k, group_id);
    store_batch_delete(x->a->view.batch, key_slice(&k));
    key_progress(&k, group_id);
    store_batch_delete(x->a->view.batch, key_slice(&k));
    return STATUS_OK;
}

/* ---- an ack that comes with a transition */

static enum status refuse_ack(struct applying *x)
{
    x->out->group.slot = x->command->ack.slot;
    x->out->group.seq = x->command->ack.seq;
    return apply_refuse(x, STATUS_ACK_NOT_IN_FLIGHT);
}

struct acked {
    struct consumer_group_row group;
    struct slot_record slot;
    struct consumer_position before, after;
    bool letter; /* the event is one; else the slot's position has it settled, behind */
};

static enum status ack_load(struct applying *x, struct acked *a)
{
    const struct command_ack *ack = &x->command->ack;
    struct consumer_letter l;
    a->letter = false;
    enum status st = load_live(x, ack->group_id, &a->group);
    if (!st) st = apply_load_slot(x, &a->slot);
    if (!st) st = load_position(x, &a->group, ack->slot, &a->before);
    if (st) return st;
    const struct consumer_told *told = consumer_told_find(&a->before, ack->seq);
    if (told) return consumer_told_settle(&a->before, told, x->a->scratch, &a->after);
    if (event_has_seq(ack->seq) && ack->seq > a->slot.last_seq) return STATUS_ABSENT;
    if (!consumer_position_settled(&a->before, ack->seq)) return consumer_position_settle(&a->before, ack->seq, x->a->scratch, &a->after);
    st = load_letter(x, ack->group_id, ack->slot, ack->seq, &l);
    if (!st && l.state == LETTER_DEAD) st = STATUS_ABSENT;
    a->letter = true;
    return st;
}

enum status apply_ack_decide(struct applying *x)
{
    const struct command_ack *ack = &x->command->ack;
    struct acked a;
    if (!ack->group_id) return STATUS_OK;
    if (!ack->held || ack->slot != x->slot) return refuse_ack(x);
    enum status st = ack_load(x, &a);
    if (st == STATUS_LIMIT_EXCEEDED) return apply_refuse(x, STATUS_OVERLOADED); /* what was settled before it is not written yet */
    return st == STATUS_ABSENT ? refuse_ack(x) : st;
}

enum status apply_ack_settle(struct applying *x)
{
    const struct command_ack *ack = &x->command->ack;
    struct acked a;
    if (!ack->group_id) return STATUS_OK;
    enum status st = ack_load(x, &a);
    if (st) return st;
    tell(x, GROUP_EFFECT_ACK, ack->group_id, ack->slot, ack->seq);
    if (a.letter) return remove_letter(x, &a.group, ack->slot, ack->seq);
    st = letters_yield(x, &a.group, ack->slot, &a.slot, &a.before, &a.after);
    return st ? st : put_position(x, &a.group, ack->slot, &a.after);
}
