#include "engine/command_local.h"

/* Commands of consumer groups (command.h), behind the common head:
 *
 *   group     action(1) name definition
 *   bring     group(4) remove(1) revision(8) definition
 *   settle    group(4) epoch(8) settled_place(8) settled_us(8) count(varint) { slot(2) position }*
 *   letters   group(4) epoch(8) count(varint) { slot(2) seq(8) letter }*
 *   redrive   group(4) action(1) milli(4) count(varint) { slot(2) seq(8) }*
 *   seek      group(4) epoch(8) count(varint) { slot(2) behind(varint) }*     both types
 *   snapshot  group(4) epoch(8) restart(1) [from_slot(2) from_after(8) to_slot(2) to_after(8) told(varint) count(varint) { slot(2) position }*]
 *   seeking   group(4) over(1) epoch(8) [plan]
 *   sweep     group(4)
 *
 * Lists are found here, not yet decoded: whoever applies them walks them once more, item by item. */

bool command_is_group(enum command_type type) { return (type >= COMMAND_GROUP && type <= COMMAND_GROUP_SWEEP) || (type >= COMMAND_GROUP_SNAPSHOT && type <= COMMAND_GROUP_SEEK_YIELD); }

size_t command_group_bytes_max(const struct command *c)
{
    enum { COUNTED = 10, FIXED_MAX = 4 + 4 * 8 + 2 };
    switch (c->type) {
    case COMMAND_GROUP: return FIXED_MAX + 2 * COUNTED + c->group.name.len + c->group.definition.len;
    case COMMAND_GROUP_BRING: return FIXED_MAX + COUNTED + c->bring.definition.len;
    case COMMAND_GROUP_SETTLE: return FIXED_MAX + COUNTED + c->settle.packed.len;
    case COMMAND_GROUP_LETTERS: return FIXED_MAX + COUNTED + c->letters.packed.len;
    case COMMAND_GROUP_REDRIVE: return FIXED_MAX + COUNTED + c->redrive.packed.len;
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SEEK_YIELD: return FIXED_MAX + COUNTED + c->seek.packed.len;
    case COMMAND_GROUP_SEEKING: return FIXED_MAX + COUNTED + c->seeking.plan.len;
    case COMMAND_GROUP_SNAPSHOT: return FIXED_MAX + 2 * COUNTED + c->snapshot.packed.len;
    default: return FIXED_MAX;
    }
}

static void encode_list(struct writer *w, unsigned count, struct slice packed)
{
    write_varint(w, count);
    write_slice(w, packed);
}

static void encode_snapshot(const struct command_group_snapshot *s, struct writer *w)
{
    write_be32(w, s->group_id);
    write_be64(w, s->epoch);
    write_u8(w, s->restart);
    if (s->restart) return;
    write_be16(w, s->from_slot);
    write_be64(w, (uint64_t)s->from_after);
    write_be16(w, s->to_slot);
    write_be64(w, (uint64_t)s->to_after);
    write_varint(w, s->told);
    encode_list(w, s->count, s->packed);
}

void command_group_encode(const struct command *c, struct writer *w)
{
    switch (c->type) {
    case COMMAND_GROUP:
        write_u8(w, (uint8_t)c->group.action);
        write_counted(w, c->group.name);
        write_counted(w, c->group.definition);
        return;
    case COMMAND_GROUP_BRING:
        write_be32(w, c->bring.group_id);
        write_u8(w, c->bring.remove);
        write_be64(w, c->bring.revision);
        write_counted(w, c->bring.definition);
        return;
    case COMMAND_GROUP_SETTLE:
        write_be32(w, c->settle.group_id);
        write_be64(w, c->settle.epoch);
        write_be64(w, c->settle.settled_place);
        write_be64(w, c->settle.settled_us);
        encode_list(w, c->settle.count, c->settle.packed);
        return;
    case COMMAND_GROUP_LETTERS:
        write_be32(w, c->letters.group_id);
        write_be64(w, c->letters.epoch);
        encode_list(w, c->letters.count, c->letters.packed);
        return;
    case COMMAND_GROUP_REDRIVE:
        write_be32(w, c->redrive.group_id);
        write_u8(w, (uint8_t)c->redrive.action);
        write_be32(w, c->redrive.milli);
        encode_list(w, c->redrive.count, c->redrive.packed);
        return;
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SEEK_YIELD:
        write_be32(w, c->seek.group_id);
        write_be64(w, c->seek.epoch);
        encode_list(w, c->seek.count, c->seek.packed);
        return;
    case COMMAND_GROUP_SEEKING:
        write_be32(w, c->seeking.group_id);
        write_u8(w, c->seeking.over);
        write_be64(w, c->seeking.epoch);
        if (!c->seeking.over) write_counted(w, c->seeking.plan);
        return;
    case COMMAND_GROUP_SNAPSHOT: encode_snapshot(&c->snapshot, w); return;
    default: write_be32(w, c->sweep.group_id);
    }
}

/* ---- decoding */

static bool read_flag(struct reader *r)
{
    uint8_t v = read_u8(r);
    if (v > 1) r->bad = true;
    return v == 1;
}

/* Up to `max` items, each read by `item`; what they span. */
static struct slice read_list(struct reader *r, unsigned max, unsigned *count, void (*item)(struct reader *r))
{
    uint64_t n = read_varint(r);
    if (n > max) r->bad = true;
    const uint8_t *begin = r->at;
    for (uint64_t i = 0; i < n && !r->bad; i++) item(r);
    *count = r->bad ? 0 : (unsigned)n;
    return r->bad ? (struct slice){0} : slice_of(begin, (size_t)(r->at - begin));
}

static void read_slot(struct reader *r)
{
    if (read_be16(r) >= SLOT_COUNT) r->bad = true;
}
static void item_position(struct reader *r) { read_slot(r), (void)read_counted(r); }
static void item_ref(struct reader *r)
{
    read_slot(r);
    if ((int64_t)read_be64(r) < 1) r->bad = true;
}
static void item_letter(struct reader *r) { item_ref(r), (void)read_counted(r); }
static void item_behind(struct reader *r)
{
    read_slot(r);
    if ((int64_t)read_varint(r) < 0) r->bad = true;
}

static void decode_snapshot(struct reader *r, struct command_group_snapshot *s)
{
    s->group_id = read_be32(r);
    s->epoch = read_be64(r);
    s->restart = read_flag(r);
    if (s->restart) return;
    s->from_slot = read_be16(r);
    s->from_after = (int64_t)read_be64(r);
    s->to_slot = read_be16(r);
    s->to_after = (int64_t)read_be64(r);
    s->told = read_varint(r);
    s->packed = read_list(r, SLOT_COUNT, &s->count, item_position);
    bool forward = s->to_slot > s->from_slot || (s->to_slot == s->from_slot && s->to_after > s->from_after);
    if (s->to_slot > SLOT_COUNT || s->from_after < 0 || s->to_after < 0 || !forward) r->bad = true;
}

void command_group_decode(struct reader *r, struct command *c)
{
    switch (c->type) {
    case COMMAND_GROUP:
        c->group.action = (enum group_action)read_u8(r);
        c->group.name = read_counted(r);
        c->group.definition = read_counted(r);
        if (c->group.action < GROUP_CREATE || c->group.action > GROUP_DELETE) r->bad = true;
        return;
    case COMMAND_GROUP_BRING:
        c->bring.group_id = read_be32(r);
        c->bring.remove = read_flag(r);
        c->bring.revision = read_be64(r);
        c->bring.definition = read_counted(r);
        return;
    case COMMAND_GROUP_SETTLE:
        c->settle.group_id = read_be32(r);
        c->settle.epoch = read_be64(r);
        c->settle.settled_place = read_be64(r);
        c->settle.settled_us = read_be64(r);
        c->settle.packed = read_list(r, SLOT_COUNT, &c->settle.count, item_position);
        return;
    case COMMAND_GROUP_LETTERS:
        c->letters.group_id = read_be32(r);
        c->letters.epoch = read_be64(r);
        c->letters.packed = read_list(r, GROUP_REFS_MAX, &c->letters.count, item_letter);
        return;
    case COMMAND_GROUP_REDRIVE:
        c->redrive.group_id = read_be32(r);
        c->redrive.action = (enum letters_action)read_u8(r);
        if (c->redrive.action < LETTERS_REDRIVE || c->redrive.action > LETTERS_ACKED) r->bad = true;
        c->redrive.milli = read_be32(r);
        c->redrive.packed = read_list(r, GROUP_REFS_MAX, &c->redrive.count, item_ref);
        return;
    case COMMAND_GROUP_SEEK:
    case COMMAND_GROUP_SEEK_YIELD:
        c->seek.group_id = read_be32(r);
        c->seek.epoch = read_be64(r);
        c->seek.packed = read_list(r, SLOT_COUNT, &c->seek.count, item_behind);
        return;
    case COMMAND_GROUP_SEEKING:
        c->seeking.group_id = read_be32(r);
        c->seeking.over = read_flag(r);
        c->seeking.epoch = read_be64(r);
        if (!c->seeking.over) c->seeking.plan = read_counted(r);
        return;
    case COMMAND_GROUP_SNAPSHOT: decode_snapshot(r, &c->snapshot); return;
    default: c->sweep.group_id = read_be32(r);
    }
}
