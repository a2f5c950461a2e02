#include "engine/consumer_seek.h"

#include "engine/command.h"

enum { SEEK_FORMAT = 1, VARINT_BYTES_MAX = 10 };

struct slice consumer_seek_plan_encode(const struct consumer_seek *s, struct arena *arena)
{
    size_t cap = 1 + 2 * VARINT_BYTES_MAX + s->epochs.len + s->packed.len;
    uint8_t *bytes = arena_alloc(arena, cap);
    if (!bytes) return (struct slice){0};
    struct writer w = writer_of(bytes, cap);
    write_u8(&w, s->snapshot);
    write_varint(&w, s->partition_count);
    write_slice(&w, s->epochs);
    write_varint(&w, s->count);
    write_slice(&w, s->packed);
    check(!w.full);
    return writer_slice(&w);
}

static void read_plan(struct reader *r, struct consumer_seek *out)
{
    int32_t before = -1;
    uint8_t snapshot = read_u8(r);
    uint64_t partitions = read_varint(r);
    if (snapshot > 1 || partitions < 1 || partitions > SLOT_COUNT) r->bad = true;
    const uint8_t *begin = r->at;
    for (uint64_t i = 0; i < partitions && !r->bad; i++) (void)read_varint(r);
    out->epochs = slice_of(begin, (size_t)(r->at - begin));
    uint64_t count = read_varint(r);
    if (count > (snapshot ? 0 : SLOT_COUNT)) r->bad = true;
    begin = r->at;
    for (uint64_t i = 0; i < count && !r->bad; i++) {
        int32_t slot = read_be16(r);
        if (slot >= SLOT_COUNT || slot <= before || (int64_t)read_varint(r) < 0) r->bad = true;
        before = slot;
    }
    out->packed = slice_of(begin, (size_t)(r->at - begin));
    out->snapshot = snapshot;
    out->partition_count = (uint32_t)partitions;
    out->count = (unsigned)count;
}

enum status consumer_seek_plan_decode(struct slice plan, struct consumer_seek *out)
{
    struct reader r = reader_of(plan);
    *out = (struct consumer_seek){0};
    read_plan(&r, out);
    return r.bad || reader_left(&r) ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

void consumer_seek_row_encode(uint64_t id, uint64_t begun_us, struct slice plan, struct writer *w)
{
    write_u8(w, SEEK_FORMAT);
    write_be64(w, id);
    write_be64(w, begun_us);
    write_slice(w, plan);
}

enum status consumer_seek_row_decode(struct slice row, struct consumer_seek *out)
{
    struct reader r = reader_of(row);
    bool good = read_u8(&r) == SEEK_FORMAT;
    *out = (struct consumer_seek){.id = read_be64(&r), .begun_us = read_be64(&r)};
    read_plan(&r, out);
    return !good || r.bad || reader_left(&r) ? STATUS_CHECKSUM_MISMATCH : STATUS_OK;
}

uint64_t consumer_seek_epoch(const struct consumer_seek *s, uint32_t partition)
{
    check(partition < s->partition_count);
    struct reader r = reader_of(s->epochs);
    for (uint32_t i = 0; i < partition; i++) (void)read_varint(&r);
    return read_varint(&r);
}

/* Of these slots. */
static struct slice slots_of(const struct consumer_seek *s, uint16_t first, uint16_t last, unsigned *count)
{
    struct reader r = reader_of(s->packed);
    const uint8_t *begin = r.at, *end = r.at;
    *count = 0;
    for (unsigned i = 0; i < s->count; i++) {
        const uint8_t *at = r.at;
        uint16_t slot = read_be16(&r);
        (void)read_varint(&r);
        if (slot < first || slot > last) continue;
        if (!*count) begin = at;
        end = r.at;
        ++*count;
    }
    check(!r.bad);
    return slice_of(begin, *count ? (size_t)(end - begin) : 0);
}

struct slice consumer_seek_command(const struct consumer_seek *s, uint32_t group_id, uint32_t partition, struct arena *arena)
{
    uint64_t epoch = consumer_seek_epoch(s, partition);
    struct command c = {.type = COMMAND_GROUP_SNAPSHOT, .snapshot = {.group_id = group_id, .epoch = epoch, .restart = true}};
    if (!s->snapshot) {
        c = (struct command){.type = COMMAND_GROUP_SEEK_YIELD, .seek = {.group_id = group_id, .epoch = epoch}};
        c.seek.packed = slots_of(s, partition_first_slot(partition, s->partition_count), partition_last_slot(partition, s->partition_count), &c.seek.count);
    }
    return command_encode(&c, arena);
}
